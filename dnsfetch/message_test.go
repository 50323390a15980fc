package dnsfetch

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

func TestNames(t *testing.T) {
	for _, tt := range []struct {
		name, parent string
		below        bool
	}{
		{"a.list.example", "list.example", true},
		{"a.b.list.example.", "LIST.example", true},
		{"list.example", "list.example", false},
		{"alist.example", "list.example", false},
		{"example", "list.example", false},
		{"a.list.example.net", "list.example", false},
		{`a\.list.example`, "list.example", false},
		{`\004list.example`, "list.example", false}, // a label that begins as the wire form of "list" would
		{"bücher.list.example", "list.example", true},
	} {
		if got := mustName(tt.name); (got != mustName(tt.parent) && dns.IsSubDomain(mustName(tt.parent), got)) != tt.below {
			t.Errorf("%s below %s: %v", tt.name, tt.parent, !tt.below)
		}
	}
	if s := mustName(`a\.b\255\010\097.Example.`); s != `a\.b\255\010a.example.` {
		t.Errorf("got %q", s)
	}
}

func TestUnpackName(t *testing.T) {
	long := strings.Repeat("\x3fabcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijk", 4)
	for _, tt := range []struct {
		name string
		msg  string
		off  int
		want string
		next int
		err  error
	}{
		{name: "plain", msg: "\x01a\x02bc\x00", want: "a.bc.", next: 6},
		{name: "root", msg: "\x00", want: ".", next: 1},
		{name: "pointer", msg: "\x01a\x00\x01b\xc0\x00", off: 3, want: "b.a.", next: 7},
		{name: "pointer to itself", msg: "\xc0\x00", err: ErrAnswer},
		{name: "pointers in a ring", msg: "\x01a\xc0\x04\x01b\xc0\x00", off: 4, err: ErrAnswer},
		{name: "reserved label 0x40", msg: "\x41a\x00", err: ErrAnswer},
		{name: "reserved label 0x80", msg: "\x81a\x00", err: ErrAnswer},
		{name: "nothing", msg: "", err: ErrAnswer},
		{name: "label cut", msg: "\x03ab", err: ErrAnswer},
		{name: "pointer cut", msg: "\xc0", err: ErrAnswer},
		{name: "no end", msg: "\x01a", err: ErrAnswer},
		{name: "256 bytes", msg: long[:3*64] + "\x3e" + strings.Repeat("x", 62) + "\x00", err: ErrAnswer},
	} {
		got, next, err := unpackName([]byte(tt.msg), tt.off)
		if !errors.Is(err, tt.err) || err == nil && (got != tt.want || next != tt.next) {
			t.Errorf("%s: got %q, %d, error %v; want %q, %d, %v", tt.name, got, next, err, tt.want, tt.next, tt.err)
		}
	}
	full := []byte(long[:3*64] + "\x3d" + strings.Repeat("x", 61) + "\x00")
	if got, next, err := unpackName(full, 0); err != nil || next != 255 || !bytes.Equal(mustPack(string(got)), full) {
		t.Errorf("255 bytes: %q, %d, %v", got, next, err)
	}
}

func TestQuery(t *testing.T) {
	b := (question{mustName("b.example"), dns.TypeAPL}).appendQuery(nil, 0x1234)
	var m dns.Msg
	if err := m.Unpack(b[2:]); err != nil || int(binary.BigEndian.Uint16(b)) != len(b)-2 {
		t.Fatalf("%x: error %v", b, err)
	}
	if m.Id != 0x1234 || m.Response || m.Opcode != dns.OpcodeQuery || !m.RecursionDesired || len(m.Question) != 1 ||
		m.Question[0] != (dns.Question{Name: "b.example.", Qtype: dns.TypeAPL, Qclass: dns.ClassINET}) {
		t.Errorf("got %v", &m)
	}
}

// TestRegistryIsLeftAlone checks that miekg/dns, which others in the same program may use,
// still knows what it knew.
func TestRegistryIsLeftAlone(t *testing.T) {
	for _, typ := range []uint16{dns.TypeAPL, dns.TypePTR, dns.TypeA, dns.TypeAAAA} {
		switch dns.TypeToRR[typ]().(type) {
		case *dns.APL, *dns.PTR, *dns.A, *dns.AAAA:
		default:
			t.Errorf("type %d is now a %T", typ, dns.TypeToRR[typ]())
		}
	}
}

var fuzzTypes = []uint16{dns.TypeAPL, dns.TypePTR, dns.TypeA, dns.TypeAAAA}

// FuzzAnswer gives arbitrary messages to the walk. What is accepted must hold just the records
// it counts, and give the entries that another, simpler walk finds in it.
func FuzzAnswer(f *testing.F) {
	z := merge(parts(), zone{}.apl(list, "192.0.2.0/24 !192.0.2.1/32 2001:db8::/32", "", "10.0.0.0/8"),
		zone{}.addr(list, "192.0.2.1", "192.0.2.2", "2001:db8::1"))
	name := mustName(list)
	for i, typ := range fuzzTypes {
		q := fakeQuery{name: list, typ: typ, msg: question{name, typ}.appendQuery(nil, 7)[2:]}
		m := z.answer(q)
		f.Add(m, byte(i))
		f.Add(m[:len(m)-5], byte(i))
		f.Add(add(m, q, atAdditional, rr{owner: "ns.example", typ: dns.TypeA, rdata: []byte{1, 2, 3, 4}}), byte(i))
		f.Add(zone{}.answer(q), byte(i))
		f.Add(reply(q, 0), byte(i))
		f.Add(add(reply(q, 0), q, atAnswer, rr{owner: strings.ToUpper(list), rdata: []byte{0, 1, 8, 4, 10, 1, 2, 3}}), byte(i))
	}
	f.Fuzz(func(t *testing.T, msg []byte, kind byte) {
		typ := fuzzTypes[int(kind)%len(fuzzTypes)]
		q := question{name, typ}
		if len(msg) < headerLen {
			return
		}
		j := &job{question: q}
		err := q.answer(msg, j.keep)
		got := j.entries
		if 4*len(got) > len(msg) {
			t.Fatalf("%d entries of %d bytes", len(got), len(msg))
		}
		if len(j.targets) > len(msg)/fixedRRLen {
			t.Fatalf("%d targets of %d bytes", len(j.targets), len(msg))
		}
		absent := errors.Is(err, ErrNXDomain) || errors.Is(err, ErrNoRecords)
		if err != nil && !absent {
			return
		}
		rdatas := rewalk(t, msg, q)
		if absent != (len(rdatas) == 0) {
			t.Fatalf("error %v; another walk finds %d records", err, len(rdatas))
		}
		switch typ {
		case dns.TypeAPL:
			var all []byte
			for _, r := range rdatas {
				all = append(all, msg[r[0]:r[1]]...)
			}
			checkItems(t, all, got)
		case dns.TypePTR:
			for i, r := range rdatas {
				s, next, err := dns.UnpackDomainName(msg, r[0])
				if err != nil || next != r[1] || j.targets[i] != dns.CanonicalName(s) {
					t.Errorf("target %s; miekg/dns reads %q up to %d of %d, error %v", j.targets[i], s, next, r[1], err)
				}
			}
		default:
			var want []Entry
			for _, r := range rdatas {
				a, _ := netip.AddrFromSlice(msg[r[0]:r[1]])
				a = a.Unmap()
				want = append(want, MakeEntry(netip.PrefixFrom(a, a.BitLen()), false))
			}
			if !slices.Equal(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
		}
	})
}

// rewalk walks an accepted message by the names that miekg/dns reads, and returns where the
// rdata of its answer records are.
func rewalk(t *testing.T, msg []byte, q question) (rdatas [][2]int) {
	t.Helper()
	if msg[2]&0xfa != 0x80 || msg[3]&0x0f != 0 && msg[3]&0x0f != dns.RcodeNameError {
		t.Fatalf("accepted flags %x", msg[2:4])
	}
	name, off, err := dns.UnpackDomainName(msg, headerLen)
	if err != nil || !strings.EqualFold(name, q.name) {
		t.Fatalf("question %q, error %v", name, err)
	}
	off += 4
	for section, at := range []int{atAnswer, atAuthority, atAdditional} {
		for range binary.BigEndian.Uint16(msg[at:]) {
			owner, next, err := dns.UnpackDomainName(msg, off)
			if err != nil {
				t.Fatal(err)
			}
			begin := next + fixedRRLen
			end := begin + int(binary.BigEndian.Uint16(msg[next+8:]))
			if section == 0 {
				if !strings.EqualFold(owner, name) || binary.BigEndian.Uint16(msg[next:]) != q.typ || binary.BigEndian.Uint16(msg[next+2:]) != 1 {
					t.Fatalf("accepted a record of %s: %x", owner, msg[next:begin])
				}
				rdatas = append(rdatas, [2]int{begin, end})
			}
			off = end
		}
	}
	if off != len(msg) {
		t.Fatalf("accepted a message of %d bytes with records up to %d", len(msg), off)
	}
	return rdatas
}

// piecewise is a connection on which a stream arrives in pieces.
type piecewise struct {
	stream, sizes []byte
}

func (p *piecewise) Read(b []byte) (int, error) {
	if len(p.stream) == 0 {
		return 0, io.EOF
	}
	n := len(p.stream)
	if len(p.sizes) > 0 {
		n = min(n, 1+int(p.sizes[0])*37)
		p.sizes = p.sizes[1:]
	}
	n = copy(b, p.stream[:n])
	p.stream = p.stream[n:]
	return n, nil
}

// FuzzFraming sends messages of the lengths that sizes gives, in pieces, the last message being
// cut short. All but that must come out as they were.
func FuzzFraming(f *testing.F) {
	f.Add([]byte{0, 3, 0, 0, 0, 1}, []byte{0, 0, 0, 0}, uint16(0))
	f.Add([]byte{0, 3}, []byte{}, uint16(2))
	f.Add([]byte{255, 255, 255, 255, 255, 254, 0, 1, 255, 255}, []byte{255, 255, 255, 1, 2, 255}, uint16(1))
	f.Fuzz(func(t *testing.T, lengths, sizes []byte, cut uint16) {
		var want [][]byte
		var stream []byte
		for len(lengths) >= 2 && len(want) < 8 {
			msg := bytes.Repeat([]byte{byte(len(want)), 'x', 'y'}, maxMessage/3+1)[:binary.BigEndian.Uint16(lengths)]
			lengths = lengths[2:]
			want = append(want, msg)
			stream = append(binary.BigEndian.AppendUint16(stream, uint16(len(msg))), msg...)
		}
		rest := 0 // bytes of the message that is cut
		if n := len(want); n > 0 && cut > 0 {
			last := 2 + len(want[n-1])
			rest = last - min(last, int(cut))
			want, stream = want[:n-1], stream[:len(stream)-min(last, int(cut))]
		}
		p := &piecewise{stream: stream, sizes: sizes}
		c := &pipeline{r: bufio.NewReaderSize(p, 2+maxMessage)}
		for i, w := range want {
			if msg, err := c.next(); err != nil || !bytes.Equal(msg, w) {
				t.Fatalf("message %d of %d bytes: got %d bytes, error %v", i, len(w), len(msg), err)
			}
		}
		if msg, err := c.next(); !errors.Is(err, io.EOF) || c.r.Buffered() != rest {
			t.Errorf("behind the last: got %d bytes, error %v, %d bytes left; want %d", len(msg), err, c.r.Buffered(), rest)
		}
	})
}
