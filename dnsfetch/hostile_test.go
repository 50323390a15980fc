package dnsfetch_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"example.org/threatstopd/dnsfetch"
	"example.org/threatstopd/dnsfetch/dnstest"
)

// A policy server that means to keep an agent busy: it is given up when its time is
// over, and the list comes, whole, from the next one.
func TestHostileServers(t *testing.T) {
	one := dnstest.List{Name: name, Entries: prefixes(500)}
	most := dnstest.List{Name: name, Entries: prefixes(1000 * 5), PartSize: 5}
	for _, tt := range []struct {
		name  string
		list  dnstest.List
		fault dnstest.Fault
		opt   dnsfetch.Options
		want  string
	}{
		{"64 KiB a minute", one, dnstest.SlowDrip{Bytes: 11, Every: 10 * time.Millisecond},
			dnsfetch.Options{Timeout: time.Second, Pipeline: 1}, "bytes of an answer within 1s, then no more"},
		{"each of a thousand parts within its time", most, dnstest.Delay{For: 20 * time.Millisecond},
			dnsfetch.Options{Timeout: 5 * time.Second, ListTimeout: 3 * time.Second}, "the list was not complete within 3s"},
		{"each of a thousand parts a piece at a time", most, dnstest.SlowDrip{Bytes: 16, Every: 10 * time.Millisecond},
			dnsfetch.Options{Timeout: 5 * time.Second, ListTimeout: 3 * time.Second}, "the list was not complete within 3s"},
		{"a connection for each of a thousand parts, closed after it", most, dnstest.CloseAfter{},
			dnsfetch.Options{Timeout: 5 * time.Second, ListTimeout: 3 * time.Second}, "the list was not complete within 3s"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			bad, good := start(t, tt.list), start(t, tt.list)
			bad.Fail(dnstest.On{}, tt.fault)
			if _, ok := tt.fault.(dnstest.CloseAfter); ok {
				bad.Fail(dnstest.On{}, dnstest.Delay{For: 5 * time.Millisecond})
			}
			tt.opt.Servers = []string{bad.Addr(), good.Addr()}
			if tt.opt.ListTimeout == 0 {
				tt.opt.ListTimeout = time.Minute
			}
			c := newClient(t, tt.opt)
			l, err := c.Fetch(t.Context(), dnsfetch.Request{Name: name})
			if err != nil {
				t.Fatal(err)
			}
			if l.Server != good.Addr() || len(l.Failed) != 1 || !errors.Is(l.Failed[0], dnsfetch.ErrTimeout) || !strings.Contains(l.Failed[0].Error(), tt.want) {
				t.Errorf("from %s after %v, want %q", l.Server, l.Failed, tt.want)
			}
			if got := l.Len(); got != len(tt.list.Entries) {
				t.Errorf("%d entries, want %d", got, len(tt.list.Entries))
			}
			// It is asked first no more.
			if l, err = c.Fetch(t.Context(), dnsfetch.Request{Name: name}); err != nil || len(l.Failed) > 0 {
				t.Errorf("the next list: %v, after %v", err, l)
			}
		})
	}
}

// Servers of raw bytes: each must be given up before its bytes are taken for
// entries, or fill the memory.
func TestHostileBytes(t *testing.T) {
	list := dnstest.List{Name: name, Entries: prefixes(100)}
	for _, tt := range []struct {
		name  string
		serve func(c net.Conn)
	}{
		{"accepts and says nothing", func(c net.Conn) { io.Copy(io.Discard, c) }},
		{"zeros without end", func(c net.Conn) { flood(c, make([]byte, 64<<10)) }},
		{"messages without end that nobody asked for", func(c net.Conn) { flood(c, []byte("\x00\x0c\x12\x34\x80\x00\x00\x00\x00\x00\x00\x00\x00\x00")) }},
		{"the longest message, a byte of it", func(c net.Conn) { c.Write([]byte{0xff, 0xff, 0}); io.Copy(io.Discard, c) }},
		{"its own question, again and again", func(c net.Conn) { io.Copy(c, c) }},
		{"HTTP", func(c net.Conn) { flood(c, []byte("HTTP/1.1 400 Bad Request\r\n\r\n")) }},
		{"closes at once", func(net.Conn) {}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					go func() {
						defer c.Close()
						tt.serve(c)
					}()
				}
			}()
			good := start(t, list)
			c := newClient(t, dnsfetch.Options{Servers: []string{l.Addr().String(), good.Addr()}, Timeout: time.Second, ListTimeout: 20 * time.Second})
			got, err := c.Fetch(t.Context(), dnsfetch.Request{Name: name})
			if err != nil {
				t.Fatal(err)
			}
			if got.Server != good.Addr() || len(got.Failed) != 1 || got.Len() != len(list.Entries) {
				t.Errorf("%d entries from %s after %v", got.Len(), got.Server, got.Failed)
			}
			if text := got.Failed[0].Error(); len(text) > 500 || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' }) {
				t.Errorf("not one short line: %q", text)
			}
		})
	}
}

// flood writes b again and again until the peer has gone.
func flood(c net.Conn, b []byte) {
	for {
		if _, err := c.Write(b); err != nil {
			return
		}
	}
}

// manyAddresses is a resolver that has a great many addresses for each name.
func manyAddresses(context.Context, string) ([]netip.Addr, error) {
	all := make([]netip.Addr, 5000)
	for i := range all {
		all[i] = netip.AddrFrom4([4]byte{127, 0, 0, 1}) // the second time it is passed over
		if i > 0 {
			all[i] = netip.AddrFrom16([16]byte{0: 0xfd, 14: byte(i >> 8), 15: byte(i)})
		}
	}
	return all, nil
}

// A name with thousands of addresses, each of which may take its time, does not keep
// the next server from being asked.
func TestHostileResolver(t *testing.T) {
	good := start(t, dnstest.List{Name: name, Entries: prefixes(10)})
	c := newClient(t, dnsfetch.Options{Servers: []string{"many.example:1", good.Addr()}, Resolver: manyAddresses,
		Source: netip.MustParseAddr("127.0.0.1"), Timeout: 5 * time.Second})
	l, err := c.Fetch(t.Context(), dnsfetch.Request{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	if l.Server != good.Addr() || len(l.Failed) > 20 {
		t.Errorf("from %s after %d others", l.Server, len(l.Failed))
	}
}

// A list in as many parts as one answer can name is fetched, and refused as soon as it has more
// entries than the limit.
func TestMostParts(t *testing.T) {
	list := dnstest.List{Name: name, Entries: prefixes(2700), PartSize: 1}
	s := start(t, list)
	c := newClient(t, dnsfetch.Options{Servers: []string{s.Addr()}})
	l, err := c.Fetch(t.Context(), dnsfetch.Request{Name: name})
	if err != nil || l.Len() != 2700 {
		t.Fatal(l, err)
	}
	o := dnsfetch.Options{Servers: []string{s.Addr()}, MaxEntries: 2699}
	if _, err := newClient(t, o).Fetch(t.Context(), dnsfetch.Request{Name: name}); !errors.Is(err, dnsfetch.ErrTooLarge) {
		t.Errorf("more entries than allowed: %v", err)
	}
}
