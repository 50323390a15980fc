package spool

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Options for [Open].
type Options struct {
	// Dir is the directory, made with mode 0700 when missing (its parent must
	// be there). One that is a symbolic link, belongs to another user (but see
	// Service), or is open to group or others is refused.
	Dir string
	// Service is the uid of the service user: a process that runs as root may
	// use a directory of that user, and gives it the files. 0: there is none.
	Service int
	// Name begins the names of the segments, "" for "spool". Two spools can
	// share a directory under different names.
	Name string
	// MaxBytes bounds the segments' size together, 0 for 64 MiB.
	MaxBytes int64
	// MaxAge is how long a batch is kept, 0 for ever.
	MaxAge time.Duration
	// Now is the clock, nil for time.Now.
	Now func() time.Time

	// create opens a segment for appending, a fresh one, which must not be there,
	// or one that is; tests put failing disks here.
	create func(path string, fresh bool) (file, error)
}

const (
	defaultMaxBytes = 64 << 20
	// segments is about how many files a full spool has: the share that is
	// lost at once when it overflows.
	segments = 16
	// slack keeps segments from becoming tiny when MaxBytes is small.
	minSegment = 64 << 10
)

// file is what is needed of an open segment.
type file interface {
	io.Writer
	io.ReaderAt
	Sync() error
	Truncate(int64) error
	Close() error
}

// A Count says how much of something there was.
type Count struct{ Batches, Lines, Bytes int64 }

func (c *Count) add(o Count) { c.Batches += o.Batches; c.Lines += o.Lines; c.Bytes += o.Bytes }
func (c *Count) sub(o Count) {
	c.Batches = max(0, c.Batches-o.Batches)
	c.Lines = max(0, c.Lines-o.Lines)
	c.Bytes = max(0, c.Bytes-o.Bytes)
}

// Stats are a spool's figures; Lost… and Damaged count from Open on.
type Stats struct {
	// Segments and DiskBytes are what is on disk now.
	Segments  int
	DiskBytes int64
	// Pending is what waits. Bytes are of text. What an earlier process left
	// is counted by its headers, so damage in it shows only when it is reached.
	Pending Count
	// LostFull, LostAge and LostDamage are what was given up: for want of
	// room, for its age, for not being readable any more.
	LostFull, LostAge, LostDamage Count
	// Damaged counts stretches of segments that were no records: torn tails
	// mostly.
	Damaged int64
}

type segment struct {
	path  string
	first uint64 // sequence number in its name
	size  int64
	// pending is what of it has not been taken off the queue.
	pending Count
	// lastBatch is the highest sequence number of a batch in it, 0 for none.
	lastBatch uint64
}

// A Spool is an open spool. It is safe for concurrent use; calls wait for the disk.
type Spool struct {
	o       Options
	segMax  int64
	dir     *os.File
	started time.Time // with a monotonic reading, see expired

	mu      sync.Mutex
	segs    []*segment // oldest first; the last one may be active
	active  file       // open for appending to the last segment, nil: a new one is due
	lastSeq uint64
	done    uint64 // everything up to it has been dealt with
	ownSeq  uint64 // first sequence number of this process
	meta    []byte // of the newest batch
	metaOK  bool

	head     *walk // position in segs[0]
	headFile *os.File
	headErrs int // failures to read segs[0] in a row

	// flight is the batch that Peek has handed out: where the next one
	// begins, and whether room was made by removing it meanwhile.
	flight struct {
		seq     uint64
		count   Count
		next    int64
		removed bool
	}

	statsMu sync.Mutex // never held over a system call
	stats   Stats
}

// Open opens the spool in o.Dir, and makes the directory if it is missing. The error
// says what is wrong with the directory. Segments of an earlier process are taken up:
// of all but the newest only the headers are read, and their batches are read and
// verified when their turn comes. Damage is never an error.
func Open(o Options) (*Spool, error) {
	if o.Name == "" {
		o.Name = "spool"
	}
	if o.MaxBytes == 0 {
		o.MaxBytes = defaultMaxBytes
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.create == nil {
		o.create = func(path string, fresh bool) (file, error) {
			var f *os.File
			var err error
			if fresh {
				// O_EXCL follows no link, and takes nothing that others put there.
				f, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o600)
			} else {
				f, err = OpenOwn(path, os.O_RDWR|os.O_APPEND)
			}
			if err != nil {
				return nil, err
			}
			if err := Adopt(f, o.Dir); err != nil {
				f.Close()
				return nil, err
			}
			return f, nil
		}
	}
	if err := checkDir(o.Dir, o.Service); err != nil {
		return nil, err
	}
	dir, err := os.OpenFile(o.Dir, os.O_RDONLY|openDir, 0)
	if err != nil {
		return nil, fmt.Errorf("spool directory %s: %w", o.Dir, cause(err))
	}
	s := &Spool{o: o, dir: dir, started: o.Now(), segMax: max(o.MaxBytes/segments, min(minSegment, o.MaxBytes/2))}
	if err := s.load(); err != nil {
		dir.Close()
		return nil, err
	}
	return s, nil
}

// checkDir makes the directory if need be and refuses one that others could have put
// there or could write to.
func checkDir(path string, service int) error {
	if path == "" {
		return errors.New("spool directory: no path given")
	}
	fi, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.Mkdir(path, 0o700); err != nil {
			return fmt.Errorf("spool directory %s: make it: %w", path, cause(err))
		}
		fi, err = os.Lstat(path)
	}
	switch {
	case err != nil:
		return fmt.Errorf("spool directory %s: %w", path, cause(err))
	case fi.Mode()&fs.ModeSymlink != 0:
		return fmt.Errorf("spool directory %s: is a symbolic link: name the directory itself", path)
	case !fi.IsDir():
		return fmt.Errorf("spool directory %s: is not a directory", path)
	}
	if err := checkOwner(path, fi, service); err != nil {
		return err
	}
	if perm := fi.Mode().Perm(); perm&0o077 != 0 && hasModes {
		return fmt.Errorf("spool directory %s: mode %04o lets others in: chmod 700 it", path, perm)
	}
	return nil
}

// hasModes is false where permission bits are made up.
const hasModes = os.PathSeparator == '/'

// cause strips the path from err, which the message names already.
func cause(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

func segmentName(name string, first uint64) string {
	return fmt.Sprintf("%s-%016x.seg", name, first)
}

// parseSegmentName is segmentName's inverse.
func parseSegmentName(name, file string) (first uint64, ok bool) {
	hex, ok := strings.CutPrefix(file, name+"-")
	if !ok {
		return 0, false
	}
	hex, ok = strings.CutSuffix(hex, ".seg")
	if !ok || len(hex) != 16 {
		return 0, false
	}
	first, err := strconv.ParseUint(hex, 16, 64)
	return first, err == nil && first < maxSeq && segmentName(name, first) == file
}

// list returns the segments in dir, oldest first.
func list(dir, name string) ([]*segment, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("spool directory %s: %w", dir, cause(err))
	}
	var segs []*segment
	for _, e := range entries {
		first, ok := parseSegmentName(name, e.Name())
		if !ok {
			continue
		}
		fi, err := e.Info()
		if err != nil {
			continue
		}
		path := filepath.Join(dir, e.Name())
		if err := checkOwn(path, fi); err != nil {
			// Somebody has put it there, and not for nothing.
			return nil, fmt.Errorf("spool %s: %w", path, cause(err))
		}
		segs = append(segs, &segment{path: path, first: first, size: fi.Size()})
	}
	slices.SortFunc(segs, func(a, b *segment) int {
		if a.first < b.first {
			return -1
		}
		return 1
	})
	return segs, nil
}

func (s *Spool) load() error {
	segs, err := list(s.o.Dir, s.o.Name)
	if err != nil {
		return err
	}
	// The newest intact record says how far delivery had come, and the newest
	// intact batch has the meta of all that is spooled.
	tail := int64(-1)
	for i := len(segs) - 1; i >= 0 && !s.metaOK; i-- {
		good, err := s.loadTail(segs[i])
		if err != nil {
			// Unreadable now; its turn comes when it is the oldest.
			continue
		}
		if i == len(segs)-1 {
			tail = good
		}
	}
	for _, g := range segs {
		if g.lastBatch == 0 {
			s.loadHeaders(g)
		}
		s.lastSeq = max(s.lastSeq, g.lastBatch, g.first)
	}
	s.segs = segs
	s.lastSeq = max(s.lastSeq, s.done)
	s.ownSeq = s.lastSeq + 1
	// Go on in the newest segment, so that a process that is restarted again
	// and again does not leave a file each time. What is behind its last intact
	// record is a torn write.
	if n := len(s.segs); n > 0 && tail >= 0 && tail < s.segMax {
		g := s.segs[n-1]
		if f, err := s.o.create(g.path, false); err == nil {
			if tail == g.size || f.Truncate(tail) == nil {
				g.size = tail
				s.active = f
			} else {
				f.Close()
			}
		}
	}
	s.statsMu.Lock()
	for _, g := range s.segs {
		s.stats.Pending.add(g.pending)
	}
	s.statsMu.Unlock()
	s.resetHead()
	s.trim(false)
	for s.diskBytes() > s.o.MaxBytes && len(s.segs) > 0 {
		s.dropOldest()
	}
	s.publish()
	return nil
}

// loadTail takes from a segment, fully verified, how far delivery had come and the
// newest batch's meta. It returns where its last intact record ends.
func (s *Spool) loadTail(g *segment) (int64, error) {
	f, err := OpenOwn(g.path, os.O_RDONLY)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	w := walk{r: f, end: g.size}
	var (
		body     []byte
		verified uint64
	)
	for {
		h, _, ok, err := w.next(&body)
		if err != nil {
			return 0, err
		}
		if !ok {
			break
		}
		s.done = max(s.done, h.done)
		if h.kind == kindBatch {
			s.meta = append(s.meta[:0], body[:h.metaLen]...)
			s.metaOK = true
			verified = max(verified, h.seq)
		}
	}
	s.countDamage(w.damaged)
	s.loadHeaders(g)
	// A torn record hides the headers behind it from a look at headers alone.
	g.lastBatch = max(g.lastBatch, verified)
	return w.good, nil
}

// loadHeaders counts what waits in a segment.
func (s *Spool) loadHeaders(g *segment) {
	f, err := OpenOwn(g.path, os.O_RDONLY)
	if err != nil {
		return
	}
	defer f.Close()
	w := walk{r: f, end: g.size}
	for {
		h, _, ok, err := w.next(nil)
		if err != nil || !ok {
			if w.good == 0 {
				// Never to be read again.
				s.countDamage(w.damaged)
			}
			return
		}
		s.done = max(s.done, h.done)
		if h.kind != kindBatch || h.seq <= g.lastBatch {
			continue
		}
		g.lastBatch = h.seq
		if h.seq > s.done {
			g.pending.add(h.count())
		}
	}
}

func (h *header) count() Count { return Count{1, int64(h.lines), int64(h.textLen)} }

// Newest returns the meta of the newest intact batch that is still on disk, nil when
// there is none. It is what Append was last given, by this process or an earlier one.
func (s *Spool) Newest() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.metaOK {
		return nil
	}
	return slices.Clone(s.meta)
}

// Append adds a batch to the queue's end and returns its sequence number once it is
// on disk; b.Seq is not looked at. The oldest segments are removed where room is
// wanted. On an error (no space, read-only, …) nothing was added.
func (s *Spool) Append(b *Batch) (uint64, error) {
	if len(b.Text) > MaxText || len(b.Meta) > maxMeta {
		return 0, fmt.Errorf("spool %s: batch of %d bytes with %d of meta: at most %d and %d are allowed",
			s.o.Dir, len(b.Text), len(b.Meta), MaxText, maxMeta)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.publish()
	h := header{
		kind: kindBatch, metaLen: len(b.Meta), textLen: len(b.Text), lines: uint32(b.Lines),
		seq: s.lastSeq + 1, done: s.done, created: b.Created.UnixNano(), id: b.ID,
		bodyCRC: crc32.Update(crc32.Checksum(b.Meta, castagnoli()), castagnoli(), b.Text),
	}
	if h.size() > s.o.MaxBytes {
		return 0, fmt.Errorf("spool %s: batch of %d bytes: more than the spool's limit of %d", s.o.Dir, len(b.Text), s.o.MaxBytes)
	}
	for len(s.segs) > 0 && s.diskBytes()+h.size() > s.o.MaxBytes {
		s.dropOldest()
	}
	if err := s.write(&h, b.Meta, b.Text); err != nil {
		return 0, err
	}
	s.lastSeq = h.seq
	g := s.segs[len(s.segs)-1]
	g.lastBatch = h.seq
	g.pending.add(h.count())
	s.meta = append(s.meta[:0], b.Meta...)
	s.metaOK = true
	s.statsMu.Lock()
	s.stats.Pending.add(h.count())
	s.statsMu.Unlock()
	return h.seq, nil
}

// write appends a record to the active segment and waits until it is on disk.
func (s *Spool) write(h *header, meta, text []byte) error {
	if s.active != nil && s.segs[len(s.segs)-1].size+h.size() > s.segMax {
		s.active.Close()
		s.active = nil
	}
	if s.active == nil {
		if err := s.newSegment(h.seq); err != nil {
			return err
		}
	}
	g := s.segs[len(s.segs)-1]
	var head [headerSize]byte
	h.encode(&head)
	err := func() error {
		for _, b := range [][]byte{head[:], meta, text} {
			if len(b) == 0 {
				continue
			}
			if _, err := s.active.Write(b); err != nil {
				return err
			}
		}
		return s.active.Sync()
	}()
	if err != nil {
		// Whatever reached the file is taken back. Where even that fails the
		// segment ends here; a reader steps over the torn record.
		if s.active.Truncate(g.size) != nil {
			s.active.Close()
			s.active = nil
		}
		return fmt.Errorf("spool %s: write %d bytes: %w", g.path, h.size(), cause(err))
	}
	g.size += h.size()
	return nil
}

func (s *Spool) newSegment(first uint64) error {
	// A segment that took no record may have this name already.
	if n := len(s.segs); n > 0 && s.segs[n-1].first >= first {
		first = s.segs[n-1].first + 1
	}
	var (
		path string
		f    file
		err  error
	)
	// What has appeared under this name since the directory was read is left alone.
	for range 16 {
		path = filepath.Join(s.o.Dir, segmentName(s.o.Name, first))
		if f, err = s.o.create(path, true); !errors.Is(err, fs.ErrExist) {
			break
		}
		first++
	}
	if err != nil {
		return fmt.Errorf("spool %s: create: %w", path, cause(err))
	}
	// The file must still have its name after a power failure.
	if err := s.dir.Sync(); err != nil {
		f.Close()
		os.Remove(path)
		return fmt.Errorf("spool directory %s: sync: %w", s.o.Dir, cause(err))
	}
	s.active = f
	s.segs = append(s.segs, &segment{path: path, first: first})
	s.lastSeq = max(s.lastSeq, first-1)
	return nil
}

// maxHeadErrs is how often in a row a segment may fail to be read before it is given
// up: some failures pass (too many open files), others do not and must not block what
// is behind.
const maxHeadErrs = 5

// Peek returns the oldest batch that has not been dealt with, read into *buf, which
// grows as needed; it stays in the spool until Done. ok is false when nothing waits.
// Batches that are too old or damaged are passed over and counted. The error is one of
// reading a file: ask again later; a file that keeps failing is given up.
func (s *Spool) Peek(buf *[]byte) (b Batch, ok bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.publish()
	s.settleFlight(false)
	for len(s.segs) > 0 {
		g := s.segs[0]
		h, off, ok, err := s.nextAtHead(g, buf)
		if err != nil {
			s.resetHead()
			if s.headErrs++; s.headErrs < maxHeadErrs && !errors.Is(err, fs.ErrNotExist) {
				return Batch{}, false, fmt.Errorf("spool %s: %w", g.path, cause(err))
			}
			// Whatever is appended from now on goes to another file.
			if len(s.segs) == 1 && s.active != nil {
				s.active.Close()
				s.active = nil
			}
			s.lose(g)
			s.removeOldest()
			continue
		}
		if !ok {
			// What its headers promised and did not turn up is lost.
			s.lose(g)
			if !s.batchBehind() {
				// Nothing waits; and its meta is the newest.
				return Batch{}, false, nil
			}
			s.removeOldest()
			continue
		}
		s.headErrs = 0
		if h.kind != kindBatch || h.seq <= s.done {
			continue
		}
		created := time.Unix(0, h.created)
		if s.expired(h.seq, created) {
			s.take(g, h.count())
			s.count(func(st *Stats) { st.LostAge.add(h.count()) })
			s.done = h.seq
			continue
		}
		s.flight.next = s.head.off
		s.head.off = off // come back to it until it is done
		s.flight.seq, s.flight.count, s.flight.removed = h.seq, h.count(), false
		return Batch{
			Seq: h.seq, ID: h.id, Created: created, Lines: int(h.lines),
			Meta: (*buf)[:h.metaLen], Text: (*buf)[h.metaLen:],
		}, true, nil
	}
	return Batch{}, false, nil
}

// nextAtHead reads the next record of the oldest segment.
func (s *Spool) nextAtHead(g *segment, buf *[]byte) (h header, off int64, ok bool, err error) {
	if s.head == nil {
		f, err := OpenOwn(g.path, os.O_RDONLY)
		if err != nil {
			return header{}, 0, false, err
		}
		s.headFile, s.head = f, &walk{r: f}
	}
	s.head.end = g.size
	h, off, ok, err = s.head.next(buf)
	s.countDamage(s.head.damaged)
	s.head.damaged = 0
	return h, off, ok, err
}

// expired reports whether a batch is past its age. The wall clock may be set while
// batches wait; a batch of this process is never older than the process.
func (s *Spool) expired(seq uint64, created time.Time) bool {
	if s.o.MaxAge <= 0 {
		return false
	}
	now := s.o.Now()
	age := now.Sub(created)
	if seq >= s.ownSeq {
		age = min(age, now.Sub(s.started))
	}
	return age > s.o.MaxAge
}

// Done says that the batch that Peek returned last has been dealt with: it will not
// be seen again. The segment itself stays until Trim. The error says that this could
// not be written down; then this process still goes on behind the batch, but the next
// process would see it again.
func (s *Spool) Done(seq uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.publish()
	if s.flight.seq != seq || seq == 0 {
		return fmt.Errorf("spool %s: batch %d is done: it was not handed out", s.o.Dir, seq)
	}
	removed := s.flight.removed
	s.settleFlight(true)
	if removed {
		return nil
	}
	h := header{kind: kindDone, seq: s.lastSeq, done: s.done}
	if s.diskBytes()+h.size() > s.o.MaxBytes {
		if s.trim(false); s.diskBytes()+h.size() > s.o.MaxBytes {
			return fmt.Errorf("spool %s: note that batch %d is done: no room below the limit of %d bytes", s.o.Dir, seq, s.o.MaxBytes)
		}
	}
	return s.write(&h, nil, nil)
}

// settleFlight ends the time of the batch that was handed out.
func (s *Spool) settleFlight(done bool) {
	f := s.flight
	s.flight.seq = 0
	switch {
	case f.seq == 0:
	case f.removed:
		// Room was made while it was on its way. If it did not arrive, it is
		// lost now.
		if !done {
			s.count(func(st *Stats) { st.LostFull.add(f.count) })
		}
	case done:
		s.done = max(s.done, f.seq)
		s.take(s.segs[0], f.count)
		if s.head != nil {
			s.head.off = f.next
		}
	}
}

// Trim removes the segments in which nothing waits any more. The one with the newest
// batch is kept unless all is set, since [Spool.Newest] is taken from it after a
// restart: the caller sets all once it has that meta in safety elsewhere.
func (s *Spool) Trim(all bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.publish()
	return s.trim(all)
}

func (s *Spool) trim(all bool) error {
	removed := false
	for len(s.segs) > 0 {
		g := s.segs[0]
		if g.lastBatch > s.done || s.flight.seq != 0 && !s.flight.removed {
			break
		}
		last := len(s.segs) == 1
		if !all && !s.batchBehind() {
			break
		}
		if last && s.active != nil {
			s.active.Close()
			s.active = nil
		}
		s.lose(g)
		if err := s.removeOldest(); err != nil {
			return err
		}
		removed = true
	}
	if removed {
		if err := s.dir.Sync(); err != nil {
			return fmt.Errorf("spool directory %s: sync: %w", s.o.Dir, cause(err))
		}
	}
	return nil
}

// batchBehind reports whether a newer segment than the oldest has a batch.
func (s *Spool) batchBehind() bool {
	for _, g := range s.segs[1:] {
		if g.lastBatch > 0 {
			return true
		}
	}
	return false
}

// dropOldest makes room.
func (s *Spool) dropOldest() {
	g := s.segs[0]
	lost := g.pending
	if s.flight.seq != 0 && !s.flight.removed {
		// On its way just now, and its fate is not known yet.
		s.flight.removed = true
		lost.sub(s.flight.count)
	}
	s.count(func(st *Stats) {
		st.LostFull.add(lost)
		st.Pending.sub(g.pending)
	})
	g.pending = Count{}
	s.done = max(s.done, g.lastBatch)
	if len(s.segs) == 1 && s.active != nil {
		s.active.Close()
		s.active = nil
	}
	s.removeOldest()
}

func (s *Spool) removeOldest() error {
	g := s.segs[0]
	s.segs = s.segs[1:]
	s.resetHead()
	s.headErrs = 0
	if err := os.Remove(g.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("spool %s: remove: %w", g.path, cause(err))
	}
	return nil
}

// lose gives up whatever a segment still promises.
func (s *Spool) lose(g *segment) {
	lost := g.pending
	s.done = max(s.done, g.lastBatch)
	if lost != (Count{}) {
		s.take(g, lost)
		s.count(func(st *Stats) { st.LostDamage.add(lost) })
	}
}

// take takes c off what waits.
func (s *Spool) take(g *segment, c Count) {
	g.pending.sub(c)
	s.count(func(st *Stats) { st.Pending.sub(c) })
}

func (s *Spool) resetHead() {
	if s.headFile != nil {
		s.headFile.Close()
	}
	s.headFile, s.head = nil, nil
}

func (s *Spool) diskBytes() int64 {
	var n int64
	for _, g := range s.segs {
		n += g.size
	}
	return n
}

func (s *Spool) count(f func(*Stats)) {
	s.statsMu.Lock()
	f(&s.stats)
	s.statsMu.Unlock()
}

func (s *Spool) countDamage(n int) {
	if n > 0 {
		s.count(func(st *Stats) { st.Damaged += int64(n) })
	}
}

func (s *Spool) publish() {
	n, size := len(s.segs), s.diskBytes()
	s.count(func(st *Stats) { st.Segments, st.DiskBytes = n, size })
}

// Stats returns the figures. It never waits for the disk.
func (s *Spool) Stats() Stats {
	s.statsMu.Lock()
	defer s.statsMu.Unlock()
	return s.stats
}

// Close closes the files. Everything that was appended is on disk already.
func (s *Spool) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active != nil {
		s.active.Close()
		s.active = nil
	}
	s.resetHead()
	return s.dir.Close()
}

// Each calls f with every intact batch in dir's segments named name ("" for "spool"),
// oldest first, dealt with or not, until f returns an error. It changes nothing and
// needs no Spool; the batch's slices are valid until f returns.
func Each(dir, name string, f func(Batch) error) error {
	if name == "" {
		name = "spool"
	}
	segs, err := list(dir, name)
	if err != nil {
		return err
	}
	var body []byte
	for _, g := range segs {
		if err := each(g, &body, f); err != nil {
			return err
		}
	}
	return nil
}

func each(g *segment, body *[]byte, f func(Batch) error) error {
	file, err := OpenOwn(g.path, os.O_RDONLY)
	if err != nil {
		return fmt.Errorf("spool %s: %w", g.path, cause(err))
	}
	defer file.Close()
	w := walk{r: file, end: g.size}
	for {
		h, _, ok, err := w.next(body)
		if err != nil {
			return fmt.Errorf("spool %s: %w", g.path, cause(err))
		}
		if !ok {
			return nil
		}
		if h.kind != kindBatch {
			continue
		}
		err = f(Batch{
			Seq: h.seq, ID: h.id, Created: time.Unix(0, h.created), Lines: int(h.lines),
			Meta: (*body)[:h.metaLen], Text: (*body)[h.metaLen:],
		})
		if err != nil {
			return err
		}
	}
}
