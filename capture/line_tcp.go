package capture

import "encoding/binary"

const tcpHeaderLen = 20

// TCP flags.
const (
	tcpFIN = 1 << iota
	tcpSYN
	tcpRST
	tcpPSH
	tcpACK
	tcpURG
	tcpECE
	tcpCWR
)

// tcpFlagTexts holds the letters of each set of flags; URG and ACK have none.
var tcpFlagTexts = func() (t [256]struct {
	text [6]byte
	n    uint8
}) {
	for flags := range t {
		e := &t[flags]
		for _, f := range [...]struct {
			bit    int
			letter byte
		}{{tcpSYN, 'S'}, {tcpFIN, 'F'}, {tcpRST, 'R'}, {tcpPSH, 'P'}, {tcpCWR, 'W'}, {tcpECE, 'E'}} {
			if flags&f.bit != 0 {
				e.text[e.n] = f.letter
				e.n++
			}
		}
		if e.n == 0 {
			e.text[0], e.n = '.', 1
		}
	}
	return t
}()

// tcp prints a TCP header (print-tcp.c), ip being the IP header before it.
func (l *line) tcp(b []byte, length uint32, ip []byte) {
	if length < tcpHeaderLen {
		l.str("truncated-tcp ")
		l.uint(length)
		return
	}
	v6 := ip[0]>>4 == 6
	if len(b) < 4 {
		l.pair(ip)
		l.str(": [|tcp]")
		return
	}
	if v6 && ip[6] != protoTCP {
		// Behind extension headers: the addresses stand before those.
		l.uint(uint32(u16(b, 0)))
		l.str(" > ")
		l.uint(uint32(u16(b, 2)))
		l.str(": ")
	} else {
		l.ports(b, ip)
	}
	if len(b) < tcpHeaderLen {
		if len(b) >= 8 && len(b) < 12 {
			l.uint(u32(b, 4))
			l.byte(' ')
		}
		l.str("[|tcp]")
		return
	}
	seq, ack := u32(b, 4), u32(b, 8)
	hlen := uint32(b[12]>>4) * 4
	flags := b[13]

	letters := &tcpFlagTexts[flags]
	l.b = append(l.b, letters.text[:letters.n]...)

	// sackBase is what SACK edges are relative to: the other side's first
	// number.
	var sackBase uint32
	if l.pr.Relative && flags&tcpACK != 0 {
		r := l.pr.relate(b, ip, seq, ack, flags&tcpSYN != 0)
		seq, ack, sackBase = r.seq, r.ack, r.sackBase
	}
	if hlen > length {
		l.str(" [bad hdr length]")
		return
	}
	length -= hlen
	out := l.b
	if length > 0 || flags&(tcpSYN|tcpFIN|tcpRST) != 0 {
		out = append(out, ' ')
		n := len(out)
		out = appendUint(out, seq)
		text := out[n:]
		out = append(out, ':')
		if length == 0 {
			out = append(out, text...)
		} else {
			out = appendUint(out, seq+length)
		}
		out = append(out, '(')
		out = appendUint(out, length)
		out = append(out, ')')
	}
	if flags&tcpACK != 0 {
		out = append(out, " ack "...)
		out = appendUint(out, ack)
	}
	out = append(out, " win "...)
	out = appendUint16(out, u16(b, 14))
	if flags&tcpURG != 0 {
		out = append(out, " urg "...)
		out = appendUint(out, uint32(u16(b, 18)))
	}
	l.b = out
	if hlen > tcpHeaderLen {
		l.str(" <")
		l.tcpOptions(b[tcpHeaderLen:], int(hlen-tcpHeaderLen), flags, sackBase)
		l.byte('>')
	}
}

// TCP options.
const (
	tcpoptEOL       = 0
	tcpoptNOP       = 1
	tcpoptMSS       = 2
	tcpoptWscale    = 3
	tcpoptSackOK    = 4
	tcpoptSack      = 5
	tcpoptEcho      = 6
	tcpoptEchoReply = 7
	tcpoptTimestamp = 8
	tcpoptCC        = 11
	tcpoptCCNew     = 12
	tcpoptCCEcho    = 13
	tcpoptSignature = 19
)

// tcpOptions prints the left bytes of options at b, up to the first that is bad or
// was not captured.
func (l *line) tcpOptions(b []byte, left int, flags byte, sackBase uint32) {
	const cut, bad = "[|tcp]", "[bad opt]"
	for first := true; left > 0; first = false {
		if !first {
			l.byte(',')
		}
		if n := l.usualOption(b, left); n > 0 {
			b = b[n:]
			left -= n
			continue
		}
		if len(b) < 1 {
			l.str(cut)
			return
		}
		opt := b[0]
		if opt == tcpoptEOL {
			l.str("eol")
			return
		}
		if len(b) < 2 {
			l.str(cut)
			return
		}
		size := int(b[1])
		// The type octet counts as still left here.
		if size < 2 || size > left {
			l.str(bad)
			return
		}
		b = b[2:]
		left -= 2

		// need says why n bytes of data cannot be had: they are not
		// part of the options, or were not captured.
		need := func(n int) string {
			switch {
			case n > left:
				return bad
			case n > len(b):
				return cut
			}
			return ""
		}
		var n int // bytes of data as the option's kind has them
		why := ""
		switch opt {
		case tcpoptMSS:
			l.str("mss")
			n = 2
			if why = need(n); why == "" {
				l.byte(' ')
				l.uint(uint32(u16(b, 0)))
			}
		case tcpoptWscale:
			l.str("wscale")
			n = 1
			if why = need(n); why == "" {
				l.byte(' ')
				l.uint(uint32(b[0]))
			}
		case tcpoptSackOK:
			l.str("sackOK")
			if size != 2 {
				l.optionLen(size)
			}
		case tcpoptSack:
			n = size - 2
			if n%8 != 0 || flags&tcpACK == 0 {
				l.str("malformed sack [len ")
				l.uint(uint32(n))
				l.str("] ")
				break
			}
			l.str("sack ")
			l.uint(uint32(n / 8))
			l.byte(' ')
			for i := 0; i < n; i += 8 {
				if why = need(i + 8); why != "" {
					break
				}
				// Relative edges are computed in the host's
				// long: one below the base wraps in 64 bits.
				l.byte('{')
				l.uint64(uint64(u32(b, i)) - uint64(sackBase))
				l.byte(':')
				l.uint64(uint64(u32(b, i+4)) - uint64(sackBase))
				l.str("} ")
			}
		case tcpoptEcho, tcpoptEchoReply, tcpoptCC, tcpoptCCNew, tcpoptCCEcho:
			l.str(tcpoptNames[opt])
			n = 4
			if why = need(n); why == "" {
				l.byte(' ')
				l.uint(u32(b, 0))
			}
		case tcpoptTimestamp:
			l.str("timestamp")
			n = 8
			if why = need(4); why == "" {
				l.byte(' ')
				l.uint(u32(b, 0))
				if why = need(n); why == "" {
					l.byte(' ')
					l.uint(u32(b, 4))
				}
			}
		default:
			if opt == tcpoptSignature {
				l.str("tcpmd5:")
			} else {
				l.str("opt-")
				l.uint(uint32(opt))
				l.byte(':')
			}
			n = size - 2
			for i := range n {
				if why = need(i + 1); why != "" {
					break
				}
				l.hex(uint32(b[i]), 2)
			}
		}
		if why != "" {
			l.str(why)
			return
		}
		b = from(b, n)
		left -= n
		if n+2 != size {
			l.optionLen(size)
		}
	}
}

// usualOption prints the option at b if it is one of those that nearly all segments
// have, with nothing wrong about it, and returns how long it is, else 0.
func (l *line) usualOption(b []byte, left int) int {
	if len(b) == 0 {
		return 0
	}
	if b[0] == tcpoptNOP {
		l.str("nop")
		return 1
	}
	if len(b) < 2 {
		return 0
	}
	n := int(b[1])
	if n > left || n > len(b) {
		return 0
	}
	out := l.b
	switch {
	case b[0] == tcpoptMSS && n == 4:
		out = append(out, "mss "...)
		out = appendUint16(out, binary.BigEndian.Uint16(b[2:]))
	case b[0] == tcpoptSackOK && n == 2:
		out = append(out, "sackOK"...)
	case b[0] == tcpoptTimestamp && n == 10:
		out = append(out, "timestamp "...)
		out = appendUint(out, binary.BigEndian.Uint32(b[2:]))
		out = append(out, ' ')
		out = appendUint(out, binary.BigEndian.Uint32(b[6:]))
	case b[0] == tcpoptWscale && n == 3:
		out = append(out, "wscale "...)
		out = appendUint(out, uint32(b[2]))
	default:
		return 0
	}
	l.b = out
	return n
}

var tcpoptNames = [...]string{
	tcpoptEcho:      "echo",
	tcpoptEchoReply: "echoreply",
	tcpoptCC:        "cc",
	tcpoptCCNew:     "ccnew",
	tcpoptCCEcho:    "ccecho",
}

func (l *line) optionLen(n int) {
	l.str("[len ")
	l.uint(uint32(n))
	l.byte(']')
}

// Conversations remembered: convSets sets of convWays each, 3.7 MB when all are
// there, and little more than 0.5 MB as long as they are few: the memory of a process
// that prints a small file would be most of its time. tcpdump remembers all it ever
// saw.
const (
	convSets  = 1 << 13
	convWays  = 8
	convBlock = 1 << 10 // conversations that memory is taken for at once
)

// A convKey names a conversation by its ends in an arbitrary order, so that both
// directions have the same one.
type convKey struct {
	src, dst [16]byte
	ports    uint32
}

type conversation struct {
	key      convKey
	seq, ack uint32 // first numbers of key.src and key.dst
}

// A convSet is one line of the cache, and is searched by tag first.
type convSet struct {
	tag  [convWays]uint16 // of the key's hash
	conv [convWays]uint16 // which of all conversations it is, once it was used
	used [convWays]uint32 // when, by conversations.tick; 0 is never
}

type conversations struct {
	sets   [convSets]convSet // first, so that none lies in two lines
	tick   uint32
	n      int // conversations in use, from the first block on
	blocks [convSets * convWays / convBlock]*[convBlock]conversation
}

// at returns a conversation by its number, which stays that of its place in a set.
func (cs *conversations) at(n uint16) *conversation {
	return &cs.blocks[n/convBlock][n%convBlock]
}

// related are the numbers of a segment as a line has them. sackBase is the first
// number of the side that is being acknowledged.
type related struct {
	seq, ack, sackBase uint32
}

// relate makes seq and ack of a segment with ACK relative to the conversation's
// first numbers, which its first segment and every SYN set and show as they are.
func (pr *Printer) relate(tcp, ip []byte, seq, ack uint32, syn bool) related {
	if pr.known != nil {
		r := pr.known[0]
		pr.known = pr.known[1:]
		return r
	}
	r := pr.converse(tcp, ip, seq, ack, syn)
	if pr.note {
		pr.noted = append(pr.noted, r)
	}
	return r
}

// converse is relate by what was printed before.
func (pr *Printer) converse(tcp, ip []byte, seq, ack uint32, syn bool) (r related) {
	if pr.conv == nil {
		pr.conv = new(conversations)
	}
	key, reversed := conversationKey(tcp, ip)
	c, known := pr.conv.find(&key)
	r = related{seq: seq, ack: ack}
	if !known || syn {
		c.key = key
		if reversed {
			c.seq, c.ack = ack-1, seq
		} else {
			c.seq, c.ack = seq, ack-1
		}
	} else if reversed {
		r.seq, r.ack = seq-c.ack, ack-c.seq
	} else {
		r.seq, r.ack = seq-c.seq, ack-c.ack
	}
	r.sackBase = c.ack
	if reversed {
		r.sackBase = c.seq
	}
	return r
}

// conversationKey orders the ends by port, then address. tcpdump compares addresses
// as little-endian words where it is usually run, and those of IPv6 in a way that can
// find each end greater than the other; what it prints follows from that.
func conversationKey(tcp, ip []byte) (k convKey, reversed bool) {
	sport, dport := u16(tcp, 0), u16(tcp, 2)
	var src, dst []byte
	if ip[0]>>4 == 6 {
		src, dst = ip[8:24], ip[24:40]
	} else {
		src, dst = ip[12:16], ip[16:20]
	}
	reversed = sport > dport
	if sport == dport {
		for i := 0; i < len(src); i += 4 {
			if binary.LittleEndian.Uint32(src[i:]) > binary.LittleEndian.Uint32(dst[i:]) {
				reversed = true
				break
			}
		}
	}
	if reversed {
		src, dst = dst, src
		sport, dport = dport, sport
	}
	copy(k.src[:], src)
	copy(k.dst[:], dst)
	k.ports = uint32(sport)<<16 | uint32(dport)
	return k, reversed
}

// find returns the conversation of that key, or the one of its set that was not used
// for longest, to be filled in.
func (cs *conversations) find(k *convKey) (c *conversation, known bool) {
	h := uint64(k.ports)
	for i := 0; i < 16; i += 8 {
		h = h*0x9e3779b97f4a7c15 ^ binary.LittleEndian.Uint64(k.src[i:])
		h = h*0x9e3779b97f4a7c15 ^ binary.LittleEndian.Uint64(k.dst[i:])
	}
	h *= 0x9e3779b97f4a7c15
	set, tag := &cs.sets[h>>(64-13)], uint16(h>>(64-13-16))
	cs.tick++
	if cs.tick == 0 {
		// After four thousand million segments the order of use is
		// forgotten, the conversations are not.
		for i := range cs.sets {
			for j := range cs.sets[i].used {
				cs.sets[i].used[j] = min(cs.sets[i].used[j], 1)
			}
		}
		cs.tick = 2
	}
	oldest := 0
	for i := range convWays {
		if set.tag[i] == tag && set.used[i] != 0 {
			if c := cs.at(set.conv[i]); c.key == *k {
				set.used[i] = cs.tick
				return c, true
			}
		}
		if set.used[i] < set.used[oldest] {
			oldest = i
		}
	}
	if set.used[oldest] == 0 {
		if cs.n%convBlock == 0 {
			cs.blocks[cs.n/convBlock] = new([convBlock]conversation)
		}
		set.conv[oldest] = uint16(cs.n)
		cs.n++
	}
	set.tag[oldest], set.used[oldest] = tag, cs.tick
	return cs.at(set.conv[oldest]), false
}
