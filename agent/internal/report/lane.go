package report

import (
	"sync"
	"sync/atomic"
	"time"

	"example.org/threatstopd/agent/internal/report/spool"
	"example.org/threatstopd/capture"
)

// maxLine is the longest line that capture.Printer writes, with its newline.
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

	// mu is held while a read's packets are looked at, and for a moment by
	// whoever closes a batch. Nobody waits for disk or network under it.
	mu      sync.Mutex
	matcher *matcher
	packet  capture.Packet
	printer capture.Printer
	cur     *batch
	// last is the last packet that was looked at, as of the end of the last
	// read.
	last mark

	// Counted here first, once for a whole read.
	seen, hits, wanted, undecoded, lost, lines int64
	*laneCounters
}

type laneCounters struct {
	Seen, Hits, Wanted, Undecoded, Lost atomic.Int64
}

func newLane(r *Reporter, batches int, gap bool, c *laneCounters) *lane {
	l := &lane{r: r, free: make(chan *batch, batches), gap: gap, laneCounters: c}
	l.printer.Location = r.o.Location
	for range batches {
		l.free <- &batch{lane: l}
	}
	return l
}

// look looks at one packet. It does not allocate, except for a batch's text when the
// batch is used for the first time.
func (l *lane) look(rec capture.Record) {
	l.seen++
	p := &l.packet
	if p.Decode(rec) != nil {
		l.undecoded++
	}
	if l.matcher != nil && l.matcher.match(p) {
		l.hits++
	} else if !l.r.o.All {
		return
	}
	l.wanted++
	b := l.cur
	if b == nil {
		if b = l.take(); b == nil {
			l.lost++
			return
		}
	}
	b.text = append(l.printer.AppendLine(b.text, p), '\n')
	b.lines++
	l.lines++
	if b.lines >= l.r.batchLines || len(b.text) > l.r.batchBytes-maxLine {
		l.close(markOf(p))
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

// endRead ends the packets of a read, the last of which is in l.packet.
func (l *lane) endRead(any bool) {
	if any {
		l.last = markOf(&l.packet)
	}
	l.r.inMemory.Add(l.lines)
	l.Seen.Add(l.seen)
	l.Hits.Add(l.hits)
	l.Wanted.Add(l.wanted)
	l.Undecoded.Add(l.undecoded)
	l.Lost.Add(l.lost)
	l.seen, l.hits, l.wanted, l.undecoded, l.lost, l.lines = 0, 0, 0, 0, 0, 0
}

// flush closes the current batch if there is one. If there is none it returns the last
// packet looked at: everything up to it is either on its way already or was no hit.
func (l *lane) flush() (last mark, idle bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cur != nil {
		l.close(l.last)
		return mark{}, false
	}
	return l.last, true
}

// release gives a batch back to its lane.
func (b *batch) release() { b.lane.free <- b }

// live looks at the packets of one read. A mark is returned for the first packet ever
// that there was a policy for.
func (l *lane) live(reads *capture.Batch, rec *capture.Record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.matcher = l.r.matcher.Load()
	any := false
	for reads.Next(rec) {
		if l.matcher == nil && !l.r.o.All {
			l.r.noPolicy.Add(1)
			continue
		}
		l.look(*rec)
		if !any && l.last.zero() {
			l.r.firstLive(markOf(&l.packet))
		}
		any = true
	}
	if reads.Err() != nil {
		l.r.malformed.Add(1)
	}
	l.endRead(any)
}
