package status

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestListen(t *testing.T) {
	dir := tempDir(t)
	path := filepath.Join(dir, "s")
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	l, err := Listen(path, "")
	if err != nil {
		t.Fatal(err)
	}
	fi, err := os.Lstat(path)
	if err != nil || fi.Mode() != fs.ModeSocket|0o660 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
	if mask := syscall.Umask(0); mask != 0 {
		t.Errorf("the umask is left at %04o", mask)
	}
	// While it is in use another daemon does not get it.
	const inUse = ": another threatstopd answers there: `rcctl stop threatstopd` stops it"
	if _, err := Listen(path, ""); err == nil || err.Error() != "unix socket "+path+inUse {
		t.Error(err)
	}
	// Left behind, it is replaced.
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	if _, err := os.Lstat(path); err != nil {
		t.Fatal(err)
	}
	if _, err := Dial(context.Background(), path); !errors.Is(err, ErrNotRunning) {
		t.Error(err)
	}
	if l, err = Listen(path, ""); err != nil {
		t.Fatal(err)
	}
	// So it is when who answers is about to end.
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	time.AfterFunc(300*time.Millisecond, func() { l.Close() })
	again, err := Listen(path, "")
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is left: %v", err)
	}
}

func TestListenRefuses(t *testing.T) {
	dir := tempDir(t)
	write := func(name string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	file := write("file")
	link := filepath.Join(dir, "link")
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "dir"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, path, group, want string }{
		{"bad a file", file, "", "there is something that is not a socket: remove it"},
		{"bad a symbolic link", link, "", "there is something that is not a socket: remove it"},
		{"bad a directory", filepath.Join(dir, "dir"), "", "there is something that is not a socket: remove it"},
		{"bad no directory", filepath.Join(dir, "none", "s"), "", "listen: no such file or directory"},
		{"bad no directory but a file", filepath.Join(file, "s"), "", "not a directory"},
		{"bad a group", filepath.Join(dir, "g"), "no-such-group", "group: unknown group no-such-group: make it with groupadd no-such-group, or leave STATUS_GROUP out"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l, err := Listen(tt.path, tt.group)
			if err == nil {
				l.Close()
				t.Fatal("taken")
			}
			if want := "unix socket " + tt.path + ": " + tt.want; err.Error() != want {
				t.Errorf("%q, want %q", err, want)
			}
		})
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "precious" {
		t.Errorf("the file has changed: %q, %v", b, err)
	}
}

// A second socket belongs to the group named.
func TestListenGroup(t *testing.T) {
	groups, err := os.Getgroups()
	if err != nil {
		t.Fatal(err)
	}
	names, err := os.ReadFile("/etc/group")
	if err != nil {
		t.Skip(err)
	}
	for _, gid := range append(groups, os.Getgid()) {
		for line := range strings.Lines(string(names)) {
			f := strings.Split(strings.TrimSpace(line), ":")
			if len(f) < 3 || f[2] != strconv.Itoa(gid) {
				continue
			}
			path := filepath.Join(tempDir(t), "s")
			l, err := Listen(path, f[0])
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			fi, err := os.Lstat(path)
			if err != nil || fi.Mode() != fs.ModeSocket|0o660 {
				t.Errorf("mode %v, %v", fi.Mode(), err)
			}
			if st := fi.Sys().(*syscall.Stat_t); int(st.Gid) != gid {
				t.Errorf("gid %d, want %d (%s)", st.Gid, gid, f[0])
			}
			return
		}
	}
	t.Skip("no group of this process has a name")
}

func TestNotRunning(t *testing.T) {
	dir := tempDir(t)
	path := filepath.Join(dir, "s")
	if _, err := Dial(context.Background()); !errors.Is(err, ErrNotRunning) {
		t.Errorf("no sockets: %v", err)
	}
	_, err := Dial(context.Background(), path, path+"2")
	if !errors.Is(err, ErrNotRunning) || err.Error() != "threatstopd is not running: `rcctl start threatstopd` starts it" {
		t.Errorf("none there: %v", err)
	}
	if _, err := Dial(context.Background(), filepath.Join(dir, strings.Repeat("x", 200))); err == nil || errors.Is(err, ErrNotRunning) {
		t.Errorf("a path that cannot be: %v", err)
	}
	if os.Geteuid() == 0 {
		return // nothing is forbidden
	}
	l, err := Listen(path, "")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.Chmod(path, 0); err != nil {
		t.Fatal(err)
	}
	_, err = Dial(context.Background(), path, path+"2")
	if want := "unix socket " + path + ": permission denied: only root, wheel and, for the status, STATUS_GROUP may ask"; !errors.Is(err, fs.ErrPermission) || err.Error() != want {
		t.Errorf("%v", err)
	}
}

func TestListenTCP(t *testing.T) {
	l, err := ListenTCP("metrics", netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	at := netip.MustParseAddrPort(l.Addr().String())
	if _, err := ListenTCP("metrics", at); err == nil || err.Error() != fmt.Sprintf("metrics at %s: listen: address already in use", at) {
		t.Error(err)
	}
}
