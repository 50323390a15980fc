package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"example.org/threatstopd/dnsfetch"
)

func write(t *testing.T, path string, lines ...string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// command is a running policyserver.
type command struct {
	t      *testing.T
	addr   string
	hup    chan os.Signal
	out    *bufio.Reader
	errors *bufio.Reader
	stop   context.CancelFunc
	code   chan int
}

func begin(t *testing.T, stdin string, args ...string) *command {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	c := &command{t: t, hup: make(chan os.Signal), stop: stop, code: make(chan int, 1)}
	outr, outw := io.Pipe()
	errr, errw := io.Pipe()
	c.out, c.errors = bufio.NewReader(outr), bufio.NewReader(errr)
	go func() {
		c.code <- run(ctx, c.hup, args, strings.NewReader(stdin), outw, errw)
		outw.Close()
		errw.Close()
	}()
	t.Cleanup(func() { stop(); outr.Close(); errr.Close() })
	first := c.line()
	addr, ok := strings.CutPrefix(first, "listening on ")
	if !ok {
		t.Fatalf("first line %q", first)
	}
	c.addr = addr
	return c
}

func (c *command) line() string {
	c.t.Helper()
	s, err := c.out.ReadString('\n')
	if err != nil {
		c.t.Fatal(err)
	}
	return strings.TrimSuffix(s, "\n")
}

func (c *command) fetch(name string) []string {
	c.t.Helper()
	client, err := dnsfetch.New(dnsfetch.Options{Servers: []string{c.addr}, Siblings: []string{"b1", "b2"}})
	if err != nil {
		c.t.Fatal(err)
	}
	l, err := client.Fetch(context.Background(), dnsfetch.Request{Name: name, AllowEmpty: true})
	if err != nil {
		c.t.Fatal(err)
	}
	var out []string
	for _, e := range slices.Concat(l.Chunks...) {
		out = append(out, e.String())
	}
	slices.Sort(out)
	return out
}

func TestServe(t *testing.T) {
	dir := t.TempDir()
	block := write(t, filepath.Join(dir, "block"), "# a list", "192.0.2.0/24", "!192.0.2.1", "2001:db8::/32")
	hosts := write(t, filepath.Join(dir, "hosts"), "192.0.2.3", "192.0.2.4", "192.0.2.5")
	c := begin(t, "10.0.0.0/8\n", "--list", "block.example="+block, "--list", "allow.example=apl:"+os.DevNull,
		"--list", "b.example=addresses:"+hosts, "--list", "in.example=apl:-", "--siblings", "b1,b2", "--part-size", "1")
	for _, want := range []string{
		"list block.example: 3 entries, PTR+APL",
		"list allow.example: 0 entries, APL",
		"list b.example: 3 entries, A+AAAA",
		"list in.example: 1 entries, APL",
	} {
		if got := c.line(); got != want {
			t.Errorf("printed %q, want %q", got, want)
		}
	}
	for name, want := range map[string][]string{
		"block.example": {"!192.0.2.1/32", "192.0.2.0/24", "2001:db8::/32"},
		"allow.example": nil,
		"b.example":     {"192.0.2.3/32", "192.0.2.4/32", "192.0.2.5/32"},
		"in.example":    {"10.0.0.0/8"},
	} {
		if got := c.fetch(name); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	c.stop()
	if code := <-c.code; code != exitOK {
		t.Errorf("exit code %d", code)
	}
}

func TestHangupReadsAgain(t *testing.T) {
	file := write(t, filepath.Join(t.TempDir(), "block"), "192.0.2.1")
	c := begin(t, "", "--list", "block.example="+file)
	c.line()
	write(t, file, "192.0.2.2", "192.0.2.3")
	c.hup <- syscall.SIGHUP
	if got := c.line(); got != "list block.example: 2 entries, PTR+APL" {
		t.Errorf("printed %q", got)
	}
	want := []string{"192.0.2.2/32", "192.0.2.3/32"}
	if got := c.fetch("block.example"); !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
	write(t, file, "192.0.2.4", "oops")
	c.hup <- syscall.SIGHUP
	got, err := c.errors.ReadString('\n')
	if err != nil || !strings.Contains(got, `block:2: "oops" is no prefix`) || !strings.Contains(got, "stay as they were") {
		t.Errorf("printed %q, %v", got, err)
	}
	if got := c.fetch("block.example"); !slices.Equal(got, want) {
		t.Errorf("%v after a bad file", got)
	}
}

func TestVerbose(t *testing.T) {
	file := write(t, filepath.Join(t.TempDir(), "block"), "192.0.2.1")
	c := begin(t, "", "--list", "block.example="+file, "-v", "--allow-from", "127.0.0.1")
	c.line()
	c.fetch("block.example")
	for {
		line := c.line()
		if strings.Contains(line, " tcp 001-netb.block.example. APL: NOERROR, 1 records, ") {
			break
		}
	}
}

func TestZone(t *testing.T) {
	dir := t.TempDir()
	block := write(t, filepath.Join(dir, "block"), "192.0.2.0/24", "!192.0.2.1")
	zone := filepath.Join(dir, "zone")
	var out, errs bytes.Buffer
	args := []string{"--list", "block.a.example=" + block, "--zone", zone, "--serial", "77", "--items", "1"}
	if code := run(context.Background(), nil, args, nil, &out, &errs); code != exitOK {
		t.Fatalf("exit code %d: %s", code, &errs)
	}
	b, err := os.ReadFile(zone)
	if err != nil {
		t.Fatal(err)
	}
	want := `a.example.	7200	IN	SOA	ns.a.example. hostmaster.a.example. 77 7200 900 604800 300
a.example.	7200	IN	NS	ns.a.example.
ns.a.example.	7200	IN	A	127.0.0.1
block.a.example.	7200	IN	PTR	001-netb.block.a.example.
001-netb.block.a.example.	7200	IN	APL	1:192.0.2.0/24
001-netb.block.a.example.	7200	IN	APL	!1:192.0.2.1/32
`
	if string(b) != want {
		t.Errorf("wrote\n%s\nwant\n%s", b, want)
	}
	args = []string{"--list", "block.a.example=" + block, "--zone", "-", "--serial", "77", "--items", "1", "--origin", "a.example"}
	if code := run(context.Background(), nil, args, nil, &out, &errs); code != exitOK || out.String() != want {
		t.Errorf("exit code %d: %s%s", code, &out, &errs)
	}
}

func TestRefusals(t *testing.T) {
	dir := t.TempDir()
	good := write(t, filepath.Join(dir, "good"), "192.0.2.0/24")
	bad := write(t, filepath.Join(dir, "bad"), "192.0.2.0/24", "192.0.2.1/24")
	tests := []struct {
		name string
		args []string
		code int
		want string
	}{
		{"no list", nil, exitUsage, "no --list given"},
		{"help", []string{"--help"}, exitOK, "usage: policyserver --list NAME=[LAYOUT:]FILE"},
		{"an argument", []string{"--list", "a.example=" + good, "x"}, exitUsage, `unexpected argument "x"`},
		{"an unknown flag", []string{"--lists", "x"}, exitUsage, "unknown flag: --lists"},
		{"a list without a file", []string{"--list", "block.example"}, exitUsage, "--list block.example: not NAME=[LAYOUT:]FILE"},
		{"a list without a name", []string{"--list", "=" + good}, exitUsage, "not NAME=[LAYOUT:]FILE"},
		{"an unknown layout", []string{"--list", "a.example=" + good, "--layout", "txt"}, exitUsage, "--layout txt: not one of parts, apl, addresses"},
		{"a negative size", []string{"--list", "a.example=" + good, "--part-size", "-1"}, exitUsage, "cannot be negative"},
		{"not a network", []string{"--list", "a.example=" + good, "--allow-from", "home"}, exitUsage, "--allow-from home: not an address or network"},
		{"no such file", []string{"--list", "a.example=" + filepath.Join(dir, "none")}, exitFailed, "none: "},
		{"a bad line", []string{"--list", "a.example=" + bad}, exitFailed,
			fmt.Sprintf("policyserver: %s:2: \"192.0.2.1/24\" has host bits set; 192.0.2.0/24 is meant", bad)},
		{"a list that cannot be served", []string{"--list", "a.example=addresses:" + good}, exitFailed, "cannot be an address record"},
		{"an address to listen on that is none", []string{"--list", "a.example=" + good, "--listen", "nowhere"}, exitFailed, "nowhere"},
		{"a list outside the zone", []string{"--list", "a.example=" + good, "--zone", "-", "--origin", "org"}, exitFailed, "is not below the zone org"},
		{"a zone that cannot be written", []string{"--list", "a.example=" + good, "--zone", dir}, exitFailed, dir},
		{"a zone that would be wrong", []string{"--list", "ns.example=" + good, "--zone", filepath.Join(dir, "zone")}, exitFailed, "belongs to the zone"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out, errs bytes.Buffer
			code := run(context.Background(), nil, tt.args, strings.NewReader(""), &out, &errs)
			if code != tt.code || !strings.Contains(errs.String(), tt.want) {
				t.Errorf("exit code %d and %q, want %d and %q", code, &errs, tt.code, tt.want)
			}
		})
	}
	if _, err := os.Stat(filepath.Join(dir, "zone")); err == nil {
		t.Error("a zone that is wrong was left behind")
	}
}
