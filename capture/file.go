package capture

import (
	"bufio"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"os"
	"time"
)

// MaxCaptureLength is the longest record that a file may hold: what the BSDs and
// libpcap allow as a snapshot length. More is taken for a damaged file.
const MaxCaptureLength = 262144

// Errors that opening and reading files wrap.
var (
	// ErrNotPcap says that the file is not a pcap file.
	ErrNotPcap = errors.New("not a pcap file")
	// ErrLinkType says that it is one, but not of pflog packets.
	ErrLinkType = errors.New("not a capture of pflog")
	// ErrRecord says that a record in the file cannot be.
	ErrRecord = errors.New("malformed pcap record")
)

const (
	pcapFileHeaderLen   = 24
	pcapRecordHeaderLen = 16
	pcapMagicMicro      = 0xa1b2c3d4
	pcapMagicNano       = 0xa1b23c4d
	// Two bits of the link type field and four above them say something
	// about frame check sequences; the type is below.
	pcapLinkTypeMask = 0x03ffffff
)

// A FileReader reads a pcap file of pflog packets: what pflogd(8) and "tcpdump -w"
// write, in either byte order, with times in micro- or nanoseconds, as it is or
// gzipped (as newsyslog(8) leaves it), told by content. It reads ahead, but no
// further than the reader below it has bytes at hand, so it serves pipes.
type FileReader struct {
	r       io.Reader
	closer  io.Closer
	swapped bool
	nano    bool
	snapLen uint32

	buf        []byte
	start, end int
	off        int64 // of buf[start] in the file as decompressed
	records    int
	err        error // what the reader below ended with
}

// OpenFile opens the named file; "-" is standard input. Errors are those of
// [NewFileReader] and of os.Open; the caller closes the reader.
func OpenFile(name string) (*FileReader, error) {
	if name == "-" {
		f, err := NewFileReader(os.Stdin)
		if err != nil {
			return nil, fmt.Errorf("standard input: %w", err)
		}
		return f, nil
	}
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	f, err := NewFileReader(file)
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	f.closer = file
	return f, nil
}

// NewFileReader reads the file header from r. The error wraps ErrNotPcap,
// ErrLinkType or r's error; io.EOF when there is not one byte, as in a file that was
// rotated and not yet begun, and io.ErrUnexpectedEOF when the header is cut.
func NewFileReader(r io.Reader) (*FileReader, error) {
	br := bufio.NewReaderSize(r, 64<<10)
	magic, err := br.Peek(2)
	switch {
	case len(magic) == 0 && err == io.EOF:
		return nil, fmt.Errorf("empty file: %w", io.EOF)
	case len(magic) == 2 && magic[0] == 0x1f && magic[1] == 0x8b:
		zr, err := gzip.NewReader(br)
		if err != nil {
			return nil, fmt.Errorf("gzip header: %w", unexpected(err))
		}
		return newFileReader(zr)
	case err != nil && err != io.EOF:
		return nil, err
	}
	return newFileReader(br)
}

func newFileReader(r io.Reader) (*FileReader, error) {
	f := &FileReader{r: r, buf: make([]byte, 128<<10)}
	if !f.fill(pcapFileHeaderLen) {
		if f.err == io.EOF && f.end == 0 {
			return nil, fmt.Errorf("empty file: %w", io.EOF)
		}
		if f.end >= 4 && !knownMagic(f.buf) {
			return nil, fmt.Errorf("%w: begins with %x", ErrNotPcap, f.buf[:4])
		}
		return nil, fmt.Errorf("pcap file header: %w", unexpected(f.err))
	}
	if !knownMagic(f.buf) {
		return nil, fmt.Errorf("%w: begins with %x", ErrNotPcap, f.buf[:4])
	}
	magic := binary.NativeEndian.Uint32(f.buf)
	f.swapped = magic == bits.ReverseBytes32(pcapMagicMicro) || magic == bits.ReverseBytes32(pcapMagicNano)
	f.nano = magic == pcapMagicNano || magic == bits.ReverseBytes32(pcapMagicNano)
	f.snapLen = f.uint32(16)
	if dlt := f.uint32(20) & pcapLinkTypeMask; dlt != LinkType {
		return nil, fmt.Errorf("%w: link type %d, want %d", ErrLinkType, dlt, LinkType)
	}
	f.consume(pcapFileHeaderLen)
	return f, nil
}

func knownMagic(b []byte) bool {
	m := binary.NativeEndian.Uint32(b)
	for _, known := range [...]uint32{pcapMagicMicro, pcapMagicNano} {
		if m == known || m == bits.ReverseBytes32(known) {
			return true
		}
	}
	return false
}

// SnapLen returns how many bytes of a packet the writer of the file meant to keep.
func (f *FileReader) SnapLen() int { return clampLength(f.snapLen) }

// Next puts the next record into r, whose data is valid until the next call. The
// error is io.EOF at the end, wraps io.ErrUnexpectedEOF when the last record is cut
// (pflogd writes in blocks: the file of a live one usually ends so), ErrRecord when
// a record cannot be, or the reader's own error. Nothing can be read after an
// error.
func (f *FileReader) Next(r *Record) error {
	if !f.fill(pcapRecordHeaderLen) {
		if f.end == f.start && f.err == io.EOF {
			return io.EOF
		}
		return f.fail("header", f.err)
	}
	caplen := f.uint32(8)
	if caplen > MaxCaptureLength {
		f.err = fmt.Errorf("%w: capture length %d", ErrRecord, caplen)
		f.end = f.start
		return f.fail("header", f.err)
	}
	n := pcapRecordHeaderLen + int(caplen)
	if !f.fill(n) {
		return f.fail("packet", f.err)
	}
	frac := int64(f.uint32(4))
	if !f.nano {
		frac *= 1000
	}
	r.Time = time.Unix(int64(f.uint32(0)), frac)
	r.Data = f.buf[f.start+pcapRecordHeaderLen : f.start+n : f.start+n]
	r.Length = clampLength(f.uint32(12))
	r.swapped = f.swapped
	f.consume(n)
	f.records++
	return nil
}

// Close closes the file that OpenFile opened.
func (f *FileReader) Close() error {
	if f.closer == nil {
		return nil
	}
	return f.closer.Close()
}

func (f *FileReader) fail(what string, err error) error {
	return fmt.Errorf("%s of record %d at byte %d: %w", what, f.records+1, f.off, unexpected(err))
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// uint32 reads a field of the header at the front of the buffer.
func (f *FileReader) uint32(i int) uint32 {
	v := binary.NativeEndian.Uint32(f.buf[f.start+i:])
	if f.swapped {
		return bits.ReverseBytes32(v)
	}
	return v
}

func (f *FileReader) consume(n int) {
	f.start += n
	f.off += int64(n)
}

// buffered reports whether the next record is in the buffer, all of it.
func (f *FileReader) buffered() bool {
	have := f.end - f.start
	return have >= pcapRecordHeaderLen && uint64(have) >= pcapRecordHeaderLen+uint64(f.uint32(8))
}

// fill reads until n bytes are in the buffer, and reports whether they are; if not,
// err says why.
func (f *FileReader) fill(n int) bool {
	for f.end-f.start < n {
		if f.err != nil {
			return false
		}
		if f.start > 0 {
			f.end = copy(f.buf, f.buf[f.start:f.end])
			f.start = 0
		}
		if n > len(f.buf) {
			f.buf = append(f.buf, make([]byte, n-len(f.buf))...)
		}
		var k int
		k, f.err = f.r.Read(f.buf[f.end:])
		f.end += k
	}
	return true
}
