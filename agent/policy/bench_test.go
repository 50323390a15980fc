package policy_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"example.org/threatstopd/agent/policy"
)

// random4 returns n entries with different addresses in random order, hosts
// and one network in twenty.
func random4(n int) []netip.Prefix {
	r := rand.New(rand.NewPCG(4, uint64(n)))
	ps := make([]netip.Prefix, n)
	seen := make(map[uint32]bool, n)
	for i := range ps {
		a := r.Uint32()%0xdf000000 + 0x01000000
		bits := 32
		if i%20 == 0 {
			bits = 16 + r.IntN(16)
			a &^= 1<<(32-bits) - 1
		}
		if seen[a] {
			a++
			bits = 32
		}
		seen[a] = true
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], a)
		ps[i] = netip.PrefixFrom(netip.AddrFrom4(b), bits)
	}
	return ps
}

// random6 returns n hosts in some hundred networks, as they are found in the
// wild.
func random6(n int) []netip.Prefix {
	r := rand.New(rand.NewPCG(6, uint64(n)))
	ps := make([]netip.Prefix, n)
	for i := range ps {
		var b [16]byte
		binary.BigEndian.PutUint64(b[:8], []uint64{0x2001<<48 | 0xdb8<<32, 0x2a00<<48 | 0x1450<<32, 0x2606<<48 | 0x4700<<32}[r.IntN(3)]|uint64(r.IntN(100))<<16|uint64(r.IntN(1<<16)))
		binary.BigEndian.PutUint64(b[8:], r.Uint64())
		ps[i] = netip.PrefixFrom(netip.AddrFrom16(b), 128)
	}
	return ps
}

func exceptions() []policy.Exception {
	return policy.Exceptions(policy.Facts{
		Interfaces: []policy.Interface{
			{Name: "em0", Addresses: []netip.Prefix{netip.MustParsePrefix("203.0.113.7/24"), netip.MustParsePrefix("2001:db8:1::7/64")}},
			{Name: "em1", Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/16")}},
		},
		Gateways:  []netip.Addr{netip.MustParseAddr("203.0.113.1")},
		Resolvers: []netip.Addr{netip.MustParseAddr("9.9.9.9")},
	})
}

func BenchmarkBuild(b *testing.B) {
	for _, c := range []struct {
		name      string
		entries   []netip.Prefix
		aggregate bool
	}{
		{"v4/26424", random4(26424), false},
		{"v4/1M", random4(1_000_000), false},
		{"v4/4M", random4(4_000_000), false},
		{"v6/1M", random6(1_000_000), false},
		{"v4/1M/aggregate", random4(1_000_000), true},
		{"v6/1M/aggregate", random6(1_000_000), true},
	} {
		b.Run(c.name, func(b *testing.B) {
			x := exceptions()
			b.ReportAllocs()
			for b.Loop() {
				bl := policy.NewBuilder(policy.Options{MinPrefixV4: 8, MinPrefixV6: 16, Aggregate: c.aggregate})
				id := bl.List("block", policy.Block)
				for _, p := range c.entries {
					bl.Add(id, p, false)
				}
				for _, e := range x {
					bl.Except(e.Prefix, e.Why)
				}
				if _, err := bl.Build(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(c.entries)), "ns/entry")
		})
	}
}

func mustBuild(tb testing.TB, ps []netip.Prefix) *policy.Set {
	bl := policy.NewBuilder(policy.Options{})
	id := bl.List("block", policy.Block)
	for _, p := range ps {
		bl.Add(id, p, false)
	}
	p, err := bl.Build()
	if err != nil {
		tb.Fatal(err)
	}
	return p.Block
}

func BenchmarkIndexBuild(b *testing.B) {
	for _, c := range []struct {
		name string
		set  *policy.Set
	}{{"v4/1M", mustBuild(b, random4(1_000_000))}, {"v6/1M", mustBuild(b, random6(1_000_000))}} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				policy.NewIndex(c.set)
			}
		})
	}
}

func BenchmarkLookup(b *testing.B) {
	for _, f := range []struct {
		name    string
		entries []netip.Prefix
	}{{"v4", random4(1_000_000)}, {"v6", random6(1_000_000)}} {
		x := policy.NewIndex(mustBuild(b, f.entries))
		r := rand.New(rand.NewPCG(7, 7))
		hits := make([]netip.Addr, 1<<16)
		misses := make([]netip.Addr, 1<<16)
		for i := range hits {
			hits[i] = f.entries[r.IntN(len(f.entries))].Addr()
			for {
				a := hits[r.IntN(i+1)].AsSlice()
				a[len(a)-1], a[len(a)-2], a[len(a)-3] = byte(r.Uint32()), byte(r.Uint32()), byte(r.Uint32())
				misses[i], _ = netip.AddrFromSlice(a)
				if _, _, ok := x.Lookup(misses[i]); !ok {
					break
				}
			}
		}
		for _, c := range []struct {
			name  string
			addrs []netip.Addr
			want  bool
		}{{"hit", hits, true}, {"miss", misses, false}} {
			b.Run(fmt.Sprintf("%s/%s", f.name, c.name), func(b *testing.B) {
				b.ReportAllocs()
				i := 0
				for b.Loop() {
					if _, _, ok := x.Lookup(c.addrs[i&(1<<16-1)]); ok != c.want {
						b.Fatal(c.addrs[i])
					}
					i++
				}
			})
		}
	}
}

// The worst case for entries as listed: all within one network, which is torn
// by exceptions.
func BenchmarkTorn(b *testing.B) {
	entries := random4(1_000_000)
	b.ReportAllocs()
	for b.Loop() {
		bl := policy.NewBuilder(policy.Options{})
		id := bl.List("block", policy.Block)
		bl.Add(id, netip.MustParsePrefix("0.0.0.0/0"), false)
		for i, p := range entries {
			if i%10 == 0 {
				bl.Except(p, "exception")
			} else {
				bl.Add(id, p, false)
			}
		}
		if _, err := bl.Build(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAll(b *testing.B) {
	s := mustBuild(b, random4(1_000_000))
	b.ReportAllocs()
	for b.Loop() {
		n := 0
		for p, not := range s.All() {
			if p.Bits() > 0 && !not {
				n++
			}
		}
		if n != s.Len() {
			b.Fatal(n)
		}
	}
}

func BenchmarkEqual(b *testing.B) {
	s, t := mustBuild(b, random4(1_000_000)), mustBuild(b, random4(1_000_000))
	b.ReportAllocs()
	for b.Loop() {
		if !s.Equal(t) {
			b.Fatal("not equal")
		}
	}
}

func BenchmarkSum(b *testing.B) {
	s := mustBuild(b, random4(1_000_000))
	b.ReportAllocs()
	for b.Loop() {
		s.Sum()
	}
}

func BenchmarkExceptions(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		exceptions()
	}
}

func BenchmarkGuard(b *testing.B) {
	g := policy.Guard{MaxShrink: policy.DefaultMaxShrink, Hold: policy.DefaultHold}
	now := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		g.Check(26424, 26400, time.Time{}, now, false)
	}
}
