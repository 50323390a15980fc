package policy

import (
	"iter"
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
	stack              []node
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
	next      u128      // the first address after its last child
	full      bool      // its last child ends where it ends
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

func (b *bitset) has(l ListID) bool { return b[l/64]>>(l%64)&1 != 0 }

// first returns the first list that b and o have in common, or NoList.
func (b *bitset) first(o *bitset) ListID {
	for i := range b {
		if w := b[i] & o[i]; w != 0 {
			return ListID(64*i + bits.TrailingZeros64(w))
		}
	}
	return NoList
}

// table makes the table from the sorted entries.
func (s *sweep) table(entries []Entry) {
	for i, l := range s.lists {
		s.subjects.set(ListID(i), l.Kind == s.kind)
		s.allowing.set(ListID(i), l.Kind == Allow && s.kind == Block)
	}
	v4 := sort.Search(len(entries), func(i int) bool { return entries[i].v6 })
	s.family(entries[:v4], false)
	s.family(entries[v4:], true)
	s.to.order()
}

// family makes the table of one family from its sorted entries.
func (s *sweep) family(entries []Entry, v6 bool) {
	if len(entries) == 0 {
		return
	}
	records, size := s.to.family(v6)
	if s.smallest == nil {
		*records = slices.Grow(*records, len(entries)*size)
	}
	s.stack = append(s.stack[:0], node{Entry: Entry{v6: v6}, mark: s.to.len(v6)})
	for len(entries) > 0 {
		first, n := &entries[0], 1
		for n < len(entries) && entries[n].samePrefix(first) {
			n++
		}
		for !s.stack[len(s.stack)-1].covers(first.addr) {
			s.leave()
		}
		s.enter(entries[:n])
		entries = entries[n:]
	}
	for len(s.stack) > 0 {
		s.leave()
	}
	if s.smallest != nil {
		s.smallest.table(v6, s.to)
	}
}

// enter visits the node of the given entries.
func (s *sweep) enter(own []Entry) {
	up := &s.stack[len(s.stack)-1]
	if up.next != own[0].addr {
		s.part(up)
	}
	s.stack = append(s.stack, node{Entry: own[0], own: own, state: up.state, excepted: up.excepted, table: up.table,
		mark: s.to.len(own[0].v6), next: own[0].addr})
	n, owner := &s.stack[len(s.stack)-1], NoList
	for i, e := range own {
		switch {
		case e.List == NoList:
			n.excepted = true
			n.exception, s.exceptions = &s.exceptions[0], s.exceptions[1:]
			s.around(n.exception)
		case i == 0 || own[i-1].List != e.List: // the first of a list stands, a negated one before a listed one
			n.state.set(e.List, !e.Not)
			if !e.Not && !n.listed && s.subjects.has(e.List) {
				n.listed, owner = true, e.List
			}
		}
	}
	n.allowed = n.state.first(&s.allowing) != NoList
	list := n.state.first(&s.subjects)
	n.blocked = list != NoList && !n.allowed && !n.excepted
	if n.listed && n.excepted {
		s.inside(n)
	}
	if !n.listed {
		owner = list
	}
	if s.smallest == nil && (n.listed && n.blocked || n.blocked != n.table) {
		n.emit(s.to, owner, n.blocked)
	}
	n.List = owner
}

// emit adds the node to a table, for a list or negated.
func (n *node) emit(to *Set, l ListID, blocked bool) {
	to.append(Entry{addr: n.addr, bits: n.bits, v6: n.v6, List: l, Not: !blocked})
	n.table = blocked
}

// leave takes the top off the stack.
func (s *sweep) leave() {
	n := &s.stack[len(s.stack)-1]
	if !n.full {
		s.part(n)
	}
	s.stack = s.stack[:len(s.stack)-1]
	if len(s.stack) == 0 {
		return
	}
	up := &s.stack[len(s.stack)-1]
	up.next, up.full = n.last().next(), n.last() == up.last()
	up.some = up.some || n.some
	s.count(n)
	switch {
	case s.smallest != nil:
	case !n.some:
		s.to.cut(n.v6, n.mark)
		if up.table {
			n.emit(s.to, NoList, false)
		}
	case n.listed && !n.blocked:
		s.halve(n)
	}
}

// halve emits n, which is listed and has something blocked in it, but whose own part an allow list lists:
// the list negates what is blocked. The halves of n are emitted negated, if they are not there anyway.
func (s *sweep) halve(n *node) {
	inside := s.to.cut(n.v6, n.mark)
	if len(inside) > 0 && inside[0].samePrefix(&n.Entry) {
		inside = inside[1:]
	}
	half := Entry{addr: n.addr, bits: n.bits + 1, v6: n.v6, Not: true}
	for _, half.addr = range []u128{n.addr, n.addr.with(bit(n.bits))} {
		if !slices.ContainsFunc(inside, func(e Entry) bool { return e.samePrefix(&half) }) {
			inside = append(inside, half)
		}
	}
	slices.SortFunc(inside, compare)
	n.emit(s.to, n.List, true)
	for _, e := range inside {
		s.to.append(e)
	}
}

// part notes that the addresses from n.next up to the next child are in n's own part.
func (s *sweep) part(n *node) {
	n.some = n.some || n.blocked
	if s.smallest != nil {
		list := NoList
		if n.blocked {
			list = n.state.first(&s.subjects)
		}
		s.smallest.part(n.next, list)
	}
}

// listed returns the entries of n by which lists of the kind list it, one a list.
func (s *sweep) listed(n *node) iter.Seq[Entry] {
	return func(yield func(Entry) bool) {
		for i, e := range n.own {
			if e.List != NoList && !e.Not && s.subjects.has(e.List) && (i == 0 || n.own[i-1].List != e.List) && !yield(e) {
				return
			}
		}
	}
}

// inside notes the entries listed at n for the exceptions around them.
func (s *sweep) inside(n *node) {
	for e := range s.listed(n) {
		for i := range s.stack {
			if x := s.stack[i].exception; x != nil {
				x.Inside++
				x.name(e)
			}
		}
	}
}

// around notes for an exception, at which the sweep has arrived, the innermost entry of each list that
// lists it.
func (s *sweep) around(x *Excepted) {
	above := s.stack[:len(s.stack)-1]
	state := above[len(above)-1].state
	for i := range slices.Backward(above) {
		for e := range s.listed(&above[i]) {
			if state.has(e.List) {
				state.set(e.List, false)
				x.Around++
				x.name(e)
			}
		}
	}
}

// count counts what became of the entries at n.
func (s *sweep) count(n *node) {
	shared := false
	for i, e := range n.own {
		if e.List == NoList || !s.subjects.has(e.List) {
			continue
		}
		l := &s.lists[e.List]
		switch {
		case i > 0 && n.own[i-1].List == e.List && n.own[i-1].Not == e.Not:
			l.Duplicates++
			continue
		case i > 0 && n.own[i-1].List == e.List:
			l.Conflicts++
			continue
		case e.Not:
			l.Negated++
			continue
		case shared:
			l.Shared++
		case n.some:
			l.Enforced++
		case n.excepted:
			l.Excepted++
		case n.allowed:
			l.Allowed++
		default:
			l.Covered++
		}
		shared = true
	}
}
