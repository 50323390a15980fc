package apply

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/pfioctl/pfsim"
)

// list is Entries from text: "!10.1.0.0/16" is negated.
type list []string

func (l list) Len() int { return len(l) }

func (l list) All() iter.Seq2[netip.Prefix, bool] {
	return func(yield func(netip.Prefix, bool) bool) {
		for _, s := range l {
			s, not := strings.CutPrefix(s, "!")
			p, err := netip.ParsePrefix(s)
			if err != nil {
				a := netip.MustParseAddr(s)
				p = netip.PrefixFrom(a, a.BitLen())
			}
			if !yield(p, not) {
				return
			}
		}
	}
}

var (
	some = list{"10.0.0.0/8", "!10.1.0.0/16", "192.0.2.1", "2001:db8::/32", "!2001:db8::1"}
	when = time.Date(2026, 3, 1, 4, 5, 6, 0, time.UTC)
	head = Header{Time: when, Table: "ThreatSTOP-Block", Server: "192.0.2.53:53", Counts: "3 blocked addresses, 2 exceptions"}
)

// fileState is what checkFile finds.
type fileState struct {
	Same bool
	Held time.Time
}

func stateOf(path string, e policy.Entries) (fileState, error) {
	same, held, err := checkFile(path, e)
	return fileState{same, held}, err
}

func heldIn(path string) (time.Time, error) {
	_, held, err := readHeader(path)
	return held, err
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestWriteFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ThreatSTOP-Block.pftable")
	if err := new(disk).writeFile(path, head, some); err != nil {
		t.Fatal(err)
	}
	want := `# pf table ThreatSTOP-Block, written by threatstopd: changes made here are lost
# 2026-03-01T04:05:06Z
# from 192.0.2.53:53
# 3 blocked addresses, 2 exceptions
10.0.0.0/8
!10.1.0.0/16
192.0.2.1
2001:db8::/32
!2001:db8::1
`
	if got := read(t, path); got != want {
		t.Errorf("file:\n%s\nwant:\n%s", got, want)
	}
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v, want 0600", st.Mode(), err)
	}
	if _, err := os.Lstat(path + tempSuffix); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("temporary file is still there: %v", err)
	}
}

func TestWriteFileRefuses(t *testing.T) {
	dir := t.TempDir()
	target := filepath.Join(dir, "target")
	if err := os.WriteFile(target, []byte("the owner's\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	sub := filepath.Join(dir, "directory")
	if err := os.Mkdir(sub, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct{ path, want string }{
		"bad: symbolic link":       {link, "is a symbolic link"},
		"bad: directory":           {sub, "is not a regular file"},
		"bad: directory not there": {filepath.Join(dir, "none", "file"), "create"},
	} {
		err := new(disk).writeFile(tc.path, head, some)
		if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.HasPrefix(err.Error(), "persist file "+tc.path+": ") {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
	if got := read(t, target); got != "the owner's\n" {
		t.Errorf("the link's target was written: %q", got)
	}
}

// A link that somebody left under the temporary name is replaced, not
// followed.
func TestWriteFileTemporaryLink(t *testing.T) {
	dir := t.TempDir()
	victim := filepath.Join(dir, "victim")
	if err := os.WriteFile(victim, []byte("precious\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "table")
	if err := os.Symlink(victim, path+tempSuffix); err != nil {
		t.Fatal(err)
	}
	if err := new(disk).writeFile(path, head, some); err != nil {
		t.Fatal(err)
	}
	if got := read(t, victim); got != "precious\n" {
		t.Errorf("the temporary name's link was followed: %q", got)
	}
}

// What comes from outside cannot become a line of the table.
func TestHeaderStaysComment(t *testing.T) {
	h := head
	h.Server = "evil\n0.0.0.0/0"
	h.Counts = "1\r\n::/0"
	for line := range strings.Lines(h.lines()) {
		if !strings.HasPrefix(line, "# ") {
			t.Errorf("header line %q is not a comment", line)
		}
	}
}

var errDisk = errors.New("disk failure")

// failingDisk is a disk with every call noted, whose n-th one fails; -1: none.
func failingDisk(n int) (d *disk, calls *[]string) {
	calls = new([]string)
	return &disk{fault: func(call string) error {
		*calls = append(*calls, call)
		if len(*calls)-1 == n {
			return errDisk
		}
		return nil
	}}, calls
}

// many is long enough for several writes.
func many(n int, first byte) list {
	l := make(list, n)
	for i := range l {
		l[i] = fmt.Sprintf("%d.%d.%d.%d", first, i>>16&255, i>>8&255, i&255)
	}
	return l
}

// At every call at which the disk may fail, the file is the old one or, after the rename, the new one; and
// nothing is left beside it.
func TestWriteFileEveryFault(t *testing.T) {
	older, newer := many(12000, 10), many(10000, 20)
	for n, want := range []string{"create", "write", "fsync", "close", "rename", "written, but fsync of its directory failed", ""} {
		t.Run(want, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "table")
			if err := new(disk).writeFile(path, head, older); err != nil {
				t.Fatal(err)
			}
			d, calls := failingDisk(n)
			err := d.writeFile(path, head, newer)
			if want == "" {
				if err != nil || len(*calls) != n {
					t.Errorf("%d calls, %v", len(*calls), err)
				}
				return
			}
			if !errors.Is(err, errDisk) || !strings.HasPrefix(err.Error(), "persist file "+path+": "+want) {
				t.Errorf("error %v", err)
			}
			holds := older
			if strings.HasPrefix(want, "written") {
				holds = newer
			}
			if st, err := stateOf(path, holds); err != nil || !st.Same {
				t.Errorf("the file is not the one expected: %v", err)
			}
			if names, err := os.ReadDir(dir); err != nil || len(names) != 1 {
				t.Errorf("files left: %v %v", names, err)
			}
		})
	}
}

func TestCheckFile(t *testing.T) {
	held := time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC)
	hh := head
	hh.Held = held
	for name, tc := range map[string]struct {
		content string
		want    fileState
	}{
		"same":                        {head.lines() + "10.0.0.0/8\n!10.1.0.0/16\n192.0.2.1\n2001:db8::/32\n!2001:db8::1\n", fileState{Same: true}},
		"same, held":                  {hh.lines() + "10.0.0.0/8\n!10.1.0.0/16\n192.0.2.1\n2001:db8::/32\n!2001:db8::1\n", fileState{Same: true, Held: held}},
		"same, no header":             {"10.0.0.0/8\n!10.1.0.0/16\n192.0.2.1\n2001:db8::/32\n!2001:db8::1\n", fileState{Same: true}},
		"another, held":               {hh.lines() + "10.0.0.0/8\n", fileState{Held: held}},
		"empty":                       {"", fileState{}},
		"one more":                    {"10.0.0.0/8\n!10.1.0.0/16\n192.0.2.1\n2001:db8::/32\n!2001:db8::1\n::2\n", fileState{}},
		"one less":                    {"10.0.0.0/8\n!10.1.0.0/16\n192.0.2.1\n2001:db8::/32\n", fileState{}},
		"not negated":                 {"10.0.0.0/8\n10.1.0.0/16\n192.0.2.1\n2001:db8::/32\n!2001:db8::1\n", fileState{}},
		"torn last line":              {"10.0.0.0/8\n!10.1.0.0/16\n192.0.2.1\n2001:db8::/32\n!2001:db8::1", fileState{}},
		"a comment between":           {"10.0.0.0/8\n# mine\n!10.1.0.0/16\n192.0.2.1\n2001:db8::/32\n!2001:db8::1\n", fileState{}},
		"a very long line":            {strings.Repeat("1", 200000), fileState{}},
		"a very long comment":         {"#" + strings.Repeat("1", 200000), fileState{}},
		"a held line that is no time": {"# held back since yesterday\n", fileState{}},
	} {
		path := filepath.Join(t.TempDir(), "table")
		if err := os.WriteFile(path, []byte(tc.content), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := stateOf(path, some)
		if err != nil || got != tc.want {
			t.Errorf("%s: %+v, %v, want %+v", name, got, err, tc.want)
		}
	}
	if got, err := stateOf(filepath.Join(t.TempDir(), "none"), some); err != nil || got != (fileState{}) {
		t.Errorf("no file: %+v, %v", got, err)
	}
}

// A process that is killed at random while it writes leaves a whole file.
func TestWriteFileKilled(t *testing.T) {
	older, newer := many(30000, 10), many(20000, 20)
	if path := os.Getenv("ENFORCE_TEST_WRITE"); path != "" {
		for {
			for _, l := range []list{newer, older} {
				if err := new(disk).writeFile(path, head, l); err != nil {
					fmt.Println(err)
					os.Exit(1)
				}
				fmt.Println("written")
			}
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "table")
	if err := new(disk).writeFile(path, head, older); err != nil {
		t.Fatal(err)
	}
	interrupted, written, kills := 0, 0, 15
	for range kills {
		cmd := exec.Command(self, "-test.run=^TestWriteFileKilled$")
		cmd.Env = append(os.Environ(), "ENFORCE_TEST_WRITE="+path)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// It is killed somewhere in the time that two files take it, however
		// long that is on this host.
		lines := bufio.NewScanner(out)
		said := []string{}
		var took time.Duration
		for begin := time.Now(); len(said) < 2 && lines.Scan(); said = append(said, lines.Text()) {
			took = time.Since(begin)
			begin = time.Now()
		}
		time.Sleep(rand.N(2*took + 1))
		_ = cmd.Process.Kill()
		for lines.Scan() {
			said = append(said, lines.Text())
		}
		_ = cmd.Wait()
		for _, s := range said {
			if s != "written" {
				t.Fatalf("child: %s", s)
			}
		}
		written += len(said)
		if _, err := os.Lstat(path + tempSuffix); err == nil {
			interrupted++
		}
		a, err := stateOf(path, older)
		if err != nil {
			t.Fatal(err)
		}
		b, err := stateOf(path, newer)
		if err != nil {
			t.Fatal(err)
		}
		if !a.Same && !b.Same {
			t.Fatalf("the file is neither the old nor the new one (%d bytes)", len(read(t, path)))
		}
	}
	t.Logf("%d files written, %d writes interrupted", written, interrupted)
}

// The directory is flushed through the descriptor that was opened beforehand: afterwards
// it need not be possible to open it.
func TestOpenDirs(t *testing.T) {
	b := newBench(t, pfsim.Options{})
	if err := b.OpenDirs(b.target.File, "", b.target.File+".allow"); err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	dir := filepath.Dir(b.target.File)
	if len(b.disk.dirs) != 1 || b.disk.dirs[dir] == nil {
		t.Fatalf("opened %v", b.disk.dirs)
	}
	if err := b.disk.syncDir(dir); err != nil {
		t.Error(err)
	}
	b.disk.dirs[dir].Close()
	if err := b.disk.syncDir(dir); !errors.Is(err, os.ErrClosed) {
		t.Errorf("flushed in another way: %v", err)
	}
	res, err := b.Apply(b.target, some, head)
	if err == nil || res.Steps != 1 || !strings.Contains(err.Error(), "fsync of its directory failed") {
		t.Errorf("%+v, %v", res, err)
	}
	if err := b.OpenDirs(filepath.Join(dir, "none", "file")); err != nil || len(b.disk.dirs) != 0 {
		t.Errorf("a directory that is not there: %v", err)
	}
}

// A file that is not a table file is the owner's, even if BLOCK_FILE names it.
func TestOverwritable(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"empty", "", ""},
		{"ours", firstPrefix + "t" + firstSuffix + "\nwhatever\n", ""},
		{"comments and prefixes", "# blocked\n10.0.0.0/8 !10.1.0.0/16 # two\n\n 2001:db8::1\n192.0.2.1", ""},
		{"pf.conf", "# rules\nset skip on lo\n", `line 2: "set" is not an address`},
		{"a script", "#!/bin/sh\necho\n", `line 2: "echo" is not an address`},
		{"binary", "\x7fELF\x02\x00\x00", `line 1: "\x7fELF`},
		{"one long line", strings.Repeat("1", 70_000), `line 1: "11111`},
		{"a long comment", "# " + strings.Repeat("x", 200_000) + "\n192.0.2.1\n", ""},
		{"a long comment and a word", "# " + strings.Repeat("x", 200_000) + "\nset\n", `line 2: "set"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "f")
			if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			for what, err := range map[string]error{"check": Overwritable(path), "write": new(disk).writeFile(path, Header{Table: "t"}, list{})} {
				if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
					t.Errorf("%s: %v, want %q", what, err, c.want)
				}
			}
			if got := read(t, path); c.want != "" && got != c.text {
				t.Errorf("the file is now %q", got)
			}
			// So is one where the temporary file would be.
			other := filepath.Join(t.TempDir(), "f")
			if err := os.WriteFile(other+tempSuffix, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := new(disk).writeFile(other, Header{Table: "t"}, list{}); (err != nil) != (c.want != "") {
				t.Errorf("with a file at the temporary name: %v, want %q", err, c.want)
			}
			if c.want != "" && read(t, other+tempSuffix) != c.text {
				t.Error("the file at the temporary name is gone")
			}
		})
	}
	if err := Overwritable(filepath.Join(t.TempDir(), "none")); err != nil {
		t.Errorf("no file: %v", err)
	}
}
