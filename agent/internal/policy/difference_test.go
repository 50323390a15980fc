package policy_test

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"example.org/threatstopd/agent/internal/policy"
)

// Each address is in the difference exactly when look-ups say so.
func TestDifference(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	u := universe{netip.MustParsePrefix("255.255.255.192/26"), 6}
	for range 300 {
		sets := make([]*policy.Set, 2)
		for i := range sets {
			s := randomScene(r, u.width)
			s.block = append(s.block, []item{{block{0, 0}, r.IntN(2) == 0}})
			sets[i] = s.build(t, u, policy.Options{}).Block
		}
		own := []netip.Addr{u.prefix(block{r.IntN(64), 6}).Addr()}
		cut, err := policy.Difference(sets[0], sets[1], own)
		if err != nil {
			t.Fatal(err)
		}
		now, before, got := sets[0], sets[1], cut
		for a := range 64 {
			addr := u.prefix(block{a, 6}).Addr()
			_, _, is := now.Lookup(addr)
			_, _, was := before.Lookup(addr)
			if _, _, ok := got.Lookup(addr); ok != (is && !was && !slices.Contains(own, addr)) {
				t.Fatalf("%v: in the difference %v, now %v, before %v, own %v", addr, ok, is, was, own)
			}
		}
	}
	if cut, err := policy.Difference(nil, nil, nil); err != nil || cut.Len() != 0 {
		t.Errorf("nothing and nothing differ: %v, %v", cut, err)
	}
}
