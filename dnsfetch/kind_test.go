package dnsfetch

import (
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// TestKinds shows when a list that no server gives is known not to exist.
func TestKinds(t *testing.T) {
	says := func(rcode byte) handler { return raw(func(q fakeQuery) []byte { return reply(q, rcode) }) }
	nxdomain, nodata := says(dns.RcodeNameError), says(0)
	relayed := func(h handler, types ...uint16) handler { // without AA, for these types of question
		return func(w net.Conn, q fakeQuery) bool {
			if len(types) > 0 && q.typ != types[0] {
				return h(w, q)
			}
			m := reply(q, 0)
			m[2] &^= flagAA
			return write(w, m)
		}
	}
	both := func(w net.Conn, q fakeQuery) bool {
		if q.typ == dns.TypeAAAA {
			return nxdomain(w, q)
		}
		return nodata(w, q)
	}
	empty := zone{}.apl(list, "").serves
	lost := zone{}.ptr(list, part1).serves
	for _, tt := range []struct {
		name    string
		servers []handler
		want    Kind
		is      error
	}{
		{"NXDOMAIN", []handler{nxdomain}, KindNXDomain, ErrNXDomain},
		{"no data", []handler{nodata}, KindNoData, ErrNoRecords},
		{"NXDOMAIN of two servers", []handler{nxdomain, nxdomain}, KindNXDomain, ErrNXDomain},
		{"no data of two servers", []handler{nodata, nodata}, KindNoData, ErrNoRecords},
		{"one server NXDOMAIN, one no data", []handler{nodata, nxdomain}, KindNXDomain, ErrNXDomain},
		{"one type NXDOMAIN, others no data", []handler{both}, KindNXDomain, ErrNXDomain},
		{"no data, the other server is down", []handler{nodata, nil}, KindNoData, ErrConnect},
		{"NXDOMAIN, the other server is down", []handler{nil, nxdomain}, KindNXDomain, ErrConnect},
		{"NXDOMAIN, the other server fails", []handler{nxdomain, says(dns.RcodeServerFailure)}, KindFailed, ErrServFail},
		{"NXDOMAIN, the other server refuses", []handler{says(dns.RcodeRefused), nxdomain}, KindFailed, ErrRefused},
		{"no data of a relay", []handler{relayed(nodata)}, KindFailed, ErrNoRecords},
		{"no data, one answer of a relay", []handler{relayed(nodata, dns.TypeA)}, KindFailed, ErrNoRecords},
		{"no data of a server and of a relay", []handler{nodata, relayed(nodata)}, KindFailed, ErrNoRecords},
		{"NXDOMAIN for a part", []handler{lost}, KindFailed, ErrNXDomain},
		{"an empty block list", []handler{empty}, KindEmpty, ErrEmpty},
		{"an empty block list of two servers", []handler{empty, empty}, KindEmpty, ErrEmpty},
		{"one server empty, one no data", []handler{empty, nodata}, KindNXDomain, ErrEmpty},
		{"an empty block list, the other server is down", []handler{nil, empty}, KindEmpty, ErrEmpty},
		{"an empty block list, the other server fails", []handler{empty, says(dns.RcodeServerFailure)}, KindFailed, ErrEmpty},
		{"silence in place of an answer", []handler{func(net.Conn, fakeQuery) bool { return false }}, KindFailed, ErrCut},
		{"no server is up", []handler{nil, nil}, KindUnreached, ErrConnect},
		{"the one server is down", []handler{nil}, KindUnreached, ErrConnect},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var addrs []string
			for _, h := range tt.servers {
				if h == nil {
					addrs = append(addrs, closedPort(t))
				} else {
					addrs = append(addrs, serve(t, h).addr)
				}
			}
			l, err := client(t, Options{}, addrs...).Fetch(t.Context(), Request{Name: list})
			var e *Error
			if !errors.As(err, &e) || e.Kind != tt.want || !errors.Is(err, tt.is) {
				t.Fatalf("got %v, kind %d, error %v; want kind %d, %v", l, e.Kind, err, tt.want, tt.is)
			}
			if relay := strings.Contains(err.Error(), "not authoritative"); relay != strings.Contains(tt.name, "relay") {
				t.Errorf("error %v", err)
			}
		})
	}
}

// TestUnreachedName has no server but one whose name cannot be looked up.
func TestUnreachedName(t *testing.T) {
	_, err := client(t, Options{Servers: []string{"gone.example"}, Resolver: names{}.lookUp}).Fetch(t.Context(), Request{Name: list})
	var e *Error
	if !errors.As(err, &e) || e.Kind != KindUnreached || !errors.Is(err, ErrLookup) {
		t.Errorf("error %v", err)
	}
}

// A server that does not have a list is not asked again on its other port; one that fails is.
func TestOtherPort(t *testing.T) {
	says := func(rcode byte) handler { return raw(func(q fakeQuery) []byte { return reply(q, rcode) }) }
	for _, tt := range []struct {
		name  string
		h     handler
		asked int
	}{
		{"no such list", says(dns.RcodeNameError), 0},
		{"an empty list", zone{}.apl(list, "").serves, 0},
		{"refused", says(dns.RcodeRefused), 1},
	} {
		first, second := serve(t, tt.h), serve(t, tt.h)
		c := client(t, Options{Servers: []string{"127.0.0.1"}, Ports: []uint16{portOf(first.addr), portOf(second.addr)}})
		if l, err := c.Fetch(t.Context(), Request{Name: list}); err == nil {
			t.Errorf("%s: got %v", tt.name, l)
		}
		if conns, _ := second.seen(); conns != tt.asked {
			t.Errorf("%s: %d connections to the second port", tt.name, conns)
		}
	}
}
