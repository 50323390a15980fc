package capture

import (
	"encoding/binary"
	"time"

	"github.com/google/gopacket"
	"golang.org/x/net/bpf"
)

// Structures of net/bpf.h and net/if.h as C lays them out. The pointer of a program is a
// pointer, so that the garbage collector sees it. A timeval is 64-bit seconds, then a
// long; arm has padding behind it.
type (
	bpfStat    struct{ recv, drop uint32 }
	bpfProgram struct {
		length uint32
		insns  *bpf.RawInstruction
	}
	ifreq struct {
		name  [16]byte
		union [16]byte
	}
	timeval struct {
		sec  int64
		usec int
		_    int32
	}
)

// Request numbers of net/bpf.h and sys/sockio.h. They contain the size of the argument:
// sized adds those that differ between architectures.
const (
	biocSetBufferSize = 0xc0044266
	biocSetInterface  = 0x8020426c
	biocGetDLT        = 0x4004426a
	biocGetStats      = 0x4008426f
	biocImmediate     = 0x80044270
	biocLock          = 0x20004276

	biocSetFilter      = 0x80004267 // a struct bpf_program
	biocSetReadTimeout = 0x8000426d // a struct timeval
	biocSetWaitTimeout = 0x8000427e // a struct timeval; since 7.3

	siocCreate   = 0x8020697a
	siocGetFlags = 0xc0206911
	siocSetFlags = 0x80206910
)

// sized returns the request number on an architecture.
func sized(req uint, goarch string) uint {
	timeval, program := uint(16), uint(16)
	switch goarch {
	case "386": // C aligns 64 bits to 4 bytes
		timeval, program = 12, 8
	case "arm":
		program = 8
	}
	switch req {
	case biocSetFilter:
		return req | program<<16
	case biocSetReadTimeout, biocSetWaitTimeout:
		return req | timeval<<16
	}
	return req
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
	keep := bpf.RawInstruction{Op: 0x06, K: MaxCaptureLength} // return
	if f == FilterAll {
		return []bpf.RawInstruction{keep}
	}
	return []bpf.RawInstruction{
		{Op: 0x30, K: offAction},                  // load the byte
		{Op: 0x15, K: uint32(ActionBlock), Jf: 1}, // skip one unless equal
		keep,
		{Op: 0x06},
	}
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

// cutBPF returns the first packet of what read(2) on a bpf(4) device returned, and the
// bytes behind it. It reports false when they are not a record.
func cutBPF(read []byte) (data []byte, ci gopacket.CaptureInfo, rest []byte, ok bool) {
	if len(read) < bpfMinHeader {
		return nil, ci, nil, false
	}
	hdrlen := uint64(binary.NativeEndian.Uint16(read[bpfHdrlen:]))
	end := hdrlen + uint64(binary.NativeEndian.Uint32(read[bpfCaplen:]))
	if hdrlen < bpfMinHeader || end > uint64(len(read)) {
		return nil, ci, nil, false
	}
	// The seconds of struct bpf_timeval are unsigned (u_int32_t): good until 2106.
	sec, usec := binary.NativeEndian.Uint32(read[bpfSec:]), binary.NativeEndian.Uint32(read[bpfUsec:])
	data = read[hdrlen:end:end]
	ci = captureInfo(time.Unix(int64(sec), int64(usec)*1000), data, binary.NativeEndian.Uint32(read[bpfDatalen:]))
	// The last record of a read is not padded.
	next := (end + bpfAlignment - 1) &^ (bpfAlignment - 1)
	return data, ci, read[min(next, uint64(len(read))):], true
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
