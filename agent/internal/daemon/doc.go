// Package daemon is threatstopd's main process in the background: it has the policy
// fetched again and again, enforces it, watches that pf still does, and has what it blocked
// reported. Fetching and reporting are processes of their own (packages fetchrole and
// reportrole), and so is the removal of states (statesrole), where that is wanted; this
// one deals with pf and the persist files, keeps the others running, and believes them no
// more than it must.
//
// Before it starts them it opens what it needs and gives up the rest: from then on it
// makes only requests of pf that the promise "pf" allows, and opens no files but the
// configuration, resolv.conf and the persist files.
//
// A life goes from one configuration to the next: SIGHUP reads it again, and a
// good one ends the life and begins another with it, while a bad one is told
// and changes nothing. What a process cannot change any more, such as paths, is taken over
// by executing the program again ([ErrAgain]). What is in force in pf is never flushed,
// neither between two lives nor at the end.
package daemon
