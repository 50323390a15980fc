package abi

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/bits"
	"runtime"
	"strconv"
	"strings"
)

// Layout is where the kernel of one release on one architecture keeps what
// this program reads and writes: request numbers, sizes, offsets.
type Layout struct {
	Release string
	Num     int  // 78 for 7.8
	Known   bool // false for a release newer than Newest: only table requests and limits are filled in
	Arch    Arch

	Req    Requests
	TStats TStatsLayout
	AStats AStatsLayout
	Status StatusLayout
	Iface  IfaceLayout
	State  StateLayout
	Kill   StateKillLayout
	Rule   RuleLayout
}

// Arch is all in which the architectures differ.
type Arch struct {
	Name    string // as Go names it
	Pointer int    // bytes
	Align64 int    // of a 64-bit member, in C
	Big     bool   // byte order
}

// Arches are the architectures that OpenBSD and Go have in common.
var Arches = [...]Arch{
	{"amd64", 8, 8, false},
	{"arm64", 8, 8, false},
	{"386", 4, 4, false},
	{"arm", 4, 8, false},
	{"ppc64", 8, 8, true},
	{"riscv64", 8, 8, false},
}

// Requests are the request numbers of a [Layout]. A number contains the size
// of the struct it carries, so the wrong one is an unknown one: ENODEV, or
// under pledge the end of the process. A zero number is one that the release
// does not have, or that is not known of it.
type Requests struct {
	Start, Stop             uint // DIOCSTART, DIOCSTOP
	GetStatus               uint
	GetLimit, SetLimit      uint
	ClrTables               uint // DIOCRCLRTABLES, and so on
	AddTables, DelTables    uint
	GetTables, GetTStats    uint
	ClrTStats               uint
	ClrAddrs                uint
	AddAddrs, DelAddrs      uint
	SetAddrs                uint
	GetAddrs, GetAStats     uint
	ClrAStats               uint
	TstAddrs                uint
	SetTFlags               uint
	InaDefine               uint
	GetRules, GetRule       uint // rules, read only
	GetRulesets, GetRuleset uint
	GetIfaces               uint // DIOCIGETIFACES
	GetStates, KillStates   uint
	XBegin, XCommit         uint // transactions
	XRollback               uint
	XEnd                    uint // 7.4 and later
}

// TStatsLayout has where struct pfr_tstats keeps its members; it begins
// with a [PfrTable].
type TStatsLayout struct {
	Size    int // esize
	Packets int // uint64[2][4]: direction in, out; then block, match, pass, xpass
	Bytes   int // the same
	Match   int // uint64
	NoMatch int // uint64
	Tzero   int // int64, seconds since 1970
	Cnt     int // int32, addresses
	Refcnt  int // int32[2]: rules, then anchors
}

// AStatsLayout has where struct pfr_astats keeps its members; it begins
// with a [PfrAddr].
type AStatsLayout struct {
	Size    int // esize
	Packets int // uint64[2][3]: direction in, out; then block, match, pass
	Bytes   int // the same
	Tzero   int // int64, seconds since 1970
}

// StatusLayout has where struct pf_status keeps its members. Its Size is
// zero when the release is not known: the struct grew in 7.6, and may again.
type StatusLayout struct {
	Size     int
	Counters int // uint64[17], by reason
	Since    int // int64, uptime of the kernel in seconds at which it was started or stopped
	Running  int // uint32
	States   int // uint32
	Debug    int // uint32
	HostID   int // uint32, network order
	Ifname   int // [16]byte
	Checksum int // [16]byte
}

// IfaceLayout has where struct pfi_kif keeps its members. Its Size is zero
// when the release is not known.
type IfaceLayout struct {
	Size  int // esize
	Name  int // [16]byte
	Flags int // int32
}

// StateLayout has where struct pfsync_state, which is how states come out of
// the kernel, keeps its members. Its Size is zero when the release is not known.
// What has more than one byte is in network order on every architecture.
type StateLayout struct {
	Size      int
	ID        int // uint64
	Ifname    int // [16]byte
	Key       int // the two struct pfsync_state_key, wire and stack
	Creator   int // uint32
	AF        int // uint8, of the key on the wire
	Proto     int // uint8
	Direction int // uint8
	Timeout   int // uint8, PFTM_*

	// In a key:
	KeySize int
	KeyAddr int // [2][16]byte
	KeyPort int // [2]uint16
	KeyAF   int // uint8
}

// StateKillLayout has where struct pfioc_state_kill keeps its members. Its
// Size is zero when the release is not known.
type StateKillLayout struct {
	Size    int
	ID      int // uint64, network order
	Creator int // uint32, network order
	Killed  int // uint32, the answer
}

// The releases whose structs are known.
const (
	Oldest = "6.9"
	Newest = "8.0"

	oldest = 69
	newest = 80
)

// Host returns the layout of a release on the architecture of this program. Where
// OpenBSD does not run on that, as may be in tests, it is one with the same
// pointers and byte order.
func Host(release string) (*Layout, error) {
	for _, a := range Arches {
		if a.Name == runtime.GOARCH {
			return For(release, a.Name)
		}
	}
	switch big := binary.NativeEndian.Uint16([]byte{0, 1}) == 1; {
	case bits.UintSize == 32:
		return For(release, "386")
	case big:
		return For(release, "ppc64")
	}
	return For(release, "amd64")
}

// For returns the layout of a release, "6.9" or later, on one of the [Arches].
//
// 6.9 to 7.1 are taken as 7.2: the table structs are known to be equal. The
// release decides, never whether a number works: on 64-bit architectures 7.9 has
// the numbers that 7.2 had for another struct pf_rule. A release later than Newest
// has the table requests of Newest, which have not changed since 6.9; its other
// structs are not known, and their sizes and request numbers are zero.
func For(release, goarch string) (*Layout, error) {
	num, err := parseRelease(release)
	if err != nil {
		return nil, err
	}
	if num < oldest {
		return nil, fmt.Errorf("openbsd release %s: too old, pf's structs are known from %s on", release, Oldest)
	}
	for _, a := range Arches {
		if a.Name == goarch {
			return layoutOf(release, num, a, num <= newest), nil
		}
	}
	return nil, fmt.Errorf("architecture %s: pf's structs are not known (known: amd64, arm64, 386, arm, ppc64, riscv64)", goarch)
}

// Assumed returns the layout of a release that is not known, if its structs are
// those of Newest.
func (l *Layout) Assumed() *Layout { return layoutOf(l.Release, l.Num, l.Arch, true) }

// parseRelease makes 78 of "7.8".
func parseRelease(release string) (int, error) {
	major, minor, _ := strings.Cut(release, ".")
	n, err := strconv.ParseUint(major+minor, 10, 16)
	if err != nil || len(minor) != 1 || major == "" {
		return 0, fmt.Errorf("openbsd release %q: not of the form 7.8", release)
	}
	return int(n), nil
}

func layoutOf(release string, num int, a Arch, known bool) *Layout {
	l := &Layout{Release: release, Num: num, Known: known, Arch: a, TStats: tstatsLayoutOf(a), AStats: astatsLayoutOf(a)}
	if known {
		l.Status = StatusLayout{Size: 488, Since: 416, Running: 424, States: 428, Debug: 440, HostID: 444, Ifname: 456, Checksum: 472}
		if num >= 76 {
			// Three counters of fragments and their number came in between.
			l.Status = StatusLayout{Size: up(516, a.Align64), Since: 440, Running: 448, States: 452, Debug: 468, HostID: 472, Ifname: 484, Checksum: 500}
		}
		l.Rule, l.Iface, l.State, l.Kill = ruleLayoutOf(num, a), ifaceLayoutOf(a), stateLayout, killLayoutOf(a)
	}
	table := func(nr uint) uint { return ioBoth(nr, uint(SizeofPfrTable+a.Pointer+8*4)) }
	trans := func(nr uint) uint { return ioBoth(nr, uint(2*4+a.Pointer)) }
	l.Req = Requests{
		Start: ioNone(1), Stop: ioNone(2), GetLimit: ioBoth(39, 8), SetLimit: ioBoth(40, 8),
		ClrTables: table(60), AddTables: table(61), DelTables: table(62), GetTables: table(63),
		GetTStats: table(64), ClrTStats: table(65), ClrAddrs: table(66), AddAddrs: table(67),
		DelAddrs: table(68), SetAddrs: table(69), GetAddrs: table(70), GetAStats: table(71),
		ClrAStats: table(72), TstAddrs: table(73), SetTFlags: table(74), InaDefine: table(77),
		XBegin: trans(81), XCommit: trans(82), XRollback: trans(83),
		GetRulesets: ioBoth(58, 1092), GetRuleset: ioBoth(59, 1092),
	}
	if l.Known {
		l.Req.GetStatus = ioBoth(21, uint(l.Status.Size))
		l.Req.GetRules = ioBoth(6, uint(l.Rule.Ioc))
		l.Req.GetRule = ioBoth(7, uint(l.Rule.Ioc))
		l.Req.GetIfaces = ioBoth(87, uint(16+a.Pointer+4*4))
		l.Req.GetStates = ioBoth(25, uint(2*a.Pointer))
		l.Req.KillStates = ioBoth(41, uint(l.Kill.Size))
	}
	if num >= 74 {
		l.Req.XEnd = ioBoth(100, 4)
	}
	return l
}

func tstatsLayoutOf(a Arch) TStatsLayout {
	at := up(SizeofPfrTable, a.Align64) // of packets[2][4], bytes[2][4]
	l := TStatsLayout{Packets: at, Bytes: at + 64, Match: at + 128, NoMatch: at + 136, Tzero: at + 144, Cnt: at + 152, Refcnt: at + 156}
	l.Size = up(l.Refcnt+2*4, a.Align64)
	return l
}

func astatsLayoutOf(a Arch) AStatsLayout {
	at := up(SizeofPfrAddr, a.Align64) // of packets[2][3], bytes[2][3]
	return AStatsLayout{Packets: at, Bytes: at + 48, Tzero: at + 96, Size: at + 104}
}

// ifaceLayoutOf follows struct pfi_kif: name, tree links, packets[2][2][2],
// bytes[2][2][2], tzero, flags, flags_new, three pointers, five counts and the
// head of a list. Its size was measured, and is what these add up to.
func ifaceLayoutOf(a Arch) IfaceLayout {
	tree := up(3*a.Pointer+4, a.Pointer)
	flags := up(16+tree, a.Align64) + 2*64 + 8
	counts := flags + 8 + 3*a.Pointer
	return IfaceLayout{Size: up(up(counts+5*4, a.Pointer)+2*a.Pointer, a.Align64), Flags: flags}
}

// CString returns b up to its first NUL.
func CString(b []byte) string {
	s, _, _ := bytes.Cut(b, []byte{0})
	return string(s)
}

// up rounds an offset up to where C puts a member of this alignment, or ends a struct
// that has one.
func up(n, align int) int { return (n + align - 1) &^ (align - 1) }

// stateLayout was measured for 7.9 on, and derived for the releases before: struct
// pfsync_state is packed, and so are all structs in it but the keys, which have nothing to
// pad; so it is the same on every architecture. Its members were compared in net/pfvar.h
// of 7.2 (revision 1.510), of before 7.6 (1.538) and of before 7.8 (1.543), and in a
// revision older than 6.9: they differ in the name of one byte. The change of pfsync(4)
// in 7.4 did not touch it. Each state that is read is checked against it.
var stateLayout = StateLayout{
	Size: 264, Ifname: 8, Key: 24, Creator: 236, AF: 250, Proto: 251, Direction: 252, Timeout: 255,
	KeySize: 40, KeyPort: 32, KeyAF: 38,
}

// killLayoutOf follows struct pfioc_state_kill, which was measured: what a state
// is known by, a filter, and the answer.
func killLayoutOf(a Arch) StateKillLayout {
	ruleAddr := 32 + 2*a.Pointer + 8 // struct pf_rule_addr: an address that may be a pointer, ports
	l := StateKillLayout{Creator: 8, Killed: 16 + 4 + 4 + 2*ruleAddr + 16 + 64}
	l.Size = l.Killed + 4 + 4 // rdomain
	return l
}

// Order returns the architecture's byte order.
func (l *Layout) Order() binary.ByteOrder {
	if l.Arch.Big {
		return binary.BigEndian
	}
	return binary.LittleEndian
}
