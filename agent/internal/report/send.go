package report

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"time"
)

const (
	// aDay is how often what the server refused is sent again.
	aDay = 24 * time.Hour
	// maxRejected is after how many 4xx for the oldest batch the next one is tried.
	maxRejected = 3
)

// send is the way of the batches to the server, one at a time, the oldest first, until the
// reporter finishes and there is nothing left, or ctx ends.
func (r *Reporter) send(ctx context.Context) {
	defer r.answer(errStopped)
	failures := 0
	for {
		b, text := r.next()
		if b == nil {
			if !r.idle(ctx) {
				return
			}
			continue
		}
		err := r.attempt(ctx, b, text)
		if ctx.Err() != nil {
			r.free(b)
			return
		}
		settled := r.settle(b, text, err)
		r.free(b)
		if settled {
			failures = 0
			continue
		}
		failures++
		r.answer(err)
		r.mu.Lock()
		finishing := r.finishing
		r.mu.Unlock()
		if finishing || !r.pause(ctx, failures, err) {
			return
		}
	}
}

// free ends the time that the sender has b. The writer may be waiting for it.
func (r *Reporter) free(b *batch) {
	r.mu.Lock()
	b.busy = false
	r.mu.Unlock()
	signal(r.wakeWriter)
}

// next returns the batch to be sent, marked as busy, and its text; nil when there is none.
func (r *Reporter) next() (*batch, []byte) {
	for {
		r.mu.Lock()
		b := r.pick()
		if b == nil {
			r.mu.Unlock()
			return nil, nil
		}
		b.busy = true
		text := b.text
		r.mu.Unlock()
		if b.name == "" {
			return b, text
		}
		if text = r.readFile(b); text != nil {
			return b, text
		}
	}
}

// pick returns the oldest batch that can be sent: the next one where the server does not want
// the oldest, one without a file only while the disk takes none. When nothing waits, it is
// the turn of what the server refused earlier. mu is held.
func (r *Reporter) pick() *batch {
	if len(r.queue) == 0 && len(r.retry) > 0 {
		return r.retry[0]
	}
	i := 0
	if len(r.queue) > 1 && r.queue[0].rejected >= maxRejected && !r.queue[0].proven {
		i = 1
	}
	if len(r.queue) == 0 || r.queue[i].busy || r.queue[i].lines == 0 || r.queue[i].name == "" && r.diskErr == nil {
		return nil // the writer has it, or will
	}
	return r.queue[i]
}

// passedOver returns the oldest batch when b was tried in its place. mu is held.
func (r *Reporter) passedOver(b *batch) *batch {
	if len(r.queue) > 0 && r.queue[0] != b && !b.aside && r.queue[0].rejected >= maxRejected {
		return r.queue[0]
	}
	return nil
}

// readFile reads a batch's file. One that is too old or not readable any more is dropped.
func (r *Reporter) readFile(b *batch) []byte {
	dir := r.dir
	if b.aside {
		dir = r.refused
	}
	text, _, err := dir.read(b)
	old := r.expired(b)
	if err == nil && !old {
		return text
	}
	r.fileMu.Lock()
	defer r.fileMu.Unlock()
	r.mu.Lock()
	r.take(b)
	if old {
		r.stats.Lost.SpoolAge += int64(b.lines)
	} else {
		r.stats.Lost.SpoolDamage += int64(b.lines)
		r.o.Log.Warn().Err(err).Str("file", b.name).Int("lines", b.lines).Msg("batch not readable: lost")
	}
	r.mu.Unlock()
	r.remove(b)
	return nil
}

// idle waits until there may be something to send, and returns false when the sender is to
// end.
func (r *Reporter) idle(ctx context.Context) bool {
	r.mu.Lock()
	if len(r.queue) == 0 {
		r.answerLocked(nil)
	}
	finishing := r.finishing
	wait := r.retryAt.Sub(r.o.Now())
	if wait <= 0 && len(r.retry) == 0 {
		r.retry = slices.Clone(r.aside)
		r.retryAt = r.o.Now().Add(aDay)
		if len(r.retry) > 0 && !finishing {
			r.mu.Unlock()
			return true
		}
	}
	r.mu.Unlock()
	if finishing {
		return false
	}
	t := time.NewTimer(max(wait, time.Minute))
	defer t.Stop()
	select {
	case <-r.wakeSender:
	case <-r.urge:
	case <-t.C:
	case <-ctx.Done():
		return false
	}
	return true
}

// RetryRefused has what the server refused sent again soon: the owner may have changed
// something.
func (r *Reporter) RetryRefused() {
	r.mu.Lock()
	r.retryAt = time.Time{}
	r.mu.Unlock()
	signal(r.wakeSender)
}

// attempt sends a batch and keeps the books about it.
func (r *Reporter) attempt(ctx context.Context, b *batch, text []byte) error {
	err := r.o.Sender.Send(ctx, b.id, text)
	now := r.o.Now()
	log := r.o.Log
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stats.Attempts++
	switch {
	case err == nil:
		if n := r.failing.row; n > 0 {
			log.Info().Int64("failures", n).Dur("after", now.Sub(r.failing.since)).Msg("uploads work again")
		}
		r.failing.row, r.failing.refused = 0, false
		r.stats.Delivered.add(Count{1, int64(b.lines), int64(len(text))})
		r.stats.LastDelivered, r.stats.LastAttempt, r.stats.LastError, r.stats.LastLines = now, now, nil, b.lines
		log.Info().Str("batch", b.id.String()).Int("lines", b.lines).Int("bytes", len(text)).
			Msg("Log file uploaded successfully for " + r.o.DeviceID)
	case b.aside:
		log.Debug().Err(err).Str("batch", b.id.String()).Msg("refused batch not delivered")
	case ctx.Err() != nil:
		r.stats.Failures++ // cut off by the end, which is not the server's fault
	default:
		r.stats.LastAttempt, r.stats.LastError = now, err
		if contentError(err) {
			break
		}
		r.stats.Failures++
		e := log.Debug()
		if r.failing.row++; r.failing.row == 1 {
			r.failing.since = now
			e = log.Warn()
		}
		e.Err(err).Str("batch", b.id.String()).Int("lines", b.lines).Int64("failures", r.failing.row).
			Msg("hits not delivered, kept for later")
	}
	return err
}

func contentError(err error) bool {
	var e *UploadError
	return errors.As(err, &e) && e.Content()
}

// settle deals with an answer. It returns false when the batch stays in the queue and the
// sender is to pause.
func (r *Reporter) settle(b *batch, text []byte, err error) bool {
	var e *UploadError
	errors.As(err, &e)
	r.mu.Lock()
	passed := r.passedOver(b)
	r.mu.Unlock()
	switch {
	case b.aside && err != nil:
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.retry = r.retry[1:]; !contentError(err) {
			r.retry = nil // the server takes nothing now
		}
		return true
	case err == nil:
		r.delivered(b)
		if passed != nil {
			// Once more: the server may take everything since a moment ago.
			r.mu.Lock()
			passed.proven = true
			r.mu.Unlock()
		}
		return true
	case e != nil && e.Status == http.StatusRequestEntityTooLarge && e.Content() && r.split(b, text):
		return true
	case contentError(err), b.proven && e != nil && e.ofBatch():
		r.refuse(b, text, err)
		return true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case passed != nil:
		passed.rejected = 0
	case e != nil && e.ofBatch():
		b.rejected++
	}
	return false
}

// delivered removes a batch.
func (r *Reporter) delivered(b *batch) {
	r.fileMu.Lock()
	defer r.fileMu.Unlock()
	r.mu.Lock()
	if b.name == "" {
		r.durable(b)
	}
	r.take(b)
	r.mu.Unlock()
	if b.name == "" {
		_ = r.persistLocked()
	}
	r.remove(b)
}

// refuse sets a batch aside that the server does not take.
func (r *Reporter) refuse(b *batch, text []byte, why error) {
	r.fileMu.Lock()
	defer r.fileMu.Unlock()
	err := r.setAside(b, text)
	r.mu.Lock()
	if b.name == "" {
		r.durable(b)
	}
	r.take(b)
	log := r.o.Log.Debug()
	if !r.failing.refused {
		log = r.o.Log.Warn()
	}
	r.failing.refused = true
	r.stats.Refused.add(Count{1, int64(b.lines), int64(len(text))})
	r.stats.AsideError = why.Error()
	if answer := (*UploadError)(nil); errors.As(why, &answer) && answer.Status != 0 {
		r.stats.AsideError = strconv.Itoa(answer.Status)
	}
	if err != nil {
		r.stats.Lost.Refused += int64(b.lines)
	}
	r.mu.Unlock()
	log = log.AnErr("reason", why).Str("batch", b.id.String()).Int("lines", b.lines)
	if err != nil {
		r.remove(b)
		log.Err(err).Msg("log server refuses a batch, and it cannot be set aside: lost")
		return
	}
	log.Str("dir", string(r.refused)).Msg("log server refuses a batch: set aside in the spool")
}

// split replaces a batch that is too large for the server by two halves. It returns false for
// a single line, and when the disk does not take the halves.
func (r *Reporter) split(b *batch, text []byte) bool {
	first, second, ok := halves(text)
	if !ok {
		return false
	}
	r.fileMu.Lock()
	defer r.fileMu.Unlock()
	var parts []*batch
	for i, t := range [][]byte{first, second} {
		p := &batch{id: b.id.half(byte(i)), created: b.created, lines: bytes.Count(t, []byte("\n")), gap: b.gap, own: b.own}
		parts = append(parts, p)
		if b.name == "" {
			p.text = t
			continue
		}
		_, w, err := r.dir.read(b)
		if err == nil {
			p.size, err = r.dir.write(p, t, &w)
		}
		if err != nil {
			r.o.Log.Warn().Err(err).Str("batch", b.id.String()).Msg("batch too large for the log server, and not halved")
			return false
		}
		p.name, p.gen = p.fileName(), w.Gen
	}
	r.mu.Lock()
	parts[1].buf, parts[1].mark, parts[1].ends = b.buf, b.mark, b.ends
	b.buf, b.text = nil, nil
	// A kill between the halves and their parent's end leaves all three.
	r.queue = slices.DeleteFunc(r.queue, func(x *batch) bool { return x.id == parts[0].id || x.id == parts[1].id })
	i := slices.Index(r.queue, b)
	r.queue = slices.Replace(r.queue, i, i+1, parts...)
	r.mu.Unlock()
	r.remove(b)
	return true
}

// pause waits after a failure. A flush or the end cuts it short.
func (r *Reporter) pause(ctx context.Context, failures int, err error) bool {
	d := r.backoff(failures)
	var e *UploadError
	if errors.As(err, &e) {
		d = max(d, e.RetryAfter)
	}
	next := func(at time.Time) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.stats.NextAttempt = at
	}
	next(r.o.Now().Add(d))
	defer next(time.Time{})
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-r.urge:
	case <-ctx.Done():
		return false
	}
	return true
}

// backoff returns how long to wait after n failures in a row.
func (r *Reporter) backoff(n int) time.Duration {
	d := r.o.RetryMin
	for ; n > 1 && d < r.o.RetryMax; n-- {
		d *= 2
	}
	d = min(d, r.o.RetryMax)
	return d/2 + rand.N(d/2+1)
}
