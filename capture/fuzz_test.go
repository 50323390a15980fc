package capture

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"
	"time"
)

// FuzzBatch: records are cut out of the read in order, without overlap, and the walk
// ends.
func FuzzBatch(f *testing.F) {
	for _, b := range nativeReads(f, golden(f, "reads.bin")) {
		f.Add(b)
	}
	f.Add([]byte{})
	f.Add(make([]byte, 40))
	f.Fuzz(func(t *testing.T, buf []byte) {
		var b Batch
		var r Record
		b.Reset(buf)
		end, total, n := 0, 0, 0
		for b.Next(&r) {
			n++
			total += len(r.Data)
			// Where in buf the data lies, by what is left behind it.
			if b.off <= end || b.off > len(buf) || len(r.Data) > b.off-end {
				t.Fatalf("record %d: %d bytes, offset %d after %d", n, len(r.Data), b.off, end)
			}
			if r.Length < 0 || cap(r.Data) != len(r.Data) {
				t.Fatalf("record %d: length %d, capacity %d of %d", n, r.Length, cap(r.Data), len(r.Data))
			}
			end = b.off
		}
		if b.Err() == nil && end != len(buf) {
			t.Fatalf("ended at %d of %d without an error", end, len(buf))
		}
		if n*bpfMinHeader+total > len(buf) {
			t.Fatalf("%d records of %d bytes out of %d", n, total, len(buf))
		}
		if b.Err() != nil && !errors.Is(b.Err(), ErrBatch) {
			t.Fatal(b.Err())
		}
	})
}

// FuzzLine: any record has one printable line, the same whatever was printed and
// decoded before (absolute numbers) and whatever lies behind the captured bytes; and
// nothing is allocated for it.
func FuzzLine(f *testing.F) {
	for i, r := range goldenRecords(f, "wild-1.pcap.gz") {
		if i%8 == 0 {
			f.Add(r.Data, r.Length)
		}
	}
	for _, b := range [][]byte{
		ip4(protoGRE, append([]byte{0, 0, 8, 0}, ip4(protoIPv4, ip4(protoOSPF, []byte{2, 1, 0, 44}))...)),
		ip6(protoRouting, []byte{protoCARP, 0, 0, 1, 0, 0, 0, 0, 0x21, 1, 1, 1, 1, 1}),
		ip6(protoICMPv6, []byte{140, 0, 0, 0, 0, 0, 0, 0, 'a'}),
		ip4(protoIGRP, make([]byte, 40)),
	} {
		r := logged(b)
		f.Add(r.Data, r.Length)
	}
	used := Printer{Location: time.UTC}
	relative := Printer{Location: time.UTC, Relative: true}
	var dirty Packet
	buf, again := make([]byte, 0, 1<<20), make([]byte, 0, 1<<20)
	f.Fuzz(func(t *testing.T, data []byte, length int) {
		rec := Record{Time: time.Unix(1700000000, 0), Data: data[:len(data):len(data)], Length: clampLength(uint32(length))}
		var clean Packet
		err := clean.Decode(rec)
		if err2 := dirty.Decode(rec); !errors.Is(err2, err) {
			t.Fatalf("%v, again %v", err, err2)
		}
		if clean.Src != dirty.Src || clean.Dst != dirty.Dst || clean.Proto != dirty.Proto || clean.Ports != dirty.Ports ||
			clean.SrcPort != dirty.SrcPort || clean.DstPort != dirty.DstPort || clean.Fragment != dirty.Fragment {
			t.Fatalf("%+v, again %+v", clean, dirty)
		}
		if (err == nil) != clean.Src.IsValid() {
			t.Fatalf("source %v, error %v", clean.Src, err)
		}
		fresh := Printer{Location: time.UTC}
		buf = fresh.AppendLine(buf[:0], &clean)
		checkLine(t, buf)
		if again = used.AppendLine(again[:0], &dirty); !bytes.Equal(buf, again) {
			t.Fatalf("%s\nagain\n%s", buf, again)
		}
		longer := append(append(make([]byte, 0, len(data)+64), data...), bytes.Repeat([]byte{0x5a}, 64)...)
		rec.Data = longer[:len(data)]
		_ = dirty.Decode(rec)
		if again = used.AppendLine(again[:0], &dirty); !bytes.Equal(buf, again) {
			t.Fatalf("%s\nwith other bytes behind\n%s", buf, again)
		}
		again = relative.AppendLine(again[:0], &dirty)
		checkLine(t, again)
		if cap(buf) != 1<<20 || cap(again) != 1<<20 {
			t.Fatal("a line outgrew its buffer")
		}
	})
}

// FuzzFile: reading ends, records are bounded, and a file that reads to its end
// reads the same in small pieces; its lines are the same made ahead as in turn.
func FuzzFile(f *testing.F) {
	f.Add(golden(f, "pflogd.pcap"))
	f.Add(golden(f, "burst.pcap.gz")[:3000])
	f.Add(golden(f, "pflogd.pcap")[:24])
	f.Fuzz(func(t *testing.T, data []byte) {
		// Compressed bytes may be many times as long: a bound on work.
		if len(data) > 2 && data[0] == 0x1f && data[1] == 0x8b && len(data) > 10000 {
			return
		}
		type seen struct {
			sec     int64
			n, sum  int
			records int
		}
		read := func(r io.Reader) (s seen, err error) {
			file, err := NewFileReader(r)
			if err != nil {
				return s, err
			}
			var rec Record
			for s.records < 100000 {
				if err := file.Next(&rec); err != nil {
					return s, err
				}
				if len(rec.Data) > MaxCaptureLength || rec.Length < 0 {
					t.Fatalf("record of %d bytes, length %d", len(rec.Data), rec.Length)
				}
				s.records++
				s.sec += rec.Time.Unix()
				s.n += len(rec.Data)
				for _, c := range rec.Data {
					s.sum += int(c)
				}
			}
			return s, nil
		}
		whole, err := read(bytes.NewReader(data))
		if whole.n > len(data) && !bytes.HasPrefix(data, []byte{0x1f, 0x8b}) {
			t.Fatalf("%d bytes out of %d", whole.n, len(data))
		}
		pieces, err2 := read(&pieceReader{data})
		if whole != pieces || (err == nil) != (err2 == nil) || err != nil && err.Error() != err2.Error() {
			t.Fatalf("%+v, %v; in pieces %+v, %v", whole, err, pieces, err2)
		}
		inTurn, err := NewFileReader(bytes.NewReader(data))
		if err != nil || whole.records > 10000 {
			return
		}
		ahead, _ := NewFileReader(&pieceReader{data})
		// Without the goroutines, which the fuzzer takes for ever new ways
		// through the code.
		var want, got bytes.Buffer
		var s stretch
		_, wantErr := printInTurn(&want, inTurn, &Printer{Location: time.UTC, Relative: true})
		conversations, lines := &Printer{Relative: true}, &Printer{Location: time.UTC, Relative: true}
		for err = nil; err == nil; {
			var n int
			if n, err = s.read(ahead, conversations); n > 0 {
				s.print(lines, ahead.swapped, ahead.nano)
				got.Write(s.out)
			}
		}
		if !bytes.Equal(want.Bytes(), got.Bytes()) || wantErr == nil && err != io.EOF || wantErr != nil && wantErr.Error() != err.Error() {
			t.Fatalf("in turn, %v:\n%s\nahead, %v:\n%s", wantErr, &want, err, &got)
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

func TestSwappedIDs(t *testing.T) {
	r := logged(ip4(253, nil))
	binary.NativeEndian.PutUint32(r.Data[offPID:], 0x01020304)
	r.swapped = true
	var p Packet
	if err := p.Decode(r); err != nil || p.Header.PID != 0x04030201 {
		t.Errorf("%#x, %v", p.Header.PID, err)
	}
}
