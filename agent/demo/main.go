// Command demo shows threatstopd at work on any system with Go: the code of the commands, with a simulated
// pf in place of /dev/pf and a policy server of its own.
//
//	demo [--block file] [--allow file] [--page yes]
//
// shows the main job in steps, checks each of them, and fails when one goes wrong. Without files it uses a
// made-up policy of some 26,000 addresses from the ranges that are set aside for documentation and
// benchmarks. With --page yes, the daemon runs on at the end and serves its page, until Enter or an
// interrupt. With
//
//	demo -- arguments
//
// it is threatstopd itself, in every mode, on a simulated pf, which begins with empty tables and the rules
// of the README, and ends with the process.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/pflag"

	"example.org/threatstopd/agent/internal/cli"
	"example.org/threatstopd/agent/internal/privsep"
	"example.org/threatstopd/capture"
	"example.org/threatstopd/capture/capturetest"
	"example.org/threatstopd/pfioctl"
	"example.org/threatstopd/pfioctl/pfsim"
)

func main() {
	privsep.Serve(cli.RoleBodies(quietEnv())) // does not return in the process of a role
	blockFile := pflag.String("block", "", "files of addresses and networks to block, one a line")
	allowFile := pflag.String("allow", "", "files of addresses and networks to allow, one a line")
	page := pflag.String("page", "", "yes: serve the status page at the end, until Enter is pressed")
	pflag.Usage = func() {
		fmt.Fprint(os.Stderr, "usage: demo [flags]\n       demo -- FLAGS    threatstopd itself, on a simulated pf: demo -- --help\n", pflag.CommandLine.FlagUsages())
	}
	pflag.Parse()
	if args := pflag.Args(); len(args) > 0 {
		os.Exit(agent(args))
	}
	if err := show(os.Stdout, *blockFile, *allowFile, *page == "yes"); err != nil {
		fmt.Fprintf(os.Stderr, "demo: %v\n", err)
		os.Exit(1)
	}
}

// quietEnv is the system, with a pflog interface on which nothing is logged.
func quietEnv() cli.Env {
	env := cli.System()
	env.OpenPflog = func(o capture.Options) (capture.Source, error) { return capturetest.NewInterface("").Open(o) }
	env.FlushPflogd = noPflogd
	return env
}

// noPflogd is the answer of a system without pflogd(8).
func noPflogd() error { return fmt.Errorf("pflogd: %w", errors.ErrUnsupported) }

// agent runs threatstopd on a simulated kernel, then prints the memory that the simulation used.
func agent(args []string) int {
	kernel := pfsim.New(pfsim.Options{MaxEntries: 10_000_000})
	kernel.SetRunning(true)
	if err := kernel.LoadRules(pfConf()); err != nil {
		fmt.Fprintf(os.Stderr, "demo: %v\n", err)
		return 1
	}
	env := quietEnv()
	env.OpenPF = func() (*pfioctl.PF, error) { return kernel.OpenPF(), nil }
	env.Roles = privsep.Exec()
	code := cli.Run(context.Background(), args, env)
	fmt.Fprintf(os.Stderr, "demo: the simulated pf's tables take %d bytes\n", kernel.HeapBytes())
	return code
}
