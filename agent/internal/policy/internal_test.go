package policy

import (
	"bytes"
	"cmp"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

// Records of all shapes come out in order, and none is lost: the sorts take
// different ways for few and many, spread and crowded addresses.
func TestSortedRecords(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 5))
	for _, c := range []struct {
		name string
		n    int
		addr func(i int) u128
	}{
		{"none", 0, nil},
		{"one", 1, func(int) u128 { return u128{7 << 32, 0} }},
		{"few", 100, func(int) u128 { return u128{r.Uint64(), r.Uint64()} }},
		{"spread", 3*piece + 1, func(int) u128 { return u128{r.Uint64(), r.Uint64()} }},
		{"ascending", 2 * piece, func(i int) u128 { return u128{uint64(i) << 32, 0} }},
		{"descending", 5 * piece, func(i int) u128 { return u128{uint64(5*piece-i) << 32, 0} }},
		{"crowded", 3 * piece, func(int) u128 { return u128{0x20010db8<<32 | r.Uint64()>>44, r.Uint64() << 60} }},
		{"crowded at the end", 1000, func(int) u128 { return u128{0x20010db8 << 32, r.Uint64() >> 60} }},
		{"across the middle", 1000, func(int) u128 { return u128{r.Uint64() >> 62, r.Uint64() >> 2 << 60} }},
		{"equal addresses", 3 * piece, func(int) u128 { return u128{r.Uint64() & 3 << 40, 1} }},
	} {
		t.Run(c.name, func(t *testing.T) {
			var h4 heap[record4]
			var h6 heap[record6]
			var want4 []record4
			var want6 []record6
			for i := range c.n {
				m := newMeta(uint8(r.IntN(33)), r.IntN(4), r.IntN(2) == 0)
				a := c.addr(i)
				h4.add(newRecord4(a.to4(), m))
				want4 = append(want4, newRecord4(a.to4(), m))
				h6.add(record6{a, m})
				want6 = append(want6, record6{a, m})
			}
			slices.Sort(want4)
			slices.SortFunc(want6, record6.compare)
			if !slices.Equal(sorted4(&h4), want4) {
				t.Error("IPv4 records are not the same, sorted")
			}
			if !slices.Equal(sorted6(&h6), want6) {
				t.Error("IPv6 records are not the same, sorted")
			}
			if h4.n != 0 || h6.n != 0 {
				t.Error("a heap is not empty")
			}
		})
	}
}

// An index keeps within its memory whatever the addresses look like.
func TestIndexSize(t *testing.T) {
	n := 200000
	if RaceEnabled {
		n = 100000
	}
	r := rand.New(rand.NewPCG(8, 8))
	for _, c := range []struct {
		name  string
		lists int
		addr  func(i int) u128
		bits4 func(i int) uint8
	}{
		{"spread", 3, func(int) u128 { return u128{r.Uint64(), r.Uint64()} }, nil},
		{"crowded", 3, func(i int) u128 { return u128{uint64(i%3)<<56 | uint64(i)<<32, uint64(i)} }, nil},
		{"crowds in crowds", 3, func(i int) u128 {
			return u128{uint64(i&1)<<63 | uint64(i>>1&1)<<60 | uint64(i)<<32, uint64(i)}
		}, nil},
		{"many lists", MaxLists, func(i int) u128 { return u128{uint64(i%3)<<56 | uint64(i)<<32, uint64(i)} }, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			var s4, s6 Set
			s4.lists = make([]string, c.lists)
			s6.lists = s4.lists
			addrs := make([]u128, n)
			for i := range addrs {
				addrs[i] = c.addr(i)
			}
			slices.SortFunc(addrs, u128.compare)
			for i, a := range addrs {
				if i == 0 || a.to4() != addrs[i-1].to4() {
					s4.append4(a.to4(), 32, newTag(ListID(i%c.lists), false))
				}
				if i == 0 || a != addrs[i-1] {
					s6.append6(a, 128, newTag(ListID(i%c.lists), false))
				}
			}
			x4, x6 := NewIndex(&s4), NewIndex(&s6)
			if each := float64(x4.size()-256<<10) / float64(s4.Len()); each > 4.3 {
				t.Errorf("%.2f bytes an IPv4 entry", each)
			}
			if each := float64(x6.size()) / float64(s6.Len()); each > 40 {
				t.Errorf("%.2f bytes an IPv6 entry", each)
			}
			for i := range s4.Len() {
				p, _ := s4.At(i)
				if l, e, ok := x4.Lookup(p.Addr()); !ok || e != p || l != s4.ListOf(i) {
					t.Fatalf("%v: found %v of list %d, want list %d", p, e, l, s4.ListOf(i))
				}
				p, _ = s6.At(i)
				if l, e, ok := x6.Lookup(p.Addr()); !ok || e != p || l != s6.ListOf(i) {
					t.Fatalf("%v: found %v of list %d, want list %d", p, e, l, s6.ListOf(i))
				}
			}
		})
	}
}

// Entries of every length, across the bounds of a /16 and on them: the longest
// that covers an address is found.
func TestIndexNested(t *testing.T) {
	r := rand.New(rand.NewPCG(16, 16))
	for round := range 200 {
		type key struct {
			addr uint32
			bits uint8
		}
		listed := map[key]tag{}
		var keys []key
		for range 1 + r.IntN(60) {
			bits := uint8(r.IntN(33))
			if round%2 == 0 {
				bits = 13 + uint8(r.IntN(8))
			}
			k := key{(10<<24 + r.Uint32()&0x7ffff) &^ uint32(uint64(1)<<(32-bits)-1), bits}
			if _, ok := listed[k]; !ok {
				listed[k] = newTag(ListID(r.IntN(3)), r.IntN(3) == 0)
				keys = append(keys, k)
			}
		}
		slices.SortFunc(keys, func(a, b key) int {
			return cmp.Or(cmp.Compare(a.addr, b.addr), cmp.Compare(b.bits, a.bits))
		})
		s := &Set{lists: make([]string, 3)}
		for _, k := range keys {
			s.append4(k.addr, k.bits, listed[k])
		}
		x := NewIndex(s)
		probe := func(a uint32) {
			want, is := netip.Prefix{}, newTag(NoList, true)
			for bits := 32; bits >= 0 && !want.IsValid(); bits-- {
				k := key{a &^ uint32(uint64(1)<<(32-bits)-1), uint8(bits)}
				if l, ok := listed[k]; ok {
					want, is = prefix4(k.addr, k.bits), l
				}
			}
			addr := prefix4(a, 32).Addr()
			if l, e, ok := x.Lookup(addr); e != want || l != is.list() || ok == is.not() {
				t.Fatalf("%v: got %v of list %d, %v; want %v of list %d, %v\nentries %v", addr, e, l, ok, want, is.list(), !is.not(), keys)
			}
		}
		for _, k := range keys {
			last := k.addr | uint32(uint64(1)<<(32-k.bits)-1)
			for _, a := range []uint32{k.addr, k.addr - 1, last, last + 1, k.addr + r.Uint32()%(last-k.addr+1|1)} {
				probe(a)
			}
		}
		for range 300 {
			probe(10<<24 + r.Uint32()&0xfffff)
		}
	}
}

// size returns the bytes that an index holds.
func (x *Index) size() int {
	n := 0
	if x.v4.begin != nil {
		n += len(x.v4.begin) * 4
	}
	n += cap(x.v4.entry)*4 + cap(x.v4.up)*4
	return n + cap(x.find6.parts)*56 + cap(x.find6.slots)*4 + cap(x.entry6)*24
}

// FuzzLoader gives a loader any chunk. What it takes is in order and makes
// the same chunk again.
func FuzzLoader(f *testing.F) {
	f.Add([]byte("\x04\x0a\x01\x02\x00\x20\x00\x01\x0a\x01\x02\x00\x18\x00\x00"))
	f.Add([]byte("\x04\x00\x00\x00\x00\x00\xbf\xff"))
	f.Add([]byte("\x06\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x20\x80\x01"))
	f.Add([]byte("\x06"))
	f.Fuzz(func(t *testing.T, chunk []byte) {
		var n Counts
		if len(chunk) > 0 && chunk[0] == 4 {
			n.V4 = len(chunk) / wire4
		} else {
			n.V6 = len(chunk) / wire6
		}
		l, err := NewLoader([]string{"one", "two"}, n, 1000)
		if err != nil || l.Add(chunk) != nil {
			return
		}
		s, err := l.Set(l.set.Sum())
		if err != nil {
			t.Fatal(err)
		}
		again := chunk[:1:1]
		for c := range s.Chunks(len(chunk)) {
			again = append(again, c[1:]...)
		}
		if !bytes.Equal(again, chunk) {
			t.Errorf("%x came of %x", again, chunk)
		}
		x := NewIndex(s)
		for i := range s.Len() {
			p, _ := s.At(i)
			if _, e, _ := x.Lookup(p.Addr()); e.Addr() != p.Addr() || e.Bits() < p.Bits() {
				t.Errorf("%v decides for %v", e, p)
			}
		}
	})
}
