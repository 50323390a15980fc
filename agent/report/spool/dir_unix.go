//go:build unix

package spool

import (
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// checkOwner says why a directory belongs to somebody else, nil when it is ours.
func checkOwner(path string, fi fs.FileInfo) error {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	if uid := os.Geteuid(); int(st.Uid) != uid {
		return fmt.Errorf("spool directory %s: owned by uid %d, not by uid %d that this process runs as: chown it or name another", path, st.Uid, uid)
	}
	return nil
}
