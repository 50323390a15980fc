package status

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"example.org/threatstopd/agent/internal/frame"
)

// tempDir is a directory whose path is short enough for sockets in it: that of t.TempDir
// has the name of the test.
func tempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ts")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// fakeDaemon is a Backend that does as it is told.
type fakeDaemon struct {
	mu     sync.Mutex
	status *Status
	sync   func(ctx context.Context, force bool, say func(string, bool)) int
	flush  func(context.Context) error
	asked  atomic.Int64
	synced atomic.Int64
}

func (d *fakeDaemon) Status() Status {
	d.asked.Add(1)
	d.mu.Lock()
	defer d.mu.Unlock()
	return *d.status
}

func (d *fakeDaemon) Sync(ctx context.Context, force bool, say func(string, bool)) int {
	defer d.synced.Add(1)
	return d.sync(ctx, force, say)
}

func (d *fakeDaemon) Flush(ctx context.Context) error { return d.flush(ctx) }

// running is a server with its sockets.
type running struct {
	*fakeDaemon
	full, readOnly, metrics string
	listeners               Listeners
	stop                    context.CancelFunc
	stopped                 chan struct{}
}

// patient has time for whatever a slow machine does.
var patient = deadlines{time.Minute, time.Minute, time.Minute}

func start(t testing.TB, times deadlines) *running {
	t.Helper()
	dir := tempDir(t)
	r := &running{
		fakeDaemon: &fakeDaemon{
			status: healthy(),
			sync:   func(context.Context, bool, func(string, bool)) int { return 0 },
			flush:  func(context.Context) error { return nil },
		},
		full: filepath.Join(dir, "full"), readOnly: filepath.Join(dir, "ro"),
		stopped: make(chan struct{}),
	}
	listen := func(path string) net.Listener {
		l, err := Listen(path, "")
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	metrics, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.metrics = metrics.Addr().String()
	r.listeners = Listeners{listen(r.full), listen(r.readOnly), metrics}
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	go func() {
		serve(ctx, r.listeners, r, times)
		close(r.stopped)
	}()
	t.Cleanup(func() {
		cancel()
		<-r.stopped
	})
	return r
}

func dial(t testing.TB, path string) *Client {
	t.Helper()
	c, err := Dial(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// exchange sends bytes and returns what comes until the server ends the connection.
func exchange(t testing.TB, path string, send string) string {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, send)
	b, _ := io.ReadAll(c) // an error is an end, too
	return string(b)
}

func TestStatusRequest(t *testing.T) {
	r := start(t, patient)
	for _, path := range []string{r.full, r.readOnly} {
		got, err := dial(t, path).Status(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(healthy(), got, prefixes); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	// The first socket that answers is asked.
	c, err := Dial(context.Background(), r.full+"-is-not-there", r.readOnly, r.full)
	if err != nil || c.path != r.readOnly {
		t.Errorf("%+v, %v", c, err)
	}
	c.Close()
}

// Whoever may only look can look as often as they like: a status is not made for each.
func TestReadersShareAStatus(t *testing.T) {
	r := start(t, patient)
	for range 500 {
		_, err := dial(t, r.readOnly).Status(context.Background())
		if err != nil && !strings.Contains(err.Error(), "too many clients") {
			t.Fatal(err)
		}
	}
	if n := r.asked.Load(); n >= 250 {
		t.Errorf("the daemon was asked %d times", n)
	}
}

func TestSyncRequest(t *testing.T) {
	r := start(t, patient)
	var forced []bool
	r.sync = func(_ context.Context, force bool, say func(string, bool)) int {
		forced = append(forced, force)
		say("Processing block list basic", false)
		say("timeout\x1b[2J\u202e", true)
		say(strings.Repeat("x", 3*maxText), false)
		say("", false)
		return 7
	}
	for _, force := range []bool{false, true} {
		var said []string
		exit, err := dial(t, r.full).Sync(context.Background(), force, func(line string, warn bool) { said = append(said, fmt.Sprint(warn, " ", line)) })
		if err != nil || exit != 7 {
			t.Fatalf("exit %d, %v", exit, err)
		}
		want := []string{"false Processing block list basic", "true timeout?[2J?", "false " + strings.Repeat("x", maxText-3) + "...", "false "}
		if diff := cmp.Diff(want, said); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	if !cmp.Equal(forced, []bool{false, true}) {
		t.Errorf("forced %v", forced)
	}
}

func TestFlushRequest(t *testing.T) {
	r := start(t, patient)
	if err := dial(t, r.full).Flush(context.Background()); err != nil {
		t.Error(err)
	}
	r.flush = func(context.Context) error { return errors.New("503\x07 Service Unavailable") }
	if err := dial(t, r.full).Flush(context.Background()); err == nil || err.Error() != "503? Service Unavailable" {
		t.Error(err)
	}
	// It ends when the client goes.
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	r.flush = func(ctx context.Context) error { cancel(); <-ctx.Done(); close(ended); return ctx.Err() }
	if err := dial(t, r.full).Flush(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	<-ended
}

// One sync and one flush at a time; the others are told, not made to wait.
func TestOneAtATime(t *testing.T) {
	r := start(t, patient)
	begun, end := make(chan struct{}), make(chan struct{})
	r.sync = func(context.Context, bool, func(string, bool)) int { close(begun); <-end; return 0 }
	r.flush = func(context.Context) error { begun <- struct{}{}; <-end; return nil }
	first := make(chan error)
	go func() {
		_, err := dial(t, r.full).Sync(context.Background(), false, nil)
		first <- err
	}()
	<-begun
	_, err := dial(t, r.full).Sync(context.Background(), false, nil)
	if err == nil || err.Error() != "threatstopd: a sync is under way already: try again when it has ended" {
		t.Error(err)
	}
	if _, err := dial(t, r.full).Status(context.Background()); err != nil {
		t.Error(err)
	}
	begun = make(chan struct{})
	second := make(chan error)
	go func() { second <- dial(t, r.full).Flush(context.Background()) }()
	<-begun
	if err := dial(t, r.full).Flush(context.Background()); err == nil || err.Error() != "threatstopd: a flush is under way already: try again when it has ended" {
		t.Error(err)
	}
	close(end)
	if err := errors.Join(<-first, <-second); err != nil {
		t.Error(err)
	}
}

// A sync that has begun is carried out to its end, whoever goes away meanwhile.
func TestSyncGoesOnWithoutItsClient(t *testing.T) {
	r := start(t, patient)
	said, gone := make(chan struct{}), make(chan struct{})
	r.sync = func(ctx context.Context, _ bool, say func(string, bool)) int {
		say("one", false)
		close(said)
		<-gone
		for range 1000 {
			say("more", false)
		}
		if ctx.Err() != nil {
			t.Error("the sync was ended")
		}
		return 0
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		_, err := dial(t, r.full).Sync(ctx, false, func(string, bool) {})
		done <- err
	}()
	<-said
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	close(gone)
	for r.synced.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
}

// A client that asks for a sync and then does not listen holds it up for one line at most.
func TestSyncIsNotHeldUp(t *testing.T) {
	r := start(t, deadlines{time.Minute, time.Minute, 20 * time.Millisecond})
	r.sync = func(_ context.Context, _ bool, say func(string, bool)) int {
		for range 10000 { // 20 MB, and a socket holds less; 200 s, if each waited
			say(strings.Repeat("x", maxText), false)
		}
		return 0
	}
	c, err := net.Dial("unix", r.full)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	frame.Write(c, askSync, []byte{0})
	for r.synced.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
}

func TestReadOnlySocket(t *testing.T) {
	r := start(t, patient)
	const want = "threatstopd: this socket tells the status, and takes no other request"
	if _, err := dial(t, r.readOnly).Sync(context.Background(), true, nil); err == nil || err.Error() != want {
		t.Errorf("sync: %v", err)
	}
	if err := dial(t, r.readOnly).Flush(context.Background()); err == nil || err.Error() != want {
		t.Errorf("flush: %v", err)
	}
	if r.synced.Load() != 0 {
		t.Error("a sync ran")
	}
}

func TestBadRequests(t *testing.T) {
	r := start(t, patient)
	for _, tt := range []struct{ name, send, want string }{
		{"HTTP", "GET /metrics HTTP/1.0\r\n\r\n", "request not understood: not a frame: begins with 4745"},
		{"another version", "TS\x09\x01\x00\x00\x00\x00", "request not understood: frame of another version: 9, not 1"},
		{"another kind", "TS\x01\x63\x00\x00\x00\x00", "request not understood: frame of an unknown kind: 99"},
		{"an answer", "TS\x01\x10\x00\x00\x00\x00", "request not understood: frame of an unknown kind: 16"},
		{"a status of something", "TS\x01\x01\x00\x00\x00\x01x", "request not understood: frame too long: 1 bytes of kind 1, at most 0 are taken"},
		{"4 GiB", "TS\x01\x02\xff\xff\xff\xff", "request not understood: frame too long: 4294967295 bytes of kind 2, at most 1 are taken"},
		{"a sync of what?", "TS\x01\x02\x00\x00\x00\x00", "request not understood: sync with "},
		{"a sync of another kind", "TS\x01\x02\x00\x00\x00\x01\x02", "request not understood: sync with 02"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want := string(frame.Append(nil, sayError, []byte(tt.want)))
			if got := exchange(t, r.full, tt.send); got != want {
				t.Errorf("answer %q, want %q", got, want)
			}
		})
	}
	if r.synced.Load() != 0 {
		t.Error("a sync ran")
	}
}

// Clients that say nothing, or a byte now and then, or do not take their answer, are
// dropped in time.
func TestSlowClients(t *testing.T) {
	r := start(t, deadlines{100 * time.Millisecond, time.Second, time.Second})
	if got := exchange(t, r.full, ""); got != "" {
		t.Errorf("a silent client is told %q", got)
	}
	if got := exchange(t, r.full, "TS\x01"); got != "" {
		t.Errorf("half a request is answered: %q", got)
	}
	c, err := net.Dial("unix", r.readOnly)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for i := 0; ; i++ {
		if _, err := c.Write([]byte{"TS\x01\x01\x00\x00\x00\x00"[min(i, 6)]}); err != nil {
			break // the server has ended it
		}
		if i == 6 {
			i-- // the last byte never comes
		}
		time.Sleep(10 * time.Millisecond)
	}
	// Clients that do not take a status that is larger than what sockets hold.
	r.mu.Lock()
	r.status.Lists = make([]List, 500)
	for i := range r.status.Lists {
		r.status.Lists[i].Error = strings.Repeat("x", maxText)
	}
	r.mu.Unlock()
	for range maxClients + maxClients/2 { // and no more: both ends of each are this process's files
		c, err := net.Dial("unix", r.full)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		frame.Write(c, askStatus, nil)
	}
	for { // they take the slots of others no longer than they may
		c := dial(t, r.full)
		if s, err := c.Status(context.Background()); err == nil {
			if len(s.Lists) != 500 {
				t.Errorf("%d lists", len(s.Lists))
			}
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestConcurrentClients(t *testing.T) {
	r := start(t, patient)
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			for range 8 {
				path := []string{r.full, r.readOnly}[i%2]
				_, err := dial(t, path).Status(context.Background())
				if err != nil && !strings.Contains(err.Error(), "too many clients") {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// The end comes soon, whatever clients do, and leaves nothing behind.
func TestStop(t *testing.T) {
	r := start(t, patient)
	for _, path := range []string{r.full, r.readOnly} {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	c, err := net.Dial("unix", r.full)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	begun := make(chan struct{})
	r.sync = func(ctx context.Context, _ bool, _ func(string, bool)) int { close(begun); <-ctx.Done(); return 1 }
	frame.Write(c, askSync, []byte{0})
	<-begun
	r.stop()
	<-r.stopped
	if b, _ := io.ReadAll(c); string(b) != string(frame.Append(nil, sayDone, []byte{1})) {
		t.Errorf("the client of the sync is told %q", b)
	}
	for _, path := range []string{r.full, r.readOnly} {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left: %v", path, err)
		}
		if _, err := Dial(context.Background(), path); !errors.Is(err, ErrNotRunning) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// brokenListener fails now and then, as when there are too many open files.
type brokenListener struct {
	net.Listener
	fails atomic.Int64
}

func (l *brokenListener) Accept() (net.Conn, error) {
	if l.fails.Add(-1) >= 0 {
		return nil, &net.OpError{Op: "accept", Err: syscall.EMFILE}
	}
	return l.Listener.Accept()
}

func TestAcceptFails(t *testing.T) {
	path := filepath.Join(tempDir(t), "s")
	l, err := Listen(path, "")
	if err != nil {
		t.Fatal(err)
	}
	broken := &brokenListener{Listener: l}
	broken.fails.Store(4)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		Serve(ctx, Listeners{Full: broken}, &fakeDaemon{status: healthy()})
		close(done)
	}()
	if _, err := dial(t, path).Status(context.Background()); err != nil {
		t.Error(err)
	}
	if broken.fails.Load() >= 0 {
		t.Error("it did not fail")
	}
	cancel()
	<-done
}

func TestStatusTooLarge(t *testing.T) {
	r := start(t, patient)
	r.status.Lists = make([]List, 3000)
	for i := range r.status.Lists {
		r.status.Lists[i].Error = strings.Repeat("x", 10*maxText)
	}
	_, err := dial(t, r.full).Status(context.Background())
	if err == nil || !strings.HasPrefix(err.Error(), "threatstopd: status: ") || !strings.HasSuffix(err.Error(), " bytes, at most 4194304 can be sent") {
		t.Error(err)
	}
}

// What has no bound of its own is cut before it is sent, and the daemon's own copy is not.
func TestCut(t *testing.T) {
	long := strings.Repeat("\u20ac", maxText)
	fill := func() *Status {
		s := healthy()
		s.NotEnforced, s.Poll.Error, s.PF.Advice, s.Hits.Error, s.Hits.CatchUp, s.Uploads.Error = long, long, long, long, long, long
		for range 300 {
			s.Lists = append(s.Lists, List{Name: long[:250], Error: long})
			s.Troubles = append(s.Troubles, Trouble{Text: long})
		}
		for i := range s.Tables {
			t := &s.Tables[i]
			t.Held, t.Error = &Held{Why: long}, long
			for range 300 {
				t.Excepted = append(t.Excepted, Excepted{Why: long, Lists: make([]string, 300)})
				t.Dropped = append(t.Dropped, Dropped{Why: long})
			}
		}
		return s
	}
	s := fill()
	b, err := json.Marshal(cut(*s))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(fill(), s) {
		t.Error("the original has changed")
	}
	if len(b) > maxStatus {
		t.Errorf("%d bytes", len(b))
	}
	got, err := decodeStatus(b)
	if err != nil {
		t.Fatal(err)
	}
	table := got.Tables[1]
	for name, n := range map[string]int{"excepted": len(table.Excepted), "their lists": len(table.Excepted[99].Lists), "dropped": len(table.Dropped), "troubles": len(got.Troubles)} {
		if n != MaxNamed {
			t.Errorf("%d %s, want %d", n, name, MaxNamed)
		}
	}
	if len(got.Lists) != 302 {
		t.Errorf("%d lists", len(got.Lists))
	}
	want := strings.Repeat("\u20ac", (maxText-3)/3) + "..."
	for name, text := range map[string]string{"not enforced": got.NotEnforced, "list": got.Lists[300].Error, "table": table.Error, "held": table.Held.Why,
		"excepted": table.Excepted[99].Why, "dropped": table.Dropped[0].Why, "trouble": got.Troubles[0].Text, "upload": got.Uploads.Error} {
		if text != want {
			t.Errorf("%s: %d bytes of text, want %d", name, len(text), len(want))
		}
	}
	if got := clip("\xff\xff\xff\xff\xff", 4); got != "..." {
		t.Errorf("%q", got)
	}
}

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
	l.Close()
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
	long := filepath.Join(dir, strings.Repeat("x", 103-len(dir)))
	for _, tt := range []struct{ name, path, group, want string }{
		{"bad a file", file, "", "there is something that is no socket: remove it"},
		{"bad a symbolic link", link, "", "there is something that is no socket: remove it"},
		{"bad a directory", filepath.Join(dir, "dir"), "", "there is something that is no socket: remove it"},
		{"bad no directory", filepath.Join(dir, "none", "s"), "", "listen: no such file or directory"},
		{"bad no directory but a file", filepath.Join(file, "s"), "", "not a directory"},
		{"bad a long path", long, "", "its path has 104 bytes, at most 103 are possible"},
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
	if l, err := Listen(long[:103], ""); err != nil {
		t.Errorf("the longest path: %v", err)
	} else {
		l.Close()
	}
}

// A second socket belongs to the group of whoever may look.
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

// What a client says of a peer that is not as it should be.
func TestStrangePeers(t *testing.T) {
	status := frame.Append(nil, sayStatus, []byte(`{"format":1}`))
	for _, tt := range []struct {
		name, answer string
		want         string // behind the path; "" for no error
	}{
		{"OK the least status", string(status), ""},
		{"OK and more behind it", string(status) + "whatever", ""},
		{"bad nothing", "", "the daemon ended the connection before it had answered"},
		{"bad half of it", string(status[:15]), "the daemon ended the connection before it had answered"},
		{"bad another version", "TS\x02\x10\x00\x00\x00\x00", "the daemon is of another version than this program (frame of another version: 2, not 1): `rcctl restart threatstopd` starts the new one"},
		{"bad another format", string(frame.Append(nil, sayStatus, []byte(`{"format":2}`))), "status of format 2, this program knows 1: `rcctl restart threatstopd` starts a daemon of this version"},
		{"bad no JSON", string(frame.Append(nil, sayStatus, []byte(`{`))), "status: unexpected end of JSON input"},
		{"bad other types", string(frame.Append(nil, sayStatus, []byte(`{"format":"1"}`))), "status: json: cannot unmarshal string into Go struct field Status.format of type int"},
		{"bad HTTP", "HTTP/1.1 400 Bad Request\r\n\r\n", "is not answered by threatstopd: not a frame: begins with 4854"},
		{"bad too much", "TS\x01\x10\x7f\xff\xff\xff", "is not answered by threatstopd: frame too long: 2147483647 bytes of kind 16, at most 4194304 are taken"},
		{"bad another answer", string(frame.Append(nil, sayDone, []byte{0})), "unexpected answer of kind 19"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(tempDir(t), "s")
			l, err := Listen(path, "")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			go func() {
				c, err := l.Accept()
				if err != nil {
					return
				}
				io.ReadFull(c, make([]byte, frame.HeaderLen))
				io.WriteString(c, tt.answer)
				c.Close()
			}()
			_, err = dial(t, path).Status(context.Background())
			want := tt.want
			if want != "" {
				want = "unix socket " + path + ": " + want
			}
			if tt.name == "bad another answer" {
				want = "unix socket " + path + ": unexpected answer of kind 18 with 1 bytes"
			}
			if got := fmt.Sprint(err); got != want && !(want == "" && err == nil) {
				t.Errorf("%s, want %s", got, want)
			}
		})
	}
}

// A daemon that hangs holds nobody for ever.
func TestPeerHangs(t *testing.T) {
	path := filepath.Join(tempDir(t), "s")
	l, err := Listen(path, "")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() // it never accepts
	c := dial(t, path)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if _, err := c.Status(ctx); err == nil || err.Error() != "unix socket "+path+": the daemon does not answer" {
		t.Error(err)
	}
	ctx, cancel = context.WithCancel(context.Background())
	time.AfterFunc(20*time.Millisecond, cancel)
	if _, err := dial(t, path).Sync(ctx, false, nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// sides is a connection in memory: what is read of it is given, what is written is kept.
type sides struct {
	net.Conn
	in  io.Reader
	out bytes.Buffer
}

func (s *sides) Read(b []byte) (int, error)       { return s.in.Read(b) }
func (s *sides) Write(b []byte) (int, error)      { return s.out.Write(b) }
func (s *sides) Close() error                     { return nil }
func (s *sides) SetDeadline(time.Time) error      { return nil }
func (s *sides) SetReadDeadline(time.Time) error  { return nil }
func (s *sides) SetWriteDeadline(time.Time) error { return nil }

// Whatever a client sends, the server's answer is one that a client understands, and it
// does nothing that was not properly asked for.
func FuzzRequest(f *testing.F) {
	f.Add([]byte("TS\x01\x01\x00\x00\x00\x00"), true)
	f.Add([]byte("TS\x01\x02\x00\x00\x00\x01\x01"), false)
	f.Add([]byte("TS\x01\x02\x00\x00\x00\x01\x01"), true)
	f.Add([]byte("TS\x01\x03\x00\x00\x00\x00"), false)
	f.Add([]byte("TS\x01\x02\xff\xff\xff\xff"), false)
	f.Fuzz(func(t *testing.T, in []byte, readOnly bool) {
		did := ""
		d := &fakeDaemon{
			status: healthy(),
			sync: func(_ context.Context, force bool, say func(string, bool)) int {
				did = fmt.Sprint("sync ", force)
				say("line", force)
				return 3
			},
			flush: func(context.Context) error { did = "flush"; return nil },
		}
		s := &server{ctx: context.Background(), b: d, t: patient, conns: make(map[net.Conn]struct{})}
		c := &sides{in: bytes.NewReader(in)}
		s.serve(&client{Conn: c}, readOnly)
		s.wg.Wait()
		want := ""
		switch {
		case readOnly:
		case bytes.HasPrefix(in, []byte("TS\x01\x02\x00\x00\x00\x01\x00")):
			want = "sync false"
		case bytes.HasPrefix(in, []byte("TS\x01\x02\x00\x00\x00\x01\x01")):
			want = "sync true"
		case bytes.HasPrefix(in, []byte("TS\x01\x03\x00\x00\x00\x00")):
			want = "flush"
		}
		if did != want {
			t.Errorf("%q did %q, want %q", in, did, want)
		}
		r := frame.NewReader(&c.out, answers)
		for {
			kind, payload, err := r.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatalf("answer to %q: %v", in, err)
			}
			if kind == sayStatus {
				if _, err := decodeStatus(payload); err != nil {
					t.Error(err)
				}
			}
		}
	})
}

// Whatever a peer answers, the client comes to an end, and prints nothing that a terminal
// would act on.
func FuzzAnswer(f *testing.F) {
	f.Add(frame.Append(nil, sayStatus, []byte(`{"format":1}`)), byte(0))
	f.Add(frame.Append(frame.Append(nil, sayLine, []byte("\x01a\x1bb")), sayDone, []byte{1}), byte(1))
	f.Add(frame.Append(nil, sayDone, []byte("\x01went wrong")), byte(2))
	f.Add(frame.Append(nil, sayError, []byte("no\n")), byte(0))
	f.Fuzz(func(t *testing.T, in []byte, what byte) {
		clean := func(s string) {
			if printable(s) != s || len(s) > 4*maxText {
				t.Errorf("not for a terminal: %q", s)
			}
		}
		c := &Client{conn: &sides{in: bytes.NewReader(in)}, path: "/s"}
		var err error
		switch what % 3 {
		case 0:
			var s *Status
			if s, err = c.Status(context.Background()); (s == nil) != (err != nil) {
				t.Fatalf("%v, %v", s, err)
			}
		case 1:
			_, err = c.Sync(context.Background(), false, func(line string, _ bool) { clean(line) })
		case 2:
			err = c.Flush(context.Background())
		}
		if err != nil && !strings.Contains(err.Error(), "json") && !strings.HasPrefix(err.Error(), "unix socket /s: status: ") {
			clean(err.Error())
		}
	})
}

// Whatever a status has in it, it can be shown: as 80 columns, as metrics and as JSON that
// is read to the same.
func FuzzStatus(f *testing.F) {
	for _, x := range states {
		b, err := json.Marshal(cut(*x.status()))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		s, err := decodeStatus(in)
		if err != nil {
			return
		}
		for _, n := range NeedsOwner(s) {
			if n == "" {
				t.Error("an empty need")
			}
		}
		for _, verbose := range []bool{false, true} {
			fitsConsole(t, text(t, s, verbose))
		}
		var b bytes.Buffer
		if err := s.WriteMetrics(&b); err != nil {
			t.Fatal(err)
		}
		parseMetrics(t, b.String())
		b.Reset()
		if err := s.WriteJSON(&b); err != nil {
			return // a time that JSON cannot have
		}
		if _, err := decodeStatus(b.Bytes()); err != nil {
			t.Errorf("%v of\n%s", err, b.Bytes())
		}
	})
}
