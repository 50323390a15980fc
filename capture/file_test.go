package capture_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"example.org/threatstopd/capture"
	"example.org/threatstopd/capture/capturetest"
)

func pcapOf(t testing.TB, order binary.ByteOrder, ps ...capturetest.Packet) []byte {
	t.Helper()
	var buf bytes.Buffer
	w, err := capturetest.NewPcapWriter(&buf, 0, order)
	if err != nil {
		t.Fatal(err)
	}
	for i := range ps {
		if err := w.Write(&ps[i]); err != nil {
			t.Fatal(err)
		}
	}
	return buf.Bytes()
}

func gzipped(b []byte) []byte {
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	z.Write(b)
	z.Close()
	return buf.Bytes()
}

func readAll(r io.Reader) (ps []capture.Packet, err error) {
	f, err := capture.NewFileReader(r)
	if err != nil {
		return nil, err
	}
	for {
		data, ci, err := f.ZeroCopyReadPacketData()
		if err == io.EOF {
			return ps, nil
		}
		if err != nil {
			return ps, err
		}
		var p capture.Packet
		if err := p.Decode(bytes.Clone(data), ci); err != nil {
			return ps, err
		}
		ps = append(ps, p)
	}
}

// TestFileOrders: a file from a host of either byte order says the same.
func TestFileOrders(t *testing.T) {
	in := packets()
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		got, err := readAll(bytes.NewReader(pcapOf(t, order, in...)))
		if err != nil || len(got) != len(in) {
			t.Fatalf("%v: %d records, %v", order, len(got), err)
		}
		for i := range got {
			whole := in[i].AppendRecord(nil)
			if !got[i].Time.Equal(in[i].Time) || got[i].Src != in[i].Src || got[i].Length != len(whole) ||
				len(got[i].Data) != min(len(whole), capturetest.PflogdSnapLen) || got[i].Header.RuleNr != in[i].Rule {
				t.Errorf("%v: record %d: %+v", order, i, got[i])
			}
		}
	}
}

func TestFileNanoseconds(t *testing.T) {
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		b := pcapOf(t, order, packets()[0])
		order.PutUint32(b, 0xa1b23c4d)
		order.PutUint32(b[28:], 123456789)
		got, err := readAll(bytes.NewReader(b))
		if err != nil || len(got) != 1 || got[0].Time.Nanosecond() != 123456789 {
			t.Errorf("%v: %v, %v", order, got, err)
		}
	}
}

func TestFileErrors(t *testing.T) {
	good := pcapOf(t, binary.LittleEndian, packets()...)
	alter := func(off int, v uint32) []byte {
		b := bytes.Clone(good)
		binary.LittleEndian.PutUint32(b[off:], v)
		return b
	}
	tests := []struct {
		name    string
		data    []byte
		records int
		is      error
		says    string
	}{
		{"OK plain", good, 5, nil, ""},
		{"OK gzipped", gzipped(good), 5, nil, ""},
		{"OK gzipped in two members", append(gzipped(good[:100]), gzipped(good[100:])...), 5, nil, ""},
		{"OK no records", good[:24], 0, nil, ""},
		{"OK link type with bits about checksums", alter(20, 117|0x14000000), 5, nil, ""},
		{"bad empty", nil, 0, io.EOF, "empty file"},
		{"bad empty gzipped", gzipped(nil), 0, io.EOF, "empty file"},
		{"bad one byte", []byte{0xd4}, 0, io.ErrUnexpectedEOF, "pcap file header: unexpected EOF"},
		{"bad header cut", good[:23], 0, io.ErrUnexpectedEOF, "pcap file header: unexpected EOF"},
		{"bad text", []byte("Nov 14 22:13:20 fw pflogd: no"), 0, capture.ErrNotPcap, "not a pcap file: begins with 4e6f7620"},
		{"bad short text", []byte("text"), 0, capture.ErrNotPcap, "not a pcap file: begins with 74657874"},
		{"bad pcapng", []byte("\x0a\x0d\x0d\x0a\x1c\x00\x00\x00\x4d\x3c\x2b\x1a"), 0, capture.ErrNotPcap, "begins with 0a0d0d0a"},
		{"bad Ethernet", alter(20, 1), 0, capture.ErrLinkType, "not a capture of pflog: link type 1, want 117"},
		{"bad capture length", alter(24+8, 0x7fffffff), 0, capture.ErrRecord, "header of record 1 at byte 24: malformed pcap record: capture length 2147483647"},
		{"bad record header cut", good[:24+15], 0, io.ErrUnexpectedEOF, "header of record 1 at byte 24: unexpected EOF"},
		{"bad record cut", good[:len(good)-1], 4, io.ErrUnexpectedEOF, "packet of record 5 at byte "},
		{"bad gzip cut", gzipped(good)[:150], -1, io.ErrUnexpectedEOF, "unexpected EOF"},
		{"bad gzip header", []byte{0x1f, 0x8b, 8}, 0, io.ErrUnexpectedEOF, "gzip header: unexpected EOF"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := readAll(bytes.NewReader(tt.data))
			if tt.records >= 0 && len(got) != tt.records {
				t.Errorf("%d records, want %d", len(got), tt.records)
			}
			if tt.is == nil && err != nil || tt.is != nil && !errors.Is(err, tt.is) {
				t.Fatalf("error %v, want %v", err, tt.is)
			}
			if tt.is != nil && !strings.Contains(err.Error(), tt.says) {
				t.Errorf("error %q, want %q", err, tt.says)
			}
			// A pipe gives bytes as it likes.
			slow, slowErr := readAll(iotest.OneByteReader(bytes.NewReader(tt.data)))
			if len(slow) != len(got) || (slowErr == nil) != (err == nil) {
				t.Errorf("byte by byte: %d records, %v", len(slow), slowErr)
			}
		})
	}
}

func TestFileReadError(t *testing.T) {
	good := pcapOf(t, nil, packets()...)
	broken := errors.New("disk on fire")
	got, err := readAll(io.MultiReader(bytes.NewReader(good[:len(good)-10]), iotest.ErrReader(broken)))
	if len(got) != 4 || !errors.Is(err, broken) {
		t.Errorf("%d records, %v", len(got), err)
	}
	if _, err := readAll(iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Error(err)
	}
}

// TestFileLongRecord has a record of the greatest length.
func TestFileLongRecord(t *testing.T) {
	var buf bytes.Buffer
	w, err := capturetest.NewPcapWriter(&buf, capture.MaxCaptureLength, nil)
	if err != nil {
		t.Fatal(err)
	}
	long := make([]byte, capture.MaxCaptureLength)
	small := packets()[0].AppendRecord(nil)
	copy(long, small)
	for _, d := range [][]byte{small, long, small} {
		if err := w.WriteRecord(time.Unix(1, 0), d); err != nil {
			t.Fatal(err)
		}
	}
	got, err := readAll(&buf)
	if err != nil || len(got) != 3 || !bytes.Equal(got[1].Data, long) || !bytes.Equal(got[2].Data, small) {
		t.Errorf("%d records, %v", len(got), err)
	}
}

// TestPrintCutFile: the lines before a cut record are printed, and the cut is said.
func TestPrintCutFile(t *testing.T) {
	good := pcapOf(t, nil, packets()...)
	f, err := capture.NewFileReader(bytes.NewReader(good[:len(good)-3]))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	n, err := capture.Print(&out, f, time.UTC)
	if n != 4 || strings.Count(out.String(), "\n") != 4 || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%d lines, %v:\n%s", n, err, &out)
	}
}

// TestPrintPipe: what has come is printed before more is waited for.
func TestPrintPipe(t *testing.T) {
	pr, pw := io.Pipe()
	lr, lw := io.Pipe()
	done := make(chan error, 1)
	go func() {
		f, err := capture.NewFileReader(pr)
		if err == nil {
			_, err = capture.Print(lw, f, time.UTC)
		}
		lw.Close()
		done <- err
	}()
	good := pcapOf(t, nil, packets()...)
	go pw.Write(good[:24+16+140])
	line := make([]byte, 4096)
	n, err := lr.Read(line)
	if err != nil || bytes.Count(line[:n], []byte("\n")) != 1 {
		t.Fatalf("%q, %v", line[:n], err)
	}
	go func() {
		pw.Write(good[24+16+140:])
		pw.Close()
	}()
	rest, err := io.ReadAll(lr)
	if err != nil || bytes.Count(rest, []byte("\n")) != 4 {
		t.Errorf("%q, %v", rest, err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestPrintWriteError(t *testing.T) {
	f, err := capture.NewFileReader(bytes.NewReader(pcapOf(t, nil, packets()...)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := capture.Print(failingWriter{}, f, time.UTC); !errors.Is(err, io.ErrClosedPipe) {
		t.Error(err)
	}
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }
