package status

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// What asks for the owner: hits that were lost are told for recently; a log server may be
// away for failingFor, and the spool be filled to spoolFull, before anybody need know.
const (
	recently   = 24 * time.Hour
	failingFor = 24 * time.Hour
	spoolFull  = 0.75
)

// NeedsOwner returns what will not pass by itself, the worst first, one line each; nil
// when all is well. What it returns decides whether --status ends with 0.
//
// A list that once could not be fetched is not among it, nor an upload that has to be
// repeated: both are tried again. Nor are exceptions and dropped entries, which are as they
// should be.
func NeedsOwner(s *Status) []string {
	var all []string
	needs := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }

	if !s.Enforced {
		why := s.NotEnforced
		if why == "" {
			why = "pf has not been looked at yet"
		}
		needs("not enforced: %s", why)
	}
	for i := range s.Lists {
		l := &s.Lists[i]
		if !s.Stale(l) {
			continue
		}
		why := ""
		if l.Error != "" {
			why = ": " + l.Error
		}
		if l.Fetched.IsZero() {
			needs("%s list %s: has not been fetched since the start %s ago%s", l.Kind, l.Name, age(s.Now.Sub(s.Started)), why)
		} else {
			needs("%s list %s: stale, last fetched %s ago (limit %s)%s", l.Kind, l.Name, age(s.Now.Sub(l.Fetched)), age(s.Poll.StaleAfter.Duration()), why)
		}
	}
	for i := range s.Tables {
		t := &s.Tables[i]
		switch {
		case t.Held != nil:
			force := ""
			if t.Held.Forcible {
				force = "; `threatstopd --sync-now --force` enforces it now"
			}
			needs("pf table %s: held back: %s%s", t.Name, t.Held.Why, force)
		case t.Error != "":
			needs("%s", t.Error)
		case !t.Loaded || t.Policy == 0:
		case t.Kernel < 0:
			needs("pf table %s: pf has no such table", t.Name)
		case t.Kernel != t.Policy:
			needs("pf table %s: has %d entries, the policy %d: something else writes to it", t.Name, t.Kernel, t.Policy)
		}
	}
	if p := &s.PF; p.Advice != "" {
		needs("%s", p.Advice)
	} else if !p.fits() {
		needs("pf.conf cannot be loaded again (used %d + files %d > limit %d): raise `set limit table-entries` in it, above the table lines", p.Used, p.Reload, p.Limit)
	}
	if h := &s.Hits; h.Mode != "no" && !h.Capturing && h.Error != "" {
		needs("hits are not seen: %s", h.Error)
	}
	u := &s.Uploads
	if u.Aside.Batches > 0 {
		needs("%s refused by the log server (%s): set aside in %s", plural(u.Aside.Batches, "batch", "batches"), plural(u.Aside.Lines, "line", "lines"), u.SpoolDir)
	}
	for _, d := range s.Hits.Drops {
		if d.Count > 0 && d.ofHits() && !d.Last.IsZero() && s.Now.Sub(d.Last) < recently {
			needs("%s lost: %s, last %s ago", plural(d.Count, "hit", "hits"), d.text(), age(s.Now.Sub(d.Last)))
		}
	}
	if !u.FailingSince.IsZero() && s.Now.Sub(u.FailingSince) >= failingFor {
		needs("uploads have failed for %s: %s", age(s.Now.Sub(u.FailingSince)), u.Error)
	}
	if u.DiskMax > 0 && float64(u.DiskUsed) > spoolFull*float64(u.DiskMax) {
		needs("the spool is filling up: %s of %s (SPOOL_MAX) in %s", size(u.DiskUsed), size(u.DiskMax), u.SpoolDir)
	}
	for _, t := range s.Troubles {
		// What is known by its figures, too, has been said with them.
		if t.NeedsOwner && !slices.ContainsFunc(all, func(said string) bool { return strings.Contains(said, t.Text) }) {
			needs("%s", t.Text)
		}
	}
	return all
}

// Stale says whether a list of s is older than it may be. One that has not been fetched
// since the start is as old as the daemon.
func (s *Status) Stale(l *List) bool {
	since := l.Fetched
	if since.IsZero() {
		since = s.Started
	}
	limit := s.Poll.StaleAfter.Duration()
	return limit > 0 && s.Now.Sub(since) > limit
}

// fits says whether pf has room for a reload of pf.conf, as far as it is known.
func (p *PF) fits() bool { return p.Limit <= 0 || p.Used+p.Reload <= p.Limit }

// ofHits says whether what was lost should have been delivered.
func (d *Drop) ofHits() bool {
	switch d.Reason {
	case DropKernel, DropMalformed, DropUndecoded, DropNoPolicy:
		return false
	}
	return true
}

// dropTexts say what the reasons mean.
var dropTexts = map[string]string{
	DropKernel:      "dropped by the kernel, as its buffer was full",
	DropMalformed:   "reads that did not parse",
	DropUndecoded:   "cut or broken packets",
	DropNoPolicy:    "logged before there was a policy",
	DropMemory:      "no room in memory",
	DropUnsaved:     "not saved at the end",
	DropSpoolFull:   "the oldest of a full spool",
	DropSpoolAge:    "older than SPOOL_AGE",
	DropSpoolDamage: "damaged in the spool",
	DropRefused:     "refused by the log server, and no room to keep them",
}

// text says what the reason means. One of a newer daemon speaks for itself.
func (d *Drop) text() string {
	if t := dropTexts[d.Reason]; t != "" {
		return t
	}
	return d.Reason
}
