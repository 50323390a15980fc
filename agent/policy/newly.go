package policy

import (
	"net/netip"
	"slices"
)

// NewlyBlocked returns what tells whether an address is blocked by new and was
// not by old. Own are the addresses of this host, which never are. Without an
// old policy or a new one, nil, nothing is.
func NewlyBlocked(old, new *Index, own []netip.Addr) func(netip.Addr) bool {
	if old == nil || new == nil {
		return func(netip.Addr) bool { return false }
	}
	return func(a netip.Addr) bool {
		// In this order: nearly all addresses that anyone asks about are not
		// blocked.
		if _, _, now := new.Lookup(a); !now || slices.Contains(own, a.Unmap().WithZone("")) {
			return false
		}
		_, _, before := old.Lookup(a)
		return !before
	}
}
