package pfioctl_test

import (
	"encoding/binary"
	"iter"
	"net/netip"
	"testing"

	"example.org/threatstopd/pfioctl"
	"example.org/threatstopd/pfioctl/pfsim"
)

// sequence returns n ascending entries of a family: IPv4 hosts, or IPv6
// networks of 64 bits. It costs next to nothing itself.
func sequence(family string, n int) iter.Seq[pfioctl.Addr] {
	return func(yield func(pfioctl.Addr) bool) {
		for i := range n {
			var p netip.Prefix
			if family == "v4" {
				var b [4]byte
				binary.BigEndian.PutUint32(b[:], uint32(i)*37+1<<24)
				p = netip.PrefixFrom(netip.AddrFrom4(b), 32)
			} else {
				b := [16]byte{0x20, 0x01, 0x0d, 0xb8}
				binary.BigEndian.PutUint32(b[4:], uint32(i))
				p = netip.PrefixFrom(netip.AddrFrom16(b), 64)
			}
			if !yield(pfioctl.Addr{Prefix: p}) {
				return
			}
		}
	}
}

func perSecond(b *testing.B, n int) {
	b.ReportMetric(float64(b.N)*float64(n)/b.Elapsed().Seconds(), "entries/s")
}

// BenchmarkAddrs builds the argument of SETADDRS: in memory that is there,
// and in memory that the system has to find first.
func BenchmarkAddrs(b *testing.B) {
	const n = 1_000_000
	for _, family := range []string{"v4", "v6"} {
		for _, fresh := range []bool{false, true} {
			name := "append/" + family + "/1M"
			if fresh {
				name = "map+append/" + family + "/1M"
			}
			b.Run(name, func(b *testing.B) {
				a, err := pfioctl.NewAddrs(n)
				if err != nil {
					b.Fatal(err)
				}
				defer func() { a.Close() }()
				b.SetBytes(52 * n)
				b.ReportAllocs()
				for b.Loop() {
					if fresh {
						a.Close()
						if a, err = pfioctl.NewAddrs(n); err != nil {
							b.Fatal(err)
						}
					}
					a.Reset()
					for e := range sequence(family, n) {
						if err := a.Append(e); err != nil {
							b.Fatal(err)
						}
					}
				}
				perSecond(b, n)
			})
		}
	}
}

// BenchmarkGet reads a table: as root does, as a pledged process does, and with
// what an owner reads as the end of it, text.
func BenchmarkGet(b *testing.B) {
	const n = 1_000_000
	for _, c := range []struct {
		name string
		get  func(*pfioctl.PF) (*pfioctl.Addrs, error)
		text bool
	}{
		{"root/1M", func(pf *pfioctl.PF) (*pfioctl.Addrs, error) { return pf.Get(bad) }, false},
		{"pledged/1M", func(pf *pfioctl.PF) (*pfioctl.Addrs, error) { return pf.GetPledged(bad, n) }, false},
		{"text/1M", func(pf *pfioctl.PF) (*pfioctl.Addrs, error) { return pf.Get(bad) }, true},
	} {
		b.Run(c.name, func(b *testing.B) {
			_, pf := simulated(b, pfsim.Options{MaxEntries: 2 * n})
			if _, err := pf.Set(bad, n, sequence("v4", n)); err != nil {
				b.Fatal(err)
			}
			var line []byte
			b.ReportAllocs()
			for b.Loop() {
				a, err := c.get(pf)
				if err != nil || a.Len() != n {
					b.Fatal(err)
				}
				for e := range a.All() {
					if c.text {
						line = e.AppendTo(line[:0])
					}
				}
				a.Close()
			}
			perSecond(b, n)
		})
	}
}
