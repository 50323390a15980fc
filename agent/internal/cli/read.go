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

// readFiles prints pflog files as tcpdump -n -e -S -r does. It needs neither a configuration nor any
// privilege but that of reading the files.
func readFiles(_ context.Context, env Env, f *flags) error {
	names := f.args
	if len(names) == 0 {
		names = []string{"/var/log/pflog"}
	}
	files := make([]io.Reader, len(names))
	for i, name := range names {
		if name == "-" {
			files[i] = env.Stdin
			continue
		}
		file, err := os.Open(name)
		if err != nil {
			return err
		}
		defer file.Close()
		files[i] = file
	}
	// What is in them comes from strangers, and nothing is needed to print it.
	if err := env.confine("--read", privsep.Confinement{}); err != nil {
		return err
	}
	for i, from := range files {
		if err := printPackets(env, names[i], from); err != nil {
			return err
		}
	}
	return nil
}

// printPackets prints one pflog file. Its error names the file.
func printPackets(env Env, name string, from io.Reader) error {
	if name == "-" {
		name = "standard input"
	}
	file, err := capture.NewFileReader(from)
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: is empty: not even a pcap header", name)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	lines, err := capture.Print(env.Stdout, file, env.Local)
	if err != nil && lines > 0 {
		return fmt.Errorf("%s: %w (after %d packets)", name, err, lines)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}
