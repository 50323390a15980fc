package capture

import (
	"encoding/binary"
	"time"
)

// maxLine bounds a line, in bytes. Lines of real packets have a few hundred; only
// crafted nesting and repetition (IP in IP in IP …) reaches this, and is cut.
const maxLine = 4096

// maxNesting bounds IP in IP, GRE and MPLS.
const maxNesting = 16

// A Printer writes the line that OpenBSD 7.8's "tcpdump -n -e" writes for a
// packet. Its zero value prints local time and absolute TCP numbers, as
// "tcpdump -n -e -S" does. It must not be used by two goroutines at once.
//
// What tcpdump would decode inside UDP or TCP by the port (DNS, BOOTP, NTP,
// ISAKMP, BGP, …) is printed as for a port that means nothing to it: "udp 45".
// Times are those of the zone at the packet's time; tcpdump takes the zone's offset
// at its own start for all of a file.
type Printer struct {
	// Location is the zone of the times, nil for time.Local.
	Location *time.Location
	// Relative makes TCP sequence numbers relative to the first ones of a
	// conversation, as tcpdump does without -S: what a line says then
	// depends on what was printed before. The conversations remembered are
	// bounded; one that was forgotten begins anew.
	Relative bool

	// clock is "15:04:05." for the second clockSec in clockLoc.
	clockSec int64
	clockLoc *time.Location
	clock    [9]byte

	conv *conversations
}

// AppendLine appends p's line to dst, without a newline, and returns it. The
// line is printable ASCII, at most 4096 bytes, and there is one for every
// packet: only p's Record is looked at, whatever Decode said of it. Nothing is
// allocated if dst has room; 512 bytes are enough for nearly every line.
func (pr *Printer) AppendLine(dst []byte, p *Packet) []byte {
	l := line{b: dst, start: len(dst), pr: pr}
	l.clock(p.Time)
	l.pflog(p.Data, uint32(p.Length))
	if len(l.b)-l.start > maxLine {
		l.b = l.b[:l.start+maxLine]
	}
	return l.b
}

// A line is one line being written. Its methods take what was captured from some
// header on as b, so that len(b) is tcpdump's snapend, and how long that header
// and all behind it were before the capture cut them as length, which wraps in 32
// bits where tcpdump's does.
type line struct {
	b     []byte
	start int
	depth int
	pr    *Printer
}

// full says that the line has reached its bound: loops over foreign data end.
func (l *line) full() bool { return len(l.b)-l.start > maxLine }

func (l *line) clock(t time.Time) {
	pr := l.pr
	loc := pr.Location
	if loc == nil {
		loc = time.Local
	}
	if sec := t.Unix(); sec != pr.clockSec || loc != pr.clockLoc {
		h, m, s := t.In(loc).Clock()
		pr.clock = [9]byte{
			'0' + byte(h/10), '0' + byte(h%10), ':',
			'0' + byte(m/10), '0' + byte(m%10), ':',
			'0' + byte(s/10), '0' + byte(s%10), '.',
		}
		pr.clockSec, pr.clockLoc = sec, loc
	}
	us := uint32(t.Nanosecond() / 1000)
	b := append(l.b, pr.clock[:]...)
	b = appendPad2(b, us/10000)
	b = appendPad2(b, us/100%100)
	b = appendPad2(b, us%100)
	l.b = append(b, ' ')
}

// pflog prints the header and hands on what follows (print-pflog.c). The fields are
// read where they are in today's header, however short the one at hand claims to
// be: that is what tcpdump does.
func (l *line) pflog(d []byte, length uint32) {
	if len(d) < 1 {
		l.str("[|pflog]")
		return
	}
	if d[offLength] < minHeaderLen {
		l.str("[pflog: invalid header length!]")
		return
	}
	hdrlen := int(d[offLength]+3) &^ 3
	if len(d) < hdrlen {
		l.str("[|pflog]")
		return
	}
	b := append(l.b, "rule "...)
	if nr := u32(d, offRuleNr); nr == NoRule {
		b = append(b, "def"...)
	} else {
		b = appendUint(b, nr)
		if at(d, offRuleset) != 0 {
			b = append(b, '.')
			b = appendCString(b, d[offRuleset:])
			if sub := u32(d, offSubRuleNr); sub == NoRule {
				b = append(b, ".def"...)
			} else {
				b = append(b, '.')
				b = appendUint(b, sub)
			}
		}
	}
	b = append(b, "/("...)
	if r := at(d, offReason); int(r) < len(reasonNames) {
		b = append(b, reasonNames[r]...)
	} else {
		b = append(b, "unkn "...)
		b = appendUint(b, uint32(r))
	}
	b = append(b, ") "...)
	b = append(b, Action(at(d, offAction)).String()...)
	if Direction(at(d, offDir)) == Out {
		b = append(b, " out on "...)
	} else {
		b = append(b, " in on "...)
	}
	b = appendCString(b, from(d, offIfname))
	l.b = append(b, ": "...)

	length -= uint32(hdrlen)
	switch af := at(d, offAF); af {
	case AFInet:
		l.ip4(d[hdrlen:], length)
	case AFInet6:
		l.ip6(d[hdrlen:], length)
	default:
		l.str("unknown-af ")
		l.uint(uint32(af))
	}
}

// Reads that tcpdump does not check against the end of the capture give what lies
// behind it there, and 0 here.

func at(b []byte, i int) byte {
	if i < len(b) {
		return b[i]
	}
	return 0
}

func u16(b []byte, i int) uint16 {
	if i+2 <= len(b) {
		return binary.BigEndian.Uint16(b[i:])
	}
	return uint16(at(b, i))<<8 | uint16(at(b, i+1))
}

func u32(b []byte, i int) uint32 {
	if i+4 <= len(b) {
		return binary.BigEndian.Uint32(b[i:])
	}
	return uint32(u16(b, i))<<16 | uint32(u16(b, i+2))
}

// from is b[i:], empty when i is behind the end.
func from(b []byte, i int) []byte {
	if i < len(b) {
		return b[i:]
	}
	return nil
}

func (l *line) byte(c byte)  { l.b = append(l.b, c) }
func (l *line) str(s string) { l.b = append(l.b, s...) }

// appendCString appends the bytes up to the next NUL or the end of s. tcpdump prints
// them as they are; a byte that is not printable ASCII is a "?" here, so that no
// name can break a line in two.
func appendCString(b, s []byte) []byte {
	for _, c := range s {
		if c == 0 {
			break
		}
		if c < ' ' || c > '~' {
			c = '?'
		}
		b = append(b, c)
	}
	return b
}

const twoDigits = "00010203040506070809" +
	"10111213141516171819" +
	"20212223242526272829" +
	"30313233343536373839" +
	"40414243444546474849" +
	"50515253545556575859" +
	"60616263646566676869" +
	"70717273747576777879" +
	"80818283848586878889" +
	"90919293949596979899"

// uint is %u.
func (l *line) uint(v uint32) { l.b = appendUint(l.b, v) }

func appendUint(b []byte, v uint32) []byte {
	if v < 100 {
		if v < 10 {
			return append(b, '0'+byte(v))
		}
		return appendPad2(b, v)
	}
	var buf [10]byte
	i := len(buf)
	for v >= 100 {
		i -= 2
		d := v % 100 * 2
		v /= 100
		buf[i], buf[i+1] = twoDigits[d], twoDigits[d+1]
	}
	if v >= 10 {
		i -= 2
		buf[i], buf[i+1] = twoDigits[v*2], twoDigits[v*2+1]
	} else {
		i--
		buf[i] = '0' + byte(v)
	}
	return append(b, buf[i:]...)
}

// uint64 is %lu on a 64 bit host.
func (l *line) uint64(v uint64) {
	if v <= 1<<32-1 {
		l.uint(uint32(v))
		return
	}
	var buf [20]byte
	i := len(buf)
	for ; v != 0; v /= 10 {
		i--
		buf[i] = '0' + byte(v%10)
	}
	l.b = append(l.b, buf[i:]...)
}

// int is %d of a value that tcpdump computes in unsigned 32 bits.
func (l *line) int(v uint32) {
	if int32(v) < 0 {
		l.byte('-')
		v = -v
	}
	l.uint(v)
}

// appendPad2 is %02u of a value below 100.
func appendPad2(b []byte, v uint32) []byte {
	return append(b, twoDigits[v*2], twoDigits[v*2+1])
}

const lowerHex, upperHex = "0123456789abcdef", "0123456789ABCDEF"

// hex is %x, %0Nx with a width.
func (l *line) hex(v uint32, width int) { l.hexDigits(v, width, lowerHex) }

func (l *line) hexDigits(v uint32, width int, digits string) {
	n := 1
	for n < 8 && v>>(4*n) != 0 {
		n++
	}
	for n = max(n, width) - 1; n >= 0; n-- {
		l.byte(digits[v>>(4*n)&0xf])
	}
}

// decimals holds the text of every octet, its length in the last byte.
var decimals = func() (t [256][4]byte) {
	for i := range t {
		s := make([]byte, 0, 3)
		if i >= 100 {
			s = append(s, '0'+byte(i/100))
		}
		if i >= 10 {
			s = append(s, '0'+byte(i/10%10))
		}
		s = append(s, '0'+byte(i%10))
		t[i][3] = byte(copy(t[i][:3], s))
	}
	return t
}()

// addr4 prints the IPv4 address at i.
func (l *line) addr4(b []byte, i int) {
	if i+4 <= len(b) {
		l.b = appendAddr4(l.b, (*[4]byte)(b[i:]))
		return
	}
	l.b = appendAddr4(l.b, &[4]byte{at(b, i), at(b, i+1), at(b, i+2), at(b, i+3)})
}

func appendAddr4(b []byte, a *[4]byte) []byte {
	var buf [16]byte
	n := 0
	for _, c := range a {
		d := &decimals[c]
		buf[n], buf[n+1], buf[n+2] = d[0], d[1], d[2]
		n += int(d[3])
		buf[n] = '.'
		n++
	}
	return append(b, buf[:n-1]...)
}

// addr6 prints the IPv6 address at i.
func (l *line) addr6(b []byte, i int) {
	if i+16 <= len(b) {
		l.b = appendAddr6(l.b, (*[16]byte)(b[i:]))
		return
	}
	var whole [16]byte
	copy(whole[:], from(b, i))
	l.b = appendAddr6(l.b, &whole)
}

// appendAddr6 writes an IPv6 address as inet_ntop(3) does: the first of the longest
// runs of two or more zero words becomes "::", and an address of IPv4 bits alone,
// or mapped, ends in dotted form.
func appendAddr6(b []byte, a *[16]byte) []byte {
	best, bestLen, run := -1, 1, 0
	for k := range 8 {
		if a[2*k]|a[2*k+1] != 0 {
			run = 0
			continue
		}
		run++
		if run > bestLen {
			best, bestLen = k-run+1, run
		}
	}
	for k := 0; k < 8; {
		if k == best {
			b = append(b, "::"...)
			k += bestLen
			continue
		}
		if k > 0 && (best < 0 || k != best+bestLen) {
			b = append(b, ':')
		}
		if k == 6 && best == 0 && (bestLen == 6 || bestLen == 5 && a[10] == 0xff && a[11] == 0xff) {
			return appendAddr4(b, (*[4]byte)(a[12:]))
		}
		hi, lo := a[2*k], a[2*k+1]
		switch {
		case hi >= 0x10:
			b = append(b, lowerHex[hi>>4], lowerHex[hi&0xf], lowerHex[lo>>4], lowerHex[lo&0xf])
		case hi != 0:
			b = append(b, lowerHex[hi], lowerHex[lo>>4], lowerHex[lo&0xf])
		case lo >= 0x10:
			b = append(b, lowerHex[lo>>4], lowerHex[lo&0xf])
		default:
			b = append(b, lowerHex[lo])
		}
		k++
	}
	return b
}
