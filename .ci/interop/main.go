// Command interop fetches lists from the name servers that policies are served
// by in the world: BIND, PowerDNS, NSD and Knot DNS. It writes one zone of
// lists in every layout, starts each server on a loopback port with a
// configuration of its own in a temporary directory, fetches every list with
// dnsfetch, and holds what comes back against what went in. It exits 0 when all
// servers gave all lists whole, and prints what each did as a table.
//
//	interop                      # all four
//	interop --server nsd --keep  # one of them, its directory kept
//
// Then it fetches through relays, unbound and dnsdist, with our own server and BIND behind them.
//
// Servers that are not installed are installed from Debian's packages where the
// user may do that (root, on Debian), without starting them as services;
// elsewhere their packages are named and the exit code is 1. All it starts ends
// with it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"syscall"

	"github.com/spf13/pflag"

	"example.org/threatstopd/.ci/nameserver"
)

func main() {
	// The kernel signals the servers when the thread that started them
	// ends: the main one, then.
	runtime.LockOSThread()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	code := run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string) int {
	fs := pflag.NewFlagSet("interop", pflag.ContinueOnError)
	fs.SortFlags = false
	names := fs.StringSlice("server", nameserver.Names(), "name `servers` to fetch from")
	relays := fs.Bool("relays", true, "fetch through unbound and dnsdist, too")
	install := fs.Bool("install", true, "install servers that are missing")
	keep := fs.Bool("keep", false, "keep the directory with zones, configurations and logs")
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			return 0
		}
		fmt.Fprintf(os.Stderr, "interop: %v\n", err)
		return 2
	}
	chosen, err := nameserver.Choose(*names...)
	if err == nil && fs.NArg() > 0 {
		err = fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "interop: %v\n", err)
		return 2
	}
	var between []*nameserver.Server
	if *relays {
		between = nameserver.Relays
	}
	var programs []*nameserver.Program
	for _, s := range slices.Concat(chosen, between) {
		programs = append(programs, &s.Program)
	}
	if err := nameserver.Provide(ctx, "interop", programs, *install); err != nil {
		fmt.Fprintf(os.Stderr, "interop: %v\n", err)
		return 1
	}
	dir, err := os.MkdirTemp("", "interop")
	if err != nil {
		fmt.Fprintf(os.Stderr, "interop: %v\n", err)
		return 1
	}
	if *keep {
		fmt.Fprintf(os.Stderr, "interop: directory %s\n", dir)
	} else {
		defer os.RemoveAll(dir)
	}
	ok, err := compare(ctx, dir, chosen, between, os.Stdout)
	if err != nil {
		fmt.Fprintf(os.Stderr, "interop: %v\n", err)
	}
	if err != nil || !ok {
		return 1
	}
	return 0
}
