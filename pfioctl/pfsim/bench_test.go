package pfsim

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"unsafe"

	"example.org/threatstopd/pfioctl"
)

// benchKernel is a kernel with one table, and a request to it for n hosts with
// ascending addresses, step apart.
func benchKernel(tb testing.TB, n int, step uint32) (*Kernel, *Device, *pfioctl.PfiocTable) {
	tb.Helper()
	k := New(Options{})
	d := k.Open(true)
	t := &pfioctl.PfrTable{Flags: pfioctl.TablePersist}
	copy(t.Name[:], "bench")
	add := &pfioctl.PfiocTable{Buffer: unsafe.Pointer(t), Esize: int32(tableSize), Size: 1}
	if err := d.Ioctl(k.req.AddTables, unsafe.Pointer(add)); err != nil {
		tb.Fatal(err)
	}
	addrs := make([]byte, n*addrSize)
	for i := range n {
		a := addrs[i*addrSize:]
		binary.BigEndian.PutUint32(a, 0x01000000+uint32(i)*step)
		a[addrAF], a[addrNet] = afInet, 32
	}
	io := &pfioctl.PfiocTable{Buffer: unsafe.Pointer(unsafe.SliceData(addrs)), Esize: int32(addrSize), Size: int32(n)}
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

// BenchmarkSetNew fills an empty table with a million sorted hosts.
func BenchmarkSetNew(b *testing.B) {
	k, d, io := benchKernel(b, million, 3)
	clr := *io
	clr.Esize, clr.Size, clr.Buffer = 0, 0, nil
	b.ReportAllocs()
	for b.Loop() {
		must(b, d.Ioctl(k.req.SetAddrs, unsafe.Pointer(io)))
		b.StopTimer()
		must(b, d.Ioctl(k.req.ClrAddrs, unsafe.Pointer(&clr)))
		b.StartTimer()
	}
}

// BenchmarkSetNewShuffled is the same for hosts in no order.
func BenchmarkSetNewShuffled(b *testing.B) {
	k, d, io := benchKernel(b, million, 2654435761)
	clr := *io
	clr.Esize, clr.Size, clr.Buffer = 0, 0, nil
	b.ReportAllocs()
	for b.Loop() {
		must(b, d.Ioctl(k.req.SetAddrs, unsafe.Pointer(io)))
		b.StopTimer()
		must(b, d.Ioctl(k.req.ClrAddrs, unsafe.Pointer(&clr)))
		b.StartTimer()
	}
}

// BenchmarkSetDummy compares a million sorted hosts with a table that has them.
func BenchmarkSetDummy(b *testing.B) {
	k, d, io := benchKernel(b, million, 3)
	must(b, d.Ioctl(k.req.SetAddrs, unsafe.Pointer(io)))
	io.Flags = pfioctl.FlagDummy
	b.ReportAllocs()
	for b.Loop() {
		must(b, d.Ioctl(k.req.SetAddrs, unsafe.Pointer(io)))
	}
}

// BenchmarkSetSame sets a million sorted hosts that are there.
func BenchmarkSetSame(b *testing.B) {
	k, d, io := benchKernel(b, million, 3)
	b.ReportAllocs()
	for b.Loop() {
		must(b, d.Ioctl(k.req.SetAddrs, unsafe.Pointer(io)))
	}
	if b.N > 0 {
		b.ReportMetric(float64(k.HeapBytes())/million, "heap-bytes/entry")
	}
}

// BenchmarkGet reads a table of a million hosts.
func BenchmarkGet(b *testing.B) {
	k, d, io := benchKernel(b, million, 3)
	must(b, d.Ioctl(k.req.SetAddrs, unsafe.Pointer(io)))
	b.ReportAllocs()
	for b.Loop() {
		must(b, d.Ioctl(k.req.GetAddrs, unsafe.Pointer(io)))
	}
}

// BenchmarkAddOne adds and deletes one host of a table of a million.
func BenchmarkAddOne(b *testing.B) {
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
