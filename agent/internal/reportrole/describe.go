package reportrole

import (
	"sync"
	"time"

	"example.org/threatstopd/agent/internal/report"
	"example.org/threatstopd/agent/internal/report/spool"
	"example.org/threatstopd/agent/internal/status"
)

// topShown is how many addresses, ports and lists a status names.
const topShown = 5

// describe fills in what the role knows.
func (r *role) describe(s *status.Status) {
	s.Hits.Mode, s.Hits.Interface = r.setup.Mode, r.setup.Interface
	if r.setup.Reporting == nil {
		return
	}
	s.Uploads.Server, s.Uploads.SpoolDir, s.Uploads.DiskMax = r.setup.LogServer, r.setup.Reporting.SpoolDir, r.setup.Reporting.SpoolMax
	reporter, why := r.reading()
	if reporter == nil {
		s.Hits.Error = why
		return
	}
	s.Hits.Capturing = true
	r.describeHits(s, reporter.Stats())
}

func (r *role) describeHits(s *status.Status, x report.Stats) {
	s.Hits.Seen, s.Hits.Matched = x.Live.Seen+x.Files.Seen, x.Live.Hits+x.Files.Hits
	for _, l := range x.Lists {
		s.Hits.Lists = append(s.Hits.Lists, status.ListHits(l))
	}
	s.Hits.Drops = r.drops.update(time.Now(), x)
	r.history.Report(topShown, &s.Hits)
	s.Hits.CatchUp = x.CatchUp

	volume := func(c spool.Count) status.Volume { return status.Volume(c) }
	u := &s.Uploads
	u.Delivered, u.InMemory, u.Spool = volume(x.Delivered), x.InMemory, volume(x.Spool.Pending)
	u.DiskUsed, u.Aside = x.Spool.DiskBytes+x.Aside.DiskBytes, volume(x.Aside.Pending)
	u.Tried, u.Error, u.Failures = x.LastAttempt, x.LastError, x.Failures
	u.Next = x.NextAttempt
	if !x.LastDelivered.IsZero() {
		u.Last = &status.Upload{At: x.LastDelivered}
	}
	if x.LastError != "" {
		u.FailingSince = r.drops.failingSince()
	}
}

// drops remembers when each reason for losing something was last seen to grow.
type drops struct {
	mu      sync.Mutex
	count   map[string]int64
	last    map[string]time.Time
	failing time.Time
}

// update returns the drops of r.
func (d *drops) update(now time.Time, r report.Stats) []status.Drop {
	d.look(now, r)
	var all []status.Drop
	for _, x := range counted(r) {
		if x.count > 0 {
			all = append(all, status.Drop{Reason: x.reason, Count: x.count, Last: d.grew(x.reason)})
		}
	}
	return all
}

type reasonCount struct {
	reason string
	count  int64
}

func counted(r report.Stats) []reasonCount {
	return []reasonCount{
		{status.DropKernel, int64(r.Kernel.Dropped)},
		{status.DropMalformed, r.MalformedReads},
		{status.DropUndecoded, r.Live.Undecoded + r.Files.Undecoded},
		{status.DropNoPolicy, r.NoPolicy},
		{status.DropMemory, r.Lost.Memory},
		{status.DropUnsaved, r.Lost.Unsaved},
		{status.DropSpoolFull, r.Lost.SpoolFull},
		{status.DropSpoolAge, r.Lost.SpoolAge},
		{status.DropSpoolDamage, r.Lost.SpoolDamage},
		{status.DropRefused, r.Lost.Refused},
	}
}

// look notes which counts have grown since it was last called.
func (d *drops) look(now time.Time, r report.Stats) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.count == nil {
		d.count, d.last = make(map[string]int64), make(map[string]time.Time)
	}
	for _, x := range counted(r) {
		if x.count > d.count[x.reason] {
			d.last[x.reason] = now
		}
		d.count[x.reason] = x.count
	}
	switch {
	case r.LastError == "":
		d.failing = time.Time{}
	case d.failing.IsZero():
		d.failing = r.LastAttempt
	}
}

func (d *drops) grew(reason string) time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.last[reason]
}

func (d *drops) failingSince() time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.failing
}
