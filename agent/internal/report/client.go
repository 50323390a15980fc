package report

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/agent/internal/privsep"
	"example.org/threatstopd/agent/internal/status"
)

// ClientOptions are what a Client needs of main.
type ClientOptions struct {
	Starter privsep.Starter
	Setup   Setup
	// Listeners are where the role answers. They stay main's, which closes them
	// when the role is gone.
	Listeners status.Listeners
	// Sync carries out a policy run, as status.Service's does; say does not wait.
	// It is called once at a time.
	Sync func(ctx context.Context, force bool, say func(line string, warn bool)) (exit int)
	// Down is called when the process died, was killed or could not be started, with the
	// reason; Up when one works.
	Down func(reason string)
	Up   func()
	// Trouble is called with what else is wrong, by a key; an empty text means that it is resolved.
	Trouble func(key, text string)
	Log     zerolog.Logger
}

// Keys of ClientOptions.Trouble, beside those of Options.Trouble.
const (
	TroubleCapture = "pflog"        // hits are not read
	TroubleUploads = "uploads"      // the log server cannot be reached with this configuration
	TroubleSyncs   = "report syncs" // it asks for more syncs than it may
)

const (
	// statusEvery is how often main's part of the status is made at most.
	statusEvery = 100 * time.Millisecond
	// While hits cannot be read the role is started anew this often.
	firstRetry, lastRetry = time.Second, time.Minute
	// So many syncs may be asked for at once, and then one in so long.
	syncBurst = 10
	syncEvery = 10 * time.Second
	// After so many that were refused in a row it is killed.
	syncRefused = 100
	// maxTroubles is how many troubles a process may report at once; one more each minute.
	maxTroubles = 50
	// syncLines are how many lines of a sync may wait for the role to read them.
	// Others are left out.
	syncLines = 1024
)

// A Client is main's end of the role: it keeps a process of it running, sends it each
// policy that comes into force, and answers its requests.
type Client struct {
	o      ClientOptions
	ctx    context.Context
	keeper *privsep.Keeper
	tasks  sync.WaitGroup

	wakePolicy chan struct{} // there is a policy to send
	wakeStatus chan struct{} // there is a status to send

	sending sync.Mutex // held while a status is sent: the newest is sent last

	mu       sync.Mutex
	status   *status.Status // main's part as of last; nil before the first
	shown    *status.Status // what conn has of it
	setup    Setup
	conn     *privsep.Conn // to the present process; nil before the first
	log      bool          // a line about reporting is to be logged
	force    inForce
	sent     uint64      // generation that conn has
	has      *policyHead // and what it was; nil: none
	states   int         // captureStates that conn has sent
	troubles int         // likewise
	since    time.Time
	retry    time.Duration
	timer    *time.Timer
	busy     *privsep.Conn // that has asked for a sync, and has no end of it yet
	running  bool          // a sync is under way, for whichever process
	tokens   float64       // syncs that may begin now
	counted  time.Time     // as of when
	refused  int
}

// inForce is the policy in force.
type inForce struct {
	generation uint64 // 0: there is none
	set        *policy.Set
	own        []netip.Addr
}

// Start starts the role, and keeps it running until ctx ends. The policy is what is in
// force already, nil for nothing.
func Start(ctx context.Context, o ClientOptions, set *policy.Set, own []netip.Addr) *Client {
	c := &Client{
		o: o, ctx: ctx, setup: o.Setup, tokens: syncBurst, counted: time.Now(), retry: firstRetry,
		wakePolicy: make(chan struct{}, 1), wakeStatus: make(chan struct{}, 1),
	}
	if set != nil {
		c.force = inForce{1, set, own}
	}
	c.keeper = privsep.Keep(ctx, o.Starter, privsep.Job{
		Role:   "report",
		Files:  c.files,
		Takes:  fromRole,
		Begin:  c.begin,
		Handle: c.handle,
		Down:   o.Down,
		Up:     o.Up,
		Log:    o.Log,
	})
	c.tasks.Go(c.sendPolicies)
	c.tasks.Go(c.sendStatus)
	return c
}

// Wait returns when ctx has ended and the role is gone.
func (c *Client) Wait() {
	c.keeper.Wait()
	c.mu.Lock()
	if c.timer != nil {
		c.timer.Stop()
	}
	c.mu.Unlock()
	c.tasks.Wait()
}

// SetUp changes the role's setup. It is started anew when that is another one, or when
// it has read a file that may be: the certificates.
func (c *Client) SetUp(s Setup) {
	c.mu.Lock()
	same := sameSetup(c.setup, s) && (s.Reporting == nil || s.Reporting.Upload.CAFile == "")
	c.setup = s
	c.retry = firstRetry
	c.mu.Unlock()
	if !same {
		c.keeper.Restart()
	} else {
		c.tasks.Go(func() { _ = c.keeper.Conn().Send(kindRetry, nil) }) // a role that does not read must not hold up main
	}
}

func sameSetup(a, b Setup) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

// Policy sends the role the policy in force; own are the host's addresses. It does
// not wait. Of policies that come faster than the role takes them the newest counts.
func (c *Client) Policy(set *policy.Set, own []netip.Addr) {
	c.mu.Lock()
	c.force = inForce{c.force.generation + 1, set, own}
	c.mu.Unlock()
	signal(c.wakePolicy)
}

// Status takes main's part of the status: all but hits and uploads. It does not wait. The
// daemon calls it after every change and at least once a minute.
func (c *Client) Status(s status.Status) {
	c.mu.Lock()
	c.status = &s
	c.mu.Unlock()
	signal(c.wakeStatus)
}

// LogStatus has the role log a line about reporting. It does not wait.
func (c *Client) LogStatus() {
	c.mu.Lock()
	c.log = true
	c.mu.Unlock()
	signal(c.wakeStatus)
}

// A listener is one of main's, by the name that the role knows it by.
type listener struct {
	name string
	net.Listener
}

// listeners returns those that there are.
func (c *Client) listeners() []listener {
	l := c.o.Listeners
	return slices.DeleteFunc([]listener{{listenFull, l.Full}, {listenReadOnly, l.ReadOnly}, {listenMetrics, l.Metrics}, {listenPage, l.Page}},
		func(x listener) bool { return x.Listener == nil })
}

// files duplicates the listeners for a new process.
func (c *Client) files() (files []*os.File, err error) {
	for _, l := range c.listeners() {
		f, err := l.Listener.(interface{ File() (*os.File, error) }).File()
		if err != nil {
			closeAll(files)
			return nil, fmt.Errorf("listener: %w", err)
		}
		files = append(files, f)
	}
	return files, nil
}

// begin sends a new process its setup, and sees to it that the policy follows.
func (c *Client) begin(conn *privsep.Conn) error {
	c.mu.Lock()
	setup := c.setup
	setup.Policy = c.force.generation > 0
	c.mu.Unlock()
	setup.Listeners = nil
	for _, l := range c.listeners() {
		setup.Listeners = append(setup.Listeners, l.name)
	}
	if err := conn.SendJSON(kindSetup, setup); err != nil {
		return err
	}
	if setup.Reporting != nil {
		for _, key := range roleTroubles {
			c.o.Trouble("report: "+key, "") // those of the process before
		}
	}
	c.mu.Lock()
	c.conn, c.sent, c.has, c.shown, c.states, c.troubles, c.since, c.refused = conn, 0, nil, nil, 0, 0, time.Now(), 0
	c.mu.Unlock()
	signal(c.wakePolicy)
	signal(c.wakeStatus)
	return nil
}

// sendPolicies sends policies as they come, apart from those who bring them: a role that
// does not read holds up nobody but itself.
func (c *Client) sendPolicies() {
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-c.wakePolicy:
		}
		c.mu.Lock()
		conn, p, sent, has := c.conn, c.force, c.sent, c.has
		c.mu.Unlock()
		if conn == nil || p.generation == sent {
			continue
		}
		head := newHead(p.generation, p.set, p.own)
		// Most polls bring the same policy again.
		if has == nil || has.Sum != head.Sum || !slices.Equal(has.Own, head.Own) {
			// An error is the end of the connection, which the Keeper sees too.
			if c.sendPolicy(conn, p, head) != nil {
				continue
			}
		}
		c.mu.Lock()
		if c.conn == conn && c.force.generation == p.generation {
			c.sent, c.has = p.generation, &head
		} else {
			if c.conn == conn {
				c.has = nil // perhaps not all of it was sent
			}
			signal(c.wakePolicy)
		}
		c.mu.Unlock()
	}
}

// sendPolicy sends one policy, or begins to: when there is a newer one, this one is given
// up.
func (c *Client) sendPolicy(conn *privsep.Conn, p inForce, head policyHead) error {
	if err := conn.SendJSON(kindBegin, head); err != nil {
		return err
	}
	for chunk := range p.set.Chunks(chunkSize) {
		if err := conn.Send(kindChunk, chunk); err != nil {
			return err
		}
		c.mu.Lock()
		old := c.conn != conn || c.force.generation != p.generation
		c.mu.Unlock()
		if old {
			return nil
		}
	}
	return conn.Send(kindCommit, nil)
}

// sendStatus sends each status as it comes, not more often than is good for main, and asks for
// the line in the log.
func (c *Client) sendStatus() {
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-c.wakeStatus:
		}
		c.mu.Lock()
		conn, log := c.conn, c.log
		c.log = false
		c.mu.Unlock()
		if log {
			_ = c.keeper.Conn().Send(kindLogStatus, nil)
		}
		if conn != nil {
			c.flushStatus(conn)
		}
		timer := time.NewTimer(statusEvery)
		select {
		case <-timer.C:
		case <-c.ctx.Done():
			timer.Stop()
			return
		}
	}
}

// flushStatus sends the status that waits, if conn is still that of the present process.
func (c *Client) flushStatus(conn *privsep.Conn) {
	c.sending.Lock()
	defer c.sending.Unlock()
	c.mu.Lock()
	s := c.status
	same := c.conn != conn || s == c.shown
	c.shown = s
	c.mu.Unlock()
	if same {
		return
	}
	b, err := status.Encode(*s)
	if err != nil {
		c.o.Log.Error().Err(err).Msg("status not sent")
		return
	}
	_ = conn.Send(kindStatus, b) // an error is the end of the connection, which the Keeper sees too
}

// handle takes a frame from the role. An error is misbehaviour, for which it is killed.
func (c *Client) handle(conn *privsep.Conn, kind byte, payload []byte) error {
	switch kind {
	case kindCapture:
		var s captureState
		if err := privsep.Unmarshal(payload, &s); err != nil {
			return fmt.Errorf("capture state: %w", err)
		}
		return c.capture(conn, s)
	case kindTrouble:
		var t trouble
		if err := privsep.Unmarshal(payload, &t); err != nil {
			return fmt.Errorf("trouble: %w", err)
		}
		return c.troubled(t)
	case kindAskSync:
		if len(payload) != 1 || payload[0]&^askForce != 0 {
			return fmt.Errorf("sync asked for with %x", payload)
		}
		return c.askSync(conn, payload[0]&askForce != 0)
	}
	return fmt.Errorf("frame of kind %d", kind)
}

// roleTroubles are the keys of what the role may report.
var roleTroubles = []string{TroubleSpool, TroubleFiles, TroubleLogs}

// troubled takes a trouble of the role: one of a few, and not again and again.
func (c *Client) troubled(t trouble) error {
	if !slices.Contains(roleTroubles, t.Key) {
		return fmt.Errorf("trouble of key %q", clip(printable(t.Key), 40))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.troubles++; float64(c.troubles) > maxTroubles+time.Since(c.since).Minutes() {
		return errors.New("reports troubles without end")
	}
	c.o.Trouble("report: "+t.Key, clip(printable(t.Text), maxWhy))
	return nil
}

// capture takes what the role says of reading hits. A process says it once, and once more
// when it is over.
func (c *Client) capture(conn *privsep.Conn, s captureState) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.states++
	if c.states > 2 {
		return errors.New("reports the state of the capture again and again")
	}
	noUploads := ""
	if s.NoUploads != "" {
		noUploads = "no uploads, hits stay in the spool: " + clip(printable(s.NoUploads), maxWhy)
	}
	c.o.Trouble(TroubleUploads, noUploads)
	if s.Reading {
		c.o.Trouble(TroubleCapture, "")
		return nil
	}
	c.o.Trouble(TroubleCapture, "hits are not read: "+clip(printable(s.Why), maxWhy))
	// A new process can open what this one could not, or can no longer. Unless
	// that has lasted, it has been tried before.
	if time.Since(c.since) > lastRetry && c.states > 1 {
		c.retry = firstRetry
	}
	if c.timer != nil {
		c.timer.Stop()
	}
	c.timer = time.AfterFunc(c.retry, func() { c.again(conn) })
	c.retry = min(2*c.retry, lastRetry)
	return nil
}

// again starts the role anew, if conn is still that of the present process, and nobody
// is served by it just now.
func (c *Client) again(conn *privsep.Conn) {
	c.mu.Lock()
	restart := c.ctx.Err() == nil && c.conn == conn
	if restart && c.busy == conn {
		restart = false
		c.timer = time.AfterFunc(firstRetry, func() { c.again(conn) })
	}
	c.mu.Unlock()
	if restart {
		c.keeper.Restart()
	}
}

// askSync begins a sync, or says why not.
func (c *Client) askSync(conn *privsep.Conn, force bool) error {
	c.mu.Lock()
	if c.busy == conn {
		c.mu.Unlock()
		return errors.New("asks for a sync while it has one")
	}
	now := time.Now()
	c.tokens = min(syncBurst, c.tokens+float64(now.Sub(c.counted))/float64(syncEvery))
	c.counted = now
	refuse := ""
	switch {
	case c.running:
		// That of a process which is gone.
		refuse = "a sync is under way already: try again when it has ended"
	case c.tokens < 1:
		if c.refused++; c.refused > syncRefused {
			c.mu.Unlock()
			return errors.New("asks for syncs without end")
		}
		wait := time.Duration((1 - c.tokens) * float64(syncEvery)).Round(time.Second)
		refuse = fmt.Sprintf("too many syncs: the next can begin in %v", max(wait, time.Second))
		c.o.Trouble(TroubleSyncs, fmt.Sprintf("report process: asks for more than %d syncs, one in %v: refused", syncBurst, syncEvery))
	default:
		c.tokens--
		c.running = true
		c.refused = 0
		c.o.Trouble(TroubleSyncs, "")
	}
	c.busy = conn
	c.mu.Unlock()
	c.tasks.Go(func() { c.sync(conn, force, refuse) })
	return nil
}

// sync carries out a sync, or refuses it.
func (c *Client) sync(conn *privsep.Conn, force bool, refuse string) {
	// The run must not wait for the role to read.
	lines := make(chan []byte, syncLines)
	var sending sync.WaitGroup
	sending.Go(func() {
		for l := range lines {
			_ = conn.Send(kindLine, l)
		}
	})
	say := func(line string, warn bool) {
		l := []byte{0}
		if warn {
			l[0] = lineWarn
		}
		select {
		case lines <- append(l, clip(line, maxSyncLine)...):
		default:
		}
	}
	exit := 1
	if refuse != "" {
		say(refuse, true)
	} else {
		exit = c.o.Sync(c.ctx, force, say)
	}
	close(lines)
	sending.Wait()
	c.mu.Lock()
	if refuse == "" {
		c.running = false
	}
	if c.busy == conn {
		c.busy = nil
	}
	c.mu.Unlock()
	c.flushStatus(conn) // a client that asks next sees what the sync did
	_ = conn.Send(kindDone, []byte{byte(exit)})
}
