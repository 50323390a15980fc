// Package spool keeps batches on disk until they are delivered: first in, first
// out, in a few append-only segment files of one private directory.
//
// A segment is a run of records, nothing else. Each record has a header with its
// kind, lengths, sequence number, batch id and time of creation, guarded by a
// CRC-32C of its own, and a body guarded by another. A record is written and
// fsynced as a whole; it is never changed. What has been delivered is said by a
// later record, and by the segment's removal once nothing in it is wanted.
//
// A reader trusts nothing: where a record does not check, it looks for the next
// header that does, counts the damage and goes on. So a torn tail after a power
// failure, or a bad block, costs the records it hit and never those behind it.
//
// The size on disk is bounded by [Options.MaxBytes]; to make room the oldest segment
// goes, and the batches that were still in it are counted as lost ([Stats]). The
// memory taken does not depend on how much is spooled.
package spool
