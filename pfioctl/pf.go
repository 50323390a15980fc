package pfioctl

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"unsafe"
)

// PF makes requests of one device. It may be used by several goroutines at
// once; the kernel takes one request at a time.
type PF struct {
	d       Device
	l       Layout
	pledged atomic.Bool
	limits  [len(limitNames)]atomic.Int64 // as last read, plus one
}

// New returns a PF that makes the requests of the layout l on d. It makes none
// by itself. The layout has to be of this program's architecture; with another
// every request fails.
func New(d Device, l Layout) *PF { return &PF{d: d, l: l} }

// Close closes the device.
func (p *PF) Close() error { return p.d.Close() }

// Layout returns what New was given.
func (p *PF) Layout() Layout { return p.l }

// Pledged tells that the process is under, or about to go under, the promise
// "pf" of pledge(2). That allows AddTables, SetAddrs, Set, Clear, Tables, Used,
// ClearTableStats, Status and GetPledged, and the kernel ends a process that
// makes another request. From now on those return an error that wraps
// [ErrPledged] instead, and a limit is the one last read. There is no way back.
func (p *PF) Pledged() { p.pledged.Store(true) }

// allowedPledged reports whether the promise "pf" lets a request through
// (kern_pledge.c: pledge_ioctl).
func (r *Requests) allowedPledged(req uint) bool {
	switch req {
	case r.GetStatus, r.AddTables, r.ClrAddrs, r.ClrTables, r.ClrTStats, r.GetTStats, r.SetAddrs:
		return true
	}
	return false
}

// ioctl makes a request, again when a signal interrupted it: pf takes its locks
// before it looks at the argument, so an interrupted request has done nothing.
func (p *PF) ioctl(req uint, arg unsafe.Pointer) error {
	switch {
	case req == 0:
		return ErrUnknownRelease
	case !p.l.host():
		return fmt.Errorf("layout of architecture %q in a program for %s", p.l.arch.name, runtime.GOARCH)
	case p.pledged.Load() && !p.l.req.allowedPledged(req):
		return ErrPledged
	}
	for {
		err := p.d.Ioctl(req, arg)
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

// tableRequest makes a table request. What io.Buffer points to lives as long
// as io does, it being a pointer.
func (p *PF) tableRequest(req uint, io *PfiocTable) error {
	err := p.ioctl(req, unsafe.Pointer(io))
	runtime.KeepAlive(io)
	return err
}

// request begins a request about t.
func (t Table) request(flags RequestFlags) *PfiocTable {
	io := &PfiocTable{Flags: flags}
	t.put(&io.Table)
	return io
}

// put names the table. Its flags stay zero: the kernel refuses with EINVAL the
// ones that a listing returns.
func (t Table) put(p *PfrTable) {
	copy(p.Anchor[:AnchorPathSize-1], t.Anchor)
	copy(p.Name[:TableNameSize-1], t.Name)
}

// table returns the name.
func (p *PfrTable) table() Table {
	return Table{Anchor: cstring(p.Anchor[:]), Name: cstring(p.Name[:])}
}

// cstring returns b up to its first NUL.
func cstring(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}

// check is pf_table.c: pfr_validate_table and pfr_fix_anchor. Writing tells
// whether the request is one that is refused for the kernel's own tables.
func (t Table) check(writing bool) error {
	switch {
	case t.Name == "":
		return errors.New("a table needs a name")
	case len(t.Name) >= TableNameSize:
		return fmt.Errorf("name of %d bytes, at most %d are allowed", len(t.Name), TableNameSize-1)
	case strings.IndexByte(t.Name, 0) >= 0:
		return errors.New("NUL in the name")
	}
	return checkAnchor(t.Anchor, writing)
}

func checkAnchor(anchor string, writing bool) error {
	switch {
	case len(anchor) >= AnchorPathSize:
		return fmt.Errorf("anchor of %d bytes, at most %d are allowed", len(anchor), AnchorPathSize-1)
	case strings.IndexByte(anchor, 0) >= 0:
		return errors.New("NUL in the anchor")
	case writing && strings.TrimLeft(anchor, "/") == ReservedAnchor:
		return fmt.Errorf("anchor %s is the kernel's own", ReservedAnchor)
	}
	return nil
}

// key returns the table as the kernel tells tables apart: it strips leading
// slashes from an anchor.
func (t Table) key() Table {
	t.Anchor = strings.TrimLeft(t.Anchor, "/")
	return t
}

// distinct returns the tables without repetition, in order.
func distinct(tables []Table) []Table {
	seen := make(map[Table]bool, len(tables))
	out := make([]Table, 0, len(tables))
	for _, t := range tables {
		if t = t.key(); !seen[t] {
			seen[t] = true
			out = append(out, t)
		}
	}
	return out
}

// fail makes an Error of err.
func fail(op string, t Table, count int, err error) *Error {
	return &Error{Op: op, Table: t, Count: count, Err: err}
}

// failLimit does the same for a request that a limit may have stopped, and
// fills in the numbers if the kernel will tell them. They are read after the
// fact, and something else may have changed them.
func (p *PF) failLimit(op string, t Table, count int, l Limit, err error) *Error {
	e := fail(op, t, count, err)
	if !errors.Is(err, syscall.ENOMEM) {
		return e
	}
	limit, err := p.Limit(l)
	if err != nil {
		return e
	}
	entries, tables, err := p.Used()
	if err != nil {
		return e
	}
	if l == LimitTableEntries && entries+count <= limit {
		// There was room for the entries: each change needs a table of its own
		// while it runs, so it may be that limit.
		if most, err := p.Limit(LimitTables); err == nil && tables >= most {
			e.Used, e.Limit, e.limit = tables, most, LimitTables
			return e
		}
	}
	e.Used, e.Limit, e.limit = entries, limit, l
	if l == LimitTables {
		e.Used = tables
	}
	return e
}
