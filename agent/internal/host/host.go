// Package host reads what the policy must never block of the machine it runs
// on: the addresses of its interfaces, its gateways, its resolvers; and who owns a file.
package host

import (
	"fmt"
	"net"
	"net/netip"

	"example.org/threatstopd/agent/internal/policy"
)

// maxGateways bounds the next hops that are never blocked: a DHCP server may send routes, too (RFC 3442), some
// dozens in a lease. No default route of a host has as many.
const maxGateways = 256

// Read returns the facts as they are now, since they change with DHCP and
// pppoe: Interfaces, Gateways and Resolvers; the rest is the caller's. The resolvers
// are those that the files name (see ResolverFiles). Any failure is an error, because an address that is not
// known cannot be excepted.
func Read(resolverFiles []string) (policy.Facts, error) {
	var f policy.Facts
	var err error
	if f.Interfaces, err = interfaces(); err != nil {
		return policy.Facts{}, fmt.Errorf("own addresses: %w", err)
	}
	if f.Gateways, err = gateways(); err != nil {
		return policy.Facts{}, fmt.Errorf("gateways: %w", err)
	}
	f.Gateways = f.Gateways[:min(len(f.Gateways), maxGateways)]
	if f.Resolvers, _, err = Resolvers(resolverFiles); err != nil {
		return policy.Facts{}, fmt.Errorf("resolvers: %w", err)
	}
	return f, nil
}

func interfaces() ([]policy.Interface, error) {
	list, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var all []policy.Interface
	for _, i := range list {
		addrs, err := i.Addrs()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", i.Name, err)
		}
		var own []netip.Prefix
		for _, a := range addrs {
			p, err := netip.ParsePrefix(a.String()) // with the host bits: they are the address
			if err != nil {
				return nil, fmt.Errorf("%s: %w", i.Name, err)
			}
			own = append(own, p)
		}
		if len(own) > 0 {
			all = append(all, policy.Interface{Name: i.Name, Addresses: own})
		}
	}
	return all, nil
}
