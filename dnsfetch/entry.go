package dnsfetch

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// Entry is one element of a list: a network, and whether the list negates it. A negated entry means
// that the addresses it covers are not on the list although a wider entry covers them (RFC 3123 §4).
//
// An Entry takes 19 bytes. It is comparable, and equal entries are equal values: bits beyond the
// prefix are zero, and an IPv4-mapped IPv6 network (::ffff:192.0.2.0/120) is the IPv4 network that it
// stands for.
type Entry struct {
	Addr [16]byte // of IPv4 the first four bytes, followed by zeros
	Bits uint8    // prefix length in the entry's own family, at most 32 or 128
	V6   bool
	Not  bool
}

// mapped begins an IPv4-mapped IPv6 address (RFC 4291 §2.5.5.2).
var mapped = [12]byte{10: 0xff, 11: 0xff}

// MakeEntry returns the entry for p, which must be valid. The zone of an address is dropped.
func MakeEntry(p netip.Prefix, not bool) Entry {
	e := Entry{Bits: uint8(p.Bits()), V6: p.Addr().Is6(), Not: not}
	copy(e.Addr[:], p.Addr().AsSlice())
	e.normalize()
	return e
}

// normalize makes IPv4 of an IPv4-mapped network and clears the bits beyond the prefix.
func (e *Entry) normalize() {
	if e.V6 && e.Bits >= 96 && [12]byte(e.Addr[:12]) == mapped {
		v4 := [4]byte(e.Addr[12:])
		*e = Entry{Bits: e.Bits - 96, Not: e.Not}
		copy(e.Addr[:], v4[:])
	}
	hi, lo := binary.BigEndian.Uint64(e.Addr[:]), binary.BigEndian.Uint64(e.Addr[8:])
	// A shift by 64 or more gives 0.
	if e.Bits <= 64 {
		hi, lo = hi&^(^uint64(0)>>e.Bits), 0
	} else {
		lo &^= ^uint64(0) >> (e.Bits - 64)
	}
	binary.BigEndian.PutUint64(e.Addr[:], hi)
	binary.BigEndian.PutUint64(e.Addr[8:], lo)
}

// Valid reports whether e is an entry that a list may hold: of a possible length, and in the one form
// that is described at [Entry].
func (e Entry) Valid() bool {
	n := e
	if e.Bits > 128 || !e.V6 && e.Bits > 32 {
		return false
	}
	n.normalize()
	return n == e
}

// Prefix returns the network of a valid entry.
func (e Entry) Prefix() netip.Prefix {
	a := netip.AddrFrom16(e.Addr)
	if !e.V6 {
		a = netip.AddrFrom4([4]byte(e.Addr[:4]))
	}
	return netip.PrefixFrom(a, int(e.Bits))
}

// String returns e as RFC 3123 §5 writes it, without the family: "192.0.2.0/24", "!192.0.2.1/32".
func (e Entry) String() string {
	if e.Not {
		return "!" + e.Prefix().String()
	}
	return e.Prefix().String()
}

// Address families of APL items (RFC 3123 §4, IANA's address family numbers).
const (
	aplIPv4 = 1
	aplIPv6 = 2
)

// appendAPL appends the items of an APL record to dst. rdata without items is an
// explicitly empty list.
func appendAPL(dst []Entry, rdata []byte) ([]Entry, error) {
	for item := 1; len(rdata) > 0; item++ {
		if len(rdata) < 4 {
			return dst, fmt.Errorf("%w: APL item %d: %d bytes where a header of 4 should be", ErrAnswer, item, len(rdata))
		}
		family, n := binary.BigEndian.Uint16(rdata), int(rdata[3]&0x7f)
		e := Entry{Bits: rdata[2], V6: family == aplIPv6, Not: rdata[3]&0x80 != 0}
		if n > len(rdata)-4 {
			return dst, fmt.Errorf("%w: APL item %d: %d octets of address announced, %d left", ErrAnswer, item, n, len(rdata)-4)
		}
		addr := rdata[4 : 4+n]
		rdata = rdata[4+n:]
		switch {
		case family != aplIPv4 && family != aplIPv6:
			return dst, fmt.Errorf("%w: APL item %d: address family %d is neither IPv4 (1) nor IPv6 (2)", ErrAnswer, item, family)
		case !e.V6 && (n > 4 || e.Bits > 32):
			return dst, fmt.Errorf("%w: APL item %d: IPv4 with %d octets and prefix length %d", ErrAnswer, item, n, e.Bits)
		case n > 16 || e.Bits > 128:
			return dst, fmt.Errorf("%w: APL item %d: IPv6 with %d octets and prefix length %d", ErrAnswer, item, n, e.Bits)
		}
		copy(e.Addr[:], addr)
		e.normalize() // some senders leave host bits set
		dst = append(dst, e)
	}
	return dst, nil
}
