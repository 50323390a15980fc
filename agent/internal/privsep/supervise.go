package privsep

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/time/rate"
)

// How long main waits for a role, and how much it takes from it.
const (
	readyWait   = 2 * time.Minute  // from its start until it is ready
	pingEvery   = 30 * time.Second // while it is ready
	silentFor   = 60 * time.Second // from a ping until a role without a pong is killed
	endWait     = 7 * time.Second  // from the request to end until it is killed
	drainWait   = 2 * time.Second  // for what it sent before it ended
	firstPause  = time.Second      // before it is started again; doubled each time
	lastPause   = time.Minute      // up to this
	healthyFor  = time.Minute      // after so long at work the pause is the first again
	floodBurst  = 10000            // messages at once
	floodRate   = 2000             // messages a second
	reportEvery = 10 * time.Second // at most, that log events were left out
)

// Job describes a role that is to be kept running.
//
// Begin, Up and Down are called one at a time, in that order for each process. Handle is called on the
// goroutine that reads from the role, after Begin, and beside Up and Down. Nil functions are not called.
type Job struct {
	Role string
	// Files returns the descriptors for a new process, from 4 on. They are duplicates, which the
	// process takes over.
	Files func() ([]*os.File, error)
	// Takes has the messages taken from the role.
	Takes Limits
	// Hold, unless nil, is closed before anything is read from the role.
	Hold <-chan struct{}
	// Begin sends a new process its setup.
	Begin func(*Conn) error
	// Handle takes each message of the role; the payload is valid until it returns. An error means
	// that the role misbehaves: it is killed. Nothing else is read from the role meanwhile, and its
	// silence is not counted. Nil: any message is misbehaviour.
	Handle func(c *Conn, kind byte, payload []byte) error
	// Down is called with the reason, in one line, when the role has died, was killed or could not be
	// started. It is started again after a pause of a second, doubled each time up to a minute.
	Down func(reason string)
	// Up is called when the role is ready: from now on Conn returns its connection.
	Up func()
	// Log takes the role's events and those of the supervisor.
	Log zerolog.Logger
	// Once: the role is not started again.
	Once bool
}

// Keeper keeps one role running.
type Keeper struct {
	job     Job
	starter Starter
	ctx     context.Context
	done    chan struct{}
	restart chan struct{}
	conn    atomic.Pointer[Conn] // of the process that is ready

	mu    sync.Mutex
	child Child  // the process
	why   string // it was killed by Kill
}

// Keep starts a role and keeps it running until ctx ends; then the role has 7 seconds to exit. Keep returns
// when the first process is started, or could not be, which Down reports.
//
// A role is killed when it sends a message that is not taken, a malformed log event, more than 2000
// messages a second (after a burst of 10000), or a message that Handle refuses; when it does not read
// what it is sent for 30 seconds, does not answer a ping for 60, or is not ready within two minutes.
func Keep(ctx context.Context, s Starter, j Job) *Keeper {
	k := &Keeper{job: j, starter: s, ctx: ctx, done: make(chan struct{}), restart: make(chan struct{}, 1)}
	if ctx.Err() != nil {
		close(k.done)
		return k
	}
	child, err := k.start()
	go k.run(child, err)
	return k
}

// Conn returns the connection to the process that is ready, and nil while there is none.
func (k *Keeper) Conn() *Conn { return k.conn.Load() }

// Restart asks the role to end, and starts a new process at once. It also ends a pause. Calls before
// the new process is started count as one.
func (k *Keeper) Restart() {
	select {
	case k.restart <- struct{}{}:
	default:
	}
}

// Kill kills the present process. The reason precedes that of its end.
func (k *Keeper) Kill(reason string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.child != nil {
		k.why = reason + ": "
		k.child.Kill()
	}
}

// Wait waits until the role is gone and is not started again: after ctx has ended, or after the end of
// one that runs once.
func (k *Keeper) Wait() { <-k.done }

// run supervises one process after the other, beginning with child.
func (k *Keeper) run(child Child, err error) {
	defer close(k.done)
	for pause := firstPause; ; child, err = k.start() {
		l := &life{Keeper: k}
		reason := ""
		if err != nil {
			reason = "cannot be started: " + Clean(err.Error(), maxReason)
		} else {
			reason = l.live(child)
		}
		switch {
		case !l.wanted && k.job.Down != nil:
			k.job.Down(reason)
		case l.wanted && reason != "":
			k.job.Log.Warn().Str(roleField, k.job.Role).Str("reason", reason).Msg("role did not exit cleanly")
		}
		if k.job.Once {
			return
		}
		if l.wanted || !l.worked.IsZero() && time.Since(l.worked) >= healthyFor {
			pause = firstPause
		}
		if !l.wanted {
			select {
			case <-time.After(pause):
			case <-k.restart:
			case <-k.ctx.Done():
			}
			pause = min(2*pause, lastPause)
		}
		if k.ctx.Err() != nil {
			return
		}
		select {
		case <-k.restart: // the next process is the new one
		default:
		}
	}
}

func (k *Keeper) start() (child Child, err error) {
	var files []*os.File
	if k.job.Files != nil {
		if files, err = k.job.Files(); err != nil {
			return nil, err
		}
	}
	if child, err = k.starter.Start(k.job.Role, files); err == nil {
		k.mu.Lock()
		k.child = child
		k.mu.Unlock()
	}
	return child, err
}

// life is that of one process.
type life struct {
	*Keeper
	conn *Conn

	exited chan struct{} // closed when the process is gone
	hungUp chan struct{} // closed when nothing more is read
	ready  chan struct{} // closed when the role is ready
	worked time.Time     // since when; zero: it was never ready
	wanted bool          // main wanted it to end

	pinged   atomic.Bool // a ping has no pong yet
	handling atomic.Bool // Handle has a message

	// The reader's until hungUp is closed.
	readErr  error // why it misbehaved, or nil
	dropped  int   // log events left out and not reported yet
	reported time.Time
}

// fromRole has what is taken from any role.
var fromRole = Limits{kindLog: maxLog, kindPong: 0, kindReady: 0}

// misbehaved is the reason for killing a role.
func misbehaved(err error) error { return fmt.Errorf("misbehaved, killed: %w", err) }

var errHungUp = errors.New("closed its connection and stayed, killed")

// live returns when the process is gone, and why; "" if main wanted it and the role exited cleanly.
func (l *life) live(child Child) string {
	l.conn = NewConn(child.Conn(), withOwn(l.job.Takes, fromRole))
	l.exited, l.hungUp, l.ready = make(chan struct{}), make(chan struct{}), make(chan struct{})
	var exitErr error
	go func() {
		defer close(l.exited)
		exitErr = child.Wait()
	}()
	var why error
	if l.job.Begin != nil {
		why = l.job.Begin(l.conn)
	}
	switch {
	case gone(why):
		why = nil // the reader sees that too
	case why != nil:
		why = fmt.Errorf("setup: %w", why)
	}
	go func() {
		defer close(l.hungUp)
		l.readErr = l.read()
	}()
	if why == nil {
		why = l.attend()
	}
	l.Keeper.conn.Store(nil)
	if l.wanted {
		go l.conn.send(kindEnd, nil, endWait)
		why = fmt.Errorf("did not end within %v, killed", endWait)
	}
	if l.wanted || why == errHungUp {
		select {
		case <-l.exited:
			why = nil
		case <-time.After(endWait):
		}
	}
	child.Kill()
	<-l.exited
	// What it sent before it ended is still there to be read, unless another process holds the descriptor.
	l.conn.conn.SetReadDeadline(time.Now().Add(drainWait))
	<-l.hungUp
	l.conn.Close()
	l.reportDropped()
	l.mu.Lock()
	killed := l.why
	l.child, l.why = nil, ""
	l.mu.Unlock()
	switch {
	case l.readErr != nil:
		why = misbehaved(l.readErr)
	case l.conn.send(kindEnd, nil, 0) == ErrNotRead:
		why = misbehaved(ErrNotRead)
	case why == nil && exitErr != nil:
		return killed + Clean(exitErr.Error(), 2*maxReason)
	case why == nil && !l.wanted:
		return "ended by itself"
	case why == nil:
		return ""
	}
	return Clean(why.Error(), 2*maxReason)
}

// attend returns why the process has to be killed, or nil when it is gone or wanted to end.
func (l *life) attend() error {
	ready, late := l.ready, time.After(readyWait)
	ping := time.NewTicker(pingEvery)
	defer ping.Stop()
	var pinged time.Time
	for {
		select {
		case <-l.ctx.Done():
			l.wanted = true
			return nil
		case <-l.restart:
			l.wanted = true
			return nil
		case <-l.exited:
			return nil
		case <-l.hungUp:
			return cmp.Or(l.readErr, errHungUp)
		case <-late:
			return misbehaved(fmt.Errorf("not ready within %v", readyWait))
		case <-ready:
			ready, late = nil, nil
			l.worked = time.Now()
			l.Keeper.conn.Store(l.conn)
			if l.job.Up != nil {
				l.job.Up()
			}
		case <-ping.C:
			switch {
			case ready != nil:
			case l.pinged.CompareAndSwap(false, true):
				pinged = time.Now()
				go l.conn.Send(kindPing, nil)
			case l.handling.Load(): // it is main that does not read
				pinged = time.Now()
			case time.Since(pinged) >= silentFor:
				return misbehaved(fmt.Errorf("silent: no answer within %v", silentFor))
			}
		}
	}
}

// read takes what the role sends, until the stream ends (nil) or the role misbehaves.
func (l *life) read() error {
	if l.job.Hold != nil {
		select {
		case <-l.job.Hold:
		case <-l.ctx.Done():
			return nil
		}
	}
	messages, events := rate.NewLimiter(floodRate, floodBurst), rate.NewLimiter(logRate, logBurst)
	for {
		kind, payload, err := l.conn.Next()
		switch {
		case errors.Is(err, ErrMessage):
			return err
		case err != nil:
			return nil // the process is gone or hung up
		case !messages.Allow():
			return fmt.Errorf("flood: more than %d messages a second", floodRate)
		case kind == kindLog && !events.Allow():
			l.dropped++
		default:
			if err := l.take(kind, payload); err != nil {
				return err
			}
		}
	}
}

// take handles one message. An error is misbehaviour.
func (l *life) take(kind byte, payload []byte) error {
	switch {
	case kind == kindLog:
		if time.Since(l.reported) >= reportEvery {
			l.reportDropped()
		}
		if err := logEvent(l.job.Log, l.job.Role, payload); err != nil {
			return fmt.Errorf("log event: %w", err)
		}
	case kind == kindPong:
		if !l.pinged.CompareAndSwap(true, false) {
			return errors.New("pong without a ping")
		}
	case kind == kindReady:
		select {
		case <-l.ready:
			return errors.New("ready twice")
		default:
			close(l.ready)
		}
	case l.job.Handle == nil:
		return fmt.Errorf("%w: kind %d", ErrMessage, kind)
	default:
		l.handling.Store(true)
		defer l.handling.Store(false)
		return l.job.Handle(l.conn, kind, payload)
	}
	return nil
}

// reportDropped logs how many log events were left out.
func (l *life) reportDropped() {
	if l.dropped > 0 {
		l.job.Log.Warn().Str(roleField, l.job.Role).Int("events", l.dropped).Msg("role logs too much, events left out")
		l.dropped, l.reported = 0, time.Now()
	}
}
