package fetch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"example.org/threatstopd/agent/internal/privsep"
	"example.org/threatstopd/dnsfetch"
)

// Options are what a Client needs.
type Options struct {
	Starter privsep.Starter
	// Fetch is how lists are fetched. The role looks up servers by itself: Resolver is not used.
	Fetch dnsfetch.Options
	// Confinement is that of the role. Names is also set here when a policy server is given by name;
	// the caller sets it if it is going to look up names. Memory 0 means enough for Fetch.MaxEntries.
	Confinement privsep.Confinement
	// Hold, unless nil, is closed before anything is read from the role.
	Hold <-chan struct{}
	Down func(reason string) // the role is gone, and why; may be nil
	Up   func()              // the role is at work; may be nil
	Log  zerolog.Logger      // takes the role's events
	// Once: a role that died is not started again.
	Once bool
}

// ErrRole matches an error that is not that of a policy server or a resolver: the role died, or was
// killed. The text contains the reason.
var ErrRole = errors.New("fetch process")

const (
	startWait  = 5 * time.Second // for a role that is being started again
	cancelWait = 2 * time.Second // for a role to give up a request
)

// Client has a role fetch lists and look up names. It may be used by several goroutines, and has one request
// carried out at a time.
type Client struct {
	o        Options
	checked  *dnsfetch.Client // of the same options, for questions about them
	limit    time.Duration    // of one request
	patience time.Duration    // cancelWait
	end      context.CancelFunc
	keep     *privsep.Keeper
	busy     chan struct{} // has one element during a request

	mu      sync.Mutex
	conn    *privsep.Conn // to the role that is ready; nil: none
	down    string        // why there is none, once it was known
	over    bool          // and there will be none
	changed chan struct{} // closed when that changes
	asked   *request      // nil: none
}

// request is what the role was asked for, and what has come of it.
type request struct {
	done chan struct{} // closed when all has come or err is set
	err  error

	list     *dnsfetch.Request // nil: names
	got      *dnsfetch.List    // from the header on
	left     int               // entries that have not come
	progress chan dnsfetch.Progress

	names []string
	found []Name
}

// Name is what a look-up of a host name brought: addresses, or why there are none.
type Name struct {
	Addrs []netip.Addr
	Err   error
}

// New starts a role, and keeps it running until ctx ends or Close. The error is that of the options;
// Down and later requests return what fails in the role.
func New(ctx context.Context, o Options) (*Client, error) {
	o.Fetch.Resolver = nil
	checked, err := dnsfetch.New(o.Fetch)
	if err != nil {
		return nil, err
	}
	o.Fetch.MaxEntries = cmp.Or(o.Fetch.MaxEntries, dnsfetch.DefaultMaxEntries)
	o.Confinement.Names = o.Confinement.Names || checked.Names()
	o.Confinement.Memory = cmp.Or(o.Confinement.Memory, privsep.Memory(o.Fetch.MaxEntries))
	c := &Client{
		o: o, checked: checked,
		// Longer than a server that gives a list slowly may take, and the next one after it.
		limit:    2 * cmp.Or(o.Fetch.ListTimeout, dnsfetch.DefaultListTimeout),
		patience: cancelWait, busy: make(chan struct{}, 1), changed: make(chan struct{}),
	}
	ctx, c.end = context.WithCancel(ctx)
	context.AfterFunc(ctx, func() { c.set(nil, "ended", true) })
	var latest *privsep.Conn
	c.keep = privsep.Keep(ctx, o.Starter, privsep.Job{
		Role: Role, Takes: toMain, Hold: o.Hold, Handle: c.handle, Log: o.Log, Once: o.Once,
		Begin: func(conn *privsep.Conn) error {
			latest = conn
			return conn.SendJSON(kindSetup, setup{Options: c.o.Fetch, Confinement: c.o.Confinement})
		},
		Up: func() {
			c.set(latest, "", false)
			if o.Up != nil {
				o.Up()
			}
		},
		Down: func(reason string) {
			c.set(nil, reason, o.Once)
			if o.Down != nil {
				o.Down(reason)
			}
		},
	})
	return c, nil
}

// Close ends the role, and waits until it is gone.
func (c *Client) Close() error {
	c.end()
	c.keep.Wait()
	return nil
}

// set notes that the role is ready, or why it is not and whether it will be. Then what was asked of it
// has failed.
func (c *Client) set(conn *privsep.Conn, down string, over bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return
	}
	c.conn, c.down, c.over = conn, down, over
	close(c.changed)
	c.changed = make(chan struct{})
	if conn == nil && c.asked != nil {
		c.asked.err = fmt.Errorf("%w: %s", ErrRole, down)
		c.finish()
	}
}

// finish ends the request.
func (c *Client) finish() {
	close(c.asked.done)
	c.asked = nil
}

// ready waits until the role is ready, and notes the request. From then on that has an end: an answer, or that of
// the role. A role that died is waited for only as long as it may take to start it again.
func (c *Client) ready(ctx context.Context, q *request) (*privsep.Conn, error) {
	late := time.After(startWait)
	for {
		c.mu.Lock()
		conn, down, over, changed := c.conn, c.down, c.over, c.changed
		if conn != nil {
			c.asked = q
		}
		c.mu.Unlock()
		if conn != nil {
			return conn, nil
		}
		err := fmt.Errorf("%w: %s", ErrRole, down)
		if over {
			return nil, err
		}
		var died <-chan time.Time
		if down != "" {
			died = late
		}
		select {
		case <-changed:
		case <-died:
			return nil, err
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// ask has a request carried out. The error of the role itself matches [ErrRole].
func (c *Client) ask(ctx context.Context, q *request, kind byte, message any) error {
	select {
	case c.busy <- struct{}{}:
		defer func() { <-c.busy }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	q.done, q.progress = make(chan struct{}), make(chan dnsfetch.Progress, 1)
	conn, err := c.ready(ctx, q)
	if err != nil {
		return err
	}
	if err := conn.SendJSON(kind, message); err != nil && err != privsep.ErrDown {
		c.keep.Kill("cannot be asked: " + err.Error()) // which ends the request
	}
	late, why, given := time.After(c.limit), fmt.Sprintf("no answer within %v", c.limit), ctx.Done()
	for {
		select {
		case p := <-q.progress:
			q.list.Progress(p)
		case <-given:
			given = nil
			conn.Send(kindCancel, nil)
			late, why = time.After(c.patience), "did not give up a request"
		case <-late:
			c.keep.Kill(why)
		case <-q.done:
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return q.err
		}
	}
}

// Fetch fetches a list as [dnsfetch.Client.Fetch] does. An error of the role itself matches [ErrRole].
func (c *Client) Fetch(ctx context.Context, r dnsfetch.Request) (*dnsfetch.List, error) {
	q := &request{list: &r}
	err := fmt.Errorf("%w: %.200q", dnsfetch.ErrName, r.Name)
	if plain(r.Name, maxName) { // else it would come back as another
		err = c.ask(ctx, q, kindFetch, fetch{Name: r.Name, AllowEmpty: r.AllowEmpty, Progress: r.Progress != nil})
	}
	var e *dnsfetch.Error
	switch {
	case err == nil:
		return q.got, nil
	case errors.As(err, &e):
		return nil, e
	}
	return nil, &dnsfetch.Error{List: r.Name, Err: err}
}

// Lookup returns for each of at most 64 host names its addresses, at most 64, or why there are none. All are looked
// up at once, for at most 10 seconds.
func (c *Client) Lookup(ctx context.Context, names []string) []Name {
	if len(names) == 0 {
		return nil
	}
	q := &request{names: names}
	err := fmt.Errorf("%d names to look up, at most %d are", len(names), maxNames)
	if len(names) <= maxNames {
		err = c.ask(ctx, q, kindLookup, names)
	}
	if err != nil {
		return slices.Repeat([]Name{{Err: err}}, len(names))
	}
	return q.found
}

// handle takes what the role sends. An error is misbehaviour, for which it is killed.
func (c *Client) handle(_ *privsep.Conn, kind byte, payload []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	q := c.asked
	switch {
	case c.over: // nothing is asked for any more; the role has not noticed yet
		return nil
	case kind == kindAddresses && (q == nil || q.list != nil):
		return errors.New("addresses without a request")
	case kind != kindAddresses && (q == nil || q.list == nil):
		return errors.New("list without a request")
	case kind == kindAddresses:
		var a addresses
		if err := receive("addresses", payload, &a, len(q.names)); err != nil {
			return err
		}
		q.found = a.names()
	case kind == kindProgress:
		return q.takeProgress(payload, c.o.Fetch.MaxEntries)
	case kind == kindHeader:
		if err := c.takeHeader(q, payload); err != nil {
			return err
		}
	case kind == kindEntries && q.got == nil:
		return errors.New("entries without a header")
	case kind == kindEntries:
		entries, err := parseEntries(payload, q.left)
		if err != nil {
			return err
		}
		q.got.Chunks, q.left = append(q.got.Chunks, entries), q.left-len(entries)
	case kind == kindFailure:
		var f failure
		if err := receive("failure", payload, &f, 0); err != nil {
			return err
		}
		if q.got != nil {
			return errors.New("list and error in one")
		}
		q.err = f.error(q.list.Name)
	}
	if q.left == 0 {
		c.finish()
	}
	return nil
}

// takeHeader takes the header of the list that was asked for.
func (c *Client) takeHeader(q *request, payload []byte) error {
	var h header
	if err := receive("header", payload, &h, c.o.Fetch.MaxEntries); err != nil {
		return err
	}
	switch {
	case q.got != nil:
		return errors.New("list begun twice")
	case h.Name != q.list.Name:
		return fmt.Errorf("list %s where %s was asked for", h.Name, q.list.Name)
	case !c.checked.Knows(h.Server):
		return fmt.Errorf("list %s from %s, which is none of the policy servers", h.Name, h.Server)
	case h.Entries == 0 && !q.list.AllowEmpty:
		return errors.New("empty list where it may not be")
	}
	q.got, q.left = &h.List, h.Entries
	return nil
}

// takeProgress keeps the latest progress for Fetch.
func (q *request) takeProgress(payload []byte, most int) error {
	var p progress
	if err := receive("progress", payload, &p, most); err != nil {
		return err
	}
	if q.got != nil || q.list.Progress == nil {
		return errors.New("progress of a list that was not asked for")
	}
	select {
	case <-q.progress:
	default:
	}
	p.List = q.list.Name
	q.progress <- dnsfetch.Progress(p)
	return nil
}
