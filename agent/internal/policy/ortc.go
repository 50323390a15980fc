package policy

import "sort"

// smallest makes the smallest table for one family.
//
// It is the optimal routing table construction (Draves, King, Venkatachary, Zill: Constructing Optimal
// IP Routing Tables, INFOCOM 1999) for two next hops, out and in, where the root begins with out. ORTC
// walks a binary trie three times; with two next hops one pass from the leaves up is enough. For every
// node one knows the set of verdicts that the nodes above may hand down to it at no extra cost: for a
// leaf its own; above, what both children have in common, or if that is nothing, either. A node with one
// verdict in its set needs an entry exactly if it is handed down the other; a node with both takes what
// it is handed. So when two children differ, their entries remain undecided until some node above
// settles for one verdict: then those with the same verdict are dropped, and the others are final.
type smallest struct {
	// parts are where the list or the verdict changes, and the first address: up to the next part all
	// addresses are in the table, for the list, or (Not) out of it.
	parts []Entry
	wait  []Entry // undecided; Not is the verdict out
	final []Entry // in no useful order
}

// verdicts is a set of verdicts.
type verdicts uint8

const (
	out verdicts = 1 << iota
	in
	either = out | in
)

// part adds the addresses from first on, which are listed in the given list, or with NoList not in the
// table.
func (s *smallest) part(first u128, list ListID) {
	if n := len(s.parts); n == 0 || s.parts[n-1].List != list {
		s.parts = append(s.parts, Entry{addr: first, List: list, Not: list == NoList})
	}
}

// table adds the smallest table to a set.
func (s *smallest) table(v6 uint8, to *Set) {
	switch s.node(u128{}, 0, 0, len(s.parts)) {
	case either:
		s.decide(0, out)
	case in:
		s.choose(u128{}, 0, 0, in)
		s.decide(0, out)
	}
	sortEntries(s.final)
	for _, e := range s.final {
		e.v6 = v6
		to.append(e)
	}
	*s = smallest{}
}

// node returns the verdicts for the prefix of n bits at addr, where part lo begins there or before, and
// the others before part hi inside it.
func (s *smallest) node(addr u128, n uint8, lo, hi int) verdicts {
	if hi == lo+1 {
		if s.parts[lo].Not {
			return out
		}
		return in
	}
	mid, wait := addr.last(n+1).next(), len(s.wait)
	end := lo + 1 + sort.Search(hi-lo-1, func(i int) bool { return s.parts[lo+1+i].addr.compare(mid) >= 0 })
	begin := end
	if end == hi || s.parts[end].addr != mid {
		begin--
	}
	left, right := s.node(addr, n+1, lo, end), s.node(mid, n+1, begin, hi)
	switch both := left & right; both {
	case 0:
		s.choose(addr, n+1, lo, left)
		s.choose(mid, n+1, begin, right)
		return either
	case either:
		return either
	default:
		s.decide(wait, both)
		return both
	}
}

// choose adds an undecided entry, in whose prefix the given part is the first.
func (s *smallest) choose(addr u128, n uint8, part int, v verdicts) {
	e := Entry{addr: addr, bits: n, Not: v == out, List: NoList}
	if !e.Not {
		if s.parts[part].Not {
			part++
		}
		e.List = s.parts[part].List
	}
	s.wait = append(s.wait, e)
}

// decide makes the undecided entries from place i on final under a node that settles for v.
func (s *smallest) decide(i int, v verdicts) {
	for _, e := range s.wait[i:] {
		if e.Not != (v == out) {
			s.final = append(s.final, e)
		}
	}
	s.wait = s.wait[:i]
}
