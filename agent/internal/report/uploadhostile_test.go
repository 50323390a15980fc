package report

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"io/fs"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// hasty gives up soon, so that a test of one who never ends is short; calm is for those
// who end what they began, however slow the machine is.
var (
	hasty = timeouts{Dial: 30 * time.Second, TLS: 30 * time.Second, Response: time.Second, Total: 40 * time.Second}
	calm  = timeouts{Dial: 30 * time.Second, TLS: 30 * time.Second, Response: 30 * time.Second, Total: 50 * time.Second}
)

// A certificate for tests: its file, and what a server needs.
type certificate struct {
	file   string // the authority's, in PEM form
	server tls.Certificate
}

// issue makes an authority, and a certificate of it, or, with self, one that vouches for
// itself. change may alter the certificate before it is signed.
func issue(t testing.TB, self bool, change func(*x509.Certificate)) certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "an authority"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: now.Add(-48 * time.Hour), NotAfter: now.Add(48 * time.Hour),
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "a server"}, NotBefore: now.Add(-24 * time.Hour), NotAfter: now.Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	if change != nil {
		change(leaf)
	}
	parent := ca
	if self {
		parent = leaf
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, parent, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	c := certificate{filepath.Join(t.TempDir(), "ca.pem"), tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}}
	if err := os.WriteFile(c.file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER}), 0o600); err != nil {
		t.Fatal(err)
	}
	return c
}

// attacker listens on 127.0.0.1, does to each connection what serve does, and ends it
// then. At the end of the test all are closed, and it waits for every serve.
func attacker(t testing.TB, serve func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		conns []net.Conn
	)
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			wg.Go(func() {
				defer c.Close()
				serve(c)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, c := range conns {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return l.Addr().String()
}

// overTLS is serve behind a handshake.
func overTLS(cert tls.Certificate, serve func(net.Conn)) func(net.Conn) {
	return func(c net.Conn) {
		tc := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}})
		defer tc.Close()
		serve(tc)
	}
}

// request reads one, all of it.
func request(c net.Conn) bool {
	r, err := http.ReadRequest(bufio.NewReader(c))
	if err != nil {
		return false
	}
	_, err = io.Copy(io.Discard, r.Body)
	return err == nil
}

// after reads a request and then does the rest.
func after(rest func(net.Conn)) func(net.Conn) {
	return func(c net.Conn) {
		if request(c) {
			rest(c)
		}
	}
}

// trickle writes s a byte at a time, and then the last one for ever.
func trickle(s string, pause time.Duration) func(net.Conn) {
	return func(c net.Conn) {
		for i := 0; ; i = min(i+1, len(s)-1) {
			if _, err := c.Write([]byte{s[i]}); err != nil {
				return
			}
			time.Sleep(pause)
		}
	}
}

// flood writes s, and then the rest again and again as fast as it is taken.
func flood(s, rest string) func(net.Conn) {
	return func(c net.Conn) {
		if _, err := io.WriteString(c, s); err != nil {
			return
		}
		block := []byte(strings.Repeat(rest, 1+64<<10/len(rest)))
		for {
			if _, err := c.Write(block); err != nil {
				return
			}
		}
	}
}

func say(s string) func(net.Conn) { return func(c net.Conn) { io.WriteString(c, s) } }

// together runs subtests that wait most of the time, all of them at once.
type together struct{ sync.WaitGroup }

func (x *together) run(t *testing.T, name string, f func(*testing.T)) {
	x.Go(func() { t.Run(name, f) })
}

// What a log server can do to hold an upload up, to fill its memory, or to make it
// believe that the batch has arrived: the attempt ends, by its own deadlines, with an
// error that leaves the batch in the spool.
func TestHostileServer(t *testing.T) {
	const slow = 20 * time.Millisecond
	var all together
	defer all.Wait()
	big := strings.Repeat("x", 1<<20)
	for _, tt := range []struct {
		name  string
		serve func(net.Conn)
		text  int // bytes of the batch, 0 for a few
		want  string
	}{
		{"reads one byte now and then", func(c net.Conn) {
			b := make([]byte, 1)
			for c.SetReadDeadline(time.Time{}) == nil { // until it is closed
				if _, err := c.Read(b); err != nil {
					return
				}
				time.Sleep(slow)
			}
		}, 8 << 20, ""},
		{"reads nothing", func(c net.Conn) {
			for c.SetReadDeadline(time.Time{}) == nil { // until it is closed
				time.Sleep(slow)
			}
		}, 16 << 20, ""},
		{"answers a byte at a time", after(trickle("HTTP/1.1 200 OK\r\nX-Header: x", slow)), 0, "timeout awaiting response headers"},
		{"status line without end", after(flood("HTTP/1.1 200 ", "x")), 0, ""},
		{"header without end", after(flood("HTTP/1.1 200 OK\r\nX: ", "x")), 0, ""},
		{"headers without end", after(flood("HTTP/1.1 200 OK\r\n", "X: y\r\n")), 0, ""},
		{"headers without end, a line at a time", after(func(c net.Conn) {
			io.WriteString(c, "HTTP/1.1 200 OK\r\n")
			for {
				if _, err := io.WriteString(c, "X: y\r\n"); err != nil {
					return
				}
				time.Sleep(slow)
			}
		}), 0, "timeout awaiting response headers"},
		{"100 Continue without end", after(flood("", "HTTP/1.1 100 Continue\r\n\r\n")), 0, ""},
		{"100 Continue now and then", after(func(c net.Conn) {
			for {
				if _, err := io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n"); err != nil {
					return
				}
				time.Sleep(slow)
			}
		}), 0, "timeout awaiting response headers"},
		{"103 with large headers", after(flood("", "HTTP/1.1 103 Early Hints\r\nLink: "+big[:60<<10]+"\r\n\r\n")), 0, ""},
		{"101 and another protocol", after(flood("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n", "x")), 0, "101"},
		{"500 and a body without end", after(flood("HTTP/1.1 500 No\r\n\r\n", "sorry\n")), 0, `answered 500 Internal Server Error: "sorry`},
		{"500 and a body a byte at a time", after(func(c net.Conn) { say("HTTP/1.1 500 No\r\n\r\n")(c); trickle("sorry", slow)(c) }), 0, ""},
		{"500 and a chunk of an exabyte", after(flood("HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffff\r\n", "x")), 0, "answered 500 Internal Server Error"},
		{"500 and a gzip bomb", after(say("HTTP/1.1 500 No\r\nContent-Encoding: gzip\r\nConnection: close\r\n\r\n\x1f\x8b\x08\x00" + big[:60<<10])), 0, "answered 500 Internal Server Error"},
		{"a redirect to itself, for ever", after(say("HTTP/1.1 307 No\r\nLocation: /again\r\nConnection: close\r\n\r\n")), 0, "more than 3 redirects"},
		{"a redirect to a megabyte", after(say("HTTP/1.1 307 No\r\nLocation: /" + big + "\r\n\r\n")), 0, ""},
		{"a redirect to a file", after(say("HTTP/1.1 307 No\r\nLocation: file:///etc/passwd\r\nConnection: close\r\n\r\n")), 0, "refused: it is not https"},
		{"a redirect to another host", after(say("HTTP/1.1 307 No\r\nLocation: https://192.0.2.1/\r\nConnection: close\r\n\r\n")), 0, "refused: it is another host"},
		{"HTTP/2", after(say("\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64")), 0, "malformed HTTP"},
		{"HTTP/2 before it is asked", flood("\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64", "\x00\x00\x08\x06\x00\x00\x00\x00\x0012345678"), 0, ""},
		{"an answer before it is asked", flood("", "HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"), 8 << 20, ""},
		{"HTTP/0.9", after(say("<html>hello</html>")), 0, "malformed HTTP"},
		{"two lengths", after(say("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx")), 0, ""},
		{"a negative length", after(say("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n")), 0, ""},
		{"a status of no meaning", after(say("HTTP/1.1 999 What\r\nContent-Length: 0\r\n\r\n")), 0, "answered 999"},
		{"closes at once", func(net.Conn) {}, 0, ""},
		{"closes in the middle of the request", func(c net.Conn) { io.CopyN(io.Discard, c, 300) }, 1 << 20, ""},
		{"closes without an answer", func(c net.Conn) { request(c) }, 0, "the server closed the connection before it answered"},
		{"closes in the status line", after(say("HTTP/1.1 20")), 0, "malformed HTTP"},
		{"closes in the header", after(say("HTTP/1.1 200 OK\r\nX: ")), 0, "the server closed the connection before it answered"},
		{"terminal escapes in its message", after(say("HTTP/1.1 500 \x1b[2J\r\nContent-Length: 12\r\n\r\n\x1b]0;owned\x07 no")), 0, ""},
	} {
		for _, secure := range []bool{true, false} {
			scheme := map[bool]string{true: "https", false: "http"}[secure]
			all.run(t, tt.name+"/"+scheme, func(t *testing.T) {
				serve, cert := tt.serve, issue(t, false, nil)
				if secure {
					serve = overTLS(cert.server, serve)
				}
				times := calm
				if tt.want == "" || strings.HasPrefix(tt.want, "timeout") {
					times = hasty
				}
				if tt.want == "" {
					times.TLS = time.Second // some do not even do that
				}
				c := client(t, Config{URL: scheme + "://" + attacker(t, serve) + "/up", CAFile: cert.file, timeouts: times})
				gaveUp(t, c, bytes.Repeat([]byte("a line\n"), 1+tt.text/7), tt.want)
			})
		}
	}
}

// gaveUp has a batch sent, which must fail in time, with one line, and so that it will
// be tried again.
func gaveUp(t *testing.T, c *Uploader, text []byte, want string) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- c.Send(t.Context(), linesID, text) }()
	select {
	case err := <-done:
		var e *UploadError
		if !errors.As(err, &e) || e.Content() {
			t.Fatalf("got %v", err)
		}
		text := err.Error()
		if !strings.Contains(text, want) || len(text) > 2000 {
			t.Errorf("got %q, want %q in it", text, want)
		}
		if strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			t.Errorf("not for a terminal: %q", text)
		}
		return err
	case <-time.After(time.Minute):
		t.Fatal("it has not given up")
		return nil
	}
}

// However much a server sends, little is kept of it.
func TestHostileServerMemory(t *testing.T) {
	cert := issue(t, false, nil)
	for _, tt := range []struct {
		name, begin, rest string
	}{
		{"status line", "HTTP/1.1 200 ", "x"},
		{"headers", "HTTP/1.1 200 OK\r\n", "X: y\r\n"},
		{"100 Continue", "", "HTTP/1.1 100 Continue\r\n\r\n"},
		{"body", "HTTP/1.1 500 No\r\n\r\n", "x"},
		{"trailers", "HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", "X: y\r\n"},
		{"chunk extensions", "HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n1;", "x"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := Config{URL: "https://" + attacker(t, overTLS(cert.server, after(flood(tt.begin, tt.rest)))), CAFile: cert.file, timeouts: hasty}
			c := client(t, o)
			var before, now runtime.MemStats
			runtime.ReadMemStats(&before)
			gaveUp(t, c, lines, "")
			runtime.ReadMemStats(&now)
			// The attacker's own memory is in it, and the handshake's.
			if n := now.TotalAlloc - before.TotalAlloc; n > 24<<20 {
				t.Errorf("%d KiB allocated", n>>10)
			}
		})
	}
	// The proxy, before there is any TLS.
	t.Run("answer to CONNECT", func(t *testing.T) {
		proxy := "http://" + attacker(t, func(c net.Conn) {
			if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
				flood("HTTP/1.1 200 OK\r\n", "X: y\r\n")(c)
			}
		})
		c := client(t, Config{URL: "https://127.0.0.1:1/", Proxy: proxy, CAFile: cert.file, timeouts: hasty})
		gaveUp(t, c, lines, "")
	})
}

// What hostile servers do in the handshake, and hostile proxies before it.
func TestHostileHandshake(t *testing.T) {
	var all together
	defer all.Wait()
	cert := issue(t, false, nil)
	for name, serve := range map[string]func(net.Conn){
		"silent":                     func(c net.Conn) { io.Copy(io.Discard, c) },
		"a byte at a time":           trickle("\x16\x03\x03\x40\x00\x02", 20*time.Millisecond),
		"records without content":    flood("", "\x16\x03\x03\x00\x00"),
		"a certificate without end":  flood("\x16\x03\x03\x00\x04\x02\xff\xff\xff", "\x16\x03\x03\x40\x00"+strings.Repeat("x", 1<<14)),
		"alerts without end":         flood("", "\x15\x03\x03\x00\x02\x01\x5a"),
		"SSH":                        say("SSH-2.0-OpenSSH_10.0\r\n"),
		"HTTP":                       flood("HTTP/1.1 200 OK\r\n\r\n", "x"),
		"closes in the middle of it": func(c net.Conn) { io.CopyN(io.Discard, c, 50); io.WriteString(c, "\x16\x03\x03") },
	} {
		for _, way := range []string{"server", "proxy", "CONNECT", "socks5"} {
			all.run(t, name+"/"+way, func(t *testing.T) {
				addr := attacker(t, serve)
				o := Config{URL: "https://127.0.0.1:1/", CAFile: cert.file, timeouts: hasty}
				o.timeouts.TLS, o.timeouts.Total = 500*time.Millisecond, 2*time.Second
				switch way {
				case "server":
					o.URL = "https://" + addr
				case "proxy":
					o.Proxy = "https://me:geheim@" + addr
				case "CONNECT":
					o.Proxy = "http://me:geheim@" + addr
				case "socks5":
					o.Proxy = "socks5://me:geheim@" + addr
				}
				c := client(t, o)
				if err := gaveUp(t, c, lines, ""); strings.Contains(err.Error(), "geheim") {
					t.Errorf("the password is in %q", err)
				}
			})
		}
	}
}

// A peer that takes a large body slowly, but takes it, is waited for, in the clear as
// well: the deadline is for nothing being taken.
func TestSlowButSteadyServer(t *testing.T) {
	const size = 3 << 20
	addr := attacker(t, func(c net.Conn) {
		br := bufio.NewReader(c)
		r, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		for b := make([]byte, 128<<10); ; time.Sleep(20 * time.Millisecond) {
			if _, err := r.Body.Read(b); err != nil {
				break
			}
		}
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	})
	c := client(t, Config{URL: "http://" + addr, timeouts: timeouts{}})
	if err := c.Send(t.Context(), linesID, make([]byte, size)); err != nil {
		t.Error(err)
	}
}

// Whatever the options, a server or a proxy that cannot prove who it is gets nothing.
func TestTLSIsVerified(t *testing.T) {
	good := issue(t, false, nil)
	got := make(chan string, 1)
	listening := func(c net.Conn) {
		b, _ := io.ReadAll(io.LimitReader(c, 1))
		if len(b) > 0 {
			select {
			case got <- "a byte":
			default:
			}
		}
	}
	for _, tt := range []struct {
		name   string
		cert   certificate
		caFile string // "" for that of cert
		tls    *tls.Config
		want   string
	}{
		{"wrong name", issue(t, false, func(c *x509.Certificate) { c.IPAddresses = nil; c.DNSNames = []string{"logs.example.net"} }), "", &tls.Config{}, "127.0.0.1"},
		{"wrong address", issue(t, false, func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(192, 0, 2, 1)} }), "", &tls.Config{}, "192.0.2.1, not 127.0.0.1"},
		{"a name in the subject alone", issue(t, false, func(c *x509.Certificate) { c.IPAddresses = nil; c.Subject.CommonName = "127.0.0.1" }), "", &tls.Config{}, "127.0.0.1"},
		{"expired", issue(t, false, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Hour) }), "", &tls.Config{}, "expired"},
		{"not yet valid", issue(t, false, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) }), "", &tls.Config{}, "expired or is not yet valid"},
		{"of an unknown authority", issue(t, false, nil), good.file, &tls.Config{}, "CA_FILE names other authorities to trust"},
		{"self-signed", issue(t, true, nil), "", &tls.Config{}, "unknown authority"},
		{"for clients only", issue(t, false, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }), "", &tls.Config{}, "key usage"},
		{"TLS 1.0 at most", good, "", &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS10}, "protocol version"},
		{"TLS 1.1 at most", good, "", &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, "protocol version"},
		{"OK TLS 1.2", good, "", &tls.Config{MaxVersion: tls.VersionTLS12}, ""},
		{"OK TLS 1.3", good, "", &tls.Config{MinVersion: tls.VersionTLS13}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.tls.Certificates = []tls.Certificate{tt.cert.server}
			serve := func(c net.Conn) {
				tc := tls.Server(c, tt.tls)
				defer tc.Close()
				if tt.want == "" {
					after(say("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))(tc)
					return
				}
				listening(tc)
			}
			addr := attacker(t, serve)
			caFile := tt.cert.file
			if tt.caFile != "" {
				caFile = tt.caFile
			}
			o := Config{URL: "https://" + addr, CAFile: caFile}
			check := func(what string, o Config) {
				t.Helper()
				err := client(t, o).Send(t.Context(), linesID, lines)
				if tt.want == "" {
					if err != nil {
						t.Errorf("%s: %v", what, err)
					}
				} else if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("%s: got %v, want %q", what, err, tt.want)
				}
			}
			check("as it is", o)
			if tt.want == "" {
				return
			}
			// No option makes a difference.
			for i := range reflect.TypeFor[Config]().NumField() {
				x := o
				if f := reflect.ValueOf(&x).Elem().Field(i); f.Kind() == reflect.Bool {
					f.SetBool(true)
					check(reflect.TypeFor[Config]().Field(i).Name, x)
				}
			}
			check("proxy", Config{URL: "https://127.0.0.1:1/", Proxy: "https://" + addr, CAFile: caFile})
			select {
			case <-got:
				t.Error("it was sent something")
			default:
			}
		})
	}
	for _, o := range []Config{{URL: "https://a.example"}, {URL: "https://a.example", Gzip: true, Proxy: "https://p.example", CAFile: good.file}} {
		tlsConfig := client(t, o).http.Transport.(*http.Transport).TLSClientConfig
		if tlsConfig.InsecureSkipVerify || tlsConfig.MinVersion < tls.VersionTLS12 || tlsConfig.CipherSuites != nil {
			t.Errorf("%+v", tlsConfig)
		}
	}
}

// Whom to trust is not read from what others can write to.
func TestCAFileIsRefused(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no modes")
	}
	good := issue(t, false, nil)
	pemBytes, err := os.ReadFile(good.file)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, tt := range []struct {
		name string
		make func(path string) error
		want string // behind the path; "" when it is taken
	}{
		{"OK readable by all", func(path string) error { return write(path, pemBytes, 0o644) }, ""},
		{"OK through a link", func(path string) error { return os.Symlink(good.file, path) }, ""},
		{"writable by a group", func(path string) error { return write(path, pemBytes, 0o664) }, ": mode 0664: others than its owner can write whom to trust: chmod go-w it"},
		{"writable by all", func(path string) error { return write(path, pemBytes, 0o606) }, ": mode 0606: others than its owner can write whom to trust: chmod go-w it"},
		{"a directory", func(path string) error { return os.Mkdir(path, 0o700) }, ": is not a regular file"},
		{"a FIFO", func(path string) error { return syscall.Mkfifo(path, 0o600) }, ": is not a regular file"},
		{"/dev/zero", func(path string) error { return os.Symlink("/dev/zero", path) }, ": is not a regular file"},
		{"a gigabyte", func(path string) error {
			return errors.Join(write(path, pemBytes, 0o600), os.Truncate(path, 1<<30))
		}, ": 1073741824 bytes: more than the limit of 16777216"},
		{"another's", func(path string) error {
			if os.Geteuid() != 0 {
				return errors.ErrUnsupported
			}
			return errors.Join(write(path, pemBytes, 0o600), os.Chown(path, 54321, -1))
		}, ": owned by uid 54321, who could have the uploads sent elsewhere: chown root it"},
		{"missing", func(string) error { return nil }, ": no such file or directory"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(dir, strings.Map(func(r rune) rune {
				if r == '/' || r == ' ' {
					return '-'
				}
				return r
			}, tt.name))
			if err := tt.make(path); err != nil {
				t.Skip(err)
			}
			c, err := NewUploader(Config{URL: "https://a.example", CAFile: path})
			if tt.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				c.http.CloseIdleConnections()
				return
			}
			if want := "CA_FILE " + path + tt.want; err == nil || err.Error() != want {
				t.Errorf("got  %v\nwant %s", err, want)
			}
		})
	}
}

func write(path string, b []byte, mode fs.FileMode) error {
	return errors.Join(os.WriteFile(path, b, 0o600), os.Chmod(path, mode))
}

// A pipe is a connection in memory whose peer has said everything beforehand.
type pipe struct {
	net.Conn
	in  *bytes.Reader
	out bytes.Buffer
	mu  sync.Mutex
	got chan struct{} // closed when a request is there
	one sync.Once
}

func (p *pipe) Read(b []byte) (int, error) {
	<-p.got
	return p.in.Read(b)
}

func (p *pipe) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n, err := p.out.Write(b)
	if o := p.out.Bytes(); bytes.HasSuffix(o, []byte("--\r\n")) || o[0] == 0x16 { // or a handshake
		p.one.Do(func() { close(p.got) })
	}
	return n, err
}

func (p *pipe) Close() error                     { p.one.Do(func() { close(p.got) }); return nil }
func (p *pipe) SetDeadline(time.Time) error      { return nil }
func (p *pipe) SetReadDeadline(time.Time) error  { return nil }
func (p *pipe) SetWriteDeadline(time.Time) error { return nil }

// FuzzAnswer: the attempt ends for any answer of a server; it counts as delivered only
// after a 2xx, and as refused only after a 4xx; and its report is one short line.
func FuzzAnswer(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.0 204 \r\n\r\n", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\n\r\n",
		"HTTP/1.1 429 No\r\nRetry-After: 99999999999\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 503 No\r\nRetry-After: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\n",
		"HTTP/1.1 307 No\r\nLocation: /x\r\n\r\n", "HTTP/1.1 302 No\r\nLocation: http://\x1b[0m/\r\n\r\n", "HTTP/1.1 301 No\r\nLocation: https://192.0.2.1/\r\n\r\n",
		"HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nsorry\r\n0\r\n\r\n", "HTTP/1.1 400 \x07\r\n\r\n\x1b]0;x\x07", "HTTP/2 200\r\n\r\n", "SSH-2.0-x\r\n",
		"HTTP/1.1 200 OK\nX\x00: y\n\n", "HTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nxxx",
	} {
		f.Add([]byte(s))
	}
	good := regexp.MustCompile(`HTTP/[0-9]\.[0-9] +2[0-9][0-9]`)
	f.Fuzz(func(t *testing.T, answer []byte) {
		c, err := NewUploader(Config{URL: "http://192.0.2.1/up", timeouts: timeouts{Response: 10 * time.Second, Total: 20 * time.Second}})
		if err != nil {
			t.Fatal(err)
		}
		tr := c.http.Transport.(*http.Transport)
		tr.DisableKeepAlives = true
		tr.DialContext = func(context.Context, string, string) (net.Conn, error) {
			return &pipe{in: bytes.NewReader(answer), got: make(chan struct{})}, nil
		}
		defer c.http.CloseIdleConnections()
		err = c.Send(context.Background(), linesID, lines)
		if err == nil {
			if !good.Match(answer) {
				t.Fatalf("delivered by %q", answer)
			}
			return
		}
		var e *UploadError
		if !errors.As(err, &e) || e.RetryAfter < 0 || e.RetryAfter > time.Hour || e.Content() != (e.Status == 400 || e.Status == 413 || e.Status == 415 || e.Status == 422) {
			t.Fatalf("%#v", err)
		}
		if s := err.Error(); len(s) > 2000 || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 }) {
			t.Fatalf("not one line: %q", s)
		}
	})
}
