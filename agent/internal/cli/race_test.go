//go:build race

package cli

import (
	"os"
	"runtime"
	"syscall"
)

// exit ends a process that a test has started. The race detector has a process sleep for
// a second before it ends; one that has found a race still ends with the code for that.
func exit(code int) {
	if runtime.RaceErrors() > 0 {
		os.Exit(code)
	}
	syscall.Exit(code)
}
