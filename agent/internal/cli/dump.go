package cli

import (
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
	"example.org/threatstopd/pfioctl"
)

// dumpTable prints a table straight from the kernel's answer, which lies in
// one array outside the heap: a million entries cost that array and no more.
func dumpTable(_ context.Context, env Env, f *flags) error {
	table, err := dumpTarget(env, f)
	if err != nil {
		return err
	}
	print, err := readTable(env, f, table)
	if err != nil {
		return err
	}
	// All that follows is printing.
	if err := env.confine("--dump-table", privsep.Confinement{}); err != nil {
		return err
	}
	return print(env.Stdout)
}

// readTable reads a table, and returns what prints it.
func readTable(env Env, f *flags, table pfioctl.Table) (print func(io.Writer) error, err error) {
	pf, err := env.OpenPF()
	if err != nil {
		return nil, err
	}
	defer pf.Close()
	if f.verbose > 0 {
		stats, err := pf.AddrStats(table)
		text := func(b []byte, s pfioctl.AddrStats) []byte { return appendStats(b, s, env.Local) }
		return printer(table, f.json, stats, text, appendJSONStats), err
	}
	addrs, err := pf.List(table)
	json := func(b []byte, a pfioctl.Addr) []byte { return append(appendJSON(b, a), '}') }
	return printer(table, f.json, addrs, appendShow, json), err
}

// printer returns what prints a list, as text or JSON, and frees it.
func printer[E any](t pfioctl.Table, asJSON bool, list *pfioctl.List[E], text, json func([]byte, E) []byte) func(io.Writer) error {
	return func(to io.Writer) error {
		defer list.Close()
		if asJSON {
			return printJSON(to, t, list.Len(), list.All(), json)
		}
		return printEntries(to, list.All(), text)
	}
}

// printEntries writes what format appends for each entry, and never holds more
// than a few of them.
func printEntries[E any](to io.Writer, entries iter.Seq[E], format func([]byte, E) []byte) error {
	const enough = 64 << 10
	b := make([]byte, 0, enough+4<<10)
	for e := range entries {
		if b = format(b, e); len(b) < enough {
			continue
		}
		if _, err := to.Write(b); err != nil {
			return err
		}
		b = b[:0]
	}
	_, err := to.Write(b)
	return err
}

// printJSON writes one object, an entry a line.
func printJSON[E any](to io.Writer, t pfioctl.Table, n int, entries iter.Seq[E], format func([]byte, E) []byte) error {
	name, err := json.Marshal(t.Name)
	if err != nil {
		return err
	}
	sep := fmt.Sprintf("{\"table\":%s,\"count\":%d,\"entries\":[\n", name, n)
	if n == 0 {
		_, err := io.WriteString(to, sep+"]}\n")
		return err
	}
	err = printEntries(to, entries, func(b []byte, e E) []byte {
		b = append(b, sep...)
		sep = ",\n"
		return format(b, e)
	})
	if err == nil {
		_, err = io.WriteString(to, "\n]}\n")
	}
	return err
}

// dumpTarget finds the table's name. Only "block" and "allow" need the
// configuration.
func dumpTarget(env Env, f *flags) (pfioctl.Table, error) {
	which := "block"
	if len(f.args) == 1 {
		which = strings.TrimSuffix(strings.TrimPrefix(f.args[0], "<"), ">") // as pf.conf writes it
	}
	if which != "block" && which != "allow" {
		return pfioctl.Table{Name: which}, nil
	}
	cfg, err := load(env, f)
	if err != nil {
		return pfioctl.Table{}, err
	}
	if which == "allow" {
		return pfioctl.Table{Name: cfg.AllowTable}, nil
	}
	return pfioctl.Table{Name: cfg.BlockTable}, nil
}

// appendShow appends an entry as pfctl -T show prints it.
func appendShow(b []byte, a pfioctl.Addr) []byte {
	b = append(b, ' ', ' ')
	if !a.Not {
		b = append(b, ' ')
	}
	return append(a.AppendTo(b), '\n')
}

var counterNames = [2][3]string{
	{"In/Block:", "In/Match:", "In/Pass:"},
	{"Out/Block:", "Out/Match:", "Out/Pass:"},
}

// appendStats appends an entry as pfctl -vT show prints it. Counters are
// there only in a table with `counters`, and once the entry was hit.
func appendStats(b []byte, s pfioctl.AddrStats, zone *time.Location) []byte {
	b = appendShow(b, s.Addr)
	b = append(b, "\tCleared:     "...)
	b = s.Cleared.In(zone).AppendFormat(b, time.ANSIC)
	b = append(b, '\n')
	if !s.Counted {
		return b
	}
	for dir, names := range counterNames {
		for op, name := range names {
			b = fmt.Appendf(b, "\t%-12s [ Packets: %-18d Bytes: %-18d ]\n", name, s.Packets[dir][op], s.Bytes[dir][op])
		}
	}
	return b
}

// appendJSON appends an entry as a JSON object, but for its last brace. It is
// put together by hand, as there may be millions: neither a prefix nor a time
// has anything to be quoted.
func appendJSON(b []byte, a pfioctl.Addr) []byte {
	b = append(b, `{"prefix":"`...)
	b = append(a.Prefix.AppendTo(b), '"')
	if a.Not {
		b = append(b, `,"not":true`...)
	}
	return b
}

// appendJSONStats appends an entry with since when it is counted and, where the
// table counts, what.
func appendJSONStats(b []byte, s pfioctl.AddrStats) []byte {
	b = appendJSON(b, s.Addr)
	b = append(b, `,"cleared":"`...)
	b = append(s.Cleared.UTC().AppendFormat(b, time.RFC3339), '"')
	if s.Counted {
		b = append(b, `,"counters":`...)
		for dir, name := range [...]string{`{"in":{`, `,"out":{`} {
			b = append(b, name...)
			for op, name := range [...]string{`"block"`, `,"match"`, `,"pass"`} {
				b = fmt.Appendf(b, `%s:{"packets":%d,"bytes":%d}`, name, s.Packets[dir][op], s.Bytes[dir][op])
			}
			b = append(b, '}')
		}
		b = append(b, '}')
	}
	return append(b, '}')
}

// readerGone reports whether what was printed is not read to its end, as by
// head(1): nothing is wrong then.
func readerGone(err error) bool {
	var p *fs.PathError
	return errors.Is(err, syscall.EPIPE) && errors.As(err, &p) && p.Path == os.Stdout.Name()
}
