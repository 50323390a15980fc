// Package cli turns threatstopd's arguments into one mode each. What a mode needs of the system comes through
// Env, so that the same code runs on a simulated kernel.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/pflag"

	"example.org/threatstopd/agent/internal/apply"
	"example.org/threatstopd/agent/internal/config"
	"example.org/threatstopd/agent/internal/privsep"
)

// Exit codes, as threatstopd --help lists them.
const (
	exitOK    = 0
	exitKept  = 1 // something failed or was kept back: what was in force before is in force still
	exitUsage = 2 // wrong usage or configuration: nothing was tried
	exitNone  = 3 // --status: no daemon answers
)

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
	mode, second                   *mode    // second is another mode, one too many
	args                           []string // of the mode
}

// mode is one thing that the program can be asked for.
type mode struct {
	name  string // of the flag
	short string // its short form
	run   func(context.Context, Env, *flags) error
	// least and most are how many arguments it takes; most is -1 where there is no limit.
	least, most int
	prints      bool // it does nothing but print, and is ended by a signal as any program is
}

var modes = []*mode{
	{name: "help", short: "h", run: printText(func() string { return help }), prints: true},
	{name: "version", run: printText(func() string { return "threatstopd " + Version() + "\n" }), prints: true},
	{name: "configtest", short: "n", run: checkConfig, prints: true},
	{name: "dump-table", run: dumpTable, most: 1, prints: true},
	{name: "read", run: readFiles, most: -1, prints: true},
	{name: "install", run: installHost},
	{name: "uninstall", run: uninstallHost},
	{name: "test", run: testAll, most: -1},
	{name: "check", run: checkAddress, least: 1, most: -1},
	{name: "status", run: showStatus, prints: true},
	{name: "sync-now", run: syncNow},
}

// goesWith has, for a flag, the modes that it goes with.
var goesWith = []struct{ flag, modes, otherwise string }{
	{"force", "sync-now", "--force goes with --sync-now"},
	{"quiet", "sync-now", "-q goes with --sync-now"},
	{"debug", "daemon configtest", "-d goes with no mode: it is for the daemon"}, // rc.d checks with the daemon's own flags
	{"yes", "install uninstall", "--yes goes with --install or --uninstall"},
	{"json", "dump-table status check configtest test", "--json goes with --check, --dump-table, -n, --status or --test"},
	{"file", "daemon help version configtest dump-table read test check status sync-now",
		"-f does not go with --install: " + config.DefaultPath + " is what is installed, or kept"},
}

// Run carries out what args, which come without the program's name, ask for and returns the exit code. A run
// that changes something ends early when ctx does, or on SIGINT or SIGTERM; one that only prints is ended by
// these as any program is.
func Run(ctx context.Context, args []string, env Env) int {
	f, err := parse(args)
	if err != nil {
		fmt.Fprintf(env.Stderr, "threatstopd: %v\n%s", err, usage)
		return exitUsage
	}
	if !f.mode.prints {
		var stop context.CancelFunc
		ctx, stop = signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
		defer stop()
	}
	if err = f.mode.run(ctx, env, f); err == nil {
		return exitOK
	}
	if !errors.Is(err, errSaid) && !readerGone(err) {
		for line := range strings.Lines(explain(err)) { // one for each error that it joins
			fmt.Fprintf(env.Stderr, "threatstopd: %s\n", strings.TrimSuffix(line, "\n"))
		}
	}
	if x := (exitError{}); errors.As(err, &x) {
		return x.code
	}
	return exitKept
}

// explain adds to an error what to do about it, where that is known.
func explain(err error) string {
	if errors.Is(err, errors.ErrUnsupported) {
		return err.Error() + "; `make demo` shows this program on a simulated kernel"
	}
	return apply.Explain(err)
}

// exitError is an error with an exit code of its own.
type exitError struct {
	error
	code int
}

func (e exitError) Unwrap() error { return e.error }

// notTried is an error for which nothing was tried.
func notTried(err error) error { return exitError{err, exitUsage} }

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
	for _, m := range modes {
		set.BoolFuncP(m.name, m.short, "", func(value string) error {
			switch {
			case f.mode != nil && f.mode != m:
				f.second = m
			case value == "true": // as it is without a value
				f.mode = m
			case m.most == 0:
				return errors.New("it takes no value")
			default: // --check=address is --check address
				f.mode, f.args = m, append(f.args, value)
			}
			return nil
		})
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
	if f.mode == nil {
		f.mode = &mode{name: "daemon", run: runDaemon}
	}
	switch m := f.mode; {
	case f.second != nil:
		return nil, fmt.Errorf("only one mode may be given, not --%s and --%s", m.name, f.second.name)
	case len(f.args) < m.least:
		return nil, fmt.Errorf("--%s needs an address", m.name)
	case m.most >= 0 && len(f.args) > m.most:
		return nil, unexpected(f.args[m.most])
	case f.quiet && f.verbose > 0:
		return nil, errors.New("-q and -v exclude each other")
	}
	for _, x := range goesWith {
		if set.Changed(x.flag) && !slices.Contains(strings.Fields(x.modes), f.mode.name) {
			return nil, errors.New(x.otherwise)
		}
	}
	return f, nil
}

// unexpected is the error of an argument that nothing takes.
func unexpected(arg string) error {
	if slices.ContainsFunc(modes, func(m *mode) bool { return m.name == arg }) {
		return fmt.Errorf("unexpected argument %q: did you mean --%s?", arg, arg)
	}
	return fmt.Errorf("unexpected argument %q", arg)
}

// confine takes from this process, for the rest of its life, what the command of this name in privsep.Roles does
// not need.
func (env Env) confine(command string, c privsep.Confinement) error {
	if env.Confine == nil {
		return nil
	}
	return env.Confine.Confine(command, c)
}

// printText returns the mode that prints a text.
func printText(text func() string) func(context.Context, Env, *flags) error {
	return func(_ context.Context, env Env, _ *flags) error {
		if err := env.confine("--help, --version", privsep.Confinement{}); err != nil {
			return err
		}
		_, err := io.WriteString(env.Stdout, text())
		return err
	}
}
