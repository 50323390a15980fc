package cli

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"

	"example.org/threatstopd/agent/internal/apply"
	"example.org/threatstopd/agent/internal/config"
	"example.org/threatstopd/agent/internal/fetch"
	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/agent/internal/privsep"
	"example.org/threatstopd/agent/internal/sources"
	"example.org/threatstopd/agent/internal/status"
	"example.org/threatstopd/pfioctl"
)

// errInterrupted is why a run ended early.
var errInterrupted = errors.New("interrupted")

// syncNow is one policy run: the daemon's where one is running, and else our own.
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
			return notTried(err)
		}
	}
	if err := tableFiles(cfg); errors.Is(err, apply.ErrNotTable) { // of directories Lock knows more
		return notTried(err)
	}
	unlock, err := apply.Lock(filepath.Dir(cfg.BlockFile))
	if err != nil {
		return err
	}
	defer unlock()
	// The fetching process gets ready beside us. It is not heard before we are confined.
	confined := make(chan struct{})
	fetcher, err := startFetch(ctx, env, cfg, confined)
	if err != nil {
		return notTried(err)
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
	keeps := privsep.Confinement{Paths: map[string]string{"BLOCK_FILE": cfg.BlockFile, "ALLOW_FILE": cfg.AllowFile}}
	if err := env.confine("--sync-now", keeps); err != nil {
		return err
	}
	close(confined)

	screen := &screen{env: env, quiet: f.quiet}
	n := &apply.Narrator{Say: screen.say, Warn: screen.warn, Draw: screen.draw,
		Verbose: f.verbose > 0, Local: env.Local, Version: shortVersion()}
	n.Begin(env.Now())
	if notice := pf.Notice(); notice != "" {
		screen.warn("warning: " + notice)
	}
	began := env.Now()
	src.Fetch(ctx, fetcher, sources.Narrate(n))
	go fetcher.Close() // while pf and the disk are at work
	out := &apply.Outcome{Err: e.Stays(&o, errInterrupted)}
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

// startFetch starts the process that fetches, for one run. Nothing is read from it before hold, unless that is
// nil, is closed.
func startFetch(ctx context.Context, env Env, cfg *config.Config, hold <-chan struct{}) (*fetch.Client, error) {
	return fetch.New(ctx, fetch.Options{Starter: env.Roles, Fetch: fetchOptions(cfg),
		Confinement: fetchConfinement(cfg, serviceUser(cfg.User)), Hold: hold, Once: true})
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

// askDaemon has the daemon do it and shows its progress. The daemon continues when the caller does not wait.
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
	if err == nil && exit != exitOK {
		return errSaid
	}
	return err
}

// showStatus prints the state of the running daemon. It reads no configuration and needs no privilege but that
// of connecting to one of the sockets. Its error distinguishes a daemon that needs its owner from none.
func showStatus(ctx context.Context, env Env, f *flags) error {
	sockets := slices.DeleteFunc([]string{env.Socket, env.StatusSocket}, func(s string) bool { return s == "" })
	client, err := status.Dial(ctx, sockets...)
	if err != nil {
		return exitError{err, exitNone}
	}
	if err := env.confine("--status", privsep.Confinement{}); err != nil {
		client.Close()
		return err
	}
	st, err := client.Status(ctx)
	if err != nil {
		return exitError{err, exitNone}
	}
	if f.json {
		err = st.WriteJSON(env.Stdout)
	} else {
		err = st.WriteText(env.Stdout, env.Local, f.verbose > 0)
	}
	if err == nil && len(status.NeedsOwner(st)) > 0 {
		return errSaid
	}
	return err
}
