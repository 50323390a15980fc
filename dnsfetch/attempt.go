package dnsfetch

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/miekg/dns"
)

// maxRestarts is how often a list that changed while it was fetched is begun again.
const maxRestarts = 3

// attempt is one list from one server.
type attempt struct {
	c        *Client
	ctx      context.Context
	ep       endpoint
	habits   *habits
	req      *Request
	name     wireName
	siblings []wireName
	bytes    atomic.Int64
	entries  atomic.Int64 // since the last restart
	cols     []*columns   // since the last restart
	earlier  int          // names read in runs before this one, for the progress
}

// fault makes an Error of err, unless it is one already.
func (a *attempt) fault(part string, err error) *Error {
	if e := (*Error)(nil); errors.As(err, &e) {
		return e
	}
	return &Error{List: a.req.Name, Part: part, Server: a.ep.String(), Err: err}
}

// partName is how an error names the place of j: not at all when that is the list.
func (a *attempt) partName(j *job) string {
	if j.name.equal(a.name) {
		return ""
	}
	return j.name.String()
}

func (a *attempt) progress(done, of int) {
	if a.req.Progress != nil {
		a.req.Progress(Progress{
			List: a.req.Name, Server: a.ep.String(),
			Done: a.earlier + done, Parts: a.earlier + of,
			Entries: int(a.entries.Load()), Bytes: a.bytes.Load(),
		})
	}
}

// fetch fetches the list.
func (a *attempt) fetch() (*List, error) {
	l := &List{Name: a.req.Name, Server: a.ep.String()}
	parts, err := a.parts()
	if err != nil {
		return nil, err
	}
	for len(parts) > 0 {
		jobs := make([]job, len(parts))
		for i, p := range parts {
			jobs[i].question = question{p, dns.TypeAPL}
		}
		missing := a.run(jobs, true)
		if missing != nil && !absent(missing) {
			return nil, missing
		}
		// The list may have been published anew meanwhile. That also explains a part that is gone.
		again, err := a.parts()
		if err != nil {
			return nil, err
		}
		if sameNames(parts, again) {
			if missing != nil {
				return nil, a.explain(missing, jobs)
			}
			l.Layout, l.Parts = LayoutParts, len(parts)
			return a.finish(l)
		}
		if l.Restarts == maxRestarts {
			return nil, a.fault("", fmt.Errorf("%w (%d times)", ErrChanged, 1+maxRestarts))
		}
		l.Restarts++
		a.cols = nil
		a.entries.Store(0)
		parts = again
	}

	at := []job{{question: question{a.name, dns.TypeAPL}}}
	if err := a.run(at, false); err != nil {
		return nil, err
	}
	if at[0].absent == nil {
		l.Layout, l.Parts = LayoutAPL, 1
		return a.finish(l)
	}
	return a.addresses(l)
}

// finish makes l of what was collected.
func (a *attempt) finish(l *List) (*List, error) {
	for _, c := range a.cols {
		l.take(c)
	}
	if l.Len() == 0 && !a.req.AllowEmpty {
		return nil, a.fault("", ErrEmpty)
	}
	l.Bytes = a.bytes.Load()
	return l, nil
}

// parts asks for the PTR records at the name. None mean that the list is not in parts.
func (a *attempt) parts() ([]wireName, error) {
	ptr := []job{{question: question{a.name, dns.TypePTR}}}
	if err := a.run(ptr, false); err != nil {
		return nil, err
	}
	parts := ptr[0].targets
	seen := make(map[string]bool, len(parts))
	for _, p := range parts {
		key := p.key()
		switch {
		case p.equal(a.name):
			return nil, a.fault(p.String(), fmt.Errorf("%w: it is the list", ErrLoop))
		case !p.below(a.name):
			return nil, a.fault(p.String(), ErrOutside)
		case seen[key]:
			return nil, a.fault(p.String(), ErrDuplicate)
		}
		seen[key] = true
	}
	return parts, nil
}

// explain finds out whether a part without APL records is a list of parts in its turn: those
// are not followed.
func (a *attempt) explain(missing error, jobs []job) error {
	e := (*Error)(nil)
	if !errors.As(missing, &e) || !errors.Is(e, ErrNoRecords) {
		return missing
	}
	for i := range jobs {
		if a.partName(&jobs[i]) != e.Part {
			continue
		}
		ptr := []job{{question: question{jobs[i].name, dns.TypePTR}}}
		if err := a.run(ptr, false); err == nil && ptr[0].absent == nil {
			return a.fault(e.Part, fmt.Errorf("%w: PTR records in place of APL records", ErrLoop))
		}
	}
	return missing
}

// addresses fetches the A and AAAA layout: first the name itself, which must have some, then
// its siblings.
func (a *attempt) addresses(l *List) (*List, error) {
	own := addressJobs(a.name)
	if err := a.run(own, false); err != nil {
		return nil, err
	}
	if own[0].absent != nil && own[1].absent != nil {
		err := ErrNoRecords
		if errors.Is(own[0].absent, ErrNXDomain) && errors.Is(own[1].absent, ErrNXDomain) {
			err = ErrNXDomain
		}
		return nil, a.fault("", fmt.Errorf("%w: neither PTR, APL, A nor AAAA", err))
	}
	l.Layout, l.Parts = LayoutAddresses, 1
	a.earlier = len(own)
	var jobs []job
	for _, s := range a.siblings {
		jobs = append(jobs, addressJobs(s)...)
	}
	if len(jobs) > 0 {
		if err := a.run(jobs, false); err != nil {
			return nil, err
		}
		for i := 0; i < len(jobs); i += 2 {
			if jobs[i].absent == nil || jobs[i+1].absent == nil {
				l.Parts++
			}
		}
	}
	return a.finish(l)
}

func addressJobs(n wireName) []job {
	return []job{{question: question{n, dns.TypeA}}, {question: question{n, dns.TypeAAAA}}}
}

// sameNames reports whether a and b, neither of which names anything twice, are the same set.
func sameNames(a, b []wireName) bool {
	if len(a) != len(b) {
		return false
	}
	set := make(map[string]bool, len(a))
	for _, n := range a {
		set[n.key()] = true
	}
	for _, n := range b {
		if !set[n.key()] {
			return false
		}
	}
	return true
}
