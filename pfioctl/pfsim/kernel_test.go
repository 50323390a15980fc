package pfsim

import (
	"errors"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"example.org/threatstopd/pfioctl"
	"example.org/threatstopd/pfioctl/internal/abi"
)

func prefixOf(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func elements(list ...string) []element {
	var e []element
	for _, s := range list {
		not := s[0] == '!'
		if not {
			s = s[1:]
		}
		p, err := netip.ParsePrefix(s)
		if err != nil {
			a := netip.MustParseAddr(s)
			p = netip.PrefixFrom(a, a.BitLen())
		}
		e = append(e, element{p, not})
	}
	return e
}

// TestReleases is what the releases answer differently to the same requests.
func TestReleases(t *testing.T) {
	for _, c := range []struct {
		release string

		orderly bool // ADDADDRS: table first, in order, ENOMEM
		referred
	}{
		{"6.9", true, referred{true, true, 1}},
		{"7.0", true, referred{true, true, 1}},
		{"7.1", false, referred{false, false, 0}},
		{"7.2", false, referred{false, false, 0}},
		{"7.3", false, referred{true, false, 0}},
		{"7.4", false, referred{true, true, 0}},
		{"7.5", false, referred{true, true, 0}},
		{"7.6", false, referred{true, true, 0}},
		{"7.7", false, referred{true, true, 0}},
		{"7.8", false, referred{true, true, 0}},
		{"7.9", false, referred{true, true, 0}},
		{"8.0", false, referred{true, true, 0}},
	} {
		t.Run(c.release, func(t *testing.T) {
			t.Run("ADDADDRS", func(t *testing.T) { addAddrsOf(t, c.release, c.orderly) })
			t.Run("ADDTABLES", func(t *testing.T) { addTablesOf(t, c.release, c.referred) })
			t.Run("GETSTATUS", func(t *testing.T) { statusOf(t, c.release) })
			t.Run("names without an end", func(t *testing.T) { endlessNames(t, c.release) })
			t.Run("SETLIMIT", func(t *testing.T) { setLimitOf(t, c.release) })
		})
	}
}

func addAddrsOf(t *testing.T, release string, orderly bool) {
	k := New(Options{Release: release, MaxEntries: 3})
	x := makeTable(t, k, "t", pfioctl.TablePersist)

	bad := array(elements("10.0.0.1"), 0)
	bad[addrNet] = 8 // host bits
	other := *x
	other.Name = "nosuch"
	want := error(syscall.EINVAL)
	if orderly {
		want = syscall.ESRCH
	}
	if err := other.call(k.req.AddAddrs, other.io(0, bad, 1)); err != want {
		t.Errorf("a bad element to a table that is not there: %v, want %v", err, want)
	}

	b := array(elements("10.0.0.1", "!10.0.0.1"), 0)
	if err := x.call(k.req.AddAddrs, x.io(abi.FlagFeedback, b, 2)); err != nil {
		t.Fatal(err)
	}
	got := []abi.Feedback{feedbackAt(b, 0), feedbackAt(b, 1)}
	if !slices.Equal(got, []abi.Feedback{abi.FeedbackAdded, abi.FeedbackDuplicate}) {
		t.Errorf("feedback %v", got)
	}
	// The first wins, or the last.
	if e := x.content(); len(e) != 1 || e[0].not == orderly {
		t.Errorf("table is %v", e)
	}

	err := x.call(k.req.AddAddrs, x.io(0, array(elements("10.0.0.2", "10.0.0.2", "10.0.0.2"), 0), 3))
	if orderly {
		if err != nil || len(x.content()) != 2 {
			t.Errorf("duplicates take nothing: %v, %v", err, x.content())
		}
		err = x.call(k.req.AddAddrs, x.io(0, array(elements("10.0.0.3", "10.0.0.4"), 0), 2))
		if err != syscall.ENOMEM || len(x.content()) != 2 {
			t.Errorf("at the limit: %v, %v, want ENOMEM", err, x.content())
		}
		checkKernel(t, k)
		return
	}
	if !errors.Is(err, ErrHang) {
		t.Errorf("at the limit: %v, want ErrHang", err)
	}
	if err := x.call(k.req.GetAddrs, x.io(0, nil, 0)); !errors.Is(err, ErrHang) {
		t.Errorf("the next request: %v, want ErrHang", err)
	}
	if err := k.LoadRules(Ruleset{}); !errors.Is(err, ErrHang) {
		t.Errorf("pfctl -f: %v, want ErrHang", err)
	}
}

// addTables sends a DIOCRADDTABLES as it is, without the care that pfioctl
// takes.
func addTables(k *Kernel, flags pfioctl.TableFlags, names ...string) (nadd int, err error) {
	list := make([]abi.PfrTable, len(names))
	for i, name := range names {
		copy(list[i].Name[:], name)
		list[i].Flags = flags
	}
	io := &abi.PfiocTable{Buffer: unsafe.Pointer(unsafe.SliceData(list)), Esize: int32(tableSize), Size: int32(len(list))}
	err = k.Open(true).Ioctl(k.req.AddTables, unsafe.Pointer(io))
	return int(io.Nadd), err
}

// referred is what ADDTABLES makes of a table that only a rule mentions.
type referred struct {
	active, flags bool
	nadd          int
}

func addTablesOf(t *testing.T, release string, want referred) {
	k := New(Options{Release: release, MaxTables: 3})
	load(t, k, Ruleset{Rules: []Rule{{From: Peer{Table: "t"}}}})
	n, err := addTables(k, pfioctl.TablePersist|pfioctl.TableCounters, "t")
	if err != nil {
		t.Fatal(err)
	}
	kt := k.findTable("", "t")
	got := referred{kt.flags&flagActive != 0, kt.flags&userFlags == flagPersist|flagCounters, n}
	if got != want {
		t.Errorf("a table that a rule mentions: %+v, want %+v", got, want)
	}
	// With one table there and three allowed, each new one takes one slot or,
	// while the request runs, two.
	_, err = addTables(k, pfioctl.TablePersist, "u", "v")
	if release < "7.1" {
		if err != nil {
			t.Errorf("two tables into two free slots: %v", err)
		}
	} else if !errors.Is(err, syscall.ENOMEM) {
		t.Errorf("two tables into two free slots: %v, want ENOMEM", err)
	}
	checkKernel(t, k)
}

func statusOf(t *testing.T, release string) {
	k := New(Options{Release: release})
	k.SetRunning(true)
	pf := newPF(t, k.Open(false), k)
	s, err := pf.Status()
	if err != nil || !s.Running {
		t.Fatalf("status %+v, %v, want running", s, err)
	}
	other := "7.8"
	if release >= "7.6" {
		other = "7.5"
	}
	foreign := New(Options{Release: other})
	buf := make([]byte, 1024)
	for _, c := range []struct {
		write bool
		want  error
	}{{true, syscall.ENODEV}, {false, syscall.EACCES}} {
		if err := k.Open(c.write).Ioctl(foreign.req.GetStatus, unsafe.Pointer(&buf[0])); err != c.want {
			t.Errorf("the request of %s, write %v: %v, want %v", other, c.write, err, c.want)
		}
	}
}

// endlessNames sends names that fill their field: EINVAL, and from 8.0 on
// ENAMETOOLONG. Before 8.0 the path in a request for rules was cut.
func endlessNames(t *testing.T, release string) {
	k := New(Options{Release: release})
	d := k.Open(true)
	table, rules := error(syscall.EINVAL), error(syscall.EINVAL)
	if release >= "8.0" {
		table, rules = syscall.ENAMETOOLONG, syscall.ENAMETOOLONG
	}
	fill := func(b []byte) {
		for i := range b {
			b[i] = 'x'
		}
	}
	var name, path abi.PfiocTable
	fill(name.Table.Name[:])
	fill(path.Table.Anchor[:])
	for _, io := range []*abi.PfiocTable{&name, &path} {
		io.Table.Name[0] = 'x'
		if err := d.Ioctl(k.req.ClrAddrs, unsafe.Pointer(io)); err != table {
			t.Errorf("table request: %v, want %v", err, table)
		}
	}
	if err := d.Ioctl(k.req.ClrTables, unsafe.Pointer(&path)); err != table {
		t.Errorf("request about an anchor: %v, want %v", err, table)
	}
	b := make([]byte, k.layout.Rule.Ioc)
	fill(structOf[abi.PfiocRuleHead](b).Anchor[:])
	if err := d.Ioctl(k.req.GetRules, unsafe.Pointer(&b[0])); err != rules {
		t.Errorf("DIOCGETRULES: %v, want %v", err, rules)
	}
}

func setLimitOf(t *testing.T, release string) {
	k := New(Options{Release: release})
	d := k.Open(true)
	io := abi.PfiocLimit{Index: pfioctl.LimitTableEntries, Limit: 5}
	must(t, d.Ioctl(k.req.SetLimit, unsafe.Pointer(&io)))
	now := io.Limit == 5
	if now != (release >= "7.8") || !now && io.Limit != 200000 {
		t.Errorf("SETLIMIT came back with %d", io.Limit)
	}
	if got := k.hard[pfioctl.LimitTableEntries] == 5; got != now {
		t.Errorf("enforced at once: %v, want %v", got, now)
	}
	must(t, d.Ioctl(k.req.XCommit, unsafe.Pointer(&abi.PfiocTrans{Esize: int32(transSize)})))
	if k.hard[pfioctl.LimitTableEntries] != 5 {
		t.Error("not enforced after a commit")
	}
	must(t, d.Ioctl(k.req.GetLimit, unsafe.Pointer(&io)))
	if io.Limit != 5 {
		t.Errorf("GETLIMIT says %d, want 5", io.Limit)
	}
}

// TestFaults gives the kernel memory that ends too early, everywhere.
func TestFaults(t *testing.T) {
	k := New(Options{})
	x := makeTable(t, k, "t", pfioctl.TablePersist)
	if err := x.call(k.req.SetAddrs, x.io(0, array(elements("10.0.0.1", "10.0.0.2"), 0), 2)); err != nil {
		t.Fatal(err)
	}
	whole := int(unsafe.Sizeof(abi.PfiocTable{}))
	for _, size := range []int{0, 1, tableSize, whole - 1} {
		b := mapBuffer(t, size)
		if err := x.d.Ioctl(k.req.GetAddrs, b.Pointer()); err != syscall.EFAULT {
			t.Errorf("a struct of %d bytes: %v, want EFAULT", size, err)
		}
		b.Close()
	}
	for name, nr := range map[string]uint{"a request": k.req.GetAddrs, "an unknown request": 0xc4504400 | 250} {
		if err := x.d.Ioctl(nr, nil); err != syscall.EFAULT {
			t.Errorf("%s with nil: %v, want EFAULT", name, err)
		}
	}
	for name, c := range map[string]struct {
		nr    uint
		esize int
	}{
		"GETADDRS": {k.req.GetAddrs, addrSize}, "SETADDRS": {k.req.SetAddrs, addrSize}, "ADDADDRS": {k.req.AddAddrs, addrSize},
		"DELADDRS": {k.req.DelAddrs, addrSize}, "TSTADDRS": {k.req.TstAddrs, addrSize}, "CLRASTATS": {k.req.ClrAStats, addrSize},
		"GETASTATS": {k.req.GetAStats, k.layout.AStats.Size},
		"GETTABLES": {k.req.GetTables, tableSize}, "GETTSTATS": {k.req.GetTStats, k.layout.TStats.Size},
		"ADDTABLES": {k.req.AddTables, tableSize}, "DELTABLES": {k.req.DelTables, tableSize},
		"CLRTSTATS": {k.req.ClrTStats, tableSize}, "SETTFLAGS": {k.req.SetTFlags, tableSize},
	} {
		b := mapBuffer(t, c.esize-1)
		for _, at := range []unsafe.Pointer{nil, b.Pointer()} {
			io := x.io(0, nil, 5)
			io.Esize, io.Buffer = int32(c.esize), at
			if err := x.call(c.nr, io); err != syscall.EFAULT {
				t.Errorf("%s into %v: %v, want EFAULT", name, at, err)
			}
			if io.Size != 5 || io.Nadd != 0 || io.Ndel != 0 {
				t.Errorf("%s changed the caller's struct: %+v", name, io)
			}
		}
		b.Close()
	}
	if got := x.content(); !slices.Equal(got, elements("10.0.0.1", "10.0.0.2")) {
		t.Errorf("the table is now %v", got)
	}
	checkKernel(t, k)
}

// TestNegativeSizeWithFeedback is a size below zero: the deleted entries would
// be written in front of the array, where the caller has other things.
func TestNegativeSizeWithFeedback(t *testing.T) {
	k := New(Options{})
	x := makeTable(t, k, "t", pfioctl.TablePersist)
	must(t, x.call(k.req.SetAddrs, x.io(0, array(elements("10.0.0.1"), 0), 1)))
	b := array(nil, 8)
	io := x.io(abi.FlagFeedback, b[4*addrSize:], -2)
	io.Size2 = 4
	if err := x.call(k.req.SetAddrs, io); err != syscall.EFAULT {
		t.Errorf("%v, want EFAULT", err)
	}
	for _, c := range b {
		if c != 0 {
			t.Fatal("memory in front of the array was written")
		}
	}
	if got := x.content(); len(got) != 1 {
		t.Errorf("the table is now %v", got)
	}
}

// TestRefusalsInOrder gives each refusal a request that deserves all that come
// after it, too.
func TestRefusalsInOrder(t *testing.T) {
	k := New(Options{})
	x := makeTable(t, k, "const", pfioctl.TablePersist|pfioctl.TableConst)
	bad := array(elements("10.0.0.1"), 0)
	bad[addrNot] = 2
	worst := func() *abi.PfiocTable {
		io := x.io(abi.FlagReplace, slices.Clone(bad), 1)
		io.Esize = 1
		io.Table.Name = [32]byte{}
		return io
	}
	for _, c := range []struct {
		name  string
		level int
		write bool
		mend  func(io *abi.PfiocTable)
		want  error
	}{
		{"mode of the descriptor", 1, false, func(io *abi.PfiocTable) {}, syscall.EACCES},
		{"size of the elements", 1, true, func(io *abi.PfiocTable) {}, syscall.ENODEV},
		{"flags", 1, true, func(io *abi.PfiocTable) { io.Esize = int32(addrSize) }, syscall.EINVAL},
		{"table", 1, true, func(io *abi.PfiocTable) {
			io.Esize, io.Flags = int32(addrSize), 0
			copy(io.Table.Name[:], "nosuch")
		}, syscall.ESRCH},
		{"const", 1, true, func(io *abi.PfiocTable) {
			io.Esize, io.Flags = int32(addrSize), 0
			copy(io.Table.Name[:], "const")
		}, syscall.EPERM},
		{"securelevel does not matter", 2, false, func(io *abi.PfiocTable) {}, syscall.EACCES},
	} {
		k.SetSecurelevel(c.level)
		io := worst()
		c.mend(io)
		if err := k.Open(c.write).Ioctl(k.req.SetAddrs, unsafe.Pointer(io)); err != c.want {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	k.SetSecurelevel(2)
	if err := k.Open(false).Ioctl(k.req.AddTables, unsafe.Pointer(worst())); err != syscall.EPERM {
		t.Errorf("securelevel before the mode: %v, want EPERM", err)
	}
}

func TestStartStop(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	k := New(Options{Now: func() time.Time { return now }})
	d := k.Open(true)
	pf := newPF(t, d, k)
	if err := d.Ioctl(k.req.Stop, nil); err != syscall.ENOENT {
		t.Errorf("stop at boot: %v, want ENOENT", err)
	}
	now = now.Add(90 * time.Second)
	must(t, d.Ioctl(k.req.Start, nil))
	if err := d.Ioctl(k.req.Start, nil); err != syscall.EEXIST {
		t.Errorf("start twice: %v, want EEXIST", err)
	}
	s, err := pf.Status()
	if err != nil || !s.Running {
		t.Errorf("%+v, %v, want running", s, err)
	}
	if k.status.since != 150 {
		t.Errorf("since %d seconds of uptime, want 150", k.status.since)
	}
	must(t, d.Ioctl(k.req.Stop, nil))
	must(t, d.Close())
	if err := d.Ioctl(k.req.Start, nil); err != syscall.EBADF {
		t.Errorf("a closed device: %v, want EBADF", err)
	}
	if err := d.Close(); err != syscall.EBADF {
		t.Errorf("closed twice: %v, want EBADF", err)
	}
}

func TestNewRefusesWhatItDoesNotKnow(t *testing.T) {
	for _, o := range []Options{{Release: "6.8"}, {Release: "8"}, {Release: "x"}} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("New(%+v) did not panic", o)
				}
			}()
			New(o)
		}()
	}
}

// TestTimesAreTrimmed changes an entry at many times: what the table keeps of
// them is bounded by its entries.
func TestTimesAreTrimmed(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	k := New(Options{Now: func() time.Time { return now }})
	x := makeTable(t, k, "t", pfioctl.TablePersist)
	list := elements("10.0.0.1", "10.0.0.2", "2001:db8::1")
	must(t, x.call(k.req.SetAddrs, x.io(0, array(list, 0), len(list))))
	first := now.Unix()
	for range 10_000 {
		now = now.Add(time.Second)
		list[1].not = !list[1].not
		must(t, x.call(k.req.SetAddrs, x.io(0, array(list, 0), len(list))))
	}
	kt := k.findTable("", "t")
	if len(kt.epochs) > 5000 {
		t.Errorf("%d times are kept for 3 entries", len(kt.epochs))
	}
	for s, want := range []int64{first, now.Unix(), first} {
		if got := kt.tzeroAt(spot(s)); got != want {
			t.Errorf("entry %d dates from %d, want %d", s, got, want)
		}
	}
	checkKernel(t, k)
}

// TestTableIsCompact holds a table to 24 bytes an entry.
func TestTableIsCompact(t *testing.T) {
	const n = 50_000
	k, d, io := benchKernel(t, n, 5)
	for range 2 {
		must(t, d.Ioctl(k.req.SetAddrs, unsafe.Pointer(io)))
		if got := k.HeapBytes(); got < 8*n || got > 24*n {
			t.Errorf("a table of %d entries takes %d bytes", n, got)
		}
	}
	io.Size = 10
	must(t, d.Ioctl(k.req.SetAddrs, unsafe.Pointer(io)))
	if got := k.HeapBytes(); got > n {
		t.Errorf("cut down to 10 entries it takes %d bytes", got)
	}
}

// TestConcurrentUse asks a kernel from several sides: a packet sees a set
// before it or after it, never in between.
func TestConcurrentUse(t *testing.T) {
	k := New(Options{})
	k.SetRunning(true)
	load(t, k, Ruleset{
		Tables: []TableLine{{pfioctl.Table{Name: "t"}, pfioctl.TablePersist, nil}},
		Rules:  []Rule{{Action: block, Quick: true, From: Peer{Table: "t"}}},
	})
	rounds := 300
	if testing.Short() {
		rounds = 30
	}
	var wg sync.WaitGroup
	one, two := elements("10.0.0.0/8", "192.0.2.1"), elements("10.0.0.1", "192.0.2.2", "192.0.2.3")
	x := &table{t, k, k.Open(true), pfioctl.Table{Name: "t"}}
	must(t, x.call(k.req.SetAddrs, x.io(0, array(one, 0), len(one))))
	for range 3 {
		wg.Go(func() {
			x := &table{t, k, k.Open(true), pfioctl.Table{Name: "t"}}
			for i := range rounds {
				list := one
				if i%2 == 0 {
					list = two
				}
				if err := x.call(k.req.SetAddrs, x.io(0, array(list, 0), len(list))); err != nil {
					t.Error(err)
					return
				}
				b := array(nil, 8)
				io := x.io(0, b, 8)
				if err := x.call(k.req.GetAddrs, io); err != nil || io.Size != 2 && io.Size != 3 {
					t.Errorf("%d entries, %v, want 2 or 3", io.Size, err)
					return
				}
			}
		})
	}
	wg.Go(func() {
		for range rounds {
			if v := k.Verdict(packet("10.0.0.1", "198.51.100.1", in)); v.Action != block {
				t.Errorf("an address that both sets have: %+v", v)
				return
			}
		}
	})
	wg.Wait()
	checkKernel(t, k)
}

// TestDeleteReadsTwice is where few elements against many entries are looked
// at before the work begins: what is wrong with one then leaves the array alone,
// else feedback is taken back.
func TestDeleteReadsTwice(t *testing.T) {
	k := New(Options{})
	x := makeTable(t, k, "t", pfioctl.TablePersist)
	var list []element
	for i := range 18 {
		list = append(list, element{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 32), false})
	}
	must(t, x.call(k.req.SetAddrs, x.io(0, array(list, 0), len(list))))
	for _, c := range []struct {
		size  int // of 18 entries: 18 / (1 + 5) is 3
		twice bool
	}{{1, true}, {3, true}, {4, false}} {
		b := array(list[:c.size], 0)
		last := &b[(c.size-1)*addrSize+addrFback]
		*last = byte(abi.FeedbackNoCount)
		if err := x.call(k.req.DelAddrs, x.io(abi.FlagFeedback, b, c.size)); err != syscall.EINVAL {
			t.Errorf("%d elements: %v, want EINVAL", c.size, err)
		}
		if twice := *last != 0; twice != c.twice {
			t.Errorf("%d elements: read twice is %v, want %v", c.size, twice, c.twice)
		}
	}
	if got := x.content(); len(got) != 18 {
		t.Errorf("%d entries are left, want 18", len(got))
	}
}

// TestNamesThatDoNotMeet is a table that is attached to an anchor under another
// spelling: the anchor counts it, and no table bears its name.
func TestNamesThatDoNotMeet(t *testing.T) {
	k := New(Options{})
	tb := abi.PfrTable{Flags: flagPersist}
	copy(tb.Anchor[:], "a/")
	copy(tb.Name[:], "t")
	d := k.Open(true)
	io := &abi.PfiocTable{Buffer: unsafe.Pointer(&tb), Esize: int32(tableSize), Size: 1}
	must(t, d.Ioctl(k.req.AddTables, unsafe.Pointer(io)))
	for _, c := range []struct {
		anchor string
		want   error
	}{{"a", syscall.ENOTTY}, {"a/", syscall.ENOENT}, {"", nil}} {
		io := &abi.PfiocTable{Buffer: unsafe.Pointer(&tb), Esize: int32(tableSize), Size: 1}
		copy(io.Table.Anchor[:], c.anchor)
		if err := d.Ioctl(k.req.GetTables, unsafe.Pointer(io)); err != c.want {
			t.Errorf("the tables of %q: %v, want %v", c.anchor, err, c.want)
		}
	}
	checkKernel(t, k)
}

// TestFlagsOfReferencedTable clears PERSIST of tables that are held by something
// else, too.
func TestFlagsOfReferencedTable(t *testing.T) {
	k := New(Options{})
	load(t, k, Ruleset{
		Rules: []Rule{{From: Peer{Table: "held"}}},
		Tables: []TableLine{
			{pfioctl.Table{Name: "held"}, pfioctl.TablePersist, nil},
			{pfioctl.Table{Name: "free"}, pfioctl.TablePersist, nil},
			{pfioctl.Table{Anchor: "a", Name: "root"}, pfioctl.TablePersist, nil},
			{pfioctl.Table{Name: "root"}, pfioctl.TablePersist, nil},
		},
	})
	list := make([]abi.PfrTable, 4)
	for i, name := range []string{"held", "free", "root", "nosuch"} {
		copy(list[i].Name[:], name)
	}
	io := &abi.PfiocTable{Buffer: unsafe.Pointer(&list[0]), Esize: int32(tableSize), Size: 4, Nadd: int32(flagPersist)}
	must(t, k.Open(true).Ioctl(k.req.SetTFlags, unsafe.Pointer(io)))
	// That an anchor's table holds "root" is not looked at for the count.
	if io.Nchange != 1 || io.Ndel != 2 || io.Nadd != int32(flagPersist) {
		t.Errorf("%d changed, %d deleted, want 1 and 2", io.Nchange, io.Ndel)
	}
	if k.findTable("", "held") == nil || k.findTable("", "root") == nil || k.findTable("", "free") != nil {
		t.Error("the wrong tables are left")
	}
	checkKernel(t, k)
}

// newPF is pf through a device of the kernel.
func newPF(t testing.TB, d pfioctl.Device, k *Kernel) *pfioctl.PF {
	t.Helper()
	return pfOn(t, d, k.Release())
}

// pfOn is pf through a device of a kernel of a release.
func pfOn(t testing.TB, d pfioctl.Device, release string) *pfioctl.PF {
	t.Helper()
	pf, err := pfioctl.New(d, release)
	if err != nil {
		t.Fatal(err)
	}
	return pf
}
