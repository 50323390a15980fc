// Threatstopd keeps pf's tables in step with a ThreatSTOP policy and reports
// what the policy blocked. See threatstopd --help.
package main

import (
	"context"
	"net"
	"os"

	"example.org/threatstopd/agent/internal/cli"
	"example.org/threatstopd/agent/internal/privsep"
)

func main() {
	// Where the program is built with cgo, what stands in resolv.conf could lead to libc's
	// resolver, whose sockets (SOCK_DNS) are the end of a process that has promised
	// pledge(2) "inet" and not "dns".
	net.DefaultResolver.PreferGo = true
	env := cli.System()
	privsep.Serve(cli.RoleBodies(env)) // ends here in a process that is a role
	env.Roles = privsep.Exec()
	os.Exit(cli.Run(context.Background(), os.Args[1:], env))
}
