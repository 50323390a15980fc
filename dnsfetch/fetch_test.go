package dnsfetch

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

const (
	list  = "tsblock.org.threatstop.local"
	part1 = "001-netb." + list
	part2 = "002-netb." + list
	part3 = "003-netb." + list
)

// noResolver fails the test when it is asked.
func noResolver(t testing.TB) func(context.Context, string) ([]netip.Addr, error) {
	return func(_ context.Context, host string) ([]netip.Addr, error) {
		t.Errorf("the resolver was asked about %q", host)
		return nil, net.UnknownNetworkError("none")
	}
}

// parts is a list in three parts.
func parts() zone {
	return zone{}.ptr(list, part1, part2, part3).
		apl(part1, "192.0.2.0/24 !192.0.2.1/32", "2001:db8::/32").apl(part2, "198.51.100.0/24").
		apl(part3, "203.0.113.0/25", "!2001:db8:1::/48 203.0.113.128/25")
}

const partsEntries = "192.0.2.0/24 !192.0.2.1/32 2001:db8::/32 198.51.100.0/24 203.0.113.0/25 203.0.113.128/25 !2001:db8:1::/48"

func TestLayouts(t *testing.T) {
	siblings := []string{"tsblock", "tsblock1", "tsblock2", "tsblock3", "tsblockade", "other1", "TSBLOCK1"}
	at := func(label string) string { return label + ".org.threatstop.local" }
	for _, tt := range []struct {
		name   string
		zone   zone
		req    Request
		want   string
		layout Layout
		parts  int
		log    string // questions in order
	}{
		{
			name: "parts", zone: parts(), want: partsEntries, layout: LayoutParts, parts: 3,
			log: "tsblock PTR, 001-netb.tsblock APL, 002-netb.tsblock APL, 003-netb.tsblock APL, tsblock PTR",
		},
		{
			name: "parts are followed literally", zone: zone{}.ptr(list, `A\.b\ c\200.`+list).apl(`a\.b\ c\200.`+list, "192.0.2.0/24"),
			want: "192.0.2.0/24", layout: LayoutParts, parts: 1,
			log: `tsblock PTR, a\.b\ c\200.tsblock APL, tsblock PTR`,
		},
		{
			name: "one part explicitly empty", zone: zone{}.ptr(list, part1, part2).apl(part1, "").apl(part2, "192.0.2.0/24"),
			want: "192.0.2.0/24", layout: LayoutParts, parts: 2,
			log: "tsblock PTR, 001-netb.tsblock APL, 002-netb.tsblock APL, tsblock PTR",
		},
		{
			name: "APL at the name", zone: zone{}.apl(list, "192.0.2.0/24 2001:db8::/32", "!192.0.2.1/32"),
			want: "192.0.2.0/24 2001:db8::/32 !192.0.2.1/32", layout: LayoutAPL, parts: 1,
			log: "tsblock PTR, tsblock APL",
		},
		{
			name: "A only", zone: zone{}.addr(list, "192.0.2.1", "192.0.2.2"),
			want: "192.0.2.1/32 192.0.2.2/32", layout: LayoutAddresses, parts: 1,
			log: "tsblock PTR, tsblock APL, tsblock A, tsblock AAAA, tsblock1 A, tsblock1 AAAA, tsblock2 A, tsblock2 AAAA, tsblock3 A, tsblock3 AAAA",
		},
		{
			name: "AAAA only", zone: zone{}.addr(list, "2001:db8::1"),
			want: "2001:db8::1/128", layout: LayoutAddresses, parts: 1,
			log: "tsblock PTR, tsblock APL, tsblock A, tsblock AAAA, tsblock1 A, tsblock1 AAAA, tsblock2 A, tsblock2 AAAA, tsblock3 A, tsblock3 AAAA",
		},
		{
			name: "A and AAAA with siblings", zone: zone{}.addr(list, "192.0.2.1", "2001:db8::1").
				addr(at("tsblock1"), "192.0.2.2").addr(at("tsblock3"), "2001:db8::3").addr(at("other1"), "192.0.2.99"),
			want: "192.0.2.1/32 2001:db8::1/128 192.0.2.2/32 2001:db8::3/128", layout: LayoutAddresses, parts: 3,
			log: "tsblock PTR, tsblock APL, tsblock A, tsblock AAAA, tsblock1 A, tsblock1 AAAA, tsblock2 A, tsblock2 AAAA, tsblock3 A, tsblock3 AAAA",
		},
		{
			name: "another list's siblings", zone: zone{}.addr(at("allow"), "192.0.2.1").addr(at("tsblock1"), "192.0.2.99"),
			req: Request{Name: at("allow")}, want: "192.0.2.1/32", layout: LayoutAddresses, parts: 1,
			log: "allow PTR, allow APL, allow A, allow AAAA",
		},
		{
			name: "empty allow list", zone: zone{}.apl(list, ""), req: Request{AllowEmpty: true},
			layout: LayoutAPL, parts: 1, log: "tsblock PTR, tsblock APL",
		},
		{
			name: "empty allow list in parts", zone: zone{}.ptr(list, part1).apl(part1, "", ""), req: Request{AllowEmpty: true},
			layout: LayoutParts, parts: 1, log: "tsblock PTR, 001-netb.tsblock APL, tsblock PTR",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := serve(t, tt.zone.serves)
			req := tt.req
			if req.Name == "" {
				req.Name = list
			}
			c := client(t, Options{Siblings: siblings}, s.addr)
			l, err := c.Fetch(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			if got := entries(l); !slices.Equal(got, fields(tt.want)) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
			if l.Layout != tt.layout || l.Parts != tt.parts || l.Len() != len(fields(tt.want)) {
				t.Errorf("got layout %v, %d parts, %d entries; want %v, %d", l.Layout, l.Parts, l.Len(), tt.layout, tt.parts)
			}
			if l.Name != req.Name || l.Server != s.addr || l.Bytes <= 0 || l.Elapsed <= 0 || l.Failed != nil {
				t.Errorf("got %+v", l)
			}
			conns, log := s.seen()
			if got := strings.ReplaceAll(strings.Join(log, ", "), ".org.threatstop.local", ""); got != tt.log || conns != 1 {
				t.Errorf("%d connections, asked %s", conns, got)
			}
		})
	}
}

// TestLenient shows what is no error.
func TestLenient(t *testing.T) {
	z := zone{}.apl(list, "192.0.2.0/24")
	upper := func(m []byte) []byte { // what 0x20 hardening does to names
		for i := headerLen; i < headerLen+len(list); i += 2 {
			if 'a' <= m[i] && m[i] <= 'z' {
				m[i] -= 'a' - 'A'
			}
		}
		return m
	}
	full := func(w net.Conn, q fakeQuery) bool {
		m := add(reply(q, 0), q, atAnswer, rr{owner: strings.ToUpper(list), rdata: mustAPL("192.0.2.0/24")})
		m = add(m, q, atAuthority, rr{owner: "threatstop.local", typ: dns.TypeNS, rdata: mustPack("ns.threatstop.local")})
		m = add(m, q, atAdditional,
			rr{owner: "ns.threatstop.local", typ: dns.TypeA, rdata: []byte{192, 0, 2, 53}},
			rr{owner: ".", typ: dns.TypeOPT, class: 4096})
		return write(w, m)
	}
	for _, tt := range []struct {
		name   string
		handle handler
	}{
		{"question and owner in another case", z.with(list+" APL", z.changed(upper))},
		{"owner written out, authority and additional records", z.with(list+" APL", full)},
		{"not authoritative, recursion available, authentic data", z.changed(func(m []byte) []byte {
			m[2] &^= flagAA
			m[3] |= 0xa0
			return m
		})},
		{"host bits and trailing zeros", z.with(list+" APL", func(w net.Conn, q fakeQuery) bool {
			return write(w, add(reply(q, 0), q, atAnswer, rr{rdata: []byte{0, 1, 24, 4, 192, 0, 2, 77}}))
		})},
		{"a message in single bytes", func(w net.Conn, q fakeQuery) bool {
			m := z.answer(q)
			m = append(binary.BigEndian.AppendUint16(nil, uint16(len(m))), m...)
			for i := range m {
				if _, err := w.Write(m[i : i+1]); err != nil {
					return false
				}
			}
			return true
		}},
		{"NXDOMAIN for types that the server does not know", func(w net.Conn, q fakeQuery) bool {
			if q.typ == dns.TypePTR {
				return write(w, reply(q, dns.RcodeNameError))
			}
			return z.serves(w, q)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := serve(t, tt.handle)
			l, err := client(t, Options{}, s.addr).Fetch(t.Context(), Request{Name: list + "."})
			if err != nil {
				t.Fatal(err)
			}
			if got := entries(l); !slices.Equal(got, fields("192.0.2.0/24")) {
				t.Errorf("got %v", got)
			}
		})
	}
}

// raw answers with m, as it is.
func raw(m func(q fakeQuery) []byte) handler {
	return func(w net.Conn, q fakeQuery) bool { return write(w, m(q)) }
}

// TestTraps has every way in which a server can be wrong about a list.
func TestTraps(t *testing.T) {
	z := parts()
	rcode := func(n byte) handler { return raw(func(q fakeQuery) []byte { return reply(q, n) }) }
	ptr := func(targets ...string) handler { return zone{}.ptr(list, targets...).serves }
	changed := func(mutate func(m []byte) []byte) handler { return z.with(part2+" APL", z.changed(mutate)) }
	records := func(rrs ...rr) handler {
		return z.with(part2+" APL", raw(func(q fakeQuery) []byte { return add(reply(q, 0), q, atAnswer, rrs...) }))
	}
	good := mustAPL("198.51.100.0/24")

	for _, tt := range []struct {
		name   string
		handle handler
		opt    Options
		want   error
		say    string // in the message
		part   string
	}{
		// What the server says.
		{name: "REFUSED", handle: rcode(dns.RcodeRefused), want: ErrRefused,
			say: "this device's public address may not be registered yet; new devices take up to an hour"},
		{name: "REFUSED without question", handle: raw(func(q fakeQuery) []byte {
			return append(slices.Clone(q.msg[:2]), 0x80, 5, 0, 0, 0, 0, 0, 0, 0, 0)
		}), want: ErrRefused, say: "up to an hour; on a relay, access-control must name this host"},
		{name: "REFUSED for a part", handle: z.with(part2+" APL", rcode(dns.RcodeRefused)), want: ErrRefused, part: part2},
		{name: "SERVFAIL", handle: rcode(dns.RcodeServerFailure), want: ErrServFail,
			say: "server failure (SERVFAIL); a relay answers so when its server fails, or when its msg-buffer-size is too small for the list"},
		{name: "NOTAUTH", handle: rcode(dns.RcodeNotAuth), want: ErrRcode, say: "NOTAUTH"},
		{name: "an rcode without a name", handle: rcode(12), want: ErrRcode, say: "RCODE12"},
		{name: "NXDOMAIN", handle: rcode(dns.RcodeNameError), want: ErrNXDomain, say: "check the list's name"},
		{name: "NXDOMAIN with records", handle: z.with(part2+" APL", z.changed(func(m []byte) []byte {
			m[3] |= dns.RcodeNameError
			return m
		})), want: ErrRcode, say: "with 1 records", part: part2},
		{name: "NXDOMAIN of another question", handle: raw(func(q fakeQuery) []byte {
			m := reply(q, dns.RcodeNameError)
			m[headerLen+1] = 'x'
			return m
		}), want: ErrAnswer, say: "another question"},
		{name: "NOERROR without records", handle: rcode(0), want: ErrNoRecords, say: "NOERROR without an answer"},
		{name: "TC without records", handle: z.with(list+" PTR", raw(func(q fakeQuery) []byte {
			m := reply(q, 0)
			m[2] |= flagTC
			return m
		})), want: ErrTruncated, say: "64 KiB"},
		{name: "TC with records", handle: changed(func(m []byte) []byte { m[2] |= flagTC; return m }), want: ErrTruncated, part: part2},

		// The message.
		{name: "wrong ID", handle: changed(func(m []byte) []byte { m[0] ^= 0x55; return m }), want: ErrAnswer, say: "not asked"},
		{name: "a query", handle: changed(func(m []byte) []byte { m[2] &^= flagQR; return m }), want: ErrAnswer, say: "not a response", part: part2},
		{name: "a NOTIFY", handle: changed(func(m []byte) []byte { m[2] |= dns.OpcodeNotify << 3; return m }), want: ErrAnswer, say: "not a response", part: part2},
		{name: "no question", handle: z.with(part2+" APL", raw(func(q fakeQuery) []byte {
			m := reply(q, 0)[:headerLen]
			m[5] = 0
			return add(m, q, atAnswer, rr{owner: part2, rdata: good})
		})), want: ErrAnswer, say: "another question", part: part2},
		{name: "two questions", handle: changed(func(m []byte) []byte { m[5] = 2; return m }), want: ErrAnswer, say: "another question", part: part2},
		{name: "question for another name", handle: changed(func(m []byte) []byte { m[headerLen+1] = '9'; return m }),
			want: ErrAnswer, say: part2 + " APL", part: part2},
		{name: "question for another type", handle: changed(func(m []byte) []byte {
			m[headerLen+len(mustPack(part2))+1] = byte(dns.TypeA)
			return m
		}), want: ErrAnswer, say: "another question", part: part2},
		{name: "question in another class", handle: changed(func(m []byte) []byte {
			m[headerLen+len(mustPack(part2))+3] = dns.ClassCHAOS
			return m
		}), want: ErrAnswer, say: "another question", part: part2},
		{name: "the other part's answer", handle: func(w net.Conn, q fakeQuery) bool {
			if q.typ == dns.TypeAPL {
				o := q
				o.name = part1
				o.msg = question{mustName(part1), dns.TypeAPL}.appendQuery(nil, binary.BigEndian.Uint16(q.msg))[2:]
				return write(w, z.answer(o))
			}
			return z.serves(w, q)
		}, want: ErrAnswer, say: "another question"},
		{name: "fewer records than counted", handle: changed(func(m []byte) []byte { m[7]++; return m }),
			want: ErrAnswer, say: "answer record 2 of 2", part: part2},
		{name: "fewer authority records than counted", handle: changed(func(m []byte) []byte { m[9]++; return m }),
			want: ErrAnswer, say: "authority record 1 of 1", part: part2},
		{name: "fewer additional records than counted", handle: changed(func(m []byte) []byte { m[11]++; return m }),
			want: ErrAnswer, say: "additional record 1 of 1", part: part2},
		{name: "more records than counted", handle: z.with(part1+" APL", z.changed(func(m []byte) []byte { m[7]--; return m })),
			want: ErrAnswer, say: "left over", part: part1},
		{name: "one byte left over", handle: changed(func(m []byte) []byte { return append(m, 0) }), want: ErrAnswer, say: "1 bytes left over", part: part2},
		{name: "a message of no bytes", handle: changed(func([]byte) []byte { return nil }), want: ErrAnswer},
		{name: "a message of one byte", handle: changed(func(m []byte) []byte { return m[:1] }), want: ErrAnswer},
		{name: "a message of half a header", handle: changed(func(m []byte) []byte { return m[:6] }), want: ErrAnswer},

		// The records.
		{name: "another owner", handle: records(rr{owner: part1, rdata: good}), want: ErrAnswer, say: "another name", part: part2},
		{name: "another owner after a good one", handle: records(rr{rdata: good}, rr{owner: "x." + part2, rdata: good}),
			want: ErrAnswer, say: "answer record 2 of 2", part: part2},
		{name: "another class", handle: records(rr{class: dns.ClassCHAOS, rdata: good}), want: ErrAnswer, say: "another name, class", part: part2},
		{name: "another type", handle: records(rr{typ: dns.TypeTXT, rdata: []byte("\x03abc")}), want: ErrAnswer, say: "TXT", part: part2},
		{name: "A records for APL", handle: records(rr{typ: dns.TypeA, rdata: []byte{192, 0, 2, 1}}), want: ErrAnswer, say: "another name, class or type", part: part2},
		{name: "CNAME", handle: records(rr{typ: dns.TypeCNAME, rdata: mustPack(part1)}, rr{owner: part1, rdata: good}),
			want: ErrAnswer, say: "alias", part: part2},
		{name: "CNAME at the list", handle: z.with(list+" PTR", raw(func(q fakeQuery) []byte {
			return add(reply(q, 0), q, atAnswer, rr{typ: dns.TypeCNAME, rdata: mustPack("other.org.threatstop.local")})
		})), want: ErrAnswer, say: "alias"},
		{name: "DNAME", handle: records(rr{owner: list, typ: dns.TypeDNAME, rdata: mustPack("other.local")}), want: ErrAnswer, say: "alias", part: part2},
		{name: "owner that points at itself", handle: z.with(part2+" APL", raw(func(q fakeQuery) []byte {
			m := reply(q, 0)
			m[7] = 1
			return append(m, 0xc0, byte(len(m)), 0, 42, 0, 1, 0, 0, 0, 0, 0, 0)
		})), want: ErrAnswer, part: part2},
		{name: "owner of a label of unknown kind", handle: z.with(part2+" APL", raw(func(q fakeQuery) []byte {
			m := reply(q, 0)
			m[7] = 1
			return append(m, 0x80, 0, 0, 42, 0, 1, 0, 0, 0, 0, 0, 0)
		})), want: ErrAnswer, part: part2},
		{name: "rdata longer than the message", handle: changed(func(m []byte) []byte {
			m[len(m)-len(good)-1]++
			return m
		}), want: ErrAnswer, say: "answer record 1 of 1", part: part2},
		{name: "APL item cut", handle: records(rr{rdata: good[:len(good)-1]}), want: ErrAnswer, say: "item 1", part: part2},
		{name: "APL of an unknown family", handle: records(rr{rdata: []byte{0, 3, 8, 1, 10}}), want: ErrAnswer, say: "family 3", part: part2},
		{name: "A of 5 bytes", handle: raw(func(q fakeQuery) []byte {
			if q.typ == dns.TypeA {
				return add(reply(q, 0), q, atAnswer, rr{rdata: []byte{192, 0, 2, 1, 0}})
			}
			return reply(q, 0)
		}), want: ErrAnswer, say: "A record of 5 bytes"},
		{name: "AAAA of 4 bytes", handle: raw(func(q fakeQuery) []byte {
			if q.typ == dns.TypeAAAA {
				return add(reply(q, 0), q, atAnswer, rr{rdata: []byte{192, 0, 2, 1}})
			}
			return reply(q, 0)
		}), want: ErrAnswer, say: "AAAA record of 4 bytes"},
		{name: "PTR with bytes behind its name", handle: zone{list + " PTR": {append(mustPack(part1), 0)}}.serves, want: ErrAnswer, say: "1 bytes behind the name"},
		{name: "PTR that is cut", handle: zone{list + " PTR": {mustPack(part1)[:5]}}.serves, want: ErrAnswer},
		{name: "PTR without rdata", handle: zone{list + " PTR": {{}}}.serves, want: ErrAnswer},

		// The list.
		{name: "a part is missing", handle: zone{}.ptr(list, part1, part2).apl(part1, "192.0.2.0/24").serves, want: ErrNXDomain, part: part2},
		{name: "a part without APL", handle: zone{}.ptr(list, part1, part2).apl(part1, "192.0.2.0/24").addr(part2, "192.0.2.1").serves,
			want: ErrNoRecords, part: part2},
		{name: "a part is itself in parts", handle: zone{}.ptr(list, part1, part2).apl(part1, "192.0.2.0/24").ptr(part2, part1).serves,
			want: ErrParts, say: "PTR records in place of APL", part: part2},
		{name: "a part is the list", handle: ptr(part1, strings.ToUpper(list)), want: ErrParts, say: "it is the list"},
		{name: "a part twice", handle: ptr(part1, part2, strings.ToUpper(part1)), want: ErrParts, say: "named twice", part: part1},
		{name: "a part beside the list", handle: ptr(part1, "001.tsallow.org.threatstop.local"), want: ErrParts, say: "not below", part: "001.tsallow.org.threatstop.local"},
		{name: "a part above the list", handle: ptr("org.threatstop.local"), want: ErrParts, say: "not below", part: "org.threatstop.local"},
		{name: "a part elsewhere", handle: ptr("example.net"), want: ErrParts, say: "not below", part: "example.net"},
		{name: "a part whose name only ends like the list's", handle: ptr("x" + list), want: ErrParts, say: "not below", part: "x" + list},
		{name: "a part with the list's labels in one", handle: ptr(`x.` + strings.Replace(list, ".", `\.`, 1)), want: ErrParts, say: "not below"},
		{name: "the root for a part", handle: zone{list + " PTR": {{0}}}.serves, want: ErrParts, say: "not below"},
		{name: "empty APL", handle: zone{}.apl(list, "").serves, want: ErrEmpty, say: "allow lists only"},
		{name: "empty APL in all parts", handle: zone{}.ptr(list, part1, part2).apl(part1, "").apl(part2, "").serves, want: ErrEmpty},
		{name: "SERVFAIL at a sibling", handle: zone{}.addr(list, "192.0.2.1").with("tsblock1.org.threatstop.local A", rcode(dns.RcodeServerFailure)),
			opt: Options{Siblings: []string{"tsblock1"}}, want: ErrServFail, part: "tsblock1.org.threatstop.local"},
		{name: "SERVFAIL when asked again", handle: func(w net.Conn, q fakeQuery) bool {
			if q.typ == dns.TypePTR && q.nth > 0 {
				return write(w, reply(q, dns.RcodeServerFailure))
			}
			return z.serves(w, q)
		}, want: ErrServFail},

		// Limits.
		{name: "more parts than allowed", handle: zone{list + " PTR": slices.Repeat([][]byte{{0xc0, headerLen}}, maxParts+1)}.serves,
			want: ErrTooLarge, say: "limit of 4000"},
		{name: "more entries than allowed", handle: z.serves, opt: Options{MaxEntries: 6}, want: ErrTooLarge, say: "limit of 6"},

		// Time, and connections.
		{name: "a server that is silent", handle: z.with(part2+" APL", func(net.Conn, fakeQuery) bool { return true }),
			opt: Options{Timeout: time.Second}, want: ErrTimeout, say: "no answer within 1s"},
		{name: "a server that drips", handle: z.with(part2+" APL", func(w net.Conn, q fakeQuery) bool {
			m := z.answer(q)
			m = append(binary.BigEndian.AppendUint16(nil, uint16(len(m))), m...)
			for i := range m {
				if _, err := w.Write(m[i : i+1]); err != nil {
					return false
				}
				time.Sleep(50 * time.Millisecond)
			}
			return true
		}), opt: Options{Timeout: time.Second, Pipeline: 1}, want: ErrTimeout, say: "then no more"},
		{name: "a server that takes its time over each part", handle: func(w net.Conn, q fakeQuery) bool {
			time.Sleep(200 * time.Millisecond)
			return z.serves(w, q)
		}, opt: Options{ListTimeout: 500 * time.Millisecond}, want: ErrTimeout, say: "not complete within 500ms"},
		{name: "a connection cut in mid-message", handle: z.with(part2+" APL", func(w net.Conn, q fakeQuery) bool {
			m := z.answer(q)
			w.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(m))), m[:20]...))
			return false
		}), want: ErrCut, say: "22 bytes of it came"},
		{name: "a connection cut between the bytes of the length", handle: func(w net.Conn, q fakeQuery) bool {
			w.Write([]byte{0})
			return false
		}, want: ErrCut},
		{name: "a connection closed in place of an answer", handle: z.with(part2+" APL", func(net.Conn, fakeQuery) bool { return false }),
			opt: Options{Pipeline: 1}, want: ErrCut},
		{name: "a connection reset in place of an answer", handle: z.with(part2+" APL", func(w net.Conn, _ fakeQuery) bool {
			w.(*net.TCPConn).SetLinger(0)
			return false
		}), opt: Options{Pipeline: 1}, want: ErrCut, say: "reset"},
		{name: "a length of more than there is", handle: z.with(part2+" APL", func(w net.Conn, q fakeQuery) bool {
			m := z.answer(q)
			w.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(m)+1)), m...))
			return false
		}), want: ErrCut},
		{name: "a length of less than there is", handle: z.with(part2+" APL", func(w net.Conn, q fakeQuery) bool {
			m := z.answer(q)
			w.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(m)-1)), m...))
			return false
		}), want: ErrAnswer, part: part2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, tt.handle)
			l, err := client(t, tt.opt, s.addr).Fetch(t.Context(), Request{Name: list})
			if !errors.Is(err, tt.want) {
				t.Fatalf("got %v, error %v; want %v", l, err, tt.want)
			}
			if l != nil {
				t.Errorf("a list beside the error: %+v", l)
			}
			e := (*Error)(nil)
			if !errors.As(err, &e) || e.List != list || e.Server != s.addr || tt.part != "" && e.Part != tt.part {
				t.Errorf("got %#v; want part %q", e, tt.part)
			}
			msg := err.Error()
			if strings.ContainsAny(msg, "\n\r") || !strings.HasPrefix(msg, "list "+list+": server "+s.addr+": ") ||
				!strings.Contains(msg, tt.say) || !strings.Contains(msg, tt.part) {
				t.Errorf("message %q; want %q in it", msg, tt.say)
			}
			// Those that the list above calls by another name must not match.
			for _, other := range []error{ErrRefused, ErrServFail, ErrNXDomain, ErrRcode, ErrNoRecords, ErrTruncated, ErrAnswer, ErrEmpty,
				ErrParts, ErrChanged, ErrTooLarge, ErrTimeout, ErrCut, ErrConnect} {
				if other != tt.want && errors.Is(err, other) {
					t.Errorf("%v is also %v", err, other)
				}
			}
		})
	}
}

// TestCutAnswer cuts an answer of several records at every byte, which includes every record
// boundary, and mends the length prefix.
func TestCutAnswer(t *testing.T) {
	z := zone{}.apl(list, "192.0.2.0/24 !192.0.2.1/32", "2001:db8::/32", "", "198.51.100.0/24")
	q := fakeQuery{name: list, typ: dns.TypeAPL, msg: question{mustName(list), dns.TypeAPL}.appendQuery(nil, 0)[2:]}
	whole := add(z.answer(q), q, atAdditional, rr{owner: ".", typ: dns.TypeOPT, class: 1232})
	cut := len(whole)
	s := serve(t, z.with(list+" APL", raw(func(q fakeQuery) []byte {
		m := slices.Clone(whole[:cut])
		copy(m, q.msg[:2])
		return m
	})))
	c := client(t, Options{}, s.addr)
	if l, err := c.Fetch(t.Context(), Request{Name: list}); err != nil || l.Len() != 4 {
		t.Fatalf("uncut: got %v, error %v", l, err)
	}
	for cut = range whole {
		if l, err := c.Fetch(t.Context(), Request{Name: list}); !errors.Is(err, ErrAnswer) {
			t.Errorf("cut to %d of %d bytes: got %v, error %v", cut, len(whole), l, err)
		}
	}
	// The walk itself, at every byte too, with each section's count raised in turn.
	for _, at := range []int{atAnswer, atAuthority, atAdditional} {
		m := slices.Clone(whole)
		m[at+1]++
		if err := (question{mustName(list), dns.TypeAPL}).answer(m, func(rdata) error { return nil }); err == nil {
			t.Errorf("count at %d raised: accepted", at)
		}
	}
}

func TestLargestMessage(t *testing.T) {
	// 4,090 A records, one of the siblings, and an OPT record that fills the message up.
	var addrs [][]byte
	for i := range 4090 {
		addrs = append(addrs, []byte{10, 0, byte(i >> 8), byte(i)})
	}
	z := zone{list + " A": addrs}
	fill := func(m []byte, size int) []byte {
		return add(m, fakeQuery{}, atAdditional, rr{owner: ".", typ: dns.TypeOPT, class: 1232, rdata: make([]byte, size-len(m)-11)})
	}
	s := serve(t, z.with(list+" A", z.changed(func(m []byte) []byte { return fill(m, maxMessage) })))
	l, err := client(t, Options{}, s.addr).Fetch(t.Context(), Request{Name: list})
	if err != nil {
		t.Fatal(err)
	}
	if l.Len() != 4090 || l.Bytes < maxMessage+2 {
		t.Errorf("got %d entries, %d bytes", l.Len(), l.Bytes)
	}

	// Many of them, pipelined, so that they straddle the read buffer at all places.
	p := zone{}
	var want int
	for i := range 40 {
		part := fmt.Sprintf("%03d-netb.%s", i, list)
		p.ptr(list, part)
		for j := range 1500 + 37*i {
			p[part+" APL"] = append(p[part+" APL"], []byte{0, 1, 32, 4, 10, byte(i), byte(j >> 8), byte(j)})
			want++
		}
	}
	s = serve(t, func(w net.Conn, q fakeQuery) bool {
		m := p.answer(q)
		if q.typ == dns.TypeAPL && q.name[2]%2 == 0 && len(m)+11 <= maxMessage {
			m = fill(m, maxMessage-int(q.name[2]))
		}
		return write(w, m)
	})
	l, err = client(t, Options{}, s.addr).Fetch(t.Context(), Request{Name: list})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[Entry]bool{}
	for _, e := range slices.Concat(l.Chunks...) {
		seen[e] = true
	}
	if l.Len() != want || len(seen) != want {
		t.Errorf("got %d entries, %d of them different, want %d", l.Len(), len(seen), want)
	}
}

// TestChange serves a list that is published anew while it is fetched.
func TestChange(t *testing.T) {
	old := parts()
	third := zone{}.ptr(list, part1, part2, "005-netb."+list).apl(part1, "192.0.2.0/24").apl(part2, "198.51.100.0/24").apl("005-netb."+list, "198.18.0.0/15")
	gone := zone{}.ptr(list, part1, "004-netb."+list).apl(part1, "192.0.2.0/24").apl("004-netb."+list, "198.18.0.0/15")
	for _, tt := range []struct {
		name     string
		ptr      []zone // that answers the first PTR query, the second, and so on
		apl      zone   // that answers all others
		want     string
		restarts int
		err      error
	}{
		{name: "another order is no change", ptr: []zone{old, zone{}.ptr(list, part3, strings.ToUpper(part1), part2)}, apl: old, want: partsEntries},
		{name: "once", ptr: []zone{old, gone}, apl: merge(old, gone), want: "192.0.2.0/24 !192.0.2.1/32 2001:db8::/32 192.0.2.0/24 198.18.0.0/15", restarts: 1},
		{name: "once, and the old parts are gone", ptr: []zone{old, gone}, apl: gone, want: "192.0.2.0/24 198.18.0.0/15", restarts: 1},
		{name: "once, to as many parts", ptr: []zone{old, third}, apl: third, want: "192.0.2.0/24 198.51.100.0/24 198.18.0.0/15", restarts: 1},
		{name: "three times", ptr: []zone{old, gone, old, gone}, apl: merge(gone, old),
			want: "192.0.2.0/24 !192.0.2.1/32 2001:db8::/32 192.0.2.0/24 198.18.0.0/15", restarts: 3},
		{name: "four times", ptr: []zone{old, gone, old, gone, old}, apl: merge(gone, old), err: ErrChanged},
		{name: "into no parts", ptr: []zone{old, zone{}.apl(list, "")}, apl: zone{}.apl(list, "198.18.0.0/15"), want: "198.18.0.0/15", restarts: 1},
		{name: "into nothing", ptr: []zone{old, {}}, apl: zone{}, err: ErrNXDomain},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := 0
			s := serve(t, func(w net.Conn, q fakeQuery) bool {
				if q.String() != list+" PTR" {
					return tt.apl.serves(w, q)
				}
				z := tt.ptr[min(n, len(tt.ptr)-1)]
				n++
				return z.serves(w, q)
			})
			l, err := client(t, Options{}, s.addr).Fetch(t.Context(), Request{Name: list})
			if !errors.Is(err, tt.err) {
				t.Fatalf("got error %v, want %v", err, tt.err)
			}
			if err != nil {
				return
			}
			if got := entries(l); !slices.Equal(got, fields(tt.want)) || l.Restarts != tt.restarts {
				t.Errorf("after %d restarts got %v, want %v", l.Restarts, got, tt.want)
			}
		})
	}
}

func merge(zones ...zone) zone {
	m := zone{}
	for _, z := range zones {
		for k, v := range z {
			m[k] = append(m[k], v...)
		}
	}
	return m
}

func TestBadNames(t *testing.T) {
	s := serve(t, zone{}.serves)
	c := client(t, Options{}, s.addr)
	for _, name := range []string{"", ".", "a..b", ".a", strings.Repeat("a", 64) + ".local", strings.Repeat("abcdefg.", 33) + "local"} {
		if l, err := c.Fetch(t.Context(), Request{Name: name}); !errors.Is(err, ErrName) {
			t.Errorf("%q: got %v, error %v", name, l, err)
		}
	}
	full := strings.Repeat("abcdefg.", 31) + "local"
	c = client(t, Options{Siblings: []string{"abcdefg12"}}, s.addr)
	if _, err := c.Fetch(t.Context(), Request{Name: full}); !errors.Is(err, ErrName) {
		t.Errorf("a sibling of a name of full length: error %v", err)
	}
	if conns, _ := s.seen(); conns != 0 {
		t.Errorf("%d connections for names that cannot be asked about", conns)
	}
}

func TestProgress(t *testing.T) {
	s := serve(t, parts().serves)
	var got []Progress
	_, err := client(t, Options{}, s.addr).Fetch(t.Context(), Request{Name: list, Progress: func(p Progress) { got = append(got, p) }})
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 3 || got[0].Done != 1 || got[0].Parts != 3 || got[0].List != list || got[0].Server != s.addr {
		t.Fatalf("got %+v", got)
	}
	if last := got[2]; last.Done != 3 || last.Entries != 7 || last.Bytes <= got[0].Bytes {
		t.Errorf("got %+v", last)
	}
}

// TestIterationStops checks that All honours a break in either family.
func TestIterationStops(t *testing.T) {
	s := serve(t, parts().serves)
	l, err := client(t, Options{}, s.addr).Fetch(t.Context(), Request{Name: list})
	if err != nil {
		t.Fatal(err)
	}
	for stop := 1; stop <= l.Len(); stop++ {
		n := 0
		for range l.All() {
			if n++; n == stop {
				break
			}
		}
		if n != stop {
			t.Errorf("stopped after %d, not %d", n, stop)
		}
	}
}
