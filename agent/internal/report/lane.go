package report

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/gopacket"

	"example.org/threatstopd/agent/internal/report/spool"
	"example.org/threatstopd/capture"
)

// maxLine is the longest line that capture.Packet.AppendLine writes, with its newline.
const maxLine = 4096 + 1

// A batch is lines on their way from a lane to the spool. There is a fixed number of
// them and they are used again and again.
type batch struct {
	lane    *lane
	id      spool.ID
	created time.Time
	text    []byte
	lines   int
	// mark is the last packet that was looked at before the batch was closed.
	mark mark
	// ends says that nothing comes behind it on a gap's lane.
	ends bool
}

// A lane turns packets of one run into batches: the live ones, or those of a gap that
// are read from files. Each has batches of its own, so that catching up does not take
// them from the live capture.
type lane struct {
	r    *Reporter
	free chan *batch
	gap  bool

	// mu is held while a packet is looked at or a batch closed. Nothing waits for
	// disk or network under it.
	mu      sync.Mutex
	matcher *matcher
	packet  capture.Packet
	cur     *batch
	// last identifies the last packet that was looked at.
	last packetKey

	*laneCounters
}

type laneCounters struct {
	Seen, Hits, Wanted, Undecoded, Lost atomic.Int64
}

func newLane(r *Reporter, batches int, gap bool, c *laneCounters) *lane {
	l := &lane{r: r, free: make(chan *batch, batches), gap: gap, laneCounters: c}
	for range batches {
		l.free <- &batch{lane: l}
	}
	return l
}

// look looks at one packet. It does not allocate, except for a batch's text when the
// batch is used for the first time.
func (l *lane) look(data []byte, ci gopacket.CaptureInfo) {
	l.Seen.Add(1)
	p := &l.packet
	if p.Decode(data, ci) != nil {
		l.Undecoded.Add(1)
	}
	l.last = keyOf(p)
	if l.matcher != nil && l.matcher.match(p) {
		l.Hits.Add(1)
	} else if !l.r.o.All {
		return
	}
	l.Wanted.Add(1)
	b := l.cur
	if b == nil {
		if b = l.take(); b == nil {
			l.Lost.Add(1)
			return
		}
	}
	b.text = append(p.AppendLine(b.text, l.r.o.Location), '\n')
	b.lines++
	l.r.inMemory.Add(1)
	if b.lines >= l.r.batchLines || len(b.text) > l.r.batchBytes-maxLine {
		l.close(l.last.mark())
	}
}

// take begins a batch; nil means that all are full.
func (l *lane) take() *batch {
	select {
	case b := <-l.free:
		l.begin(b)
		return b
	default:
		return nil
	}
}

func (l *lane) begin(b *batch) {
	if b.text == nil {
		b.text = make([]byte, 0, l.r.batchBytes)
	}
	b.text, b.lines, b.ends = b.text[:0], 0, false
	b.id, b.created = spool.NewID(), l.r.o.Now()
	l.cur = b
}

// close hands the current batch on. The queue has room for all there are.
func (l *lane) close(m mark) {
	b := l.cur
	l.cur = nil
	b.mark = m
	l.r.full <- b
}

// flush closes the current batch if there is one. If there is none it returns the last
// packet looked at: everything up to it is either on its way already or was no hit.
func (l *lane) flush() (last mark, idle bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cur != nil {
		l.close(l.last.mark())
		return mark{}, false
	}
	return l.last.mark(), true
}

// release gives a batch back to its lane.
func (b *batch) release() { b.lane.free <- b }

// live looks at a packet from the live capture. The first one that there was a policy for
// is where the live capture begins.
func (l *lane) live(data []byte, ci gopacket.CaptureInfo) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.matcher = l.r.matcher.Load()
	if l.matcher == nil && !l.r.o.All {
		l.r.noPolicy.Add(1)
		return
	}
	first := l.last.zero()
	l.look(data, ci)
	if first {
		l.r.firstLive(l.last.mark())
	}
}
