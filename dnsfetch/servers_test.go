package dnsfetch

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
)

func TestParseServer(t *testing.T) {
	for _, tt := range []struct {
		in, host string
		isAddr   bool
		port     uint16
	}{
		{"192.0.2.1", "192.0.2.1", true, 0},
		{"192.0.2.1:5353", "192.0.2.1", true, 5353},
		{"::1", "::1", true, 0},
		{"[::1]", "::1", true, 0},
		{"[::1]:53", "::1", true, 53},
		{"fe80::1%em0", "fe80::1%em0", true, 0},
		{"[fe80::1%em0]:53", "fe80::1%em0", true, 53},
		{"::ffff:192.0.2.1", "192.0.2.1", true, 0},
		{"2001:db8::53", "2001:db8::53", true, 0},
		{"dns.threatstop.com", "dns.threatstop.com", false, 0},
		{"dns.threatstop.com.", "dns.threatstop.com.", false, 0},
		{"ts-dns:65535", "ts-dns", false, 65535},
		{"1st_server", "1st_server", false, 0},
	} {
		got, err := parseServer(tt.in)
		if err != nil {
			t.Errorf("%s: %v", tt.in, err)
			continue
		}
		if addr := got.addr.Addr(); addr.IsValid() != tt.isAddr || got.addr.Port() != tt.port || tt.isAddr && addr.String() != tt.host || !tt.isAddr && got.host != tt.host {
			t.Errorf("%s: got %+v", tt.in, got)
		}
	}
	for _, tt := range []struct{ in, say string }{
		{"", "neither an address nor a host name"},
		{"192.0.2.1:0", "port must be 1 to 65535"},
		{"192.0.2.1:65536", "port must be 1 to 65535"},
		{"192.0.2.1:domain", "port must be 1 to 65535"},
		{"192.0.2.1:", "port must be 1 to 65535"},
		{"192.0.2", "neither an address nor a host name"},
		{"192.0.2.256", "neither an address nor a host name"},
		{"192.0.2.1/32", "neither an address nor a host name"},
		{"2001:db8::53:5353:1:2:3:4:5", "[address]:port for IPv6"},
		{"[dns.example]:53", "neither an address nor a host name"},
		{"[::1", "[address]:port"},
		{"a b", "neither an address nor a host name"},
		{"a..b", "neither an address nor a host name"},
		{"https://dns.example", "port must be 1 to 65535"},
		{":53", "neither an address nor a host name"},
	} {
		got, err := parseServer(tt.in)
		if err == nil || !strings.Contains(err.Error(), tt.say) || !strings.Contains(err.Error(), strconv.Quote(tt.in)) {
			t.Errorf("%q: got %+v, error %v; want %q", tt.in, got, err, tt.say)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	ok := []string{"192.0.2.1"}
	for _, tt := range []struct {
		name string
		o    Options
		say  string
	}{
		{"no servers", Options{}, "no policy servers"},
		{"a bad server", Options{Servers: []string{"192.0.2.1", "x y"}}, `"x y"`},
		{"a sibling of two labels", Options{Servers: ok, Siblings: []string{"a.b"}}, `sibling "a.b"`},
		{"an empty sibling", Options{Servers: ok, Siblings: []string{""}}, `sibling ""`},
	} {
		if c, err := New(tt.o); err == nil || !strings.Contains(err.Error(), tt.say) {
			t.Errorf("%s: got %v, error %v; want %q", tt.name, c, err, tt.say)
		}
	}
}

// names is a resolver with a few answers.
type names map[string][]netip.Addr

func (n names) lookUp(_ context.Context, host string) ([]netip.Addr, error) {
	if addrs, ok := n[host]; ok {
		return addrs, nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: host, Server: "192.0.2.53:53", IsNotFound: true}
}

// TestOrder checks where lists are asked for, and in which order.
func TestOrder(t *testing.T) {
	addr := netip.MustParseAddr
	res := names{
		"two.example":   {addr("192.0.2.7"), addr("::ffff:192.0.2.8")},
		"six.example":   {addr("2001:db8::6")},
		"none.example":  {},
		"again.example": {addr("192.0.2.1")},
	}
	for _, tt := range []struct {
		name string
		o    Options
		last string
		want string
	}{
		{"default ports", Options{Servers: []string{"192.0.2.1", "2001:db8::1"}}, "",
			"192.0.2.1:53 [2001:db8::1]:53 192.0.2.1:5353 [2001:db8::1]:5353"},
		{"a port of its own", Options{Servers: []string{"192.0.2.1:99", "192.0.2.2"}}, "",
			"192.0.2.1:99 192.0.2.2:53 192.0.2.2:5353"},
		{"names", Options{Servers: []string{"two.example", "six.example:54"}}, "",
			"two.example[192.0.2.7]:53 two.example[192.0.2.8]:53 six.example[2001:db8::6]:54 two.example[192.0.2.7]:5353 two.example[192.0.2.8]:5353"},
		{"names that do not work out", Options{Servers: []string{"nx.example", "none.example", "192.0.2.1"}, Ports: []uint16{53}}, "",
			"nx.example:53(cannot look up the server's name: no such host) none.example:53(cannot look up the server's name: it has no addresses) 192.0.2.1:53"},
		{"nothing twice", Options{Servers: []string{"192.0.2.1", "again.example", "192.0.2.1:53", "::ffff:192.0.2.1"}}, "",
			"192.0.2.1:53 192.0.2.1:5353"},
		{"what worked last comes first", Options{Servers: []string{"192.0.2.1", "192.0.2.2"}}, "192.0.2.2:5353",
			"192.0.2.2:5353 192.0.2.1:53 192.0.2.2:53 192.0.2.1:5353"},
		{"a source address", Options{Servers: []string{"2001:db8::1", "192.0.2.1"}, Ports: []uint16{53}, Source: addr("192.0.2.9")}, "",
			"[2001:db8::1]:53(source address and server are of different families: source 192.0.2.9) 192.0.2.1:53"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.o.Resolver = res.lookUp
			c, err := New(tt.o)
			if err != nil {
				t.Fatal(err)
			}
			if tt.last != "" {
				c.last = endpoint{addr: netip.MustParseAddrPort(tt.last)}
			}
			var got []string
			for ep, err := range c.endpoints(t.Context()) {
				s := ep.String()
				if err != nil {
					s += "(" + err.Error() + ")"
				}
				got = append(got, s)
			}
			if s := strings.Join(got, " "); s != tt.want {
				t.Errorf("got  %s\nwant %s", s, tt.want)
			}
		})
	}
}

// closedPort returns the address of a port where nothing listens.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func portOf(addr string) uint16 { return netip.MustParseAddrPort(addr).Port() }

func refuse(w net.Conn, q fakeQuery) bool { return write(w, reply(q, dns.RcodeRefused)) }

func TestNextServer(t *testing.T) {
	good := serve(t, parts().serves)
	other := parts().apl(part1, "10.66.0.0/16") // gives something else, and fails at the last part
	bad := serve(t, other.with(part3+" APL", func(w net.Conn, q fakeQuery) bool { return write(w, reply(q, dns.RcodeServerFailure)) }))
	down := closedPort(t)
	c := client(t, Options{}, down, bad.addr, good.addr)
	for i := range 2 {
		l, err := c.Fetch(t.Context(), Request{Name: list})
		if err != nil {
			t.Fatal(err)
		}
		if got := entries(l); !slices.Equal(got, fields(partsEntries)) {
			t.Errorf("got %v", got)
		}
		if l.Server != good.addr {
			t.Errorf("from %s", l.Server)
		}
		switch {
		case i == 1 && l.Failed != nil:
			t.Errorf("the second list began with %v", l.Failed)
		case i == 1:
		case len(l.Failed) != 2 || l.Failed[0].Server != down || !errors.Is(l.Failed[0], ErrConnect) || !errors.Is(l.Failed[0], syscall.ECONNREFUSED) ||
			l.Failed[1].Server != bad.addr || !errors.Is(l.Failed[1], ErrServFail):
			t.Errorf("failed: %v", l.Failed)
		}
	}
	if n := bad.asked(list + " PTR"); n != 1 {
		t.Errorf("the server that failed was asked %d times", n)
	}
}

// TestBackToTheFirst checks that a server that worked is left when it fails, and that the
// others are tried in their order then.
func TestBackToTheFirst(t *testing.T) {
	up := true
	first := serve(t, parts().serves)
	second := serve(t, func(w net.Conn, q fakeQuery) bool {
		if !up {
			return refuse(w, q)
		}
		return parts().serves(w, q)
	})
	c := client(t, Options{}, first.addr, second.addr)
	c.last = endpoint{addr: netip.MustParseAddrPort(second.addr), fixed: true}
	for _, want := range []string{second.addr, second.addr, first.addr, first.addr} {
		if want == first.addr {
			up = false
		}
		l, err := c.Fetch(t.Context(), Request{Name: list})
		if err != nil || l.Server != want {
			t.Fatalf("from %v, error %v; want %s", l, err, want)
		}
	}
}

func TestNextPort(t *testing.T) {
	good := serve(t, parts().serves)
	c := client(t, Options{Ports: []uint16{portOf(closedPort(t)), portOf(good.addr)}}, "127.0.0.1")
	l, err := c.Fetch(t.Context(), Request{Name: list})
	if err != nil || l.Server != good.addr || len(l.Failed) != 1 {
		t.Errorf("got %v, error %v", l, err)
	}
}

func TestAllServersFail(t *testing.T) {
	down, refusing, short := closedPort(t), serve(t, refuse), serve(t, parts().with(part2+" APL", func(w net.Conn, q fakeQuery) bool {
		return write(w, parts().answer(q)[:50])
	}))
	alike := serve(t, refuse)
	c := client(t, Options{}, down, refusing.addr, short.addr, alike.addr)
	l, err := c.Fetch(t.Context(), Request{Name: list})
	if l != nil {
		t.Errorf("got %v", l)
	}
	for _, want := range []error{ErrConnect, syscall.ECONNREFUSED, ErrRefused, ErrAnswer} {
		if !errors.Is(err, want) {
			t.Errorf("%v is not %v", err, want)
		}
	}
	if errors.Is(err, ErrTimeout) {
		t.Errorf("%v is %v", err, ErrTimeout)
	}
	want := "list " + list + ": no server gave it: " +
		down + ": cannot connect: connect: connection refused; " +
		refusing.addr + ": query refused (REFUSED); " +
		short.addr + ": part " + part2 + ": unusable answer: it answers another question than " + part2 + " APL; " +
		alike.addr + ": query refused (REFUSED); " +
		"this device's public address may not be registered yet; new devices take up to an hour; on a relay, access-control must name this host"
	if err.Error() != want {
		t.Errorf("got  %s\nwant %s", err, want)
	}
}

func TestServerByName(t *testing.T) {
	good := serve(t, parts().serves)
	c := client(t, Options{
		Servers:  []string{"gone.example", "dns.example:" + strconv.Itoa(int(portOf(good.addr)))},
		Ports:    []uint16{1},
		Resolver: names{"dns.example": {netip.MustParseAddr("127.0.0.1")}}.lookUp,
	})
	l, err := c.Fetch(t.Context(), Request{Name: list})
	if err != nil {
		t.Fatal(err)
	}
	if want := "dns.example[127.0.0.1]:" + strconv.Itoa(int(portOf(good.addr))); l.Server != want {
		t.Errorf("from %s; want %s", l.Server, want)
	}
	if len(l.Failed) != 1 || !errors.Is(l.Failed[0], ErrLookup) || l.Failed[0].Server != "gone.example:1" {
		t.Errorf("failed: %v", l.Failed)
	}
}

func TestIPv6Server(t *testing.T) {
	s := serveOn(t, "[::1]:0", parts().serves)
	for _, c := range []*Client{client(t, Options{}, s.addr), client(t, Options{Ports: []uint16{portOf(s.addr)}}, "::1")} {
		if l, err := c.Fetch(t.Context(), Request{Name: list}); err != nil || l.Server != s.addr {
			t.Errorf("got %v, error %v", l, err)
		}
	}
}

func TestSource(t *testing.T) {
	var from net.Addr
	s := serve(t, func(w net.Conn, q fakeQuery) bool {
		from = w.RemoteAddr()
		return parts().serves(w, q)
	})
	local := netip.MustParseAddr("127.0.0.1")
	if _, err := client(t, Options{Source: local}, s.addr).Fetch(t.Context(), Request{Name: list}); err != nil {
		t.Fatal(err)
	}
	if a := from.(*net.TCPAddr).AddrPort().Addr(); a != local {
		t.Errorf("connected from %s", a)
	}
	_, err := client(t, Options{Source: netip.MustParseAddr("192.0.2.99")}, s.addr).Fetch(t.Context(), Request{Name: list})
	if e := (*Error)(nil); !errors.Is(err, ErrConnect) || !errors.Is(err, ErrNotLocal) || !errors.Is(err, syscall.EADDRNOTAVAIL) ||
		!errors.As(err, &e) || e.Kind != KindSource {
		t.Errorf("foreign source address: error %v", err)
	}
	// A name that cannot be looked up, and a server of the other family, are not the cause.
	o := Options{Source: netip.MustParseAddr("192.0.2.99"), Resolver: names{}.lookUp}
	_, err = client(t, o, "gone.example", s.addr, "[::1]:53").Fetch(t.Context(), Request{Name: list})
	if e := (*Error)(nil); !errors.As(err, &e) || e.Kind != KindSource {
		t.Errorf("foreign source address, beside others: error %v", err)
	}
	_, err = client(t, Options{Source: netip.MustParseAddr("2001:db8::1")}, s.addr).Fetch(t.Context(), Request{Name: list})
	if !errors.Is(err, ErrSource) || !strings.Contains(err.Error(), s.addr) {
		t.Errorf("source address of the other family: error %v", err)
	}
}

// Only the end of the time-out is "no answer within": an errno that means the same may come at once.
func TestConnectErrors(t *testing.T) {
	op := func(errno syscall.Errno) error {
		return &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", errno)}
	}
	a := &attempt{c: client(t, Options{Timeout: 10 * time.Second}, "192.0.2.1")}
	for _, tt := range []struct {
		name string
		err  error
		want string
	}{
		{"the deadline", &net.OpError{Op: "dial", Net: "tcp", Err: os.ErrDeadlineExceeded}, "cannot connect: timed out: no answer within 10s"},
		{"ETIMEDOUT", op(syscall.ETIMEDOUT), "cannot connect: connect: " + syscall.ETIMEDOUT.Error()},
		{"no address without a source", op(syscall.EADDRNOTAVAIL), "cannot connect: connect: " + syscall.EADDRNOTAVAIL.Error()},
	} {
		if got := a.connectError(tt.err); got.Error() != tt.want || !errors.Is(got, ErrConnect) {
			t.Errorf("%s: %v, want %s", tt.name, got, tt.want)
		}
	}
	// On a connection, too: the kernel has given up sending.
	a.ctx, a.progress, a.tries = t.Context(), true, maxTries
	if got := a.lost(op(syscall.ETIMEDOUT)); !errors.Is(got, ErrCut) || errors.Is(got, ErrTimeout) {
		t.Errorf("ETIMEDOUT on a connection: %v", got)
	}
}

// TestCancel ends the context while a server is silent.
func TestCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	silent := serve(t, func(w net.Conn, q fakeQuery) bool {
		if q.typ == dns.TypeAPL {
			cancel()
			return true
		}
		return parts().serves(w, q)
	})
	next := serve(t, parts().serves)
	l, err := client(t, Options{Timeout: time.Hour, ListTimeout: time.Hour}, silent.addr, next.addr).Fetch(ctx, Request{Name: list})
	if l != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, error %v", l, err)
	}
	if conns, _ := next.seen(); conns != 0 {
		t.Error("the next server was tried")
	}
	if _, err := client(t, Options{}, next.addr).Fetch(ctx, Request{Name: list}); !errors.Is(err, context.Canceled) {
		t.Errorf("context ended before: error %v", err)
	}
	late, stop := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer stop()
	mute := serve(t, func(net.Conn, fakeQuery) bool { return true })
	if _, err := client(t, Options{}, mute.addr).Fetch(late, Request{Name: list}); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrTimeout) {
		t.Errorf("context's own deadline: error %v", err)
	}
}

// Knows distinguishes the servers of the options from others.
func TestKnows(t *testing.T) {
	c, err := New(Options{Servers: []string{"192.0.2.1", "192.0.2.2:99", "2001:db8::1", "dns.example.net", "::ffff:192.0.2.3"}, Ports: []uint16{53, 5353}})
	if err != nil {
		t.Fatal(err)
	}
	for server, want := range map[string]bool{
		"192.0.2.1:53": true, "192.0.2.1:5353": true, "192.0.2.2:99": true, "[2001:db8::1]:53": true, "192.0.2.3:53": true,
		"dns.example.net[203.0.113.7]:53": true, "dns.example.net[2001:db8::7]:5353": true,
		"192.0.2.1:54": false, "192.0.2.2:53": false, "192.0.2.4:53": false, "": false, "192.0.2.1": false,
		"dns.example.net:53": false, "dns.example.net[x]:53": false, "dns.example.net[203.0.113.7]:54": false,
		"dns.example.net[203.0.113.7]:53x": false, "www.example.net[203.0.113.7]:53": false, "dns.example.net[203.0.113.7": false,
	} {
		if got := c.Knows(server); got != want {
			t.Errorf("%q: %v", server, got)
		}
	}
	if !c.Names() {
		t.Error("it has a name")
	}
}
