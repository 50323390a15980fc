package spool

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"hash/crc32"
	"io"
	"time"
)

// An ID names a batch. It stays the same for the life of a batch, across attempts
// to deliver it and across restarts, so that the far end can tell a repetition.
type ID [16]byte

// NewID returns a random ID.
func NewID() ID {
	var id ID
	// crypto/rand.Read never fails; where the system has no entropy to give
	// it ends the process.
	rand.Read(id[:])
	return id
}

// String returns the ID as 32 hexadecimal digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// A Batch is what one record holds.
type Batch struct {
	// Seq is the place in the queue, given by Append; it only ever grows.
	Seq uint64
	ID  ID
	// Created is when the batch was made, by the wall clock.
	Created time.Time
	// Lines is the number of lines in Text.
	Lines int
	// Meta goes with the batch and means nothing to the spool. At most 64 KiB
	// less one byte.
	Meta []byte
	// Text is the batch itself, at most MaxText bytes.
	Text []byte
}

// MaxText is the most a batch's text may have, in bytes: what a reader of a foreign
// file is willing to allocate.
const MaxText = 16 << 20

const maxMeta = 1<<16 - 1

// Layout of a record's header. All numbers are little endian.
const (
	offMagic   = 0
	offVersion = 4
	offKind    = 5
	offMetaLen = 6
	offTextLen = 8
	offLines   = 12
	offSeq     = 16
	offDone    = 24
	offCreated = 32
	offID      = 40
	offBodyCRC = 56
	offHeadCRC = 60
	headerSize = 64
)

const version = 1

// maxSeq bounds sequence numbers, so that no foreign file can make them wrap.
const maxSeq = 1 << 62

// Kinds of record.
const (
	kindBatch = 1
	// kindDone has no body; its header's done field is the news.
	kindDone = 2
)

// magic begins each record. The first byte is in no text line, so that looking for
// the next record does not stop at every other word.
var magic = []byte{0xf5, 'T', 'S', 'B'}

// castagnoli is the table of CRC-32C. It is made when it is first asked for, which
// not every process does.
func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

type header struct {
	kind    byte
	metaLen int
	textLen int
	lines   uint32
	seq     uint64
	// done is the sequence number up to which everything had been dealt with
	// when the record was written. Being in every header, it is found in the
	// newest intact record, wherever damage is.
	done    uint64
	created int64
	id      ID
	bodyCRC uint32
}

func (h *header) bodyLen() int64 { return int64(h.metaLen) + int64(h.textLen) }
func (h *header) size() int64    { return headerSize + h.bodyLen() }

func (h *header) encode(b *[headerSize]byte) {
	le := binary.LittleEndian
	copy(b[offMagic:], magic)
	b[offVersion] = version
	b[offKind] = h.kind
	le.PutUint16(b[offMetaLen:], uint16(h.metaLen))
	le.PutUint32(b[offTextLen:], uint32(h.textLen))
	le.PutUint32(b[offLines:], h.lines)
	le.PutUint64(b[offSeq:], h.seq)
	le.PutUint64(b[offDone:], h.done)
	le.PutUint64(b[offCreated:], uint64(h.created))
	copy(b[offID:], h.id[:])
	le.PutUint32(b[offBodyCRC:], h.bodyCRC)
	le.PutUint32(b[offHeadCRC:], crc32.Checksum(b[:offHeadCRC], castagnoli()))
}

// decode reports whether b is a header that this program could have written.
func (h *header) decode(b []byte) bool {
	le := binary.LittleEndian
	if len(b) < headerSize || !bytes.Equal(b[:len(magic)], magic) || b[offVersion] != version ||
		le.Uint32(b[offHeadCRC:]) != crc32.Checksum(b[:offHeadCRC], castagnoli()) {
		return false
	}
	textLen := le.Uint32(b[offTextLen:])
	*h = header{
		kind:    b[offKind],
		metaLen: int(le.Uint16(b[offMetaLen:])),
		lines:   le.Uint32(b[offLines:]),
		seq:     le.Uint64(b[offSeq:]),
		done:    le.Uint64(b[offDone:]),
		created: int64(le.Uint64(b[offCreated:])),
		id:      ID(b[offID:]),
		bodyCRC: le.Uint32(b[offBodyCRC:]),
	}
	if h.seq >= maxSeq || h.done >= maxSeq {
		return false
	}
	switch h.kind {
	case kindBatch:
		if textLen > MaxText {
			return false
		}
	case kindDone:
		if textLen != 0 || h.metaLen != 0 {
			return false
		}
	default:
		return false
	}
	h.textLen = int(textLen)
	return true
}

// A walk goes through the records of a segment.
type walk struct {
	r    io.ReaderAt
	off  int64 // where the next record is looked for
	end  int64 // size of the segment
	good int64 // end of the last record that was returned

	// damaged counts stretches that are no records.
	damaged int
	// verified is how many body bytes have been read only to find that they
	// do not check. A file may be made of headers that each claim the rest of
	// it; the work it can cause is bounded by this.
	verified int64

	head [headerSize]byte
	buf  []byte // window for resync
}

// next finds the next record whose header checks and whose body lies within the
// segment, and returns it with its offset. With body not nil the body is read into
// it (grown as needed) and must check too. ok is false at the end. An error is one of
// reading, never of content.
func (w *walk) next(body *[]byte) (h header, off int64, ok bool, err error) {
	inDamage := false
	for {
		if w.end-w.off < headerSize {
			if w.off < w.end && !inDamage {
				w.damaged++
			}
			w.off = w.end
			return header{}, 0, false, nil
		}
		if _, err := w.r.ReadAt(w.head[:], w.off); err != nil {
			return header{}, 0, false, err
		}
		if h.decode(w.head[:]) && w.off+h.size() <= w.end {
			good := true
			if body != nil {
				good, err = w.readBody(&h, w.off, body)
				if err != nil {
					return header{}, 0, false, err
				}
			}
			if good {
				off = w.off
				w.off += h.size()
				w.good = w.off
				return h, off, true, nil
			}
			if w.verified += h.bodyLen(); w.verified > 4*w.end {
				w.off += h.size() - 1
			}
		}
		if !inDamage {
			inDamage = true
			w.damaged++
		}
		if err := w.resync(); err != nil {
			return header{}, 0, false, err
		}
	}
}

func (w *walk) readBody(h *header, off int64, body *[]byte) (bool, error) {
	n := int(h.bodyLen())
	if cap(*body) < n {
		*body = make([]byte, n)
	}
	*body = (*body)[:n]
	if _, err := w.r.ReadAt(*body, off+headerSize); err != nil {
		return false, err
	}
	return crc32.Checksum(*body, castagnoli()) == h.bodyCRC, nil
}

// resync moves on to the next place, one byte on at least, that looks like a record.
func (w *walk) resync() error {
	if w.buf == nil {
		w.buf = make([]byte, 32<<10)
	}
	for w.off++; w.off < w.end; {
		n := min(int64(len(w.buf)), w.end-w.off)
		b := w.buf[:n]
		if _, err := w.r.ReadAt(b, w.off); err != nil {
			return err
		}
		if i := bytes.Index(b, magic); i >= 0 {
			w.off += int64(i)
			return nil
		}
		// The magic may lie across the window's end.
		if w.off+n == w.end {
			break
		}
		w.off += n - int64(len(magic)-1)
	}
	w.off = w.end
	return nil
}
