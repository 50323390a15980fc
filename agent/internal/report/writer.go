package report

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// The way of the batches from memory to the disk. The watermark says what need not be read
// again; everything here is about never letting it pass a hit that is not durable. A slice of
// gaps is never changed once it is in a watermark.

// minute is how often the counters are saved and old batches looked for.
const minute = time.Minute

// write saves batches as they are closed, and closes them when their interval ends.
func (r *Reporter) write(stop <-chan struct{}) {
	tick, every := time.NewTicker(r.o.Interval), time.NewTicker(minute)
	defer tick.Stop()
	defer every.Stop()
	retry := time.NewTimer(0)
	defer retry.Stop()
	for {
		select {
		case <-r.wakeWriter:
		case <-tick.C:
			r.closeLanes()
			r.persist()
		case <-every.C:
			r.expire()
			r.saveCounters()
		case <-retry.C:
		case <-stop:
			r.closeLanes()
			r.saveAll()
			return
		}
		if !r.saveAll() {
			retry.Reset(respool)
		}
	}
}

// saveAll writes what is in memory to the disk, and returns false when that takes no more.
func (r *Reporter) saveAll() bool {
	for {
		b := r.unsaved()
		if b == nil {
			return true
		}
		if b.lines == 0 {
			r.mu.Lock()
			r.durable(b)
			r.take(b)
			r.mu.Unlock()
			continue
		}
		err := r.save(b)
		r.mu.Lock()
		b.busy = false
		was := r.diskErr
		if r.diskErr = err; err != nil {
			r.stats.SpoolErrors++
		}
		r.mu.Unlock()
		signal(r.wakeSender)
		switch {
		case err != nil:
			if was == nil {
				r.o.Log.Error().Err(err).Msg("hits stay in memory: the spool does not take them")
			}
			if was == nil {
				r.o.Trouble(TroubleSpool, fmt.Sprintf("hits stay in memory: %v: make room there, or see what is wrong with the disk", err))
			}
			return false
		case was != nil:
			r.o.Log.Info().Msg("the spool takes hits again")
			r.o.Trouble(TroubleSpool, "")
		}
	}
}

// unsaved returns the oldest batch that has no file, marked as busy; nil when there is none,
// or when the sender has it: what is behind it must not be durable before it.
func (r *Reporter) unsaved() *batch {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, b := range r.queue {
		if b.name == "" {
			if b.busy {
				return nil
			}
			b.busy = true
			return b
		}
	}
	return nil
}

// save writes a batch's file.
func (r *Reporter) save(b *batch) error {
	r.fileMu.Lock()
	defer r.fileMu.Unlock()
	r.makeRoom(int64(len(b.text) + maxHeader/8))
	r.mu.Lock()
	next := r.after(b)
	r.mu.Unlock()
	size, err := r.dir.write(b, b.text, &next)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	b.name, b.size, b.gen = b.fileName(), size, next.Gen
	r.newest = b.gen
	r.durable(b)
	r.release(b)
	return nil
}

// release gives back the text of a batch that is durable, or dealt with.
func (r *Reporter) release(b *batch) {
	if b.text != nil {
		r.inMemory -= int64(b.lines)
	}
	if b.buf != nil {
		b.buf <- b.text[:0]
	}
	b.text, b.buf = nil, nil
}

// makeRoom drops the oldest batches until one of so many bytes fits.
func (r *Reporter) makeRoom(size int64) {
	limit := r.o.SpoolMax - r.o.SpoolMax/asideShare
	for {
		r.mu.Lock()
		var used, files int64
		var oldest *batch
		for _, b := range r.queue {
			if b.name == "" {
				continue
			}
			used += b.size
			files++
			if oldest == nil && !b.busy {
				oldest = b
			}
		}
		if used+size <= limit && files < maxFiles || oldest == nil {
			r.mu.Unlock()
			return
		}
		r.take(oldest)
		r.stats.Lost.SpoolFull += int64(oldest.lines)
		r.mu.Unlock()
		r.remove(oldest)
	}
}

// take takes a batch off the queue, or off those set aside.
func (r *Reporter) take(b *batch) {
	for _, q := range []*[]*batch{&r.queue, &r.aside, &r.retry} {
		if i := slices.Index(*q, b); i >= 0 {
			*q = slices.Delete(*q, i, i+1)
		}
	}
	if b.text != nil || b.buf != nil {
		r.release(b)
	}
}

// remove removes a batch's file. The watermark must be in its own file before the newest
// batch goes. What cannot be removed is tried again later; at worst the batch is sent once
// more by the next process, under the same id. fileMu is held.
func (r *Reporter) remove(b *batch) {
	if b.name == "" {
		return
	}
	dir := r.dir
	if b.aside {
		dir = r.refused
	}
	r.mu.Lock()
	newest := b.gen >= r.newest && b.gen > r.filed
	r.undeleted = append(r.undeleted, filepath.Join(string(dir), b.name))
	r.mu.Unlock()
	if newest && r.persistLocked() != nil {
		return
	}
	r.removeFiles()
}

func (r *Reporter) removeFiles() {
	r.mu.Lock()
	files := r.undeleted
	r.undeleted = nil
	r.mu.Unlock()
	var left []string
	for _, path := range files {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			r.o.Log.Debug().Err(err).Msg("spool file not removed")
			left = append(left, path)
		}
	}
	r.mu.Lock()
	r.undeleted = append(r.undeleted, left...)
	if len(left) > 0 {
		r.stats.SpoolErrors++
	}
	r.mu.Unlock()
}

// expire drops what is older than SpoolAge, waiting or set aside, and tries again to remove
// files.
func (r *Reporter) expire() {
	r.fileMu.Lock()
	defer r.fileMu.Unlock()
	r.mu.Lock()
	var old []*batch
	for _, b := range slices.Concat(r.queue, r.aside) {
		if b.name != "" && !b.busy && r.expired(b) {
			old = append(old, b)
		}
	}
	for _, b := range old {
		r.take(b)
		r.stats.Lost.SpoolAge += int64(b.lines)
	}
	again := len(r.undeleted) > 0 && r.filed == r.wm.Gen
	r.mu.Unlock()
	for _, b := range old {
		r.remove(b)
	}
	if again {
		r.removeFiles()
	}
}

// expired reports whether a batch is past its age. The wall clock may be set while batches
// wait; a batch of this process is never older than the process.
func (r *Reporter) expired(b *batch) bool {
	if r.o.SpoolAge <= 0 {
		return false
	}
	now := r.o.Now()
	age := now.Sub(b.created)
	if b.own {
		age = min(age, now.Sub(r.started))
	}
	return age > r.o.SpoolAge
}

// setAside moves a batch to refused/. text is its text. fileMu is held.
func (r *Reporter) setAside(b *batch, text []byte) error {
	share := r.o.SpoolMax / asideShare
	for {
		r.mu.Lock()
		c := max(b.size, int64(len(text))+maxHeader/8)
		for _, a := range r.aside {
			c += a.size
		}
		if c <= share || len(r.aside) == 0 {
			r.mu.Unlock()
			break
		}
		oldest := r.aside[0]
		r.take(oldest)
		r.stats.Lost.Refused += int64(oldest.lines)
		r.mu.Unlock()
		r.remove(oldest)
	}
	if err := r.checkRefused(); err != nil {
		return err
	}
	r.mu.Lock()
	w := r.wm
	if b.name == "" {
		w = r.after(b)
	}
	r.mu.Unlock()
	moved := &batch{id: b.id, created: b.created, lines: b.lines, own: b.own, aside: true, name: b.fileName(), size: b.size, gen: b.gen}
	if b.name == "" {
		var err error
		if moved.size, err = r.refused.write(moved, text, &w); err != nil {
			return err
		}
	} else {
		// A rename takes no room on a full disk.
		if err := os.Rename(filepath.Join(string(r.dir), b.name), filepath.Join(string(r.refused), b.name)); err != nil {
			return err
		}
		if err := errors.Join(r.refused.sync(), r.dir.sync()); err != nil {
			return err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.aside = append(r.aside, moved)
	return nil
}

// abandon counts what can be kept nowhere at the end. pflogd's files may still have it: the
// watermark has not moved over it.
func (r *Reporter) abandon() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, b := range slices.Clone(r.queue) {
		if b.name == "" {
			r.stats.Lost.Unsaved += int64(b.lines)
			r.take(b)
		}
	}
}

// beginWatermark makes the stretch from the last run's end to this run's beginning a gap.
// Nothing of that is written until this run has something durable.
func (r *Reporter) beginWatermark() {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := watermark{Gen: r.wm.Gen + 1, Done: timeMark(r.started)}
	if r.o.Logs != nil {
		w.Gaps = slices.Clone(r.wm.Gaps)
		switch {
		case r.known:
			w.addGap(gap{From: r.wm.Done, Until: w.Done})
			r.ownGap = true
		case r.o.Backfill > 0:
			w.addGap(gap{From: timeMark(r.started.Add(-r.o.Backfill)), Until: w.Done})
			r.ownGap = true
		}
	}
	r.wm = w
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
		r.wm.Done.before = m.packet()
		close(r.first)
	})
}

// after returns what the watermark is once b is durable. mu is held.
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

// durable moves the watermark over b, which is on disk or delivered. mu is held.
func (r *Reporter) durable(b *batch) { r.wm = r.after(b) }

// gaps returns those that are to be read, oldest first.
func (r *Reporter) gaps() []gap {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.wm.Gaps)
}

// persist writes the watermark to its file, if that has an older one.
func (r *Reporter) persist() {
	r.fileMu.Lock()
	defer r.fileMu.Unlock()
	_ = r.persistLocked()
}

func (r *Reporter) persistLocked() error {
	r.mu.Lock()
	w := r.wm
	filed := r.filed
	r.mu.Unlock()
	if filed == w.Gen {
		return nil
	}
	err := r.dir.writeWatermark(&w)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		if r.stats.WatermarkErrors++; r.stats.WatermarkErrors == 1 {
			r.o.Log.Warn().Err(err).Msg("watermark not written")
		}
		return err
	}
	r.filed = w.Gen
	return nil
}
