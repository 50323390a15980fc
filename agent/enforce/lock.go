package enforce

import (
	"errors"
	"fmt"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrLocked is returned when another process updates the same files.
var ErrLocked = errors.New("another threatstopd is at work there: wait for it to end, or let it do this")

// Lock keeps two processes from writing the persist files of one directory at
// the same time. It locks the directory itself, so that no file is left
// behind, and the lock ends with the process however that ends. It returns
// the function that unlocks, or an error that wraps ErrLocked.
func Lock(dir string) (unlock func(), err error) {
	// Not os.Open: to open what is not a directory could wait for ever.
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("directory of the persist files %s: %w: make it, or name another one in threatstop.conf (OUT_DIR, BLOCK_FILE) and in pf.conf", dir, err)
	}
	err = unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = ErrLocked
	} else if err != nil {
		err = fmt.Errorf("lock: %w", err)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("directory of the persist files %s: %w", dir, err)
	}
	return sync.OnceFunc(func() { unix.Close(fd) }), nil
}
