package pfioctl

import (
	"fmt"
	"math"
	"unsafe"
)

// array is memory for the elements of a request, outside of the heap that the
// garbage collector sees: a table of a million entries is 52 MB, which in the
// heap would count double at the next collection. Elements have the kernel's
// esize and stand in the kernel's order of bytes.
type array struct {
	mem   []byte // whole mapping; nil until something is put in it
	esize int
	room  int // elements that fit
	n     int // elements in use
}

// at returns the bytes of element i, which may be behind those in use.
func (a *array) at(i int) []byte { return a.mem[i*a.esize:][:a.esize:a.esize] }

// pointer returns what to hand to the kernel: nil for no room.
func (a *array) pointer() unsafe.Pointer {
	return unsafe.Pointer(unsafe.SliceData(a.mem))
}

// grow makes room for n elements at least, and keeps those in use.
func (a *array) grow(n int) error {
	if n <= a.room && a.mem != nil {
		return nil
	}
	// The kernel counts in int32, and the mapping's length is an int.
	if n < 0 || n > math.MaxInt32 || n > (math.MaxInt-1<<16)/a.esize {
		return fmt.Errorf("array of %d elements of %d bytes: too large", n, a.esize)
	}
	mem, err := mapMemory(max(n, 1) * a.esize)
	if err != nil {
		return fmt.Errorf("array of %d elements of %d bytes: %w", n, a.esize, err)
	}
	old := a.mem
	copy(mem, old[:a.n*a.esize])
	a.mem, a.room = mem, max(n, 1)
	if old != nil {
		return unmapMemory(old)
	}
	return nil
}

// double makes room for one element more.
func (a *array) double() error {
	if a.n == math.MaxInt32 {
		return fmt.Errorf("array of more than %d elements: too large", a.n)
	}
	return a.grow(max(a.n+1, min(2*a.room, math.MaxInt32), 1024))
}

func (a *array) close() error {
	mem := a.mem
	a.mem, a.room, a.n = nil, 0, 0
	if mem == nil {
		return nil
	}
	return unmapMemory(mem)
}
