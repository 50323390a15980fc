//go:build race

package report

// raceEnabled reports whether the tests run under the race detector, which makes everything
// several times as slow: what is only large or random is less then.
const raceEnabled = true
