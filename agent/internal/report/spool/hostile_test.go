//go:build unix

package spool

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// within has f end soon: nothing in a directory may be waited for.
func within(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatalf("%s: it waits", what)
	}
}

// chown gives a file to a user, and skips where files cannot be given away.
func chown(t *testing.T, path string, uid int) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	if err := os.Lchown(path, uid, uid); err != nil {
		t.Skip(err)
	}
}

// What lies in the directory under the name of a segment and is none: it is refused in
// one line, nothing is done to what it stands for, and once it is gone all that was
// spooled is still there.
func TestStrangeFilesAreRefused(t *testing.T) {
	const service = 54321
	for _, tt := range []struct {
		name string
		// put puts something at path; outside is a file elsewhere on the same file system.
		put   func(t *testing.T, path, outside string)
		owner int // of the directory
		want  string
	}{
		{"a symbolic link", func(t *testing.T, path, outside string) { check(t, os.Symlink(outside, path)) }, 0, "is not a regular file: remove it"},
		{"a link to nothing", func(t *testing.T, path, outside string) { check(t, os.Symlink(outside+"x", path)) }, 0, "is not a regular file: remove it"},
		{"a FIFO", func(t *testing.T, path, _ string) { check(t, syscall.Mkfifo(path, 0o600)) }, 0, "is not a regular file: remove it"},
		{"a directory", func(t *testing.T, path, _ string) { check(t, os.Mkdir(path, 0o700)) }, 0, "is not a regular file: remove it"},
		{"another's file", func(t *testing.T, path, _ string) {
			check(t, os.WriteFile(path, nil, 0o600))
			chown(t, path, 12345)
		}, 0, "belongs to uid 12345, the directory to uid 0: remove it"},
		{"a second name of root's file, in the service user's directory", func(t *testing.T, path, outside string) {
			check(t, os.Link(outside, path))
		}, service, "has another name, and the directory another owner: remove it"},
		{"a second name of another's file, in the service user's directory", func(t *testing.T, path, outside string) {
			chown(t, outside, 12345)
			check(t, os.Link(outside, path))
		}, service, "belongs to uid 12345, the directory to uid 54321: remove it"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := tempDir(t)
			o := Options{Dir: dir}
			s := open(t, o)
			appendBatch(t, s, batch(1))
			s.Close()
			if tt.owner != 0 {
				chown(t, dir, tt.owner)
				chown(t, files(t, dir)[0], tt.owner)
				o.Service = tt.owner
			}
			outside := filepath.Join(filepath.Dir(dir), "outside")
			secret := []byte("root:$2b$:0:0::/root:/bin/ksh\n")
			check(t, os.WriteFile(outside, secret, 0o600))
			path := filepath.Join(dir, segmentName("spool", 1<<40))
			tt.put(t, path, outside)
			before, err := os.Stat(outside)
			check(t, err)

			within(t, "Open", func() {
				if s, err := Open(o); err == nil || err.Error() != fmt.Sprintf("spool %s: %s", path, tt.want) {
					t.Errorf("got %v, want %q", err, tt.want)
					if err == nil {
						s.Close()
					}
				}
			})
			within(t, "Each", func() {
				if err := Each(dir, "", func(b Batch) error { return nil }); err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("Each: %v", err)
				}
			})
			after, err := os.Stat(outside)
			check(t, err)
			if got, _ := os.ReadFile(outside); !bytes.Equal(got, secret) || after.Mode() != before.Mode() || uidOf(after) != uidOf(before) {
				t.Errorf("the file outside has become %q, %v, of uid %d", got, after.Mode(), uidOf(after))
			}
			check(t, os.RemoveAll(path))
			equal(t, "batches", drain(t, open(t, o)), []int{1})
		})
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.ENOTSUP) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func uidOf(fi fs.FileInfo) uint32 { return fi.Sys().(*syscall.Stat_t).Uid }

// The same things put there while the spool is open, under the name that the next
// segment will have: they are left alone, and the batch goes elsewhere.
func TestStrangeFilesAppear(t *testing.T) {
	for name, put := range map[string]func(path, outside string) error{
		"a symbolic link":   func(path, outside string) error { return os.Symlink(outside, path) },
		"a link to nothing": func(path, outside string) error { return os.Symlink(outside+"x", path) },
		"a FIFO":            func(path, _ string) error { return syscall.Mkfifo(path, 0o600) },
		"a directory":       func(path, _ string) error { return os.Mkdir(path, 0o700) },
		"a second name":     func(path, outside string) error { return os.Link(outside, path) },
		"an empty file":     func(path, _ string) error { return os.WriteFile(path, nil, 0o666) },
		"a gigabyte of zeros": func(path, _ string) error {
			return errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, 1<<30))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := tempDir(t)
			s := open(t, Options{Dir: dir})
			outside := filepath.Join(filepath.Dir(dir), "outside")
			check(t, os.WriteFile(outside, []byte("mine"), 0o600))
			for seq := range uint64(3) {
				check(t, put(filepath.Join(dir, segmentName("spool", seq+1)), outside))
			}
			within(t, "Append", func() {
				appendBatch(t, s, batch(1))
				appendBatch(t, s, batch(2))
			})
			equal(t, "batches", drain(t, s), []int{1, 2})
			if got, _ := os.ReadFile(outside); string(got) != "mine" {
				t.Errorf("the file outside has become %q", got)
			}
			if _, err := os.Lstat(outside + "x"); err == nil {
				t.Error("the link was followed")
			}
		})
	}
}

// A segment that becomes something else while the spool is open is not followed when its
// turn comes; what is behind it is delivered.
func TestSegmentIsSwapped(t *testing.T) {
	dir := tempDir(t)
	s := open(t, Options{Dir: dir, MaxBytes: 256 << 10})
	appendBatch(t, s, batch(1))
	first := files(t, dir)[0]
	for n := 2; len(files(t, dir)) < 2; n++ {
		appendBatch(t, s, &Batch{ID: NewID(), Created: time.Now(), Lines: 2, Text: bytes.Repeat([]byte("x"), 30<<10)})
	}
	evil := filepath.Join(filepath.Dir(dir), "evil")
	check(t, os.WriteFile(evil, encoded(batch(77), 1), 0o600))
	check(t, os.Remove(first))
	check(t, os.Symlink(evil, first))
	var buf []byte
	within(t, "Peek", func() {
		for tries := 0; ; tries++ {
			b, ok, err := s.Peek(&buf)
			if err == nil && ok {
				if b.Lines != 2 {
					t.Errorf("a batch of %d lines", b.Lines)
				}
				return
			}
			if tries > 2*maxHeadErrs {
				t.Fatalf("%v, %v", ok, err)
			}
		}
	})
	if _, err := os.Stat(evil); err != nil {
		t.Error("what the link stands for is gone")
	}
	if lost := s.Stats().LostDamage.Batches; lost == 0 {
		t.Error("the loss was not counted")
	}
}

// A real disk that is really full.
func TestFullDisk(t *testing.T) {
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		t.Skip("needs root on Linux, to mount a small file system")
	}
	mount := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=256k,mode=0700", "none", mount).CombinedOutput(); err != nil {
		t.Skipf("mount: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", mount).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	dir := filepath.Join(mount, "spool")
	s, err := Open(Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	taken := 0
	for ; err == nil; taken++ {
		if taken > 100 {
			t.Fatal("it is never full")
		}
		_, err = s.Append(&Batch{ID: NewID(), Created: time.Now(), Lines: taken + 1, Text: bytes.Repeat([]byte("x"), 20<<10)})
	}
	taken--
	if !errors.Is(err, syscall.ENOSPC) || !strings.HasPrefix(err.Error(), "spool "+dir) || strings.Contains(err.Error(), "\n") {
		t.Fatalf("got %v", err)
	}
	var want []int
	for n := range taken {
		want = append(want, n+1)
	}
	s.Close()
	if s, err = Open(Options{Dir: dir}); err != nil {
		t.Fatalf("opened again while it is full: %v", err)
	}
	defer s.Close()
	var got []int
	for buf := []byte(nil); ; {
		b, ok, err := s.Peek(&buf)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			break
		}
		got = append(got, b.Lines)
		s.Done(b.Seq) // which a full disk may not take
	}
	equal(t, "batches", got, want)
	check(t, s.Trim(true))
	if _, err := s.Append(batch(3)); err != nil {
		t.Errorf("with room again: %v", err)
	}
}

// Segments whose records claim to be as long as can be, or longer than the file, cost
// neither memory nor time.
func TestGiantLengths(t *testing.T) {
	dir := tempDir(t)
	check(t, os.Mkdir(dir, 0o700))
	var whole bytes.Buffer
	var head [headerSize]byte
	for seq := range uint64(1000) {
		(&header{kind: kindBatch, metaLen: maxMeta, textLen: MaxText, lines: 1<<32 - 1, seq: seq + 1, created: 1 << 62}).encode(&head)
		whole.Write(head[:])
	}
	good := batch(5)
	whole.Write(encoded(good, 5000))
	path := filepath.Join(dir, segmentName("spool", 1))
	check(t, os.WriteFile(path, whole.Bytes(), 0o600))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	s := open(t, Options{Dir: dir})
	equal(t, "batches", drain(t, s), []int{5})
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 8<<20 {
		t.Errorf("%d KiB allocated for a file of %d", n>>10, whole.Len()>>10)
	}
	s.Close()

	// And behind them a hole that makes each of them fit.
	check(t, os.WriteFile(path, whole.Bytes(), 0o600))
	if err := os.Truncate(path, 1<<26); err != nil {
		t.Skip(err)
	}
	runtime.ReadMemStats(&before)
	within(t, "Open", func() { s = open(t, Options{Dir: dir}) })
	within(t, "drain", func() {
		if got := drain(t, s); len(got) > 1 {
			t.Errorf("batches %v", got)
		}
	})
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 128<<20 {
		t.Errorf("%d MiB allocated", n>>20)
	}
}

// A directory that cannot be written to is told of in one line.
func TestReadOnlyDirectory(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root can write everywhere")
	}
	dir := tempDir(t)
	s := open(t, Options{Dir: dir})
	appendBatch(t, s, batch(1))
	s.Close()
	check(t, os.Chmod(dir, 0o500))
	defer os.Chmod(dir, 0o700)
	s = open(t, Options{Dir: dir, MaxBytes: 64 << 10})
	var err error
	for range 40 {
		if _, err = s.Append(&Batch{ID: NewID(), Created: time.Now(), Lines: 9, Text: make([]byte, 20<<10)}); err != nil {
			break
		}
	}
	if !errors.Is(err, fs.ErrPermission) || !strings.HasPrefix(err.Error(), "spool "+dir) {
		t.Errorf("got %v", err)
	}
}
