package install

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// disk is the host's file system, or a tree below root that stands for one. All
// changes go through do, so that a test can have any of them fail.
type disk struct {
	root  string
	chown func(path string, uid, gid int) error
	owner func(path string) (uid, gid int, ok bool) // what a test's chown did
	// fault is asked before (done false) and after each change; its error is what a
	// crash at that point is.
	fault func(what string, done bool) error
	// hasty leaves out fsync, for tests that make thousands of files.
	hasty bool
}

// tempSuffix is that of the one temporary file beside a file that is replaced: a crash
// leaves at most that one, and the next run takes it away.
const tempSuffix = ".threatstopd-new"

func (d *disk) at(path string) string { return filepath.Join(d.root, path) }

func (d *disk) do(what string, change func() error) error {
	if d.fault == nil {
		return change()
	}
	err := d.fault(what, false)
	if err == nil {
		err = change()
	}
	if err == nil {
		err = d.fault(what, true)
	}
	return err
}

// file is do for a change of a file; its error names the host's path.
func (d *disk) file(verb, path string, change func() error) error {
	return d.plain(path, d.do(verb+" "+path, change))
}

// saved is a file as it was, or a directory (without Data).
type saved struct {
	Mode fs.FileMode
	UID  int
	GID  int
	Data []byte
}

func (s *saved) sum() string { return sum(s.Data) }

func sum(data []byte) string {
	h := sha256.Sum256(data)
	return hex.EncodeToString(h[:])
}

// maxKept is the size of the largest file that is read: a program.
const maxKept = 64 << 20

// errOdd is the error of what is neither a regular file nor a directory where one of
// them should be: a symbolic link is the owner's arrangement, and is never replaced.
var errOdd = errors.New("is not a regular file")

// read returns a regular file, nil when there is none.
func (d *disk) read(path string) (*saved, error) {
	s, err := d.stat(path)
	if s == nil || err != nil {
		return nil, err
	}
	if !s.Mode.IsRegular() {
		return nil, fmt.Errorf("%s: %w", path, errOdd)
	}
	f, err := os.Open(d.at(path))
	if err != nil {
		return nil, d.plain(path, err)
	}
	defer f.Close()
	s.Data, err = io.ReadAll(io.LimitReader(f, maxKept+1))
	if err == nil && len(s.Data) > maxKept {
		err = fmt.Errorf("more than %d bytes", maxKept)
	}
	if err != nil {
		return nil, d.plain(path, err)
	}
	s.Mode = s.Mode.Perm()
	return s, nil
}

// stat is Lstat; it returns nil when there is nothing at path.
func (d *disk) stat(path string) (*saved, error) {
	fi, err := os.Lstat(d.at(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, d.plain(path, err)
	}
	s := &saved{Mode: fi.Mode()}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		s.UID, s.GID = int(st.Uid), int(st.Gid)
	}
	if d.owner != nil {
		if uid, gid, ok := d.owner(path); ok {
			s.UID, s.GID = uid, gid
		}
	}
	return s, nil
}

// plain names in an error the host's path, not that below root, and what failed.
func (d *disk) plain(path string, err error) error {
	if err == nil {
		return nil
	}
	var pe *fs.PathError
	var le *os.LinkError
	switch {
	case errors.As(err, &pe):
		err = fmt.Errorf("%s: %w", pe.Op, pe.Err)
	case errors.As(err, &le):
		err = fmt.Errorf("%s: %w", le.Op, le.Err)
	}
	return fmt.Errorf("%s: %w", path, err)
}

// replace makes the file at path hold s, whole at every instant.
func (d *disk) replace(path string, s *saved) error {
	name := d.at(path)
	temp := name + tempSuffix
	err := d.file("write", path, func() error {
		if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		_, err = f.Write(s.Data)
		if err == nil {
			err = d.chown(temp, s.UID, s.GID)
		}
		if err == nil {
			err = f.Chmod(s.Mode.Perm()) // after chown, which takes setuid bits away, and regardless of umask
		}
		if err == nil && !d.hasty {
			err = f.Sync()
		}
		return errors.Join(err, f.Close())
	})
	if err != nil {
		return err
	}
	return d.file("rename", path, func() error {
		if err := os.Rename(temp, name); err != nil {
			return err
		}
		return d.syncDir(filepath.Dir(name))
	})
}

func (d *disk) remove(path string) error {
	return d.file("remove", path, func() error {
		if err := os.Remove(d.at(path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return d.syncDir(filepath.Dir(d.at(path)))
	})
}

// removeTemp removes what a crash while path was replaced may have left.
func (d *disk) removeTemp(path string) error {
	if _, err := os.Lstat(d.at(path + tempSuffix)); path == "" || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return d.remove(path + tempSuffix)
}

func (d *disk) mkdir(path string, s *saved) error {
	err := d.file("make", path, func() error { return os.Mkdir(d.at(path), s.Mode.Perm()) })
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return d.own(path, s)
}

// own gives a directory its owner and mode.
func (d *disk) own(path string, s *saved) error {
	return d.file("chown", path, func() error {
		if err := d.chown(d.at(path), s.UID, s.GID); err != nil {
			return err
		}
		return os.Chmod(d.at(path), s.Mode.Perm())
	})
}

// entries returns the names in a directory.
func (d *disk) entries(path string) ([]fs.DirEntry, error) {
	all, err := os.ReadDir(d.at(path))
	return all, d.plain(path, err)
}

func (d *disk) syncDir(name string) error {
	if d.hasty {
		return nil
	}
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
