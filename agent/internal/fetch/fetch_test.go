package fetch

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"example.org/threatstopd/agent/internal/privsep"
	"example.org/threatstopd/agent/internal/privsep/privseptest"
	"example.org/threatstopd/dnsfetch"
	"example.org/threatstopd/dnsfetch/dnstest"
)

// A list comes through the role as it comes without one.
func TestFetch(t *testing.T) {
	s := serve(t,
		dnstest.List{Name: listName, Entries: prefixes(t, 120_430), Layout: dnsfetch.LayoutParts},
		dnstest.List{Name: "apl.example.net", Entries: prefixes(t, 100), Layout: dnsfetch.LayoutAPL},
		dnstest.List{Name: "a.example.net", Entries: prefixes(t, 1), Layout: dnsfetch.LayoutAddresses},
		dnstest.List{Name: "empty.example.net", Layout: dnsfetch.LayoutAPL},
	)
	o := dnsfetch.Options{Servers: []string{"127.0.0.1:1", s.Addr()}}
	everyway(t, func(t *testing.T, starter privsep.Starter) {
		c := start(t, Options{Starter: starter, Fetch: o})
		for _, r := range []dnsfetch.Request{
			{Name: listName}, {Name: "apl.example.net"}, {Name: "a.example.net"}, {Name: "empty.example.net", AllowEmpty: true}, {Name: listName},
		} {
			want, err := direct(t, o, r)
			if err != nil {
				t.Fatal(err)
			}
			got, err := c.Fetch(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(sorted(got), sorted(want)) {
				t.Errorf("%s: other entries, %d of %d", r.Name, got.Len(), want.Len())
			}
			if got.Name != want.Name || got.Server != want.Server || got.Layout != want.Layout || got.Parts != want.Parts || got.Bytes == 0 || got.Elapsed == 0 {
				t.Errorf("got %+v, want %+v", got, want)
			}
			// The role remembers which server works.
			if first := r.Name == listName && len(got.Failed) > 0; first && got.Failed[0].Error() != want.Failed[0].Error() {
				t.Errorf("failed: %v, want %v", got.Failed, want.Failed)
			}
		}
		one := start(t, Options{Starter: starter, Fetch: dnsfetch.Options{Servers: []string{s.Addr()}}})
		for _, r := range []dnsfetch.Request{{Name: "none.example.net"}, {Name: "empty.example.net"}, {Name: "..", AllowEmpty: true}, {Name: ""}} {
			_, want := direct(t, dnsfetch.Options{Servers: []string{s.Addr()}}, r)
			_, err := one.Fetch(t.Context(), r)
			same(t, err, want)
		}
		_, err := c.Fetch(t.Context(), dnsfetch.Request{Name: "a\nb"})
		if !errors.Is(err, dnsfetch.ErrName) || strings.Contains(strings.ReplaceAll(err.Error(), "list a\nb", ""), "\n") {
			t.Errorf("%v", err)
		}
	})
}

func sorted(l *dnsfetch.List) []dnsfetch.Entry {
	all := slices.Concat(l.Chunks...)
	slices.SortFunc(all, func(a, b dnsfetch.Entry) int { return a.Prefix().Addr().Compare(b.Prefix().Addr()) }) // none is there twice
	return all
}

// Errors of servers are the same, with their kind and the advice in them.
func TestFetchErrors(t *testing.T) {
	s := serve(t, dnstest.List{Name: listName, Entries: prefixes(t, 2000), Layout: dnsfetch.LayoutParts})
	everyway(t, func(t *testing.T, starter privsep.Starter) {
		c := start(t, Options{Starter: starter, Fetch: dnsfetch.Options{Servers: []string{s.Addr()}}})
		for _, f := range []dnstest.Fault{dnstest.Refused, dnstest.ServFail, dnstest.Truncated{}, dnstest.CutBytes{Bytes: 1}, dnstest.NXDomain, dnstest.NoRecords{}} {
			s.Fail(dnstest.On{}, f)
			_, err := c.Fetch(t.Context(), dnsfetch.Request{Name: listName})
			_, want := direct(t, dnsfetch.Options{Servers: []string{s.Addr()}}, dnsfetch.Request{Name: listName})
			same(t, err, want)
			s.Heal()
		}
		if _, err := c.Fetch(t.Context(), dnsfetch.Request{Name: listName}); err != nil {
			t.Error(err)
		}
		down := start(t, Options{Starter: starter, Fetch: dnsfetch.Options{Servers: []string{"127.0.0.1:1", "127.0.0.1:2"}}})
		_, err := down.Fetch(t.Context(), dnsfetch.Request{Name: listName})
		_, want := direct(t, dnsfetch.Options{Servers: []string{"127.0.0.1:1", "127.0.0.1:2"}}, dnsfetch.Request{Name: listName})
		same(t, err, want)
		var e *dnsfetch.Error
		if errors.As(err, &e); e.Kind != dnsfetch.KindUnreached {
			t.Errorf("kind %d", e.Kind)
		}
		foreign := netip.MustParseAddr("192.0.2.99")
		c = start(t, Options{Starter: starter, Fetch: dnsfetch.Options{Servers: []string{s.Addr()}, Source: foreign}})
		if _, err := c.Fetch(t.Context(), dnsfetch.Request{Name: listName}); err != (SourceError{foreign}) {
			t.Errorf("from another host's address: %v", err)
		}
	})
}

// same checks that an error that crossed has the text and the kind of the one that it was.
func same(t *testing.T, got, want error) {
	t.Helper()
	var g, w *dnsfetch.Error
	if !errors.As(got, &g) || !errors.As(want, &w) || g.Error() != w.Error() || g.Kind != w.Kind {
		t.Errorf("error %v, want %v", got, want)
	}
}

func TestProgress(t *testing.T) {
	s := serve(t, dnstest.List{Name: listName, Entries: prefixes(t, 3000), Layout: dnsfetch.LayoutParts, PartSize: 10})
	everyway(t, func(t *testing.T, starter privsep.Starter) {
		c := start(t, Options{Starter: starter, Fetch: dnsfetch.Options{Servers: []string{s.Addr()}}})
		defer s.Heal()
		s.Fail(dnstest.On{}, dnstest.Delay{For: 2 * time.Millisecond})
		var last dnsfetch.Progress
		n := 0
		if _, err := c.Fetch(t.Context(), dnsfetch.Request{Name: listName, Progress: func(p dnsfetch.Progress) {
			n++
			if p.List != listName || p.Server != s.Addr() || p.Parts != 300 || p.Done < last.Done || p.Entries < last.Entries {
				t.Errorf("progress %+v after %+v", p, last)
			}
			last = p
		}}); err != nil {
			t.Fatal(err)
		}
		if n == 0 || n > 250 || last.Entries == 0 {
			t.Errorf("%d reports of progress, at last %+v", n, last)
		}
	})
}

// lookUp looks up one name.
func lookUp(c *Client, name string) ([]netip.Addr, error) {
	n := c.Lookup(context.Background(), []string{name})[0]
	if n.Err != "" {
		return nil, errors.New(n.Err)
	}
	return n.Addrs, nil
}

func TestLookup(t *testing.T) {
	everyway(t, func(t *testing.T, starter privsep.Starter) {
		c := start(t, Options{Starter: starter})
		for name, want := range map[string]string{
			"two.example.net":      "192.0.2.1 2001:db8::1",
			"loopback.example.net": "127.0.0.1",
			"sunk.example.net":     "fe80::2",
		} {
			got, err := lookUp(c, name)
			if err != nil || strings.Trim(fmt.Sprint(got), "[]") != want {
				t.Errorf("%s: %v, %v, want %s", name, got, err, want)
			}
		}
		if got, err := lookUp(c, "many.example.net"); err != nil || len(got) != maxAddrs {
			t.Errorf("%d addresses, %v", len(got), err)
		}
		// All at once, in their order.
		all := []string{"none.example.net", "nowhere.example.net", "odd.example.net", "loopback.example.net", "a\nb"}
		for i, want := range []string{"no such host", "no usable address", `odd\x0athing\x1b`, "", "no such host"} {
			if got := c.Lookup(t.Context(), all)[i]; got.Err != want {
				t.Errorf("%q: %v, want %q", all[i], got, want)
			}
		}
		if got := c.Lookup(t.Context(), nil); len(got) != 0 {
			t.Errorf("no names: %v", got)
		}
		got := c.Lookup(t.Context(), make([]string, maxNames+1))
		if len(got) != maxNames+1 {
			t.Fatalf("%d results", len(got))
		}
		says(t, errors.New(got[0].Err), "65 names to look up, at most 64 are")
		// Names that are given up are given up by the role.
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(20*time.Millisecond, cancel)
		if got := c.Lookup(ctx, []string{"slow.example.net", "two.example.net"}); got[0].Err != context.Canceled.Error() {
			t.Errorf("given up: %v", got)
		}
		if _, err := lookUp(c, "two.example.net"); err != nil {
			t.Error(err)
		}
	})
}

// A list that main gives up is given up by the role, which fetches the next.
func TestFetchGivenUp(t *testing.T) {
	s := serve(t, dnstest.List{Name: listName, Entries: prefixes(t, 10), Layout: dnsfetch.LayoutAPL})
	everyway(t, func(t *testing.T, starter privsep.Starter) {
		starts := &named{Starter: starter, as: []string{Role}}
		c := start(t, Options{Starter: starts, Fetch: dnsfetch.Options{Servers: []string{s.Addr()}}})
		s.Fail(dnstest.On{}, dnstest.Silence{})
		for range 3 {
			ctx, cancel := context.WithCancelCause(t.Context())
			time.AfterFunc(20*time.Millisecond, func() { cancel(errors.New("enough")) })
			_, err := c.Fetch(ctx, dnsfetch.Request{Name: listName})
			if err == nil || err.Error() != "list "+listName+": enough" {
				t.Error(err)
			}
		}
		s.Heal()
		if _, err := c.Fetch(t.Context(), dnsfetch.Request{Name: listName}); err != nil {
			t.Error(err)
		}
		if starts.runs != 1 {
			t.Errorf("%d processes", starts.runs)
		}
	})
}

// If anything happens to the role, main has an error that says so, and the next process works.
func TestRoleDies(t *testing.T) {
	s := serve(t, dnstest.List{Name: listName, Entries: prefixes(t, 10), Layout: dnsfetch.LayoutAPL})
	everyway(t, func(t *testing.T, starter privsep.Starter) {
		var mu sync.Mutex
		var reports []string
		c := start(t, Options{
			Starter: &named{Starter: starter, as: []string{"attack ends within a list", Role}},
			Fetch:   dnsfetch.Options{Servers: []string{s.Addr()}},
			Down:    func(reason string) { mu.Lock(); reports = append(reports, "down: "+reason); mu.Unlock() },
			Up:      func() { mu.Lock(); reports = append(reports, "up"); mu.Unlock() },
		})
		_, err := c.Fetch(t.Context(), dnsfetch.Request{Name: listName})
		says(t, err, "list "+listName+": fetch process: ", "had enough")
		var e *dnsfetch.Error
		if !errors.Is(err, ErrRole) || !errors.As(err, &e) {
			t.Errorf("%#v", err)
		}
		l, err := c.Fetch(t.Context(), dnsfetch.Request{Name: listName})
		if err != nil || l.Len() != 10 {
			t.Errorf("%v, %v", l, err)
		}
		c.Close()
		mu.Lock()
		defer mu.Unlock()
		if len(reports) != 3 || reports[0] != "up" || !strings.Contains(reports[1], "down: ") || reports[2] != "up" {
			t.Errorf("reports %q", reports)
		}
		if _, err := c.Fetch(t.Context(), dnsfetch.Request{Name: listName}); !errors.Is(err, ErrRole) {
			t.Errorf("a client that was closed: %v", err)
		}
		_, err = lookUp(c, "two.example.net")
		says(t, err, ErrRole.Error())
	})
}

// A process of its own is killed when it does not stop, and when it does not end.
func TestRoleThatDoesNotStop(t *testing.T) {
	everyway(t, func(t *testing.T, starter privsep.Starter) {
		up := make(chan struct{})
		c := start(t, Options{Starter: &named{Starter: starter, as: []string{"attack says nothing"}}, Once: true, Up: func() { close(up) }})
		c.patience = 30 * time.Millisecond
		<-up // else it would not be asked, and had nothing to give up
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		_, err := c.Fetch(ctx, dnsfetch.Request{Name: listName})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		_, err = c.Fetch(t.Context(), dnsfetch.Request{Name: listName})
		says(t, err, "fetch process: did not give up a request: killed")

		c = start(t, Options{Starter: &named{Starter: starter, as: []string{"attack says nothing"}}, Once: true})
		c.limit = 30 * time.Millisecond
		_, err = c.Fetch(t.Context(), dnsfetch.Request{Name: listName})
		says(t, err, "fetch process: no answer within 30ms: killed")
	})
}

func TestRoleThatCannotBeStarted(t *testing.T) {
	c := start(t, Options{Starter: privseptest.InProcess(nil), Once: true})
	_, err := c.Fetch(t.Context(), dnsfetch.Request{Name: listName})
	says(t, err, "fetch process: cannot be started")
	if _, err := New(t.Context(), Options{Starter: privseptest.InProcess(nil), Fetch: dnsfetch.Options{Servers: []string{"a b"}}}); err == nil {
		t.Error("a server that cannot be was taken")
	}
}

// Nothing that the role says is read before main is confined; and giving up before that works.
func TestHold(t *testing.T) {
	everyway(t, func(t *testing.T, starter privsep.Starter) {
		hold := make(chan struct{})
		up := make(chan struct{})
		reads := &reading{Starter: starter}
		c := start(t, Options{Starter: reads, Hold: hold, Up: func() { close(up) }})
		select {
		case <-up:
			t.Error("it is up before it may be heard")
		case <-time.After(100 * time.Millisecond):
		}
		if reads.read() {
			t.Error("it was read from")
		}
		close(hold)
		if got, err := lookUp(c, "loopback.example.net"); err != nil || len(got) != 1 {
			t.Errorf("%v, %v", got, err)
		}
		if !reads.read() {
			t.Error("the test sees no reads")
		}
		c = start(t, Options{Starter: starter, Hold: make(chan struct{})})
		ended := make(chan struct{})
		go func() { c.Close(); close(ended) }()
		select {
		case <-ended:
		case <-time.After(time.Minute):
			t.Fatal("does not end")
		}
	})
}

// reading sees whether anybody reads from a role.
type reading struct {
	privsep.Starter
	mu   sync.Mutex
	seen bool
}

func (r *reading) read() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.seen
}

func (r *reading) Start(role string, files []*os.File) (privsep.Child, error) {
	c, err := r.Starter.Start(role, files)
	if err != nil {
		return nil, err
	}
	return readChild{c, readConn{c.Conn(), r}}, nil
}

type readChild struct {
	privsep.Child
	conn net.Conn
}

func (c readChild) Conn() net.Conn { return c.conn }

type readConn struct {
	net.Conn
	r *reading
}

func (c readConn) Read(b []byte) (int, error) {
	c.r.mu.Lock()
	c.r.seen = true
	c.r.mu.Unlock()
	return c.Conn.Read(b)
}

// confiner notes what a role gives up, and when.
type confiner struct {
	mu    sync.Mutex
	calls []string
}

func (c *confiner) Confine(role string, f privsep.Confinement) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls = append(c.calls, fmt.Sprintf("%s names=%t uid=%d", role, f.Names, f.UID))
	if f.UID == 666 {
		return errors.New("setresuid: operation not permitted")
	}
	return nil
}

func TestConfined(t *testing.T) {
	for _, c := range []struct {
		servers []string
		f       privsep.Confinement
		want    string
	}{
		{[]string{"127.0.0.1:9", "::1"}, privsep.Confinement{UID: 77}, "fetch names=false uid=77"},
		{[]string{"127.0.0.1:9", "dns.example.net"}, privsep.Confinement{}, "fetch names=true uid=0"},
		{[]string{"127.0.0.1:9"}, privsep.Confinement{Names: true}, "fetch names=true uid=0"},
	} {
		at := &confiner{}
		client := start(t, Options{
			Starter: privseptest.InProcess(map[string]privsep.Body{Role: Body(at, hosts)}),
			Fetch:   dnsfetch.Options{Servers: c.servers}, Confinement: c.f,
		})
		if _, err := lookUp(client, "two.example.net"); err != nil {
			t.Fatal(err)
		}
		client.Close()
		if len(at.calls) != 1 || at.calls[0] != c.want {
			t.Errorf("%q, want %q", at.calls, c.want)
		}
	}
	client := start(t, Options{
		Starter:     privseptest.InProcess(map[string]privsep.Body{Role: Body(&confiner{}, hosts)}),
		Confinement: privsep.Confinement{UID: 666}, Once: true,
	})
	_, err := client.Fetch(t.Context(), dnsfetch.Request{Name: listName})
	says(t, err, "fetch process: ", "setresuid: operation not permitted")
}

// A policy server given by name is looked up by the role.
func TestServerByName(t *testing.T) {
	s := serve(t, dnstest.List{Name: listName, Entries: prefixes(t, 10), Layout: dnsfetch.LayoutAPL})
	port := netip.MustParseAddrPort(s.Addr()).Port()
	everyway(t, func(t *testing.T, starter privsep.Starter) {
		c := start(t, Options{Starter: starter, Fetch: dnsfetch.Options{Servers: []string{fmt.Sprintf("loopback.example.net:%d", port)}}})
		l, err := c.Fetch(t.Context(), dnsfetch.Request{Name: listName})
		if err != nil || l.Server != fmt.Sprintf("loopback.example.net[127.0.0.1]:%d", port) {
			t.Errorf("%+v, %v", l, err)
		}
		c = start(t, Options{Starter: starter, Fetch: dnsfetch.Options{Servers: []string{"none.example.net"}, Ports: []uint16{1}}})
		_, err = c.Fetch(t.Context(), dnsfetch.Request{Name: listName})
		says(t, err, "server none.example.net:1: cannot look up the server's name: no such host")
	})
}

func BenchmarkFetch(b *testing.B) {
	for _, n := range []int{26_424, 120_430} {
		s := serve(b, dnstest.List{Name: listName, Entries: prefixes(b, n), Layout: dnsfetch.LayoutParts})
		b.Run(fmt.Sprintf("entries=%d", n), func(b *testing.B) {
			c := start(b, Options{Starter: privsep.Exec(), Fetch: dnsfetch.Options{Servers: []string{s.Addr()}}})
			b.ReportAllocs()
			for b.Loop() {
				if l, err := c.Fetch(b.Context(), dnsfetch.Request{Name: listName}); err != nil || l.Len() != n {
					b.Fatal(l, err)
				}
			}
		})
	}
}

// BenchmarkCross is a list of a million entries that the role has already: the way to main alone.
func BenchmarkCross(b *testing.B) {
	c := start(b, Options{Starter: &named{Starter: privsep.Exec(), as: []string{"attack has a million entries"}}})
	b.ReportAllocs()
	for b.Loop() {
		if l, err := c.Fetch(b.Context(), dnsfetch.Request{Name: listName}); err != nil || l.Len() != 1_000_000 {
			b.Fatal(l, err)
		}
	}
}

// BenchmarkStart is a process from its start until it has answered, and its end.
func BenchmarkStart(b *testing.B) {
	for b.Loop() {
		c := start(b, Options{Starter: privsep.Exec(), Once: true})
		if _, err := lookUp(c, "loopback.example.net"); err != nil {
			b.Fatal(err)
		}
		c.Close()
	}
}
