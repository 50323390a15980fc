package report

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/google/gopacket"

	"example.org/threatstopd/capture"
	"example.org/threatstopd/capture/capturetest"
)

// A torrent is a source that has the next packet ready whenever it is asked, until so
// many have been read; then it ends. Every packet is another one.
type torrent struct {
	packets []*capturetest.Packet
	data    [][]byte
	left    int
	next    uint32
	once    sync.Once
	ended   chan struct{}
}

// newTorrent's source repeats n packets, of which one in misses+1 is a hit.
func newTorrent(n, packets, misses int) *torrent {
	s := &torrent{left: packets, ended: make(chan struct{})}
	for i := range n {
		p := hit(i)
		if i%(misses+1) != 0 {
			p.Src = other
		}
		s.packets, s.data = append(s.packets, p), append(s.data, p.AppendRecord(nil))
	}
	return s
}

func (s *torrent) ZeroCopyReadPacketData() ([]byte, gopacket.CaptureInfo, error) {
	if s.left == 0 {
		s.once.Do(func() { close(s.ended) })
		return nil, gopacket.CaptureInfo{}, capture.ErrInterfaceGone
	}
	s.left--
	i := int(s.next) % len(s.data)
	s.next++
	data := s.data[i]
	// The sequence number, behind pflog and IP headers: no two lines are equal.
	binary.BigEndian.PutUint32(data[capture.HeaderLen+24:], s.next)
	return data, gopacket.CaptureInfo{Timestamp: s.packets[i].Time, CaptureLength: len(data), Length: len(data)}, nil
}

func (s *torrent) Stats() (capture.Stats, error) { return capture.Stats{Received: uint64(s.next)}, nil }
func (s *torrent) Close() error                  { return nil }

// deaf is a server that cannot be reached.
type deaf struct{}

func (deaf) Send(context.Context, ID, []byte) error { return errors.New("connection refused") }

// Hundreds of thousands of hits come at once and nothing can be delivered: all are read,
// memory and disk stay within their bounds, and every hit is accounted for.
func TestFlood(t *testing.T) {
	packets := 200_000
	if testing.Short() {
		packets = 100_000
	}
	const spoolMax, batchBytes = 4 << 20, 256 << 10
	src := newTorrent(1000, packets, 0)
	r, err := New(Options{
		Config: Config{SpoolDir: tempSpool(t), SpoolMax: spoolMax, BatchBytes: batchBytes, BatchLines: 1 << 30},
		Source: src, Sender: deaf{},
	})
	if err != nil {
		t.Fatal(err)
	}
	r.SetPolicy(index(t), []netip.Addr{own})
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	began := time.Now()
	if err := r.Run(t.Context()); !errors.Is(err, capture.ErrInterfaceGone) {
		t.Fatal(err)
	}
	elapsed := time.Since(began)
	runtime.GC()
	runtime.ReadMemStats(&after)
	s := r.Stats()
	balanced(t, s)
	equal(t, "seen", s.Live.Seen, packets)
	equal(t, "hits", s.Live.Hits, packets)
	equal(t, "in memory", s.InMemory, 0)
	if s.Spool.Bytes+s.Aside.Bytes > spoolMax {
		t.Errorf("spool of %d bytes, limit %d", s.Spool.Bytes, spoolMax)
	}
	if s.Lost.SpoolFull == 0 && s.Lost.Memory == 0 {
		t.Errorf("nothing was lost: no flood: %+v", s)
	}
	// The batches in memory, the sender's copy, and what goes with them.
	const bound = (liveBatches+gapBatches+2)*batchBytes + 4<<20
	if grown := int64(after.HeapInuse) - int64(before.HeapInuse); grown > bound {
		t.Errorf("heap grew by %d, bound %d", grown, bound)
	}
	// Where the disk is fast enough that nothing is lost in memory, each line is copied into a batch and a file.
	if total := int64(after.TotalAlloc - before.TotalAlloc); total > 12*bound {
		t.Errorf("allocated %d bytes in all", total)
	}
	t.Logf("%.0f packets/s; lost in memory %d, in the spool %d; kept %d", float64(packets)/elapsed.Seconds(),
		s.Lost.Memory, s.Lost.SpoolFull, s.Spool.Lines)
}

// A slow start with a flood behind it: what is delivered, kept and lost adds up while
// the collector is up as well.
func TestFloodWithCollector(t *testing.T) {
	const packets = 100_000
	col := collector(t)
	o := options(t, col, tempSpool(t))
	o.Source, o.BatchBytes, o.StopTimeout = newTorrent(500, packets, 4), 64<<10, patience
	r, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	r.SetPolicy(index(t), []netip.Addr{own})
	if err := r.Run(t.Context()); !errors.Is(err, capture.ErrInterfaceGone) {
		t.Fatal(err)
	}
	s := r.Stats()
	balanced(t, s)
	equal(t, "seen", s.Live.Seen, packets)
	equal(t, "hits", s.Live.Hits, packets/5)
	lines := map[string]bool{}
	for _, r := range col.Receipts() {
		for _, l := range r.Lines() {
			if lines[l] {
				t.Fatalf("twice: %s", l)
			}
			lines[l] = true
		}
	}
	equal(t, "arrived", len(lines), s.Delivered.Lines)
	equal(t, "left", s.Spool.Lines, 0)
}
