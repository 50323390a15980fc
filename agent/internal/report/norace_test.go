//go:build !race

package report

// raceEnabled tells that the tests run under the race detector.
const raceEnabled = false
