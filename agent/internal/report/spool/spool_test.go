package spool

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

func open(t testing.TB, o Options) *Spool {
	t.Helper()
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func tempDir(t testing.TB) string { return filepath.Join(t.TempDir(), "spool") }

func batch(n int) *Batch {
	return &Batch{
		ID: NewID(), Created: time.Now(), Lines: n,
		Meta: []byte(fmt.Sprintf("meta %d", n)),
		Text: bytes.Repeat([]byte(fmt.Sprintf("line of batch %d\n", n)), n),
	}
}

func appendBatch(t testing.TB, s *Spool, b *Batch) uint64 {
	t.Helper()
	seq, err := s.Append(b)
	if err != nil {
		t.Fatal(err)
	}
	return seq
}

// drain takes everything off the queue and returns the number of lines of each batch,
// after checking that each is whole.
func drain(t testing.TB, s *Spool) []int {
	t.Helper()
	var got []int
	var buf []byte
	var last uint64
	for {
		b, ok, err := s.Peek(&buf)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return got
		}
		if b.Seq <= last {
			t.Fatalf("sequence %d after %d", b.Seq, last)
		}
		last = b.Seq
		want := batch(b.Lines)
		if !bytes.Equal(b.Text, want.Text) || !bytes.Equal(b.Meta, want.Meta) {
			t.Fatalf("batch of %d lines came back as %q, %q", b.Lines, b.Meta, b.Text)
		}
		if err := s.Done(b.Seq); err != nil {
			t.Fatal(err)
		}
		got = append(got, b.Lines)
	}
}

func equal(t testing.TB, what string, got, want any) {
	t.Helper()
	if g, w := fmt.Sprint(got), fmt.Sprint(want); g != w {
		t.Fatalf("%s: got %s, want %s", what, g, w)
	}
}

func files(t testing.TB, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*.seg"))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestQueueKeepsOrderAcrossRestarts(t *testing.T) {
	dir := tempDir(t)
	s := open(t, Options{Dir: dir})
	for n := 1; n <= 5; n++ {
		appendBatch(t, s, batch(n))
	}
	var buf []byte
	first, _, _ := s.Peek(&buf)
	if err := s.Done(first.Seq); err != nil {
		t.Fatal(err)
	}
	second, _, _ := s.Peek(&buf)
	id := second.ID
	s.Close()

	s = open(t, Options{Dir: dir})
	equal(t, "pending after restart", s.Stats().Pending.Batches, 4)
	equal(t, "pending lines after restart", s.Stats().Pending.Lines, 2+3+4+5)
	equal(t, "newest meta", string(s.Newest()), "meta 5")
	again, ok, err := s.Peek(&buf)
	if !ok || err != nil || again.ID != id {
		t.Fatalf("the batch that was on its way came back as %v, %v, %v; want id %v", again.ID, ok, err, id)
	}
	appendBatch(t, s, batch(6))
	equal(t, "batches", drain(t, s), []int{2, 3, 4, 5, 6})
	equal(t, "files", len(files(t, dir)), 1)
	equal(t, "newest meta with nothing pending", string(s.Newest()), "meta 6")
	if err := s.Trim(true); err != nil {
		t.Fatal(err)
	}
	equal(t, "files after trim", len(files(t, dir)), 0)
	equal(t, "stats", s.Stats(), Stats{})
}

// What is done stays done although its segment still stands.
func TestDoneIsRemembered(t *testing.T) {
	dir := tempDir(t)
	s := open(t, Options{Dir: dir})
	appendBatch(t, s, batch(1))
	appendBatch(t, s, batch(2))
	drain(t, s)
	s.Close()
	s = open(t, Options{Dir: dir})
	equal(t, "batches", drain(t, s), []int(nil))
	equal(t, "pending", s.Stats().Pending, Count{})
}

// A process that dies at once, again and again, does not leave a file each time.
func TestRestartsShareASegment(t *testing.T) {
	dir := tempDir(t)
	for n := 1; n <= 20; n++ {
		s := open(t, Options{Dir: dir})
		appendBatch(t, s, batch(n))
		s.Close()
	}
	equal(t, "files", len(files(t, dir)), 1)
	equal(t, "batches", len(drain(t, open(t, Options{Dir: dir}))), 20)
}

func TestSizeIsBounded(t *testing.T) {
	dir := tempDir(t)
	const limit = 256 << 10
	s := open(t, Options{Dir: dir, MaxBytes: limit})
	var in Count
	for i := range 400 {
		b := batch(50 + i%50)
		in.add(Count{1, int64(b.Lines), int64(len(b.Text))})
		appendBatch(t, s, b)
		var size int64
		for _, f := range files(t, dir) {
			fi, err := os.Stat(f)
			if err != nil {
				t.Fatal(err)
			}
			size += fi.Size()
		}
		if size > limit {
			t.Fatalf("after %d batches the spool takes %d bytes, limit %d", i+1, size, limit)
		}
		equal(t, "stated size", s.Stats().DiskBytes, size)
	}
	if n := len(files(t, dir)); n > 2*segments {
		t.Fatalf("%d files", n)
	}
	st := s.Stats()
	var got Count
	got.add(st.Pending)
	got.add(st.LostFull)
	equal(t, "pending + lost", got, in)
	if st.LostFull.Batches == 0 || st.Pending.Bytes < limit*3/4 {
		t.Fatalf("a full spool should hold most of its limit: %+v", st)
	}
	// The newest are those that were kept.
	got = Count{}
	var buf []byte
	var lastSeq uint64
	for {
		b, ok, err := s.Peek(&buf)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			break
		}
		if lastSeq != 0 && b.Seq != lastSeq+1 {
			t.Fatalf("hole between %d and %d", lastSeq, b.Seq)
		}
		lastSeq = b.Seq
		got.add(Count{1, int64(b.Lines), int64(len(b.Text))})
		s.Done(b.Seq)
	}
	equal(t, "last", lastSeq, 400)
	equal(t, "delivered", got, st.Pending)
	equal(t, "pending", s.Stats().Pending, Count{})
}

// The batch on its way is removed to make room; whether it is lost depends on
// whether it arrives.
func TestRoomIsMadeUnderTheBatchOnItsWay(t *testing.T) {
	for _, arrives := range []bool{true, false} {
		t.Run(fmt.Sprint("arrives=", arrives), func(t *testing.T) {
			s := open(t, Options{Dir: tempDir(t), MaxBytes: 64 << 10})
			big := func() *Batch { return &Batch{ID: NewID(), Created: time.Now(), Lines: 1, Text: make([]byte, 20<<10)} }
			first := appendBatch(t, s, big())
			var buf []byte
			if b, ok, err := s.Peek(&buf); !ok || err != nil || b.Seq != first {
				t.Fatal(b.Seq, ok, err)
			}
			appendBatch(t, s, big())
			appendBatch(t, s, big())
			appendBatch(t, s, big())
			if got := s.Stats().Pending.Batches; got > 3 {
				t.Fatalf("%d pending", got)
			}
			lost := s.Stats().LostFull.Batches
			if arrives {
				if err := s.Done(first); err != nil {
					t.Fatal(err)
				}
			}
			delivered := int64(0)
			if arrives {
				delivered++
			}
			for {
				b, ok, err := s.Peek(&buf)
				if err != nil {
					t.Fatal(err)
				}
				if !ok {
					break
				}
				if b.Seq == first {
					t.Fatal("the removed batch came again")
				}
				s.Done(b.Seq)
				delivered++
			}
			st := s.Stats()
			if !arrives && st.LostFull.Batches != lost+1 {
				t.Fatalf("lost %d, then %d", lost, st.LostFull.Batches)
			}
			equal(t, "delivered + lost", delivered+st.LostFull.Batches, 4)
		})
	}
}

func TestAge(t *testing.T) {
	now := time.Now()
	dir := tempDir(t)
	o := Options{Dir: dir, MaxAge: time.Hour, Now: func() time.Time { return now }}
	s := open(t, o)
	b := batch(1)
	b.Created = now.Add(-50 * time.Minute)
	appendBatch(t, s, b)
	b = batch(2)
	b.Created = now
	appendBatch(t, s, b)
	// Of this process: not older than the process, whatever the clock says.
	b = batch(3)
	b.Created = now.Add(-1000 * time.Hour)
	appendBatch(t, s, b)
	b = batch(4)
	b.Created = now.Add(1000 * time.Hour)
	appendBatch(t, s, b)
	var buf []byte
	if b, _, _ := s.Peek(&buf); b.Lines != 1 {
		t.Fatalf("got %d", b.Lines)
	}
	s.Close()

	now = now.Add(30 * time.Minute)
	s = open(t, o)
	equal(t, "batches", drain(t, s), []int{2, 4})
	equal(t, "lost", s.Stats().LostAge.Lines, 1+3)
}

func TestDamage(t *testing.T) {
	garbage := []byte("\x00\xff\xf5TSB garbage that begins like a record \xf5TS")
	record := func(t *testing.T, n int) []byte {
		dir := tempDir(t)
		s := open(t, Options{Dir: dir})
		// Sequence numbers grow with n.
		s.lastSeq = uint64(n)
		appendBatch(t, s, batch(n))
		b, err := os.ReadFile(files(t, dir)[0])
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	a, b, c := record(t, 1), record(t, 2), record(t, 3)
	flip := func(rec []byte, at int) []byte {
		rec = bytes.Clone(rec)
		rec[at] ^= 1
		return rec
	}
	for _, tt := range []struct {
		name    string
		data    []byte
		want    []int
		damaged int64
	}{
		{"empty file", nil, nil, 0},
		{"nothing but zeroes", make([]byte, 100_000), nil, 1},
		{"OK whole", join(a, b, c), []int{1, 2, 3}, 0},
		{"torn in the header", join(a, b, c[:30]), []int{1, 2}, 1},
		{"torn in the body", join(a, b, c[:headerSize+3]), []int{1, 2}, 1},
		{"zeroes at the end", join(a, b, make([]byte, 4096)), []int{1, 2}, 1},
		{"garbage in front", join(garbage, a, b), []int{1, 2}, 1},
		{"garbage between", join(a, garbage, b, c), []int{1, 2, 3}, 1},
		{"garbage twice", join(a, garbage, b, garbage, c), []int{1, 2, 3}, 2},
		{"garbage of a window's size", join(a, make([]byte, 32<<10), b), []int{1, 2}, 1},
		{"magic across a window's end", join(a, make([]byte, 32<<10-2), b), []int{1, 2}, 1},
		{"header damaged", join(a, flip(b, offSeq), c), []int{1, 3}, 1},
		{"text damaged", join(a, flip(b, len(b)-1), c), []int{1, 3}, 1},
		{"meta damaged", join(a, flip(b, headerSize), c), []int{1, 3}, 1},
		{"a torn record swallows the next", join(a, b[:headerSize+2], c), []int{1, 3}, 1},
		{"an old record again", join(b, a, c), []int{2, 3}, 0},
		{"a record twice", join(a, a, b), []int{1, 2}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := tempDir(t)
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, segmentName("spool", 1))
			if err := os.WriteFile(path, tt.data, 0o600); err != nil {
				t.Fatal(err)
			}
			// Once as the newest segment, once with a newer one behind it.
			s := open(t, Options{Dir: dir})
			got := s.Stats().Damaged
			if tt.damaged > 0 && got == 0 {
				t.Error("damage at start was not counted")
			}
			appendBatch(t, s, batch(9))
			equal(t, "batches", drain(t, s), append(tt.want, 9))
			s.Close()

			if err := os.WriteFile(path, tt.data, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, segmentName("spool", 8)), record(t, 8), 0o600); err != nil {
				t.Fatal(err)
			}
			s = open(t, Options{Dir: dir})
			equal(t, "batches", drain(t, s), append(tt.want, 8))
			equal(t, "damaged", s.Stats().Damaged, tt.damaged)
			if err := s.Trim(false); err != nil {
				t.Fatal(err)
			}
			equal(t, "files", len(files(t, dir)), 1)
		})
	}
}

// Lost batches are counted by what their headers said.
func TestDamageIsCounted(t *testing.T) {
	dir := tempDir(t)
	s := open(t, Options{Dir: dir})
	for n := 1; n <= 3; n++ {
		appendBatch(t, s, batch(n))
	}
	s.Close()
	path := files(t, dir)[0]
	data, _ := os.ReadFile(path)
	data[len(data)-int(headerSize)-len(batch(3).Meta)-len(batch(3).Text)-1] ^= 1 // last byte of 2
	os.WriteFile(path, data, 0o600)
	s = open(t, Options{Dir: dir})
	equal(t, "batches", drain(t, s), []int{1, 3})
	equal(t, "lost", s.Stats().LostDamage.Lines, 2)
	equal(t, "pending", s.Stats().Pending, Count{})
}

func TestDirectoryIsRefused(t *testing.T) {
	base := t.TempDir()
	wide := filepath.Join(base, "wide")
	os.Mkdir(wide, 0o700)
	os.Chmod(wide, 0o755)
	plain := filepath.Join(base, "plain")
	os.WriteFile(plain, nil, 0o600)
	good := filepath.Join(base, "good")
	os.Mkdir(good, 0o700)
	link := filepath.Join(base, "link")
	os.Symlink(good, link)
	cases := []struct{ name, dir, want string }{
		{"none given", "", "no path given"},
		{"symbolic link", link, "is a symbolic link"},
		{"file", plain, "is not a directory"},
		{"open to others", wide, "mode 0755 lets others in: chmod 700"},
		{"parent missing", filepath.Join(base, "no", "spool"), "no such file or directory"},
	}
	if os.Geteuid() == 0 {
		foreign := filepath.Join(base, "foreign")
		os.Mkdir(foreign, 0o700)
		if err := os.Chown(foreign, 54321, -1); err == nil {
			cases = append(cases, struct{ name, dir, want string }{"another's", foreign, "owned by uid 54321, not by uid 0"})
		}
	}
	for _, tt := range cases {
		t.Run(tt.name, func(t *testing.T) {
			s, err := Open(Options{Dir: tt.dir})
			if err == nil {
				s.Close()
				t.Fatal("taken")
			}
			if !strings.Contains(err.Error(), tt.want) || !strings.HasPrefix(err.Error(), "spool directory") {
				t.Fatalf("got %q, want %q in it", err, tt.want)
			}
		})
	}
	dir := filepath.Join(base, "made")
	open(t, Options{Dir: dir})
	if fi, err := os.Stat(dir); err != nil || runtime.GOOS != "windows" && fi.Mode().Perm() != 0o700 {
		t.Fatal(fi.Mode(), err)
	}
}

// A badDisk fails on demand, after taking part of what is written, as a full disk
// does.
type badDisk struct {
	file
	fail *failure
}

type failure struct{ create, write, sync, truncate bool }

func (d *badDisk) Write(b []byte) (int, error) {
	if d.fail.write {
		n, _ := d.file.Write(b[:len(b)/2])
		return n, syscall.ENOSPC
	}
	return d.file.Write(b)
}

func (d *badDisk) Sync() error {
	if d.fail.sync {
		return syscall.EIO
	}
	return d.file.Sync()
}

func (d *badDisk) Truncate(n int64) error {
	if d.fail.truncate {
		return syscall.EROFS
	}
	return d.file.Truncate(n)
}

func TestBadDisk(t *testing.T) {
	for _, tt := range []struct {
		name string
		fail failure
		want error
	}{
		{"read-only", failure{create: true}, syscall.EROFS},
		{"full", failure{write: true}, syscall.ENOSPC},
		{"full and stuck", failure{write: true, truncate: true}, syscall.ENOSPC},
		{"not synced", failure{sync: true}, syscall.EIO},
	} {
		for _, begun := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, begun=%v", tt.name, begun), func(t *testing.T) {
				dir := tempDir(t)
				var fail failure
				o := Options{Dir: dir, create: func(path string, _ bool) (file, error) {
					if fail.create {
						return nil, &os.PathError{Op: "open", Path: path, Err: syscall.EROFS}
					}
					f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
					return &badDisk{f, &fail}, err
				}}
				s := open(t, o)
				want := []int(nil)
				if begun {
					appendBatch(t, s, batch(1))
					want = append(want, 1)
					if tt.fail.create {
						// A new segment is wanted now.
						s.active.Close()
						s.active = nil
					}
				}
				fail = tt.fail
				for range 3 {
					if _, err := s.Append(batch(5)); !errors.Is(err, tt.want) || !strings.HasPrefix(err.Error(), "spool ") {
						t.Fatalf("got %v, want %v", err, tt.want)
					}
				}
				equal(t, "pending", s.Stats().Pending.Batches, len(want))
				fail = failure{}
				appendBatch(t, s, batch(2))
				want = append(want, 2)
				s.Close()
				s = open(t, o)
				equal(t, "batches after a restart", drain(t, s), want)
				if n := len(files(t, dir)); n > 5 {
					t.Fatalf("%d files", n)
				}
			})
		}
	}
}

// A spool directory that vanished under us is an error of Append, not a success into
// a file without a name, and works again when it is back.
func TestDirectoryVanishes(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("open files cannot be removed")
	}
	dir := tempDir(t)
	s := open(t, Options{Dir: dir})
	appendBatch(t, s, batch(1))
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	var buf []byte
	if _, ok, err := s.Peek(&buf); ok || err != nil {
		t.Fatal(ok, err)
	}
	equal(t, "lost", s.Stats().LostDamage.Batches, 1)
	if _, err := s.Append(batch(2)); err == nil {
		t.Fatal("appended to nothing")
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	appendBatch(t, s, batch(3))
	equal(t, "batches", drain(t, s), []int{3})
}

func TestLimits(t *testing.T) {
	s := open(t, Options{Dir: tempDir(t), MaxBytes: 100_000})
	for _, b := range []*Batch{
		{Text: make([]byte, MaxText+1)},
		{Meta: make([]byte, maxMeta+1)},
		{Text: make([]byte, 100_000)},
	} {
		if _, err := s.Append(b); err == nil {
			t.Errorf("text of %d, meta of %d taken", len(b.Text), len(b.Meta))
		}
	}
	if err := s.Done(7); err == nil {
		t.Error("done what nobody peeked")
	}
}

func TestTwoSpoolsInADirectory(t *testing.T) {
	dir := tempDir(t)
	a, b := open(t, Options{Dir: dir}), open(t, Options{Dir: dir, Name: "aside"})
	appendBatch(t, a, batch(1))
	appendBatch(t, b, batch(2))
	os.WriteFile(filepath.Join(dir, "spool-1.seg"), []byte("not ours"), 0o600)
	os.WriteFile(filepath.Join(dir, "watermark"), []byte("not ours"), 0o600)
	a.Close()
	b.Close()
	a, b = open(t, Options{Dir: dir}), open(t, Options{Dir: dir, Name: "aside"})
	equal(t, "spool", drain(t, a), []int{1})
	equal(t, "aside", drain(t, b), []int{2})
	var got []int
	if err := Each(dir, "aside", func(b Batch) error { got = append(got, b.Lines); return nil }); err != nil {
		t.Fatal(err)
	}
	equal(t, "read beside", got, []int{2})
}

// Random damage to a real spool: whatever was not hit comes out, in order, and the
// figures agree.
func TestRandomDamage(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		dir := tempDir(t)
		o := Options{Dir: dir, MaxBytes: 4 << 20, create: createUnsynced}
		s := open(t, o)
		n := 1 + rng.IntN(10)
		for i := 1; i <= n; i++ {
			appendBatch(t, s, batch(i))
		}
		s.Close()
		path := files(t, dir)[0]
		data, _ := os.ReadFile(path)
		intact := map[int]bool{}
		from := rng.IntN(len(data))
		to := from + 1 + rng.IntN(min(300, len(data)-from))
		off := 0
		for i := 1; i <= n; i++ {
			b := batch(i)
			end := off + headerSize + len(b.Meta) + len(b.Text)
			intact[i] = end <= from || off >= to
			off = end
		}
		for i := from; i < to; i++ {
			data[i] ^= byte(1 + rng.IntN(255))
		}
		os.WriteFile(path, data, 0o600)
		s = open(t, o)
		got := drain(t, s)
		var want []int
		for i := 1; i <= n; i++ {
			if intact[i] {
				want = append(want, i)
			}
		}
		equal(t, "intact batches", got, want)
		equal(t, "pending", s.Stats().Pending, Count{})
		s.Close()
	}
}

// encoded is the record of b with a sequence number.
func encoded(b *Batch, seq uint64) []byte {
	body := append(bytes.Clone(b.Meta), b.Text...)
	h := header{
		kind: kindBatch, metaLen: len(b.Meta), textLen: len(b.Text), lines: uint32(b.Lines), seq: seq,
		created: b.Created.UnixNano(), id: b.ID, bodyCRC: crc32.Checksum(body, castagnoli()),
	}
	var head [headerSize]byte
	h.encode(&head)
	return append(head[:], body...)
}

// unsynced is a file that does not wait for the disk.
type unsynced struct{ *os.File }

func (unsynced) Sync() error { return nil }

func createUnsynced(path string, _ bool) (file, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	return unsynced{f}, err
}

// FuzzSegment puts foreign bytes between two good records: both are found again, what
// else is found checks, and nothing panics or takes for ever.
func FuzzSegment(f *testing.F) {
	var head [headerSize]byte
	(&header{kind: kindBatch, textLen: 200, seq: 2}).encode(&head)
	f.Add([]byte(nil))
	f.Add([]byte("garbage"))
	f.Add(head[:])
	f.Add(bytes.Repeat(head[:], 5))
	(&header{kind: kindDone, seq: 3, done: 1}).encode(&head)
	f.Add(head[:])
	(&header{kind: kindBatch, seq: 2, bodyCRC: 0}).encode(&head)
	f.Add(append(head[:20:20], head[:]...))
	base := f.TempDir()
	n := 0
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 64<<10 {
			return
		}
		n++
		dir := filepath.Join(base, fmt.Sprint(n))
		defer os.RemoveAll(dir)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		a, b := batch(3), batch(4)
		whole := bytes.Join([][]byte{encoded(a, 1), data, encoded(b, maxSeq-1)}, nil)
		if err := os.WriteFile(filepath.Join(dir, segmentName("spool", 1)), whole, 0o600); err != nil {
			t.Fatal(err)
		}
		found := map[ID]bool{}
		if err := Each(dir, "", func(b Batch) error {
			found[b.ID] = true
			if !bytes.Contains(whole, b.Text) || !bytes.Contains(whole, b.Meta) {
				t.Fatal("made up")
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if !found[a.ID] || !found[b.ID] {
			t.Fatalf("of the good records the first was found: %v, the second: %v", found[a.ID], found[b.ID])
		}
		s := open(t, Options{Dir: dir, create: createUnsynced})
		var buf []byte
		for i := 0; ; i++ {
			b, ok, err := s.Peek(&buf)
			if err != nil {
				t.Fatal(err)
			}
			if !ok {
				break
			}
			if i > len(found) {
				t.Fatal("more batches than records")
			}
			s.Done(b.Seq)
		}
		if p := s.Stats().Pending; p != (Count{}) {
			t.Fatalf("left over: %+v", p)
		}
		s.Close()
	})
}

// FuzzHeader: a header that decodes encodes to the same bytes.
func FuzzHeader(f *testing.F) {
	f.Add(byte(1), uint16(3), uint32(5), uint32(7), uint64(9), uint64(11), int64(13), uint32(15), 3)
	f.Add(byte(2), uint16(0), uint32(0), uint32(7), uint64(9), uint64(11), int64(-1), uint32(15), 100)
	f.Fuzz(func(t *testing.T, kind byte, metaLen uint16, textLen, lines uint32, seq, done uint64, created int64, crc uint32, flip int) {
		if textLen > MaxText {
			textLen %= MaxText
		}
		h := header{kind, int(metaLen), int(textLen), lines, seq, done, created, ID{1, 2, 3}, crc}
		var b [headerSize]byte
		h.encode(&b)
		var got header
		if got.decode(b[:]) {
			if got != h {
				t.Fatalf("got %+v, want %+v", got, h)
			}
		} else if seq < maxSeq && done < maxSeq && (kind == kindBatch || kind == kindDone && metaLen == 0 && textLen == 0) {
			t.Fatalf("%+v does not decode", h)
		}
		if flip >= 0 {
			b[flip/8%headerSize] ^= 1 << (flip % 8)
			if got.decode(b[:]) {
				t.Fatal("one flipped bit went unnoticed")
			}
		}
	})
}

// Root may use the service user's directory, and what it makes there is that
// user's.
func TestOpenAsRootForServiceUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	const service = 54321
	dir := filepath.Join(t.TempDir(), "spool")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir, service, service); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Options{Dir: dir}); err == nil || !strings.Contains(err.Error(), "owned by uid 54321, not by uid 0") {
		t.Errorf("a stranger's directory: %v", err)
	}
	s, err := Open(Options{Dir: dir, Service: service})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	f, err := s.o.create(filepath.Join(dir, "spool-test.seg"), true)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	fi, err := os.Stat(filepath.Join(dir, "spool-test.seg"))
	if err != nil {
		t.Fatal(err)
	}
	if err := checkOwner(dir, fi, service); err != nil {
		t.Error(err)
	}
	if err := checkOwner(dir, fi, 0); err == nil {
		t.Error("the file is still root's")
	}
}
