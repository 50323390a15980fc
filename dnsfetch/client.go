package dnsfetch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// Values that the zero values of [Options] stand for.
const (
	DefaultTimeout     = 10 * time.Second
	DefaultListTimeout = time.Hour
	DefaultMaxEntries  = 3_000_000 // 2,800 parts of 900 are 2.5 million
	DefaultPipeline    = 16
)

// maxPipeline keeps the queries under way small enough for the socket buffers.
const maxPipeline = 64

// Options configures a [Client]. The zero value of every field but Servers has a meaning.
type Options struct {
	// Servers are the policy servers, at least one: addresses or host names, each with an optional
	// port ("192.0.2.1", "192.0.2.1:5353", "2001:db8::1", "[2001:db8::1]:53", "dns.example.net:53").
	// Of a name the first eight addresses are tried.
	Servers []string
	// Ports are tried in turn, each on all servers that are given without a port. Nil means 53, then
	// 5353.
	Ports []uint16
	// Source is the local address to connect from; the zero Addr leaves that to the system. Servers
	// of the other family cannot be used then.
	Source netip.Addr
	// Timeout is the longest wait for a connection, and for a whole answer while others are not
	// coming either: bytes that trickle in do not extend it. 0 means DefaultTimeout.
	Timeout time.Duration
	// ListTimeout is the longest time that one server may take for one list, however steadily its
	// answers come. 0 means DefaultListTimeout.
	ListTimeout time.Duration
	// Siblings are first labels of names beside a list that continue it in the A and AAAA layout. A
	// sibling continues a list if it is the list's own first label followed by a number: "basic1"
	// continues basic.example.net as basic1.example.net, and does not continue allow.example.net, so
	// that a block list never runs over into an allow list. Siblings that do not exist are skipped.
	Siblings []string
	// MaxEntries bounds one list. 0 means DefaultMaxEntries.
	MaxEntries int
	// Pipeline is how many queries may be under way at once, at most 64. 0 means DefaultPipeline.
	// Servers that take fewer are served more slowly, not refused.
	Pipeline int
	// Resolver looks up servers given by name; nil means [net.DefaultResolver]. It is never asked
	// about servers given as addresses, nor about lists.
	Resolver Resolver
}

// Resolver finds the addresses of a host, as [net.Resolver] does.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Request names the list to fetch.
type Request struct {
	// Name is the list, in presentation form, with or without the last dot.
	Name string
	// AllowEmpty accepts a list that is explicitly empty: an APL record without items.
	AllowEmpty bool
	// Progress, when not nil, is called after each answer that brought entries. The fetch waits for
	// it.
	Progress func(Progress)
}

// Progress is how much of a list has come.
type Progress struct {
	List, Server string
	Done, Parts  int // names read, names there are; Parts may grow in the A and AAAA layout
	Entries      int
	Bytes        int64
}

// Client fetches lists. It remembers which server worked last, and asks that one until it fails; and
// how many queries at a time each server takes. So one Client should serve a whole run, and a new one
// begins with the first server again. It may be used by several goroutines, and fetches one list at a
// time.
type Client struct {
	opt     Options
	servers []server

	mu     sync.Mutex // held for one list
	last   endpoint   // that worked last
	habits map[netip.AddrPort]habit
	idle   *conn
}

// New checks o and returns a Client. It opens no connection and looks up no name.
func New(o Options) (*Client, error) {
	c := &Client{habits: make(map[netip.AddrPort]habit)}
	if len(o.Servers) == 0 {
		return nil, errors.New("no policy servers given")
	}
	for _, s := range o.Servers {
		srv, err := parseServer(s)
		if err != nil {
			return nil, err
		}
		c.servers = append(c.servers, srv)
	}
	if o.Ports == nil {
		o.Ports = []uint16{53, 5353}
	}
	if len(o.Ports) == 0 || slices.Contains(o.Ports, 0) {
		return nil, errors.New("policy server ports: at least one, each from 1 to 65535")
	}
	for _, s := range o.Siblings {
		if _, err := parseLabel(s); err != nil {
			return nil, err
		}
	}
	if o.Timeout < 0 || o.ListTimeout < 0 || o.MaxEntries < 0 || o.Pipeline < 0 {
		return nil, fmt.Errorf("options: Timeout %v, ListTimeout %v, MaxEntries %d, Pipeline %d: must not be negative",
			o.Timeout, o.ListTimeout, o.MaxEntries, o.Pipeline)
	}
	o.Source = o.Source.Unmap()
	o.Timeout = cmp.Or(o.Timeout, DefaultTimeout)
	o.ListTimeout = cmp.Or(o.ListTimeout, DefaultListTimeout)
	o.MaxEntries = cmp.Or(o.MaxEntries, DefaultMaxEntries)
	o.Pipeline = min(cmp.Or(o.Pipeline, DefaultPipeline), maxPipeline)
	if o.Resolver == nil {
		o.Resolver = net.DefaultResolver
	}
	c.opt = o
	return c, nil
}

// Close closes the connection that is kept open between two lists, and returns nil. A Client may be
// used again after Close.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.idle != nil {
		c.idle.close()
		c.idle = nil
	}
	return nil
}

// Fetch fetches one list, whole, from the first server that gives it, beginning with the one that
// worked last. The error is an [*Error]; it names each server tried and why it failed. When ctx ends,
// no further server is tried, and the error wraps that of ctx.
func (c *Client) Fetch(ctx context.Context, r Request) (*List, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	begin := time.Now()
	n, err := parseName(r.Name)
	if err != nil {
		return nil, &Error{List: r.Name, Err: fmt.Errorf("%w: %w", ErrName, err)}
	}
	siblings, err := c.siblings(n)
	if err != nil {
		return nil, &Error{List: r.Name, Err: err}
	}
	var failed []*Error
	absent := make(map[netip.Addr]bool) // servers that said that there is no such list
	for ep, err := range c.endpoints(ctx) {
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			failed = append(failed, &Error{List: r.Name, Server: ep.String(), Kind: KindUnreached, Err: err})
			continue
		}
		if absent[ep.addr.Addr()] && !ep.fixed {
			continue // its other port would give the same answer
		}
		a := &attempt{c: c, ep: ep, req: &r, name: n, siblings: siblings}
		a.window = c.opt.Pipeline
		if h, ok := c.habits[ep.addr]; ok && time.Since(h.since) < habitTime {
			a.window = min(a.window, h.window)
		}
		var cancel context.CancelFunc
		a.ctx, cancel = context.WithTimeout(ctx, c.opt.ListTimeout)
		l, e := a.run()
		cancel()
		if e == nil {
			c.last = ep
			l.Elapsed, l.Failed = time.Since(begin), failed
			return l, nil
		}
		failed = append(failed, e)
		if e.Kind == KindNoData || e.Kind == KindNXDomain {
			absent[ep.addr.Addr()] = true
		}
	}
	if ctx.Err() != nil {
		return nil, &Error{List: r.Name, Err: context.Cause(ctx)}
	}
	return nil, combine(r.Name, failed)
}

// siblings returns the names that continue the list.
func (c *Client) siblings(list domain) ([]domain, error) {
	own, rest := list.split()
	var names []domain
	for _, s := range c.opt.Siblings {
		label, err := parseLabel(s)
		if err != nil || !continues(own, label) {
			continue
		}
		n, err := parseName(string(label + "." + rest))
		if err != nil {
			return nil, fmt.Errorf("%w: sibling %q: the name gets too long", ErrName, s)
		}
		if !slices.ContainsFunc(names, n.equal) {
			names = append(names, n)
		}
	}
	return names, nil
}

// continues reports whether the label sibling is that of a list followed by a number.
func continues(own, sibling domain) bool {
	if len(sibling) <= len(own) || !own.equal(sibling[:len(own)]) {
		return false
	}
	return strings.Trim(string(sibling[len(own):]), "0123456789") == ""
}

// parseLabel returns the label of a sibling.
func parseLabel(s string) (domain, error) {
	n, err := parseName(s)
	if err == nil {
		if label, rest := n.split(); rest == "." {
			return label, nil
		}
	}
	return "", fmt.Errorf("sibling %q: must be one label, such as \"basic1\"", s)
}
