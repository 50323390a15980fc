package apply

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
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

// All dropped entries and exceptions are named as details, in order; otherwise the first ten of each, and
// the number of all.
func TestNarratesAllAsDetails(t *testing.T) {
	var entries policy.Prefixes
	var exceptions []policy.Exception
	var excepted, dropped []string
	for i := range 25 {
		host := netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})
		wide := netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(10 + 2*i)}), 7)
		entries = append(entries, wide, netip.PrefixFrom(host, 32))
		exceptions = append(exceptions, policy.Exception{Prefix: netip.PrefixFrom(host, 32), Why: "gateway"})
		excepted = append(excepted, fmt.Sprintf("Excepted %v (gateway): listed as %v in a", host, host))
		dropped = append(dropped, fmt.Sprintf("block list a: entry %v dropped: wider than /8", wide))
	}
	entries = append(entries, netip.MustParsePrefix("192.0.2.100/32"), netip.MustParsePrefix("192.0.2.100/32"))
	slices.Reverse(entries) // the order that a server sends them in is not the order of the report
	p, err := policy.Build([]policy.List{{Name: "a", Entries: entries}}, exceptions, policy.Options{MinPrefixV4: 8})
	if err != nil {
		t.Fatal(err)
	}
	details := "  block list a: 27 entries, 1 enforced, 25 excepted, " +
		"1 other (negated, listed before, or with nothing left to block), 25 dropped"
	for _, verbose := range []bool{false, true} {
		var want []string
		named := func(all []string, first string) {
			for i, line := range all {
				if i < shown {
					want = append(want, first+line)
				} else if verbose {
					want = append(want, "  "+line)
				}
			}
		}
		named(excepted, "")
		want = append(want, "Excepted: 25 networks in all")
		if verbose {
			want = append(want, details)
		}
		named(dropped, "warning: ")
		want = append(want, "warning: 25 entries dropped in all")

		var got []string
		line := func(line string) { got = append(got, line) }
		n := &Narrator{Say: line, Warn: line, Verbose: verbose}
		n.exceptions(p.Report)
		if !slices.Equal(got, want) {
			t.Errorf("verbose %v:\n got %s\nwant %s", verbose, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}
