package capture

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime"
	"testing"
	"testing/iotest"
	"time"
)

// appendPcap adds a record as pflogd writes it.
func appendPcap(dst []byte, r *Record) []byte {
	for _, v := range []uint32{uint32(r.Time.Unix()), uint32(r.Time.Nanosecond() / 1000), uint32(len(r.Data)), uint32(r.Length)} {
		dst = binary.NativeEndian.AppendUint32(dst, v)
	}
	return append(dst, r.Data...)
}

// bothWays prints a file in turn and ahead, and expects the same text, count and error.
func bothWays(t *testing.T, data []byte, workers int, reader func([]byte) io.Reader) string {
	t.Helper()
	var texts [2]bytes.Buffer
	var ends [2]string
	for i := range texts {
		f, err := NewFileReader(reader(data))
		if err != nil {
			return err.Error()
		}
		pr := &Printer{Location: time.UTC, Relative: true}
		var n int
		if i == 0 {
			n, err = printInTurn(&texts[i], f, pr)
		} else {
			n, err = printAhead(&texts[i], f, pr, workers)
		}
		ends[i] = fmt.Sprint(n, err)
	}
	if ends[0] != ends[1] {
		t.Errorf("in turn %s, ahead %s", ends[0], ends[1])
	}
	if !bytes.Equal(texts[0].Bytes(), texts[1].Bytes()) {
		diffLines(t, texts[1].String(), texts[0].String())
		t.Error("other lines than in turn")
	}
	return texts[1].String()
}

func whole(data []byte) io.Reader { return bytes.NewReader(data) }

// TestPrintAhead: lines that are made in any order are those that are made in turn,
// conversations that reach over stretches, tunnels and damage included.
func TestPrintAhead(t *testing.T) {
	header := golden(t, "common-1.pcap.gz")[:pcapFileHeaderLen]
	rng := newRand(11)
	for _, name := range []string{"common-1.pcap.gz", "wild-1.pcap.gz", "burst.pcap.gz", "pflogd.pcap"} {
		t.Run(name, func(t *testing.T) {
			data := golden(t, name)
			for _, workers := range []int{1, 2, 5} {
				if bothWays(t, data, workers, whole) == "" {
					t.Error("no lines")
				}
			}
			bothWays(t, data[:min(len(data), 20000)], 3, func(b []byte) io.Reader { return iotest.OneByteReader(bytes.NewReader(b)) })
			bothWays(t, data[:len(data)-3], 2, whole)
			// Conversations with few ends, so that they meet again; what is in
			// the segments, and whether they are any, is up to chance.
			many := bytes.Clone(header)
			records := goldenRecords(t, name)
			for i := range 20 {
				for _, r := range records {
					if int(rng()%10) < i {
						for range 1 + rng()%3 {
							r.Data[rng()%uint64(len(r.Data))] = byte(rng())
						}
					}
					if i%3 == 0 && len(r.Data) >= HeaderLen+24 {
						copy(r.Data[HeaderLen+12:], []byte{10, 0, 0, byte(rng() % 2), 10, 0, 0, byte(rng() % 2), 0, byte(rng() % 4), 0, byte(rng() % 4)})
					}
					many = appendPcap(many, &r)
				}
			}
			bothWays(t, many, 2, whole)
		})
	}
	t.Run("segments", func(t *testing.T) {
		data := bytes.Clone(header)
		gre := []byte{0, 0, 8, 0}
		for i := range 30000 {
			options := []byte{1, 1, 5, 10, 0, 0, 0, 9, 0, 0, 0, 20}[:12*(rng()%2)]
			inner := segment(rng()%2 == 0, uint16(40000+rng()%40), uint16(80+rng()%2), byte(rng())|tcpACK, uint32(rng()), uint32(rng()), options...)
			ip := inner.Data[HeaderLen:]
			// What ordinary looks at, one step to either side.
			switch rng() % 12 {
			case 0:
				ip = ip4(protoIPv4, ip)
			case 1:
				ip = ip4(protoGRE, append(gre, ip4(protoIPv6, ip6(protoTCP, ip[20:]))...))
			case 2:
				ip = ip6(protoTCP, ip[20:])
			case 3:
				ip = ip6(protoHopOpts, append([]byte{protoTCP, 0, 1, 4, 0, 0, 0, 0}, ip[20:]...))
			case 4:
				ip[6], ip[7] = byte(rng()%4)<<5, byte(rng()%2)
			case 5:
				binary.BigEndian.PutUint16(ip[2:], uint16(38+rng()%30))
			case 6:
				ip[0] = 0x44 + byte(rng()%4)
			case 7:
				ip = ip6(protoTCP, ip[20:])
				binary.BigEndian.PutUint16(ip[4:], uint16(18+rng()%20))
			}
			r := logged(ip)
			r.Length += int(rng()%5) - 2
			if rng()%8 == 0 {
				r.Data = r.Data[:min(len(r.Data), HeaderLen+int(rng()%70))]
			}
			if rng()%32 == 0 {
				r.Data[0] = byte(60 + rng()%50)
			}
			r.Time = time.Unix(int64(i), 0)
			data = appendPcap(data, &r)
		}
		if n := bytes.Count([]byte(bothWays(t, data, 2, whole)), []byte("\n")); n != 30000 {
			t.Errorf("%d lines", n)
		}
	})
}

// TestPrintAheadWriteError: a writer that fails ends it, however much is at hand.
func TestPrintAheadWriteError(t *testing.T) {
	one := golden(t, "common-1.pcap.gz")
	data := append(bytes.Clone(one), bytes.Repeat(one[pcapFileHeaderLen:], 20)...)
	for _, after := range []int{0, 1, 3} {
		f, err := NewFileReader(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		lines, err := printAhead(&fullWriter{after}, f, &Printer{Location: time.UTC}, 2)
		if !errors.Is(err, io.ErrShortWrite) || lines == 0 || lines == 21*2000 {
			t.Errorf("after %d writes: %d lines, %v", after, lines, err)
		}
	}
}

type fullWriter struct{ room int }

func (w *fullWriter) Write(p []byte) (int, error) {
	if w.room--; w.room < 0 {
		return 0, io.ErrShortWrite
	}
	return len(p), nil
}

// TestPrintAheadMemory: memory does not grow with the file.
func TestPrintAheadMemory(t *testing.T) {
	one := golden(t, "common-1.pcap.gz")
	one = one[:len(one):len(one)]
	rounds := 50
	var before, after runtime.MemStats
	f, err := NewFileReader(io.MultiReader(bytes.NewReader(one), &again{b: one[pcapFileHeaderLen:], times: rounds}))
	if err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&before)
	n, err := printAhead(io.Discard, f, &Printer{Location: time.UTC, Relative: true}, 2)
	runtime.ReadMemStats(&after)
	if err != nil || n != (rounds+1)*2000 {
		t.Errorf("%d lines, %v", n, err)
	}
	if got := after.TotalAlloc - before.TotalAlloc; got > 12<<20 {
		t.Errorf("%d bytes allocated for a file of %d", got, (rounds+1)*len(one))
	}
}

// again reads the same bytes several times.
type again struct {
	b     []byte
	off   int
	times int
}

func (a *again) Read(p []byte) (int, error) {
	if a.off == len(a.b) {
		a.off = 0
		a.times--
	}
	if a.times <= 0 {
		return 0, io.EOF
	}
	n := copy(p, a.b[a.off:])
	a.off += n
	return n, nil
}
