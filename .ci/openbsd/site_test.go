package openbsd

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"example.org/threatstopd/agent/reporttest"
	"example.org/threatstopd/dnsfetch/dnstest"
)

// Names that only these tests use.
const (
	block   = "threatstopd_test_block"
	allow   = "threatstopd_test_allow"
	anchor  = "threatstopd-test"
	service = "threatstopd_test"
)

// changing is held while something on the host is listed and made, so that a signal
// does not end the process between the two, or before the program that makes it ends.
var changing sync.Mutex

func TestMain(m *testing.M) {
	flag.Parse()
	if os.Getenv("THREATSTOP_WORK") == "" {
		flag.Set("test.parallel", "8") // TestRun waits more than it works
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	go func() {
		<-stop
		changing.Lock()
		os.Exit(3)
	}()
	os.Exit(m.Run())
}

func TestHost(t *testing.T) {
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) { c.run(newSite(t)) })
	}
}

// site is the host, and what a case has on it.
type site struct {
	*testing.T
	here   string // the archive
	work   string // the script's directory
	dir    string // the case's own
	conf   string
	user   string // whom the roles become
	dns    *dnstest.Server
	logs   *reporttest.Collector
	daemon *process
	pflog  string
	// near and far are the rdomains at the two ends of a pair(4).
	near, far int
}

// newSite skips the case where the kernel may not be worked on.
func newSite(t *testing.T) *site {
	s := &site{T: t, work: os.Getenv("THREATSTOP_WORK"), dir: os.Getenv("TMPDIR")}
	if s.work == "" {
		t.Skip("run by the script of the archive for OpenBSD")
	}
	switch {
	case s.must("uname", "-s") != "OpenBSD\n":
		s.skip("not OpenBSD")
	case s.must("id", "-u") != "0\n":
		s.skip("needs root")
	case os.Getenv("THREATSTOP_INTEGRATION") != "1":
		s.skip("THREATSTOP_INTEGRATION=1 is not set")
	}
	if text, code := s.run("pfctl", "-s", "info"); code != 0 {
		s.skip("/dev/pf cannot be used: %s", text)
	}
	var err error
	if s.here, err = os.Getwd(); err != nil {
		t.Fatal(err)
	}
	s.conf = filepath.Join(s.dir, "conf")
	s.user = "nobody"
	if _, code := s.run("id", "_threatstop"); code == 0 {
		s.user = "_threatstop"
	}
	return s
}

// skip ends the case; the script prints why.
func (s *site) skip(format string, args ...any) {
	fmt.Printf("skip: %s\n", strings.TrimSpace(fmt.Sprintf(format, args...)))
	s.SkipNow()
}

// note has the script print something behind the case's name.
func (s *site) note(format string, args ...any) { fmt.Printf("note: "+format+"\n", args...) }

// run runs a program to its end and returns what it printed and its exit status, -1
// if it was not started or killed.
func (s *site) run(name string, args ...string) (string, int) {
	changing.Lock()
	defer changing.Unlock()
	return s.command(exec.Command(name, args...))
}

func (s *site) command(c *exec.Cmd) (string, int) {
	began := time.Now()
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	c.WaitDelay = 5 * time.Second // what a daemon that it has started keeps open
	code := 0
	var exit *exec.ExitError
	if err := c.Run(); errors.Is(err, exec.ErrWaitDelay) {
		s.Logf("%s leaves a process with its output", c.Path)
	} else if errors.As(err, &exit) {
		code = exit.ExitCode()
	} else if err != nil {
		out.WriteString(err.Error())
		code = -1
	}
	shown := out.String()
	if len(shown) > 3000 {
		shown = shown[:1500] + "\n[...]\n" + shown[len(shown)-1500:]
	}
	s.Logf("%s: exit status %d, %v\n%s", strings.Join(c.Args, " "), code, time.Since(began).Round(time.Millisecond), shown)
	return out.String(), code
}

// must is run for a program that has to succeed.
func (s *site) must(name string, args ...string) string {
	s.Helper()
	text, code := s.run(name, args...)
	if code != 0 {
		s.Fatalf("%s: exit status %d", name, code)
	}
	return text
}

func (s *site) threatstopd(args ...string) (string, int) {
	return s.run(filepath.Join(s.here, "bin/threatstopd"), args...)
}

// own lists something that is about to be made, for the script to remove. It must not
// exist yet. Kinds are those of remove in the script.
func (s *site) own(kind, name, more string) {
	s.Helper()
	exists := false
	switch kind {
	case "interface":
		_, code := s.run("ifconfig", name)
		exists = code == 0
	case "file":
		_, err := os.Lstat(name)
		exists = !errors.Is(err, os.ErrNotExist)
	case "table":
		args := []string{"-t", name, "-T", "show"}
		if more != "" {
			args = append([]string{"-a", more}, args...)
		}
		_, code := s.run("pfctl", args...)
		exists = code == 0
	}
	if exists {
		s.Fatalf("%s %s exists already: remove it, if it is left from an earlier run", kind, name)
	}
	changing.Lock()
	defer changing.Unlock()
	s.list(kind, name, more)
}

// list appends to the script's list. The caller holds changing.
func (s *site) list(kind, name, more string) {
	f, err := os.OpenFile(filepath.Join(s.work, "made"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = fmt.Fprintln(f, kind, name, more)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		s.Fatal(err)
	}
}

// process is a program that runs beside the case.
type process struct {
	*exec.Cmd
	file string // what it prints
	done chan struct{}
}

// start starts a program. Mark is a part of its command line that distinguishes it from others.
func (s *site) start(mark, name string, args ...string) *process {
	s.Helper()
	p := &process{Cmd: exec.Command(name, args...), done: make(chan struct{})}
	f, err := os.CreateTemp(s.dir, "out.*")
	if err != nil {
		s.Fatal(err)
	}
	defer f.Close()
	p.file, p.Stdout, p.Stderr = f.Name(), f, f
	if _, err := p.StdinPipe(); err != nil { // open and silent until the case ends
		s.Fatal(err)
	}
	changing.Lock()
	defer changing.Unlock()
	if err := p.Start(); err != nil {
		s.Fatal(err)
	}
	s.list("process", strconv.Itoa(p.Process.Pid), mark)
	go func() { p.Wait(); close(p.done) }()
	return p
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

func (p *process) text() string {
	text, _ := os.ReadFile(p.file)
	return string(text)
}

// end sends SIGTERM and waits.
func (s *site) end(p *process) {
	s.Helper()
	p.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(patience(60)):
		s.Fatalf("%s does not end", p.Path)
	}
}

// patience is a number of seconds; THREATSTOP_WAIT, in seconds, bounds it.
func patience(seconds int) time.Duration {
	if most, err := strconv.Atoi(os.Getenv("THREATSTOP_WAIT")); err == nil {
		seconds = min(seconds, most)
	}
	return time.Duration(seconds) * time.Second
}

// until waits as long as the daemon, if there is one, lives.
func (s *site) until(seconds int, what string, ok func() bool) {
	s.Helper()
	for end := time.Now().Add(patience(seconds)); !ok(); time.Sleep(200 * time.Millisecond) {
		if s.daemon != nil && s.daemon.ended() {
			s.Fatalf("waiting for: %s: the daemon has ended: %v\n%s", what, s.daemon.ProcessState, s.daemon.text())
		}
		if time.Now().After(end) {
			if s.daemon != nil {
				s.Log(s.daemon.text())
			}
			s.Fatalf("not within %d s: %s", seconds, what)
		}
	}
}

// listed are the entries of the block list. The networks are those for documentation,
// which no host has.
func listed(more ...string) []string {
	return append([]string{"198.51.100.0/24", "!198.51.100.9", "203.0.113.7", "203.0.113.8/29", "2001:db8::7", "2001:db8:1::/48"}, more...)
}

// serve starts the policy server, or gives it another block list.
func (s *site) serve(entries []string) {
	s.Helper()
	if _, code := s.threatstopd("--status"); code != 3 && s.daemon == nil {
		s.skip("threatstopd runs on this host: it would answer instead")
	}
	var err error
	if s.dns == nil {
		if s.dns, err = dnstest.Start(dnstest.Options{}); err != nil {
			s.Fatal(err)
		}
	}
	list, err := dnstest.ReadPrefixes(strings.NewReader(strings.Join(entries, "\n")), "block")
	if err != nil {
		s.Fatal(err)
	}
	if err := s.dns.Set(dnstest.List{Name: "block.test.example", Entries: list},
		dnstest.List{Name: "allow.test.example", Entries: []dnstest.Entry{{Prefix: netip.MustParsePrefix("192.0.2.1/32")}}}); err != nil {
		s.Fatal(err)
	}
}

func (s *site) file(name string) string { return filepath.Join(s.dir, "db", name) }

// configure writes a configuration that touches nothing of the host's own; settings,
// KEY=value each, come before the defaults.
func (s *site) configure(settings ...string) {
	s.Helper()
	if err := os.MkdirAll(s.file(""), 0o755); err != nil {
		s.Fatal(err)
	}
	for _, line := range []string{
		"device_id=tdid_test", "DNS_SERVERS=" + s.dns.Addr(), "BLOCK_LISTS=block.test.example", "ALLOW_LISTS=allow.test.example",
		"OUT_DIR=" + s.file(""), "BLOCK_FILE=" + s.file("block.pftable"), "ALLOW_FILE=" + s.file("allow.pftable"),
		"BLOCK_TABLE=" + block, "ALLOW_TABLE=" + allow, "RELOAD_PF=yes", "SPOOL_DIR=" + filepath.Join(s.dir, "spool"), "USER=" + s.user,
	} {
		key, _, _ := strings.Cut(line, "=")
		if !slices.ContainsFunc(settings, func(set string) bool { return strings.HasPrefix(set, key+"=") }) {
			settings = append(settings, line)
		}
	}
	if err := os.WriteFile(s.conf, []byte(strings.Join(settings, "\n")+"\n"), 0o600); err != nil {
		s.Fatal(err)
	}
}

// sync has the lists put in force, and returns what --sync-now printed.
func (s *site) sync() string {
	s.Helper()
	text, code := s.threatstopd("--sync-now", "-v", "-f", s.conf)
	if code != 0 {
		s.Fatalf("--sync-now: exit status %d", code)
	}
	return text
}

// synced is a site whose tables hold the lists.
func (s *site) synced(settings ...string) {
	s.Helper()
	s.serve(listed())
	s.configure(append(settings, "UPLOAD=no")...)
	s.tables()
	s.sync()
}

func (s *site) tables() {
	s.own("table", block, "")
	s.own("table", allow, "")
}

// inPF returns the lines of a table as pfctl prints them, sorted, without blanks.
func (s *site) inPF(table string) []string {
	text, _ := s.run("pfctl", "-t", table, "-T", "show")
	return fields(text)
}

func fields(text string) []string {
	var out []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			out = append(out, line)
		}
	}
	slices.Sort(out)
	return out
}

func (s *site) same(what string, want, have []string) {
	s.Helper()
	slices.Sort(want)
	if !slices.Equal(want, have) {
		s.Fatalf("%s: %q, want %q", what, have, want)
	}
}

// enforced compares the kernel, as pfctl and threatstopd see it, and the table file with
// the list.
func (s *site) enforced(want []string) {
	s.Helper()
	pfctl := s.must("pfctl", "-t", block, "-T", "show")
	if dump, code := s.threatstopd("--dump-table", "-f", s.conf); code != 0 || dump != pfctl {
		s.Fatalf("--dump-table: exit status %d, not what pfctl -T show prints", code)
	}
	s.same("the table", want, fields(pfctl))
	file, err := os.ReadFile(s.file("block.pftable"))
	if err != nil {
		s.Fatal(err)
	}
	s.same("the table file", want, fields(string(file)))
}

func (s *site) status() string {
	text, code := s.threatstopd("--status")
	if code == 3 {
		return ""
	}
	return text
}

// runDaemon runs the daemon, traced or not: under ktrace(1), which its roles inherit,
// violations of pledge(2) and what is executed are recorded.
func (s *site) runDaemon(traced bool) {
	s.Helper()
	argv := []string{filepath.Join(s.here, "bin/threatstopd"), "-d", "-f", s.conf}
	if traced {
		argv = append([]string{"ktrace", "-i", "-t", "px", "-f", filepath.Join(s.dir, "ktrace.out")}, argv...)
	}
	s.daemon = s.start("-f "+s.conf, argv[0], argv[1:]...)
	s.until(120, "the daemon answers", func() bool { return s.status() != "" })
	s.until(60, "all roles run", func() bool { return s.roles() })
}

// family maps the names of the daemon's processes to their lines of ps(1).
func (s *site) family(columns string) map[string][]string {
	text := s.must("ps", "-axww", "-o", "pid,ppid,"+columns+",command")
	found := map[string][]string{}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		at := 2 + strings.Count(columns, ",") + 1
		switch {
		case s.daemon == nil || len(f) <= at:
		case f[0] == strconv.Itoa(s.daemon.Process.Pid):
			found["main"] = f
		case f[1] == strconv.Itoa(s.daemon.Process.Pid) && f[at] == "threatstopd:":
			found[f[at+1]] = f
		}
	}
	return found
}

func (s *site) roles() bool {
	found, want := s.family("stat"), []string{"main", "fetch", "report"}
	conf, _ := os.ReadFile(s.conf)
	if bytes.Contains(conf, []byte("KILL_STATES=yes")) {
		want = append(want, "states")
	}
	for _, name := range want {
		if found[name] == nil {
			return false
		}
	}
	return true
}

// endDaemon ends it as rc.d does: all of it ends.
func (s *site) endDaemon(traced bool) {
	s.Helper()
	family := s.family("stat")
	s.end(s.daemon)
	s.Log(s.daemon.text())
	if code := s.daemon.ProcessState.ExitCode(); code != 0 {
		s.Fatalf("the daemon's exit status is %d", code)
	}
	s.daemon = nil
	if s.status() != "" {
		s.Fatal("--status is still answered")
	}
	for name, f := range family {
		s.until(30, name+" ends", func() bool {
			text, _ := s.run("ps", "-o", "stat=", "-p", f[0])
			return text == "" || text[0] == 'Z'
		})
	}
	if traced {
		s.unbroken(family)
	}
}

var promiseBroken = regexp.MustCompile(`(?m)^.* PLDG .*\n.*`)

// unbroken reads the trace: each role was traced, and none did what it had pledged not to do.
func (s *site) unbroken(family map[string][]string) {
	s.Helper()
	text := s.must("kdump", "-t", "px", "-f", filepath.Join(s.dir, "ktrace.out"))
	if broken := promiseBroken.FindString(text); broken != "" {
		s.Fatalf("a promise was broken: %s", broken)
	}
	for name := range family {
		if name != "main" && !strings.Contains(text, `"threatstopd: `+name) {
			s.Errorf("role %s was not traced", name)
		}
	}
}

// collect starts the log server and returns the settings of a daemon that reports to it.
func (s *site) collect(settings ...string) []string {
	s.Helper()
	var err error
	if s.logs, err = reporttest.Start(reporttest.Options{}); err != nil {
		s.Fatal(err)
	}
	ca, spool := filepath.Join(s.dir, "ca.pem"), filepath.Join(s.dir, "spool")
	if err := s.logs.WriteCA(ca); err != nil {
		s.Fatal(err)
	}
	if err := os.Mkdir(spool, 0o700); err != nil {
		s.Fatal(err)
	}
	s.must("chown", s.user, spool)
	return append(settings, `url="`+s.logs.URL()+`"`, "CA_FILE="+ca, "UPLOAD_INTERVAL=1s")
}

// arrived returns the lines that the log server has, sorted.
func (s *site) arrived() []string {
	var lines []string
	for _, r := range s.logs.Receipts() {
		if r.Device != "tdid_test" {
			s.Errorf("batch %s is of device %q", r.Batch, r.Device)
		}
		lines = append(lines, r.Lines()...)
	}
	slices.Sort(lines)
	return lines
}

// about counts the lines of packets to or from an address.
func about(lines []string, addr string) (n int) {
	a := regexp.QuoteMeta(addr)
	far := regexp.MustCompile(` > ` + a + `[.: ]| ` + a + `(\.[0-9]+)? > `)
	for _, line := range lines {
		if far.MatchString(line) {
			n++
		}
	}
	return n
}
