package capture

import (
	"encoding/binary"
	"errors"
	"net/netip"
)

// IP protocol numbers that the decoder and the printer know.
const (
	protoHopOpts  = 0
	protoICMP     = 1
	protoIGMP     = 2
	protoIPv4     = 4
	protoTCP      = 6
	protoIGRP     = 9
	protoUDP      = 17
	protoIPv6     = 41
	protoRouting  = 43
	protoFragment = 44
	protoGRE      = 47
	protoESP      = 50
	protoAH       = 51
	protoMobile   = 55
	protoICMPv6   = 58
	protoNone     = 59
	protoDstOpts  = 60
	protoND       = 77
	protoOSPF     = 89
	protoEtherIP  = 97
	protoPIM      = 103
	protoIPComp   = 108
	protoCARP     = 112
	protoPfsync   = 240
)

const (
	ipv4HeaderLen = 20
	ipv6HeaderLen = 40
)

// ErrPacket says that the IP header behind the pflog header is cut short, or is
// not of the version that the pflog header names.
var ErrPacket = errors.New("no whole IP header")

// A Packet is what a record says. One is made once and decoded into again and
// again; it refers to the record's bytes and is valid as long as they are.
type Packet struct {
	Record
	Header Header

	// Src and Dst are the addresses in the packet's own (outermost) IP
	// header, invalid when Decode returned an error. An IPv4-mapped IPv6
	// address stays what it is.
	Src, Dst netip.Addr
	// Proto is the IP protocol, for IPv6 the one behind the extension
	// headers, as far as they were captured.
	Proto uint8
	// Fragment says that the packet is a fragment other than the first:
	// there is no upper header in it.
	Fragment bool
	// Ports says that SrcPort and DstPort are there: TCP and UDP, not a
	// later fragment, captured that far.
	Ports            bool
	SrcPort, DstPort uint16

	// hdrlen is where the IP header begins in Data, headerErr what was
	// wrong with the pflog header in front of it.
	hdrlen    int
	headerErr error
}

// Decode makes p what rec says. The error is ErrShort or ErrHeaderLen (nothing but
// Record is set), ErrFamily or ErrPacket (Record and Header are set), or nil. Every
// record has a line ([Printer.AppendLine]), whatever Decode said.
func (p *Packet) Decode(rec Record) error {
	p.Record = rec
	p.Src, p.Dst = netip.Addr{}, netip.Addr{}
	p.SrcPort, p.DstPort = 0, 0
	p.Proto, p.Fragment, p.Ports = 0, false, false
	p.hdrlen, p.headerErr = p.Header.decode(rec.Data, rec.swapped)
	if p.headerErr != nil {
		return p.headerErr
	}
	ip := rec.Data[p.hdrlen:]
	switch p.Header.AF {
	case AFInet:
		return p.decodeIPv4(ip)
	case AFInet6:
		return p.decodeIPv6(ip)
	}
	return ErrFamily
}

// IP returns the captured bytes from the IP header on, nil when the pflog header
// did not decode.
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
	p.Src = netip.AddrFrom4([4]byte(ip[12:16]))
	p.Dst = netip.AddrFrom4([4]byte(ip[16:20]))
	p.Proto = ip[9]
	hlen := int(ip[0]&0xf) * 4
	if binary.BigEndian.Uint16(ip[6:])&0x1fff != 0 {
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
	p.Src = netip.AddrFrom16([16]byte(ip[8:24]))
	p.Dst = netip.AddrFrom16([16]byte(ip[24:40]))
	p.Proto = ip[6]
	for b := ip[ipv6HeaderLen:]; ; {
		var n int
		switch p.Proto {
		default:
			p.decodePorts(b)
			return nil
		case protoHopOpts, protoRouting, protoDstOpts:
			if len(b) < 2 {
				return nil
			}
			n = (int(b[1]) + 1) * 8
		case protoAH:
			if len(b) < 2 {
				return nil
			}
			n = (int(b[1]) + 2) * 4
		case protoFragment:
			if len(b) < 8 {
				return nil
			}
			n = 8
			if binary.BigEndian.Uint16(b[2:])&^7 != 0 {
				p.Proto, p.Fragment = b[0], true
				return nil
			}
		}
		p.Proto = b[0]
		if n > len(b) {
			return nil
		}
		b = b[n:]
	}
}

func (p *Packet) decodePorts(b []byte) {
	if (p.Proto == protoTCP || p.Proto == protoUDP) && len(b) >= 4 {
		p.SrcPort = binary.BigEndian.Uint16(b)
		p.DstPort = binary.BigEndian.Uint16(b[2:])
		p.Ports = true
	}
}
