package policy

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
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
	// MaxLists is the number of lists that one policy may have.
	MaxLists = 254
	// NoList stands where no list is meant: see [Set.ListOf].
	NoList ListID = 1<<14 - 1
)

// MaxRecords is the number of entries and exceptions of one family that a
// Builder takes. It is far above what a table of pf can hold.
const MaxRecords = 1<<25 - 2

// ErrTooMany is what Build fails with when a limit on lists or entries is
// passed.
var ErrTooMany = errors.New("too many")

// Options are the limits and the form of a policy. The zero value sets no
// limits and leaves entries as they are listed.
type Options struct {
	// MinPrefixV4 and MinPrefixV6 are the shortest prefix lengths taken from
	// a list, of either kind. Wider entries are dropped and reported.
	// Exceptions may be as wide as they like.
	MinPrefixV4, MinPrefixV6 int
	// Aggregate asks for the smallest tables that say the same, instead of
	// the entries as they are listed.
	Aggregate bool
	// MaxEntries is the largest number of entries that one table may have; 0
	// means no limit.
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
//
// It takes 8 bytes for each IPv4 entry and 24 for each IPv6 entry, and once
// more as much while Build sorts them.
type Builder struct {
	opt        Options
	report     Report
	ids        map[listKey]ListID
	entries    [2][2]int // by Kind, and by family: IPv4, IPv6
	heap4      heap[record4]
	heap6      heap[record6]
	exceptions []Exception
	err        error // the first misuse or passed limit; Build's error
}

type listKey struct {
	name string
	kind Kind
}

// NewBuilder returns an empty Builder.
func NewBuilder(o Options) *Builder {
	return &Builder{opt: o, ids: make(map[listKey]ListID)}
}

// List returns the id of the list with this name and kind, whether new or
// known already. The order of the first calls is the order of the lists: an
// entry that several lists have is said to come from the first of them.
func (b *Builder) List(name string, k Kind) ListID {
	key := listKey{name, k}
	if id, ok := b.ids[key]; ok {
		return id
	}
	switch {
	case b.ids == nil: // used
		return NoList
	case k > Allow:
		b.fail(fmt.Errorf("policy: list %s: no such kind of list: %v", name, k))
		return NoList
	case len(b.report.Lists) == MaxLists:
		b.fail(fmt.Errorf("policy: list %s: %w lists, a policy has %d at most", name, ErrTooMany, MaxLists))
		return NoList
	}
	b.report.Lists = append(b.report.Lists, ListReport{Name: name, Kind: k})
	id := ListID(len(b.report.Lists) - 1)
	b.ids[key] = id
	return id
}

// Add adds an entry to a list: the list has the addresses of p, or with not
// set has them not, unless a longer entry of the same list says otherwise.
// Where a list has an entry both ways the negated one stands, whatever the
// order.
//
// An entry that is wider than the Options allow, or invalid, or has bits set
// behind its prefix, is dropped and reported. Bits are not masked here, for
// that could turn a host with a slip of the pen into a network; who reads a
// format in which they mean nothing (APL, RFC 3123) masks them. An
// IPv4-mapped IPv6 prefix is taken for the IPv4 prefix that it stands for.
func (b *Builder) Add(id ListID, p netip.Prefix, not bool) {
	if int(id) >= len(b.report.Lists) {
		b.fail(fmt.Errorf("policy: entry %v: list %d is not known", p, id))
		return
	}
	l := &b.report.Lists[id]
	given := p
	if p.Addr().Is4In6() {
		if p = unmap(p); p.Addr().Is4() {
			b.report.Unmapped++
		}
	}
	family, least := 1, b.opt.MinPrefixV6
	if p.Addr().Is4() {
		family, least = 0, b.opt.MinPrefixV4
	}
	var addr u128
	var why string
	switch {
	case !p.IsValid():
		why = "invalid"
	case p.Bits() < least:
		why = fmt.Sprintf("wider than /%d", least)
	default:
		if addr = number(p.Addr()); addr.trailingZeros() < 128-p.Bits() {
			why = fmt.Sprintf("bits set behind /%d", p.Bits())
		}
	}
	if why != "" {
		l.Dropped++
		b.report.DroppedCount++
		if len(b.report.Dropped) < Keep {
			b.report.Dropped = append(b.report.Dropped, Dropped{id, given, not, why})
		}
		return
	}
	l.Entries++
	b.entries[l.Kind][family]++
	b.record(family, addr, newMeta(uint8(p.Bits()), id.owner(), !not))
}

// Except adds a network no address of which may be blocked, and why. Bits
// behind the prefix are ignored, an IPv4-mapped IPv6 prefix is taken as IPv4.
// The same network again changes nothing. An invalid prefix makes Build fail,
// since an exception must not get lost.
func (b *Builder) Except(p netip.Prefix, why string) {
	c := canonical(p)
	if !c.IsValid() {
		b.fail(fmt.Errorf("policy: exception %v (%s): not a valid prefix", p, why))
		return
	}
	b.exceptions = append(b.exceptions, Exception{c, why})
}

// record notes an entry or exception of a family: 0 is IPv4, 1 IPv6.
func (b *Builder) record(family int, addr u128, m meta) {
	if b.err != nil {
		return
	}
	if family == 0 {
		b.heap4.add(newRecord4(addr.to4(), m))
	} else {
		b.heap6.add(record6{addr, m})
	}
	if max(b.heap4.n, b.heap6.n) > MaxRecords {
		b.fail(fmt.Errorf("policy: %w entries of one family, a policy is made from %d at most", ErrTooMany, MaxRecords))
		b.heap4, b.heap6 = heap[record4]{}, heap[record6]{}
	}
}

func (b *Builder) fail(err error) {
	if b.err == nil {
		b.err = err
	}
}

// Build returns the policy. It uses the Builder up: what was added is gone
// afterwards. It fails when a limit is passed (then errors.Is(err,
// ErrTooMany)) and when the Builder was used wrongly: an unknown list, an
// invalid exception. A policy that is empty is no error here.
func (b *Builder) Build() (*Policy, error) {
	exceptions := b.exceptions
	slices.SortStableFunc(exceptions, func(x, y Exception) int {
		return cmp.Or(x.Prefix.Addr().Compare(y.Prefix.Addr()), cmp.Compare(x.Prefix.Bits(), y.Prefix.Bits()))
	})
	exceptions = slices.CompactFunc(exceptions, func(x, y Exception) bool { return x.Prefix == y.Prefix })
	met := make([]Excepted, len(exceptions))
	six := len(exceptions) // the first IPv6 one
	for i, x := range exceptions {
		met[i].Exception = x
		family := 0
		if x.Prefix.Addr().Is6() {
			family, six = 1, min(six, i)
		}
		b.record(family, number(x.Prefix.Addr()), newMeta(uint8(x.Prefix.Bits()), 0, true))
	}
	if b.err != nil {
		return nil, b.err
	}

	families := [2]records{{r4: sorted4(&b.heap4)}, {r6: sorted6(&b.heap6)}}
	names := make([]string, len(b.report.Lists))
	for i, l := range b.report.Lists {
		names[i] = l.Name
	}
	p := &Policy{Block: &Set{lists: names}, Allow: &Set{lists: names}}
	for i, m := range [2][]Excepted{met[:six:six], met[six:]} {
		b.table(p.Block, Block, families, i, m, &b.report.Block)
		b.table(p.Allow, Allow, families, i, nil, &b.report.Allow)
	}
	p.Block.trim()
	p.Allow.trim()
	if err := errors.Join(b.fits(p.Block, Block), b.fits(p.Allow, Allow)); err != nil {
		return nil, err
	}
	for _, x := range met {
		if x.Inside+x.Around > 0 {
			b.report.Excepted = append(b.report.Excepted, x)
		}
	}
	p.Report = b.report
	*b = Builder{err: errors.New("policy: the builder has been used")}
	return p, nil
}

// table puts what the records of one family mean into the table of a kind.
func (b *Builder) table(to *Set, k Kind, families [2]records, family int, met []Excepted, r *TableReport) {
	n := b.entries[k][family]
	if n == 0 {
		return
	}
	owners := len(b.report.Lists) + 1
	s := sweep{
		records:    families[family],
		subject:    make([]bool, owners),
		veto:       make([]bool, owners),
		says:       make([]state, owners),
		seen:       make([]bool, owners),
		lists:      b.report.Lists,
		table:      r,
		exceptions: met,
	}
	for i, l := range b.report.Lists {
		s.subject[i+1] = l.Kind == k
		s.veto[i+1] = l.Kind == Allow && k == Block
	}
	if family == 0 {
		s.grow = to.grow4
		s.put = func(e entry) { to.append4(e.addr.to4(), e.bits, newTag(e.list, e.verdict == out)) }
	} else {
		s.grow = to.grow6
		s.put = func(e entry) { to.append6(e.addr, e.bits, newTag(e.list, e.verdict == out)) }
	}
	if b.opt.Aggregate {
		s.smallestTable()
		return
	}
	s.grow(n)
	s.entriesAsListed()
}

func (b *Builder) fits(s *Set, k Kind) error {
	if most := b.opt.MaxEntries; most > 0 && s.Len() > most {
		return fmt.Errorf("policy: %v table: %w entries: %d, the limit is %d", k, ErrTooMany, s.Len(), most)
	}
	return nil
}
