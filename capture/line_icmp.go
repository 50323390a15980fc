package capture

// icmp prints an ICMP message (print-icmp.c), ip being the IP header before it.
func (l *line) icmp(b, ip []byte) {
	l.pair4(ip)
	l.str(": ")
	mark := len(l.b)
	if !l.icmpMessage(b) {
		l.b = append(l.b[:mark], "[|icmp]"...)
	}
}

var icmpTypes = [...]string{
	0:  "echo reply",
	4:  "source quench",
	8:  "echo request",
	10: "router solicitation",
	13: "time stamp request",
	14: "time stamp reply",
	15: "information request",
	16: "information reply",
	17: "address mask request",
}

// icmpUnreach holds what stands before and after the address.
var icmpUnreach = [...][2]string{
	0:  {"net ", " unreachable"},
	1:  {"host ", " unreachable"},
	5:  {"", " unreachable - source route failed"},
	6:  {"net ", " unreachable - unknown"},
	7:  {"host ", " unreachable - unknown"},
	8:  {"", " unreachable - source host isolated"},
	9:  {"net ", " unreachable - admin prohibited"},
	10: {"host ", " unreachable - admin prohibited"},
	11: {"net ", " unreachable - tos prohibited"},
	12: {"host ", " unreachable - tos prohibited"},
	13: {"host ", " unreachable - admin prohibited filter"},
	14: {"host ", " unreachable - host precedence violation"},
	15: {"host ", " unreachable - precedence cutoff"},
}

// Where the fields of the IP header that an ICMP error quotes are.
const (
	icmpQuote    = 8
	icmpQuoteDst = icmpQuote + 16
	icmpQuoteEnd = icmpQuoteDst + 4
)

// icmpMessage reports false when the capture ends before what it should print.
func (l *line) icmpMessage(b []byte) bool {
	if len(b) < 2 {
		return false
	}
	l.str("icmp: ")
	text := len(l.b)
	switch typ, code := b[0], b[1]; typ {
	case 3:
		if len(b) < icmpQuoteEnd {
			return false
		}
		return l.icmpUnreachable(b, code)
	case 5:
		if len(b) < icmpQuoteEnd {
			return false
		}
		where := " to net "
		switch code {
		case 0:
			l.str("redirect ")
		case 1:
			l.str("redirect ")
			where = " to host "
		case 2, 3:
			l.str("redirect-tos ")
		default:
			l.str("redirect-#")
			l.uint(uint32(code))
			l.byte(' ')
		}
		l.addr4(b, icmpQuoteDst)
		l.str(where)
		l.addr4(b, 4)
	case 9:
		if len(b) < 8 {
			return false
		}
		ok := l.icmpRouterAdvert(b)
		// The text is built in a buffer of 512 bytes with its NUL.
		l.b = l.b[:min(len(l.b), text+511)]
		return ok
	case 11:
		if len(b) < icmpQuoteEnd {
			return false
		}
		switch code {
		case 0:
			l.str("time exceeded in-transit")
		case 1:
			l.str("ip reassembly time exceeded")
		default:
			l.str("time exceeded-#")
			l.uint(uint32(code))
		}
	case 12:
		switch code {
		case 1:
			l.str("requested option absent")
		case 2:
			l.str("bad length ")
			l.uint(uint32(at(b, 4)))
		default:
			if len(b) < 5 {
				return false
			}
			l.str("parameter problem - octet ")
			l.uint(uint32(b[4]))
		}
	case 18:
		if len(b) < 12 {
			return false
		}
		l.str("address mask is 0x")
		l.hex(u32(b, 8), 8)
	default:
		if int(typ) < len(icmpTypes) && icmpTypes[typ] != "" {
			l.str(icmpTypes[typ])
			break
		}
		l.str("type-#")
		l.uint(uint32(typ))
	}
	return true
}

func (l *line) icmpUnreachable(b []byte, code byte) bool {
	switch code {
	case 2:
		l.addr4(b, icmpQuoteDst)
		l.str(" protocol ")
		l.uint(uint32(b[icmpQuote+9]))
		l.str(" unreachable")
	case 3:
		hlen := int(b[icmpQuote]&0xf) * 4
		if len(b) < icmpQuote+hlen+4 {
			return false
		}
		l.addr4(b, icmpQuoteDst)
		l.quotedPort(b[icmpQuote+9], u16(b, icmpQuote+hlen+2))
	case 4:
		l.addr4(b, icmpQuoteDst)
		l.str(" unreachable - need to frag")
		if mtu := u16(b, 6); mtu != 0 {
			l.str(" (mtu ")
			l.uint(uint32(mtu))
			l.byte(')')
		}
	default:
		if int(code) < len(icmpUnreach) && icmpUnreach[code][1] != "" {
			l.str(icmpUnreach[code][0])
			l.addr4(b, icmpQuoteDst)
			l.str(icmpUnreach[code][1])
			break
		}
		l.byte('#')
		l.uint(uint32(code))
		l.byte(' ')
		l.addr4(b, icmpQuoteDst)
		l.str(" unreachable")
	}
	return true
}

// quotedPort prints the port that was unreachable.
func (l *line) quotedPort(proto byte, port uint16) {
	switch proto {
	case protoTCP:
		l.str(" tcp port ")
	case protoUDP:
		l.str(" udp port ")
	default:
		l.str(" protocol ")
		l.uint(uint32(proto))
		l.str(" port ")
	}
	l.uint(uint32(port))
	l.str(" unreachable")
}

func (l *line) icmpRouterAdvert(b []byte) bool {
	l.str("router advertisement lifetime ")
	t := uint32(u16(b, 6))
	switch {
	case t < 60:
		l.uint(t)
	case t < 60*60:
		l.uint(t / 60)
		l.byte(':')
		l.b = appendPad2(l.b, t%60)
	default:
		l.uint(t / 3600)
		l.byte(':')
		l.b = appendPad2(l.b, t%3600/60)
		l.byte(':')
		l.b = appendPad2(l.b, t%60)
	}
	l.byte(' ')
	l.uint(uint32(b[4]))
	l.byte(':')
	if b[5] != 2 {
		l.str(" [size ")
		l.uint(uint32(b[5]))
		l.byte(']')
		return true
	}
	// The first entry is printed for all of them.
	for range b[4] {
		if len(b) < 16 {
			return false
		}
		l.str(" {")
		l.addr4(b, 8)
		l.byte(' ')
		l.uint(u32(b, 12))
		l.byte('}')
	}
	return true
}

// Where the fields of the IPv6 header that an ICMPv6 error quotes are.
const (
	icmp6Quote    = 8
	icmp6QuoteSrc = icmp6Quote + 8
	icmp6QuoteDst = icmp6Quote + 24
	icmp6QuoteEnd = icmp6Quote + ipv6HeaderLen
)

// icmp6 prints an ICMPv6 message (print-icmp6.c); length is what the headers say
// is left of the packet.
func (l *line) icmp6(b []byte, length uint32) {
	mark := len(l.b)
	if !l.icmp6Message(b, length) {
		l.b = append(l.b[:mark], "[|icmp6]"...)
	}
}

// icmp6Message reports false when the capture ends before what it should print.
func (l *line) icmp6Message(b []byte, length uint32) bool {
	if len(b) < 2 {
		return false
	}
	typ, code := b[0], b[1]
	if typ == 143 {
		// The one kind without the prefix.
		l.str("multicast listener report v2")
		l.mldReport(b, length)
		return true
	}
	l.str("icmp6: ")
	need := 0
	switch typ {
	case 1, 3, 4:
		need = icmp6QuoteEnd
	case 2:
		need = 8
	case 135, 136:
		need = 24
	case 137:
		need = 40
	}
	if len(b) < need {
		return false
	}
	switch typ {
	case 1:
		return l.icmp6Unreachable(b, code)
	case 2:
		l.str("too big ")
		l.uint(u32(b, 4))
	case 3:
		switch code {
		case 0:
			l.str("time exceeded in-transit for ")
			l.addr6(b, icmp6QuoteDst)
		case 1:
			l.str("ip6 reassembly time exceeded")
		default:
			l.str("time exceeded code-#")
			l.uint(uint32(code))
		}
	case 4:
		l.str("parameter problem ")
		switch code {
		case 0:
			l.str("erroneous")
		case 1:
			l.str("next header")
		case 2:
			l.str("option")
		default:
			l.str("code-#")
			l.uint(uint32(code))
			return true
		}
		l.str(" - octet ")
		l.uint(u32(b, 4))
	case 128:
		l.str("echo request")
	case 129:
		l.str("echo reply")
	case 130:
		l.str("multicast listener query ")
		switch {
		case length == 24:
			l.mld(b)
		case length >= 28:
			l.str("v2 ")
			l.mldQuery(b, length)
		default:
			l.str("unknown-version (len ")
			l.uint(length)
			l.str(") ")
		}
	case 131:
		l.str("multicast listener report ")
		l.mld(b)
	case 132:
		l.str("multicast listener done ")
		l.mld(b)
	case 133:
		l.str("router solicitation ")
	case 134:
		l.str("router advertisement")
	case 135:
		l.str("neighbor sol: who has ")
		l.addr6(b, 8)
	case 136:
		l.str("neighbor adv: tgt is ")
		l.addr6(b, 8)
	case 137:
		l.str("redirect ")
		l.addr6(b, 24)
		l.str(" to ")
		l.addr6(b, 8)
	case 138:
		l.str("router renum ")
		switch code {
		case 0:
			l.str("command")
		case 1:
			l.str("result")
		default:
			l.str("code-#")
			l.uint(uint32(code))
		}
	case 139:
		if len(b)-8 == 4 {
			l.str("who-are-you request")
		} else {
			l.str("FQDN request")
		}
	case 140:
		l.whoAreYou(b, code)
	default:
		l.str("type-#")
		l.uint(uint32(typ))
	}
	return true
}

func (l *line) icmp6Unreachable(b []byte, code byte) bool {
	switch code {
	case 0:
		l.addr6(b, icmp6QuoteDst)
		l.str(" unreachable route")
	case 1:
		l.addr6(b, icmp6QuoteDst)
		l.str(" unreachable prohibited")
	case 2:
		l.addr6(b, icmp6QuoteDst)
		l.str(" beyond scope of source address ")
		l.addr6(b, icmp6QuoteSrc)
	case 3:
		l.addr6(b, icmp6QuoteDst)
		l.str(" unreachable address")
	case 4:
		if len(b) < icmp6QuoteEnd+4 {
			return false
		}
		l.addr6(b, icmp6QuoteDst)
		l.quotedPort(b[icmp6Quote+6], u16(b, icmp6QuoteEnd+2))
	default:
		l.addr6(b, icmp6QuoteDst)
		l.str(" unreachable code-#")
		l.uint(uint32(code))
	}
	return true
}

// mld prints the rest of an MLD version 1 message, nothing if it was not captured.
func (l *line) mld(b []byte) {
	if len(b) < 24 {
		return
	}
	l.str("max resp delay: ")
	l.uint(uint32(u16(b, 4)))
	l.str(" addr: ")
	l.addr6(b, 8)
}

func (l *line) mldQuery(b []byte, length uint32) {
	if len(b) < 24 {
		l.str("[|icmp6]")
		return
	}
	l.str(" [gaddr ")
	l.addr6(b, 8)
	if len(b) < 28 {
		l.str("[|icmp6]")
		return
	}
	if n := uint32(u16(b, 26)); n > 0 {
		if length < 28+n*16 {
			l.str(" [invalid number of sources]")
		} else {
			l.str(", ")
			l.uint(n)
			l.str(" source(s)")
		}
	}
	l.byte(']')
}

func (l *line) mldReport(b []byte, length uint32) {
	if length < 8 {
		l.str(" [invalid len ")
		l.uint(length)
		l.byte(']')
		return
	}
	if len(b) < 8 {
		l.str("[|icmp6]")
		return
	}
	l.str(", ")
	l.uint(uint32(u16(b, 6)))
	l.str(" group record(s)")
}

// whoAreYou prints a node's name, guessing which of two formats it came in as
// print-icmp6.c guesses.
func (l *line) whoAreYou(b []byte, code byte) {
	data := from(b, 8)
	rest := len(b) - 8 - 13
	name := int(at(data, 12))
	fqdn := name == rest || code == 1
	if !fqdn {
		for _, c := range from(data, 4) {
			if c < ' ' || c > '~' {
				fqdn = true
			}
		}
		if d := name - rest; !fqdn && -2 <= d && d <= 2 {
			fqdn = true
		}
	}
	if fqdn {
		l.str(`FQDN reply("`)
		data = from(data, 13)
	} else {
		l.str(`who-are-you reply("`)
		data = from(data, 4)
	}
	for _, c := range data {
		if l.full() {
			break
		}
		if c < ' ' || c > '~' {
			l.b = append(l.b, '\\', '0'+c>>6, '0'+c>>3&7, '0'+c&7)
		} else {
			l.byte(c)
		}
	}
	l.str(`")`)
}
