package dnsfetch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"syscall"
	"time"

	"github.com/miekg/dns"
)

const (
	// maxTries is how many connections in a row may break without an answer, the first time included:
	// of a server that has answered, and of one that has not. A server that has given half a list is
	// worth more patience than the next one, which has to give all of it.
	maxTries      = 8
	maxFirstTries = 3
	// firstPause comes before the second connection in a row; each further pause is twice as long.
	firstPause = 50 * time.Millisecond
	// habitTime is how long a server is asked in the way in which it answered. That may have been a
	// bad moment.
	habitTime = time.Hour
	// idleTime is how long a connection is kept for the next list.
	idleTime = 5 * time.Second
)

// habit is how many queries a server was seen to take at a time.
type habit struct {
	window int
	since  time.Time
}

// pipeline is the one connection to a server. Up to window queries are under way on it.
//
// Servers differ in how many queries they take on a connection, and whether several at a time, and
// some close the connection, or do not answer what came early. So a connection that breaks is
// replaced and its questions are asked again, no more at a time than the server answered on the
// connection that broke. Answers count as progress; tries and time without progress are limited.
type pipeline struct {
	cn       *conn
	window   int
	progress bool // there was an answer
	tries    int  // connections that broke since the last answer
	under    []query
	out      []byte
}

// query is a query under way.
type query struct {
	id  uint16
	job int
}

// job is one question and what its answer is.
type job struct {
	question
	entries       []Entry
	targets       []domain // of PTR records
	absent        error    // ErrNXDomain or ErrNoRecords: there are no records
	authoritative bool
}

// ask asks all the jobs' questions. It is not an error that there are no records.
func (a *attempt) ask(jobs []job) error {
	todo := make([]int, len(jobs)) // in reverse
	for i := range jobs {
		todo[len(jobs)-1-i] = i
	}
	for len(todo)+len(a.under) > 0 {
		msg, err := a.exchange(jobs, &todo)
		if err != nil {
			for _, q := range slices.Backward(a.under) {
				todo = append(todo, q.job)
			}
			if err := a.lost(err); err != nil {
				return err
			}
			continue
		}
		j, err := a.read(msg, jobs)
		if err != nil {
			a.cn.close() // more answers may be under way
			a.cn, a.under = nil, nil
			return err
		}
		a.progress, a.tries = true, 0
		if done := len(jobs) - len(todo) - len(a.under); j.typ != dns.TypePTR && j.absent == nil && a.req.Progress != nil {
			a.req.Progress(Progress{
				List: a.req.Name, Server: a.ep.String(), Done: a.done + done, Parts: a.done + len(jobs),
				Entries: a.entries, Bytes: a.bytes,
			})
		}
	}
	return nil
}

// exchange sends as many questions of todo as the window has room for, and returns the next answer.
func (a *attempt) exchange(jobs []job, todo *[]int) ([]byte, error) {
	if a.cn == nil {
		if err := a.connect(); err != nil {
			return nil, err
		}
	}
	a.out = a.out[:0]
	for n := len(*todo); n > 0 && len(a.under) < a.window; n-- {
		q := query{a.freshID(), (*todo)[n-1]}
		*todo = (*todo)[:n-1]
		a.under = append(a.under, q)
		a.out = jobs[q.job].appendQuery(a.out, q.id)
	}
	// What is under way is a few KB, which the two socket buffers hold, so that this does not wait for
	// the server to read while the server waits for us to.
	if err := a.cn.send(a.out, a.c.opt.Timeout); err != nil {
		return nil, err
	}
	return a.cn.next(a.c.opt.Timeout)
}

// connect takes up the idle connection or opens one.
func (a *attempt) connect() error {
	cn := a.c.idle
	a.c.idle = nil
	if cn != nil && (cn.ep != a.ep || time.Since(cn.idle) > idleTime) {
		cn.close()
		cn = nil
	}
	if cn == nil {
		var err error
		if cn, err = dial(a.ctx, a.ep, &a.c.opt); err != nil {
			return err
		}
	}
	cn.watch(a.ctx)
	a.cn = cn
	return nil
}

// freshID returns an ID that no query under way has.
func (a *attempt) freshID() uint16 {
	for {
		if id := uint16(rand.Uint32()); a.find(id) < 0 {
			return id
		}
	}
}

func (a *attempt) find(id uint16) int {
	return slices.IndexFunc(a.under, func(q query) bool { return q.id == id })
}

// read takes msg as the answer to a query under way.
func (a *attempt) read(msg []byte, jobs []job) (*job, error) {
	a.bytes += int64(2 + len(msg))
	if len(msg) < headerLen {
		return nil, fmt.Errorf("%w: %d bytes, less than a header", ErrShort, len(msg))
	}
	i := a.find(binary.BigEndian.Uint16(msg))
	if i < 0 {
		return nil, ErrID
	}
	j := &jobs[a.under[i].job]
	a.under = slices.Delete(a.under, i, i+1)
	a.scratch = a.scratch[:0]
	err := j.answer(msg, func(r rdata) error { return a.keep(j, r) })
	switch {
	case errors.Is(err, ErrNXDomain) || errors.Is(err, ErrNoRecords):
		j.absent = err
	case err != nil:
		return nil, a.fault(j.name, err)
	}
	j.authoritative = msg[2]&flagAA != 0
	j.entries = slices.Clone(a.scratch)
	if a.entries += len(j.entries); a.entries > a.c.opt.MaxEntries {
		return nil, fmt.Errorf("%w: more than the limit of %d", ErrTooManyEntries, a.c.opt.MaxEntries)
	}
	return j, nil
}

// keep takes one record of the answer to j.
func (a *attempt) keep(j *job, r rdata) (err error) {
	switch j.typ {
	case dns.TypeAPL:
		a.scratch, err = appendAPL(a.scratch, r.bytes())
		return err
	case dns.TypePTR:
		if len(j.targets) == maxParts {
			return fmt.Errorf("%w: more than the limit of %d", ErrTooManyParts, maxParts)
		}
		target, err := r.target()
		j.targets = append(j.targets, target)
		return err
	}
	e, err := r.host(j.typ)
	a.scratch = append(a.scratch, e)
	return err
}

// lost drops the connection after err, if there is one. It returns nil when another connection is worth
// a try, which it waits for, and else what is wrong.
func (a *attempt) lost(err error) error {
	under, answered, partial := len(a.under), 0, 0
	a.under = a.under[:0]
	if cn := a.cn; cn != nil {
		answered, partial = cn.answered, cn.r.Buffered()
		cn.close()
		a.cn = nil
	}
	if a.ctx.Err() != nil {
		return a.ctx.Err()
	}
	switch {
	case errors.Is(err, ErrConnect):
		if !a.progress || errors.Is(err, ErrTimeout) {
			return err
		}
	case isTimeout(err) && partial > 0:
		return fmt.Errorf("%w: %d bytes of an answer within %v, then no more", ErrTimeout, partial, a.c.opt.Timeout)
	case isTimeout(err):
		// A server without pipelining may drop what follows the first query.
		if answered == 0 || under == 1 {
			return fmt.Errorf("%w: no answer within %v", ErrTimeout, a.c.opt.Timeout)
		}
		a.narrow(1)
	case partial > 0:
		err = fmt.Errorf("%w was complete (%d bytes of it came)", ErrCut, partial)
	default:
		// A reset may overtake answers, so that none may have come although the server gave some.
		if under > 1 {
			a.narrow(max(1, answered))
		}
		err = cutError(err)
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

// narrow makes the window at most n, for this list and those that follow.
func (a *attempt) narrow(n int) {
	if n < a.window {
		a.window = n
		a.c.habits[a.ep.addr] = habit{n, time.Now()}
	}
}

// cutError is the error of a connection that ended without a part of an answer.
func cutError(err error) error {
	if errno := syscall.Errno(0); errors.As(err, &errno) {
		return fmt.Errorf("%w: %w", ErrCut, errno)
	}
	return ErrCut
}
