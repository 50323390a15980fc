package cli

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/rs/zerolog"

	"example.org/threatstopd/agent/config"
	"example.org/threatstopd/agent/control"
	"example.org/threatstopd/agent/daemon"
	"example.org/threatstopd/agent/report"
	"example.org/threatstopd/agent/report/upload"
	"example.org/threatstopd/capture"
)

// runDaemon runs until ctx ends.
func runDaemon(ctx context.Context, env Env, f *flags) error {
	// The first reading tells of a bad configuration the way the other modes
	// do; later ones are told to the log.
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
	listeners, err := listen(cfg, env)
	if err != nil {
		return err
	}
	return daemon.New(daemon.Options{
		Load: func() (*daemon.Setup, error) {
			cfg, warnings, err := config.Load(f.file)
			for _, w := range warnings {
				log.Warn().Msg(w.String())
			}
			if err != nil {
				return nil, usageError{err}
			}
			return daemonSetup(cfg, env), nil
		},
		PF:        pf,
		Signals:   env.Signals,
		Log:       log,
		Version:   shortVersion(),
		Config:    absolute(f.file),
		Listeners: listeners,
	}).Run(ctx)
}

// listen makes the sockets that the daemon answers at.
func listen(cfg *config.Config, env Env) (l control.Listeners, err error) {
	defer func() {
		if err != nil {
			l.Close()
		}
	}()
	if env.Socket != "" {
		if l.Full, err = control.Listen(env.Socket, ""); err != nil {
			return l, err
		}
	}
	if env.StatusSocket != "" && cfg.StatusGroup != "" {
		if l.ReadOnly, err = control.Listen(env.StatusSocket, cfg.StatusGroup); err != nil {
			return l, err
		}
	}
	if cfg.Metrics.IsValid() {
		if l.Metrics, err = control.ListenMetrics(cfg.Metrics); err != nil {
			return l, err
		}
	}
	return l, nil
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

func daemonSetup(c *config.Config, env Env) *daemon.Setup {
	s := &daemon.Setup{
		Update:       updateOptions(c, env),
		Fetch:        fetchOptions(c),
		PollInterval: c.PollInterval,
		FullCheck:    c.FullCheck,
		StaleAfter:   c.StaleAfter,
		KillStates:   c.KillStates,
		LockDir:      filepath.Dir(c.BlockFile),
		Mode:         string(c.Upload),
		Interface:    c.PflogIf,
	}
	if s.StaleAfter == 0 {
		s.StaleAfter = 3 * c.PollInterval
	}
	if c.Upload != config.UploadNone {
		s.LogServer = c.URL.Host
		o := reportOptions(c, env)
		s.Report = &o
		s.OpenPflog = func() (capture.Source, error) {
			return env.OpenPflog(capture.Options{Interface: c.PflogIf, Filter: o.Filter})
		}
		s.NewSender = func() (report.Sender, error) { return upload.New(uploadOptions(c)) }
	}
	return s
}

// absolute is a path as it stands wherever it is read.
func absolute(path string) string {
	if a, err := filepath.Abs(path); err == nil {
		return a
	}
	return path
}
