package cli_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"example.org/threatstopd/agent/internal/config"
	"example.org/threatstopd/agent/internal/privsep/privseptest"
	"example.org/threatstopd/agent/internal/status"
	"example.org/threatstopd/install"
)

// page reads a manual page, which is part of the installation.
func page(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../../../install", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// plain is mdoc as one line of text: without macros and escapes.
func plain(mdoc string) string {
	var words []string
	for line := range strings.Lines(mdoc) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, `.\"`) {
			continue
		}
		for _, w := range strings.Fields(line) {
			if strings.HasPrefix(w, ".") && len(w) == 3 || w == "Ns" {
				continue
			}
			if len(words) > 0 && (w == "." || w == "," || w == ";" || w == ":") {
				words[len(words)-1] += w
				continue
			}
			words = append(words, strings.ReplaceAll(w, `\&`, ""))
		}
	}
	return strings.Join(words, " ")
}

// items returns what stands below each item of a kind, by the item's name.
func items(mdoc, macro string) map[string]string {
	all := make(map[string]string)
	name := ""
	for line := range strings.Lines(mdoc) {
		text := strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(text, ".It "+macro):
			name = strings.TrimPrefix(strings.TrimPrefix(text, ".It "+macro), " ")
			all[name] = ""
		case strings.HasPrefix(text, ".It "), strings.HasPrefix(text, ".El"), strings.HasPrefix(text, ".S"):
			name = ""
		case name != "":
			all[name] += line
		}
	}
	return all
}

// words are the words of a text without what is at their ends.
func words(text string) []string {
	var all []string
	for _, w := range strings.Fields(text) {
		if w = strings.Trim(regexp.MustCompile(`\(\d\)`).ReplaceAllString(w, ""), `"'.,;:()-`); w != "" {
			all = append(all, w)
		}
	}
	return all
}

// Every key is documented, with its default and what it may hold; and no other is.
func TestKeysAreDocumented(t *testing.T) {
	documented := items(page(t, "threatstop.conf.5"), "Va")
	// The comment above each key of the example, up to what is allowed.
	docs := make(map[string]string)
	for _, m := range regexp.MustCompile(`(?m)((?:^# .*\n)+)#?(\w+)=`).FindAllStringSubmatch(config.Example(), -1) {
		docs[m[2]], _, _ = strings.Cut(strings.ReplaceAll(m[1], "#", ""), "Allowed:")
	}
	for _, k := range config.Keys() {
		text, ok := documented[k.Name]
		if !ok {
			t.Errorf("%s is not documented", k.Name)
			continue
		}
		delete(documented, k.Name)
		fallback := "By default it is not set."
		switch {
		case k.Default != "":
			fallback = "The default is " + k.Default + "."
		case k.Need != "":
			fallback = "There is no default."
		}
		if text = plain(text); !strings.HasSuffix(text, fallback) {
			t.Errorf("%s: %q does not end with %q", k.Name, text, fallback)
		}
		// The words are those of threatstop.conf.example, in the same order.
		rest := words(text)
		for _, w := range words(docs[k.Name]) {
			i := slices.Index(rest, w)
			if i < 0 {
				t.Errorf("%s: %q does not have %q of %q", k.Name, text, w, docs[k.Name])
				break
			}
			rest = rest[i+1:]
		}
		if want := "Allowed: " + strings.Join(strings.Fields(k.Allowed), " ") + "."; !strings.Contains(text, want) {
			t.Errorf("%s: %q does not have %q", k.Name, text, want)
		}
	}
	for name := range documented {
		t.Errorf("%s is documented, and is no key", name)
	}
}

func TestFilesAreDocumented(t *testing.T) {
	text := page(t, "threatstopd.8")
	cfg, _, err := config.Parse("example", strings.NewReader(config.Example()))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{
		"/var/db/threatstopd.manifest", "/etc/rc.d/threatstopd", config.DefaultPath, cfg.BlockFile, cfg.AllowFile, cfg.SpoolDir, cfg.PflogFile,
		status.SocketPath, status.StatusSocketPath,
	} {
		if !strings.Contains(text, ".It Pa "+path+"\n") {
			t.Errorf("%s is not among the files", path)
		}
	}
	for _, line := range strings.Split(install.PFAdvice(cfg.BlockTable, cfg.BlockFile, cfg.AllowTable, cfg.AllowFile), "\n") {
		if rule, ok := strings.CutPrefix(line, "    "); ok && !strings.Contains(strings.ReplaceAll(text, "\\e\n\t", ""), rule) {
			t.Errorf("pf.conf's line %q is not in the manual", rule)
		}
	}
}

// What DIAGNOSTICS quotes is what the program says.
func TestDiagnosticsAreSaid(t *testing.T) {
	var source bytes.Buffer
	err := filepath.WalkDir("../../..", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		data, err := os.ReadFile(path)
		source.Write(data)
		return err
	})
	if err != nil || !bytes.Contains(source.Bytes(), []byte("package pfioctl")) {
		t.Skip("the source is not on this host")
	}
	_, section, ok := strings.Cut(page(t, "threatstopd.8"), ".Sh DIAGNOSTICS\n")
	if !ok {
		t.Fatal("no section DIAGNOSTICS")
	}
	section, _, _ = strings.Cut(section, "\n.Sh ")
	n := 0
	for line := range strings.Lines(section) {
		said, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), ".It ")
		if !ok {
			continue
		}
		n++
		said = strings.ReplaceAll(said, `\&`, "")
		if said == "cannot allocate memory" {
			continue // the system's words
		}
		if !bytes.Contains(source.Bytes(), []byte(said)) {
			t.Errorf("nobody says %q", said)
		}
	}
	if n < 20 {
		t.Errorf("%d diagnostics", n)
	}
}

// notHere is what mandoc says of manuals of OpenBSD on another system.
var notHere = regexp.MustCompile(`STYLE: referenced manual not found|outdated mandoc\.db`)

func TestManualsAreCleanMdoc(t *testing.T) {
	mandoc, err := exec.LookPath("mandoc")
	if err != nil {
		t.Skip("no mandoc on this host")
	}
	for _, name := range []string{"threatstopd.8", "threatstop.conf.5"} {
		text := page(t, name)
		cmd := exec.Command(mandoc, "-Tlint", "-Wstyle")
		cmd.Stdin = strings.NewReader(text)
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(out)) {
			if !notHere.MatchString(line) {
				t.Errorf("%s: %s", name, line)
			}
		}
		for i, line := range strings.Split(text, "\n") {
			if len(line) > 80 {
				t.Errorf("%s:%d: %d columns", name, i+1, len(line))
			}
		}
	}
}

// What the manual says of the processes is what confines them.
func TestProcessesAreDocumented(t *testing.T) {
	_, rest, ok := strings.Cut(page(t, "threatstopd.8"), privseptest.ManualBegin)
	table, _, end := strings.Cut(rest, privseptest.ManualEnd+"\n")
	if !ok || !end {
		t.Fatalf("threatstopd.8 has no lines %q and %q", privseptest.ManualBegin, privseptest.ManualEnd)
	}
	if want := privseptest.Manual(); privseptest.ManualBegin+table+privseptest.ManualEnd+"\n" != want {
		t.Errorf("in threatstopd.8 the table of processes has to be:\n%s", want)
	}
}
