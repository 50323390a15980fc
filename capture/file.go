package capture

import (
	"bufio"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
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
	pcapMagicMicro      = 0xa1b2c3d4
	pcapMagicNano       = 0xa1b23c4d
	// The upper bits of the link type field describe frame check sequences.
	pcapLinkTypeMask = 0x03ffffff
)

// A FileReader reads a pcap file of pflog packets: what pflogd(8) and "tcpdump -w"
// write, in either byte order, with times in micro- or nanoseconds, plain or compressed
// by gzip(1), as newsyslog(8) leaves it. The content decides, not the name. It reads no
// further ahead than the reader below it has bytes at hand, so it can read from a pipe.
type FileReader struct {
	r       *bufio.Reader
	swapped bool // the file has the other byte order
	nano    bool
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
	if magic, _ := f.r.Peek(2); len(magic) == 2 && magic[0] == 0x1f && magic[1] == 0x8b {
		z, err := gzip.NewReader(f.r)
		if err != nil {
			return nil, fmt.Errorf("gzip header: %w", unexpected(err))
		}
		f.r = bufio.NewReaderSize(&boundedReader{z, limit}, pcapRecordHeaderLen+MaxCaptureLength)
	}
	h, err := f.r.Peek(pcapFileHeaderLen)
	if len(h) == 0 && err == io.EOF {
		return nil, fmt.Errorf("empty file: %w", io.EOF)
	}
	if len(h) >= 4 {
		magic := binary.NativeEndian.Uint32(h)
		if back := bits.ReverseBytes32(magic); back == pcapMagicMicro || back == pcapMagicNano {
			f.swapped, magic = true, back
		}
		if magic != pcapMagicMicro && magic != pcapMagicNano {
			return nil, fmt.Errorf("%w: begins with %x", ErrNotPcap, h[:4])
		}
		f.nano = magic == pcapMagicNano
	}
	if err != nil {
		return nil, fmt.Errorf("pcap file header: %w", unexpected(err))
	}
	if dlt := f.uint32(h[20:]) & pcapLinkTypeMask; dlt != LinkType {
		return nil, fmt.Errorf("%w: link type %d, want %d", ErrLinkType, dlt, LinkType)
	}
	f.consume(pcapFileHeaderLen)
	return f, nil
}

// A boundedReader fails with ErrTooLong when more than left bytes are read from it.
type boundedReader struct {
	r    io.Reader
	left int64
}

func (b *boundedReader) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, ErrTooLong
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// ZeroCopyReadPacketData returns the next packet; its data is valid until the next
// call. The ids in the pflog header have this host's byte order. The error is io.EOF at
// the end; it wraps io.ErrUnexpectedEOF if the last record is cut (pflogd writes in
// blocks: the file of a running one usually ends so), ErrRecord, ErrTooLong, or the
// error of the reader below. Nothing can be read after an error.
func (f *FileReader) ZeroCopyReadPacketData() ([]byte, gopacket.CaptureInfo, error) {
	if f.err != nil {
		return nil, gopacket.CaptureInfo{}, f.err
	}
	data, ci, err := f.next()
	f.err = err
	return data, ci, err
}

func (f *FileReader) next() (data []byte, ci gopacket.CaptureInfo, err error) {
	h, err := f.r.Peek(pcapRecordHeaderLen)
	if len(h) == 0 && err == io.EOF {
		return nil, ci, io.EOF
	}
	if err != nil {
		return nil, ci, f.failed("header", err)
	}
	caplen := f.uint32(h[8:])
	if caplen > MaxCaptureLength {
		return nil, ci, f.failed("header", fmt.Errorf("%w: capture length %d", ErrRecord, caplen))
	}
	n := pcapRecordHeaderLen + int(caplen)
	b, err := f.r.Peek(n)
	if err != nil {
		return nil, ci, f.failed("packet", err)
	}
	frac := int64(f.uint32(b[4:]))
	if !f.nano {
		frac *= 1000
	}
	data = b[pcapRecordHeaderLen:n:n]
	ci = captureInfo(time.Unix(int64(f.uint32(b)), frac), data, f.uint32(b[12:]))
	if f.swapped {
		for i := offUID; i < offDir && i+4 <= len(data); i += 4 {
			binary.NativeEndian.PutUint32(data[i:], f.uint32(data[i:]))
		}
	}
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
	return uint64(have) >= pcapRecordHeaderLen+uint64(f.uint32(h[8:]))
}

func (f *FileReader) failed(what string, err error) error {
	return fmt.Errorf("%s of record %d at byte %d: %w", what, f.records+1, f.off, unexpected(err))
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// uint32 reads a field in the byte order of the file.
func (f *FileReader) uint32(b []byte) uint32 {
	v := binary.NativeEndian.Uint32(b)
	if f.swapped {
		return bits.ReverseBytes32(v)
	}
	return v
}

// consume skips n bytes that are in the buffer. They stay there until the next read.
func (f *FileReader) consume(n int) {
	f.r.Discard(n)
	f.off += int64(n)
}
