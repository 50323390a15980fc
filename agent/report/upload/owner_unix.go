//go:build unix

package upload

import (
	"io/fs"
	"os"
	"syscall"
)

// stranger returns the uid of a file's owner, and whether it is neither root nor the
// user that this process runs as.
func stranger(fi fs.FileInfo) (uid int, is bool) {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	uid = int(st.Uid)
	return uid, uid != 0 && uid != os.Geteuid()
}

// nonblock keeps the opening of a FIFO from waiting until somebody writes to it.
const nonblock = syscall.O_NONBLOCK
