package dnsfetch

import (
	"context"
	"net"
	"net/netip"
	"testing"
)

func ipNet(p netip.Prefix) net.IPNet {
	return net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// noResolver fails the test when it is asked.
type noResolver struct{ t testing.TB }

func (r noResolver) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	r.t.Errorf("the resolver was asked about %q", host)
	return nil, net.UnknownNetworkError("none")
}

const list = "tsblock.org.threatstop.local"

func TestLayouts(t *testing.T) {
	z := zone{}.ptr(list, "001-netb."+list, "002-netb."+list).
		apl("001-netb."+list, "192.0.2.0/24 !192.0.2.1/32", "2001:db8::/32").apl("002-netb."+list, "198.51.100.0/24")
	s := serve(t, z.serves)
	l, err := client(t, Options{}, s.addr).Fetch(t.Context(), Request{Name: list})
	if err != nil {
		t.Fatal(err)
	}
	t.Log(entries(l), l)
	_, log := s.seen()
	t.Log(log)
}
