package install

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Tree carries out commands on the files of a system that is not running: an image that
// is being made, or what a test has laid out. It knows those that this package runs, in
// the form in which it runs them, and starts no process.
//
// Users go into passwd and master.passwd as text; `pwd_mkdb -p -d DIR/etc master.passwd` makes the
// databases from that.
type Tree struct {
	Root string // its root directory
}

// Run implements Commands.
func (t Tree) Run(ctx context.Context, c Command) (Result, error) {
	if err := ctx.Err(); err != nil {
		return Result{}, err
	}
	args := c.Args[1:]
	var err error
	switch c.Args[0] {
	case groupadd: // -g gid name
		err = t.edit(groupPath, 0o644, func(s string) string { return s + args[2] + ":*:" + args[1] + ":\n" })
	case useradd: // -u uid -g group -c comment -d home -s shell -L class name
		name := args[len(args)-1]
		option := make(map[string]string)
		for i := 0; i+1 < len(args); i += 2 {
			option[args[i]] = args[i+1]
		}
		var all *accounts
		if all, err = readAccounts(&disk{root: t.Root}); err != nil {
			break
		}
		group, ok := all.groups[option["-g"]]
		if !ok {
			return Result{Code: 1, Stderr: "useradd: group " + option["-g"] + " not found"}, nil
		}
		ids := fmt.Sprintf("%s:%d", option["-u"], group.id)
		tail := fmt.Sprintf("%s:%s:%s\n", option["-c"], option["-d"], option["-s"])
		err = t.edit(masterPath, 0o600, func(s string) string {
			return s + name + ":*************:" + ids + ":" + option["-L"] + ":0:0:" + tail
		})
		if err == nil {
			err = t.edit(passwdPath, 0o644, func(s string) string { return s + name + ":*:" + ids + ":" + tail })
		}
	case userdel, groupdel:
		files := []string{groupPath}
		if c.Args[0] == userdel {
			files = []string{masterPath, passwdPath}
		}
		for _, path := range files {
			err = errors.Join(err, t.edit(path, 0o644, func(s string) string {
				s, _ = without(s, func(line string) bool { return strings.HasPrefix(line, args[0]+":") })
				return s
			}))
		}
	case crontab: // -u root -
		err = t.edit(cronTabPath, 0o600, func(s string) string {
			header, _ := cutHeader(s)
			return header + c.Stdin
		})
	case rcctl:
		return t.rcctl(args)
	case pfctl: // -e
	default:
		return Result{}, fmt.Errorf("%s: not known", c)
	}
	return Result{}, err
}

// edit changes a file. One that was not there and stays empty is not made; one that gets
// empty stays.
func (t Tree) edit(path string, mode fs.FileMode, change func(string) string) error {
	name := filepath.Join(t.Root, path)
	old, err := os.ReadFile(name)
	missing := errors.Is(err, fs.ErrNotExist)
	if err != nil && !missing {
		return err
	}
	text := change(string(old))
	if missing && text == "" || !missing && text == string(old) {
		return nil
	}
	return os.WriteFile(name, []byte(text), mode)
}

// rcctl is rcctl(8): ls on, check, enable, disable, and what starts and stops, which here
// is nothing.
func (t Tree) rcctl(args []string) (Result, error) {
	local, err := os.ReadFile(filepath.Join(t.Root, rcConfPath))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Result{}, err
	}
	packages, off := parseRCConf(string(local))
	name := args[len(args)-1]
	switch args[0] {
	case "ls":
		var on []string
		for _, base := range []string{"cron", "pf", "pflogd", "syslogd"} {
			if !slices.Contains(off, base) {
				on = append(on, base)
			}
		}
		return Result{Stdout: strings.Join(append(on, packages...), "\n") + "\n"}, nil
	case "check":
		return Result{Stdout: name + "(failed)\n", Code: 1}, nil
	case "enable", "disable":
		base := name == "pf" || name == "pflogd"
		if _, err := os.Stat(filepath.Join(t.Root, "/etc/rc.d", name)); err != nil && !base {
			return Result{Stderr: "rcctl: service " + name + " does not exist", Code: 2}, nil
		}
		return Result{}, t.writeRCConf(string(local), packages, name, args[0] == "enable", base)
	}
	return Result{}, nil
}

// parseRCConf returns the packages' services that rc.conf.local names, and the services
// of the base system that it turns off.
func parseRCConf(local string) (packages, off []string) {
	for line := range strings.Lines(local) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		value = strings.Trim(value, `"'`)
		switch {
		case !ok:
		case key == "pkg_scripts":
			packages = strings.Fields(value)
		case value == "NO":
			off = append(off, strings.TrimSuffix(key, "_flags"))
		}
	}
	return packages, off
}

// writeRCConf writes rc.conf.local as rcctl does: sorted, each line once, and gone when
// it is empty.
func (t Tree) writeRCConf(local string, packages []string, name string, on, base bool) error {
	rest, _ := without(local, func(line string) bool {
		key, value, _ := strings.Cut(line, "=")
		return base && (key == name || key == name+"_flags") && strings.Trim(value, `"'`) == "NO" || !base && key == "pkg_scripts"
	})
	lines := strings.Split(strings.TrimSuffix(rest, "\n"), "\n")
	packages = slices.DeleteFunc(packages, func(p string) bool { return p == name })
	switch {
	case base && !on && name == "pf":
		lines = append(lines, "pf=NO")
	case base && !on:
		lines = append(lines, name+"_flags=NO")
	case !base && on:
		packages = append(packages, name)
	}
	if !base && len(packages) > 0 {
		lines = append(lines, "pkg_scripts="+strings.Join(packages, " "))
	}
	slices.Sort(lines)
	lines = slices.DeleteFunc(slices.Compact(lines), func(l string) bool { return l == "" })
	path := filepath.Join(t.Root, rcConfPath)
	if len(lines) == 0 {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	return os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o644)
}
