package report

import "golang.org/x/sys/unix"

// processes returns the process table: kern.proc with KERN_PROC_ALL, at most so many
// entries.
func processes() ([]byte, error) {
	const all, most = 0, 1 << 16
	return unix.SysctlRaw("kern.proc", all, 0, procSize, most)
}

func sendAlarm(pid int) error { return unix.Kill(pid, unix.SIGALRM) }
