package policy

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
)

// A Set goes from one process to another as chunks of its columns. A chunk is
// one byte that says the family, 4 or 6, and entries without gaps: the
// address (4 or 16 bytes), the prefix length (1), the list with the sign as
// highest bit (2); all of them with the most significant byte first.
const (
	wire4 = 4 + 1 + 2
	wire6 = 16 + 1 + 2
)

// Chunks returns the entries in chunks of at most size bytes, which must have
// room for one entry (20). Each is good only until the next. A [Loader] makes
// the set from them again.
func (s *Set) Chunks(size int) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		if s.Len() == 0 {
			return
		}
		c := make([]byte, 0, max(size, 1+wire6))
		c = append(c, 4)
		for i, a := range s.addr4 {
			if len(c)+wire4 > cap(c) {
				if !yield(c) {
					return
				}
				c = append(c[:0], 4)
			}
			c = binary.BigEndian.AppendUint32(c, a)
			c = append(c, s.bits4[i])
			c = binary.BigEndian.AppendUint16(c, uint16(s.tag4[i]))
		}
		if len(c) > 1 && !yield(c) {
			return
		}
		c = append(c[:0], 6)
		for i, a := range s.addr6 {
			if len(c)+wire6 > cap(c) {
				if !yield(c) {
					return
				}
				c = append(c[:0], 6)
			}
			c = binary.BigEndian.AppendUint64(c, a.hi)
			c = binary.BigEndian.AppendUint64(c, a.lo)
			c = append(c, s.bits6[i])
			c = binary.BigEndian.AppendUint16(c, uint16(s.tag6[i]))
		}
		if len(c) > 1 {
			yield(c)
		}
	}
}

// Sum returns a checksum (SHA-256) over the names of the lists and all
// entries. Sets with the same sum are the same, lists included.
func (s *Set) Sum() [sha256.Size]byte {
	h := sha256.New()
	names := s.Lists()
	b := binary.BigEndian.AppendUint64(nil, uint64(len(names)))
	for _, n := range names {
		b = binary.BigEndian.AppendUint64(b, uint64(len(n)))
		b = append(b, n...)
	}
	n := s.Counts()
	b = binary.BigEndian.AppendUint64(b, uint64(n.V4))
	b = binary.BigEndian.AppendUint64(b, uint64(n.V6))
	h.Write(b)
	// The bounds of chunks must not matter: without their first bytes they
	// are what they hold.
	for c := range s.Chunks(1 << 12) {
		h.Write(c[1:])
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// Loader makes a Set from chunks that come from elsewhere. It takes nothing
// on trust.
type Loader struct {
	set  Set
	want Counts
	err  error
}

// NewLoader returns a Loader for a set with the given lists and numbers of
// entries, n.Not aside, of which there may be most in all. It takes the
// memory for them at once.
func NewLoader(lists []string, n Counts, most int) (*Loader, error) {
	switch {
	case n.V4 < 0 || n.V6 < 0 || n.V4 > most || n.V6 > most-n.V4 || max(n.V4, n.V6) > MaxRecords:
		return nil, fmt.Errorf("policy: set with %d and %d entries: %w, the limit is %d", n.V4, n.V6, ErrTooMany, min(most, MaxRecords))
	case len(lists) > MaxLists:
		return nil, fmt.Errorf("policy: set of %d lists: %w, the limit is %d", len(lists), ErrTooMany, MaxLists)
	}
	l := &Loader{want: n}
	l.set.lists = append(l.set.lists, lists...)
	l.set.grow4(n.V4)
	l.set.grow6(n.V6)
	return l, nil
}

// Add adds the next chunk. After an error no set comes of it any more.
func (l *Loader) Add(chunk []byte) error {
	if l.err == nil {
		l.err = l.add(chunk)
	}
	return l.err
}

func (l *Loader) add(chunk []byte) error {
	s := &l.set
	if len(chunk) == 0 {
		return errors.New("policy: chunk is empty")
	}
	family, c := chunk[0], chunk[1:]
	switch {
	case family == 4 && len(c)%wire4 == 0:
		if len(s.addr6) > 0 {
			return errors.New("policy: chunk of IPv4 entries comes after IPv6 entries")
		}
		if len(c)/wire4 > l.want.V4-len(s.addr4) {
			return fmt.Errorf("policy: chunk has more than the %d IPv4 entries announced", l.want.V4)
		}
		for ; len(c) > 0; c = c[wire4:] {
			a, n, t := binary.BigEndian.Uint32(c), c[4], tag(binary.BigEndian.Uint16(c[5:]))
			var before u128
			var bitsBefore uint8
			last := len(s.addr4) - 1
			if last >= 0 {
				before, bitsBefore = from4(s.addr4[last]), s.bits4[last]
			}
			if err := l.check(from4(a), n, t, 32, last >= 0, before, bitsBefore); err != nil {
				return fmt.Errorf("policy: IPv4 entry %d: %w", last+1, err)
			}
			s.append4(a, n, t)
		}
	case family == 6 && len(c)%wire6 == 0:
		if len(c)/wire6 > l.want.V6-len(s.addr6) {
			return fmt.Errorf("policy: chunk has more than the %d IPv6 entries announced", l.want.V6)
		}
		for ; len(c) > 0; c = c[wire6:] {
			a := u128{binary.BigEndian.Uint64(c), binary.BigEndian.Uint64(c[8:])}
			n, t := c[16], tag(binary.BigEndian.Uint16(c[17:]))
			var before u128
			var bitsBefore uint8
			last := len(s.addr6) - 1
			if last >= 0 {
				before, bitsBefore = s.addr6[last], s.bits6[last]
			}
			if err := l.check(a, n, t, 128, last >= 0, before, bitsBefore); err != nil {
				return fmt.Errorf("policy: IPv6 entry %d: %w", last+1, err)
			}
			s.append6(a, n, t)
		}
	default:
		return fmt.Errorf("policy: chunk of family %d with %d bytes", family, len(chunk))
	}
	return nil
}

func (l *Loader) check(a u128, bits uint8, t tag, most uint8, follows bool, before u128, bitsBefore uint8) error {
	switch {
	case bits > most:
		return fmt.Errorf("prefix length %d", bits)
	case a.trailingZeros() < 128-int(bits):
		return fmt.Errorf("bits set behind prefix length %d", bits)
	case follows && (a.less(before) || a == before && bits >= bitsBefore):
		return errors.New("out of order")
	case int(t.list()) >= len(l.set.lists) && !(t.not() && t.list() == NoList):
		return fmt.Errorf("list %d of %d", t.list(), len(l.set.lists))
	}
	return nil
}

// Set returns the set, when all of it has come and its sum is the one given.
func (l *Loader) Set(sum [sha256.Size]byte) (*Set, error) {
	n := l.set.Counts()
	switch {
	case l.err != nil:
		return nil, l.err
	case n.V4 != l.want.V4 || n.V6 != l.want.V6:
		l.err = fmt.Errorf("policy: set has %d and %d entries, announced were %d and %d", n.V4, n.V6, l.want.V4, l.want.V6)
		return nil, l.err
	case l.set.Sum() != sum:
		l.err = errors.New("policy: checksum of the set is another than announced")
		return nil, l.err
	}
	s := l.set
	l.err = errors.New("policy: the set has been taken")
	return &s, nil
}
