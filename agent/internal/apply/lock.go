package apply

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrLocked is why [Lock] fails if another process updates the same files.
var ErrLocked = errors.New("another threatstopd is at work there: wait for it to end, or let it do this")

// Lock keeps two processes from writing the persist files of one directory at the same time. It locks the
// directory itself: no file is left behind, and the lock ends with the process, however that ends. It
// returns the function that unlocks, or an error that wraps ErrLocked, or that of CheckDir.
func Lock(dir string) (unlock func(), err error) {
	fd, err := openDir(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		unix.Close(fd)
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = ErrLocked
		}
		return nil, dirError(dir, err)
	}
	return sync.OnceFunc(func() { unix.Close(fd) }), nil
}

// CheckDir refuses a directory in which other users could replace what pf loads at boot: one that is a
// symbolic link, that belongs to a user other than root and the one of this process, or that everybody
// can write to. One that does not exist is refused as well.
func CheckDir(dir string) error {
	fd, err := openDir(dir)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

// openDir opens a directory that CheckDir does not refuse.
func openDir(dir string) (int, error) {
	// Not os.Open: opening what is not a directory may block.
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		if fi, e := os.Lstat(dir); e == nil && fi.Mode()&fs.ModeSymlink != 0 {
			err = errors.New("is a symbolic link: name the directory itself, in threatstop.conf and in pf.conf")
		} else {
			err = fmt.Errorf("%w: make it, or name another one in threatstop.conf (OUT_DIR, BLOCK_FILE) and in pf.conf", err)
		}
		return -1, dirError(dir, err)
	}
	var st unix.Stat_t
	if err = unix.Fstat(fd, &st); err == nil {
		err = safeDir(&st)
	}
	if err != nil {
		unix.Close(fd)
		return -1, dirError(dir, err)
	}
	return fd, nil
}

func dirError(dir string, err error) error {
	return fmt.Errorf("directory of the persist files %s: %w", dir, err)
}

// safeDir returns why others could replace files in a directory. The owner may let a group do so.
func safeDir(st *unix.Stat_t) error {
	if st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("owned by uid %d, who could replace what pf loads at boot: chown root it", st.Uid)
	}
	if st.Mode&0o002 != 0 {
		return fmt.Errorf("mode %04o: everybody could replace what pf loads at boot: chmod o-w it", st.Mode&0o7777)
	}
	return nil
}
