package capture

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// openBPF opens /dev/bpf for reading. It does not use os.OpenFile, which would set the
// non-blocking mode, in which an empty buffer reads as 0 bytes, and try the poller, which
// bpf(4) refuses.
func openBPF() (device, error) {
	fd, err := unix.Open("/dev/bpf", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	return bpfDevice(fd), err
}

// openSocket opens a socket for requests about interfaces.
func openSocket() (device, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	return bpfDevice(fd), err
}

type bpfDevice int

func (d bpfDevice) ioctl(req uint, arg unsafe.Pointer) error {
	// x/sys does not export ioctl with a pointer of any type; of the typed
	// calls it does export this one takes the request's number, reaches
	// libc's ioctl, and keeps the argument a pointer to the last frame. There
	// is no Winsize in it.
	return unix.IoctlSetWinsize(int(d), req, (*unix.Winsize)(arg))
}

func (d bpfDevice) read(p []byte) (int, error) { return unix.Read(int(d), p) }
func (d bpfDevice) close() error               { return unix.Close(int(d)) }
