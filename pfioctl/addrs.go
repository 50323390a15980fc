package pfioctl

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"time"
	"unsafe"

	"example.org/threatstopd/pfioctl/internal/abi"
)

// Addrs is the array of entries that [PF.SetAddrs] sends, in the kernel's form and in
// memory outside of the garbage-collected heap: 52 bytes an entry. [Addrs.Close]
// gives it back; a forgotten one stays until the process ends. It is not safe
// for concurrent use.
type Addrs struct {
	a      array
	closed bool
}

// NewAddrs returns an empty array with room for capacity entries; it grows as
// needed, by doubling. Capacity is bounded by what the kernel counts, 2^31-1,
// and by the address space.
func NewAddrs(capacity int) (*Addrs, error) {
	a := &Addrs{a: array{esize: abi.SizeofPfrAddr}}
	if capacity != 0 {
		if err := a.a.grow(capacity); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// Append adds an entry. It refuses what the kernel would refuse, so that the
// error can name the entry: the kernel only answers EINVAL to the whole request.
func (a *Addrs) Append(p netip.Prefix, not bool) error {
	if a.a.n == a.a.room {
		if err := a.double(); err != nil {
			return err
		}
	}
	if !put(a.slot(a.a.n), p, not) {
		return checkAddr(p, not)
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

// Reset drops all entries and keeps the room.
func (a *Addrs) Reset() { a.a.n = 0 }

// Close gives the memory back. The array is empty afterwards and takes no
// entries. It may be closed twice.
func (a *Addrs) Close() error {
	a.closed = true
	return a.a.close()
}

func (a *Addrs) slot(i int) *abi.PfrAddr {
	return (*abi.PfrAddr)(unsafe.Pointer(&a.a.mem[i*abi.SizeofPfrAddr]))
}

// decoded returns the entries, and frees the array.
func (a *Addrs) decoded() []Addr {
	defer a.Close()
	out := make([]Addr, a.a.n)
	for i := range out {
		out[i] = decodeAddr(a.slot(i))
	}
	return out
}

// hand puts the array into a request.
func (a *Addrs) hand(io *abi.PfiocTable) {
	io.Buffer, io.Esize, io.Size = a.a.pointer(), abi.SizeofPfrAddr, int32(a.a.n)
}

// put writes an entry, all of its bytes as there may be an earlier answer, and
// reports whether the kernel would take it (pf_table.c: pfr_validate_addr). The
// rules for the family, the length and `not` hold for every netip.Prefix that
// is valid, which leaves the host bits. A prefix never has a zone.
func put(e *abi.PfrAddr, prefix netip.Prefix, not bool) bool {
	ip, n := prefix.Addr(), prefix.Bits()
	if n < 0 {
		return false
	}
	*e = abi.PfrAddr{}
	e.Net = uint8(n)
	if not {
		e.Not = 1
	}
	if ip.Is4() {
		e.AF = abi.AFInet
		b := ip.As4()
		*(*[4]byte)(e.Addr[:]) = b // the other twelve must be zero
		return binary.BigEndian.Uint32(b[:])<<uint(n) == 0
	}
	e.AF = abi.AFInet6
	b := ip.As16()
	e.Addr = b
	hi, lo := binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])
	if n >= 64 {
		return lo<<uint(n-64) == 0
	}
	return hi<<uint(n)|lo == 0
}

// checkAddr returns what is wrong with an entry that put refuses, nil for others.
func checkAddr(p netip.Prefix, not bool) error {
	switch {
	case !p.IsValid():
		return fmt.Errorf("entry %v: not a prefix", p)
	case p != p.Masked():
		return fmt.Errorf("entry %v: host bits are set, the network is %v", Addr{p, not}, Addr{p.Masked(), not})
	}
	return nil
}

// decodeAddr reads an entry; its Prefix is zero for what is none.
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
	if err := t.check(true); err != nil {
		return Delta{}, fail(op, t, 0, err)
	}
	if a.closed {
		return Delta{}, fail(op, t, 0, errClosed)
	}
	// Size2 stays zero: it would ask for the deleted entries behind the array,
	// and if they did not fit, the kernel would change nothing and call that
	// success.
	io := t.request(flags)
	a.hand(io)
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
	for prefix, not := range seq {
		if err := a.Append(prefix, not); err != nil {
			return Delta{}, fail("set addresses", t, 0, err)
		}
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
	io := t.request(abi.FlagFeedback)
	a.hand(io)
	if err := p.tableRequest(p.l.Req.AddAddrs, io); err != nil {
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
	io := t.request(abi.FlagFeedback)
	a.hand(io)
	if err := p.tableRequest(p.l.Req.DelAddrs, io); err != nil {
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
	seen := make(map[netip.Prefix]bool, len(addrs))
	a, err := NewAddrs(len(addrs))
	if err != nil {
		return nil, err
	}
	for _, e := range addrs {
		not, ok := seen[e.Prefix]
		switch {
		case !ok:
			seen[e.Prefix] = e.Not
			err = a.Append(e.Prefix, e.Not)
		case not != e.Not:
			err = fmt.Errorf("entries %v and %v: one prefix cannot be both", Addr{e.Prefix, not}, e)
		}
		if err != nil {
			a.Close()
			return nil, err
		}
	}
	return a, nil
}

// conflict makes an error of the entries that the kernel left alone because
// the table has them with the other negation.
func conflict(op string, t Table, a *Addrs, sent []Addr) error {
	n, first := 0, Addr{}
	for i := range a.Len() {
		if e := a.slot(i); e.Fback == abi.FeedbackConflict {
			if n == 0 {
				first = decodeAddr(e)
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
	if err := p.tableRequest(p.l.Req.ClrAddrs, io); err != nil {
		return 0, fail(op, t, 0, err)
	}
	return int(io.Ndel), nil
}

// Get returns the entries of a table: IPv4 before IPv6, ascending by address,
// for one address the longest prefix first. They are of one moment.
//
// Once [PF.Pledged] was called it asks what SetAddrs to nothing would delete, which is
// the only request that the promise "pf" allows for it; then a const table is EPERM.
func (p *PF) Get(t Table) ([]Addr, error) {
	const op = "get addresses"
	pledged := p.pledged.Load()
	if err := t.check(pledged); err != nil {
		return nil, fail(op, t, 0, err)
	}
	a := &Addrs{a: array{esize: abi.SizeofPfrAddr}}
	var err error
	if pledged {
		err = p.listDeleted(t, a)
	} else {
		err = p.list(p.l.Req.GetAddrs, t, 0, &a.a)
	}
	if err != nil {
		a.Close()
		return nil, fail(op, t, 0, err)
	}
	return a.decoded(), nil
}

// listDeleted fills a with what DIOCRSETADDRS to nothing would delete (DUMMY and
// FEEDBACK), in the order of Get.
func (p *PF) listDeleted(t Table, a *Addrs) error {
	n := 16 // at least one, as a Size2 of zero means that no list is wanted
	for range attempts {
		if err := a.a.grow(n); err != nil {
			return err
		}
		io := t.request(abi.FlagDummy | abi.FlagFeedback)
		io.Buffer, io.Esize, io.Size2 = a.a.pointer(), abi.SizeofPfrAddr, int32(a.a.room)
		if err := p.tableRequest(p.l.Req.SetAddrs, io); err != nil {
			return err
		}
		// If the list did not fit, the kernel wrote none of it and calls that
		// success: only the number it needs shows it.
		if int(io.Size2) > a.a.room {
			n = withRoom(int(io.Size2))
			continue
		}
		a.a.n = int(io.Size2)
		// The kernel pushes what it walks over onto a list and copies that out
		// from its head (pf_table.c: pfr_walktree): backwards.
		raw := unsafe.Slice((*abi.PfrAddr)(a.a.pointer()), a.a.n)
		slices.Reverse(raw)
		if !slices.IsSortedFunc(raw, compareRaw) {
			slices.SortFunc(raw, compareRaw)
		}
		return nil
	}
	return errChanging
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
		if ip.Zone() != "" || !ip.IsValid() {
			return nil, fail(op, t, 0, fmt.Errorf("address %v: a table holds addresses without a zone", ip))
		}
		if err := a.Append(netip.PrefixFrom(ip, ip.BitLen()), false); err != nil {
			return nil, fail(op, t, 0, err)
		}
	}
	io := t.request(abi.FlagReplace)
	a.hand(io)
	if err := p.tableRequest(p.l.Req.TstAddrs, io); err != nil {
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
// [PF.Get].
func (p *PF) AddrStats(t Table) ([]AddrStats, error) {
	const op = "get counters of addresses"
	if err := t.check(false); err != nil {
		return nil, fail(op, t, 0, err)
	}
	o, u64 := p.l.AStats, p.l.Order().Uint64
	a := array{esize: o.Size}
	defer a.close()
	if err := p.list(p.l.Req.GetAStats, t, 0, &a); err != nil {
		return nil, fail(op, t, 0, err)
	}
	out := make([]AddrStats, a.n)
	for i := range out {
		b := a.at(i)
		// PfrAddr has no member that depends on the order of bytes but two that
		// are not read here.
		e := (*abi.PfrAddr)(unsafe.Pointer(&b[0]))
		s := &out[i]
		s.Addr, s.Cleared = decodeAddr(e), time.Unix(int64(u64(b[o.Tzero:])), 0)
		if s.Counted = e.Fback != abi.FeedbackNoCount; !s.Counted {
			continue
		}
		for i := range 6 {
			s.Packets[i/3][i%3] = u64(b[o.Packets+8*i:])
			s.Bytes[i/3][i%3] = u64(b[o.Bytes+8*i:])
		}
	}
	return out, nil
}

var errClosed = errors.New("array is closed")
