package states

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime/debug"
	"time"

	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/agent/internal/privsep"
	"example.org/threatstopd/pfioctl"
)

// Env is the system as the role sees it.
type Env struct {
	// OpenPF opens /dev/pf for writing, while the role is root.
	OpenPF func() (*pfioctl.PF, error)
	// Confine takes the role's privileges away; nil leaves them.
	Confine privsep.Confiner
}

// Body returns what the role does.
func Body(env Env) privsep.Body {
	return func(conn net.Conn, _ []*os.File) error {
		r := &role{w: privsep.NewWorker(conn, fromMain)}
		var setup Setup
		err := r.w.Setup(kindSetup, &setup)
		if err != nil {
			return err
		}
		if r.pf, err = env.OpenPF(); err != nil {
			return explained(err)
		}
		defer r.pf.Close()
		if env.Confine != nil {
			if err := env.Confine.Confine(Name, setup.Confinement); err != nil {
				return err
			}
		}
		if err := r.w.Ready(); err != nil {
			return err
		}
		return r.w.Run(context.Background(), r.handle)
	}
}

type role struct {
	w  *privsep.Worker
	pf *pfioctl.PF

	// Of the request whose addresses arrive, if any.
	asked    *request
	deadline time.Time
	loader   *policy.Loader
}

// handle takes a message of main. An error ends the role: main does not make mistakes.
func (r *role) handle(kind byte, payload []byte) (err error) {
	switch {
	case kind == kindRequest:
		var q request
		if err := privsep.Unmarshal(payload, &q); err != nil {
			return fmt.Errorf("request: %w", err)
		}
		if q.V4+q.V6 < 1 || q.Wait < 0 || q.Wait > maxWait {
			return fmt.Errorf("request of %d networks in %v", q.V4+q.V6, q.Wait)
		}
		r.asked, r.deadline = &q, time.Now().Add(q.Wait)
		r.loader, err = policy.NewLoader([]string{"new"}, policy.Counts{V4: q.V4, V6: q.V6}, maxEntries)
		return err
	case r.asked == nil:
		return fmt.Errorf("message of kind %d without a request", kind)
	case kind == kindRanges:
		return r.loader.Add(payload)
	}
	q := r.asked
	cut, err := r.loader.Set(q.Sum)
	if err != nil {
		return err
	}
	r.asked, r.loader = nil, nil
	// Main has left out the host's own addresses. Killing their states would cut the owner off, so that
	// it is checked once more.
	for _, a := range q.Own {
		if _, _, ok := cut.Lookup(a); ok {
			return fmt.Errorf("request for %v, an address of this host", a)
		}
	}
	a := answer{ID: q.ID}
	if a.Done, err = kill(r.pf, cut, r.deadline); err != nil {
		a.Error = privsep.Clean(explained(err).Error(), maxText)
	}
	if cut.Len() > 1<<12 {
		cut = nil
		debug.FreeOSMemory() // the next request is hours away
	}
	return r.w.SendJSON(kindAnswer, a)
}

// clockEvery is how many states are examined between two looks at the clock.
const clockEvery = 256

// kill removes the states of the addresses in cut. pf consults rules and tables only for the first
// packet of a connection, so that a connection which was passed before continues until its state is
// gone. A state belongs to an address that is in either of its two keys, that of the wire or that of the
// stack, which differ where addresses are translated.
//
// At the deadline the rest is left. Reading the state table, which comes first, cannot be interrupted.
// After an error the numbers are those reached until then.
func kill(pf *pfioctl.PF, cut *policy.Set, deadline time.Time) (done Killed, err error) {
	late := func() bool { return !time.Now().Before(deadline) }
	var failed error
	err = pf.EachState(func(s pfioctl.State, left int) bool {
		done.Left = left + 1
		if done.Considered%clockEvery == 0 && late() {
			return false
		}
		if concerns(s, cut) {
			// This takes the kernel's locks and time, unlike examining.
			if late() {
				return false
			}
			n, err := pf.KillState(s.ID, s.Creator)
			if err != nil {
				failed = err
				return false
			}
			done.Killed += n // 0: it has ended by itself
		}
		done.Considered++
		done.Left = left
		return true
	})
	return done, cmp.Or(err, failed)
}

// concerns reports whether an address of one of the state's keys is in cut.
func concerns(s pfioctl.State, cut *policy.Set) bool {
	for i := range 2 {
		for _, a := range []netip.Addr{s.Wire[i].Addr(), s.Stack[i].Addr()} {
			if _, _, ok := cut.Lookup(a); ok {
				return true
			}
		}
	}
	return false
}

// explained adds what to do about an error of pf.
func explained(err error) error {
	var e *pfioctl.Error
	if errors.As(err, &e) && e.Advice() != "" {
		return fmt.Errorf("%w: %s", err, e.Advice())
	}
	return err
}
