package pfioctl_test

import (
	"errors"
	"fmt"
	"log"
	"net/netip"
	"os"
	"syscall"
	"time"

	"example.org/threatstopd/pfioctl"
	"example.org/threatstopd/pfioctl/pfsim"
)

// entries makes entries of what pfctl would be given.
func entries(prefixes ...string) []pfioctl.Addr {
	var out []pfioctl.Addr
	for _, s := range prefixes {
		not := s[0] == '!'
		if not {
			s = s[1:]
		}
		out = append(out, pfioctl.Addr{Prefix: netip.MustParsePrefix(s), Not: not})
	}
	return out
}

// newPF is pf in memory. A program on OpenBSD calls pfioctl.Open.
func newPF() *pfioctl.PF {
	return pfsim.New(pfsim.Options{MaxEntries: 5}).OpenPF()
}

func Example() {
	pf := newPF()
	bad := pfioctl.Table{Name: "bad"}
	if _, err := pf.AddTables(pfioctl.TablePersist, bad); err != nil {
		log.Fatal(err)
	}
	delta, err := pf.Set(bad, 3, seq(entries("203.0.113.0/24", "!203.0.113.7/32", "2001:db8::/32")))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%d added, %d deleted\n", delta.Added, delta.Deleted)

	got, err := pf.Get(bad)
	if err != nil {
		log.Fatal(err)
	}
	for _, a := range got {
		fmt.Println(a)
	}
	// Output:
	// 3 added, 0 deleted
	// 203.0.113.0/24
	// !203.0.113.7
	// 2001:db8::/32
}

func ExamplePF_SetAddrs() {
	pf := newPF()
	bad := pfioctl.Table{Name: "bad"}
	if _, err := pf.AddTables(pfioctl.TablePersist, bad); err != nil {
		log.Fatal(err)
	}
	if _, err := pf.Set(bad, 0, seq(entries("192.0.2.1/32", "192.0.2.2/32"))); err != nil {
		log.Fatal(err)
	}

	// SetAddrs stops all packets while it works: find out whether there is
	// anything to change.
	array, err := pfioctl.NewAddrs(2)
	if err != nil {
		log.Fatal(err)
	}
	defer array.Close()
	for _, e := range entries("192.0.2.2/32", "192.0.2.3/32") {
		if err := array.Append(e.Prefix, e.Not); err != nil {
			log.Fatal(err)
		}
	}
	delta, err := pf.Compare(bad, array)
	if err != nil {
		log.Fatal(err)
	}
	if !delta.Zero() {
		delta, err = pf.SetAddrs(bad, array)
		fmt.Println(delta, err)
	}
	// Output:
	// {1 1 0} <nil>
}

func ExamplePF_Test() {
	pf := newPF()
	bad := pfioctl.Table{Name: "bad"}
	if _, err := pf.AddTables(0, bad); err != nil {
		log.Fatal(err)
	}
	if _, err := pf.Set(bad, 0, seq(entries("10.0.0.0/8", "!10.1.0.0/16", "10.1.2.3/32"))); err != nil {
		log.Fatal(err)
	}
	results, err := pf.Test(bad, netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("10.1.9.9"), netip.MustParseAddr("192.0.2.1"))
	if err != nil {
		log.Fatal(err)
	}
	for _, r := range results {
		fmt.Println(r.Addr, r.Match, r.Found, r.Entry)
	}
	// Output:
	// 10.1.2.3 true true 10.1.2.3
	// 10.1.9.9 false true !10.1.0.0/16
	// 192.0.2.1 false false invalid Prefix
}

func ExampleError_Advice() {
	pf := newPF()
	_, err := pf.Set(pfioctl.Table{Name: "bad"}, 0, seq(entries("192.0.2.1/32")))
	var e *pfioctl.Error
	if errors.As(err, &e) && errors.Is(err, syscall.ESRCH) {
		fmt.Println(e.Advice())
	}
	// Output:
	// the table is not defined: add `table <bad> persist` to /etc/pf.conf and load it with pfctl -f
}

func ExamplePF_Add() {
	pf := newPF() // with room for five entries
	bad := pfioctl.Table{Name: "bad"}
	if _, err := pf.AddTables(0, bad); err != nil {
		log.Fatal(err)
	}
	added, err := pf.Add(bad, entries("192.0.2.1/32", "192.0.2.2/32", "192.0.2.1/32")...)
	fmt.Println(added, err)
	// A real kernel would wait for ever with the next one.
	added, err = pf.Add(bad, entries("192.0.2.3/32", "192.0.2.4/32", "192.0.2.5/32")...)
	fmt.Println(added, err)
	// Output:
	// 2 <nil>
	// 0 pf table bad: add 3 addresses: would reach the limit, where the kernel waits without end (used 2 + new 3, limit 5)
}

func ExamplePF_Rules() {
	k := pfsim.New(pfsim.Options{})
	err := k.LoadRules(pfsim.Ruleset{
		Tables: []pfsim.TableLine{{Table: pfioctl.Table{Name: "bad"}, Flags: pfioctl.TablePersist}},
		Rules: []pfsim.Rule{
			{Anchor: "threatstop"},
			{Action: pfioctl.ActionPass},
		},
		Anchors: map[string][]pfsim.Rule{"threatstop": {
			{Action: pfioctl.ActionBlock, Dir: pfioctl.DirIn, Log: true, Quick: true, From: pfsim.Peer{Table: "bad"}},
		}},
	})
	if err != nil {
		log.Fatal(err)
	}
	rules, err := k.OpenPF().Rules()
	if err != nil {
		log.Fatal(err)
	}
	for i := range rules.Rules {
		r := &rules.Rules[i]
		fmt.Printf("@%d %v\n", r.Nr, r)
		for _, called := range r.Called {
			for i := range called.Rules {
				fmt.Printf("  @%d %v\n", called.Rules[i].Nr, &called.Rules[i])
			}
		}
	}
	// Output:
	// @0 anchor "threatstop" all
	//   @0 block drop in log quick from <bad> to any
	// @1 pass all flags S/SA
}

func ExamplePF_Tables() {
	k := pfsim.New(pfsim.Options{Now: func() time.Time { return time.Unix(1_800_000_000, 0) }})
	pf := k.OpenPF()
	if _, err := pf.AddTables(0, pfioctl.Table{Name: "bad"}, pfioctl.Table{Anchor: "a", Name: "bad"}); err != nil {
		log.Fatal(err)
	}
	tables, err := pf.AllTables()
	if err != nil {
		log.Fatal(err)
	}
	for _, t := range tables {
		fmt.Fprintf(os.Stdout, "%v: %d addresses since %v\n", t.Table, t.Addresses, t.Cleared.UTC())
	}
	// Output:
	// bad: 0 addresses since 2027-01-15 08:00:00 +0000 UTC
	// bad in anchor a: 0 addresses since 2027-01-15 08:00:00 +0000 UTC
}
