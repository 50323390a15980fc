// Package cli turns threatstopd's arguments into one mode each. What a mode
// needs of the system comes through Env, so that the same code runs on a
// simulated kernel.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"example.org/threatstopd/agent/internal/apply"
	"example.org/threatstopd/agent/internal/config"
	"example.org/threatstopd/agent/internal/daemon"
	"example.org/threatstopd/agent/internal/host"
	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/agent/internal/privsep"
	"example.org/threatstopd/agent/internal/report"
	"example.org/threatstopd/agent/internal/status"
	"example.org/threatstopd/capture"
	"example.org/threatstopd/pfioctl"
)

// Exit codes, as threatstopd --help tells them.
const (
	exitOK    = 0
	exitKept  = 1 // something failed or was kept back: what was in force before is in force still
	exitUsage = 2 // wrong usage or configuration: nothing was tried
	exitNone  = 3 // --status: no daemon answers
)

// Env is the system as the modes see it.
type Env struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Terminal       bool // Stderr is a terminal: show how far long work has come

	OpenPF func() (*pfioctl.PF, error)                         // opens /dev/pf; the mode closes it
	Host   func() (policy.Facts, error)                        // own addresses, gateways, resolvers
	Lookup func(context.Context, string) ([]netip.Addr, error) // the addresses of a host name
	// OpenPflog opens a pflog interface; FlushPflogd asks pflogd(8) to write
	// out what it has.
	OpenPflog   func(capture.Options) (capture.Source, error)
	FlushPflogd func() error
	OpenSyslog  func() (zerolog.LevelWriter, error)
	// Socket and StatusSocket are where the daemon is asked; empty: nowhere.
	Socket, StatusSocket string
	// CrashFile is where the daemon leaves the reason of its death; empty: nowhere.
	CrashFile string
	// Signals brings what the daemon acts on: SIGHUP, and those that ask for a
	// status line.
	Signals <-chan os.Signal

	// Roles starts the other processes of a mode, and Confine takes from one what it
	// does not need; nil: it keeps all. Reexec executes this program again in this
	// very process; nil: the mode begins again.
	Roles   privsep.Starter
	Confine privsep.Confiner
	Reexec  func(carry *os.File) error

	// Destdir is the root directory of the system that --install and --uninstall
	// work on; empty for the one that is running.
	Destdir string

	Now   func() time.Time
	Local *time.Location // the zone in which times are shown
}

// System returns the Env of the machine at hand, but for Roles: that needs to know that
// this process is none.
func System() Env {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, append(statusSignals, syscall.SIGHUP)...)
	// A reader of the log that went away is no reason to stop.
	signal.Ignore(syscall.SIGPIPE)
	return Env{
		Stdin:    os.Stdin,
		Stdout:   os.Stdout,
		Stderr:   os.Stderr,
		Terminal: term.IsTerminal(int(os.Stderr.Fd())),
		OpenPF:   pfioctl.Open,
		Host:     func() (policy.Facts, error) { return host.Read(host.ResolvConf) },
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
		FlushPflogd: report.FlushPflogd,
		OpenSyslog:  openSyslog,
		Signals:     signals,

		Socket:       status.SocketPath,
		StatusSocket: status.StatusSocketPath,
		CrashFile:    privsep.CrashPath,

		Confine: privsep.System(),
		Reexec:  reexec,

		Destdir: os.Getenv("DESTDIR"),

		Now:   time.Now,
		Local: time.Local,
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

const usage = `usage: threatstopd [-dv] [-f file]
       threatstopd -n [-f file]
       threatstopd --test [-f file] [indicator ...]
       threatstopd --check address [-f file]
       threatstopd --status [-v] [--json]
       threatstopd --sync-now [--force] [-v] [-f file]
       threatstopd --dump-table [-v] [--json] [-f file] [block | allow | name]
       threatstopd --read file
       threatstopd --install | --uninstall [--yes]
       threatstopd --version
`

var help = usage + `
Without a mode threatstopd stays in the foreground, keeps pf's tables in step
with the policy and reports what was blocked; rc.d puts it into the background.

  -d                log to standard error instead of syslog
  -f, --file file   configuration (default ` + config.DefaultPath + `)
  -n                check the configuration and print it as it is understood,
                    without passwords; needs no network and no pf
  -v                say more
      --test        look whether all is as it has to be: the configuration, pf and
                    its rules, pflog, the servers, the clock, the files; at the
                    end a connection is made that has to be blocked, to the test
                    indicator of the service or to those given
      --check address
                    tell whether an address is blocked, by which list and entry,
                    what excepts it, its counters and its latest records
      --status      tell how the running daemon is; -v names every exception
      --sync-now    fetch the policy, put it into pf's tables and into the
                    files that pf.conf loads at boot
      --force       enforce a policy that shrank too much to be believed
      --dump-table  print a table as pfctl -T show does, with -v as pfctl -vT
                    show does: the block table, the allow table, or any by name
      --json        the same as JSON
      --read file   print a pflog file (.gz too; - is standard input) as
                    tcpdump -n -e -S -r does
      --install     put threatstopd on this host, and take over from the vendor's
                    scripts: shows what it is about to do, and asks
      --uninstall   give back what was there before --install
      --yes         answer every question of the two with yes
      --version     print the version
      --help        print this

exit status: 0 done; 1 something failed or was kept back, and what was in
force is in force still; 2 wrong usage or configuration. --status: 0 all is
well; 1 something needs you, and is told; 3 no daemon answers. --test: 1 there
are failures. --check: 0 it is blocked; 1 it is not; 2 that cannot be told
`

// flags are the arguments, parsed.
type flags struct {
	file                                  string
	check, debug, sync, force, dump, json bool
	status, version, help                 bool
	test                                  bool
	install, uninstall, yes               bool
	read, address                         string
	verbose                               int
	args                                  []string
	set                                   *pflag.FlagSet
}

// Run carries out what args ask for and returns the exit code. args come
// without the program's name. A run that changes something ends early when ctx
// does, or on SIGINT or SIGTERM; one that only prints is ended by these as any
// program is.
func Run(ctx context.Context, args []string, env Env) int {
	f, err := parse(args)
	if err != nil {
		fmt.Fprintf(env.Stderr, "threatstopd: %v\n%s", err, usage)
		return exitUsage
	}
	if !f.prints() {
		var stop context.CancelFunc
		ctx, stop = signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
		defer stop()
	}
	err = f.mode()(ctx, env, f)
	var wrong usageError
	var none noAnswer
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errSaid):
		return exitKept
	case errors.As(err, &wrong):
		complain(env, err)
		return exitUsage
	case errors.As(err, &none):
		complain(env, err)
		return exitNone
	case readerGone(err):
		return exitKept
	default:
		complain(env, err)
		return exitKept
	}
}

// complain prints an error, one line for each error that it joins, and what to
// do about it where that is known.
func complain(env Env, err error) {
	for line := range strings.Lines(explain(err)) {
		fmt.Fprintf(env.Stderr, "threatstopd: %s\n", strings.TrimSuffix(line, "\n"))
	}
}

// explain adds to an error what to do about it, where that is known.
func explain(err error) string {
	if errors.Is(err, errors.ErrUnsupported) {
		return err.Error() + "; `make demo` shows this program on a simulated kernel"
	}
	return apply.Explain(err)
}

// usageError is an error for which nothing was tried.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// errSaid ends a mode that has already said what went wrong.
var errSaid = errors.New("already said")

func parse(args []string) (*flags, error) {
	f := &flags{}
	set := pflag.NewFlagSet("threatstopd", pflag.ContinueOnError)
	set.SetOutput(io.Discard)
	set.Usage = func() {}
	set.StringVarP(&f.file, "file", "f", config.DefaultPath, "")
	set.BoolVarP(&f.check, "configtest", "n", false, "")
	set.BoolVarP(&f.debug, "debug", "d", false, "")
	set.CountVarP(&f.verbose, "verbose", "v", "")
	set.BoolVar(&f.test, "test", false, "")
	set.StringVar(&f.address, "check", "", "")
	set.BoolVar(&f.status, "status", false, "")
	set.BoolVar(&f.sync, "sync-now", false, "")
	set.BoolVar(&f.force, "force", false, "")
	set.BoolVar(&f.dump, "dump-table", false, "")
	set.BoolVar(&f.json, "json", false, "")
	set.StringVar(&f.read, "read", "", "")
	set.BoolVar(&f.install, "install", false, "")
	set.BoolVar(&f.uninstall, "uninstall", false, "")
	set.BoolVar(&f.yes, "yes", false, "")
	set.BoolVar(&f.version, "version", false, "")
	set.BoolVarP(&f.help, "help", "h", false, "")
	if err := set.Parse(args); err != nil {
		return nil, err
	}
	f.set, f.args = set, set.Args()
	modes := 0
	for _, name := range []string{"configtest", "test", "check", "status", "sync-now", "dump-table", "read", "install", "uninstall", "version", "help"} {
		if set.Changed(name) {
			modes++
		}
	}
	switch {
	case modes > 1:
		return nil, errors.New("one thing at a time")
	case !f.test && (len(f.args) > 1 || len(f.args) == 1 && !f.dump):
		return nil, fmt.Errorf("unexpected argument %q", f.args[len(f.args)-1])
	case f.force && !f.sync:
		return nil, errors.New("--force goes with --sync-now")
	case f.debug && modes > 0 && !f.check: // rc.d checks with the daemon's own flags
		return nil, errors.New("-d goes with no mode: it is for the daemon")
	case f.yes && !f.install && !f.uninstall:
		return nil, errors.New("--yes goes with --install or --uninstall")
	case set.Changed("file") && (f.install || f.uninstall):
		return nil, errors.New("-f does not go with --install: " + config.DefaultPath + " is what is installed, or kept")
	case f.json && !f.dump && !f.status:
		return nil, errors.New("--json goes with --dump-table or --status")
	case set.Changed("check") && f.address == "":
		return nil, errors.New("--check wants an address")
	case set.Changed("read") && f.read == "":
		return nil, errors.New("--read wants a file, or - for standard input")
	}
	return f, nil
}

type mode func(context.Context, Env, *flags) error

// prints tells of a mode that does nothing but print, and has nothing to leave
// in order.
func (f *flags) prints() bool {
	return f.help || f.version || f.check || f.dump || f.read != "" || f.status
}

func (f *flags) mode() mode {
	switch {
	case f.help:
		return printHelp
	case f.version:
		return printVersion
	case f.check:
		return checkConfig
	case f.dump:
		return dumpTable
	case f.read != "":
		return readFile
	case f.install:
		return installHost
	case f.uninstall:
		return uninstallHost
	case f.test:
		return testAll
	case f.address != "":
		return checkAddress
	case f.status:
		return showStatus
	case f.sync:
		return syncNow
	default:
		return runDaemon
	}
}

// confine takes from this process, for the rest of its life, what the command of this name
// in privsep.Roles does not need.
func (env Env) confine(command string, c privsep.Confinement) error {
	if env.Confine == nil {
		return nil
	}
	return env.Confine.Confine(command, c)
}

func printHelp(_ context.Context, env Env, _ *flags) error {
	if err := env.confine("--help, --version", privsep.Confinement{}); err != nil {
		return err
	}
	_, err := io.WriteString(env.Stdout, help)
	return err
}

func printVersion(_ context.Context, env Env, _ *flags) error {
	if err := env.confine("--help, --version", privsep.Confinement{}); err != nil {
		return err
	}
	_, err := fmt.Fprintf(env.Stdout, "threatstopd %s\n", Version())
	return err
}

// load reads the configuration, and prints what it warns of.
func load(env Env, f *flags) (*config.Config, error) {
	cfg, warnings, err := config.Load(f.file)
	for _, w := range warnings {
		fmt.Fprintf(env.Stderr, "threatstopd: warning: %v\n", w)
	}
	if err != nil {
		return nil, usageError{err}
	}
	return cfg, nil
}

// tableFiles refuses a configuration that names a file of the owner's as a table file.
func tableFiles(cfg *config.Config) error {
	for _, file := range []string{cfg.BlockFile, cfg.AllowFile} {
		if err := apply.Overwritable(file); errors.Is(err, apply.ErrNotTable) {
			return err
		}
	}
	return nil
}

func checkConfig(_ context.Context, env Env, f *flags) error {
	file := absolute(f.file)
	confined := env.confine("-n", privsep.Confinement{Paths: map[string]string{
		privsep.PathConfig: file, privsep.PathConfigDir: filepath.Dir(file),
	}})
	if confined != nil && !errors.Is(confined, fs.ErrNotExist) {
		return confined
	}
	cfg, err := load(env, f)
	if err == nil {
		err = confined // the file is there by now
	}
	if err != nil {
		return err
	}
	_, err = cfg.WriteTo(env.Stdout)
	return err
}
