package rules

import (
	"fmt"
	"strings"

	"example.org/threatstopd/pfioctl"
)

// compile returns the condition of a rule (pf.c: pf_match_rule).
func (s *space) compile(r *pfioctl.Rule) *condition {
	c := &condition{}
	// Fragments are reassembled before they meet rules.
	if r.Expired || r.Fragment || r.Dir != pfioctl.DirBoth && r.Dir != s.flow.dir {
		c.never = true
		return c
	}
	if r.Iface != "" {
		c.on(axIface, s.interfaces(r.Iface, r.IfaceNot, 0))
	}
	if r.Received != "" {
		s.received(c, r)
	}
	if r.AF != 0 {
		c.on(axFamily, only(2, family(r.AF != pfioctl.AFInet)))
	}
	if r.Proto != 0 || r.TCPFlagSet != 0 {
		c.on(axProto, s.protocol(r))
	}
	s.address(c, r, s.listed(r), true)
	s.address(c, r, s.peer(r), false)
	for _, a := range valueAxes {
		if v, ok := a.value(r); ok {
			not := a.ax == axTag && r.TagNot || a.ax == axRDomain && r.IfaceNot && r.Iface == ""
			c.on(a.ax, where(s.axes[a.ax].n, func(i int) bool { return s.classes[a.ax][i].within(v) != not }))
		}
	}
	for _, a := range rangeAxes {
		if v := a.value(r); v.Op != "" {
			c.on(a.ax, s.inRange(a.ax, a.top, v))
		}
	}
	if r.OS != 0 {
		s.question(c, fmt.Sprintf("os %#x", r.OS), "of an operating system that a rule names", "of other operating systems than a rule names", true)
	}
	s.chances(c, r)
	return c
}

// family returns the class of a family on its axis.
func family(v6 bool) int {
	if v6 {
		return 1
	}
	return 0
}

// interfaces returns the set of those of a name or group, or the others, on an axis with more classes behind
// them, which belong to the others.
func (s *space) interfaces(name string, not bool, more int) set {
	return where(len(s.ifaces)+more, func(i int) bool { return (i < len(s.ifaces) && s.ifaces[i].is(name)) != not })
}

// received restricts the interface that a packet came in by, which for an incoming one is the one it is on.
func (s *space) received(c *condition, r *pfioctl.Rule) {
	if s.flow.dir == pfioctl.DirIn {
		c.on(axIface, s.interfaces(r.Received, r.ReceivedNot, 0))
		return
	}
	c.on(axReceived, s.interfaces(r.Received, r.ReceivedNot, 1))
}

// protocol returns the set that a rule restricts protocol and TCP flags to.
func (s *space) protocol(r *pfioctl.Rule) set {
	return where(len(s.protos), func(i int) bool {
		p := s.protos[i]
		return (r.Proto == 0 || !p.other && p.proto == r.Proto) && (p.proto != protoTCP || p.flags&r.TCPFlagSet == r.TCPFlags)
	})
}

// inRange returns the set of the numbers in a range. Packets without a socket match only = and != (pf.c:
// pf_match_uid, pf_match_gid).
func (s *space) inRange(ax int, top uint32, r pfioctl.Range) set {
	line := s.axes[ax].line
	return where(len(line), func(i int) bool {
		first := value(line[i].first)
		if top == noSocket && first == noSocket && r.Op != "=" && r.Op != "!=" {
			return false
		}
		return r.Contains(first)
	})
}

// chances restricts a rule that matches at some times and not at others. Both are usual, but for a limiter:
// that it exists and has room is the usual case. A rule whose limiter does not exist, or is full and says
// no-match, is skipped.
func (s *space) chances(c *condition, r *pfioctl.Rule) {
	for _, x := range []struct {
		is            bool
		key, yes, not string
	}{
		{r.Probability != 0, "probability ", "that probability lets through", "that probability spares"},
		{r.RateLimit != 0, "rate ", "up to a rate", "beyond a rate"},
		{r.StateLimiter.ID != 0 || r.SourceLimiter.ID != 0, "limiter ", "within a limiter", "beyond a limiter, or if it does not exist"},
		{r.Once, "once ", "the first time", "after the first time"},
	} {
		if x.is {
			a := s.question(c, x.key+ruleName(r), x.yes, x.not, true)
			if a.usual = nil; x.key == "limiter " {
				a.usual = only(2, 1)
			}
		}
	}
}

// question restricts an axis with the classes no, which is the usual one, and yes, and returns it.
func (s *space) question(c *condition, key, yes, no string, want bool) *axis {
	ax, ok := s.yes[key]
	if !ok {
		ax = len(s.axes)
		s.yes[key] = ax
		s.axes = append(s.axes, enum("", []string{no, yes}, 0))
		s.axes[ax].phrase = func(x set) string { return map[bool]string{true: yes, false: no}[x.has(1)] }
	}
	c.on(ax, only(2, family(want)))
	return &s.axes[ax]
}

// address restricts one side of a rule (pfvar.h: PF_MISMATCHAW).
func (s *space) address(c *condition, r *pfioctl.Rule, a *pfioctl.RuleAddr, listed bool) {
	switch a.Type {
	case pfioctl.AddrMask, pfioctl.AddrRange:
		if a.Type == pfioctl.AddrMask && !a.Mask.IsValid() {
			return // any, even if negated
		}
		if i, ok := addrInterval(a); !ok {
			s.ask(c, a, listed) // a mask with holes
		} else if a.Type == pfioctl.AddrRange || !i.isWhole() {
			s.interval(c, i, a.Not, listed)
		}
	case pfioctl.AddrTable:
		s.table(c, r, a, listed)
	case pfioctl.AddrDynamic:
		if listed && !strings.Contains(a.Dyn, ":network") {
			// The addresses of this host are never listed.
			c.never = c.never || !a.Not
			return
		}
		s.ask(c, a, listed)
	case pfioctl.AddrNone:
		c.never = true
	default: // what the routing table says
		s.ask(c, a, listed)
	}
}

// who names the two addresses in keys.
var who = map[bool]string{true: "listed ", false: "peer "}

// ask restricts an address to what only the kernel knows.
func (s *space) ask(c *condition, a *pfioctl.RuleAddr, listed bool) {
	plain := *a
	plain.Not, plain.Port = false, pfioctl.Range{}
	text := s.flow.word(listed) + " " + plain.String()
	s.question(c, who[listed]+plain.String(), text, "not "+text, !a.Not)
}

// interval restricts an address to an interval, or to what is outside of it.
func (s *space) interval(c *condition, i interval, not, listed bool) {
	ax, v6 := axPeer4, family(i.first.Is6())
	if listed {
		ax = axListed4
	}
	line := s.axes[ax+v6].line
	c.on(axFamily, only(2, v6))
	c.on(ax+v6, where(len(line), func(n int) bool { return line[n].inside(i) != not }))
}

// table restricts an address to those in a table.
func (s *space) table(c *condition, r *pfioctl.Rule, a *pfioctl.RuleAddr, listed bool) {
	t, active := s.o.tableOf(r, a)
	switch {
	case !active || listed && t == s.o.Allow && (s.o.AllowCarved || a.Count <= 0):
		// A table that does not exist holds nothing. What the allow table holds is not in the block table.
		c.never = c.never || !a.Not
	case t == s.o.Block:
		c.never = c.never || listed == a.Not
	default:
		empty, word := "", s.flow.word(listed)
		if a.Count == 0 {
			empty = " (empty now)"
		}
		s.question(c, who[listed]+"<"+t.String()+">", fmt.Sprintf("%s addresses in table <%s> too%s", word, t, empty),
			fmt.Sprintf("%s addresses not in table <%s>", word, t), !a.Not).table = true
	}
}

// ruleName is the number of a rule as `pfctl -vvsr` shows it.
func ruleName(r *pfioctl.Rule) string {
	if r.Anchor != "" {
		return fmt.Sprintf("@%d in anchor %s", r.Nr, r.Anchor)
	}
	return fmt.Sprintf("@%d", r.Nr)
}
