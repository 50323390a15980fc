package report

import (
	"context"
	"errors"

	"example.org/threatstopd/agent/internal/status"
)

// service answers at the sockets: with what the role knows, and what main does.
func (r *role) service() status.Service {
	return status.Service{Status: r.status, Sync: r.runSync, Location: r.location()}
}

func (r *role) status() status.Status {
	s := r.main.Status()
	r.describe(&s)
	return s
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

// runSync has main carry out a sync.
func (r *role) runSync(ctx context.Context, force bool, say func(line string, warn bool)) int {
	s := &session{lines: make(chan said, sessionLines), done: make(chan int, 1)}
	r.mu.Lock()
	r.sync = s
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		r.sync = nil
		r.mu.Unlock()
	}()
	flags := []byte{0}
	if force {
		flags[0] = askForce
	}
	if err := r.w.Send(kindAskSync, flags); err != nil {
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
			if err := r.flush(ctx); err != nil {
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

// flush delivers the hits that wait.
func (r *role) flush(ctx context.Context) error {
	reporter, _ := r.reading()
	if reporter == nil {
		if r.setup.Reporting == nil {
			return nil
		}
		return errors.New("hits are not read now: see --status")
	}
	return reporter.Flush(ctx)
}

// describe fills in what the role knows.
func (r *role) describe(s *status.Status) {
	if reporter, why := r.reading(); reporter != nil {
		reporter.Describe(&s.Hits, &s.Uploads)
	} else if r.setup.Reporting != nil {
		s.Hits.Error = why
	}
	s.Hits.Mode, s.Hits.Interface = r.setup.Mode, r.setup.Interface
	if o := r.setup.Reporting; o != nil {
		s.Uploads.Server, s.Uploads.SpoolDir, s.Uploads.DiskMax = r.setup.LogServer, o.SpoolDir, o.SpoolMax
	}
}
