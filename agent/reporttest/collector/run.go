package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"

	"github.com/spf13/pflag"

	"example.org/threatstopd/agent/reporttest"
)

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

// options are the command's.
type options struct {
	ca, lines string // files; "" for none
	fail      int    // requests that fail at first
}

func parse(args []string, stderr io.Writer) (*options, error) {
	o := &options{}
	fs := pflag.NewFlagSet("collector", pflag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.SortFlags = false
	fs.Usage = func() { fmt.Fprintf(stderr, "usage: collector [flags]\n%s", fs.FlagUsages()) }
	fs.StringVar(&o.ca, "ca", "", "write the authority's certificate to `FILE`")
	fs.StringVar(&o.lines, "lines", "", "append the lines of each batch to `FILE`")
	fs.IntVar(&o.fail, "fail", 0, "answer the first `requests` with 503, and throw them away")
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	if fs.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	if o.fail < 0 {
		return nil, errors.New("--fail cannot be negative")
	}
	return o, nil
}

// run is the command: it returns its exit code when ctx is done or something failed.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parse(args, stderr)
	switch {
	case errors.Is(err, pflag.ErrHelp):
		return exitOK
	case err != nil:
		fmt.Fprintf(stderr, "collector: %v\n", err)
		return exitUsage
	}
	if err := o.serve(ctx, stdout); err != nil {
		fmt.Fprintf(stderr, "collector: %v\n", err)
		return exitFailed
	}
	return exitOK
}

func (o *options) serve(ctx context.Context, stdout io.Writer) error {
	lines := io.Discard
	if o.lines != "" {
		f, err := os.OpenFile(o.lines, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
		if err != nil {
			return err
		}
		defer f.Close()
		lines = f
	}
	c, err := reporttest.Start(reporttest.Options{})
	if err != nil {
		return err
	}
	defer c.Close()
	if o.ca != "" {
		if err := c.WriteCA(o.ca); err != nil {
			return err
		}
	}
	if o.fail > 0 {
		if err := c.Fail(reporttest.Failure{Fault: reporttest.Status, Status: http.StatusServiceUnavailable, Times: o.fail}); err != nil {
			return err
		}
	}
	fmt.Fprintf(stdout, "listening on %s\n", c.URL())
	for printed := 0; ; {
		// The error is ctx's.
		if c.Wait(ctx, func(all []reporttest.Receipt) bool { return len(all) > printed }) != nil {
			return nil
		}
		for _, r := range c.Receipts()[printed:] {
			printed++
			if _, err := io.WriteString(lines, r.Text); err != nil {
				return err
			}
			fmt.Fprintf(stdout, "batch %s of %s: %d lines\n", r.Batch, r.Device, len(r.Lines()))
		}
	}
}
