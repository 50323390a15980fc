package policy

import (
	"math/bits"
	"net/netip"
)

// Index finds the entry of a [Set] that decides for an address, as pf does: the longest prefix wins. It
// never changes. Besides the set it takes 256 KB, half a byte an IPv6 entry, and 4 bytes an entry where
// entries nest.
type Index struct {
	set    *Set
	first4 []uint32 // by the first half of an IPv4 address: the first entry that begins there or later
	every6 []u128   // the addresses of every stride'th IPv6 entry
	up     []uint32 // the entry around each entry, or none; nil when no entry is inside another
}

const (
	none   = ^uint32(0)
	stride = 32
)

// NewIndex returns an Index of s. A nil Set is an empty one.
func NewIndex(s *Set) *Index {
	if s == nil {
		s = new(Set)
	}
	n4, n6 := s.len(false), s.len(true)
	x := &Index{set: s, first4: make([]uint32, 0, 1<<16+1), up: make([]uint32, n4+n6)}
	for i := range n4 {
		for len(x.first4) <= int(s.At(i).addr.hi>>48) {
			x.first4 = append(x.first4, uint32(i))
		}
	}
	for len(x.first4) < cap(x.first4) {
		x.first4 = append(x.first4, uint32(n4))
	}
	for i := n4; i < n4+n6; i += stride {
		x.every6 = append(x.every6, s.At(i).addr)
	}
	if in4, in6 := x.nest(0, n4), x.nest(n4, n4+n6); !in4 && !in6 {
		x.up = nil
	}
	return x
}

// nest finds the entries around those from lo up to before hi, which are of one family. It reports
// whether there are any.
func (x *Index) nest(lo, hi int) (nested bool) {
	around := none // the entry around those of the current address
	begin := none  // the longest entry of the current address
	var before, longest Entry
	for i := lo; i < hi; i++ {
		e := x.set.At(i)
		if i > lo && e.addr == before.addr {
			x.up[i-1] = uint32(i)
			nested = true
		} else {
			for around = begin; around != none && !longest.covers(e.addr); {
				if around = x.up[around]; around != none {
					longest = x.set.At(int(around))
				}
			}
			begin, longest = uint32(i), e
			nested = nested || around != none
		}
		x.up[i], before = around, e
	}
	return nested
}

// Lists returns the names of all lists of the policy, by ListID; the caller must not change them.
func (x *Index) Lists() []string { return x.set.lists }

// Lookup returns the entry that decides for an address, and the list it comes from, as [Set.At] returns
// it; ok reports whether the address is in the table. When a negated entry decides, ok is false and
// entry is that entry; when no entry does, entry is the zero Prefix and list is NoList. An IPv4-mapped
// IPv6 address is looked up as IPv4, a zone is ignored, the zero Addr is in no table. Lookup does not
// allocate.
func (x *Index) Lookup(a netip.Addr) (list ListID, entry netip.Prefix, ok bool) {
	if !a.IsValid() {
		return NoList, netip.Prefix{}, false
	}
	a = a.Unmap()
	n := number(a)
	for i := x.before(n, a.Is6()); i != none; i = x.up[i] {
		e := x.set.At(int(i))
		if e.covers(n) {
			return e.List, e.Prefix(), !e.Not
		}
		if x.up == nil {
			break
		}
	}
	return NoList, netip.Prefix{}, false
}

// before returns the last entry that begins at or before a, of one address the longest, or none. It
// searches without branches, which the processor would mostly predict wrong.
func (x *Index) before(a u128, v6 bool) uint32 {
	records, size := x.set.family(v6)
	first, lo, hi := 0, 0, 0 // all entries before lo begin at or before a, none from hi on
	if v6 {
		n := 0
		for rest := len(x.every6); rest > 0; {
			half := (rest + 1) / 2
			n += half & notAfter(x.every6[n+half-1], a)
			rest -= half
		}
		if n > 0 {
			lo, hi = (n-1)*stride+1, min(n*stride, x.set.len(true))
		}
		first = x.set.len(false)
	} else {
		lo, hi = int(x.first4[a.hi>>48]), int(x.first4[a.hi>>48+1])
	}
	at := func(i int) u128 { return address((*records)[i*size:][:size-3]) }
	for lo < hi {
		half := (hi - lo + 1) / 2
		m := notAfter(at(lo+half-1), a)
		hi = hi&m | (hi-half)&^m
		lo += half & m
	}
	if lo == 0 {
		return none
	}
	for lo--; lo > 0 && at(lo-1) == at(lo); lo-- {
	}
	return uint32(first + lo)
}

// notAfter returns -1 if a <= b, else 0.
func notAfter(a, b u128) int {
	_, borrow := bits.Sub64(b.lo, a.lo, 0)
	_, borrow = bits.Sub64(b.hi, a.hi, borrow)
	return int(borrow) - 1
}
