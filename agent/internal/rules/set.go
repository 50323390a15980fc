package rules

import "slices"

// A set is a subset of the classes of an axis: true for those in it.
type set []bool

// where returns the set of the classes below n for which in is true.
func where(n int, in func(class int) bool) set {
	s := make(set, n)
	for i := range s {
		s[i] = in(i)
	}
	return s
}

func full(n int) set        { return where(n, func(int) bool { return true }) }
func only(n, i int) set     { return where(n, func(k int) bool { return k == i }) }
func (s set) whole() bool   { return !slices.Contains(s, false) }
func (s set) empty() bool   { return !slices.Contains(s, true) }
func (s set) and(t set) set { return where(len(s), func(i int) bool { return s[i] && t[i] }) }
func (s set) or(t set) set  { return where(len(s), func(i int) bool { return s[i] || t[i] }) }

func (s set) without(t set) set { return where(len(s), func(i int) bool { return s[i] && !t[i] }) }

// within reports whether t has every class of s.
func (s set) within(t set) bool {
	for i, in := range s {
		if in && !t[i] {
			return false
		}
	}
	return true
}

// meets reports whether s and t have a class in common.
func (s set) meets(t set) bool {
	for i, in := range s {
		if in && t[i] {
			return true
		}
	}
	return false
}

// A box is a set of packets: those that have one of some classes on every axis.
type box []set

// A condition is the box of the packets that a rule matches, as the axes that it restricts.
type condition struct {
	axes []int
	sets []set
}

// on restricts the condition on one more axis.
func (c *condition) on(ax int, s set) {
	if !s.whole() {
		c.axes, c.sets = append(c.axes, ax), append(c.sets, s)
	}
}

// never has the condition match nothing, if so.
func (c *condition) never(so bool) { c.on(axFamily, set{!so, !so}) }

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
	out := slices.Clone(b)
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
	return true
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
