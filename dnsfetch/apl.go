package dnsfetch

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// Address families of APL items (RFC 3123 §4, IANA's address family numbers).
const (
	aplIPv4 = 1
	aplIPv6 = 2
)

// addAPL decodes the rdata of one APL record into c. An rdata without items adds nothing.
func (c *columns) addAPL(rdata []byte) error {
	for item := 1; len(rdata) > 0; item++ {
		if len(rdata) < 4 {
			return fmt.Errorf("%w: item %d: %d bytes where a header of 4 should be", ErrAPL, item, len(rdata))
		}
		family := binary.BigEndian.Uint16(rdata)
		bits := rdata[2]
		not := rdata[3]&0x80 != 0
		n := int(rdata[3] & 0x7f)
		if n > len(rdata)-4 {
			return fmt.Errorf("%w: item %d: %d octets of address announced, %d left", ErrAPL, item, n, len(rdata)-4)
		}
		rest := rdata[4:]
		rdata = rest[n:]

		switch family {
		case aplIPv4:
			if n > 4 || bits > 32 {
				return fmt.Errorf("%w: item %d: IPv4 with %d octets and prefix length %d", ErrAPL, item, n, bits)
			}
			addr := leading(rest, n)
			// Some senders leave host bits set. A shift by 32 gives 0, as /0 needs.
			addr &= ^uint32(0) << (32 - bits)
			c.addV4(addr, bits, not)
		case aplIPv6:
			if n > 16 || bits > 128 {
				return fmt.Errorf("%w: item %d: IPv6 with %d octets and prefix length %d", ErrAPL, item, n, bits)
			}
			var e v6packed
			copy(e[:16], rest[:n])
			if full := int(bits / 8); full < 16 {
				e[full] &= ^(byte(0xff) >> (bits % 8))
				clear(e[full+1 : 16])
			}
			e[16] = bits
			if not {
				e[17] = 1
			}
			c.addV6(e)
		default:
			return fmt.Errorf("%w: item %d: address family %d is neither IPv4 (1) nor IPv6 (2)", ErrAPL, item, family)
		}
	}
	return nil
}

// leading returns the IPv4 address that begins with the first n octets of rest, n being at most 4.
func leading(rest []byte, n int) uint32 {
	// One load instead of a loop that runs three times or four: what belongs to the next item
	// is masked out.
	if len(rest) >= 4 {
		return binary.BigEndian.Uint32(rest) & (^uint32(0) << (32 - 8*n))
	}
	var a [4]byte
	copy(a[:], rest[:n])
	return binary.BigEndian.Uint32(a[:])
}

// addAddr adds the address of an A or AAAA record as a host.
func (c *columns) addAddr(a netip.Addr) {
	if a.Is4() {
		b := a.As4()
		c.addV4(binary.BigEndian.Uint32(b[:]), 32, false)
		return
	}
	var e v6packed
	b := a.As16()
	copy(e[:], b[:])
	e[16] = 128
	c.addV6(e)
}
