package apply

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// hostile are entries as a table might have them.
type hostile []netip.Prefix

func (h hostile) Len() int { return len(h) }

func (h hostile) All() iter.Seq2[netip.Prefix, bool] {
	return func(yield func(netip.Prefix, bool) bool) {
		for i, p := range h {
			if !yield(p, i%3 == 2) {
				return
			}
		}
	}
}

func (h hostile) text() string {
	var b []byte
	for p, not := range h.All() {
		b = appendEntry(b, p, not)
	}
	return string(b)
}

var three = hostile{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("10.1.0.0/16")}

func possible(t testing.TB, err error) {
	t.Helper()
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.ENOTSUP) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A directory in which others could put another file in the place of ours is refused
// before anything is done.
func TestHostileDirectory(t *testing.T) {
	for _, tt := range []struct {
		name string
		put  func(dir string) error
		want string // behind the directory's name; "" when it is taken
	}{
		{"OK", func(dir string) error { return os.Mkdir(dir, 0o755) }, ""},
		{"OK open to a group", func(dir string) error { return errors.Join(os.Mkdir(dir, 0o755), os.Chmod(dir, 0o775)) }, ""},
		{"open to everybody", func(dir string) error { return errors.Join(os.Mkdir(dir, 0o755), os.Chmod(dir, 0o777)) },
			": mode 0777: everybody could replace what pf loads at boot: chmod o-w it"},
		{"open to everybody, and sticky", func(dir string) error {
			return errors.Join(os.Mkdir(dir, 0o755), os.Chmod(dir, 0o777|fs.ModeSticky))
		}, ": mode 1777: everybody could replace what pf loads at boot: chmod o-w it"},
		{"another's", func(dir string) error {
			if os.Geteuid() != 0 {
				return fs.ErrPermission
			}
			return errors.Join(os.Mkdir(dir, 0o755), os.Chown(dir, 54321, -1))
		}, ": owned by uid 54321, who could replace what pf loads at boot: chown root it"},
		{"a symbolic link", func(dir string) error { return errors.Join(os.Mkdir(dir+"x", 0o755), os.Symlink(dir+"x", dir)) },
			": is a symbolic link: name the directory itself, in threatstop.conf and in pf.conf"},
		{"a FIFO", func(dir string) error { return syscall.Mkfifo(dir, 0o600) },
			": not a directory: make it, or name another one in threatstop.conf (OUT_DIR, BLOCK_FILE) and in pf.conf"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "db")
			possible(t, tt.put(dir))
			unlock, err := Lock(dir)
			if tt.want == "" {
				possible(t, err)
				unlock()
				return
			}
			if want := "directory of the persist files " + dir + tt.want; err == nil || err.Error() != want {
				t.Errorf("got  %v\nwant %s", err, want)
			}
		})
	}
}

// What lies under the name of a persist file, or of its temporary one, is not followed,
// not waited for and not written to; if it is in the way, one line reports it.
func TestHostileFiles(t *testing.T) {
	for _, tt := range []struct {
		name    string
		put     func(path, outside string) error
		want    string // of the file itself; "" when it is replaced
		tempBad bool   // in the way under the temporary name
	}{
		{"a symbolic link", func(path, outside string) error { return os.Symlink(outside, path) }, "is a symbolic link: name the file", false},
		{"a link to nothing", func(path, outside string) error { return os.Symlink(outside+"x", path) }, "is a symbolic link: name the file", false},
		{"a FIFO", func(path, _ string) error { return syscall.Mkfifo(path, 0o600) }, "is not a regular file: move it away", false},
		{"a directory", func(path, _ string) error {
			return errors.Join(os.Mkdir(path, 0o700), os.WriteFile(filepath.Join(path, "x"), nil, 0o600))
		}, "is not a regular file: move it away", true},
		{"a second name", func(path, outside string) error { return os.Link(outside, path) }, "", false},
		{"another's file", func(path, _ string) error {
			if os.Geteuid() != 0 {
				return fs.ErrPermission
			}
			return errors.Join(os.WriteFile(path, []byte(three.text()), 0o600), os.Chown(path, 54321, -1))
		}, "", false},
		{"a file for all to write", func(path, _ string) error {
			return errors.Join(os.WriteFile(path, []byte(three.text()), 0o600), os.Chmod(path, 0o666))
		}, "", false},
		{"a gigabyte and more", func(path, _ string) error {
			return errors.Join(os.WriteFile(path, []byte(three.text()), 0o600), os.Truncate(path, maxFile+1))
		}, "has 1073741825 bytes, more than any table: remove it", false},
	} {
		for _, temp := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, temp=%v", tt.name, temp), func(t *testing.T) {
				base := t.TempDir()
				path, outside := filepath.Join(base, "block.pftable"), filepath.Join(base, "outside")
				possible(t, os.WriteFile(outside, []byte(three.text()), 0o600))
				at := path
				if temp {
					at += tempSuffix
				}
				possible(t, tt.put(at, outside))
				done := make(chan struct{})
				go func() {
					defer close(done)
					for what, f := range map[string]func() error{
						"checkFile":   func() error { st, err := stateOf(path, three); return orSame(st.Same && !temp, err) },
						"FileEntries": func() error { _, err := FileEntries(path); return err },
						"readHeader":  func() error { _, _, err := readHeader(path); return err },
						"MarkHeld":    func() error { return new(disk).markHeld(path, time.Unix(1e9, 0)) },
					} {
						if what == "MarkHeld" && tt.want == "" || temp {
							continue // it replaces the file as WriteFile does
						}
						err := f()
						if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want) || !strings.HasPrefix(err.Error(), "persist file "+path+": ")) {
							t.Errorf("%s: %v, want %q", what, err, tt.want)
						}
					}
					err := new(disk).writeFile(path, Header{Table: "t"}, three)
					refused := tt.want != "" && !temp || temp && tt.tempBad
					if (err != nil) != refused || err != nil && strings.Contains(err.Error(), "\n") {
						t.Errorf("WriteFile: %v", err)
					}
					if err == nil {
						fi, err := os.Lstat(path)
						if st, e := stateOf(path, three); err != nil || e != nil || !st.Same || fi.Mode() != fileMode || !own(fi) {
							t.Errorf("written: %v, %v, %+v", fi, e, st)
						}
					}
				}()
				select {
				case <-done:
				case <-time.After(time.Minute):
					t.Fatal("it waits")
				}
				if got, _ := os.ReadFile(outside); string(got) != three.text() {
					t.Errorf("the file outside has become %q", got)
				}
				if _, err := os.Lstat(outside + "x"); err == nil {
					t.Error("the link was followed")
				}
			})
		}
	}
}

func orSame(same bool, err error) error {
	if same {
		return errors.Join(errors.New("taken for the same"), err)
	}
	return err
}

// Comparing with a file that is large, or has a line that never ends, takes little
// memory, and marking it does not damage it.
func TestHugeFile(t *testing.T) {
	const comments = 1 << 20
	for name, text := range map[string]string{
		"a comment without end":          "# " + strings.Repeat("x", 8<<20),
		"a long comment and the entries": "# " + strings.Repeat("x", 8<<20) + "\n" + three.text(),
		"many comments":                  strings.Repeat("#\n", comments) + three.text(),
		"many marks":                     strings.Repeat(heldLine(time.Unix(0, 0)), 200_000) + three.text(),
		"a line without end":             strings.Repeat("1", 8<<20),
		"zeros":                          strings.Repeat("\x00", 8<<20),
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "f")
			possible(t, os.WriteFile(path, []byte(text), 0o600))
			entries := func() string {
				b, err := os.ReadFile(path)
				possible(t, err)
				var out []byte
				for line := range bytes.Lines(b) {
					if line[0] != '#' {
						out = append(out, line...)
					}
				}
				return string(out)
			}
			before := entries()
			var m0, m1 runtime.MemStats
			runtime.ReadMemStats(&m0)
			if _, err := stateOf(path, three); err != nil {
				t.Error(err)
			}
			if _, err := FileEntries(path); err != nil {
				t.Error(err)
			}
			since := time.Unix(1e9, 0)
			if refused := name == "zeros" || name == "a line without end"; refused {
				if err := new(disk).markHeld(path, since); err == nil {
					t.Error("what is no table file was overwritten")
				}
				return
			}
			if err := new(disk).markHeld(path, since); err != nil {
				t.Error(err)
			}
			held, err := heldIn(path)
			runtime.ReadMemStats(&m1)
			if n := m1.TotalAlloc - m0.TotalAlloc; n > 64<<20 || n > 4<<20 && name != "many marks" {
				t.Errorf("%d KiB allocated", n>>10)
			}
			if err != nil {
				t.Error(err)
			}
			if !held.Equal(since) && !strings.HasPrefix(name, "a long") && !strings.HasPrefix(name, "a comment") {
				t.Errorf("held since %v", held)
			}
			if entries() != before {
				t.Error("the entries have changed")
			}
		})
	}
}

// A real disk that is really full: the file stays what it was, whole, and nothing is
// left beside it.
func TestFullDisk(t *testing.T) {
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		t.Skip("needs root on Linux, to mount a small file system")
	}
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=256k,mode=0755", "none", dir).CombinedOutput(); err != nil {
		t.Skipf("mount: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	path := filepath.Join(dir, "t.pftable")
	possible(t, new(disk).writeFile(path, Header{Table: "t"}, three))
	var many hostile
	for i := range 40_000 {
		many = append(many, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32))
	}
	err := new(disk).writeFile(path, Header{Table: "t"}, many)
	if !errors.Is(err, syscall.ENOSPC) || !strings.HasPrefix(err.Error(), "persist file "+path+": write ") || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v", err)
	}
	if st, err := stateOf(path, three); err != nil || !st.Same {
		t.Errorf("afterwards: %+v, %v", st, err)
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 1 {
		t.Errorf("left: %v, %v", names, err)
	}
}

// FuzzPersist: a persist file with any content is taken for the same only if it
// is, its entries are counted as pf would, and marking it changes the mark alone.
func FuzzPersist(f *testing.F) {
	f.Add([]byte(three.text()))
	f.Add([]byte("# pf table t\n" + three.text()))
	f.Add([]byte(Header{Table: "t", Server: "s", Counts: "3", Held: time.Unix(1e9, 0)}.lines() + three.text()))
	f.Add([]byte("#"))
	f.Add([]byte("#\r\n  # x\n 10.0.0.0/8\n\n!10.1.0.0/16 # y"))
	f.Add([]byte(heldPrefix + "2001-09-09T01:46:40Z"))
	f.Add([]byte("# \x00\n\x00\n"))
	path := filepath.Join(f.TempDir(), "f")
	// body is what stands below the comments on top.
	body := func(b []byte) []byte {
		for len(b) > 0 && b[0] == '#' {
			_, b, _ = bytes.Cut(b, []byte{'\n'})
		}
		return b
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) > 60<<10 {
			return
		}
		if err := os.WriteFile(path, in, 0o600); err != nil {
			t.Fatal(err)
		}
		st, err := stateOf(path, three)
		if err != nil {
			t.Fatal(err)
		}
		if st.Same != (string(body(in)) == three.text()) {
			t.Fatalf("same: %v", st.Same)
		}
		want := 0
		for line := range bytes.Lines(in) {
			if line = bytes.TrimSpace(line); len(line) > 0 && line[0] != '#' {
				want++
			}
		}
		if n, err := FileEntries(path); err != nil || n != want {
			t.Fatalf("%d entries, want %d, %v", n, want, err)
		}
		for _, since := range []time.Time{time.Unix(1e9, 0), {}} {
			if err := new(disk).markHeld(path, since); err != nil && Overwritable(path) == nil {
				t.Fatal(err)
			} else if err != nil {
				return
			}
			if got, err := heldIn(path); err != nil || !got.Equal(since) {
				t.Fatalf("held since %v, want %v, %v", got, since, err)
			}
			out, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(body(out), body(in)) {
				t.Fatalf("%q has become %q", body(in), body(out))
			}
		}
	})
}
