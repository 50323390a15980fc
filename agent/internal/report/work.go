package report

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"time"

	"example.org/threatstopd/agent/internal/status"
)

// The way of the batches from memory to the disk, and from there to the server. One goroutine
// goes it: it holds mu but for when it waits for the disk, or for an event; nobody else
// changes more than the queue's end and the watermark's beginning.
//
// The watermark says what need not be read again. It never passes a hit that is not durable.
// A slice of gaps is never changed once it is in a watermark.

const (
	aDay        = 24 * time.Hour // until what the server refused is sent again
	maxRejected = 3              // 4xx for the oldest batch, until the next one is tried
)

// An attempt is a batch that was sent to the server, and the answer.
type attempt struct {
	*batch
	text  []byte
	began time.Time
	err   error
}

// work saves batches as they are closed and sends them, one at a time, the oldest first.
// At the end it tries what is left, until an attempt fails or ctx ends.
func (r *Reporter) work(ctx context.Context) {
	interval, tick := time.NewTicker(r.o.Interval), time.NewTicker(respool)
	defer interval.Stop()
	defer tick.Stop()
	r.mu.Lock()
	for n := 1; ; {
		r.saveAll()
		if r.sending == nil && r.up.Next.IsZero() && ctx.Err() == nil {
			r.startNext(ctx)
		}
		if r.sending == nil && r.finishing {
			break
		}
		r.mu.Unlock()
		select {
		case <-r.wake:
			r.mu.Lock()
		case <-interval.C:
			r.mu.Lock()
			r.closeLive()
			_ = r.persist()
		case <-tick.C:
			if n++; n%6 == 0 {
				r.saveCounters()
			}
			r.mu.Lock()
			r.expire()
		case a := <-r.sent:
			r.mu.Lock()
			r.settle(ctx, a)
		}
	}
	r.pause.Stop()
	r.ended = true
	r.answer(errStopped)
	// What can be kept nowhere. pflogd's files may still have it: the watermark has not moved over it.
	for _, b := range r.unsaved() {
		r.lose(status.DropUnsaved, b.lines)
	}
	r.queue = r.queue[:len(r.queue)-len(r.unsaved())]
	_ = r.persist()
	r.mu.Unlock()
	r.saveCounters()
}

// unlocked runs f, which waits for the disk, without mu.
func (r *Reporter) unlocked(f func() error) error {
	r.mu.Unlock()
	defer r.mu.Lock()
	return f()
}

// answer ends the flushes that wait.
func (r *Reporter) answer(err error) {
	for _, w := range r.waiters {
		w <- err
	}
	r.waiters = nil
}

// saveAll writes what has no file to the disk, as far as that takes it. What is behind a batch
// that the server is given from memory must not be durable before that.
func (r *Reporter) saveAll() {
	for len(r.unsaved()) > 0 && r.sending != r.unsaved()[0] {
		err := r.save(r.unsaved()[0])
		switch {
		case err != nil && r.diskErr == nil:
			r.o.Log.Error().Err(err).Msg("hits stay in memory: the spool does not take them")
			r.o.Trouble(TroubleSpool, fmt.Sprintf("hits stay in memory: %v: make room there, or see what is wrong with the disk", err))
		case err == nil && r.diskErr != nil:
			r.o.Log.Info().Msg("the spool takes hits again")
			r.o.Trouble(TroubleSpool, "")
		}
		if r.diskErr = err; err != nil {
			return // until the next tick
		}
	}
}

// save writes a batch's file, and moves the watermark over it.
func (r *Reporter) save(b *batch) (err error) {
	// Make room: the oldest go.
	for size := int64(len(b.text) + maxHeader/8); ; {
		spool := volume(r.queue)
		i := slices.IndexFunc(r.queue, func(b *batch) bool { return b.name != "" && b != r.sending })
		if spool.Bytes+size <= r.o.SpoolMax-r.o.SpoolMax/asideShare && spool.Batches < maxFiles || i < 0 {
			break
		}
		r.drop(r.queue[i], status.DropSpoolFull)
	}
	w := r.after(b)
	var size int64
	err = r.unlocked(func() (err error) { size, err = r.dir.write(b, b.text, &w); return err })
	if err != nil {
		return err
	}
	r.wm = r.after(b)
	b.dir, b.name, b.size, b.gen, b.text = r.dir, b.fileName(), size, w.Gen, nil
	r.newest = b.gen
	return nil
}

// take takes a batch off the queue, or off those set aside.
func (r *Reporter) take(b *batch) {
	is := func(x *batch) bool { return x == b }
	r.queue, r.aside = slices.DeleteFunc(r.queue, is), slices.DeleteFunc(r.aside, is)
}

// drop takes off a batch that has a file, for one of the status.Drop… reasons.
func (r *Reporter) drop(b *batch, reason string) {
	r.take(b)
	r.lose(reason, b.lines)
	r.remove(b)
}

// remove removes a batch's file. What cannot be removed is tried again later; at worst the batch is
// sent once more by the next process, under the same id.
func (r *Reporter) remove(b *batch) {
	if b.name != "" {
		r.undeleted = append(r.undeleted, b)
		r.removeFiles()
	}
}

// removeFiles removes the files of batches that are dealt with. The watermark must be in its own file
// before the newest batch goes.
func (r *Reporter) removeFiles() {
	needed := func(b *batch) bool { return b.gen >= r.newest && b.gen > r.filed }
	if slices.ContainsFunc(r.undeleted, needed) {
		_ = r.persist()
	}
	_ = r.unlocked(func() error {
		r.undeleted = slices.DeleteFunc(r.undeleted, func(b *batch) bool {
			if needed(b) {
				return false
			}
			err := os.Remove(b.path())
			return err == nil || errors.Is(err, fs.ErrNotExist)
		})
		return nil
	})
}

// expire drops what is older than SpoolAge, waiting or set aside, and tries again to remove
// files.
func (r *Reporter) expire() {
	for _, b := range slices.Concat(r.queue, r.aside) {
		if b.name != "" && b != r.sending && r.expired(b) {
			r.drop(b, status.DropSpoolAge)
		}
	}
	r.removeFiles()
}

// expired reports whether a batch is past its age. Those of this process have a monotonic time: the
// wall clock may be set.
func (r *Reporter) expired(b *batch) bool {
	return r.o.SpoolAge > 0 && r.o.Now().Sub(b.created) > r.o.SpoolAge
}

// startNext sends the next batch, if there is one. When nothing waits, flushes have their
// answer.
func (r *Reporter) startNext(ctx context.Context) {
	for {
		if len(r.queue) == 0 {
			r.answer(nil)
			if !r.finishing && !r.o.Now().Before(r.retryAt) {
				r.retryAt = r.o.Now().Add(aDay)
				for _, b := range r.aside {
					b.due = true
				}
			}
		}
		b := r.pick()
		switch {
		case b == nil:
			return
		case b.name != "" && r.expired(b):
			r.drop(b, status.DropSpoolAge)
			continue
		}
		text := b.text
		if b.name != "" {
			err := r.unlocked(func() (err error) { text, _, err = readText(b.path()); return err })
			if err != nil {
				r.o.Log.Warn().Err(err).Str("file", b.name).Int("lines", b.lines).Msg("batch not readable: lost")
				r.drop(b, status.DropSpoolDamage)
				continue
			}
		}
		r.sending = b
		began := r.o.Now()
		go func() { r.sent <- attempt{b, text, began, r.o.Sender.Send(ctx, b.id, text)} }()
		return
	}
}

// pick returns the oldest batch that can be sent: the next one where the server does not want
// the oldest, one without a file only while the disk takes none. When nothing waits, it is
// the turn of what the server refused earlier. A batch without a file is never passed over:
// the watermark would be.
func (r *Reporter) pick() *batch {
	if len(r.queue) == 0 {
		if i := slices.IndexFunc(r.aside, func(b *batch) bool { return b.due }); i >= 0 {
			return r.aside[i]
		}
		return nil
	}
	b := r.queue[0]
	if len(r.queue) > 1 && b.rejected >= maxRejected && !b.proven && b.name != "" {
		b = r.queue[1]
	}
	if b.name == "" && r.diskErr == nil {
		return nil
	}
	return b
}

// settle deals with the answer to an attempt.
func (r *Reporter) settle(ctx context.Context, a attempt) {
	b, err, u := a.batch, a.err, &r.up
	r.sending = nil
	var e *UploadError
	errors.As(err, &e)
	var passed *batch // the oldest, when b was tried in its place
	if len(r.queue) > 0 && r.queue[0] != b && b.dir != r.refused && r.queue[0].rejected >= maxRejected {
		passed = r.queue[0]
	}
	switch {
	case err == nil:
		r.delivered(a)
		if passed != nil {
			// Once more: the server may take everything since a moment ago.
			passed.proven = true
		}
		return
	case ctx.Err() != nil: // cut off by the end, which is not the server's fault
		r.counters.Failures++
		return
	case b.dir == r.refused:
		r.o.Log.Debug().Err(err).Str("batch", b.id.String()).Msg("refused batch not delivered")
		for _, x := range r.aside {
			// Unless it is about the content the server takes nothing now.
			x.due = x.due && x != b && e.Content()
		}
		return
	}
	u.Tried, u.Error, u.Advice = r.o.Now(), err.Error(), ""
	if e != nil {
		u.Error, u.Advice = e.reason(), e.advice()
	}
	switch {
	case e.Content() && e.Status == http.StatusRequestEntityTooLarge && r.split(b, a.text):
	case e.Content(), b.proven && e.ofBatch():
		r.refuse(b, err, e)
	case passed != nil:
		passed.rejected = 0
		r.retreat(b, err, e)
	default:
		if e.ofBatch() {
			b.rejected++
		}
		r.retreat(b, err, e)
	}
}

// retreat pauses after a failure: RetryMin, doubled with each up to RetryMax, half of it
// random, or as long as the server asks for. A flush or the end cuts it short.
func (r *Reporter) retreat(b *batch, err error, e *UploadError) {
	now, event := r.o.Now(), r.o.Log.Debug()
	r.counters.Failures++
	if r.row++; r.row == 1 {
		r.up.FailingSince = now
		event = r.o.Log.Warn()
	}
	event.Err(err).Str("batch", b.id.String()).Int("lines", b.lines).Int64("failures", r.row).
		Msg("hits not delivered, kept for later")
	d := min(r.o.RetryMin<<min(r.row-1, 20), r.o.RetryMax)
	d = d/2 + rand.N(d/2+1)
	if e != nil {
		d = max(d, e.RetryAfter)
	}
	r.up.Next = now.Add(d)
	r.pause.Reset(d)
	r.answer(err)
}

// delivered removes a batch.
func (r *Reporter) delivered(a attempt) {
	b, now, u := a.batch, r.o.Now(), &r.up
	if r.row > 0 {
		r.o.Log.Info().Int64("failures", r.row).Dur("after", now.Sub(u.FailingSince)).Msg("uploads work again")
	}
	r.row, r.refusing = 0, false
	u.Tried, u.Error, u.Advice, u.FailingSince = now, "", "", time.Time{}
	size := int64(len(a.text))
	r.counters.Last = &status.Upload{At: now, Lines: int64(b.lines), Bytes: size, Took: status.InSeconds(now.Sub(a.began))}
	add(&r.counters.Delivered, b.lines, size)
	r.o.Log.Info().Str("batch", b.id.String()).Int("lines", b.lines).Int("bytes", len(a.text)).
		Msg("Log file uploaded successfully for " + r.o.DeviceID)
	r.take(b)
	if b.name == "" {
		r.wm = r.after(b)
		_ = r.persist()
	}
	r.remove(b)
}

// refuse moves a batch that the server does not take to refused/, and drops the oldest there to make room.
// One that the disk does not take either is lost.
func (r *Reporter) refuse(b *batch, why error, e *UploadError) {
	r.up.AsideError = why.Error()
	if e != nil && e.Status != 0 {
		r.up.AsideError = strconv.Itoa(e.Status)
	}
	log := r.o.Log.Debug()
	if !r.refusing {
		log = r.o.Log.Warn()
	}
	r.refusing = true
	log = log.AnErr("reason", why).Str("batch", b.id.String()).Int("lines", b.lines)

	err := r.diskErr
	moved := *b
	moved.dir, moved.rejected, moved.proven = r.refused, 0, false
	if b.name == "" {
		r.wm = r.after(b)
	} else {
		for len(r.aside) > 0 && volume(r.aside).Bytes+b.size > r.o.SpoolMax/asideShare {
			r.drop(r.aside[0], status.DropRefused)
		}
		err = r.unlocked(func() error {
			if err := r.checkDir(r.refused); err != nil {
				return err
			}
			// A rename takes no room on a full disk.
			if err := os.Rename(b.path(), moved.path()); err != nil {
				return err
			}
			return errors.Join(r.refused.sync(), r.dir.sync())
		})
	}
	r.take(b)
	if err != nil {
		r.lose(status.DropRefused, b.lines)
		r.remove(b)
		log.Err(err).Msg("log server refuses a batch, and it cannot be set aside: lost")
		return
	}
	r.aside = append(r.aside, &moved)
	log.Str("dir", string(r.refused)).Msg("log server refuses a batch: set aside in the spool")
}

// split replaces a batch that is too large for the server by two halves. It returns false for
// a single line, and when the disk does not take the halves.
func (r *Reporter) split(b *batch, text []byte) bool {
	first, second, ok := halves(text)
	if !ok {
		return false
	}
	var parts []*batch
	for i, t := range [][]byte{first, second} {
		p := &batch{id: b.id.half(byte(i)), created: b.created, lines: bytes.Count(t, []byte("\n")), gap: b.gap}
		parts = append(parts, p)
		if b.name == "" {
			p.text = t
			continue
		}
		err := r.unlocked(func() error {
			_, w, err := readText(b.path())
			if err == nil {
				p.size, err = r.dir.write(p, t, &w)
			}
			p.dir, p.name, p.gen = r.dir, p.fileName(), w.Gen
			return err
		})
		if err != nil {
			r.o.Log.Warn().Err(err).Str("batch", b.id.String()).Msg("batch too large for the log server, and not halved")
			return false
		}
	}
	parts[1].mark, parts[1].ends = b.mark, b.ends
	// A kill between the halves and their parent's end leaves all three.
	r.queue = slices.DeleteFunc(r.queue, func(x *batch) bool { return x.id == parts[0].id || x.id == parts[1].id })
	i := slices.Index(r.queue, b)
	r.queue = slices.Replace(r.queue, i, i+1, parts...)
	r.remove(b)
	return true
}
