package dnsfetch

import (
	"net/netip"
	"testing"
)

func TestSameEntries(t *testing.T) {
	list := func(chunks ...[]Entry) *List { return &List{Chunks: chunks} }
	e := func(s string) Entry { return MakeEntry(netip.MustParsePrefix(s), false) }
	a := list([]Entry{e("10.0.0.0/8"), e("2001:db8::/32")}, []Entry{e("10.0.0.0/9")})
	for name, c := range map[string]struct {
		other *List
		same  bool
	}{
		"itself":        {a, true},
		"a copy":        {list([]Entry{e("10.0.0.0/8"), e("2001:db8::/32")}, []Entry{e("10.0.0.0/9")}), true},
		"another entry": {list([]Entry{e("10.0.0.0/8"), e("2001:db8::/33")}, []Entry{e("10.0.0.0/9")}), false},
		"another order": {list([]Entry{e("2001:db8::/32"), e("10.0.0.0/8")}, []Entry{e("10.0.0.0/9")}), false},
		"one less":      {list([]Entry{e("10.0.0.0/8"), e("2001:db8::/32")}), false},
		"nothing":       {list(), false},
	} {
		if got := a.SameEntries(c.other); got != c.same {
			t.Errorf("%s: %v", name, got)
		}
	}
}
