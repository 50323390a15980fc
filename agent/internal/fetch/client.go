package fetch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
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
	// Fetch is how lists are fetched. The role looks up servers by itself, so that Resolver is
	// not used.
	Fetch dnsfetch.Options
	// Confinement is what the role gives up. Names is set where a policy server is given by
	// name; the caller sets it where it is going to look up names. Memory is set for lists of
	// Fetch.MaxEntries, where it is 0.
	Confinement privsep.Confinement
	// Hold, when not nil, is closed when main has confined itself: nothing that the role says
	// is read before.
	Hold <-chan struct{}
	// Down is told that the role is gone, and why, in one line; Up that it is at work. Either
	// may be nil.
	Down func(reason string)
	Up   func()
	// Log gets the role's events. The zero Logger drops them.
	Log zerolog.Logger
	// Once: a role that died is not started again.
	Once bool
}

// ErrRole is what an error matches that is not that of a policy server or a resolver: the role
// died, or was killed for what it did. The text says why.
var ErrRole = errors.New("fetch process")

const (
	// startWait is how long a fetch waits for a role that is being started again.
	startWait = 5 * time.Second
	// cancelWait is how long a role may take to give up a list.
	cancelWait = 2 * time.Second
)

// Client has lists fetched and names looked up by a role. It implements update.Fetcher. It may
// be used by several goroutines, and fetches one list at a time.
type Client struct {
	o        Options
	checked  *dnsfetch.Client // of the same options, for questions about them
	most     int              // entries of a list
	limit    time.Duration    // of one list, whatever the role does
	patience time.Duration    // with a role that is to give up a list
	end      context.CancelFunc
	keep     *privsep.Keeper
	fetching chan struct{} // has one in it during a fetch
	started  chan struct{} // closed when a process was started, or could not be
	begun    func()        // closes it, once

	mu      sync.Mutex
	up      bool
	down    string        // why it is not, once it was known
	over    bool          // and it will not be
	changed chan struct{} // closed when up or down change
	child   privsep.Child
	why     string // child was killed
	last    uint32 // number given to a request
	list    *listing
	lookups map[uint32]*looking
}

// listing is a fetch under way.
type listing struct {
	number   uint32
	request  *dnsfetch.Request
	list     *dnsfetch.List         // begun
	left     int                    // entries of it that are to come
	progress chan dnsfetch.Progress // the latest
	done     chan struct{}          // closed when there is
	got      *dnsfetch.List         // this, or
	err      error                  // this
}

// looking is a lookup under way.
type looking struct {
	name  string
	done  chan struct{}
	addrs []netip.Addr
	err   error
}

// New starts a role, and keeps it running until ctx ends or Close. The error is that of the
// options: what goes wrong with the role is told by Down, and by whatever is asked of it.
func New(ctx context.Context, o Options) (*Client, error) {
	o.Fetch.Resolver = nil
	checked, err := dnsfetch.New(o.Fetch)
	if err != nil {
		return nil, err
	}
	c := &Client{
		o:        o,
		checked:  checked,
		most:     o.Fetch.MaxEntries,
		limit:    limit(&o.Fetch),
		patience: cancelWait,
		fetching: make(chan struct{}, 1),
		started:  make(chan struct{}),
		changed:  make(chan struct{}),
		lookups:  make(map[uint32]*looking),
	}
	if c.most == 0 {
		c.most = dnsfetch.DefaultMaxEntries
	}
	if checked.Names() {
		c.o.Confinement.Names = true
	}
	c.begun = sync.OnceFunc(func() { close(c.started) })
	if c.o.Confinement.Memory == 0 {
		c.o.Confinement.Memory = privsep.Memory(c.most)
	}
	ctx, c.end = context.WithCancel(ctx)
	context.AfterFunc(ctx, c.ended)
	c.keep = privsep.Keep(ctx, &starter{c: c, ctx: ctx}, privsep.Job{
		Role:   Role,
		Takes:  toMain,
		Begin:  c.begin,
		Handle: c.handle,
		Up:     c.isUp,
		Down:   c.isDown,
		Log:    o.Log,
		Once:   o.Once,
	})
	return c, nil
}

// limit is how long main waits for a list before it takes the role for hung: longer than a server that
// gives it slowly may take, and the next one after it.
func limit(o *dnsfetch.Options) time.Duration {
	return 2 * cmp.Or(o.ListTimeout, dnsfetch.DefaultListTimeout)
}

// Started waits until the role's process was started, or could not be, or ctx ended: from then on
// a Client that is Once starts nothing.
func (c *Client) Started() { <-c.started }

// Close ends the role, and waits until it is gone.
func (c *Client) Close() error {
	c.end()
	c.keep.Wait()
	return nil
}

// begin sends a new process its setup.
func (c *Client) begin(conn *privsep.Conn) error {
	return conn.SendJSON(kindSetup, setup{Options: c.o.Fetch, Confinement: c.o.Confinement})
}

func (c *Client) isUp() {
	c.mu.Lock()
	c.up, c.down = !c.over, ""
	c.change()
	c.mu.Unlock()
	if c.o.Up != nil {
		c.o.Up()
	}
}

func (c *Client) isDown(reason string) {
	c.mu.Lock()
	if c.why != "" {
		reason = c.why + ": " + reason
		c.why = ""
	}
	c.up, c.down, c.over = false, reason, c.over || c.o.Once
	c.drop(c.gone())
	c.change()
	c.mu.Unlock()
	if c.o.Down != nil {
		c.o.Down(reason)
	}
}

// ended fails what is under way when nobody will answer it.
func (c *Client) ended() {
	c.begun()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.up, c.down, c.over = false, "ended", true
	c.drop(c.gone())
	c.change()
}

// change wakes those who wait for the role. The caller holds mu.
func (c *Client) change() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// gone is the error of a request to a role that is down. The caller holds mu.
func (c *Client) gone() error { return fmt.Errorf("%w: %s", ErrRole, c.down) }

// drop fails what is under way. The caller holds mu.
func (c *Client) drop(err error) {
	if c.list != nil {
		c.list.err = err
		close(c.list.done)
		c.list = nil
	}
	for n, l := range c.lookups {
		l.err = err
		close(l.done)
		delete(c.lookups, n)
	}
}

// ask waits until the role is up, and has a request put on record with its number, which from then
// on has an end: an answer, or that of the role. It does not wait for a role that will not be up,
// and for one that died only until it may have been started again.
func (c *Client) ask(ctx context.Context, record func(number uint32) error) error {
	wait := time.NewTimer(startWait)
	defer wait.Stop()
	for {
		c.mu.Lock()
		if c.up {
			defer c.mu.Unlock()
			c.last++
			return record(c.last)
		}
		over, down, changed, err := c.over, c.down, c.changed, c.gone()
		c.mu.Unlock()
		if over {
			return err
		}
		var late <-chan time.Time
		if down != "" {
			late = wait.C
		}
		select {
		case <-changed:
		case <-late:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// kill ends the process at once. Keep notices.
func (c *Client) kill(why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.child != nil {
		c.why = why
		c.child.Kill()
	}
}

// Fetch fetches a list as [dnsfetch.Client.Fetch] does, from whichever server gives it. An error
// of the role itself matches [ErrRole].
func (c *Client) Fetch(ctx context.Context, r dnsfetch.Request) (*dnsfetch.List, error) {
	failed := func(err error) (*dnsfetch.List, error) {
		// What main gives up has the error that dnsfetch gives for it.
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, &dnsfetch.Error{List: r.Name, Err: err}
	}
	// What does not cross as it is would come back as another list.
	if !plain(r.Name, maxName) {
		return failed(fmt.Errorf("%w: %.200q", dnsfetch.ErrName, r.Name))
	}
	select {
	case c.fetching <- struct{}{}:
		defer func() { <-c.fetching }()
	case <-ctx.Done():
		return failed(nil)
	}
	l := &listing{request: &r, progress: make(chan dnsfetch.Progress, 1), done: make(chan struct{})}
	if err := c.ask(ctx, func(number uint32) error {
		l.number, c.list = number, l
		return nil
	}); err != nil {
		return failed(err)
	}
	c.send(kindFetch, fetch{
		Number: l.number, Name: r.Name, AllowEmpty: r.AllowEmpty, Progress: r.Progress != nil,
	})
	late := time.NewTimer(c.limit)
	defer late.Stop()
	for {
		select {
		case <-l.done:
			var e *dnsfetch.Error
			switch {
			case l.err == nil:
				return l.got, nil
			case errors.As(l.err, &e) && ctx.Err() == nil:
				return nil, e
			}
			return failed(l.err)
		case p := <-l.progress:
			r.Progress(p)
		case <-late.C:
			c.kill(fmt.Sprintf("no answer within %v", c.limit))
			<-l.done
		case <-ctx.Done():
			c.giveUp(l)
			return failed(nil)
		}
	}
}

// send sends a request. When it cannot be sent the process is dead, or is now, and that ends the
// request.
func (c *Client) send(kind byte, v any) {
	if err := c.keep.Conn().SendJSON(kind, v); err != nil && !errors.Is(err, privsep.ErrDown) {
		c.kill(fmt.Sprintf("cannot be asked: %v", err))
	}
}

// giveUp has the role give up a list, or kills it.
func (c *Client) giveUp(l *listing) {
	err := c.keep.Conn().Send(kindCancel, number(l.number))
	if !errors.Is(err, privsep.ErrDown) { // else it is dead, as will be known in a moment
		if err == nil {
			select {
			case <-l.done:
				return
			case <-time.After(c.patience):
			}
		}
		c.kill("did not give up a list")
	}
	<-l.done
}

// Lookup returns the addresses of a host, at least one and at most 64. An address is its own.
// An error is a [net.DNSError], or matches [ErrRole].
func (c *Client) Lookup(ctx context.Context, name string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(name); err == nil {
		return []netip.Addr{a}, nil
	}
	if !plain(name, maxName) {
		return nil, &net.DNSError{Err: "not a host name", Name: fmt.Sprintf("%.200q", name)}
	}
	l := &looking{name: name, done: make(chan struct{})}
	n := uint32(0)
	if err := c.ask(ctx, func(number uint32) error {
		if len(c.lookups) == maxLookups {
			return &net.DNSError{Err: "too many lookups at once", Name: name, IsTemporary: true}
		}
		n, c.lookups[number] = number, l
		return nil
	}); err != nil {
		return nil, err
	}
	c.send(kindLookup, lookup{Number: n, Name: name})
	// One that is not waited for stays on record until its answer comes, so that this is not
	// taken for one that nobody asked for.
	select {
	case <-l.done:
		return slices.Clone(l.addrs), l.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// handle takes what the role sends.
func (c *Client) handle(_ *privsep.Conn, kind byte, payload []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch kind {
	case kindChunk:
		return c.takeEntries(payload)
	case kindProgress:
		return c.takeProgress(payload)
	case kindAddresses:
		return c.takeAddresses(payload)
	case kindHeader:
		return c.takeHeader(payload)
	case kindFailure:
		return c.takeFailure(payload)
	case kindCommit:
		return c.takeCommit(payload)
	}
	return fmt.Errorf("message of kind %d", kind)
}

// asked returns the list that is being fetched, if its number is n. The caller holds mu.
func (c *Client) asked(n uint32) (*listing, error) {
	if c.list == nil || c.list.number != n {
		return nil, errors.New("answer to a request for a list that was not made")
	}
	return c.list, nil
}

// finish ends the fetch of l. The caller holds mu.
func (c *Client) finish(l *listing) {
	close(l.done)
	c.list = nil
}

func (c *Client) takeHeader(payload []byte) error {
	var h header
	if err := privsep.Unmarshal(payload, &h); err != nil {
		return fmt.Errorf("header: %w", err)
	}
	l, err := c.asked(h.Number)
	if err != nil {
		return err
	}
	if err := h.check(c.most); err != nil {
		return err
	}
	switch {
	case l.list != nil:
		return errors.New("list begun twice")
	case h.Name != l.request.Name:
		return fmt.Errorf("list %s where %s was asked for", h.Name, l.request.Name)
	case !c.checked.Knows(h.Server):
		return fmt.Errorf("list %s from %s, which is none of the policy servers", h.Name, h.Server)
	case h.Entries == 0 && !l.request.AllowEmpty:
		return errors.New("empty list where it may not be")
	}
	l.list, l.left = h.list(), h.Entries
	return nil
}

func (c *Client) takeEntries(payload []byte) error {
	l := c.list
	if l == nil || l.list == nil {
		return errors.New("entries of a list that was not begun")
	}
	chunk, err := parseEntries(payload, l.left)
	if err != nil {
		return err
	}
	l.list.Chunks = append(l.list.Chunks, chunk)
	l.left -= len(chunk)
	return nil
}

func (c *Client) takeCommit(payload []byte) error {
	n, rest, err := cutNumber(payload)
	if err != nil {
		return err
	}
	l, err := c.asked(n)
	switch {
	case err != nil:
		return err
	case l.list == nil:
		return errors.New("end of a list that was not begun")
	case l.left > 0 || len(rest) > 0:
		return fmt.Errorf("end of a list of which %d entries are missing", l.left)
	}
	l.got = l.list
	c.finish(l)
	return nil
}

func (c *Client) takeFailure(payload []byte) error {
	var f failure
	if err := privsep.Unmarshal(payload, &f); err != nil {
		return fmt.Errorf("failure: %w", err)
	}
	l, err := c.asked(f.Number)
	if err != nil {
		return err
	}
	if l.list != nil {
		return errors.New("list and error in one")
	}
	if err := f.check(); err != nil {
		return err
	}
	l.err = f.error(l.request.Name)
	c.finish(l)
	return nil
}

func (c *Client) takeProgress(payload []byte) error {
	var p progress
	if err := privsep.Unmarshal(payload, &p); err != nil {
		return fmt.Errorf("progress: %w", err)
	}
	l := c.list
	if l == nil || l.number != p.Number || l.list != nil || l.request.Progress == nil {
		return errors.New("progress of a list that was not asked for")
	}
	if err := p.check(c.most); err != nil {
		return err
	}
	// Only the latest is of interest; the role is not made to wait for whoever looks at it.
	select {
	case <-l.progress:
	default:
	}
	l.progress <- dnsfetch.Progress{List: l.request.Name, Server: p.Server, Done: p.Done, Parts: p.Parts, Entries: p.Entries, Bytes: p.Bytes}
	return nil
}

func (c *Client) takeAddresses(payload []byte) error {
	var a addresses
	if err := privsep.Unmarshal(payload, &a); err != nil {
		return fmt.Errorf("addresses: %w", err)
	}
	l := c.lookups[a.Number]
	switch {
	case l == nil:
		return errors.New("addresses of a name that was not asked for")
	case len(a.Addresses) > maxAddrs:
		return fmt.Errorf("%d addresses of one name", len(a.Addresses))
	case (len(a.Addresses) == 0) == (a.Error == ""):
		return errors.New("neither addresses nor a reason, or both")
	case !plain(a.Error, maxReason):
		return errors.New("reason that is not printable")
	}
	for _, addr := range a.Addresses {
		if !usable(addr) {
			return fmt.Errorf("%s, which no host has, as the address of one", addr)
		}
	}
	l.addrs = a.Addresses
	if a.Error != "" {
		l.err = &net.DNSError{Err: a.Error, Name: l.name}
	}
	close(l.done)
	delete(c.lookups, a.Number)
	return nil
}

// starter starts the role for Keep, and knows the process.
type starter struct {
	c   *Client
	ctx context.Context
}

func (s *starter) Start(role string, files []*os.File) (privsep.Child, error) {
	child, err := s.c.o.Starter.Start(role, files)
	s.c.begun()
	if err != nil {
		return nil, err
	}
	s.c.mu.Lock()
	s.c.child = child
	s.c.mu.Unlock()
	if s.c.o.Hold == nil {
		return child, nil
	}
	return heldChild{child, heldConn{child.Conn(), s.c.o.Hold, s.ctx.Done()}}, nil
}

// heldChild is one to which nobody listens yet.
type heldChild struct {
	privsep.Child
	conn heldConn
}

func (h heldChild) Conn() net.Conn { return h.conn }

type heldConn struct {
	net.Conn
	hold, end <-chan struct{}
}

func (h heldConn) Read(b []byte) (int, error) {
	select {
	case <-h.hold:
	default:
		select {
		case <-h.hold:
		case <-h.end:
			return 0, net.ErrClosed
		}
	}
	return h.Conn.Read(b)
}
