package report

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/google/gopacket"

	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/capture"
)

// BenchmarkLine is what a packet costs from the record to its line, matched against
// a policy of as many entries as the vendor's largest have, and more: when nothing is
// listed, and when every packet is a hit of its own.
func BenchmarkLine(b *testing.B) {
	file, err := os.Open("../../../capture/testdata/common-1.pcap.gz")
	if errors.Is(err, fs.ErrNotExist) {
		b.Skip("the test data of package capture is not on this host")
	}
	if err != nil {
		b.Fatal(err)
	}
	defer file.Close()
	f, err := capture.NewFileReader(file)
	if err != nil {
		b.Fatal(err)
	}
	type record struct {
		data []byte
		ci   gopacket.CaptureInfo
	}
	var records []record
	var far []netip.Prefix // the sender of each packet
	for {
		data, ci, err := f.ZeroCopyReadPacketData()
		if err == io.EOF {
			break
		} else if err != nil {
			b.Fatal(err)
		}
		records = append(records, record{bytes.Clone(data), ci})
		var p capture.Packet
		if err := p.Decode(data, ci); err != nil {
			b.Fatal(err)
		}
		far = append(far, netip.PrefixFrom(p.Src, p.Src.BitLen()))
	}
	for _, size := range []struct {
		name string
		n    int
	}{{"120k", 120_430}, {"1M", 1_000_000}} {
		for _, hit := range []bool{false, true} {
			name := "miss/" + size.name
			if hit {
				name = "hit/" + size.name
			}
			b.Run(name, func(b *testing.B) {
				entries := randomEntries(size.n)
				if hit {
					entries = append(entries[:size.n-len(far)], far...)
				}
				m := matcherOf(b, entries)
				b.ReportAllocs()
				var p capture.Packet
				buf := make([]byte, 0, 2*maxLine)
				hits, rounds := 0, 0
				for b.Loop() {
					rounds++
					for i := range records {
						if p.Decode(records[i].data, records[i].ci) != nil {
							b.Fatal("a packet that does not decode")
						}
						if m.match(&p) {
							hits++
						}
						buf = append(p.AppendLine(buf[:0], time.UTC), '\n')
					}
				}
				if total := rounds * len(records); hit && hits != total || !hit && hits > total/10 {
					b.Errorf("%d hits of %d", hits, total)
				}
				b.ReportMetric(float64(rounds)*float64(len(records))/b.Elapsed().Seconds(), "packets/s")
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}

// randomEntries returns n IPv4 entries, one in twenty a network.
func randomEntries(n int) []netip.Prefix {
	r := rand.New(rand.NewPCG(1, uint64(n)))
	ps := make([]netip.Prefix, n)
	for i := range ps {
		var a [4]byte
		binary.BigEndian.PutUint32(a[:], 0x01000000+r.Uint32N(0xdf000000))
		bits := 32
		if i%20 == 0 {
			bits = 24
		}
		ps[i] = netip.PrefixFrom(netip.AddrFrom4(a), bits).Masked()
	}
	return ps
}

func matcherOf(b *testing.B, entries []netip.Prefix) *Reporter {
	p, err := policy.Build([]policy.List{{Name: "basic", Entries: policy.Prefixes(entries)}}, nil, policy.Options{})
	if err != nil {
		b.Fatal(err)
	}
	r := &Reporter{havePolicy: make(chan struct{})}
	r.o.Now = time.Now
	r.counters.History.init()
	r.SetPolicy(p.Block, []netip.Addr{netip.MustParseAddr("203.0.113.7")})
	return r
}
