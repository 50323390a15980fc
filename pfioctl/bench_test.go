package pfioctl_test

import (
	"encoding/binary"
	"iter"
	"net/netip"
	"testing"

	"example.org/threatstopd/pfioctl"
	"example.org/threatstopd/pfioctl/pfsim"
)

// entry is what a policy has of an entry: it is turned into a netip.Prefix on the way.
type entry struct {
	addr [16]byte
	bits uint8
	is4  bool
	not  bool
}

// sequence returns n ascending entries of a family: IPv4 hosts, or IPv6
// networks of 64 bits.
func sequence(family string, n int) iter.Seq2[netip.Prefix, bool] {
	all := make([]entry, n)
	for i := range all {
		if family == "v4" {
			all[i] = entry{bits: 32, is4: true}
			binary.BigEndian.PutUint32(all[i].addr[:], uint32(i)*37+1<<24)
		} else {
			all[i] = entry{addr: [16]byte{0x20, 0x01, 0x0d, 0xb8}, bits: 64}
			binary.BigEndian.PutUint32(all[i].addr[4:], uint32(i))
		}
	}
	return func(yield func(netip.Prefix, bool) bool) {
		for i := range all {
			e := &all[i]
			ip := netip.AddrFrom16(e.addr)
			if e.is4 {
				ip = netip.AddrFrom4([4]byte(e.addr[:4]))
			}
			if !yield(netip.PrefixFrom(ip, int(e.bits)), e.not) {
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
				seq := sequence(family, n)
				for b.Loop() {
					if fresh {
						a.Close()
						if a, err = pfioctl.NewAddrs(n); err != nil {
							b.Fatal(err)
						}
					}
					if err := a.Fill(seq); err != nil {
						b.Fatal(err)
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
		name          string
		pledged, text bool
	}{{"root/1M", false, false}, {"pledged/1M", true, false}, {"text/1M", false, true}} {
		b.Run(c.name, func(b *testing.B) {
			_, pf := simulated(b, pfsim.Options{MaxEntries: 2 * n})
			if _, err := pf.Set(bad, n, sequence("v4", n)); err != nil {
				b.Fatal(err)
			}
			if c.pledged {
				pf.Pledged()
			}
			var line []byte
			b.ReportAllocs()
			for b.Loop() {
				all, err := pf.Get(bad)
				if err != nil || len(all) != n {
					b.Fatal(err)
				}
				if c.text {
					for _, e := range all {
						line = e.AppendTo(line[:0])
					}
				}
			}
			perSecond(b, n)
		})
	}
}
