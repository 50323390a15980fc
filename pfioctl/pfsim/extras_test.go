package pfsim

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"

	"example.org/threatstopd/pfioctl"
	"example.org/threatstopd/pfioctl/internal/abi"
)

// pooled makes an element of a kind that only address pools use.
func pooled(b []byte, i int, typ uint8, weight uint16, ifname string) {
	a := b[i*addrSize:]
	a[addrType] = typ
	binary.NativeEndian.PutUint16(a[addrWeight:], weight)
	copy(a[addrIfname:][:ifnameSize], ifname)
}

func readPooled(b []byte, n int) (list []addrAnswer) {
	for i := range n {
		list = append(list, readAddr(b[i*addrSize:], true))
	}
	return list
}

// TestPoolEntries is the two kinds of entries that table-entries does not
// limit.
func TestPoolEntries(t *testing.T) {
	k := New(Options{MaxEntries: 1})
	x := makeTable(t, k, "t", pfioctl.TablePersist)
	get := func() []addrAnswer {
		t.Helper()
		b := array(nil, 8)
		io := x.io(0, b, 8)
		must(t, x.call(k.req.GetAddrs, io))
		return readPooled(b, int(io.Size))
	}
	three := elements("10.0.0.1", "10.0.0.2", "10.0.0.3")
	b := array(three, 0)
	pooled(b, 1, routeEntry, 9, "em0")
	pooled(b, 2, costEntry, 7, "an-interface-of-16"[:16])
	must(t, x.call(k.req.SetAddrs, x.io(0, b, 3)))
	if k.entries != 1 {
		t.Errorf("%d entries count against the limit, want 1", k.entries)
	}
	want := []addrAnswer{
		{AF: 2, Addr: "10.0.0.1", Net: 32},
		{AF: 2, Addr: "10.0.0.2", Net: 32, Type: routeEntry, Ifname: "em0"},
		{AF: 2, Addr: "10.0.0.3", Net: 32, Type: costEntry, Weight: 7, Ifname: "an-interface-of"},
	}
	if diff := cmp.Diff(want, get()); diff != "" {
		t.Errorf("- want, + got:\n%s", diff)
	}
	checkKernel(t, k)

	// Setting the same as plain entries leaves them what they are.
	must(t, x.call(k.req.SetAddrs, x.io(0, array(three, 0), 3)))
	if diff := cmp.Diff(want, get()); diff != "" {
		t.Errorf("after the same without types: - want, + got:\n%s", diff)
	}

	// An added cost entry comes back with the weight of the last element, and
	// has it from then on.
	b = array(elements("10.0.0.4", "10.0.0.5"), 0)
	pooled(b, 0, costEntry, 3, "")
	pooled(b, 1, costEntry, 4, "em1")
	must(t, x.call(k.req.AddAddrs, x.io(abi.FlagFeedback, b, 2)))
	want = append(want,
		addrAnswer{AF: 2, Addr: "10.0.0.4", Net: 32, Type: costEntry, Weight: 4},
		addrAnswer{AF: 2, Addr: "10.0.0.5", Net: 32, Type: costEntry, Weight: 4, Ifname: "em1"})
	if diff := cmp.Diff(want, get()); diff != "" {
		t.Errorf("after adding: - want, + got:\n%s", diff)
	}
	added := abi.FeedbackAdded
	if diff := cmp.Diff([]addrAnswer{
		{AF: 2, Addr: "10.0.0.5", Net: 32, Type: costEntry, Weight: 4, Ifname: "em1", Fback: feedback(added)},
		{AF: 2, Addr: "10.0.0.4", Net: 32, Type: costEntry, Weight: 4, Ifname: "em1", Fback: feedback(added)},
	}, readPooled(b, 2)); diff != "" {
		t.Errorf("feedback: - want, + got:\n%s", diff)
	}
	checkKernel(t, k)

	// A transaction brings them too, and keeps those that are there.
	begin := func() uint32 {
		e := abi.PfiocTransE{Type: transTable}
		must(t, x.d.Ioctl(k.req.XBegin, unsafe.Pointer(&abi.PfiocTrans{Size: 1, Esize: int32(transSize), Array: unsafe.Pointer(&e)})))
		return e.Ticket
	}
	b = array(elements("10.0.0.3", "10.0.0.6"), 0)
	pooled(b, 1, costEntry, 0, "em2")
	io := x.io(abi.FlagAddrsToo, b, 2)
	io.Ticket, io.Table.Flags = begin(), flagPersist
	k.SetLimit(pfioctl.LimitTableEntries, 2) // 10.0.0.3 is plain here, and one beside the one in the table
	must(t, x.call(k.req.InaDefine, io))
	e := abi.PfiocTransE{Type: transTable, Ticket: io.Ticket}
	must(t, x.d.Ioctl(k.req.XCommit, unsafe.Pointer(&abi.PfiocTrans{Size: 1, Esize: int32(transSize), Array: unsafe.Pointer(&e)})))
	if diff := cmp.Diff([]addrAnswer{want[2], {AF: 2, Addr: "10.0.0.6", Net: 32, Type: costEntry, Weight: 1, Ifname: "em2"}}, get()); diff != "" {
		t.Errorf("after a commit: - want, + got:\n%s", diff)
	}
	if k.entries != 0 {
		t.Errorf("%d entries count against the limit, want 0", k.entries)
	}
	checkKernel(t, k)

	if err := x.call(k.req.DelAddrs, x.io(0, array(elements("10.0.0.3"), 0), 1)); err != nil || len(get()) != 1 {
		t.Errorf("delete: %v, %v", err, get())
	}
	clr := x.io(0, nil, 0)
	clr.Esize = 0
	must(t, x.call(k.req.ClrAddrs, clr))
	if kt := k.findTable("", "t"); len(kt.extras) != 0 || kt.epochs != nil {
		t.Errorf("an empty table keeps %d extras and %d times", len(kt.extras), len(kt.epochs))
	}
	checkKernel(t, k)
}

// TestWeightsLoseChanges is what becomes of entries whose negation changes
// where the table has, or has had, entries with a weight: the queue of changes
// is walked from its head into the queue of all entries.
func TestWeightsLoseChanges(t *testing.T) {
	list := elements("!10.0.0.3", "!10.0.0.2", "10.0.0.1", "10.0.0.4", "10.0.0.9")
	const pool = 4 // of list
	commit := func(x *table, b []byte) {
		t.Helper()
		e := abi.PfiocTransE{Type: transTable}
		trans := abi.PfiocTrans{Size: 1, Esize: int32(transSize), Array: unsafe.Pointer(&e)}
		must(t, x.d.Ioctl(x.k.req.XBegin, unsafe.Pointer(&trans)))
		io := x.io(abi.FlagAddrsToo, b, len(b)/addrSize)
		io.Ticket, io.Table.Flags = e.Ticket, flagPersist
		must(t, x.call(x.k.req.InaDefine, io))
		must(t, x.d.Ioctl(x.k.req.XCommit, unsafe.Pointer(&trans)))
	}
	set := func(x *table, b []byte) {
		t.Helper()
		must(t, x.call(x.k.req.SetAddrs, x.io(0, b, len(b)/addrSize)))
	}
	for _, tt := range []struct {
		name   string
		typ    uint8
		prep   func(x *table, b []byte)
		change func(x *table, b []byte)
		want   []element
	}{
		{
			"plain entries", plainEntry, nil, set,
			elements("10.0.0.1", "!10.0.0.2", "!10.0.0.3", "10.0.0.4", "10.0.0.9"),
		},
		{
			"an interface is no weight", routeEntry, nil, set,
			elements("10.0.0.1", "!10.0.0.2", "!10.0.0.3", "10.0.0.4", "10.0.0.9"),
		},
		{ // from the last one of the request that changes
			"set", costEntry, nil, set,
			elements("!10.0.0.1", "!10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.9"),
		},
		{ // from the first one of the table that changes
			"commit", costEntry, nil, func(x *table, _ []byte) {
				commit(x, array(elements("10.0.0.1", "!10.0.0.2", "!10.0.0.3", "10.0.0.4", "10.0.0.9"), 0))
			},
			elements("!10.0.0.1", "!10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.9"),
		},
		{ // set counts it twice, so that it is still counted when it is gone
			"set, then gone", costEntry, func(x *table, b []byte) {
				must(t, x.call(x.k.req.DelAddrs, x.io(0, b[pool*addrSize:], 1)))
			}, set,
			elements("!10.0.0.1", "!10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.9"),
		},
		{ // a set that only says what it would do counts too
			"only asked for", plainEntry, func(x *table, _ []byte) {
				b := array(elements("10.0.0.8"), 0)
				pooled(b, 0, costEntry, 1, "")
				must(t, x.call(x.k.req.SetAddrs, x.io(abi.FlagDummy, b, 1)))
			}, set,
			elements("!10.0.0.1", "!10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.9"),
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			x := makeTable(t, New(Options{}), "t", pfioctl.TablePersist)
			b := array(elements("10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.9"), 0)
			pooled(b, pool, tt.typ, 1, "")
			set(x, b)
			if tt.prep != nil {
				tt.prep(x, array(list, 0))
			}
			tt.change(x, array(list, 0))
			if diff := cmp.Diff(tt.want, x.content(), cmp.AllowUnexported(element{}), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
				t.Errorf("- want, + got:\n%s", diff)
			}
			checkKernel(t, x.k)
		})
	}
	// What was added, not set, is counted once.
	x := makeTable(t, New(Options{}), "t", pfioctl.TablePersist)
	b := array(elements("10.0.0.9"), 0)
	pooled(b, 0, costEntry, 1, "")
	must(t, x.call(x.k.req.AddAddrs, x.io(0, b, 1)))
	must(t, x.call(x.k.req.DelAddrs, x.io(0, array(elements("10.0.0.9"), 0), 1)))
	set(x, array(elements("10.0.0.1", "10.0.0.2"), 0))
	set(x, array(elements("10.0.0.1", "!10.0.0.2"), 0))
	if got := x.content(); got[0].not || !got[1].not {
		t.Errorf("after an entry with a weight came and went: %v", got)
	}
}

// astats reads the addresses with their counters: packets in and out, of any
// outcome, and since when.
func (x *table) astats(t *testing.T, flags abi.RequestFlags) (packets []uint64, since []int64, codes []abi.Feedback) {
	t.Helper()
	l := x.k.layout.AStats
	b := make([]byte, 8*l.Size)
	io := x.io(flags, b, 8)
	io.Esize = int32(l.Size)
	must(t, x.call(x.k.req.GetAStats, io))
	order := x.k.layout.Order()
	for i := range int(io.Size) {
		a := b[i*l.Size:][:l.Size]
		n := uint64(0)
		for j := range 6 {
			n += order.Uint64(a[l.Packets+8*j:])
		}
		packets = append(packets, n)
		since = append(since, int64(order.Uint64(a[l.Tzero:])))
		codes = append(codes, abi.Feedback(a[addrFback]))
	}
	return packets, since, codes
}

// TestCounters follows the counters of addresses through what keeps and what
// clears them.
func TestCounters(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	k := New(Options{Now: func() time.Time { return now }})
	k.SetRunning(true)
	load(t, k, Ruleset{
		Tables: []TableLine{{pfioctl.Table{Name: "t"}, pfioctl.TablePersist | pfioctl.TableCounters, strings.NewReader("10.0.0.1 10.0.0.2 10.0.0.3")}},
		Rules:  []Rule{{Action: match, From: Peer{Table: "t"}}, {Action: block, Dir: out, From: Peer{Table: "t"}}},
	})
	x := &table{t, k, k.Open(true), pfioctl.Table{Name: "t"}}
	first := now.Unix()
	hit := func() {
		for _, a := range []string{"10.0.0.1", "10.0.0.2"} {
			k.Verdict(packet(a, "192.0.2.1", out))
		}
	}
	check := func(what string, flags abi.RequestFlags, packets []uint64, since []int64) {
		t.Helper()
		p, s, codes := x.astats(t, flags)
		if !slices.Equal(p, packets) || !slices.Equal(s, since) {
			t.Errorf("%s: %v packets since %v, want %v since %v", what, p, s, packets, since)
		}
		for i, code := range codes {
			want := abi.FeedbackNone
			if packets[i] == 0 {
				want = abi.FeedbackNoCount
			}
			if code != want {
				t.Errorf("%s: entry %d is %v, want %v", what, i, code, want)
			}
		}
		checkKernel(t, k)
	}
	check("at first", 0, []uint64{0, 0, 0}, []int64{first, first, first})
	hit()
	hit()
	check("after packets", 0, []uint64{2, 2, 0}, []int64{first, first, first})

	now = now.Add(time.Hour)
	must(t, x.call(k.req.SetAddrs, x.io(0, array(elements("10.0.0.1", "!10.0.0.2", "10.0.0.3"), 0), 3)))
	check("a flipped entry begins anew", 0, []uint64{2, 0, 0}, []int64{first, now.Unix(), first})
	later := now.Unix()

	now = now.Add(time.Hour)
	must(t, x.call(k.req.ClrAStats, x.io(0, array(elements("10.0.0.3", "10.0.0.9"), 0), 2)))
	check("cleared one", 0, []uint64{2, 0, 0}, []int64{first, later, now.Unix()})

	ro := *x
	ro.d = k.Open(false)
	now = now.Add(time.Hour)
	if p, _, _ := ro.astats(t, abi.FlagClrStats); !slices.Equal(p, []uint64{2, 0, 0}) {
		t.Errorf("read and cleared: %v", p)
	}
	check("cleared through a read-only descriptor", 0, []uint64{0, 0, 0}, []int64{now.Unix(), now.Unix(), now.Unix()})

	hit()
	check("10.0.0.2 is negated now", 0, []uint64{1, 0, 0}, []int64{now.Unix(), now.Unix(), now.Unix()})
	kt := k.findTable("", "t")
	if kt.match == 0 || kt.packets == ([2][4]uint64{}) {
		t.Error("the table itself has not counted")
	}
	at := now.Unix()
	now = now.Add(time.Hour)
	one := &abi.PfrTable{}
	copy(one.Name[:], "t")
	io := x.io(0, nil, 1)
	io.Buffer, io.Esize = unsafe.Pointer(one), int32(tableSize)
	must(t, x.call(k.req.ClrTStats, io))
	if kt.match != 0 || kt.packets != ([2][4]uint64{}) || kt.tzero != now.Unix() {
		t.Errorf("CLRTSTATS left %d, %v, %d", kt.match, kt.packets, kt.tzero)
	}
	check("CLRTSTATS of the table alone", 0, []uint64{1, 0, 0}, []int64{at, at, at})
	io.Flags = abi.FlagAddrsToo
	must(t, x.call(k.req.ClrTStats, io))
	check("and of its addresses", 0, []uint64{0, 0, 0}, []int64{now.Unix(), now.Unix(), now.Unix()})
}

// TestTablesWithoutCounters count as a whole.
func TestTablesWithoutCounters(t *testing.T) {
	k := New(Options{})
	k.SetRunning(true)
	load(t, k, Ruleset{
		Tables: []TableLine{{pfioctl.Table{Name: "t"}, pfioctl.TablePersist, strings.NewReader("10/8")}},
		Rules:  []Rule{{Action: block, From: Peer{Table: "t"}}, {From: Peer{Table: "t", Not: true}}},
	})
	k.Verdict(packet("10.0.0.1", "192.0.2.1", in))
	k.Verdict(packet("192.0.2.2", "192.0.2.1", in))
	kt := k.findTable("", "t")
	if want := [2][4]uint64{{0: 1, 2: 1}}; kt.packets != want {
		t.Errorf("packets %v, want %v", kt.packets, want)
	}
	if len(kt.extras) != 0 {
		t.Error("an address was counted")
	}
}

// TestSkipSteps is what a table does not count, because an earlier rule had the
// same address in it and did not match.
func TestSkipSteps(t *testing.T) {
	k := New(Options{})
	k.SetRunning(true)
	bad := Peer{Table: "bad"}
	load(t, k, Ruleset{
		Tables: []TableLine{{pfioctl.Table{Name: "bad"}, pfioctl.TablePersist, strings.NewReader("10/8")}},
		Rules: []Rule{
			{Action: block, From: bad}, {Action: block, Proto: protoTCP, From: bad}, {Action: block, Log: true, From: bad},
			{Action: block, To: bad}, {Action: block, Log: true, To: bad},
			{Action: block, From: bad},
		},
	})
	k.Verdict(packet("192.0.2.1", "192.0.2.2", in))
	if kt := k.findTable("", "bad"); kt.nomatch != 3 || kt.match != 0 {
		t.Errorf("%d no match, %d match, want 3 and 0", kt.nomatch, kt.match)
	}
	var evaluated []uint64
	for _, r := range k.main.active {
		evaluated = append(evaluated, r.evaluations)
	}
	if want := []uint64{1, 0, 0, 1, 0, 1}; !slices.Equal(evaluated, want) {
		t.Errorf("evaluations %v, want %v", evaluated, want)
	}
}

// TestStaleRoot is the root table that outlives its reason: named together
// with the table of an anchor, it is given back the flag that the latter took
// with it.
func TestStaleRoot(t *testing.T) {
	k := New(Options{})
	pf := k.OpenPF()
	root, in := pfioctl.Table{Name: "t"}, pfioctl.Table{Anchor: "a", Name: "t"}
	if _, err := pf.AddTables(pfioctl.TablePersist, in, root); err != nil {
		t.Fatal(err)
	}
	two := make([]abi.PfrTable, 2)
	copy(two[0].Name[:], "t")
	copy(two[1].Name[:], "t")
	copy(two[1].Anchor[:], "a")
	io := &abi.PfiocTable{Buffer: unsafe.Pointer(&two[0]), Esize: int32(tableSize), Size: 2}
	must(t, k.Open(true).Ioctl(k.req.DelTables, unsafe.Pointer(io)))
	if io.Ndel != 2 {
		t.Errorf("%d deleted, want 2", io.Ndel)
	}
	if kt := k.findTable("", "t"); kt == nil || kt.flags != flagRefdAnchor || kt.refs[refAnchor] != 0 {
		t.Errorf("the root table: %+v", kt)
	}
	if k.findTable("a", "t") != nil || len(k.anchors) != 0 {
		t.Error("the anchor's table is still there")
	}
}

// TestAnchorsThatCannotBe are paths of which the kernel makes no ruleset, or
// another than one would think.
func TestAnchorsThatCannotBe(t *testing.T) {
	long := strings.Repeat("x", 64)
	for _, c := range []struct {
		anchor  string
		nadd    int
		anchors string // that exist then
	}{
		{"a", 1, "a"}, {"a/b/c", 1, "a a/b a/b/c"}, {"///a", 1, "a"}, {"a/", 1, "a"},
		{"a//b", 0, "a"}, {long, 0, ""}, {"a/" + long + "/b", 0, "a"}, {strings.Repeat("x", 63), 1, strings.Repeat("x", 63)},
	} {
		k := New(Options{})
		tb := abi.PfrTable{Flags: flagPersist}
		copy(tb.Anchor[:], c.anchor)
		copy(tb.Name[:], "t")
		io := &abi.PfiocTable{Buffer: unsafe.Pointer(&tb), Esize: int32(tableSize), Size: 1}
		must(t, k.Open(true).Ioctl(k.req.AddTables, unsafe.Pointer(io)))
		var paths []string
		for path := range k.anchors {
			paths = append(paths, path)
		}
		slices.Sort(paths)
		if got := strings.Join(paths, " "); int(io.Nadd) != c.nadd || got != c.anchors {
			t.Errorf("anchor %.70q: %d added and anchors %.70q, want %d and %.70q", c.anchor, io.Nadd, got, c.nadd, c.anchors)
		}
		checkKernel(t, k)
	}
	k := New(Options{})
	k.SetLimit(abi.LimitAnchors, 2)
	pf := k.OpenPF()
	pf.AddTables(pfioctl.TablePersist, pfioctl.Table{Anchor: "a", Name: "t"}, pfioctl.Table{Anchor: "b", Name: "t"}, pfioctl.Table{Anchor: "c", Name: "t"})
	if k.findTable("b", "t") == nil || k.findTable("c", "t") != nil {
		t.Error("the limit of anchors was not kept")
	}
	checkKernel(t, k)
}

// TestRuleTransactions opens more reads of the rules than one device may, and
// loads rules under one.
func TestRuleTransactions(t *testing.T) {
	k := New(Options{})
	load(t, k, Ruleset{Rules: []Rule{{}}})
	d := k.Open(false)
	io := make([]byte, k.layout.Rule.Ioc)
	head := structOf[abi.PfiocRuleHead](io)
	call := func(d *Device, nr uint) error { return d.Ioctl(nr, unsafe.Pointer(&io[0])) }
	for range maxReads {
		must(t, call(d, k.req.GetRules))
	}
	if err := call(d, k.req.GetRules); err != syscall.EBUSY {
		t.Errorf("one more: %v, want EBUSY", err)
	}
	must(t, d.Close())
	if len(k.trans.open) != 0 {
		t.Errorf("closing the device left %d open", len(k.trans.open))
	}
	d = k.Open(false)
	must(t, call(d, k.req.GetRules))
	if head.Nr != 1 {
		t.Errorf("%d rules, want 1", head.Nr)
	}
	if err := call(k.Open(false), k.req.GetRule); err != syscall.ENXIO {
		t.Errorf("with the ticket of another descriptor: %v, want ENXIO", err)
	}
	head.Action = getClearCounters
	if err := call(d, k.req.GetRule); err != syscall.EACCES {
		t.Errorf("clearing counters through a read-only descriptor: %v, want EACCES", err)
	}
	head.Action = 0
	must(t, call(d, k.req.GetRule))
	if err := call(d, k.req.GetRule); err != syscall.ENOENT {
		t.Errorf("behind the last rule: %v, want ENOENT", err)
	}
	load(t, k, Ruleset{})
	if err := call(d, k.req.GetRule); err != syscall.EBUSY {
		t.Errorf("after a load: %v, want EBUSY", err)
	}
	ticket := head.Ticket
	must(t, d.Ioctl(k.req.XEnd, unsafe.Pointer(&ticket)))
	if err := d.Ioctl(k.req.XEnd, unsafe.Pointer(&ticket)); err != syscall.ENXIO {
		t.Errorf("ended twice: %v, want ENXIO", err)
	}
	copy(head.Anchor[:], "nosuch")
	if err := call(d, k.req.GetRules); err != syscall.EINVAL {
		t.Errorf("an anchor that is not there: %v, want EINVAL", err)
	}
}

// TestLoadIsAllOrNothing lets a load fail at each of its parts.
func TestLoadIsAllOrNothing(t *testing.T) {
	good := func() Ruleset {
		return Ruleset{
			Rules:   []Rule{{Action: block, From: Peer{Table: "t"}}, {Anchor: "a"}},
			Anchors: map[string][]Rule{"a": {{To: Peer{Table: "u"}}}},
			Tables:  []TableLine{{pfioctl.Table{Name: "t"}, pfioctl.TablePersist, strings.NewReader("10/8")}},
		}
	}
	for name, spoil := range map[string]func(rs *Ruleset){
		"a table's file": func(rs *Ruleset) { rs.Tables[0].File = strings.NewReader("nonsense") },
		"a table's name": func(rs *Ruleset) { rs.Tables[0].Table.Name = strings.Repeat("t", 32) },
		"a table's anchor": func(rs *Ruleset) {
			rs.Tables = append(rs.Tables, TableLine{Table: pfioctl.Table{Anchor: "x//y", Name: "t"}})
		},
		"an anchor": func(rs *Ruleset) { rs.Anchors["b//c"] = nil },
		"a call":    func(rs *Ruleset) { rs.Rules = append(rs.Rules, Rule{Anchor: "../b"}) },
		"too many tables": func(rs *Ruleset) {
			for _, name := range []string{"v", "w", "x", "y", "z"} {
				rs.Rules = append(rs.Rules, Rule{From: Peer{Table: name}})
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			k := New(Options{MaxTables: 8})
			load(t, k, good())
			before := snapshot(k)
			rs := good()
			rs.Tables[0].File = strings.NewReader("192.0.2.0/24")
			spoil(&rs)
			if err := k.LoadRules(rs); err == nil {
				t.Fatal("it loaded")
			}
			checkKernel(t, k)
			if got := show(t, k, "t"); got != "   10.0.0.0/8\n" {
				t.Errorf("the table is now\n%s", got)
			}
			if len(k.main.active) != 2 || len(k.main.inactive) != 0 || k.main.open || k.main.topen {
				t.Errorf("the main ruleset is now %+v", k.main)
			}
			// Tickets and enforced limits have moved on, tables have not.
			head := func(b []byte) []byte { b, _, _ = bytes.Cut(b, []byte("\n[")); return b }
			if got := head(snapshot(k)); !bytes.Equal(got, head(before)) {
				t.Errorf("tables were\n%s\nand are\n%s", head(before), got)
			}
		})
	}
}

// TestAnchorsComeAndGo takes away, one by one, what keeps anchors in being.
func TestAnchorsComeAndGo(t *testing.T) {
	k := New(Options{})
	pf := k.OpenPF()
	paths := func() string {
		var list []string
		for path := range k.anchors {
			list = append(list, path)
		}
		slices.Sort(list)
		checkKernel(t, k)
		return strings.Join(list, " ")
	}
	above, below := pfioctl.Table{Anchor: "a", Name: "t"}, pfioctl.Table{Anchor: "a/b", Name: "t"}
	load(t, k, Ruleset{Rules: []Rule{{Anchor: "a/b"}, {Anchor: "a/b"}, {Anchor: "c"}}})
	if _, err := pf.AddTables(pfioctl.TablePersist, above, below); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what string
		do   func() error
		want string
	}{
		{"at first", func() error { return nil }, "a a/b c"},
		{"without a table, but with a child", func() error { _, err := pf.DelTables(above); return err }, "a a/b c"},
		{"without a table, but called", func() error { _, err := pf.DelTables(below); return err }, "a a/b c"},
		{"called by one rule instead of two", func() error { return k.LoadRules(Ruleset{Rules: []Rule{{Anchor: "a/b"}}}) }, "a a/b"},
		{"not called", func() error { return k.LoadRules(Ruleset{}) }, ""},
		{"with rules of its own", func() error { return k.LoadRules(Ruleset{Anchors: map[string][]Rule{"a/b": {{}}}}) }, "a a/b"},
		{"without them", func() error { return k.LoadRules(Ruleset{Anchors: map[string][]Rule{"a/b": nil}}) }, ""},
	} {
		if err := c.do(); err != nil {
			t.Fatalf("%s: %v", c.what, err)
		}
		if got := paths(); got != c.want {
			t.Errorf("%s: anchors %q, want %q", c.what, got, c.want)
		}
	}
}
