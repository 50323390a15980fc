package report

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// While the watermark cannot be written the newest batch stays in the spool after its delivery, since
// it carries the newest watermark; older ones go.
func TestNewestBatchWaitsForTheWatermark(t *testing.T) {
	dir := tempSpool(t)
	j := &judge{answer: always(0)}
	g := spooled(t, dir, j, nil)
	g.each(0, 2)
	path := filepath.Join(dir, watermarkFile)
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(path, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	j.set(always(200))
	g.until("delivered", func(s Stats) bool { return s.Delivered.Lines == 2 })
	g.flush() // the files are dealt with before it is answered
	equal(t, "left", textIn(t, g.dir), hitLines(1, 2))
	equal(t, "logged", g.events.count("watermark not written"), 1)
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
	g.each(2, 3)
	g.flush()
	equal(t, "left", textIn(t, g.dir), []string{})
	if w, err := g.dir.readWatermark(); err != nil || w.Done.Usec < hit(2).Time.UnixMicro() {
		t.Errorf("watermark %+v, %v", w, err)
	}
	g.stop()
}

// While the disk fails neither the watermark nor the sender passes over a batch in memory.
func TestBatchInMemoryIsNotPassedOver(t *testing.T) {
	dir := tempSpool(t)
	j := &judge{answer: always(0)}
	g := spooled(t, dir, j, nil)
	seen := func(n int64) {
		t.Helper()
		g.until("seen", func(s Stats) bool { return s.Live.Seen == n })
	}
	done := func() time.Time {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.closeLive()
		return g.wm.Done.time().UTC()
	}
	g.iface.Log(miss(0))
	seen(1)
	equal(t, "before", done(), miss(0).Time)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	g.iface.Log(hit(1))
	g.iface.Log(miss(1))
	seen(3)
	g.until("disk fails", func(s Stats) bool { return s.SpoolError != "" })
	equal(t, "with a batch in memory", done(), miss(0).Time)
	j.set(func(text string) int {
		if strings.Contains(text, line(hit(1))) {
			return 403
		}
		return 200
	})
	g.iface.Log(hit(2))
	g.iface.Log(miss(2))
	seen(5)
	g.until("refused again and again", func(s Stats) bool { return s.Failures > 3*maxRejected })
	equal(t, "taken", len(j.lines()), 0)
	equal(t, "with two", done(), miss(0).Time)
	j.set(always(200))
	g.flush()
	equal(t, "delivered", j.lines(), hitLines(1, 3))
	equal(t, "at last", done(), miss(2).Time)
	g.stop()
}

// However batches are closed and saved, the live mark only moves forward.
func TestLiveMarkIsNotSetBack(t *testing.T) {
	g := spooled(t, tempSpool(t), &judge{answer: always(200)}, nil)
	const packets = 300
	end := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		last := time.Time{}
		for {
			g.mu.Lock()
			g.closeLive()
			now := g.wm.Done.time()
			begun := g.live.seen > 0
			g.mu.Unlock()
			if begun && now.Before(last) {
				t.Errorf("set back from %v to %v", last, now)
				return
			}
			if begun {
				last = now
			}
			select {
			case <-end:
				return
			default:
			}
		}
	})
	for n := range packets {
		g.burst(n, n+1)
		if n%10 == 0 {
			g.flush()
		}
	}
	g.until("seen", func(s Stats) bool { return s.Live.Seen == 2*packets })
	g.flush()
	close(end)
	wg.Wait()
	g.stop()
	w, err := g.dir.readWatermark()
	if err != nil || !w.Done.time().Equal(miss(packets-1).Time) {
		t.Errorf("at the end %v, %v", w.Done.time(), err)
	}
}
