package policy

import (
	"fmt"
	"math"
	"time"
)

// What a [Guard] usually has.
const (
	DefaultMaxShrink = 0.5
	DefaultHold      = 24 * time.Hour
)

// Tables with fewer entries than this come and go as their owners please; and
// a table that would keep less than a tenth of itself is taken for a mistake
// that time does not mend.
const (
	guardFrom  = 100
	guardTenth = 10
)

// Guard says whether a table may replace the one in force. It keeps nothing:
// the caller stores [Decision].Since, apart for each table.
type Guard struct {
	// MaxShrink is the part of the entries in force, 0 to 1, that may go at
	// once. 0 holds any loss, 1 none but that of nine tenths.
	MaxShrink float64
	// Hold is how long a table that shrinks more must have stayed like that.
	// With 0 it need not wait.
	Hold time.Duration
	// MayBeEmpty lets a table become empty; for allow lists, which a server
	// may empty on purpose. For a block table leave it false.
	MayBeEmpty bool
}

// Verdict is the kind of a [Decision].
type Verdict uint8

const (
	// Accept: nothing speaks against the table.
	Accept Verdict = iota
	// Accepted after Hold: it shrinks beyond MaxShrink, and has for long
	// enough.
	Waited
	// Forced: the owner insists on what would be held.
	Forced
	// Hold: it shrinks beyond MaxShrink; time or force lets it pass.
	Hold
	// HoldForForce: less than a tenth would be left; only force lets it pass.
	HoldForForce
	// RefuseEmpty: it has no entries; nothing lets it pass.
	RefuseEmpty
)

// Decision is what a [Guard] says of a table.
type Decision struct {
	Verdict Verdict
	// Why is one line with the numbers, for the owner; empty for Accept.
	Why string
	// Since is when the table was first seen to shrink beyond MaxShrink, to
	// be stored and given to the next Check; zero when it does not.
	Since time.Time
	// Until is when a table that is held may pass; zero unless Verdict is
	// Hold.
	Until time.Time
}

// Allowed reports whether the table may be enforced.
func (d Decision) Allowed() bool { return d.Verdict <= Forced }

// Check says whether a table of next entries may replace one of inForce
// entries (0 when there is none). since is the Since of the last Decision on
// this table, zero if there was none; when it lies in the future a clock was
// set back, and the wait begins anew. force is the owner's word; it does not
// help an empty table.
func (g Guard) Check(inForce, next int, since, now time.Time, force bool) Decision {
	if next <= 0 && !g.MayBeEmpty {
		return Decision{Verdict: RefuseEmpty, Since: since,
			Why: fmt.Sprintf("the new table is empty, %d entries in force stay: an empty table is never enforced", inForce)}
	}
	if inForce < guardFrom || !g.shrinks(inForce, next) {
		return Decision{}
	}
	if since.IsZero() || since.After(now) {
		since = now
	}
	d := Decision{Since: since}
	what := fmt.Sprintf("%d entries instead of %d in force, %.1f%% fewer (limit %.4g%%)",
		next, inForce, 100*float64(inForce-next)/float64(inForce), 100*g.MaxShrink)
	until := since.Add(g.Hold)
	switch {
	case force:
		d.Verdict = Forced
		d.Why = what + ": forced"
	case int64(next)*guardTenth < int64(inForce):
		d.Verdict = HoldForForce
		d.Why = what + ": held, less than a tenth is left; only --force enforces it"
	case now.Before(until):
		d.Verdict = Hold
		d.Until = until
		d.Why = fmt.Sprintf("%s: held since %s, until %s or --force", what, stamp(since), stamp(until))
	default:
		d.Verdict = Waited
		d.Why = fmt.Sprintf("%s: enforced, as it has been like this since %s", what, stamp(since))
	}
	return d
}

// shrinks compares in whole numbers, so that exactly MaxShrink is not beyond
// it.
func (g Guard) shrinks(inForce, next int) bool {
	const million = 1e6
	most := math.Round(g.MaxShrink * million)
	if !(most >= 0) { // NaN as well
		most = 0
	}
	lost := int64(inForce) - int64(next)
	return lost > 0 && (lost*million > int64(min(most, million))*int64(inForce) || int64(next)*guardTenth < int64(inForce))
}

func stamp(t time.Time) string { return t.Format("2006-01-02 15:04") }
