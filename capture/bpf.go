package capture

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"time"
	"unsafe"

	"github.com/google/gopacket"
	"golang.org/x/net/bpf"
)

// The version of the filter language of bpf(4) that filters are written in.
const (
	bpfMajorVersion = 1
	bpfMinorVersion = 1
)

// Structures of net/bpf.h and net/if.h as C lays them out. None has a field that Go
// would align otherwise. The pointer of a program is a pointer, so that the garbage
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

func newIfreq(name string) (r ifreq) {
	copy(r.name[:len(r.name)-1], name)
	return r
}

// A timeval is a struct timeval in its longest form: 64-bit seconds, then a long. On
// 386, where C aligns 64 bits to 4, it ends after 12 bytes; on arm it has padding that
// Go's own struct would lack.
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

// requests are ioctl(2) request numbers, which contain the size of the argument.
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
	// sys/ioccom.h: direction, 13 bits of size, group, number.
	const void, out, in, inOut = 0x20000000, 0x40000000, 0x80000000, 0xc0000000
	req := func(dir uint, group byte, number, size uint) uint {
		return dir | size<<16 | uint(group)<<8 | number
	}
	timevalSize, programSize := uint(16), uint(16)
	switch goarch {
	case "386":
		timevalSize, programSize = 12, 8
	case "arm":
		programSize = 8
	}
	return requests{
		getBufferSize:   req(out, 'B', 102, 4),
		setBufferSize:   req(inOut, 'B', 102, 4),
		setFilter:       req(in, 'B', 103, programSize),
		getDLT:          req(out, 'B', 106, 4),
		setInterface:    req(in, 'B', 108, 32),
		setReadTimeout:  req(in, 'B', 109, timevalSize),
		getStats:        req(out, 'B', 111, 8),
		immediate:       req(in, 'B', 112, 4),
		version:         req(out, 'B', 113, 4),
		lock:            req(void, 'B', 118, 0),
		setWaitTimeout:  req(in, 'B', 126, timevalSize), // 7.3
		createInterface: req(in, 'i', 122, 32),
		getFlags:        req(inOut, 'i', 17, 32),
		setFlags:        req(in, 'i', 16, 32),
	}
}

// Filter selects the packets that the kernel returns.
type Filter uint8

const (
	// FilterBlock selects packets that were blocked. Up to OpenBSD 7.4, what pf
	// drops before any rule (a bad header, too many states) is logged as passed by
	// the default rule and is not among them.
	FilterBlock Filter = iota
	// FilterAll selects every packet that is logged.
	FilterAll
)

// Match reports whether the filter selects a packet with these bytes.
func (f Filter) Match(data []byte) bool {
	return f == FilterAll || len(data) > offAction && Action(data[offAction]) == ActionBlock
}

// Program returns the filter as a program for the kernel.
func (f Filter) Program() []bpf.RawInstruction {
	keep := bpf.RetConstant{Val: MaxCaptureLength}
	prog := []bpf.Instruction{keep}
	if f == FilterBlock {
		prog = []bpf.Instruction{
			bpf.LoadAbsolute{Off: offAction, Size: 1},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(ActionBlock), SkipFalse: 1},
			keep,
			bpf.RetConstant{Val: 0},
		}
	}
	raw, err := bpf.Assemble(prog)
	if err != nil {
		panic(err) // cannot happen: the two programs are constant
	}
	return raw
}

// Layout of a record in a bpf(4) read, the same on every architecture: struct
// bpf_timeval is two 32-bit words everywhere, and records begin at multiples of 4, not
// of the word size (BPF_ALIGNMENT in net/bpf.h). bh_hdrlen is 24 up to OpenBSD 7.4 and
// 28 from 7.5.
const (
	bpfSec       = 0
	bpfUsec      = 4
	bpfCaplen    = 8
	bpfDatalen   = 12
	bpfHdrlen    = 16
	bpfMinHeader = 18
	bpfAlignment = 4
)

// errBPF is wrapped when a read does not parse as bpf records.
var errBPF = errors.New("malformed bpf record")

// cutBPF returns the first packet of what read(2) on a bpf(4) device returned, and the
// bytes behind it. read must not be empty.
func cutBPF(read []byte) (data []byte, ci gopacket.CaptureInfo, rest []byte, err error) {
	if len(read) < bpfMinHeader {
		return nil, ci, nil, fmt.Errorf("%w: header of %d bytes", errBPF, len(read))
	}
	hdrlen := uint64(binary.NativeEndian.Uint16(read[bpfHdrlen:]))
	caplen := uint64(binary.NativeEndian.Uint32(read[bpfCaplen:]))
	end := hdrlen + caplen
	if hdrlen < bpfMinHeader || end > uint64(len(read)) {
		return nil, ci, nil, fmt.Errorf("%w: header length %d and capture length %d, %d bytes left", errBPF, hdrlen, caplen, len(read))
	}
	// The seconds of struct bpf_timeval are unsigned (u_int32_t): good until 2106.
	sec, usec := binary.NativeEndian.Uint32(read[bpfSec:]), binary.NativeEndian.Uint32(read[bpfUsec:])
	data = read[hdrlen:end:end]
	ci = captureInfo(time.Unix(int64(sec), int64(usec)*1000), data, binary.NativeEndian.Uint32(read[bpfDatalen:]))
	// The last record of a read is not padded.
	next := (end + bpfAlignment - 1) &^ (bpfAlignment - 1)
	return data, ci, read[min(next, uint64(len(read))):], nil
}

// captureInfo describes a packet that had length bytes, as its record claims.
func captureInfo(t time.Time, data []byte, length uint32) gopacket.CaptureInfo {
	return gopacket.CaptureInfo{
		Timestamp:     t,
		CaptureLength: len(data),
		// gopacket takes a length below the captured one for a mistake, and a
		// 32-bit int could not hold more than the bound.
		Length: max(len(data), int(min(length, 1<<31-1))),
	}
}
