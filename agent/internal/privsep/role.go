package privsep

import (
	"fmt"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Inherited tells whether this process is a role, and which: the name is in argv[0], the
// only argument, and descriptor 3 is a socket. conn is the connection to main, files are
// the role's own descriptors, from 4 on. It is called once, first of all.
//
// A role's life is in main's hands: signals that main, or a terminal, or pkill(1) send
// to all that bears the name do not end it.
func Inherited() (role string, conn net.Conn, files []*os.File, ok bool) {
	if role, ok = titled(); !ok {
		return "", nil, nil, false
	}
	if conn, ok = inheritedConn(); !ok {
		return "", nil, nil, false
	}
	for fd := fdFiles; fd < maxInherited; fd++ {
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		// What is closed on exec was not inherited: the Go runtime's own.
		if err != nil || flags&unix.FD_CLOEXEC != 0 {
			break
		}
		unix.CloseOnExec(fd)
		files = append(files, os.NewFile(uintptr(fd), fmt.Sprintf("%s %d", role, fd)))
	}
	signal.Ignore(syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2)
	return role, conn, files, true
}

// titled returns the role that argv[0] tells.
func titled() (role string, ok bool) {
	if len(os.Args) != 1 {
		return "", false
	}
	return strings.CutPrefix(os.Args[0], title)
}

func inheritedConn() (net.Conn, bool) {
	if kind, err := unix.GetsockoptInt(fdMain, unix.SOL_SOCKET, unix.SO_TYPE); err != nil || kind != unix.SOCK_STREAM {
		return nil, false
	}
	unix.CloseOnExec(fdMain)
	f := os.NewFile(fdMain, "main")
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, false
	}
	return conn, true
}

// orphanCheck is how often a role looks whether main is still there, and orphanWait how
// long it has to end by itself when not: for one that does not come to read that main is
// gone.
var (
	orphanCheck = 30 * time.Second
	orphanWait  = 30 * time.Second
)

// Serve lives a role's life, if this process is a role, and does not return then. Else it
// returns at once. A program that is to be started by [Exec] calls it first of all.
func Serve(bodies map[string]Body) {
	role, isRole := titled()
	if !isRole {
		return
	}
	_, conn, files, ok := Inherited()
	if !ok {
		fmt.Fprintf(os.Stderr, "%s: is started by threatstopd alone\n", os.Args[0])
		exit(2)
	}
	os.Chdir("/")
	body := bodies[role]
	if body == nil {
		tell(conn, fmt.Errorf("no role %q in this program", clean(role, maxKey)))
		exit(1)
	}
	parent := os.Getppid()
	go func() {
		for os.Getppid() == parent && !hungUp(conn) {
			time.Sleep(orphanCheck)
		}
		time.Sleep(orphanWait)
		exit(1)
	}()
	if tell(conn, body(conn, files)) {
		exit(1)
	}
	exit(0)
}

// hungUp tells whether the other end of a socket is closed, without reading from it. The
// number of the parent alone does not tell: main could be gone before it is asked for.
func hungUp(conn net.Conn) bool {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return true
	}
	var gone bool
	err = raw.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 0)
		gone = err == nil && n > 0 && fds[0].Revents&(unix.POLLHUP|unix.POLLERR|unix.POLLNVAL) != 0
	})
	return err != nil || gone
}
