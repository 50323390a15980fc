package rules

import (
	"math/bits"

	"example.org/threatstopd/pfioctl"
)

// A set is a subset of the classes of an axis, one bit each.
type set []uint64

// where returns the set of the classes below n for which in is true.
func where(n int, in func(class int) bool) set {
	s := make(set, (n+63)/64)
	for i := range n {
		if in(i) {
			s[i/64] |= 1 << (i % 64)
		}
	}
	return s
}

func fullSet(n int) set   { return where(n, func(int) bool { return true }) }
func only(n, i int) set   { return where(n, func(k int) bool { return k == i }) }
func except(n, i int) set { return where(n, func(k int) bool { return k != i }) }

func (s set) has(i int) bool { return s[i/64]>>(i%64)&1 != 0 }

func (s set) count() (n int) {
	for _, w := range s {
		n += bits.OnesCount64(w)
	}
	return n
}

func (s set) empty() bool       { return s.within(nil) }
func (s set) and(t set) set     { return zip(s, t, func(x, y uint64) uint64 { return x & y }) }
func (s set) or(t set) set      { return zip(s, t, func(x, y uint64) uint64 { return x | y }) }
func (s set) without(t set) set { return zip(s, t, func(x, y uint64) uint64 { return x &^ y }) }

func zip(s, t set, f func(x, y uint64) uint64) set {
	out := make(set, len(s))
	for i := range s {
		out[i] = f(s[i], t[i])
	}
	return out
}

// within reports whether t has every class of s; a nil t has none.
func (s set) within(t set) bool {
	for i, w := range s {
		if t != nil {
			w &^= t[i]
		}
		if w != 0 {
			return false
		}
	}
	return true
}

// meets reports whether s and t have a class in common.
func (s set) meets(t set) bool {
	for i := range s {
		if s[i]&t[i] != 0 {
			return true
		}
	}
	return false
}

// A box is a set of packets: those that have one of some classes on every axis.
type box []set

// A condition is the box of the packets that a rule matches, as the axes that it restricts.
type condition struct {
	never bool // it matches nothing
	axes  []int
	sets  []set
}

// on restricts the condition on one axis.
func (c *condition) on(ax int, s set) {
	c.never = c.never || s.empty()
	for i := range c.axes {
		if c.axes[i] == ax {
			c.sets[i] = c.sets[i].and(s)
			c.never = c.never || c.sets[i].empty()
			return
		}
	}
	c.axes, c.sets = append(c.axes, ax), append(c.sets, s)
}

// split divides a box into the part that fulfils a condition, nil if there is none, and disjoint other parts.
func (b box) split(c *condition) (in box, rest []box) {
	if !b.meets(c) {
		return nil, nil
	}
	in = b
	for i, ax := range c.axes {
		if in[ax].within(c.sets[i]) {
			continue
		}
		rest = append(rest, in.with(ax, in[ax].without(c.sets[i])))
		in = in.with(ax, in[ax].and(c.sets[i]))
	}
	return in, rest
}

// with returns a copy of the box with another set on one axis.
func (b box) with(ax int, s set) box {
	out := append(box(nil), b...)
	out[ax] = s
	return out
}

// meets reports whether some packets of the box fulfil a condition.
func (b box) meets(c *condition) bool {
	for i, ax := range c.axes {
		if !b[ax].meets(c.sets[i]) {
			return false
		}
	}
	return !c.never
}

// inside reports whether all packets of the box fulfil a condition.
func (b box) inside(c *condition) bool {
	for i, ax := range c.axes {
		if !b[ax].within(c.sets[i]) {
			return false
		}
	}
	return !c.never
}

// join returns the smallest box that contains both; b may be nil.
func (b box) join(o box) box {
	if b == nil {
		return o
	}
	out := make(box, len(b))
	for i := range b {
		out[i] = b[i].or(o[i])
	}
	return out
}

// eachRule calls f once for every rule that a packet can reach from a ruleset.
func eachRule(rs *pfioctl.Ruleset, f func(*pfioctl.Rule)) {
	seen := make(map[*pfioctl.Ruleset]bool)
	var walk func(*pfioctl.Ruleset)
	walk = func(rs *pfioctl.Ruleset) {
		if seen[rs] {
			return
		}
		seen[rs] = true
		for i := range rs.Rules {
			f(&rs.Rules[i])
			for _, called := range rs.Rules[i].Called {
				walk(called)
			}
		}
	}
	walk(rs)
}
