package policy

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

// randomSet makes a table of nested and negated entries among few addresses, and now
// and then of all of them.
func randomSet(t *testing.T, r *rand.Rand) *Set {
	t.Helper()
	b := NewBuilder(Options{})
	id := b.List("test", Block)
	for range r.IntN(12) {
		var p netip.Prefix
		switch r.IntN(9) {
		case 0:
			p = netip.MustParsePrefix([]string{"0.0.0.0/0", "::/0", "128.0.0.0/1", "8000::/1", "255.255.255.255/32"}[r.IntN(5)])
		case 1, 2, 3:
			p = netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 15: byte(r.IntN(64))}), 122+r.IntN(7))
		default:
			p = netip.PrefixFrom(netip.AddrFrom4([4]byte{255, 255, 255, 192 + byte(r.IntN(64))}), 26+r.IntN(7))
		}
		b.Add(id, p.Masked(), r.IntN(4) == 0)
	}
	p, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	return p.Block
}

// Each address is in the difference exactly when look-ups say so.
func TestDifference(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	var probes []netip.Addr
	for i := range 66 {
		probes = append(probes, netip.AddrFrom4([4]byte{255, 255, 255, byte(190 + i)}), netip.AddrFrom16([16]byte{0x20, 15: byte(i)}))
	}
	for _, s := range []string{"0.0.0.0", "127.255.255.255", "128.0.0.0", "::", "7fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "8000::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"} {
		probes = append(probes, netip.MustParseAddr(s))
	}
	most, rounds := 0, 3000
	if RaceEnabled {
		rounds = 300
	}
	for range rounds {
		old, new := randomSet(t, r), randomSet(t, r)
		var own []netip.Addr
		for range r.IntN(4) {
			own = append(own, probes[r.IntN(len(probes))])
		}
		got := Difference(new, old, own)
		before, now := NewIndex(old), NewIndex(new)
		for _, a := range probes {
			_, _, was := before.Lookup(a)
			_, _, is := now.Lookup(a)
			if want := is && !was && !slices.Contains(own, a); got.Contains(a) != want {
				t.Fatalf("%v: %v, want %v", a, !want, want)
			}
			if a.Is4() && got.Contains(netip.AddrFrom16(a.As16())) != got.Contains(a) {
				t.Fatalf("%v mapped is another address", a)
			}
		}
		most = max(most, got.Len())
		// What goes over the wire is the same, and the other side finds nothing
		// wrong with it.
		l := NewRangesLoader(got.Len())
		for c := range got.Chunks(33 + r.IntN(60)) {
			if err := l.Add(c); err != nil {
				t.Fatalf("%v: %v", got, err)
			}
		}
		back, err := l.Ranges()
		if err != nil || !slices.Equal(back.v4, got.v4) || !slices.Equal(back.v6, got.v6) {
			t.Fatalf("%v, %v, want %v", back, err, got)
		}
		n := 0
		for p := range got.Parts(3) {
			if p.Len() == 0 || p.Len() > 3 {
				t.Fatalf("a part of %d", p.Len())
			}
			n += p.Len()
		}
		if n != got.Len() {
			t.Fatalf("%d ranges in parts, of %d", n, got.Len())
		}
	}
	if most < 8 {
		t.Errorf("no difference had more than %d ranges", most)
	}
}

func TestDifferenceWithNothing(t *testing.T) {
	set := randomSet(t, rand.New(rand.NewPCG(1, 3)))
	if set.Len() == 0 {
		t.Fatal("no entries")
	}
	if n := Difference(set, set, nil).Len(); n != 0 {
		t.Errorf("a set differs from itself in %d ranges", n)
	}
	if n := Difference(nil, set, nil).Len(); n != 0 {
		t.Errorf("nothing has %d ranges more", n)
	}
	all := Difference(set, nil, nil)
	x := NewIndex(set)
	for i := range 256 {
		a := netip.AddrFrom4([4]byte{255, 255, 255, byte(i)})
		if _, _, ok := x.Lookup(a); ok != all.Contains(a) {
			t.Errorf("%v: %v", a, !ok)
		}
	}
	if all.Contains(netip.Addr{}) || (*Ranges)(nil).Contains(netip.MustParseAddr("10.0.0.1")) || (*Ranges)(nil).Len() != 0 {
		t.Error("no address is in no range")
	}
	for range (*Ranges)(nil).Parts(1) {
		t.Error("a part of nothing")
	}
}

func TestRangesFromStrangers(t *testing.T) {
	const end6 = "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"
	one := "\x04\x0a\x00\x00\x00\x0a\x00\x00\xff"
	ip6 := func(first, last byte) string {
		return string(bytes.Repeat([]byte{0}, 15)) + string(first) + string(bytes.Repeat([]byte{0}, 15)) + string(last)
	}
	for _, tt := range []struct {
		name   string
		chunks []string
		want   string
	}{
		{"nothing", []string{""}, "policy: chunk of no ranges"},
		{"a family alone", []string{"\x04"}, "policy: chunk of no ranges"},
		{"another family", []string{"\x050123456789abcdef"}, "policy: chunk of ranges of family 5 with 17 bytes"},
		{"half a range", []string{"\x04\x0a\x00\x00\x00"}, "policy: chunk of ranges of family 4 with 5 bytes"},
		{"backwards", []string{"\x04\x0a\x00\x00\x02\x0a\x00\x00\x01"}, "policy: IPv4 range 0: ends before it begins, or touches the one before"},
		{"twice", []string{one, one}, "policy: IPv4 range 1: ends before it begins, or touches the one before"},
		{"touching", []string{one, "\x04\x0a\x00\x01\x00\x0a\x00\x01\x01"}, "policy: IPv4 range 1: ends before it begins, or touches the one before"},
		{"behind the end", []string{"\x04\x0a\x00\x00\x00\xff\xff\xff\xff", "\x04\x00\x00\x00\x00\x00\x00\x00\x00"}, "policy: IPv4 range 1: ends before it begins, or touches the one before"},
		{"families the wrong way round", []string{"\x06" + ip6(1, 1), one}, "policy: chunk of IPv4 ranges comes after IPv6 ranges"},
		{"IPv6 backwards", []string{"\x06" + ip6(2, 1)}, "policy: IPv6 range 0: ends before it begins, or touches the one before"},
		{"IPv6 touching", []string{"\x06" + ip6(1, 2) + ip6(3, 4)}, "policy: IPv6 range 1: ends before it begins, or touches the one before"},
		{"IPv6 behind the end", []string{"\x06" + ip6(1, 2)[:16] + end6, "\x06" + ip6(0, 0)}, "policy: IPv6 range 1: ends before it begins, or touches the one before"},
		{"too many", []string{one, "\x06" + ip6(1, 1), "\x06" + ip6(3, 3)}, "policy: too many ranges, the limit is 2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := NewRangesLoader(2)
			var err error
			for _, c := range tt.chunks {
				err = l.Add([]byte(c))
			}
			if err == nil || err.Error() != tt.want {
				t.Errorf("%v, want %s", err, tt.want)
			}
			if _, again := l.Ranges(); !errors.Is(again, err) {
				t.Errorf("taken all the same: %v", again)
			}
		})
	}
}

// Whatever is loaded is what its bytes say, in order.
func FuzzRanges(f *testing.F) {
	f.Add([]byte("\x04\x0a\x00\x00\x00\x0a\x00\x00\xff\x0b\x00\x00\x00\x0b\x00\x00\xff"))
	f.Add(append([]byte{6}, make([]byte, 32)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		l := NewRangesLoader(4)
		if l.Add(b) != nil {
			return
		}
		r, err := l.Ranges()
		if err != nil || r.Len() == 0 || r.Len() > 4 {
			t.Fatalf("%v, %v", r, err)
		}
		for c := range r.Chunks(len(b)) {
			if !bytes.Equal(c, b) {
				t.Fatalf("%x, not %x", c, b)
			}
		}
	})
}

// 1,000,000 entries before, and 10,000 more now.
func BenchmarkDifference(b *testing.B) {
	set := func(n int) *Set {
		x := NewBuilder(Options{})
		id := x.List("test", Block)
		for i := range n {
			a := uint32(i)*2654435761>>1 | 1<<31
			if i < 1_000_000 {
				a &^= 1 << 31
			}
			x.Add(id, prefix4(a, 32), false)
		}
		p, err := x.Build()
		if err != nil {
			b.Fatal(err)
		}
		return p.Block
	}
	old, new := set(1_000_000), set(1_010_000)
	b.ReportAllocs()
	for b.Loop() {
		if n := Difference(new, old, nil).Len(); n < 9_000 || n > 10_000 {
			b.Fatal(n)
		}
	}
}
