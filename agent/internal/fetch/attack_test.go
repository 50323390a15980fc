package fetch

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"example.org/threatstopd/agent/internal/privsep"
	"example.org/threatstopd/dnsfetch"
)

// taken is a role that somebody else has taken over. It may do what it likes with its connection.
type taken struct {
	*privsep.Worker
	conn  net.Conn
	setup setup
	fetch fetch // asked for
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

// head is the header of a list of n entries, as it was asked for.
func (a *taken) head(n int) header {
	return header{Entries: n, List: dnsfetch.List{
		Name: a.fetch.Name, Server: a.setup.Options.Servers[0], Layout: dnsfetch.LayoutAPL, Parts: 1, Bytes: 1000, Elapsed: 1000,
	}}
}

// begin begins a list of n entries, as it was asked for but for changes.
func (a *taken) begin(n int, changes ...func(*header)) error {
	h := a.head(n)
	for _, change := range changes {
		change(&h)
	}
	return a.SendJSON(kindHeader, h)
}

// raw is a chunk of n times the same entry, be it one or not.
func raw(n int, addr string, bits, flags byte) []byte {
	x := make([]byte, 16)
	copy(x, netip.MustParseAddr(addr).AsSlice())
	return bytes.Repeat(append(x, bits, flags), n)
}

const whole = maxChunk

// attacks are what is tried on main, what it says of the role then, and whether it was a name
// that main asked for.
var attacks = map[string]struct {
	do     func(*taken) error
	want   string // empty: main is not to know
	lookup bool
}{
	"ends within a list":    {do: func(a *taken) error { a.begin(10); return errors.New("had enough") }, want: "had enough"},
	"says nothing":          {},
	"has a million entries": {do: million},

	"announces 10 million entries": {do: func(a *taken) error { return a.begin(10_000_000) }, want: "list of 10000000 entries where the limit is 1000000"},
	"announces less than nothing":  {do: func(a *taken) error { return a.begin(-1) }, want: "list of -1 entries"},
	"sends 10 million entries":     {do: func(a *taken) error { return a.endless(10, 10_000_000) }, want: "more entries than announced"},
	"never comes to an end":        {do: func(a *taken) error { return a.endless(1_000_000, 1<<31-1) }, want: "more entries than announced"},
	"sends host bits":              {do: entry(raw(1, "10.0.0.1", 8, 0)), want: "is not a network"},
	"sends 0.0.0.1/0":              {do: entry(raw(1, "0.0.0.1", 0, 0)), want: "is not a network"},
	"sends a length of 33":         {do: entry(raw(1, "10.0.0.1", 33, 0)), want: "is not a network"},
	"sends unknown flags":          {do: entry(raw(1, "10.0.0.1", 32, 4)), want: "is not a network"},
	"sends IPv6 host bits":         {do: entry(raw(1, "2001:db8::1", 64, 1)), want: "is not a network"},
	"sends a length of 129":        {do: entry(raw(1, "2001:db8::1", 129, 1)), want: "is not a network"},
	"sends IPv4 with a tail":       {do: entry(raw(1, "2001:db8::1", 32, 0)), want: "is not a network"},
	"sends a mapped address":       {do: entry(raw(1, "::ffff:10.0.0.1", 128, 1)), want: "is not a network"},
	"sends half an entry":          {do: entry(raw(1, "10.0.0.1", 32, 0)[:5]), want: "chunk of 5 bytes"},
	"sends no chunk":               {do: entry(nil), want: "chunk of 0 bytes"},
	"sends too long a chunk": {do: func(a *taken) error {
		a.begin(100_000)
		return a.Send(kindEntries, make([]byte, maxChunk*entryLen+1))
	}, want: "are taken"},
	"sends an empty list": {do: func(a *taken) error { return a.begin(0) }, want: "empty list where it may not be"},
	"begins twice":        {do: func(a *taken) error { a.begin(1); return a.begin(1) }, want: "list begun twice"},
	"sends list and error": {do: func(a *taken) error {
		a.begin(1)
		return (&role{Worker: a.Worker}).fail(a.fetch.Name, dnsfetch.ErrCut)
	}, want: "list and error in one"},

	"sends another list": {do: func(a *taken) error { return a.begin(1, func(h *header) { h.Name = "allow.example.net" }) },
		want: "list allow.example.net where"},
	"names another server": {do: func(a *taken) error { return a.begin(1, func(h *header) { h.Server = "203.0.113.1:53" }) },
		want: "from 203.0.113.1:53, which is none of the policy servers"},
	"sends entries alone":  {do: func(a *taken) error { return a.Send(kindEntries, raw(1, "10.0.0.1", 32, 0)) }, want: "entries without a header"},
	"sends nothing at all": {do: func(a *taken) error { return a.Send(kindHeader, nil) }, want: "header: "},
	"sends half a header":  {do: func(a *taken) error { return a.Send(kindHeader, []byte(`{"Name":1,`)) }, want: "header: "},
	"sends giant strings": {do: func(a *taken) error { return a.begin(1, func(h *header) { h.Server = strings.Repeat("b", 60_000) }) },
		want: "which is none of the policy servers"},
	"sends a giant header": {do: func(a *taken) error { return a.Send(kindHeader, make([]byte, 1<<20)) }, want: "are taken"},
	"sends a line break":   {do: func(a *taken) error { return a.begin(1, func(h *header) { h.Server += "\nblock" }) }, want: "which is none of the policy servers"},
	"sends no layout":      {do: func(a *taken) error { return a.begin(1, func(h *header) { h.Layout = 0 }) }, want: "list of layout 0"},
	"sends no parts":       {do: func(a *taken) error { return a.begin(1, func(h *header) { h.Parts = 0 }) }, want: "list of layout 2, 0 parts"},
	"sends entries in the header": {do: func(a *taken) error {
		return a.begin(1, func(h *header) { h.Chunks = [][]dnsfetch.Entry{make([]dnsfetch.Entry, 1)} })
	}, want: "chunks of entries in the header"},
	"sends many failures": {do: func(a *taken) error {
		return a.begin(1, func(h *header) { h.Failed = slices.Repeat([]failure{{Text: "x"}}, maxFailed+1) })
	}, want: "list with 65 servers that failed"},
	"sends a failure without a reason": {do: func(a *taken) error { return a.begin(1, func(h *header) { h.Failed = make([]failure, 1) }) },
		want: "without a printable reason"},
	"fails without a reason": {do: func(a *taken) error { return a.SendJSON(kindFailure, failure{}) }, want: "without a printable reason"},
	"fails with a line break": {do: func(a *taken) error { return a.SendJSON(kindFailure, failure{Text: "a\nb"}) },
		want: "without a printable reason"},
	"fails in an unknown way": {do: func(a *taken) error {
		return a.SendJSON(kindFailure, failure{Kind: 77, Text: "x"})
	},
		want: "failure of kind 77"},
	"fails with garbage":      {do: func(a *taken) error { return a.Send(kindFailure, []byte("garbage")) }, want: "failure: "},
	"fails with a giant text": {do: func(a *taken) error { return a.Send(kindFailure, make([]byte, 1<<20)) }, want: "are taken"},

	"sends progress below nothing": {do: func(a *taken) error { return a.SendJSON(kindProgress, dnsfetch.Progress{Done: -1}) }, want: "progress of -1 parts of 0"},
	"sends progress beyond the end": {do: func(a *taken) error {
		return a.SendJSON(kindProgress, dnsfetch.Progress{Done: 2, Parts: 1})
	}, want: "progress of 2 parts of 1"},
	"sends progress beyond limits": {do: func(a *taken) error {
		return a.SendJSON(kindProgress, dnsfetch.Progress{Entries: 2_000_000})
	}, want: "progress of 0 parts of 0, 2000000 entries"},
	"sends progress of an escape": {do: func(a *taken) error {
		return a.SendJSON(kindProgress, dnsfetch.Progress{Server: "\x1b[2J"})
	}, want: "progress with a server that cannot be"},
	"sends progress with more": {do: func(a *taken) error {
		return a.SendJSON(kindProgress, map[string]any{"Root": true})
	}, want: "unknown field"},
	"sends progress in no JSON": {do: func(a *taken) error { return a.Send(kindProgress, []byte("{{{{")) }, want: "progress: invalid character"},
	"sends an unknown kind":     {do: func(a *taken) error { return a.Send(200, nil) }, want: "unknown kind 200"},
	"sends main's own kind":     {do: func(a *taken) error { return a.Send(kindFetch, nil) }, want: "unknown kind"},
	"sends garbage": {do: func(a *taken) error {
		_, err := a.conn.Write(bytes.Repeat([]byte("garbage"), 1000))
		return err
	}, want: "unknown kind 97"},

	"answers for two names":     {do: func(a *taken) error { return a.SendJSON(kindAddresses, make([]Name, 2)) }, want: "addresses of 2 names where 1 were", lookup: true},
	"looks up instead":          {do: found(func(*Name) {}), want: "addresses without a request"},
	"answers twice":             {do: func(a *taken) error { found(func(*Name) {})(a); return found(func(*Name) {})(a) }, want: "addresses without a request", lookup: true},
	"sends a list instead":      {do: func(a *taken) error { return a.begin(1) }, want: "list without a request", lookup: true},
	"answers 200.000 addresses": {do: found(func(r *Name) { r.Addrs = make([]netip.Addr, 200_000) }), want: "are taken", lookup: true},
	"answers 65 addresses":      {do: found(func(r *Name) { r.Addrs = repeated(65) }), want: "65 addresses of one name", lookup: true},
	"answers nothing":           {do: found(func(r *Name) { r.Addrs = nil }), want: "neither addresses nor a reason", lookup: true},
	"answers yes and no":        {do: found(func(r *Name) { r.Err = "x" }), want: "neither addresses nor a reason, or both", lookup: true},
	"answers 0.0.0.0":           {do: found(func(r *Name) { r.Addrs[0] = netip.IPv4Unspecified() }), want: "0.0.0.0, which no host has", lookup: true},
	"answers multicast":         {do: found(func(r *Name) { r.Addrs[0] = netip.MustParseAddr("ff02::1") }), want: "ff02::1, which no host has", lookup: true},
	"answers broadcast":         {do: found(func(r *Name) { r.Addrs[0] = netip.MustParseAddr("255.255.255.255") }), want: "255.255.255.255, which no host has", lookup: true},
	"answers no address":        {do: found(func(r *Name) { r.Addrs[0] = netip.Addr{} }), want: "which no host has", lookup: true},
	"answers with a zone":       {do: found(func(r *Name) { r.Addrs[0] = netip.MustParseAddr("fe80::1%x") }), want: "which no host has", lookup: true},
	"answers a mapped address":  {do: found(func(r *Name) { r.Addrs[0] = netip.MustParseAddr("::ffff:10.0.0.1") }), want: "which no host has", lookup: true},
	"answers with a line break": {do: found(func(r *Name) { r.Addrs, r.Err = nil, "a\nb" }), want: "reason that is not printable", lookup: true},
	"answers with a long story": {do: found(func(r *Name) { r.Addrs, r.Err = nil, strings.Repeat("x", 301) }), want: "reason that is not printable", lookup: true},
}

func repeated(n int) []netip.Addr {
	all := make([]netip.Addr, n)
	for i := range all {
		all[i] = netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})
	}
	return all
}

// found answers a lookup of one name, which is what change makes of it.
func found(change func(*Name)) func(*taken) error {
	return func(a *taken) error {
		r := Name{Addrs: repeated(1)}
		change(&r)
		return a.SendJSON(kindAddresses, []Name{r})
	}
}

// entry sends a chunk.
func entry(chunk []byte) func(*taken) error {
	return func(a *taken) error {
		if err := a.begin(10); err != nil {
			return err
		}
		return a.Send(kindEntries, chunk)
	}
}

// endless announces some entries and sends more.
func (a *taken) endless(announced, send int) error {
	if err := a.begin(announced); err != nil {
		return err
	}
	if err := a.Send(kindEntries, raw(min(announced-1, whole), "10.0.0.1", 32, 0)); err != nil {
		return err
	}
	full := raw(whole, "10.0.0.1", 32, 0)
	for ; send > 0; send -= whole {
		if err := a.Send(kindEntries, full); err != nil {
			return nil
		}
	}
	return nil
}

// million sends a million entries, which it makes once.
var million = func() func(*taken) error {
	made := sync.OnceValue(func() [][]dnsfetch.Entry {
		e := dnsfetch.MakeEntry(netip.MustParsePrefix("20.0.0.1/32"), false)
		return [][]dnsfetch.Entry{slices.Repeat([]dnsfetch.Entry{e}, 1_000_000)}
	})
	return func(a *taken) error {
		l := a.head(0).List
		l.Chunks = made()
		return (&role{Worker: a.Worker}).send(&l)
	}
}()

// A role that was taken over is killed for anything that an honest one would not send, and
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
					_, err = lookUp(c, "two.example.net")
					if err == nil { // the answer came before the offence
						c.keep.Wait()
						_, err = lookUp(c, "two.example.net")
					}
				} else {
					_, err = c.Fetch(t.Context(), dnsfetch.Request{Name: listName, Progress: func(dnsfetch.Progress) {}})
				}
				says(t, err, "fetch process: ", attack.want)
				if !attack.lookup && !errors.Is(err, ErrRole) {
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
	says(t, err, "more entries than announced")
	if n := after.TotalAlloc - before.TotalAlloc; n > 30<<20 {
		t.Errorf("%d MB for a million entries of 19 bytes", n>>20)
	}
}
