//go:build race

package privsep

import (
	"os"
	"runtime"
	"syscall"
)

const raceEnabled = true

// exit ends a role. The race detector has a process sleep for a second before it ends,
// which tests that have roles come and go would pay a hundred times. One that has found
// a race still ends with the code for that.
func exit(code int) {
	if runtime.RaceErrors() > 0 {
		os.Exit(code)
	}
	syscall.Exit(code)
}
