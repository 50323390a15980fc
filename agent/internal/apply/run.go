package apply

import (
	"errors"
	"fmt"
	"reflect"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"example.org/threatstopd/agent/internal/policy"
)

// Options are what a run accepts and where it puts the policy.
type Options struct {
	Policy       policy.Options
	Guard        policy.Guard // Run sets MayBeEmpty for each table
	Block, Allow Target
	Now          func() time.Time // nil: time.Now
}

// Target returns the table of a kind of lists.
func (o *Options) Target(k policy.Kind) Target {
	if k == policy.Allow {
		return o.Allow
	}
	return o.Block
}

// List is a configured list and the last copy of it.
type List struct {
	policy.List        // Entries is nil when there is no copy; else a pointer, the same one for the same copy
	Server      string // the policy server that the copy came from
	Err         error  // why the list could not be fetched; the copy, if any, is then an earlier one

	// Down is why no policy server could be reached for any list: ErrUnreached or a cause that wraps no
	// server's answer; nil if one was reached.
	Down error
	// Absent is set if the list does not exist, or is a block list and empty: every server that was reached
	// answered so with authority.
	Absent bool
}

// Outcome is what a run did. It is complete up to the point that the run reached, also if Err is set.
type Outcome struct {
	Began   time.Time
	Elapsed time.Duration
	Lists   []List         // as given, but for the copies that an absent list has lost
	Policy  *policy.Policy // nil when the lists did not make one
	Facts   policy.Facts   // what the policy's exceptions were made from
	Tables  []Table        // in the order in which they were set
	// Warnings are for the owner, one line each: a pf.conf that could not be loaded again, a file that
	// cannot be read.
	Warnings []string
	// NotEnforced is why the policy has no effect although the tables hold it: pf is disabled, no rule
	// uses the block table. Empty when it has an effect.
	NotEnforced string
	// Err is why the run ended before it set a table; nil when it set them.
	Err error
}

// Enforced reports whether the tables and their files now hold the policy of the copies at hand.
func (o *Outcome) Enforced() bool {
	return o.Err == nil && !slices.ContainsFunc(o.Tables, func(t Table) bool { return t.Err != nil || !t.Decision.Allowed() })
}

// OK reports whether the tables now hold the policy that the servers have, and all lists have come.
func (o *Outcome) OK() bool {
	return o.Enforced() && !slices.ContainsFunc(o.Lists, func(l List) bool { return l.Err != nil })
}

// Table is what became of one table.
type Table struct {
	Kind   policy.Kind
	Set    *policy.Set
	Load   bool   // the table is set, not only checked; see Target
	Header Header // of the table file
	Result
	Decision policy.Decision // when it does not allow the table, nothing was tried
	Err      error

	unchecked bool // the guard could not decide: Decision is meaningless
}

// InPF reports whether pf now holds the table's set, or would accept it where the table is only
// checked. That can be so with an error too: that of the table file.
func (t *Table) InPF() bool { return t.Decision.Allowed() && (t.Err == nil || t.Holds) }

// made is a policy and what it was made from.
type made struct {
	options policy.Options
	lists   []policy.List
	facts   policy.Facts
	policy  *policy.Policy // nil: none yet
}

// Run makes one policy of the lists and of the exceptions that follow from the facts, and brings both
// tables to it, first what is allowed, then what is blocked. If something about the policy looks
// wrong, what was in force stays in force: see policy.Guard. With force the owner accepts a table
// that shrank too much.
//
// lists are all that are configured. One without a copy ends the run, unless it is an absent block
// list. An absent list keeps its copy for Guard.Hold, counted from the "held back since" line of the
// table file; then its copy in the Outcome is empty, and the caller must keep that one.
//
// setting, if not nil, is called before a table is set. The Outcome is never nil.
func (e *Enforcer) Run(o *Options, lists []List, facts policy.Facts, force bool, setting func(policy.Kind, *policy.Set)) *Outcome {
	now := time.Now
	if o.Now != nil {
		now = o.Now
	}
	out := &Outcome{Began: now(), Lists: slices.Clone(lists), Facts: facts}
	r := &run{Enforcer: e, o: o, now: out.Began, force: force, setting: setting, out: out}
	err := missing(lists)
	if err == nil {
		out.Policy, err = r.policy()
	}
	if err == nil {
		r.tables()
	} else {
		out.Err = e.Stays(o, err)
	}
	out.Elapsed = now().Sub(out.Began)
	return out
}

// Stays completes the error of a run that sets no table: the policy in force stays, if there is one.
func (e *Enforcer) Stays(o *Options, err error) error {
	n, _ := e.inForce(o.Block.Table)
	if n == 0 && !o.Block.Load {
		n, _ = FileEntries(o.Block.File)
	}
	if n > 0 {
		return fmt.Errorf("%w: the policy in force stays", err)
	}
	return err
}

// ErrUnreached is why a list was not asked for when no server could be reached for another list.
var ErrUnreached = errors.New("no policy server can be reached")

// missing returns why the lists cannot make a policy, nil when they can: each has a copy, or is a
// block list that does not exist or is empty.
func missing(lists []List) error {
	missing := 0
	var down error
	for _, l := range lists {
		if l.Down != nil {
			down = l.Down
		}
		if l.Entries == nil && !(l.Absent && l.Kind == policy.Block) {
			missing++
		}
	}
	if missing == 0 {
		return nil
	}
	err := fmt.Errorf("%d of %d lists could not be fetched", missing, len(lists))
	if down != nil {
		err = fmt.Errorf("%w: %w", down, err)
	}
	return err
}

// run is one run.
type run struct {
	*Enforcer
	o       *Options
	now     time.Time
	force   bool
	setting func(policy.Kind, *policy.Set)
	out     *Outcome
	kept    [2]time.Time // by kind: since when copies of absent lists have been kept; zero when none is
}

// policy makes the policy. From the same lists and facts it returns the same policy again, without the
// work: that is the usual case in a long-lived process.
func (r *run) policy() (*policy.Policy, error) {
	next := made{options: r.o.Policy, facts: r.out.Facts}
	for i := range r.out.Lists {
		l := &r.out.Lists[i]
		r.settle(l)
		if l.Entries != nil {
			next.lists = append(next.lists, l.List)
		}
	}
	last := &r.made
	if last.policy == nil || last.options != next.options || !slices.Equal(last.lists, next.lists) || !reflect.DeepEqual(last.facts, next.facts) {
		var err error
		next.policy, err = policy.Build(next.lists, policy.Exceptions(next.facts), next.options)
		if errors.Is(err, policy.ErrTooMany) {
			err = fmt.Errorf("%w: MAX_ENTRIES in threatstop.conf allows more, if the lists are meant to be that large", err)
		}
		if err != nil {
			return nil, err
		}
		r.made = next
		// What Build sorted is garbage now, and pf's array needs as much again.
		debug.FreeOSMemory()
	}
	return r.made.policy, nil
}

// settle decides whether an absent list keeps its copy.
func (r *run) settle(l *List) {
	if !l.Absent || l.Entries == nil || l.Entries.Len() == 0 {
		return
	}
	since := r.held(r.o.Target(l.Kind))
	if since.IsZero() || since.After(r.now) {
		since = r.now
	}
	if r.force || !r.now.Before(since.Add(r.o.Guard.Hold)) {
		l.Entries = new(policy.Prefixes)
		return
	}
	r.kept[l.Kind] = since
}

// held returns the time noted in the table file, in the zone in which the owner reads it. If the file
// cannot be read, that is no reason not to enforce: the time, if one is needed, then begins now, and
// Apply reports the file.
func (r *run) held(t Target) (since time.Time) {
	if _, since, _ = readHeader(t.File); !since.IsZero() {
		since = since.In(r.now.Location())
	}
	return since
}

// tables brings both tables to the policy.
func (r *run) tables() {
	out := r.out
	allow := Table{Kind: policy.Allow, Set: out.Policy.Allow}
	if r.allowInUse() {
		r.table(&allow, r.o.Allow)
		out.Tables = append(out.Tables, allow)
	}
	block := Table{Kind: policy.Block, Set: out.Policy.Block}
	block.Table = r.o.Block.Table
	// The block table of this policy has holes only for these allow lists, so it must not be set when
	// the allow lists are in doubt.
	switch {
	case !allow.Decision.Allowed():
		block.Decision = policy.Decision{Verdict: policy.Hold, Until: allow.Decision.Until, Why: "it was made with the allow lists that are held back"}
	case allow.unchecked:
		block.Err = fmt.Errorf("pf table %s: not set: it was made with the allow lists, and whether those shrank is not known", block.Table)
	default:
		r.table(&block, r.o.Block)
	}
	out.Tables = append(out.Tables, block)
	r.judge()
}

// allowInUse reports whether the allow table is ours to set. Without allow lists the table is the
// owner's, unless its file shows that it was filled from lists before: those entries must not outlive
// their lists.
func (r *run) allowInUse() bool {
	if slices.ContainsFunc(r.out.Lists, func(l List) bool { return l.Kind == policy.Allow }) {
		return true
	}
	n, err := r.inForce(r.o.Allow.Table)
	table := ""
	if err == nil {
		table, _, err = readHeader(r.o.Allow.File)
	}
	if err != nil {
		r.out.Warnings = append(r.out.Warnings, err.Error())
	}
	return n > 0 && table == r.o.Allow.Table.String()
}

// table asks the guard, and sets one table.
func (r *run) table(t *Table, target Target) {
	t.Table, t.Load = target.Table, target.Load
	// If the owner loads the tables, what is in force is what the file has.
	inForce, err := r.inForce(target.Table)
	if !t.Load {
		inForce, err = FileEntries(target.File)
	}
	if err != nil {
		t.Err, t.unchecked = err, true
		return
	}
	since := r.held(target)
	guard := r.o.Guard
	guard.MayBeEmpty = t.Kind == policy.Allow
	t.Decision = guard.Check(inForce, t.Set.Len(), since, r.now, r.force)
	t.InForce = inForce
	t.Header = Header{
		Time:   r.now,
		Table:  target.Table.String(),
		Server: servers(r.out.Lists),
		Counts: Counts(t.Kind, t.Set),
		Held:   r.kept[t.Kind],
	}
	if !t.Decision.Allowed() {
		if !t.Decision.Since.Truncate(time.Second).Equal(since) {
			t.Header.Held = t.Decision.Since
			t.Err = r.hold(target, t.Header)
		}
		return
	}
	if r.setting != nil {
		r.setting(t.Kind, t.Set)
	}
	t.Result, t.Err = r.Apply(target, t.Set, t.Header)
}

// judge adds what the owner must know although every call succeeded.
func (r *run) judge() {
	inFiles := 0
	for _, t := range r.out.Tables {
		switch {
		case !t.Load && t.Err == nil && t.Decision.Allowed():
			inFiles += t.Entries
		case t.InForce > 0:
			inFiles += t.InForce
		}
	}
	advice, err := r.ReloadAdvice(inFiles)
	if err != nil {
		advice = err.Error()
	}
	if advice != "" {
		r.out.Warnings = append(r.out.Warnings, advice)
	}
	g, err := r.Glance(r.o.Block.Table, r.o.Allow.Table)
	if err != nil {
		r.out.Warnings = append(r.out.Warnings, err.Error())
		return
	}
	r.out.NotEnforced = g.NotEnforced()
}

// Counts returns what a set holds, in words: "26424 blocked addresses, 3 exceptions".
func Counts(kind policy.Kind, s *policy.Set) string {
	c := s.Counts()
	text := Plural(c.V4+c.V6-c.Not, kind.String()+"ed address", kind.String()+"ed addresses")
	if c.Not > 0 {
		text += ", " + Plural(c.Not, "exception", "exceptions")
	}
	return text
}

// servers names each server that a list came from once.
func servers(lists []List) string {
	var names []string
	for _, l := range lists {
		if l.Entries != nil && l.Server != "" && !slices.Contains(names, l.Server) {
			names = append(names, l.Server)
		}
	}
	return strings.Join(names, ", ")
}
