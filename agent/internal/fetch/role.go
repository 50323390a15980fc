package fetch

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"example.org/threatstopd/agent/internal/privsep"
	"example.org/threatstopd/dnsfetch"
)

const (
	// progressEvery is how often progress is told at most.
	progressEvery = 50 * time.Millisecond
	// maxLookups is how many names may be looked up at once.
	maxLookups = 64
	// After so long without anything to do the memory of large lists is given back.
	idle = 2 * time.Second
	// large is how many entries make a list large.
	large = 10_000
)

// Body returns the role's life. confine confines it, when it is not nil. lookup finds the addresses
// of a host, and those of policy servers given by name.
func Body(confine privsep.Confiner, lookup func(context.Context, string) ([]netip.Addr, error)) privsep.Body {
	return func(conn net.Conn, _ []*os.File) error {
		err := work(privsep.NewWorker(conn, toRole), confine, lookup)
		if errors.Is(err, privsep.ErrEnded) {
			return nil
		}
		return err
	}
}

// resolver is a function as dnsfetch wants it.
type resolver func(context.Context, string) ([]netip.Addr, error)

func (f resolver) LookupNetIP(ctx context.Context, _, host string) ([]netip.Addr, error) {
	return f(ctx, host)
}

// role is the working role.
type role struct {
	*privsep.Worker
	ctx     context.Context
	setup   setup
	lookups chan struct{} // one in it for each under way
	tasks   sync.WaitGroup
	rest    *time.Timer

	// Of the fetch under way, if any; of main's goroutine.
	mu     sync.Mutex
	number uint32
	cancel context.CancelFunc

	client *dnsfetch.Client
}

func work(w *privsep.Worker, confine privsep.Confiner, lookup func(context.Context, string) ([]netip.Addr, error)) error {
	r := &role{Worker: w, lookups: make(chan struct{}, maxLookups)}
	if err := w.Setup(kindSetup, &r.setup); err != nil {
		return err
	}
	r.setup.Options.Resolver = resolver(lookup)
	var err error
	if r.client, err = dnsfetch.New(r.setup.Options); err != nil {
		return err
	}
	if confine != nil {
		if err := confine.Confine(Role, r.setup.Confinement); err != nil {
			return err
		}
	}
	if err := w.Ready(); err != nil {
		return err
	}
	var end context.CancelFunc
	r.ctx, end = context.WithCancel(context.Background())
	r.rest = time.AfterFunc(time.Hour, debug.FreeOSMemory)
	r.rest.Stop()
	defer func() {
		end()
		r.tasks.Wait()
		r.rest.Stop()
		r.client.Close()
	}()
	return w.Run(r.ctx, func(kind byte, payload []byte) error { return r.handle(kind, payload, lookup) })
}

func (r *role) handle(kind byte, payload []byte, look func(context.Context, string) ([]netip.Addr, error)) error {
	switch kind {
	case kindFetch:
		var f fetch
		if err := privsep.Unmarshal(payload, &f); err != nil {
			return fmt.Errorf("fetch: %w", err)
		}
		return r.begin(f)
	case kindCancel:
		n, _, err := cutNumber(payload)
		if err != nil {
			return err
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.cancel != nil && r.number == n {
			r.cancel()
		}
	case kindLookup:
		var l lookup
		if err := privsep.Unmarshal(payload, &l); err != nil {
			return fmt.Errorf("lookup: %w", err)
		}
		select {
		case r.lookups <- struct{}{}:
		default:
			return errors.New("too many lookups at once")
		}
		r.tasks.Go(func() {
			a := r.lookUp(l, look)
			<-r.lookups // before main knows of it, and asks for the next
			r.SendJSON(kindAddresses, a)
		})
	default:
		return fmt.Errorf("message of kind %d before its time", kind)
	}
	return nil
}

// begin begins a fetch.
func (r *role) begin(f fetch) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cancel != nil {
		return errors.New("a list is being fetched already")
	}
	ctx, cancel := context.WithCancel(r.ctx)
	r.number, r.cancel = f.Number, cancel
	r.rest.Stop()
	r.tasks.Go(func() {
		l, err := r.fetch(ctx, f)
		r.mu.Lock()
		cancel()
		r.cancel = nil
		r.mu.Unlock()
		// An error here is that of the way to main, and ends the role.
		if err == nil {
			err = r.send(f.Number, l)
		} else {
			err = r.fail(f, err)
		}
		if err == nil && l != nil && l.Len() >= large {
			r.rest.Reset(idle)
		}
	})
	return nil
}

func (r *role) fetch(ctx context.Context, f fetch) (*dnsfetch.List, error) {
	request := dnsfetch.Request{Name: f.Name, AllowEmpty: f.AllowEmpty}
	if f.Progress {
		var last time.Time
		request.Progress = func(p dnsfetch.Progress) {
			if now := time.Now(); now.Sub(last) >= progressEvery {
				last = now
				r.SendJSON(kindProgress, progress{Number: f.Number, Server: p.Server, Done: p.Done, Parts: p.Parts, Entries: p.Entries, Bytes: p.Bytes})
			}
		}
	}
	return r.client.Fetch(ctx, request)
}

// send gives main a list.
func (r *role) send(n uint32, l *dnsfetch.List) error {
	h := header{
		Number: n, Name: l.Name, Server: l.Server, Layout: l.Layout, Parts: l.Parts, Restarts: l.Restarts,
		Entries: l.Len(), Bytes: l.Bytes, Elapsed: l.Elapsed,
	}
	for _, err := range l.Failed[:min(len(l.Failed), maxFailed)] {
		h.Failed = append(h.Failed, failed(0, err, maxOther))
	}
	if err := r.SendJSON(kindHeader, h); err != nil {
		return err
	}
	b := make([]byte, 0, min(maxChunk, h.Entries*entryLen))
	for e := range l.All() {
		b = appendEntry(b, e)
		if len(b) == maxChunk {
			if err := r.Send(kindChunk, b); err != nil {
				return err
			}
			b = b[:0]
		}
	}
	if len(b) > 0 {
		if err := r.Send(kindChunk, b); err != nil {
			return err
		}
	}
	return r.Send(kindCommit, number(n))
}

// fail gives main the reason why there is no list.
func (r *role) fail(f fetch, err error) error {
	var e *dnsfetch.Error
	if !errors.As(err, &e) {
		e = &dnsfetch.Error{List: f.Name, Err: err}
	}
	return r.SendJSON(kindFailure, failed(f.Number, e, maxText))
}

// lookUp looks up a host, and leaves out of its addresses what cannot be one.
func (r *role) lookUp(l lookup, look func(context.Context, string) ([]netip.Addr, error)) addresses {
	found, err := look(r.ctx, l.Name)
	a := addresses{Number: l.Number}
	for _, addr := range found {
		addr = addr.Unmap().WithZone("")
		if len(a.Addresses) < maxAddrs && usable(addr) && !slices.Contains(a.Addresses, addr) {
			a.Addresses = append(a.Addresses, addr)
		}
	}
	if len(a.Addresses) > 0 {
		return a
	}
	a.Error = "no usable address"
	if err != nil {
		a.Error = err.Error()
		// The name, and the resolver asked, would make two more colons out of one reason.
		if d := (*net.DNSError)(nil); errors.As(err, &d) {
			a.Error = d.Err
		}
	}
	a.Error = printable(a.Error, maxReason)
	return a
}

// printable returns s with anything but printable ASCII replaced, cut to most characters.
func printable(s string, most int) string {
	b := make([]byte, 0, min(len(s), most))
	for _, r := range s {
		if r < ' ' || r > '~' {
			r = '?'
		}
		if b = append(b, byte(r)); len(b) == most {
			break
		}
	}
	return string(b)
}
