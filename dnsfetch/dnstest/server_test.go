package dnstest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/miekg/dns"

	"example.org/threatstopd/dnsfetch"
)

const patience = 30 * time.Second

func start(t testing.TB, o Options) *Server {
	t.Helper()
	s, err := Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func set(t testing.TB, s *Server, lists ...List) {
	t.Helper()
	if err := s.Set(lists...); err != nil {
		t.Fatal(err)
	}
}

// ask asks over TCP with miekg/dns, which reads answers more strictly than it
// is strict about counts.
func ask(t testing.TB, s *Server, name string, typ uint16) *dns.Msg {
	t.Helper()
	m := new(dns.Msg)
	m.SetQuestion(dns.Fqdn(name), typ)
	c := dns.Client{Net: "tcp", Timeout: patience}
	r, _, err := c.Exchange(m, s.Addr())
	if err != nil {
		t.Fatalf("%s %s: %v", name, dns.TypeToString[typ], err)
	}
	return r
}

// client is a connection whose bytes the test sees.
type client struct {
	t testing.TB
	net.Conn
}

func dial(t testing.TB, s *Server) *client {
	t.Helper()
	c, err := net.Dial("tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return &client{t, c}
}

func (c *client) query(id uint16, name string, typ uint16) {
	c.t.Helper()
	if _, err := c.Write(question(c.t, id, name, typ)); err != nil {
		c.t.Fatal(err)
	}
}

// twice asks under the IDs 1 and 2 in one write, so that a server that resets
// the connection upon the first does not make the second fail.
func (c *client) twice(name string, typ uint16) {
	c.t.Helper()
	if _, err := c.Write(append(question(c.t, 1, name, typ), question(c.t, 2, name, typ)...)); err != nil {
		c.t.Fatal(err)
	}
}

func question(t testing.TB, id uint16, name string, typ uint16) []byte {
	t.Helper()
	m := new(dns.Msg)
	m.SetQuestion(dns.Fqdn(name), typ)
	m.Id = id
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)
}

func (c *client) read() []byte {
	c.t.Helper()
	b, err := c.tryRead()
	if err != nil {
		c.t.Fatal(err)
	}
	return b
}

func (c *client) tryRead() ([]byte, error) {
	var n [2]byte
	if _, err := io.ReadFull(c, n[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint16(n[:]))
	got, err := io.ReadFull(c, b)
	return b[:got], err
}

func id(b []byte) uint16 { return binary.BigEndian.Uint16(b) }

// aplEntries returns what a message's APL records hold, as miekg/dns reads them.
func aplEntries(t testing.TB, rrs []dns.RR) []Entry {
	t.Helper()
	var out []Entry
	for _, rr := range rrs {
		apl, ok := rr.(*dns.APL)
		if !ok {
			t.Fatalf("a %s record among the APL records", dns.TypeToString[rr.Header().Rrtype])
		}
		for _, p := range apl.Prefixes {
			a, _ := netip.AddrFromSlice(p.Network.IP)
			bits, _ := p.Network.Mask.Size()
			out = append(out, Entry{Prefix: netip.PrefixFrom(a, bits), Not: p.Negation})
		}
	}
	return out
}

// fetch walks a list's layout by hand and returns its entries in order.
func fetch(t testing.TB, s *Server, name string, siblings ...string) []Entry {
	t.Helper()
	var out []Entry
	if ptr := ask(t, s, name, dns.TypePTR); len(ptr.Answer) > 0 {
		for _, rr := range ptr.Answer {
			part := ask(t, s, rr.(*dns.PTR).Ptr, dns.TypeAPL)
			out = append(out, aplEntries(t, part.Answer)...)
		}
		return out
	}
	if apl := ask(t, s, name, dns.TypeAPL); len(apl.Answer) > 0 {
		return aplEntries(t, apl.Answer)
	}
	for _, typ := range []uint16{dns.TypeA, dns.TypeAAAA} {
		for _, n := range append([]string{name}, siblings...) {
			for _, rr := range ask(t, s, n, typ).Answer {
				var ip net.IP
				switch rr := rr.(type) {
				case *dns.A:
					ip = rr.A.To4()
				case *dns.AAAA:
					ip = rr.AAAA
				}
				a, _ := netip.AddrFromSlice(ip)
				out = append(out, Entry{Prefix: netip.PrefixFrom(a, a.BitLen())})
			}
		}
	}
	return out
}

func entries(t testing.TB, texts ...string) []Entry {
	t.Helper()
	out, err := ReadPrefixes(strings.NewReader(strings.Join(texts, "\n")), "entries")
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// random returns n different entries of both families.
func random(n int, seed uint64, hosts bool) []Entry {
	r := rand.New(rand.NewPCG(seed, 1))
	seen := make(map[Entry]bool, n)
	out := make([]Entry, 0, n)
	for len(out) < n {
		var e Entry
		if r.IntN(4) > 0 {
			bits := 32
			if !hosts {
				bits = 8 + r.IntN(25)
			}
			a := netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, r.Uint32())))
			e.Prefix = netip.PrefixFrom(a, bits).Masked()
		} else {
			bits := 128
			if !hosts {
				bits = 16 + r.IntN(113)
			}
			b := binary.BigEndian.AppendUint64(nil, 0x20010db8<<32|uint64(r.Uint32()))
			b = binary.BigEndian.AppendUint64(b, r.Uint64())
			e.Prefix = netip.PrefixFrom(netip.AddrFrom16([16]byte(b)), bits).Masked()
		}
		e.Not = !hosts && r.IntN(10) == 0
		if !seen[e] {
			seen[e] = true
			out = append(out, e)
		}
	}
	return out
}

// diff is cmp.Diff for entries, and fast where there is none.
func diff(want, got []Entry) string {
	if slices.Equal(want, got) {
		return ""
	}
	return cmp.Diff(want, got, cmpopts.EquateComparable(Entry{}))
}

func byFamily(in []Entry) []Entry {
	out := slices.Clone(in)
	slices.SortStableFunc(out, func(a, b Entry) int { return a.Prefix.Addr().BitLen() - b.Prefix.Addr().BitLen() })
	return out
}

func TestLayouts(t *testing.T) {
	mixed, hosts := random(5000, 1, false), random(9000, 2, true)
	var siblings []string
	for i := 1; i <= 4; i++ {
		siblings = append(siblings, fmt.Sprintf("basic%d", i))
	}
	tests := []struct {
		name string
		list List
		want []Entry
	}{
		{"parts", List{Entries: mixed}, mixed},
		{"parts of one", List{Entries: mixed[:70], PartSize: 1}, mixed[:70]},
		{"parts, records of 64", List{Entries: mixed, ItemsPerRecord: 64}, mixed},
		{"parts, an empty list", List{}, nil},
		{"parts by other names", List{Entries: mixed[:20], PartSize: 3, PartLabel: func(n int) string { return fmt.Sprintf("Z-%d", 100-n) }}, mixed[:20]},
		{"apl", List{Layout: dnsfetch.LayoutAPL, Entries: mixed[:3000]}, mixed[:3000]},
		{"apl, several records", List{Layout: dnsfetch.LayoutAPL, Entries: mixed[:3000], ItemsPerRecord: 7}, mixed[:3000]},
		{"apl, an empty list", List{Layout: dnsfetch.LayoutAPL}, nil},
		{"addresses", List{Layout: dnsfetch.LayoutAddresses, Entries: hosts[:900]}, hosts[:900]},
		{"addresses and siblings", List{Layout: dnsfetch.LayoutAddresses, Entries: hosts, Siblings: siblings}, hosts},
		{"IPv6 addresses alone at a sibling", List{Layout: dnsfetch.LayoutAddresses, Siblings: siblings, PartSize: 1,
			Entries: entries(t, "192.0.2.1", "2001:db8::1", "2001:db8::2")}, entries(t, "192.0.2.1", "2001:db8::1", "2001:db8::2")},
	}
	s := start(t, Options{Zone: "example"})
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := tt.list
			l.Name = "Basic.Example"
			set(t, s, l)
			want := tt.want
			var names []string
			if l.Layout == dnsfetch.LayoutAddresses {
				want = byFamily(want)
				for _, sib := range siblings {
					names = append(names, sib+".example")
				}
			}
			if d := diff(want, fetch(t, s, "basic.example", names...)); d != "" {
				t.Error(d)
			}
			s.Remove(l.Name)
			if r := ask(t, s, "basic.example", dns.TypePTR); r.Rcode != dns.RcodeNameError {
				t.Errorf("removed, the list answers %s", dns.RcodeToString[r.Rcode])
			}
		})
	}
}

func TestAnswersOfExactSize(t *testing.T) {
	s := start(t, Options{})
	const name = "large.example"
	for _, per := range []int{0, 1, 7, 64} {
		sizes := []int{65535, 65534, 65533, 65532, 65531, 65530, 65529, 65528, 65527, 40000, 16385, 513}
		for _, size := range sizes {
			es, err := Fill(name, size, per)
			if err != nil {
				t.Errorf("%d items a record: %v", per, err)
				continue
			}
			set(t, s, List{Name: name, Layout: dnsfetch.LayoutAPL, Entries: es, ItemsPerRecord: per})
			c := dial(t, s)
			c.query(1, name, dns.TypeAPL)
			b := c.read()
			m := new(dns.Msg)
			if err := m.Unpack(b); err != nil {
				t.Fatalf("%d bytes, %d items a record: %v", size, per, err)
			}
			if len(b) != size {
				t.Errorf("an answer of %d bytes, not %d", len(b), size)
			}
			if d := diff(es, aplEntries(t, m.Answer)); d != "" {
				t.Errorf("%d bytes, %d items a record: %s", size, per, d)
			}
			seen := make(map[Entry]bool)
			for _, e := range es {
				if seen[e] {
					t.Fatalf("%d bytes, %d items a record: %v twice", size, per, e)
				}
				seen[e] = true
			}
			c.Close()
		}
	}
	for _, size := range []int{0, 12, 44, 52, 65536, 1 << 20} {
		if es, err := Fill(name, size, 0); err == nil {
			t.Errorf("%d entries make an answer of %d bytes", len(es), size)
		}
	}
	// One more entry than the longest answer holds is refused, not cut.
	es, err := Fill(name, 65535, 0)
	if err != nil {
		t.Fatal(err)
	}
	es = append(es, entries(t, "11.0.0.0/8")...)
	if err := s.Set(List{Name: name, Layout: dnsfetch.LayoutAPL, Entries: es}); err == nil {
		t.Error("a list over 65,535 bytes was taken")
	}
}

func TestSetRefuses(t *testing.T) {
	many := random(30_000, 3, true)
	tests := []struct {
		name  string
		lists []List
		want  string // in the error
	}{
		{"no name", []List{{}}, "list without a name"},
		{"a label too long", []List{{Name: strings.Repeat("a", 64) + ".example"}}, "name"},
		{"outside the zone", []List{{Name: "block.example.org"}}, "block.example.org is not below the zone example"},
		{"a zone's name as a mere ending", []List{{Name: "block.notexample"}}, "is not below the zone example"},
		{"the zone itself", []List{{Name: "example"}}, "example is not below the zone example"},
		{"a zero entry", []List{{Name: "b.example", Entries: make([]Entry, 1)}}, "entry 1: no prefix"},
		{"host bits", []List{{Name: "b.example", Entries: []Entry{{Prefix: netip.MustParsePrefix("10.1.2.3/8")}}}},
			"entry 1: 10.1.2.3/8 has host bits set; 10.0.0.0/8 is meant"},
		{"more parts than a PTR answer holds", []List{{Name: "b.example", Entries: many, PartSize: 10}}, "use parts of 11 entries or more"},
		{"parts larger than a message", []List{{Name: "b.example", Entries: many, PartSize: 9000}}, "use smaller parts"},
		{"apl larger than a message", []List{{Name: "b.example", Entries: many, Layout: dnsfetch.LayoutAPL}}, "cut the list in parts"},
		{"a network as an address", []List{{Name: "b.example", Entries: entries(t, "10.0.0.0/8"), Layout: dnsfetch.LayoutAddresses}},
			"10.0.0.0/8 cannot be an address record"},
		{"a negated address", []List{{Name: "b.example", Entries: entries(t, "!10.0.0.1"), Layout: dnsfetch.LayoutAddresses}},
			"!10.0.0.1 cannot be an address record"},
		{"too few siblings", []List{{Name: "b.example", Entries: many, Layout: dnsfetch.LayoutAddresses, Siblings: []string{"b1"}}},
			"30000 addresses do not fit at the name and 1 siblings"},
		{"a sibling twice", []List{{Name: "b.example", Entries: many[:30], PartSize: 1, Layout: dnsfetch.LayoutAddresses,
			Siblings: slices.Repeat([]string{"b1"}, 40)}}, "b1.example: named twice"},
		{"part labels that repeat", []List{{Name: "b.example", Entries: many[:3], PartSize: 1,
			PartLabel: func(int) string { return "x" }}}, "x.b.example: named twice"},
		{"a part label of two", []List{{Name: "b.example", PartLabel: func(int) string { return "x.y" }}}, "is not one label"},
		{"two lists of one name", []List{{Name: "b.example"}, {Name: "B.example."}}, "belongs to list b.example"},
		{"another list's name", []List{{Name: "001-netb.other.example"}}, "belongs to list other.example"},
		{"an unknown layout", []List{{Name: "b.example", Layout: 77}}, "unknown layout 77"},
		{"a negative size", []List{{Name: "b.example", PartSize: -1}}, "negative"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := start(t, Options{Zone: "example"})
			set(t, s, List{Name: "other.example"})
			err := s.Set(append([]List{{Name: "good.example"}}, tt.lists...)...)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, want an error with %q", err, tt.want)
			}
			if got := s.Lists(); !slices.Equal(got, []string{"other.example"}) {
				t.Errorf("serves %v: the good list of a bad set was taken", got)
			}
		})
	}
}

func TestNegativeAnswers(t *testing.T) {
	s := start(t, Options{Zone: "example"})
	set(t, s, List{Name: "block.customer.example", Layout: dnsfetch.LayoutAPL})
	tests := []struct {
		name  string
		typ   uint16
		rcode int
		soa   bool
	}{
		{"block.customer.example", dns.TypePTR, dns.RcodeSuccess, true},
		{"customer.example", dns.TypePTR, dns.RcodeSuccess, true}, // something is below it
		{"tomer.example", dns.TypePTR, dns.RcodeNameError, true},
		{"x.block.customer.example", dns.TypeAPL, dns.RcodeNameError, true},
		{"example", dns.TypeAPL, dns.RcodeSuccess, true},
		{"example.org", dns.TypeAPL, dns.RcodeRefused, false},
		{"block.customer.example", dns.TypeANY, dns.RcodeRefused, false},
		{"example", dns.TypeAXFR, dns.RcodeRefused, false},
	}
	for _, tt := range tests {
		r := ask(t, s, tt.name, tt.typ)
		if r.Rcode != tt.rcode || len(r.Answer) != 0 || (len(r.Ns) == 1) != tt.soa {
			t.Errorf("%s %s: %v", tt.name, dns.TypeToString[tt.typ], r)
		}
	}
	for _, typ := range []uint16{dns.TypeSOA, dns.TypeNS} {
		if r := ask(t, s, "Example", typ); len(r.Answer) != 1 || r.Answer[0].Header().Rrtype != typ {
			t.Errorf("example %s: %v", dns.TypeToString[typ], r)
		}
	}
}

func TestOddQueries(t *testing.T) {
	s := start(t, Options{})
	set(t, s, List{Name: "block.example"})
	good := new(dns.Msg)
	good.SetQuestion("block.example.", dns.TypePTR)
	edit := func(f func([]byte) []byte) []byte {
		b, err := good.Pack()
		if err != nil {
			t.Fatal(err)
		}
		return f(b)
	}
	tests := []struct {
		name  string
		query []byte
		rcode int // -1: the connection ends
	}{
		{"as it should be", edit(func(b []byte) []byte { return b }), dns.RcodeSuccess},
		{"no question", edit(func(b []byte) []byte { b[5] = 0; return b[:12] }), dns.RcodeFormatError},
		{"two questions", edit(func(b []byte) []byte { b[5] = 2; return append(b, b[12:]...) }), dns.RcodeFormatError},
		{"a question cut short", edit(func(b []byte) []byte { return b[:len(b)-1] }), dns.RcodeFormatError},
		{"a compressed question", edit(func(b []byte) []byte { return append(b[:12:12], 0xc0, 12, 0, 12, 0, 1) }), dns.RcodeFormatError},
		{"a label over the end", edit(func(b []byte) []byte { b[12] = 60; return b }), dns.RcodeFormatError},
		{"class CHAOS", edit(func(b []byte) []byte { b[len(b)-1] = 3; return b }), dns.RcodeRefused},
		{"an update", edit(func(b []byte) []byte { b[2] = 5 << 3; return b }), dns.RcodeNotImplemented},
		{"a response", edit(func(b []byte) []byte { b[2] |= 0x80; return b }), -1},
		{"less than a header", []byte("short"), -1},
		{"nothing at all", nil, -1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := dial(t, s)
			c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(tt.query))), tt.query...))
			b, err := c.tryRead()
			if tt.rcode < 0 {
				if err == nil {
					t.Fatalf("answered %x", b)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := int(b[3] & 15); got != tt.rcode {
				t.Errorf("answered %s, not %s", dns.RcodeToString[got], dns.RcodeToString[tt.rcode])
			}
		})
	}
}

func TestQuestionKeepsItsCase(t *testing.T) {
	s := start(t, Options{})
	set(t, s, List{Name: "block.example", Entries: entries(t, "192.0.2.0/24")})
	r := ask(t, s, "bLoCk.eXample", dns.TypePTR)
	if r.Question[0].Name != "bLoCk.eXample." || len(r.Answer) != 1 {
		t.Fatal(r)
	}
	if got := r.Answer[0].(*dns.PTR).Ptr; got != "001-netb.bLoCk.eXample." {
		t.Errorf("PTR target %s", got)
	}
	r = ask(t, s, "001-NETB.block.example", dns.TypeAPL)
	if len(r.Answer) != 1 {
		t.Error(r)
	}
}

func TestUDPSendsToTCP(t *testing.T) {
	s := start(t, Options{})
	set(t, s, List{Name: "block.example"})
	m := new(dns.Msg)
	m.SetQuestion("block.example.", dns.TypePTR)
	c := dns.Client{Timeout: patience}
	r, _, err := c.Exchange(m, s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	if !r.Truncated || r.Rcode != dns.RcodeSuccess || len(r.Answer) != 0 {
		t.Error(r)
	}
	if st := s.Stats(); st.UDP != 1 || st.TCP != 0 {
		t.Errorf("%+v", st)
	}
}

func TestOtherClientsAreRefused(t *testing.T) {
	for _, tt := range []struct {
		clients string
		rcode   int
	}{
		{"127.0.0.0/8", dns.RcodeSuccess},
		{"192.0.2.0/24", dns.RcodeRefused},
	} {
		s := start(t, Options{Clients: []netip.Prefix{netip.MustParsePrefix(tt.clients)}})
		set(t, s, List{Name: "block.example"})
		if r := ask(t, s, "block.example", dns.TypePTR); r.Rcode != tt.rcode {
			t.Errorf("clients %s: %s", tt.clients, dns.RcodeToString[r.Rcode])
		}
	}
}

func TestIPv6(t *testing.T) {
	s, err := Start(Options{Addr: "[::1]:0"})
	if err != nil {
		t.Skip("no ::1 here: ", err)
	}
	defer s.Close()
	if !s.AddrPort().Addr().Is6() {
		t.Errorf("listens on %s", s.Addr())
	}
	want := entries(t, "2001:db8::/32", "!2001:db8:1::/48")
	set(t, s, List{Name: "block.example", Entries: want})
	if d := diff(want, fetch(t, s, "block.example")); d != "" {
		t.Error(d)
	}
}

func TestPipelining(t *testing.T) {
	s := start(t, Options{})
	want := random(500, 4, false)
	set(t, s, List{Name: "block.example", Entries: want, PartSize: 10})
	c := dial(t, s)
	go func() {
		for i := 1; i <= 50; i++ {
			c.query(uint16(i), fmt.Sprintf("%03d-netb.block.example", i), dns.TypeAPL)
		}
	}()
	var got []Entry
	for i := 1; i <= 50; i++ {
		b := c.read()
		m := new(dns.Msg)
		if err := m.Unpack(b); err != nil {
			t.Fatal(err)
		}
		if id(b) != uint16(i) {
			t.Fatalf("answer %d has ID %d", i, id(b))
		}
		got = append(got, aplEntries(t, m.Answer)...)
	}
	if d := diff(want, got); d != "" {
		t.Error(d)
	}
	if st := s.Stats(); st.Conns != 1 || st.TCP != 50 {
		t.Errorf("%+v", st)
	}
}

// A list that is replaced is always one or the other, and of the same set of
// lists, while clients ask.
func TestSetIsOneStep(t *testing.T) {
	s := start(t, Options{})
	versions := [2][]List{}
	for v := range versions {
		es := entries(t, fmt.Sprintf("192.0.2.%d", v+1))
		versions[v] = []List{
			{Name: "a.example", Layout: dnsfetch.LayoutAPL, Entries: es},
			{Name: "b.example", Layout: dnsfetch.LayoutAPL, Entries: append(es, es...)},
		}
	}
	set(t, s, versions[0]...)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				if err := s.Set(versions[i%2]...); err != nil {
					t.Error(err)
				}
			}
		}
	}()
	for range 200 {
		es := aplEntries(t, ask(t, s, "b.example", dns.TypeAPL).Answer)
		if len(es) != 2 || es[0] != es[1] {
			t.Fatalf("half a list: %v", es)
		}
	}
	close(stop)
	wg.Wait()
}

func TestListsMayTradeNames(t *testing.T) {
	s := start(t, Options{})
	hosts := entries(t, "192.0.2.1", "192.0.2.2")
	set(t, s, List{Name: "a.example", Layout: dnsfetch.LayoutAddresses, Entries: hosts, PartSize: 1, Siblings: []string{"b"}})
	if err := s.Set(List{Name: "b.example"}); err == nil {
		t.Error("a sibling's name was taken")
	}
	set(t, s, List{Name: "a.example"}, List{Name: "b.example"})
	if got := s.Lists(); !slices.Equal(got, []string{"a.example", "b.example"}) {
		t.Error(got)
	}
}

func TestDownAndUp(t *testing.T) {
	s := start(t, Options{})
	set(t, s, List{Name: "block.example"})
	addr := s.Addr()
	c := dial(t, s)
	c.query(1, "block.example", dns.TypePTR)
	c.read()
	s.Down()
	if _, err := c.tryRead(); err == nil {
		t.Error("a connection survived")
	}
	if c, err := net.Dial("tcp", addr); err == nil {
		c.Close()
		t.Error("connected to a server that is down")
	}
	if err := s.Up(); err != nil {
		t.Skip("another took the port: ", err)
	}
	if s.Addr() != addr {
		t.Errorf("up on %s, not %s", s.Addr(), addr)
	}
	if r := ask(t, s, "block.example", dns.TypePTR); len(r.Answer) != 1 {
		t.Error(r)
	}
	if err := s.Up(); err != nil {
		t.Errorf("up twice: %v", err)
	}
}

func TestClose(t *testing.T) {
	s := start(t, Options{})
	set(t, s, List{Name: "block.example"})
	s.Fail(On{}, Stall{})
	c := dial(t, s)
	c.query(1, "block.example", dns.TypePTR)
	closed := make(chan struct{})
	go func() { s.Close(); s.Close(); close(closed) }()
	select {
	case <-closed:
	case <-time.After(patience):
		t.Fatal("does not end")
	}
	if err := s.Up(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("up after close: %v", err)
	}
}

func TestStartRefuses(t *testing.T) {
	s := start(t, Options{})
	for _, o := range []Options{
		{Addr: s.Addr()},
		{Addr: "127.0.0.1"},
		{Zone: strings.Repeat("a", 64)},
	} {
		if s, err := Start(o); err == nil {
			s.Close()
			t.Errorf("%+v started", o)
		}
	}
}

func TestIdleConnectionsEnd(t *testing.T) {
	s := start(t, Options{Idle: 20 * time.Millisecond})
	c := dial(t, s)
	if _, err := c.tryRead(); !errors.Is(err, io.EOF) {
		t.Errorf("got %v", err)
	}
}

func TestQueryLog(t *testing.T) {
	var mu sync.Mutex
	var logged []Query
	s := start(t, Options{KeepQueries: 3, Log: func(q Query) { mu.Lock(); logged = append(logged, q); mu.Unlock() }})
	set(t, s, List{Name: "Block.Example", Entries: entries(t, "192.0.2.1", "192.0.2.2"), PartSize: 1})
	s.Fail(On{Part: 2}, Truncated{Keep: 1})
	s.Fail(On{Part: 2}, ServFail)
	c := dial(t, s)
	for i, name := range []string{"other.example", "block.example", "001-netb.block.example", "002-netb.block.example"} {
		typ := dns.TypeAPL
		if name == "block.example" {
			typ = dns.TypePTR
		}
		c.query(uint16(i), name, typ)
		c.read()
	}
	local := c.LocalAddr().(*net.TCPAddr).AddrPort()
	q := func(id uint16, name string, typ uint16, list string, part, rcode, records, bytes int, faults ...string) Query {
		return Query{Net: "tcp", Conn: 1, Remote: local, ID: id, Name: name, Type: typ, Class: 1, List: list, Part: part,
			Rcode: rcode, Records: records, Bytes: bytes, Faults: faults}
	}
	want := []Query{
		q(1, "block.example.", dns.TypePTR, "block.example", 0, 0, 2, 12+15+4+2*(12+11)),
		q(2, "001-netb.block.example.", dns.TypeAPL, "block.example", 1, 0, 1, 12+24+4+12+8),
		q(3, "002-netb.block.example.", dns.TypeAPL, "block.example", 2, dns.RcodeServerFailure, 0, 12+24+4,
			"Truncated{Keep:1}", "SERVFAIL"),
	}
	opts := cmp.Options{cmpopts.IgnoreFields(Query{}, "Time"), cmpopts.EquateComparable(netip.AddrPort{})}
	if d := cmp.Diff(want, s.Queries(), opts); d != "" {
		t.Error(d)
	}
	mu.Lock()
	if len(logged) != 4 {
		t.Errorf("Log was called for %d questions", len(logged))
	}
	mu.Unlock()
	if st := s.Stats(); st.TCP != 4 || st.Faulty != 1 || st.Conns != 1 || st.MaxOpen != 1 || st.Bytes == 0 {
		t.Errorf("%+v", st)
	}
	s.ResetStats()
	if st := s.Stats(); st != (Stats{}) || len(s.Queries()) != 0 {
		t.Errorf("after the reset: %+v", st)
	}
}

// FuzzQuery sends arbitrary queries: no query stops the server, and what it answers
// is a response to just that query, whole, and no longer than a message.
func FuzzQuery(f *testing.F) {
	s, err := newServer(Options{Zone: "example"})
	if err != nil {
		f.Fatal(err)
	}
	set(f, s, List{Name: "block.example", Entries: random(50, 1, false), PartSize: 20, ItemsPerRecord: 7},
		List{Name: "basic.example", Entries: random(9, 2, true), Layout: dnsfetch.LayoutAddresses})
	for _, name := range []string{"block.example.", "002-NETB.block.example.", "basic.example.", "example.", "example.org.", "."} {
		for _, typ := range []uint16{dns.TypePTR, dns.TypeAPL, dns.TypeA, dns.TypeANY} {
			m := new(dns.Msg)
			m.SetQuestion(name, typ)
			b, err := m.Pack()
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b)
		}
	}
	f.Add([]byte("\x00\x01\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\xc0\x0c\x00\x0c\x00\x01"))
	f.Fuzz(func(t *testing.T, m []byte) {
		q, ok := parseQuery(m)
		if !ok {
			return
		}
		a := s.resolve(&q, m)
		b := flatten(a.buffers())
		if len(b)-2 != int(binary.BigEndian.Uint16(b)) || len(b)-2 != q.Bytes {
			t.Fatalf("%d bytes behind a length of %d, %d logged", len(b)-2, binary.BigEndian.Uint16(b), q.Bytes)
		}
		b = b[2:]
		if id(b) != id(m) || b[2]&0x80 == 0 {
			t.Fatalf("not a response to %x: %x", m, b)
		}
		end := 12
		if b[5] == 1 {
			if end = questionEnd(m); end == 0 || string(b[12:end]) != string(m[12:end]) {
				t.Fatalf("not the question of %x: %x", m, b)
			}
		}
		for n := int(b[7]) + int(b[9]); n > 0; n-- {
			if _, end, err = dns.UnpackRR(b, end); err != nil {
				t.Fatalf("%x: %v", b, err)
			}
		}
		if end != len(b) {
			t.Fatalf("%d bytes left over: %x", len(b)-end, b)
		}
	})
}

func BenchmarkSetAndServe(b *testing.B) {
	es := random(1_000_000, 5, false)
	s := start(b, Options{})
	b.ReportAllocs()
	for b.Loop() {
		set(b, s, List{Name: "block.example", Entries: es})
		c := dial(b, s)
		c.query(1, "block.example", dns.TypePTR)
		c.read()
		parts := (len(es) + DefaultPartSize - 1) / DefaultPartSize
		go func() {
			for i := 1; i <= parts; i++ {
				c.query(uint16(i), fmt.Sprintf("%03d-netb.block.example", i), dns.TypeAPL)
			}
		}()
		for range parts {
			c.read()
		}
		c.Close()
	}
}
