package install

import (
	"context"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
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

// show prints what is about to happen.
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

// undoAll undoes all changes, and returns what was left.
func (r *remover) undoAll(ctx context.Context) (left []string, err error) {
	// First, so that it does not run beside the scripts that come back.
	running, err := r.daemonRuns(ctx)
	if err == nil && running {
		err = r.run(ctx, Command{Args: []string{rcctl, "stop", service}})
	}
	if err != nil {
		return nil, err
	}
	for len(r.manifest.Changes) > 0 {
		if err := ctx.Err(); err != nil {
			return left, fmt.Errorf("interrupted: %w", err)
		}
		c := r.manifest.Changes[len(r.manifest.Changes)-1]
		if err := r.removeTemp(c.Path); err != nil {
			return left, err
		}
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

// undo looks at what a change has become, and returns what there is to do. What is as it was before is done
// already, or never happened.
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
		if s, err := r.stat(rcScriptPath); s == nil || err != nil {
			return leave("%s is gone, so that rcctl cannot disable threatstopd: see to it in %s", rcScriptPath, rcConfPath), err
		}
		return r.commands("run `rcctl disable threatstopd`", []string{rcctl, "disable", service}), nil
	case kindPflogd:
		var all [][]string
		if strings.Contains(c.Text, "start") {
			all = append(all, []string{rcctl, "stop", "pflogd"})
		}
		if strings.Contains(c.Text, "enable") {
			all = append(all, []string{rcctl, "disable", "pflogd"})
		}
		return r.commands("turn pflogd off again", all...), nil
	case kindPF:
		off := strings.NewReplacer("enable", "`rcctl disable pf`", "start", "`pfctl -d`", " ", " and ").Replace(c.Text)
		return leave("pf was off before, and stays on: other rules may count on it by now. %s turns it off.", off), nil
	case kindCrontab:
		return r.undoCrontab(c)
	case kindNewsyslog:
		return r.undoNewsyslog(c)
	}
	return undoing{}, fmt.Errorf("change of unknown kind %q", c.Kind)
}

func leave(format string, args ...any) undoing { return undoing{leave: fmt.Sprintf(format, args...)} }

// commands is undone by commands.
func (r *remover) commands(say string, all ...[]string) undoing {
	return undoing{say: say, do: func(ctx context.Context) error {
		for _, args := range all {
			if err := r.run(ctx, Command{Args: args}); err != nil {
				return err
			}
		}
		return nil
	}}
}

// restore is undone by giving a file its old content; before is nil where it did not exist.
func (r *remover) restore(say, path string, before *saved) undoing {
	return undoing{say: say, do: func(context.Context) error {
		if before == nil {
			return r.remove(path)
		}
		return r.replace(path, before)
	}}
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
	switch {
	case err != nil:
		return undoing{leave: err.Error()}, nil
	case same(cur, c.Before):
		return undoing{}, nil
	case cur == nil:
		return leave("%s was removed since it was installed; what it replaced is not put back", c.Path), nil
	case !c.wrote(cur.Data) && !(c.Before != nil && c.Before.sum() == cur.sum()):
		return leave("%s was changed since it was installed, and is yours: `rm` it if you do not need it", c.Path), nil
	case c.Before == nil:
		return r.restore("remove "+c.Path, c.Path, nil), nil
	}
	return r.restore("put back what was in "+c.Path, c.Path, c.Before), nil
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
	var all []string // what there is to remove, the directory itself last
	files := 0
	var size int64
	stranger := ""
	err = filepath.WalkDir(r.at(c.Path), func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name = path.Join(c.Path, strings.TrimPrefix(name, r.at(c.Path)))
		switch {
		case e.Type().IsRegular():
			files++
			if fi, err := e.Info(); err == nil {
				size += fi.Size()
			}
		case e.IsDir() && (name == c.Path || name == path.Join(c.Path, refusedDir)):
		default:
			stranger = strings.TrimPrefix(name, c.Path+"/")
			return fs.SkipAll
		}
		all = slices.Insert(all, 0, name)
		return nil
	})
	if err != nil {
		return undoing{}, r.plain(c.Path, err)
	}
	if stranger != "" {
		return leave("%s has something in it that is not the spool's, %s: `rm -r` it if you do not need it", c.Path, stranger), nil
	}
	say := "remove " + c.Path
	if files > 0 {
		say += fmt.Sprintf(" with %s (%d bytes): hits not delivered by then are lost", count(files, "file"), size)
	}
	return undoing{say: say, do: func(context.Context) error {
		for _, name := range all {
			if err := r.remove(name); err != nil {
				return err
			}
		}
		return nil
	}}, nil
}

// refusedDir, in the spool directory, has the batches that the log server refused.
const refusedDir = "refused"

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// undoTable removes a table file that was made, with what is in it by now, unless pf needs it.
func (r *remover) undoTable(c *change) (undoing, error) {
	cur, err := r.stat(c.Path)
	if cur == nil || err != nil {
		return undoing{}, err
	}
	if lines := r.conf.naming(c.Path); len(lines) > 0 {
		text := fmt.Sprintf("%s stays: pf.conf would not load without it. Remove from it", c.Path)
		for _, l := range r.conf.lines {
			if slices.Contains(lines, l) || strings.Contains(l.Text, "<"+c.Name+">") {
				text += "\n" + l.String()
			}
		}
		return leave("%s\nthen `pfctl -f /etc/pf.conf && rm %s`", text, c.Path), nil
	}
	if len(r.conf.unread) > 0 {
		return leave("%s stays: %s, and may name it. If not, `rm` it", c.Path, r.conf.unread[0]), nil
	}
	if r.unsure != "" {
		return leave("%s stays: %s", c.Path, r.unsure), nil
	}
	if slices.Contains(r.loaded, c.Name) {
		return leave("%s stays: its table is loaded. Once no rule needs that:\n`pfctl -t %s -T kill && rm %[1]s`", c.Path, c.Name), nil
	}
	return undoing{say: "remove " + c.Path, do: func(context.Context) error {
		for _, name := range []string{c.Path + ".new", c.Path} { // the first is the daemon's
			if err := r.remove(name); err != nil {
				return err
			}
		}
		return nil
	}}, nil
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
	switch {
	case !there:
		return undoing{}, nil
	case !c.wrote([]byte(a.line)):
		return leave("the %s %s was changed since it was made, and is yours: `%s %[2]s` removes it", c.Kind, c.Name, path.Base(del)), nil
	case c.Kind == kindGroup:
		for name, u := range all.users {
			// Its own user is about to go: that change is younger.
			if u.gid == a.id && r.manifest.find(kindUser, "", name) == nil {
				return leave("the group %s stays: it is the one of the user %s", c.Name, name), nil
			}
		}
	}
	return r.commands(fmt.Sprintf("remove the %s %s", c.Kind, c.Name), []string{del, c.Name}), nil
}

// undoRCConf puts rc.conf.local back byte for byte where its settings are the same: rcctl sorts it. It comes after all
// that has rcctl write to it, and so looks again when it is done.
func (r *remover) undoRCConf(c *change) (undoing, error) {
	return undoing{do: func(ctx context.Context) error {
		cur, err := r.read(rcConfPath)
		if err != nil || same(cur, c.Before) || !slices.Equal(rcSettings(cur), rcSettings(c.Before)) {
			return err
		}
		return r.restore("", rcConfPath, c.Before).do(ctx)
	}}, nil
}

// rcSettings returns the settings of an rc.conf.local, sorted and without quotes.
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
	back := giveBack(body, before, c.Text)
	if body == before || back == body {
		return undoing{}, nil
	}
	say, lines := "put back into root's crontab:", splitLines(before)
	for _, i := range gone(lines, splitLines(c.Text)) {
		say += "\n" + bare(lines[i])
	}
	return undoing{say: say, do: func(ctx context.Context) error {
		return r.setCrontab(ctx, back)
	}}, nil
}

func (r *remover) undoNewsyslog(c *change) (undoing, error) {
	cur, err := r.read(newsyslogPath)
	if err != nil {
		return undoing{leave: err.Error()}, nil
	}
	if cur == nil || same(cur, c.Before) {
		return undoing{}, nil
	}
	want := c.Before
	if !c.wrote(cur.Data) {
		was := ""
		if lines := splitLines(string(want.Data)); slices.ContainsFunc(lines, isHourly) {
			was = bare(lines[slices.IndexFunc(lines, isHourly)])
		}
		text, ok := replaceLine(string(cur.Data), c.Text, was)
		if !ok {
			return leave("%s was changed since, and its line for %s is not the one that was written: it stays", newsyslogPath, pflogPath), nil
		}
		want = &saved{Mode: cur.Mode, UID: cur.UID, GID: cur.GID, Data: []byte(text)}
	}
	return r.restore("rotate pflogd's file as before in "+newsyslogPath, newsyslogPath, want), nil
}
