//go:build !race

package policy

// RaceEnabled is set if the tests run under the race detector.
const RaceEnabled = false
