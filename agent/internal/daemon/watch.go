package daemon

import (
	"errors"
	"fmt"
	"reflect"
	"syscall"
	"time"

	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/agent/internal/status"
)

// watch looks at pf and the host each minute, without the network: it notices when pf is disabled or no
// rule refers to the table, repairs tables that something else has changed, and applies the policy again
// when the host's addresses, gateways or resolvers have changed.
func (d *Daemon) watch() {
	d.settle()
	d.checkConfig()
	before, known := d.glance.Checksum, d.glanced
	if !d.look() {
		return
	}
	loaded := known && d.glance.Checksum != before
	if loaded && d.glance.Known && d.tight() {
		d.o.Log.Info().Msg("pf.conf was loaded, and may have other limits: executing this program again")
		d.again = true
		return
	}
	if loaded || d.countsDiffer() || time.Since(d.checked) >= d.setup.FullCheck {
		d.mend()
	}
	d.checkHost()
	d.checkStale()
}

// look asks pf for what it can report without walking a table. It returns false when pf does not answer.
func (d *Daemon) look() bool {
	g, err := d.enforcer.Glance(d.setup.Apply.Block.Table, d.setup.Apply.Allow.Table)
	d.trouble.check("pf", errText(err), true)
	if err != nil {
		return false
	}
	d.glance, d.glanced = g, true
	d.trouble.check("not enforced", g.NotEnforced(), true)
	return true
}

// tight reports whether pf has too little room, by the limit as it was before pledge(2), after which it
// cannot be read: a pf.conf that was loaded since may have raised it.
func (d *Daemon) tight() bool {
	if d.o.Confine == nil {
		return false
	}
	files := 0
	for _, t := range d.tables {
		if errors.Is(t.Err, syscall.ENOMEM) {
			return true
		}
		if t.inForce != nil {
			files += t.inForce.Set.Len()
		}
	}
	advice, err := d.enforcer.ReloadAdvice(files)
	return err == nil && advice != ""
}

// countsDiffer reports whether a table has another number of entries than it was set to.
func (d *Daemon) countsDiffer() bool {
	for kind, n := range []int{policy.Block: d.glance.Block.Entries, policy.Allow: d.glance.Allow.Entries} {
		if t := d.tables[kind].inForce; t != nil && t.Load && n != t.Set.Len() {
			return true
		}
	}
	return false
}

// mend compares the tables, entry for entry, with the policy in force, and puts back what something else
// has changed.
func (d *Daemon) mend() {
	d.checked = time.Now()
	for _, kind := range []policy.Kind{policy.Allow, policy.Block} {
		x := &d.tables[kind]
		if x.inForce == nil || !x.inForce.Load {
			continue
		}
		key := "drift " + kind.String()
		res, err := d.enforcer.Apply(d.setup.Apply.Target(kind), x.inForce.Set, x.inForce.Header)
		d.trouble.check(key, errText(err), true)
		if err != nil {
			continue
		}
		h := &x.history
		h.Checked = d.checked
		h.FileEntries = x.inForce.Set.Len()
		if res.FileWritten {
			h.FileWritten = d.checked
		}
		if res.Steps > 0 {
			h.Drift = status.Drift{Mended: h.Drift.Mended + 1, Last: d.checked, Change: status.Change(res.Delta)}
		}
		if res.Steps > 0 || res.FileWritten {
			d.o.Log.Warn().Str("table", res.Table.String()).
				Int("added", res.Delta.Added).Int("deleted", res.Delta.Deleted).Int("changed", res.Delta.Changed).
				Bool("file", res.FileWritten).Bool("created", res.Created).
				Msg("drift mended: something else had changed the table")
			d.look()
		}
	}
}

// checkHost applies the policy again, from the lists at hand, when the host's own addresses, gateways or
// resolvers are others than it was made for: a new lease must not be blocked until the next poll.
func (d *Daemon) checkHost() {
	if d.poll != nil || d.policy == nil {
		return // a poll reads them itself
	}
	host, err := d.o.Host()
	if err != nil {
		return // the next poll reports it
	}
	facts, _ := d.sources.Facts(host)
	if reflect.DeepEqual(facts, d.facts) {
		return
	}
	d.enforce(false, nil)
	d.o.Log.Info().Msg("addresses of this host or its servers have changed: policy applied again")
}

// checkStale reports lists that have not come for too long.
func (d *Daemon) checkStale() {
	if d.setup.StaleAfter <= 0 {
		return
	}
	for _, l := range d.sources.Lists() {
		since, last := l.Fetched, "last fetched "+l.Fetched.Format("2006-01-02 15:04")
		if since.IsZero() {
			since, last = d.started, "not fetched since the start"
		}
		// By the wall clock: what counts is the age of the list, also after a suspend.
		if time.Since(since.Round(0)) < d.setup.StaleAfter {
			d.trouble.over("stale " + l.Key())
		} else {
			d.trouble.is("stale "+l.Key(), fmt.Sprintf("%s is older than %v: %s", l.Key(), d.setup.StaleAfter, last), false)
		}
	}
}
