package report

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"path/filepath"
	"time"

	"example.org/threatstopd/agent/internal/status"
	"example.org/threatstopd/capture"
)

// Keys of Options.Trouble.
const (
	TroubleSpool = "spool"       // the disk takes no batches
	TroubleFiles = "spool files" // strange files lie in the spool directory
	TroubleLogs  = "pflogd"      // pflogd's files cannot be read
)

// A Count says how much of something there was. Bytes are of text.
type Count struct {
	Batches int64 `json:"batches"`
	Lines   int64 `json:"lines"`
	Bytes   int64 `json:"bytes"`
}

func (c *Count) add(o Count) { c.Batches += o.Batches; c.Lines += o.Lines; c.Bytes += o.Bytes }

// counted sums batches up; their bytes are those of their files.
func counted(batches []*batch) (c Count) {
	for _, b := range batches {
		if b.name != "" {
			c.add(Count{1, int64(b.lines), b.size})
		}
	}
	return c
}

// Lost are lines that will not be delivered, by reason.
type Lost struct {
	Memory      int64 // all batches in memory were full
	SpoolFull   int64 // dropped from the spool, oldest first, to make room
	SpoolAge    int64 // older than the spool keeps them
	SpoolDamage int64 // not readable any more
	Unsaved     int64 // in memory at the end, and neither disk nor server took them
	Refused     int64 // refused by the server, and there was no room to set them aside
}

// Total returns the sum.
func (l Lost) Total() int64 {
	return l.Memory + l.SpoolFull + l.SpoolAge + l.SpoolDamage + l.Unsaved + l.Refused
}

// Packets are the figures of a run of packets: Seen are all that came, Hits those with a
// listed address, Reported those for which a line was wanted, Undecoded those that are no
// whole packet.
type Packets struct{ Seen, Hits, Reported, Undecoded int64 }

func (l *lane) packets() Packets {
	return Packets{Seen: l.seen.Load(), Hits: l.hits.Load(), Reported: l.wanted.Load(), Undecoded: l.undecoded.Load()}
}

// A SpoolCount is what a directory of batches has.
type SpoolCount struct {
	Pending   Count
	DiskBytes int64
}

// Stats are a reporter's figures since New. These add up at rest, in lines:
//
//	Live.Reported + Files.Reported + Inherited =
//	    Delivered + Spool.Pending + Aside.Pending + InMemory + Lost.Total()
type Stats struct {
	Live, Files Packets // Files are those read from pflogd's files
	// NoPolicy are live packets that came before the first policy.
	NoPolicy int64
	// Kernel are the capture's own counters. Kernel.Dropped were seen by nobody but,
	// perhaps, pflogd.
	Kernel capture.Stats

	InMemory  int64 // lines that are not on disk yet
	Inherited Count // what an earlier process left, waiting or set aside
	// Spool is what waits on disk, Aside what the server refused; of earlier processes too.
	Spool, Aside SpoolCount
	AsideError   string // the answer to the last batch that was set aside
	// SpoolErrors and WatermarkErrors count what the disk would not do; SpoolError is why
	// it takes no batch now.
	SpoolErrors, WatermarkErrors int64
	SpoolError                   string
	Lost                         Lost

	// Attempts are all attempts to deliver a batch, Failures those that are repeated.
	Attempts, Failures int64
	// Delivered and Refused are the batches that had their answer.
	Delivered, Refused Count
	// LastDelivered is when the server last took a batch, of LastLines lines; LastAttempt
	// when it was last tried; FailingSince the first failure since; NextAttempt when it
	// will be tried again after a failure. Zero: not yet, or none.
	LastDelivered, LastAttempt, FailingSince, NextAttempt time.Time
	LastLines                                             int
	// LastError is what the last attempt failed with, nil if it did not.
	LastError error

	// Watermark is the time up to which nothing need be read again, zero when nothing has
	// been seen; Gaps how many stretches before it still must.
	Watermark time.Time
	Gaps      int
	// CatchUp says in a few words how far catching up has come.
	CatchUp string
	// Policy is when the policy in force was given, zero for none.
	Policy time.Time
}

// kernelStats returns the kernel's counters, the last ones known when it does not say.
func (r *Reporter) kernelStats() capture.Stats {
	s, err := r.o.Source.Stats()
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		r.stats.Kernel = s
	}
	return r.stats.Kernel
}

func (r *Reporter) setCatchUp(s string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stats.CatchUp = s
}

// Stats returns the figures. It may be called at any time and waits for nothing.
func (r *Reporter) Stats() Stats {
	r.kernelStats()
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.stats
	s.Live, s.Files = r.liveLane.packets(), r.gapLane.packets()
	s.NoPolicy = r.liveLane.noPolicy.Load()
	s.InMemory = r.inMemory + r.liveLane.lines.Load() + r.gapLane.lines.Load()
	s.Lost.Memory = r.liveLane.lost.Load() + r.gapLane.lost.Load()
	s.Spool.Pending, s.Aside.Pending = counted(r.queue), counted(r.aside)
	s.Spool.DiskBytes, s.Aside.DiskBytes = s.Spool.Pending.Bytes, s.Aside.Pending.Bytes
	if r.diskErr != nil {
		s.SpoolError = r.diskErr.Error()
	}
	if s.LastError != nil && r.failing.row > 0 {
		s.FailingSince = r.failing.since
	}
	if !r.wm.Done.zero() {
		s.Watermark = r.wm.Done.time()
	}
	s.Gaps = len(r.wm.Gaps)
	if m := r.matcher.Load(); m != nil {
		s.Policy = m.since
	}
	return s
}

// Totals are the counters that outlive the process, in a file of the spool directory.
type totals struct {
	Since     time.Time              `json:"since"`
	Seen      int64                  `json:"seen"`
	Matched   int64                  `json:"matched"`
	Delivered Count                  `json:"delivered"`
	Failures  int64                  `json:"failures"`
	Last      time.Time              `json:"last,omitzero"` // delivery
	LastLines int                    `json:"last_lines"`
	Drops     map[string]status.Drop `json:"drops"` // by reason
	History   json.RawMessage        `json:"history,omitempty"`
}

// grown is a counter, and when it was last seen to grow.
type grown struct {
	count int64
	at    time.Time
}

const (
	countersFile = "counters.json"
	maxCounters  = 4 << 20
)

// loadCounters takes up what earlier processes counted; when that is not there or not
// readable, counting begins now.
func (r *Reporter) loadCounters() {
	r.base.Since = r.started
	path := filepath.Join(r.o.SpoolDir, countersFile)
	f, err := openOwn(path)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var t totals
	if err == nil {
		defer f.Close()
		var b []byte
		if b, err = io.ReadAll(io.LimitReader(f, maxCounters)); err == nil {
			err = json.Unmarshal(b, &t)
		}
	}
	if err == nil {
		err = r.history.restore(t.History)
	}
	if err != nil {
		r.o.Log.Warn().Str("file", path).Err(cause(err)).Msg("counters not readable: counting from now on")
		return
	}
	t.History = nil
	r.base = t
}

// saveCounters writes them. They need not survive a power failure.
func (r *Reporter) saveCounters() {
	t, _ := r.totals()
	b, err := json.Marshal(r.history.save())
	if err == nil {
		t.History = b
		b, err = json.Marshal(t)
	}
	if err == nil {
		err = r.dir.replace(countersFile, false, append(b, '\n'))
	}
	if err != nil {
		r.o.Log.Debug().Err(err).Msg("counters not saved")
	}
}

// totals returns what was counted since totals.Since, and the figures of this process.
func (r *Reporter) totals() (totals, Stats) {
	s := r.Stats()
	t := r.base
	t.Seen += s.Live.Seen + s.Files.Seen
	t.Matched += s.Live.Hits + s.Files.Hits
	t.Delivered.add(s.Delivered)
	t.Failures += s.Failures
	if !s.LastDelivered.IsZero() {
		t.Last, t.LastLines = s.LastDelivered, s.LastLines
	}
	t.Drops = make(map[string]status.Drop)
	r.mu.Lock()
	defer r.mu.Unlock()
	for reason, n := range map[string]int64{
		status.DropKernel:      int64(s.Kernel.Dropped),
		status.DropMalformed:   int64(s.Kernel.Malformed),
		status.DropUndecoded:   s.Live.Undecoded + s.Files.Undecoded,
		status.DropNoPolicy:    s.NoPolicy,
		status.DropMemory:      s.Lost.Memory,
		status.DropUnsaved:     s.Lost.Unsaved,
		status.DropSpoolFull:   s.Lost.SpoolFull,
		status.DropSpoolAge:    s.Lost.SpoolAge,
		status.DropSpoolDamage: s.Lost.SpoolDamage,
		status.DropRefused:     s.Lost.Refused,
	} {
		if n > r.grown[reason].count {
			r.grown[reason] = grown{n, r.o.Now()}
		}
		d := r.base.Drops[reason]
		d.Reason, d.Count = reason, d.Count+n
		if at := r.grown[reason].at; !at.IsZero() {
			d.Last = at
		}
		t.Drops[reason] = d
	}
	return t, s
}

// dropOrder is the order in which reasons for losing something are shown: that of the way.
var dropOrder = []string{
	status.DropKernel, status.DropMalformed, status.DropUndecoded, status.DropNoPolicy, status.DropMemory,
	status.DropUnsaved, status.DropSpoolFull, status.DropSpoolAge, status.DropSpoolDamage, status.DropRefused,
}

// topShown is how many addresses, ports and lists a status names.
const topShown = 5

// Describe fills in what the reporter knows of hits and uploads.
func (r *Reporter) Describe(h *status.Hits, u *status.Uploads) {
	t, s := r.totals()
	h.Capturing, h.Since = true, t.Since
	h.Seen, h.Matched, h.CatchUp = t.Seen, t.Matched, s.CatchUp
	for _, reason := range dropOrder {
		if d := t.Drops[reason]; d.Count > 0 {
			h.Drops = append(h.Drops, d)
		}
	}
	r.history.report(topShown, h)

	u.Delivered, u.InMemory, u.Spool, u.Aside = status.Volume(t.Delivered), s.InMemory, status.Volume(s.Spool.Pending), status.Volume(s.Aside.Pending)
	u.DiskUsed = s.Spool.DiskBytes + s.Aside.DiskBytes
	u.Tried, u.Failures, u.Next, u.FailingSince = s.LastAttempt, t.Failures, s.NextAttempt, s.FailingSince
	if !t.Last.IsZero() {
		u.Last = &status.Upload{At: t.Last, Lines: int64(t.LastLines)}
	}
	u.SpoolError, u.AsideError = s.SpoolError, s.AsideError
	if s.LastError != nil {
		u.Error = s.LastError.Error()
	}
	if answer := (*UploadError)(nil); errors.As(s.LastError, &answer) {
		u.Advice = answer.Advice()
	}
}

// LogStatus logs one line about reporting.
func (r *Reporter) LogStatus() {
	s := r.Stats()
	r.o.Log.Info().Int64("seen", s.Live.Seen).Int64("hits", s.Live.Hits).Int64("delivered", s.Delivered.Lines).
		Int64("waiting", s.InMemory+s.Spool.Pending.Lines).Int64("lost", s.Lost.Total()).Msg("status of reporting")
}
