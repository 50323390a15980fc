package policy

import (
	"math/bits"
	"slices"
)

// sweep makes the table of one kind of lists.
//
// The sorted entries of all lists and exceptions form a forest: each prefix that is named is a node, and
// the nodes that contain it are on a stack when the sweep comes to it. A node's state is its parent's,
// updated by the entries at the node itself. Between a node and its children the verdict is the same for
// all addresses: this is the node's own part.
//
// The table has each listed prefix in which something is blocked ("some", known on leaving the node),
// since owners look for it, and what else is needed so that the longest match gives each node's own part
// its verdict.
type sweep struct {
	kind       Kind
	aggregate  bool
	lists      []ListReport // by ListID; the counts of lists of the kind are updated
	exceptions []Excepted   // in the order of the sweep; nil: exceptions do not count
	to         *Set

	entries         []Entry // of one family
	subjects, vetos bitset  // lists that the table is of, and that keep addresses out of it
	stack           []node
	next            int   // the next exception
	some            int   // listed nodes of the family in which something is blocked
	open            []int // exceptions around the current address
	join            join
	out             output
}

// mark is what the sweep notes at the first entry of a node.
type mark uint8

const (
	isNode mark = 1 << iota
	isListed
	isBlocked // its own part is blocked
	hasSome   // something in it is blocked
	hasPart   // its own part is not empty
)

// bitset has one bit for each list.
type bitset [4]uint64

func (b *bitset) set(l ListID, on bool) {
	if bit := uint64(1) << (l % 64); on {
		b[l/64] |= bit
	} else {
		b[l/64] &^= bit
	}
}

func (b bitset) and(o bitset) bitset {
	return bitset{b[0] & o[0], b[1] & o[1], b[2] & o[2], b[3] & o[3]}
}

func (b bitset) has(l ListID) bool { return b[l/64]>>(l%64)&1 != 0 }

// first returns the first list in b, or NoList.
func (b bitset) first() ListID {
	for i, w := range b {
		if w != 0 {
			return ListID(64*i + bits.TrailingZeros64(w))
		}
	}
	return NoList
}

type node struct {
	first, end int // its entries; none for the root of a family
	addr, last u128
	state      bitset
	excepted   bool
	allowed    bool
	exception  bool // it is one
	mark       mark
	next       u128 // what follows its last child
	full       bool // its last child ends with it
}

// table makes the table from the sorted entries of both families.
func (s *sweep) table(v4, v6 []Entry) {
	for i, l := range s.lists {
		s.subjects.set(ListID(i), l.Kind == s.kind)
		s.vetos.set(ListID(i), l.Kind == Allow && s.kind == Block)
	}
	if !slices.ContainsFunc(s.lists, func(l ListReport) bool { return l.Kind == s.kind && l.Entries > 0 }) {
		return
	}
	s.out.set = s.to
	s.family(v4, false)
	s.family(v6, true)
}

func (s *sweep) family(entries []Entry, v6 bool) {
	s.entries, s.some = entries, 0
	s.walk()
	if s.aggregate {
		s.join.table(v6, &s.out)
	} else {
		s.to.grow(v6, s.some+s.some/64)
		s.emit()
	}
	s.out.end()
}

// walk visits all nodes, and marks them.
func (s *sweep) walk() {
	s.stack = append(s.stack[:0], node{last: u128{}.last(0)})
	for i := 0; i < len(s.entries); {
		e := &s.entries[i]
		end := i + 1
		if s.alone(i) {
			i = end
			continue
		}
		for end < len(s.entries) && s.entries[end].samePrefix(e) {
			end++
		}
		for s.stack[len(s.stack)-1].last.less(e.addr) {
			s.leave()
		}
		s.enter(i, end)
		i = end
	}
	for len(s.stack) > 0 {
		s.leave()
	}
}

// alone visits entry i if it is listed, with nothing around it or inside it, as nearly all are. It does
// what enter, leave and count do for such an entry.
func (s *sweep) alone(i int) bool {
	e, last := &s.entries[i], s.entries[i].last()
	if s.aggregate || e.Not || e.List == NoList || !s.subjects.has(e.List) || i+1 < len(s.entries) && !last.less(s.entries[i+1].addr) {
		return false
	}
	for s.stack[len(s.stack)-1].last.less(e.addr) {
		s.leave()
	}
	if len(s.stack) > 1 {
		return false
	}
	e.mark, e.owner = isNode|isListed|isBlocked|hasSome|hasPart, e.List
	s.lists[e.List].Enforced++
	s.some++
	return true
}

// enter visits the node of the entries from i up to before end.
func (s *sweep) enter(i, end int) {
	parent := &s.stack[len(s.stack)-1]
	e := &s.entries[i]
	n := node{first: i, end: end, addr: e.addr, next: e.addr, last: e.last(), state: parent.state, excepted: parent.excepted}
	owner, counts := NoList, false
	before := NoList
	for k := i; k < end; k++ {
		e := &s.entries[k]
		e.mark = 0
		switch {
		case e.List == NoList:
			n.exception = s.exceptions != nil
			counts = counts || n.exception
		case e.List == before:
			// The first of a list stands, a negated one before a listed one.
			s.repeated(k)
		case s.subjects.has(e.List):
			before, counts = e.List, true
			n.state.set(e.List, !e.Not)
			if !e.Not {
				n.mark |= isListed
				owner = min(owner, e.List)
			}
		case s.vetos.has(e.List):
			before, counts = e.List, true
			n.state.set(e.List, !e.Not)
		}
	}
	if !counts {
		return
	}
	if parent.next.less(n.addr) {
		s.part(parent, parent.next, n.addr.prev())
	}
	if n.exception {
		n.excepted = true
		s.around(parent.state)
	}
	n.allowed = n.state.and(s.vetos).first() != NoList
	listed := n.state.and(s.subjects).first()
	if listed != NoList && !n.allowed && !n.excepted {
		n.mark |= isBlocked
	}
	if owner == NoList {
		owner = listed
	}
	e.owner = owner
	n.mark |= isNode
	s.inside(&n)
	s.stack = append(s.stack, n)
}

// repeated counts entry k, whose prefix an entry before it in the same list has too.
func (s *sweep) repeated(k int) {
	if e := &s.entries[k]; s.subjects.has(e.List) {
		if e.Not == s.entries[k-1].Not {
			s.lists[e.List].Duplicates++
		} else {
			s.lists[e.List].Conflicts++
		}
	}
}

// part notes that the addresses from first to last are in n's own part.
func (s *sweep) part(n *node, first, last u128) {
	n.mark |= hasPart
	if n.mark&isBlocked != 0 {
		n.mark |= hasSome
	}
	if s.aggregate {
		list := NoList
		if n.mark&isBlocked != 0 {
			list = n.state.and(s.subjects).first()
		}
		s.join.part(first, last, list)
	}
}

// leave takes the top off the stack.
func (s *sweep) leave() {
	n := &s.stack[len(s.stack)-1]
	if !n.full {
		s.part(n, n.next, n.last)
	}
	s.stack = s.stack[:len(s.stack)-1]
	if n.exception {
		s.open = s.open[:len(s.open)-1]
	}
	if len(s.stack) == 0 {
		return
	}
	parent := &s.stack[len(s.stack)-1]
	parent.next, parent.full = n.last.next(), n.last == parent.last
	parent.mark |= n.mark & hasSome
	if n.mark&isListed != 0 && n.mark&hasSome != 0 {
		s.some++
	}
	s.entries[n.first].mark = n.mark
	s.count(n)
}

// count counts what became of the entries at n.
func (s *sweep) count(n *node) {
	before, shared := NoList, false
	for k := n.first; k < n.end; k++ {
		e := &s.entries[k]
		if e.List == before || e.List == NoList || !s.subjects.has(e.List) {
			continue
		}
		before = e.List
		l := &s.lists[e.List]
		switch {
		case e.Not:
			l.Negated++
			continue
		case shared:
			l.Shared++
		case n.mark&hasSome != 0:
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

// inside notes the entries listed at n for the exceptions around them.
func (s *sweep) inside(n *node) {
	if n.mark&isListed == 0 || len(s.open) == 0 {
		return
	}
	before := NoList
	for _, e := range s.entries[n.first:n.end] {
		if e.List == before || e.List == NoList || !s.subjects.has(e.List) {
			continue
		}
		if before = e.List; e.Not {
			continue
		}
		for _, i := range s.open {
			s.exceptions[i].Inside++
			s.exceptions[i].name(e)
		}
	}
}

// around opens the next exception, and notes for it the innermost entry of each list that lists it.
func (s *sweep) around(state bitset) {
	x := &s.exceptions[s.next]
	s.open = append(s.open, s.next)
	s.next++
	for i := len(s.stack) - 1; i > 0; i-- {
		for _, e := range s.entries[s.stack[i].first:s.stack[i].end] {
			if e.List != NoList && s.subjects.has(e.List) && state.has(e.List) {
				state.set(e.List, false)
				x.Around++
				x.name(e)
			}
		}
	}
}

// emit puts the table of the marked nodes out.
func (s *sweep) emit() {
	type around struct {
		*Entry
		blocked bool // the verdict that the table gives in it
		halves  bool // but not to its halves, which are in the table
	}
	var stack []around
	for i := range s.entries {
		e := &s.entries[i]
		if e.mark&isNode == 0 {
			continue
		}
		for len(stack) > 0 && !stack[len(stack)-1].covers(e.addr) {
			stack = stack[:len(stack)-1]
		}
		near := around{Entry: e}
		if len(stack) > 0 {
			top := stack[len(stack)-1]
			near.blocked = top.blocked || top.halves && e.bits == top.bits+1
		}
		blocked := e.mark&isBlocked != 0
		switch {
		case e.mark&isListed != 0 && e.mark&hasSome != 0:
			s.out.put(Entry{addr: e.addr, bits: e.bits, v6: e.v6, List: e.owner})
			if near.blocked = blocked || e.mark&hasPart == 0; !near.blocked {
				s.halve(i)
				near.halves = true
			}
		case e.mark&hasPart != 0 && blocked != near.blocked:
			s.out.put(Entry{addr: e.addr, bits: e.bits, v6: e.v6, List: e.owner, Not: !blocked})
			near.blocked = blocked
		}
		stack = append(stack, near)
	}
}

// halve puts out the halves of node i, negated: it is in the table, and its own part is not blocked. That
// is so where an allow list has the prefix or one around it, and negates some of what is inside. A half
// that is a node itself is put out in its turn, if necessary.
func (s *sweep) halve(i int) {
	half := s.entries[i]
	half.bits, half.Not = half.bits+1, true
	for _, addr := range []u128{half.addr, half.addr.with(bit(half.bits - 1))} {
		half.addr = addr
		k, _ := slices.BinarySearchFunc(s.entries, half, func(a, b Entry) int {
			a.List, a.Not, b.List, b.Not = 0, false, 0, false
			return compare(a, b)
		})
		if k < len(s.entries) && s.entries[k].samePrefix(&half) && s.entries[k].mark&isNode != 0 {
			continue
		}
		if addr == s.entries[i].addr {
			s.out.put(half)
		} else {
			s.out.later = append(s.out.later, half)
		}
	}
}

// output appends entries that come in the order of the sweep to a set in its own order, in which of one
// address the longest prefix is first.
type output struct {
	set   *Set
	same  []Entry // of one address
	later []Entry // to come, the next one last
}

func (o *output) put(e Entry) {
	for n := len(o.later); n > 0 && compare(o.later[n-1], e) < 0; n-- {
		o.collect(o.later[n-1])
		o.later = o.later[:n-1]
	}
	o.collect(e)
}

func (o *output) collect(e Entry) {
	if len(o.same) > 0 && o.same[0].addr != e.addr {
		o.flush()
	}
	o.same = append(o.same, e)
}

func (o *output) flush() {
	for _, e := range slices.Backward(o.same) {
		o.set.append(e)
	}
	o.same = o.same[:0]
}

// end puts out what is left of a family.
func (o *output) end() {
	for _, e := range slices.Backward(o.later) {
		o.collect(e)
	}
	o.later = o.later[:0]
	o.flush()
}
