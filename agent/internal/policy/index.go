package policy

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// Index finds the entry of a [Set] that decides for an address, as pf does: the longest prefix wins. It
// never changes. It takes 4 bytes an entry, where entries nest, besides the set.
type Index struct {
	set *Set

	// up has the entry around each entry, or none; nil when no entry is inside another.
	up []uint32
	// first4 has, by the first half of an IPv4 address, the first entry that begins there or later.
	first4 []uint32
}

const none = ^uint32(0)

// NewIndex returns an Index of s. A nil Set is an empty one.
func NewIndex(s *Set) *Index {
	if s == nil {
		s = new(Set)
	}
	x := &Index{set: s, first4: make([]uint32, 1<<16+1)}
	n4 := len(s.v4) / size4
	half := 0
	for i := range n4 {
		for h := int(binary.BigEndian.Uint16(s.v4[i*size4:])); half <= h; half++ {
			x.first4[half] = uint32(i)
		}
	}
	for ; half < len(x.first4); half++ {
		x.first4[half] = uint32(n4)
	}
	x.nest(0, n4)
	x.nest(n4, s.Len())
	return x
}

// nest finds the entries around those from lo up to before hi, which are of one family.
func (x *Index) nest(lo, hi int) {
	var stack []uint32 // the entries around the address reached
	for lo < hi {
		addr, end := x.set.At(lo).addr, lo+1
		for end < hi && x.set.At(end).addr == addr {
			end++
		}
		// Of one address the shortest prefix is last.
		for i := end - 1; i >= lo; i-- {
			for len(stack) > 0 {
				if top := x.set.At(int(stack[len(stack)-1])); top.covers(addr) {
					break
				}
				stack = stack[:len(stack)-1]
			}
			if len(stack) > 0 {
				if x.up == nil {
					x.up = make([]uint32, x.set.Len())
					for k := range x.up {
						x.up[k] = none
					}
				}
				x.up[i] = stack[len(stack)-1]
			}
			stack = append(stack, uint32(i))
		}
		lo = end
	}
}

// Lists returns the names of all lists of the policy, by ListID; the caller must not change them.
func (x *Index) Lists() []string { return x.set.lists }

// Lookup returns the entry that decides for an address, and the list it comes from, as [Set.At] returns
// it; ok reports whether the address is in the table. When a negated entry decides, ok is false and
// entry is that entry; when no entry does, entry is the zero Prefix and list is NoList. An IPv4-mapped
// IPv6 address is looked up as IPv4, a zone is ignored, the zero Addr is in no table. Lookup does not
// allocate.
func (x *Index) Lookup(a netip.Addr) (list ListID, entry netip.Prefix, ok bool) {
	a = a.Unmap()
	n := number4or6(a)
	i := -1
	switch {
	case a.Is4():
		i = x.before4(uint32(n.hi >> 32))
	case a.Is6():
		i = x.before6(n)
	}
	for i >= 0 {
		e := x.set.At(i)
		if e.covers(n) {
			return e.List, e.Prefix(), !e.Not
		}
		if x.up == nil || x.up[i] == none {
			break
		}
		i = int(x.up[i])
	}
	return NoList, netip.Prefix{}, false
}

func number4or6(a netip.Addr) (n u128) {
	if a.IsValid() {
		n = number(a)
	}
	return n
}

// before4 returns the last entry that begins at or before a, of one address the longest, or -1. It
// searches without branches, which the processor would mostly predict wrong.
func (x *Index) before4(a uint32) int {
	v4 := x.set.v4
	at := func(i int) uint32 { return binary.BigEndian.Uint32(v4[i*size4:]) }
	lo := int(x.first4[a>>16])
	n := int(x.first4[a>>16+1]) - lo
	for n > 0 {
		half := (n + 1) / 2
		lo += half & int((int64(at(lo+half-1))-int64(a)-1)>>63) // half if it begins at or before a
		n -= half
	}
	for lo--; lo > 0 && at(lo-1) == at(lo); {
		lo--
	}
	return lo
}

// before6 is before4 for IPv6.
func (x *Index) before6(a u128) int {
	v6, n4 := x.set.v6, len(x.set.v4)/size4
	at := func(i int) (hi, lo uint64) {
		r := v6[i*size6 : i*size6+16]
		return binary.BigEndian.Uint64(r), binary.BigEndian.Uint64(r[8:])
	}
	lo, n := 0, len(v6)/size6
	for n > 0 {
		half := (n + 1) / 2
		h, l := at(lo + half - 1)
		_, after := bits.Sub64(a.lo, l, 0)
		_, after = bits.Sub64(a.hi, h, after)
		lo += half & (int(after) - 1)
		n -= half
	}
	for lo--; lo > 0 && bytes.Equal(v6[(lo-1)*size6:][:16], v6[lo*size6:][:16]); {
		lo--
	}
	if lo < 0 {
		return -1
	}
	return n4 + lo
}
