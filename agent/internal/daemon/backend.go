package daemon

import (
	"context"
	"errors"
	"time"

	"example.org/threatstopd/agent/internal/apply"
	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/agent/internal/status"
	"example.org/threatstopd/agent/internal/update"
	"example.org/threatstopd/pfioctl"
)

// backend answers what the role that serves the sockets asks for.
type backend struct{ *Daemon }

func (b backend) current() *life {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.life
}

// errStarting is told to clients that come before the first life.
var errStarting = errors.New("threatstopd is starting")

// Sync carries out a poll now: see [reportrole.Options].
func (d *Daemon) Sync(ctx context.Context, force bool, say func(line string, warn bool)) int {
	return backend{d}.Sync(ctx, force, say)
}

// Sync runs a poll now.
func (b backend) Sync(ctx context.Context, force bool, say func(line string, warn bool)) int {
	l := b.current()
	if l == nil {
		say(errStarting.Error(), true)
		return 1
	}
	n := &apply.Narrator{
		Say:     func(line string) { say(line, false) },
		Warn:    func(line string) { say(line, true) },
		Verbose: true,
		Local:   time.Local,
		Version: b.o.Version,
	}
	n.Begin(time.Now())
	out, err := l.sync(ctx, force, update.Narrate(n))
	if err != nil {
		say(err.Error(), true)
		return 1
	}
	n.End(out.Outcome)
	if !out.OK() {
		return 1
	}
	return 0
}

// Status tells how things are, but for the hits and the uploads.
func (b backend) Status() status.Status {
	s := status.Status{Version: b.o.Version, Config: b.o.Config, Started: b.started, Now: time.Now()}
	for _, t := range b.trouble.list() {
		s.Troubles = append(s.Troubles, status.Trouble{Text: t.text, Since: t.since, Last: t.last, Count: t.count, NeedsOwner: t.needsOwner})
	}
	l := b.current()
	if l == nil {
		s.NotEnforced = errStarting.Error()
		return s
	}
	l.describe(&s)
	return s
}

// describe fills in what the life knows.
func (l *life) describe(s *status.Status) {
	l.state.mu.Lock()
	l.describePolicy(s)
	l.state.mu.Unlock()
	if limit, err := l.o.PF.Limit(pfioctl.LimitTableEntries); err == nil {
		s.PF.Limit = limit
	}
	if used, _, err := l.o.PF.Used(); err == nil {
		s.PF.Used = used
	}
	if advice, err := l.enforcer.ReloadAdvice(s.PF.Reload); err == nil {
		s.PF.Advice = advice
	}
}

func (l *life) describePolicy(s *status.Status) {
	g := l.seen
	s.NotEnforced = g.NotEnforced()
	s.Enforced = s.NotEnforced == "" && g.Block.Entries > 0
	if s.NotEnforced == "" && !s.Enforced {
		s.NotEnforced = "the block table is empty: no policy has come yet"
	}
	s.PF.Running = g.Running
	s.Poll = status.Poll{
		Running:    l.polling,
		LastGood:   l.lastGood,
		Next:       l.schedule.next,
		Interval:   status.Seconds(l.setup.PollInterval),
		StaleAfter: status.Seconds(l.setup.StaleAfter),
	}
	if l.last != nil {
		s.Poll.Last = l.last.Began.Add(l.last.Elapsed)
		s.Poll.Took = status.Seconds(l.last.Elapsed)
		s.Poll.Error = errText(l.last.Err)
	}
	var rep policy.Report
	if l.last != nil && l.last.Policy != nil {
		rep = l.last.Policy.Report
	}
	for _, kind := range []policy.Kind{policy.Block, policy.Allow} {
		for _, x := range l.lists {
			if x.Kind == kind {
				s.Lists = append(s.Lists, l.describeList(x, rep))
			}
		}
		if x := l.tables[kind]; x != nil {
			t := describeTable(x, g.Block.Entries, g.Block.Rules)
			if kind == policy.Allow {
				t = describeTable(x, g.Allow.Entries, g.Allow.Rules)
			}
			t.File = l.setup.Update.Target(kind).File
			if kind == policy.Block {
				describeReport(&t, rep)
			}
			s.PF.Reload += t.Policy
			s.Tables = append(s.Tables, t)
		}
	}
}

func (l *life) describeList(x listState, rep policy.Report) status.List {
	c := status.List{Kind: x.Kind.String(), Name: x.Name, Tried: x.tried, Fetched: x.fetched, Failures: x.failures, Error: errText(x.Err)}
	if x.List.List != nil {
		c.Server, c.Layout, c.Parts, c.Entries = x.Server, x.Layout.String(), x.Parts, x.Len()
		c.Kept = x.Err != nil
	}
	if x.Err != nil && l.schedule.retry {
		c.Retry = l.schedule.next
	}
	for _, r := range rep.Lists {
		if r.Name == x.Name && r.Kind == x.Kind {
			c.Enforced, c.Dropped = r.Enforced, r.Dropped
		}
	}
	return c
}

func describeTable(x *tableState, kernel, rules int) status.Table {
	t := status.Table{
		Kind: x.Kind.String(), Name: x.Table.Table.String(), Loaded: x.Load,
		Kernel: kernel, Rules: rules,
		Updated: x.updated,
		Change:  status.Change{Added: x.change.Added, Deleted: x.change.Deleted, Changed: x.change.Changed},
		Error:   errText(x.Err),
		Checked: x.checked,
		Drift: status.Drift{Mended: x.mended, Last: x.driftAt,
			Change: status.Change{Added: x.drift.Delta.Added, Deleted: x.drift.Delta.Deleted, Changed: x.drift.Delta.Changed}},
		FileWritten: x.written,
	}
	if x.set != nil {
		t.Policy, t.Not = x.set.Len(), x.set.Counts().Not
		t.FileEntries = t.Policy
	}
	if !x.Decision.Allowed() {
		t.Held = &status.Held{Why: x.Decision.Why, Entries: x.Set.Len(), Since: x.Decision.Since, Until: x.Decision.Until,
			Forcible: x.Decision.Verdict != policy.RefuseEmpty}
	}
	return t
}

func describeReport(t *status.Table, rep policy.Report) {
	name := func(id policy.ListID) string {
		if int(id) < len(rep.Lists) {
			return rep.Lists[id].Name
		}
		return ""
	}
	for _, x := range rep.Excepted {
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
	t.ExceptedCount = len(rep.Excepted)
	for _, d := range rep.Dropped {
		entry := pfioctl.Addr{Prefix: d.Prefix, Not: d.Not}
		t.Dropped = append(t.Dropped, status.Dropped{Entry: entry.String(), List: name(d.List), Why: d.Why})
	}
	t.DroppedCount = rep.DroppedCount
}
