package capture

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/google/gopacket"
)

// Options for [Open]. The zero value reads what is blocked from pflog0.
type Options struct {
	// Interface is the pflog interface, "" for pflog0. It is created and brought up
	// if it does not exist.
	Interface string
	// Filter selects the packets that the kernel returns.
	Filter Filter
}

// MaxBufferSize is the largest size of one of the kernel's two buffers in bytes,
// BPF_MAXBUFSIZE of net/bpf.h; minBufferSize is the smallest that is tried.
const (
	MaxBufferSize = 2 << 20
	minBufferSize = 32 << 10
)

// The time that a read waits for a first packet, and the time that the kernel may then
// collect others before the read returns. Their sum bounds how long a read goes on
// after Close.
const (
	readTimeout = 250 * time.Millisecond
	batchDelay  = 200 * time.Millisecond
)

// A device is an open /dev/bpf, or a socket for requests about interfaces.
type device interface {
	ioctl(req uint, arg unsafe.Pointer) error
	read(p []byte) (int, error)
	close() error
}

// A Reader reads from bpf(4) on a pflog interface. One goroutine may read; Stats and
// Close may be called by any.
type Reader struct {
	dev  device
	name string
	buf  []byte // for a read, which must ask for exactly the size of the kernel's buffer
	rest []byte // of the last read, not yet returned

	closed  atomic.Bool
	reading sync.Mutex // held during a read: another thread must not close the descriptor
	mu      sync.Mutex // for what follows, and for closing
	stats   Stats
	last    bpfStat // the kernel's counters as of stats, to see them wrap
}

var _ Source = (*Reader)(nil)

// Open opens /dev/bpf, sets it up as the options say and locks it (BIOCLOCK), so that
// the descriptor can only be read from. It needs the right to open /dev/bpf, and root
// if the interface does not exist. Reading then needs only the promise "stdio" of
// pledge(2), Stats needs "bpf".
//
// The error wraps ErrInterfaceGone when the interface does not exist and could not be
// created, and errors.ErrUnsupported on systems other than OpenBSD.
func Open(o Options) (*Reader, error) { return open(openBPF, openSocket, o) }

func open(bpf, socket func() (device, error), o Options) (*Reader, error) {
	name := cmp.Or(o.Interface, "pflog0")
	digits, ok := strings.CutPrefix(name, "pflog")
	if !ok || digits == "" || len(name) >= len(ifreq{}.name) || strings.Trim(digits, "0123456789") != "" {
		return nil, fmt.Errorf("%s: not the name of a pflog interface (pflog0, pflog1, …)", name)
	}
	dev, err := bpf()
	if err != nil {
		return nil, fmt.Errorf("/dev/bpf: %w", err)
	}
	r := &Reader{dev: dev, name: name}
	if err := r.setUp(socket, o.Filter); err != nil {
		dev.close()
		return nil, err
	}
	return r, nil
}

// setUp makes the requests in the order that the kernel requires: BIOCSETIF fixes the
// size of the buffers, and BIOCSETF discards what came in unfiltered since then.
func (r *Reader) setUp(socket func() (device, error), filter Filter) error {
	if err := r.attach(socket); err != nil {
		return err
	}
	var err error
	try := func(name string, req uint, arg unsafe.Pointer) {
		if err == nil {
			err = request(r.dev, name, req, arg)
		}
	}
	var dlt uint32
	try("BIOCGDLT", biocGetDLT, unsafe.Pointer(&dlt))
	if err == nil && dlt != LinkType {
		err = fmt.Errorf("%w: link type %d, want %d", ErrLinkType, dlt, LinkType)
	}
	prog := filter.Program()
	try("BIOCSETF", biocSetFilter, unsafe.Pointer(&bpfProgram{uint32(len(prog)), &prog[0]}))
	try("BIOCSRTIMEOUT", biocSetReadTimeout, unsafe.Pointer(&timeval{usec: int(readTimeout / time.Microsecond)}))
	delay, on := timeval{usec: int(batchDelay / time.Microsecond)}, uint32(1)
	if err == nil && request(r.dev, "BIOCSWTIMEOUT", biocSetWaitTimeout, unsafe.Pointer(&delay)) != nil {
		// Before 7.3 the kernel does not know the request, and a read would wait
		// for a full buffer or the read time-out.
		try("BIOCIMMEDIATE", biocImmediate, unsafe.Pointer(&on))
	}
	try("BIOCLOCK", biocLock, nil)
	return r.failed(err)
}

// attach sets the buffer size, which the kernel bounds by net.bpf.maxbufsize, and the
// interface. It creates the interface if it does not exist, and tries smaller buffers
// when the kernel has no memory for two of that size.
func (r *Reader) attach(socket func() (device, error)) error {
	created := false
	for size := uint32(MaxBufferSize); ; {
		if err := request(r.dev, "BIOCSBLEN", biocSetBufferSize, unsafe.Pointer(&size)); err != nil {
			return r.failed(err)
		}
		var arg ifreq
		copy(arg.name[:], r.name)
		err := request(r.dev, "BIOCSETIF", biocSetInterface, unsafe.Pointer(&arg))
		switch {
		case err == nil:
			r.buf = make([]byte, size)
			return nil
		case errors.Is(err, syscall.ENXIO) && !created:
			if err := createInterface(socket, r.name); err != nil {
				return fmt.Errorf("%s: %w: it cannot be created: %w", r.name, ErrInterfaceGone, err)
			}
			created = true
		case (errors.Is(err, syscall.ENOMEM) || errors.Is(err, syscall.ENOBUFS)) && size > minBufferSize:
			size = max(size/2, minBufferSize)
		default:
			return r.failed(err)
		}
	}
}

// createInterface does what "ifconfig pflog1 create up" does.
func createInterface(socket func() (device, error), name string) error {
	dev, err := socket()
	if err != nil {
		return err
	}
	defer dev.close()
	var arg ifreq
	copy(arg.name[:], name)
	err = request(dev, "SIOCIFCREATE", siocCreate, unsafe.Pointer(&arg))
	if err != nil && !errors.Is(err, syscall.EEXIST) {
		return err
	}
	if err := request(dev, "SIOCGIFFLAGS", siocGetFlags, unsafe.Pointer(&arg)); err != nil {
		return err
	}
	const iffUp = 1
	binary.NativeEndian.PutUint16(arg.union[:], binary.NativeEndian.Uint16(arg.union[:])|iffUp)
	return request(dev, "SIOCSIFFLAGS", siocSetFlags, unsafe.Pointer(&arg))
}

// failed returns the error of a request or a read, nil for nil. The kernel revokes the
// descriptor of a destroyed interface.
func (r *Reader) failed(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, syscall.ENXIO) || errors.Is(err, syscall.EIO) || errors.Is(err, syscall.ENOTTY) {
		err = fmt.Errorf("%w: %w", ErrInterfaceGone, err)
	}
	return fmt.Errorf("%s: %w", r.name, err)
}

// request makes a request of dev, by its number on this architecture.
func request(dev device, name string, req uint, arg unsafe.Pointer) error {
	if err := dev.ioctl(sized(req, runtime.GOARCH), arg); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// ZeroCopyReadPacketData implements [Source]. The data lies in the reader's own buffer.
// What follows a malformed record in a read is skipped and counted in Stats.
func (r *Reader) ZeroCopyReadPacketData() (data []byte, ci gopacket.CaptureInfo, err error) {
	for {
		for len(r.rest) == 0 {
			if r.rest, err = r.read(); err != nil {
				return nil, ci, err
			}
		}
		var ok bool
		if data, ci, r.rest, ok = cutBPF(r.rest); ok {
			return data, ci, nil
		}
		r.mu.Lock()
		r.stats.Malformed++
		r.mu.Unlock()
	}
}

// read returns what one read from the kernel brought: nothing if the read time-out
// passed.
func (r *Reader) read() ([]byte, error) {
	r.reading.Lock()
	defer r.reading.Unlock()
	if r.closed.Load() {
		return nil, io.EOF
	}
	switch n, err := r.dev.read(r.buf); {
	case err == nil:
		return r.buf[:n], nil
	case errors.Is(err, syscall.EINTR), errors.Is(err, syscall.EAGAIN):
		return nil, nil
	default:
		return nil, r.failed(fmt.Errorf("read: %w", err))
	}
}

// Buffered reports whether the next packet can be returned without asking the kernel.
func (r *Reader) Buffered() bool { return len(r.rest) > 0 }

// Stats implements [Source]. The kernel counts in 32 bits: to see its counters wrap,
// Stats must be called at least once in four thousand million packets.
func (r *Reader) Stats() (Stats, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed.Load() {
		return r.stats, nil
	}
	var now bpfStat
	if err := request(r.dev, "BIOCGSTATS", biocGetStats, unsafe.Pointer(&now)); err != nil {
		return r.stats, r.failed(err)
	}
	r.stats.Received += uint64(now.recv - r.last.recv)
	r.stats.Dropped += uint64(now.drop - r.last.drop)
	r.last = now
	return r.stats, nil
}

// Close implements [Source]. It waits for a read that is under way, at most 0.45 s.
// Closing twice is no error.
func (r *Reader) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed.Swap(true) {
		return nil
	}
	r.reading.Lock()
	defer r.reading.Unlock()
	return r.dev.close()
}
