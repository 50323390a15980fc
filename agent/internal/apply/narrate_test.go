package apply

import (
	"net/netip"
	"testing"

	"example.org/threatstopd/agent/internal/policy"
)

func TestNarratesExceptions(t *testing.T) {
	lists := []policy.ListReport{{Name: "a"}, {Name: "b"}}
	listed := func(ids ...policy.ListID) (all []policy.Entry) {
		for i, id := range ids {
			all = append(all, policy.NewEntry(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}), 32), false, id))
		}
		return all
	}
	for want, x := range map[string]policy.Excepted{
		"10.0.0.1 in a":                {Inside: 1, Entries: listed(0)},
		"10.0.0.1 in a, 10.0.0.2 in b": {Inside: 1, Around: 1, Entries: listed(0, 1)},
		"10.0.0.1 in a, 10.0.0.2 in a, 10.0.0.3 in a and 1 more": {Inside: 4, Entries: listed(0, 0, 0, 1)},
	} {
		if got := listedAs(x, lists); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
