package fetch

import (
	"encoding/binary"
	"encoding/json"
	"net/netip"
	"slices"
	"testing"

	"example.org/threatstopd/dnsfetch"
)

// asking is a client that has asked for a list, or for a name.
func asking(t testing.TB, most int, q *request) *Client {
	t.Helper()
	checked, err := dnsfetch.New(dnsfetch.Options{Servers: []string{"127.0.0.1:9"}})
	if err != nil {
		t.Fatal(err)
	}
	q.progress, q.done = make(chan dnsfetch.Progress, 1), make(chan struct{})
	c := &Client{checked: checked, asked: q}
	c.o.Fetch.MaxEntries = most
	return c
}

// FuzzHandle: for any message of the role, what main takes of it is a list that was asked for, within
// the limit and of networks; addresses that hosts can have; and text that is printable.
func FuzzHandle(f *testing.F) {
	const most = 64
	message := func(kind byte, payload []byte) []byte {
		return append(binary.BigEndian.AppendUint16([]byte{kind}, uint16(len(payload))), payload...)
	}
	text := func(v any) []byte {
		b, err := json.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		return b
	}
	a := &taken{}
	a.setup.Options.Servers = []string{"127.0.0.1:9"}
	a.fetch.Name = listName
	h := a.head(3)
	h.Failed = []failure{{Text: "server 127.0.0.1:8: query refused"}}
	whole := message(kindHeader, text(h))
	whole = append(whole, message(kindEntries, raw(1, "10.0.0.0", 8, 0))...)
	whole = append(whole, message(kindEntries, append(raw(1, "2001:db8::", 32, 1), raw(1, "10.1.0.0", 16, 2)...))...)
	f.Add(whole, false)
	failure := text(failure{Kind: dnsfetch.KindNoData, Text: "no records"})
	found := text([]Name{{Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}}})
	none := text([]Name{{Err: "no such host"}})
	step := text(dnsfetch.Progress{Server: "127.0.0.1:9", Done: 1, Parts: 2, Entries: 3, Bytes: 4})
	f.Add(message(kindFailure, failure), false)
	f.Add(message(kindAddresses, found), true)
	f.Add(message(kindAddresses, none), true)
	f.Add(append(message(kindProgress, step), whole...), false)
	f.Fuzz(func(t *testing.T, b []byte, names bool) {
		q := &request{list: &dnsfetch.Request{Name: listName, Progress: func(dnsfetch.Progress) {}}}
		if names {
			q = &request{names: []string{"two.example.net"}}
		}
		c := asking(t, most, q)
		for len(b) >= 3 {
			kind, n := b[0], min(int(binary.BigEndian.Uint16(b[1:])), len(b)-3)
			payload := b[3 : 3+n]
			b = b[3+n:]
			if longest, ok := toMain[kind]; !ok || n > longest {
				break
			}
			if c.handle(nil, kind, payload) != nil {
				break // it is killed
			}
		}
		select {
		case <-q.done:
			checkEnd(t, q, most)
			if c.asked != nil {
				t.Fatal("it is still waited for")
			}
		default:
			if q.err != nil {
				t.Fatal("there is an end that nobody hears of")
			}
		}
		select {
		case p := <-q.progress:
			if !plain(p.Server, maxName) || p.Entries > most || p.Done > p.Parts {
				t.Fatalf("%+v", p)
			}
		default:
		}
	})
}

// checkEnd checks what has come of a request that has ended.
func checkEnd(t *testing.T, q *request, most int) {
	switch {
	case q.list == nil:
		n := q.found[0]
		if q.err != nil || len(q.found) != 1 || len(n.Addrs) > maxAddrs || (len(n.Addrs) == 0) == (n.Err == "") {
			t.Fatalf("%v, %v", q.found, q.err)
		}
		for _, a := range n.Addrs {
			if !usable(a) {
				t.Fatal(a)
			}
		}
	case q.got == nil && q.err == nil, q.got != nil && q.err != nil:
		t.Fatalf("list %v, error %v", q.got, q.err)
	case q.err != nil:
		if e, ok := q.err.(*dnsfetch.Error); !ok || e.List != listName {
			t.Fatalf("%#v", q.err)
		}
	default:
		if got := q.got; got.Len() == 0 || got.Len() > most || got.Name != listName || got.Server != "127.0.0.1:9" {
			t.Fatalf("%+v", got)
		}
		for _, e := range slices.Concat(q.got.Chunks...) {
			if !e.Valid() {
				t.Fatal(e)
			}
		}
	}
}
