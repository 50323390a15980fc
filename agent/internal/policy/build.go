package policy

import (
	"iter"
	"net/netip"
)

// List is the input that Build takes of one list.
type List struct {
	Name    string
	Kind    Kind
	Entries Entries
}

// Entries are prefixes, and for each whether it is negated.
type Entries interface {
	Len() int
	All() iter.Seq2[netip.Prefix, bool]
}

// None is an empty list.
type None struct{ _ byte }

// Len returns 0.
func (*None) Len() int { return 0 }

// All returns nothing.
func (*None) All() iter.Seq2[netip.Prefix, bool] { return func(func(netip.Prefix, bool) bool) {} }

// Build returns the policy of the lists and the exceptions. The order of the lists matters only for
// reports: an entry that several lists have is counted for the first of them. It fails when a limit is
// exceeded (then errors.Is(err, ErrTooMany)) and when an exception is invalid. An empty policy is no
// error here: see Guard.
func Build(lists []List, exceptions []Exception, o Options) (*Policy, error) {
	b := NewBuilder(o)
	for _, l := range lists {
		id := b.List(l.Name, l.Kind)
		for p, not := range l.Entries.All() {
			b.Add(id, p, not)
		}
	}
	for _, x := range exceptions {
		b.Except(x.Prefix, x.Why)
	}
	return b.Build()
}
