package policy

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
	"sort"
)

// Index finds the entry of a [Set] that decides for an address, as pf does:
// the longest prefix wins. It stands on its own, without the Set, and never
// changes.
//
// It takes 4 bytes an IPv4 entry, 8 where entries nest, and half a megabyte at
// most beside; and less than 40 bytes an IPv6 entry, mostly 26.
//
// IPv4 entries have an index of their own. Of IPv6, a finder says where to look
// for the last entry at or before an address, up to a few neighbours, and these
// are all compared, without a branch: while a look-up waits for memory, the
// processor goes on with what comes next, unless it has guessed a branch wrong.
type Index struct {
	lists []string

	v4 index4

	// The IPv6 entries from 1 on, of one address the shortest first. In front
	// stands one that is before all addresses, behind a window of those
	// behind all.
	entry6 []entry6
	find6  finder
}

// entry6 is an entry, and the place of the shortest entry around it that ends
// later, 0 if there is none.
type entry6 struct {
	addr u128
	up   uint32
	tag  tag
	bits uint8
}

// A look-up compares so many neighbours. A slot of the finder has each entries
// in the mean, so that it rarely has more than these; depth is how many levels
// of parts a finder has.
const window6, each6, depth6 = 5, 2, 4

// NewIndex returns an Index of s. A nil Set is an empty one.
func NewIndex(s *Set) *Index {
	if s == nil {
		s = new(Set)
	}
	x := &Index{lists: s.lists, v4: newIndex4(s)}
	if n := len(s.addr6); n > 0 {
		x.entry6 = make([]entry6, 1, 1+n+window6)
		enclose(s, func(i, up int) {
			x.entry6 = append(x.entry6, entry6{s.addr6[i], uint32(up), s.tag6[i], s.bits6[i]})
		})
		x.find6.build(1, 1+n, each6, depth6, func(i int) u128 { return x.entry6[i].addr })
		for range window6 {
			x.entry6 = append(x.entry6, entry6{addr: u128{}.last(0)})
		}
	}
	return x
}

// Lists returns the names of all lists of the policy, by ListID; the caller
// must not change them.
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
		b := a.As4()
		addr := binary.BigEndian.Uint32(b[:])
		e, ok := x.v4.decides(addr)
		if !ok {
			break
		}
		if list = e.list(); int(list) == len(x.lists) {
			list = NoList
		}
		n := e.bits()
		return list, prefix4(addr&^uint32(uint64(1)<<(32-n)-1), n), !e.not()
	case a.Is6():
		i := x.decides6(number(a))
		if i == 0 {
			break
		}
		e := &x.entry6[i]
		return e.tag.list(), prefix6(e.addr, e.bits), !e.tag.not()
	}
	return NoList, netip.Prefix{}, false
}

// decides6 returns the place of the entry that decides for a, or 0.
func (x *Index) decides6(a u128) int {
	i, n := x.find6.find(a.hi, a.lo)
	if n > window6 {
		i += sort.Search(n, func(k int) bool { return a.less(x.entry6[i+k].addr) }) - 1
	} else if i > 0 {
		w := (*[window6]entry6)(x.entry6[i:])
		i += window6 - 1 - int(before(a, w[0].addr)+before(a, w[1].addr)+
			before(a, w[2].addr)+before(a, w[3].addr)+before(a, w[4].addr))
		i = min(i, len(x.entry6)-1-window6)
	}
	for i > 0 {
		e := &x.entry6[i]
		if !e.addr.last(e.bits).less(a) {
			break
		}
		i = int(e.up)
	}
	return i
}

// before returns 1 if a is before b, else 0.
func before(a, b u128) uint64 {
	_, c := bits.Sub64(a.lo, b.lo, 0)
	_, c = bits.Sub64(a.hi, b.hi, c)
	return c
}

// enclose goes over the IPv6 entries of s and calls put for each, of one
// address the shortest first, with the place (counted from 1) of the shortest
// entry around it that ends later.
func enclose(s *Set, put func(i, up int)) {
	type around struct {
		last  u128
		place int
		up    int
	}
	var stack []around
	place, n := 1, len(s.addr6)
	for i := 0; i < n; {
		end := i + 1
		for end < n && s.addr6[end] == s.addr6[i] {
			end++
		}
		for j := end - 1; j >= i; j-- {
			last := s.addr6[j].last(s.bits6[j])
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
// of its own. A key is one half of an address: the second where all entries of
// a part have the first in common.
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
func (f *finder) find(hi, lo uint64) (first, n int) {
	if len(f.parts) == 0 {
		return 0, 0
	}
	p := &f.parts[0]
	for {
		key := hi
		if p.second {
			if hi != p.hi {
				if hi < p.hi {
					return int(p.from), 0
				}
				return int(p.to), 0
			}
			key = lo
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
