package report

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
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

// Env is the system as the role sees it.
type Env struct {
	// OpenPflog opens a pflog interface, and FlushPflogd asks pflogd(8) to write
	// out what it has; both while the role is root.
	OpenPflog   func(capture.Options) (capture.Source, error)
	FlushPflogd func() error
	// NewSender makes what batches are delivered through, nil for NewUploader.
	NewSender func(UploadOptions) (Sender, error)
	// Confine takes the role's privileges away.
	Confine privsep.Confiner
	// Location is the zone of the times in lines, nil for time.Local; Now the
	// wall clock, nil for time.Now.
	Location *time.Location
	Now      func() time.Time
}

const (
	// flushTime is how long pflogd may take to write out what it holds.
	flushTime = time.Second
	// policyTime is how long packets are left in the kernel's buffer for a
	// policy that was announced.
	policyTime = 10 * time.Second
)

// Body returns the life of the role.
func Body(env Env) privsep.Body {
	if env.NewSender == nil {
		env.NewSender = func(o UploadOptions) (Sender, error) {
			c, err := NewUploader(o)
			if err != nil {
				return nil, err // not c: a nil *Uploader in a Sender is not nil
			}
			return c, nil
		}
	}
	return func(conn net.Conn, files []*os.File) error {
		return runRole(env, privsep.NewWorker(conn, fromMain), files)
	}
}

// A role is one life of the process.
type role struct {
	env   Env
	w     *privsep.Worker
	log   zerolog.Logger
	setup Setup

	// Opened as root.
	source  capture.Source
	sender  Sender
	logs    []*os.File // of pflogd
	logsErr error      // why they could not be opened
	// noUploads says why nothing can be uploaded in this life; "" when uploads are possible.
	noUploads string

	loading *loading      // the policy that is coming
	policy  chan struct{} // closed when the first one has come
	first   sync.Once

	mu       sync.Mutex
	reporter *Reporter // nil: nothing is read
	why      string    // and why not
	sync     chan said // the sync that is under way

	main *status.Board // main's part of the status
}

// loading is a policy of which not all has come.
type loading struct {
	head   policyHead
	sum    [32]byte
	loader *policy.Loader
}

func runRole(env Env, w *privsep.Worker, files []*os.File) error {
	r := &role{env: env, w: w, log: w.Log(), main: status.NewBoard(), policy: make(chan struct{})}
	fail := func(err error) error {
		r.closeAll()
		return err
	}
	if err := w.Setup(kindSetup, &r.setup); err != nil {
		return fail(err)
	}
	r.log = r.log.Level(zerolog.Level(r.setup.LogLevel))
	listeners, err := r.listen(files)
	if err != nil {
		return fail(err)
	}
	defer listeners.Close()
	// Read now, since the file will be out of sight.
	_, _ = time.Now().In(r.location()).Zone()
	if r.setup.Reporting != nil {
		if err := r.open(); err != nil {
			r.why = err.Error()
			r.closeAll()
		}
	}
	if env.Confine != nil {
		if err := env.Confine.Confine("report", r.setup.Confinement); err != nil {
			return fail(err)
		}
	}
	reporter := r.newReporter()
	if err := w.Ready(); err != nil {
		r.closeAll()
		return err
	}
	return r.work(listeners, reporter)
}

func (r *role) location() *time.Location {
	if r.env.Location != nil {
		return r.env.Location
	}
	return time.Local
}

// listen makes listeners of the descriptors that the role inherits.
func (r *role) listen(files []*os.File) (l status.Listeners, err error) {
	defer func() {
		for _, f := range files {
			f.Close()
		}
		if err != nil {
			l.Close()
		}
	}()
	if len(files) != len(r.setup.Listeners) {
		return l, fmt.Errorf("%d listeners announced, %d inherited", len(r.setup.Listeners), len(files))
	}
	for i, name := range r.setup.Listeners {
		to := map[string]*net.Listener{listenFull: &l.Full, listenReadOnly: &l.ReadOnly, listenMetrics: &l.Metrics, listenPage: &l.Page}[name]
		if to == nil || *to != nil {
			return l, fmt.Errorf("listener %q", name)
		}
		if *to, err = net.FileListener(files[i]); err != nil {
			return l, fmt.Errorf("listener %q: %w", name, err)
		}
	}
	return l, nil
}

// open opens what the reporter needs, as root. The order matters: what is logged before
// the interface is read is in the files, once pflogd has written it.
func (r *role) open() (err error) {
	o := r.setup.Reporting
	r.makeSpool(o.SpoolDir)
	if r.source, err = r.env.OpenPflog(o.Pflog); err != nil {
		return err
	}
	if r.sender, err = r.env.NewSender(o.Upload); err != nil {
		// Hits are still read and spooled. The owner repairs the key and reloads.
		r.noUploads = err.Error() + ": correct it, then rcctl reload threatstopd"
		r.sender = noSender{err}
	}
	if o.LogFile == "" {
		return nil
	}
	if r.env.FlushPflogd != nil {
		if err := r.env.FlushPflogd(); err != nil {
			r.log.Warn().Err(err).Msg("pflogd not asked to write out: what it still holds is reported at the next start")
		} else {
			time.Sleep(flushTime)
		}
	}
	r.logs, r.logsErr = OpenLogs(o.LogFile)
	return nil
}

// makeSpool makes a spool directory that is missing, and gives one that is root's to the
// user that this process is to become. What goes wrong with that is reported when the spool is
// opened.
func (r *role) makeSpool(dir string) {
	_ = os.Mkdir(dir, 0o700)
	if u := r.setup.Confinement; u.UID != 0 {
		_ = Give(dir, u.UID, u.GID)
	}
}

// newReporter returns nil when there is nothing to report with.
func (r *role) newReporter() *Reporter {
	if r.setup.Reporting == nil || r.why != "" {
		return nil
	}
	o := r.setup.Reporting
	options := Options{
		Config:   o.Config,
		Source:   r.source,
		Filter:   o.Pflog.Filter,
		Sender:   r.sender,
		Location: r.location(),
		Trouble: func(key, text string) {
			_ = r.w.SendJSON(kindTrouble, trouble{key, clip(printable(text), maxWhy)})
		},
		Log: r.log,
		Now: r.env.Now,
	}
	if o.LogFile != "" {
		// They were written out and opened while there was the right to.
		options.Logs = func() ([]*os.File, error) { return r.logs, r.logsErr }
	}
	reporter, err := New(options)
	if err != nil {
		r.why = err.Error()
		r.closeAll()
		return nil
	}
	if r.logsErr != nil { // also at a first start, which has nothing to read there
		options.Trouble(TroubleLogs, r.logsErr.Error())
	}
	r.reporter = reporter
	return reporter
}

// closeAll closes what open has opened and no reporter has taken over.
func (r *role) closeAll() {
	if r.source != nil {
		r.source.Close()
		r.source = nil
	}
	r.closeLogs()
	r.closeSender()
}

func (r *role) closeLogs() {
	for _, f := range r.logs {
		f.Close()
	}
	r.logs = nil
}

// noSender stands in for a sender that could not be made: each attempt fails with the reason.
type noSender struct{ err error }

func (s noSender) Send(context.Context, ID, []byte) error { return s.err }

// closeSender closes the connection that the sender keeps.
func (r *role) closeSender() {
	if c, ok := r.sender.(interface{ Close() }); ok {
		c.Close()
	}
	r.sender = nil
}

// work serves and reports until main says that it is the end, or is gone.
func (r *role) work(listeners status.Listeners, reporter *Reporter) error {
	ctx, end := context.WithCancel(context.Background())
	var tasks sync.WaitGroup
	tasks.Go(func() { status.Serve(ctx, listeners, r.service()) })
	if reporter != nil {
		tasks.Go(func() { r.read(ctx, reporter) })
	} else if r.setup.Reporting != nil {
		r.announce(captureState{Why: r.why})
	}
	err := r.w.Run(ctx, r.handle)
	end()
	tasks.Wait()
	return err
}

// read reports until ctx ends. When its interface goes away the role is of no more use
// than for its sockets; main starts another one, which may open the interface.
func (r *role) read(ctx context.Context, reporter *Reporter) {
	defer r.closeSender()
	if r.setup.Policy {
		// Packets that came before it would not be matched.
		timer := time.NewTimer(policyTime)
		select {
		case <-r.policy:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
	r.announce(captureState{Reading: true, NoUploads: r.noUploads})
	err := reporter.Run(ctx)
	if ctx.Err() != nil {
		return
	}
	if err == nil {
		err = errors.New("capture ended")
	}
	r.mu.Lock()
	r.reporter, r.why = nil, err.Error()
	r.mu.Unlock()
	r.announce(captureState{Why: err.Error()})
}

// reading returns the reporter, or why there is none.
func (r *role) reading() (*Reporter, string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.reporter, r.why
}

// announce reports to main whether hits are read. When that fails main is gone, which Run will
// see.
func (r *role) announce(s captureState) {
	s.Why, s.NoUploads = clip(printable(s.Why), maxWhy), clip(printable(s.NoUploads), maxWhy)
	_ = r.w.SendJSON(kindCapture, s)
}

// handle takes a frame from main. An error ends the role: main does not make mistakes.
func (r *role) handle(kind byte, payload []byte) error {
	switch kind {
	case kindBegin:
		return r.begin(payload)
	case kindChunk:
		if r.loading == nil {
			return errors.New("policy: a chunk of none")
		}
		return r.loading.loader.Add(payload)
	case kindCommit:
		return r.commit()
	case kindStatus:
		s, err := status.Decode(payload)
		if err != nil {
			return err
		}
		r.main.Put(s)
	case kindLine:
		if len(payload) == 0 {
			return errors.New("sync: an empty line")
		}
		r.said(said{line: string(payload[1:]), warn: payload[0]&lineWarn != 0})
	case kindDone:
		if len(payload) != 1 {
			return errors.New("sync: no exit code")
		}
		r.said(said{end: true, exit: int(payload[0])})
	case kindLogStatus:
		if reporter, _ := r.reading(); reporter != nil {
			reporter.LogStatus()
		}
	case kindRetry:
		if reporter, _ := r.reading(); reporter != nil {
			reporter.RetryRefused()
		}
	default:
		return fmt.Errorf("frame of kind %d", kind)
	}
	return nil
}

// begin begins to take a policy. One that was coming is given up: main has a newer one.
func (r *role) begin(payload []byte) error {
	r.loading = nil
	x := &loading{}
	if err := privsep.Unmarshal(payload, &x.head); err != nil {
		return fmt.Errorf("policy: %w", err)
	}
	sum, err := hex.DecodeString(x.head.Sum)
	if err != nil || len(sum) != len(x.sum) {
		return fmt.Errorf("policy: checksum %q", x.head.Sum)
	}
	x.sum = [32]byte(sum)
	x.loader, err = policy.NewLoader(x.head.Lists, policy.Counts{V4: x.head.V4, V6: x.head.V6}, 2*policy.MaxRecords)
	if err != nil {
		return err
	}
	r.loading = x
	return nil
}

// commit puts the policy that has come in force.
func (r *role) commit() error {
	x := r.loading
	r.loading = nil
	if x == nil {
		return errors.New("policy: commit of none")
	}
	set, err := x.loader.Set(x.sum)
	if err != nil {
		return err
	}
	reporter, _ := r.reading()
	if reporter != nil {
		reporter.SetPolicy(policy.NewIndex(set), x.head.Own)
	}
	r.first.Do(func() { close(r.policy) })
	r.log.Debug().Uint64("generation", x.head.Generation).Int("entries", set.Len()).Msg("policy taken")
	// The columns, and the index before, are garbage now.
	x, set = nil, nil
	debug.FreeOSMemory()
	return nil
}
