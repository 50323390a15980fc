package apply

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"example.org/threatstopd/pfioctl"
	"example.org/threatstopd/pfioctl/pfsim"
)

// What is not a file is refused, and nothing waits for it: to open a FIFO
// would.
func TestReadersRefuse(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, fifo} {
		_, errCheck := stateOf(path, some)
		_, errHeld := heldIn(path)
		_, errCount := FileEntries(path)
		for name, err := range map[string]error{"checkFile": errCheck, "Held": errHeld, "FileEntries": errCount, "MarkHeld": new(disk).markHeld(path, when), "WriteFile": new(disk).writeFile(path, head, some)} {
			if want := "persist file " + path + ": is not a regular file: move it away"; err == nil || !strings.HasPrefix(err.Error(), want) {
				t.Errorf("%s: %v, want %q", name, err, want)
			}
		}
	}
	if _, err := Lock(fifo); err == nil || !strings.Contains(err.Error(), "OUT_DIR") {
		t.Errorf("lock: %v", err)
	}
}

// An error names the file once, and what could not be done with it.
func TestFileErrorsSayItOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none", "table")
	err := new(disk).writeFile(path, head, some)
	if want := "persist file " + path + ": create " + path + tempSuffix + ": no such file or directory"; err == nil || err.Error() != want {
		t.Errorf("%v\nwant %s", err, want)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v is not fs.ErrNotExist", err)
	}
}

// A file that others may write is written anew, though it holds what it should.
func TestApplyMendsTheMode(t *testing.T) {
	b := newBench(t, pfsim.Options{})
	if _, err := b.Apply(b.target, some, head); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(b.target.File, 0o666); err != nil {
		t.Fatal(err)
	}
	res, err := b.Apply(b.target, some, head)
	if err != nil || !res.FileWritten || res.Steps != 0 {
		t.Errorf("%+v, %v, want the file written and the table left alone", res, err)
	}
	if st, err := os.Stat(b.target.File); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	b.holds(some)
}

// When only the file fails, the table has the policy, and the error says what
// that means.
func TestApplyReportsThatOnlyTheFileFailed(t *testing.T) {
	b := newBench(t, pfsim.Options{})
	if err := os.Mkdir(b.target.File, 0o700); err != nil {
		t.Fatal(err)
	}
	res, err := b.Apply(b.target, some, head)
	if err == nil || !strings.Contains(err.Error(), "pf has the policy, but at a reboot") || strings.Contains(err.Error(), "\n") {
		t.Errorf("%v", err)
	}
	if res.InForce != some.Len() || res.Steps != 1 || res.FileWritten {
		t.Errorf("%+v", res)
	}
	b.tableHolds(some)
	b.target.Load = false
	if _, err := b.Apply(b.target, some, head); err == nil || strings.Contains(err.Error(), "pf has") {
		t.Errorf("RELOAD_PF=no: %v", err)
	}
}

func TestFileEntries(t *testing.T) {
	path := filepath.Join(t.TempDir(), "table")
	for name, tc := range map[string]struct {
		text string
		want int
	}{
		"empty":               {"", 0},
		"comments and blanks": {"# a\n\n  \n#b\n", 0},
		"no last newline":     {"1.2.3.4\n!1.2.3.5", 2},
		"CRLF":                {"1.2.3.4\r\n\r\n1.2.3.5\r\n", 2},
		"a line of 200 KB":    {"1.2.3.4\n" + strings.Repeat("x", 200000) + "\n1.2.3.5\n", 3},
		"a comment of 200 KB": {"1.2.3.4\n#" + strings.Repeat(" ", 70000) + strings.Repeat("x", 130000) + "\n1.2.3.5\n", 2},
	} {
		if err := os.WriteFile(path, []byte(tc.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if n, err := FileEntries(path); n != tc.want || err != nil {
			t.Errorf("%s: %d, %v, want %d", name, n, err, tc.want)
		}
	}
}

// The note of what is held back has a file to stand in, and pf.conf one to
// load, also when it was missing.
func TestHold(t *testing.T) {
	b := newBench(t, pfsim.Options{})
	if _, err := b.Apply(b.target, some, head); err != nil {
		t.Fatal(err)
	}
	held := head
	held.Held = when
	check := func(what string) {
		t.Helper()
		if err := b.hold(b.target, held); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if st, err := stateOf(b.target.File, some); err != nil || !st.Same || !st.Held.Equal(when) {
			t.Errorf("%s: %+v, %v, the file:\n%s", what, st, err, read(t, b.target.File))
		}
	}
	check("the file is there")
	if err := os.Remove(b.target.File); err != nil {
		t.Fatal(err)
	}
	check("the file is missing")
	f, err := os.Open(b.target.File)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := pfsim.New(pfsim.Options{}).LoadFile(block, pfioctl.TablePersist, f); err != nil {
		t.Errorf("pf.conf would not load it: %v", err)
	}

	b.target.Load = false // then what pf has says nothing of what the file should have
	if err := os.Remove(b.target.File); err != nil {
		t.Fatal(err)
	}
	if err := b.hold(b.target, held); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(b.target.File); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("RELOAD_PF=no: a file was made of what is in pf: %v", err)
	}
}
