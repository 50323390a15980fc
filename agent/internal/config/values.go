package config

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"net/url"
	"path"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// kind is what a key may hold: how it is read into a Config and written back.
type kind struct {
	// allowed completes "allowed: …".
	allowed string
	// list says that the value is words between blanks, newlines included.
	list bool
	// set reads a value, which is not empty and has no blanks at its ends.
	// Its error says what is wrong with it, without repeating it.
	set func(c *Config, s string, warn func(format string, args ...any)) error
	// text gives the value back in the form that set reads; empty is unset.
	text func(c *Config) string
	// shown is text without secrets; nil where a value cannot hold one.
	shown func(c *Config) string
}

// simple makes a kind of a field with a parser and a formatter.
func simple[T any](field func(*Config) *T, allowed string, parse func(string) (T, error), format func(T) string) kind {
	return kind{
		allowed: allowed,
		set: func(c *Config, s string, _ func(string, ...any)) error {
			v, err := parse(s)
			if err == nil {
				*field(c) = v
			}
			return err
		},
		text: func(c *Config) string { return format(*field(c)) },
	}
}

// listOf makes a kind of a field of several words. Words that come to the same
// are taken once.
func listOf[T comparable](field func(*Config) *[]T, allowed string, parse func(string, func(string, ...any)) (T, error), format func(T) string) kind {
	return kind{
		allowed: allowed,
		list:    true,
		set: func(c *Config, s string, warn func(string, ...any)) error {
			var all []T
			seen := make(map[T]bool)
			for _, w := range strings.Fields(s) {
				v, err := parse(w, warn)
				if err != nil {
					if strings.Contains(w, ",") {
						err = fmt.Errorf("%w: put blanks, not commas, between the words", err)
					}
					return &wordError{w, err}
				}
				if seen[v] {
					warn("%q is given twice", brief(w))
					continue
				}
				seen[v] = true
				all = append(all, v)
			}
			*field(c) = all
			return nil
		},
		text: func(c *Config) string {
			words := make([]string, len(*field(c)))
			for i, v := range *field(c) {
				words[i] = format(v)
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

func same(s string) string { return s }

// yesNo takes what owners write for it.
func yesNo(field func(*Config) *bool) kind {
	return simple(field, "yes or no (or true, false, on, off, 1, 0)",
		func(s string) (bool, error) {
			switch strings.ToLower(s) {
			case "yes", "true", "on", "1":
				return true, nil
			case "no", "false", "off", "0":
				return false, nil
			}
			return false, errors.New("is neither yes nor no")
		},
		func(b bool) string {
			if b {
				return "yes"
			}
			return "no"
		})
}

func duration(field func(*Config) *time.Duration, least, most time.Duration) kind {
	return simple(field,
		fmt.Sprintf("a duration from %s to %s, such as 90s, 15m, 1h or 7d", formatDuration(least), formatDuration(most)),
		func(s string) (time.Duration, error) {
			d, err := parseDuration(s)
			switch {
			case err != nil:
				return 0, err
			case d < least:
				return 0, errors.New("is too short")
			case d > most:
				return 0, errors.New("is too long")
			}
			return d, nil
		}, formatDuration)
}

var durationUnits = []struct {
	name byte
	unit time.Duration
}{{'w', 7 * 24 * time.Hour}, {'d', 24 * time.Hour}, {'h', time.Hour}, {'m', time.Minute}, {'s', time.Second}}

// parseDuration reads whole numbers with units, the larger first: 1h30m. A lone 0
// needs none.
func parseDuration(s string) (time.Duration, error) {
	if s == "0" {
		return 0, nil
	}
	var d time.Duration
	rest := s
	units := durationUnits
	for rest != "" {
		n := 0
		for n < len(rest) && rest[n] >= '0' && rest[n] <= '9' {
			n++
		}
		if n == 0 {
			return 0, errors.New("is not a duration")
		}
		if n == len(rest) {
			return 0, errors.New("has a number without a unit (s, m, h, d or w)")
		}
		v, err := strconv.ParseInt(rest[:n], 10, 32)
		if err != nil {
			return 0, errors.New("is too long")
		}
		i := 0
		for i < len(units) && units[i].name != rest[n] {
			i++
		}
		if i == len(units) {
			return 0, errors.New("is not a duration of whole s, m, h, d or w, the larger unit first")
		}
		if v > int64((math.MaxInt64-d)/units[i].unit) {
			return 0, errors.New("is too long")
		}
		d += time.Duration(v) * units[i].unit
		units = units[i+1:]
		rest = rest[n+1:]
	}
	return d, nil
}

// formatDuration writes whole seconds as parseDuration reads them: days from two
// on, since 24h is what one says.
func formatDuration(d time.Duration) string {
	const day = 24 * time.Hour
	if d == 0 {
		return "0"
	}
	if d%day == 0 && d >= 2*day {
		return strconv.FormatInt(int64(d/day), 10) + "d"
	}
	var b strings.Builder
	for _, u := range durationUnits[2:] {
		if n := d / u.unit; n > 0 {
			b.WriteString(strconv.FormatInt(int64(n), 10))
			b.WriteByte(u.name)
			d -= n * u.unit
		}
	}
	return b.String()
}

func count(field func(*Config) *int, least, most int) kind {
	return simple(field, fmt.Sprintf("a whole number from %d to %d", least, most),
		func(s string) (int, error) {
			n, err := strconv.ParseUint(s, 10, 31)
			switch {
			case errors.Is(err, strconv.ErrRange):
				return 0, errors.New("is too large")
			case err != nil:
				return 0, errors.New("is not a whole number")
			case int(n) < least:
				return 0, errors.New("is too small")
			case int(n) > most:
				return 0, errors.New("is too large")
			}
			return int(n), nil
		}, strconv.Itoa)
}

func size(field func(*Config) *int64, least, most int64) kind {
	return simple(field,
		fmt.Sprintf("a number of bytes from %s to %s, with K, M or G behind it for powers of 1024", formatSize(least), formatSize(most)),
		func(s string) (int64, error) {
			shift := 0
			digits := s
			switch s[len(s)-1] {
			case 'k', 'K':
				shift = 10
			case 'm', 'M':
				shift = 20
			case 'g', 'G':
				shift = 30
			}
			if shift > 0 {
				digits = s[:len(s)-1]
			}
			n, err := strconv.ParseUint(digits, 10, 63)
			switch {
			case errors.Is(err, strconv.ErrRange) || err == nil && int64(n) > most>>shift:
				return 0, errors.New("is too large")
			case err != nil:
				return 0, errors.New("is not a number of bytes")
			case int64(n)<<shift < least:
				return 0, errors.New("is too small")
			}
			return int64(n) << shift, nil
		}, formatSize)
}

func formatSize(n int64) string {
	for _, u := range []struct {
		name  string
		shift int
	}{{"G", 30}, {"M", 20}, {"K", 10}} {
		if n != 0 && n&(1<<u.shift-1) == 0 {
			return strconv.FormatInt(n>>u.shift, 10) + u.name
		}
	}
	return strconv.FormatInt(n, 10)
}

// percent keeps a part from 0 to 1.
func percent(field func(*Config) *float64) kind {
	return simple(field, "a percentage from 0% to 100%, such as 50%",
		func(s string) (float64, error) {
			n, err := strconv.ParseUint(strings.TrimSuffix(s, "%"), 10, 31)
			switch {
			case errors.Is(err, strconv.ErrRange) || err == nil && n > 100:
				return 0, errors.New("is more than the whole")
			case err != nil:
				return 0, errors.New("is not a whole percentage")
			}
			return float64(n) / 100, nil
		},
		func(f float64) string { return strconv.Itoa(int(math.Round(f*100))) + "%" })
}

func oneOf[T ~string](field func(*Config) *T, words ...T) kind {
	names := make([]string, len(words))
	for i, w := range words {
		names[i] = string(w)
	}
	allowed := strings.Join(names[:len(names)-1], ", ") + " or " + names[len(names)-1]
	return simple(field, allowed,
		func(s string) (T, error) {
			for _, w := range words {
				if strings.EqualFold(s, string(w)) {
					return w, nil
				}
			}
			return "", errors.New("is unknown")
		},
		func(v T) string { return string(v) })
}

// filePath is an absolute path of a file or of a directory, cleaned.
func filePath(field func(*Config) *string, directory bool) kind {
	what := "file"
	if directory {
		what = "directory"
	}
	return simple(field, "the absolute path of a "+what+", at most 1023 bytes",
		func(s string) (string, error) {
			switch {
			case !strings.HasPrefix(s, "/"):
				return "", errors.New("does not begin with /")
			case !directory && strings.HasSuffix(s, "/"):
				return "", errors.New("is a directory")
			case len(s) > 1023: // PATH_MAX - 1
				return "", errors.New("is too long")
			case path.Clean(s) == "/":
				return "", errors.New("is the root directory")
			}
			return path.Clean(s), nil
		}, same)
}

// tableName is what pf.conf takes between < and > without quotes.
func tableName(field func(*Config) *string) kind {
	return simple(field, "1 to 31 letters, digits, dots, dashes and underscores",
		func(s string) (string, error) {
			// net/pfvar.h: PF_TABLE_NAME_SIZE is 32, the final NUL included.
			if len(s) > 31 {
				return "", fmt.Errorf("has %d bytes", len(s))
			}
			return s, onlyBytes(s, "-_.")
		}, same)
}

// fieldName goes into the header of a form part, between double quotes.
func fieldName(field func(*Config) *string) kind {
	return simple(field, "1 to 64 letters, digits, dots, dashes, underscores and brackets",
		func(s string) (string, error) {
			if len(s) > 64 {
				return "", fmt.Errorf("has %d bytes", len(s))
			}
			return s, onlyBytes(s, "-_.[]")
		}, same)
}

// onlyBytes says which byte of s is no letter, digit or one of others.
func onlyBytes(s, others string) error {
	for _, r := range s {
		if r >= utf8.RuneSelf || !isNameByte(byte(r)) && !strings.ContainsRune(others, r) {
			return fmt.Errorf("has %q in it", r)
		}
	}
	return nil
}

func deviceID(field func(*Config) *string) kind {
	k := simple(field, "1 to 128 letters, digits, dots, dashes and underscores",
		func(s string) (string, error) {
			if len(s) > 128 {
				return "", fmt.Errorf("has %d bytes", len(s))
			}
			return s, onlyBytes(s, "-_.")
		}, same)
	set := k.set
	k.set = func(c *Config, s string, warn func(string, ...any)) error {
		if err := set(c, s, warn); err != nil {
			return err
		}
		if id, ok := strings.CutPrefix(s, "tdid_"); !ok || id == "" || onlyBytes(id, "") != nil {
			warn("%q does not look like a device id, tdid_abcd1234", brief(s))
		}
		return nil
	}
	return k
}

// pflogIf is a pflog interface by the name that if_clone_lookup takes: no leading
// zeros.
func pflogIf(field func(*Config) *string) kind {
	return simple(field, "a pflog interface, such as pflog0 or pflog1",
		func(s string) (string, error) {
			unit, ok := strings.CutPrefix(s, "pflog")
			n, err := strconv.ParseUint(unit, 10, 31)
			if !ok || err != nil || n > 9999 || strconv.FormatUint(n, 10) != unit {
				return "", errors.New("is no pflog interface")
			}
			return s, nil
		}, same)
}

// anyText is for a value that nothing uses.
func anyText(field func(*Config) *string) kind {
	return simple(field, "anything", func(s string) (string, error) { return s, nil }, same)
}

// account is the name of a user or of a group, as useradd(8) takes it (useradd's
// valid_login: no dash or digit first, and none of those that passwd(5) and the shell give
// a meaning).
func account(field func(*Config) *string) kind {
	return simple(field, "1 to 31 letters, digits, dots, dashes and underscores, no digit, dot or dash first",
		func(s string) (string, error) {
			// sys/syslimits.h: LOGIN_NAME_MAX is 32, the final NUL included.
			if len(s) > 31 {
				return "", fmt.Errorf("has %d bytes", len(s))
			}
			if strings.IndexByte("0123456789.-", s[0]) >= 0 {
				return "", fmt.Errorf("begins with %q", s[0])
			}
			return s, onlyBytes(s, "-_.")
		}, same)
}

// listener is an address to listen on, with its port. Names are not taken: a resolver
// would decide then who is listened to.
func listener(field func(*Config) *netip.AddrPort) kind {
	return simple(field, "an address of this host and a port, such as 127.0.0.1:9110 or [::1]:9110",
		func(s string) (netip.AddrPort, error) {
			ap, err := netip.ParseAddrPort(s)
			if err != nil {
				return netip.AddrPort{}, errors.New("is not address:port")
			}
			a := ap.Addr()
			switch {
			case ap.Port() == 0:
				return netip.AddrPort{}, errors.New("has no port from 1 to 65535 behind the colon")
			case a.IsMulticast():
				return netip.AddrPort{}, errors.New("is no address of a host")
			case a.IsUnspecified():
				return ap, nil
			}
			return ap, serverAddr(a)
		},
		func(ap netip.AddrPort) string {
			if !ap.IsValid() {
				return ""
			}
			return ap.String()
		})
}

// labels are first labels of names.
func labels(field func(*Config) *[]string) kind {
	return listOf(field, "first labels of names, each at most 63 letters, digits, dashes and underscores",
		func(s string, _ func(string, ...any)) (string, error) {
			if strings.Contains(s, ".") {
				return "", errors.New("has a dot in it")
			}
			return s, dnsName(s)
		}, same)
}

// names are DNS names, which are kept without the final dot.
func names(field func(*Config) *[]string) kind {
	return listOf(field, "DNS names, with blanks between them",
		func(s string, _ func(string, ...any)) (string, error) {
			s = strings.TrimSuffix(s, ".")
			if _, err := netip.ParseAddr(s); err == nil {
				return "", errors.New("is an address, not a DNS name")
			}
			return s, dnsName(s)
		}, same)
}

// dnsName checks a name of RFC 1035 §2.3.4 without its final dot: letters, digits,
// - and _, of which zones of lists and of parts are made.
func dnsName(s string) error {
	if len(s) > 253 {
		return errors.New("is too long for a DNS name (253 bytes)")
	}
	for label := range strings.SplitSeq(s, ".") {
		switch {
		case label == "":
			return errors.New("is no DNS name: an empty label")
		case len(label) > 63:
			return errors.New("is no DNS name: a label of more than 63 bytes")
		}
		if err := onlyBytes(label, "-_"); err != nil {
			return fmt.Errorf("is no DNS name: it %w", err)
		}
		if label[0] == '-' || label[len(label)-1] == '-' {
			return errors.New("is no DNS name: a label begins or ends with -")
		}
	}
	return nil
}

// servers are addresses or names, each with a port or without.
func servers(field func(*Config) *[]string) kind {
	return listOf(field, "addresses or names, each with :port or without, such as 192.0.2.1, 192.0.2.1:5353, [2001:db8::1]:53, dns.example.com",
		func(s string, _ func(string, ...any)) (string, error) {
			if a, err := netip.ParseAddr(s); err == nil {
				return a.String(), serverAddr(a)
			}
			if strings.Contains(s, "/") {
				return "", errors.New("has a / in it: neither networks nor URLs are servers")
			}
			host, port, found := s, "", false
			if strings.HasPrefix(s, "[") {
				end := strings.IndexByte(s, ']')
				if end < 0 {
					return "", errors.New("has a [ without its ]")
				}
				host, port = s[1:end], s[end+1:]
				port, found = strings.CutPrefix(port, ":")
				if !found && port != "" {
					return "", errors.New("has something other than :port behind the ]")
				}
			} else if i := strings.LastIndexByte(s, ':'); i >= 0 {
				host, port, found = s[:i], s[i+1:], true
			}
			if found {
				n, err := strconv.ParseUint(port, 10, 16)
				if err != nil || n == 0 {
					return "", errors.New("has no port from 1 to 65535 behind the colon")
				}
				port = ":" + strconv.FormatUint(n, 10)
			}
			a, err := netip.ParseAddr(host)
			switch {
			case err == nil && a.Is6() && s[0] != '[':
				return "", errors.New("needs [ and ] around the address")
			case err == nil && a.Is6() && found:
				return "[" + a.String() + "]" + port, serverAddr(a)
			case err == nil:
				return a.String() + port, serverAddr(a)
			case s[0] == '[':
				return "", errors.New("has no IPv6 address between [ and ]")
			case strings.Contains(host, ":"):
				return "", errors.New("is neither an IPv6 address nor name:port")
			}
			host = strings.TrimSuffix(host, ".")
			if err := dnsName(host); err != nil {
				return "", err
			}
			last := host[strings.LastIndexByte(host, '.')+1:]
			if strings.Trim(last, "0123456789") == "" {
				return "", errors.New("is neither an address nor a DNS name")
			}
			return host + port, nil
		}, same)
}

func serverAddr(a netip.Addr) error {
	if a.IsUnspecified() || a.IsMulticast() {
		return errors.New("is no address of a host")
	}
	if a.Is4In6() {
		return fmt.Errorf("is an IPv4 address in IPv6 form: write %s", a.Unmap())
	}
	if onlyBytes(a.Zone(), "") != nil {
		return errors.New("has no interface behind %: a port wants [ and ] around the address")
	}
	return nil
}

// hostAddr is one address of this host, or the zero Addr.
func hostAddr(field func(*Config) *netip.Addr) kind {
	return simple(field, "one address of this host",
		func(s string) (netip.Addr, error) {
			a, err := netip.ParseAddr(s)
			if err != nil {
				return netip.Addr{}, errors.New("is not an IPv4 or IPv6 address")
			}
			return a, serverAddr(a)
		},
		func(a netip.Addr) string {
			if !a.IsValid() {
				return ""
			}
			return a.String()
		})
}

// networks are addresses and prefixes. Bits behind the prefix are refused, as they
// leave open which of the two was meant.
func networks(field func(*Config) *[]netip.Prefix) kind {
	return listOf(field, "addresses and networks, such as 192.0.2.1, 192.0.2.0/24, 2001:db8::/32",
		func(s string, warn func(string, ...any)) (netip.Prefix, error) {
			var none netip.Prefix
			var p netip.Prefix
			if a, err := netip.ParseAddr(s); err == nil {
				if a.Zone() != "" {
					return none, errors.New("has an interface behind %: link-local addresses are never blocked")
				}
				p = netip.PrefixFrom(a, a.BitLen())
			} else if p, err = netip.ParsePrefix(s); err != nil {
				return none, errors.New("is neither an address nor a network")
			}
			if p.Addr().Is4In6() && p.Bits() >= 96 {
				p4 := netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
				return none, fmt.Errorf("is in IPv6 form what IPv4 has: write %s", formatPrefix(p4.Masked()))
			}
			if p != p.Masked() {
				return none, fmt.Errorf("has bits set behind the prefix: write %s for the network or %s for the address", p.Masked(), p.Addr())
			}
			if p.Bits() == 0 {
				warn("%s is every address: nothing will be blocked", p)
			}
			return p, nil
		}, formatPrefix)
}

func formatPrefix(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

// address is a URL with one of the schemes; with a path where that is wanted.
func address(field func(*Config) **url.URL, allowed string, paths bool, schemes ...string) kind {
	k := simple(field, allowed,
		func(s string) (*url.URL, error) { return parseURL(s, paths, schemes) },
		func(u *url.URL) string {
			if u == nil {
				return ""
			}
			return u.String()
		})
	k.shown = func(c *Config) string { return redacted(*field(c)) }
	set := k.set
	k.set = func(c *Config, s string, warn func(string, ...any)) error {
		if err := set(c, s, warn); err != nil {
			return err
		}
		if strings.Contains(s, mark) {
			warn("%s stands where a secret was taken out for show: put the secret in its place", mark)
		}
		return nil
	}
	return k
}

// parseURL says in its own words what is wrong, since those of net/url repeat the
// value with its password.
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
	known := false
	for _, scheme := range schemes {
		known = known || u.Scheme == scheme
	}
	if !known || u.Opaque != "" {
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
	if _, port, ok := strings.Cut(u.Host[strings.LastIndexByte(u.Host, ']')+1:], ":"); ok {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return nil, errors.New("has no port from 1 to 65535 behind the host")
		}
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

// redacted returns a URL without its secrets: the password, or the user where that
// stands alone, as a token does, and the parameters whose names say that they are one.
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

// unprintable says which character of a value has no business in it.
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
