package config

import (
	"cmp"
	"errors"
	"fmt"
	"math"
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
	// sentence that begins with the value; in a list it has the word that it is about.
	set func(s string, warn warnFunc) error
	// text gives the value back in the form that set reads; empty is unset.
	text func() string
	// shown is text without secrets; nil where a value cannot hold one.
	shown func() string
}

// warnFunc reports what a value is accepted with.
type warnFunc = func(format string, args ...any)

var errInvalid = errors.New("is not valid")

// try returns why a value is refused. It changes no Config.
func (k *Key) try(value string) error {
	keys := Keys()
	i := slices.IndexFunc(keys, func(x Key) bool { return x.Name == k.Name })
	return keys[i].set(value, func(string, ...any) {})
}

// simple makes a kind of a field with a parser and a formatter.
func simple[T any](field *T, allowed string, parse func(string) (T, error), format func(T) string) kind {
	return kind{
		Allowed: allowed,
		set: func(s string, _ warnFunc) (err error) {
			*field, err = parse(s)
			return err
		},
		text: func() string { return format(*field) },
	}
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
					return fmt.Errorf("%q %w: put blanks, not commas, between the words", brief(w), err)
				case err != nil:
					return fmt.Errorf("%q %w", brief(w), err)
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

// asText formats a value; the zero value is unset.
func asText[T comparable](v T) string {
	var unset T
	if v == unset {
		return ""
	}
	return fmt.Sprint(v)
}

// oneOf takes words, capitals aside; each stands for a value.
func oneOf[T comparable](field *T, allowed string, values map[string]T, format func(T) string) kind {
	return simple(field, allowed, func(s string) (T, error) {
		v, ok := values[strings.ToLower(s)]
		if !ok {
			return v, errInvalid
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
			case errors.Is(err, strconv.ErrSyntax):
				err = errInvalid
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

var durationForm = regexp.MustCompile(`^(\d+w)?(\d+d)?(\d+h)?(\d+m)?(\d+s)?$`)

// parseDuration reads whole numbers with units, the larger first: 1h30m. A lone 0 needs none.
func parseDuration(s string) (time.Duration, error) {
	m := durationForm.FindStringSubmatch(s)
	switch {
	case s == "0":
		return 0, nil
	case m == nil:
		return 0, errInvalid
	}
	seconds := 0.0
	for i, unit := range []time.Duration{7 * day, day, time.Hour, time.Minute, time.Second} {
		n, _ := strconv.ParseFloat("0"+strings.TrimRight(m[i+1], "wdhms"), 64) // infinite where there are too many digits
		seconds += n * unit.Seconds()
	}
	return time.Duration(min(seconds, 1e9)) * time.Second, nil // 1e9: more than any bound
}

// formatDuration writes whole seconds as parseDuration reads them: days from two on, since 24h is common.
func formatDuration(d time.Duration) string {
	switch {
	case d == 0:
		return "0"
	case d%day == 0 && d >= 2*day:
		return fmt.Sprintf("%dd", d/day)
	}
	return strings.NewReplacer("h0m0s", "h", "m0s", "m").Replace(d.String())
}

func count(field *int, least, most int) kind {
	return between(field, "a whole number from %s to %s", least, most, func(s string) (int, error) {
		n, err := strconv.ParseUint(s, 10, 31)
		return int(n), err
	}, strconv.Itoa)
}

// sizeUnits are powers of 1024, the first for numbers without a unit.
const sizeUnits = " KMG"

func size(field *int64, least, most int64) kind {
	return between(field, "a number of bytes from %s to %s, with K, M or G behind it for powers of 1024", least, most,
		func(s string) (int64, error) {
			unit := max(0, strings.IndexByte(sizeUnits, strings.ToUpper(s)[len(s)-1]))
			n, err := strconv.ParseUint(s[:len(s)-min(unit, 1)], 10, 63)
			if err == nil && n > math.MaxInt64>>(10*unit) {
				err = strconv.ErrRange
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
			return float64(n) / 100, err
		},
		func(f float64) string { return strconv.Itoa(int(math.Round(f*100))) + "%" })
}

// filePath is an absolute path of a file or of a directory, cleaned.
func filePath(field *string, what string) kind {
	const most = 1023 // PATH_MAX - 1
	return simple(field, fmt.Sprintf("the absolute path of a %s, at most %d bytes", what, most),
		func(s string) (string, error) {
			switch {
			case !strings.HasPrefix(s, "/"):
				return "", errors.New("does not begin with /")
			case path.Clean(s) == "/":
				return "", errors.New("is the root directory")
			case what == "file" && strings.HasSuffix(s, "/"), len(s) > most:
				return "", errInvalid
			}
			return path.Clean(s), nil
		}, asText[string])
}

// matching is a text of a form.
func matching(field *string, form *regexp.Regexp, allowed string) kind {
	return simple(field, allowed, func(s string) (string, error) {
		if !form.MatchString(s) {
			return "", errInvalid
		}
		return s, nil
	}, asText[string])
}

var (
	// What pf.conf takes between < and > without quotes; net/pfvar.h: PF_TABLE_NAME_SIZE is 32, the final NUL
	// included.
	tableForm = regexp.MustCompile(`^[\w.-]{1,31}$`)
	// What goes into the header of a form part, between double quotes.
	fieldForm = regexp.MustCompile(`^[\w.\[\]-]{1,64}$`)
	// The name of a user or of a group, as useradd(8) takes it (valid_login: no dash or digit first, and nothing
	// that passwd(5) and the shell give a meaning; sys/syslimits.h: LOGIN_NAME_MAX is 32, the final NUL included).
	accountForm = regexp.MustCompile(`^[A-Za-z_][\w.-]{0,30}$`)
	// As if_clone_lookup takes it: no leading zeros.
	pflogForm    = regexp.MustCompile(`^pflog(0|[1-9][0-9]{0,3})$`)
	deviceForm   = regexp.MustCompile(`^[\w.-]{1,128}$`)
	deviceIDForm = regexp.MustCompile(`^tdid_\w+$`)
)

func tableName(field *string) kind {
	return matching(field, tableForm, "1 to 31 letters, digits, dots, dashes and underscores")
}

func fieldName(field *string) kind {
	return matching(field, fieldForm, "1 to 64 letters, digits, dots, dashes, underscores and brackets")
}

func account(field *string) kind {
	return matching(field, accountForm, "1 to 31 letters, digits, dots, dashes and underscores, no digit, dot or dash first")
}

func deviceID(field *string) kind {
	k := matching(field, deviceForm, "1 to 128 letters, digits, dots, dashes and underscores")
	return k.also(func(s string, warn warnFunc) {
		if !deviceIDForm.MatchString(s) {
			warn("%q does not look like a device id, tdid_ and letters and digits", brief(s))
		}
	})
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
			case err != nil || ap.Port() == 0:
				return ap, errors.New("is not an address with a port from 1 to 65535")
			case ap.Addr().IsUnspecified():
				return ap, nil
			}
			return ap, serverAddr(ap.Addr())
		}, asText[netip.AddrPort])
}

// labels are first labels of names.
func labels(field *[]string) kind {
	return listOf(field, "first labels of names, each at most 63 letters, digits, dashes and underscores",
		func(s string) (string, error) {
			if strings.Contains(s, ".") {
				return "", errInvalid
			}
			return dnsName(s)
		}, asText[string])
}

// names are DNS names, which are kept without the final dot.
func names(field *[]string) kind {
	return listOf(field, "DNS names, with blanks between them", dnsName, asText[string])
}

var (
	dnsForm     = regexp.MustCompile(`^(?:\w(?:[\w-]{0,61}\w)?\.)*\w(?:[\w-]{0,61}\w)?$`)
	numbersForm = regexp.MustCompile(`^\d+(?:\.\d+)+$`) // an address, right or wrong
)

// dnsName returns a name of RFC 1035 §2.3.4 without its final dot: letters, digits, - and _, of which zones of
// lists and of parts are made.
func dnsName(s string) (string, error) {
	s = strings.TrimSuffix(s, ".")
	if !dnsForm.MatchString(s) || len(s) > 253 || numbersForm.MatchString(s) {
		return "", errors.New("is no DNS name")
	}
	return s, nil
}

// servers are addresses or names, each with a port or without.
func servers(field *[]string) kind {
	return listOf(field, "addresses or names, each with :port or without, such as 192.0.2.1, 192.0.2.1:5353, [2001:db8::1]:53, dns.example.com",
		parseServer, asText[string])
}

func parseServer(s string) (string, error) {
	bare := s
	if s[0] == '[' && s[len(s)-1] == ']' {
		bare = s[1 : len(s)-1]
	}
	if a, err := netip.ParseAddr(bare); err == nil {
		return a.String(), serverAddr(a)
	}
	if ap, err := netip.ParseAddrPort(s); err == nil && ap.Port() > 0 {
		return ap.String(), serverAddr(ap.Addr())
	}
	host, port, hasPort := strings.Cut(s, ":")
	host, err := dnsName(host)
	n, portErr := strconv.ParseUint(port, 10, 16)
	switch {
	case err != nil || hasPort && (portErr != nil || n == 0):
		return "", errors.New("is neither an address nor a DNS name, alone or with a port from 1 to 65535")
	case hasPort:
		host += fmt.Sprintf(":%d", n)
	}
	return host, nil
}

var wordForm = regexp.MustCompile(`^\w*$`)

// serverAddr returns why an address cannot be that of a host.
func serverAddr(a netip.Addr) error {
	switch {
	case a.IsUnspecified() || a.IsMulticast():
		return errors.New("is no address of a host")
	case a.Is4In6():
		return fmt.Errorf("is an IPv4 address in IPv6 form: write %s", a.Unmap())
	case !wordForm.MatchString(a.Zone()):
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
			if a, addrErr := netip.ParseAddr(s); addrErr == nil && a.Zone() == "" {
				p, err = netip.PrefixFrom(a, a.BitLen()), nil
			}
			switch {
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
		if r <= ' ' || r >= utf8.RuneSelf || strings.ContainsRune("#\"<>\\^`{|}", r) {
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
	if a, addrErr := netip.ParseAddr(host); addrErr == nil {
		err = serverAddr(a)
	} else {
		_, err = dnsName(host)
	}
	if n, portErr := strconv.ParseUint(cmp.Or(u.Port(), "1"), 10, 16); err != nil || portErr != nil || n == 0 || strings.HasSuffix(u.Host, ":") {
		return nil, errors.New("has no host, or no port from 1 to 65535, behind ://")
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

var (
	// A password may hold anything, / and ? too, up to the last @; behind a name, what is no port begins one.
	userForm  = regexp.MustCompile(`^(\w+://)?.*@`)
	colonForm = regexp.MustCompile(`^((?:\w+://)?[^:/?@\[]+:)[^0-9/@][^@]*`)
	// secretForm is a parameter with a name that a secret may have.
	secretForm = regexp.MustCompile(`(?i)((?:^|[?&])[^=&]*(?:key|token|secret|pass|pwd|auth|sig|cred)[^=&]*=)[^&]*`)
)

// redacted returns a URL without its secrets: user and password, and the parameters with a name that a secret
// may have.
func redacted(u *url.URL) string {
	if u == nil {
		return ""
	}
	v := *u
	if v.User != nil {
		v.User = url.User(mark)
	}
	v.RawQuery = secretForm.ReplaceAllString(v.RawQuery, "${1}"+mark)
	return v.String()
}

// hidden is redacted for a text that may not be a URL at all, as an error shows it.
func hidden(s string) string {
	s = colonForm.ReplaceAllString(userForm.ReplaceAllString(s, "${1}"+mark+"@"), "${1}"+mark)
	return secretForm.ReplaceAllString(s, "${1}"+mark)
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
