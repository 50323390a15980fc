package policy

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// u128 is an address of either family as a number, left-aligned: the bits of
// an IPv4 address are the first 32. So a prefix of n bits is a block of
// 2^(128-n) numbers in both, and one piece of code serves both.
type u128 struct{ hi, lo uint64 }

func (a u128) less(b u128) bool {
	return a.hi < b.hi || a.hi == b.hi && a.lo < b.lo
}

func (a u128) compare(b u128) int {
	switch {
	case a == b:
		return 0
	case a.less(b):
		return -1
	}
	return 1
}

// next returns a+1; behind the last number comes 0.
func (a u128) next() u128 {
	lo, c := bits.Add64(a.lo, 1, 0)
	return u128{a.hi + c, lo}
}

// prev returns a-1.
func (a u128) prev() u128 {
	lo, b := bits.Sub64(a.lo, 1, 0)
	return u128{a.hi - b, lo}
}

// trailingZeros returns 128 for 0.
func (a u128) trailingZeros() int {
	if a.lo != 0 {
		return bits.TrailingZeros64(a.lo)
	}
	return 64 + bits.TrailingZeros64(a.hi)
}

// bitLen returns the number of bits that a needs, 0 for 0.
func (a u128) bitLen() int {
	if a.hi != 0 {
		return 64 + bits.Len64(a.hi)
	}
	return bits.Len64(a.lo)
}

// last returns the last address of the prefix of n bits that begins at a.
func (a u128) last(n uint8) u128 {
	if n < 64 {
		return u128{a.hi | ^uint64(0)>>n, ^uint64(0)}
	}
	return u128{a.hi, a.lo | ^uint64(0)>>(n-64)}
}

// bit returns bit n, counted from the left beginning with 0.
func (a u128) bit(n uint8) bool {
	if n < 64 {
		return a.hi>>(63-n)&1 != 0
	}
	return a.lo>>(127-n)&1 != 0
}

// with returns a with bit n set.
func (a u128) with(n uint8) u128 {
	if n < 64 {
		return u128{a.hi | 1<<(63-n), a.lo}
	}
	return u128{a.hi, a.lo | 1<<(127-n)}
}

// without returns a with bit n cleared.
func (a u128) without(n uint8) u128 {
	if n < 64 {
		return u128{a.hi &^ (1 << (63 - n)), a.lo}
	}
	return u128{a.hi, a.lo &^ (1 << (127 - n))}
}

func from4(a uint32) u128 { return u128{hi: uint64(a) << 32} }

func (a u128) to4() uint32 { return uint32(a.hi >> 32) }

// number returns the address of a as a number.
func number(a netip.Addr) u128 {
	if a.Is4() {
		b := a.As4()
		return from4(binary.BigEndian.Uint32(b[:]))
	}
	b := a.As16()
	return u128{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

func prefix4(a uint32, n uint8) netip.Prefix {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], a)
	return netip.PrefixFrom(netip.AddrFrom4(b), int(n))
}

func prefix6(a u128, n uint8) netip.Prefix {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], a.hi)
	binary.BigEndian.PutUint64(b[8:], a.lo)
	return netip.PrefixFrom(netip.AddrFrom16(b), int(n))
}
