package main

import (
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "example.org/threatstopd"

// allDeps lists what each of these packages links. One go command does it for
// all: on a slow host each takes seconds.
func allDeps(t *testing.T, pkgs []string) map[string][]string {
	t.Helper()
	gocmd, err := exec.LookPath("go")
	if err != nil {
		t.Skip("no go command on this host")
	}
	args := []string{"list", "-f", "{{.ImportPath}}{{range .Deps}} {{.}}{{end}}"}
	for _, p := range pkgs {
		args = append(args, module+"/"+p)
	}
	cmd := exec.Command(gocmd, args...)
	cmd.Dir = ".."
	// Nothing is fetched for this.
	cmd.Env = append(os.Environ(), "GOPROXY=off", "GOTOOLCHAIN=local")
	out, err := cmd.CombinedOutput()
	if err != nil {
		// The test may run where the module's source is not, or those of
		// others, or by a user who has no directory for go.
		for _, without := range []string{"go.mod file not found", "GOPROXY=off", "GOTOOLCHAIN=local", " cache"} {
			if strings.Contains(string(out), without) {
				t.Skipf("go list: %s", out)
			}
		}
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	all := make(map[string][]string)
	for line := range strings.Lines(string(out)) {
		if pkg, ok := strings.CutPrefix(line, module+"/"); ok {
			name, deps, _ := strings.Cut(strings.TrimSpace(pkg), " ")
			all[name] = strings.Fields(deps)
		}
	}
	for _, p := range pkgs {
		if len(all[p]) == 0 {
			t.Fatalf("go %s says nothing of %s:\n%s", strings.Join(args, " "), p, out)
		}
	}
	return all
}

// What each room may know, as the architecture has it.
func TestImports(t *testing.T) {
	const any = "*"
	rooms := map[string][]string{ // package: what of this module it links
		"pfioctl":                            {"pfioctl/internal/abi"},
		"pfioctl/pfsim":                      {"pfioctl", "pfioctl/internal/abi"},
		"capture":                            {},
		"capture/capturetest":                {"capture"},
		"dnsfetch":                           {},
		"dnsfetch/dnstest":                   {"dnsfetch"},
		"agent/internal/policy":              {},
		"agent/internal/config":              {"agent/internal/host", "agent/internal/policy"},
		"agent/internal/host":                {"agent/internal/policy"},
		"agent/internal/apply":               {"agent/internal/policy", "pfioctl", "pfioctl/internal/abi"},
		"agent/internal/sources":             {"agent/internal/apply", "agent/internal/fetch", "agent/internal/policy", "agent/internal/privsep", "dnsfetch", "pfioctl", "pfioctl/internal/abi", "pfioctl/*"},
		"agent/internal/report":              {"agent/internal/host", "agent/internal/policy", "agent/internal/privsep", "agent/internal/status", "capture"},
		"agent/internal/rules":               {"pfioctl", "pfioctl/internal/abi"},
		"agent/reporttest":                   {},
		"agent/internal/privsep":             {},
		"agent/internal/privsep/privseptest": {"agent/internal/privsep"},
		"agent/internal/states":              {"agent/internal/policy", "agent/internal/privsep", "pfioctl", "pfioctl/internal/abi"},
		"agent/internal/fetch":               {"agent/internal/privsep", "dnsfetch"},
		"agent/internal/status":              {"agent/internal/privsep"},
		"install":                            {},
	}
	deps := allDeps(t, append(slices.Sorted(maps.Keys(rooms)), "agent"))
	for room, allowed := range rooms {
		for _, d := range deps[room] {
			d, ours := strings.CutPrefix(d, module+"/")
			if !ours {
				continue
			}
			if !slices.ContainsFunc(allowed, func(a string) bool {
				dir, all := strings.CutSuffix(a, any)
				return d == a || all && strings.HasPrefix(d, dir)
			}) {
				t.Errorf("%s links %s", room, d)
			}
		}
	}
	for _, d := range deps["agent"] {
		for _, never := range []string{"pfsim", "dnstest", "capturetest", "reporttest", "privseptest", "agent/demo", "pfloglayer", "gopacket/layers"} {
			if strings.HasSuffix(d, "/"+never) {
				t.Errorf("threatstopd links %s", d)
			}
		}
		if d == "testing" {
			t.Errorf("threatstopd links %s", d)
		}
	}
	if slices.Contains(deps["agent/internal/policy"], "net") {
		t.Error("agent/internal/policy links net: it knows no network")
	}
}
