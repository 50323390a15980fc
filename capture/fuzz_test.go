package capture

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/google/gopacket"
)

// FuzzBPF: packets are cut out of the read in order, without overlap, and the walk ends.
func FuzzBPF(f *testing.F) {
	for _, b := range nativeReads(f, golden(f, "reads.bin")) {
		f.Add(b)
	}
	f.Add([]byte{})
	f.Add(make([]byte, 40))
	f.Fuzz(func(t *testing.T, read []byte) {
		for rest := read; len(rest) > 0; {
			data, ci, next, ok := cutBPF(rest)
			if !ok {
				if data != nil || next != nil {
					t.Fatalf("not a record, with %d and %d bytes", len(data), len(next))
				}
				return
			}
			if len(next)+len(data)+bpfMinHeader > len(rest) {
				t.Fatalf("%d bytes out of %d, %d left", len(data), len(rest), len(next))
			}
			if ci.Length < ci.CaptureLength || ci.CaptureLength != len(data) || cap(data) != len(data) {
				t.Fatalf("%+v, capacity %d of %d", ci, cap(data), len(data))
			}
			rest = next
		}
	})
}

// FuzzLine: any packet has one printable line, which depends neither on what was decoded before nor
// on what lies behind the captured bytes.
func FuzzLine(f *testing.F) {
	for i, r := range goldenRecords(f, "wild-1.pcap.gz") {
		if i%8 == 0 {
			f.Add(r.data, r.ci.Length)
		}
	}
	for _, b := range [][]byte{
		ip4(protoGRE, append([]byte{0, 0, 8, 0}, ip4(protoIPv4, ip4(protoIPv6, ip6(protoNone, nil)))...)),
		ip6(protoRouting, []byte{protoTCP, 0, 0, 1, 0, 0, 0, 0, 0x21, 1, 1, 1, 1, 1}),
		ip6(protoICMPv6, []byte{140, 0, 0, 0, 0, 0, 0, 0, 'a'}),
	} {
		f.Add(logged(b).data, len(b))
	}
	var dirty Packet
	buf, again := make([]byte, 0, 1<<20), make([]byte, 0, 1<<20)
	f.Fuzz(func(t *testing.T, data []byte, length int) {
		ci := gopacket.CaptureInfo{Timestamp: time.Unix(1700000000, 0), CaptureLength: len(data), Length: max(len(data), int(uint32(length)>>1))}
		var clean Packet
		err := clean.Decode(data[:len(data):len(data)], ci)
		if (err == nil) != clean.Src.IsValid() {
			t.Fatalf("source %v, error %v", clean.Src, err)
		}
		buf = clean.AppendLine(buf[:0], time.UTC)
		checkLine(t, buf)
		longer := append(append(make([]byte, 0, len(data)+64), data...), bytes.Repeat([]byte{0x5a}, 64)...)
		if err2 := dirty.Decode(longer[:len(data)], ci); !errors.Is(err2, err) {
			t.Fatalf("%v, again %v", err, err2)
		}
		if again = dirty.AppendLine(again[:0], time.UTC); !bytes.Equal(buf, again) {
			t.Fatalf("%s\nwith other bytes behind\n%s", buf, again)
		}
		dirty.Data, clean.Data = nil, nil
		if clean.Header != dirty.Header || clean.Src != dirty.Src || clean.Dst != dirty.Dst || clean.Proto != dirty.Proto ||
			clean.Ports != dirty.Ports || clean.SrcPort != dirty.SrcPort || clean.DstPort != dirty.DstPort || clean.Fragment != dirty.Fragment {
			t.Fatalf("%+v, again %+v", clean, dirty)
		}
		if cap(buf) != 1<<20 || cap(again) != 1<<20 {
			t.Fatal("a line outgrew its buffer")
		}
	})
}

// FuzzFile: reading ends, packets are bounded, and a file reads the same in small pieces.
func FuzzFile(f *testing.F) {
	f.Add(golden(f, "pflogd.pcap"))
	f.Add(golden(f, "burst.pcap.gz")[:3000])
	f.Add(golden(f, "pflogd.pcap")[:24])
	f.Fuzz(func(t *testing.T, data []byte) {
		read := func(r io.Reader) (text []byte, err error) {
			file, err := newFileReader(r, 1<<20)
			if err != nil {
				return nil, err
			}
			var p Packet
			for {
				data, ci, err := file.ZeroCopyReadPacketData()
				if err != nil {
					return text, err
				}
				if len(data) > MaxCaptureLength || ci.Length < len(data) {
					t.Fatalf("packet of %d bytes, length %d", len(data), ci.Length)
				}
				_ = p.Decode(data, ci)
				text = p.AppendLine(text, time.UTC)
			}
		}
		whole, err := read(bytes.NewReader(data))
		pieces, err2 := read(&pieceReader{data})
		if !bytes.Equal(whole, pieces) || err.Error() != err2.Error() {
			t.Fatalf("%s, %v\nin pieces %s, %v", whole, err, pieces, err2)
		}
	})
}

// pieceReader gives 1 to 16 bytes at a time.
type pieceReader struct{ data []byte }

func (r *pieceReader) Read(p []byte) (int, error) {
	if len(r.data) == 0 {
		return 0, io.EOF
	}
	n := min(len(p), len(r.data), 1+int(r.data[0]&15))
	copy(p, r.data[:n])
	r.data = r.data[n:]
	return n, nil
}
