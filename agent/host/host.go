// Package host reads what the policy must never block of the machine it runs
// on: the addresses of its interfaces, its gateways, its resolvers.
package host

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"

	"github.com/miekg/dns"
)

// ResolvConf is where a system keeps the addresses of its resolvers.
const ResolvConf = "/etc/resolv.conf"

// Facts are the addresses of a machine.
type Facts struct {
	Addresses []netip.Prefix // own addresses, each with the length of its network
	Gateways  []netip.Addr   // next hops of the routing table, each once
	Resolvers []netip.Addr   // as resolv.conf names them
}

// Read returns the facts as they are now: they change with DHCP and pppoe. The
// path is resolv.conf's; a machine without the file has no resolvers. Any
// other failure is an error, since an address that is not known cannot be
// excepted.
func Read(resolvConf string) (Facts, error) {
	var f Facts
	var err error
	if f.Addresses, err = addresses(); err != nil {
		return Facts{}, fmt.Errorf("own addresses: %w", err)
	}
	if f.Gateways, err = gateways(); err != nil {
		return Facts{}, fmt.Errorf("gateways: %w", err)
	}
	if f.Resolvers, err = resolvers(resolvConf); err != nil {
		return Facts{}, fmt.Errorf("resolvers: %w", err)
	}
	return f, nil
}

func addresses() ([]netip.Prefix, error) {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var all []netip.Prefix
	for _, a := range list {
		n, ok := a.(*net.IPNet)
		if !ok {
			continue
		}
		ip, ok := netip.AddrFromSlice(n.IP)
		if !ok {
			continue
		}
		ip = ip.Unmap()
		bits, _ := n.Mask.Size()
		if len(n.Mask) == net.IPv6len && ip.Is4() {
			bits -= 96
		}
		if p := netip.PrefixFrom(ip, bits); p.IsValid() {
			all = append(all, p)
		}
	}
	return all, nil
}

func resolvers(path string) ([]netip.Addr, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	conf, err := dns.ClientConfigFromReader(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	var all []netip.Addr
	for _, s := range conf.Servers {
		// OpenBSD's resolv.conf may have [address]:port.
		if host, _, err := net.SplitHostPort(s); err == nil {
			s = host
		}
		if a, err := netip.ParseAddr(s); err == nil {
			all = append(all, a.WithZone("").Unmap())
		}
	}
	return unique(all), nil
}

// unique sorts a and drops what stands in it twice.
func unique(a []netip.Addr) []netip.Addr {
	slices.SortFunc(a, netip.Addr.Compare)
	return slices.Compact(a)
}
