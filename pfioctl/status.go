package pfioctl

import (
	"errors"
	"fmt"
	"time"
	"unsafe"

	"example.org/threatstopd/pfioctl/internal/abi"
)

// Limit names one of pf's hard limits (PF_LIMIT_*).
type Limit = abi.Limit

// The limits that tables and states come to.
const (
	LimitStates       = abi.LimitStates
	LimitTables       = abi.LimitTables
	LimitTableEntries = abi.LimitTableEntries
)

// Limit returns one of pf's hard limits (DIOCGETLIMIT). Up to 7.7 the kernel
// shows the default from the start and enforces it only once a pf.conf that sets
// another has been loaded; so there may be room beyond it.
//
// Once [PF.Pledged] was called it is the value last read before, as the promise
// "pf" does not allow the request.
func (p *PF) Limit(l Limit) (int, error) {
	op := "read limit " + l.String()
	if l < 0 || int(l) >= len(abi.LimitNames) {
		return 0, fail(op, Table{}, 0, fmt.Errorf("limit %d: there is none", l))
	}
	io := &abi.PfiocLimit{Index: l}
	if err := p.ioctl(p.l.Req.GetLimit, unsafe.Pointer(io)); err != nil {
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

// Status is the state of pf as a whole.
type Status struct {
	Running bool // pf is enabled

	// Since is the kernel's uptime at which pf was last enabled or disabled.
	Since time.Duration

	States   int      // entries of the state table
	Checksum [16]byte // of the main ruleset: another one means that rules were loaded
}

// Status reads pf's status (DIOCGETSTATUS). For a release that is not known the
// error wraps [ErrUnknownRelease].
func (p *PF) Status() (Status, error) {
	b, err := p.status()
	if err != nil {
		return Status{}, fail("read status", Table{}, 0, err)
	}
	o, order := p.l.Status, p.l.Order()
	return Status{
		Running:  order.Uint32(b[o.Running:]) != 0,
		Since:    time.Duration(order.Uint64(b[o.Since:])) * time.Second,
		States:   int(order.Uint32(b[o.States:])),
		Checksum: [16]byte(b[o.Checksum:]),
	}, nil
}

// status returns struct pf_status.
func (p *PF) status() ([]byte, error) {
	if p.l.Status.Size == 0 {
		return nil, p.unknown()
	}
	b := make([]byte, p.l.Status.Size)
	return b, p.ioctl(p.l.Req.GetStatus, unsafe.Pointer(&b[0]))
}
