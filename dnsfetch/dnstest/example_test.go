package dnstest_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"example.org/threatstopd/dnsfetch"
	"example.org/threatstopd/dnsfetch/dnstest"
)

// A list is served and fetched; then its server refuses.
func Example() {
	srv, err := dnstest.Start(dnstest.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer srv.Close()
	err = srv.Set(dnstest.List{
		Name: "block.example",
		Entries: []dnstest.Entry{
			{Prefix: netip.MustParsePrefix("192.0.2.0/24")},
			{Prefix: netip.MustParsePrefix("192.0.2.7/32"), Not: true},
			{Prefix: netip.MustParsePrefix("2001:db8::/32")},
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}

	client, err := dnsfetch.New(dnsfetch.Options{Servers: []string{srv.Addr()}})
	if err != nil {
		fmt.Println(err)
		return
	}
	list, err := client.Fetch(context.Background(), dnsfetch.Request{Name: "block.example"})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(list.Layout, list.Parts, "part,", list.Len(), "entries")
	for _, e := range slices.Concat(list.Chunks...) {
		fmt.Println(e)
	}

	srv.Fail(dnstest.On{List: "block.example", Part: 1}, dnstest.Refused)
	_, err = client.Fetch(context.Background(), dnsfetch.Request{Name: "block.example"})
	fmt.Println(errors.Is(err, dnsfetch.ErrRefused))
	// Output:
	// PTR+APL 1 part, 3 entries
	// 192.0.2.0/24
	// !192.0.2.7/32
	// 2001:db8::/32
	// true
}
