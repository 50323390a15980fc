package openbsd

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"example.org/threatstopd/pfioctl"
)

// The build lists the names of the cases from these lines.
var cases = []struct {
	name string
	run  func(*site)
}{
	{"kernel/transcripts", transcripts},
	{"kernel/pflog", kernelPflog},
	{"sync/configuration", configuration},
	{"sync/first", first},
	{"sync/again", again},
	{"sync/drift", drift},
	{"sync/table-file", tableFile},
	{"sync/limit", limit},
	{"sync/const", constTable},
	{"daemon/keep", keep},
	{"daemon/mend", mend},
	{"daemon/servers-down", serversDown},
	{"daemon/boot", boot},
	{"upload/backlog", func(s *site) { backlog(s, false) }},
	{"live/lines", lines},
	{"live/hits", func(s *site) { hits(s, false) }},
	{"live/states", states},
	{"live/vendor", vendor},
	{"scale/120430", func(s *site) { scale(s, 120430) }},
	{"scale/1000000", func(s *site) { scale(s, 1000000) }},
	{"scale/setaddrs", setAddrs},
	{"service/rcctl", rcService},
	{"install/tree", installTree},
	{"confined/in-force", inForce},
	{"confined/attempts", attempts},
	{"confined/life", life},
	{"confined/backlog", func(s *site) { backlog(s, true) }},
	{"confined/hits", func(s *site) { hits(s, true) }},
	{"confined/syslogd", syslogd},
	{"bench", bench},
}

// other runs tests of another package's binary that work on the kernel.
func (s *site) other(dir, pattern string) {
	s.Helper()
	dir = filepath.Join(s.here, dir)
	text, code := s.run("sh", "-c", `cd "$1" && exec "./$2.test" -test.v -test.timeout 60m -test.run "$3"`, "sh", dir, filepath.Base(dir), pattern)
	skipped := regexp.MustCompile(`(?m)^ *--- SKIP: (\S+)(?:.*\n +\S+\.go:\d+: (.*))?`).FindAllStringSubmatch(text, -1)
	switch {
	case code != 0:
		s.Fatalf("%s: exit status %d\n%s", pattern, code, text)
	case !strings.Contains(text, "--- PASS: ") && len(skipped) > 0:
		s.skip("%s", skipped[0][2])
	case !strings.Contains(text, "--- PASS: "):
		s.Fatalf("no test %s", pattern)
	case len(skipped) > 0:
		s.note("without %d tests: %s", len(skipped), skipped[0][2])
	}
}

// transcripts asks the kernel what the transcripts recorded, where that is harmless.
func transcripts(s *site) {
	s.own("transcripts", "all", "")
	s.other("pfioctl/pfsim", "^TestRunningKernel$")
}

// kernelPflog lets package capture make, read and destroy a pflog interface: the
// highest that does not exist, as ownPflog chooses it.
func kernelPflog(s *site) {
	s.ownPflog(false)
	os.Setenv("THREATSTOPD_LIVE", "1")
	s.other("capture", "^TestLive$")
	if _, code := s.run("ifconfig", s.pflog); code == 0 {
		s.Errorf("%s is left", s.pflog)
	}
}

func configuration(s *site) {
	s.serve(listed())
	s.configure("UPLOAD=no")
	text, code := s.threatstopd("-n", "-f", s.conf)
	if code != 0 {
		s.Fatalf("-n: exit status %d", code)
	}
	for _, want := range []string{"DNS_SERVERS.*" + s.dns.Addr(), "BLOCK_TABLE.*" + block, "BLOCK_FILE.*" + s.file("block.pftable"), "UPLOAD=no"} {
		if !regexp.MustCompile("(?m)^" + want).MatchString(text) {
			s.Errorf("-n does not print %s", want)
		}
	}
}

func first(s *site) {
	s.synced()
	s.enforced(listed())
	s.same("the allow table", []string{"192.0.2.1"}, s.inPF(allow))
}

// again: an unchanged policy is not written, neither to pf nor to the files.
func again(s *site) {
	s.synced()
	before := s.must("ls", "-li", s.file("block.pftable"), s.file("allow.pftable"))
	if text := s.sync(); !strings.Contains(text, "Table "+block+": unchanged, 6 entries") {
		s.Error("not reported as unchanged")
	}
	if s.must("ls", "-li", s.file("block.pftable"), s.file("allow.pftable")) != before {
		s.Error("a file was written")
	}
	s.enforced(listed())
}

func drift(s *site) {
	s.synced()
	s.must("pfctl", "-t", block, "-T", "replace", "192.0.2.99")
	s.same("the table after pfctl", []string{"192.0.2.99"}, s.inPF(block))
	s.sync()
	s.enforced(listed())
}

// tableFile: the file loads as a pf.conf loads it at boot, here into an anchor.
func tableFile(s *site) {
	s.synced()
	const loaded = "threatstopd_test_file"
	conf := filepath.Join(s.dir, "pf.conf")
	s.write(conf, fmt.Sprintf("table <%s> persist file \"%s\"\n", loaded, s.file("block.pftable")))
	s.must("pfctl", "-nf", conf)
	s.own("table", loaded, anchor)
	s.must("pfctl", "-a", anchor, "-f", conf)
	s.same("the table that pfctl loads", listed(), fields(s.must("pfctl", "-a", anchor, "-t", loaded, "-T", "show")))
}

func (s *site) write(name, text string) {
	s.Helper()
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		s.Fatal(err)
	}
}

// entryLimit is pf's limit of table entries.
func (s *site) entryLimit() int {
	m := regexp.MustCompile(`(?m)^table-entries .* (\d+)$`).FindStringSubmatch(s.must("pfctl", "-s", "memory"))
	if m == nil {
		s.Fatal("pfctl prints no limit of table entries")
	}
	n, _ := strconv.Atoi(m[1])
	return n
}

// many are n entries, ascending, none of which could be merged with another.
func many(n int) []string {
	out := make([]string, n)
	for i := range out {
		a := 45<<24 + 2*i
		out[i] = fmt.Sprintf("%d.%d.%d.%d", a>>24, a>>16&255, a>>8&255, a&255)
	}
	return out
}

// limit: a list that does not fit is refused, and the policy in force stays.
func limit(s *site) {
	n := s.entryLimit()
	if n > 500000 {
		s.skip("the limit of table entries, %d, is too high to try", n)
	}
	b := newBenchTable(s)
	a := b.array(many(n + 1))
	_, err := b.pf.SetAddrs(b.name, a)
	a.Close()
	b.clear()
	if err == nil {
		s.skip("pf takes more than its limit of %d entries: this release enforces only a limit that pf.conf has changed", n)
	}
	s.synced()
	s.serve(many(n + 1))
	text, code := s.threatstopd("--sync-now", "-f", s.conf)
	if code != 1 || !strings.Contains(text, fmt.Sprintf("limit %d", n)) {
		s.Errorf("exit status %d, or the limit %d is not named", code, n)
	}
	s.enforced(listed())
}

// constTable: a table that is const stays as it is, and the owner reads why. pfctl makes
// such tables only with a whole ruleset.
func constTable(s *site) {
	const name = "threatstopd_test_const"
	s.own("table", name, "")
	s.own("table", allow, "")
	pf, err := pfioctl.Open()
	if err != nil {
		s.Fatal(err)
	}
	defer pf.Close()
	if _, err := pf.AddTables(pfioctl.TableConst, pfioctl.Table{Name: name}); err != nil {
		s.Fatal(err)
	}
	s.serve(listed())
	s.configure("UPLOAD=no", "BLOCK_TABLE="+name)
	text, code := s.threatstopd("--sync-now", "-f", s.conf)
	if code != 1 || !regexp.MustCompile("(?m)^threatstopd: .*"+name+": .*the table is const").MatchString(text) {
		s.Errorf("exit status %d, or not reported that the table is const", code)
	}
	s.same("the const table", nil, s.inPF(name))
	if file, err := os.ReadFile(s.file("block.pftable")); err == nil && len(fields(string(file))) > 0 {
		s.Errorf("the file has what pf does not have: %s", file)
	}
}

// keep: the daemon keeps the table, and leaves it when it ends.
func keep(s *site) {
	s.synced()
	s.runDaemon(false)
	s.must("pfctl", "-t", block, "-T", "replace", "192.0.2.99")
	s.sync()
	s.enforced(listed())
	s.endDaemon(false)
	s.enforced(listed())
}

// mend: the daemon finds by itself what pfctl changes, and repairs it.
func mend(s *site) {
	s.synced("FULL_CHECK=1m")
	s.runDaemon(false)
	s.sync()
	s.must("pfctl", "-t", block, "-T", "delete", "203.0.113.7")
	s.must("pfctl", "-t", block, "-T", "add", "192.0.2.99")
	s.until(300, "the table is repaired", func() bool { return slices.Equal(s.inPF(block), fields(strings.Join(listed(), "\n"))) })
	s.enforced(listed())
	s.until(30, "the repair is logged", func() bool { return strings.Contains(s.daemon.text(), "drift mended") })
	s.endDaemon(false)
}

// serversDown: a daemon that is reloaded, and one that is started, while no policy server
// answers live on, and what is in force stays.
func serversDown(s *site) {
	s.synced()
	s.runDaemon(false)
	s.sync()
	s.dns.Down()
	s.reload()
	time.Sleep(patience(75)) // over the watch on pf, which comes each minute
	s.until(60, "the reloaded daemon answers", func() bool { return s.status() != "" })
	s.enforced(listed())
	s.endDaemon(false)
	s.runDaemon(false)
	time.Sleep(patience(75))
	s.enforced(listed())
	s.comesUp()
	s.endDaemon(false)
}

// comesUp starts the policy server again and has the daemon fetch from it.
func (s *site) comesUp() {
	s.Helper()
	if err := s.dns.Up(); err != nil {
		s.Fatal(err)
	}
	s.serve(listed("203.0.113.200"))
	s.sync()
	s.enforced(listed("203.0.113.200"))
}

func (s *site) reload() {
	s.Helper()
	n := strings.Count(s.daemon.text(), "configuration read again")
	s.daemon.Process.Signal(syscall.SIGHUP)
	s.until(60, "the configuration is read again", func() bool { return strings.Count(s.daemon.text(), "configuration read again") > n })
}

// boot: after a reboot pf has the table from its file, and the daemon starts before
// a policy server can be reached.
func boot(s *site) {
	s.synced()
	s.dns.Down()
	s.must("pfctl", "-t", block, "-T", "kill")
	s.must("pfctl", "-t", block, "-T", "add", "-f", s.file("block.pftable"))
	before := s.must("ls", "-li", s.file("block.pftable"))
	s.runDaemon(false)
	time.Sleep(patience(75))
	s.enforced(listed())
	if s.must("ls", "-li", s.file("block.pftable")) != before {
		s.Error("the table file was written, though there was no policy")
	}
	s.comesUp()
	s.endDaemon(false)
}

// backlog: what pflogd has written while the agent was down arrives, the hits among it,
// each once, and not again after the next start.
func backlog(s *site, traced bool) {
	s.serve(listed())
	s.tables()
	if _, code := s.run("ifconfig", "pflog0"); code != 0 {
		s.own("interface", "pflog0", "")
	}
	file := filepath.Join(s.dir, "pflog")
	writePflog(s, file, time.Now().Add(-time.Minute), "198.51.100.1", "198.51.100.9", "203.0.113.7", "2001:db8::7")
	s.configure(s.collect("UPLOAD=hits", "PFLOG_IF=pflog0", "pflog="+file, "BACKFILL=1h")...)
	for range 2 {
		s.runDaemon(traced)
		s.sync()
		s.until(120, "the daemon catches up", func() bool {
			return strings.Contains(s.daemon.text(), "caught up with what was logged")
		})
		s.until(120, "the hits arrive", func() bool { return len(s.arrived()) >= 3 })
		s.endDaemon(traced)
		have := s.arrived()
		for _, far := range []string{"198.51.100.1", "203.0.113.7", "2001:db8::7"} {
			if about(have, far) != 1 {
				s.Errorf("not one line of %s", far)
			}
		}
		if len(have) != 3 {
			s.Errorf("not the three hits: %q", have)
		}
	}
}
