package daemon

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"example.org/threatstopd/agent/internal/apply"
	"example.org/threatstopd/agent/internal/policy"
)

// glanceEvery is how often pf is asked, cheaply, whether anything has changed.
const glanceEvery = time.Minute

// watch sees to it that pf goes on enforcing the policy: it notices when pf is
// disabled, when no rule refers to the table any more, and when something else
// has changed a table, which it mends.
func (l *life) watch(ctx context.Context) {
	tick := time.NewTicker(glanceEvery)
	defer tick.Stop()
	full := time.Now()
	var last apply.Glance
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		l.settle()
		g, err := l.glance()
		if err != nil {
			l.trouble.is("pf", err.Error(), true)
			continue
		}
		l.trouble.over("pf")
		loaded := g.Checksum != last.Checksum
		if loaded && last.Known && l.tight() {
			close(l.again)
			return
		}
		changed := loaded || l.countsDiffer(g)
		last = g
		if changed || time.Since(full) >= l.setup.FullCheck {
			full = time.Now()
			l.mend()
		}
		l.checkStale()
	}
}

// tight reports whether there is not room enough in pf, by the limit as it was when this
// process was confined: it is not allowed to ask for that any more. Who has changed
// pf.conf may have raised it.
func (l *life) tight() bool {
	if l.o.Confine == nil {
		return false
	}
	l.state.mu.Lock()
	files := 0
	for _, t := range l.tables {
		if t.set != nil {
			files += t.set.Len()
		}
		if errors.Is(t.Err, syscall.ENOMEM) {
			l.state.mu.Unlock()
			return true
		}
	}
	l.state.mu.Unlock()
	advice, err := l.enforcer.ReloadAdvice(files)
	return err == nil && advice != ""
}

// glance asks pf what it can tell without walking a table, and tells the owner
// when the policy is not enforced.
func (l *life) glance() (apply.Glance, error) {
	g, err := l.enforcer.Glance(l.setup.Update.BlockTable.Table, l.setup.Update.AllowTable.Table)
	if err != nil {
		return g, err
	}
	l.setGlance(g)
	l.trouble.check("not enforced", g.NotEnforced(), true)
	return g, nil
}

// countsDiffer reports whether a table has another number of entries than it
// was set to.
func (l *life) countsDiffer(g apply.Glance) bool {
	l.state.mu.Lock()
	defer l.state.mu.Unlock()
	for _, t := range l.inForce.tables {
		n := g.Block
		if t.Kind == policy.Allow {
			n = g.Allow
		}
		if t.Load && n.Entries != t.Set.Len() {
			return true
		}
	}
	return false
}

// mend compares the tables, entry for entry, with the policy that was last
// enforced, and puts back what else has changed.
func (l *life) mend() {
	l.enforcing.Lock()
	defer l.enforcing.Unlock()
	l.state.mu.Lock()
	tables := l.inForce.tables
	l.state.mu.Unlock()
	for _, t := range tables {
		if !t.Load {
			continue
		}
		target := l.setup.Update.Target(t.Kind)
		res, err := l.enforcer.Apply(target, t.Set, t.Header)
		key := "drift " + t.Kind.String()
		if err != nil {
			l.trouble.is(key, apply.Explain(err), true)
			continue
		}
		l.trouble.over(key)
		l.setChecked(t.Kind, res)
		if res.Steps > 0 || res.FileWritten {
			l.o.Log.Warn().Str("table", t.Table.String()).
				Int("added", res.Delta.Added).Int("deleted", res.Delta.Deleted).Int("changed", res.Delta.Changed).
				Bool("file", res.FileWritten).Bool("created", res.Created).
				Msg("drift mended: something else had changed the table")
		}
	}
}

// checkStale tells of lists that have not come for too long.
func (l *life) checkStale() {
	if l.setup.StaleAfter <= 0 {
		return
	}
	for _, x := range l.listStates() {
		key := "stale " + x.key
		since := x.fetched
		if since.IsZero() {
			since = l.started
		}
		// On the wall: what counts is how old the list is, whatever the
		// machine did meanwhile.
		age := time.Since(since.Round(0))
		if age < l.setup.StaleAfter {
			l.trouble.over(key)
			continue
		}
		l.trouble.is(key, fmt.Sprintf("%s is older than %v: last fetched %s", x.key, l.setup.StaleAfter, since.UTC().Format(time.RFC3339)), true)
	}
}
