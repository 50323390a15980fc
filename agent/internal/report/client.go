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
	Starter privsep.Starter
	Config  Config
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
	// Trouble is called with what else is wrong, by one of the Trouble… keys; an empty text means
	// that it is resolved.
	Trouble func(key, text string)
	Log     zerolog.Logger
}

const (
	// sendEvery is how often main's part of the status is sent at most.
	sendEvery = 100 * time.Millisecond
	// While hits cannot be read the role is started anew this often.
	firstRetry, lastRetry = time.Second, time.Minute
	// So many syncs may be asked for at once, and then one in so long.
	syncBurst = 10
	syncEvery = 10 * time.Second
	// After so many that were refused in a row it is killed.
	syncRefused = 100
	// maxTroubles is how many troubles a process may report at once; one more each minute.
	maxTroubles = 50
	// syncLines are how many lines of a sync may wait for the other end, which reads them at its
	// pace. Others are left out.
	syncLines = 4096
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
	sent     *inForce    // what conn has of it
	head     *policyHead // which announced that; nil: nothing was sent yet
	since    time.Time   // conn's begin
	troubles int         // that it has reported
	retry    time.Duration

	busy    *privsep.Conn // that has asked for a sync, and has no end of it yet
	running bool          // a sync is under way, for whichever process
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

// SetUp changes the role's configuration. It is started anew when that is another one, or when
// it has read a file that may be: the certificates.
func (c *Client) SetUp(next Config) {
	c.mu.Lock()
	before, errB := json.Marshal(c.o.Config)
	after, errA := json.Marshal(next)
	c.o.Config, c.retry = next, firstRetry
	c.mu.Unlock()
	if errors.Join(errB, errA) == nil && bytes.Equal(before, after) && next.CAFile == "" {
		// A role that does not read must not hold up main.
		c.tasks.Go(func() { _ = c.keeper.Conn().Send(kindRetry, nil) })
	} else {
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

// files duplicates the listeners for a new process, in the order of their names.
func (c *Client) files() (files []*os.File, err error) {
	for _, l := range listeners(&c.o.Listeners) {
		if *l.listener == nil {
			continue
		}
		f, err := (*l.listener).(interface{ File() (*os.File, error) }).File()
		if err != nil {
			closeAll(files)
			return nil, fmt.Errorf("listener: %w", err)
		}
		files = append(files, f)
	}
	return files, nil
}

// named is a listener under the name that the role knows it by.
type named struct {
	name     string
	listener *net.Listener
}

func listeners(l *status.Listeners) []named {
	return []named{{"full", &l.Full}, {"status", &l.ReadOnly}, {"metrics", &l.Metrics}, {"page", &l.Page}}
}

// begin sends a new process its configuration, and sees to it that the policy follows.
func (c *Client) begin(conn *privsep.Conn) error {
	c.mu.Lock()
	config := c.o.Config
	config.Policy = c.force != nil
	c.mu.Unlock()
	config.Listeners = nil
	for _, l := range listeners(&c.o.Listeners) {
		if *l.listener != nil {
			config.Listeners = append(config.Listeners, l.name)
		}
	}
	if err := conn.SendJSON(kindSetup, config); err != nil {
		return err
	}
	for _, key := range []string{TroubleSpool, TroubleFiles, TroubleLogs} {
		c.o.Trouble(key, "") // of the process before; it reports the others itself
	}
	c.mu.Lock()
	c.conn, c.sent, c.head, c.shown, c.troubles, c.since, c.refused = conn, nil, nil, nil, 0, time.Now(), 0
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

// sendPolicy sends the policy in force. Most polls bring the same again, which is not sent. An error
// is the end of the connection, which the Keeper sees too.
func (c *Client) sendPolicy() {
	c.mu.Lock()
	conn, force, sent, before := c.conn, c.force, c.sent, c.head
	c.mu.Unlock()
	if conn == nil || force == sent {
		return
	}
	head := newHead(force.set, force.own)
	if before == nil || !reflect.DeepEqual(*before, head) {
		if conn.SendJSON(kindBegin, head) != nil {
			return
		}
		for chunk := range force.set.Chunks(chunkSize) {
			if conn.Send(kindChunk, chunk) != nil {
				return
			}
		}
		if conn.Send(kindCommit, nil) != nil {
			return
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == conn {
		c.sent, c.head = force, &head
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
	if len(payload) != 1 || payload[0] > 1 {
		return fmt.Errorf("sync asked for with %x", payload)
	}
	return c.askSync(conn, payload[0] == 1)
}

// trouble takes a trouble of the role: one of a few, and not again and again.
func (c *Client) trouble(conn *privsep.Conn, t trouble) error {
	prefix, ok := troublePrefix[t.Key]
	if !ok {
		return fmt.Errorf("trouble of key %q", privsep.Clean(t.Key, 40))
	}
	if t.Text != "" {
		t.Text = prefix + privsep.Clean(t.Text, maxWhy)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.troubles++; float64(c.troubles) > maxTroubles+time.Since(c.since).Minutes() {
		return errors.New("reports troubles without end")
	}
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
	for ; ; pause = firstRetry {
		select {
		case <-time.After(pause):
		case <-c.ctx.Done():
			return
		}
		c.mu.Lock()
		gone, busy := c.conn != conn, c.busy == conn
		c.mu.Unlock()
		if !gone && !busy {
			c.keeper.Restart()
		}
		if gone || !busy {
			return
		}
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
	switch wait := c.spent.Sub(now) - (syncBurst-1)*syncEvery; {
	case c.running:
		// That of a process which is gone.
		refuse = "a sync is under way already: try again when it has ended"
	case wait > 0:
		if c.refused++; c.refused > syncRefused {
			return errors.New("asks for syncs without end")
		}
		refuse = fmt.Sprintf("too many syncs: the next can begin in %v", max(wait.Round(time.Second), time.Second))
		c.o.Trouble(TroubleSyncs, fmt.Sprintf("report process: asks for more than %d syncs, one in %v: refused", syncBurst, syncEvery))
	default:
		c.spent = c.spent.Add(syncEvery)
		c.running, c.refused = true, 0
		c.o.Trouble(TroubleSyncs, "")
	}
	c.busy = conn
	c.tasks.Go(func() { c.sync(conn, force, refuse) })
	return nil
}

// sync carries out a sync, or refuses it. The run does not wait for the role to read.
func (c *Client) sync(conn *privsep.Conn, force bool, refuse string) {
	lines := make(chan []byte, syncLines)
	var sending sync.WaitGroup
	sending.Go(func() {
		for l := range lines {
			_ = conn.Send(kindLine, l)
		}
	})
	say := func(line string, warn bool) {
		select {
		case lines <- append([]byte{bool01(warn)}, privsep.Clean(line, maxSyncLine)...):
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
	c.sendStatus() // a client that asks next sees what the sync did
	_ = conn.Send(kindDone, []byte{byte(exit)})
}
