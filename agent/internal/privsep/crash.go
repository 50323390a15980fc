package privsep

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"
	"syscall"
	"time"
)

// CrashPath is where the daemon's main process leaves the reason of its death, since rc.d(8) discards
// standard error. (Main logs how the other processes end.)
const CrashPath = "/var/db/threatstopd.crash"

// CrashFile is open while a process runs. The Go runtime writes the report of a crash to it. The file
// begins with a mark, which Close removes: one that is found later shows that the process was killed.
type CrashFile struct{ f *os.File }

// OpenCrashFile opens path, creating it with mode 0600, and returns how the process that had it open
// before ended: "" if that called Close. It is called before the process confines itself. A file that is
// not regular, belongs to another user, has further links or is in use by a running process is an error.
func OpenCrashFile(path string) (c *CrashFile, last string, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, "", err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	fi, err := f.Stat()
	if err != nil {
		return nil, "", err
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); !ok || !fi.Mode().IsRegular() || int(st.Uid) != os.Geteuid() || st.Nlink != 1 {
		return nil, "", fmt.Errorf("%s: not a regular file of this user without further links: remove it", path)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, "", fmt.Errorf("%s: in use by another process: %w", path, err)
	}
	said, err := io.ReadAll(io.LimitReader(f, 64<<10))
	if err != nil {
		return nil, "", err
	}
	if mark, report, _ := strings.Cut(string(said), "\n"); mark != "" {
		last = crashExcerpt(report)
		if last == "" {
			last = "no report: SIGKILL, SIGABRT by pledge(2), or the host went down; " + Clean(mark, maxText)
		}
	}
	mark := func() error {
		_, err := fmt.Fprintf(f, "running since %s, pid %d\n", time.Now().UTC().Format(time.RFC3339), os.Getpid())
		return err
	}
	err = errors.Join(f.Truncate(0), f.Chmod(0o600), mark(), debug.SetCrashOutput(f, debug.CrashOptions{}))
	return &CrashFile{f}, last, err
}

// Close removes the mark. It needs no promise but "stdio". It must not be deferred: a panic runs deferred
// calls before the runtime reports it.
func (c *CrashFile) Close() error {
	debug.SetCrashOutput(nil, debug.CrashOptions{})
	return errors.Join(c.f.Truncate(0), c.f.Close())
}
