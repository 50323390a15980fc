package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"example.org/threatstopd/agent/internal/apply"
	"example.org/threatstopd/agent/internal/fetch"
	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/agent/internal/privsep"
	"example.org/threatstopd/agent/internal/sources"
	"example.org/threatstopd/agent/internal/status"
	"example.org/threatstopd/pfioctl"
)

// errInterrupted is why a run ended early.
var errInterrupted = errors.New("interrupted: the policy in force stays")

// syncNow is one policy run: the daemon's where one is running, and else our
// own.
func syncNow(ctx context.Context, env Env, f *flags) error {
	st, err := daemonStatus(ctx, env)
	if err != nil {
		return err
	}
	if st != nil && (!f.fileGiven || daemonsFile(f.file, st)) {
		return askDaemon(ctx, env, f)
	}
	cfg, err := load(env, f)
	if err != nil {
		return err
	}
	if st != nil {
		if err := overlap(cfg, f.file, st); err != nil {
			return usageError{err}
		}
	}
	if err := tableFiles(cfg); err != nil {
		return usageError{err}
	}
	unlock, err := apply.Lock(filepath.Dir(cfg.BlockFile))
	if err != nil {
		return err
	}
	defer unlock()
	// The fetching process gets ready beside us. It is not heard before we are confined.
	confined := make(chan struct{})
	fetcher, err := fetch.New(ctx, fetch.Options{
		Starter:     env.Roles,
		Fetch:       fetchOptions(cfg),
		Confinement: fetchConfinement(cfg, lookupUser(cfg.User)),
		Hold:        confined,
		Once:        true,
	})
	if err != nil {
		return usageError{err}
	}
	defer fetcher.Close()
	pf, err := env.OpenPF()
	if err != nil {
		return err
	}
	defer pf.Close()
	e := apply.New(pf)
	if err := e.OpenDirs(cfg.BlockFile, cfg.AllowFile); err != nil {
		return err
	}
	defer e.Close()
	o, src := applyOptions(cfg, env), sources.New(sourcesOptions(cfg))
	facts, hostErr := env.Host()
	// From here on pf is asked for nothing else than its promise allows.
	if _, err := pf.Limit(pfioctl.LimitTableEntries); err != nil {
		return err
	}
	pf.Pledged()
	if env.Confine != nil {
		keeps := privsep.Confinement{Paths: map[string]string{"BLOCK_FILE": cfg.BlockFile, "ALLOW_FILE": cfg.AllowFile}}
		if err := env.Confine.Confine("--sync-now", keeps); err != nil {
			return err
		}
	}
	close(confined)

	screen := &screen{env: env, quiet: f.quiet}
	n := &apply.Narrator{
		Say:     screen.say,
		Warn:    screen.warn,
		Draw:    screen.draw,
		Verbose: f.verbose > 0,
		Local:   env.Local,
		Version: shortVersion(),
	}
	n.Begin(env.Now())
	if notice := pf.Notice(); notice != "" {
		screen.warn("warning: " + notice)
	}
	began := env.Now()
	src.Fetch(ctx, fetcher, sources.Narrate(n))
	go fetcher.Close() // while pf and the disk are at work
	out := &apply.Outcome{Err: errInterrupted}
	if ctx.Err() == nil {
		if !src.Failed() {
			n.Complete()
		}
		out = src.Enforce(e, &o, func() (policy.Facts, error) { return facts, hostErr }, f.force, n.Setting)
	}
	out.Began, out.Elapsed = began, env.Now().Sub(began)
	n.End(out)
	if !out.OK() {
		return errSaid
	}
	return nil
}

// daemonStatus returns the status of the running daemon, nil if none runs.
func daemonStatus(ctx context.Context, env Env) (*status.Status, error) {
	if env.Socket == "" {
		return nil, nil
	}
	client, err := status.Dial(ctx, env.Socket)
	if errors.Is(err, status.ErrNotRunning) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return client.Status(ctx)
}

// askDaemon has the daemon do it and shows its progress. The daemon continues when the caller
// does not wait.
func askDaemon(ctx context.Context, env Env, f *flags) error {
	client, err := status.Dial(ctx, env.Socket)
	if err != nil {
		return err
	}
	screen := &screen{env: env, quiet: f.quiet}
	exit, err := client.Sync(ctx, f.force, func(line string, warn bool) {
		switch {
		case warn:
			screen.warn(line)
		case f.verbose > 0 || !strings.HasPrefix(line, "  "): // a detail
			screen.say(line)
		}
	})
	if err != nil {
		return err
	}
	if exit != exitOK {
		return errSaid
	}
	return nil
}

// screen writes what is done to Stdout, what is wrong to Stderr, and on a
// terminal a line that shows how far the work has come.
type screen struct {
	env   Env
	quiet bool      // print only what is wrong
	drawn int       // width of the line that is to be replaced
	last  time.Time // when one was drawn
}

// A line that is drawn fits into the narrowest terminal, since one that was
// wrapped could not be taken back; and a serial console of 9600 baud must not
// hold the work up.
const (
	drawWidth = 79
	drawEvery = 200 * time.Millisecond
)

func (s *screen) say(line string) {
	if s.quiet {
		return
	}
	s.erase()
	fmt.Fprintln(s.env.Stdout, line)
}

func (s *screen) warn(line string) {
	s.erase()
	fmt.Fprintf(s.env.Stderr, "threatstopd: %s\n", line)
}

func (s *screen) draw(line string) {
	if s.quiet || !s.env.Terminal || s.drawn > 0 && time.Since(s.last) < drawEvery {
		return
	}
	s.last = time.Now()
	line = line[:min(len(line), drawWidth)]
	io.WriteString(s.env.Stderr, "\r"+line+strings.Repeat(" ", max(0, s.drawn-len(line))))
	s.drawn = len(line)
}

func (s *screen) erase() {
	if s.drawn > 0 {
		io.WriteString(s.env.Stderr, "\r"+strings.Repeat(" ", s.drawn)+"\r")
		s.drawn = 0
	}
}
