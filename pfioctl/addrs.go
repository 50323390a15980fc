package pfioctl

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"unsafe"
)

// Addrs is an array of table entries as the kernel takes and returns them, in
// memory outside of the garbage-collected heap: 52 bytes an entry. [Addrs.Close]
// gives it back; a forgotten one stays until the process ends. It is not safe
// for concurrent use.
type Addrs struct {
	a      array
	fed    bool // an answer has left feedback in it
	closed bool
}

// NewAddrs returns an empty array with room for capacity entries; it grows as
// needed, by doubling. Capacity is bounded by what the kernel counts, 2^31-1,
// and by the address space.
func NewAddrs(capacity int) (*Addrs, error) {
	a := &Addrs{a: array{esize: sizeofPfrAddr}}
	if capacity != 0 {
		if err := a.a.grow(capacity); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// raw returns element i as the kernel's struct.
func (a *Addrs) raw(i int) *PfrAddr {
	if uint(i) >= uint(a.a.n) {
		panic(fmt.Sprintf("pfioctl: entry %d of %d", i, a.a.n))
	}
	return a.slot(i)
}

func (a *Addrs) slot(i int) *PfrAddr {
	return (*PfrAddr)(unsafe.Pointer(&a.a.mem[i*sizeofPfrAddr]))
}

// Append adds an entry. It refuses what the kernel would refuse, so that the
// error can name the entry: the kernel only says EINVAL to the whole request.
func (a *Addrs) Append(e Addr) error {
	if a.a.n == a.a.room {
		if err := a.double(); err != nil {
			return err
		}
	}
	if !a.slot(a.a.n).put(e.Prefix, e.Not) {
		return checkAddr(e)
	}
	a.a.n++
	return nil
}

func (a *Addrs) double() error {
	if a.closed {
		return errClosed
	}
	return a.a.double()
}

// Len returns the number of entries.
func (a *Addrs) Len() int { return a.a.n }

// At returns entry i, and panics if there is none.
func (a *Addrs) At(i int) Addr {
	p, not := a.raw(i).addr()
	return Addr{p, not}
}

// Feedback returns what the kernel said of entry i in the last request that
// asked for it, and panics if there is no such entry.
func (a *Addrs) Feedback(i int) Feedback { return a.raw(i).Fback }

// All returns the entries in order. The array must not be changed meanwhile.
func (a *Addrs) All() iter.Seq[Addr] {
	return func(yield func(Addr) bool) {
		for i := range a.a.n {
			p, not := a.raw(i).addr()
			if !yield(Addr{p, not}) {
				return
			}
		}
	}
}

// ClearFeedback forgets the feedback. SetAddrs does so by itself before it
// sends the array: the kernel refuses entries whose feedback is not zero.
func (a *Addrs) ClearFeedback() {
	for i := range a.a.n {
		a.slot(i).Fback = FeedbackNone
	}
	a.fed = false
}

// Keep drops the entries for which f, given their place and asked in order,
// says no. The others move up and keep their order and feedback; during the
// call At and Feedback of the place asked about are those of before.
func (a *Addrs) Keep(f func(i int) bool) {
	k := 0
	for i := range a.a.n {
		if !f(i) {
			continue
		}
		if k != i {
			*a.slot(k) = *a.slot(i)
		}
		k++
	}
	a.a.n = k
}

// Reset drops all entries and keeps the room.
func (a *Addrs) Reset() {
	a.a.n = 0
	a.fed = false
}

// Close gives the memory back. The array is empty afterwards and takes no
// entries. It may be closed twice.
func (a *Addrs) Close() error {
	a.closed = true
	return a.a.close()
}

// reverse turns the order around.
func (a *Addrs) reverse() {
	for i, j := 0, a.a.n-1; i < j; i, j = i+1, j-1 {
		x, y := a.slot(i), a.slot(j)
		*x, *y = *y, *x
	}
}

// sort puts the entries into the order of PF.Get, if they are not in it.
func (a *Addrs) sort() {
	raw := unsafe.Slice((*PfrAddr)(a.a.pointer()), a.a.n)
	cmp := func(x, y PfrAddr) int {
		if x.AF != y.AF {
			return int(x.AF) - int(y.AF)
		}
		if c := bytes.Compare(x.Addr[:], y.Addr[:]); c != 0 {
			return c
		}
		return int(y.Net) - int(x.Net)
	}
	if !slices.IsSortedFunc(raw, cmp) {
		slices.SortFunc(raw, cmp)
	}
}

// put writes an entry, all of its bytes as there may be an earlier answer, and
// reports whether the kernel would take it (pf_table.c: pfr_validate_addr). The
// rules for the family, the length and `not` hold for every netip.Prefix that
// is valid, which leaves the host bits. A prefix never has a zone.
//
// It takes and addr returns the two members of an Addr, which has too many
// words to be handed over in registers.
func (p *PfrAddr) put(prefix netip.Prefix, not bool) bool {
	ip, n := prefix.Addr(), prefix.Bits()
	if n < 0 {
		return false
	}
	*p = PfrAddr{}
	p.Net = uint8(n)
	if not {
		p.Not = 1
	}
	if ip.Is4() {
		p.AF = AFInet
		b := ip.As4()
		*(*[4]byte)(p.Addr[:]) = b // the other twelve must be zero
		return binary.BigEndian.Uint32(b[:])<<uint(n) == 0
	}
	p.AF = AFInet6
	b := ip.As16()
	p.Addr = b
	hi, lo := binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])
	if n >= 64 {
		return lo<<uint(n-64) == 0
	}
	return hi<<uint(n)|lo == 0
}

// checkAddr says what is wrong with an entry that put refuses, nil for others.
func checkAddr(e Addr) error {
	switch {
	case !e.Prefix.IsValid():
		return fmt.Errorf("entry %v: not a prefix", e.Prefix)
	case e.Prefix != e.Prefix.Masked():
		return fmt.Errorf("entry %v: host bits are set, the network is %v", e, Addr{e.Prefix.Masked(), e.Not})
	}
	return nil
}

// addr returns the entry, the zero Prefix for what is none.
func (p *PfrAddr) addr() (prefix netip.Prefix, not bool) {
	switch p.AF {
	case AFInet:
		ip := netip.AddrFrom4([4]byte(p.Addr[:4]))
		return netip.PrefixFrom(ip, int(p.Net)), p.Not != 0
	case AFInet6:
		ip := netip.AddrFrom16(p.Addr)
		return netip.PrefixFrom(ip, int(p.Net)), p.Not != 0
	}
	return netip.Prefix{}, false
}
