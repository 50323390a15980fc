package capture

import (
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// allocations in the whole path of a packet: none.
func TestNoAllocations(t *testing.T) {
	for _, name := range []string{"common-1.pcap.gz", "wild-1.pcap.gz"} {
		records := goldenRecords(t, name)
		for _, relative := range []bool{false, true} {
			pr := Printer{Location: time.UTC, Relative: relative}
			var p Packet
			buf := make([]byte, 0, 2*maxLine)
			i := 0
			got := testing.AllocsPerRun(4*len(records), func() {
				_ = p.Decode(records[i%len(records)])
				buf = pr.AppendLine(buf[:0], &p)
				i++
			})
			if got != 0 {
				t.Errorf("%s, relative %v: %v allocations a packet", name, relative, got)
			}
		}
		var buf []byte
		for i := range records {
			buf = appendBPF(buf, &records[i])
		}
		var b Batch
		var r Record
		if got := testing.AllocsPerRun(10, func() {
			b.Reset(buf)
			for b.Next(&r) {
			}
		}); got != 0 {
			t.Errorf("%s: %v allocations a read", name, got)
		}
		if err := b.Err(); err != nil {
			t.Error(err)
		}
	}
}

// appendBPF adds a bpf record as OpenBSD 7.5 and later write it.
func appendBPF(dst []byte, r *Record) []byte {
	for len(dst)%4 != 0 {
		dst = append(dst, 0)
	}
	h := make([]byte, 28)
	binary.NativeEndian.PutUint32(h, uint32(r.Time.Unix()))
	binary.NativeEndian.PutUint32(h[4:], uint32(r.Time.Nanosecond()/1000))
	binary.NativeEndian.PutUint32(h[8:], uint32(len(r.Data)))
	binary.NativeEndian.PutUint32(h[12:], uint32(r.Length))
	binary.NativeEndian.PutUint16(h[16:], 28)
	return append(append(dst, h...), r.Data...)
}

func perPacket(b *testing.B, packets int) {
	b.ReportMetric(float64(b.N)*float64(packets)/b.Elapsed().Seconds(), "packets/s")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkPacket is what a packet costs from the kernel's buffer to its line, with
// both its addresses looked up in a table between.
func BenchmarkPacket(b *testing.B) {
	records := goldenRecords(b, "common-1.pcap.gz")
	var read []byte
	for i := range records {
		read = appendBPF(read, &records[i])
	}
	// A sorted table of 100,000 addresses, entered by the upper half of the
	// address.
	rng := newRand(7)
	table := make([]uint32, 100000)
	for i := range table {
		table[i] = uint32(i)*42949 + uint32(rng()%42949)
	}
	var enter [1<<16 + 1]uint32
	for i, a := range table {
		enter[a>>16+1] = uint32(i + 1)
	}
	for i := range enter[1:] {
		enter[i+1] = max(enter[i+1], enter[i])
	}
	lookup := func(a uint32) bool {
		for _, e := range table[enter[a>>16]:enter[a>>16+1]] {
			if e == a {
				return true
			}
		}
		return false
	}
	for _, bench := range []struct {
		name                        string
		decode, line, match, relate bool
	}{
		{"walk", false, false, false, false},
		{"decode", true, false, false, false},
		{"decode+match", true, false, true, false},
		{"decode+match+line", true, true, true, false},
		{"decode+line/relative", true, true, false, true},
	} {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			var (
				batch Batch
				r     Record
				p     Packet
				pr    = Printer{Location: time.UTC, Relative: bench.relate}
				buf   = make([]byte, 0, maxLine)
				hits  int
			)
			for b.Loop() {
				batch.Reset(read)
				for batch.Next(&r) {
					if bench.decode {
						_ = p.Decode(r)
					}
					if bench.match {
						for _, a := range [...][16]byte{p.Src.As16(), p.Dst.As16()} {
							if lookup(binary.BigEndian.Uint32(a[12:])) {
								hits++
							}
						}
					}
					if bench.line {
						buf = append(pr.AppendLine(buf[:0], &p), '\n')
					}
				}
			}
			perPacket(b, len(records))
		})
	}
	b.Run("line", func(b *testing.B) {
		packets := make([]Packet, len(records))
		for i := range records {
			_ = packets[i].Decode(records[i])
		}
		pr := Printer{Location: time.UTC}
		buf := make([]byte, 0, maxLine)
		b.ReportAllocs()
		for b.Loop() {
			for i := range packets {
				buf = append(pr.AppendLine(buf[:0], &packets[i]), '\n')
			}
		}
		perPacket(b, len(records))
	})
}

// BenchmarkPrint prints a file of 200,000 packets, and has the tcpdump that is
// installed, if any, print the same.
func BenchmarkPrint(b *testing.B) {
	const times = 100
	one := golden(b, "common-1.pcap.gz")
	many := append(bytes.Clone(one), bytes.Repeat(one[pcapFileHeaderLen:], times-1)...)
	packets := times * len(goldenRecords(b, "common-1.pcap.gz"))
	b.Run("Print", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			f, err := NewFileReader(bytes.NewReader(many))
			if err != nil {
				b.Fatal(err)
			}
			if n, err := Print(io.Discard, f, &Printer{Location: time.UTC, Relative: true}); n != packets || err != nil {
				b.Fatal(n, err)
			}
		}
		perPacket(b, packets)
	})
	for _, zone := range []string{"", "UTC"} {
		// Without TZ it looks at the zone's file for every packet.
		b.Run("tcpdump/TZ="+zone, func(b *testing.B) {
			tcpdump, err := exec.LookPath("tcpdump")
			if err != nil {
				b.Skip("no tcpdump here")
			}
			name := filepath.Join(b.TempDir(), "pflog")
			if err := os.WriteFile(name, many, 0o644); err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				cmd := exec.Command(tcpdump, "-n", "-e", "-r", name)
				cmd.Env = []string{}
				if zone != "" {
					cmd.Env = append(cmd.Env, "TZ="+zone)
				}
				if err := cmd.Run(); err != nil {
					b.Skip(err)
				}
			}
			perPacket(b, packets)
		})
	}
}
