package pfsim

import (
	"encoding/binary"
	"errors"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"example.org/threatstopd/pfioctl"
	"example.org/threatstopd/pfioctl/internal/abi"
)

// ErrHang is what a request gets that the kernel would never answer: one that
// waits for a free entry with every other request waiting behind it, or one
// that makes a list point at itself. From then on every request gets it, as it
// would be on the machine until someone reboots it.
var ErrHang = errors.New("pfsim: the kernel never answers this request")

// Options of a [Kernel]. The zero value is a 7.8 kernel just booted.
type Options struct {
	// Release is the OpenBSD release whose behaviour and structs are
	// simulated, "6.9" or later; empty means "7.8". The structs are those of
	// the architecture this program was built for. One later than 8.0 is as 8.0,
	// but for Structs.
	Release string

	// Structs are what a release that does not exist yet has changed.
	Structs Structs

	// Now returns the time; nil means time.Now.
	Now func() time.Time

	// MaxEntries and MaxTables are the limits table-entries and tables. Zero
	// is the kernel at boot: it says 200000 and 1000, and enforces neither
	// until a ruleset is loaded or a limit set.
	MaxEntries, MaxTables int
}

// Structs says how the structs of a release differ from those of 8.0, which the
// table requests never do.
type Structs int

const (
	SameStructs   Structs = iota
	GrownStructs          // longer: the numbers of the requests for status, rules, states and interfaces are others
	MovedStatus           // struct pf_status is as long, and its members are elsewhere
	MovedRule             // the same of struct pf_rule
	ReorderedRule         // two members of struct pf_rule have changed places: action and family
)

func (s Structs) change(l *abi.Layout) {
	grow := func(req *uint, size *int) {
		*size += 8
		*req += 8 << iocShift
	}
	switch s {
	case GrownStructs:
		grow(&l.Req.GetStatus, &l.Status.Size)
		ioc := l.Rule.Ioc
		grow(&l.Req.GetRules, &ioc)
		grow(&l.Req.GetRule, &l.Rule.Ioc)
		l.State.Size += 8
		grow(&l.Req.KillStates, &l.Kill.Size)
		l.Iface.Size += 8
	case MovedStatus:
		// A counter more, and nothing behind the checksum: a member went.
		l.Status.Since -= 8
		l.Status.Running -= 8
		l.Status.States -= 8
		l.Status.Debug -= 8
		l.Status.HostID -= 8
		l.Status.Ifname -= 8
		l.Status.Checksum -= 8
	case MovedRule:
		r := &l.Rule
		for _, at := range []*int{&r.Nr, &r.Prob, &r.UID, &r.GID, &r.Flag, &r.Action, &r.Direction, &r.Log, &r.LogIf, &r.Quick, &r.IfNot,
			&r.MatchTagNot, &r.KeepState, &r.AF, &r.Proto, &r.Type, &r.Code, &r.TCPFlags, &r.TCPFlagset, &r.AllowOpts, &r.RT, &r.TOS, &r.Prio} {
			*at += 4
		}
	case ReorderedRule:
		l.Rule.Action, l.Rule.AF = l.Rule.AF, l.Rule.Action
	}
}

// A Kernel is pf with its tables and rules. It is safe for concurrent use: as
// in the kernel one lock is held while a request runs, and a packet sees a
// table before a request or after it.
type Kernel struct {
	mu     sync.Mutex
	layout *abi.Layout
	req    abi.Requests
	num    int // release: 78 for 7.8
	now    func() time.Time
	boot   time.Time

	securelevel int
	hung        bool

	tables  []*ktable // sorted as the kernel's tree
	anchors map[string]*anchor
	main    ruleset

	// Entries and tables are counted while a request holds them, scratch
	// copies included.
	entries int
	inUse   [limits]int
	limit   [limits]uint32 // as DIOCGETLIMIT says
	pending [limits]uint32 // to be applied by DIOCXCOMMIT before 7.8
	hard    [limits]uint32 // as enforced

	status status
	states states
	skip   map[string]bool // interfaces that pf leaves alone
	trans  ruleReads

	buf [chunk * addrSize]byte
}

const limits = int(abi.LimitAnchors) + 1

// What DIOCGETLIMIT says at boot.
var bootLimits = [limits]uint32{
	pfioctl.LimitStates:       100000,
	abi.LimitSrcNodes:         10000,
	abi.LimitFrags:            mbufClusters / 16,
	pfioctl.LimitTables:       1000,
	pfioctl.LimitTableEntries: 200000,
	abi.LimitPktDelay:         10000,
	abi.LimitAnchors:          512,
}

// mbufClusters bounds the limit of fragments, each of which holds one
// (kern.maxclusters of the larger architectures).
const mbufClusters = 256 * 1024

// status is what of struct pf_status is kept.
type status struct {
	running  bool
	since    int64 // seconds of uptime
	counters [17]uint64
	checksum [16]byte
}

// New returns a kernel as it is after booting: pf not running, no ruleset, no
// table. It panics when the release is older than 6.9 or not of the form 7.8.
func New(o Options) *Kernel {
	if o.Release == "" {
		o.Release = "7.8"
	}
	layout, err := abi.Host(o.Release)
	if err != nil {
		panic("pfsim: " + err.Error())
	}
	if !layout.Known {
		layout = layout.Assumed()
	}
	o.Structs.change(layout)
	k := &Kernel{
		layout:      layout,
		req:         layout.Req,
		num:         layout.Num,
		now:         o.Now,
		securelevel: 1,
		anchors:     map[string]*anchor{},
		limit:       bootLimits,
		pending:     bootLimits,
		skip:        map[string]bool{},
	}
	if k.now == nil {
		k.now = time.Now
	}
	k.boot = k.now().Add(-time.Minute)
	for i := range k.hard {
		k.hard[i] = unlimited
	}
	// The pools of states and anchors are the two that have their limit from
	// the start (pf_ioctl.c: pfattach).
	k.hard[pfioctl.LimitStates] = k.limit[pfioctl.LimitStates]
	k.hard[abi.LimitAnchors] = k.limit[abi.LimitAnchors]
	if o.MaxEntries > 0 {
		k.setLimit(pfioctl.LimitTableEntries, uint32(o.MaxEntries))
	}
	if o.MaxTables > 0 {
		k.setLimit(pfioctl.LimitTables, uint32(o.MaxTables))
	}
	return k
}

// Release returns the release, for [pfioctl.New].
func (k *Kernel) Release() string { return k.layout.Release }

// OpenPF opens the device for reading and writing, as [pfioctl.Open] does.
func (k *Kernel) OpenPF() *pfioctl.PF {
	pf, err := pfioctl.New(k.Open(true), k.Release())
	if err != nil {
		panic("pfsim: " + err.Error()) // the release is one that New took
	}
	return pf
}

// SetSecurelevel sets kern.securelevel, which is 1 at first.
func (k *Kernel) SetSecurelevel(level int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.securelevel = level
}

// SetRunning enables or disables pf, as pfctl -e and -d do.
func (k *Kernel) SetRunning(on bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.status.running != on {
		k.status.running = on
		k.status.since = k.uptime()
	}
}

// SetLimit sets a limit and enforces it at once, regardless of what the release does
// when pfctl sets one. A limit below what is in use stops what would add to it.
func (k *Kernel) SetLimit(l pfioctl.Limit, n int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.setLimit(l, uint32(n))
}

func (k *Kernel) setLimit(l pfioctl.Limit, n uint32) {
	k.limit[l], k.pending[l], k.hard[l] = n, n, n
}

// HeapBytes returns about how many bytes the tables take.
func (k *Kernel) HeapBytes() int64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	var n int64
	for _, t := range k.tables {
		n += t.weighs()
	}
	return n
}

// uptime is the seconds since the kernel booted.
func (k *Kernel) uptime() int64 { return int64(k.now().Sub(k.boot) / time.Second) }

// gettime is the wall clock in seconds, as the kernel stamps what it counts.
func (k *Kernel) gettime() int64 { return k.now().Unix() }

// used returns how many items of a pool are out.
func (k *Kernel) used(l pfioctl.Limit) int {
	if l == pfioctl.LimitTableEntries {
		return k.entries
	}
	return k.inUse[l]
}

// full reports whether the pool of entries has none to give.
func (k *Kernel) full() bool {
	return uint64(k.entries) >= uint64(k.hard[pfioctl.LimitTableEntries])
}

// takeTable takes a table from its pool, if there is one.
func (k *Kernel) takeTable() bool {
	if uint64(k.inUse[pfioctl.LimitTables]) >= uint64(k.hard[pfioctl.LimitTables]) {
		return false
	}
	k.inUse[pfioctl.LimitTables]++
	return true
}

func (k *Kernel) freeTable() { k.inUse[pfioctl.LimitTables]-- }

// Open opens the device, for reading only or also for writing: the requests
// that change something need the latter. Several may be open.
func (k *Kernel) Open(write bool) *Device {
	return &Device{k: k, write: write}
}

// A Device is an open /dev/pf of a simulated kernel.
type Device struct {
	k      *Kernel
	write  bool
	closed bool
	arg    unsafe.Pointer // of the request that runs
}

var _ pfioctl.Device = (*Device)(nil)

// Close closes the device; requests on it then fail with EBADF.
func (d *Device) Close() error {
	d.k.mu.Lock()
	defer d.k.mu.Unlock()
	if d.closed {
		return syscall.EBADF
	}
	d.closed = true
	d.k.trans.closed(d)
	return nil
}

// Ioctl carries out a request on the struct at arg, as [pfioctl.Device] says.
// The error is a syscall.Errno or [ErrHang].
//
// The struct and the arrays it points to are read and written under protection
// from faults. Memory of Go's heap never faults: a request that names more of
// it than there is reads and writes what lies behind. A [Buffer] does fault.
func (d *Device) Ioctl(req uint, arg unsafe.Pointer) error {
	k := d.k
	k.mu.Lock()
	defer k.mu.Unlock()
	if d.closed {
		return syscall.EBADF
	}
	if k.hung {
		return ErrHang
	}
	// What is known of the caller's memory is its addresses, as bytes; kept
	// here the pointer makes the compiler put what it leads to where nothing
	// moves it.
	d.arg = arg
	defer func() { d.arg = nil }()
	return k.ioctl(d, req, arg)
}

// RequestName returns the name of a request, such as "DIOCRSETADDRS", and whether it is
// one of those about tables with the flag DUMMY, for tests whose [pfioctl.Device] makes
// some of them fail. It knows those that change something, and DIOCRGETTSTATS,
// DIOCGETSTATUS, DIOCGETRULES; of others the name is "".
func (k *Kernel) RequestName(req uint, arg unsafe.Pointer) (name string, dummy bool) {
	switch r := &k.req; req {
	case r.KillStates:
		return "DIOCKILLSTATES", false
	case r.GetStatus:
		return "DIOCGETSTATUS", false
	case r.GetRules:
		return "DIOCGETRULES", false
	case r.SetAddrs:
		name = "DIOCRSETADDRS"
	case r.AddTables:
		name = "DIOCRADDTABLES"
	case r.GetTStats:
		name = "DIOCRGETTSTATS"
	case r.ClrAddrs:
		name = "DIOCRCLRADDRS"
	default:
		return "", false
	}
	return name, arg != nil && (*abi.PfiocTable)(arg).Flags&abi.FlagDummy != 0
}

// Parts of a request's number (sys/ioccom.h).
const (
	iocInOut = 0xc0000000
	iocShift = 16
	iocMask  = 0x1fff
)

// ioctl is the system call and pfioctl(): the struct comes in regardless of what the
// request is, then securelevel and the descriptor's mode are asked, and the
// struct goes out only after success.
func (k *Kernel) ioctl(d *Device, req uint, arg unsafe.Pointer) error {
	var io []byte
	if req&iocInOut == iocInOut {
		if n := int(req >> iocShift & iocMask); n > 0 {
			io = make([]byte, n)
			if copyin(io, arg, 0, n) != 1 {
				return syscall.EFAULT
			}
		}
	}
	if err := k.permitted(d, req, io); err != nil {
		return err
	}
	if err := k.request(d, req, io); err != nil {
		return err
	}
	if len(io) > 0 && copyout(arg, 0, io, len(io)) != 1 {
		return syscall.EFAULT
	}
	return nil
}

// permitted is the two lists at the head of pfioctl().
func (k *Kernel) permitted(d *Device, req uint, io []byte) error {
	r := &k.req
	dummy := func() bool { return structOf[abi.PfiocTable](io).Flags&abi.FlagDummy != 0 }
	if k.securelevel > 1 {
		switch req {
		case r.GetRules, r.GetRule, r.GetStatus, r.GetLimit, r.GetRulesets, r.GetRuleset,
			r.GetIfaces, r.GetStates, r.GetTables, r.GetTStats, r.ClrTStats, r.ClrAddrs, r.AddAddrs, r.DelAddrs,
			r.SetAddrs, r.GetAddrs, r.GetAStats, r.ClrAStats, r.TstAddrs:
		case r.ClrTables, r.AddTables, r.DelTables, r.SetTFlags:
			if !dummy() {
				return syscall.EPERM
			}
		default:
			return syscall.EPERM
		}
	}
	if !d.write {
		switch req {
		case r.GetRules, r.GetStatus, r.GetLimit, r.GetRulesets, r.GetRuleset,
			r.GetIfaces, r.GetStates, r.GetTables, r.GetTStats, r.GetAddrs, r.GetAStats, r.TstAddrs:
		case r.ClrTables, r.AddTables, r.DelTables, r.ClrTStats, r.ClrAddrs, r.AddAddrs,
			r.DelAddrs, r.SetAddrs, r.SetTFlags:
			if !dummy() {
				return syscall.EACCES
			}
		case r.GetRule:
			if clearsRule(io) {
				return syscall.EACCES
			}
		case r.XEnd:
			if req == 0 {
				return syscall.EACCES
			}
		default:
			return syscall.EACCES
		}
	}
	return nil
}

// request is the switch of pfioctl(). A number that it does not know is
// ENODEV.
func (k *Kernel) request(d *Device, req uint, io []byte) error {
	if req == 0 { // of a request that the release does not have
		return syscall.ENODEV
	}
	r := &k.req
	switch req {
	case r.Start:
		if k.status.running {
			return syscall.EEXIST
		}
		k.status.running, k.status.since = true, k.uptime()
		return nil
	case r.Stop:
		if !k.status.running {
			return syscall.ENOENT
		}
		k.status.running, k.status.since = false, k.uptime()
		return nil
	case r.GetStatus:
		k.getStatus(io)
		return nil
	case r.GetLimit:
		return k.getLimit(structOf[abi.PfiocLimit](io))
	case r.SetLimit:
		return k.requestLimit(structOf[abi.PfiocLimit](io))
	case r.XBegin:
		return k.xbegin(structOf[abi.PfiocTrans](io))
	case r.XCommit:
		return k.xcommit(structOf[abi.PfiocTrans](io))
	case r.XRollback:
		return k.xrollback(structOf[abi.PfiocTrans](io))
	case r.GetRules:
		return k.getRules(d, io)
	case r.GetRule:
		return k.getRule(d, io)
	case r.GetRulesets:
		return k.getRulesets(structOf[abi.PfiocRuleset](io))
	case r.GetRuleset:
		return k.getRuleset(structOf[abi.PfiocRuleset](io))
	case r.XEnd:
		return k.xend(d, io)
	case r.GetStates:
		return k.getStates(structOf[abi.PfiocStates](io))
	case r.KillStates:
		return k.killStates(io)
	case r.GetIfaces:
		return k.getIfaces(structOf[abi.PfiocIface](io))
	}

	var (
		call  func(*Kernel, *abi.PfiocTable) error
		esize int
	)
	switch req {
	case r.ClrTables:
		call = (*Kernel).clrTables
	case r.AddTables:
		call, esize = (*Kernel).addTables, tableSize
	case r.DelTables:
		call, esize = (*Kernel).delTables, tableSize
	case r.GetTables:
		call, esize = (*Kernel).getTables, tableSize
	case r.GetTStats:
		call, esize = (*Kernel).getTStats, k.layout.TStats.Size
	case r.ClrTStats:
		call, esize = (*Kernel).clrTStats, tableSize
	case r.SetTFlags:
		call, esize = (*Kernel).setTFlags, tableSize
	case r.ClrAddrs:
		call = (*Kernel).clrAddrs
	case r.AddAddrs:
		call, esize = (*Kernel).addAddrs, addrSize
	case r.DelAddrs:
		call, esize = (*Kernel).delAddrs, addrSize
	case r.SetAddrs:
		call, esize = (*Kernel).setAddrs, addrSize
	case r.GetAddrs:
		call, esize = (*Kernel).getAddrs, addrSize
	case r.GetAStats:
		call, esize = (*Kernel).getAStats, k.layout.AStats.Size
	case r.ClrAStats:
		call, esize = (*Kernel).clrAStats, addrSize
	case r.TstAddrs:
		call, esize = (*Kernel).tstAddrs, addrSize
	case r.InaDefine:
		call, esize = (*Kernel).inaDefine, addrSize
	default:
		return syscall.ENODEV
	}
	t := structOf[abi.PfiocTable](io)
	if t.Esize != int32(esize) {
		return syscall.ENODEV
	}
	return call(k, t)
}

// structOf is the struct whose bytes io is. The request's number has its size,
// so there are enough of them; they came from make and are aligned.
func structOf[T any](io []byte) *T {
	return (*T)(unsafe.Pointer(unsafe.SliceData(io)))
}

func (k *Kernel) getLimit(l *abi.PfiocLimit) error {
	if l.Index < 0 || int(l.Index) >= limits {
		return syscall.EINVAL
	}
	l.Limit = k.limit[l.Index]
	return nil
}

// requestLimit is DIOCSETLIMIT.
func (k *Kernel) requestLimit(l *abi.PfiocLimit) error {
	if l.Index < 0 || int(l.Index) >= limits {
		return syscall.EINVAL
	}
	if uint64(k.used(l.Index)) > uint64(l.Limit) {
		return syscall.EBUSY
	}
	if l.Index == abi.LimitFrags && l.Limit > mbufClusters {
		return syscall.EINVAL
	}
	if k.num >= 78 {
		k.setLimit(l.Index, l.Limit)
		return nil
	}
	k.pending[l.Index] = l.Limit
	l.Limit = k.limit[l.Index]
	return nil
}

// commitLimits is the part of DIOCXCOMMIT that went away with 7.8. A limit
// that says what it said before is not applied, so that what the kernel
// booted with stays without effect.
func (k *Kernel) commitLimits() error {
	if k.num >= 78 {
		return nil
	}
	for l := range pfioctl.Limit(limits) {
		if k.pending[l] == k.limit[l] {
			continue
		}
		if uint64(k.used(l)) > uint64(k.pending[l]) {
			return syscall.EBUSY
		}
		k.setLimit(l, k.pending[l])
	}
	return nil
}

// getStatus is DIOCGETSTATUS, with the interface's counters left at zero: no
// status interface is ever set.
func (k *Kernel) getStatus(io []byte) {
	clear(io)
	l, order := k.layout.Status, k.layout.Order()
	for i, n := range k.status.counters {
		order.PutUint64(io[l.Counters+8*i:], n)
	}
	order.PutUint64(io[l.Since:], uint64(k.status.since))
	if k.status.running {
		order.PutUint32(io[l.Running:], 1)
	}
	order.PutUint32(io[l.States:], uint32(len(k.states.at)))
	order.PutUint32(io[l.Debug:], 3) // LOG_ERR
	binary.BigEndian.PutUint32(io[l.HostID:], hostID)
	copy(io[l.Checksum:], k.status.checksum[:])
}
