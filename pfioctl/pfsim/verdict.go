package pfsim

import (
	"net/netip"
	"slices"
	"strings"

	"example.org/threatstopd/pfioctl"
)

const (
	protoTCP = 6
	protoUDP = 17
)

// A Packet is what pf is asked about: the first one of a connection, since no
// state is looked up for it.
type Packet struct {
	Src, Dst netip.Addr
	Dir      pfioctl.Direction // DirIn or DirOut
	Iface    string            // "em0"; it is also of the group of its driver, "em"
	Groups   []string          // further groups of the interface, such as egress

	Proto            uint8
	SrcPort, DstPort uint16 // of TCP and UDP
	Bytes            int    // length of the whole packet, for the counters
}

// A Verdict is what becomes of a packet.
type Verdict struct {
	Action pfioctl.Action // ActionPass or ActionBlock

	// Rule is the number of the rule that decided, in the ruleset of Anchor,
	// "" for the main one. It is -1 where none did: nothing matched, pf is
	// not running, or the interface is skipped.
	Rule   int
	Anchor string

	// Log reports whether that rule logs, and LogIf to which pflogN.
	Log   bool
	LogIf int

	// Logs are all that is logged of the packet, that of matching "match"
	// rules before the one that decided.
	Logs []LogEntry
}

// A LogEntry is what the header of a packet on pflog says of the rule.
type LogEntry struct {
	If     int // pflogN
	Action pfioctl.Action

	// RuleNr and SubRuleNr are those of the header: the rule, and
	// 4294967295; or in an anchor the rule that called it, and the rule.
	RuleNr, SubRuleNr uint32
	Ruleset           string // name of the anchor, at most 15 bytes; its last component
}

// noRule is a number of no rule in the header of pflog.
const noRule = 1<<32 - 1

// Verdict evaluates the rules on a packet. The counters of rules and tables
// move as they do in the kernel, the per-address ones in tables that have
// COUNTERS.
func (k *Kernel) Verdict(p Packet) Verdict {
	p.Src, p.Dst = p.Src.Unmap(), p.Dst.Unmap()
	k.mu.Lock()
	defer k.mu.Unlock()

	v := Verdict{Action: pfioctl.ActionPass, Rule: -1}
	if !k.status.running || p.onAny(k.skip) || !p.Src.IsValid() || !p.Dst.IsValid() {
		return v
	}
	e := evaluation{k: k, p: &p, src: hostPrefix(p.Src), dst: hostPrefix(p.Dst)}
	e.ruleset(&k.main, nil, 0)
	k.status.counters[0]++ // PFRES_MATCH
	v.Logs = e.logs
	if e.rule == nil {
		return v
	}
	r := e.rule
	v.Action, v.Rule = r.Action, r.nr
	if e.in.anchor != nil {
		v.Anchor = e.in.anchor.path
	}
	if r.Log {
		v.Log, v.LogIf = true, r.LogIf
		v.Logs = append(v.Logs, e.log(r, e.in, e.by))
	}
	e.count(r)
	if e.by != nil {
		e.by.count(&p)
	}
	if r.Action == pfioctl.ActionPass {
		// Counted with the state, which a blocked packet does not make.
		for _, m := range e.matched {
			e.count(m)
		}
	}
	return v
}

// evaluation is struct pf_test_ctx.
type evaluation struct {
	k        *Kernel
	p        *Packet
	src, dst prefix

	rule *loadedRule // the last that matched
	in   *ruleset    // where it stands
	by   *loadedRule // that called it

	matched []*loadedRule
	logs    []LogEntry
}

// maxDepth bounds how deep anchors call each other (PF_ANCHOR_STACK_MAX).
const maxDepth = 64

// ruleset evaluates rules, called by another, until one matches for good
// (pf.c: pf_match_rule). It reports whether evaluation ends there.
//
// Where a rule does not match for a reason that the rules behind it share,
// these are not looked at: that is seen in what tables count.
func (e *evaluation) ruleset(rs *ruleset, by *loadedRule, depth int) (quick bool) {
	rules := rs.active
	for i := 0; i < len(rules); i++ {
		r := rules[i]
		r.evaluations++
		if same := e.mismatch(r); same != nil {
			for i+1 < len(rules) && same(r, rules[i+1]) {
				i++
			}
			continue
		}
		if r.anchor != nil {
			if e.step(r, depth) {
				return true
			}
			continue
		}
		if r.Action == pfioctl.ActionMatch {
			e.matched = append(e.matched, r)
			if r.Log {
				e.logs = append(e.logs, e.log(r, rs, by))
			}
		} else {
			e.rule, e.in, e.by = r, rs, by
		}
		if r.Quick {
			return true
		}
	}
	return false
}

// step evaluates what a rule calls (pf.c: pf_step_into_anchor).
func (e *evaluation) step(r *loadedRule, depth int) (quick bool) {
	if depth >= maxDepth {
		return true
	}
	if r.wildcard {
		for _, child := range e.k.childrenOf(&r.anchor.rs) {
			if e.ruleset(&child.rs, r, depth+1) {
				return true
			}
		}
		return false
	}
	if e.ruleset(&r.anchor.rs, r, depth+1) {
		return true
	}
	return r.Quick && e.by == r
}

// mismatch returns nil when the packet matches the rule, else what another
// rule must have in common with it to be skipped as well (pf_calc_skip_steps).
func (e *evaluation) mismatch(r *loadedRule) func(a, b *loadedRule) bool {
	p := e.p
	switch {
	case r.Iface != "" && p.on(r.Iface) == r.IfaceNot:
		return func(a, b *loadedRule) bool { return a.Iface == b.Iface && a.IfaceNot == b.IfaceNot }
	case r.Dir != pfioctl.DirBoth && r.Dir != p.Dir:
		return func(a, b *loadedRule) bool { return a.Dir == b.Dir }
	case r.AF != 0 && r.AF != e.src.af:
		return func(a, b *loadedRule) bool { return a.AF == b.AF }
	case r.Proto != 0 && r.Proto != p.Proto:
		return func(a, b *loadedRule) bool { return a.Proto == b.Proto }
	case !r.From.matches(r.src, p.Src, e.src):
		return func(a, b *loadedRule) bool { return a.src == b.src && a.From.sameAddr(&b.From) }
	case !r.To.matches(r.dst, p.Dst, e.dst):
		return func(a, b *loadedRule) bool { return a.dst == b.dst && a.To.sameAddr(&b.To) }
	}
	if p.Proto == protoTCP || p.Proto == protoUDP {
		switch {
		case !r.From.Port.Contains(uint32(p.SrcPort)):
			return func(a, b *loadedRule) bool { return a.From.Port == b.From.Port }
		case !r.To.Port.Contains(uint32(p.DstPort)):
			return func(a, b *loadedRule) bool { return a.To.Port == b.To.Port }
		}
	}
	return nil
}

func (p *Peer) sameAddr(q *Peer) bool {
	return p.Table == q.Table && p.Prefix == q.Prefix && p.Not == q.Not
}

// matches reports whether an address is one of the peer's. A table counts that
// it was asked.
func (p *Peer) matches(t *ktable, a netip.Addr, key prefix) bool {
	switch {
	case t != nil:
		return t.matches(key) != p.Not
	case p.Prefix.IsValid():
		return p.Prefix.Contains(a) != p.Not
	}
	return !p.Not
}

// on reports whether the packet is on an interface or one of a group
// (pf_if.c: pfi_kif_match).
func (p *Packet) on(name string) bool {
	return name == p.Iface || name == group(p.Iface) || slices.Contains(p.Groups, name)
}

// group returns the group that every interface is in, that of its driver: "em"
// for em0. A group's name is its own.
func group(iface string) string { return strings.TrimRight(iface, "0123456789") }

func (p *Packet) onAny(names map[string]bool) bool {
	for name := range names {
		if p.on(name) {
			return true
		}
	}
	return false
}

// log is the header of a packet that the rule logs (if_pflog.c: pflog_packet).
func (e *evaluation) log(r *loadedRule, in *ruleset, by *loadedRule) LogEntry {
	l := LogEntry{If: r.LogIf, Action: r.Action, RuleNr: uint32(r.nr), SubRuleNr: noRule}
	if by != nil {
		l.RuleNr, l.SubRuleNr = uint32(by.nr), uint32(r.nr)
		l.Ruleset = in.anchor.name[:min(len(in.anchor.name), 15)]
	}
	return l
}

// count is pf_counters_inc for one rule and its tables.
func (e *evaluation) count(r *loadedRule) {
	r.count(e.p)
	if r.src != nil {
		r.src.count(e.src, e.p, r.Action, r.From.Not)
	}
	if r.dst != nil {
		r.dst.count(e.dst, e.p, r.Action, r.To.Not)
	}
}

func (r *loadedRule) count(p *Packet) {
	dir := p.index()
	r.packets[dir]++
	r.bytes[dir] += uint64(p.Bytes)
}

// index is 0 for a packet that comes in and 1 for one that goes out.
func (p *Packet) index() int {
	if p.Dir == pfioctl.DirOut {
		return 1
	}
	return 0
}

// count is pfr_update_stats.
func (t *ktable) count(key prefix, p *Packet, action pfioctl.Action, notRule bool) {
	if t = t.active(); t == nil {
		return
	}
	const (
		opBlock = 0
		opMatch = 1
		opPass  = 2
		opXPass = 3
	)
	op := opPass
	switch action {
	case pfioctl.ActionBlock:
		op = opBlock
	case pfioctl.ActionMatch:
		op = opMatch
	}
	s, ok := t.longest(key)
	if (!ok || t.entryFlags(s)&entNot != 0) != notRule {
		// The table changed under a state; or a negated entry let a packet
		// be matched by a negated table.
		op = opXPass
	}
	dir := p.index()
	t.packets[dir][op]++
	t.bytes[dir][op] += uint64(p.Bytes)
	if !ok || op == opXPass || t.flags&flagCounters == 0 {
		return
	}
	x := t.extraAt(s)
	if x == nil {
		x = &extra{}
		t.setExtra(s, x)
	}
	if x.counters == nil {
		x.counters = &counters{}
	}
	x.counters.packets[dir][op]++
	x.counters.bytes[dir][op] += uint64(p.Bytes)
}
