package capture

import (
	"encoding/binary"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/net/bpf"
)

// The filter language of bpf(4) that Program is written in.
const (
	bpfMajorVersion = 1
	bpfMinorVersion = 1
)

// Structures of net/bpf.h and net/if.h as C lays them out. None has a field that
// Go would align otherwise; a program's pointer is a pointer, so that the garbage
// collector sees it.
type (
	bpfVersion struct{ major, minor uint16 }
	bpfStat    struct{ recv, drop uint32 }
	bpfProgram struct {
		length uint32
		insns  *bpf.RawInstruction
	}
	ifreq struct {
		name  [16]byte
		union [16]byte
	}
)

var (
	_ = [1]struct{}{}[unsafe.Sizeof(bpfVersion{})-4]
	_ = [1]struct{}{}[unsafe.Sizeof(bpfStat{})-8]
	_ = [1]struct{}{}[unsafe.Sizeof(bpfProgram{})-2*unsafe.Sizeof(uintptr(0))]
	_ = [1]struct{}{}[unsafe.Offsetof(bpfProgram{}.insns)-unsafe.Sizeof(uintptr(0))]
	_ = [1]struct{}{}[unsafe.Sizeof(bpf.RawInstruction{})-8]
	_ = [1]struct{}{}[unsafe.Sizeof(ifreq{})-32]
)

func newIfreq(name string) (r ifreq) {
	copy(r.name[:len(r.name)-1], name)
	return r
}

// A timeval is a struct timeval in its longest form: 64 bit seconds, then a long.
// On 386, whose C aligns 64 bits to 4, it ends after 12 bytes; on arm it has
// padding that Go's own struct would lack.
type timeval [16]byte

func newTimeval(d time.Duration) (t timeval) {
	sec, usec := uint64(d/time.Second), d%time.Second/time.Microsecond
	binary.NativeEndian.PutUint64(t[:], sec)
	if unsafe.Sizeof(uintptr(0)) == 8 {
		binary.NativeEndian.PutUint64(t[8:], uint64(usec))
	} else {
		binary.NativeEndian.PutUint32(t[8:], uint32(usec))
	}
	return t
}

// requests are ioctl(2) request numbers, which have the size of the argument in
// them.
type requests struct {
	getBufferSize, setBufferSize   uint
	setFilter, setInterface        uint
	getDLT, getStats, version      uint
	setReadTimeout, setWaitTimeout uint
	immediate, lock                uint

	createInterface, getFlags, setFlags uint
}

var hostRequests = requestsFor(runtime.GOARCH)

func requestsFor(goarch string) requests {
	const (
		in    = 0x80000000
		out   = 0x40000000
		inOut = in | out
		void  = 0x20000000
	)
	// sys/ioccom.h: direction, 13 bits of size, group, number.
	req := func(dir, group byte, number byte, size uintptr) uint {
		var d uint
		switch dir {
		case 'w':
			d = in
		case 'r':
			d = out
		case 'b':
			d = inOut
		default:
			d = void
		}
		return d | uint(size)<<16 | uint(group)<<8 | uint(number)
	}
	timevalSize, programSize := uintptr(16), uintptr(16)
	switch goarch {
	case "386":
		timevalSize, programSize = 12, 8
	case "arm":
		programSize = 8
	}
	return requests{
		getBufferSize:   req('r', 'B', 102, 4),
		setBufferSize:   req('b', 'B', 102, 4),
		setFilter:       req('w', 'B', 103, programSize),
		getDLT:          req('r', 'B', 106, 4),
		setInterface:    req('w', 'B', 108, 32),
		setReadTimeout:  req('w', 'B', 109, timevalSize),
		getStats:        req('r', 'B', 111, 8),
		immediate:       req('w', 'B', 112, 4),
		version:         req('r', 'B', 113, 4),
		lock:            req(0, 'B', 118, 0),
		setWaitTimeout:  req('w', 'B', 126, timevalSize), // 7.3
		createInterface: req('w', 'i', 122, 32),
		getFlags:        req('b', 'i', 17, 32),
		setFlags:        req('w', 'i', 16, 32),
	}
}
