package dnsfetch

import (
	"context"
	"fmt"
	"net"
	"net/netip"
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

// Options configures a [Client]. The zero value of every field but Servers has a meaning.
type Options struct {
	// Servers are the policy servers, at least one: addresses or host names, each with an optional port
	// ("192.0.2.1", "192.0.2.1:5353", "2001:db8::1", "[2001:db8::1]:53", "dns.example.net:53").
	Servers []string
	// Ports are tried in turn, each on all servers that come without a port. Nil means 53, then 5353.
	Ports []uint16
	// Source is the local address to connect from; the zero Addr leaves that to the system. Servers of
	// the other family cannot be used then.
	Source netip.Addr
	// Timeout is the longest wait for a connection, and for each whole answer: bytes that trickle in do not
	// extend it. 0 means DefaultTimeout.
	Timeout time.Duration
	// ListTimeout is the longest time that one server may take for one list. 0 means DefaultListTimeout.
	ListTimeout time.Duration
	// Siblings are first labels of names beside a list that continue it in the A and AAAA layout. A sibling
	// continues a list when it is the list's own first label with a number behind it: "basic1" continues
	// basic.example.net as basic1.example.net, and does not continue allow.example.net, so that a block list
	// never runs over into an allow list. [Request.Siblings] is not bound by that rule. Siblings that do not
	// exist are passed over.
	Siblings []string
	// MaxParts, MaxEntries and MaxBytes bound one list: names in the PTR answer, entries, and bytes received
	// from one server. 0 means DefaultMaxParts, DefaultMaxEntries, DefaultMaxBytes.
	MaxParts, MaxEntries int
	MaxBytes             int64
	// Connections is how many connections to one server are used at once, for a list of many parts; Pipeline
	// is how many queries may be under way on each. 0 means DefaultConnections, DefaultPipeline. Servers that
	// take fewer of either are served more slowly, not refused.
	Connections, Pipeline int
	// Resolver looks up servers given by name; nil means [net.DefaultResolver]. It is never asked about
	// servers given as addresses, nor about lists.
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
	// AllowEmpty accepts a list that says of itself, by an APL record without items, that it is empty.
	AllowEmpty bool
	// Siblings, when not nil, takes the place of the Siblings of Options for this list, and all of it is used:
	// first labels ("more" continues basic.example.net as more.example.net).
	Siblings []string
	// Progress, when not nil, is called after each answer that brought entries, from one goroutine at a time. The fetch
	// waits for it.
	Progress func(Progress)
}

// Progress is how far a fetch has come.
type Progress struct {
	List, Server string
	Done, Parts  int // names read, names there are; Parts may grow in the A and AAAA layout
	Entries      int
	Bytes        int64
}

// Client fetches lists. It remembers from one list to the next which server worked last and how that server likes to
// be asked, so one Client should serve a whole run. It may be used by several goroutines, and fetches one list at
// a time.
type Client struct {
	opt     Options
	servers []server

	fetching sync.Mutex // held for one list

	mu   sync.Mutex
	last endpoint // the endpoint that worked last
}

// New checks o and returns a Client. It opens no connection and looks up no name.
func New(o Options) (*Client, error) {
	return nil, nil
}

// Server returns the server that gave the last list: "192.0.2.1:53", or "dns.example.net[192.0.2.1]:53" for one given by
// name. Before the first success it is "".
func (c *Client) Server() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last.String()
}

// Close closes the connections that are kept open between two lists. A Client may be used again after Close.
func (c *Client) Close() error { return nil }

// Fetch fetches one list, whole, from the first server that gives it, beginning with the one that worked last. It
// returns an [*Error] that names each server tried and why it failed. When ctx ends, no further server is tried.
func (c *Client) Fetch(ctx context.Context, r Request) (*List, error) {
	return nil, &Error{List: r.Name, Err: ErrConnect}
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

func (e endpoint) String() string {
	switch {
	case !e.addr.IsValid():
		return ""
	case e.name == "":
		return e.addr.String()
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

// isHostName is stricter than DNS: what is neither an address nor made of letters, digits, hyphens and underscores is a slip
// of the pen that no resolver should be asked about.
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
