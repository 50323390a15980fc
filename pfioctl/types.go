package pfioctl

import (
	"net/netip"
	"strconv"
)

// Table names a table: of the main ruleset where Anchor is empty, else of the
// anchor with that path, as in `anchor "outer/inner"`.
type Table struct {
	Anchor string
	Name   string
}

// String returns the table's name, followed by its anchor when it has one, as
// errors show it: "bad" or "bad in anchor outer/inner".
func (t Table) String() string {
	if t.Anchor == "" {
		return t.Name
	}
	return t.Name + " in anchor " + t.Anchor
}

// Addr is an entry of a table: a prefix, or with Not a hole in a wider one. The
// longest prefix that covers an address decides.
//
// The prefix must be valid and masked, the kernel refuses host bits; an IPv4
// address is the four-byte kind, an IPv6 address has no zone.
type Addr struct {
	Prefix netip.Prefix
	Not    bool
}

// String returns the entry as pfctl writes it and as a persist file takes it:
// "10.1.2.3", "10.0.0.0/8", "!10.1.0.0/16". A host has no length; the zero Addr is
// "invalid Prefix".
func (a Addr) String() string { return string(a.AppendTo(nil)) }

// AppendTo appends what String returns to b.
func (a Addr) AppendTo(b []byte) []byte {
	if a.Not {
		b = append(b, '!')
	}
	if !a.Prefix.IsValid() {
		return append(b, a.Prefix.String()...)
	}
	ip := a.Prefix.Addr()
	b = appendAddr(b, ip)
	if n := a.Prefix.Bits(); n != ip.BitLen() {
		b = append(b, '/')
		b = strconv.AppendInt(b, int64(n), 10)
	}
	return b
}

// appendAddr writes an address as inet_ntop(3) does, which pfctl uses. It differs
// from netip for IPv6 addresses that begin with 96 zeros: these end like an IPv4
// address, unless 16 more zeros follow ("::0.1.0.0", "::1").
func appendAddr(b []byte, ip netip.Addr) []byte {
	if ip.Is6() {
		raw := ip.As16()
		if [12]byte(raw[:12]) == [12]byte{} && (raw[12] != 0 || raw[13] != 0) {
			return netip.AddrFrom4([4]byte(raw[12:])).AppendTo(append(b, "::"...))
		}
	}
	return ip.AppendTo(b)
}

// Delta counts what a change did, or with DryRun would do: entries added,
// deleted, and those whose negation was flipped.
type Delta struct {
	Added, Deleted, Changed int
}

// Zero reports whether nothing was to be done.
func (d Delta) Zero() bool { return d == Delta{} }
