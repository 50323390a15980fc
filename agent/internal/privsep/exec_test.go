package privsep

import (
	"encoding/json"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func goroutines() int { return runtime.NumGoroutine() }

func duplicate(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// How a process ends, in words.
func TestHowItEnded(t *testing.T) {
	for _, tt := range []struct{ role, reason string }{
		{"exits 0", "ended by itself"},
		{"exits 3", "exit status 3"},
		{"kill -9", "killed"},
		{"aborts", "SIGABRT, pledge violation?"},
		{"segfaults", "SIGSEGV"},
		{"fails", `pflog0: no such\x0ainterface\x1b[31m`},
		{"panics", "exit status 2: panic: slice bounds out of … "},
		{"says some and dies", `exit status 4: \x1b[2Jfirst`},
		{"says much", "SIGPIPE: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"},
		{"nobody", `no role "nobody" in this program`},
	} {
		t.Run(tt.role, func(t *testing.T) {
			k := keep(t, Exec(), Job{Role: tt.role, Once: true})
			got := k.isDown(t)
			if tt.role == "panics" && !strings.Contains(got, "privsep/bodies_test.go:") {
				t.Errorf("%q does not say where", got)
			}
			if got != tt.reason && !(strings.HasPrefix(got, tt.reason) && len(tt.reason) > 30) {
				t.Errorf("%q, want %q", got, tt.reason)
			}
			if len(got) > 2*maxReason+3 || strings.ContainsAny(got, "\n\x1b") {
				t.Errorf("%d bytes: %q", len(got), got)
			}
		})
	}
}

// A role sees of main what it is meant to, and nothing else.
func TestSurroundings(t *testing.T) {
	t.Setenv("TZ", "Europe/Berlin")
	t.Setenv("LD_PRELOAD", "/nonexistent")
	t.Setenv("GODEBUG", "http2debug=1")
	dir := t.TempDir()
	k := keep(t, Exec(), Job{Role: "surroundings", Files: func() ([]*os.File, error) {
		var files []*os.File
		for _, name := range []string{"one", "two"} {
			path := filepath.Join(dir, name)
			if err := os.WriteFile(path, []byte(name), 0o600); err != nil {
				return nil, err
			}
			f, err := os.Open(path)
			if err != nil {
				return nil, err
			}
			files = append(files, f)
		}
		return files, nil
	}})
	k.isUp(t)
	_, payload, _ := strings.Cut(<-k.got, " ")
	var got surroundings
	if err := Unmarshal([]byte(payload), &got); err != nil {
		t.Fatal(err)
	}
	want := surroundings{
		Args: []string{"threatstopd: surroundings"}, Env: []string{"TZ=Europe/Berlin"}, Dir: "/", UID: os.Getuid(),
		Null: []bool{true, true, false}, Pipe: true, Files: []string{"one", "two"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestDescriptors(t *testing.T) {
	// As a careless shell would have left it: this process's own child has it.
	leaked, err := unix.Open(os.DevNull, unix.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(leaked)
	if _, err := unix.FcntlInt(uintptr(leaked), unix.F_SETFD, 0); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	k := keep(t, Exec(), Job{Role: "descriptors", Files: func() ([]*os.File, error) {
		f, err := l.(*net.TCPListener).File()
		return []*os.File{f}, err
	}})
	k.isUp(t)
	_, payload, _ := strings.Cut(<-k.got, " ")
	var open []int
	if err := json.Unmarshal([]byte(payload), &open); err != nil {
		t.Fatal(err)
	}
	if want := []int{0, 1, 2, 3, 4}; !reflect.DeepEqual(open, want) {
		t.Errorf("a role has inherited %v, want %v", open, want)
	}
}

// pkill(1), a terminal that is gone, ^C: all of them mean main.
func TestSignals(t *testing.T) {
	k := keep(t, Exec(), Job{Role: "signals"})
	k.isUp(t)
	select {
	case got := <-k.got:
		if got != "17 alive" {
			t.Error(got)
		}
	case reason := <-k.down:
		t.Errorf("down: %s", reason)
	}
}

// A role does not outlive main, however main went: one that reads ends at the end of its
// connection, one that hangs when it looks.
func TestMainIsGone(t *testing.T) {
	for _, role := range []string{"idle", "stays"} {
		t.Run(role, func(t *testing.T) {
			held, holder, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer held.Close()
			self, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(self)
			cmd.Env = append(os.Environ(), "PRIVSEP_TEST_MAIN="+role)
			cmd.ExtraFiles = []*os.File{holder}
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			holder.Close()
			line := make([]byte, 3)
			if _, err := io.ReadFull(out, line); err != nil || string(line) != "up\n" {
				t.Fatalf("%q %v", line, err)
			}
			cmd.Process.Kill()
			cmd.Wait()
			// The process that held the other end is gone.
			if _, err := held.Read(line); err != io.EOF {
				t.Errorf("%v", err)
			}
		})
	}
}

// A role cannot take more memory than its share, and main does not notice but for its end.
func TestMemoryIsBounded(t *testing.T) {
	if runtime.GOARCH == "386" || runtime.GOARCH == "arm" {
		t.Log("4 GB do not fit here anyway")
	}
	k := keep(t, Exec(), Job{Role: "fills memory", Once: true})
	// The runtime reports that it is out of memory, or stumbles over having none.
	if got := k.isDown(t); strings.HasPrefix(got, notBounded) {
		t.Skip(got) // under the race detector, which reserves terabytes
	} else if !strings.HasPrefix(got, "exit status 2: ") {
		t.Errorf("down: %s", got)
	}
}

// By hand such a process is not started.
func TestNotStartedByMain(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Args = []string{"threatstopd: idle"}
	cmd.Env = []string{}
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() != 2 || string(out) != "threatstopd: idle: only threatstopd starts it\n" {
		t.Errorf("%v: %q", err, out)
	}
}

func TestCannotBeExecuted(t *testing.T) {
	s := Exec().(*execute)
	path := filepath.Join(t.TempDir(), "threatstopd")
	s.path = path
	if Program(s) != path || Program(InProcess(nil)) != "" {
		t.Errorf("Program: %q", Program(s))
	}
	fds := len(openDescriptors(false))
	for _, want := range []error{syscall.ENOENT, syscall.EACCES} {
		_, err := s.Start("idle", nil)
		if err == nil || err.Error() != path+": "+want.Error() {
			t.Errorf("%v, want %v", err, want)
		}
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if now := len(openDescriptors(false)); now != fds {
		t.Errorf("%d descriptors, before %d", now, fds)
	}
}

// Kill and Wait come from anywhere, in any order, also when there is nothing left to kill.
func TestKillAndWait(t *testing.T) {
	for name, s := range starters() {
		t.Run(name, func(t *testing.T) {
			c, err := s.Start("idle", nil)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Conn().Close()
			for range 3 {
				go c.Kill()
			}
			for range 2 {
				if err := c.Wait(); err == nil || err.Error() != "killed" {
					t.Errorf("Wait: %v", err)
				}
			}
			c.Kill()
		})
	}
}

func BenchmarkStart(b *testing.B) {
	s := Exec()
	var sum time.Duration
	for b.Loop() {
		start := time.Now()
		k := keep(b, s, Job{Role: "idle"})
		k.isUp(b)
		sum += time.Since(start)
		k.stop()
		k.Wait()
	}
	b.ReportMetric(float64(sum.Microseconds())/float64(b.N)/1000, "ms-to-ready")
}

// A million entries of 8 bytes, in chunks of 256 KiB.
func BenchmarkTransfer(b *testing.B) {
	chunk := make([]byte, 256<<10)
	const chunks = 32
	b.Run("to role", func(b *testing.B) {
		k := keep(b, Exec(), Job{Role: "bulk"})
		k.isUp(b)
		b.SetBytes(chunks * int64(len(chunk)))
		b.ReportAllocs()
		for b.Loop() {
			for range chunks {
				if err := k.Conn().Send(17, chunk); err != nil {
					b.Fatal(err)
				}
			}
			k.Conn().Send(17, []byte("count"))
			<-k.got
		}
	})
	b.Run("to main", func(b *testing.B) {
		all := make(chan struct{})
		n := 0
		k := keep(b, Exec(), Job{Role: "bulk", Handle: func(_ *Conn, kind byte, payload []byte) error {
			if n++; n == chunks {
				n = 0
				all <- struct{}{}
			}
			return nil
		}})
		k.isUp(b)
		b.SetBytes(chunks * int64(len(chunk)))
		b.ReportAllocs()
		for b.Loop() {
			k.Conn().Send(17, []byte("send"))
			<-all
		}
	})
}
