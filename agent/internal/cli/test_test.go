package cli

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"example.org/threatstopd/capture"
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
		"10.0.0":      {2, ""},
		"":            {2, ""},
	} {
		code, stdout, stderr := fw.runLogged("--check", addr)
		if code != want.code || !strings.Contains(stdout, want.say) {
			t.Errorf("%q: exit code %d, want %d\n%s%s", addr, code, want.code, stdout, stderr)
		}
	}
}
