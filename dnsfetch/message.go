package dnsfetch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

// Sizes of the fixed parts of a message (RFC 1035 §4.1), and of names (§2.3.4).
const (
	headerLen  = 12
	fixedRRLen = 10 // type, class, TTL, rdata length
	maxNameLen = 255
)

// Bits of the third and fourth header byte.
const (
	flagQR     = 0x80
	maskOpcode = 0x78
	flagAA     = 0x04
	flagTC     = 0x02
	maskRcode  = 0x0f
)

// A name is a string in presentation form as miekg/dns unpacks it, fully qualified and in lower case, with
// one way to escape each byte: equal names are equal strings.

// parseName checks s, in presentation form with or without the last dot, and returns it as a name.
func parseName(s string) (string, error) {
	if s == "" || s == "." {
		return "", errors.New("it is empty")
	}
	wire := make([]byte, maxNameLen)
	n, err := dns.PackDomainName(dns.Fqdn(s), wire, 0, nil, false)
	if _, ok := dns.IsDomainName(s); !ok || err != nil {
		return "", errors.New("not a domain name")
	}
	name, _, err := unpackName(wire[:n], 0)
	return name, err
}

// unpackName returns the name at msg[off:], decompressed, and the offset behind it.
func unpackName(msg []byte, off int) (string, int, error) {
	s, next, err := dns.UnpackDomainName(msg, off)
	if err != nil {
		return "", 0, fmt.Errorf("%w: name: %w", ErrAnswer, err)
	}
	return dns.CanonicalName(s), next, nil
}

// question is one name and record type to ask for.
type question struct {
	name string
	typ  uint16
}

func (q question) String() string {
	return strings.TrimSuffix(q.name, ".") + " " + dns.Type(q.typ).String()
}

// appendQuery appends the query for q as DNS/TCP frames it (RFC 1035 §4.2.2). Recursion is desired, as
// with dig: authoritative servers ignore the bit, and a forwarder in front of one needs it.
func (q question) appendQuery(b []byte, id uint16) []byte {
	m := new(dns.Msg).SetQuestion(q.name, q.typ)
	m.Id = id
	msg, err := m.Pack()
	if err != nil {
		panic(fmt.Sprintf("dnsfetch: name %q: %v", q.name, err)) // it was unpacked from wire form
	}
	return append(binary.BigEndian.AppendUint16(b, uint16(len(msg))), msg...)
}

// answer checks that msg, a header at least, whose ID the caller has matched, is a whole and well-formed
// answer to q, and calls each with the data of each answer record. On an error the caller must drop what
// each was given. NXDOMAIN, and NOERROR without records, are the errors ErrNXDomain and ErrNoRecords;
// they come after all other checks.
func (q question) answer(msg []byte, each func(rdata) error) error {
	if msg[2]&flagQR == 0 || msg[2]&maskOpcode != 0 {
		return fmt.Errorf("%w: not a response to a query: flags %#02x%02x", ErrAnswer, msg[2], msg[3])
	}
	rcode := int(msg[3] & maskRcode)
	count := func(section int) int { return int(binary.BigEndian.Uint16(msg[4+2*section:])) }
	off := headerLen
	var err error
	// A server that refuses to answer may leave out the question. What is said about a name must be
	// about ours.
	if count(0) != 0 || rcode == dns.RcodeSuccess || rcode == dns.RcodeNameError {
		if off, err = q.echo(msg, count(0)); err != nil {
			return err
		}
	}
	switch {
	case rcode == dns.RcodeRefused:
		return ErrRefused
	case rcode == dns.RcodeServerFailure:
		return ErrServFail
	case rcode != dns.RcodeSuccess && rcode != dns.RcodeNameError:
		if s := dns.RcodeToString[rcode]; s != "" {
			return fmt.Errorf("%w (%s)", ErrRcode, s)
		}
		return fmt.Errorf("%w (RCODE%d)", ErrRcode, rcode)
	case msg[2]&flagTC != 0:
		// Over TCP there is no larger answer to ask for. PowerDNS sends NOERROR, TC and no records in
		// place of more than 64 KiB.
		return ErrTruncated
	}
	// The records behind the answer have no meaning for the list, and must be whole all the same.
	for section, name := range []string{"answer", "authority", "additional"} {
		n := count(1 + section)
		for i := 1; i <= n; i++ {
			use := each
			if section > 0 {
				use = nil
			}
			if off, err = q.record(msg, off, use); err != nil {
				return fmt.Errorf("%w: %s record %d of %d", err, name, i, n)
			}
		}
	}
	switch records := count(1); {
	case off != len(msg):
		return fmt.Errorf("%w: %d bytes left over behind the last record", ErrAnswer, len(msg)-off)
	case rcode == dns.RcodeNameError && records > 0:
		return fmt.Errorf("%w (NXDOMAIN, but with %d records)", ErrRcode, records)
	case rcode == dns.RcodeNameError:
		return ErrNXDomain
	case records == 0:
		return ErrNoRecords
	}
	return nil
}

// echo checks that the question section repeats q and nothing else, and returns the offset behind it.
func (q question) echo(msg []byte, questions int) (int, error) {
	got, off, err := unpackName(msg, headerLen)
	if questions != 1 || err != nil || off+4 > len(msg) || got != q.name ||
		binary.BigEndian.Uint16(msg[off:]) != q.typ || binary.BigEndian.Uint16(msg[off+2:]) != dns.ClassINET {
		return 0, fmt.Errorf("%w: it answers another question than %s", ErrAnswer, q)
	}
	return off + 4, nil
}

// rdata is the data of a record in a message, which names in it may point to.
type rdata struct {
	msg        []byte
	begin, end int
}

// record reads the record at msg[off:] and returns the offset behind it. Unless use is nil, the record
// must answer q, and use is called with its data.
func (q question) record(msg []byte, off int, use func(rdata) error) (int, error) {
	owner, off, err := unpackName(msg, off)
	if err != nil {
		return 0, err
	}
	begin := off + fixedRRLen
	if begin > len(msg) {
		return 0, fmt.Errorf("%w: shorter than it says", ErrAnswer)
	}
	typ, class := binary.BigEndian.Uint16(msg[off:]), binary.BigEndian.Uint16(msg[off+2:])
	end := begin + int(binary.BigEndian.Uint16(msg[off+8:]))
	switch {
	case end > len(msg):
		err = fmt.Errorf("%w: shorter than it says", ErrAnswer)
	case use == nil:
	case typ != q.typ && (typ == dns.TypeCNAME || typ == dns.TypeDNAME):
		err = fmt.Errorf("%w: the name is an alias (CNAME or DNAME)", ErrAnswer)
	case owner != q.name || class != dns.ClassINET || typ != q.typ:
		err = fmt.Errorf("%w: record of another name, class or type: %s %s %s",
			ErrAnswer, owner, dns.Class(class), dns.Type(typ))
	default:
		err = use(rdata{msg, begin, end})
	}
	return end, err
}

// target reads the data of a PTR record, which is one name.
func (r rdata) target() (string, error) {
	n, next, err := unpackName(r.msg[:r.end], r.begin)
	if err == nil && next != r.end {
		err = fmt.Errorf("%w: PTR record: %d bytes behind the name", ErrAnswer, r.end-next)
	}
	return n, err
}

// host reads the data of an A or AAAA record as the entry for a host.
func (r rdata) host(typ uint16) (Entry, error) {
	a, ok := netip.AddrFromSlice(r.msg[r.begin:r.end])
	if !ok || a.Is6() != (typ == dns.TypeAAAA) {
		return Entry{}, fmt.Errorf("%w: %s record of %d bytes", ErrAnswer, dns.Type(typ), r.end-r.begin)
	}
	return MakeEntry(netip.PrefixFrom(a, a.BitLen()), false), nil
}
