package install

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
)

// Uninstall stops threatstopd and restores what was there before it was installed, change by change, the last
// one first. What has been changed since by somebody else stays, and is named. A table file stays as it is while
// pf.conf names it or its table is loaded; the lines to remove first are named.
//
// It can be interrupted and run again. Where nothing is installed it does nothing. The error wraps ErrDeclined
// and ErrPackaged as that of Install.
func Uninstall(ctx context.Context, o Options) error {
	h, unlock, err := open(o)
	if err != nil {
		return err
	}
	defer unlock()
	if len(h.changes) == 0 {
		h.printf("threatstopd --install has changed nothing here: there is no %s.\n", manifestPath)
		return errors.Join(h.removeTemp(manifestPath), h.remove(manifestPath))
	}
	running, err := h.running(ctx, service)
	if err != nil {
		return err
	}
	var steps []step
	if running {
		steps = append(steps, h.rc("stop"))
	}
	for _, c := range slices.Backward(h.changes) {
		s, err := kinds[c.Kind].undo(h, c)
		if err != nil {
			return err
		}
		steps = append(steps, s)
	}
	if err := h.agree(ctx, "uninstall", steps, ""); err != nil {
		return err
	}
	if running { // first, so that it does not run beside the scripts that come back
		err = steps[0].do(ctx)
	}
	for len(h.changes) > 0 && err == nil {
		err = h.undoLast(ctx)
	}
	if err == nil {
		err = errors.Join(h.remove(crashPath), h.removeTemp(manifestPath), h.remove(manifestPath))
	}
	for _, l := range h.advice {
		h.item("- ", "  ", l)
	}
	if err != nil {
		return fmt.Errorf("%w: run `threatstopd --uninstall` again to go on from here", err)
	}
	h.printf("threatstopd is uninstalled.\n")
	return nil
}

// undoLast undoes the last change, as it is now, and removes it from the manifest.
func (h *host) undoLast(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("interrupted: %w", err)
	}
	last := len(h.changes) - 1
	c := h.changes[last]
	if err := h.removeTemp(c.Path); err != nil {
		return err
	}
	s, err := kinds[c.Kind].undo(h, c)
	if err == nil && s.do != nil {
		err = h.Working(s.say, func() error { return s.do(ctx) })
	}
	if err != nil {
		return err
	}
	if s.leave != "" {
		h.advise("%s", s.leave)
	}
	h.changes = h.changes[:last]
	return h.writeManifest()
}

// The functions below look at what a change has become, and return what there is to do. What is as it was before
// is done already, or never happened.

func leave(format string, args ...any) (step, error) {
	return step{leave: fmt.Sprintf(format, args...)}, nil
}

func (h *host) undoFile(c *change) (step, error) {
	cur, err := h.read(c.Path)
	switch {
	case err != nil:
		return leave("%v", err)
	case same(cur, c.Before):
		return step{}, nil
	case cur == nil:
		return leave("%s was removed since it was installed; what it replaced is not put back", c.Path)
	case !c.wrote(cur.text()) && !(c.Before != nil && c.Before.text() == cur.text()):
		return leave("%s was changed since it was installed, and is yours: `rm` it if you do not need it", c.Path)
	case c.Before == nil:
		return h.writes("remove "+c.Path, c.Path, nil), nil
	}
	return h.writes("put back what was in "+c.Path, c.Path, c.Before), nil
}

func (h *host) undoDir(c *change) (step, error) {
	cur, err := h.stat(c.Path)
	if cur == nil || err != nil || cur.Type != typeDir {
		return step{}, err
	}
	return step{say: fmt.Sprintf("remove %s if it is empty", c.Path), do: func(context.Context) error {
		if all, err := os.ReadDir(h.at(c.Path)); err != nil || len(all) > 0 {
			return plain(c.Path, err)
		}
		return h.remove(c.Path)
	}}, nil
}

func (h *host) undoSpool(c *change) (step, error) {
	cur, err := h.stat(c.Path)
	if cur == nil || err != nil || cur.Type != typeDir {
		return step{}, err
	}
	if b := c.Before; b != nil {
		if cur.sameOwner(b) {
			return step{}, nil
		}
		return step{say: fmt.Sprintf("give back %s to uid %d (mode %04o)", c.Path, b.UID, b.Mode),
			do: func(context.Context) error { return h.own(c.Path, b) }}, nil
	}
	files, size, stranger := 0, int64(0), ""
	err = fs.WalkDir(os.DirFS(h.at(c.Path)), ".", func(name string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case e.Type().IsRegular():
			files++
			if fi, err := e.Info(); err == nil {
				size += fi.Size()
			}
		case !e.IsDir() || name != "." && name != "refused": // that has the batches that the log server refused
			stranger = name
			return fs.SkipAll
		}
		return nil
	})
	if err != nil {
		return step{}, plain(c.Path, err)
	}
	if stranger != "" {
		return leave("%s has something in it that is not the spool's, %s: `rm -r` it if you do not need it", c.Path, stranger)
	}
	say := "remove " + c.Path
	if files > 0 {
		say += fmt.Sprintf(" with %d files (%d bytes): hits not delivered by then are lost", files, size)
	}
	return step{say: say, do: func(context.Context) error {
		return h.do("remove", c.Path, func() error { return os.RemoveAll(h.at(c.Path)) })
	}}, nil
}

// undoTable removes a table file that was made, with what is in it by now, unless pf needs it.
func (h *host) undoTable(c *change) (step, error) {
	cur, err := h.stat(c.Path)
	if cur == nil || err != nil {
		return step{}, err
	}
	conf := h.pfConf()
	if lines := conf.naming(c.Path); len(lines) > 0 {
		text := fmt.Sprintf("%s stays: pf.conf would not load without it. Remove from it", c.Path)
		for _, l := range conf.lines {
			if slices.Contains(lines, l) || strings.Contains(l.Text, "<"+c.Name+">") {
				text += "\n" + l.String()
			}
		}
		return leave("%s\nthen `pfctl -f /etc/pf.conf && rm %s`", text, c.Path)
	}
	if len(conf.unread) > 0 {
		return leave("%s stays: %s, and may name it. If not, `rm` it", c.Path, conf.unread[0])
	}
	if h.PF != nil {
		_, tables, err := h.PF()
		if err != nil {
			return leave("%s stays: it is not known which tables are loaded: %v", c.Path, err)
		}
		if slices.Contains(tables, c.Name) {
			return leave("%s stays: its table is loaded. Once no rule needs that:\n`pfctl -t %s -T kill && rm %[1]s`", c.Path, c.Name)
		}
	}
	return step{say: "remove " + c.Path, do: func(context.Context) error {
		return errors.Join(h.remove(c.Path+".new"), h.remove(c.Path)) // the first is the daemon's
	}}, nil
}

func (h *host) undoAccount(c *change) (step, error) {
	all, err := h.readAccounts()
	if err != nil {
		return step{}, err
	}
	of, del := all.users, userdel
	if c.Kind == kindGroup {
		of, del = all.groups, groupdel
	}
	a, there := of[c.Name]
	switch {
	case !there:
		return step{}, nil
	case !c.wrote(a.line):
		return leave("the %s %s was changed since it was made, and is yours: `%s %[2]s` removes it", c.Kind, c.Name, path.Base(del))
	case c.Kind == kindGroup:
		for name, u := range all.users {
			// Its own user is about to go: that change is younger.
			if u.gid == a.id && h.find(kindUser, "", name) == nil {
				return leave("the group %s stays: it is the one of the user %s", c.Name, name)
			}
		}
	}
	return h.runs(fmt.Sprintf("remove the %s %s", c.Kind, c.Name), []string{del, c.Name}), nil
}

func (h *host) undoService(*change) (step, error) {
	if s, err := h.stat(rcScriptPath); err != nil {
		return step{}, err
	} else if s == nil {
		return leave("%s is gone, so that rcctl cannot disable threatstopd: see to it in %s", rcScriptPath, rcConfPath)
	}
	return h.rc("disable"), nil
}

func (h *host) undoPF(c *change) (step, error) {
	off := strings.NewReplacer("enable", "`rcctl disable pf`", "start", "`pfctl -d`", " ", " and ").Replace(c.text())
	return leave("pf was off before, and stays on: other rules may count on it by now. %s turns it off.", off)
}

func (h *host) undoPflogd(c *change) (step, error) {
	var all [][]string
	for _, x := range [][2]string{{"start", "stop"}, {"enable", "disable"}} {
		if strings.Contains(c.text(), x[0]) {
			all = append(all, []string{rcctl, x[1], "pflogd"})
		}
	}
	return h.runs("turn pflogd off again", all...), nil
}

// undoCrontab puts the crontab back, or, where somebody has changed it since, the lines that were taken out
// behind its end.
func (h *host) undoCrontab(c *change) (step, error) {
	tab, err := h.read(cronTabPath)
	if err != nil {
		return step{}, err
	}
	body := ""
	if tab != nil {
		_, body = cutHeader(tab.text())
	}
	back := c.Before.text()
	_, lines, _ := takeCron(back)
	if !c.wrote(body) && body != back {
		back = body
		if back != "" && !strings.HasSuffix(back, "\n") {
			back += "\n"
		}
		there := strings.Split(body, "\n")
		lines = slices.DeleteFunc(lines, func(l string) bool { return slices.Contains(there, l) })
		for _, l := range lines {
			back += l + "\n"
		}
	}
	if back == body || len(lines) == 0 {
		return step{}, nil
	}
	return step{say: "put back into root's crontab:\n" + strings.Join(lines, "\n"),
		do: func(ctx context.Context) error { return h.setCrontab(ctx, back) }}, nil
}

// undoNewsyslog gives newsyslog.conf's line for pflogd's file back the rotation that it had.
func (h *host) undoNewsyslog(c *change) (step, error) {
	cur, err := h.read(newsyslogPath)
	if err != nil {
		return leave("%v", err)
	}
	if cur == nil || same(cur, c.Before) {
		return step{}, nil
	}
	conf, was, _ := setRotation(cur.text(), stock, hourly)
	if was == "" {
		return leave("%s was changed since, and its line for %s is not the one that was written: it stays", newsyslogPath, pflogPath)
	}
	want := *cur
	want.content = contentOf(conf)
	return h.writes("rotate pflogd's file as before in "+newsyslogPath, newsyslogPath, &want), nil
}
