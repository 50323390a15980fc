//go:build !race

package apply

// raceEnabled is set if the tests run under the race detector.
const raceEnabled = false
