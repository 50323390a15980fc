package pfioctl

import (
	"fmt"
	"iter"
	"net/netip"
	"time"
	"unsafe"
)

// SetOptions are the options of [PF.SetAddrs].
type SetOptions struct {
	// DryRun computes the Delta and changes nothing (PFR_FLAG_DUMMY). It needs
	// a descriptor that may only read, and it fails as the real call would:
	// at the limit, on a const table, without the table.
	DryRun bool

	// Feedback has the kernel write into the array what it did with each entry:
	// FeedbackAdded, FeedbackChanged, FeedbackNone for what was there already,
	// FeedbackDuplicate for what an earlier entry named.
	Feedback bool
}

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
func (p *PF) SetAddrs(t Table, a *Addrs, o SetOptions) (Delta, error) {
	const op = "set addresses"
	if err := t.check(true); err != nil {
		return Delta{}, fail(op, t, 0, err)
	}
	if a.closed {
		return Delta{}, fail(op, t, 0, errClosed)
	}
	if a.fed {
		a.ClearFeedback()
	}
	var flags RequestFlags
	if o.DryRun {
		flags |= FlagDummy
	}
	if o.Feedback {
		flags |= FlagFeedback
		a.fed = true
	}
	// Size2 stays zero: it would ask for the deleted entries behind the array,
	// and if they did not fit, the kernel would change nothing and call that
	// success.
	io := t.request(flags)
	a.hand(io)
	if err := p.tableRequest(p.l.req.SetAddrs, io); err != nil {
		return Delta{}, p.failLimit(op, t, a.Len(), LimitTableEntries, err)
	}
	return Delta{Added: int(io.Nadd), Deleted: int(io.Ndel), Changed: int(io.Nchange)}, nil
}

// hand puts the array into a request.
func (a *Addrs) hand(io *PfiocTable) {
	io.Buffer, io.Esize, io.Size = a.a.pointer(), sizeofPfrAddr, int32(a.a.n)
}

// Set is SetAddrs of the entries that addrs yields: it fills an array with
// them, sends it, and gives the memory back. The hint n is how many there will
// be, 0 if that is not known; the memory fits it exactly when it is right.
func (p *PF) Set(t Table, n int, addrs iter.Seq[Addr]) (Delta, error) {
	const op = "set addresses"
	a, err := NewAddrs(n)
	if err != nil {
		return Delta{}, fail(op, t, 0, err)
	}
	defer a.Close()
	for e := range addrs {
		if err := a.Append(e); err != nil {
			return Delta{}, fail(op, t, 0, err)
		}
	}
	return p.SetAddrs(t, a, SetOptions{})
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
	a, err := distinctAddrs(t, addrs)
	if err != nil {
		return 0, fail(op, t, 0, err)
	}
	defer a.Close()
	if a.Len() == 0 {
		return 0, nil
	}
	limit, err := p.Limit(LimitTableEntries)
	if err != nil {
		return 0, fail(op, t, a.Len(), err)
	}
	used, _, err := p.Used()
	if err != nil {
		return 0, fail(op, t, a.Len(), err)
	}
	if used+a.Len() >= limit {
		e := fail(op, t, a.Len(), ErrLimit)
		e.Used, e.Limit, e.limit = used, limit, LimitTableEntries
		return 0, e
	}
	io := t.request(FlagFeedback)
	a.hand(io)
	if err := p.tableRequest(p.l.req.AddAddrs, io); err != nil {
		return 0, p.failLimit(op, t, a.Len(), LimitTableEntries, err)
	}
	// The kernel gives the answers in reverse order since 7.1, with `not` and
	// the unused bytes left over from others: only address, length and code
	// can be believed, and the entry meant is found by them.
	return int(io.Nadd), conflict(op, t, a, addrs)
}

// Delete deletes entries and returns how many there were. Only the very prefix
// is meant: 10.0.0.0/24 does not delete the hosts in it. An entry that is there
// with the other negation stays, and makes the error wrap [ErrConflict].
func (p *PF) Delete(t Table, addrs ...Addr) (deleted int, err error) {
	const op = "delete addresses"
	a, err := distinctAddrs(t, addrs)
	if err != nil {
		return 0, fail(op, t, 0, err)
	}
	defer a.Close()
	if a.Len() == 0 {
		return 0, nil
	}
	io := t.request(FlagFeedback)
	a.hand(io)
	if err := p.tableRequest(p.l.req.DelAddrs, io); err != nil {
		return 0, fail(op, t, a.Len(), err)
	}
	return int(io.Ndel), conflict(op, t, a, addrs)
}

// distinctAddrs checks the table and puts each prefix into an array once. The
// releases do not agree on which of two equal prefixes counts, so they must not
// differ in their negation.
func distinctAddrs(t Table, addrs []Addr) (*Addrs, error) {
	if err := t.check(true); err != nil {
		return nil, err
	}
	a, err := NewAddrs(len(addrs))
	if err != nil {
		return nil, err
	}
	seen := make(map[netip.Prefix]bool, len(addrs))
	for _, e := range addrs {
		not, ok := seen[e.Prefix]
		switch {
		case !ok:
			seen[e.Prefix] = e.Not
			if err := a.Append(e); err != nil {
				a.Close()
				return nil, err
			}
		case not != e.Not:
			a.Close()
			return nil, fmt.Errorf("entries %v and %v: one prefix cannot be both", Addr{e.Prefix, not}, e)
		}
	}
	return a, nil
}

// conflict makes an error of the entries that the kernel left alone because
// the table has them with the other negation.
func conflict(op string, t Table, a *Addrs, sent []Addr) error {
	n, first := 0, Addr{}
	for i := range a.Len() {
		if a.Feedback(i) == FeedbackConflict {
			if n == 0 {
				first = a.At(i)
			}
			n++
		}
	}
	if n == 0 {
		return nil
	}
	for _, e := range sent {
		if e.Prefix == first.Prefix {
			first.Not = e.Not
		}
	}
	if n == 1 {
		return fail(op, t, len(sent), fmt.Errorf("entry %v: %w", first, ErrConflict))
	}
	return fail(op, t, len(sent), fmt.Errorf("entry %v and %d others: %w", first, n-1, ErrConflict))
}

// Clear empties a table and returns how many entries it had.
func (p *PF) Clear(t Table) (deleted int, err error) {
	const op = "clear"
	if err := t.check(true); err != nil {
		return 0, fail(op, t, 0, err)
	}
	io := t.request(0)
	if err := p.tableRequest(p.l.req.ClrAddrs, io); err != nil {
		return 0, fail(op, t, 0, err)
	}
	return int(io.Ndel), nil
}

// Get returns the entries of a table: IPv4 before IPv6, ascending by address,
// for one address the longest prefix first. They are of one moment. The caller
// closes the array. While the table grows between being measured and being
// read, it is read again.
func (p *PF) Get(t Table) (*Addrs, error) {
	const op = "get addresses"
	if err := t.check(false); err != nil {
		return nil, fail(op, t, 0, err)
	}
	a := &Addrs{a: array{esize: sizeofPfrAddr}}
	if err := p.list(p.l.req.GetAddrs, t, 0, &a.a); err != nil {
		a.Close()
		return nil, fail(op, t, 0, err)
	}
	return a, nil
}

// GetPledged returns what Get does, with the only request that the promise "pf"
// of pledge(2) allows for it: it asks what SetAddrs to nothing would delete
// (DIOCRSETADDRS with DUMMY and FEEDBACK), and changes nothing. Unlike Get it
// fails on a const table, with EPERM. The hint n is about how many entries the
// table has, 0 if that is not known.
func (p *PF) GetPledged(t Table, n int) (*Addrs, error) {
	const op = "get addresses"
	if err := t.check(true); err != nil {
		return nil, fail(op, t, 0, err)
	}
	// At least one, as a Size2 of zero means that no list is wanted.
	a, err := NewAddrs(max(n, 0) + max(n, 0)/64 + 16)
	if err != nil {
		return nil, fail(op, t, 0, err)
	}
	for range attempts {
		io := t.request(FlagDummy | FlagFeedback)
		io.Buffer, io.Esize, io.Size2 = a.a.pointer(), sizeofPfrAddr, int32(a.a.room)
		if err := p.tableRequest(p.l.req.SetAddrs, io); err != nil {
			a.Close()
			return nil, fail(op, t, 0, err)
		}
		// If the list did not fit, the kernel wrote none of it and calls that
		// success: only the number it needs tells.
		if n := int(io.Size2); n > a.a.room {
			if err := a.a.grow(n + n/64 + 16); err != nil {
				a.Close()
				return nil, fail(op, t, 0, err)
			}
			continue
		}
		a.a.n = int(io.Size2)
		// The kernel pushes what it walks over onto a list and copies that out
		// from its head (pf_table.c: pfr_walktree): backwards.
		a.reverse()
		a.ClearFeedback()
		a.sort()
		return a, nil
	}
	a.Close()
	return nil, fail(op, t, 0, ErrChanging)
}

// TestResult is what a table says of an address.
type TestResult struct {
	Addr  netip.Addr
	Match bool // the table matches it
	Found bool // an entry covers it, which may be a negated one
	Entry Addr // the entry that decided, with Found
}

// Test asks how a table would match addresses, in order. It works on const
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
		if ip.Zone() != "" || !ip.IsValid() {
			return nil, fail(op, t, 0, fmt.Errorf("address %v: a table holds addresses without a zone", ip))
		}
		if err := a.Append(Addr{Prefix: netip.PrefixFrom(ip, ip.BitLen())}); err != nil {
			return nil, fail(op, t, 0, err)
		}
	}
	io := t.request(FlagReplace)
	a.hand(io)
	if err := p.tableRequest(p.l.req.TstAddrs, io); err != nil {
		return nil, fail(op, t, len(addrs), err)
	}
	out := make([]TestResult, len(addrs))
	for i, ip := range addrs {
		out[i] = TestResult{Addr: ip, Match: a.Feedback(i) == FeedbackMatch}
		// With REPLACE the element is now the entry, or all zero.
		if f := a.Feedback(i); f == FeedbackMatch || f == FeedbackNotMatch {
			out[i].Found, out[i].Entry = true, a.At(i)
		}
	}
	return out, nil
}

// AddrStats is an entry of a table and what the kernel counts of it.
type AddrStats struct {
	Addr

	// Counted tells whether the kernel has counters for the entry: the table
	// must have [TableCounters], and they come with the first packet.
	Counted        bool
	Packets, Bytes [2][3]uint64 // by direction and Block, Match, Pass
	Cleared        time.Time    // when they were last cleared, or the entry was added
}

// AddrStatsArray is an array of entries with counters, in memory outside of
// the garbage-collected heap: 160 bytes an entry (156 on 386).
type AddrStatsArray struct {
	a array
	l *Layout
}

// AddrStats returns the entries of a table with their counters, in the order of
// [PF.Get]. The caller closes the array.
func (p *PF) AddrStats(t Table) (*AddrStatsArray, error) {
	const op = "get counters of addresses"
	if err := t.check(false); err != nil {
		return nil, fail(op, t, 0, err)
	}
	s := &AddrStatsArray{array{esize: p.l.astats.Size}, &p.l}
	if err := p.list(p.l.req.GetAStats, t, 0, &s.a); err != nil {
		s.Close()
		return nil, fail(op, t, 0, err)
	}
	return s, nil
}

// Len returns the number of entries.
func (s *AddrStatsArray) Len() int { return s.a.n }

// At returns entry i, and panics if there is none.
func (s *AddrStatsArray) At(i int) AddrStats {
	if uint(i) >= uint(s.a.n) {
		panic(fmt.Sprintf("pfioctl: entry %d of %d", i, s.a.n))
	}
	return s.l.addrStats(s.a.at(i))
}

// All returns the entries in order.
func (s *AddrStatsArray) All() iter.Seq[AddrStats] {
	return func(yield func(AddrStats) bool) {
		for i := range s.a.n {
			if !yield(s.At(i)) {
				return
			}
		}
	}
}

// Close gives the memory back; the array is empty afterwards.
func (s *AddrStatsArray) Close() error { return s.a.close() }

func (l *Layout) addrStats(b []byte) AddrStats {
	o, u64 := l.astats, l.ByteOrder().Uint64
	// PfrAddr has no member that depends on the order of bytes but two that
	// are not read here.
	e := (*PfrAddr)(unsafe.Pointer(&b[0]))
	p, not := e.addr()
	s := AddrStats{
		Addr:    Addr{p, not},
		Counted: e.Fback != FeedbackNoCount,
		Cleared: time.Unix(int64(u64(b[o.Tzero:])), 0),
	}
	if !s.Counted {
		return s
	}
	for i := range 6 {
		s.Packets[i/3][i%3] = u64(b[o.Packets+8*i:])
		s.Bytes[i/3][i%3] = u64(b[o.Bytes+8*i:])
	}
	return s
}

// ClearAddrStats sets the counters of entries to zero and returns how many were
// there. The negation does not matter. A prefix given twice is sent once: at
// its second sight the kernel would walk in a circle for ever, with its locks
// held.
func (p *PF) ClearAddrStats(t Table, addrs ...Addr) (cleared int, err error) {
	const op = "clear counters of addresses"
	if err := t.check(false); err != nil {
		return 0, fail(op, t, 0, err)
	}
	seen := make(map[netip.Prefix]bool, len(addrs))
	a, err := NewAddrs(len(addrs))
	if err != nil {
		return 0, fail(op, t, 0, err)
	}
	defer a.Close()
	for _, e := range addrs {
		if seen[e.Prefix] {
			continue
		}
		seen[e.Prefix] = true
		if err := a.Append(e); err != nil {
			return 0, fail(op, t, 0, err)
		}
	}
	if a.Len() == 0 {
		return 0, nil
	}
	io := t.request(0)
	a.hand(io)
	if err := p.tableRequest(p.l.req.ClrAStats, io); err != nil {
		return 0, fail(op, t, a.Len(), err)
	}
	return int(io.Nadd), nil // pfrio_nzero
}
