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
	"sync"
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

// maxPath is what fits in the smallest sockaddr_un with its NUL (OpenBSD's
// sys/un.h: sun_path has 104 bytes).
const maxPath = 103

// socketMode admits the owner and the group: connecting requires write permission.
const socketMode = 0o660

var umaskMu sync.Mutex

// Listen makes the socket at path and listens on it. The socket has mode 0660 from its first
// moment; its group is that of the directory (on OpenBSD a file inherits it, and /var/run is
// wheel's), or the one named where group is not "".
//
// A socket left from before is replaced when nobody answers there; anything else at path, and
// a daemon that answers, is an error. The umask of the process changes during the call, for
// all threads. Call it before pledge(2): it needs chown and reads /etc/group.
func Listen(path, group string) (net.Listener, error) {
	fail := func(format string, args ...any) error {
		return fmt.Errorf("unix socket %s: "+format, append([]any{path}, args...)...)
	}
	if len(path) > maxPath {
		return nil, fail("its path has %d bytes, at most %d are possible", len(path), maxPath)
	}
	gid := -1
	if group != "" {
		g, err := user.LookupGroup(group)
		if err != nil {
			return nil, fail("%w: make it with groupadd %s, or leave STATUS_GROUP out", err, group)
		}
		if gid, err = strconv.Atoi(g.Gid); err != nil {
			return nil, fail("group %s has the id %q", group, g.Gid)
		}
	}
	if err := removeStale(path); err != nil {
		return nil, fail("%w", err)
	}
	l, err := bind(path)
	if err != nil {
		return nil, fail("listen: %w", cause(err))
	}
	if gid >= 0 {
		// Until here its group was that of the directory, which may do no less.
		if err := os.Lchown(path, -1, gid); err != nil {
			l.Close()
			return nil, fail("give it to group %s: %w", group, cause(err))
		}
	}
	return l, nil
}

// bind makes the socket with its mode: after a chmod there would have been a moment in which
// others can connect.
func bind(path string) (net.Listener, error) {
	umaskMu.Lock()
	defer umaskMu.Unlock()
	// Both OpenBSD (uipc_usrreq.c: unp_bind) and Linux make it 0777 less the umask.
	old := syscall.Umask(0o777 &^ socketMode)
	defer syscall.Umask(old)
	return net.Listen("unix", path)
}

// removeStale removes a socket at path on which nobody listens.
func removeStale(path string) error {
	fi, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return cause(err)
	}
	if fi.Mode().Type() != fs.ModeSocket {
		return errors.New("there is something that is not a socket: remove it")
	}
	// The report process, which holds the socket too, ends some moments after a main that
	// was killed: a start right after that waits for it.
	const patience, pause = 2 * time.Second, 50 * time.Millisecond
	for until := time.Now().Add(patience); ; time.Sleep(pause) {
		used, err := answers(path)
		if err != nil {
			return fmt.Errorf("cannot find out whether another threatstopd answers there: %w", cause(err))
		}
		if !used {
			break
		}
		if time.Now().After(until) {
			return errors.New("another threatstopd answers there: `rcctl stop threatstopd` stops it")
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("left from before, cannot be removed: %w", cause(err))
	}
	return nil
}

// answers reports whether somebody listens on the socket at path.
func answers(path string) (bool, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	c, err := connect(ctx, path)
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, c.Close()
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

// cause removes from an error what the message around it contains already.
func cause(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	var call *os.SyscallError
	if errors.As(err, &call) {
		return call.Err
	}
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}
