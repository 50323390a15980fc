//go:build !openbsd

package capture

import (
	"errors"
	"fmt"
	"runtime"
)

func openBPF() (device, error) {
	return nil, fmt.Errorf("%s: %w", runtime.GOOS, errors.ErrUnsupported)
}

var openSocket = openBPF
