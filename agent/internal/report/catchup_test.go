package report

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"example.org/threatstopd/agent/reporttest"
	"example.org/threatstopd/capture"
	"example.org/threatstopd/capture/capturetest"
)

// A host has a pflog interface that pflogd listens on all the time, and a reporter now
// and then.
type host struct {
	t      *testing.T
	iface  *capturetest.Interface
	pflogd *pflogd
	col    *reporttest.Collector
	dir    string
	// at gives a packet its time, if it is not hit's.
	at   func(n int) time.Time
	want []string
}

func newHost(t *testing.T, snap int) *host {
	return &host{t: t, iface: capturetest.NewInterface(""), pflogd: newPflogd(t, snap), col: collector(t), dir: tempSpool(t)}
}

// log logs hits, and misses between them, on the interface and with pflogd. They are
// expected to be reported.
func (h *host) log(from, to int) {
	for n := from; n < to; n++ {
		p, q := hit(n), miss(n)
		if h.at != nil {
			p.Time = h.at(n)
			q.Time = p.Time.Add(500 * time.Microsecond)
		}
		h.pflogd.log(p, q)
		h.iface.Log(p)
		h.iface.Log(q)
		h.want = append(h.want, line(p))
	}
}

// up starts a reporter.
func (h *host) up(g *rig, change func(*Options)) *rig {
	h.t.Helper()
	if g == nil {
		g = new(rig)
	}
	g.iface = h.iface
	g.run(h.t, h.col, h.dir, func(o *Options) {
		h.pflogd.catching(o)
		if change != nil {
			change(o)
		}
	})
	return g
}

func (g *rig) caughtUp() {
	g.t.Helper()
	g.until("catching up", func(s Stats) bool { return s.CatchUp == "done" })
}

func (h *host) check() {
	h.t.Helper()
	if n := delivered(h.t, h.col.Receipts(), h.want); n > 0 {
		h.t.Fatalf("%d batches repeated", n)
	}
}

// rotate is what newsyslog does, with "ZB" or without.
func (h *host) rotate(compress bool) {
	h.t.Helper()
	h.pflogd.mu.Lock()
	defer h.pflogd.mu.Unlock()
	path := h.pflogd.path
	os.Remove(path + ".9")
	os.Remove(path + ".9.gz")
	for n := 8; n >= 0; n-- {
		for _, gz := range []string{"", ".gz"} {
			os.Rename(fmt.Sprintf("%s.%d%s", path, n, gz), fmt.Sprintf("%s.%d%s", path, n+1, gz))
		}
	}
	// pflogd goes on writing to the file until it is signalled.
	h.pflogd.write(true)
	if err := os.Rename(path, path+".0"); err != nil {
		h.t.Fatal(err)
	}
	if compress {
		b, err := os.ReadFile(path + ".0")
		if err != nil {
			h.t.Fatal(err)
		}
		var z bytes.Buffer
		zw := gzip.NewWriter(&z)
		zw.Write(b)
		zw.Close()
		if err := os.WriteFile(path+".0.gz", z.Bytes(), 0o600); err != nil {
			h.t.Fatal(err)
		}
		os.Remove(path + ".0")
	}
	h.pflogd.open()
}

// What was logged while the agent was down is reported once, wherever it is.
func TestCatchUp(t *testing.T) {
	for _, tt := range []struct {
		name string
		down func(h *host)
	}{
		{"nothing was logged", func(h *host) {}},
		{"in pflogd's memory", func(h *host) { h.log(100, 120) }},
		{"in its file", func(h *host) { h.log(100, 1000) }},
		{"rotated", func(h *host) {
			h.log(100, 150)
			h.rotate(false)
			h.log(150, 200)
		}},
		{"rotated and compressed, three times", func(h *host) {
			for n := 100; n < 400; n += 100 {
				h.log(n, n+100)
				h.rotate(true)
			}
			h.log(400, 450)
		}},
		{"rotated, and nothing since", func(h *host) {
			h.log(100, 200)
			h.rotate(true)
		}},
		{"with the clock set back an hour", func(h *host) {
			h.log(100, 150)
			h.at = func(n int) time.Time { return hit(n).Time.Add(-time.Hour) }
			h.log(150, 200)
		}},
		{"with the clock set forward", func(h *host) {
			h.log(100, 150)
			h.at = func(n int) time.Time { return hit(n).Time.Add(1000 * time.Hour) }
			h.log(150, 200)
		}},
		{"with the clock set forward and back", func(h *host) {
			h.at = func(n int) time.Time { return hit(n).Time.Add(1000 * time.Hour) }
			h.log(100, 150)
			h.rotate(true)
			h.at = nil
			h.log(150, 200)
		}},
		{"all at one instant", func(h *host) {
			h.at = func(n int) time.Time { return hit(100).Time }
			h.log(100, 200)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHost(t, 0)
			h.log(0, 10)
			h.want = nil // before the first start
			g := h.up(nil, nil)
			h.log(10, 100)
			g.until("live", func(s Stats) bool { return s.Live.Hits == 90 })
			g.stop()
			tt.down(h)
			down := int64(len(h.want) - 90)
			g = h.up(nil, nil)
			h.log(1000, 1100)
			g.until("live", func(s Stats) bool { return s.Live.Hits == 100 })
			g.caughtUp()
			g.stop()
			h.check()
			s := g.Stats()
			balanced(t, s)
			equal(t, "hits in files", s.Files.Hits, down)
			equal(t, "hits live", s.Live.Hits, 100)
			equal(t, "gaps left", s.Gaps, 0)
			// And not once more.
			g = h.up(&rig{quiet: true}, nil)
			g.caughtUp()
			g.stop()
			h.check()
		})
	}
}

// The first start reports no history, unless BACKFILL is set.
func TestFirstStart(t *testing.T) {
	t.Run("no history", func(t *testing.T) {
		h := newHost(t, 0)
		h.log(0, 50)
		h.want = nil
		g := h.up(nil, nil)
		h.log(50, 60)
		g.until("live", func(s Stats) bool { return s.Live.Hits == 10 })
		g.stop()
		h.check()
		equal(t, "reported", g.events.count("first start: nothing to catch up with"), 1)
	})
	t.Run("BACKFILL", func(t *testing.T) {
		h := newHost(t, 0)
		h.log(0, 50)
		h.want = h.want[20:]
		g := h.up(nil, func(o *Options) {
			// A second after hit 49; 30 of them are not older than this.
			o.Now = func() time.Time { return hit(50).Time.Add(time.Second) }
			o.Backfill = time.Second + 30*time.Millisecond
		})
		h.at = func(n int) time.Time { return hit(n).Time.Add(2 * time.Second) }
		h.log(50, 60)
		g.until("live", func(s Stats) bool { return s.Live.Hits == 10 })
		g.caughtUp()
		g.stop()
		h.check()
		// It is the first start no more.
		g = h.up(&rig{quiet: true}, func(o *Options) { o.Backfill = time.Hour })
		g.caughtUp()
		g.stop()
		h.check()
	})
}

// Where the packet at the watermark is not in the files, the time decides.
func TestCatchUpByTime(t *testing.T) {
	h := newHost(t, 0)
	g := h.up(nil, nil)
	h.log(0, 50)
	g.until("live", func(s Stats) bool { return s.Live.Hits == 50 })
	// These only the reporter saw: pflogd was being restarted.
	for n := 50; n < 60; n++ {
		h.iface.Log(hit(n))
		h.want = append(h.want, line(hit(n)))
	}
	g.until("live", func(s Stats) bool { return s.Live.Hits == 60 })
	g.stop()
	h.log(60, 100)
	g = h.up(&rig{quiet: true}, func(o *Options) { o.Now = func() time.Time { return hit(1000).Time } })
	g.caughtUp()
	g.stop()
	h.check()
}

// Files that do not go back far enough are said so.
func TestHistoryIsIncomplete(t *testing.T) {
	h := newHost(t, 0)
	g := h.up(nil, nil)
	h.log(0, 50)
	g.until("live", func(s Stats) bool { return s.Live.Hits == 50 })
	g.stop()
	lost := len(h.want)
	h.log(50, 60)
	h.rotate(false)
	os.Remove(h.pflogd.path + ".0")
	h.want = h.want[:lost]
	h.log(60, 100)
	g = h.up(&rig{quiet: true}, nil)
	g.caughtUp()
	g.stop()
	h.check()
	equal(t, "reported", g.events.count("pflogd's files do not go back to where reporting ended"), 1)
}

// What came live before there was a policy is taken from the files once there is one.
func TestPolicyComesLate(t *testing.T) {
	h := newHost(t, 0)
	g := h.up(nil, nil)
	h.log(0, 50)
	g.until("live", func(s Stats) bool { return s.Live.Hits == 50 })
	g.stop()
	h.log(50, 100)
	g = h.up(&rig{noPolicy: true}, nil)
	h.log(100, 150)
	g.until("without a policy", func(s Stats) bool { return s.NoPolicy == 100 })
	g.until("waiting", func(s Stats) bool { return s.CatchUp == "waiting for a policy" })
	g.SetPolicy(index(t), []netip.Addr{own})
	h.log(150, 200)
	g.caughtUp()
	g.until("live", func(s Stats) bool { return s.Live.Hits == 50 })
	g.stop()
	h.check()
	equal(t, "from files", g.Stats().Files.Hits, 100)
}

// No packet comes live: files are read up to the time of the start.
func TestCatchUpOnAQuietHost(t *testing.T) {
	h := newHost(t, 0)
	g := h.up(nil, nil)
	h.log(0, 50)
	g.until("live", func(s Stats) bool { return s.Live.Hits == 50 })
	g.stop()
	h.log(50, 100)
	now := func() time.Time { return hit(100).Time }
	for range 3 {
		g = h.up(&rig{quiet: true}, func(o *Options) { o.Now = now })
		g.caughtUp()
		g.stop()
		h.check()
	}
	// Now they come.
	g = h.up(&rig{quiet: true}, func(o *Options) { o.Now = now })
	g.caughtUp()
	h.log(100, 150)
	g.until("live", func(s Stats) bool { return s.Live.Hits == 50 })
	g.stop()
	h.check()
}

// Catching up that is interrupted goes on at the next start, where it was.
func TestCatchUpIsInterrupted(t *testing.T) {
	h := newHost(t, 0)
	g := h.up(nil, nil)
	h.log(0, 10)
	g.until("live", func(s Stats) bool { return s.Live.Hits == 10 })
	g.stop()
	const runs = 6
	for i := range runs {
		h.log(10+1000*i, 1010+1000*i)
		// Two batches in memory and a spool that is soon half full: the
		// collector is down, so reading stops somewhere.
		h.col.Fail(reporttest.Failure{Fault: reporttest.Refuse})
		g = h.up(nil, func(o *Options) { o.SpoolMax = minSpoolMax; o.StopTimeout = time.Millisecond })
		h.log(100000+10*i, 100010+10*i)
		g.until("live", func(s Stats) bool { return s.Live.Hits == 10 })
		g.until("some of it", func(s Stats) bool { return s.Files.Hits > 100 || s.Spool.Bytes > minSpoolMax/2 })
		g.stop()
		balanced(t, g.Stats())
		equal(t, "lost", g.Stats().Lost.Total(), 0)
		if s := g.Stats(); i > 2 && s.Gaps < 2 {
			t.Errorf("run %d: %d gaps left: %+v", i, s.Gaps, s)
		}
	}
	h.col.Fail(reporttest.Failure{})
	g = h.up(&rig{quiet: true}, nil)
	g.caughtUp()
	g.stop()
	h.check()
}

func TestNoCatchUp(t *testing.T) {
	h := newHost(t, 0)
	g := h.up(nil, nil)
	h.log(0, 10)
	g.until("live", func(s Stats) bool { return s.Live.Hits == 10 })
	g.stop()
	n := len(h.want)
	h.log(10, 20)
	h.want = h.want[:n]
	g = h.up(nil, func(o *Options) { o.Logs, o.NoLogs = nil, "pflogd listens on pflog0, not on pflog1" })
	g.until("a state", func(s Stats) bool { return s.CatchUp != "" })
	equal(t, "state", strings.HasPrefix(g.Stats().CatchUp, "none"), true)
	h.log(20, 30)
	g.until("live", func(s Stats) bool { return s.Live.Hits == 10 })
	g.stop()
	h.check()
	equal(t, "reported", g.events.count("pflogd listens on pflog0, not on pflog1"), 1)
}

func TestCatchUpFails(t *testing.T) {
	h := newHost(t, 0)
	g := h.up(nil, nil)
	h.log(0, 10)
	g.until("live", func(s Stats) bool { return s.Live.Hits == 10 })
	g.stop()
	h.log(10, 20)
	// Not opened: nothing is lost by that, the gap stays.
	g = h.up(&rig{quiet: true}, func(o *Options) {
		o.Logs = func() ([]*os.File, error) { return nil, errors.New("permission denied") }
	})
	g.until("failure", func(s Stats) bool { return strings.HasPrefix(s.CatchUp, "failed: ") })
	g.stop()
	// A file that is none and one that is damaged do not end it.
	h.rotate(false)
	os.WriteFile(h.pflogd.path+".1", []byte("this is no pcap file, but something else"), 0o600)
	b, _ := os.ReadFile(h.pflogd.path + ".0")
	b = append(b, make([]byte, 16)...)
	binary.NativeEndian.PutUint32(b[len(b)-8:], 1<<30)
	os.WriteFile(h.pflogd.path+".0", b, 0o600)
	h.log(20, 30)
	g = h.up(&rig{quiet: true}, nil)
	g.caughtUp()
	g.stop()
	h.check()
	if g.events.count("not readable to the end") == 0 {
		t.Error("the damaged file is not reported")
	}
}

// pflogd cuts packets, and logs what the live capture's filter keeps out.
func TestFilesDifferFromLive(t *testing.T) {
	const snap = 124 // up to the ports of IPv4
	h := newHost(t, snap)
	g := h.up(nil, nil)
	h.log(0, 10)
	g.until("live", func(s Stats) bool { return s.Live.Seen == 20 })
	g.stop()
	pass, cut := hit(11), hit(12)
	pass.Action = capture.ActionPass
	h.pflogd.log(pass, cut)
	var p capture.Packet
	data := cut.AppendRecord(nil)
	if err := p.Decode(data[:snap], infoOf(cut, snap)); err != nil {
		t.Fatal(err)
	}
	text := string(p.AppendLine(nil, time.UTC))
	if text == line(cut) {
		t.Fatal("nothing was cut")
	}
	h.want = append(h.want, text)
	g = h.up(&rig{quiet: true}, nil)
	g.caughtUp()
	g.stop()
	equal(t, "seen", g.Stats().Files.Seen, 1)
	h.check()
}

// A mark is the same for a packet read whole and cut.
func TestMarkOfCutPacket(t *testing.T) {
	v6 := hit(3)
	v6.Src, v6.Dst = netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
	udp := hit(4)
	udp.Proto, udp.Payload = capturetest.UDP, make([]byte, 500)
	opt := hit(5)
	opt.Options = make([]byte, 40)
	seen := map[mark]string{}
	for name, p := range map[string]*capturetest.Packet{"tcp": hit(1), "next": hit(2), "ipv6": v6, "udp": udp, "tcp options": opt} {
		data := p.AppendRecord(nil)
		var m mark
		for _, n := range []int{len(data), 160, 144} {
			var c capture.Packet
			if err := c.Decode(data[:min(n, len(data))], infoOf(p, min(n, len(data)))); err != nil {
				t.Fatal(err)
			}
			got := markOf(&c)
			if n != len(data) && got != m {
				t.Errorf("%s: cut at %d it is another", name, n)
			}
			m = got
		}
		if prev, ok := seen[m]; ok {
			t.Errorf("%s and %s have the same mark", name, prev)
		}
		seen[m] = name
	}
	// A different port is a different packet.
	a, b := hit(1), hit(1)
	b.DstPort++
	var pa, pb capture.Packet
	pa.Decode(a.AppendRecord(nil), infoOf(a, 0))
	pb.Decode(b.AppendRecord(nil), infoOf(b, 0))
	if markOf(&pa) == markOf(&pb) {
		t.Error("ports do not count")
	}
}

func logFile(t *testing.T, path string, gz bool, packets ...*capturetest.Packet) {
	t.Helper()
	var b bytes.Buffer
	w, err := capturetest.NewPcapWriter(&b, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range packets {
		if err := w.Write(p); err != nil {
			t.Fatal(err)
		}
	}
	out := b.Bytes()
	if gz {
		var z bytes.Buffer
		zw := gzip.NewWriter(&z)
		zw.Write(out)
		zw.Close()
		out = z.Bytes()
	}
	if err := os.WriteFile(path, out, 0o600); err != nil {
		t.Fatal(err)
	}
}

func openedNames(t *testing.T, path string) string {
	t.Helper()
	files, err := OpenLogs(path)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(files)
	var names []string
	for _, f := range files {
		names = append(names, filepath.Base(f.Name()))
	}
	return strings.Join(names, " ")
}

func TestOpenLogs(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "pflog")
	equal(t, "nothing there", openedNames(t, path), "")
	logFile(t, path, false, hit(10))
	logFile(t, path+".0", false, hit(9))
	logFile(t, path+".1.gz", true, hit(8))
	logFile(t, path+".2.gz", true, hit(7))
	logFile(t, path+".10.gz", true, hit(6))
	for _, n := range []string{"pflog.bad.abc", "pflog.old", "pflog1", "pflog.-1", "pflog.01", "pflog.3.gz.gz", "pflog.3.bz2", "xpflog.0"} {
		logFile(t, filepath.Join(dir, n), false, hit(1))
	}
	os.Mkdir(path+".4", 0o700)
	equal(t, "in order", openedNames(t, path), "pflog.10.gz pflog.2.gz pflog.1.gz pflog.0 pflog")
	// gzip has not finished with it.
	b, _ := os.ReadFile(path + ".1.gz")
	os.WriteFile(path+".0.gz", b[:10], 0o600)
	equal(t, "being compressed", openedNames(t, path), "pflog.10.gz pflog.2.gz pflog.1.gz pflog.0 pflog")
	logFile(t, path+".0.gz", true, hit(9))
	equal(t, "just compressed", openedNames(t, path), "pflog.10.gz pflog.2.gz pflog.1.gz pflog.0 pflog")
	// And renamed by a rotation since.
	os.Rename(path+".0.gz", path+".1.gz")
	equal(t, "twice", openedNames(t, path), "pflog.10.gz pflog.2.gz pflog.0 pflog")
	// newsyslog links and renames.
	os.Remove(path + ".0.gz")
	os.Remove(path + ".0")
	if err := os.Link(path, path+".0"); err != nil {
		t.Skip("no links here:", err)
	}
	equal(t, "linked", openedNames(t, path), "pflog.10.gz pflog.2.gz pflog.1.gz pflog")
	if _, err := OpenLogs(filepath.Join(dir, "missing", "pflog")); err == nil || !strings.HasPrefix(err.Error(), "pflogd's files: ") {
		t.Error(err)
	}
}

// While newsyslog rotates, each log is opened once and none is missed.
func TestOpenLogsWhileRotating(t *testing.T) {
	h := newHost(t, 0)
	h.log(0, 1)
	h.rotate(true)
	for n := 1; n <= 40; n++ {
		h.log(n, n+1)
		var wg sync.WaitGroup
		wg.Go(func() {
			time.Sleep(time.Duration(rand.IntN(300)) * time.Microsecond)
			h.rotate(n%2 == 0)
		})
		files, err := OpenLogs(h.pflogd.path)
		wg.Wait()
		if err != nil {
			t.Fatal(err)
		}
		last, logs := "", 0
		for _, f := range files {
			first := firstRecord(f)
			if first == "" {
				continue // just begun
			}
			if first <= last {
				t.Errorf("%s: begins with %.40q, the one before with %.40q", f.Name(), first, last)
			}
			last = first
			logs++
		}
		closeAll(files)
		if least := min(n, 9); logs < least {
			t.Errorf("%d logs opened of %d", logs, least)
		}
	}
}

func TestPflogdProcesses(t *testing.T) {
	entry := func(name string, pid, uid, ruid, tty uint32) []byte {
		b := make([]byte, procSize)
		ne := binary.NativeEndian
		ne.PutUint32(b[procPID:], pid)
		ne.PutUint32(b[procUID:], uid)
		ne.PutUint32(b[procRUID:], ruid)
		ne.PutUint32(b[procTTY:], tty)
		copy(b[procComm:], name)
		return b
	}
	none := ^uint32(0)
	table := bytes.Join([][]byte{
		entry("init", 1, 0, 0, none),
		entry("pflogd", 200, 0, 0, none),   // the parent
		entry("pflogd", 201, 74, 74, none), // its child, _pflogd
		entry("pflogd", 300, 0, 0, 0x500),  // somebody's on a terminal
		entry("pflogd2", 301, 0, 0, none),
		entry("pflogd", 0, 0, 0, none),
		entry("pflogd", 400, 0, 0, none),
		make([]byte, 20), // cut
	}, nil)
	equal(t, "processes", pflogdPIDs(table), []int{200, 400})
	equal(t, "of nothing", len(pflogdPIDs(nil)), 0)
}

func TestWatermarkFile(t *testing.T) {
	dir := spoolDir(t.TempDir())
	if _, err := dir.readWatermark(); !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	var w watermark
	for i := range 2 * maxGaps {
		w.Gen++
		w.addGap(gap{From: mark{Usec: int64(2 * i), ID: fmt.Sprintf("%032x", i)}, Until: mark{Usec: int64(2*i + 1), ID: fmt.Sprintf("%032x", i), Before: true}})
		if err := dir.writeWatermark(&w); err != nil {
			t.Fatal(err)
		}
		got, err := dir.readWatermark()
		if err != nil || fmt.Sprint(got) != fmt.Sprint(w) {
			t.Fatalf("%+v became %+v, %v", w, got, err)
		}
	}
	// The oldest gaps were joined: nothing between them is left out.
	if len(w.Gaps) != maxGaps || w.Gaps[0].From.Usec != 0 {
		t.Errorf("gaps: %+v", w.Gaps)
	}
	whole, _ := json.Marshal(w)
	if len(headerMark)+len(whole)+100 > maxHeader {
		t.Errorf("a watermark of %d bytes does not fit in a header of %d", len(whole), maxHeader)
	}
	path := filepath.Join(string(dir), watermarkFile)
	for name, b := range map[string][]byte{"empty": nil, "cut": whole[:20], "longer": append(whole, 'x'), "foreign": []byte("hello, this is a text file"), "none": []byte("{}"),
		"an endless mark": []byte(`{"gen":1,"done":{"usec":1,"id":"` + strings.Repeat("0", 100) + `"}}`)} {
		os.WriteFile(path, b, 0o600)
		if _, err := dir.readWatermark(); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	// A process that finds it so uses the spool's.
	col := collector(t)
	col.Fail(reporttest.Failure{Fault: reporttest.Refuse})
	spooled := tempSpool(t)
	g := run(t, col, capturetest.NewInterface(""), spooled, nil)
	g.burst(0, 5)
	g.until("seen", func(s Stats) bool { return s.Live.Hits == 5 })
	g.stop()
	os.WriteFile(filepath.Join(spooled, watermarkFile), []byte("garbage"), 0o600)
	g = run(t, col, capturetest.NewInterface(""), spooled, nil)
	if g.Reporter.mu.Lock(); g.wm.Gen < 2 {
		t.Errorf("watermark %+v", g.wm)
	}
	g.Reporter.mu.Unlock()
	equal(t, "reported", g.events.count("watermark not readable, using the spool's"), 1)
	g.stop()
}
