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

// testAll checks the installation. A configuration that is refused is the first finding.
func testAll(ctx context.Context, env Env, f *flags) error {
	cfg, warnings, err := config.Load(f.file)
	o := check.Options{File: f.file, JSON: f.json, Invalid: err, Warnings: warnings}
	if err == nil {
		o = checkOptions("--test", cfg, env, f)
		o.Warnings = warnings
		for _, w := range unusable(cfg, f.file) {
			if w.Key != "CA_FILE" && w.Key != "USER" && w.Key != "SOURCE_ADDRESS" { // these have checks of their own
				o.Warnings = append(o.Warnings, w)
			}
		}
	}
	if check.Test(ctx, o, env.Stdout) > 0 {
		return errSaid
	}
	return nil
}

// maxChecked bounds what one --check takes: each is looked for in the whole table and in all lists.
const maxChecked = 64

// networks reads the arguments of --check, addresses and networks; "-" stands for those on standard input. Each
// is returned once.
func networks(args []string, stdin io.Reader) ([]netip.Prefix, error) {
	var all []netip.Prefix
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
			n, err := parseNetwork(w)
			if err != nil {
				return nil, fmt.Errorf("--check %s: not an address or network", w)
			}
			if !slices.Contains(all, n) {
				all = append(all, n)
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

// parseNetwork reads an address or a network. An IPv4-mapped one is IPv4, a zone is ignored.
func parseNetwork(text string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(text); err == nil {
		a = a.Unmap().WithZone("")
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked(), err
}

// checkAddress reports of addresses and networks whether and why they are blocked.
func checkAddress(ctx context.Context, env Env, f *flags) error {
	all, err := networks(f.args, env.Stdin)
	if err != nil {
		return notTried(err)
	}
	cfg, err := load(env, f)
	if err != nil {
		return err
	}
	answer, err := check.Check(ctx, all, checkOptions("--check", cfg, env, f), env.Stdout)
	switch {
	case readerGone(err):
		return err
	case err == nil && answer == check.CannotTell:
		err = errors.New("not known whether it is blocked: see above")
	case err == nil && answer == check.Blocked:
		return nil
	case err == nil:
		return errSaid
	}
	return notTried(err)
}

// checkOptions are what --test or --check needs to know. Both go on to connect to the servers of the
// configuration and to others: they become the user that the daemon's processes for the network are, as is what
// they read.
func checkOptions(command string, c *config.Config, env Env, f *flags) check.Options {
	dialer := &net.Dialer{}
	if c.SourceAddress.IsValid() {
		dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(c.SourceAddress, 0))
	}
	service := serviceUser(c.User)
	o := check.Options{
		Config:        c,
		File:          f.file,
		JSON:          f.json,
		Fetch:         fetchOptions(c),
		Sources:       sourcesOptions(c),
		Policy:        applyOptions(c, env).Policy,
		PfConf:        pfConf,
		ResolverFiles: host.ResolverFiles,
		Indicators:    []string{check.DefaultIndicator},
		Root:          os.Geteuid() == 0,
		OpenPF:        env.OpenPF,
		Interfaces:    check.Interfaces,
		Host:          env.Host,
		Lookup:        env.Lookup,
		Dial:          dialer.DialContext,
		UID:           service.UID,
		OpenPflog:     env.OpenPflog,
		FlushPflogd:   env.FlushPflogd,
		Logs:          func() ([]*os.File, error) { return report.OpenLogs(c.PflogFile) },
		Now:           env.Now,
		Local:         env.Local,
	}
	if service.UID == 0 { // there is no such user
		o.UID = -1
	}
	if command == "--test" && len(f.args) > 0 {
		o.Indicators = f.args
	}
	if env.Confine == nil {
		return o
	}
	x := fetchConfinement(c, service)
	x.Memory = 0 // the test ends; its tables may be large
	x.Names = x.Names || command == "--test" && slices.ContainsFunc(o.Indicators, isName)
	x.Names = x.Names || c.AuthURL != nil && isName(c.AuthURL.Hostname())
	o.Confine = func(asUser func()) error {
		x.AsUser = asUser
		return env.Confine.Confine(command, x)
	}
	return o
}
