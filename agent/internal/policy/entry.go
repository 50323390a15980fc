package policy

import (
	"cmp"
	"encoding/binary"
	"math/bits"
	"net/netip"
	"slices"
)

// u128 is an address of either family as a number, left-aligned: an IPv4 address is in the first 32
// bits. So a prefix of n bits is a block of 2^(128-n) numbers in both families.
type u128 struct{ hi, lo uint64 }

func (a u128) less(b u128) bool { return a.hi < b.hi || a.hi == b.hi && a.lo < b.lo }

// next returns a+1; after the last number comes 0.
func (a u128) next() u128 {
	lo, c := bits.Add64(a.lo, 1, 0)
	return u128{a.hi + c, lo}
}

// last returns the last address of the prefix of n bits that begins at a.
func (a u128) last(n uint8) u128 {
	if n < 64 {
		return u128{a.hi | ^uint64(0)>>n, ^uint64(0)}
	}
	return u128{a.hi, a.lo | ^uint64(0)>>(n-64)}
}

// first returns the first address of the prefix of n bits that contains a.
func (a u128) first(n uint8) u128 {
	m := u128{}.last(n)
	return u128{a.hi &^ m.hi, a.lo &^ m.lo}
}

// bit returns the number whose bit n alone is set, counted from the left, beginning with 0.
func bit(n uint8) u128 {
	if n < 64 {
		return u128{hi: 1 << (63 - n)}
	}
	return u128{lo: 1 << (127 - n)}
}

func (a u128) with(b u128) u128 { return u128{a.hi | b.hi, a.lo | b.lo} }

// number returns the address of a as a number.
func number(a netip.Addr) u128 {
	if a.Is4() {
		b := a.As4()
		return u128{hi: uint64(binary.BigEndian.Uint32(b[:])) << 32}
	}
	b := a.As16()
	return u128{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

// Entry is a prefix, the list that has it, and whether it is negated. It takes 24 bytes.
type Entry struct {
	addr u128
	bits uint8
	v6   bool
	Not  bool
	List ListID
}

// NewEntry returns the entry of a list for a valid prefix.
func NewEntry(p netip.Prefix, not bool, l ListID) Entry {
	return Entry{addr: number(p.Addr()), bits: uint8(p.Bits()), v6: p.Addr().Is6(), Not: not, List: l}
}

// Prefix returns the prefix of e.
func (e *Entry) Prefix() netip.Prefix {
	if !e.v6 {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], uint32(e.addr.hi>>32))
		return netip.PrefixFrom(netip.AddrFrom4(b), int(e.bits))
	}
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], e.addr.hi)
	binary.BigEndian.PutUint64(b[8:], e.addr.lo)
	return netip.PrefixFrom(netip.AddrFrom16(b), int(e.bits))
}

func (e *Entry) last() u128 { return e.addr.last(e.bits) }

// covers reports whether a is in the prefix of e, which is of the same family.
func (e *Entry) covers(a u128) bool { return a.first(e.bits) == e.addr }

func (e *Entry) samePrefix(o *Entry) bool {
	return e.addr == o.addr && e.bits == o.bits && e.v6 == o.v6
}

// rank orders the entries of one address: shortest prefix first, then by list, then negated first.
func (e *Entry) rank() uint32 {
	r := uint32(e.bits)<<17 | uint32(e.List)<<1
	if !e.Not {
		r |= 1
	}
	return r
}

// compare orders entries of one family as the sweep meets them: by address, then by rank.
func compare(a, b Entry) int {
	if a.addr != b.addr {
		return cmp.Or(cmp.Compare(a.addr.hi, b.addr.hi), cmp.Compare(a.addr.lo, b.addr.lo))
	}
	return cmp.Compare(a.rank(), b.rank())
}

// sortEntries sorts entries of one family in place. Large runs are dealt out by the first ten bits in which
// their addresses differ (American flag sort): a million entries take a sixth of the time that
// slices.SortFunc takes for them.
func sortEntries(es []Entry) {
	var diff uint64
	for i := range es {
		diff |= es[i].addr.hi ^ es[0].addr.hi
	}
	switch {
	case len(es) <= 16:
		for i, e := range es {
			for ; i > 0 && compare(e, es[i-1]) < 0; i-- {
				es[i] = es[i-1]
			}
			es[i] = e
		}
		return
	case diff == 0:
		slices.SortFunc(es, compare)
		return
	}
	const digits = 1 << 10
	shift := max(0, 54-bits.LeadingZeros64(diff))
	digit := func(e *Entry) int { return int(e.addr.hi >> shift % digits) }
	var at, end [digits]int
	for i := range es {
		end[digit(&es[i])]++
	}
	sum := 0
	for d, n := range end {
		at[d] = sum
		sum += n
		end[d] = sum
	}
	for d := range at {
		for at[d] < end[d] {
			e := es[at[d]]
			for to := digit(&e); to != d; to = digit(&e) {
				es[at[to]], e = e, es[at[to]]
				at[to]++
			}
			es[at[d]] = e
			at[d]++
		}
	}
	from := 0
	for _, to := range end {
		if to-from > 1 {
			sortEntries(es[from:to])
		}
		from = to
	}
}

// partition puts the IPv4 entries first, and returns how many they are.
func partition(entries []Entry) (v4 int) {
	for i := range entries {
		if !entries[i].v6 {
			entries[i], entries[v4] = entries[v4], entries[i]
			v4++
		}
	}
	return v4
}
