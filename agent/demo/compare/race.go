package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// took is what one run cost.
type took struct {
	wall, cpu time.Duration
}

// contestant is one way to do something.
type contestant struct {
	name string
	// run does it once; check, outside the time, looks at what came of it.
	run   func(context.Context) (took, error)
	check func() error
	runs  []took
}

// race runs all contestants in each round, each time another one first, so that
// what the machine does besides falls on all of them.
func race(ctx context.Context, rounds int, all ...*contestant) error {
	for i := range rounds {
		for j := range all {
			c := all[(i+j)%len(all)]
			if err := ctx.Err(); err != nil {
				return err
			}
			t, err := c.run(ctx)
			if err == nil {
				err = c.check()
			}
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			c.runs = append(c.runs, t)
		}
	}
	return nil
}

// process runs a command, and returns its time and that of all it waited for.
// Its standard error is part of the error when it fails.
func process(ctx context.Context, env []string, dir, name string, args ...string) (took, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = dir, env
	var said bytes.Buffer
	cmd.Stderr = &said
	began := time.Now()
	err := cmd.Run()
	t := took{wall: time.Since(began)}
	if err != nil {
		return t, fmt.Errorf("%w: %s", err, strings.TrimSpace(said.String()))
	}
	t.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	return t, nil
}

// wall returns the times of all runs, shortest first.
func (c *contestant) wall() []time.Duration {
	return c.sorted(func(t took) time.Duration { return t.wall })
}

// cpu returns the processor times of all runs, shortest first.
func (c *contestant) cpu() []time.Duration {
	return c.sorted(func(t took) time.Duration { return t.cpu })
}

func (c *contestant) sorted(of func(took) time.Duration) []time.Duration {
	var all []time.Duration
	for _, t := range c.runs {
		all = append(all, of(t))
	}
	slices.Sort(all)
	return all
}

// median is that of sorted times, the mean of the two in the middle if there are
// two.
func median(sorted []time.Duration) time.Duration {
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// table is what is printed in the end.
type table struct {
	w *tabwriter.Writer
}

func newTable(w io.Writer) *table {
	t := &table{w: tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)}
	fmt.Fprintln(t.w, "WHAT\tTHEIRS\tOURS\tRATIO\tCPU\tTARGET\t")
	return t
}

// row compares two contestants; a target of 0 is none.
func (t *table) row(what string, theirs, ours *contestant, target float64) {
	ratio := float64(median(theirs.wall())) / float64(median(ours.wall()))
	goal := "-\t"
	if target > 0 {
		goal = fmt.Sprintf("%.0fx\treached", target)
		if ratio < target {
			goal = fmt.Sprintf("%.0fx\tbelow the target", target)
		}
	}
	cpu := "-"
	if c := median(ours.cpu()); c > 0 {
		cpu = fmt.Sprintf("%.1fx", float64(median(theirs.cpu()))/float64(c))
	}
	fmt.Fprintf(t.w, "%s\t%s\t%s\t%.1fx\t%s\t%s\n", what, spread(theirs.wall()), spread(ours.wall()), ratio, cpu, goal)
}

func (t *table) print() { t.w.Flush() }

// spread writes sorted times as median, fastest and slowest.
func spread(sorted []time.Duration) string {
	ms := func(d time.Duration) string { return fmt.Sprintf("%.1f", float64(d)/float64(time.Millisecond)) }
	return fmt.Sprintf("%s (%s to %s)", ms(median(sorted)), ms(sorted[0]), ms(sorted[len(sorted)-1]))
}

// load says how busy the machine is, where that can be read from a file.
func load() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return ""
	}
	one, _, _ := strings.Cut(string(b), " ")
	return ", load " + one
}
