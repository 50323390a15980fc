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
	"slices"
	"syscall"
	"time"
)

// Kinds below FirstKind are this package's; those of a role's own protocol begin there.
const (
	kindLog   = 1 // role to main: a log event, one JSON object
	kindPing  = 2 // main to role
	kindPong  = 3 // role to main: the answer to a ping
	kindReady = 4 // role to main: confined and at work
	kindEnd   = 5 // main to role: finish and exit

	FirstKind = 16
)

const (
	headerLen = 5        // of a message
	maxLog    = 16 << 10 // bytes of a log event
	maxReason = 1 << 10  // bytes of the reason why a role ended

	// sendWait is how long a peer may leave unread what it was sent.
	sendWait = 30 * time.Second
)

// Limits has the kinds of message that a [Conn] takes, each with its longest payload in bytes.
type Limits map[byte]int

var (
	// ErrMessage matches the error of a message that is not taken. The Conn is of no further use.
	ErrMessage = errors.New("message refused")
	// ErrNotRead is the error of a message that the peer did not read within 30 seconds.
	ErrNotRead = errors.New("does not read what it is sent")
	// ErrDown is the error of a message to a peer that is not there.
	ErrDown = errors.New("not running")
)

// Conn carries messages both ways between main and a role. Send may be called by several goroutines,
// Next by one. Nothing can be sent over a nil Conn.
type Conn struct {
	conn  net.Conn
	takes Limits
	buf   []byte // the payload that Next returned last

	sending chan struct{} // full while one message is sent
	broken  error         // why no more can be sent
}

// NewConn returns a Conn over c that takes the given messages. The Conn closes c.
func NewConn(c net.Conn, takes Limits) *Conn {
	return &Conn{conn: c, takes: takes, sending: make(chan struct{}, 1)}
}

// Send writes one message. It waits up to 30 seconds for the peer, or the socket's buffer, to take it;
// then it closes the Conn, which was cut within a message, and returns [ErrNotRead]. It returns
// [ErrDown] when the peer is gone.
func (c *Conn) Send(kind byte, payload []byte) error { return c.send(kind, payload, sendWait) }

func (c *Conn) send(kind byte, payload []byte, wait time.Duration) error {
	if c == nil {
		return ErrDown
	}
	c.sending <- struct{}{}
	defer func() { <-c.sending }()
	if c.broken != nil {
		return c.broken
	}
	header := append(binary.BigEndian.AppendUint32(nil, uint32(len(payload))), kind)
	parts := net.Buffers{header, payload} // one writev(2)
	c.conn.SetWriteDeadline(time.Now().Add(wait))
	if _, err := parts.WriteTo(c.conn); err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = ErrNotRead
		} else if gone(err) {
			err = ErrDown
		}
		c.broken = err
		c.conn.Close()
		return err
	}
	return nil
}

// SendJSON sends v as a message of one JSON value.
func (c *Conn) SendJSON(kind byte, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("message of kind %d: %w", kind, err)
	}
	return c.Send(kind, b)
}

// Next returns the next message; its payload is valid until the following call. The error is io.EOF at
// the end of a stream of whole messages and io.ErrUnexpectedEOF at any other end, matches [ErrMessage]
// for a message that is not taken, or is that of the connection.
func (c *Conn) Next() (kind byte, payload []byte, err error) {
	var header [headerLen]byte
	if _, err := io.ReadFull(c.conn, header[:]); err != nil {
		return 0, nil, err
	}
	n, kind := int64(binary.BigEndian.Uint32(header[:])), header[4]
	most, ok := c.takes[kind]
	switch {
	case !ok:
		return 0, nil, fmt.Errorf("%w: unknown kind %d", ErrMessage, kind)
	case n > int64(most):
		return 0, nil, fmt.Errorf("%w: %d bytes of kind %d, at most %d are taken", ErrMessage, n, kind, most)
	}
	c.buf = slices.Grow(c.buf[:0], int(n))[:n]
	if _, err = io.ReadFull(c.conn, c.buf); err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return kind, c.buf, err
}

// Close closes the connection. A Send or Next that waits returns an error.
func (c *Conn) Close() error { return c.conn.Close() }

// withOwn returns the limits of a role's protocol together with those of this package's kinds.
func withOwn(takes, own Limits) Limits {
	all := maps.Clone(own)
	for kind, most := range takes {
		if kind < FirstKind {
			panic(fmt.Sprintf("privsep: kind %d is not for protocols", kind))
		}
		all[kind] = most
	}
	return all
}

// gone reports whether an error means that the other end is closed.
func gone(err error) bool {
	ends := []error{io.EOF, ErrDown, io.ErrClosedPipe, net.ErrClosed, syscall.EPIPE, syscall.ECONNRESET}
	return slices.ContainsFunc(ends, func(end error) bool { return errors.Is(err, end) })
}

// Unmarshal reads one JSON value from the payload of a message. Fields that into does not have, and
// anything after the value, are errors.
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
