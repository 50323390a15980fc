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
)

// Set is a table: entries and negated entries in the order of DIOCRGETADDRS: IPv4 before IPv6,
// ascending by address, and of one address the longest prefix first. It never changes. A nil Set is
// empty.
//
// It is kept as the records in which it crosses from one process to another, each of the address (4 or
// 16 bytes), the prefix length (1) and the list with the sign as highest bit (2), most significant byte
// first.
type Set struct {
	lists  []string
	v4, v6 []byte
	not    int // negated entries
}

const (
	size4, size6 = 4 + 1 + 2, 16 + 1 + 2 // of a record

	tagNot = 1 << 15
)

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
	return Counts{V4: len(s.v4) / size4, V6: len(s.v6) / size6, Not: s.not}
}

// At returns entry i. It panics unless 0 <= i < Len.
//
// The entry's List is the first of the lists that have this very prefix. If none has it, as where an
// allow list negates it, it is the first list that has a wider entry for it; if the set was aggregated,
// the first list of the first address in the prefix that is in the table. For a negated entry it is
// NoList.
func (s *Set) At(i int) Entry {
	if r := i * size4; r < len(s.v4) {
		return decode(s.v4[r : r+size4])
	}
	r := (i - len(s.v4)/size4) * size6
	return decode(s.v6[r : r+size6])
}

// decode returns the entry of a record.
func decode(r []byte) Entry {
	n := len(r) - 3
	e := Entry{addr: address(r[:n]), bits: r[n], v6: n == 16}
	tag := binary.BigEndian.Uint16(r[n+1:])
	e.List, e.Not = ListID(tag&^tagNot), tag&tagNot != 0
	return e
}

// address returns the address that a record begins with.
func address(b []byte) u128 {
	if len(b) == 4 {
		return u128{hi: uint64(binary.BigEndian.Uint32(b)) << 32}
	}
	return u128{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])}
}

// family returns the records of a family, and the size of each.
func (s *Set) family(v6 bool) (records *[]byte, size int) {
	if v6 {
		return &s.v6, size6
	}
	return &s.v4, size4
}

// append adds an entry to a set in the making. The entries of a family come in the order of the sweep;
// order puts them into that of a set.
func (s *Set) append(e Entry) {
	tag := uint16(e.List)
	if e.Not {
		tag = uint16(NoList) | tagNot
	}
	records, _ := s.family(e.v6)
	if e.v6 {
		*records = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(*records, e.addr.hi), e.addr.lo)
	} else {
		*records = binary.BigEndian.AppendUint32(*records, uint32(e.addr.hi>>32))
	}
	*records = binary.BigEndian.AppendUint16(append(*records, e.bits), tag)
}

// len returns the number of entries of a family.
func (s *Set) len(v6 bool) int {
	records, size := s.family(v6)
	return len(*records) / size
}

// cut takes the entries of a family from place n on out of a set in the making, and returns them.
func (s *Set) cut(v6 bool, n int) (es []Entry) {
	records, size := s.family(v6)
	for r := range slices.Chunk((*records)[n*size:], size) {
		es = append(es, decode(r))
	}
	*records = (*records)[:n*size]
	return es
}

// order reverses the entries of each address, so that the longest prefix comes first, counts the negated
// ones, and returns memory that is not needed.
func (s *Set) order() {
	for _, v6 := range []bool{false, true} {
		records, size := s.family(v6)
		r := *records
		for lo, hi := 0, 0; lo < len(r); lo = hi {
			for hi = lo; hi < len(r) && bytes.Equal(r[hi:hi+size-3], r[lo:lo+size-3]); hi += size {
				s.not += int(r[hi+size-2] >> 7)
			}
			for i, j := lo, hi-size; i < j; i, j = i+size, j-size {
				for k := range size {
					r[i+k], r[j+k] = r[j+k], r[i+k]
				}
			}
		}
		if cap(r) > len(r)+len(r)/4 { // as when several lists have the same entries
			*records = bytes.Clone(r)
		}
	}
}

// All returns all entries in order, each with whether it is negated.
func (s *Set) All() iter.Seq2[netip.Prefix, bool] {
	return func(yield func(netip.Prefix, bool) bool) {
		for i := range s.Len() {
			if e := s.At(i); !yield(e.Prefix(), e.Not) {
				return
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
		size = max(size, 1+size6)
		for _, f := range []struct {
			family  byte
			records []byte
			size    int
		}{{4, s.v4, size4}, {6, s.v6, size6}} {
			for part := range slices.Chunk(f.records, (size-1)/f.size*f.size) {
				chunk = append(append(chunk[:0], f.family), part...)
				if !yield(chunk) {
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
	names, n := s.Lists(), s.Counts()
	fmt.Fprintf(h, "%q %d %d ", names, n.V4, n.V6)
	if s != nil {
		h.Write(s.v4)
		h.Write(s.v6)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// Loader makes a Set from chunks that another process sent. It checks everything.
type Loader struct {
	set  Set
	want Counts
	err  error
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
	return &Loader{want: n, set: Set{lists: slices.Clone(lists), v4: make([]byte, 0, n.V4*size4), v6: make([]byte, 0, n.V6*size6)}}, nil
}

// Add adds the next chunk. After an error no set can be made.
func (l *Loader) Add(chunk []byte) error {
	if l.err == nil {
		l.err = l.add(chunk)
	}
	return l.err
}

func (l *Loader) add(chunk []byte) error {
	if len(chunk) == 0 {
		return errors.New("policy: chunk is empty")
	}
	s, family, chunk := &l.set, chunk[0], chunk[1:]
	to, size := s.family(family != 4)
	room, most := l.want.V6, uint8(128)
	if family == 4 {
		room, most = l.want.V4, 32
	}
	n := len(*to) / size
	switch {
	case family != 4 && family != 6 || len(chunk)%size != 0:
		return fmt.Errorf("policy: chunk of family %d with %d bytes", family, 1+len(chunk))
	case family == 4 && len(s.v6) > 0:
		return errors.New("policy: chunk of IPv4 entries comes after IPv6 entries")
	case len(chunk)/size > room-n:
		return fmt.Errorf("policy: chunk has more than the %d IPv%d entries announced", room, family)
	}
	*to = append(*to, chunk...)
	for ; n < len(*to)/size; n++ {
		e, err := decode((*to)[n*size:][:size]), error(nil)
		switch {
		case e.bits > most:
			err = fmt.Errorf("prefix length %d", e.bits)
		case !e.covers(e.addr):
			err = fmt.Errorf("bits set behind prefix length %d", e.bits)
		case int(e.List) >= len(s.lists) && !(e.Not && e.List == NoList):
			err = fmt.Errorf("list %d of %d", e.List, len(s.lists))
		case n > 0 && !decode((*to)[(n-1)*size:][:size]).before(e):
			err = errors.New("out of order")
		}
		if err != nil {
			return fmt.Errorf("policy: IPv%d entry %d: %w", family, n, err)
		}
		if e.Not {
			s.not++
		}
	}
	return nil
}

// before reports whether a set may have e before o, which is of the same family.
func (e Entry) before(o Entry) bool {
	return e.addr.less(o.addr) || e.addr == o.addr && e.bits > o.bits
}

// Set returns the set when all of it has come and has the given sum.
func (l *Loader) Set(sum [sha256.Size]byte) (*Set, error) {
	n := l.set.Counts()
	switch {
	case l.err != nil:
		return nil, l.err
	case n.V4 != l.want.V4 || n.V6 != l.want.V6:
		l.err = fmt.Errorf("policy: set has %d and %d entries, %d and %d were announced", n.V4, n.V6, l.want.V4, l.want.V6)
		return nil, l.err
	case l.set.Sum() != sum:
		l.err = errors.New("policy: the checksum of the set differs from the one announced")
		return nil, l.err
	}
	s := l.set
	l.err = errors.New("policy: the set has been taken")
	return &s, nil
}
