package policy_test

import (
	"fmt"
	"net/netip"

	"example.org/threatstopd/agent/internal/policy"
)

func Example() {
	lists := []policy.List{
		{Name: "bad.example", Kind: policy.Block, Entries: policy.Prefixes{netip.MustParsePrefix("198.51.100.0/24")}},
		{Name: "worse.example", Kind: policy.Block, Entries: policy.Prefixes{netip.MustParsePrefix("192.0.2.0/24")}},
		{Name: "good.example", Kind: policy.Allow, Entries: policy.Prefixes{netip.MustParsePrefix("192.0.2.53/32")}},
	}
	exceptions := policy.Exceptions(policy.Facts{
		Interfaces: []policy.Interface{{Name: "em0", Addresses: []netip.Prefix{netip.MustParsePrefix("198.51.100.9/24")}}},
	})
	p, err := policy.Build(lists, exceptions, policy.Options{MinPrefixV4: 8, MinPrefixV6: 16})
	if err != nil {
		fmt.Println(err)
		return
	}
	for prefix, not := range p.Block.All() {
		if not {
			fmt.Print("!")
		}
		fmt.Println(prefix)
	}
	for _, x := range p.Report.Excepted {
		fmt.Printf("%v is excepted: %s; %v lists %v\n", x.Prefix, x.Why, p.Block.Lists()[x.Entries[0].List], x.Entries[0].Prefix())
	}
	list, entry, ok := p.Block.Lookup(netip.MustParseAddr("198.51.100.66"))
	fmt.Println(p.Block.Lists()[list], entry, ok)
	// Output:
	// 192.0.2.0/24
	// !192.0.2.53/32
	// 198.51.100.0/24
	// !198.51.100.9/32
	// 198.51.100.9/32 is excepted: own address of em0; bad.example lists 198.51.100.0/24
	// bad.example 198.51.100.0/24 true
}
