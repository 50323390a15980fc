package report

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"reflect"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/agent/internal/privsep"
	"example.org/threatstopd/agent/internal/status"
)

// ClientOptions are what a Client needs of main.
type ClientOptions struct {
	Starter   privsep.Starter
	Config    Config
	Listeners status.Listeners // where the role answers; main closes them when the role is gone
	// Sync carries out a policy run, as status.Service's does; say does not wait.
	// It is called once at a time.
	Sync    func(ctx context.Context, force bool, say func(line string, warn bool)) (exit int)
	Down    func(reason string)    // the process died, was killed or could not be started
	Up      func()                 // one works
	Trouble func(key, text string) // reports what else is wrong, by a Trouble… key; text is empty when it is resolved
	Log     zerolog.Logger
}

const (
	sendEvery             = 100 * time.Millisecond   // main's part of the status is sent, at most
	firstRetry, lastRetry = time.Second, time.Minute // while hits cannot be read the role is started anew this often
	syncBurst, syncEvery  = 10, 10 * time.Second     // so many syncs may be asked for at once, and then one in so long
	syncRefused           = 100                      // after so many that were refused in a row the role is killed
	maxTroubles           = 50                       // that a process may report at once; one more each minute
	syncLines             = 4096                     // lines of a sync that may wait for a slow reader; others are left out
)

// A Client is main's end of the role: it keeps a process of it running, sends it each
// policy that comes into force, and answers its requests.
type Client struct {
	o      ClientOptions
	ctx    context.Context
	keeper *privsep.Keeper
	tasks  sync.WaitGroup
	wake   chan struct{} // there is a policy or a status to send

	sending sync.Mutex // held while a status is sent: the newest is sent last

	mu       sync.Mutex
	conn     *privsep.Conn // to the present process; nil before the first
	status   *status.Status
	shown    *status.Status // what conn has of it
	log      bool           // a line about reporting is to be logged
	force    *inForce
	sent     *inForce  // what conn has of it
	since    time.Time // conn's begin
	troubles int       // that it has reported
	redo     bool      // it has reported what only the next one can find cured
	retry    time.Duration

	busy    *privsep.Conn // that has asked for a sync, and has no end of it yet
	running sync.Mutex    // held while a sync is under way, for whichever process
	spent   time.Time     // when the last sync that began is paid for, at one in syncEvery
	refused int           // in a row
}

// inForce is the policy in force.
type inForce struct {
	set *policy.Set
	own []netip.Addr
}

// Start starts the role, and keeps it running until ctx ends. The policy is what is in
// force already, nil for nothing; own are the host's addresses.
func Start(ctx context.Context, o ClientOptions, set *policy.Set, own []netip.Addr) *Client {
	c := &Client{o: o, ctx: ctx, retry: firstRetry, wake: make(chan struct{}, 1)}
	if set != nil {
		c.force = &inForce{set, own}
	}
	c.keeper = privsep.Keep(ctx, o.Starter, privsep.Job{
		Role: "report", Files: c.files, Takes: fromRole, Begin: c.begin, Handle: c.handle,
		Down: o.Down, Up: o.Up, Log: o.Log,
	})
	c.tasks.Go(c.send)
	return c
}

// Wait returns when ctx has ended and the role is gone.
func (c *Client) Wait() {
	c.keeper.Wait()
	c.tasks.Wait()
}

// SetUp changes the role's configuration. It is started anew when that is another one, when it
// has read a file that may be, the certificates, or when the owner may have cured what it has reported;
// a sync that is carried out for it ends before that.
func (c *Client) SetUp(next Config) {
	c.mu.Lock()
	same := next.CAFile == "" && !c.redo && reflect.DeepEqual(c.o.Config, next)
	c.o.Config, c.retry = next, firstRetry
	conn, busy := c.conn, c.busy != nil && c.busy == c.conn
	c.mu.Unlock()
	switch {
	case same:
		// A role that does not read must not hold up main.
		c.tasks.Go(func() { _ = c.keeper.Conn().Send(kindRetry, nil) })
	case busy: // a client waits for the result of a sync
		c.tasks.Go(func() { c.again(conn, firstRetry) })
	default:
		c.keeper.Restart()
	}
}

// Policy sends the role the policy in force; own are the host's addresses. It does
// not wait. Of policies that come faster than the role takes them the newest counts.
func (c *Client) Policy(set *policy.Set, own []netip.Addr) {
	c.mu.Lock()
	c.force = &inForce{set, own}
	c.mu.Unlock()
	signal(c.wake)
}

// Status takes main's part of the status: all but hits and uploads. It does not wait. The
// daemon calls it after every change and at least once a minute.
func (c *Client) Status(s status.Status) {
	c.mu.Lock()
	c.status = &s
	c.mu.Unlock()
	signal(c.wake)
}

// LogStatus has the role log a line about reporting. It does not wait.
func (c *Client) LogStatus() {
	c.mu.Lock()
	c.log = true
	c.mu.Unlock()
	signal(c.wake)
}

// files duplicates the listeners for a new process.
func (c *Client) files() (files []*os.File, err error) {
	for _, l := range listeners(&c.o.Listeners) {
		if *l == nil {
			continue
		}
		f, err := (*l).(interface{ File() (*os.File, error) }).File()
		if err != nil {
			closeAll(files)
			return nil, fmt.Errorf("listener: %w", err)
		}
		files = append(files, f)
	}
	return files, nil
}

// listeners returns them in the order of their descriptors.
func listeners(l *status.Listeners) [4]*net.Listener {
	return [4]*net.Listener{&l.Full, &l.ReadOnly, &l.Metrics, &l.Page}
}

// begin sends a new process its configuration, and sees to it that the policy follows.
func (c *Client) begin(conn *privsep.Conn) error {
	c.mu.Lock()
	config := c.o.Config
	config.Policy = c.force != nil
	c.mu.Unlock()
	for i, l := range listeners(&c.o.Listeners) {
		config.Listeners[i] = *l != nil
	}
	if err := conn.SendJSON(kindSetup, config); err != nil {
		return err
	}
	for _, key := range []string{TroubleSpool, TroubleFiles, TroubleLogs} {
		c.o.Trouble(key, "") // of the process before; it reports the others itself
	}
	c.mu.Lock()
	c.conn, c.sent, c.shown, c.troubles, c.redo, c.since, c.refused = conn, nil, nil, 0, false, time.Now(), 0
	c.mu.Unlock()
	signal(c.wake)
	return nil
}

// send sends policies and statuses as they come, apart from those who bring them: a role that
// does not read holds up nobody but itself.
func (c *Client) send() {
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-c.wake:
		}
		c.mu.Lock()
		log := c.log
		c.log = false
		c.mu.Unlock()
		if log {
			_ = c.keeper.Conn().Send(kindLogStatus, nil)
		}
		c.sendPolicy()
		c.sendStatus()
		select {
		case <-time.After(sendEvery):
		case <-c.ctx.Done():
			return
		}
	}
}

// sendPolicy sends the policy in force. An error is the end of the connection, which the Keeper sees too.
func (c *Client) sendPolicy() {
	c.mu.Lock()
	conn, force, same := c.conn, c.force, c.force == c.sent
	c.mu.Unlock()
	if conn == nil || same {
		return
	}
	err := conn.SendJSON(kindBegin, newHead(force.set, force.own))
	for chunk := range force.set.Chunks(chunkSize) {
		if err == nil {
			err = conn.Send(kindChunk, chunk)
		}
	}
	if err != nil || conn.Send(kindCommit, nil) != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == conn {
		c.sent = force
	}
}

// sendStatus sends the status that waits.
func (c *Client) sendStatus() {
	c.sending.Lock()
	defer c.sending.Unlock()
	c.mu.Lock()
	conn, s, same := c.conn, c.status, c.status == c.shown
	if conn != nil {
		c.shown = s
	}
	c.mu.Unlock()
	if conn == nil || same {
		return
	}
	b, err := status.Encode(*s)
	if err != nil {
		c.o.Log.Error().Err(err).Msg("status not sent")
		return
	}
	_ = conn.Send(kindStatus, b)
}

// handle takes a message of the role. An error is misbehaviour, for which it is killed.
func (c *Client) handle(conn *privsep.Conn, kind byte, payload []byte) error {
	if kind == kindTrouble {
		var t trouble
		if err := privsep.Unmarshal(payload, &t); err != nil {
			return fmt.Errorf("trouble: %w", err)
		}
		return c.trouble(conn, t)
	}
	return c.askSync(conn, kind == kindAskForce)
}

// trouble takes a trouble of the role: one of a few, and not again and again.
func (c *Client) trouble(conn *privsep.Conn, t trouble) error {
	known, ok := troubles[t.Key]
	if !ok {
		return fmt.Errorf("trouble of key %q", privsep.Clean(t.Key, 40))
	}
	if t.Text != "" {
		t.Text = known.prefix + privsep.Clean(t.Text, maxWhy)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.troubles++; float64(c.troubles) > maxTroubles+time.Since(c.since).Minutes() {
		return errors.New("reports troubles without end")
	}
	c.redo = c.redo || known.needsOwner && t.Text != ""
	c.o.Trouble(t.Key, t.Text)
	if t.Key != TroubleCapture || t.Text == "" {
		return nil
	}
	// A new process can open what this one could not, or can no longer. The pauses grow while none
	// of them works for long.
	if time.Since(c.since) > lastRetry {
		c.retry = firstRetry
	}
	pause := c.retry
	c.retry = min(2*c.retry, lastRetry)
	c.tasks.Go(func() { c.again(conn, pause) })
	return nil
}

// again starts the role anew after a pause, if conn is still that of the present process, and as soon
// as no sync is carried out for it.
func (c *Client) again(conn *privsep.Conn, pause time.Duration) {
	for busy := true; busy; pause = firstRetry {
		select {
		case <-time.After(pause):
		case <-c.ctx.Done():
			return
		}
		c.mu.Lock()
		busy = c.busy == conn
		if c.conn == conn && !busy {
			c.keeper.Restart()
		}
		c.mu.Unlock()
	}
}

// askSync begins a sync, or reports why not.
func (c *Client) askSync(conn *privsep.Conn, force bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.busy == conn {
		return errors.New("asks for a sync while it has one")
	}
	now := time.Now()
	if c.spent.Before(now) {
		c.spent = now
	}
	refuse := ""
	if wait := c.spent.Sub(now) - (syncBurst-1)*syncEvery; wait > 0 {
		if c.refused++; c.refused > syncRefused {
			return errors.New("asks for syncs without end")
		}
		refuse = fmt.Sprintf("too many syncs: the next can begin in %v", max(wait.Round(time.Second), time.Second))
		c.o.Trouble(TroubleSyncs, fmt.Sprintf("report process: asks for more than %d syncs, one in %v: refused",
			syncBurst, syncEvery))
	} else {
		c.spent = c.spent.Add(syncEvery)
		c.refused = 0
		c.o.Trouble(TroubleSyncs, "")
	}
	c.busy = conn
	c.tasks.Go(func() { c.sync(conn, force, refuse) })
	return nil
}

// syncLine is a line of a sync.
type syncLine struct {
	text string
	warn bool
}

// sync carries out a sync, or refuses it. The run does not wait for the role to read.
func (c *Client) sync(conn *privsep.Conn, force bool, refuse string) {
	lines := make(chan syncLine, syncLines)
	var sending sync.WaitGroup
	sending.Go(func() {
		for l := range lines {
			kind := byte(kindLine)
			if l.warn {
				kind = kindWarn
			}
			_ = conn.Send(kind, []byte(privsep.Clean(l.text, maxSyncLine)))
		}
	})
	say := func(text string, warn bool) {
		select {
		case lines <- syncLine{text, warn}:
		default:
		}
	}
	exit := 1
	switch {
	case refuse != "":
		say(refuse, true)
	case !c.running.TryLock(): // by that of a process which is gone
		say("a sync is under way already: try again when it has ended", true)
	default:
		exit = c.o.Sync(c.ctx, force, say)
		c.running.Unlock()
	}
	close(lines)
	sending.Wait()
	c.mu.Lock()
	if c.busy == conn {
		c.busy = nil
	}
	c.mu.Unlock()
	c.sendStatus() // a client that asks next sees what the sync did
	_ = conn.Send(kindDone, []byte{byte(exit)})
}
