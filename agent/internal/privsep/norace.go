//go:build !race

package privsep

import "os"

const raceEnabled = false

// exit ends a role.
func exit(code int) { os.Exit(code) }
