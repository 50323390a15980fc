package privsep

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Descriptors of a role, besides 0 and 1, which are /dev/null.
const (
	fdStderr = 2 // a pipe to main
	fdMain   = 3 // the connection to main
	fdFiles  = 4 // the first that is the role's own
)

// maxInherited bounds the descriptors looked at, here and in a role.
const maxInherited = 1024

// title is what argv[0] of a role begins with: it shows in ps(1), and is no match for
// the pattern by which rc.d(8) knows main.
const title = "threatstopd: "

// socketBuffer is how much of a socketpair may be unread.
const socketBuffer = 256 << 10

// Exec returns the Starter that executes this program again for each role. It is called
// before the process confines itself, for it finds the program's path and opens
// /dev/null; an error of that is one of Start. From the first Start on no program that this
// process starts inherits a descriptor unless it is meant to.
//
// Start needs, of pledge(2), "stdio unix proc exec", and of unveil(2) the program "x" and
// the dynamic linker "r".
func Exec() Starter {
	e := &execute{}
	if e.path, e.err = os.Executable(); e.err != nil {
		e.err = fmt.Errorf("where this program is: %w", e.err)
		return e
	}
	if e.null, e.err = os.OpenFile(os.DevNull, os.O_RDWR, 0); e.err != nil {
		return e
	}
	if zone, ok := os.LookupEnv("TZ"); ok {
		e.env = []string{"TZ=" + zone}
	}
	return e
}

// Program returns the path of the program that [Exec] starts, for the table of what main may see. Empty
// when s is another Starter.
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

	once sync.Once // keepBack
}

// keepBack sees to it that what the shell or rc.d left open is not for the roles.
func keepBack() {
	for fd := fdStderr + 1; fd < maxInherited; fd++ {
		syscall.CloseOnExec(fd)
	}
}

func (e *execute) Start(role string, files []*os.File) (Child, error) {
	defer closeAll(files)
	if e.err != nil {
		return nil, e.err
	}
	e.once.Do(keepBack)
	ours, theirs, err := socketpair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	says, stderr, err := os.Pipe()
	if err != nil {
		ours.Close()
		return nil, err
	}
	defer stderr.Close()
	// Told apart from the death of another child by asking for this one.
	died := make(chan os.Signal, 1)
	signal.Notify(died, syscall.SIGCHLD)
	fds := []uintptr{e.null.Fd(), e.null.Fd(), stderr.Fd(), theirs.Fd()}
	for _, f := range files {
		fds = append(fds, f.Fd())
	}
	// Not os.StartProcess: its Process can be waited for or killed, but not so that
	// a kill never hits another process that got the number meanwhile.
	pid, err := syscall.ForkExec(e.path, []string{title + role}, &syscall.ProcAttr{Env: e.env, Files: fds})
	if err != nil {
		signal.Stop(died)
		ours.Close()
		says.Close()
		return nil, fmt.Errorf("%s: %w", e.path, err)
	}
	p := &process{pid: pid, conn: ours, ended: make(chan struct{})}
	p.listen.Go(func() { p.hear(says) })
	go p.reap(died, says)
	return p, nil
}

// socketpair returns the two ends of a connection: main's, and the role's as a file.
func socketpair() (ours net.Conn, theirs *os.File, err error) {
	// One of the systems that this runs on has no SOCK_CLOEXEC.
	syscall.ForkLock.RLock()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(fds[0])
		syscall.CloseOnExec(fds[1])
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	for _, fd := range fds {
		// A smaller buffer works as well.
		syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_SNDBUF, socketBuffer)
		syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_RCVBUF, socketBuffer)
	}
	theirs = os.NewFile(uintptr(fds[1]), "role")
	f := os.NewFile(uintptr(fds[0]), "main")
	defer f.Close()
	if ours, err = net.FileConn(f); err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return ours, theirs, nil
}

// process is a role that was executed.
type process struct {
	pid    int
	conn   net.Conn
	listen sync.WaitGroup
	ended  chan struct{}
	err    error

	mu      sync.Mutex
	gone    bool // the number is another's from now on
	tooMuch bool

	said excerpt
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

// reap waits for the end of the process. It asks without waiting whenever some child
// died, under the lock that Kill takes: a wait that blocks would set the number free
// before Kill could know.
func (p *process) reap(died chan os.Signal, says *os.File) {
	var status syscall.WaitStatus
	var err error
	for {
		p.mu.Lock()
		var pid int
		for {
			if pid, err = syscall.Wait4(p.pid, &status, syscall.WNOHANG, nil); err != syscall.EINTR {
				break
			}
		}
		p.gone = pid == p.pid || err != nil
		gone := p.gone
		p.mu.Unlock()
		if gone {
			break
		}
		<-died
	}
	signal.Stop(died)
	// Its last words are in the pipe; whoever else holds the other end is not waited for.
	says.SetReadDeadline(time.Now().Add(drainWait))
	p.listen.Wait()
	p.err = p.reason(status, err)
	close(p.ended)
}

// reason puts the end of a process into words.
func (p *process) reason(status syscall.WaitStatus, err error) error {
	var how string
	switch {
	case err != nil:
		how = "gone: " + err.Error()
	case p.tooMuch:
		return fmt.Errorf("misbehaved, killed: more than %d bytes on standard error: %s", maxSaid, p.said.String())
	case status.Signaled():
		switch s := status.Signal(); s {
		case syscall.SIGKILL:
			how = "killed"
		case syscall.SIGABRT:
			// What the kernel does to a process that breaks its promises. A
			// crash of the Go runtime ends with exit status 2.
			how = "SIGABRT, pledge violation?"
		default:
			how = signalName(s)
		}
	case status.ExitStatus() != 0:
		how = fmt.Sprintf("exit status %d", status.ExitStatus())
	default:
		return nil
	}
	if text := p.said.String(); text != "" {
		how += ": " + text
	}
	return errors.New(how)
}

var signalNames = map[syscall.Signal]string{
	syscall.SIGSEGV: "SIGSEGV", syscall.SIGBUS: "SIGBUS", syscall.SIGILL: "SIGILL", syscall.SIGTERM: "SIGTERM",
	syscall.SIGSYS: "SIGSYS", syscall.SIGXCPU: "SIGXCPU", syscall.SIGTRAP: "SIGTRAP", syscall.SIGQUIT: "SIGQUIT",
}

func signalName(s syscall.Signal) string {
	if name := signalNames[s]; name != "" {
		return name
	}
	return fmt.Sprintf("signal %d", int(s))
}

// maxSaid is how much a role may write to its standard error; the trace of a crash
// with thousands of goroutines is less.
const maxSaid = 4 << 20

// hear reads what the process writes to its standard error.
func (p *process) hear(says *os.File) {
	defer says.Close()
	b := make([]byte, 4<<10)
	for n := 0; ; {
		m, err := says.Read(b)
		p.said.write(b[:m])
		if n += m; n > maxSaid {
			p.mu.Lock()
			p.tooMuch = true
			p.mu.Unlock()
			p.Kill()
			return
		}
		if err != nil {
			return
		}
	}
}

// excerpt keeps the beginning and the end of what is written to it.
type excerpt struct{ first, last []byte }

const excerptLen = 2 << 10

func (e *excerpt) write(b []byte) {
	n := min(len(b), excerptLen-len(e.first))
	e.first = append(e.first, b[:n]...)
	if b = b[n:]; len(b) == 0 {
		return
	}
	if len(b) > excerptLen {
		b = b[len(b)-excerptLen:]
	}
	e.last = append(e.last, b...)
	if cut := len(e.last) - excerptLen; cut > 0 {
		e.last = append(e.last[:0], e.last[cut:]...)
	}
}

// String returns the first line, and of what follows that line which tells most: for a
// crash of the Go runtime where it happened, else the last.
func (e *excerpt) String() string {
	lines := bytes.Split(bytes.TrimSpace(append(bytes.Clone(e.first), e.last...)), []byte("\n"))
	var kept []string
	for _, line := range lines {
		if text := strings.TrimSpace(string(line)); text != "" {
			kept = append(kept, text)
		}
	}
	switch len(kept) {
	case 0:
		return ""
	case 1:
		return clean(kept[0], maxReason/2)
	}
	return clean(kept[0], maxReason/2) + " … " + clean(where(kept), maxReason/4)
}

// where returns the place, out of the lines of a crash, at which the running goroutine left
// our code for the runtime's; of other lines the last.
func where(lines []string) string {
	running := false
	for _, line := range lines {
		switch {
		case strings.HasSuffix(line, "[running]:"):
			running = true
		case running && strings.Contains(line, ".go:") && !strings.HasPrefix(line, "runtime/") && !strings.Contains(line, "/src/runtime/"):
			place, _, _ := strings.Cut(line, " +0x")
			return place
		}
	}
	return lines[len(lines)-1]
}
