package cli

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"time"

	"github.com/rs/zerolog"

	"example.org/threatstopd/agent/internal/config"
	"example.org/threatstopd/agent/internal/daemon"
	"example.org/threatstopd/agent/internal/privsep"
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

// daemonOnce runs until ctx ends, or a configuration needs another process.
func daemonOnce(ctx context.Context, env Env, f *flags, carry **os.File) error {
	// A bad configuration at the start is reported the way the other modes do;
	// later ones go to the log.
	cfg, err := load(env, f)
	if err != nil {
		return err
	}
	log, err := openLog(env, f)
	if err != nil {
		return err
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
	// Users are looked up once: later their file is out of sight, and another user
	// is a reason to begin again.
	service := lookupUser(cfg.User)
	if _, err := user.Lookup(cfg.User); err != nil && env.Confine != nil && os.Geteuid() == 0 {
		missing = append(missing, fmt.Errorf("USER: no user %s: the processes for the network run as root: `threatstopd --install` creates it", cfg.User))
	}
	if *carry == nil {
		if *carry, err = daemon.OpenCarry(filepath.Dir(cfg.BlockFile)); err != nil {
			log.Warn().Err(err).Msg("a restart by another configuration will forget the lists")
		}
	}
	closeCrash := openCrash(env, log)
	err = daemon.New(daemon.Options{
		Load: func() (*daemon.Setup, error) {
			cfg, warnings, err := config.Load(f.file)
			var slips []string
			for _, w := range warnings {
				if w.Slip {
					slips = append(slips, w.Error()) // logged as troubles
				} else {
					log.Warn().Msg(w.Error())
				}
			}
			if err == nil {
				err = tableFiles(cfg)
			}
			if err != nil {
				return nil, usageError{err}
			}
			setup := daemonSetup(cfg, env, f, service, log.GetLevel())
			setup.Warnings, setup.Hash, setup.Read = slips, cfg.Hash, env.Now()
			return setup, nil
		},
		Changed:   func(s *daemon.Setup) string { return configChanged(absolute(f.file), s.Hash, s.Read, env) },
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

// listen makes the sockets that the daemon answers at. A host without the socket for
// monitoring is better off than one without the daemon: it is left out, and reported.
func listen(cfg *config.Config, env Env) (l status.Listeners, missing []error, err error) {
	if env.Socket != "" {
		if l.Full, err = status.Listen(env.Socket, ""); err != nil {
			return l, nil, err
		}
	}
	if env.StatusSocket != "" && cfg.StatusGroup != "" {
		if l.ReadOnly, err = status.Listen(env.StatusSocket, cfg.StatusGroup); err != nil {
			missing = append(missing, fmt.Errorf("STATUS_GROUP: %w", err))
		}
	}
	if cfg.Metrics.IsValid() {
		if l.Metrics, err = status.ListenTCP("metrics", cfg.Metrics); err != nil {
			missing = append(missing, fmt.Errorf("METRICS: %w", err))
		}
	}
	if cfg.StatusPage.IsValid() {
		if l.Page, err = status.ListenTCP("status page", cfg.StatusPage); err != nil {
			missing = append(missing, fmt.Errorf("STATUS_PAGE: %w", err))
		}
	}
	return l, missing, nil
}

// openLog returns where events go: to syslog in the background, readable to
// Stderr with -d.
func openLog(env Env, f *flags) (zerolog.Logger, error) {
	level := zerolog.InfoLevel
	switch {
	case f.verbose > 1:
		level = zerolog.TraceLevel
	case f.verbose > 0:
		level = zerolog.DebugLevel
	}
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

func daemonSetup(c *config.Config, env Env, f *flags, u account, level zerolog.Level) *daemon.Setup {
	s := &daemon.Setup{
		Sources:      sourcesOptions(c),
		Apply:        applyOptions(c, env),
		Fetch:        fetchOptions(c),
		PollInterval: c.PollInterval,
		FullCheck:    c.FullCheck,
		StaleAfter:   c.StaleAfter,
		KillStates:   c.KillStates,
		LockDir:      filepath.Dir(c.BlockFile),
		Report:       reporting(c, level),
		Fixed:        fmt.Sprintf("%q", []string{c.BlockFile, c.AllowFile, c.BlockTable, c.AllowTable, c.User, c.StatusGroup, c.Metrics.String(), c.StatusPage.String()}),
	}
	s.Confinement, s.FetchConfinement, s.Report.Confinement = confinements(c, env, f, u)
	s.States.Confinement = privsep.Confinement{UID: u.uid, GID: u.gid}
	if s.StaleAfter == 0 {
		s.StaleAfter = 3 * c.PollInterval
	}
	return s
}

// confinements are those of main, and of the roles that fetch and that report.
func confinements(c *config.Config, env Env, f *flags, u account) (main, fetch, reporting privsep.Confinement) {
	main.Paths = map[string]string{
		privsep.PathConfig:       absolute(f.file),
		privsep.PathConfigDir:    filepath.Dir(absolute(f.file)),
		privsep.PathProgram:      privsep.Program(env.Roles),
		privsep.PathSocket:       env.Socket,
		privsep.PathStatusSocket: "",
		"BLOCK_FILE":             c.BlockFile,
		"ALLOW_FILE":             c.AllowFile,
	}
	if _, err := os.Stat(filepath.Dir(c.AllowFile)); err != nil && len(c.AllowLists) == 0 {
		main.Paths["ALLOW_FILE"] = "" // nothing is written there
	}
	if c.StatusGroup != "" {
		main.Paths[privsep.PathStatusSocket] = env.StatusSocket
	}
	fetch = fetchConfinement(c, u)
	reporting = privsep.Confinement{UID: u.uid, GID: u.gid, Memory: privsep.Memory(c.MaxEntries), Paths: map[string]string{"SPOOL_DIR": "", "CA_FILE": ""}}
	if c.Upload != config.UploadNone {
		reporting.Paths["SPOOL_DIR"], reporting.Paths["CA_FILE"] = c.SpoolDir, c.CAFile
		reporting.Names = isName(c.URL.Hostname()) || c.Proxy != nil && isName(c.Proxy.Hostname())
		// Batches that wait in memory, and one that is sent.
		reporting.Memory += 10 * uint64(c.UploadBatchBytes)
	}
	return main, fetch, reporting
}

// fetchConfinement is that of the role that fetches and looks up names.
func fetchConfinement(c *config.Config, u account) privsep.Confinement {
	x := privsep.Confinement{UID: u.uid, GID: u.gid, Memory: privsep.Memory(c.MaxEntries)}
	for _, r := range reach(c) {
		x.Names = x.Names || isName(r.Host)
	}
	return x
}

// isName reports whether host is a name, not an address.
func isName(host string) bool {
	_, err := netip.ParseAddr(host)
	return err != nil
}

// absolute is a path as it stands wherever it is read.
func absolute(path string) string {
	if a, err := filepath.Abs(path); err == nil {
		return a
	}
	return path
}
