//go:build !unix

package pfsim

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"
)

// A Buffer is memory for the array of a request with a page behind it that
// cannot be touched. This system has none to give.
type Buffer struct{}

// MapBuffer returns an error that wraps errors.ErrUnsupported.
func MapBuffer(size int) (*Buffer, error) {
	return nil, fmt.Errorf("map buffer of %d bytes: %w on %s", size, errors.ErrUnsupported, runtime.GOOS)
}

// Pointer returns nil.
func (b *Buffer) Pointer() unsafe.Pointer { return nil }

// Bytes returns nil.
func (b *Buffer) Bytes() []byte { return nil }

// Close does nothing.
func (b *Buffer) Close() error { return nil }
