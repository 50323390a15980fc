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

// interval of a prefix: all its addresses.
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
	switch a.Type {
	case pfioctl.AddrMask:
		if p, ok := a.Prefix(); ok && p.IsValid() {
			return prefixInterval(p), true
		}
	case pfioctl.AddrRange:
		if a.Addr.IsValid() && a.Mask.IsValid() && a.Addr.BitLen() == a.Mask.BitLen() && a.Addr.Compare(a.Mask) <= 0 {
			return interval{a.Addr, a.Mask}, true
		}
	}
	return interval{}, false
}

func (i interval) inside(o interval) bool {
	return i.first.BitLen() == o.first.BitLen() && o.first.Compare(i.first) <= 0 && i.last.Compare(o.last) <= 0
}

func (i interval) isWhole() bool { return prefixInterval(netip.PrefixFrom(i.first, 0)) == i }

// cut divides whole where one of the intervals begins or ends.
func cut(whole interval, at []interval) []interval {
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
	line := make([]interval, len(starts))
	for i, first := range starts {
		line[i] = interval{first, whole.last}
		if i+1 < len(starts) {
			line[i].last = starts[i+1].Prev()
		}
	}
	return line
}

// cutNumbers divides the numbers from 0 to top where one of the ranges begins or ends.
func cutNumbers(top uint32, ranges []pfioctl.Range) []interval {
	var at []interval
	for _, r := range ranges {
		at = append(at, interval{number(r.A), number(r.A)}, interval{number(r.B), number(r.B)})
	}
	return cut(interval{number(0), number(top)}, at)
}

// runs writes the intervals of a set, adjacent ones as one, and at most max of them.
func runs(line []interval, x set, max int, text func(interval) string) string {
	var out []string
	for i := 0; i < len(line); i++ {
		if !x.has(i) {
			continue
		}
		run := line[i]
		for i+1 < len(line) && x.has(i+1) {
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

// numbers writes an interval of numbers as pf.conf does.
func (i interval) numbers() string {
	if i.first == i.last {
		return fmt.Sprint(value(i.first))
	}
	return fmt.Sprintf("%d:%d", value(i.first), value(i.last))
}

// addresses writes an interval as an address, a prefix or a range.
func (i interval) addresses() string {
	if i.first == i.last {
		return i.first.String()
	}
	for n := range i.first.BitLen() {
		if p := netip.PrefixFrom(i.first, n); p.Masked() == p && prefixInterval(p) == i {
			return p.String()
		}
	}
	return i.first.String() + "-" + i.last.String()
}
