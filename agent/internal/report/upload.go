package report

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"html"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"net/netip"
	"net/textproto"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
	"unicode"
)

// UploadOptions are those of [NewUploader]: one HTTPS POST a batch, a multipart form with the
// lines as a file.
type UploadOptions struct {
	// URL is where batches go. It is https, or http with AllowHTTP.
	URL       string
	AllowHTTP bool
	// DeviceID is the value of the form's device field.
	DeviceID string
	// FileField and DeviceField are the names of the form's fields, "" for
	// "upload_file" and "device_id".
	FileField, DeviceField string
	// Gzip sends the file compressed, as application/gzip, under a name that
	// ends in .gz.
	Gzip bool
	// Version stands in the User-Agent.
	Version string
	// Proxy is an http, https, socks5 or socks5h URL, with the credentials in
	// it, "" to go directly. The environment is never asked.
	Proxy string
	// Source is the address to connect from, the zero one to let the system
	// choose.
	Source netip.Addr
	// CAFile has the PEM certificates to trust instead of the system's, see Roots.
	CAFile string
	// Timeouts of the phases of an attempt.
	Timeouts Timeouts
}

// Timeouts bound the phases of an attempt. Zero means the default.
type Timeouts struct {
	// Dial is for the TCP connection, to the proxy if there is one (15 s).
	Dial time.Duration
	// TLS is for the handshake (15 s).
	TLS time.Duration
	// Write is how long the peer may take no byte at all (30 s).
	Write time.Duration
	// Response is from the request's last byte to the answer's header, and
	// again for the beginning of its body (60 s).
	Response time.Duration
	// Total is for the whole attempt (5 min).
	Total time.Duration
}

// HeaderBatch is the request header with the batch's id, which stays the same when a
// batch is sent again.
const HeaderBatch = "X-Threatstop-Batch"

const (
	maxAnswer    = 16 << 10 // bytes of an answer's body that are read
	maxMessage   = 160      // bytes of it that are shown
	maxReason    = 600      // bytes that are shown of why there was none
	maxRedirects = 3
	// maxRetryAfter is the most that a server may ask to wait.
	maxRetryAfter = time.Hour
)

// An Uploader sends batches. It is safe for concurrent use.
type Uploader struct {
	o         UploadOptions
	url       *url.URL
	http      *http.Client
	userAgent string
}

// NewUploader checks the options and returns an Uploader. The CA file or the system's roots are
// read now, so that the process can give up its view of the file system. Nothing is
// sent.
func NewUploader(o UploadOptions) (*Uploader, error) {
	u, err := checkURL(o.URL, o.AllowHTTP)
	if err != nil {
		return nil, err
	}
	t := &o.Timeouts
	orDefault(&t.Dial, 15*time.Second)
	orDefault(&t.TLS, 15*time.Second)
	orDefault(&t.Write, 30*time.Second)
	orDefault(&t.Response, time.Minute)
	orDefault(&t.Total, 5*time.Minute)
	orDefault(&o.FileField, "upload_file")
	orDefault(&o.DeviceField, "device_id")
	orDefault(&o.Version, "0")
	transport, err := newTransport(o)
	if err != nil {
		return nil, err
	}
	return &Uploader{
		o: o, url: u, userAgent: "threatstopd/" + o.Version,
		http: &http.Client{
			Transport:     transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

func newTransport(o UploadOptions) (*http.Transport, error) {
	roots, err := Roots(o.CAFile)
	if err != nil {
		return nil, err
	}
	t := &http.Transport{
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
		TLSHandshakeTimeout:    o.Timeouts.TLS,
		ResponseHeaderTimeout:  o.Timeouts.Response,
		MaxResponseHeaderBytes: 64 << 10,
		MaxIdleConnsPerHost:    1,
		IdleConnTimeout:        30 * time.Second,
		DisableCompression:     true,
	}
	dialer := &net.Dialer{Timeout: o.Timeouts.Dial}
	if o.Source.IsValid() {
		dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(o.Source, 0))
	}
	t.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dialer.DialContext(ctx, network, addr)
		if errors.Is(err, syscall.EADDRNOTAVAIL) && o.Source.IsValid() {
			return nil, fmt.Errorf("SOURCE_ADDRESS %s is no address of this host: change or remove it: %w", o.Source, err)
		}
		if err != nil {
			return nil, err
		}
		return &conn{Conn: c, timeout: o.Timeouts.Write}, nil
	}
	if o.Proxy == "" {
		return t, nil
	}
	p, err := checkProxy(o.Proxy)
	if err != nil {
		return nil, err
	}
	t.Proxy = http.ProxyURL(p)
	// net/http drops the proxy's status, which is not the log server's.
	t.OnProxyConnectResponse = func(_ context.Context, _ *url.URL, _ *http.Request, resp *http.Response) error {
		if resp.StatusCode != http.StatusOK {
			return &proxyError{p.Redacted(), resp.StatusCode}
		}
		return nil
	}
	return t, nil
}

// A proxyError is a proxy's refusal to connect to the log server.
type proxyError struct {
	proxy  string
	status int
}

func (e *proxyError) Error() string {
	s := fmt.Sprintf("PROXY %s answered %d %s", e.proxy, e.status, http.StatusText(e.status))
	if e.status == http.StatusProxyAuthRequired {
		s += ": check the user and password in PROXY"
	}
	return s
}

// conn gives each write a deadline of its own: a large body may take its time, but a
// peer that takes nothing is gone. And it bounds what a peer, the proxy or the server,
// may answer to a request: what reads it is bounded, but not everywhere.
type conn struct {
	net.Conn
	timeout time.Duration
	came    atomic.Int64 // since the last write
}

// maxCame is much more than a handshake, or the header and the beginning of a body, have.
const maxCame = 1 << 20

// writePiece is what a peer that takes anything has taken before the deadline.
const writePiece = 16 << 10

var errTooMuch = fmt.Errorf("answer of more than %d bytes", maxCame)

func (c *conn) Write(b []byte) (n int, err error) {
	c.came.Store(0)
	for {
		piece := b[n:min(n+writePiece, len(b))]
		if err := c.SetWriteDeadline(time.Now().Add(c.timeout)); err != nil {
			return n, err
		}
		m, err := c.Conn.Write(piece)
		if n += m; err != nil || n == len(b) {
			return n, err
		}
	}
}

func (c *conn) Read(b []byte) (int, error) {
	if c.came.Load() > maxCame {
		return 0, errTooMuch
	}
	n, err := c.Conn.Read(b)
	c.came.Add(int64(n))
	return n, err
}

func checkURL(s string, allowHTTP bool) (*url.URL, error) {
	u, err := url.Parse(s)
	switch {
	case s == "":
		return nil, errors.New("log server url: none given")
	case err != nil:
		// The error repeats the URL, which may hold a password.
		return nil, errors.New("log server url: not a URL")
	case u.Scheme == "http" && !allowHTTP:
		return nil, fmt.Errorf("log server url %s: http sends the logs in the clear: use https, or allow it with ALLOW_HTTP=yes", u.Redacted())
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, fmt.Errorf("log server url %s: scheme %q: must be https", u.Redacted(), u.Scheme)
	case u.Hostname() == "":
		return nil, fmt.Errorf("log server url %s: has no host", u.Redacted())
	}
	u.Fragment = ""
	return u, nil
}

func checkProxy(s string) (*url.URL, error) {
	p, err := url.Parse(s)
	if err != nil {
		return nil, errors.New("proxy: not a URL: write http://user:password@host:port, special characters as %XX")
	}
	switch p.Scheme {
	case "http", "https", "socks5", "socks5h":
	default:
		return nil, fmt.Errorf("proxy %s: scheme %q: must be http, https, socks5 or socks5h", p.Redacted(), p.Scheme)
	}
	if p.Hostname() == "" {
		return nil, fmt.Errorf("proxy %s: has no host", p.Redacted())
	}
	return p, nil
}

// CheckUpload reports what [NewUploader] would refuse in a URL and a proxy, without reading files.
func CheckUpload(rawURL string, allowHTTP bool, proxy string) error {
	if _, err := checkURL(rawURL, allowHTTP); err != nil {
		return err
	}
	if proxy != "" {
		if _, err := checkProxy(proxy); err != nil {
			return err
		}
	}
	return nil
}

// An UploadError says why a batch was not delivered.
type UploadError struct {
	// Server is the URL without a password.
	Server string
	// Status is the log server's HTTP status, 0 when it did not answer.
	Status int
	// Message is the beginning of what the server wrote with it.
	Message string
	// RetryAfter is how long the server asked to wait, an hour at most; 0 when it did not.
	RetryAfter time.Duration
	// Err is what went wrong when it was not the status.
	Err error
}

// Error returns one line.
func (e *UploadError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "log server %s: ", e.Server)
	if e.Err != nil {
		b.WriteString(oneLine(e.Err.Error(), maxReason))
		var unknown x509.UnknownAuthorityError
		if errors.As(e.Err, &unknown) {
			b.WriteString(" (CA_FILE names other authorities to trust)")
		}
	} else {
		fmt.Fprintf(&b, "answered %d %s", e.Status, http.StatusText(e.Status))
	}
	if e.Message != "" {
		fmt.Fprintf(&b, ": %q", e.Message)
	}
	if e.RetryAfter > 0 {
		fmt.Fprintf(&b, ", asks to wait %v", e.RetryAfter)
	}
	return b.String()
}

// Unwrap returns Err.
func (e *UploadError) Unwrap() error { return e.Err }

// Content reports whether the answer is about the batch itself, so that sending the same again
// is of no use soon. Every other answer is about the circumstances.
func (e *UploadError) Content() bool {
	switch e.Status {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity:
		return e.Err == nil
	}
	return false
}

// ofBatch reports whether the answer may be about the batch, by its status alone: a 4xx, but for
// those about the time or the way.
func (e *UploadError) ofBatch() bool {
	switch e.Status {
	case http.StatusProxyAuthRequired, http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return false
	}
	return e.Err == nil && e.Status >= 400 && e.Status < 500
}

// Advice returns what the owner can do about the error, "" when it may pass by itself.
func (e *UploadError) Advice() string {
	switch e.Status {
	case http.StatusUnauthorized, http.StatusForbidden:
		return "the service may not know this device yet (15 minutes and more after it was added): check device_id and url"
	case http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusMisdirectedRequest:
		return "the log server takes no logs there: check url"
	case http.StatusProxyAuthRequired:
		return "check the user and password in PROXY"
	}
	return ""
}

// Send makes one attempt to deliver a batch. A nil error means that the server has
// answered 2xx; any other is an *UploadError. A 2xx counts even if what follows it is lost.
func (c *Uploader) Send(ctx context.Context, id ID, text []byte) error {
	ctx, cancel := context.WithTimeout(ctx, c.o.Timeouts.Total)
	defer cancel()
	form, kind, err := c.body(id, text)
	if err != nil {
		return c.fail(err)
	}
	u := c.url
	for range maxRedirects + 1 {
		resp, err := c.post(ctx, u, id, form, kind)
		if err != nil {
			return c.fail(err)
		}
		answer := readAnswer(resp, c.o.Timeouts.Response, cancel)
		switch {
		case resp.StatusCode >= 200 && resp.StatusCode < 300:
			return nil
		case resp.StatusCode >= 300 && resp.StatusCode < 400:
			if u, err = c.redirect(u, resp); err != nil {
				e := c.fail(err)
				e.Status = resp.StatusCode
				return e
			}
			continue
		}
		if resp.StatusCode == http.StatusProxyAuthRequired && c.o.Proxy != "" {
			p, _ := url.Parse(c.o.Proxy)
			return c.fail(&proxyError{p.Redacted(), resp.StatusCode})
		}
		e := c.fail(nil)
		e.Status, e.Message = resp.StatusCode, oneLine(answer, maxMessage)
		e.RetryAfter = min(retryAfter(resp.Header, time.Now()), maxRetryAfter)
		return e
	}
	return c.fail(fmt.Errorf("more than %d redirects", maxRedirects))
}

func (c *Uploader) fail(err error) *UploadError {
	// net/http's wrapper repeats method and URL.
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err
	}
	return &UploadError{Server: c.url.Redacted(), Err: err}
}

// body returns the form and its content type.
func (c *Uploader) body(id ID, text []byte) (form []byte, kind string, err error) {
	name, kind := "pflog-"+id.String()+".txt", "text/plain"
	if c.o.Gzip {
		name, kind = name+".gz", "application/gzip"
		var z bytes.Buffer
		zw := gzip.NewWriter(&z)
		_, err = zw.Write(text)
		if err = errors.Join(err, zw.Close()); err != nil {
			return nil, "", err
		}
		text = z.Bytes()
	}
	b := bytes.NewBuffer(make([]byte, 0, len(text)+1024))
	w := multipart.NewWriter(b)
	err = w.WriteField(c.o.DeviceField, c.o.DeviceID)
	part, err2 := w.CreatePart(textproto.MIMEHeader{
		"Content-Disposition": {multipart.FileContentDisposition(c.o.FileField, name)},
		"Content-Type":        {kind},
	})
	if err = errors.Join(err, err2); err != nil {
		return nil, "", err
	}
	_, err = part.Write(text)
	err = errors.Join(err, w.Close())
	return b.Bytes(), w.FormDataContentType(), err
}

func (c *Uploader) post(ctx context.Context, u *url.URL, id ID, form []byte, kind string) (*http.Response, error) {
	// With a bytes.Reader net/http begins again on a fresh connection when a kept one
	// turns out to be closed.
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), bytes.NewReader(form))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", kind)
	req.Header.Set("User-Agent", c.userAgent)
	req.Header.Set(HeaderBatch, id.String())
	return c.http.Do(req)
}

// readAnswer returns the beginning of an answer's body as text. A server that drips it is cut
// off. We ask for no encoding, but some servers compress what they answer.
func readAnswer(resp *http.Response, timeout time.Duration, cancel context.CancelFunc) string {
	timer := time.AfterFunc(timeout, cancel)
	defer timer.Stop()
	defer resp.Body.Close()
	b, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	switch resp.Header.Get("Content-Encoding") {
	case "", "identity":
	case "gzip":
		z, err := gzip.NewReader(bytes.NewReader(b))
		if err != nil {
			return ""
		}
		b, _ = io.ReadAll(io.LimitReader(z, maxAnswer))
	default:
		return ""
	}
	text := strings.TrimSpace(string(b))
	if !htmlTag.MatchString(text) {
		text, _, _ = strings.Cut(text, "\n")
		return text
	}
	if m := htmlTitle.FindStringSubmatch(text); m != nil {
		return html.UnescapeString(m[1])
	}
	return html.UnescapeString(htmlTag.ReplaceAllString(text, " "))
}

var (
	htmlTitle = regexp.MustCompile(`(?is)<title[^>]*>(.*?)</title>`)
	htmlTag   = regexp.MustCompile(`(?s)<[a-zA-Z/!][^>]*>`)
)

// oneLine returns a text that a server may have had a hand in as one line, printable and short.
func oneLine(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case r < ' ' || r > '~':
			return -1
		}
		return r
	}, s)
	if s = strings.Join(strings.Fields(s), " "); len(s) > most {
		s = s[:most] + "..."
	}
	return s
}

// redirect returns where to post instead. Logs go to no other host than the
// configured one, and not from https to http; and a 303 asks for a GET, which would
// deliver nothing.
func (c *Uploader) redirect(from *url.URL, resp *http.Response) (*url.URL, error) {
	to, err := resp.Location()
	if err != nil {
		return nil, fmt.Errorf("answered %d without a location", resp.StatusCode)
	}
	refuse := func(why string) (*url.URL, error) {
		return nil, fmt.Errorf("redirect (%d) to %s refused: %s: if it is right, set url to it", resp.StatusCode, to.Redacted(), why)
	}
	switch resp.StatusCode {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
	default:
		return refuse("it does not ask for a POST")
	}
	if to.Scheme != "https" && to.Scheme != from.Scheme {
		return refuse("it is not https")
	}
	if !strings.EqualFold(to.Hostname(), c.url.Hostname()) || port(to) != port(from) && to.Scheme == from.Scheme {
		return refuse("it is another host")
	}
	to.User = c.url.User
	return to, nil
}

func port(u *url.URL) string {
	if p := u.Port(); p != "" {
		return p
	}
	if u.Scheme == "https" {
		return "443"
	}
	return "80"
}

// retryAfter reads a Retry-After header, a number of seconds or a date (RFC 9110
// §10.2.3); 0 when there is none that makes sense. A date is taken relative to the
// server's own clock, where it says what that is.
func retryAfter(h http.Header, now time.Time) time.Duration {
	v := strings.TrimSpace(h.Get("Retry-After"))
	if v == "" {
		return 0
	}
	if strings.Trim(v, "0123456789") == "" {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil || n > int64(maxWait/time.Second) {
			return maxWait
		}
		return time.Duration(n) * time.Second
	}
	at, err := http.ParseTime(v)
	if err != nil {
		return 0
	}
	if date, err := http.ParseTime(h.Get("Date")); err == nil {
		now = date
	}
	return min(max(at.Sub(now), 0), maxWait)
}

// maxWait keeps a number of seconds from overflowing; maxRetryAfter is lower.
const maxWait = 365 * 24 * time.Hour

// Close closes idle connections.
func (c *Uploader) Close() { c.http.CloseIdleConnections() }
