package daemon

import (
	"time"

	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/agent/internal/sources"
	"example.org/threatstopd/agent/internal/status"
	"example.org/threatstopd/pfioctl"
)

// Status returns the status as of the last event, without hits and uploads, which the role that reports
// adds. It may be called by any goroutine once the roles have started.
func (d *Daemon) Status() status.Status { return *d.latest.Load() }

// status is what the loop knows.
func (d *Daemon) status() status.Status {
	s := status.Status{Version: d.o.Version, Config: d.o.Config,
		Started: d.started, Now: time.Now()}
	s.Processes = append([]status.Process{{Name: "main", Started: d.started}}, d.processes...)
	for _, t := range d.trouble.list() {
		s.Troubles = append(s.Troubles, status.Trouble{Text: t.Text, Since: t.Since, Last: t.Last, Count: t.Count, NeedsOwner: t.NeedsOwner})
	}
	if d.glanced {
		s.NotEnforced, s.Unsure = d.glance.NotEnforced(), d.glance.Unsure()
	} else {
		s.NotKnown = "the state of pf cannot be read"
	}
	s.Enforced = d.glanced && d.glance.Enforced() && d.glance.Block.Entries > 0
	if d.glanced && s.NotEnforced == "" && d.glance.Block.Entries <= 0 {
		s.Unsure, s.NotEnforced = "", "the block table is empty: no policy has come yet"
	}
	s.PF.Running, s.PF.Unknown = d.glance.Running || d.glance.Evaluated, !d.glance.Known && !d.glance.Evaluated
	s.PF.Notice = d.glance.Notice
	s.Poll = status.Poll{
		Running:    d.poll != nil,
		Applying:   d.applying,
		LastGood:   d.lastGood,
		Next:       d.schedule.next,
		Interval:   status.Seconds(d.setup.PollInterval),
		StaleAfter: status.Seconds(d.setup.StaleAfter),
	}
	var report policy.Report
	if d.last != nil {
		s.Poll.Last = d.last.Began.Add(d.last.Elapsed)
		s.Poll.Took = status.Seconds(d.last.Elapsed)
		s.Poll.Error = errText(d.last.Err)
	}
	if d.policy != nil {
		report = d.policy.Report
	}
	for _, kind := range []policy.Kind{policy.Block, policy.Allow} {
		for _, l := range d.sources.Lists() {
			if l.Kind == kind {
				s.Lists = append(s.Lists, d.describeList(l, report))
			}
		}
		target := d.setup.Apply.Target(kind)
		x := status.Table{Kind: kind.String(), Name: target.Table.String(), Loaded: target.Load}
		if t := &d.tables[kind]; t.known {
			x = describeTable(t)
		}
		x.File = target.File
		x.Kernel, x.Rules = d.glance.Allow.Entries, d.glance.Allow.Rules
		if kind == policy.Block {
			x.Kernel, x.Rules = d.glance.Block.Entries, d.glance.Block.Rules
			describeReport(&x, report)
		}
		s.PF.Reload += x.Policy
		s.Tables = append(s.Tables, x)
	}
	if limit, err := d.o.PF.Limit(pfioctl.LimitTableEntries); err == nil {
		s.PF.Limit = limit
	}
	if used, _, err := d.o.PF.Used(); err == nil {
		s.PF.Used = used
	}
	if advice, err := d.enforcer.ReloadAdvice(s.PF.Reload); err == nil {
		s.PF.Advice = advice
	}
	return s
}

// push hands the status to those who ask for it.
func (d *Daemon) push() {
	s := d.status()
	d.latest.Store(&s)
	d.report.Status(s)
}

func (d *Daemon) describeList(l *sources.List, report policy.Report) status.List {
	x := status.List{Kind: l.Kind.String(), Name: l.Name, Tried: l.Tried, Fetched: l.Fetched, Failures: l.Failures, Error: errText(l.Err), Absent: l.Absent}
	if l.List != nil {
		x.Server, x.Layout, x.Parts, x.Entries = l.Server, l.Layout.String(), l.Parts, l.Len()
		x.Kept = l.Err != nil
	}
	if l.Err != nil && d.schedule.retry {
		x.Retry = d.schedule.next
	}
	for _, r := range report.Lists {
		if r.Name == l.Name && r.Kind == l.Kind {
			x.Enforced, x.Dropped = r.Enforced, r.Dropped
		}
	}
	return x
}

func describeTable(t *table) status.Table {
	change := func(d pfioctl.Delta) status.Change {
		return status.Change{Added: d.Added, Deleted: d.Deleted, Changed: d.Changed}
	}
	x := status.Table{
		Kind: t.Kind.String(), Name: t.Table.Table.String(), Loaded: t.Load,
		Updated: t.Updated, Change: change(t.Change),
		Error:   errText(t.Err),
		Checked: t.Checked, FileWritten: t.Written,
		Drift: status.Drift{Mended: t.Mended, Last: t.DriftAt, Change: change(t.Drift)},
	}
	if t.inForce != nil {
		x.Policy, x.Not = t.inForce.Set.Len(), t.inForce.Set.Counts().Not
		x.FileEntries = x.Policy
	}
	if !t.Decision.Allowed() {
		x.Held = &status.Held{Why: t.Decision.Why, Entries: t.Set.Len(), Since: t.Decision.Since, Until: t.Decision.Until,
			Forcible: t.Decision.Verdict != policy.RefuseEmpty}
	}
	return x
}

func describeReport(t *status.Table, report policy.Report) {
	name := func(id policy.ListID) string {
		if int(id) < len(report.Lists) {
			return report.Lists[id].Name
		}
		return ""
	}
	for _, x := range report.Excepted {
		c := status.Excepted{Prefix: x.Prefix, Why: x.Why, Inside: x.Inside, Around: x.Around}
		seen := make(map[string]bool)
		for _, e := range x.Entries {
			if n := name(e.List); n != "" && !seen[n] {
				seen[n] = true
				c.Lists = append(c.Lists, n)
			}
		}
		t.Excepted = append(t.Excepted, c)
	}
	t.ExceptedCount = len(report.Excepted)
	for _, x := range report.Dropped {
		entry := pfioctl.Addr{Prefix: x.Prefix, Not: x.Not}
		t.Dropped = append(t.Dropped, status.Dropped{Entry: entry.String(), List: name(x.List), Why: x.Why})
	}
	t.DroppedCount = report.DroppedCount
}

// logStatus logs a line about the state of pf; the role that reports logs one about hits and uploads.
func (d *Daemon) logStatus() {
	d.o.Log.Info().Bool("enforced", d.glance.Enforced()).
		Int("blocked", d.glance.Block.Entries).Int("allowed", d.glance.Allow.Entries).
		Int("troubles", len(d.trouble.open)).Time("next", d.schedule.next).
		Msg("status")
	d.report.LogStatus()
}
