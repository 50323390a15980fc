package capture

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/google/gopacket"
)

// hostileHeader is a pcap file header with this snapshot length.
func hostileHeader(snap uint32) []byte {
	b := make([]byte, pcapFileHeaderLen)
	binary.NativeEndian.PutUint32(b, 0xa1b2c3d4)
	binary.NativeEndian.PutUint16(b[4:], 2)
	binary.NativeEndian.PutUint16(b[6:], 4)
	binary.NativeEndian.PutUint32(b[16:], snap)
	binary.NativeEndian.PutUint32(b[20:], LinkType)
	return b
}

func hostileRecord(caplen, length uint32) []byte {
	b := make([]byte, pcapRecordHeaderLen)
	binary.NativeEndian.PutUint32(b[8:], caplen)
	binary.NativeEndian.PutUint32(b[12:], length)
	return b
}

func zipped(t testing.TB, members ...[]byte) []byte {
	t.Helper()
	var z bytes.Buffer
	for _, m := range members {
		w := gzip.NewWriter(&z)
		if _, err := w.Write(m); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return z.Bytes()
}

// Files that are made to fill the memory, as they are or as what comes out of them: they
// are read through, or refused, with little of it.
func TestHostileFilesMemory(t *testing.T) {
	bomb := append(hostileHeader(160), make([]byte, 16<<20)...) // records without data
	big := hostileHeader(math.MaxUint32)
	for range 20 {
		big = append(big, hostileRecord(MaxCaptureLength, math.MaxUint32)...)
		big = append(big, make([]byte, MaxCaptureLength)...)
	}
	name := zipped(t, hostileHeader(160))
	name[3] |= 1 << 3 // a file name follows, and never ends
	name = append(name[:10:10], bytes.Repeat([]byte("x"), 8<<20)...)
	for _, tt := range []struct {
		name    string
		data    []byte
		open    error // what NewFileReader's error wraps
		end     error // what reading ends with
		records int
	}{
		{"a gzip bomb", zipped(t, bomb), nil, io.EOF, 1 << 20},
		{"a gzip bomb in a gzip bomb", zipped(t, zipped(t, bomb)), ErrNotPcap, nil, 0},
		{"a gzip bomb that is no pcap", zipped(t, make([]byte, 16<<20)), ErrNotPcap, nil, 0},
		{"twenty thousand empty members", append(zipped(t, hostileHeader(160)), bytes.Repeat(zipped(t, nil), 20_000)...), nil, io.EOF, 0},
		{"a gzip header without end", name, gzip.ErrHeader, nil, 0},
		{"the largest records", zipped(t, big), nil, io.EOF, 20},
		{"a record of 4 GiB", append(hostileHeader(math.MaxUint32), hostileRecord(math.MaxUint32, math.MaxUint32)...), nil, ErrRecord, 0},
		{"a record of 2 GiB", append(hostileHeader(1<<31), hostileRecord(1<<31, 1<<31)...), nil, ErrRecord, 0},
		{"a record of 2 GiB less one", append(hostileHeader(160), hostileRecord(math.MaxInt32, 0)...), nil, ErrRecord, 0},
		{"a record of one byte too many", append(hostileHeader(160), hostileRecord(MaxCaptureLength+1, 0)...), nil, ErrRecord, 0},
		{"the largest record, cut", append(hostileHeader(160), hostileRecord(MaxCaptureLength, 0)...), nil, io.ErrUnexpectedEOF, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			f, err := NewFileReader(bytes.NewReader(tt.data))
			records := 0
			if err == nil {
				for ; ; records++ {
					var data []byte
					var ci gopacket.CaptureInfo
					if data, ci, err = f.ZeroCopyReadPacketData(); err != nil {
						break
					}
					if ci.Length < len(data) || len(data) > MaxCaptureLength {
						t.Fatalf("a record of %d bytes, %d captured", ci.Length, len(data))
					}
				}
				if !errors.Is(err, tt.end) || records != tt.records {
					t.Errorf("%d records, %v; want %d, %v", records, err, tt.records, tt.end)
				}
			} else if tt.open == nil || !errors.Is(err, tt.open) {
				t.Errorf("got %v, want %v", err, tt.open)
			}
			runtime.ReadMemStats(&after)
			if n := after.TotalAlloc - before.TotalAlloc; n > 4<<20 {
				t.Errorf("%d KiB allocated", n>>10)
			}
		})
	}
}

// Print of a bomb writes as it reads.
func TestHostilePrint(t *testing.T) {
	f, err := NewFileReader(bytes.NewReader(zipped(t, append(hostileHeader(160), make([]byte, 4<<20)...))))
	if err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	n, err := Print(io.Discard, f, time.UTC)
	runtime.ReadMemStats(&after)
	if n != 4<<20/pcapRecordHeaderLen || err != nil {
		t.Errorf("%d lines, %v", n, err)
	}
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 16<<20 {
		t.Errorf("%d KiB of memory", grown>>10)
	}
}

// A compressed file that is longer than the bound ends with an error, after what comes
// before it.
func TestTooLong(t *testing.T) {
	f, err := newFileReader(bytes.NewReader(zipped(t, append(hostileHeader(160), make([]byte, 1<<20)...))), pcapFileHeaderLen+1000*pcapRecordHeaderLen+5)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		got, err := readAll(f)
		if !errors.Is(err, ErrTooLong) || len(got) != 0 && len(got) != 1000 {
			t.Errorf("%d packets, %v", len(got), err)
		}
	}
}

// A sparse file of a terabyte costs what is in it up to the first thing that cannot be.
func TestHostileSparseFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pflog")
	if err := errors.Join(os.WriteFile(path, append(hostileHeader(160), hostileRecord(math.MaxUint32, 0)...), 0o600), os.Truncate(path, 1<<40)); err != nil {
		t.Skip(err)
	}
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	f, err := NewFileReader(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := readAll(f); !errors.Is(err, ErrRecord) {
		t.Errorf("got %v", err)
	}
}
