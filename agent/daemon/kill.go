package daemon

import (
	"net/netip"
	"time"

	"example.org/threatstopd/agent/enforce"
	"example.org/threatstopd/agent/policy"
	"example.org/threatstopd/agent/update"
)

// killTime bounds the removal of states after a poll.
const killTime = time.Second

// StateKiller removes states after a poll.
type StateKiller interface {
	// KillStates removes the states of the addresses, other than the host's own,
	// that now blocks and before did not. What is left at the deadline stays.
	KillStates(before, now *policy.Set, own []netip.Addr, deadline time.Time) (enforce.StatesKilled, error)
}

// inMain is the StateKiller of a main process that is not confined.
type inMain struct{ *enforce.Enforcer }

func (m inMain) KillStates(before, now *policy.Set, own []netip.Addr, deadline time.Time) (enforce.StatesKilled, error) {
	return m.Enforcer.KillStates(policy.NewlyBlocked(policy.NewIndex(before), policy.NewIndex(now), own), deadline)
}

// killStates removes the states of the addresses that the policy in force blocks
// and before, the one that it followed, did not.
func (l *life) killStates(before *policy.Set) {
	l.state.mu.Lock()
	now, own := l.inForce.set, l.inForce.own
	l.state.mu.Unlock()
	var killer StateKiller = inMain{l.enforcer}
	if l.o.States != nil {
		killer = l.o.States
	}
	began := time.Now()
	res, err := killer.KillStates(before, now, own, began.Add(killTime))
	if err != nil {
		l.trouble.is("states", update.Explain(err), true)
	} else {
		l.trouble.over("states")
	}
	event := l.o.Log.Info()
	switch {
	case res.Left > 0:
		event = l.o.Log.Warn()
	case res.Killed == 0:
		event = l.o.Log.Debug()
	}
	event.Int("killed", res.Killed).Int("considered", res.Considered).Int("left", res.Left).
		Str("took", time.Since(began).Round(time.Millisecond).String()).Msg("states killed")
}
