package privsep

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Descriptors of a role, besides 0 and 1, which are /dev/null.
const (
	fdStderr = 2 // a pipe to main
	fdMain   = 3 // the connection to main
	fdFiles  = 4 // the first of the role's own
)

const (
	// maxInherited bounds the descriptors examined here and in a role.
	maxInherited = 1024
	// socketBuffer is how much of a socketpair may be unread.
	socketBuffer = 256 << 10
	// title begins argv[0] of a role: ps(1) shows it, and the pattern by which rc.d(8) finds main does not
	// match it.
	title = "threatstopd: "
)

// Starter starts roles: as processes ([Exec]), or within this one (privseptest.InProcess).
type Starter interface {
	// Start starts a role with files as its descriptors from 4 on. It takes the files over and closes
	// them when they are no longer needed, also when it fails.
	Start(role string, files []*os.File) (Child, error)
}

// Child is a role that runs.
type Child interface {
	// Conn leads to the role. The caller of Start closes it.
	Conn() net.Conn
	// Wait returns when the role is gone: nil if its exit status is 0, else the reason in one line:
	// `SIGABRT, pledge violation?`, `exit status 2: panic: …`, `killed`. It may be called repeatedly.
	Wait() error
	// Kill ends the role at once. It may be called at any time, also afterwards.
	Kill()
}

// Exec returns the Starter that executes this program again for each role. It is called before the
// process confines itself, since it determines the program's path and opens /dev/null; Start returns an
// error of that. From the first Start on, programs inherit only the descriptors that are meant for them.
//
// Start needs the promises "stdio unix proc exec", the program unveiled "x" and ld.so "r".
func Exec() Starter {
	e := &execute{}
	if e.path, e.err = os.Executable(); e.err == nil {
		e.null, e.err = os.OpenFile(os.DevNull, os.O_RDWR, 0)
	}
	if zone, ok := os.LookupEnv("TZ"); ok {
		e.env = []string{"TZ=" + zone}
	}
	return e
}

// Program returns the path of the program that [Exec] starts, and "" for another Starter.
func Program(s Starter) string {
	if e, ok := s.(*execute); ok {
		return e.path
	}
	return ""
}

type execute struct {
	path string
	env  []string
	null *os.File
	err  error
	once sync.Once
}

func (e *execute) Start(role string, files []*os.File) (Child, error) {
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	if e.err != nil {
		return nil, e.err
	}
	// Roles do not inherit what a shell or rc.d left open.
	e.once.Do(func() {
		for fd := fdStderr + 1; fd < maxInherited; fd++ {
			syscall.CloseOnExec(fd)
		}
	})
	ours, theirs, err := socketpair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	p := &process{conn: ours, died: make(chan os.Signal, 1), ended: make(chan struct{})}
	var theirStderr *os.File
	if p.stderr, theirStderr, err = os.Pipe(); err != nil {
		ours.Close()
		return nil, err
	}
	defer theirStderr.Close()
	signal.Notify(p.died, syscall.SIGCHLD)
	fds := []uintptr{e.null.Fd(), e.null.Fd(), theirStderr.Fd(), theirs.Fd()}
	for _, f := range files {
		fds = append(fds, f.Fd())
	}
	// Not os.StartProcess: between its Wait and its Kill the number could become another process's.
	if p.pid, err = syscall.ForkExec(e.path, []string{title + role}, &syscall.ProcAttr{Env: e.env, Files: fds}); err != nil {
		signal.Stop(p.died)
		ours.Close()
		p.stderr.Close()
		return nil, fmt.Errorf("%s: %w", e.path, err)
	}
	go p.reap()
	return p, nil
}

// socketpair returns the two ends of a connection: main's, and the role's as a file.
func socketpair() (ours net.Conn, theirs *os.File, err error) {
	syscall.ForkLock.RLock() // macOS has no SOCK_CLOEXEC
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		syscall.ForkLock.RUnlock()
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	for _, fd := range fds {
		syscall.CloseOnExec(fd)
		// A smaller buffer works as well.
		syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_SNDBUF, socketBuffer)
		syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_RCVBUF, socketBuffer)
	}
	syscall.ForkLock.RUnlock()
	theirs = os.NewFile(uintptr(fds[1]), "role")
	f := os.NewFile(uintptr(fds[0]), "main")
	defer f.Close()
	if ours, err = net.FileConn(f); err != nil {
		theirs.Close()
	}
	return ours, theirs, err
}

// process is a role that was executed.
type process struct {
	pid    int
	conn   net.Conn
	stderr *os.File       // the other end of the role's
	died   chan os.Signal // a child did
	ended  chan struct{}
	err    error

	mu   sync.Mutex
	gone bool // the number may be another process's
}

func (p *process) Conn() net.Conn { return p.conn }

func (p *process) Wait() error {
	<-p.ended
	return p.err
}

func (p *process) Kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.gone {
		syscall.Kill(p.pid, syscall.SIGKILL)
	}
}

// reap waits for the end of the process. It asks without waiting whenever a child died, under the lock
// that Kill takes: a wait that blocks would free the number before Kill could know.
func (p *process) reap() {
	text := make(chan string, 1)
	go func() {
		// A crash of thousands of goroutines is shorter than a few megabytes. After that the pipe is
		// closed, and writing to it ends the role.
		b, _ := io.ReadAll(io.LimitReader(p.stderr, excerptLen))
		io.CopyN(io.Discard, p.stderr, maxSaid)
		p.stderr.Close()
		text <- string(b)
	}()
	var status syscall.WaitStatus
	var err error
	for !p.gone {
		p.mu.Lock()
		pid := 0
		if pid, err = syscall.Wait4(p.pid, &status, syscall.WNOHANG, nil); err != syscall.EINTR {
			p.gone = pid == p.pid || err != nil
		}
		p.mu.Unlock()
		if pid == 0 && err == nil {
			<-p.died
		}
	}
	signal.Stop(p.died)
	// Another process may hold the other end of the pipe.
	p.stderr.SetReadDeadline(time.Now().Add(drainWait))
	p.err = endOf(status, err, <-text)
	close(p.ended)
}

const (
	excerptLen = 8 << 10
	maxSaid    = 4 << 20
	exitFailed = 1 // of a role that wrote the reason to its standard error
)

// endOf returns how a process ended, nil for exit status 0. said is the beginning of what it wrote to
// its standard error.
func endOf(status syscall.WaitStatus, err error, said string) error {
	how := fmt.Sprintf("exit status %d", status.ExitStatus())
	switch sig := status.Signal(); {
	case err != nil:
		how = "gone: " + err.Error()
	case sig == syscall.SIGKILL:
		how = "killed"
	case sig == syscall.SIGABRT:
		// The kernel's answer to a broken promise. The Go runtime ends with exit status 2.
		how = "SIGABRT, pledge violation?"
	case status.Signaled():
		how = unix.SignalName(sig)
	case status.ExitStatus() == exitFailed && said != "":
		return errors.New(Clean(said, maxReason))
	case status.ExitStatus() == 0:
		return nil
	}
	if text := crashExcerpt(said); text != "" {
		how += ": " + text
	}
	return errors.New(how)
}

// crashExcerpt returns the first line of a report of the Go runtime, and the place at which the running
// goroutine left our code for the runtime's.
func crashExcerpt(text string) string {
	first, rest, _ := strings.Cut(strings.TrimSpace(text), "\n")
	first = Clean(strings.TrimSpace(first), maxReason/2)
	_, trace, _ := strings.Cut(rest, "[running]:")
	for line := range strings.Lines(trace) {
		if strings.Contains(line, ".go:") && !strings.Contains(line, "runtime/") {
			place, _, _ := strings.Cut(strings.TrimSpace(line), " +0x")
			return first + " … " + Clean(place, maxReason/4)
		}
	}
	return first
}
