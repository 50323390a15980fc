package capture

import (
	"net/netip"
	"time"

	"github.com/google/gopacket"
)

// IP protocol numbers that the decoder and the printer know.
const (
	protoHopOpts  = 0
	protoICMP     = 1
	protoIGMP     = 2
	protoIPv4     = 4
	protoTCP      = 6
	protoUDP      = 17
	protoIPv6     = 41
	protoRouting  = 43
	protoFragment = 44
	protoGRE      = 47
	protoESP      = 50
	protoAH       = 51
	protoICMPv6   = 58
	protoNone     = 59
	protoDstOpts  = 60
)

const (
	ipv4HeaderLen = 20
	ipv6HeaderLen = 40
)

// A Packet is a decoded packet. It is made once and decoded into again and again. It
// refers to the data it was decoded from and is valid as long as that is.
type Packet struct {
	// Time is when pf logged the packet, to the microsecond.
	Time time.Time
	// Data is what was captured, from the pflog header on.
	Data []byte
	// Length is how long header and packet were before the capture cut them, in
	// bytes: never less than len(Data).
	Length int
	Header Header

	// Src and Dst are the addresses in the packet's own (outermost) IP header,
	// invalid when Decode returned an error. An IPv4-mapped IPv6 address is not
	// unmapped.
	Src, Dst netip.Addr
	// Proto is the IP protocol, for IPv6 the one behind the extension headers, as
	// far as they were captured.
	Proto uint8
	// Fragment is set for a fragment other than the first, in which there is no
	// upper header.
	Fragment bool
	// Ports is set when SrcPort and DstPort are: for TCP and UDP, not in later
	// fragments, and only if captured.
	Ports            bool
	SrcPort, DstPort uint16

	hdrlen    int   // where the IP header begins in Data
	headerErr error // of Header.Decode
	line      line  // that AppendLine writes; here, so that it is not allocated
}

// Decode decodes a packet that a source returned. The error is ErrShort or ErrHeaderLen
// (only Time, Data and Length are set), ErrPacket (Header is set as well), or nil. Every
// packet has a line ([Packet.AppendLine]), even if Decode failed.
func (p *Packet) Decode(data []byte, ci gopacket.CaptureInfo) error {
	*p = Packet{Time: ci.Timestamp, Data: data, Length: max(ci.Length, len(data))}
	if p.hdrlen, p.headerErr = p.Header.Decode(data); p.headerErr != nil {
		return p.headerErr
	}
	ip := data[p.hdrlen:]
	switch p.Header.AF {
	case AFInet:
		return p.decodeIPv4(ip)
	case AFInet6:
		return p.decodeIPv6(ip)
	}
	return ErrPacket
}

// IP returns the captured bytes from the IP header on, nil when the pflog header could
// not be decoded.
func (p *Packet) IP() []byte {
	if p.headerErr != nil {
		return nil
	}
	return p.Data[p.hdrlen:]
}

func (p *Packet) decodeIPv4(ip []byte) error {
	if len(ip) < ipv4HeaderLen || ip[0]>>4 != 4 {
		return ErrPacket
	}
	p.Src, p.Dst = addrs(ip)
	p.Proto = ip[9]
	hlen := int(ip[0]&0xf) * 4
	if u16(ip, 6)&0x1fff != 0 {
		p.Fragment = true
		return nil
	}
	if hlen >= ipv4HeaderLen && hlen <= len(ip) {
		p.decodePorts(ip[hlen:])
	}
	return nil
}

func (p *Packet) decodeIPv6(ip []byte) error {
	if len(ip) < ipv6HeaderLen || ip[0]>>4 != 6 {
		return ErrPacket
	}
	p.Src, p.Dst = addrs(ip)
	p.Proto = ip[6]
	for b := ip[ipv6HeaderLen:]; ; {
		n := 8 // the length of an extension header
		switch p.Proto {
		default:
			p.decodePorts(b)
			return nil
		case protoHopOpts, protoRouting, protoDstOpts:
			n = (int(at(b, 1)) + 1) * 8
		case protoAH:
			n = (int(at(b, 1)) + 2) * 4
		case protoFragment:
			p.Fragment = len(b) >= 8 && u16(b, 2)&^7 != 0
		}
		if len(b) < 2 || p.Proto == protoFragment && len(b) < 8 {
			return nil
		}
		if p.Proto = b[0]; p.Fragment || n > len(b) {
			return nil
		}
		b = b[n:]
	}
}

func (p *Packet) decodePorts(b []byte) {
	if (p.Proto == protoTCP || p.Proto == protoUDP) && len(b) >= 4 {
		p.SrcPort = u16(b, 0)
		p.DstPort = u16(b, 2)
		p.Ports = true
	}
}
