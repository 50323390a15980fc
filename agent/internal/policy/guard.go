package policy

import (
	"fmt"
	"time"
)

// What a [Guard] usually has.
const (
	DefaultMaxShrink = 0.5
	DefaultHold      = 24 * time.Hour
)

// Tables with fewer than guardFrom entries may shrink at any time. A table that keeps less than one part
// in guardTenth is taken for a mistake, which does not pass with time.
const (
	guardFrom  = 100
	guardTenth = 10
)

// Guard decides whether a table may replace the one in force. It has no state: the caller stores
// [Decision].Since of each table.
type Guard struct {
	// MaxShrink is the part of the entries in force, 0 to 1, that may go at once. 0 holds any loss, 1 only
	// a loss of more than nine tenths.
	MaxShrink float64
	// Hold is how long a table that shrinks more is held. With 0 it need not wait.
	Hold time.Duration
	// MayBeEmpty lets a table become empty. It is for allow lists, which a server may empty on purpose.
	MayBeEmpty bool
}

// Verdict is the kind of a [Decision].
type Verdict uint8

const (
	Accept       Verdict = iota // nothing is wrong with the table
	Waited                      // it shrinks beyond MaxShrink, and has been held for Hold
	Forced                      // the owner enforces what would be held
	Hold                        // it shrinks beyond MaxShrink; it passes with time or force
	HoldForForce                // less than a tenth would be left; it passes with force only
	RefuseEmpty                 // it has no entries; it never passes
)

// Decision is what a [Guard] decides about a table.
type Decision struct {
	Verdict Verdict
	Why     string    // one line with the numbers, for the owner; empty for Accept
	Since   time.Time // when the table was first seen to shrink beyond MaxShrink; zero if it does not
	Until   time.Time // when a table that is held may pass; zero unless Verdict is Hold
}

// Allowed reports whether the table may be enforced.
func (d Decision) Allowed() bool { return d.Verdict <= Forced }

// Check decides whether a table of next entries may replace one of inForce entries (0 if there is none).
// since is the Since of the last Decision about this table, zero if there was none; if it lies in the
// future, a clock was set back, and the wait begins anew. force is the owner's order; it does not help an
// empty table.
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
		d.Verdict, d.Why = Forced, what+": forced"
	case int64(next)*guardTenth < int64(inForce):
		d.Verdict, d.Why = HoldForForce, what+": held, less than a tenth is left; only --force enforces it"
	case now.Before(until):
		d.Verdict, d.Until = Hold, until
		d.Why = fmt.Sprintf("%s: held since %s, until %s or --force", what, stamp(since), stamp(until))
	default:
		d.Verdict, d.Why = Waited, fmt.Sprintf("%s: enforced, as it has been like this since %s", what, stamp(since))
	}
	return d
}

// shrinks reports whether a table loses more than MaxShrink, or keeps less than a tenth. Exactly MaxShrink
// is not beyond it, however its product is rounded; a MaxShrink that is no number holds any loss.
func (g Guard) shrinks(inForce, next int) bool {
	lost, most := float64(inForce)-float64(next), min(g.MaxShrink, 1)*float64(inForce)
	return lost > 0 && (!(lost <= most+1e-6) || int64(next)*guardTenth < int64(inForce))
}

func stamp(t time.Time) string { return t.Format("2006-01-02 15:04") }
