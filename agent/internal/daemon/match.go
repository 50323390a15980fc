package daemon

import (
	"net/netip"
	"time"

	"example.org/threatstopd/agent/internal/apply"
	"example.org/threatstopd/agent/internal/policy"
)

// match is what packets are matched against.
type match struct {
	set     *policy.Set // nil: nothing
	own     []netip.Addr
	polled  bool // set is a policy, not what pf had at the start
	changed bool // pf's table has changed since set was put here
}

// readInForce reads what pf has in the block table before the first policy: at boot that is the table
// file. Packets are matched against it.
func (d *Daemon) readInForce() {
	set, err := d.enforcer.Read(d.setup.Apply.Block.Table, "in force at start")
	if err != nil || set.Len() == 0 {
		return
	}
	d.match.set = set
	if facts, err := d.o.Host(); err == nil {
		d.match.own = ownAddresses(facts)
	}
}

// matchTables matches packets against the policy of a run, where pf has it. It returns the policy before,
// nil when pf's block table has not changed, or is set for the first time.
func (d *Daemon) matchTables(out *apply.Outcome) (before *policy.Set) {
	for _, t := range out.Tables {
		// With an error too: the table may be set, and only its file not.
		if t.Kind == policy.Block && t.Load && t.Steps > 0 {
			d.match.changed = true
		}
	}
	block := d.tables[policy.Block].inForce
	if block == nil || d.match.set == block.Set {
		return nil
	}
	if d.match.changed && d.match.polled {
		before = d.match.set
	}
	d.match = match{set: block.Set, own: ownAddresses(out.Facts), polled: true}
	d.report.Policy(d.match.set, d.match.own)
	return before
}

func ownAddresses(f policy.Facts) []netip.Addr {
	var own []netip.Addr
	for _, i := range f.Interfaces {
		for _, p := range i.Addresses {
			own = append(own, p.Addr())
		}
	}
	return own
}

// killTime bounds the removal of states after a poll.
const killTime = time.Second

// killStates removes the states of the addresses that now blocks and before did not.
func (d *Daemon) killStates(before, now *policy.Set, own []netip.Addr) {
	began := time.Now()
	res, err := d.states.KillStates(before, now, own, began.Add(killTime))
	took := time.Since(began)
	d.do(func() {
		d.trouble.check("states", errText(err), true)
		event := d.o.Log.Info()
		switch {
		case res.Left > 0:
			event = d.o.Log.Warn()
		case res.Killed == 0:
			event = d.o.Log.Debug()
		}
		event.Int("killed", res.Killed).Int("considered", res.Considered).Int("left", res.Left).
			Str("took", took.Round(time.Millisecond).String()).Msg("states killed")
	})
}
