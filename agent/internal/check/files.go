package check

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"example.org/threatstopd/agent/internal/apply"
	"example.org/threatstopd/agent/internal/report"
	"example.org/threatstopd/agent/internal/rules"
)

// files looks at directories and files: whether they are there, whose they are, and who may write to them.
func (t *tester) files(context.Context) {
	cfg := t.Config
	t.directory(filepath.Dir(cfg.BlockFile))
	if dir := filepath.Dir(cfg.AllowFile); dir != filepath.Dir(cfg.BlockFile) {
		t.directory(dir)
	}
	t.tableFile(cfg.BlockFile, true)
	t.tableFile(cfg.AllowFile, len(cfg.AllowLists) > 0)
	uid, err := t.User(cfg.User)
	if err != nil {
		t.say(rules.Note, []string{"`threatstopd --install` makes the user"}, "user %s: %v: the spool is root's then", cfg.User, err)
	} else {
		t.ok("user %s is there", cfg.User)
	}
	if t.report() {
		t.spool(uid, err == nil)
	}
	if cfg.CAFile != "" {
		t.caFile(cfg.CAFile)
	}
}

// A flaw is what is wrong with a file, and what to do about it.
type flaw struct {
	is   bool
	what string
	do   []string
}

// inspect looks at a file of root's, and reports the first flaw that it has. It returns whether all is well.
// Without root much cannot be seen.
func (t *tester) inspect(what, path string, missing rules.Level, create []string, flaws func(fs.FileInfo) []flaw) bool {
	what += " " + path
	i, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrPermission) && !t.Root:
		t.say(rules.Skip, nil, "%s: only root may look", what)
	case errors.Is(err, fs.ErrNotExist):
		t.say(missing, create, "%s does not exist", what)
	case err != nil:
		t.say(rules.Fail, nil, "%s: %v", what, err)
	default:
		for _, f := range flaws(i) {
			if f.is {
				t.say(rules.Fail, f.do, "%s: %s", what, f.what)
				return false
			}
		}
		t.ok("%s", what)
		return true
	}
	return false
}

// directory looks at one that table files are in. It may be a symbolic link.
func (t *tester) directory(dir string) {
	t.inspect("table files' directory", dir, rules.Fail, []string{"mkdir -p -m 755 " + dir}, func(i fs.FileInfo) []flaw {
		to, err := os.Stat(dir)
		if err == nil {
			i = to
		}
		set, mode := []string{"set OUT_DIR in " + t.File}, i.Mode()
		return []flaw{
			{err != nil, "a symbolic link to nothing", set},
			{!i.IsDir(), "not a directory", set},
			{mode.Perm()&0o022 != 0 && mode&fs.ModeSticky == 0, fmt.Sprintf("mode %#o: others could replace what pf loads", mode.Perm()), []string{"chmod go-w " + dir}},
		}
	})
}

// tableFile looks at what pf.conf loads a table from. It must be there at every boot: pf.conf does not load
// without it.
func (t *tester) tableFile(path string, needed bool) {
	missing, empty := rules.Fail, "install -m 600 /dev/null "+path
	if !needed {
		missing = rules.Note
	}
	create := []string{"pf.conf does not load where it names a file that does not exist:", empty}
	t.inspect("table file", path, missing, create, func(i fs.FileInfo) []flaw {
		mode := i.Mode()
		all := []flaw{
			{mode&fs.ModeSymlink != 0, "is a symbolic link, which an update would replace", []string{"name the file that it points to, in " + t.File + " and in " + t.PfConf}},
			{!mode.IsRegular(), "is not a file", []string{"remove it, and:", empty}},
			{mode.Perm()&0o022 != 0, fmt.Sprintf("mode %#o: others could change what pf loads", mode.Perm()), []string{"chmod 600 " + path}},
		}
		if !mode.IsRegular() {
			return all
		}
		if err := apply.Overwritable(path); err != nil && !errors.Is(err, fs.ErrPermission) {
			all = append(all, flaw{true, err.Error(), nil})
		}
		return all
	})
}

// spool looks at the directory of hits that wait.
func (t *tester) spool(uid uint32, known bool) {
	dir, user := t.Config.SpoolDir, t.Config.User
	create := []string{fmt.Sprintf("install -d -o %s -g %s -m 700 %s", user, user, dir)}
	good := t.inspect("spool directory", dir, rules.Fail, create, func(i fs.FileInfo) []flaw {
		owner, owned := t.Owner(i)
		return []flaw{
			{!i.IsDir(), "not a directory", []string{"set SPOOL_DIR in " + t.File}},
			{known && owned && owner != int(uid) && owner != 0, fmt.Sprintf("belongs to user %d, not to %s (%d)", owner, user, uid), []string{t.own()}},
			{i.Mode().Perm() != 0o700, fmt.Sprintf("mode %#o, not 0700", i.Mode().Perm()), []string{"chmod 700 " + dir}},
		}
	})
	t.spoolUser = good && known
}

// own is the command that gives the spool to its user.
func (t *tester) own() string {
	return fmt.Sprintf("chown -R %s:%s %s", t.Config.User, t.Config.User, t.Config.SpoolDir)
}

func (t *tester) caFile(path string) {
	switch _, err := report.Roots(path); {
	case err == nil:
		t.ok("CA file %s", path)
	case errors.Is(err, fs.ErrPermission) && !t.Root:
		t.say(rules.Skip, nil, "CA file %s: only root may look", path)
	default:
		t.say(rules.Fail, []string{"CA_FILE names certificates in PEM form; without it they are the system's"}, "%v", err)
	}
}

// tryToWrite has the user of the reporting process write to the spool. What the modes of directories say is one
// thing, those above them and read-only file systems another.
func (t *tester) tryToWrite() {
	dir, user := t.Config.SpoolDir, t.Config.User
	if uid, err := t.User(user); err != nil || !t.spoolUser || os.Geteuid() != int(uid) {
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
