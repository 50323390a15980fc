package install

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
)

// undoing is what there is to do about one change.
type undoing struct {
	say   string                      // completes "is about to: "; empty for nothing to do
	do    func(context.Context) error // nil for nothing to do
	leave string                      // what stays and why, for the owner
}

// remover gives back what was there.
type remover struct {
	*host
	conf   *pfConf
	loaded []string // tables that are loaded
	unsure string   // why that is not known
}

// Uninstall stops threatstopd and gives back what was there before it was
// installed, change by change, the last one first. What has been changed since by
// somebody else stays, and is named. A table file stays as it is while pf.conf names it or
// its table is loaded; the lines to remove first are named.
//
// It can be interrupted and run again. Where nothing is installed it does nothing.
// The error wraps ErrDeclined and ErrPackaged as that of Install.
func Uninstall(ctx context.Context, o Options) error {
	h, unlock, err := open(o)
	if err != nil {
		return err
	}
	defer unlock()
	if !h.exists {
		if err := h.removeTemp(manifestPath); err != nil {
			return err
		}
		h.printf("threatstopd --install has changed nothing here: there is no %s.\n", manifestPath)
		return nil
	}
	r := &remover{host: h, conf: readPFConf(&h.disk)}
	if h.PF != nil {
		if pf, err := h.PF(); err != nil {
			r.unsure = fmt.Sprintf("it is not known which tables are loaded: %v", err)
		} else {
			r.loaded = pf.Tables
		}
	}
	if err := r.show(ctx); err != nil {
		return err
	}
	if !h.ask(ctx, "Go on?") {
		return ErrDeclined
	}
	left, err := r.undoAll(ctx)
	for _, l := range left {
		h.printf("- %s\n", indent(l, 2))
	}
	if err != nil {
		return fmt.Errorf("%w: run `threatstopd --uninstall` again to go on from here", err)
	}
	h.printf("threatstopd is uninstalled.\n")
	return nil
}

// show says what is about to happen.
func (r *remover) show(ctx context.Context) error {
	r.printf("threatstopd --uninstall is about to:\n")
	if running, err := r.daemonRuns(ctx); err != nil {
		return err
	} else if running {
		r.printf("  run `rcctl stop threatstopd`\n")
	}
	for _, c := range slices.Backward(r.manifest.Changes) {
		u, err := r.undo(c)
		if err != nil {
			return err
		}
		switch {
		case u.leave != "":
			r.printf("  leave: %s\n", indent(u.leave, 4))
		case u.say != "":
			r.printf("  %s\n", indent(u.say, 4))
		}
	}
	return nil
}

func (r *remover) daemonRuns(ctx context.Context) (bool, error) {
	if s, err := r.stat(rcScriptPath); s == nil || err != nil {
		return false, err
	}
	return r.running(ctx, service)
}

// undoAll undoes all changes, and returns what was left.
func (r *remover) undoAll(ctx context.Context) (left []string, err error) {
	// First, so that it does not run beside the scripts that come back.
	running, err := r.daemonRuns(ctx)
	if err == nil && running {
		err = r.run(ctx, "", rcctl, "stop", service)
	}
	if err != nil {
		return nil, err
	}
	for len(r.manifest.Changes) > 0 {
		if err := ctx.Err(); err != nil {
			return left, fmt.Errorf("interrupted: %w", err)
		}
		c := r.manifest.Changes[len(r.manifest.Changes)-1]
		u, err := r.undo(c)
		if err == nil && u.do != nil {
			err = u.do(ctx)
		}
		if err != nil {
			return left, err
		}
		if u.leave != "" {
			left = append(left, u.leave)
		}
		if err := r.manifest.drop(&r.disk, c); err != nil {
			return left, err
		}
	}
	if c, err := r.stat(crashPath); err == nil && c != nil && c.Mode.IsRegular() {
		if err := r.remove(crashPath); err != nil {
			return left, err
		}
	}
	if err := r.removeTemp(manifestPath); err != nil {
		return left, err
	}
	return left, r.remove(manifestPath)
}

// undo looks at what a change has become, and says what there is to do. What is as it was
// before is done already, or never happened.
func (r *remover) undo(c *change) (undoing, error) {
	switch c.Kind {
	case kindFile:
		return r.undoFile(c)
	case kindDir:
		return r.undoDir(c)
	case kindSpool:
		return r.undoSpool(c)
	case kindTable:
		return r.undoTable(c)
	case kindGroup, kindUser:
		return r.undoAccount(c)
	case kindRCConf:
		return r.undoRCConf(c)
	case kindService:
		return r.undoService()
	case kindPflogd:
		return r.undoPflogd(c)
	case kindPF:
		return undoing{leave: fmt.Sprintf("pf was off before, and stays on: other rules may count on it by now. %s turns it off.", offCommands(c.Text))}, nil
	case kindCrontab:
		return r.undoCrontab(c)
	case kindNewsyslog:
		return r.undoNewsyslog(c)
	}
	return undoing{}, fmt.Errorf("change of unknown kind %q", c.Kind)
}

func offCommands(done string) string {
	var all []string
	if strings.Contains(done, "start") {
		all = append(all, "`pfctl -d`")
	}
	if strings.Contains(done, "enable") {
		all = append(all, "`rcctl disable pf`")
	}
	return strings.Join(all, " and ")
}

// same reports whether a file is as it was.
func same(cur, before *saved) bool {
	if cur == nil || before == nil {
		return cur == before
	}
	return cur.sum() == before.sum() && cur.Mode.Perm() == before.Mode.Perm() && cur.UID == before.UID && cur.GID == before.GID
}

func (r *remover) undoFile(c *change) (undoing, error) {
	cur, err := r.read(c.Path)
	if err != nil {
		return undoing{leave: err.Error()}, nil
	}
	clean := func(do func() error) func(context.Context) error {
		return func(context.Context) error {
			if err := r.removeTemp(c.Path); err != nil {
				return err
			}
			return do()
		}
	}
	nothing := func() error { return nil }
	switch {
	case same(cur, c.Before):
		return undoing{do: clean(nothing)}, nil
	case cur == nil:
		return undoing{leave: fmt.Sprintf("%s was removed since it was installed; what it replaced is not put back", c.Path), do: clean(nothing)}, nil
	case !c.wrote(cur.Data) && !(c.Before != nil && c.Before.sum() == cur.sum()):
		return undoing{leave: fmt.Sprintf("%s was changed since it was installed, and is yours: `rm` it if you do not need it", c.Path), do: clean(nothing)}, nil
	case c.Before == nil:
		return undoing{say: "remove " + c.Path, do: clean(func() error { return r.remove(c.Path) })}, nil
	}
	return undoing{say: fmt.Sprintf("put back what was in %s", c.Path), do: clean(func() error { return r.replace(c.Path, c.Before) })}, nil
}

func (r *remover) undoDir(c *change) (undoing, error) {
	cur, err := r.stat(c.Path)
	if cur == nil || err != nil || !cur.Mode.IsDir() {
		return undoing{}, err
	}
	return undoing{say: fmt.Sprintf("remove %s if it is empty", c.Path), do: func(context.Context) error {
		all, err := r.entries(c.Path)
		if err != nil || len(all) > 0 {
			return err
		}
		return r.remove(c.Path)
	}}, nil
}

func (r *remover) undoSpool(c *change) (undoing, error) {
	cur, err := r.stat(c.Path)
	if cur == nil || err != nil || !cur.Mode.IsDir() {
		return undoing{}, err
	}
	if b := c.Before; b != nil {
		if cur.UID == b.UID && cur.GID == b.GID && cur.Mode.Perm() == b.Mode.Perm() {
			return undoing{}, nil
		}
		return undoing{say: fmt.Sprintf("give back %s to uid %d (mode %04o)", c.Path, b.UID, b.Mode.Perm()),
			do: func(context.Context) error { return r.own(c.Path, b) }}, nil
	}
	files, size, stranger, err := r.spoolFiles(c.Path)
	if err != nil {
		return undoing{}, err
	}
	if stranger != "" {
		return undoing{leave: fmt.Sprintf("%s has something in it that is not the spool's, %s: `rm -r` it if you do not need it", c.Path, stranger)}, nil
	}
	say := "remove " + c.Path
	if len(files) > 0 {
		say += fmt.Sprintf(" with %s (%d bytes): hits not delivered by then are lost", count(len(files), "file"), size)
	}
	return undoing{say: say, do: func(context.Context) error {
		for _, name := range files {
			if err := r.remove(name); err != nil {
				return err
			}
		}
		if err := r.remove(path.Join(c.Path, refusedDir)); err != nil {
			return err
		}
		return r.remove(c.Path)
	}}, nil
}

// refusedDir, in the spool directory, has the batches that the log server refused.
const refusedDir = "refused"

// spoolFiles returns the files of a spool directory with their size in bytes, or the name of something
// that is neither a file nor the directory of refused batches.
func (r *remover) spoolFiles(dir string) (files []string, size int64, stranger string, err error) {
	all, err := r.entries(dir)
	if err != nil {
		return nil, 0, "", err
	}
	for _, e := range all {
		name := path.Join(dir, e.Name())
		switch {
		case e.Type().IsRegular():
			files = append(files, name)
			if fi, err := e.Info(); err == nil {
				size += fi.Size()
			}
		case e.IsDir() && e.Name() == refusedDir && path.Base(dir) != refusedDir:
			more, n, other, err := r.spoolFiles(name)
			if err != nil || other != "" {
				return nil, 0, path.Join(refusedDir, other), err
			}
			files, size = append(files, more...), size+n
		default:
			return nil, 0, e.Name(), nil
		}
	}
	return files, size, "", nil
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// undoTable removes a table file that was made, whatever is in it by now, unless pf would
// miss it.
func (r *remover) undoTable(c *change) (undoing, error) {
	cur, err := r.stat(c.Path)
	if err != nil {
		return undoing{}, err
	}
	if cur == nil {
		return undoing{do: func(context.Context) error { return r.removeTemp(c.Path) }}, nil
	}
	if lines := r.conf.naming(c.Path); len(lines) > 0 {
		text := fmt.Sprintf("%s stays: pf.conf would not load without it. Remove from it", c.Path)
		for _, l := range unique(append(lines, r.conf.using(c.Name)...)) {
			text += "\n" + l.String()
		}
		return undoing{leave: text + "\nthen `pfctl -f /etc/pf.conf && rm " + c.Path + "`"}, nil
	}
	if len(r.conf.unread) > 0 {
		return undoing{leave: fmt.Sprintf("%s stays: %s, and may name it. If not, `rm` it", c.Path, r.conf.unread[0])}, nil
	}
	if r.unsure != "" {
		return undoing{leave: fmt.Sprintf("%s stays: %s", c.Path, r.unsure)}, nil
	}
	if slices.Contains(r.loaded, c.Name) {
		return undoing{leave: fmt.Sprintf("%s stays: its table is loaded. Once no rule needs that:\n`pfctl -t %s -T kill && rm %s`", c.Path, c.Name, c.Path)}, nil
	}
	return undoing{say: "remove " + c.Path, do: func(context.Context) error {
		for _, name := range []string{c.Path + ".new", c.Path + tempSuffix, c.Path} {
			if s, err := r.stat(name); s == nil && err == nil {
				continue
			}
			if err := r.remove(name); err != nil {
				return err
			}
		}
		return nil
	}}, nil
}

func unique(all []mention) []mention {
	var out []mention
	for _, m := range all {
		if !slices.Contains(out, m) {
			out = append(out, m)
		}
	}
	return out
}

func (r *remover) undoAccount(c *change) (undoing, error) {
	all, err := readAccounts(&r.disk)
	if err != nil {
		return undoing{}, err
	}
	of, del := all.users, userdel
	if c.Kind == kindGroup {
		of, del = all.groups, groupdel
	}
	a, there := of[c.Name]
	if !there {
		return undoing{}, nil
	}
	if !c.wrote([]byte(a.line)) {
		return undoing{leave: fmt.Sprintf("the %s %s was changed since it was made, and is yours: `%s %s` removes it", c.Kind, c.Name, path.Base(del), c.Name)}, nil
	}
	if c.Kind == kindGroup {
		for name, u := range all.users {
			// Its own user is about to go: that change is younger.
			if u.gid == a.id && r.manifest.find(kindUser, "", name) == nil {
				return undoing{leave: fmt.Sprintf("the group %s stays: it is the one of the user %s", c.Name, name)}, nil
			}
		}
	}
	return undoing{say: fmt.Sprintf("remove the %s %s", c.Kind, c.Name), do: func(ctx context.Context) error {
		return r.run(ctx, "", del, c.Name)
	}}, nil
}

func (r *remover) undoService() (undoing, error) {
	s, err := r.stat(rcScriptPath)
	if err != nil {
		return undoing{}, err
	}
	if s == nil {
		return undoing{leave: fmt.Sprintf("%s is gone, so that rcctl cannot disable threatstopd: see to it in %s", rcScriptPath, rcConfPath)}, nil
	}
	return undoing{say: "run `rcctl disable threatstopd`", do: func(ctx context.Context) error {
		return r.run(ctx, "", rcctl, "disable", service)
	}}, nil
}

func (r *remover) undoPflogd(c *change) (undoing, error) {
	return undoing{say: "turn pflogd off again", do: func(ctx context.Context) error {
		if strings.Contains(c.Text, "start") {
			if err := r.run(ctx, "", rcctl, "stop", "pflogd"); err != nil {
				return err
			}
		}
		if strings.Contains(c.Text, "enable") {
			return r.run(ctx, "", rcctl, "disable", "pflogd")
		}
		return nil
	}}, nil
}

// undoRCConf puts rc.conf.local back byte for byte where it says what it said: rcctl sorts
// it. It comes after all that has rcctl write to it.
func (r *remover) undoRCConf(c *change) (undoing, error) {
	cur, err := r.read(rcConfPath)
	if err != nil || same(cur, c.Before) {
		return undoing{}, err
	}
	return undoing{do: func(context.Context) error {
		if err := r.removeTemp(rcConfPath); err != nil {
			return err
		}
		cur, err := r.read(rcConfPath)
		if err != nil || same(cur, c.Before) || !slices.Equal(rcSettings(cur), rcSettings(c.Before)) {
			return err
		}
		if c.Before == nil {
			return r.remove(rcConfPath)
		}
		return r.replace(rcConfPath, c.Before)
	}}, nil
}

// rcSettings is what an rc.conf.local says, whatever the order and the quotes.
func rcSettings(s *saved) []string {
	if s == nil {
		return nil
	}
	var all []string
	for line := range strings.Lines(string(s.Data)) {
		line = strings.Join(strings.Fields(strings.NewReplacer(`"`, "", "'", "").Replace(line)), " ")
		if line != "" && line != "pkg_scripts=" {
			all = append(all, line)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func (r *remover) undoCrontab(c *change) (undoing, error) {
	tab, err := r.read(cronTabPath)
	if err != nil {
		return undoing{}, err
	}
	body := ""
	if tab != nil {
		_, body = cutHeader(string(tab.Data))
	}
	before := string(c.Before.Data)
	if body == before {
		return undoing{}, nil
	}
	back := giveBack(body, before, c.Text)
	if back == body {
		return undoing{}, nil
	}
	return undoing{say: "put back into root's crontab:\n" + strings.Join(gone(before, c.Text), "\n"), do: func(ctx context.Context) error {
		return r.setCrontab(ctx, back)
	}}, nil
}

func (r *remover) undoNewsyslog(c *change) (undoing, error) {
	cur, err := r.read(newsyslogPath)
	if err != nil {
		return undoing{leave: err.Error()}, nil
	}
	if cur == nil || same(cur, c.Before) {
		return undoing{do: func(context.Context) error { return r.removeTemp(newsyslogPath) }}, nil
	}
	want := c.Before
	if !c.wrote(cur.Data) {
		was := ""
		for _, l := range splitLines(string(c.Before.Data)) {
			if isHourly(l) {
				was = strings.TrimSuffix(l, "\n")
				break
			}
		}
		text, ok := replaceLine(string(cur.Data), c.Text, was)
		if !ok {
			return undoing{leave: fmt.Sprintf("%s was changed since, and its line for %s is not the one that was written: it stays", newsyslogPath, pflogPath)}, nil
		}
		want = &saved{Mode: cur.Mode, UID: cur.UID, GID: cur.GID, Data: []byte(text)}
	}
	return undoing{say: fmt.Sprintf("rotate pflogd's file as before in %s", newsyslogPath), do: func(context.Context) error {
		if err := r.removeTemp(newsyslogPath); err != nil {
			return err
		}
		return r.replace(newsyslogPath, want)
	}}, nil
}
