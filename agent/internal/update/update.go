// Package update carries out one policy run, the straight line from the policy
// servers to pf: fetch every list, make one policy of them, and bring the two
// tables to it, unless something about the policy looks wrong. What goes wrong
// leaves in force what was in force.
package update

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"example.org/threatstopd/agent/internal/apply"
	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/dnsfetch"
)

// Options say what a run fetches, what it accepts, and where it puts it.
type Options struct {
	Block, Allow []string // names of the lists

	Policy policy.Options
	Guard  policy.Guard // MayBeEmpty is set for each table by the run

	BlockTable, AllowTable apply.Target

	NeverBlock []netip.Prefix
	// Reach are the hosts that the agent itself must reach beside the policy
	// servers, and the policy servers as they are configured. They are never
	// blocked.
	Reach []Reach
	// Host tells the facts of the machine: own addresses, gateways, resolvers.
	// When it fails the run does, because an address that is not known cannot
	// be excepted.
	Host func() (policy.Facts, error)
	// Lookup finds the addresses of Reach hosts that are names.
	Lookup func(context.Context, string) ([]netip.Addr, error)

	Now func() time.Time
}

// Target returns the table of a kind of lists.
func (o *Options) Target(k policy.Kind) apply.Target {
	if k == policy.Allow {
		return o.AllowTable
	}
	return o.BlockTable
}

// Reach is a host, by address or name, and what it is to the agent.
type Reach struct{ Role, Host string }

// Trace is told how a run goes. Nil functions are skipped.
type Trace struct {
	List     func(policy.Kind, string)                      // a list is about to be fetched
	Progress func(policy.Kind, dnsfetch.Progress)           // some of it has come
	Fetched  func(policy.Kind, *dnsfetch.List)              // all of it has come
	Failed   func(kind policy.Kind, name string, err error) // or it has not
	Complete func()                                         // all lists have come
	Setting  func(policy.Kind, *policy.Set)                 // a table is about to be brought to its set
}

// Outcome is what a run did. It is complete as far as the run came, also when
// Err is set.
type Outcome struct {
	Began   time.Time
	Elapsed time.Duration
	Lists   []List         // in the order in which they were fetched
	Policy  *policy.Policy // nil when the lists did not make one
	Facts   policy.Facts   // what the policy's exceptions were made from
	Tables  []Table        // in the order in which they were set
	// Warnings are for the owner, one line each: an exception that could not
	// be looked up, a pf.conf that would not load again.
	Warnings []string
	// NotEnforced says why nothing of the policy has any effect although the
	// tables hold it: pf is disabled, no rule uses the block table. Empty when
	// it has.
	NotEnforced string
	// Err is why the run ended before the tables; nil when it came to them.
	Err error
}

// OK reports whether the tables now hold the policy that the servers have.
func (o *Outcome) OK() bool {
	if o.Err != nil {
		return false
	}
	for _, l := range o.Lists {
		if l.Err != nil {
			return false
		}
	}
	for _, t := range o.Tables {
		if t.Err != nil || !t.Decision.Allowed() {
			return false
		}
	}
	return true
}

// List is what became of one list.
type List struct {
	Kind           policy.Kind
	Name           string
	*dnsfetch.List       // what the policy was made from; nil when there is nothing
	Err            error // why it could not be fetched; the List, if any, is then an earlier one
}

// Table is what became of one table.
type Table struct {
	Kind   policy.Kind
	Set    *policy.Set
	Load   bool         // the table is set, not only checked; see apply.Target
	Header apply.Header // of the persist file
	apply.Result
	Decision policy.Decision // when it does not allow the table, nothing was tried
	Err      error

	unchecked bool // the guard could not be asked: Decision says nothing
}

// InPF reports whether pf holds the table's set now, or would take it where the
// table is only checked. It may although there is an error: the persist file's.
func (t *Table) InPF() bool {
	return t.Decision.Allowed() && (t.Err == nil || t.Load && t.InForce == t.Set.Len())
}

// Updater runs updates. It remembers the last good copy of each list, so that
// in a long-lived process one list that fails does not hold up the others.
type Updater struct {
	o       Options
	fetch   Fetcher
	lists   map[string]*dnsfetch.List
	fresh   map[string]bool // lists that came since the last Run began
	reached map[string][]netip.Addr
	made    made // the last one
}

// made is a policy and what it was made from.
type made struct {
	policy *policy.Policy // nil: none yet
	lists  []*dnsfetch.List
	facts  policy.Facts
}

// Fetcher fetches lists: a [dnsfetch.Client], here or in another process. Its errors are those
// of [dnsfetch.Client.Fetch]; any other error than a [dnsfetch.Error] is that of the way there.
type Fetcher interface {
	Fetch(context.Context, dnsfetch.Request) (*dnsfetch.List, error)
}

// New returns an Updater that fetches through f.
func New(o Options, f Fetcher) *Updater {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Updater{o: o, fetch: f, lists: make(map[string]*dnsfetch.List), fresh: make(map[string]bool), reached: make(map[string][]netip.Addr)}
}

// Run fetches the policy and enforces it through e. force is the owner's word
// for a table that shrank too much. The Outcome is never nil.
func (u *Updater) Run(ctx context.Context, e *apply.Enforcer, force bool, trace Trace) *Outcome {
	clear(u.fresh)
	return u.Retry(ctx, e, force, trace)
}

// Retry is Run, but the lists that came in the last Run or Retry are not
// fetched again.
func (u *Updater) Retry(ctx context.Context, e *apply.Enforcer, force bool, trace Trace) *Outcome {
	out := &Outcome{Began: u.o.Now()}
	out.Err = u.run(ctx, e, force, trace, out)
	out.Elapsed = u.o.Now().Sub(out.Began)
	return out
}

func (u *Updater) run(ctx context.Context, e *apply.Enforcer, force bool, trace Trace, out *Outcome) error {
	// Allow lists first: what they carve out of the block table must be known
	// before anything is blocked.
	missing, kept, unreached := 0, 0, false
	for _, l := range u.o.Wanted() {
		if unreached {
			// Each list would wait for each server in vain once more.
			l.List, l.Err = u.known(l), errUnreached
		} else {
			l.List, l.Err = u.fetchList(ctx, l.Kind, l.Name, trace)
			unreached = unreachable(l.Err)
		}
		if l.List == nil {
			missing++
		} else if l.Err != nil {
			kept++
		}
		out.Lists = append(out.Lists, l)
		if ctx.Err() != nil {
			return errInterrupted
		}
	}
	if missing > 0 {
		err := fmt.Errorf("%d of %d lists could not be fetched: the policy in force stays", missing, len(out.Lists))
		if unreached {
			return fmt.Errorf("%w: %w", errUnreached, err)
		}
		return err
	}
	if trace.Complete != nil && kept == 0 {
		trace.Complete()
	}
	facts, warnings, err := u.o.Facts(ctx, u.reached)
	out.Warnings = append(out.Warnings, warnings...)
	if err != nil {
		return fmt.Errorf("%w: the policy in force stays, since own addresses could not be kept out of a new one", err)
	}
	if ctx.Err() != nil {
		// The names that were looked up last may just not have been waited
		// for, and their addresses would not be kept out.
		return errInterrupted
	}
	out.Facts = facts
	if out.Policy, err = u.make(out.Lists, facts); err != nil {
		if errors.Is(err, policy.ErrTooMany) {
			err = fmt.Errorf("%w: MAX_ENTRIES in threatstop.conf allows more, if the lists are meant to be that large", err)
		}
		return fmt.Errorf("%w: the policy in force stays", err)
	}
	u.enforce(e, force, trace, out)
	return nil
}

// make is Build, but from the same lists and facts comes the same policy again,
// without the work: that is what most runs of a long-lived process find.
func (u *Updater) make(lists []List, facts policy.Facts) (*policy.Policy, error) {
	next := made{facts: facts}
	for _, l := range lists {
		next.lists = append(next.lists, l.List)
	}
	if u.made.policy != nil && slices.EqualFunc(u.made.lists, next.lists, (*dnsfetch.List).SameEntries) && reflect.DeepEqual(u.made.facts, facts) {
		next.policy = u.made.policy
	} else {
		var err error
		if next.policy, err = u.o.Build(lists, facts); err != nil {
			return nil, err
		}
	}
	u.made = next // and not the copies of the lists before
	return next.policy, nil
}

// Wanted are the lists to fetch, allow lists first.
func (o *Options) Wanted() []List {
	var all []List
	for _, name := range o.Allow {
		all = append(all, List{Kind: policy.Allow, Name: name})
	}
	for _, name := range o.Block {
		all = append(all, List{Kind: policy.Block, Name: name})
	}
	return all
}

// errUnreached is why a list was not asked for.
var errUnreached = errors.New("no policy server can be reached")

// unreachable reports whether a list was not had because no server could be
// connected to, so that none of them gives another list.
func unreachable(err error) bool {
	var e *dnsfetch.Error
	if !errors.As(err, &e) {
		return false
	}
	// The reason why a list was not had is one, or one for each server.
	if tried, ok := e.Err.(interface{ Unwrap() []error }); ok {
		servers := 0
		for _, err := range tried.Unwrap() {
			if e, ok := err.(*dnsfetch.Error); ok {
				servers++
				if !unreachable(e) {
					return false
				}
			}
		}
		if servers > 0 {
			return true
		}
	}
	return errors.Is(err, dnsfetch.ErrConnect) || errors.Is(err, dnsfetch.ErrLookup) || errors.Is(err, dnsfetch.ErrSource)
}

// errInterrupted is the error of a run whose context has ended.
var errInterrupted = errors.New("interrupted: the policy in force stays")

// key names a list in the Updater's memory.
func (l *List) key() string { return l.Kind.String() + " " + l.Name }

// known is the last copy of a list, nil when there is none.
func (u *Updater) known(l List) *dnsfetch.List { return u.lists[l.key()] }

func (u *Updater) fetchList(ctx context.Context, kind policy.Kind, name string, trace Trace) (*dnsfetch.List, error) {
	key := (&List{Kind: kind, Name: name}).key()
	if u.fresh[key] {
		return u.lists[key], nil
	}
	if trace.List != nil {
		trace.List(kind, name)
	}
	request := dnsfetch.Request{Name: name, AllowEmpty: kind == policy.Allow}
	if trace.Progress != nil {
		request.Progress = func(p dnsfetch.Progress) { trace.Progress(kind, p) }
	}
	l, err := u.fetch.Fetch(ctx, request)
	if err != nil {
		if trace.Failed != nil && ctx.Err() == nil {
			trace.Failed(kind, name, err)
		}
		return u.lists[key], err
	}
	if trace.Fetched != nil {
		trace.Fetched(kind, l)
	}
	u.lists[key], u.fresh[key] = l, true
	return l, nil
}

// Facts are what the exceptions of a policy follow from: what the host tells,
// NeverBlock, and the servers that must stay reachable. The addresses of names
// are kept in known: a name that cannot be looked up now keeps those that it
// had, and one that has none is told in a warning.
func (o *Options) Facts(ctx context.Context, known map[string][]netip.Addr) (policy.Facts, []string, error) {
	facts, err := o.Host()
	if err != nil {
		return facts, nil, err
	}
	facts.NeverBlock = o.NeverBlock
	var warnings []string
	for i, found := range o.lookUp(ctx) {
		r := o.Reach[i]
		role := r.Role
		if found.name {
			role += " " + r.Host
		}
		if found.err == nil {
			known[r.Host] = found.addrs
		} else if found.addrs = known[r.Host]; found.addrs == nil {
			warnings = append(warnings, fmt.Sprintf("%s: %v: its address is not kept out of the block table in this run", role, found.err))
		}
		for _, a := range found.addrs {
			facts.Servers = append(facts.Servers, policy.Server{Role: role, Addr: a})
		}
	}
	return facts, warnings, nil
}

// lookupTimeout is how long the addresses of the hosts to be reached may take.
// The system's resolver would wait half a minute for each when it is cut off.
const lookupTimeout = 10 * time.Second

// found are the addresses of a Reach.
type found struct {
	name  bool // it is given by name
	addrs []netip.Addr
	err   error
}

// lookUp finds the addresses of all Reach hosts at once.
func (o *Options) lookUp(ctx context.Context) []found {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	all := make([]found, len(o.Reach))
	var names sync.WaitGroup
	for i, r := range o.Reach {
		f := &all[i]
		if a, err := netip.ParseAddr(r.Host); err == nil {
			f.addrs = []netip.Addr{a}
			continue
		}
		f.name = true
		names.Go(func() {
			f.addrs, f.err = o.Lookup(ctx, r.Host)
			// The name, and the resolver asked, would make two more colons.
			if d := (*net.DNSError)(nil); errors.As(f.err, &d) {
				f.err = errors.New(d.Err)
			}
		})
	}
	names.Wait()
	return all
}

// Build makes the policy of lists, each of which has come, and of the
// exceptions that follow from the facts.
func (o *Options) Build(lists []List, facts policy.Facts) (*policy.Policy, error) {
	b := policy.NewBuilder(o.Policy)
	for _, l := range lists {
		id := b.List(l.Name, l.Kind)
		for e := range l.List.All() {
			b.Add(id, e.Prefix, e.Not)
		}
	}
	for _, x := range policy.Exceptions(facts) {
		b.Except(x.Prefix, x.Why)
	}
	return b.Build()
}

// enforce brings both tables to the policy: first what is allowed, then what
// is blocked.
func (u *Updater) enforce(e *apply.Enforcer, force bool, trace Trace, out *Outcome) {
	source := servers(out.Lists)
	allow := Table{Kind: policy.Allow, Set: out.Policy.Allow}
	if len(u.o.Allow) == 0 {
		// Without allow lists the table is the owner's, unless it was filled
		// from lists before, as its file then says: those entries must not
		// outlive their lists.
		n, err := e.InForce(u.o.AllowTable.Table)
		ours := false
		if err == nil {
			ours, err = apply.Ours(u.o.AllowTable.File, u.o.AllowTable.Table.String())
		}
		if err != nil {
			out.Warnings = append(out.Warnings, err.Error())
		}
		if n > 0 && ours {
			u.table(e, &allow, u.o.AllowTable, force, source, trace)
			out.Tables = append(out.Tables, allow)
		}
	} else {
		u.table(e, &allow, u.o.AllowTable, force, source, trace)
		out.Tables = append(out.Tables, allow)
	}
	block := Table{Kind: policy.Block, Set: out.Policy.Block}
	// The block table of this policy has holes only for these allow lists, so
	// it must not be set when they are not to be believed.
	switch {
	case !allow.Decision.Allowed():
		block.Table = u.o.BlockTable.Table
		block.Decision = policy.Decision{Verdict: policy.Hold, Until: allow.Decision.Until, Why: "it was made with the allow lists that are held back"}
	case allow.unchecked:
		block.Table = u.o.BlockTable.Table
		block.Err = fmt.Errorf("pf table %s: not set: it was made with the allow lists, and whether those shrank could not be told", block.Table)
	default:
		u.table(e, &block, u.o.BlockTable, force, source, trace)
	}
	out.Tables = append(out.Tables, block)
	u.judge(e, out)
}

func (u *Updater) table(e *apply.Enforcer, t *Table, target apply.Target, force bool, source string, trace Trace) {
	t.Table, t.Load = target.Table, target.Load
	inForce, err := u.inForce(e, target)
	if err != nil {
		t.Err, t.unchecked = err, true
		return
	}
	now := u.o.Now()
	// A file that cannot be read is no reason not to enforce: the wait, if
	// there is to be one, then begins now. Apply will tell of the file.
	since, _ := apply.Held(target.File)
	if !since.IsZero() {
		since = since.In(now.Location()) // in which the owner is told of it
	}
	guard := u.o.Guard
	guard.MayBeEmpty = t.Kind == policy.Allow
	t.Decision = guard.Check(inForce, t.Set.Len(), since, now, force)
	t.InForce = inForce
	t.Header = apply.Header{
		Time:   now,
		Table:  target.Table.String(),
		Server: source,
		Counts: Counts(t.Kind, t.Set),
	}
	if !t.Decision.Allowed() {
		if !t.Decision.Since.Truncate(time.Second).Equal(since) {
			t.Header.Held = t.Decision.Since
			t.Err = e.Hold(target, t.Header)
		}
		return
	}
	if trace.Setting != nil {
		trace.Setting(t.Kind, t.Set)
	}
	t.Result, t.Err = e.Apply(target, t.Set, t.Header)
}

// inForce is how many entries the table has now. Where the owner loads the
// tables, that is what the file holds.
func (u *Updater) inForce(e *apply.Enforcer, t apply.Target) (int, error) {
	if !t.Load {
		return apply.FileEntries(t.File)
	}
	n, err := e.InForce(t.Table)
	return max(n, 0), err
}

// judge tells what the owner must know although every call succeeded.
func (u *Updater) judge(e *apply.Enforcer, out *Outcome) {
	inFiles := 0
	for _, t := range out.Tables {
		switch {
		case !t.Load && t.Err == nil && t.Decision.Allowed():
			inFiles += t.Entries
		case t.InForce > 0:
			inFiles += t.InForce
		}
	}
	if advice, err := e.ReloadAdvice(inFiles); err != nil {
		out.Warnings = append(out.Warnings, err.Error())
	} else if advice != "" {
		out.Warnings = append(out.Warnings, advice)
	}
	g, err := e.Glance(u.o.BlockTable.Table, u.o.AllowTable.Table)
	if err != nil {
		out.Warnings = append(out.Warnings, err.Error())
		return
	}
	out.NotEnforced = g.NotEnforced()
}

// Counts is what a set holds, in words: "26424 blocked addresses, 3 exceptions".
func Counts(kind policy.Kind, s *policy.Set) string {
	c := s.Counts()
	text := count(c.V4+c.V6-c.Not, kind.String()+"ed address", kind.String()+"ed addresses")
	if c.Not > 0 {
		text += ", " + count(c.Not, "exception", "exceptions")
	}
	return text
}

// servers names each server that a list came from once.
func servers(lists []List) string {
	var names []string
	seen := make(map[string]bool)
	for _, l := range lists {
		if l.List != nil && !seen[l.Server] {
			seen[l.Server] = true
			names = append(names, l.Server)
		}
	}
	return strings.Join(names, ", ")
}
