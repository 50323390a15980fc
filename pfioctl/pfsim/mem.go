package pfsim

import (
	"runtime"
	"runtime/debug"
	"unsafe"
)

// The caller's memory is reached only through copyin and copyout, as in the
// kernel: what lies behind a pointer may not be there, and that is EFAULT and
// not the end of the process. An element is copied whole or not at all.
//
// Neither is instrumented by checkptr: a request may name more memory than one
// Go object has, the kernel would read on, and so does this.

// copyin copies elements of esize bytes from the array at base, beginning with
// number first, into dst until dst is full, and returns how many could be read.
//
//go:nocheckptr
func copyin(dst []byte, base unsafe.Pointer, first, esize int) (got int) {
	if base == nil {
		return 0
	}
	defer endFault(debug.SetPanicOnFault(true))
	for n := len(dst) / esize; got < n; got++ {
		at := unsafe.Add(base, (first+got)*esize)
		copy(dst[got*esize:], unsafe.Slice((*byte)(at), esize))
	}
	return got
}

// copyout is copyin the other way: it returns how many elements of src were
// written.
//
//go:nocheckptr
func copyout(base unsafe.Pointer, first int, src []byte, esize int) (put int) {
	if base == nil {
		return 0
	}
	defer endFault(debug.SetPanicOnFault(true))
	for n := len(src) / esize; put < n; put++ {
		at := unsafe.Add(base, (first+put)*esize)
		copy(unsafe.Slice((*byte)(at), esize), src[put*esize:(put+1)*esize])
	}
	return put
}

// endFault ends a copy: nothing but the copying itself runs between
// SetPanicOnFault and here, so a runtime error is a fault of the caller's
// memory.
func endFault(old bool) {
	debug.SetPanicOnFault(old)
	if e := recover(); e != nil {
		if _, ok := e.(runtime.Error); !ok {
			panic(e)
		}
	}
}

// bytesOf is the memory of v, which has no pointer that matters to the
// garbage collector beyond this call.
func bytesOf[T any](v *T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v))
}
