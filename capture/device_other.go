//go:build !openbsd

package capture

import (
	"errors"
	"fmt"
	"runtime"
)

func openSystem() (system, error) {
	return nil, fmt.Errorf("/dev/bpf with pflog: %s: %w", runtime.GOOS, errors.ErrUnsupported)
}
