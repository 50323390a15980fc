package dnsfetch

import (
	"context"
	"errors"
	"fmt"
	"maps"
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
	name     domain
	siblings []domain

	pipeline
	bytes   int64
	entries int // since the last restart
	scratch []Entry
	done    int // names read in earlier calls of ask, for the progress
}

// fetch fetches the list.
func (a *attempt) fetch() (*List, error) {
	l := &List{Name: a.req.Name, Server: a.ep.String()}
	ptr, names, err := a.parts()
	if err != nil {
		return nil, err
	}
	for len(ptr.targets) > 0 {
		jobs := make([]job, len(ptr.targets))
		for i, p := range ptr.targets {
			jobs[i].question = question{p, dns.TypeAPL}
		}
		if err := a.ask(jobs); err != nil {
			return nil, err
		}
		// The list may have been published anew meanwhile. That also explains a part that is gone.
		again, now, err := a.parts()
		if err != nil {
			return nil, err
		}
		if maps.Equal(names, now) {
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
		a.entries = 0
		ptr, names = again, now
	}
	apl := []job{{question: question{a.name, dns.TypeAPL}}}
	if err := a.ask(apl); err != nil {
		return nil, err
	}
	if apl[0].absent == nil {
		return a.finish(l, LayoutAPL, apl)
	}
	return a.addresses(l, ptr, &apl[0])
}

// finish makes l of the answers.
func (a *attempt) finish(l *List, layout Layout, jobs []job) (*List, error) {
	l.Layout, l.Bytes = layout, a.bytes
	names := make(map[string]bool)
	for i := range jobs {
		if jobs[i].absent == nil {
			names[jobs[i].name.key()] = true
		}
		if len(jobs[i].entries) > 0 {
			l.Chunks = append(l.Chunks, jobs[i].entries)
		}
	}
	l.Parts = len(names)
	if len(l.Chunks) == 0 && !a.req.AllowEmpty {
		return nil, ErrEmpty
	}
	return l, nil
}

// parts asks for the PTR records at the name, and returns the set of the names in them too. None mean
// that the list is not in parts.
func (a *attempt) parts() (*job, map[string]bool, error) {
	ptr := []job{{question: question{a.name, dns.TypePTR}}}
	if err := a.ask(ptr); err != nil {
		return nil, nil, err
	}
	seen := make(map[string]bool)
	for _, p := range ptr[0].targets {
		switch {
		case p.equal(a.name):
			return nil, nil, a.fault(p, fmt.Errorf("%w: it is the list", ErrLoop))
		case !p.below(a.name):
			return nil, nil, a.fault(p, ErrOutside)
		case seen[p.key()]:
			return nil, nil, a.fault(p, ErrDuplicate)
		}
		seen[p.key()] = true
	}
	return &ptr[0], seen, nil
}

// explain returns the error of a part without APL records. One that is a list of parts in its turn is
// not followed.
func (a *attempt) explain(part *job) error {
	if errors.Is(part.absent, ErrNoRecords) {
		ptr := []job{{question: question{part.name, dns.TypePTR}}}
		if err := a.ask(ptr); err == nil && ptr[0].absent == nil {
			return a.fault(part.name, fmt.Errorf("%w: PTR records in place of APL records", ErrLoop))
		}
	}
	return a.fault(part.name, part.absent)
}

// addresses fetches the A and AAAA layout: first the name itself, which must have some, then its
// siblings. tried are the questions of the other layouts.
func (a *attempt) addresses(l *List, tried ...*job) (*List, error) {
	jobs := addressJobs(a.name)
	if err := a.ask(jobs); err != nil {
		return nil, err
	}
	if jobs[0].absent != nil && jobs[1].absent != nil {
		return nil, a.nothing(append(tried, &jobs[0], &jobs[1])...)
	}
	a.done = len(jobs)
	var more []job
	for _, s := range a.siblings {
		more = append(more, addressJobs(s)...)
	}
	if err := a.ask(more); err != nil {
		return nil, err
	}
	return a.finish(l, LayoutAddresses, append(jobs, more...))
}

func addressJobs(n domain) []job {
	return []job{{question: question{n, dns.TypeA}}, {question: question{n, dns.TypeAAAA}}}
}

// nothing returns the error of a list for which the server has no records of any layout. That the
// list does not exist is certain only if all answers are authoritative; NXDOMAIN in one of them is
// enough for ErrNXDomain, since "no data" may mean that a list is empty.
func (a *attempt) nothing(jobs ...*job) error {
	kind, err := KindNoData, ErrNoRecords
	for _, j := range jobs {
		if errors.Is(j.absent, ErrNXDomain) {
			kind, err = KindNXDomain, ErrNXDomain
		}
	}
	note := "neither PTR, APL, A nor AAAA"
	for _, j := range jobs {
		if !j.authoritative {
			kind, note = KindFailed, note+", and the answer is not authoritative"
			break
		}
	}
	e := a.fault(a.name, fmt.Errorf("%w: %s", err, note))
	e.Kind = kind
	return e
}

// fault makes an Error of what is wrong at a name.
func (a *attempt) fault(at domain, err error) *Error {
	e := &Error{List: a.req.Name, Server: a.ep.String(), Err: err}
	if !at.equal(a.name) {
		e.Part = at.String()
	}
	return e
}

// run fetches the list, and returns why it could not be fetched as an Error of its own kind.
func (a *attempt) run() (*List, *Error) {
	l, err := a.fetch()
	if a.cn != nil {
		a.release(err == nil)
	}
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
	case errors.Is(err, ErrConnect) && !a.progress:
		e.Kind = KindUnreached
	}
	return nil, e
}

// release keeps the connection for the next list if it is good for one, and else closes it. A client
// should not hold what it is not using (RFC 7766 §6.2.3), so that idleTime is short.
func (a *attempt) release(good bool) {
	cn := a.cn
	a.cn = nil
	if good && cn.r.Buffered() == 0 && a.window > 1 && cn.stop() {
		cn.idle = time.Now()
		a.c.idle = cn
		return
	}
	cn.close()
}
