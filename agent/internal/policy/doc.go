// Package policy decides what is blocked.
//
// In a list the longest entry that covers an address decides whether the address is listed; a negated
// entry means that it is not. An address is blocked if and only if at least one block list lists it and
// no allow list or exception covers it. Exceptions are whole networks.
//
// [Build] makes a [Policy] of all lists and exceptions: two tables for pf, each a [Set] of entries and
// negated entries whose longest-prefix match, as in pf_table.c, gives this verdict for every address, and
// a [Report] of what is not in them and why. Listed entries are in the table as they were listed, because
// owners look for them there; on request the smallest equivalent table is made instead.
//
// A [Guard] decides whether a table may replace the one in force. [Set.Lookup] finds the entry that
// decides for an address, and [Explain] what each list has to do with it. [Exceptions] derives
// exceptions from what is known of the host.
//
// The package does no input or output and knows neither pf nor DNS. A Set and a Policy never change and may be shared between goroutines.
package policy
