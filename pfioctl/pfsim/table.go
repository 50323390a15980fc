package pfsim

import (
	"bytes"
	"slices"
	"strings"
	"syscall"
	"unsafe"

	"example.org/threatstopd/pfioctl"
	"example.org/threatstopd/pfioctl/internal/abi"
)

// ktable is struct pfr_ktable.
type ktable struct {
	name, anchor string
	flags        pfioctl.TableFlags
	tail         [4]byte // what the caller had behind the flags, kept as the kernel keeps it

	nflags pfioctl.TableFlags // what a request is about to make of flags

	root   *ktable // the table of the same name in the main ruleset, for one in an anchor
	shadow *ktable // what a transaction has defined
	rs     *ruleset
	gone   bool // destroyed

	refs [2]int32 // by rules, by tables of anchors

	packets, bytes [2][4]uint64
	match, nomatch uint64
	tzero          int64

	// noAddrs is set in a shadow that was defined without a list of
	// addresses, which leaves those of the table alone.
	noAddrs bool

	// costs is pfrkt_refcntcost: above zero while the table has entries with
	// a weight, and for good once such entries came by DIOCRSETADDRS or a
	// transaction, which count them twice.
	costs int

	v4     column[entry4]
	v6     column[entry6]
	epochs []int64 // times that entries refer to by index
	lived  int     // how many were left when epochs was last trimmed
	extras map[prefix]*extra
}

// extra is what few entries have.
type extra struct {
	counters *counters
	typ      uint8  // PFRKE_PLAIN, PFRKE_ROUTE, PFRKE_COST
	weight   uint16 // of PFRKE_COST
	ifname   string
}

// counters is struct pfr_kcounters.
type counters struct {
	packets, bytes [2][3]uint64
}

const (
	plainEntry = 0 // PFRKE_PLAIN
	routeEntry = 1 // PFRKE_ROUTE
	costEntry  = 2 // PFRKE_COST
	maxEntry   = 3 // PFRKE_MAX
)

const (
	refRule   = 0
	refAnchor = 1
)

const (
	flagActive     = pfioctl.TableActive
	flagInactive   = abi.TableInactive
	flagReferenced = pfioctl.TableReferenced
	flagRefdAnchor = abi.TableRefdAnchor
	flagPersist    = pfioctl.TablePersist
	flagConst      = pfioctl.TableConst
	flagCounters   = pfioctl.TableCounters
	userFlags      = abi.TableUserFlags
	// Each of these keeps a table in being (PFR_TFLAG_SETMASK).
	setFlags = flagActive | flagInactive | flagReferenced | flagRefdAnchor
)

func (t *ktable) cnt() int { return len(t.v4.list) + len(t.v6.list) }

// A spot is the position of an entry in the walk over a table, and stays that
// only until the table changes.
type spot int

// hint remembers where the look-ups of one request have come to.
type hint struct{ v4, v6 int }

// lookup finds the entry with exactly this prefix.
func (t *ktable) lookup(p prefix, h *hint) (spot, bool) {
	if p.af == afInet {
		i, ok := t.v4.find(p.entry4(), &h.v4)
		return spot(i), ok
	}
	i, ok := t.v6.find(p.entry6(), &h.v6)
	return spot(len(t.v4.list) + i), ok
}

// longest finds the entry that decides on a host address: the longest prefix
// that covers it (radix.c: rn_match).
func (t *ktable) longest(p prefix) (spot, bool) {
	count := t.v4.count
	if p.af != afInet {
		count = t.v6.count
	}
	var h hint
	for n := len(count) - 1; n >= 0; n-- {
		if count[n] == 0 {
			continue
		}
		if s, ok := t.lookup(p.masked(uint8(n)), &h); ok {
			return s, true
		}
	}
	return 0, false
}

func (t *ktable) entryFlags(s spot) uint32 {
	if n := len(t.v4.list); int(s) >= n {
		return t.v6.list[int(s)-n].flags()
	}
	return t.v4.list[s].flags()
}

func (t *ktable) setEntryFlags(s spot, flags uint32) {
	if n := len(t.v4.list); int(s) >= n {
		e := &t.v6.list[int(s)-n]
		*e = e.with(flags)
		return
	}
	t.v4.list[s] = t.v4.list[s].with(flags)
}

func (t *ktable) prefixAt(s spot) prefix {
	if n := len(t.v4.list); int(s) >= n {
		return t.v6.list[int(s)-n].prefix()
	}
	return t.v4.list[s].prefix()
}

// extraAt returns what stands aside for the entry, or nil.
func (t *ktable) extraAt(s spot) *extra {
	if t.entryFlags(s)&entExtra == 0 {
		return nil
	}
	return t.extras[t.prefixAt(s)]
}

func (t *ktable) setExtra(s spot, x *extra) {
	if t.extras == nil {
		t.extras = map[prefix]*extra{}
	}
	t.extras[t.prefixAt(s)] = x
	t.setEntryFlags(s, t.entryFlags(s)|entExtra)
}

// tzeroAt is since when the entry is counted.
func (t *ktable) tzeroAt(s spot) int64 { return t.epochs[t.entryFlags(s)&entEpoch] }

// epoch returns the index of a time in epochs.
func (t *ktable) epoch(now int64) uint32 {
	if n := len(t.epochs); n > 0 && t.epochs[n-1] == now {
		return uint32(n - 1)
	}
	if len(t.epochs) >= max(1<<12, 2*t.lived) {
		t.trimEpochs()
	}
	t.epochs = append(t.epochs, now)
	return uint32(len(t.epochs) - 1)
}

// trimEpochs forgets the times that no entry refers to any more.
func (t *ktable) trimEpochs() {
	const unused = ^uint32(0)
	place := make([]uint32, len(t.epochs))
	for i := range place {
		place[i] = unused
	}
	var left []int64
	for s := range spot(t.cnt()) {
		flags := t.entryFlags(s)
		i := flags & entEpoch
		if place[i] == unused {
			place[i] = uint32(len(left))
			left = append(left, t.epochs[i])
		}
		t.setEntryFlags(s, flags&^entEpoch|place[i])
	}
	t.epochs, t.lived = left, len(left)
}

// unmark is pfr_mark_addrs: it clears all marks.
func (t *ktable) unmark() {
	t.v4.unmark()
	t.v6.unmark()
}

// clearStats is pfr_clstats_kentries for one entry.
func (t *ktable) clearStats(s spot, epoch uint32) {
	flags := t.entryFlags(s)
	if flags&entExtra != 0 {
		p := t.prefixAt(s)
		if x := t.extras[p]; x.typ != plainEntry {
			x.counters = nil
		} else {
			delete(t.extras, p)
			flags &^= entExtra
		}
	}
	t.setEntryFlags(s, flags&^entEpoch|epoch)
}

// clearAllStats is the same for all entries.
func (t *ktable) clearAllStats(now int64) {
	if t.cnt() == 0 {
		return
	}
	// No entry will refer to an earlier time.
	t.epochs = append(t.epochs[:0], now)
	for s := range spot(t.cnt()) {
		t.clearStats(s, 0)
	}
}

// clstats is pfr_clstats_ktable.
func (t *ktable) clstats(now int64, recurse bool) {
	if recurse {
		t.clearAllStats(now)
	}
	t.packets, t.bytes = [2][4]uint64{}, [2][4]uint64{}
	t.match, t.nomatch = 0, 0
	t.tzero = now
}

// removeWhere takes out entries and returns how many of them came from the
// pool that table-entries limits.
func (t *ktable) removeWhere(drop func(flags uint32) bool) (plain int) {
	extras := 0
	t.v4.remove(func(_ int, e entry4) bool {
		if !drop(e.flags()) {
			return false
		}
		extras += t.dropExtra(e.flags(), e.prefix)
		plain++
		return true
	})
	t.v6.remove(func(_ int, e entry6) bool {
		if !drop(e.flags()) {
			return false
		}
		extras += t.dropExtra(e.flags(), e.prefix)
		plain++
		return true
	})
	if t.cnt() == 0 {
		t.epochs = nil
	}
	return plain - extras
}

// dropExtra forgets what stands aside for an entry, and returns 1 when the
// entry was of a kind that the limit does not count.
func (t *ktable) dropExtra(flags uint32, p func() prefix) int {
	if flags&entExtra == 0 {
		return 0
	}
	q := p()
	x := t.extras[q]
	delete(t.extras, q)
	if x.typ == costEntry {
		t.costs--
	}
	if x.typ != plainEntry {
		return 1
	}
	return 0
}

// weighs is about how many bytes the table takes.
func (t *ktable) weighs() int64 {
	n := int64(unsafe.Sizeof(*t)) + int64(len(t.name)+len(t.anchor))
	n += int64(cap(t.v4.list))*int64(unsafe.Sizeof(entry4(0))) + int64(len(t.v4.count))*4
	n += int64(cap(t.v6.list))*int64(unsafe.Sizeof(entry6{})) + int64(len(t.v6.count))*4
	n += int64(cap(t.epochs)) * 8
	// A map's slot is about twice what it holds.
	n += int64(len(t.extras)) * 2 * int64(unsafe.Sizeof(prefix{})+8+unsafe.Sizeof(extra{})+unsafe.Sizeof(counters{}))
	if t.shadow != nil {
		n += t.shadow.weighs()
	}
	return n
}

// cString is the bytes up to the first NUL.
func cString(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

// fixAnchor takes leading slashes off a field of an anchor's path, in place,
// and reports whether the field is one: NUL terminated and zero behind that
// (pf_table.c: pfr_fix_anchor).
func fixAnchor(a *[abi.AnchorPathSize]byte) bool {
	off := 0
	for off < len(a) && a[off] == '/' {
		off++
	}
	if off > 0 {
		n := copy(a[:], a[off:])
		clear(a[n:])
	}
	return zeroBehind(a[:])
}

// zeroBehind reports whether a field has a NUL and nothing else behind it.
func zeroBehind(b []byte) bool {
	i := bytes.IndexByte(b, 0)
	if i < 0 {
		return false
	}
	for _, c := range b[i:] {
		if c != 0 {
			return false
		}
	}
	return true
}

// validTable is pfr_validate_table: it returns nil if the kernel takes the
// struct, whose anchor it fixes in place. The reserved anchor is compared with
// what the caller wrote, so that "/_pf" slips through, as in the kernel.
func (k *Kernel) validTable(t *abi.PfrTable, allowed pfioctl.TableFlags, noReserved bool) error {
	switch {
	case t.Name[0] == 0, noReserved && cString(t.Anchor[:]) == abi.ReservedAnchor:
		return syscall.EINVAL
	case k.num >= 80 && bytes.IndexByte(t.Name[:], 0) < 0:
		return syscall.ENAMETOOLONG
	case !zeroBehind(t.Name[:]):
		return syscall.EINVAL
	}
	if err := k.validAnchor(&t.Anchor); err != nil {
		return err
	}
	if t.Flags&^allowed != 0 {
		return syscall.EINVAL
	}
	return nil
}

// validAnchor returns nil if the kernel takes the path of an anchor, which it
// fixes in place.
func (k *Kernel) validAnchor(a *[abi.AnchorPathSize]byte) error {
	long := bytes.IndexByte(a[:], 0) < 0
	switch {
	case long && k.num >= 80:
		return syscall.ENAMETOOLONG
	case !fixAnchor(a):
		return syscall.EINVAL
	}
	return nil
}

// searchTable finds where a table is, or would be, among the sorted tables.
func (k *Kernel) searchTable(anchor, name string) (int, bool) {
	return slices.BinarySearchFunc(k.tables, pfioctl.Table{Anchor: anchor, Name: name}, func(t *ktable, key pfioctl.Table) int {
		if c := strings.Compare(t.name, key.Name); c != 0 {
			return c
		}
		return strings.Compare(t.anchor, key.Anchor)
	})
}

// findTable returns the table, or nil.
func (k *Kernel) findTable(anchor, name string) *ktable {
	if i, ok := k.searchTable(anchor, name); ok {
		return k.tables[i]
	}
	return nil
}

func (k *Kernel) lookupTable(t *abi.PfrTable) *ktable {
	return k.findTable(cString(t.Anchor[:]), cString(t.Name[:]))
}

// newTable is a table whose place in the pool has been taken.
func newTable(t *abi.PfrTable, now int64) *ktable {
	kt := &ktable{name: cString(t.Name[:]), anchor: cString(t.Anchor[:]), flags: t.Flags, tzero: now}
	copy(kt.tail[:], bytesOf(t)[unsafe.Offsetof(t.Fback):])
	return kt
}

// createTable is pfr_create_ktable: it returns nil when the limit of tables is
// reached or, with attach, the anchor cannot be made.
func (k *Kernel) createTable(t *abi.PfrTable, now int64, attach bool) *ktable {
	if !k.takeTable() {
		return nil
	}
	kt := newTable(t, now)
	if attach {
		rs := k.findOrCreateRuleset(kt.anchor)
		if rs == nil {
			k.destroyTable(kt)
			return nil
		}
		kt.rs = rs
		rs.tables++
	}
	return kt
}

// destroyTable is pfr_destroy_ktable: the entries go back to their pool.
func (k *Kernel) destroyTable(t *ktable) {
	t.gone = true
	k.entries -= t.removeWhere(func(uint32) bool { return true })
	if t.shadow != nil {
		k.destroyTable(t.shadow)
		t.shadow = nil
	}
	if t.rs != nil {
		t.rs.tables--
		k.removeIfEmpty(t.rs)
		t.rs = nil
	}
	k.inUse[pfioctl.LimitTables]--
}

// insertTable is pfr_insert_ktable.
func (k *Kernel) insertTable(t *ktable) {
	if i, ok := k.searchTable(t.anchor, t.name); !ok {
		k.tables = slices.Insert(k.tables, i, t)
	}
	if t.root == nil {
		return
	}
	t.root.refs[refAnchor]++
	if t.root.refs[refAnchor] == 1 {
		k.setTableFlags(t.root, t.root.flags|flagRefdAnchor)
	}
}

// setTableFlags is pfr_setflags_ktable, the life cycle of a table: it gives it
// the flags, as far as they hold together, and destroys it when none is left
// that keeps it in being.
func (k *Kernel) setTableFlags(t *ktable, flags pfioctl.TableFlags) {
	if t.gone {
		// A request that names a table of an anchor and its root frees the
		// root with the first and then uses it; here it is just gone.
		return
	}
	if flags&(flagReferenced|flagRefdAnchor|flagPersist) == 0 {
		flags &^= flagActive
	}
	if flags&flagActive == 0 {
		flags &^= userFlags
	}
	if flags&setFlags == 0 {
		if i, ok := k.searchTable(t.anchor, t.name); ok && k.tables[i] == t {
			k.tables = slices.Delete(k.tables, i, i+1)
		}
		if r := t.root; r != nil {
			r.refs[refAnchor]--
			if r.refs[refAnchor] == 0 {
				k.setTableFlags(r, r.flags&^flagRefdAnchor)
			}
		}
		k.destroyTable(t)
		return
	}
	if flags&flagActive == 0 && t.cnt() > 0 {
		k.entries -= t.removeWhere(func(uint32) bool { return true })
	}
	if flags&flagInactive == 0 && t.shadow != nil {
		k.destroyTable(t.shadow)
		t.shadow = nil
	}
	t.flags = flags
}

// setQueuedFlags is pfr_setflags_ktables on a queue: the last that was queued
// comes first.
func (k *Kernel) setQueuedFlags(queue []*ktable) {
	for _, t := range slices.Backward(queue) {
		k.setTableFlags(t, t.nflags)
	}
}

// active is pfr_ktable_select_active: the table that decides for a rule that
// names t, or nil.
func (t *ktable) active() *ktable {
	if t.flags&flagActive == 0 && t.root != nil {
		t = t.root
	}
	if t.flags&flagActive == 0 {
		return nil
	}
	return t
}

// matches is pfr_match_addr: whether a packet's address is in the table. The
// count is kept in the table that the rule names, also when its root decides.
func (t *ktable) matches(p prefix) bool {
	match := false
	if a := t.active(); a != nil {
		if s, ok := a.longest(p); ok {
			match = a.entryFlags(s)&entNot == 0
		}
	}
	if match {
		t.match++
	} else {
		t.nomatch++
	}
	return match
}
