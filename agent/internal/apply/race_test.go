//go:build race

package apply

// raceEnabled is set if the tests run under the race detector, which makes everything
// several times as slow: what is only large or random is less then.
const raceEnabled = true
