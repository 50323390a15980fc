package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// place writes a complete configuration with text in it to a directory of its own.
func place(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "t.conf")
	if err := os.WriteFile(path, []byte(complete(text)), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// refused is the one line for which Load refuses a file.
func refused(t *testing.T, path string) string {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		c, _, err := Load(path)
		if (c == nil) != (err != nil) {
			err = errors.Join(err, fmt.Errorf("and %v", c))
		}
		done <- err
	}()
	select {
	case err := <-done:
		if err == nil || strings.Contains(err.Error(), "\n") {
			t.Fatalf("got %v, want one line", err)
		}
		return err.Error()
	case <-time.After(time.Minute):
		t.Fatal("Load waits")
		panic("unreachable")
	}
}

// A file that others could have written is not acted on, by any user and in any way
// they could.
func TestLoadWhatOthersCanWrite(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no modes")
	}
	t.Run("the file belongs to another user", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("needs root")
		}
		path := place(t, "")
		if err := os.Chown(path, 54321, -1); err != nil {
			t.Skip(err)
		}
		if got, want := refused(t, path), path+": owned by uid 54321, who could make root do anything: chown root "+path; got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	})
	t.Run("its directory is open to all", func(t *testing.T) {
		path := place(t, "")
		dir := filepath.Dir(path)
		if err := os.Chmod(dir, 0o777); err != nil {
			t.Fatal(err)
		}
		if got, want := refused(t, path), path+": everybody can write to its directory (mode 0777): chmod o-w "+dir; got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		if err := os.Chmod(dir, 0o777|fs.ModeSticky); err != nil {
			t.Fatal(err)
		}
		if _, _, err := Load(path); err != nil {
			t.Errorf("a sticky directory, as /tmp: %v", err)
		}
	})
	t.Run("through a symbolic link", func(t *testing.T) {
		path := place(t, "")
		if err := os.Chmod(path, 0o666); err != nil {
			t.Fatal(err)
		}
		link := filepath.Join(t.TempDir(), "link.conf")
		if err := os.Symlink(path, link); err != nil {
			t.Fatal(err)
		}
		if got := refused(t, link); !strings.Contains(got, "mode 0666: others than its owner can write") {
			t.Errorf("got %s", got)
		}
	})
}

// Files that are none, or have no end, neither hold Load up nor fill the memory.
func TestLoadStrangeFiles(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Skip(err)
	}
	c, _, err := Load(fifo)
	if c != nil || !strings.Contains(fmt.Sprint(err), "device_id: missing") {
		t.Errorf("a FIFO that nobody writes to: %v", err)
	}

	// One that somebody writes to is read: `threatstopd -n -f <(command)`.
	// What is written to a reader that goes just then is lost, so it is written again.
	read := make(chan struct{})
	defer close(read)
	go func() {
		for {
			if f, err := os.OpenFile(fifo, os.O_WRONLY|syscall.O_NONBLOCK, 0); err == nil {
				f.WriteString(complete(""))
				f.Close()
			}
			select {
			case <-read:
				return
			case <-time.After(time.Millisecond):
			}
		}
	}()
	for deadline := time.Now().Add(time.Minute); ; {
		if c, _, err = Load(fifo); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	if c.DeviceID != "tdid_0a1b2c3d" {
		t.Errorf("%+v", c)
	}

	huge := filepath.Join(dir, "huge")
	if err := os.WriteFile(huge, []byte("A=1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(huge, 1<<30); err != nil {
		t.Skip(err)
	}
	for _, path := range []string{huge, "/dev/zero"} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if got, want := refused(t, path), path+": larger than 1048576 bytes: this is not a threatstop.conf"; got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > 32<<20 {
			t.Errorf("%s: %d KiB allocated", path, n>>10)
		}
	}
}
