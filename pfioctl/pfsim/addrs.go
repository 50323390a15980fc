package pfsim

import (
	"encoding/binary"
	"errors"
	"slices"
	"syscall"
	"unsafe"

	"example.org/threatstopd/pfioctl/internal/abi"
)

// Where struct pfr_addr keeps its members. Elements are handled as the bytes
// they are: what the kernel leaves alone goes back as it came.
const (
	addrSize   = int(unsafe.Sizeof(abi.PfrAddr{}))
	addrIfname = int(unsafe.Offsetof(abi.PfrAddr{}.Ifname))
	addrStates = int(unsafe.Offsetof(abi.PfrAddr{}.States))
	addrWeight = int(unsafe.Offsetof(abi.PfrAddr{}.Weight))
	addrAF     = int(unsafe.Offsetof(abi.PfrAddr{}.AF))
	addrNet    = int(unsafe.Offsetof(abi.PfrAddr{}.Net))
	addrNot    = int(unsafe.Offsetof(abi.PfrAddr{}.Not))
	addrFback  = int(unsafe.Offsetof(abi.PfrAddr{}.Fback))
	addrType   = int(unsafe.Offsetof(abi.PfrAddr{}.Type))

	ifnameSize = len(abi.PfrAddr{}.Ifname)

	afInet  = abi.AFInet
	afInet6 = abi.AFInet6
)

// chunk is how many elements are copied at a time. The answer is the same as
// for one at a time, which is what the kernel does: where an element cannot be
// copied those before it have been.
const chunk = 512

// validAddr is pfr_validate_addr.
func validAddr(a []byte) bool {
	_ = a[addrSize-1]
	hi, lo := binary.BigEndian.Uint64(a), binary.BigEndian.Uint64(a[8:])
	switch net := a[addrNet]; a[addrAF] {
	case afInet:
		if net > 32 || hi<<net != 0 || lo != 0 {
			return false
		}
	case afInet6:
		switch {
		case net > 128:
			return false
		case net < 64:
			if hi<<net != 0 || lo != 0 {
				return false
			}
		case lo<<(net-64) != 0:
			return false
		}
	default:
		return false
	}
	return a[addrNot] <= 1 && a[addrFback] == 0 && a[addrType] < maxEntry
}

// errDone ends a request that does nothing and is answered with 0.
var errDone = errors.New("done")

// refused reports whether a flag of the request is not among those it takes
// (ACCEPT_FLAGS). Bits that are no request flag at all pass.
func refused(flags, ok abi.RequestFlags) bool {
	const all = 0x7f // PFR_FLAG_ALLMASK
	return flags&^ok&all != 0
}

// each reads the elements of a request's array and calls f with each, which it
// may change; with writeBack the changed element is written before the next is
// read. It returns the error of f, or EFAULT, whichever comes first in the
// order of the array.
func (k *Kernel) each(io *abi.PfiocTable, writeBack bool, f func(a []byte) error) error {
	for first, size := 0, int(io.Size); first < size; {
		want := min(size-first, chunk)
		got := copyin(k.buf[:want*addrSize], io.Buffer, first, addrSize)
		var err error
		done := 0
		for ; done < got; done++ {
			if err = f(k.buf[done*addrSize:][:addrSize:addrSize]); err != nil {
				break
			}
		}
		if writeBack && copyout(io.Buffer, first, k.buf[:done*addrSize], addrSize) < done {
			return syscall.EFAULT
		}
		if err != nil {
			return err
		}
		if got < want {
			return syscall.EFAULT
		}
		first += got
	}
	return nil
}

// eachOut writes n elements that f fills, beginning with number first, and
// reports whether they could be written. An element before the array is not
// there: the kernel would write what the caller has in front of it, where a
// negative size is met with feedback.
func (k *Kernel) eachOut(io *abi.PfiocTable, first, n int, f func(i int, a []byte)) bool {
	if n > 0 && first < 0 {
		return false
	}
	for done := 0; done < n; {
		m := min(n-done, chunk)
		for i := range m {
			f(done+i, k.buf[i*addrSize:][:addrSize:addrSize])
		}
		if copyout(io.Buffer, first+done, k.buf[:m*addrSize], addrSize) < m {
			return false
		}
		done += m
	}
	return true
}

// resetFeedback is pfr_reset_feedback: it takes back what a request that
// failed has said, as far as it can.
func (k *Kernel) resetFeedback(io *abi.PfiocTable) {
	for first, size := 0, int(io.Size); first < size; {
		want := min(size-first, chunk)
		got := copyin(k.buf[:want*addrSize], io.Buffer, first, addrSize)
		for i := range got {
			k.buf[i*addrSize+addrFback] = byte(abi.FeedbackNone)
		}
		if copyout(io.Buffer, first, k.buf[:got*addrSize], addrSize) < got || got < want {
			return
		}
		first += got
	}
}

// putEntry is pfr_copyout_addr: it writes an entry of the table.
func (t *ktable) putEntry(a []byte, s spot) {
	clear(a)
	p := t.prefixAt(s)
	p.putAddress(a)
	a[addrAF], a[addrNet] = p.af, p.net
	flags := t.entryFlags(s)
	if flags&entNot != 0 {
		a[addrNot] = 1
	}
	if flags&entExtra != 0 {
		x := t.extras[p]
		a[addrType] = x.typ
		if x.typ == costEntry {
			binary.NativeEndian.PutUint16(a[addrWeight:], x.weight)
		}
		if x.typ != plainEntry {
			copy(a[addrIfname:addrIfname+ifnameSize-1], x.ifname)
		}
	}
}

// draft is the new entries of a request, before they are put into the table.
type draft struct {
	v4     scratch[entry4]
	v6     scratch[entry6]
	extras map[prefix]*extra
	plain  int // taken from the limited pool
}

// newDraft is a draft for most entries, or if that turns out wrong for more.
func newDraft(most int) *draft {
	return &draft{v4: newScratch[entry4](most), v6: newScratch[entry6](most)}
}

func (d *draft) len() int { return len(d.v4.list) + len(d.v6.list) }

func (d *draft) has(p prefix) bool {
	if p.af == afInet {
		return d.v4.has(p.entry4()) >= 0
	}
	return d.v6.has(p.entry6()) >= 0
}

// add takes an entry in, unless the kernel's tree cannot hold it.
func (d *draft) add(p prefix, not bool, x *extra) bool {
	if p.unroutable() {
		return false
	}
	var flags uint32
	if not {
		flags = entNot
	}
	if x != nil {
		flags |= entExtra
		if d.extras == nil {
			d.extras = map[prefix]*extra{}
		}
		d.extras[p] = x
	} else {
		d.plain++
	}
	if p.af == afInet {
		d.v4.add(p.entry4().with(flags))
	} else {
		d.v6.add(p.entry6().with(flags))
	}
	return true
}

// take is pfr_create_kentry and pfr_route_kentry for an element that is not in
// the table: it adds it to the draft. It returns ENOMEM when the pool is empty,
// which is asked also for an entry that cannot be added; that is no error.
func (k *Kernel) take(d *draft, a []byte, p prefix) (added bool, err error) {
	if a[addrType] == plainEntry && k.full() {
		return false, syscall.ENOMEM
	}
	if binary.NativeEndian.Uint16(a[addrWeight:]) == 0 {
		binary.NativeEndian.PutUint16(a[addrWeight:], 1)
	}
	plain := d.plain
	added = d.add(p, a[addrNot] == 1, newExtra(a))
	k.entries += d.plain - plain
	return added, nil
}

// newExtra returns what is to be kept of an element of a kind that the limit
// does not count, nil for a plain one.
func newExtra(a []byte) *extra {
	if a[addrType] == plainEntry {
		return nil
	}
	x := &extra{typ: a[addrType], ifname: cString(a[addrIfname:][:ifnameSize])}
	x.ifname = x.ifname[:min(len(x.ifname), ifnameSize-1)]
	if x.typ == costEntry {
		x.weight = binary.NativeEndian.Uint16(a[addrWeight:])
	}
	return x
}

// drop gives the draft's entries back to the pool.
func (k *Kernel) drop(d *draft) { k.entries -= d.plain }

// insert is pfr_insert_kentries.
func (t *ktable) insert(d *draft, now int64) {
	if d.len() == 0 {
		return
	}
	e := t.epoch(now)
	v4, v6 := d.v4.sort(), d.v6.sort()
	for i := range v4 {
		v4[i] = v4[i].with(v4[i].flags() | e)
	}
	for i := range v6 {
		v6[i] = v6[i].with(v6[i].flags() | e)
	}
	t.v4.insert(v4)
	t.v6.insert(v6)
	if t.extras == nil && len(d.extras) > 0 {
		t.extras = make(map[prefix]*extra, len(d.extras))
	}
	for p, x := range d.extras {
		t.extras[p] = x
		if x.typ == costEntry {
			t.costs++
		}
	}
}

// writable is how every request that writes addresses begins.
func (k *Kernel) writable(io *abi.PfiocTable) (*ktable, error) {
	if err := k.validTable(&io.Table, 0, true); err != nil {
		return nil, err
	}
	return k.unlocked(io)
}

// unlocked finds a table that may be written.
func (k *Kernel) unlocked(io *abi.PfiocTable) (*ktable, error) {
	t := k.lookupTable(&io.Table)
	if t == nil || t.flags&flagActive == 0 {
		return nil, syscall.ESRCH
	}
	if t.flags&flagConst != 0 {
		return nil, syscall.EPERM
	}
	return t, nil
}

// readable is how every request that reads addresses begins.
func (k *Kernel) readable(io *abi.PfiocTable) (*ktable, error) {
	if err := k.validTable(&io.Table, 0, false); err != nil {
		return nil, err
	}
	t := k.lookupTable(&io.Table)
	if t == nil || t.flags&flagActive == 0 {
		return nil, syscall.ESRCH
	}
	return t, nil
}

// clrAddrs is DIOCRCLRADDRS.
func (k *Kernel) clrAddrs(io *abi.PfiocTable) error {
	if refused(io.Flags, abi.FlagDummy) {
		return syscall.EINVAL
	}
	t, err := k.writable(io)
	if err != nil {
		return err
	}
	io.Ndel = int32(t.cnt())
	if io.Flags&abi.FlagDummy == 0 {
		k.entries -= t.removeWhere(func(uint32) bool { return true })
	}
	return nil
}

// setAddrs is DIOCRSETADDRS.
func (k *Kernel) setAddrs(io *abi.PfiocTable) error {
	dummy, feedback := io.Flags&abi.FlagDummy != 0, io.Flags&abi.FlagFeedback != 0
	if refused(io.Flags, abi.FlagDummy|abi.FlagFeedback) {
		return syscall.EINVAL
	}
	t, err := k.writable(io)
	if err != nil {
		return err
	}
	if !k.takeTable() {
		return syscall.ENOMEM
	}
	defer k.freeTable()
	now := k.gettime()
	t.unmark()

	var (
		h       hint
		d       = newDraft(int(io.Size))
		marked  int
		changed []prefix
	)
	err = k.each(io, feedback, func(a []byte) error {
		if !validAddr(a) {
			return syscall.EINVAL
		}
		fb := abi.FeedbackNone
		p := parsePrefix(a)
		if s, ok := t.lookup(p, &h); ok {
			flags := t.entryFlags(s)
			if flags&entMark != 0 {
				fb = abi.FeedbackDuplicate
			} else {
				t.setEntryFlags(s, flags|entMark)
				marked++
				if (flags&entNot != 0) != (a[addrNot] == 1) {
					changed = append(changed, p)
					fb = abi.FeedbackChanged
				}
			}
		} else if d.has(p) {
			fb = abi.FeedbackDuplicate
		} else if added, err := k.take(d, a, p); err != nil {
			return err
		} else if added {
			fb = abi.FeedbackAdded
			if a[addrType] == costEntry {
				t.costs++
			}
		}
		a[addrFback] = byte(fb)
		return nil
	})
	xdel := t.cnt() - marked
	if err == nil && feedback && io.Size2 != 0 {
		if io.Size2 < io.Size+int32(xdel) {
			io.Size2 = io.Size + int32(xdel)
			err = errDone
		} else if !k.putDeleted(io, t, xdel) {
			err = syscall.EFAULT
		}
	}
	if err != nil {
		k.drop(d)
		if feedback {
			k.resetFeedback(io)
		}
		if err == errDone {
			return nil
		}
		return err
	}
	io.Nadd, io.Ndel, io.Nchange = int32(d.len()), int32(xdel), int32(len(changed))
	if feedback {
		io.Size2 = io.Size + int32(xdel)
	}
	if dummy {
		k.drop(d)
		return nil
	}
	k.replace(t, d, xdel, changed, now)
	return nil
}

// replace is how DIOCRSETADDRS and DIOCXCOMMIT end: new entries are put in,
// those without a mark, gone in number, are taken out, and changed ones, in the
// order in which they were queued, are negated and lose their counters.
//
// In a table with weights to add up the kernel queues all entries before the
// last step, by the link that holds the changed ones together. So their queue
// goes on from its head, the one that came last, through all that stands before
// that in the table.
func (k *Kernel) replace(t *ktable, d *draft, gone int, changed []prefix, now int64) {
	if gone > 0 {
		k.entries -= t.removeWhere(func(flags uint32) bool { return flags&entMark == 0 })
	}
	t.insert(d, now)
	if len(changed) == 0 {
		return
	}
	var h hint
	e := t.epoch(now)
	negate := func(s spot) {
		t.setEntryFlags(s, t.entryFlags(s)^entNot)
		t.clearStats(s, e)
	}
	if t.costs > 0 {
		head, _ := t.lookup(changed[len(changed)-1], &h)
		for s := range head + 1 {
			negate(s)
		}
		return
	}
	for _, p := range changed {
		s, _ := t.lookup(p, &h)
		negate(s)
	}
}

// putDeleted writes what SETADDRS is about to delete behind the array: the
// kernel queues at the head while it walks, so the last entry comes first.
func (k *Kernel) putDeleted(io *abi.PfiocTable, t *ktable, n int) bool {
	s := spot(t.cnt())
	return k.eachOut(io, int(io.Size), n, func(_ int, a []byte) {
		for s--; t.entryFlags(s)&entMark != 0; {
			s--
		}
		t.putEntry(a, s)
		a[addrFback] = byte(abi.FeedbackDeleted)
	})
}

// queued is an element of DIOCRADDADDRS between being read and being looked
// up.
type queued struct {
	prefix
	not bool
	fb  abi.Feedback
	x   *extra
}

// addAddrs is DIOCRADDADDRS.
//
// From 7.1 on every element is given an entry before any lock is taken and the
// table is looked up, waiting where there is none. The queue of elements is
// processed from its head, which is where they were put: the last comes first.
func (k *Kernel) addAddrs(io *abi.PfiocTable) error {
	dummy, feedback := io.Flags&abi.FlagDummy != 0, io.Flags&abi.FlagFeedback != 0
	if refused(io.Flags, abi.FlagDummy|abi.FlagFeedback) {
		return syscall.EINVAL
	}
	if err := k.validTable(&io.Table, 0, true); err != nil {
		return err
	}
	if k.num < 71 {
		return k.addAddrsInOrder(io)
	}
	if !k.takeTable() {
		return syscall.ENOMEM
	}
	defer k.freeTable()
	now := k.gettime()

	var (
		queue []queued
		held  int // entries of the limited pool in queue
		last  [addrSize]byte
	)
	err := k.each(io, false, func(a []byte) error {
		if !validAddr(a) {
			return syscall.EINVAL
		}
		if a[addrType] == plainEntry {
			if k.full() {
				k.hung = true
				return ErrHang
			}
			k.entries++
			held++
		}
		if binary.NativeEndian.Uint16(a[addrWeight:]) == 0 {
			binary.NativeEndian.PutUint16(a[addrWeight:], 1)
		}
		queue = append(queue, queued{prefix: parsePrefix(a), not: a[addrNot] == 1, x: newExtra(a)})
		copy(last[:], a)
		return nil
	})
	if err == ErrHang {
		return err
	}
	var t *ktable
	if err == nil {
		t, err = k.unlocked(io)
	}
	if err != nil {
		k.entries -= held
		if feedback {
			k.resetFeedback(io)
		}
		return err
	}

	var h hint
	d := newDraft(len(queue))
	for i := range slices.Backward(queue) {
		q := &queue[i]
		s, there := t.lookup(q.prefix, &h)
		dup := d.has(q.prefix)
		switch {
		case dup:
			q.fb = abi.FeedbackDuplicate
		case !there:
			if d.add(q.prefix, q.not, q.x) {
				q.fb = abi.FeedbackAdded
			}
		case (t.entryFlags(s)&entNot != 0) != q.not:
			q.fb = abi.FeedbackConflict
		}
	}
	n := d.len()
	k.entries -= held
	if !dummy {
		k.entries += d.plain
		t.insert(d, now)
	}
	if feedback {
		// The kernel fills one struct again and again, the last that it
		// read, so what it does not set sticks.
		ok := k.eachOut(io, 0, len(queue), func(i int, a []byte) {
			queue[len(queue)-1-i].fill(&last)
			copy(a, last[:])
		})
		if !ok {
			k.resetFeedback(io)
			return syscall.EFAULT
		}
	}
	io.Nadd = int32(n)
	return nil
}

// staleWeight is the weight that comes back for a plain entry: the kernel
// reads it from behind the entry.
const staleWeight = 0xdfdf

// fill is pfr_fill_feedback.
func (q *queued) fill(a *[addrSize]byte) {
	a[addrType] = plainEntry
	weight := uint16(staleWeight)
	if q.x != nil {
		a[addrType] = q.x.typ
		if q.x.typ == costEntry {
			// Sic: the entry is given the struct's weight.
			q.x.weight = binary.NativeEndian.Uint16(a[addrWeight:])
			weight = q.x.weight
		}
		if q.x.ifname != "" {
			ifname := a[addrIfname:][:ifnameSize]
			ifname[copy(ifname[:ifnameSize-1], q.x.ifname)] = 0
		}
	}
	q.putAddress(a[:])
	binary.NativeEndian.PutUint16(a[addrWeight:], weight)
	a[addrAF], a[addrNet] = q.af, q.net
	if q.not {
		a[addrNot] = 1
	}
	a[addrFback] = byte(q.fb)
}

// addAddrsInOrder is DIOCRADDADDRS of 6.9 and 7.0: the table is looked up
// first, elements are taken in their order, feedback is in place, and an empty
// pool is ENOMEM.
func (k *Kernel) addAddrsInOrder(io *abi.PfiocTable) error {
	dummy, feedback := io.Flags&abi.FlagDummy != 0, io.Flags&abi.FlagFeedback != 0
	t, err := k.unlocked(io)
	if err != nil {
		return err
	}
	if !k.takeTable() {
		return syscall.ENOMEM
	}
	defer k.freeTable()
	now := k.gettime()

	var h hint
	d := newDraft(int(io.Size))
	err = k.each(io, feedback, func(a []byte) error {
		if !validAddr(a) {
			return syscall.EINVAL
		}
		fb := abi.FeedbackNone
		p := parsePrefix(a)
		s, there := t.lookup(p, &h)
		switch {
		case d.has(p):
			fb = abi.FeedbackDuplicate
		case !there:
			added, err := k.take(d, a, p)
			if err != nil {
				return err
			}
			if added {
				fb = abi.FeedbackAdded
			}
		case (t.entryFlags(s)&entNot != 0) != (a[addrNot] == 1):
			fb = abi.FeedbackConflict
		}
		a[addrFback] = byte(fb)
		return nil
	})
	if err != nil {
		k.drop(d)
		if feedback {
			k.resetFeedback(io)
		}
		return err
	}
	io.Nadd = int32(d.len())
	if dummy {
		k.drop(d)
		return nil
	}
	t.insert(d, now)
	return nil
}

// delAddrs is DIOCRDELADDRS.
func (k *Kernel) delAddrs(io *abi.PfiocTable) error {
	dummy, feedback := io.Flags&abi.FlagDummy != 0, io.Flags&abi.FlagFeedback != 0
	if refused(io.Flags, abi.FlagDummy|abi.FlagFeedback) {
		return syscall.EINVAL
	}
	t, err := k.writable(io)
	if err != nil {
		return err
	}
	// For few elements against a large table the kernel reads them once more,
	// at first, to clear the marks of what they name; what it stumbles over
	// there leaves the feedback alone.
	log := 1
	for i := t.cnt(); i > 0; i >>= 1 {
		log++
	}
	if int(io.Size) <= t.cnt()/log {
		err := k.each(io, false, func(a []byte) error {
			if !validAddr(a) {
				return syscall.EINVAL
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	t.unmark()

	var h hint
	n := 0
	err = k.each(io, feedback, func(a []byte) error {
		if !validAddr(a) {
			return syscall.EINVAL
		}
		fb := abi.FeedbackNone
		if s, ok := t.lookup(parsePrefix(a), &h); ok {
			switch flags := t.entryFlags(s); {
			case (flags&entNot != 0) != (a[addrNot] == 1):
				fb = abi.FeedbackConflict
			case flags&entMark != 0:
				fb = abi.FeedbackDuplicate
			default:
				fb = abi.FeedbackDeleted
				t.setEntryFlags(s, flags|entMark)
				n++
			}
		}
		a[addrFback] = byte(fb)
		return nil
	})
	if err != nil {
		if feedback {
			k.resetFeedback(io)
		}
		return err
	}
	if !dummy && n > 0 {
		k.entries -= t.removeWhere(func(flags uint32) bool { return flags&entMark != 0 })
	}
	io.Ndel = int32(n)
	return nil
}

// tstAddrs is DIOCRTSTADDRS.
func (k *Kernel) tstAddrs(io *abi.PfiocTable) error {
	if refused(io.Flags, abi.FlagReplace) {
		return syscall.EINVAL
	}
	t, err := k.readable(io)
	if err != nil {
		return err
	}
	replace := io.Flags&abi.FlagReplace != 0
	n := int32(0)
	err = k.each(io, true, func(a []byte) error {
		if !validAddr(a) {
			return syscall.EINVAL
		}
		p := parsePrefix(a)
		if p.net < p.maxBits() {
			return syscall.EINVAL
		}
		fb := abi.FeedbackNone
		s, ok := t.longest(p)
		if ok {
			fb = abi.FeedbackMatch
			if t.entryFlags(s)&entNot != 0 {
				fb = abi.FeedbackNotMatch
			} else {
				n++
			}
		}
		if replace {
			clear(a)
			if ok {
				t.putEntry(a, s)
			}
		}
		a[addrFback] = byte(fb)
		return nil
	})
	if err != nil {
		return err
	}
	io.Nadd = n
	return nil
}

// getAddrs is DIOCRGETADDRS.
func (k *Kernel) getAddrs(io *abi.PfiocTable) error {
	if refused(io.Flags, 0) {
		return syscall.EINVAL
	}
	t, err := k.readable(io)
	if err != nil {
		return err
	}
	n := t.cnt()
	if n <= int(io.Size) {
		if !k.eachOut(io, 0, n, func(i int, a []byte) { t.putEntry(a, spot(i)) }) {
			return syscall.EFAULT
		}
	}
	io.Size = int32(n)
	return nil
}

// getAStats is DIOCRGETASTATS, which takes any flag and heeds one.
func (k *Kernel) getAStats(io *abi.PfiocTable) error {
	t, err := k.readable(io)
	if err != nil {
		return err
	}
	n := t.cnt()
	if n > int(io.Size) {
		io.Size = int32(n)
		return nil
	}
	l, order := k.layout.AStats, k.layout.Order()
	a := make([]byte, l.Size)
	for s := range spot(n) {
		clear(a)
		t.putEntry(a[:addrSize], s)
		if x := t.extraAt(s); x != nil && x.counters != nil {
			for dir := range 2 {
				for op := range 3 {
					at := 8 * (3*dir + op)
					order.PutUint64(a[l.Packets+at:], x.counters.packets[dir][op])
					order.PutUint64(a[l.Bytes+at:], x.counters.bytes[dir][op])
				}
			}
		} else {
			a[addrFback] = byte(abi.FeedbackNoCount)
		}
		order.PutUint64(a[l.Tzero:], uint64(t.tzeroAt(s)))
		if copyout(io.Buffer, int(s), a, l.Size) != 1 {
			return syscall.EFAULT
		}
	}
	if io.Flags&abi.FlagClrStats != 0 {
		t.clearAllStats(k.gettime())
	}
	io.Size = int32(n)
	return nil
}

// clrAStats is DIOCRCLRASTATS. An entry named twice is put into a list twice,
// which then has no end.
func (k *Kernel) clrAStats(io *abi.PfiocTable) error {
	feedback := io.Flags&abi.FlagFeedback != 0
	if refused(io.Flags, abi.FlagDummy|abi.FlagFeedback) {
		return syscall.EINVAL
	}
	t, err := k.readable(io)
	if err != nil {
		return err
	}
	t.unmark()
	var (
		h     hint
		queue []spot
		loop  bool
	)
	err = k.each(io, feedback, func(a []byte) error {
		if !validAddr(a) {
			return syscall.EINVAL
		}
		fb := abi.FeedbackNone
		if s, ok := t.lookup(parsePrefix(a), &h); ok {
			fb = abi.FeedbackCleared
			flags := t.entryFlags(s)
			loop = loop || flags&entMark != 0
			t.setEntryFlags(s, flags|entMark)
			queue = append(queue, s)
		}
		a[addrFback] = byte(fb)
		return nil
	})
	if err != nil {
		if feedback {
			k.resetFeedback(io)
		}
		return err
	}
	if io.Flags&abi.FlagDummy == 0 && len(queue) > 0 {
		if loop {
			k.hung = true
			return ErrHang
		}
		e := t.epoch(k.gettime())
		for _, s := range queue {
			t.clearStats(s, e)
		}
	}
	io.Nadd = int32(len(queue))
	return nil
}
