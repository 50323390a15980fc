//go:build !race

package policy

// RaceEnabled tells that the tests run under the race detector.
const RaceEnabled = false
