package states

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime/debug"
	"time"

	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/agent/internal/privsep"
	"example.org/threatstopd/pfioctl"
)

// Env is the system as the role sees it.
type Env struct {
	// OpenPF opens /dev/pf for writing; while the role is root.
	OpenPF func() (*pfioctl.PF, error)
	// Confine takes the role's privileges away; nil leaves them.
	Confine privsep.Confiner
}

// Body returns the life of the role.
func Body(env Env) privsep.Body {
	return func(conn net.Conn, files []*os.File) error {
		for _, f := range files {
			f.Close() // it has none
		}
		return run(env, privsep.NewWorker(conn, fromMain))
	}
}

func run(env Env, w *privsep.Worker) error {
	var setup Setup
	if err := w.Setup(kindSetup, &setup); err != nil {
		if errors.Is(err, privsep.ErrEnded) {
			return nil
		}
		return err
	}
	pf, err := env.OpenPF()
	if err != nil {
		return explained(err)
	}
	defer pf.Close()
	if env.Confine != nil {
		if err := env.Confine.Confine(Name, setup.Confinement); err != nil {
			return err
		}
	}
	if err := w.Ready(); err != nil {
		return err
	}
	r := &role{w: w, pf: pf}
	return w.Run(context.Background(), r.handle)
}

type role struct {
	w  *privsep.Worker
	pf *pfioctl.PF

	// What is coming; nil: nothing is.
	asked  *request
	came   time.Time
	ranges *policy.RangesLoader
}

// handle takes a frame from main. An error ends the role: main does not make mistakes.
func (r *role) handle(kind byte, payload []byte) error {
	switch kind {
	case kindBegin:
		return r.begin(payload)
	case kindChunk:
		if r.asked == nil {
			return errors.New("ranges of no request")
		}
		return r.ranges.Add(payload)
	case kindGo:
		return r.kill()
	}
	return fmt.Errorf("frame of kind %d", kind)
}

func (r *role) begin(payload []byte) error {
	var q request
	if err := privsep.Unmarshal(payload, &q); err != nil {
		return fmt.Errorf("request: %w", err)
	}
	if q.Ranges < 1 || q.Ranges > maxRanges || q.Wait > maxWait {
		return fmt.Errorf("request of %d ranges in %v", q.Ranges, q.Wait)
	}
	r.asked, r.came, r.ranges = &q, time.Now(), policy.NewRangesLoader(q.Ranges)
	return nil
}

// kill does what was asked for, and answers.
func (r *role) kill() error {
	q := r.asked
	if q == nil {
		return errors.New("no request to carry out")
	}
	r.asked = nil
	cut, err := r.ranges.Ranges()
	if err != nil {
		return err
	}
	if cut.Len() != q.Ranges {
		return fmt.Errorf("request: %d ranges came, announced were %d", cut.Len(), q.Ranges)
	}
	// Main has left them out. To kill the state of the owner's connection would cut
	// the owner off, so it is looked at once more.
	for _, a := range q.Own {
		if cut.Contains(a) {
			return fmt.Errorf("request: has %v, an address of this host", a)
		}
	}
	a := answer{ID: q.ID}
	if a.Done, err = kill(r.pf, cut, r.came.Add(q.Wait)); err != nil {
		a.Error = line(explained(err).Error())
	}
	if err := r.w.SendJSON(kindAnswer, a); err != nil {
		return err
	}
	if r.ranges = nil; cut.Len() > 1<<12 {
		cut = nil
		debug.FreeOSMemory() // until the next time, hours from now
	}
	return nil
}

// explained adds what to do about an error of pf.
func explained(err error) error {
	var e *pfioctl.Error
	if errors.As(err, &e) {
		if advice := e.Advice(); advice != "" {
			return fmt.Errorf("%w: %s", err, advice)
		}
	}
	return err
}
