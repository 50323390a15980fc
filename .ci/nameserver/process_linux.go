package nameserver

import "syscall"

// mortal has a process told to end with the thread that started it, be that
// killed. Not by force: nsd has children of its own to end.
func mortal() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
}
