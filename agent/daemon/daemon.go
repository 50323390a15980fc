package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"example.org/threatstopd/agent/control"
	"example.org/threatstopd/agent/enforce"
	"example.org/threatstopd/agent/policy"
	"example.org/threatstopd/agent/report"
	"example.org/threatstopd/agent/update"
	"example.org/threatstopd/capture"
	"example.org/threatstopd/dnsfetch"
	"example.org/threatstopd/pfioctl"
)

// Setup is a configuration, cut into what each part of the daemon needs.
type Setup struct {
	Update update.Options
	Fetch  dnsfetch.Options

	PollInterval time.Duration
	FullCheck    time.Duration // how often the whole table is compared with the policy
	StaleAfter   time.Duration // from which age on a list is stale; 0: none is
	KillStates   bool          // remove the states of newly blocked addresses

	// Report has everything but Source, Sender, Log; nil with UPLOAD=no.
	Report *report.Options
	// OpenPflog opens what Report reads.
	OpenPflog func() (capture.Source, error)
	// NewSender makes what Report delivers through.
	NewSender func() (report.Sender, error)

	// What --status says of reporting: UPLOAD, PFLOG_IF, and the log server's
	// host.
	Mode, Interface, LogServer string

	// LockDir is the directory of the persist files: two daemons must not
	// write there.
	LockDir string
}

// Options are what the daemon needs besides its configuration.
type Options struct {
	// Load reads the configuration: when the daemon starts, and at SIGHUP.
	Load func() (*Setup, error)
	// PF is the open /dev/pf.
	PF *pfioctl.PF
	// Signals brings the signals that do not end the daemon: SIGHUP reads the
	// configuration again, every other one logs a status line.
	Signals <-chan os.Signal
	Log     zerolog.Logger
	Version string
	Config  string // the configuration's path, for whoever asks for the status
	// Listeners are where the daemon answers; Run closes them.
	Listeners control.Listeners
}

// Daemon is a running threatstopd.
type Daemon struct {
	o        Options
	enforcer *enforce.Enforcer
	trouble  *troubles
	history  *control.History
	drops    drops
	started  time.Time

	mu   sync.Mutex
	life *life
}

// New returns a Daemon that has not begun to run.
func New(o Options) *Daemon {
	return &Daemon{o: o, enforcer: enforce.New(o.PF), trouble: newTroubles(o.Log), history: control.NewHistory(time.Now), started: time.Now()}
}

// Run runs until ctx ends, and returns nil then; hits that could not be
// delivered are in the spool. An error means that the daemon could not begin:
// the first configuration is bad, or another one is running.
func (d *Daemon) Run(ctx context.Context) error {
	setup, err := d.o.Load()
	if err != nil {
		d.o.Listeners.Close()
		return err
	}
	unlock, err := enforce.Lock(setup.LockDir)
	if err != nil {
		d.o.Listeners.Close()
		return err
	}
	defer func() { unlock() }()
	d.o.Log.Info().Str("version", d.o.Version).Msg("started")
	defer d.o.Log.Info().Msg("stopped")
	ctx, cancel := context.WithCancel(ctx)
	var serving sync.WaitGroup
	defer serving.Wait()
	defer cancel()
	serving.Go(func() { control.Serve(ctx, d.o.Listeners, backend{d}) })

	var inForce *inForce
	for {
		l, err := newLife(d, setup, inForce)
		if err != nil {
			return err
		}
		next := d.live(ctx, l)
		if next == nil {
			return nil
		}
		if next.LockDir != setup.LockDir {
			lock, err := enforce.Lock(next.LockDir)
			if err != nil {
				d.o.Log.Error().Err(err).Msg("configuration not changed")
				next = setup
			} else {
				unlock()
				unlock = lock
			}
		}
		inForce = l.carryOver(next)
		setup = next
	}
}

// live runs one life. It returns the configuration of the next, nil when ctx
// ended.
func (d *Daemon) live(ctx context.Context, l *life) *Setup {
	d.mu.Lock()
	d.life = l
	d.mu.Unlock()
	ctx, end := context.WithCancel(ctx)
	defer end()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		l.run(ctx)
	}()
	for {
		select {
		case <-ended:
			return nil
		case s := <-d.o.Signals:
			if s != syscall.SIGHUP {
				l.logStatus()
				continue
			}
			next, err := d.o.Load()
			if err != nil {
				d.o.Log.Error().Err(err).Msg("configuration refused, the one before stays")
				continue
			}
			d.o.Log.Info().Msg("configuration read again")
			end()
			<-ended
			return next
		}
	}
}

// life is what runs under one configuration.
type life struct {
	*Daemon
	setup   *Setup
	client  *dnsfetch.Client
	updater *update.Updater
	wake    chan request // asks for a poll now

	// enforcing is held while a table is set, so that mending does not come
	// between the two tables of a poll.
	enforcing sync.Mutex

	state
}

// request asks for a poll now.
type request struct {
	force bool
	trace update.Trace
	done  chan<- *update.Outcome
}

// inForce is the policy that pf enforces as far as the daemon knows.
type inForce struct {
	tables  []update.Table // as the last good poll set them, in that order; nil before
	index   *policy.Index  // what packets are matched against
	indexed *policy.Set    // what index was made from; nil when that was the kernel's table
	changed bool           // the block table was, since index was made
	own     []netip.Addr
}

func newLife(d *Daemon, setup *Setup, known *inForce) (*life, error) {
	client, err := dnsfetch.New(setup.Fetch)
	if err != nil {
		return nil, err
	}
	l := &life{Daemon: d, setup: setup, client: client, updater: update.New(setup.Update, client), wake: make(chan request)}
	l.schedule.interval = setup.PollInterval
	l.schedule.next = time.Now()
	if known == nil {
		known = l.readInForce()
	}
	l.inForce = *known
	return l, nil
}

// carryOver is what the next life may take from this one: nothing when it has
// other tables.
func (l *life) carryOver(next *Setup) *inForce {
	if next.Update.BlockTable != l.setup.Update.BlockTable || next.Update.AllowTable != l.setup.Update.AllowTable {
		return nil
	}
	l.state.mu.Lock()
	defer l.state.mu.Unlock()
	known := l.inForce
	return &known
}

// readInForce reads what pf has in the block table before the first policy has
// come: at boot that is the persist file, and packets are matched against it.
func (l *life) readInForce() *inForce {
	known := &inForce{}
	table := l.setup.Update.BlockTable.Table
	addrs, err := l.o.PF.Get(table)
	if errors.Is(err, pfioctl.ErrPledged) {
		addrs, err = l.o.PF.GetPledged(table, 0)
	}
	if err != nil {
		return known // there is no such table yet
	}
	defer addrs.Close()
	b := policy.NewBuilder(policy.Options{})
	id := b.List("in force at start", policy.Block)
	for a := range addrs.All() {
		b.Add(id, a.Prefix, a.Not)
	}
	p, err := b.Build()
	if err != nil || p.Block.Len() == 0 {
		return known
	}
	known.index = policy.NewIndex(p.Block)
	if facts, err := l.setup.Update.Host(); err == nil {
		known.own = ownAddresses(facts)
	}
	return known
}

func ownAddresses(f policy.Facts) []netip.Addr {
	var own []netip.Addr
	for _, i := range f.Interfaces {
		for _, p := range i.Addresses {
			own = append(own, p.Addr())
		}
	}
	return own
}

// run runs the tasks until ctx ends, and returns when all have ended.
func (l *life) run(ctx context.Context) {
	defer l.client.Close()
	var g errgroup.Group
	g.Go(func() error { l.poll(ctx); return nil })
	g.Go(func() error { l.watch(ctx); return nil })
	if l.setup.Report != nil {
		g.Go(func() error { l.report(ctx); return nil })
	}
	_ = g.Wait() // the tasks end with ctx and not before
}

// poll keeps the policy up to date.
func (l *life) poll(ctx context.Context) {
	for {
		var r request
		timer := time.NewTimer(l.untilPoll())
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case r = <-l.wake:
			timer.Stop()
			l.update(ctx, r, false)
		case <-timer.C:
			// The timer does not know of a suspend, so it comes every minute.
			if l.pollDue() {
				l.update(ctx, r, l.retrying())
			}
		}
	}
}

// update is one poll.
func (l *life) update(ctx context.Context, r request, retry bool) {
	l.setPolling(true)
	l.enforcing.Lock()
	run := l.updater.Run
	if retry {
		run = l.updater.Retry
	}
	out := run(ctx, l.enforcer, r.force, r.trace)
	l.enforcing.Unlock()
	if ctx.Err() == nil {
		l.outcome(out)
	}
	l.setPolling(false)
	if r.done != nil {
		r.done <- out
	}
}

// sync asks the poll task for a poll now, and waits for it.
func (l *life) sync(ctx context.Context, force bool, trace update.Trace) (*update.Outcome, error) {
	done := make(chan *update.Outcome, 1)
	select {
	case l.wake <- request{force: force, trace: trace, done: done}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case out := <-done:
		return out, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// report runs reporters one after the other: each ends when its interface goes
// away, and the next begins when it is back.
func (l *life) report(ctx context.Context) {
	const first, most = time.Second, time.Minute
	for wait := first; ctx.Err() == nil; wait = min(2*wait, most) {
		began := time.Now()
		err := l.reportOnce(ctx)
		if ctx.Err() != nil {
			return
		}
		l.trouble.is("pflog", fmt.Sprintf("hits are not read: %v", err), false)
		if time.Since(began) > most {
			wait = first
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
		case <-timer.C:
		}
	}
}

func (l *life) reportOnce(ctx context.Context) error {
	source, err := l.setup.OpenPflog()
	if err != nil {
		return err
	}
	o := *l.setup.Report
	o.Source, o.Log = source, l.o.Log
	o.Hit = func(h report.Hit) { l.history.Hit(h.Far, h.Proto, h.Port, h.List, h.Time) }
	if o.Sender, err = l.setup.NewSender(); err != nil {
		source.Close()
		return err
	}
	if c, ok := o.Sender.(interface{ Close() }); ok {
		defer c.Close() // the connection that it keeps
	}
	r, err := report.New(o)
	if err != nil {
		source.Close()
		return err
	}
	l.trouble.over("pflog")
	l.setReporter(r)
	defer l.setReporter(nil)
	return r.Run(ctx)
}
