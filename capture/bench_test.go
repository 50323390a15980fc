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

// TestNoAllocations: nothing is allocated for a packet on the whole way from the
// kernel's buffer, or the file, to its line.
func TestNoAllocations(t *testing.T) {
	for _, name := range []string{"common-1.pcap.gz", "wild-1.pcap.gz"} {
		records := goldenRecords(t, name)
		var read []byte
		for _, r := range records {
			read = appendBPF(read, 28, r)
		}
		s := newFake()
		r, err := s.open(Options{})
		if err != nil {
			t.Fatal(err)
		}
		f := openGolden(t, name)
		var p Packet
		buf := make([]byte, 0, 2*maxLine)
		if got := testing.AllocsPerRun(len(records)-2, func() {
			if !r.Buffered() {
				r.rest = read
			}
			data, ci, err := r.ZeroCopyReadPacketData()
			if err != nil {
				t.Fatal(err)
			}
			_ = p.Decode(data, ci)
			buf = p.AppendLine(buf[:0], time.UTC)
			if data, ci, err = f.ZeroCopyReadPacketData(); err != nil {
				t.Fatal(err)
			}
			_ = p.Decode(data, ci)
			buf = p.AppendLine(buf[:0], time.UTC)
		}); got != 0 {
			t.Errorf("%s: %v allocations a packet", name, got)
		}
	}
}

// appendBPF appends a record as bpf(4) writes it, with a header of hdrlen bytes.
func appendBPF(dst []byte, hdrlen int, r record) []byte {
	for len(dst)%bpfAlignment != 0 {
		dst = append(dst, 0)
	}
	h := make([]byte, hdrlen)
	binary.NativeEndian.PutUint32(h[bpfSec:], uint32(r.ci.Timestamp.Unix()))
	binary.NativeEndian.PutUint32(h[bpfUsec:], uint32(r.ci.Timestamp.Nanosecond()/1000))
	binary.NativeEndian.PutUint32(h[bpfCaplen:], uint32(len(r.data)))
	binary.NativeEndian.PutUint32(h[bpfDatalen:], uint32(r.ci.Length))
	binary.NativeEndian.PutUint16(h[bpfHdrlen:], uint16(hdrlen))
	return append(append(dst, h...), r.data...)
}

// BenchmarkPrint prints a file of 200,000 packets, and has the tcpdump that is installed,
// if any, print the same.
func BenchmarkPrint(b *testing.B) {
	const times = 100
	one := golden(b, "common-1.pcap.gz")
	many := append(bytes.Clone(one), bytes.Repeat(one[pcapFileHeaderLen:], times-1)...)
	packets := times * len(goldenRecords(b, "common-1.pcap.gz"))
	perPacket := func(b *testing.B) {
		b.ReportMetric(float64(b.N)*float64(packets)/b.Elapsed().Seconds(), "packets/s")
		b.ReportMetric(0, "ns/op")
	}
	b.Run("Print", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			f, err := NewFileReader(bytes.NewReader(many))
			if err != nil {
				b.Fatal(err)
			}
			if n, err := Print(io.Discard, f, time.UTC); n != packets || err != nil {
				b.Fatal(n, err)
			}
		}
		perPacket(b)
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
				cmd := exec.Command(tcpdump, "-n", "-e", "-S", "-r", name)
				cmd.Env = []string{}
				if zone != "" {
					cmd.Env = append(cmd.Env, "TZ="+zone)
				}
				if err := cmd.Run(); err != nil {
					b.Skip(err)
				}
			}
			perPacket(b)
		})
	}
}
