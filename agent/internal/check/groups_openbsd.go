package check

import (
	"bytes"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ifGroupReq is struct ifgroupreq of net/if.h, with the member of its union that
// points to an array of names.
type ifGroupReq struct {
	name   [unix.IFNAMSIZ]byte
	len    uint32
	groups unsafe.Pointer
	_      [unix.IFNAMSIZ - unsafe.Sizeof(uintptr(0))]byte
}

// groups returns the groups that an interface is in (SIOCGIFGROUP).
func groups(iface string) ([]string, error) {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("groups of %s: %w", iface, err)
	}
	defer unix.Close(s)
	req := &ifGroupReq{}
	copy(req.name[:unix.IFNAMSIZ-1], iface)
	// The first answer is how long the second will be. x/sys exports no ioctl
	// but this one that takes a pointer through libc.
	ioctl := func() error {
		return unix.IoctlSetWinsize(s, unix.SIOCGIFGROUP, (*unix.Winsize)(unsafe.Pointer(req)))
	}
	if err := ioctl(); err != nil {
		return nil, fmt.Errorf("groups of %s: %w", iface, err)
	}
	n := int(req.len) / unix.IFNAMSIZ
	if n == 0 {
		return nil, nil
	}
	list := make([][unix.IFNAMSIZ]byte, n)
	req.groups = unsafe.Pointer(&list[0])
	if err := ioctl(); err != nil {
		return nil, fmt.Errorf("groups of %s: %w", iface, err)
	}
	var names []string
	for _, g := range list[:min(n, int(req.len)/unix.IFNAMSIZ)] {
		name, _, _ := bytes.Cut(g[:], []byte{0})
		names = append(names, string(name))
	}
	return names, nil
}
