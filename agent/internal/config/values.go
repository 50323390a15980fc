package config

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// kind is what a key may hold: how it is read into a field of a Config and written back.
type kind struct {
	Allowed string // completes "allowed: …"
	// list: the value is words between blanks, newlines included.
	list bool
	// set reads a value, which is not empty and has no blanks at its ends. Its error completes a
	// sentence that begins with the value.
	set func(s string, warn warnFunc) error
	// text gives the value back in the form that set reads; empty is unset.
	text func() string
	// shown is text without secrets; nil where a value cannot hold one.
	shown func() string
}

// try returns why a value is refused. It changes no Config.
func (k *Key) try(value string) error {
	keys := Keys()
	i := slices.IndexFunc(keys, func(x Key) bool { return x.Name == k.Name })
	return keys[i].set(value, func(string, ...any) {})
}

// warnFunc reports what a value is accepted with.
type warnFunc = func(format string, args ...any)

// simple makes a kind of a field with a parser and a formatter.
func simple[T any](field *T, allowed string, parse func(string) (T, error), format func(T) string) kind {
	return kind{
		Allowed: allowed,
		set: func(s string, _ warnFunc) error {
			v, err := parse(s)
			if err == nil {
				*field = v
			}
			return err
		},
		text: func() string { return format(*field) },
	}
}

// asText formats a value; the zero value is unset.
func asText[T comparable](v T) string {
	var unset T
	if v == unset {
		return ""
	}
	return fmt.Sprint(v)
}

// checked makes a parser of a check.
func checked(check func(string) error) func(string) (string, error) {
	return func(s string) (string, error) { return s, check(s) }
}

// listOf makes a kind of a field of several words. Words that come to the same are taken once.
func listOf[T comparable](field *[]T, allowed string, parse func(string) (T, error), format func(T) string) kind {
	return kind{
		Allowed: allowed,
		list:    true,
		set: func(s string, warn warnFunc) error {
			*field = nil
			for _, w := range strings.Fields(s) {
				v, err := parse(w)
				switch {
				case err != nil && strings.Contains(w, ","):
					return &wordError{w, fmt.Errorf("%w: put blanks, not commas, between the words", err)}
				case err != nil:
					return &wordError{w, err}
				case slices.Contains(*field, v):
					warn("%q is given twice", brief(w))
				default:
					*field = append(*field, v)
				}
			}
			return nil
		},
		text: func() string {
			var words []string
			for _, v := range *field {
				words = append(words, format(v))
			}
			return strings.Join(words, " ")
		},
	}
}

// wordError is what is wrong with one word of a list.
type wordError struct {
	word string
	error
}

// oneOf takes words, capitals aside; each stands for a value.
func oneOf[T comparable](field *T, allowed string, values map[string]T, format func(T) string) kind {
	return simple(field, allowed, func(s string) (T, error) {
		v, ok := values[strings.ToLower(s)]
		if !ok {
			return v, errors.New("is unknown")
		}
		return v, nil
	}, format)
}

func yesNo(field *bool) kind {
	return oneOf(field, "yes or no (or true, false, on, off, 1, 0)",
		map[string]bool{"yes": true, "true": true, "on": true, "1": true, "no": false, "false": false, "off": false, "0": false},
		func(b bool) string {
			if b {
				return "yes"
			}
			return "no"
		})
}

// between makes a kind of a number with bounds. allowed has two %s for them.
func between[T cmp.Ordered](field *T, allowed string, least, most T, parse func(string) (T, error), format func(T) string) kind {
	return simple(field, fmt.Sprintf(allowed, format(least), format(most)),
		func(s string) (T, error) {
			v, err := parse(s)
			switch {
			case err == nil && v < least:
				err = errors.New("is too small")
			case err == nil && v > most || errors.Is(err, strconv.ErrRange):
				err = errors.New("is too large")
			}
			return v, err
		}, format)
}

func duration(field *time.Duration, least, most time.Duration) kind {
	return between(field, "a duration from %s to %s, in whole w, d, h, m or s", least, most, parseDuration, formatDuration)
}

var (
	durationForm  = regexp.MustCompile(`^(?:(\d+)w)?(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?$`)
	durationUnits = []time.Duration{7 * day, day, time.Hour, time.Minute, time.Second}
)

// parseDuration reads whole numbers with units, the larger first: 1h30m. A lone 0 needs none.
func parseDuration(s string) (time.Duration, error) {
	m := durationForm.FindStringSubmatch(s)
	switch {
	case s == "0":
		return 0, nil
	case s == "" || m == nil:
		return 0, errors.New("is not a duration")
	}
	seconds := 0.0
	for i, unit := range durationUnits {
		n, _ := strconv.ParseFloat("0"+m[i+1], 64) // infinite where there are too many digits
		seconds += n * unit.Seconds()
	}
	return time.Duration(min(seconds, 1e9)) * time.Second, nil // 1e9: more than any bound
}

// formatDuration writes whole seconds as parseDuration reads them: days from two on, since 24h is common.
func formatDuration(d time.Duration) string {
	if d%day == 0 && d >= 2*day {
		return fmt.Sprintf("%dd", d/day)
	}
	var b strings.Builder
	for i, unit := range durationUnits[2:] {
		if n := d / unit; n > 0 {
			fmt.Fprintf(&b, "%d%c", n, "hms"[i])
			d -= n * unit
		}
	}
	return cmp.Or(b.String(), "0")
}

func count(field *int, least, most int) kind {
	return between(field, "a whole number from %s to %s", least, most, func(s string) (int, error) {
		n, err := strconv.ParseUint(s, 10, 31)
		if errors.Is(err, strconv.ErrSyntax) {
			err = errors.New("is not a whole number")
		}
		return int(n), err
	}, strconv.Itoa)
}

// sizeUnits are powers of 1024, the first for numbers without a unit.
const sizeUnits = " KMG"

func size(field *int64, least, most int64) kind {
	return between(field, "a number of bytes from %s to %s, with K, M or G behind it for powers of 1024", least, most,
		func(s string) (int64, error) {
			digits := strings.TrimRight(strings.ToUpper(s), "KMG")
			unit := max(0, strings.Index(sizeUnits, strings.ToUpper(s[len(digits):])))
			n, err := strconv.ParseUint(digits, 10, 63)
			switch {
			case err == nil && n > math.MaxInt64>>(10*unit):
				err = strconv.ErrRange
			case errors.Is(err, strconv.ErrSyntax) || len(s) > len(digits)+1:
				err = errors.New("is not a number of bytes")
			}
			return int64(n) << (10 * unit), err
		}, formatSize)
}

func formatSize(n int64) string {
	unit := 0
	for n != 0 && n%1024 == 0 && unit < 3 {
		n /= 1024
		unit++
	}
	return strings.TrimSpace(strconv.FormatInt(n, 10) + sizeUnits[unit:unit+1])
}

// percent keeps a part from 0 to 1.
func percent(field *float64) kind {
	return between(field, "a percentage from %s to %s, such as 50%%", 0, 1,
		func(s string) (float64, error) {
			n, err := strconv.ParseUint(strings.TrimSuffix(s, "%"), 10, 31)
			if errors.Is(err, strconv.ErrSyntax) {
				err = errors.New("is not a whole percentage")
			}
			return float64(n) / 100, err
		},
		func(f float64) string { return strconv.Itoa(int(math.Round(f*100))) + "%" })
}

// filePath is an absolute path of a file or of a directory, cleaned.
func filePath(field *string, what string) kind {
	return simple(field, "the absolute path of a "+what+", at most 1023 bytes",
		func(s string) (string, error) {
			switch {
			case !strings.HasPrefix(s, "/"):
				return "", errors.New("does not begin with /")
			case what == "file" && strings.HasSuffix(s, "/"):
				return "", errors.New("is a directory")
			case len(s) > 1023: // PATH_MAX - 1
				return "", errors.New("is too long")
			case path.Clean(s) == "/":
				return "", errors.New("is the root directory")
			}
			return path.Clean(s), nil
		}, asText[string])
}

// name is up to most letters, digits, dashes, underscores, dots and others, none of notFirst at its beginning.
func name(field *string, most int, others, notFirst, allowed string) kind {
	return simple(field, fmt.Sprintf("1 to %d letters, digits, dots, dashes%s", most, allowed), checked(func(s string) error {
		switch {
		case len(s) > most:
			return fmt.Errorf("has %d bytes", len(s))
		case strings.Contains(notFirst, s[:1]):
			return fmt.Errorf("begins with %q", s[0])
		}
		return onlyBytes(s, "-_."+others)
	}), asText[string])
}

// tableName is what pf.conf takes between < and > without quotes; net/pfvar.h: PF_TABLE_NAME_SIZE is 32, the
// final NUL included.
func tableName(field *string) kind {
	return name(field, 31, "", "", " and underscores")
}

// fieldName goes into the header of a form part, between double quotes.
func fieldName(field *string) kind {
	return name(field, 64, "[]", "", ", underscores and brackets")
}

// account is the name of a user or of a group, as useradd(8) takes it (valid_login: no dash or digit first, and
// nothing that passwd(5) and the shell give a meaning; sys/syslimits.h: LOGIN_NAME_MAX is 32, the final NUL
// included).
func account(field *string) kind {
	return name(field, 31, "", "0123456789.-", " and underscores, no digit, dot or dash first")
}

var deviceIDForm = regexp.MustCompile(`^tdid_[A-Za-z0-9_]+$`)

func deviceID(field *string) kind {
	k := name(field, 128, "", "", " and underscores")
	return k.also(func(s string, warn warnFunc) {
		if !deviceIDForm.MatchString(s) {
			warn("%q does not look like a device id, tdid_ and letters and digits", brief(s))
		}
	})
}

// also has a kind look at each value that it accepts.
func (k kind) also(look func(s string, warn warnFunc)) kind {
	set := k.set
	k.set = func(s string, warn warnFunc) error {
		err := set(s, warn)
		if err == nil {
			look(s, warn)
		}
		return err
	}
	return k
}

// onlyBytes returns an error that names the first character of s that is no letter, digit or one of others.
func onlyBytes(s, others string) error {
	for _, r := range s {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		if !letter && !strings.ContainsRune(others, r) {
			return fmt.Errorf("has %q in it", r)
		}
	}
	return nil
}

var pflogForm = regexp.MustCompile(`^pflog(0|[1-9][0-9]{0,3})$`)

// pflogIf is a pflog interface by the name that if_clone_lookup takes: no leading zeros.
func pflogIf(field *string) kind {
	return simple(field, "a pflog interface, such as pflog0 or pflog1", checked(func(s string) error {
		if !pflogForm.MatchString(s) {
			return errors.New("is no pflog interface")
		}
		return nil
	}), asText[string])
}

// anything is for a value that nothing uses.
func anything() kind {
	return kind{Allowed: "anything", set: func(string, warnFunc) error { return nil }, text: func() string { return "" }}
}

// listener is an address to listen on, with its port. Names are not taken, since a resolver would decide then who
// can connect.
func listener(field *netip.AddrPort) kind {
	return simple(field, "an address of this host and a port, such as 127.0.0.1:9110 or [::1]:9110",
		func(s string) (netip.AddrPort, error) {
			ap, err := netip.ParseAddrPort(s)
			switch {
			case err != nil:
				return ap, errors.New("is not address:port")
			case ap.Port() == 0:
				return ap, errPort
			case ap.Addr().IsUnspecified():
				return ap, nil
			}
			return ap, serverAddr(ap.Addr())
		}, asText[netip.AddrPort])
}

// labels are first labels of names.
func labels(field *[]string) kind {
	return listOf(field, "first labels of names, each at most 63 letters, digits, dashes and underscores", checked(func(s string) error {
		if strings.Contains(s, ".") {
			return errors.New("has a dot in it")
		}
		return dnsName(s)
	}), asText[string])
}

// names are DNS names, which are kept without the final dot.
func names(field *[]string) kind {
	return listOf(field, "DNS names, with blanks between them",
		func(s string) (string, error) {
			s = strings.TrimSuffix(s, ".")
			if _, err := netip.ParseAddr(s); err == nil {
				return "", errors.New("is an address, not a DNS name")
			}
			return s, dnsName(s)
		}, asText[string])
}

// dnsName checks a name of RFC 1035 §2.3.4 without its final dot: letters, digits, - and _, of which zones of lists
// and of parts are made.
func dnsName(s string) error {
	if len(s) > 253 {
		return errors.New("is too long for a DNS name (253 bytes)")
	}
	for label := range strings.SplitSeq(s, ".") {
		err := onlyBytes(label, "-_")
		switch {
		case label == "":
			return errors.New("is no DNS name: an empty label")
		case len(label) > 63:
			return errors.New("is no DNS name: a label of more than 63 bytes")
		case err != nil:
			return fmt.Errorf("is no DNS name: it %w", err)
		case label[0] == '-' || label[len(label)-1] == '-':
			return errors.New("is no DNS name: a label begins or ends with -")
		}
	}
	return nil
}

// servers are addresses or names, each with a port or without.
func servers(field *[]string) kind {
	return listOf(field, "addresses or names, each with :port or without, such as 192.0.2.1, 192.0.2.1:5353, [2001:db8::1]:53, dns.example.com",
		parseServer, asText[string])
}

func parseServer(s string) (string, error) {
	host, port := s, ""
	bracketed := s[0] == '[' && s[len(s)-1] == ']'
	if bracketed {
		host = s[1 : len(s)-1]
	}
	a, err := netip.ParseAddr(host)
	switch {
	case strings.Contains(s, "/"):
		return "", errors.New("has a / in it: neither networks nor URLs are servers")
	case err == nil && (a.Is6() || !bracketed):
		return a.String(), serverAddr(a)
	case strings.ContainsAny(s, ":["):
		var addrErr *net.AddrError
		if host, port, err = net.SplitHostPort(s); errors.As(err, &addrErr) {
			return "", fmt.Errorf("is neither an address nor host:port: %s: put [ and ] around an IPv6 address with a port", addrErr.Err)
		}
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return "", errPort
		}
		port = strconv.FormatUint(n, 10)
		if a, err := netip.ParseAddr(host); err == nil && a.Is6() == (s[0] == '[') {
			return net.JoinHostPort(a.String(), port), serverAddr(a)
		}
		if s[0] == '[' {
			return "", errors.New("has no IPv6 address between [ and ]")
		}
	}
	host = strings.TrimSuffix(host, ".")
	last := host[strings.LastIndexByte(host, '.')+1:]
	if err := dnsName(host); err == nil && strings.Trim(last, "0123456789") == "" {
		return "", errors.New("is neither an address nor a DNS name")
	} else if err != nil || port == "" {
		return host, err
	}
	return host + ":" + port, nil
}

var errPort = errors.New("has no port from 1 to 65535 behind the colon")

// serverAddr returns why an address cannot be that of a host.
func serverAddr(a netip.Addr) error {
	switch {
	case a.IsUnspecified() || a.IsMulticast():
		return errors.New("is no address of a host")
	case a.Is4In6():
		return fmt.Errorf("is an IPv4 address in IPv6 form: write %s", a.Unmap())
	case onlyBytes(a.Zone(), "") != nil:
		return errors.New("has no interface behind %: put [ and ] around an IPv6 address with a port")
	}
	return nil
}

// hostAddr is one address of this host, or the zero Addr.
func hostAddr(field *netip.Addr) kind {
	return simple(field, "one address of this host",
		func(s string) (netip.Addr, error) {
			a, err := netip.ParseAddr(s)
			if err != nil {
				return a, errors.New("is not an IPv4 or IPv6 address")
			}
			return a, serverAddr(a)
		}, asText[netip.Addr])
}

// networks are addresses and prefixes. Bits behind the prefix are refused, as they leave open which of the two was
// meant.
func networks(field *[]netip.Prefix) kind {
	k := listOf(field, "addresses and networks, such as 192.0.2.1, 192.0.2.0/24, 2001:db8::/32",
		func(s string) (netip.Prefix, error) {
			p, err := netip.ParsePrefix(s)
			if a, addrErr := netip.ParseAddr(s); addrErr == nil {
				p, err = netip.PrefixFrom(a, a.BitLen()), nil
			}
			switch {
			case strings.Contains(s, "%"):
				err = errors.New("has an interface behind %: link-local addresses are never blocked")
			case err != nil:
				err = errors.New("is neither an address nor a network")
			case p.Addr().Is4In6() && p.Bits() >= 96:
				p4 := netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
				err = fmt.Errorf("is in IPv6 form what IPv4 has: write %s", formatPrefix(p4.Masked()))
			case p != p.Masked():
				err = fmt.Errorf("has bits set behind the prefix: write %s for the network or %s for the address", p.Masked(), p.Addr())
			}
			return p, err
		}, formatPrefix)
	return k.also(func(s string, warn warnFunc) {
		for _, w := range strings.Fields(s) {
			if strings.HasSuffix(w, "/0") {
				warn("%s is every address: nothing will be blocked", w)
			}
		}
	})
}

func formatPrefix(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

// address is a URL with one of the schemes; with a path where that is wanted.
func address(field **url.URL, allowed string, paths bool, schemes ...string) kind {
	k := simple(field, allowed, func(s string) (*url.URL, error) { return parseURL(s, paths, schemes) }, asText[*url.URL])
	k.shown = func() string { return redacted(*field) }
	return k.also(func(s string, warn warnFunc) {
		if strings.Contains(s, mark) {
			warn("%s replaces a secret that was not shown: put the secret in its place", mark)
		}
	})
}

// parseURL has errors of its own, since those of net/url repeat the value with its password.
func parseURL(s string, paths bool, schemes []string) (*url.URL, error) {
	for _, r := range s {
		if r <= ' ' || r >= utf8.RuneSelf || strings.ContainsRune("\"<>\\^`{|}", r) {
			return nil, fmt.Errorf("has %q in it: write it as %%%02X", r, string(r))
		}
	}
	u, err := url.Parse(s)
	if err != nil {
		return nil, errors.New("is not a URL: in a name or password, write %25 for %, %2F for /, %3A for :, %40 for @")
	}
	if !slices.Contains(schemes, u.Scheme) || u.Opaque != "" {
		return nil, errors.New("does not begin with " + strings.Join(schemes, ":// or ") + "://")
	}
	host := u.Hostname()
	if a, err := netip.ParseAddr(host); err == nil {
		if err := serverAddr(a); err != nil {
			return nil, fmt.Errorf("names a host that %w", err)
		}
	} else if err := dnsName(strings.TrimSuffix(host, ".")); err != nil {
		return nil, errors.New("has no host name or address behind ://")
	}
	if n, err := strconv.ParseUint(cmp.Or(u.Port(), "1"), 10, 16); err != nil || n == 0 || strings.HasSuffix(u.Host, ":") {
		return nil, errors.New("has no port from 1 to 65535 behind the host")
	}
	if u.Fragment != "" || strings.Contains(s, "#") {
		return nil, errors.New("has a # in it, which no server sees: write %23 if it is meant")
	}
	if !paths {
		if u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.ForceQuery {
			return nil, errors.New("has more than host and port")
		}
		u.Path, u.RawPath = "", ""
	}
	// What is printed must read the same again.
	if u, err = url.Parse(u.String()); err != nil {
		return nil, errors.New("is not a URL")
	}
	return u, nil
}

// mark stands for a secret in what is shown.
const mark = "xxxxx"

// redacted returns a URL without its secrets: the password, or the user where there is no password, since a token
// is given like that, and the parameters with a name that a secret may have.
func redacted(u *url.URL) string {
	if u == nil {
		return ""
	}
	v := *u
	if v.User != nil {
		if _, ok := v.User.Password(); ok {
			v.User = url.UserPassword(v.User.Username(), mark)
		} else {
			v.User = url.User(mark)
		}
	}
	v.RawQuery = hiddenQuery(v.RawQuery)
	return v.String()
}

// hidden is redacted for a text that may not be a URL at all, as an error shows it. A
// password may hold anything then, / and ? too, up to the last @.
func hidden(s string) string {
	scheme, rest, ok := strings.Cut(s, "://")
	if ok {
		scheme += "://"
	} else {
		scheme, rest = "", s
	}
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		rest = mark + rest[i:]
	} else if name, port, ok := strings.Cut(rest, ":"); ok && strings.Trim(port[:min(1, len(port))], "0123456789") != "" && name != "[" {
		rest = name + ":" + mark // no port, and so the beginning of a password
	}
	if rest, query, ok := strings.Cut(rest, "?"); ok {
		return scheme + rest + "?" + hiddenQuery(query)
	}
	return scheme + rest
}

func hiddenQuery(query string) string {
	params := strings.Split(query, "&")
	for i, p := range params {
		if name, _, ok := strings.Cut(p, "="); ok && secretParam(name) {
			params[i] = name + "=" + mark
		}
	}
	return strings.Join(params, "&")
}

func secretParam(name string) bool {
	name = strings.ToLower(name)
	for _, s := range []string{"key", "token", "secret", "pass", "pwd", "auth", "sig", "cred"} {
		if strings.Contains(name, s) {
			return true
		}
	}
	return false
}

// unprintable returns an error that names the first character of a value that must not be in it.
func unprintable(s string, list bool) error {
	for _, r := range s {
		switch {
		case r == utf8.RuneError:
			return errors.New("has bytes in it that are not UTF-8")
		case list && (r == '\n' || r == '\t'):
		case r == '\n':
			return errors.New("has a line break in it")
		case !unicode.IsPrint(r):
			return fmt.Errorf("has a character in it that cannot be printed, %U", r)
		}
	}
	return nil
}
