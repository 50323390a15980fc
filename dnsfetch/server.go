package dnsfetch

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/miekg/dns"
)

// maxAddrs is how many addresses of a server given by name are tried: each may take as long as a list
// may, and other servers wait for their turn.
const maxAddrs = 8

// server is one element of Options.Servers.
type server struct {
	host string     // as given, without port
	addr netip.Addr // valid if host is an address
	port uint16     // 0: each of Options.Ports
}

// endpoint is an address and port to connect to.
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
		return e.host + ":" + strconv.Itoa(int(e.addr.Port()))
	}
	return e.host + "[" + e.addr.Addr().String() + "]:" + strconv.Itoa(int(e.addr.Port()))
}

// Names reports whether a server is given by name, so that the Resolver will be asked.
func (c *Client) Names() bool {
	return slices.ContainsFunc(c.servers, func(s server) bool { return !s.addr.IsValid() })
}

// Knows reports whether server is one of the servers of the Options, in the form of [List.Server].
func (c *Client) Knows(server string) bool {
	for _, s := range c.servers {
		addr := s.addr
		host := ""
		if !addr.IsValid() {
			host = s.host
			in, found := strings.CutPrefix(server, host+"[")
			in, _, _ = strings.Cut(in, "]")
			var err error
			if addr, err = netip.ParseAddr(in); err != nil || !found {
				continue
			}
		}
		ports := c.opt.Ports
		if s.port != 0 {
			ports = []uint16{s.port}
		}
		for _, port := range ports {
			if (endpoint{host: host, addr: netip.AddrPortFrom(addr, port)}).String() == server {
				return true
			}
		}
	}
	return false
}

// endpoints returns the endpoints to try: the one that worked last, then, port by port, all servers. A
// server that cannot be tried comes with the reason.
func (c *Client) endpoints(ctx context.Context) iter.Seq2[endpoint, error] {
	return func(yield func(endpoint, error) bool) {
		tried := make(map[netip.AddrPort]bool)
		if c.last.addr.IsValid() {
			tried[c.last.addr] = true
			if !yield(c.last, nil) {
				return
			}
		}
		looked := make(map[string][]netip.Addr)
		for i, port := range c.opt.Ports {
			for _, s := range c.servers {
				if s.port != 0 && i > 0 {
					continue
				}
				for _, ep := range c.resolve(ctx, s, port, looked) {
					if tried[ep.addr] {
						continue
					}
					if ep.addr.Addr().IsValid() {
						tried[ep.addr] = true
					}
					if !yield(ep.endpoint, ep.err) {
						return
					}
				}
			}
		}
	}
}

// resolved is an endpoint, or why it cannot be tried.
type resolved struct {
	endpoint
	err error
}

// resolve returns the endpoints of a server, on its own port or else on port. A name is looked up once,
// and if that fails the error is returned once.
func (c *Client) resolve(ctx context.Context, s server, port uint16, looked map[string][]netip.Addr) []resolved {
	if s.port != 0 {
		port = s.port
	}
	ep := endpoint{fixed: s.port != 0}
	addrs := []netip.Addr{s.addr}
	var all []resolved
	if !s.addr.IsValid() {
		ep.host = s.host
		var known bool
		if addrs, known = looked[s.host]; !known {
			var err error
			if addrs, err = c.lookUp(ctx, s.host); err != nil {
				ep.addr = netip.AddrPortFrom(netip.Addr{}, port)
				all = append(all, resolved{ep, err})
			}
			looked[s.host] = addrs
		}
	}
	for _, addr := range addrs {
		var err error
		if src := c.opt.Source; src.IsValid() && src.Is4() != addr.Is4() {
			err = fmt.Errorf("%w: source %s", ErrSource, src)
		}
		ep.addr = netip.AddrPortFrom(addr, port)
		all = append(all, resolved{ep, err})
	}
	return all
}

// lookUp returns the addresses of a server given by name.
func (c *Client) lookUp(ctx context.Context, host string) ([]netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, c.opt.Timeout)
	defer cancel()
	addrs, err := c.opt.Resolver.LookupNetIP(ctx, "ip", host)
	if err == nil && len(addrs) == 0 {
		err = errors.New("it has no addresses")
	}
	if err != nil {
		// DNSError would repeat the name, and add the resolver's address.
		if d := (*net.DNSError)(nil); errors.As(err, &d) {
			return nil, fmt.Errorf("%w: %s", ErrLookup, d.Err)
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

// isHostName is stricter than DNS: what is neither an address nor made of letters, digits, hyphens and
// underscores is a typing mistake that no resolver should be asked about.
func isHostName(s string) bool {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_"
	_, ok := dns.IsDomainName(s)
	return ok && s != "." && strings.ContainsAny(s, letters) && strings.Trim(s, letters+"0123456789-.") == ""
}
