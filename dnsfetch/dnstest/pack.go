package dnstest

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

// maxMessage is the longest DNS message that TCP's two-byte length can frame
// (RFC 1035 §4.2.2).
const maxMessage = 65535

const (
	headerLen   = 12
	recordFixed = 12 // a record without its data: pointer to the question's name, type, class, TTL, length
	aplHeader   = 4  // an APL item without its address: family, prefix length, N and length (RFC 3123 §4)
)

// toQuestion is the compression pointer to the question's name, which always
// stands right behind the header. Records packed with it fit below any
// spelling of that name.
const toQuestion = 0xc000 | headerLen

// rrset is what the server answers to one name and type: whole records, as
// they stand in the message.
type rrset struct {
	records int
	body    []byte
}

// messageLen returns the length of the answer that holds set for a name of
// nameLen bytes.
func (set *rrset) messageLen(nameLen int) int {
	return headerLen + nameLen + 4 + len(set.body)
}

// beginRecord begins a record and returns where its data's length stands, for
// endRecord.
func (set *rrset) beginRecord(typ uint16, ttl uint32) int {
	set.records++
	b := binary.BigEndian.AppendUint16(set.body, toQuestion)
	b = binary.BigEndian.AppendUint16(b, typ)
	b = binary.BigEndian.AppendUint16(b, dns.ClassINET)
	b = binary.BigEndian.AppendUint32(b, ttl)
	at := len(b)
	set.body = append(b, 0, 0)
	return at
}

// endRecord fills in the length of the data that began behind at. What does
// not fit in 16 bits does not fit in a message either, which is checked there.
func (set *rrset) endRecord(at int) {
	binary.BigEndian.PutUint16(set.body[at:], uint16(len(set.body)-at-2))
}

// aplLen returns the bytes that an entry takes as an APL item.
func aplLen(e Entry) int {
	return aplHeader + significant(e.Prefix.Addr())
}

// significant returns the number of address bytes that an APL item must carry:
// trailing zero octets are not sent (RFC 3123 §4.1, 4.2).
func significant(a netip.Addr) int {
	if a.Is4() {
		b := a.As4()
		return lastNonZero(b[:])
	}
	b := a.As16()
	return lastNonZero(b[:])
}

func lastNonZero(b []byte) int {
	n := len(b)
	for n > 0 && b[n-1] == 0 {
		n--
	}
	return n
}

// appendAPLItem appends an entry as an APL item.
func appendAPLItem(b []byte, e Entry) []byte {
	not := byte(0)
	if e.Not {
		not = 0x80
	}
	bits := byte(e.Prefix.Bits())
	if addr := e.Prefix.Addr(); addr.Is4() {
		a := addr.As4()
		n := lastNonZero(a[:])
		b = append(b, 0, 1, bits, not|byte(n))
		return append(b, a[:n]...)
	} else {
		a := addr.As16()
		n := lastNonZero(a[:])
		b = append(b, 0, 2, bits, not|byte(n))
		return append(b, a[:n]...)
	}
}

// packAPL packs entries as APL records of at most perRecord items each, 0 for
// no limit. Without entries it is one empty record: an explicitly empty list.
func packAPL(entries []Entry, perRecord int, ttl uint32) *rrset {
	if perRecord <= 0 {
		perRecord = max(len(entries), 1)
	}
	size := recordFixed * max(1, (len(entries)+perRecord-1)/perRecord)
	for _, e := range entries {
		size += aplLen(e)
	}
	set := &rrset{body: make([]byte, 0, size)}
	for {
		n := min(perRecord, len(entries))
		at := set.beginRecord(dns.TypeAPL, ttl)
		for _, e := range entries[:n] {
			set.body = appendAPLItem(set.body, e)
		}
		set.endRecord(at)
		if entries = entries[n:]; len(entries) == 0 {
			return set
		}
	}
}

// packPTR packs PTR records whose targets are the labels given, below the name
// that is asked for.
func packPTR(labels []string, ttl uint32) *rrset {
	set := &rrset{body: make([]byte, 0, len(labels)*(recordFixed+12))}
	for _, label := range labels {
		at := set.beginRecord(dns.TypePTR, ttl)
		set.body = append(set.body, byte(len(label)))
		set.body = append(set.body, label...)
		set.body = binary.BigEndian.AppendUint16(set.body, toQuestion)
		set.endRecord(at)
	}
	return set
}

// packAddrs packs addresses, all of one family, as A or AAAA records.
func packAddrs(typ uint16, addrs []netip.Addr, ttl uint32) *rrset {
	set := &rrset{body: make([]byte, 0, len(addrs)*(recordFixed+16))}
	for _, a := range addrs {
		at := set.beginRecord(typ, ttl)
		set.body = append(set.body, a.AsSlice()...)
		set.endRecord(at)
	}
	return set
}

// wireName returns a name as it stands in a message, with its letters as they
// are.
func wireName(name string) ([]byte, error) {
	buf := make([]byte, 256)
	n, err := dns.PackDomainName(dns.Fqdn(name), buf, 0, nil, false)
	if err != nil {
		return nil, fmt.Errorf("name %q: %w", name, err)
	}
	return buf[:n], nil
}

// key returns what a name in wire form is found under: names are compared
// without regard to the case of ASCII letters (RFC 4343), and the length
// octets, 63 at most, are no letters.
func key(wire []byte) string {
	b := make([]byte, len(wire))
	for i, c := range wire {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		b[i] = c
	}
	return string(b)
}

// canonical returns a name as the package's answers to its users spell it:
// lower case, without the final dot, "." for the root.
func canonical(name string) string {
	name = dns.CanonicalName(name)
	if name == "." {
		return name
	}
	return strings.TrimSuffix(name, ".")
}
