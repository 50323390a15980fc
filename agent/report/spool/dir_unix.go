//go:build unix

package spool

import (
	"fmt"
	"io/fs"
	"os"
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
// but root it does nothing.
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
