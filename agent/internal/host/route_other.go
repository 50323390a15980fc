//go:build !openbsd

package host

import "net/netip"

// gateways has nothing to tell where pf is not: there is no table to keep an
// address out of.
func gateways() ([]netip.Addr, error) { return nil, nil }
