// Package daemon is threatstopd's main process in the background. One goroutine, the loop of
// [Daemon.Run], owns everything that it knows: the configuration, the last copy of each list, the policy,
// the state of the tables, the troubles and the schedule. What takes time happens in other processes,
// the roles of packages fetch, report and states; what comes of it reaches the loop as an event. So pf is
// looked at every minute, regardless of the network.
//
// Before the roles start, the process opens what it needs and gives up the rest: from then on it makes
// only the requests of pf that the promise "pf" allows, and opens no files but the configuration, the
// resolver files and the table files.
//
// SIGHUP reads the configuration again. An invalid one changes nothing; another one replaces the current
// one and restarts the roles whose setup changed. Where a process cannot change any more, such as paths,
// the program is executed again ([ErrAgain]). What pf has is never flushed.
package daemon
