package install

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path"
	"strings"
	"syscall"
)

// Command is a command of the base system: the absolute path of the program with its
// arguments, and what it reads from standard input.
type Command struct {
	Args  []string
	Stdin string
}

// String is the command as one would type it.
func (c Command) String() string {
	return strings.Join(append([]string{path.Base(c.Args[0])}, c.Args[1:]...), " ")
}

// Result is what came of a command.
type Result struct {
	Stdout, Stderr string
	Code           int // the exit status
}

// Commands runs commands. An error means that a command could not be run at all; one that fails has a Code.
type Commands interface {
	Run(ctx context.Context, c Command) (Result, error)
}

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

// Exec runs commands on this host, each to its end: an interrupt from the
// keyboard does not reach a useradd that is about to rewrite the password file.
type Exec struct{}

// Run implements Commands. ctx is looked at before the command starts.
func (Exec) Run(ctx context.Context, c Command) (Result, error) {
	if err := ctx.Err(); err != nil {
		return Result{}, err
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(c.Args[0], c.Args[1:]...)
	cmd.Env = []string{"PATH=/sbin:/usr/sbin:/bin:/usr/bin", "HOME=/root", "LC_ALL=C"}
	cmd.Dir = "/"
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(c.Stdin), &stdout, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return Result{}, fmt.Errorf("%s: %w", c, err)
	}
	return Result{Stdout: stdout.String(), Stderr: stderr.String(), Code: cmd.ProcessState.ExitCode()}, nil
}

// failed is the error of a command that ended with another status than 0.
func failed(c Command, r Result) error {
	why := firstLine(r.Stderr)
	if why == "" {
		why = firstLine(r.Stdout)
	}
	if why == "" {
		return fmt.Errorf("%s: exit status %d", c, r.Code)
	}
	return fmt.Errorf("%s: exit status %d: %s", c, r.Code, why)
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(strings.TrimSpace(s), "\n")
	return s
}
