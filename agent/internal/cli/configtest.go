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

// outOfSight is why a confined process may not be able to check the table files of another configuration.
var outOfSight = []error{os.ErrNotExist, os.ErrPermission}

// loadForDaemon reads a configuration as a daemon does: one whose table files cannot be written, or are the
// owner's, is refused, unless that error is one of those to ignore.
func loadForDaemon(file string, ignore ...error) (*config.Config, []config.Problem, error) {
	cfg, warnings, err := config.Load(file)
	if err != nil {
		return cfg, warnings, err
	}
	if err = tableFiles(cfg); slices.ContainsFunc(ignore, func(is error) bool { return errors.Is(err, is) }) {
		err = nil
	}
	return cfg, warnings, err
}

// checkConfig is -n. What a daemon does without is a warning; what it refuses to start with is an error.
func checkConfig(_ context.Context, env Env, f *flags) error {
	cfg, warnings, err := loadForDaemon(f.file, os.ErrPermission) // of another user's files nothing is known
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

// tableFiles refuses a configuration whose table files are in a directory that apply.CheckDir refuses, or
// are files of the owner's.
func tableFiles(cfg *config.Config) error {
	for _, file := range []string{cfg.BlockFile, cfg.AllowFile} {
		dir := filepath.Dir(file)
		if _, err := os.Stat(dir); err != nil && file == cfg.AllowFile && len(cfg.AllowLists) == 0 {
			continue // nothing is written there
		}
		if err := apply.CheckDir(dir); err != nil {
			return err
		}
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
	check("BLOCK_FILE", apply.Overwritable(c.BlockFile))
	check("ALLOW_FILE", apply.Overwritable(c.AllowFile))
	check("SOURCE_ADDRESS", own(c.SourceAddress))
	check("METRICS", own(c.Metrics.Addr()))
	check("STATUS_PAGE", own(c.StatusPage.Addr()))
	check("USER", checkUser(c.User))
	if c.StatusGroup != "" {
		if _, err := user.LookupGroup(c.StatusGroup); err != nil {
			check("STATUS_GROUP", fmt.Errorf("no group %s: groupadd %s", c.StatusGroup, c.StatusGroup))
		}
	}
	return all
}

var errRoot = errors.New("the user is root: name one of its own, such as _threatstop")

// checkUser returns an error if the processes for the network cannot run as a user of this name.
func checkUser(name string) error {
	switch u, err := user.Lookup(name); {
	case err != nil:
		return fmt.Errorf("no user %s: `threatstopd --install` creates it", name)
	case u.Uid == "0":
		return errRoot
	}
	return nil
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
func configChanged(file, text string, read time.Time, env Env) string {
	same, err := config.Holds(file, text)
	if err == nil && same {
		return ""
	}
	if err == nil {
		_, _, err = loadForDaemon(file, outOfSight...)
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
