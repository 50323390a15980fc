package nameserver

import "syscall"

// mortal makes the kernel send a process SIGTERM when the thread that started it
// ends, even if that is killed. Not SIGKILL: nsd has children to end.
func mortal() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
}
