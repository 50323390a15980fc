package pfsim

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"unsafe"

	"example.org/threatstopd/pfioctl"
	"example.org/threatstopd/pfioctl/internal/abi"
)

// benchKernel is a kernel with one table, and a request to it for n hosts with
// ascending addresses, step apart.
func benchKernel(tb testing.TB, n int, step uint32) (*Kernel, *Device, *abi.PfiocTable) {
	tb.Helper()
	k := New(Options{})
	d := k.Open(true)
	t := &abi.PfrTable{Flags: pfioctl.TablePersist}
	copy(t.Name[:], "bench")
	add := &abi.PfiocTable{Buffer: unsafe.Pointer(t), Esize: int32(tableSize), Size: 1}
	if err := d.Ioctl(k.req.AddTables, unsafe.Pointer(add)); err != nil {
		tb.Fatal(err)
	}
	addrs := make([]byte, n*addrSize)
	for i := range n {
		a := addrs[i*addrSize:]
		binary.BigEndian.PutUint32(a, 0x01000000+uint32(i)*step)
		a[addrAF], a[addrNet] = afInet, 32
	}
	io := &abi.PfiocTable{Buffer: unsafe.Pointer(unsafe.SliceData(addrs)), Esize: int32(addrSize), Size: int32(n)}
	copy(io.Table.Name[:], "bench")
	return k, d, io
}

const million = 1_000_000

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// BenchmarkSet is SETADDRS as an agent sends it: to an empty table (in order,
// and in none), to one that has all entries already, to one that has others in
// place of one in a hundred, and with DUMMY, which only compares.
func BenchmarkSet(b *testing.B) {
	const inOrder, inNone = 3, 2654435761
	for _, c := range []struct {
		name    string
		n       int
		step    uint32
		empty   bool // each time
		changed bool // one in a hundred each time
		dummy   bool
	}{
		{name: "new/26k", n: 26_424, step: inOrder, empty: true},
		{name: "new/1M", n: million, step: inOrder, empty: true},
		{name: "new-shuffled/1M", n: million, step: inNone, empty: true},
		{name: "same/26k", n: 26_424, step: inOrder},
		{name: "same/1M", n: million, step: inOrder},
		{name: "changed/1M", n: million, step: inOrder, changed: true},
		{name: "dummy-same/1M", n: million, step: inOrder, dummy: true},
		{name: "dummy-changed/1M", n: million, step: inOrder, changed: true, dummy: true},
	} {
		b.Run(c.name, func(b *testing.B) {
			k, d, io := benchKernel(b, c.n, c.step)
			clr := *io
			clr.Esize, clr.Size, clr.Buffer = 0, 0, nil
			addrs := unsafe.Slice((*byte)(io.Buffer), c.n*addrSize)
			if !c.empty {
				must(b, d.Ioctl(k.req.SetAddrs, unsafe.Pointer(io)))
			}
			if c.dummy {
				io.Flags = abi.FlagDummy
			}
			other := byte(0)
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				if c.empty {
					must(b, d.Ioctl(k.req.ClrAddrs, unsafe.Pointer(&clr)))
				}
				if c.changed {
					// Away from all others: 1.x.x.x becomes 101.x.x.x, then
					// 102.x.x.x and so on.
					other = other%100 + 1
					for i := 0; i < c.n; i += 100 {
						addrs[i*addrSize] = 100 + other
					}
				}
				b.StartTimer()
				must(b, d.Ioctl(k.req.SetAddrs, unsafe.Pointer(io)))
			}
			b.ReportMetric(float64(b.N)*float64(c.n)/b.Elapsed().Seconds(), "entries/s")
			if !c.dummy {
				b.ReportMetric(float64(k.HeapBytes())/float64(c.n), "heap-bytes/entry")
			}
		})
	}
}

// BenchmarkGet reads a table.
func BenchmarkGet(b *testing.B) {
	b.Run("1M", func(b *testing.B) {
		k, d, io := benchKernel(b, million, 3)
		must(b, d.Ioctl(k.req.SetAddrs, unsafe.Pointer(io)))
		b.ReportAllocs()
		for b.Loop() {
			must(b, d.Ioctl(k.req.GetAddrs, unsafe.Pointer(io)))
		}
		b.ReportMetric(float64(b.N)*million/b.Elapsed().Seconds(), "entries/s")
	})
}

// BenchmarkAddDelete adds and deletes one host of a large table.
func BenchmarkAddDelete(b *testing.B) {
	b.Run("1M", func(b *testing.B) {
		k, d, io := benchKernel(b, million, 3)
		must(b, d.Ioctl(k.req.SetAddrs, unsafe.Pointer(io)))
		one := make([]byte, addrSize)
		copy(one, []byte{10, 1, 2, 3})
		one[addrAF], one[addrNet] = afInet, 32
		io.Buffer, io.Size = unsafe.Pointer(unsafe.SliceData(one)), 1
		b.ReportAllocs()
		for b.Loop() {
			must(b, d.Ioctl(k.req.AddAddrs, unsafe.Pointer(io)))
			must(b, d.Ioctl(k.req.DelAddrs, unsafe.Pointer(io)))
		}
	})
}

// BenchmarkVerdict evaluates two rules on a table of a million hosts.
func BenchmarkVerdict(b *testing.B) {
	k, d, io := benchKernel(b, million, 3)
	must(b, d.Ioctl(k.req.SetAddrs, unsafe.Pointer(io)))
	k.SetRunning(true)
	must(b, k.LoadRules(Ruleset{
		Limits: map[pfioctl.Limit]int{pfioctl.LimitTableEntries: 2 * million},
		Rules: []Rule{
			{Action: pfioctl.ActionBlock, Quick: true, Dir: pfioctl.DirIn, Log: true, From: Peer{Table: "bench"}},
			{Action: pfioctl.ActionBlock, Quick: true, Dir: pfioctl.DirOut, Log: true, To: Peer{Table: "bench"}},
			{},
		}}))
	p := Packet{Src: netip.MustParseAddr("1.2.3.4"), Dst: netip.MustParseAddr("192.0.2.1"), Dir: pfioctl.DirIn, Iface: "em0", Bytes: 60}
	b.ReportAllocs()
	for b.Loop() {
		k.Verdict(p)
	}
}
