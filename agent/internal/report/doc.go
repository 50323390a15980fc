// Package report turns what pf logs into reports: it matches packets against the
// policy in force, keeps the lines of those that are hits in batches, and sees to it
// that each batch reaches the log server at least once.
//
//	pflog0 ──▶ match ──▶ batch in memory ──▶ spool on disk ──▶ log server
//	pflogd's files ─▶┘
//
// The path of a packet waits for nothing: neither disk nor network, nor memory. It
// writes into a few batches of fixed size; when all are full, hits are counted as lost
// and packets are still read. Batches are closed after Interval, when they are full, on
// [Reporter.Flush] and at the end, and go to the spool, fsynced, before they go
// to the server; so a batch has one id from then on, whatever happens, and a server
// that sees an id twice knows that it has the batch already.
//
// # What survives
//
// With each batch goes the watermark: the place in the run of logged packets up to
// which nothing need be read again. Both become durable in one record. After a crash
// the next process reads what pflogd has logged behind the watermark and before its
// own first packet, and matches that. So a hit that pflogd has written to its file, or
// that is in the spool, is delivered at least once; twice is delivered at most the one
// batch whose acknowledgement was lost, under the same id.
//
// Places are found in pflogd's files by the packet that stands there ([mark]), and by
// time only where it does not: a clock that was set, forwards or back, does not make
// hits vanish or come twice.
package report
