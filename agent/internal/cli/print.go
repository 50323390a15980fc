package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"strings"
	"syscall"
	"time"

	"example.org/threatstopd/agent/internal/privsep"
	"example.org/threatstopd/capture"
	"example.org/threatstopd/pfioctl"
)

// dumpTable prints a table straight from the kernel's answer, which is in one array outside the heap: a million
// entries cost that array and no more.
func dumpTable(_ context.Context, env Env, f *flags) error {
	table, err := dumpTarget(env, f)
	if err != nil {
		return err
	}
	return env.printing(func(to io.Writer) error {
		pf, err := env.OpenPF()
		if err != nil {
			return err
		}
		if f.verbose > 0 {
			list, err := pf.AddrStats(table)
			pf.Close()
			if err != nil {
				return err
			}
			defer list.Close()
			return printEntries(env, f, to, table, list.Len(), list.All())
		}
		list, err := pf.List(table)
		pf.Close()
		if err != nil {
			return err
		}
		defer list.Close()
		return printEntries(env, f, to, table, list.Len(), func(yield func(pfioctl.AddrStats) bool) {
			list.All()(func(a pfioctl.Addr) bool { return yield(pfioctl.AddrStats{Addr: a}) })
		})
	})
}

// printEntries prints the n entries of a table, of which it never holds more than a few.
func printEntries(env Env, f *flags, to io.Writer, t pfioctl.Table, n int, entries iter.Seq[pfioctl.AddrStats]) error {
	if err := env.confine("--dump-table", privsep.Confinement{}); err != nil {
		return err
	}
	out := bufio.NewWriterSize(to, 64<<10)
	if f.json {
		name, err := json.Marshal(t.Name)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "{\"table\":%s,\"count\":%d,\"entries\":[\n", name, n)
	}
	var b []byte
	for s := range entries {
		if n--; f.json {
			b = appendJSON(b[:0], s, f.verbose > 0, n == 0)
		} else {
			b = appendText(b[:0], s, f.verbose > 0, env.Local)
		}
		if _, err := out.Write(b); err != nil {
			return err
		}
	}
	if f.json {
		out.WriteString("]}\n")
	}
	return out.Flush()
}

// dumpTarget finds the table's name, in < and > as in pf.conf or without. Only "block" and "allow" need the configuration.
func dumpTarget(env Env, f *flags) (pfioctl.Table, error) {
	t := pfioctl.Table{Name: "block"}
	if len(f.args) == 1 {
		t.Name = strings.TrimSuffix(strings.TrimPrefix(f.args[0], "<"), ">")
	}
	if t.Name != "block" && t.Name != "allow" {
		return t, nil
	}
	cfg, err := load(env, f)
	if err == nil {
		t.Name = map[string]string{"block": cfg.BlockTable, "allow": cfg.AllowTable}[t.Name]
	}
	return t, err
}

// appendText appends an entry as pfctl -T show prints it, or, with counters, as pfctl -vT show does. Counters
// are there only in a table with `counters`, and once the entry was hit.
func appendText(b []byte, s pfioctl.AddrStats, counters bool, zone *time.Location) []byte {
	sign := "   "
	if s.Not {
		sign = "  " // "!" follows
	}
	b = append(s.Addr.AppendTo(append(b, sign...)), '\n')
	if !counters {
		return b
	}
	b = append(s.Cleared.In(zone).AppendFormat(append(b, "\tCleared:     "...), time.ANSIC), '\n')
	if !s.Counted {
		return b
	}
	for dir, names := range [2][3]string{{"In/Block:", "In/Match:", "In/Pass:"}, {"Out/Block:", "Out/Match:", "Out/Pass:"}} {
		for op, name := range names {
			b = fmt.Appendf(b, "\t%-12s [ Packets: %-18d Bytes: %-18d ]\n", name, s.Packets[dir][op], s.Bytes[dir][op])
		}
	}
	return b
}

// appendJSON appends an entry as a JSON object. It is put together by hand, as there may be millions: neither a
// prefix nor a time has anything to be quoted.
func appendJSON(b []byte, s pfioctl.AddrStats, counters, last bool) []byte {
	b = append(s.Prefix.AppendTo(append(b, `{"prefix":"`...)), '"')
	if s.Not {
		b = append(b, `,"not":true`...)
	}
	if counters {
		b = append(s.Cleared.UTC().AppendFormat(append(b, `,"cleared":"`...), time.RFC3339), '"')
	}
	if counters && s.Counted {
		b = append(b, `,"counters":{`...)
		for dir, name := range [2]string{`"in":{`, `},"out":{`} {
			b = append(b, name...)
			for op, name := range [3]string{`"block"`, `,"match"`, `,"pass"`} {
				b = fmt.Appendf(b, `%s:{"packets":%d,"bytes":%d}`, name, s.Packets[dir][op], s.Bytes[dir][op])
			}
		}
		b = append(b, "}}"...)
	}
	if last {
		return append(b, "}\n"...)
	}
	return append(b, "},\n"...)
}

// readFiles prints pflog files as tcpdump -n -e -S -r does. It needs neither a configuration nor any privilege
// but that of reading the files.
func readFiles(_ context.Context, env Env, f *flags) error {
	names := f.args
	if len(names) == 0 {
		names = []string{"/var/log/pflog"}
	}
	files := make([]io.Reader, len(names))
	for i, name := range names {
		if name == "-" {
			files[i], names[i] = env.Stdin, "standard input"
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
	return env.printing(func(to io.Writer) error {
		for i, from := range files {
			lines := 0
			file, err := capture.NewFileReader(from)
			if err == nil {
				lines, err = capture.Print(to, file, env.Local)
			}
			switch {
			case errors.Is(err, io.EOF):
				return fmt.Errorf("%s: is empty: not even a pcap header", names[i])
			case err != nil && lines > 0:
				return fmt.Errorf("%s: %w (after %d packets)", names[i], err, lines)
			case err != nil:
				return fmt.Errorf("%s: %w", names[i], err)
			}
		}
		return nil
	})
}

// readerGone reports whether what was printed is not read to its end, as by head(1): nothing is wrong then.
func readerGone(err error) bool {
	var p *fs.PathError
	return errors.Is(err, syscall.EPIPE) && errors.As(err, &p) && p.Path == os.Stdout.Name()
}
