// Package policy decides what may be enforced.
//
// A list says of an address whether it is listed: its longest matching entry
// decides, and a negated entry says no. An address is blocked exactly when
// some block list lists it and no allow list and no exception covers it.
// Exceptions are whole networks; they swallow more specific entries.
//
// A [Builder] takes the entries of all lists and the exceptions and makes a
// [Policy]: two tables for pf, each a [Set] of entries and negated entries
// whose longest-prefix match, as pf_table.c's radix look-up does it, says
// just that of every address, and a [Report] of what did not get into them
// and why. Listed entries come out as they were listed, because owners look
// for them in the table; on request the smallest equivalent table comes out
// instead.
//
// A [Guard] says whether a table may replace the one in force, and an [Index]
// finds the entry that decides for an address. [Exceptions] turns what is
// known of the host into exceptions.
//
// The package does no input or output and knows neither pf nor DNS. Nothing
// in it may be used by several goroutines at once while it is built; a Set,
// an Index and a Policy never change and may be shared freely.
package policy
