package dnsfetch

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

const (
	// maxRestarts is how often a list that changed while it was fetched is fetched again.
	maxRestarts = 3
	// maxParts bounds the names in a PTR answer. One of 64 KiB has room for about 2,800 names.
	maxParts = 4000
)

// attempt is one list from one server.
type attempt struct {
	c        *Client
	ctx      context.Context // ends after Options.ListTimeout
	ep       endpoint
	req      *Request
	name     string
	siblings []string

	pipeline
	bytes   int64
	entries int // since the last restart
	done    int // names read in earlier calls of ask, for the progress
	// Of answers without records: ErrNXDomain if there was one, and whether all were authoritative.
	absence error
	relayed bool
}

// run fetches the list. The error is an Error of its own kind.
func (a *attempt) run(ctx context.Context) (*List, *Error) {
	var cancel context.CancelFunc
	a.ctx, cancel = context.WithTimeout(ctx, a.c.opt.ListTimeout)
	defer cancel()
	l, err := a.fetch()
	a.disconnect()
	if err == nil {
		return l, nil
	}
	// A time-out of the network may come a moment before the context's own.
	if end, ok := a.ctx.Deadline(); a.ctx.Err() != nil || ok && !time.Now().Before(end) {
		err = fmt.Errorf("%w: the list was not complete within %v", ErrTimeout, a.c.opt.ListTimeout)
	}
	e := (*Error)(nil)
	if !errors.As(err, &e) {
		e = a.fault(a.name, err)
	}
	switch {
	case errors.Is(err, ErrEmpty):
		e.Kind = KindEmpty
	case errors.Is(err, ErrNotLocal) && !a.progress:
		e.Kind = KindSource
	case errors.Is(err, ErrConnect) && !a.progress:
		e.Kind = KindUnreached
	}
	return nil, e
}

// fetch fetches the list.
func (a *attempt) fetch() (*List, error) {
	l := &List{Name: a.req.Name, Server: a.ep.String()}
	names, err := a.parts()
	if err != nil {
		return nil, err
	}
	for len(names) > 0 {
		jobs := make([]job, len(names))
		for i, n := range names {
			jobs[i].question = question{n, dns.TypeAPL}
		}
		if err := a.ask(jobs); err != nil {
			return nil, err
		}
		// The list may have been published anew meanwhile. That also explains a part that is gone.
		now, err := a.parts()
		if err != nil {
			return nil, err
		}
		if slices.Equal(names, now) {
			for i := range jobs {
				if jobs[i].absent != nil {
					return nil, a.explain(&jobs[i])
				}
			}
			return a.finish(l, LayoutParts, jobs)
		}
		if l.Restarts == maxRestarts {
			return nil, fmt.Errorf("%w (%d times)", ErrChanged, 1+maxRestarts)
		}
		l.Restarts++
		a.entries, names = 0, now
	}
	apl := jobsFor(a.name, dns.TypeAPL)
	if err := a.ask(apl); err != nil {
		return nil, err
	}
	if apl[0].absent == nil {
		return a.finish(l, LayoutAPL, apl)
	}
	return a.addresses(l)
}

func jobsFor(name string, types ...uint16) (jobs []job) {
	for _, t := range types {
		jobs = append(jobs, job{question: question{name, t}})
	}
	return jobs
}

// finish makes l of the answers.
func (a *attempt) finish(l *List, layout Layout, jobs []job) (*List, error) {
	l.Layout, l.Bytes = layout, a.bytes
	names := make(map[string]bool)
	for _, j := range jobs {
		if j.absent == nil {
			names[j.name] = true
		}
		if len(j.entries) > 0 {
			l.Chunks = append(l.Chunks, j.entries)
		}
	}
	l.Parts = len(names)
	if len(l.Chunks) == 0 && !a.req.AllowEmpty {
		return nil, ErrEmpty
	}
	return l, nil
}

// parts asks for the PTR records at the name, and returns the names in them, sorted. None mean that the
// list is not in parts.
func (a *attempt) parts() ([]string, error) {
	ptr := jobsFor(a.name, dns.TypePTR)
	if err := a.ask(ptr); err != nil {
		return nil, err
	}
	names := slices.Sorted(slices.Values(ptr[0].targets))
	for i, n := range names {
		switch {
		case n == a.name:
			return nil, a.fault(n, fmt.Errorf("%w: it is the list", ErrParts))
		case !dns.IsSubDomain(a.name, n):
			return nil, a.fault(n, fmt.Errorf("%w: not below the list's own name", ErrParts))
		case i > 0 && n == names[i-1]:
			return nil, a.fault(n, fmt.Errorf("%w: named twice", ErrParts))
		}
	}
	return names, nil
}

// explain returns the error of a part without APL records. One that is a list of parts in its turn is
// not followed.
func (a *attempt) explain(part *job) error {
	if errors.Is(part.absent, ErrNoRecords) {
		ptr := jobsFor(part.name, dns.TypePTR)
		if err := a.ask(ptr); err == nil && ptr[0].absent == nil {
			return a.fault(part.name, fmt.Errorf("%w: PTR records in place of APL records", ErrParts))
		}
	}
	return a.fault(part.name, fmt.Errorf("%w: the server has the list in part only", part.absent))
}

// addresses fetches the A and AAAA layout: first the name itself, which must have some, then its
// siblings.
func (a *attempt) addresses(l *List) (*List, error) {
	jobs := jobsFor(a.name, dns.TypeA, dns.TypeAAAA)
	if err := a.ask(jobs); err != nil {
		return nil, err
	}
	if jobs[0].absent != nil && jobs[1].absent != nil {
		return nil, a.nothing()
	}
	a.done = len(jobs)
	var more []job
	for _, s := range a.siblings {
		more = append(more, jobsFor(s, dns.TypeA, dns.TypeAAAA)...)
	}
	if err := a.ask(more); err != nil {
		return nil, err
	}
	return a.finish(l, LayoutAddresses, append(jobs, more...))
}

// nothing returns the error of a list for which the server has no records of any layout. That the
// list does not exist is certain only if all answers are authoritative; NXDOMAIN in one of them is
// enough for ErrNXDomain, since "no data" may mean that a list is empty.
func (a *attempt) nothing() error {
	note, kind := "", KindNoData
	switch {
	case a.relayed:
		note, kind = ", and the answer is not authoritative", KindFailed
	case a.absence == ErrNXDomain:
		kind = KindNXDomain
	}
	e := a.fault(a.name, fmt.Errorf("%w: neither PTR, APL, A nor AAAA%s: check the list's name", a.absence, note))
	e.Kind = kind
	return e
}

// fault makes an Error of what is wrong at a name.
func (a *attempt) fault(at string, err error) *Error {
	e := &Error{List: a.req.Name, Server: a.ep.String(), Err: err}
	if at != a.name {
		e.Part = strings.TrimSuffix(at, ".")
	}
	return e
}
