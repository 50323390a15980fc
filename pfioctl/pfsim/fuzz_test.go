package pfsim

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"example.org/threatstopd/pfioctl"
	"example.org/threatstopd/pfioctl/internal/abi"
)

// program takes the arguments of requests out of a fuzzer's bytes. Behind
// their end everything is zero.
type program struct{ b []byte }

func (p *program) byte() byte {
	if len(p.b) == 0 {
		return 0
	}
	c := p.b[0]
	p.b = p.b[1:]
	return c
}

func (p *program) uint32() uint32 {
	return uint32(p.byte()) | uint32(p.byte())<<8 | uint32(p.byte())<<16 | uint32(p.byte())<<24
}

func (p *program) fill(b []byte) { p.b = p.b[copy(b, p.b):] }

// size is mostly small, sometimes anything.
func (p *program) size() int32 {
	if c := p.byte(); c < 240 {
		return int32(c % 12)
	}
	return int32(p.uint32())
}

func (p *program) table(t *abi.PfrTable) {
	names := []string{"t", "u", "a-name-of-exactly-31-characters", "", "v"}
	anchors := []string{"", "", "a", "a/b", "a/b/c", "/a", "a/", "a//b", abi.ReservedAnchor, "/_pf", strings.Repeat("x", 63), strings.Repeat("y", 64)}
	copy(t.Name[:], names[int(p.byte())%len(names)])
	copy(t.Anchor[:], anchors[int(p.byte())%len(anchors)])
	t.Flags = []pfioctl.TableFlags{flagPersist, 0, flagPersist | flagCounters, flagPersist | flagConst, 0xff}[p.byte()%5]
	if p.byte() == 255 {
		p.fill(t.Name[:])
	}
}

func (p *program) addr(a []byte) {
	switch p.byte() % 4 {
	case 0:
		p.fill(a)
	case 1:
		copy(a, []byte{10, 0, p.byte() & 1, p.byte() & 3})
		a[addrAF], a[addrNet] = afInet, 32
	case 2:
		copy(a, []byte{10, 0, p.byte() & 1, 0})
		a[addrAF], a[addrNet] = afInet, 24+p.byte()&7
		a[2] &^= byte(1<<(24-min(a[addrNet], 24)) - 1)
	default:
		copy(a, []byte{0x20, 1, 0xd, 0xb8})
		a[15] = p.byte() & 3
		a[addrAF], a[addrNet] = afInet6, 128
	}
	if p.byte() >= 200 {
		a[addrNot] = 1
	}
	if p.byte() >= 240 {
		a[addrType] = p.byte() & 3
	}
}

// snapshot is all of a kernel that requests can see. Anchors in which nothing is
// are left out: a path that cannot be made to its end leaves some.
func snapshot(k *Kernel) []byte {
	var b bytes.Buffer
	var dump func(t *ktable)
	dump = func(t *ktable) {
		fmt.Fprintf(&b, "%q %q %#x %v %v %d %d %d %v %v\n", t.name, t.anchor, t.flags, t.tail, t.refs, t.match, t.nomatch, t.tzero, t.packets, t.noAddrs)
		for s := range spot(t.cnt()) {
			p := t.prefixAt(s)
			fmt.Fprintf(&b, " %x %x %d %v %d", p.hi, p.lo, p.net, t.entryFlags(s)&entNot != 0, t.tzeroAt(s))
			if x := t.extraAt(s); x != nil {
				fmt.Fprintf(&b, " %d %d %q %v", x.typ, x.weight, x.ifname, x.counters)
			}
			b.WriteByte('\n')
		}
		if t.shadow != nil {
			b.WriteString("shadow ")
			dump(t.shadow)
		}
	}
	for _, t := range k.tables {
		dump(t)
	}
	var paths []string
	for path, a := range k.anchors {
		if a.rs.tables == 0 && !a.rs.topen && !a.rs.open && a.calls == 0 && len(a.rs.active) == 0 {
			continue
		}
		paths = append(paths, fmt.Sprintf("%s %v %d %d %d", path, a.rs.topen, a.rs.tticket, a.rs.inactiveVersion, a.rs.activeVersion))
	}
	slices.Sort(paths)
	fmt.Fprintln(&b, paths, k.main.topen, k.main.tticket, k.main.inactiveVersion, k.main.activeVersion)
	fmt.Fprintln(&b, k.entries, k.inUse[pfioctl.LimitTables], k.limit, k.hard, k.status)
	return b.Bytes()
}

// FuzzIoctl sends a kernel requests with any numbers, arguments and memory. It
// must never panic; its books must balance; and a request that is refused, or
// only asks what would happen, changes neither the kernel nor the caller's
// struct.
func FuzzIoctl(f *testing.F) {
	for _, seed := range []string{
		"", "\x00\x01\x00\x00\x00\x00\x00\x00",
		"0123456789abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ",
		strings.Repeat("\x01\x01\x00\x02", 64), strings.Repeat("\x09\x00\x03\xff\x04\x11", 80),
		strings.Repeat("\x0d\x05\x00\x00\x02\x01\x07", 50), strings.Repeat("\x15\x16\x13\x01\x00", 60),
	} {
		f.Add([]byte(seed))
	}
	guard, err := MapBuffer(64 << 10)
	if err != nil {
		f.Skip(err)
	}
	f.Cleanup(func() { guard.Close() })
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) <= 4096 {
			runProgram(t, in, guard)
		}
	})
}

// TestRandomRequests is the same with longer programs, made of nothing but
// chance.
func TestRandomRequests(t *testing.T) {
	guard := mapBuffer(t, 64<<10)
	defer guard.Close()
	programs := 60
	if testing.Short() {
		programs = 5
	}
	for seed := range uint64(programs) {
		r := rand.New(rand.NewPCG(seed, 20))
		in := make([]byte, 4000)
		for i := range in {
			in[i] = byte(r.Uint32())
			if r.IntN(3) == 0 {
				in[i] &= 15
			}
		}
		runProgram(t, in, guard)
		if t.Failed() {
			t.Fatalf("with seed %d", seed)
		}
	}
}

func runProgram(t *testing.T, in []byte, guard *Buffer) {
	now := time.Unix(1_700_000_000, 0)
	p := &program{in}
	release := []string{"7.8", "7.0", "7.2", "7.3", "7.7", "8.0"}[p.byte()%6]
	k := New(Options{Release: release, MaxEntries: 40, MaxTables: 24, Now: func() time.Time { now = now.Add(time.Second); return now }})
	for len(p.b) > 0 && !k.hung {
		fuzzStep(t, k, p, guard)
		if !k.hung {
			checkKernel(t, k)
		}
		for l, n := range k.inUse {
			if n < 0 || uint64(n) > uint64(k.hard[l]) {
				t.Fatalf("%s: %d in use of %d", pfioctl.Limit(l), n, k.hard[l])
			}
		}
		if k.entries < 0 || uint64(k.entries) > uint64(k.hard[pfioctl.LimitTableEntries]) {
			t.Fatalf("%d entries in use of %d", k.entries, k.hard[pfioctl.LimitTableEntries])
		}
	}
}

func fuzzStep(t *testing.T, k *Kernel, p *program, guard *Buffer) {
	r := k.req
	tableRequests := []struct {
		nr    uint
		esize int
	}{
		{r.AddTables, tableSize}, {r.AddTables, tableSize}, {r.SetAddrs, addrSize}, {r.SetAddrs, addrSize}, {r.AddAddrs, addrSize},
		{r.DelAddrs, addrSize}, {r.TstAddrs, addrSize}, {r.GetAddrs, addrSize}, {r.GetAStats, k.layout.AStats.Size},
		{r.ClrAStats, addrSize}, {r.InaDefine, addrSize}, {r.InaDefine, addrSize}, {r.ClrAddrs, 0}, {r.ClrTables, 0},
		{r.DelTables, tableSize}, {r.GetTables, tableSize}, {r.GetTStats, k.layout.TStats.Size}, {r.ClrTStats, tableSize}, {r.SetTFlags, tableSize},
	}
	mem := guard.Bytes()
	clear(mem)
	// tail is where an array of n elements ends with the memory.
	tail := func(n int, esize int) []byte { return mem[len(mem)-min(n, len(mem)/max(esize, 1))*esize:] }
	at := func(b []byte) unsafe.Pointer {
		if len(b) == 0 {
			return unsafe.Add(guard.Pointer(), len(mem)) // the page that cannot be touched
		}
		return unsafe.Pointer(&b[0])
	}
	mode := p.byte()
	d := k.Open(mode < 230)
	defer d.Close()
	if mode&15 == 15 {
		k.SetSecurelevel(2)
	} else {
		k.SetSecurelevel(1)
	}

	op := int(p.byte()) % (len(tableRequests) + 8)
	if op < len(tableRequests) {
		q := tableRequests[op]
		io := &abi.PfiocTable{Esize: int32(q.esize), Size: p.size(), Size2: p.size(), Nadd: p.size(), Ticket: uint32(p.byte() % 4)}
		flags := p.byte()
		switch {
		case flags < 120:
			io.Flags = abi.RequestFlags(flags) & (abi.FlagDummy | abi.FlagFeedback)
		case flags < 200:
			io.Flags = abi.FlagAddrsToo
		default:
			io.Flags = abi.RequestFlags(p.uint32())
		}
		if q.nr != r.AddTables || p.byte()&1 == 0 {
			p.table(&io.Table)
			if q.nr != r.InaDefine && p.byte() < 250 {
				io.Table.Flags = 0
			}
		}
		if p.byte() == 255 {
			io.Esize = int32(p.uint32())
		}
		n := int(p.byte() % 16)
		if p.byte() < 200 {
			n = int(max(0, min(io.Size, 64)))
			if io.Flags&abi.FlagFeedback != 0 {
				n = int(max(io.Size, min(io.Size2, 64), 0))
			}
		}
		b := tail(n, q.esize)
		for i := range min(len(b)/max(q.esize, 1), 16) {
			switch q.esize {
			case addrSize:
				p.addr(b[i*addrSize:][:addrSize])
			case tableSize:
				var pt abi.PfrTable
				p.table(&pt)
				if q.nr != r.AddTables {
					pt.Flags = 0
				}
				copy(b[i*tableSize:], bytesOf(&pt))
			}
		}
		io.Buffer = at(b)
		if p.byte() == 0 {
			io.Buffer = nil
		}
		before, sent := snapshot(k), *io
		err := d.Ioctl(q.nr, unsafe.Pointer(io))
		if k.hung {
			return
		}
		if err != nil && *io != sent {
			t.Fatalf("request %#x failed with %v and changed the caller's struct", q.nr, err)
		}
		// What clears counters while it reads is recognised by DUMMY.
		quiet := io.Flags&abi.FlagDummy != 0 && q.nr != r.GetAStats
		if (err != nil || quiet) && !bytes.Equal(before, snapshot(k)) {
			t.Fatalf("request %#x flags %#x: %v, and the kernel has changed from\n%s\nto\n%s", q.nr, io.Flags, err, before, snapshot(k))
		}
		return
	}

	switch op - len(tableRequests) {
	case 0, 1: // a transaction
		io := &abi.PfiocTrans{Esize: int32(transSize), Size: int32(p.byte() % 4)}
		b := tail(int(p.byte()%5), transSize)
		for i := range len(b) / transSize {
			var e abi.PfiocTransE
			e.Type = int32(p.byte() % 3)
			var pt abi.PfrTable
			p.table(&pt)
			e.Anchor = pt.Anchor
			e.Ticket = uint32(p.byte() % 4)
			copy(b[i*transSize:], bytesOf(&e))
		}
		io.Array = at(b)
		d.Ioctl([]uint{r.XBegin, r.XBegin, r.XCommit, r.XRollback}[p.byte()%4], unsafe.Pointer(io))
	case 2: // the limits
		io := &abi.PfiocLimit{Index: pfioctl.Limit(p.byte()%9) - 1, Limit: uint32(p.byte())}
		if io.Index == abi.LimitAnchors {
			io.Limit += 100
		}
		d.Ioctl([]uint{r.SetLimit, r.GetLimit}[p.byte()%2], unsafe.Pointer(io))
	case 3: // any number, any argument
		nr := uint(p.uint32())
		if nr&iocInOut != iocInOut {
			nr |= 'D' << 8
		}
		n := int(nr >> iocShift & iocMask)
		b := tail(1, n)
		p.fill(b)
		for _, table := range []uint{r.XBegin, r.XCommit, r.XRollback} {
			if nr == table {
				return // these have pointers in them, which must not be any
			}
		}
		if n == int(unsafe.Sizeof(abi.PfiocTable{})) {
			return
		}
		d.Ioctl(nr, at(b[min(len(b), int(p.byte()&1)*len(b)):]))
	case 4: // rules
		head := make([]byte, k.layout.Rule.Ioc)
		h := structOf[abi.PfiocRuleHead](head)
		var pt abi.PfrTable
		p.table(&pt)
		h.Anchor, h.Ticket, h.Nr, h.Action = pt.Anchor, uint32(p.byte()%8), uint32(p.byte()%4), uint32(p.byte()%3)
		for _, nr := range []uint{r.GetRules, r.GetRule, r.GetRule, r.GetRule} {
			d.Ioctl(nr, unsafe.Pointer(&head[0]))
		}
		rs := &abi.PfiocRuleset{Nr: uint32(p.byte() % 4)}
		rs.Path = pt.Anchor
		d.Ioctl([]uint{r.GetRulesets, r.GetRuleset}[p.byte()%2], unsafe.Pointer(rs))
	case 5: // pfctl -f
		text := make([]byte, p.byte())
		p.fill(text)
		if p.byte() < 200 {
			text = []byte("10.0.0.0/30 !10.0.0.1 2001:db8::/64\n"[:p.byte()%37])
		}
		var pt abi.PfrTable
		p.table(&pt)
		tb := pfioctl.Table{Anchor: cString(pt.Anchor[:]), Name: cString(pt.Name[:])}
		k.LoadFile(tb, pt.Flags, bytes.NewReader(text))
	case 6:
		action := []pfioctl.Action{pass, block, match}[p.byte()%3]
		rs := Ruleset{
			Rules:   []Rule{{Anchor: []string{"a", "a/*", "/a/b", "../a", "x//y"}[p.byte()%5]}, {Action: action, From: Peer{Table: "t", Not: p.byte()&1 == 0}}},
			Anchors: map[string][]Rule{"a/b": {{Action: action, Log: true, To: Peer{Table: "t"}, Quick: p.byte()&1 == 0}}},
		}
		if p.byte()&1 == 0 {
			rs.Anchors["a"] = []Rule{{Anchor: "b"}}
		}
		k.LoadRules(rs)
	default:
		k.SetRunning(true)
		src := netip.AddrFrom4([4]byte{10, 0, p.byte() & 1, p.byte() & 3})
		v := k.Verdict(Packet{Src: src, Dst: netip.AddrFrom4([4]byte{10, 0, 0, p.byte() & 3}), Dir: 1 + pfioctl.Direction(p.byte()&1), Iface: "em0", Bytes: 60})
		if v.Rule < 0 && (v.Action != pass || v.Log) {
			t.Fatalf("no rule decided, and the verdict is %+v", v)
		}
		var b bytes.Buffer
		k.WriteShow(&b, pfioctl.Table{Name: "t"}, p.byte()&1 == 0)
	}
}
