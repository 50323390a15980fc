package apply

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/pfioctl"
)

// Explain returns an error's text with what to do about it, where that is known.
func Explain(err error) string {
	var pf *pfioctl.Error
	if errors.As(err, &pf) {
		if advice := pf.Advice(); advice != "" {
			return err.Error() + ": " + advice
		}
	}
	if errors.Is(err, ErrUnreached) {
		return err.Error() + ": check DNS_SERVERS in threatstop.conf, and that pf.conf lets this host connect to them (TCP, port 53 or 5353)"
	}
	return err.Error()
}

// Narrator prints a run line by line in the words of the scripts that threatstopd replaces, which owners
// search logs for.
type Narrator struct {
	Say     func(line string) // what is done
	Warn    func(line string) // what is wrong
	Draw    func(line string) // how much of a list has been fetched, each line in place of the one before; may be nil
	Verbose bool              // add details: lines that begin with two spaces
	Local   *time.Location    // the zone of times
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

// Begin prints that a run begins.
func (n *Narrator) Begin(now time.Time) {
	n.say("Starting ThreatSTOP threatstopd %s update on %s", n.Version, n.date(now))
}

// date returns a time as date(1) prints it.
func (n *Narrator) date(t time.Time) string {
	return t.In(n.Local).Format("Mon Jan _2 15:04:05 MST 2006")
}

// Fetching prints that a list is about to be fetched.
func (n *Narrator) Fetching(kind policy.Kind, name string) {
	n.pending = fmt.Sprintf("Processing %s list %s", kind, name)
	n.draw("%s", n.pending)
}

// Progress shows how much of the list has been fetched.
func (n *Narrator) Progress(server string, done, parts, got int) {
	n.processing(server)
	if parts > 1 {
		n.draw("  part %d of %d, %s", done, parts, entries(got))
	}
}

// Fetched prints that the list has been fetched: from where, which servers failed before, and the details.
func (n *Narrator) Fetched(server string, failed []error, details string) {
	n.processing(server)
	for _, err := range failed {
		n.warn("%v", err)
	}
	if n.Verbose {
		n.say("  %s", details)
	}
}

// Failed prints why the list could not be fetched.
func (n *Narrator) Failed(err error) {
	n.processing("")
	n.warn("%v", err)
}

// Complete prints that all lists have been fetched.
func (n *Narrator) Complete() { n.say("Completed getting all the lists") }

// Setting prints that a table is about to be set.
func (n *Narrator) Setting(kind policy.Kind, s *policy.Set) { n.say("Adding %s", Counts(kind, s)) }

// processing prints which list is being fetched, once its server is known.
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

// End prints what the run did.
func (n *Narrator) End(out *Outcome) {
	for _, l := range out.Lists {
		if l.Err != nil && l.Entries != nil && l.Entries.Len() > 0 {
			n.warn("%s list %s: the earlier copy stays in use, %s", l.Kind, l.Name, entries(l.Entries.Len()))
		}
	}
	if out.Policy != nil {
		n.exceptions(out.Policy.Report)
	}
	if slices.ContainsFunc(out.Tables, func(t Table) bool { return t.Steps > 0 }) {
		n.say("Reloading pf...done")
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

// shown is how many dropped entries and how many exceptions are named, the others being details;
// shownExcepted is how many entries are named for one exception.
const shown, shownExcepted = 10, 3

// few prints line i of many: the first ones with print, the others as details.
func (n *Narrator) few(i int, print func(line string), line string) {
	if i < shown {
		print(line)
	} else if n.Verbose {
		n.say("  %s", line)
	}
}

// exceptions prints what was kept out of the block table and why.
func (n *Narrator) exceptions(report policy.Report) {
	for i, x := range report.Excepted {
		n.few(i, n.Say, fmt.Sprintf("Excepted %s (%s): listed as %s", entry(x.Prefix), x.Why, listedAs(x, report.Lists)))
	}
	if len(report.Excepted) > shown {
		n.say("Excepted: %d networks in all", len(report.Excepted))
	}
	allowed := 0
	for _, l := range report.Lists {
		allowed += l.Allowed
		if n.Verbose {
			n.say("  %s", became(l))
		}
	}
	if allowed > 0 {
		n.say("Allowed: %s of block lists, all of which allow lists have", entries(allowed))
	}
	for i, d := range report.Dropped {
		l := report.Lists[d.List]
		n.few(i, func(line string) { n.warn("warning: %s", line) },
			fmt.Sprintf("%s list %s: entry %s dropped: %s", l.Kind, l.Name, entry(d.Prefix), d.Why))
	}
	if report.DroppedCount > shown {
		n.warn("warning: %s dropped in all", entries(report.DroppedCount))
	}
}

// listedAs names the entries that an exception met:
// "10.0.0.1 in basic.example.net, 10.0.0.0/8 in strict.example.net and 7 more".
func listedAs(x policy.Excepted, lists []policy.ListReport) string {
	var names []string
	for _, e := range x.Entries[:min(len(x.Entries), shownExcepted)] {
		names = append(names, entry(e.Prefix())+" in "+lists[e.List].Name)
	}
	text := strings.Join(names, ", ")
	if more := x.Inside + x.Around - len(names); more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// became returns what became of a list's entries:
// "block list basic.example.net: 900 entries, 890 enforced, 10 excepted".
func became(l policy.ListReport) string {
	text := fmt.Sprintf("%s list %s: %s", l.Kind, l.Name, entries(l.Entries))
	for _, part := range []struct {
		n    int
		what string
	}{
		{l.Enforced, "enforced"}, {l.Excepted, "excepted"}, {l.Allowed, "allowed"},
		{l.Others(), "other (negated, listed before, or with nothing left to block)"}, {l.Dropped, "dropped"},
	} {
		if part.n > 0 {
			text += fmt.Sprintf(", %d %s", part.n, part.what)
		}
	}
	return text
}

// entry returns a prefix as text, a host without its length.
func entry(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

// Plural returns a number of things: "1 part", "2 parts".
func Plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

func entries(n int) string { return Plural(n, "entry", "entries") }

// table prints what became of a table.
func (n *Narrator) table(t Table) {
	name, held := t.Table.String(), t.Decision.Verdict
	signs, steps := "", ""
	if t.Delta.Changed > 0 { // entries that were there with the other sign
		signs = fmt.Sprintf(", %d changed", t.Delta.Changed)
	}
	if t.Steps == 2 {
		steps = ", in two steps for want of room"
	}
	delta := fmt.Sprintf("%d added, %d deleted%s, %d unchanged", t.Delta.Added, t.Delta.Deleted, signs, t.Unchanged())
	switch {
	case t.Err == nil && held == policy.RefuseEmpty:
		n.warn("pf table %s: held back: %s", name, t.Decision.Why)
	case t.Err == nil && !t.Decision.Allowed():
		n.warn("pf table %s: held back: %s; `threatstopd --sync-now --force` enforces it now", name, t.Decision.Why)
	case t.Steps > 0:
		n.say("Table %s: %s: %s%s", name, delta, entries(t.InForce), steps)
	case t.Err != nil:
	case t.Load:
		n.say("Table %s: unchanged, %s", name, entries(t.InForce))
	default:
		n.say("Table %s: pf would take it (%s); not loaded (RELOAD_PF=no), the file has it now", name, delta)
	}
	if t.Err != nil {
		n.warn("%s", Explain(t.Err))
	}
	if held == policy.Waited || held == policy.Forced {
		n.say("Table %s: %s", name, t.Decision.Why)
	}
	// The allow table is needed only by rules that refer to it: the block table has the holes.
	if t.Created && t.Kind == policy.Block {
		n.warn("warning: pf table %s was not defined, and was made: pf.conf must define it, or its rules do not see it", name)
	}
	if t.FileWritten && t.Load && n.Verbose {
		n.say("  persist file written")
	}
}
