package policy_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"example.org/threatstopd/agent/internal/policy"
)

// sizes are those of lists: the vendor's usual ones, a large public one, and
// more than anyone has.
var sizes = []struct {
	name string
	n    int
}{{"26k", 26_424}, {"120k", 120_430}, {"1M", 1_000_000}}

// data returns n entries of a family, the same each time.
func data(family string, n int) []netip.Prefix {
	if family == "v6" {
		return random6(n)
	}
	return random4(n)
}

// random4 returns n entries in random order, one in twenty a network.
func random4(n int) []netip.Prefix {
	ps := make([]netip.Prefix, n)
	for i, at := 0, uint32(0); i < n; at++ {
		// Each number comes once: all steps can be undone.
		a := at
		a = (a ^ a>>16) * 0x85ebca6b
		a = (a ^ a>>13) * 0xc2b2ae35
		a ^= a >> 16
		bits := 32
		if i%20 == 0 {
			bits = 16 + i/20%16
			a &^= 1<<(32-bits) - 1
		}
		if a < 1<<24 || a >= 224<<24 {
			continue
		}
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], a)
		ps[i] = netip.PrefixFrom(netip.AddrFrom4(b), bits)
		i++
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

// made builds the policy of block lists, each of the entries named by its
// bounds, and of exceptions.
func made(tb testing.TB, o policy.Options, entries []netip.Prefix, lists [][2]int, except []policy.Exception) *policy.Policy {
	var all []policy.List
	for i, l := range lists {
		all = append(all, policy.List{Name: fmt.Sprintf("block%d", i), Kind: policy.Block, Entries: policy.Prefixes(entries[l[0]:l[1]])})
	}
	p, err := policy.Build(all, except, o)
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

func mustBuild(tb testing.TB, ps []netip.Prefix) *policy.Set {
	return made(tb, policy.Options{}, ps, [][2]int{{0, len(ps)}}, nil).Block
}

func perSecond(b *testing.B, n int) {
	b.ReportMetric(float64(b.N)*float64(n)/b.Elapsed().Seconds(), "entries/s")
}

// BenchmarkBuild makes the policy of one list, with the exceptions of a host.
func BenchmarkBuild(b *testing.B) {
	limits := policy.Options{MinPrefixV4: 8, MinPrefixV6: 16}
	bench := func(name string, o policy.Options, family string, n int) {
		b.Run(name, func(b *testing.B) {
			entries, x := data(family, n), exceptions()
			b.ReportAllocs()
			for b.Loop() {
				made(b, o, entries, [][2]int{{0, n}}, x)
			}
			perSecond(b, n)
		})
	}
	for _, s := range sizes {
		bench("v4/"+s.name, limits, "v4", s.n)
	}
	bench("v4/4M", limits, "v4", 4_000_000)
	bench("v6/1M", limits, "v6", 1_000_000)
	limits.Aggregate = true
	bench("aggregate/v4/1M", limits, "v4", 1_000_000)
	bench("aggregate/v6/1M", limits, "v6", 1_000_000)
}

// BenchmarkMerge makes one policy of four lists, a quarter of each of which
// the next one has as well.
func BenchmarkMerge(b *testing.B) {
	for _, s := range sizes {
		b.Run("4lists/"+s.name, func(b *testing.B) {
			entries := random4(s.n)
			var lists [][2]int
			for i := range 4 {
				lists = append(lists, [2]int{i * s.n / 4, min(s.n, (4*i+5)*s.n/16)})
			}
			b.ReportAllocs()
			for b.Loop() {
				if n := made(b, policy.Options{}, entries, lists, nil).Block.Len(); n < s.n*99/100 {
					b.Fatal(n)
				}
			}
			perSecond(b, s.n)
		})
	}
}

// BenchmarkExceptions finds the exceptions of a host, and makes a policy whose
// entries are torn by exceptions as they never will be: everything is listed,
// and each tenth of a list in it is excepted.
func BenchmarkExceptions(b *testing.B) {
	b.Run("host", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			exceptions()
		}
	})
	b.Run("torn/1M", func(b *testing.B) {
		entries := append(random4(1_000_000), netip.MustParsePrefix("0.0.0.0/0"))
		var torn []policy.Exception
		for _, p := range entries[:100_000] {
			torn = append(torn, policy.Exception{Prefix: p, Why: "exception"})
		}
		b.ReportAllocs()
		for b.Loop() {
			made(b, policy.Options{}, entries, [][2]int{{100_000, len(entries)}}, torn)
		}
		perSecond(b, len(entries))
	})
}

func BenchmarkGuard(b *testing.B) {
	g := policy.Guard{MaxShrink: policy.DefaultMaxShrink, Hold: policy.DefaultHold}
	now := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		g.Check(26424, 26400, time.Time{}, now, false)
	}
}

// BenchmarkEmit ranges over the entries of a set, as for pf and for the file.
func BenchmarkEmit(b *testing.B) {
	for _, family := range []string{"v4", "v6"} {
		b.Run(family+"/1M", func(b *testing.B) {
			s := mustBuild(b, data(family, 1_000_000))
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
			perSecond(b, s.Len())
		})
	}
}

// BenchmarkSet is what else is done with a set: it is compared with another,
// summed up, and sent to another process as chunks.
func BenchmarkSet(b *testing.B) {
	const n = 1_000_000
	b.Run("sum/1M", func(b *testing.B) {
		s := mustBuild(b, random4(n))
		b.ReportAllocs()
		for b.Loop() {
			s.Sum()
		}
		perSecond(b, n)
	})
	b.Run("chunks/1M", func(b *testing.B) {
		s := mustBuild(b, random4(n))
		sum := s.Sum()
		b.ReportAllocs()
		for b.Loop() {
			l, err := policy.NewLoader(s.Lists(), s.Counts(), n)
			if err != nil {
				b.Fatal(err)
			}
			for c := range s.Chunks(16 << 10) {
				if err := l.Add(c); err != nil {
					b.Fatal(err)
				}
			}
			if _, err := l.Set(sum); err != nil {
				b.Fatal(err)
			}
		}
		perSecond(b, n)
	})
}

// BenchmarkLookup looks up addresses that are listed, and their neighbours that
// are not.
func BenchmarkLookup(b *testing.B) {
	for _, family := range []string{"v4", "v6"} {
		for _, s := range []struct {
			name string
			n    int
		}{{"120k", 120_430}, {"1M", 1_000_000}} {
			for _, want := range []bool{true, false} {
				name := "hit"
				if !want {
					name = "miss"
				}
				b.Run(family+"/"+name+"/"+s.name, func(b *testing.B) {
					entries := data(family, s.n)
					x := mustBuild(b, entries)
					addrs := sought(x, entries, want)
					b.ReportAllocs()
					i := 0
					for b.Loop() {
						if _, _, ok := x.Lookup(addrs[i&(len(addrs)-1)]); ok != want {
							b.Fatal(addrs[i&(len(addrs)-1)])
						}
						i++
					}
				})
			}
		}
	}
}

// sought returns addresses near entries that the index has or has not.
func sought(x *policy.Set, entries []netip.Prefix, has bool) []netip.Addr {
	r := rand.New(rand.NewPCG(7, 7))
	addrs := make([]netip.Addr, 1<<16)
	for i := range addrs {
		for {
			a := entries[r.IntN(len(entries))].Addr()
			if !has {
				b := a.AsSlice()
				b[len(b)-1], b[len(b)-2], b[len(b)-3] = byte(r.Uint32()), byte(r.Uint32()), byte(r.Uint32())
				a, _ = netip.AddrFromSlice(b)
			}
			if _, _, ok := x.Lookup(a); ok == has {
				addrs[i] = a
				break
			}
		}
	}
	return addrs
}
