package capture

import "math/bits"

// esp prints an ESP header (print-ipsec.c). Neither this nor the next two look at
// how much was captured.
func (l *line) esp(b []byte, length uint32) {
	if length < 8 {
		l.str("[|esp]")
		return
	}
	l.str("esp")
	l.spi(b, 0, length)
}

// ah prints an authentication header, ip being the IP header before it.
func (l *line) ah(b []byte, length uint32, ip []byte) {
	l.str("ah ")
	l.pair(ip)
	if length < 12 {
		l.str("[|ah]")
		return
	}
	l.spi(b, 4, length)
}

func (l *line) spi(b []byte, i int, length uint32) {
	l.str(" spi 0x")
	l.hex(u32(b, i), 8)
	l.str(" seq ")
	l.uint(u32(b, i+4))
	l.str(" len ")
	l.int(length)
}

func (l *line) ipcomp(b []byte, length uint32, ip []byte) {
	l.str("ipcomp ")
	l.pair4(ip)
	if length < 4 {
		l.str("[|ipcomp]")
		return
	}
	l.str(" cpi 0x")
	l.hexDigits(uint32(u16(b, 2)), 4, upperHex)
	l.str(" flags ")
	l.hex(uint32(at(b, 1)), 0)
	l.str(" next ")
	l.hex(uint32(at(b, 0)), 0)
}

// wireguard prints a WireGuard message, which is known by its first word and its
// length on whatever port (print-wg.c), and reports whether it is one.
func (l *line) wireguard(b []byte, length uint32) bool {
	const cut = "[|wg]"
	if length < 4 || len(b) < 4 {
		return false
	}
	le32 := func(i int) uint32 { return bits.ReverseBytes32(u32(b, i)) }
	switch typ := le32(0); {
	case typ == 1 && length == 148:
		l.str("[wg] initiation ")
		if len(b) < 8 {
			l.str(cut)
			break
		}
		l.str("from 0x")
		l.hex(le32(4), 8)
	case typ == 2 && length == 92:
		l.str("[wg] response ")
		if len(b) < 12 {
			l.str(cut)
			break
		}
		l.str("from 0x")
		l.hex(le32(4), 8)
		l.str(" to 0x")
		l.hex(le32(8), 8)
	case typ == 3 && length == 64:
		l.str("[wg] cookie ")
		if len(b) < 8 {
			l.str(cut)
			break
		}
		l.str(" to 0x")
		l.hex(le32(4), 8)
	case typ == 4 && length >= 32:
		if length > 32 {
			l.str("[wg] data length ")
			l.uint(length - 32)
			l.byte(' ')
		} else {
			l.str("[wg] keepalive ")
		}
		if len(b) < 16 {
			l.str(cut)
			break
		}
		l.str("to 0x")
		l.hex(le32(4), 8)
		l.str(" nonce ")
		l.uint64(uint64(le32(12))<<32 | uint64(le32(8)))
	default:
		return false
	}
	return true
}

// igmp prints an IGMP message (print-ip.c).
func (l *line) igmp(b []byte, length uint32, ip []byte) {
	const cut = "[|igmp]"
	l.pair4(ip)
	l.str(": ")
	if len(b) < 8 {
		l.str(cut)
		return
	}
	switch b[0] {
	case 0x11:
		l.str("igmp query")
		if u32(b, 4) != 0 {
			l.str(" [gaddr ")
			l.addr4(b, 4)
			l.byte(']')
		}
		l.igmpLen(length)
	case 0x12:
		l.str("igmp report ")
		l.addr4(b, 4)
		l.igmpLen(length)
	case 0x16:
		l.str("igmp nreport ")
		l.addr4(b, 4)
	case 0x17:
		l.str("igmp leave ")
		l.addr4(b, 4)
	case 0x13:
		l.str("igmp dvmrp")
		if length < 8 {
			l.igmpLen(length)
		} else {
			l.dvmrp(b, length)
		}
	case 0x14:
		l.str("igmp pim")
		l.pim(b)
	case 0x1e:
		l.mtrace("mresp ", b)
	case 0x1f:
		l.mtrace("mtrace ", b)
	default:
		l.str("igmp-")
		l.uint(uint32(b[0] & 0xf))
	}
	if v := b[0] >> 4; v != 1 {
		l.str(" [v")
		l.uint(uint32(v))
		l.byte(']')
	}
	if uint64(length) > uint64(len(b)) {
		l.str(cut)
	}
}

func (l *line) igmpLen(n uint32) {
	if n != 8 {
		l.str(" [len ")
		l.int(n)
		l.byte(']')
	}
}

// mtrace prints a multicast traceroute query behind the IGMP header.
func (l *line) mtrace(what string, b []byte) {
	// The query's id and TTL share a word, as little-endian hosts read it.
	id := uint32(at(b, 20)) | uint32(at(b, 21))<<8 | uint32(at(b, 22))<<16
	l.str(what)
	l.uint(id)
	l.str(": ")
	l.addr4(b, 8)
	l.str(" to ")
	l.addr4(b, 12)
	l.str(" reply-to ")
	l.addr4(b, 16)
	if at(b, 16)>>4 == 0xe {
		l.str(" with-ttl ")
		l.uint(uint32(at(b, 23)))
	}
}

var pimTypes = [...]string{
	" Query", " Register", " Register-Stop", " Join/Prune", " RP-reachable",
	" Assert", " Graft", " Graft-ACK", " Mode",
}

// pim prints a PIM message's kind (print-pim.c).
func (l *line) pim(b []byte) {
	if len(b) == 0 {
		return
	}
	if typ := at(b, 1); int(typ) < len(pimTypes) {
		l.str(pimTypes[typ])
	} else {
		l.unknownType(typ)
	}
}

func (l *line) unknownType(typ byte) {
	l.str(" [type ")
	l.uint(uint32(typ))
	l.byte(']')
}

// dvmrp prints a DVMRP message (print-dvmrp.c), whose IGMP header is at b.
func (l *line) dvmrp(b []byte, length uint32) {
	const cut = " [|]"
	body := from(b, 8)
	length -= 8
	switch typ := b[1]; typ {
	case 1:
		l.str(" Probe")
	case 2:
		l.str(" Report")
	case 3:
		l.str(" Ask-neighbors(old)")
	case 4:
		l.str(" Neighbors(old)")
		l.dvmrpNeighbors(body, length)
	case 5:
		l.str(" Ask-neighbors2")
	case 6:
		l.str(" Neighbors2 (v ")
		l.uint(uint32(b[7]))
		l.byte('.')
		l.uint(uint32(b[6]))
		l.str("):")
		l.dvmrpNeighbors2(body, length)
	case 7:
		l.str(" Prune")
		if length < 12 || len(body) < 12 {
			l.str(cut)
			return
		}
		l.dvmrpGroup(body)
		l.str(" timer ")
		l.int(u32(body, 8))
	case 8, 9:
		if l.str(" Graft"); typ == 9 {
			l.str("-ACK")
		}
		if length < 8 || len(body) < 8 {
			l.str(cut)
			return
		}
		l.dvmrpGroup(body)
	default:
		l.unknownType(typ)
	}
}

func (l *line) dvmrpGroup(b []byte) {
	l.str(" src ")
	l.addr4(b, 0)
	l.str(" grp ")
	l.addr4(b, 4)
}

func (l *line) dvmrpNeighbors(b []byte, length uint32) {
	for length > 0 && len(b) > 0 && !l.full() {
		if length < 7 || len(b) <= 7 {
			l.str(" [|]")
			return
		}
		head := b[:7]
		b, length = b[7:], length-7
		for n := head[6]; n > 0 && length >= 4 && len(b) > 4 && !l.full(); n-- {
			l.str(" [")
			l.addr4(head, 0)
			l.str(" -> ")
			l.addr4(b, 0)
			l.str(", (")
			l.uint(uint32(head[4]))
			l.byte('/')
			l.uint(uint32(head[5]))
			l.str(")]")
			b, length = b[4:], length-4
		}
	}
}

func (l *line) dvmrpNeighbors2(b []byte, length uint32) {
	for length > 0 && len(b) > 0 && !l.full() {
		if length < 8 || len(b) <= 8 {
			l.str(" [|]")
			return
		}
		head := b[:8]
		b, length = b[8:], length-8
		n := head[7]
		for ; n > 0 && length >= 4 && len(b) >= 4 && !l.full(); n-- {
			l.str(" [")
			l.addr4(head, 0)
			l.str(" -> ")
			l.addr4(b, 0)
			l.str(" (")
			l.uint(uint32(head[4]))
			l.byte('/')
			l.uint(uint32(head[5]))
			for _, f := range [...]struct {
				bit  byte
				name string
			}{{0x01, "/tunnel"}, {0x02, "/srcrt"}, {0x40, "/querier"}, {0x20, "/disabled"}, {0x10, "/down"}} {
				if head[6]&f.bit != 0 {
					l.str(f.name)
				}
			}
			l.str(")]")
			b, length = b[4:], length-4
		}
		if n != 0 {
			l.str(" [|]")
			return
		}
	}
}

const (
	igrpHeaderLen = 12
	igrpRouteLen  = 14
)

// igrp prints an IGRP message (print-igrp.c).
func (l *line) igrp(b []byte, length uint32, ip []byte) {
	const cut = "[|igrp]"
	l.pair4(ip)
	l.str(": igrp: ")
	if len(b) < igrpHeaderLen {
		l.str(cut)
		return
	}
	interior, system, exterior := u16(b, 4), u16(b, 6), u16(b, 8)
	l.byte(' ')
	switch op := b[0] & 0xf; op {
	case 1:
		l.str("update")
	case 2:
		l.str("request")
	default:
		l.str("op-#")
		l.uint(uint32(op))
	}
	l.str(" V")
	l.uint(uint32(b[0] >> 4))
	l.str(" edit=")
	l.uint(uint32(b[1]))
	l.str(" AS=")
	l.uint(uint32(u16(b, 2)))
	l.str(" (")
	l.uint(uint32(interior))
	l.byte('/')
	l.uint(uint32(system))
	l.byte('/')
	l.uint(uint32(exterior))
	l.byte(')')

	b = b[igrpHeaderLen:]
	// tcpdump goes on below zero, round to the end of what was captured.
	for length -= igrpHeaderLen; length >= igrpRouteLen && !l.full(); length -= igrpRouteLen {
		if interior == 0 && system == 0 && exterior == 0 {
			l.str("[extra bytes ")
			l.int(length)
			l.byte(']')
			break
		}
		if len(b) < igrpRouteLen {
			l.str(cut)
			return
		}
		switch {
		case interior > 0:
			interior--
			l.str(" *.")
			l.dotted(b[:3])
		case system > 0:
			system--
			l.byte(' ')
			l.dotted(b[:3])
			l.str(".0")
		default:
			exterior--
			l.str(" X")
			l.dotted(b[:3])
			l.str(".0")
		}
		l.igrpRoute(b)
		b = b[igrpRouteLen:]
	}
	if interior != 0 || system != 0 || exterior != 0 {
		l.str(cut)
	}
}

func (l *line) dotted(b []byte) {
	for i, c := range b {
		if i > 0 {
			l.byte('.')
		}
		l.uint(uint32(c))
	}
}

func (l *line) igrpRoute(b []byte) {
	delay, bandwidth := u32(b, 2)&0xffffff, u32(b, 5)&0xffffff
	l.str(" d=")
	l.uint(10 * delay)
	l.str(" b=")
	if bandwidth == 0 {
		l.byte('0')
	} else {
		l.uint(10000000 / bandwidth)
	}
	l.str(" r=")
	l.uint(uint32(b[11]))
	l.str(" l=")
	l.uint(uint32(b[12]))
	l.str(" M=")
	l.uint(min(bandwidth+delay, 0xffffff))
	l.str(" mtu=")
	l.uint(uint32(u16(b, 9)))
	l.str(" in ")
	l.uint(uint32(b[13]))
	l.str(" hops")
}

var ospfTypes = [...]string{"umd", "hello", "dd", "ls_req", "ls_upd", "ls_ack"}

const ospfCut = " [|ospf]"

// ospf prints an OSPF message for IPv4 (print-ospf.c).
func (l *line) ospf(b []byte, length uint32, ip []byte) {
	l.pair4(ip)
	l.byte(':')
	if len(b) < 16 {
		l.str(ospfCut)
		return
	}
	if u16(b, 14) == 2 {
		// The MD5 trailer is taken off first, of what was captured too.
		const md5Len = 16
		length -= md5Len
		b = b[:max(len(b)-md5Len, 0)]
		if len(b) < 2 {
			l.str(ospfCut)
			return
		}
	}
	typ := b[1]
	l.str(" OSPFv")
	l.uint(uint32(b[0]))
	if int(typ) >= len(ospfTypes) {
		l.str("-type")
		l.uint(uint32(typ))
		l.byte(' ')
		return
	}
	l.byte('-')
	l.str(ospfTypes[typ])
	l.byte(' ')
	if len(b) < 4 {
		l.str(ospfCut)
		return
	}
	switch size := uint32(u16(b, 2)); {
	case length < size:
		l.str(" [len ")
		l.uint(size)
		l.byte(']')
		return
	case length > size:
		l.byte(' ')
		l.uint(size)
		l.byte('[')
		l.int(length)
		l.str("]:")
	default:
		l.byte(' ')
		l.int(length)
		l.byte(':')
	}
	if !l.ospfRouter(b) {
		return
	}
	if b[0] != 2 {
		l.str(" ospf [version ")
		l.uint(uint32(b[0]))
		l.byte(']')
		return
	}
	ok := true
	switch typ {
	case 1:
		ok = l.ospfHello(b, 36)
	case 2:
		ok = len(b) >= 27
		if ok {
			l.bits(b[26], "TEM") // T, E, MC
		}
		ok = ok && l.ospfDescription(b, 27, 28, 24)
	}
	if !ok {
		l.str(ospfCut)
	}
}

// ospfRouter prints the router and the area, and reports whether they were
// captured.
func (l *line) ospfRouter(b []byte) bool {
	if len(b) < 8 {
		l.str(ospfCut)
		return false
	}
	l.str(" rtrid ")
	l.addr4(b, 4)
	if len(b) < 12 {
		l.str(ospfCut)
		return false
	}
	if u32(b, 8) != 0 {
		l.str(" area ")
		l.addr4(b, 8)
	} else {
		l.str(" backbone")
	}
	return true
}

// ospfHello prints the designated router at i and its deputy behind it.
func (l *line) ospfHello(b []byte, i int) bool {
	if len(b) < i+4 {
		return false
	}
	if u32(b, i) != 0 {
		l.str(" dr ")
		l.addr4(b, i)
	}
	if len(b) < i+8 {
		return false
	}
	if u32(b, i+4) != 0 {
		l.str(" bdr ")
		l.addr4(b, i+4)
	}
	return true
}

// bits prints the names of the bits set in v, from the lowest, one letter of names
// each: "V" stands for V6, "M" for MC, "D" for DC.
func (l *line) bits(v byte, names string) {
	sep := byte(' ')
	for i := range len(names) {
		if v>>i&1 == 0 {
			continue
		}
		l.byte(sep)
		sep = '/'
		l.byte(names[i])
		switch names[i] {
		case 'V':
			l.byte('6')
		case 'M', 'D':
			l.byte('C')
		}
	}
}

// ospfDescription prints the flags, MTU and sequence number of a database
// description, which are at those offsets.
func (l *line) ospfDescription(b []byte, flags, seq, mtu int) bool {
	if len(b) < flags+1 {
		return false
	}
	sep := byte(' ')
	for _, f := range [...]struct {
		bit  byte
		name string
	}{{4, "I"}, {2, "M"}, {1, "MS"}} {
		if b[flags]&f.bit != 0 {
			l.byte(sep)
			l.str(f.name)
			sep = '/'
		}
	}
	if len(b) < seq+4 {
		return false
	}
	l.str(" mtu ")
	l.uint(uint32(u16(b, mtu)))
	l.str(" S ")
	l.hexDigits(u32(b, seq), 0, upperHex)
	return true
}

// ospf6 prints an OSPF message for IPv6 (print-ospf6.c).
func (l *line) ospf6(b []byte, length uint32) {
	if len(b) < 2 {
		l.str(ospfCut)
		return
	}
	typ := b[1]
	l.str(" OSPFv")
	l.uint(uint32(b[0]))
	l.byte('-')
	if int(typ) < len(ospfTypes) {
		l.str(ospfTypes[typ])
	} else {
		l.str("type")
		l.uint(uint32(typ))
	}
	l.byte(' ')
	l.int(length)
	l.byte(':')
	if int(typ) >= len(ospfTypes) {
		return
	}
	if len(b) < 4 {
		l.str(ospfCut)
		return
	}
	if size := uint32(u16(b, 2)); length != size {
		l.str(" [len ")
		l.uint(size)
		l.byte(']')
		return
	}
	if !l.ospfRouter(b) {
		return
	}
	if len(b) < 15 {
		l.str(ospfCut)
		return
	}
	if b[14] != 0 {
		l.str(" instance ")
		l.uint(uint32(b[14]))
	}
	if b[0] != 3 {
		l.str(" ospf [version ")
		l.uint(uint32(b[0]))
		l.byte(']')
		return
	}
	ok := true
	switch typ {
	case 1:
		ok = l.ospfHello(b, 28)
	case 2:
		ok = len(b) >= 20
		if ok {
			l.bits(b[19], "VEMNRD") // V6, E, MC, N, R, DC
		}
		ok = ok && l.ospfDescription(b, 23, 24, 20)
	}
	if !ok {
		l.str(ospfCut)
	}
}

// carp prints a CARP announcement (print-carp.c); tcpdump takes VRRP for that too.
func (l *line) carp(b []byte, length uint32, ttl byte) {
	if len(b) < 1 {
		l.str("[|carp]")
		return
	}
	version, typ := b[0]>>4, b[0]&0xf
	l.str("CARPv")
	l.uint(uint32(version))
	if typ == 1 {
		l.str("-advertise ")
	} else {
		l.str("-unknown ")
	}
	l.int(length)
	l.str(": ")
	if ttl != 255 {
		l.str("[ttl=")
		l.uint(uint32(ttl))
		l.str("!] ")
	}
	if version != 2 || typ != 1 {
		return
	}
	if len(b) < 6 {
		l.str("[|carp]")
		return
	}
	l.str("vhid=")
	l.uint(uint32(b[1]))
	l.str(" advbase=")
	l.uint(uint32(b[5]))
	l.str(" advskew=")
	l.uint(uint32(b[2]))
	l.str(" demote=")
	l.uint(uint32(b[4]))
}

const pfsyncHeaderLen = 20

// pfsync prints the first line of what tcpdump prints (print-pfsync.c).
func (l *line) pfsync(b, ip []byte) {
	l.addr4(ip, 12)
	l.str(": ")
	if len(b) < pfsyncHeaderLen {
		l.str("[|pfsync]")
		return
	}
	l.str("PFSYNCv")
	l.uint(uint32(b[0]))
	l.str(" len ")
	l.uint(uint32(u16(b, 2)))
}

// mobile prints the minimal encapsulation of RFC 2004 (print-mobile.c).
func (l *line) mobile(b []byte, length uint32) {
	if length < 8 {
		l.str("[|mobile]")
		return
	}
	n := 8
	if u16(b, 0)&0x80 != 0 {
		n = 12
		l.str("[S] ")
	} else {
		l.str("[] ")
	}
	var sum uint32
	for i := 0; i < n; i += 2 {
		sum += uint32(u16(b, i))
	}
	sum = sum>>16 + sum&0xffff
	sum += sum >> 16
	if uint16(sum) != 0xffff {
		l.str(" (bad checksum ")
		l.uint(uint32(u16(b, 2)))
		l.byte(')')
	}
}

// etherip prints as much of an EtherIP header (print-etherip.c) as comes before
// the Ethernet frame in it.
func (l *line) etherip(b []byte, length uint32) {
	l.str("etherip ")
	// sizeof struct etherip_header, whatever the version.
	if len(b) < 2 {
		l.str("[|etherip]")
		return
	}
	v := b[0] >> 4
	known := v == 2 || v == 3
	if known {
		l.uint(uint32(v))
	} else {
		l.str("unknown")
	}
	l.str(" len ")
	l.int(length)
	if known {
		l.str(": ")
	}
}
