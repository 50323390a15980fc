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

// catch reads what pflogd has logged in the watermark's gaps.
func (r *Reporter) catch(ctx context.Context) {
	nothing := len(r.gaps()) == 0
	if nothing {
		r.setCatchUp("none: first start")
		r.o.Log.Info().Msg("first start: nothing to catch up with")
	} else if !r.awaitPolicy(ctx) || !r.awaitFirst(ctx) {
		r.setCatchUp("interrupted")
	}
	files, err := r.o.Logs()
	defer closeAll(files)
	if nothing || ctx.Err() != nil {
		return
	}
	if err != nil {
		r.setCatchUp("failed: " + err.Error())
		r.o.Trouble(TroubleLogs, "not caught up with what was logged while the agent was down: "+err.Error())
		r.o.Log.Error().Err(err).Msg("pflogd's files not opened: not caught up")
		return
	}
	began := r.o.Now()
	gaps := r.gaps()
	defer r.gapLane.flush()
	for i, g := range gaps {
		r.setCatchUp(fmt.Sprintf("reading %d files for gap %d of %d", len(files), i+1, len(gaps)))
		if r.fill(ctx, files, g) != nil {
			r.setCatchUp("interrupted")
			return
		}
	}
	r.setCatchUp("done")
	n := r.gapLane.count()
	r.o.Log.Info().Int("files", len(files)).Int64("packets", n.Seen).Int64("hits", n.Hits).Time("since", gaps[0].From.time()).
		Dur("elapsed", r.o.Now().Sub(began)).Msg("caught up with what was logged while the agent was down")
}

// gaps returns those that are to be read, oldest first.
func (r *Reporter) gaps() []gap {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.wm.Gaps
}

func (r *Reporter) awaitPolicy(ctx context.Context) bool {
	r.setCatchUp("waiting for a policy")
	if r.o.all() {
		return true
	}
	select {
	case <-r.havePolicy:
		return true
	case <-ctx.Done():
		return false
	}
}

// awaitFirst waits for the first live packet that was matched, so that files are read
// up to exactly that. If none comes, the end is the time from which on one would have
// been matched.
func (r *Reporter) awaitFirst(ctx context.Context) bool {
	r.setCatchUp("waiting for pflogd")
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

// records calls f with each record of a file, numbered from 0, and returns how many there were.
func records(ctx context.Context, file *os.File, f func(n int, data []byte, ci gopacket.CaptureInfo) error) (n int, err error) {
	fr, err := logReader(file)
	for ; err == nil; n++ {
		if err = ctx.Err(); err != nil {
			break
		}
		var data []byte
		var ci gopacket.CaptureInfo
		if data, ci, err = fr.ZeroCopyReadPacketData(); err != nil {
			break
		}
		err = f(n, data, ci)
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

// find looks for the packets of the gap's marks, newest file first, since that is where
// they are nearly always.
func (r *Reporter) find(ctx context.Context, files []*os.File, g gap) (from, until *spot) {
	var p capture.Packet
	for i := len(files) - 1; i >= 0 && from == nil; i-- {
		if !g.From.packet() && (!g.Until.packet() || until != nil) {
			break
		}
		// What cannot be read is reported when the gap is filled.
		_, _ = records(ctx, files[i], func(n int, data []byte, ci gopacket.CaptureInfo) error {
			if usec := ci.Timestamp.UnixMicro(); usec != g.From.Usec && usec != g.Until.Usec {
				return nil
			}
			_ = p.Decode(data, ci) // what is there of a damaged one identifies it as well
			k := keyOf(&p)
			m := k.mark()
			if m.is(g.From) {
				from = &spot{i, n}
			}
			if m.is(g.Until) && (until == nil || until.file > i) {
				until = &spot{i, n}
			}
			return nil
		})
	}
	return from, until
}

// fill reads a gap. The error is that of ctx, which has ended it early.
func (r *Reporter) fill(ctx context.Context, files []*os.File, g gap) error {
	from, until := r.find(ctx, files, g)
	l := r.gapLane
	l.mu.Lock()
	l.matcher = r.matcher.Load()
	l.mu.Unlock()
	wanted := func(at spot, usec int64) bool {
		switch {
		case from != nil && (at.less(*from) || at == *from && !g.From.Before), from == nil && usec < g.From.Usec:
			return false
		case until != nil:
			return at.less(*until)
		}
		return usec < g.Until.Usec
	}
	oldest, filter := true, r.o.filter()
	for i, file := range files {
		if from != nil && i < from.file || until != nil && i > until.file {
			continue
		}
		n, err := records(ctx, file, func(n int, data []byte, ci gopacket.CaptureInfo) error {
			usec := ci.Timestamp.UnixMicro()
			if oldest && from == nil && g.From.packet() && usec > g.From.Usec {
				r.o.Log.Warn().Time("until", g.From.time()).Time("oldest", ci.Timestamp).
					Msg("pflogd's files do not go back to where reporting ended: what is between is not reported")
			}
			oldest = false
			// The live capture has the filter in the kernel.
			if !wanted(spot{i, n}, usec) || !filter.Match(data) {
				return nil
			}
			if err := r.gapBatch(ctx); err != nil {
				return err
			}
			l.mu.Lock()
			defer l.mu.Unlock()
			l.examine(data, ci)
			return nil
		})
		log := r.o.Log.Warn().Str("file", file.Name()).Err(err)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil, errors.Is(err, io.ErrUnexpectedEOF) && i == len(files)-1:
			// At its end the newest file is being written by pflogd.
		case n == 0:
			log.Msg("file of pflogd passed over")
		default:
			log.Msg("file of pflogd not readable to the end")
		}
	}
	// The gap is closed with its last batch, which may be empty.
	if err := r.gapBatch(ctx); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.close(true)
	l.last = packetKey{}
	return nil
}

// gapBatch sees to it that there is a batch to write to. Catching up is in no hurry:
// it waits for one, and while the spool is more than half full, since pflogd's files
// keep what would push other hits out of it.
func (r *Reporter) gapBatch(ctx context.Context) error {
	l := r.gapLane
	if l.cur != nil {
		return nil // nobody else changes it
	}
	full := func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return volume(r.queue).Bytes > r.o.SpoolMax/2
	}
	for full() {
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	select {
	case text := <-l.free:
		l.mu.Lock()
		defer l.mu.Unlock()
		l.begin(text)
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
