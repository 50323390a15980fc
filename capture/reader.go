package capture

import "time"

// Filter says which packets the kernel hands out.
type Filter uint8

const (
	// FilterBlock lets packets through that were blocked.
	FilterBlock Filter = iota
	// FilterAll lets through whatever is logged.
	FilterAll
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
	// 0 for the largest the kernel allows (net.bpf.maxbufsize), at most
	// MaxBufferSize.
	BufferSize int
	// ReadTimeout is how long Read waits for a first packet, 0 for 500 ms.
	ReadTimeout time.Duration
	// BatchDelay is how long the kernel may collect after a first packet
	// before Read returns it, 0 for 200 ms. OpenBSD 7.2 and earlier cannot
	// and return each packet at once.
	BatchDelay time.Duration
}

// MaxBufferSize is the largest buffer asked of the kernel.
const MaxBufferSize = 2 << 20
