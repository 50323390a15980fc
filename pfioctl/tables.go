package pfioctl

import (
	"fmt"
	"time"
	"unsafe"
)

// attempts is how often a listing is asked for again because it grew between
// the kernel's two answers.
const attempts = 16

// AddTables makes tables where there are none, and returns how many are new as
// the kernel counts, which is not to be relied on: since 7.4 it does not count
// one that was mentioned by a rule already. A table that exists is left as it
// is, its flags too.
//
// New tables get flags and always [TablePersist]: without it the next change of
// flags, or the last rule that lets go, would destroy a table with all that is
// in it (pf_table.c: pfr_setflags_ktable). Of the flags only those in
// [TableUserFlags] may be given.
//
// The tables are looked up afterwards, since the kernel calls it success when
// an anchor could not be made and, on 7.1 and 7.2, when a table that a rule
// mentions stays inactive, which is [ErrTableInactive]. On
// 7.3 such a table becomes active without its flags, which cannot be told from
// one that was so before; define tables in pf.conf with `persist` there.
func (p *PF) AddTables(flags TableFlags, tables ...Table) (added int, err error) {
	const op = "add tables"
	if flags&^TableUserFlags != 0 {
		return 0, fail(op, Table{}, len(tables), fmt.Errorf("flags %#x are not for the user to set", flags&^TableUserFlags))
	}
	tables, err = checkTables(op, tables, true)
	if err != nil || len(tables) == 0 {
		return 0, err
	}
	elements := tableElements(tables, flags|TablePersist)
	io := arrayOf(elements)
	if err := p.tableRequest(p.l.req.AddTables, io); err != nil {
		return 0, p.failLimit(op, only(tables), len(tables), LimitTables, err)
	}
	return int(io.Nadd), p.checkAdded(op, tables)
}

// checkAdded reports the first of the tables that is not there to be used.
func (p *PF) checkAdded(op string, tables []Table) error {
	all, err := p.Tables(TableFilter{All: true})
	if err != nil {
		return err
	}
	flags := make(map[Table]TableFlags, len(all))
	for _, s := range all {
		flags[s.Table.key()] = s.Flags
	}
	for _, t := range tables {
		f, ok := flags[t]
		switch {
		case !ok:
			return fail(op, t, 0, errNoAnchor)
		case f&TableActive == 0:
			return fail(op, t, 0, ErrTableInactive)
		}
	}
	return nil
}

// DelTables removes tables with all that is in them, and returns how many there
// were. One that a rule refers to stays listed, inactive and empty. Unknown
// names are passed over.
//
// A table of an anchor and the one of the same name in the main ruleset go in
// two requests, the anchor's first: in one the kernel has been seen to touch
// memory that it had freed.
func (p *PF) DelTables(tables ...Table) (deleted int, err error) {
	const op = "delete tables"
	tables, err = checkTables(op, tables, true)
	if err != nil {
		return 0, err
	}
	var first, roots []Table
	inAnchor := make(map[string]bool)
	for _, t := range tables {
		if t.Anchor != "" {
			inAnchor[t.Name] = true
		}
	}
	for _, t := range tables {
		if t.Anchor == "" && inAnchor[t.Name] {
			roots = append(roots, t)
		} else {
			first = append(first, t)
		}
	}
	for _, part := range [][]Table{first, roots} {
		if len(part) == 0 {
			continue
		}
		elements := tableElements(part, 0)
		io := arrayOf(elements)
		if err := p.tableRequest(p.l.req.DelTables, io); err != nil {
			return deleted, fail(op, only(part), len(part), err)
		}
		deleted += int(io.Ndel)
	}
	return deleted, nil
}

// TableFilter tells whose tables are meant: of the main ruleset in the zero
// filter, of an anchor, or with All of every ruleset and the kernel's own.
type TableFilter struct {
	Anchor string
	All    bool
}

// Indices into counters: the direction, then what became of the packet.
const (
	In  = 0
	Out = 1

	Block = 0
	Match = 1
	Pass  = 2
	XPass = 3 // of a state that a rule on the table made; tables only
)

// TableStats is a table and what the kernel counts of it.
type TableStats struct {
	Table
	Flags          TableFlags
	Addresses      int
	Rules, Anchors int // that refer to it
	Match, NoMatch uint64
	Packets, Bytes [2][4]uint64 // by direction and what became of the packet
	Cleared        time.Time    // when the counters were last cleared
}

// Active reports whether the table exists for rules and requests. One that is
// not is only a name that a rule or a table in an anchor refers to.
func (s TableStats) Active() bool { return s.Flags&TableActive != 0 }

// Tables returns the tables, inactive ones too (see [TableStats.Active]),
// sorted by name and then anchor. An anchor that does not exist is ENOENT.
func (p *PF) Tables(f TableFilter) ([]TableStats, error) {
	const op = "list tables"
	if err := checkAnchor(f.Anchor, false); err != nil {
		return nil, fail(op, Table{}, 0, err)
	}
	var flags RequestFlags
	if f.All {
		flags, f.Anchor = FlagAllRsets, ""
	}
	a := array{esize: p.l.tstats.Size}
	defer a.close()
	if err := p.list(p.l.req.GetTStats, Table{Anchor: f.Anchor}, flags, &a); err != nil {
		op := op
		if f.Anchor != "" {
			op += " of anchor " + f.Anchor
		}
		return nil, fail(op, Table{}, 0, err)
	}
	out := make([]TableStats, a.n)
	for i := range out {
		out[i] = p.l.tableStats(a.at(i))
	}
	return out, nil
}

// list fills a with what a request lists. The kernel answers with the number
// there is; if the array has no room for it all it writes nothing at all and
// still calls it success, so only the number tells.
func (p *PF) list(req uint, t Table, flags RequestFlags, a *array) error {
	if a.esize == 0 {
		return ErrUnknownRelease
	}
	for range attempts {
		io := t.request(flags)
		io.Buffer, io.Esize, io.Size = a.pointer(), int32(a.esize), int32(a.room)
		if err := p.tableRequest(req, io); err != nil {
			return err
		}
		n := int(io.Size)
		if n <= a.room {
			a.n = n
			return nil
		}
		// A little more than needed, for what is added meanwhile.
		a.n = 0
		if err := a.grow(n + n/64 + 16); err != nil {
			return err
		}
	}
	return ErrChanging
}

func (l *Layout) tableStats(b []byte) TableStats {
	o, u64, u32 := l.tstats, l.ByteOrder().Uint64, l.ByteOrder().Uint32
	s := TableStats{
		Table:     (*PfrTable)(unsafe.Pointer(&b[0])).table(),
		Flags:     TableFlags(u32(b[unsafe.Offsetof(PfrTable{}.Flags):])),
		Addresses: int(int32(u32(b[o.Cnt:]))),
		Rules:     int(int32(u32(b[o.Refcnt:]))),
		Anchors:   int(int32(u32(b[o.Refcnt+4:]))),
		Match:     u64(b[o.Match:]),
		NoMatch:   u64(b[o.NoMatch:]),
		Cleared:   time.Unix(int64(u64(b[o.Tzero:])), 0),
	}
	for i := range 8 {
		s.Packets[i/4][i%4] = u64(b[o.Packets+8*i:])
		s.Bytes[i/4][i%4] = u64(b[o.Bytes+8*i:])
	}
	return s
}

// ClearTableStats sets the counters of tables to zero, with addresses those of
// each address too, and returns how many tables it did. Unknown and inactive
// tables are passed over. A table given twice is sent once: at its second sight
// the kernel would walk in a circle for ever, with its locks held.
func (p *PF) ClearTableStats(addresses bool, tables ...Table) (cleared int, err error) {
	const op = "clear counters of tables"
	tables, err = checkTables(op, tables, false)
	if err != nil || len(tables) == 0 {
		return 0, err
	}
	elements := tableElements(tables, 0)
	io := arrayOf(elements)
	if addresses {
		io.Flags = FlagAddrsToo
	}
	if err := p.tableRequest(p.l.req.ClrTStats, io); err != nil {
		return 0, fail(op, only(tables), len(tables), err)
	}
	return int(io.Nadd), nil // pfrio_nzero
}

// checkTables returns the tables as the kernel sees them, each once.
func checkTables(op string, tables []Table, writing bool) ([]Table, error) {
	for _, t := range tables {
		if err := t.check(writing); err != nil {
			return nil, fail(op, t, 0, err)
		}
	}
	return distinct(tables), nil
}

// only returns the table that is alone, to name it in an error.
func only(tables []Table) Table {
	if len(tables) == 1 {
		return tables[0]
	}
	return Table{}
}

func tableElements(tables []Table, flags TableFlags) []PfrTable {
	e := make([]PfrTable, len(tables))
	for i, t := range tables {
		t.put(&e[i])
		e[i].Flags = flags
	}
	return e
}

// arrayOf begins a request about tables.
func arrayOf(e []PfrTable) *PfiocTable {
	return &PfiocTable{
		Buffer: unsafe.Pointer(unsafe.SliceData(e)),
		Esize:  sizeofPfrTable,
		Size:   int32(len(e)),
	}
}
