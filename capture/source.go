package capture

import "errors"

// A Source gives what is logged as it is logged. [Reader] is the real one.
type Source interface {
	// Read waits for packets and returns those that came, oldest first. An
	// empty batch with a nil error is a tick: the source's read time-out
	// passed and nothing came. The batch and its records are valid until
	// the next Read.
	//
	// The error wraps ErrInterfaceGone when the interface went away, and
	// ErrClosed after Close; the source is of no use then and must be
	// closed. One goroutine may call Read at a time.
	Read() (*Batch, error)
	// Stats returns the kernel's counters. It may be called while Read
	// waits.
	Stats() (Stats, error)
	// Close gives the source up. A Read that waits returns within the read
	// time-out, with what came by then if anything did; the one after it
	// fails.
	Close() error
}

// Stats are a source's counters since it was opened.
type Stats struct {
	// Received counts the packets that were offered to the filter.
	Received uint64
	// Dropped counts the packets that the kernel threw away because its
	// buffers were full: nobody has seen them.
	Dropped uint64
}

var (
	// ErrInterfaceGone says that the pflog interface was destroyed, or does
	// not exist: open a new source when it is back.
	ErrInterfaceGone = errors.New("pflog interface gone")
	// ErrClosed says that the source was closed.
	ErrClosed = errors.New("capture closed")
)
