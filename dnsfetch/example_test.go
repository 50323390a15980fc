package dnsfetch_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/netip"

	"example.org/threatstopd/dnsfetch"
	"example.org/threatstopd/dnsfetch/dnstest"
)

func ExampleClient_Fetch() {
	// A policy server, in the place of a real one.
	srv, err := dnstest.Start(dnstest.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer srv.Close()
	err = srv.Set(dnstest.List{Name: "block.example", Entries: []dnstest.Entry{
		{Prefix: netip.MustParsePrefix("192.0.2.0/24")},
		{Prefix: netip.MustParsePrefix("192.0.2.1/32"), Not: true},
		{Prefix: netip.MustParsePrefix("2001:db8::/32")},
	}})
	if err != nil {
		log.Fatal(err)
	}

	c, err := dnsfetch.New(dnsfetch.Options{Servers: []string{srv.Addr()}})
	if err != nil {
		log.Fatal(err)
	}
	list, err := c.Fetch(context.Background(), dnsfetch.Request{Name: "block.example"})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(list.Len(), "entries,", list.Layout)
	for prefix, not := range list.All() {
		fmt.Println(prefix, not)
	}

	srv.Fail(dnstest.On{}, dnstest.Refused)
	_, err = c.Fetch(context.Background(), dnsfetch.Request{Name: "block.example"})
	fmt.Println("refused:", errors.Is(err, dnsfetch.ErrRefused))

	// Output:
	// 3 entries, PTR+APL
	// 192.0.2.0/24 false
	// 192.0.2.1/32 true
	// 2001:db8::/32 false
	// refused: true
}
