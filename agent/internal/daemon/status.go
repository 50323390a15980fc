package daemon

import (
	"errors"
	"slices"
	"time"

	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/agent/internal/sources"
	"example.org/threatstopd/agent/internal/status"
	"example.org/threatstopd/dnsfetch"
	"example.org/threatstopd/pfioctl"
)

// status is what the loop knows.
func (d *Daemon) status() status.Status {
	g := d.glance
	s := status.Status{Version: d.o.Version, Config: d.o.Config, Started: d.started, Now: time.Now(), Troubles: d.trouble.list()}
	s.Processes = []status.Process{{Name: "main", Started: d.started}}
	for _, r := range d.roles {
		s.Processes = append(s.Processes, r.Process)
	}
	switch {
	case !d.glanced:
		s.NotKnown = "the state of pf cannot be read"
	case g.NotEnforced() != "":
		s.NotEnforced = g.NotEnforced()
	case g.Block.Entries <= 0:
		s.NotEnforced = "the block table is empty: " + d.whyEmpty()
	default:
		s.Enforced, s.Unsure = g.Enforced(), g.Unsure()
	}
	s.PF.Running, s.PF.Unknown, s.PF.Notice = g.Running || g.Evaluated, !g.Known && !g.Evaluated, g.Notice
	s.Poll = status.Poll{Running: d.poll != nil, Applying: d.applying, LastGood: d.lastGood, Next: d.schedule.next,
		Interval: status.InSeconds(d.setup.PollInterval), StaleAfter: status.InSeconds(d.setup.StaleAfter)}
	if d.last != nil {
		s.Poll.Last = d.last.Began.Add(d.last.Elapsed)
		s.Poll.Took, s.Poll.Error = status.InSeconds(d.last.Elapsed), errText(d.last.Err)
	}
	var report policy.Report
	if d.policy != nil {
		report = d.policy.Report
	}
	for _, kind := range []policy.Kind{policy.Block, policy.Allow} {
		for _, l := range d.sources.Lists() {
			if l.Kind == kind {
				s.Lists = append(s.Lists, d.describeList(l, report))
			}
		}
		x := d.describeTable(kind)
		if kind == policy.Block {
			describeReport(&x, report)
		}
		s.PF.Reload += x.Policy
		s.Tables = append(s.Tables, x)
	}
	// What pf does not return stays 0: not known.
	s.PF.Limit, _ = d.o.PF.Limit(pfioctl.LimitTableEntries)
	s.PF.Used, _, _ = d.o.PF.Used()
	s.PF.Advice, _ = d.enforcer.ReloadAdvice(s.PF.Reload)
	return s
}

// whyEmpty returns why the block table has no entries.
func (d *Daemon) whyEmpty() string {
	block := &d.tables[policy.Block]
	for _, key := range []string{"drift block", "source address"} {
		if t := d.trouble.open[key]; t != nil {
			return t.Text
		}
	}
	switch {
	case block.Err != nil:
		return errText(block.Err)
	case block.inForce != nil && !block.inForce.Load:
		return "pf.conf loads it (RELOAD_PF=no): pfctl -f /etc/pf.conf"
	case block.inForce != nil || !d.lastGood.IsZero():
		return "the next check or poll sets it again"
	}
	for _, l := range d.sources.Lists() {
		if e := (*dnsfetch.Error)(nil); errors.As(l.Err, &e) && l.List == nil {
			return l.Key() + ": " + e.Reason()
		}
	}
	switch {
	case d.last != nil && d.last.Err != nil:
		return errText(d.last.Err)
	case block.Decision.Why != "":
		return block.Decision.Why
	}
	return "no policy has come yet"
}

// push hands the status to those who ask for it.
func (d *Daemon) push() {
	d.report.Status(d.status())
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

func (d *Daemon) describeTable(kind policy.Kind) status.Table {
	t, target := &d.tables[kind], d.setup.Apply.Target(kind)
	x := t.history
	x.Kind, x.Name, x.Loaded, x.File = kind.String(), target.Table.String(), target.Load, target.File
	seen := d.glance.Block
	if kind == policy.Allow {
		seen = d.glance.Allow
	}
	x.Kernel, x.Rules = seen.Entries, seen.Rules
	if t.inForce != nil {
		x.Policy, x.Not = t.inForce.Set.Len(), t.inForce.Set.Counts().Not
	}
	if !t.known {
		return x
	}
	x.Error = errText(t.Err)
	if !t.Decision.Allowed() {
		x.Held = &status.Held{Why: t.Decision.Why, Entries: t.Set.Len(), Since: t.Decision.Since, Until: t.Decision.Until,
			Forcible: t.Decision.Verdict != policy.RefuseEmpty}
	}
	return x
}

// describeReport adds what the exceptions and limits met.
func describeReport(t *status.Table, report policy.Report) {
	name := func(id policy.ListID) string {
		if int(id) < len(report.Lists) {
			return report.Lists[id].Name
		}
		return ""
	}
	for _, x := range report.Excepted {
		c := status.Excepted{Prefix: x.Prefix, Why: x.Why, Inside: x.Inside, Around: x.Around}
		for _, e := range x.Entries {
			if n := name(e.List); n != "" && !slices.Contains(c.Lists, n) {
				c.Lists = append(c.Lists, n)
			}
		}
		t.Excepted = append(t.Excepted, c)
	}
	for _, x := range report.Dropped {
		entry := pfioctl.Addr{Prefix: x.Prefix, Not: x.Not}
		t.Dropped = append(t.Dropped, status.Dropped{Entry: entry.String(), List: name(x.List), Why: x.Why})
	}
	t.ExceptedCount, t.DroppedCount = len(report.Excepted), report.DroppedCount
}

// logStatus logs a line about the state of pf; the role that reports logs one about hits and uploads.
func (d *Daemon) logStatus() {
	d.o.Log.Info().Bool("enforced", d.glance.Enforced()).
		Int("blocked", max(0, d.glance.Block.Entries)).Int("allowed", max(0, d.glance.Allow.Entries)).
		Int("troubles", len(d.trouble.open)).Time("next", d.schedule.next).
		Msg("status")
	d.report.LogStatus()
}
