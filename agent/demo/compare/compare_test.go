package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.org/threatstopd/capture"
	"example.org/threatstopd/dnsfetch/dnstest"
)

// The scripts leave the list that was served, with any content.
func TestScripts(t *testing.T) {
	for _, tool := range []string{"dig", "sed", "sort"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("no %s here", tool)
		}
	}
	if out, err := exec.Command("sed", "--version").Output(); err != nil || !strings.Contains(string(out), "GNU") {
		t.Skip("the scripts are for GNU sed")
	}
	list := dnstest.List{Name: listName(2000), Entries: policyOf(2000), ItemsPerRecord: 64}
	srv, err := dnstest.Start(dnstest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	if err := srv.Set(list); err != nil {
		t.Fatal(err)
	}
	ways, err := syncWays(t.TempDir(), srv.Addr(), "", list)
	if err != nil {
		t.Fatal(err)
	}
	scripts := ways[:2]
	if err := race(context.Background(), 2, scripts...); err != nil {
		t.Error(err)
	}
	for _, c := range scripts {
		if len(c.runs) != 2 || c.wall()[0] <= 0 {
			t.Errorf("%s: runs %v", c.name, c.runs)
		}
	}
	// The same work, or no comparison.
	list.Entries = list.Entries[1:]
	if err := srv.Set(list); err != nil {
		t.Fatal(err)
	}
	err = race(context.Background(), 1, scripts[0])
	if err == nil || !strings.HasPrefix(err.Error(), "loop: another result: 1999 entries") {
		t.Errorf("a lost entry: %v", err)
	}
}

func TestPolicy(t *testing.T) {
	seen := make(map[dnstest.Entry]bool)
	hosts, v6 := 0, 0
	for _, e := range policyOf(26_424) {
		seen[e] = true
		a := e.Prefix.Addr()
		if e.Prefix != e.Prefix.Masked() || a.IsLoopback() || a.IsPrivate() || a.IsMulticast() || a.IsLinkLocalUnicast() {
			t.Errorf("entry %v", e)
		}
		if e.Prefix.IsSingleIP() {
			hosts++
		}
		if a.Is6() {
			v6++
		}
	}
	if len(seen) != 26_424 || hosts < 20_000 || hosts > 26_000 || v6 < 100 || v6 > 2000 {
		t.Errorf("%d different entries, %d hosts, %d IPv6", len(seen), hosts, v6)
	}
}

// Every packet has a line of its own that names both its ends.
func TestPflog(t *testing.T) {
	var file, out bytes.Buffer
	if err := pflog(&file, 5000); err != nil {
		t.Fatal(err)
	}
	f, err := capture.NewFileReader(&file)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := capture.Print(&out, f, time.UTC); n != 5000 || err != nil {
		t.Fatal(n, err)
	}
	counts := make(map[string]int)
	for line := range strings.Lines(out.String()) {
		if e := ends(line); e == line || !strings.HasPrefix(line, e[:15]) {
			t.Fatalf("ends of %q: %q", line, e)
		}
		for _, kind := range []string{": S ", " ack ", ": udp ", "icmp", "[|", "2001:db8:", " out on "} {
			if strings.Contains(line, kind) {
				counts[kind]++
			}
		}
	}
	for kind, n := range counts {
		if n < 100 {
			t.Errorf("%d lines with %q", n, kind)
		}
	}
	if len(counts) != 7 {
		t.Errorf("kinds of lines: %v", counts)
	}
}

func TestSameText(t *testing.T) {
	if _, err := exec.LookPath("printf"); err != nil {
		t.Skip("no printf here")
	}
	const two = "1 rule 0: 1.2.3.4.5 > 6.7.8.9.10: udp 3\n2 IP 1::2 > 3::4: icmp6\n"
	for _, tt := range []struct{ name, theirs, ours, want string }{
		{"same", two, strings.ReplaceAll(two, "udp", "UDP, length"), ""},
		{"one less", two, "1 x 1.2.3.4.5 > 6.7.8.9.10: x\n", "has more than 1 lines"},
		{"one more", two, two + two, "2 lines of 2 packets"},
		{"another port", two, strings.Replace(two, ".10:", ".11:", 1), "line 1 is of"},
		{"another time", two, strings.Replace(two, "2 IP", "3 IP", 1), "line 2 is of"},
	} {
		err := sameText(context.Background(), nil, []string{"printf", tt.theirs}, []string{"printf", tt.ours}, 2)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestTable(t *testing.T) {
	runs := func(ms ...int) *contestant {
		c := &contestant{}
		for _, n := range ms {
			c.runs = append(c.runs, took{wall: time.Duration(n) * time.Millisecond, cpu: time.Duration(n) * time.Millisecond / 2})
		}
		return c
	}
	var out bytes.Buffer
	tab := newTable(&out)
	tab.row("a", runs(300, 100, 200), runs(10, 10, 30, 10), 20)
	tab.row("b", runs(100), runs(10), 20)
	tab.row("c", runs(100), runs(8), 0)
	tab.print()
	for _, want := range []string{
		"a     200.0 (100.0 to 300.0)  10.0 (10.0 to 30.0)  20.0x  20.0x  20x     reached\n",
		"b     100.0 (100.0 to 100.0)  10.0 (10.0 to 10.0)  10.0x  10.0x  20x     below the target\n",
		"c     100.0 (100.0 to 100.0)  8.0 (8.0 to 8.0)     12.5x  12.5x  -       \n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, &out)
		}
	}
}

func TestRace(t *testing.T) {
	order := ""
	way := func(name string) *contestant {
		return &contestant{name: name,
			run:   func(context.Context) (took, error) { order += name; return took{wall: 1}, nil },
			check: func() error { order += "."; return nil }}
	}
	a, b := way("a"), way("b")
	if err := race(context.Background(), 3, a, b); err != nil || order != "a.b.b.a.a.b." || len(a.runs) != 3 {
		t.Errorf("%q, %v", order, err)
	}
	b.check = func() error { return errors.New("no") }
	if err := race(context.Background(), 1, a, b); err == nil || err.Error() != "b: no" {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := race(ctx, 1, a); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestRunRefuses(t *testing.T) {
	there := filepath.Join(t.TempDir(), "there")
	if err := os.WriteFile(there, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args string
		code int
		want string
	}{
		{"--x", 2, "unknown flag"},
		{"x", 2, `unexpected argument "x"`},
		{"--rounds 0", 2, "want more than nothing"},
		{"--agent " + there + ".not --demo " + there, 1, "no such file"},
		{"--help", 0, "--packets"},
	} {
		var out, said bytes.Buffer
		if code := run(context.Background(), strings.Fields(tt.args), &out, &said); code != tt.code || !strings.Contains(said.String(), tt.want) {
			t.Errorf("%s: exit code %d, %q", tt.args, code, said.String())
		}
	}
}
