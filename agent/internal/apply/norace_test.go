//go:build !race

package apply

// raceEnabled tells that the tests run under the race detector.
const raceEnabled = false
