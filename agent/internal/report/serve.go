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

// A said is a line of a sync, or its end with the exit code.
type said struct {
	line string
	warn bool
	end  bool
	exit int
}

// sessionLines are how many lines of a sync may wait for a client; main has fewer to say
// unless there are hundreds of exceptions. Others are left out.
const sessionLines = 4096

// runSync has main carry out a sync.
func (r *role) runSync(ctx context.Context, force bool, say func(line string, warn bool)) int {
	lines := make(chan said, sessionLines+1)
	use := func(c chan said) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.sync = c
	}
	use(lines)
	defer use(nil)
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
		case x := <-lines:
			if !x.end {
				say(x.line, x.warn)
				continue
			}
			if err := r.flush(ctx); err != nil {
				say("hits that wait were not delivered: "+err.Error(), true)
			}
			return x.exit
		case <-ctx.Done():
			say(ctx.Err().Error(), true)
			return 1
		}
	}
}

// said takes a line of the sync that is under way, or its end, for which there is always room.
func (r *role) said(x said) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sync == nil || !x.end && len(r.sync) >= sessionLines {
		return
	}
	select {
	case r.sync <- x:
	default: // a second end
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
