package policy

import (
	"iter"
	"net/netip"
	"slices"
)

// Set is a table: entries and negated entries, sorted as DIOCRGETADDRS
// returns them: IPv4 before IPv6, ascending by address, and of one address
// the longest prefix first. It never changes. A nil Set is empty.
//
// It takes 7 bytes an IPv4 entry and 19 an IPv6 entry.
type Set struct {
	lists []string

	// Columns: address, prefix length, sign and list. They are made once and
	// never written again.
	addr4 []uint32
	bits4 []uint8
	tag4  []tag
	addr6 []u128
	bits6 []uint8
	tag6  []tag

	not int // negated entries
}

// tag is a ListID, and whether the entry is negated.
type tag uint16

const tagNot tag = 1 << 15

func newTag(l ListID, not bool) tag {
	if not {
		return tag(l) | tagNot
	}
	return tag(l)
}

func (t tag) list() ListID { return ListID(t &^ tagNot) }
func (t tag) not() bool    { return t&tagNot != 0 }

// Counts counts the entries of a Set.
type Counts struct {
	V4, V6 int // all entries of a family
	Not    int // negated entries of both
}

// Len returns the number of entries, negated ones included.
func (s *Set) Len() int {
	if s == nil {
		return 0
	}
	return len(s.addr4) + len(s.addr6)
}

// Counts returns the number of entries by family and sign.
func (s *Set) Counts() Counts {
	if s == nil {
		return Counts{}
	}
	return Counts{V4: len(s.addr4), V6: len(s.addr6), Not: s.not}
}

// At returns entry i, and whether it is negated. It panics unless 0 <= i <
// Len.
func (s *Set) At(i int) (p netip.Prefix, not bool) {
	if i < len(s.addr4) {
		return prefix4(s.addr4[i], s.bits4[i]), s.tag4[i].not()
	}
	i -= len(s.addr4)
	return prefix6(s.addr6[i], s.bits6[i]), s.tag6[i].not()
}

// All returns all entries in order, each with whether it is negated.
func (s *Set) All() iter.Seq2[netip.Prefix, bool] {
	return func(yield func(netip.Prefix, bool) bool) {
		if s == nil {
			return
		}
		for i, a := range s.addr4 {
			if !yield(prefix4(a, s.bits4[i]), s.tag4[i].not()) {
				return
			}
		}
		for i, a := range s.addr6 {
			if !yield(prefix6(a, s.bits6[i]), s.tag6[i].not()) {
				return
			}
		}
	}
}

// ListOf returns the list that entry i comes from: the first in order of
// those that list this very prefix. Where none does, as for entries restated
// or aggregated, it is the first that lists the first address in it that is
// in the table. For a negated entry it is about the first address in it that
// is not: the first allow list that lists it, else the first list that
// negates it, and NoList when it is excepted or when no list says anything of
// it. It panics unless 0 <= i < Len.
func (s *Set) ListOf(i int) ListID {
	if i < len(s.addr4) {
		return s.tag4[i].list()
	}
	return s.tag6[i-len(s.addr4)].list()
}

// Lists returns the names of all lists of the policy, block and allow, by
// ListID; the caller must not change them.
func (s *Set) Lists() []string {
	if s == nil {
		return nil
	}
	return s.lists
}

// Equal reports whether both sets have the same entries with the same signs,
// which is what a table in the kernel has. Lists do not matter.
func (s *Set) Equal(o *Set) bool {
	if s == o || s.Len() == 0 && o.Len() == 0 {
		return true
	}
	if s.Counts() != o.Counts() {
		return false
	}
	sameSign := func(a, b tag) bool { return a.not() == b.not() }
	return slices.Equal(s.addr4, o.addr4) && slices.Equal(s.bits4, o.bits4) &&
		slices.Equal(s.addr6, o.addr6) && slices.Equal(s.bits6, o.bits6) &&
		slices.EqualFunc(s.tag4, o.tag4, sameSign) && slices.EqualFunc(s.tag6, o.tag6, sameSign)
}

func (s *Set) append4(a uint32, n uint8, t tag) {
	s.addr4 = append(s.addr4, a)
	s.bits4 = append(s.bits4, n)
	s.tag4 = append(s.tag4, t)
	if t.not() {
		s.not++
	}
}

func (s *Set) append6(a u128, n uint8, t tag) {
	s.addr6 = append(s.addr6, a)
	s.bits6 = append(s.bits6, n)
	s.tag6 = append(s.tag6, t)
	if t.not() {
		s.not++
	}
}

func (s *Set) grow4(n int) {
	s.addr4 = slices.Grow(s.addr4, n)
	s.bits4 = slices.Grow(s.bits4, n)
	s.tag4 = slices.Grow(s.tag4, n)
}

func (s *Set) grow6(n int) {
	s.addr6 = slices.Grow(s.addr6, n)
	s.bits6 = slices.Grow(s.bits6, n)
	s.tag6 = slices.Grow(s.tag6, n)
}

// trim gives back what grow4 and grow6 took in vain.
func (s *Set) trim() {
	s.addr4, s.bits4, s.tag4 = trim(s.addr4), trim(s.bits4), trim(s.tag4)
	s.addr6, s.bits6, s.tag6 = trim(s.addr6), trim(s.bits6), trim(s.tag6)
}

func trim[E any](c []E) []E {
	if cap(c)-len(c) <= len(c)/16+64 {
		return c
	}
	return append(make([]E, 0, len(c)), c...)
}
