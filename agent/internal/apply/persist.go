package apply

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"example.org/threatstopd/pfioctl"
)

// TempSuffix is what a persist file's one temporary name ends in. The name is
// fixed because unveil(2) must be able to name it.
const TempSuffix = ".new"

// Entries is what a table is to hold: prefixes in the order of the file, and
// for each whether it is negated (`!10.1.0.0/16`).
type Entries interface {
	Len() int
	All() iter.Seq2[netip.Prefix, bool]
}

// Header is what the comment lines on top of a persist file say.
type Header struct {
	Time   time.Time // when the file was written
	Table  string    // the pf table it belongs to
	Server string    // the policy server that the lists came from
	Counts string    // what the owner reads: "26424 blocked addresses, 3 exceptions"

	// Held is when the policy servers first sent a table so small that it
	// was not enforced; zero when nothing is held back. It stands in the file
	// so that one-shot runs hours apart agree on how long that has lasted.
	Held time.Time
}

// firstPrefix and firstSuffix stand around the table's name in the first line
// of a file that is ours.
const (
	firstPrefix = "# pf table "
	firstSuffix = ", written by threatstopd: changes made here are lost"
)

// heldPrefix begins the header line that carries Header.Held.
const heldPrefix = "# held back since "

// lines gives the header's text. pfctl takes everything behind a # for a
// comment, so what comes from outside must not bring a newline of its own.
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
	if !h.Held.IsZero() {
		b.WriteString(heldLine(h.Held))
	}
	return b.String()
}

func heldLine(since time.Time) string {
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

// file is what WriteFile needs of an open file.
type file interface {
	io.Writer
	Sync() error
	Close() error
}

// disk is the file system as WriteFile uses it, one method for each call whose
// failure must leave the persist file whole. Tests put a failing disk in.
type disk interface {
	Create(name string) (file, error)
	Rename(from, to string) error
	Remove(name string) error
	SyncDir(dir string) error
}

// osDisk is the disk. dirs has directories that were opened beforehand, by name.
type osDisk struct{ dirs map[string]*os.File }

func (osDisk) Create(name string) (file, error) {
	// A temporary file that an earlier run left is removed rather than
	// opened: O_EXCL then makes sure that no link is followed and that the
	// mode is right from the first byte.
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, fileMode)
}

func (osDisk) Rename(from, to string) error { return os.Rename(from, to) }
func (osDisk) Remove(name string) error     { return os.Remove(name) }

func (d osDisk) SyncDir(dir string) error {
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

// WriteFile replaces the persist file at path by header and entries, in the
// format that `persist file` in pf.conf reads: one entry a line, `!` before a
// negated one, # before a comment. At every instant path is either the old
// file or the new one, whole: the new one is written beside it under a fixed
// name (path + TempSuffix), flushed to the disk, renamed, and the directory
// flushed. The mode is 0600. A path that is a symbolic link or not a regular
// file is refused, since the rename would replace the owner's link.
func WriteFile(path string, h Header, e Entries) error {
	return writeFile(osDisk{}, path, h, e)
}

func writeFile(d disk, path string, h Header, e Entries) error {
	return replaceFile(d, path, func(w *bufio.Writer) error {
		if _, err := w.WriteString(h.lines()); err != nil {
			return err
		}
		for p, not := range e.All() {
			if _, err := w.Write(appendEntry(w.AvailableBuffer(), p, not)); err != nil {
				return err
			}
		}
		return nil
	})
}

// MarkHeld notes in the persist file's header since when a smaller policy is
// held back; a zero time takes the note out. The entries stay as they are. A
// file that does not exist stays so, without an error: what it would note is
// then counted from the next run.
func MarkHeld(path string, since time.Time) error { return markHeld(osDisk{}, path, since) }

func markHeld(d disk, path string, since time.Time) error {
	old, err := openFile(path)
	if old == nil {
		return err
	}
	defer old.Close()
	return replaceFile(d, path, func(w *bufio.Writer) error {
		r := bufio.NewReaderSize(old, 64<<10)
		for {
			c, err := r.Peek(1)
			if err != nil || c[0] != '#' {
				break
			}
			line, err := r.ReadSlice('\n')
			if err == nil && bytes.HasPrefix(line, []byte(heldPrefix)) {
				continue
			}
			for {
				if _, err := w.Write(line); err != nil {
					return err
				}
				// A comment that is longer than the buffer is one line all the same.
				if !errors.Is(err, bufio.ErrBufferFull) {
					break
				}
				line, err = r.ReadSlice('\n')
			}
			if errors.Is(err, io.EOF) {
				err = w.WriteByte('\n')
			}
			if err != nil {
				return err
			}
		}
		if !since.IsZero() {
			if _, err := w.WriteString(heldLine(since)); err != nil {
				return err
			}
		}
		_, err := w.ReadFrom(r)
		return err
	})
}

// Held returns the time that MarkHeld noted in the persist file, zero when
// there is none or no file.
func Held(path string) (time.Time, error) {
	st, err := checkFile(path, nothing{})
	return st.Held, err
}

type nothing struct{}

func (nothing) Len() int                           { return 0 }
func (nothing) All() iter.Seq2[netip.Prefix, bool] { return func(func(netip.Prefix, bool) bool) {} }

var errSymlink = errors.New("is a symbolic link: name the file that it points to, in threatstop.conf and in pf.conf")

// fileMode is what a persist file has: pfctl reads it as root, and nobody else
// has any business with it.
const fileMode = 0o600

// replaceFile replaces the file at path by what write writes, so that path is
// whole at every instant.
func replaceFile(d disk, path string, write func(*bufio.Writer) error) (err error) {
	switch st, err := os.Lstat(path); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return fileError(path, "stat", err)
	default:
		if err := checkMode(path, st); err != nil {
			return err
		}
		if err := Overwritable(path); err != nil {
			return err
		}
	}
	temp := path + TempSuffix
	f, err := d.Create(temp)
	if err != nil {
		return fileError(path, "create "+temp, err)
	}
	renamed := false
	defer func() {
		if err != nil && !renamed {
			_ = d.Remove(temp) // the error at hand says more than this one would
		}
	}()
	w := bufio.NewWriterSize(f, 64<<10)
	err = write(w)
	if err == nil {
		err = w.Flush()
	}
	if err != nil {
		f.Close()
		return fileError(path, "write "+temp, err)
	}
	if err := f.Sync(); err != nil {
		f.Close()
		return fileError(path, "fsync "+temp, err)
	}
	if err := f.Close(); err != nil {
		return fileError(path, "close "+temp, err)
	}
	if err := d.Rename(temp, path); err != nil {
		return fileError(path, "rename "+temp, err)
	}
	renamed = true
	if err := d.SyncDir(filepath.Dir(path)); err != nil {
		return fileError(path, "written, but fsync of its directory failed", err)
	}
	return nil
}

// maxEntry is the longest line of a persist file: an IPv6 network.
const maxEntry = len("!ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255/128\n")

// appendEntry appends one line of a persist file.
func appendEntry(b []byte, p netip.Prefix, not bool) []byte {
	return append(pfioctl.Addr{Prefix: p, Not: not}.AppendTo(b), '\n')
}

// fileState is what checkFile finds.
type fileState struct {
	Same bool      // the entries are exactly those asked for, in this order
	Held time.Time // Header.Held of the file
}

// checkFile reports whether the persist file holds exactly these entries,
// regardless of the comments on top of it. A file that does not exist is not
// the same and is no error. Only what is needed to decide is read.
func checkFile(path string, e Entries) (fileState, error) {
	f, err := openFile(path)
	if f == nil {
		return fileState{}, err
	}
	defer f.Close()
	var st fileState
	r := bufio.NewReaderSize(f, 64<<10)
	for {
		c, err := r.Peek(1)
		if err != nil || c[0] != '#' {
			break // what is wrong with the file, the next read says
		}
		line, err := r.ReadSlice('\n')
		if err != nil {
			break
		}
		if s, ok := strings.CutPrefix(strings.TrimSpace(string(line)), heldPrefix); ok {
			if t, err := time.Parse(time.RFC3339, s); err == nil {
				st.Held = t
			}
		}
	}
	if st.Same, err = holds(r, e); err != nil {
		return st, fileError(path, "read", err)
	}
	// Whoever may write the file decides what pf loads at boot.
	if fi, err := f.Stat(); err != nil || fi.Mode().Perm() != fileMode || !own(fi) {
		st.Same = false
	}
	return st, nil
}

// holds reports whether what is left of a file are the lines of these entries.
func holds(r *bufio.Reader, e Entries) (bool, error) {
	// Some lines at a time, which is faster than one by one.
	want := make([]byte, 0, 4<<10)
	for p, not := range e.All() {
		want = appendEntry(want, p, not)
		if len(want)+maxEntry < cap(want) {
			continue
		}
		if same, err := goesOn(r, want); err != nil || !same {
			return false, err
		}
		want = want[:0]
	}
	if same, err := goesOn(r, want); err != nil || !same {
		return false, err
	}
	_, err := r.ReadByte()
	if errors.Is(err, io.EOF) {
		return true, nil
	}
	return false, err
}

// goesOn reports whether a file goes on with want, which fits into the
// reader's buffer, and reads that.
func goesOn(r *bufio.Reader, want []byte) (bool, error) {
	got, err := r.Peek(len(want))
	if err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	if !bytes.Equal(got, want) {
		return false, nil
	}
	_, err = r.Discard(len(want))
	return true, err
}

// maxFile is more than the largest table that pf could hold takes.
const maxFile = 1 << 30

// own reports whether a file belongs to the user that this process runs as, and
// has no other name under which it could be written to.
func own(fi fs.FileInfo) bool {
	st, ok := fi.Sys().(*syscall.Stat_t)
	return !ok || int(st.Uid) == os.Geteuid() && st.Nlink == 1
}

// openFile opens a persist file to read it. It returns nil without an error
// when there is none, and refuses what is not a file: to follow a link would
// read what is somebody else's, and to open a FIFO wait for ever.
func openFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		if st, e := os.Lstat(path); e == nil {
			if e := checkMode(path, st); e != nil {
				return nil, e
			}
		}
		return nil, fileError(path, "open", err)
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, fileError(path, "stat", err)
	}
	if err = checkMode(path, st); err == nil && st.Size() > maxFile {
		err = fileError(path, "", fmt.Errorf("has %d bytes, more than any table: remove it", st.Size()))
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// checkMode refuses what is not a file.
func checkMode(path string, st fs.FileInfo) error {
	switch {
	case st.Mode()&fs.ModeSymlink != 0:
		return fileError(path, "", errSymlink)
	case !st.Mode().IsRegular():
		return fileError(path, "", errNotRegular)
	}
	return nil
}

var errNotRegular = errors.New("is not a regular file: move it away, or name another one in threatstop.conf and in pf.conf")

// fileError says what failed with a persist file. The names that os puts in
// front of an error stand in ours.
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

// Overwritable returns why the file at path must not be replaced: it is no table file, so that
// BLOCK_FILE or ALLOW_FILE must be wrong (then errors.Is(err, ErrNotTable)). A table file begins with the line that this package writes, is
// empty, or has nothing but comments, addresses and networks. A file that does not exist can be made.
func Overwritable(path string) error {
	f, err := openFile(path)
	if f == nil {
		return err
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, 64<<10)
	comment := false // what follows is the rest of one
	for n := 1; ; {
		line, err := r.ReadSlice('\n')
		if n == 1 && !comment && bytes.HasPrefix(line, []byte(firstPrefix)) && bytes.HasSuffix(line, []byte(firstSuffix+"\n")) {
			return nil
		}
		if !comment {
			var words []byte
			words, _, comment = bytes.Cut(line, []byte("#"))
			for word := range bytes.FieldsSeq(words) {
				if !isAddress(word) {
					return fileError(path, "", fmt.Errorf("line %d: %.40q is not an address: %w", n, word, ErrNotTable))
				}
			}
		}
		switch {
		case err == nil:
			n++
			comment = false
		case errors.Is(err, io.EOF):
			return nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return fileError(path, "read", err)
		}
	}
}

// isAddress reports whether word is an address or a network, negated or not.
func isAddress(word []byte) bool {
	s := string(bytes.TrimPrefix(word, []byte("!")))
	_, err := netip.ParsePrefix(s)
	if err != nil {
		_, err = netip.ParseAddr(s)
	}
	return err == nil
}

// FileEntries counts the entries of a persist file, one a line; 0 when there is
// none.
func FileEntries(path string) (int, error) {
	f, err := openFile(path)
	if f == nil {
		return 0, err
	}
	defer f.Close()
	n, begun := 0, false
	r := bufio.NewReaderSize(f, 64<<10)
	for {
		line, err := r.ReadSlice('\n')
		if rest := bytes.TrimSpace(line); !begun && len(rest) > 0 && rest[0] != '#' {
			n++
		}
		// What is longer than the buffer is one line all the same.
		begun = errors.Is(err, bufio.ErrBufferFull)
		switch {
		case err == nil || begun:
		case errors.Is(err, io.EOF):
			return n, nil
		default:
			return n, fileError(path, "read", err)
		}
	}
}

// Ours reports whether the persist file is one that this package wrote for the
// table, rather than the owner or the scripts before. A file that does not
// exist is not.
func Ours(path, table string) (bool, error) {
	f, err := openFile(path)
	if f == nil {
		return false, err
	}
	defer f.Close()
	want := firstPrefix + oneLine(table) + firstSuffix + "\n"
	got := make([]byte, len(want))
	n, err := io.ReadFull(f, got)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return false, fileError(path, "read", err)
	}
	return string(got[:n]) == want, nil
}
