package pfioctl

import (
	"encoding/binary"
	"iter"
	"net/netip"
	"testing"
)

func hosts(n int) iter.Seq[Addr] {
	return func(yield func(Addr) bool) {
		for i := range n {
			var b [4]byte
			binary.BigEndian.PutUint32(b[:], uint32(i)*37+1<<24)
			if !yield(Addr{Prefix: netip.PrefixFrom(netip.AddrFrom4(b), 32)}) {
				return
			}
		}
	}
}

func nets6(n int) iter.Seq[Addr] {
	return func(yield func(Addr) bool) {
		for i := range n {
			b := [16]byte{0x20, 0x01, 0x0d, 0xb8}
			binary.BigEndian.PutUint32(b[4:], uint32(i))
			if !yield(Addr{Prefix: netip.PrefixFrom(netip.AddrFrom16(b), 64)}) {
				return
			}
		}
	}
}

func benchBuild(b *testing.B, hint int, seq iter.Seq[Addr]) {
	a, err := NewAddrs(hint)
	if err != nil {
		b.Fatal(err)
	}
	defer a.Close()
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		a.Reset()
		for e := range seq {
			if err := a.Append(e); err != nil {
				b.Fatal(err)
			}
		}
		n += a.Len()
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds()/1e6, "Mentries/s")
}

func BenchmarkBuildHosts(b *testing.B)     { benchBuild(b, 1_000_000, hosts(1_000_000)) }
func BenchmarkBuildNetworks6(b *testing.B) { benchBuild(b, 1_000_000, nets6(1_000_000)) }
