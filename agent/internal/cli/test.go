package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"example.org/threatstopd/agent/internal/apply"
	"example.org/threatstopd/agent/internal/check"
	"example.org/threatstopd/agent/internal/config"
	"example.org/threatstopd/agent/internal/host"
	"example.org/threatstopd/agent/internal/privsep"
	"example.org/threatstopd/agent/internal/report"
	"example.org/threatstopd/agent/internal/status"
)

// load reads the configuration, and prints what it warns of.
func load(env Env, f *flags) (*config.Config, error) {
	cfg, warnings, err := config.Load(f.file)
	warn(env, warnings)
	if err != nil {
		return nil, notTried(err)
	}
	return cfg, nil
}

func warn(env Env, warnings []config.Problem) {
	for _, w := range warnings {
		fmt.Fprintf(env.Stderr, "threatstopd: warning: %v\n", w)
	}
}

// loadForDaemon reads a configuration as a daemon does: one that names a file of the owner's as a table file is refused.
func loadForDaemon(file string) (*config.Config, []config.Problem, error) {
	cfg, warnings, err := config.Load(file)
	if err == nil {
		err = tableFiles(cfg)
	}
	return cfg, warnings, err
}

// checkConfig is -n. What a daemon does without is a warning; what it refuses to start with is an error.
func checkConfig(_ context.Context, env Env, f *flags) error {
	cfg, warnings, err := loadForDaemon(f.file)
	if err == nil {
		warnings = append(warnings, unusable(cfg, f.file)...)
	}
	if err := env.confine("-n", privsep.Confinement{}); err != nil {
		return err
	}
	var printed error
	if f.json {
		printed = writeConfig(env.Stdout, cfg, warnings, err)
	} else if warn(env, warnings); err == nil {
		_, printed = cfg.WriteTo(env.Stdout)
	}
	if printed == nil && err != nil {
		return notTried(err)
	}
	return printed
}

// writeConfig writes a configuration, or why it is invalid, as a JSON object.
func writeConfig(w io.Writer, cfg *config.Config, warnings []config.Problem, invalid error) error {
	out := struct {
		Valid    bool              `json:"valid"`
		Errors   []string          `json:"errors"`
		Warnings []string          `json:"warnings"`
		Settings map[string]string `json:"settings"`
	}{invalid == nil, []string{}, []string{}, map[string]string{}}
	for _, w := range warnings {
		out.Warnings = append(out.Warnings, w.Error())
	}
	if invalid != nil {
		out.Errors = strings.Split(invalid.Error(), "\n")
	} else {
		out.Settings = maps.Collect(cfg.All())
	}
	return check.WriteJSON(w, out)
}

// tableFiles refuses a configuration that names a file of the owner's as a table file.
func tableFiles(cfg *config.Config) error {
	for _, file := range []string{cfg.BlockFile, cfg.AllowFile} {
		if err := apply.Overwritable(file); errors.Is(err, apply.ErrNotTable) {
			return err
		}
	}
	return nil
}

// unusable returns what in a configuration cannot be used on this host, as far as that can be seen without
// the network. The daemon runs all the same, and reports it.
func unusable(c *config.Config, file string) (all []config.Problem) {
	check := func(key string, err error) {
		if err != nil && !errors.Is(err, os.ErrPermission) { // of another user's files nothing is known
			text := strings.TrimPrefix(err.Error(), key+" ")
			all = append(all, config.Problem{File: file, Key: key, Text: text})
		}
	}
	if c.CAFile != "" && c.Upload != config.UploadNone {
		_, err := report.Roots(c.CAFile)
		check("CA_FILE", err)
	}
	check("SOURCE_ADDRESS", own(c.SourceAddress))
	check("METRICS", own(c.Metrics.Addr()))
	check("STATUS_PAGE", own(c.StatusPage.Addr()))
	if _, err := user.Lookup(c.User); err != nil {
		check("USER", fmt.Errorf("no user %s: `threatstopd --install` creates it", c.User))
	}
	if c.StatusGroup != "" {
		if _, err := user.LookupGroup(c.StatusGroup); err != nil {
			check("STATUS_GROUP", fmt.Errorf("no group %s: groupadd %s", c.StatusGroup, c.StatusGroup))
		}
	}
	return all
}

// own returns an error if a is not an address of this host. No address, and every address, are.
func own(a netip.Addr) error {
	all, err := net.InterfaceAddrs()
	if err != nil || !a.IsValid() || a.IsUnspecified() || slices.ContainsFunc(all, func(x net.Addr) bool {
		n, ok := x.(*net.IPNet)
		return ok && n.IP.Equal(a.AsSlice())
	}) {
		return nil
	}
	return fmt.Errorf("%s is no address of this host: ifconfig shows which are", a)
}

// configChanged returns in one line what is different about a configuration file since the daemon read it, and
// what to do; empty: nothing.
func configChanged(file, hash string, read time.Time, env Env) string {
	now, err := config.HashFile(file)
	if err == nil && now == hash {
		return ""
	}
	if err == nil {
		_, _, err = loadForDaemon(file)
	}
	at := read.In(env.Local).Format("15:04")
	if env.Now().Sub(read) > 24*time.Hour {
		at = read.In(env.Local).Format("2006-01-02 15:04")
	}
	if err != nil {
		first, _, _ := strings.Cut(err.Error(), "\n")
		return fmt.Sprintf("%s cannot be used any more, the daemon keeps what it read at %s: %s", filepath.Base(file), at, first)
	}
	return fmt.Sprintf("%s has changed since the daemon read it at %s: rcctl reload threatstopd", filepath.Base(file), at)
}

// daemonsFile reports whether a configuration file is the one that the daemon has read: by its path, or by its
// device and inode.
func daemonsFile(file string, st *status.Status) bool {
	a, errA := os.Stat(file)
	b, errB := os.Stat(st.Config)
	return absolute(file) == st.Config || errA == nil && errB == nil && os.SameFile(a, b)
}

// overlap returns an error if a configuration has a table, or a directory of table files, in common with the
// daemon's.
func overlap(c *config.Config, file string, st *status.Status) error {
	for _, t := range st.Tables {
		for _, x := range []struct{ key, ours, theirs string }{
			{"BLOCK_TABLE", c.BlockTable, t.Name},
			{"ALLOW_TABLE", c.AllowTable, t.Name},
			{"BLOCK_FILE", filepath.Dir(c.BlockFile), filepath.Dir(t.File)},
			{"ALLOW_FILE", filepath.Dir(c.AllowFile), filepath.Dir(t.File)},
		} {
			if x.ours == x.theirs {
				return fmt.Errorf("%s: %s: the running daemon uses %s, too (%s): name other tables and directories, or stop it",
					file, x.key, x.ours, st.Config)
			}
		}
	}
	return nil
}

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
			if w.Key != "CA_FILE" && w.Key != "USER" { // these have checks of their own
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

// networks reads the arguments of --check, addresses and networks; "-" stands for those on standard input. Each is
// returned once.
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

// checkOptions are what --test or --check needs to know. Both go on to connect to the servers of the configuration
// and to others: they become the user that the daemon's processes for the network are, as is what they read.
func checkOptions(command string, c *config.Config, env Env, f *flags) check.Options {
	dialer := &net.Dialer{}
	if c.SourceAddress.IsValid() {
		dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(c.SourceAddress, 0))
	}
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
		User:          check.UserID,
		Owner:         host.Owner,
		OpenPflog:     env.OpenPflog,
		FlushPflogd:   env.FlushPflogd,
		Logs:          func() ([]*os.File, error) { return report.OpenLogs(c.PflogFile) },
		Now:           env.Now,
		Local:         env.Local,
	}
	if command == "--test" && len(f.args) > 0 {
		o.Indicators = f.args
	}
	if env.Confine == nil {
		return o
	}
	x := fetchConfinement(c, serviceUser(c.User))
	x.Memory = 0 // the test ends; its tables may be large
	x.Names = x.Names || command == "--test" && slices.ContainsFunc(o.Indicators, isName)
	x.Names = x.Names || c.AuthURL != nil && isName(c.AuthURL.Hostname())
	o.Confine = func(asUser func()) error {
		x.AsUser = asUser
		return env.Confine.Confine(command, x)
	}
	return o
}
