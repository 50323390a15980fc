package rules

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"example.org/threatstopd/pfioctl"
)

// An interval holds the values from first to last. Values are addresses; a number, such as a port, is the
// IPv4 address with the same bits, so that one kind of interval serves all.
type interval struct{ first, last netip.Addr }

func number(n uint32) netip.Addr {
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, n)))
}

func value(a netip.Addr) uint32 { b := a.As4(); return binary.BigEndian.Uint32(b[:]) }

// prefixInterval returns all addresses of a prefix.
func prefixInterval(p netip.Prefix) interval {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < 8*len(b); i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	last, _ := netip.AddrFromSlice(b)
	return interval{p.Masked().Addr(), last}
}

// addrInterval returns the addresses that a rule names, if it names some with a prefix or a range.
func addrInterval(a *pfioctl.RuleAddr) (interval, bool) {
	if p, ok := a.Prefix(); ok {
		return prefixInterval(p), true
	}
	i := interval{a.Addr, a.Mask}
	return i, a.Type == pfioctl.AddrRange && i.first.IsValid() && i.first.BitLen() == i.last.BitLen() && !i.last.Less(i.first)
}

func (i interval) inside(o interval) bool {
	return i.first.BitLen() == o.first.BitLen() && !i.first.Less(o.first) && !o.last.Less(i.last)
}

// cut divides whole where one of the intervals begins or ends.
func cut(whole interval, at []interval) (line []interval) {
	starts := []netip.Addr{whole.first}
	for _, i := range at {
		for _, start := range []netip.Addr{i.first, i.last.Next()} {
			if (interval{start, start}).inside(whole) {
				starts = append(starts, start)
			}
		}
	}
	slices.SortFunc(starts, netip.Addr.Compare)
	starts = slices.Compact(starts)
	for i, first := range starts {
		line = append(line, interval{first, whole.last})
		if i > 0 {
			line[i-1].last = first.Prev()
		}
	}
	return line
}

// runs writes the intervals of a set, adjacent ones as one, and at most max of them.
func runs(line []interval, x set, max int, text func(interval) string) string {
	var out []string
	for i := 0; i < len(line); i++ {
		if !x[i] {
			continue
		}
		run := line[i]
		for i+1 < len(line) && x[i+1] {
			i++
			run.last = line[i].last
		}
		out = append(out, text(run))
	}
	if len(out) > max {
		out = append(out[:max], "…")
	}
	return strings.Join(out, ", ")
}

// numbers writes an interval of numbers as pf.conf does; "unknown" is a packet without a socket.
func (i interval) numbers() string {
	switch first, last := value(i.first), value(i.last); {
	case first == noSocket:
		return "unknown"
	case last == noSocket:
		return interval{i.first, i.last.Prev()}.numbers() + ", unknown"
	case first == last:
		return fmt.Sprint(first)
	default:
		return fmt.Sprintf("%d:%d", first, last)
	}
}

// addresses writes an interval as an address, a prefix or a range.
func (i interval) addresses() string {
	if i.first == i.last {
		return i.first.String()
	}
	for n := range i.first.BitLen() {
		if p := netip.PrefixFrom(i.first, n); prefixInterval(p) == i {
			return p.String()
		}
	}
	return i.first.String() + "-" + i.last.String()
}
