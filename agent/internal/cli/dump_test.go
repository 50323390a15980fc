package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.org/threatstopd/pfioctl"
	"example.org/threatstopd/pfioctl/pfsim"
)

func TestDumpTableJSON(t *testing.T) {
	at := time.Date(2026, 11, 22, 9, 16, 54, 0, time.UTC)
	fw := newFirewall(t, pfsim.Options{Now: func() time.Time { return at }})
	table := pfioctl.Table{Name: "counted"}
	if _, err := fw.pf().AddTables(pfioctl.TableCounters, table, pfioctl.Table{Name: "empty"}); err != nil {
		t.Fatal(err)
	}
	bad, own := netip.MustParseAddr("10.9.0.2"), netip.MustParseAddr("10.9.0.1")
	if _, err := fw.pf().Add(table,
		pfioctl.Addr{Prefix: netip.PrefixFrom(bad, 32)},
		pfioctl.Addr{Prefix: netip.MustParsePrefix("10.9.1.0/24"), Not: true},
		pfioctl.Addr{Prefix: netip.MustParsePrefix("2001:db8::/32")}); err != nil {
		t.Fatal(err)
	}
	if err := fw.kernel.LoadRules(pfsim.Ruleset{Rules: blockRules("counted")}); err != nil {
		t.Fatal(err)
	}
	fw.kernel.Verdict(pfsim.Packet{Dir: pfioctl.DirIn, Iface: "em0", Src: bad, Dst: own, Proto: 1, Bytes: 84})
	for range 2 {
		fw.kernel.Verdict(pfsim.Packet{Dir: pfioctl.DirOut, Iface: "em0", Src: own, Dst: bad, Proto: 1, Bytes: 84})
	}
	for args, want := range map[string]string{
		"counted": `{"table":"counted","count":3,"entries":[
{"prefix":"10.9.0.2/32"},
{"prefix":"10.9.1.0/24","not":true},
{"prefix":"2001:db8::/32"}
]}
`,
		"counted -v": `{"table":"counted","count":3,"entries":[
{"prefix":"10.9.0.2/32","cleared":"2026-11-22T09:16:54Z","counters":{"in":{"block":{"packets":1,"bytes":84},"match":{"packets":0,"bytes":0},"pass":{"packets":0,"bytes":0}},"out":{"block":{"packets":2,"bytes":168},"match":{"packets":0,"bytes":0},"pass":{"packets":0,"bytes":0}}}},
{"prefix":"10.9.1.0/24","not":true,"cleared":"2026-11-22T09:16:54Z"},
{"prefix":"2001:db8::/32","cleared":"2026-11-22T09:16:54Z"}
]}
`,
		"empty":    "{\"table\":\"empty\",\"count\":0,\"entries\":[\n]}\n",
		"empty -v": "{\"table\":\"empty\",\"count\":0,\"entries\":[\n]}\n",
	} {
		code, stdout, stderr := fw.run(append([]string{"--dump-table", "--json"}, strings.Fields(args)...)...)
		if code != 0 || stderr != "" {
			t.Fatalf("%s: exit code %d, %q", args, code, stderr)
		}
		if stdout != want {
			t.Errorf("%s:\n%s\nwant\n%s", args, stdout, want)
		}
		if !json.Valid([]byte(stdout)) {
			t.Errorf("%s: not JSON", args)
		}
	}
}

// A large table costs the kernel's array, which lies outside of the heap, and a
// slice of its entries.
func TestDumpTableMemory(t *testing.T) {
	const n = 300_000
	fw := newFirewall(t, pfsim.Options{MaxEntries: n})
	table := pfioctl.Table{Name: "large"}
	if _, err := fw.pf().AddTables(0, table); err != nil {
		t.Fatal(err)
	}
	if _, err := fw.pf().Set(table, n, func(yield func(netip.Prefix, bool) bool) {
		for i := range n {
			if !yield(netip.PrefixFrom(netip.AddrFrom4([4]byte{20, byte(i >> 16), byte(i >> 8), byte(i)}), 32), false) {
				return
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
	conf := fw.writeConf()
	debug.FreeOSMemory()
	for _, form := range []string{"", "-v", "--json", "--json -v"} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		lines := &lineCounter{Writer: io.Discard}
		env := fw.env()
		env.Stdout = lines
		if code := Run(context.Background(), append([]string{"--dump-table", "large", "-f", conf}, strings.Fields(form)...), env); code != 0 {
			t.Fatalf("%s: exit code %d", form, code)
		}
		runtime.ReadMemStats(&after)
		if lines.n.Load() < n {
			t.Errorf("%s: %d lines", form, lines.n.Load())
		}
		if grown := after.TotalAlloc - before.TotalAlloc; grown > 200*n {
			t.Errorf("%s: %d bytes allocated for %d entries", form, grown, n)
		}
	}
}

// A failure to write is reported once; that a reader such as head(1) has gone away
// is none.
func TestDumpTableCannotWrite(t *testing.T) {
	fw := newFirewall(t, pfsim.Options{})
	fw.sync(0)
	conf := fw.writeConf()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	defer w.Close()
	fd, err := syscall.Dup(int(w.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	stdout := os.NewFile(uintptr(fd), os.Stdout.Name())
	defer stdout.Close()
	for name, tc := range map[string]struct {
		to   io.Writer
		want string
	}{
		"the reader is gone": {stdout, ""},
		"the disk is full":   {failingWriter{}, "threatstopd: no space left on device\n"},
	} {
		for _, form := range []string{"", "-v", "--json", "--json -v"} {
			var stderr bytes.Buffer
			env := fw.env()
			env.Stdout, env.Stderr = tc.to, &stderr
			if code := Run(context.Background(), append([]string{"--dump-table", "-f", conf}, strings.Fields(form)...), env); code != 1 || stderr.String() != tc.want {
				t.Errorf("%s: %s: exit code %d, %q, want %q", name, form, code, &stderr, tc.want)
			}
		}
	}
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, syscall.ENOSPC }
