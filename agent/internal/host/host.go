// Package host reads what the policy must never block of the machine it runs
// on: the addresses of its interfaces, its gateways, its resolvers; and who owns a file.
package host

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"

	"github.com/miekg/dns"

	"example.org/threatstopd/agent/internal/policy"
)

// ResolvConf is where a system keeps the addresses of its resolvers.
const ResolvConf = "/etc/resolv.conf"

// Read returns the facts as they are now, since they change with DHCP and
// pppoe: Interfaces, Gateways and Resolvers; the rest is the caller's. The path
// is resolv.conf's, and a machine without the file has no resolvers. Any other
// failure is an error, because an address that is not known cannot be excepted.
func Read(resolvConf string) (policy.Facts, error) {
	var f policy.Facts
	var err error
	if f.Interfaces, err = interfaces(); err != nil {
		return policy.Facts{}, fmt.Errorf("own addresses: %w", err)
	}
	if f.Gateways, err = gateways(); err != nil {
		return policy.Facts{}, fmt.Errorf("gateways: %w", err)
	}
	if f.Resolvers, err = resolvers(resolvConf); err != nil {
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
			if n, ok := a.(*net.IPNet); ok {
				own = append(own, prefix(n))
			}
		}
		if len(own) > 0 {
			all = append(all, policy.Interface{Name: i.Name, Addresses: own})
		}
	}
	return all, nil
}

// prefix keeps the host bits: they are the address.
func prefix(n *net.IPNet) netip.Prefix {
	ip, _ := netip.AddrFromSlice(n.IP)
	ip = ip.Unmap()
	bits, size := n.Mask.Size()
	if size != ip.BitLen() {
		bits -= size - ip.BitLen() // an IPv4 mask in sixteen bytes
	}
	return netip.PrefixFrom(ip, bits)
}

// maxResolvConf is what nobody's resolv.conf is larger than.
const maxResolvConf = 1 << 20

func resolvers(path string) ([]netip.Addr, error) {
	// Without O_NONBLOCK a FIFO would be waited for.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxResolvConf+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxResolvConf {
		return nil, fmt.Errorf("%s: larger than %d bytes: this is not a resolv.conf", path, maxResolvConf)
	}
	return parseResolvers(text)
}

func parseResolvers(text []byte) ([]netip.Addr, error) {
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
