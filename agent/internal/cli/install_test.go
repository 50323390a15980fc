package cli

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/spf13/pflag"
)

// lay makes the files of a system that is not running.
func lay(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// TestInstallIntoATree goes through the whole program: its arguments, itself as the
// program that is installed, a tree for a host.
func TestInstallIntoATree(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("gives files to root")
	}
	root := lay(t, map[string]string{
		"/etc/passwd":        "root:*:0:0:Charlie &:/root:/bin/ksh\n",
		"/etc/master.passwd": "root:*:0:0:daemon:0:0:Charlie &:/root:/bin/ksh\n",
		"/etc/group":         "wheel:*:0:root\n",
		"/etc/pf.conf":       "pass\n",
		"/var/db/locate":     "",
		"/var/spool/lock":    "",
	})
	run := func(want int, args ...string) string {
		t.Helper()
		var out, stderr bytes.Buffer
		env := Env{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &stderr, Destdir: root}
		if code := Run(context.Background(), args, env); code != want {
			t.Fatalf("%v: exit code %d, want %d\n%s%s", args, code, want, out.String(), stderr.String())
		}
		return out.String() + stderr.String()
	}
	if out := run(exitKept, "--install"); !strings.Contains(out, "Go on? [y/n] ") || !strings.HasSuffix(out, "threatstopd: nothing was changed\n") {
		t.Errorf("without an answer:\n%s", out)
	}
	run(exitOK, "--install", "--yes")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(root, "/usr/local/sbin/threatstopd"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("another program was installed")
	}
	for name, uid := range map[string]uint32{"/var/spool/threatstop": 300, "/etc/rc.d/threatstopd": 0} {
		fi, err := os.Lstat(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		if got := fi.Sys().(*syscall.Stat_t).Uid; got != uid {
			t.Errorf("%s is uid %d's, want %d", name, got, uid)
		}
	}
	if out := run(exitOK, "--install", "--yes"); !strings.Contains(out, "there is nothing to do") {
		t.Errorf("the second time:\n%s", out)
	}
	run(exitOK, "--uninstall", "--yes")
	for _, name := range []string{"/usr", "/etc/rc.d", "/etc/rc.conf.local", "/var/spool/threatstop", "/var/db/threatstopd.manifest", "/var/db/ThreatSTOP-Block.pftable"} {
		if _, err := os.Lstat(filepath.Join(root, name)); err == nil {
			t.Errorf("%s is there still", name)
		}
	}
}

func TestInstallUsage(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		says string
	}{
		"bad: --yes alone":             {[]string{"--yes"}, "--yes goes with --install or --uninstall"},
		"bad: another configuration":   {[]string{"--install", "-f", "/etc/x"}, "-f does not go with --install"},
		"bad: both":                    {[]string{"--install", "--uninstall"}, "only one mode may be given"},
		"bad: something to install":    {[]string{"--install", "all"}, `unexpected argument "all"`},
		"bad: this is not a directory": {[]string{"--install", "--yes"}, "threatstopd: "},
	} {
		t.Run(name, func(t *testing.T) {
			var out, stderr bytes.Buffer
			code := Run(context.Background(), c.args, Env{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &stderr, Destdir: filepath.Join(t.TempDir(), "none")})
			if code == exitOK || !strings.Contains(stderr.String(), c.says) {
				t.Errorf("exit code %d, %s", code, stderr.String())
			}
		})
	}
}

// manualPage is the manual, or the test is skipped where the source is not.
func manualPage(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile("../../../install/threatstopd.8")
	if err != nil {
		t.Skip("the source is not on this host")
	}
	return string(data)
}

// Every flag is in the manual, with its short form and whether it takes an argument.
func TestFlagsAreDocumented(t *testing.T) {
	manual := manualPage(t)
	flagSet(new(flags)).VisitAll(func(flag *pflag.Flag) {
		item := ".It Fl "
		if flag.Shorthand != "" {
			item += flag.Shorthand + " , "
		}
		item += "-" + flag.Name
		if !strings.Contains(manual, item+"\n") && !strings.Contains(manual, item+" ") {
			t.Errorf("%q is not in the manual", item)
		}
		m, _ := flag.Value.(*modeFlag)
		if takes := flag.Value.Type() == "string" || m != nil && m.m.least == 1; takes != strings.Contains(manual, item+" Ar ") {
			t.Errorf("%q: takes an argument: %v", item, takes)
		}
	})
	for _, code := range []int{exitOK, exitKept, exitUsage} {
		if !strings.Contains(manual, fmt.Sprintf(".It %d\n", code)) {
			t.Errorf("exit status %d is not in the manual", code)
		}
	}
	if !strings.Contains(manual, fmt.Sprintf("and %d when no\ndaemon answers", exitNone)) {
		t.Errorf("exit status %d is not in the manual", exitNone)
	}
}

// The manual's synopsis is the usage.
func TestSynopsisIsTheUsage(t *testing.T) {
	_, synopsis, _ := strings.Cut(manualPage(t), ".Sh SYNOPSIS\n")
	synopsis, _, _ = strings.Cut(synopsis, ".Sh ")
	var lines []string
	for line := range strings.Lines(synopsis) {
		macro, args, _ := strings.Cut(strings.TrimSpace(line), " ")
		text := ""
		for _, w := range strings.Fields(args) {
			switch w {
			case "Fl", "Ar", "Cm":
				macro, text = macro+" "+w, text+" "
			case "|":
				text += " | "
			default:
				if strings.HasSuffix(macro, "Fl") {
					w = "-" + w
				}
				text += " " + w
			}
		}
		text = strings.Join(strings.Fields(text), " ")
		switch {
		case macro == ".Nm":
			lines = append(lines, "threatstopd")
			continue
		case strings.HasPrefix(macro, ".Op"):
			text = "[" + text + "]"
		case strings.HasPrefix(macro, ".Fl"):
			if !strings.HasPrefix(text, "-") {
				text = "-" + text
			}
		}
		lines[len(lines)-1] += " " + text
	}
	want := strings.Split(strings.TrimSpace(strings.TrimPrefix(usage, "usage:")), "\n")
	for i := range want {
		want[i] = strings.TrimSpace(want[i])
	}
	if got := strings.ReplaceAll(strings.Join(lines, "\n"), "--install | -uninstall", "--install | --uninstall"); got != strings.Join(want, "\n") {
		t.Errorf("the manual has:\n%s\nthe usage is:\n%s", got, strings.Join(want, "\n"))
	}
}
