//go:build unix

package pfsim

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Buffer is memory for the array of a request, outside the garbage-collected
// heap, that ends where its last byte ends: the page behind it cannot be
// touched. A request that names more elements than the buffer has is answered
// with EFAULT, as by the kernel.
type Buffer struct {
	mem  []byte // as mapped
	data []byte
}

// MapBuffer maps a buffer of size bytes, all zero. A size of 0 is allowed: every
// access to such a buffer faults.
func MapBuffer(size int) (*Buffer, error) {
	if size < 0 {
		return nil, fmt.Errorf("map buffer: negative size %d", size)
	}
	page := os.Getpagesize()
	room := (size + page - 1) &^ (page - 1)
	mem, err := unix.Mmap(-1, 0, room+page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, fmt.Errorf("map buffer of %d bytes: %w", size, err)
	}
	if err := unix.Mprotect(mem[room:], unix.PROT_NONE); err != nil {
		unix.Munmap(mem)
		return nil, fmt.Errorf("guard buffer of %d bytes: %w", size, err)
	}
	return &Buffer{mem: mem, data: mem[room-size : room : room]}, nil
}

// Pointer returns the buffer's address, for the Buffer field of a request. The
// buffer must be kept alive until the request has returned.
func (b *Buffer) Pointer() unsafe.Pointer {
	return unsafe.Pointer(unsafe.SliceData(b.data))
}

// Bytes returns the buffer's memory, which must not be used after Close.
func (b *Buffer) Bytes() []byte { return b.data }

// Close unmaps the buffer.
func (b *Buffer) Close() error {
	mem := b.mem
	b.mem, b.data = nil, nil
	if mem == nil {
		return nil
	}
	return unix.Munmap(mem)
}
