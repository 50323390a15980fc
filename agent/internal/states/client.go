// Package states removes the states of newly blocked addresses from pf, in a process of its own: the
// role `states`, which runs only with KILL_STATES=yes. [Client] is main's end of it.
//
// The promise "pf" of pledge(2) does not allow the requests that read and remove states, so no process
// that has pledged can make them. As dhcpd(8) does, the role opens /dev/pf as root, becomes the service
// user and gives up its view of the file system, but pledges nothing. It is therefore small, and takes
// input from main alone: ranges of addresses. Main checks that the numbers it returns are possible.
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

// Name is that of the role.
const Name = "states"

// Messages to the role: a Setup first; then for each request a request, chunks of its
// addresses (policy.Set.Chunks) and a go. The role sends one answer to each.
const (
	kindSetup   = privsep.FirstKind + iota // JSON, a Setup
	kindRequest                            // JSON, a request
	kindRanges                             // a chunk
	kindGo                                 // empty
	kindAnswer                             // JSON, an answer
)

const (
	chunkSize = 256 << 10
	maxText   = 800 // bytes of an answer's error
	maxAnswer = 8 * maxText
	// maxEntries is how many networks a request has: at most 23 bytes of the role's memory each.
	maxEntries = 1 << 22
	// maxWait bounds the time that a request may take.
	maxWait = time.Minute
	// maxStates is more states than a firewall has: they would take 17 GB of the kernel's memory.
	maxStates = 1 << 26
	// grace is how long an answer may come after the time of its request is over: reading the state
	// table cannot be interrupted.
	grace = 15 * time.Second
)

var (
	fromMain = privsep.Limits{kindSetup: 64 << 10, kindRequest: 1 << 20, kindRanges: chunkSize, kindGo: 0}
	fromRole = privsep.Limits{kindAnswer: maxAnswer}
)

// Setup is all that the role knows of the configuration.
type Setup struct {
	Confinement privsep.Confinement
}

// request asks for the states of some addresses to be killed.
type request struct {
	ID     uint64
	V4, V6 int           // how many networks follow
	Sum    [32]byte      // policy.Set.Sum
	Wait   time.Duration // how long it may take
	Own    []netip.Addr  // the host's addresses, which do not follow
}

// Killed is what became of the states.
type Killed struct {
	Considered int // states that were examined
	Killed     int
	Left       int // states that were not examined in time
}

// answer is the result of a request.
type answer struct {
	ID    uint64
	Done  Killed
	Error string // why not all was done; empty: nothing failed
}

// Memory returns the bound for the memory of the role where pf has at most so many states (its limit), in
// bytes: the state table is read whole, with some room, besides the addresses of a request.
func Memory(states int) uint64 {
	const state, entries = 288, 23 * maxEntries
	return privsep.Memory(0) + entries + state*uint64(max(0, states))
}

// Options are what a Client needs of main.
type Options struct {
	Starter privsep.Starter
	Setup   Setup
	Down    func(reason string) // the process died, was killed or could not be started; may be nil
	Up      func()              // one is at work; may be nil
	Log     zerolog.Logger
}

// A Client keeps a process of the role running, and sends it requests.
type Client struct {
	ctx    context.Context
	keeper *privsep.Keeper
	asking sync.Mutex // one request at a time

	mu     sync.Mutex
	last   uint64        // the number of the latest request
	result chan<- result // takes its result; nil when it has one
}

type result struct {
	done Killed
	err  error
}

// Start starts the role, and keeps it running until ctx ends.
func Start(ctx context.Context, o Options) *Client {
	c := &Client{ctx: ctx}
	c.keeper = privsep.Keep(ctx, o.Starter, privsep.Job{
		Role:   Name,
		Takes:  fromRole,
		Handle: c.handle,
		Begin: func(conn *privsep.Conn) error {
			c.end(result{err: errors.New("states process: was replaced")})
			return conn.SendJSON(kindSetup, o.Setup)
		},
		Down: func(reason string) {
			c.end(result{err: errors.New("states process: " + reason)})
			if o.Down != nil {
				o.Down(reason)
			}
		},
		Up:  o.Up,
		Log: o.Log,
	})
	return c
}

// Wait returns when ctx has ended and the role is gone.
func (c *Client) Wait() { c.keeper.Wait() }

// end gives the request that waits, if any, its result.
func (c *Client) end(r result) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.result != nil {
		c.result <- r
		c.result = nil
	}
}

// handle takes a message of the role. An error is misbehaviour, for which it is killed.
func (c *Client) handle(_ *privsep.Conn, _ byte, payload []byte) error {
	var a answer
	if err := privsep.Unmarshal(payload, &a); err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	c.mu.Lock()
	id, waits := c.last, c.result != nil
	c.mu.Unlock()
	switch d := a.Done; {
	case !waits:
		return errors.New("answer without a request")
	case a.ID != id:
		return fmt.Errorf("answer to request %d, not %d", a.ID, id)
	case d.Considered < 0 || d.Killed < 0 || d.Left < 0, d.Considered > maxStates || d.Left > maxStates-d.Considered, d.Killed > d.Considered:
		return fmt.Errorf("impossible answer: %d states considered, %d killed, %d left", d.Considered, d.Killed, d.Left)
	}
	r := result{done: a.Done}
	if a.Error != "" {
		r.err = errors.New(privsep.Clean(a.Error, maxText))
	}
	c.end(r)
	return nil
}

// KillStates removes the states of the addresses that now blocks and before did not. own are the
// addresses of this host, whose states with other hosts stay. At the deadline the rest is left. After an
// error the numbers are those reached until then.
func (c *Client) KillStates(before, now *policy.Set, own []netip.Addr, deadline time.Time) (Killed, error) {
	c.asking.Lock()
	defer c.asking.Unlock()
	cut, err := policy.Difference(now, before, own)
	switch {
	case err != nil:
		return Killed{}, err
	case cut.Len() > maxEntries:
		return Killed{}, fmt.Errorf("%d networks are newly blocked, the limit is %d: their states stay", cut.Len(), maxEntries)
	case cut.Len() == 0:
		return Killed{}, nil
	}
	results := make(chan result, 1)
	c.mu.Lock()
	c.last++
	n := cut.Counts()
	q := request{ID: c.last, V4: n.V4, V6: n.V6, Sum: cut.Sum(), Wait: min(max(time.Until(deadline), 0), maxWait), Own: own}
	c.result = results
	c.mu.Unlock()
	conn := c.keeper.Conn()
	err = conn.SendJSON(kindRequest, q)
	for chunk := range cut.Chunks(chunkSize) {
		if err == nil {
			err = conn.Send(kindRanges, chunk)
		}
	}
	if err == nil {
		err = conn.Send(kindGo, nil)
	}
	if err != nil {
		c.end(result{err: fmt.Errorf("states process: %w", err)})
	}
	select {
	case r := <-results:
		return r.done, r.err
	case <-c.ctx.Done():
		return Killed{}, c.ctx.Err()
	case <-time.After(q.Wait + grace):
		c.keeper.Restart()
		return Killed{}, fmt.Errorf("states process: no answer within %v", (q.Wait + grace).Round(time.Second))
	}
}
