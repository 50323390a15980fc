package install

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// Commands runs a command of the base system: the absolute path of a program and its arguments, with stdin as
// its standard input. It returns what the command printed. The error of one that ran and failed names its exit
// status and what it printed.
type Commands func(ctx context.Context, stdin string, args ...string) (stdout string, err error)

// errStatus is in the errors of commands that ran and failed.
var errStatus = errors.New("exit status")

// The commands, as the base system has them.
const (
	useradd  = "/usr/sbin/useradd"
	userdel  = "/usr/sbin/userdel"
	groupadd = "/usr/sbin/groupadd"
	groupdel = "/usr/sbin/groupdel"
	rcctl    = "/usr/sbin/rcctl"
	crontab  = "/usr/bin/crontab"
	pfctl    = "/sbin/pfctl"
)

// typed returns a command as one would type it.
func typed(args []string) string { return path.Base(args[0]) + " " + strings.Join(args[1:], " ") }

// failed returns the error of a command that ended with another status than 0.
func failed(args []string, status int, output string) error {
	if output, _, _ = strings.Cut(strings.TrimSpace(output), "\n"); output != "" {
		output = ": " + output
	}
	return fmt.Errorf("%s: %w %d%s", typed(args), errStatus, status, output)
}

// Exec is the Commands of this host. It runs each to its end: an interrupt from the keyboard does not reach a
// useradd that is about to rewrite the password file. ctx counts before the command starts.
func Exec(ctx context.Context, stdin string, args ...string) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = []string{"PATH=/sbin:/usr/sbin:/bin:/usr/bin", "HOME=/root", "LC_ALL=C"}
	cmd.Dir = "/"
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		err = failed(args, exit.ExitCode(), cmp.Or(strings.TrimSpace(stderr.String()), stdout.String()))
	case err != nil:
		err = fmt.Errorf("%s: %w", typed(args), err)
	}
	return stdout.String(), err
}

// Tree returns the Commands for the files below root of a system that is not running: an image that is being
// made, or what a test has laid out. It knows the commands that this package runs, in the form in which it runs
// them, and starts no process.
//
// Users are added to passwd and master.passwd as text; `pwd_mkdb -p -d DIR/etc master.passwd` makes the
// databases.
func Tree(root string) Commands {
	return func(ctx context.Context, stdin string, args ...string) (string, error) {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		t := &host{Options: Options{Root: root}}
		name := args[len(args)-1]
		add := func(line string) func(string) string { return func(s string) string { return s + line + "\n" } }
		drop := func(s string) string {
			s, _ = without(s, func(line string) bool { return strings.HasPrefix(line, name+":") })
			return s
		}
		switch args[0] {
		case groupadd: // -g gid name
			return "", t.rewrite(groupPath, 0o644, add(name+":*:"+args[2]+":"))
		case useradd: // -u uid -g group -c comment -d home -s shell -L class name
			all, err := t.readAccounts()
			if err != nil {
				return "", err
			}
			group, ok := all.groups[args[4]]
			if !ok {
				return "", failed(args, 1, "useradd: group "+args[4]+" not found")
			}
			ids, tail := fmt.Sprintf(":%s:%d:", args[2], group.id), strings.Join([]string{args[6], args[8], args[10]}, ":")
			err = t.rewrite(masterPath, 0o600, add(name+":*************"+ids+args[12]+":0:0:"+tail))
			return "", errors.Join(err, t.rewrite(passwdPath, 0o644, add(name+":*"+ids+tail)))
		case userdel:
			return "", errors.Join(t.rewrite(masterPath, 0o600, drop), t.rewrite(passwdPath, 0o644, drop))
		case groupdel:
			return "", t.rewrite(groupPath, 0o644, drop)
		case crontab: // -u root -
			return "", t.rewrite(cronTabPath, 0o600, func(s string) string {
				header, _ := cutHeader(s)
				return header + stdin
			})
		case rcctl:
			return t.rcctl(args)
		case pfctl: // -e
			return "", nil
		}
		return "", fmt.Errorf("%s: not known", typed(args))
	}
}

// rewrite changes a file of a tree. One that is empty is not made.
func (h *host) rewrite(path string, mode fs.FileMode, change func(string) string) error {
	old, err := os.ReadFile(h.at(path))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	text := change(string(old))
	if text == string(old) {
		return nil
	}
	return os.WriteFile(h.at(path), []byte(text), mode)
}

// rcctl is rcctl(8) in a tree: ls on, check, enable, disable, and what starts and stops, which here is nothing.
func (h *host) rcctl(args []string) (string, error) {
	action, name := args[1], args[len(args)-1]
	local := h.text(rcConfPath)
	if local != "" && !strings.HasSuffix(local, "\n") {
		local += "\n"
	}
	settings := make(map[string]string)
	for line := range strings.Lines(local) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		settings[key] = strings.Trim(value, `"'`)
	}
	packages := strings.Fields(settings["pkg_scripts"])
	base := map[string]string{"pf": "pf", "pflogd": "pflogd_flags"} // the variable that turns each off
	switch action {
	case "ls":
		for name, key := range base {
			if settings[key] != "NO" {
				packages = append(packages, name)
			}
		}
		return strings.Join(packages, "\n") + "\n", nil
	case "check":
		return name + "(failed)\n", failed(args, 1, "")
	case "enable", "disable":
	default:
		return "", nil
	}
	key, line := base[name], ""
	if key == "" {
		if _, err := os.Stat(h.at(filepath.Join("/etc/rc.d", name))); err != nil {
			return "", failed(args, 2, "rcctl: service "+name+" does not exist")
		}
		key = "pkg_scripts"
		packages = slices.DeleteFunc(packages, func(p string) bool { return p == name })
		if action == "enable" {
			packages = append(packages, name)
		}
		if len(packages) > 0 {
			line = key + "=" + strings.Join(packages, " ") + "\n"
		}
	} else if action == "disable" {
		line = key + "=NO\n"
	}
	rest, _ := without(local, func(l string) bool { return strings.HasPrefix(strings.TrimSpace(l), key+"=") })
	if rest += line; rest == "" { // rcctl removes it
		return "", h.remove(rcConfPath)
	}
	return "", os.WriteFile(h.at(rcConfPath), []byte(rest), 0o644)
}
