package report

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/google/gopacket"

	"example.org/threatstopd/capture"
)

// catch reads what pflogd has logged in the watermark's gaps.
func (r *Reporter) catch(ctx context.Context) {
	gaps := func() []gap {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.wm.Gaps
	}
	nothing := len(gaps()) == 0
	if nothing {
		r.setCatchUp("none: first start")
		r.o.Log.Info().Msg("first start: nothing to catch up with")
	} else if !r.ready(ctx) {
		r.setCatchUp("interrupted")
	}
	files, err := r.o.Logs()
	defer closeAll(files)
	if nothing || ctx.Err() != nil {
		return
	}
	if err != nil {
		r.setCatchUp("failed: " + err.Error())
		r.o.Log.Error().Err(err).Msg("pflogd's files not opened: not caught up")
		return
	}
	began, missed := r.o.Now(), gaps()
	for i, g := range missed {
		r.setCatchUp(fmt.Sprintf("reading %d files for gap %d of %d", len(files), i+1, len(missed)))
		if err = r.fill(ctx, files, g); err != nil {
			break
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.files.batch != nil {
		r.closeBatch(&r.files)
	}
	if r.catchUp = "interrupted"; err == nil {
		r.catchUp = "done"
		r.o.Log.Info().Int("files", len(files)).Int64("packets", r.files.seen).Int64("hits", r.files.hits).
			Time("since", missed[0].From.time()).Dur("elapsed", r.o.Now().Sub(began)).
			Msg("caught up with what was logged while the agent was down")
	}
}

// ready waits for a policy, and for the first live packet that was matched, so that files are read
// up to exactly that. If none comes, the end is the time from which on one would have
// been matched. It returns false when ctx ends before.
func (r *Reporter) ready(ctx context.Context) bool {
	if !r.o.all() {
		r.setCatchUp("waiting for a policy")
		select {
		case <-r.havePolicy:
		case <-ctx.Done():
			return false
		}
	}
	r.setCatchUp("waiting for pflogd")
	select {
	case <-r.first:
	case <-time.After(r.firstWait):
		r.mu.Lock()
		defer r.mu.Unlock()
		since := r.started
		if r.policySince.After(since) {
			since = r.policySince
		}
		r.beginLive(timeMark(since))
	case <-ctx.Done():
		return false
	}
	return true
}

// onRecord takes a record and its place: that of a later record, or of one in a later file, is higher.
type onRecord func(at int64, data []byte, ci gopacket.CaptureInfo) error

// records calls f with each record of the i-th file. It returns how many there were.
func records(ctx context.Context, files []*os.File, i int, f onRecord) (n int64, err error) {
	fr, err := logReader(files[i])
	for ; err == nil; n++ {
		var data []byte
		var ci gopacket.CaptureInfo
		if err = ctx.Err(); err == nil {
			data, ci, err = fr.ZeroCopyReadPacketData()
		}
		if err != nil {
			break
		}
		err = f(int64(i)<<40+n, data, ci)
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

// logReader reads the records of a file from its beginning.
func logReader(f *os.File) (*capture.FileReader, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	return capture.NewFileReader(f)
}

// find looks for the packets of the gap's marks, newest file first, since that is where
// they are nearly always. It returns their places, -1 for one that is not there.
func (r *Reporter) find(ctx context.Context, files []*os.File, g gap) (from, until int64) {
	var p capture.Packet
	from, until = -1, -1
	for i := len(files) - 1; i >= 0 && from < 0 && (g.From.ID != "" || g.Until.ID != "" && until < 0); i-- {
		// What cannot be read is reported when the gap is filled.
		_, _ = records(ctx, files, i, func(at int64, data []byte, ci gopacket.CaptureInfo) error {
			if usec := ci.Timestamp.UnixMicro(); usec != g.From.Usec && usec != g.Until.Usec {
				return nil
			}
			_ = p.Decode(data, ci) // what is there of a damaged one identifies it as well
			m := markOf(&p)
			if m.is(g.From) {
				from = at
			}
			if m.is(g.Until) && (until < 0 || at < until) {
				until = at
			}
			return nil
		})
	}
	return from, until
}

// fill reads a gap. The error is that of ctx, which has ended it early.
func (r *Reporter) fill(ctx context.Context, files []*os.File, g gap) error {
	from, until := r.find(ctx, files, g)
	wanted := func(at, usec int64) bool {
		switch {
		case at < from, at == from && !g.From.Before, from < 0 && usec < g.From.Usec:
			return false
		case until >= 0:
			return at < until
		}
		return usec < g.Until.Usec
	}
	oldest, filter := true, r.o.filter()
	for i, file := range files {
		if int64(i) < from>>40 || until >= 0 && int64(i) > until>>40 {
			continue
		}
		n, err := records(ctx, files, i, func(at int64, data []byte, ci gopacket.CaptureInfo) error {
			usec := ci.Timestamp.UnixMicro()
			if oldest && from < 0 && g.From.ID != "" && usec > g.From.Usec {
				r.o.Log.Warn().Time("until", g.From.time()).Time("oldest", ci.Timestamp).
					Msg("pflogd's files do not go back to where reporting ended: what is between is not reported")
			}
			oldest = false
			// The live capture has the filter in the kernel.
			if !wanted(at, usec) || !filter.Match(data) {
				return nil
			}
			if err := r.room(ctx); err != nil {
				return err
			}
			r.mu.Lock()
			defer r.mu.Unlock()
			r.examine(&r.files, data, ci)
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
	r.endGap()
	return nil
}

// endGap closes the oldest gap: it ends with its last batch that is not durable yet, or now.
func (r *Reporter) endGap() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.files.batch != nil {
		r.closeBatch(&r.files)
	}
	r.files.last = mark{}
	for _, b := range slices.Backward(r.unsaved()) {
		if b.gap {
			b.ends++
			return
		}
	}
	r.wm.Gen++
	r.wm.Gaps = r.wm.Gaps[1:]
}

// room waits until there may be a batch to write to. Catching up is in no hurry: it also waits while
// the spool is more than half full, since pflogd's files keep what would push other hits out of it.
func (r *Reporter) room(ctx context.Context) error {
	for {
		r.mu.Lock()
		ok := r.files.batch != nil || r.free(&r.files) && volume(r.queue).Bytes <= r.o.SpoolMax/2
		r.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
