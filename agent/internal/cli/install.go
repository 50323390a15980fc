package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"example.org/threatstopd/agent/internal/apply"
	"example.org/threatstopd/agent/internal/config"
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
		return notTried(err)
	}
	return err
}

// installOptions takes the running system, or, with DESTDIR, the files of one that is not running.
func installOptions(env Env, f *flags) install.Options {
	screen := &screen{env: env}
	o := install.Options{
		Yes:       f.yes,
		In:        env.Stdin,
		Out:       env.Stdout,
		Commands:  install.Exec,
		Program:   func() ([]byte, error) { return os.ReadFile(program) },
		PF:        env.packetFilter,
		OS:        runtime.GOOS,
		Superuser: os.Geteuid() == 0,
		Conf:      InstallConf(),
		Terminal:  isTerminal(env.Stdin),
		// What it finds it has printed.
		Preflight: func(ctx context.Context) { _ = testAll(ctx, env, f) },
		Working: func(what string, do func() error) error {
			what, _, _ = strings.Cut(what, "\n")
			return screen.during(func() string { return what }, do)
		},
	}
	o.Conf.Try = func(ctx context.Context, text string) error { return tryServers(ctx, env, text) }
	if root := env.Destdir; root != "" && filepath.Clean(root) != "/" {
		o.Root, o.Commands, o.PF, o.Preflight, o.Terminal = root, install.Tree(root), nil, nil, false
	}
	return o
}

// InstallConf is what the installer needs of the configuration.
func InstallConf() install.Conf {
	c := install.Conf{Path: config.DefaultPath, Example: config.Example(), Parse: installSettings, Fill: config.Fill,
		Questions: []install.Question{
			{Key: "device_id", Text: "Device id (TDID)"},
			{Key: "DNS_SERVERS", Text: "Policy servers"},
			{Key: "BLOCK_LISTS", Text: "Block lists of the policy"},
			{Key: "ALLOW_LISTS", Text: "Allow lists, if it has any", Optional: true},
			{Key: "url", Text: "URL of the log server"},
		}}
	examples := make(map[string]string)
	for _, k := range config.Keys() {
		if !k.Placeholder {
			examples[k.Name] = k.Example
		}
	}
	for i := range c.Questions {
		c.Questions[i].Default = examples[c.Questions[i].Key]
	}
	return c
}

// tryServers fetches the lists of a configuration, in the process that fetches, and prints how that went.
func tryServers(ctx context.Context, env Env, text string) error {
	cfg, _, err := config.Parse(config.DefaultPath, strings.NewReader(text))
	if err != nil {
		return err
	}
	client, err := startFetch(ctx, env, cfg, nil)
	if err != nil {
		return err
	}
	defer client.Close()
	src, screen := sources.New(sourcesOptions(cfg)), &screen{env: env}
	silent := func(string) {}
	src.Fetch(ctx, client, sources.Narrate(&apply.Narrator{Say: silent, Warn: silent, Draw: screen.draw}))
	screen.erase()
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
func installSettings(name, text string) (s install.Settings, warnings []error, err error) {
	c, problems, err := config.Parse(name, strings.NewReader(text))
	for _, p := range problems {
		warnings = append(warnings, p)
	}
	if err == nil {
		s = install.Settings{BlockTable: c.BlockTable, BlockFile: c.BlockFile, AllowTable: c.AllowTable, AllowFile: c.AllowFile,
			SpoolDir: c.SpoolDir, User: c.User}
	}
	return s, warnings, err
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
