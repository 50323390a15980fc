package check

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"example.org/threatstopd/agent/internal/apply"
	"example.org/threatstopd/agent/internal/rules"
)

// files looks at directories and files: whether they are there, whose they are,
// and who may write to them.
func (t *tester) files(context.Context) {
	cfg := t.Config
	t.directory(filepath.Dir(cfg.BlockFile))
	if dir := filepath.Dir(cfg.AllowFile); dir != filepath.Dir(cfg.BlockFile) {
		t.directory(dir)
	}
	t.persistFile(cfg.BlockFile, true)
	t.persistFile(cfg.AllowFile, len(cfg.AllowLists) > 0)
	uid, err := t.User(cfg.User)
	if err != nil {
		t.say(rules.Note, fmt.Sprintf("user %s: %v: the spool is root's then", cfg.User, err), "`threatstopd --install` makes the user")
	} else {
		t.say(rules.OK, fmt.Sprintf("user %s is there", cfg.User))
	}
	if t.report() {
		t.spool(cfg.SpoolDir, cfg.User, uid, err == nil)
	}
	if cfg.CAFile != "" {
		t.caFile(cfg.CAFile)
	}
}

// stat looks at a file, and reports what went wrong. Without root much cannot be
// seen.
func (t *tester) stat(what, path string, missing rules.Level, do ...string) (fs.FileInfo, bool) {
	i, err := os.Lstat(path)
	switch {
	case err == nil:
		return i, true
	case errors.Is(err, fs.ErrPermission) && !t.Root:
		t.say(rules.Skip, fmt.Sprintf("%s %s: only root may look", what, path))
	case errors.Is(err, fs.ErrNotExist):
		t.say(missing, fmt.Sprintf("%s %s does not exist", what, path), do...)
	default:
		t.say(rules.Fail, fmt.Sprintf("%s: %v", what, err))
	}
	return nil, false
}

// directory looks at one that table files are in.
func (t *tester) directory(dir string) {
	const what = "table files' directory"
	i, ok := t.stat(what, dir, rules.Fail, "mkdir -p -m 755 "+dir)
	if !ok {
		return
	}
	if i.Mode()&fs.ModeSymlink != 0 {
		if i, _ = os.Stat(dir); i == nil {
			t.say(rules.Fail, fmt.Sprintf("%s %s: a symbolic link to nothing", what, dir), "set OUT_DIR in "+t.File)
			return
		}
	}
	switch {
	case !i.IsDir():
		t.say(rules.Fail, fmt.Sprintf("%s %s: not a directory", what, dir), "set OUT_DIR in "+t.File)
	case i.Mode().Perm()&0o022 != 0 && i.Mode()&fs.ModeSticky == 0:
		t.say(rules.Fail, fmt.Sprintf("%s %s: mode %#o: others could replace what pf loads", what, dir, i.Mode().Perm()), "chmod go-w "+dir)
	default:
		t.say(rules.OK, fmt.Sprintf("%s %s", what, dir))
	}
}

// persistFile looks at what pf.conf loads a table from. It must be there at every
// boot: pf.conf does not load without it.
func (t *tester) persistFile(path string, needed bool) {
	missing := rules.Fail
	if !needed {
		missing = rules.Note
	}
	i, ok := t.stat("table file", path, missing, "pf.conf does not load where it names a file that does not exist:", "install -m 600 /dev/null "+path)
	if !ok {
		return
	}
	switch {
	case i.Mode()&fs.ModeSymlink != 0:
		t.say(rules.Fail, fmt.Sprintf("table file %s is a symbolic link, which an update would replace", path), "name the file that it points to, in "+t.File+" and in "+t.PfConf)
	case !i.Mode().IsRegular():
		t.say(rules.Fail, fmt.Sprintf("table file %s is not a file", path), "remove it, and:", "install -m 600 /dev/null "+path)
	case i.Mode().Perm()&0o022 != 0:
		t.say(rules.Fail, fmt.Sprintf("table file %s: mode %#o: others could change what pf loads", path, i.Mode().Perm()), "chmod 600 "+path)
	default:
		if err := apply.Overwritable(path); err != nil && !errors.Is(err, fs.ErrPermission) {
			t.say(rules.Fail, err.Error())
			return
		}
		t.say(rules.OK, fmt.Sprintf("table file %s", path))
	}
}

// spool looks at the directory of hits that wait.
func (t *tester) spool(dir, user string, uid uint32, known bool) {
	create := fmt.Sprintf("install -d -o %s -g %s -m 700 %s", user, user, dir)
	i, ok := t.stat("spool directory", dir, rules.Fail, create)
	if !ok {
		return
	}
	owner, owned := t.Owner(i)
	switch {
	case !i.IsDir():
		t.say(rules.Fail, fmt.Sprintf("spool directory %s: not a directory", dir), "set SPOOL_DIR in "+t.File)
	case known && owned && owner != int(uid) && owner != 0:
		t.say(rules.Fail, fmt.Sprintf("spool directory %s: belongs to user %d, not to %s (%d)", dir, owner, user, uid), fmt.Sprintf("chown -R %s:%s %s", user, user, dir))
	case i.Mode().Perm() != 0o700:
		t.say(rules.Fail, fmt.Sprintf("spool directory %s: mode %#o, not 0700", dir, i.Mode().Perm()), "chmod 700 "+dir)
	default:
		t.say(rules.OK, fmt.Sprintf("spool directory %s", dir))
		t.spoolUser = known
	}
}

func (t *tester) caFile(path string) {
	if _, err := readRoots(path); err != nil {
		if errors.Is(err, fs.ErrPermission) && !t.Root {
			t.say(rules.Skip, fmt.Sprintf("CA file %s: only root may look", path))
			return
		}
		t.say(rules.Fail, err.Error(), "CA_FILE names certificates in PEM form; without it they are the system's")
		return
	}
	t.say(rules.OK, fmt.Sprintf("CA file %s", path))
}
