package pfsim

import (
	"bytes"
	"slices"
	"syscall"
	"unsafe"

	"example.org/threatstopd/pfioctl/internal/abi"
)

const (
	transRuleset = 0 // PF_TRANS_RULESET
	transTable   = 1 // PF_TRANS_TABLE

	transSize = int(unsafe.Sizeof(abi.PfiocTransE{}))
)

// eachTrans reads the elements of a transaction and calls f with each and the
// path of its anchor.
func eachTrans(io *abi.PfiocTrans, f func(i int, e *abi.PfiocTransE, path string) error) error {
	for i := range max(int(io.Size), 0) {
		var e abi.PfiocTransE
		if copyin(bytesOf(&e), io.Array, i, transSize) != 1 {
			return syscall.EFAULT
		}
		n := bytes.IndexByte(e.Anchor[:], 0)
		if n < 0 {
			return syscall.ENAMETOOLONG
		}
		if err := f(i, &e, string(e.Anchor[:n])); err != nil {
			return err
		}
	}
	return nil
}

// xbegin is DIOCXBEGIN. What an element has begun stays begun when a later one
// fails.
func (k *Kernel) xbegin(io *abi.PfiocTrans) error {
	if io.Esize != int32(transSize) {
		return syscall.ENODEV
	}
	return eachTrans(io, func(i int, e *abi.PfiocTransE, path string) error {
		var err error
		switch e.Type {
		case transTable:
			e.Ticket, err = k.inaBegin(path)
		case transRuleset:
			e.Ticket, err = k.beginRules(path)
		default:
			err = syscall.EINVAL
		}
		if err != nil {
			return err
		}
		if copyout(io.Array, i, bytesOf(e), transSize) != 1 {
			return syscall.EFAULT
		}
		return nil
	})
}

// xrollback is DIOCXROLLBACK. A ticket that is not the current one is skipped.
func (k *Kernel) xrollback(io *abi.PfiocTrans) error {
	if io.Esize != int32(transSize) {
		return syscall.ENODEV
	}
	return eachTrans(io, func(_ int, e *abi.PfiocTransE, path string) error {
		switch e.Type {
		case transTable:
			k.inaRollback(path, e.Ticket)
		case transRuleset:
			k.rollbackRules(path, e.Ticket)
		default:
			return syscall.EINVAL
		}
		return nil
	})
}

// xcommit is DIOCXCOMMIT: it makes sure that every element can be committed,
// then reads them again and commits.
func (k *Kernel) xcommit(io *abi.PfiocTrans) error {
	if io.Esize != int32(transSize) {
		return syscall.ENODEV
	}
	err := eachTrans(io, func(_ int, e *abi.PfiocTransE, path string) error {
		rs := k.findRuleset(path)
		switch e.Type {
		case transTable:
			if rs == nil || !rs.topen || e.Ticket != rs.tticket {
				return syscall.EBUSY
			}
		case transRuleset:
			if rs == nil || !rs.open || e.Ticket != rs.inactiveVersion {
				return syscall.EBUSY
			}
		default:
			return syscall.EINVAL
		}
		return nil
	})
	if err != nil {
		return err
	}
	// The limits come between the check and the commit.
	if err := k.commitLimits(); err != nil {
		return err
	}
	return eachTrans(io, func(_ int, e *abi.PfiocTransE, path string) error {
		switch e.Type {
		case transTable:
			return k.inaCommit(path, e.Ticket)
		case transRuleset:
			return k.commitRules(path, e.Ticket)
		}
		return syscall.EINVAL
	})
}

// inaBegin is pfr_ina_begin: what was being defined in the anchor is thrown
// away.
func (k *Kernel) inaBegin(path string) (ticket uint32, err error) {
	rs := k.findOrCreateRuleset(path)
	if rs == nil {
		return 0, syscall.ENOMEM
	}
	k.endDefinitions(path)
	rs.tticket++
	rs.topen = true
	return rs.tticket, nil
}

// endDefinitions takes INACTIVE, and with it the shadow, off the tables of an
// anchor.
func (k *Kernel) endDefinitions(path string) {
	var queue []*ktable
	for _, t := range k.tablesOf(path) {
		if t.flags&flagInactive != 0 {
			t.nflags = t.flags &^ flagInactive
			queue = append(queue, t)
		}
	}
	k.setQueuedFlags(queue)
}

// inaRollback is pfr_ina_rollback.
func (k *Kernel) inaRollback(path string, ticket uint32) {
	rs := k.findRuleset(path)
	if rs == nil || !rs.topen || ticket != rs.tticket {
		return
	}
	k.endDefinitions(path)
	rs.topen = false
	k.removeIfEmpty(rs)
}

// inaCommit is pfr_ina_commit.
func (k *Kernel) inaCommit(path string, ticket uint32) error {
	rs := k.findRuleset(path)
	if rs == nil || !rs.topen || ticket != rs.tticket {
		return syscall.EBUSY
	}
	now := k.gettime()
	queue := slices.DeleteFunc(k.tablesOf(path), func(t *ktable) bool { return t.flags&flagInactive == 0 })
	for _, t := range slices.Backward(queue) {
		k.commitTable(t, now)
	}
	rs.topen = false
	k.removeIfEmpty(rs)
	return nil
}

// commitTable is pfr_commit_ktable.
func (k *Kernel) commitTable(t *ktable, now int64) {
	shadow := t.shadow
	switch {
	case shadow == nil:
		return // the kernel would not survive this; nothing leads here
	case shadow.noAddrs:
		if t.flags&flagActive == 0 {
			t.clstats(now, true)
		}
	case t.flags&flagActive != 0:
		k.mergeShadow(t, shadow, now)
	default:
		t.v4, shadow.v4 = shadow.v4, t.v4
		t.v6, shadow.v6 = shadow.v6, t.v6
		t.extras, shadow.extras = shadow.extras, t.extras
		t.epochs, shadow.epochs = shadow.epochs, t.epochs
		t.clstats(now, true)
	}
	flags := (shadow.flags&userFlags | t.flags&setFlags | flagActive) &^ flagInactive
	t.shadow = nil
	k.destroyTable(shadow)
	k.setTableFlags(t, flags)
}

// mergeShadow makes the table's entries those of the shadow. What both have
// keeps its counters, unless its negation changes.
func (k *Kernel) mergeShadow(t, shadow *ktable, now int64) {
	t.unmark()
	var (
		h       hint
		d       = newDraft(shadow.cnt())
		marked  int
		changed []prefix
	)
	for s := range spot(shadow.cnt()) {
		p := shadow.prefixAt(s)
		not := shadow.entryFlags(s)&entNot != 0
		if u, ok := t.lookup(p, &h); ok {
			flags := t.entryFlags(u)
			if (flags&entNot != 0) != not {
				changed = append(changed, p)
			}
			t.setEntryFlags(u, flags|entMark)
			marked++
			continue
		}
		d.add(p, not, shadow.extraAt(s))
	}
	k.entries += d.plain    // the shadow's own go when it is destroyed
	slices.Reverse(changed) // the kernel takes them from the last to the first
	k.replace(t, d, t.cnt()-marked, changed, now)
}

// inaDefine is DIOCRINADEFINE.
func (k *Kernel) inaDefine(io *abi.PfiocTable) error {
	if refused(io.Flags, abi.FlagDummy|abi.FlagAddrsToo) {
		return syscall.EINVAL
	}
	addrsToo := io.Flags&abi.FlagAddrsToo != 0
	if io.Size != 0 && !addrsToo {
		return syscall.EINVAL
	}
	if err := k.validTable(&io.Table, userFlags, true); err != nil {
		return err
	}
	rs := k.findRuleset(cString(io.Table.Anchor[:]))
	if rs == nil || !rs.topen || io.Ticket != rs.tticket {
		return syscall.EBUSY
	}
	io.Table.Flags |= flagInactive

	// Tables that are new: the one to be defined, and its root.
	var fresh []*ktable
	undo := func() {
		for _, t := range slices.Backward(fresh) {
			k.destroyTable(t)
		}
	}
	xadd := int32(0)
	t := k.lookupTable(&io.Table)
	if t == nil {
		if t = k.createTable(&io.Table, 0, true); t == nil {
			return syscall.ENOMEM
		}
		fresh = append(fresh, t)
		xadd++
		if t.anchor != "" {
			if t.root = k.findTable("", t.name); t.root == nil {
				var key abi.PfrTable
				key.Name = io.Table.Name
				if t.root = k.createTable(&key, 0, true); t.root == nil {
					undo()
					return syscall.ENOMEM
				}
				fresh = append(fresh, t.root)
			}
		}
	} else if t.flags&flagInactive == 0 {
		xadd++
	}
	shadow := k.createTable(&io.Table, 0, false)
	if shadow == nil {
		undo()
		return syscall.ENOMEM
	}

	d := newDraft(int(io.Size))
	err := k.each(io, false, func(a []byte) error {
		if !validAddr(a) {
			return syscall.EINVAL
		}
		p := parsePrefix(a)
		if d.has(p) {
			return nil
		}
		added, err := k.take(d, a, p)
		if added && a[addrType] == costEntry {
			t.costs++
		}
		return err
	})
	if err != nil || io.Flags&abi.FlagDummy != 0 {
		k.drop(d)
		k.destroyTable(shadow)
		undo()
	} else {
		if t.shadow != nil {
			k.destroyTable(t.shadow)
		}
		t.flags |= flagInactive
		for _, f := range slices.Backward(fresh) {
			k.insertTable(f)
		}
		shadow.insert(d, 0)
		shadow.noAddrs = !addrsToo
		t.shadow = shadow
	}
	if err != nil {
		return err
	}
	io.Nadd, io.Size2 = xadd, int32(d.len())
	return nil
}
