package dnsfetch

import "testing"

func TestSameEntries(t *testing.T) {
	v6 := func(last byte) v6packed { return v6packed{0x20, 1, 0xd, 0xb8, 15: last, 16: 128} }
	list := func(v4 [][]uint64, v6 [][]v6packed) *List {
		l := &List{v4: v4, v6: v6}
		for _, c := range v4 {
			l.n += len(c)
		}
		for _, c := range v6 {
			l.n += len(c)
		}
		return l
	}
	a := list([][]uint64{{1, 2, 3}, {4}}, [][]v6packed{{v6(1)}, {v6(2)}})
	for name, c := range map[string]struct {
		other *List
		same  bool
	}{
		"itself":           {a, true},
		"cut elsewhere":    {list([][]uint64{{1}, {}, {2, 3, 4}}, [][]v6packed{nil, {v6(1), v6(2)}}), true},
		"another entry":    {list([][]uint64{{1, 2, 3, 5}}, [][]v6packed{{v6(1), v6(2)}}), false},
		"another IPv6":     {list([][]uint64{{1, 2, 3, 4}}, [][]v6packed{{v6(1), v6(3)}}), false},
		"another order":    {list([][]uint64{{2, 1, 3, 4}}, [][]v6packed{{v6(1), v6(2)}}), false},
		"one less":         {list([][]uint64{{1, 2, 3, 4}}, [][]v6packed{{v6(1)}}), false},
		"other families":   {list([][]uint64{{1, 2, 3, 4, 5}}, [][]v6packed{{v6(1)}}), false},
		"nothing":          {list(nil, nil), false},
		"only empty parts": {list([][]uint64{{}, {}}, nil), false},
	} {
		if got := a.SameEntries(c.other); got != c.same {
			t.Errorf("%s: %v", name, got)
		}
		if got := c.other.SameEntries(a); got != c.same {
			t.Errorf("%s, the other way round: %v", name, got)
		}
	}
	if !list(nil, nil).SameEntries(list([][]uint64{{}}, nil)) {
		t.Error("two empty lists")
	}
}
