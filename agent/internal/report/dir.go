package report

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	owner "example.org/threatstopd/agent/internal/host"
)

// checkDir makes a spool directory if it is missing (its parent must exist) and refuses one
// that others could have put there or can write to. A process that runs as root may use one
// of the service user.
func (r *Reporter) checkDir(d spoolDir) error {
	path, service := string(d), r.o.Confinement.UID
	err := os.Mkdir(path, 0o700)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("spool directory %s: make it: %w", path, cause(err))
	}
	fi, err := os.Lstat(path)
	if err != nil {
		return fmt.Errorf("spool directory %s: %w", path, cause(err))
	}
	uid, mode := os.Geteuid(), fi.Mode()
	own, _ := owner.Owner(fi)
	switch {
	case mode&fs.ModeSymlink != 0:
		return fmt.Errorf("spool directory %s: is a symbolic link: name the directory itself", path)
	case !fi.IsDir():
		return fmt.Errorf("spool directory %s: is not a directory", path)
	case own != uid && (uid != 0 || service <= 0 || own != service):
		return fmt.Errorf("spool directory %s: owned by uid %d, not by uid %d that this process runs as: chown it or name another", path, own, uid)
	case mode.Perm()&0o077 != 0:
		return fmt.Errorf("spool directory %s: mode %04o lets others in: chmod 700 it", path, mode.Perm())
	}
	return nil
}

// Give gives a spool directory that is root's alone, and the files in it, to the user that
// will work in it: one from before that user existed, or one made by hand. The directory
// comes last, so that until then nobody else can put a file there. For anybody but root, and
// for other directories, it does nothing: checkDir reports what is wrong with them.
func Give(dir string, uid, gid int) error {
	fi, err := os.Lstat(dir)
	if err != nil || os.Geteuid() != 0 || !fi.IsDir() || fi.Mode().Perm()&0o077 != 0 || fi.Sys().(*syscall.Stat_t).Uid != 0 {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		fi, err := e.Info()
		if err == nil && fi.IsDir() && e.Name() == refusedDir {
			err = Give(filepath.Join(dir, refusedDir), uid, gid)
		} else if err == nil && fi.Mode().IsRegular() && fi.Sys().(*syscall.Stat_t).Nlink == 1 {
			// A file with a second name may be in use elsewhere.
			err = os.Lchown(filepath.Join(dir, e.Name()), uid, gid)
		}
		if err != nil {
			return err
		}
	}
	return os.Lchown(dir, uid, gid)
}

// openOwn opens a file for reading in a directory whose owner may be hostile: it follows no
// link, waits for nothing, and refuses what this process would not have put there: anything
// but a regular file, and a file that belongs neither to the directory's owner nor, having
// no second name, to this process.
func openOwn(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		if fi, e := os.Lstat(path); e == nil && !fi.Mode().IsRegular() {
			err = errNotRegular
		}
		return nil, err
	}
	if err = checkOwn(f); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

var errNotRegular = errors.New("is not a regular file: remove it")

func checkOwn(f *os.File) error {
	fi, err := f.Stat()
	dir, errD := os.Stat(filepath.Dir(f.Name()))
	if err = errors.Join(err, errD); err != nil {
		return err
	}
	st, own := fi.Sys().(*syscall.Stat_t), dir.Sys().(*syscall.Stat_t).Uid
	switch {
	case !fi.Mode().IsRegular():
		return errNotRegular
	case st.Uid == own:
		return nil
	case int(st.Uid) != os.Geteuid() || st.Nlink > 1:
		return fmt.Errorf("belongs to uid %d, the directory to uid %d: remove it", st.Uid, own)
	}
	return nil
}

// readOwn reads at most so many bytes of such a file.
func readOwn(path string, most int64) ([]byte, error) {
	f, err := openOwn(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, most))
}

// readJSON reads a file of at most so many bytes. The error names it.
func (d spoolDir) readJSON(name string, most int64, into any) error {
	path := filepath.Join(string(d), name)
	b, err := readOwn(path, most)
	if err == nil {
		err = json.Unmarshal(b, into)
	}
	if err != nil {
		return fmt.Errorf("spool file %s: %w", path, cause(err))
	}
	return nil
}

// resolve follows the symbolic links in the path of pflogd's log and returns the path of the
// file itself, or path where there are none. Where there is a link, each component on the way
// and the file must belong to root (or to this user) and be writable by nobody else: who could
// replace one would choose what is read as root and reported.
func resolve(path string) (string, error) {
	if _, err := filepath.EvalSymlinks(path); err != nil {
		if fi, e := os.Lstat(path); e == nil && fi.Mode()&fs.ModeSymlink != 0 {
			return "", fmt.Errorf("%s is a symbolic link: %w", path, cause(err))
		}
		return path, nil // opening it reports that
	}
	real, linked := "/", false
	var unsafe error
	for rest, steps := strings.Split(path, "/"), 0; len(rest) > 0; steps++ {
		next := filepath.Join(real, rest[0]) // also for "", "." and ".."
		rest = rest[1:]
		fi, err := os.Lstat(next)
		if errors.Is(err, fs.ErrNotExist) && len(rest) == 0 { // newsyslog has renamed it just now
			real = next
			break
		}
		if err != nil || steps > 1000 {
			return "", cmp.Or[error](err, syscall.ELOOP) // it was changed just now
		}
		target, err := os.Readlink(next)
		if why := unsafeFor(fi, err == nil); why != "" && unsafe == nil {
			unsafe = fmt.Errorf("%s is a symbolic link, and %s %s", path, next, why)
		}
		switch {
		case err != nil:
			real = next
			continue
		case filepath.IsAbs(target):
			real = "/"
		}
		linked = true
		rest = append(strings.Split(target, "/"), rest...)
	}
	if !linked {
		return path, nil
	}
	return real, unsafe
}

// unsafeFor returns why others could replace a component of a path, "" when they cannot. In a
// directory with the sticky bit they cannot replace what is root's.
func unsafeFor(fi fs.FileInfo, link bool) string {
	mode := fi.Mode()
	if uid, is := owner.Stranger(fi); is {
		return fmt.Sprintf("belongs to uid %d: chown root it", uid)
	}
	if !link && mode.Perm()&0o022 != 0 && mode&fs.ModeSticky == 0 {
		return fmt.Sprintf("has mode %04o: chmod go-w it", mode.Perm())
	}
	return ""
}
