package dnsfetch

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// maxMessage is the longest message that the length prefix of DNS/TCP can announce.
const maxMessage = 65535

// conn is a connection to a policy server.
type conn struct {
	nc       net.Conn
	r        *bufio.Reader // has room for the longest message
	ep       endpoint
	stop     func() bool // ends the watch on the context
	answered int         // answers since it was last taken up
	idle     time.Time   // since when it has not been in use
}

// dial connects to ep within the time-out of o.
func dial(ctx context.Context, ep endpoint, o *Options) (*conn, error) {
	d := net.Dialer{Timeout: o.Timeout, KeepAlive: -1}
	if o.Source.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(o.Source, 0))
	}
	nc, err := d.DialContext(ctx, "tcp", ep.addr.String())
	if err == nil {
		return &conn{nc: nc, r: bufio.NewReaderSize(nc, 2+maxMessage), ep: ep}, nil
	}
	if isTimeout(err) {
		return nil, fmt.Errorf("%w: %w: no answer within %v", ErrConnect, ErrTimeout, o.Timeout)
	}
	// OpError would repeat the addresses, which our own message has.
	if op := (*net.OpError)(nil); errors.As(err, &op) {
		err = op.Err
	}
	return nil, fmt.Errorf("%w: %w", ErrConnect, err)
}

// watch closes the connection when ctx ends.
func (c *conn) watch(ctx context.Context) {
	c.answered = 0
	c.stop = context.AfterFunc(ctx, func() { c.nc.Close() })
}

func (c *conn) close() {
	c.stop()
	c.nc.Close()
}

// send writes queries, which are framed already.
func (c *conn) send(queries []byte, timeout time.Duration) error {
	c.nc.SetWriteDeadline(time.Now().Add(timeout))
	_, err := c.nc.Write(queries)
	return err
}

// next returns the next message. All of it has to arrive within timeout: bytes that trickle in do not
// extend it. The message is valid until the next call.
func (c *conn) next(timeout time.Duration) ([]byte, error) {
	c.nc.SetReadDeadline(time.Now().Add(timeout))
	head, err := c.r.Peek(2)
	if err != nil {
		return nil, err
	}
	n := 2 + int(binary.BigEndian.Uint16(head))
	msg, err := c.r.Peek(n)
	if err != nil {
		return nil, err
	}
	c.r.Discard(n)
	c.answered++
	return msg[2:], nil
}

func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}
