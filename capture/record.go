package capture

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// A Record is one captured packet, pflog header included.
type Record struct {
	// Time is when pf logged the packet, by the wall clock, to the
	// microsecond.
	Time time.Time
	// Data is what was captured. It belongs to whoever gave the record and
	// is valid only until that is asked for more.
	Data []byte
	// Length is how long header and packet were before the capture cut
	// them, in bytes. It is at least len(Data) in a sane record, but that is
	// the writer's claim.
	Length int

	// swapped says that the host that wrote the record has the other byte
	// order: the header's ids are in host order.
	swapped bool
}

// Layout of a record in a bpf(4) read, the same on every architecture:
// struct bpf_timeval is two 32 bit words everywhere, and records begin at
// multiples of 4, not of the word size (BPF_ALIGNMENT in net/bpf.h). The header
// is 20 bytes at least; how long it really is stands in bh_hdrlen: 24 up to
// OpenBSD 7.4, 28 from 7.5.
const (
	bpfSec       = 0
	bpfUsec      = 4
	bpfCaplen    = 8
	bpfDatalen   = 12
	bpfHdrlen    = 16
	bpfMinHeader = 18
	bpfAlignment = 4
)

// ErrBatch is wrapped by [Batch.Err] when a read does not parse as bpf records.
var ErrBatch = errors.New("malformed bpf record")

// A Batch is the records that one read from the kernel returned, in order. The
// zero value is an empty batch.
type Batch struct {
	buf []byte
	off int
	err error
}

// Reset makes b the batch of the records in buf, which is what read(2) on a
// bpf(4) device returned and is not copied.
func (b *Batch) Reset(buf []byte) {
	b.buf, b.off, b.err = buf, 0, nil
}

// Next puts the next record into r and reports whether there was one. It stops
// at the end and at a record that cannot be: [Batch.Err] tells them apart.
func (b *Batch) Next(r *Record) bool {
	rest := b.buf[b.off:]
	if len(rest) == 0 || b.err != nil {
		return false
	}
	if len(rest) < bpfMinHeader {
		b.err = fmt.Errorf("bpf read: %w: %d bytes left at offset %d, too few for a header", ErrBatch, len(rest), b.off)
		return false
	}
	hdrlen := uint64(binary.NativeEndian.Uint16(rest[bpfHdrlen:]))
	caplen := uint64(binary.NativeEndian.Uint32(rest[bpfCaplen:]))
	end := hdrlen + caplen
	if hdrlen < bpfMinHeader || end > uint64(len(rest)) {
		b.err = fmt.Errorf("bpf read: %w: header length %d and capture length %d at offset %d, %d bytes left",
			ErrBatch, hdrlen, caplen, b.off, len(rest))
		return false
	}
	// bpf_timeval's seconds are unsigned (u_int32_t): good until 2106.
	sec := binary.NativeEndian.Uint32(rest[bpfSec:])
	usec := binary.NativeEndian.Uint32(rest[bpfUsec:])
	r.Time = time.Unix(int64(sec), int64(usec)*1000)
	r.Data = rest[hdrlen:end:end]
	r.Length = clampLength(binary.NativeEndian.Uint32(rest[bpfDatalen:]))
	r.swapped = false
	// The last record of a read is not padded.
	next := (end + bpfAlignment - 1) &^ (bpfAlignment - 1)
	b.off += int(min(next, uint64(len(rest))))
	return true
}

// Err returns the error that ended the batch early, nil if the whole read was
// good records. What came before the bad record has been handed out.
func (b *Batch) Err() error { return b.err }

// Empty reports whether the batch has no bytes at all: the read's time-out
// passed without a packet.
func (b *Batch) Empty() bool { return len(b.buf) == 0 }

// clampLength keeps a 32 bit length from becoming negative where int is 32 bits.
func clampLength(n uint32) int {
	return int(min(n, 1<<31-1))
}
