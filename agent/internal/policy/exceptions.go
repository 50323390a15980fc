package policy

import (
	"net/netip"
	"slices"
	"strings"
)

// Exception is a network no address of which may be blocked, and why: a few words for the owner, such as
// "own address of em0".
type Exception struct {
	Prefix netip.Prefix
	Why    string
}

// Facts is what is known of the host, as far as it makes exceptions. Anything may be missing; the zero
// value yields [DefaultExceptions] alone.
type Facts struct {
	Interfaces []Interface
	Gateways   []netip.Addr   // next hops of the default routes, or of all routes
	Resolvers  []netip.Addr   // name servers of the host
	Servers    []Server       // hosts that the agent itself must reach: policy servers, log servers, proxies
	NeverBlock []netip.Prefix // the owner's own exceptions
}

// Interface is an interface of the host. An address has the length of its network's prefix, and keeps its
// host bits: 192.0.2.7/24.
type Interface struct {
	Name      string
	Addresses []netip.Prefix
}

// Server is a host that must stay reachable. Role is a few words that name it in reports: "policy server",
// "log server logs.example.net".
type Server struct {
	Role string
	Addr netip.Addr
}

var defaultExceptions = []Exception{
	{netip.MustParsePrefix("0.0.0.0/8"), "this network"},
	{netip.MustParsePrefix("127.0.0.0/8"), "loopback"},
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast"},
	{netip.MustParsePrefix("255.255.255.255/32"), "broadcast"},
	{netip.MustParsePrefix("::/128"), "unspecified address"},
	{netip.MustParsePrefix("::1/128"), "loopback"},
	{netip.MustParsePrefix("fe80::/10"), "link-local"},
	{netip.MustParsePrefix("ff00::/8"), "multicast"},
}

// privateNetworks are those whose connected networks are excepted: the owner's neighbours live there. A
// public network that happens to be connected is full of strangers (RFC 1918 §3, RFC 3927 §2.1, RFC 4193
// §3.1, RFC 4291 §2.5.6).
var privateNetworks = []netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/8"),
	netip.MustParsePrefix("172.16.0.0/12"),
	netip.MustParsePrefix("192.168.0.0/16"),
	netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("fc00::/7"),
	netip.MustParsePrefix("fe80::/10"),
}

// DefaultExceptions returns the networks that are never blocked on any host: loopback, multicast, IPv6
// link-local, broadcast, and what stands for no address at all. Blocking one of them would stop the host
// from talking to itself or to its link (routing, neighbour discovery, DHCP).
func DefaultExceptions() []Exception { return slices.Clone(defaultExceptions) }

// Exceptions returns all exceptions that follow from the facts, each prefix once: the host's own
// addresses; gateways, resolvers and servers; connected networks that are private or link-local;
// NeverBlock, as whole networks; and [DefaultExceptions]. If a prefix is excepted for several reasons,
// they are all named, in this order. Invalid and unspecified addresses are skipped, zones dropped,
// IPv4-mapped IPv6 addresses taken as IPv4.
func Exceptions(f Facts) []Exception {
	var es []Exception
	except := func(p netip.Prefix, why string) {
		p = canonical(p)
		switch i := slices.IndexFunc(es, func(e Exception) bool { return e.Prefix == p }); {
		case !p.IsValid():
		case i < 0:
			es = append(es, Exception{p, why})
		case !slices.Contains(strings.Split(es[i].Why, ", "), why):
			es[i].Why += ", " + why
		}
	}
	host := func(why string, addrs ...netip.Addr) {
		for _, a := range addrs {
			if a = a.Unmap().WithZone(""); a.IsValid() && !a.IsUnspecified() {
				except(netip.PrefixFrom(a, a.BitLen()), why)
			}
		}
	}
	for _, in := range f.Interfaces {
		for _, p := range in.Addresses {
			host("own address of "+in.Name, p.Addr())
		}
	}
	host("gateway", f.Gateways...)
	host("resolver", f.Resolvers...)
	for _, s := range f.Servers {
		host(s.Role, s.Addr)
	}
	for _, in := range f.Interfaces {
		for _, p := range in.Addresses {
			if p = canonical(p); private(p) {
				except(p, "network of "+in.Name)
			}
		}
	}
	for _, p := range f.NeverBlock {
		except(p, "NEVER_BLOCK")
	}
	for _, e := range defaultExceptions {
		except(e.Prefix, e.Why)
	}
	return es
}

// private reports whether all of a canonical network is private or link-local, and more than a host.
func private(p netip.Prefix) bool {
	return p.IsValid() && !p.IsSingleIP() && slices.ContainsFunc(privateNetworks, func(n netip.Prefix) bool {
		return n.Bits() <= p.Bits() && n.Contains(p.Addr())
	})
}

// canonical masks a prefix and takes an IPv4-mapped one as IPv4. For an invalid one it returns the zero
// Prefix.
func canonical(p netip.Prefix) netip.Prefix { return unmap(p).Masked() }

// unmap returns the IPv4 prefix that an IPv4-mapped IPv6 prefix stands for (RFC 4291 §2.5.5.2), and
// others unchanged. A prefix of fewer than 96 bits has more than IPv4 addresses in it.
func unmap(p netip.Prefix) netip.Prefix {
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		return netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p
}
