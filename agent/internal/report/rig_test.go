package report

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/rs/zerolog"

	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/agent/internal/status"
	"example.org/threatstopd/agent/reporttest"
	"example.org/threatstopd/capture"
	"example.org/threatstopd/capture/capturetest"
)

var (
	own     = netip.MustParseAddr("192.0.2.1")
	blocked = netip.MustParseAddr("198.51.100.7") // by list one
	other   = netip.MustParseAddr("203.0.113.9")  // by nobody
	epoch   = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
)

// index has two lists, and an own address on one of them.
func index(t testing.TB) *policy.Set {
	t.Helper()
	x, err := newIndex()
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func newIndex() (*policy.Set, error) {
	prefix := netip.MustParsePrefix
	p, err := policy.Build([]policy.List{
		{Name: "one", Entries: policy.Prefixes{prefix("198.51.100.0/24"), prefix("192.0.2.0/24")}},
		{Name: "two", Entries: policy.Prefixes{prefix("203.0.113.64/26"), prefix("2001:db8:b::/48")}},
	}, nil, policy.Options{})
	if err != nil {
		return nil, err
	}
	return p.Block, nil
}

// hit is the n-th of a run of packets that are hits, a millisecond apart, each with a
// line of its own.
func hit(n int) *capturetest.Packet {
	return &capturetest.Packet{
		Time: epoch.Add(time.Duration(n) * time.Millisecond), Action: capture.ActionBlock, Iface: "em0", Rule: 1,
		Src: blocked, Dst: own, Proto: capturetest.TCP, SrcPort: uint16(1024 + n%50000), DstPort: 22, Seq: uint32(n),
	}
}

// miss is between hit(n) and hit(n+1), and is none.
func miss(n int) *capturetest.Packet {
	p := hit(n)
	p.Src, p.Time = other, p.Time.Add(500*time.Microsecond)
	return p
}

func line(p *capturetest.Packet) string {
	var cp capture.Packet
	data := p.AppendRecord(nil)
	_ = cp.Decode(data, infoOf(p, len(data)))
	return string(cp.AppendLine(nil, time.UTC))
}

// infoOf is what a source says of a packet of which n bytes were captured.
func infoOf(p *capturetest.Packet, n int) gopacket.CaptureInfo {
	return gopacket.CaptureInfo{Timestamp: p.Time, CaptureLength: n, Length: len(p.AppendRecord(nil))}
}

func hitLines(from, to int) []string {
	var l []string
	for n := from; n < to; n++ {
		l = append(l, line(hit(n)))
	}
	return l
}

// events is a log that a test can look into.
type events struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (e *events) Write(b []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.b.Write(b)
}

func (e *events) count(message string) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return strings.Count(e.b.String(), message)
}

func (e *events) String() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.b.String()
}

// A rig is a reporter between a pflog interface in memory and a log collector.
type rig struct {
	*Reporter
	t      testing.TB
	iface  *capturetest.Interface
	col    *reporttest.Collector
	events *events
	logged atomic.Int64 // hits
	// quiet says that no live packet will come, so that nobody need wait for it;
	// noPolicy that the test sets the policy itself.
	quiet, noPolicy bool
	cancel          context.CancelFunc
	done            chan error
}

// sender waits so long for an answer.
func sender(t testing.TB, col *reporttest.Collector, response time.Duration) Sender {
	t.Helper()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := col.WriteCA(ca); err != nil {
		t.Fatal(err)
	}
	up, err := NewUploader(Config{
		URL: col.URL(), DeviceID: "tdid_abcd1234", CAFile: ca,
		timeouts: timeouts{Response: response},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(up.http.CloseIdleConnections)
	return up
}

// options are for tests over sockets: quick where waiting is not what is tested.
func options(t testing.TB, col *reporttest.Collector, dir string) Options {
	t.Helper()
	return Options{
		Config: Config{DeviceID: "tdid_abcd1234", SpoolDir: dir, Interval: time.Hour,
			RetryMin: 5 * time.Millisecond, RetryMax: 20 * time.Millisecond, NoLogs: "test"}, StopTimeout: 30 * time.Second,
		Sender: sender(t, col, patience), Location: time.UTC,
	}
}

func collector(t testing.TB) *reporttest.Collector {
	t.Helper()
	col, err := reporttest.Start(reporttest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(col.Close)
	return col
}

// run starts a reporter. change may alter the options.
func run(t testing.TB, col *reporttest.Collector, iface *capturetest.Interface, dir string, change func(*Options)) *rig {
	t.Helper()
	g := &rig{iface: iface}
	g.run(t, col, dir, change)
	return g
}

func (g *rig) run(t testing.TB, col *reporttest.Collector, dir string, change func(*Options)) {
	t.Helper()
	o := options(t, col, dir)
	src, err := g.iface.Open(capture.Options{})
	if err != nil {
		t.Fatal(err)
	}
	o.Source = src
	g.t, g.col, g.events, g.done = t, col, new(events), make(chan error, 1)
	o.Log = zerolog.New(g.events)
	if change != nil {
		change(&o)
	}
	if g.Reporter, err = New(o); err != nil {
		t.Fatal(err)
	}
	earlier.Store(g.Reporter, inherited{volume(append(slices.Clone(g.queue), g.aside...)), g.counters.Delivered, g.counters.Failures, maps.Clone(g.counters.Drops)})
	if g.quiet {
		g.firstWait = time.Millisecond
	}
	if !g.noPolicy {
		g.SetPolicy(index(t), []netip.Addr{own})
	}
	var ctx context.Context
	ctx, g.cancel = context.WithCancel(context.Background())
	go func() { g.done <- g.Run(ctx) }()
	t.Cleanup(func() {
		g.cancel()
		if g.done != nil {
			<-g.done
		}
	})
}

// stop ends the reporter cleanly.
func (g *rig) stop() {
	g.t.Helper()
	g.cancel()
	err := <-g.done
	g.done = nil
	if err != nil {
		g.t.Fatalf("Run: %v", err)
	}
}

// log logs hits, each with a miss, as fast as the disk takes them.
func (g *rig) log(from, to int) {
	for n := from; n < to; n++ {
		g.burst(n, n+1)
		if n%20 == 19 {
			g.until("hits go to disk", func(s Stats) bool {
				return s.Live.Hits+s.NoPolicy > g.logged.Load()-20 && s.InMemory < 2*int64(g.o.BatchLines)
			})
		}
	}
}

// burst logs hits, each with a miss, faster than that.
func (g *rig) burst(from, to int) {
	for n := from; n < to; n++ {
		g.iface.Log(hit(n))
		g.iface.Log(miss(n))
		g.logged.Add(1)
	}
}

// patience is how long something that must happen may take.
const patience = 20 * time.Second

// until waits for the statistics to say something.
func (g *rig) until(what string, ok func(Stats) bool) {
	g.t.Helper()
	for end := time.Now().Add(patience); !ok(g.Stats()); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			g.t.Fatalf("%s: not in %v: %+v\n%s", what, patience, g.Stats(), g.events)
		}
	}
}

func (g *rig) flush() {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := g.Flush(ctx); err != nil {
		g.t.Fatalf("Flush: %v", err)
	}
}

// Stats are a reporter's figures since New, in lines where nothing else is said. They add up
// at rest: see balanced.
type Stats struct {
	Live, Files                packets
	NoPolicy, Undecoded        int64
	InMemory                   int64
	Inherited, Spool, Aside    status.Volume // of earlier processes; what waits now
	Delivered                  status.Volume
	Failures                   int64
	Lost                       Lost
	SpoolError, Error, CatchUp string
	Next                       time.Time
	Gaps                       int
}

// Lost are lines that will not be delivered, by reason.
type Lost struct{ Memory, SpoolFull, SpoolAge, SpoolDamage, Unsaved, Refused int64 }

func (l Lost) Total() int64 {
	return l.Memory + l.SpoolFull + l.SpoolAge + l.SpoolDamage + l.Unsaved + l.Refused
}

// packets are what a lane has seen: all, those with a listed address, and those for which a line was wanted.
type packets struct{ Seen, Hits, Reported int64 }

func (r *Reporter) count(l *lane) packets {
	if r.o.all() {
		return packets{l.seen, l.hits, l.seen}
	}
	return packets{l.seen, l.hits, l.hits}
}

// inherited is what a reporter found in its spool.
type inherited struct {
	waiting, delivered status.Volume
	failures           int64
	drops              map[string]status.Drop
}

var earlier sync.Map

func (r *Reporter) Stats() (s Stats) {
	var h status.Hits
	var u status.Uploads
	r.Describe(&h, &u)
	v, _ := earlier.Load(r)
	was, _ := v.(inherited)
	r.mu.Lock()
	defer r.mu.Unlock()
	s.Live, s.Files, s.InMemory = r.count(&r.live), r.count(&r.files), 0
	for _, b := range append(slices.Clone(r.unsaved()), r.live.batch, r.files.batch) {
		if b != nil {
			s.InMemory += int64(b.lines)
		}
	}
	s.Spool, s.Aside, s.Delivered = volume(r.queue), volume(r.aside), r.counters.Delivered
	lost := func(reason string) int64 { return r.counters.Drops[reason].Count - was.drops[reason].Count }
	s.Lost = Lost{lost(status.DropMemory), lost(status.DropSpoolFull), lost(status.DropSpoolAge), lost(status.DropSpoolDamage),
		lost(status.DropUnsaved), lost(status.DropRefused)}
	s.NoPolicy, s.Undecoded = lost(status.DropNoPolicy), lost(status.DropUndecoded)
	s.Inherited, s.Failures = was.waiting, r.counters.Failures-was.failures
	s.Delivered.Batches -= was.delivered.Batches
	s.Delivered.Lines -= was.delivered.Lines
	s.SpoolError, s.Error, s.CatchUp, s.Next, s.Gaps = u.SpoolError, u.Error, h.CatchUp, u.Next, len(r.wm.Gaps)
	return s
}

// balanced checks that what came in is what is accounted for.
func balanced(t testing.TB, s Stats) {
	t.Helper()
	in := s.Live.Reported + s.Files.Reported + s.Inherited.Lines
	out := s.Delivered.Lines + s.Aside.Lines + s.Spool.Lines + s.InMemory + s.Lost.Total()
	if in != out {
		t.Fatalf("%d lines in, %d accounted for: %+v", in, out, s)
	}
}

// delivered checks that exactly these lines arrived, in any order of batches, once each
// when batches that came again with the same id are left out. It returns the number of
// those.
func delivered(t testing.TB, receipts []reporttest.Receipt, want []string) (repeated int) {
	t.Helper()
	texts := map[string]string{}
	count := map[string]int{}
	for _, r := range receipts {
		if r.Batch == "" || r.Device != "tdid_abcd1234" {
			t.Fatalf("batch %q of device %q", r.Batch, r.Device)
		}
		if text, ok := texts[r.Batch]; ok {
			if text != r.Text {
				t.Fatalf("batch %s came with different lines", r.Batch)
			}
			repeated++
			continue
		}
		texts[r.Batch] = r.Text
		for _, l := range r.Lines() {
			count[l]++
		}
	}
	missing, twice, foreign := 0, 0, 0
	for _, l := range want {
		switch count[l] {
		case 0:
			missing++
		case 1:
		default:
			twice++
		}
		delete(count, l)
	}
	for l := range count {
		if foreign++; foreign == 1 {
			t.Errorf("not a line of the test: %q", l)
		}
	}
	if missing+twice+foreign > 0 {
		t.Fatalf("of %d lines %d did not arrive, %d came in two batches; %d foreign ones", len(want), missing, twice, foreign)
	}
	return repeated
}

func tempSpool(t testing.TB) string { return filepath.Join(t.TempDir(), "spool") }

// pflogd writes what an interface logs to files, as pflogd(8) does: it keeps the last of
// it in memory until it is asked, or has a block full.
type pflogd struct {
	t    testing.TB
	path string
	mu   sync.Mutex
	buf  bytes.Buffer
	w    *capturetest.PcapWriter
	snap int
}

func newPflogd(t testing.TB, snap int) *pflogd {
	d := &pflogd{t: t, path: filepath.Join(t.TempDir(), "pflog"), snap: snap}
	d.open()
	return d
}

func (d *pflogd) open() {
	w, err := capturetest.NewPcapWriter(&d.buf, d.snap, nil)
	if err != nil {
		d.t.Fatal(err)
	}
	d.w = w
	d.write(true)
}

func (d *pflogd) log(ps ...*capturetest.Packet) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, p := range ps {
		if err := d.w.Write(p); err != nil {
			d.t.Error(err)
		}
		d.write(false)
	}
}

// write writes whole blocks of stdio's size, or all.
func (d *pflogd) write(all bool) {
	const block = 16 << 10
	n := d.buf.Len()
	if !all {
		n -= n % block
	}
	if n == 0 {
		return
	}
	f, err := os.OpenFile(d.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err == nil {
		_, err = f.Write(d.buf.Next(n))
		f.Close()
	}
	if err != nil {
		d.t.Error(err)
	}
}

// flush is what SIGALRM does.
func (d *pflogd) flush() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.write(true)
	return nil
}

// catching has the reporter catch up from pflogd's files.
func (d *pflogd) catching(o *Options) {
	o.Logs = func() ([]*os.File, error) {
		if err := d.flush(); err != nil {
			return nil, err
		}
		return OpenLogs(d.path)
	}
}

// textIn returns the lines of the batches in a directory, sorted.
func textIn(t testing.TB, dir spoolDir) (lines []string) {
	t.Helper()
	batches, _, _, err := dir.load("")
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range batches {
		text, _, err := readText(filepath.Join(string(dir), b.name))
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")...)
	}
	slices.Sort(lines)
	return lines
}

func equal(t testing.TB, what string, got, want any) {
	t.Helper()
	if g, w := fmt.Sprint(got), fmt.Sprint(want); g != w {
		t.Fatalf("%s: got %s, want %s", what, g, w)
	}
}
