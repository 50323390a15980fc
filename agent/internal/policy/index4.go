package policy

// index4 finds IPv4 entries.
//
// A look-up is mostly waiting for memory, so what it goes through is small: a
// table of where the entries of each /16 begin, and 4 bytes an entry.
//
// Each /16 is complete in itself. The entry that covers it from outside, if
// there is one, stands in front of its own, as if it were one of them.
//
// Two prefixes either nest or have nothing in common. So of the entries that
// begin at or before an address, the last one decides for it (of one address
// the longest), or if that ends too early, one of those around it.
type index4 struct {
	begin *[1<<16 + 1]uint32 // by first half of the address; nil without entries

	entry []entry4 // in order, of one address the shortest first
	up    []uint32 // the entry around it, for those inside another; nil if none is
}

// entry4 is one number, in the order of its address:
//
//	bits 16-31  second half of the address
//	bit  15     there is an entry around it
//	bit  14     negated
//	bits 8-13   prefix length
//	bits 0-7    list, or one behind the lists for NoList
type entry4 uint32

const (
	entryInside entry4 = 1 << 15
	entryNot    entry4 = 1 << 14
)

func (e entry4) bits() uint8  { return uint8(e>>8) & 63 }
func (e entry4) not() bool    { return e&entryNot != 0 }
func (e entry4) list() ListID { return ListID(e & 255) }

// newIndex4 makes the index of the IPv4 entries of s.
func newIndex4(s *Set) (x index4) {
	n := len(s.addr4)
	if n == 0 {
		return x
	}
	x.begin = new([1<<16 + 1]uint32)
	x.entry = make([]entry4, 0, n)
	type around struct {
		last  uint32
		place uint32
	}
	var stack []around // the entries around the address where we are
	leave := func(addr uint32) {
		for len(stack) > 0 && stack[len(stack)-1].last < addr {
			stack = stack[:len(stack)-1]
		}
	}
	half := -1 // the /16 where we are
	enter := func(to int) {
		for half < to {
			half++
			x.begin[half] = uint32(len(x.entry))
			if half == 1<<16 {
				return
			}
			leave(uint32(half) << 16)
			if len(stack) > 0 {
				p := stack[len(stack)-1].place
				x.entry = append(x.entry, x.entry[p]&(1<<16-1)&^entryInside)
				if x.up != nil {
					x.up = append(x.up, 0)
				}
			}
		}
	}
	put := func(i int) {
		addr, bits := s.addr4[i], s.bits4[i]
		leave(addr)
		e := entry4(addr)<<16 | entry4(bits)<<8 | entry4(min(s.tag4[i].list(), ListID(len(s.lists))))
		if s.tag4[i].not() {
			e |= entryNot
		}
		place := uint32(len(x.entry))
		if len(stack) > 0 {
			e |= entryInside
			if x.up == nil {
				x.up = make([]uint32, place, cap(x.entry))
			}
			x.up = append(x.up, stack[len(stack)-1].place)
		} else if x.up != nil {
			x.up = append(x.up, 0)
		}
		stack = append(stack, around{addr | uint32(uint64(1)<<(32-bits)-1), place})
		x.entry = append(x.entry, e)
	}
	for i := 0; i < n; {
		end := i + 1
		for end < n && s.addr4[end] == s.addr4[i] {
			end++
		}
		enter(int(s.addr4[i] >> 16))
		for j := end - 1; j >= i; j-- {
			put(j)
		}
		i = end
	}
	enter(1 << 16)
	x.entry, x.up = trim(x.entry), trim(x.up)
	return x
}

// decides returns the entry that decides for a; ok says that there is one.
func (x *index4) decides(a uint32) (e entry4, ok bool) {
	if x.begin == nil {
		return 0, false
	}
	i := x.begin[a>>16]
	n := x.begin[a>>16+1] - i
	if n == 0 {
		return 0, false
	}
	// The last of them at or before a, found without a branch: the processor
	// would mostly guess it wrong.
	key := a & (1<<16 - 1)
	for n > 1 {
		half := n / 2
		i += half & -((uint32(x.entry[i+half]>>16) - key - 1) >> 31)
		n -= half
	}
	if e = x.entry[i]; uint32(e>>16) > key {
		return 0, false
	}
	// An entry and an address in the same /16 have the first half in common,
	// or the entry covers all of it.
	for (uint32(e>>16)^key)>>(32-e.bits()) != 0 {
		if e&entryInside == 0 {
			return 0, false
		}
		i = x.up[i]
		e = x.entry[i]
	}
	return e, true
}
