package report

import (
	"bytes"
	"cmp"
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
	"os"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	owner "example.org/threatstopd/agent/internal/host"
	"example.org/threatstopd/agent/internal/privsep"
)

// timeouts bound the phases of an attempt. Zero means the default.
type timeouts struct {
	Dial     time.Duration // for the TCP connection, to the proxy if there is one: 15 s
	TLS      time.Duration // for the handshake: 15 s
	Response time.Duration // from the request's last byte to the answer's header, and again for its body: 60 s
	Total    time.Duration // for the whole attempt: 5 min
}

// HeaderBatch is the request header with the batch's id, the same when a batch is sent again.
const HeaderBatch = "X-Threatstop-Batch"

const (
	maxAnswer     = 16 << 10 // bytes of an answer's body that are read
	maxMessage    = 160      // bytes of it that are shown
	maxReason     = 600      // bytes that are shown of why there was none
	maxRedirects  = 3
	maxRetryAfter = time.Hour // the most that a server may ask to wait
	maxCAFile     = 16 << 20  // larger than all the authorities that there are
)

// An Uploader sends batches: one HTTP POST each, a multipart form with the lines as a file.
type Uploader struct {
	c    Config
	url  *url.URL
	http *http.Client
}

// NewUploader reads the CA file or the system's roots, so that the process can give up its view of
// the file system. Nothing is sent.
func NewUploader(c Config) (*Uploader, error) {
	u, err := url.Parse(c.URL)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return nil, errors.New("url: is no URL of a log server") // the text may hold a password
	}
	u.Fragment = ""
	t := &c.timeouts
	t.Dial, t.TLS = cmp.Or(t.Dial, 15*time.Second), cmp.Or(t.TLS, 15*time.Second)
	t.Response, t.Total = cmp.Or(t.Response, time.Minute), cmp.Or(t.Total, 5*time.Minute)
	roots, err := Roots(c.CAFile)
	if err != nil {
		return nil, err
	}
	dialer := &net.Dialer{Timeout: c.timeouts.Dial}
	if c.Source.IsValid() {
		dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(c.Source, 0))
	}
	tr := &http.Transport{
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
		TLSHandshakeTimeout:    c.timeouts.TLS,
		ResponseHeaderTimeout:  c.timeouts.Response,
		MaxResponseHeaderBytes: 64 << 10,
		MaxIdleConnsPerHost:    1,
		IdleConnTimeout:        30 * time.Second,
		DisableCompression:     true,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, addr)
			switch {
			case !c.Source.IsValid():
			case errors.Is(err, syscall.EADDRNOTAVAIL):
				err = fmt.Errorf("SOURCE_ADDRESS %s is no address of this host: %w", c.Source, err)
				err = advised{err, "change or remove SOURCE_ADDRESS"}
			case is[*net.AddrError](err):
				err = fmt.Errorf("SOURCE_ADDRESS %s is of another family than the other end's: %w", c.Source, err)
				err = advised{err, "change or remove SOURCE_ADDRESS"}
			}
			return conn, err
		},
	}
	if c.Proxy != "" {
		p, err := url.Parse(c.Proxy)
		if err != nil {
			return nil, errors.New("PROXY: is no URL")
		}
		tr.Proxy = http.ProxyURL(p)
		// net/http drops the proxy's status, which is not the log server's.
		tr.OnProxyConnectResponse = func(_ context.Context, _ *url.URL, _ *http.Request, resp *http.Response) error {
			return proxyAnswer(p, resp.StatusCode)
		}
	}
	never := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &Uploader{c: c, url: u, http: &http.Client{Transport: tr, CheckRedirect: never}}, nil
}

// An advised error is one that no retry cures, with what the owner can do about it.
type advised struct {
	error
	advice string
}

func (e advised) Unwrap() error { return e.error }

// proxyAnswer returns the error that a proxy's own answer is, nil for a 200.
func proxyAnswer(proxy *url.URL, status int) error {
	err := fmt.Errorf("PROXY %s answered %d %s", proxy.Redacted(), status, http.StatusText(status))
	switch {
	case status == http.StatusOK:
		return nil
	case status == http.StatusProxyAuthRequired:
		return advised{err, proxyPassword}
	case status >= 400 && status < 500 && !statuses[status].timing:
		return advised{err, proxyRules}
	}
	return err
}

// An UploadError says why a batch was not delivered.
type UploadError struct {
	Server     string        // its URL without a password
	Status     int           // the log server's HTTP status, 0 when it did not answer
	Message    string        // the beginning of what the server wrote with it
	RetryAfter time.Duration // how long the server asked to wait, an hour at most; 0 when it did not
	Err        error         // what went wrong when it was not the status
}

// Error returns one line, with the advice.
func (e *UploadError) Error() string {
	if advice := e.advice(); advice != "" {
		return e.reason() + ": " + advice
	}
	return e.reason()
}

// reason is Error without the advice.
func (e *UploadError) reason() string {
	s := fmt.Sprintf("answered %d %s", e.Status, http.StatusText(e.Status))
	if e.Err != nil {
		s = oneLine(e.Err.Error(), maxReason)
	}
	if errors.Is(e.Err, io.EOF) || errors.Is(e.Err, io.ErrUnexpectedEOF) {
		s = strings.TrimSuffix(strings.TrimSuffix(s, "EOF"), "unexpected ") + "the server closed the connection before it answered"
	}
	if e.Message != "" {
		s += fmt.Sprintf(": %q", e.Message)
	}
	if e.RetryAfter > 0 {
		s += fmt.Sprintf(", asks to wait %v", e.RetryAfter)
		if e.RetryAfter == maxRetryAfter {
			s += " or more"
		}
	}
	return "log server " + e.Server + ": " + s
}

// Unwrap returns Err.
func (e *UploadError) Unwrap() error { return e.Err }

// statuses has what an answer is about that is neither a 2xx nor one whose cause may pass by itself.
var statuses = map[int]struct {
	content bool   // the batch itself: sending the same again is of no use soon
	timing  bool   // a 4xx, and not about the batch
	advice  string // what the owner can do
}{
	400: {content: true}, 413: {content: true}, 415: {content: true}, 422: {content: true},
	401: {advice: unknownDevice}, 403: {advice: unknownDevice},
	404: {advice: wrongURL}, 405: {advice: wrongURL}, 410: {advice: wrongURL}, 421: {advice: wrongURL},
	407: {timing: true, advice: "it answers as a proxy does: check url and PROXY"},
	408: {timing: true}, 425: {timing: true}, 429: {timing: true},
	501: {advice: wrongURL}, 505: {advice: wrongURL},
}

const (
	unknownDevice = "the service may not know this device yet (15 minutes and more after it was added): check device_id and url"
	wrongURL      = "the log server takes no logs there: check url"
	refusesLogs   = "the log server refuses the logs: check device_id and url, or ask the service"
	proxyPassword = "check the user and password in PROXY"
	proxyRules    = "the proxy has to allow connections to the log server: change its rules, or PROXY"
)

// advice returns what the owner can do about an error that no retry cures, "" for one that may pass by itself.
func (e *UploadError) advice() string {
	if e.Err != nil {
		return adviceOn(e.Err)
	}
	if e.ofBatch() && !e.Content() {
		return cmp.Or(statuses[e.Status].advice, refusesLogs)
	}
	return statuses[e.Status].advice
}

// adviceOn is advice for an error that is no answer of the log server.
func adviceOn(err error) string {
	var a advised
	var op *net.OpError
	var name *net.DNSError
	peer, check, way := "the log server", "check url", ""
	if errors.As(err, &op) {
		way = op.Op
	}
	if way == "proxyconnect" {
		peer, check = "the proxy", "check PROXY"
	}
	text := err.Error()
	switch {
	case errors.As(err, &a):
		return a.advice
	case is[x509.UnknownAuthorityError](err):
		return "CA_FILE names other authorities to trust: set it, or " + check
	case is[x509.HostnameError](err):
		return "the certificate is for another host: " + check
	case is[*tls.CertificateVerificationError](err):
		return peer + " needs another certificate, unless this host's clock is wrong: check date(1)"
	case is[tls.RecordHeaderError](err), errors.Is(err, http.ErrSchemeMismatch):
		return peer + " speaks no TLS there: " + check
	case strings.Contains(text, "protocol version"):
		return peer + " must speak TLS 1.2 or later: " + check
	case errors.As(err, &name) && name.IsNotFound:
		return "no such host: " + check
	case strings.Contains(text, "failed to parse Location"):
		return wrongURL
	case way == "proxyconnect" && errors.Is(err, syscall.ECONNREFUSED):
		return "no proxy answers there: " + check
	case way == "socks connect" && strings.Contains(text, "authentication"):
		return proxyPassword
	case way == "socks connect" && strings.Contains(text, "ruleset"):
		return proxyRules
	}
	return ""
}

// is reports whether err is an E, or wraps one.
func is[E error](err error) bool {
	var e E
	return errors.As(err, &e)
}

// Content reports whether the answer is about the batch itself, so that sending the same again
// is of no use soon. Every other answer is about the circumstances.
func (e *UploadError) Content() bool { return e != nil && e.Err == nil && statuses[e.Status].content }

// ofBatch reports whether the answer may be about the batch, by its status alone.
func (e *UploadError) ofBatch() bool {
	return e != nil && e.Err == nil && e.Status >= 400 && e.Status < 500 && !statuses[e.Status].timing
}

// Send makes one attempt to deliver a batch. A nil error means that the server has
// answered 2xx; any other is an *UploadError. A 2xx counts even if what follows it is lost.
func (c *Uploader) Send(ctx context.Context, id ID, text []byte) error {
	ctx, cancel := context.WithTimeout(ctx, c.c.timeouts.Total)
	defer cancel()
	form, kind := c.body(id, text)
	u := c.url
	for range maxRedirects + 1 {
		// With a bytes.Reader net/http begins again on a fresh connection when a kept one
		// turns out to be closed.
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), bytes.NewReader(form))
		if err != nil {
			return c.fail(err)
		}
		req.Header = http.Header{
			"Content-Type": {kind}, "User-Agent": {"threatstopd/" + c.c.Version}, HeaderBatch: {id.String()},
		}
		resp, err := c.http.Do(req)
		if err != nil {
			return c.fail(err)
		}
		answer := readAnswer(resp, c.c.timeouts.Response, cancel)
		e := c.fail(nil)
		e.Status = resp.StatusCode
		switch {
		case e.Status >= 200 && e.Status < 300:
			return nil
		case e.Status >= 300 && e.Status < 400:
			if u, e.Err = c.redirect(u, resp); e.Err != nil {
				return e
			}
			continue
		}
		if p, err := url.Parse(c.c.Proxy); err == nil && p.Host != "" && u.Scheme == "http" && e.Status == http.StatusProxyAuthRequired {
			e.Err = proxyAnswer(p, e.Status)
			return e
		}
		e.Message, e.RetryAfter = oneLine(answer, maxMessage), retryAfter(resp.Header, time.Now())
		return e
	}
	return c.fail(advised{fmt.Errorf("more than %d redirects", maxRedirects), wrongURL})
}

func (c *Uploader) fail(err error) *UploadError {
	// net/http's wrapper repeats method and URL.
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err
	}
	return &UploadError{Server: c.url.Redacted(), Err: err}
}

// body returns the form and its content type. Writing to a buffer does not fail.
func (c *Uploader) body(id ID, text []byte) (form []byte, kind string) {
	name, kind := "pflog-"+id.String()+".txt", "text/plain"
	if c.c.Gzip {
		name, kind = name+".gz", "application/gzip"
		var z bytes.Buffer
		zw := gzip.NewWriter(&z)
		_, _ = zw.Write(text)
		_ = zw.Close()
		text = z.Bytes()
	}
	b := bytes.NewBuffer(make([]byte, 0, len(text)+1024))
	w := multipart.NewWriter(b)
	_ = w.WriteField(cmp.Or(c.c.DeviceField, "device_id"), c.c.DeviceID)
	part, _ := w.CreatePart(textproto.MIMEHeader{
		"Content-Disposition": {multipart.FileContentDisposition(cmp.Or(c.c.FileField, "upload_file"), name)},
		"Content-Type":        {kind},
	})
	_, _ = part.Write(text)
	_ = w.Close()
	return b.Bytes(), w.FormDataContentType()
}

// readAnswer returns the beginning of an answer's body as text. A server that drips it is cut
// off.
func readAnswer(resp *http.Response, timeout time.Duration, cancel context.CancelFunc) string {
	timer := time.AfterFunc(timeout, cancel)
	defer timer.Stop()
	defer resp.Body.Close()
	b, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if e := resp.Header.Get("Content-Encoding"); e != "" && e != "identity" {
		return "" // which we have not asked for
	}
	return html.UnescapeString(htmlTag.ReplaceAllString(string(b), " "))
}

var htmlTag = regexp.MustCompile(`(?s)<[a-zA-Z/!][^>]*>`)

// oneLine returns a text that a server may have had a hand in as one line, printable and short.
func oneLine(s string, most int) string {
	return privsep.Clean(strings.Join(strings.Fields(s), " "), most)
}

// redirect returns where to post instead. Logs go to no other host than the
// configured one, and not from https to http; and a 303 asks for a GET, which would
// deliver nothing.
func (c *Uploader) redirect(from *url.URL, resp *http.Response) (*url.URL, error) {
	to, err := resp.Location()
	if err != nil {
		return nil, advised{fmt.Errorf("answered %d without a location", resp.StatusCode), wrongURL}
	}
	refuse := func(why string) (*url.URL, error) {
		return nil, advised{fmt.Errorf("redirect (%d) to %s refused: %s", resp.StatusCode, to.Redacted(), why),
			"if it is right, set url to it"}
	}
	switch resp.StatusCode {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
	default:
		return refuse("it does not ask for a POST")
	}
	if to.Scheme != "https" && to.Scheme != from.Scheme {
		return refuse("it is not https")
	}
	if !strings.EqualFold(to.Hostname(), c.url.Hostname()) || to.Scheme == from.Scheme && to.Port() != from.Port() {
		return refuse("it is another host")
	}
	to.User = c.url.User
	return to, nil
}

// retryAfter reads a Retry-After header, a number of seconds or a date (RFC 9110
// §10.2.3): at most maxRetryAfter, 0 when there is none that makes sense. A date is taken
// relative to the server's own clock, where it says what that is.
func retryAfter(h http.Header, now time.Time) time.Duration {
	v := strings.TrimSpace(h.Get("Retry-After"))
	if n, err := strconv.ParseUint(v, 10, 32); err == nil || errors.Is(err, strconv.ErrRange) {
		return min(time.Duration(n)*time.Second, maxRetryAfter)
	}
	at, err := http.ParseTime(v)
	if err != nil {
		return 0
	}
	if date, err := http.ParseTime(h.Get("Date")); err == nil {
		now = date
	}
	return min(max(at.Sub(now), 0), maxRetryAfter)
}

// Roots reads the certificates to trust from a file in PEM form, or the system's where
// file is "". Whoever can write to the file can read the uploads, and so one that others
// can write to is refused, or that belongs to another user than root and the one that
// this process runs as.
func Roots(file string) (*x509.CertPool, error) {
	if file == "" {
		pool, err := x509.SystemCertPool()
		if err != nil {
			return nil, fmt.Errorf("system's CA certificates: %w", err)
		}
		return pool, nil
	}
	pem, err := readTrusted(file)
	pool := x509.NewCertPool()
	if err == nil && !pool.AppendCertsFromPEM(pem) {
		err = errors.New("no PEM certificate in it")
	}
	if err != nil {
		return nil, fmt.Errorf("CA_FILE %s: %w", file, cause(err))
	}
	return pool, nil
}

func readTrusted(file string) ([]byte, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	uid, stranger := owner.Stranger(fi)
	switch mode := fi.Mode(); {
	case !mode.IsRegular():
		return nil, errors.New("is not a regular file")
	case stranger:
		return nil, fmt.Errorf("owned by uid %d, who could have the uploads sent elsewhere: chown root it", uid)
	case mode.Perm()&0o022 != 0:
		return nil, fmt.Errorf("mode %04o: others than its owner can write whom to trust: chmod go-w it", mode.Perm())
	case fi.Size() > maxCAFile:
		return nil, fmt.Errorf("%d bytes: more than the limit of %d", fi.Size(), maxCAFile)
	}
	return io.ReadAll(io.LimitReader(f, maxCAFile))
}
