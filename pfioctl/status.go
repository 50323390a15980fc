package pfioctl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
	"unsafe"
)

// Limit returns one of pf's hard limits (DIOCGETLIMIT). Up to 7.7 the kernel
// shows the default from the start and enforces it only once a pf.conf that sets
// another has been loaded; so there may be room beyond it.
//
// Once [PF.Pledged] was called it is the value last read before, as the promise
// "pf" does not allow the request.
func (p *PF) Limit(l Limit) (int, error) {
	op := "read limit " + l.String()
	if l < 0 || int(l) >= len(limitNames) {
		return 0, fail(op, Table{}, 0, fmt.Errorf("limit %d: there is none", l))
	}
	io := &PfiocLimit{Index: l}
	if err := p.ioctl(p.l.req.GetLimit, unsafe.Pointer(io)); err != nil {
		if n := p.limits[l].Load(); n != 0 && errors.Is(err, ErrPledged) {
			return int(n - 1), nil
		}
		return 0, fail(op, Table{}, 0, err)
	}
	// On 32-bit an int does not hold every unsigned one, and none is that high.
	n := int(min(io.Limit, 1<<31-1))
	p.limits[l].Store(int64(n) + 1)
	return n, nil
}

// Used returns what counts against the limits of table entries and of tables:
// all tables of all anchors, inactive ones and the kernel's own among them.
func (p *PF) Used() (entries, tables int, err error) {
	a := array{esize: p.l.tstats.Size}
	defer a.close()
	if err := p.list(p.l.req.GetTStats, Table{}, FlagAllRsets, &a); err != nil {
		return 0, 0, fail("list tables", Table{}, 0, err)
	}
	for i := range a.n {
		entries += int(int32(p.l.ByteOrder().Uint32(a.at(i)[p.l.tstats.Cnt:])))
	}
	return entries, a.n, nil
}

// Status is the state of pf as a whole (struct pf_status).
type Status struct {
	Running bool // pf is enabled

	// Since is the kernel's uptime at which pf was last enabled or disabled.
	Since time.Duration

	States   int      // entries of the state table
	Debug    int      // level, as syslog numbers them
	HostID   uint32   // for pfsync
	Checksum [16]byte // of the main ruleset: another one means that rules were loaded

	// Counters are packets and events by reason, in the order of [Reasons].
	Counters [17]uint64
}

// Reasons are the names of the reasons why pf counts or drops a packet.
var Reasons = [17]string{
	"match", "bad-offset", "fragment", "short", "normalize", "memory",
	"bad-timestamp", "congestion", "ip-option", "proto-cksum",
	"state-mismatch", "state-insert", "state-limit", "src-limit", "synproxy",
	"translate", "no-route",
}

// Status reads pf's status (DIOCGETSTATUS). For a release that is not known the
// error wraps [ErrUnknownRelease].
func (p *PF) Status() (Status, error) {
	o := p.l.status
	if o.Size == 0 {
		return Status{}, fail("read status", Table{}, 0, p.unknown())
	}
	b := make([]byte, o.Size)
	if err := p.ioctl(p.l.req.GetStatus, unsafe.Pointer(&b[0])); err != nil {
		return Status{}, fail("read status", Table{}, 0, err)
	}
	return p.l.decodeStatus(b), nil
}

func (p *PF) unknown() error {
	return fmt.Errorf("openbsd %s: %w", p.l.release, ErrUnknownRelease)
}

func (l *Layout) decodeStatus(b []byte) Status {
	o, u64, u32 := l.status, l.ByteOrder().Uint64, l.ByteOrder().Uint32
	s := Status{
		Running:  u32(b[o.Running:]) != 0,
		Since:    time.Duration(u64(b[o.Since:])) * time.Second,
		States:   int(u32(b[o.States:])),
		Debug:    int(u32(b[o.Debug:])),
		HostID:   binary.BigEndian.Uint32(b[o.HostID:]),
		Checksum: [16]byte(b[o.Checksum:]),
	}
	for i := range s.Counters {
		s.Counters[i] = u64(b[o.Counters+8*i:])
	}
	return s
}
