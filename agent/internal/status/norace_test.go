//go:build !race

package status

// raceEnabled tells that the tests run under the race detector.
const raceEnabled = false
