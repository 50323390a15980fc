// Package daemon is threatstopd's life in the background: it fetches the
// policy again and again, watches that pf still enforces it, and reports what
// it blocks.
//
// A life goes from one configuration to the next: SIGHUP reads it again, and a
// good one ends the life and begins another with it, while a bad one is told
// and changes nothing. What is in force in pf is never flushed, neither between
// two lives nor at the end.
package daemon
