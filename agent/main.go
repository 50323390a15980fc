// Threatstopd keeps pf's tables in step with a ThreatSTOP policy and reports
// what the policy blocked. See threatstopd --help.
package main

import (
	"context"
	"os"

	"example.org/threatstopd/agent/cli"
	"example.org/threatstopd/agent/privsep"
)

func main() {
	env := cli.System()
	privsep.Serve(cli.RoleBodies(env)) // ends here in a process that is a role
	env.Roles = privsep.Exec()
	os.Exit(cli.Run(context.Background(), os.Args[1:], env))
}
