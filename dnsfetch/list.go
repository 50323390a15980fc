package dnsfetch

import (
	"iter"
	"net/netip"
	"slices"
	"time"
)

// Layout says which records a list was made of.
type Layout uint8

// The layouts, in the order in which they are tried.
const (
	LayoutParts     Layout = 1 + iota // PTR records at the name, APL records at each part
	LayoutAPL                         // APL records at the name
	LayoutAddresses                   // A and AAAA records at the name and its siblings
)

// String returns the record types of the layout.
func (l Layout) String() string {
	return [...]string{"unknown", "PTR+APL", "APL", "A+AAAA"}[l&3]
}

// List is one fetched list. It is complete, and must not be changed. Its entries are what the server
// sent, repetitions included, in no particular order.
type List struct {
	Name     string        // as requested
	Server   string        // the server that gave all of it: "192.0.2.1:53", "dns.example.net[192.0.2.1]:53"
	Layout   Layout        // the records it was made of
	Parts    int           // names whose records make up the list: parts, or the name and the siblings in use
	Restarts int           // how many times the list changed while it was fetched and was fetched again
	Bytes    int64         // bytes received from Server, length prefixes and restarts included
	Elapsed  time.Duration // the whole fetch, servers that failed included
	Failed   []*Error      // servers that failed before Server was tried, in that order; usually nil
	Chunks   [][]Entry     // the entries, as one slice for each answer
}

// Len returns the number of entries.
func (l *List) Len() int {
	n := 0
	for _, c := range l.Chunks {
		n += len(c)
	}
	return n
}

// All returns the network of each entry, and whether the list negates it.
func (l *List) All() iter.Seq2[netip.Prefix, bool] {
	return func(yield func(netip.Prefix, bool) bool) {
		for _, c := range l.Chunks {
			for _, e := range c {
				if !yield(e.Prefix(), e.Not) {
					return
				}
			}
		}
	}
}

// SameEntries reports whether l and o have the same entries in the same order. A server may give the
// same list in another order; the result is false then.
func (l *List) SameEntries(o *List) bool {
	return l == o || slices.EqualFunc(l.Chunks, o.Chunks, slices.Equal[[]Entry])
}
