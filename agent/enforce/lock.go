package enforce

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrLocked is returned when another process updates the same files.
var ErrLocked = errors.New("another update is running")

// Lock keeps two processes from writing the persist files of one directory at
// the same time. It locks the directory itself, so that no file is left
// behind, and the lock ends with the process however that ends. It returns
// the function that unlocks, or an error that wraps ErrLocked.
func Lock(dir string) (unlock func(), err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = ErrLocked
	}
	if err != nil {
		d.Close()
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return func() { d.Close() }, nil
}
