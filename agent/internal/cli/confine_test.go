package cli

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/agent/internal/privsep"
	"example.org/threatstopd/capture"
	"example.org/threatstopd/pfioctl"
	"example.org/threatstopd/pfioctl/pfsim"
)

// order records what a command asks of the system, and when it confines itself.
type order struct {
	did  []string
	fail error
}

func (o *order) Confine(role string, c privsep.Confinement) error {
	if _, err := privsep.Plan(role, c); err != nil {
		return err
	}
	if c.AsUser != nil {
		c.AsUser()
	}
	o.did = append(o.did, "confined as "+role)
	return o.fail
}

// Write is standard output: all output comes through here.
func (o *order) Write(p []byte) (int, error) {
	if n := len(o.did); n == 0 || o.did[n-1] != "printed" {
		o.did = append(o.did, "printed")
	}
	return len(p), nil
}

func (o *order) watch(env *Env) {
	note := func(what string) { o.did = append(o.did, what) }
	openPF, host := env.OpenPF, env.Host
	env.OpenPF = func() (*pfioctl.PF, error) { note("pf"); return openPF() }
	env.Host = func() (policy.Facts, error) { note("own addresses"); return host() }
	env.OpenPflog = func(capture.Options) (capture.Source, error) { note("pflog"); return nil, io.ErrClosedPipe }
	env.FlushPflogd = func() error { note("pflogd"); return errors.New("not running") }
	env.Confine, env.Stdout, env.Stderr = o, o, io.Discard
}

// Each command confines itself when it has what it needs, before it prints what it has
// got from others; and when it cannot, it does not go on.
func TestCommandsConfine(t *testing.T) {
	fw := newFirewall(t, pfsim.Options{})
	fw.sync(0)
	fw.conf["UPLOAD"] = "no"
	conf := fw.writeConf()
	pflog := filepath.Join(fw.dir, "pflog")
	if err := os.WriteFile(pflog, []byte("nothing that pflogd writes"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args, want string
	}{
		{"--version", "confined as --help, --version, printed"},
		{"--help", "confined as --help, --version, printed"},
		{"-n -f " + conf, "confined as -n, printed"},
		{"--dump-table -f " + conf, "pf, confined as --dump-table, printed"},
		{"--dump-table -v --json ThreatSTOP-Block", "pf, confined as --dump-table, printed"},
		{"--dump-table nosuchtable", "pf"},
		{"--read " + pflog, "confined as --read"},
		{"--read " + pflog + ".no", ""},
		{"--check 10.0.0.1 -f " + conf, "pf, own addresses, pflogd, confined as --check, printed"},
		// The host's own state is reported as it is found.
		{"--test 10.0.0.1 -f " + conf, "printed, pf, printed, own addresses, confined as --test, printed"},
	} {
		t.Run(tt.args, func(t *testing.T) {
			var o order
			env := fw.env()
			o.watch(&env)
			Run(context.Background(), strings.Fields(tt.args), env)
			if got := strings.Join(o.did, ", "); got != tt.want {
				t.Errorf("%s\nwant %s", got, tt.want)
			}
			if !strings.Contains(tt.want, "confined") {
				return
			}
			o = order{fail: errors.New("not today")}
			o.watch(&env)
			var errs bytes.Buffer
			env.Stderr = &errs
			code := Run(context.Background(), strings.Fields(tt.args), env)
			last := o.did[len(o.did)-1]
			if strings.HasPrefix(tt.args, "--test") { // reports it like any other failure
				last = o.did[len(o.did)-2]
			}
			if code == exitOK || !strings.HasPrefix(last, "confined as ") {
				t.Errorf("exit code %d, and %q, though it could not be confined: %s", code, o.did, &errs)
			}
		})
	}
}
