package policy

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"sort"
)

// Set is a table: entries and negated entries in the order of DIOCRGETADDRS: IPv4 before IPv6,
// ascending by address, and of one address the longest prefix first. It never changes. A nil Set is
// empty.
//
// It is kept as the records in which it crosses from one process to another, each of the address (4 or
// 16 bytes), the prefix length (1) and the list with the sign as highest bit (2), most significant byte
// first.
type Set struct {
	lists   []string
	records [2][]byte  // of IPv4 and IPv6
	not     int        // negated entries
	lengths [2][]uint8 // of prefixes that there are, the longest first
}

// sizes are those of a record of IPv4 and IPv6.
var sizes = [2]int{4 + 3, 16 + 3}

const tagNot = 1 << 15

// Counts counts the entries of a Set.
type Counts struct {
	V4, V6 int // all entries of a family
	Not    int // negated entries of both
}

// Len returns the number of entries, negated ones included.
func (s *Set) Len() int {
	n := s.Counts()
	return n.V4 + n.V6
}

// Counts returns the number of entries by family and sign.
func (s *Set) Counts() Counts {
	if s == nil {
		return Counts{}
	}
	return Counts{V4: s.len(0), V6: s.len(1), Not: s.not}
}

// len returns the number of entries of a family.
func (s *Set) len(v6 uint8) int { return len(s.records[v6]) / sizes[v6] }

// At returns entry i. It panics unless 0 <= i < Len.
//
// The entry's List is the first of the lists that have this very prefix. If none has it, as where an
// allow list negates it, it is the first list that has a wider entry for it; if the set was aggregated,
// the first list of the first address in the prefix that is in the table. For a negated entry it is
// NoList.
func (s *Set) At(i int) Entry {
	if n := s.len(0); i >= n {
		return s.at(1, i-n)
	}
	return s.at(0, i)
}

// at returns entry i of a family.
func (s *Set) at(v6 uint8, i int) Entry {
	r := s.records[v6][i*sizes[v6]:][:sizes[v6]]
	n := len(r) - 3
	tag := binary.BigEndian.Uint16(r[n+1:])
	return Entry{addr: number(r[:n]), bits: r[n], v6: v6, List: ListID(tag &^ tagNot), Not: tag&tagNot != 0}
}

// append appends the record of e to b.
func (e *Entry) append(b []byte) []byte {
	if e.v6 == 0 {
		b = binary.BigEndian.AppendUint32(b, uint32(e.addr.hi>>32))
	} else {
		b = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, e.addr.hi), e.addr.lo)
	}
	tag := uint16(e.List)
	if e.Not {
		tag = uint16(NoList) | tagNot
	}
	return binary.BigEndian.AppendUint16(append(b, e.bits), tag)
}

// append adds an entry to a set in the making. The entries of a family come in the order of the sweep;
// order puts them into that of a set.
func (s *Set) append(e Entry) { s.records[e.v6] = e.append(s.records[e.v6]) }

// cut takes the entries of a family from place n on out of a set in the making, and returns them.
func (s *Set) cut(v6 uint8, n int) (es []Entry) {
	for i := n; i < s.len(v6); i++ {
		es = append(es, s.at(v6, i))
	}
	s.records[v6] = s.records[v6][:n*sizes[v6]]
	return es
}

// order reverses the entries of each address, so that the longest prefix comes first, and returns memory
// that is not needed.
func (s *Set) order() {
	var run []Entry // of one address
	for v6 := range uint8(2) {
		to := s.records[v6][:0]
		for i := range s.len(v6) {
			e := s.at(v6, i)
			if len(run) > 0 && e.addr != run[0].addr {
				to, run = appendReversed(to, run), run[:0]
			}
			run = append(run, e)
		}
		appendReversed(to, run)
		run = run[:0]
		if r := s.records[v6]; cap(r) > len(r)+len(r)/4 { // as when several lists have the same entries
			s.records[v6] = bytes.Clone(r)
		}
	}
	s.count()
}

func appendReversed(to []byte, run []Entry) []byte {
	for _, e := range slices.Backward(run) {
		to = e.append(to)
	}
	return to
}

// count counts the negated entries, and finds which lengths of prefixes there are.
func (s *Set) count() {
	for v6 := range uint8(2) {
		var seen [129]bool
		for i := range s.len(v6) {
			e := s.at(v6, i)
			seen[e.bits] = true
			if e.Not {
				s.not++
			}
		}
		for n, is := range slices.Backward(seen[:]) {
			if is {
				s.lengths[v6] = append(s.lengths[v6], uint8(n))
			}
		}
	}
}

// before reports whether a set has e before o, which is of the same family.
func (e *Entry) before(o *Entry) bool {
	c := e.addr.compare(o.addr)
	return c < 0 || c == 0 && e.bits > o.bits
}

// Lookup returns the entry that decides for an address as pf does, by the longest prefix, and the list
// it comes from, as [Set.At] returns it; ok reports whether the address is in the table. When a negated
// entry decides, ok is false and entry is that entry; when no entry does, entry is the zero Prefix and
// list is NoList. An IPv4-mapped IPv6 address is looked up as IPv4, a zone is ignored, the zero Addr is
// in no table. Lookup does not allocate.
func (s *Set) Lookup(a netip.Addr) (list ListID, entry netip.Prefix, ok bool) {
	if s == nil || !a.IsValid() {
		return NoList, netip.Prefix{}, false
	}
	a = a.Unmap()
	addr := NewEntry(netip.PrefixFrom(a, a.BitLen()), false, NoList)
	records, size := s.records[addr.v6], sizes[addr.v6]
	n, most := s.len(addr.v6), addr.bits
	for _, length := range s.lengths[addr.v6] {
		if length > most {
			continue
		}
		want := Entry{addr: addr.addr.first(length), bits: length}
		i := sort.Search(n, func(i int) bool {
			r := records[i*size:][:size]
			c := number(r[:size-3]).compare(want.addr)
			return c > 0 || c == 0 && r[size-3] <= length
		})
		// A wider entry around the address is also around one of the two at this place.
		most = 0
		if i < n {
			e := s.at(addr.v6, i)
			if e.bits == length && e.addr == want.addr {
				return e.List, e.Prefix(), !e.Not
			}
			most = e.addr.common(addr.addr)
		}
		if i > 0 {
			e := s.at(addr.v6, i-1)
			most = max(most, e.addr.common(addr.addr))
		}
	}
	return NoList, netip.Prefix{}, false
}

// All returns all entries in order, each with whether it is negated.
func (s *Set) All() iter.Seq2[netip.Prefix, bool] {
	return func(yield func(netip.Prefix, bool) bool) {
		if s == nil {
			return
		}
		for v6 := range uint8(2) {
			for i := range s.len(v6) {
				if e := s.at(v6, i); !yield(e.Prefix(), e.Not) {
					return
				}
			}
		}
	}
}

// Lists returns the names of all lists of the policy, block and allow, by ListID; the caller must not
// change them.
func (s *Set) Lists() []string {
	if s == nil {
		return nil
	}
	return s.lists
}

// Chunks returns the entries in chunks of at most size bytes (at least 20), each one byte for the family,
// 4 or 6, and records. A chunk is valid until the next. A [Loader] makes the set from them again.
func (s *Set) Chunks(size int) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		if s == nil {
			return
		}
		var chunk []byte
		for v6, family := range []byte{4, 6} {
			room := max(1, (size-1)/sizes[v6])
			for part := range slices.Chunk(s.records[v6], room*sizes[v6]) {
				if chunk = append(append(chunk[:0], family), part...); !yield(chunk) {
					return
				}
			}
		}
	}
}

// Sum returns a checksum (SHA-256) of the names of the lists and all entries. Sets with the same sum are
// the same, lists included.
func (s *Set) Sum() [sha256.Size]byte {
	h := sha256.New()
	n := s.Counts()
	fmt.Fprintf(h, "%q %d %d ", s.Lists(), n.V4, n.V6)
	if s != nil {
		h.Write(s.records[0])
		h.Write(s.records[1])
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// Loader makes a Set from chunks that another process sent, and checks everything.
type Loader struct {
	set  Set
	want [2]int // entries of each family
}

// NewLoader returns a Loader for a set with the given lists and numbers of entries (n.Not is ignored),
// of which there may be most. It allocates the memory for them at once.
func NewLoader(lists []string, n Counts, most int) (*Loader, error) {
	switch {
	case n.V4 < 0 || n.V6 < 0 || n.V4 > most || n.V6 > most-n.V4:
		return nil, fmt.Errorf("policy: set with %d and %d entries: %w, the limit is %d", n.V4, n.V6, ErrTooMany, most)
	case len(lists) > MaxLists:
		return nil, fmt.Errorf("policy: set of %d lists: %w, the limit is %d", len(lists), ErrTooMany, MaxLists)
	}
	l := &Loader{want: [2]int{n.V4, n.V6}, set: Set{lists: slices.Clone(lists)}}
	for v6, n := range l.want {
		l.set.records[v6] = make([]byte, 0, n*sizes[v6])
	}
	return l, nil
}

// Add adds the next chunk.
func (l *Loader) Add(chunk []byte) error {
	if len(chunk) == 0 || chunk[0] != 4 && chunk[0] != 6 || len(chunk)%sizes[chunk[0]/6] != 1 {
		return fmt.Errorf("policy: chunk of %d bytes: not the records of a family", len(chunk))
	}
	v6 := chunk[0] / 6
	if len(chunk)/sizes[v6] > l.want[v6]-l.set.len(v6) {
		return fmt.Errorf("policy: chunk has more than the %d IPv%d entries announced", l.want[v6], chunk[0])
	}
	l.set.records[v6] = append(l.set.records[v6], chunk[1:]...)
	return nil
}

// Set returns the set when all of it has come, is in order, and has the given sum. It returns it once.
func (l *Loader) Set(sum [sha256.Size]byte) (*Set, error) {
	s, n := l.set, l.set.Counts()
	if n.V4 != l.want[0] || n.V6 != l.want[1] {
		return nil, fmt.Errorf("policy: set has %d and %d entries, %d and %d were announced", n.V4, n.V6, l.want[0], l.want[1])
	}
	for v6 := range uint8(2) {
		var before Entry
		for i := range s.len(v6) {
			e := s.at(v6, i)
			if err := e.check(len(s.lists)); err != nil {
				return nil, fmt.Errorf("policy: IPv%d entry %d: %w", 4+2*v6, i, err)
			}
			if i > 0 && !before.before(&e) {
				return nil, fmt.Errorf("policy: IPv%d entry %d: out of order", 4+2*v6, i)
			}
			before = e
		}
	}
	if s.Sum() != sum {
		return nil, errors.New("policy: the checksum of the set differs from the one announced")
	}
	l.want[0] = -1
	s.count()
	return &s, nil
}

// check returns why e cannot be an entry of a set of so many lists.
func (e *Entry) check(lists int) error {
	switch {
	case e.bits > 32 && e.bits > 128*e.v6:
		return fmt.Errorf("prefix length %d", e.bits)
	case !e.covers(e.addr):
		return fmt.Errorf("bits set behind prefix length %d", e.bits)
	case int(e.List) >= lists && !(e.Not && e.List == NoList):
		return fmt.Errorf("list %d of %d", e.List, lists)
	}
	return nil
}
