package report

// How the watermark moves. It says what need not be read again; everything here is
// about never letting it pass a hit that is not durable. Watermarks are copied around:
// a slice of gaps is never changed once it is in one.

// beginWatermark makes the stretch from the last run's end to this run's beginning a
// gap. Nothing of that is written until this run has something durable.
func (r *Reporter) beginWatermark() {
	r.wmMu.Lock()
	defer r.wmMu.Unlock()
	w := watermark{gen: r.wm.gen + 1, done: timeMark(r.started)}
	if r.o.Logs != nil {
		w.gaps = append(w.gaps, r.wm.gaps...)
		switch {
		case r.known:
			w.addGap(gap{from: r.wm.done, until: w.done})
			r.ownGap = true
		case r.o.Backfill > 0:
			w.addGap(gap{from: timeMark(r.started.Add(-r.o.Backfill)), until: w.done})
			r.ownGap = true
		}
	}
	r.wm = w
}

// firstLive says that live reporting begins with this packet: the gap ends in front
// of it.
func (r *Reporter) firstLive(m mark) {
	r.firstOnce.Do(func() {
		r.beginLive(m)
		close(r.first)
	})
}

func (r *Reporter) beginLive(m mark) {
	r.wmMu.Lock()
	defer r.wmMu.Unlock()
	r.wm.gen++
	r.wm.gaps = append([]gap(nil), r.wm.gaps...)
	if n := len(r.wm.gaps); r.ownGap && n > 0 {
		r.wm.gaps[n-1].until = m
	}
	r.wm.done = m
	r.wm.done.before = m.packet()
}

// after returns what the watermark is once b is durable.
func (r *Reporter) after(b *batch) watermark {
	r.wmMu.Lock()
	defer r.wmMu.Unlock()
	next := r.wm
	next.gaps = append([]gap(nil), r.wm.gaps...)
	next.gen++
	switch {
	case !b.lane.gap:
		next.done = b.mark
	case len(next.gaps) == 0:
	case b.ends:
		next.gaps = next.gaps[1:]
	case !b.mark.zero():
		next.gaps[0].from = b.mark
	}
	return next
}

// durable says that b is: on disk, or delivered.
func (r *Reporter) durable(b *batch) {
	w := r.after(b)
	r.wmMu.Lock()
	r.wm = w
	r.wmMu.Unlock()
}

// passed says that there was no hit up to m that is not durable.
func (r *Reporter) passed(m mark) {
	r.wmMu.Lock()
	defer r.wmMu.Unlock()
	r.wm.gen++
	r.wm.done = m
}

// gaps returns those that are to be read, oldest first.
func (r *Reporter) gaps() []gap {
	r.wmMu.Lock()
	defer r.wmMu.Unlock()
	return append([]gap(nil), r.wm.gaps...)
}

// persist writes the watermark to its file, if that has an older one. The path of the
// packets does not wait for it: the watermark is copied first.
func (r *Reporter) persist() error {
	r.fileMu.Lock()
	defer r.fileMu.Unlock()
	r.wmMu.Lock()
	w := r.wm
	r.wmMu.Unlock()
	if r.filed == w.gen {
		return nil
	}
	if err := writeWatermark(r.dir, &w); err != nil {
		r.watermarkErrors.Add(1)
		return err
	}
	r.filed = w.gen
	return nil
}
