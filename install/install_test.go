package install

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func contains(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("does not say %q:\n%s", p, text)
		}
	}
}

func TestInstallOnAFreshSystem(t *testing.T) {
	b := newBox(t, freshTree())
	before := b.snapshot()
	out := b.mustInstall()
	contains(t, out,
		"install /usr/local/sbin/threatstopd (mode 0555)",
		"add the group _threatstop", "add the user _threatstop: no password, no shell, no home",
		"run `rcctl enable threatstopd`",
		`table <ThreatSTOP-Block> persist file "/var/db/ThreatSTOP-Block.pftable"`,
		"block drop in log quick from <ThreatSTOP-Block>",
		"they open every\n  port to the addresses of the allow lists",
		"Fill in /usr/local/etc/threatstop.conf")
	want := []string{
		"/usr/sbin/groupadd -g 300 _threatstop",
		"/usr/sbin/useradd -u 300 -g _threatstop -c ThreatSTOP agent -d /var/empty -s /sbin/nologin -L daemon _threatstop",
		"/usr/sbin/rcctl enable threatstopd",
	}
	if got := b.changing(); !slices.Equal(got, want) {
		t.Errorf("commands:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for name, want := range map[string]struct{ mode, text string }{
		"/usr/local/sbin/threatstopd":           {"-r-xr-xr-x", b.program},
		"/usr/local/man/man8/threatstopd.8":     {"-r--r--r--", manual},
		"/usr/local/man/man5/threatstop.conf.5": {"-r--r--r--", confManual},
		"/etc/rc.d/threatstopd":                 {"-r-xr-xr-x", rcScript()},
		"/usr/local/etc/threatstop.conf":        {"-rw-------", exampleConf},
		"/var/spool/threatstop":                 {"drwx------", ""},
		"/var/db/ThreatSTOP-Block.pftable":      {"-rw-------", ""},
		"/var/db/ThreatSTOP-Allow.pftable":      {"-rw-------", ""},
	} {
		if got, want := b.snapshot()[name], want.mode+" "+want.text; got != want {
			t.Errorf("%s is %.80q, want %.80q", name, got, want)
		}
	}
	if b.owners["/var/spool/threatstop"] != "300:300" || b.owners["/usr/local/sbin/threatstopd"] != "0:0" || b.owners["/usr/local/etc/threatstop.conf"] != "0:0" {
		t.Errorf("owners: %v", b.owners)
	}
	contains(t, b.read("/etc/passwd"), "_threatstop:*:300:300:ThreatSTOP agent:/var/empty:/sbin/nologin\n")
	contains(t, b.read("/etc/master.passwd"), "_threatstop:*************:300:300:daemon:0:0:ThreatSTOP agent:/var/empty:/sbin/nologin\n")
	contains(t, b.read("/etc/rc.conf.local"), "pkg_scripts=threatstopd\n")
	if got := b.snapshot()["/var/db/threatstopd.manifest"]; !strings.HasPrefix(got, "-rw-------") {
		t.Errorf("the manifest is %.20q", got)
	}
	if b.read("/etc/pf.conf") != freshTree()["/etc/pf.conf"] {
		t.Error("pf.conf was changed")
	}

	// A second time there is nothing to do.
	middle := b.snapshot()
	b.recorded = nil
	contains(t, b.mustInstall(), "there is nothing to do")
	if got := b.changing(); len(got) > 0 {
		t.Errorf("the second time: %v", got)
	}
	if d := differences(middle, b.snapshot()); len(d) > 0 {
		t.Errorf("the second time: %v", d)
	}

	b.recorded = nil
	b.mustUninstall()
	if d := differences(before, b.snapshot()); len(d) > 0 {
		t.Errorf("after uninstall: %s", strings.Join(d, "\n"))
	}
	want = []string{
		"/usr/sbin/rcctl disable threatstopd",
		"/usr/sbin/userdel _threatstop",
		"/usr/sbin/groupdel _threatstop",
	}
	if got := b.changing(); !slices.Equal(got, want) {
		t.Errorf("commands:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	contains(t, b.mustUninstall(), "changed nothing here")
}

func TestTakeOverFromTheScripts(t *testing.T) {
	b := newBox(t, scriptsTree())
	before := b.snapshot()
	out := b.mustInstall()
	contains(t, out, "take out of root's crontab:\n    "+cronUpdate+"\n    "+cronLogs,
		"rotate pflogd's file as before the scripts", "The vendor's scripts stay in /usr/local/sbin/",
		"threatstop-pf.sh loguploadclient.pl sendlog.sh test.sh")
	if strings.Contains(out, "Put into /etc/pf.conf") {
		t.Error("advises lines that are there")
	}
	if got := b.read("/var/cron/tabs/root"); got != tabHeader+crontabStock {
		t.Errorf("crontab:\n%s", got)
	}
	if got := b.read("/etc/newsyslog.conf"); got != newsyslogStock {
		t.Errorf("newsyslog.conf:\n%s", got)
	}
	if b.read("/usr/local/etc/threatstop.conf") != oldConf {
		t.Error("the configuration was changed")
	}
	if got := b.read("/var/db/ThreatSTOP-Block.pftable"); got != "192.0.2.1\n" {
		t.Errorf("the table file is %q", got)
	}
	if !slices.Contains(b.recorded, "/usr/bin/crontab -u root -") || b.stdin != crontabStock {
		t.Errorf("crontab: %v, %q", b.recorded, b.stdin)
	}
	contains(t, b.read("/etc/rc.conf.local"), "pkg_scripts=unbound_exporter dbus_daemon threatstopd")

	out = b.mustUninstall()
	contains(t, out, "put back into root's crontab:\n    "+cronUpdate)
	if d := differences(before, b.snapshot()); len(d) > 0 {
		t.Errorf("after uninstall: %s", strings.Join(d, "\n"))
	}
}

// A daemon whose configuration is there is started, before the scripts end.
func TestStartedBeforeTheScriptsEnd(t *testing.T) {
	install := func(b *box) error {
		o := b.options(new(bytes.Buffer), "")
		o.Working = func(_ string, do func() error) error { return do() }
		h := &host{Options: o}
		var err error
		if h.accounts, err = h.readAccounts(); err != nil {
			t.Fatal(err)
		}
		// All that differs on the system that is running is that services are started.
		if err := h.readConf(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, part := range []func() error{h.user, func() error {
			h.Root = ""
			defer func() { h.Root = b.root }()
			return h.daemon(t.Context(), nil)
		}, h.takeOver} {
			if err := part(); err != nil {
				t.Fatal(err)
			}
		}
		return h.carryOut(t.Context())
	}
	b := newBox(t, scriptsTree())
	b.write(rcScriptPath, rcScript())
	if err := install(b); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"/usr/sbin/groupadd -g 300 _threatstop",
		"/usr/sbin/useradd -u 300 -g _threatstop -c ThreatSTOP agent -d /var/empty -s /sbin/nologin -L daemon _threatstop",
		"/usr/sbin/rcctl enable threatstopd",
		"/usr/sbin/rcctl start threatstopd",
		"/usr/bin/crontab -u root -",
	}
	if got := b.changing(); !slices.Equal(got, want) {
		t.Errorf("commands:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}

	// One that does not start leaves the scripts their work.
	b = newBox(t, scriptsTree())
	b.write(rcScriptPath, rcScript())
	b.fail = map[string]string{"rcctl start threatstopd": "threatstopd(failed)\n"}
	if err := install(b); err == nil || err.Error() != "rcctl start threatstopd: exit status 1: threatstopd(failed)" {
		t.Errorf("error: %v", err)
	}
	if !strings.Contains(b.read("/var/cron/tabs/root"), cronUpdate) {
		t.Error("the cron lines are gone")
	}
}

func TestHalfInstalled(t *testing.T) {
	files := freshTree()
	// The program, an older one, and a user were put there by hand.
	files["/usr/local/sbin/threatstopd"] = "an older program\xff"
	files["/etc/group"] += "_threatstop:*:877:\n"
	files["/etc/passwd"] += "_threatstop:*:877:877:by hand:/var/empty:/sbin/nologin\n"
	files["/usr/local/etc/threatstop.conf"] = oldConf
	b := newBox(t, files)
	before := b.snapshot()
	out := b.mustInstall()
	contains(t, out, "replace /usr/local/sbin/threatstopd")
	if b.owners["/var/spool/threatstop"] != "877:877" {
		t.Errorf("owners: %v", b.owners)
	}
	b.mustUninstall()
	if d := differences(before, b.snapshot()); len(d) > 0 {
		t.Errorf("after uninstall: %s", strings.Join(d, "\n"))
	}
}

func TestUpgrade(t *testing.T) {
	b := newBox(t, freshTree())
	before := b.snapshot()
	b.mustInstall()
	b.write("/usr/local/etc/threatstop.conf", oldConf)
	if err := os.Chmod(filepath.Join(b.root, rcScriptPath), 0o755); err != nil {
		t.Fatal(err)
	}
	b.write(rcScriptPath, "#!/bin/ksh\n# mine\n")
	b.program = "a newer program"
	out := b.mustInstall()
	contains(t, out, "replace /usr/local/sbin/threatstopd", rcScriptPath+" was changed since it was installed, and stays as it is")
	if b.read("/usr/local/sbin/threatstopd") != b.program || !strings.Contains(b.read(rcScriptPath), "mine") {
		t.Error("not what it should be")
	}
	out = b.mustUninstall()
	contains(t, out, "/usr/local/etc/threatstop.conf was changed since it was installed, and is yours",
		rcScriptPath+" was changed since it was installed, and is yours")
	want := []string{"new /etc/rc.d/threatstopd", "new /usr/local/etc", "new /usr/local/etc/threatstop.conf"}
	if d := differences(before, b.snapshot()); !slices.Equal(d, want) {
		t.Errorf("after uninstall: %s", strings.Join(d, "\n"))
	}
}

func TestOff(t *testing.T) {
	files := freshTree()
	files["/etc/rc.conf.local"] = "pf=NO\npflogd_flags=NO\n"
	b := newBox(t, files)
	b.pf = false
	delete(b.services, "pflogd")
	out, err := b.install("n\nn\ny\n")
	if err != nil {
		t.Fatal(err)
	}
	contains(t, out, "pf is off: without it nothing is blocked. Turn it on? [y/n]", "pflogd is not enabled at boot",
		"so nothing is blocked: rcctl enable pf && pfctl -e")
	if got := b.read("/etc/rc.conf.local"); got != "pf=NO\npflogd_flags=NO\npkg_scripts=threatstopd\n" {
		t.Errorf("rc.conf.local: %q", got)
	}
	b.mustUninstall()
	if got := b.read("/etc/rc.conf.local"); got != files["/etc/rc.conf.local"] {
		t.Errorf("rc.conf.local: %q", got)
	}

	b.recorded = nil
	b.mustInstall()
	want := []string{"/usr/sbin/rcctl enable pf", "/sbin/pfctl -e", "/usr/sbin/rcctl enable pflogd", "/usr/sbin/rcctl enable threatstopd"}
	if got := b.changing()[2:]; !slices.Equal(got, want) {
		t.Errorf("commands: %v", got)
	}
	b.recorded = nil
	out = b.mustUninstall()
	contains(t, out, "pf was off before, and stays on", "`rcctl disable pf` and `pfctl -d`")
	if got := b.read("/etc/rc.conf.local"); got != "pflogd_flags=NO\n" {
		t.Errorf("rc.conf.local: %q", got)
	}
	if !slices.Contains(b.changing(), "/usr/sbin/rcctl disable pflogd") || slices.Contains(b.changing(), "/usr/sbin/rcctl stop pflogd") {
		t.Errorf("commands: %v", b.changing())
	}
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		name  string
		setup func(*box, *Options)
		error string
	}{
		{"another system", func(_ *box, o *Options) { o.Root, o.OS, o.Superuser = "", "linux", true }, "this is linux: threatstopd is installed on OpenBSD"},
		{"not root", func(_ *box, o *Options) { o.Root = "" }, "must be root"},
		{"no", func(_ *box, o *Options) { o.Yes, o.In = false, strings.NewReader("no\n") }, "nothing was changed"},
		{"no answer", func(_ *box, o *Options) { o.Yes = false }, "nothing was changed"},
		{"broken configuration", func(b *box, _ *Options) {
			if err := os.Mkdir(filepath.Join(b.root, "/usr/local/etc"), 0o755); err != nil {
				b.t.Fatal(err)
			}
			b.write("/usr/local/etc/threatstop.conf", "device_id=tdid_x\nPOLL_INTERVAL=never\n")
		}, "POLL_INTERVAL"},
		{"broken manifest", func(b *box, _ *Options) { b.write(manifestPath, "{") }, "/var/db/threatstopd.manifest: unexpected EOF: nothing was changed"},
		{"no OpenBSD", func(b *box, _ *Options) { b.remove("/etc/group") }, "/etc/group: missing: this is not OpenBSD"},
		{"a link in the way", func(b *box, _ *Options) {
			if err := os.Symlink("elsewhere", filepath.Join(b.root, "/usr/local/sbin/threatstopd")); err != nil {
				b.t.Fatal(err)
			}
		}, "/usr/local/sbin/threatstopd: is not a regular file: put a file in its place"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBox(t, freshTree())
			var out bytes.Buffer
			o := b.options(&out, "")
			c.setup(b, &o)
			before := b.snapshot()
			err := Install(context.Background(), o)
			if err == nil || !strings.Contains(err.Error(), c.error) {
				t.Errorf("error %v, want %q", err, c.error)
			}
			if d := differences(before, b.snapshot()); len(d) > 0 {
				t.Errorf("changed: %v", d)
			}
			if got := b.changing(); len(got) > 0 {
				t.Errorf("commands: %v", got)
			}
		})
	}
}

func TestPackaged(t *testing.T) {
	packager = "pkg_add(1)"
	defer func() { packager = "" }()
	b := newBox(t, freshTree())
	for _, f := range []func(context.Context, Options) error{Install, Uninstall} {
		if err := f(context.Background(), b.options(new(bytes.Buffer), "")); !errors.Is(err, ErrPackaged) {
			t.Errorf("error %v", err)
		}
	}
}

func TestInterrupted(t *testing.T) {
	b := newBox(t, freshTree())
	ctx, cancel := context.WithCancel(context.Background())
	b.fault = func(what string) error {
		if strings.HasPrefix(what, "rename /usr/local/man") {
			cancel()
		}
		return nil
	}
	var out bytes.Buffer
	err := Install(ctx, b.options(&out, ""))
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "run it again to go on from here") {
		t.Errorf("error %v", err)
	}
	b.fault = hasty
	b.mustInstall()
}

func TestTwoAtATime(t *testing.T) {
	b := newBox(t, freshTree())
	unlock, err := lock(filepath.Join(b.root, "/etc"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.install(""); err == nil || !strings.Contains(err.Error(), "another installation is running") {
		t.Errorf("error %v", err)
	}
	unlock()

	// A daemon has the directory of the table files locked, and is no hindrance.
	unlock, err = lock(filepath.Join(b.root, "/var/db"))
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	b.mustInstall()
}

func TestTableFilesThatPFNames(t *testing.T) {
	named := `table <ThreatSTOP-Block> persist \
	file "/var/db/ThreatSTOP-Block.pftable"
include "/etc/pf.allow"
block drop in log quick from <ThreatSTOP-Block>
`
	b := newBox(t, freshTree())
	before := b.snapshot()
	b.mustInstall()
	b.write(pfConfPath, named)
	b.write("/etc/pf.allow", "# the allow table\ntable <ThreatSTOP-Allow> persist file \"/var/db/ThreatSTOP-Allow.pftable\"\n")
	b.write("/var/db/ThreatSTOP-Block.pftable", "192.0.2.1\n")
	out := b.mustUninstall()
	contains(t, out, "/var/db/ThreatSTOP-Block.pftable stays: pf.conf would not load without it. Remove from it\n"+
		"  /etc/pf.conf:1: table <ThreatSTOP-Block> persist",
		"/etc/pf.conf:4: block drop in log quick from <ThreatSTOP-Block>",
		"/etc/pf.allow:2: table <ThreatSTOP-Allow>",
		"rm /var/db/ThreatSTOP-Block.pftable")
	if got := b.read("/var/db/ThreatSTOP-Block.pftable"); got != "192.0.2.1\n" {
		t.Errorf("the file is %q", got)
	}
	if !b.exists("/var/db/ThreatSTOP-Allow.pftable") || b.exists(manifestPath) {
		t.Error("the allow file is gone, or the manifest is there")
	}
	b.remove("/var/db/ThreatSTOP-Block.pftable")
	b.remove("/var/db/ThreatSTOP-Allow.pftable")
	b.remove("/etc/pf.allow")
	b.write(pfConfPath, freshTree()[pfConfPath])
	if d := differences(before, b.snapshot()); len(d) > 0 {
		t.Errorf("after uninstall: %s", strings.Join(d, "\n"))
	}

	for _, c := range []struct {
		name  string
		setup func(*box)
		says  string
	}{
		{"a table that is loaded", func(b *box) { b.tables = []string{"ThreatSTOP-Block"} }, "its table is loaded"},
		{"pf that cannot be asked", func(b *box) { b.pfErr = errors.New("open /dev/pf: no") }, "not known which tables are loaded: open /dev/pf: no"},
		{"an include that is not there", func(b *box) { b.write(pfConfPath, "include \"/etc/pf.more\"\n") }, "/etc/pf.more cannot be read"},
		{"an include by an unknown macro", func(b *box) { b.write(pfConfPath, "include $more\n") }, "include $more"},
		{"an anchor's file", func(b *box) {
			b.write("/etc/anchor", "table <x> persist file \"/var/db/ThreatSTOP-Block.pftable\"\n")
			b.write(pfConfPath, "anchor ts\nload anchor ts from \"/etc/anchor\"\n")
		}, "/etc/anchor:1: table <x>"},
		{"a macro", func(b *box) { b.write(pfConfPath, "f = \"/var/db/ThreatSTOP-Block.pftable\"\ntable <x> file $f\n") }, "/etc/pf.conf:1: f ="},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBox(t, freshTree())
			b.mustInstall()
			c.setup(b)
			b.write("/var/db/ThreatSTOP-Block.pftable", "192.0.2.1\n")
			contains(t, b.mustUninstall(), c.says)
			if got := b.read("/var/db/ThreatSTOP-Block.pftable"); got != "192.0.2.1\n" {
				t.Errorf("the file is %q", got)
			}
		})
	}

	// A file in a comment is not named; one that was there before the
	// installation stays in any case.
	b = newBox(t, freshTree())
	b.write("/var/db/ThreatSTOP-Allow.pftable", "192.0.2.7\n")
	b.mustInstall()
	b.write(pfConfPath, "# table <x> file \"/var/db/ThreatSTOP-Block.pftable\"\npass\n")
	b.write("/var/db/ThreatSTOP-Block.pftable", "192.0.2.1\n")
	b.write("/var/db/ThreatSTOP-Block.pftable.new", "half")
	b.mustUninstall()
	if b.exists("/var/db/ThreatSTOP-Block.pftable") || b.exists("/var/db/ThreatSTOP-Block.pftable.new") || !b.exists("/var/db/ThreatSTOP-Allow.pftable") {
		t.Error("not what should be left")
	}
}

func TestWhatOthersChangedStays(t *testing.T) {
	b := newBox(t, scriptsTree())
	b.mustInstall()
	// The owner goes on working.
	b.write(cronTabPath, tabHeader+"MAILTO=me\n"+crontabStock+"5 5 * * * /root/mine\n")
	b.write(newsyslogPath, strings.Replace(newsyslogStock, "640  7", "640  14", 1))
	b.write("/etc/passwd", strings.Replace(b.read("/etc/passwd"), "ThreatSTOP agent:/var/empty", "ThreatSTOP agent:/home/ts", 1))
	b.write("/etc/rc.conf.local", b.read("/etc/rc.conf.local")+"httpd_flags=\n")
	b.write("/var/spool/threatstop/20260301T120000.000000Z-00.txt", "hits")
	if err := os.Mkdir(filepath.Join(b.root, "/var/spool/threatstop/refused"), 0o700); err != nil {
		t.Fatal(err)
	}
	b.write("/var/spool/threatstop/refused/20260301T120000.000000Z-01.txt", "more")
	b.write(crashPath, "")
	out := b.mustUninstall()
	contains(t, out, "the user _threatstop was changed since it was made, and is yours: `userdel _threatstop` removes it",
		"the group _threatstop stays", "with 2 files (8 bytes): hits not delivered by then are lost")
	wantCron := tabHeader + "MAILTO=me\n" + crontabStock + "5 5 * * * /root/mine\n" + cronUpdate + "\n" + cronLogs + "\n"
	if got := b.read(cronTabPath); got != wantCron {
		t.Errorf("crontab:\n%s\nwant:\n%s", got, wantCron)
	}
	if got, want := b.read(newsyslogPath), strings.Replace(newsyslogHourly, "640  7", "640  14", 1); got != want {
		t.Errorf("newsyslog.conf:\n%s", got)
	}
	contains(t, b.read("/etc/rc.conf.local"), "httpd_flags=\n")
	if strings.Contains(b.read("/etc/rc.conf.local"), "threatstopd") || b.exists("/var/spool/threatstop") || b.exists(crashPath) {
		t.Error("still enabled, or the spool or the crash file is there")
	}

	// What is not the spool's stays, also beside refused batches.
	b = newBox(t, scriptsTree())
	b.mustInstall()
	if err := os.MkdirAll(filepath.Join(b.root, "/var/spool/threatstop/refused/mine"), 0o700); err != nil {
		t.Fatal(err)
	}
	contains(t, b.mustUninstall(), "has something in it that is not the spool's, refused/mine:")
	if !b.exists("/var/spool/threatstop/refused/mine") {
		t.Error("what is not the spool's was removed")
	}

	// A line for pflogd's file that is the owner's own now stays.
	b = newBox(t, scriptsTree())
	b.mustInstall()
	mine := strings.Replace(newsyslogStock, "3     250   *", "30    250   *", 1)
	b.write(newsyslogPath, mine)
	contains(t, b.mustUninstall(), "its line for /var/log/pflog is not the one that was written: it stays")
	if b.read(newsyslogPath) != mine {
		t.Error("the owner's line was changed")
	}
}

func TestScriptsAmongOtherThings(t *testing.T) {
	files := scriptsTree()
	mixed := "7 7 * * * /usr/local/sbin/threatstop-pf.sh; /root/mine"
	files[cronTabPath] += mixed + "\n"
	files["/etc/daily.local"] = "# sendlog\n/usr/local/sbin/sendlog.sh\n"
	b := newBox(t, files)
	out := b.mustInstall()
	contains(t, out, "among other things: take it out there (crontab -e):\n  "+mixed, "/etc/daily.local:2 runs a script of the vendor")
	if got := b.read(cronTabPath); got != tabHeader+crontabStock+mixed+"\n" {
		t.Errorf("crontab:\n%s", got)
	}
}

// Without a configuration the scripts keep their work.
func TestScriptsStayWithoutConfiguration(t *testing.T) {
	files := scriptsTree()
	delete(files, "/usr/local/etc/threatstop.conf")
	b := newBox(t, files)
	contains(t, b.mustInstall(), "continue to update the tables until /usr/local/etc/threatstop.conf is filled in")
	if b.read(cronTabPath) != files[cronTabPath] || b.read(newsyslogPath) != newsyslogHourly {
		t.Error("the scripts were retired")
	}
	b.write("/usr/local/etc/threatstop.conf", oldConf)
	b.mustInstall()
	if b.read(cronTabPath) != tabHeader+crontabStock {
		t.Error("the scripts were not retired")
	}
}

func TestCommandThatFails(t *testing.T) {
	b := newBox(t, freshTree())
	b.fail = map[string]string{typed(addUser("_threatstop", 300)): "useradd: can't obtain pw_lock\nmore\n"}
	_, err := b.install("")
	const want = "useradd -u 300 -g _threatstop -c ThreatSTOP agent -d /var/empty -s /sbin/nologin -L daemon _threatstop: exit status 1: useradd: can't obtain pw_lock: run it again to go on from here, or --uninstall to undo it"
	if err == nil || err.Error() != want {
		t.Errorf("error %v", err)
	}
	b.fail = nil
	b.mustInstall()
	contains(t, b.read("/etc/passwd"), "_threatstop:*:300:300:")
}

var errCrash = errors.New("crash")

// crashing makes the n-th change fail before it is made, and all after it. A crash after
// a change is one before the next.
func (b *box) crashing(n int) {
	b.fault = func(string) error {
		if n--; n < 0 {
			return errCrash
		}
		return nil
	}
}

// hasty makes changes without fsync.
func hasty(string) error { return nil }

// stride is how far it is to the next point after n of them: 1, and more on a host that
// takes so long over each that all of them would take minutes.
func stride(began time.Time, n int) int {
	return 1 + int(time.Since(began)/time.Duration(n+1)/(100*time.Millisecond))
}

// TestCrash interrupts an installation at every change that it makes, and then finishes it,
// or undoes it; and likewise the uninstallation.
func TestCrash(t *testing.T) {
	for name, files := range map[string]tree{"fresh": freshTree(), "scripts": scriptsTree()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBox(t, files)
			before := b.snapshot()
			b.mustInstall()
			installed := b.snapshot()
			same := func(b *box, want map[string]string, format string, args ...any) {
				t.Helper()
				if d := differences(want, b.snapshot()); len(d) > 0 {
					t.Fatalf(format+": %s", append(args, strings.Join(d, "\n"))...)
				}
			}
			crash := func(run func(string) (string, error), n int) (over bool) {
				t.Helper()
				_, err := run("")
				if err != nil && !errors.Is(err, errCrash) {
					t.Fatalf("crash at %d: %v", n, err)
				}
				return err == nil
			}
			points, step := 0, 1
			if name == "fresh" {
				step = 5 // nothing that the other has not, but for the order
			}
			began := time.Now()
			for n := 0; ; n += step * stride(began, n/step) {
				b := newBox(t, files)
				b.crashing(n)
				if crash(b.install, n) {
					points += n
					break
				}
				b.fault = hasty
				if (name == "fresh") == (n%2 == 0) {
					b.mustInstall()
					same(b, installed, "installed again after a crash at %d", n)
				}
				b.mustUninstall()
				same(b, before, "uninstalled after a crash at %d", n)
			}
			began = time.Now()
			for n := 0; ; n += step * stride(began, n/step) {
				b := newBox(t, files)
				b.fault = hasty
				b.mustInstall()
				b.crashing(n)
				if crash(b.uninstall, n) {
					points += n
					break
				}
				b.fault = hasty
				if (name == "fresh") == (n%2 == 0) {
					b.mustInstall()
					same(b, installed, "installed after a crash of the uninstallation at %d", n)
				}
				b.mustUninstall()
				same(b, before, "uninstalled after a crash of the uninstallation at %d", n)
			}
			if points < 60 {
				t.Errorf("%d points", points)
			}
		})
	}
}

// TestCrashOfAnUpgrade: what an interrupted upgrade leaves is still ours.
func TestCrashOfAnUpgrade(t *testing.T) {
	for n := 0; ; n++ {
		b := newBox(t, freshTree())
		b.fault = hasty
		before := b.snapshot()
		b.mustInstall()
		b.program = "newer"
		b.crashing(n)
		_, err := b.install("")
		b.fault = hasty
		if err == nil {
			return
		}
		b.mustUninstall()
		if d := differences(before, b.snapshot()); len(d) > 0 {
			t.Fatalf("crash at %d: %s", n, strings.Join(d, "\n"))
		}
	}
}

// Each change is shown while it is made.
func TestWorkingIsShown(t *testing.T) {
	b := newBox(t, freshTree())
	var shown []string
	o := b.options(new(bytes.Buffer), "")
	o.Working = func(what string, do func() error) error {
		shown = append(shown, what)
		return do()
	}
	if err := Install(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	contains(t, strings.Join(shown, "\n"), "install /usr/local/sbin/threatstopd (mode 0555)", "run `rcctl enable threatstopd`")
}

func TestPreflightIsShown(t *testing.T) {
	for name, files := range map[string]tree{"to be filled in": freshTree(), "the owner's": scriptsTree()} {
		b := newBox(t, files)
		var out bytes.Buffer
		o := b.options(&out, "")
		o.Preflight = func(context.Context) { fmt.Fprintln(&out, "ok    pf is enabled") }
		if err := Install(context.Background(), o); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(out.String(), "ok    pf is enabled") != (name == "the owner's") {
			t.Errorf("configuration %s:\n%s", name, out.String())
		}
	}
}

// An interrupt at a question is a no.
func TestInterruptedQuestion(t *testing.T) {
	b := newBox(t, freshTree())
	before := b.snapshot()
	ctx, cancel := context.WithCancel(context.Background())
	var out bytes.Buffer
	o := b.options(&out, "no answer")
	waiting, answers := io.Pipe()
	defer answers.Close()
	o.In = readerFunc(func(p []byte) (int, error) {
		cancel()
		return waiting.Read(p)
	})
	if err := Install(ctx, o); !errors.Is(err, ErrDeclined) {
		t.Errorf("error %v", err)
	}
	if d := differences(before, b.snapshot()); len(d) > 0 {
		t.Errorf("changed: %v", d)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// On a terminal what a configuration needs is asked for, tried and written; it is the owner's from then on.
func TestAsksForTheConfiguration(t *testing.T) {
	const asked = "device_id=tdid_1\nDNS_SERVERS=192.0.2.53\nPOLL_INTERVAL=1h\nALLOW_LISTS=\n"
	for _, c := range []struct {
		name, answers string
		try           error
		conf          string
		says          []string
	}{
		{"all answers", "tdid_1\n\n1h\n\ny\n", nil, asked,
			[]string{"Device id: ", "Policy servers [192.0.2.53]: ", "DNS Server is ready.", "write " + confPath + " with these answers"}},
		{"a value that is refused", "tdid_1\n\nnever\n1h\n\ny\n", nil, asked, []string{"never is no duration"}},
		{"no answer where one is needed", "\ny\n", nil, exampleConf, []string{"Fill in " + confPath}},
		{"the servers fail, taken", "tdid_1\n\n1h\n\ny\ny\n", errors.New("list basic: query refused"), asked, []string{"list basic: query refused"}},
		{"the servers fail, not taken", "tdid_1\n\n1h\n\nn\ny\n", errors.New("list basic: query refused"), exampleConf, []string{"Fill in " + confPath}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBox(t, freshTree())
			var out bytes.Buffer
			o := b.options(&out, c.answers)
			o.Terminal = true
			o.Conf.Questions = []Question{
				{Key: "device_id", Text: "Device id"}, {Key: "DNS_SERVERS", Text: "Policy servers", Default: "192.0.2.53"},
				{Key: "POLL_INTERVAL", Text: "Interval"}, {Key: "ALLOW_LISTS", Text: "Allow lists", Optional: true},
			}
			o.Conf.Fill = func(answers map[string]string) (text string) {
				for _, q := range o.Conf.Questions {
					text += q.Key + "=" + answers[q.Key] + "\n"
				}
				return text
			}
			o.Conf.Try = func(context.Context, string) error {
				if c.try == nil {
					out.WriteString("DNS Server is ready.\n")
				}
				return c.try
			}
			err := Install(context.Background(), o)
			if err != nil {
				t.Fatalf("%v\n%s", err, out.String())
			}
			if got := b.snapshot()[confPath]; got != "-rw------- "+c.conf {
				t.Errorf("%s is %q, want %q", confPath, got, c.conf)
			}
			contains(t, out.String(), c.says...)
			if c.conf != asked {
				return
			}
			out.Reset()
			o.In = strings.NewReader("")
			if err := Install(context.Background(), o); err != nil || !strings.Contains(out.String(), "there is nothing to do") {
				t.Errorf("a second time: %v\n%s", err, out.String())
			}
			contains(t, b.mustUninstall(), confPath+" was changed since it was installed, and is yours")
		})
	}
}

// The lines for pf.conf are what the reader of pf.conf takes for them.
func TestPFAdviceIsRead(t *testing.T) {
	b := newBox(t, tree{pfConfPath: PFAdvice("Block", "/var/db/b.pftable", "Allow", "/var/db/a.pftable")})
	c := (&host{Options: Options{Root: b.root}}).pfConf()
	if len(c.unread) > 0 || len(c.naming("/var/db/b.pftable")) != 1 || len(c.using("Block")) != 3 || len(c.using("Allow")) != 3 {
		t.Errorf("%+v", c)
	}
}
