package install

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// tempSuffix is that of the one temporary file beside a file that is replaced: a crash leaves at most
// that one, and the next run removes it.
const tempSuffix = ".threatstopd-new"

// at returns where a path of the host is on this system.
func (h *host) at(path string) string { return filepath.Join(h.Root, path) }

// do makes a change. All changes go through it, so that a test can have any of them fail.
func (h *host) do(verb, path string, change func() error) error {
	if h.fault != nil {
		if err := h.fault(verb + " " + path); err != nil {
			return err
		}
	}
	return plain(path, change())
}

// plain names in an error the host's path, not that below the root directory.
func plain(path string, err error) error {
	if err == nil {
		return nil
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		err = errno
	}
	return fmt.Errorf("%s: %w", path, err)
}

// maxKept is the size of the largest file that is read: a program.
const maxKept = 64 << 20

// read returns a regular file, nil if there is none. Anything else is an error: a symbolic link is the
// owner's arrangement, and is never replaced.
func (h *host) read(path string) (*saved, error) {
	s, err := h.stat(path)
	if s == nil || err != nil {
		return nil, err
	}
	if s.Type != "" {
		return nil, fmt.Errorf("%s: is not a regular file", path)
	}
	f, err := os.Open(h.at(path))
	if err != nil {
		return nil, plain(path, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxKept+1))
	if err == nil && len(data) > maxKept {
		err = fmt.Errorf("more than %d bytes", maxKept)
	}
	s.content = contentOf(string(data))
	return s, plain(path, err)
}

// text returns the text of a regular file, "" if it cannot be read.
func (h *host) text(path string) string {
	if f, err := h.read(path); f != nil && err == nil {
		return f.text()
	}
	return ""
}

// stat is Lstat; it returns nil if there is nothing at path.
func (h *host) stat(path string) (*saved, error) {
	fi, err := os.Lstat(h.at(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, plain(path, err)
	}
	s := &saved{Mode: mode(fi.Mode().Perm())}
	switch {
	case fi.IsDir():
		s.Type = typeDir
	case !fi.Mode().IsRegular():
		s.Type = "other"
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		s.UID, s.GID = int(st.Uid), int(st.Gid)
	}
	if h.owner != nil {
		if uid, gid, ok := h.owner(path); ok {
			s.UID, s.GID = uid, gid
		}
	}
	return s, nil
}

// replace makes the file at path hold s, whole at every instant.
func (h *host) replace(path string, s *saved) error {
	name := h.at(path)
	temp := name + tempSuffix
	err := h.do("write", path, func() error {
		if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		_, err = io.WriteString(f, s.text())
		// The mode comes after the owner, since chown(2) removes setuid bits, and regardless of umask.
		return errors.Join(err, h.Chown(temp, s.UID, s.GID), f.Chmod(fs.FileMode(s.Mode)), h.sync(f), f.Close())
	})
	if err != nil {
		return err
	}
	return h.do("rename", path, func() error { return errors.Join(os.Rename(temp, name), h.syncDir(path)) })
}

// remove removes a file or an empty directory, if it is there.
func (h *host) remove(path string) error {
	if _, err := os.Lstat(h.at(path)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return h.do("remove", path, func() error { return errors.Join(os.Remove(h.at(path)), h.syncDir(path)) })
}

// removeTemp removes what a crash while path was replaced may have left.
func (h *host) removeTemp(path string) error { return h.remove(path + tempSuffix) }

// parents makes the directories above a file that are missing. A link to a directory will do.
func (h *host) parents(name string) error {
	dir := path.Dir(name)
	if _, err := os.Stat(h.at(dir)); !errors.Is(err, fs.ErrNotExist) {
		return plain(dir, err)
	}
	if err := h.parents(dir); err != nil {
		return err
	}
	if err := h.note(h.change(kindDir, dir, "")); err != nil {
		return err
	}
	return h.do("make", dir, func() error { return os.Mkdir(h.at(dir), 0o755) })
}

// own gives a directory its owner and mode.
func (h *host) own(path string, s *saved) error {
	return h.do("chown", path, func() error {
		return errors.Join(h.Chown(h.at(path), s.UID, s.GID), os.Chmod(h.at(path), fs.FileMode(s.Mode)))
	})
}

// syncDir makes a change of the directory of path durable.
func (h *host) syncDir(path string) error {
	f, err := os.Open(filepath.Dir(h.at(path)))
	if err != nil {
		return err
	}
	defer f.Close()
	return h.sync(f)
}

// sync is fsync(2), which tests with thousands of files do without.
func (h *host) sync(f *os.File) error {
	if h.fault != nil {
		return nil
	}
	return f.Sync()
}

// lock keeps two installations from changing a host at the same time. It locks a directory, and so leaves
// nothing behind; not that of the manifest, which a running daemon has locked.
func lock(dir string) (unlock func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w: another installation is running", dir, err)
	}
	return func() { f.Close() }, nil
}
