package dnsfetch

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// maxMessage is the longest message that the length prefix of DNS/TCP can announce.
const maxMessage = 65535

// bufLen leaves room for the longest message behind most of another one.
const bufLen = 2 * (2 + maxMessage)

var buffers = sync.Pool{New: func() any { return new([bufLen]byte) }}

// conn is a connection to a policy server. It is used by one goroutine.
type conn struct {
	nc       net.Conn
	ep       endpoint
	stop     func() bool // ends the watch on the context
	buf      *[bufLen]byte
	r, w     int // what was received and not yet handed out is buf[r:w]
	sent     int // queries since it was opened
	answered int // answers since it was opened
	used     int // answers since it was last taken up
	idle     time.Time
}

// dial connects to ep within timeout.
func dial(ctx context.Context, ep endpoint, o *Options, timeout time.Duration) (*conn, error) {
	d := net.Dialer{Timeout: timeout, KeepAlive: -1}
	if o.Source.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(addrPort(o.Source, 0))
	}
	nc, err := d.DialContext(ctx, "tcp", ep.addr.String())
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if isTimeout(err) {
			return nil, fmt.Errorf("%w: %w: no answer within %v", ErrConnect, ErrTimeout, timeout)
		}
		// The addresses that OpError puts in front stand in our own message.
		if op := (*net.OpError)(nil); errors.As(err, &op) {
			err = op.Err
		}
		return nil, fmt.Errorf("%w: %w", ErrConnect, err)
	}
	return &conn{nc: nc, ep: ep, buf: buffers.Get().(*[bufLen]byte)}, nil
}

// watch makes the end of ctx end whatever c waits for.
func (c *conn) watch(ctx context.Context) {
	c.used = 0
	c.stop = context.AfterFunc(ctx, func() { c.nc.SetDeadline(time.Unix(1, 0)) })
}

// unwatch undoes watch. It reports false when the context has ended, and the connection is of
// no more use.
func (c *conn) unwatch() bool { return c.stop() }

func (c *conn) close() {
	c.nc.Close()
	if c.stop != nil {
		c.stop()
	}
	if c.buf != nil {
		buffers.Put(c.buf)
		c.buf = nil
	}
}

// unread returns how many bytes were received that no message has been made of.
func (c *conn) unread() int { return c.w - c.r }

// send writes queries, which are framed already.
func (c *conn) send(ctx context.Context, queries []byte, n int, timeout time.Duration) error {
	c.sent += n
	if err := c.nc.SetWriteDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	// The watch may have set its deadline before ours.
	if ctx.Err() != nil {
		return ctx.Err()
	}
	_, err := c.nc.Write(queries)
	return err
}

// next returns the next message, which has to arrive whole within timeout. It is valid until
// the next call.
func (c *conn) next(ctx context.Context, timeout time.Duration) ([]byte, error) {
	armed := false
	for {
		need := 2
		if c.unread() >= 2 {
			need += int(binary.BigEndian.Uint16(c.buf[c.r:]))
			if c.unread() >= need {
				msg := c.buf[c.r+2 : c.r+need]
				c.r += need
				c.answered++
				c.used++
				return msg, nil
			}
		}
		if c.unread() == 0 {
			c.r, c.w = 0, 0
		} else if c.r+need > bufLen {
			copy(c.buf[:], c.buf[c.r:c.w])
			c.r, c.w = 0, c.unread()
		}
		// Once for all of the message: a server that sends a byte now and then does not get
		// more time.
		if !armed {
			armed = true
			if err := c.nc.SetReadDeadline(time.Now().Add(timeout)); err != nil {
				return nil, err
			}
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
		}
		n, err := c.nc.Read(c.buf[c.w:])
		c.w += n
		if n == 0 && err != nil {
			return nil, err
		}
	}
}

func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}
