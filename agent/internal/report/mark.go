package report

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"example.org/threatstopd/agent/internal/report/spool"
	"example.org/threatstopd/capture"
)

// A mark is a place in the run of packets that pf logs. pflogd and the live capture
// see the same run in the same order, so a packet that one has seen can be found in
// what the other has kept: by its identity. The time serves where it is not found.
type mark struct {
	// usec is the time of the packet by the wall clock, in microseconds.
	usec int64
	// id identifies the packet; zero when the mark is a point in time alone.
	id [16]byte
	// before says that the place is in front of the packet, not behind it.
	before bool
}

func timeMark(t time.Time) mark { return mark{usec: t.UnixMicro()} }

func (m mark) zero() bool      { return m == mark{} }
func (m mark) packet() bool    { return m.id != [16]byte{} }
func (m mark) time() time.Time { return time.UnixMicro(m.usec) }

// is reports whether both are of the same packet.
func (m mark) is(o mark) bool { return m.usec == o.usec && m.id == o.id && m.packet() }

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
	m := mark{usec: int64(binary.LittleEndian.Uint64(k[:]))}
	sum := sha256.Sum256(k[:])
	copy(m.id[:], sum[:])
	return m
}

// markOf returns the mark of a packet.
func markOf(p *capture.Packet) mark {
	k := keyOf(p)
	return k.mark()
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
	return m.usec == o.usec && m.id == o.id && (o.before || !o.packet())
}

// A gap is a stretch of the run that the live capture did not see and pflogd may
// have: from one mark up to the packet of another, exclusive. Where a mark is a time, or
// its packet is not to be found, a packet of that very time is behind it.
type gap struct {
	from, until mark
}

// A watermark says what of the run need not be read again: all up to done, but for
// the gaps. Whatever was a hit in there has been delivered, is in the spool on disk,
// or has been counted as lost.
type watermark struct {
	// gen grows with each change: of two watermarks the one with the higher
	// gen is the newer.
	gen  uint64
	done mark
	gaps []gap
}

// maxGaps bounds what repeated crashes while catching up can pile up; the oldest are
// joined then, which repeats what lies between them and loses nothing.
const maxGaps = 64

func (w *watermark) addGap(g gap) {
	if n := len(w.gaps); n > 0 && w.gaps[n-1].until.meets(g.from) {
		w.gaps[n-1].until = g.until
		return
	}
	w.gaps = append(w.gaps, g)
	if len(w.gaps) > maxGaps {
		w.gaps[1].from = w.gaps[0].from
		w.gaps = w.gaps[1:]
	}
}

// Encoding of a watermark, as it goes with each batch in the spool.
const (
	watermarkVersion = 1
	markSize         = 25
	watermarkMin     = 1 + 8 + markSize + 1
	watermarkMax     = watermarkMin + maxGaps*2*markSize
)

func (m mark) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(m.usec))
	b = append(b, m.id[:]...)
	if m.before {
		return append(b, 1)
	}
	return append(b, 0)
}

func decodeMark(b []byte) mark {
	return mark{int64(binary.LittleEndian.Uint64(b)), [16]byte(b[8:24]), b[24] != 0}
}

func (w *watermark) encode() []byte {
	b := make([]byte, 0, watermarkMax)
	b = append(b, watermarkVersion)
	b = binary.LittleEndian.AppendUint64(b, w.gen)
	b = w.done.append(b)
	b = append(b, byte(len(w.gaps)))
	for _, g := range w.gaps {
		b = g.until.append(g.from.append(b))
	}
	return b
}

// decodeWatermark is encode's inverse.
func decodeWatermark(b []byte) (w watermark, ok bool) {
	if len(b) < watermarkMin || b[0] != watermarkVersion {
		return w, false
	}
	n := int(b[watermarkMin-1])
	if n > maxGaps || len(b) != watermarkMin+n*2*markSize {
		return w, false
	}
	w.gen = binary.LittleEndian.Uint64(b[1:])
	if w.gen >= 1<<62 {
		return w, false
	}
	w.done = decodeMark(b[9:])
	for b = b[watermarkMin:]; len(b) > 0; b = b[2*markSize:] {
		w.gaps = append(w.gaps, gap{decodeMark(b), decodeMark(b[markSize:])})
	}
	return w, true
}

// The watermark's file in the spool directory: magic, watermark, CRC-32C of both.
const (
	watermarkFile  = "watermark"
	watermarkMagic = "TSWM"
)

// castagnoli is the table of CRC-32C. It is made when it is first asked for, which
// not every process does.
func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

func encodeWatermarkFile(w *watermark) []byte {
	b := append([]byte(watermarkMagic), w.encode()...)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli()))
}

func decodeWatermarkFile(b []byte) (watermark, error) {
	n := len(b) - 4
	if n < len(watermarkMagic) || string(b[:len(watermarkMagic)]) != watermarkMagic {
		return watermark{}, errors.New("is no watermark")
	}
	if binary.LittleEndian.Uint32(b[n:]) != crc32.Checksum(b[:n], castagnoli()) {
		return watermark{}, errors.New("checksum is wrong")
	}
	w, ok := decodeWatermark(b[len(watermarkMagic):n])
	if !ok {
		return watermark{}, errors.New("is of another version")
	}
	return w, nil
}

// readWatermark reads the file in dir. A missing one is fs.ErrNotExist.
func readWatermark(dir string) (watermark, error) {
	path := filepath.Join(dir, watermarkFile)
	f, err := spool.OpenOwn(path, os.O_RDONLY)
	if err != nil {
		return watermark{}, err
	}
	defer f.Close()
	b := make([]byte, watermarkMax+64)
	n, err := f.Read(b)
	if err != nil && n == 0 {
		return watermark{}, fmt.Errorf("watermark %s: empty", path)
	}
	w, err := decodeWatermarkFile(b[:n])
	if err != nil {
		return w, fmt.Errorf("watermark %s: %w", path, err)
	}
	return w, nil
}

// writeWatermark replaces the file in the directory that is open as dir.
func writeWatermark(dir *os.File, w *watermark) error {
	path := filepath.Join(dir.Name(), watermarkFile)
	// One fixed name: it can be unveiled, and a crash leaves at most one.
	temp := path + ".new"
	err := func() error {
		// What is left there is not opened: it may be a link, another's file
		// under a second name, or a FIFO.
		if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		err = spool.Adopt(f, dir.Name())
		if err == nil {
			_, err = f.Write(encodeWatermarkFile(w))
		}
		if err == nil {
			err = f.Sync()
		}
		if e := f.Close(); err == nil {
			err = e
		}
		if err != nil {
			return err
		}
		if err := os.Rename(temp, path); err != nil {
			return err
		}
		return dir.Sync()
	}()
	if err != nil {
		var pe *fs.PathError
		if errors.As(err, &pe) {
			err = pe.Err
		}
		return fmt.Errorf("watermark %s: %w", path, err)
	}
	return nil
}
