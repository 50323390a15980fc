package openbsd

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// layOut makes the root directory of a host on which the vendor's scripts run.
func (s *site) layOut(root string) {
	s.Helper()
	for _, dir := range strings.Fields("etc/rc.d root var/cron/tabs var/db var/spool usr/local/etc usr/local/sbin usr/local/man/man5 usr/local/man/man8") {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			s.Fatal(err)
		}
	}
	for name, text := range map[string]string{
		"etc/passwd":                        "root:*:0:0:Charlie &:/root:/bin/ksh\n",
		"etc/master.passwd":                 "root:*:0:0:daemon:0:0:Charlie &:/root:/bin/ksh\n",
		"etc/group":                         "wheel:*:0:root\ndaemon:*:1:daemon\n",
		"etc/newsyslog.conf":                "/var/log/pflog 600 10 * 1 ZB \"pkill -HUP -u root -U root -t - -x pflogd\"\n",
		"etc/newsyslog.conf.pre-threatstop": "/var/log/pflog 600 3 250 * ZB \"pkill -HUP -u root -U root -t - -x pflogd\"\n",
		"etc/pf.conf":                       "pass\n",
		"var/cron/tabs/root":                "0 * * * * /usr/bin/newsyslog\n22 * * * * /usr/local/sbin/threatstop-pf.sh\n*/15 * * * * /usr/local/sbin/sendlog.sh\n",
		"usr/local/sbin/threatstop-pf.sh":   "#!/bin/sh\n",
		"usr/local/sbin/sendlog.sh":         "#!/bin/sh\n",
		"usr/local/etc/threatstop.conf":     "device_id=tdid_test\nDNS_SERVERS=\"192.0.2.53\"\nBLOCK_LISTS=\"block.test.example\"\nurl=\"https://logs.test.example/\"\n",
	} {
		s.write(filepath.Join(root, name), text)
	}
	for _, name := range []string{"etc/master.passwd", "var/cron/tabs/root"} {
		if err := os.Chmod(filepath.Join(root, name), 0o600); err != nil {
			s.Fatal(err)
		}
	}
}

// inventory describes each file below a directory, as a line each.
func (s *site) inventory(root string) []string {
	s.Helper()
	var out []string
	if err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		line := fmt.Sprint(strings.TrimPrefix(name, root), " ", info.Mode())
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			line += fmt.Sprint(" ", st.Uid, " ", st.Gid)
		}
		if info.Mode().IsRegular() {
			text, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %x", sha256.Sum256(text))
		}
		out = append(out, line)
		return nil
	}); err != nil {
		s.Fatal(err)
	}
	slices.Sort(out)
	return out
}

// into runs threatstopd for the system below root.
func (s *site) into(root string, args ...string) string {
	s.Helper()
	return s.must("env", append([]string{"DESTDIR=" + root, filepath.Join(s.here, "bin/threatstopd")}, args...)...)
}

// installTree: all that is installed is removed again, and what was there is given back.
func installTree(s *site) {
	tree := filepath.Join(s.dir, "tree")
	s.layOut(tree)
	before := s.inventory(tree)
	s.into(tree, "--install", "--yes")
	installed := s.inventory(tree)
	for _, name := range []string{"usr/local/sbin/threatstopd", "usr/local/man/man8/threatstopd.8", "usr/local/man/man5/threatstop.conf.5",
		"etc/rc.d/threatstopd", "var/db/ThreatSTOP-Block.pftable", "var/db/ThreatSTOP-Allow.pftable", "var/spool/threatstop"} {
		if _, err := os.Stat(filepath.Join(tree, name)); err != nil {
			s.Errorf("not installed: %v", err)
		}
	}
	s.must("cmp", filepath.Join(s.here, "bin/threatstopd"), filepath.Join(tree, "usr/local/sbin/threatstopd"))
	s.must("sh", "-n", filepath.Join(tree, "etc/rc.d/threatstopd"))
	for name, want := range map[string]bool{"etc/passwd": true, "var/cron/tabs/root": false} {
		word := map[string]string{"etc/passwd": "_threatstop:", "var/cron/tabs/root": "threatstop-pf.sh"}[name]
		if text, err := os.ReadFile(filepath.Join(tree, name)); err != nil || strings.Contains(string(text), word) != want {
			s.Errorf("%s: %s: %t expected, %v", name, word, want, err)
		}
	}
	if !strings.Contains(s.into(tree, "--install", "--yes"), "there is nothing to do") {
		s.Error("a second installation finds something to do")
	}
	s.same("the tree after a second installation", installed, s.inventory(tree))
	s.into(tree, "--uninstall", "--yes")
	s.same("the tree after --uninstall", before, s.inventory(tree))
	if !strings.Contains(s.into(tree, "--uninstall", "--yes"), "has changed nothing here") {
		s.Error("a second --uninstall finds something to do")
	}
}

// rcService: the rc.d script that is installed, under another name and for another program.
func rcService(s *site) {
	s.serve(listed())
	tree, program := filepath.Join(s.dir, "tree"), filepath.Join(s.dir, "threatstopd")
	s.layOut(tree)
	s.into(tree, "--install", "--yes")
	s.must("cp", filepath.Join(s.here, "bin/threatstopd"), program)
	s.configure("UPLOAD=no")
	text, err := os.ReadFile(filepath.Join(tree, "etc/rc.d/threatstopd"))
	if err != nil {
		s.Fatal(err)
	}
	daemon := regexp.MustCompile(`(?m)^daemon=.*`)
	if !daemon.Match(text) {
		s.Fatal("the rc.d script names no daemon")
	}
	text = daemon.ReplaceAllLiteral(text, fmt.Appendf(nil, `daemon="%s"; daemon_flags="-f %s"`, program, s.conf))
	s.tables()
	root := os.Getenv("TESTROOT") // for the test of the script
	s.own("file", root+"/var/run/rc.d/"+service, "")
	script := root + "/etc/rc.d/" + service
	s.own("file", script, "")
	s.write(script, string(text))
	if err := os.Chmod(script, 0o555); err != nil {
		s.Fatal(err)
	}
	rcctl := func(args ...string) bool {
		_, code := s.run("rcctl", append(args, service)...)
		return code == 0
	}
	if rcctl("check") {
		s.Error("it runs before it is started")
	}
	s.own("service", service, "")
	if !rcctl("configtest") || !rcctl("start") {
		s.Fatal("it does not start")
	}
	s.until(120, "it answers", func() bool { return s.status() != "" })
	if !rcctl("check") {
		s.Error("it runs, and is not found")
	}
	s.sync()
	s.enforced(listed())

	conf := s.must("cat", s.conf)
	s.write(s.conf, conf+"NEVER_BLOCK=203.0.113.7\n")
	if !rcctl("reload") {
		s.Error("it does not reload")
	}
	s.until(60, "its configuration is in force", func() bool {
		s.threatstopd("--sync-now")
		return !slices.Contains(s.inPF(block), "203.0.113.7")
	})
	s.write(s.conf, conf+"POLL_INTERVAL=never\n")
	if rcctl("reload") {
		s.Error("it reloads an invalid configuration")
	}
	if !rcctl("check") || s.status() == "" {
		s.Error("an invalid configuration ends it")
	}
	if !rcctl("stop") || rcctl("check") || s.status() != "" {
		s.Error("it does not stop")
	}
	s.until(30, "its processes end", func() bool { return !strings.Contains(s.must("ps", "-axww", "-o", "command"), program) })
	if len(s.inPF(block)) == 0 {
		s.Error("the table was emptied")
	}
}

// inForce: each process of the daemon has given up what it does not need. In ps(1)'s
// state p is pledged, and U a locked unveil. The kernel drops the unveil state of a process whose
// promises take no path (kern_pledge.c), as of fetch where servers are given by address; that it
// reaches no file is tried by confined/attempts.
func inForce(s *site) {
	s.serve(listed())
	s.tables()
	s.ownPflog(true)
	s.configure(s.collect("UPLOAD=all", "PFLOG_IF="+s.pflog, "KILL_STATES=yes")...)
	s.runDaemon(false)
	s.sync()
	uid := strings.TrimSpace(s.must("id", "-u", s.user))
	var wrong []string
	s.until(60, "all processes are confined", func() bool {
		family := s.family("ruid,state")
		wrong = nil
		for _, name := range slices.Sorted(maps.Keys(family)) {
			f, want := family[name], uid
			if name == "main" {
				want = "0"
			}
			if f[2] != want {
				wrong = append(wrong, fmt.Sprintf("%s is uid %s, not %s", name, f[2], want))
			}
			if name != "states" && !strings.Contains(f[3], "p") || name != "fetch" && !strings.Contains(f[3], "U") {
				wrong = append(wrong, name+" is not confined: "+f[3])
			}
		}
		s.Log(wrong)
		return wrong == nil && len(family) == 4
	})
	s.endDaemon(false)
}

// attempts: a role that is taken over tries what it may not do.
func attempts(s *site) { s.other("agent/internal/privsep", "^TestConfined[A-Za-z0-9_]*$") }

// life: policies, drift, SIGHUP, an interface that goes and comes. Packets are in
// confined/hits, pflogd's files in confined/backlog, syslogd in confined/syslogd.
func life(s *site) {
	s.serve(listed())
	s.tables()
	s.ownPflog(true)
	s.configure(s.collect("UPLOAD=all", "PFLOG_IF="+s.pflog, "KILL_STATES=yes")...)
	s.runDaemon(true)
	s.sync()
	s.enforced(listed())
	s.must("pfctl", "-t", block, "-T", "replace", "192.0.2.99")
	s.sync()
	s.enforced(listed())

	s.reload()
	s.until(60, "all roles run after SIGHUP", s.roles)
	s.daemon.Process.Signal(syscall.SIGUSR1)
	s.sync()
	s.enforced(listed())

	s.readsPflog()
	s.must("ifconfig", s.pflog, "destroy")
	time.Sleep(patience(3))
	s.run("ifconfig", s.pflog, "create") // fails if the daemon was faster
	s.must("ifconfig", s.pflog, "up")
	s.until(180, "all roles run after the interface was made again", s.roles)
	s.readsPflog()
	s.sync()
	s.enforced(listed())
	s.endDaemon(true)
}

// syslogd: when syslogd starts again, its socket is another.
func syslogd(s *site) {
	s.synced()
	if _, code := s.run("rcctl", "check", "syslogd"); code != 0 {
		s.skip("syslogd does not run")
	}
	// Without -d it logs to syslogd, and not to its output.
	s.daemon = s.start("-f "+s.conf, "ktrace", "-i", "-t", "px", "-f", filepath.Join(s.dir, "ktrace.out"), filepath.Join(s.here, "bin/threatstopd"), "-f", s.conf)
	s.until(120, "the daemon answers", func() bool { return s.status() != "" })
	s.until(60, "all roles run", s.roles)
	pid := strconv.Itoa(s.daemon.Process.Pid)
	s.own("syslogd", "started", "")
	s.must("rcctl", "restart", "syslogd")
	s.must("rcctl", "check", "syslogd")
	// Each makes it log something, by the socket that is gone, then by the new one.
	s.must("kill", "-HUP", pid)
	time.Sleep(patience(2))
	s.must("kill", "-USR1", pid)
	s.until(60, "all roles run", s.roles)
	s.sync()
	s.enforced(listed())
	s.endDaemon(true)
}
