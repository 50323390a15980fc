// Package owner tells whose a file is, and whether that is somebody to be trusted with what
// the agent does as root.
package owner

import (
	"io/fs"
	"os"
	"syscall"
)

// ID returns the uid of a file's owner; false when fi is not of a file on disk.
func ID(fi fs.FileInfo) (uid int, ok bool) {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return int(st.Uid), true
}

// Stranger returns the uid of a file's owner, and whether it is neither root nor the
// user that this process runs as.
func Stranger(fi fs.FileInfo) (uid int, is bool) {
	uid, ok := ID(fi)
	return uid, ok && uid != 0 && uid != os.Geteuid()
}
