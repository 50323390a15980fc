package status

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"

	"example.org/threatstopd/agent/internal/privsep"
)

// ErrNotRunning is that no daemon answers.
var ErrNotRunning = errors.New("threatstopd is not running: `rcctl start threatstopd` starts it")

// restart is what to do when this program and the daemon do not understand each other.
const restart = "`rcctl restart threatstopd` starts a daemon of this version"

const (
	statusTime = 10 * time.Second // how long a daemon may take over its status
	maxStatus  = 4 * MaxEncoded   // bytes of a status: indented, and with hits and uploads
	maxEvent   = 64 << 10         // bytes of a line of a sync
	maxRefusal = 500              // bytes that are shown of a refusal
)

// A Client is a connection to a daemon, for one request. It ends with the request.
type Client struct {
	conn net.Conn
	path string
}

// Dial connects to the first of the sockets that has a listener. The error is, or wraps, ErrNotRunning when
// none has, and fs.ErrPermission when there may be one that the caller may not connect to.
func Dial(ctx context.Context, paths ...string) (*Client, error) {
	failed := ErrNotRunning
	for _, path := range paths {
		conn, err := connect(ctx, path)
		switch {
		case err == nil:
			return &Client{conn: conn, path: path}, nil
		case errors.Is(err, fs.ErrPermission):
			failed = fmt.Errorf("unix socket %s: %w: only root, wheel and, for the status, STATUS_GROUP may ask", path, fs.ErrPermission)
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		case failed == ErrNotRunning:
			failed = fmt.Errorf("unix socket %s: %w", path, cause(err))
		}
	}
	return nil, failed
}

// Close ends the connection. It is needed only where no request is made.
func (c *Client) Close() error { return c.conn.Close() }

// do makes the request and hands the body of a 200 to take. There is no http.Transport: the
// connection exists, and reading the answer directly opens nothing and starts nothing.
func (c *Client) do(ctx context.Context, method, target string, take func(body *bufio.Reader) error) error {
	defer c.conn.Close()
	stop := context.AfterFunc(ctx, func() { c.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	// A daemon that has no place for this client answers and closes at once: then its answer
	// counts, and not that it did not take the request.
	_, writeErr := io.WriteString(c.conn, method+" "+target+" HTTP/1.1\r\nHost: threatstopd\r\nConnection: close\r\n\r\n")
	in := bufio.NewReader(io.LimitReader(c.conn, 4*maxStatus))
	if b, err := in.Peek(2); err != nil {
		return c.failed(ctx, errors.Join(err, writeErr))
	} else if string(b) == "TS" {
		return fmt.Errorf("unix socket %s: the daemon is older than this program: %s", c.path, restart)
	}
	resp, err := http.ReadResponse(in, &http.Request{Method: method})
	if err != nil {
		return c.failed(ctx, fmt.Errorf("not an answer of threatstopd: %s: %w", restart, err))
	}
	defer resp.Body.Close()
	body := bufio.NewReaderSize(resp.Body, maxEvent)
	if resp.StatusCode != http.StatusOK {
		why, _ := io.ReadAll(io.LimitReader(body, maxRefusal))
		return fmt.Errorf("unix socket %s: %s: %s", c.path, printable(resp.Status), printable(strings.TrimSpace(string(why))))
	}
	if err := take(body); err != nil {
		return c.failed(ctx, err)
	}
	return nil
}

// failed is the error for an answer that did not come, or not to its end.
func (c *Client) failed(ctx context.Context, err error) error {
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded), ctx.Err() == nil && errors.Is(err, os.ErrDeadlineExceeded):
		err = errors.New("the daemon does not answer")
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		err = errors.New("the daemon closed the connection before the end of its answer: run it again")
	default:
		err = errors.New(printable(err.Error()))
	}
	return fmt.Errorf("unix socket %s: %w", c.path, err)
}

// Status asks for the status. It waits ten seconds at most.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	ctx, cancel := context.WithTimeout(ctx, statusTime)
	defer cancel()
	var s *Status
	err := c.do(ctx, http.MethodGet, "/status", func(body *bufio.Reader) error {
		b, err := io.ReadAll(io.LimitReader(body, maxStatus+1))
		if err == nil && len(b) > maxStatus {
			err = fmt.Errorf("status: more than %d bytes", maxStatus)
		}
		if err == nil {
			s, err = Decode(b)
		}
		return err
	})
	return s, err
}

// Sync has the daemon fetch the policy and enforce it. say takes each line of progress; those
// with warn belong on standard error. exit is the exit status of threatstopd --sync-now; it
// counts when err is nil. When ctx ends the daemon continues.
func (c *Client) Sync(ctx context.Context, force bool, say func(line string, warn bool)) (exit int, err error) {
	target := "/sync"
	if force {
		target += "?force=1"
	}
	err = c.do(ctx, http.MethodPost, target, func(body *bufio.Reader) error {
		for {
			line, err := body.ReadSlice('\n')
			if errors.Is(err, bufio.ErrBufferFull) {
				return fmt.Errorf("sync: a line of more than %d bytes", maxEvent)
			}
			var e Event
			if err == nil {
				err = json.Unmarshal(line, &e)
			}
			switch {
			case err != nil:
				return fmt.Errorf("sync: %w", err)
			case e.Exit == nil:
				say(printable(e.Text), e.Warn)
			case *e.Exit < 0 || *e.Exit > 255:
				return fmt.Errorf("sync: exit status %d", *e.Exit)
			default:
				exit = *e.Exit
				return nil
			}
		}
	})
	return exit, err
}

// printable is one line of a daemon's answer, fit for a terminal.
func printable(s string) string { return privsep.Clean(s, maxEvent) }
