package fetch

import (
	"encoding/binary"
	"encoding/json"
	"net/netip"
	"testing"

	"example.org/threatstopd/dnsfetch"
)

// asking is a client that has asked for a list and for a name.
func asking(t testing.TB, most int) (*Client, *listing, *looking) {
	t.Helper()
	checked, err := dnsfetch.New(dnsfetch.Options{Servers: []string{"127.0.0.1:9"}})
	if err != nil {
		t.Fatal(err)
	}
	list := &listing{
		request:  &dnsfetch.Request{Name: listName, Progress: func(dnsfetch.Progress) {}},
		progress: make(chan dnsfetch.Progress, 1), done: make(chan struct{}),
	}
	look := &looking{done: make(chan struct{})}
	c := &Client{checked: checked, list: list, lookups: map[string]*looking{"two.example.net": look}}
	c.o.Fetch.MaxEntries = most
	return c, list, look
}

// FuzzHandle: whatever the role sends, what main takes of it is a list that was asked for, within
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
	whole = append(whole, message(kindEntries, append(raw(1, "2001:db8::", 32, entryV6), raw(1, "10.1.0.0", 16, entryNot)...))...)
	f.Add(whole)
	failure := text(failure{Kind: dnsfetch.KindNoData, Text: "no records"})
	found := text(addresses{Name: "two.example.net", Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}})
	none := text(addresses{Name: "two.example.net", Error: "no such host"})
	step := text(progress{Server: "127.0.0.1:9", Done: 1, Parts: 2, Entries: 3, Bytes: 4})
	f.Add(message(kindFailure, failure))
	f.Add(append(message(kindAddresses, found), whole...))
	f.Add(append(message(kindProgress, step), message(kindAddresses, none)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, list, look := asking(t, most)
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
		case <-list.done:
			switch {
			case list.got == nil && list.err == nil, list.got != nil && list.err != nil:
				t.Fatalf("list %v, error %v", list.got, list.err)
			case list.err != nil:
				if e, ok := list.err.(*dnsfetch.Error); !ok || e.List != listName {
					t.Fatalf("%#v", list.err)
				}
			default:
				if got := list.got; got.Len() == 0 || got.Len() > most || got.Name != listName || got.Server != "127.0.0.1:9" {
					t.Fatalf("%+v", got)
				}
				for e := range list.got.All() {
					if !e.Valid() {
						t.Fatal(e)
					}
				}
			}
			if c.list != nil {
				t.Fatal("it is still waited for")
			}
		default:
			if list.err != nil {
				t.Fatal("there is an end that nobody hears of")
			}
		}
		select {
		case <-look.done:
			if len(look.addrs) > maxAddrs || (len(look.addrs) == 0) == (look.err == nil) {
				t.Fatalf("%v, %v", look.addrs, look.err)
			}
			for _, a := range look.addrs {
				if !usable(a) {
					t.Fatal(a)
				}
			}
		default:
		}
		select {
		case p := <-list.progress:
			if !plain(p.Server, maxName) || p.Entries > most || p.Done > p.Parts {
				t.Fatalf("%+v", p)
			}
		default:
		}
	})
}
