package reportrole

import (
	"sync"
	"time"

	"example.org/threatstopd/agent/control"
	"example.org/threatstopd/agent/report"
	"example.org/threatstopd/agent/report/spool"
)

// topShown is how many addresses, ports and lists a status names.
const topShown = 5

// describe fills in what the role knows.
func (r *role) describe(s *control.Status) {
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

func (r *role) describeHits(s *control.Status, x report.Stats) {
	s.Hits.Seen, s.Hits.Matched = x.Live.Seen+x.Files.Seen, x.Live.Hits+x.Files.Hits
	for _, l := range x.Lists {
		s.Hits.Lists = append(s.Hits.Lists, control.ListHits(l))
	}
	s.Hits.Drops = r.drops.update(time.Now(), x)
	r.history.Report(topShown, &s.Hits)
	s.Hits.CatchUp = x.CatchUp

	volume := func(c spool.Count) control.Volume { return control.Volume(c) }
	u := &s.Uploads
	u.Delivered, u.InMemory, u.Spool = volume(x.Delivered), x.InMemory, volume(x.Spool.Pending)
	u.DiskUsed, u.Aside = x.Spool.DiskBytes+x.Aside.DiskBytes, volume(x.Aside.Pending)
	u.Tried, u.Error, u.Failures = x.LastAttempt, x.LastError, x.Failures
	u.Next = x.NextAttempt
	if !x.LastDelivered.IsZero() {
		u.Last = &control.Upload{At: x.LastDelivered}
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
func (d *drops) update(now time.Time, r report.Stats) []control.Drop {
	d.look(now, r)
	var all []control.Drop
	for _, x := range counted(r) {
		if x.count > 0 {
			all = append(all, control.Drop{Reason: x.reason, Count: x.count, Last: d.grew(x.reason)})
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
		{control.DropKernel, int64(r.Kernel.Dropped)},
		{control.DropMalformed, r.MalformedReads},
		{control.DropUndecoded, r.Live.Undecoded + r.Files.Undecoded},
		{control.DropNoPolicy, r.NoPolicy},
		{control.DropMemory, r.Lost.Memory},
		{control.DropUnsaved, r.Lost.Unsaved},
		{control.DropSpoolFull, r.Lost.SpoolFull},
		{control.DropSpoolAge, r.Lost.SpoolAge},
		{control.DropSpoolDamage, r.Lost.SpoolDamage},
		{control.DropRefused, r.Lost.Refused},
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
