package report

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"example.org/threatstopd/agent/internal/report/spool"
	"example.org/threatstopd/agent/internal/report/upload"
	"example.org/threatstopd/capture"
)

// A Sender delivers a batch to the log server: *upload.Client. Whether a failure is
// final, and how long to wait after another, is taken from an *upload.Error.
type Sender interface {
	Send(context.Context, upload.Batch) error
}

// Options for [New].
type Options struct {
	// DeviceID is named in messages.
	DeviceID string
	// Source is where packets come from. Run closes it. Filter is what it lets
	// through, so that the same is taken from files.
	Source capture.Source
	Filter capture.Filter
	// Sender is where batches go.
	Sender Sender

	// All reports every packet, not only the hits.
	All bool
	// Location is the zone of the times in lines, nil for time.Local.
	Location *time.Location

	// Interval is how long a hit waits for others, 0 for 15 minutes.
	Interval time.Duration
	// BatchLines and BatchBytes bound a batch's text: 0 for 10,000 lines and
	// 960 KiB. BatchBytes is at most 16 MiB, a tenth of SpoolMax, and at least
	// 8 KiB, whatever is asked.
	BatchLines int
	BatchBytes int

	// SpoolDir is the directory for batches and the watermark; see
	// spool.Options.Dir for what it must be.
	SpoolDir string
	// Service is the uid of the service user, whose the directory may be while
	// root runs; 0 when there is none.
	Service int
	// SpoolMax bounds its size in bytes, 0 for 64 MiB, at least 128 KiB. An
	// eighth of it is for batches that the server refused.
	SpoolMax int64
	// SpoolAge is how long a batch is kept, 0 for ever.
	SpoolAge time.Duration

	// RetryMin is the pause after a first failure to deliver, 0 for 10 s; it
	// doubles with each, up to RetryMax, 0 for 15 min. Half of it is random.
	RetryMin, RetryMax time.Duration
	// StopTimeout is how long Run still tries to deliver when it is to end, 0
	// for 5 s.
	StopTimeout time.Duration

	// Logs opens what pflogd has written, oldest first ([OpenLogs]), nil for no
	// catching up; NoLogs then says why not. It is called once, by Run, which
	// closes the files. They need not have been there when Run began, but
	// what was logged before it must be in them LogSettle after FlushLogs.
	Logs   func() ([]*os.File, error)
	NoLogs string
	// LogsDone, when not nil, is told that Logs will not be called (any more).
	LogsDone func()
	// FlushLogs asks pflogd to write out what it has ([FlushPflogd]), nil when
	// nobody need be asked. LogSettle is how long it may take over that, 0 for
	// 2 s.
	FlushLogs func() error
	LogSettle time.Duration
	// Backfill is how far back the first start ever reads pflogd's files, 0
	// for not at all.
	Backfill time.Duration

	// Hit, when not nil, is told of each hit as it is seen, one at a time for
	// packets as they come and one for those from files. It must not wait.
	Hit func(Hit)
	// Log receives events; its zero value discards them.
	Log zerolog.Logger
	// Now is the wall clock, nil for time.Now.
	Now func() time.Time
}

// Numbers of batches in memory: together with those of the sender the bound on what
// the reporter takes.
const (
	liveBatches = 4
	gapBatches  = 2
)

const (
	defaultInterval    = 15 * time.Minute
	defaultBatchLines  = 10_000
	defaultBatchBytes  = 960 << 10
	defaultSpoolMax    = 64 << 20
	defaultRetryMin    = 10 * time.Second
	defaultRetryMax    = 15 * time.Minute
	defaultStopTimeout = 5 * time.Second
	defaultLogSettle   = 2 * time.Second

	minBatchBytes = 8 << 10
	minSpoolMax   = 128 << 10
	// asideShare is the part of the spool for what the server refused.
	asideShare = 8
	// batchShare is the part of the spool that a batch may take: it must fit in
	// the share above, with its header.
	batchShare = 10
	// respool is how soon the disk is tried again after it would not take a
	// batch.
	respool = 10 * time.Second
	// firstPacketWait is how long catching up waits for a live packet that tells
	// where to stop, before it goes by the time alone.
	firstPacketWait = 5 * time.Second
)

// A Reporter is one run of reporting. Make one with New, give it a policy with
// SetPolicy, call Run once.
type Reporter struct {
	o          Options
	batchLines int
	batchBytes int

	dir   *os.File
	spool *spool.Spool
	aside *spool.Spool

	hits       hitCounters
	matcher    atomic.Pointer[matcher]
	havePolicy chan struct{}

	full    chan *batch // closed batches, room for all there are
	flushes chan chan error
	ended   chan struct{} // closed when no more packets are read

	liveLane  *lane
	gapLane   *lane
	firstOnce sync.Once
	first     chan struct{} // closed when the first live packet has come
	started   time.Time
	firstWait time.Duration // firstPacketWait

	// wm is what is durable; wmMu is never held while the disk works. filed is
	// the generation that the file has.
	wmMu sync.Mutex
	wm   watermark
	// fileMu is held while the file is written, and from a batch's record in
	// the spool to its durable.
	fileMu sync.Mutex
	filed  uint64
	// known says that there was a watermark before this run.
	known bool
	// ownGap says that the last of wm.gaps is the one before this run.
	ownGap bool

	toSend sendQueue

	liveCount, gapCount          laneCounters
	noPolicy                     atomic.Int64
	inMemory                     atomic.Int64
	lostSpool, lostAside         atomic.Int64
	spoolErrors, watermarkErrors atomic.Int64
	inherited                    spool.Count
	up                           uploadStats
	catchUp                      catchUpStats
}

// New checks the options, opens the spool and takes up what an earlier process left
// in it. The error is one of the spool directory, or of the options.
func New(o Options) (*Reporter, error) {
	if o.Source == nil || o.Sender == nil {
		return nil, errors.New("report: needs a source of packets and a sender")
	}
	orDefault(&o.Interval, defaultInterval)
	orDefault(&o.BatchLines, defaultBatchLines)
	orDefault(&o.BatchBytes, defaultBatchBytes)
	orDefault(&o.SpoolMax, defaultSpoolMax)
	orDefault(&o.RetryMin, defaultRetryMin)
	orDefault(&o.RetryMax, defaultRetryMax)
	orDefault(&o.StopTimeout, defaultStopTimeout)
	orDefault(&o.LogSettle, defaultLogSettle)
	if o.Now == nil {
		o.Now = time.Now
	}
	o.SpoolMax = max(o.SpoolMax, minSpoolMax)
	r := &Reporter{
		o:          o,
		batchLines: max(1, o.BatchLines),
		batchBytes: int(max(minBatchBytes, min(int64(o.BatchBytes), spool.MaxText, o.SpoolMax/batchShare))),
		havePolicy: make(chan struct{}),
		full:       make(chan *batch, liveBatches+gapBatches),
		flushes:    make(chan chan error),
		ended:      make(chan struct{}),
		first:      make(chan struct{}),
		started:    o.Now(),
		firstWait:  firstPacketWait,
	}
	if r.batchBytes < o.BatchBytes {
		o.Log.Warn().Int("asked", o.BatchBytes).Int("bytes", r.batchBytes).Int64("spool_max", o.SpoolMax).
			Msg("batches are smaller than configured, so that the spool can hold several")
	}
	r.toSend.init()
	r.liveLane = newLane(r, liveBatches, false, &r.liveCount)
	r.gapLane = newLane(r, gapBatches, true, &r.gapCount)
	var err error
	share := o.SpoolMax / asideShare
	if r.spool, err = spool.Open(spool.Options{Dir: o.SpoolDir, Service: o.Service, MaxBytes: o.SpoolMax - share, MaxAge: o.SpoolAge, Now: o.Now}); err != nil {
		return nil, err
	}
	if r.aside, err = spool.Open(spool.Options{Dir: o.SpoolDir, Service: o.Service, Name: RefusedSpool, MaxBytes: share, MaxAge: o.SpoolAge, Now: o.Now}); err != nil {
		r.spool.Close()
		return nil, err
	}
	if r.dir, err = os.Open(o.SpoolDir); err != nil {
		r.spool.Close()
		r.aside.Close()
		return nil, fmt.Errorf("spool directory %w", err)
	}
	r.inherited = r.spool.Stats().Pending
	r.loadWatermark()
	return r, nil
}

// RefusedSpool is the spool.Options.Name under which the batches that the server
// refused are kept in the spool directory: spool.Each shows them to the owner.
const RefusedSpool = "refused"

func orDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

// loadWatermark takes the newer of the file's watermark and the spool's.
func (r *Reporter) loadWatermark() {
	w, err := readWatermark(r.o.SpoolDir)
	switch {
	case err == nil:
		r.known, r.filed = true, w.gen
	case errors.Is(err, fs.ErrNotExist):
	default:
		r.o.Log.Warn().Err(err).Msg("watermark not readable, going by the spool's")
	}
	if s, ok := decodeWatermark(r.spool.Newest()); ok && (!r.known || s.gen > w.gen) {
		w, r.known = s, true
	}
	r.wm = w
}

// Run reads packets and reports until ctx ends or the source does. Then it closes
// and spools what is in memory, tries for StopTimeout to deliver it, and returns nil
// when it was ctx, else the source's error (capture.ErrInterfaceGone: start afresh when
// the interface is back). It must be called once.
func (r *Reporter) Run(ctx context.Context) error {
	defer r.dir.Close()
	defer r.aside.Close()
	defer r.spool.Close()

	// What is durable so far stays as it is until this run has something
	// durable itself; then the stretch between the two is a gap.
	r.beginWatermark()
	if !r.known {
		// From now on there is a last time: what is seen live and not yet
		// durable is history for the next start, even if this one is killed.
		if err := r.persist(); err != nil {
			r.o.Log.Warn().Err(err).Msg("watermark not written")
		}
	}
	catching, stopCatching := context.WithCancel(ctx)
	defer stopCatching()
	var work sync.WaitGroup
	if r.o.Logs == nil {
		reason := r.o.NoLogs
		if reason == "" {
			reason = "no files of pflogd"
		}
		r.catchUp.set("none: " + reason)
		r.o.Log.Info().Str("reason", reason).Msg("no catching up with what was logged while the agent was down")
	} else {
		work.Go(func() { r.catch(catching) })
	}

	// The sender outlives ctx: it takes what the end leaves.
	sending, stopSending := context.WithCancel(context.WithoutCancel(ctx))
	defer stopSending()
	var sender, writer sync.WaitGroup
	sender.Go(func() { r.send(sending) })
	stopWriting := make(chan struct{})
	writer.Go(func() { r.write(stopWriting) })

	err := r.read(ctx)
	close(r.ended)
	stopCatching()
	work.Wait()
	// One more attempt for what is waiting, within bounds.
	stop := time.AfterFunc(r.o.StopTimeout, stopSending)
	defer stop.Stop()
	close(stopWriting)
	writer.Wait()
	r.toSend.finish()
	sender.Wait()
	if e := r.persist(); e != nil {
		r.o.Log.Warn().Err(e).Msg("watermark not written")
	}
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
			return fmt.Errorf("capture: %w", err)
		}
	}
}

// Flush closes what is in memory and tries at once to deliver everything that waits. It
// returns nil when that is delivered, the sender's error when an attempt failed, or
// ctx's when that ends first; in both cases the rest stays in the spool. Before Run it
// waits for Run, after it there is nothing to do and it fails.
func (r *Reporter) Flush(ctx context.Context) error {
	done := make(chan error, 1)
	select {
	case r.flushes <- done:
	case <-r.ended:
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

// write is the path of the batches from memory to disk.
func (r *Reporter) write(stop <-chan struct{}) {
	tick := time.NewTicker(r.o.Interval)
	defer tick.Stop()
	retry := time.NewTimer(0)
	retry.Stop()
	defer retry.Stop()
	w := writer{r: r}
	for {
		var offer chan<- *batch
		var head *batch
		if len(w.queue) > 0 && !w.out {
			// The disk will not take it: the sender may, if it has nothing else.
			offer, head = r.toSend.direct, w.queue[0]
		}
		select {
		case b := <-r.full:
			w.queue = append(w.queue, b)
		case offer <- head:
			w.out = true
			continue
		case delivered := <-r.toSend.directDone:
			w.directDone(delivered)
		case <-tick.C:
			w.closeLanes()
		case done := <-r.flushes:
			w.closeLanes()
			w.drain()
			w.stuck = w.stuck || len(w.queue) > 0
			r.toSend.flush(flushRequest{done, len(w.queue) > 0})
		case <-retry.C:
		case <-stop:
			w.closeLanes()
			if w.out {
				w.directDone(<-r.toSend.directDone)
			}
			w.drain()
			w.abandon()
			return
		}
		w.drain()
		if len(w.queue) > 0 {
			retry.Reset(respool)
		} else if w.stuck {
			w.stuck = false
			r.toSend.unstick()
		}
	}
}

// A writer is the state of write.
type writer struct {
	r     *Reporter
	queue []*batch
	// out says that the sender has the head of the queue.
	out bool
	// failing says that the disk's refusal has been told.
	failing bool
	// stuck says that a flush waits for the queue to become empty.
	stuck bool
}

// closeLanes closes the lanes' batches, and moves the watermark over packets that were
// no hits.
func (w *writer) closeLanes() {
	w.r.gapLane.flush()
	last, idle := w.r.liveLane.flush()
	if idle && !last.zero() && len(w.queue) == 0 && len(w.r.full) == 0 {
		w.r.passed(last)
		if err := w.r.persist(); err != nil {
			w.r.o.Log.Debug().Err(err).Msg("watermark not written")
		}
	}
	for {
		select {
		case b := <-w.r.full:
			w.queue = append(w.queue, b)
			continue
		default:
		}
		return
	}
}

// drain spools the queue as far as the disk takes it.
func (w *writer) drain() {
	for len(w.queue) > 0 && !w.out {
		b := w.queue[0]
		if b.lines > 0 {
			// Until memory knows what the record says, the file must not get a
			// watermark that is newer than the record's and does not know it.
			w.r.fileMu.Lock()
			next := w.r.after(b)
			_, err := w.r.spool.Append(&spool.Batch{ID: b.id, Created: b.created, Lines: b.lines, Meta: next.encode(), Text: b.text})
			if err == nil {
				w.r.durable(b)
			}
			w.r.fileMu.Unlock()
			if err != nil {
				w.r.spoolErrors.Add(1)
				if !w.failing {
					w.failing = true
					w.r.o.Log.Error().Err(err).Msg("hits stay in memory: the spool does not take them")
				}
				return
			}
			if w.failing {
				w.failing = false
				w.r.o.Log.Info().Msg("the spool takes hits again")
			}
			w.r.toSend.kick()
		} else {
			w.r.durable(b)
		}
		w.pop()
	}
}

func (w *writer) pop() {
	b := w.queue[0]
	w.queue = w.queue[:copy(w.queue, w.queue[1:])]
	w.r.inMemory.Add(-int64(b.lines))
	b.release()
}

// directDone takes back the batch that the sender had.
func (w *writer) directDone(delivered bool) {
	w.out = false
	if delivered {
		w.r.durable(w.queue[0])
		if err := w.r.persist(); err != nil {
			w.r.o.Log.Debug().Err(err).Msg("watermark not written")
		}
		w.pop()
	}
}

// abandon counts what can be kept nowhere. pflogd's files may still have it: the
// watermark has not moved over it.
func (w *writer) abandon() {
	for len(w.queue) > 0 {
		w.r.lostSpool.Add(int64(w.queue[0].lines))
		w.pop()
	}
}

// backoff returns how long to wait after n failures in a row.
func (r *Reporter) backoff(n int) time.Duration {
	d := r.o.RetryMin
	for ; n > 1 && d < r.o.RetryMax; n-- {
		d *= 2
	}
	d = min(d, r.o.RetryMax)
	return d/2 + rand.N(d/2+1)
}
