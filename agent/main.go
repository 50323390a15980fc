// Threatstopd keeps pf's tables in step with a ThreatSTOP policy and reports
// what the policy blocked. See threatstopd --help.
package main

import (
	"context"
	"os"

	"example.org/threatstopd/agent/cli"
)

func main() {
	os.Exit(cli.Run(context.Background(), os.Args[1:], cli.System()))
}
