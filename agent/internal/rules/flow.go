package rules

import (
	"fmt"
	"slices"
	"strings"

	"example.org/threatstopd/pfioctl"
)

// A part is the packets of a flow that one rule decides on.
type part struct {
	leaf
	level Level
}

// join adds a leaf to the part that its rule decides on.
func join(parts []*part, l leaf) []*part {
	i := slices.IndexFunc(parts, func(p *part) bool { return p.rule == l.rule })
	if i < 0 {
		return append(parts, &part{leaf: l})
	}
	parts[i].box = parts[i].box.join(l.box)
	return parts
}

// An outcome is what becomes of the packets of a flow.
type outcome struct {
	*space
	name    string // the packets in words: "come in from <table>"
	passes  []*part
	mute    []*part         // blocked, and not logged where hits are read
	blocked box             // around all that is blocked, except TCP packets without a connection
	by      []*pfioctl.Rule // the rules that block, and log, as they should
	covered set             // the interfaces on which nothing passes
}

// outcome walks a flow through the rules.
func (j *judge) outcome(f flow) *outcome {
	s := newSpace(j.rules, j.o, f)
	s.evaluate(j.rs)
	way := map[pfioctl.Direction]string{pfioctl.DirIn: "come in", pfioctl.DirOut: "go out"}[f.dir]
	o := &outcome{space: s, name: fmt.Sprintf("%s %s <%s>", way, f.word(true), j.o.Block.Name)}
	for _, l := range s.leaves {
		if !l.blocks() {
			o.passes = join(o.passes, l)
			continue
		}
		if !s.rare(l.box) {
			o.blocked = o.blocked.join(l.box)
		}
		if j.o.Report && l.logs&logBit(j.o.PflogIf) == 0 {
			o.mute = join(o.mute, l)
		} else if !slices.Contains(o.by, l.rule) {
			o.by = append(o.by, l.rule)
		}
	}
	o.covered = where(len(s.ifaces), func(i int) bool {
		return o.blocked != nil && !slices.ContainsFunc(o.passes, func(p *part) bool { return !s.rare(p.box) && p.box[axIface][i] })
	})
	return o
}

// flow judges a flow that has to be blocked.
func (j *judge) flow(f flow) {
	o := j.outcome(f)
	if len(o.ifaces) == 0 {
		return // all are skipped, which is a finding of its own
	}
	if o.cut {
		j.say(Skip, nil, "packets that %s: the rules distinguish too many kinds of packets to check them all", o.name)
	}
	worst, behind := OK, ""
	for _, p := range o.passes {
		p.level = o.level(p)
		worst = max(worst, p.level)
	}
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
	j.say(OK, nil, "packets that %s are %s: %s", o.name, text, few(o.by, named))
}

// level returns how bad it is that packets pass. Packets of everybody who is listed: Fail. Only special
// ones, or only where it is known not to be the Internet: Warn.
func (o *outcome) level(p *part) Level {
	if special := o.special(p.box); special != nil {
		empty := func(a pfioctl.RuleAddr) bool { return a.Type == pfioctl.AddrTable && a.Count <= 0 && !a.Not }
		if special.table && p.rule != nil && (empty(p.rule.Src) || empty(p.rule.Dst)) {
			return Note
		}
		return Warn
	}
	if p.box[axIface].whole() || o.covered.empty() {
		return Fail
	}
	for i, f := range o.ifaces {
		if p.box[axIface][i] && !o.o.guessed && slices.Contains(f.Groups, "egress") {
			return Fail
		}
	}
	return Warn
}

// otherSide returns text if packets that pass in a flow are blocked by the policy on their other side of the
// firewall, where they leave again or came in: then everything forwarded is blocked. Else it returns "".
func (j *judge) otherSide(f flow) string {
	o := j.outcome(flow{pfioctl.DirIn + pfioctl.DirOut - f.dir, f.src})
	by := o.by
	for _, p := range o.mute {
		by = append(by, p.rule)
	}
	// Where everything is blocked that no rule passes, that says nothing about the policy.
	policy := slices.ContainsFunc(by, func(r *pfioctl.Rule) bool { return j.o.names(r, j.o.Block, true) })
	if o.covered.empty() || !policy {
		return ""
	}
	where := "come in"
	if f.src {
		where = "go out again"
	}
	return fmt.Sprintf("; forwarded ones are blocked where they %s, %s: only the firewall itself is open",
		where, o.axes[axIface].phrase(o.covered))
}

// reportPasses names what passes, by which rule, and what to do. Of more than three rules of the same level it
// names the rest only by their numbers.
func (j *judge) reportPasses(o *outcome, behind string) {
	passes := slices.DeleteFunc(slices.Clone(o.passes), func(p *part) bool { return o.rare(p.box) })
	if len(passes) == 0 {
		passes = o.passes
	}
	const most = 3
	var rest [Fail + 1][]*pfioctl.Rule
	var reported, last [Fail + 1]int
	for _, p := range passes {
		if reported[p.level]++; reported[p.level] > most {
			rest[p.level] = append(rest[p.level], p.rule)
			continue
		}
		do, level := j.remedy(o, p), p.level
		if o.special(p.box) != nil {
			do[0] = "if that is not intended, " + do[0]
		}
		if behind != "" {
			level = min(level, Warn)
		}
		last[p.level] = len(j.findings)
		j.say(level, do, "packets that %s %s: %s%s", o.name, o.which(p), j.because(p), behind)
	}
	for level, rules := range rest {
		if len(rules) > 0 {
			j.findings[last[level]].Text += "; the same holds for " + few(rules, ruleName)
		}
	}
}

// which describes the packets of a part by what they have in common, or by what the blocked ones have.
func (o *outcome) which(p *part) string {
	if words := o.restricted(p.box); words != "" {
		return "pass, if " + words
	}
	if o.blocked == nil {
		return "are not blocked"
	}
	if words := o.restricted(o.blocked); words != "" {
		return fmt.Sprintf("are blocked only if %s; the others pass", words)
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

// remedy returns what to do about a part that passes, or that is not logged.
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
		level, name := o.level(p), o.name
		if o.special(p.box) != nil {
			level = Note // a rule of the owner blocks them
		}
		worst = max(worst, level)
		if words := o.restricted(p.box); words != "" {
			name += ", if " + words + ","
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

// few names the first four rules of a list, and the number of the others.
func few(list []*pfioctl.Rule, name func(*pfioctl.Rule) string) string {
	const most = 4
	var names []string
	for _, r := range list[:min(len(list), most)] {
		names = append(names, name(r))
	}
	if len(list) > most {
		names = append(names, fmt.Sprintf("and %d more", len(list)-most))
	}
	return strings.Join(names, ", ")
}

// ruleName is the number of a rule as `pfctl -vvsr` shows it.
func ruleName(r *pfioctl.Rule) string {
	switch {
	case r == nil:
		return "what no rule matches"
	case r.Anchor != "":
		return fmt.Sprintf("@%d in anchor %s", r.Nr, r.Anchor)
	}
	return fmt.Sprintf("@%d", r.Nr)
}

// named is a rule with its number.
func named(r *pfioctl.Rule) string { return fmt.Sprintf("%s `%s`", ruleName(r), r) }
