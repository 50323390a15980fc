package dnsfetch

import (
	"encoding/binary"
	"iter"
	"net/netip"
	"slices"
	"time"
)

// Entry is one element of a list: a network, and whether the list negates it. A negated entry
// says that the addresses it covers are not on the list although a wider entry covers them (RFC
// 3123 §4).
type Entry struct {
	Prefix netip.Prefix // masked; a host has /32 or /128
	Not    bool
}

// String gives e as RFC 3123 §5 would without the family: "192.0.2.0/24", "!192.0.2.1/32".
func (e Entry) String() string {
	if e.Not {
		return "!" + e.Prefix.String()
	}
	return e.Prefix.String()
}

// Layout says which records a list was made of.
type Layout uint8

// The layouts, in the order in which they are tried.
const (
	LayoutParts     Layout = 1 + iota // PTR records at the name, APL records at each part
	LayoutAPL                         // APL records at the name
	LayoutAddresses                   // A and AAAA records at the name and its siblings
)

// String names the record types of the layout.
func (l Layout) String() string {
	switch l {
	case LayoutParts:
		return "PTR+APL"
	case LayoutAPL:
		return "APL"
	case LayoutAddresses:
		return "A+AAAA"
	}
	return "unknown"
}

// List is one fetched list. It is complete, and does not change. Its entries are what the
// server sent, repetitions included, in no particular order.
type List struct {
	Name     string        // as requested
	Server   string        // the server that gave all of it, as [Client.Server] spells it
	Layout   Layout        // the records it was made of
	Parts    int           // names whose records make up the list: parts, or the name and the siblings in use
	Restarts int           // how many times the list changed while it was fetched and was begun again
	Bytes    int64         // bytes received from Server, length prefixes and restarts included
	Elapsed  time.Duration // the whole fetch, servers that failed included
	Failed   []*Error      // servers that failed before Server took over, in the order tried; usually nil

	n  int
	v4 [][]uint64   // see packV4
	v6 [][]v6packed // see packV6
}

// Len returns the number of entries.
func (l *List) Len() int { return l.n }

// All returns the entries. It may be ranged over any number of times, also concurrently.
func (l *List) All() iter.Seq[Entry] {
	// An Entry is made here and not in unpackV4: it has too many words to be returned in
	// registers, and to write it to memory and read it again would take longer than all else.
	return func(yield func(Entry) bool) {
		for _, chunk := range l.v4 {
			for _, packed := range chunk {
				p, not := unpackV4(packed)
				if !yield(Entry{p, not}) {
					return
				}
			}
		}
		for _, chunk := range l.v6 {
			for i := range chunk {
				p, not := unpackV6(&chunk[i])
				if !yield(Entry{p, not}) {
					return
				}
			}
		}
	}
}

// SameEntries reports whether l and o have the same entries in the same order. Servers may
// give the same list in another order, and then it says no.
func (l *List) SameEntries(o *List) bool {
	return l == o || l.n == o.n && sameChunks(l.v4, o.v4) && sameChunks(l.v6, o.v6)
}

// sameChunks compares two arrays in pieces, wherever they were cut.
func sameChunks[T comparable](a, b [][]T) bool {
	var x, y []T
	for {
		for len(x) == 0 && len(a) > 0 {
			x, a = a[0], a[1:]
		}
		for len(y) == 0 && len(b) > 0 {
			y, b = b[0], b[1:]
		}
		n := min(len(x), len(y))
		if n == 0 {
			return len(x) == len(y)
		}
		if !slices.Equal(x[:n], y[:n]) {
			return false
		}
		x, y = x[n:], y[n:]
	}
}

// take moves the entries of c into l.
func (l *List) take(c *columns) {
	l.n += c.n
	l.v4 = append(l.v4, c.v4.all()...)
	l.v6 = append(l.v6, c.v6.all()...)
	*c = columns{}
}

// Entries are kept as 8 bytes (IPv4) and 18 bytes (IPv6): a list of millions of entries has to
// fit in the memory of a small firewall beside the policy made of it.

func packV4(addr uint32, bits uint8, not bool) uint64 {
	p := uint64(addr)<<32 | uint64(bits)<<1
	if not {
		p |= 1
	}
	return p
}

func unpackV4(p uint64) (prefix netip.Prefix, not bool) {
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], uint32(p>>32))
	return netip.PrefixFrom(netip.AddrFrom4(a), int(p>>1&0x3f)), p&1 != 0
}

// v6packed is the address, the prefix length, and 1 for a negated entry.
type v6packed [18]byte

func unpackV6(p *v6packed) (prefix netip.Prefix, not bool) {
	return netip.PrefixFrom(netip.AddrFrom16([16]byte(p[:16])), int(p[16])), p[17] != 0
}

// chunkLen is the number of entries in a full chunk. Growing by chunks neither copies nor
// leaves the old half of a doubled array behind as garbage.
const chunkLen = 8192

// columns collects entries.
type columns struct {
	n  int
	v4 chunks[uint64]
	v6 chunks[v6packed]
}

func (c *columns) addV4(addr uint32, bits uint8, not bool) {
	c.v4.add(packV4(addr, bits, not))
	c.n++
}

func (c *columns) addV6(e v6packed) {
	c.v6.add(e)
	c.n++
}

// chunks is an array in pieces.
type chunks[T any] struct {
	last []T // being filled
	full [][]T
}

func (c *chunks[T]) add(e T) {
	if len(c.last) == cap(c.last) {
		c.grow()
	}
	c.last = append(c.last, e)
}

// grow makes room for at least one more. The first chunk grows from small, for the lists of
// three entries.
func (c *chunks[T]) grow() {
	switch n := len(c.last); {
	case n == chunkLen:
		c.full = append(c.full, c.last)
		c.last = make([]T, 0, chunkLen)
	case n == 0:
		c.last = make([]T, 0, 64)
	default:
		c.last = append(make([]T, 0, min(4*n, chunkLen)), c.last...)
	}
}

// all returns the pieces, with nothing to spare in the last.
func (c *chunks[T]) all() [][]T {
	if len(c.last) == 0 {
		return c.full
	}
	return append(c.full, append(make([]T, 0, len(c.last)), c.last...))
}
