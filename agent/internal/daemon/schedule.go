package daemon

import (
	"math/rand/v2"
	"time"
)

// firstRetry is when what failed is first tried again. The wait doubles up to the poll interval.
const firstRetry = 30 * time.Second

// schedule says when the next poll is due.
type schedule struct {
	next     time.Time
	retry    bool // the next poll is a retry of what failed
	failures int
}

// done sets when the next poll is due, after one that ended well or not. 5 % of the time is left to
// chance, so that the devices of a policy do not come to its servers all at once.
func (s *schedule) done(ok bool, interval time.Duration) {
	wait := interval
	if ok {
		s.failures = 0
	} else {
		wait = min(firstRetry<<min(s.failures, 16), interval)
		s.failures++
	}
	s.retry = !ok && wait < interval
	wait += time.Duration((rand.Float64() - 0.5) * 0.1 * float64(wait))
	s.next = time.Now().Add(wait)
}

// wait is how long to wait until the next poll may be due: a minute at most, since a timer does not know
// of a suspend.
func (s *schedule) wait() time.Duration { return max(0, min(time.Until(s.next), time.Minute)) }

// due reports whether it is time, by the monotonic clock or by the wall clock: after a suspend the first
// may have stood still, and after the clock was set back the second would wait too long.
func (s *schedule) due() bool {
	now := time.Now()
	return !now.Before(s.next) || !now.Round(0).Before(s.next.Round(0))
}
