package pfioctl

import (
	"bytes"
	"fmt"
	"iter"
	"math"
	"net/netip"
	"slices"
	"time"
	"unsafe"

	"example.org/threatstopd/pfioctl/internal/abi"
)

// Addrs is the array of entries that [PF.SetAddrs] sends, in the kernel's form and in
// memory outside of the garbage-collected heap: 52 bytes an entry. [Addrs.Close]
// frees it; a forgotten one stays until the process ends. It is not safe for
// concurrent use.
type Addrs struct{ a array }

// NewAddrs returns an empty array with room for capacity entries; it grows as
// needed, by doubling. Capacity is bounded by what the kernel counts, 2^31-1,
// and by the address space.
func NewAddrs(capacity int) (*Addrs, error) {
	a := &Addrs{array{esize: abi.SizeofPfrAddr}}
	if err := a.a.grow(capacity); err != nil {
		return nil, err
	}
	return a, nil
}

// Append adds an entry. It refuses what the kernel would refuse (pf_table.c:
// pfr_validate_addr), so that the error can name the entry: the kernel only answers
// EINVAL to the whole request.
func (a *Addrs) Append(p netip.Prefix, not bool) error {
	switch {
	case !p.IsValid():
		return fmt.Errorf("entry %v: not a prefix", p)
	case p != p.Masked():
		return fmt.Errorf("entry %v: host bits are set, the network is %v", Addr{p, not}, Addr{p.Masked(), not})
	}
	if n := a.a.n; n == a.a.room {
		if err := a.a.grow(max(n+1, min(2*n, math.MaxInt32), 1024)); err != nil {
			return err
		}
	}
	// All bytes are written, as there may be an earlier entry. What follows the four
	// bytes of an IPv4 address must be zero.
	e := a.slot(a.a.n)
	*e = abi.PfrAddr{AF: abi.AFInet6, Net: uint8(p.Bits())}
	if ip := p.Addr(); ip.Is4() {
		e.AF = abi.AFInet
		*(*[4]byte)(e.Addr[:]) = ip.As4()
	} else {
		e.Addr = ip.As16()
	}
	if not {
		e.Not = 1
	}
	a.a.n++
	return nil
}

// Fill puts the entries that seq yields, each a prefix and whether it is negated, into
// the array instead of those in it.
func (a *Addrs) Fill(seq iter.Seq2[netip.Prefix, bool]) error {
	a.a.n = 0
	for p, not := range seq {
		if err := a.Append(p, not); err != nil {
			return err
		}
	}
	return nil
}

// Len returns the number of entries.
func (a *Addrs) Len() int { return a.a.n }

// Close frees the memory. The array is empty afterwards and takes no entries. It may
// be closed twice.
func (a *Addrs) Close() error { return a.a.close() }

func (a *Addrs) slot(i int) *abi.PfrAddr { return (*abi.PfrAddr)(unsafe.Pointer(&a.a.at(i)[0])) }

// decodeAddr reads an entry; the Prefix is zero if it has no address.
func decodeAddr(e *abi.PfrAddr) Addr {
	var ip netip.Addr
	switch e.AF {
	case abi.AFInet:
		ip = netip.AddrFrom4([4]byte(e.Addr[:4]))
	case abi.AFInet6:
		ip = netip.AddrFrom16(e.Addr)
	default:
		return Addr{}
	}
	return Addr{netip.PrefixFrom(ip, int(e.Net)), e.Not != 0}
}

// Delta counts what a change did, or in a comparison would do: entries added,
// deleted, and those whose negation was flipped.
type Delta struct {
	Added, Deleted, Changed int
}

// Zero reports whether nothing was to be done.
func (d Delta) Zero() bool { return d == Delta{} }

// SetAddrs makes a table hold exactly the entries of the array, in one step for
// packets (DIOCRSETADDRS). Of equal prefixes in the array the first decides.
// Entries that stay keep their counters; changed ones lose them.
//
// New entries are allocated before old ones are freed, so what all tables hold
// and what is new have to stay within the table-entries limit together. If they
// do not the error wraps ENOMEM and the table is as it was.
//
// The kernel stops all packets while it works, about the time it takes to look
// up each entry: do not call it to change nothing.
func (p *PF) SetAddrs(t Table, a *Addrs) (Delta, error) { return p.setAddrs(t, a, 0) }

// Compare returns what SetAddrs would do and changes nothing (PFR_FLAG_DUMMY). A
// descriptor for reading is enough, and it fails as SetAddrs would: at the limit, on a
// const table, without the table.
func (p *PF) Compare(t Table, a *Addrs) (Delta, error) { return p.setAddrs(t, a, abi.FlagDummy) }

func (p *PF) setAddrs(t Table, a *Addrs, flags abi.RequestFlags) (Delta, error) {
	const op = "set addresses"
	err := t.check(true)
	if err == nil && a.a.closed {
		err = errClosed
	}
	if err != nil {
		return Delta{}, fail(op, t, 0, err)
	}
	// Size2 stays zero: it would ask for the deleted entries behind the array,
	// and if they did not fit, the kernel would change nothing and call that
	// success.
	io := t.request(flags, &a.a)
	if err := p.tableRequest(p.l.Req.SetAddrs, io); err != nil {
		return Delta{}, p.failLimit(op, t, a.Len(), LimitTableEntries, err)
	}
	return Delta{Added: int(io.Nadd), Deleted: int(io.Ndel), Changed: int(io.Nchange)}, nil
}

// Set is SetAddrs of the entries that seq yields, each a prefix and whether it is
// negated. The hint n is how many there will be, 0 if that is not known; the memory
// fits them exactly when it is right.
func (p *PF) Set(t Table, n int, seq iter.Seq2[netip.Prefix, bool]) (Delta, error) {
	a, err := NewAddrs(n)
	if err != nil {
		return Delta{}, fail("set addresses", t, 0, err)
	}
	defer a.Close()
	if err := a.Fill(seq); err != nil {
		return Delta{}, fail("set addresses", t, 0, err)
	}
	return p.SetAddrs(t, a)
}

// Add adds entries and returns how many were not there before. An entry that is
// there with the other negation stays as it is, and makes the error wrap
// [ErrConflict]; the others are added all the same.
//
// Since 7.1 the kernel allocates an entry for each element sent, and at the
// table-entries limit it waits for one to become free: without end, not to be
// killed, and with the lock that every other request needs, pfctl's too. Add
// therefore reads the limit and what is in use, and refuses with [ErrLimit]
// what would come to it. Another process may still add between that and the
// request; SetAddrs never waits.
func (p *PF) Add(t Table, addrs ...Addr) (added int, err error) {
	const op = "add addresses"
	io, err := p.edit(op, t, addrs, p.l.Req.AddAddrs, func(n int) error {
		limit, err := p.Limit(LimitTableEntries)
		if err != nil {
			return fail(op, t, n, err)
		}
		used, _, err := p.Used()
		if err != nil {
			return fail(op, t, n, err)
		}
		if used+n >= limit {
			return &Error{Op: op, Table: t, Count: n, Err: ErrLimit, Used: used, Limit: limit, limit: LimitTableEntries}
		}
		return nil
	})
	return int(io.Nadd), err
}

// Delete deletes entries and returns how many there were. Only the very prefix
// is meant: 10.0.0.0/24 does not delete the hosts in it. An entry that is there
// with the other negation stays, and makes the error wrap [ErrConflict].
func (p *PF) Delete(t Table, addrs ...Addr) (deleted int, err error) {
	io, err := p.edit("delete addresses", t, addrs, p.l.Req.DelAddrs, func(int) error { return nil })
	return int(io.Ndel), err
}

// edit sends entries, each prefix once, if allow returns nil for their number. The
// releases do not agree on which of two equal prefixes counts, so they must not differ
// in their negation. Without entries no request is made.
func (p *PF) edit(op string, t Table, addrs []Addr, req uint, allow func(n int) error) (io abi.PfiocTable, err error) {
	if err := t.check(true); err != nil {
		return io, fail(op, t, 0, err)
	}
	a, err := NewAddrs(len(addrs))
	if err != nil {
		return io, fail(op, t, 0, err)
	}
	defer a.Close()
	sent := make(map[netip.Prefix]Addr, len(addrs))
	for _, e := range addrs {
		first, ok := sent[e.Prefix]
		switch {
		case !ok:
			sent[e.Prefix] = e
			err = a.Append(e.Prefix, e.Not)
		case first != e:
			err = fmt.Errorf("entries %v and %v: one prefix cannot be both", first, e)
		}
		if err != nil {
			return io, fail(op, t, 0, err)
		}
	}
	if a.Len() == 0 {
		return io, nil
	}
	if err := allow(a.Len()); err != nil {
		return io, err
	}
	io = *t.request(abi.FlagFeedback, &a.a)
	if err := p.tableRequest(req, &io); err != nil {
		return io, p.failLimit(op, t, a.Len(), LimitTableEntries, err)
	}
	// The kernel answers an add in reverse order since 7.1, with `not` and the unused
	// bytes left over from others: only address, length and code can be believed, and
	// the entry meant is found by them.
	var left []Addr
	for i := range a.Len() {
		if e := a.slot(i); e.Fback == abi.FeedbackConflict {
			left = append(left, sent[decodeAddr(e).Prefix])
		}
	}
	switch {
	case len(left) == 1:
		err = fail(op, t, len(addrs), fmt.Errorf("entry %v: %w", left[0], ErrConflict))
	case len(left) > 1:
		err = fail(op, t, len(addrs), fmt.Errorf("entry %v and %d others: %w", left[0], len(left)-1, ErrConflict))
	}
	return io, err
}

// Clear empties a table and returns how many entries it had.
func (p *PF) Clear(t Table) (deleted int, err error) {
	err = t.check(true)
	io := t.request(0, &array{})
	if err == nil {
		err = p.tableRequest(p.l.Req.ClrAddrs, io)
	}
	if err != nil {
		return 0, fail("clear", t, 0, err)
	}
	return int(io.Ndel), nil
}

// List is what a request listed, as the kernel wrote it: in memory outside of the
// garbage-collected heap, 52 bytes an entry and 160 with counters. [List.Close] frees it.
type List[E any] struct {
	a      array
	decode func(element []byte) E
}

// Len returns the number of elements.
func (l *List[E]) Len() int { return l.a.n }

// All returns the elements in their order, each decoded as it is reached.
func (l *List[E]) All() iter.Seq[E] {
	return func(yield func(E) bool) {
		for i := 0; i < l.a.n && yield(l.decode(l.a.at(i))); i++ {
		}
	}
}

// Close frees the memory; the list is empty afterwards. It may be closed twice.
func (l *List[E]) Close() error { return l.a.close() }

// slice returns all elements, and closes the list.
func (l *List[E]) slice() []E {
	defer l.Close()
	return slices.AppendSeq(make([]E, 0, l.Len()), l.All())
}

// Get returns the entries of a table as a slice: see [PF.List].
func (p *PF) Get(t Table) ([]Addr, error) {
	l, err := p.List(t)
	if err != nil {
		return nil, err
	}
	return l.slice(), nil
}

// List returns the entries of a table: IPv4 before IPv6, ascending by address,
// for one address the longest prefix first. They are of one moment.
//
// Once [PF.Pledged] was called it asks what SetAddrs to nothing would delete, which is
// the only request that the promise "pf" allows for it; then a const table is EPERM.
func (p *PF) List(t Table) (*List[Addr], error) {
	pledged := p.pledged.Load()
	l := &List[Addr]{array{esize: abi.SizeofPfrAddr}, func(b []byte) Addr {
		return decodeAddr((*abi.PfrAddr)(unsafe.Pointer(&b[0])))
	}}
	err := t.check(pledged)
	switch {
	case err == nil && pledged:
		err = p.listDeleted(t, &l.a)
	case err == nil:
		err = p.list(p.l.Req.GetAddrs, t, 0, &l.a)
	}
	if err != nil {
		l.Close()
		return nil, fail("get addresses", t, 0, err)
	}
	return l, nil
}

// listDeleted fills a with what DIOCRSETADDRS to nothing would delete (DUMMY and
// FEEDBACK), in the order of List.
func (p *PF) listDeleted(t Table, a *array) error {
	err := a.fill(16, func() (int, error) { // at least one, as a Size2 of zero means that no list is wanted
		io := t.request(abi.FlagDummy|abi.FlagFeedback, a)
		io.Size2 = int32(a.room)
		err := p.tableRequest(p.l.Req.SetAddrs, io)
		return int(io.Size2), err
	})
	// The kernel pushes what it walks over onto a list and copies that out
	// from its head (pf_table.c: pfr_walktree): backwards, which the sort takes as fast.
	slices.SortFunc(unsafe.Slice((*abi.PfrAddr)(a.pointer()), a.n), compareRaw)
	return err
}

func compareRaw(x, y abi.PfrAddr) int {
	if x.AF != y.AF {
		return int(x.AF) - int(y.AF)
	}
	if c := bytes.Compare(x.Addr[:], y.Addr[:]); c != 0 {
		return c
	}
	return int(y.Net) - int(x.Net)
}

// TestResult is the answer of a table about an address.
type TestResult struct {
	Addr  netip.Addr
	Match bool // the table matches it
	Found bool // an entry covers it, which may be a negated one
	Entry Addr // the entry that decided, with Found
}

// Test returns how a table would match addresses, in order. It works on const
// tables too.
func (p *PF) Test(t Table, addrs ...netip.Addr) ([]TestResult, error) {
	const op = "test addresses"
	if err := t.check(false); err != nil {
		return nil, fail(op, t, 0, err)
	}
	if len(addrs) == 0 {
		return nil, nil
	}
	a, err := NewAddrs(len(addrs))
	if err != nil {
		return nil, fail(op, t, 0, err)
	}
	defer a.Close()
	for _, ip := range addrs {
		if a.Append(netip.PrefixFrom(ip, ip.BitLen()), false) != nil || ip.Zone() != "" {
			return nil, fail(op, t, 0, fmt.Errorf("address %v: a table holds addresses without a zone", ip))
		}
	}
	if err := p.tableRequest(p.l.Req.TstAddrs, t.request(abi.FlagReplace, &a.a)); err != nil {
		return nil, fail(op, t, len(addrs), err)
	}
	out := make([]TestResult, len(addrs))
	for i, ip := range addrs {
		e := a.slot(i)
		out[i] = TestResult{Addr: ip, Match: e.Fback == abi.FeedbackMatch}
		// With REPLACE the element is now the entry, or all zero.
		if out[i].Match || e.Fback == abi.FeedbackNotMatch {
			out[i].Found, out[i].Entry = true, decodeAddr(e)
		}
	}
	return out, nil
}

// AddrStats is an entry of a table and the kernel's counters of it.
type AddrStats struct {
	Addr

	// Counted is true if the kernel has counters for the entry: the table
	// must have [TableCounters], and they come with the first packet.
	Counted        bool
	Packets, Bytes [2][3]uint64 // by direction (in, out), and blocked, matched, passed
	Cleared        time.Time    // when they were last cleared, or the entry was added
}

// AddrStats returns the entries of a table with their counters, in the order of
// [PF.List].
func (p *PF) AddrStats(t Table) (*List[AddrStats], error) {
	l := &List[AddrStats]{array{esize: p.l.AStats.Size}, p.decodeAddrStats}
	err := t.check(false)
	if err == nil {
		err = p.list(p.l.Req.GetAStats, t, 0, &l.a)
	}
	if err != nil {
		l.Close()
		return nil, fail("get counters of addresses", t, 0, err)
	}
	return l, nil
}

// decodeAddrStats reads struct pfr_astats. It begins with a PfrAddr, which has no
// member that depends on the order of bytes but two that are not read.
func (p *PF) decodeAddrStats(b []byte) AddrStats {
	o, u64 := &p.l.AStats, p.l.Order().Uint64
	e := (*abi.PfrAddr)(unsafe.Pointer(&b[0]))
	s := AddrStats{Addr: decodeAddr(e), Cleared: time.Unix(int64(u64(b[o.Tzero:])), 0)}
	if s.Counted = e.Fback != abi.FeedbackNoCount; s.Counted {
		for i := range 6 {
			s.Packets[i/3][i%3] = u64(b[o.Packets+8*i:])
			s.Bytes[i/3][i%3] = u64(b[o.Bytes+8*i:])
		}
	}
	return s
}
