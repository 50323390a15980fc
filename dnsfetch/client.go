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
	// Ports are tried in turn, each on all servers that are given without a port. None means 53, then
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
	Resolver func(ctx context.Context, host string) ([]netip.Addr, error) `json:"-"`
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

// Client fetches lists. It remembers which server worked last, and asks that one until it fails. So one
// Client should serve a whole run, and a new one begins with the first server again. It may be used by
// several goroutines, and fetches one list at a time.
type Client struct {
	opt   Options
	order []endpoint // port by port, all servers; of a name the address is not valid

	mu   sync.Mutex // held for one list
	last endpoint   // that worked last
}

// New checks o and returns a Client. It opens no connection and looks up no name.
func New(o Options) (*Client, error) {
	if len(o.Servers) == 0 {
		return nil, errors.New("no policy servers given")
	}
	if len(o.Ports) == 0 {
		o.Ports = []uint16{53, 5353}
	}
	for _, s := range o.Siblings {
		if labels, ok := dns.IsDomainName(s); !ok || labels != 1 {
			return nil, fmt.Errorf("sibling %q: must be one label, such as \"basic1\"", s)
		}
	}
	o.Source = o.Source.Unmap()
	o.Timeout = cmp.Or(o.Timeout, DefaultTimeout)
	o.ListTimeout = cmp.Or(o.ListTimeout, DefaultListTimeout)
	o.MaxEntries = cmp.Or(o.MaxEntries, DefaultMaxEntries)
	o.Pipeline = min(cmp.Or(o.Pipeline, DefaultPipeline), maxPipeline)
	if o.Resolver == nil {
		o.Resolver = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	c := &Client{opt: o}
	for i, port := range o.Ports {
		for _, s := range o.Servers {
			ep, err := parseServer(s)
			if err != nil {
				return nil, err
			}
			if ep.fixed && i > 0 {
				continue
			}
			if !ep.fixed {
				ep.addr = netip.AddrPortFrom(ep.addr.Addr(), port)
			}
			c.order = append(c.order, ep)
		}
	}
	return c, nil
}

// Fetch fetches one list, whole, from the first server that gives it, beginning with the one that
// worked last. The error is an [*Error]; it names each server tried and why it failed. When ctx ends,
// no further server is tried, and the error wraps that of ctx.
func (c *Client) Fetch(ctx context.Context, r Request) (*List, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	begin := time.Now()
	name, err := parseName(r.Name)
	if err != nil {
		return nil, &Error{List: r.Name, Err: fmt.Errorf("%w: %w", ErrName, err)}
	}
	siblings, err := c.siblings(name)
	if err != nil {
		return nil, &Error{List: r.Name, Err: err}
	}
	var failed []*Error
	absent := make(map[netip.Addr]bool) // servers that said that there is no such list, or that it is empty
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
		a := &attempt{c: c, ep: ep, req: &r, name: name, siblings: siblings}
		a.window = c.opt.Pipeline
		l, e := a.run(ctx)
		if e == nil {
			c.last = ep
			l.Elapsed, l.Failed = time.Since(begin), failed
			return l, nil
		}
		failed = append(failed, e)
		absent[ep.addr.Addr()] = e.Kind >= KindEmpty
	}
	if ctx.Err() != nil {
		return nil, &Error{List: r.Name, Err: context.Cause(ctx)}
	}
	return nil, combine(r.Name, failed)
}

// siblings returns the names that continue the list.
func (c *Client) siblings(list string) ([]string, error) {
	i, _ := dns.NextLabel(list, 0)
	var names []string
	for _, s := range c.opt.Siblings {
		number, ok := strings.CutPrefix(dns.CanonicalName(s), list[:i-1])
		number = strings.TrimSuffix(number, ".")
		if !ok || number == "" || strings.Trim(number, "0123456789") != "" {
			continue
		}
		n, err := parseName(list[:i-1] + number + "." + list[i:])
		if err != nil {
			return nil, fmt.Errorf("%w: sibling %q: the name gets too long", ErrName, s)
		}
		if !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	return names, nil
}

// maxAddrs is how many addresses of a server given by name are tried: each may take as long as a list
// may, and other servers wait for their turn.
const maxAddrs = 8

// endpoint is a server and a port of it.
type endpoint struct {
	host  string // "" if the server was given as an address
	addr  netip.AddrPort
	fixed bool // the port was given with the server
}

// String returns e as [List.Server] has it. A server whose name could not be looked up is "name:port".
func (e endpoint) String() string {
	switch {
	case e.host == "":
		return e.addr.String()
	case !e.addr.Addr().IsValid():
		return fmt.Sprintf("%s:%d", e.host, e.addr.Port())
	}
	return fmt.Sprintf("%s[%s]:%d", e.host, e.addr.Addr(), e.addr.Port())
}

// Names reports whether a server is given by name, so that the Resolver will be asked.
func (c *Client) Names() bool {
	return slices.ContainsFunc(c.order, func(e endpoint) bool { return e.host != "" })
}

// Knows reports whether server is one of the servers of the Options, in the form of [List.Server].
func (c *Client) Knows(server string) bool {
	for _, e := range c.order {
		if e.host != "" {
			in, _ := strings.CutPrefix(server, e.host+"[")
			in, _, _ = strings.Cut(in, "]")
			addr, _ := netip.ParseAddr(in)
			e.addr = netip.AddrPortFrom(addr, e.addr.Port())
		}
		if e.addr.Addr().IsValid() && e.String() == server {
			return true
		}
	}
	return false
}

// endpoints returns the endpoints to try: the one that worked last, then, port by port, all servers. A
// server that cannot be tried comes with the reason. A name is looked up once, and if that fails the
// error is returned once.
func (c *Client) endpoints(ctx context.Context) iter.Seq2[endpoint, error] {
	return func(yield func(endpoint, error) bool) {
		tried := make(map[netip.AddrPort]bool)
		looked := make(map[string][]netip.Addr)
		order := c.order
		if c.last.addr.IsValid() {
			order = append([]endpoint{c.last}, order...)
		}
		for _, ep := range order {
			addrs, known := []netip.Addr{ep.addr.Addr()}, true
			if !addrs[0].IsValid() {
				addrs, known = looked[ep.host]
			}
			if !known {
				var err error
				addrs, err = c.lookUp(ctx, ep.host)
				looked[ep.host] = addrs
				if err != nil && !yield(ep, err) {
					return
				}
			}
			for _, addr := range addrs {
				at := endpoint{ep.host, netip.AddrPortFrom(addr, ep.addr.Port()), ep.fixed}
				if tried[at.addr] {
					continue
				}
				tried[at.addr] = true
				var err error
				if src := c.opt.Source; src.IsValid() && src.Is4() != addr.Is4() {
					err = fmt.Errorf("%w: source %s", ErrSource, src)
				}
				if !yield(at, err) {
					return
				}
			}
		}
	}
}

// lookUp returns the addresses of a server given by name.
func (c *Client) lookUp(ctx context.Context, host string) ([]netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, c.opt.Timeout)
	defer cancel()
	addrs, err := c.opt.Resolver(ctx, host)
	if err == nil && len(addrs) == 0 {
		err = errors.New("it has no addresses")
	}
	if err != nil {
		// DNSError would repeat the name, and add the resolver's address.
		if d := (*net.DNSError)(nil); errors.As(err, &d) {
			err = errors.New(d.Err)
		}
		return nil, fmt.Errorf("%w: %w", ErrLookup, err)
	}
	addrs = slices.Clone(addrs[:min(len(addrs), maxAddrs)])
	for i := range addrs {
		addrs[i] = addrs[i].Unmap()
	}
	return addrs, nil
}

// parseServer reads one element of Options.Servers.
func parseServer(s string) (endpoint, error) {
	host, port := s, uint64(0)
	h, p, err := net.SplitHostPort(s)
	if err == nil {
		host = h
		if port, err = strconv.ParseUint(p, 10, 16); err != nil || port == 0 {
			return endpoint{}, fmt.Errorf("policy server %q: the port must be 1 to 65535", s)
		}
	} else if strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") {
		host = s[1 : len(s)-1]
	}
	addr, err := netip.ParseAddr(host)
	if err == nil {
		host = ""
	} else if strings.HasPrefix(s, "[") || !isHostName(host) {
		return endpoint{}, fmt.Errorf("policy server %q: neither an address nor a host name, "+
			"with :port behind it if need be ([address]:port for IPv6)", s)
	}
	return endpoint{host, netip.AddrPortFrom(addr.Unmap(), uint16(port)), port != 0}, nil
}

// isHostName is stricter than DNS: what is neither an address nor made of letters, digits, hyphens and
// underscores is a typing mistake that no resolver should be asked about.
func isHostName(s string) bool {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_"
	_, ok := dns.IsDomainName(s)
	return ok && s != "." && strings.ContainsAny(s, letters) && strings.Trim(s, letters+"0123456789-.") == ""
}
