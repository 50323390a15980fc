package rules

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"example.org/threatstopd/pfioctl"
)

// Level is the result of a check.
type Level uint8

const (
	OK   Level = iota
	Note       // correct, and worth knowing
	Skip       // could not be checked
	Warn       // works, but not in every case
	Fail       // does not work
)

// String returns the word that a line of --test begins with.
func (l Level) String() string { return [...]string{"ok", "note", "skip", "warn", "FAIL"}[l] }

// MarshalText returns the word for a level in JSON.
func (l Level) MarshalText() ([]byte, error) { return []byte(strings.ToLower(l.String())), nil }

// Finding is one statement about the rules.
type Finding struct {
	Level Level    `json:"level"`
	Text  string   `json:"text"`         // what is found, one line
	Do    []string `json:"do,omitempty"` // what to do about it, line by line; nil for nothing
}

// Interface is a network interface of the machine.
type Interface struct {
	Name     string
	Groups   []string // such as egress; the group of its driver need not be named
	Loopback bool
	Up       bool
}

// is reports whether a name in a rule means the interface (pf_if.c: pfi_kif_match).
func (i *Interface) is(name string) bool {
	return name == i.Name || name == "any" && !i.Loopback || slices.Contains(i.Groups, name) || name == driver(i.Name)
}

// driver returns the group of an interface's driver. Names of groups do not end in a digit (ifconfig(8)).
func driver(name string) string { return strings.TrimRight(name, "0123456789") }

// Options say what the rules are judged by.
type Options struct {
	// Block is the table of what the policy blocks, Allow that of what its allow lists hold.
	Block, Allow pfioctl.Table
	// AllowCarved says that nothing in Allow is in Block, as with a policy that has allow lists.
	AllowCarved bool
	// Never holds what the policy never blocks, with any lists: no listed address is inside.
	Never []netip.Prefix
	// Tables are all tables of all anchors. They decide whether a rule in an anchor means a table of that
	// anchor. If nil, rules mean the main ruleset's.
	Tables []pfioctl.TableStats
	// Interfaces are those of the machine, nil if they are not known.
	Interfaces []Interface
	// Skipped are the interfaces and groups whose packets pf ignores (PF.SkippedInterfaces).
	Skipped []string
	// PflogIf is the number of the pflog interface that hits are read from. Report says whether hits are
	// reported: if not, rules need not log.
	PflogIf int
	Report  bool

	guessed bool // Interfaces are not known: they are those that rules name, and others
}

func (o *Options) skips(i Interface) bool {
	return slices.ContainsFunc(o.Skipped, func(name string) bool { return name != "any" && i.is(name) })
}

// tableOf returns the table that a rule means: the one of its own anchor if that is active, else the main
// ruleset's (pf_table.c: pfr_attach_table, pfr_match_addr).
func (o *Options) tableOf(r *pfioctl.Rule, a *pfioctl.RuleAddr) (t pfioctl.Table, active bool) {
	root := pfioctl.Table{Name: a.Name}
	for _, want := range []pfioctl.Table{{Anchor: r.Anchor, Name: a.Name}, root} {
		if o.active(want) {
			return want, true
		}
	}
	return root, o.Tables == nil && a.Count >= 0
}

func (o *Options) active(t pfioctl.Table) bool {
	return slices.ContainsFunc(o.Tables, func(st pfioctl.TableStats) bool { return st.Table == t && st.Active() })
}

// names reports whether a rule names a table. With negated it may name what is not in it.
func (o *Options) names(r *pfioctl.Rule, t pfioctl.Table, negated bool) bool {
	for _, a := range []*pfioctl.RuleAddr{&r.Src, &r.Dst} {
		if of, _ := o.tableOf(r, a); a.Type == pfioctl.AddrTable && of == t && (negated || !a.Not) {
			return true
		}
	}
	return false
}

// Lines returns the rules that enforce a policy, as an owner adds them to pf.conf.
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

// Judge finds out whether loaded rules block, and log, all packets that come in from an address in the block
// table or go out to one, on every interface, of every family, protocol and port. It returns at least one
// finding.
func Judge(rs *pfioctl.Ruleset, o Options) []Finding {
	j := &judge{rs: rs, o: &o, rules: reachable(rs)}
	if o.Interfaces == nil {
		j.guess()
	}
	j.uses()
	if j.used {
		j.flow(flow{pfioctl.DirIn, true})
		j.flow(flow{pfioctl.DirOut, false})
	}
	j.skipped()
	j.allows()
	return j.findings
}

type judge struct {
	rs       *pfioctl.Ruleset
	rules    []*pfioctl.Rule // all that packets can reach
	o        *Options
	used     bool          // a rule that packets reach names the block table
	first    *pfioctl.Rule // the first such block rule
	match    *pfioctl.Rule // the first such match rule
	findings []Finding
}

func (j *judge) say(l Level, do []string, format string, args ...any) {
	j.findings = append(j.findings, Finding{Level: l, Text: fmt.Sprintf(format, args...), Do: do})
}

// guess takes the interfaces and groups that rules name for those of the machine, with one for the others.
func (j *judge) guess() {
	names := slices.Clone(j.o.Skipped)
	for _, r := range j.rules {
		names = append(names, r.Iface, r.Received)
	}
	seen := map[string]bool{"": true, "any": true}
	for _, name := range names {
		i := Interface{Name: name, Groups: []string{driver(name)}, Loopback: driver(name) == "lo"}
		if driver(name) == name {
			i.Name = "those of group " + name
		}
		if !seen[name] {
			j.o.Interfaces = append(j.o.Interfaces, i)
		}
		seen[name] = true
	}
	j.o.Interfaces, j.o.guessed = append(j.o.Interfaces, Interface{Name: "other interfaces"}), true
}

// uses looks for rules that name the block table.
func (j *judge) uses() {
	block := j.o.Block.Name
	hidden := make(map[string]bool) // anchors with a table of their own by that name
	for _, r := range j.rules {
		for _, a := range []*pfioctl.RuleAddr{&r.Src, &r.Dst} {
			t, active := j.o.tableOf(r, a)
			switch {
			case a.Type != pfioctl.AddrTable || a.Name != block:
				continue
			case t != j.o.Block:
				hidden[r.Anchor] = true
				continue
			case !active:
				continue
			}
			j.used = true
			switch {
			case r.Action == pfioctl.ActionBlock && a.Not:
				j.say(Warn, []string{"remove the ! from it"}, "rule %s blocks what is not in table <%s>", named(r), block)
			case r.Action == pfioctl.ActionBlock && j.first == nil:
				j.first = r
			case r.Action == pfioctl.ActionMatch && j.match == nil:
				j.match = r
			}
		}
	}
	for _, anchor := range slices.Sorted(maps.Keys(hidden)) {
		j.say(Fail, []string{
			"remove the table line from what is loaded into the anchor, and the table:",
			fmt.Sprintf("pfctl -a %s -t %s -T kill", anchor, block),
		}, "anchor %s has a table <%s> of its own, which hides the one of the policy from its rules", anchor, block)
	}
	if !j.used {
		j.unused(hidden)
	}
}

// unused explains that no rule which packets reach names the block table.
func (j *judge) unused(hidden map[string]bool) {
	block := j.o.Block.Name
	add := j.add(nil, Lines(block, j.o.PflogIf))
	if j.o.Tables != nil && !j.o.active(j.o.Block) {
		j.say(Fail, add, "no rule blocks what is in table <%s>, and the table does not exist", block)
		return
	}
	reached := map[string]bool{"": true}
	for _, r := range j.rules {
		for _, called := range r.Called {
			reached[called.Anchor] = true
		}
	}
	// A table that rules name is listed in their anchor, active or not.
	var anchors []string
	do := []string{"add to pf.conf, above every quick rule:"}
	for _, t := range j.o.Tables {
		if t.Name == block && t.Flags&pfioctl.TableReferenced != 0 && !reached[t.Anchor] && !hidden[t.Anchor] {
			anchors = append(anchors, t.Anchor)
			do = append(do, fmt.Sprintf("anchor %q", t.Anchor))
		}
	}
	if len(anchors) > 0 {
		j.say(Fail, do, "rules for table <%s> are in anchor %s, which no rule calls", block, strings.Join(anchors, ", "))
	} else if len(hidden) == 0 {
		j.say(Fail, add, "no rule blocks what is in table <%s>", block)
	}
}

// add is the advice to add rules, above the one that passes packets if it can be named.
func (j *judge) add(above *pfioctl.Rule, lines []string) []string {
	where := "add to pf.conf, above the first rule with quick:"
	if above != nil && above.Quick && above.Anchor == "" {
		where = fmt.Sprintf("add to pf.conf, above `%s`:", above)
	}
	return append([]string{where}, lines...)
}

// skipped names the interfaces whose packets pf ignores.
func (j *judge) skipped() {
	var names []string
	level, rest := Warn, 0
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
	if len(names) > 0 {
		j.say(level, []string{"remove them from the `set skip` line of pf.conf, unless nothing from outside comes over them"},
			"pf ignores all packets on %s (set skip): nothing is blocked there", strings.Join(names, ", "))
	}
}

// allows explains, in one note, the rules that pass what is in the allow table.
func (j *judge) allows() {
	var rules []*pfioctl.Rule
	what, when := "what they pass", "unless a later rule blocks them"
	for _, r := range j.rules {
		if r.Action != pfioctl.ActionPass || r.Call != "" || !j.o.names(r, j.o.Allow, false) {
			continue
		}
		rules = append(rules, r)
		if r.Proto == 0 && r.Dst.Port.Op == "" {
			what = "every port"
		}
		if r.Quick {
			when = "even if other rules block them"
		}
	}
	if len(rules) == 0 {
		return
	}
	do := "to allow addresses, set ALLOW_LISTS or NEVER_BLOCK in threatstop.conf"
	if j.o.AllowCarved {
		do = "pf.conf need not do that: no address of an allow list is in the block table"
	}
	j.say(Note, []string{do}, "the addresses in table <%s> have %s open, %s: %s", j.o.Allow.Name, what, when, few(rules, named))
}

// reachable returns every rule that a packet can reach from a ruleset, once.
func reachable(rs *pfioctl.Ruleset) (all []*pfioctl.Rule) {
	seen := make(map[*pfioctl.Ruleset]bool)
	var visit func(*pfioctl.Ruleset)
	visit = func(rs *pfioctl.Ruleset) {
		if seen[rs] {
			return
		}
		seen[rs] = true
		for i := range rs.Rules {
			all = append(all, &rs.Rules[i])
			for _, called := range rs.Rules[i].Called {
				visit(called)
			}
		}
	}
	visit(rs)
	return all
}
