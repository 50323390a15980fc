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
	flagTC     = 0x02
	flagRD     = 0x01
	maskRcode  = 0x0f
)

// wireName is a name in uncompressed wire form, the root label included.
type wireName []byte

// packName turns the presentation form of a name, escapes included, into wire form.
func packName(s string) (wireName, error) {
	if s == "" || s == "." {
		return nil, errors.New("it is empty")
	}
	if _, ok := dns.IsDomainName(s); !ok {
		return nil, errors.New("not a domain name")
	}
	buf := make([]byte, maxNameLen)
	n, err := dns.PackDomainName(dns.Fqdn(s), buf, 0, nil, false)
	if err != nil {
		return nil, errors.New("not a domain name")
	}
	return buf[:n:n], nil
}

// parent returns n without its first label. n is not the root.
func (n wireName) parent() wireName { return n[1+int(n[0]):] }

// below reports whether n lies below p.
func (n wireName) below(p wireName) bool {
	for len(n) > len(p) {
		n = n.parent()
		if len(n) == len(p) {
			return n.equal(p)
		}
	}
	return false
}

// equal compares as DNS does: ASCII letters in either case are the same. A length byte is at
// most 63, below any letter, so that it can be compared like the rest.
func (n wireName) equal(m wireName) bool {
	if len(n) != len(m) {
		return false
	}
	for i := range n {
		if n[i] != m[i] && lower(n[i]) != lower(m[i]) {
			return false
		}
	}
	return true
}

// key returns a map key that is the same for names that are equal.
func (n wireName) key() string {
	b := make([]byte, len(n))
	for i := range n {
		b[i] = lower(n[i])
	}
	return string(b)
}

// String returns the presentation form, printable whatever the name holds, without the last dot.
func (n wireName) String() string {
	s, _, err := dns.UnpackDomainName(n, 0)
	if err != nil {
		return fmt.Sprintf("%q", []byte(n))
	}
	return strings.TrimSuffix(s, ".")
}

func lower(b byte) byte {
	if 'A' <= b && b <= 'Z' {
		return b + ('a' - 'A')
	}
	return b
}

// readName appends the name at msg[off:], decompressed, to dst, and returns the offset behind
// it. A pointer must lead to a place before the labels it ends (RFC 1035 §4.1.4: "a prior
// occurrence"), which makes loops impossible.
func readName(msg []byte, off int, dst wireName) (name wireName, next int, err error) {
	begin := off // of the labels being read
	for {
		if off >= len(msg) {
			return dst, 0, ErrShort
		}
		switch c := msg[off]; c & 0xc0 {
		case 0x00:
			end := off + 1 + int(c)
			if end > len(msg) {
				return dst, 0, ErrShort
			}
			if len(dst)+1+int(c) > maxNameLen {
				return dst, 0, fmt.Errorf("%w: a name longer than 255 bytes", ErrMalformed)
			}
			dst = append(dst, msg[off:end]...)
			off = end
			if c == 0 {
				if next == 0 {
					next = off
				}
				return dst, next, nil
			}
		case 0xc0:
			if off+1 >= len(msg) {
				return dst, 0, ErrShort
			}
			to := int(c&0x3f)<<8 | int(msg[off+1])
			if to >= begin {
				return dst, 0, fmt.Errorf("%w: a name that points at itself or ahead", ErrMalformed)
			}
			if next == 0 {
				next = off + 2
			}
			off, begin = to, to
		default:
			return dst, 0, fmt.Errorf("%w: a label of unknown kind", ErrMalformed)
		}
	}
}

// question is one name and record type to ask for.
type question struct {
	name wireName
	typ  uint16
}

func (q question) String() string { return q.name.String() + " " + typeName(q.typ) }

func typeName(t uint16) string { return dns.Type(t).String() }

// appendQuery appends the query for q as DNS/TCP frames it (RFC 1035 §4.2.2). Recursion is
// desired as dig would have it: authoritative servers ignore the bit, and a forwarder in front
// of one needs it.
func (q question) appendQuery(b []byte, id uint16) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(headerLen+len(q.name)+4))
	b = binary.BigEndian.AppendUint16(b, id)
	b = append(b, flagRD, 0, 0, 1, 0, 0, 0, 0, 0, 0)
	b = append(b, q.name...)
	b = binary.BigEndian.AppendUint16(b, q.typ)
	return binary.BigEndian.AppendUint16(b, dns.ClassINET)
}

// answer checks that msg, whose ID the caller has matched, is a whole and well-formed answer to
// q, and calls each with the place of the rdata of each answer record. It returns how many
// there were. On an error the caller must forget what each was given. NXDOMAIN and NOERROR
// without records are errors for which absent reports true, and come after all other checks.
func (q question) answer(msg []byte, each func(msg []byte, off, end int) error) (records int, err error) {
	if len(msg) < headerLen {
		return 0, fmt.Errorf("%w: %d bytes, less than a header", ErrShort, len(msg))
	}
	if msg[2]&flagQR == 0 || msg[2]&maskOpcode != 0 {
		return 0, fmt.Errorf("%w: flags %#02x%02x", ErrHeader, msg[2], msg[3])
	}
	rcode := int(msg[3] & maskRcode)
	questions := binary.BigEndian.Uint16(msg[4:])
	off := headerLen
	// A server that refuses to say anything may leave out the question. What is said about a
	// name has to say it of ours.
	if questions != 0 || rcode == dns.RcodeSuccess || rcode == dns.RcodeNameError {
		if off, err = q.echo(msg, questions); err != nil {
			return 0, err
		}
	}
	switch rcode {
	case dns.RcodeSuccess, dns.RcodeNameError:
	case dns.RcodeRefused:
		return 0, ErrRefused
	case dns.RcodeServerFailure:
		return 0, ErrServFail
	default:
		name := dns.RcodeToString[rcode]
		if name == "" {
			name = fmt.Sprintf("RCODE%d", rcode)
		}
		return 0, fmt.Errorf("%w (%s)", ErrRcode, name)
	}
	// Over TCP there is no larger answer to ask for. PowerDNS sends NOERROR, TC and no records
	// in place of more than 64 KiB.
	if msg[2]&flagTC != 0 {
		return 0, ErrTruncated
	}

	records = int(binary.BigEndian.Uint16(msg[6:]))
	if off, err = q.walkAnswer(msg, off, records, each); err != nil {
		return 0, err
	}
	if off, err = walkRest(msg, off, "authority", int(binary.BigEndian.Uint16(msg[8:]))); err != nil {
		return 0, err
	}
	if off, err = walkRest(msg, off, "additional", int(binary.BigEndian.Uint16(msg[10:]))); err != nil {
		return 0, err
	}
	if off != len(msg) {
		return 0, fmt.Errorf("%w: %d", ErrTrailing, len(msg)-off)
	}
	switch {
	case rcode == dns.RcodeNameError && records > 0:
		return 0, fmt.Errorf("%w (NXDOMAIN, but with %d records)", ErrRcode, records)
	case rcode == dns.RcodeNameError:
		return 0, ErrNXDomain
	case records == 0:
		return 0, ErrNoRecords
	}
	return records, nil
}

// echo checks that the question section repeats q and nothing else, and returns the offset
// behind it.
func (q question) echo(msg []byte, questions uint16) (int, error) {
	if questions != 1 {
		return 0, fmt.Errorf("%w: %d questions", ErrQuestion, questions)
	}
	// No name stands before this one to point at, so it is as long as ours or another.
	end := headerLen + len(q.name) + 4
	if len(msg) < end {
		return 0, fmt.Errorf("%w: %d bytes, less than the question", ErrShort, len(msg))
	}
	tail := msg[end-4 : end]
	if !q.name.equal(msg[headerLen:end-4]) || binary.BigEndian.Uint16(tail) != q.typ ||
		binary.BigEndian.Uint16(tail[2:]) != dns.ClassINET {
		return 0, fmt.Errorf("%w than %s", ErrQuestion, q)
	}
	return end, nil
}

// walkAnswer walks the answer section, which begins at off.
func (q question) walkAnswer(msg []byte, off, records int, each func(msg []byte, off, end int) error) (int, error) {
	var buf [maxNameLen]byte
	for i := 1; i <= records; i++ {
		bad := func(err error) error {
			return fmt.Errorf("%w: answer record %d of %d", err, i, records)
		}
		// Nearly every server names the owner by a pointer to the question, which has been
		// compared.
		owner := true
		if off+1 < len(msg) && msg[off] == 0xc0 && msg[off+1] == headerLen {
			off += 2
		} else {
			name, next, err := readName(msg, off, buf[:0])
			if err != nil {
				return 0, bad(err)
			}
			owner, off = q.name.equal(name), next
		}
		if off+fixedRRLen > len(msg) {
			return 0, bad(ErrShort)
		}
		typ := binary.BigEndian.Uint16(msg[off:])
		class := binary.BigEndian.Uint16(msg[off+2:])
		begin := off + fixedRRLen
		end := begin + int(binary.BigEndian.Uint16(msg[off+8:]))
		switch {
		case end > len(msg):
			return 0, bad(ErrShort)
		case typ != q.typ && (typ == dns.TypeCNAME || typ == dns.TypeDNAME):
			return 0, bad(ErrAlias)
		case !owner:
			return 0, bad(ErrOwner)
		case class != dns.ClassINET:
			return 0, bad(ErrClass)
		case typ != q.typ:
			return 0, fmt.Errorf("%w: %s", bad(ErrType), typeName(typ))
		}
		if err := each(msg, begin, end); err != nil {
			return 0, bad(err)
		}
		off = end
	}
	return off, nil
}

// walkRest walks a section whose records say nothing about the list, and which must be whole
// all the same.
func walkRest(msg []byte, off int, section string, records int) (int, error) {
	var buf [maxNameLen]byte
	for i := 1; i <= records; i++ {
		_, next, err := readName(msg, off, buf[:0])
		if err == nil && next+fixedRRLen > len(msg) {
			err = ErrShort
		}
		if err == nil {
			off = next + fixedRRLen + int(binary.BigEndian.Uint16(msg[next+8:]))
			if off > len(msg) {
				err = ErrShort
			}
		}
		if err != nil {
			return 0, fmt.Errorf("%w: %s record %d of %d", err, section, i, records)
		}
	}
	return off, nil
}

// readTarget reads the rdata of a PTR record, which is one name.
func readTarget(msg []byte, off, end int) (wireName, error) {
	name, next, err := readName(msg[:end], off, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: PTR record: %w", ErrMalformed, err)
	}
	if next != end {
		return nil, fmt.Errorf("%w: PTR record: %d bytes behind the name", ErrMalformed, end-next)
	}
	return name, nil
}

// readAddr reads the rdata of an A or AAAA record.
func readAddr(typ uint16, rdata []byte) (netip.Addr, error) {
	want := 4
	if typ == dns.TypeAAAA {
		want = 16
	}
	a, ok := netip.AddrFromSlice(rdata)
	if !ok || len(rdata) != want {
		return netip.Addr{}, fmt.Errorf("%w: %s record of %d bytes", ErrMalformed, typeName(typ), len(rdata))
	}
	return a, nil
}
