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
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
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

	// In memory: where the text's buffer is returned to, and how the watermark moves
	// once the batch is durable: mark is the last packet that was examined before the
	// batch was closed, of the live run or of a gap; ends says that the gap ends with it.
	buf       chan<- []byte
	mark      mark
	gap, ends bool

	// On disk: the file's name, its size, and the generation of the watermark in it.
	name string
	size int64
	gen  uint64

	own      bool // made by this process
	aside    bool // in refused/
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

// parseBatchName is fileName's inverse.
func parseBatchName(name string) (id ID, created time.Time, ok bool) {
	stem, ok := strings.CutSuffix(name, batchSuffix)
	at, hexID, ok2 := strings.Cut(stem, "-")
	raw, err := hex.DecodeString(hexID)
	if !ok || !ok2 || err != nil || len(raw) != len(id) {
		return id, created, false
	}
	id = ID(raw)
	created, err = time.Parse(batchTime, at)
	return id, created, err == nil && (&batch{id: id, created: created}).fileName() == name
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
func (d spoolDir) replace(name string, sync bool, content ...[]byte) error {
	path := filepath.Join(string(d), name)
	err := func() error {
		temp := path + tempSuffix
		// What is there is not opened: it may be a link, or another's file.
		if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		err = adopt(f, string(d))
		for _, c := range content {
			if err == nil {
				_, err = f.Write(c)
			}
		}
		if err == nil && sync {
			err = f.Sync()
		}
		if err = errors.Join(err, f.Close()); err == nil {
			err = os.Rename(temp, path)
		}
		if err != nil {
			os.Remove(temp)
			return err
		}
		if sync {
			return d.sync()
		}
		return nil
	}()
	if err != nil {
		return fmt.Errorf("spool file %s: %w", path, cause(err))
	}
	return nil
}

// sync makes names durable.
func (d spoolDir) sync() error {
	f, err := os.OpenFile(string(d), os.O_RDONLY|openDir, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// openBatch opens a batch's file and reads its first line. rest is what was read behind that.
func openBatch(path string) (f *os.File, h header, rest []byte, err error) {
	if f, err = openOwn(path); err != nil {
		return nil, h, nil, err
	}
	buf := make([]byte, maxHeader)
	n, err := io.ReadFull(f, buf)
	line, rest, ok := bytes.Cut(buf[:n], []byte("\n"))
	line, ok2 := bytes.CutPrefix(line, []byte(headerMark))
	switch {
	case err != nil && err != io.ErrUnexpectedEOF && err != io.EOF:
	case !ok, !ok2, json.Unmarshal(line, &h) != nil, !h.Watermark.valid(), h.Bytes < 0, h.Bytes > maxText, h.Lines < 0:
		err = errors.New("is not a batch")
	default:
		return f, h, rest, nil
	}
	f.Close()
	return nil, h, nil, err
}

// readBatch returns the text of a batch's file, unless it is not what was written.
func readBatch(path string) (text []byte, w watermark, err error) {
	f, h, rest, err := openBatch(path)
	if err != nil {
		return nil, w, err
	}
	defer f.Close()
	text = make([]byte, h.Bytes)
	n := copy(text, rest)
	if _, err := io.ReadFull(f, text[n:]); err != nil || n < len(rest) || crc32.ChecksumIEEE(text) != h.CRC {
		return nil, w, errors.New("damaged")
	}
	return text, h.Watermark, nil
}

// load returns the batches of a directory, oldest first, and the newest of their
// watermarks. Temporary files are removed; what is not ours is left alone and named.
func (d spoolDir) load() (batches []*batch, newest watermark, strange []string, err error) {
	entries, err := os.ReadDir(string(d))
	if err != nil {
		return nil, newest, nil, fmt.Errorf("spool directory %s: %w", d, cause(err))
	}
	for _, e := range entries { // sorted by name, that is by time
		name := e.Name()
		path := filepath.Join(string(d), name)
		if strings.HasSuffix(name, tempSuffix) && e.Type().IsRegular() {
			_ = os.Remove(path)
			continue
		}
		id, created, ok := parseBatchName(name)
		if !ok {
			if name != watermarkFile && name != countersFile && name != refusedDir {
				strange = append(strange, name)
			}
			continue
		}
		f, h, _, err := openBatch(path)
		if err != nil {
			strange = append(strange, fmt.Sprintf("%s: %v", name, cause(err)))
			continue
		}
		b := &batch{id: id, created: created, name: name, lines: h.Lines, gen: h.Watermark.Gen}
		if fi, err := f.Stat(); err == nil {
			b.size = fi.Size()
		}
		f.Close()
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
	var pe *fs.PathError
	var le *os.LinkError
	switch {
	case errors.As(err, &pe):
		return pe.Err
	case errors.As(err, &le):
		return le.Err
	}
	return err
}
