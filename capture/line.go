package capture

import (
	"encoding/binary"
	"math/bits"
	"slices"
	"strconv"
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

	// clock is "15:04:", room for the seconds, and ".", for the minute that began at the second minute,
	// in clockLoc.
	minute   int64
	clockLoc *time.Location
	clock    [9]byte

	rules [ruleTexts]ruleText // what was printed of the headers seen last

	conv *conversations

	// Lines are made in one place and in any order while conversations are
	// followed in another, see follow: noted is what relate returned since note
	// was set, known, unless it is nil, what it is to return.
	note         bool
	noted, known []related
}

// AppendLine appends p's line to dst, without a newline, and returns it. The
// line is printable ASCII, at most 4096 bytes, and there is one for every
// packet: only p's Record is looked at, whatever Decode said of it. Nothing is
// allocated if dst has room, but what Relative remembers; 512 bytes are enough for
// nearly every line.
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
	sec := t.Unix()
	if uint64(sec-pr.minute) >= 60 || loc != pr.clockLoc {
		// No zone has changed within a minute since 1972.
		h, m, s := t.In(loc).Clock()
		pr.clock = [9]byte{
			'0' + byte(h/10), '0' + byte(h%10), ':',
			'0' + byte(m/10), '0' + byte(m%10), ':',
			0, 0, '.',
		}
		pr.minute, pr.clockLoc = sec-int64(s), loc
	}
	us := uint32(t.Nanosecond()) / 1000
	n := len(l.b)
	l.b = room(l.b, len(pr.clock)+7)[:n+len(pr.clock)+7]
	w := (*[16]byte)(l.b[n:])
	// Six digits and two zeros in front of them, which the clock covers.
	binary.LittleEndian.PutUint64(w[7:], eightDigits(us)|zeros)
	*(*[9]byte)(w[:]) = pr.clock
	w[6], w[7] = twoDigits(uint32(sec - pr.minute))
	w[15] = ' '
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
	l.rule(d)

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

// A ruleText is what the header says in a line, kept for the next packet with the
// same: firewalls log by few rules on few interfaces.
type ruleText struct {
	key  ruleKey
	hash uint32 // of the key of the last packet that came here
	n    uint8  // bytes of text, 0 while there is none
	text [ruleTextLen]byte
}

const (
	ruleTexts   = 16
	ruleTextLen = 104 // more than names, numbers and words make
)

// A ruleKey is the part of the header that the text says, the direction aside, which
// stands further back: action, reason, names and numbers.
type ruleKey struct {
	head [offSubRuleNr + 4 - offAction]byte
	dir  byte
}

// rule prints what pf did, by which rule, and where.
func (l *line) rule(d []byte) {
	if len(d) <= offDir {
		l.b = appendRule(l.b, d)
		return
	}
	hash := (binary.LittleEndian.Uint32(d[offRuleNr:]) ^ binary.LittleEndian.Uint32(d[offIfname:])) * 0x9e3779b1
	hash ^= (binary.LittleEndian.Uint32(d[offSubRuleNr:]) + uint32(d[offDir])<<16 + uint32(d[offRuleset])<<8) * 0x85ebca6b
	t := &l.pr.rules[hash>>28]
	if t.hash != hash {
		// It is worth its while when it comes again.
		t.hash, t.n = hash, 0
		l.b = appendRule(l.b, d)
		return
	}
	head := (*[len(t.key.head)]byte)(d[offAction:])
	if t.n == 0 || t.key.head != *head || t.key.dir != d[offDir] {
		n := len(l.b)
		l.b = appendRule(l.b, d)
		// A name without a NUL goes on behind its place, to where the key does
		// not reach.
		if d[offIfname+nameLen-1]|d[offRuleset+nameLen-1] == 0 && len(l.b)-n <= ruleTextLen {
			t.key = ruleKey{*head, d[offDir]}
			t.n = uint8(copy(t.text[:], l.b[n:]))
		}
		return
	}
	l.b = append(l.b, t.text[:t.n]...)
}

// nameLen is the size of the header's two names.
const nameLen = len(Name{})

// appendRule is rule without a memory.
func appendRule(b, d []byte) []byte {
	b = append(b, "rule "...)
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
	if r := at(d, offReason); int(r) < len(reasonTexts) {
		b = append(b, reasonTexts[r]...)
	} else {
		b = append(b, "/(unkn "...)
		b = appendUint(b, uint32(r))
		b = append(b, ") "...)
	}
	b = append(b, Action(at(d, offAction)).String()...)
	if Direction(at(d, offDir)) == Out {
		b = append(b, " out on "...)
	} else {
		b = append(b, " in on "...)
	}
	b = appendCString(b, from(d, offIfname))
	return append(b, ": "...)
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
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	// Eight at a time while they are all that they should be.
	for len(s) >= 8 {
		x := binary.LittleEndian.Uint64(s)
		// The lowest byte whose high bit is set here is the first NUL.
		n := bits.TrailingZeros64((x-ones)&^x&highs) &^ 7
		if n == 0 {
			return b
		}
		// Of the others none is above '~' or below ' '.
		y := x | '!'*ones<<(n&63)
		if n == 64 {
			y = x
		}
		if (y|(y+ones)|(y-' '*ones))&highs != 0 {
			break
		}
		b = room(b, 8)
		binary.LittleEndian.PutUint64(b[len(b):len(b)+8], x)
		b = b[:len(b)+n/8]
		if n < 64 {
			return b
		}
		s = s[8:]
	}
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

// reasonTexts holds a reason as it stands in a line.
var reasonTexts = func() (t [len(reasonNames)]string) {
	for i, name := range reasonNames {
		t[i] = "/(" + name + ") "
	}
	return t
}()

// room returns b with space for n bytes more: what writes numbers and addresses
// does it in place, which is a good deal faster than appending piece by piece.
func room(b []byte, n int) []byte {
	if cap(b)-len(b) < n {
		return slices.Grow(b, n)
	}
	return b
}

const pairs = "00010203040506070809" +
	"10111213141516171819" +
	"20212223242526272829" +
	"30313233343536373839" +
	"40414243444546474849" +
	"50515253545556575859" +
	"60616263646566676869" +
	"70717273747576777879" +
	"80818283848586878889" +
	"90919293949596979899"

// twoDigits returns both digits of a value below 100.
func twoDigits(v uint32) (tens, ones byte) {
	return pairs[v*2], pairs[v*2+1]
}

// uint is %u.
func (l *line) uint(v uint32) { l.b = appendUint(l.b, v) }

// zeros is the text of eight zeros.
const zeros = 0x3030303030303030

// eightDigits returns the decimal digits of a value below 100,000,000, the highest
// in the lowest byte. It divides all parts of the value at once and guesses no
// branch: in the numbers of packets every guess would be wrong as often as not.
func eightDigits(v uint32) uint64 {
	x := uint64(v/10000) | uint64(v%10000)<<32 // of four digits each
	y := x * 10486 >> 20 & (0x7f<<32 | 0x7f)   // by 100
	x = y | (x-y*100)<<16                      // of two digits each
	y = x * 103 >> 10 & 0x000f000f000f000f     // by 10
	return y | (x-y*10)<<8
}

func appendUint(b []byte, v uint32) []byte {
	b = room(b, 10)
	n := len(b)
	if v < 256 {
		o := &octets[v]
		b = b[:n+4]
		*(*[4]byte)(b[n:]) = o.text
		return b[:n+int(o.n)-1]
	}
	if v < 1e8 {
		return appendEight(b, v)
	}
	// One digit or two, and eight more.
	top := v / 1e8
	one := (top - 10) >> 31
	w := b[n : n+10]
	w[0] = pairs[2*top+one]
	w[1] = pairs[2*top+1]
	binary.LittleEndian.PutUint64(w[2-one:], eightDigits(v-top*1e8)|zeros)
	return b[:n+10-int(one)]
}

// appendUint16 is appendUint for what is as often large as small: no branch depends
// on the value.
func appendUint16(b []byte, v uint16) []byte {
	b = room(b, 8)
	// Zero has a digit, too.
	x := eightDigits(uint32(v)) | 1<<63
	n := len(b)
	skip := bits.TrailingZeros64(x) &^ 7
	binary.LittleEndian.PutUint64(b[n:n+8], (x&^(1<<63)|zeros)>>(skip&63))
	return b[:n+8-skip/8]
}

// appendEight writes a value from 1 to 99,999,999 into room for eight digits.
func appendEight(b []byte, v uint32) []byte {
	x := eightDigits(v)
	n := len(b)
	// Leading zeros, in bits.
	skip := bits.TrailingZeros64(x) &^ 7
	binary.LittleEndian.PutUint64(b[n:n+8], (x|zeros)>>(skip&63))
	return b[:n+8-skip/8]
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
	tens, ones := twoDigits(v)
	return append(b, tens, ones)
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

// octets holds the text of every octet with the dot behind it, and how long that is.
var octets = func() (t [256]struct {
	text [4]byte
	n    uint8
}) {
	for i := range t {
		var buf [4]byte
		text := append(strconv.AppendUint(buf[:0], uint64(i), 10), '.')
		t[i].n = uint8(copy(t[i].text[:], text))
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
	n := len(b)
	b = room(b, 16)[:n+16]
	// All four bytes of a text are written, whatever belongs to it: the next
	// one is written over what does not.
	i := n
	for _, c := range a {
		o := &octets[c]
		*(*[4]byte)(b[i:]) = o.text
		i += int(o.n)
	}
	return b[:i-1]
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

// longestRun holds, for each set of the eight words of an address that are zero, the
// first of the longest runs of them: where it begins and ends, both 8 if there is
// none of two or more.
var longestRun = func() (t [256][2]uint8) {
	for set := range t {
		best, longest := 8, 1
		for k, run := 0, 0; k < 8; k++ {
			if run++; set>>k&1 == 0 {
				run = 0
			}
			if run > longest {
				best, longest = k+1-run, run
			}
		}
		t[set] = [2]uint8{uint8(best), uint8(min(best+longest, 8))}
	}
	return t
}()

// hexPairs holds the two hexadecimal digits of every octet.
var hexPairs = func() (t [256]uint16) {
	for i := range t {
		t[i] = uint16(lowerHex[i>>4]) | uint16(lowerHex[i&0xf])<<8
	}
	return t
}()

// appendAddr6 writes an IPv6 address as inet_ntop(3) does: the first of the longest
// runs of two or more zero words becomes "::", and an address of IPv4 bits alone,
// or mapped, ends in dotted form.
func appendAddr6(b []byte, a *[16]byte) []byte {
	zero := 0
	for k := range 8 {
		word := uint32(a[2*k])<<8 | uint32(a[2*k+1])
		zero |= int((word-1)>>31) << k
	}
	run := longestRun[zero]
	if zero&0x1f == 0x1f && (run == [2]uint8{0, 6} || run == [2]uint8{0, 5} && a[10] == 0xff && a[11] == 0xff) {
		b = append(b, "::"...)
		if run[1] == 5 {
			b = append(b, "ffff:"...)
		}
		return appendAddr4(b, (*[4]byte)(a[12:]))
	}
	n := len(b)
	b = room(b, 48)[:n+48]
	i := n
	for k := uint8(0); k < 8; k++ {
		if k == run[0] {
			if k == 0 {
				b[i] = ':'
				i++
			}
			b[i] = ':'
			i++
			k = run[1] - 1
			continue
		}
		hi, lo := a[2*k], a[2*k+1]
		// All four digits and the colon behind are written; leading
		// zeros are shifted out, but not the last digit.
		text := uint64(hexPairs[hi]) | uint64(hexPairs[lo])<<16 | ':'<<32
		skip := bits.LeadingZeros16(uint16(hi)<<8|uint16(lo)|1) / 4
		binary.LittleEndian.PutUint64(b[i:], text>>(skip*8&63))
		i += 5 - skip
	}
	if run[1] != 8 || run[0] == 8 {
		i--
	}
	return b[:i]
}
