package host

import (
	"net/netip"
	"syscall"

	"golang.org/x/net/route"
)

// gateways returns the next hops of the process's routing table. The kernel is
// asked only for routes that have one.
func gateways() ([]netip.Addr, error) {
	const kind = route.RIBType(syscall.NET_RT_FLAGS)
	b, err := route.FetchRIB(syscall.AF_UNSPEC, kind, syscall.RTF_GATEWAY)
	if err != nil {
		return nil, err
	}
	messages, err := route.ParseRIB(kind, b)
	if err != nil {
		return nil, err
	}
	var all []netip.Addr
	for _, m := range messages {
		r, ok := m.(*route.RouteMessage)
		if !ok || len(r.Addrs) <= syscall.RTAX_GATEWAY {
			continue
		}
		switch a := r.Addrs[syscall.RTAX_GATEWAY].(type) {
		case *route.Inet4Addr:
			all = append(all, netip.AddrFrom4(a.IP))
		case *route.Inet6Addr:
			all = append(all, netip.AddrFrom16(a.IP))
		}
	}
	return unique(all), nil
}
