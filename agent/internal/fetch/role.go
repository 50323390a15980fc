package fetch

import (
	"cmp"
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

// resolver finds the addresses of a host.
type resolver = func(ctx context.Context, host string) ([]netip.Addr, error)

// Body returns what the role does. confine, unless nil, confines it. look finds the addresses of hosts,
// also of policy servers given by name.
func Body(confine privsep.Confiner, look resolver) privsep.Body {
	return func(conn net.Conn, _ []*os.File) error {
		w := privsep.NewWorker(conn, toRole)
		var s setup
		if err := w.Setup(kindSetup, &s); err != nil {
			return err
		}
		s.Options.Resolver = look
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
	cancel context.CancelFunc // ends the request under way
}

// handle takes a message of main. A task that cannot send its answer need not report that: Run ends.
func (r *role) handle(kind byte, payload []byte) error {
	switch kind {
	case kindFetch:
		var f fetch
		if err := privsep.Unmarshal(payload, &f); err != nil {
			return fmt.Errorf("fetch: %w", err)
		}
		r.begin(func(ctx context.Context) { r.fetch(ctx, f) })
	case kindLookup:
		var names []string
		if err := privsep.Unmarshal(payload, &names); err != nil {
			return fmt.Errorf("lookup: %w", err)
		}
		r.begin(func(ctx context.Context) { r.SendJSON(kindAddresses, LookUp(ctx, names, r.look)) })
	case kindCancel:
		r.cancel()
	default:
		return fmt.Errorf("second message of kind %d", kind)
	}
	return nil
}

// begin starts a task that kindCancel ends.
func (r *role) begin(task func(context.Context)) {
	ctx, cancel := context.WithCancel(r.ctx)
	r.cancel = cancel
	r.tasks.Go(func() {
		defer cancel()
		task(ctx)
	})
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
	err := r.SendJSON(kindHeader, h)
	for _, c := range l.Chunks {
		for part := range slices.Chunk(c, maxChunk) {
			b := make([]byte, 0, len(part)*entryLen)
			for _, e := range part {
				flags := byte(0)
				if e.V6 {
					flags |= entryV6
				}
				if e.Not {
					flags |= entryNot
				}
				b = append(append(b, e.Addr[:]...), e.Bits, flags)
			}
			err = cmp.Or(err, r.Send(kindEntries, b))
		}
	}
	return err
}

// fail sends main the reason why there is no list.
func (r *role) fail(list string, err error) error {
	var e *dnsfetch.Error
	if !errors.As(err, &e) {
		e = &dnsfetch.Error{List: list, Err: err}
	}
	return r.SendJSON(kindFailure, newFailure(e, maxText))
}

// lookupTimeout bounds the look-ups of all names together. The system's resolver would wait half a minute
// for each while no resolver can be reached.
const lookupTimeout = 10 * time.Second

// LookUp looks up all names at once, for at most 10 seconds. It leaves out addresses that a host cannot have.
func LookUp(ctx context.Context, names []string, look resolver) []Name {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	found := make([]Name, len(names))
	var lookups sync.WaitGroup
	for i, name := range names {
		lookups.Go(func() {
			addrs, err := look(ctx, name)
			n := &found[i]
			for _, a := range addrs {
				a = a.Unmap().WithZone("")
				if len(n.Addrs) < maxAddrs && usable(a) && !slices.Contains(n.Addrs, a) {
					n.Addrs = append(n.Addrs, a)
				}
			}
			if d := (*net.DNSError)(nil); errors.As(err, &d) {
				err = errors.New(d.Err) // the name, and the resolver asked, would make two more colons
			}
			if err == nil {
				err = errors.New("no usable address")
			}
			if len(n.Addrs) == 0 {
				n.Err = printable(err.Error(), maxReason)
			}
		})
	}
	lookups.Wait()
	return found
}
