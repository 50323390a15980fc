package privsep

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// crashMain is a main process that opens the file, and dies as it is asked to.
func crashMain(path, how string) {
	c, _, err := OpenCrashFile(path)
	if err != nil {
		panic(err)
	}
	switch how {
	case "panic":
		panic("nil\x1b map")
	case "goroutine":
		go func() { panic("in a goroutine") }()
		select {}
	case "kill":
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	case "wait":
		os.Stdout.WriteString("open\n")
		io.ReadAll(os.Stdin)
	}
	c.Close()
	os.Exit(0)
}

// The next start learns how the process ended.
func TestCrashFile(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "crash")
	run := func(how string) *exec.Cmd {
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), "PRIVSEP_TEST_CRASH="+path, "PRIVSEP_TEST_HOW="+how)
		return cmd
	}
	for _, tt := range []struct{ how, want string }{
		{"cleanly", ""},
		{"kill", "no report: SIGKILL, SIGABRT by pledge(2), or the host went down; running since 2"},
		{"panic", "panic: nil\x1b map"},
		{"goroutine", "panic: in a goroutine"},
		{"cleanly", ""},
	} {
		run(tt.how).Run()
		c, last, err := OpenCrashFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if want := Clean(tt.want, 100); !strings.HasPrefix(last, want) || want == "" && last != "" {
			t.Errorf("%s: %q, want %q", tt.how, last, want)
		}
		if tt.how == "goroutine" && !strings.Contains(last, "crash_test.go:") {
			t.Errorf("%q does not say where", last)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if fi, err := os.Stat(path); err != nil || fi.Size() != 0 || fi.Mode() != 0o600 {
			t.Errorf("%s: the file afterwards: %v %v", tt.how, fi, err)
		}
	}
	t.Run("in use", func(t *testing.T) {
		cmd := run("wait")
		in, _ := cmd.StdinPipe()
		out, _ := cmd.StdoutPipe()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		io.ReadFull(out, make([]byte, 5))
		if _, _, err := OpenCrashFile(path); err == nil || !strings.Contains(err.Error(), "in use by another process") {
			t.Errorf("%v", err)
		}
		in.Close()
		cmd.Wait()
	})
	for name, makeIt := range map[string]func(path string) error{
		"a link":        func(path string) error { return os.Symlink("/etc/passwd", path) },
		"a second link": func(path string) error { os.WriteFile(path+"2", nil, 0o600); return os.Link(path+"2", path) },
		"a FIFO":        func(path string) error { return syscall.Mkfifo(path, 0o600) },
		"a directory":   func(path string) error { return os.Mkdir(path, 0o700) },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "crash")
			if err := makeIt(path); err != nil {
				t.Fatal(err)
			}
			if c, _, err := OpenCrashFile(path); err == nil {
				c.Close()
				t.Error("was opened")
			}
		})
	}
}
