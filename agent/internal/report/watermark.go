package report

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"example.org/threatstopd/capture"
)

// A mark is a place in the run of packets that pf logs. pflogd and the live capture
// see the same run in the same order, so a packet that one has seen can be found in
// what the other has kept: by its identity. The time serves where it is not found.
type mark struct {
	// Usec is the time of the packet by the wall clock, in microseconds.
	Usec int64 `json:"usec"`
	// ID identifies the packet, in hexadecimal; "" when the mark is a point in time alone.
	ID string `json:"id,omitempty"`
	// Before says that the place is in front of the packet, not behind it.
	Before bool `json:"before,omitempty"`
}

func timeMark(t time.Time) mark { return mark{Usec: t.UnixMicro()} }

func (m mark) zero() bool      { return m == mark{} }
func (m mark) packet() bool    { return m.ID != "" }
func (m mark) time() time.Time { return time.UnixMicro(m.Usec) }

// is reports whether both are of the same packet.
func (m mark) is(o mark) bool { return m.Usec == o.Usec && m.ID == o.ID && m.packet() }

// A packetKey is what identifies a packet: its time, pflog header, addresses and ports.
// It is the same for the packet read live, whole, and for the one in a file, cut at
// pflogd's snapshot length (160 bytes by default; 124 for IPv4 and 144 for IPv6 are
// enough: what is behind options or extension headers is left out).
type packetKey [8 + capture.HeaderLen + 2*17 + 4]byte

func keyOf(p *capture.Packet) (k packetKey) {
	binary.LittleEndian.PutUint64(k[:], uint64(p.Time.UnixMicro()))
	copy(k[8:8+capture.HeaderLen], p.Data)
	n := 8 + capture.HeaderLen
	if p.Src.IsValid() {
		src, dst := p.Src.As16(), p.Dst.As16()
		k[n], k[n+17] = byte(p.Src.BitLen()), byte(p.Dst.BitLen())
		copy(k[n+1:], src[:])
		copy(k[n+18:], dst[:])
	}
	if n += 2 * 17; p.Ports && plainHeader(p.IP()) {
		binary.BigEndian.PutUint16(k[n:], p.SrcPort)
		binary.BigEndian.PutUint16(k[n+2:], p.DstPort)
	}
	return k
}

// zero reports whether k is no packet's.
func (k *packetKey) zero() bool { return *k == packetKey{} }

// mark returns the mark of the packet, the zero one if k is no packet's.
func (k *packetKey) mark() mark {
	if k.zero() {
		return mark{}
	}
	sum := sha256.Sum256(k[:])
	return mark{Usec: int64(binary.LittleEndian.Uint64(k[:])), ID: hex.EncodeToString(sum[:16])}
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

// meets reports whether a gap that ends at m and one that begins at o leave nothing
// between them.
func (m mark) meets(o mark) bool {
	return m.Usec == o.Usec && m.ID == o.ID && (o.Before || !o.packet())
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
	// Gen grows with each change: of two watermarks the one with the higher Gen is the
	// newer. 0: there is none.
	Gen  uint64 `json:"gen"`
	Done mark   `json:"done"`
	Gaps []gap  `json:"gaps,omitempty"`
}

// maxGaps bounds what repeated crashes while catching up can pile up; the oldest are
// joined then, which repeats what lies between them and loses nothing.
const maxGaps = 64

func (w *watermark) addGap(g gap) {
	if n := len(w.Gaps); n > 0 && w.Gaps[n-1].Until.meets(g.From) {
		w.Gaps[n-1].Until = g.Until
		return
	}
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

// watermarkFile has the watermark in the spool directory, in JSON.
const watermarkFile = "watermark.json"

// readWatermark reads the watermark's file. The error wraps fs.ErrNotExist when there is none.
func (d spoolDir) readWatermark() (w watermark, err error) {
	path := filepath.Join(string(d), watermarkFile)
	b, err := readOwn(path, maxHeader)
	if err == nil {
		err = json.Unmarshal(b, &w)
	}
	if err == nil && (!w.valid() || w.Gen == 0) {
		err = errors.New("is no watermark")
	}
	if err != nil {
		return watermark{}, fmt.Errorf("watermark %s: %w", path, cause(err))
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
