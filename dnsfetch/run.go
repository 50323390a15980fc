package dnsfetch

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"syscall"
	"time"

	"github.com/miekg/dns"
)

const (
	// extraTimeout is how long a connection beside the first may take to give its first answer.
	// A server that serves one connection at a time leaves the second one waiting; its
	// questions then go to the first.
	extraTimeout = 2 * time.Second
	// perWorker is how many questions make another connection worth its handshake.
	perWorker = 8
	// habitTime is how long a server is asked in the way that its habits suggest. They may have
	// been a bad moment.
	habitTime = time.Hour
	// maxFaults is how often a connection may break, in ways that no habit of the server
	// explains, before the server is given up.
	maxFaults = 3
)

// habits are what a server was seen not to do.
type habits struct {
	since    time.Time
	conns    int // connections at once
	pipeline int // queries under way on one connection
	perConn  int // queries that it answers on one connection, 0 for any number
	closed   int // after how many answers it last closed a connection on us
}

// job is one question and what came of it.
type job struct {
	question
	records int        // answer records
	absent  error      // why there are none
	targets []wireName // of PTR records
}

// run asks a server a set of questions.
type run struct {
	a      *attempt
	ctx    context.Context
	cancel context.CancelFunc
	jobs   []job
	strict bool // what is absent ends the run

	mu   sync.Mutex
	wake *sync.Cond // something was given back, or the run is over
	next int        // jobs[next:] and
	back []int      // these are still to be taken
	left int        // jobs without an answer
	live int        // workers
	err  error      // why the run is over early
}

// slot is a query under way.
type slot struct {
	id  uint16
	job int
}

// run asks all the jobs' questions, in any order, over as many connections as they are worth.
// Entries go to a.cols. With strict, the first question to which there is nothing ends the run
// with an error; without, it is noted in the job.
func (a *attempt) run(jobs []job, strict bool) error {
	r := &run{a: a, jobs: jobs, strict: strict, left: len(jobs)}
	r.wake = sync.NewCond(&r.mu)
	r.ctx, r.cancel = context.WithCancel(a.ctx)
	defer r.cancel()

	workers := make([]worker, max(1, min(a.habits.conns, len(jobs)/perWorker)))
	r.live = len(workers)
	var extra sync.WaitGroup
	for i := range workers {
		w := &workers[i]
		w.run = r
		if i > 0 {
			w.extra = true
			extra.Add(1)
			go func() {
				defer extra.Done()
				w.leave(w.work())
			}()
		}
	}
	workers[0].leave(workers[0].work())
	extra.Wait()
	if r.err != nil {
		return r.err
	}
	for i := range workers {
		a.cols = append(a.cols, &workers[i].cols)
	}
	return nil
}

// fail ends the run for all workers.
func (r *run) fail(err error) {
	r.mu.Lock()
	if r.err == nil {
		r.err = err
	}
	r.mu.Unlock()
	r.cancel()
	r.wake.Broadcast()
}

// worker asks questions over one connection at a time.
type worker struct {
	*run
	extra  bool
	cols   columns
	cn     *conn
	asked  []slot
	out    []byte
	faults int
}

// work takes questions until there are no more. An error says that this worker cannot go on;
// others may.
func (w *worker) work() error {
	for {
		under := len(w.asked)
		if !w.take() {
			return nil
		}
		if w.cn == nil {
			if err := w.connect(); err != nil {
				return err
			}
		}
		if len(w.asked) > under {
			if err := w.ask(w.asked[under:]); err != nil {
				if err := w.lost(err); err != nil {
					return err
				}
				continue
			}
		}
		msg, err := w.cn.next(w.ctx, w.patience())
		if err != nil {
			if err := w.lost(err); err != nil {
				return err
			}
			continue
		}
		if err := w.read(msg); err != nil {
			w.fail(err)
			return err
		}
	}
}

// patience is how long the next answer may take.
func (w *worker) patience() time.Duration {
	if w.extra && (w.cn == nil || w.cn.answered == 0) {
		return min(w.a.c.opt.Timeout, extraTimeout)
	}
	return w.a.c.opt.Timeout
}

// take adds as many questions to those under way as the server's habits allow. With none under
// way it waits for one that another worker gives back; false means that there will be none.
func (w *worker) take() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		if w.err != nil {
			return false
		}
		h := w.a.habits
		room := h.pipeline - len(w.asked)
		if h.perConn > 0 {
			sent := 0
			if w.cn != nil {
				sent = w.cn.sent
			}
			room = min(room, h.perConn-sent)
		}
		for ; room > 0; room-- {
			job := w.pop()
			if job < 0 {
				break
			}
			w.asked = append(w.asked, slot{w.freshID(), job})
		}
		switch {
		case len(w.asked) > 0:
			return true
		case w.left == 0:
			return false
		case w.cn != nil && room <= 0:
			w.cn.close() // it has answered all that it will
			w.cn = nil
		default:
			w.wake.Wait()
		}
	}
}

// pop returns a job that nobody has taken, or -1.
func (r *run) pop() int {
	if n := len(r.back); n > 0 {
		job := r.back[n-1]
		r.back = r.back[:n-1]
		return job
	}
	if r.next < len(r.jobs) {
		r.next++
		return r.next - 1
	}
	return -1
}

// freshID returns an ID that no query under way on this connection has.
func (w *worker) freshID() uint16 {
	for {
		id := uint16(rand.Uint32())
		if w.slotOf(id) < 0 {
			return id
		}
	}
}

func (w *worker) slotOf(id uint16) int {
	for i := range w.asked {
		if w.asked[i].id == id {
			return i
		}
	}
	return -1
}

// connect takes up an idle connection or opens one.
func (w *worker) connect() error {
	w.cn = w.a.c.takeIdle(w.a.ep)
	if w.cn == nil {
		cn, err := dial(w.ctx, w.a.ep, &w.a.c.opt, w.patience())
		if err != nil {
			return w.fault("", err)
		}
		w.cn = cn
	}
	w.cn.watch(w.ctx)
	return nil
}

// ask sends the queries for slots.
func (w *worker) ask(slots []slot) error {
	w.out = w.out[:0]
	for _, s := range slots {
		w.out = w.jobs[s.job].appendQuery(w.out, s.id)
	}
	// What is under way is a few KB at most, which the two socket buffers hold, so that this
	// does not wait for the server to read while the server waits for us to.
	return w.cn.send(w.ctx, w.out, len(slots), w.a.c.opt.Timeout)
}

// read makes an answer of msg. An error ends the run.
func (w *worker) read(msg []byte) error {
	if got := w.a.bytes.Add(int64(2 + len(msg))); got > w.a.c.opt.MaxBytes {
		return w.fault("", fmt.Errorf("%w: %d received, limit %d", ErrTooManyBytes, got, w.a.c.opt.MaxBytes))
	}
	if len(msg) < headerLen {
		return w.fault("", fmt.Errorf("%w: %d bytes, less than a header", ErrShort, len(msg)))
	}
	i := w.slotOf(binary.BigEndian.Uint16(msg))
	if i < 0 {
		return w.fault("", ErrID)
	}
	j := &w.jobs[w.asked[i].job]
	last := len(w.asked) - 1
	w.asked[i] = w.asked[last]
	w.asked = w.asked[:last]

	before := w.cols.n
	n, err := j.answer(msg, func(msg []byte, off, end int) error { return w.keep(j, msg, off, end) })
	if err != nil && (w.strict || !absent(err)) {
		return w.fault(w.a.partName(j), err)
	}
	j.records, j.absent = n, err
	if got := w.a.entries.Add(int64(w.cols.n - before)); got > int64(w.a.c.opt.MaxEntries) {
		return w.fault("", fmt.Errorf("%w: more than the limit of %d", ErrTooManyEntries, w.a.c.opt.MaxEntries))
	}
	w.done(j)
	return nil
}

// keep takes one record of the answer to j.
func (w *worker) keep(j *job, msg []byte, off, end int) error {
	switch j.typ {
	case dns.TypeAPL:
		return w.cols.addAPL(msg[off:end])
	case dns.TypePTR:
		if len(j.targets) == w.a.c.opt.MaxParts {
			return fmt.Errorf("%w: more than the limit of %d", ErrTooManyParts, w.a.c.opt.MaxParts)
		}
		target, err := readTarget(msg, off, end)
		if err != nil {
			return err
		}
		j.targets = append(j.targets, target)
		return nil
	}
	a, err := readAddr(j.typ, msg[off:end])
	if err != nil {
		return err
	}
	w.cols.addAddr(a)
	return nil
}

// done counts j as answered.
func (r *run) done(j *job) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.left--; r.left == 0 {
		r.wake.Broadcast()
	}
	if j.typ != dns.TypePTR && j.records > 0 {
		r.a.progress(len(r.jobs)-r.left, len(r.jobs))
	}
}

// lost gives up the connection after err and hands back what was asked on it. It returns nil
// when going on over a new connection is worth a try: servers differ in how many queries they
// take on a connection, and whether several at a time, and some of them just close it.
func (w *worker) lost(err error) error {
	cn, under := w.cn, len(w.asked)
	w.cn = nil
	cn.close()
	w.giveBack()
	if w.ctx.Err() != nil {
		return w.fault("", w.ctx.Err())
	}

	w.mu.Lock()
	defer w.mu.Unlock()
	h := w.a.habits
	fresh := cn.used == cn.answered
	switch {
	case isTimeout(err):
		// A server without pipelining may drop what follows the first query and keep silent.
		if cn.unread() == 0 && cn.used > 0 && under > 1 {
			h.pipeline = 1
			return nil
		}
		if cn.unread() > 0 {
			return w.fault("", fmt.Errorf("%w: %d bytes of an answer within %v, then no more", ErrTimeout, cn.unread(), w.a.c.opt.Timeout))
		}
		return w.fault("", fmt.Errorf("%w: no answer within %v", ErrTimeout, w.a.c.opt.Timeout))
	case cn.unread() > 0:
		if w.faults++; w.faults < maxFaults {
			return nil
		}
		return w.fault("", fmt.Errorf("%w was complete (%d bytes of it came)", ErrCut, cn.unread()))
	case cn.used == 0 && !fresh:
		return nil // it was closed while it was idle
	case cn.used > 0:
		// Twice after the same number is a limit, once may be an accident.
		if h.closed == cn.answered {
			h.perConn = cn.answered
		}
		h.closed = cn.answered
		return nil
	case w.extra:
		// It may not want more than one connection.
	case under > 1:
		// Closing with unread queries resets the connection, and the reset can overtake the
		// first answer.
		h.perConn = 1
		return nil
	default:
		if w.faults++; w.faults < maxFaults {
			return nil
		}
	}
	if errno := syscall.Errno(0); errors.As(err, &errno) {
		return w.fault("", fmt.Errorf("%w: %w", ErrCut, errno))
	}
	return w.fault("", ErrCut)
}

// giveBack hands what is under way to whoever takes it.
func (w *worker) giveBack() {
	w.mu.Lock()
	for _, s := range w.asked {
		w.back = append(w.back, s.job)
	}
	w.asked = w.asked[:0]
	w.mu.Unlock()
	w.wake.Broadcast()
}

// leave ends a worker, err saying why when it could not go on. The last one to leave decides
// whether the run failed.
func (w *worker) leave(err error) {
	whole := err == nil && len(w.asked) == 0
	w.giveBack()
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil && w.extra && w.cols.n == 0 && w.ctx.Err() == nil {
		w.a.habits.conns = 1 // it was not served
	}
	if w.cn != nil {
		whole = whole && w.cn.unread() == 0 && w.a.habits.perConn == 0
		if w.cn.unwatch() && whole {
			w.a.c.keepIdle(w.cn)
		} else {
			w.cn.close()
		}
		w.cn = nil
	}
	if w.live--; w.live == 0 && w.left > 0 && w.err == nil {
		w.err = err
	}
}

// fault makes an Error of err.
func (r *run) fault(part string, err error) error { return r.a.fault(part, err) }
