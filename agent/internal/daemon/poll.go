package daemon

import (
	"context"
	"errors"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"example.org/threatstopd/agent/internal/apply"
	"example.org/threatstopd/agent/internal/fetch"
	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/agent/internal/sources"
	"example.org/threatstopd/agent/internal/status"
)

// request is a sync that somebody waits for.
type request struct {
	force bool
	say   func(line string, warn bool) // does not wait
	exit  chan int                     // has room for one
}

// Sync carries out a poll, describes it through say, which must not wait, and returns the exit status of
// --sync-now. Requests that come during a poll are answered together by the next one.
func (d *Daemon) Sync(ctx context.Context, force bool, say func(line string, warn bool)) int {
	r := &request{force: force, say: say, exit: make(chan int, 1)}
	d.do(func() { d.waiting = append(d.waiting, r) })
	select {
	case exit := <-r.exit:
		return exit
	case <-ctx.Done():
	case <-d.stopped:
	}
	say(errStopping, true)
	return 1
}

// poll is one that is under way.
type poll struct {
	cancel   context.CancelFunc
	began    time.Time
	force    bool
	requests []*request
	narrator *apply.Narrator
}

// say passes a line to everybody who waits for the poll.
func (p *poll) say(line string, warn bool) {
	for _, r := range p.requests {
		r.say(line, warn)
	}
}

// startPoll has everything fetched that the next policy is made of; what has come is handled by the loop.
func (d *Daemon) startPoll() {
	d.checkConfig()
	retry := d.schedule.retry && len(d.waiting) == 0
	p := &poll{began: time.Now(), requests: d.waiting}
	d.waiting = nil
	for _, r := range p.requests {
		p.force = p.force || r.force
	}
	p.narrator = &apply.Narrator{
		Say:     func(line string) { p.say(line, false) },
		Warn:    func(line string) { p.say(line, true) },
		Verbose: true,
		Local:   time.Local,
		Version: d.o.Version,
	}
	p.narrator.Begin(p.began)
	ctx, cancel := context.WithCancel(d.ctx)
	p.cancel, d.poll = cancel, p

	plan, fetcher, narrate := d.sources.Plan(retry), d.fetcher, sources.Narrate(p.narrator)
	mine := func(f func()) {
		d.do(func() {
			if d.poll == p { // and not given up since
				f()
			}
		})
	}
	go func() {
		plan.Run(ctx, fetcher, sources.Progress{
			Begin: func(k policy.Kind, name string) { mine(func() { narrate.Begin(k, name) }) },
			Done:  func(r sources.Result) { mine(func() { narrate.Done(r); d.took(r) }) },
		})
		mine(d.finishPoll)
	}()
}

// abandon gives up a poll that is under way. Those who wait for it wait for the next one.
func (d *Daemon) abandon() {
	if p := d.poll; p != nil {
		p.cancel()
		d.waiting = append(p.requests, d.waiting...)
		d.poll = nil
	}
}

// took handles a list or a name that has come, or has not.
func (d *Daemon) took(r sources.Result) {
	l := d.sources.Take(r, time.Now())
	switch {
	case l == nil:
	case errors.As(l.Err, new(fetch.SourceError)): // one trouble for all lists
		d.trouble.over(l.Key())
	case l.Err != nil:
		d.trouble.is(l.Key(), l.Err.Error(), false)
	default:
		d.trouble.over(l.Key())
		d.trouble.over("stale " + l.Key())
	}
}

// finishPoll makes a policy of what has come, and brings pf to it.
func (d *Daemon) finishPoll() {
	p := d.poll
	if !d.sources.Failed() {
		p.narrator.Complete()
	}
	out := d.enforce(p.force, func(kind policy.Kind, s *policy.Set) { p.narrator.Setting(kind, s) })
	out.Began, out.Elapsed = p.began, time.Since(p.began)
	d.last = out
	if out.Enforced() && !d.sources.Failed() {
		d.lastGood = time.Now()
	}
	// A policy that was held, or that pf refused, is not asked for sooner than usual: it would be
	// the same.
	d.schedule.done(!d.sources.Failed() && out.Err == nil, d.setup.PollInterval)
	d.logOutcome(out)
	p.narrator.End(out)
	p.cancel()
	d.poll = nil
	d.push() // before those who waited ask for it
	exit := 0
	if !out.OK() {
		exit = 1
	}
	if t := d.trouble.open[keyChanged]; t != nil {
		p.say(t.Text, true)
		exit = 1
	}
	for _, r := range p.requests {
		r.exit <- exit
	}
	// The next poll is some time away: return the memory that this one took.
	debug.FreeOSMemory()
}

// enforce makes a policy of the lists at hand and the host as it is now, and brings pf to it.
func (d *Daemon) enforce(force bool, setting func(policy.Kind, *policy.Set)) *apply.Outcome {
	out := d.sources.Enforce(d.enforcer, &d.setup.Apply, d.o.Host, force, func(kind policy.Kind, s *policy.Set) {
		d.applying = time.Now()
		d.push()
		if setting != nil {
			setting(kind, s)
		}
	})
	d.applying = time.Time{}
	if out.Policy != nil {
		d.policy, d.facts = out.Policy, out.Facts
	}
	keys := []string{"table " + d.setup.Apply.Block.Table.String(), "table " + d.setup.Apply.Allow.Table.String()}
	for _, l := range d.sources.Lists() {
		keys = append(keys, l.Key(), "stale "+l.Key())
	}
	d.trouble.forget([]string{"table ", "block list ", "allow list ", "stale "}, keys)
	source, update := fetch.SourceError{}, errText(out.Err)
	for _, l := range out.Lists {
		errors.As(l.Err, &source)
	}
	if source.Addr.IsValid() {
		d.trouble.is("source address", source.Error(), true)
	} else {
		d.trouble.over("source address")
	}
	if errors.As(out.Err, new(fetch.SourceError)) {
		update = "" // the same
	}
	d.trouble.check("update", update, false)
	d.trouble.check("warning", strings.Join(out.Warnings, "; "), false)
	for _, t := range out.Tables {
		d.tookTable(t)
	}
	if before := d.matchTables(out); before != nil && d.states != nil {
		go d.killStates(before, d.match.set, d.match.own)
	}
	d.look()
	return out
}

// table is one of the two tables, over several polls.
type table struct {
	apply.Table              // of the last run
	known       bool         // there was one
	inForce     *apply.Table // what pf has as far as the daemon knows; nil before the first policy
	history     status.Table // when and how it was changed, checked, written and repaired
}

// tookTable keeps what became of a table in a run.
func (d *Daemon) tookTable(t apply.Table) {
	now, x, key := time.Now(), &d.tables[t.Kind], "table "+t.Table.String()
	switch {
	case t.Err != nil:
		d.trouble.is(key, apply.Explain(t.Err), true)
	case !t.Decision.Allowed():
		d.trouble.is(key, "held back: "+t.Decision.Why, true)
	default:
		d.trouble.over(key)
	}
	x.Table, x.known = t, true
	h := &x.history
	if t.Steps > 0 {
		h.Updated, h.Change = now, status.Change(t.Delta)
	}
	// When only the table file failed the new policy is in force, and must not be repaired back to
	// the old one.
	if t.InPF() {
		h.Checked, x.inForce = now, &t
	}
	if t.FileWritten {
		h.FileWritten = now
	}
	if t.Decision.Allowed() && t.Err == nil {
		h.FileEntries = t.Set.Len()
	}
	if h.FileWritten.IsZero() {
		x.readFile(d.setup.Apply.Target(t.Kind).File)
	}
}

// readFile notes what an earlier process, or pf.conf's owner, has left in the table file, if there is one.
func (x *table) readFile(name string) {
	st, err := os.Stat(name)
	if err != nil {
		return
	}
	if n, err := apply.FileEntries(name); err == nil {
		x.history.FileWritten, x.history.FileEntries = st.ModTime(), n
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return apply.Explain(err)
}

// logOutcome logs one event for a poll.
func (d *Daemon) logOutcome(out *apply.Outcome) {
	event := d.o.Log.Info()
	if !out.OK() {
		event = d.o.Log.Warn()
	}
	entries, server := 0, ""
	for _, l := range d.sources.Lists() {
		if l.List != nil {
			entries += l.Len()
			server = l.Server
		}
	}
	event.Int("lists", len(out.Lists)).Int("entries", entries)
	if server != "" {
		event.Str("server", server)
	}
	failed, held, noFile, changed := false, false, false, false
	for _, t := range out.Tables {
		failed = failed || t.Err != nil && !t.InPF()
		held = held || !t.Decision.Allowed()
		noFile = noFile || t.Err != nil
		changed = changed || t.Steps > 0 || t.FileWritten
		if t.Kind == policy.Allow {
			event.Int("allowed", t.InForce)
		} else {
			event.Int("blocked", t.InForce).Int("excepted", len(out.Policy.Report.Excepted)).
				Int("added", t.Delta.Added).Int("deleted", t.Delta.Deleted).Int("changed", t.Delta.Changed)
		}
	}
	text := "policy enforced"
	switch {
	case out.Err != nil:
		text = "policy not updated"
	case failed:
		text = "policy not applied"
	case held:
		text = "policy held"
	case noFile:
		text = "policy enforced, but a table file does not have it"
	case !out.OK() && !d.sources.Failed():
		text = "policy enforced without lists that do not exist or are empty"
	case !out.OK():
		text = "policy enforced with earlier copies of lists that failed"
	case !changed:
		text = "policy unchanged"
	}
	event.Str("took", out.Elapsed.Round(time.Millisecond).String()).Time("next", d.schedule.next).Msg(text)
}
