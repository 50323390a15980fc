package report

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/agent/internal/privsep"
	"example.org/threatstopd/agent/internal/status"
	"example.org/threatstopd/capture"
)

// Env is the system as the role sees it. OpenPflog and FlushPflogd are called while the role is root.
type Env struct {
	OpenPflog   func(capture.Options) (capture.Source, error) // opens a pflog interface
	FlushPflogd func() error                                  // asks pflogd(8) to write out what it has; may be nil
	NewSender   func(Config) (Sender, error)                  // what batches are delivered through, nil for NewUploader
	Confine     privsep.Confiner                              // takes the role's privileges away
	Location    *time.Location                                // of the times in lines, nil for time.Local
	Now         func() time.Time                              // the wall clock, nil for time.Now
}

const (
	flushTime  = time.Second      // that pflogd may take to write out what it holds
	policyTime = 10 * time.Second // that packets are left in the kernel's buffer for a policy that was announced
)

// Body returns the life of the role.
func Body(env Env) privsep.Body {
	env.Location = cmp.Or(env.Location, time.Local)
	if env.NewSender == nil {
		env.NewSender = func(c Config) (Sender, error) { return NewUploader(c) }
	}
	return func(conn net.Conn, files []*os.File) error {
		w := privsep.NewWorker(conn, fromMain)
		r := &role{env: env, w: w, main: status.NewBoard(), policy: make(chan struct{})}
		return r.live(files)
	}
}

// A role is one life of the process.
type role struct {
	env    Env
	w      *privsep.Worker
	log    zerolog.Logger
	config Config

	head    policyHead     // of the policy that is coming
	loader  *policy.Loader // nil: none is
	policy  chan struct{}  // closed when the first one has come
	first   sync.Once
	main    *status.Board // main's part of the status
	uploads string        // why nothing can be uploaded in this life; ""

	mu       sync.Mutex
	reporter *Reporter // nil: nothing is read
	why      error     // and why not; nil with UPLOAD=no
	sync     *syncing  // the sync that is under way
}

// syncing is a sync that main carries out: its lines, and when they are closed its exit code.
type syncing struct {
	lines chan syncLine
	exit  int
}

func (r *role) live(files []*os.File) error {
	var l status.Listeners
	err := r.w.Setup(kindSetup, &r.config)
	if err == nil {
		l, err = r.listen(files)
	}
	closeAll(files)
	defer l.Close()
	if err != nil {
		return err
	}
	r.log = r.w.Log().Level(zerolog.Level(r.config.LogLevel))
	var o Options
	if r.config.Mode != "no" {
		o, r.why = r.open()
	}
	if r.env.Confine != nil {
		if err := r.env.Confine.Confine("report", r.config.Confinement); err != nil {
			return err
		}
	}
	if r.config.Mode != "no" && r.why == nil {
		r.reporter, r.why = New(o)
	}
	if err := r.w.Ready(); err != nil {
		return err
	}
	ctx, end := context.WithCancel(context.Background())
	var tasks sync.WaitGroup
	defer tasks.Wait()
	defer end()
	tasks.Go(func() {
		status.Serve(ctx, l, status.Service{Status: r.status, Sync: r.runSync, Location: r.env.Location})
	})
	if r.reporter != nil {
		tasks.Go(func() { r.read(ctx, r.reporter) })
	} else if r.why != nil {
		r.trouble(TroubleCapture, r.why.Error())
	}
	return r.w.Run(ctx, r.handle)
}

// listen makes listeners of the descriptors that the role inherits.
func (r *role) listen(files []*os.File) (l status.Listeners, err error) {
	for i, to := range listeners(&l) {
		switch {
		case !r.config.Listeners[i]:
		case len(files) == 0:
			return l, errors.New("more listeners announced than inherited")
		default:
			if *to, err = net.FileListener(files[0]); err != nil {
				return l, fmt.Errorf("listener %d: %w", i, err)
			}
			files = files[1:]
		}
	}
	return l, nil
}

// open opens what the reporter needs, as root. The order matters: what is logged before
// the interface is read is in the files, once pflogd has written it.
func (r *role) open() (o Options, err error) {
	c := &r.config
	o = Options{Config: *c, Location: r.env.Location, Trouble: r.trouble, Log: r.log, Now: r.env.Now}
	// A spool directory that is missing, or root's, becomes that of the user that this process is to
	// become. What goes wrong with that is reported when the spool is opened.
	_ = os.Mkdir(c.SpoolDir, 0o700)
	if u := c.Confinement; u.UID != 0 {
		_ = Give(c.SpoolDir, u.UID, u.GID)
	}
	if o.Source, err = r.env.OpenPflog(capture.Options{Interface: c.Interface, Filter: c.filter()}); err != nil {
		return o, err
	}
	if o.Sender, err = r.env.NewSender(*c); err != nil {
		// Hits are still read and spooled. The owner repairs the key and reloads.
		r.uploads = err.Error() + ": correct it" + thenReload
		o.Sender = noSender{err}
	}
	if c.LogFile == "" {
		return o, nil
	}
	if r.env.FlushPflogd != nil {
		if err := r.env.FlushPflogd(); err != nil {
			r.log.Warn().Err(err).Msg("pflogd not asked to write out: what it still holds is reported at the next start")
		} else {
			time.Sleep(flushTime)
		}
	}
	logs, logsErr := OpenLogs(c.LogFile)
	// Reported also at a first start, which has nothing to read there.
	if logsErr != nil {
		r.trouble(TroubleLogs, logsErr.Error()+": correct it"+thenReload)
	} else if err := checkNewest(logs); err != nil {
		r.trouble(TroubleLogs, err.Error()+thenReload)
	}
	o.Logs = func() ([]*os.File, error) { return logs, logsErr }
	return o, nil
}

// noSender stands in for a sender that could not be made: each attempt fails with the reason.
type noSender struct{ err error }

func (s noSender) Send(context.Context, ID, []byte) error { return s.err }

// read reports until ctx ends. When its interface goes away the role is of no more use
// than for its sockets; main starts another one, which may open the interface.
func (r *role) read(ctx context.Context, reporter *Reporter) {
	if r.config.Policy {
		// Packets that came before it would not be matched.
		select {
		case <-r.policy:
		case <-time.After(policyTime):
		case <-ctx.Done():
		}
	}
	r.trouble(TroubleUploads, r.uploads)
	r.trouble(TroubleCapture, "")
	err := reporter.Run(ctx)
	if ctx.Err() != nil {
		return
	}
	err = cmp.Or(err, errors.New("capture ended"))
	r.mu.Lock()
	r.reporter, r.why = nil, err
	r.mu.Unlock()
	r.trouble(TroubleCapture, err.Error())
}

// reading returns the reporter, or why there is none.
func (r *role) reading() (*Reporter, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.reporter, r.why
}

// trouble reports to main what begins to be wrong or has ended. When that fails main is gone, which
// Run will see.
func (r *role) trouble(key, text string) {
	_ = r.w.SendJSON(kindTrouble, trouble{key, privsep.Clean(text, maxWhy)})
}

// handle takes a message of main. An error ends the role: main does not make mistakes.
func (r *role) handle(kind byte, payload []byte) (err error) {
	reporter, _ := r.reading()
	switch kind {
	case kindBegin:
		r.loader, r.head = nil, policyHead{}
		if err = privsep.Unmarshal(payload, &r.head); err == nil {
			n := policy.Counts{V4: r.head.V4, V6: r.head.V6}
			r.loader, err = policy.NewLoader(r.head.Lists, n, 2*policy.MaxRecords)
		}
	case kindChunk:
		if r.loader == nil {
			return errors.New("policy: a chunk of none")
		}
		err = r.loader.Add(payload)
	case kindCommit:
		err = r.commit(reporter)
	case kindStatus:
		var s *status.Status
		if s, err = status.Decode(payload); err == nil {
			r.main.Put(s)
		}
	case kindLine, kindWarn:
		r.said(&syncLine{string(payload), kind == kindWarn}, 0)
	case kindDone:
		if len(payload) != 1 {
			return errors.New("sync: no exit code")
		}
		r.said(nil, int(payload[0]))
	case kindLogStatus:
		if reporter != nil {
			reporter.LogStatus()
		}
	case kindRetry:
		if reporter != nil {
			reporter.RetryRefused()
		}
	}
	return err
}

// commit puts the policy that has come in force.
func (r *role) commit(reporter *Reporter) error {
	if r.loader == nil {
		return errors.New("policy: commit of none")
	}
	set, err := r.loader.Set(r.head.Sum)
	if err != nil {
		return err
	}
	r.loader = nil
	if reporter != nil {
		reporter.SetPolicy(set, r.head.Own)
	}
	r.first.Do(func() { close(r.policy) })
	r.log.Debug().Int("entries", set.Len()).Msg("policy taken")
	debug.FreeOSMemory() // the policy before is garbage now
	return nil
}

// errCutShort is the answer to a client whose sync the end of this process cuts short.
var errCutShort = errors.New("threatstopd has read its configuration again, or is stopping: run it again")

// runSync has main carry out a sync, and delivers the hits that wait.
func (r *role) runSync(ctx context.Context, force bool, say func(line string, warn bool)) int {
	s := &syncing{lines: make(chan syncLine, syncLines)}
	use := func(s *syncing) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.sync = s
	}
	use(s)
	defer use(nil)
	kind := byte(kindAskSync)
	if force {
		kind = kindAskForce
	}
	if err := r.w.Send(kind, nil); err != nil {
		say("the main process does not answer: "+err.Error(), true)
		return 1
	}
	for {
		select {
		case l, ok := <-s.lines:
			if ok {
				say(l.text, l.warn)
				continue
			}
			reporter, why := r.reading()
			if reporter != nil {
				why = reporter.Flush(ctx)
			}
			if why != nil && ctx.Err() != nil {
				why = errCutShort
			}
			if why != nil {
				say("hits that wait were not delivered: "+why.Error(), true)
			}
			return s.exit
		case <-ctx.Done():
			say(errCutShort.Error(), true)
			return 1
		}
	}
}

// said takes a line of the sync that is under way, or with nil its end.
func (r *role) said(l *syncLine, exit int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.sync == nil:
	case l == nil:
		r.sync.exit = exit
		close(r.sync.lines)
		r.sync = nil
	default:
		select {
		case r.sync.lines <- *l:
		default: // the client is too slow
		}
	}
}

// status returns main's part, with what the role knows filled in.
func (r *role) status() status.Status {
	s := r.main.Status()
	reporter, why := r.reading()
	if reporter != nil {
		reporter.Describe(&s.Hits, &s.Uploads)
	} else if why != nil {
		s.Hits.Error = why.Error()
	}
	c := &r.config
	s.Hits.Mode, s.Hits.Interface = c.Mode, c.Interface
	if u, err := url.Parse(c.URL); err == nil && c.Mode != "no" {
		s.Uploads.Server, s.Uploads.SpoolDir, s.Uploads.DiskMax = u.Host, c.SpoolDir, c.SpoolMax
	}
	return s
}
