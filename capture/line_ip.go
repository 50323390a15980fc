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
		l.put("truncated-ip - ", size-length, " bytes missing!")
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
		if !ownAddresses[b[9]] {
			l.pair(b)
		}
		if l.upper(b[9], b[hlen:], size, size, b); b[9] == protoIPv4 || b[9] == protoIPv6 {
			return // nothing is printed of the outer header of a tunnel
		}
	}
	if off&0x3fff != 0 {
		if off&0x1fff != 0 {
			l.pair(b)
		} else {
			l.put(" ")
		}
		l.put("(frag ", u16(b, 4), ":", size, "@", uint32(off&0x1fff)*8)
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
		l.put(" [tos 0x", hexa{v: uint32(tos)}, ecn, "]")
	}
	if ttl := b[8]; ttl <= 1 {
		l.put(" [ttl ", ttl, "]")
	}
}

// ownAddresses are the protocols whose printer prints the addresses.
var ownAddresses = [256]bool{protoTCP: true, protoUDP: true, protoAH: true, protoIPv4: true, protoIPv6: true}

// upper prints what the header ip carries behind its extension headers: b, which has left
// bytes. size is the payload of the header.
func (l *line) upper(proto byte, b []byte, left, size uint32, ip []byte) {
	v6 := ip[0]>>4 == 6
	switch {
	case proto == protoTCP:
		l.tcp(b, left, ip)
	case proto == protoUDP:
		l.udp(b, left, ip)
	case proto == protoESP && left < 8:
		l.put("[|esp]")
	case proto == protoESP:
		l.put("esp")
		l.spi(b, left)
	case proto == protoAH:
		l.put("ah ")
		src, dst := addrs(ip)
		if l.put(src, " > ", dst); left < 12 {
			l.put("[|ah]")
			return
		}
		l.spi(b[min(4, len(b)):], left)
	case proto == protoGRE:
		l.gre(b, size)
	case proto == protoIPv4 || proto == protoIPv6:
		l.nested(proto == protoIPv6, b, size)
		l.put(" (encap)")
	case proto == protoICMP && !v6:
		l.icmp("icmp", icmpMessages, b, left)
	case proto == protoIGMP && !v6:
		l.igmp(b, left)
	case proto == protoICMPv6 && v6 && len(b) >= 2 && b[0] == 143:
		l.mldReport(b, left)
	case proto == protoICMPv6 && v6:
		l.icmp("icmp6", icmp6Messages, b, left)
	case proto == protoNone && v6:
		l.put("no next header")
	case v6: // tcpdump names the protocol of the first header
		l.put("ip-proto-", ip[6], " ", size)
	default:
		l.put("ip-proto-", proto, " ", size)
	}
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
		l.put("truncated-ip6 ", length)
		return
	case b[0]>>4 != 6:
		l.put("bad-ip6-version ", b[0]>>4)
		return
	}
	size := uint32(u16(b, 4))
	if length < size+ipv6HeaderLen {
		l.put("truncated-ip6 - ", size+ipv6HeaderLen-length, " bytes missing!")
	}
	if !ownAddresses[b[6]] {
		l.pair(b)
	}
	l.ip6Payload(b, size)

	flow := u32(b, 0)
	if class := flow >> 20 & 0xff; class != 0 {
		l.put(" [class 0x", hexa{v: class}, "]")
	}
	if label := flow & 0xfffff; label != 0 {
		l.put(" [flowlabel 0x", hexa{v: label}, "]")
	}
	if hlim := b[7]; hlim <= 1 {
		l.put(" [hlim ", hlim, "]")
	}
}

// ip6Payload walks the extension headers of the header ip and prints what they carry;
// size is the payload length that the header claims. The printer of an extension header
// returns its length, 0 where nothing can be known of what is behind it.
func (l *line) ip6Payload(ip []byte, size uint32) {
	next, hlen := ip[6], 0
	for off := ipv6HeaderLen; off <= len(ip); off += hlen {
		b := ip[off:]
		// What is left of the payload by its own account: it wraps where headers
		// claim more than there is.
		left := size + ipv6HeaderLen - uint32(off)
		switch next {
		case protoHopOpts:
			hlen = l.options6(b, "HBH")
		case protoDstOpts:
			hlen = l.options6(b, "DSTOPT")
		case protoFragment:
			hlen = l.frag6(b, left)
		case protoRouting:
			hlen = l.routing6(b)
		default:
			l.upper(next, b, left, size, ip)
			return
		}
		if hlen == 0 {
			return
		}
		next = b[0]
	}
}

// options6 prints a hop-by-hop or destination options header (print-ip6opts.c).
func (l *line) options6(b []byte, name string) int {
	if n := (int(at(b, 1)) + 1) * 8; n <= len(b) {
		l.put(name, " ")
		return n
	}
	l.put("[|", name, "]")
	return 0
}

// frag6 prints a fragment header (print-frag6.c). Nothing is known of what is in a
// fragment other than the first.
func (l *line) frag6(b []byte, left uint32) int {
	if len(b) < 8 {
		l.put("[|frag]")
		return 0
	}
	off := u16(b, 2)
	l.put("frag (0x", hexa{u32(b, 4), 8}, ":", int32(left-8), "@", off&^7)
	if off&1 != 0 {
		l.put("+")
	}
	l.put(")")
	if off&^7 != 0 {
		return 0
	}
	l.put(" ")
	return 8
}

// routing6 prints a routing header (print-rt6.c), with the addresses of type 0.
func (l *line) routing6(b []byte) int {
	n := (int(at(b, 1)) + 1) * 8
	whole := len(b) >= 4
	if whole {
		l.put("srcrt (len=", b[1], ", type=", b[2], ", segleft=", b[3])
		whole = n <= len(b)
	}
	if at(b, 2) == 0 && len(b) >= 8 {
		if rsv := u32(b, 4); rsv != 0 {
			l.put(", rsv=0x", hexa{v: rsv})
		}
		whole = whole && b[1]%2 == 0
		for i := 8; b[1]%2 == 0 && i+16 <= min(n, len(b)); i += 16 {
			l.put(", [", uint32(i/16), "]", addr(b, i, 16))
		}
	}
	if !whole {
		l.put(", [|srcrt]")
		return 0
	}
	l.put(")")
	return n
}

// udp prints a UDP header (print-udp.c) behind the IP header ip.
func (l *line) udp(b []byte, length uint32, ip []byte) {
	switch {
	case len(b) < 8:
		l.pair(ip)
		l.put("[|udp]")
		return
	case length < 8:
		l.pair(ip)
		l.put("truncated-udp ", length)
		return
	}
	l.ports(b, ip)
	if ulen := uint32(u16(b, 4)); length < ulen {
		l.put(" truncated-udp - ", ulen-length, " bytes missing!")
	}
	l.put("udp ", length-8)
}

// spi prints the rest of an ESP header or an authentication header (print-ipsec.c), which
// tcpdump does not check to be captured.
func (l *line) spi(b []byte, length uint32) {
	l.put(" spi 0x", hexa{u32(b, 0), 8}, " seq ", u32(b, 4), " len ", int32(length))
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
		l.put(" [len ", length, "]")
	}
	if v := b[0] >> 4; v != 1 {
		l.put(" [v", v, "]")
	}
	if uint64(length) > uint64(len(b)) {
		l.put("[|igmp]")
	}
}

// Flags of a GRE header (RFC 1701, RFC 2637).
const greChecksum, greRouting, greKey, greSequence, greAck, greVersion = 0x8000, 0x4000, 0x2000, 0x1000, 0x80, 7

// greFields are the words behind the first four bytes of each version of GRE, if one of the
// flags is set. A key may be a virtual subnet and a flow (NVGRE).
var greFields = [2][]struct {
	flags uint16
	text  string // a form
}{
	{{greChecksum | greRouting, ""}, {greKey, " key={w0}|{t0}+{y3}"}, {greSequence, " seq {w0}"}},
	{{greVersion, " callid {h2}"}, {greSequence, " seq {w0}"}, {greAck, " ack {w0}"}},
}

// gre prints a GRE header and the IP datagram in it (print-gre.c). What else it carries
// is printed as tcpdump prints protocols that it does not know.
func (l *line) gre(b []byte, length uint32) {
	flags, proto := u16(b, 0), u16(b, 2)
	version, name := flags&greVersion, "gre"
	switch {
	case len(b) < 2:
		l.put("[|gre]")
		return
	case version > 1:
		l.put("gre-unknown-version=", version)
		return
	case version == 1 && len(b) < 4:
		l.put("[|gre1]")
		return
	case version == 1 && proto != 0x880b:
		l.put("unknown-gre1-proto-", hexa{uint32(proto), 4})
		return
	case version == 1:
		name = "pptp"
	}
	l.put(name)
	off := 4
	for _, f := range greFields[version] {
		if flags&f.flags == 0 {
			continue
		}
		if off += 4; off > len(b) {
			break
		}
		if l.form(f.text, b[off-4:]); f.text == "" && flags&greRouting != 0 {
			l.put(" off 0x", hexa{v: uint32(u16(b, off-2))})
		}
	}
	// Source routes (RFC 1701) are skipped. The last one is all zero.
	for last := version == 1 || flags&greRouting == 0; !last && off <= len(b); {
		last = off+4 <= len(b) && u16(b, off) == 0 && b[off+3] == 0
		off += 4 + int(at(b, off+3))
	}
	switch {
	case off > len(b):
		l.put("[|", name, "]")
	case version == 1 && flags&greSequence != 0:
		l.put(": ")
	case version == 1:
	case proto == 0:
		l.put(" keep-alive")
	case proto == 0x0800, proto == 0x86dd:
		l.put(" ")
		l.nested(proto == 0x86dd, b[off:], length-uint32(off))
	default:
		l.put(" unknown-proto-", hexa{uint32(proto), 4})
	}
}
