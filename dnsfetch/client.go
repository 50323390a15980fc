package dnsfetch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// What the zero values of [Options] mean.
const (
	DefaultTimeout     = 10 * time.Second
	DefaultListTimeout = 2 * time.Minute
	DefaultMaxParts    = 4000      // one PTR answer of 64 KiB holds about 2,800
	DefaultMaxEntries  = 3_000_000 // 2,800 parts of 900 are 2.5 million
	DefaultMaxBytes    = 256 << 20 // 2,800 answers of 64 KiB are 175 MiB
	DefaultConnections = 2
	DefaultPipeline    = 16
)

// maxPipeline keeps the queries under way on a connection small enough for its buffers.
const maxPipeline = 64

// maxAddrs is how many addresses of a server given by name are tried.
const maxAddrs = 8

// Options configures a [Client]. The zero value of every field but Servers has a meaning.
type Options struct {
	// Servers are the policy servers, at least one: addresses or host names, each with an
	// optional port ("192.0.2.1", "192.0.2.1:5353", "2001:db8::1", "[2001:db8::1]:53",
	// "dns.example.net:53"). Of a name the first eight addresses are tried.
	Servers []string
	// Ports are tried in turn, each on all servers that come without a port. Nil means 53, then
	// 5353.
	Ports []uint16
	// Source is the local address to connect from; the zero Addr leaves that to the system.
	// Servers of the other family cannot be used then.
	Source netip.Addr
	// Timeout is the longest wait for a connection, and for each whole answer: bytes that
	// trickle in do not extend it. 0 means DefaultTimeout.
	Timeout time.Duration
	// ListTimeout is the longest time that one server may take for one list. 0 means
	// DefaultListTimeout.
	ListTimeout time.Duration
	// Siblings are first labels of names beside a list that continue it in the A and AAAA
	// layout. A sibling continues a list when it is the list's own first label with a number
	// behind it: "basic1" continues basic.example.net as basic1.example.net, and does not
	// continue allow.example.net, so that a block list never runs over into an allow list.
	// [Request.Siblings] is not bound by that rule. Siblings that do not exist are passed over.
	Siblings []string
	// MaxParts, MaxEntries and MaxBytes bound one list: names in the PTR answer, entries, and
	// bytes received from one server. 0 means DefaultMaxParts, DefaultMaxEntries,
	// DefaultMaxBytes.
	MaxParts, MaxEntries int
	MaxBytes             int64
	// Connections is how many connections to one server are used at once, for a list of many
	// parts; Pipeline is how many queries may be under way on each. 0 means DefaultConnections,
	// DefaultPipeline. Servers that take fewer of either are served more slowly, not refused.
	Connections, Pipeline int
	// Resolver looks up servers given by name; nil means [net.DefaultResolver]. It is never
	// asked about servers given as addresses, nor about lists.
	Resolver Resolver
}

// Resolver finds the addresses of a host, as [net.Resolver] does.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Request says which list to fetch.
type Request struct {
	// Name is the list, in presentation form, with or without the last dot.
	Name string
	// AllowEmpty accepts a list that says of itself, by an APL record without items, that it is
	// empty.
	AllowEmpty bool
	// Siblings, when not nil, takes the place of the Siblings of Options for this list, and all
	// of it is used: first labels ("more" continues basic.example.net as more.example.net).
	Siblings []string
	// Progress, when not nil, is called after each answer that brought entries, from one
	// goroutine at a time. The fetch waits for it.
	Progress func(Progress)
}

// Progress is how far a fetch has come.
type Progress struct {
	List, Server string
	Done, Parts  int // names read, names there are; Parts may grow in the A and AAAA layout
	Entries      int
	Bytes        int64
}

// Client fetches lists. It remembers which server worked last, and goes on with that one until
// it fails; and how the servers like to be asked. So one Client should serve a whole run, and a
// new one begins with the first server again. It may be used by several goroutines, and fetches
// one list at a time.
type Client struct {
	opt     Options
	servers []server

	fetching sync.Mutex // held for one list
	habits   map[netip.AddrPort]*habits

	mu   sync.Mutex
	last endpoint // that worked last
	idle []*conn
}

// idleTime is how long a connection is kept for the next list. A client should not hold what it
// is not using (RFC 7766 §6.2.3), and a longer silence may have made some firewall on the way
// forget the connection.
const idleTime = 5 * time.Second

// New checks o and returns a Client. It opens no connection and looks up no name.
func New(o Options) (*Client, error) {
	c := &Client{habits: make(map[netip.AddrPort]*habits)}
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
		if _, err := packLabel(s); err != nil {
			return nil, err
		}
	}
	for _, v := range []struct {
		name  string
		value int64
	}{
		{"Timeout", int64(o.Timeout)}, {"ListTimeout", int64(o.ListTimeout)}, {"MaxParts", int64(o.MaxParts)},
		{"MaxEntries", int64(o.MaxEntries)}, {"MaxBytes", o.MaxBytes},
		{"Connections", int64(o.Connections)}, {"Pipeline", int64(o.Pipeline)},
	} {
		if v.value < 0 {
			return nil, fmt.Errorf("%s %d: must not be negative", v.name, v.value)
		}
	}
	o.Source = o.Source.Unmap()
	o.Timeout = cmp.Or(o.Timeout, DefaultTimeout)
	o.ListTimeout = cmp.Or(o.ListTimeout, DefaultListTimeout)
	o.MaxParts = cmp.Or(o.MaxParts, DefaultMaxParts)
	o.MaxEntries = cmp.Or(o.MaxEntries, DefaultMaxEntries)
	o.MaxBytes = cmp.Or(o.MaxBytes, DefaultMaxBytes)
	o.Connections = cmp.Or(o.Connections, DefaultConnections)
	o.Pipeline = min(cmp.Or(o.Pipeline, DefaultPipeline), maxPipeline)
	if o.Resolver == nil {
		o.Resolver = net.DefaultResolver
	}
	c.opt = o
	return c, nil
}

// Server returns the server that gave the last list: "192.0.2.1:53", or
// "dns.example.net[192.0.2.1]:53" for one given by name. Before the first success it is "".
func (c *Client) Server() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last.String()
}

// Names reports whether a server is given by name, so that the Resolver will be asked.
func (c *Client) Names() bool {
	return slices.ContainsFunc(c.servers, func(s server) bool { return !s.addr.IsValid() })
}

// Knows reports whether server is how [Client.Server] may spell one of the servers of the Options.
func (c *Client) Knows(server string) bool {
	for _, s := range c.servers {
		ports := c.opt.Ports
		if s.port != 0 {
			ports = []uint16{s.port}
		}
		for _, port := range ports {
			ep := endpoint{addr: addrPort(s.addr, port)}
			if !s.addr.IsValid() {
				in, found := strings.CutPrefix(server, s.host+"[")
				host, _, closed := strings.Cut(in, "]")
				addr, err := netip.ParseAddr(host)
				if !found || !closed || err != nil {
					continue
				}
				ep = endpoint{s.host, addrPort(addr, port)}
			}
			if ep.String() == server {
				return true
			}
		}
	}
	return false
}

// Close closes the connections that are kept open between two lists, and returns nil. A Client
// may be used again after Close.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, cn := range c.idle {
		cn.close()
	}
	c.idle = nil
	return nil
}

// Fetch fetches one list, whole, from the first server that gives it, beginning with the one
// that worked last. It returns an [*Error] that names each server tried and why it failed. When
// ctx ends, no further server is tried, and the error wraps that of ctx.
func (c *Client) Fetch(ctx context.Context, r Request) (*List, error) {
	c.fetching.Lock()
	defer c.fetching.Unlock()
	begin := time.Now()
	name, err := packName(r.Name)
	if err != nil {
		return nil, &Error{List: r.Name, Err: fmt.Errorf("%w: %w", ErrName, err)}
	}
	siblings, err := c.siblings(name, &r)
	if err != nil {
		return nil, &Error{List: r.Name, Err: err}
	}

	var failed []*Error
	for ep, err := range c.endpoints(ctx) {
		if ctx.Err() != nil {
			return nil, &Error{List: r.Name, Err: context.Cause(ctx)}
		}
		if err != nil {
			failed = append(failed, &Error{List: r.Name, Server: ep.String(), Err: err})
			continue
		}
		h := c.habits[ep.addr]
		if h == nil || time.Since(h.since) > habitTime {
			h = &habits{since: time.Now(), conns: c.opt.Connections, pipeline: c.opt.Pipeline}
			c.habits[ep.addr] = h
		}
		l, err := c.attempt(ctx, &attempt{c: c, ep: ep, habits: h, req: &r, name: name, siblings: siblings})
		if err == nil {
			c.mu.Lock()
			c.last = ep
			c.mu.Unlock()
			l.Elapsed, l.Failed = time.Since(begin), failed
			return l, nil
		}
		if ctx.Err() != nil {
			return nil, &Error{List: r.Name, Server: ep.String(), Err: context.Cause(ctx)}
		}
		failed = append(failed, err)
	}
	if ctx.Err() != nil {
		return nil, &Error{List: r.Name, Err: context.Cause(ctx)}
	}
	if len(failed) == 1 {
		return nil, failed[0]
	}
	return nil, &Error{List: r.Name, Err: allFailed(failed)}
}

// attempt runs a, within the time that one server has.
func (c *Client) attempt(ctx context.Context, a *attempt) (*List, *Error) {
	var cancel context.CancelFunc
	a.ctx, cancel = context.WithTimeout(ctx, c.opt.ListTimeout)
	defer cancel()
	l, err := a.fetch()
	if err == nil {
		return l, nil
	}
	e := a.fault("", err)
	if a.ctx.Err() != nil {
		e = &Error{List: a.req.Name, Server: a.ep.String(), Err: fmt.Errorf("%w: the list was not complete within %v",
			ErrTimeout, c.opt.ListTimeout)}
	}
	return nil, e
}

// endpoints yields where to try, in this order: what worked last; then, port by port, all
// servers. A server that cannot be tried is yielded with the reason.
func (c *Client) endpoints(ctx context.Context) iter.Seq2[endpoint, error] {
	return func(yield func(endpoint, error) bool) {
		tried := make(map[netip.AddrPort]bool)
		c.mu.Lock()
		last := c.last
		c.mu.Unlock()
		if last.addr.IsValid() {
			tried[last.addr] = true
			if !yield(last, nil) {
				return
			}
		}
		looked := make(map[string][]netip.Addr)
		for i, port := range c.opt.Ports {
			for _, s := range c.servers {
				if s.port != 0 {
					if i > 0 {
						continue
					}
					port = s.port
				} else {
					port = c.opt.Ports[i]
				}
				addrs := []netip.Addr{s.addr}
				name := ""
				if !s.addr.IsValid() {
					name = s.host
					var known bool
					if addrs, known = looked[name]; !known {
						var err error
						addrs, err = c.lookUp(ctx, name)
						looked[name] = addrs
						if err != nil && !yield(endpoint{name: name, addr: addrPort(netip.Addr{}, port)}, err) {
							return
						}
					}
				}
				for _, addr := range addrs {
					ep := endpoint{name, addrPort(addr, port)}
					if tried[ep.addr] {
						continue
					}
					tried[ep.addr] = true
					var err error
					if src := c.opt.Source; src.IsValid() && src.Is4() != addr.Is4() {
						err = fmt.Errorf("%w: source %s", ErrSource, src)
					}
					if !yield(ep, err) {
						return
					}
				}
			}
		}
	}
}

// lookUp returns the addresses of a server given by name.
func (c *Client) lookUp(ctx context.Context, name string) ([]netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, c.opt.Timeout)
	defer cancel()
	addrs, err := c.opt.Resolver.LookupNetIP(ctx, "ip", name)
	if err == nil && len(addrs) == 0 {
		err = errors.New("it has no addresses")
	}
	if err != nil {
		// The name and the resolver's own address would make two more colons out of one reason.
		if d := (*net.DNSError)(nil); errors.As(err, &d) {
			return nil, fmt.Errorf("%w: %s", ErrLookup, d.Err)
		}
		return nil, fmt.Errorf("%w: %w", ErrLookup, err)
	}
	// Each may take as long as a list may, and other servers wait for their turn.
	addrs = addrs[:min(len(addrs), maxAddrs)]
	for i := range addrs {
		addrs[i] = addrs[i].Unmap()
	}
	return addrs, nil
}

// siblings returns the names that continue the list.
func (c *Client) siblings(list wireName, r *Request) ([]wireName, error) {
	labels := c.opt.Siblings
	if r.Siblings != nil {
		labels = r.Siblings
	}
	var names []wireName
	seen := map[string]bool{list.key(): true}
	for _, s := range labels {
		label, err := packLabel(s)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrName, err)
		}
		if r.Siblings == nil && !continues(list, label) {
			continue
		}
		name := append(label, list.parent()...)
		if len(name) > maxNameLen {
			return nil, fmt.Errorf("%w: sibling %q: the name gets too long", ErrName, s)
		}
		if !seen[name.key()] {
			seen[name.key()] = true
			names = append(names, name)
		}
	}
	return names, nil
}

// continues reports whether the first label of sibling is that of list with a number behind it.
func continues(list, sibling wireName) bool {
	own, other := list[1:1+list[0]], sibling[1:1+sibling[0]]
	if len(other) <= len(own) || !own.equal(other[:len(own)]) {
		return false
	}
	for _, b := range other[len(own):] {
		if b < '0' || b > '9' {
			return false
		}
	}
	return true
}

// packLabel returns the label of a sibling in wire form, without a root label behind it.
func packLabel(s string) (wireName, error) {
	n, err := packName(s)
	if err != nil || len(n.parent()) != 1 {
		return nil, fmt.Errorf("sibling %q: must be one label, such as \"basic1\"", s)
	}
	return n[: len(n)-1 : len(n)-1], nil
}

// takeIdle returns a connection to ep that was kept open, or nil.
func (c *Client) takeIdle(ep endpoint) (cn *conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	kept := c.idle[:0]
	for _, i := range c.idle {
		switch {
		case i.ep.addr != ep.addr || time.Since(i.idle) > idleTime:
			i.close()
		case cn == nil:
			cn = i
		default:
			kept = append(kept, i)
		}
	}
	c.idle = kept
	return cn
}

// keepIdle keeps cn for the next run or list.
func (c *Client) keepIdle(cn *conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	cn.idle = time.Now()
	c.idle = append(c.idle, cn)
}

// server is one element of Options.Servers.
type server struct {
	host string     // as given, without port
	addr netip.Addr // valid when host is an address
	port uint16     // 0: each of Options.Ports
}

// endpoint is where one attempt goes to.
type endpoint struct {
	name string // "" when the server was given as an address
	addr netip.AddrPort
}

func addrPort(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }

func (e endpoint) String() string {
	switch {
	case e.name == "" && !e.addr.IsValid():
		return ""
	case e.name == "":
		return e.addr.String()
	case !e.addr.IsValid(): // not looked up
		return e.name + ":" + strconv.Itoa(int(e.addr.Port()))
	}
	return e.name + "[" + e.addr.Addr().String() + "]:" + strconv.Itoa(int(e.addr.Port()))
}

// parseServer reads one element of Options.Servers.
func parseServer(s string) (server, error) {
	bad := func(what string) (server, error) {
		return server{}, fmt.Errorf("policy server %q: %s", s, what)
	}
	// A bare IPv6 address is full of colons, none of which begins a port.
	if a, err := netip.ParseAddr(s); err == nil {
		return server{host: s, addr: a.Unmap()}, nil
	}
	host, port := s, uint16(0)
	if in, ok := strings.CutPrefix(s, "["); ok && strings.HasSuffix(in, "]") {
		host = in[:len(in)-1]
	} else if strings.Contains(s, ":") {
		h, p, err := net.SplitHostPort(s)
		if err != nil {
			return bad("give an address or a name, with :port behind it if need be ([address]:port for IPv6)")
		}
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || n == 0 {
			return bad("the port must be 1 to 65535")
		}
		host, port = h, uint16(n)
	}
	if a, err := netip.ParseAddr(host); err == nil {
		return server{host: host, addr: a.Unmap(), port: port}, nil
	}
	if strings.HasPrefix(s, "[") {
		return bad("no IPv6 address between the brackets")
	}
	if !isHostName(host) {
		return bad("neither an address nor a host name")
	}
	return server{host: host, port: port}, nil
}

// isHostName is stricter than DNS: what is neither an address nor made of letters, digits,
// hyphens and underscores is a slip of the pen that no resolver should be asked about.
func isHostName(s string) bool {
	if _, ok := dns.IsDomainName(s); !ok || s == "" || s == "." {
		return false
	}
	letters := false
	for _, r := range s {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r == '_':
			letters = true
		case r >= '0' && r <= '9', r == '-', r == '.':
		default:
			return false
		}
	}
	return letters
}
