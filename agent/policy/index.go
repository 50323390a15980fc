package policy

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// Index finds the entry of a [Set] that decides for an address, as pf does:
// the longest prefix wins. It stands on its own, without the Set, and never
// changes.
//
// It takes less than 12 bytes an IPv4 entry and less than 40 an IPv6 entry;
// mostly 9 and 27.
//
// Two prefixes either nest or have nothing in common. So of the entries that
// begin at or before an address, the last one decides for it (of one address
// the longest), or if that ends too early, one of those around it. A finder
// says where to look for that last one, up to a few neighbours. These are
// compared all, without a branch: a look-up is mostly waiting for memory, and
// a processor that waits goes on with what comes after, unless it has guessed
// a branch wrong.
type Index struct {
	lists []string

	// The IPv4 entries from 1 on, of one address the shortest first. In front
	// stands one that is before all addresses, behind a window of those
	// behind all.
	entry4 []entry4
	list4  []uint8 // nil when entry4 has them; one behind the lists is NoList
	place4 uint8
	find4  finder

	entry6 []entry6
	find6  finder
}

// entry4 is one number, in the order of its address:
//
//	bits 32-63  address
//	bits 26-31  prefix length
//	bit  25     negated
//	bits 0-24   its list, above the place of the shortest entry around it
//	            that ends later, 0 if there is none
//
// How many bits the place has says Index.place4: as many as the number of
// entries needs. Should the rest not be enough for the lists, then they have
// a column of their own. 25 bits are enough for the places of [MaxRecords].
type entry4 uint64

const rest4 = 25

func (e entry4) addr() uint32 { return uint32(e >> 32) }
func (e entry4) bits() uint8  { return uint8(e>>26) & 63 }
func (e entry4) not() bool    { return e>>25&1 != 0 }

type entry6 struct {
	addr u128
	up   uint32
	tag  tag
	bits uint8
}

// A look-up compares window neighbours, of which it looks at four: the first,
// and three to halve the rest. A slot of the finder has each entries in the
// mean, so that it rarely has more; depth is how many levels of parts a
// finder has.
const (
	window        = 8
	each4, depth4 = 4, 2
	each6, depth6 = 3, 4
)

// NewIndex returns an Index of s. A nil Set is an empty one.
func NewIndex(s *Set) *Index {
	if s == nil {
		s = new(Set)
	}
	x := &Index{lists: s.lists}
	if n := len(s.addr4); n > 0 {
		x.entry4 = make([]entry4, 1, 1+n+window)
		x.place4 = uint8(bits.Len(uint(n)))
		if int(x.place4)+bits.Len(uint(len(s.lists))) > rest4 {
			x.list4 = make([]uint8, 1, 1+n)
		}
		enclose(n, func(i int) (u128, uint8) { return from4(s.addr4[i]), s.bits4[i] }, func(i, up int) {
			e := entry4(s.addr4[i])<<32 | entry4(s.bits4[i])<<26 | entry4(up)
			if s.tag4[i].not() {
				e |= 1 << rest4
			}
			l := min(s.tag4[i].list(), ListID(len(s.lists)))
			if x.list4 != nil {
				x.list4 = append(x.list4, uint8(l))
			} else {
				e |= entry4(l) << x.place4
			}
			x.entry4 = append(x.entry4, e)
		})
		x.find4.build(1, 1+n, each4, depth4, func(i int) u128 { return u128{hi: uint64(x.entry4[i].addr())} })
		for range window {
			x.entry4 = append(x.entry4, ^entry4(0))
		}
	}
	if n := len(s.addr6); n > 0 {
		x.entry6 = make([]entry6, 1, 1+n+window)
		enclose(n, func(i int) (u128, uint8) { return s.addr6[i], s.bits6[i] }, func(i, up int) {
			x.entry6 = append(x.entry6, entry6{s.addr6[i], uint32(up), s.tag6[i], s.bits6[i]})
		})
		x.find6.build(1, 1+n, each6, depth6, func(i int) u128 { return x.entry6[i].addr })
		for range window {
			x.entry6 = append(x.entry6, entry6{addr: u128{}.last(0)})
		}
	}
	return x
}

// Lists returns the names of all lists of the policy, by ListID; the caller
// must not change them.
func (x *Index) Lists() []string { return x.lists }

// Lookup returns the entry that decides for an address, and the list it comes
// from as [Set.ListOf] has it; ok says that the address is in the table. When
// the deciding entry is a negated one, ok is false and entry is that entry;
// when there is none, entry is the zero Prefix and list is NoList. An
// IPv4-mapped IPv6 address is looked up as IPv4, a zone is ignored, the zero
// Addr is in no table. Lookup does not allocate.
func (x *Index) Lookup(a netip.Addr) (list ListID, entry netip.Prefix, ok bool) {
	switch {
	case a.Is4() || a.Is4In6():
		b := a.As4()
		return x.lookup4(binary.BigEndian.Uint32(b[:]))
	case a.Is6():
		return x.lookup6(number(a))
	}
	return NoList, netip.Prefix{}, false
}

func (x *Index) lookup4(a uint32) (ListID, netip.Prefix, bool) {
	i, n := x.find4.find(u128{hi: uint64(a)})
	most := uint64(a)<<32 | (1<<32 - 2) // no entry has more with this address, those behind all have
	if n <= window {
		if i+window > len(x.entry4) { // no entries at all
			return NoList, netip.Prefix{}, false
		}
		w := (*[window]entry4)(x.entry4[i:])
		_, b0 := bits.Sub64(most, uint64(w[0]), 0)
		_, b := bits.Sub64(most, uint64(w[4]), 0)
		k := 4 & (b - 1)
		_, b = bits.Sub64(most, uint64(w[(k+2)&7]), 0)
		k += 2 & (b - 1)
		_, b = bits.Sub64(most, uint64(w[(k+1)&7]), 0)
		i += int(k + 1 - b - b0)
	} else {
		lo, hi := i, i+n
		for lo < hi {
			if m := int(uint(lo+hi) / 2); uint64(x.entry4[m]) <= most {
				lo = m + 1
			} else {
				hi = m
			}
		}
		i = lo - 1
	}
	for i > 0 {
		e := x.entry4[i]
		if (a^e.addr())>>(32-e.bits()) == 0 {
			return x.list(i), prefix4(e.addr(), e.bits()), !e.not()
		}
		i = int(e & (1<<x.place4 - 1))
	}
	return NoList, netip.Prefix{}, false
}

// before returns 1 if a is before b, else 0.
func before(a, b u128) uint64 {
	_, c := bits.Sub64(a.lo, b.lo, 0)
	_, c = bits.Sub64(a.hi, b.hi, c)
	return c
}

// list returns the list of IPv4 entry i.
func (x *Index) list(i int) ListID {
	l := ListID(x.entry4[i] & (1<<rest4 - 1) >> x.place4)
	if x.list4 != nil {
		l = ListID(x.list4[i])
	}
	if int(l) == len(x.lists) {
		return NoList
	}
	return l
}

func (x *Index) lookup6(a u128) (ListID, netip.Prefix, bool) {
	i, n := x.find6.find(a)
	if n <= window {
		if i+window > len(x.entry6) {
			return NoList, netip.Prefix{}, false
		}
		w := (*[window]entry6)(x.entry6[i:])
		b0 := before(a, w[0].addr)
		k := 4 & (before(a, w[4].addr) - 1)
		k += 2 & (before(a, w[(k+2)&7].addr) - 1)
		i += int(k + 1 - before(a, w[(k+1)&7].addr) - b0)
		i = min(i, len(x.entry6)-window-1) // those behind all may be equal
	} else {
		lo, hi := i, i+n
		for lo < hi {
			if m := int(uint(lo+hi) / 2); !a.less(x.entry6[m].addr) {
				lo = m + 1
			} else {
				hi = m
			}
		}
		i = lo - 1
	}
	for i > 0 {
		e := &x.entry6[i]
		if !e.addr.last(e.bits).less(a) {
			return e.tag.list(), prefix6(e.addr, e.bits), !e.tag.not()
		}
		i = int(e.up)
	}
	return NoList, netip.Prefix{}, false
}

// enclose goes over n entries in a table's order and calls put for each, of
// one address the shortest first, with the place (counted from 1) of the
// shortest entry around it that ends later.
func enclose(n int, at func(int) (u128, uint8), put func(i, up int)) {
	type around struct {
		last  u128
		place int
		up    int
	}
	var stack []around
	place := 1
	for i := 0; i < n; {
		addr, _ := at(i)
		end := i + 1
		for end < n {
			if a, _ := at(end); a != addr {
				break
			}
			end++
		}
		for j := end - 1; j >= i; j-- {
			_, bits := at(j)
			last := addr.last(bits)
			for len(stack) > 0 && stack[len(stack)-1].last.less(last) {
				stack = stack[:len(stack)-1]
			}
			up := 0
			if len(stack) > 0 {
				top := stack[len(stack)-1]
				up = top.place
				if top.last == last {
					up = top.up
				}
			}
			stack = append(stack, around{last, place, up})
			put(j, up)
			place++
		}
		i = end
	}
}

// finder narrows down where in a sorted column an address belongs.
//
// A part divides a range of keys into equal slots, of a few entries each in
// the mean, and knows where the entries of each slot begin. Real addresses
// crowd together, in IPv6 above all; so a slot with many entries has a part
// of its own. A key is an IPv4 address, or one half of an IPv6 address: the
// second where all entries of a part have the first in common.
type finder struct {
	parts []part
	slots []uint32 // of all parts: an entry, or divided|part
}

type part struct {
	base, span uint64 // the first key, and how far it is to the last
	scale      uint64 // slots for the distance 2^64, after shift
	hi         uint64 // with second: the first half of all
	from, to   uint32 // the entries
	first      uint32 // in finder.slots; there is one more than slots, for the entry to
	shift      uint8  // to the left, makes the highest bit of span bit 63
	second     bool   // keys are second halves
}

const (
	divided = 1 << 31
	crowd   = 256 // slots with more entries are divided, unless the part is one of the last level
)

// build makes the finder for the entries from from up to before to, with each
// of them a slot and depth levels of parts. Keys are given as first and
// second half.
func (f *finder) build(from, to, each, depth int, at func(int) u128) {
	f.slots = make([]uint32, 0, (to-from)/each+2)
	f.split(from, to, each, depth, at)
	f.slots = trim(f.slots)
}

func (f *finder) split(from, to, each, depth int, at func(int) u128) {
	least, most := at(from), at(to-1)
	p := part{base: least.hi, span: most.hi - least.hi, from: uint32(from), to: uint32(to), first: uint32(len(f.slots))}
	if p.span == 0 {
		p = part{base: least.lo, span: most.lo - least.lo, hi: least.hi, from: p.from, to: p.to, first: p.first, second: true}
	}
	slots := uint64((to-from)/each + 1)
	p.shift = uint8(min(bits.LeadingZeros64(p.span), 63))
	if t := p.span<<p.shift + 1; t != 0 {
		p.scale, _ = bits.Div64(slots, 0, max(t, 1<<63))
	} else {
		p.scale = slots
	}
	f.parts = append(f.parts, p)
	next := uint64(0)
	for i := from; i < to; i++ {
		key := at(i).hi
		if p.second {
			key = at(i).lo
		}
		for s := p.slot(key - p.base); next <= s; next++ {
			f.slots = append(f.slots, uint32(i))
		}
	}
	for ; next <= slots; next++ {
		f.slots = append(f.slots, uint32(to))
	}
	if depth == 1 || least == most {
		return
	}
	for s := range slots {
		s := uint64(p.first) + s
		from, to := int(f.slots[s]), int(f.slots[s+1])
		if to-from > crowd {
			f.slots[s] = divided | uint32(len(f.parts))
			f.split(from, to, each, depth-1, at)
		}
	}
}

// slot returns the slot of a key at distance d from base, which is at most
// span.
func (p *part) slot(d uint64) uint64 {
	s, _ := bits.Mul64(d<<(p.shift&63), p.scale)
	return s
}

// find returns the first of the entries among which is the first that begins
// behind a, and how many they are; or that entry itself and 0.
func (f *finder) find(a u128) (first, n int) {
	if len(f.parts) == 0 {
		return 0, 0
	}
	p := &f.parts[0]
	for {
		key := a.hi
		if p.second {
			if key != p.hi {
				if key < p.hi {
					return int(p.from), 0
				}
				return int(p.to), 0
			}
			key = a.lo
		}
		d := key - p.base
		if d > p.span {
			if key < p.base {
				return int(p.from), 0
			}
			return int(p.to), 0
		}
		s := f.slots[uint64(p.first)+p.slot(d):]
		from, to := s[0], s[1]
		if from&divided != 0 {
			p = &f.parts[from&^divided]
			continue
		}
		if to&divided != 0 {
			to = f.parts[to&^divided].from
		}
		return int(from), int(to - from)
	}
}
