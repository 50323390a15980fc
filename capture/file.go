package capture

import (
	"bufio"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/google/gopacket"
)

// MaxCaptureLength is the longest packet that a file may hold in bytes: what the BSDs
// and libpcap allow as a snapshot length. A longer one is taken for damage.
const MaxCaptureLength = 262144

// maxDecompressed bounds what is read out of a compressed file, in bytes: some 25
// million packets as pflogd(8) keeps them.
const maxDecompressed = 4 << 30

// Errors that opening and reading files wrap.
var (
	// ErrNotPcap reports a file that is not a pcap file.
	ErrNotPcap = errors.New("not a pcap file")
	// ErrLinkType reports a capture of other packets than pflog's.
	ErrLinkType = errors.New("not a capture of pflog")
	// ErrRecord reports a record that cannot be right.
	ErrRecord = errors.New("malformed pcap record")
	// ErrTooLong reports a compressed file that decompresses to more than 4 GiB.
	ErrTooLong = errors.New("decompresses to more than 4 GiB")
)

const (
	pcapFileHeaderLen   = 24
	pcapRecordHeaderLen = 16
	// The upper bits of the link type field describe frame check sequences.
	pcapLinkTypeMask = 0x03ffffff
)

// A FileReader reads a pcap file of pflog packets: what pflogd(8) and "tcpdump -w"
// write, in either byte order, with times in micro- or nanoseconds, plain or compressed
// by gzip(1), as newsyslog(8) leaves it. The content decides, not the name. It reads no
// further ahead than the reader below it has bytes at hand, so it can read from a pipe.
type FileReader struct {
	r       *bufio.Reader
	bound   *io.LimitedReader // what is decompressed; nil: the file is plain
	order   binary.ByteOrder
	unit    int64 // nanoseconds in the fraction of a second
	records int   // read
	off     int64 // of the next record in the file as decompressed
	err     error // what reading ended with
}

var _ gopacket.ZeroCopyPacketDataSource = (*FileReader)(nil)

// NewFileReader reads the file header from r. The error wraps ErrNotPcap, ErrLinkType
// or r's error. It wraps io.EOF if there is not one byte, as in a file that was just
// rotated, and io.ErrUnexpectedEOF if the header is cut.
func NewFileReader(r io.Reader) (*FileReader, error) {
	return newFileReader(r, maxDecompressed)
}

func newFileReader(r io.Reader, limit int64) (*FileReader, error) {
	f := &FileReader{r: bufio.NewReaderSize(r, pcapRecordHeaderLen+MaxCaptureLength)}
	if magic, _ := f.r.Peek(2); string(magic) == "\x1f\x8b" {
		z, err := gzip.NewReader(f.r)
		if err != nil {
			return nil, fmt.Errorf("gzip header: %w", unexpected(err))
		}
		f.bound = &io.LimitedReader{R: z, N: limit}
		f.r = bufio.NewReaderSize(f.bound, pcapRecordHeaderLen+MaxCaptureLength)
	}
	h, err := f.r.Peek(pcapFileHeaderLen)
	if len(h) == 0 && err == io.EOF {
		return nil, fmt.Errorf("empty file: %w", io.EOF)
	}
	if len(h) >= 4 {
		switch string(h[:4]) {
		case "\xa1\xb2\xc3\xd4":
			f.order, f.unit = binary.BigEndian, 1000
		case "\xd4\xc3\xb2\xa1":
			f.order, f.unit = binary.LittleEndian, 1000
		case "\xa1\xb2\x3c\x4d":
			f.order, f.unit = binary.BigEndian, 1
		case "\x4d\x3c\xb2\xa1":
			f.order, f.unit = binary.LittleEndian, 1
		default:
			return nil, fmt.Errorf("%w: begins with %x", ErrNotPcap, h[:4])
		}
	}
	if err != nil {
		return nil, fmt.Errorf("pcap file header: %w", unexpected(err))
	}
	if dlt := f.order.Uint32(h[20:]) & pcapLinkTypeMask; dlt != LinkType {
		return nil, fmt.Errorf("%w: link type %d, want %d", ErrLinkType, dlt, LinkType)
	}
	f.consume(pcapFileHeaderLen)
	return f, nil
}

// ZeroCopyReadPacketData returns the next packet; its data is valid until the next
// call. The error is io.EOF at the end; it wraps io.ErrUnexpectedEOF if the last record
// is cut (pflogd writes in blocks: the file of a running one usually ends so), ErrRecord,
// ErrTooLong, or the error of the reader below. Nothing can be read after an error.
func (f *FileReader) ZeroCopyReadPacketData() (data []byte, ci gopacket.CaptureInfo, err error) {
	if f.err != nil {
		return nil, ci, f.err
	}
	h, err := f.r.Peek(pcapRecordHeaderLen)
	if err != nil {
		return nil, ci, f.failed("header", len(h) > 0, err)
	}
	caplen := f.order.Uint32(h[8:])
	if caplen > MaxCaptureLength {
		return nil, ci, f.failed("header", true, fmt.Errorf("%w: capture length %d", ErrRecord, caplen))
	}
	n := pcapRecordHeaderLen + int(caplen)
	b, err := f.r.Peek(n)
	if err != nil {
		return nil, ci, f.failed("packet", true, err)
	}
	data = b[pcapRecordHeaderLen:n:n]
	at := time.Unix(int64(f.order.Uint32(b)), int64(f.order.Uint32(b[4:]))*f.unit)
	ci = captureInfo(at, data, f.order.Uint32(b[12:]))
	f.consume(n)
	f.records++
	return data, ci, nil
}

// Buffered reports whether the next packet can be returned without reading more.
func (f *FileReader) Buffered() bool {
	have := f.r.Buffered()
	if have < pcapRecordHeaderLen {
		return false
	}
	h, _ := f.r.Peek(pcapRecordHeaderLen)
	return uint64(have) >= pcapRecordHeaderLen+uint64(f.order.Uint32(h[8:]))
}

// failed ends the reading with an error in what part of a record, of which some bytes
// have come or not.
func (f *FileReader) failed(part string, some bool, err error) error {
	switch {
	case err == io.EOF && f.bound != nil && f.bound.N == 0:
		err = ErrTooLong
	case err == io.EOF && !some:
		f.err = io.EOF
		return io.EOF
	}
	f.err = fmt.Errorf("%s of record %d at byte %d: %w", part, f.records+1, f.off, unexpected(err))
	return f.err
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// consume skips n bytes that are in the buffer. They stay there until the next read.
func (f *FileReader) consume(n int) {
	f.r.Discard(n)
	f.off += int64(n)
}
