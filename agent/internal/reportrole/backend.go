package reportrole

import (
	"context"
	"errors"
	"time"

	"example.org/threatstopd/agent/internal/status"
)

// mainTime is how long main may take over its part of a status; tests cannot wait so long.
var mainTime = 3 * time.Second

// backend answers at the sockets: with what the role knows, and what main does.
type backend struct{ *role }

// asking is a status that main was asked for. Whoever asks meanwhile waits for the same.
type asking struct{ answered chan struct{} }

// Status implements status.Backend.
func (b backend) Status() status.Status {
	s := b.askMain()
	s.Now = time.Now()
	b.describe(&s)
	return s
}

const noAnswer = "the main process does not answer: whether pf enforces the policy is not known"

// askMain returns main's part of the status. When main does not answer that is told,
// together with what it last said.
func (r *role) askMain() status.Status {
	r.mu.Lock()
	a := r.asking
	ask := a == nil
	if ask {
		a = &asking{answered: make(chan struct{})}
		r.asking = a
	}
	r.mu.Unlock()
	if ask {
		// When it fails main is gone, and does not answer.
		_ = r.w.Send(kindAskStatus, nil)
	}
	timer := time.NewTimer(mainTime)
	defer timer.Stop()
	answered := true
	select {
	case <-a.answered:
	case <-timer.C:
		answered = false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var s status.Status
	if r.main != nil {
		s = *r.main
	}
	if !answered {
		if r.asking == a {
			r.asking = nil // the next asks again
		}
		s.Enforced, s.NotEnforced = false, noAnswer
	}
	return s
}

// told takes main's part of the status.
func (r *role) told(s *status.Status) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.main = s
	if r.asking != nil {
		close(r.asking.answered)
		r.asking = nil
	}
}

// A session is a sync that main was asked for.
type session struct {
	lines chan said
	done  chan int
}

type said struct {
	line string
	warn bool
}

// sessionLines are how many lines of a sync may wait for a client; main has fewer to say
// unless there are hundreds of exceptions. Others are left out.
const sessionLines = 4096

// Sync implements status.Backend.
func (b backend) Sync(ctx context.Context, force bool, say func(line string, warn bool)) int {
	s := &session{lines: make(chan said, sessionLines), done: make(chan int, 1)}
	b.mu.Lock()
	b.sync = s
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		b.sync = nil
		b.mu.Unlock()
	}()
	flags := []byte{0}
	if force {
		flags[0] = askForce
	}
	if err := b.w.Send(kindAskSync, flags); err != nil {
		say("the main process does not answer: "+err.Error(), true)
		return 1
	}
	for {
		select {
		case x := <-s.lines:
			say(x.line, x.warn)
			continue
		default:
		}
		select {
		case x := <-s.lines:
			say(x.line, x.warn)
		case exit := <-s.done:
			for len(s.lines) > 0 {
				x := <-s.lines
				say(x.line, x.warn)
			}
			if err := b.Flush(ctx); err != nil {
				say("hits that wait were not delivered: "+err.Error(), true)
			}
			return exit
		case <-ctx.Done():
			say(ctx.Err().Error(), true)
			return 1
		}
	}
}

// line takes a line of the sync that is under way.
func (r *role) line(line string, warn bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sync == nil {
		return
	}
	select {
	case r.sync.lines <- said{line, warn}:
	default:
	}
}

// done takes its end.
func (r *role) done(exit int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sync == nil {
		return
	}
	select {
	case r.sync.done <- exit:
	default:
	}
}

// Flush implements status.Backend.
func (b backend) Flush(ctx context.Context) error {
	reporter, _ := b.reading()
	if reporter == nil {
		if b.setup.Reporting == nil {
			return nil
		}
		return errors.New("hits are not read now: see --status")
	}
	return reporter.Flush(ctx)
}
