package report

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"example.org/threatstopd/agent/internal/report/spool"
	"example.org/threatstopd/agent/internal/report/upload"
)

// A sendQueue is how the sender is told what there is to do.
type sendQueue struct {
	wake chan struct{} // something was spooled
	urge chan struct{} // a flush was asked for, or the end has come
	// direct hands over a batch that the disk would not take, directDone says
	// whether it was delivered.
	direct     chan *batch
	directDone chan bool

	mu        sync.Mutex
	flushing  []flushRequest
	finishing bool
}

// A flushRequest asks for an attempt at everything. stuck says that some of it is still
// with the writer, because the disk does not take it.
type flushRequest struct {
	done  chan<- error
	stuck bool
}

func (q *sendQueue) init() {
	q.wake, q.urge = make(chan struct{}, 1), make(chan struct{}, 1)
	q.direct, q.directDone = make(chan *batch), make(chan bool, 1)
}

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (q *sendQueue) kick() { signal(q.wake) }

func (q *sendQueue) flush(f flushRequest) {
	q.mu.Lock()
	q.flushing = append(q.flushing, f)
	q.mu.Unlock()
	signal(q.urge)
}

func (q *sendQueue) finish() {
	q.mu.Lock()
	q.finishing = true
	q.mu.Unlock()
	signal(q.urge)
}

// state returns how many flushes there are and whether the end has come. What they
// are about is in the spool, or stuck, by then.
func (q *sendQueue) state() (asked int, finishing bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.flushing), q.finishing
}

// stuck reports whether one of the first n flushes is about more than the spool has.
func (q *sendQueue) stuck(n int) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.ContainsFunc(q.flushing[:n], func(f flushRequest) bool { return f.stuck })
}

// unstick says that the writer has nothing any more.
func (q *sendQueue) unstick() {
	q.mu.Lock()
	for i := range q.flushing {
		q.flushing[i].stuck = false
	}
	q.mu.Unlock()
	q.kick()
}

// answer ends the first n flushes.
func (q *sendQueue) answer(n int, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, f := range q.flushing[:n] {
		f.done <- err
	}
	q.flushing = append([]flushRequest(nil), q.flushing[n:]...)
}

var errStopped = errors.New("report: stopped")

// send is the path of the batches from the spool to the server, one at a time and in
// order, until finish was called and there is nothing left, or ctx ends.
func (r *Reporter) send(ctx context.Context) {
	q := &r.toSend
	defer func() {
		n, _ := q.state()
		q.answer(n, errStopped)
	}()
	var buf []byte
	failures := 0
	for {
		// First: a flush that comes after this look at the spool may be about
		// what the look did not see.
		asked, finishing := q.state()
		b, ok, err := r.spool.Peek(&buf)
		var direct *batch
		if err == nil && !ok {
			if direct, ok = r.nothingSpooled(ctx, asked, finishing); !ok {
				return
			}
			if direct == nil {
				continue
			}
		}
		switch {
		case err != nil:
			r.o.Log.Warn().Err(err).Msg("spool not readable")
		case direct != nil:
			err = r.attempt(ctx, direct.id, direct.lines, direct.text, failures)
			if refused(err) {
				r.setAside(&spool.Batch{ID: direct.id, Created: direct.created, Lines: direct.lines, Text: direct.text}, err)
				err = nil
			}
			q.directDone <- err == nil
		default:
			err = r.attempt(ctx, b.ID, b.Lines, b.Text, failures)
			if refused(err) {
				r.setAside(&b, err)
				err = nil
			}
			if err == nil {
				r.settled(b.Seq)
			}
		}
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			failures = 0
			continue
		}
		failures++
		asked, finishing = q.state()
		q.answer(asked, err)
		if finishing {
			return
		}
		if !r.pause(ctx, failures, err) {
			return
		}
	}
}

// nothingSpooled answers the flushes that were asked for before the spool was found
// empty, waits until there may be something, and returns a batch when the writer hands
// one over. It returns false when the sender is to end.
func (r *Reporter) nothingSpooled(ctx context.Context, asked int, finishing bool) (*batch, bool) {
	q := &r.toSend
	if !q.stuck(asked) {
		q.answer(asked, nil)
	}
	if finishing {
		return nil, false
	}
	select {
	case b := <-q.direct:
		return b, true
	case <-q.wake:
	case <-q.urge:
	case <-ctx.Done():
		return nil, false
	}
	return nil, true
}

// pause waits after a failure. A flush or the end cuts it short.
func (r *Reporter) pause(ctx context.Context, failures int, err error) bool {
	d := r.backoff(failures)
	var e *upload.Error
	if errors.As(err, &e) {
		d = max(d, e.RetryAfter)
	}
	r.up.nextAt(r.o.Now().Add(d))
	defer r.up.nextAt(time.Time{})
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-r.toSend.urge:
	case <-ctx.Done():
		return false
	}
	return true
}

// refused reports whether the server will not have this batch, ever.
func refused(err error) bool {
	var e *upload.Error
	return errors.As(err, &e) && e.Refused()
}

// attempt sends a batch and keeps the books about it.
func (r *Reporter) attempt(ctx context.Context, id spool.ID, lines int, text []byte, failures int) error {
	err := r.o.Sender.Send(ctx, upload.Batch{ID: id.String(), Text: text})
	now := r.o.Now()
	log := r.o.Log
	switch {
	case err == nil:
		since, n := r.up.delivered(now, spool.Count{Batches: 1, Lines: int64(lines), Bytes: int64(len(text))})
		if n > 0 {
			log.Info().Int64("failures", n).Dur("after", now.Sub(since)).Msg("log server takes hits again")
		}
		log.Info().Str("batch", id.String()).Int("lines", lines).Int("bytes", len(text)).
			Msg("Log file uploaded successfully for " + r.o.DeviceID)
	case refused(err):
		r.up.failed(now, err)
	case ctx.Err() != nil:
		// Cut off by the end, which is not the server's fault.
		r.up.interrupted()
	default:
		first := r.up.failed(now, err)
		e := log.Debug()
		if first {
			e = log.Warn()
		}
		e.Err(err).Str("batch", id.String()).Int("lines", lines).Int("failures", failures+1).
			Msg("hits not delivered, kept for later")
	}
	return err
}

// setAside keeps a batch that the server refused for the owner.
func (r *Reporter) setAside(b *spool.Batch, why error) {
	_, err := r.aside.Append(&spool.Batch{ID: b.ID, Created: b.Created, Lines: b.Lines, Text: b.Text})
	log := r.o.Log.Debug()
	if r.up.setAside(spool.Count{Batches: 1, Lines: int64(b.Lines), Bytes: int64(len(b.Text))}, err == nil) {
		log = r.o.Log.Warn()
	}
	log = log.AnErr("reason", why).Str("batch", b.ID.String()).Int("lines", b.Lines)
	if err != nil {
		r.lostAside.Add(int64(b.Lines))
		log.Err(err).Msg("log server refuses a batch, and it cannot be set aside: lost")
		return
	}
	log.Str("dir", r.o.SpoolDir).Msg("log server refuses a batch: set aside in the spool")
}

// settled takes a batch off the spool. What the spool knows of the watermark must be
// in the file before the last segment goes.
func (r *Reporter) settled(seq uint64) {
	if err := r.spool.Done(seq); err != nil {
		r.spoolErrors.Add(1)
		r.o.Log.Debug().Err(err).Msg("delivery not noted in the spool")
	}
	all := r.spool.Stats().Pending.Batches == 0
	if all {
		if err := r.persist(); err != nil {
			r.o.Log.Debug().Err(err).Msg("watermark not written")
			all = false
		}
	}
	if err := r.spool.Trim(all); err != nil {
		r.spoolErrors.Add(1)
		r.o.Log.Debug().Err(err).Msg("spool not trimmed")
	}
}
