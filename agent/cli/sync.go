package cli

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"example.org/threatstopd/agent/enforce"
	"example.org/threatstopd/agent/policy"
	"example.org/threatstopd/agent/update"
	"example.org/threatstopd/dnsfetch"
)

// syncNow is one policy run, told in the words of the scripts that it
// replaces, so that what owners look for in their logs is still there.
func syncNow(ctx context.Context, env Env, f *flags) error {
	cfg, err := load(env, f)
	if err != nil {
		return err
	}
	client, err := dnsfetch.New(fetchOptions(cfg))
	if err != nil {
		return usageError{err}
	}
	defer client.Close()
	unlock, err := enforce.Lock(filepath.Dir(cfg.BlockFile))
	if err != nil {
		return err
	}
	defer unlock()
	pf, err := env.OpenPF()
	if err != nil {
		return err
	}
	defer pf.Close()

	r := &syncReport{env: env, verbose: f.verbose > 0, load: cfg.ReloadPF}
	version, _, _ := strings.Cut(Version(), " ")
	r.say("Starting ThreatSTOP threatstopd %s update on %s", version, r.date(env.Now()))
	out := update.New(updateOptions(cfg, env), client).Run(ctx, enforce.New(pf), f.force, r.trace())
	r.end(out)
	if !out.OK() {
		return errSaid
	}
	return nil
}

// syncReport prints a run as it goes: what is done to Stdout, what is wrong to
// Stderr, and on a terminal how far a long list has come.
type syncReport struct {
	env     Env
	verbose bool
	load    bool // RELOAD_PF

	server  string // the last one named
	pending string // what is being fetched, until its server is known
	drawn   int    // width of the progress line
}

func (r *syncReport) say(format string, args ...any) {
	r.erase()
	fmt.Fprintf(r.env.Stdout, format+"\n", args...)
}

func (r *syncReport) warn(format string, args ...any) {
	r.erase()
	fmt.Fprintf(r.env.Stderr, "threatstopd: "+format+"\n", args...)
}

// date is as date(1) prints it.
func (r *syncReport) date(t time.Time) string {
	return t.In(r.env.Local).Format("Mon Jan _2 15:04:05 MST 2006")
}

// draw shows a line that the next one replaces.
func (r *syncReport) draw(line string) {
	if !r.env.Terminal {
		return
	}
	r.erase()
	io.WriteString(r.env.Stderr, line)
	r.drawn = len(line)
}

func (r *syncReport) erase() {
	if r.drawn > 0 {
		io.WriteString(r.env.Stderr, "\r"+strings.Repeat(" ", r.drawn)+"\r")
		r.drawn = 0
	}
}

func (r *syncReport) trace() update.Trace {
	return update.Trace{
		List: func(kind policy.Kind, name string) {
			r.pending = fmt.Sprintf("Processing %s list %s", kind, name)
			r.draw(r.pending)
		},
		Progress: func(_ policy.Kind, p dnsfetch.Progress) {
			r.processing(p.Server)
			if p.Parts > 1 {
				r.draw(fmt.Sprintf("  part %d of %d, %d entries", p.Done, p.Parts, p.Entries))
			}
		},
		Fetched: func(_ policy.Kind, l *dnsfetch.List) {
			r.processing(l.Server)
			for _, err := range l.Failed {
				r.warn("%v", err)
			}
			if r.verbose {
				r.say("  %d entries in %d parts (%s), %d bytes from %s in %v", l.Len(), l.Parts, l.Layout, l.Bytes, l.Server, l.Elapsed.Round(time.Millisecond))
			}
		},
		Failed: func(_ policy.Kind, _ string, err error) {
			r.processing("")
			r.warn("%v", err)
		},
		Complete: func() { r.say("Completed getting all the lists") },
		Setting: func(kind policy.Kind, s *policy.Set) {
			r.say("Adding %s", update.Counts(kind, s))
		},
	}
}

// processing says which list is being fetched, once it is known from where.
func (r *syncReport) processing(server string) {
	if server != "" && server != r.server {
		r.server = server
		r.say("Using DNS Server %s", server)
	}
	if r.pending != "" {
		r.say("%s", r.pending)
		r.pending = ""
	}
}

func (r *syncReport) end(out *update.Outcome) {
	if out.Policy != nil {
		r.exceptions(out.Policy.Report)
	}
	for _, t := range out.Tables {
		r.table(t)
	}
	if out.Err != nil {
		r.warn("%s", explain(out.Err))
	}
	for _, w := range out.Warnings {
		r.warn("warning: %s", w)
	}
	if out.NotEnforced != "" {
		r.warn("NOT ENFORCED: %s", out.NotEnforced)
	}
	r.say("Finished ThreatSTOP update at %s", r.date(out.Began.Add(out.Elapsed)))
	s := int(out.Elapsed.Seconds() + 0.5)
	r.say("Run Length: %d hour(s) %d minute(s) %d second(s)", s/3600, s/60%60, s%60)
	if r.verbose {
		r.say("  %v", out.Elapsed.Round(time.Millisecond/10))
	}
}

// exceptions names what was kept out of the block table and why.
func (r *syncReport) exceptions(report policy.Report) {
	for _, x := range report.Excepted {
		n := x.Inside + x.Around
		names := make([]string, 0, 3)
		for _, e := range x.Entries[:min(len(x.Entries), cap(names))] {
			names = append(names, entry(e.Prefix.String())+" of "+report.Lists[e.List].Name)
		}
		more := ""
		if n > len(names) {
			more = fmt.Sprintf(" and %d more", n-len(names))
		}
		r.say("Excepted %s (%s): listed as %s%s", entry(x.Prefix.String()), x.Why, strings.Join(names, ", "), more)
	}
	for i, d := range report.Dropped {
		if i == 3 && !r.verbose {
			break
		}
		r.warn("warning: %s list %s: entry %s dropped: %s", report.Lists[d.List].Kind, report.Lists[d.List].Name, entry(d.Prefix.String()), d.Why)
	}
	if n := report.DroppedCount; n > 3 {
		r.warn("warning: %d entries dropped in all", n)
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

func (r *syncReport) table(t update.Table) {
	name := t.Table.String()
	switch {
	case t.Err != nil:
		r.warn("%s", explain(t.Err))
	case t.Decision.Verdict == policy.RefuseEmpty:
		r.warn("pf table %s: held back: %s", name, t.Decision.Why)
	case !t.Decision.Allowed():
		until := ""
		if !t.Decision.Until.IsZero() {
			until = fmt.Sprintf("; enforced from %s on if it stays so", r.date(t.Decision.Until))
		}
		r.warn("pf table %s: held back: %s%s; `threatstopd --sync-now --force` enforces it now", name, t.Decision.Why, until)
	case !r.load:
		r.say("Table %s: pf would take it (%d added, %d deleted, %d changed, %d unchanged); not loaded (RELOAD_PF=no)",
			name, t.Delta.Added, t.Delta.Deleted, t.Delta.Changed, t.Unchanged())
	case t.Steps == 0:
		r.say("Table %s: unchanged, %d entries", name, t.InForce)
	default:
		steps := ""
		if t.Steps == 2 {
			steps = ", in two steps for want of room"
		}
		r.say("Reloading pf...done")
		r.say("Table %s: %d added, %d deleted, %d changed, %d unchanged: %d entries%s",
			name, t.Delta.Added, t.Delta.Deleted, t.Delta.Changed, t.Unchanged(), t.InForce, steps)
	}
	if t.Created {
		r.warn("warning: pf table %s was not defined, and was made: pf.conf must define it, or its rules do not see it", name)
	}
	if t.FileWritten && r.verbose {
		r.say("  persist file written")
	}
}
