package check

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"example.org/threatstopd/agent/internal/apply"
	"example.org/threatstopd/agent/internal/host"
	"example.org/threatstopd/agent/internal/rules"
)

// files looks at directories and files: whether they are there, whose they are, and who may write to them.
func (t *tester) files(context.Context) {
	cfg := t.Config
	for _, dir := range slices.Compact([]string{filepath.Dir(cfg.BlockFile), filepath.Dir(cfg.AllowFile)}) {
		unlock, err := apply.Lock(dir)
		if err == nil {
			unlock()
		} else if errors.Is(err, apply.ErrLocked) {
			err = nil // the daemon runs
		}
		t.file("table files' directory "+dir, err, rules.Fail, "mkdir -p -m 755 "+dir)
	}
	t.tableFile(cfg.BlockFile, rules.Fail)
	if len(cfg.AllowLists) > 0 {
		t.tableFile(cfg.AllowFile, rules.Fail)
	} else {
		t.tableFile(cfg.AllowFile, rules.Note)
	}
	if t.UID < 0 {
		t.say(rules.Note, []string{"`threatstopd --install` makes the user"},
			"user %s: does not exist: the spool is root's then", cfg.User)
	} else {
		t.ok("user %s is there", cfg.User)
	}
	if t.report() {
		t.spool()
	}
}

// file reports what is wrong with a file or directory of root's, and how it is made if it is missing. Without root
// much cannot be seen.
func (t *tester) file(what string, err error, missing rules.Level, create ...string) {
	switch {
	case err == nil:
		t.ok("%s", what)
	case errors.Is(err, fs.ErrPermission) && !t.Root:
		t.say(rules.Skip, nil, "%s: only root may look", what)
	case errors.Is(err, fs.ErrNotExist):
		t.say(missing, create, "%s does not exist", what)
	default:
		t.say(rules.Fail, nil, "%v", err)
	}
}

// tableFile looks at what pf.conf loads a table from. It must be there at every boot: pf.conf does not load
// without it.
func (t *tester) tableFile(path string, missing rules.Level) {
	i, err := os.Lstat(path)
	if err == nil {
		err = apply.Overwritable(path)
	}
	if err == nil && i.Mode().Perm()&0o022 != 0 {
		err = fmt.Errorf("table file %s: mode %#o: others could change what pf loads: chmod 600 it", path, i.Mode().Perm())
	}
	t.file("table file "+path, err, missing,
		"pf.conf does not load where it names a file that does not exist:", "install -m 600 /dev/null "+path)
}

// spool looks at the directory of hits that wait.
func (t *tester) spool() {
	dir, user := t.Config.SpoolDir, t.Config.User
	what := "spool directory " + dir
	i, err := os.Lstat(dir)
	if err == nil {
		owner, owned := host.Owner(i)
		switch {
		case !i.IsDir():
			err = fmt.Errorf("%s: not a directory: set SPOOL_DIR in %s", what, t.File)
		case t.UID >= 0 && owned && owner != t.UID && owner != 0:
			err = fmt.Errorf("%s: belongs to user %d, not to %s (%d): %s", what, owner, user, t.UID, t.own())
		case i.Mode().Perm() != 0o700:
			err = fmt.Errorf("%s: mode %#o, not 0700: chmod 700 it", what, i.Mode().Perm())
		}
	}
	t.file(what, err, rules.Fail, fmt.Sprintf("install -d -o %s -g %s -m 700 %s", user, user, dir))
	t.spoolGood = err == nil
}

// own is the command that gives the spool to its user.
func (t *tester) own() string {
	return fmt.Sprintf("chown -R %s:%s %s", t.Config.User, t.Config.User, t.Config.SpoolDir)
}

// tryToWrite has the user of the reporting process write to the spool. What the modes of directories say is one
// thing, those above them and read-only file systems another.
func (t *tester) tryToWrite() {
	dir, user := t.Config.SpoolDir, t.Config.User
	if !t.spoolGood || os.Geteuid() != t.UID {
		return
	}
	f, err := os.CreateTemp(dir, ".threatstopd-test-*")
	if err == nil {
		f.Close()
		err = os.Remove(f.Name())
	}
	if err == nil {
		t.ok("spool directory %s: %s can write there", dir, user)
		return
	}
	do := t.own()
	if errors.Is(err, fs.ErrPermission) {
		do += "; chmod go+x " + filepath.Dir(dir)
	}
	if p := (*fs.PathError)(nil); errors.As(err, &p) {
		err = p.Err
	}
	t.say(rules.Fail, []string{do}, "spool directory %s: %s cannot write there: %v", dir, user, err)
}
