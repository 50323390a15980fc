package pfioctl

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unsafe"

	"example.org/threatstopd/pfioctl/internal/abi"
)

// TableFlags are a table's flags (PFR_TFLAG_*).
type TableFlags = abi.TableFlags

// Flags that a user may set, and two of the kernel's.
const (
	TablePersist    = abi.TablePersist    // stays when no rule refers to it
	TableConst      = abi.TableConst      // its addresses cannot be changed
	TableCounters   = abi.TableCounters   // each address has counters
	TableActive     = abi.TableActive     // exists for rules and requests
	TableReferenced = abi.TableReferenced // a rule names it
)

// AddTables makes tables where there are none, and returns how many are new as
// the kernel counts, which is not to be relied on: since 7.4 it does not count
// one that was mentioned by a rule already. A table that exists is left as it
// is, its flags too.
//
// New tables get flags and always [TablePersist]: without it the next change of
// flags, or the last rule that lets go, would destroy a table with all that is
// in it (pf_table.c: pfr_setflags_ktable). Only [TablePersist],
// [TableConst] and [TableCounters] may be given.
//
// The tables are looked up afterwards, since the kernel calls it success when
// an anchor could not be made and, on 7.1 and 7.2, when a table that a rule
// mentions stays inactive, which is an error. On
// 7.3 such a table becomes active without its flags, which cannot be distinguished from
// one that was so before; define tables in pf.conf with `persist` there.
func (p *PF) AddTables(flags TableFlags, tables ...Table) (added int, err error) {
	const op = "add tables"
	if flags&^abi.TableUserFlags != 0 {
		err := fmt.Errorf("flags %#x are not for the user to set", flags&^abi.TableUserFlags)
		return 0, fail(op, Table{}, len(tables), err)
	}
	if tables, err = checkTables(op, tables); err != nil || len(tables) == 0 {
		return 0, err
	}
	io, err := p.sendTables(p.l.Req.AddTables, tables, flags|TablePersist)
	if err != nil {
		return 0, p.failLimit(op, only(tables), len(tables), LimitTables, err)
	}
	all, err := p.AllTables()
	if err != nil {
		return int(io.Nadd), err
	}
	there := tableMap(all)
	for _, t := range tables {
		switch s, ok := there[t]; {
		case !ok:
			return int(io.Nadd), fail(op, t, 0, errNoAnchor)
		case !s.Active():
			return int(io.Nadd), fail(op, t, 0, errInactive)
		}
	}
	return int(io.Nadd), nil
}

// DelTables removes tables with all that is in them, and returns how many there
// were. One that a rule refers to stays listed, inactive and empty. Unknown
// names are passed over.
//
// The tables of anchors and those of the main ruleset go in two requests: with a
// table of an anchor and its namesake of the main ruleset in one, the kernel has been
// seen to touch memory that it had freed.
func (p *PF) DelTables(tables ...Table) (deleted int, err error) {
	const op = "delete tables"
	if tables, err = checkTables(op, tables); err != nil {
		return 0, err
	}
	var inAnchors, roots []Table
	for _, t := range tables {
		if t.Anchor != "" {
			inAnchors = append(inAnchors, t)
		} else {
			roots = append(roots, t)
		}
	}
	for _, part := range [][]Table{inAnchors, roots} {
		if len(part) == 0 {
			continue
		}
		io, err := p.sendTables(p.l.Req.DelTables, part, 0)
		if err != nil {
			return deleted, fail(op, only(part), len(part), err)
		}
		deleted += int(io.Ndel)
	}
	return deleted, nil
}

// sendTables makes a request about tables.
func (p *PF) sendTables(req uint, tables []Table, flags TableFlags) (*abi.PfiocTable, error) {
	e := make([]abi.PfrTable, len(tables))
	for i, t := range tables {
		t.put(&e[i])
		e[i].Flags = flags
	}
	io := &abi.PfiocTable{Buffer: unsafe.Pointer(unsafe.SliceData(e)), Esize: abi.SizeofPfrTable, Size: int32(len(e))}
	return io, p.tableRequest(req, io)
}

// checkTables returns the tables as the kernel distinguishes them, each once, in order:
// it strips leading slashes from an anchor.
func checkTables(op string, tables []Table) ([]Table, error) {
	out := make([]Table, 0, len(tables))
	for _, t := range tables {
		if err := t.check(true); err != nil {
			return nil, fail(op, t, 0, err)
		}
		t.Anchor = strings.TrimLeft(t.Anchor, "/")
		if !slices.Contains(out, t) {
			out = append(out, t)
		}
	}
	return out, nil
}

// only returns the table that is alone, to name it in an error.
func only(tables []Table) Table {
	if len(tables) == 1 {
		return tables[0]
	}
	return Table{}
}

// TableStats is a table and the kernel's counters of it.
type TableStats struct {
	Table
	Flags          TableFlags
	Addresses      int
	Rules, Anchors int // that refer to it
	Match, NoMatch uint64
	// By direction (in, out), and blocked, matched, passed, passed by a state that a rule
	// on the table made.
	Packets, Bytes [2][4]uint64
	Cleared        time.Time // when the counters were last cleared
}

// Active reports whether the table exists for rules and requests. One that is
// not is only a name that a rule or a table in an anchor refers to.
func (s TableStats) Active() bool { return s.Flags&TableActive != 0 }

// Tables returns the tables of the main ruleset or, with its path, of an anchor,
// inactive ones too (see [TableStats.Active]), sorted by name. An anchor that does
// not exist is ENOENT.
func (p *PF) Tables(anchor string) ([]TableStats, error) {
	if err := checkName("anchor", anchor, abi.AnchorPathSize); err != nil {
		return nil, fail("list tables", Table{}, 0, err)
	}
	op := "list tables"
	if anchor != "" {
		op += " of anchor " + anchor
	}
	return p.tables(op, anchor, 0)
}

// AllTables returns the tables of all rulesets, the kernel's own too, sorted by name
// and then anchor.
func (p *PF) AllTables() ([]TableStats, error) { return p.tables("list tables", "", abi.FlagAllRsets) }

func (p *PF) tables(op, anchor string, flags abi.RequestFlags) ([]TableStats, error) {
	l := &List[TableStats]{array{esize: p.l.TStats.Size}, p.decodeTableStats}
	if err := p.list(p.l.Req.GetTStats, Table{Anchor: anchor}, flags, &l.a); err != nil {
		l.Close()
		return nil, fail(op, Table{}, 0, err)
	}
	return l.slice(), nil
}

// tableMap returns tables by name. The kernel gives anchors without leading slashes.
func tableMap(all []TableStats) map[Table]TableStats {
	m := make(map[Table]TableStats, len(all))
	for _, t := range all {
		m[t.Table] = t
	}
	return m
}

// Used returns what counts against the limits of table entries and of tables:
// all tables of all anchors, inactive ones and the kernel's own among them.
func (p *PF) Used() (entries, tables int, err error) {
	all, err := p.AllTables()
	for _, t := range all {
		entries += t.Addresses
	}
	return entries, len(all), err
}

// list fills a with what a request lists. The kernel answers with the number
// there is; if the array has no room for it all it writes nothing at all and
// still calls it success, so only the number shows it.
func (p *PF) list(req uint, t Table, flags abi.RequestFlags, a *array) error {
	return a.fill(0, func() (int, error) {
		io := t.request(flags, a)
		io.Size = int32(a.room)
		err := p.tableRequest(req, io)
		return int(io.Size), err
	})
}

// decodeTableStats reads struct pfr_tstats, which begins with a PfrTable.
func (p *PF) decodeTableStats(b []byte) TableStats {
	o, u64, u32 := &p.l.TStats, p.l.Order().Uint64, p.l.Order().Uint32
	t := (*abi.PfrTable)(unsafe.Pointer(&b[0]))
	s := TableStats{
		Table:     Table{Anchor: abi.CString(t.Anchor[:]), Name: abi.CString(t.Name[:])},
		Flags:     TableFlags(u32(b[unsafe.Offsetof(t.Flags):])),
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
