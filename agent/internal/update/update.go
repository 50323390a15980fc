// Package update carries out one policy run, the straight line from the policy
// servers to pf: fetch every list, make one policy of them, and bring the two
// tables to it, unless something about the policy looks wrong. What goes wrong
// leaves in force what was in force.
package update

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net"
	"net/netip"
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

// Outcome is what a run did.
type Outcome struct {
	*apply.Outcome
	Lists []List // in the order in which they were fetched
}

// List is what became of one list.
type List struct {
	Kind           policy.Kind
	Name           string
	*dnsfetch.List       // what the policy was made from; nil when there is nothing
	Err            error // why it could not be fetched; the List, if any, is then an earlier one
}

// entries is a fetched list as a policy is made from it.
type entries struct{ *dnsfetch.List }

func (e *entries) All() iter.Seq2[netip.Prefix, bool] {
	return func(yield func(netip.Prefix, bool) bool) {
		for x := range e.List.All() {
			if !yield(x.Prefix(), x.Not) {
				return
			}
		}
	}
}

// Updater runs updates. It remembers the last good copy of each list, so that
// in a long-lived process one list that fails does not hold up the others.
type Updater struct {
	o       Options
	fetch   Fetcher
	lists   map[string]*entries
	fresh   map[string]bool // lists that came since the last Run began
	reached map[string][]netip.Addr
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
	return &Updater{o: o, fetch: f, lists: make(map[string]*entries), fresh: make(map[string]bool), reached: make(map[string][]netip.Addr)}
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
	began := u.o.Now()
	out := &Outcome{}
	if err := u.run(ctx, e, force, trace, out); err != nil {
		out.Outcome = &apply.Outcome{Lists: u.inputs(out.Lists), Err: err}
	}
	out.Began, out.Elapsed = began, u.o.Now().Sub(began)
	return out
}

func (u *Updater) run(ctx context.Context, e *apply.Enforcer, force bool, trace Trace, out *Outcome) error {
	// Allow lists first: what they carve out of the block table must be known
	// before anything is blocked.
	kept, unreached := 0, false
	for _, l := range u.o.Wanted() {
		if unreached {
			// Each list would wait for each server in vain once more.
			l.List, l.Err = u.known(l), apply.ErrUnreached
		} else {
			l.List, l.Err = u.fetchList(ctx, l.Kind, l.Name, trace)
			unreached = unreachable(l.Err)
		}
		if l.Err != nil {
			kept++
		}
		out.Lists = append(out.Lists, l)
		if ctx.Err() != nil {
			return errInterrupted
		}
	}
	lists := u.inputs(out.Lists)
	if err := apply.Missing(lists); err != nil {
		return err
	}
	if trace.Complete != nil && kept == 0 {
		trace.Complete()
	}
	facts, warnings, err := u.o.Facts(ctx, u.reached)
	if err != nil {
		return fmt.Errorf("%w: the policy in force stays, since own addresses could not be kept out of a new one", err)
	}
	if ctx.Err() != nil {
		// The names that were looked up last may just not have been waited
		// for, and their addresses would not be kept out.
		return errInterrupted
	}
	out.Outcome = e.Run(&apply.Options{Policy: u.o.Policy, Guard: u.o.Guard, Block: u.o.BlockTable, Allow: u.o.AllowTable, Now: u.o.Now},
		lists, facts, force, trace.Setting)
	out.Warnings = append(warnings, out.Warnings...)
	return nil
}

// inputs returns the lists as a policy is made from them.
func (u *Updater) inputs(lists []List) []apply.List {
	var all []apply.List
	for _, l := range lists {
		x := apply.List{List: policy.List{Name: l.Name, Kind: l.Kind}, Err: l.Err, Unreached: errors.Is(l.Err, apply.ErrUnreached) || unreachable(l.Err)}
		if l.List != nil {
			x.Entries, x.Server = u.lists[l.key()], l.Server
		}
		all = append(all, x)
	}
	return all
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

// unreachable reports whether a list could not be fetched because no server
// could be reached, so that trying the next list is pointless.
func unreachable(err error) bool {
	var e *dnsfetch.Error
	return errors.As(err, &e) && e.Kind == dnsfetch.KindUnreached
}

// errInterrupted is the error of a run whose context has ended.
var errInterrupted = errors.New("interrupted: the policy in force stays")

// key names a list in the Updater's memory.
func (l *List) key() string { return l.Kind.String() + " " + l.Name }

// known is the last copy of a list, nil when there is none.
func (u *Updater) known(l List) *dnsfetch.List {
	if e := u.lists[l.key()]; e != nil {
		return e.List
	}
	return nil
}

func (u *Updater) fetchList(ctx context.Context, kind policy.Kind, name string, trace Trace) (*dnsfetch.List, error) {
	want := List{Kind: kind, Name: name}
	key := want.key()
	if u.fresh[key] {
		return u.known(want), nil
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
		return u.known(want), err
	}
	if trace.Fetched != nil {
		trace.Fetched(kind, l)
	}
	if old := u.lists[key]; old == nil || !old.SameEntries(l) {
		u.lists[key] = &entries{l}
	} else {
		old.List = l // the same entries make the same policy
	}
	u.fresh[key] = true
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
	var all []policy.List
	for _, l := range lists {
		all = append(all, policy.List{Name: l.Name, Kind: l.Kind, Entries: &entries{l.List}})
	}
	return policy.Build(all, policy.Exceptions(facts), o.Policy)
}

// Narrate returns the Trace that describes a run through n.
func Narrate(n *apply.Narrator) Trace {
	return Trace{
		List:     n.Fetching,
		Progress: func(_ policy.Kind, p dnsfetch.Progress) { n.Progress(p.Server, p.Done, p.Parts, p.Entries) },
		Fetched: func(_ policy.Kind, l *dnsfetch.List) {
			var failed []error
			for _, err := range l.Failed {
				failed = append(failed, err)
			}
			n.Fetched(l.Server, failed, fmt.Sprintf("%s in %s (%s), %d bytes from %s in %v", count(l.Len(), "entry", "entries"),
				count(l.Parts, "part", "parts"), l.Layout, l.Bytes, l.Server, l.Elapsed.Round(time.Millisecond)))
		},
		Failed:   func(_ policy.Kind, _ string, err error) { n.Failed(err) },
		Complete: n.Complete,
		Setting:  n.Setting,
	}
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
