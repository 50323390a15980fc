package host

import (
	"net/netip"
	"syscall"

	"golang.org/x/net/route"
)

// gateways returns the next hops of the process's routing table. The whole table is
// asked for, not only routes with RTF_GATEWAY (NET_RT_FLAGS): of the two pledge(2)
// allows this one (kern_pledge.c: pledge_sysctl).
func gateways() ([]netip.Addr, error) {
	const kind = route.RIBType(syscall.NET_RT_DUMP)
	b, err := route.FetchRIB(syscall.AF_UNSPEC, kind, 0)
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
		if !ok || r.Flags&syscall.RTF_GATEWAY == 0 || len(r.Addrs) <= syscall.RTAX_GATEWAY {
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
