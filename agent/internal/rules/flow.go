package rules

import (
	"fmt"
	"slices"
	"strings"

	"example.org/threatstopd/pfioctl"
)

// A part is the packets of a flow that one rule decides on.
type part struct {
	rule  *pfioctl.Rule // nil: no rule matches them
	over  *pfioctl.Rule // the block rule that it overrules
	box   box
	level Level
}

// An outcome is what becomes of the packets of a flow.
type outcome struct {
	*space
	name    string // the packets in words: "come in from <table>"
	cut     bool   // some packets were not followed
	passes  []*part
	mute    []*part         // blocked, and not logged where hits are read
	blocked box             // around all that is blocked, except TCP packets without a connection
	by      []*pfioctl.Rule // the rules that block, and log, as they should
	covered set             // the interfaces on which nothing passes
}

// outcome walks a flow through the rules.
func (j *judge) outcome(f flow) *outcome {
	s := newSpace(j.rs, j.o, f)
	w := s.evaluate(j.rs)
	o := &outcome{space: s, cut: w.cut, name: "come in"}
	if f.dir == pfioctl.DirOut {
		o.name = "go out"
	}
	o.name += fmt.Sprintf(" %s <%s>", f.word(true), j.o.Block.Name)
	find := func(list *[]*part, l *leaf) {
		i := slices.IndexFunc(*list, func(p *part) bool { return p.rule == l.fate.rule })
		if i < 0 {
			i = len(*list)
			*list = append(*list, &part{rule: l.fate.rule, over: l.fate.over})
		}
		p := (*list)[i]
		p.box = p.box.join(l.box)
	}
	for i := range w.leaves {
		l := &w.leaves[i]
		if !l.fate.blocks() {
			find(&o.passes, l)
			continue
		}
		if !s.rare(l.box) {
			o.blocked = o.blocked.join(l.box)
		}
		if j.o.Report && l.fate.logs&logBit(j.o.PflogIf) == 0 {
			find(&o.mute, l)
		} else if !slices.Contains(o.by, l.fate.rule) {
			o.by = append(o.by, l.fate.rule)
		}
	}
	o.covered = where(len(s.ifaces), func(i int) bool {
		return o.blocked != nil && !slices.ContainsFunc(o.passes, func(p *part) bool { return !s.rare(p.box) && p.box[axIface].has(i) })
	})
	return o
}

// rare reports whether a box has only packets that hardly come: TCP without a connection.
func (s *space) rare(b box) bool { return !b[axProto].meets(s.common) }

// flow judges a flow that has to be blocked.
func (j *judge) flow(f flow) {
	o := j.outcome(f)
	if len(o.ifaces) == 0 {
		return // all are skipped, which is a finding of its own
	}
	if o.cut {
		j.say(Skip, nil, "packets that %s: the rules distinguish too many kinds of packets to check them all", o.name)
	}
	worst := OK
	for _, p := range o.passes {
		p.level = o.level(p)
		worst = max(worst, p.level)
	}
	behind := ""
	if worst == Fail {
		behind = j.otherSide(f)
	}
	j.reportPasses(o, behind)
	if worst = max(worst, j.reportMute(o)); worst > Note || o.cut {
		return
	}
	text := "blocked"
	if j.o.Report {
		text = "blocked and logged"
	}
	var by []string
	for _, r := range o.by {
		by = append(by, named(r))
	}
	j.say(OK, nil, "packets that %s are %s: %s", o.name, text, strings.Join(few(by), ", "))
}

// level returns how bad it is that packets pass. Packets of everybody who is listed: Fail. Only special
// ones, or only where it is known not to be the Internet: Warn.
func (o *outcome) level(p *part) Level {
	if ax, ok := o.special(p.box); ok {
		if o.axes[ax].table && p.asksEmpty() {
			return Note
		}
		return Warn
	}
	if p.box[axIface].count() == len(o.ifaces) || o.covered.empty() {
		return Fail
	}
	for i, f := range o.ifaces {
		if p.box[axIface].has(i) && len(o.o.Interfaces) > 0 && slices.Contains(f.Groups, "egress") {
			return Fail
		}
	}
	return Warn
}

// asksEmpty reports whether the rule asks for what is in a table that is empty now.
func (p *part) asksEmpty() bool {
	return p.rule != nil && slices.ContainsFunc([]pfioctl.RuleAddr{p.rule.Src, p.rule.Dst}, func(a pfioctl.RuleAddr) bool {
		return a.Type == pfioctl.AddrTable && a.Count <= 0 && !a.Not
	})
}

// otherSide returns text if packets that pass in a flow are blocked by the policy on their other side of the
// firewall, where they leave again or came in: then everything forwarded is blocked. Else it returns "".
func (j *judge) otherSide(f flow) string {
	o := j.outcome(flow{pfioctl.DirIn + pfioctl.DirOut - f.dir, f.src})
	// Where everything is blocked that no rule passes, that says nothing about the policy.
	blocks := func(r *pfioctl.Rule) bool { return j.o.names(r, j.o.Block, true) }
	by := o.by
	for _, p := range o.mute {
		by = append(by, p.rule)
	}
	if o.covered.empty() || !slices.ContainsFunc(by, blocks) {
		return ""
	}
	where := "come in"
	if f.src {
		where = "go out again"
	}
	return fmt.Sprintf("; forwarded ones are blocked where they %s, %s: only the firewall itself is open", where, o.axes[axIface].phrase(o.covered))
}

// reportPasses names what passes, by which rule, and what to do. Of many rules with the same effect it names
// the first three.
func (j *judge) reportPasses(o *outcome, behind string) {
	passes := slices.DeleteFunc(slices.Clone(o.passes), func(p *part) bool { return o.rare(p.box) })
	if len(passes) == 0 {
		passes = o.passes
	}
	const most = 3
	reported := make(map[Level]int)
	var rest []string
	for _, p := range passes {
		if reported[p.level]++; reported[p.level] > most {
			rest = append(rest, ruleName(p.rule))
			continue
		}
		do := j.remedy(o, p)
		if ax, special := o.special(p.box); special && ax != axIface {
			do[0] = "if that is not intended, " + do[0]
		}
		if behind != "" {
			p.level = min(p.level, Warn)
		}
		j.say(p.level, do, "packets that %s %s: %s%s", o.name, o.which(p), j.because(p), behind)
	}
	if len(rest) > 0 {
		j.findings[len(j.findings)-1].Text += "; the same holds for " + strings.Join(few(rest), ", ")
	}
}

// which describes the packets of a part by what they have in common, or by what the blocked ones have.
func (o *outcome) which(p *part) string {
	if words := o.restricted(p.box); len(words) > 0 {
		return "pass, if " + strings.Join(words, " ")
	}
	if o.blocked == nil {
		return "are not blocked"
	}
	if words := o.restricted(o.blocked); len(words) > 0 {
		return fmt.Sprintf("are blocked only if %s; the others pass", strings.Join(words, " "))
	}
	return "pass in part"
}

// because names the rule that passes a part.
func (j *judge) because(p *part) string {
	decides := j.first != nil || j.match == nil
	switch {
	case p.rule == nil && !decides:
		return fmt.Sprintf("rule %s decides nothing, and pf passes what no other rule matches", named(j.match))
	case p.rule == nil:
		return "no rule matches them, and pf passes what none matches"
	case p.over != nil:
		return fmt.Sprintf("rule %s is not quick, and %s comes after it", named(p.over), named(p.rule))
	case !decides:
		return fmt.Sprintf("rule %s decides nothing, and %s passes them", named(j.match), named(p.rule))
	case p.rule.Quick && j.first != nil:
		return fmt.Sprintf("rule %s is quick, and comes first", named(p.rule))
	}
	return "rule " + named(p.rule)
}

// remedy says what to do about a part that passes, or that is not logged.
func (j *judge) remedy(o *outcome, p *part) []string {
	if p.over != nil && j.o.names(p.over, j.o.Block, true) {
		q := *p.over
		q.Quick = true
		return []string{"add quick to it: `" + q.String() + "`"}
	}
	lines := Lines(j.o.Block.Name, j.o.PflogIf)
	if o.flow.src {
		return j.add(p.rule, lines[:1])
	}
	return j.add(p.rule, lines[1:])
}

// reportMute names what is blocked and not logged where hits are read, and returns the worst level.
func (j *judge) reportMute(o *outcome) Level {
	worst := OK
	for _, p := range o.mute {
		level := o.level(p)
		if ax, ok := o.special(p.box); ok && ax != axIface {
			level = Note // a rule of the owner blocks them
		}
		worst = max(worst, level)
		name := o.name
		if words := o.restricted(p.box); len(words) > 0 {
			name += ", if " + strings.Join(words, " ") + ","
		}
		r := *p.rule // as it should be
		text, do := "not logged", j.remedy(o, p)
		if j.o.names(p.rule, j.o.Block, true) {
			r.LogIf = j.o.PflogIf
			if r.Log == 0 {
				r.Log = pfioctl.LogFirst
				do = []string{"to have hits reported, add log to it: `" + r.String() + "`"}
			} else {
				text = fmt.Sprintf("logged to pflog%d, and hits are read from pflog%d", p.rule.LogIf, r.LogIf)
				do = []string{fmt.Sprintf("set PFLOG_IF=pflog%d in threatstop.conf, or write `%s`", p.rule.LogIf, r.String())}
			}
		}
		j.say(level, do, "packets that %s are blocked, but %s: rule %s", name, text, named(p.rule))
	}
	return worst
}
