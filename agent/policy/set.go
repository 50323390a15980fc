package policy

import (
	"iter"
	"net/netip"
)

// Set is a table: entries and negated entries, sorted as DIOCRGETADDRS returns
// them, IPv4 before IPv6, ascending by address, and of one address the longest
// prefix first. It never changes. A nil Set is empty.
type Set struct {
	lists []string
}

// Counts counts the entries of a Set.
type Counts struct {
	V4, V6 int // all entries of a family
	Not    int // negated entries of both
}

// Len returns the number of entries, negated ones included.
func (s *Set) Len() int { return 0 }

// Counts returns the number of entries by family and sign.
func (s *Set) Counts() Counts { return Counts{} }

// At returns entry i, and whether it is negated.
func (s *Set) At(i int) (p netip.Prefix, not bool) { return }

// All returns all entries in order, each with whether it is negated.
func (s *Set) All() iter.Seq2[netip.Prefix, bool] { return func(func(netip.Prefix, bool) bool) {} }

// ListOf returns the list that named entry i: the first in order of those
// that have it. A restated entry has the first list that lists its first address. A
// negated entry has the allow list, or the list that negated it, or NoList
// where an exception took its first address out.
func (s *Set) ListOf(i int) ListID { return NoList }

// Lists returns the names of the policy's lists, block and allow, by ListID.
func (s *Set) Lists() []string { return nil }

// Equal reports whether both sets have the same entries with the same signs. The lists do not matter.
func (s *Set) Equal(o *Set) bool { return false }
