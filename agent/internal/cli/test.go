package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"example.org/threatstopd/agent/internal/check"
	"example.org/threatstopd/agent/internal/config"
	"example.org/threatstopd/agent/internal/host"
	"example.org/threatstopd/agent/internal/report"
)

// pfConf is what pf is loaded from, unless rc.conf.local says otherwise.
const pfConf = "/etc/pf.conf"

// testAll looks whether everything is as it has to be. A configuration that is
// refused is the first finding, not the end of a mode that would have told it on
// standard error.
func testAll(ctx context.Context, env Env, f *flags) error {
	cfg, warnings, err := config.Load(f.file)
	failures := 0
	if err != nil {
		failures = check.ConfigRefused(f.file, warnings, err, env.Stdout)
	} else {
		o := preflightOptions(cfg, env, f)
		o.Warnings = warnings
		for _, w := range unusable(cfg, f.file) {
			if w.Key != "CA_FILE" && w.Key != "USER" { // these have checks of their own
				o.Warnings = append(o.Warnings, w)
			}
		}
		if len(f.args) > 0 {
			o.Indicators = f.args
		}
		e := preflightEnv(cfg, env)
		e.Confine = confineTest("--test", cfg, env, o.Indicators)
		failures = check.Test(ctx, o, e, env.Stdout)
	}
	if failures > 0 {
		return errSaid
	}
	return nil
}

// maxChecked is how many addresses one --check takes: each is looked for in the whole table and in all lists.
const maxChecked = 64

// addresses reads the arguments of --check; "-" stands for the addresses on standard input. Each address is
// returned once.
func addresses(args []string, stdin io.Reader) ([]netip.Addr, error) {
	var all []netip.Addr
	for _, arg := range args {
		words := []string{arg}
		if arg == "-" {
			text, err := io.ReadAll(io.LimitReader(stdin, 64<<10))
			if err != nil {
				return nil, fmt.Errorf("--check: standard input: %w", err)
			}
			words = strings.Fields(string(text))
		}
		for _, w := range words {
			a, err := netip.ParseAddr(w)
			if err != nil {
				return nil, fmt.Errorf("--check %s: not an address", w)
			}
			if a = a.Unmap().WithZone(""); !slices.Contains(all, a) {
				all = append(all, a)
			}
			if len(all) > maxChecked {
				return nil, fmt.Errorf("--check: more than %d addresses", maxChecked)
			}
		}
	}
	if len(all) == 0 {
		return nil, errors.New("--check: no address on standard input")
	}
	return all, nil
}

// checkAddress reports of addresses whether and why they are blocked.
func checkAddress(ctx context.Context, env Env, f *flags) error {
	all, err := addresses(f.args, env.Stdin)
	if err != nil {
		return usageError{err}
	}
	cfg, err := load(env, f)
	if err != nil {
		return err
	}
	e := preflightEnv(cfg, env)
	e.Confine = confineTest("--check", cfg, env, nil)
	answer, err := check.Check(ctx, all, preflightOptions(cfg, env, f), e, env.Stdout)
	switch {
	case err != nil:
		return usageError{err}
	case answer == check.CannotTell:
		return usageError{errors.New("cannot tell whether it is blocked: see above")}
	case answer == check.NotBlocked:
		return errSaid
	}
	return nil
}

// confineTest returns what confines one of the two, which go on to connect to the servers
// of the configuration, and to others. They become the user that the daemon's processes
// for the network are, as is what they read.
func confineTest(command string, c *config.Config, env Env, others []string) func(asUser func()) error {
	if env.Confine == nil {
		return nil
	}
	u := lookupUser(c.User)
	x := fetchConfinement(c, u)
	x.Memory = 0 // the test ends; its tables may be large
	for _, host := range others {
		x.Names = x.Names || isName(host)
	}
	x.Names = x.Names || c.AuthURL != nil && isName(c.AuthURL.Hostname())
	return func(asUser func()) error {
		x.AsUser = asUser
		return env.Confine.Confine(command, x)
	}
}

func preflightOptions(c *config.Config, env Env, f *flags) check.Options {
	o := check.Options{
		Config:  c,
		File:    f.file,
		Fetch:   fetchOptions(c),
		Sources: sourcesOptions(c),
		Policy:  applyOptions(c, env).Policy,
		PfConf:  pfConf,

		ResolverFiles: host.ResolverFiles,
		Indicators:    []string{check.DefaultIndicator},
	}
	return o
}

func preflightEnv(c *config.Config, env Env) check.Env {
	dialer := &net.Dialer{}
	if c.SourceAddress.IsValid() {
		dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(c.SourceAddress, 0))
	}
	return check.Env{
		Root:        os.Geteuid() == 0,
		OpenPF:      env.OpenPF,
		Interfaces:  check.Interfaces,
		Host:        env.Host,
		Lookup:      env.Lookup,
		Dial:        dialer.DialContext,
		User:        check.UserID,
		Owner:       host.Owner,
		OpenPflog:   env.OpenPflog,
		FlushPflogd: env.FlushPflogd,
		Logs:        func() ([]*os.File, error) { return report.OpenLogs(c.PflogFile) },
		Now:         env.Now,
		Local:       env.Local,
	}
}
