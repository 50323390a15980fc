package status

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// A need is reported for lost hits during lostRecently, for uploads that have failed for
// failingFor, and for a spool fuller than spoolFull.
const (
	lostRecently = 24 * time.Hour
	failingFor   = 24 * time.Hour
	spoolFull    = 0.75
)

// NeedsOwner returns what does not pass by itself, the worst first, one line for each cause;
// nil when all is well. It decides the exit status of --status.
//
// A list that could not be fetched once, and an upload that has to be repeated, are not among
// it: both are tried again. Nor are exceptions and dropped entries.
func NeedsOwner(s *Status) []string {
	n := &needs{}
	switch {
	case s.Enforced, s.Unsure != "":
	case s.NotKnown != "":
		n.add("not known: %s", s.NotKnown)
	case s.NotEnforced != "":
		n.add("not enforced: %s", s.NotEnforced)
	default:
		n.add("not known: the state of pf has not been read yet")
	}
	n.lists(s)
	n.tables(s)
	n.reporting(s)
	for _, t := range s.Troubles {
		if t.NeedsOwner {
			n.add("%s", t.Text)
		}
	}
	return n.all
}

type needs struct{ all []string }

// add adds a need, unless one before it contains it: a cause is named once.
func (n *needs) add(format string, args ...any) {
	need := fmt.Sprintf(format, args...)
	if !slices.ContainsFunc(n.all, func(other string) bool { return strings.Contains(other, need) }) {
		n.all = append(n.all, need)
	}
}

// then joins two texts, if the second is not empty.
func then(text, sep, more string) string {
	if more == "" {
		return text
	}
	return text + sep + more
}

// lists adds absent lists, and stale ones, those with the same error as one need: servers that
// do not answer are one cause.
func (n *needs) lists(s *Status) {
	causes := make(map[string][]List)
	var order []string
	for _, l := range s.Lists {
		switch {
		case l.Absent:
			n.add("%s list %s: %s", l.Kind, l.Name, l.cause())
		case s.Stale(l):
			if causes[l.cause()] == nil {
				order = append(order, l.cause())
			}
			causes[l.cause()] = append(causes[l.cause()], l)
		}
	}
	for _, cause := range order {
		var names, ages []string
		for _, l := range causes[cause] {
			names = append(names, l.Kind+" list "+l.Name)
			old := "never fetched"
			if !l.Fetched.IsZero() {
				old = "last fetched " + age(s.Now.Sub(l.Fetched)) + " ago"
			}
			if !slices.Contains(ages, old) {
				ages = append(ages, old)
			}
		}
		text := fmt.Sprintf("%s: stale, %s (limit %s)", strings.Join(names, ", "), strings.Join(ages, ", "), age(s.Poll.StaleAfter.Duration()))
		n.add("%s", then(text, ": ", cause))
	}
}

// cause is the error of the list without its name.
func (l List) cause() string {
	if _, rest, ok := strings.Cut(l.Error, l.Name+": "); ok && l.Name != "" {
		return rest
	}
	return l.Error
}

func (n *needs) tables(s *Status) {
	for _, t := range s.Tables {
		switch {
		case t.Held != nil:
			force := ""
			if t.Held.Forcible {
				force = "; `threatstopd --sync-now --force` enforces it now"
			}
			n.add("pf table %s: held back: %s%s", t.Name, t.Held.Why, force)
		case t.Error != "":
			n.add("%s", t.Error)
		case !t.Loaded || t.Policy == 0 || s.NotKnown != "":
		case t.Kernel < 0:
			n.add("pf table %s: pf has no such table", t.Name)
		case t.Kernel != t.Policy:
			n.add("pf table %s: has %d entries, the policy %d: something else writes to it", t.Name, t.Kernel, t.Policy)
		}
	}
	if p := s.PF; p.Advice != "" {
		n.add("%s", p.Advice)
	} else if !p.fits() {
		n.add("pf.conf cannot be loaded again (used %d + files %d > limit %d): raise `set limit table-entries` in it, above the table lines",
			p.Used, p.Reload, p.Limit)
	}
}

// reporting adds what is wrong with hits and uploads.
func (n *needs) reporting(s *Status) {
	if h := &s.Hits; h.Mode != "no" && !h.Capturing && h.Error != "" {
		n.add("not reading pflog: %s", h.Error)
	}
	u := &s.Uploads
	if u.Aside.Batches > 0 {
		n.add("%s refused by the log server%s: %s set aside in %s", plural(u.Aside.Batches, "batch", "batches"),
			strings.TrimSuffix(" ("+u.AsideError+")", " ()"), plural(u.Aside.Lines, "line", "lines"), filepath.Join(u.SpoolDir, "refused"))
	}
	for _, d := range s.Hits.Drops {
		if hits, text := d.reason(); d.Count > 0 && hits && !d.Last.IsZero() && s.Now.Sub(d.Last) < lostRecently {
			n.add("%s lost: %s, last %s ago", plural(d.Count, "hit", "hits"), text, age(s.Now.Sub(d.Last)))
		}
	}
	if lasts := s.Now.Sub(u.FailingSince); !u.FailingSince.IsZero() && (u.Advice != "" || lasts >= failingFor) {
		n.add("uploads have failed for %s: %s", age(lasts), then(u.Error, ": ", u.Advice))
	}
	if u.SpoolError != "" {
		n.add("hits stay in memory: %s", u.SpoolError)
	}
	if u.DiskMax > 0 && float64(u.DiskUsed) > spoolFull*float64(u.DiskMax) {
		n.add("the spool is filling up: %s of %s (SPOOL_MAX) in %s", size(u.DiskUsed), size(u.DiskMax), u.SpoolDir)
	}
}

// Stale reports whether a list of s is older than it may be. One that has not been fetched
// since the start is as old as the daemon.
func (s *Status) Stale(l List) bool {
	since := l.Fetched
	if since.IsZero() {
		since = s.Started
	}
	limit := s.Poll.StaleAfter.Duration()
	return limit > 0 && s.Now.Sub(since) > limit
}

// fits reports whether pf has room for a reload of pf.conf, as far as it is known.
func (p PF) fits() bool { return p.Limit <= 0 || p.Used+p.Reload <= p.Limit }

// reasons are the reasons for losing packets or hits, in the order of their way, with their
// meaning. Those with hits set are hits that should have been delivered.
var reasons = []struct {
	name string
	hits bool
	text string
}{
	{DropKernel, false, "dropped by the kernel, as its buffer was full"},
	{DropMalformed, false, "reads that did not parse"},
	{DropUndecoded, false, "cut or broken packets"},
	{DropNoPolicy, false, "logged before there was a policy"},
	{DropMemory, true, "no room in memory"},
	{DropUnsaved, true, "not saved at the end"},
	{DropSpoolFull, true, "the oldest of a full spool"},
	{DropSpoolAge, true, "older than SPOOL_AGE"},
	{DropSpoolDamage, true, "damaged in the spool"},
	{DropRefused, true, "refused by the log server, and no room to keep them"},
}

// reason returns the row of the reason; a newer daemon may have others.
func (d Drop) reason() (hits bool, text string) {
	for _, r := range reasons {
		if r.name == d.Reason {
			return r.hits, r.text
		}
	}
	return true, d.Reason
}
