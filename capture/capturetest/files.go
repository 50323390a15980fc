package capturetest

import (
	"encoding/binary"
	"io"
	"time"

	"example.org/threatstopd/capture"
)

// PflogdSnapLen is the default snapshot length of pflogd's files in bytes. The pflog
// header takes 100 of them.
const PflogdSnapLen = 160

// A PcapWriter writes a pcap file as pflogd(8) does.
type PcapWriter struct {
	w       io.Writer
	snapLen int
	order   binary.ByteOrder
	swapped bool
}

// NewPcapWriter writes the file header to w. Records are cut to snapLen bytes, 0
// for PflogdSnapLen. A nil order is the byte order of this host.
func NewPcapWriter(w io.Writer, snapLen int, order binary.ByteOrder) (*PcapWriter, error) {
	if snapLen == 0 {
		snapLen = PflogdSnapLen
	}
	if order == nil {
		order = hostOrder()
	}
	h := make([]byte, 24)
	order.PutUint32(h, 0xa1b2c3d4)
	order.PutUint16(h[4:], 2)
	order.PutUint16(h[6:], 4)
	order.PutUint32(h[16:], uint32(snapLen))
	order.PutUint32(h[20:], capture.LinkType)
	if _, err := w.Write(h); err != nil {
		return nil, err
	}
	return &PcapWriter{w: w, snapLen: snapLen, order: order, swapped: order != hostOrder()}, nil
}

// hostOrder is this host's byte order as one of the two comparable values.
func hostOrder() binary.ByteOrder {
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 {
		return binary.BigEndian
	}
	return binary.LittleEndian
}

// Write writes a record for the packet.
func (w *PcapWriter) Write(p *Packet) error {
	data := p.AppendRecord(nil)
	if w.swapped {
		swapOrder(data)
	}
	return w.WriteRecord(timeOf(p), data)
}

// WriteRecord writes a record of these bytes as they are, cut to the file's
// snapshot length.
func (w *PcapWriter) WriteRecord(t time.Time, data []byte) error {
	caplen := min(len(data), w.snapLen)
	rec := make([]byte, 16, 16+caplen)
	w.order.PutUint32(rec, uint32(t.Unix()))
	w.order.PutUint32(rec[4:], uint32(t.Nanosecond()/1000))
	w.order.PutUint32(rec[8:], uint32(caplen))
	w.order.PutUint32(rec[12:], uint32(len(data)))
	_, err := w.w.Write(append(rec, data[:caplen]...))
	return err
}

func timeOf(p *Packet) time.Time {
	if p.Time.IsZero() {
		return time.Now()
	}
	return p.Time
}
