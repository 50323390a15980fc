package fetch

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"

	"example.org/threatstopd/agent/internal/privsep"
	"example.org/threatstopd/dnsfetch"
)

// taken is a role that somebody else has taken over. It may do what it likes with its connection.
type taken struct {
	*privsep.Worker
	conn   net.Conn
	setup  setup
	fetch  fetch // asked for
	lookup lookup
}

// attacker is the life of a role that does do when it is first asked for anything, and lives on
// if that is without error.
func attacker(do func(*taken) error) privsep.Body {
	return func(conn net.Conn, _ []*os.File) error {
		a := &taken{Worker: privsep.NewWorker(conn, toRole), conn: conn}
		if err := a.Setup(kindSetup, &a.setup); err != nil {
			return err
		}
		if err := a.Ready(); err != nil {
			return err
		}
		return a.Run(context.Background(), func(kind byte, payload []byte) error {
			switch kind {
			case kindFetch:
				privsep.Unmarshal(payload, &a.fetch)
			case kindLookup:
				privsep.Unmarshal(payload, &a.lookup)
			case kindCancel:
				return nil
			}
			if do == nil {
				return nil
			}
			return do(a)
		})
	}
}

// head is the header of a list of n4 and n6 entries under a name.
func (a *taken) head(name, server string, n4, n6 uint32) []byte {
	b := []byte{byte(dnsfetch.LayoutAPL), 0}
	b = binary.BigEndian.AppendUint32(b, 1)
	b = binary.BigEndian.AppendUint64(b, 1000)
	b = binary.BigEndian.AppendUint64(b, 1000)
	b = binary.BigEndian.AppendUint32(b, n4)
	b = binary.BigEndian.AppendUint32(b, n6)
	for _, s := range []string{name, server} {
		b = binary.BigEndian.AppendUint16(b, uint16(len(s)))
		b = append(b, s...)
	}
	return append(b, 0)
}

func (a *taken) header(n uint32, name, server string, n4, n6 uint32) error {
	return a.Send(kindHeader, append(number(n), a.head(name, server, n4, n6)...))
}

// begin begins a list as it was asked for.
func (a *taken) begin(n4, n6 uint32) error {
	return a.header(a.fetch.Number, a.fetch.Name, a.setup.Options.Servers[0], n4, n6)
}

// v4 is a chunk of n times the same entry.
func v4(n int, addr string, low byte) []byte {
	x := netip.MustParseAddr(addr).As4()
	e := append(x[:], 0, 0, 0, low)
	return append([]byte{4}, bytes.Repeat(e, n)...)
}

func v6(n int, addr string, bits, not byte) []byte {
	x := netip.MustParseAddr(addr).As16()
	return append([]byte{6}, bytes.Repeat(append(x[:], bits, not), n)...)
}

const whole = (dnsfetch.MaxMessage - 1) / 8 // entries of a chunk

// made is a list of n times the same entry.
func (a *taken) made(n int) (*dnsfetch.List, error) {
	columns := make([][]byte, 0, n/whole+1)
	sum := uint32(0)
	for left := n; left > 0; left -= whole {
		c := v4(min(left, whole), "20.0.0.1", 32<<1)
		sum = crc32.Update(sum, crc32.MakeTable(crc32.Castagnoli), c[1:])
		columns = append(columns, c)
	}
	in, err := dnsfetch.NewLoader(a.head(a.fetch.Name, a.setup.Options.Servers[0], uint32(n), 0), n)
	if err != nil {
		return nil, err
	}
	for _, c := range columns {
		if err := in.Add(c); err != nil {
			return nil, err
		}
	}
	end := binary.BigEndian.AppendUint32(nil, uint32(n))
	return in.List(binary.BigEndian.AppendUint32(append(end, 0, 0, 0, 0), sum))
}

// attacks are what is tried on main, what it says of the role then, and whether it was a name
// that main asked for.
var attacks = map[string]struct {
	do     func(*taken) error
	want   string // empty: main is not to know
	lookup bool
}{
	"ends within a list":    {do: func(a *taken) error { a.begin(10, 0); return errors.New("had enough") }, want: "had enough"},
	"says nothing":          {},
	"has a million entries": {do: million},

	"announces 10 million entries": {do: func(a *taken) error { return a.begin(10_000_000, 0) }, want: "too many entries: 10000000 announced, limit 1000000"},
	"announces 4 billion":          {do: func(a *taken) error { return a.begin(1<<32-1, 1<<32-1) }, want: "too many entries"},
	"sends 10 million entries": {do: func(a *taken) error { return a.endless(10, 10_000_000) },
		want: "more than the 10 IPv4 entries announced"},
	"never comes to an end": {do: func(a *taken) error { return a.endless(1_000_000, 1<<31-1) }, want: "more than the 1000000 IPv4 entries announced"},
	"sends host bits":       {do: entry(v4(1, "10.0.0.1", 8<<1)), want: "is not an IPv4 network"},
	"sends 0.0.0.1/0":       {do: entry(v4(1, "0.0.0.1", 0)), want: "is not an IPv4 network"},
	"sends a length of 33":  {do: entry(v4(1, "10.0.0.1", 33<<1)), want: "is not an IPv4 network"},
	"sends reserved bits":   {do: entry(v4(1, "10.0.0.1", 0x80|32<<1)), want: "is not an IPv4 network"},
	"sends IPv6 host bits":  {do: entry(v6(1, "2001:db8::1", 64, 0)), want: "is not an IPv6 network"},
	"sends a length of 129": {do: entry(v6(1, "2001:db8::1", 129, 0)), want: "is not an IPv6 network"},
	"sends a sign of 7":     {do: entry(v6(1, "2001:db8::1", 128, 7)), want: "is not an IPv6 network"},
	"sends half an entry":   {do: entry(v4(1, "10.0.0.1", 32<<1)[:5]), want: "chunk of family 4 with 5 bytes"},
	"sends an empty chunk":  {do: entry([]byte{4}), want: "chunk without entries"},
	"sends no chunk":        {do: entry(nil), want: "chunk without entries"},
	"sends another family":  {do: entry(make([]byte, 100)), want: "chunk of family 0"},
	"sends too long a chunk": {do: func(a *taken) error {
		a.begin(100_000, 0)
		return a.Send(kindChunk, make([]byte, dnsfetch.MaxMessage+1))
	}, want: "too long"},
	"sends a wrong sum": {do: func(a *taken) error {
		a.begin(1, 0)
		a.Send(kindChunk, v4(1, "10.0.0.1", 32<<1))
		return a.Send(kindCommit, append(number(a.fetch.Number), 0, 0, 0, 1, 0, 0, 0, 0, 1, 2, 3, 4))
	}, want: "count or checksum is another"},
	"sends half of it": {do: func(a *taken) error {
		a.begin(2, 0)
		a.Send(kindChunk, v4(1, "10.0.0.1", 32<<1))
		return a.Send(kindCommit, append(number(a.fetch.Number), 0, 0, 0, 1, 0, 0, 0, 0, 1, 2, 3, 4))
	}, want: "1 and 0 entries came, announced were 2 and 0"},
	"sends an empty list": {do: func(a *taken) error {
		a.begin(0, 0)
		return a.Send(kindCommit, append(number(a.fetch.Number), make([]byte, 12)...))
	}, want: "empty list where it may not be"},
	"begins twice": {do: func(a *taken) error { a.begin(1, 0); return a.begin(1, 0) }, want: "list begun twice"},
	"sends list and error": {do: func(a *taken) error {
		a.begin(1, 0)
		return (&role{Worker: a.Worker}).fail(a.fetch, dnsfetch.ErrCut)
	}, want: "list and error in one"},

	"answers another request": {do: func(a *taken) error {
		return a.header(a.fetch.Number+1, a.fetch.Name, a.setup.Options.Servers[0], 1, 0)
	},
		want: "answer to a request for a list that was not made"},
	"ends another request": {do: func(a *taken) error { a.begin(0, 0); return a.Send(kindCommit, number(a.fetch.Number-1)) },
		want: "answer to a request for a list that was not made"},
	"fails another request": {do: func(a *taken) error { return (&role{Worker: a.Worker}).fail(fetch{Number: 77}, dnsfetch.ErrCut) },
		want: "answer to a request for a list that was not made"},
	"sends another list": {do: func(a *taken) error {
		return a.header(a.fetch.Number, "allow.example.net", a.setup.Options.Servers[0], 1, 0)
	}, want: "list allow.example.net where"},
	"names another server": {do: func(a *taken) error { return a.header(a.fetch.Number, a.fetch.Name, "203.0.113.1:53", 1, 0) }, want: "from 203.0.113.1:53, which is none of the policy servers"},
	"sends entries alone":  {do: func(a *taken) error { return a.Send(kindChunk, v4(1, "10.0.0.1", 32<<1)) }, want: "entries of a list that was not begun"},
	"sends an end alone":   {do: func(a *taken) error { return a.Send(kindCommit, append(number(a.fetch.Number), make([]byte, 12)...)) }, want: "end of a list that was not begun"},
	"sends nothing at all": {do: func(a *taken) error { return a.Send(kindHeader, nil) }, want: "message without a number"},
	"sends half a header":  {do: func(a *taken) error { return a.Send(kindHeader, append(number(a.fetch.Number), 1, 2, 3)) }, want: "cut off"},
	"sends giant strings": {do: func(a *taken) error {
		return a.header(a.fetch.Number, strings.Repeat("a", 60_000), strings.Repeat("b", 60_000), 1, 0)
	}, want: "text of 60000 characters"},
	"sends a giant header": {do: func(a *taken) error { return a.Send(kindHeader, make([]byte, 1<<20)) }, want: "too long"},
	"sends a line break": {do: func(a *taken) error { return a.header(a.fetch.Number, a.fetch.Name, "127.0.0.1:9\nblock", 1, 0) },
		want: "unprintable character 0xa"},
	"fails without a reason":  {do: func(a *taken) error { return a.Send(kindFailure, number(a.fetch.Number)) }, want: "cut off"},
	"fails with garbage":      {do: func(a *taken) error { return a.Send(kindFailure, append(number(a.fetch.Number), "garbage"...)) }, want: "error of kind 103"},
	"fails with a giant text": {do: func(a *taken) error { return a.Send(kindFailure, make([]byte, 1<<20)) }, want: "too long"},
	"fails without end": {do: func(a *taken) error {
		return a.Send(kindFailure, append(number(a.fetch.Number), bytes.Repeat([]byte{'E', 0, 0, 0, 0, 0, 0}, 30_000)...))
	}, want: "errors within errors"},

	"tells progress of another list": {do: func(a *taken) error { return a.SendJSON(kindProgress, progress{Number: 99}) }, want: "progress of a list that was not asked for"},
	"tells progress below nothing":   {do: func(a *taken) error { return a.SendJSON(kindProgress, progress{Number: a.fetch.Number, Done: -1}) }, want: "progress of -1 parts of 0"},
	"tells progress beyond the end": {do: func(a *taken) error {
		return a.SendJSON(kindProgress, progress{Number: a.fetch.Number, Done: 2, Parts: 1})
	}, want: "progress of 2 parts of 1"},
	"tells progress beyond limits": {do: func(a *taken) error {
		return a.SendJSON(kindProgress, progress{Number: a.fetch.Number, Entries: 2_000_000})
	}, want: "progress of 2000000 entries where the limit is 1000000"},
	"tells progress of an escape": {do: func(a *taken) error {
		return a.SendJSON(kindProgress, progress{Number: a.fetch.Number, Server: "\x1b[2J"})
	}, want: "progress with a server that cannot be"},
	"tells progress with more": {do: func(a *taken) error {
		return a.SendJSON(kindProgress, map[string]any{"Number": a.fetch.Number, "Root": true})
	}, want: "unknown field"},
	"tells progress in no JSON": {do: func(a *taken) error { return a.Send(kindProgress, []byte("{{{{")) }, want: "progress: invalid character"},
	"sends an unknown kind":     {do: func(a *taken) error { return a.Send(200, nil) }, want: "unknown kind: 200"},
	"sends main's own kind":     {do: func(a *taken) error { return a.Send(kindFetch, nil) }, want: "unknown kind"},
	"sends garbage": {do: func(a *taken) error {
		_, err := a.conn.Write(bytes.Repeat([]byte("garbage"), 1000))
		return err
	}, want: "not a frame"},

	"looks up on its own":       {do: answer(func(r *addresses) { r.Number++ }), want: "addresses of a name that was not asked for", lookup: true},
	"looks up instead":          {do: answer(func(*addresses) {}), want: "addresses of a name that was not asked for"},
	"answers twice":             {do: func(a *taken) error { answer(func(*addresses) {})(a); return answer(func(*addresses) {})(a) }, want: "addresses of a name that was not asked for", lookup: true},
	"answers 10.000 addresses":  {do: answer(func(r *addresses) { r.Addresses = make([]netip.Addr, 10_000) }), want: "too long", lookup: true},
	"answers 65 addresses":      {do: answer(func(r *addresses) { r.Addresses = repeated(65) }), want: "65 addresses of one name", lookup: true},
	"answers nothing":           {do: answer(func(r *addresses) { r.Addresses = nil }), want: "neither addresses nor a reason", lookup: true},
	"answers yes and no":        {do: answer(func(r *addresses) { r.Error = "x" }), want: "neither addresses nor a reason, or both", lookup: true},
	"answers 0.0.0.0":           {do: answer(func(r *addresses) { r.Addresses[0] = netip.IPv4Unspecified() }), want: "0.0.0.0, which no host has", lookup: true},
	"answers multicast":         {do: answer(func(r *addresses) { r.Addresses[0] = netip.MustParseAddr("ff02::1") }), want: "ff02::1, which no host has", lookup: true},
	"answers broadcast":         {do: answer(func(r *addresses) { r.Addresses[0] = netip.MustParseAddr("255.255.255.255") }), want: "255.255.255.255, which no host has", lookup: true},
	"answers no address":        {do: answer(func(r *addresses) { r.Addresses[0] = netip.Addr{} }), want: "which no host has", lookup: true},
	"answers with a zone":       {do: answer(func(r *addresses) { r.Addresses[0] = netip.MustParseAddr("fe80::1%x") }), want: "which no host has", lookup: true},
	"answers a mapped address":  {do: answer(func(r *addresses) { r.Addresses[0] = netip.MustParseAddr("::ffff:10.0.0.1") }), want: "which no host has", lookup: true},
	"answers with a line break": {do: answer(func(r *addresses) { r.Addresses, r.Error = nil, "a\nb" }), want: "reason that is not printable", lookup: true},
	"answers with a long story": {do: answer(func(r *addresses) { r.Addresses, r.Error = nil, strings.Repeat("x", 301) }), want: "reason that is not printable", lookup: true},
}

func repeated(n int) []netip.Addr {
	all := make([]netip.Addr, n)
	for i := range all {
		all[i] = netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})
	}
	return all
}

// answer answers a lookup, which is what change makes of it.
func answer(change func(*addresses)) func(*taken) error {
	return func(a *taken) error {
		r := addresses{Number: a.lookup.Number, Addresses: repeated(1)}
		change(&r)
		return a.SendJSON(kindAddresses, r)
	}
}

// entry sends a chunk.
func entry(chunk []byte) func(*taken) error {
	return func(a *taken) error {
		if err := a.begin(10, 10); err != nil {
			return err
		}
		return a.Send(kindChunk, chunk)
	}
}

// endless announces some entries and sends more.
func (a *taken) endless(announced uint32, send int) error {
	if err := a.begin(announced, 0); err != nil {
		return err
	}
	first := min(int(announced), whole)
	if err := a.Send(kindChunk, v4(first, "10.0.0.1", 32<<1)); err != nil {
		return err
	}
	full := v4(whole, "10.0.0.1", 32<<1)
	for ; send > 0; send -= whole {
		if err := a.Send(kindChunk, full); err != nil {
			return nil
		}
	}
	return nil
}

// million sends a million entries, which it makes once.
var million = func() func(*taken) error {
	var mu sync.Mutex
	var l *dnsfetch.List
	return func(a *taken) error {
		mu.Lock()
		defer mu.Unlock()
		if l == nil {
			var err error
			if l, err = a.made(1_000_000); err != nil {
				return err
			}
		}
		return (&role{Worker: a.Worker}).send(a.fetch.Number, l)
	}
}()

// A role that was taken over is killed for whatever it sends that an honest one would not, and
// main says of which process and why.
func TestTakenOver(t *testing.T) {
	for name, attack := range attacks {
		if attack.want == "" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			everyway(t, func(t *testing.T, starter privsep.Starter) {
				c := start(t, Options{
					Starter: &named{Starter: starter, as: []string{"attack " + name}}, Once: true,
					Fetch: dnsfetch.Options{MaxEntries: 1_000_000},
				})
				var err error
				if attack.lookup {
					_, err = c.Lookup(t.Context(), "two.example.net")
					if err == nil { // the answer came before the offence
						c.keep.Wait()
						_, err = c.Lookup(t.Context(), "two.example.net")
					}
				} else {
					_, err = c.Fetch(t.Context(), dnsfetch.Request{Name: listName, Progress: func(dnsfetch.Progress) {}})
				}
				says(t, err, "fetch process: ", attack.want)
				if !errors.Is(err, ErrRole) {
					t.Errorf("%#v", err)
				}
				if text := err.Error(); len(text) > 4<<10 || strings.ContainsAny(text, "\n\x1b") {
					t.Errorf("said %q", text)
				}
			})
		})
	}
}

// A list that does not end costs main no more memory than one of the limit.
func TestTakenOverMemory(t *testing.T) {
	c := start(t, Options{
		Starter: &named{Starter: privsep.Exec(), as: []string{"attack never comes to an end"}}, Once: true,
		Fetch: dnsfetch.Options{MaxEntries: 1_000_000},
	})
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := c.Fetch(t.Context(), dnsfetch.Request{Name: listName})
	runtime.ReadMemStats(&after)
	says(t, err, "entries announced")
	if n := after.TotalAlloc - before.TotalAlloc; n > 20<<20 {
		t.Errorf("%d MB for a million entries of 8 bytes", n>>20)
	}
}
