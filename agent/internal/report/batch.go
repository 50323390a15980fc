package report

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// An ID names a batch. It stays the same across attempts and restarts, so that the server
// recognises a repetition.
type ID [16]byte

// String returns the ID as 32 hexadecimal digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

func newID() (id ID) {
	rand.Read(id[:]) // never fails
	return id
}

// half returns the ID of the n-th half of the batch id: always the same.
func (id ID) half(n byte) ID {
	sum := sha256.Sum256(append(id[:], n))
	return ID(sum[:16])
}

// A batch is lines on their way to the log server. Its text is in memory until it is in a
// file of the spool directory.
type batch struct {
	id      ID
	created time.Time
	lines   int
	text    []byte // nil when it is in the file

	// How the watermark moves once the batch is durable: mark is the last packet that was examined
	// before the batch was closed, of the live run or of a gap; so many gaps end with it.
	mark mark
	gap  bool
	ends int

	// On disk: the file's directory and name, "" when there is none, its size, and the generation of the
	// watermark in it.
	dir  spoolDir
	name string
	size int64
	gen  uint64

	due      bool // of one in refused/: it is to be sent again
	rejected int  // 4xx answers in a row
	proven   bool // after them the server took another batch
}

// A header is the first line of a batch's file, behind headerMark. It is not uploaded.
type header struct {
	Lines     int       `json:"lines"`
	Bytes     int       `json:"bytes"`
	CRC       uint32    `json:"crc32"` // IEEE, of the text
	Watermark watermark `json:"watermark"`
}

const (
	headerMark = "# threatstopd "
	maxHeader  = 32 << 10 // more than a watermark with maxGaps gaps takes
	// maxText bounds what is read of a file that others may have written.
	maxText = 16 << 20

	batchTime   = "20060102T150405.000000Z" // UTC
	batchSuffix = ".txt"
	tempSuffix  = ".new"
)

func (b *batch) fileName() string {
	return b.created.UTC().Format(batchTime) + "-" + b.id.String() + batchSuffix
}

// path returns the path of the batch's file.
func (b *batch) path() string { return filepath.Join(string(b.dir), b.name) }

// parseBatchName is fileName's inverse.
func parseBatchName(name string) (id ID, created time.Time, ok bool) {
	at, hexID, _ := strings.Cut(strings.TrimSuffix(name, batchSuffix), "-")
	raw, _ := hex.DecodeString(hexID)
	copy(id[:], raw)
	created, _ = time.Parse(batchTime, at)
	return id, created, (&batch{id: id, created: created}).fileName() == name
}

// A spoolDir is a directory of batch files: SPOOL_DIR, or refused/ in it.
type spoolDir string

// write writes a batch's file, waits until it is on disk, and returns its size.
func (d spoolDir) write(b *batch, text []byte, w *watermark) (size int64, err error) {
	h, err := json.Marshal(header{b.lines, len(text), crc32.ChecksumIEEE(text), *w})
	if err != nil {
		return 0, err
	}
	line := []byte(headerMark + string(h) + "\n")
	return int64(len(line) + len(text)), d.replace(b.fileName(), true, line, text)
}

// replace writes a file under a temporary name and renames it. The error names the file.
func (d spoolDir) replace(name string, sync bool, content ...[]byte) (err error) {
	path := filepath.Join(string(d), name)
	temp := path + tempSuffix
	defer func() {
		if err != nil {
			os.Remove(temp)
			err = fmt.Errorf("spool file %s: %w", path, cause(err))
		}
	}()
	// What is there is not opened: it may be a link, or another's file.
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(bytes.Join(content, nil))
	if err == nil && sync {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(temp, path)
	}
	if err == nil && sync {
		err = d.sync()
	}
	return err
}

// sync makes names durable.
func (d spoolDir) sync() error {
	f, err := os.OpenFile(string(d), os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_DIRECTORY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// readBatch reads a batch's file of at most so many bytes: its header, and the text, of which the end may be
// missing.
func readBatch(path string, most int64) (h header, text []byte, err error) {
	b, err := readOwn(path, most)
	if err != nil {
		return h, nil, err
	}
	line, text, ok := bytes.Cut(b, []byte("\n"))
	line, ok2 := bytes.CutPrefix(line, []byte(headerMark))
	if !ok || !ok2 || len(line) > maxHeader || json.Unmarshal(line, &h) != nil || !h.Watermark.valid() ||
		h.Bytes < 0 || h.Bytes > maxText || h.Lines < 0 {
		return h, nil, errors.New("is not a batch")
	}
	return h, text, nil
}

// readText returns the text of a batch's file and its watermark, unless it is not what was written.
func readText(path string) (text []byte, w watermark, err error) {
	h, text, err := readBatch(path, maxHeader+maxText)
	if err == nil && (len(text) != h.Bytes || crc32.ChecksumIEEE(text) != h.CRC) {
		err = errors.New("damaged")
	}
	return text, h.Watermark, err
}

// load returns the batches of a directory, oldest first, and the newest of their
// watermarks. Temporary files are removed; what is not ours is left alone and named, behind in.
func (d spoolDir) load(in string) (batches []*batch, newest watermark, strange []string, err error) {
	entries, err := os.ReadDir(string(d))
	if err != nil {
		return nil, newest, nil, fmt.Errorf("spool directory %s: %w", d, cause(err))
	}
	for _, e := range entries { // sorted by name, that is by time
		name, path := filepath.Join(in, e.Name()), filepath.Join(string(d), e.Name())
		id, created, ok := parseBatchName(e.Name())
		switch {
		case strings.HasSuffix(name, tempSuffix) && e.Type().IsRegular():
			_ = os.Remove(path)
			continue
		case name == watermarkFile, name == countersFile, name == refusedDir:
			continue
		case !ok:
			strange = append(strange, name)
			continue
		}
		h, _, err := readBatch(path, maxHeader)
		if err != nil {
			strange = append(strange, fmt.Sprintf("%s: %v", name, cause(err)))
			continue
		}
		b := &batch{id: id, created: created, dir: d, name: e.Name(), lines: h.Lines, gen: h.Watermark.Gen}
		if fi, err := e.Info(); err == nil {
			b.size = fi.Size()
		}
		batches = append(batches, b)
		if h.Watermark.Gen > newest.Gen {
			newest = h.Watermark
		}
	}
	return batches, newest, strange, nil
}

// halves cuts a text behind the line nearest to its middle; ok is false for a single line.
func halves(text []byte) (a, b []byte, ok bool) {
	mid := len(text) / 2
	cut := mid + bytes.IndexByte(text[mid:], '\n') + 1
	if cut >= len(text) {
		cut = bytes.LastIndexByte(text[:len(text)-1], '\n') + 1
	}
	return text[:cut], text[cut:], cut > 0
}

// cause strips the path from err, which the message names already.
func cause(err error) error {
	if pe := (*fs.PathError)(nil); errors.As(err, &pe) {
		return pe.Err
	}
	if le := (*os.LinkError)(nil); errors.As(err, &le) {
		return le.Err
	}
	return err
}
