package report

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/agent/internal/status"
	"example.org/threatstopd/agent/reporttest"
	"example.org/threatstopd/capture"
	"example.org/threatstopd/capture/capturetest"
)

func TestMatch(t *testing.T) {
	addr := netip.MustParseAddr
	for _, tt := range []struct {
		name     string
		src, dst netip.Addr
		lists    string // of each a count
	}{
		{"source is listed", blocked, own, "one:1"},
		{"destination is listed", own, blocked, "one:1"},
		{"destination of a packet on an inner interface", addr("10.0.0.5"), blocked, "one:1"},
		{"both are listed, on two lists", addr("203.0.113.70"), blocked, "one:1 two:1"},
		{"both are listed, on one", blocked, addr("198.51.100.8"), "one:2"},
		{"neither is listed", other, addr("10.0.0.5"), ""},
		{"an own address is listed", own, other, ""},
		{"own to own", own, own, ""},
		{"from itself", blocked, blocked, "one:1"},
		{"IPv6 source", addr("2001:db8:b::1"), addr("2001:db8:a::1"), "two:1"},
		{"IPv6 destination", addr("2001:db8:a::1"), addr("2001:db8:b:ffff::1"), "two:1"},
		{"IPv6 neither", addr("2001:db8:a::1"), addr("2001:db8:c::1"), ""},
		{"IPv6 own", addr("2001:db8:b::99"), addr("2001:db8:c::1"), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, all := range []bool{false, true} {
				col := collector(t)
				g := run(t, col, capturetest.NewInterface(""), tempSpool(t), func(o *Options) { o.Mode = map[bool]string{true: "all", false: "hits"}[all] })
				g.SetPolicy(index(t), []netip.Addr{own, addr("2001:db8:b::99")})
				p := hit(1)
				p.Src, p.Dst = tt.src, tt.dst
				g.iface.Log(p)
				g.until("packet examined", func(s Stats) bool { return s.Live.Seen == 1 && (s.Live.Hits == 1 || tt.lists == "") })
				s := g.Stats()
				var lists []string
				hits := int64(0)
				for _, l := range listHits(g.Reporter) {
					if l.Hits > 0 {
						lists = append(lists, fmt.Sprintf("%s:%d", l.List, l.Hits))
						hits = 1
					}
				}
				equal(t, "lists", strings.Join(lists, " "), tt.lists)
				equal(t, "hits", s.Live.Hits, hits)
				reported := hits
				if all {
					reported = 1
				}
				equal(t, "reported", s.Live.Reported, reported)
				g.stop()
				var want []string
				if reported == 1 {
					want = []string{line(p)}
				}
				delivered(t, col.Receipts(), want)
				balanced(t, g.Stats())
			}
		})
	}
}

func listHits(r *Reporter) []status.ListHits {
	var h status.Hits
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counters.History.report(time.Now(), 0, &h)
	return h.Lists
}

func TestUndecodable(t *testing.T) {
	for _, all := range []bool{false, true} {
		col := collector(t)
		g := run(t, col, capturetest.NewInterface(""), tempSpool(t), func(o *Options) { o.Mode = map[bool]string{true: "all", false: "hits"}[all] })
		whole := hit(1).AppendRecord(nil)
		g.iface.LogRecord(epoch, whole[:110])
		g.iface.LogRecord(epoch, whole[:50])
		g.until("packets seen", func(s Stats) bool { return s.Live.Seen == 2 })
		s := g.Stats()
		equal(t, "undecoded", s.Undecoded, 2)
		equal(t, "hits", s.Live.Hits, 0)
		g.stop()
		// Every record has a line.
		n := 0
		for _, r := range col.Receipts() {
			n += len(r.Lines())
		}
		equal(t, "lines", n, s.Live.Reported)
		if all != (n == 2) {
			t.Errorf("all=%v: %d lines", all, n)
		}
	}
}

// A new policy is in force for the next packet.
func TestPolicyIsSwapped(t *testing.T) {
	col := collector(t)
	g := run(t, col, capturetest.NewInterface(""), tempSpool(t), nil)
	g.iface.Log(hit(1))
	g.until("first", func(s Stats) bool { return s.Live.Seen == 1 })
	g.SetPolicy(nil, nil)
	g.iface.Log(hit(2))
	g.until("second", func(s Stats) bool { return s.Live.Seen == 2 })
	p, err := policy.Build([]policy.List{{Name: "three", Entries: policy.Prefixes{netip.PrefixFrom(blocked, 32)}}}, nil, policy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	g.SetPolicy(p.Block, nil)
	g.iface.Log(hit(3))
	g.until("third", func(s Stats) bool { return s.Live.Seen == 3 })
	g.stop()
	delivered(t, col.Receipts(), []string{line(hit(1)), line(hit(3))})
	got := map[string]int64{}
	for _, l := range listHits(g.Reporter) {
		got[l.List] = l.Hits
	}
	equal(t, "lists", got, map[string]int64{"one": 1, "two": 0, "three": 1})
}

func TestWhenBatchesGo(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*Options)
		do     func(*rig)
		// batches is how many at least.
		batches int
	}{
		{"after the interval", func(o *Options) { o.Interval = 20 * time.Millisecond }, func(*rig) {}, 1},
		{"when the lines are enough", func(o *Options) { o.BatchLines = 25 }, func(*rig) {}, 4},
		{"when the bytes are enough", func(o *Options) { o.BatchBytes = minBatchBytes }, func(*rig) {}, 1},
		{"when asked", nil, func(g *rig) { g.flush() }, 1},
		{"at the end", nil, func(g *rig) { g.stop() }, 1},
		{"when the interface goes away", nil, func(g *rig) {
			g.iface.Destroy()
			if err := <-g.done; !errors.Is(err, capture.ErrInterfaceGone) {
				g.t.Fatalf("Run: %v", err)
			}
			g.done = nil
		}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			col := collector(t)
			dir := tempSpool(t)
			g := run(t, col, capturetest.NewInterface(""), dir, tt.change)
			g.log(0, 100)
			g.until("packets seen", func(s Stats) bool { return s.Live.Seen == 200 })
			tt.do(g)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			if err := col.Wait(ctx, func(r []reporttest.Receipt) bool { return len(r) >= tt.batches }); err != nil {
				t.Fatal(err)
			}
			if g.done != nil {
				g.stop()
			}
			s := g.Stats()
			balanced(t, s)
			equal(t, "repeated", delivered(t, col.Receipts(), hitLines(0, int(s.Live.Hits))), 0)
			equal(t, "delivered", s.Delivered.Batches, len(col.Receipts()))
			equal(t, "waiting", s.Spool.Batches, 0)
			equal(t, "reported", g.events.count("Log file uploaded successfully for tdid_abcd1234"), len(col.Receipts()))
			for _, r := range col.Receipts() {
				if max := g.o.BatchBytes; len(r.Text) > max {
					t.Errorf("batch of %d bytes, limit %d", len(r.Text), max)
				}
			}
			if left, _ := filepath.Glob(filepath.Join(dir, "*.txt")); len(left) != 0 {
				t.Errorf("left in the spool: %v", left)
			}
		})
	}
}

// switched is one sender, and then another: one that gives up soon is not for a
// collector that is well and slow.
type switched struct{ now atomic.Pointer[Sender] }

func (s *switched) to(x Sender) { s.now.Store(&x) }

func (s *switched) Send(ctx context.Context, id ID, text []byte) error {
	return (*s.now.Load()).Send(ctx, id, text)
}

// Hits go on being logged while the collector fails in each way; in the end everything
// has arrived, and what came twice has the same id.
func TestCollectorFails(t *testing.T) {
	for _, tt := range []struct {
		name string
		f    reporttest.Failure
		// hangs says that failures take time; and that batches may arrive although
		// the reporter cannot know.
		hangs bool
	}{
		{"refusing connections", reporttest.Failure{Fault: reporttest.Refuse}, false},
		{"hanging", reporttest.Failure{Fault: reporttest.Hang}, true},
		{"500", reporttest.Failure{Fault: reporttest.Status, Status: 500}, false},
		{"429 with Retry-After", reporttest.Failure{Fault: reporttest.Status, Status: 429, RetryAfter: "0"}, false},
		{"408", reporttest.Failure{Fault: reporttest.Status, Status: 408}, false},
		{"resetting mid-body", reporttest.Failure{Fault: reporttest.Reset}, false},
		{"answering 200 late", reporttest.Failure{Fault: reporttest.Late, Delay: time.Minute}, true},
		{"redirecting", reporttest.Failure{Fault: reporttest.Redirect, Status: 302, Location: "https://other.example/"}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			col := collector(t)
			dir := tempSpool(t)
			patient := sender(t, col, patience)
			sending := &switched{}
			sending.to(patient)
			g := run(t, col, capturetest.NewInterface(""), dir, func(o *Options) { o.BatchLines, o.Sender = 40, sending })
			g.log(0, 100)
			g.until("the first arrives", func(s Stats) bool { return s.Delivered.Lines >= 80 })
			if err := col.Fail(tt.f); err != nil {
				t.Fatal(err)
			}
			if tt.hangs {
				sending.to(sender(t, col, 250*time.Millisecond))
			}
			g.log(100, 500)
			g.until("failures", func(s Stats) bool { return s.Failures >= 2 && s.Live.Hits == 500 })
			g.until("all on disk", func(s Stats) bool { return s.InMemory == 20 })
			s := g.Stats()
			balanced(t, s)
			if s.Error == "" || s.Spool.Batches < 10 {
				t.Errorf("while failing: %+v", s)
			}
			equal(t, "reported", g.events.count("hits not delivered, kept for later\"}"), 1+g.events.count(`"level":"debug"`))
			sending.to(patient)
			if err := col.Fail(reporttest.Failure{}); err != nil {
				t.Fatal(err)
			}
			g.until("recovered", func(s Stats) bool { return s.Spool.Batches == 0 })
			g.stop()
			repeated := delivered(t, col.Receipts(), hitLines(0, 500))
			if repeated > 0 && !tt.hangs || repeated == 0 && tt.f.Fault == reporttest.Late {
				t.Errorf("%d repeated", repeated)
			}
			s = g.Stats()
			balanced(t, s)
			equal(t, "lost", s.Lost.Total(), 0)
			equal(t, "last error", s.Error, "")
			equal(t, "recovery reported", g.events.count("uploads work again"), 1)
		})
	}
}

func TestFlushTellsOfFailure(t *testing.T) {
	col := collector(t)
	g := run(t, col, capturetest.NewInterface(""), tempSpool(t), func(o *Options) { o.RetryMin, o.RetryMax = time.Hour, time.Hour })
	col.Fail(reporttest.Failure{Fault: reporttest.Status, Status: 503})
	g.log(0, 10)
	g.until("seen", func(s Stats) bool { return s.Live.Hits == 10 })
	for range 2 {
		// The second finds the reporter in an hour's pause, and does not wait for it.
		if err := g.Flush(t.Context()); err == nil || !strings.Contains(err.Error(), "503") {
			t.Fatalf("Flush: %v", err)
		}
	}
	col.Fail(reporttest.Failure{})
	g.flush()
	delivered(t, col.Receipts(), hitLines(0, 10))
	// Nothing to do is no failure.
	g.flush()
	g.stop()
	if err := g.Flush(t.Context()); !errors.Is(err, errStopped) {
		t.Errorf("after the end: %v", err)
	}
}

// The next process takes up what the last one could not deliver.
func TestSpoolIsTakenUp(t *testing.T) {
	col := collector(t)
	dir := tempSpool(t)
	col.Fail(reporttest.Failure{Fault: reporttest.Refuse})
	g := run(t, col, capturetest.NewInterface(""), dir, nil)
	g.log(0, 50)
	g.until("seen", func(s Stats) bool { return s.Live.Hits == 50 })
	g.stop()
	balanced(t, g.Stats())
	equal(t, "waiting", g.Stats().Spool.Lines, 50)
	col.Fail(reporttest.Failure{})
	g = run(t, col, capturetest.NewInterface(""), dir, nil)
	g.until("delivered", func(s Stats) bool { return s.Delivered.Lines == 50 })
	g.stop()
	s := g.Stats()
	balanced(t, s)
	equal(t, "inherited", s.Inherited.Lines, 50)
	equal(t, "repeated", delivered(t, col.Receipts(), hitLines(0, 50)), 0)
}

// Without its directory the spool takes nothing: hits stay in memory, within bounds, go
// to the server directly, and to the spool when it is back.
func TestSpoolDirectoryGone(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("open directories cannot be removed")
	}
	col := collector(t)
	dir := tempSpool(t)
	g := run(t, col, capturetest.NewInterface(""), dir, func(o *Options) { o.BatchLines = 10 })
	for os.RemoveAll(dir) != nil {
		// The watermark was being written.
	}
	g.log(0, 30)
	g.until("delivered directly", func(s Stats) bool { return s.Delivered.Lines == 30 })
	col.Fail(reporttest.Failure{Fault: reporttest.Status, Status: 500})
	g.burst(30, 200)
	g.until("memory full", func(s Stats) bool { return s.Live.Hits == 200 && s.Lost.Memory > 0 })
	s := g.Stats()
	balanced(t, s)
	if s.InMemory != 10*liveBatches || s.SpoolError == "" {
		t.Errorf("in memory %d, spool error %q", s.InMemory, s.SpoolError)
	}
	equal(t, "reported", g.events.count("hits stay in memory"), 1)
	if err := g.Flush(t.Context()); err == nil {
		t.Error("flush of what cannot be delivered")
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	col.Fail(reporttest.Failure{})
	g.flush()
	g.log(200, 205)
	g.until("seen", func(s Stats) bool { return s.Live.Hits == 205 })
	g.stop()
	s = g.Stats()
	balanced(t, s)
	equal(t, "left", s.InMemory+s.Spool.Lines, 0)
	equal(t, "delivered", s.Delivered.Lines, 205-s.Lost.Memory)
	if _, err := spoolDir(dir).readWatermark(); err != nil {
		t.Errorf("watermark after it came back: %v", err)
	}
}

func TestOptionsAreRefused(t *testing.T) {
	col := collector(t)
	src, err := capturetest.NewInterface("").Open(capture.Options{})
	if err != nil {
		t.Fatal(err)
	}
	o := options(t, col, tempSpool(t))
	o.Source = src
	o.SpoolDir = filepath.Join(t.TempDir(), "no", "such")
	if _, err := New(o); err == nil || !strings.HasPrefix(err.Error(), "spool directory ") {
		t.Errorf("got %v", err)
	}
}
