package capture

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
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
// BPF_MAXBUFSIZE of net/bpf.h; minBufferSize is the smallest that is still useful.
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

// A device is an open /dev/bpf.
type device interface {
	ioctl(req uint, arg unsafe.Pointer) error
	read(p []byte) (int, error)
	close() error
}

// A system is what else Open needs of the kernel.
type system interface {
	// openBPF opens /dev/bpf for reading, close-on-exec.
	openBPF() (device, error)
	// maxBufferSize returns net.bpf.maxbufsize.
	maxBufferSize() (int, error)
	// interfaceIoctl makes a request about an interface on some socket.
	interfaceIoctl(req uint, arg unsafe.Pointer) error
}

// A Reader reads from bpf(4) on a pflog interface. One goroutine may read; Stats and
// Close may be called by any.
type Reader struct {
	dev  device
	name string
	buf  []byte // for a read
	rest []byte // of the last read, not yet returned

	mu      sync.Mutex
	reading bool
	closed  bool
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
func Open(o Options) (*Reader, error) {
	sys, err := openSystem()
	if err != nil {
		return nil, err
	}
	return open(sys, o)
}

func open(sys system, o Options) (*Reader, error) {
	if o.Interface == "" {
		o.Interface = "pflog0"
	}
	if !pflogName(o.Interface) {
		return nil, fmt.Errorf("%s: not the name of a pflog interface (pflog0, pflog1, …)", o.Interface)
	}
	dev, err := sys.openBPF()
	if err != nil {
		return nil, fmt.Errorf("/dev/bpf: %w", err)
	}
	r := &Reader{dev: dev, name: o.Interface}
	if err := r.setUp(sys, o.Filter); err != nil {
		dev.close()
		return nil, err
	}
	return r, nil
}

// pflogName reports whether name can be that of a pflog interface and fits in a struct
// ifreq with its NUL.
func pflogName(name string) bool {
	digits, ok := strings.CutPrefix(name, "pflog")
	return ok && digits != "" && len(name) < len(ifreq{}.name) && strings.Trim(digits, "0123456789") == ""
}

// setUp makes the requests in the order that the kernel requires: BIOCSETIF fixes the
// size of the buffers, and BIOCSETF discards what came in unfiltered since then.
func (r *Reader) setUp(sys system, filter Filter) (err error) {
	try := func(name string, req uint, arg unsafe.Pointer) {
		if err == nil {
			err = r.ioctl(name, req, arg)
		}
	}
	need := func(is bool, format string, args ...any) {
		if err == nil && !is {
			err = fmt.Errorf(format, args...)
		}
	}
	var v bpfVersion
	try("BIOCVERSION", hostRequests.version, unsafe.Pointer(&v))
	need(v.major == bpfMajorVersion && v.minor >= bpfMinorVersion,
		"/dev/bpf: filter language %d.%d, need %d.%d", v.major, v.minor, bpfMajorVersion, bpfMinorVersion)
	if err == nil {
		err = r.attach(sys)
	}
	var dlt uint32
	try("BIOCGDLT", hostRequests.getDLT, unsafe.Pointer(&dlt))
	need(dlt == LinkType, "%s: %w: link type %d, want %d", r.name, ErrLinkType, dlt, LinkType)
	prog := filter.Program()
	arg := bpfProgram{length: uint32(len(prog)), insns: unsafe.SliceData(prog)}
	try("BIOCSETF", hostRequests.setFilter, unsafe.Pointer(&arg))
	runtime.KeepAlive(prog)
	timeout, delay, on := newTimeval(readTimeout), newTimeval(batchDelay), uint32(1)
	try("BIOCSRTIMEOUT", hostRequests.setReadTimeout, unsafe.Pointer(&timeout))
	if err == nil && r.dev.ioctl(hostRequests.setWaitTimeout, unsafe.Pointer(&delay)) != nil {
		// Before 7.3 the kernel does not know the request, and a read would wait
		// for a full buffer or the read time-out.
		try("BIOCIMMEDIATE", hostRequests.immediate, unsafe.Pointer(&on))
	}
	var size uint32
	try("BIOCGBLEN", hostRequests.getBufferSize, unsafe.Pointer(&size))
	need(size > 0 && size <= 1<<30, "%s: BIOCGBLEN: buffer of %d bytes", r.name, size)
	if err == nil {
		r.buf = make([]byte, size) // reads must ask for exactly this many bytes
	}
	try("BIOCLOCK", hostRequests.lock, nil)
	return err
}

// attach sets the buffer size and the interface. It creates the interface if it does
// not exist, and tries smaller buffers when the kernel has no memory for two of that
// size.
func (r *Reader) attach(sys system) error {
	size, err := sys.maxBufferSize()
	if err != nil || size <= 0 {
		size = MaxBufferSize
	}
	size = max(minBufferSize, min(size, MaxBufferSize))
	created := false
	for {
		n := uint32(size)
		if err := r.ioctl("BIOCSBLEN", hostRequests.setBufferSize, unsafe.Pointer(&n)); err != nil {
			return err
		}
		arg := newIfreq(r.name)
		err := r.dev.ioctl(hostRequests.setInterface, unsafe.Pointer(&arg))
		switch {
		case err == nil:
			return nil
		case errors.Is(err, syscall.ENXIO) && !created:
			if err := createInterface(sys, r.name); err != nil {
				return fmt.Errorf("%w: %s does not exist: %w", ErrInterfaceGone, r.name, err)
			}
			created = true
		case errors.Is(err, syscall.ENXIO):
			return fmt.Errorf("%w: %s: BIOCSETIF: %w", ErrInterfaceGone, r.name, err)
		case (errors.Is(err, syscall.ENOMEM) || errors.Is(err, syscall.ENOBUFS)) && size > minBufferSize:
			size = max(size/2, minBufferSize)
		default:
			return fmt.Errorf("%s: BIOCSETIF: %w", r.name, err)
		}
	}
}

// createInterface does what "ifconfig pflog1 create up" does.
func createInterface(sys system, name string) error {
	arg := newIfreq(name)
	err := sys.interfaceIoctl(hostRequests.createInterface, unsafe.Pointer(&arg))
	if err != nil && !errors.Is(err, syscall.EEXIST) {
		return fmt.Errorf("SIOCIFCREATE: %w", err)
	}
	if err := sys.interfaceIoctl(hostRequests.getFlags, unsafe.Pointer(&arg)); err != nil {
		return fmt.Errorf("SIOCGIFFLAGS: %w", err)
	}
	const iffUp = 1
	binary.NativeEndian.PutUint16(arg.union[:], binary.NativeEndian.Uint16(arg.union[:])|iffUp)
	if err := sys.interfaceIoctl(hostRequests.setFlags, unsafe.Pointer(&arg)); err != nil {
		return fmt.Errorf("SIOCSIFFLAGS: %w", err)
	}
	return nil
}

func (r *Reader) ioctl(name string, req uint, arg unsafe.Pointer) error {
	if err := r.dev.ioctl(req, arg); err != nil {
		return fmt.Errorf("%s: %s: %w", r.name, name, err)
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
		if data, ci, r.rest, err = cutBPF(r.rest); err == nil {
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
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return nil, io.EOF
	}
	r.reading = true
	r.mu.Unlock()

	n, err := r.dev.read(r.buf)

	r.mu.Lock()
	r.reading = false
	closed := r.closed
	if closed {
		// Close left this to us: a descriptor that another thread is reading
		// from must not be closed.
		r.dev.close()
	}
	r.mu.Unlock()
	switch {
	case err == nil && (n > 0 || !closed):
		// Also what came while Close was called: it is out of the kernel's
		// buffer.
		return r.buf[:n], nil
	case closed:
		return nil, io.EOF
	case errors.Is(err, syscall.EINTR), errors.Is(err, syscall.EAGAIN):
		return nil, nil
	case errors.Is(err, syscall.EIO), errors.Is(err, syscall.ENXIO):
		// The kernel revokes the descriptor of a destroyed interface.
		return nil, fmt.Errorf("%w: %s: %w", ErrInterfaceGone, r.name, err)
	}
	return nil, fmt.Errorf("%s: read: %w", r.name, err)
}

// Buffered reports whether the next packet can be returned without asking the kernel.
func (r *Reader) Buffered() bool { return len(r.rest) > 0 }

// Stats implements [Source]. The kernel counts in 32 bits: to see its counters wrap,
// Stats must be called at least once in four thousand million packets.
func (r *Reader) Stats() (Stats, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return r.stats, nil
	}
	var now bpfStat
	if err := r.dev.ioctl(hostRequests.getStats, unsafe.Pointer(&now)); err != nil {
		if errors.Is(err, syscall.ENOTTY) || errors.Is(err, syscall.EIO) || errors.Is(err, syscall.ENXIO) {
			err = fmt.Errorf("%w: %w", ErrInterfaceGone, err)
		}
		return r.stats, fmt.Errorf("%s: BIOCGSTATS: %w", r.name, err)
	}
	r.stats.Received += uint64(now.recv - r.last.recv)
	r.stats.Dropped += uint64(now.drop - r.last.drop)
	r.last = now
	return r.stats, nil
}

// Close implements [Source]. Closing twice is no error.
func (r *Reader) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil
	}
	r.closed = true
	if r.reading {
		return nil // read closes the device
	}
	return r.dev.close()
}
