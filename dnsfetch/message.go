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
	flagRD     = 0x01
	maskRcode  = 0x0f
)

// toQuestion is a compressed name that is the name in the question.
const toQuestion = 0xc000 | headerLen

// domain is a domain name in presentation form as miekg/dns unpacks it: fully qualified, in the case in
// which it came, and with one way to escape each byte. So two names that differ in case only are the
// same name, and all others differ.
type domain string

// parseName checks s, in presentation form with or without the last dot, and returns it as a domain.
func parseName(s string) (domain, error) {
	if s == "" || s == "." {
		return "", errors.New("it is empty")
	}
	wire := make([]byte, maxNameLen)
	if _, ok := dns.IsDomainName(s); !ok {
		return "", errors.New("not a domain name")
	}
	n, err := dns.PackDomainName(dns.Fqdn(s), wire, 0, nil, false)
	if err != nil {
		return "", errors.New("not a domain name")
	}
	out, _, err := unpackName(wire[:n], 0)
	return out, err
}

// unpackName returns the name at msg[off:], decompressed, and the offset behind it.
func unpackName(msg []byte, off int) (domain, int, error) {
	s, next, err := dns.UnpackDomainName(msg, off)
	switch {
	case errors.Is(err, dns.ErrBuf):
		return "", 0, ErrShort
	case err != nil:
		return "", 0, fmt.Errorf("%w: name: %w", ErrMalformed, err)
	}
	return domain(s), next, nil
}

// key returns a map key that is the same for names that are equal.
func (n domain) key() string { return dns.CanonicalName(string(n)) }

func (n domain) equal(m domain) bool { return n == m || n.key() == m.key() }

// below reports whether n lies below p.
func (n domain) below(p domain) bool { return !n.equal(p) && dns.IsSubDomain(string(p), string(n)) }

// split returns the first label of n and the rest.
func (n domain) split() (label, rest domain) {
	i, end := dns.NextLabel(string(n), 0)
	if end {
		return n[:len(n)-1], "."
	}
	return n[:i-1], n[i:]
}

// String returns n without the last dot. All of it is printable ASCII.
func (n domain) String() string { return strings.TrimSuffix(string(n), ".") }

// question is one name and record type to ask for.
type question struct {
	name domain
	typ  uint16
}

func (q question) String() string { return q.name.String() + " " + typeName(q.typ) }

func typeName(t uint16) string { return dns.Type(t).String() }

// appendQuery appends the query for q as DNS/TCP frames it (RFC 1035 §4.2.2). Recursion is desired, as
// with dig: authoritative servers ignore the bit, and a forwarder in front of one needs it.
func (q question) appendQuery(b []byte, id uint16) []byte {
	begin := len(b)
	b = append(b, 0, 0)
	b = binary.BigEndian.AppendUint16(b, id)
	b = append(b, flagRD, 0, 0, 1, 0, 0, 0, 0, 0, 0)
	var wire [maxNameLen]byte
	n, err := dns.PackDomainName(string(q.name), wire[:], 0, nil, false)
	if err != nil {
		panic(fmt.Sprintf("dnsfetch: name %q: %v", q.name, err)) // it was unpacked from wire form
	}
	b = append(b, wire[:n]...)
	b = binary.BigEndian.AppendUint16(b, q.typ)
	b = binary.BigEndian.AppendUint16(b, dns.ClassINET)
	binary.BigEndian.PutUint16(b[begin:], uint16(len(b)-begin-2))
	return b
}

// answer checks that msg, whose ID the caller has matched, is a whole and well-formed answer to q, and
// calls each with the rdata of each answer record. On an error the caller must drop what
// each was given. NXDOMAIN, and NOERROR without records, are the errors ErrNXDomain and ErrNoRecords;
// they come after all other checks.
func (q question) answer(msg []byte, each func(rdata) error) error {
	if len(msg) < headerLen {
		return fmt.Errorf("%w: %d bytes, less than a header", ErrShort, len(msg))
	}
	if msg[2]&flagQR == 0 || msg[2]&maskOpcode != 0 {
		return fmt.Errorf("%w: flags %#02x%02x", ErrHeader, msg[2], msg[3])
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
	if err := rcodeError(rcode); err != nil {
		return err
	}
	// Over TCP there is no larger answer to ask for. PowerDNS sends NOERROR, TC and no records in place
	// of more than 64 KiB.
	if msg[2]&flagTC != 0 {
		return ErrTruncated
	}
	// The records behind the answer have no meaning for the list, and must be whole all the same.
	records := count(1)
	for section, name := range []string{"answer", "authority", "additional"} {
		n := count(1 + section)
		for i := 1; i <= n; i++ {
			r, err := q.record(msg, off)
			if err == nil && section == 0 {
				err = q.accept(r, each)
			}
			if err != nil {
				return fmt.Errorf("%w: %s record %d of %d", err, name, i, n)
			}
			off = r.end
		}
	}
	switch {
	case off != len(msg):
		return fmt.Errorf("%w: %d", ErrTrailing, len(msg)-off)
	case rcode == dns.RcodeNameError && records > 0:
		return fmt.Errorf("%w (NXDOMAIN, but with %d records)", ErrRcode, records)
	case rcode == dns.RcodeNameError:
		return ErrNXDomain
	case records == 0:
		return ErrNoRecords
	}
	return nil
}

// rcodeError returns the error of a response code after which an answer has nothing to read.
func rcodeError(rcode int) error {
	switch rcode {
	case dns.RcodeSuccess, dns.RcodeNameError:
		return nil
	case dns.RcodeRefused:
		return ErrRefused
	case dns.RcodeServerFailure:
		return ErrServFail
	}
	s := dns.RcodeToString[rcode]
	if s == "" {
		s = fmt.Sprintf("RCODE%d", rcode)
	}
	return fmt.Errorf("%w (%s)", ErrRcode, s)
}

// echo checks that the question section repeats q and nothing else, and returns the offset behind it.
func (q question) echo(msg []byte, questions int) (int, error) {
	if questions != 1 {
		return 0, fmt.Errorf("%w: %d questions", ErrQuestion, questions)
	}
	got, off, err := unpackName(msg, headerLen)
	if errors.Is(err, ErrShort) || err == nil && off+4 > len(msg) {
		return 0, fmt.Errorf("%w: %d bytes, less than the question", ErrShort, len(msg))
	}
	if err != nil || !got.equal(q.name) || binary.BigEndian.Uint16(msg[off:]) != q.typ ||
		binary.BigEndian.Uint16(msg[off+2:]) != dns.ClassINET {
		return 0, fmt.Errorf("%w than %s", ErrQuestion, q)
	}
	return off + 4, nil
}

// record is a resource record in a message.
type record struct {
	ours       bool // its owner is the name in the question
	typ, class uint16
	rdata
}

// rdata is the data of a record in a message, which names in it may point to.
type rdata struct {
	msg        []byte
	begin, end int
}

func (r rdata) bytes() []byte { return r.msg[r.begin:r.end] }

// record reads the record at msg[off:].
func (q question) record(msg []byte, off int) (record, error) {
	r := record{ours: true, rdata: rdata{msg: msg}}
	// Nearly every server names the owner by a pointer to the question, which has been compared.
	if off+1 < len(msg) && binary.BigEndian.Uint16(msg[off:]) == toQuestion {
		off += 2
	} else {
		n, next, err := unpackName(msg, off)
		if err != nil {
			return r, err
		}
		r.ours, off = n.equal(q.name), next
	}
	r.begin = off + fixedRRLen
	if r.begin > len(msg) {
		return r, ErrShort
	}
	r.typ, r.class = binary.BigEndian.Uint16(msg[off:]), binary.BigEndian.Uint16(msg[off+2:])
	r.end = r.begin + int(binary.BigEndian.Uint16(msg[off+8:]))
	if r.end > len(msg) {
		return r, ErrShort
	}
	return r, nil
}

// accept passes the data of a record that answers q to each.
func (q question) accept(r record, each func(rdata) error) error {
	switch {
	case r.typ != q.typ && (r.typ == dns.TypeCNAME || r.typ == dns.TypeDNAME):
		return ErrAlias
	case !r.ours:
		return ErrOwner
	case r.class != dns.ClassINET:
		return ErrClass
	case r.typ != q.typ:
		return fmt.Errorf("%w: %s", ErrType, typeName(r.typ))
	}
	return each(r.rdata)
}

// target reads the data of a PTR record, which is one name.
func (r rdata) target() (domain, error) {
	n, next, err := unpackName(r.msg[:r.end], r.begin)
	if err != nil {
		return "", fmt.Errorf("%w: PTR record: %w", ErrMalformed, err)
	}
	if next != r.end {
		return "", fmt.Errorf("%w: PTR record: %d bytes behind the name", ErrMalformed, r.end-next)
	}
	return n, nil
}

// host reads the data of an A or AAAA record as the entry for a host.
func (r rdata) host(typ uint16) (Entry, error) {
	a, ok := netip.AddrFromSlice(r.bytes())
	if !ok || a.Is6() != (typ == dns.TypeAAAA) {
		return Entry{}, fmt.Errorf("%w: %s record of %d bytes", ErrMalformed, typeName(typ), r.end-r.begin)
	}
	return MakeEntry(netip.PrefixFrom(a, a.BitLen()), false), nil
}
