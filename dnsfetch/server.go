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
		ep := endpoint{host: s.name()}
		if ep.host != "" {
			in, _ := strings.CutPrefix(server, s.host+"[")
			in, _, _ = strings.Cut(in, "]")
			s.addr, _ = netip.ParseAddr(in)
		}
		for _, port := range s.ports(c.opt.Ports) {
			ep.addr = netip.AddrPortFrom(s.addr, port)
			if s.addr.IsValid() && ep.String() == server {
				return true
			}
		}
	}
	return false
}

// ports returns the server's own port, or else those of the Options.
func (s server) ports(all []uint16) []uint16 {
	if s.port != 0 {
		return []uint16{s.port}
	}
	return all
}

// endpoints returns the endpoints to try: the one that worked last, then, port by port, all servers. A
// server that cannot be tried comes with the reason. A name is looked up once, and if that fails the
// error is returned once.
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
		for i := range c.opt.Ports {
			for _, s := range c.servers {
				ports := s.ports(c.opt.Ports)
				if i >= len(ports) {
					continue
				}
				addrs, err := c.resolve(ctx, s, looked)
				for _, addr := range addrs {
					ep := endpoint{s.name(), netip.AddrPortFrom(addr, ports[i]), s.port != 0}
					if tried[ep.addr] {
						continue
					}
					tried[ep.addr] = addr.IsValid()
					if !yield(ep, cmp.Or(err, c.usable(addr))) {
						return
					}
				}
			}
		}
	}
}

// name returns the host name of a server that is not given as an address.
func (s server) name() string {
	if s.addr.IsValid() {
		return ""
	}
	return s.host
}

// resolve returns the addresses of a server. A name is looked up once; with the error, which is returned
// once, comes one address that is not valid.
func (c *Client) resolve(ctx context.Context, s server, looked map[string][]netip.Addr) ([]netip.Addr, error) {
	addrs, known := looked[s.host]
	switch {
	case s.addr.IsValid():
		return []netip.Addr{s.addr}, nil
	case known:
		return addrs, nil
	}
	addrs, err := c.lookUp(ctx, s.host)
	looked[s.host] = addrs
	if err != nil {
		return []netip.Addr{{}}, err
	}
	return addrs, nil
}

// usable returns why an address cannot be connected to from the source address.
func (c *Client) usable(addr netip.Addr) error {
	if src := c.opt.Source; src.IsValid() && addr.IsValid() && src.Is4() != addr.Is4() {
		return fmt.Errorf("%w: source %s", ErrSource, src)
	}
	return nil
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
	host, port := s, uint64(0)
	if _, err := netip.ParseAddr(s); err == nil {
	} else if in, ok := strings.CutPrefix(s, "["); ok && strings.HasSuffix(in, "]") {
		host = in[:len(in)-1]
	} else if strings.Contains(s, ":") {
		h, p, err := net.SplitHostPort(s)
		if err != nil {
			return bad("give an address or a name, with :port behind it if need be ([address]:port for IPv6)")
		}
		if port, err = strconv.ParseUint(p, 10, 16); err != nil || port == 0 {
			return bad("the port must be 1 to 65535")
		}
		host = h
	}
	a, err := netip.ParseAddr(host)
	switch {
	case err == nil:
	case strings.HasPrefix(s, "["):
		return bad("no IPv6 address between the brackets")
	case !isHostName(host):
		return bad("neither an address nor a host name")
	}
	return server{host: host, addr: a.Unmap(), port: uint16(port)}, nil
}

// isHostName is stricter than DNS: what is neither an address nor made of letters, digits, hyphens and
// underscores is a typing mistake that no resolver should be asked about.
func isHostName(s string) bool {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_"
	_, ok := dns.IsDomainName(s)
	return ok && s != "." && strings.ContainsAny(s, letters) && strings.Trim(s, letters+"0123456789-.") == ""
}
