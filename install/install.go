package install

import (
	"bufio"
	"cmp"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

//go:embed threatstopd.8
var manual []byte

//go:embed threatstop.conf.5
var confManual []byte

//go:embed port/pkg/threatstopd.rc
var rcTemplate string

// rcScript is the rc.d script; the port has it with a variable of its own in it.
func rcScript() []byte {
	return []byte(strings.ReplaceAll(rcTemplate, "${TRUEPREFIX}", prefix))
}

// Options are what Install and Uninstall need of the host.
type Options struct {
	// Root is the root directory of the system to work on. "" is the one that
	// is running; any other is a tree of files, and Commands must be its Tree.
	Root string
	// Yes answers every question with yes.
	Yes bool
	// Terminal: somebody can answer what is not answered by yes or no.
	Terminal bool
	// In is where answers are read from.
	In  io.Reader
	Out io.Writer
	// Commands carries out what only commands can do.
	Commands Commands
	// Program returns the program that is installed: this one.
	Program func() ([]byte, error)
	// PF returns the state of the packet filter; nil where there is none to ask. The tables of
	// one that cannot be asked are taken to be in use.
	PF func() (PF, error)
	// Conf is the configuration that is installed and read.
	Conf Conf
	// Preflight looks whether all is as it has to be, and prints what it finds.
	// It is called at the end, where the configuration is the owner's own; nil
	// for no look.
	Preflight func(context.Context)
	// OS is the system that is running, as runtime.GOOS names it; Superuser is
	// whether it is root who installs.
	OS        string
	Superuser bool

	// Chown sets the owner of a file; nil for os.Lchown.
	Chown func(path string, uid, gid int) error

	// For tests.
	owner func(path string) (uid, gid int, ok bool)
	fault func(what string, done bool) error
	hasty bool
}

// Conf is what the installer needs of the program's configuration.
type Conf struct {
	// Path is where the configuration lies.
	Path string
	// Example is the commented example that is installed where there is none.
	Example string
	// Parse reads the text of a configuration. Warnings are for the owner to
	// see, and no reason to stop.
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

// PF is what is known of the packet filter.
type PF struct {
	Running bool
	Tables  []string // names of the tables that are loaded, in any anchor
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
	disk
	in       *bufio.Reader
	manifest *manifest
	exists   bool // there is a manifest on the disk
	accounts *accounts
}

func open(o Options) (h *host, unlock func(), err error) {
	if packager != "" {
		return nil, nil, fmt.Errorf("this program %w: use %s", ErrPackaged, packager)
	}
	if o.Root == "" {
		if o.OS != "openbsd" {
			return nil, nil, fmt.Errorf("this is %s: threatstopd is installed on OpenBSD", o.OS)
		}
		if !o.Superuser {
			return nil, nil, errors.New("must be root")
		}
	}
	h = &host{Options: o, in: bufio.NewReader(o.In)}
	h.disk = disk{root: o.Root, chown: o.Chown, owner: o.owner, fault: o.fault, hasty: o.hasty}
	if h.disk.root == "" {
		h.disk.root = "/"
	}
	if h.disk.chown == nil {
		h.disk.chown = os.Lchown
	}
	if unlock, err = lock(h.at(path.Dir(passwdPath))); err != nil {
		return nil, nil, err
	}
	h.manifest, h.exists, err = readManifest(&h.disk)
	if err == nil {
		h.accounts, err = readAccounts(&h.disk)
	}
	if err != nil {
		unlock()
		return nil, nil, err
	}
	return h, unlock, nil
}

// lock keeps two from changing a host at a time. It locks a directory, and so leaves
// nothing behind; not that of the manifest, which a running daemon has locked.
func lock(dir string) (unlock func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w: another installation is running", dir, err)
	}
	return func() { f.Close() }, nil
}

// indent moves all lines but the first to the right.
func indent(text string, by int) string {
	lines := strings.Split(text, "\n")
	for i := range lines[1:] {
		if lines[i+1] != "" {
			lines[i+1] = strings.Repeat(" ", by) + lines[i+1]
		}
	}
	return strings.Join(lines, "\n")
}

func (h *host) printf(format string, args ...any) { fmt.Fprintf(h.Out, format, args...) }

// ask puts a question, and reports whether the answer was yes. No answer is no, and so
// is an interrupt.
func (h *host) ask(ctx context.Context, question string) bool {
	if h.Yes {
		return true
	}
	if ctx.Err() != nil {
		return false // and nobody else reads
	}
	line, _ := h.line(ctx, question+" [y/n] ")
	line = strings.ToLower(line)
	return line == "y" || line == "yes"
}

// line puts a question, and returns the line that answers it; false at the end of the input and after an
// interrupt.
func (h *host) line(ctx context.Context, question string) (string, bool) {
	h.printf("%s", question)
	type answer struct {
		line string
		err  error
	}
	answers := make(chan answer, 1)
	go func() {
		line, err := h.in.ReadString('\n')
		answers <- answer{strings.TrimSpace(line), err}
	}()
	select {
	case a := <-answers:
		if ctx.Err() == nil {
			return a.line, a.err == nil || a.line != ""
		}
	case <-ctx.Done():
		h.printf("\n")
	}
	return "", false
}

// run runs a command that must succeed.
func (h *host) run(ctx context.Context, c Command) error {
	return h.do("run "+c.String(), func() error {
		r, err := h.Commands.Run(ctx, c)
		if err == nil && r.Code != 0 {
			err = failed(c, r)
		}
		return err
	})
}

// running reports whether a service of rc.d(8) is.
func (h *host) running(ctx context.Context, name string) (bool, error) {
	r, err := h.Commands.Run(ctx, Command{Args: []string{rcctl, "check", name}})
	return r.Code == 0, err
}

// daemonRuns reports whether the daemon is running.
func (h *host) daemonRuns(ctx context.Context) (bool, error) {
	if s, err := h.stat(rcScriptPath); s == nil || err != nil {
		return false, err
	}
	return h.running(ctx, service)
}

// enabled returns the services that are started at boot.
func (h *host) enabled(ctx context.Context) ([]string, error) {
	c := Command{Args: []string{rcctl, "ls", "on"}}
	r, err := h.Commands.Run(ctx, c)
	if err == nil && r.Code != 0 {
		err = failed(c, r)
	}
	return strings.Fields(r.Stdout), err
}

// note writes a change into the manifest, before it is made.
func (h *host) note(c *change) error {
	if !slices.Contains(h.manifest.Changes, c) {
		h.manifest.Changes = append(h.manifest.Changes, c)
	}
	h.exists = true
	return h.manifest.write(&h.disk)
}

// step is one thing to do.
type step struct {
	say string  // completes "is about to: "; more lines are indented; empty: the step before says it
	rec *change // is written down before it is done; nil: there is nothing to undo
	do  func(context.Context) error
}

// installer collects what there is to do.
type installer struct {
	*host
	steps  []step
	advice []string // for the owner, when all is done

	cfg     Settings
	kept    bool    // the configuration is the owner's, not the example
	changed bool    // the daemon is another one now: restart it
	service account // the service user, which may still have to be made
}

func (in *installer) add(rec *change, say string, do func(context.Context) error) {
	in.steps = append(in.steps, step{say, rec, do})
}

func (in *installer) advise(format string, args ...any) {
	in.advice = append(in.advice, fmt.Sprintf(format, args...))
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
	in := &installer{host: h}
	if err := in.plan(ctx); err != nil {
		return err
	}
	for _, c := range h.manifest.Changes {
		if err := h.removeTemp(c.Path); err != nil {
			return err
		}
	}
	if len(in.steps) == 0 {
		in.printf("threatstopd is installed, there is nothing to do.\n")
		in.next(ctx)
		return nil
	}
	in.printf("threatstopd --install is about to:\n")
	for _, s := range in.steps {
		if s.say != "" {
			in.printf("  %s\n", indent(s.say, 4))
		}
	}
	in.printf("What was there is kept in %s;\n`threatstopd --uninstall` gives it back.\n", manifestPath)
	if !in.ask(ctx, "Go on?") {
		return ErrDeclined
	}
	if err := in.carryOut(ctx); err != nil {
		return fmt.Errorf("%w: run it again to go on from here, or --uninstall to undo it", err)
	}
	in.printf("threatstopd is installed.\n")
	in.next(ctx)
	return nil
}

// carryOut does all steps, each after it was written down.
func (in *installer) carryOut(ctx context.Context) error {
	for _, s := range in.steps {
		err := ctx.Err()
		if err != nil {
			return fmt.Errorf("interrupted: %w", err)
		}
		if s.rec != nil {
			switch s.rec.Kind {
			case kindFile, kindSpool, kindTable:
				err = in.parents(s.rec.Path)
			case kindPF, kindPflogd, kindService:
				err = in.rcConf()
			}
			if err == nil {
				err = in.note(s.rec)
			}
		}
		if err == nil {
			err = s.do(ctx)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// plan looks at the host and collects the steps. What can be undone last comes first.
func (in *installer) plan(ctx context.Context) error {
	program, err := in.Program()
	if err != nil {
		return fmt.Errorf("this program: %w", err)
	}
	on, err := in.enabled(ctx)
	if err != nil {
		return err
	}
	if err := in.readConf(ctx); err != nil {
		return err
	}
	files := []struct {
		path  string
		mode  fs.FileMode
		data  []byte
		keeps bool // what the owner made of it stays
	}{
		{programPath(), 0o555, program, false},
		{manualPath(), 0o444, manual, false},
		{confManPath(), 0o444, confManual, false},
		{rcScriptPath, 0o555, rcScript(), true},
		{in.Conf.Path, 0o600, []byte(in.Conf.Example), true},
	}
	if in.kept {
		files = files[:len(files)-1]
	}
	for _, f := range files {
		if err := in.file(f.path, &saved{Mode: f.mode, Data: f.data}, f.keeps); err != nil {
			return err
		}
	}
	for _, part := range []func() error{
		in.user,
		in.spool,
		func() error { return in.table(in.cfg.BlockFile, in.cfg.BlockTable) },
		func() error { return in.table(in.cfg.AllowFile, in.cfg.AllowTable) },
		func() error { return in.firewall(ctx, on) },
		func() error { return in.daemon(ctx, on) },
		in.takeOver,
	} {
		if err := part(); err != nil {
			return err
		}
	}
	return nil
}

// readConf reads the configuration that is there, or asks for what it needs. A broken one ends the installation
// before it has begun.
func (in *installer) readConf(ctx context.Context) error {
	text, name := in.Conf.Example, in.Conf.Path
	s, err := in.stat(name)
	if err != nil {
		return err
	}
	if s != nil {
		data, err := os.ReadFile(in.at(name)) // a link is as good as a file
		if err != nil {
			return in.plain(name, err)
		}
		// The example, as it was put there, is nobody's configuration yet.
		if rec := in.manifest.find(kindFile, name, ""); rec == nil || !rec.wrote(data) {
			text, in.kept = string(data), true
		}
	}
	if !in.kept && in.Terminal && !in.Yes {
		if answers := in.askConf(ctx); answers != "" {
			// It is the owner's, and so its sum is not written down: --uninstall leaves it.
			text, in.kept = answers, true
			in.add(in.change(kindFile, name, ""), fmt.Sprintf("write %s with these answers (mode 0600)", name),
				func(context.Context) error { return in.replace(name, &saved{Mode: 0o600, Data: []byte(text)}) })
		}
	}
	cfg, warnings, err := in.Conf.Parse(name, text)
	if err != nil {
		return fmt.Errorf("%w\n%s: put this right first: nothing was changed", err, name)
	}
	in.cfg = cfg
	if !in.kept {
		return nil // next names what is to be filled in
	}
	for _, w := range warnings {
		in.advise("%v", w)
	}
	if s != nil && s.Mode.IsRegular() && s.Mode.Perm()&0o077 != 0 {
		in.advise("%s has mode %04o: `chmod 600` it: writable by others, or readable with a password in it, it is refused", name, s.Mode.Perm())
	}
	return nil
}

// askConf asks for what a configuration needs and tries it. It returns the configuration, or "" for the example,
// which the owner fills in.
func (in *installer) askConf(ctx context.Context) string {
	in.printf("What %s needs, as the web site of the service shows it. Without an answer\nthe example is installed, to be filled in.\n", in.Conf.Path)
	answers := make(map[string]string)
	for _, q := range in.Conf.Questions {
		prompt := q.Text
		if q.Default != "" {
			prompt += " [" + q.Default + "]"
		}
		for err := errors.New("not asked yet"); err != nil; {
			line, ok := in.line(ctx, prompt+": ")
			if answers[q.Key] = cmp.Or(line, q.Default); !ok || answers[q.Key] == "" && !q.Optional {
				return ""
			}
			if _, _, err = in.Conf.Parse(in.Conf.Path, in.Conf.Fill(answers)); err != nil {
				in.printf("%v\n", err)
			}
		}
	}
	text := in.Conf.Fill(answers)
	if err := in.Conf.Try(ctx, text); err != nil {
		in.printf("%v\n", err)
		if !in.ask(ctx, "Take these answers all the same?") {
			return ""
		}
	}
	return text
}

// file has a file made or replaced, unless it is as it should be.
func (in *installer) file(name string, want *saved, keeps bool) error {
	cur, err := in.read(name)
	if err != nil {
		return fmt.Errorf("%w: put a file in its place", err)
	}
	rec, verb := in.change(kindFile, name, ""), "install"
	if cur != nil {
		verb = "replace"
		if cur.sum() == want.sum() && cur.Mode == want.Mode {
			return nil
		}
		if keeps && rec.After != nil && !rec.wrote(cur.Data) {
			in.advise("%s was changed since it was installed, and stays as it is", name)
			return nil
		}
	}
	if rec.After == nil {
		rec.Before = cur
	}
	rec.writing(want.Data)
	in.changed = in.changed || name == programPath() || name == rcScriptPath
	in.add(rec, fmt.Sprintf("%s %s (mode %04o)", verb, name, want.Mode), func(context.Context) error { return in.replace(name, want) })
	return nil
}

// parents makes the directories above a file that are missing.
func (in *installer) parents(name string) error {
	var missing []string
	for dir := path.Dir(name); dir != "/"; dir = path.Dir(dir) {
		_, err := os.Stat(in.at(dir)) // a link to a directory will do
		if err == nil {
			// One of ours that is empty may be what a crash left before it had its mode and owner.
			if all, err := in.entries(dir); err == nil && len(all) == 0 && in.manifest.find(kindDir, dir, "") != nil {
				missing = append(missing, dir)
			}
			break
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return in.plain(dir, err)
		}
		missing = append(missing, dir)
	}
	for _, dir := range slices.Backward(missing) {
		if in.manifest.find(kindDir, dir, "") == nil {
			if err := in.note(&change{Kind: kindDir, Path: dir}); err != nil {
				return err
			}
		}
		if err := in.mkdir(dir, &saved{Mode: 0o755}); err != nil {
			return err
		}
	}
	return nil
}

// user has the service user and its group made. Both are called what the configuration calls them.
func (in *installer) user() (err error) {
	name := in.cfg.User
	user, haveUser := in.accounts.users[name]
	group, haveGroup := in.accounts.groups[name]
	what := fmt.Sprintf("add the user %s and its group: no password, no shell, no home", name)
	if haveUser {
		what = fmt.Sprintf("add the group %s", name)
	}
	if !haveGroup {
		if group.id, err = in.accounts.free(); err != nil {
			return err
		}
		rec := in.change(kindGroup, "", name)
		rec.writing(fmt.Appendf(nil, "%s:*:%d:", name, group.id))
		in.add(rec, what, func(ctx context.Context) error { return in.run(ctx, addGroup(name, group.id)) })
		what = ""
	}
	if !haveUser {
		user = account{id: group.id, gid: group.id}
		for _, u := range in.accounts.users {
			if u.id == user.id { // the group's number is some user's
				if user.id, err = in.accounts.free(); err != nil {
					return err
				}
			}
		}
		rec := in.change(kindUser, "", name)
		rec.writing([]byte(userLine(name, user.id, user.gid)))
		in.add(rec, what, func(ctx context.Context) error { return in.run(ctx, addUser(name, user.id)) })
	}
	in.service = user
	return nil
}

// change returns what the manifest has of a change, or a new one.
func (in *installer) change(k kind, path, name string) *change {
	if c := in.manifest.find(k, path, name); c != nil {
		return c
	}
	return &change{Kind: k, Path: path, Name: name}
}

// spool has the spool directory made, or given to the service user.
func (in *installer) spool() error {
	dir, want := in.cfg.SpoolDir, &saved{Mode: 0o700, UID: in.service.id, GID: in.service.gid}
	cur, err := in.stat(dir)
	rec := in.manifest.find(kindSpool, dir, "")
	if rec == nil {
		rec = &change{Kind: kindSpool, Path: dir, Before: cur}
	}
	switch {
	case err != nil:
		return err
	case cur == nil:
		in.add(rec, fmt.Sprintf("make the directory %s, of %s (mode 0700)", dir, in.cfg.User), func(context.Context) error { return in.mkdir(dir, want) })
	case !cur.Mode.IsDir():
		return fmt.Errorf("%s: is not a directory: SPOOL_DIR must name one", dir)
	case cur.UID != want.UID || cur.GID != want.GID || cur.Mode.Perm() != want.Mode:
		in.add(rec, fmt.Sprintf("give the directory %s to %s (mode 0700)", dir, in.cfg.User), func(context.Context) error { return in.own(dir, want) })
	}
	return nil
}

// table has an empty table file made where there is none: without it pf.conf, once it names the file, does not
// load.
func (in *installer) table(name, table string) error {
	cur, err := in.stat(name)
	if cur != nil || err != nil {
		return err
	}
	rec := in.change(kindTable, name, table)
	rec.writing(nil)
	in.add(rec, fmt.Sprintf("make %s, empty: pf.conf does not load without it", name),
		func(context.Context) error { return in.replace(name, &saved{Mode: 0o600}) })
	return nil
}

// firewall offers to turn on what the agent needs and the host has off.
func (in *installer) firewall(ctx context.Context, on []string) error {
	running := true
	if in.PF != nil {
		pf, err := in.PF()
		if err != nil {
			in.advise("pf: %v", err)
		} else {
			running = pf.Running
		}
	}
	in.turnOn(ctx, kindPF, "nothing is blocked", "nothing is enforced", running, slices.Contains(on, "pf"), Command{Args: []string{pfctl, "-e"}})
	logs, err := in.running(ctx, "pflogd")
	if err != nil {
		return err
	}
	const lost = "hits while threatstopd is down are lost"
	in.turnOn(ctx, kindPflogd, lost, lost, logs || in.Root != "", slices.Contains(on, "pflogd"), Command{Args: []string{rcctl, "start", "pflogd"}})
	return nil
}

// turnOn offers to turn on pf or pflogd, unless it runs and is started at boot. without and so complete a sentence
// about what is the matter otherwise.
func (in *installer) turnOn(ctx context.Context, k kind, without, so string, running, atBoot bool, start Command) {
	enable := Command{Args: []string{rcctl, "enable", string(k)}}
	state := "off"
	switch {
	case running && atBoot:
		return
	case running:
		state = "not enabled at boot"
	case atBoot:
		state = "not running"
	}
	if !in.ask(ctx, fmt.Sprintf("%s is %s: without it %s. Turn it on?", k, state, without)) {
		in.advise("%s is %s, so %s: %s && %s", k, state, so, enable, start)
		return
	}
	rec := in.change(k, "", string(k))
	var todo []Command
	needs := func(already bool, word string, c Command) {
		if already {
			return
		}
		todo = append(todo, c)
		if !strings.Contains(rec.Text, word) {
			rec.Text = strings.TrimSpace(rec.Text + " " + word)
		}
	}
	needs(atBoot, "enable", enable)
	needs(running, "start", start)
	in.add(rec, fmt.Sprintf("turn on %s: `%s`, `%s`", k, enable, start), func(ctx context.Context) error {
		for _, c := range todo {
			if err := in.run(ctx, c); err != nil {
				return err
			}
		}
		return nil
	})
}

// rcConf keeps rc.conf.local as it was before rcctl sorts it for the first time.
func (in *installer) rcConf() error {
	if in.manifest.find(kindRCConf, rcConfPath, "") != nil {
		return nil
	}
	cur, err := in.read(rcConfPath)
	if err != nil {
		return err
	}
	return in.note(&change{Kind: kindRCConf, Path: rcConfPath, Before: cur})
}

// daemon has the daemon enabled, and, where its configuration is there to be used, started.
func (in *installer) daemon(ctx context.Context, on []string) error {
	step := func(rec *change, action string) {
		c := Command{Args: []string{rcctl, action, service}}
		in.add(rec, fmt.Sprintf("run `%s`", c), func(ctx context.Context) error { return in.run(ctx, c) })
	}
	if !slices.Contains(on, service) {
		step(in.change(kindService, "", service), "enable")
	}
	if in.Root != "" || !in.kept {
		return nil
	}
	running, err := in.daemonRuns(ctx)
	switch {
	case err != nil:
		return err
	case !running:
		step(nil, "start")
	case in.changed:
		step(nil, "restart")
	}
	return nil
}

// takeOver has the vendor's scripts retired: what runs them is undone. The scripts
// themselves stay where they are, so that giving back is complete, and they do
// nothing by themselves.
func (in *installer) takeOver() error {
	if later, err := in.takeCrontab(); later || err != nil {
		return err
	}
	if err := in.takeNewsyslog(); err != nil {
		return err
	}
	return in.nameScripts()
}

// takeCrontab takes what runs the scripts out of root's crontab; later, where there is no configuration yet.
func (in *installer) takeCrontab() (later bool, err error) {
	tab, err := in.read(cronTabPath)
	if tab == nil || err != nil {
		return false, err
	}
	_, body := cutHeader(string(tab.Data))
	rest, taken, left := takeCron(body, in.cronBackup())
	if len(taken) > 0 && !in.kept {
		in.advise("The vendor's scripts continue to update the tables until %s is filled in\nand `threatstopd --install` has been run again.", in.Conf.Path)
		return true, nil
	}
	for _, l := range left {
		in.advise("root's crontab runs a script of the vendor among other things: take it out there (crontab -e):\n%s", l)
	}
	if len(taken) == 0 {
		return false, nil
	}
	tab.Data = []byte(body)
	in.add(in.edit(kindCrontab, cronTabPath, tab, []byte(rest), rest), "take out of root's crontab:\n"+strings.Join(taken, "\n"),
		func(ctx context.Context) error { return in.setCrontab(ctx, rest) })
	return false, nil
}

// edit returns the change of a file of the owner's from cur to data. If somebody has changed it again since it was
// changed, that is what is to be given back.
func (in *installer) edit(k kind, path string, cur *saved, data []byte, text string) *change {
	rec := in.change(k, path, "")
	if rec.Before == nil || !rec.wrote(cur.Data) {
		rec.Before, rec.After = cur, nil
	}
	rec.writing(data)
	rec.Text = text
	return rec
}

// setCrontab replaces root's crontab by crontab(1), which also notifies cron(8).
func (h *host) setCrontab(ctx context.Context, body string) error {
	if err := h.run(ctx, Command{Args: []string{crontab, "-u", "root", "-"}, Stdin: body}); err != nil {
		return err
	}
	tab, err := h.read(cronTabPath)
	if err != nil {
		return err
	}
	if tab == nil {
		return fmt.Errorf("%s: is not there although crontab has written it", cronTabPath)
	}
	if _, now := cutHeader(string(tab.Data)); now != body {
		return fmt.Errorf("%s: is not what was given to crontab: somebody else changes it", cronTabPath)
	}
	return nil
}

// cronBackup returns the copy of root's crontab that the vendor's installer made. It put it into the directory
// that it was started in.
func (in *installer) cronBackup() string {
	for _, dir := range []string{"/root", "/etc", "/usr/local/etc", "/usr/local/sbin", "/"} {
		if f, err := in.read(path.Join(dir, "crontab"+backupSuffix)); err == nil && f != nil {
			return string(f.Data)
		}
	}
	return ""
}

func (in *installer) takeNewsyslog() error {
	cur, err := in.read(newsyslogPath)
	if cur == nil || err != nil {
		return err
	}
	backup := ""
	if f, err := in.read(newsyslogPath + backupSuffix); err == nil && f != nil {
		backup = string(f.Data)
	}
	conf, was, becomes := takeNewsyslog(string(cur.Data), backup)
	if was == "" {
		return nil
	}
	want := &saved{Mode: cur.Mode, UID: cur.UID, GID: cur.GID, Data: []byte(conf)}
	in.add(in.edit(kindNewsyslog, newsyslogPath, cur, want.Data, becomes),
		fmt.Sprintf("rotate pflogd's file as before the scripts, in %s:\n- %s\n+ %s", newsyslogPath, was, becomes),
		func(context.Context) error { return in.replace(newsyslogPath, want) })
	return nil
}

// nameScripts names the vendor's scripts, and what else runs them.
func (in *installer) nameScripts() error {
	var there []string
	for _, s := range append(append([]string{updateScript}, logScripts...), otherScripts...) {
		if len(there) == 0 && slices.Contains(otherScripts, s) {
			break
		}
		if f, err := in.stat(scriptsPrefix() + s); err == nil && f != nil {
			there = append(there, s)
		}
	}
	if len(there) > 0 {
		in.advise("The vendor's scripts stay in %s, and are not run any more:\n%s", scriptsPrefix(), strings.Join(there, " "))
	}
	for _, name := range []string{"/etc/rc.local", "/etc/daily.local", "/etc/weekly.local", "/etc/monthly.local"} {
		f, err := in.read(name)
		if f == nil || err != nil {
			continue
		}
		for i, line := range splitLines(string(f.Data)) {
			if line = strings.TrimSpace(line); mentions(line) && !strings.HasPrefix(line, "#") {
				in.advise("%s:%d runs a script of the vendor: take it out:\n%s", name, i+1, line)
			}
		}
	}
	return nil
}

// next prints what is left to the owner.
func (in *installer) next(ctx context.Context) {
	conf := readPFConf(&in.disk)
	if !in.kept {
		in.advise("Fill in %s: device_id, DNS_SERVERS, BLOCK_LISTS, url.\n`threatstopd -n` checks it.", in.Conf.Path)
	}
	if len(conf.using(in.cfg.BlockTable)) == 0 {
		in.advise("%s", PFAdvice(in.cfg.BlockTable, in.cfg.BlockFile, in.cfg.AllowTable, in.cfg.AllowFile))
	}
	if !in.kept && in.Root == "" {
		in.advise("rcctl start threatstopd")
	}
	if in.Root != "" && len(in.steps) > 0 {
		in.advise("Make the password databases of this tree: pwd_mkdb -p -d %s master.passwd", filepath.Join(in.Root, "etc"))
	}
	if len(in.advice) > 0 {
		in.printf("\nWhat is left to do, or to know:\n")
	}
	for _, a := range in.advice {
		in.printf("- %s\n", indent(a, 2))
	}
	if in.Preflight != nil && in.kept {
		in.printf("\n")
		in.Preflight(ctx)
	}
}

// PFAdvice is what pf.conf needs so that the tables have an effect: the lines, and which
// of them can be left out.
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
