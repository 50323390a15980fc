package pfioctl

import (
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"syscall"
	"unsafe"

	"example.org/threatstopd/pfioctl/internal/abi"
)

// Device is an open /dev/pf, or something that answers as one, such as pfsim's.
//
// Ioctl carries out the request req on the struct that arg points to and
// returns nil or an error, a syscall.Errno where the kernel gave one. As in
// the kernel the struct is written back only when the result is nil, while
// arrays that it points to are read and written in place.
type Device interface {
	Ioctl(req uint, arg unsafe.Pointer) error
	Close() error
}

// PF makes requests of one device. It may be used by several goroutines at
// once; the kernel takes one request at a time.
type PF struct {
	d       Device
	l       *abi.Layout
	notice  string
	pledged atomic.Bool
	limits  [len(abi.LimitNames)]atomic.Int64 // as last read, plus one
}

// Open opens /dev/pf for reading and writing, which needs root, and prepares for
// the release that kern.osrelease names: see [New]. Elsewhere than on OpenBSD the
// error wraps errors.ErrUnsupported.
func Open() (*PF, error) {
	d, err := OpenDevice()
	if err != nil {
		return nil, err
	}
	release, err := osRelease()
	if err == nil {
		var p *PF
		if p, err = New(d, release); err == nil {
			return p, nil
		}
	}
	d.Close()
	return nil, err
}

// New returns a PF that makes the requests of an OpenBSD release, "7.8", on d.
// Releases before 6.9 are an error.
//
// Of a release later than 8.0 it asks the kernel, before anything else, for its
// status and rules as 8.0 has them. If the answers are plausible the structs are
// taken to be those of 8.0; else tables and limits work, and what needs another
// struct returns [ErrUnknownRelease]. [PF.Notice] says which.
func New(d Device, release string) (*PF, error) {
	l, err := abi.Host(release)
	if err != nil {
		return nil, err
	}
	p := &PF{d: d, l: l}
	if !l.Known {
		p.assume()
	}
	return p, nil
}

// Close closes the device.
func (p *PF) Close() error { return p.d.Close() }

// Release returns the release of OpenBSD, "7.8".
func (p *PF) Release() string { return p.l.Release }

// Notice returns a line for the owner about a release that this program does not
// know, or "" for a known one.
func (p *PF) Notice() string { return p.notice }

// Pledged declares that the process is under, or about to go under, the promise
// "pf" of pledge(2). That allows AddTables, SetAddrs, Compare, Set, Clear, List,
// Get, Tables, Used and Status, and the kernel ends a process that
// makes another request. From now on those return an error that wraps
// [ErrPledged] instead, and a limit is the one last read. There is no way back.
func (p *PF) Pledged() { p.pledged.Store(true) }

// allowedPledged reports whether the promise "pf" lets a request through
// (kern_pledge.c: pledge_ioctl).
func allowedPledged(r *abi.Requests, req uint) bool {
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
		return p.unknown()
	case p.pledged.Load() && !allowedPledged(&p.l.Req, req):
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
func (p *PF) tableRequest(req uint, io *abi.PfiocTable) error {
	err := p.ioctl(req, unsafe.Pointer(io))
	runtime.KeepAlive(io)
	return err
}

func (p *PF) unknown() error {
	return fmt.Errorf("openbsd %s: %w", p.l.Release, ErrUnknownRelease)
}
