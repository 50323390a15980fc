package dnsfetch_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/miekg/dns"

	"example.org/threatstopd/dnsfetch"
	"example.org/threatstopd/dnsfetch/dnstest"
)

const name = "block.org.threatstop.local"

// prefixes returns n different IPv4 networks of the lengths that lists have.
func prefixes(n int) []dnstest.Entry {
	out := make([]dnstest.Entry, n)
	for i := range out {
		v := uint32(i)*256 + 16<<24
		bits := 24
		if i%4 == 0 {
			bits = 32
			v += uint32(i%254 + 1)
		}
		a := netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
		out[i].Prefix = netip.PrefixFrom(a, bits)
	}
	return out
}

func start(t testing.TB, lists ...dnstest.List) *dnstest.Server {
	t.Helper()
	s, err := dnstest.Start(dnstest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	if err := s.Set(lists...); err != nil {
		t.Fatal(err)
	}
	return s
}

func newClient(t testing.TB, o dnsfetch.Options) *dnsfetch.Client {
	t.Helper()
	if o.Timeout == 0 {
		o.Timeout = 30 * time.Second
	}
	c, err := dnsfetch.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// sorted returns entries in an order of their own, repetitions included.
func sorted[E fmt.Stringer](entries []E) []string {
	var out []string
	for _, e := range entries {
		out = append(out, e.String())
	}
	slices.Sort(out)
	return out
}

// TestRandomLists serves lists of all sorts and sizes, and fetches what was served.
func TestRandomLists(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	siblings := []string{"block1", "block2", "block3", "block4"}
	for i := range 30 {
		l := dnstest.List{Name: name, Layout: dnsfetch.Layout(1 + i%3), Siblings: siblings}
		n := 1 + rnd.IntN(3000)
		hosts := l.Layout == dnsfetch.LayoutAddresses
		for range n {
			var b [16]byte
			for i := range b {
				b[i] = byte(rnd.Uint32())
			}
			a := netip.AddrFrom16(b)
			if rnd.IntN(3) > 0 {
				a = netip.AddrFrom4([4]byte(b[:4]))
			}
			bits := rnd.IntN(a.BitLen() + 1)
			if hosts {
				bits = a.BitLen()
			}
			l.Entries = append(l.Entries, dnstest.Entry{Prefix: netip.PrefixFrom(a, bits).Masked(), Not: !hosts && rnd.IntN(10) == 0})
		}
		l.PartSize = 1 + n/(1+rnd.IntN(40))
		if hosts {
			l.PartSize = 1 + n/(1+rnd.IntN(4))
		}
		l.ItemsPerRecord = rnd.IntN(70)
		s := start(t, l)
		switch rnd.IntN(4) {
		case 0:
			s.Fail(dnstest.On{}, dnstest.HostBits{})
		case 1:
			s.Fail(dnstest.On{}, dnstest.TrailingZeros{})
		case 2:
			s.Fail(dnstest.On{}, dnstest.Late{})
		}
		c := newClient(t, dnsfetch.Options{Servers: []string{s.Addr()}, Siblings: siblings})
		got, err := c.Fetch(t.Context(), dnsfetch.Request{Name: name})
		if err != nil {
			t.Fatalf("list %d: %v", i, err)
		}
		if g, w := sorted(slices.Concat(got.Chunks...)), sorted(l.Entries); !slices.Equal(g, w) {
			t.Errorf("list %d, %v: got %d entries, want %d", i, l.Layout, len(g), len(w))
		}
		if got.Layout != l.Layout || got.Len() != n {
			t.Errorf("list %d: got %v of %d, want %v of %d", i, got.Layout, got.Len(), l.Layout, n)
		}
		s.Close()
	}
}

// TestFaults has each fault affect one of two servers at the list's third part, and sees that
// it is named and that the other server gives the whole list.
func TestFaults(t *testing.T) {
	list := dnstest.List{Name: name, Entries: prefixes(5000), PartSize: 500, ItemsPerRecord: 100}
	for _, tt := range []struct {
		fault dnstest.Fault
		want  error
		opt   dnsfetch.Options
	}{
		{dnstest.Refused, dnsfetch.ErrRefused, dnsfetch.Options{}},
		{dnstest.ServFail, dnsfetch.ErrServFail, dnsfetch.Options{}},
		{dnstest.NXDomain, dnsfetch.ErrNXDomain, dnsfetch.Options{}},
		{dnstest.NotImp, dnsfetch.ErrRcode, dnsfetch.Options{}},
		{dnstest.NoRecords{}, dnsfetch.ErrNoRecords, dnsfetch.Options{}},
		{dnstest.Truncated{}, dnsfetch.ErrTruncated, dnsfetch.Options{}},
		{dnstest.Truncated{Keep: 2}, dnsfetch.ErrTruncated, dnsfetch.Options{}},
		{dnstest.WrongID{}, dnsfetch.ErrAnswer, dnsfetch.Options{}},
		{dnstest.WrongOpcode{}, dnsfetch.ErrAnswer, dnsfetch.Options{}},
		{dnstest.NotResponse{}, dnsfetch.ErrAnswer, dnsfetch.Options{}},
		{dnstest.WrongQuestion{}, dnsfetch.ErrAnswer, dnsfetch.Options{}},
		{dnstest.WrongQuestion{Type: dns.TypeA}, dnsfetch.ErrAnswer, dnsfetch.Options{}},
		{dnstest.NoQuestion{}, dnsfetch.ErrAnswer, dnsfetch.Options{}},
		{dnstest.WrongOwner{}, dnsfetch.ErrAnswer, dnsfetch.Options{}},
		{dnstest.WrongClass{}, dnsfetch.ErrAnswer, dnsfetch.Options{}},
		{dnstest.WrongType{}, dnsfetch.ErrAnswer, dnsfetch.Options{}},
		{dnstest.Alias{}, dnsfetch.ErrAnswer, dnsfetch.Options{}},
		{dnstest.CutRecords{Keep: 0}, dnsfetch.ErrAnswer, dnsfetch.Options{}},
		{dnstest.CutRecords{Keep: -1}, dnsfetch.ErrAnswer, dnsfetch.Options{}},
		{dnstest.CutBytes{Bytes: 1}, dnsfetch.ErrAnswer, dnsfetch.Options{}},
		{dnstest.Leftover{}, dnsfetch.ErrAnswer, dnsfetch.Options{}},
		{dnstest.RawAPL{Data: []byte{0, 9, 0, 0}}, dnsfetch.ErrAnswer, dnsfetch.Options{}},
		{dnstest.CutMessage{After: 100}, dnsfetch.ErrCut, dnsfetch.Options{}},
		{dnstest.WrongLength{Delta: -1}, dnsfetch.ErrAnswer, dnsfetch.Options{}},
		{dnstest.Stall{}, dnsfetch.ErrTimeout, dnsfetch.Options{Timeout: time.Second, Pipeline: 1}},
		{dnstest.SlowDrip{}, dnsfetch.ErrTimeout, dnsfetch.Options{Timeout: time.Second, Pipeline: 1}},
	} {
		t.Run(fmt.Sprintf("%T%v", tt.fault, tt.fault), func(t *testing.T) {
			t.Parallel()
			bad, good := start(t, list), start(t, list)
			on := bad.Fail(dnstest.On{Part: 3}, tt.fault)
			tt.opt.Servers = []string{bad.Addr(), good.Addr()}
			l, err := newClient(t, tt.opt).Fetch(t.Context(), dnsfetch.Request{Name: name})
			if err != nil {
				t.Fatal(err)
			}
			if on.Fired() == 0 {
				t.Error("the fault affected nothing")
			}
			if l.Server != good.Addr() || len(l.Failed) != 1 || !errors.Is(l.Failed[0], tt.want) {
				t.Errorf("from %s after %v; want %v", l.Server, l.Failed, tt.want)
			}
			if g, w := sorted(slices.Concat(l.Chunks...)), sorted(list.Entries); !slices.Equal(g, w) {
				t.Errorf("got %d entries, want %d", len(g), len(w))
			}
		})
	}
}

// TestPTRFaults are those of the names of parts.
func TestPTRFaults(t *testing.T) {
	s := start(t, dnstest.List{Name: name, Entries: prefixes(2000)})
	c := newClient(t, dnsfetch.Options{Servers: []string{s.Addr()}})
	for _, tt := range []struct {
		fault dnstest.Fault
		want  error
	}{
		{dnstest.PTRLoop{}, dnsfetch.ErrParts},
		{dnstest.PTRDuplicate{}, dnsfetch.ErrParts},
		{dnstest.PTROutside{}, dnsfetch.ErrParts},
		{dnstest.PTRMissing{}, dnsfetch.ErrNXDomain},
	} {
		s.Heal()
		s.Fail(dnstest.On{}, tt.fault)
		if l, err := c.Fetch(t.Context(), dnsfetch.Request{Name: name}); !errors.Is(err, tt.want) {
			t.Errorf("%T: got %v, error %v; want %v", tt.fault, l, err, tt.want)
		}
	}
}

// TestListIsReplaced publishes a list anew, with other parts, while it is fetched: what comes
// is all old or all new.
func TestListIsReplaced(t *testing.T) {
	old := dnstest.List{Name: name, Entries: prefixes(20000)}
	next := dnstest.List{Name: name, Entries: prefixes(30000)[15000:], PartLabel: func(n int) string { return fmt.Sprintf("%03d-new", n) }}
	s := start(t, old)
	s.Fail(dnstest.On{Part: 7, Nth: 1}, dnstest.Then{Do: func() {
		if err := s.Set(next); err != nil {
			t.Error(err)
		}
	}})
	l, err := newClient(t, dnsfetch.Options{Servers: []string{s.Addr()}}).Fetch(t.Context(), dnsfetch.Request{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	if g, w := sorted(slices.Concat(l.Chunks...)), sorted(next.Entries); !slices.Equal(g, w) || l.Restarts != 1 {
		t.Errorf("after %d restarts got %d entries, want %d", l.Restarts, len(g), len(w))
	}
}
