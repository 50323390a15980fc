package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"example.org/threatstopd/agent/internal/apply"
	"example.org/threatstopd/agent/internal/fetch"
	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/agent/internal/privsep"
	"example.org/threatstopd/agent/internal/reportrole"
	"example.org/threatstopd/agent/internal/states"
	"example.org/threatstopd/agent/internal/status"
	"example.org/threatstopd/agent/internal/update"
	"example.org/threatstopd/dnsfetch"
	"example.org/threatstopd/pfioctl"
)

// Setup is a configuration, cut into what each part of the daemon needs.
type Setup struct {
	// Update has everything but Lookup, which is the fetch role's.
	Update update.Options
	// Fetch, and FetchConfinement, are the setup of that.
	Fetch            dnsfetch.Options
	FetchConfinement privsep.Confinement
	// Report is the setup of the role that reports, and States of the one that
	// removes states.
	Report reportrole.Setup
	States states.Setup

	PollInterval time.Duration
	FullCheck    time.Duration // how often the whole table is compared with the policy
	StaleAfter   time.Duration // from which age on a list is stale; 0: none is
	KillStates   bool          // remove the states of newly blocked addresses

	// LockDir is the directory of the persist files: two daemons must not
	// write there.
	LockDir string
	// Confinement is what the main process keeps of its privileges.
	Confinement privsep.Confinement
	// Fixed is what a process can have only one of in its life, in any form that
	// tells two apart: paths, tables, the service user, sockets.
	Fixed string
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
	// Listeners are where the daemon answers; Run closes them. Missing are those that
	// it does without, and why: whoever is to look at them would not see its troubles.
	Listeners status.Listeners
	Missing   []error

	// Roles starts the other processes; Confine takes privileges away from this
	// one before it does, when all that needs them has been opened. Nil: nothing
	// does.
	Roles   privsep.Starter
	Confine privsep.Confiner
}

// ErrAgain is what Run returns when a configuration was read that this process cannot
// go over to: the program is to be executed again.
var ErrAgain = errors.New("the configuration needs another process")

// Daemon is a running threatstopd.
type Daemon struct {
	o        Options
	enforcer *apply.Enforcer
	trouble  *troubles
	report   *reportrole.Client
	states   *states.Client // nil without KillStates
	started  time.Time

	mu     sync.Mutex
	life   *life
	deaths map[string][]time.Time // of roles, lately
}

// New returns a Daemon that has not begun to run.
func New(o Options) *Daemon {
	return &Daemon{o: o, enforcer: apply.New(o.PF), trouble: newTroubles(o.Log), started: time.Now()}
}

// Run runs until ctx ends, and returns nil then; hits that could not be
// delivered are in the spool. [ErrAgain] means that the program is to be executed again.
// Any other error means that the daemon could not begin: the first configuration is bad,
// or another one is running.
//
// The order is that of what is allowed: first all that needs root and the whole file
// system, then this process is confined, then it starts the others and deals with what
// comes from them.
func (d *Daemon) Run(ctx context.Context) error {
	defer d.o.Listeners.Close()
	setup, err := d.o.Load()
	if err != nil {
		return err
	}
	unlock, err := apply.Lock(setup.LockDir)
	if err != nil {
		return err
	}
	defer unlock()
	if err := d.enforcer.OpenDirs(setup.Update.BlockTable.File, setup.Update.AllowTable.File); err != nil {
		return err
	}
	defer d.enforcer.Close()
	d.o.Log.Info().Str("version", d.o.Version).Msg("started")
	defer d.o.Log.Info().Msg("stopped")
	for i, err := range d.o.Missing {
		d.trouble.is(fmt.Sprintf("socket %d", i), err.Error(), true)
	}
	known := &state{inForce: *d.readInForce(setup)}
	if setup.KillStates {
		d.boundStates(&setup.States)
	}
	if err := d.confine(setup); err != nil {
		return err
	}
	fetcher, err := d.startFetcher(ctx, setup)
	if err != nil {
		return err
	}
	// The fetcher is another one when the configuration says so.
	defer func() { fetcher.Close() }()
	ctx, cancel := context.WithCancel(ctx)
	d.report = reportrole.Start(ctx, reportrole.Options{
		Starter:   d.o.Roles,
		Setup:     setup.Report,
		Listeners: d.o.Listeners,
		Status:    backend{d}.Status,
		Sync:      backend{d}.Sync,
		Down:      func(reason string) { d.down(reportProcess, reportProcess+": "+reason) },
		Up:        func() { d.up(reportProcess) },
		Trouble:   func(key, text string) { d.trouble.check(key, text, false) },
		Log:       d.o.Log,
	}, known.inForce.set, known.inForce.own)
	defer d.report.Wait()
	if setup.KillStates {
		d.states = states.Start(ctx, states.Options{
			Starter: d.o.Roles,
			Setup:   setup.States,
			Down:    func(reason string) { d.down(statesProcess, statesProcess+": "+reason) },
			Up:      func() { d.up(statesProcess) },
			Log:     d.o.Log,
		})
		defer d.states.Wait()
	}
	defer cancel()
	for {
		l := newLife(d, setup, fetcher, known)
		next, err := d.live(ctx, l)
		if next == nil || err != nil {
			return err
		}
		if next.Fixed != setup.Fixed || next.KillStates != setup.KillStates {
			d.o.Log.Info().Msg("the configuration has other paths, tables, users or sockets: executing this program again")
			return ErrAgain
		}
		if !sameFetch(next, setup) {
			other, err := d.startFetcher(ctx, next)
			if err != nil {
				d.o.Log.Error().Err(err).Msg("invalid configuration, keeping the current one")
				next = setup
			} else {
				fetcher.Close()
				fetcher = other
			}
		}
		d.report.SetUp(next.Report)
		known = &l.state // its tasks have ended
		setup = next
	}
}

// confine gives up what is not needed from here on.
func (d *Daemon) confine(setup *Setup) error {
	if d.o.Confine == nil {
		return nil
	}
	// The last that pf says of what it will not be asked any more.
	for _, l := range []pfioctl.Limit{pfioctl.LimitTableEntries, pfioctl.LimitTables} {
		if _, err := d.o.PF.Limit(l); err != nil {
			d.o.Log.Warn().Err(err).Msg("limit not read")
		}
	}
	_, _ = time.Now().Zone() // reads the zone's file
	d.o.PF.Pledged()
	if err := d.o.Confine.Confine("main", setup.Confinement); err != nil {
		return fmt.Errorf("confine the main process: %w", err)
	}
	return nil
}

// boundStates bounds the memory of the role that removes states, by twice the states that
// pf may have now: pf.conf may give it more later.
func (d *Daemon) boundStates(s *states.Setup) {
	n, err := d.o.PF.Limit(pfioctl.LimitStates)
	if err != nil {
		d.o.Log.Warn().Err(err).Msg("limit not read")
		return
	}
	s.Confinement.Memory = states.Memory(2 * n)
}

func (d *Daemon) startFetcher(ctx context.Context, setup *Setup) (*fetch.Client, error) {
	const key = fetchProcess
	return fetch.New(ctx, fetch.Options{
		Starter:     d.o.Roles,
		Fetch:       setup.Fetch,
		Confinement: setup.FetchConfinement,
		Down:        func(reason string) { d.down(key, key+": "+reason) },
		Up:          func() { d.up(key) },
		Log:         d.o.Log,
	})
}

// sameFetch says whether two configurations fetch in the same way.
func sameFetch(a, b *Setup) bool {
	x, errX := json.Marshal([]any{a.Fetch, a.FetchConfinement})
	y, errY := json.Marshal([]any{b.Fetch, b.FetchConfinement})
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

// live runs one life. It returns the configuration of the next, nil when ctx
// ended, or [ErrAgain].
func (d *Daemon) live(ctx context.Context, l *life) (*Setup, error) {
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
			return nil, nil
		case <-l.again:
			d.o.Log.Info().Msg("pf.conf was loaded, and may have other limits: executing this program again")
			end()
			<-ended
			return nil, ErrAgain
		case s := <-d.o.Signals:
			if s != syscall.SIGHUP {
				l.logStatus()
				d.report.LogStatus()
				continue
			}
			next, err := d.o.Load()
			if err != nil {
				d.o.Log.Error().Err(err).Msg("invalid configuration, keeping the current one")
				continue
			}
			d.o.Log.Info().Msg("configuration read again")
			end()
			<-ended
			return next, nil
		}
	}
}

// life is what runs under one configuration.
type life struct {
	*Daemon
	setup   *Setup
	updater *update.Updater
	wake    chan request  // asks for a poll now
	over    chan struct{} // closed when no more polls come
	again   chan struct{} // closed when the limits of pf are to be read again

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
	tables  []apply.Table // as the last good poll set them, in that order; nil before
	set     *policy.Set   // what packets are matched against; nil for nothing
	polled  bool          // set is a policy, not what the kernel's table had
	changed bool          // the block table was, since set was put here
	own     []netip.Addr
}

func newLife(d *Daemon, setup *Setup, fetcher *fetch.Client, known *state) *life {
	o := setup.Update
	o.Lookup = fetcher.Lookup
	l := &life{Daemon: d, setup: setup, updater: update.New(o, fetcher), wake: make(chan request), over: make(chan struct{}), again: make(chan struct{})}
	l.schedule.interval = setup.PollInterval
	l.schedule.next = time.Now()
	l.inForce, l.lists, l.tables, l.last, l.lastGood, l.seen = known.inForce, known.lists, known.tables, known.last, known.lastGood, known.seen
	return l
}

// readInForce reads what pf has in the block table before the first policy has
// come: at boot that is the persist file, and packets are matched against it.
func (d *Daemon) readInForce(setup *Setup) *inForce {
	known := &inForce{}
	addrs, err := d.o.PF.Get(setup.Update.BlockTable.Table)
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
	known.set = p.Block
	if facts, err := setup.Update.Host(); err == nil {
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
	var g errgroup.Group
	g.Go(func() error { l.poll(ctx); return nil })
	g.Go(func() error { l.watch(ctx); return nil })
	_ = g.Wait() // the tasks end with ctx and not before
}

// poll keeps the policy up to date.
func (l *life) poll(ctx context.Context) {
	defer close(l.over)
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
	// Until the next poll nothing needs the memory that this one took.
	debug.FreeOSMemory()
}

// errReading is told to whoever asks for a sync that a new configuration overtakes.
var errReading = errors.New("the configuration is being read again: try again")

// sync asks the poll task for a poll now, and waits for it.
func (l *life) sync(ctx context.Context, force bool, trace update.Trace) (*update.Outcome, error) {
	done := make(chan *update.Outcome, 1)
	select {
	case l.wake <- request{force: force, trace: trace, done: done}:
	case <-l.over:
		return nil, errReading
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
