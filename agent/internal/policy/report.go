package policy

import "net/netip"

// Keep is how many entries a [Report] names of each kind; all are counted.
const Keep = 20

// Report tells what became of the entries of all lists.
type Report struct {
	// Lists has the counts of each list, indexed by ListID.
	Lists []ListReport
	// Excepted has the exceptions that made a difference: those that cover
	// entries of block lists or lie inside them. Sorted by prefix.
	Excepted []Excepted
	// Dropped names the first Keep entries that were refused; DroppedCount
	// counts all of them.
	Dropped      []Dropped
	DroppedCount int
	// Unmapped counts the entries that were given as IPv4-mapped IPv6
	// prefixes (::ffff:192.0.2.1) and taken for the IPv4 prefixes they stand
	// for: pf never meets such a source or destination in IPv6.
	Unmapped int
	// Block and Allow count what was put into the tables beside listed
	// entries.
	Block, Allow TableReport
}

// TableReport counts the entries of a table by where they come from. The sum
// is the table's length. With Options.Aggregate no entry is as listed.
type TableReport struct {
	Listed   int // as listed
	Restated int // positive entries that no list has like this, but that the match needs
	Not      int // negated entries
}

// ListReport counts the entries of one list. Entries is the sum of those
// below it.
type ListReport struct {
	Name string
	Kind Kind

	Entries    int // accepted by Add
	Enforced   int // of these addresses some or all are in the table; the entry counts for this list
	Shared     int // the same prefix, listed by a list before this one
	Duplicates int // the same entry once more in this list
	Conflicts  int // listed and negated in this list: the negated entry stands
	Negated    int // negated entries
	Excepted   int // inside an exception
	Allowed    int // inside an entry of an allow list, with nothing left to block
	Covered    int // exceptions, allow lists and negated entries together leave nothing

	Dropped int // not accepted by Add; see Report.Dropped
}

// Excepted is an exception that entries of block lists met.
type Excepted struct {
	Exception
	// Inside counts the listed entries that lie inside the exception and are
	// not enforced for it. Around counts the entries that are wider: the
	// innermost one of each list that would have listed the exception's
	// addresses.
	Inside, Around int
	// Entries names the first Keep of them.
	Entries []Listed
}

// Listed is an entry and the list that has it.
type Listed struct {
	List   ListID
	Prefix netip.Prefix
}

// Dropped is an entry that was refused.
type Dropped struct {
	List   ListID
	Prefix netip.Prefix
	Not    bool
	Why    string
}
