package pfsim

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
	"slices"
)

// The kernel keeps a table in two radix trees whose walk is by ascending
// address and, for one address, the longest prefix first. Here each is a sorted
// column: an IPv4 entry is 8 bytes and an IPv6 entry 24, and what few entries
// have (counters, the interface and weight of a route-to pool) stands aside in
// a map.

// Low bits of an entry, the same in both families. The rest is its key.
const (
	entNot   = 1 << 25 // negated
	entMark  = 1 << 24 // seen, PFRKE_FLAG_MARK
	entExtra = 1 << 23 // has something in table.extras
	entEpoch = 1<<23 - 1

	entFlags = 1<<26 - 1
)

// An entry is one prefix of a family with its flags.
type entry[E any] interface {
	compare(E) int // of the keys, in the order of the walk
	flags() uint32
	with(flags uint32) E
	prefix() prefix
	bits() uint8 // length of the prefix
}

// entry4 is address (32 bits), 32 minus length (6), flags (26).
type entry4 uint64

// entry6 is the same in three words.
type entry6 struct{ hi, lo, meta uint64 }

// prefix is the key of an entry in a form that both families share. An IPv4
// address is the upper half of hi.
type prefix struct {
	hi, lo uint64
	af     uint8
	net    uint8
}

// maxBits is the length of a host's prefix.
func (p prefix) maxBits() uint8 {
	if p.af == afInet {
		return 32
	}
	return 128
}

// unroutable reports whether the kernel cannot add the prefix: its tree's own
// leftmost leaf has the key of the host address of all zeros (radix.c:
// rn_inithead0), so that such an entry is taken for a duplicate.
func (p prefix) unroutable() bool { return p.hi|p.lo == 0 && p.net == p.maxBits() }

// masked is the prefix shortened to net bits.
func (p prefix) masked(net uint8) prefix {
	p.net = net
	switch {
	case net == 0:
		p.hi, p.lo = 0, 0
	case net < 64:
		p.hi &^= 1<<(64-net) - 1
		p.lo = 0
	case net < 128:
		p.lo &^= 1<<(128-net) - 1
	}
	return p
}

func (p prefix) entry4() entry4 { return entry4(p.hi | uint64(32-p.net)<<26) }
func (p prefix) entry6() entry6 { return entry6{p.hi, p.lo, uint64(128-p.net) << 26} }

func (e entry4) compare(f entry4) int {
	a, b := e|entFlags, f|entFlags
	if a < b {
		return -1
	}
	if a > b {
		return 1
	}
	return 0
}
func (e entry4) flags() uint32            { return uint32(e) & entFlags }
func (e entry4) with(flags uint32) entry4 { return e&^entFlags | entry4(flags) }
func (e entry4) bits() uint8              { return 32 - uint8(e>>26&0x3f) }
func (e entry4) prefix() prefix           { return prefix{uint64(e) &^ (1<<32 - 1), 0, afInet, e.bits()} }
func (e entry6) flags() uint32            { return uint32(e.meta) & entFlags }
func (e entry6) with(flags uint32) entry6 { e.meta = e.meta&^entFlags | uint64(flags); return e }
func (e entry6) bits() uint8              { return 128 - uint8(e.meta>>26) }
func (e entry6) prefix() prefix           { return prefix{e.hi, e.lo, afInet6, e.bits()} }
func (e entry6) compare(f entry6) int {
	switch {
	case e.hi != f.hi:
		if e.hi < f.hi {
			return -1
		}
		return 1
	case e.lo != f.lo:
		if e.lo < f.lo {
			return -1
		}
		return 1
	}
	return int(e.meta>>26) - int(f.meta>>26)
}

// column is the entries of one family, sorted.
type column[E entry[E]] struct {
	list  []E
	count []int32 // entries of each length, nil while there is none
}

// find returns where the entry with e's key is, or would be. *hint is where the
// last look-up ended: sorted requests are answered without a search.
func (c *column[E]) find(e E, hint *int) (int, bool) {
	lo, hi := 0, len(c.list)
	if h := *hint; h < hi {
		switch d := c.list[h].compare(e); {
		case d == 0:
			*hint = h + 1
			return h, true
		case d > 0:
			hi = h
		default:
			lo = h + 1
			for step := 1; lo < hi; step *= 2 {
				at := min(lo+step-1, hi-1)
				d := c.list[at].compare(e)
				if d == 0 {
					*hint = at + 1
					return at, true
				}
				if d > 0 {
					hi = at
					break
				}
				lo = at + 1
			}
		}
	} else if hi > 0 && c.list[hi-1].compare(e) < 0 {
		return hi, false
	}
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		d := c.list[mid].compare(e)
		if d == 0 {
			*hint = mid + 1
			return mid, true
		}
		if d < 0 {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	*hint = lo
	return lo, false
}

// unmark clears the mark of every entry (PFRW_MARK).
func (c *column[E]) unmark() {
	for i, e := range c.list {
		c.list[i] = e.with(e.flags() &^ entMark)
	}
}

func (c *column[E]) counted(e E, by int32) {
	if c.count == nil {
		c.count = make([]int32, e.prefix().maxBits()+1)
	}
	c.count[e.bits()] += by
}

// remove takes out the entries for which drop says so.
func (c *column[E]) remove(drop func(i int, e E) bool) {
	n := 0
	for i, e := range c.list {
		if drop(i, e) {
			c.counted(e, -1)
			continue
		}
		c.list[n] = e
		n++
	}
	c.list = c.list[:n]
	c.shrink()
}

// insert merges sorted entries, none of which is there yet. It may keep add.
func (c *column[E]) insert(add []E) {
	for _, e := range add {
		c.counted(e, 1)
	}
	if len(c.list) == 0 {
		c.list = add
		c.shrink()
		return
	}
	n, m := len(c.list), len(add)
	c.list = slices.Grow(c.list, m)[:n+m]
	for n, m = n-1, m-1; m >= 0; {
		if n >= 0 && c.list[n].compare(add[m]) > 0 {
			c.list[n+m+1] = c.list[n]
			n--
		} else {
			c.list[n+m+1] = add[m]
			m--
		}
	}
}

// shrink gives memory back when much of it is unused.
func (c *column[E]) shrink() {
	if n := len(c.list); cap(c.list) > n+n/4+64 {
		c.list = append(make([]E, 0, n), c.list...)
	}
}

// scratch collects the new entries of a request: the table that the kernel
// makes for the time of one. While they come in order nothing but the last is
// looked at; from the first that does not, an index finds duplicates.
type scratch[E entry[E]] struct {
	list   []E
	most   int      // entries that may come, as the request has it
	index  []uint32 // positions in list plus 1, open addressing; nil while in order
	sorted bool
}

func newScratch[E entry[E]](most int) scratch[E] { return scratch[E]{most: most, sorted: true} }

// has returns where an entry with e's key is, or -1.
func (s *scratch[E]) has(e E) int {
	n := len(s.list)
	if n == 0 {
		return -1
	}
	if s.index == nil {
		switch d := s.list[n-1].compare(e); {
		case d < 0:
			return -1
		case d == 0:
			return n - 1
		}
		s.rehash(n)
	}
	for h := s.slot(e); ; h = (h + 1) & (len(s.index) - 1) {
		i := int(s.index[h]) - 1
		if i < 0 {
			return -1
		}
		if s.list[i].compare(e) == 0 {
			return i
		}
	}
}

// add appends an entry that has just been found not to be there.
func (s *scratch[E]) add(e E) {
	if n := len(s.list); n > 0 && s.list[n-1].compare(e) > 0 {
		s.sorted = false
	}
	if n := len(s.list); n == cap(s.list) {
		// By doubling, since a request may announce more than it has, and
		// never by more than it has announced.
		s.list = append(make([]E, 0, n+max(min(n, s.most-n), 64)), s.list...)
	}
	s.list = append(s.list, e)
	if s.index != nil {
		if len(s.list)*2 > len(s.index) {
			s.rehash(len(s.list))
		} else {
			s.enter(len(s.list) - 1)
		}
	}
}

func (s *scratch[E]) slot(e E) int {
	p := e.prefix()
	h, l := bits.Mul64(p.hi^0x9e3779b97f4a7c15, p.lo^uint64(p.net)<<32^0xc2b2ae3d27d4eb4f)
	return int((h ^ l) >> 7 & uint64(len(s.index)-1))
}

func (s *scratch[E]) enter(i int) {
	h := s.slot(s.list[i])
	for s.index[h] != 0 {
		h = (h + 1) & (len(s.index) - 1)
	}
	s.index[h] = uint32(i + 1)
}

func (s *scratch[E]) rehash(n int) {
	s.index = make([]uint32, 1<<bits.Len(uint(n)*3+13))
	for i := range s.list {
		s.enter(i)
	}
}

// sort brings the entries into the table's order; positions are lost.
func (s *scratch[E]) sort() []E {
	if !s.sorted {
		if l, ok := any(s.list).([]entry4); ok {
			slices.Sort(l) // no key is twice, so flags do not matter
		} else {
			slices.SortFunc(s.list, E.compare)
		}
		s.sorted = true
	}
	s.index = nil
	return s.list
}

// parsePrefix reads the address of a struct pfr_addr as its key.
func parsePrefix(a []byte) prefix {
	p := prefix{binary.BigEndian.Uint64(a), binary.BigEndian.Uint64(a[8:]), a[addrAF], a[addrNet]}
	if p.af == afInet {
		p.hi, p.lo = p.hi&^(1<<32-1), 0
	}
	return p
}

// putAddress writes the address bytes of the prefix: 4 or 16 of them.
func (p prefix) putAddress(a []byte) {
	if p.af == afInet {
		binary.BigEndian.PutUint32(a, uint32(p.hi>>32))
		return
	}
	binary.BigEndian.PutUint64(a, p.hi)
	binary.BigEndian.PutUint64(a[8:], p.lo)
}

// hostPrefix is the key of a host.
func hostPrefix(a netip.Addr) prefix {
	if a.Is4() {
		b := a.As4()
		return prefix{uint64(binary.BigEndian.Uint32(b[:])) << 32, 0, afInet, 32}
	}
	b := a.As16()
	return prefix{binary.BigEndian.Uint64(b[:]), binary.BigEndian.Uint64(b[8:]), afInet6, 128}
}
