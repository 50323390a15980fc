package cli

import (
	"context"
	"errors"
	"fmt"
	"io"

	"example.org/threatstopd/capture"
)

// readFile prints a pflog file as tcpdump -n -e -r does. It needs neither a
// configuration nor any privilege but that of reading the file.
func readFile(_ context.Context, env Env, f *flags) error {
	var file *capture.FileReader
	var err error
	if f.read == "-" {
		file, err = capture.NewFileReader(env.Stdin)
	} else {
		file, err = capture.OpenFile(f.read)
	}
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: is empty: not even a pcap header", f.read)
	}
	if err != nil {
		return err
	}
	defer file.Close()
	lines, err := capture.Print(env.Stdout, file, &capture.Printer{Location: env.Local, Relative: true})
	if err != nil && lines > 0 {
		return fmt.Errorf("%w (after %d packets)", err, lines)
	}
	return err
}
