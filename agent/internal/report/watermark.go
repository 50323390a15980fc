package report

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"example.org/threatstopd/capture"
)

// A mark is a place in the run of packets that pf logs. pflogd and the live capture
// see the same run in the same order, so a packet that one has seen can be found in
// what the other has kept: by its identity. The time serves where it is not found.
type mark struct {
	Usec   int64  `json:"usec"`             // the time of the packet by the wall clock, in microseconds
	ID     string `json:"id,omitempty"`     // of the packet, in hexadecimal; "" when this is a point in time alone
	Before bool   `json:"before,omitempty"` // the place is in front of the packet, not behind it
}

func timeMark(t time.Time) mark { return mark{Usec: t.UnixMicro()} }

func (m mark) time() time.Time { return time.UnixMicro(m.Usec) }

// is reports whether both are of the same packet.
func (m mark) is(o mark) bool { return m.Usec == o.Usec && m.ID == o.ID && m.ID != "" }

// markOf returns the mark behind a packet. It is identified by its time, pflog header, addresses and ports,
// which are the same for the packet read live, whole, and for the one in a file, cut at
// pflogd's snapshot length (160 bytes by default; 124 for IPv4 and 144 for IPv6 are
// enough: what is behind options or extension headers is left out).
func markOf(p *capture.Packet) mark {
	usec := p.Time.UnixMicro()
	k := binary.LittleEndian.AppendUint64(make([]byte, 0, 160), uint64(usec))
	k = append(k, p.Data[:min(len(p.Data), capture.HeaderLen)]...)
	for _, a := range []netip.Addr{p.Src, p.Dst} {
		b := a.As16()
		k = append(append(k, byte(a.BitLen())), b[:]...)
	}
	if p.Ports && plainHeader(p.IP()) {
		k = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(k, p.SrcPort), p.DstPort)
	}
	sum := sha256.Sum256(k)
	return mark{Usec: usec, ID: hex.EncodeToString(sum[:16])}
}

// plainHeader reports whether the transport header follows the fixed part of the IP
// header, where no snapshot length of pflogd's has cut it.
func plainHeader(ip []byte) bool {
	if len(ip) == 0 {
		return false
	}
	switch ip[0] >> 4 {
	case 4:
		return ip[0]&0xf == 5
	case 6:
		return len(ip) > 6 && (ip[6] == 6 || ip[6] == 17)
	}
	return false
}

// A gap is a stretch of the run that the live capture did not see and pflogd may
// have: from one mark up to the packet of another, exclusive. Where a mark is a time, or
// its packet is not to be found, a packet of that very time is behind it.
type gap struct {
	From  mark `json:"from"`
	Until mark `json:"until"`
}

// A watermark says what of the run need not be read again: all up to done, but for
// the gaps. Whatever was a hit in there has been delivered, is in the spool on disk,
// or has been counted as lost.
type watermark struct {
	Gen  uint64 `json:"gen"` // grows with each change; 0: there is none
	Done mark   `json:"done"`
	Gaps []gap  `json:"gaps,omitempty"`
}

// maxGaps bounds what repeated crashes while catching up can pile up; the oldest are
// joined then, which repeats what lies between them and loses nothing.
const maxGaps = 64

func (w *watermark) addGap(g gap) {
	w.Gaps = append(w.Gaps, g)
	if len(w.Gaps) > maxGaps {
		w.Gaps[1].From = w.Gaps[0].From
		w.Gaps = w.Gaps[1:]
	}
}

// valid reports whether this program can have written w: no foreign file makes Gen wrap, or a
// header longer than it can be.
func (w *watermark) valid() bool {
	ok := func(m mark) bool { return len(m.ID) <= 32 }
	foreign := slices.ContainsFunc(w.Gaps, func(g gap) bool { return !ok(g.From) || !ok(g.Until) })
	return w.Gen < 1<<62 && len(w.Gaps) <= maxGaps && ok(w.Done) && !foreign
}

// beginWatermark makes the stretch from the last run's end to this run's beginning a gap. What is durable
// so far stays as it is until this run has something durable, but at the first start: from then on there
// is a last time.
func (r *Reporter) beginWatermark() {
	r.mu.Lock()
	defer r.mu.Unlock()
	known := r.wm.Gen > 0
	w := watermark{Gen: r.wm.Gen + 1, Done: timeMark(r.started)}
	if r.o.Logs != nil {
		w.Gaps = slices.Clone(r.wm.Gaps)
		from := timeMark(r.started.Add(-r.o.Backfill))
		if known {
			from = r.wm.Done
		}
		if r.ownGap = known || r.o.Backfill > 0; r.ownGap {
			w.addGap(gap{From: from, Until: w.Done})
		}
	}
	r.wm = w
	if !known {
		_ = r.persist()
	}
}

// beginLive notes, once, where live reporting begins: at a packet, or a time. The gap ends there. mu is held.
func (r *Reporter) beginLive(m mark) {
	select {
	case <-r.first:
		return
	default:
	}
	close(r.first)
	r.wm.Gen++
	r.wm.Gaps = slices.Clone(r.wm.Gaps)
	if n := len(r.wm.Gaps); r.ownGap && n > 0 {
		r.wm.Gaps[n-1].Until = m
	}
	r.wm.Done = m
	r.wm.Done.Before = m.ID != ""
}

// after returns what the watermark is once b is durable.
func (r *Reporter) after(b *batch) watermark {
	next := r.wm
	next.Gen++
	next.Gaps = slices.Clone(r.wm.Gaps)
	switch {
	case !b.gap && b.mark != (mark{}): // not the first part of one that was halved
		next.Done = b.mark
	case !b.gap, len(next.Gaps) == 0:
	case b.ends > 0:
		next.Gaps = next.Gaps[min(b.ends, len(next.Gaps)):]
	case b.mark != (mark{}):
		next.Gaps[0].From = b.mark
	}
	return next
}

// persist writes the watermark to its file, if that has an older one.
func (r *Reporter) persist() error {
	w := r.wm
	if r.filed == w.Gen {
		return nil
	}
	err := r.unlocked(func() error { return r.dir.writeWatermark(&w) })
	if err == nil {
		r.filed = w.Gen
	} else if !r.unfiled {
		r.o.Log.Warn().Err(err).Msg("watermark not written")
	}
	r.unfiled = err != nil
	return err
}

const watermarkFile = "watermark.json" // in the spool directory

// readWatermark reads the watermark's file. The error wraps fs.ErrNotExist when there is none.
func (d spoolDir) readWatermark() (w watermark, err error) {
	err = d.readJSON(watermarkFile, maxHeader, &w)
	if err == nil && (!w.valid() || w.Gen == 0) {
		err = fmt.Errorf("spool file %s: is no watermark", watermarkFile)
	}
	if err != nil {
		return watermark{}, err
	}
	return w, nil
}

func (d spoolDir) writeWatermark(w *watermark) error {
	b, err := json.Marshal(w)
	if err != nil {
		return err
	}
	return d.replace(watermarkFile, true, append(b, '\n'))
}
