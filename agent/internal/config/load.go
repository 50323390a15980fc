package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"example.org/threatstopd/agent/internal/host"
)

// Load reads and checks the file at path. The error is Errors where the file is refused: for its contents;
// because it, or its directory, belongs to another user than root and the caller, or can be written by others,
// who could make root do anything; or because others can read a secret in it. The warnings count in either
// case. The owner and mode of a file that is not regular, such as a pipe, do not count.
func Load(path string) (*Config, []Problem, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("%w: copy threatstop.conf.example there and fill it in", err)
	}
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	if fi.IsDir() {
		return nil, nil, fmt.Errorf("%s: is a directory, not a configuration", path)
	}
	c, warnings, err := Parse(path, f)
	var refused Errors
	if err != nil && !errors.As(err, &refused) {
		return nil, warnings, err
	}
	if fi.Mode().IsRegular() {
		refused = append(unsafeFile(path, fi, c), refused...)
	}
	if len(refused) > 0 {
		return nil, warnings, refused
	}
	return c, warnings, nil
}

// unsafeFile returns what is wrong with a file, apart from its contents; c is nil where these are refused.
func unsafeFile(path string, fi fs.FileInfo, c *Config) (errs Errors) {
	refuse := func(key, format string, args ...any) {
		errs = append(errs, Problem{File: path, Key: key, Text: fmt.Sprintf(format, args...)})
	}
	if uid, is := host.Stranger(fi); is {
		refuse("", "owned by uid %d, who could make root do anything: chown root %s", uid, path)
	}
	mode := fi.Mode().Perm()
	if mode&0o022 != 0 {
		refuse("", "mode %04o: others than its owner can write what is acted on as root: chmod go-w %s", mode, path)
	}
	// Another file can be put in place by who can write to the directory, unless that is sticky, as /tmp is.
	dir := filepath.Dir(path)
	if di, err := os.Stat(dir); err == nil && di.IsDir() && di.Mode()&fs.ModeSticky == 0 && di.Mode()&0o002 != 0 {
		refuse("", "everybody can write to its directory (mode %04o): chmod o-w %s", di.Mode().Perm(), dir)
	}
	if c == nil || mode&0o044 == 0 {
		return errs
	}
	for _, k := range keysOf(c) {
		if k.shown != nil && k.shown() != k.text() {
			refuse(k.Name, "holds a secret, and others can read the file (mode %04o): chmod 600 %s", mode, path)
		}
	}
	return errs
}

// Parse reads and checks a configuration. name stands for it in errors and warnings. The error is Errors where
// the contents are refused, and otherwise that of r; the Config is nil then.
func Parse(name string, r io.Reader) (*Config, []Problem, error) {
	src, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", name, err)
	}
	p := &problems{file: name}
	c := p.config(readShell(src, p))
	c.Text = string(src)
	warnings, err := p.result()
	if err != nil {
		return nil, warnings, err
	}
	return c, warnings, nil
}

// Holds reports whether the file at path holds this text.
func Holds(path, text string) (bool, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return false, err
	}
	defer f.Close()
	src, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	return string(src) == text, err
}

// config fills a Config from what the file assigns. What it returns is worth something only where there are no
// errors.
func (p *problems) config(sh *shell) *Config {
	for _, a := range sh.out {
		if find(a.key) == nil {
			p.unknown(a, sh.used[a.key])
		}
	}
	c := new(Config)
	keys, bad := keysOf(c), make(map[string]bool)
	for i := range keys {
		k := &keys[i]
		if bad[k.Name] = sh.vars[k.Name].bad; !bad[k.Name] && !k.unused {
			a, given := sh.vars[k.Name]
			bad[k.Name] = !p.set(k, c, a, given)
		}
	}
	p.together(c, bad, func(key string) int { return sh.vars[key].line })

	for _, k := range keys {
		if p.unread || k.Need == "" || k.text() != "" || bad[k.Name] || k.hits && (c.Upload == UploadNone || bad["UPLOAD"]) {
			continue
		}
		or := ""
		if k.hits {
			or = ", or UPLOAD=no to report nothing"
		}
		p.errorf(sh.vars[k.Name].line, k.Name, "missing: %s; add for example %s=%s%s", k.Need, k.Name, quote(k.Example), or)
	}
	return c
}

// set gives a key the value that the file assigns, or its default. It returns false if that is refused.
func (p *problems) set(k *Key, c *Config, a assignment, given bool) bool {
	warn := func(format string, args ...any) { p.warnf(false, a.line, k.Name, format, args...) }
	value := strings.TrimSpace(a.value)
	if value == "" {
		if given && k.Default != "" {
			warn("empty: the default is used, %s", k.Default)
		}
		if value = strings.ReplaceAll(k.Default, "$OUT_DIR", c.OutDir); value == "" {
			return true
		}
	}
	about, err := k.show(value)+" ", unprintable(value, k.list)
	if err == nil {
		err = k.set(value, warn)
		if k.list {
			about = "" // the error has the word
		}
	}
	if err != nil {
		p.errorf(a.line, k.Name, "%s%v; allowed: %s", about, err, k.Allowed)
		return false
	}
	if k.Placeholder && slices.Contains(strings.Fields(k.text()), k.Example) {
		p.warnf(true, a.line, k.Name, "%s is the value of the example: write your own", k.Example)
	}
	return true
}

// unknown warns of a key that means nothing here. One that another key's value refers to has its use.
func (p *problems) unknown(a assignment, used bool) {
	switch near := nearest(a.key); {
	case near != "" && used:
		p.warnf(false, a.line, a.key, "unknown key: is %s meant?", near)
	case near != "":
		p.warnf(true, a.line, a.key, "unknown key, which has no effect: is %s meant?", near)
	case !used:
		p.warnf(false, a.line, a.key, "unknown key, which has no effect")
	}
}

// together checks what no key can know alone. bad has the keys that are wrong in themselves, line where a key was
// set, 0 for a default.
func (p *problems) together(c *Config, bad map[string]bool, line func(string) int) {
	// A clash is reported for the key that is further down in the file.
	clash := func(is bool, a, b, format string, args ...any) {
		if line(a) > line(b) {
			b = a
		}
		if is && !bad[a] && !bad[b] {
			p.errorf(line(b), b, format, args...)
		}
	}
	same := func(is bool, a, b, value string) {
		clash(is, a, b, "%s and %s are both %q: they must differ", a, b, brief(value))
	}
	same(c.BlockTable == c.AllowTable, "BLOCK_TABLE", "ALLOW_TABLE", c.BlockTable)
	same(c.BlockFile == c.AllowFile, "BLOCK_FILE", "ALLOW_FILE", c.BlockFile)
	for _, f := range []struct{ file, other, of string }{{c.BlockFile, "ALLOW_FILE", c.AllowFile}, {c.AllowFile, "BLOCK_FILE", c.BlockFile}} {
		clash(f.file == f.of+".new", "BLOCK_FILE", "ALLOW_FILE", "%s is written as %q before it is renamed: choose other names", f.other, brief(f.file))
	}
	clash(c.Upload != UploadNone && (c.SpoolDir == filepath.Dir(c.BlockFile) || c.SpoolDir == filepath.Dir(c.AllowFile)), "SPOOL_DIR", "SPOOL_DIR",
		"%q has the table files, and the spool belongs to another user: name a directory of its own", brief(c.SpoolDir))
	same(c.UploadField == c.UploadIDField, "UPLOAD_FIELD", "UPLOAD_ID_FIELD", c.UploadField)
	same(c.Metrics.IsValid() && c.StatusPage == c.Metrics, "STATUS_PAGE", "METRICS", c.Metrics.String())
	for _, b := range c.BlockLists {
		for _, a := range c.AllowLists {
			clash(strings.EqualFold(a, b), "BLOCK_LISTS", "ALLOW_LISTS", "%q is a block list and an allow list: they must differ", brief(a))
		}
	}
	clash(c.SpoolMax < 2*c.UploadBatchBytes, "SPOOL_MAX", "UPLOAD_BATCH_BYTES",
		"the spool must hold two uploads: SPOOL_MAX is %s, UPLOAD_BATCH_BYTES is %s", formatSize(c.SpoolMax), formatSize(c.UploadBatchBytes))
	clash(c.StaleAfter > 0 && c.StaleAfter < c.PollInterval, "STALE_AFTER", "POLL_INTERVAL",
		"lists would be stale before they are fetched again: STALE_AFTER is %s, POLL_INTERVAL is %s",
		formatDuration(c.StaleAfter), formatDuration(c.PollInterval))

	exposed := func(at netip.AddrPort, key, or string) {
		clash(at.IsValid() && !at.Addr().IsLoopback(), key, key,
			"%q can be reached by other hosts; allowed: an address of loopback, such as 127.0.0.1:%d%s", at.String(), at.Port(), or)
	}
	if !c.MetricsAny {
		exposed(c.Metrics, "METRICS", ", or set METRICS_ANY=yes")
	}
	exposed(c.StatusPage, "STATUS_PAGE", "")
	clash(c.URL != nil && c.URL.Scheme == "http" && !c.AllowHTTP, "url", "url",
		"%q begins with http://, and everybody on the way could read the upload; allowed: https://, or set ALLOW_HTTP=yes", brief(redacted(c.URL)))
	reachable := func(server string) bool { // from the source address: a name, or of its family
		ap, err := netip.ParseAddrPort(server)
		if err != nil {
			a, _ := netip.ParseAddr(server)
			ap = netip.AddrPortFrom(a, 0)
		}
		return !ap.Addr().IsValid() || ap.Addr().Is4() == c.SourceAddress.Is4()
	}
	clash(c.SourceAddress.IsValid() && len(c.DNSServers) > 0 && !slices.ContainsFunc(c.DNSServers, reachable), "SOURCE_ADDRESS", "SOURCE_ADDRESS",
		"%q is of another address family than every server in DNS_SERVERS", c.SourceAddress.String())
}

// show returns a value as an error may.
func (k *Key) show(value string) string {
	if k.shown != nil {
		value = hidden(value)
	}
	return fmt.Sprintf("%q", brief(value))
}

// plainForm is what needs no quotes.
var plainForm = regexp.MustCompile(`^[\w./:,@%+=-]*$`)

// quote writes a value so that a shell takes it for one word.
func quote(s string) string {
	if plainForm.MatchString(s) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// WriteTo writes the whole configuration, defaults included, as a file that Parse reads to an equal Config,
// but for secrets: passwords, and what looks like one in the parameters of a URL, come out as xxxxx.
func (c *Config) WriteTo(w io.Writer) (int64, error) {
	var b bytes.Buffer
	for name, value := range c.All() {
		fmt.Fprintf(&b, "%s=%s\n", name, quote(value))
	}
	return b.WriteTo(w)
}

// All returns the keys and their values as WriteTo writes them, not quoted.
func (c *Config) All() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for _, k := range keysOf(c) {
			text := k.text
			if k.shown != nil {
				text = k.shown
			}
			if !yield(k.Name, text()) {
				return
			}
		}
	}
}
