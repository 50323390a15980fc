package policy

import (
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
// the longest), or if that ends too early, one of those around it. A
// finder says where to look for that last one, up to a few neighbours. These
// are compared all, without a branch: a look-up is mostly waiting
// for memory, and a processor that waits goes on with what comes after, unless it
// has guessed a branch wrong.
type Index struct {
	lists []string

	// The IPv4 entries from 1 on, of one address the shortest first. In front stands one that
	// is before all addresses, behind a window of those behind all.
	entry4 []entry4
	list4  []ListID // nil when entry4 has them
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

// How many neighbours are compared; how many entries a slot of the finder
// has in the mean, so that it rarely has more than a window; and how many
// levels of parts a finder has.
const (
	window4, each4, depth4 = 12, 6, 2
	window6, each6, depth6 = 6, 2, 4
)

// NewIndex returns an Index of s. A nil Set is an empty one.
func NewIndex(s *Set) *Index {
	if s == nil {
		s = new(Set)
	}
	x := &Index{lists: s.lists}
	if n := len(s.addr4); n > 0 {
		x.entry4 = make([]entry4, 1, 1+n+window4)
		x.place4 = uint8(bits.Len(uint(n)))
		if int(x.place4)+bits.Len(uint(len(s.lists))) > rest4 {
			x.list4 = make([]ListID, 1, 1+n)
		}
		enclose(n, func(i int) (u128, uint8) { return from4(s.addr4[i]), s.bits4[i] }, func(i, up int) {
			e := entry4(s.addr4[i])<<32 | entry4(s.bits4[i])<<26 | entry4(up)
			if s.tag4[i].not() {
				e |= 1 << rest4
			}
			l := s.tag4[i].list()
			switch {
			case x.list4 != nil:
				x.list4 = append(x.list4, l)
			case l == NoList:
				e |= entry4(len(s.lists)) << x.place4
			default:
				e |= entry4(l) << x.place4
			}
			x.entry4 = append(x.entry4, e)
		})
		x.find4.build(1, 1+n, each4, depth4, func(i int) u128 { return from4(x.entry4[i].addr()) })
		for range window4 {
			x.entry4 = append(x.entry4, ^entry4(0))
		}
	}
	if n := len(s.addr6); n > 0 {
		x.entry6 = make([]entry6, 1, 1+n+window6)
		enclose(n, func(i int) (u128, uint8) { return s.addr6[i], s.bits6[i] }, func(i, up int) {
			x.entry6 = append(x.entry6, entry6{s.addr6[i], uint32(up), s.tag6[i], s.bits6[i]})
		})
		x.find6.build(1, 1+n, each6, depth6, func(i int) u128 { return x.entry6[i].addr })
		for range window6 {
			x.entry6 = append(x.entry6, entry6{addr: u128{}.last(0)})
		}
	}
	return x
}

// Lists returns the names of all lists of the policy, by ListID; the caller must not
// change them.
func (x *Index) Lists() []string { return x.lists }

// Lookup returns the entry that decides for an address, and the list it
// comes from as [Set.ListOf] has it; ok says that the address is in the
// table. When the deciding entry is a negated one, ok is false and entry is
// that entry; when there is none, entry is the zero Prefix and list is NoList.
// An IPv4-mapped IPv6 address is looked up as IPv4, a zone is ignored, the
// zero Addr is in no table. Lookup does not allocate.
func (x *Index) Lookup(a netip.Addr) (list ListID, entry netip.Prefix, ok bool) {
	switch {
	case a.Is4() || a.Is4In6():
		return x.lookup4(number(a.Unmap()))
	case a.Is6():
		return x.lookup6(number(a))
	}
	return NoList, netip.Prefix{}, false
}

func (x *Index) lookup4(key u128) (ListID, netip.Prefix, bool) {
	i, n := x.find4.find(key)
	a := key.to4()
	most := uint64(a)<<32 | (1<<32 - 2) // no entry has more with this address, those behind all have
	if n <= window4 {
		if i+window4 > len(x.entry4) { // no entries at all
			return NoList, netip.Prefix{}, false
		}
		after := uint64(0)
		for _, e := range (*[window4]entry4)(x.entry4[i:]) {
			_, b := bits.Sub64(most, uint64(e), 0)
			after += b
		}
		i += window4 - int(after) - 1
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

// list returns the list of IPv4 entry i.
func (x *Index) list(i int) ListID {
	if x.list4 != nil {
		return x.list4[i]
	}
	l := ListID(x.entry4[i] & (1<<rest4 - 1) >> x.place4)
	if int(l) == len(x.lists) {
		return NoList
	}
	return l
}

func (x *Index) lookup6(a u128) (ListID, netip.Prefix, bool) {
	i, n := x.find6.find(a)
	if n <= window6 {
		if i+window6 > len(x.entry6) {
			return NoList, netip.Prefix{}, false
		}
		w := (*[window6]entry6)(x.entry6[i:])
		after := uint64(0)
		for j := range w {
			_, b := bits.Sub64(a.lo, w[j].addr.lo, 0)
			_, b = bits.Sub64(a.hi, w[j].addr.hi, b)
			after += b
		}
		i = min(i+window6-int(after), len(x.entry6)-window6) - 1 // those behind all may be equal
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

// enclose goes over n entries in a table's order and calls put for each, of one
// address the shortest first, with the place (counted from 1) of the shortest entry around it that
// ends later.
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
// A part divides a range of addresses into equal slots, about two for a
// window of entries, and knows where the entries of each slot begin. Real
// addresses crowd together, in IPv6 above all; so a slot with many entries
// has a part of its own.
type finder struct {
	parts []part
	slots []uint32 // of all parts: an entry, or divided|part
}

type part struct {
	base, span u128   // the first address, and how far it is to the last
	scale      uint64 // slots for the distance 2^64, after shift
	lo, hi     uint32 // the entries
	first      uint32 // in finder.slots; there is one more than slots, for hi
	shift      uint8  // to the left, makes the highest bit of span bit 127
}

const (
	divided = 1 << 31
	crowd   = 256 // slots with more entries are divided, unless the part is one of the last level
)

func (f *finder) build(lo, hi, each, depth int, at func(int) u128) {
	f.slots = make([]uint32, 0, (hi-lo)/each+2)
	f.split(lo, hi, each, depth, at)
	f.slots = trim(f.slots)
}

// split makes the part for the entries from lo up to before hi.
func (f *finder) split(lo, hi, each, depth int, at func(int) u128) {
	p := part{base: at(lo), lo: uint32(lo), hi: uint32(hi), first: uint32(len(f.slots))}
	p.span = at(hi - 1).minus(p.base)
	slots := uint64((hi-lo)/each + 1)
	p.shift = uint8(min(128-p.span.bitLen(), 127))
	if t := p.span.top(p.shift) + 1; t != 0 {
		p.scale, _ = bits.Div64(slots, 0, max(t, 1<<63))
	} else {
		p.scale = slots
	}
	f.parts = append(f.parts, p)
	next := uint64(0)
	for i := lo; i < hi; i++ {
		for s := p.slot(at(i).minus(p.base)); next <= s; next++ {
			f.slots = append(f.slots, uint32(i))
		}
	}
	for ; next <= slots; next++ {
		f.slots = append(f.slots, uint32(hi))
	}
	if depth == 1 || p.span == (u128{}) {
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

// slot returns the slot of an address at distance d from base, which is at most span.
func (p *part) slot(d u128) uint64 {
	s, _ := bits.Mul64(d.top(p.shift), p.scale)
	return s
}

// top returns the upper half of a shifted left.
func (a u128) top(shift uint8) uint64 {
	if shift < 64 {
		return a.hi<<shift | a.lo>>(64-shift)
	}
	return a.lo << (shift - 64)
}

// find returns the first of the entries among which is the first that begins behind a, and
// how many they are; or that entry itself and 0.
func (f *finder) find(a u128) (first, n int) {
	if len(f.parts) == 0 {
		return 0, 0
	}
	p := &f.parts[0]
	for {
		if a.less(p.base) {
			return int(p.lo), 0
		}
		d := a.minus(p.base)
		if p.span.less(d) {
			return int(p.hi), 0
		}
		s := f.slots[uint64(p.first)+p.slot(d):]
		lo, hi := s[0], s[1]
		if lo&divided != 0 {
			p = &f.parts[lo&^divided]
			continue
		}
		if hi&divided != 0 {
			hi = f.parts[hi&^divided].lo
		}
		return int(lo), int(hi - lo)
	}
}
