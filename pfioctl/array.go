package pfioctl

import (
	"errors"
	"fmt"
	"math"
	"unsafe"
)

// array is memory for the elements of a request, outside of the heap that the
// garbage collector sees: a table of a million entries is 52 MB, which in the
// heap would count double at the next collection. Elements have the kernel's
// esize and stand in the kernel's order of bytes.
type array struct {
	mem    []byte // whole mapping; nil until something is put in it
	esize  int
	room   int // elements that fit
	n      int // elements in use
	closed bool
}

var errClosed = errors.New("array is closed")

// at returns the bytes of element i, which may be behind those in use.
func (a *array) at(i int) []byte { return a.mem[i*a.esize:][:a.esize:a.esize] }

// pointer returns what to hand to the kernel: nil for no room.
func (a *array) pointer() unsafe.Pointer {
	return unsafe.Pointer(unsafe.SliceData(a.mem))
}

// grow makes room for n elements at least, and keeps those in use.
func (a *array) grow(n int) error {
	switch {
	case a.closed:
		return errClosed
	case n < 0 || n > math.MaxInt32 || n > (math.MaxInt-1<<16)/a.esize:
		// The kernel counts in int32, and the mapping's length is an int.
		return fmt.Errorf("array of %d elements of %d bytes: too large", n, a.esize)
	case n <= a.room:
		return nil
	}
	mem, err := mapMemory(n * a.esize)
	if err != nil {
		return fmt.Errorf("array of %d elements of %d bytes: %w", n, a.esize, err)
	}
	old := a.mem
	copy(mem, old[:a.n*a.esize])
	a.mem, a.room = mem, n
	return unmapMemory(old)
}

// attempts is how often a listing is asked for again because it grew between
// the kernel's two answers.
const attempts = 16

// fill asks for a list until all of it fits, with room for the given number of
// elements at first. Ask makes the request, and returns how many elements there are: if
// that is more than there is room for, the kernel wrote none or some of them.
func (a *array) fill(room int, ask func() (n int, err error)) error {
	for range attempts {
		if err := a.grow(room); err != nil {
			return err
		}
		n, err := ask()
		if err != nil {
			return err
		}
		if n <= a.room {
			a.n = n
			return nil
		}
		room = n + n/64 + 16 // a little more, for what is added meanwhile
	}
	return errChanging
}

// close frees the memory; the array then has no room, and gets none.
func (a *array) close() error {
	mem := a.mem
	*a = array{esize: a.esize, closed: true}
	return unmapMemory(mem)
}
