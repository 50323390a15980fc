package capture

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
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
		{name: "OK all packets", opts: Options{Filter: FilterAll},
			calls: "BIOCSBLEN 2097152;BIOCSETIF pflog0;BIOCSETF 1;BIOCSRTIMEOUT 250ms;BIOCSWTIMEOUT 200ms;BIOCLOCK"},
		{name: "OK kernel's limit too small to be of use", prep: func(s *fakeSystem) { s.maxBuffer = 1 },
			calls: "BIOCSBLEN 32768;BIOCSETIF pflog0;" + usual},
		{name: "OK memory short", prep: func(s *fakeSystem) { s.noMemory = 1 << 20 },
			calls: "BIOCSBLEN 2097152;BIOCSETIF pflog0;BIOCSBLEN 1048576;BIOCSETIF pflog0;BIOCSBLEN 524288;BIOCSETIF pflog0;" + usual},
		{name: "bad no memory at all", prep: func(s *fakeSystem) { s.noMemory = 1 },
			err: "pflog0: BIOCSETIF: cannot allocate memory", is: syscall.ENOMEM},
		{name: "OK before 7.3: no wait time-out", prep: func(s *fakeSystem) { s.errs[hostRequests.setWaitTimeout] = syscall.EINVAL },
			calls: "BIOCSBLEN 2097152;BIOCSETIF pflog0;BIOCSETF 4;BIOCSRTIMEOUT 250ms;" +
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
		{name: "bad language", prep: func(s *fakeSystem) { s.minor = 0 }, err: "/dev/bpf: filter language 1.0, need 1.1"},
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
			if !slices.Equal(s.prog, tt.opts.Filter.Program()) {
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
	r, err := open(s, Options{})
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
	r, err := open(s, Options{})
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

// TestCloseKeepsLastRead: what the kernel returns while Close is called is not lost.
func TestCloseKeepsLastRead(t *testing.T) {
	last := nativeReads(t, golden(t, "reads-burst.bin.gz"))[0]
	for _, read := range []fakeRead{{data: last}, {}, {err: syscall.EINTR}, {err: syscall.EIO}} {
		s := newFake()
		r, err := open(s, Options{})
		if err != nil {
			t.Fatal(err)
		}
		s.during = func() { r.Close() }
		s.reads <- read
		if got, err := readAll(r); err != io.EOF || s.closed != 1 || (len(got) > 0) != (read.data != nil) {
			t.Errorf("%d bytes, %v: %d packets, %v, closed %d times", len(read.data), read.err, len(got), err, s.closed)
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
