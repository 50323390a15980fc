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
const aplIPv4, aplIPv6 = 1, 2

// appendAPL appends the items of an APL record to dst. rdata without items is an
// explicitly empty list.
func appendAPL(dst []Entry, rdata []byte) ([]Entry, error) {
	for item := 1; len(rdata) > 0; item++ {
		if len(rdata) < 4 {
			return dst, fmt.Errorf("%w: APL item %d: %d bytes, less than a header", ErrAnswer, item, len(rdata))
		}
		family, n := binary.BigEndian.Uint16(rdata), int(rdata[3]&0x7f)
		e := Entry{Bits: rdata[2], V6: family == aplIPv6, Not: rdata[3]&0x80 != 0}
		most := 0 // octets of an address
		switch family {
		case aplIPv4:
			most = 4
		case aplIPv6:
			most = 16
		}
		if n > min(most, len(rdata)-4) || int(e.Bits) > 8*most || most == 0 {
			return dst, fmt.Errorf("%w: APL item %d: address family %d, prefix length %d, %d octets of address, %d left",
				ErrAnswer, item, family, e.Bits, n, len(rdata)-4)
		}
		copy(e.Addr[:], rdata[4:4+n])
		dst = append(dst, MakeEntry(e.Prefix(), e.Not)) // some senders leave host bits set
		rdata = rdata[4+n:]
	}
	return dst, nil
}
