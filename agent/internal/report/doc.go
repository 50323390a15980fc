// Package report turns what pf logs into reports: it matches packets against the
// policy in force, keeps the lines of those that are hits in batches, and delivers
// each batch to the log server at least once.
//
//	pflog0 ──▶ match ──▶ batch in memory ──▶ spool on disk ──▶ log server
//	pflogd's files ─▶┘
//
// The path of a packet waits for nothing: when the few batches in memory are full, hits are counted as
// lost and packets are still read. Batches are closed after Interval, when they are full, on
// [Reporter.Flush] and at the end, and go to the spool, fsynced, before they go to the server; so a batch
// keeps one id, and a server that sees an id twice knows that it has the batch already.
//
// # What survives
//
// Each batch file has the watermark: the place in the run of logged packets up to which nothing need be
// read again. After a crash the next process reads what pflogd has logged behind the watermark and before
// its own first packet. So a hit that pflogd has written to its file, or that is in the spool, is delivered
// at least once; twice is delivered at most the one batch whose acknowledgement was lost, under the same id.
// Places are found in pflogd's files by the packet that stands there ([mark]), and by time only where it
// does not: a clock that was set does not make hits vanish or come twice.
//
// # The role
//
// Reporting is a process of its own, the role `report`, which also answers at the daemon's sockets. Started
// as root, it opens at once what only root can: the pflog interface, pflogd's files, once pflogd has written
// out what it holds, and the CA file. Then it gives up root and its view of the file system, reports that it
// is ready, and works: [Body]. What it cannot open it reports, and serves the sockets all the same; main
// starts it again to try once more.
//
// The role parses what strangers send: logged packets, a log server's answers, requests at the sockets. So
// main's end, [Client], takes little from it and checks that: troubles, and requests to fetch the policy now.
package report
