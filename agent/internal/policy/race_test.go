//go:build race

package policy

// RaceEnabled is set if the tests run under the race detector, which makes what reads
// much memory ten times as slow: of random cases fewer are tried then.
const RaceEnabled = true
