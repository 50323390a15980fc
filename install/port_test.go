package install

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// portFile reads a file of the port, or of the source around it.
func portFile(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Skip("the source is not on this host")
	}
	return string(data)
}

// TestPortModules: what the port fetches is what go.mod and go.sum name: the modules that
// the program is made from, and the go.mod files of the others.
func TestPortModules(t *testing.T) {
	want := map[string]map[string]bool{"MODGO_MODULES": {}, "MODGO_MODFILES": {}}
	for _, m := range regexp.MustCompile(`(?m)^\t(\S+) (v\S+)`).FindAllStringSubmatch(portFile(t, "../go.mod"), -1) {
		want["MODGO_MODULES"][m[1]+" "+m[2]] = true
	}
	for line := range strings.Lines(portFile(t, "../go.sum")) {
		fields := strings.Fields(line)
		if version, ok := strings.CutSuffix(fields[1], "/go.mod"); ok && !want["MODGO_MODULES"][fields[0]+" "+version] {
			want["MODGO_MODFILES"][fields[0]+" "+version] = true
		}
	}
	upper := regexp.MustCompile(`![a-z]`)
	got := map[string]map[string]bool{}
	for _, block := range regexp.MustCompile(`(?ms)^(MODGO_\w+) = \\\n(.*?[^\\])$`).FindAllStringSubmatch(portFile(t, "port/modules.inc"), -1) {
		got[block[1]] = make(map[string]bool)
		for line := range strings.Lines(block[2]) {
			fields := strings.Fields(strings.TrimSuffix(strings.TrimSpace(line), `\`))
			path := upper.ReplaceAllStringFunc(fields[0], func(s string) string { return strings.ToUpper(s[1:]) })
			got[block[1]][path+" "+fields[1]] = true
		}
	}
	for name := range want {
		if !maps.Equal(got[name], want[name]) {
			t.Errorf("%s is\n%s\nand should be\n%s", name, strings.Join(slices.Sorted(maps.Keys(got[name])), "\n"), strings.Join(slices.Sorted(maps.Keys(want[name])), "\n"))
		}
	}
	module, _, _ := strings.Cut(strings.TrimPrefix(portFile(t, "../go.mod"), "module "), "\n")
	if !strings.Contains(portFile(t, "port/Makefile"), "MODGO_MODNAME =\t"+module+"\n") {
		t.Errorf("the port is not of module %s", module)
	}
}

// TestPortVariables: the linker takes a -X for a variable that does not exist without a
// word.
func TestPortVariables(t *testing.T) {
	makefile := portFile(t, "port/Makefile")
	found := regexp.MustCompile(`-X \$\{MODGO_MODNAME\}/(\S+)\.(\w+)=`).FindAllStringSubmatch(makefile, -1)
	if len(found) != 3 {
		t.Fatalf("%d variables", len(found))
	}
	for _, m := range found {
		dir, name := "../"+m[1], m[2]
		declared := regexp.MustCompile(`(?m)^(?:var |\t)` + name + `\s*=\s*"[^"\n]*"$`)
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		ok := slices.ContainsFunc(entries, func(e os.DirEntry) bool {
			return strings.HasSuffix(e.Name(), ".go") && declared.MatchString(portFile(t, dir+"/"+e.Name()))
		})
		if !ok {
			t.Errorf("%s: no variable %s that is a string", dir, name)
		}
	}
}

// TestPortMakesWhatInstallMakes: the package and --install put the same on a host.
func TestPortMakesWhatInstallMakes(t *testing.T) {
	list := portFile(t, "port/pkg/PLIST")
	b := newBox(t, freshTree())
	b.mustInstall()
	before := freshTree()
	vars := strings.NewReplacer("/usr/local/etc/", "${SYSCONFDIR}/", "/etc/rc.d/", "${RCDIR}/", "/usr/local/", "", "/var/", "${LOCALSTATEDIR}/")
	for name := range b.snapshot() {
		if _, ok := before[name]; ok || name == manifestPath || name == rcConfPath {
			continue
		}
		if s, err := (&host{Options: Options{Root: b.root}}).stat(name); err != nil || s.Type == typeDir && name != "/var/spool/threatstop" {
			continue
		}
		if name = vars.Replace(name); !regexp.MustCompile(`(?m)(^|[ ])` + regexp.QuoteMeta(name) + `/?( |$)`).MatchString(list) {
			t.Errorf("%s is not in the packing list", name)
		}
	}
	// gecos, home and shell of the user are the same.
	if user := regexp.MustCompile(`(?m)^@newuser _threatstop:(\d+):_threatstop:daemon:(.*)$`).FindStringSubmatch(list); user == nil {
		t.Error("no user")
	} else if !strings.HasSuffix(userLine("_threatstop", 300, 300), ":"+user[2]) {
		t.Errorf("the user is %s", user[0])
	}
	for line := range strings.Lines(list) {
		if line = strings.TrimSuffix(line, "\n"); strings.HasPrefix(line, "man/") {
			t.Errorf("%s: is a manual without @man", line)
		}
	}
}

func TestRCScript(t *testing.T) {
	script := rcScript()
	contains(t, script, `daemon="/usr/local/sbin/threatstopd"`, "\nrc_bg=YES\n", "\nrc_reload_signal=HUP\n", "rc_configtest() {\n\t${daemon} -n ${daemon_flags}\n}", "\nrc_cmd $1\n")
	if strings.Contains(script, "${TRUEPREFIX}") || regexp.MustCompile(`(?m)^pexp=`).MatchString(script) {
		t.Errorf("script:\n%s", script)
	}
	prefix = "/opt"
	defer func() { prefix = "/usr/local" }()
	contains(t, rcScript(), `daemon="/opt/sbin/threatstopd"`)
}
