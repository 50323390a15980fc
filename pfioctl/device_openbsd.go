package pfioctl

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

type device struct{ fd int }

// OpenDevice opens /dev/pf for reading and writing, which needs root. The
// descriptor keeps its right after the process has given up root: pf looks at
// the descriptor's mode and never at the user.
func OpenDevice() (Device, error) {
	// Not os.OpenFile: it would try the poller and set the non-blocking mode,
	// and /dev/pf knows neither.
	fd, err := unix.Open("/dev/pf", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/pf: %w", err)
	}
	return &device{fd}, nil
}

func (d *device) Ioctl(req uint, arg unsafe.Pointer) error {
	// x/sys does not export ioctl with a pointer of any type; of the typed
	// calls it does export this one takes the request's number, reaches
	// libc's ioctl, and keeps the argument a pointer to the last frame. There
	// is no Winsize in it.
	return unix.IoctlSetWinsize(d.fd, req, (*unix.Winsize)(arg))
}

func (d *device) Close() error { return unix.Close(d.fd) }

func osRelease() (string, error) { return unix.Sysctl("kern.osrelease") }
