package cli

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"log/syslog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"example.org/threatstopd/agent/internal/daemon"
	"example.org/threatstopd/agent/internal/host"
	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/agent/internal/privsep"
	"example.org/threatstopd/agent/internal/report"
	"example.org/threatstopd/agent/internal/status"
	"example.org/threatstopd/capture"
	"example.org/threatstopd/pfioctl"
)

// Env is the system as the modes see it.
type Env struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Terminal       bool // Stderr is a terminal: show how far long work has come

	OpenPF func() (*pfioctl.PF, error)                         // opens /dev/pf; the mode closes it
	Host   func() (policy.Facts, error)                        // own addresses, gateways, resolvers
	Lookup func(context.Context, string) ([]netip.Addr, error) // the addresses of a host name

	OpenPflog   func(capture.Options) (capture.Source, error) // opens a pflog interface
	FlushPflogd func() error                                  // asks pflogd(8) to write out what it has
	OpenSyslog  func() (zerolog.LevelWriter, error)
	Signals     <-chan os.Signal // what the daemon acts on: SIGHUP, and those that ask for a status line

	Socket, StatusSocket string // where the daemon is asked; empty: nowhere
	CrashFile            string // where the daemon leaves the reason of its death; empty: nowhere
	Destdir              string // the root directory that --install and --uninstall work on; empty: the running system's

	Roles   privsep.Starter            // starts the other processes of a mode
	Confine privsep.Confiner           // takes from a process what it does not need; nil: it keeps all
	Reexec  func(carry *os.File) error // executes this program again in this process; nil: the mode begins again

	Now   func() time.Time
	Local *time.Location // the zone in which times are shown
}

// System returns the Env of the machine at hand, but for Roles: that needs to know that this process is none.
func System() Env {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, append(statusSignals, syscall.SIGHUP)...)
	// A reader of the log that went away is no reason to stop.
	signal.Ignore(syscall.SIGPIPE)
	return Env{
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		Terminal: isTerminal(os.Stderr),
		OpenPF:   pfioctl.Open,
		Host:     func() (policy.Facts, error) { return host.Read(host.ResolverFiles) },
		Lookup: func(ctx context.Context, name string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", name)
		},
		OpenPflog: func(o capture.Options) (capture.Source, error) {
			r, err := capture.Open(o)
			if err != nil {
				return nil, err // not a nil *Reader in a Source
			}
			return r, nil
		},
		FlushPflogd:  report.FlushPflogd,
		OpenSyslog:   openSyslog,
		Signals:      signals,
		Socket:       status.SocketPath,
		StatusSocket: status.StatusSocketPath,
		CrashFile:    privsep.CrashPath,
		Destdir:      os.Getenv("DESTDIR"),
		Confine:      privsep.System(),
		Reexec:       reexec,
		Now:          time.Now,
		Local:        time.Local,
	}
}

// program is where this program is, found before anything can hide it.
var program, _ = os.Executable()

// reexec executes this program again with the same arguments; it inherits carry, if that is not nil. It
// returns when that fails.
func reexec(carry *os.File) error {
	environ := os.Environ()
	if carry != nil {
		var err error
		if environ, err = daemon.PassCarry(carry); err != nil {
			return err
		}
	}
	return fmt.Errorf("execute %s again: %w", program, syscall.Exec(program, os.Args, environ))
}

// openSyslog connects to syslogd with the facility daemon.
func openSyslog() (zerolog.LevelWriter, error) {
	w, err := syslog.New(syslog.LOG_DAEMON|syslog.LOG_INFO, "threatstopd")
	if err != nil {
		return nil, err
	}
	return syslogWriter{zerolog.SyslogLevelWriter(w)}, nil
}

// syslogWriter gives each event its syslog level, and writes it as the text and its fields (`policy enforced
// lists=2 server=192.0.2.1:53`): the time and the level are syslogd's to add.
type syslogWriter struct{ zerolog.LevelWriter }

func (s syslogWriter) WriteLevel(level zerolog.Level, p []byte) (int, error) {
	var b bytes.Buffer
	text := zerolog.ConsoleWriter{Out: &b, NoColor: true, PartsExclude: []string{zerolog.TimestampFieldName, zerolog.LevelFieldName}}
	if _, err := text.Write(p); err != nil {
		return 0, fmt.Errorf("format event: %w", err)
	}
	level = max(level, zerolog.DebugLevel) // syslog has no lower one
	if _, err := s.LevelWriter.WriteLevel(level, bytes.TrimSpace(b.Bytes())); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Version names the source that the program was built from, as the go command recorded it, and with what:
// "v1.2.0 (3f12c8c2b1aa, go1.25.1 openbsd/amd64)". A revision with changes on top ends in "+".
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "of unknown origin"
	}
	settings := make(map[string]string)
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	version, revision := strings.Replace(cmp.Or(info.Main.Version, "devel"), "(devel)", "devel", 1), ""
	if r := settings["vcs.revision"]; len(r) >= 12 {
		revision = r[:12]
		if settings["vcs.modified"] == "true" {
			revision += "+"
		}
		revision += ", "
	}
	return fmt.Sprintf("%s (%s%s %s/%s)", version, revision, info.GoVersion, runtime.GOOS, runtime.GOARCH)
}

// shortVersion is the first word of Version.
func shortVersion() string {
	version, _, _ := strings.Cut(Version(), " ")
	return version
}
