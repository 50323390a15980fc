package capture

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/net/bpf"
)

// Options for [Open]. The zero value reads what is blocked from pflog0.
type Options struct {
	// Interface is the pflog interface, "" for pflog0. It is created and
	// brought up when it does not exist.
	Interface string
	// Filter is what the kernel lets through.
	Filter Filter
	// SnapLen is how many bytes of a packet, pflog header included, are
	// wanted; 0 for all.
	SnapLen int
	// BufferSize is the size of each of the kernel's two buffers in bytes,
	// 0 for the largest the kernel allows (net.bpf.maxbufsize). More than
	// MaxBufferSize is taken as that. A kernel short of memory may give
	// less.
	BufferSize int
	// ReadTimeout is how long Read waits for a first packet, 0 for 500 ms.
	ReadTimeout time.Duration
	// BatchDelay is how long the kernel may collect after a first packet
	// before Read returns it, 0 for 200 ms. OpenBSD 7.2 and earlier cannot,
	// and return each packet at once.
	BatchDelay time.Duration
}

// MaxBufferSize is the largest buffer asked of the kernel, BPF_MAXBUFSIZE of
// net/bpf.h; minBufferSize what is still worth having.
const (
	MaxBufferSize = 2 << 20
	minBufferSize = 32 << 10
)

// A device is an open /dev/bpf: system calls alone.
type device interface {
	ioctl(req uint, arg unsafe.Pointer) error
	read(p []byte) (int, error)
	close() error
}

// A system is what opening a capture needs of the kernel otherwise.
type system interface {
	// openBPF opens /dev/bpf for reading, close-on-exec.
	openBPF() (device, error)
	// maxBufferSize is net.bpf.maxbufsize.
	maxBufferSize() (int, error)
	// interfaceIoctl does a request about an interface on some socket.
	interfaceIoctl(req uint, arg unsafe.Pointer) error
}

// A Reader reads from bpf(4) on a pflog interface. Read is for one goroutine, Stats
// and Close for any.
type Reader struct {
	dev   device
	name  string
	buf   []byte
	batch Batch

	mu      sync.Mutex
	reading bool
	closed  bool
	stats   Stats
	last    bpfStat // the kernel's counters as of stats, to see them wrap
}

var _ Source = (*Reader)(nil)

// Open opens /dev/bpf, sets it up as the options say and locks it (BIOCLOCK), so
// that the descriptor can do nothing but read on, whoever holds it. It needs root,
// or the right to open /dev/bpf when the interface exists. Everything is done
// before it returns: reading then needs no promise beyond pledge(2)'s "stdio",
// Stats needs "bpf".
//
// The error wraps ErrInterfaceGone when the interface is not there and could not be
// created; on systems other than OpenBSD it wraps errors.ErrUnsupported.
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
	if err := r.setUp(sys, &o); err != nil {
		dev.close()
		return nil, err
	}
	return r, nil
}

// pflogName reports whether name can be that of a pflog interface and fits in a
// struct ifreq with its NUL.
func pflogName(name string) bool {
	const prefix = "pflog"
	if len(name) <= len(prefix) || len(name) >= len(ifreq{}.name) || name[:len(prefix)] != prefix {
		return false
	}
	for _, c := range name[len(prefix):] {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}

// Each step stands where the kernel wants it: the buffer's size is fixed by
// BIOCSETIF, and BIOCSETF throws away what came in unfiltered since then.
func (r *Reader) setUp(sys system, o *Options) error {
	var version bpfVersion
	if err := r.ioctl("BIOCVERSION", hostRequests.version, unsafe.Pointer(&version)); err != nil {
		return err
	}
	if version.major != bpfMajorVersion || version.minor < bpfMinorVersion {
		return fmt.Errorf("/dev/bpf: filter language %d.%d, this program speaks %d.%d",
			version.major, version.minor, bpfMajorVersion, bpfMinorVersion)
	}
	if err := r.attach(sys, o.BufferSize); err != nil {
		return err
	}
	var dlt uint32
	if err := r.ioctl("BIOCGDLT", hostRequests.getDLT, unsafe.Pointer(&dlt)); err != nil {
		return err
	}
	if dlt != LinkType {
		return fmt.Errorf("%s: %w: link type %d, want %d", r.name, ErrLinkType, dlt, LinkType)
	}
	prog := o.Filter.Program(o.SnapLen)
	arg := bpfProgram{length: uint32(len(prog)), insns: unsafe.SliceData(prog)}
	err := r.ioctl("BIOCSETF", hostRequests.setFilter, unsafe.Pointer(&arg))
	runtime.KeepAlive(prog)
	if err != nil {
		return err
	}
	timeout := newTimeval(orDefault(o.ReadTimeout, 500*time.Millisecond))
	if err := r.ioctl("BIOCSRTIMEOUT", hostRequests.setReadTimeout, unsafe.Pointer(&timeout)); err != nil {
		return err
	}
	delay := newTimeval(orDefault(o.BatchDelay, 200*time.Millisecond))
	if err := r.dev.ioctl(hostRequests.setWaitTimeout, unsafe.Pointer(&delay)); err != nil {
		// Before 7.3 the kernel does not know the request, and a read
		// would wait for a full buffer or the read time-out.
		on := uint32(1)
		if err := r.ioctl("BIOCIMMEDIATE", hostRequests.immediate, unsafe.Pointer(&on)); err != nil {
			return err
		}
	}
	var size uint32
	if err := r.ioctl("BIOCGBLEN", hostRequests.getBufferSize, unsafe.Pointer(&size)); err != nil {
		return err
	}
	if size == 0 || size > 1<<30 {
		return fmt.Errorf("%s: BIOCGBLEN: buffer of %d bytes", r.name, size)
	}
	// Reads must ask for exactly this many bytes.
	r.buf = make([]byte, size)
	return r.ioctl("BIOCLOCK", hostRequests.lock, nil)
}

// attach sets the buffer size and the interface, creating that if need be, with
// smaller buffers when the kernel has no memory for two of that size.
func (r *Reader) attach(sys system, size int) error {
	if size <= 0 {
		var err error
		if size, err = sys.maxBufferSize(); err != nil || size <= 0 {
			size = MaxBufferSize
		}
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
	arg = newIfreq(name)
	if err := sys.interfaceIoctl(hostRequests.getFlags, unsafe.Pointer(&arg)); err != nil {
		return fmt.Errorf("SIOCGIFFLAGS: %w", err)
	}
	const iffUp = 1
	flags := binary.NativeEndian.Uint16(arg.union[:])
	binary.NativeEndian.PutUint16(arg.union[:], flags|iffUp)
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

func orDefault(d, def time.Duration) time.Duration {
	if d <= 0 {
		return def
	}
	return d
}

// Read implements [Source]. The records' data is in the reader's own buffer.
func (r *Reader) Read() (*Batch, error) {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return nil, r.closedError()
	}
	r.reading = true
	r.mu.Unlock()

	n, err := r.dev.read(r.buf)

	r.mu.Lock()
	r.reading = false
	closed := r.closed
	if closed {
		// Close left this to us: a descriptor that another thread is
		// reading from must not be closed under it.
		r.dev.close()
	}
	r.mu.Unlock()
	switch {
	case err == nil && (n > 0 || !closed):
		// Also what came while Close was called: it is out of the
		// kernel's buffer, and nobody else will see it.
		r.batch.Reset(r.buf[:n])
	case closed:
		return nil, r.closedError()
	case errors.Is(err, syscall.EINTR), errors.Is(err, syscall.EAGAIN):
		r.batch.Reset(nil)
	case errors.Is(err, syscall.EIO), errors.Is(err, syscall.ENXIO):
		// The descriptor of a destroyed interface is revoked: there is
		// no way back from here.
		return nil, fmt.Errorf("%w: %s: %w", ErrInterfaceGone, r.name, err)
	default:
		return nil, fmt.Errorf("%s: read: %w", r.name, err)
	}
	return &r.batch, nil
}

func (r *Reader) closedError() error { return fmt.Errorf("%s: %w", r.name, ErrClosed) }

// Stats implements [Source]. The kernel counts in 32 bits: to see them wrap, Stats
// must be called at least once in four thousand million packets.
func (r *Reader) Stats() (Stats, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return r.stats, r.closedError()
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
		return nil
	}
	return r.dev.close()
}

// Interface returns the name of the interface that is read.
func (r *Reader) Interface() string { return r.name }

// BufferSize returns the size of each of the kernel's two buffers, and of a Read.
func (r *Reader) BufferSize() int { return len(r.buf) }

// Filter says which packets the kernel hands out.
type Filter uint8

const (
	// FilterBlock lets packets through that were blocked. Up to OpenBSD
	// 7.4 what pf drops before any rule (a bad header, too many states) is
	// logged as passed by the default rule and is not among them.
	FilterBlock Filter = iota
	// FilterAll lets through whatever is logged.
	FilterAll
)

// Program returns the filter as a program for the kernel, which keeps snapLen
// bytes of each packet, pflog header included; 0 for all of it.
func (f Filter) Program(snapLen int) []bpf.RawInstruction {
	if snapLen <= 0 || snapLen > MaxCaptureLength {
		snapLen = MaxCaptureLength
	}
	prog := []bpf.Instruction{bpf.RetConstant{Val: uint32(snapLen)}}
	if f == FilterBlock {
		prog = []bpf.Instruction{
			bpf.LoadAbsolute{Off: offAction, Size: 1},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(ActionBlock), SkipFalse: 1},
			bpf.RetConstant{Val: uint32(snapLen)},
			bpf.RetConstant{Val: 0},
		}
	}
	raw, err := bpf.Assemble(prog)
	if err != nil {
		// The two programs above assemble, or nothing works.
		panic(err)
	}
	return raw
}
