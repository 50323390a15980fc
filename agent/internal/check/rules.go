package check

import (
	"fmt"
	"slices"
	"strings"

	"example.org/threatstopd/pfioctl"
)

// A Level says how a check came out.
type Level uint8

const (
	OK   Level = iota
	Note       // as it is, and worth knowing
	Skip       // could not be looked at
	Warn       // works, but not in every case
	Fail       // does not work
)

// String returns the word that a line of the test begins with.
func (l Level) String() string {
	return [...]string{"ok", "note", "skip", "warn", "FAIL"}[l]
}

// A Finding is one thing that a check has to say.
type Finding struct {
	Level Level
	Text  string   // what is so, one line
	Do    []string // what to do about it, line by line; nil for nothing
}

// An Interface is one of the machine.
type Interface struct {
	Name     string
	Groups   []string // such as egress; that of its driver need not be named
	Loopback bool
	Up       bool
}

// is pf_if.c: pfi_kif_match.
func (i *Interface) is(name string) bool {
	return name == i.Name || name == "any" && !i.Loopback || slices.Contains(i.Groups, name) || name == driver(i.Name)
}

// driver is the group that every interface is in: that of its driver.
func driver(name string) string { return strings.TrimRight(name, "0123456789") }

// isGroup reports whether a name in a rule is one of a group: those do not end
// in a digit (ifconfig(8)).
func isGroup(name string) bool { return driver(name) == name }

func isLoopback(name string) bool { return driver(name) == "lo" }

// RulesOptions are what rules are judged by.
type RulesOptions struct {
	// Block is the table of what the policy blocks, Allow that of what its
	// allow lists hold.
	Block, Allow pfioctl.Table
	// AllowCarved says that nothing that Allow holds is in Block, as with a
	// policy that has allow lists.
	AllowCarved bool
	// Tables are all tables of all anchors. From them it is told whether a rule
	// in an anchor means a table of its own. Without them it is taken to mean
	// the main ruleset's.
	Tables []pfioctl.TableStats
	// Interfaces are those of the machine; nil if they are not known. Then it is
	// those that the rules mention, and others.
	Interfaces []Interface
	// Skipped are the interfaces, and groups of them, that pf leaves alone
	// (PF.SkippedInterfaces).
	Skipped []string
	// PflogIf is the number of the pflog interface that hits are read from, and
	// Report whether they are reported at all: if not, rules need not log.
	PflogIf int
	Report  bool
}

func (o *RulesOptions) skips(i Interface) bool {
	return slices.ContainsFunc(o.Skipped, func(name string) bool { return name != "any" && i.is(name) })
}

// tableOf returns the table that a rule means (pf_table.c: pfr_attach_table,
// pfr_match_addr): the one of its own anchor if that is active, else the main
// ruleset's.
func (o *RulesOptions) tableOf(r *pfioctl.Rule, a *pfioctl.RuleAddr) (t pfioctl.Table, active bool) {
	own, root := pfioctl.Table{Anchor: r.Anchor, Name: a.Name}, pfioctl.Table{Name: a.Name}
	for _, want := range []pfioctl.Table{own, root} {
		for i := range o.Tables {
			if st := &o.Tables[i]; st.Table == want && st.Active() {
				return want, true
			}
		}
	}
	return root, o.Tables == nil && a.Count >= 0
}

// Lines are the rules that enforce a policy, as an owner adds them to pf.conf.
func Lines(table string, pflogIf int) []string {
	log := "log"
	if pflogIf != 0 {
		log = fmt.Sprintf("log (to pflog%d)", pflogIf)
	}
	return []string{
		fmt.Sprintf("block drop in %s quick from <%s>", log, table),
		fmt.Sprintf("block drop out %s quick to <%s>", log, table),
	}
}

// Rules judges loaded rules: whether they block, and log, all packets that come
// in from an address in the block table or go out to one, whatever the
// interface, family, protocol and port. That is enough for every connection with
// such an address, and nothing less is; see [flow]. At least one finding comes
// back.
func Rules(rs *pfioctl.Ruleset, o RulesOptions) []Finding {
	j := &judge{rs: rs, o: &o}
	j.uses()
	if j.used {
		for i, f := range []flow{{pfioctl.DirIn, true}, {pfioctl.DirOut, false}} {
			j.flow(i, f)
		}
	}
	j.skipped()
	j.allows()
	return j.findings
}

type judge struct {
	rs       *pfioctl.Ruleset
	o        *RulesOptions
	used     bool          // a rule that is reached names the block table
	first    *pfioctl.Rule // the first such block rule
	match    *pfioctl.Rule // the first such match rule
	findings []Finding
}

func (j *judge) say(l Level, do []string, format string, args ...any) {
	j.findings = append(j.findings, Finding{Level: l, Text: fmt.Sprintf(format, args...), Do: do})
}

// uses looks for rules that name the block table.
func (j *judge) uses() {
	hidden := make(map[string]bool)
	negated := false
	eachRule(j.rs, func(r *pfioctl.Rule) {
		for _, a := range []*pfioctl.RuleAddr{&r.Src, &r.Dst} {
			if a.Type != pfioctl.AddrTable || a.Name != j.o.Block.Name {
				continue
			}
			t, active := j.o.tableOf(r, a)
			switch {
			case t != j.o.Block:
				hidden[r.Anchor] = true
			case !active:
			default:
				j.used = true
				if r.Action == pfioctl.ActionBlock && a.Not {
					negated = true
					j.say(Warn, []string{"take the ! out of it"}, "rule %s blocks what is not in table <%s>", named(r), j.o.Block.Name)
				} else if r.Action == pfioctl.ActionBlock && j.first == nil {
					j.first = r
				} else if r.Action == pfioctl.ActionMatch && j.match == nil {
					j.match = r
				}
			}
		}
	})
	for _, anchor := range sortedKeys(hidden) {
		j.say(Fail, []string{
			"remove the table line from what is loaded into the anchor, and the table:",
			fmt.Sprintf("pfctl -a %s -t %s -T kill", anchor, j.o.Block.Name),
		}, "anchor %s has a table <%s> of its own, which hides the one of the policy from its rules", anchor, j.o.Block.Name)
	}
	if j.used || len(hidden) > 0 && negated {
		return
	}
	if !slices.ContainsFunc(j.o.Tables, func(t pfioctl.TableStats) bool { return t.Table == j.o.Block && t.Active() }) && j.o.Tables != nil {
		j.say(Fail, j.lines(true, true, nil), "no rule blocks what is in table <%s>, and the table is not there", j.o.Block.Name)
		return
	}
	if anchors := j.uncalled(hidden); len(anchors) > 0 {
		do := []string{"add to pf.conf, above every quick rule:"}
		for _, a := range anchors {
			do = append(do, fmt.Sprintf("anchor %q", a))
		}
		j.say(Fail, do, "rules for table <%s> are in anchor %s, which no rule calls", j.o.Block.Name, strings.Join(anchors, ", "))
		return
	}
	if len(hidden) == 0 {
		j.say(Fail, j.lines(true, true, nil), "no rule blocks what is in table <%s>", j.o.Block.Name)
	}
}

// uncalled returns the anchors that have rules on the block table and are not
// reached: what a rule names is listed, active or not, in the rule's anchor.
func (j *judge) uncalled(hidden map[string]bool) []string {
	reached := map[string]bool{"": true}
	var walk func(rs *pfioctl.Ruleset)
	walk = func(rs *pfioctl.Ruleset) {
		for i := range rs.Rules {
			for _, c := range rs.Rules[i].Called {
				if !reached[c.Anchor] {
					reached[c.Anchor] = true
					walk(c)
				}
			}
		}
	}
	walk(j.rs)
	var names []string
	for _, t := range j.o.Tables {
		if t.Name == j.o.Block.Name && t.Flags&pfioctl.TableReferenced != 0 && !reached[t.Anchor] && !hidden[t.Anchor] {
			names = append(names, t.Anchor)
		}
	}
	return names
}

// lines is the advice to add rules.
func (j *judge) lines(in, out bool, above *pfioctl.Rule) []string {
	lines := Lines(j.o.Block.Name, j.o.PflogIf)
	if !out {
		lines = lines[:1]
	} else if !in {
		lines = lines[1:]
	}
	where := "add to pf.conf, above the first rule with quick:"
	if above != nil && above.Quick && above.Anchor == "" {
		where = fmt.Sprintf("add to pf.conf, above `%s`:", above)
	}
	return append([]string{where}, lines...)
}

// flow judges one of the two flows that have to be blocked: 0 in, 1 out.
func (j *judge) flow(index int, f flow) {
	s := newSpace(j.rs, j.o, f)
	if len(s.ifaces) == 0 {
		return // skipped, all of them: that is told
	}
	w := s.evaluate(j.rs)
	out := s.sort(w, j.o.Report, j.o.PflogIf)
	name := f.String(j.o.Block.Name)
	if w.cut {
		j.say(Skip, nil, "packets that %s: the rules tell apart too many kinds of packets to look at all", name)
	}
	covered := s.covered(out)
	worst := OK
	for _, p := range out.passes {
		p.level = s.level(p, covered)
		worst = max(worst, p.level)
	}
	behind := ""
	if worst == Fail {
		if behind = j.otherSide(f); behind != "" {
			worst = Warn
		}
	}
	j.tellPasses(s, name, out, index, behind)
	worst = max(worst, j.tellMute(s, name, out.mute, covered, index))
	if worst > Note || w.cut {
		return
	}
	text := "blocked"
	if j.o.Report {
		text = "blocked and logged"
	}
	j.say(OK, nil, "packets that %s are %s: %s", name, text, strings.Join(few(out.by), ", "))
}

// few leaves out what is too much to read.
func few(list []string) []string {
	const most = 4
	if len(list) > most {
		return append(list[:most:most], fmt.Sprintf("and %d more", len(list)-most))
	}
	return list
}

// A part is packets that one rule decides on.
type part struct {
	rule  *pfioctl.Rule
	over  *pfioctl.Rule
	box   box // the smallest that has them all
	level Level
}

func (p *part) join(b box) {
	if p.box == nil {
		p.box = b
		return
	}
	out := make(box, len(b))
	for i := range b {
		out[i] = p.box[i].or(b[i])
	}
	p.box = out
}

// An outcome is what becomes of the packets of a flow, by the rule that decides.
type outcome struct {
	passes  []*part
	mute    []*part  // blocked, and not logged where hits are read
	blocked part     // all that is blocked, but for packets that hardly come
	by      []string // the rules that block as they should
	rules   []*pfioctl.Rule
}

func (s *space) sort(w *walk, report bool, pflogIf int) *outcome {
	o := &outcome{}
	find := func(list *[]*part, r, over *pfioctl.Rule) *part {
		for _, p := range *list {
			if p.rule == r {
				return p
			}
		}
		p := &part{rule: r, over: over}
		*list = append(*list, p)
		return p
	}
	for i := range w.leaves {
		l := &w.leaves[i]
		if !l.fate.blocks() {
			find(&o.passes, l.fate.rule, l.fate.over).join(l.box)
			continue
		}
		if l.box[axProto].meets(s.common) {
			o.blocked.join(l.box)
		}
		if report && l.fate.logs&logBit(pflogIf) == 0 {
			find(&o.mute, l.fate.rule, nil).join(l.box)
		} else if name := named(l.fate.rule); !slices.Contains(o.by, name) {
			o.by = append(o.by, name)
			o.rules = append(o.rules, l.fate.rule)
		}
	}
	return o
}

// named is a rule with its number, as `pfctl -vvsr` shows it.
func named(r *pfioctl.Rule) string { return fmt.Sprintf("%s `%s`", ruleName(r), r) }

// String names the packets of a flow.
func (f flow) String(table string) string {
	switch {
	case f.dir == pfioctl.DirIn && f.src:
		return "come in from <" + table + ">"
	case f.dir == pfioctl.DirIn:
		return "come in for <" + table + ">"
	case f.src:
		return "go out from <" + table + ">"
	}
	return "go out to <" + table + ">"
}

// covered returns the interfaces on which nothing passes.
func (s *space) covered(o *outcome) set {
	n := len(s.ifaces)
	if o.blocked.box == nil {
		return newSet(n)
	}
	c := fullSet(n)
	for _, p := range o.passes {
		if !p.rare(s) {
			c = c.minus(p.box[axIface])
		}
	}
	return c
}

// rare reports whether a part has no packets but such as hardly come: those of
// TCP that belong to no connection.
func (p *part) rare(s *space) bool {
	return !p.box[axProto].meets(s.common)
}

// level tells how bad it is that packets pass. Everybody who is listed: Fail.
// Only some, or only where it is known not to be the Internet: Warn.
func (s *space) level(p *part, covered set) Level {
	if ax, ok := s.special(p.box); ok {
		if s.axes[ax].table && p.empty() {
			return Note
		}
		return Warn
	}
	if p.box[axIface].count() == len(s.ifaces) || covered.empty() {
		return Fail
	}
	for i, f := range s.ifaces {
		if p.box[axIface].has(i) && slices.Contains(f.Groups, "egress") && !s.unnamedIfs {
			return Fail
		}
	}
	return Warn
}

// special returns an axis on which no packet of a box is an ordinary one.
func (s *space) special(b box) (int, bool) {
	whole := s.whole()
	for i, a := range s.axes {
		if a.usual != nil && !s.irrelevant(i, b) && !b[i].meets(a.usual.and(whole[i])) {
			return i, true
		}
	}
	return 0, false
}

// empty reports whether nothing is now in a table that the rule asks for.
func (p *part) empty() bool {
	if p.rule == nil {
		return false
	}
	for _, a := range []*pfioctl.RuleAddr{&p.rule.Src, &p.rule.Dst} {
		if a.Type == pfioctl.AddrTable && a.Count <= 0 && !a.Not {
			return true
		}
	}
	return false
}

// irrelevant reports whether an axis says nothing of the packets of a box: an
// address of the family that they are not of.
func (s *space) irrelevant(ax int, b box) bool {
	switch ax {
	case axBad4, axPeer4:
		return !b[axFamily].has(0)
	case axBad6, axPeer6:
		return !b[axFamily].has(1)
	}
	return false
}

// otherSide looks whether packets that pass in a flow are blocked on their other
// side of the firewall, where they go out again or came in before. Then all that
// is forwarded there is blocked, which it says; else it says nothing.
func (j *judge) otherSide(f flow) string {
	s := newSpace(j.rs, j.o, flow{pfioctl.DirIn + pfioctl.DirOut - f.dir, f.src})
	out := s.sort(s.evaluate(j.rs), false, 0)
	c := s.covered(out)
	// Where all is blocked that no rule passes it says nothing of the policy.
	if c.empty() || !slices.ContainsFunc(out.rules, j.names) {
		return ""
	}
	where := "come in"
	if f.src {
		where = "go out again"
	}
	return fmt.Sprintf("; those that are forwarded are blocked where they %s, %s: open is the firewall itself", where, s.axes[axIface].phrase(c))
}

// restricted returns the phrases of the axes on which a box does not have all
// values.
func (s *space) restricted(b box) []string {
	whole := s.whole()
	var words []string
	for _, i := range s.order() {
		all := whole[i]
		if i == axProto {
			all = all.and(s.common)
		}
		if !all.minus(b[i]).empty() && !s.irrelevant(i, b) {
			words = append(words, s.axes[i].phrase(b[i]))
		}
	}
	const most = 6
	if len(words) > most {
		words = append(words[:most], "…")
	}
	return words
}

// order is that in which the properties of packets are told.
func (s *space) order() []int {
	first := []int{axFamily, axProto, axICMP, axSrcPort, axDstPort, axBad4, axBad6, axPeer4, axPeer6, axIface}
	for i := range s.axes {
		if !slices.Contains(first, i) {
			first = append(first, i)
		}
	}
	return first
}

// tellPasses says what passes, by which rule, and what to do. Many rules that do
// the same are told as one. Where packets are blocked behind they pass less.
func (j *judge) tellPasses(s *space, name string, o *outcome, index int, behind string) {
	const most = 3
	told := make(map[Level]int)
	var rest []string
	passes := slices.DeleteFunc(slices.Clone(o.passes), func(p *part) bool { return p.rare(s) })
	if len(passes) == 0 {
		passes = o.passes
	}
	for _, p := range passes {
		if told[p.level]++; told[p.level] > most {
			rest = append(rest, ruleName(p.rule))
			continue
		}
		do := j.remedy(p, index)
		if ax, special := s.special(p.box); special && ax != axIface {
			do[0] = "if that is not meant, " + do[0]
		}
		if behind != "" {
			p.level = min(p.level, Warn)
		}
		words := s.restricted(p.box)
		var only []string
		if o.blocked.box != nil {
			only = s.restricted(o.blocked.box)
		}
		because := j.because(p) + behind
		switch {
		case len(words) > 0:
			j.say(p.level, do, "packets that %s pass, if %s: %s", name, strings.Join(words, " "), because)
		case o.blocked.box == nil:
			j.say(p.level, do, "packets that %s are not blocked: %s", name, because)
		case len(only) > 0:
			j.say(p.level, do, "packets that %s are blocked only if %s; the others pass: %s", name, strings.Join(only, " "), because)
		default:
			j.say(p.level, do, "packets that %s pass in part: %s", name, because)
		}
	}
	if len(rest) > 0 {
		last := &j.findings[len(j.findings)-1]
		last.Text += "; and so for " + strings.Join(few(rest), ", ")
	}
}

// because names the rule that lets packets through.
func (j *judge) because(p *part) string {
	switch {
	case p.rule == nil && j.first == nil && j.match != nil:
		return fmt.Sprintf("rule %s decides nothing, and pf passes what no other rule matches", named(j.match))
	case p.rule == nil:
		return "no rule matches them, and pf passes what none matches"
	case p.over != nil:
		return fmt.Sprintf("rule %s is not quick, and %s comes after it", named(p.over), named(p.rule))
	case j.first == nil && j.match != nil:
		return fmt.Sprintf("rule %s decides nothing, and %s passes them", named(j.match), named(p.rule))
	case p.rule.Quick && j.first != nil:
		return fmt.Sprintf("rule %s is quick, and comes first", named(p.rule))
	}
	return "rule " + named(p.rule)
}

// remedy says what to do about packets that pass.
func (j *judge) remedy(p *part, index int) []string {
	if p.over != nil && j.names(p.over) {
		q := *p.over
		q.Quick = true
		return []string{"write quick into it: `" + q.String() + "`"}
	}
	return j.lines(index == 0, index == 1, p.rule)
}

// names reports whether a rule names the block table.
func (j *judge) names(r *pfioctl.Rule) bool {
	for _, a := range []*pfioctl.RuleAddr{&r.Src, &r.Dst} {
		if t, _ := j.o.tableOf(r, a); a.Type == pfioctl.AddrTable && t == j.o.Block {
			return true
		}
	}
	return false
}

// tellMute says what is blocked and not logged where hits are read.
func (j *judge) tellMute(s *space, name string, mute []*part, covered set, index int) Level {
	worst := OK
	for _, p := range mute {
		level := s.level(p, covered)
		if ax, ok := s.special(p.box); ok && ax != axIface {
			level = Note // the owner's own rule blocks them
		}
		worst = max(worst, level)
		if words := s.restricted(p.box); len(words) > 0 {
			name += ", if " + strings.Join(words, " ") + ","
		}
		r := *p.rule
		switch {
		case !j.names(p.rule):
			j.say(level, j.lines(index == 0, index == 1, p.rule), "packets that %s are blocked, but not logged: rule %s", name, named(p.rule))
		case r.Log == 0:
			r.Log, r.LogIf = pfioctl.LogFirst, j.o.PflogIf
			j.say(level, []string{"so that hits are reported, write log into it: `" + r.String() + "`"},
				"packets that %s are blocked, but not logged: rule %s", name, named(p.rule))
		default:
			old := r.LogIf
			r.LogIf = j.o.PflogIf
			j.say(level, []string{fmt.Sprintf("set PFLOG_IF=pflog%d in threatstop.conf, or write `%s`", old, r.String())},
				"packets that %s are blocked, but logged to pflog%d, and hits are read from pflog%d: rule %s",
				name, old, j.o.PflogIf, named(p.rule))
		}
	}
	return worst
}

// skipped says which interfaces pf leaves alone.
func (j *judge) skipped() {
	var names []string
	level := Warn
	if j.o.Interfaces != nil {
		rest := 0
		for _, i := range j.o.Interfaces {
			switch {
			case i.Loopback:
			case j.o.skips(i):
				names = append(names, i.Name)
				if slices.Contains(i.Groups, "egress") {
					level = Fail
				}
			default:
				rest++
			}
		}
		if rest == 0 {
			level = Fail
		}
	} else {
		for _, name := range j.o.Skipped {
			if !isLoopback(name) {
				names = append(names, name)
			}
		}
	}
	if len(names) == 0 {
		return
	}
	j.say(level, []string{"take them out of the `set skip` line of pf.conf, unless nothing from outside comes over them"},
		"pf looks at no packet on %s (set skip): nothing is blocked there", strings.Join(names, ", "))
}

// allows explains rules that pass what allow lists have.
func (j *judge) allows() {
	eachRule(j.rs, func(r *pfioctl.Rule) {
		if r.Action != pfioctl.ActionPass || r.Call != "" {
			return
		}
		for _, a := range []*pfioctl.RuleAddr{&r.Src, &r.Dst} {
			if t, _ := j.o.tableOf(r, a); a.Type != pfioctl.AddrTable || a.Not || t != j.o.Allow {
				continue
			}
			what := "every port"
			if r.Proto != 0 || r.Dst.Port.Op != pfioctl.OpNone {
				what = "what it passes"
			}
			text := "whatever other rules say"
			if !r.Quick {
				text = "unless a later rule blocks them"
			}
			j.say(Note, []string{"it can go: allow lists are carved out of the block table already"},
				"rule %s opens %s to the addresses of the allow lists, %s", named(r), what, text)
			return
		}
	})
}

func sortedKeys(m map[string]bool) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
