package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"example.org/threatstopd/agent/internal/apply"
	"example.org/threatstopd/agent/internal/fetch"
	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/agent/internal/privsep"
	"example.org/threatstopd/agent/internal/report"
	"example.org/threatstopd/agent/internal/sources"
	"example.org/threatstopd/agent/internal/states"
	"example.org/threatstopd/agent/internal/status"
	"example.org/threatstopd/dnsfetch"
	"example.org/threatstopd/pfioctl"
)

// Setup is a configuration, cut into what each part of the daemon needs.
type Setup struct {
	Sources sources.Options
	Apply   apply.Options

	// Fetch and FetchConfinement are the setup of the role that fetches, Report of the one that
	// reports, States of the one that removes states.
	Fetch            dnsfetch.Options
	FetchConfinement privsep.Confinement
	Report           report.Config
	States           states.Setup

	PollInterval time.Duration
	FullCheck    time.Duration // how often whole tables are compared with the policy
	StaleAfter   time.Duration // the age from which a list is stale; 0: never
	KillStates   bool          // remove the states of newly blocked addresses

	LockDir     string              // the directory of the table files, which one daemon at a time may write
	Confinement privsep.Confinement // of the main process
	// Fixed is everything that a process cannot change after pledge(2), in any form that can be
	// compared: paths, tables, the service user, sockets.
	Fixed string

	Text string    // the contents of the configuration file
	Read time.Time // when it was read
	// Warnings name what in the configuration the owner has to correct, a line each.
	Warnings []string
}

// Options are what the daemon needs besides its configuration.
type Options struct {
	// Load reads the configuration: at the start, and at SIGHUP.
	Load func() (*Setup, error)
	// Changed returns in one line what is different about the configuration file since a setup was read
	// from it, and what to do; empty: nothing. It may be nil.
	Changed func(*Setup) string
	PF      *pfioctl.PF // the open /dev/pf
	// Host returns own addresses, gateways and resolvers. While it fails no policy is made, since
	// an address that is not known cannot be excepted.
	Host func() (policy.Facts, error)
	// Signals brings the signals that do not end the daemon: SIGHUP reads the configuration again,
	// every other one logs a status line.
	Signals <-chan os.Signal
	Log     zerolog.Logger
	Version string
	Config  string // the configuration's path, for the status
	// Listeners are where the daemon answers; Run closes them. Missing lists the sockets that could
	// not be opened, and why.
	Listeners status.Listeners
	Missing   []error

	// Roles starts the other processes. Confine takes privileges from this one before that, when
	// everything that needs them is open; nil: it keeps them.
	Roles   privsep.Starter
	Confine privsep.Confiner
	// Carry is the file of [OpenCarry]; nil: another process begins without the state of this one.
	Carry *os.File
}

// ErrAgain is what Run returns when a configuration was read that this process cannot change to: the
// program is to be executed again.
var ErrAgain = errors.New("the configuration needs another process")

// errStopping is the answer to a client whose sync does not take place.
const errStopping = "threatstopd is stopping: run it again when the daemon has started"

// Daemon is a running threatstopd. Everything below calls belongs to the goroutine of Run.
type Daemon struct {
	o       Options
	started time.Time
	// calls is what other goroutines want the loop to do. They may hold locks that the loop needs, so
	// it has room for more than can come while the loop is busy.
	calls   chan func()
	stopped chan struct{} // closed when the loop has ended

	ctx      context.Context
	setup    *Setup
	enforcer *apply.Enforcer
	sources  *sources.Sources
	fetcher  *fetch.Client
	report   *report.Client
	states   *states.Client // nil without KillStates

	trouble troubles
	roles   []*role // in the order in which they were first heard of

	schedule schedule
	poll     *poll      // under way; nil: none is
	waiting  []*request // syncs for the next poll

	last     *apply.Outcome // of the last poll
	policy   *policy.Policy // the last that was made; nil before the first
	facts    policy.Facts   // what it was made for
	lastGood time.Time      // when a poll last brought everything to what the servers have
	tables   [2]table       // by kind
	match    match
	glance   apply.Glance
	glanced  bool      // pf has been looked at
	checked  time.Time // when whole tables were last compared with the policy
	applying time.Time // since when tables are being set; zero: they are not
	again    bool      // the program must be executed again
}

// New returns a Daemon that has not begun to run.
func New(o Options) *Daemon {
	return &Daemon{
		o: o, started: time.Now(), calls: make(chan func(), 1024), stopped: make(chan struct{}),
		enforcer: apply.New(o.PF), trouble: troubles{log: o.Log, open: make(map[string]*trouble)},
	}
}

// Run runs until ctx ends, and returns nil then; hits that could not be delivered are in the spool.
// [ErrAgain] means that the program is to be executed again. Any other error means that the daemon could
// not begin: the first configuration is bad, or another daemon runs.
//
// It begins with everything that needs root and the whole file system; then this process is confined;
// then the roles start.
func (d *Daemon) Run(ctx context.Context) error {
	defer close(d.stopped)
	defer d.o.Listeners.Close()
	setup, err := d.o.Load()
	if err != nil {
		return err
	}
	d.setup, d.sources = setup, sources.New(setup.Sources)
	unlock, err := apply.Lock(setup.LockDir)
	if err != nil {
		return err
	}
	defer unlock()
	if err := d.enforcer.OpenDirs(setup.Apply.Block.File, setup.Apply.Allow.File); err != nil {
		return err
	}
	defer d.enforcer.Close()
	d.o.Log.Info().Str("version", d.o.Version).Msg("started")
	if notice := d.o.PF.Notice(); notice != "" {
		d.o.Log.Warn().Msg(notice)
	}
	defer d.o.Log.Info().Msg("stopped")
	d.restore()
	for i, err := range d.o.Missing {
		d.trouble.is(fmt.Sprintf("start: %d", i), err.Error()+"; then rcctl restart threatstopd", true)
	}
	d.checkConfig()
	d.readInForce()
	for kind := range d.tables {
		d.tables[kind].readFile(setup.Apply.Target(policy.Kind(kind)).File)
	}
	d.look()
	if setup.KillStates {
		d.boundStates(&setup.States)
	}
	if err := d.confine(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	d.ctx = ctx
	if d.fetcher, err = d.startFetcher(setup); err != nil {
		return err
	}
	defer func() { d.fetcher.Close() }() // a reload may replace it
	d.startReport()
	defer d.report.Wait()
	if setup.KillStates {
		d.startStates()
		defer d.states.Wait()
	}
	defer cancel()
	return d.loop()
}

// loop waits for events and handles them, one at a time.
func (d *Daemon) loop() error {
	minute := time.NewTicker(time.Minute)
	defer minute.Stop()
	d.schedule.next = time.Now()
	for {
		wait := time.Minute
		if d.poll == nil {
			wait = d.schedule.wait()
		}
		due := time.NewTimer(wait)
		select {
		case <-d.ctx.Done():
		case <-due.C:
		case <-minute.C:
			d.watch()
		case f := <-d.calls:
			f()
		case s := <-d.o.Signals:
			if s == syscall.SIGHUP {
				d.reload()
			} else {
				d.logStatus()
			}
		}
		due.Stop()
		switch {
		case d.ctx.Err() != nil:
			return nil
		case d.again:
			d.save()
			return ErrAgain
		case d.poll == nil && (len(d.waiting) > 0 || d.schedule.due()):
			d.startPoll()
		}
		d.push()
	}
}

// do has the loop call f soon. Calls come in the order in which they were made.
func (d *Daemon) do(f func()) {
	select {
	case d.calls <- f:
	case <-d.stopped:
	case <-d.ctx.Done():
	}
}

// reload reads the configuration again. Everything that is known stays known.
func (d *Daemon) reload() {
	next, err := d.o.Load()
	if err != nil {
		d.o.Log.Error().Err(err).Msg("invalid configuration, keeping the current one")
		d.checkConfig()
		return
	}
	d.o.Log.Info().Msg("configuration read again")
	if next.Fixed != d.setup.Fixed || next.KillStates != d.setup.KillStates {
		d.o.Log.Info().Msg("other paths, tables, users or sockets: executing this program again")
		d.again = true
		return
	}
	if !same([]any{next.Fetch, next.FetchConfinement}, []any{d.setup.Fetch, d.setup.FetchConfinement}) {
		other, err := d.startFetcher(next)
		if err != nil {
			d.o.Log.Error().Err(err).Msg("invalid configuration, keeping the current one")
			return
		}
		old := d.fetcher
		d.fetcher = other
		go old.Close()
	}
	d.setup = next
	d.checkConfig()
	d.sources.Configure(next.Sources)
	d.report.SetUp(next.Report)
	d.abandon()
	d.schedule = schedule{next: time.Now()}
}

// keyChanged is the trouble that the configuration file is not the one that was read.
const keyChanged = "configuration changed"

// checkConfig keeps the troubles with the configuration: what the owner has to correct, and a file that is
// not the one that was read.
func (d *Daemon) checkConfig() {
	var keys []string
	for i, text := range d.setup.Warnings {
		keys = append(keys, fmt.Sprintf("configuration: %d", i))
		d.trouble.is(keys[i], text, true)
	}
	d.trouble.forget([]string{"configuration: "}, keys)
	if d.o.Changed != nil {
		d.trouble.check(keyChanged, d.o.Changed(d.setup), true)
	}
}

// same reports whether two setups of a role are equal.
func same(a, b any) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

// confine gives up what is not needed from here on.
func (d *Daemon) confine() error {
	if d.o.Confine == nil {
		return nil
	}
	// Cache the limits: DIOCGETLIMIT is not allowed after pledge(2).
	for _, l := range []pfioctl.Limit{pfioctl.LimitTableEntries, pfioctl.LimitTables} {
		if _, err := d.o.PF.Limit(l); err != nil {
			d.o.Log.Warn().Err(err).Msg("limit not read")
		}
	}
	d.o.PF.Pledged()
	if err := d.o.Confine.Confine("main", d.setup.Confinement); err != nil {
		return fmt.Errorf("confine the main process: %w", err)
	}
	return nil
}

// boundStates bounds the memory of the role that removes states by twice the states that pf may have
// now: pf.conf may allow more later.
func (d *Daemon) boundStates(s *states.Setup) {
	n, err := d.o.PF.Limit(pfioctl.LimitStates)
	if err != nil {
		d.o.Log.Warn().Err(err).Msg("limit not read")
		return
	}
	s.Confinement.Memory = states.Memory(2 * n)
}

func (d *Daemon) startFetcher(s *Setup) (*fetch.Client, error) {
	down, up := d.lives(fetch.Role)
	return fetch.New(d.ctx, fetch.Options{Starter: d.o.Roles, Fetch: s.Fetch, Confinement: s.FetchConfinement,
		Down: down, Up: up, Log: d.o.Log})
}

func (d *Daemon) startReport() {
	down, up := d.lives("report")
	d.report = report.Start(d.ctx, report.ClientOptions{
		Starter: d.o.Roles, Config: d.setup.Report, Listeners: d.o.Listeners, Sync: d.Sync, Down: down, Up: up,
		Trouble: func(key, text string) { d.do(func() { d.trouble.check(key, text, report.NeedsOwner(key)) }) },
		Log:     d.o.Log,
	}, d.match.set, d.match.own)
	d.push()
}

func (d *Daemon) startStates() {
	down, up := d.lives(states.Name)
	d.states = states.Start(d.ctx, states.Options{Starter: d.o.Roles, Setup: d.setup.States, Down: down, Up: up, Log: d.o.Log})
}
