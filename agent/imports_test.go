package main

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "example.org/threatstopd"

// deps lists the packages that a package links.
func deps(t *testing.T, pkg string) []string {
	t.Helper()
	gocmd, err := exec.LookPath("go")
	if err != nil {
		t.Skip("no go command on this host")
	}
	cmd := exec.Command(gocmd, "list", "-deps", module+"/"+pkg)
	cmd.Dir = ".."
	out, err := cmd.CombinedOutput()
	if err != nil {
		// The test may run where the module's source is not.
		if strings.Contains(string(out), "go.mod file not found") {
			t.Skip("the source is not on this host")
		}
		t.Fatalf("go list -deps %s: %v\n%s", pkg, err, out)
	}
	return strings.Fields(string(out))
}

// What each room may know, as the architecture has it.
func TestImports(t *testing.T) {
	const any = "*"
	rooms := map[string][]string{ // package: what of this module it links
		"pfioctl":                 {},
		"pfioctl/pfsim":           {"pfioctl"},
		"capture":                 {},
		"capture/capturetest":     {"capture"},
		"dnsfetch":                {},
		"dnsfetch/dnstest":        {"dnsfetch"},
		"agent/policy":            {},
		"agent/config":            {},
		"agent/host":              {"agent/policy"},
		"agent/enforce":           {"pfioctl"},
		"agent/update":            {"agent/enforce", "agent/policy", "dnsfetch", "pfioctl"},
		"agent/report":            {"agent/policy", "agent/report/*", "capture"},
		"agent/report/spool":      {},
		"agent/report/upload":     {},
		"agent/report/reporttest": {},
		"install":                 {"agent/config"},
	}
	for room, allowed := range rooms {
		for _, d := range deps(t, room) {
			d, ours := strings.CutPrefix(d, module+"/")
			if !ours || d == room {
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
	for _, d := range deps(t, "agent") {
		for _, never := range []string{"pfsim", "dnstest", "capturetest", "reporttest", "agent/demo", "gopacket/layers"} {
			if strings.HasSuffix(d, "/"+never) {
				t.Errorf("threatstopd links %s", d)
			}
		}
		if d == "testing" {
			t.Errorf("threatstopd links %s", d)
		}
	}
	if slices.Contains(deps(t, "agent/policy"), "net") {
		t.Error("agent/policy links net: it knows no network")
	}
}
