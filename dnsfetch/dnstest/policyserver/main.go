// Command policyserver serves files of prefixes as lists over DNS/TCP, to try
// an agent on, and writes them as a zone file for other name servers.
//
//	policyserver --list block.example=block.txt --list allow.example=apl:allow.txt
//	policyserver --list block.example=block.txt --zone example.zone
//
// A file holds one prefix a line, as pf's table files do: an address alone is a
// host, "!" negates, "#" begins a comment. "-" is the standard input, and an
// empty file an empty list. The first line of output is the address where the server
// listens. SIGHUP reads the files again, and keeps what is served if one of
// them is bad; SIGINT and SIGTERM end the server.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	os.Exit(run(ctx, hup, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
