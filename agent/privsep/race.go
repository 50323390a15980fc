//go:build race

package privsep

const raceEnabled = true
