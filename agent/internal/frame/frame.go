// Package frame cuts a stream between processes into messages: a version, a kind, a
// length, and so many bytes. The reader says beforehand which kinds it takes and how
// long each may be, and gives no memory for a length that is only announced.
//
// A frame is
//
//	0  'T' 'S'
//	2  version, 1 byte
//	3  kind, 1 byte
//	4  length of the payload, 4 bytes, big-endian
//	8  payload
//
// There is no checksum: frames cross sockets of one host, which do not damage bytes.
package frame

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// HeaderLen is the length of what precedes a payload.
const HeaderLen = 8

// Version is what a frame says of its format, and of what its kinds mean. Processes of
// different versions do not talk.
const Version = 1

// Limits has the kinds that a [Reader] takes, and the longest payload of each in bytes.
type Limits map[byte]int

var (
	// ErrNotFrame: the stream has something else than a frame. It is of no
	// further use.
	ErrNotFrame = errors.New("not a frame")
	// ErrVersion: the frame is of another version.
	ErrVersion = errors.New("frame of another version")
	// ErrKind: the frame's kind is none that is taken here.
	ErrKind = errors.New("frame of an unknown kind")
	// ErrTooLong: the frame is longer than its kind may be.
	ErrTooLong = errors.New("frame too long")
)

// Append appends a frame to b. A payload that does not fit the four bytes of the length
// panics; limits are far below.
func Append(b []byte, kind byte, payload []byte) []byte {
	var h [HeaderLen]byte
	PutHeader(&h, kind, len(payload))
	return append(append(b, h[:]...), payload...)
}

// PutHeader makes h what precedes a payload of n bytes, for a writer that has the two in
// different places. A length that does not fit panics.
func PutHeader(h *[HeaderLen]byte, kind byte, n int) {
	if uint64(n) > 1<<32-1 {
		panic("frame: payload of 4 GiB")
	}
	h[0], h[1], h[2], h[3] = 'T', 'S', Version, kind
	binary.BigEndian.PutUint32(h[4:], uint32(n))
}

// Write writes a frame with one call of w's Write.
func Write(w io.Writer, kind byte, payload []byte) error {
	_, err := w.Write(Append(make([]byte, 0, HeaderLen+len(payload)), kind, payload))
	return err
}

// chunk is how much memory a Reader gives before it has seen that bytes come.
const chunk = 16 << 10

// A Reader takes frames from a stream. It does not read beyond the frame that it
// returns.
type Reader struct {
	r      io.Reader
	limits Limits
	header [HeaderLen]byte
	buf    []byte
}

// NewReader returns a Reader of r that takes what limits has.
func NewReader(r io.Reader, limits Limits) *Reader {
	return &Reader{r: r, limits: limits}
}

// Next returns the next frame. The payload is valid until the following call.
//
// The error is io.EOF at the end of a stream that ends with a whole frame, and
// io.ErrUnexpectedEOF at any other; one of the errors of this package, wrapped, when
// the stream has something else than a frame that is taken; or that of the reader.
// After an error the Reader is of no use.
func (r *Reader) Next() (kind byte, payload []byte, err error) {
	if _, err := io.ReadFull(r.r, r.header[:]); err != nil {
		return 0, nil, err
	}
	h := &r.header
	kind = h[3]
	if h[0] != 'T' || h[1] != 'S' {
		return 0, nil, fmt.Errorf("%w: begins with %x", ErrNotFrame, h[:2])
	}
	if h[2] != Version {
		return 0, nil, fmt.Errorf("%w: %d, not %d", ErrVersion, h[2], Version)
	}
	most, ok := r.limits[kind]
	if !ok {
		return 0, nil, fmt.Errorf("%w: %d", ErrKind, kind)
	}
	n := binary.BigEndian.Uint32(h[4:])
	if int64(n) > int64(most) {
		return 0, nil, fmt.Errorf("%w: %d bytes of kind %d, at most %d are taken", ErrTooLong, n, kind, most)
	}
	if payload, err = r.payload(int(n)); err != nil {
		return 0, nil, err
	}
	return kind, payload, nil
}

// payload reads n bytes into a buffer that grows as they come.
func (r *Reader) payload(n int) ([]byte, error) {
	b := r.buf[:0]
	for len(b) < n {
		if len(b) == cap(b) {
			grown := make([]byte, len(b), min(n, max(2*len(b), chunk)))
			copy(grown, b)
			b = grown
		}
		next := b[len(b):min(n, cap(b))]
		if _, err := io.ReadFull(r.r, next); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		b = b[:len(b)+len(next)]
	}
	r.buf = b
	return b, nil
}
