package privsep

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"example.org/threatstopd/agent/internal/frame"
)

// How long main waits for a role, and what it takes from it.
const (
	readyWait  = 2 * time.Minute  // from its start until it is ready
	pingEvery  = 30 * time.Second // and
	silentFor  = 60 * time.Second // after a ping without its pong it is silent
	endWait    = 10 * time.Second // from being told to end until it is killed
	drainWait  = 2 * time.Second  // for what a role sent before it went
	firstPause = time.Second      // before it is started again; doubled
	lastPause  = time.Minute      // up to this
	healthyFor = time.Minute      // at work for so long, it begins with the first again
	frameBurst = 10000
	frameRate  = 2000             // messages a second
	tellEvery  = 10 * time.Second // at most, that log events were left out
)

// ErrDown: there is no process of the role that is ready.
var ErrDown = errors.New("not running")

// Job is a role that is to be kept running.
//
// Begin, Handle, Up and Down are called one at a time each, but Handle (on the goroutine
// that reads) beside the others; when Handle is called Begin may not have returned.
type Job struct {
	Role string
	// Files returns the descriptors for a new process, from 4 on: duplicates, which
	// belong to the process. Nil: none.
	Files func() ([]*os.File, error)
	// Takes has the kinds of messages taken from the role, each with its longest
	// payload in bytes.
	Takes frame.Limits
	// Begin sends a new process its setup. Nil: nothing.
	Begin func(*Conn) error
	// Handle is given each message of the role; the payload is its own until it
	// returns. An error means that the role misbehaves: it is killed, and the reason
	// told. While Handle does not return nothing is read from the role. Nil: any
	// message is misbehaviour.
	Handle func(c *Conn, kind byte, payload []byte) error
	// Down tells that the role died, was killed or could not be started, and why, in
	// one line. It is started again after a pause of a second, doubled each time up to
	// a minute. Nil: told to nobody.
	Down func(reason string)
	// Up tells that Begin is done and the role ready: from now on Send sends. What
	// Send refused before is not sent later.
	Up func()
	// Log is where the role's events go, and what Keep has to say itself.
	Log zerolog.Logger
	// Once: it is not started again.
	Once bool
}

// Keeper keeps one role running.
type Keeper struct {
	job     Job
	starter Starter
	ctx     context.Context
	done    chan struct{}
	restart chan struct{}

	mu   sync.Mutex
	conn *Conn // of the process that is ready
}

// Keep starts a role and keeps it running until ctx ends, when it is told to end; it has
// 10 seconds for that. Keep returns at once.
//
// A role misbehaves, and is killed, when it sends what is not a frame, a kind that is not
// taken or one that is too long, a log event that is none, more than 2000 messages a second
// (after a burst of 10000), what Handle refuses; when it does not read what it is sent for
// 30 seconds, does not answer a ping for 60, or is not ready within two minutes.
func Keep(ctx context.Context, s Starter, j Job) *Keeper {
	k := &Keeper{job: j, starter: s, ctx: ctx, done: make(chan struct{}), restart: make(chan struct{}, 1)}
	go k.run()
	return k
}

// Send sends the role a message, as [Conn.Send] does. It fails with [ErrDown] while there
// is no process that is ready.
func (k *Keeper) Send(kind byte, payload []byte) error {
	k.mu.Lock()
	c := k.conn
	k.mu.Unlock()
	if c == nil {
		return ErrDown
	}
	if err := c.Send(kind, payload); err != nil {
		if gone(err) {
			return ErrDown
		}
		return err
	}
	return nil
}

// SendJSON sends the role a message of one JSON value.
func (k *Keeper) SendJSON(kind byte, v any) error {
	k.mu.Lock()
	c := k.conn
	k.mu.Unlock()
	if c == nil {
		return ErrDown
	}
	err := c.SendJSON(kind, v)
	if gone(err) {
		return ErrDown
	}
	return err
}

// Restart ends the role orderly and starts a new process at once. While it is not running
// it cuts the pause short. However often it is called before the new process is started,
// and Begin for that, there is one.
func (k *Keeper) Restart() {
	select {
	case k.restart <- struct{}{}:
	default: // is about to be
	}
}

// Wait waits until the role is gone and is not started again: after ctx ended, or after
// the end of one that runs once.
func (k *Keeper) Wait() { <-k.done }

func (k *Keeper) run() {
	defer close(k.done)
	pause := firstPause
	for k.ctx.Err() == nil {
		l := life{k: k, job: &k.job}
		reason, wanted := l.live()
		if wanted && reason != "" {
			k.job.Log.Warn().Str(roleField, k.job.Role).Str("reason", reason).Msg("role did not end orderly")
		}
		switch {
		case k.ctx.Err() != nil && wanted:
			return
		case wanted && !k.job.Once: // to be started again
			pause = firstPause
			continue
		case !wanted && k.job.Down != nil:
			k.job.Down(reason)
		}
		if k.job.Once {
			return
		}
		if l.worked >= healthyFor {
			pause = firstPause
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-k.restart:
		case <-k.ctx.Done():
		}
		t.Stop()
		pause = min(2*pause, lastPause)
	}
}

// up makes c the connection that Send uses; nil: there is none.
func (k *Keeper) up(c *Conn) {
	k.mu.Lock()
	k.conn = c
	k.mu.Unlock()
}

// life is that of one process of a role.
type life struct {
	k      *Keeper
	job    *Job
	conn   *Conn
	worked time.Duration // from ready to its end

	exited  chan struct{} // closed when the process is gone
	exitErr error
	hungUp  chan struct{} // closed when nothing more is read
	readErr error         // a misbehaved, or nil
	begun   chan struct{} // closed when Begin has returned
	beginOK error
	ready   chan struct{} // closed when the role said so
	pong    chan struct{}
	pinged  atomic.Uint64 // number of the ping without its pong; 0: none
	sends   sync.WaitGroup
	failed  string // what the role said of its failure; the reader's until hungUp
	dropped int    // log events left out and not yet told, when last: so too
	half    bool   // it ended within a frame; so too
	told    time.Time
}

// fromRole has what is taken from any role.
var fromRole = frame.Limits{kindLog: maxLog, kindPong: pingLen, kindReady: 0, kindFailed: maxReason + len("…")}

// misbehaved is the reason for killing a role.
type misbehaved struct{ err error }

func (m misbehaved) Error() string { return "misbehaved, killed: " + clean(m.err.Error(), maxReason) }

var errHungUp = errors.New("closed its connection and stayed, killed")

// live starts a process and returns when it is gone: why, and whether it was wanted. The
// reason is empty for an orderly end that was.
func (l *life) live() (reason string, wanted bool) {
	select {
	case <-l.k.restart: // this is what was asked for
	default:
	}
	child, err := l.start()
	if err != nil {
		return "cannot be started: " + clean(err.Error(), maxReason), false
	}
	l.conn = NewConn(child.Conn(), withOwn(l.job.Takes, fromRole))
	l.ready, l.pong = make(chan struct{}), make(chan struct{}, 1)
	l.exited, l.hungUp, l.begun = make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(l.exited)
		l.exitErr = child.Wait()
	}()
	go func() {
		defer close(l.hungUp)
		l.readErr = l.read()
	}()
	go func() {
		defer close(l.begun)
		if l.job.Begin != nil {
			l.beginOK = l.job.Begin(l.conn)
		}
	}()

	why := l.attend()
	l.k.up(nil)
	switch why {
	case errWanted:
		wanted, why = true, nil
		l.sends.Go(func() { l.conn.send(kindEnd, nil, endWait) })
		if !l.exits() {
			why = fmt.Errorf("did not end within %v, killed", endWait)
		}
	case errHungUp:
		if l.exits() { // as it was about to
			why = nil
		}
	}
	child.Kill()
	<-l.exited
	// What it sent before it went is still there to be read, if nothing else holds
	// the descriptor.
	l.conn.conn.SetReadDeadline(time.Now().Add(drainWait))
	<-l.hungUp
	l.conn.Close()
	<-l.begun
	l.sends.Wait()
	l.tellDropped()
	if l.conn.isBroken(ErrNotRead) {
		why = misbehaved{ErrNotRead}
	}
	if l.readErr != nil {
		why = l.readErr
	}
	switch {
	case why != nil:
		return clean(why.Error(), 2*maxReason), wanted
	case l.failed != "":
		return l.failed, wanted
	case l.exitErr != nil:
		return clean(l.exitErr.Error(), 2*maxReason), wanted
	case wanted:
		return "", true
	case l.half:
		return "ended in the middle of a message", false
	}
	return "ended by itself", false
}

func (l *life) start() (Child, error) {
	var files []*os.File
	if l.job.Files != nil {
		var err error
		if files, err = l.job.Files(); err != nil {
			return nil, err
		}
	}
	return l.k.starter.Start(l.job.Role, files)
}

// exits waits for the process to go by itself.
func (l *life) exits() bool {
	t := time.NewTimer(endWait)
	defer t.Stop()
	select {
	case <-l.exited:
		return true
	case <-t.C:
		return false
	}
}

// errWanted: it is main's wish that the role ends.
var errWanted = errors.New("wanted")

// attend waits until the process has to go, and says why; nil when it is gone.
func (l *life) attend() error {
	limit := time.NewTimer(readyWait)
	defer limit.Stop()
	ping := time.NewTicker(pingEvery)
	defer ping.Stop()
	silent := time.NewTimer(silentFor)
	silent.Stop()
	defer silent.Stop()
	var (
		ready, begun = l.ready, l.begun
		atWork       time.Time
		number       uint64
	)
	defer func() {
		if !atWork.IsZero() {
			l.worked = time.Since(atWork)
		}
	}()
	for {
		select {
		case <-l.k.ctx.Done():
			return errWanted
		case <-l.k.restart:
			return errWanted
		case <-l.exited:
			return nil
		case <-l.hungUp:
			if l.readErr != nil {
				return l.readErr
			}
			return errHungUp
		case <-begun:
			begun = nil
			switch err := l.beginOK; {
			case gone(err):
				return errHungUp
			case errors.Is(err, ErrNotRead):
				return misbehaved{err}
			case err != nil:
				return fmt.Errorf("setup: %w", err)
			}
		case <-ready:
			ready = nil
		case <-limit.C:
			return misbehaved{fmt.Errorf("not ready within %v", readyWait)}
		case <-ping.C:
			if ready != nil || l.pinged.Load() != 0 {
				continue
			}
			number++
			l.pinged.Store(number)
			payload := pingPayload(number)
			l.sends.Go(func() { l.conn.Send(kindPing, payload) })
			silent.Reset(silentFor)
			continue
		case <-l.pong:
			silent.Stop()
			continue
		case <-silent.C:
			return misbehaved{fmt.Errorf("silent: no answer within %v", silentFor)}
		}
		if ready == nil && begun == nil && atWork.IsZero() {
			limit.Stop()
			atWork = time.Now()
			l.k.up(l.conn)
			if l.job.Up != nil {
				l.job.Up()
			}
		}
	}
}

// read takes what the role sends, until the stream ends (nil) or the role misbehaves.
func (l *life) read() error {
	frames := newBucket(frameBurst, frameRate)
	events := newBucket(logBurst, logRate)
	isReady := false
	for {
		kind, payload, err := l.conn.Next()
		if err != nil {
			for _, bad := range []error{frame.ErrNotFrame, frame.ErrVersion, frame.ErrKind, frame.ErrTooLong} {
				if errors.Is(err, bad) {
					return misbehaved{err}
				}
			}
			// A process that is killed leaves half a message behind: why it
			// was is the better reason.
			l.half = errors.Is(err, io.ErrUnexpectedEOF)
			return nil
		}
		if !frames.take() {
			return misbehaved{fmt.Errorf("flood: more than %d messages a second", frameRate)}
		}
		switch kind {
		case kindLog:
			e, err := parseEvent(payload)
			if err != nil {
				return misbehaved{fmt.Errorf("log event: %w", err)}
			}
			if !events.take() {
				l.dropped++
				continue
			}
			if time.Since(l.told) >= tellEvery {
				l.tellDropped()
			}
			e.write(l.job.Log, l.job.Role)
		case kindPong:
			n := l.pinged.Load()
			if n == 0 || !bytes.Equal(payload, pingPayload(n)) {
				return misbehaved{errors.New("a pong without a ping")}
			}
			l.pinged.Store(0)
			l.pong <- struct{}{}
		case kindReady:
			if isReady {
				return misbehaved{errors.New("ready twice")}
			}
			isReady = true
			close(l.ready)
		case kindFailed:
			if l.failed == "" {
				l.failed = clean(string(payload), maxReason)
			}
		default:
			if l.job.Handle == nil {
				return misbehaved{fmt.Errorf("%w: %d", frame.ErrKind, kind)}
			}
			if err := l.job.Handle(l.conn, kind, payload); err != nil {
				return misbehaved{err}
			}
		}
	}
}

// tellDropped tells how many log events were left out.
func (l *life) tellDropped() {
	if l.dropped > 0 {
		l.job.Log.Warn().Str(roleField, l.job.Role).Int("events", l.dropped).Msg("role logs too much, events left out")
		l.dropped, l.told = 0, time.Now()
	}
}
