package policy

import (
	"fmt"
	"net/netip"
)

// Kind says what a list is for.
type Kind uint8

const (
	// Block is a list of addresses to be blocked.
	Block Kind = iota
	// Allow is a list of addresses that no block list can block.
	Allow
)

// String returns "block" or "allow".
func (k Kind) String() string {
	switch k {
	case Block:
		return "block"
	case Allow:
		return "allow"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// ListID names a list by its place in the order in which [Builder.List] saw
// them. It indexes what [Set.Lists] returns.
type ListID uint16

const (
	// MaxLists is the number of lists one policy may have.
	MaxLists = 1<<14 - 1
	// NoList is the ListID of a negated entry that no list named, but an exception.
	NoList ListID = 1<<14 - 1
)

// Options are the limits and the form of a policy. The zero value sets no
// limits and lets entries be as they were listed.
type Options struct {
	// MinPrefixV4 and MinPrefixV6 are the shortest prefix lengths taken from a
	// list. Wider entries are dropped and reported. Exceptions may have any width.
	MinPrefixV4, MinPrefixV6 int
	// Aggregate asks for the smallest tables that say the same, instead of
	// the entries as they were listed.
	Aggregate bool
	// MaxEntries is the largest number of entries that one table may have;
	// 0 means no limit.
	MaxEntries int
}

// Policy is what a set of lists and exceptions means.
type Policy struct {
	// Block is the table of blocked addresses: what block lists list, less
	// what allow lists and exceptions cover. It may be empty; see [Guard].
	Block *Set
	// Allow is the table of allowed addresses: what allow lists list.
	// Exceptions do not change it.
	Allow *Set
	// Report tells what became of each list's entries.
	Report Report
}

// Builder collects entries and exceptions. Make one with [NewBuilder].
type Builder struct {
	opt   Options
	lists []list
}

type list struct {
	name string
	kind Kind
}

// NewBuilder returns an empty Builder.
func NewBuilder(o Options) *Builder { return &Builder{opt: o} }

// List returns the id of the list with this name and kind, new or known
// already. The order of first calls is the order of the lists: an entry that several
// lists name is said to come from the first of them.
func (b *Builder) List(name string, k Kind) ListID {
	for i, l := range b.lists {
		if l.name == name && l.kind == k {
			return ListID(i)
		}
	}
	b.lists = append(b.lists, list{name, k})
	return ListID(len(b.lists) - 1)
}

// Add adds an entry to a list: p is listed, or with not set is not, unless a
// longer entry of the same list says otherwise.
func (b *Builder) Add(id ListID, p netip.Prefix, not bool) {}

// Except adds a network no address of which may be blocked, and why. Bits
// behind the prefix are ignored.
func (b *Builder) Except(p netip.Prefix, why string) {}

// Build returns the policy. The Builder is used up by it: it can neither be added to nor built again.
func (b *Builder) Build() (*Policy, error) { return nil, fmt.Errorf("policy: not built yet") }
