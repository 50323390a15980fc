// Package sources keeps what a policy is made of: the last copy of each list, and the addresses of
// the hosts that the agent must be able to reach.
//
// A [Plan] says what to ask for; running it takes as long as the network does and needs nothing of the
// [Sources], so that the daemon runs it beside its loop. Each [Result] goes back into the Sources.
package sources

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"example.org/threatstopd/agent/internal/apply"
	"example.org/threatstopd/agent/internal/fetch"
	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/dnsfetch"
)

// Options say what is fetched.
type Options struct {
	Block, Allow []string // names of the lists
	NeverBlock   []netip.Prefix
	// Reach are the hosts that must stay reachable: policy servers, log server, proxy.
	Reach []Reach
}

// Reach is a host, by address or name, and what it is to the agent.
type Reach struct{ Role, Host string }

// Fetcher fetches lists and looks up names: a [fetch.Client].
type Fetcher interface {
	// Fetch returns an error that is a [dnsfetch.Error] where a server is at fault.
	Fetch(context.Context, dnsfetch.Request) (*dnsfetch.List, error)
	// Lookup returns what each name brought.
	Lookup(ctx context.Context, names []string) []Name
}

// List is a configured list over several polls.
type List struct {
	Kind           policy.Kind
	Name           string
	*dnsfetch.List           // the last copy; nil when there is none
	Err            error     // why the last try failed; nil after a success
	Tried, Fetched time.Time // the last try and the last success; zero: none since the start
	Failures       int       // tries in a row that failed
	Absent         bool      // every server reached says that there is no such list, or that it is empty; Err has the words

	entries policy.Entries // of the copy; the same value while the entries are the same
	fresh   bool           // it came since the last full plan
}

// Key names a list: "block list basic.example.net".
func (l *List) Key() string { return l.Kind.String() + " list " + l.Name }

// Sources has the lists of a configuration and the addresses of names. It is not safe for concurrent use.
type Sources struct {
	o     Options
	lists []*List // allow lists first: what they carve out of the block table must be known first
	names map[string]Name
}

// Name is what is known of a host name. After a failure the addresses are those of the last success.
type Name = fetch.Name

// New returns Sources without any copy.
func New(o Options) *Sources {
	s := &Sources{names: make(map[string]Name)}
	s.Configure(o)
	return s
}

// Configure replaces the options. Lists that are still configured keep their copies.
func (s *Sources) Configure(o Options) {
	var lists []*List
	add := func(kind policy.Kind, names []string) {
		for _, name := range names {
			lists = append(lists, cmp.Or(s.list(kind, name), &List{Kind: kind, Name: name}))
		}
	}
	add(policy.Allow, o.Allow)
	add(policy.Block, o.Block)
	s.o, s.lists = o, lists
}

// list returns a configured list, nil if it is none.
func (s *Sources) list(kind policy.Kind, name string) *List {
	for _, l := range s.lists {
		if l.Kind == kind && l.Name == name {
			return l
		}
	}
	return nil
}

// Lists returns the configured lists, allow lists first. They belong to s.
func (s *Sources) Lists() []*List { return s.lists }

// Plan is what to ask for: lists and names of hosts. It does not change.
type Plan struct {
	lists []Result // without a result
	names []string
}

// Plan returns a plan for everything; with retry, for the lists that have not come since the last one
// for everything.
func (s *Sources) Plan(retry bool) Plan {
	var p Plan
	for _, l := range s.lists {
		if l.fresh = l.fresh && retry; !l.fresh {
			p.lists = append(p.lists, Result{Kind: l.Kind, Name: l.Name})
		}
	}
	for _, r := range s.o.Reach {
		if _, err := netip.ParseAddr(r.Host); err != nil {
			p.names = append(p.names, r.Host)
		}
	}
	return p
}

// Result is what came of one list or one name of a plan.
type Result struct {
	Kind policy.Kind
	Name string         // of a list or a host
	List *dnsfetch.List // nil for a host name, and when Err is set
	Host *Name          // nil for a list
	Err  error          // why the list could not be fetched
}

// Progress is how a plan that runs reports. Nil functions are not called; the others are called from
// one goroutine.
type Progress struct {
	Begin func(policy.Kind, string)            // a list is about to be asked for
	Part  func(policy.Kind, dnsfetch.Progress) // a part of it has come
	Done  func(Result)
}

// Run fetches the lists one after the other, then looks up the names all at once. When no server can be
// reached for a list, the next ones fail for the same reason without being asked for. It returns early
// when ctx ends.
func (p Plan) Run(ctx context.Context, f Fetcher, report Progress) {
	var unreached error
	for _, r := range p.lists {
		if r.Err = unreached; r.Err != nil {
			report.Done(r)
			continue
		}
		if report.Begin != nil {
			report.Begin(r.Kind, r.Name)
		}
		request := dnsfetch.Request{Name: r.Name, AllowEmpty: r.Kind == policy.Allow}
		if report.Part != nil {
			request.Progress = func(x dnsfetch.Progress) { report.Part(r.Kind, x) }
		}
		r.List, r.Err = f.Fetch(ctx, request)
		if ctx.Err() != nil {
			return
		}
		unreached = down(r.Err)
		report.Done(r)
	}
	for i, n := range f.Lookup(ctx, p.names) {
		report.Done(Result{Name: p.names[i], Host: &n})
	}
}

// Names looks up the names alone.
func (s *Sources) Names(ctx context.Context, f Fetcher) {
	Plan{names: s.Plan(true).names}.Run(ctx, f, Progress{Done: func(r Result) { s.Take(r, time.Now()) }})
}

// Take stores a result and returns the list that it belongs to, nil for a host name and for a list that
// is not configured any more. A list that failed keeps its copy, a name its addresses.
func (s *Sources) Take(r Result, now time.Time) *List {
	if r.Host != nil {
		n := *r.Host
		if n.Err != "" {
			n.Addrs = s.names[r.Name].Addrs
		}
		s.names[r.Name] = n
		return nil
	}
	l, kind := s.list(r.Kind, r.Name), kindOf(r.Err)
	if l == nil {
		return nil
	}
	absent := kind >= dnsfetch.KindEmpty
	if r.Kind == policy.Allow && kind == dnsfetch.KindNoData {
		// The name exists and has no records: an allow list without entries.
		r.List, r.Err = &dnsfetch.List{Name: r.Name}, nil
	}
	l.Tried, l.Err, l.Absent = now, r.Err, absent && r.Err != nil
	if r.Err != nil {
		l.Failures++
		l.fresh = l.Absent // there is nothing to try again
		return l
	}
	if l.List != nil && l.List.SameEntries(r.List) {
		r.List.Chunks = l.List.Chunks // one copy of them
	} else {
		l.entries = r.List
	}
	l.List, l.Fetched, l.Failures, l.fresh = r.List, now, 0, true
	return l
}

// inputs returns the lists as a policy is made from them.
func (s *Sources) inputs() []apply.List {
	all := make([]apply.List, len(s.lists))
	for i, l := range s.lists {
		all[i] = apply.List{List: policy.List{Name: l.Name, Kind: l.Kind, Entries: l.entries}, Err: l.Err,
			Absent: l.Absent, Down: down(l.Err)}
		if l.List != nil {
			all[i].Server = l.Server
		}
	}
	return all
}

// Enforce makes a policy of the copies at hand and of the host as it is now, and brings pf to it: see
// [apply.Enforcer.Run]. When own addresses cannot be read, no policy is made. A list that is absent for too
// long has lost its copy then.
func (s *Sources) Enforce(e *apply.Enforcer, o *apply.Options, host func() (policy.Facts, error), force bool,
	setting func(policy.Kind, *policy.Set)) *apply.Outcome {
	inputs := s.inputs()
	facts, err := host()
	if err != nil {
		err = fmt.Errorf("%w: own addresses could not be kept out of a new policy", err)
		return &apply.Outcome{Lists: inputs, Err: e.Stays(o, err)}
	}
	facts, warnings := s.Facts(facts)
	out := e.Run(o, inputs, facts, force, setting)
	out.Warnings = append(warnings, out.Warnings...)
	for i, x := range out.Lists {
		if l := s.lists[i]; l.Absent && l.List != nil && x.Entries != l.entries {
			l.List, l.entries = nil, x.Entries
		}
	}
	return out
}

// Failed reports whether a list could not be fetched and is worth another try soon.
func (s *Sources) Failed() bool {
	return slices.ContainsFunc(s.lists, func(l *List) bool { return l.Err != nil && !l.Absent })
}

// Inputs returns the copies at hand as a policy is made from them.
func (s *Sources) Inputs() []policy.List {
	var lists []policy.List
	for _, l := range s.lists {
		if l.List != nil {
			lists = append(lists, policy.List{Name: l.Name, Kind: l.Kind, Entries: l.entries})
		}
	}
	return lists
}

// Facts completes what the host reports by what must never be blocked besides. A name without any
// address makes a warning.
func (s *Sources) Facts(facts policy.Facts) (policy.Facts, []string) {
	facts.NeverBlock = s.o.NeverBlock
	var warnings []string
	for _, r := range s.o.Reach {
		if a, err := netip.ParseAddr(r.Host); err == nil {
			facts.Servers = append(facts.Servers, policy.Server{Role: r.Role, Addr: a})
			continue
		}
		role, n := r.Role+" "+r.Host, s.names[r.Host]
		for _, a := range n.Addrs {
			facts.Servers = append(facts.Servers, policy.Server{Role: role, Addr: a})
		}
		if len(n.Addrs) == 0 && n.Err != "" {
			warnings = append(warnings, fmt.Sprintf("%s: %s: its address is not kept out of the block table in this run", role, n.Err))
		}
	}
	return facts, warnings
}

// down returns the cause if no list can be fetched because of err, else nil.
func down(err error) error {
	var source fetch.SourceError
	switch {
	case errors.As(err, &source):
		return source
	case errors.Is(err, apply.ErrUnreached) || kindOf(err) == dnsfetch.KindUnreached:
		return apply.ErrUnreached
	}
	return nil
}

// kindOf returns what an error means for the list.
func kindOf(err error) dnsfetch.Kind {
	var e *dnsfetch.Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return dnsfetch.KindFailed
}

// Fetch runs a plan for everything and takes each result, for a caller that has nothing else to do.
func (s *Sources) Fetch(ctx context.Context, f Fetcher, report Progress) {
	done := report.Done
	report.Done = func(r Result) {
		s.Take(r, time.Now())
		if done != nil {
			done(r)
		}
	}
	s.Plan(false).Run(ctx, f, report)
}

// Narrate returns a Progress that describes the fetching through n.
func Narrate(n *apply.Narrator) Progress {
	return Progress{
		Begin: n.Fetching,
		Part:  func(_ policy.Kind, p dnsfetch.Progress) { n.Progress(p.Server, p.Done, p.Parts, p.Entries) },
		Done: func(r Result) {
			switch l := r.List; {
			case r.Host != nil:
			case r.Err != nil:
				n.Failed(r.Err)
			default:
				var failed []error
				for _, err := range l.Failed {
					failed = append(failed, err)
				}
				n.Fetched(l.Server, failed, fmt.Sprintf("%s in %s (%s), %d bytes from %s in %v", apply.Plural(l.Len(), "entry", "entries"),
					apply.Plural(l.Parts, "part", "parts"), l.Layout, l.Bytes, l.Server, l.Elapsed.Round(time.Millisecond)))
			}
		},
	}
}
