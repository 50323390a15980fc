package policy

import (
	"net/netip"
	"testing"
)

func TestNewlyBlocked(t *testing.T) {
	index := func(entries ...string) *Index {
		b := NewBuilder(Options{})
		id := b.List("test", Block)
		for _, s := range entries {
			b.Add(id, netip.MustParsePrefix(s), false)
		}
		p, err := b.Build()
		if err != nil {
			t.Fatal(err)
		}
		return NewIndex(p.Block)
	}
	old := index("10.0.0.0/24", "10.2.0.0/24", "2001:db8:1::/48")
	new := index("10.0.0.0/16", "10.3.0.1/32", "2001:db8::/32")
	own := []netip.Addr{netip.MustParseAddr("10.0.9.9"), netip.MustParseAddr("2001:db8:9::9")}
	newly := NewlyBlocked(old, new, own)
	for a, want := range map[string]bool{
		"10.0.0.1":         false, // as before
		"10.0.1.1":         true,
		"::ffff:10.0.1.1":  true,
		"10.2.0.1":         false, // not any more
		"10.3.0.1":         true,
		"10.3.0.2":         false, // never
		"10.0.9.9":         false, // own
		"::ffff:10.0.9.9":  false,
		"2001:db8:1::1":    false,
		"2001:db8:2::1":    true,
		"2001:db8:9::9":    false,
		"2001:db8:9::9%em": false,
		"2001:db9::1":      false,
	} {
		if got := newly(netip.MustParseAddr(a)); got != want {
			t.Errorf("%s: %v, want %v", a, got, want)
		}
	}
	if newly(netip.Addr{}) {
		t.Error("no address is newly blocked")
	}
	for _, f := range []func(netip.Addr) bool{NewlyBlocked(nil, new, nil), NewlyBlocked(old, nil, nil)} {
		if f(netip.MustParseAddr("10.0.1.1")) || f(netip.MustParseAddr("10.0.0.1")) {
			t.Error("newly blocked without one of the two")
		}
	}
}
