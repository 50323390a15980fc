package pfsim

import (
	"slices"
	"syscall"
	"unsafe"

	"example.org/threatstopd/pfioctl"
	"example.org/threatstopd/pfioctl/internal/abi"
)

const tableSize = int(unsafe.Sizeof(abi.PfrTable{}))

// eachTable reads the elements of a request's array of tables.
func eachTable(io *abi.PfiocTable, f func(t *abi.PfrTable) error) error {
	for i := range max(int(io.Size), 0) {
		var t abi.PfrTable
		if copyin(bytesOf(&t), io.Buffer, i, tableSize) != 1 {
			return syscall.EFAULT
		}
		if err := f(&t); err != nil {
			return err
		}
	}
	return nil
}

// putTable writes a table as struct pfr_table has it.
func (t *ktable) putTable(b []byte) {
	var p abi.PfrTable
	copy(p.Anchor[:], t.anchor)
	copy(p.Name[:], t.name)
	p.Flags = t.flags
	copy(b, bytesOf(&p))
	copy(b[unsafe.Offsetof(p.Fback):], t.tail[:])
}

// countTables is pfr_table_count: how many tables a filter lets through, or -1
// when there is no such anchor.
func (k *Kernel) countTables(io *abi.PfiocTable) int {
	if io.Flags&abi.FlagAllRsets != 0 {
		return len(k.tables)
	}
	rs := k.findRuleset(cString(io.Table.Anchor[:]))
	if rs == nil {
		return -1
	}
	return rs.tables
}

// inAnchor returns the tables that a filter lets through (pfr_skip_table). The
// anchor is compared as it is written, not as it is found.
func (k *Kernel) inAnchor(io *abi.PfiocTable) []*ktable {
	if io.Flags&abi.FlagAllRsets != 0 {
		return k.tables
	}
	return k.tablesOf(cString(io.Table.Anchor[:]))
}

func (k *Kernel) tablesOf(anchor string) []*ktable {
	var in []*ktable
	for _, t := range k.tables {
		if t.anchor == anchor {
			in = append(in, t)
		}
	}
	return in
}

// clrTables is DIOCRCLRTABLES.
func (k *Kernel) clrTables(io *abi.PfiocTable) error {
	if refused(io.Flags, abi.FlagDummy|abi.FlagAllRsets) {
		return syscall.EINVAL
	}
	if err := k.validAnchor(&io.Table.Anchor); err != nil {
		return err
	}
	if k.countTables(io) < 0 {
		return syscall.ENOENT
	}
	var queue []*ktable
	for _, t := range k.inAnchor(io) {
		if t.anchor == abi.ReservedAnchor || t.flags&flagActive == 0 {
			continue
		}
		t.nflags = t.flags &^ flagActive
		queue = append(queue, t)
	}
	if io.Flags&abi.FlagDummy == 0 {
		k.setQueuedFlags(queue)
	}
	io.Ndel = int32(len(queue))
	return nil
}

// addTables is DIOCRADDTABLES.
//
// From 7.1 on every element is given two tables, itself and a root table of
// its name, before any lock is taken; what is not needed is freed at the end.
func (k *Kernel) addTables(io *abi.PfiocTable) error {
	if refused(io.Flags, abi.FlagDummy) {
		return syscall.EINVAL
	}
	if k.num < 71 {
		return k.addTablesInOrder(io)
	}
	now := k.gettime()
	held := 0 // tables taken from the pool
	defer func() { k.inUse[pfioctl.LimitTables] -= held }()

	var aux []abi.PfrTable
	err := eachTable(io, func(t *abi.PfrTable) error {
		if err := k.validTable(t, userFlags, true); err != nil {
			return err
		}
		for range 2 {
			if !k.takeTable() {
				return syscall.ENOMEM
			}
			held++
		}
		for i := range aux {
			if aux[i].Name == t.Name && aux[i].Anchor == t.Anchor {
				k.inUse[pfioctl.LimitTables] -= 2
				held -= 2
				return nil
			}
		}
		t.Flags |= flagActive
		aux = append(aux, *t)
		return nil
	})
	if err != nil {
		return err
	}

	// The kernel's queue of new tables is in the order of the request: it was
	// turned round twice.
	var add, change []*ktable
	dummy := io.Flags&abi.FlagDummy != 0
	for i := range aux {
		if p := k.lookupTable(&aux[i]); p == nil {
			kt := newTable(&aux[i], now)
			add = append(add, kt)
		} else if p.flags&flagActive == 0 {
			p.nflags = p.flags&^userFlags | aux[i].Flags&userFlags | flagActive
			switch {
			case k.num == 73:
				// The flags had been cleared for the root table's sake.
				p.nflags &^= userFlags
			case k.num < 73:
				continue // it stays inactive
			}
			change = append(change, p)
		}
	}
	io.Nadd = int32(len(add))
	if dummy {
		return nil
	}

	queue := slices.Clone(add)
	for _, p := range add {
		rs := k.findOrCreateRuleset(p.anchor)
		if rs == nil {
			io.Nadd--
			queue = slices.DeleteFunc(queue, func(t *ktable) bool { return t == p })
			continue
		}
		p.rs = rs
		rs.tables++
		if p.anchor == "" {
			continue
		}
		if p.root = k.findTable("", p.name); p.root != nil {
			continue
		}
		if i := slices.IndexFunc(queue, func(t *ktable) bool { return t.anchor == "" && t.name == p.name }); i >= 0 {
			p.root = queue[i]
			continue
		}
		p.root = &ktable{name: p.name, rs: &k.main}
		k.main.tables++
		queue = slices.Insert(queue, 0, p.root)
	}
	// What goes into the tree stays taken.
	held -= len(queue)
	for _, t := range queue {
		k.insertTable(t)
	}
	for _, t := range change {
		k.setTableFlags(t, t.nflags)
	}
	return nil
}

// addTablesInOrder is DIOCRADDTABLES of 6.9 and 7.0, where only what is new
// takes a table, and an anchor that cannot be made is ENOMEM.
func (k *Kernel) addTablesInOrder(io *abi.PfiocTable) error {
	now := k.gettime()
	var add, change []*ktable
	n := int32(0)
	err := eachTable(io, func(t *abi.PfrTable) error {
		if err := k.validTable(t, userFlags, true); err != nil {
			return err
		}
		t.Flags |= flagActive
		p := k.lookupTable(t)
		if p != nil {
			if p.flags&flagActive == 0 && !slices.Contains(change, p) {
				p.nflags = p.flags&^userFlags | t.Flags
				change = append(change, p)
				n++
			}
			return nil
		}
		if p = k.createTable(t, now, true); p == nil {
			return syscall.ENOMEM
		}
		queued := func(anchor string) *ktable {
			for _, q := range slices.Backward(add) {
				if q.name == p.name && q.anchor == anchor {
					return q
				}
			}
			return nil
		}
		if queued(p.anchor) != nil {
			k.destroyTable(p)
			return nil
		}
		add = append(add, p)
		n++
		if p.anchor == "" {
			return nil
		}
		if p.root = k.findTable("", p.name); p.root != nil {
			return nil
		}
		if p.root = queued(""); p.root != nil {
			return nil
		}
		t.Anchor, t.Flags = [abi.AnchorPathSize]byte{}, 0
		if p.root = k.createTable(t, 0, true); p.root == nil {
			return syscall.ENOMEM
		}
		add = append(add, p.root)
		return nil
	})
	if err != nil || io.Flags&abi.FlagDummy != 0 {
		for _, t := range add {
			k.destroyTable(t)
		}
		if err == nil {
			io.Nadd = n
		}
		return err
	}
	for _, t := range slices.Backward(add) {
		k.insertTable(t)
	}
	k.setQueuedFlags(change)
	io.Nadd = n
	return nil
}

// delTables is DIOCRDELTABLES.
func (k *Kernel) delTables(io *abi.PfiocTable) error {
	if refused(io.Flags, abi.FlagDummy) {
		return syscall.EINVAL
	}
	var queue []*ktable
	err := eachTable(io, func(t *abi.PfrTable) error {
		if err := k.validTable(t, 0, true); err != nil {
			return err
		}
		p := k.lookupTable(t)
		if p == nil || p.flags&flagActive == 0 || slices.Contains(queue, p) {
			return nil
		}
		p.nflags = p.flags &^ flagActive
		queue = append(queue, p)
		return nil
	})
	if err != nil {
		return err
	}
	if io.Flags&abi.FlagDummy == 0 {
		k.setQueuedFlags(queue)
	}
	io.Ndel = int32(len(queue))
	return nil
}

// listTables is what DIOCRGETTABLES and DIOCRGETTSTATS share. Where the count
// that the anchor keeps is not that of the tables that bear its name the kernel
// takes its own lists for corrupt.
func (k *Kernel) listTables(io *abi.PfiocTable, esize int, put func(t *ktable, b []byte)) error {
	if refused(io.Flags, abi.FlagAllRsets) {
		return syscall.EINVAL
	}
	if err := k.validAnchor(&io.Table.Anchor); err != nil {
		return err
	}
	n := k.countTables(io)
	if n < 0 {
		return syscall.ENOENT
	}
	if n > int(io.Size) {
		io.Size = int32(n)
		return nil
	}
	b := make([]byte, esize)
	in := k.inAnchor(io)
	for i, t := range in[:min(n, len(in))] {
		clear(b)
		put(t, b)
		if copyout(io.Buffer, i, b, esize) != 1 {
			return syscall.EFAULT
		}
	}
	if len(in) != n {
		return syscall.ENOTTY
	}
	io.Size = int32(n)
	return nil
}

// getTables is DIOCRGETTABLES.
func (k *Kernel) getTables(io *abi.PfiocTable) error {
	return k.listTables(io, tableSize, (*ktable).putTable)
}

// getTStats is DIOCRGETTSTATS.
func (k *Kernel) getTStats(io *abi.PfiocTable) error {
	l, order := k.layout.TStats, k.layout.Order()
	return k.listTables(io, l.Size, func(t *ktable, b []byte) {
		t.putTable(b)
		for dir := range 2 {
			for op := range 4 {
				at := 8 * (4*dir + op)
				order.PutUint64(b[l.Packets+at:], t.packets[dir][op])
				order.PutUint64(b[l.Bytes+at:], t.bytes[dir][op])
			}
		}
		order.PutUint64(b[l.Match:], t.match)
		order.PutUint64(b[l.NoMatch:], t.nomatch)
		order.PutUint64(b[l.Tzero:], uint64(t.tzero))
		order.PutUint32(b[l.Cnt:], uint32(t.cnt()))
		order.PutUint32(b[l.Refcnt:], uint32(t.refs[refRule]))
		order.PutUint32(b[l.Refcnt+4:], uint32(t.refs[refAnchor]))
	})
}

// clrTStats is DIOCRCLRTSTATS. A table named twice makes a list without end,
// as an entry does in DIOCRCLRASTATS.
func (k *Kernel) clrTStats(io *abi.PfiocTable) error {
	if refused(io.Flags, abi.FlagDummy|abi.FlagAddrsToo) {
		return syscall.EINVAL
	}
	var queue []*ktable
	loop := false
	err := eachTable(io, func(t *abi.PfrTable) error {
		if err := k.validTable(t, 0, false); err != nil {
			return err
		}
		if p := k.lookupTable(t); p != nil {
			loop = loop || slices.Contains(queue, p)
			queue = append(queue, p)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if io.Flags&abi.FlagDummy == 0 {
		if loop {
			k.hung = true
			return ErrHang
		}
		now := k.gettime()
		for _, t := range queue {
			t.clstats(now, io.Flags&abi.FlagAddrsToo != 0)
		}
	}
	io.Nadd = int32(len(queue))
	return nil
}

// setTFlags is DIOCRSETTFLAGS: flags to set are in size2, to clear in nadd.
func (k *Kernel) setTFlags(io *abi.PfiocTable) error {
	set, clr := pfioctl.TableFlags(io.Size2), pfioctl.TableFlags(io.Nadd)
	if refused(io.Flags, abi.FlagDummy) || (set|clr)&^userFlags != 0 || set&clr != 0 {
		return syscall.EINVAL
	}
	var queue []*ktable
	var nchange, ndel int32
	err := eachTable(io, func(t *abi.PfrTable) error {
		if err := k.validTable(t, 0, true); err != nil {
			return err
		}
		p := k.lookupTable(t)
		if p == nil || p.flags&flagActive == 0 {
			return nil
		}
		p.nflags = (p.flags | set) &^ clr
		if p.nflags == p.flags || slices.Contains(queue, p) {
			return nil
		}
		queue = append(queue, p)
		if p.flags&flagPersist != 0 && clr&flagPersist != 0 && p.flags&flagReferenced == 0 {
			ndel++
		} else {
			nchange++
		}
		return nil
	})
	if err != nil {
		return err
	}
	if io.Flags&abi.FlagDummy == 0 {
		k.setQueuedFlags(queue)
	}
	io.Nchange, io.Ndel = nchange, ndel
	return nil
}
