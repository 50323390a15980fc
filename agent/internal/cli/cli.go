// Package cli turns threatstopd's arguments into one mode each. What a mode
// needs of the system comes through Env, so that the same code runs on a
// simulated kernel.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"slices"
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

// Exit codes, as threatstopd --help lists them.
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
       threatstopd -n [--json] [-f file]
       threatstopd --test [--json] [-f file] [indicator ...]
       threatstopd --check address ... [--json] [-f file]
       threatstopd --status [-v] [--json]
       threatstopd --sync-now [--force] [-q | -v] [-f file]
       threatstopd --dump-table [-v] [--json] [-f file] [block | allow | name]
       threatstopd --read [file ...]
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
  -v                print or log more
  -q                with --sync-now: print only what is wrong
      --test        check the installation: the configuration, pf and its rules,
                    pflog, the servers, the clock, the files; in the end try to
                    connect to the service's test indicator, or to those given,
                    which must be blocked
      --check address ...
                    show whether addresses or networks are blocked, by which list
                    and entry, what excepts them, their counters and their latest
                    records; - stands for those on standard input
      --status      show the state of the running daemon; -v names every exception
      --sync-now    fetch the policy, put it into pf's tables and into the
                    files that pf.conf loads at boot
      --force       enforce a policy that shrank too much to be believed
      --dump-table  print a table as pfctl -T show does, with -v as pfctl -vT
                    show does: the block table, the allow table, or any by name
      --json        print JSON: with -n, --test, --check, --status, --dump-table
      --read        print pflog files (.gz too; - is standard input) as
                    tcpdump -n -e -S -r does; default /var/log/pflog
      --install     install threatstopd on this host, and take over from the
                    vendor's scripts; shows what it will do, and asks
      --uninstall   restore what was there before --install
      --yes         assume yes for --install and --uninstall
      --version     print the version
      --help        print this

exit status: 0 done; 1 something failed or was held, and what was in force
stays in force; 2 wrong usage or configuration. --status: 0 all is well;
1 something needs you, and is printed; 3 no daemon answers. --test: 1 there
are failures. --check: 0 all is blocked; 1 some is not; 2 it is not known
`

// flags are the arguments, parsed.
type flags struct {
	file                           string
	fileGiven                      bool // by -f
	debug, force, json, yes, quiet bool
	verbose                        int
	mode, second                   *mode    // nil: be the daemon; second is another mode, one too many
	args                           []string // of the mode
}

// mode is one thing that the program can be asked for.
type mode struct {
	name string // of the flag
	run  func(context.Context, Env, *flags) error
	// least and most are how many arguments it takes; most is -1 where there is no limit.
	least, most int
	args        string // what the arguments are, for an error
	prints      bool   // it does nothing but print, and is ended by a signal as any program is
}

var modes = []*mode{
	{name: "help", run: printHelp, prints: true},
	{name: "version", run: printVersion, prints: true},
	{name: "configtest", run: checkConfig, prints: true},
	{name: "dump-table", run: dumpTable, most: 1, prints: true},
	{name: "read", run: readFiles, most: -1, prints: true},
	{name: "install", run: installHost},
	{name: "uninstall", run: uninstallHost},
	{name: "test", run: testAll, most: -1},
	{name: "check", run: checkAddress, least: 1, most: -1, args: "an address"},
	{name: "status", run: showStatus, prints: true},
	{name: "sync-now", run: syncNow},
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
	run := runDaemon
	if f.mode != nil {
		run = f.mode.run
	}
	if f.mode == nil || !f.mode.prints {
		var stop context.CancelFunc
		ctx, stop = signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
		defer stop()
	}
	err = run(ctx, env, f)
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

// flagSet returns the flags, which are parsed into f.
func flagSet(f *flags) *pflag.FlagSet {
	set := pflag.NewFlagSet("threatstopd", pflag.ContinueOnError)
	set.SetOutput(io.Discard)
	set.Usage = func() {}
	set.StringVarP(&f.file, "file", "f", config.DefaultPath, "")
	set.BoolVarP(&f.debug, "debug", "d", false, "")
	set.CountVarP(&f.verbose, "verbose", "v", "")
	set.BoolVarP(&f.quiet, "quiet", "q", false, "")
	set.BoolVar(&f.force, "force", false, "")
	set.BoolVar(&f.json, "json", false, "")
	set.BoolVar(&f.yes, "yes", false, "")
	short := map[string]string{"configtest": "n", "help": "h"}
	for _, m := range modes {
		set.VarPF(&modeFlag{f, m}, m.name, short[m.name], "").NoOptDefVal = modeGiven
	}
	return set
}

func parse(args []string) (*flags, error) {
	f := &flags{}
	set := flagSet(f)
	if err := set.Parse(args); err != nil {
		return nil, err
	}
	f.args = append(f.args, set.Args()...)
	f.fileGiven = set.Changed("file")
	is := func(names ...string) bool { return f.mode != nil && slices.Contains(names, f.mode.name) }
	switch m := f.mode; {
	case f.second != nil:
		return nil, fmt.Errorf("only one mode may be given, not --%s and --%s", m.name, f.second.name)
	case m == nil && len(f.args) > 0:
		return nil, unexpected(f.args[0])
	case m != nil && len(f.args) < m.least:
		return nil, fmt.Errorf("--%s needs %s", m.name, m.args)
	case m != nil && m.most >= 0 && len(f.args) > m.most:
		return nil, unexpected(f.args[m.most])
	case f.force && !is("sync-now"):
		return nil, errors.New("--force goes with --sync-now")
	case f.quiet && !is("sync-now"):
		return nil, errors.New("-q goes with --sync-now")
	case f.quiet && f.verbose > 0:
		return nil, errors.New("-q and -v exclude each other")
	case f.debug && m != nil && !is("configtest"): // rc.d checks with the daemon's own flags
		return nil, errors.New("-d goes with no mode: it is for the daemon")
	case f.yes && !is("install", "uninstall"):
		return nil, errors.New("--yes goes with --install or --uninstall")
	case f.fileGiven && is("install", "uninstall"):
		return nil, errors.New("-f does not go with --install: " + config.DefaultPath + " is what is installed, or kept")
	case f.json && !is("dump-table", "status", "check", "configtest", "test"):
		return nil, errors.New("--json goes with --check, --dump-table, -n, --status or --test")
	}
	return f, nil
}

// unexpected is the error of an argument that nothing takes.
func unexpected(arg string) error {
	for _, m := range modes {
		if arg == m.name {
			return fmt.Errorf("unexpected argument %q: did you mean --%s?", arg, m.name)
		}
	}
	return fmt.Errorf("unexpected argument %q", arg)
}

// modeFlag is the flag of a mode. --check=address is --check address.
type modeFlag struct {
	f *flags
	m *mode
}

// modeGiven is what a mode's flag is set to when it has no value of its own.
const modeGiven = "\x00"

func (x *modeFlag) String() string { return "" }
func (x *modeFlag) Type() string   { return "mode" }

func (x *modeFlag) Set(value string) error {
	switch {
	case x.f.mode != nil && x.f.mode != x.m:
		x.f.second = x.m
		return nil
	case value != modeGiven && x.m.most == 0:
		return errors.New("it takes no value")
	case value != modeGiven:
		x.f.args = append(x.f.args, value)
	}
	x.f.mode = x.m
	return nil
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
