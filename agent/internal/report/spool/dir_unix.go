//go:build unix

package spool

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// checkOwner says why a directory belongs to somebody else, nil when it is ours,
// or when we are root and it is the service user's.
func checkOwner(path string, fi fs.FileInfo, service int) error {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	uid := os.Geteuid()
	if int(st.Uid) == uid || uid == 0 && service > 0 && int(st.Uid) == service {
		return nil
	}
	return fmt.Errorf("spool directory %s: owned by uid %d, not by uid %d that this process runs as: chown it or name another", path, st.Uid, uid)
}

// Adopt gives a file that root has made to the owner of its directory: what
// lies in the service user's spool is to be the service user's. For anybody
// but root it does nothing. It is for files that were just made, or that OpenOwn has
// opened: any other may be a stranger's under a second name.
func Adopt(f *os.File, dir string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	fi, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok && st.Uid != 0 {
		return f.Chown(int(st.Uid), int(st.Gid))
	}
	return nil
}

// Give gives a spool directory that is root's alone to the user that is going to work in
// it: one that was used while that user did not exist, or that was made by hand. The
// directory comes last, so that until then nobody else can put a file there. For anybody
// but root, and for a directory that others can look into or that is somebody else's, it
// does nothing: whoever opens the spool says what is wrong with it.
func Give(dir string, uid, gid int) error {
	fi, err := os.Lstat(dir)
	if err != nil || os.Geteuid() != 0 || !fi.IsDir() || fi.Mode().Perm()&0o077 != 0 {
		return err
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); !ok || st.Uid != 0 {
		return nil
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, f := range files {
		path := filepath.Join(dir, f.Name())
		fi, err := os.Lstat(path)
		if err != nil {
			return err
		}
		// One with a second name may be in use elsewhere.
		if st, ok := fi.Sys().(*syscall.Stat_t); ok && fi.Mode().IsRegular() && st.Nlink == 1 {
			if err := os.Lchown(path, uid, gid); err != nil {
				return err
			}
		}
	}
	return os.Lchown(dir, uid, gid)
}

// OpenOwn opens a file that is there, in a directory whose owner may be another user
// than this process's, and who may be up to no good: no link is followed, nothing is
// waited for, and what this process would not have put there is refused: anything but a
// regular file, and one that belongs neither to the owner of the directory nor, having
// no other name, to this process (a second name may be that of a file elsewhere).
func OpenOwn(path string, flag int) (*os.File, error) {
	f, err := os.OpenFile(path, flag|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		if fi, e := os.Lstat(path); e == nil && !fi.Mode().IsRegular() {
			err = checkOwn(path, fi)
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

// checkOwn says why a file is not one of this spool.
func checkOwn(path string, fi fs.FileInfo) error {
	refuse := func(format string, args ...any) error {
		return &fs.PathError{Op: "open", Path: path, Err: fmt.Errorf(format, args...)}
	}
	if !fi.Mode().IsRegular() {
		return refuse(notRegular)
	}
	di, err := os.Stat(filepath.Dir(path))
	if err != nil {
		return err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	dst, dok := di.Sys().(*syscall.Stat_t)
	switch {
	case !ok || !dok || st.Uid == dst.Uid:
	case int(st.Uid) != os.Geteuid():
		return refuse("belongs to uid %d, the directory to uid %d: remove it", st.Uid, dst.Uid)
	case st.Nlink > 1:
		return refuse("has another name, and the directory another owner: remove it")
	}
	return nil
}

const notRegular = "is not a regular file: remove it"

// openDir is how the directory itself is opened.
const openDir = syscall.O_NOFOLLOW | syscall.O_DIRECTORY | syscall.O_NONBLOCK
