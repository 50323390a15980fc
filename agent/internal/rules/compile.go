package rules

import (
	"fmt"
	"strings"

	"example.org/threatstopd/pfioctl"
)

// compile returns the condition of a rule (pf.c: pf_match_rule).
func (s *space) compile(r *pfioctl.Rule) *condition {
	// Fragments are reassembled before they meet rules.
	c := &condition{}
	if r.Expired || r.Fragment || r.Dir != pfioctl.DirBoth && r.Dir != s.flow.dir {
		c.never(true)
		return c
	}
	for ax, a := range s.axes[:axes] {
		if matches := a.asks(r); matches != nil {
			c.on(ax, where(len(a.all), matches))
		}
	}
	s.address(c, r, true)
	s.address(c, r, false)
	s.chances(c, r)
	return c
}

// address restricts one side of a rule to what only the kernel knows of it (pfvar.h: PF_MISMATCHAW).
func (s *space) address(c *condition, r *pfioctl.Rule, listed bool) {
	a := s.flow.side(r, listed)
	if _, ok := addrInterval(a); ok || a.Type == pfioctl.AddrMask && !a.Mask.IsValid() {
		return // an axis compares it, or it is any
	}
	word := s.flow.word(listed)
	switch a.Type {
	case pfioctl.AddrNone:
		c.never(true)
	case pfioctl.AddrTable:
		t, active := s.o.tableOf(r, a)
		switch {
		case !active || listed && t == s.o.Allow && (s.o.AllowCarved || a.Count <= 0):
			// A table that does not exist holds nothing. What the allow table holds is not in the block table.
			c.never(!a.Not)
		case t == s.o.Block:
			c.never(listed == a.Not)
		default:
			yes := fmt.Sprintf("%s addresses in table <%s> too", word, t)
			if a.Count == 0 {
				yes += " (empty now)"
			}
			s.question(c, yes, yes, fmt.Sprintf("%s addresses not in table <%s>", word, t), !a.Not).table = true
		}
	case pfioctl.AddrDynamic:
		if listed && !strings.Contains(a.Dyn, ":network") {
			// The addresses of this host are never listed.
			c.never(!a.Not)
			return
		}
		fallthrough
	default: // what the routing table says, or a mask with holes
		plain := *a
		plain.Not, plain.Port = false, pfioctl.Range{}
		yes := word + " " + plain.String()
		s.question(c, yes, yes, "not "+yes, !a.Not)
	}
}

// chances restricts a rule that matches at some times and not at others. Both are usual, but for a limiter:
// that it exists and has room is the usual case. A rule whose limiter does not exist, or is full and says
// no-match, is skipped.
func (s *space) chances(c *condition, r *pfioctl.Rule) {
	for _, x := range []struct {
		is           bool
		key, yes, no string
		usual        set
	}{
		{r.OS != 0, fmt.Sprint(r.OS), "of an operating system that a rule names",
			"of other operating systems than a rule names", set{true, false}},
		{r.Probability != 0, ruleName(r), "that probability lets through", "that probability spares", full(2)},
		{r.RateLimit != 0, ruleName(r), "up to a rate", "beyond a rate", full(2)},
		{r.StateLimiter.ID != 0 || r.SourceLimiter.ID != 0, ruleName(r), "within a limiter",
			"beyond a limiter, or if it does not exist", set{false, true}},
		{r.Once, ruleName(r), "the first time", "after the first time", full(2)},
	} {
		if x.is {
			s.question(c, x.yes+x.key, x.yes, x.no, true).usual = x.usual
		}
	}
}

// question restricts a condition on the axis with the classes no, which is the usual one, and yes. The axis is
// made if it has not been asked for by that key. It returns the axis.
func (s *space) question(c *condition, key, yes, no string, want bool) *axis {
	ax, ok := s.yes[key]
	if !ok {
		ax = len(s.axes)
		s.yes[key] = ax
		s.axes = append(s.axes, axis{all: full(2), usual: only(2, 0), phrase: listing("", []string{no, yes})})
	}
	c.on(ax, set{!want, want})
	return &s.axes[ax]
}
