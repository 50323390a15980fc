package capture

import "strings"

// icmp prints an ICMP message (print-icmp.c) behind the IP header ip.
func (l *line) icmp(b, ip []byte) {
	l.pair(ip)
	l.put(": ")
	mark := len(l.b)
	if !l.icmpMessage(b) {
		l.b = append(l.b[:mark], "[|icmp]"...)
	}
}

// icmpTypes are the messages of which only the name is printed.
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

// icmpUnreach are the texts of unreachable messages, by code; "%" is the address.
var icmpUnreach = [...]string{
	0:  "net % unreachable",
	1:  "host % unreachable",
	5:  "% unreachable - source route failed",
	6:  "net % unreachable - unknown",
	7:  "host % unreachable - unknown",
	8:  "% unreachable - source host isolated",
	9:  "net % unreachable - admin prohibited",
	10: "host % unreachable - admin prohibited",
	11: "net % unreachable - tos prohibited",
	12: "host % unreachable - tos prohibited",
	13: "host % unreachable - admin prohibited filter",
	14: "host % unreachable - host precedence violation",
	15: "host % unreachable - precedence cutoff",
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
	typ, code := b[0], b[1]
	need := 0
	switch {
	case typ == 3 || typ == 5 || typ == 11:
		need = icmpQuoteEnd
	case typ == 9:
		need = 8
	case typ == 12 && code != 1 && code != 2:
		need = 5
	case typ == 18:
		need = 12
	}
	if len(b) < need {
		return false
	}
	l.put("icmp: ")
	switch typ {
	case 3:
		return l.icmpUnreachable(b, code)
	case 5:
		what, where := "redirect ", " to net "
		switch code {
		case 0:
		case 1:
			where = " to host "
		case 2, 3:
			what = "redirect-tos "
		default:
			l.put("redirect-#", code)
			what = " "
		}
		l.put(what, addr4(b, icmpQuoteDst), where, addr4(b, 4))
	case 9:
		text := len(l.b)
		ok := l.icmpRouterAdvert(b)
		// tcpdump builds the text in a buffer of 512 bytes with its NUL.
		l.b = l.b[:min(len(l.b), text+511)]
		return ok
	case 11:
		switch code {
		case 0:
			l.put("time exceeded in-transit")
		case 1:
			l.put("ip reassembly time exceeded")
		default:
			l.put("time exceeded-#", code)
		}
	case 12:
		switch code {
		case 1:
			l.put("requested option absent")
		case 2:
			l.put("bad length ", at(b, 4))
		default:
			l.put("parameter problem - octet ", b[4])
		}
	case 18:
		l.put("address mask is 0x", hexNum{u32(b, 8), 8})
	default:
		if int(typ) < len(icmpTypes) && icmpTypes[typ] != "" {
			l.put(icmpTypes[typ])
		} else {
			l.put("type-#", typ)
		}
	}
	return true
}

func (l *line) icmpUnreachable(b []byte, code byte) bool {
	dst := addr4(b, icmpQuoteDst)
	switch {
	case code == 2:
		l.put(dst, " protocol ", b[icmpQuote+9], " unreachable")
	case code == 3:
		hlen := int(b[icmpQuote]&0xf) * 4
		if len(b) < icmpQuote+hlen+4 {
			return false
		}
		l.put(dst)
		l.quotedPort(b[icmpQuote+9], u16(b, icmpQuote+hlen+2))
	case code == 4:
		l.put(dst, " unreachable - need to frag")
		if mtu := u16(b, 6); mtu != 0 {
			l.put(" (mtu ", mtu, ")")
		}
	case int(code) < len(icmpUnreach):
		before, after, _ := strings.Cut(icmpUnreach[code], "%")
		l.put(before, dst, after)
	default:
		l.put("#", code, " ", dst, " unreachable")
	}
	return true
}

// quotedPort prints the port that was unreachable.
func (l *line) quotedPort(proto byte, port uint16) {
	switch proto {
	case protoTCP:
		l.put(" tcp")
	case protoUDP:
		l.put(" udp")
	default:
		l.put(" protocol ", proto)
	}
	l.put(" port ", port, " unreachable")
}

// minutes prints ":%02d".
func (l *line) minutes(n uint16) { l.put(":", n/10, n%10) }

func (l *line) icmpRouterAdvert(b []byte) bool {
	l.put("router advertisement lifetime ")
	switch t := u16(b, 6); {
	case t < 60:
		l.put(t)
	case t < 60*60:
		l.put(t / 60)
		l.minutes(t % 60)
	default:
		l.put(t / 3600)
		l.minutes(t / 60 % 60)
		l.minutes(t % 60)
	}
	l.put(" ", b[4], ":")
	if b[5] != 2 {
		l.put(" [size ", b[5], "]")
		return true
	}
	// tcpdump prints the first entry for all of them.
	for range b[4] {
		if len(b) < 16 {
			return false
		}
		l.put(" {", addr4(b, 8), " ", u32(b, 12), "}")
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

// icmp6 prints an ICMPv6 message (print-icmp6.c); length is what the headers claim to
// be left of the packet.
func (l *line) icmp6(b []byte, length uint32) {
	mark := len(l.b)
	if !l.icmp6Message(b, length) {
		l.b = append(l.b[:mark], "[|icmp6]"...)
	}
}

// icmp6Types are the messages of which only the name is printed.
var icmp6Types = [...]string{
	128: "echo request",
	129: "echo reply",
	133: "router solicitation ",
	134: "router advertisement",
}

// icmp6Message reports false when the capture ends before what it should print.
func (l *line) icmp6Message(b []byte, length uint32) bool {
	if len(b) < 2 {
		return false
	}
	typ, code := b[0], b[1]
	if typ == 143 { // the one kind without the prefix
		l.mldReport(b, length)
		return true
	}
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
	l.put("icmp6: ")
	switch typ {
	case 1:
		return l.icmp6Unreachable(b, code)
	case 2:
		l.put("too big ", u32(b, 4))
	case 3:
		l.icmp6Exceeded(b, code)
	case 4:
		if code > 2 {
			l.put("parameter problem code-#", code)
			break
		}
		what := [...]string{"erroneous", "next header", "option"}[code]
		l.put("parameter problem ", what, " - octet ", u32(b, 4))
	case 130:
		l.mldQuery(b, length)
	case 131:
		l.put("multicast listener report ")
		l.mld(b)
	case 132:
		l.put("multicast listener done ")
		l.mld(b)
	case 135:
		l.put("neighbor sol: who has ", addr6(b, 8))
	case 136:
		l.put("neighbor adv: tgt is ", addr6(b, 8))
	case 137:
		l.put("redirect ", addr6(b, 24), " to ", addr6(b, 8))
	case 138:
		if code > 1 {
			l.put("router renum code-#", code)
			break
		}
		l.put("router renum ", [...]string{"command", "result"}[code])
	case 139:
		if len(b)-8 == 4 {
			l.put("who-are-you request")
		} else {
			l.put("FQDN request")
		}
	case 140:
		l.whoAreYou(b, code)
	default:
		if int(typ) < len(icmp6Types) && icmp6Types[typ] != "" {
			l.put(icmp6Types[typ])
		} else {
			l.put("type-#", typ)
		}
	}
	return true
}

func (l *line) icmp6Exceeded(b []byte, code byte) {
	switch code {
	case 0:
		l.put("time exceeded in-transit for ", addr6(b, icmp6QuoteDst))
	case 1:
		l.put("ip6 reassembly time exceeded")
	default:
		l.put("time exceeded code-#", code)
	}
}

func (l *line) icmp6Unreachable(b []byte, code byte) bool {
	if code == 4 && len(b) < icmp6QuoteEnd+4 {
		return false
	}
	l.put(addr6(b, icmp6QuoteDst))
	switch code {
	case 0:
		l.put(" unreachable route")
	case 1:
		l.put(" unreachable prohibited")
	case 2:
		l.put(" beyond scope of source address ", addr6(b, icmp6QuoteSrc))
	case 3:
		l.put(" unreachable address")
	case 4:
		l.quotedPort(b[icmp6Quote+6], u16(b, icmp6QuoteEnd+2))
	default:
		l.put(" unreachable code-#", code)
	}
	return true
}

// mld prints the rest of an MLD version 1 message, nothing if it was not captured.
func (l *line) mld(b []byte) {
	if len(b) >= 24 {
		l.put("max resp delay: ", u16(b, 4), " addr: ", addr6(b, 8))
	}
}

func (l *line) mldQuery(b []byte, length uint32) {
	l.put("multicast listener query ")
	switch {
	case length == 24:
		l.mld(b)
		return
	case length < 28:
		l.put("unknown-version (len ", length, ") ")
		return
	}
	l.put("v2 ")
	if len(b) < 24 {
		l.put("[|icmp6]")
		return
	}
	l.put(" [gaddr ", addr6(b, 8))
	if len(b) < 28 {
		l.put("[|icmp6]")
		return
	}
	switch n := uint32(u16(b, 26)); {
	case n == 0:
	case length < 28+n*16:
		l.put(" [invalid number of sources]")
	default:
		l.put(", ", n, " source(s)")
	}
	l.put("]")
}

// mldReport prints an MLD version 2 report.
func (l *line) mldReport(b []byte, length uint32) {
	l.put("multicast listener report v2")
	switch {
	case length < 8:
		l.put(" [invalid len ", length, "]")
	case len(b) < 8:
		l.put("[|icmp6]")
	default:
		l.put(", ", u16(b, 6), " group record(s)")
	}
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
			fqdn = fqdn || c < ' ' || c > '~'
		}
		if d := name - rest; -2 <= d && d <= 2 {
			fqdn = true
		}
	}
	if fqdn {
		l.put(`FQDN reply("`)
		data = from(data, 13)
	} else {
		l.put(`who-are-you reply("`)
		data = from(data, 4)
	}
	for _, c := range data[:min(len(data), maxLine)] {
		if c < ' ' || c > '~' {
			l.b = append(l.b, '\\', '0'+c>>6, '0'+c>>3&7, '0'+c&7)
		} else {
			l.b = append(l.b, c)
		}
	}
	l.put(`")`)
}
