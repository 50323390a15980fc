package capturetest

import (
	"bytes"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/google/gopacket"
	"golang.org/x/net/bpf"

	"example.org/threatstopd/capture"
)

// An Interface is a pflog interface in memory. Any number of readers may be open; each
// gets every packet. All methods may be called at any time by any goroutine.
type Interface struct {
	name string
	// BufferSize is the size of each of a reader's two buffers in bytes, for readers
	// opened from now on; 0 for capture.MaxBufferSize. It must not be changed while
	// a reader is opened.
	BufferSize int

	mu      sync.Mutex
	gone    bool
	readers map[*Reader]struct{}
	scratch []byte
}

// NewInterface returns the interface of that name, "" for pflog0.
func NewInterface(name string) *Interface {
	if name == "" {
		name = "pflog0"
	}
	return &Interface{name: name, readers: make(map[*Reader]struct{})}
}

// Open opens a reader as capture.Open does; Options.Interface is ignored. The error
// wraps capture.ErrInterfaceGone after Destroy, until Create.
func (i *Interface) Open(o capture.Options) (*Reader, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.gone {
		return nil, fmt.Errorf("%w: %s: device not configured", capture.ErrInterfaceGone, i.name)
	}
	insns, ok := bpf.Disassemble(o.Filter.Program())
	if !ok {
		return nil, fmt.Errorf("%s: filter does not disassemble", i.name)
	}
	vm, err := bpf.NewVM(insns)
	if err != nil {
		return nil, fmt.Errorf("%s: filter: %w", i.name, err)
	}
	r := &Reader{iface: i, size: i.BufferSize, filter: vm, wake: make(chan struct{}, 1)}
	if r.size == 0 {
		r.size = capture.MaxBufferSize
	}
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

// Create brings a destroyed interface back, so that readers can be opened.
func (i *Interface) Create() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.gone = false
}

// A Reader reads from an Interface. It has the two buffers of bpf(4): packets are stored
// in one while the other is read; when both are full, packets are dropped and counted.
type Reader struct {
	iface  *Interface
	size   int
	filter *bpf.VM
	wake   chan struct{}

	mu          sync.Mutex
	store, hold buffer
	err         error
	stats       capture.Stats

	batch []packet // of the last read, not yet returned
}

var _ capture.Source = (*Reader)(nil)

// A buffer is one of the kernel's two, with the bytes that its packets take there.
type buffer struct {
	packets []packet
	used    int
}

type packet struct {
	data []byte
	ci   gopacket.CaptureInfo
}

// log does what bpf_tap and bpf_catchpacket do (net/bpf.c).
func (r *Reader) log(t time.Time, data []byte) {
	const headerLen = 28 // of a bpf record
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stats.Received++
	snap, err := r.filter.Run(data)
	if err != nil || snap == 0 || r.err != nil {
		return
	}
	// A packet longer than a whole buffer is cut to fit.
	kept := data[:min(len(data), snap, r.size-headerLen)]
	if r.store.used+headerLen+len(kept) > r.size {
		if len(r.hold.packets) > 0 {
			r.stats.Dropped++
			return
		}
		r.store, r.hold = r.hold, r.store
	}
	r.store.packets = append(r.store.packets, packet{bytes.Clone(kept), gopacket.CaptureInfo{
		Timestamp: t.Truncate(time.Microsecond), CaptureLength: len(kept), Length: len(data),
	}})
	r.store.used = (r.store.used + headerLen + len(kept) + 3) &^ 3
	r.signal()
}

func (r *Reader) signal() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// end makes reads fail with err, after what was read already.
func (r *Reader) end(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		r.err = err
	}
	r.store, r.hold = buffer{}, buffer{}
	r.signal()
}

// ZeroCopyReadPacketData implements capture.Source. The caller may keep the data.
func (r *Reader) ZeroCopyReadPacketData() ([]byte, gopacket.CaptureInfo, error) {
	for len(r.batch) == 0 {
		r.mu.Lock()
		if r.err != nil {
			defer r.mu.Unlock()
			return nil, gopacket.CaptureInfo{}, r.err
		}
		if len(r.hold.packets) == 0 {
			r.store, r.hold = r.hold, r.store
		}
		r.batch, r.hold = r.hold.packets, buffer{}
		r.mu.Unlock()
		if len(r.batch) == 0 {
			<-r.wake
		}
	}
	p := r.batch[0]
	r.batch = r.batch[1:]
	return p.data, p.ci, nil
}

// Buffered reports whether the next packet was read already.
func (r *Reader) Buffered() bool { return len(r.batch) > 0 }

// Stats implements capture.Source.
func (r *Reader) Stats() (capture.Stats, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == io.EOF {
		return r.stats, nil
	}
	return r.stats, r.err
}

// Close implements capture.Source.
func (r *Reader) Close() error {
	r.iface.mu.Lock()
	delete(r.iface.readers, r)
	r.iface.mu.Unlock()
	r.end(io.EOF)
	return nil
}
