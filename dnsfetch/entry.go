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

// MakeEntry returns the entry for p, which must be valid. The zone of an address is dropped.
func MakeEntry(p netip.Prefix, not bool) Entry {
	addr, bits := p.Addr(), p.Bits()
	if addr.Is4In6() && bits >= 96 {
		addr, bits = addr.Unmap(), bits-96
	}
	p, _ = addr.WithZone("").Prefix(bits)
	e := Entry{Bits: uint8(bits), V6: addr.Is6(), Not: not}
	copy(e.Addr[:], p.Addr().AsSlice())
	return e
}

// Valid reports whether e is an entry that a list may hold: of a possible length, and in the one form
// that is described at [Entry].
func (e Entry) Valid() bool {
	p := e.Prefix()
	return p.IsValid() && MakeEntry(p, e.Not) == e
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
		dst = append(dst, MakeEntry(e.Prefix(), e.Not)) // some senders leave host bits set
	}
	return dst, nil
}
