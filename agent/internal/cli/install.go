package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/term"

	"example.org/threatstopd/agent/internal/apply"
	"example.org/threatstopd/agent/internal/config"
	"example.org/threatstopd/agent/internal/fetch"
	"example.org/threatstopd/agent/internal/sources"
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
		Commands:  install.Exec,
		Program:   readProgram,
		PF:        env.packetFilter,
		OS:        runtime.GOOS,
		Superuser: os.Geteuid() == 0,
		Conf:      InstallConf(),
		Terminal:  isTerminal(env.Stdin),
		// What it finds it has printed.
		Preflight: func(ctx context.Context) { _ = testAll(ctx, env, f) },
	}
	o.Conf.Try = func(ctx context.Context, text string) error { return tryServers(ctx, env, text) }
	if root := env.Destdir; root != "" && filepath.Clean(root) != "/" {
		o.Root, o.Commands, o.PF, o.Preflight, o.Terminal = root, install.Tree(root), nil, nil, false
	}
	return o
}

// InstallConf is what the installer needs of the configuration.
func InstallConf() install.Conf {
	c := install.Conf{Path: config.DefaultPath, Example: config.Example(), Parse: installSettings, Fill: config.Fill}
	c.Questions = []install.Question{
		{Key: "device_id", Text: "Device id (TDID)"},
		{Key: "DNS_SERVERS", Text: "Policy servers"},
		{Key: "BLOCK_LISTS", Text: "Block lists of the policy"},
		{Key: "ALLOW_LISTS", Text: "Allow lists, if it has any", Optional: true},
		{Key: "url", Text: "URL of the log server"},
	}
	for _, k := range config.Keys() {
		for i := range c.Questions {
			if q := &c.Questions[i]; q.Key == k.Name && !k.Placeholder {
				q.Default = k.Example
			}
		}
	}
	return c
}

func isTerminal(r io.Reader) bool {
	f, ok := r.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// tryServers fetches the lists of a configuration, in the process that fetches, and prints how that went.
func tryServers(ctx context.Context, env Env, text string) error {
	cfg, _, err := config.Parse(config.DefaultPath, strings.NewReader(text))
	if err != nil {
		return err
	}
	client, err := fetch.New(ctx, fetch.Options{
		Starter: env.Roles, Fetch: fetchOptions(cfg), Confinement: fetchConfinement(cfg, lookupUser(cfg.User)), Once: true,
	})
	if err != nil {
		return err
	}
	defer client.Close()
	src := sources.New(sourcesOptions(cfg))
	src.Fetch(ctx, client, sources.Progress{})
	for _, l := range src.Lists() {
		if l.Err != nil {
			return fmt.Errorf("%w\nA new device takes 15 minutes to an hour until the servers know it, by its public address", l.Err)
		}
		fmt.Fprintf(env.Stdout, "%s: %s\n", l.Key(), apply.Plural(l.Len(), "entry", "entries"))
	}
	fmt.Fprintln(env.Stdout, "DNS Server is ready.")
	return nil
}

// installSettings reads a configuration for the installer.
func installSettings(name, text string) (install.Settings, []error, error) {
	c, warnings, err := config.Parse(name, strings.NewReader(text))
	all := make([]error, len(warnings))
	for i, w := range warnings {
		all[i] = errors.New(w.Error())
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

// packetFilter returns whether pf is enabled, and the names of all tables.
func (env Env) packetFilter() (enabled bool, names []string, err error) {
	pf, err := env.OpenPF()
	if err != nil {
		return false, nil, err
	}
	defer pf.Close()
	status, err := pf.Status()
	if err != nil {
		return false, nil, err
	}
	tables, err := pf.AllTables()
	for _, t := range tables {
		names = append(names, t.Table.Name)
	}
	return status.Running, names, err
}
