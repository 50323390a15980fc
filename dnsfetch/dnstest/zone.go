package dnstest

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/miekg/dns"
)

// zoneRecords returns the SOA and NS records of a zone with one name server.
func zoneRecords(zone string, serial uint32) (*dns.SOA, *dns.NS) {
	hdr := func(typ uint16) dns.RR_Header {
		return dns.RR_Header{Name: zone, Rrtype: typ, Class: dns.ClassINET, Ttl: DefaultTTL}
	}
	soa := &dns.SOA{
		Hdr:     hdr(dns.TypeSOA),
		Ns:      siblingOf(zone, "ns"),
		Mbox:    siblingOf(zone, "hostmaster"),
		Serial:  serial,
		Refresh: 7200,
		Retry:   900,
		Expire:  604800,
		Minttl:  300,
	}
	return soa, &dns.NS{Hdr: hdr(dns.TypeNS), Ns: soa.Ns}
}

// siblingOf returns the name of a label below a zone, the root included.
func siblingOf(zone, label string) string {
	return label + "." + strings.TrimPrefix(zone, ".")
}

// WriteZone writes lists as a zone file (RFC 1035 §5) that name servers load:
// an SOA record with the serial given, an NS record for ns.<zone> at 127.0.0.1,
// and the records of the lists. It fails without having written anything where
// Set would, and where lists need names that the zone or each other have.
func WriteZone(w io.Writer, zone string, serial uint32, lists ...List) error {
	s, err := newServer(Options{Zone: zone})
	if err != nil {
		return err
	}
	zone = dns.Fqdn(zone)
	soa, ns := zoneRecords(zone, serial)
	host := &node{name: canonical(ns.Ns)}
	k, err := wireName(ns.Ns)
	if err != nil {
		return fmt.Errorf("zone: %w", err)
	}
	s.nodes[key(k)] = host
	if err := s.Set(lists...); err != nil {
		return err
	}
	nodes := make([]*node, 0, len(s.nodes))
	for _, n := range s.nodes {
		if n.list != "" {
			nodes = append(nodes, n)
		}
	}
	slices.SortFunc(nodes, func(a, b *node) int {
		if a.list != b.list {
			return strings.Compare(a.list, b.list)
		}
		return a.part - b.part
	})
	bw := bufio.NewWriterSize(w, 64<<10)
	fmt.Fprintf(bw, "%s\n%s\n%s\t%d\tIN\tA\t127.0.0.1\n", soa, ns, ns.Ns, DefaultTTL)
	var line []byte
	for _, n := range nodes {
		for _, typ := range []uint16{dns.TypePTR, dns.TypeAPL, dns.TypeA, dns.TypeAAAA} {
			set := n.sets[typ]
			if set == nil {
				continue
			}
			a := answer{body: set.body}
			for _, r := range a.records() {
				line = append(line[:0], dns.Fqdn(n.name)...)
				line = append(line, '\t')
				line = strconv.AppendUint(line, uint64(binary.BigEndian.Uint32(a.body[r.fixed+4:])), 10)
				line = append(line, "\tIN\t"...)
				line = append(line, dns.TypeToString[typ]...)
				line = append(line, '\t')
				line = appendData(line, n.name, typ, r.data(a.body))
				line = append(line, '\n')
				bw.Write(line)
			}
		}
	}
	return bw.Flush()
}

// appendData appends a record's data in the form of zone files. The data is the
// server's own: a PTR record's target is one label below the owner.
func appendData(b []byte, owner string, typ uint16, data []byte) []byte {
	switch typ {
	case dns.TypePTR:
		label, _, _ := dns.UnpackDomainName(append(slices.Clone(data[:1+int(data[0])]), 0), 0)
		b = append(b, label...)
		return append(b, dns.Fqdn(owner)...)
	case dns.TypeAPL:
		// RFC 3123 §5: [!]afi:address/prefix, items apart by blanks.
		for i := 0; len(data) > 0; i++ {
			if i > 0 {
				b = append(b, ' ')
			}
			if data[3]&0x80 != 0 {
				b = append(b, '!')
			}
			b = append(b, '0'+data[1], ':')
			n := int(data[3] & 0x7f)
			var buf [16]byte
			copy(buf[:], data[aplHeader:aplHeader+n])
			addr := netip.AddrFrom16(buf)
			if data[1] == 1 {
				addr = netip.AddrFrom4([4]byte(buf[:4]))
			}
			b = addr.AppendTo(b)
			b = append(b, '/')
			b = strconv.AppendUint(b, uint64(data[2]), 10)
			data = data[aplHeader+n:]
		}
		return b
	}
	addr, _ := netip.AddrFromSlice(data)
	return addr.AppendTo(b)
}

// entryString returns an entry as prefix files have it: a host without its
// length, "!" in front of a negated one.
func entryString(e Entry) string {
	s := e.Prefix.String()
	if e.Prefix.IsSingleIP() {
		s = e.Prefix.Addr().String()
	}
	if e.Not {
		s = "!" + s
	}
	return s
}
