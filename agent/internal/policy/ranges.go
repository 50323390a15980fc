package policy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"sort"
)

// Ranges is a set of addresses, as ranges that neither touch nor overlap, in
// ascending order. It never changes. A nil Ranges is empty.
//
// It takes 8 bytes an IPv4 range and 32 an IPv6 range.
type Ranges struct {
	v4 []range4
	v6 []range6
}

// Both ends of a range belong to it.
type (
	range4 struct{ first, last uint32 }
	range6 struct{ first, last u128 }
)

// Difference returns the addresses that a table of the entries of new has and one of
// old has not, those of except aside. A nil Set is an empty one.
func Difference(new, old *Set, except []netip.Addr) *Ranges {
	var kept4, kept6 []range6
	for _, a := range except {
		a = a.Unmap().WithZone("")
		switch n := number(a); {
		case a.Is4():
			kept4 = append(kept4, range6{n, n.last(32)})
		case a.Is6():
			kept6 = append(kept6, range6{n, n})
		}
	}
	r := &Ranges{}
	difference(new.listed4(), old.listed4(), kept4, func(x range6) {
		r.v4 = append(r.v4, range4{x.first.to4(), x.last.to4()})
	})
	difference(new.listed6(), old.listed6(), kept6, func(x range6) { r.v6 = append(r.v6, x) })
	return r
}

// difference calls put with the ranges of new that are in neither old nor kept.
func difference(new, old ranges, kept []range6, put func(range6)) {
	slices.SortFunc(kept, func(a, b range6) int { return a.first.compare(b.first) })
	without(without(new, old), func() (x range6, ok bool) {
		if len(kept) > 0 {
			x, kept, ok = kept[0], kept[1:], true
		}
		return x, ok
	}).each(put)
}

// ranges returns one range after the other, in ascending order; ok is false at the end.
type ranges func() (r range6, ok bool)

func (next ranges) each(put func(range6)) {
	for r, ok := next(); ok; r, ok = next() {
		put(r)
	}
}

// without returns what is in a and not in b. Ranges of b may overlap.
func without(a, b ranges) ranges {
	x, more := a()
	y, cut := b()
	return func() (range6, bool) {
		for more {
			for cut && y.last.less(x.first) {
				y, cut = b()
			}
			switch {
			case !cut || x.last.less(y.first):
				r := x
				x, more = a()
				return r, true
			case x.first.less(y.first):
				r := range6{x.first, y.first.prev()}
				x.first = y.first
				return r, true
			case y.last.less(x.last):
				x.first = y.last.next()
			default:
				x, more = a()
			}
		}
		return range6{}, false
	}
}

func (s *Set) listed4() ranges {
	if s == nil {
		return flatten(0, nil)
	}
	return flatten(len(s.addr4), func(i int) (u128, uint8, bool) { return from4(s.addr4[i]), s.bits4[i], s.tag4[i].not() })
}

func (s *Set) listed6() ranges {
	if s == nil {
		return flatten(0, nil)
	}
	return flatten(len(s.addr6), func(i int) (u128, uint8, bool) { return s.addr6[i], s.bits6[i], s.tag6[i].not() })
}

// flatten returns the ranges of what n entries list, in their order (by address, of one
// address the longest first), of which the longest decides.
func flatten(n int, at func(int) (addr u128, bits uint8, not bool)) ranges {
	w := &walk{n: n, at: at}
	// Segments that touch are one range.
	x, more := w.segment()
	return func() (range6, bool) {
		if !more {
			return range6{}, false
		}
		r := x
		for {
			if x, more = w.segment(); !more || x.first != r.last.next() {
				return r, true
			}
			r.last = x.last
		}
	}
}

// walk goes over entries of one family as they nest.
type walk struct {
	n  int
	at func(int) (u128, uint8, bool)

	// Entries of one address are taken from the back, the shortest first: those
	// from first on up to before next are still to be taken; then comes end.
	first, next, end int

	open []opened // entries that pos is in, each in the one before
	pos  u128
}

type opened struct {
	last u128
	not  bool
}

// segment returns the next range throughout which the same entry decides, and lists.
func (w *walk) segment() (range6, bool) {
	for {
		if w.next == w.first {
			w.first, w.next = w.end, w.end
			if w.end < w.n {
				a, _, _ := w.at(w.end)
				for w.next++; w.next < w.n; w.next++ {
					if b, _, _ := w.at(w.next); b != a {
						break
					}
				}
			}
			w.end = w.next
		}
		var (
			addr u128
			bits uint8
			not  bool
			more = w.next > w.first
			r    range6
		)
		if more {
			addr, bits, not = w.at(w.next - 1)
		}
		top := len(w.open) - 1
		switch {
		case top >= 0 && (!more || w.open[top].last.less(addr)):
			// It ends before the next begins.
			o := w.open[top]
			w.open = w.open[:top]
			r = range6{w.pos, o.last}
			if w.pos = o.last.next(); w.pos == (u128{}) {
				w.open = w.open[:0] // at the end of all addresses end all
			}
			if o.not || o.last.less(r.first) {
				continue
			}
			return r, true
		case !more:
			return r, false
		case top >= 0 && w.pos.less(addr):
			r = range6{w.pos, addr.prev()}
			w.pos = addr
			if !w.open[top].not {
				return r, true
			}
		default:
			w.pos = addr
			w.open = append(w.open, opened{addr.last(bits), not})
			w.next--
		}
	}
}

// Len returns the number of ranges.
func (r *Ranges) Len() int {
	if r == nil {
		return 0
	}
	return len(r.v4) + len(r.v6)
}

// Contains tells whether an address is in one of the ranges. An IPv4-mapped IPv6 address
// is an IPv4 address, a zone is ignored, the zero Addr is in none.
func (r *Ranges) Contains(a netip.Addr) bool {
	switch {
	case r == nil:
	case a.Is4() || a.Is4In6():
		b := a.As4()
		n := binary.BigEndian.Uint32(b[:])
		i := sort.Search(len(r.v4), func(i int) bool { return r.v4[i].last >= n })
		return i < len(r.v4) && r.v4[i].first <= n
	case a.Is6():
		n := number(a)
		i := sort.Search(len(r.v6), func(i int) bool { return !r.v6[i].last.less(n) })
		return i < len(r.v6) && !n.less(r.v6[i].first)
	}
	return false
}

// Parts returns the ranges cut into several of at most n, which share their memory.
func (r *Ranges) Parts(n int) iter.Seq[*Ranges] {
	return func(yield func(*Ranges) bool) {
		if r == nil {
			return
		}
		for p := *r; p.Len() > 0; {
			n4 := min(n, len(p.v4))
			n6 := min(n-n4, len(p.v6))
			if !yield(&Ranges{p.v4[:n4], p.v6[:n6]}) {
				return
			}
			p.v4, p.v6 = p.v4[n4:], p.v6[n6:]
		}
	}
}

// Ranges go from one process to another as chunks, each of one byte that says the
// family, 4 or 6, and ranges without gaps: the first and the last address.
const (
	wireRange4 = 4 + 4
	wireRange6 = 16 + 16
)

// Chunks returns the ranges in chunks of at most size bytes, which must have room for
// one range (33). Each is good only until the next. A [RangesLoader] makes the ranges
// from them again.
func (r *Ranges) Chunks(size int) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		if r.Len() == 0 {
			return
		}
		c := append(make([]byte, 0, max(size, 1+wireRange6)), 4)
		for _, x := range r.v4 {
			if len(c)+wireRange4 > cap(c) {
				if !yield(c) {
					return
				}
				c = c[:1]
			}
			c = binary.BigEndian.AppendUint32(c, x.first)
			c = binary.BigEndian.AppendUint32(c, x.last)
		}
		if len(c) > 1 && !yield(c) {
			return
		}
		c = append(c[:0], 6)
		for _, x := range r.v6 {
			if len(c)+wireRange6 > cap(c) {
				if !yield(c) {
					return
				}
				c = c[:1]
			}
			for _, n := range [...]u128{x.first, x.last} {
				c = binary.BigEndian.AppendUint64(c, n.hi)
				c = binary.BigEndian.AppendUint64(c, n.lo)
			}
		}
		if len(c) > 1 {
			yield(c)
		}
	}
}

// RangesLoader makes Ranges from chunks that come from elsewhere. It takes nothing on
// trust.
type RangesLoader struct {
	r    Ranges
	most int
	err  error
}

// NewRangesLoader returns a RangesLoader for at most so many ranges.
func NewRangesLoader(most int) *RangesLoader { return &RangesLoader{most: most} }

// Add adds the next chunk. After an error no ranges come of it any more.
func (l *RangesLoader) Add(chunk []byte) error {
	if l.err == nil {
		l.err = l.add(chunk)
	}
	return l.err
}

func (l *RangesLoader) add(chunk []byte) error {
	if len(chunk) < 2 {
		return errors.New("policy: chunk of no ranges")
	}
	family, c := chunk[0], chunk[1:]
	size := map[byte]int{4: wireRange4, 6: wireRange6}[family]
	switch {
	case size == 0 || len(c)%size != 0:
		return fmt.Errorf("policy: chunk of ranges of family %d with %d bytes", family, len(chunk))
	case len(c)/size > l.most-l.r.Len():
		return fmt.Errorf("policy: %w ranges, the limit is %d", ErrTooMany, l.most)
	case family == 4 && len(l.r.v6) > 0:
		return errors.New("policy: chunk of IPv4 ranges comes after IPv6 ranges")
	}
	for ; len(c) > 0; c = c[size:] {
		if family == 4 {
			x := range4{binary.BigEndian.Uint32(c), binary.BigEndian.Uint32(c[4:])}
			n := len(l.r.v4)
			if x.last < x.first || n > 0 && uint64(x.first) <= uint64(l.r.v4[n-1].last)+1 {
				return fmt.Errorf("policy: IPv4 range %d: %w", n, errRange)
			}
			l.r.v4 = append(l.r.v4, x)
			continue
		}
		x := range6{
			u128{binary.BigEndian.Uint64(c), binary.BigEndian.Uint64(c[8:])},
			u128{binary.BigEndian.Uint64(c[16:]), binary.BigEndian.Uint64(c[24:])},
		}
		n := len(l.r.v6)
		if x.last.less(x.first) || n > 0 && (!l.r.v6[n-1].last.less(x.first) || l.r.v6[n-1].last.next() == x.first) {
			return fmt.Errorf("policy: IPv6 range %d: %w", n, errRange)
		}
		l.r.v6 = append(l.r.v6, x)
	}
	return nil
}

var errRange = errors.New("ends before it begins, or touches the one before")

// Ranges returns what has come. The loader is of no further use.
func (l *RangesLoader) Ranges() (*Ranges, error) {
	if l.err != nil {
		return nil, l.err
	}
	r := l.r
	l.err = errors.New("policy: the ranges have been taken")
	return &r, nil
}
