package pfsim

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"unsafe"

	"example.org/threatstopd/pfioctl"
	"example.org/threatstopd/pfioctl/internal/abi"
)

// The model is a table as the manual describes it: a set of prefixes, looked
// through from one end to the other. It knows nothing of columns, marks or
// scratch tables.
type model map[netip.Prefix]bool // whether negated

func (m model) sorted() []netip.Prefix {
	var list []netip.Prefix
	for p := range m {
		list = append(list, p)
	}
	slices.SortFunc(list, func(a, b netip.Prefix) int {
		if a.Addr().Is4() != b.Addr().Is4() {
			if a.Addr().Is4() {
				return -1
			}
			return 1
		}
		if c := a.Addr().Compare(b.Addr()); c != 0 {
			return c
		}
		return b.Bits() - a.Bits()
	})
	return list
}

// decides returns the longest prefix that has the address.
func (m model) decides(a netip.Addr) (best netip.Prefix, ok bool) {
	for p := range m {
		if p.Contains(a) && (!ok || p.Bits() > best.Bits()) {
			best, ok = p, true
		}
	}
	return best, ok
}

// element is one of a request.
type element struct {
	p   netip.Prefix
	not bool
}

// unroutable are the two entries that the kernel drops without a word.
func unroutable(p netip.Prefix) bool {
	return p.IsSingleIP() && p.Addr().IsUnspecified()
}

func randomPrefix(r *rand.Rand) netip.Prefix {
	// Few bits, so that prefixes meet; of these the last ones too, where
	// hosts are distinguished from networks.
	if r.IntN(2) == 0 {
		a := netip.AddrFrom4([4]byte{byte(r.IntN(3)) * 127, 0, byte(r.IntN(2)) * 255, byte(r.IntN(4))})
		return netip.PrefixFrom(a, []int{0, 1, 7, 8, 16, 23, 24, 30, 31, 32, 32, 32}[r.IntN(12)]).Masked()
	}
	var b [16]byte
	b[0], b[7], b[8], b[15] = byte(r.IntN(3))*127, byte(r.IntN(2)), byte(r.IntN(2))*128, byte(r.IntN(4))
	return netip.PrefixFrom(netip.AddrFrom16(b), []int{0, 1, 8, 63, 64, 65, 96, 127, 128, 128}[r.IntN(10)]).Masked()
}

func randomElements(r *rand.Rand, m model) []element {
	list := make([]element, r.IntN(20))
	have := m.sorted()
	for i := range list {
		switch r.IntN(4) {
		case 0:
			if len(have) > 0 {
				list[i] = element{have[r.IntN(len(have))], r.IntN(2) == 0}
				continue
			}
			fallthrough
		case 1:
			if i > 0 {
				list[i] = element{list[r.IntN(i)].p, r.IntN(2) == 0}
				continue
			}
			fallthrough
		default:
			list[i] = element{randomPrefix(r), r.IntN(3) == 0}
		}
	}
	if r.IntN(3) == 0 { // in the table's order
		slices.SortStableFunc(list, func(a, b element) int {
			return entryOf(a.p).compare(entryOf(b.p))
		})
	}
	return list
}

func entryOf(p netip.Prefix) entry6 {
	q := hostPrefix(p.Addr())
	if q.af == afInet {
		q.lo, q.hi = q.hi, 0
	}
	return entry6{q.hi, q.lo, uint64(128-p.Bits()) << 26}
}

// table is a request to one table of a simulated kernel.
type table struct {
	t testing.TB
	k *Kernel
	d *Device
	pfioctl.Table
}

func makeTable(t testing.TB, k *Kernel, name string, flags pfioctl.TableFlags) *table {
	t.Helper()
	d := k.Open(true)
	t.Cleanup(func() { d.Close() })
	pf := newPF(t, d, k)
	if _, err := pf.AddTables(flags, pfioctl.Table{Name: name}); err != nil {
		t.Fatal(err)
	}
	return &table{t, k, d, pfioctl.Table{Name: name}}
}

// array makes the array of a request, with room behind the elements.
func array(list []element, room int) []byte {
	b := make([]byte, (len(list)+room)*addrSize)
	for i, e := range list {
		a := b[i*addrSize:]
		copy(a, e.p.Addr().AsSlice())
		a[addrAF], a[addrNet] = afInet, byte(e.p.Bits())
		if e.p.Addr().Is6() {
			a[addrAF] = afInet6
		}
		if e.not {
			a[addrNot] = 1
		}
	}
	return b
}

func elementAt(b []byte, i int) element {
	a := b[i*addrSize:][:addrSize]
	addr := netip.AddrFrom4([4]byte(a))
	if a[addrAF] == afInet6 {
		addr = netip.AddrFrom16([16]byte(a))
	}
	return element{netip.PrefixFrom(addr, int(a[addrNet])), a[addrNot] == 1}
}

func feedbackAt(b []byte, i int) abi.Feedback {
	return abi.Feedback(b[i*addrSize+addrFback])
}

func (x *table) io(flags abi.RequestFlags, b []byte, size int) *abi.PfiocTable {
	io := &abi.PfiocTable{Esize: int32(addrSize), Size: int32(size), Flags: flags}
	if len(b) > 0 {
		io.Buffer = unsafe.Pointer(unsafe.SliceData(b))
	}
	copy(io.Table.Anchor[:], x.Anchor)
	copy(io.Table.Name[:], x.Name)
	return io
}

func (x *table) call(nr uint, io *abi.PfiocTable) error {
	return x.d.Ioctl(nr, unsafe.Pointer(io))
}

// content reads the table by the request.
func (x *table) content() []element {
	x.t.Helper()
	io := x.io(0, nil, 0)
	if err := x.call(x.k.req.GetAddrs, io); err != nil {
		x.t.Fatal(err)
	}
	b := make([]byte, int(io.Size)*addrSize)
	io = x.io(0, b, int(io.Size))
	if err := x.call(x.k.req.GetAddrs, io); err != nil {
		x.t.Fatal(err)
	}
	list := make([]element, io.Size)
	for i := range list {
		list[i] = elementAt(b, i)
	}
	return list
}

// checkKernel looks at what must hold after any request: it is the kernel's
// own view of itself.
func checkKernel(t testing.TB, k *Kernel) {
	t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	plain, pool := 0, 0
	attached := map[*ruleset]int{}
	refs := map[*ktable]int32{}
	var count func(kt *ktable)
	count = func(kt *ktable) {
		pool++
		extras, costs := 0, 0
		for s := range spot(kt.cnt()) {
			x := kt.extraAt(s)
			if x != nil {
				extras++
				if x.typ == costEntry {
					costs++
				}
			}
			if x == nil || x.typ == plainEntry {
				plain++
			}
			if i := kt.entryFlags(s) & entEpoch; int(i) >= len(kt.epochs) {
				t.Fatalf("table %s: entry %d has no time", kt.name, s)
			}
		}
		if extras != len(kt.extras) {
			t.Fatalf("table %s: %d extras for %d entries that have some", kt.name, len(kt.extras), extras)
		}
		if costs > kt.costs {
			t.Fatalf("table %s: %d entries with a weight, counted %d", kt.name, costs, kt.costs)
		}
		if !slices.IsSortedFunc(kt.v4.list, entry4.compare) || !slices.IsSortedFunc(kt.v6.list, entry6.compare) {
			t.Fatalf("table %s: not sorted", kt.name)
		}
		checkCounts(t, kt, &kt.v4)
		checkCounts(t, kt, &kt.v6)
		if kt.rs != nil {
			attached[kt.rs]++
		}
		if kt.root != nil {
			refs[kt.root]++
		}
		if kt.shadow != nil {
			if kt.flags&flagInactive == 0 {
				t.Fatalf("table %s: a shadow without INACTIVE", kt.name)
			}
			count(kt.shadow)
		}
	}
	for i, kt := range k.tables {
		if kt.gone {
			t.Fatalf("table %s is destroyed and listed", kt.name)
		}
		if kt.flags&setFlags == 0 {
			t.Fatalf("table %s: nothing keeps it, flags %#x", kt.name, kt.flags)
		}
		if kt.flags&flagActive == 0 && kt.cnt() > 0 {
			t.Fatalf("table %s: inactive with %d entries", kt.name, kt.cnt())
		}
		if i > 0 {
			before := k.tables[i-1]
			if before.name > kt.name || before.name == kt.name && before.anchor >= kt.anchor {
				t.Fatalf("tables %s and %s: out of order", before.name, kt.name)
			}
		}
		count(kt)
	}
	for _, kt := range k.tables {
		if kt.refs[refAnchor] != refs[kt] {
			t.Fatalf("table %s: %d references by anchors, %d counted", kt.name, refs[kt], kt.refs[refAnchor])
		}
	}
	if k.entries != plain {
		t.Fatalf("%d entries are out of the pool, tables have %d", k.entries, plain)
	}
	if got := k.inUse[pfioctl.LimitTables]; got != pool {
		t.Fatalf("%d tables are out of the pool, there are %d", got, pool)
	}
	if got := k.inUse[abi.LimitAnchors]; got != len(k.anchors) {
		t.Fatalf("%d anchors are out of the pool, there are %d", got, len(k.anchors))
	}
	if k.main.tables != attached[&k.main] {
		t.Fatalf("main ruleset: %d tables counted, %d attached", k.main.tables, attached[&k.main])
	}
	children, calls := map[*anchor]int{}, map[*anchor]int{}
	rulesets := []*ruleset{&k.main}
	for path, a := range k.anchors {
		rulesets = append(rulesets, &a.rs)
		children[a.parent]++
		if a.path != path || a.parent != nil && k.anchors[a.parent.path] != a.parent {
			t.Fatalf("anchor %s hangs in the air", path)
		}
		if a.rs.tables != attached[&a.rs] {
			t.Fatalf("anchor %s: %d tables counted, %d attached", a.path, a.rs.tables, attached[&a.rs])
		}
	}
	rules := map[*ktable]int32{}
	for _, rs := range rulesets {
		for _, l := range append(slices.Clone(rs.active), rs.inactive...) {
			if l.anchor != nil {
				calls[l.anchor]++
			}
			for _, kt := range []*ktable{l.src, l.dst} {
				if kt != nil {
					rules[kt]++
				}
			}
		}
	}
	for a, n := range calls {
		if k.anchors[a.path] != a {
			t.Fatalf("anchor %s is called %d times and not there", a.path, n)
		}
	}
	for _, a := range k.anchors {
		if a.children != children[a] || a.calls != calls[a] {
			t.Fatalf("anchor %s: %d children and %d calls counted, %d and %d there", a.path, a.children, a.calls, children[a], calls[a])
		}
	}
	for kt, n := range rules {
		if kt.gone || kt.refs[refRule] != n {
			t.Fatalf("table %s: %d references by rules, %d counted, destroyed %v", kt.name, n, kt.refs[refRule], kt.gone)
		}
	}
}

func checkCounts[E entry[E]](t testing.TB, kt *ktable, c *column[E]) {
	t.Helper()
	got := map[uint8]int32{}
	for _, e := range c.list {
		got[e.bits()]++
	}
	for n, want := range c.count {
		if got[uint8(n)] != want {
			t.Fatalf("table %s: %d entries of length %d, counted %d", kt.name, got[uint8(n)], n, want)
		}
	}
}

// TestModel holds random requests against the model.
func TestModel(t *testing.T) {
	rounds := 3000
	if testing.Short() {
		rounds = 300
	}
	for _, release := range []string{"6.9", "7.8"} {
		t.Run(release, func(t *testing.T) {
			r := rand.New(rand.NewPCG(1, 7))
			k := New(Options{Release: release})
			x := makeTable(t, k, "t", pfioctl.TablePersist)
			m := model{}
			for i := range rounds {
				step(t, r, x, m)
				if t.Failed() {
					t.Fatalf("in round %d", i)
				}
			}
			checkKernel(t, k)
		})
	}
}

func step(t *testing.T, r *rand.Rand, x *table, m model) {
	t.Helper()
	list := randomElements(r, m)
	flags := abi.RequestFlags(r.IntN(2)) * abi.FlagFeedback
	dummy := r.IntN(4) == 0
	if dummy {
		flags |= abi.FlagDummy
	}
	b := array(list, 64)
	io := x.io(flags, b, len(list))
	want := make([]abi.Feedback, len(list))
	next := model{}
	for p, not := range m {
		next[p] = not
	}
	var added, deleted, changed int
	seen := map[netip.Prefix]bool{}
	op := r.IntN(5)
	switch op {
	case 0: // set
		for i, e := range list {
			was, there := m[e.p]
			switch {
			case seen[e.p]:
				want[i] = abi.FeedbackDuplicate
			case there && was != e.not:
				want[i] = abi.FeedbackChanged
				changed++
			case there:
			case unroutable(e.p):
				continue
			default:
				want[i] = abi.FeedbackAdded
				added++
			}
			if !seen[e.p] {
				next[e.p] = e.not
			}
			seen[e.p] = true
		}
		var gone []netip.Prefix
		for _, p := range m.sorted() {
			if !seen[p] {
				gone = append(gone, p)
				delete(next, p)
			}
		}
		deleted = len(gone)
		io.Size2 = int32(r.IntN(64))
		if need := len(list) + len(gone); flags&abi.FlagFeedback != 0 && io.Size2 != 0 && int(io.Size2) < need {
			// Too small: nothing is done and the size is returned.
			io.Nadd, io.Ndel, io.Nchange = 7, 8, 9
			if err := x.call(x.k.req.SetAddrs, io); err != nil || int(io.Size2) != need ||
				io.Nadd != 7 || io.Ndel != 8 || io.Nchange != 9 {
				t.Errorf("set with small size2: %v, %d %d %d %d, want size2 %d", err, io.Size2, io.Nadd, io.Ndel, io.Nchange, need)
			}
			compare(t, x, m)
			return
		}
		full := io.Size2 != 0
		if err := x.call(x.k.req.SetAddrs, io); err != nil {
			t.Fatal(err)
		}
		if int(io.Nadd) != added || int(io.Ndel) != deleted || int(io.Nchange) != changed {
			t.Errorf("set %v: +%d -%d ~%d, want +%d -%d ~%d", list, io.Nadd, io.Ndel, io.Nchange, added, deleted, changed)
		}
		if flags&abi.FlagFeedback != 0 && full {
			for i, p := range slices.Backward(gone) {
				at := len(list) + len(gone) - 1 - i
				if e := elementAt(b, at); e != (element{p, m[p]}) || feedbackAt(b, at) != abi.FeedbackDeleted {
					t.Errorf("set: element %d is %v %v, want %v deleted", at, e, feedbackAt(b, at), p)
				}
			}
		}
	case 1: // add
		order := make([]int, len(list))
		for i := range order {
			order[i] = i
		}
		turned := x.k.num >= 71
		if turned {
			slices.Reverse(order)
		}
		for _, i := range order {
			e := list[i]
			was, there := m[e.p]
			switch {
			case seen[e.p]:
				want[i] = abi.FeedbackDuplicate
			case there && was != e.not:
				want[i] = abi.FeedbackConflict
			case there || unroutable(e.p):
			default:
				want[i] = abi.FeedbackAdded
				next[e.p] = e.not
				seen[e.p] = true
				added++
			}
		}
		if err := x.call(x.k.req.AddAddrs, io); err != nil {
			t.Fatal(err)
		}
		if int(io.Nadd) != added {
			t.Errorf("add %v: %d, want %d", list, io.Nadd, added)
		}
		if turned {
			slices.Reverse(want)
			if flags&abi.FlagFeedback != 0 {
				for i := range list {
					if got, e := elementAt(b, i).p, list[len(list)-1-i].p; got != e {
						t.Errorf("add: element %d is %v, want %v", i, got, e)
					}
				}
			}
		}
	case 2: // delete
		for i, e := range list {
			was, there := m[e.p]
			switch {
			case !there:
			case was != e.not:
				want[i] = abi.FeedbackConflict
			case seen[e.p]:
				want[i] = abi.FeedbackDuplicate
			default:
				want[i] = abi.FeedbackDeleted
				delete(next, e.p)
				seen[e.p] = true
				deleted++
			}
		}
		if err := x.call(x.k.req.DelAddrs, io); err != nil {
			t.Fatal(err)
		}
		if int(io.Ndel) != deleted {
			t.Errorf("delete %v: %d, want %d", list, io.Ndel, deleted)
		}
	case 3: // test
		n := 0
		list = slices.DeleteFunc(list, func(e element) bool { return !e.p.IsSingleIP() })
		b = array(list, 0)
		io = x.io(abi.RequestFlags(r.IntN(2))*abi.FlagReplace, b, len(list))
		if err := x.call(x.k.req.TstAddrs, io); err != nil {
			t.Fatal(err)
		}
		for i, e := range list {
			p, ok := m.decides(e.p.Addr())
			code := abi.FeedbackNone
			if ok && m[p] {
				code = abi.FeedbackNotMatch
			} else if ok {
				code = abi.FeedbackMatch
				n++
			}
			if got := feedbackAt(b, i); got != code {
				t.Errorf("test %v: %v, want %v", e, got, code)
			}
			if ok && io.Flags != 0 && elementAt(b, i) != (element{p, m[p]}) {
				t.Errorf("test %v: replaced by %v, want %v", e, elementAt(b, i), p)
			}
		}
		if int(io.Nadd) != n {
			t.Errorf("test: %d match, want %d", io.Nadd, n)
		}
		compare(t, x, m)
		return
	case 4: // clear, now and then
		if r.IntN(8) > 0 {
			return
		}
		io := x.io(flags&abi.FlagDummy, nil, 0)
		io.Esize = 0
		if err := x.call(x.k.req.ClrAddrs, io); err != nil || int(io.Ndel) != len(m) {
			t.Errorf("clear: %v, %d, want %d", err, io.Ndel, len(m))
		}
		want = nil
		clear(next)
	}
	for i, w := range want {
		if flags&abi.FlagFeedback == 0 {
			w = abi.FeedbackNone
		}
		if got := feedbackAt(b, i); got != w {
			t.Errorf("operation %d, element %d %v: feedback %v, want %v", op, i, list[i], got, w)
		}
	}
	if !dummy {
		clear(m)
		for p, not := range next {
			m[p] = not
		}
	}
	compare(t, x, m)
}

// compare holds the table against the model, in the kernel's order.
func compare(t *testing.T, x *table, m model) {
	t.Helper()
	var want []element
	for _, p := range m.sorted() {
		want = append(want, element{p, m[p]})
	}
	if got := x.content(); !slices.Equal(got, want) {
		t.Errorf("table is\n%v\nwant\n%v", got, want)
	}
	for range 2 {
		a := randomPrefix(rand.New(rand.NewPCG(uint64(len(m)), 3))).Addr()
		p, ok := m.decides(a)
		kt := x.k.findTable(x.Anchor, x.Name)
		if got := kt.matches(hostPrefix(a)); got != (ok && !m[p]) {
			t.Errorf("a packet from %v: match %v, want %v by %v", a, got, ok && !m[p], p)
		}
	}
	if x.k.entries != len(m) {
		t.Errorf("%d entries are out of the pool, want %d", x.k.entries, len(m))
	}
}

// TestLimitIsExact sets, at every limit, an array that needs one entry less,
// as many, and one more than there are.
func TestLimitIsExact(t *testing.T) {
	host := func(i int) element {
		var a [4]byte
		binary.BigEndian.PutUint32(a[:], 0x0a000000+uint32(i))
		return element{netip.PrefixFrom(netip.AddrFrom4(a), 32), false}
	}
	for old := range 6 {
		for fresh := range 6 {
			for limit := max(old, 1); limit < 12; limit++ {
				t.Run(fmt.Sprintf("%d old, %d new, limit %d", old, fresh, limit), func(t *testing.T) {
					k := New(Options{MaxEntries: limit})
					x := makeTable(t, k, "t", pfioctl.TablePersist)
					var was, will []element
					for i := range old {
						was = append(was, host(i))
					}
					for i := range fresh {
						will = append(will, host(100+i), host(100+i)) // a duplicate takes nothing
					}
					if err := x.call(k.req.SetAddrs, x.io(0, array(was, 0), len(was))); err != nil {
						t.Fatal(err)
					}
					err := x.call(k.req.SetAddrs, x.io(0, array(will, 0), len(will)))
					if old+fresh > limit {
						if err != syscall.ENOMEM || !slices.Equal(x.content(), was) {
							t.Fatalf("%v, table %v, want ENOMEM and the old table", err, x.content())
						}
					} else if err != nil || len(x.content()) != fresh {
						t.Fatalf("%v, table %v, want the new table", err, x.content())
					}
					checkKernel(t, k)
				})
			}
		}
	}
}
