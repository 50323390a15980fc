package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.org/threatstopd/agent/internal/status"
	"example.org/threatstopd/pfioctl"
)

// askStatus runs --status against a daemon that has the status, on the second of the
// two sockets, and without one when it is nil.
func askStatus(t *testing.T, st *status.Status, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "ts") // the path of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	var out, errs bytes.Buffer
	env := Env{Stdout: &out, Stderr: &errs, Local: time.UTC, Socket: filepath.Join(dir, "full"), StatusSocket: filepath.Join(dir, "status")}
	if st != nil {
		l, err := status.Listen(env.StatusSocket, "")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() {
			status.Serve(ctx, status.Listeners{ReadOnly: l}, status.Service{Status: func() status.Status { return *st }})
			close(done)
		}()
		defer func() { cancel(); <-done }()
	}
	code = Run(context.Background(), append([]string{"--status"}, args...), env)
	return code, out.String(), errs.String()
}

func TestStatus(t *testing.T) {
	now := time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)
	well := status.Status{Version: "v1", Started: now.Add(-time.Hour), Now: now, Enforced: true,
		Tables: []status.Table{{Kind: "block", Name: "ThreatSTOP-Block", Loaded: true, Policy: 3, Kernel: 3, Rules: 1,
			Excepted: []status.Excepted{{Prefix: netip.MustParsePrefix("10.0.0.1/32"), Why: "gateway", Inside: 1}}, ExceptedCount: 1}},
		Hits: status.Hits{Mode: "no"}}
	ill := well
	ill.Enforced, ill.NotEnforced = false, "pf is disabled: pfctl -e enables it"

	for _, tt := range []struct {
		name   string
		st     *status.Status
		args   []string
		code   int
		stdout string // begins with
		stderr string
	}{
		{"all is well", &well, nil, 0, "Enforced: 3 entries in <ThreatSTOP-Block>, used by 1 rule\nthreatstopd v1, up 1h\n", ""},
		{"something needs the owner", &ill, nil, 1, "NOT ENFORCED: pf is disabled: pfctl -e enables it\n", ""},
		{"for programs", &ill, []string{"--json"}, 1, "{\n  \"needs_owner\": [\n    \"not enforced: pf is disabled: pfctl -e enables it\"\n  ],\n", ""},
		{"more", &well, []string{"-v"}, 0, "Enforced: 3 entries in <ThreatSTOP-Block>, used by 1 rule\nthreatstopd v1, up 1h\nConfiguration", ""},
		{"no configuration is read", &well, []string{"-f", "/does/not/exist"}, 0, "Enforced", ""},
		{"no daemon", nil, nil, 3, "", "threatstopd: threatstopd is not running: `rcctl start threatstopd` starts it\n"},
		{"an argument", &well, []string{"now"}, 2, "", "threatstopd: unexpected argument \"now\"\n" + usage},
		{"another mode", &well, []string{"--sync-now"}, 2, "", "threatstopd: only one mode may be given, not --status and --sync-now\n" + usage},
		{"force", &well, []string{"--force"}, 2, "", "threatstopd: --force goes with --sync-now\n" + usage},
	} {
		t.Run(tt.name, func(t *testing.T) {
			code, stdout, stderr := askStatus(t, tt.st, tt.args...)
			if code != tt.code || !strings.HasPrefix(stdout, tt.stdout) || stderr != tt.stderr {
				t.Errorf("exit code %d, want %d; stderr %q, want %q; stdout\n%s", code, tt.code, stderr, tt.stderr, stdout)
			}
		})
	}
}

// A running daemon reports what it has done.
func TestStatusOfADaemon(t *testing.T) {
	h := newDaemonHost(t)
	h.facts.Gateways = append(h.facts.Gateways, netip.MustParseAddr("10.0.0.2"))
	h.start()
	h.until("enforced", h.says("policy enforced"))
	h.reads()
	h.packet(pfioctl.DirIn, "10.0.0.1", "198.18.0.1")
	h.seen(1)
	code, stdout, stderr := h.run("--status")
	if code != 0 || stderr != "" {
		t.Errorf("exit code %d, %s%s", code, stdout, stderr)
	}
	expect(t, stdout, "Enforced: 4 entries in <ThreatSTOP-Block>, used by ", "block "+blockList, h.server.Addr(),
		"excepted 10.0.0.2 (gateway)", "Hits on pflog0: 1 of 1 packets", blockList+" (1)", "Troubles: none")

	code, stdout, _ = h.run("--status", "--json")
	var got struct {
		NeedsOwner []string `json:"needs_owner"`
		status.Status
	}
	if err := json.Unmarshal([]byte(stdout), &got); err != nil {
		t.Fatalf("%v of\n%s", err, stdout)
	}
	if code != 0 || len(got.NeedsOwner) != 0 || len(got.Lists) != 2 || len(got.Tables) != 2 || got.Tables[0].Kernel != 4 || got.Poll.Next.IsZero() {
		t.Errorf("exit code %d:\n%s", code, stdout)
	}

	// pf is disabled: that is the first thing that is said.
	h.kernel.SetRunning(false)
	h.sync(0)
	code, stdout, _ = h.run("--status")
	if code != 1 || !strings.HasPrefix(stdout, "NOT ENFORCED: pf is disabled") {
		t.Errorf("exit code %d:\n%s", code, stdout)
	}
	h.stop()
	if code, _, stderr := h.run("--status"); code != 3 || !strings.Contains(stderr, "rcctl start threatstopd") {
		t.Errorf("after the daemon: %d, %s", code, stderr)
	}
}
