package capture

import (
	"encoding/binary"
	"io"
	"net/netip"
	"strconv"
	"time"

	"github.com/google/gopacket"
)

// maxLine bounds a line in bytes. Lines of real packets have a few hundred; only crafted
// nesting and repetition reaches this, and is cut.
const maxLine = 4096

// maxNesting bounds IP in IP and GRE.
const maxNesting = 16

// Print writes a line for every packet of src to w and returns their number. Times are
// those of loc, nil for time.Local. If src has a method Buffered, as [FileReader] and
// [Reader] have, lines are written before a packet is waited for. The error is nil at
// the end of src, else that of reading (the lines before it are written) or writing.
func Print(w io.Writer, src gopacket.ZeroCopyPacketDataSource, loc *time.Location) (lines int, err error) {
	const flushAt = 64 << 10
	var (
		p   Packet
		out = make([]byte, 0, flushAt+maxLine+1)
	)
	pending, _ := src.(interface{ Buffered() bool })
	for {
		data, ci, err := src.ZeroCopyReadPacketData()
		if err == nil {
			_ = p.Decode(data, ci) // every packet has a line
			out = append(p.AppendLine(out, loc), '\n')
			lines++
		}
		if err != nil || len(out) >= flushAt || pending != nil && !pending.Buffered() {
			if _, werr := w.Write(out); werr != nil {
				return lines, werr
			}
			out = out[:0]
		}
		if err == io.EOF {
			return lines, nil
		} else if err != nil {
			return lines, err
		}
	}
}

// AppendLine appends to dst the line that OpenBSD 7.8's "tcpdump -n -e -S" prints for
// the packet, without a newline, and returns it. Times are those of loc, nil for
// time.Local, in its zone at the packet's time. (tcpdump takes the zone's offset at its
// own start.) The line is printable ASCII, at most 4096 bytes, and every packet has
// one, even if Decode failed. Nothing is allocated if dst has room; 512 bytes are
// enough for nearly every line.
//
// Printed in full are IPv4, IPv6, fragments, TCP, UDP, ICMP, ICMPv6, IGMP, ESP, AH, and
// GRE and IP in IP with the IP inside. Other protocols are printed by number and length,
// as tcpdump prints those that it does not know, and so is what tcpdump decodes inside
// UDP and TCP (DNS, NTP, WireGuard, …): "udp 45". Node information messages of ICMPv6 are
// printed by type.
func (p *Packet) AppendLine(dst []byte, loc *time.Location) []byte {
	if loc == nil {
		loc = time.Local
	}
	l := &p.line
	*l = line{b: p.Time.In(loc).AppendFormat(dst, "15:04:05.000000 "), start: len(dst)}
	l.packet(p)
	if len(l.b)-l.start > maxLine {
		l.b = l.b[:l.start+maxLine]
	}
	return l.b
}

// A line is one line being written. The methods take as b what was captured from some
// header on, so that len(b) is tcpdump's snapend, and as length how long that header and
// all behind it were before the capture cut them, which wraps in 32 bits where
// tcpdump's does.
type line struct {
	b     []byte
	start int
	depth int
}

// packet prints the pflog header (print-pflog.c) and the packet.
func (l *line) packet(p *Packet) {
	switch p.headerErr {
	case nil:
	case ErrHeaderLen:
		l.put("[pflog: invalid header length!]")
		return
	default:
		l.put("[|pflog]")
		return
	}
	h := &p.Header
	if h.RuleNr == NoRule {
		l.put("rule def")
	} else {
		l.put("rule ", h.RuleNr)
		if h.Ruleset[0] != 0 && h.SubRuleNr == NoRule {
			l.put(".", &h.Ruleset, ".def")
		} else if h.Ruleset[0] != 0 {
			l.put(".", &h.Ruleset, ".", h.SubRuleNr)
		}
	}
	l.put("/(", h.Reason.String(), ") ", h.Action.String(), " ", h.Dir.String(), " on ", &h.Ifname, ": ")

	length := uint32(p.Length - p.hdrlen)
	switch h.AF {
	case AFInet:
		l.ip4(p.IP(), length)
	case AFInet6:
		l.ip6(p.IP(), length)
	default:
		l.put("unknown-af ", h.AF)
	}
}

// A hexa is printed as %0Nx with a width of N.
type hexa struct {
	v     uint32
	width int
}

// put appends its arguments: strings as they are, numbers in decimal, addresses as
// inet_ntop(3) writes them, names with "?" for what is not printable ASCII, so that no
// name can break the line. A line that has reached its bound is not continued.
func (l *line) put(args ...any) {
	if len(l.b)-l.start > maxLine {
		return
	}
	b := l.b
	for _, a := range args {
		switch v := a.(type) {
		case string:
			b = append(b, v...)
		case uint8:
			b = strconv.AppendUint(b, uint64(v), 10)
		case uint16:
			b = strconv.AppendUint(b, uint64(v), 10)
		case uint32:
			b = strconv.AppendUint(b, uint64(v), 10)
		case int32: // %d of what tcpdump computes in unsigned 32 bits
			b = strconv.AppendInt(b, int64(v), 10)
		case hexa:
			for n := v.width - 1; n > 0 && v.v>>(4*n) == 0; n-- {
				b = append(b, '0')
			}
			b = strconv.AppendUint(b, uint64(v.v), 16)
		case netip.Addr:
			b = appendAddr(b, v)
		case *Name:
			for _, c := range v {
				if c == 0 {
					break
				}
				if c < ' ' || c > '~' {
					c = '?'
				}
				b = append(b, c)
			}
		default:
			panic("capture: put of another type")
		}
	}
	l.b = b
}

// appendAddr differs from netip only for addresses that consist of IPv4 bits alone
// (::192.0.2.1).
func appendAddr(b []byte, a netip.Addr) []byte {
	if a.Is6() {
		if a16 := a.As16(); [12]byte(a16[:12]) == [12]byte{} && a16[12]|a16[13] != 0 {
			b = append(b, "::"...)
			a = netip.AddrFrom4([4]byte(a16[12:]))
		}
	}
	return a.AppendTo(b)
}

// Fields that were not captured read as 0. tcpdump, where it does not check, prints what
// lies behind the end.

func u16(b []byte, i int) uint16 { return uint16(at(b, i))<<8 | uint16(at(b, i+1)) }

func at(b []byte, i int) byte {
	if i < len(b) {
		return b[i]
	}
	return 0
}

func u32(b []byte, i int) uint32 {
	if i+4 <= len(b) {
		return binary.BigEndian.Uint32(b[i:])
	}
	return uint32(u16(b, i))<<16 | uint32(u16(b, i+2))
}

// addr returns the address of n bytes at i, which the caller has found captured.
func addr(b []byte, i, n int) netip.Addr {
	a, _ := netip.AddrFromSlice(b[min(i, len(b)):min(i+n, len(b))])
	return a
}

// addrs returns source and destination of a whole IP header.
func addrs(ip []byte) (src, dst netip.Addr) {
	if ip[0]>>4 == 6 {
		return addr(ip, 8, 16), addr(ip, 24, 16)
	}
	return addr(ip, 12, 4), addr(ip, 16, 4)
}

// pair prints "source > destination: " of a whole IP header.
func (l *line) pair(ip []byte) {
	src, dst := addrs(ip)
	l.put(src, " > ", dst, ": ")
}

// ports prints "source.port > destination.port: " for the upper header b of ip.
func (l *line) ports(b, ip []byte) {
	src, dst := addrs(ip)
	l.put(src, ".", u16(b, 0), " > ", dst, ".", u16(b, 2), ": ")
}
