package apply

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/pfioctl"
)

const (
	// tempSuffix is that of the temporary file beside a persist file. Its name is fixed, since unveil(2)
	// must be able to name it.
	tempSuffix = ".new"
	// fileMode is that of a persist file: pfctl reads it as root, and nobody else needs it.
	fileMode = 0o600
	// maxFile is more bytes than the largest table that pf could hold takes.
	maxFile = 1 << 30
	// maxHeader is how much of a file is searched for the comments on top. It is also the size of buffers.
	maxHeader = 64 << 10
)

// The first line of a persist file of ours is the table's name between firstPrefix and firstSuffix. The
// line of Header.Held begins with heldPrefix.
const (
	firstPrefix = "# pf table "
	firstSuffix = ", written by threatstopd: changes made here are lost"
	heldPrefix  = "# held back since "
)

// Header is what the comments on top of a persist file contain.
type Header struct {
	Time   time.Time // when the file was written
	Table  string    // the pf table it belongs to
	Server string    // the policy server that the lists came from
	Counts string    // for the owner: "26424 blocked addresses, 3 exceptions"

	// Held is when the policy servers first sent a table so small that it was not enforced; zero if no
	// table is held. It is in the file so that one-shot runs hours apart agree on how long that has lasted.
	Held time.Time
}

// lines returns the text of the header. pfctl takes everything behind a # for a comment, so no field may
// bring a newline of its own.
func (h Header) lines() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s%s%s\n", firstPrefix, oneLine(h.Table), firstSuffix)
	fmt.Fprintf(&b, "# %s\n", h.Time.UTC().Format(time.RFC3339))
	if h.Server != "" {
		fmt.Fprintf(&b, "# from %s\n", oneLine(h.Server))
	}
	if h.Counts != "" {
		fmt.Fprintf(&b, "# %s\n", oneLine(h.Counts))
	}
	return b.String() + heldLine(h.Held)
}

func heldLine(since time.Time) string {
	if since.IsZero() {
		return ""
	}
	return heldPrefix + since.UTC().Format(time.RFC3339) + "\n"
}

func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}

// fileError is an error about a persist file. What os puts in front of an error is left out, since op has
// it.
func fileError(path, op string, err error) error {
	if p := (*fs.PathError)(nil); errors.As(err, &p) {
		err = p.Err
	} else if l := (*os.LinkError)(nil); errors.As(err, &l) {
		err = l.Err
	}
	if op != "" {
		err = fmt.Errorf("%s: %w", op, err)
	}
	return fmt.Errorf("persist file %s: %w", path, err)
}

// ErrNotTable is why an owner's file is not overwritten.
var ErrNotTable = errors.New("this is not a table file, and is not overwritten: name another file in threatstop.conf (BLOCK_FILE, ALLOW_FILE) and in pf.conf")

// checkMode refuses what is not a regular file.
func checkMode(mode fs.FileMode) error {
	switch {
	case mode&fs.ModeSymlink != 0:
		return errors.New("is a symbolic link: name the file that it points to, in threatstop.conf and in pf.conf")
	case !mode.IsRegular():
		return errors.New("is not a regular file: move it away, or name another one in threatstop.conf and in pf.conf")
	}
	return nil
}

// tableFile is a persist file that is open for reading.
type tableFile struct {
	*bufio.Reader
	info   fs.FileInfo
	header []byte    // the comments on top, as far as they fit in maxHeader; valid until the first read
	table  string    // the table that this package wrote the file for; "" if it is somebody else's
	held   time.Time // Header.Held
}

// readTable calls read with a persist file. It does nothing if there is none, and refuses what is not a
// regular file: a link may point to somebody else's file, and opening a FIFO may block.
func readTable(path string, read func(t *tableFile) error) error {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		if st, e := os.Lstat(path); e == nil && checkMode(st.Mode()) != nil {
			return fileError(path, "", checkMode(st.Mode()))
		}
		return fileError(path, "open", err)
	}
	defer f.Close()
	t := &tableFile{Reader: bufio.NewReaderSize(f, maxHeader)}
	if t.info, err = f.Stat(); err == nil {
		err = t.begin()
	}
	if err == nil {
		err = read(t)
	}
	if err != nil {
		return fileError(path, "", err)
	}
	return nil
}

// begin checks the file, and parses the comments on top.
func (t *tableFile) begin() error {
	if err := checkMode(t.info.Mode()); err != nil {
		return err
	}
	if n := t.info.Size(); n > maxFile {
		return fmt.Errorf("has %d bytes, more than any table: remove it", n)
	}
	top, err := t.Peek(maxHeader)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	rest := top
	for len(rest) > 0 && rest[0] == '#' {
		line, next, whole := bytes.Cut(rest, []byte("\n"))
		if !whole {
			break
		}
		if s, ok := strings.CutPrefix(strings.TrimSpace(string(line)), heldPrefix); ok && t.held.IsZero() {
			t.held, _ = time.Parse(time.RFC3339, s)
		}
		if s, ok := strings.CutPrefix(string(line), firstPrefix); ok && len(rest) == len(top) && strings.HasSuffix(s, firstSuffix) {
			t.table = strings.TrimSuffix(s, firstSuffix)
		}
		rest = next
	}
	t.header = top[:len(top)-len(rest)]
	return nil
}

// scan calls line with each line of the file and its number, from 1 on. Of a line that is longer than
// the buffer it passes what fits.
func (t *tableFile) scan(line func(n int, text []byte) error) error {
	for n := 1; ; n++ {
		text, err := t.ReadSlice('\n')
		if err := line(n, text); err != nil {
			return err
		}
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = t.ReadSlice('\n')
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read: %w", err)
		}
	}
}

// holds reports whether the lines below the header are those of these entries. It reads no more than is
// needed to decide.
func (t *tableFile) holds(e policy.Entries) (bool, error) {
	_, _ = t.Discard(len(t.header))
	var line []byte
	for p, not := range e.All() {
		line = appendEntry(line[:0], p, not)
		got, err := t.Peek(len(line))
		if err != nil && !errors.Is(err, io.EOF) {
			return false, err
		}
		if !bytes.Equal(got, line) {
			return false, nil
		}
		_, _ = t.Discard(len(line))
	}
	_, err := t.Peek(1)
	if errors.Is(err, io.EOF) {
		return true, nil
	}
	return false, err
}

// appendEntry appends the line of an entry.
func appendEntry(b []byte, p netip.Prefix, not bool) []byte {
	return append(pfioctl.Addr{Prefix: p, Not: not}.AppendTo(b), '\n')
}

// checkFile reports whether a persist file holds exactly these entries, in this order, and has the right
// owner and mode; and Header.Held of the file. A file that does not exist is not the same, without an
// error.
func checkFile(path string, e policy.Entries) (same bool, held time.Time, err error) {
	err = readTable(path, func(t *tableFile) (err error) {
		held = t.held
		if same, err = t.holds(e); err != nil {
			return fmt.Errorf("read: %w", err)
		}
		// A user who can write to the file decides what pf loads at boot.
		same = same && t.info.Mode().Perm() == fileMode && own(t.info)
		return nil
	})
	return same, held, err
}

// own reports whether a file belongs to the user of this process, and has no other name under which it
// could be written to.
func own(fi fs.FileInfo) bool {
	st, ok := fi.Sys().(*syscall.Stat_t)
	return !ok || int(st.Uid) == os.Geteuid() && st.Nlink == 1
}

// readHeader returns the table that this package wrote the persist file for, and the time since when a
// smaller one is held. They are zero if somebody else wrote the file, or there is none.
func readHeader(path string) (table string, held time.Time, err error) {
	err = readTable(path, func(t *tableFile) error {
		table, held = t.table, t.held
		return nil
	})
	return table, held, err
}

// FileEntries counts the entries of a persist file, one a line; 0 if there is none.
func FileEntries(path string) (n int, err error) {
	err = readTable(path, func(t *tableFile) error {
		return t.scan(func(_ int, text []byte) error {
			if text = bytes.TrimSpace(text); len(text) > 0 && text[0] != '#' {
				n++
			}
			return nil
		})
	})
	return n, err
}

// Overwritable returns why the file at path must not be replaced: it is no table file, so that
// BLOCK_FILE or ALLOW_FILE must be wrong (then errors.Is(err, ErrNotTable)). A table file begins with the
// line that this package writes, is empty, or has nothing but comments, addresses and networks. A file
// that does not exist can be made.
func Overwritable(path string) error {
	return readTable(path, func(t *tableFile) error {
		if t.table != "" {
			return nil
		}
		return t.scan(onlyAddresses)
	})
}

// onlyAddresses returns an error for a line that has something else than addresses and networks.
func onlyAddresses(n int, text []byte) error {
	words, _, _ := bytes.Cut(text, []byte("#"))
	for word := range bytes.FieldsSeq(words) {
		s := strings.TrimPrefix(string(word), "!")
		_, err := netip.ParsePrefix(s)
		if err != nil {
			_, err = netip.ParseAddr(s)
		}
		if err != nil {
			return fmt.Errorf("line %d: %.40q is not an address: %w", n, word, ErrNotTable)
		}
	}
	return nil
}

// disk is where persist files are written.
type disk struct {
	dirs  map[string]*os.File     // directories that were opened beforehand, by name
	fault func(call string) error // for tests, called before each call that may fail; nil otherwise
}

// syncDir flushes a directory.
func (d *disk) syncDir(dir string) error {
	if f := d.dirs[dir]; f != nil {
		return f.Sync()
	}
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// writeFile replaces the persist file at path by header and entries, in the format that `persist file` in
// pf.conf reads: one entry a line, `!` before a negated one, # before a comment.
func (d *disk) writeFile(path string, h Header, e policy.Entries) error {
	return d.replace(path, func(w *bufio.Writer) error {
		_, err := w.WriteString(h.lines())
		for p, not := range e.All() {
			if err != nil {
				break
			}
			_, err = w.Write(appendEntry(w.AvailableBuffer(), p, not))
		}
		return err
	})
}

// markHeld replaces the time since when a smaller policy is held in the header of the persist file; a
// zero time takes it out. The rest of the file stays as it is. A file that does not exist is not made,
// without an error: the time then counts from the next run.
func (d *disk) markHeld(path string, since time.Time) error {
	var replaced error // it names the file
	err := readTable(path, func(t *tableFile) error {
		replaced = d.replace(path, func(w *bufio.Writer) error {
			header := bytes.Clone(t.header)
			_, _ = t.Discard(len(header))
			if t.table != "" {
				n := bytes.IndexByte(header, '\n') + 1
				_, _ = w.Write(header[:n]) // an error stays in w
				header = header[n:]
			}
			_, _ = w.WriteString(heldLine(since))
			for line := range bytes.Lines(header) {
				if !bytes.HasPrefix(line, []byte(heldPrefix)) {
					_, _ = w.Write(line)
				}
			}
			_, err := w.ReadFrom(t)
			return err
		})
		return nil
	})
	return cmp.Or(err, replaced)
}

// replace replaces the file at path by what write writes. At every instant path is the old file or the new
// one, whole: the new one is written beside it, flushed to the disk and renamed, and the directory is
// flushed. A file that is not Overwritable is left alone.
func (d *disk) replace(path string, write func(*bufio.Writer) error) error {
	if err := Overwritable(path); err != nil {
		return err
	}
	var f *os.File
	temp := path + tempSuffix
	for _, step := range []struct {
		call string
		do   func() error
	}{
		{"create " + temp, func() (err error) {
			// A temporary file of an earlier run is removed rather than opened: with O_EXCL no link is
			// followed, and the mode is right from the first byte. What is not ours stays.
			if err := Overwritable(temp); errors.Is(err, ErrNotTable) {
				return err
			}
			if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			f, err = os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, fileMode)
			return err
		}},
		{"write " + temp, func() error {
			w := bufio.NewWriterSize(f, maxHeader)
			if err := write(w); err != nil {
				return err
			}
			return w.Flush()
		}},
		{"fsync " + temp, func() error { return f.Sync() }},
		{"close " + temp, func() error { return f.Close() }},
		{"rename " + temp, func() error { return os.Rename(temp, path) }},
		{"written, but fsync of its directory failed", func() error { return d.syncDir(filepath.Dir(path)) }},
	} {
		var err error
		if d.fault != nil {
			err = d.fault(step.call)
		}
		if err == nil {
			err = step.do()
		}
		if err != nil && f != nil {
			f.Close()
			os.Remove(temp) // after the rename there is none
		}
		if err != nil {
			return fileError(path, step.call, err)
		}
	}
	return nil
}
