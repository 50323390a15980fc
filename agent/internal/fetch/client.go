package fetch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
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
	cancelWait = 2 * time.Second // for a role to give up a list
	maxLookups = 64              // names that are looked up at once
)

// Client has a role fetch lists and look up names. It may be used by several goroutines, and fetches one
// list at a time.
type Client struct {
	o        Options
	checked  *dnsfetch.Client // of the same options, for questions about them
	limit    time.Duration    // of one list
	patience time.Duration    // cancelWait
	end      context.CancelFunc
	keep     *privsep.Keeper
	fetching chan struct{} // has one element during a fetch

	mu      sync.Mutex
	conn    *privsep.Conn // to the role that is ready; nil: none
	down    string        // why there is none, once it was known
	over    bool          // and there will be none
	changed chan struct{} // closed when that changes
	list    *listing      // being fetched; nil: none
	lookups map[string]*looking
}

// listing is a list that is being fetched.
type listing struct {
	request  *dnsfetch.Request
	got      *dnsfetch.List // from the header on
	left     int            // entries that have not come
	progress chan dnsfetch.Progress
	done     chan struct{} // closed when got is complete or err is set
	err      error
}

// looking is a name that is being looked up.
type looking struct {
	done  chan struct{}
	addrs []netip.Addr
	err   error
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
		patience: cancelWait, fetching: make(chan struct{}, 1), changed: make(chan struct{}), lookups: make(map[string]*looking),
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
	if conn != nil {
		return
	}
	err := fmt.Errorf("%w: %s", ErrRole, down)
	if l := c.list; l != nil {
		l.err = err
		close(l.done)
		c.list = nil
	}
	for _, l := range c.lookups {
		l.err = err
		close(l.done)
	}
	clear(c.lookups)
}

// ask waits until the role is ready and calls record, under the lock, to note a request. From then on the
// request has an end: an answer, or that of the role. A role that died is waited for only as long as it
// may take to start it again.
func (c *Client) ask(ctx context.Context, record func() error) (*privsep.Conn, error) {
	late := time.After(startWait)
	for {
		c.mu.Lock()
		conn, down, over, changed := c.conn, c.down, c.over, c.changed
		if conn != nil {
			defer c.mu.Unlock()
			return conn, record()
		}
		c.mu.Unlock()
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

// Fetch fetches a list as [dnsfetch.Client.Fetch] does. An error of the role itself matches [ErrRole].
func (c *Client) Fetch(ctx context.Context, r dnsfetch.Request) (*dnsfetch.List, error) {
	failed := func(err error) (*dnsfetch.List, error) {
		if ctx.Err() != nil {
			err = context.Cause(ctx) // as dnsfetch has it
		}
		return nil, &dnsfetch.Error{List: r.Name, Err: err}
	}
	if !plain(r.Name, maxName) { // it would come back as another
		return failed(fmt.Errorf("%w: %.200q", dnsfetch.ErrName, r.Name))
	}
	select {
	case c.fetching <- struct{}{}:
		defer func() { <-c.fetching }()
	case <-ctx.Done():
		return failed(nil)
	}
	l := &listing{request: &r, progress: make(chan dnsfetch.Progress, 1), done: make(chan struct{})}
	conn, err := c.ask(ctx, func() error { c.list = l; return nil })
	if err != nil {
		return failed(err)
	}
	c.send(conn, kindFetch, fetch{Name: r.Name, AllowEmpty: r.AllowEmpty, Progress: r.Progress != nil})
	late, why, given := time.After(c.limit), fmt.Sprintf("no answer within %v", c.limit), ctx.Done()
	for {
		select {
		case p := <-l.progress:
			r.Progress(p)
		case <-given:
			given = nil
			conn.Send(kindCancel, nil)
			late, why = time.After(c.patience), "did not give up a list"
		case <-late:
			c.keep.Kill(why)
		case <-l.done:
			var e *dnsfetch.Error
			switch {
			case ctx.Err() == nil && l.err == nil:
				return l.got, nil
			case ctx.Err() == nil && errors.As(l.err, &e):
				return nil, e
			}
			return failed(l.err)
		}
	}
}

// send sends a request. A role that cannot be asked is killed, which ends the request.
func (c *Client) send(conn *privsep.Conn, kind byte, v any) {
	if err := conn.SendJSON(kind, v); err != nil && err != privsep.ErrDown {
		c.keep.Kill("cannot be asked: " + err.Error())
	}
}

// Lookup returns the addresses of a host, at least one and at most 64; those of an address are itself.
// An error is a [net.DNSError], or matches [ErrRole].
func (c *Client) Lookup(ctx context.Context, name string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(name); err == nil {
		return []netip.Addr{a}, nil
	}
	if !plain(name, maxName) {
		return nil, &net.DNSError{Err: "not a host name", Name: fmt.Sprintf("%.200q", name)}
	}
	var l *looking
	asked := false
	conn, err := c.ask(ctx, func() error {
		if l, asked = c.lookups[name]; asked {
			return nil
		}
		if len(c.lookups) == maxLookups {
			return &net.DNSError{Err: "too many lookups at once", Name: name, IsTemporary: true}
		}
		l = &looking{done: make(chan struct{})}
		c.lookups[name] = l
		return nil
	})
	if err != nil {
		return nil, err
	}
	if !asked {
		c.send(conn, kindLookup, lookup{Name: name})
	}
	// One that is not waited for stays on record until its answer comes.
	select {
	case <-l.done:
		return slices.Clone(l.addrs), l.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// handle takes what the role sends. An error is misbehaviour, for which it is killed.
func (c *Client) handle(_ *privsep.Conn, kind byte, payload []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.list
	switch {
	case c.over: // nothing is asked for any more; the role has not noticed yet
		return nil
	case kind == kindAddresses:
		return c.takeAddresses(payload)
	case l == nil:
		return errors.New("list without a request")
	case kind == kindProgress:
		return l.takeProgress(payload, c.o.Fetch.MaxEntries)
	case kind == kindHeader:
		if err := c.takeHeader(l, payload); err != nil {
			return err
		}
	case kind == kindEntries && l.got == nil:
		return errors.New("entries without a header")
	case kind == kindEntries:
		entries, err := parseEntries(payload, l.left)
		if err != nil {
			return err
		}
		l.got.Chunks, l.left = append(l.got.Chunks, entries), l.left-len(entries)
	case kind == kindFailure:
		var f failure
		if err := receive("failure", payload, &f, 0); err != nil {
			return err
		}
		if l.got != nil {
			return errors.New("list and error in one")
		}
		l.err = f.error(l.request.Name)
	}
	if l.left == 0 {
		close(l.done)
		c.list = nil
	}
	return nil
}

// takeHeader takes the header of the list that was asked for.
func (c *Client) takeHeader(l *listing, payload []byte) error {
	var h header
	if err := receive("header", payload, &h, c.o.Fetch.MaxEntries); err != nil {
		return err
	}
	switch {
	case l.got != nil:
		return errors.New("list begun twice")
	case h.Name != l.request.Name:
		return fmt.Errorf("list %s where %s was asked for", h.Name, l.request.Name)
	case !c.checked.Knows(h.Server):
		return fmt.Errorf("list %s from %s, which is none of the policy servers", h.Name, h.Server)
	case h.Entries == 0 && !l.request.AllowEmpty:
		return errors.New("empty list where it may not be")
	}
	l.got, l.left = &h.List, h.Entries
	return nil
}

// takeProgress keeps the latest progress for Fetch.
func (l *listing) takeProgress(payload []byte, most int) error {
	var p progress
	if err := receive("progress", payload, &p, most); err != nil {
		return err
	}
	if l.got != nil || l.request.Progress == nil {
		return errors.New("progress of a list that was not asked for")
	}
	select {
	case <-l.progress:
	default:
	}
	p.List = l.request.Name
	l.progress <- dnsfetch.Progress(p)
	return nil
}

// takeAddresses takes the answer to a look-up.
func (c *Client) takeAddresses(payload []byte) error {
	var a addresses
	if err := receive("addresses", payload, &a, 0); err != nil {
		return err
	}
	l := c.lookups[a.Name]
	if l == nil {
		return errors.New("addresses of a name that was not asked for")
	}
	if l.addrs = a.Addresses; a.Error != "" {
		l.err = &net.DNSError{Err: a.Error, Name: a.Name}
	}
	close(l.done)
	delete(c.lookups, a.Name)
	return nil
}
