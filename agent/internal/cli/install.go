package cli

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"example.org/threatstopd/agent/internal/config"
	"example.org/threatstopd/install"
)

func installHost(ctx context.Context, env Env, f *flags) error {
	return packaged(install.Install(ctx, installOptions(env, f)))
}

func uninstallHost(ctx context.Context, env Env, f *flags) error {
	return packaged(install.Uninstall(ctx, installOptions(env, f)))
}

// packaged makes it wrong usage to install what a package has installed.
func packaged(err error) error {
	if errors.Is(err, install.ErrPackaged) {
		return usageError{err}
	}
	return err
}

// installOptions takes the running system, or, with DESTDIR, the files of one
// that is not running.
func installOptions(env Env, f *flags) install.Options {
	o := install.Options{
		Yes:       f.yes,
		In:        env.Stdin,
		Out:       env.Stdout,
		Commands:  install.Exec{},
		Program:   readProgram,
		PF:        func() (install.PF, error) { return packetFilter(env) },
		OS:        runtime.GOOS,
		Superuser: os.Geteuid() == 0,
		Conf:      InstallConf(),
		// What it finds it has printed.
		Preflight: func(ctx context.Context) { _ = testAll(ctx, env, f) },
	}
	if root := env.Destdir; root != "" && filepath.Clean(root) != "/" {
		o.Root, o.Commands, o.PF, o.Preflight = root, install.Tree{Root: root}, nil, nil
	}
	return o
}

// InstallConf is what the installer needs of the configuration.
func InstallConf() install.Conf {
	return install.Conf{Path: config.DefaultPath, Example: config.Example(), Parse: installSettings}
}

// installSettings reads a configuration for the installer.
func installSettings(name, text string) (install.Settings, []error, error) {
	c, warnings, err := config.Parse(name, strings.NewReader(text))
	all := make([]error, len(warnings))
	for i, w := range warnings {
		all[i] = errors.New(w.String())
	}
	if err != nil {
		return install.Settings{}, all, err
	}
	return install.Settings{BlockTable: c.BlockTable, BlockFile: c.BlockFile, AllowTable: c.AllowTable, AllowFile: c.AllowFile,
		SpoolDir: c.SpoolDir, User: c.User}, all, nil
}

// readProgram reads the program that is running.
func readProgram() ([]byte, error) {
	name, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return os.ReadFile(name)
}

func packetFilter(env Env) (install.PF, error) {
	pf, err := env.OpenPF()
	if err != nil {
		return install.PF{}, err
	}
	defer pf.Close()
	status, err := pf.Status()
	if err != nil {
		return install.PF{}, err
	}
	tables, err := pf.AllTables()
	if err != nil {
		return install.PF{}, err
	}
	all := install.PF{Running: status.Running}
	for _, t := range tables {
		all.Tables = append(all.Tables, t.Table.Name)
	}
	return all, nil
}
