package main

import (
	"bytes"
	"context"
	"flag"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"example.org/threatstopd/agent/internal/cli"
	"example.org/threatstopd/agent/reporttest"
	"example.org/threatstopd/capture"
	"example.org/threatstopd/capture/capturetest"
	"example.org/threatstopd/dnsfetch/dnstest"
	"example.org/threatstopd/pfioctl/pfsim"
)

var update = flag.Bool("update", false, "write the README's examples anew")

const readme = "../../README.md"

// The README shows what commands print: between these lines stands what they
// really print, on a small policy, with times and addresses made the same.
var example = regexp.MustCompile("(?s)```console\n\\$ threatstopd ([^\n]*)\n(.*?)```\n")

func TestReadme(t *testing.T) {
	s := readmeStage(t)
	text, err := os.ReadFile(readme)
	if os.IsNotExist(err) {
		t.Skip("the README is not on this host")
	}
	if err != nil {
		t.Fatal(err)
	}
	examples := 0
	now := example.ReplaceAllStringFunc(string(text), func(block string) string {
		examples++
		m := example.FindStringSubmatch(block)
		got := s.command(t, m[1])
		if got != m[2] && !*update {
			t.Errorf("threatstopd %s prints\n%s\nthe README has\n%s", m[1], got, m[2])
		}
		return "```console\n$ threatstopd " + m[1] + "\n" + got + "```\n"
	})
	if examples < 3 {
		t.Errorf("the README has %d examples", examples)
	}
	if *update {
		if err := os.WriteFile(readme, []byte(now), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// readmeStage is a firewall with a small policy in force, on which each command
// prints what the README shows.
func readmeStage(t *testing.T) *stage {
	t.Helper()
	s := &stage{out: io.Discard, own: netip.MustParsePrefix("198.51.100.2/24"), dir: t.TempDir(), pflog: capturetest.NewInterface("")}
	s.block = append(made(2, 0xC0000221), made(26420, 0xC6120000)...)
	s.block = append(s.block, made(1, 0xC6336402)...) // the firewall's own address
	s.allow = made(3, 0xCB007101)
	var err error
	if s.server, err = dnstest.Start(dnstest.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.server.Close() })
	if s.collector, err = reporttest.Start(reporttest.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.collector.Close)
	s.kernel = pfsim.New(pfsim.Options{MaxEntries: 200000, Now: readmeClock})
	if err := s.setUp(); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(s.dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w, err := capturetest.NewPcapWriter(f, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range []capturetest.Packet{
		{Dir: capture.In, Src: netip.MustParseAddr("192.0.2.33"), Dst: s.own.Addr(), Proto: capturetest.TCP, SrcPort: 40000, DstPort: 22},
		{Dir: capture.Out, Rule: 1, Src: s.own.Addr(), Dst: netip.MustParseAddr("192.0.2.34"), Proto: capturetest.UDP, SrcPort: 123, DstPort: 40123},
	} {
		p.Time, p.Action, p.Iface = readmeClock().Add(time.Duration(i)*time.Second), capture.ActionBlock, "em0"
		if err := w.Write(&p); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func readmeClock() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

// command runs what stands behind "$ threatstopd ", with "| head -3" if it
// must be, and makes what differs from run to run the same.
func (s *stage) command(t *testing.T, line string) string {
	t.Helper()
	line, pipe, _ := strings.Cut(line, " | ")
	args := strings.Fields(strings.ReplaceAll(line, "/var/log/pflog", filepath.Join(s.dir, "log")))
	var both bytes.Buffer
	env := s.env()
	env.Stdout, env.Stderr, env.Now, env.Local = &both, &both, readmeClock, time.UTC
	cli.Run(context.Background(), append(args, "-f", s.conf), env)
	text := strings.NewReplacer(s.server.Addr(), "192.0.2.53:53", s.dir, "/var/db", "threatstopd devel", "threatstopd v1.0.0").Replace(both.String())
	if pipe == "head -3" {
		text = strings.Join(strings.SplitAfter(text, "\n")[:3], "")
	}
	return text
}
