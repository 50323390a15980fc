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
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// tempDir is a directory with a path short enough for sockets in it.
func tempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ts")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// running is a server with its sockets.
type running struct {
	sync                          func(ctx context.Context, force bool, say func(string, bool)) int
	status                        *Status
	asked, synced                 atomic.Int64 // how often status was, and how many syncs have ended
	full, readOnly, metrics, page string
	stop                          context.CancelFunc
	stopped                       chan struct{}
}

// patient are limits for any slow machine.
var patient = limits{time.Minute, time.Minute, time.Minute}

func (r *running) service() Service {
	return Service{
		Status: func() Status { r.asked.Add(1); return *r.status },
		Sync: func(ctx context.Context, force bool, say func(string, bool)) int {
			defer r.synced.Add(1)
			return r.sync(ctx, force, say)
		},
		Location: time.UTC,
	}
}

func listenAt(t testing.TB, path string) net.Listener {
	t.Helper()
	l, err := Listen(path, "")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func start(t testing.TB, times limits) *running {
	t.Helper()
	dir := tempDir(t)
	r := &running{
		status: healthy(),
		sync:   func(context.Context, bool, func(string, bool)) int { return 0 },
		full:   filepath.Join(dir, "full"), readOnly: filepath.Join(dir, "ro"),
		stopped: make(chan struct{}),
	}
	metrics, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	page, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.metrics, r.page = metrics.Addr().String(), page.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	l := Listeners{Full: listenAt(t, r.full), ReadOnly: listenAt(t, r.readOnly), Metrics: metrics, Page: page}
	go func() {
		serve(ctx, l, r.service(), times)
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

// connectTo connects to a socket, or to an address with a port.
func connectTo(t testing.TB, addr string) net.Conn {
	t.Helper()
	network := "tcp"
	if strings.HasPrefix(addr, "/") {
		network = "unix"
	}
	c, err := net.Dial(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// exchange sends bytes and returns all that comes until the server closes the connection.
func exchange(t testing.TB, addr, send string) string {
	t.Helper()
	c := connectTo(t, addr)
	go io.WriteString(c, send) // it need not be read to its end
	b, _ := io.ReadAll(c)      // an error is an end, too
	return string(b)
}

func request(method, path string) string {
	return method + " " + path + " HTTP/1.1\r\nHost: x\r\n\r\n"
}

// Which request is served where, as curl would see it.
func TestRequests(t *testing.T) {
	r := start(t, patient)
	const status, text, metrics, done = `"needs_owner": [],`, "Enforced: 26424 entries in", "threatstopd_enforced 1\n", `{"exit":0}`
	for _, tt := range []struct {
		method, path            string
		full, readOnly, metrics string // "200 " and what is in the body
	}{
		{"GET", "/status", "200 " + status, "200 " + status, "404 "},
		{"GET", "/status.txt", "200 " + text, "200 " + text, "404 "},
		{"GET", "/status.txt?v", "200 " + "Configuration /usr/local", "200 ", "404 "},
		{"GET", "/metrics", "200 " + metrics, "200 " + metrics, "200 " + metrics},
		{"HEAD", "/metrics", "200 ", "200 ", "200 "},
		{"HEAD", "/status", "200 ", "200 ", "404 "},
		{"POST", "/sync", "200 " + done, "404 ", "404 "},
		{"GET", "/sync", "404 ", "404 ", "404 "},
		{"POST", "/status", "405 ", "405 ", "404 "},
		{"POST", "/metrics", "405 ", "405 ", "405 "},
		{"DELETE", "/metrics", "405 ", "405 ", "405 "},
		{"OPTIONS", "*", "400 ", "400 ", "400 "},
		{"GET", "/debug/pprof/", "404 ", "404 ", "404 "},
		{"CONNECT", "192.0.2.1:22", "404 ", "405 ", "404 "},
	} {
		for addr, want := range map[string]string{r.full: tt.full, r.readOnly: tt.readOnly, r.metrics: tt.metrics} {
			got := exchange(t, addr, request(tt.method, tt.path))
			code, body := want[:4], want[4:]
			if !strings.HasPrefix(got, "HTTP/1.1 "+code) || !strings.Contains(got, body) || !strings.Contains(got, "Connection: close\r\n") {
				t.Errorf("%s %s at %s: %.200q, want %q", tt.method, tt.path, addr, got, want)
			}
			if code == "200 " && !strings.Contains(got, "Cache-Control: no-store\r\n") {
				t.Errorf("%s %s: may be stored: %.300q", tt.method, tt.path, got)
			}
			if tt.method == "HEAD" && !strings.HasSuffix(got, "\r\n\r\n") {
				t.Errorf("%s %s: with a body: %q", tt.method, tt.path, got)
			}
		}
	}
	if n := r.synced.Load(); n != 1 {
		t.Errorf("%d syncs", n)
	}
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
	// On the socket for monitoring a sync is not a request.
	_, err = dial(t, r.readOnly).Sync(context.Background(), true, nil)
	if want := "unix socket " + r.readOnly + ": 404 Not Found: 404 page not found"; err == nil || err.Error() != want || r.synced.Load() > 0 {
		t.Errorf("sync: %v, want %s", err, want)
	}
}

func TestSyncRequest(t *testing.T) {
	r := start(t, patient)
	var forced []bool
	long := strings.Repeat("x", 5000)
	r.sync = func(_ context.Context, force bool, say func(string, bool)) int {
		forced = append(forced, force)
		say("Processing block list basic", false)
		say("timeout\x1b[2J\u202e\n", true)
		say(long, false)
		say("", false)
		return 7
	}
	for _, force := range []bool{false, true} {
		var said []string
		exit, err := dial(t, r.full).Sync(context.Background(), force, func(line string, warn bool) { said = append(said, fmt.Sprint(warn, " ", line)) })
		if err != nil || exit != 7 {
			t.Fatalf("exit %d, %v", exit, err)
		}
		want := []string{"false Processing block list basic", `true timeout\x1b[2J\u202e\x0a`, "false " + long, "false "}
		if diff := cmp.Diff(want, said); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	if !cmp.Equal(forced, []bool{false, true}) {
		t.Errorf("forced %v", forced)
	}
}

// One sync at a time; the next client is refused and does not wait.
func TestOneSyncAtATime(t *testing.T) {
	r := start(t, patient)
	begun, end := make(chan struct{}), make(chan struct{})
	r.sync = func(context.Context, bool, func(string, bool)) int { close(begun); <-end; return 0 }
	first := make(chan error)
	go func() {
		_, err := dial(t, r.full).Sync(context.Background(), false, nil)
		first <- err
	}()
	<-begun
	_, err := dial(t, r.full).Sync(context.Background(), false, nil)
	if want := "unix socket " + r.full + ": 409 Conflict: a sync is under way already: try again when it has ended"; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	if _, err := dial(t, r.full).Status(context.Background()); err != nil {
		t.Error(err)
	}
	close(end)
	if err := <-first; err != nil {
		t.Error(err)
	}
}

// A sync continues to its end when its client goes away.
func TestSyncContinuesWithoutItsClient(t *testing.T) {
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

// A client that asks for a sync and then does not read delays it by one line at most.
func TestSyncIsNotHeldUp(t *testing.T) {
	r := start(t, limits{time.Minute, time.Minute, 20 * time.Millisecond})
	r.sync = func(_ context.Context, _ bool, say func(string, bool)) int {
		for range 10000 { // 20 MB, and a socket holds less; 200 s, if each waited
			say(strings.Repeat("x", 2000), false)
		}
		return 0
	}
	io.WriteString(connectTo(t, r.full), request("POST", "/sync"))
	for r.synced.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
}

// The end comes soon and leaves nothing behind, and the client of a sync sees how it ended.
func TestStop(t *testing.T) {
	r := start(t, patient)
	for _, addr := range []string{r.full, r.readOnly, r.metrics} {
		connectTo(t, addr)
	}
	begun := make(chan struct{})
	r.sync = func(ctx context.Context, _ bool, _ func(string, bool)) int { close(begun); <-ctx.Done(); return 1 }
	c := connectTo(t, r.full)
	io.WriteString(c, request("POST", "/sync"))
	<-begun
	r.stop()
	<-r.stopped
	if b, _ := io.ReadAll(c); !strings.Contains(string(b), `{"exit":1}`) {
		t.Errorf("the answer to the sync is %q", b)
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
	broken := &brokenListener{Listener: listenAt(t, path)}
	broken.fails.Store(4)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	r := &running{status: healthy()}
	go func() {
		Serve(ctx, Listeners{Full: broken}, r.service())
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

// Clients that send nothing, or half a request, keep nobody out: the oldest of them makes room,
// and their number is bounded.
func TestSilentClients(t *testing.T) {
	r := start(t, patient)
	for _, addr := range []string{r.full, r.readOnly, r.metrics} {
		var conns []net.Conn
		for i := range 3 * maxClients {
			c := connectTo(t, addr)
			if i%2 == 1 {
				io.WriteString(c, "GET /metr")
			}
			conns = append(conns, c)
		}
		if got := exchange(t, addr, request("GET", "/metrics")); !strings.HasPrefix(got, "HTTP/1.1 200 ") {
			t.Errorf("%s: among silent clients: %.100q", addr, got)
		}
		open := 0
		for _, c := range conns {
			c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
			if _, err := c.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
				open++
			}
		}
		if open > maxClients {
			t.Errorf("%s: %d connections are open", addr, open)
		}
	}
}

// Clients with a request are not evicted: when they take every place, the next one is refused.
func TestAskingClientsKeepTheirPlaces(t *testing.T) {
	r := start(t, patient)
	begun, end := make(chan struct{}), make(chan struct{})
	r.sync = func(context.Context, bool, func(string, bool)) int { close(begun); <-end; return 0 }
	syncing := connectTo(t, r.full)
	io.WriteString(syncing, request("POST", "/sync"))
	<-begun
	for range 3 * maxClients {
		connectTo(t, r.full)
	}
	if _, err := dial(t, r.full).Status(context.Background()); err != nil {
		t.Errorf("beside silent clients: %v", err)
	}
	close(end)
	if b, _ := io.ReadAll(syncing); !strings.Contains(string(b), `{"exit":0}`) {
		t.Errorf("the answer to the sync is %q", b)
	}

	full := new(room)
	for range maxClients {
		ours, theirs := net.Pipe()
		t.Cleanup(func() { ours.Close() })
		c := &conn{Conn: theirs}
		full.state(c, http.StateNew)
		full.state(c, http.StateActive)
	}
	ours, theirs := net.Pipe()
	go full.state(&conn{Conn: theirs}, http.StateNew)
	if b, err := io.ReadAll(ours); err != nil || string(b) != busy {
		t.Errorf("the client too many gets %q, %v", b, err)
	}
	full.state(full.conns[3], http.StateClosed)
	full.state(&conn{Conn: theirs}, http.StateNew)
	if len(full.conns) != maxClients {
		t.Error("the place of one that left is not given again")
	}
}

// Each hostile client gets one answer or is cut off, and others are served as before.
func TestHostileClients(t *testing.T) {
	r := start(t, limits{time.Second, time.Minute, time.Minute})
	const get = "GET /metrics HTTP/1.1\r\nHost: x\r\n"
	for _, tt := range []struct {
		name, send string
		want       string // what the answer begins with
	}{
		{"OK", get + "\r\n", "HTTP/1.1 200 OK\r\n"},
		{"OK pipelined, one answer", strings.Repeat(get+"\r\n", 1000), "HTTP/1.1 200 OK\r\n"},
		{"OK body announced and never sent", get + "Content-Length: 1099511627776\r\n\r\n", "HTTP/1.1 200 OK\r\n"},
		{"OK chunks without end", get + "Transfer-Encoding: chunked\r\n\r\n" + strings.Repeat("4\r\nspam\r\n", 100_000), "HTTP/1.1 200 OK\r\n"},
		{"OK an upgrade", get + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n", "HTTP/1.1 200 OK\r\n"},
		{"bad nothing", "", ""},
		{"bad half a request line", "GET /met", ""},
		{"bad headers without an end", get + "X: y\r\n", ""},
		{"bad one huge header", get + "X: " + strings.Repeat("x", 1<<20) + "\r\n\r\n", "HTTP/1.1 431 "},
		{"bad a hundred thousand headers", get + strings.Repeat("A: b\r\n", 100_000) + "\r\n", "HTTP/1.1 431 "},
		{"bad a huge path", "GET /" + strings.Repeat("x", 1<<20) + " HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 431 "},
		{"bad two lengths", get + "Content-Length: 1\r\nContent-Length: 2\r\n\r\nx", "HTTP/1.1 400 "},
		{"bad HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/1.1 "},
		{"bad TLS", "\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03", ""},
		{"bad nonsense", "nonsense\r\n\r\n", "HTTP/1.1 400 "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for _, addr := range []string{r.metrics, r.full} {
				got := exchange(t, addr, tt.send)
				if !strings.HasPrefix(got, tt.want) || tt.want != "" && strings.Count(got, "HTTP/1.1 ") != 1 {
					t.Errorf("answer %.60q, want one %q", got, tt.want)
				}
				if strings.Contains(got, "threatstopd_") && !strings.HasPrefix(got, "HTTP/1.1 200 ") {
					t.Errorf("metrics in %.60q", got)
				}
				if got := exchange(t, addr, get+"\r\n"); !strings.HasPrefix(got, "HTTP/1.1 200 ") {
					t.Errorf("afterwards: %.60q", got)
				}
			}
		})
	}
}

// A client that does not read its status, or sends its request a byte at a time, is cut off in
// time, and takes the place of another no longer than that.
func TestSlowClients(t *testing.T) {
	r := start(t, limits{200 * time.Millisecond, 200 * time.Millisecond, time.Minute})
	r.status.Lists = make([]List, 500)
	for i := range r.status.Lists {
		r.status.Lists[i].Error = strings.Repeat("x", 2000)
	}
	for range maxClients + maxClients/2 { // and no more: both ends are this process's files
		io.WriteString(connectTo(t, r.full), request("GET", "/status"))
	}
	trickling := connectTo(t, r.full)
	ended := make(chan struct{})
	go func() {
		io.Copy(io.Discard, trickling)
		close(ended)
	}()
	for i := range 1000 {
		trickling.Write([]byte("POST /sync HTTP/1.1\r\nHost: x\r\nX: y")[min(i, 33) : min(i, 33)+1])
		select {
		case <-ended:
		case <-time.After(20 * time.Millisecond):
			continue
		}
		break
	}
	<-ended
	for { // until a place is free
		if s, err := dial(t, r.full).Status(context.Background()); err == nil {
			if len(s.Lists) != 500 {
				t.Errorf("%d lists", len(s.Lists))
			}
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if r.synced.Load() != 0 {
		t.Error("a sync that was not asked for")
	}
}

// A client of the first version, which spoke another protocol, is answered at once and so that
// it prints that threatstopd has to be restarted: that is what it does for another version.
func TestClientOfTheFirstVersion(t *testing.T) {
	r := start(t, patient)
	for name, send := range map[string]string{"status": "TS\x01\x01\x00\x00\x00\x00", "sync": "TS\x01\x02\x00\x00\x00\x01\x01"} {
		if got := exchange(t, r.full, send); got != "TS\x02\x13\x00\x00\x00\x00" {
			t.Errorf("%s is answered with %q", name, got)
		}
	}
}

// What a client makes of the answer of a peer that is not a daemon of this version.
func TestStrangePeers(t *testing.T) {
	ok := func(body string) string { return "HTTP/1.1 200 OK\r\n\r\n" + body }
	const cutOff = "the daemon closed the connection before the end of its answer"
	for _, tt := range []struct {
		name, answer string
		status, sync string // errors behind the path; "" for none
	}{
		{"OK the least status", ok(`{"format":1}`), "", cutOff},
		{"OK keys of a newer daemon", ok(`{"format":1,"new":{}}`), "", cutOff},
		{"OK the least sync", ok(`{"exit":3}` + "\n"), "status of format 0, this program knows 1: " + restart, ""},
		{"bad nothing", "", cutOff, cutOff},
		{"bad half a header", "HTTP/1.1 200 OK\r\nContent-", "not an answer of threatstopd: " + restart, ""},
		{"bad half a status", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", cutOff, cutOff},
		{"bad a sync without its exit status", ok(`{"text":"policy enforced"}` + "\n"), "status of format 0", cutOff},
		{"bad half an exit status", ok(`{"exit":0}`), "status of format 0", cutOff},
		{"bad an exit status", ok(`{"exit":256}` + "\n"), "status of format 0", "sync: exit status 256"},
		{"bad a long line", ok(`{"text":"` + strings.Repeat("x", maxEvent) + `"}` + "\n"), "status of format 0", "sync: a line of more than 65536 bytes"},
		{"bad a huge status", ok(`{"format":1,"version":"` + strings.Repeat("x", maxStatus) + `"}`), "status: more than 16777216 bytes", ""},
		{"bad the first version", "TS\x01\x13\x00\x00\x00\x01x", "the daemon is older than this program: " + restart, "the daemon is older than this program: " + restart},
		{"bad another format", ok(`{"format":2}`), "status of format 2, this program knows 1: " + restart, cutOff},
		{"bad not JSON", ok("{\n"), "status: unexpected end of JSON input", "sync: unexpected end of JSON input"},
		{"bad other types", ok(`{"format":"1"}`), "status: json: cannot unmarshal string into Go struct field Status.format of type int", ""},
		{"bad a refusal", "HTTP/1.1 503 Full\x1b\r\n\r\ntry \x1b[2Jagain\n", "503 Full\\x1b: try \\x1b[2Jagain", "503 Full\\x1b: try \\x1b[2Jagain"},
		{"bad not HTTP", "220 mail.example.net\r\n", "not an answer of threatstopd: " + restart, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(tempDir(t), "s")
			l := listenAt(t, path)
			defer l.Close()
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					c.Read(make([]byte, 1024))
					io.WriteString(c, tt.answer)
					c.Close()
				}
			}()
			check := func(what string, err error, want string) {
				t.Helper()
				if want == "" && err == nil {
					return
				}
				if want = "unix socket " + path + ": " + want; err == nil || !strings.HasPrefix(err.Error(), want) {
					t.Errorf("%s: %v, want %s", what, err, want)
				}
			}
			_, err := dial(t, path).Status(context.Background())
			check("status", err, tt.status)
			if tt.sync != "" || strings.Contains(tt.answer, "exit") {
				_, err = dial(t, path).Sync(context.Background(), false, func(string, bool) {})
				check("sync", err, tt.sync)
			}
		})
	}
}

// A daemon that hangs delays nobody for ever.
func TestPeerHangs(t *testing.T) {
	path := filepath.Join(tempDir(t), "s")
	l := listenAt(t, path)
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

// When main does not report, nothing is known of what pf enforces; the rest is what it last
// reported.
func TestBoard(t *testing.T) {
	b := NewBoard()
	if s := b.at(time.Now()); s.Enforced || s.NotKnown != "main has not reported yet" {
		t.Errorf("%+v", s)
	}
	go b.Put(&Status{Version: "v", Enforced: true, Now: at})
	if s := b.Status(); !s.Enforced {
		t.Errorf("the first status is not waited for: %+v", s)
	}
	for _, tt := range []struct {
		after time.Duration
		want  string
	}{{0, ""}, {OldAfter, ""}, {OldAfter + time.Second, "main has not reported for 121 s"}, {time.Hour, "main has not reported for 3600 s"}} {
		s := b.at(b.came.Add(tt.after))
		if s.NotKnown != tt.want || s.Enforced != (tt.want == "") || s.Version != "v" || s.Reported != at {
			t.Errorf("after %v: %+v", tt.after, s)
		}
		want := 0
		if tt.want != "" {
			want = 1
		}
		if n := NeedsOwner(&s); len(n) != want || want > 0 && n[0] != "not known: "+tt.want {
			t.Errorf("after %v: %q", tt.after, n)
		}
	}
	b.Put(&Status{NotEnforced: "pf is disabled"})
	if s := b.Status(); s.NotKnown != "" || s.NotEnforced == "" {
		t.Errorf("%+v", s)
	}
}

// A status that would be too long to send names fewer entries, and still counts all.
func TestEncode(t *testing.T) {
	s := healthy()
	for range 100_000 {
		s.Tables[0].Dropped = append(s.Tables[0].Dropped, Dropped{"10.0.0.0/8", "basic.threatstop.local", "wider than MIN_PREFIX_V4 allows (8)"})
	}
	s.Tables[0].DroppedCount = 100_000
	b, err := Encode(*s)
	if err != nil || len(b) > MaxEncoded {
		t.Fatalf("%d bytes, %v", len(b), err)
	}
	got, err := Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	if x := &got.Tables[0]; len(x.Dropped) != 1000 || x.DroppedCount != 100_000 || len(x.Excepted) != 1 || len(s.Tables[0].Dropped) != 100_000 {
		t.Errorf("%d of %d named, %d of the original", len(x.Dropped), x.DroppedCount, len(s.Tables[0].Dropped))
	}
	s.Troubles = []Trouble{{Text: strings.Repeat("x", MaxEncoded)}}
	if _, err := Encode(*s); err == nil {
		t.Error("a status without bounds is encoded")
	}
}

// sides is a connection in memory: reads come from in, writes go to out.
type sides struct {
	net.Conn
	in     io.Reader
	out    bytes.Buffer
	once   sync.Once
	closed chan struct{} // closed with the connection, nil for nobody to wait for that
}

func (s *sides) Read(b []byte) (int, error)       { return s.in.Read(b) }
func (s *sides) Write(b []byte) (int, error)      { return s.out.Write(b) }
func (s *sides) SetDeadline(time.Time) error      { return nil }
func (s *sides) SetReadDeadline(time.Time) error  { return nil }
func (s *sides) SetWriteDeadline(time.Time) error { return nil }
func (s *sides) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (s *sides) LocalAddr() net.Addr              { return &net.TCPAddr{} }

func (s *sides) Close() error {
	if s.closed != nil {
		s.once.Do(func() { close(s.closed) })
	}
	return nil
}

// FuzzAnswer: for any answer of a peer the client comes to an end and prints nothing that a
// terminal would act on.
func FuzzAnswer(f *testing.F) {
	const ok = "HTTP/1.1 200 OK\r\n\r\n"
	f.Add([]byte(ok+`{"format":1}`), false)
	f.Add([]byte(ok+`{"text":"a\u001bb","warn":true}`+"\n"+`{"exit":1}`+"\n"), true)
	f.Add([]byte("HTTP/1.1 409 Conflict\x1b\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nno\n\r\n0\r\n\r\n"), true)
	f.Add([]byte("TS\x01\x13\x00\x00\x00\x00"), false)
	f.Fuzz(func(t *testing.T, in []byte, asksSync bool) {
		clean := func(s string) {
			if printable(s) != s {
				t.Errorf("not for a terminal: %q", s)
			}
		}
		c := &Client{conn: &sides{in: bytes.NewReader(in)}, path: "/s"}
		var err error
		if asksSync {
			var exit int
			exit, err = c.Sync(context.Background(), false, func(line string, _ bool) { clean(line) })
			if err == nil && !bytes.Contains(in, []byte("xit")) || exit < 0 || exit > 255 {
				t.Errorf("exit %d of nothing", exit)
			}
		} else {
			var s *Status
			if s, err = c.Status(context.Background()); err == nil && s.Format != Format {
				t.Fatalf("%v, %v", s, err)
			}
		}
		if err != nil {
			clean(err.Error())
		}
	})
}

// FuzzRequest: for any bytes from a client there is at most one answer, metrics come only for
// GET, and nothing is done but what was asked for.
func FuzzRequest(f *testing.F) {
	for _, s := range []string{
		request("GET", "/metrics"), request("HEAD", "/metrics"), request("GET", "//metrics"), request("GET", "http://x/metrics"), request("POST", "/sync?force=1"),
		"GET /metrics HTTP/1.0\r\n\r\n", "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabcGET /metrics HTTP/1.1\r\n\r\n",
		"GET /%6detrics HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"GET /metrics HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "\x16\x03\x01\x00\x01\x01", "TS\x01\x01\x00\x00\x00\x00",
	} {
		f.Add([]byte(s), true)
		f.Add([]byte(s), false)
	}
	r := &running{status: healthy()}
	r.sync = func(context.Context, bool, func(string, bool)) int { return 0 }
	ctx, cancel := context.WithCancel(context.Background())
	full, metrics := newMemListener(), newMemListener()
	stopped := make(chan struct{})
	go func() {
		serve(ctx, Listeners{Full: full, Metrics: metrics}, r.service(), limits{10 * time.Second, 10 * time.Second, time.Second})
		close(stopped)
	}()
	f.Cleanup(func() {
		cancel()
		<-stopped
	})
	f.Fuzz(func(t *testing.T, in []byte, tcp bool) {
		if len(in) > 32<<10 {
			return
		}
		l := full
		if tcp {
			l = metrics
		}
		synced := r.synced.Load()
		c := &sides{in: bytes.NewReader(in), closed: make(chan struct{})}
		l.conns <- c
		<-c.closed
		out := c.out.String()
		if answer, _ := strings.CutPrefix(out, "HTTP/1.1 100 Continue\r\n\r\n"); answer != "" && answer != newVersion {
			if n := strings.Count(answer, "HTTP/1.1 ") + strings.Count(answer, "HTTP/1.0 "); n != 1 {
				t.Fatalf("%d answers to %q: %q", n, in, answer)
			}
			ok := strings.HasPrefix(answer, "HTTP/1.1 200 ") || strings.HasPrefix(answer, "HTTP/1.0 200 ")
			if strings.Contains(answer, "threatstopd_enforced") && (!ok || !bytes.HasPrefix(bytes.TrimLeft(in, "\r\n"), []byte("GET "))) {
				t.Fatalf("metrics for %q", in)
			}
		}
		if n := r.synced.Load() - synced; n > 0 && (tcp || !bytes.HasPrefix(bytes.TrimLeft(in, "\r\n"), []byte("POST "))) {
			t.Fatalf("a sync for %q", in)
		}
	})
}

// memListener hands out connections in memory.
type memListener struct {
	conns chan net.Conn
	done  context.Context
	close context.CancelFunc
}

func newMemListener() *memListener {
	l := &memListener{conns: make(chan net.Conn)}
	l.done, l.close = context.WithCancel(context.Background())
	return l
}

func (l *memListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done.Done():
		return nil, net.ErrClosed
	}
}
func (l *memListener) Close() error   { l.close(); return nil }
func (l *memListener) Addr() net.Addr { return &net.TCPAddr{} }

// FuzzStatus: any status can be shown, as 80 columns, as metrics, and as JSON that is read back.
func FuzzStatus(f *testing.F) {
	for _, x := range states {
		b, err := json.Marshal(x.status())
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		s, err := Decode(in)
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
		if _, err := Decode(b.Bytes()); err != nil {
			t.Errorf("%v of\n%s", err, b.Bytes())
		}
	})
}
