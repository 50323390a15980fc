package capturetest

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
	"time"

	"example.org/threatstopd/capture"
)

// IP protocols that a Packet can have a header for.
const (
	ICMP   = 1
	TCP    = 6
	UDP    = 17
	ICMPv6 = 58
)

// TCP flags.
const (
	FIN = 1 << iota
	SYN
	RST
	PSH
	ACK
	URG
)

// A Packet is a packet and what pf did with it. The zero value of a field is what an
// ordinary packet has there, except that Action's is capture.ActionPass.
type Packet struct {
	// Time is when it was logged; zero is the time of the call.
	Time time.Time

	// What pf did, as in the pflog header.
	Action capture.Action
	Reason capture.Reason
	Dir    capture.Direction // zero is capture.In
	Iface  string            // cut to 15 bytes
	Rule   uint32            // capture.NoRule is the default rule
	// Ruleset is the anchor's last component, cut to 15 bytes; empty is the
	// main ruleset, and then SubRule does not matter.
	Ruleset string
	SubRule uint32

	// The packet. Src and Dst are of one family.
	Src, Dst         netip.Addr
	Proto            uint8
	SrcPort, DstPort uint16
	Flags            uint8 // TCP; zero is SYN
	Seq, Ack         uint32
	Window           uint16 // zero is 16384
	Options          []byte // TCP, a multiple of 4
	Type, Code       uint8  // ICMP, ICMPv6; both zero is an echo request
	TTL              uint8  // zero is 64
	TOS              uint8
	ID               uint16
	DontFragment     bool // IPv4
	Payload          []byte

	// Raw is the whole IP packet, if set, in place of all from Src on.
	Raw []byte
}

// AppendRecord appends the pflog header and the packet to dst, as bpf(4) gets them
// from pflog(4), and returns it.
func (p *Packet) AppendRecord(dst []byte) []byte {
	ip := p.AppendIP(nil)
	h := make([]byte, capture.HeaderLen)
	h[0] = capture.HeaderLen
	h[2] = byte(p.Action)
	h[3] = byte(p.Reason)
	copy(h[4:19], p.Iface)
	copy(h[20:35], p.Ruleset)
	binary.BigEndian.PutUint32(h[36:], p.Rule)
	sub := uint32(capture.NoRule)
	if p.Ruleset != "" {
		sub = p.SubRule
	}
	binary.BigEndian.PutUint32(h[40:], sub)
	binary.NativeEndian.PutUint32(h[44:], 0xffffffff) // the user and the process of the
	binary.NativeEndian.PutUint32(h[48:], 100000)     // socket are not looked up
	h[60] = byte(capture.In)
	if p.Dir != 0 {
		h[60] = byte(p.Dir)
	}
	// Without translation the header repeats the packet's addresses, and its
	// ports, for which ICMP has id and type.
	var ports []byte
	switch {
	case len(ip) >= 20 && ip[0]>>4 == 4:
		h[1] = capture.AFInet
		copy(h[64:68], ip[12:16])
		copy(h[80:84], ip[16:20])
		ports = ip[20:]
	case len(ip) >= 40 && ip[0]>>4 == 6:
		h[1] = capture.AFInet6
		copy(h[64:80], ip[8:24])
		copy(h[80:96], ip[24:40])
		ports = ip[40:]
	}
	h[62] = h[1]
	switch {
	case p.Raw != nil:
	case p.Proto == TCP || p.Proto == UDP:
		copy(h[96:100], ports)
	case (p.Proto == ICMP || p.Proto == ICMPv6) && len(ports) >= 6:
		copy(h[96:98], ports[4:6])
		binary.BigEndian.PutUint16(h[98:], uint16(ports[0]))
	}
	return append(append(dst, h...), ip...)
}

// AppendIP appends the IP packet alone, with correct checksums, to dst and returns it.
func (p *Packet) AppendIP(dst []byte) []byte {
	if p.Raw != nil {
		return append(dst, p.Raw...)
	}
	seg := p.segment()
	ttl := p.TTL
	if ttl == 0 {
		ttl = 64
	}
	var h []byte
	if p.Src.Is4() {
		h = make([]byte, 20)
		h[0] = 0x45
		h[1] = p.TOS
		binary.BigEndian.PutUint16(h[2:], uint16(20+len(seg)))
		binary.BigEndian.PutUint16(h[4:], p.ID)
		if p.DontFragment {
			h[6] = 0x40
		}
		h[8], h[9] = ttl, p.Proto
		copy(h[12:16], p.Src.AsSlice())
		copy(h[16:20], p.Dst.AsSlice())
		binary.BigEndian.PutUint16(h[10:], fold(sum(0, h)))
	} else {
		h = make([]byte, 40)
		binary.BigEndian.PutUint32(h, 6<<28|uint32(p.TOS)<<20)
		binary.BigEndian.PutUint16(h[4:], uint16(len(seg)))
		h[6], h[7] = p.Proto, ttl
		copy(h[8:24], p.Src.AsSlice())
		copy(h[24:40], p.Dst.AsSlice())
	}
	return append(append(dst, h...), seg...)
}

// segment is what the IP header carries.
func (p *Packet) segment() []byte {
	var (
		h    []byte
		cksm int
	)
	switch p.Proto {
	case TCP:
		h = make([]byte, 20, 20+len(p.Options)+len(p.Payload))
		binary.BigEndian.PutUint16(h, p.SrcPort)
		binary.BigEndian.PutUint16(h[2:], p.DstPort)
		binary.BigEndian.PutUint32(h[4:], p.Seq)
		binary.BigEndian.PutUint32(h[8:], p.Ack)
		h[12] = byte(5+len(p.Options)/4) << 4
		h[13] = p.Flags
		if p.Flags == 0 {
			h[13] = SYN
		}
		window := p.Window
		if window == 0 {
			window = 16384
		}
		binary.BigEndian.PutUint16(h[14:], window)
		h = append(h, p.Options...)
		cksm = 16
	case UDP:
		h = make([]byte, 8, 8+len(p.Payload))
		binary.BigEndian.PutUint16(h, p.SrcPort)
		binary.BigEndian.PutUint16(h[2:], p.DstPort)
		binary.BigEndian.PutUint16(h[4:], uint16(8+len(p.Payload)))
		cksm = 6
	case ICMP, ICMPv6:
		h = make([]byte, 8, 8+len(p.Payload))
		h[0], h[1] = p.Type, p.Code
		if p.Type == 0 && p.Code == 0 {
			h[0] = 8
			if p.Proto == ICMPv6 {
				h[0] = 128
			}
		}
		cksm = 2
	default:
		return p.Payload
	}
	seg := append(h, p.Payload...)
	var pseudo uint32
	if p.Proto != ICMP {
		pseudo = sum(pseudo, p.Src.AsSlice())
		pseudo = sum(pseudo, p.Dst.AsSlice())
		pseudo += uint32(p.Proto) + uint32(len(seg))
	}
	binary.BigEndian.PutUint16(seg[cksm:], fold(sum(pseudo, seg)))
	return seg
}

// sum adds b to a ones' complement sum that is folded later (RFC 1071).
func sum(s uint32, b []byte) uint32 {
	for ; len(b) >= 2; b = b[2:] {
		s += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	return s
}

func fold(s uint32) uint16 {
	for s>>16 != 0 {
		s = s>>16 + s&0xffff
	}
	return ^uint16(s)
}

// swapOrder gives a record written on this host the other byte order.
func swapOrder(record []byte) {
	for i := 44; i < 60 && i+4 <= len(record); i += 4 {
		v := binary.NativeEndian.Uint32(record[i:])
		binary.NativeEndian.PutUint32(record[i:], bits.ReverseBytes32(v))
	}
}
