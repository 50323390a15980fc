package report

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/gopacket"

	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/capture"
)

// maxLine is the longest line that capture prints, with its newline.
const maxLine = 4096 + 1

// A lane turns packets of one run into batches: the live ones, or those of a gap that are
// read from files. Each has batches of its own, so that catching up does not take them from
// the live capture.
type lane struct {
	r    *Reporter
	free chan []byte // buffers for the text of batches, nil at first
	gap  bool

	// mu is held while packets are examined, and for a moment when a batch is closed.
	// Nobody waits for disk or network under it. It is locked before Reporter.mu.
	mu      sync.Mutex
	matcher *matcher
	packet  capture.Packet
	cur     *batch
	last    packetKey // the last packet that was examined

	seen, hits, wanted, undecoded, lost, noPolicy atomic.Int64
	lines                                         atomic.Int64 // in cur
}

func newLane(r *Reporter, batches int, gap bool) *lane {
	l := &lane{r: r, free: make(chan []byte, batches), gap: gap}
	for range batches {
		l.free <- nil
	}
	return l
}

// examine matches one packet and prints its line if it is wanted. mu is held.
func (l *lane) examine(data []byte, ci gopacket.CaptureInfo) {
	l.seen.Add(1)
	p := &l.packet
	if p.Decode(data, ci) != nil {
		l.undecoded.Add(1)
	}
	l.last = keyOf(p)
	if l.matcher != nil && l.matcher.match(p) {
		l.hits.Add(1)
	} else if !l.r.o.All {
		return
	}
	l.wanted.Add(1)
	if l.cur == nil {
		select {
		case text := <-l.free:
			l.begin(text)
		default:
			l.lost.Add(1)
			return
		}
	}
	b := l.cur
	b.text = append(p.AppendLine(b.text, l.r.o.Location), '\n')
	b.lines++
	l.lines.Add(1)
	if b.lines >= l.r.batchLines || len(b.text) > l.r.batchBytes-maxLine {
		l.close(l.last.mark())
	}
}

func (l *lane) begin(text []byte) {
	if cap(text) < l.r.batchBytes {
		text = make([]byte, 0, l.r.batchBytes)
	}
	l.cur = &batch{id: newID(), created: l.r.o.Now(), text: text, buf: l.free, gap: l.gap, own: true}
}

// close puts the current batch into the queue. mu is held.
func (l *lane) close(m mark) {
	b := l.cur
	l.cur = nil
	b.mark = m
	r := l.r
	r.mu.Lock()
	r.queue = append(r.queue, b)
	r.inMemory += int64(b.lines)
	l.lines.Store(0)
	r.mu.Unlock()
	signal(r.wakeWriter)
}

// flush closes the current batch if there is one. If there is none it returns the last packet
// that was examined: everything up to it is in the queue already or was no hit.
func (l *lane) flush() (last mark, idle bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cur != nil {
		l.close(l.last.mark())
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
	if l.matcher == nil && !l.r.o.All {
		l.noPolicy.Add(1)
		return
	}
	first := l.last.zero()
	l.examine(data, ci)
	if first {
		l.r.beginLive(l.last.mark())
	}
}

// A matcher is a policy in force, ready to match packets.
type matcher struct {
	index   *policy.Index
	own     map[netip.Addr]struct{}
	names   []string // by ListID
	since   time.Time
	history *history
}

// noList is what hits count for whose entry belongs to no list.
const noList = "(none)"

// listed looks one address up. Own addresses are looked for only when they are listed, which
// is rare, so that the others need no second look-up.
func (m *matcher) listed(a netip.Addr, p *capture.Packet) bool {
	list, _, ok := m.index.Lookup(a)
	if !ok {
		return false
	}
	if _, own := m.own[a.Unmap()]; own {
		return false
	}
	name := noList
	if int(list) < len(m.names) {
		name = m.names[list]
	}
	m.history.hit(a, p.Proto, p.DstPort, name, p.Time)
	return true
}

// match reports whether a packet is a hit, and counts it for the list of each of its
// addresses that is listed.
func (m *matcher) match(p *capture.Packet) bool {
	src := m.listed(p.Src, p)
	dst := p.Dst != p.Src && m.listed(p.Dst, p)
	return src || dst
}

// SetPolicy puts a policy in force: packets are matched against index from now on, without a
// pause, but for the addresses in own, which are this host's and never the far end of a
// packet. A nil index matches nothing. Both are kept and must not change.
//
// Until the first call there is nothing to match against: packets are then counted as
// Stats.NoPolicy, and pflogd's files, where there are any, are read for them later.
func (r *Reporter) SetPolicy(index *policy.Index, own []netip.Addr) {
	if index == nil {
		index = policy.NewIndex(nil)
	}
	m := &matcher{index: index, own: make(map[netip.Addr]struct{}, len(own)), names: index.Lists(), since: r.o.Now(), history: r.history}
	for _, a := range own {
		m.own[a.Unmap().WithZone("")] = struct{}{}
	}
	r.history.know(m.names)
	if r.matcher.Swap(m) == nil {
		close(r.havePolicy)
	}
}
