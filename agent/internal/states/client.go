package states

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/agent/internal/privsep"
)

// Options are what a Client needs of main.
type Options struct {
	Starter privsep.Starter
	Setup   Setup
	// Down is told why the process died, was killed or could not be started, Up that
	// one is at work. Nil: told to nobody.
	Down func(reason string)
	Up   func()
	Log  zerolog.Logger
}

// grace is how long an answer may come after the time of its request is over: the
// reading of the state table cannot be cut short.
const grace = 15 * time.Second

// A Client is main's end of the role: it keeps a process of it running, and asks it.
type Client struct {
	o      Options
	ctx    context.Context
	keeper *privsep.Keeper

	asking sync.Mutex // one request at a time

	mu      sync.Mutex
	conn    *privsep.Conn // to the present process
	ready   bool
	last    uint64 // the number of the latest request
	pending *pending
}

// pending is a request without its answer.
type pending struct {
	id     uint64
	conn   *privsep.Conn
	answer chan answer // has room for one
	gone   chan string // so too: why the process is not there any more
}

// Start starts the role, and keeps it running until ctx ends.
func Start(ctx context.Context, o Options) *Client {
	c := &Client{o: o, ctx: ctx}
	c.keeper = privsep.Keep(ctx, o.Starter, privsep.Job{
		Role:   Name,
		Takes:  fromRole,
		Begin:  c.begin,
		Handle: c.handle,
		Down:   c.down,
		Up:     c.up,
		Log:    o.Log,
	})
	return c
}

// Wait returns when ctx has ended and the role is gone.
func (c *Client) Wait() { c.keeper.Wait() }

func (c *Client) begin(conn *privsep.Conn) error {
	c.lose("was replaced")
	c.mu.Lock()
	c.conn = conn
	c.mu.Unlock()
	return conn.SendJSON(kindSetup, c.o.Setup)
}

func (c *Client) up() {
	c.mu.Lock()
	c.ready = true
	c.mu.Unlock()
	if c.o.Up != nil {
		c.o.Up()
	}
}

func (c *Client) down(reason string) {
	c.lose(reason)
	if c.o.Down != nil {
		c.o.Down(reason)
	}
}

// lose notes that there is no process, and tells who waits for one.
func (c *Client) lose(why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conn, c.ready = nil, false
	if p := c.pending; p != nil {
		c.pending = nil
		p.gone <- why
	}
}

// handle takes a frame from the role. An error is misbehaviour, for which it is killed.
func (c *Client) handle(conn *privsep.Conn, kind byte, payload []byte) error {
	if kind != kindAnswer {
		return fmt.Errorf("frame of kind %d", kind)
	}
	var a answer
	if err := privsep.Unmarshal(payload, &a); err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.pending
	if p == nil || p.conn != conn {
		return errors.New("answer that nobody asked for")
	}
	if err := a.check(p.id); err != nil {
		return err
	}
	c.pending = nil
	a.Error = line(a.Error)
	p.answer <- a
	return nil
}

// KillStates removes the states of the addresses that now blocks and before did not. Own
// are the addresses of this host, whose states with anyone else stay. At the deadline the
// rest is left. With an error the numbers say how far it came.
func (c *Client) KillStates(before, now *policy.Set, own []netip.Addr, deadline time.Time) (all Killed, err error) {
	c.asking.Lock()
	defer c.asking.Unlock()
	for part := range policy.Difference(now, before, own).Parts(maxRanges) {
		res, err := c.ask(part, own, deadline)
		// Each part has all the states looked at.
		all.Considered, all.Left = max(all.Considered, res.Considered), max(all.Left, res.Left)
		all.Killed += res.Killed
		if err != nil || res.Left > 0 {
			return all, err
		}
	}
	return all, nil
}

// ask has the states of the addresses in cut killed.
func (c *Client) ask(cut *policy.Ranges, own []netip.Addr, deadline time.Time) (Killed, error) {
	c.mu.Lock()
	if !c.ready {
		c.mu.Unlock()
		return Killed{}, fmt.Errorf("states process: %w", privsep.ErrDown)
	}
	c.last++
	p := &pending{id: c.last, conn: c.conn, answer: make(chan answer, 1), gone: make(chan string, 1)}
	c.pending = p
	c.mu.Unlock()

	wait := min(max(time.Until(deadline), 0), maxWait)
	if err := send(p.conn, cut, request{ID: p.id, Ranges: cut.Len(), Wait: wait, Own: own}); err != nil {
		// The connection is at its end, which the Keeper sees too.
		c.forget(p)
		return Killed{}, fmt.Errorf("states process: %w", err)
	}
	timer := time.NewTimer(wait + grace)
	defer timer.Stop()
	select {
	case a := <-p.answer:
		if a.Error != "" {
			return a.Done, errors.New(a.Error)
		}
		return a.Done, nil
	case why := <-p.gone:
		return Killed{}, errors.New("states process: " + why)
	case <-c.ctx.Done():
		return Killed{}, c.ctx.Err()
	case <-timer.C:
		c.keeper.Restart()
		return Killed{}, fmt.Errorf("states process: no answer within %v", (wait + grace).Round(time.Second))
	}
}

func (c *Client) forget(p *pending) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pending == p {
		c.pending = nil
	}
}

func send(conn *privsep.Conn, cut *policy.Ranges, q request) error {
	if err := conn.SendJSON(kindBegin, q); err != nil {
		return err
	}
	for chunk := range cut.Chunks(chunkSize) {
		if err := conn.Send(kindChunk, chunk); err != nil {
			return err
		}
	}
	return conn.Send(kindGo, nil)
}
