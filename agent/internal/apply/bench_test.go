package apply

import (
	"encoding/binary"
	"net/netip"
	"path/filepath"
	"testing"

	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/pfioctl/pfsim"
)

var sizes = []struct {
	name string
	n    int
}{{"26k", 26_424}, {"120k", 120_430}, {"1M", 1_000_000}}

// manyEntries is a set of n entries, of each twenty one an IPv4 network, one
// an IPv6 host and the others IPv4 hosts. Of each hundred one depends on the
// version.
func manyEntries(tb testing.TB, n, version int) *policy.Set {
	tb.Helper()
	var all policy.Prefixes
	for i := range n {
		v := uint32(i) * 37
		if i%100 == 2 {
			v += uint32(version % 36) // up to the next one's address
		}
		var p netip.Prefix
		switch i % 20 {
		case 0:
			var b [4]byte
			binary.BigEndian.PutUint32(b[:], 128<<24+uint32(i/20)<<8)
			p = netip.PrefixFrom(netip.AddrFrom4(b), 24)
		case 1:
			b := [16]byte{0x20, 0x01, 0x0d, 0xb8}
			binary.BigEndian.PutUint32(b[12:], v)
			p = netip.PrefixFrom(netip.AddrFrom16(b), 128)
		default:
			var b [4]byte
			binary.BigEndian.PutUint32(b[:], 1<<24+v)
			p = netip.PrefixFrom(netip.AddrFrom4(b), 32)
		}
		all = append(all, p)
	}
	p, err := policy.Build([]policy.List{{Name: "basic", Entries: all}}, nil, policy.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	if p.Block.Len() != n {
		tb.Fatalf("%d entries, want %d", p.Block.Len(), n)
	}
	return p.Block
}

func perSecond(b *testing.B, n int) {
	b.ReportMetric(float64(b.N)*float64(n)/b.Elapsed().Seconds(), "entries/s")
}

func enforcer(n int) *Enforcer {
	k := pfsim.New(pfsim.Options{MaxEntries: 3 * n})
	return New(k.OpenPF())
}

// BenchmarkDiff asks what a policy would change, without changing it: SETADDRS
// with DUMMY.
func BenchmarkDiff(b *testing.B) {
	for _, changed := range []bool{false, true} {
		for _, s := range sizes {
			name := "same/"
			if changed {
				name = "changed/"
			}
			b.Run(name+s.name, func(b *testing.B) {
				e := enforcer(s.n)
				if _, err := e.Apply(Target{Table: block, Load: true}, manyEntries(b, s.n, 0), head); err != nil {
					b.Fatal(err)
				}
				version := 0
				if changed {
					version = 1
				}
				want := manyEntries(b, s.n, version)
				b.ReportAllocs()
				for b.Loop() {
					res, err := e.Apply(Target{Table: block}, want, head)
					if err != nil || res.Delta.Zero() == changed || res.Steps != 0 {
						b.Fatal(res, err)
					}
				}
				perSecond(b, s.n)
			})
		}
	}
}

// BenchmarkApply brings a table and its file to a policy of which they have
// all, or all but one in a hundred.
func BenchmarkApply(b *testing.B) {
	for _, changed := range []bool{false, true} {
		for _, s := range sizes {
			name := "same/"
			if changed {
				name = "changed/"
			}
			b.Run(name+s.name, func(b *testing.B) {
				e := enforcer(s.n)
				sets := [2]*policy.Set{manyEntries(b, s.n, 0)}
				if sets[1] = sets[0]; changed {
					sets[1] = manyEntries(b, s.n, 1)
				}
				t := Target{Table: block, File: filepath.Join(b.TempDir(), "table"), Load: true}
				if _, err := e.Apply(t, sets[0], head); err != nil {
					b.Fatal(err)
				}
				i := 0
				b.ReportAllocs()
				for b.Loop() {
					i++
					res, err := e.Apply(t, sets[i%2], head)
					if err != nil || res.Delta.Zero() == changed || res.FileWritten != changed {
						b.Fatal(res, err)
					}
				}
				perSecond(b, s.n)
			})
		}
	}
}

// BenchmarkFile writes a persist file, and compares one with what it is to hold.
func BenchmarkFile(b *testing.B) {
	for _, s := range sizes {
		set := func(b *testing.B) (*policy.Set, string) {
			return manyEntries(b, s.n, 0), filepath.Join(b.TempDir(), "table")
		}
		b.Run("write/"+s.name, func(b *testing.B) {
			set, path := set(b)
			b.ReportAllocs()
			for b.Loop() {
				if err := new(disk).writeFile(path, head, set); err != nil {
					b.Fatal(err)
				}
			}
			perSecond(b, s.n)
		})
		b.Run("check/"+s.name, func(b *testing.B) {
			set, path := set(b)
			if err := new(disk).writeFile(path, head, set); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if st, err := stateOf(path, set); err != nil || !st.Same {
					b.Fatal(st, err)
				}
			}
			perSecond(b, s.n)
		})
	}
}
