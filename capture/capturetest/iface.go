package capturetest

import (
	"fmt"
	"sync"
	"time"

	"golang.org/x/net/bpf"

	"example.org/threatstopd/capture"
)

// An Interface is a pflog interface in memory. Any number of readers may be open;
// each gets every packet. All methods may be called at any time by anyone.
type Interface struct {
	name   string
	hdrlen int

	mu      sync.Mutex
	gone    bool
	readers map[*Reader]struct{}
	scratch []byte
}

// NewInterface returns the interface of that name ("" for pflog0), of OpenBSD 7.5 or
// later.
func NewInterface(name string) *Interface {
	if name == "" {
		name = "pflog0"
	}
	return &Interface{name: name, hdrlen: BPFHeaderLen, readers: make(map[*Reader]struct{})}
}

// SetBPFHeaderLen makes records have headers of this length (OldBPFHeaderLen,
// BPFHeaderLen), in readers opened from now on.
func (i *Interface) SetBPFHeaderLen(n int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.hdrlen = n
}

// Open opens a reader as capture.Open does. Options.Interface is not looked at. When
// the interface is gone the error wraps capture.ErrInterfaceGone: nobody creates it
// here but Create.
func (i *Interface) Open(o capture.Options) (*Reader, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.gone {
		return nil, fmt.Errorf("%w: %s: device not configured", capture.ErrInterfaceGone, i.name)
	}
	if o.BufferSize <= 0 || o.BufferSize > capture.MaxBufferSize {
		o.BufferSize = capture.MaxBufferSize
	}
	if o.ReadTimeout <= 0 {
		o.ReadTimeout = 500 * time.Millisecond
	}
	insns, ok := bpf.Disassemble(o.Filter.Program(o.SnapLen))
	if !ok {
		return nil, fmt.Errorf("%s: filter does not disassemble", i.name)
	}
	vm, err := bpf.NewVM(insns)
	if err != nil {
		return nil, fmt.Errorf("%s: filter: %w", i.name, err)
	}
	r := &Reader{iface: i, opts: o, hdrlen: i.hdrlen, filter: vm, wake: make(chan struct{}, 1)}
	i.readers[r] = struct{}{}
	return r, nil
}

// Log logs a packet.
func (i *Interface) Log(p *Packet) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.scratch = p.AppendRecord(i.scratch[:0])
	i.log(timeOf(p), i.scratch)
}

// LogRecord logs a packet given as its pflog header and what follows. The data is
// copied.
func (i *Interface) LogRecord(t time.Time, data []byte) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.log(t, data)
}

func (i *Interface) log(t time.Time, data []byte) {
	for r := range i.readers {
		r.log(t, data)
	}
}

// Destroy removes the interface: readers end with capture.ErrInterfaceGone, and what
// they had not read is lost.
func (i *Interface) Destroy() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.gone = true
	for r := range i.readers {
		r.end(fmt.Errorf("%w: %s: input/output error", capture.ErrInterfaceGone, i.name))
	}
	clear(i.readers)
}

// Create brings a destroyed interface back, for readers to be opened on.
func (i *Interface) Create() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.gone = false
}

// A Reader reads from an Interface. It has the two buffers of bpf(4): packets are
// stored in one while the other holds what the next Read gets; when both are full,
// packets are dropped and counted.
type Reader struct {
	iface  *Interface
	opts   capture.Options
	hdrlen int
	filter *bpf.VM
	wake   chan struct{}

	mu          sync.Mutex
	store, hold []byte
	err         error
	stats       capture.Stats

	buf   []byte
	batch capture.Batch
}

var _ capture.Source = (*Reader)(nil)

// log is what bpf_tap and bpf_catchpacket do (net/bpf.c).
func (r *Reader) log(t time.Time, data []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stats.Received++
	snap, err := r.filter.Run(data)
	if err != nil || snap == 0 {
		return
	}
	kept := data[:min(len(data), snap)]
	start := (len(r.store) + 3) &^ 3
	// A packet longer than a whole buffer is cut to fit.
	kept = kept[:min(len(kept), r.opts.BufferSize-r.hdrlen)]
	if start+r.hdrlen+len(kept) > r.opts.BufferSize {
		if len(r.hold) > 0 {
			r.stats.Dropped++
			return
		}
		r.store, r.hold = r.hold, r.store
	}
	r.store = AppendBPF(r.store, r.hdrlen, t, kept, len(data))
	r.signal()
}

func (r *Reader) signal() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *Reader) end(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		r.err = err
	}
	r.store, r.hold = nil, nil
	r.signal()
}

// Read implements capture.Source. What is there is returned at once.
func (r *Reader) Read() (*capture.Batch, error) {
	timeout := time.NewTimer(r.opts.ReadTimeout)
	defer timeout.Stop()
	for {
		r.mu.Lock()
		if err := r.err; err != nil {
			r.mu.Unlock()
			return nil, err
		}
		if len(r.hold) == 0 {
			r.store, r.hold = r.hold, r.store
		}
		r.buf = append(r.buf[:0], r.hold...)
		r.hold = r.hold[:0]
		r.mu.Unlock()
		if len(r.buf) > 0 {
			r.batch.Reset(r.buf)
			return &r.batch, nil
		}
		select {
		case <-r.wake:
		case <-timeout.C:
			r.batch.Reset(nil)
			return &r.batch, nil
		}
	}
}

// Stats implements capture.Source.
func (r *Reader) Stats() (capture.Stats, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stats, r.err
}

// Close implements capture.Source.
func (r *Reader) Close() error {
	r.iface.mu.Lock()
	delete(r.iface.readers, r)
	r.iface.mu.Unlock()
	r.end(fmt.Errorf("%s: %w", r.iface.name, capture.ErrClosed))
	return nil
}
