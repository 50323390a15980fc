// Command demo shows threatstopd at work on any system with Go: the very code
// of the commands, with a simulated pf in the place of /dev/pf and a policy
// server of its own.
//
//	demo [--block file] [--allow file]
//
// tells a story in steps, each checked, and fails when one does not go as
// told. Without files it uses a made-up policy of some 26,000 addresses from
// the ranges that are set aside for documentation and benchmarks. With
//
//	demo -- arguments
//
// it is threatstopd itself on a simulated pf that begins empty and ends with
// the process.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/pflag"

	"example.org/threatstopd/agent/cli"
	"example.org/threatstopd/pfioctl"
	"example.org/threatstopd/pfioctl/pfsim"
)

func main() {
	blockFile := pflag.String("block", "", "files of addresses and networks to block, one a line")
	allowFile := pflag.String("allow", "", "files of addresses and networks to allow, one a line")
	pflag.Parse()
	var err error
	if args := pflag.Args(); len(args) > 0 {
		os.Exit(agent(args))
	} else {
		err = show(os.Stdout, *blockFile, *allowFile)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "demo: %v\n", err)
		os.Exit(1)
	}
}

// agent is threatstopd on a simulated kernel, and tells afterwards what of the
// memory was the simulation's.
func agent(args []string) int {
	kernel := pfsim.New(pfsim.Options{MaxEntries: 10_000_000})
	env := cli.System()
	env.OpenPF = func() (*pfioctl.PF, error) { return pfioctl.New(kernel.Open(true), kernel.Layout()), nil }
	code := cli.Run(context.Background(), args, env)
	fmt.Fprintf(os.Stderr, "demo: the simulated pf's tables take %d bytes\n", kernel.HeapBytes())
	return code
}
