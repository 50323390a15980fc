package capture

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/net/bpf"
)

// fakeSystem is a kernel that has a pflog0, or not.
type fakeSystem struct {
	*fakeDevice
	openErr   error
	maxBuffer int
	maxErr    error
	ifErr     map[uint]error
	destroyer bool // somebody destroys what is created at once
}

func (s *fakeSystem) openBPF() (device, error) {
	if s.openErr != nil {
		return nil, s.openErr
	}
	return s.fakeDevice, nil
}

func (s *fakeSystem) maxBufferSize() (int, error) { return s.maxBuffer, s.maxErr }

func (s *fakeSystem) interfaceIoctl(req uint, arg unsafe.Pointer) error {
	r := (*ifreq)(arg)
	name := string(bytes.TrimRight(r.name[:], "\x00"))
	call := map[uint]string{0x8020697a: "SIOCIFCREATE", 0xc0206911: "SIOCGIFFLAGS", 0x80206910: "SIOCSIFFLAGS"}[req]
	if err := s.ifErr[req]; err != nil {
		if err == syscall.EEXIST {
			s.interfaces = append(s.interfaces, name)
		}
		s.log("%s %s: %v", call, name, err)
		return err
	}
	switch call {
	case "SIOCIFCREATE":
		if !s.destroyer {
			s.interfaces = append(s.interfaces, name)
		}
		s.log("%s %s", call, name)
	case "SIOCGIFFLAGS":
		binary.NativeEndian.PutUint16(r.union[:], 0x8100)
		s.log("%s %s", call, name)
	case "SIOCSIFFLAGS":
		s.log("%s %s %#x", call, name, binary.NativeEndian.Uint16(r.union[:]))
	default:
		return syscall.ENOTTY
	}
	return nil
}

// fakeDevice is /dev/bpf: it answers requests as bpfioctl does, and writes down what
// it was asked.
type fakeDevice struct {
	interfaces []string
	dlt        uint32
	minor      uint16
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

type fakeRead struct {
	data []byte
	err  error
}

func newFake() *fakeSystem {
	return &fakeSystem{
		fakeDevice: &fakeDevice{
			interfaces: []string{"pflog0"}, dlt: LinkType, minor: 1, noMemory: 1 << 31, size: 32768,
			reads: make(chan fakeRead, 10), errs: map[uint]error{},
		},
		maxBuffer: 2 << 20,
		ifErr:     map[uint]error{},
	}
}

func (d *fakeDevice) log(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls = append(d.calls, fmt.Sprintf(format, args...))
}

func (d *fakeDevice) ioctl(req uint, arg unsafe.Pointer) error {
	if err := d.errs[req]; err != nil {
		d.log("%#x: %v", req, err)
		return err
	}
	seconds := func() time.Duration {
		tv := (*timeval)(arg)
		usec := uint64(binary.NativeEndian.Uint32(tv[8:]))
		if unsafe.Sizeof(uintptr(0)) == 8 {
			usec = binary.NativeEndian.Uint64(tv[8:])
		}
		return time.Duration(binary.NativeEndian.Uint64(tv[:]))*time.Second + time.Duration(usec)*time.Microsecond
	}
	switch req {
	case hostRequests.version:
		*(*bpfVersion)(arg) = bpfVersion{1, d.minor}
	case hostRequests.setBufferSize:
		n := (*uint32)(arg)
		d.size = *n
		d.log("BIOCSBLEN %d", *n)
	case hostRequests.getBufferSize:
		*(*uint32)(arg) = d.size
	case hostRequests.setInterface:
		r := (*ifreq)(arg)
		name := string(bytes.TrimRight(r.name[:], "\x00"))
		d.log("BIOCSETIF %s", name)
		if !slices.Contains(d.interfaces, name) {
			return syscall.ENXIO
		}
		if d.size >= d.noMemory {
			return syscall.ENOMEM
		}
	case hostRequests.getDLT:
		*(*uint32)(arg) = d.dlt
	case hostRequests.setFilter:
		p := (*bpfProgram)(arg)
		d.prog = slices.Clone(unsafe.Slice(p.insns, p.length))
		d.log("BIOCSETF %d", p.length)
	case hostRequests.setReadTimeout:
		d.log("BIOCSRTIMEOUT %v", seconds())
	case hostRequests.setWaitTimeout:
		d.log("BIOCSWTIMEOUT %v", seconds())
	case hostRequests.immediate:
		d.log("BIOCIMMEDIATE %d", *(*uint32)(arg))
	case hostRequests.lock:
		d.log("BIOCLOCK")
	case hostRequests.getStats:
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
	case <-time.After(10 * time.Millisecond):
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
	const usual = "BIOCSETF 4;BIOCSRTIMEOUT 500ms;BIOCSWTIMEOUT 200ms;BIOCLOCK"
	tests := []struct {
		name  string
		opts  Options
		prep  func(*fakeSystem)
		calls string // what the kernel was asked, "" when Open fails
		err   string // what the error says
		is    error
	}{
		{name: "OK defaults", calls: "BIOCSBLEN 2097152;BIOCSETIF pflog0;" + usual},
		{name: "OK kernel allows less", prep: func(s *fakeSystem) { s.maxBuffer = 524288 },
			calls: "BIOCSBLEN 524288;BIOCSETIF pflog0;" + usual},
		{name: "OK kernel allows more", prep: func(s *fakeSystem) { s.maxBuffer = 1 << 30 },
			calls: "BIOCSBLEN 2097152;BIOCSETIF pflog0;" + usual},
		{name: "OK kernel does not say", prep: func(s *fakeSystem) { s.maxErr = syscall.ENOENT },
			calls: "BIOCSBLEN 2097152;BIOCSETIF pflog0;" + usual},
		{name: "OK own sizes and times", opts: Options{BufferSize: 65536, ReadTimeout: time.Second, BatchDelay: 1500 * time.Millisecond, Filter: FilterAll, SnapLen: 160},
			calls: "BIOCSBLEN 65536;BIOCSETIF pflog0;BIOCSETF 1;BIOCSRTIMEOUT 1s;BIOCSWTIMEOUT 1.5s;BIOCLOCK"},
		{name: "OK buffer too small to be of use", opts: Options{BufferSize: 1},
			calls: "BIOCSBLEN 32768;BIOCSETIF pflog0;" + usual},
		{name: "OK memory short", prep: func(s *fakeSystem) { s.noMemory = 1 << 20 },
			calls: "BIOCSBLEN 2097152;BIOCSETIF pflog0;BIOCSBLEN 1048576;BIOCSETIF pflog0;BIOCSBLEN 524288;BIOCSETIF pflog0;" + usual},
		{name: "bad no memory at all", prep: func(s *fakeSystem) { s.noMemory = 1 },
			err: "pflog0: BIOCSETIF: cannot allocate memory", is: syscall.ENOMEM},
		{name: "OK before 7.3: no wait time-out", prep: func(s *fakeSystem) { s.errs[hostRequests.setWaitTimeout] = syscall.EINVAL },
			calls: "BIOCSBLEN 2097152;BIOCSETIF pflog0;BIOCSETF 4;BIOCSRTIMEOUT 500ms;" +
				fmt.Sprintf("%#x: invalid argument", hostRequests.setWaitTimeout) + ";BIOCIMMEDIATE 1;BIOCLOCK"},
		{name: "OK created when missing", opts: Options{Interface: "pflog1"},
			calls: "BIOCSBLEN 2097152;BIOCSETIF pflog1;SIOCIFCREATE pflog1;SIOCGIFFLAGS pflog1;SIOCSIFFLAGS pflog1 0x8101;" +
				"BIOCSBLEN 2097152;BIOCSETIF pflog1;" + usual},
		{name: "OK somebody else was quicker", opts: Options{Interface: "pflog2"}, prep: func(s *fakeSystem) { s.ifErr[0x8020697a] = syscall.EEXIST },
			calls: "BIOCSBLEN 2097152;BIOCSETIF pflog2;SIOCIFCREATE pflog2: file exists;SIOCGIFFLAGS pflog2;SIOCSIFFLAGS pflog2 0x8101;" +
				"BIOCSBLEN 2097152;BIOCSETIF pflog2;" + usual},
		{name: "bad created and gone again", opts: Options{Interface: "pflog2"}, prep: func(s *fakeSystem) { s.destroyer = true },
			err: "pflog interface gone: pflog2: BIOCSETIF: ", is: ErrInterfaceGone},
		{name: "bad not allowed to create", opts: Options{Interface: "pflog1"}, prep: func(s *fakeSystem) { s.ifErr[0x8020697a] = syscall.EPERM },
			err: "pflog interface gone: pflog1 does not exist: SIOCIFCREATE: operation not permitted", is: ErrInterfaceGone},
		{name: "bad not allowed to bring up", opts: Options{Interface: "pflog1"}, prep: func(s *fakeSystem) { s.ifErr[0x80206910] = syscall.EPERM },
			err: "pflog1 does not exist: SIOCSIFFLAGS: operation not permitted", is: ErrInterfaceGone},
		{name: "bad interface name", opts: Options{Interface: "em0"}, err: "em0: not the name of a pflog interface"},
		{name: "bad interface name without number", opts: Options{Interface: "pflog"}, err: "pflog: not the name of a pflog interface"},
		{name: "bad interface name too long", opts: Options{Interface: "pflog12345678901"}, err: "not the name of a pflog interface"},
		{name: "bad no right", prep: func(s *fakeSystem) { s.openErr = syscall.EACCES }, err: "/dev/bpf: permission denied", is: syscall.EACCES},
		{name: "bad language", prep: func(s *fakeSystem) { s.minor = 0 }, err: "/dev/bpf: filter language 1.0, this program speaks 1.1"},
		{name: "bad link type", prep: func(s *fakeSystem) { s.dlt = 1 }, err: "pflog0: not a capture of pflog: link type 1, want 117", is: ErrLinkType},
		{name: "bad filter refused", prep: func(s *fakeSystem) { s.errs[hostRequests.setFilter] = syscall.EINVAL }, err: "pflog0: BIOCSETF: invalid argument"},
		{name: "bad lock refused", prep: func(s *fakeSystem) { s.errs[hostRequests.lock] = syscall.EPERM }, err: "pflog0: BIOCLOCK: operation not permitted"},
		{name: "bad time-out refused", prep: func(s *fakeSystem) { s.errs[hostRequests.setReadTimeout] = syscall.EINVAL }, err: "pflog0: BIOCSRTIMEOUT: "},
		{name: "bad buffer size unknown", prep: func(s *fakeSystem) { s.errs[hostRequests.getBufferSize] = syscall.EIO }, err: "pflog0: BIOCGBLEN: "},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newFake()
			if tt.prep != nil {
				tt.prep(s)
			}
			r, err := open(s, tt.opts)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) || tt.is != nil && !errors.Is(err, tt.is) {
					t.Fatalf("error %v, want %q", err, tt.err)
				}
				if s.openErr == nil && pflogName(orPflog0(tt.opts.Interface)) && s.closed != 1 {
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
			if r.BufferSize() != int(s.size) || r.Interface() != orPflog0(tt.opts.Interface) {
				t.Errorf("buffer %d, interface %s", r.BufferSize(), r.Interface())
			}
			if !slices.Equal(s.prog, tt.opts.Filter.Program(tt.opts.SnapLen)) {
				t.Errorf("filter %v", s.prog)
			}
			if err := r.Close(); err != nil || s.closed != 1 {
				t.Errorf("close: %v, closed %d times", err, s.closed)
			}
		})
	}
}

func orPflog0(name string) string {
	if name == "" {
		return "pflog0"
	}
	return name
}

func TestRead(t *testing.T) {
	s := newFake()
	r, err := open(s, Options{})
	if err != nil {
		t.Fatal(err)
	}
	reads := nativeReads(t, golden(t, "reads-burst.bin.gz"))
	records := 0
	for _, b := range reads {
		s.reads <- fakeRead{data: b}
		batch, err := r.Read()
		if err != nil {
			t.Fatal(err)
		}
		var rec Record
		for batch.Next(&rec) {
			records++
		}
		if batch.Err() != nil {
			t.Error(batch.Err())
		}
	}
	if want := len(goldenRecords(t, "burst.pcap.gz")); records != want {
		t.Errorf("%d records, want %d", records, want)
	}
	// Nothing for the time-out is a tick, and so is a signal.
	for _, err := range []error{nil, syscall.EINTR} {
		if err != nil {
			s.reads <- fakeRead{err: err}
		}
		if b, err := r.Read(); err != nil || !b.Empty() {
			t.Errorf("tick: %v", err)
		}
	}
	for _, errno := range []error{syscall.EIO, syscall.ENXIO} {
		s.reads <- fakeRead{err: errno}
		if _, err := r.Read(); !errors.Is(err, ErrInterfaceGone) || !errors.Is(err, errno) {
			t.Errorf("%v: %v", errno, err)
		}
	}
	s.reads <- fakeRead{err: syscall.EBADF}
	if _, err := r.Read(); errors.Is(err, ErrInterfaceGone) || !errors.Is(err, syscall.EBADF) {
		t.Error(err)
	}
}

func TestClose(t *testing.T) {
	s := newFake()
	r, err := open(s, Options{})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	started := make(chan struct{})
	go func() {
		for i := 0; ; i++ {
			if i == 1 {
				close(started)
			}
			if _, err := r.Read(); err != nil {
				ended <- err
				return
			}
		}
	}()
	<-started
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, ErrClosed) {
		t.Errorf("Read after Close: %v", err)
	}
	if s.closed != 1 {
		t.Errorf("closed %d times", s.closed)
	}
	if err := r.Close(); err != nil || s.closed != 1 {
		t.Errorf("second Close: %v, closed %d times", err, s.closed)
	}
	if _, err := r.Read(); !errors.Is(err, ErrClosed) {
		t.Errorf("Read: %v", err)
	}
	if _, err := r.Stats(); !errors.Is(err, ErrClosed) {
		t.Errorf("Stats: %v", err)
	}
}

// TestCloseKeepsLastRead: what the kernel hands out while Close is called is not thrown
// away.
func TestCloseKeepsLastRead(t *testing.T) {
	s := newFake()
	r, err := open(s, Options{})
	if err != nil {
		t.Fatal(err)
	}
	last := nativeReads(t, golden(t, "reads-burst.bin.gz"))[0]
	s.during = func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
	s.reads <- fakeRead{data: last}
	b, err := r.Read()
	if err != nil {
		t.Fatal(err)
	}
	var rec Record
	n := 0
	for b.Next(&rec) {
		n++
	}
	if n == 0 || b.Err() != nil {
		t.Errorf("%d records, %v", n, b.Err())
	}
	if s.closed != 1 {
		t.Errorf("closed %d times", s.closed)
	}
	if _, err := r.Read(); !errors.Is(err, ErrClosed) {
		t.Errorf("the Read after it: %v", err)
	}
	// With nothing in hand the end is said at once, whatever the kernel said.
	for _, errno := range []error{nil, syscall.EINTR, syscall.EIO} {
		s := newFake()
		if r, err = open(s, Options{}); err != nil {
			t.Fatal(err)
		}
		s.during = func() { r.Close() }
		s.reads <- fakeRead{err: errno}
		if _, err := r.Read(); !errors.Is(err, ErrClosed) || s.closed != 1 {
			t.Errorf("%v: %v, closed %d times", errno, err, s.closed)
		}
	}
}

// TestStats: the kernel's counters have 32 bits and begin anew at 0.
func TestStats(t *testing.T) {
	s := newFake()
	r, err := open(s, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		kernel bpfStat
		want   Stats
	}{
		{bpfStat{10, 0}, Stats{10, 0}},
		{bpfStat{4000000000, 3000000000}, Stats{4000000000, 3000000000}},
		{bpfStat{5, 3000000001}, Stats{1<<32 + 5, 3000000001}},
		{bpfStat{5, 0}, Stats{1<<32 + 5, 1 << 32}},
	} {
		s.stats = tt.kernel
		if got, err := r.Stats(); err != nil || got != tt.want {
			t.Errorf("%v: %v, %v, want %v", tt.kernel, got, err, tt.want)
		}
	}
	s.errs[hostRequests.getStats] = syscall.ENOTTY
	if got, err := r.Stats(); !errors.Is(err, ErrInterfaceGone) || got.Dropped != 1<<32 {
		t.Errorf("interface gone: %v %v", got, err)
	}
}

func TestOpenElsewhere(t *testing.T) {
	if _, err := openSystem(); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		t.Error(err)
	}
}

// TestFilter runs the kernel's program over the recordings in an interpreter.
func TestFilter(t *testing.T) {
	for _, name := range []string{"common-1.pcap.gz", "wild-1.pcap.gz", "burst.pcap.gz"} {
		records := goldenRecords(t, name)
		for _, f := range []Filter{FilterBlock, FilterAll} {
			for _, snap := range []int{0, 160} {
				prog := f.Program(snap)
				if len(prog) > 512 {
					t.Fatalf("%d instructions", len(prog))
				}
				insns, ok := bpf.Disassemble(prog)
				if !ok {
					t.Fatal("does not disassemble")
				}
				vm, err := bpf.NewVM(insns)
				if err != nil {
					t.Fatal(err)
				}
				through := 0
				for i, r := range records {
					n, err := vm.Run(r.Data)
					if err != nil {
						t.Fatal(err)
					}
					// The kernel lets nothing through that is too
					// short to tell.
					want := f == FilterAll || len(r.Data) > offAction && Action(r.Data[offAction]) == ActionBlock
					if (n > 0) != want {
						t.Errorf("%s: record %d, filter %d: %d", name, i, f, n)
					}
					if n > 0 {
						through++
						if snap != 0 && n != snap || n < min(len(r.Data), 160) {
							t.Errorf("%s: record %d: %d bytes kept", name, i, n)
						}
					}
				}
				if through == 0 || f == FilterAll && through != len(records) {
					t.Errorf("%s: %d of %d through filter %d", name, through, len(records), f)
				}
			}
		}
	}
}
