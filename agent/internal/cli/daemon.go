package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"example.org/threatstopd/agent/internal/config"
	"example.org/threatstopd/agent/internal/daemon"
	"example.org/threatstopd/agent/internal/fetch"
	"example.org/threatstopd/agent/internal/privsep"
	"example.org/threatstopd/agent/internal/report"
	"example.org/threatstopd/agent/internal/states"
	"example.org/threatstopd/agent/internal/status"
)

// runDaemon runs until ctx ends.
func runDaemon(ctx context.Context, env Env, f *flags) error {
	var carry *os.File // opened once; the process that is executed inherits it
	for {
		err := daemonOnce(ctx, env, f, &carry)
		switch {
		case !errors.Is(err, daemon.ErrAgain):
			return err
		case env.Reexec != nil:
			return env.Reexec(carry)
		}
	}
}

// reading is a configuration as it was read.
type reading struct {
	*config.Config
	warnings []config.Problem
	at       time.Time
}

// slips returns the warnings that the owner has to act on, which are troubles, and logs the others.
func (r *reading) slips(log zerolog.Logger) (all []string) {
	for _, w := range r.warnings {
		if w.Slip {
			all = append(all, w.Error())
		} else {
			log.Warn().Msg(w.Error())
		}
	}
	return all
}

// beginWith returns the configuration in the file; or if that cannot be used, the one in force when the
// daemon left its state in carry and executed itself again, and the error.
func beginWith(env Env, file string, carry *os.File) (r reading, err error) {
	r.at = env.Now()
	if r.Config, r.warnings, err = loadForDaemon(file); err == nil {
		return r, nil
	}
	r.Config = nil
	if text, at := daemon.CarriedText(carry); text != "" {
		r.at = at
		r.Config, r.warnings, _ = config.Parse(file, strings.NewReader(text))
	}
	return r, notTried(err)
}

// daemonOnce runs until ctx ends, or a configuration needs another process.
func daemonOnce(ctx context.Context, env Env, f *flags, carry **os.File) error {
	if *carry == nil {
		*carry = daemon.InheritCarry()
	}
	first, refused := beginWith(env, f.file, *carry)
	warn(env, first.warnings)
	// A bad configuration at the start is reported the way the other modes do; later ones go to the log.
	if first.Config == nil {
		return refused
	}
	cfg := first.Config
	log, err := openLog(env, f)
	if err != nil {
		return err
	}
	if refused != nil {
		log.Error().Err(refused).Msg("invalid configuration, keeping the current one")
	}
	pf, err := env.OpenPF()
	if err != nil {
		return err
	}
	defer pf.Close()
	listeners, missing, err := listen(cfg, env)
	if err != nil {
		return err
	}
	// Users are looked up once: later their file is out of sight, and another user is a reason to begin again.
	service := serviceUser(cfg.User)
	if err := checkUser(cfg.User); err != nil && env.Confine != nil && os.Geteuid() == 0 {
		err = fmt.Errorf("USER: the processes for the network run as root: %w", err)
		if errors.Is(err, errRoot) {
			log.Warn().Msg(err.Error()) // as the owner wants it
		} else {
			missing = append(missing, err)
		}
	}
	if *carry == nil {
		if *carry, err = daemon.OpenCarry(filepath.Dir(cfg.BlockFile)); err != nil {
			log.Warn().Err(err).Msg("a restart by another configuration will forget the lists")
		}
	}
	closeCrash := openCrash(env, log)
	err = daemon.New(daemon.Options{
		Load: func() (*daemon.Setup, error) {
			r := first
			if first = (reading{}); r.Config == nil {
				r.at = env.Now()
				var err error
				if r.Config, r.warnings, err = loadForDaemon(f.file, outOfSight...); err != nil {
					return nil, notTried(err)
				}
			}
			slips := r.slips(log)
			if refused != nil {
				slips = append(slips, refused.Error())
				refused = nil
			}
			setup := daemonSetup(r.Config, env, f, service, log.GetLevel())
			setup.Warnings, setup.Text, setup.Read = slips, r.Text, r.at
			return setup, nil
		},
		Changed:   func(s *daemon.Setup) string { return configChanged(absolute(f.file), s.Text, s.Read, env) },
		PF:        pf,
		Host:      env.Host,
		Signals:   env.Signals,
		Log:       log,
		Version:   shortVersion(),
		Config:    absolute(f.file),
		Listeners: listeners,
		Missing:   missing,
		Roles:     env.Roles,
		Confine:   env.Confine,
		Carry:     *carry,
	}).Run(ctx)
	closeCrash()
	return err
}

// openCrash opens the file for the reason of the main process's death, and logs how the one before
// ended. The function returned marks a clean end.
func openCrash(env Env, log zerolog.Logger) (closeCrash func()) {
	if env.CrashFile == "" {
		return func() {}
	}
	crash, last, err := privsep.OpenCrashFile(env.CrashFile)
	if err != nil {
		log.Warn().Err(err).Msg("a crash of the main process will leave no report")
		return func() {}
	}
	if last != "" {
		log.Error().Str("reason", last).Msg("the daemon did not end cleanly before this start")
	}
	return func() { crash.Close() }
}

// listen makes the sockets that the daemon answers at. A host without the socket for monitoring is better off
// than one without the daemon: it is left out, and reported.
func listen(cfg *config.Config, env Env) (l status.Listeners, missing []error, err error) {
	if env.Socket != "" {
		if l.Full, err = status.Listen(env.Socket, ""); err != nil {
			return l, nil, err
		}
	}
	miss := func(key string, err error) {
		if err != nil {
			missing = append(missing, fmt.Errorf("%s: %w", key, err))
		}
	}
	if env.StatusSocket != "" && cfg.StatusGroup != "" {
		l.ReadOnly, err = status.Listen(env.StatusSocket, cfg.StatusGroup)
		miss("STATUS_GROUP", err)
	}
	if cfg.Metrics.IsValid() {
		l.Metrics, err = status.ListenTCP("metrics", cfg.Metrics)
		miss("METRICS", err)
	}
	if cfg.StatusPage.IsValid() {
		l.Page, err = status.ListenTCP("status page", cfg.StatusPage)
		miss("STATUS_PAGE", err)
	}
	return l, missing, nil
}

// openLog returns where events go: to syslog in the background, readable to Stderr with -d.
func openLog(env Env, f *flags) (zerolog.Logger, error) {
	level := zerolog.InfoLevel - zerolog.Level(min(f.verbose, 2))
	if f.debug {
		w := zerolog.ConsoleWriter{Out: env.Stderr, NoColor: true, TimeFormat: time.DateTime, TimeLocation: env.Local}
		return zerolog.New(w).Level(level).With().Timestamp().Logger(), nil
	}
	w, err := env.OpenSyslog()
	if err != nil {
		return zerolog.Logger{}, fmt.Errorf("syslog: %w; -d logs to standard error", err)
	}
	return zerolog.New(w).Level(level), nil
}

// daemonSetup cuts a configuration into what each part of the daemon needs; service is the confinement of a
// process that becomes the service user.
func daemonSetup(c *config.Config, env Env, f *flags, service privsep.Confinement, level zerolog.Level) *daemon.Setup {
	s := &daemon.Setup{
		Sources:          sourcesOptions(c),
		Apply:            applyOptions(c, env),
		Fetch:            fetchOptions(c),
		FetchConfinement: fetchConfinement(c, service),
		PollInterval:     c.PollInterval,
		FullCheck:        c.FullCheck,
		StaleAfter:       cmp.Or(c.StaleAfter, 3*c.PollInterval),
		KillStates:       c.KillStates,
		LockDir:          filepath.Dir(c.BlockFile),
		Confinement:      mainConfinement(c, env, f),
		Report:           reporting(c, service, level),
		Fixed: fmt.Sprintf("%q", []string{c.BlockFile, c.AllowFile, c.BlockTable, c.AllowTable,
			c.User, c.StatusGroup, c.Metrics.String(), c.StatusPage.String()}),
	}
	s.States.Confinement = service
	return s
}

// mainConfinement is that of the main process.
func mainConfinement(c *config.Config, env Env, f *flags) privsep.Confinement {
	paths := map[string]string{
		privsep.PathConfig:       absolute(f.file),
		privsep.PathConfigDir:    filepath.Dir(absolute(f.file)),
		privsep.PathProgram:      privsep.Program(env.Roles),
		privsep.PathSocket:       env.Socket,
		privsep.PathStatusSocket: "",
		"BLOCK_FILE":             c.BlockFile,
		"ALLOW_FILE":             c.AllowFile,
	}
	if _, err := os.Stat(filepath.Dir(c.AllowFile)); err != nil && len(c.AllowLists) == 0 {
		paths["ALLOW_FILE"] = "" // nothing is written there
	}
	if c.StatusGroup != "" {
		paths[privsep.PathStatusSocket] = env.StatusSocket
	}
	return privsep.Confinement{Paths: paths}
}

// absolute is a path as it is wherever it is read.
func absolute(path string) string {
	if a, err := filepath.Abs(path); err == nil {
		return a
	}
	return path
}

// RoleBodies are the lives of the other processes, by the roles' names: for privsep.Serve, when this process is
// one, and for privsep.InProcess.
func RoleBodies(env Env) map[string]privsep.Body {
	return map[string]privsep.Body{
		"fetch": fetch.Body(env.Confine, env.Lookup),
		"report": report.Body(report.Env{
			OpenPflog:   env.OpenPflog,
			FlushPflogd: env.FlushPflogd,
			Confine:     env.Confine,
			Location:    env.Local,
			Now:         env.Now,
		}),
		states.Name: states.Body(states.Env{OpenPF: env.OpenPF, Confine: env.Confine}),
	}
}
