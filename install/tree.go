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
	name := c.Args[len(args)]
	add := func(line string) func(string) string { return func(s string) string { return s + line + "\n" } }
	drop := func(s string) string {
		s, _ = without(s, func(line string) bool { return strings.HasPrefix(line, name+":") })
		return s
	}
	var err error
	switch c.Args[0] {
	case groupadd: // -g gid name
		err = t.edit(groupPath, 0o644, add(name+":*:"+args[1]+":"))
	case useradd: // -u uid -g group -c comment -d home -s shell -L class name
		all, err := readAccounts(&disk{root: t.Root})
		if err != nil {
			return Result{}, err
		}
		group, ok := all.groups[args[3]]
		if !ok {
			return Result{Code: 1, Stderr: "useradd: group " + args[3] + " not found"}, nil
		}
		ids, tail := fmt.Sprintf(":%s:%d:", args[1], group.id), strings.Join([]string{args[5], args[7], args[9]}, ":")
		err = t.edit(masterPath, 0o600, add(name+":*************"+ids+args[11]+":0:0:"+tail))
		return Result{}, errors.Join(err, t.edit(passwdPath, 0o644, add(name+":*"+ids+tail)))
	case userdel:
		err = errors.Join(t.edit(masterPath, 0o600, drop), t.edit(passwdPath, 0o644, drop))
	case groupdel:
		err = t.edit(groupPath, 0o644, drop)
	case crontab: // -u root -
		err = t.edit(cronTabPath, 0o600, func(s string) string {
			header, _ := cutHeader(s)
			return header + c.Stdin
		})
	case rcctl:
		return t.rcctl(args[0], name)
	case pfctl: // -e
	default:
		err = fmt.Errorf("%s: not known", c)
	}
	return Result{}, err
}

// edit changes a file. One that was not there and stays empty is not made; one that becomes empty stays.
func (t Tree) edit(path string, mode fs.FileMode, change func(string) string) error {
	file := filepath.Join(t.Root, path)
	old, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	text := change(string(old))
	if text == string(old) {
		return nil
	}
	return os.WriteFile(file, []byte(text), mode)
}

// rcctl is rcctl(8): ls on, check, enable, disable, and what starts and stops, which here is nothing.
func (t Tree) rcctl(action, name string) (Result, error) {
	local, err := os.ReadFile(filepath.Join(t.Root, rcConfPath))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Result{}, err
	}
	settings := make(map[string]string) // the variables of rc.conf.local that matter here
	for line := range strings.Lines(string(local)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			settings[strings.TrimSuffix(key, "_flags")] = strings.Trim(value, `"'`)
		}
	}
	packages := strings.Fields(settings["pkg_scripts"])
	base := name == "pf" || name == "pflogd"
	switch action {
	case "ls":
		var on []string
		for _, x := range []string{"cron", "pf", "pflogd", "syslogd"} {
			if settings[x] != "NO" {
				on = append(on, x)
			}
		}
		return Result{Stdout: strings.Join(append(on, packages...), "\n") + "\n"}, nil
	case "check":
		return Result{Stdout: name + "(failed)\n", Code: 1}, nil
	case "enable", "disable":
		if _, err := os.Stat(filepath.Join(t.Root, "/etc/rc.d", name)); err != nil && !base {
			return Result{Stderr: "rcctl: service " + name + " does not exist", Code: 2}, nil
		}
	default:
		return Result{}, nil
	}
	// rcctl writes the file sorted, each line once, and removes it when it is empty.
	drop, line := "pkg_scripts=", ""
	packages = slices.DeleteFunc(packages, func(p string) bool { return p == name })
	switch {
	case base && name == "pf":
		drop, line = "pf=NO", "pf=NO"
	case base:
		drop, line = name+"_flags=NO", name+"_flags=NO"
	case action == "enable":
		packages = append(packages, name)
	}
	if base && action == "enable" {
		line = ""
	}
	if !base && len(packages) > 0 {
		line = "pkg_scripts=" + strings.Join(packages, " ")
	}
	rest, _ := without(string(local), func(l string) bool { return strings.HasPrefix(strings.NewReplacer(`"`, "", "'", "").Replace(l), drop) })
	lines := append(strings.Split(rest, "\n"), line)
	slices.Sort(lines)
	text := strings.TrimPrefix(strings.Join(slices.Compact(lines), "\n")+"\n", "\n")
	path := filepath.Join(t.Root, rcConfPath)
	if text != "" {
		return Result{}, os.WriteFile(path, []byte(text), 0o644)
	}
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return Result{}, err
	}
	return Result{}, nil
}
