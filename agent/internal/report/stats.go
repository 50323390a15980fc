package report

import (
	"sync"
	"time"

	"example.org/threatstopd/agent/internal/report/spool"
	"example.org/threatstopd/capture"
)

// ListHits are the hits on one list; a packet whose two addresses are listed counts
// twice.
type ListHits struct {
	List string
	Hits int64
}

// Lost are lines that will not be delivered, by reason.
type Lost struct {
	// Memory: all batches in memory were full.
	Memory int64
	// SpoolFull: dropped from the spool, oldest first, to make room.
	SpoolFull int64
	// SpoolAge: older than the spool keeps them.
	SpoolAge int64
	// SpoolDamage: not readable any more.
	SpoolDamage int64
	// Unsaved: still in memory at the end, and the disk did not take them.
	Unsaved int64
	// Refused: refused by the server, and there was no room to set them aside.
	Refused int64
}

// Total returns the sum.
func (l Lost) Total() int64 {
	return l.Memory + l.SpoolFull + l.SpoolAge + l.SpoolDamage + l.Unsaved + l.Refused
}

// Packets are the figures of a run of packets.
type Packets struct {
	// Seen are all that came, Hits those with a listed address, Reported those
	// for which a line was wanted: hits, or all.
	Seen, Hits, Reported int64
	// Undecoded are those seen that are no whole packet.
	Undecoded int64
}

// Stats are a reporter's figures since New. These add up at rest:
//
//	Live.Reported + Files.Reported + Inherited.Lines =
//	    Delivered.Lines + Refused.Lines + Spool.Pending.Lines + InMemory + Lost.Total()
type Stats struct {
	Live Packets
	// Files are those read from pflogd's files.
	Files Packets
	// NoPolicy are live packets that came before the first policy.
	NoPolicy int64
	// MalformedReads are reads from the kernel that did not parse to the end.
	MalformedReads int64
	// Kernel are the capture's own counters. Kernel.Dropped were seen by nobody
	// but, perhaps, pflogd.
	Kernel capture.Stats
	Lists  []ListHits

	// InMemory are the lines that are not on disk yet.
	InMemory int64
	// Inherited is what an earlier process left in the spool.
	Inherited spool.Count
	Spool     spool.Stats
	// Aside is the spool of what the server refused, of this and earlier
	// processes.
	Aside spool.Stats
	// SpoolErrors and WatermarkErrors count what the disk would not do.
	SpoolErrors, WatermarkErrors int64

	Lost Lost

	// Attempts are all attempts to deliver a batch, Failures those that are or
	// will be repeated.
	Attempts, Failures int64
	// Delivered and Refused are the batches that had their answer.
	Delivered, Refused spool.Count
	// LastDelivered is when the server last took a batch, LastAttempt when it
	// was last tried; NextAttempt is when it will be tried again after a
	// failure. Zero: not yet, or none.
	LastDelivered, LastAttempt, NextAttempt time.Time
	// LastError is what the last attempt failed with, "" if it did not.
	LastError string

	// Watermark is the time up to which nothing need be read again, zero when
	// nothing has been seen; Gaps how many stretches before it still must.
	Watermark time.Time
	Gaps      int
	// CatchUp says in a few words what catching up is at.
	CatchUp string
	// Policy is when the policy in force was given, zero for none.
	Policy time.Time
}

// uploadStats are the books of the sender.
type uploadStats struct {
	mu                 sync.Mutex
	attempts, failures int64
	done, refused      spool.Count
	lastDone, lastTry  time.Time
	next               time.Time
	lastErr            string

	row        int64     // failures in a row
	rowSince   time.Time // and when they began
	refusedRow bool      // refusals have been told since the last delivery
}

func (u *uploadStats) delivered(now time.Time, c spool.Count) (since time.Time, row int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	since, row = u.rowSince, u.row
	u.attempts++
	u.lastDone, u.lastTry, u.lastErr = now, now, ""
	u.row, u.refusedRow = 0, false
	add(&u.done, c)
	return since, row
}

// failed returns whether the failure is the first in a row.
func (u *uploadStats) failed(now time.Time, err error) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.attempts++
	u.lastTry, u.lastErr = now, err.Error()
	if refused(err) {
		return false
	}
	u.failures++
	if u.row++; u.row == 1 {
		u.rowSince = now
	}
	return u.row == 1
}

func (u *uploadStats) interrupted() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.attempts++
	u.failures++
}

// setAside returns whether it is the first since a delivery.
func (u *uploadStats) setAside(c spool.Count, kept bool) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if kept {
		add(&u.refused, c)
	}
	first := !u.refusedRow
	u.refusedRow = true
	return first
}

func (u *uploadStats) nextAt(t time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.next = t
}

func add(c *spool.Count, o spool.Count) {
	c.Batches += o.Batches
	c.Lines += o.Lines
	c.Bytes += o.Bytes
}

// catchUpStats says what catching up is at.
type catchUpStats struct {
	mu    sync.Mutex
	state string
}

func (c *catchUpStats) set(s string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state = s
}

func (c *laneCounters) packets() Packets {
	return Packets{Seen: c.Seen.Load(), Hits: c.Hits.Load(), Reported: c.Wanted.Load(), Undecoded: c.Undecoded.Load()}
}

// Stats returns the figures. It may be called at any time and waits for nothing.
func (r *Reporter) Stats() Stats {
	kernel, _ := r.o.Source.Stats() // after an error, the last known
	s := Stats{
		Live: r.liveCount.packets(), Files: r.gapCount.packets(),
		NoPolicy: r.noPolicy.Load(), MalformedReads: int64(kernel.Malformed),
		Kernel: kernel, Lists: r.hits.snapshot(),
		InMemory: max(0, r.inMemory.Load()), Inherited: r.inherited,
		Spool: r.spool.Stats(), Aside: r.aside.Stats(),
		SpoolErrors: r.spoolErrors.Load(), WatermarkErrors: r.watermarkErrors.Load(),
	}
	s.Lost = Lost{
		Memory: r.liveCount.Lost.Load() + r.gapCount.Lost.Load(), Unsaved: r.lostSpool.Load(), Refused: r.lostAside.Load(),
		SpoolFull: s.Spool.LostFull.Lines, SpoolAge: s.Spool.LostAge.Lines, SpoolDamage: s.Spool.LostDamage.Lines,
	}
	r.up.mu.Lock()
	s.Attempts, s.Failures = r.up.attempts, r.up.failures
	s.Delivered, s.Refused = r.up.done, r.up.refused
	s.LastDelivered, s.LastAttempt, s.NextAttempt, s.LastError = r.up.lastDone, r.up.lastTry, r.up.next, r.up.lastErr
	r.up.mu.Unlock()
	r.catchUp.mu.Lock()
	s.CatchUp = r.catchUp.state
	r.catchUp.mu.Unlock()
	r.wmMu.Lock()
	if !r.wm.done.zero() {
		s.Watermark = r.wm.done.time()
	}
	s.Gaps = len(r.wm.gaps)
	r.wmMu.Unlock()
	if m := r.matcher.Load(); m != nil {
		s.Policy = m.since
	}
	return s
}
