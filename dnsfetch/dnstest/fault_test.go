package dnstest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"example.org/threatstopd/dnsfetch"
)

// broken is an answer taken apart without trust.
type broken struct {
	raw      []byte
	header   [6]uint16 // ID, flags, counts
	question []byte
	rest     []byte
}

func takeApart(t testing.TB, raw []byte) broken {
	t.Helper()
	b := broken{raw: raw}
	for i := range b.header {
		b.header[i] = binary.BigEndian.Uint16(raw[2*i:])
	}
	b.rest = raw[12:]
	if b.header[2] == 1 {
		_, off, err := dns.UnpackDomainName(raw, 12)
		if err != nil {
			t.Fatal(err)
		}
		b.question, b.rest = raw[12:off+4], raw[off+4:]
	}
	return b
}

func (b broken) rcode() int { return int(b.header[1] & 15) }

// rrs unpacks records one by one until the bytes end.
func (b broken) rrs(t testing.TB) []dns.RR {
	t.Helper()
	var out []dns.RR
	for off := len(b.raw) - len(b.rest); off < len(b.raw); {
		rr, next, err := dns.UnpackRR(b.raw, off)
		if err != nil {
			t.Fatalf("record %d: %v", len(out)+1, err)
		}
		out = append(out, rr)
		off = next
	}
	return out
}

// TestMessageFaults asks the same two questions, the PTR one of a list in three
// parts and the APL one of its second part, and sees what each fault makes of
// the answer.
func TestMessageFaults(t *testing.T) {
	const name, part = "block.example", "002-netb.block.example"
	list := List{Name: name, PartSize: 3, ItemsPerRecord: 1, Entries: entries(t,
		"192.0.2.1", "192.0.2.2", "192.0.2.3",
		"10.0.0.0/8", "!10.64.0.0/10", "2001:db8::/32",
		"198.51.100.0/24")}
	fixed := 12 + len(part) + 2 + 4
	items := func(texts ...string) func(*testing.T, broken) {
		return func(t *testing.T, b broken) {
			t.Helper()
			var got []string
			for off := 0; off < len(b.rest); {
				n := int(binary.BigEndian.Uint16(b.rest[off+10:]))
				got = append(got, fmt.Sprintf("%x", b.rest[off+12:off+12+n]))
				off += 12 + n
			}
			if !slices.Equal(got, texts) {
				t.Errorf("APL data %q, want %q", got, texts)
			}
		}
	}
	targets := func(want ...string) func(*testing.T, broken) {
		return func(t *testing.T, b broken) {
			t.Helper()
			var got []string
			for _, rr := range b.rrs(t) {
				if rr.Header().Name != name+"." {
					t.Errorf("owner %s", rr.Header().Name)
				}
				got = append(got, strings.TrimSuffix(strings.TrimSuffix(rr.(*dns.PTR).Ptr, "."), "."+name))
			}
			if !slices.Equal(got, want) || int(b.header[3]) != len(want) {
				t.Errorf("targets %q, %d counted, want %q", got, b.header[3], want)
			}
		}
	}
	rcode := func(code int) func(*testing.T, broken) {
		return func(t *testing.T, b broken) {
			t.Helper()
			if b.rcode() != code || b.header[3] != 0 || b.header[4] != 0 || len(b.rest) != 0 {
				t.Errorf("%x", b.raw)
			}
		}
	}
	last := func(check func(*testing.T, dns.RR_Header)) func(*testing.T, broken) {
		return func(t *testing.T, b broken) {
			t.Helper()
			rrs := b.rrs(t)
			if len(rrs) != 3 || b.header[3] != 3 {
				t.Fatalf("%d records, %d counted", len(rrs), b.header[3])
			}
			for _, rr := range rrs[:2] {
				if h := rr.Header(); h.Name != part+"." || h.Class != 1 || h.Rrtype != dns.TypeAPL {
					t.Errorf("header %v", h)
				}
			}
			check(t, *rrs[2].Header())
		}
	}
	tests := []struct {
		fault Fault
		ptr   bool // the PTR question, else the part's
		check func(*testing.T, broken)
	}{
		{Refused, false, rcode(dns.RcodeRefused)},
		{ServFail, true, rcode(dns.RcodeServerFailure)},
		{NXDomain, false, rcode(dns.RcodeNameError)},
		{NotImp, false, rcode(dns.RcodeNotImplemented)},
		{FormErr, false, rcode(dns.RcodeFormatError)},
		{Rcode(13), false, rcode(13)},
		{NoRecords{}, true, rcode(dns.RcodeSuccess)},
		{Truncated{}, false, func(t *testing.T, b broken) {
			rcode(dns.RcodeSuccess)(t, b)
			if b.header[1]&flagTC == 0 {
				t.Error("TC is clear")
			}
		}},
		{Truncated{Keep: 2}, false, func(t *testing.T, b broken) {
			if n := len(b.rrs(t)); n != 2 || b.header[3] != 2 || b.header[1]&flagTC == 0 {
				t.Errorf("%d records, header %x", n, b.header)
			}
		}},
		{WrongID{}, false, func(t *testing.T, b broken) {
			if b.header[0] == 4711 {
				t.Error("the ID is right")
			}
		}},
		{WrongOpcode{}, false, func(t *testing.T, b broken) {
			if op := b.header[1] >> 11 & 15; op != dns.OpcodeNotify {
				t.Errorf("opcode %d", op)
			}
		}},
		{NotResponse{}, false, func(t *testing.T, b broken) {
			if b.header[1]&flagQR != 0 {
				t.Error("QR is set")
			}
		}},
		{WrongQuestion{}, false, func(t *testing.T, b broken) {
			if want := "\x05wrong\x07invalid\x00\x00\x2a\x00\x01"; string(b.question) != want {
				t.Errorf("question %q", b.question)
			}
			for _, rr := range b.rrs(t) {
				if rr.Header().Name != part+"." {
					t.Errorf("owner %s", rr.Header().Name)
				}
			}
		}},
		{WrongQuestion{Name: "a.example"}, true, targets("001-netb", "002-netb", "003-netb")},
		{WrongQuestion{Type: dns.TypeA, Class: 3}, false, func(t *testing.T, b broken) {
			if !bytes.HasSuffix(b.question, []byte("example\x00\x00\x01\x00\x03")) {
				t.Errorf("question %q", b.question)
			}
		}},
		{NoQuestion{}, true, func(t *testing.T, b broken) {
			if b.header[2] != 0 {
				t.Error("a question is counted")
			}
			targets("001-netb", "002-netb", "003-netb")(t, b)
		}},
		{WrongOwner{}, false, last(func(t *testing.T, h dns.RR_Header) {
			if h.Name != "wrong.invalid." {
				t.Errorf("owner %s", h.Name)
			}
		})},
		{WrongOwner{Name: "x.block.example"}, false, last(func(t *testing.T, h dns.RR_Header) {
			if h.Name != "x.block.example." {
				t.Errorf("owner %s", h.Name)
			}
		})},
		{WrongClass{}, false, last(func(t *testing.T, h dns.RR_Header) {
			if h.Class != dns.ClassCHAOS {
				t.Errorf("class %d", h.Class)
			}
		})},
		{WrongType{}, false, last(func(t *testing.T, h dns.RR_Header) {
			if h.Rrtype != dns.TypeNULL {
				t.Errorf("type %d", h.Rrtype)
			}
		})},
		{Alias{}, true, func(t *testing.T, b broken) {
			rrs := b.rrs(t)
			if cname, ok := rrs[0].(*dns.CNAME); !ok || cname.Target != "alias.invalid." || cname.Hdr.Name != name+"." {
				t.Errorf("first record %v", rrs[0])
			}
			if len(rrs) != 4 || b.header[3] != 4 || rrs[3].Header().Name != "alias.invalid." {
				t.Errorf("records %v", rrs)
			}
		}},
		{CutRecords{Keep: 0}, false, func(t *testing.T, b broken) {
			if len(b.rest) != 0 || b.header[3] != 3 {
				t.Errorf("%x", b.raw)
			}
		}},
		{CutRecords{Keep: 2}, false, func(t *testing.T, b broken) {
			if n := len(b.rrs(t)); n != 2 || b.header[3] != 3 {
				t.Errorf("%d records, %d counted", n, b.header[3])
			}
		}},
		{CutRecords{Keep: -1}, true, func(t *testing.T, b broken) {
			if n := len(b.rrs(t)); n != 2 || b.header[3] != 3 {
				t.Errorf("%d records, %d counted", n, b.header[3])
			}
		}},
		{CutBytes{Bytes: 1}, false, func(t *testing.T, b broken) {
			if want := fixed + 3*12 + 5 + 6 + 8 - 1; len(b.raw) != want || b.header[3] != 3 {
				t.Errorf("%d bytes, not %d", len(b.raw), want)
			}
		}},
		{CutBytes{Bytes: 1000}, false, func(t *testing.T, b broken) {
			if len(b.raw) != 0 {
				t.Errorf("%x", b.raw)
			}
		}},
		{Leftover{}, false, func(t *testing.T, b broken) {
			if want := fixed + 3*12 + 5 + 6 + 8 + 1; len(b.raw) != want || b.header[3] != 3 {
				t.Errorf("%d bytes, not %d", len(b.raw), want)
			}
		}},
		{HostBits{}, false, items("000108040affffff", "00010a840a7fffff", "0002201020010db8ffffffffffffffffffffffff")},
		{TrailingZeros{}, false, items("000108040a000000", "00010a840a400000", "0002201020010db8000000000000000000000000")},
		{Negated{}, false, items("000108810a", "00010a020a40", "0002208420010db8")},
		{RawAPL{}, false, items("")},
		{RawAPL{Data: []byte{0, 9, 0, 0}}, false, items("00090000")},
		{PTRTarget{Name: "002-netb.block.example"}, true, targets("001-netb", "002-netb", "003-netb", "002-netb")},
		{PTRLoop{}, true, targets("001-netb", "002-netb", "003-netb", "block.example")},
		{PTRDuplicate{}, true, targets("001-netb", "002-netb", "003-netb", "001-netb")},
		{PTROutside{}, true, targets("001-netb", "002-netb", "003-netb", "001-netb.outside.invalid")},
		{PTRMissing{}, true, targets("001-netb", "002-netb", "003-netb", "missing-netb")},
		// Faults of the other question leave an answer alone.
		{PTRLoop{}, false, items("000108010a", "00010a820a40", "0002200420010db8")},
		{HostBits{}, true, targets("001-netb", "002-netb", "003-netb")},
		{RawAPL{}, true, targets("001-netb", "002-netb", "003-netb")},
	}
	for _, tt := range tests {
		t.Run(faultName(tt.fault), func(t *testing.T) {
			s := start(t, Options{})
			set(t, s, list)
			q, typ := part, dns.TypeAPL
			if tt.ptr {
				q, typ = name, dns.TypePTR
			}
			c := dial(t, s)
			c.query(1, q, typ)
			good := c.read()
			in := s.Fail(On{}, tt.fault)
			c.query(4711, q, typ)
			bad := c.read()
			if len(bad) < 12 {
				tt.check(t, broken{raw: bad})
			} else {
				tt.check(t, takeApart(t, bad))
			}
			if in.Fired() != 1 {
				t.Errorf("fired %d times", in.Fired())
			}
			in.Heal()
			c.query(1, q, typ)
			if again := c.read(); !bytes.Equal(good, again) {
				t.Errorf("the fault lasts:\n%x\nnot\n%x", again, good)
			}
		})
	}
}

// Faults that follow each other on one answer, and on answers without what they
// would break.
func TestFaultsTogether(t *testing.T) {
	all := []Fault{
		WrongID{}, WrongOpcode{}, NotResponse{}, WrongQuestion{}, NoQuestion{}, WrongOwner{}, WrongClass{}, WrongType{},
		Alias{}, CutRecords{Keep: 1}, CutRecords{Keep: -1}, CutBytes{Bytes: 3}, Leftover{Bytes: 2}, HostBits{}, TrailingZeros{},
		Negated{}, RawAPL{Data: []byte{0, 1, 200, 0xff, 1}}, PTRTarget{Name: "x.example"}, PTRLoop{}, PTRDuplicate{}, PTROutside{},
		PTRMissing{}, Truncated{Keep: 1}, NoRecords{}, Refused,
	}
	s := start(t, Options{})
	set(t, s, List{Name: "block.example", Entries: random(20, 1, false), PartSize: 10, ItemsPerRecord: 3})
	c := dial(t, s)
	for _, q := range []struct {
		name string
		typ  uint16
	}{{"block.example", dns.TypePTR}, {"001-netb.block.example", dns.TypeAPL}, {"none.example", dns.TypeAPL}} {
		for _, first := range all {
			for _, second := range all {
				s.Heal()
				s.Fail(On{}, first)
				s.Fail(On{}, second)
				c.query(1, q.name, q.typ)
				if b := c.read(); len(b) < 6 {
					t.Errorf("%s, %s: %x", faultName(first), faultName(second), b)
				}
			}
		}
	}
}

// What a fault makes longer than a message is cut at a message's length.
func TestFaultOnTheLongestAnswer(t *testing.T) {
	s := start(t, Options{})
	es, err := Fill("block.example", 65535, 0)
	if err != nil {
		t.Fatal(err)
	}
	set(t, s, List{Name: "block.example", Layout: dnsfetch.LayoutAPL, Entries: es})
	for _, f := range []Fault{Leftover{Bytes: 100}, WrongQuestion{}, WrongOwner{}, Alias{}, TrailingZeros{}} {
		s.Heal()
		s.Fail(On{}, f)
		c := dial(t, s)
		for range 2 { // the second shows that the first was all of it
			c.query(9, "block.example", dns.TypeAPL)
			if b := c.read(); len(b) != 65535 || id(b) != 9 {
				t.Fatalf("%s: %d bytes", faultName(f), len(b))
			}
		}
	}
}

func TestWhichAnswersAFaultBefalls(t *testing.T) {
	const list = "block.example"
	type q struct {
		name string
		typ  uint16
	}
	ptr, one, two, other := q{list, dns.TypePTR}, q{"001-netb." + list, dns.TypeAPL}, q{"002-netb." + list, dns.TypeAPL},
		q{"allow.example", dns.TypeAPL}
	tests := []struct {
		name string
		on   On
		ask  []q
		want string // x: affected
	}{
		{"all", On{}, []q{ptr, one, two, other}, "xxxx"},
		{"a list", On{List: "Block.Example."}, []q{ptr, one, two, other, {"none." + list, dns.TypeAPL}}, "xxx-x"},
		{"a part", On{List: list, Part: 2}, []q{ptr, one, two, two, other}, "--xx-"},
		{"a type", On{Type: dns.TypeAPL}, []q{ptr, one, two, other}, "-xxx"},
		{"the second time", On{Nth: 2}, []q{one, one, one}, "-x-"},
		{"the second time a part is asked for", On{Part: 1, Nth: 2}, []q{ptr, one, two, ptr, one, two, one}, "----x--"},
		{"from the second time on", On{Type: dns.TypePTR, From: 2}, []q{ptr, one, ptr, one, ptr}, "--x-x"},
		{"a list that is not there", On{List: "none.example"}, []q{ptr, one, two, other}, "----"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := start(t, Options{})
			set(t, s, List{Name: list, PartSize: 1, Entries: entries(t, "192.0.2.1", "192.0.2.2")},
				List{Name: "allow.example", Layout: dnsfetch.LayoutAPL})
			in := s.Fail(tt.on, WrongID{})
			c := dial(t, s)
			got := ""
			for _, q := range tt.ask {
				c.query(7, q.name, q.typ)
				if id(c.read()) == 7 {
					got += "-"
				} else {
					got += "x"
				}
			}
			if got != tt.want {
				t.Errorf("affected %s, want %s", got, tt.want)
			}
			if in.Fired() != strings.Count(tt.want, "x") {
				t.Errorf("fired %d times", in.Fired())
			}
		})
	}
}

func TestSeveralFaultsInTheirOrder(t *testing.T) {
	s := start(t, Options{})
	set(t, s, List{Name: "block.example"})
	s.Fail(On{}, Refused)
	second := s.Fail(On{}, NXDomain)
	if r := ask(t, s, "block.example", dns.TypePTR); r.Rcode != dns.RcodeNameError {
		t.Errorf("answers %s", dns.RcodeToString[r.Rcode])
	}
	second.Heal()
	second.Heal()
	if r := ask(t, s, "block.example", dns.TypePTR); r.Rcode != dns.RcodeRefused {
		t.Errorf("answers %s", dns.RcodeToString[r.Rcode])
	}
	s.Heal()
	if r := ask(t, s, "block.example", dns.TypePTR); r.Rcode != dns.RcodeSuccess {
		t.Errorf("answers %s", dns.RcodeToString[r.Rcode])
	}
}

func ended(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET)
}

func TestConnectionFaults(t *testing.T) {
	const name, size = "block.example", 4711
	es, err := Fill(name, size, 0)
	if err != nil {
		t.Fatal(err)
	}
	// quiet reports whether nothing comes for a while.
	quiet := func(c *client) bool {
		c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		defer c.SetDeadline(time.Now().Add(patience))
		_, err := c.Read(make([]byte, 1))
		var ne net.Error
		return errors.As(err, &ne) && ne.Timeout()
	}
	tests := []struct {
		name  string
		fault Fault
		check func(t *testing.T, s *Server, c *client) // two questions were asked, 1 of them affected
	}{
		{"slow drip", SlowDrip{Bytes: 1000, Every: time.Millisecond}, func(t *testing.T, s *Server, c *client) {
			if b := c.read(); len(b) != size {
				t.Errorf("%d bytes", len(b))
			}
			if d := time.Since(s.Queries()[0].Time); d < 4*time.Millisecond {
				t.Errorf("took only %v", d)
			}
			if b := c.read(); len(b) != size || id(b) != 2 {
				t.Errorf("%d bytes", len(b))
			}
		}},
		{"cut before the answer", CutMessage{}, func(t *testing.T, s *Server, c *client) {
			if b, err := c.tryRead(); !errors.Is(err, io.EOF) {
				t.Errorf("%d bytes, %v", len(b), err)
			}
		}},
		{"cut in the length", CutMessage{After: 1}, func(t *testing.T, s *Server, c *client) {
			if _, err := c.tryRead(); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Error(err)
			}
		}},
		{"cut in the middle", CutMessage{After: 1002}, func(t *testing.T, s *Server, c *client) {
			if b, err := c.tryRead(); len(b) != 1000 || !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%d bytes, %v", len(b), err)
			}
		}},
		{"cut before the last byte", CutMessage{After: -1}, func(t *testing.T, s *Server, c *client) {
			if b, err := c.tryRead(); len(b) != size-1 || !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%d bytes, %v", len(b), err)
			}
		}},
		{"reset in the middle", CutMessage{After: 1002, Reset: true}, func(t *testing.T, s *Server, c *client) {
			if b, err := c.tryRead(); len(b) > 1000 || !ended(err) {
				t.Errorf("%d bytes, %v", len(b), err)
			}
		}},
		{"cut while it drips", nil, func(t *testing.T, s *Server, c *client) {
			c.read()
			c.read()
			s.Fail(On{}, SlowDrip{Bytes: 10, Every: time.Microsecond})
			s.Fail(On{}, CutMessage{After: 102})
			c.query(3, name, dns.TypeAPL)
			if b, err := c.tryRead(); len(b) != 100 || !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%d bytes, %v", len(b), err)
			}
		}},
		{"a length too long", WrongLength{Delta: 100}, func(t *testing.T, s *Server, c *client) {
			b := c.read() // 100 bytes of the next message are in it
			if len(b) != size+100 || binary.BigEndian.Uint16(b[size:]) != size || id(b[size+2:]) != 2 {
				t.Errorf("%d bytes", len(b))
			}
		}},
		{"a length too short", WrongLength{Delta: -4000}, func(t *testing.T, s *Server, c *client) {
			if b := c.read(); len(b) != size-4000 {
				t.Errorf("%d bytes", len(b))
			}
			io.CopyN(io.Discard, c, 4000)
			if b := c.read(); len(b) != size || id(b) != 2 {
				t.Errorf("%d bytes", len(b))
			}
		}},
		{"a length of all there is", WrongLength{Delta: 1 << 20}, func(t *testing.T, s *Server, c *client) {
			c.Conn.(*net.TCPConn).CloseWrite()
			if b, err := c.tryRead(); len(b) != 2*size+2 || !ended(err) {
				t.Errorf("%d bytes, %v", len(b), err)
			}
		}},
		{"a length of nothing", WrongLength{Delta: -1 << 20}, func(t *testing.T, s *Server, c *client) {
			if b := c.read(); len(b) != 0 {
				t.Errorf("%d bytes", len(b))
			}
		}},
		{"close after the answer", CloseAfter{}, func(t *testing.T, s *Server, c *client) {
			if b := c.read(); len(b) != size {
				t.Errorf("%d bytes", len(b))
			}
			if _, err := c.tryRead(); !errors.Is(err, io.EOF) {
				t.Error(err)
			}
		}},
		{"no pipelining", NoPipelining{}, func(t *testing.T, s *Server, c *client) {
			if b := c.read(); id(b) != 1 {
				t.Errorf("ID %d", id(b))
			}
			c.query(3, name, dns.TypeAPL)
			if b := c.read(); id(b) != 3 {
				t.Errorf("ID %d: the second question was answered", id(b))
			}
		}},
		{"silence", Silence{}, func(t *testing.T, s *Server, c *client) {
			if b := c.read(); id(b) != 2 {
				t.Errorf("ID %d", id(b))
			}
		}},
		{"stall", Stall{}, func(t *testing.T, s *Server, c *client) {
			if !quiet(c) {
				t.Error("something came")
			}
			c2 := dial(t, s)
			c2.query(3, name, dns.TypeAPL)
			c2.read() // others are served
			s.Down()
			if _, err := c.tryRead(); !ended(err) {
				t.Error(err)
			}
		}},
		{"delay", Delay{For: 50 * time.Millisecond}, func(t *testing.T, s *Server, c *client) {
			b := c.read()
			if d := time.Since(s.Queries()[0].Time); id(b) != 1 || d < 50*time.Millisecond {
				t.Errorf("ID %d after %v", id(b), d)
			}
		}},
		{"late", Late{}, func(t *testing.T, s *Server, c *client) {
			if a, b := c.read(), c.read(); id(a) != 2 || id(b) != 1 || len(b) != size {
				t.Errorf("IDs %d, %d", id(a), id(b))
			}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := start(t, Options{})
			set(t, s, List{Name: name, Layout: dnsfetch.LayoutAPL, Entries: es})
			if tt.fault != nil {
				s.Fail(On{Nth: 1}, tt.fault)
			}
			c := dial(t, s)
			c.twice(name, dns.TypeAPL)
			tt.check(t, s, c)
		})
	}
}

func TestLateAnswerWithoutANextQuestion(t *testing.T) {
	s := start(t, Options{})
	set(t, s, List{Name: "block.example"})
	s.Fail(On{}, Late{})
	c := dial(t, s)
	for i := range 3 {
		c.query(uint16(i), "block.example", dns.TypePTR)
	}
	for i := range 3 {
		if b := c.read(); id(b) != uint16(i) {
			t.Errorf("ID %d", id(b))
		}
	}
}

// A list that changes between the answer to its PTR question and its first
// part.
func TestListChangesWhileItIsFetched(t *testing.T) {
	s := start(t, Options{})
	before, after := entries(t, "192.0.2.1", "192.0.2.2"), entries(t, "198.51.100.1")
	set(t, s, List{Name: "block.example", Entries: before, PartSize: 1})
	in := s.Fail(On{Type: dns.TypePTR, Nth: 1}, Then{func() {
		if err := s.Set(List{Name: "block.example", Entries: after, PartSize: 1}); err != nil {
			t.Error(err)
		}
	}})
	if r := ask(t, s, "block.example", dns.TypePTR); len(r.Answer) != 2 {
		t.Errorf("the old list's answer has %d parts", len(r.Answer))
	}
	if got := aplEntries(t, ask(t, s, "001-netb.block.example", dns.TypeAPL).Answer); !slices.Equal(got, after) {
		t.Errorf("part 1 is %v", got)
	}
	if r := ask(t, s, "002-netb.block.example", dns.TypeAPL); r.Rcode != dns.RcodeNameError {
		t.Errorf("part 2 answers %s", dns.RcodeToString[r.Rcode])
	}
	if in.Fired() != 1 {
		t.Errorf("fired %d times", in.Fired())
	}
	if got := s.Queries()[0].Faults; !slices.Equal(got, []string{"Then"}) {
		t.Errorf("logged %v", got)
	}
}
