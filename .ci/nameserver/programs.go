package nameserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// policyFile is asked by Debian's packages whether they may start what they
// install (invoke-rc.d(8)).
const policyFile = "/usr/sbin/policy-rc.d"

// A Program is something to run, and where it comes from.
type Program struct {
	Binary   string
	Packages []string // Debian's

	path string // of the binary, once it is found
}

// Find looks for the program's binary, in the directories of daemons, too,
// which an ordinary user's PATH may lack, and reports whether it is there.
func (p *Program) Find() bool {
	path, err := exec.LookPath(p.Binary)
	for _, dir := range []string{"/usr/sbin", "/usr/local/sbin", "/sbin"} {
		if err != nil {
			path, err = exec.LookPath(filepath.Join(dir, p.Binary))
		}
	}
	p.path = path
	return err == nil
}

// Path returns where Find found the binary.
func (p *Program) Path() string { return p.path }

// Provide finds the programs' binaries, and installs the packages of those that
// are missing if it may (install) and can (root, on Debian): without starting
// them as services. It reports on standard error, after who, what it installs. The
// error names the packages that are missing still.
func Provide(ctx context.Context, who string, programs []*Program, install bool) error {
	missing := func() (packages []string) {
		for _, p := range programs {
			if !p.Find() {
				packages = append(packages, p.Packages...)
			}
		}
		return packages
	}
	packages := missing()
	if len(packages) == 0 {
		return nil
	}
	need := "missing: install " + strings.Join(packages, " ")
	if !install {
		return errors.New(need)
	}
	if _, err := os.Stat("/etc/debian_version"); err != nil {
		return fmt.Errorf("%s (the names are Debian's, and this is another system)", need)
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("%s (as root, with apt-get)", need)
	}
	fmt.Fprintf(os.Stderr, "%s: installing %s\n", who, strings.Join(packages, " "))
	forbid, err := forbidServices()
	if err != nil {
		return err
	}
	defer forbid()
	args := append([]string{"install", "-y", "--no-install-recommends"}, packages...)
	if aptGet(ctx, args...) != nil {
		// The package lists may be old, or not there yet.
		if err := aptGet(ctx, "update"); err != nil {
			return err
		}
		if err := aptGet(ctx, args...); err != nil {
			return err
		}
	}
	if packages = missing(); len(packages) > 0 {
		return fmt.Errorf("missing after the installation: %s", strings.Join(packages, " "))
	}
	return nil
}

func aptGet(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "apt-get", append([]string{"-q"}, args...)...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("apt-get %s: %w: %s", args[0], err, lastLine(string(out)))
	}
	return nil
}

// forbidServices keeps the packages from starting what they install, until the
// function that it returns is called. A policy that is there already stays.
func forbidServices() (func(), error) {
	f, err := os.OpenFile(policyFile, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if errors.Is(err, os.ErrExist) {
		return func() {}, nil
	}
	if err != nil {
		return nil, err
	}
	_, err = f.WriteString("#!/bin/sh\nexit 101\n")
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		os.Remove(policyFile)
		return nil, err
	}
	return func() { os.Remove(policyFile) }, nil
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}
