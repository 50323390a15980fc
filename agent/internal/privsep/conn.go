package privsep

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"sync"
	"time"

	"example.org/threatstopd/agent/internal/frame"
)

// Kinds of frames up to and with lastOwn are this package's; what a role and main
// have to say to each other begins at FirstKind.
const (
	kindLog    = 1 // role to main: a log event, one JSON object
	kindPing   = 2 // main to role: 8 bytes of its choice
	kindPong   = 3 // role to main: the same 8 bytes
	kindReady  = 4 // role to main: confined and at work
	kindFailed = 5 // role to main: why it ends, as text
	kindEnd    = 6 // main to role: finish and go

	lastOwn = 15
)

// FirstKind is the lowest kind that a role's protocol may use.
const FirstKind = lastOwn + 1

const (
	maxLog    = 4 << 10 // bytes of a log event
	maxReason = 1 << 10 // bytes of why a role ended
	pingLen   = 8
)

// sendWait is how long a peer may leave what it was sent unread.
const sendWait = 30 * time.Second

// ErrNotRead: the peer did not read what it was sent within 30 seconds.
var ErrNotRead = errors.New("does not read what it is sent")

// Conn carries frames both ways between main and a role.
//
// Sending is safe for concurrent use. Reading is for one goroutine.
type Conn struct {
	conn  net.Conn
	r     *frame.Reader
	takes frame.Limits

	mu     sync.Mutex // one frame at a time
	header [frame.HeaderLen]byte
	broken error // a frame was begun and not finished, or the connection is gone
}

// NewConn returns a Conn over c that takes frames of the kinds in takes, each up to its
// length. The Conn closes c.
func NewConn(c net.Conn, takes frame.Limits) *Conn {
	return &Conn{conn: c, r: frame.NewReader(c, takes), takes: maps.Clone(takes)}
}

// Send writes one frame. It waits until the peer (or the socket's buffer) has taken it,
// 30 seconds at most; then the error is [ErrNotRead] and the Conn, cut in the middle of a
// frame, is closed.
func (c *Conn) Send(kind byte, payload []byte) error {
	return c.send(kind, payload, sendWait)
}

func (c *Conn) send(kind byte, payload []byte, wait time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.broken != nil {
		return c.broken
	}
	frame.PutHeader(&c.header, kind, len(payload))
	// Header and payload in one call where the system has it (writev), so that
	// chunks of lists are not copied once more.
	parts := net.Buffers{c.header[:], payload}
	if len(payload) <= smallPayload {
		// One piece is less work than two.
		parts = net.Buffers{append(c.header[:frame.HeaderLen:frame.HeaderLen], payload...)}
	}
	c.conn.SetWriteDeadline(time.Now().Add(wait))
	if _, err := parts.WriteTo(c.conn); err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = ErrNotRead
		}
		c.broken = err
		c.conn.Close()
		return err
	}
	return nil
}

const smallPayload = 4 << 10

// isBroken tells whether sending ended with this error.
func (c *Conn) isBroken(err error) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.broken == err
}

// SendJSON sends v as a frame of one JSON value.
func (c *Conn) SendJSON(kind byte, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("message of kind %d: %w", kind, err)
	}
	return c.Send(kind, b)
}

// Next returns the next frame; its payload is valid until the following call. Its errors
// are those of [frame.Reader.Next].
func (c *Conn) Next() (kind byte, payload []byte, err error) { return c.r.Next() }

// Close closes the connection. A Send or Next that waits returns with an error.
func (c *Conn) Close() error { return c.conn.Close() }

// Unmarshal reads one JSON value out of the payload of a frame: fields that into does
// not have, and anything behind the value, are errors.
func Unmarshal(payload []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(payload))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("json: something follows the value")
	}
	return nil
}

// pingPayload numbers pings, so that a pong that nobody asked for is noticed.
func pingPayload(n uint64) []byte {
	return binary.BigEndian.AppendUint64(make([]byte, 0, pingLen), n)
}
