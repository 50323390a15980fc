package capture

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

type host struct{}

func openSystem() (system, error) { return host{}, nil }

func (host) openBPF() (device, error) {
	// Not os.OpenFile: it would set the non-blocking mode, in which an empty
	// buffer reads as 0 bytes, and try the poller, which bpf(4) refuses.
	fd, err := unix.Open("/dev/bpf", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return bpfDevice(fd), nil
}

func (host) maxBufferSize() (int, error) {
	n, err := unix.SysctlUint32("net.bpf.maxbufsize")
	return int(min(n, MaxBufferSize)), err
}

func (host) interfaceIoctl(req uint, arg unsafe.Pointer) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return bpfDevice(fd).ioctl(req, arg)
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
