package capture

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/net/bpf"
)

// fakeDevice is /dev/bpf of a kernel that has a pflog0, or not, and a socket: it answers
// requests as the kernel does, and writes down what it was asked.
type fakeDevice struct {
	openErr    error
	maxBuffer  uint32 // net.bpf.maxbufsize
	destroyer  bool   // somebody destroys what is created at once
	interfaces []string
	dlt        uint32
	noMemory   uint32 // buffers of this size and more cannot be had
	errs       map[uint]error
	stats      bpfStat

	mu     sync.Mutex
	calls  []string
	prog   []bpf.RawInstruction
	size   uint32
	closed int
	reads  chan fakeRead
	during func() // called while a read waits
}

// A fakeSocket is the device as a socket, whose closing does not count.
type fakeSocket struct{ *fakeDevice }

func (fakeSocket) close() error { return nil }

func (d *fakeDevice) open(o Options) (*Reader, error) {
	return open(func() (device, error) { return d, d.openErr }, func() (device, error) { return fakeSocket{d}, nil }, o)
}

type fakeRead struct {
	data []byte
	err  error
}

func newFake() *fakeDevice {
	return &fakeDevice{
		interfaces: []string{"pflog0"}, dlt: LinkType, maxBuffer: 2 << 20, noMemory: 1 << 31, size: 32768,
		reads: make(chan fakeRead, 10), errs: map[uint]error{},
	}
}

func (d *fakeDevice) log(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls = append(d.calls, fmt.Sprintf(format, args...))
}

// fakeNames are the requests whose argument is an ifreq.
var fakeNames = map[uint]string{
	siocCreate: "SIOCIFCREATE", siocGetFlags: "SIOCGIFFLAGS", siocSetFlags: "SIOCSIFFLAGS", biocSetInterface: "BIOCSETIF",
}

func (d *fakeDevice) ioctl(req uint, arg unsafe.Pointer) error {
	var name string
	if fakeNames[req] != "" {
		name = string(bytes.TrimRight((*ifreq)(arg).name[:], "\x00"))
	}
	if err := d.errs[req]; err != nil {
		if err == syscall.EEXIST {
			d.interfaces = append(d.interfaces, name)
		}
		d.log("%#x %s: %v", req, name, err)
		return err
	}
	host := func(req uint) uint { return sized(req, runtime.GOARCH) }
	duration := func() time.Duration {
		tv := (*timeval)(arg)
		return time.Duration(tv.sec)*time.Second + time.Duration(tv.usec)*time.Microsecond
	}
	switch req {
	case siocCreate:
		if !d.destroyer {
			d.interfaces = append(d.interfaces, name)
		}
		d.log("SIOCIFCREATE %s", name)
	case siocGetFlags:
		binary.NativeEndian.PutUint16((*ifreq)(arg).union[:], 0x8100)
		d.log("SIOCGIFFLAGS %s", name)
	case siocSetFlags:
		d.log("SIOCSIFFLAGS %s %#x", name, binary.NativeEndian.Uint16((*ifreq)(arg).union[:]))
	case biocSetBufferSize:
		n := (*uint32)(arg)
		*n = min(*n, d.maxBuffer)
		d.size = *n
		d.log("BIOCSBLEN %d", *n)
	case biocSetInterface:
		d.log("BIOCSETIF %s", name)
		if !slices.Contains(d.interfaces, name) {
			return syscall.ENXIO
		}
		if d.size >= d.noMemory {
			return syscall.ENOMEM
		}
	case biocGetDLT:
		*(*uint32)(arg) = d.dlt
	case host(biocSetFilter):
		p := (*bpfProgram)(arg)
		d.prog = slices.Clone(unsafe.Slice(p.insns, p.length))
		d.log("BIOCSETF %d", p.length)
	case host(biocSetReadTimeout):
		d.log("BIOCSRTIMEOUT %v", duration())
	case host(biocSetWaitTimeout):
		d.log("BIOCSWTIMEOUT %v", duration())
	case biocImmediate:
		d.log("BIOCIMMEDIATE %d", *(*uint32)(arg))
	case biocLock:
		d.log("BIOCLOCK")
	case biocGetStats:
		*(*bpfStat)(arg) = d.stats
	default:
		return syscall.EINVAL
	}
	return nil
}

func (d *fakeDevice) read(p []byte) (int, error) {
	if len(p) != int(d.size) {
		return 0, syscall.EINVAL
	}
	if d.during != nil {
		d.during()
	}
	select {
	case r := <-d.reads:
		return copy(p, r.data), r.err
	case <-time.After(readTimeout):
		return 0, nil
	}
}

func (d *fakeDevice) close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed++
	return nil
}

func TestOpen(t *testing.T) {
	const usual = "BIOCSETF 4;BIOCSRTIMEOUT 250ms;BIOCSWTIMEOUT 200ms;BIOCLOCK"
	tests := []struct {
		name  string
		opts  Options
		prep  func(*fakeDevice)
		calls string // what the kernel was asked, "" when Open fails
		err   string // what the error says
		is    error
	}{
		{name: "OK defaults", calls: "BIOCSBLEN 2097152;BIOCSETIF pflog0;" + usual},
		{name: "OK kernel allows less", prep: func(s *fakeDevice) { s.maxBuffer = 524288 },
			calls: "BIOCSBLEN 524288;BIOCSETIF pflog0;" + usual},
		{name: "OK kernel allows more", prep: func(s *fakeDevice) { s.maxBuffer = 1 << 30 },
			calls: "BIOCSBLEN 2097152;BIOCSETIF pflog0;" + usual},
		{name: "OK all packets", opts: Options{Filter: FilterAll},
			calls: "BIOCSBLEN 2097152;BIOCSETIF pflog0;BIOCSETF 1;BIOCSRTIMEOUT 250ms;BIOCSWTIMEOUT 200ms;BIOCLOCK"},
		{name: "OK memory short", prep: func(s *fakeDevice) { s.noMemory = 1 << 20 },
			calls: "BIOCSBLEN 2097152;BIOCSETIF pflog0;BIOCSBLEN 1048576;BIOCSETIF pflog0;BIOCSBLEN 524288;BIOCSETIF pflog0;" + usual},
		{name: "bad no memory at all", prep: func(s *fakeDevice) { s.noMemory = 1 },
			err: "pflog0: BIOCSETIF: cannot allocate memory", is: syscall.ENOMEM},
		{name: "OK before 7.3: no wait time-out", prep: func(s *fakeDevice) { s.errs[sized(biocSetWaitTimeout, runtime.GOARCH)] = syscall.EINVAL },
			calls: "BIOCSBLEN 2097152;BIOCSETIF pflog0;BIOCSETF 4;BIOCSRTIMEOUT 250ms;" +
				fmt.Sprintf("%#x : invalid argument", sized(biocSetWaitTimeout, runtime.GOARCH)) + ";BIOCIMMEDIATE 1;BIOCLOCK"},
		{name: "OK created when missing", opts: Options{Interface: "pflog1"},
			calls: "BIOCSBLEN 2097152;BIOCSETIF pflog1;SIOCIFCREATE pflog1;SIOCGIFFLAGS pflog1;SIOCSIFFLAGS pflog1 0x8101;" +
				"BIOCSBLEN 2097152;BIOCSETIF pflog1;" + usual},
		{name: "OK somebody else was quicker", opts: Options{Interface: "pflog2"}, prep: func(s *fakeDevice) { s.errs[siocCreate] = syscall.EEXIST },
			calls: "BIOCSBLEN 2097152;BIOCSETIF pflog2;0x8020697a pflog2: file exists;SIOCGIFFLAGS pflog2;SIOCSIFFLAGS pflog2 0x8101;" +
				"BIOCSBLEN 2097152;BIOCSETIF pflog2;" + usual},
		{name: "bad created and gone again", opts: Options{Interface: "pflog2"}, prep: func(s *fakeDevice) { s.destroyer = true },
			err: "pflog2: pflog interface gone: BIOCSETIF: ", is: ErrInterfaceGone},
		{name: "bad not allowed to create", opts: Options{Interface: "pflog1"}, prep: func(s *fakeDevice) { s.errs[siocCreate] = syscall.EPERM },
			err: "pflog1: pflog interface gone: it cannot be created: SIOCIFCREATE: operation not permitted", is: ErrInterfaceGone},
		{name: "bad not allowed to bring up", opts: Options{Interface: "pflog1"}, prep: func(s *fakeDevice) { s.errs[siocSetFlags] = syscall.EPERM },
			err: "pflog1: pflog interface gone: it cannot be created: SIOCSIFFLAGS: operation not permitted", is: ErrInterfaceGone},
		{name: "bad interface name", opts: Options{Interface: "em0"}, err: "em0: not the name of a pflog interface"},
		{name: "bad interface name without number", opts: Options{Interface: "pflog"}, err: "pflog: not the name of a pflog interface"},
		{name: "bad interface name too long", opts: Options{Interface: "pflog12345678901"}, err: "not the name of a pflog interface"},
		{name: "bad no right", prep: func(s *fakeDevice) { s.openErr = syscall.EACCES }, err: "/dev/bpf: permission denied", is: syscall.EACCES},
		{name: "bad link type", prep: func(s *fakeDevice) { s.dlt = 1 }, err: "pflog0: not a capture of pflog: link type 1, want 117", is: ErrLinkType},
		{name: "bad filter refused", prep: func(s *fakeDevice) { s.errs[sized(biocSetFilter, runtime.GOARCH)] = syscall.EINVAL }, err: "pflog0: BIOCSETF: invalid argument"},
		{name: "bad lock refused", prep: func(s *fakeDevice) { s.errs[biocLock] = syscall.EPERM }, err: "pflog0: BIOCLOCK: operation not permitted"},
		{name: "bad time-out refused", prep: func(s *fakeDevice) { s.errs[sized(biocSetReadTimeout, runtime.GOARCH)] = syscall.EINVAL }, err: "pflog0: BIOCSRTIMEOUT: "},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newFake()
			if tt.prep != nil {
				tt.prep(s)
			}
			r, err := s.open(tt.opts)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) || tt.is != nil && !errors.Is(err, tt.is) {
					t.Fatalf("error %v, want %q", err, tt.err)
				}
				if s.closed != 1 && s.openErr == nil && !strings.Contains(tt.err, "not the name") {
					t.Errorf("closed %d times", s.closed)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(s.calls, ";"); got != tt.calls {
				t.Errorf("asked\n     %s\nwant %s", got, tt.calls)
			}
			if !slices.Equal(s.prog, tt.opts.Filter.Program()) {
				t.Errorf("filter %v", s.prog)
			}
			if err := r.Close(); err != nil || s.closed != 1 {
				t.Errorf("close: %v, closed %d times", err, s.closed)
			}
		})
	}
}

func TestRead(t *testing.T) {
	s := newFake()
	r, err := s.open(Options{})
	if err != nil {
		t.Fatal(err)
	}
	s.reads <- fakeRead{err: syscall.EINTR} // nothing, and so are time-outs
	s.reads <- fakeRead{}
	for _, b := range nativeReads(t, golden(t, "reads-burst.bin.gz")) {
		s.reads <- fakeRead{data: b}
	}
	s.reads <- fakeRead{err: syscall.EIO}
	got, err := readAll(r)
	if !errors.Is(err, ErrInterfaceGone) || !errors.Is(err, syscall.EIO) {
		t.Errorf("interface gone: %v", err)
	}
	if want := len(goldenRecords(t, "burst.pcap.gz")); len(got) != want {
		t.Errorf("%d packets, want %d", len(got), want)
	}
	for errno, gone := range map[error]bool{syscall.ENXIO: true, syscall.EBADF: false} {
		s.reads <- fakeRead{err: errno}
		if _, _, err := r.ZeroCopyReadPacketData(); errors.Is(err, ErrInterfaceGone) != gone || !errors.Is(err, errno) {
			t.Errorf("%v: %v", errno, err)
		}
	}
}

// TestReadMalformed: what follows a malformed record in a read is skipped and counted, and
// reading continues with the next read.
func TestReadMalformed(t *testing.T) {
	s := newFake()
	r, err := s.open(Options{})
	if err != nil {
		t.Fatal(err)
	}
	one := appendBPF(nil, 28, logged(ip4(253, nil)))
	s.reads <- fakeRead{data: append(bytes.Clone(one), make([]byte, 40)...)}
	s.reads <- fakeRead{data: one[:len(one)-1]}
	s.reads <- fakeRead{data: one}
	s.reads <- fakeRead{err: syscall.EIO}
	got, _ := readAll(r)
	if stats, err := r.Stats(); len(got) != 2 || stats.Malformed != 2 || err != nil {
		t.Errorf("%d packets, %+v, %v", len(got), stats, err)
	}
}

// TestClose: a read that waits ends within half a second, once, with io.EOF.
func TestClose(t *testing.T) {
	if readTimeout+batchDelay >= 500*time.Millisecond {
		t.Errorf("a read may go on for %v", readTimeout+batchDelay)
	}
	s := newFake()
	r, err := s.open(Options{})
	if err != nil {
		t.Fatal(err)
	}
	ended, started := make(chan error, 1), make(chan struct{})
	s.during = sync.OnceFunc(func() { close(started) })
	go func() {
		_, _, err := r.ZeroCopyReadPacketData()
		ended <- err
	}()
	<-started
	s.stats = bpfStat{7, 1}
	if _, err := r.Stats(); err != nil {
		t.Error(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err != io.EOF {
			t.Errorf("read after Close: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the read did not end")
	}
	if err := r.Close(); err != nil || s.closed != 1 {
		t.Errorf("second Close: %v, closed %d times", err, s.closed)
	}
	if _, _, err := r.ZeroCopyReadPacketData(); err != io.EOF {
		t.Errorf("another read: %v", err)
	}
	if got, err := r.Stats(); err != nil || got != (Stats{Received: 7, Dropped: 1}) {
		t.Errorf("the last stats: %+v, %v", got, err)
	}
}

// TestCloseKeepsLastRead: what the kernel returns while Close waits is not lost.
func TestCloseKeepsLastRead(t *testing.T) {
	last := nativeReads(t, golden(t, "reads-burst.bin.gz"))[0]
	for _, read := range []fakeRead{{data: last}, {}, {err: syscall.EINTR}} {
		s := newFake()
		r, err := s.open(Options{})
		if err != nil {
			t.Fatal(err)
		}
		closed := make(chan error)
		s.during = func() {
			go func() { closed <- r.Close() }()
			for !r.closed.Load() {
				time.Sleep(time.Millisecond)
			}
		}
		s.reads <- read
		got, err := readAll(r)
		if cerr := <-closed; err != io.EOF || cerr != nil || s.closed != 1 || (len(got) > 0) != (read.data != nil) {
			t.Errorf("%d bytes, %v: %d packets, %v, closed %d times", len(read.data), read.err, len(got), err, s.closed)
		}
	}
}

// TestStats: the kernel's counters have 32 bits and begin anew at 0.
func TestStats(t *testing.T) {
	s := newFake()
	r, err := s.open(Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		kernel bpfStat
		want   Stats
	}{
		{bpfStat{10, 0}, Stats{Received: 10, Dropped: 0}},
		{bpfStat{4000000000, 3000000000}, Stats{Received: 4000000000, Dropped: 3000000000}},
		{bpfStat{5, 3000000001}, Stats{Received: 1<<32 + 5, Dropped: 3000000001}},
		{bpfStat{5, 0}, Stats{Received: 1<<32 + 5, Dropped: 1 << 32}},
	} {
		s.stats = tt.kernel
		if got, err := r.Stats(); err != nil || got != tt.want {
			t.Errorf("%v: %v, %v, want %v", tt.kernel, got, err, tt.want)
		}
	}
	s.errs[biocGetStats] = syscall.ENOTTY
	if got, err := r.Stats(); !errors.Is(err, ErrInterfaceGone) || got.Dropped != 1<<32 {
		t.Errorf("interface gone: %v %v", got, err)
	}
}

func TestOpenElsewhere(t *testing.T) {
	if _, err := openBPF(); runtime.GOOS != "openbsd" && !errors.Is(err, errors.ErrUnsupported) {
		t.Error(err)
	}
}

// TestFilter runs the kernel's program over the recordings in an interpreter.
func TestFilter(t *testing.T) {
	for _, name := range []string{"common-1.pcap.gz", "wild-1.pcap.gz", "burst.pcap.gz"} {
		records := goldenRecords(t, name)
		for _, f := range []Filter{FilterBlock, FilterAll} {
			insns, ok := bpf.Disassemble(f.Program())
			if !ok {
				t.Fatal("does not disassemble")
			}
			vm, err := bpf.NewVM(insns)
			if err != nil {
				t.Fatal(err)
			}
			through := 0
			for i, r := range records {
				n, err := vm.Run(r.data)
				if err != nil {
					t.Fatal(err)
				}
				// The kernel lets nothing through that has no action.
				want := f == FilterAll || len(r.data) > offAction && Action(r.data[offAction]) == ActionBlock
				if (n > 0) != want || n > 0 && n < len(r.data) || f.Match(r.data) != want {
					t.Errorf("%s: record %d, filter %d: %d bytes, Match %v", name, i, f, n, f.Match(r.data))
				}
				if n > 0 {
					through++
				}
			}
			if through == 0 || f == FilterAll && through != len(records) {
				t.Errorf("%s: %d of %d through filter %d", name, through, len(records), f)
			}
		}
	}
}
