// Command compare measures threatstopd against the programs that people do the
// same with today, on the same data in the same run: dig and sed for a policy,
// tcpdump for the text of what pf logged, curl for its upload.
//
//	compare --agent build/threatstopd --demo build/demo
//
// The policy is fetched from Knot DNS, which loads a zone file, and from our own
// test server. Each round runs every contestant once, whole processes, and they
// must come to the same result: a comparison of different work says nothing. It
// prints a table of the medians, and exits 0 when everything ran and
// agreed, whether the targets were reached or not: the machine may be busy.
//
// What is missing is installed from Debian's packages where the user may do that
// (root, on Debian); elsewhere the packages are named and the exit code is 1.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"

	"github.com/spf13/pflag"

	"example.org/threatstopd/.ci/nameserver"
)

func main() {
	// The kernel signals the name server when the thread that started it
	// ends: the main one, then.
	runtime.LockOSThread()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// options are the command's, checked.
type options struct {
	agent, demo string // binaries
	sizes       []int  // of policies; the first has targets
	packets     int
	rounds      int
}

// tools are what the contestants are made of, besides the name server.
func tools() []*nameserver.Program {
	return []*nameserver.Program{
		{Binary: "dig", Packages: []string{"bind9-dnsutils"}},
		{Binary: "sed", Packages: []string{"sed"}},
		{Binary: "tcpdump", Packages: []string{"tcpdump"}},
		{Binary: "curl", Packages: []string{"curl"}},
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	fail := func(code int, err error) int {
		fmt.Fprintf(stderr, "compare: %v\n", err)
		return code
	}
	fs := pflag.NewFlagSet("compare", pflag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.SortFlags = false
	var o options
	fs.StringVar(&o.agent, "agent", "build/threatstopd", "the `binary` of threatstopd")
	fs.StringVar(&o.demo, "demo", "build/demo", "the `binary` of the demo: threatstopd on a simulated pf")
	fs.IntSliceVar(&o.sizes, "entries", []int{26_424, 120_430}, "`sizes` of the policies; the first is the one with targets")
	fs.IntVar(&o.packets, "packets", 100_000, "how many logged `packets` are printed")
	fs.IntVar(&o.rounds, "rounds", 9, "how often each is run")
	install := fs.Bool("install", true, "install programs that are missing")
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			return 0
		}
		return fail(2, err)
	}
	if fs.NArg() > 0 {
		return fail(2, fmt.Errorf("unexpected argument %q", fs.Arg(0)))
	}
	if o.rounds < 1 || o.packets < 1 || len(o.sizes) == 0 {
		return fail(2, errors.New("--rounds, --packets and --entries want more than nothing"))
	}
	for _, binary := range []*string{&o.agent, &o.demo} {
		var err error
		if *binary, err = filepath.Abs(*binary); err == nil {
			_, err = os.Stat(*binary)
		}
		if err != nil {
			return fail(1, err)
		}
	}
	knots, err := nameserver.Choose("knot")
	if err != nil {
		return fail(1, err)
	}
	programs := tools()
	if err := nameserver.Provide(ctx, "compare", append(programs, &knots[0].Program), *install); err != nil {
		return fail(1, err)
	}
	dir, err := os.MkdirTemp("", "compare")
	if err != nil {
		return fail(1, err)
	}
	defer os.RemoveAll(dir)
	// tcpdump reads its file as a user of its own.
	if err := os.Chmod(dir, 0o755); err != nil {
		return fail(1, err)
	}
	fmt.Fprintf(stdout, "%s, %d processors%s; median (fastest to slowest) of %d rounds, milliseconds\n\n",
		runtime.GOARCH, runtime.NumCPU(), load(), o.rounds)
	t := newTable(stdout)
	err = compareSync(ctx, dir, &o, knots[0], t)
	if err == nil {
		err = compareText(ctx, dir, &o, t)
	}
	if err == nil {
		err = compareUpload(ctx, dir, &o, t)
	}
	t.print()
	if err != nil {
		return fail(1, err)
	}
	fmt.Fprint(stdout, notes)
	return 0
}

const notes = `
All are whole processes but for our upload; CPU is the ratio of processor time. The results agree: the set of entries
after each run, the text that the log server received after each upload; for the lines of tcpdump, which is Debian's and
words them otherwise than OpenBSD's, the time and both ends of every packet, in their order, before the rounds.
  loop      sh: dig PTR, then dig APL and sed for each part, sort -u into a file
  batch     sh: dig PTR, one dig +keepopen -f for all parts, sed, sort -u into a file
  ours      threatstopd --sync-now: the same from the same server, and every check on the answers, the policy built, pf's
            table set (the simulated one) and read back, the file written and fsynced
  tcpdump   tcpdump -n -e -S -r file, against threatstopd --read file; both to /dev/null. Without TZ, Debian's tcpdump
            looks at the zone's file for every packet: with TZ it is shown, too
  curl      curl -F of a file, one process for each upload as in the vendor's loop, against one attempt of the daemon's
            client with a connection of its own. Not the whole of our way, which spools with an fsync before
`
