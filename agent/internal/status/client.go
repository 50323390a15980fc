package status

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"

	"example.org/threatstopd/agent/internal/frame"
)

// ErrNotRunning is that no daemon answers.
var ErrNotRunning = errors.New("threatstopd is not running: `rcctl start threatstopd` starts it")

// statusTime is how long a daemon may take over its status.
const statusTime = 10 * time.Second

// A Client is a connection to a daemon, for one request. It ends with the request.
type Client struct {
	conn net.Conn
	path string
}

// Dial connects to the first of the sockets that somebody listens on. The error is, or
// wraps, ErrNotRunning when there is none, and fs.ErrPermission when there may be one that
// the caller may not talk to.
func Dial(ctx context.Context, paths ...string) (*Client, error) {
	var refused, failed error
	for _, path := range paths {
		conn, err := connect(ctx, path)
		switch {
		case err == nil:
			return &Client{conn: conn, path: path}, nil
		case errors.Is(err, fs.ErrPermission):
			refused = fmt.Errorf("unix socket %s: %w: only root, wheel and, for the status, STATUS_GROUP may ask", path, fs.ErrPermission)
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		case failed == nil:
			failed = fmt.Errorf("unix socket %s: %w", path, cause(err))
		}
	}
	switch {
	case refused != nil:
		return nil, refused
	case failed != nil:
		return nil, failed
	}
	return nil, ErrNotRunning
}

// Close ends the connection. It is needed only where no request is made.
func (c *Client) Close() error { return c.conn.Close() }

// ask makes the request, and hands each answer to take, which returns true for the last.
func (c *Client) ask(ctx context.Context, kind byte, payload []byte, take func(kind byte, payload []byte) (last bool, err error)) error {
	defer c.conn.Close()
	stop := context.AfterFunc(ctx, func() { c.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	// A daemon that has no time for us says so and closes: that counts, then, not
	// that it did not take the request.
	writeErr := frame.Write(c.conn, kind, payload)
	answer := frame.NewReader(c.conn, answers)
	for {
		kind, payload, err := answer.Next()
		if err != nil {
			return c.failed(ctx, err, writeErr)
		}
		if kind == sayError {
			return fmt.Errorf("threatstopd: %s", printable(string(payload)))
		}
		last, err := take(kind, payload)
		if err != nil {
			return fmt.Errorf("unix socket %s: %w", c.path, err)
		}
		if last {
			return nil
		}
	}
}

// failed says what it means that there is no answer.
func (c *Client) failed(ctx context.Context, err, writeErr error) error {
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Errorf("unix socket %s: the daemon does not answer", c.path)
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, frame.ErrVersion):
		return fmt.Errorf("unix socket %s: the daemon is of another version than this program (%w): `rcctl restart threatstopd` starts the new one", c.path, err)
	case errors.Is(err, frame.ErrNotFrame), errors.Is(err, frame.ErrKind), errors.Is(err, frame.ErrTooLong):
		return fmt.Errorf("unix socket %s: is not answered by threatstopd: %w", c.path, err)
	case writeErr != nil:
		return fmt.Errorf("unix socket %s: the daemon ended the connection: %w", c.path, cause(writeErr))
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET):
		return fmt.Errorf("unix socket %s: the daemon ended the connection before it had answered", c.path)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("unix socket %s: the daemon does not answer", c.path)
	}
	return fmt.Errorf("unix socket %s: %w", c.path, cause(err))
}

func unexpected(kind byte, payload []byte) error {
	return fmt.Errorf("unexpected answer of kind %d with %d bytes", kind, len(payload))
}

// Status asks for the status. It waits ten seconds at most.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	ctx, cancel := context.WithTimeout(ctx, statusTime)
	defer cancel()
	var s *Status
	err := c.ask(ctx, askStatus, nil, func(kind byte, payload []byte) (bool, error) {
		if kind != sayStatus {
			return false, unexpected(kind, payload)
		}
		var err error
		s, err = decodeStatus(payload)
		return true, err
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

func decodeStatus(b []byte) (*Status, error) {
	s := new(Status)
	if err := json.Unmarshal(b, s); err != nil {
		return nil, fmt.Errorf("status: %w", err)
	}
	if s.Format != StatusFormat {
		return nil, fmt.Errorf("status of format %d, this program knows %d: `rcctl restart threatstopd` starts a daemon of this version", s.Format, StatusFormat)
	}
	return s, nil
}

// Sync has the daemon fetch the policy and enforce it. say is told how it goes, a line at a
// time; warn is for what belongs on standard error. exit is what threatstopd --sync-now
// ends with; it counts when err is nil. When ctx ends the daemon goes on all the same.
func (c *Client) Sync(ctx context.Context, force bool, say func(line string, warn bool)) (exit int, err error) {
	flags := []byte{0}
	if force {
		flags[0] = askForce
	}
	err = c.ask(ctx, askSync, flags, func(kind byte, payload []byte) (bool, error) {
		switch {
		case kind == sayLine && len(payload) > 0:
			say(printable(string(payload[1:])), payload[0]&lineWarn != 0)
			return false, nil
		case kind == sayDone && len(payload) > 0:
			exit = int(payload[0])
			return true, nil
		}
		return false, unexpected(kind, payload)
	})
	return exit, err
}

// Flush has the daemon deliver the hits that wait. It returns nil when they are
// delivered. The daemon stops trying when ctx ends.
func (c *Client) Flush(ctx context.Context) error {
	var refused error
	err := c.ask(ctx, askFlush, nil, func(kind byte, payload []byte) (bool, error) {
		if kind != sayDone || len(payload) == 0 {
			return false, unexpected(kind, payload)
		}
		if payload[0] != 0 {
			refused = errors.New(printable(string(payload[1:])))
		}
		return true, nil
	})
	return errors.Join(err, refused)
}
