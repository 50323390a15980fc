package policy

import (
	"math/bits"
	"slices"
	"sort"
)

// sweep makes the table of one kind of lists.
//
// The sorted entries of all lists and exceptions form a forest: each prefix that is named is a node, and
// the nodes that contain it are on a stack when the sweep comes to it. A node's state is its parent's,
// updated by the entries at the node itself. Between a node and its children the verdict is the same for
// all addresses: this is the node's own part.
//
// A node is emitted when the sweep enters it if it is blocked and listed, since owners look for it in
// the table, or if the nearest emitted entry around it gives another verdict. If nothing in it turns out
// to be blocked, all that was emitted since is taken back when the sweep leaves it.
type sweep struct {
	kind       Kind
	lists      []ListReport // by ListID; the counts of lists of the kind are updated
	exceptions []Excepted   // those to come, in the order of the sweep
	smallest   *smallest    // nil: entries are emitted as they are listed
	to         *Set

	subjects, allowing bitset // the lists that the table is of; the lists that keep addresses out of it
	entries            []Entry
	stack              [2 + 128]node // of the root, and one for each length
}

// node is a node that the sweep is in.
type node struct {
	Entry               // its prefix
	own       []Entry   // its entries
	state     bitset    // the lists that list its own part
	exception *Excepted // if it is one
	excepted  bool      // it is inside an exception, or is one
	allowed   bool      // an allow list lists its own part
	listed    bool      // a list of the kind has its prefix
	blocked   bool      // the verdict on its own part
	table     bool      // the verdict that the table gives inside it, as far as it is emitted
	some      bool      // something inside is blocked
	mark      int       // the length of the table before it
}

// bitset has one bit for each list.
type bitset [4]uint64

func (b *bitset) set(l ListID, on bool) {
	if bit := uint64(1) << (l % 64); on {
		b[l/64] |= bit
	} else {
		b[l/64] &^= bit
	}
}

func (b *bitset) has(l ListID) bool { return l != NoList && b[l/64]>>(l%64)&1 != 0 }

// first returns the first list that b and o have in common, or NoList.
func (b *bitset) first(o *bitset) ListID {
	for i := range b {
		if w := b[i] & o[i]; w != 0 {
			return ListID(64*i + bits.TrailingZeros64(w))
		}
	}
	return NoList
}

// table makes the table from the sorted entries, of which each list has one for a prefix.
func (s *sweep) table(entries []Entry) {
	for i, l := range s.lists {
		s.subjects.set(ListID(i), l.Kind == s.kind)
		s.allowing.set(ListID(i), l.Kind == Allow && s.kind == Block)
	}
	v4 := sort.Search(len(entries), func(i int) bool { return entries[i].v6 == 1 })
	for v6, es := range [][]Entry{entries[:v4], entries[v4:]} {
		if len(es) == 0 {
			continue
		}
		if s.smallest == nil {
			s.to.records[v6] = slices.Grow(s.to.records[v6], len(es)*sizes[v6])
		}
		s.entries, s.stack[0] = es, node{Entry: Entry{v6: uint8(v6)}}
		s.inside(0)
		if s.smallest != nil {
			s.smallest.table(uint8(v6), s.to)
		}
	}
	s.to.order()
}

// inside visits all that is inside the node at a depth of the stack: the nodes, and between them its own
// part.
func (s *sweep) inside(depth int) {
	n := &s.stack[depth]
	next, full := n.addr, false
	for len(s.entries) > 0 && n.covers(s.entries[0].addr) {
		own := s.entries[:1]
		for len(own) < len(s.entries) && s.entries[len(own)].samePrefix(&own[0]) {
			own = s.entries[:len(own)+1]
		}
		s.entries = s.entries[len(own):]
		if next != own[0].addr {
			s.part(n, next)
		}
		child := s.visit(depth+1, own)
		next, full = child.last().next(), child.last() == n.last()
	}
	if !full {
		s.part(n, next)
	}
}

// part notes that the addresses from first up to the next child are in n's own part.
func (s *sweep) part(n *node, first u128) {
	n.some = n.some || n.blocked
	if s.smallest != nil {
		list := NoList
		if n.blocked {
			list = n.state.first(&s.subjects)
		}
		s.smallest.part(first, list)
	}
}

// visit visits the node of the given entries, and all inside it.
func (s *sweep) visit(depth int, own []Entry) *node {
	up, n := &s.stack[depth-1], &s.stack[depth]
	*n = node{Entry: own[0], own: own, state: up.state, excepted: up.excepted, table: up.table, mark: s.to.len(own[0].v6)}
	n.List = NoList
	for _, e := range own {
		if e.List == NoList {
			n.excepted = true
			n.exception, s.exceptions = &s.exceptions[0], s.exceptions[1:]
			s.around(n.exception, depth)
			continue
		}
		n.state.set(e.List, !e.Not)
		if s.isListed(e) && !n.listed {
			n.listed, n.List = true, e.List
		}
	}
	if n.excepted && n.listed {
		s.within(n, depth)
	}
	n.allowed = n.state.first(&s.allowing) != NoList
	list := n.state.first(&s.subjects)
	n.blocked = list != NoList && !n.allowed && !n.excepted
	if !n.listed {
		n.List = list
	}
	if s.smallest == nil && (n.listed && n.blocked || n.blocked != n.table) {
		s.emit(n, n.blocked)
	}

	s.inside(depth)
	up.some = up.some || n.some
	if n.listed {
		switch l := &s.lists[n.List]; {
		case n.some:
			l.Enforced++
		case n.excepted:
			l.Excepted++
		case n.allowed:
			l.Allowed++
		}
	}
	switch {
	case s.smallest != nil:
	case !n.some:
		s.to.cut(n.v6, n.mark)
		if up.table {
			s.emit(n, false)
		}
	case n.listed && !n.blocked:
		s.halve(n)
	}
	return n
}

// emit adds the node to the table, for its list or negated.
func (s *sweep) emit(n *node, blocked bool) {
	e := n.Entry
	e.Not = !blocked
	s.to.append(e)
	n.table = blocked
}

// halve emits n, which is listed and has something blocked in it, but whose own part an allow list lists:
// the list negates what is blocked. The halves of n are emitted negated, if they are not there anyway.
func (s *sweep) halve(n *node) {
	inside := s.to.cut(n.v6, n.mark)
	if len(inside) > 0 && inside[0].samePrefix(&n.Entry) {
		inside = inside[1:]
	}
	half := Entry{addr: n.addr, bits: n.bits + 1, v6: n.v6, Not: true}
	for range 2 {
		if !slices.ContainsFunc(inside, func(e Entry) bool { return e.samePrefix(&half) }) {
			inside = append(inside, half)
		}
		half.addr = half.last().next()
	}
	slices.SortFunc(inside, compare)
	s.emit(n, true)
	for _, e := range inside {
		s.to.append(e)
	}
}

// isListed reports whether a list of the kind lists the prefix of an entry.
func (s *sweep) isListed(e Entry) bool { return !e.Not && s.subjects.has(e.List) }

// around notes for an exception, at which the sweep has arrived, the innermost entry of each list that
// lists it.
func (s *sweep) around(x *Excepted, depth int) {
	state := s.stack[depth-1].state
	for _, n := range slices.Backward(s.stack[:depth]) {
		for _, e := range n.own {
			if s.isListed(e) && state.has(e.List) {
				state.set(e.List, false)
				x.Around++
				x.name(e)
			}
		}
	}
}

// within notes for the exceptions around n, and at n, the entries that list it.
func (s *sweep) within(n *node, depth int) {
	for _, e := range n.own {
		for i := range s.stack[:depth+1] {
			if x := s.stack[i].exception; x != nil && s.isListed(e) {
				x.Inside++
				x.name(e)
			}
		}
	}
}
