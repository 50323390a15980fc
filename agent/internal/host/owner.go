package host

import (
	"io/fs"
	"os"
	"syscall"
)

// Owner returns the uid of a file's owner; false if fi does not describe a file on disk.
func Owner(fi fs.FileInfo) (uid int, ok bool) {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return int(st.Uid), true
}

// Stranger returns the uid of a file's owner, and whether that is neither root nor the user of this
// process: what root does must not depend on such a file.
func Stranger(fi fs.FileInfo) (uid int, is bool) {
	uid, ok := Owner(fi)
	return uid, ok && uid != 0 && uid != os.Geteuid()
}
