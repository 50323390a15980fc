package daemon

import (
	"math/rand/v2"
	"time"
)

// Retries after a list that failed begin this soon and double up to the poll
// interval.
const firstRetry = 30 * time.Second

// schedule says when the next poll is due.
type schedule struct {
	interval time.Duration
	next     time.Time
	retry    bool // the next poll is a retry of what failed
	failures int
}

// done sets when the next poll is due, after one that ended well or not. A part
// of the time is left to chance, so that the devices of a policy do not come to
// its servers all at once.
func (s *schedule) done(ok bool) {
	wait := s.interval
	if ok {
		s.failures = 0
	} else {
		wait = min(firstRetry<<min(s.failures, 16), s.interval)
		s.failures++
	}
	s.retry = !ok && wait < s.interval
	wait += time.Duration((rand.Float64() - 0.5) * 0.1 * float64(wait))
	s.next = time.Now().Add(wait)
}

// due reports whether it is time, by the clock that never jumps or by the one
// on the wall: after a suspend the first may have stood still, and after the
// clock was set back the second would wait too long.
func (s *schedule) due() bool {
	now := time.Now()
	return !now.Before(s.next) || !now.Round(0).Before(s.next.Round(0))
}
