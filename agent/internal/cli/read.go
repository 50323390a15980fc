package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"example.org/threatstopd/agent/internal/privsep"
	"example.org/threatstopd/capture"
)

// readFile prints a pflog file as tcpdump -n -e -S -r does. It needs neither a
// configuration nor any privilege but that of reading the file.
func readFile(_ context.Context, env Env, f *flags) error {
	from := env.Stdin
	if f.read != "-" {
		file, err := os.Open(f.read)
		if err != nil {
			return err
		}
		defer file.Close()
		from = file
	}
	// What is in it comes from strangers, and nothing is needed to print it.
	if err := env.confine("--read", privsep.Confinement{}); err != nil {
		return err
	}
	file, err := capture.NewFileReader(from)
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: is empty: not even a pcap header", f.read)
	}
	if err != nil && f.read != "-" {
		return fmt.Errorf("%s: %w", f.read, err)
	}
	if err != nil {
		return err
	}
	lines, err := capture.Print(env.Stdout, file, env.Local)
	if err != nil && lines > 0 {
		return fmt.Errorf("%w (after %d packets)", err, lines)
	}
	return err
}
