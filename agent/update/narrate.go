package update

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"example.org/threatstopd/agent/policy"
	"example.org/threatstopd/dnsfetch"
	"example.org/threatstopd/pfioctl"
)

// Explain is an error's text with what to do about it, where that is known.
func Explain(err error) string {
	var pf *pfioctl.Error
	if errors.As(err, &pf) {
		if advice := pf.Advice(); advice != "" {
			return err.Error() + ": " + advice
		}
	}
	return err.Error()
}

// Narrator tells a run line by line in the words of the scripts that
// threatstopd replaces, so that what owners look for is still there.
type Narrator struct {
	Say  func(line string) // what is done
	Warn func(line string) // what is wrong
	// Draw shows how far a long list has come; each line takes the place of
	// the one before. It may be nil.
	Draw func(line string)

	Verbose bool
	Local   *time.Location // the zone of times
	Version string

	server  string // the last one named
	pending string // what is being fetched, until its server is known
}

func (n *Narrator) say(format string, args ...any)  { n.Say(fmt.Sprintf(format, args...)) }
func (n *Narrator) warn(format string, args ...any) { n.Warn(fmt.Sprintf(format, args...)) }

func (n *Narrator) draw(format string, args ...any) {
	if n.Draw != nil {
		n.Draw(fmt.Sprintf(format, args...))
	}
}

// Begin tells that a run begins, and returns the Trace that tells of it.
func (n *Narrator) Begin(now time.Time) Trace {
	n.say("Starting ThreatSTOP threatstopd %s update on %s", n.Version, n.date(now))
	return n.trace()
}

// date is as date(1) prints it.
func (n *Narrator) date(t time.Time) string {
	return t.In(n.Local).Format("Mon Jan _2 15:04:05 MST 2006")
}

func (n *Narrator) trace() Trace {
	return Trace{
		List: func(kind policy.Kind, name string) {
			n.pending = fmt.Sprintf("Processing %s list %s", kind, name)
			n.draw("%s", n.pending)
		},
		Progress: func(_ policy.Kind, p dnsfetch.Progress) {
			n.processing(p.Server)
			if p.Parts > 1 {
				n.draw("  part %d of %d, %d entries", p.Done, p.Parts, p.Entries)
			}
		},
		Fetched: func(_ policy.Kind, l *dnsfetch.List) {
			n.processing(l.Server)
			for _, err := range l.Failed {
				n.warn("%v", err)
			}
			if n.Verbose {
				n.say("  %d entries in %d parts (%s), %d bytes from %s in %v", l.Len(), l.Parts, l.Layout, l.Bytes, l.Server, l.Elapsed.Round(time.Millisecond))
			}
		},
		Failed: func(_ policy.Kind, _ string, err error) {
			n.processing("")
			n.warn("%v", err)
		},
		Complete: func() { n.say("Completed getting all the lists") },
		Setting: func(kind policy.Kind, s *policy.Set) {
			n.say("Adding %s", Counts(kind, s))
		},
	}
}

// processing says which list is being fetched, once it is known from where.
func (n *Narrator) processing(server string) {
	if server != "" && server != n.server {
		n.server = server
		n.say("Using DNS Server %s", server)
	}
	if n.pending != "" {
		n.say("%s", n.pending)
		n.pending = ""
	}
}

// End tells how the run ended.
func (n *Narrator) End(out *Outcome) {
	for _, l := range out.Lists {
		if l.Err != nil && l.List != nil {
			n.warn("%s list %s: %d entries of an earlier copy stay in use", l.Kind, l.Name, l.Len())
		}
	}
	if out.Policy != nil {
		n.exceptions(out.Policy.Report)
	}
	for _, t := range out.Tables {
		n.table(t)
	}
	if out.Err != nil {
		n.warn("%s", Explain(out.Err))
	}
	for _, w := range out.Warnings {
		n.warn("warning: %s", w)
	}
	if out.NotEnforced != "" {
		n.warn("NOT ENFORCED: %s", out.NotEnforced)
	}
	n.say("Finished ThreatSTOP update at %s", n.date(out.Began.Add(out.Elapsed)))
	s := int(out.Elapsed.Seconds() + 0.5)
	n.say("Run Length: %d hour(s) %d minute(s) %d second(s)", s/3600, s/60%60, s%60)
	if n.Verbose {
		n.say("  %v", out.Elapsed.Round(time.Millisecond/10))
	}
}

// exceptions names what was kept out of the block table and why.
func (n *Narrator) exceptions(report policy.Report) {
	for _, x := range report.Excepted {
		count := x.Inside + x.Around
		names := make([]string, 0, 3)
		for _, e := range x.Entries[:min(len(x.Entries), cap(names))] {
			names = append(names, entry(e.Prefix.String())+" of "+report.Lists[e.List].Name)
		}
		more := ""
		if count > len(names) {
			more = fmt.Sprintf(" and %d more", count-len(names))
		}
		n.say("Excepted %s (%s): listed as %s%s", entry(x.Prefix.String()), x.Why, strings.Join(names, ", "), more)
	}
	for i, d := range report.Dropped {
		if i == 3 && !n.Verbose {
			break
		}
		n.warn("warning: %s list %s: entry %s dropped: %s", report.Lists[d.List].Kind, report.Lists[d.List].Name, entry(d.Prefix.String()), d.Why)
	}
	if report.DroppedCount > 3 {
		n.warn("warning: %d entries dropped in all", report.DroppedCount)
	}
}

// entry shows a host without its length.
func entry(prefix string) string {
	if s, ok := strings.CutSuffix(prefix, "/32"); ok {
		return s
	}
	if s, ok := strings.CutSuffix(prefix, "/128"); ok {
		return s
	}
	return prefix
}

func (n *Narrator) table(t Table) {
	name := t.Table.String()
	switch {
	case t.Err != nil:
		n.warn("%s", Explain(t.Err))
	case t.Decision.Verdict == policy.RefuseEmpty:
		n.warn("pf table %s: held back: %s", name, t.Decision.Why)
	case !t.Decision.Allowed():
		until := ""
		if !t.Decision.Until.IsZero() {
			until = fmt.Sprintf("; enforced from %s on if it stays so", n.date(t.Decision.Until))
		}
		n.warn("pf table %s: held back: %s%s; `threatstopd --sync-now --force` enforces it now", name, t.Decision.Why, until)
	case !t.Load:
		n.say("Table %s: pf would take it (%d added, %d deleted, %d changed, %d unchanged); not loaded (RELOAD_PF=no)",
			name, t.Delta.Added, t.Delta.Deleted, t.Delta.Changed, t.Unchanged())
	case t.Steps == 0:
		n.say("Table %s: unchanged, %d entries", name, t.InForce)
	default:
		steps := ""
		if t.Steps == 2 {
			steps = ", in two steps for want of room"
		}
		n.say("Reloading pf...done")
		n.say("Table %s: %d added, %d deleted, %d changed, %d unchanged: %d entries%s",
			name, t.Delta.Added, t.Delta.Deleted, t.Delta.Changed, t.Unchanged(), t.InForce, steps)
	}
	if t.Created {
		n.warn("warning: pf table %s was not defined, and was made: pf.conf must define it, or its rules do not see it", name)
	}
	if t.FileWritten && n.Verbose {
		n.say("  persist file written")
	}
}
