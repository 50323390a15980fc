//go:build !(openbsd || freebsd || netbsd || dragonfly || darwin)

package cli

import (
	"os"
	"syscall"
)

var statusSignals = []os.Signal{syscall.SIGUSR1}
