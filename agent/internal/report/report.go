package report

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/google/gopacket"
	"github.com/rs/zerolog"

	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/agent/internal/status"
	"example.org/threatstopd/capture"
)

// A Sender delivers a batch to the log server: an [Uploader]. What a failure is about, and
// how long to wait, is taken from an [*UploadError].
type Sender interface {
	Send(ctx context.Context, id ID, text []byte) error
}

// Options for [New].
type Options struct {
	Config
	Source   capture.Source // where packets come from; Run closes it
	Sender   Sender         // where batches go
	Location *time.Location // the zone of the times in lines, nil for time.Local
	// Logs opens what pflogd has written, oldest first ([OpenLogs]), nil for no catching
	// up. What was logged before Run began must be in them. Run calls it once and closes
	// the files.
	Logs func() ([]*os.File, error)
	// Trouble, when not nil, is called when something begins to be wrong, with a key of
	// the Trouble… constants and a text, and with an empty text when that is over.
	Trouble     func(key, text string)
	Log         zerolog.Logger
	Now         func() time.Time // the wall clock, nil for time.Now
	StopTimeout time.Duration    // how long Run still tries to deliver when it is to end, 0 for 5 s
}

const (
	// liveBatches and gapBatches are how many batches each lane has in memory at most: with that of
	// the sender the bound on what the reporter takes.
	liveBatches, gapBatches = 4, 2

	minBatchBytes = 8 << 10
	minSpoolMax   = 128 << 10
	asideShare    = 8                // the part of the spool for what the server refused
	batchShare    = 10               // the part that one batch may take: with its header it fits in the former
	maxFiles      = 20_000           // in the spool, so that its directory stays usable
	respool       = 10 * time.Second // until the disk is tried again after it would not take a batch
	maxLine       = 4096 + 1         // the longest line that capture prints, with its newline
	// firstPacketWait is how long catching up waits for a live packet, which shows where
	// to stop, before it goes by the time alone.
	firstPacketWait = 5 * time.Second
)

const refusedDir = "refused" // in the spool directory: batches that the server refused

// A Reporter is one run of reporting. Make one with New, give it a policy with SetPolicy,
// call Run once.
type Reporter struct {
	o            Options
	dir, refused spoolDir
	started      time.Time
	firstWait    time.Duration // firstPacketWait

	havePolicy chan struct{} // closed when there is a policy
	first      chan struct{} // closed when the first live packet has come
	wake       chan struct{} // there is something to do for the worker
	sent       chan attempt

	// mu guards what follows. It is never held while the disk or the network works.
	mu          sync.Mutex
	set         *policy.Set // the policy in force
	own         map[netip.Addr]bool
	policySince time.Time // zero before the first policy
	live, files lane

	// queue is what waits, oldest first: batches with a file, then those without. aside is
	// what the server refused, and is sent again at retryAt.
	queue, aside []*batch
	retryAt      time.Time
	sending      *batch
	row          int64       // failures in a row
	refusing     bool        // a refusal was logged since the last delivery
	pause        *time.Timer // after a failure, until up.Next
	waiters      []chan error
	finishing    bool     // Run is to end
	ended        bool     // and the worker has
	undeleted    []*batch // delivered or lost, whose files could not be removed
	diskErr      error    // why the disk takes no batch now

	// wm is what is durable; filed is the generation that its file has, newest the highest
	// of a batch's file. ownGap says that the last gap is the one before this run.
	wm              watermark
	filed, newest   uint64
	unfiled, ownGap bool

	counters counters       // of earlier runs and this one
	up       status.Uploads // Describe fills in the rest
	kernel   capture.Stats  // that was counted
	catchUp  string         // in a few words how far catching up has come
}

// New opens the spool and takes up what an earlier process left in it. The error is one of the spool directory.
func New(o Options) (*Reporter, error) {
	o.Interval = cmp.Or(o.Interval, 15*time.Minute)
	o.BatchLines = cmp.Or(o.BatchLines, 10_000)
	o.SpoolMax = max(cmp.Or(o.SpoolMax, 64<<20), minSpoolMax)
	o.RetryMin, o.RetryMax = cmp.Or(o.RetryMin, 10*time.Second), cmp.Or(o.RetryMax, 15*time.Minute)
	o.StopTimeout = cmp.Or(o.StopTimeout, 5*time.Second)
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Trouble == nil {
		o.Trouble = func(string, string) {}
	}
	asked := cmp.Or(o.BatchBytes, 960<<10)
	o.BatchBytes = int(max(minBatchBytes, min(int64(asked), maxText, o.SpoolMax/batchShare)))
	if o.BatchBytes < asked {
		o.Log.Warn().Int("asked", asked).Int("bytes", o.BatchBytes).Int64("spool_max", o.SpoolMax).
			Msg("batches are smaller than configured, so that the spool can hold several")
	}
	r := &Reporter{
		o: o, dir: spoolDir(o.SpoolDir), refused: spoolDir(filepath.Join(o.SpoolDir, refusedDir)),
		started: o.Now(), firstWait: firstPacketWait,
		havePolicy: make(chan struct{}), first: make(chan struct{}),
		wake: make(chan struct{}, 1), sent: make(chan attempt, 1),
		live: lane{most: liveBatches}, files: lane{most: gapBatches, gap: true},
	}
	r.pause = time.AfterFunc(time.Hour, r.resume)
	r.pause.Stop()
	if err := r.load(); err != nil {
		return nil, err
	}
	return r, nil
}

// load takes up the batches, the watermark and the counters of earlier processes.
func (r *Reporter) load() error {
	if err := r.checkDir(r.dir); err != nil {
		return err
	}
	strange := r.importLegacy()
	w, err := r.dir.readWatermark()
	if err == nil {
		r.wm, r.filed = w, w.Gen
	} else if !errors.Is(err, fs.ErrNotExist) {
		r.o.Log.Warn().Err(err).Msg("watermark not readable, using the spool's")
	}
	for _, x := range []struct {
		dir spoolDir
		in  string
		to  *[]*batch
	}{{r.dir, "", &r.queue}, {r.refused, refusedDir, &r.aside}} {
		var other []string
		if err = r.checkDir(x.dir); err == nil {
			*x.to, w, other, err = x.dir.load(x.in)
		}
		if err != nil && x.in == "" {
			return err
		} else if err != nil {
			strange = append(strange, fmt.Sprintf("%s: %v", x.in, cause(err)))
		}
		strange = append(strange, other...)
		r.newest = max(r.newest, w.Gen)
		if w.Gen > r.wm.Gen {
			r.wm = w
		}
	}
	r.loadCounters()
	if n := len(strange); n > 0 {
		r.o.Trouble(TroubleFiles, fmt.Sprintf("spool directory %s has %d files that are not the agent's: %q: remove them%s",
			r.o.SpoolDir, n, strange[:min(n, 3)], thenReload))
	}
	return nil
}

// Run reads packets and reports until ctx ends or the source does. Then it closes and spools
// what is in memory, tries for StopTimeout to deliver it, and returns nil when it was ctx,
// else the source's error (capture.ErrInterfaceGone: begin again when the interface is back).
// It must be called once.
func (r *Reporter) Run(ctx context.Context) error {
	r.beginWatermark()
	catching, stopCatching := context.WithCancel(ctx)
	defer stopCatching()
	var catcher, worker sync.WaitGroup
	if r.o.Logs == nil {
		reason := cmp.Or(r.o.NoLogs, "no files of pflogd")
		r.setCatchUp("none: " + reason)
		r.o.Log.Info().Str("reason", reason).Msg("no catching up with what was logged while the agent was down")
	} else {
		catcher.Go(func() { r.catch(catching) })
	}
	// The worker outlives ctx: it takes what the end leaves.
	sending, stopSending := context.WithCancel(context.WithoutCancel(ctx))
	defer stopSending()
	worker.Go(func() { r.work(sending) })

	err := r.read(ctx)
	stopCatching()
	catcher.Wait()
	// One more attempt for what is waiting, within bounds.
	stop := time.AfterFunc(r.o.StopTimeout, stopSending)
	defer stop.Stop()
	r.hurry(func() { r.finishing = true })
	worker.Wait()
	return err
}

// read is the path of the packets.
func (r *Reporter) read(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { r.o.Source.Close() })
	defer stop()
	defer r.o.Source.Close()
	for {
		data, ci, err := r.o.Source.ZeroCopyReadPacketData()
		if err != nil && ctx.Err() != nil {
			return nil // the source was closed, and what it had read was examined
		}
		if err != nil {
			r.countDrops()
			return fmt.Errorf("capture: %w", err)
		}
		r.mu.Lock()
		if r.policySince.IsZero() && !r.o.all() {
			r.lose(status.DropNoPolicy, 1)
		} else {
			r.examine(&r.live, data, ci)
		}
		r.mu.Unlock()
	}
}

// SetPolicy puts a policy in force: packets are matched against set from now on, without a
// pause, but for the addresses in own, which are this host's and never the far end of a
// packet. A nil set matches nothing. Both are kept and must not change.
//
// Until the first call there is nothing to match against: packets are then counted as
// lost, and pflogd's files, where there are any, are read for them later.
func (r *Reporter) SetPolicy(set *policy.Set, own []netip.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.policySince.IsZero() {
		close(r.havePolicy)
	}
	r.set, r.own, r.policySince = set, make(map[netip.Addr]bool, len(own)), r.o.Now()
	for _, a := range own {
		r.own[a.Unmap().WithZone("")] = true
	}
	for _, l := range append(slices.Clone(set.Lists()), noList) {
		r.counters.History.Lists[l] += 0
	}
}

const noList = "(none)" // what hits count for whose entry belongs to no list

// match reports whether a packet is a hit, and counts it for the list of each of its
// addresses that is listed. mu is held.
func (r *Reporter) match(p *capture.Packet) bool {
	src := r.listed(p.Src, p)
	dst := p.Dst != p.Src && r.listed(p.Dst, p)
	return src || dst
}

func (r *Reporter) listed(a netip.Addr, p *capture.Packet) bool {
	list, _, ok := r.set.Lookup(a)
	if !ok || r.own[a.Unmap()] {
		return false
	}
	name := noList
	if names := r.set.Lists(); int(list) < len(names) {
		name = names[list]
	}
	r.counters.History.hit(a, p.Proto, p.DstPort, name, p.Time, r.o.Now())
	return true
}

// A lane turns packets into batches: the live ones, or those of a gap that are read from
// files. Each has batches of its own, so that catching up does not take them from the live
// capture.
type lane struct {
	gap        bool
	most       int // batches in memory
	packet     capture.Packet
	batch      *batch // that is being filled, or nil
	last       mark   // behind the last packet that was examined
	seen, hits int64
}

// examine matches one packet and prints its line if it is wanted. mu is held.
func (r *Reporter) examine(l *lane, data []byte, ci gopacket.CaptureInfo) {
	l.seen++
	r.counters.Seen++
	p := &l.packet
	if p.Decode(data, ci) != nil {
		r.lose(status.DropUndecoded, 1)
	}
	if l.last = markOf(p); !l.gap {
		r.beginLive(l.last)
	}
	if r.match(p) {
		l.hits++
		r.counters.Matched++
	} else if !r.o.all() {
		return
	}
	if l.batch == nil {
		if !r.free(l) {
			r.lose(status.DropMemory, 1)
			return
		}
		l.batch = &batch{id: newID(), created: r.o.Now(), text: make([]byte, 0, r.o.BatchBytes), gap: l.gap}
	}
	b := l.batch
	b.text = append(p.AppendLine(b.text, r.o.Location), '\n')
	if b.lines++; b.lines >= r.o.BatchLines || len(b.text) > r.o.BatchBytes-maxLine {
		r.closeBatch(l)
	}
}

// free reports whether a lane may have one more batch in memory. mu is held.
func (r *Reporter) free(l *lane) bool {
	n := 0
	for _, b := range r.unsaved() {
		if b.gap == l.gap {
			n++
		}
	}
	return n < l.most
}

// closeBatch puts a lane's batch into the queue. mu is held.
func (r *Reporter) closeBatch(l *lane) {
	l.batch.mark = l.last
	r.queue = append(r.queue, l.batch)
	l.batch = nil
	signal(r.wake)
}

// closeLive closes the live batch that is being filled, or moves the watermark over packets
// that were no hits. mu is held.
func (r *Reporter) closeLive() {
	last := r.live.last
	if r.live.batch != nil {
		r.closeBatch(&r.live)
	} else if len(r.unsaved()) == 0 && last != (mark{}) && last != r.wm.Done {
		r.wm.Gen++
		r.wm.Done = last
	}
}

// unsaved returns the batches that wait and have no file. mu is held.
func (r *Reporter) unsaved() []*batch {
	i := len(r.queue)
	for i > 0 && r.queue[i-1].name == "" {
		i--
	}
	return r.queue[i:]
}

// Flush closes what is in memory and tries at once to deliver everything that waits. It
// returns nil when that is delivered, the sender's error when an attempt failed, or ctx's
// when that ends first; in both cases the rest stays in the spool. It waits for Run to begin,
// and fails after it.
func (r *Reporter) Flush(ctx context.Context) error {
	done := make(chan error, 1)
	r.hurry(func() {
		if r.ended {
			done <- errStopped
		} else {
			r.waiters = append(r.waiters, done)
		}
	})
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

var errStopped = errors.New("report: stopped")

// RetryRefused has what the server refused sent again soon: the owner may have changed
// something.
func (r *Reporter) RetryRefused() { r.hurry(func() { r.retryAt = time.Time{} }) }

// hurry closes what is in memory, ends the pause after a failure, and does f.
func (r *Reporter) hurry(f func()) {
	r.mu.Lock()
	r.closeLive()
	f()
	r.mu.Unlock()
	r.resume()
}

// resume ends the pause after a failure.
func (r *Reporter) resume() {
	r.mu.Lock()
	r.up.Next = time.Time{}
	r.mu.Unlock()
	signal(r.wake)
}

func (r *Reporter) setCatchUp(s string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.catchUp = s
}

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
