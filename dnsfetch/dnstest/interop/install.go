package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// policyFile is asked by Debian's packages whether they may start what they
// install (invoke-rc.d(8)).
const policyFile = "/usr/sbin/policy-rc.d"

// provide finds the servers' binaries, and installs the packages of those that
// are missing if it may and can.
func provide(ctx context.Context, chosen []*server, install bool) error {
	missing := func() (packages []string) {
		for _, s := range chosen {
			if !s.find() {
				packages = append(packages, s.packages...)
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
	fmt.Fprintf(os.Stderr, "interop: installing %s\n", strings.Join(packages, " "))
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
