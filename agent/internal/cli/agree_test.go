package cli

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"example.org/threatstopd/pfioctl"
	"example.org/threatstopd/pfioctl/pfsim"
)

// flat is text as one line.
func flat(text string) string { return strings.Join(strings.Fields(text), " ") }

// well reports whether --status finds nothing wrong. After a reload the role that answers is started anew, and
// until then the process before it answers what it knows.
func (h *daemonHost) well() bool {
	code, _, _ := h.run("--status")
	return code == 0
}

// An edit that the daemon has not read is reported by --sync-now at once, and by --status until the daemon reads
// it; so is one that cannot be read.
func TestCommandAndDaemonAgree(t *testing.T) {
	h := newDaemonHost(t)
	h.start()
	h.until("enforced", h.says("policy enforced"))
	h.sync(0)
	h.conf["NEVER_BLOCK"] = "10.0.0.2"
	expect(t, h.sync(1), "threatstop.conf has changed since the daemon read it at ", ": rcctl reload threatstopd")
	h.sync(1) // the daemon has seen it by now
	if code, stdout, _ := h.run("--status"); code != 1 || !strings.Contains(flat(stdout), "threatstop.conf has changed since the daemon read it at ") {
		t.Errorf("exit code %d:\n%s", code, stdout)
	}

	h.conf["POLL_INTERVAL"] = "1s"
	expect(t, h.sync(1), "threatstop.conf cannot be used any more, the daemon keeps what it read at ", "POLL_INTERVAL: \"1s\" is too small")
	h.signals <- syscall.SIGHUP
	h.until("refused", h.says("invalid configuration, keeping the current one"))
	if code, stdout, _ := h.run("--status"); code != 1 || !strings.Contains(flat(stdout), "POLL_INTERVAL: \"1s\" is too small") {
		t.Errorf("exit code %d:\n%s", code, stdout)
	}

	h.conf["POLL_INTERVAL"] = "2h"
	h.writeConf()
	h.signals <- syscall.SIGHUP
	h.until("read", h.says("resolved: threatstop.conf"))
	// The role that answers is started anew with the reload, since it has to read CA_FILE again.
	h.until("answered by another process", func() bool { return strings.Count(h.log.String(), "policy taken") > 1 })
	h.sync(0)
	h.until("well", h.well)
}

// With -f, --sync-now asks the daemon only where the file is the daemon's; another one must not overlap with it.
func TestSyncWithAnotherFile(t *testing.T) {
	h := newDaemonHost(t)
	h.start()
	h.until("enforced", h.says("policy enforced"))
	conf := h.writeConf()
	run := func(file string) (int, string) {
		var out bytes.Buffer
		env := h.env()
		env.Stdout, env.Stderr = &out, &out
		code := Run(context.Background(), []string{"--sync-now", "-v", "-f", file}, env)
		return code, out.String()
	}
	link := filepath.Join(h.dir, "link.conf")
	if err := os.Link(conf, link); err != nil {
		t.Fatal(err)
	}
	if code, out := run(link); code != 0 || !strings.Contains(out, "Table ThreatSTOP-Block: unchanged") {
		t.Errorf("another name of the daemon's file: %d\n%s", code, out)
	}
	if code, out := run(filepath.Join(h.dir, "missing")); code != 2 || !strings.Contains(out, "missing: no such file") {
		t.Errorf("a missing file: %d\n%s", code, out)
	}
	other := filepath.Join(h.dir, "other.conf")
	for _, c := range []struct {
		name, more string
		code       int
		want       string
	}{
		{"a table of the daemon's", "BLOCK_TABLE=x\nALLOW_TABLE=ThreatSTOP-Block\nOUT_DIR=" + t.TempDir(), 2, "ALLOW_TABLE: the running daemon uses ThreatSTOP-Block, too (" + conf + ")"},
		{"a directory of the daemon's", "BLOCK_TABLE=x\nALLOW_TABLE=y\nOUT_DIR=" + h.dir, 2, "BLOCK_FILE: the running daemon uses " + h.dir + ", too"},
		{"tables and a directory of its own", "BLOCK_TABLE=x\nALLOW_TABLE=y\nOUT_DIR=" + t.TempDir(), 0, "Table x: "},
	} {
		text := "device_id=tdid_test0002\nUPLOAD=no\nDNS_SERVERS=" + h.server.Addr() + "\nBLOCK_LISTS=" + blockList + "\n" + c.more + "\n"
		if err := os.WriteFile(other, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if code, out := run(other); code != c.code || !strings.Contains(out, c.want) {
			t.Errorf("%s: %d\n%s", c.name, code, out)
		}
	}
	if got := h.table(pfioctl.Table{Name: "x"}); len(got) == 0 {
		t.Error("the other configuration was not enforced")
	}
}

// What the owner has to correct in the configuration is in the log and in --status until it is corrected.
func TestSlipsAreTroubles(t *testing.T) {
	h := newDaemonHost(t)
	h.conf["NEVERBLOCK"] = "10.0.0.2"
	h.conf["device_id"] = "tdid_abcd1234"
	h.start()
	h.until("enforced", h.says("policy enforced"))
	slips := []string{"NEVERBLOCK: unknown key, which has no effect: is NEVER_BLOCK meant?", "device_id: tdid_abcd1234 is the value of the example: write your own"}
	code, stdout, _ := h.run("--status")
	if code != 1 {
		t.Errorf("exit code %d", code)
	}
	expect(t, flat(stdout), slips...)
	expect(t, h.log.String(), slips...)
	if code, _, stderr := h.run("-n"); code != 0 || !strings.Contains(stderr, slips[0]) || !strings.Contains(stderr, slips[1]) {
		t.Errorf("-n: %d, %s", code, stderr)
	}
	delete(h.conf, "NEVERBLOCK")
	h.conf["device_id"] = "tdid_test0001"
	h.writeConf()
	h.signals <- syscall.SIGHUP
	h.until("resolved", func() bool { return strings.Count(h.log.String(), "resolved: ") >= 2 })
	h.until("well", h.well)
}

// -n reports what cannot be used on this host; only what the daemon does not start with is an error.
func TestUnusable(t *testing.T) {
	dir := t.TempDir()
	noPEM, owners := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "pf.conf")
	for _, file := range []string{noPEM, owners} {
		if err := os.WriteFile(file, []byte("pass in quick\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	fifo, link, dangling, open := filepath.Join(dir, "fifo"), filepath.Join(dir, "link"), filepath.Join(dir, "dangling"), filepath.Join(dir, "open")
	if err := errors.Join(syscall.Mkfifo(fifo, 0o600), os.Symlink(owners, link), os.Symlink("nothing", dangling), os.Mkdir(open, 0o777), os.Chmod(open, 0o777)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		key, value string
		code       int
		want       string
	}{
		{"CA_FILE", "/does/not/exist", 0, "CA_FILE: /does/not/exist: no such file or directory"},
		{"CA_FILE", noPEM, 0, "CA_FILE: " + noPEM + ": no PEM certificate in it"},
		{"SOURCE_ADDRESS", "192.0.2.99", 0, "SOURCE_ADDRESS: 192.0.2.99 is no address of this host"},
		{"SOURCE_ADDRESS", "127.0.0.1", 0, ""},
		{"METRICS", "192.0.2.99:9110' METRICS_ANY='yes", 0, "METRICS: 192.0.2.99 is no address of this host"},
		{"METRICS", "127.0.0.1:9110", 0, ""},
		{"USER", "nobody-of-that-name", 0, "USER: no user nobody-of-that-name: `threatstopd --install` creates it"},
		{"STATUS_GROUP", "no-such-group", 0, "STATUS_GROUP: no group no-such-group"},
		{"USER", "root", 0, "USER: the user is root: name one of its own"},
		{"BLOCK_FILE", owners, 2, owners},
		{"BLOCK_FILE", dir, 0, "BLOCK_FILE: persist file " + dir + ": is not a regular file"},
		{"BLOCK_FILE", fifo, 0, "is not a regular file"},
		{"BLOCK_FILE", "/dev/null", 0, "is not a regular file"},
		{"BLOCK_FILE", link, 0, "is a symbolic link"},
		{"ALLOW_FILE", dangling, 0, "is a symbolic link"},
		{"BLOCK_FILE", "/does/not/exist", 2, "directory of the persist files /does/not: no such file or directory"},
		{"OUT_DIR", open, 2, "everybody could replace what pf loads at boot"},
	} {
		fw := newFirewall(t, pfsim.Options{})
		fw.conf["USER"] = "nobody"
		fw.conf[c.key] = c.value
		code, stdout, stderr := fw.run("-n")
		if code != c.code || !strings.Contains(stderr, c.want) || c.want == "" && stderr != "" || (stdout != "") != (code == 0) {
			t.Errorf("%s=%s: exit code %d, %s", c.key, c.value, code, stderr)
		}
	}
}
