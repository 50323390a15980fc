package policy

import "net/netip"

// Index finds the entry of a [Set] that decides for an address, as pf does:
// the longest prefix wins. It keeps the Set and never changes.
//
// Together with its Set it takes less than 12 bytes an IPv4 entry and less than
// 28 an IPv6 entry.
//
// Prefixes either nest or have nothing in common. So of the entries that begin at or before an
// address, the last one decides, or if that ends too early, then one that encloses it.
type Index struct {
	set *Set
	// For each entry the shortest one around it that ends later, none if there is none.
	up4, up6     []uint32
	find4, find6 finder
}

const none = ^uint32(0)

// NewIndex returns an Index of s. A nil Set is an empty one.
func NewIndex(s *Set) *Index {
	if s == nil {
		s = new(Set)
	}
	x := &Index{set: s}
	at4 := func(i int) (u128, uint8) { return from4(s.addr4[i]), s.bits4[i] }
	at6 := func(i int) (u128, uint8) { return s.addr6[i], s.bits6[i] }
	x.up4 = enclose(len(s.addr4), at4)
	x.up6 = enclose(len(s.addr6), at6)
	x.find4.build(len(s.addr4), at4)
	x.find6.build(len(s.addr6), at6)
	return x
}

// Set returns the set that the index was made from.
func (x *Index) Set() *Set { return x.set }

// Lookup returns the entry that decides for an address, and the list it
// comes from as [Set.ListOf] has it; ok says that the address is in the table. When the
// deciding entry is a negated one, ok is false and entry is that entry; when
// there is none, entry is the zero Prefix and list is NoList. An IPv4-mapped
// IPv6 address is looked up as IPv4, a zone is ignored, the zero Addr is in no
// table. Lookup does not allocate.
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
	a := key.to4()
	addrs := x.set.addr4
	lo, hi := x.find4.find(key)
	for lo < hi {
		if m := int(uint(lo+hi) / 2); addrs[m] <= a {
			lo = m + 1
		} else {
			hi = m
		}
	}
	i := lo - 1
	if i < 0 {
		return NoList, netip.Prefix{}, false
	}
	for i > 0 && addrs[i-1] == addrs[i] { // to the longest of this address
		i--
	}
	for {
		if n := x.set.bits4[i]; (a^addrs[i])>>(32-n) == 0 {
			t := x.set.tag4[i]
			return t.list(), prefix4(addrs[i], n), !t.not()
		}
		up := x.up4[i]
		if up == none {
			return NoList, netip.Prefix{}, false
		}
		i = int(up)
	}
}

func (x *Index) lookup6(a u128) (ListID, netip.Prefix, bool) {
	addrs := x.set.addr6
	lo, hi := x.find6.find(a)
	for lo < hi {
		if m := int(uint(lo+hi) / 2); !a.less(addrs[m]) {
			lo = m + 1
		} else {
			hi = m
		}
	}
	i := lo - 1
	if i < 0 {
		return NoList, netip.Prefix{}, false
	}
	for i > 0 && addrs[i-1] == addrs[i] {
		i--
	}
	for {
		if n := x.set.bits6[i]; !addrs[i].last(n).less(a) {
			t := x.set.tag6[i]
			return t.list(), prefix6(addrs[i], n), !t.not()
		}
		up := x.up6[i]
		if up == none {
			return NoList, netip.Prefix{}, false
		}
		i = int(up)
	}
}

// enclose returns the up column for n entries.
func enclose(n int, at func(int) (u128, uint8)) []uint32 {
	up := make([]uint32, n)
	type around struct {
		last  u128
		entry uint32
	}
	var stack []around
	for i := 0; i < n; {
		addr, _ := at(i)
		end := i + 1
		for end < n {
			if a, _ := at(end); a != addr {
				break
			}
			end++
		}
		for j := end - 1; j >= i; j-- { // the shortest first
			_, bits := at(j)
			last := addr.last(bits)
			for len(stack) > 0 && stack[len(stack)-1].last.less(last) {
				stack = stack[:len(stack)-1]
			}
			up[j] = none
			if len(stack) > 0 {
				top := stack[len(stack)-1]
				up[j] = top.entry
				if top.last == last {
					up[j] = up[top.entry]
				}
			}
			stack = append(stack, around{last, uint32(j)})
		}
		i = end
	}
	return up
}

// finder narrows down where in a sorted column an address belongs.
//
// A node divides the range of addresses of some entries into equal parts, about one for
// eight entries, and knows where the entries of each part begin. Real addresses crowd together, in
// IPv6 above all; so a part with many entries has a node of its own.
type finder struct {
	nodes  []part
	starts []uint32 // the parts of all nodes: an entry, or subdivided|node
}

type part struct {
	base, span u128 // first address, and how far it is to the last
	lo, hi     uint32
	starts     uint32 // its first in finder.starts; there is one more than parts, hi
	shift      uint8  // an address a is in part (a-base)>>shift
}

const (
	subdivided = 1 << 31
	crowd      = 64 // parts with more entries are subdivided
	deepest    = 4  // levels of nodes; below them a binary search will do
)

func (f *finder) build(n int, at func(int) (u128, uint8)) {
	if n > 0 {
		f.split(0, n, 1, at)
	}
}

// split makes the node for the entries from lo up to before hi.
func (f *finder) split(lo, hi, level int, at func(int) (u128, uint8)) {
	base, _ := at(lo)
	last, _ := at(hi - 1)
	n := part{base: base, span: last.minus(base), lo: uint32(lo), hi: uint32(hi), starts: uint32(len(f.starts))}
	n.shift = uint8(max(n.span.bitLen()-max(log2(hi-lo)-3, 1), 0))
	f.nodes = append(f.nodes, n)
	parts := n.span.part(n.shift) + 1
	next := uint64(0)
	for i := lo; i < hi; i++ {
		a, _ := at(i)
		for p := a.minus(base).part(n.shift); next <= p; next++ {
			f.starts = append(f.starts, uint32(i))
		}
	}
	f.starts = append(f.starts, uint32(hi))
	if level == deepest || n.span == (u128{}) {
		return
	}
	for p := range parts {
		s := n.starts + uint32(p)
		from, to := int(f.starts[s]), int(f.starts[s+1])
		if to-from > crowd {
			f.starts[s] = subdivided | uint32(len(f.nodes))
			f.split(from, to, level+1, at)
		}
	}
}

// part returns d>>shift, which must fit.
func (d u128) part(shift uint8) uint64 {
	if shift >= 64 {
		return d.hi >> (shift - 64)
	}
	return d.hi<<(64-shift) | d.lo>>shift
}

// find returns bounds of the number of entries that begin at or before a.
func (f *finder) find(a u128) (lo, hi int) {
	if len(f.nodes) == 0 {
		return 0, 0
	}
	n := &f.nodes[0]
	for {
		if a.less(n.base) {
			return int(n.lo), int(n.lo)
		}
		d := a.minus(n.base)
		if n.span.less(d) {
			return int(n.hi), int(n.hi)
		}
		s := f.starts[uint64(n.starts)+d.part(n.shift):][:2]
		if s[0]&subdivided != 0 {
			n = &f.nodes[s[0]&^subdivided]
			continue
		}
		hi := s[1]
		if hi&subdivided != 0 {
			hi = f.nodes[hi&^subdivided].lo
		}
		return int(s[0]), int(hi)
	}
}
