package status

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/user"
	"strconv"
	"syscall"
	"time"
)

// Listeners are where a daemon answers. A nil one is not served.
type Listeners struct {
	Full     net.Listener // every request
	ReadOnly net.Listener // GET alone
	Metrics  net.Listener // TCP: GET /metrics alone
	Page     net.Listener // TCP: as ReadOnly
}

// Close closes them all.
func (l Listeners) Close() {
	for _, x := range []net.Listener{l.Full, l.ReadOnly, l.Metrics, l.Page} {
		if x != nil {
			x.Close()
		}
	}
}

// socketMode admits the owner and the group: connecting requires write permission.
const socketMode = 0o660

// Listen makes the socket at path and listens on it. The socket has mode 0660 from its first
// moment; its group is that of the directory (on OpenBSD a file inherits it, and /var/run is
// wheel's), or the one named where group is not "".
//
// A socket left from before is replaced when nobody answers there; anything else at path, and
// a daemon that answers, is an error. The umask of the process changes during the call, for
// all threads. Call it before pledge(2): it needs chown and reads /etc/group.
func Listen(path, group string) (l net.Listener, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("unix socket %s: %w", path, cause(err))
		}
	}()
	gid := -1
	if group != "" {
		g, err := user.LookupGroup(group)
		if err != nil {
			return nil, fmt.Errorf("%w: make it with groupadd %s, or leave STATUS_GROUP out", err, group)
		}
		if gid, err = strconv.Atoi(g.Gid); err != nil {
			return nil, err
		}
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	// The mode is set by the umask: before a chmod others could connect. Both OpenBSD
	// (uipc_usrreq.c: unp_bind) and Linux make it 0777 less the umask.
	old := syscall.Umask(0o777 &^ socketMode)
	l, err = net.Listen("unix", path)
	syscall.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", cause(err))
	}
	if gid >= 0 {
		// Until here its group was that of the directory, which may do no less.
		if err := os.Lchown(path, -1, gid); err != nil {
			l.Close()
			return nil, fmt.Errorf("give it to group %s: %w", group, cause(err))
		}
	}
	return l, nil
}

// removeStale removes a socket at path on which nobody listens.
func removeStale(path string) error {
	fi, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case fi.Mode().Type() != fs.ModeSocket:
		return errors.New("there is something that is not a socket: remove it")
	}
	// The report process, which holds the socket too, ends some moments after a main that
	// was killed: a start right after that waits for it.
	for until := time.Now().Add(2 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		c, err := connect(ctx, path)
		cancel()
		switch {
		case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, fs.ErrNotExist):
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("left from before, cannot be removed: %w", cause(err))
			}
			return nil
		case err != nil:
			return fmt.Errorf("cannot find out whether another threatstopd answers there: %w", cause(err))
		}
		c.Close()
		if time.Now().After(until) {
			return errors.New("another threatstopd answers there: `rcctl stop threatstopd` stops it")
		}
	}
}

// connect connects to a socket. OpenBSD refuses a connection also when too many wait to be
// accepted, so a refused one is tried again: a daemon accepts at once.
func connect(ctx context.Context, path string) (net.Conn, error) {
	const attempts, pause = 4, 50 * time.Millisecond
	var d net.Dialer
	for n := 1; ; n++ {
		c, err := d.DialContext(ctx, "unix", path)
		if n == attempts || !errors.Is(err, syscall.ECONNREFUSED) {
			return c, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return c, err
		}
	}
}

// ListenTCP listens where metrics or the page are served over TCP; what is which, for an error.
func ListenTCP(what string, at netip.AddrPort) (net.Listener, error) {
	l, err := net.Listen("tcp", at.String())
	if err != nil {
		return nil, fmt.Errorf("%s at %s: listen: %w", what, at, cause(err))
	}
	return l, nil
}

// cause returns the system's error, where err is one of a call: the message around it has the rest.
func cause(err error) error {
	switch err.(type) {
	case *net.OpError, *os.SyscallError, *fs.PathError:
		var errno syscall.Errno
		if errors.As(err, &errno) {
			return errno
		}
	}
	return err
}
