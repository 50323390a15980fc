package openbsd

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// Aliases that OpenBSD's ksh(1) predefines: a function of such a name does not parse.
const kshAliases = "autoload functions hash history integer local login nohup r stop suspend type"

// fakeHost is an archive with the script run, on a host that testdata/fake plays.
type fakeHost struct {
	dir, state, tmp string // the archive, what the host has, TMPDIR
	shell           string
	env             []string
}

// newFakeHost unpacks an archive below a directory.
func newFakeHost(t *testing.T, below, shell string) *fakeHost {
	t.Helper()
	root, err := os.MkdirTemp(below, "threatstopd-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	plain := t.TempDir()
	h := &fakeHost{dir: filepath.Join(root, "threatstopd-test-openbsd-amd64"), state: filepath.Join(plain, "state"),
		tmp: filepath.Join(plain, "tmp"), shell: shell}
	fakes := filepath.Join(plain, "fakes")
	for _, dir := range []string{h.dir, h.state, h.tmp, fakes, filepath.Join(plain, "etc/rc.d"), filepath.Join(plain, "var/run/rc.d"),
		filepath.Join(h.tmp, "tsd.other"), filepath.Join(h.tmp, "threatstopd-test-other")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// What others have, by names that are near.
	for _, name := range []string{"table.,ThreatSTOP-Block", "table.,threatstopd_test", "interface.pflog0", "interface.pair7", "interface.pair255", "interface.lo0",
		"service.threatstopd", "service.syslogd", "rules.threatstopd-test_own", "rules.threatstopd-test"} {
		write(t, filepath.Join(h.state, name), "")
	}
	fake, err := os.ReadFile("testdata/fake")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range strings.Fields("uname id chown pfctl ifconfig rcctl ktrace kdump route tcpdump nc ping ping6 ps sysctl") {
		write(t, filepath.Join(fakes, name), string(fake))
	}
	names := []string{"unit/fake"}
	for _, name := range []string{"bin/threatstopd", "fake/fake.test", "pfioctl/pfsim/pfsim.test", "capture/capture.test", "agent/internal/privsep/privsep.test"} {
		write(t, filepath.Join(h.dir, name), string(fake))
	}
	for _, c := range cases {
		names = append(names, c.name)
	}
	write(t, filepath.Join(h.dir, "cases"), strings.Join(names, "\n")+"\n")
	self, err := os.Executable()
	if err == nil {
		err = os.Symlink(self, filepath.Join(h.dir, "host.test"))
	}
	if err != nil {
		t.Fatal(err)
	}
	script, err := os.ReadFile("run")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(script), "\nPATH=", "\nPATH='"+fakes+"':", 1)
	if shell == "mksh" {
		prelude := ""
		for _, word := range strings.Fields(kshAliases) {
			prelude += fmt.Sprintf("alias %s='echo alias of %s; false'\n", word, word)
		}
		text = prelude + text
	}
	write(t, filepath.Join(h.dir, "run"), text)
	h.env = append(os.Environ(), "FAKE="+h.state, "TMPDIR="+h.tmp, "TESTROOT="+plain, "THREATSTOP_INTEGRATION=1", "THREATSTOP_WAIT=1")
	return h
}

func write(t *testing.T, name, text string) {
	t.Helper()
	err := os.MkdirAll(filepath.Dir(name), 0o755)
	if err == nil {
		err = os.WriteFile(name, []byte(text), 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// run runs the script, interrupts it at a change, 0 for none, and returns what it
// printed and its exit status.
func (h *fakeHost) run(t *testing.T, interrupt int, args ...string) (string, int) {
	t.Helper()
	write(t, filepath.Join(h.state, "count"), "0")
	write(t, filepath.Join(h.state, "daemon"), "")
	c := exec.Command("sh", append([]string{"-c", `echo $$ >"$FAKE/run.pid"; exec "$@"`, "sh", h.shell, h.dir + "/run"}, args...)...)
	c.Env = append(h.env, fmt.Sprint("INTERRUPT=", interrupt))
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	c.Run()
	return out.String(), c.ProcessState.ExitCode()
}

// left describes all that a run may have left or removed: the host's state, files, and
// processes that have one of them in their command.
func (h *fakeHost) left(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	for _, dir := range []string{h.dir, filepath.Dir(h.state)} {
		if err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
			if err == nil && !strings.HasSuffix(name, "/count") && !strings.HasSuffix(name, "/run.pid") && !strings.HasSuffix(name, "/daemon") {
				fmt.Fprintln(&b, name)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	ps, err := exec.Command("ps", "-axww", "-o", "pid,command").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(ps)) {
		if strings.Contains(line, h.dir) || strings.Contains(line, h.tmp) {
			b.WriteString(line)
		}
	}
	return b.String()
}

// TestRun interrupts the script in each case at changes to the host, its removals among them: the
// first, the second, the fourth and so on, until a run comes to its end. Nothing of it is left, and
// nothing else is removed.
// Cases take turns with the places where the archive is unpacked and with the shells.
func TestRun(t *testing.T) {
	if runtime.GOOS == "openbsd" || testing.Short() {
		t.Skip("runs the script with programs that only pretend")
	}
	blank := filepath.Join(t.TempDir(), "a b")
	if err := os.Mkdir(blank, 0o755); err != nil {
		t.Fatal(err)
	}
	places := []string{"/tmp", "/var/tmp", blank}
	shells := []string{"dash", "mksh"}
	for _, shell := range shells {
		if _, err := exec.LookPath(shell); err != nil {
			t.Skip(err)
		}
	}
	names := []string{"unit/fake"}
	for _, c := range cases {
		names = append(names, c.name)
	}
	for i, name := range names {
		place, shell := places[i%3], shells[i/3%2]
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newFakeHost(t, place, shell)
			before := h.left(t)
			for at := 1; ; at *= 2 {
				out, code := h.run(t, at, name)
				if after := h.left(t); after != before {
					t.Fatalf("%s in %s, interrupted at change %d: before\n%s\nafter\n%s\nit printed\n%s", shell, place, at, before, after, out)
				}
				if code != 130 {
					if at == 1 && name != "sync/configuration" && name != "sync/const" && name != "install/tree" && name != "scale/1000000" {
						t.Errorf("nothing was changed: %s", out)
					}
					t.Logf("%s in %s: before change %d the run ended, and printed\n%s", shell, place, at, out)
					return
				}
				if !strings.HasSuffix(out, "run: interrupted\n") {
					t.Errorf("interrupted at change %d, it printed\n%s", at, out)
				}
			}
		})
	}
}

// TestRunParses has both shells parse the script in every place, and list the cases.
func TestRunParses(t *testing.T) {
	if runtime.GOOS == "openbsd" {
		t.Skip("runs the script with programs that only pretend")
	}
	for _, shell := range []string{"dash", "mksh"} {
		if _, err := exec.LookPath(shell); err != nil {
			t.Skip(err)
		}
		for _, name := range []string{"plain", "with a blank"} {
			place := filepath.Join(t.TempDir(), name)
			if err := os.Mkdir(place, 0o755); err != nil {
				t.Fatal(err)
			}
			h := newFakeHost(t, place, shell)
			out, code := h.run(t, 0, "-n")
			if want, err := os.ReadFile(filepath.Join(h.dir, "cases")); err != nil || code != 0 || strings.Replace(string(want), "bench\n", "", 1) != out {
				t.Errorf("%s in %s: -n: exit status %d, %v: %s", shell, place, code, err, out)
			}
		}
	}
}
