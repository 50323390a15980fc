package pfsim

import (
	"bytes"
	"crypto/md5"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"

	"example.org/threatstopd/pfioctl"
	"example.org/threatstopd/pfioctl/internal/abi"
)

// A Rule is a line of pf.conf, as far as this package understands it. The zero
// value is "pass all".
type Rule struct {
	Action pfioctl.Action
	Quick  bool
	Dir    pfioctl.Direction

	Iface    string // interface or group of interfaces; empty for any
	IfaceNot bool   // any but Iface

	AF       uint8 // abi.AFInet, AFInet6, or 0 for both
	Proto    uint8 // 0 for any
	From, To Peer

	Log   bool
	LogIf int // to pflogN
	Label string

	// Limiters of states, from 7.9 on. They are loaded with the rule, and are
	// taken to have room in a verdict.
	StateLimiter, SourceLimiter pfioctl.Limiter

	// Anchor makes the rule a call of an anchor, as in `anchor "path"`: of
	// one below the ruleset that the rule stands in, or with a leading slash
	// below the main one; "path/*" calls all anchors in path. Quick, Dir,
	// Iface and what follows say which packets enter it.
	Anchor string
}

// A Peer is one side of a rule. The zero value is "any".
type Peer struct {
	Table  string       // a table, without the angle brackets
	Prefix netip.Prefix // where Table is empty
	Not    bool         // everything that Table or Prefix does not match
	Port   pfioctl.Range
}

// A loadedRule is struct pf_rule.
type loadedRule struct {
	Rule
	nr       int
	src, dst *ktable
	anchor   *anchor // that it calls
	wildcard bool
	relative int

	evaluations    uint64
	packets, bytes [2]uint64
}

// beginRules is pf_begin_rules.
func (k *Kernel) beginRules(path string) (ticket uint32, err error) {
	rs := k.findOrCreateRuleset(path)
	if rs == nil {
		return 0, syscall.EINVAL
	}
	k.removeRules(&rs.inactive)
	rs.inactiveVersion++
	rs.open = true
	return rs.inactiveVersion, nil
}

// rollbackRules is pf_rollback_rules.
func (k *Kernel) rollbackRules(path string, ticket uint32) {
	rs := k.findRuleset(path)
	if rs == nil || !rs.open || ticket != rs.inactiveVersion {
		return
	}
	k.removeRules(&rs.inactive)
	rs.open = false
}

// commitRules is pf_commit_rules.
func (k *Kernel) commitRules(path string, ticket uint32) error {
	rs := k.findRuleset(path)
	if rs == nil || !rs.open || ticket != rs.inactiveVersion {
		return syscall.EBUSY
	}
	if rs.anchor == nil {
		k.status.checksum = checksum(rs.inactive)
	}
	rs.active, rs.inactive = rs.inactive, rs.active
	rs.activeVersion = rs.inactiveVersion
	k.removeRules(&rs.inactive)
	rs.open = false
	k.removeIfEmpty(rs)
	return nil
}

// checksum is over what the rules of the main ruleset say, so that loading the
// same file again does not change it (pf_ioctl.c: pf_calc_chksum). What tables
// and anchors hold is not in it.
func checksum(rules []*loadedRule) (sum [16]byte) {
	h := md5.New()
	for _, r := range rules {
		fmt.Fprintf(h, "%+v\n", r.Rule)
	}
	h.Sum(sum[:0])
	return sum
}

// addRule is DIOCADDRULE, as pfctl sends it while it loads a file.
func (k *Kernel) addRule(rs *ruleset, r *Rule) error {
	l := &loadedRule{Rule: *r, nr: len(rs.inactive)}
	var err error
	attach := func(p *Peer) *ktable {
		if p.Table == "" {
			return nil
		}
		t := k.attachTable(rs, p.Table)
		if t == nil {
			err = syscall.EINVAL
		}
		return t
	}
	l.src, l.dst = attach(&r.From), attach(&r.To)
	if e := k.setupAnchor(l, rs); e != nil {
		err = e
	}
	if err != nil {
		k.removeRule(l)
		return err
	}
	rs.inactive = append(rs.inactive, l)
	return nil
}

// setupAnchor is pf_anchor_setup.
func (k *Kernel) setupAnchor(l *loadedRule, rs *ruleset) error {
	if l.Rule.Anchor == "" {
		return nil
	}
	path, absolute := strings.CutPrefix(l.Rule.Anchor, "/")
	if !absolute {
		above := ""
		if rs.anchor != nil {
			above = rs.anchor.path
		}
		for l.relative = 1; strings.HasPrefix(path, "../"); l.relative++ {
			if above == "" {
				return syscall.EINVAL
			}
			above = above[:max(strings.LastIndexByte(above, '/'), 0)]
			path = path[len("../"):]
		}
		if above != "" {
			path = above + "/" + path
		}
	}
	path, l.wildcard = strings.CutSuffix(path, "/*")
	to := k.findOrCreateRuleset(path)
	if to == nil || to.anchor == nil {
		return syscall.EINVAL
	}
	l.anchor = to.anchor
	l.anchor.calls++
	return nil
}

// call is pf_anchor_copyout: the anchor that a rule calls, as pfctl shows it.
func (l *loadedRule) call(rs *ruleset) string {
	if l.anchor == nil {
		return ""
	}
	call := "/" + l.anchor.path
	if l.relative > 0 {
		above := ""
		if rs.anchor != nil {
			above = rs.anchor.path
		}
		call = ""
		for range l.relative - 1 {
			above = above[:max(strings.LastIndexByte(above, '/'), 0)]
			call += "../"
		}
		call += strings.TrimPrefix(strings.TrimPrefix(l.anchor.path, above), "/")
	}
	if l.wildcard {
		if call != "" {
			call += "/"
		}
		call += "*"
	}
	return call
}

// removeRules empties a queue of rules. A table that a rule lets go of may end
// with it, and an anchor that it called.
func (k *Kernel) removeRules(rules *[]*loadedRule) {
	for len(*rules) > 0 {
		l := (*rules)[0]
		k.releaseTables(l)
		*rules = (*rules)[1:]
		k.releaseAnchor(l)
	}
	*rules = nil
}

func (k *Kernel) removeRule(l *loadedRule) {
	k.releaseTables(l)
	k.releaseAnchor(l)
}

func (k *Kernel) releaseTables(l *loadedRule) {
	for _, t := range []**ktable{&l.src, &l.dst} {
		if *t != nil {
			k.detachTable(*t)
			*t = nil
		}
	}
}

func (k *Kernel) releaseAnchor(l *loadedRule) {
	if a := l.anchor; a != nil {
		l.anchor = nil
		if a.calls--; a.calls == 0 {
			k.removeIfEmpty(&a.rs)
		}
	}
}

// ruleReads is the transactions that DIOCGETRULES opens on a device, from 7.4
// on, each of which hands out the rules of one ruleset in turn.
type ruleReads struct {
	ticket uint32
	open   map[uint32]*ruleRead
}

type ruleRead struct {
	d       *Device
	rs      *ruleset
	version uint32
	rules   []*loadedRule // still to be handed out
}

// maxReads is how many of them one device may have open.
const maxReads = 64 * 8

// closed ends the transactions of a device.
func (r *ruleReads) closed(d *Device) {
	for ticket, t := range r.open {
		if t.d == d {
			delete(r.open, ticket)
		}
	}
}

func (r *ruleReads) find(d *Device, ticket uint32) *ruleRead {
	if t := r.open[ticket]; t != nil && t.d == d {
		return t
	}
	return nil
}

// OpenTransactions returns how many transactions that read rules are open, on all
// devices.
func (k *Kernel) OpenTransactions() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.trans.open)
}

// getClearCounters is the action of a DIOCGETRULE that also clears the rule's
// counters (PF_GET_CLR_CNTR).
const getClearCounters = 1

// clearsRule reports whether a DIOCGETRULE writes.
func clearsRule(io []byte) bool {
	return structOf[abi.PfiocRuleHead](io).Action == getClearCounters
}

// rulesetOf finds the ruleset that a struct pfioc_rule or pfioc_ruleset names.
func (k *Kernel) rulesetOf(path *[abi.AnchorPathSize]byte) (*ruleset, error) {
	if k.num >= 80 && bytes.IndexByte(path[:], 0) < 0 {
		return nil, syscall.ENAMETOOLONG
	}
	path[len(path)-1] = 0
	rs := k.findRuleset(cString(path[:]))
	if rs == nil {
		return nil, syscall.EINVAL
	}
	return rs, nil
}

// getRules is DIOCGETRULES.
func (k *Kernel) getRules(d *Device, io []byte) error {
	head := structOf[abi.PfiocRuleHead](io)
	rs, err := k.rulesetOf(&head.Anchor)
	if err != nil {
		return err
	}
	head.Nr = uint32(len(rs.active))
	if k.num < 74 {
		head.Ticket = rs.activeVersion
		return nil
	}
	n := 0
	for _, t := range k.trans.open {
		if t.d == d {
			n++
		}
	}
	if n >= maxReads {
		return syscall.EBUSY
	}
	if k.trans.open == nil {
		k.trans.open = map[uint32]*ruleRead{}
	}
	k.trans.ticket++
	head.Ticket = k.trans.ticket
	k.trans.open[head.Ticket] = &ruleRead{d: d, rs: rs, version: rs.activeVersion, rules: slices.Clone(rs.active)}
	return nil
}

// getRule is DIOCGETRULE: the rule that is asked for or, from 7.4 on, the next
// one.
func (k *Kernel) getRule(d *Device, io []byte) error {
	head := structOf[abi.PfiocRuleHead](io)
	var rs *ruleset
	var l *loadedRule
	if k.num < 74 {
		var err error
		if rs, err = k.rulesetOf(&head.Anchor); err != nil {
			return err
		}
		if head.Ticket != rs.activeVersion || uint64(head.Nr) >= uint64(len(rs.active)) {
			return syscall.EBUSY
		}
		l = rs.active[head.Nr]
	} else {
		t := k.trans.find(d, head.Ticket)
		if t == nil {
			return syscall.ENXIO
		}
		rs = t.rs
		if t.version != rs.activeVersion {
			return syscall.EBUSY
		}
		if len(t.rules) == 0 {
			return syscall.ENOENT
		}
		l, t.rules = t.rules[0], t.rules[1:]
	}
	r := l.encode(rs)
	putString(head.AnchorCall[:], r.Call)
	head.Nr = uint32(r.Nr)
	EncodeRule(k.layout, io[k.layout.Rule.Rule:], &r)
	if head.Action == getClearCounters {
		l.evaluations, l.packets, l.bytes = 0, [2]uint64{}, [2]uint64{}
	}
	return nil
}

// xend is DIOCXEND.
func (k *Kernel) xend(d *Device, io []byte) error {
	ticket := *structOf[uint32](io)
	if k.trans.find(d, ticket) == nil {
		return syscall.ENXIO
	}
	delete(k.trans.open, ticket)
	return nil
}

// encode is the rule as the kernel's struct has it.
func (l *loadedRule) encode(rs *ruleset) pfioctl.Rule {
	r := pfioctl.Rule{
		Nr: l.nr, Action: l.Action, Dir: l.Dir, Quick: l.Quick, LogIf: l.LogIf,
		Iface: l.Iface, IfaceNot: l.IfaceNot, RDomain: -1, AF: l.AF, Proto: l.Proto,
		Src: l.From.encode(l.src), Dst: l.To.encode(l.dst),
		ICMPType: -1, ICMPCode: -1, Prio: -1, Label: l.Label, StateLimiter: l.StateLimiter, SourceLimiter: l.SourceLimiter, Call: l.call(rs),
		Evaluations: l.evaluations, Packets: l.packets, Bytes: l.bytes,
	}
	if rs.anchor != nil {
		r.Anchor = rs.anchor.path
	}
	if l.Log {
		r.Log = pfioctl.LogFirst
	}
	if l.Action == pfioctl.ActionPass && l.anchor == nil {
		// What pfctl adds to a rule that does not say otherwise.
		r.KeepState = true
		if l.Proto == 0 || l.Proto == protoTCP {
			const syn, ack = 0x02, 0x10
			r.TCPFlags, r.TCPFlagSet = syn, syn|ack
		}
	}
	return r
}

func (p *Peer) encode(t *ktable) pfioctl.RuleAddr {
	a := pfioctl.RuleAddr{Not: p.Not, Port: p.Port}
	switch {
	case t != nil:
		a.Type, a.Name, a.Count = pfioctl.AddrTable, p.Table, -1
		if t = t.active(); t != nil {
			a.Count = t.cnt()
		}
	case p.Prefix.IsValid():
		m := p.Prefix.Masked()
		a.Addr = m.Addr()
		ones := bytes.Repeat([]byte{0xff}, a.Addr.BitLen()/8)
		all, _ := netip.AddrFromSlice(ones)
		a.Mask = netip.PrefixFrom(all, m.Bits()).Masked().Addr()
	}
	return a
}

// childrenOf returns the anchors right below a ruleset, in the kernel's order.
func (k *Kernel) childrenOf(rs *ruleset) []*anchor {
	var list []*anchor
	for _, a := range k.anchors {
		if a.parent == rs.anchor {
			list = append(list, a)
		}
	}
	slices.SortFunc(list, func(a, b *anchor) int { return strings.Compare(a.path, b.path) })
	return list
}

// getRulesets is DIOCGETRULESETS: how many anchors are below a path.
func (k *Kernel) getRulesets(io *abi.PfiocRuleset) error {
	rs, err := k.rulesetOf(&io.Path)
	if err != nil {
		return err
	}
	io.Nr = uint32(len(k.childrenOf(rs)))
	return nil
}

// getRuleset is DIOCGETRULESET: the name of one of them.
func (k *Kernel) getRuleset(io *abi.PfiocRuleset) error {
	rs, err := k.rulesetOf(&io.Path)
	if err != nil {
		return err
	}
	list := k.childrenOf(rs)
	if uint64(io.Nr) >= uint64(len(list)) {
		return syscall.EBUSY
	}
	clear(io.Name[:])
	copy(io.Name[:], list[io.Nr].name)
	return nil
}
