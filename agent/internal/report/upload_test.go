package report

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"example.org/threatstopd/agent/reporttest"
)

// quick are timeouts for tests in which something hangs on purpose.
var quick = timeouts{Dial: 20 * time.Second, TLS: 20 * time.Second, Response: 500 * time.Millisecond, Total: 60 * time.Second}

func startServer(t testing.TB, o reporttest.Options) *reporttest.Collector {
	t.Helper()
	c, err := reporttest.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func uploadOptions(t testing.TB, col *reporttest.Collector) Config {
	t.Helper()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := col.WriteCA(ca); err != nil {
		t.Fatal(err)
	}
	return Config{URL: col.URL(), DeviceID: "tdid_abcd1234", Version: "1.2", CAFile: ca}
}

func client(t testing.TB, o Config) *Uploader {
	t.Helper()
	c, err := NewUploader(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.http.CloseIdleConnections)
	return c
}

var (
	linesID = ID{1, 2, 3}
	lines   = []byte("one line\nanother\n")
)

func TestDelivered(t *testing.T) {
	for _, gz := range []bool{false, true} {
		t.Run(fmt.Sprint("gzip=", gz), func(t *testing.T) {
			col := startServer(t, reporttest.Options{FileField: "logs", DeviceField: "tdid"})
			o := uploadOptions(t, col)
			o.FileField, o.DeviceField, o.Gzip = "logs", "tdid", gz
			c := client(t, o)
			for range 2 {
				if err := c.Send(t.Context(), linesID, lines); err != nil {
					t.Fatal(err)
				}
			}
			r := col.Receipts()
			if len(r) != 2 || r[0].Batch != r[1].Batch {
				t.Fatalf("receipts: %+v", r)
			}
			got := r[0]
			got.From, got.Time = "", time.Time{}
			want := reporttest.Receipt{
				Batch: linesID.String(), Device: "tdid_abcd1234", Text: string(lines), UserAgent: "threatstopd/1.2",
				FileName: "pflog-01020300000000000000000000000000.txt", ContentType: "text/plain",
			}
			if gz {
				want.FileName, want.ContentType = want.FileName+".gz", "application/gzip"
			}
			if got != want {
				t.Fatalf("got  %+v\nwant %+v", got, want)
			}
			// The connection is kept for a run of batches.
			if r[0].From != r[1].From {
				t.Errorf("two connections: %s, %s", r[0].From, r[1].From)
			}
		})
	}
}

func TestNotDelivered(t *testing.T) {
	for _, tt := range []struct {
		name    string
		f       reporttest.Failure
		content bool
		status  int
		retry   time.Duration
		want    string
		taken   int
	}{
		{"refusing connections", reporttest.Failure{Fault: reporttest.Refuse}, false, 0, 0, "connect", 0},
		{"hanging", reporttest.Failure{Fault: reporttest.Hang}, false, 0, 0, "timeout awaiting response headers", 0},
		{"reset mid-body", reporttest.Failure{Fault: reporttest.Reset}, false, 0, 0, "", 0},
		{"200 too late", reporttest.Failure{Fault: reporttest.Late, Delay: time.Minute}, false, 0, 0, "timeout awaiting response headers", 1},
		{"500", reporttest.Failure{Fault: reporttest.Status, Status: 500}, false, 500, 0, `answered 500 Internal Server Error: "not today"`, 0},
		{"503 with Retry-After", reporttest.Failure{Fault: reporttest.Status, Status: 503, RetryAfter: "7"}, false, 503, 7 * time.Second, `, asks to wait 7s`, 0},
		{"429 with Retry-After", reporttest.Failure{Fault: reporttest.Status, Status: 429, RetryAfter: "120"}, false, 429, 2 * time.Minute, `answered 429 Too Many Requests: "not today", asks to wait 2m0s`, 0},
		{"429 for a year", reporttest.Failure{Fault: reporttest.Status, Status: 429, RetryAfter: "31536000"}, false, 429, time.Hour, ", asks to wait 1h0m0s or more", 0},
		{"408", reporttest.Failure{Fault: reporttest.Status, Status: 408}, false, 408, 0, "408", 0},
		{"407", reporttest.Failure{Fault: reporttest.Status, Status: 407}, false, 407, 0, "407", 0},
		{"400", reporttest.Failure{Fault: reporttest.Status, Status: 400}, true, 400, 0, "answered 400 Bad Request", 0},
		{"403", reporttest.Failure{Fault: reporttest.Status, Status: 403}, false, 403, 0, "403", 0},
		{"413", reporttest.Failure{Fault: reporttest.Status, Status: 413}, true, 413, 0, "413", 0},
		{"304", reporttest.Failure{Fault: reporttest.Status, Status: 304}, false, 304, 0, "without a location", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			col := startServer(t, reporttest.Options{})
			o := uploadOptions(t, col)
			if tt.f.Fault == reporttest.Hang || tt.f.Fault == reporttest.Late {
				o.timeouts = quick
			}
			c := client(t, o)
			if err := col.Fail(tt.f); err != nil {
				t.Fatal(err)
			}
			big := []byte(strings.Repeat("a line of a log that is not short\n", 100_000))
			first := big
			if tt.f.Fault == reporttest.Hang {
				// The socket's buffers take it all, however small they are:
				// else it is the write that ends.
				first = lines
			}
			err := c.Send(t.Context(), linesID, first)
			var e *UploadError
			if !errors.As(err, &e) {
				t.Fatalf("got %v", err)
			}
			if e.Content() != tt.content || e.Status != tt.status || e.RetryAfter != tt.retry {
				t.Errorf("got content %v, status %d, retry after %v", e.Content(), e.Status, e.RetryAfter)
			}
			if !strings.Contains(err.Error(), tt.want) || !strings.HasPrefix(err.Error(), "log server https://127.0.0.1:") || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %q, want %q in it", err, tt.want)
			}
			if tt.taken > 0 {
				// The collector may be behind with what is in the buffers.
				if err := col.Wait(t.Context(), func(r []reporttest.Receipt) bool { return len(r) > 0 }); err != nil {
					t.Fatal(err)
				}
			}
			if got := len(col.Receipts()); got != tt.taken {
				t.Errorf("%d receipts", got)
			}
			if err := col.Fail(reporttest.Failure{}); err != nil {
				t.Fatal(err)
			}
			o.timeouts = timeouts{}
			if err := client(t, o).Send(t.Context(), linesID, big); err != nil {
				t.Fatalf("well again: %v", err)
			}
			r := col.Receipts()
			if got := r[len(r)-1].Text; got != string(big) {
				t.Errorf("%d bytes arrived", len(got))
			}
		})
	}
}

// A 2xx is a delivery even when what follows never ends.
func TestDrippingAnswer(t *testing.T) {
	col := startServer(t, reporttest.Options{})
	o := uploadOptions(t, col)
	o.timeouts = timeouts{Response: 2 * time.Second} // and as long for what follows the answer
	col.Fail(reporttest.Failure{Fault: reporttest.Drip})
	if err := client(t, o).Send(t.Context(), linesID, lines); err != nil {
		t.Fatal(err)
	}
}

func TestCancelled(t *testing.T) {
	col := startServer(t, reporttest.Options{})
	col.Fail(reporttest.Failure{Fault: reporttest.Hang})
	c := client(t, uploadOptions(t, col))
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	if err := c.Send(ctx, linesID, lines); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

// A peer that takes no more bytes ends the attempt, long before its total time.
func TestStalledWrite(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err == nil {
			defer c.Close()
			io.CopyN(io.Discard, c, 1000)
			l.Accept() // until the listener is closed
		}
	}()
	c := client(t, Config{URL: "http://" + l.Addr().String(),
		timeouts: timeouts{Response: time.Hour, Total: 200 * time.Millisecond}})
	err = c.Send(t.Context(), linesID, make([]byte, 64<<20))
	var ne net.Error
	if !errors.As(err, &ne) || !ne.Timeout() {
		t.Fatalf("got %v", err)
	}
}

func TestRedirects(t *testing.T) {
	other := startServer(t, reporttest.Options{})
	for _, tt := range []struct {
		name, location string
		status         int
		want           string // "" for delivered
	}{
		{"OK same host, 307", "/elsewhere", 307, ""},
		{"OK same host, 308, absolute", "SELF/elsewhere", 308, ""},
		{"OK same host, 302", "?x=1", 302, ""},
		{"303 asks for a GET", "/elsewhere", 303, "it does not ask for a POST"},
		{"bad: another port", other.URL(), 307, "it is another host"},
		{"bad: another host", "https://user:secret@logs.example.net/upload", 307, "redirect (307) to https://user:xxxxx@logs.example.net/upload refused: it is another host"},
		{"bad: plain http", "http://127.0.0.1/upload", 307, "it is not https"},
		{"bad: no URL", "http://%zz", 307, "failed to parse Location"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			col := startServer(t, reporttest.Options{})
			c := client(t, uploadOptions(t, col))
			loc := strings.Replace(tt.location, "SELF", strings.TrimSuffix(col.URL(), "/upload"), 1)
			col.Fail(reporttest.Failure{Fault: reporttest.Redirect, Status: tt.status, Location: loc, Times: 1})
			err := c.Send(t.Context(), linesID, lines)
			if tt.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				if r := col.Receipts(); len(r) != 1 || r[0].Text != string(lines) {
					t.Fatalf("%+v", r)
				}
				return
			}
			var e *UploadError
			if !errors.As(err, &e) || e.Content() || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v", err)
			}
			if len(col.Receipts())+len(other.Receipts()) != 0 {
				t.Fatal("delivered")
			}
		})
	}
	t.Run("bad: in a circle", func(t *testing.T) {
		col := startServer(t, reporttest.Options{})
		c := client(t, uploadOptions(t, col))
		col.Fail(reporttest.Failure{Fault: reporttest.Redirect, Status: 307, Location: "/round"})
		if err := c.Send(t.Context(), linesID, lines); err == nil || !strings.Contains(err.Error(), "more than 3 redirects") {
			t.Fatal(err)
		}
		if n := col.Requests(); n != 4 {
			t.Fatalf("%d requests", n)
		}
	})
}

func TestTrust(t *testing.T) {
	col, stranger := startServer(t, reporttest.Options{}), startServer(t, reporttest.Options{})
	o := uploadOptions(t, stranger)
	o.URL = col.URL()
	err := client(t, o).Send(t.Context(), linesID, lines)
	if err == nil || !strings.Contains(err.Error(), "CA_FILE") {
		t.Fatalf("got %v", err)
	}
	o.CAFile = ""
	if err := client(t, o).Send(t.Context(), linesID, lines); err == nil {
		t.Fatal("the system trusts the collector")
	}
	old := startServer(t, reporttest.Options{MaxTLS: tls.VersionTLS11})
	if err := client(t, uploadOptions(t, old)).Send(t.Context(), linesID, lines); err == nil {
		t.Fatal("TLS 1.1 was good enough")
	}
}

func TestUploadOptionsAreRefused(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.pem")
	os.WriteFile(empty, []byte("nothing"), 0o600)
	for _, tt := range []struct {
		name string
		o    Config
		want string
	}{
		{"no url", Config{}, "no URL"},
		{"ftp", Config{URL: "ftp://logs.example.net/"}, "no URL"},
		{"no host", Config{URL: "https:///upload"}, "no URL"},
		{"not a URL", Config{URL: "https://user:secret@logs.example.net:port"}, "no URL"},
		{"proxy not a URL", Config{URL: "https://a.example", Proxy: "http://u:secret@p.example:x y"}, "PROXY: is no URL"},
		{"CA file missing", Config{URL: "https://a.example", CAFile: empty + "x"}, "no such file"},
		{"CA file empty", Config{URL: "https://a.example", CAFile: empty}, "no PEM certificate"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := NewUploader(tt.o)
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "secret") {
				t.Fatalf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// A proxy that speaks HTTP CONNECT, plain HTTP, and SOCKS5 (RFC 1928, 1929), and wants
// a name and a password.
type proxy struct {
	l          net.Listener
	user, pass string
	mu         sync.Mutex
	asked      []string
}

func startProxy(t *testing.T, user, pass string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	p := &proxy{l: l, user: user, pass: pass}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go p.serve(c)
		}
	}()
	return p
}

func (p *proxy) note(target string) {
	p.mu.Lock()
	p.asked = append(p.asked, target)
	p.mu.Unlock()
}

func (p *proxy) serve(c net.Conn) {
	defer c.Close()
	br := bufio.NewReader(c)
	first, err := br.Peek(1)
	if err != nil {
		return
	}
	if first[0] == 5 {
		p.socks(c, br)
		return
	}
	req, err := http.ReadRequest(br)
	if err != nil {
		return
	}
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte(p.user+":"+p.pass))
	if req.Header.Get("Proxy-Authorization") != want {
		io.WriteString(c, "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
		return
	}
	p.note(req.Method + " " + req.Host)
	if req.Method != http.MethodConnect {
		req.RequestURI = ""
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err == nil {
			resp.Write(c)
		}
		return
	}
	io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
	p.relay(c, br, req.Host)
}

func (p *proxy) socks(c net.Conn, br *bufio.Reader) {
	b := make([]byte, 256)
	read := func(n int) []byte {
		if _, err := io.ReadFull(br, b[:n]); err != nil {
			return make([]byte, n)
		}
		return b[:n]
	}
	read(int(read(2)[1]))
	c.Write([]byte{5, 2})
	user := string(read(int(read(2)[1])))
	pass := string(read(int(read(1)[0])))
	if user != p.user || pass != p.pass {
		c.Write([]byte{1, 1})
		return
	}
	c.Write([]byte{1, 0})
	var host string
	switch read(4)[3] {
	case 1:
		host = net.IP(read(4)).String()
	case 3:
		host = string(read(int(read(1)[0])))
	}
	port := read(2)
	target := net.JoinHostPort(host, fmt.Sprint(int(port[0])<<8|int(port[1])))
	p.note("socks " + target)
	c.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
	p.relay(c, br, target)
}

func (p *proxy) relay(c net.Conn, br *bufio.Reader, target string) {
	up, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer up.Close()
	go func() {
		io.Copy(up, br)
		up.(*net.TCPConn).CloseWrite()
	}()
	io.Copy(c, up)
}

func TestProxy(t *testing.T) {
	// The environment would send everything somewhere else.
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	col := startServer(t, reporttest.Options{})
	plain := startServer(t, reporttest.Options{Plain: true})
	host := func(c *reporttest.Collector) string { u, _ := url.Parse(c.URL()); return u.Host }
	for _, tt := range []struct {
		name, scheme string
		to           *reporttest.Collector
		want         string
	}{
		{"https through http", "http", col, "CONNECT " + host(col)},
		{"https through socks5", "socks5", col, "socks " + host(col)},
		{"https through socks5h", "socks5h", col, "socks " + host(col)},
		{"http through http", "http", plain, "POST " + host(plain)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := startProxy(t, "owner", "s3cr:t")
			o := uploadOptions(t, col)
			o.URL = tt.to.URL()
			before := len(tt.to.Receipts())
			o.Proxy = (&url.URL{Scheme: tt.scheme, Host: p.l.Addr().String(), User: url.UserPassword("owner", "s3cr:t")}).String()
			if err := client(t, o).Send(t.Context(), linesID, lines); err != nil {
				t.Fatal(err)
			}
			if len(p.asked) != 1 || p.asked[0] != tt.want {
				t.Errorf("the proxy was asked for %q", p.asked)
			}
			if got := len(tt.to.Receipts()) - before; got != 1 {
				t.Errorf("%d receipts", got)
			}
			o.Proxy = (&url.URL{Scheme: tt.scheme, Host: p.l.Addr().String(), User: url.UserPassword("owner", "wr0ngs3cret")}).String()
			var e *UploadError
			err := client(t, o).Send(t.Context(), linesID, lines)
			if !errors.As(err, &e) || e.Content() || strings.Contains(err.Error(), "wr0ngs3cret") {
				t.Errorf("with the wrong password: %v", err)
			}
		})
	}
	t.Run("direct in spite of the environment", func(t *testing.T) {
		if err := client(t, uploadOptions(t, col)).Send(t.Context(), linesID, lines); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("proxy down", func(t *testing.T) {
		p := startProxy(t, "", "")
		p.l.Close()
		o := uploadOptions(t, col)
		o.Proxy = "http://u:hidden@" + p.l.Addr().String()
		if err := client(t, o).Send(t.Context(), linesID, lines); err == nil || strings.Contains(err.Error(), "hidden") || !strings.Contains(err.Error(), "proxyconnect") {
			t.Fatal(err)
		}
	})
}

func TestSource(t *testing.T) {
	col := startServer(t, reporttest.Options{})
	o := uploadOptions(t, col)
	o.Source = netip.MustParseAddr("127.0.0.1")
	if err := client(t, o).Send(t.Context(), linesID, lines); err != nil {
		t.Fatal(err)
	}
	o.Source = netip.MustParseAddr("192.0.2.1") // nobody's
	if err := client(t, o).Send(t.Context(), linesID, lines); err == nil || !strings.Contains(err.Error(), "SOURCE_ADDRESS 192.0.2.1 is no address of this host") {
		t.Fatalf("from an address that this host does not have: %v", err)
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, tt := range []struct {
		name, value, date string
		want              time.Duration
	}{
		{"none", "", "", 0},
		{"seconds", "120", "", 2 * time.Minute},
		{"seconds with blanks", " 5 ", "", 5 * time.Second},
		{"zero", "0", "", 0},
		{"negative", "-5", "", 0},
		{"fraction", "1.5", "", 0},
		{"too many", "99999999999999999999999", "", maxRetryAfter},
		{"nonsense", "soon", "", 0},
		{"date", "Fri, 02 Jan 2026 03:05:05 GMT", "", time.Minute},
		{"date passed", "Fri, 02 Jan 2026 03:03:05 GMT", "", 0},
		{"date by the server's clock", "Fri, 02 Jan 2026 05:00:30 GMT", "Fri, 02 Jan 2026 05:00:00 GMT", 30 * time.Second},
		{"date, server's clock unknown", "Fri, 02 Jan 2026 03:05:05 GMT", "yesterday", time.Minute},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := http.Header{}
			h.Set("Retry-After", tt.value)
			h.Set("Date", tt.date)
			if got := retryAfter(h, now); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func FuzzRetryAfter(f *testing.F) {
	f.Add("120", "")
	f.Add("Fri, 02 Jan 2026 03:05:05 GMT", "Fri, 02 Jan 2026 03:05:05 GMT")
	f.Add("99999999999999999999999", "x")
	f.Fuzz(func(t *testing.T, value, date string) {
		h := http.Header{"Retry-After": {value}, "Date": {date}}
		if d := retryAfter(h, time.Unix(1e9, 0)); d < 0 || d > maxRetryAfter {
			t.Fatalf("%q, %q: %v", value, date, d)
		}
	})
}

func TestAnswerText(t *testing.T) {
	for _, tt := range []struct{ name, encoding, body, want string }{
		{"nothing", "", "", ""},
		{"several lines", "", "\r\n one line\r\nanother", "one line another"},
		{"for a terminal", "", "esc \x1b[31m and \x00 and \u202e", `esc \x1b[31m and \x00 and \u202e`},
		{"long", "", strings.Repeat("x", 1000), strings.Repeat("x", maxMessage) + "…"},
		{"a page with a title", "", "<!DOCTYPE html><html><head><title>403\nForbidden</title></head><body><h1>Forbidden</h1>", "403 Forbidden Forbidden"},
		{"a page without one", "", "<p>Device&nbsp;&lt;x&gt; is <b>unknown</b>", "Device <x> is unknown"},
		{"no page", "", "1 < 2 and 3 > 2", "1 < 2 and 3 > 2"},
		{"identity", "identity", "text", "text"},
		{"an encoding that we have not asked for", "gzip", "\x1f\x8bxxx", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := &http.Response{Header: http.Header{"Content-Encoding": {tt.encoding}}, Body: io.NopCloser(strings.NewReader(tt.body))}
			if got := oneLine(readAnswer(r, time.Minute, func() {}), maxMessage); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// A proxy that refuses to connect is named, with its status, and the batch is not at fault.
func TestProxyRefuses(t *testing.T) {
	for _, status := range []int{403, 407, 413, 502} {
		p := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(status) }))
		defer p.Close()
		const server = "https://192.0.2.1/"
		c := client(t, Config{URL: server, Proxy: p.URL})
		err := c.Send(t.Context(), linesID, lines)
		var e *UploadError
		want := fmt.Sprintf("log server %s: PROXY %s answered %d", server, p.URL, status)
		if !errors.As(err, &e) || e.Content() || e.ofBatch() || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func BenchmarkSend(b *testing.B) {
	col := startServer(b, reporttest.Options{})
	c := client(b, uploadOptions(b, col))
	batch := []byte(strings.Repeat(strings.Repeat("x", 99)+"\n", 1000))
	b.SetBytes(int64(len(batch)))
	b.ReportAllocs()
	for b.Loop() {
		if err := c.Send(b.Context(), linesID, batch); err != nil {
			b.Fatal(err)
		}
	}
}

// What no retry cures has advice, each error the advice on what is wrong, and what may pass by itself has none.
func TestAdvice(t *testing.T) {
	col, good := startServer(t, reporttest.Options{}), issue(t, false, nil)
	answer := func(s string) func(net.Conn) {
		return after(say("HTTP/1.1 " + s + "\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"))
	}
	ok := answer("200 OK")
	secure := func(cert certificate, serve func(net.Conn)) Config {
		return Config{URL: "https://" + attacker(t, overTLS(cert.server, serve)) + "/up", CAFile: cert.file}
	}
	plain := func(serve func(net.Conn)) Config { return Config{URL: "http://" + attacker(t, serve) + "/up"} }
	through := func(proxy string) Config { return Config{URL: "https://192.0.2.1/up", Proxy: proxy} }
	down, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refusing := down.Addr().String()
	down.Close()
	unknown := secure(issue(t, false, nil), ok)
	unknown.CAFile = good.file
	unknownProxy := through("https://" + strings.TrimPrefix(strings.TrimSuffix(unknown.URL, "/up"), "https://"))
	unknownProxy.CAFile = good.file
	source4, source6 := uploadOptions(t, col), uploadOptions(t, col)
	source4.Source, source6.Source = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("::1")
	plainProxy := plain(ok)
	plainProxy.Proxy = "http://" + attacker(t, answer("407 Proxy Authentication Required"))
	socks := startProxy(t, "owner", "secret")

	cases := []struct {
		name string
		c    Config
		want string // in the advice; "" for none
	}{
		{"unknown authority", unknown, "CA_FILE names other authorities to trust: set it, or check url"},
		{"unknown authority of the proxy", unknownProxy, "CA_FILE names other authorities to trust: set it, or check PROXY"},
		{"wrong name", secure(issue(t, false, func(c *x509.Certificate) { c.IPAddresses, c.DNSNames = nil, []string{"a.test"} }), ok), "check url"},
		{"expired", secure(issue(t, false, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Hour) }), ok), "clock"},
		{"no TLS, HTTP", Config{URL: "https://" + attacker(t, say("HTTP/1.1 400 Bad\r\n\r\n"))}, "speaks no TLS there: check url"},
		{"no TLS, SSH", Config{URL: "https://" + attacker(t, say("SSH-2.0-OpenSSH_10.0\r\n"))}, "speaks no TLS there: check url"},
		{"no TLS, the proxy", through("https://" + attacker(t, say("HTTP/1.1 400 Bad\r\n\r\n"))), "check PROXY"},
		{"redirect 303", plain(answer("303 See Other\r\nLocation: /x")), "set url to it"},
		{"redirect to http", secure(good, answer("307 Temporary Redirect\r\nLocation: http://127.0.0.1/")), "set url to it"},
		{"redirect to another host", plain(answer("307 Temporary Redirect\r\nLocation: http://a.test/")), "set url to it"},
		{"redirect without Location", plain(answer("307 Temporary Redirect")), "check url"},
		{"redirect to no URL", plain(answer("307 Temporary Redirect\r\nLocation: http://%zz")), "check url"},
		{"redirect in a circle", plain(answer("307 Temporary Redirect\r\nLocation: /x")), "check url"},
		{"not modified", plain(answer("304 Not Modified")), "check url"},
		{"proxy: 407", through("http://" + attacker(t, answer("407 Proxy Authentication Required"))), proxyPassword},
		{"proxy: 407 for plain http", plainProxy, proxyPassword},
		{"proxy: 403", through("http://" + attacker(t, answer("403 Forbidden"))), proxyRules},
		{"proxy: 405", through("http://" + attacker(t, answer("405 Method Not Allowed"))), proxyRules},
		{"proxy: 429", through("http://" + attacker(t, answer("429 Too Many Requests"))), ""},
		{"proxy: 502", through("http://" + attacker(t, answer("502 Bad Gateway"))), ""},
		{"proxy: wrong password with socks5", through("socks5://owner:wrong@" + socks.l.Addr().String()), proxyPassword},
		{"proxy: connection refused", through("http://" + refusing), "check PROXY"},
		{"connection refused", Config{URL: "https://" + refusing}, ""},
		{"connection closed", plain(func(c net.Conn) { request(c) }), ""},
		{"SOURCE_ADDRESS of another host", source4, "change or remove SOURCE_ADDRESS"},
		{"SOURCE_ADDRESS of another family", source6, "change or remove SOURCE_ADDRESS"},
	}
	for status, want := range map[int]string{
		401: unknownDevice, 403: unknownDevice, 404: wrongURL, 405: wrongURL, 410: wrongURL, 421: wrongURL, 501: wrongURL, 505: wrongURL,
		402: refusesLogs, 406: refusesLogs, 411: refusesLogs, 418: refusesLogs, 451: refusesLogs,
		400: "", 408: "", 413: "", 415: "", 422: "", 425: "", 429: "", 500: "", 502: "", 503: "", 504: "",
		407: "as a proxy does: check url",
	} {
		cases = append(cases, struct {
			name string
			c    Config
			want string
		}{fmt.Sprint(status), plain(answer(fmt.Sprint(status) + " No")), want})
	}
	// Without asking a resolver.
	for want, err := range map[string]error{
		"no such host: check url":   &net.DNSError{Err: "no such host", IsNotFound: true},
		"no such host: check PROXY": &net.OpError{Op: "proxyconnect", Err: &net.DNSError{Err: "no such host", IsNotFound: true}},
		"":                          &net.DNSError{Err: "server misbehaving", IsTemporary: true},
	} {
		equal(t, err.Error(), adviceOn(err), want)
	}
	for _, tt := range cases {
		t.Run(tt.name, func(t *testing.T) {
			err := client(t, tt.c).Send(t.Context(), linesID, lines)
			var e *UploadError
			if !errors.As(err, &e) {
				t.Fatalf("got %v", err)
			}
			if got := e.advice(); !strings.Contains(got, tt.want) || (got == "") != (tt.want == "") {
				t.Errorf("%v: advice %q, want %q", err, got, tt.want)
			}
			if n := strings.Count(err.Error(), e.advice()); e.advice() != "" && n != 1 {
				t.Errorf("%v: the advice is there %d times", err, n)
			}
		})
	}
}
