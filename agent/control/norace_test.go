//go:build !race

package control

// raceEnabled tells that the tests run under the race detector.
const raceEnabled = false
