package capture

import (
	"errors"

	"github.com/google/gopacket"
)

// A Source yields packets as pf logs them. [Reader] is the one that reads from the
// kernel.
type Source interface {
	// ZeroCopyReadPacketData waits for the next packet. Its data is valid until the
	// next call. The error is io.EOF after Close, when all that was read before has
	// been returned; it wraps ErrInterfaceGone when the interface was destroyed.
	// The source must be closed after an error. One goroutine may read at a time.
	gopacket.ZeroCopyPacketDataSource
	// Stats returns the counters, together with an error the last ones known. It may
	// be called at any time.
	Stats() (Stats, error)
	// Close closes the source. A read that waits ends within 0.5 s.
	Close() error
}

// Stats are the counters of a Source since it was opened.
type Stats struct {
	// Received counts the packets that were offered to the filter.
	Received uint64
	// Dropped counts the packets that the kernel dropped because its buffers were
	// full.
	Dropped uint64
	// Malformed counts reads from the kernel that did not parse to their end.
	Malformed uint64
}

// ErrInterfaceGone reports that the pflog interface was destroyed or does not exist.
// Open a new source when it is back.
var ErrInterfaceGone = errors.New("pflog interface gone")
