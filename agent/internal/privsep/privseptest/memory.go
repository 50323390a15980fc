package privseptest

import (
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// Buffer is how many bytes of each direction wait to be read: as much as a
// socketpair of this package has.
const Buffer = 256 << 10

// Pipe returns the ends of a connection within the process. Unlike those of
// net.Pipe its ends have a buffer, as sockets do: what is written there without waiting
// must not deadlock here. It waits on nothing but locks and timers, so it works inside a
// testing/synctest bubble.
func Pipe() (a, b net.Conn) {
	one, two := newHalf(), newHalf()
	return &memoryConn{in: one, out: two}, &memoryConn{in: two, out: one}
}

// half is one direction.
type half struct {
	mu   sync.Mutex
	some *sync.Cond // something changed
	buf  []byte
	off  int // of buf so much is read
	// The writer is done; the reader is.
	written, read bool
	readBy        deadline
	writeBy       deadline
}

func newHalf() *half {
	h := &half{}
	h.some = sync.NewCond(&h.mu)
	h.readBy.half, h.writeBy.half = h, h
	return h
}

// waiting is how many bytes wait to be read.
func (h *half) waiting() int { return len(h.buf) - h.off }

// deadline wakes those who wait on its half.
type deadline struct {
	half  *half
	timer *time.Timer
	past  bool
	set   uint64 // which deadline it is: a timer of an earlier one has no say
}

// at sets the deadline; the half's lock is held.
func (d *deadline) at(t time.Time) {
	d.set++
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.past = false
	if t.IsZero() {
		return
	}
	wait := time.Until(t)
	if wait <= 0 {
		d.past = true
		d.half.some.Broadcast()
		return
	}
	set := d.set
	d.timer = time.AfterFunc(wait, func() {
		d.half.mu.Lock()
		defer d.half.mu.Unlock()
		if d.set == set {
			d.past = true
			d.half.some.Broadcast()
		}
	})
}

type memoryConn struct{ in, out *half }

func (c *memoryConn) Read(p []byte) (int, error) {
	h := c.in
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case h.read:
			return 0, io.ErrClosedPipe
		case h.readBy.past:
			return 0, os.ErrDeadlineExceeded
		case len(p) == 0:
			return 0, nil
		case h.waiting() > 0:
			n := copy(p, h.buf[h.off:])
			if h.off += n; h.off == len(h.buf) {
				h.buf, h.off = h.buf[:0], 0
			}
			h.some.Broadcast()
			return n, nil
		case h.written:
			return 0, io.EOF
		}
		h.some.Wait()
	}
}

func (c *memoryConn) Write(p []byte) (n int, err error) {
	h := c.out
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case h.written, h.read:
			return n, io.ErrClosedPipe
		case h.writeBy.past:
			return n, os.ErrDeadlineExceeded
		case n == len(p):
			return n, nil
		}
		if room := Buffer - h.waiting(); room > 0 {
			part := p[n:min(n+room, len(p))]
			if h.off > Buffer { // seldom enough
				h.buf = append(h.buf[:0], h.buf[h.off:]...)
				h.off = 0
			}
			h.buf = append(h.buf, part...)
			n += len(part)
			h.some.Broadcast()
			continue
		}
		h.some.Wait()
	}
}

func (c *memoryConn) Close() error {
	for _, h := range []*half{c.in, c.out} {
		h.mu.Lock()
		if h == c.in {
			h.read = true
			h.buf, h.off = nil, 0
			h.readBy.at(time.Time{})
		} else {
			h.written = true
			h.writeBy.at(time.Time{})
		}
		h.some.Broadcast()
		h.mu.Unlock()
	}
	return nil
}

func (c *memoryConn) SetReadDeadline(t time.Time) error {
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	c.in.readBy.at(t)
	return nil
}

func (c *memoryConn) SetWriteDeadline(t time.Time) error {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	c.out.writeBy.at(t)
	return nil
}

func (c *memoryConn) SetDeadline(t time.Time) error {
	c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

func (*memoryConn) LocalAddr() net.Addr  { return memoryAddr{} }
func (*memoryConn) RemoteAddr() net.Addr { return memoryAddr{} }

type memoryAddr struct{}

func (memoryAddr) Network() string { return "memory" }
func (memoryAddr) String() string  { return "memory" }
