package dnsfetch

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/miekg/dns"
)

const (
	// maxMessage is the longest message that the length prefix of DNS/TCP can announce.
	maxMessage = 65535
	// maxTries is how many connections in a row may break without an answer, the first time included:
	// of a server that has answered, and of one that has not. A server that has given half a list is
	// worth more patience than the next one, which has to give all of it.
	maxTries      = 8
	maxFirstTries = 3
	// firstPause comes before the second connection in a row; each further pause is twice as long.
	firstPause = 50 * time.Millisecond
)

// pipeline is the one connection to a server. Up to window queries are under way on it.
//
// Servers differ in how many queries they take on a connection, and whether several at a time, and
// some close the connection, or do not answer what came early. So a connection that breaks is
// replaced and its questions are asked again, no more at a time than the server answered on the
// connection that broke. Answers count as progress; tries and time without progress are limited.
type pipeline struct {
	nc       net.Conn // nil: none
	r        *bufio.Reader
	answered int             // on this connection
	under    map[uint16]*job // under way, by ID
	window   int
	progress bool // there was an answer
	tries    int  // connections that broke since the last answer
}

// job is one question and what its answer is.
type job struct {
	question
	entries []Entry
	targets []string // of PTR records
	absent  error    // ErrNXDomain or ErrNoRecords: there are no records
}

// ask asks all the jobs' questions. It is not an error that there are no records.
func (a *attempt) ask(jobs []job) error {
	var todo []*job
	for i := range slices.Backward(jobs) {
		todo = append(todo, &jobs[i])
	}
	for len(todo)+len(a.under) > 0 {
		msg, err := a.exchange(&todo)
		if err != nil {
			todo = slices.AppendSeq(todo, maps.Values(a.under))
			if err := a.lost(err); err != nil {
				return err
			}
			continue
		}
		j, err := a.read(msg)
		if err != nil {
			return err
		}
		a.progress, a.tries = true, 0
		if a.req.Progress != nil && j.typ != dns.TypePTR && j.absent == nil {
			parts := a.done + len(jobs)
			a.req.Progress(Progress{
				List: a.req.Name, Server: a.ep.String(), Done: parts - len(todo) - len(a.under), Parts: parts,
				Entries: a.entries, Bytes: a.bytes,
			})
		}
	}
	return nil
}

// exchange sends as many questions of todo as the window has room for, and returns the next answer, which
// is valid until the next call. All of it has to arrive within the time-out: bytes that trickle in do not
// extend that.
func (a *attempt) exchange(todo *[]*job) ([]byte, error) {
	if a.nc == nil {
		if err := a.connect(); err != nil {
			return nil, err
		}
	}
	var out []byte
	for n := len(*todo); n > 0 && len(a.under) < a.window; n-- {
		id := uint16(rand.Uint32())
		for a.under[id] != nil {
			id++
		}
		a.under[id] = (*todo)[n-1]
		*todo = (*todo)[:n-1]
		out = a.under[id].appendQuery(out, id)
	}
	// What is under way is a few KB, which the two socket buffers hold, so that this does not wait for
	// the server to read while the server waits for us to.
	a.nc.SetDeadline(time.Now().Add(a.c.opt.Timeout))
	if _, err := a.nc.Write(out); err != nil {
		return nil, err
	}
	return a.next()
}

// next returns the next message.
func (p *pipeline) next() ([]byte, error) {
	head, err := p.r.Peek(2)
	if err != nil {
		return nil, err
	}
	n := 2 + int(binary.BigEndian.Uint16(head))
	msg, err := p.r.Peek(n)
	if err != nil {
		return nil, err
	}
	p.r.Discard(n)
	p.answered++
	return msg[2:], nil
}

// connect opens a connection, which ends with the context.
func (a *attempt) connect() error {
	d := net.Dialer{Timeout: a.c.opt.Timeout, KeepAlive: -1}
	if a.c.opt.Source.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(a.c.opt.Source, 0))
	}
	nc, err := d.DialContext(a.ctx, "tcp", a.ep.addr.String())
	if err == nil {
		a.nc, a.answered, a.under = nc, 0, make(map[uint16]*job)
		a.r = bufio.NewReaderSize(nc, 2+maxMessage)
		context.AfterFunc(a.ctx, func() { nc.Close() })
		return nil
	}
	return a.connectError(err)
}

// connectError returns the error of a connection that could not be opened because of err.
func (a *attempt) connectError(err error) error {
	if isTimeout(err) {
		return fmt.Errorf("%w: %w: no answer within %v", ErrConnect, ErrTimeout, a.c.opt.Timeout)
	}
	// OpError would repeat the addresses, which our own message has.
	if op := (*net.OpError)(nil); errors.As(err, &op) {
		err = op.Err
	}
	if errors.Is(err, syscall.EADDRNOTAVAIL) && a.c.opt.Source.IsValid() {
		return fmt.Errorf("%w: %w: %w", ErrConnect, ErrNotLocal, err)
	}
	return fmt.Errorf("%w: %w", ErrConnect, err)
}

// disconnect closes the connection, if there is one.
func (a *attempt) disconnect() {
	if a.nc != nil {
		a.nc.Close()
	}
	a.nc, a.under = nil, nil
}

// read takes msg as the answer to a query under way.
func (a *attempt) read(msg []byte) (*job, error) {
	a.bytes += int64(2 + len(msg))
	if len(msg) < headerLen {
		return nil, fmt.Errorf("%w: %d bytes, less than a header", ErrAnswer, len(msg))
	}
	id := binary.BigEndian.Uint16(msg)
	j := a.under[id]
	if j == nil {
		return nil, fmt.Errorf("%w: it answers a query that was not asked", ErrAnswer)
	}
	delete(a.under, id)
	err := j.answer(msg, j.keep)
	switch {
	case errors.Is(err, ErrNXDomain) || errors.Is(err, ErrNoRecords):
		j.absent, a.relayed = err, a.relayed || msg[2]&flagAA == 0
		if a.absence != ErrNXDomain {
			a.absence = err
		}
	case err != nil:
		return nil, a.fault(j.name, err)
	}
	j.entries = slices.Clone(j.entries) // without room for more
	if a.entries += len(j.entries); a.entries > a.c.opt.MaxEntries {
		return nil, fmt.Errorf("%w: more than the limit of %d entries", ErrTooLarge, a.c.opt.MaxEntries)
	}
	return j, nil
}

// keep takes one record of the answer.
func (j *job) keep(r rdata) (err error) {
	switch j.typ {
	case dns.TypeAPL:
		j.entries, err = appendAPL(j.entries, r.msg[r.begin:r.end])
		return err
	case dns.TypePTR:
		if len(j.targets) == maxParts {
			return fmt.Errorf("%w: more than the limit of %d parts", ErrTooLarge, maxParts)
		}
		target, err := r.target()
		j.targets = append(j.targets, target)
		return err
	}
	e, err := r.host(j.typ)
	j.entries = append(j.entries, e)
	return err
}

// lost drops the connection after err. It returns nil when another connection is worth a try, which it
// waits for, and else what is wrong.
func (a *attempt) lost(err error) error {
	under, partial := len(a.under), 0
	if a.nc != nil {
		partial = a.r.Buffered()
	}
	a.disconnect()
	switch {
	case a.ctx.Err() != nil:
		return a.ctx.Err()
	case errors.Is(err, ErrConnect):
		if !a.progress || errors.Is(err, ErrTimeout) || errors.Is(err, syscall.ETIMEDOUT) {
			return err
		}
	case isTimeout(err) && partial > 0:
		return fmt.Errorf("%w: %d bytes of an answer within %v, then no more", ErrTimeout, partial, a.c.opt.Timeout)
	case isTimeout(err):
		// A server without pipelining may drop what follows the first query.
		if a.answered == 0 || under == 1 {
			return fmt.Errorf("%w: no answer within %v", ErrTimeout, a.c.opt.Timeout)
		}
		a.window = 1
	case partial > 0:
		err = fmt.Errorf("%w was complete (%d bytes of it came)", ErrCut, partial)
	default:
		// A reset may overtake answers, so that none may have come although the server gave some.
		if under > 1 {
			a.window = min(a.window, max(1, a.answered))
		}
		if errno := syscall.Errno(0); errors.As(err, &errno) {
			err = fmt.Errorf("%w: %w", ErrCut, errno)
		} else {
			err = ErrCut
		}
	}
	limit := maxFirstTries
	if a.progress {
		limit = maxTries
	}
	if a.tries++; a.tries >= limit {
		return err
	}
	if a.tries > 1 {
		select {
		case <-time.After(firstPause << (a.tries - 2)):
		case <-a.ctx.Done():
		}
	}
	return nil
}

// isTimeout reports whether one of our deadlines has passed. ETIMEDOUT, which is a time-out to net.Error,
// may come long before.
func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout() && !errors.Is(err, syscall.ETIMEDOUT)
}
