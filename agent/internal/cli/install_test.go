package cli

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/spf13/pflag"

	"example.org/threatstopd/agent/internal/config"
	"example.org/threatstopd/pfioctl/pfsim"
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
		needs := slices.ContainsFunc(modes, func(m *mode) bool { return m.name == flag.Name && m.least == 1 })
		if takes := flag.Value.Type() == "string" || needs; takes != strings.Contains(manual, item+" Ar ") {
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

// literals returns the lines of the literal displays in a section, of one-line displays too, with
// continued lines joined and without mdoc's escapes.
func literals(manual, section string) (lines []string) {
	_, text, _ := strings.Cut(manual, ".Sh "+section+"\n")
	text, _, _ = strings.Cut(text, "\n.Sh ")
	inside := false
	for line := range strings.Lines(strings.ReplaceAll(text, "\\e\n\t", "")) {
		line = strings.TrimSuffix(line, "\n")
		one, short := strings.CutPrefix(line, ".Dl ")
		switch {
		case short:
			lines = append(lines, one)
		case strings.HasPrefix(line, ".Bd -literal"):
			inside = true
		case line == ".Ed":
			inside = false
		case inside:
			lines = append(lines, strings.ReplaceAll(line, `\e`, `\`))
		}
	}
	return lines
}

// TestExamplesParse parses each threatstopd command of the manuals' and the README's examples as
// the program would, the daemon's flags in rcctl's included.
func TestExamplesParse(t *testing.T) {
	lines := literals(manualPage(t), "EXAMPLES")
	readme, err := os.ReadFile("../../../README.md")
	if err != nil {
		t.Skip("the source is not on this host")
	}
	for line := range strings.Lines(string(readme)) {
		if line, ok := strings.CutPrefix(line, "    "); ok {
			lines = append(lines, "# "+line)
		} else if strings.HasPrefix(line, "$ ") {
			lines = append(lines, line)
		}
		for _, code := range regexp.MustCompile("`(threatstopd -[^`]*)`").FindAllStringSubmatch(line, -1) {
			lines = append(lines, "# "+code[1])
		}
	}
	command := regexp.MustCompile(`^[#$] (?:route -T 1 exec |\./)?threatstopd( [^|&>#]*)?`)
	rcctl := regexp.MustCompile(`^# rcctl set threatstopd flags(.*)`)
	n := 0
	for _, line := range lines {
		m := command.FindStringSubmatch(line)
		if m == nil {
			m = rcctl.FindStringSubmatch(line)
		}
		if m == nil {
			continue
		}
		n++
		if _, err := parse(strings.Fields(strings.NewReplacer("[", "", "]", "").Replace(m[1]))); err != nil {
			t.Errorf("%s: %v", line, err)
		}
	}
	if n < 15 {
		t.Errorf("%d commands in %q", n, lines)
	}
}

// TestConfigExamplesParse reads the examples of threatstop.conf(5): the first is a whole
// configuration, each of the others is added to it.
func TestConfigExamplesParse(t *testing.T) {
	page, err := os.ReadFile("../../../install/threatstop.conf.5")
	if err != nil {
		t.Skip("the source is not on this host")
	}
	_, text, _ := strings.Cut(string(page), ".Sh EXAMPLES\n")
	blocks := strings.Split(text, ".Ed\n")
	first := ""
	for _, block := range blocks[:len(blocks)-1] {
		lines := strings.Join(literals(".Sh X\n"+block+".Ed\n", "X"), "\n") + "\n"
		if first == "" {
			first = lines
		}
		_, warnings, err := config.Parse("example", strings.NewReader(first+strings.TrimPrefix(lines, first)))
		for _, w := range warnings {
			// The first example has the placeholders that an owner replaces.
			if !strings.Contains(fmt.Sprint(w), "is the value of the example") {
				t.Errorf("%v, of\n%s", w, lines)
			}
		}
		if err != nil {
			t.Errorf("%v, of\n%s", err, lines)
		}
	}
	if len(blocks) < 5 {
		t.Errorf("%d examples", len(blocks)-1)
	}
}

// The questions of --install lead to a configuration that is accepted, and its servers are tried.
func TestInstallAsks(t *testing.T) {
	fw := newFirewall(t, pfsim.Options{})
	var out bytes.Buffer
	env := fw.env()
	env.Stdout = &out
	conf := InstallConf()
	answers := map[string]string{"device_id": "tdid_1", "DNS_SERVERS": fw.server.Addr(), "BLOCK_LISTS": blockList, "ALLOW_LISTS": ""}
	for _, q := range conf.Questions {
		if _, ok := answers[q.Key]; !ok {
			answers[q.Key] = q.Default
		}
	}
	text := conf.Fill(answers)
	if _, warnings, err := conf.Parse("answers", text); err != nil || len(warnings) > 0 || answers["url"] == "" {
		t.Fatalf("%v, %v", warnings, err)
	}
	if err := tryServers(t.Context(), env, text); err != nil || !strings.HasSuffix(out.String(), "DNS Server is ready.\n") ||
		!strings.HasPrefix(out.String(), "block list "+blockList+": ") {
		t.Errorf("%v: %s", err, &out)
	}
	answers["BLOCK_LISTS"] = "none.example.net"
	if err := tryServers(t.Context(), env, conf.Fill(answers)); err == nil || !strings.Contains(err.Error(), "A new device takes") {
		t.Errorf("a list that is not: %v", err)
	}
}
