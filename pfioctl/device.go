package pfioctl

import "unsafe"

// Device is an open /dev/pf, or something that answers as one.
//
// Ioctl carries out the request req on the struct that arg points to and
// returns nil or an error, a syscall.Errno where the kernel gave one. As in
// the kernel the struct is written back only when the result is nil, while
// arrays that it points to are read and written in place.
type Device interface {
	Ioctl(req uint, arg unsafe.Pointer) error
	Close() error
}
