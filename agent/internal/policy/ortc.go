package policy

import (
	"cmp"
	"slices"
	"sort"
)

// join finds the smallest table for one family, from the parts of all nodes in order, which cover the
// whole space.
//
// It is the optimal routing table construction (Draves, King, Venkatachary, Zill: Constructing Optimal
// IP Routing Tables, INFOCOM 1999) for two next hops, out and in, where the root begins with out. ORTC
// walks a binary trie three times; with two next hops one pass from the leaves up is enough. For every
// node one knows the set of verdicts that the nodes above may hand down to it at no extra cost: for a
// leaf its own; above, what both children have in common, or if that is nothing, either. A node with one
// verdict in its set needs an entry exactly if it is handed down the other; a node with both takes what
// it is handed. So when two children differ, their entries remain undecided until some node above
// settles for one verdict: then those with the same verdict are dropped, and the others are final.
//
// From outside, a node that has settled is like a leaf. So only nodes with both verdicts need to be
// known, besides runs of addresses with one. Where two runs meet, a node arises as soon as both of its
// halves are there; and a node with both verdicts does not get past two runs before it has settled. So
// the work grows with the number of runs, regardless of the length of an address.
type join struct {
	stack []span // without gaps, in order
	last  u128   // the last address of the last one
	wait  []choice
	final []Entry // Not is the verdict out; in no useful order

	parts []Entry // begin of each part, and its list; Not: it is out
}

// A verdict is one bit, so that sets of verdicts are verdicts too.
type verdict uint8

const (
	out    verdict = 1
	in     verdict = 2
	either verdict = out | in
)

// choice is an undecided entry.
type choice struct {
	addr    u128
	bits    uint8
	verdict verdict
}

// span is a node with both verdicts, or a run up to the next span with one.
type span struct {
	addr    u128
	wait    int // length of join.wait before the node
	verdict verdict
	bits    uint8 // of a node
}

// part adds the addresses from first to last, which follow those added before. They are listed in the
// given list, or with NoList not in the table.
func (j *join) part(first, last u128, list ListID) {
	if n := len(j.parts); n == 0 || j.parts[n-1].List != list {
		j.parts = append(j.parts, Entry{addr: first, List: list, Not: list == NoList})
	}
	v := in
	if list == NoList {
		v = out
	}
	j.last = last
	j.stack = append(j.stack, span{addr: first, verdict: v})
	j.reduce()
}

// table puts the smallest table out, when all addresses have been added.
func (j *join) table(v6 bool, to *Set) {
	switch s := j.stack[0]; s.verdict {
	case either:
		j.decide(s.wait, out)
	case in:
		j.settle(choice{verdict: in})
	}
	slices.SortFunc(j.final, func(a, b Entry) int {
		return cmp.Or(cmp.Compare(a.addr.hi, b.addr.hi), cmp.Compare(a.addr.lo, b.addr.lo), cmp.Compare(a.bits, b.bits))
	})
	for _, e := range j.final {
		if e.v6 = v6; !e.Not {
			e.List = j.listOf(e)
		}
		to.append(e)
	}
	j.stack, j.wait, j.final, j.parts = j.stack[:0], j.wait[:0], j.final[:0], j.parts[:0]
}

// listOf returns the list of the first part that is in the table and not before the prefix of e.
func (j *join) listOf(e Entry) ListID {
	i := sort.Search(len(j.parts), func(i int) bool { return e.addr.less(j.parts[i].addr) }) - 1
	for j.parts[i].Not {
		i++
	}
	return j.parts[i].List
}

func (j *join) settle(c choice) {
	j.final = append(j.final, Entry{addr: c.addr, bits: c.bits, Not: c.verdict == out})
}

// decide makes the undecided entries from place i on final under a node that settles for v.
func (j *join) decide(i int, v verdict) {
	for _, c := range j.wait[i:] {
		if c.verdict != v {
			j.settle(c)
		}
	}
	j.wait = j.wait[:i]
}

// reduce joins the last span with what is before it as far as possible.
func (j *join) reduce() {
	for len(j.stack) > 1 {
		top := len(j.stack) - 1
		s, t := &j.stack[top-1], j.stack[top]
		switch {
		case t.verdict == either:
			// A right child may join its sibling, a node or part of a run.
			if t.bits == 0 || !t.addr.has(bit(t.bits-1)) {
				return
			}
			if s.verdict == either {
				if s.bits != t.bits {
					return
				}
				s.bits--
			} else {
				if t.addr.without(bit(t.bits - 1)).less(s.addr) {
					return
				}
				j.decide(t.wait, s.verdict)
			}
			j.stack = j.stack[:top]

		case s.verdict == t.verdict:
			// One run.
			j.stack = j.stack[:top]

		case s.verdict == either:
			// A left child, whose sibling may be part of the run.
			if s.bits == 0 || s.addr.has(bit(s.bits-1)) || j.last.less(s.addr.last(s.bits-1)) {
				return
			}
			j.decide(s.wait, t.verdict)
			s.verdict = t.verdict
			j.stack = j.stack[:top]

		default:
			if !j.meet(top) {
				return
			}
		}
	}
}

// meet makes a node of two runs, the last two spans, where it can: they meet in the middle of it. It
// reports whether there is more to reduce.
func (j *join) meet(top int) bool {
	s, t := j.stack[top-1], j.stack[top]
	half := uint8(128 - t.addr.trailingZeros())
	n := span{t.addr.without(bit(half - 1)), len(j.wait), either, half - 1}
	last, end := j.last, n.addr.last(n.bits)
	if n.addr.less(s.addr) || last.less(end) {
		return false
	}
	j.wait = append(j.wait, choice{n.addr, half, s.verdict}, choice{t.addr, half, t.verdict})
	if s.addr == n.addr {
		top--
	}
	// The node first, then what remains of the run.
	j.stack = append(j.stack[:top], n)
	j.last = end
	j.reduce()
	if end == last {
		return false
	}
	t.addr = end.next()
	j.stack = append(j.stack, t)
	j.last = last
	return true
}
