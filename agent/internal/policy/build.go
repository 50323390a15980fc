package policy

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"slices"
)

// Kind is what a list is for.
type Kind uint8

const (
	Block Kind = iota // a list of addresses to be blocked
	Allow             // a list of addresses that no block list can block
)

// String returns "block" or "allow".
func (k Kind) String() string {
	if k == Allow {
		return "allow"
	}
	return "block"
}

// ListID names a list by its place in the lists given to [Build]. It indexes what [Set.Lists] returns.
type ListID uint16

const (
	// MaxLists is the number of lists that one policy may have.
	MaxLists = 254
	// NoList stands where no list is meant.
	NoList ListID = 1<<14 - 1
	// MaxRecords is the number of entries and exceptions that a policy is made from at most. It is far
	// above what a table of pf can hold.
	MaxRecords = 1<<25 - 2
)

// ErrTooMany is why [Build] fails when a limit on lists or entries is exceeded.
var ErrTooMany = errors.New("too many")

// Options are the limits and the form of a policy. The zero value sets no limits and leaves entries as
// they are listed.
type Options struct {
	// MinPrefixV4 and MinPrefixV6 are the shortest prefix lengths of entries that block: those of block
	// lists that are not negated. Wider ones are dropped and reported. Entries that allow may be of any
	// length.
	MinPrefixV4, MinPrefixV6 int
	// Aggregate asks for the smallest tables that give the same verdicts, instead of the entries as
	// they are listed.
	Aggregate bool
	// MaxEntries is the largest number of entries that one table may have; 0 means no limit.
	MaxEntries int
}

// List is a list as [Build] takes it.
type List struct {
	Name    string
	Kind    Kind
	Entries Entries
}

// Entries are prefixes, each with whether it is negated.
type Entries interface {
	Len() int
	All() iter.Seq2[netip.Prefix, bool]
}

// Prefixes are entries none of which is negated.
type Prefixes []netip.Prefix

// Len returns the number of entries.
func (ps Prefixes) Len() int { return len(ps) }

// All returns the entries.
func (ps Prefixes) All() iter.Seq2[netip.Prefix, bool] {
	return func(yield func(netip.Prefix, bool) bool) {
		for _, p := range ps {
			if !yield(p, false) {
				return
			}
		}
	}
}

// Policy is what a set of lists and exceptions means.
type Policy struct {
	// Block is the table of blocked addresses: what block lists list, less what allow lists and
	// exceptions cover. It may be empty; see [Guard].
	Block *Set
	// Allow is the table of allowed addresses: what allow lists list. Exceptions do not change it.
	Allow *Set
	// Report has what became of each list's entries.
	Report Report
}

// MaxNamed is how many dropped entries a [Report] names, and how many entries of each exception; all are
// counted.
const MaxNamed = 10_000

// Report is what became of the entries of all lists.
type Report struct {
	// Lists has the counts of each list, by ListID.
	Lists []ListReport
	// Excepted has the exceptions that made a difference: those that cover entries of block lists or
	// lie inside them. Sorted by prefix.
	Excepted []Excepted
	// Dropped names entries that were refused, by list and prefix; DroppedCount counts all of them.
	Dropped      []Dropped
	DroppedCount int
}

// ListReport counts the entries of one list.
type ListReport struct {
	Name string
	Kind Kind

	Entries  int // accepted
	Enforced int // of these: some or all of its addresses are in the table, and no list before has the prefix
	Excepted int // of these: inside an exception
	Allowed  int // of these: inside an entry of an allow list, with nothing left to block
	Dropped  int // not accepted; see Report.Dropped
}

// Others returns how many entries were accepted and are not enforced for another reason: they are
// negated, in the list twice or in one before it, or negated entries leave nothing of them.
func (l *ListReport) Others() int { return l.Entries - l.Enforced - l.Excepted - l.Allowed }

// Excepted is an exception that entries of block lists met.
type Excepted struct {
	Exception
	// Inside counts the listed entries that lie inside the exception and are not enforced for it.
	// Around counts the entries that are wider: the innermost one of each list that would have listed
	// the exception's addresses.
	Inside, Around int
	// Entries names them, those around first.
	Entries []Entry
}

func (x *Excepted) name(e Entry) {
	if len(x.Entries) < MaxNamed {
		x.Entries = append(x.Entries, e)
	}
}

// Dropped is an entry that was refused.
type Dropped struct {
	List   ListID
	Prefix netip.Prefix
	Not    bool
	Why    string
}

// Build returns the policy of the lists and the exceptions.
//
// In a list the longest entry around an address decides; if a list has an entry both ways, the negated
// one. The order of the lists matters only for reports: an entry that several lists have is counted for
// the first. An entry that is wider than the Options allow, or invalid, or has bits set behind its
// prefix, is dropped and reported. Bits are not masked, since that could turn a mistyped host into a
// network; where a format gives them no meaning (APL, RFC 3123), its reader masks them. An IPv4-mapped
// IPv6 prefix is taken as the IPv4 prefix that it stands for. Bits of an exception behind its prefix are
// ignored; the same network again changes nothing.
//
// Build fails if a limit is exceeded (then errors.Is(err, ErrTooMany)), and if an exception is invalid,
// since it must not get lost. An empty policy is no error: see [Guard].
func Build(lists []List, exceptions []Exception, o Options) (*Policy, error) {
	if len(lists) > MaxLists {
		return nil, fmt.Errorf("policy: %d lists: %w, a policy has %d at most", len(lists), ErrTooMany, MaxLists)
	}
	n := len(exceptions)
	for _, l := range lists {
		n += l.Entries.Len()
	}
	if n > MaxRecords {
		return nil, fmt.Errorf("policy: %w entries: %d, a policy is made from %d at most", ErrTooMany, n, MaxRecords)
	}
	p := &Policy{}
	names := make([]string, len(lists))
	entries := make([]Entry, 0, n)
	for i, l := range lists {
		names[i] = l.Name
		p.Report.Lists = append(p.Report.Lists, ListReport{Name: l.Name, Kind: l.Kind})
		entries = p.Report.accept(entries, ListID(i), l, o)
	}
	excepted, entries, err := except(exceptions, entries)
	if err != nil {
		return nil, err
	}
	// IPv4 first: a compare of families in the sort would take longer.
	v4 := 0
	for i := range entries {
		if entries[i].v6 == 0 {
			entries[i], entries[v4] = entries[v4], entries[i]
			v4++
		}
	}
	sortEntries(entries[:v4])
	sortEntries(entries[v4:])
	entries = slices.CompactFunc(entries, func(e, before Entry) bool { // a negated one comes first
		return e.List == before.List && e.samePrefix(&before)
	})
	for kind, to := range []**Set{&p.Block, &p.Allow} {
		s := &sweep{kind: Kind(kind), lists: p.Report.Lists, to: &Set{lists: names}}
		if s.kind == Block {
			s.exceptions = excepted
		} else {
			entries = slices.DeleteFunc(entries, func(e Entry) bool { return e.List == NoList || lists[e.List].Kind == Block })
		}
		if o.Aggregate {
			s.smallest = new(smallest)
		}
		s.table(entries)
		if n := s.to.Len(); o.MaxEntries > 0 && n > o.MaxEntries {
			return nil, fmt.Errorf("policy: %v table: %w entries: %d, the limit is %d", s.kind, ErrTooMany, n, o.MaxEntries)
		}
		*to = s.to
	}
	for _, x := range excepted {
		if x.Inside+x.Around > 0 {
			p.Report.Excepted = append(p.Report.Excepted, x)
		}
	}
	return p, nil
}

// accept appends the entries of a list to entries, and reports those that it drops.
func (r *Report) accept(entries []Entry, id ListID, l List, o Options) []Entry {
	report, first := &r.Lists[id], len(r.Dropped)
	for p, not := range l.Entries.All() {
		e, why := o.accept(p, not, l.Kind)
		if why == "" {
			e.List = id
			report.Entries++
			entries = append(entries, e)
			continue
		}
		report.Dropped++
		r.DroppedCount++
		if len(r.Dropped) < MaxNamed {
			r.Dropped = append(r.Dropped, Dropped{id, p, not, why})
		}
	}
	// A server may send its entries in another order each time.
	slices.SortFunc(r.Dropped[first:], func(a, b Dropped) int { return comparePrefixes(a.Prefix, b.Prefix) })
	return entries
}

// accept returns the entry of a list, or why it is refused.
func (o *Options) accept(p netip.Prefix, not bool, k Kind) (e Entry, why string) {
	p = unmap(p)
	least := o.MinPrefixV6
	if p.Addr().Is4() {
		least = o.MinPrefixV4
	}
	switch {
	case !p.IsValid():
		return e, "invalid"
	case p.Bits() < least && k == Block && !not:
		return e, fmt.Sprintf("wider than /%d", least)
	}
	if e = NewEntry(p, not, NoList); e.addr.first(e.bits) != e.addr {
		return e, fmt.Sprintf("bits set behind /%d", p.Bits())
	}
	return e, ""
}

// except returns the exceptions in order, each network once, and appends them to entries.
func except(exceptions []Exception, entries []Entry) ([]Excepted, []Entry, error) {
	all := make([]Excepted, 0, len(exceptions))
	for _, x := range exceptions {
		c := canonical(x.Prefix)
		if !c.IsValid() {
			return nil, nil, fmt.Errorf("policy: exception %v (%s): not a valid prefix", x.Prefix, x.Why)
		}
		all = append(all, Excepted{Exception: Exception{c, x.Why}})
	}
	slices.SortStableFunc(all, func(a, b Excepted) int { return comparePrefixes(a.Prefix, b.Prefix) })
	all = slices.CompactFunc(all, func(a, b Excepted) bool { return a.Prefix == b.Prefix })
	for _, x := range all {
		entries = append(entries, NewEntry(x.Prefix, false, NoList))
	}
	return all, entries, nil
}

// comparePrefixes orders prefixes: IPv4 before IPv6, by address, and the shortest of an address first.
func comparePrefixes(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}
