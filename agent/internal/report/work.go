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
	"path/filepath"
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
	// aDay is how often what the server refused is sent again.
	aDay = 24 * time.Hour
	// maxRejected is after how many 4xx for the oldest batch the next one is tried.
	maxRejected = 3
)

// An attempt is a batch on its way to the server.
type attempt struct {
	*batch
	text  []byte
	began time.Time
	done  chan error
}

// work saves batches as they are closed and sends them, one at a time, the oldest first.
// When end is closed it tries what is left, until an attempt fails or ctx ends.
func (r *Reporter) work(ctx context.Context, end <-chan struct{}) {
	interval, minute := time.NewTicker(r.o.Interval), time.NewTicker(time.Minute)
	defer interval.Stop()
	defer minute.Stop()
	r.pauseTimer, r.diskTimer = time.NewTimer(0), time.NewTimer(0)
	defer r.pauseTimer.Stop()
	defer r.diskTimer.Stop()
	r.mu.Lock()
	r.retry, r.retryAt = slices.Clone(r.aside), r.o.Now().Add(aDay)
	for finishing := false; ; {
		r.saveAll()
		if r.sending == nil && !r.paused && ctx.Err() == nil {
			r.startNext(ctx, finishing)
		}
		if r.sending == nil && finishing {
			break
		}
		var sent chan error
		if r.sending != nil {
			sent = r.sending.done
		}
		r.mu.Unlock()
		select {
		case <-r.wake:
			r.mu.Lock()
		case <-interval.C:
			r.closeLive()
			r.mu.Lock()
			_ = r.persist()
		case <-minute.C:
			r.saveCounters()
			r.mu.Lock()
			r.expire()
		case <-r.diskTimer.C:
			r.mu.Lock()
		case err := <-sent:
			r.mu.Lock()
			r.settle(ctx, err)
		case <-r.pauseTimer.C:
			r.mu.Lock()
			r.resume()
		case w := <-r.flushes:
			r.closeLive()
			r.mu.Lock()
			r.waiters = append(r.waiters, w)
			r.resume()
		case <-end:
			r.closeLive()
			r.mu.Lock()
			r.resume()
			finishing, end = true, nil
		}
	}
	r.answer(errStopped)
	r.abandon()
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

// resume ends the pause after a failure.
func (r *Reporter) resume() { r.paused, r.up.Next = false, time.Time{} }

// answer ends the flushes that wait.
func (r *Reporter) answer(err error) {
	for _, w := range r.waiters {
		w <- err
	}
	r.waiters = nil
}

// closeLive closes the live batch that is being filled, or moves the watermark over packets
// that were no hits. mu is not held.
func (r *Reporter) closeLive() {
	last, idle := r.liveLane.flush()
	r.mu.Lock()
	defer r.mu.Unlock()
	idle = idle && !slices.ContainsFunc(r.queue, func(b *batch) bool { return b.name == "" })
	if idle && !last.zero() && last != r.wm.Done {
		r.wm.Gen++
		r.wm.Done = last
	}
}

// saveAll writes what has no file to the disk, as far as that takes it. What is behind a batch
// that the server is given from memory must not be durable before that.
func (r *Reporter) saveAll() {
	for {
		i := slices.IndexFunc(r.queue, func(b *batch) bool { return b.name == "" })
		if i < 0 || r.busy(r.queue[i]) {
			return
		}
		b := r.queue[i]
		if b.lines == 0 {
			r.wm = r.after(b)
			r.take(b)
			continue
		}
		err := r.save(b)
		switch {
		case err != nil && r.diskErr == nil:
			r.o.Log.Error().Err(err).Msg("hits stay in memory: the spool does not take them")
			r.o.Trouble(TroubleSpool, fmt.Sprintf("hits stay in memory: %v: make room there, or see what is wrong with the disk", err))
		case err == nil && r.diskErr != nil:
			r.o.Log.Info().Msg("the spool takes hits again")
			r.o.Trouble(TroubleSpool, "")
		}
		if r.diskErr = err; err != nil {
			r.diskTimer.Reset(respool)
			return
		}
	}
}

// save writes a batch's file, and moves the watermark over it.
func (r *Reporter) save(b *batch) (err error) {
	r.makeRoom(int64(len(b.text) + maxHeader/8))
	w := r.after(b)
	var size int64
	err = r.unlocked(func() (err error) { size, err = r.dir.write(b, b.text, &w); return err })
	if err != nil {
		return err
	}
	b.name, b.size, b.gen = b.fileName(), size, w.Gen
	r.newest = b.gen
	r.wm = r.after(b)
	r.release(b)
	return nil
}

// busy reports whether b is on its way to the server.
func (r *Reporter) busy(b *batch) bool { return r.sending != nil && r.sending.batch == b }

// release gives back the text of a batch that is durable, or dealt with.
func (r *Reporter) release(b *batch) {
	if b.text != nil {
		r.left += int64(b.lines)
	}
	if b.buf != nil {
		b.buf <- b.text[:0]
	}
	b.text, b.buf = nil, nil
}

// take takes a batch off the queue, or off those set aside.
func (r *Reporter) take(b *batch) {
	for _, q := range []*[]*batch{&r.queue, &r.aside, &r.retry} {
		*q = slices.DeleteFunc(*q, func(x *batch) bool { return x == b })
	}
	r.release(b)
}

// drop takes off a batch that has a file, for one of the status.Drop… reasons.
func (r *Reporter) drop(b *batch, reason string) {
	r.take(b)
	r.lose(reason, b.lines)
	r.remove(b)
}

// makeRoom drops the oldest batches until one of so many bytes fits.
func (r *Reporter) makeRoom(size int64) {
	for {
		spool := volume(r.queue)
		i := slices.IndexFunc(r.queue, func(b *batch) bool { return b.name != "" && !r.busy(b) })
		if spool.Bytes+size <= r.o.SpoolMax-r.o.SpoolMax/asideShare && spool.Batches < maxFiles || i < 0 {
			return
		}
		r.drop(r.queue[i], status.DropSpoolFull)
	}
}

// remove removes a batch's file. The watermark must be in its own file before the newest
// batch goes. What cannot be removed is tried again later; at worst the batch is sent once
// more by the next process, under the same id.
func (r *Reporter) remove(b *batch) {
	if b.name == "" {
		return
	}
	r.undeleted = append(r.undeleted, r.path(b))
	r.owing = r.owing || b.gen >= r.newest && b.gen > r.filed
	r.removeFiles()
}

func (r *Reporter) removeFiles() {
	if r.owing && r.persist() != nil {
		return
	}
	r.owing = false
	files := r.undeleted
	_ = r.unlocked(func() error {
		files = slices.DeleteFunc(files, func(path string) bool {
			err := os.Remove(path)
			return err == nil || errors.Is(err, fs.ErrNotExist)
		})
		return nil
	})
	r.undeleted = files
}

// path returns the path of a batch's file.
func (r *Reporter) path(b *batch) string {
	if b.aside {
		return filepath.Join(string(r.refused), b.name)
	}
	return filepath.Join(string(r.dir), b.name)
}

// expire drops what is older than SpoolAge, waiting or set aside, and tries again to remove
// files.
func (r *Reporter) expire() {
	for _, b := range slices.Concat(r.queue, r.aside) {
		if b.name != "" && !r.busy(b) && r.expired(b) {
			r.drop(b, status.DropSpoolAge)
		}
	}
	r.removeFiles()
}

// expired reports whether a batch is past its age. The wall clock may be set while batches
// wait; a batch of this process is never older than the process.
func (r *Reporter) expired(b *batch) bool {
	now := r.o.Now()
	age := now.Sub(b.created)
	if b.own {
		age = min(age, now.Sub(r.started))
	}
	return r.o.SpoolAge > 0 && age > r.o.SpoolAge
}

// startNext sends the next batch, if there is one. When nothing waits, flushes have their
// answer.
func (r *Reporter) startNext(ctx context.Context, finishing bool) {
	for {
		if len(r.queue) == 0 {
			r.answer(nil)
			if len(r.retry) == 0 && !finishing && !r.o.Now().Before(r.retryAt) {
				r.retry, r.retryAt = slices.Clone(r.aside), r.o.Now().Add(aDay)
			}
		}
		b := r.pick()
		if b == nil {
			return
		}
		text := b.text
		if b.name != "" {
			if text = r.readFile(b); text == nil {
				continue
			}
		}
		a := &attempt{b, text, r.o.Now(), make(chan error, 1)}
		r.sending = a
		go func() { a.done <- r.o.Sender.Send(ctx, b.id, text) }()
		return
	}
}

// pick returns the oldest batch that can be sent: the next one where the server does not want
// the oldest, one without a file only while the disk takes none. When nothing waits, it is
// the turn of what the server refused earlier. A batch without a file is never passed over:
// the watermark would be.
func (r *Reporter) pick() *batch {
	var b *batch
	switch {
	case len(r.queue) > 1 && r.queue[0].rejected >= maxRejected && !r.queue[0].proven && r.queue[0].name != "":
		b = r.queue[1]
	case len(r.queue) > 0:
		b = r.queue[0]
	case len(r.retry) > 0:
		b = r.retry[0]
	}
	if b == nil || b.lines == 0 || b.name == "" && r.diskErr == nil {
		return nil
	}
	return b
}

// readFile reads a batch's file. One that is too old or not readable any more is dropped.
func (r *Reporter) readFile(b *batch) (text []byte) {
	if r.expired(b) {
		r.drop(b, status.DropSpoolAge)
		return nil
	}
	err := r.unlocked(func() (err error) { text, _, err = readBatch(r.path(b)); return err })
	if err != nil {
		r.o.Log.Warn().Err(err).Str("file", b.name).Int("lines", b.lines).Msg("batch not readable: lost")
		r.drop(b, status.DropSpoolDamage)
		return nil
	}
	return text
}

// settle deals with the answer to an attempt.
func (r *Reporter) settle(ctx context.Context, err error) {
	a := r.sending
	b, text := a.batch, a.text
	r.sending = nil
	if r.note(ctx, a, err) {
		return
	}
	var e *UploadError
	errors.As(err, &e)
	content := e != nil && e.Content()
	var passed *batch // the oldest, when b was tried in its place
	if len(r.queue) > 0 && r.queue[0] != b && !b.aside && r.queue[0].rejected >= maxRejected {
		passed = r.queue[0]
	}
	switch {
	case b.aside && err != nil:
		if r.retry = r.retry[1:]; !content {
			r.retry = nil // the server takes nothing now
		}
	case err == nil:
		r.delivered(b)
		if passed != nil {
			// Once more: the server may take everything since a moment ago.
			passed.proven = true
		}
	case content && e.Status == http.StatusRequestEntityTooLarge && r.split(b, text):
	case content, b.proven && e != nil && e.ofBatch():
		r.refuse(b, text, err)
	default:
		switch {
		case passed != nil:
			passed.rejected = 0
		case e != nil && e.ofBatch():
			b.rejected++
		}
		r.retreat(err)
	}
}

// note keeps the books about an attempt. It returns true when that was cut off by the end,
// which is not the server's fault.
func (r *Reporter) note(ctx context.Context, b *attempt, err error) (cut bool) {
	now, log, u := r.o.Now(), r.o.Log, &r.up
	var e *UploadError
	errors.As(err, &e)
	switch {
	case err == nil:
		if r.row > 0 {
			log.Info().Int64("failures", r.row).Dur("after", now.Sub(u.FailingSince)).Msg("uploads work again")
		}
		r.row, r.refusing = 0, false
		u.Tried, u.Error, u.Advice, u.FailingSince = now, "", "", time.Time{}
		u.Last = &status.Upload{At: now, Lines: int64(b.lines), Bytes: int64(len(b.text)), Took: status.InSeconds(now.Sub(b.began))}
		add(&u.Delivered, b.lines, int64(len(b.text)))
		log.Info().Str("batch", b.id.String()).Int("lines", b.lines).Int("bytes", len(b.text)).
			Msg("Log file uploaded successfully for " + r.o.DeviceID)
	case ctx.Err() != nil:
		u.Failures++
		r.paused = true
		return true
	case b.aside:
		log.Debug().Err(err).Str("batch", b.id.String()).Msg("refused batch not delivered")
	default:
		u.Tried, u.Error, u.Advice = now, err.Error(), ""
		if e != nil {
			u.Advice = statuses[e.Status].advice
		}
		if e != nil && e.Content() {
			break
		}
		u.Failures++
		event := log.Debug()
		if r.row++; r.row == 1 {
			u.FailingSince = now
			event = log.Warn()
		}
		event.Err(err).Str("batch", b.id.String()).Int("lines", b.lines).Int64("failures", r.row).
			Msg("hits not delivered, kept for later")
	}
	return false
}

// retreat pauses after a failure: RetryMin, doubled with each up to RetryMax, half of it
// random, or as long as the server asks for. A flush or the end cuts it short.
func (r *Reporter) retreat(err error) {
	d := r.o.RetryMin
	for n := int64(1); n < r.row && d < r.o.RetryMax; n++ {
		d *= 2
	}
	d = min(d, r.o.RetryMax)
	d = d/2 + rand.N(d/2+1)
	if e := (*UploadError)(nil); errors.As(err, &e) {
		d = max(d, e.RetryAfter)
	}
	r.paused, r.up.Next = true, r.o.Now().Add(d)
	r.pauseTimer.Reset(d)
	r.answer(err)
}

// delivered removes a batch.
func (r *Reporter) delivered(b *batch) {
	if b.name == "" {
		r.wm = r.after(b)
	}
	r.take(b)
	if b.name == "" {
		_ = r.persist()
	}
	r.remove(b)
}

// refuse sets a batch aside that the server does not take.
func (r *Reporter) refuse(b *batch, text []byte, why error) {
	err := r.setAside(b, text)
	if b.name == "" {
		r.wm = r.after(b)
	}
	r.take(b)
	r.up.AsideError = why.Error()
	if e := (*UploadError)(nil); errors.As(why, &e) && e.Status != 0 {
		r.up.AsideError = strconv.Itoa(e.Status)
	}
	log := r.o.Log.Debug()
	if !r.refusing {
		log = r.o.Log.Warn()
	}
	r.refusing = true
	log = log.AnErr("reason", why).Str("batch", b.id.String()).Int("lines", b.lines)
	if err != nil {
		r.lose(status.DropRefused, b.lines)
		r.remove(b)
		log.Err(err).Msg("log server refuses a batch, and it cannot be set aside: lost")
		return
	}
	log.Str("dir", string(r.refused)).Msg("log server refuses a batch: set aside in the spool")
}

// setAside moves a batch to refused/, and drops the oldest there to make room. text is its text.
func (r *Reporter) setAside(b *batch, text []byte) error {
	size := max(b.size, int64(len(text))+maxHeader/8)
	for len(r.aside) > 0 && volume(r.aside).Bytes+size > r.o.SpoolMax/asideShare {
		r.drop(r.aside[0], status.DropRefused)
	}
	moved := &batch{id: b.id, created: b.created, lines: b.lines, own: b.own, aside: true, name: b.fileName(), size: b.size, gen: b.gen}
	w := r.after(b)
	err := r.unlocked(func() (err error) {
		if err = r.checkRefused(); err != nil {
			return err
		}
		if b.name == "" {
			moved.size, err = r.refused.write(moved, text, &w)
			return err
		}
		// A rename takes no room on a full disk.
		if err = os.Rename(r.path(b), r.path(moved)); err != nil {
			return err
		}
		return errors.Join(r.refused.sync(), r.dir.sync())
	})
	if err == nil {
		r.aside = append(r.aside, moved)
	}
	return err
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
		p := &batch{id: b.id.half(byte(i)), created: b.created, lines: bytes.Count(t, []byte("\n")), gap: b.gap, own: b.own}
		parts = append(parts, p)
		if b.name == "" {
			p.text = t
			continue
		}
		err := r.unlocked(func() error {
			_, w, err := readBatch(r.path(b))
			if err == nil {
				p.size, err = r.dir.write(p, t, &w)
			}
			p.name, p.gen = p.fileName(), w.Gen
			return err
		})
		if err != nil {
			r.o.Log.Warn().Err(err).Str("batch", b.id.String()).Msg("batch too large for the log server, and not halved")
			return false
		}
	}
	parts[1].buf, parts[1].mark, parts[1].ends = b.buf, b.mark, b.ends
	b.buf, b.text = nil, nil
	// A kill between the halves and their parent's end leaves all three.
	r.queue = slices.DeleteFunc(r.queue, func(x *batch) bool { return x.id == parts[0].id || x.id == parts[1].id })
	i := slices.Index(r.queue, b)
	r.queue = slices.Replace(r.queue, i, i+1, parts...)
	r.remove(b)
	return true
}

// abandon counts what can be kept nowhere at the end. pflogd's files may still have it: the
// watermark has not moved over it.
func (r *Reporter) abandon() {
	for _, b := range slices.Clone(r.queue) {
		if b.name == "" {
			r.lose(status.DropUnsaved, b.lines)
			r.take(b)
		}
	}
}

// beginWatermark makes the stretch from the last run's end to this run's beginning a gap.
// Nothing of that is written until this run has something durable, but at the first start:
// from then on there is a last time.
func (r *Reporter) beginWatermark() {
	r.mu.Lock()
	defer r.mu.Unlock()
	known := r.wm.Gen > 0
	w := watermark{Gen: r.wm.Gen + 1, Done: timeMark(r.started)}
	if r.o.Logs != nil {
		w.Gaps = slices.Clone(r.wm.Gaps)
		from := timeMark(r.started.Add(-r.o.Backfill))
		if known {
			from = r.wm.Done
		}
		if r.ownGap = known || r.o.Backfill > 0; r.ownGap {
			w.addGap(gap{From: from, Until: w.Done})
		}
	}
	r.wm = w
	if !known {
		_ = r.persist()
	}
}

// beginLive notes where live reporting begins: at a packet, or a time. The gap ends there.
func (r *Reporter) beginLive(m mark) {
	r.firstOnce.Do(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.wm.Gen++
		r.wm.Gaps = slices.Clone(r.wm.Gaps)
		if n := len(r.wm.Gaps); r.ownGap && n > 0 {
			r.wm.Gaps[n-1].Until = m
		}
		r.wm.Done = m
		r.wm.Done.Before = m.packet()
		close(r.first)
	})
}

// after returns what the watermark is once b is durable.
func (r *Reporter) after(b *batch) watermark {
	next := r.wm
	next.Gen++
	next.Gaps = slices.Clone(r.wm.Gaps)
	switch {
	case !b.gap && b.mark.zero(): // the first part of one that was halved
	case !b.gap:
		next.Done = b.mark
	case len(next.Gaps) == 0:
	case b.ends:
		next.Gaps = next.Gaps[1:]
	case !b.mark.zero():
		next.Gaps[0].From = b.mark
	}
	return next
}

// persist writes the watermark to its file, if that has an older one.
func (r *Reporter) persist() error {
	w := r.wm
	if r.filed == w.Gen {
		return nil
	}
	err := r.unlocked(func() error { return r.dir.writeWatermark(&w) })
	if err != nil {
		if !r.unfiled {
			r.o.Log.Warn().Err(err).Msg("watermark not written")
		}
		r.unfiled = true
		return err
	}
	r.filed = w.Gen
	return nil
}
