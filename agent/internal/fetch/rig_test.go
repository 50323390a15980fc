package fetch

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"example.org/threatstopd/agent/internal/privsep"
	"example.org/threatstopd/agent/internal/privsep/privseptest"
	"example.org/threatstopd/dnsfetch"
	"example.org/threatstopd/dnsfetch/dnstest"
)

// bodies are the roles that the test program can be started as: the real one, and what could
// become of it.
func bodies() map[string]privsep.Body {
	all := map[string]privsep.Body{Role: Body(nil, hosts)}
	for name, a := range attacks {
		all["attack "+name] = attacker(a.do)
	}
	return all
}

func TestMain(m *testing.M) {
	privsep.Serve(bodies())
	os.Exit(m.Run())
}

// hosts is the resolver.
func hosts(ctx context.Context, name string) ([]netip.Addr, error) {
	if strings.HasSuffix(name, "slow.example.net") {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	switch name {
	case "two.example.net":
		return []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("::ffff:192.0.2.1"), netip.MustParseAddr("2001:db8::1")}, nil
	case "loopback.example.net":
		return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
	case "sunk.example.net":
		return []netip.Addr{netip.MustParseAddr("0.0.0.0"), netip.MustParseAddr("::"), netip.MustParseAddr("fe80::1%em0").WithZone("").Next(), netip.MustParseAddr("224.0.0.1")}, nil
	case "nowhere.example.net":
		return []netip.Addr{netip.MustParseAddr("0.0.0.0")}, nil
	case "many.example.net":
		var all []netip.Addr
		for i := range 200 {
			all = append(all, netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}))
		}
		return all, nil
	case "odd.example.net":
		return nil, errors.New("odd\nthing\x1b")
	}
	return nil, &net.DNSError{Err: "no such host", Name: name, Server: "192.0.2.53:53", IsNotFound: true}
}

const listName = "basic.test.threatstop.local"

// named starts a role under another name.
type named struct {
	privsep.Starter
	mu   sync.Mutex
	as   []string // for the first processes, the last for all others
	runs int
}

func (n *named) Start(role string, files []*os.File) (privsep.Child, error) {
	if role != Role {
		return nil, errors.New("another role")
	}
	n.mu.Lock()
	as := n.as[min(n.runs, len(n.as)-1)]
	n.runs++
	n.mu.Unlock()
	return n.Starter.Start(as, files)
}

// everyway runs a test with the role as a process, and within this one.
func everyway(t *testing.T, test func(t *testing.T, s privsep.Starter)) {
	t.Run("process", func(t *testing.T) { test(t, privsep.Exec()) })
	t.Run("in process", func(t *testing.T) { test(t, privseptest.InProcess(bodies())) })
}

func serve(t testing.TB, lists ...dnstest.List) *dnstest.Server {
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

// start starts a role. Its end is looked at when the test ends.
func start(t testing.TB, o Options) *Client {
	t.Helper()
	if o.Fetch.Servers == nil {
		o.Fetch.Servers = []string{"127.0.0.1:9"}
	}
	if o.Fetch.Timeout == 0 {
		o.Fetch.Timeout = 20 * time.Second
	}
	c, err := New(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func prefixes(t testing.TB, n int) []dnstest.Entry {
	t.Helper()
	all := make([]dnstest.Entry, n)
	for i := range all {
		a := netip.AddrFrom4([4]byte{20, byte(i >> 16), byte(i >> 8), byte(i)})
		all[i] = dnstest.Entry{Prefix: netip.PrefixFrom(a, 32), Not: i%100 == 1}
	}
	if n > 10 {
		all[5] = dnstest.Entry{Prefix: netip.MustParsePrefix("2001:db8::/32")}
		all[7] = dnstest.Entry{Prefix: netip.MustParsePrefix("198.51.100.0/24")}
	}
	return all
}

// direct fetches without a role.
func direct(t testing.TB, o dnsfetch.Options, r dnsfetch.Request) (*dnsfetch.List, error) {
	t.Helper()
	o.Timeout = 20 * time.Second
	c, err := dnsfetch.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return c.Fetch(t.Context(), r)
}

func says(t *testing.T, err error, phrases ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	for _, p := range phrases {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("%q does not say %q", err, p)
		}
	}
}
