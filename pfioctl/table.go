package pfioctl

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"example.org/threatstopd/pfioctl/internal/abi"
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

// check is pf_table.c: pfr_validate_table and pfr_fix_anchor. Writing is true for
// the requests that are refused for the kernel's own tables.
func (t Table) check(writing bool) error {
	if t.Name == "" {
		return errors.New("a table needs a name")
	}
	if err := checkName("name", t.Name, abi.TableNameSize); err != nil {
		return err
	}
	if writing && strings.TrimLeft(t.Anchor, "/") == abi.ReservedAnchor {
		return fmt.Errorf("anchor %s is the kernel's own", abi.ReservedAnchor)
	}
	return checkName("anchor", t.Anchor, abi.AnchorPathSize)
}

func checkName(what, s string, size int) error {
	switch {
	case len(s) >= size:
		return fmt.Errorf("%s of %d bytes, at most %d are allowed", what, len(s), size-1)
	case strings.IndexByte(s, 0) >= 0:
		return errors.New("NUL in the " + what)
	}
	return nil
}

// request begins a request about t and the elements of an array. The table's flags stay
// zero: the kernel refuses with EINVAL the ones that a listing returns.
func (t Table) request(flags abi.RequestFlags, a *array) *abi.PfiocTable {
	io := &abi.PfiocTable{Flags: flags, Buffer: a.pointer(), Esize: int32(a.esize), Size: int32(a.n)}
	t.put(&io.Table)
	return io
}

func (t Table) put(p *abi.PfrTable) {
	copy(p.Anchor[:abi.AnchorPathSize-1], t.Anchor)
	copy(p.Name[:abi.TableNameSize-1], t.Name)
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
