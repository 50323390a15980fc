package cli

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.org/threatstopd/capture"
	"example.org/threatstopd/capture/capturetest"
	"example.org/threatstopd/pfioctl/pfsim"
)

// runLogged is run on a machine that has no pflog.
func (fw *firewall) runLogged(args ...string) (code int, stdout, stderr string) {
	fw.t.Helper()
	var out, errs bytes.Buffer
	env := fw.env()
	env.Stdout, env.Stderr = &out, &errs
	env.OpenPflog = func(capture.Options) (capture.Source, error) { return nil, io.ErrClosedPipe }
	env.FlushPflogd = func() error { return errors.New("pflogd: not running") }
	code = Run(context.Background(), append([]string{"-f", fw.writeConf()}, args...), env)
	return code, out.String(), errs.String()
}

// The machine under the test is no firewall: that is reported, and does not stop the
// rest.
func TestTest(t *testing.T) {
	fw := newFirewall(t, pfsim.Options{})
	fw.sync(0)
	fw.conf["UPLOAD"], fw.conf["USER"] = "no", "nobody_of_this_name"
	fw.conf["RELOAD_PF"] = "no" // no connection is made
	fw.kernel.SetRunning(false)
	code, stdout, stderr := fw.runLogged("--test")
	if code != 1 || stderr != "" {
		t.Errorf("exit code %d, stderr %q", code, stderr)
	}
	expect(t, stdout, "FAIL  pf is disabled: nothing is blocked\n", "DNS Server is ready.\n", "note  user nobody_of_this_name", "The test was not successful: ")
	fw.conf["MAX_SHRINK"] = "much"
	if code, stdout, _ = fw.runLogged("--test"); code != 1 {
		t.Errorf("exit code %d", code)
	}
	expect(t, stdout, "FAIL  configuration: ", "MAX_SHRINK", "The test was not successful: 1 failure.\n")
}

func TestCheckAddress(t *testing.T) {
	fw := newFirewall(t, pfsim.Options{})
	fw.sync(0)
	for addr, want := range map[string]struct {
		code int
		say  string
	}{
		"10.0.0.1":    {0, "10.0.0.1 is blocked\n"},
		"192.0.2.7":   {1, "192.0.2.7 is not blocked\n"},
		"2001:db8::1": {0, "entry 2001:db8::/32 of list " + blockList},
		"10.0.0.0/30": {1, "10.0.0.0/30 is blocked in part\n"},
		"10.0.0":      {2, ""},
		"":            {2, ""},
	} {
		code, stdout, stderr := fw.runLogged("--check", addr)
		if code != want.code || !strings.Contains(stdout, want.say) {
			t.Errorf("%q: exit code %d, want %d\n%s%s", addr, code, want.code, stdout, stderr)
		}
	}
}

// -n, --test and --check print one JSON object, also for an invalid configuration.
func TestJSON(t *testing.T) {
	fw := newFirewall(t, pfsim.Options{})
	fw.sync(0)
	fw.conf["UPLOAD"], fw.conf["RELOAD_PF"] = "no", "no"
	object := func(want int, args ...string) map[string]any {
		t.Helper()
		code, stdout, stderr := fw.runLogged(append(args, "--json")...)
		var got map[string]any
		if err := json.Unmarshal([]byte(stdout), &got); err != nil || code != want {
			t.Errorf("%v: exit code %d, want %d, %v\n%s%s", args, code, want, err, stdout, stderr)
		}
		return got
	}
	if got := object(0, "-n"); got["valid"] != true || got["settings"].(map[string]any)["UPLOAD"] != "no" {
		t.Errorf("%v", got)
	}
	if got := object(0, "--check", "10.0.0.1"); got["checked"].([]any)[0].(map[string]any)["answer"] != "blocked" {
		t.Errorf("%v", got)
	}
	// On a host with a pf.conf, that does not name the table.
	wrong := 0.0
	if _, err := os.Stat(pfConf); err == nil {
		wrong = 1
	}
	if got := object(int(wrong), "--test"); got["failures"] != wrong {
		t.Errorf("%v", got)
	}
	fw.conf["MAX_SHRINK"] = "much"
	if got := object(2, "-n"); got["valid"] != false || len(got["errors"].([]any)) != 1 {
		t.Errorf("%v", got)
	}
	if got := object(1, "--test"); got["failures"] != 1.0 {
		t.Errorf("%v", got)
	}
}

// Records are found in pflogd's file and in the rotated ones, compressed or not.
func TestCheckFindsRotatedRecords(t *testing.T) {
	fw := newFirewall(t, pfsim.Options{})
	fw.sync(0)
	file := filepath.Join(t.TempDir(), "pflog")
	fw.conf["pflog"] = file
	for hour, name := range []string{".1.gz", ".0", ""} {
		var b bytes.Buffer
		var to io.Writer = &b
		gz := gzip.NewWriter(&b)
		if strings.HasSuffix(name, ".gz") {
			to = gz
		}
		w, err := capturetest.NewPcapWriter(to, 0, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, from := range []string{"10.0.0.1", "10.0.0.9"} {
			if err := w.Write(&capturetest.Packet{Time: time.Date(2026, 3, 1, hour, 0, 0, 0, time.UTC), Action: capture.ActionBlock, Iface: "em0",
				Src: netip.MustParseAddr(from), Dst: netip.MustParseAddr("192.0.2.1"), Proto: capturetest.UDP}); err != nil {
				t.Fatal(err)
			}
		}
		if to == gz {
			gz.Close()
		}
		if err := os.WriteFile(file+name, b.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_, stdout, _ := fw.runLogged("--check", "10.0.0.1")
	expect(t, stdout, "hits:     3 in pflogd's files, the latest:\n  2026-03-01 00:00:00", "\n  2026-03-01 01:00:00", "\n  2026-03-01 02:00:00")
}
