package privsep

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// setupWait is how long a role waits for its first message.
const setupWait = 30 * time.Second

// orphanCheck is how often a role checks that main still runs, and orphanWait how long it then has to
// exit by itself: for a role that does not read from main any more.
var orphanCheck, orphanWait = 30 * time.Second, 30 * time.Second

// Body is all that a role does, from its connection to main and its own descriptors to its end. The
// error is why it could not continue; main logs it.
type Body func(conn net.Conn, files []*os.File) error

// ErrEnded is the error of a role that main ended, or that lost main, before there was anything to do.
// A body that returns it has ended as it should.
var ErrEnded = errors.New("ended by main")

// Serve runs the body of a role and does not return, if this process is a role. A program that [Exec]
// starts calls it first of all.
//
// Signals do not end a role: main alone does. pkill(1) and a terminal send them to every process.
func Serve(bodies map[string]Body) {
	role, isRole := strings.CutPrefix(os.Args[0], title)
	if !isRole || len(os.Args) != 1 {
		return
	}
	conn, files, err := inherited()
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: only threatstopd starts it\n", os.Args[0])
		os.Exit(2)
	}
	signal.Ignore(syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2)
	os.Chdir("/")
	body := bodies[role]
	if body == nil {
		body = func(net.Conn, []*os.File) error { return fmt.Errorf("no role %q in this program", Clean(role, maxKey)) }
	}
	parent := os.Getppid()
	go func() {
		for os.Getppid() == parent {
			time.Sleep(orphanCheck)
		}
		time.Sleep(orphanWait)
		os.Exit(exitFailed)
	}()
	if err := body(conn, files); err != nil && !errors.Is(err, ErrEnded) {
		// Main reads it, up to the end of the line.
		os.Stderr.WriteString(Clean(err.Error(), maxReason))
		os.Exit(exitFailed)
	}
	os.Exit(0)
}

// inherited returns the connection to main, and the role's own descriptors: those from 4 on that are
// not closed on exec, as the Go runtime's are.
func inherited() (conn net.Conn, files []*os.File, err error) {
	if _, err := unix.GetsockoptInt(fdMain, unix.SOL_SOCKET, unix.SO_TYPE); err != nil {
		return nil, nil, err
	}
	unix.CloseOnExec(fdMain)
	f := os.NewFile(fdMain, "main")
	defer f.Close()
	if conn, err = net.FileConn(f); err != nil {
		return nil, nil, err
	}
	for fd := fdFiles; fd < maxInherited; fd++ {
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err != nil || flags&unix.FD_CLOEXEC != 0 {
			break
		}
		unix.CloseOnExec(fd)
		files = append(files, os.NewFile(uintptr(fd), fmt.Sprintf("descriptor %d", fd)))
	}
	return conn, files, nil
}

// Worker is a role's end of its connection to main. It answers pings, carries log events to main, and
// ends when main asks for it or is gone.
type Worker struct{ *Conn }

// NewWorker returns the role's end of conn, which takes the given messages.
func NewWorker(conn net.Conn, takes Limits) *Worker {
	return &Worker{NewConn(conn, withOwn(takes, Limits{kindPing: 0, kindEnd: 0}))}
}

// next returns the next message of the role's protocol, or [ErrEnded].
func (w *Worker) next() (kind byte, payload []byte, err error) {
	for {
		kind, payload, err = w.Conn.Next()
		if err == nil && kind == kindPing {
			if err = w.Send(kindPong, nil); err == nil {
				continue
			}
		}
		if gone(err) || err == nil && kind == kindEnd {
			err = ErrEnded
		}
		return kind, payload, err
	}
}

// Setup waits up to 30 seconds for the first message, which must be of the given kind, and reads its
// JSON. It precedes Run. The error is [ErrEnded] if main ends the role instead.
func (w *Worker) Setup(kind byte, into any) error {
	w.conn.SetReadDeadline(time.Now().Add(setupWait))
	defer w.conn.SetReadDeadline(time.Time{})
	got, payload, err := w.next()
	if err == nil && got != kind {
		err = fmt.Errorf("message of kind %d, not %d", got, kind)
	}
	if err == nil {
		err = Unmarshal(payload, into)
	}
	if err != nil && err != ErrEnded {
		err = fmt.Errorf("setup: %w", err)
	}
	return err
}

// Ready reports to main, once, that the role is confined and at work.
func (w *Worker) Ready() error { return w.Send(kindReady, nil) }

// Run passes each message of main to handle until main ends the role or is gone, or ctx ends; then it
// returns nil. It returns the error of handle, or that of a message that is not taken.
func (w *Worker) Run(ctx context.Context, handle func(kind byte, payload []byte) error) error {
	stop := context.AfterFunc(ctx, func() { w.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	for {
		kind, payload, err := w.next()
		switch {
		case err == ErrEnded, ctx.Err() != nil:
			return nil
		case err != nil:
			return fmt.Errorf("message of main: %w", err)
		}
		if err := handle(kind, payload); err != nil {
			return err
		}
	}
}

// Log returns a logger whose events main logs as this role's, with its own time.
func (w *Worker) Log() zerolog.Logger { return zerolog.New(events{w.Conn}) }

// events makes each log event a message.
type events struct{ conn *Conn }

func (e events) Write(p []byte) (int, error) { return e.WriteLevel(zerolog.NoLevel, p) }

// WriteLevel sends an event. One that is too long is replaced by its level and length.
func (e events) WriteLevel(level zerolog.Level, p []byte) (int, error) {
	event := bytes.TrimSuffix(p, []byte("\n"))
	if len(event) > maxLog {
		event = fmt.Appendf(nil, `{"level":%q,"bytes":%d,"message":"log event left out: too long"}`, level, len(event))
	}
	// When main is gone zerolog need not complain.
	if err := e.conn.Send(kindLog, event); err != nil && !gone(err) {
		return 0, err
	}
	return len(p), nil
}
