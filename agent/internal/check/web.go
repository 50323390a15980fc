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
	"net/url"
	"regexp"
	"strings"
	"time"

	"example.org/threatstopd/agent/internal/rules"
)

const (
	webTimeout = 30 * time.Second // bounds a request
	maxPage    = 64 << 10         // bytes of an answer's header, and of its body
)

// get makes a request and returns the answer with the beginning of its body.
func (t *tester) get(ctx context.Context, method string, page *url.URL, roots *x509.CertPool, proxy *url.URL) (
	*http.Response, string, error) {
	transport := &http.Transport{
		DialContext:            t.Dial,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, Time: t.Now},
		TLSHandshakeTimeout:    webTimeout,
		MaxResponseHeaderBytes: maxPage,
		DisableKeepAlives:      true,
	}
	if proxy != nil {
		transport.Proxy = http.ProxyURL(proxy)
	}
	ctx, cancel := context.WithTimeout(ctx, webTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, page.String(), nil)
	if err != nil {
		return nil, "", err
	}
	req.Header.Set("User-Agent", "threatstopd")
	if password, ok := page.User.Password(); ok {
		req.SetBasicAuth(page.User.Username(), password)
	}
	answer, err := transport.RoundTrip(req)
	if err != nil {
		return nil, "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxPage))
	return answer, string(body), err
}

// authorised asks the service whether it knows this host's public address. The way is that of the policy, not
// through the proxy: it is that address that counts.
func (t *tester) authorised(ctx context.Context) {
	page := t.Config.AuthURL
	if t.noSource {
		return
	}
	if page == nil {
		if t.refused {
			t.say(rules.Skip, []string{"set AUTH_URL, or look at the web site of the service"},
				"authorised: the page that shows it is not set")
		}
		return
	}
	answer, body, err := t.get(ctx, http.MethodGet, page, t.system, nil)
	if err != nil {
		t.say(rules.Warn, []string{"look at the page with a browser behind the same public address"},
			"authorised: %s: %v", page.Redacted(), err)
		return
	}
	if answer.StatusCode != http.StatusOK {
		t.say(rules.Warn, []string{"look at AUTH_URL in " + t.File}, "authorised: %s: %s", page.Redacted(), answer.Status)
		return
	}
	who := ""
	if m := regexp.MustCompile(`Your IP address: *(?:<[^>]*>)* *([0-9A-Fa-f.:]{2,45})`).FindStringSubmatch(body); m != nil {
		who = " " + m[1]
	}
	if strings.Contains(body, "Address is in the list of authorized hosts") {
		t.ok("authorised: the service knows this host's public address%s", who)
		return
	}
	t.say(rules.Fail, []string{"enter it for this device at the web site of the service; that takes 15 minutes to an hour"},
		"authorised: the service does not know this host's public address%s", who)
}

const proxyPassword = "PROXY takes a user and a password: http://user:password@host:port"

// logServer makes the connection that an upload needs, without one: any answer will do.
func (t *tester) logServer(ctx context.Context) {
	cfg := t.Config
	if !t.report() {
		t.say(rules.Skip, nil, "log server: hits are not reported (UPLOAD=no)")
		return
	}
	if t.noSource {
		t.say(rules.Skip, nil, "log server: nothing can be asked from SOURCE_ADDRESS")
		return
	}
	if t.rootsErr != nil {
		t.file("CA file "+cfg.CAFile, t.rootsErr, rules.Fail, "CA_FILE names certificates in PEM form; without it they are the system's")
		return
	}
	where := "log server " + cfg.URL.Host
	if cfg.Proxy != nil {
		where += " through proxy " + cfg.Proxy.Host
	}
	answer, _, err := t.get(ctx, http.MethodHead, cfg.URL, t.roots, cfg.Proxy)
	if err != nil {
		t.say(rules.Fail, []string{t.remedy(err)}, "%s: %v", where, err)
		return
	}
	secure := "without TLS"
	if answer.TLS != nil {
		secure = tls.VersionName(answer.TLS.Version)
		if certs := answer.TLS.PeerCertificates; len(certs) > 0 {
			secure += ", certificate good until " + certs[0].NotAfter.In(t.Local).Format(time.DateOnly)
		}
	}
	switch code := answer.StatusCode; {
	case code == http.StatusProxyAuthRequired:
		t.say(rules.Fail, []string{proxyPassword}, "%s: %s", where, answer.Status)
		return
	case code == http.StatusNotFound || code == http.StatusGone || code >= 500:
		t.say(rules.Warn, []string{"look at url in " + t.File + ", or try again later"}, "%s answers %s", where, answer.Status)
	default:
		t.ok("%s answers: %s", where, secure)
	}
	t.clock(answer)
}

// remedy returns what to do when the log server does not answer.
func (t *tester) remedy(err error) string {
	var (
		invalid x509.CertificateInvalidError
		unknown x509.UnknownAuthorityError
		name    x509.HostnameError
		dns     *net.DNSError
	)
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Sprintf("this host's clock says %s: set it (rdate pool.ntp.org; rcctl enable ntpd), "+
			"or the certificate is past its time", t.Now().In(t.Local).Format(time.DateTime))
	case errors.As(err, &unknown):
		return "CA_FILE names the certificates to trust; something on the way may be opening the connection"
	case strings.Contains(err.Error(), "Proxy Authentication Required"):
		return proxyPassword
	case errors.As(err, &name) || errors.As(err, &dns):
		return "look at url in " + t.File + ", and at the resolver (/etc/resolv.conf)"
	}
	return "let TCP to it out, here and at any firewall on the way, or set PROXY"
}

// clock compares the clock with that of the log server. Certificates allow for much more than two minutes, but
// the times of hits would be wrong.
func (t *tester) clock(answer *http.Response) {
	const most = 2 * time.Minute
	there, err := http.ParseTime(answer.Header.Get("Date"))
	skew, side := t.Now().Sub(there), "ahead of"
	if skew < 0 {
		side = "behind"
	}
	skew = max(skew.Abs().Round(time.Second), time.Second)
	switch {
	case err != nil:
		t.say(rules.Skip, nil, "clock: the log server does not send the time")
	case skew > most:
		t.say(rules.Fail, []string{"rcctl enable ntpd", "rcctl start ntpd", "rdate pool.ntp.org"},
			"clock: %v %s the log server's", skew, side)
	default:
		t.ok("clock: within %v of the log server's", skew)
	}
}
