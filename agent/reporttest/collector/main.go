// Command collector is a log server to try an agent on: it takes batches over HTTPS
// on a port of its own on 127.0.0.1, and prints each.
//
//	collector --ca ca.pem --lines lines.txt
//	collector --ca ca.pem --lines lines.txt --fail 2
//
// The first line of output says where to post to; ca.pem, which is there by then, has
// the authority that vouches for it. Each batch is a line of output more. SIGINT and
// SIGTERM end it.
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
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}
