package status

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"example.org/threatstopd/agent/internal/frame"
)

// counted counts the connections that a listener has accepted and that are open.
type counted struct {
	net.Listener
	open, most atomic.Int64
}

func (l *counted) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	n := l.open.Add(1)
	for {
		most := l.most.Load()
		if n <= most || l.most.CompareAndSwap(most, n) {
			break
		}
	}
	return &countedConn{Conn: c, close: sync.OnceFunc(func() { l.open.Add(-1) })}, nil
}

type countedConn struct {
	net.Conn
	close func()
}

func (c *countedConn) Close() error {
	defer c.close()
	return c.Conn.Close()
}

// crowd is how many of the wanted connections this process may have open at a time, at
// their clients' end.
func crowd(t testing.TB, wanted int) int {
	t.Helper()
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		t.Fatal(err)
	}
	if most := int64(l.Cur) - 6*maxClients - 64; most < int64(wanted) {
		wanted = max(int(most), 2*maxClients)
	}
	return wanted
}

func memory() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}

// silentCrowd opens so many connections that say nothing, as many of them at once as
// this process may have files.
func silentCrowd(t *testing.T, network, addr string, clients int) {
	t.Helper()
	window := make([]net.Conn, 0, crowd(t, clients))
	t.Cleanup(func() {
		for _, c := range window {
			c.Close()
		}
	})
	for i := range clients {
		for {
			c, err := net.Dial(network, addr)
			if err != nil {
				// The queue of a listener is short on some systems.
				time.Sleep(time.Millisecond)
				continue
			}
			if len(window) == cap(window) {
				window[i%cap(window)].Close()
				window[i%cap(window)] = c
			} else {
				window = append(window, c)
			}
			break
		}
	}
}

func crowdSize() int {
	if testing.Short() {
		return 500
	}
	return 10_000
}

// Ten thousand clients that connect and say nothing: the owner's own has its answer at
// once, the files that the daemon has open are bounded, and so is its memory.
func TestTenThousandSilentClients(t *testing.T) {
	path := tempDir(t) + "/s"
	inner, err := Listen(path, "")
	if err != nil {
		t.Fatal(err)
	}
	l := &counted{Listener: inner}
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan struct{})
	go func() {
		serve(ctx, Listeners{Full: l}, &fakeDaemon{status: healthy()}, patient)
		close(stopped)
	}()
	defer func() {
		cancel()
		<-stopped
	}()
	first, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	goroutines, before := runtime.NumGoroutine(), memory()
	silentCrowd(t, "unix", path, crowdSize())

	if _, err := dial(t, path).Status(context.Background()); err != nil {
		t.Errorf("the owner: %v", err)
	}
	// The first to come is told why it was dropped, long before its time was over.
	if b, _ := io.ReadAll(first); string(b) != string(frame.Append(nil, sayError, []byte(busy))) {
		t.Errorf("the first client is told %q", b)
	}
	if most := l.most.Load(); most > 2*maxClients+1 {
		t.Errorf("%d connections were open", most)
	}
	if n := runtime.NumGoroutine() - goroutines; n > 2*maxClients+10 {
		t.Errorf("%d goroutines more", n)
	}
	// The clients' ends are this process's, too: half a kilobyte each.
	if grown := int64(memory()) - int64(before); grown > 16<<20 {
		t.Errorf("%d KiB more memory", grown>>10)
	}
}

// Those who ask for something are not put out for others: when all have, the next one is
// refused.
func TestAskingClientsKeepTheirPlaces(t *testing.T) {
	r := start(t, patient)
	release := make(chan struct{})
	var waiting atomic.Int64
	r.status.Lists = nil
	r.flush = func(context.Context) error { waiting.Add(1); <-release; return nil }
	var flushing, others []net.Conn
	open := func() net.Conn {
		c, err := net.Dial("unix", r.full)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	c := open()
	frame.Write(c, askFlush, nil)
	flushing = append(flushing, c)
	for waiting.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	for range 3 * maxClients {
		others = append(others, open())
	}
	if _, err := dial(t, r.full).Status(context.Background()); err != nil {
		t.Errorf("beside them: %v", err)
	}
	close(release)
	for _, c := range flushing {
		if b, _ := io.ReadAll(c); string(b) != string(frame.Append(nil, sayDone, []byte{0})) {
			t.Errorf("who waited for the flush is told %q", b)
		}
	}
	// Half a request is none.
	for _, c := range others[2*maxClients:] {
		io.WriteString(c, "TS\x01")
	}
	if _, err := dial(t, r.full).Status(context.Background()); err != nil {
		t.Errorf("beside halves of requests: %v", err)
	}

	// A room that is full of those who ask has no place for anybody.
	var full room
	for range maxClients {
		x := &client{Conn: &sides{}}
		if !full.enter(x) || !x.ask() {
			t.Fatal("no place")
		}
	}
	if full.enter(&client{Conn: &sides{}}) {
		t.Error("a place too many")
	}
	full.leave(full.clients[3])
	if !full.enter(&client{Conn: &sides{}}) {
		t.Error("the place of one that left is not given again")
	}
}

// A client that sends its request a byte at a time keeps its place until its time is
// over and no longer, however often it sends one; one that never reads its status
// neither; and neither holds up others.
func TestTricklingClients(t *testing.T) {
	r := start(t, deadlines{200 * time.Millisecond, 200 * time.Millisecond, time.Minute})
	began := time.Now()
	c, err := net.Dial("unix", r.full)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ended := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, c)
		ended <- err
	}()
	request := "TS\x01\x02\x00\x00\x00\x01"
	for i := 0; ; i++ {
		// The last byte, which would make it a sync, is never sent.
		if i < len(request) {
			io.WriteString(c, request[i:i+1])
		}
		select {
		case <-ended:
		case <-time.After(20 * time.Millisecond):
			if time.Since(began) > time.Minute {
				t.Fatal("still served")
			}
			continue
		}
		break
	}
	if r.synced.Load() != 0 {
		t.Error("a sync that was not asked for")
	}
}

// What clients of the metrics do who mean no good: each gets an answer or is cut off,
// nothing else is served than the metrics, and others are served as before.
func TestMetricsHostileClients(t *testing.T) {
	r := start(t, deadlines{time.Second, time.Minute, time.Minute})
	for _, tt := range []struct {
		name, send string
		want       string // what the answer begins with
		answers    int
	}{
		{"OK", "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 OK\r\n", 1},
		{"nothing", "", "", 0},
		{"half a request line", "GET /met", "", 0},
		{"headers without an end", "GET /metrics HTTP/1.1\r\nHost: x\r\nX: y\r\n", "", 0},
		{"one huge header", "GET /metrics HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 1<<20) + "\r\n\r\n", "HTTP/1.1 431 ", 1},
		{"a hundred thousand headers", "GET /metrics HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("A: b\r\n", 100_000) + "\r\n", "HTTP/1.1 431 ", 1},
		{"a huge path", "GET /" + strings.Repeat("x", 1<<20) + " HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 431 ", 1},
		{"pipelined", strings.Repeat("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", 1000), "HTTP/1.1 200 OK\r\n", 1},
		{"body announced and never sent", "GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1099511627776\r\n\r\n", "HTTP/1.1 200 OK\r\n", 1},
		{"chunks without end", "GET /metrics HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + strings.Repeat("4\r\nspam\r\n", 100_000), "HTTP/1.1 200 OK\r\n", 1},
		{"two lengths", "GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx", "HTTP/1.1 400 ", 1},
		{"HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/1.1 ", 1},
		{"CONNECT", "CONNECT 192.0.2.1:22 HTTP/1.1\r\nHost: 192.0.2.1:22\r\n\r\n", "HTTP/1.1 404 ", 1},
		{"an upgrade", "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n", "HTTP/1.1 200 OK\r\n", 1},
		{"TLS", "\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03", "", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := overTCP(t, r.metrics, tt.send)
			if !strings.HasPrefix(got, tt.want) {
				t.Errorf("answer %.60q, want %q", got, tt.want)
			}
			if n := strings.Count(got, "HTTP/1.1 "); n != tt.answers && tt.want != "" {
				t.Errorf("%d answers", n)
			}
			if strings.Contains(got, "threatstopd_") && !strings.HasPrefix(got, "HTTP/1.1 200 ") {
				t.Errorf("metrics in %.60q", got)
			}
			resp, err := http.Get("http://" + r.metrics + "/metrics")
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				t.Errorf("afterwards: %s", resp.Status)
			}
		})
	}
}

// Thousands of clients of the metrics who say nothing: those for whom there is no place
// are told so, and the control socket does not notice.
func TestThousandsOfSilentMetricsClients(t *testing.T) {
	dir := tempDir(t)
	full, err := Listen(dir+"/s", "")
	if err != nil {
		t.Fatal(err)
	}
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &counted{Listener: inner}
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan struct{})
	go func() {
		serve(ctx, Listeners{Full: full, Metrics: l}, &fakeDaemon{status: healthy()}, patient)
		close(stopped)
	}()
	defer func() {
		cancel()
		<-stopped
	}()
	before := memory()
	silentCrowd(t, "tcp", inner.Addr().String(), crowdSize()/4)
	if _, err := dial(t, dir+"/s").Status(context.Background()); err != nil {
		t.Errorf("the owner: %v", err)
	}
	c, err := net.Dial("tcp", inner.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if got := fmt.Sprint(resp.Status, resp.Header.Get("Retry-After")); got != "503 Service Unavailable1" {
		t.Errorf("who finds no place is told %q", got)
	}
	if most := l.most.Load(); most > maxClients+1 {
		t.Errorf("%d connections were open", most)
	}
	if grown := int64(memory()) - int64(before); grown > 16<<20 {
		t.Errorf("%d KiB more memory", grown>>10)
	}
}

// memListener hands out connections in memory.
type memListener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (l *memListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (l *memListener) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *memListener) Addr() net.Addr { return &net.TCPAddr{} }

// FuzzMetricsRequest: whatever a client of the metrics sends, it has one answer at most,
// and that is the metrics only for a GET of them; nothing is asked of the daemon but its
// status.
func FuzzMetricsRequest(f *testing.F) {
	for _, s := range []string{"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", "GET /metrics HTTP/1.0\r\n\r\n", "HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET //metrics HTTP/1.1\r\nHost: x\r\n\r\n", "GET http://x/metrics HTTP/1.1\r\nHost: x\r\n\r\n", "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabcGET /metrics HTTP/1.1\r\n\r\n",
		"GET /%6detrics HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /metrics HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "\x16\x03\x01\x00\x01\x01"} {
		f.Add([]byte(s))
	}
	l := &memListener{conns: make(chan net.Conn), done: make(chan struct{})}
	d := &fakeDaemon{status: healthy()} // it panics when it is asked for more
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan struct{})
	go func() {
		serve(ctx, Listeners{Metrics: l}, d, deadlines{10 * time.Second, 10 * time.Second, time.Second})
		close(stopped)
	}()
	f.Cleanup(func() {
		cancel()
		<-stopped
	})
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) > 32<<10 {
			return
		}
		ours, theirs := net.Pipe()
		l.conns <- theirs
		go func() {
			ours.Write(in)
			// What is half a request waits for the rest: there is none.
			ours.SetWriteDeadline(time.Unix(1, 0))
			if c, ok := theirs.(interface{ SetReadDeadline(time.Time) error }); ok {
				c.SetReadDeadline(time.Unix(1, 0))
			}
		}()
		out, _ := io.ReadAll(ours)
		ours.Close()
		answer := string(out)
		if answer == "" {
			return
		}
		answer, _ = strings.CutPrefix(answer, "HTTP/1.1 100 Continue\r\n\r\n")
		if n := strings.Count(answer, "HTTP/1.1 ") + strings.Count(answer, "HTTP/1.0 "); n != 1 {
			t.Fatalf("%d answers to %q: %q", n, in, answer)
		}
		ok := strings.HasPrefix(answer, "HTTP/1.1 200 ") || strings.HasPrefix(answer, "HTTP/1.0 200 ")
		if strings.Contains(answer, "threatstopd_enforced") && (!ok || !strings.HasPrefix(string(in), "GET ") && !strings.HasPrefix(string(in), "\r\n")) {
			t.Fatalf("metrics for %q", in)
		}
	})
}
