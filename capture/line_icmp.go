package capture

import (
	"strconv"
	"strings"
)

// A message is how a kind of ICMP or ICMPv6 message is printed.
type message struct {
	typ, code int    // code anyCode: those that have no row of their own above
	need      int    // bytes that must have been captured; else the message is printed as cut
	text      string // see form
	// rest prints what the text does not, and reports false when the capture ends before it.
	rest func(l *line, b []byte, length uint32) bool
}

const anyCode = -1

// Where the fields are of the IP header that an ICMP error quotes behind its own 8 bytes,
// and where that ends: the destination at 24 or 32, the protocol at 17 or 14.
const icmpQuote, icmpQuoteEnd, icmp6QuoteEnd = 8, 8 + ipv4HeaderLen, 8 + ipv6HeaderLen

// icmpMessages is print-icmp.c.
var icmpMessages = []message{
	{0, anyCode, 0, "echo reply", nil},
	{3, 0, icmpQuoteEnd, "net {i24} unreachable", nil},
	{3, 1, icmpQuoteEnd, "host {i24} unreachable", nil},
	{3, 2, icmpQuoteEnd, "{i24} protocol {b17} unreachable", nil},
	{3, 3, icmpQuoteEnd, "{i24}", (*line).icmpPort},
	{3, 4, icmpQuoteEnd, "{i24} unreachable - need to frag", (*line).icmpMTU},
	{3, 5, icmpQuoteEnd, "{i24} unreachable - source route failed", nil},
	{3, 6, icmpQuoteEnd, "net {i24} unreachable - unknown", nil},
	{3, 7, icmpQuoteEnd, "host {i24} unreachable - unknown", nil},
	{3, 8, icmpQuoteEnd, "{i24} unreachable - source host isolated", nil},
	{3, 9, icmpQuoteEnd, "net {i24} unreachable - admin prohibited", nil},
	{3, 10, icmpQuoteEnd, "host {i24} unreachable - admin prohibited", nil},
	{3, 11, icmpQuoteEnd, "net {i24} unreachable - tos prohibited", nil},
	{3, 12, icmpQuoteEnd, "host {i24} unreachable - tos prohibited", nil},
	{3, 13, icmpQuoteEnd, "host {i24} unreachable - admin prohibited filter", nil},
	{3, 14, icmpQuoteEnd, "host {i24} unreachable - host precedence violation", nil},
	{3, 15, icmpQuoteEnd, "host {i24} unreachable - precedence cutoff", nil},
	{3, anyCode, icmpQuoteEnd, "#{b1} {i24} unreachable", nil},
	{4, anyCode, 0, "source quench", nil},
	{5, 0, icmpQuoteEnd, "redirect {i24} to net {i4}", nil},
	{5, 1, icmpQuoteEnd, "redirect {i24} to host {i4}", nil},
	{5, 2, icmpQuoteEnd, "redirect-tos {i24} to net {i4}", nil},
	{5, 3, icmpQuoteEnd, "redirect-tos {i24} to net {i4}", nil},
	{5, anyCode, icmpQuoteEnd, "redirect-#{b1} {i24} to net {i4}", nil},
	{8, anyCode, 0, "echo request", nil},
	{9, anyCode, 8, "router advertisement lifetime ", (*line).icmpRouterAdvert},
	{10, anyCode, 0, "router solicitation", nil},
	{11, 0, icmpQuoteEnd, "time exceeded in-transit", nil},
	{11, 1, icmpQuoteEnd, "ip reassembly time exceeded", nil},
	{11, anyCode, icmpQuoteEnd, "time exceeded-#{b1}", nil},
	{12, 1, 0, "requested option absent", nil},
	{12, 2, 0, "bad length {b4}", nil},
	{12, anyCode, 5, "parameter problem - octet {b4}", nil},
	{13, anyCode, 0, "time stamp request", nil},
	{14, anyCode, 0, "time stamp reply", nil},
	{15, anyCode, 0, "information request", nil},
	{16, anyCode, 0, "information reply", nil},
	{17, anyCode, 0, "address mask request", nil},
	{18, anyCode, 12, "address mask is 0x{x8}", nil},
}

// icmp6Messages is print-icmp6.c.
var icmp6Messages = []message{
	{1, 0, icmp6QuoteEnd, "{I32} unreachable route", nil},
	{1, 1, icmp6QuoteEnd, "{I32} unreachable prohibited", nil},
	{1, 2, icmp6QuoteEnd, "{I32} beyond scope of source address {I16}", nil},
	{1, 3, icmp6QuoteEnd, "{I32} unreachable address", nil},
	{1, 4, icmp6QuoteEnd + 4, "{I32}", (*line).icmpPort},
	{1, anyCode, icmp6QuoteEnd, "{I32} unreachable code-#{b1}", nil},
	{2, anyCode, 8, "too big {w4}", nil},
	{3, 0, icmp6QuoteEnd, "time exceeded in-transit for {I32}", nil},
	{3, 1, icmp6QuoteEnd, "ip6 reassembly time exceeded", nil},
	{3, anyCode, icmp6QuoteEnd, "time exceeded code-#{b1}", nil},
	{4, 0, icmp6QuoteEnd, "parameter problem erroneous - octet {w4}", nil},
	{4, 1, icmp6QuoteEnd, "parameter problem next header - octet {w4}", nil},
	{4, 2, icmp6QuoteEnd, "parameter problem option - octet {w4}", nil},
	{4, anyCode, icmp6QuoteEnd, "parameter problem code-#{b1}", nil},
	{128, anyCode, 0, "echo request", nil},
	{129, anyCode, 0, "echo reply", nil},
	{130, anyCode, 0, "multicast listener query ", (*line).mldQuery},
	{131, anyCode, 0, "multicast listener report ", (*line).mld},
	{132, anyCode, 0, "multicast listener done ", (*line).mld},
	{133, anyCode, 0, "router solicitation ", nil},
	{134, anyCode, 0, "router advertisement", nil},
	{135, anyCode, 24, "neighbor sol: who has {I8}", nil},
	{136, anyCode, 24, "neighbor adv: tgt is {I8}", nil},
	{137, anyCode, 40, "redirect {I24} to {I8}", nil},
	{138, 0, 0, "router renum command", nil},
	{138, 1, 0, "router renum result", nil},
	{138, anyCode, 0, "router renum code-#{b1}", nil},
}

// icmp prints an ICMP or ICMPv6 message by its name, and cut if it ends too soon; length
// is what the headers claim to be left of the packet.
func (l *line) icmp(name string, messages []message, b []byte, length uint32) {
	mark := len(l.b)
	if len(b) >= 2 {
		m := message{text: "type-#{b0}"}
		for i := range messages {
			if r := &messages[i]; r.typ == int(b[0]) && (r.code == int(b[1]) || r.code == anyCode) {
				m = *r
				break
			}
		}
		l.put(name, ": ")
		if len(b) >= m.need {
			if l.form(m.text, b); m.rest == nil || m.rest(l, b, length) {
				return
			}
		}
	}
	l.b = l.b[:mark]
	l.put("[|", name, "]")
}

// form prints a text with fields of b in it: {b1} is the byte at 1, {h1}, {t1} and {w1} the
// 16, 24 and 32 bits there in decimal, {y1} the byte and {x1} the 32 bits in two and eight
// hex digits, {i1} an IPv4 and {I1} an IPv6 address.
func (l *line) form(text string, b []byte) {
	for {
		before, field, found := strings.Cut(text, "{")
		l.put(before)
		if !found {
			return
		}
		field, text, _ = strings.Cut(field, "}")
		off, _ := strconv.Atoi(field[1:])
		switch field[0] {
		case 'b':
			l.put(at(b, off))
		case 'h':
			l.put(u16(b, off))
		case 'w':
			l.put(u32(b, off))
		case 't':
			l.put(u32(b, off) >> 8)
		case 'x':
			l.put(hexa{u32(b, off), 8})
		case 'y':
			l.put(hexa{uint32(at(b, off)), 2})
		case 'i':
			l.put(addr(b, off, 4))
		case 'I':
			l.put(addr(b, off, 16))
		}
	}
}

// icmpPort prints the port behind the quoted IP header of either version.
func (l *line) icmpPort(b []byte, _ uint32) bool {
	proto, off := b[icmpQuote+9], icmpQuote+int(b[icmpQuote]&0xf)*4
	if b[icmpQuote]>>4 == 6 {
		proto, off = b[icmpQuote+6], icmp6QuoteEnd
	}
	if len(b) < off+4 {
		return false
	}
	switch proto {
	case protoTCP:
		l.put(" tcp")
	case protoUDP:
		l.put(" udp")
	default:
		l.put(" protocol ", proto)
	}
	l.put(" port ", u16(b, off+2), " unreachable")
	return true
}

func (l *line) icmpMTU(b []byte, _ uint32) bool {
	if u16(b, 6) != 0 {
		l.form(" (mtu {h6})", b)
	}
	return true
}

func (l *line) icmpRouterAdvert(b []byte, _ uint32) bool {
	two := func(n uint16) hexa { return hexa{uint32(n/10<<4 | n%10), 2} }
	switch t := u16(b, 6); {
	case t < 60:
		l.put(t)
	case t < 3600:
		l.put(t/60, ":", two(t%60))
	default:
		l.put(t/3600, ":", two(t/60%60), ":", two(t%60))
	}
	l.form(" {b4}:", b)
	switch {
	case b[5] != 2:
		l.form(" [size {b5}]", b)
	case b[4] > 0 && len(b) < 16:
		return false
	default:
		for range b[4] { // tcpdump prints the first entry for all of them
			l.put(" {")
			l.form("{i8} {w12}}", b)
		}
	}
	return true
}

// mld prints the rest of an MLD version 1 message, nothing if it was not captured.
func (l *line) mld(b []byte, _ uint32) bool {
	if len(b) >= 24 {
		l.form("max resp delay: {h4} addr: {I8}", b)
	}
	return true
}

func (l *line) mldQuery(b []byte, length uint32) bool {
	switch {
	case length == 24:
		return l.mld(b, length)
	case length < 28:
		l.put("unknown-version (len ", length, ") ")
		return true
	}
	l.put("v2 ")
	if len(b) >= 24 {
		l.form(" [gaddr {I8}", b)
	}
	switch n := uint32(u16(b, 26)); {
	case len(b) < 28:
		l.put("[|icmp6")
	case n != 0 && length < 28+n*16:
		l.put(" [invalid number of sources]")
	case n != 0:
		l.put(", ", n, " source(s)")
	}
	l.put("]")
	return true
}

// mldReport prints an MLD version 2 report, the one message without the prefix.
func (l *line) mldReport(b []byte, length uint32) {
	l.put("multicast listener report v2")
	switch {
	case length < 8:
		l.put(" [invalid len ", length, "]")
	case len(b) < 8:
		l.put("[|icmp6]")
	default:
		l.form(", {h6} group record(s)", b)
	}
}
