//go:build openbsd || freebsd || netbsd || dragonfly || darwin

package cli

import (
	"os"
	"syscall"
)

// statusSignals ask the daemon for a status line; SIGINFO is what ^T sends.
var statusSignals = []os.Signal{syscall.SIGUSR1, syscall.SIGINFO}
