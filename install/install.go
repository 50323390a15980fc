package install

import (
	"bufio"
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
	// Yes answers every question.
	Yes bool
	// In is where answers are read from.
	In  io.Reader
	Out io.Writer
	// Commands carries out what only commands can do.
	Commands Commands
	// Program returns the program that is installed: this one.
	Program func() ([]byte, error)
	// PF tells of the packet filter; nil where there is none to ask. The tables of
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
	// ErrDeclined says that the owner said no.
	ErrDeclined = errors.New("nothing was changed")
	// ErrPackaged says that this program came with a package.
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
		return nil, fmt.Errorf("%s: %w: another installation is going on", dir, err)
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
	h.printf("%s [y/n] ", question)
	answer := make(chan string, 1)
	go func() {
		line, _ := h.in.ReadString('\n')
		answer <- line
	}()
	select {
	case line := <-answer:
		line = strings.ToLower(strings.TrimSpace(line))
		return (line == "y" || line == "yes") && ctx.Err() == nil
	case <-ctx.Done():
		h.printf("\n")
		return false
	}
}

// run runs a command that must succeed.
func (h *host) run(ctx context.Context, stdin string, args ...string) error {
	c := Command{Args: args, Stdin: stdin}
	return h.do("run "+c.String(), func() error {
		r, err := h.Commands.Run(ctx, c)
		if err == nil && r.Code != 0 {
			err = failed(c, r)
		}
		return err
	})
}

// query runs a command that changes nothing, and may fail.
func (h *host) query(ctx context.Context, args ...string) (Result, error) {
	return h.Commands.Run(ctx, Command{Args: args})
}

// running reports whether a service of rc.d(8) is.
func (h *host) running(ctx context.Context, name string) (bool, error) {
	r, err := h.query(ctx, rcctl, "check", name)
	return r.Code == 0, err
}

// enabled returns the services that are started at boot.
func (h *host) enabled(ctx context.Context) ([]string, error) {
	r, err := h.query(ctx, rcctl, "ls", "on")
	if err == nil && r.Code != 0 {
		err = failed(Command{Args: []string{rcctl, "ls", "on"}}, r)
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
	say string // completes "is about to: "; more lines are indented
	do  func(context.Context) error
}

// installer collects what there is to do.
type installer struct {
	*host
	steps  []step
	advice []string // for the owner, when all is done

	cfg     Settings
	kept    bool // the configuration is the owner's, not the example
	changed bool // the daemon is another one now: restart it
}

func (in *installer) add(say string, do func(context.Context) error) {
	in.steps = append(in.steps, step{say, do})
}

func (in *installer) advise(format string, args ...any) {
	in.advice = append(in.advice, fmt.Sprintf(format, args...))
}

// Install puts threatstopd on the host. It looks first, says what it is about to do, asks,
// and does it. What is in place already is left alone: to run it again after an upgrade
// replaces what has changed, and after an interruption finishes it. pf.conf is never
// changed; what it needs is printed.
//
// The error wraps ErrDeclined when the owner said no, ErrPackaged in a program
// that came with a package.
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
		if c.Path != "" {
			if err := h.removeTemp(c.Path); err != nil {
				return err
			}
		}
	}
	if len(in.steps) == 0 {
		in.printf("threatstopd is installed, there is nothing to do.\n")
		in.next(ctx)
		return nil
	}
	in.printf("threatstopd --install is about to:\n")
	for _, s := range in.steps {
		in.printf("  %s\n", indent(s.say, 4))
	}
	in.printf("What was there is kept in %s;\n`threatstopd --uninstall` gives it back.\n", manifestPath)
	if !in.ask(ctx, "Go on?") {
		return ErrDeclined
	}
	if err := in.carryOut(ctx, in.steps); err != nil {
		return fmt.Errorf("%w: run it again to go on from here, or --uninstall to undo it", err)
	}
	in.printf("threatstopd is installed.\n")
	in.next(ctx)
	return nil
}

func (h *host) carryOut(ctx context.Context, steps []step) error {
	for _, s := range steps {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("interrupted: %w", err)
		}
		if err := s.do(ctx); err != nil {
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
	if err := in.readConf(); err != nil {
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
	}
	for _, f := range files {
		if err := in.file(f.path, &saved{Mode: f.mode, Data: f.data}, f.keeps); err != nil {
			return err
		}
	}
	if !in.kept {
		if err := in.file(in.Conf.Path, &saved{Mode: 0o600, Data: []byte(in.Conf.Example)}, true); err != nil {
			return err
		}
	}
	in.user()
	if err := in.spool(); err != nil {
		return err
	}
	for _, t := range []struct{ path, table string }{{in.cfg.BlockFile, in.cfg.BlockTable}, {in.cfg.AllowFile, in.cfg.AllowTable}} {
		if err := in.table(t.path, t.table); err != nil {
			return err
		}
	}
	if err := in.firewall(ctx, on); err != nil {
		return err
	}
	if err := in.service(ctx, on); err != nil {
		return err
	}
	return in.takeOver()
}

// readConf reads the configuration that is there. A broken one ends the installation
// before it has begun.
func (in *installer) readConf() error {
	text, name := in.Conf.Example, in.Conf.Path
	s, err := in.stat(name)
	if err != nil {
		return err
	}
	rec := in.manifest.find(kindFile, name, "")
	if s != nil {
		// A link is as good as a file.
		data, err := os.ReadFile(in.at(name))
		if err != nil {
			return in.plain(name, err)
		}
		// The example, as it was put there, is nobody's configuration yet.
		if rec == nil || !rec.wrote(data) {
			text, in.kept = string(data), true
		}
	}
	cfg, warnings, err := in.Conf.Parse(name, text)
	for _, w := range warnings {
		in.advise("%v", w)
	}
	if err != nil {
		return fmt.Errorf("%w\n%s: put this right first: nothing was changed", err, name)
	}
	in.cfg = cfg
	if in.kept && s.Mode.IsRegular() && s.Mode.Perm()&0o077 != 0 {
		in.advise("%s has mode %04o: `chmod 600` it: writable by others, or readable with a password in it, it is refused", name, s.Mode.Perm())
	}
	return nil
}

// file has a file made or replaced, unless it is as it should be.
func (in *installer) file(name string, want *saved, keeps bool) error {
	cur, err := in.read(name)
	if err != nil {
		return fmt.Errorf("%w: put a file in its place", err)
	}
	rec := in.manifest.find(kindFile, name, "")
	if cur != nil && cur.sum() == want.sum() && cur.Mode == want.Mode {
		return nil
	}
	verb := "install"
	if cur != nil {
		verb = "replace"
		if keeps && rec != nil && !rec.wrote(cur.Data) {
			in.advise("%s was changed since it was installed, and stays as it is", name)
			return nil
		}
	}
	in.changed = in.changed || name == programPath() || name == rcScriptPath
	in.add(fmt.Sprintf("%s %s (mode %04o)", verb, name, want.Mode), func(context.Context) error {
		rec := rec
		if rec == nil {
			rec = &change{Kind: kindFile, Path: name, Before: cur}
		}
		rec.writing(want.Data)
		if err := in.parents(name); err != nil {
			return err
		}
		if err := in.note(rec); err != nil {
			return err
		}
		return in.replace(name, want)
	})
	return nil
}

// parents makes the directories above a file that are missing.
func (in *installer) parents(name string) error {
	var missing []string
	for dir := path.Dir(name); dir != "/"; dir = path.Dir(dir) {
		// A link to a directory will do.
		if _, err := os.Stat(in.at(dir)); err == nil {
			// One of ours that is empty may be what a crash left before it
			// had its mode and owner.
			if in.manifest.find(kindDir, dir, "") != nil {
				if all, err := in.entries(dir); err == nil && len(all) == 0 {
					missing = append(missing, dir)
				}
			}
			break
		} else if !errors.Is(err, fs.ErrNotExist) {
			return in.plain(dir, err)
		}
		missing = append(missing, dir)
	}
	slices.Reverse(missing)
	for _, dir := range missing {
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

// user has the service user and its group made. Both are called what the configuration
// calls them.
func (in *installer) user() {
	name := in.cfg.User
	_, haveUser := in.accounts.users[name]
	group, haveGroup := in.accounts.groups[name]
	if haveUser && haveGroup {
		return
	}
	what := fmt.Sprintf("add the user %s and its group: no password, no shell, no home", name)
	if haveUser {
		what = fmt.Sprintf("add the group %s", name)
	}
	in.add(what, func(ctx context.Context) error {
		id := group.id
		if !haveGroup {
			var err error
			if id, err = in.accounts.free(); err != nil {
				return err
			}
			rec := in.change(kindGroup, "", name)
			rec.writing(fmt.Appendf(nil, "%s:*:%d:", name, id))
			if err := in.note(rec); err != nil {
				return err
			}
			if err := in.run(ctx, "", addGroup(name, id).Args...); err != nil {
				return err
			}
		}
		if !haveUser {
			uid := id
			for _, u := range in.accounts.users {
				if u.id == id { // the group's number is some user's
					var err error
					if uid, err = in.accounts.free(); err != nil {
						return err
					}
				}
			}
			rec := in.change(kindUser, "", name)
			rec.writing([]byte(userLine(name, uid, id)))
			if err := in.note(rec); err != nil {
				return err
			}
			if err := in.run(ctx, "", addUser(name, uid).Args...); err != nil {
				return err
			}
		}
		// The spool directory will be its.
		var err error
		in.accounts, err = readAccounts(&in.disk)
		return err
	})
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
	dir := in.cfg.SpoolDir
	cur, err := in.stat(dir)
	if err != nil {
		return err
	}
	user, known := in.accounts.users[in.cfg.User]
	verb := "make"
	if cur != nil {
		if !cur.Mode.IsDir() {
			return fmt.Errorf("%s: is not a directory: SPOOL_DIR must name one", dir)
		}
		if known && cur.UID == user.id && cur.GID == user.gid && cur.Mode.Perm() == 0o700 {
			return nil
		}
		verb = "give"
	}
	what := fmt.Sprintf("%s the directory %s, of %s (mode 0700)", verb, dir, in.cfg.User)
	if verb == "give" {
		what = fmt.Sprintf("give the directory %s to %s (mode 0700)", dir, in.cfg.User)
	}
	in.add(what, func(context.Context) error {
		if in.manifest.find(kindSpool, dir, "") == nil {
			if err := in.parents(dir); err != nil {
				return err
			}
			if err := in.note(&change{Kind: kindSpool, Path: dir, Before: cur}); err != nil {
				return err
			}
		}
		user, ok := in.accounts.users[in.cfg.User]
		if !ok {
			return fmt.Errorf("user %s: useradd has not made it", in.cfg.User)
		}
		want := &saved{Mode: 0o700, UID: user.id, GID: user.gid}
		if cur == nil {
			return in.mkdir(dir, want)
		}
		return in.own(dir, want)
	})
	return nil
}

// table has an empty table file made where there is none: without it pf.conf, once it
// names the file, does not load.
func (in *installer) table(name, table string) error {
	cur, err := in.stat(name)
	if cur != nil || err != nil {
		return err
	}
	in.add(fmt.Sprintf("make %s, empty: pf.conf does not load without it", name), func(context.Context) error {
		if err := in.parents(name); err != nil {
			return err
		}
		rec := in.change(kindTable, name, table)
		rec.writing(nil)
		if err := in.note(rec); err != nil {
			return err
		}
		return in.replace(name, &saved{Mode: 0o600})
	})
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
	if atBoot := slices.Contains(on, "pf"); !running || !atBoot {
		if !in.ask(ctx, fmt.Sprintf("pf is %s: without it nothing is blocked. Turn it on?", off(running, atBoot))) {
			in.advise("pf is %s, so nothing is enforced: rcctl enable pf && pfctl -e", off(running, atBoot))
		} else {
			in.add("turn on pf, with the rules that are loaded: `rcctl enable pf`, `pfctl -e`", func(ctx context.Context) error {
				if err := in.rcConf(); err != nil {
					return err
				}
				rec := in.change(kindPF, "", "pf")
				rec.Text = joinNew(rec.Text, !atBoot, "enable")
				rec.Text = joinNew(rec.Text, !running, "start")
				if err := in.note(rec); err != nil {
					return err
				}
				if !atBoot {
					if err := in.run(ctx, "", rcctl, "enable", "pf"); err != nil {
						return err
					}
				}
				if running {
					return nil
				}
				return in.run(ctx, "", pfctl, "-e")
			})
		}
	}
	logs, err := in.running(ctx, "pflogd")
	if err != nil {
		return err
	}
	if in.Root != "" {
		logs = true // nothing runs in a tree
	}
	if atBoot := slices.Contains(on, "pflogd"); !logs || !atBoot {
		if !in.ask(ctx, fmt.Sprintf("pflogd is %s: without it hits while threatstopd is down are lost. Turn it on?", off(logs, atBoot))) {
			in.advise("pflogd is %s, so hits while threatstopd is down are lost: rcctl enable pflogd && rcctl start pflogd", off(logs, atBoot))
			return nil
		}
		in.add("turn on pflogd: `rcctl enable pflogd`, `rcctl start pflogd`", func(ctx context.Context) error {
			if err := in.rcConf(); err != nil {
				return err
			}
			rec := in.change(kindPflogd, "", "pflogd")
			rec.Text = joinNew(rec.Text, !atBoot, "enable")
			rec.Text = joinNew(rec.Text, !logs, "start")
			if err := in.note(rec); err != nil {
				return err
			}
			if !atBoot {
				if err := in.run(ctx, "", rcctl, "enable", "pflogd"); err != nil {
					return err
				}
			}
			if logs {
				return nil
			}
			return in.run(ctx, "", rcctl, "start", "pflogd")
		})
	}
	return nil
}

// joinNew adds a word to those that a change did, if it does it now and they do not have it.
func joinNew(words string, now bool, word string) string {
	if !now || slices.Contains(strings.Fields(words), word) {
		return words
	}
	return strings.TrimSpace(words + " " + word)
}

func off(now, boot bool) string {
	switch {
	case now:
		return "not enabled at boot"
	case boot:
		return "not running"
	}
	return "off"
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

// service has the daemon enabled, and, where its configuration is there to be used,
// started.
func (in *installer) service(ctx context.Context, on []string) error {
	if !slices.Contains(on, service) {
		in.add("run `rcctl enable threatstopd`", func(ctx context.Context) error {
			if err := in.rcConf(); err != nil {
				return err
			}
			if err := in.note(in.change(kindService, "", service)); err != nil {
				return err
			}
			return in.run(ctx, "", rcctl, "enable", service)
		})
	}
	if in.Root != "" || !in.kept {
		return nil
	}
	running := false
	if s, err := in.stat(rcScriptPath); err != nil {
		return err
	} else if s != nil {
		if running, err = in.running(ctx, service); err != nil {
			return err
		}
	}
	action := "start"
	if running {
		if !in.changed {
			return nil
		}
		action = "restart"
	}
	in.add("run `rcctl "+action+" threatstopd`", func(ctx context.Context) error {
		return in.run(ctx, "", rcctl, action, service)
	})
	return nil
}

// takeOver has the vendor's scripts retired: what runs them is undone. The scripts
// themselves stay where they are, so that giving back is complete, and they do
// nothing by themselves.
func (in *installer) takeOver() error {
	if in.scripts() && !in.kept {
		in.advise("The vendor's scripts go on updating the tables until %s is filled in\nand `threatstopd --install` has been run again.", in.Conf.Path)
		return nil
	}
	if err := in.takeCrontab(); err != nil {
		return err
	}
	if err := in.takeNewsyslog(); err != nil {
		return err
	}
	return in.tellScripts()
}

// scripts reports whether root's crontab runs the vendor's scripts.
func (in *installer) scripts() bool {
	tab, err := in.read(cronTabPath)
	if err != nil || tab == nil {
		return false
	}
	_, taken, _ := takeCron(string(tab.Data), "")
	return len(taken) > 0
}

func (in *installer) takeCrontab() error {
	tab, err := in.read(cronTabPath)
	if tab == nil || err != nil {
		return err
	}
	_, body := cutHeader(string(tab.Data))
	rest, taken, left := takeCron(body, in.cronBackup())
	for _, l := range left {
		in.advise("root's crontab runs a script of the vendor among other things: take it out there (crontab -e):\n%s", l)
	}
	if len(taken) == 0 {
		return nil
	}
	in.add("take out of root's crontab:\n"+strings.Join(taken, "\n"), func(ctx context.Context) error {
		rec := in.change(kindCrontab, cronTabPath, "")
		if rec.Before == nil || !rec.wrote([]byte(body)) {
			// Lines that somebody has put there again are to be given back
			// as they are now.
			rec.Before, rec.After = &saved{Mode: tab.Mode, UID: tab.UID, GID: tab.GID, Data: []byte(body)}, nil
		}
		rec.writing([]byte(rest))
		rec.Text = rest
		if err := in.note(rec); err != nil {
			return err
		}
		return in.setCrontab(ctx, rest)
	})
	return nil
}

// setCrontab replaces root's crontab, by the program that also tells cron(8).
func (h *host) setCrontab(ctx context.Context, body string) error {
	if err := h.run(ctx, body, crontab, "-u", "root", "-"); err != nil {
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

// cronBackup returns the copy of root's crontab that the vendor's installer made. It
// put it into the directory that it was started in.
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
	in.add(fmt.Sprintf("rotate pflogd's file as before the scripts, in %s:\n- %s\n+ %s", newsyslogPath, was, becomes), func(context.Context) error {
		rec := in.change(kindNewsyslog, newsyslogPath, "")
		if rec.Before == nil || !rec.wrote(cur.Data) {
			rec.Before, rec.After = cur, nil
		}
		rec.writing([]byte(conf))
		rec.Text = becomes
		if err := in.note(rec); err != nil {
			return err
		}
		return in.replace(newsyslogPath, &saved{Mode: cur.Mode, UID: cur.UID, GID: cur.GID, Data: []byte(conf)})
	})
	return nil
}

// tellScripts tells where the vendor's scripts are, and who else runs them.
func (in *installer) tellScripts() error {
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

// next tells what is left to the owner.
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
