package pfsim_test

import (
	"fmt"
	"net/netip"
	"os"
	"strings"

	"example.org/threatstopd/pfioctl"
	"example.org/threatstopd/pfioctl/pfsim"
)

// A ruleset is loaded, a table filled through the device, and packets are
// shown to it.
func Example() {
	k := pfsim.New(pfsim.Options{})
	k.SetRunning(true)
	bad := pfioctl.Table{Name: "bad"}
	err := k.LoadRules(pfsim.Ruleset{
		Tables: []pfsim.TableLine{{Table: bad, Flags: pfioctl.TablePersist}},
		Rules: []pfsim.Rule{
			{Action: pfioctl.ActionBlock, Dir: pfioctl.DirIn, Quick: true, Log: true, From: pfsim.Peer{Table: "bad"}},
			{Action: pfioctl.ActionPass},
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}

	pf := k.OpenPF()
	_, err = pf.Add(bad,
		pfioctl.Addr{Prefix: netip.MustParsePrefix("192.0.2.0/24")},
		pfioctl.Addr{Prefix: netip.MustParsePrefix("192.0.2.7/32"), Not: true})
	if err != nil {
		fmt.Println(err)
		return
	}

	for _, src := range []string{"192.0.2.1", "192.0.2.7"} {
		v := k.Verdict(pfsim.Packet{
			Src: netip.MustParseAddr(src), Dst: netip.MustParseAddr("198.51.100.1"),
			Dir: pfioctl.DirIn, Iface: "em0", Bytes: 60,
		})
		fmt.Println(src, v.Action == pfioctl.ActionBlock, "rule", v.Rule, "log", v.Log)
	}
	// Output:
	// 192.0.2.1 true rule 0 log true
	// 192.0.2.7 false rule 1 log false
}

// The limit of entries is that of a real machine: what would pass it is
// refused, and the table stays.
func ExampleKernel_LoadFile() {
	k := pfsim.New(pfsim.Options{MaxEntries: 3})
	bad := pfioctl.Table{Name: "bad"}
	for _, file := range []string{"192.0.2.1\n!192.0.2.2\n", "198.51.100.0/24\n203.0.113.0/24\n"} {
		if err := k.LoadFile(bad, pfioctl.TablePersist, strings.NewReader(file)); err != nil {
			fmt.Println(err)
		}
	}
	k.WriteShow(os.Stdout, bad, false)
	// Output:
	// cannot define table bad: cannot allocate memory
	//    192.0.2.1
	//   !192.0.2.2
}
