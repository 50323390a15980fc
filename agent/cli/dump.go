package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"

	"example.org/threatstopd/pfioctl"
)

// dumpTable prints a table straight from the kernel's answer, which lies in
// one array outside the heap: a million entries cost that array and no more.
func dumpTable(_ context.Context, env Env, f *flags) error {
	table, err := dumpTarget(env, f)
	if err != nil {
		return err
	}
	pf, err := env.OpenPF()
	if err != nil {
		return err
	}
	defer pf.Close()
	w := bufio.NewWriterSize(env.Stdout, 64<<10)
	if f.verbose > 0 {
		stats, err := pf.AddrStats(table)
		if err != nil {
			return err
		}
		defer stats.Close()
		if f.json {
			err = writeJSON(w, table, stats.Len(), func(yield func(any) bool) {
				for s := range stats.All() {
					if !yield(verboseEntry(s)) {
						return
					}
				}
			})
		} else {
			var b []byte
			for s := range stats.All() {
				b = appendStats(b[:0], s, env.Local)
				if _, err = w.Write(b); err != nil {
					break
				}
			}
		}
		return errors.Join(err, w.Flush())
	}
	addrs, err := pf.Get(table)
	if err != nil {
		return err
	}
	defer addrs.Close()
	if f.json {
		err = writeJSON(w, table, addrs.Len(), func(yield func(any) bool) {
			for a := range addrs.All() {
				if !yield(jsonEntry{Prefix: a.Prefix.String(), Not: a.Not}) {
					return
				}
			}
		})
	} else {
		var b []byte
		for a := range addrs.All() {
			b = appendShow(b[:0], a)
			if _, err = w.Write(b); err != nil {
				break
			}
		}
	}
	return errors.Join(err, w.Flush())
}

// dumpTarget finds the table's name. Only "block" and "allow" need the
// configuration.
func dumpTarget(env Env, f *flags) (pfioctl.Table, error) {
	which := "block"
	if len(f.args) == 1 {
		which = f.args[0]
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

type jsonEntry struct {
	Prefix   string        `json:"prefix"`
	Not      bool          `json:"not,omitempty"`
	Cleared  *time.Time    `json:"cleared,omitempty"`
	Counters *jsonCounters `json:"counters,omitempty"`
}

type jsonCounters struct {
	In  jsonDirection `json:"in"`
	Out jsonDirection `json:"out"`
}

type jsonDirection struct {
	Block jsonCount `json:"block"`
	Match jsonCount `json:"match"`
	Pass  jsonCount `json:"pass"`
}

type jsonCount struct {
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

func verboseEntry(s pfioctl.AddrStats) jsonEntry {
	cleared := s.Cleared.UTC()
	e := jsonEntry{Prefix: s.Addr.Prefix.String(), Not: s.Addr.Not, Cleared: &cleared}
	if s.Counted {
		direction := func(dir int) jsonDirection {
			count := func(op int) jsonCount { return jsonCount{s.Packets[dir][op], s.Bytes[dir][op]} }
			return jsonDirection{Block: count(0), Match: count(1), Pass: count(2)}
		}
		e.Counters = &jsonCounters{In: direction(0), Out: direction(1)}
	}
	return e
}

// writeJSON writes one object, an entry a line, without holding the entries.
func writeJSON(w *bufio.Writer, t pfioctl.Table, n int, entries func(func(any) bool)) error {
	name, err := json.Marshal(t.Name)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "{\"table\":%s,\"count\":%d,\"entries\":[", name, n)
	sep := "\n"
	for e := range entries {
		line, err := json.Marshal(e)
		if err != nil {
			return err
		}
		w.WriteString(sep)
		if _, err := w.Write(line); err != nil {
			return err
		}
		sep = ",\n"
	}
	_, err = w.WriteString("\n]}\n")
	return err
}

// readerGone reports whether what was printed is not read to its end, as by
// head(1): nothing is wrong then.
func readerGone(err error) bool {
	var p *fs.PathError
	return errors.Is(err, syscall.EPIPE) && errors.As(err, &p) && p.Path == os.Stdout.Name()
}
