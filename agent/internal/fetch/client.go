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
	// Fetch is how lists are fetched. The role looks up servers by itself: Resolver does not cross.
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

// SourceError is why no server can be reached from SOURCE_ADDRESS.
type SourceError struct{ Addr netip.Addr }

func (e SourceError) Error() string {
	return fmt.Sprintf("SOURCE_ADDRESS %s is no address of this host: change or remove it", e.Addr)
}

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

	mu    sync.Mutex
	conn  *privsep.Conn // to the role that is ready; nil: none
	down  error         // why there is none, once it was known
	over  bool          // and there will be none
	asked *request      // nil: none
}

// request is what the role is asked for, and what has come of it.
type request struct {
	kind    byte
	message any
	sent    bool
	done    chan struct{} // closed when all has come or err is set
	err     error

	list     *dnsfetch.Request // nil: names
	got      *dnsfetch.List    // from the header on
	left     int               // entries that have not come
	progress chan dnsfetch.Progress

	names []string
	found []Name
}

// New starts a role, and keeps it running until ctx ends or Close. The error is that of the options;
// Down and later requests return what fails in the role.
func New(ctx context.Context, o Options) (*Client, error) {
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
		patience: cancelWait, busy: make(chan struct{}, 1),
	}
	ctx, c.end = context.WithCancel(ctx)
	context.AfterFunc(ctx, func() { c.set(nil, "ended", true) })
	var latest *privsep.Conn
	c.keep = privsep.Keep(ctx, o.Starter, privsep.Job{
		Role: Role, Takes: toMain, Hold: o.Hold, Handle: c.handle, Log: o.Log, Once: o.Once,
		Begin: func(conn *privsep.Conn) error {
			latest = conn
			return conn.SendJSON(kindSetup, setup{Options: o.Fetch, Confinement: o.Confinement})
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
	if !c.over {
		c.conn, c.over = conn, over
		if conn == nil {
			c.down = fmt.Errorf("%w: %s", ErrRole, down)
			if c.asked != nil && (c.asked.sent || over) {
				c.finish(c.down)
			}
		}
	}
	c.mu.Unlock()
	c.send()
}

// send sends the role what it has not been asked for, when it is ready.
func (c *Client) send() {
	c.mu.Lock()
	conn, q := c.conn, c.asked
	idle := conn == nil || q == nil || q.sent
	if !idle {
		q.sent = true
	}
	c.mu.Unlock()
	if idle {
		return
	}
	if err := conn.SendJSON(q.kind, q.message); err != nil && err != privsep.ErrDown {
		c.keep.Kill("cannot be asked: " + err.Error()) // which ends the request
	}
}

// finish ends the request.
func (c *Client) finish(err error) {
	c.asked.err = err
	close(c.asked.done)
	c.asked = nil
}

// ask has a request carried out. It always has an end: an answer, or that of the role. A role that died is
// waited for only as long as it may take to start it again. The error of the role itself matches [ErrRole].
func (c *Client) ask(ctx context.Context, q *request) error {
	select {
	case c.busy <- struct{}{}:
		defer func() { <-c.busy }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	q.done, q.progress = make(chan struct{}), make(chan dnsfetch.Progress, 1)
	c.mu.Lock()
	c.asked = q
	if c.over {
		c.finish(c.down)
	}
	c.mu.Unlock()
	c.send()
	starting, given := time.After(startWait), ctx.Done()
	late, why := time.After(c.limit), fmt.Sprintf("no answer within %v", c.limit)
	for {
		select {
		case p := <-q.progress:
			q.list.Progress(p)
		case <-starting:
			c.mu.Lock()
			if c.asked == q && !q.sent && c.down != nil {
				c.finish(c.down)
			}
			c.mu.Unlock()
		case <-given:
			given = nil
			late, why = time.After(c.patience), "did not give up a request"
			c.mu.Lock()
			conn := c.conn
			if c.asked == q && !q.sent {
				c.finish(nil)
			}
			c.mu.Unlock()
			if conn != nil {
				conn.Send(kindCancel, nil)
			}
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

// Fetch fetches a list as [dnsfetch.Client.Fetch] does. An error of the role itself matches [ErrRole]; one of
// kind KindSource becomes a [SourceError].
func (c *Client) Fetch(ctx context.Context, r dnsfetch.Request) (*dnsfetch.List, error) {
	q := &request{kind: kindFetch, message: fetch{r.Name, r.AllowEmpty, r.Progress != nil}, list: &r}
	err := fmt.Errorf("%w: %.200q", dnsfetch.ErrName, r.Name)
	if plain(r.Name, maxName) { // else it would come back as another
		err = c.ask(ctx, q)
	}
	var e *dnsfetch.Error
	switch {
	case err == nil:
		return q.got, nil
	case errors.As(err, &e) && e.Kind == dnsfetch.KindSource:
		return nil, SourceError{c.o.Fetch.Source}
	case errors.As(err, &e):
		return nil, e
	}
	return nil, &dnsfetch.Error{List: r.Name, Err: err}
}

// Lookup returns for each of at most 64 host names its addresses, at most 64, or why there are none. All
// are looked up at once, for at most 10 seconds.
func (c *Client) Lookup(ctx context.Context, names []string) []Name {
	if len(names) == 0 {
		return nil
	}
	q := &request{kind: kindLookup, message: names, names: names}
	err := fmt.Errorf("%d names to look up, at most %d are", len(names), maxNames)
	if len(names) <= maxNames {
		err = c.ask(ctx, q)
	}
	if err != nil {
		return slices.Repeat([]Name{{Err: err.Error()}}, len(names))
	}
	return q.found
}

// handle takes what the role sends. An error is misbehaviour, for which it is killed.
func (c *Client) handle(_ *privsep.Conn, kind byte, payload []byte) (err error) {
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
	}
	var failed error // of the request
	switch kind {
	case kindAddresses:
		err = q.takeNames(payload)
	case kindProgress:
		return q.takeProgress(payload, c.o.Fetch.MaxEntries)
	case kindHeader:
		err = c.takeHeader(q, payload)
	case kindEntries:
		err = q.takeEntries(payload)
	case kindFailure:
		var f failure
		if err = privsep.Unmarshal(payload, &f); err == nil {
			failed, err = f.take(q.list.Name)
		} else {
			err = fmt.Errorf("failure: %w", err)
		}
		if q.got != nil {
			err = errors.New("list and error in one")
		}
	}
	if err == nil && q.left == 0 {
		c.finish(failed)
	}
	return err
}

// take returns the error that a failure stands for, and what is wrong with the failure.
func (f *failure) take(list string) (*dnsfetch.Error, error) {
	if f.Text == "" || !plain(f.Text, maxText) || f.Kind > dnsfetch.KindNXDomain {
		return nil, fmt.Errorf("failure of kind %d without a printable reason of at most %d bytes", f.Kind, maxText)
	}
	return &dnsfetch.Error{List: list, Kind: f.Kind, Err: errors.New(f.Text)}, nil
}

// takeHeader takes the header of the list that was asked for. The numbers that are only shown must be
// possible ones.
func (c *Client) takeHeader(q *request, payload []byte) error {
	var h header
	if err := privsep.Unmarshal(payload, &h); err != nil {
		return fmt.Errorf("header: %w", err)
	}
	switch most := c.o.Fetch.MaxEntries; {
	case q.got != nil:
		return errors.New("list begun twice")
	case h.Name != q.list.Name:
		return fmt.Errorf("list %s where %s was asked for", printable(h.Name, 100), q.list.Name)
	case !c.checked.Knows(h.Server):
		return fmt.Errorf("list from %s, which is none of the policy servers", printable(h.Server, 100))
	case h.Layout < dnsfetch.LayoutParts || h.Layout > dnsfetch.LayoutAddresses || h.Parts <= 0 || h.Parts > 1<<20 ||
		h.Restarts < 0 || h.Restarts > 9 || h.Bytes < 0 || h.Elapsed < 0:
		return fmt.Errorf("list of layout %d, %d parts, %d restarts, %d bytes, in %v",
			h.Layout, h.Parts, h.Restarts, h.Bytes, h.Elapsed)
	case h.Entries < 0 || h.Entries > most:
		return fmt.Errorf("list of %d entries where the limit is %d", h.Entries, most)
	case h.Entries == 0 && !q.list.AllowEmpty:
		return errors.New("empty list where it may not be")
	case len(h.Failed) > maxFailed || len(h.Chunks) > 0:
		return fmt.Errorf("list with %d servers that failed, and %d chunks of entries in the header",
			len(h.Failed), len(h.Chunks))
	}
	for _, f := range h.Failed {
		e, err := f.take(h.Name)
		if err != nil {
			return err
		}
		h.List.Failed = append(h.List.Failed, e)
	}
	q.got, q.left = &h.List, h.Entries
	return nil
}

// takeEntries takes a chunk of the list. Each entry is one that a list can have.
func (q *request) takeEntries(b []byte) error {
	all := make([]dnsfetch.Entry, len(b)/entryLen)
	switch {
	case q.got == nil:
		return errors.New("entries without a header")
	case len(all) == 0 || len(b)%entryLen != 0:
		return fmt.Errorf("chunk of %d bytes", len(b))
	case len(all) > q.left:
		return errors.New("more entries than announced")
	}
	for i := range all {
		r := b[i*entryLen:][:entryLen]
		all[i] = dnsfetch.Entry{Addr: [16]byte(r), Bits: r[16], V6: r[17]&entryV6 != 0, Not: r[17]&entryNot != 0}
		if r[17] > entryV6|entryNot || !all[i].Valid() {
			return fmt.Errorf("entry %x is not a network", r)
		}
	}
	q.got.Chunks, q.left = append(q.got.Chunks, all), q.left-len(all)
	return nil
}

// takeProgress keeps the latest progress for Fetch. The numbers are only shown, but must be possible.
func (q *request) takeProgress(payload []byte, most int) error {
	var p dnsfetch.Progress
	if err := privsep.Unmarshal(payload, &p); err != nil {
		return fmt.Errorf("progress: %w", err)
	}
	switch {
	case q.got != nil || q.list.Progress == nil:
		return errors.New("progress of a list that was not asked for")
	case !plain(p.Server, maxName):
		return errors.New("progress with a server that cannot be")
	case p.Done < 0 || p.Parts < p.Done || p.Parts > 1<<20 || p.Entries < 0 || p.Entries > most || p.Bytes < 0:
		return fmt.Errorf("progress of %d parts of %d, %d entries, %d bytes", p.Done, p.Parts, p.Entries, p.Bytes)
	}
	select {
	case <-q.progress:
	default:
	}
	p.List = q.list.Name
	q.progress <- p
	return nil
}

// takeNames takes the answers to a look-up.
func (q *request) takeNames(payload []byte) error {
	if err := privsep.Unmarshal(payload, &q.found); err != nil {
		return fmt.Errorf("addresses: %w", err)
	}
	if len(q.found) != len(q.names) {
		return fmt.Errorf("addresses of %d names where %d were asked for", len(q.found), len(q.names))
	}
	for _, n := range q.found {
		switch bad := slices.IndexFunc(n.Addrs, func(a netip.Addr) bool { return !usable(a) }); {
		case len(n.Addrs) > maxAddrs:
			return fmt.Errorf("%d addresses of one name", len(n.Addrs))
		case (len(n.Addrs) == 0) == (n.Err == ""):
			return errors.New("neither addresses nor a reason, or both")
		case !plain(n.Err, maxReason):
			return errors.New("reason that is not printable")
		case bad >= 0:
			return fmt.Errorf("%s, which no host has, as the address of one", n.Addrs[bad])
		}
	}
	return nil
}
