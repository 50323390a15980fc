//go:build !openbsd

package host

import "net/netip"

// gateways returns nothing where there is no pf: there is no table to keep an
// address out of.
func gateways() ([]netip.Addr, error) { return nil, nil }
