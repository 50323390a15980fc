package report

import (
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

// openDir is how a directory itself is opened.
const openDir = syscall.O_NOFOLLOW | syscall.O_DIRECTORY | syscall.O_NONBLOCK

// checkDir makes a spool directory if it is missing (its parent must exist) and refuses one
// that others could have put there or can write to. A process that runs as root may use one
// of the service user (0: there is none).
func checkDir(path string, service int) error {
	err := os.Mkdir(path, 0o700)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("spool directory %s: make it: %w", path, cause(err))
	}
	fi, err := os.Lstat(path)
	switch {
	case err != nil:
		return fmt.Errorf("spool directory %s: %w", path, cause(err))
	case fi.Mode()&fs.ModeSymlink != 0:
		return fmt.Errorf("spool directory %s: is a symbolic link: name the directory itself", path)
	case !fi.IsDir():
		return fmt.Errorf("spool directory %s: is not a directory", path)
	}
	uid, own := os.Geteuid(), fi.Sys().(*syscall.Stat_t).Uid
	if int(own) != uid && (uid != 0 || service <= 0 || int(own) != service) {
		return fmt.Errorf("spool directory %s: owned by uid %d, not by uid %d that this process runs as: chown it or name another", path, own, uid)
	}
	if perm := fi.Mode().Perm(); perm&0o077 != 0 {
		return fmt.Errorf("spool directory %s: mode %04o lets others in: chmod 700 it", path, perm)
	}
	return nil
}

// checkRefused does the same for refused/, which belongs to the owner of the spool directory.
func (r *Reporter) checkRefused() error {
	path := string(r.refused)
	if os.Mkdir(path, 0o700) == nil {
		if f, err := os.Open(path); err == nil {
			_ = adopt(f, r.o.SpoolDir)
			f.Close()
		}
	}
	return checkDir(path, r.o.Confinement.UID)
}

// adopt gives a file that root has just made to the owner of its directory.
func adopt(f *os.File, dir string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	fi, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if st := fi.Sys().(*syscall.Stat_t); st.Uid != 0 {
		return f.Chown(int(st.Uid), int(st.Gid))
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
		path := filepath.Join(dir, e.Name())
		fi, err := os.Lstat(path)
		if err != nil {
			return err
		}
		// A file with a second name may be in use elsewhere.
		switch st := fi.Sys().(*syscall.Stat_t); {
		case fi.Mode().IsRegular() && st.Nlink == 1:
			err = os.Lchown(path, uid, gid)
		case fi.IsDir() && e.Name() == refusedDir:
			err = Give(path, uid, gid)
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
	fi, err := f.Stat()
	if err == nil {
		err = checkOwn(path, fi)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
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

var errNotRegular = errors.New("is not a regular file: remove it")

func checkOwn(path string, fi fs.FileInfo) error {
	if !fi.Mode().IsRegular() {
		return errNotRegular
	}
	dir, err := os.Stat(filepath.Dir(path))
	if err != nil {
		return err
	}
	st, own := fi.Sys().(*syscall.Stat_t), dir.Sys().(*syscall.Stat_t).Uid
	switch {
	case st.Uid == own:
	case int(st.Uid) != os.Geteuid():
		return fmt.Errorf("belongs to uid %d, the directory to uid %d: remove it", st.Uid, own)
	case st.Nlink > 1:
		return errors.New("has another name, and the directory another owner: remove it")
	}
	return nil
}

// resolve follows the symbolic links in the path of pflogd's log and returns the path of the
// file itself, or path where there are none. Where there is a link, each component on the way
// and the file must belong to root (or to this user) and be writable by nobody else: who could
// replace one would choose what is read as root and reported.
func resolve(path string) (string, error) {
	real, linked := "/", false
	var unsafe error
	rest := strings.Split(filepath.Clean(path), "/")
	for steps := 0; len(rest) > 0; steps++ {
		if steps > 255 {
			return "", fmt.Errorf("%s: %w", path, syscall.ELOOP)
		}
		name := rest[0]
		rest = rest[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			real = filepath.Dir(real)
			continue
		}
		next := filepath.Join(real, name)
		fi, err := os.Lstat(next)
		if err != nil {
			if !linked {
				return path, nil // opening it reports that
			}
			return "", fmt.Errorf("%s is a symbolic link: %w", path, err)
		}
		mode := fi.Mode()
		if uid, is := owner.Stranger(fi); is && unsafe == nil {
			unsafe = fmt.Errorf("%s is a symbolic link, and %s belongs to uid %d: chown root it", path, next, uid)
		}
		if mode&fs.ModeSymlink != 0 {
			target, err := os.Readlink(next)
			if err != nil {
				return "", err
			}
			if linked = true; filepath.IsAbs(target) {
				real = "/"
			}
			rest = append(strings.Split(target, "/"), rest...)
			continue
		}
		// In a directory with the sticky bit others cannot replace what is root's.
		if mode.Perm()&0o022 != 0 && mode&fs.ModeSticky == 0 && unsafe == nil {
			unsafe = fmt.Errorf("%s is a symbolic link, and %s has mode %04o: chmod go-w it", path, next, mode.Perm())
		}
		real = next
	}
	if !linked {
		return path, nil
	}
	return real, unsafe
}
