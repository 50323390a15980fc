package report

import (
	"sync"

	"github.com/google/gopacket"

	"example.org/threatstopd/capture"
)

// maxLine is the longest line that capture prints, with its newline.
const maxLine = 4096 + 1

// A lane turns packets into batches: the live ones, or those of a gap that are read from
// files. Each has batches of its own, so that catching up does not take them from the live
// capture.
type lane struct {
	r    *Reporter
	free chan []byte // buffers for the text of batches, nil at first
	gap  bool

	// mu is held while a packet is examined, and for a moment when a batch is closed.
	// It is locked before Reporter.mu, and never while the disk or the network works.
	mu      sync.Mutex
	matcher *matcher
	packet  capture.Packet
	cur     *batch
	last    packetKey // the last packet that was examined
	counts  packets
}

// packets are the figures of a lane: Seen are all that came, Hits those with a listed
// address, Reported those for which a line was wanted, Undecoded those that are no whole
// packet, NoPolicy those that came before the first policy (not in Seen), Lost those of
// Reported for which no batch was free.
type packets struct{ Seen, Hits, Reported, Undecoded, NoPolicy, Lost int64 }

func newLane(r *Reporter, batches int, gap bool) *lane {
	l := &lane{r: r, free: make(chan []byte, batches), gap: gap}
	for range batches {
		l.free <- nil
	}
	return l
}

func (l *lane) count() packets {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.counts
}

// examine matches one packet and prints its line if it is wanted. mu is held.
func (l *lane) examine(data []byte, ci gopacket.CaptureInfo) {
	l.counts.Seen++
	p := &l.packet
	if p.Decode(data, ci) != nil {
		l.counts.Undecoded++
	}
	first := !l.gap && l.last.zero()
	if l.last = keyOf(p); first {
		l.r.beginLive(l.last.mark())
	}
	if l.matcher != nil && l.matcher.match(p) {
		l.counts.Hits++
	} else if !l.r.o.all() {
		return
	}
	l.counts.Reported++
	if l.cur == nil {
		select {
		case text := <-l.free:
			l.begin(text)
		default:
			l.counts.Lost++
			return
		}
	}
	b := l.cur
	b.text = append(p.AppendLine(b.text, l.r.o.Location), '\n')
	b.lines++
	if b.lines >= l.r.batchLines || len(b.text) > l.r.batchBytes-maxLine {
		l.close(false)
	}
}

func (l *lane) begin(text []byte) {
	if cap(text) < l.r.batchBytes {
		text = make([]byte, 0, l.r.batchBytes)
	}
	l.cur = &batch{id: newID(), created: l.r.o.Now(), text: text, buf: l.free, gap: l.gap, own: true}
}

// close puts the current batch into the queue; ends says that its gap ends with it. mu is held.
func (l *lane) close(ends bool) {
	b := l.cur
	l.cur = nil
	b.mark, b.ends = l.last.mark(), ends
	l.r.mu.Lock()
	l.r.queue = append(l.r.queue, b)
	l.r.mu.Unlock()
	signal(l.r.wake)
}

// flush closes the current batch if there is one. If there is none it returns the last packet
// that was examined: everything up to it is in the queue already or was no hit.
func (l *lane) flush() (last mark, idle bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cur != nil {
		l.close(false)
		return mark{}, false
	}
	return l.last.mark(), true
}

// live examines a packet of the live capture. The first one that there was a policy for is
// where live reporting begins.
func (l *lane) live(data []byte, ci gopacket.CaptureInfo) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.matcher = l.r.matcher.Load()
	if l.matcher == nil && !l.r.o.all() {
		l.counts.NoPolicy++
		return
	}
	l.examine(data, ci)
}
