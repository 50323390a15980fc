package report

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

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
	// Source is where packets come from. Run closes it.
	Source capture.Source
	Sender Sender // where batches go
	// Location is the zone of the times in lines, nil for time.Local.
	Location *time.Location
	// Logs opens what pflogd has written, oldest first ([OpenLogs]), nil for no catching
	// up. What was logged before Run began must be in them. Run calls it once and closes
	// the files.
	Logs func() ([]*os.File, error)
	// Trouble, when not nil, is called when something begins to be wrong, with a key of
	// the Trouble… constants and a text, and with an empty text when that is over.
	Trouble func(key, text string)
	// Log receives events; its zero value discards them.
	Log zerolog.Logger
	// Now is the wall clock, nil for time.Now.
	Now func() time.Time
	// StopTimeout is how long Run still tries to deliver when it is to end, 0 for 5 s.
	StopTimeout time.Duration
}

// Numbers of batches in memory: together with that of the sender the bound on what the
// reporter takes.
const (
	liveBatches = 4
	gapBatches  = 2
)

const (
	minBatchBytes = 8 << 10
	minSpoolMax   = 128 << 10
	// asideShare is the part of the spool for what the server refused, batchShare the
	// part that one batch may take: it must fit in the former with its header.
	asideShare = 8
	batchShare = 10
	// maxFiles bounds the files of the spool, so that its directory stays usable.
	maxFiles = 20_000
	// respool is how soon the disk is tried again after it would not take a batch.
	respool = 10 * time.Second
	// firstPacketWait is how long catching up waits for a live packet, which shows where
	// to stop, before it goes by the time alone.
	firstPacketWait = 5 * time.Second
)

// refusedDir, in the spool directory, has the batches that the server refused.
const refusedDir = "refused"

// A Reporter is one run of reporting. Make one with New, give it a policy with SetPolicy,
// call Run once.
type Reporter struct {
	o          Options
	batchLines int
	batchBytes int
	dir        spoolDir
	refused    spoolDir
	history    *history
	started    time.Time

	matcher    atomic.Pointer[matcher]
	havePolicy chan struct{}
	liveLane   *lane
	gapLane    *lane
	firstOnce  sync.Once
	first      chan struct{} // closed when the first live packet has come
	firstWait  time.Duration // firstPacketWait

	wake    chan struct{}   // a batch was closed, or what was refused is to be sent again
	flushes chan chan error // each has the answer to a Flush
	stopped chan struct{}   // closed when Run has ended

	// mu guards what follows. It is never held while the disk or the network works.
	mu sync.Mutex
	// queue is what waits, oldest first: batches with a file, then those without. aside is
	// what the server refused; retry is what of it is to be sent again.
	queue, aside, retry   []*batch
	retryAt               time.Time
	sending               *attempt
	row                   int64 // failures in a row
	refusing              bool  // a refusal was logged since the last delivery
	paused                bool  // after a failure
	pauseTimer, diskTimer *time.Timer
	waiters               []chan error // of Flush
	undeleted             []string     // files of delivered batches that could not be removed
	owing                 bool         // the watermark must be filed before they are
	diskErr               error        // why the disk takes no batch now

	// wm is what is durable; filed is the generation that its file has, newest the highest
	// of a batch's file. ownGap says that the last gap is the one before this run.
	wm              watermark
	filed, newest   uint64
	unfiled, ownGap bool

	base    counters               // of earlier runs
	drops   map[string]status.Drop // of them and this one
	up      status.Uploads         // likewise; Describe fills in the rest
	left    int64                  // lines of this run that are not only in memory any more
	kernel  capture.Stats          // the last that were known
	catchUp string                 // in a few words how far catching up has come
}

// New checks the options, opens the spool and takes up what an earlier process left in it.
// The error is one of the spool directory, or of the options.
func New(o Options) (*Reporter, error) {
	if o.Source == nil || o.Sender == nil {
		return nil, errors.New("report: needs a source of packets and a sender")
	}
	orDefault(&o.Interval, 15*time.Minute)
	orDefault(&o.BatchLines, 10_000)
	orDefault(&o.BatchBytes, 960<<10)
	orDefault(&o.SpoolMax, 64<<20)
	orDefault(&o.RetryMin, 10*time.Second)
	orDefault(&o.RetryMax, 15*time.Minute)
	orDefault(&o.StopTimeout, 5*time.Second)
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Trouble == nil {
		o.Trouble = func(string, string) {}
	}
	o.SpoolMax = max(o.SpoolMax, minSpoolMax)
	r := &Reporter{
		o: o, batchLines: max(1, o.BatchLines),
		batchBytes: int(max(minBatchBytes, min(int64(o.BatchBytes), maxText, o.SpoolMax/batchShare))),
		dir:        spoolDir(o.SpoolDir), refused: spoolDir(filepath.Join(o.SpoolDir, refusedDir)),
		history:    newHistory(o.Now),
		havePolicy: make(chan struct{}), first: make(chan struct{}), stopped: make(chan struct{}),
		started: o.Now(), firstWait: firstPacketWait,
		wake: make(chan struct{}, 1), flushes: make(chan chan error),
	}
	if r.batchBytes < o.BatchBytes {
		o.Log.Warn().Int("asked", o.BatchBytes).Int("bytes", r.batchBytes).Int64("spool_max", o.SpoolMax).
			Msg("batches are smaller than configured, so that the spool can hold several")
	}
	r.liveLane = newLane(r, liveBatches, false)
	r.gapLane = newLane(r, gapBatches, true)
	if err := r.load(); err != nil {
		return nil, err
	}
	return r, nil
}

func orDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

// load takes up the batches, the watermark and the counters of earlier processes.
func (r *Reporter) load() error {
	if err := checkDir(r.o.SpoolDir, r.o.Confinement.UID); err != nil {
		return err
	}
	strange := r.importLegacy()
	w, err := r.dir.readWatermark()
	if err == nil {
		r.wm, r.filed = w, w.Gen
	} else if !errors.Is(err, fs.ErrNotExist) {
		r.o.Log.Warn().Err(err).Msg("watermark not readable, using the spool's")
	}
	queue, w, other, err := r.dir.load()
	if err != nil {
		return err
	}
	strange = append(strange, other...)
	aside, v, other, err := r.loadRefused()
	if err != nil {
		strange = append(strange, fmt.Sprintf("%s: %v", refusedDir, cause(err)))
	}
	for _, name := range other {
		strange = append(strange, filepath.Join(refusedDir, name))
	}
	r.queue, r.aside, r.newest = queue, aside, w.Gen
	for _, w := range []watermark{w, v} {
		if w.Gen > r.wm.Gen {
			r.wm = w
		}
	}
	for _, b := range aside {
		b.aside = true
	}
	r.loadCounters()
	if n := len(strange); n > 0 {
		more := ""
		if n > 3 {
			more = fmt.Sprintf(" and %d more", n-3)
		}
		r.o.Trouble(TroubleFiles, fmt.Sprintf("spool directory %s has files that are not the agent's: %q%s: remove them",
			r.o.SpoolDir, strange[:min(n, 3)], more))
	}
	return nil
}

func (r *Reporter) loadRefused() ([]*batch, watermark, []string, error) {
	if err := r.checkRefused(); err != nil {
		return nil, watermark{}, nil, err
	}
	return r.refused.load()
}

// Run reads packets and reports until ctx ends or the source does. Then it closes and spools
// what is in memory, tries for StopTimeout to deliver it, and returns nil when it was ctx,
// else the source's error (capture.ErrInterfaceGone: begin again when the interface is back).
// It must be called once.
func (r *Reporter) Run(ctx context.Context) error {
	// What is durable so far stays as it is until this run has something durable itself;
	// then the stretch between the two is a gap.
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
	end := make(chan struct{})
	worker.Go(func() { r.work(sending, end) })

	err := r.read(ctx)
	stopCatching()
	catcher.Wait()
	// One more attempt for what is waiting, within bounds.
	stop := time.AfterFunc(r.o.StopTimeout, stopSending)
	defer stop.Stop()
	close(end)
	worker.Wait()
	close(r.stopped)
	return err
}

// read is the path of the packets.
func (r *Reporter) read(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { r.o.Source.Close() })
	defer func() {
		if stop() {
			r.o.Source.Close()
		}
	}()
	for {
		data, ci, err := r.o.Source.ZeroCopyReadPacketData()
		switch {
		case err == nil:
			r.liveLane.live(data, ci)
		case ctx.Err() != nil:
			return nil // the source was closed, and what it had read is in the lane
		default:
			if s, err := r.o.Source.Stats(); err == nil {
				r.mu.Lock()
				r.kernel = s
				r.mu.Unlock()
			}
			return fmt.Errorf("capture: %w", err)
		}
	}
}

// Flush closes what is in memory and tries at once to deliver everything that waits. It
// returns nil when that is delivered, the sender's error when an attempt failed, or ctx's
// when that ends first; in both cases the rest stays in the spool. It waits for Run to begin,
// and fails after it.
func (r *Reporter) Flush(ctx context.Context) error {
	done := make(chan error, 1)
	select {
	case r.flushes <- done:
	case <-r.stopped:
		return errStopped
	case <-ctx.Done():
		return ctx.Err()
	}
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
func (r *Reporter) RetryRefused() {
	r.mu.Lock()
	r.retryAt = time.Time{}
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
