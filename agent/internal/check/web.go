package check

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"time"

	"example.org/threatstopd/agent/internal/report"
	"example.org/threatstopd/agent/internal/rules"
)

// webTimeout bounds a request.
const webTimeout = 30 * time.Second

// authorised asks the service whether it knows this host's public address. The
// way is that of the policy, not through the proxy: it is that address that
// counts.
func (t *tester) authorised(ctx context.Context) {
	page := t.Config.AuthURL
	if page == nil {
		if t.refused {
			t.say(rules.Skip, "authorised: the page that shows it is not set", "set AUTH_URL, or look at the web site of the service")
		}
		return
	}
	client := t.client(t.ready.system)
	defer client.CloseIdleConnections()
	answer, body, err := t.get(ctx, client, http.MethodGet, page.String())
	switch {
	case err != nil:
		t.say(rules.Warn, fmt.Sprintf("authorised: %s: %v", page.Redacted(), err), "look at the page with a browser behind the same public address")
		return
	case answer.StatusCode != http.StatusOK:
		t.say(rules.Warn, fmt.Sprintf("authorised: %s: %s", page.Redacted(), answer.Status), "look at AUTH_URL in "+t.File)
		return
	}
	who := ""
	if m := ownAddress().FindStringSubmatch(body); m != nil {
		who = " " + m[1]
	}
	if strings.Contains(body, "Address is in the list of authorized hosts") {
		t.say(rules.OK, fmt.Sprintf("authorised: the service knows this host's public address%s", who))
		return
	}
	t.say(rules.Fail, fmt.Sprintf("authorised: the service does not know this host's public address%s", who),
		"enter it for this device at the web site of the service; that takes 15 minutes to an hour")
}

// ownAddress is compiled when it is needed, and not at every start.
var ownAddress = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`Your IP address: *(?:<[^>]*>)* *([0-9A-Fa-f.:]{2,45})`)
})

// client makes an HTTP client that connects as Env does.
func (t *tester) client(roots *x509.CertPool) *http.Client {
	return &http.Client{
		Timeout:       webTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext:            t.Dial,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, Time: t.Now},
			TLSHandshakeTimeout:    webTimeout,
			MaxResponseHeaderBytes: 64 << 10,
		},
	}
}

// get makes a request and returns the answer with the beginning of its body.
func (t *tester) get(ctx context.Context, c *http.Client, method, url string) (*http.Response, string, error) {
	const most = 64 << 10
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return nil, "", err
	}
	req.Header.Set("User-Agent", "threatstopd")
	answer, err := c.Do(req)
	if err != nil {
		return nil, "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, most))
	return answer, string(body), err
}

// logServer makes the connection that an upload needs, without one: any answer
// will do.
func (t *tester) logServer(ctx context.Context) {
	cfg := t.Config
	if !t.report() {
		t.say(rules.Skip, "log server: hits are not reported (UPLOAD=no)")
		return
	}
	via := ""
	if cfg.Proxy != nil {
		via = " through proxy " + cfg.Proxy.Host
	}
	where := "log server " + cfg.URL.Host + via
	roots, err := t.ready.roots, t.ready.rootsErr
	if err != nil {
		t.say(rules.Fail, "log server: "+err.Error(), "CA_FILE names certificates in PEM form that root can read; without it they are the system's")
		return
	}
	client := t.client(roots)
	defer client.CloseIdleConnections()
	if cfg.Proxy != nil {
		client.Transport.(*http.Transport).Proxy = http.ProxyURL(cfg.Proxy)
	}
	answer, _, err := t.get(ctx, client, http.MethodHead, cfg.URL.String())
	if err != nil {
		t.noAnswer(where, err)
		return
	}
	secure := "without TLS"
	if answer.TLS != nil {
		secure = tls.VersionName(answer.TLS.Version)
		if len(answer.TLS.PeerCertificates) > 0 {
			secure += ", certificate good until " + answer.TLS.PeerCertificates[0].NotAfter.In(t.Local).Format(time.DateOnly)
		}
	}
	switch code := answer.StatusCode; {
	case code == http.StatusProxyAuthRequired:
		t.say(rules.Fail, fmt.Sprintf("%s: %s", where, answer.Status), "PROXY takes a user and a password: http://user:password@host:port")
		return
	case code == http.StatusNotFound || code == http.StatusGone || code >= 500:
		t.say(rules.Warn, fmt.Sprintf("%s answers %s", where, answer.Status), "look at url in "+t.File+", or try again later")
	default:
		t.say(rules.OK, fmt.Sprintf("%s answers: %s", where, secure))
	}
	t.clock(answer)
}

// noAnswer returns why there was no answer.
func (t *tester) noAnswer(where string, err error) {
	var (
		invalid x509.CertificateInvalidError
		unknown x509.UnknownAuthorityError
		name    x509.HostnameError
		do      = "let TCP to it out, here and at any firewall on the way, or set PROXY"
	)
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		do = fmt.Sprintf("this host's clock says %s: set it (rdate pool.ntp.org; rcctl enable ntpd), or the certificate is past its time", t.Now().In(t.Local).Format(time.DateTime))
	case errors.As(err, &unknown):
		do = "CA_FILE names the certificates to trust; something on the way may be opening the connection"
	case errors.As(err, &name):
		do = "look at url in " + t.File
	case strings.Contains(err.Error(), "Proxy Authentication Required"):
		do = "PROXY takes a user and a password: http://user:password@host:port"
	case strings.Contains(err.Error(), "no such host"):
		do = "look at url, and at the resolver (/etc/resolv.conf)"
	}
	var op *net.OpError
	text := err.Error()
	if errors.As(err, &op) && op.Op == "dial" {
		text = op.Error()
	}
	t.say(rules.Fail, where+": "+text, do)
}

// maxSkew is how wrong the clock may be: certificates allow for much more, but
// the times of hits would be wrong.
const maxSkew = 2 * time.Minute

// clock compares the clock with that of the log server.
func (t *tester) clock(answer *http.Response) {
	there, err := http.ParseTime(answer.Header.Get("Date"))
	if err != nil {
		t.say(rules.Skip, "clock: the log server does not send the time")
		return
	}
	skew := t.Now().Sub(there)
	if skew.Abs() > maxSkew {
		side := "ahead of"
		if skew < 0 {
			side = "behind"
		}
		t.say(rules.Fail, fmt.Sprintf("clock: %v %s the log server's", skew.Abs().Round(time.Second), side), "rcctl enable ntpd", "rcctl start ntpd", "rdate pool.ntp.org")
		return
	}
	t.say(rules.OK, fmt.Sprintf("clock: within %v of the log server's", max(skew.Abs().Round(time.Second), time.Second)))
}

// readRoots reads the certificates to trust, nil for the system's.
func readRoots(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	return report.Roots(file)
}
