package daemon

import (
	"time"

	"example.org/threatstopd/agent/internal/policy"
)

// killTime bounds the removal of states after a poll.
const killTime = time.Second

// killStates removes the states of the addresses that the policy in force blocks
// and before, the one that it followed, did not.
func (l *life) killStates(before *policy.Set) {
	l.state.mu.Lock()
	now, own := l.inForce.set, l.inForce.own
	l.state.mu.Unlock()
	began := time.Now()
	res, err := l.states.KillStates(before, now, own, began.Add(killTime))
	if err != nil {
		l.trouble.is("states", err.Error(), true)
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
