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
	// progressEvery is how often progress is sent at most.
	progressEvery = 50 * time.Millisecond
	// After a list of so many entries its memory is given back.
	large = 10_000
)

// resolver finds the addresses of a host. It is a dnsfetch.Resolver.
type resolver func(context.Context, string) ([]netip.Addr, error)

func (f resolver) LookupNetIP(ctx context.Context, _, host string) ([]netip.Addr, error) {
	return f(ctx, host)
}

// Body returns what the role does. confine, unless nil, confines it. look finds the addresses of hosts,
// also of policy servers given by name.
func Body(confine privsep.Confiner, look func(context.Context, string) ([]netip.Addr, error)) privsep.Body {
	return func(conn net.Conn, _ []*os.File) error {
		w := privsep.NewWorker(conn, toRole)
		var s setup
		if err := w.Setup(kindSetup, &s); err != nil {
			return err
		}
		s.Options.Resolver = resolver(look)
		client, err := dnsfetch.New(s.Options)
		if err != nil {
			return err
		}
		if confine != nil {
			if err := confine.Confine(Role, s.Confinement); err != nil {
				return err
			}
		}
		if err := w.Ready(); err != nil {
			return err
		}
		r := &role{Worker: w, client: client, look: look, cancel: func() {}}
		var end context.CancelFunc
		r.ctx, end = context.WithCancel(context.Background())
		defer func() {
			end()
			r.tasks.Wait()
			client.Close()
		}()
		return w.Run(r.ctx, r.handle)
	}
}

type role struct {
	*privsep.Worker
	ctx    context.Context
	client *dnsfetch.Client
	look   resolver
	tasks  sync.WaitGroup
	cancel context.CancelFunc // ends the fetch under way
}

// handle takes a message of main. A task that cannot send its answer need not report that: Run ends.
func (r *role) handle(kind byte, payload []byte) error {
	switch kind {
	case kindFetch:
		var f fetch
		if err := privsep.Unmarshal(payload, &f); err != nil {
			return fmt.Errorf("fetch: %w", err)
		}
		var ctx context.Context
		ctx, r.cancel = context.WithCancel(r.ctx)
		r.tasks.Go(func() { r.fetch(ctx, f) })
	case kindCancel:
		r.cancel()
	case kindLookup:
		var l lookup
		if err := privsep.Unmarshal(payload, &l); err != nil {
			return fmt.Errorf("lookup: %w", err)
		}
		r.tasks.Go(func() { r.SendJSON(kindAddresses, r.lookUp(l.Name)) })
	default:
		return fmt.Errorf("second message of kind %d", kind)
	}
	return nil
}

// fetch fetches a list, and sends it or the reason why there is none.
func (r *role) fetch(ctx context.Context, f fetch) {
	request := dnsfetch.Request{Name: f.Name, AllowEmpty: f.AllowEmpty}
	if f.Progress {
		var last time.Time
		request.Progress = func(p dnsfetch.Progress) {
			if now := time.Now(); now.Sub(last) >= progressEvery {
				last = now
				r.SendJSON(kindProgress, p)
			}
		}
	}
	l, err := r.client.Fetch(ctx, request)
	if err != nil {
		r.fail(f.Name, err)
		return
	}
	r.send(l)
	if l.Len() >= large {
		l = nil
		debug.FreeOSMemory()
	}
}

// send sends main a list.
func (r *role) send(l *dnsfetch.List) error {
	h := header{List: *l, Entries: l.Len()}
	h.Chunks = nil
	for _, err := range l.Failed[:min(len(l.Failed), maxFailed)] {
		h.Failed = append(h.Failed, newFailure(err, maxOther))
	}
	if err := r.SendJSON(kindHeader, h); err != nil {
		return err
	}
	b := make([]byte, 0, min(maxEntries, h.Entries*entryLen))
	for e := range l.All() {
		if b = appendEntry(b, e); len(b) == maxEntries {
			if err := r.Send(kindEntries, b); err != nil {
				return err
			}
			b = b[:0]
		}
	}
	if len(b) > 0 {
		return r.Send(kindEntries, b)
	}
	return nil
}

// fail sends main the reason why there is no list.
func (r *role) fail(list string, err error) error {
	var e *dnsfetch.Error
	if !errors.As(err, &e) {
		e = &dnsfetch.Error{List: list, Err: err}
	}
	return r.SendJSON(kindFailure, newFailure(e, maxText))
}

// lookUp looks up a host, and leaves out addresses that it cannot have.
func (r *role) lookUp(name string) addresses {
	found, err := r.look(r.ctx, name)
	a := addresses{Name: name}
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
	if d := (*net.DNSError)(nil); errors.As(err, &d) {
		a.Error = d.Err // without the name and the resolver
	} else if err != nil {
		a.Error = err.Error()
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
