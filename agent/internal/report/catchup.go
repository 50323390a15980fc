package report

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/google/gopacket"

	"example.org/threatstopd/capture"
)

// chunk is how many packets of a file are looked at under one lock.
const chunk = 256

// catch reads what pflogd has logged in the watermark's gaps.
func (r *Reporter) catch(ctx context.Context) {
	if r.o.LogsDone != nil {
		defer r.o.LogsDone()
	}
	if len(r.gaps()) == 0 {
		r.setCatchUp("none: first start")
		r.o.Log.Info().Msg("first start: nothing to catch up with")
		return
	}
	r.setCatchUp("waiting for a policy")
	if !r.o.All {
		select {
		case <-r.havePolicy:
		case <-ctx.Done():
			return
		}
	}
	r.setCatchUp("waiting for pflogd")
	if !r.awaitFirst(ctx) {
		return
	}
	if r.o.FlushLogs != nil {
		if err := r.o.FlushLogs(); err != nil {
			r.o.Log.Warn().Err(err).Msg("pflogd not asked to write out: what it still holds is reported at the next start")
		}
	}
	if !sleep(ctx, r.o.LogSettle) {
		return
	}
	files, err := r.o.Logs()
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	if err != nil {
		r.setCatchUp("failed: " + err.Error())
		r.o.Trouble(TroubleLogs, "not caught up with what was logged while the agent was down: "+err.Error())
		r.o.Log.Error().Err(err).Msg("pflogd's files not opened: not caught up")
		return
	}
	began := r.o.Now()
	gaps := r.gaps()
	for i, g := range gaps {
		r.setCatchUp(fmt.Sprintf("reading %d files for gap %d of %d", len(files), i+1, len(gaps)))
		if !r.fill(ctx, files, g) {
			r.setCatchUp("interrupted")
			return
		}
	}
	r.setCatchUp("done")
	r.o.Log.Info().Int("files", len(files)).Int64("packets", r.gapLane.seen.Load()).Int64("hits", r.gapLane.hits.Load()).Time("since", gaps[0].From.time()).
		Dur("elapsed", r.o.Now().Sub(began)).Msg("caught up with what was logged while the agent was down")
}

// awaitFirst waits for the first live packet that was matched, so that files are read
// up to exactly that. If none comes, the end is the time from which on one would have
// been matched.
func (r *Reporter) awaitFirst(ctx context.Context) bool {
	t := time.NewTimer(r.firstWait)
	defer t.Stop()
	select {
	case <-r.first:
	case <-t.C:
		since := r.started
		if m := r.matcher.Load(); m != nil && m.since.After(since) {
			since = m.since
		}
		r.beginLive(timeMark(since))
	case <-ctx.Done():
		return false
	}
	return true
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// A spot is a record in one of several files, from 0.
type spot struct{ file, record int }

func (s spot) less(o spot) bool {
	return s.file < o.file || s.file == o.file && s.record < o.record
}

// logReader reads the records of a file from its beginning, once more each time.
func logReader(f *os.File) (*capture.FileReader, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	return capture.NewFileReader(f)
}

// find looks for the packets of the gap's marks, newest file first, since that is where
// they are nearly always.
func (r *Reporter) find(ctx context.Context, files []*os.File, g gap) (from, until *spot) {
	var p capture.Packet
	for i := len(files) - 1; i >= 0; i-- {
		if !g.From.packet() && (!g.Until.packet() || until != nil) {
			break
		}
		fr, err := logReader(files[i])
		for n := 0; err == nil && ctx.Err() == nil; n++ {
			var data []byte
			var ci gopacket.CaptureInfo
			if data, ci, err = fr.ZeroCopyReadPacketData(); err != nil {
				break
			}
			usec := ci.Timestamp.UnixMicro()
			if usec != g.From.usec && usec != g.Until.usec {
				continue
			}
			_ = p.Decode(data, ci) // what is there of a damaged one identifies it as well
			m := markOf(&p)
			if m.is(g.From) {
				from = &spot{i, n}
			}
			if m.is(g.Until) && (until == nil || until.file > i) {
				until = &spot{i, n}
			}
		}
		if from != nil {
			break
		}
	}
	return from, until
}

// fill reads a gap. It returns false when ctx has ended it early.
func (r *Reporter) fill(ctx context.Context, files []*os.File, g gap) bool {
	from, until := r.find(ctx, files, g)
	l := r.gapLane
	l.mu.Lock()
	l.matcher = r.matcher.Load()
	l.mu.Unlock()
	start := 0
	if from != nil {
		start = from.file
	}
	oldest := true
	for i := start; i < len(files); i++ {
		if until != nil && i > until.file {
			break
		}
		fr, err := logReader(files[i])
		if err != nil {
			if !errors.Is(err, io.EOF) {
				r.o.Log.Warn().Str("file", files[i].Name()).Err(err).Msg("file of pflogd passed over")
			}
			continue
		}
		wanted := func(t time.Time, n int) bool {
			at := spot{i, n}
			if from != nil {
				if at.less(*from) || at == *from && !g.From.before {
					return false
				}
			} else if t.UnixMicro() < g.From.usec {
				return false
			}
			if until != nil {
				return at.less(*until)
			}
			return t.UnixMicro() < g.Until.usec
		}
		err = r.fillFrom(ctx, fr, wanted, func(first time.Time) {
			if oldest && from == nil && g.From.packet() && first.UnixMicro() > g.From.usec {
				r.o.Log.Warn().Time("until", g.From.time()).Time("oldest", first).
					Msg("pflogd's files do not go back to where reporting ended: what is between is not reported")
			}
			oldest = false
		})
		switch {
		case ctx.Err() != nil:
			return false
		case err == nil:
		case errors.Is(err, io.ErrUnexpectedEOF) && i == len(files)-1:
			// pflogd is in the middle of writing it.
		default:
			r.o.Log.Warn().Str("file", files[i].Name()).Err(err).Msg("file of pflogd not readable to the end")
		}
	}
	return r.endGap(ctx)
}

// fillFrom looks at the records of one file that are wanted. first is called with the time of
// the file's first record.
func (r *Reporter) fillFrom(ctx context.Context, fr *capture.FileReader, wanted func(time.Time, int) bool, first func(time.Time)) error {
	l := r.gapLane
	for n := 0; ; {
		if err := r.gapBatch(ctx); err != nil {
			return err
		}
		err := func() error {
			l.mu.Lock()
			defer l.mu.Unlock()
			for range chunk {
				data, ci, err := fr.ZeroCopyReadPacketData()
				if err != nil {
					return err
				}
				if n == 0 {
					first(ci.Timestamp)
				}
				// The live capture has the filter in the kernel.
				if wanted(ci.Timestamp, n) && r.o.Filter.Match(data) {
					l.examine(data, ci)
				}
				n++
				if l.cur == nil {
					return nil // full: wait for another one without the lock
				}
			}
			return nil
		}()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// gapBatch sees to it that there is a batch to write to. Catching up is in no hurry:
// it waits for one, and while the spool is more than half full, since pflogd's files
// keep what would push other hits out of it.
func (r *Reporter) gapBatch(ctx context.Context) error {
	l := r.gapLane
	l.mu.Lock()
	have := l.cur != nil
	l.mu.Unlock()
	if have {
		return ctx.Err()
	}
	for r.Stats().Spool.DiskBytes > r.o.SpoolMax/2 {
		if !sleep(ctx, time.Second) {
			return ctx.Err()
		}
	}
	select {
	case text := <-l.free:
		l.mu.Lock()
		l.begin(text)
		l.mu.Unlock()
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// endGap closes the gap with its last batch, which may be empty.
func (r *Reporter) endGap(ctx context.Context) bool {
	for {
		if r.gapBatch(ctx) != nil {
			return false
		}
		l := r.gapLane
		l.mu.Lock()
		if l.cur == nil {
			// An interval ended in between.
			l.mu.Unlock()
			continue
		}
		l.cur.ends = true
		l.close(l.last.mark())
		l.last = packetKey{}
		l.mu.Unlock()
		return true
	}
}
