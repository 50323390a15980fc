package states

import (
	"net/netip"
	"time"

	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/pfioctl"
)

// Killed is what became of the states of some addresses.
type Killed struct {
	Considered int // states that were looked at
	Killed     int
	Left       int // states that the time was over for
}

// clockEvery is how many states are looked at between two looks at the clock.
const clockEvery = 256

// kill removes the states of the addresses that are to be cut off. pf asks rules and
// tables of the first packet of a connection only, so what it let through before goes on
// until its state is gone. A state is one of an address when the address is in either of
// its two keys, that of the wire or that of the stack, which differ where addresses are
// translated.
//
// At the deadline the rest is left. The one reading of the state table, which comes
// first, cannot be cut short. With an error the numbers say how far it came.
func kill(pf *pfioctl.PF, cut *policy.Ranges, deadline time.Time) (res Killed, err error) {
	states, err := pf.States()
	if err != nil {
		return res, err
	}
	defer states.Close()
	late := func() bool { return !time.Now().Before(deadline) }
	for s := range states.All() {
		if res.Considered%clockEvery == 0 && late() {
			break
		}
		if !hasAddr(s, cut.Contains) {
			res.Considered++
			continue
		}
		// Unlike looking, this takes the kernel's locks, and its time.
		if late() {
			break
		}
		n, err := pf.KillState(s.ID(), s.Creator())
		if err != nil {
			res.Left = states.Len() - res.Considered
			return res, err
		}
		res.Considered++
		res.Killed += n // 0: it has ended by itself
	}
	res.Left = states.Len() - res.Considered
	return res, nil
}

// hasAddr reports whether f holds for an address of one of the state's keys.
func hasAddr(s pfioctl.State, f func(netip.Addr) bool) bool {
	for i := range 2 {
		wire, stack := s.Addr(pfioctl.Wire, i), s.Addr(pfioctl.Stack, i)
		if f(wire) || stack != wire && f(stack) {
			return true
		}
	}
	return false
}
