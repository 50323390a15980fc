package capture

// ip4 prints an IPv4 datagram (print-ip.c).
func (l *line) ip4(b []byte, length uint32) {
	if len(b) < ipv4HeaderLen {
		l.put("[|ip]")
		return
	}
	if v := b[0] >> 4; v != 4 {
		l.put("bad-ip-version ", v)
		return
	}
	size := uint32(u16(b, 2))
	if length < size {
		l.put("truncated-ip - ", int32(size-length), " bytes missing!")
		size = length
	}
	hlen := uint32(b[0]&0xf) * 4
	if hlen < ipv4HeaderLen || hlen > size {
		l.put("bad-hlen ", hlen)
		return
	}
	size -= hlen
	off := u16(b, 6)
	if off&0x1fff == 0 {
		if int(hlen) > len(b) {
			l.put("[|ip]")
			return
		}
		if whole := l.ip4Payload(b, b[hlen:], size); whole {
			return
		}
	}
	if off&0x3fff != 0 {
		if off&0x1fff != 0 {
			l.pair(b)
			l.put(":")
		}
		l.put(" (frag ", u16(b, 4), ":", int32(size), "@", uint32(off&0x1fff)*8)
		if off&0x2000 != 0 {
			l.put("+")
		}
		l.put(")")
	}
	if off&0x4000 != 0 {
		l.put(" (DF)")
	}
	if tos := b[1]; tos != 0 {
		// ECN-capable transport, congestion experienced
		ecn := [...]string{"", " (C)", " (E)", " (EC)"}[tos&3]
		l.put(" [tos 0x", hexNum{uint32(tos), 0}, ecn, "]")
	}
	if ttl := b[8]; ttl <= 1 {
		l.put(" [ttl ", ttl, "]")
	}
}

// ip4Payload prints what the header ip carries, which is b and has size bytes. It
// returns true if the line is complete: nothing is printed of the outer header of a
// tunnel.
func (l *line) ip4Payload(ip, b []byte, size uint32) bool {
	proto := ip[9]
	switch proto {
	case protoTCP:
		l.tcp(b, size, ip)
		return false
	case protoUDP:
		l.udp(b, size, ip)
		return false
	case protoAH:
		l.ah(b, size, ip)
		return false
	case protoIPv4, protoIPv6:
		l.nested(proto == protoIPv6, b, size)
		l.put(" (encap)")
		return true
	}
	l.pair(ip)
	l.put(": ")
	switch proto {
	case protoICMP:
		l.icmp("icmp: ", "[|icmp]", icmpMessages, b, size)
	case protoIGMP:
		l.igmp(b, size)
	case protoGRE:
		l.gre(b, size)
	case protoESP:
		l.esp(b, size)
	default:
		l.put("ip-proto-", proto, " ", int32(size))
	}
	return false
}

// nested prints an IP datagram inside another.
func (l *line) nested(v6 bool, b []byte, length uint32) {
	l.depth++
	switch {
	case l.depth > maxNesting:
	case v6:
		l.ip6(b, length)
	default:
		l.ip4(b, length)
	}
	l.depth--
}

// ip6 prints an IPv6 datagram (print-ip6.c).
func (l *line) ip6(b []byte, length uint32) {
	switch {
	case len(b) < ipv6HeaderLen:
		l.put("[|ip6]")
		return
	case length < ipv6HeaderLen:
		l.put("truncated-ip6 ", int32(length))
		return
	case b[0]>>4 != 6:
		l.put("bad-ip6-version ", b[0]>>4)
		return
	}
	size := uint32(u16(b, 4))
	if length < size+ipv6HeaderLen {
		l.put("truncated-ip6 - ", int32(size+ipv6HeaderLen-length), " bytes missing!")
	}
	l.ip6Payload(b, size)

	flow := u32(b, 0)
	if class := flow >> 20 & 0xff; class != 0 {
		l.put(" [class 0x", hexNum{class, 0}, "]")
	}
	if label := flow & 0xfffff; label != 0 {
		l.put(" [flowlabel 0x", hexNum{label, 0}, "]")
	}
	if hlim := b[7]; hlim <= 1 {
		l.put(" [hlim ", hlim, "]")
	}
}

// cutHeader is the length of an extension header behind which nothing can be known. It is
// longer than any capture, which ends the walk.
const cutHeader = 1 << 20

// ip6Payload walks the extension headers of the header ip and prints what they carry;
// size is the payload length that the header claims.
func (l *line) ip6Payload(ip []byte, size uint32) {
	next := ip[6]
	switch next {
	case protoTCP, protoUDP, protoAH, protoIPv4, protoIPv6:
	default:
		l.pair(ip)
		l.put(": ")
	}
	for off := ipv6HeaderLen; off <= len(ip); {
		b := ip[off:]
		// What is left of the payload by its own account: it wraps where headers
		// claim more than there is.
		left := size + ipv6HeaderLen - uint32(off)
		var hlen int
		switch next {
		case protoHopOpts:
			hlen = l.options6(b, "HBH")
		case protoDstOpts:
			hlen = l.options6(b, "DSTOPT")
		case protoFragment:
			hlen = l.frag6(b, left)
		case protoRouting:
			hlen = l.routing6(b)
		case protoTCP:
			l.tcp(b, left, ip)
		case protoUDP:
			l.udp(b, left, ip)
		case protoESP:
			l.esp(b, left)
		case protoAH:
			l.ah(b, left, ip)
		case protoICMPv6:
			if len(b) >= 2 && b[0] == 143 {
				l.mldReport(b, left)
			} else {
				l.icmp("icmp6: ", "[|icmp6]", icmp6Messages, b, left)
			}
		case protoIPv4, protoIPv6:
			l.nested(next == protoIPv6, b, size)
			l.put(" (encap)")
		case protoGRE:
			l.gre(b, size)
		case protoNone:
			l.put("no next header")
		default:
			// tcpdump names the protocol of the first header.
			l.put("ip-proto-", ip[6], " ", size)
		}
		if hlen == 0 {
			return
		}
		next = at(b, 0)
		off += hlen
	}
}

// options6 prints a hop-by-hop or destination options header (print-ip6opts.c) and
// returns its length, 0 if that was not captured.
func (l *line) options6(b []byte, name string) int {
	n := (int(at(b, 1)) + 1) * 8
	if n <= len(b) {
		l.put(name, " ")
		return n
	}
	l.put("[|", name, "]")
	if len(b) < 2 {
		return 0
	}
	return n
}

// frag6 prints a fragment header (print-frag6.c) and returns its length, cutHeader for
// a fragment other than the first.
func (l *line) frag6(b []byte, left uint32) int {
	if len(b) < 8 {
		l.put("[|frag]")
		return cutHeader
	}
	off := u16(b, 2)
	l.put("frag (0x", hexNum{u32(b, 4), 8}, ":", int32(left-8), "@", off&^7)
	if off&1 != 0 {
		l.put("+")
	}
	l.put(")")
	if off&^7 != 0 {
		return cutHeader
	}
	l.put(" ")
	return 8
}

// routing6 prints a routing header (print-rt6.c) and returns its length, cutHeader if it
// was not captured whole.
func (l *line) routing6(b []byte) int {
	if len(b) >= 4 {
		n := (int(b[1]) + 1) * 8
		l.put("srcrt (len=", b[1], ", type=", b[2], ", segleft=", b[3])
		if b[2] == 0 && l.routing6Type0(b) || b[2] != 0 && n <= len(b) {
			l.put(")")
			return n
		}
	}
	l.put(", [|srcrt]")
	return cutHeader
}

// routing6Type0 prints the addresses of a type 0 routing header and reports whether they
// were captured.
func (l *line) routing6Type0(b []byte) bool {
	if len(b) < 8 {
		return false
	}
	if rsv := u32(b, 4); rsv != 0 {
		l.put(", rsv=0x", hexNum{rsv, 0})
	}
	if b[1]%2 == 1 {
		return false
	}
	for i := range int(b[1]) / 2 {
		if 8+(i+1)*16 > len(b) {
			return false
		}
		l.put(", [", i, "]", addr6(b, 8+i*16))
	}
	return true
}

// udp prints a UDP header (print-udp.c) behind the IP header ip.
func (l *line) udp(b []byte, length uint32, ip []byte) {
	switch {
	case len(b) < 8:
		l.pair(ip)
		l.put(": [|udp]")
		return
	case length < 8:
		l.pair(ip)
		l.put(": truncated-udp ", length)
		return
	}
	l.ports(b, ip)
	if ulen := uint32(u16(b, 4)); length < ulen {
		l.put(" truncated-udp - ", ulen-length, " bytes missing!")
	}
	l.put("udp ", length-8)
}

// esp prints an ESP header (print-ipsec.c). Like ah, it does not check how much was
// captured.
func (l *line) esp(b []byte, length uint32) {
	if length < 8 {
		l.put("[|esp]")
		return
	}
	l.put("esp")
	l.spi(b, length)
}

// ah prints an authentication header behind the IP header ip.
func (l *line) ah(b []byte, length uint32, ip []byte) {
	l.put("ah ")
	l.pair(ip)
	if length < 12 {
		l.put("[|ah]")
		return
	}
	l.spi(from(b, 4), length)
}

func (l *line) spi(b []byte, length uint32) {
	l.put(" spi 0x", hexNum{u32(b, 0), 8}, " seq ", u32(b, 4), " len ", int32(length))
}

// igmpTexts are the kinds of IGMP messages, as forms.
var igmpTexts = map[byte]string{
	0x11: "igmp query", 0x12: "igmp report {i4}", 0x13: "igmp dvmrp", 0x14: "igmp pim",
	0x16: "igmp nreport {i4}", 0x17: "igmp leave {i4}", 0x1e: "mresp", 0x1f: "mtrace",
}

// igmp prints an IGMP message (print-ip.c). Of DVMRP, PIM and multicast traceroute in it
// only the name is printed.
func (l *line) igmp(b []byte, length uint32) {
	if len(b) < 8 {
		l.put("[|igmp]")
		return
	}
	if text, ok := igmpTexts[b[0]]; ok {
		l.form(text, b)
	} else {
		l.put("igmp-", b[0]&0xf)
	}
	if b[0] == 0x11 && u32(b, 4) != 0 {
		l.form(" [gaddr {i4}]", b)
	}
	if (b[0] == 0x11 || b[0] == 0x12) && length != 8 {
		l.put(" [len ", int32(length), "]")
	}
	if v := b[0] >> 4; v != 1 {
		l.put(" [v", v, "]")
	}
	if uint64(length) > uint64(len(b)) {
		l.put("[|igmp]")
	}
}

// Flags of a GRE header (RFC 1701, RFC 2637).
const (
	greChecksum = 0x8000
	greRouting  = 0x4000
	greKey      = 0x2000
	greSequence = 0x1000
	greAck      = 0x0080
	greVersion  = 0x0007
)

// gre prints a GRE header and the IP datagram in it (print-gre.c). What else it carries
// is printed as tcpdump prints protocols that it does not know.
func (l *line) gre(b []byte, length uint32) {
	flags, proto := u16(b, 0), u16(b, 2)
	switch version := flags & greVersion; {
	case len(b) < 2:
		l.put("[|gre]")
	case version > 1:
		l.put("gre-unknown-version=", version)
	case version == 0:
		l.put("gre")
		l.gre0(b, length, flags, proto)
	case len(b) < 4:
		l.put("[|gre1]")
	case proto == 0x880b:
		l.pptp(b[4:], flags)
	default:
		l.put("unknown-gre1-proto-", hexNum{uint32(proto), 4})
	}
}

func (l *line) gre0(b []byte, length uint32, flags, proto uint16) {
	off := 0
	more := func(n int) bool { // whether the next n bytes were captured
		if off += n; off > len(b) {
			l.put("[|gre]")
		}
		return off <= len(b)
	}
	if !more(4) {
		return
	}
	for _, f := range [...]uint16{greChecksum | greRouting, greKey, greSequence} {
		if flags&f == 0 {
			continue
		}
		if !more(4) {
			return
		}
		switch v := u32(b, off-4); {
		case f == greKey: // a key may be a virtual subnet and a flow (NVGRE)
			l.put(" key=", v, "|", v>>8, "+", hexNum{v & 0xff, 2})
		case f == greSequence:
			l.put(" seq ", v)
		case flags&greRouting != 0:
			l.put(" off 0x", hexNum{v & 0xffff, 0})
		}
	}
	// Source routes (RFC 1701) are skipped. The last one is all zero.
	for last := flags&greRouting == 0; !last; {
		if !more(4) {
			return
		}
		family, size := u16(b, off-4), int(b[off-1])
		if !more(size) {
			return
		}
		last = family == 0 && size == 0
	}
	l.put(" ")
	switch length -= uint32(off); proto {
	case 0:
		l.put("keep-alive")
	case 0x0800, 0x86dd:
		l.nested(proto == 0x86dd, b[off:], length)
	default:
		l.put("unknown-proto-", hexNum{uint32(proto), 4})
	}
}

// pptp prints the rest of an enhanced GRE header, up to the PPP frame.
func (l *line) pptp(b []byte, flags uint16) {
	l.put("pptp")
	if len(b) < 4 {
		l.put("[|pptp]")
		return
	}
	l.put(" callid ", u16(b, 2))
	for _, f := range [...]struct {
		bit  uint16
		name string
	}{{greSequence, " seq "}, {greAck, " ack "}} {
		if flags&f.bit == 0 {
			continue
		}
		if b = b[4:]; len(b) < 4 {
			l.put("[|pptp]")
			return
		}
		l.put(f.name, u32(b, 0))
	}
	if flags&greSequence != 0 {
		l.put(": ")
	}
}
