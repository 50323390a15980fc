package capture

// pair4 prints "source > destination" of the IPv4 header ip.
func (l *line) pair4(ip []byte) {
	l.addr4(ip, 12)
	l.str(" > ")
	l.addr4(ip, 16)
}

// pair6 prints "source > destination" of the IPv6 header ip.
func (l *line) pair6(ip []byte) {
	l.addr6(ip, 8)
	l.str(" > ")
	l.addr6(ip, 24)
}

func (l *line) pair(ip []byte) {
	if ip[0]>>4 == 6 {
		l.pair6(ip)
	} else {
		l.pair4(ip)
	}
}

// ip4 prints an IPv4 datagram (print-ip.c).
func (l *line) ip4(b []byte, length uint32) {
	if len(b) < ipv4HeaderLen {
		l.str("[|ip]")
		return
	}
	if v := b[0] >> 4; v != 4 {
		l.str("bad-ip-version ")
		l.uint(uint32(v))
		return
	}
	size := uint32(u16(b, 2))
	if length < size {
		l.str("truncated-ip - ")
		l.int(size - length)
		l.str(" bytes missing!")
		size = length
	}
	hlen := uint32(b[0]&0xf) * 4
	if hlen < ipv4HeaderLen || hlen > size {
		l.str("bad-hlen ")
		l.uint(hlen)
		return
	}
	size -= hlen
	off := u16(b, 6)
	if off&0x1fff == 0 {
		if int(hlen) > len(b) {
			l.str("[|ip]")
			return
		}
		if whole := l.ip4Payload(b, b[hlen:], size); whole {
			return
		}
	}
	if off&0x3fff != 0 {
		if off&0x1fff != 0 {
			l.pair4(b)
			l.byte(':')
		}
		l.str(" (frag ")
		l.uint(uint32(u16(b, 4)))
		l.byte(':')
		l.int(size)
		l.byte('@')
		l.uint(uint32(off&0x1fff) * 8)
		if off&0x2000 != 0 {
			l.byte('+')
		}
		l.byte(')')
	}
	if off&0x4000 != 0 {
		l.str(" (DF)")
	}
	if tos := b[1]; tos != 0 {
		l.str(" [tos 0x")
		l.hex(uint32(tos), 0)
		if tos&3 != 0 {
			l.str(" (")
			if tos&2 != 0 { // ECN-capable transport
				l.byte('E')
			}
			if tos&1 != 0 { // congestion experienced
				l.byte('C')
			}
			l.byte(')')
		}
		l.byte(']')
	}
	if ttl := b[8]; ttl <= 1 {
		l.str(" [ttl ")
		l.uint(uint32(ttl))
		l.byte(']')
	}
}

// ip4Payload prints what the header ip carries, b and size being that, and reports
// whether the line is complete with it: nothing is said of the outer header of a
// tunnel.
func (l *line) ip4Payload(ip, b []byte, size uint32) bool {
	switch proto := ip[9]; proto {
	case protoTCP:
		l.tcp(b, size, ip)
	case protoUDP:
		l.udp(b, size, ip)
	case protoICMP:
		l.icmp(b, ip)
	case protoIGRP:
		l.igrp(b, size, ip)
	case protoND:
		l.pair4(ip)
		l.str(": nd ")
		l.int(size)
	case protoOSPF:
		l.ospf(b, size, ip)
	case protoIGMP:
		l.igmp(b, size, ip)
	case protoIPv4:
		l.nested4(b, size)
		l.str(" (encap)")
		return true
	case protoIPv6:
		l.nested6(b, size)
		l.str(" (encap)")
		return true
	case protoGRE:
		l.pair4(ip)
		l.str(": ")
		l.gre(b, size)
	case protoESP:
		l.pair4(ip)
		l.str(": ")
		l.esp(b, size)
	case protoAH:
		l.ah(b, size, ip)
	case protoMobile:
		l.mobile(b, size)
		l.str(" (mobile encap)")
		return true
	case protoEtherIP:
		l.pair4(ip)
		l.str(": ")
		l.etherip(b, size)
	case protoIPComp:
		l.ipcomp(b, size, ip)
	case protoCARP:
		l.carp(b, size, ip[8])
	case protoPfsync:
		// tcpdump ends its line here and prints the rest on others.
		l.pfsync(b, ip)
		return true
	default:
		l.pair4(ip)
		l.str(": ip-proto-")
		l.uint(uint32(proto))
		l.byte(' ')
		l.int(size)
	}
	return false
}

func (l *line) nested4(b []byte, length uint32) {
	if l.depth++; l.depth <= maxNesting {
		l.ip4(b, length)
	}
	l.depth--
}

func (l *line) nested6(b []byte, length uint32) {
	if l.depth++; l.depth <= maxNesting {
		l.ip6(b, length)
	}
	l.depth--
}

// ip6 prints an IPv6 datagram (print-ip6.c).
func (l *line) ip6(b []byte, length uint32) {
	if len(b) < ipv6HeaderLen {
		l.str("[|ip6]")
		return
	}
	if length < ipv6HeaderLen {
		l.str("truncated-ip6 ")
		l.int(length)
		return
	}
	if v := b[0] >> 4; v != 6 {
		l.str("bad-ip6-version ")
		l.uint(uint32(v))
		return
	}
	size := uint32(u16(b, 4))
	if length < size+ipv6HeaderLen {
		l.str("truncated-ip6 - ")
		l.int(size + ipv6HeaderLen - length)
		l.str(" bytes missing!")
	}
	l.ip6Payload(b, size)

	flow := u32(b, 0)
	if class := flow >> 20 & 0xff; class != 0 {
		l.str(" [class 0x")
		l.hex(class, 0)
		l.byte(']')
	}
	if label := flow & 0xfffff; label != 0 {
		l.str(" [flowlabel 0x")
		l.hex(label, 0)
		l.byte(']')
	}
	if hlim := b[7]; hlim <= 1 {
		l.str(" [hlim ")
		l.uint(uint32(hlim))
		l.byte(']')
	}
}

// cutHeader is the length of an extension header whose end cannot be known:
// longer than any capture, which ends the walk.
const cutHeader = 65535

// ip6Payload walks the extension headers of the header ip and prints what they
// carry; size is the header's payload length.
func (l *line) ip6Payload(ip []byte, size uint32) {
	next := ip[6]
	off, hlen := 0, ipv6HeaderLen
	for first := true; off+hlen <= len(ip); first = false {
		off += hlen
		b := ip[off:]
		// What is left of the payload, by its own account: less than
		// nothing where headers claim more than there is.
		left := size + ipv6HeaderLen - uint32(off)
		if first {
			switch next {
			case protoTCP, protoUDP, protoAH, protoIPv4, protoIPv6:
			default:
				l.pair6(ip)
				l.str(": ")
			}
		}
		switch next {
		case protoHopOpts:
			hlen = l.options6(b, "HBH")
			next = at(b, 0)
		case protoDstOpts:
			hlen = l.options6(b, "DSTOPT")
			next = at(b, 0)
		case protoFragment:
			hlen = l.frag6(b, left)
			next = at(b, 0)
		case protoRouting:
			hlen = l.routing6(b)
			next = at(b, 0)
		case protoTCP:
			l.tcp(b, left, ip)
			return
		case protoUDP:
			l.udp(b, left, ip)
			return
		case protoESP:
			l.esp(b, left)
			return
		case protoAH:
			l.ah(b, left, ip)
			return
		case protoICMPv6:
			l.icmp6(b, left)
			return
		case protoPIM:
			l.str("PIM")
			l.pim(b)
			return
		case protoOSPF:
			l.ospf6(b, size)
			return
		case protoIPv6:
			l.nested6(b, size)
			l.str(" (encap)")
			return
		case protoIPv4:
			l.nested4(b, size)
			l.str(" (encap)")
			return
		case protoGRE:
			l.gre(b, size)
			return
		case protoNone:
			l.str("no next header")
			return
		case protoEtherIP:
			l.etherip(b, size)
			return
		case protoCARP:
			// Not the end for tcpdump: it goes on by the length
			// of the header before.
			l.carp(b, size, ip[7])
		default:
			// The protocol named is the first header's.
			l.str("ip-proto-")
			l.uint(uint32(ip[6]))
			l.byte(' ')
			l.uint(size)
			return
		}
		if hlen == 0 || l.full() {
			return
		}
	}
}

// options6 prints a hop-by-hop or destination options header (print-ip6opts.c) and
// returns its length, 0 if that was not captured.
func (l *line) options6(b []byte, name string) int {
	n := 0
	if len(b) >= 2 {
		n = (int(b[1]) + 1) << 3
	}
	if n == 0 || n > len(b) {
		l.str("[|")
		l.str(name)
		l.byte(']')
		return n
	}
	l.str(name)
	l.byte(' ')
	return n
}

// frag6 prints a fragment header (print-frag6.c) and returns its length, cutHeader
// for what is not the first fragment: nothing behind it can be told.
func (l *line) frag6(b []byte, left uint32) int {
	if len(b) < 8 {
		l.str("[|frag]")
		return cutHeader
	}
	off := u16(b, 2)
	l.str("frag (0x")
	l.hex(u32(b, 4), 8)
	l.byte(':')
	l.int(left - 8)
	l.byte('@')
	l.uint(uint32(off &^ 7))
	if off&1 != 0 {
		l.byte('+')
	}
	l.byte(')')
	if off&^7 != 0 {
		return cutHeader
	}
	l.byte(' ')
	return 8
}

// routing6 prints a routing header (print-rt6.c) and returns its length, cutHeader
// when it is not all there.
func (l *line) routing6(b []byte) int {
	n := (int(at(b, 1)) + 1) << 3
	if len(b) >= 4 {
		l.str("srcrt (len=")
		l.uint(uint32(b[1]))
		l.str(", type=")
		l.uint(uint32(b[2]))
		l.str(", segleft=")
		l.uint(uint32(b[3]))
		if b[2] != 0 {
			if n <= len(b) {
				l.byte(')')
				return n
			}
		} else if l.routing6Type0(b) {
			l.byte(')')
			return n
		}
	}
	l.str(", [|srcrt]")
	return cutHeader
}

func (l *line) routing6Type0(b []byte) bool {
	if len(b) < 8 {
		return false
	}
	if rsv := u32(b, 4); rsv != 0 {
		l.str(", rsv=0x")
		l.hex(rsv, 0)
	}
	if b[1]%2 == 1 {
		return false
	}
	for i := range int(b[1]) / 2 {
		if 8+(i+1)*16 > len(b) {
			return false
		}
		l.str(", [")
		l.uint(uint32(i))
		l.byte(']')
		l.addr6(b, 8+i*16)
	}
	return true
}

// udp prints a UDP header (print-udp.c), ip being the IP header before it.
func (l *line) udp(b []byte, length uint32, ip []byte) {
	if len(b) < 8 {
		l.pair(ip)
		l.str(": [|udp]")
		return
	}
	if length < 8 {
		l.pair(ip)
		l.str(": truncated-udp ")
		l.uint(length)
		return
	}
	l.ports(b, ip)
	if ulen := uint32(u16(b, 4)); length < ulen {
		l.str(" truncated-udp - ")
		l.uint(ulen - length)
		l.str(" bytes missing!")
	}
	length -= 8
	if !l.wireguard(b[8:], length) {
		l.str("udp ")
		l.uint(length)
	}
}

// ports prints "source.port > destination.port: ".
func (l *line) ports(b, ip []byte) {
	out := l.b
	if ip[0]>>4 == 6 {
		out = appendAddr6(out, (*[16]byte)(ip[8:]))
		out = append(out, '.')
		out = appendUint16(out, u16(b, 0))
		out = append(out, " > "...)
		out = appendAddr6(out, (*[16]byte)(ip[24:]))
	} else {
		out = appendAddr4(out, (*[4]byte)(ip[12:]))
		out = append(out, '.')
		out = appendUint16(out, u16(b, 0))
		out = append(out, " > "...)
		out = appendAddr4(out, (*[4]byte)(ip[16:]))
	}
	out = append(out, '.')
	out = appendUint16(out, u16(b, 2))
	l.b = append(out, ": "...)
}
