// Package install puts threatstopd on a host and removes it again: program, manual pages, rc.d script, service
// user, configuration, spool, table files. Where the vendor's scripts run it takes their place: their lines
// leave root's crontab, and newsyslog(8) rotates pflogd's file as it did before them.
//
// Every change is first written down in a manifest, with what was there before, and then made. So an
// installation that was interrupted anywhere is finished by running it again, and [Uninstall] restores what was
// there; what the owner has changed in the meantime it leaves and names. Neither edits pf.conf, nor removes or
// empties a table file that pf.conf names: pf.conf would not load.
//
// What only commands can do (useradd(8), rcctl(8), crontab(1)) goes through [Commands]: [Exec] runs them, [Tree]
// does the same to the files of a system that is not running.
package install

import (
	"bufio"
	"cmp"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

//go:embed threatstopd.8
var manual string

//go:embed threatstop.conf.5
var confManual string

//go:embed port/pkg/threatstopd.rc
var rcTemplate string

// rcScript is the rc.d script; the port has it with a variable of its own in it.
func rcScript() string { return strings.ReplaceAll(rcTemplate, "${TRUEPREFIX}", prefix) }

// Options are what Install and Uninstall need of the host.
type Options struct {
	// Root is the root directory of the system to work on. "" is the one that is running; any other is a tree of
	// files, and Commands must be its Tree.
	Root     string
	Yes      bool // the answer to every question is yes
	Terminal bool // somebody can answer what is not answered by yes or no
	In       io.Reader
	Out      io.Writer
	Commands Commands
	// Working does one of the changes, and may show meanwhile what it is; nil: it is not shown.
	Working func(what string, do func() error) error
	// Program returns the program that is installed: this one.
	Program func() ([]byte, error)
	// PF returns whether pf is enabled, and the names of the tables that are loaded in any anchor; nil where
	// there is none to ask. The tables of one that cannot be asked are taken to be in use.
	PF   func() (enabled bool, tables []string, err error)
	Conf Conf
	// Preflight checks the installation at the end and prints what it finds, if the configuration is the owner's
	// own; nil: no check.
	Preflight func(context.Context)
	OS        string // the system that is running, as runtime.GOOS names it
	Superuser bool   // root installs
	// Chown sets the owner of a file; nil for os.Lchown.
	Chown func(path string, uid, gid int) error

	// Of tests: the owner that Chown has set, and what is called before each change: its error is what a crash
	// at that point is.
	owner func(path string) (uid, gid int, ok bool)
	fault func(what string) error
}

// Conf is what the installer needs of the program's configuration.
type Conf struct {
	Path    string // where the configuration is
	Example string // the commented example that is installed where there is none
	// Parse reads the text of a configuration. Warnings are for the owner to see, and no reason to stop.
	Parse func(name, text string) (s Settings, warnings []error, err error)
	// Questions are asked on a terminal where there is no configuration but the example. Fill returns the
	// example with the answers, by key; Try tries what it says, and prints what it finds.
	Questions []Question
	Fill      func(answers map[string]string) string
	Try       func(ctx context.Context, text string) error
}

// Question asks for the value of a key.
type Question struct {
	Key, Text string
	Default   string // of an empty answer
	Optional  bool   // it may stay empty
}

// Settings are the values of a configuration that the installer uses.
type Settings struct {
	BlockTable, BlockFile string
	AllowTable, AllowFile string
	SpoolDir, User        string
}

var (
	// ErrDeclined means that the owner answered no.
	ErrDeclined = errors.New("nothing was changed")
	// ErrPackaged means that this program came with a package.
	ErrPackaged = errors.New("came with a package, which installs and removes itself")
)

// host is the host while it is changed.
type host struct {
	Options
	in       *bufio.Reader
	changes  []*change // of the manifest
	accounts accounts

	// Of an installation.
	steps   []step
	advice  []string // for the owner, when all is done
	cfg     Settings
	kept    bool    // the configuration is the owner's, not the example
	changed bool    // the daemon is another one now: restart it
	service account // the service user, which may still have to be made
}

// step is one thing to do.
type step struct {
	say   string  // completes "is about to: "; empty: it need not be mentioned
	leave string  // in place of say: what stays and why
	rec   *change // is written down before it is done; nil: there is nothing to undo
	do    func(context.Context) error
}

func open(o Options) (h *host, unlock func(), err error) {
	switch {
	case packager != "":
		return nil, nil, fmt.Errorf("this program %w: use %s", ErrPackaged, packager)
	case o.Root == "" && o.OS != "openbsd":
		return nil, nil, fmt.Errorf("this is %s: threatstopd is installed on OpenBSD", o.OS)
	case o.Root == "" && !o.Superuser:
		return nil, nil, errors.New("must be root")
	}
	if o.Chown == nil {
		o.Chown = os.Lchown
	}
	if o.Working == nil {
		o.Working = func(_ string, do func() error) error { return do() }
	}
	unix.Umask(0o022) // of the directories that are made
	h = &host{Options: o, in: bufio.NewReader(o.In)}
	if unlock, err = lock(h.at(path.Dir(passwdPath))); err != nil {
		return nil, nil, err
	}
	if err = h.readManifest(); err == nil {
		h.accounts, err = h.readAccounts()
	}
	if err != nil {
		unlock()
	}
	return h, unlock, err
}

func (h *host) printf(format string, args ...any) { fmt.Fprintf(h.Out, format, args...) }

// item prints a text behind a mark, and its other lines indented below it.
func (h *host) item(mark, under, text string) {
	text = strings.ReplaceAll(text, "\n", "\n"+under)
	h.printf("%s%s\n", mark, strings.ReplaceAll(text, "\n"+under+"\n", "\n\n"))
}

// agree shows what is about to be done and asks whether to do it.
func (h *host) agree(ctx context.Context, mode string, steps []step, note string) error {
	h.printf("threatstopd --%s is about to:\n", mode)
	for _, s := range steps {
		switch {
		case s.leave != "":
			h.item("  ", "    ", "leave: "+s.leave)
		case s.say != "":
			h.item("  ", "    ", s.say)
		}
	}
	h.printf("%s", note)
	if !h.ask(ctx, "Go on?") {
		return ErrDeclined
	}
	return nil
}

// ask puts a question, and reports whether the answer was yes. No answer is no, and so is an interrupt.
func (h *host) ask(ctx context.Context, question string) bool {
	if h.Yes {
		return true
	}
	line, _ := h.line(ctx, question+" [y/n] ")
	line = strings.ToLower(line)
	return line == "y" || line == "yes"
}

// line puts a question, and returns the line that answers it; false at the end of the input and after an interrupt.
func (h *host) line(ctx context.Context, question string) (string, bool) {
	if ctx.Err() != nil {
		return "", false // and nobody else reads
	}
	h.printf("%s", question)
	answers := make(chan string, 1)
	go func() {
		if line, err := h.in.ReadString('\n'); err == nil || line != "" {
			answers <- strings.TrimSpace(line)
		}
		close(answers)
	}()
	select {
	case line, ok := <-answers:
		return line, ok && ctx.Err() == nil
	case <-ctx.Done():
		h.printf("\n")
		return "", false
	}
}

// run runs commands that must succeed.
func (h *host) run(ctx context.Context, stdin string, commands ...[]string) error {
	for _, args := range commands {
		if h.fault != nil {
			if err := h.fault("run " + typed(args)); err != nil {
				return err
			}
		}
		if _, err := h.Commands(ctx, stdin, args...); err != nil {
			return err
		}
	}
	return nil
}

// running reports whether a service of rc.d(8) is.
func (h *host) running(ctx context.Context, name string) (bool, error) {
	_, err := h.Commands(ctx, "", rcctl, "check", name)
	if errors.Is(err, errStatus) {
		return false, nil
	}
	return err == nil, err
}

// runs is the step of running commands.
func (h *host) runs(say string, commands ...[]string) step {
	return step{say: say, do: func(ctx context.Context) error { return h.run(ctx, "", commands...) }}
}

// rc is the step of running rcctl(8) for the daemon.
func (h *host) rc(action string) step {
	return h.runs(fmt.Sprintf("run `rcctl %s %s`", action, service), []string{rcctl, action, service})
}

// writes is the step of writing a file, or of removing it if s is nil.
func (h *host) writes(say, path string, s *saved) step {
	return step{say: say, do: func(context.Context) error {
		if s == nil {
			return h.remove(path)
		}
		return h.replace(path, s)
	}}
}

// add adds a step of the installation.
func (h *host) add(rec *change, s step) {
	s.rec = rec
	h.steps = append(h.steps, s)
}

func (h *host) advise(format string, args ...any) {
	h.advice = append(h.advice, fmt.Sprintf(format, args...))
}

// Install puts threatstopd on the host. It looks first, shows what it is about to do, asks, and does it. What is
// in place already is left alone: to run it again after an upgrade replaces what has changed, and after an
// interruption finishes it. pf.conf is never changed; what it needs is printed.
//
// The error wraps ErrDeclined when the owner said no, ErrPackaged in a program that came with a package.
func Install(ctx context.Context, o Options) error {
	h, unlock, err := open(o)
	if err != nil {
		return err
	}
	defer unlock()
	if err := h.plan(ctx); err != nil {
		return err
	}
	for _, c := range h.changes {
		if err := h.removeTemp(c.Path); err != nil {
			return err
		}
	}
	if len(h.steps) == 0 {
		h.printf("threatstopd is installed, there is nothing to do.\n")
		h.next(ctx)
		return nil
	}
	if err := h.agree(ctx, "install", h.steps, fmt.Sprintf(
		"What was there is kept in %s;\n`threatstopd --uninstall` gives it back.\n", manifestPath)); err != nil {
		return err
	}
	if err := h.carryOut(ctx); err != nil {
		return fmt.Errorf("%w: run it again to go on from here, or --uninstall to undo it", err)
	}
	h.printf("threatstopd is installed.\n")
	h.next(ctx)
	return nil
}

// carryOut does all steps, each after it was written down.
func (h *host) carryOut(ctx context.Context) error {
	for _, s := range h.steps {
		err := ctx.Err()
		if err != nil {
			return fmt.Errorf("interrupted: %w", err)
		}
		if s.rec != nil {
			if err = h.parents(s.rec.Path); err == nil {
				err = h.note(s.rec)
			}
		}
		if err == nil {
			err = h.Working(s.say, func() error { return s.do(ctx) })
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// plan looks at the host and collects the steps. What can be undone last comes first.
func (h *host) plan(ctx context.Context) error {
	program, err := h.Program()
	if err != nil {
		return fmt.Errorf("this program: %w", err)
	}
	out, err := h.Commands(ctx, "", rcctl, "ls", "on")
	if err != nil {
		return err
	}
	on := strings.Fields(out) // services that are started at boot
	if err := h.readConf(ctx); err != nil {
		return err
	}
	files := []struct {
		path  string
		mode  mode
		text  string
		keeps bool // what the owner made of it stays
	}{
		{programPath(), 0o555, string(program), false},
		{manualPath(), 0o444, manual, false},
		{confManPath(), 0o444, confManual, false},
		{rcScriptPath, 0o555, rcScript(), true},
		{h.Conf.Path, 0o600, h.Conf.Example, true},
	}
	if h.kept {
		files = files[:len(files)-1]
	}
	for _, f := range files {
		if err := h.file(f.path, &saved{Mode: f.mode, content: contentOf(f.text)}, f.keeps); err != nil {
			return err
		}
	}
	for _, part := range []func() error{
		h.user,
		h.spool,
		func() error { return h.table(h.cfg.BlockFile, h.cfg.BlockTable) },
		func() error { return h.table(h.cfg.AllowFile, h.cfg.AllowTable) },
		func() error { return h.firewall(ctx, on) },
		func() error { return h.daemon(ctx, on) },
		h.takeOver,
	} {
		if err := part(); err != nil {
			return err
		}
	}
	return nil
}

// readConf reads the configuration that is there, or asks for what it needs. A broken one ends the installation
// before it has begun.
func (h *host) readConf(ctx context.Context) error {
	text, name := h.Conf.Example, h.Conf.Path
	s, err := h.stat(name)
	if err != nil {
		return err
	}
	if s != nil {
		data, err := os.ReadFile(h.at(name)) // a link is as good as a file
		if err != nil {
			return plain(name, err)
		}
		// The example, as it was put there, is nobody's configuration yet.
		if rec := h.find(kindFile, name, ""); rec == nil || !rec.wrote(string(data)) {
			text, h.kept = string(data), true
		}
	}
	if !h.kept && h.Terminal && !h.Yes {
		if answers := h.askConf(ctx); answers != "" {
			// It is the owner's, and so its sum is not written down: --uninstall leaves it.
			text, h.kept = answers, true
			h.add(h.change(kindFile, name, ""), h.writes(fmt.Sprintf("write %s with these answers (mode 0600)", name),
				name, &saved{Mode: 0o600, content: contentOf(text)}))
		}
	}
	cfg, warnings, err := h.Conf.Parse(name, text)
	if err != nil {
		return fmt.Errorf("%w\n%s: put this right first: nothing was changed", err, name)
	}
	h.cfg = cfg
	if !h.kept {
		return nil // next names what is to be filled in
	}
	for _, w := range warnings {
		h.advise("%v", w)
	}
	if s != nil && s.Type == "" && s.Mode&0o077 != 0 {
		h.advise("%s has mode %04o: `chmod 600` it: writable by others, or readable with a password in it, it is refused",
			name, s.Mode)
	}
	return nil
}

// askConf asks for what a configuration needs and tries it. It returns the configuration, or "" for the example,
// which the owner fills in.
func (h *host) askConf(ctx context.Context) string {
	h.printf("What %s needs, as the web site of the service shows it. Without an answer\n"+
		"the example is installed, to be filled in.\n", h.Conf.Path)
	answers := make(map[string]string)
	for _, q := range h.Conf.Questions {
		prompt := q.Text
		if q.Default != "" {
			prompt += " [" + q.Default + "]"
		}
		for err := errors.New("not asked yet"); err != nil; {
			line, ok := h.line(ctx, prompt+": ")
			if answers[q.Key] = cmp.Or(line, q.Default); !ok || answers[q.Key] == "" && !q.Optional {
				return ""
			}
			if _, _, err = h.Conf.Parse(h.Conf.Path, h.Conf.Fill(answers)); err != nil {
				h.printf("%v\n", err)
			}
		}
	}
	text := h.Conf.Fill(answers)
	if err := h.Conf.Try(ctx, text); err != nil {
		h.printf("%v\n", err)
		if !h.ask(ctx, "Take these answers all the same?") {
			return ""
		}
	}
	return text
}

// file has a file made or replaced, unless it is as it should be.
func (h *host) file(name string, want *saved, keeps bool) error {
	cur, err := h.read(name)
	if err != nil {
		return fmt.Errorf("%w: put a file in its place", err)
	}
	rec, verb := h.change(kindFile, name, ""), "install"
	if cur != nil {
		verb = "replace"
		if cur.text() == want.text() && cur.Mode == want.Mode {
			return nil
		}
		if keeps && rec.After != nil && !rec.wrote(cur.text()) {
			h.advise("%s was changed since it was installed, and stays as it is", name)
			return nil
		}
	}
	if rec.After == nil {
		rec.Before = cur
	}
	h.changed = h.changed || name == programPath() || name == rcScriptPath
	h.add(rec.writing(want.text()), h.writes(fmt.Sprintf("%s %s (mode %04o)", verb, name, want.Mode), name, want))
	return nil
}

// user has the service user and its group made. Both are called what the configuration calls them.
func (h *host) user() error {
	name := h.cfg.User
	user, haveUser := h.accounts.users[name]
	group, haveGroup := h.accounts.groups[name]
	h.service = user
	if haveUser && haveGroup {
		return nil
	}
	id, err := h.accounts.free(group.id)
	if err != nil {
		return err
	}
	if !haveGroup {
		group.id = id
		h.add(h.change(kindGroup, "", name).writing(groupLine(name, id)), h.runs("add the group "+name, []string{groupadd, "-g", fmt.Sprint(id), name}))
	}
	if !haveUser {
		h.service = account{id: id, gid: group.id}
		h.add(h.change(kindUser, "", name).writing(userLine(name, id, group.id)),
			h.runs(fmt.Sprintf("add the user %s: no password, no shell, no home", name), addUser(name, id)))
	}
	return nil
}

// spool has the spool directory made, or given to the service user.
func (h *host) spool() error {
	dir, want := h.cfg.SpoolDir, &saved{Type: typeDir, Mode: 0o700, UID: h.service.id, GID: h.service.gid}
	cur, err := h.stat(dir)
	if err != nil {
		return err
	}
	rec := h.find(kindSpool, dir, "")
	if rec == nil {
		rec = &change{Kind: kindSpool, Path: dir, Before: cur}
	}
	switch {
	case cur == nil:
		say := fmt.Sprintf("make the directory %s, of %s (mode 0700)", dir, h.cfg.User)
		h.add(rec, step{say: say, do: func(context.Context) error {
			if err := h.do("make", dir, func() error { return os.Mkdir(h.at(dir), 0o700) }); err != nil {
				return err
			}
			return h.own(dir, want)
		}})
	case cur.Type != typeDir:
		return fmt.Errorf("%s: is not a directory: SPOOL_DIR must name one", dir)
	case !cur.sameOwner(want):
		h.add(rec, step{say: fmt.Sprintf("give the directory %s to %s (mode 0700)", dir, h.cfg.User),
			do: func(context.Context) error { return h.own(dir, want) }})
	}
	return nil
}

// table has an empty table file made where there is none: without it pf.conf, once it names the file, does not load.
func (h *host) table(name, table string) error {
	if cur, err := h.stat(name); cur != nil || err != nil {
		return err
	}
	h.add(h.change(kindTable, name, table).writing(""),
		h.writes(fmt.Sprintf("make %s, empty: pf.conf does not load without it", name), name, &saved{Mode: 0o600}))
	return nil
}

// firewall offers to turn on what the agent needs and the host has off.
func (h *host) firewall(ctx context.Context, on []string) error {
	enabled := true
	if h.PF != nil {
		on, _, err := h.PF()
		if enabled = on || err != nil; err != nil {
			h.advise("pf: %v", err)
		}
	}
	logs, err := h.running(ctx, "pflogd")
	if err != nil {
		return err
	}
	for _, x := range []struct {
		kind    kind
		without string // what happens while it is off
		running bool
		start   []string
	}{
		{kindPF, "nothing is blocked", enabled, []string{pfctl, "-e"}},
		{kindPflogd, "hits while threatstopd is down are lost", logs || h.Root != "", []string{rcctl, "start", "pflogd"}},
	} {
		atBoot, enable, state := slices.Contains(on, string(x.kind)), []string{rcctl, "enable", string(x.kind)}, "off"
		switch {
		case x.running && atBoot:
			continue
		case x.running:
			state = "not enabled at boot"
		case atBoot:
			state = "not running"
		}
		if !h.ask(ctx, fmt.Sprintf("%s is %s: without it %s. Turn it on?", x.kind, state, x.without)) {
			h.advise("%s is %s, so %s: %s && %s", x.kind, state, x.without, typed(enable), typed(x.start))
			continue
		}
		rec := h.change(x.kind, "", string(x.kind))
		done, todo := strings.Fields(rec.text()), [][]string(nil)
		if !atBoot {
			todo, done = append(todo, enable), append(done, "enable")
		}
		if !x.running {
			todo, done = append(todo, x.start), append(done, "start")
		}
		slices.Sort(done)
		rec.content = contentOf(strings.Join(slices.Compact(done), " "))
		h.add(rec, h.runs(fmt.Sprintf("turn on %s: `%s`, `%s`", x.kind, typed(enable), typed(x.start)), todo...))
	}
	return nil
}

// daemon has the daemon enabled, and, where its configuration is there to be used, started.
func (h *host) daemon(ctx context.Context, on []string) error {
	if !slices.Contains(on, service) {
		h.add(h.change(kindService, "", service), h.rc("enable"))
	}
	if h.Root != "" || !h.kept {
		return nil
	}
	running, err := h.running(ctx, service)
	switch {
	case err != nil:
		return err
	case !running:
		h.add(nil, h.rc("start"))
	case h.changed:
		h.add(nil, h.rc("restart"))
	}
	return nil
}

// takeOver has the vendor's scripts retired: what runs them is undone. The scripts themselves stay where they
// are, and do nothing by themselves. Without a configuration they keep their work.
func (h *host) takeOver() error {
	tab, err := h.read(cronTabPath)
	if err != nil {
		return err
	}
	if tab != nil {
		_, body := cutHeader(tab.text())
		rest, taken, left := takeCron(body)
		if len(taken) > 0 && !h.kept {
			h.advise("The vendor's scripts continue to update the tables until %s is filled in\n"+
				"and `threatstopd --install` has been run again.", h.Conf.Path)
			return nil
		}
		for _, l := range left {
			h.advise("root's crontab runs a script of the vendor among other things: take it out there (crontab -e):\n%s", l)
		}
		if len(taken) > 0 {
			tab.content = contentOf(body)
			h.add(h.edit(kindCrontab, cronTabPath, tab, rest), step{say: "take out of root's crontab:\n" + strings.Join(taken, "\n"),
				do: func(ctx context.Context) error { return h.setCrontab(ctx, rest) }})
		}
	}
	cur, err := h.read(newsyslogPath)
	if err != nil {
		return err
	}
	if cur != nil {
		if conf, was, becomes := setRotation(cur.text(), hourly, stock); was != "" {
			want := *cur
			want.content = contentOf(conf)
			say := fmt.Sprintf("rotate pflogd's file as before the scripts, in %s:\n- %s\n+ %s", newsyslogPath, was, becomes)
			h.add(h.edit(kindNewsyslog, newsyslogPath, cur, conf), h.writes(say, newsyslogPath, &want))
		}
	}
	h.nameScripts()
	return nil
}

// edit returns the change of a file of the owner's from cur to text. If somebody has changed it again since it
// was changed, that is what is to be given back.
func (h *host) edit(k kind, path string, cur *saved, text string) *change {
	rec := h.change(k, path, "")
	if rec.Before == nil || !rec.wrote(cur.text()) {
		rec.Before, rec.After = cur, nil
	}
	return rec.writing(text)
}

// setCrontab replaces root's crontab by crontab(1), which also notifies cron(8).
func (h *host) setCrontab(ctx context.Context, body string) error {
	if err := h.run(ctx, body, []string{crontab, "-u", "root", "-"}); err != nil {
		return err
	}
	if _, now := cutHeader(h.text(cronTabPath)); now != body {
		return fmt.Errorf("%s: is not what was given to crontab: somebody else changes it", cronTabPath)
	}
	return nil
}

// nameScripts names the vendor's scripts, and what else runs them.
func (h *host) nameScripts() {
	there := slices.DeleteFunc(slices.Clone(scripts), func(s string) bool {
		f, err := h.stat(scriptsDir + s)
		return f == nil || err != nil
	})
	if len(there) > 0 && slices.Contains(scripts[:3], there[0]) {
		h.advise("The vendor's scripts stay in %s, and are not run any more:\n%s", scriptsDir, strings.Join(there, " "))
	}
	for _, name := range []string{"/etc/rc.local", "/etc/daily.local", "/etc/weekly.local", "/etc/monthly.local"} {
		for i, line := range strings.Split(h.text(name), "\n") {
			if runs, _ := runsScript(line); runs {
				h.advise("%s:%d runs a script of the vendor: take it out:\n%s", name, i+1, strings.TrimSpace(line))
			}
		}
	}
}

// next prints what is left to the owner.
func (h *host) next(ctx context.Context) {
	if !h.kept {
		h.advise("Fill in %s: device_id, DNS_SERVERS, BLOCK_LISTS, url.\n`threatstopd -n` checks it.", h.Conf.Path)
	}
	if len(h.pfConf().using(h.cfg.BlockTable)) == 0 {
		h.advise("%s", PFAdvice(h.cfg.BlockTable, h.cfg.BlockFile, h.cfg.AllowTable, h.cfg.AllowFile))
	}
	if !h.kept && h.Root == "" {
		h.advise("rcctl start threatstopd")
	}
	if h.Root != "" && len(h.steps) > 0 {
		h.advise("Make the password databases of this tree: pwd_mkdb -p -d %s master.passwd", filepath.Join(h.Root, "etc"))
	}
	if len(h.advice) > 0 {
		h.printf("\nWhat is left to do, or to know:\n")
	}
	for _, a := range h.advice {
		h.item("- ", "  ", a)
	}
	if h.Preflight != nil && h.kept {
		h.printf("\n")
		h.Preflight(ctx)
	}
}

// PFAdvice is what pf.conf needs so that the tables have an effect: the lines, and which of them can be left out.
func PFAdvice(block, blockFile, allow, allowFile string) string {
	return fmt.Sprintf(`Put into %[1]s, above other rules with "quick", then run
`+"`pfctl -f %[1]s`"+`:

    set limit table-entries 400000
    table <%[2]s> persist file "%[3]s"
    block drop in log quick from <%[2]s>
    block drop out log quick to <%[2]s>

The limit must stand above the table: a reload holds old and new entries
together. The vendor's set of lines also has

    table <%[4]s> persist file "%[5]s"
    pass in quick from <%[4]s>
    pass out quick to <%[4]s>

above the block rules. Leave them out unless you want them: they open every
port to the addresses of the allow lists, and these are kept out of the
block table anyway.`, pfConfPath, block, blockFile, allow, allowFile)
}
