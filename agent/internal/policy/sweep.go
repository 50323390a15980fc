package policy

import (
	"cmp"
	"slices"
)

// sweep makes the table of one kind for one family of addresses.
//
// It goes over the records in order: ascending by address, shortest prefix
// first. That is the order in which one walks a trie from its root, so the
// prefixes that cover the place where one is form a stack, and what a list
// says there is what its topmost prefix says. Between two beginnings or ends
// of records the verdict is the same for all addresses.
//
// A listed entry that has something in the table is enforced as it is listed.
// Where nothing inside such an entry is left out, as in nearly all lists,
// that is all. Else the outermost such entry (a root here) is gone over once
// more, for the entries to be added: the listed ones are fixed nodes of a
// join, which finds the fewest that make the rest right. Outside of roots
// nothing is in the table.
type sweep struct {
	records
	subject []bool // by owner: the table is of these lists
	veto    []bool // by owner: these lists keep addresses out of it
	lists   []ListReport
	table   *TableReport
	grow    func(n int) // makes room in the table
	put     func(entry) // takes the table's entries in order

	// What holds at pos, by owner and summed up.
	says     []state
	listing  int // subjects that list it
	vetoing  int // vetoes that list it
	excepted int // exceptions that cover it
	pos      u128
	wrapped  bool // pos went beyond the last address
	stack    []frame

	// The last candidate, and the root it is in.
	candidate prefix
	depth     int  // candidates in the stack
	torn      bool // something in the root is not in the table

	// For reports.
	exceptions []Excepted // those of this family in order; nil: they do not count
	next       int        // the next one to come
	open       []int      // those that cover pos
	seen       []bool     // by owner; all false between uses

	pass  pass
	join  join
	run   run
	names names
	added []entry
}

// pass says why a sweep goes over records.
type pass uint8

const (
	listed   pass = iota // all of them, for entries as listed
	smallest             // all of them, for the smallest table
	within               // those of a root once more, for the entries to be added
	naming               // once more, for the lists of entries that were found
)

// state is what a list says of an address.
type state uint8

const (
	silent state = iota
	lists
	negates
)

type prefix struct {
	addr u128
	bits int
}

type frame struct {
	last      u128
	record    int
	owner     int // 0: an exception
	before    state
	candidate bool // listed by a subject, the first with this prefix
	used      bool // something in it is in the table; then also in all below it on the stack
	fixed     bool // a fixed node of join
	under     fate // why, if nothing in it is in the table
}

// fate is why a listed entry has nothing in the table.
type fate uint8

const (
	isCovered fate = iota
	isExcepted
	isAllowed
)

// run is a range of addresses, up to before pos, that waits for join.
type run struct {
	waits   bool
	first   u128
	verdict verdict
}

// names is what is named in the pass naming: entries in a table's order.
type names struct {
	n    int
	at   func(i int) (addr u128, v verdict)
	name func(i int, l ListID)
	next [either + 1]int // by verdict, the first entry that has no name yet
}

// entriesAsListed makes the table with entries as they are listed.
func (s *sweep) entriesAsListed() {
	s.pass = listed
	s.candidate.bits = -1
	s.over(0, s.len())
}

// smallestTable makes the table with as few entries as can be.
func (s *sweep) smallestTable() {
	s.pass = smallest
	s.candidate.bits = -1
	// With the prefix length the other way round records are in the table's
	// order.
	flip := func(m meta) meta { return meta(128-m.bits())<<24 | m&(1<<24-1) }
	v4 := s.r4 != nil
	var h4 heap[record4]
	var h6 heap[record6]
	s.join.begin(func(e entry) {
		m := flip(newMeta(e.bits, 0, e.verdict == in))
		if v4 {
			h4.add(newRecord4(e.addr.to4(), m))
		} else {
			h6.add(record6{e.addr, m})
		}
	})
	s.over(0, s.len())
	s.rest()
	s.flush()
	s.join.end()

	var found records
	if v4 {
		found.r4 = sorted4(&h4)
	} else {
		found.r6 = sorted6(&h6)
	}
	verdictOf := func(m meta) verdict {
		if m.listed() {
			return in
		}
		return out
	}
	s.names = names{
		n: found.len(),
		at: func(i int) (u128, verdict) {
			addr, m := found.at(i)
			return addr, verdictOf(m)
		},
		name: func(i int, l ListID) {
			m := newMeta(0, l.owner(), false)
			if v4 {
				found.r4[i] |= record4(m)
			} else {
				found.r6[i].meta |= m
			}
		},
	}
	s.pass = naming
	s.pos, s.wrapped = u128{}, false
	s.over(0, s.len())
	s.rest()
	s.grow(found.len())
	for i := range found.len() {
		addr, m := found.at(i)
		m = flip(m)
		s.add(entry{addr, m.bits(), verdictOf(m), m.list()})
	}
}

// rest takes the addresses behind the last record.
func (s *sweep) rest() {
	if !s.wrapped {
		s.segment(u128{}.last(0))
		s.pos, s.wrapped = u128{}, true
	}
}

// add puts an entry that no list has into the table.
func (s *sweep) add(e entry) {
	if e.verdict == in {
		s.table.Restated++
	} else {
		s.table.Not++
	}
	s.put(e)
}

// over goes over the records from lo up to before hi, and leaves the stack as
// it found it.
func (s *sweep) over(lo, hi int) {
	floor := len(s.stack)
	var prev prefix // of the last record taken
	var prevMeta meta
	for i := lo; i < hi; i++ {
		addr, m := s.at(i)
		owner := m.owner()
		if !s.counts(owner) {
			continue
		}
		for len(s.stack) > floor && s.stack[len(s.stack)-1].last.less(addr) {
			s.leave(i)
		}
		if s.pos.less(addr) {
			s.segment(addr.prev())
			s.pos = addr
		}
		if s.pass == listed && len(s.stack) == 0 && s.subject[owner] && m.listed() && s.alone(i, hi) {
			continue
		}
		p := prefix{addr, int(m.bits())}
		if owner != 0 && prevMeta.owner() == owner && prev == p {
			// The first of its prefix and list stands, a negated one before a
			// listed one.
			if s.pass < within && s.subject[owner] {
				if prevMeta.listed() == m.listed() {
					s.lists[owner-1].Duplicates++
				} else {
					s.lists[owner-1].Conflicts++
				}
			}
			continue
		}
		prev, prevMeta = p, m
		s.enter(i, p, m)
	}
	for len(s.stack) > floor {
		s.leave(hi)
	}
}

// alone takes a listed entry with nothing around it or in it, as nearly all are,
// and reports whether record i is one. It is what enter, segment, leave and emit
// come to for such an entry.
func (s *sweep) alone(i, hi int) bool {
	addr, m := s.at(i)
	last := addr.last(m.bits())
	if i+1 < hi {
		if next, _ := s.at(i + 1); !last.less(next) {
			return false
		}
	}
	s.pos = last.next()
	s.wrapped = s.pos == u128{}
	s.lists[m.owner()-1].Enforced++
	s.table.Listed++
	s.put(entry{addr, m.bits(), in, m.list()})
	return true
}

// counts reports whether the records of this owner matter for the table.
func (s *sweep) counts(owner int) bool {
	if owner == 0 {
		return s.exceptions != nil
	}
	return s.subject[owner] || s.veto[owner]
}

// enter puts record i on the stack. pos is its first address.
func (s *sweep) enter(i int, p prefix, m meta) {
	owner := m.owner()
	f := frame{last: p.addr.last(uint8(p.bits)), record: i, owner: owner, before: s.says[owner]}
	switch {
	case owner == 0:
		s.excepted++
		if s.pass < within {
			s.met(s.next)
			s.open = append(s.open, s.next)
			s.next++
		}
	case s.veto[owner]:
		s.vetoing += s.say(owner, stateOf(m))
	default:
		s.listing += s.say(owner, stateOf(m))
		switch {
		case s.pass == within:
			if f.fixed = m&metaEnforce != 0; f.fixed {
				s.flush()
				s.join.fix(uint8(p.bits))
			}
		case s.pass == naming:
		case !m.listed():
			s.lists[owner-1].Negated++
		default:
			for _, x := range s.open {
				x := &s.exceptions[x]
				x.Inside++
				x.name(m.list(), s, i)
			}
			if s.candidate == p {
				s.lists[owner-1].Shared++
				break
			}
			f.candidate = true
			s.candidate = p
			if s.depth == 0 {
				s.torn = false
			}
			s.depth++
			switch {
			case s.excepted > 0:
				f.under = isExcepted
			case s.vetoing > 0:
				f.under = isAllowed
			}
		}
	}
	s.stack = append(s.stack, f)
}

// leave takes the top off the stack; hi is the first record behind it.
func (s *sweep) leave(hi int) {
	f := s.stack[len(s.stack)-1]
	if !s.wrapped && !f.last.less(s.pos) {
		s.segment(f.last)
		f.used = s.stack[len(s.stack)-1].used
		s.pos = f.last.next()
		s.wrapped = s.pos == u128{}
	}
	s.stack = s.stack[:len(s.stack)-1]
	switch {
	case f.owner == 0:
		s.excepted--
		if s.pass < within {
			s.open = s.open[:len(s.open)-1]
		}
	case s.veto[f.owner]:
		s.vetoing += s.say(f.owner, f.before)
	default:
		s.listing += s.say(f.owner, f.before)
	}
	if f.fixed {
		s.flush()
		s.join.unfix()
	}
	if !f.candidate {
		return
	}
	s.depth--
	l := &s.lists[f.owner-1]
	switch {
	case f.used:
		l.Enforced++
		if s.pass == listed {
			s.table.Listed++
			s.enforce(f.record)
		}
	case f.under == isExcepted:
		l.Excepted++
	case f.under == isAllowed:
		l.Allowed++
	default:
		l.Covered++
	}
	if s.pass == listed && s.depth == 0 && f.used {
		if s.torn {
			s.mend(f.record, hi)
		}
		s.emit(f.record, hi)
	}
}

// say sets what a list says, and returns by how much that changes the number
// of lists that list.
func (s *sweep) say(owner int, now state) int {
	d := 0
	if s.says[owner] == lists {
		d--
	}
	if now == lists {
		d++
	}
	s.says[owner] = now
	return d
}

func stateOf(m meta) state {
	if m.listed() {
		return lists
	}
	return negates
}

// segment takes the addresses from pos to last, of which the same holds. Who
// calls it moves pos.
func (s *sweep) segment(last u128) {
	v := out
	if s.listing > 0 && s.vetoing == 0 && s.excepted == 0 {
		v = in
	}
	if s.pass < within {
		if v == out {
			s.torn = true
		} else {
			for i := len(s.stack) - 1; i >= 0 && !s.stack[i].used; i-- {
				s.stack[i].used = true
			}
		}
	}
	switch s.pass {
	case smallest, within:
		if r := &s.run; !r.waits || r.verdict != v {
			s.flush()
			*r = run{true, s.pos, v}
		}
	case naming:
		s.name(v, last)
	}
}

// flush gives what waits to join.
func (s *sweep) flush() {
	if s.run.waits {
		s.join.add(s.run.first, s.pos.prev(), s.run.verdict)
		s.run.waits = false
	}
}

// name names the entries with verdict v whose first address with this verdict
// is in the segment from pos to last: those that begin before its end and
// have no name yet.
func (s *sweep) name(v verdict, last u128) {
	n := &s.names
	for i := &n.next[v]; *i < n.n; *i++ {
		addr, w := n.at(*i)
		if last.less(addr) {
			return
		}
		if w == v {
			n.name(*i, s.reason(v))
		}
	}
}

// reason returns the list that is answerable for the verdict at pos: the
// first of those that list it; or of the vetoes that do; or of those that
// negate it.
func (s *sweep) reason(v verdict) ListID {
	if s.excepted > 0 {
		return NoList
	}
	l := NoList
	for _, f := range s.stack {
		says := s.says[f.owner]
		var yes bool
		switch {
		case v == in:
			yes = s.subject[f.owner] && says == lists
		case s.vetoing > 0:
			yes = s.veto[f.owner] && says == lists
		default:
			yes = s.subject[f.owner] && says == negates
		}
		if yes {
			l = min(l, ListID(f.owner-1))
		}
	}
	return l
}

// mend finds what a root, made up by the records from lo up to before hi,
// needs beside the listed entries.
func (s *sweep) mend(lo, hi int) {
	pos, wrapped := s.pos, s.wrapped
	first, _ := s.at(lo)

	s.pass = within
	s.pos, s.wrapped = first, false
	s.join.begin(func(e entry) { s.added = append(s.added, e) })
	s.over(lo, hi)

	slices.SortFunc(s.added, func(a, b entry) int {
		return cmp.Or(a.addr.compare(b.addr), cmp.Compare(b.bits, a.bits))
	})
	s.names = names{
		n:    len(s.added),
		at:   func(i int) (u128, verdict) { return s.added[i].addr, s.added[i].verdict },
		name: func(i int, l ListID) { s.added[i].list = l },
	}
	s.pass = naming
	s.pos, s.wrapped = first, false
	s.over(lo, hi)

	s.pass = listed
	s.pos, s.wrapped = pos, wrapped
}

// emit puts the records from lo up to before hi that are to be enforced into
// the table, and what was added to them.
func (s *sweep) emit(lo, hi int) {
	added := s.added
	for lo < hi {
		// Those of one address go backwards.
		addr, _ := s.at(lo)
		end := lo + 1
		for end < hi {
			if a, _ := s.at(end); a != addr {
				break
			}
			end++
		}
		for i := end - 1; i >= lo; i-- {
			_, m := s.at(i)
			if m&metaEnforce == 0 || !s.subject[m.owner()] {
				continue
			}
			for len(added) > 0 {
				e := added[0]
				if c := e.addr.compare(addr); c > 0 || c == 0 && e.bits < m.bits() {
					break
				}
				s.add(e)
				added = added[1:]
			}
			s.put(entry{addr, m.bits(), in, m.list()})
		}
		lo = end
	}
	for _, e := range added {
		s.add(e)
	}
	s.added = s.added[:0]
}

// met reports the listed entries that an exception, which begins at pos, lies
// inside.
func (s *sweep) met(exception int) {
	if s.listing == 0 {
		return
	}
	x := &s.exceptions[exception]
	for i := len(s.stack) - 1; i >= 0; i-- {
		f := s.stack[i]
		if f.owner == 0 || !s.subject[f.owner] || s.seen[f.owner] {
			continue
		}
		s.seen[f.owner] = true
		if s.says[f.owner] == lists {
			x.Around++
			x.name(ListID(f.owner-1), s, f.record)
		}
	}
	for _, f := range s.stack {
		s.seen[f.owner] = false
	}
}

func (x *Excepted) name(l ListID, s *sweep, record int) {
	if len(x.Entries) < Keep {
		x.Entries = append(x.Entries, Listed{l, s.prefix(record)})
	}
}
