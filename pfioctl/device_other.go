//go:build !openbsd

package pfioctl

import (
	"errors"
	"fmt"
	"runtime"
)

// OpenDevice opens /dev/pf for reading and writing, which exists on OpenBSD
// alone: the error wraps errors.ErrUnsupported.
func OpenDevice() (Device, error) {
	return nil, fmt.Errorf("open /dev/pf: %w on %s", errors.ErrUnsupported, runtime.GOOS)
}

func osRelease() (string, error) {
	return "", fmt.Errorf("kern.osrelease: %w on %s", errors.ErrUnsupported, runtime.GOOS)
}
