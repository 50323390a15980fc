package dnstest

import (
	"strings"

	"github.com/miekg/dns"
)

// zoneRecords returns the SOA and NS records of a zone with one name server.
func zoneRecords(zone string) (*dns.SOA, *dns.NS) {
	below := func(label string) string {
		return label + "." + strings.TrimPrefix(zone, ".")
	}
	soa := &dns.SOA{
		Hdr:     dns.RR_Header{Name: zone, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: DefaultTTL},
		Ns:      below("ns"),
		Mbox:    below("hostmaster"),
		Serial:  1,
		Refresh: 7200,
		Retry:   900,
		Expire:  604800,
		Minttl:  300,
	}
	ns := &dns.NS{
		Hdr: dns.RR_Header{Name: zone, Rrtype: dns.TypeNS, Class: dns.ClassINET, Ttl: DefaultTTL},
		Ns:  below("ns"),
	}
	return soa, ns
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
