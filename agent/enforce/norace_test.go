//go:build !race

package enforce

// raceEnabled tells that the tests run under the race detector.
const raceEnabled = false
