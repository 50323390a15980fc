package config

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestErrors(t *testing.T) {
	_, warnings, err := Parse("t.conf", strings.NewReader(strings.Repeat("OUT_DIR=$(x)\n", 30)+strings.Repeat("a=1\n", 30)))
	var errs Errors
	if !errors.As(err, &errs) || len(errs) != maxProblems+1 || len(warnings) > 0 {
		t.Fatalf("%d errors %v, warnings %v", len(errs), err, warnings)
	}
	if first := errs[0]; first.File != "t.conf" || first.Line != 1 || first.Key != "OUT_DIR" {
		t.Errorf("first error %+v", first)
	}
	if got, want := errs[maxProblems].Error(), "t.conf: more errors follow: is this a threatstop.conf?"; got != want {
		t.Errorf("last error %q, want %q", got, want)
	}

	_, warnings, err = Parse("t.conf", strings.NewReader(complete(strings.Repeat("A=1\n", 30))))
	if err != nil || len(warnings) != maxProblems+1 {
		t.Fatalf("error %v, %d warnings", err, len(warnings))
	}
	if got, want := warnings[maxProblems].Error(), "t.conf: 10 more warnings"; got != want {
		t.Errorf("last warning %q, want %q", got, want)
	}

	broken := errors.New("input/output error")
	if _, _, err = Parse("t.conf", iotest.ErrReader(broken)); !errors.Is(err, broken) || err.Error() != "t.conf: input/output error" {
		t.Errorf("error of the reader: %v", err)
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode fs.FileMode) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(complete(text)), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const proxy = "PROXY=http://me:geheim@192.0.2.1:3128"
	for _, tt := range []struct {
		name, text string
		mode       fs.FileMode
		want       []string
	}{
		{"no secret, for all to read", "", 0o644, nil},
		{"a proxy without one", "PROXY=http://192.0.2.1:3128", 0o644, nil},
		{"a proxy with one, for root alone", proxy, 0o600, nil},
		{"a proxy with one, for all to read", proxy, 0o644,
			[]string{": PROXY: holds a secret, and others can read the file (mode 0644): chmod 600 "}},
		{"a url with a token, for a group to read", "url='https://logs.example.net/?token=geheim'", 0o640,
			[]string{": url: holds a secret, and others can read the file (mode 0640): chmod 600 "}},
		{"a proxy with one, for a group to read", proxy, 0o640,
			[]string{": PROXY: holds a secret, and others can read the file (mode 0640): chmod 600 "}},
		{"for a group to write", "", 0o664,
			[]string{": mode 0664: others than its owner can write what is acted on as root: chmod go-w "}},
		{"for all to write, and nobody to read", "", 0o602,
			[]string{": mode 0602: others than its owner can write what is acted on as root: chmod go-w "}},
		{"with a secret, for all to write and to read", proxy, 0o666,
			[]string{": mode 0666: others than its owner can write what is acted on as root: chmod go-w ",
				": PROXY: holds a secret, and others can read the file (mode 0666): chmod 600 "}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if runtime.GOOS == "windows" {
				t.Skip("no modes")
			}
			path := write(strconv.FormatUint(rand.Uint64(), 36), tt.text, tt.mode)
			c, warnings, err := Load(path)
			if len(tt.want) == 0 && (err != nil || c.DeviceID != "tdid_0a1b2c3d") || len(tt.want) > 0 && c != nil || len(warnings) > 0 {
				t.Fatalf("%+v, %v, %v", c, warnings, err)
			}
			var want []string
			for _, w := range tt.want {
				want = append(want, path+w+path)
			}
			if got, _ := said(nil, err); !cmp.Equal(got, want) {
				t.Errorf("got  %q\nwant %q", got, want)
			}
		})
	}

	missing := filepath.Join(dir, "missing")
	if _, _, err := Load(missing); !errors.Is(err, fs.ErrNotExist) ||
		!strings.HasSuffix(err.Error(), ": copy threatstop.conf.example there and fill it in") {
		t.Errorf("no file: %v", err)
	}
	if _, _, err := Load(dir); err == nil || err.Error() != dir+": is a directory, not a configuration" {
		t.Errorf("a directory: %v", err)
	}
	path := write("refused", "POLL_INTERVAL=x", 0o622)
	c, warnings, err := Load(path)
	var errs Errors
	if c != nil || !errors.As(err, &errs) || len(errs) != 2 || errs[0].File != path || errs[0].Line != 0 || errs[1].Line != 1 || len(warnings) != 0 {
		t.Errorf("a refused file: %v, %v, %v", c, warnings, err)
	}
}

// printed returns what WriteTo writes.
func printed(t *testing.T, c *Config) string {
	t.Helper()
	var b bytes.Buffer
	if n, err := c.WriteTo(&b); err != nil || n != int64(b.Len()) {
		t.Fatalf("WriteTo: %d of %d bytes, %v", n, b.Len(), err)
	}
	return b.String()
}

// reread checks that c, printed and read again, is c but for its secrets, and gives
// no warning that it did not give before.
func reread(t *testing.T, c *Config) {
	t.Helper()
	text := printed(t, c)
	again, warnings, err := Parse("printed", strings.NewReader(text))
	if err != nil {
		t.Fatalf("%v of what was printed:\n%s", err, text)
	}
	want := *c
	want.URL, want.Proxy = withoutSecrets(t, c.URL), withoutSecrets(t, c.Proxy)
	want.AuthURL = withoutSecrets(t, c.AuthURL)
	if diff := cmp.Diff(&want, again, exact); diff != "" {
		t.Errorf("read again (-want +got):\n%s", diff)
	}
	if twice := printed(t, again); twice != text {
		t.Errorf("printed again (-want +got):\n%s", cmp.Diff(text, twice))
	}
	for _, w := range warnings {
		if strings.Contains(w.Text, "unknown") || strings.Contains(w.Text, "again") || strings.Contains(w.Text, "empty") {
			t.Errorf("warning about what was printed: %s", w)
		}
	}
}

func withoutSecrets(t *testing.T, u *url.URL) *url.URL {
	t.Helper()
	if u == nil {
		return nil
	}
	v, err := url.Parse(redacted(u))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestWriteTo(t *testing.T) {
	text := printed(t, base())
	const want = `device_id=tdid_0a1b2c3d
DNS_SERVERS=192.0.2.53
BLOCK_LISTS=block.example.net
ALLOW_LISTS=
POLL_INTERVAL=1h
STALE_AFTER=0
DNS_TIMEOUT=10s
DNS_SIBLINGS='basic1 basic2 basic3 basic4'
SOURCE_ADDRESS=
OUT_DIR=/var/db
BLOCK_FILE=/var/db/ThreatSTOP-Block.pftable
ALLOW_FILE=/var/db/ThreatSTOP-Allow.pftable
BLOCK_TABLE=ThreatSTOP-Block
ALLOW_TABLE=ThreatSTOP-Allow
RELOAD_PF=yes
FULL_CHECK=15m
NEVER_BLOCK=
MAX_SHRINK=50%
SHRINK_HOLD=24h
MIN_PREFIX_V4=8
MIN_PREFIX_V6=16
MAX_ENTRIES=4000000
AGGREGATE=no
KILL_STATES=no
UPLOAD=hits
PFLOG_IF=pflog0
pflog=/var/log/pflog
BACKFILL=0
url=https://logs.example.net/
UPLOAD_INTERVAL=15m
UPLOAD_BATCH=10000
UPLOAD_BATCH_BYTES=960K
UPLOAD_FIELD=upload_file
UPLOAD_ID_FIELD=device_id
UPLOAD_GZIP=no
PROXY=
CA_FILE=
ALLOW_HTTP=no
SPOOL_DIR=/var/spool/threatstop
SPOOL_MAX=64M
SPOOL_AGE=7d
USER=_threatstop
STATUS_GROUP=
METRICS=
METRICS_ANY=no
STATUS_PAGE=
AUTH_URL=
logfile=
`
	if diff := cmp.Diff(want, text); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	broken := errors.New("broken pipe")
	if _, err := base().WriteTo(failing{broken}); !errors.Is(err, broken) {
		t.Errorf("error of the writer: %v", err)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

var _ io.WriterTo = (*Config)(nil)

func TestPrintedIsReadAgain(t *testing.T) {
	for _, tt := range cases {
		if tt.bad != nil {
			continue
		}
		c, _, err := Parse("t.conf", strings.NewReader(complete(tt.text)))
		if err != nil {
			t.Fatal(err)
		}
		reread(t, c)
	}
}

// TestRandomConfigs prints and reads Configs of random allowed values.
func TestRandomConfigs(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	word := func(alphabet string, most int) string {
		b := make([]byte, 1+r.IntN(most))
		for i := range b {
			b[i] = alphabet[r.IntN(len(alphabet))]
		}
		return string(b)
	}
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"
	const odd = letters + " '\"$`\\#&;|<>()*?[]{}~!=%:,@^+-./"
	words := func(one func() string, least int) []string {
		var all []string
		for i := range least + r.IntN(4) {
			all = append(all, one()+strconv.Itoa(i)) // no two the same
		}
		return all
	}
	between := func(least, most time.Duration) time.Duration {
		return least + time.Duration(r.Int64N(int64((most-least)/time.Second)+1))*time.Second
	}
	for range 500 {
		c := base()
		c.DeviceID = "tdid_" + word(letters[:62], 20)
		c.DNSServers = words(func() string { return word(letters, 10) + ".example.x" }, 1)
		c.DNSTimeout = between(time.Second, 5*time.Minute)
		c.BlockLists = words(func() string { return "b" + word(letters, 10) + ".x" }, 1)
		c.AllowLists = words(func() string { return "a" + word(letters, 10) + ".x" }, 0)
		c.PollInterval = between(time.Minute, 7*day)
		c.ShrinkHold = between(0, 90*day)
		c.Backfill = between(0, 366*day)
		c.MaxShrink = float64(r.IntN(101)) / 100
		c.OutDir = "/" + word(letters, 10) + word(odd[:len(odd)-2], 20) + "x"
		c.BlockFile = c.OutDir + "/" + word(letters, 20)
		c.SpoolDir = "/" + word(letters, 10) + word(odd[:len(odd)-2], 20) + "é"
		c.UploadBatchBytes = 64<<10 + r.Int64N(8<<20)
		c.SpoolMax = 16<<20 + r.Int64N(1<<34)
		c.AllowHTTP = r.IntN(2) == 0
		c.FullCheck = between(time.Minute, 7*day)
		if c.StaleAfter = between(0, 90*day); c.StaleAfter < c.PollInterval {
			c.StaleAfter = 0
		}
		c.User, c.StatusGroup = "_"+word(letters, 20), "g"+word(letters, 20)
		c.MetricsAny, c.KillStates = r.IntN(2) == 0, r.IntN(2) == 0
		if c.Metrics = netip.AddrPortFrom(netip.IPv6Loopback(), uint16(1+r.IntN(65535))); c.MetricsAny {
			c.Metrics = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(r.Uint32())}), 9110)
		}
		c.AuthURL = &url.URL{Scheme: "http", Host: "auth.example.net", Path: "/" + word(odd, 20)}
		c.Proxy = &url.URL{Scheme: "socks5", User: url.UserPassword(word(odd, 20), word(odd, 20)), Host: "[2001:db8::1]:" + strconv.Itoa(1+r.IntN(65535))}
		c.URL = &url.URL{Scheme: "https", Host: "x.example.net", Path: "/" + word(odd, 20),
			RawQuery: url.Values{word(letters, 3): {word(odd, 9)}, "key" + word(odd, 3): {word(odd, 9)}}.Encode()}
		for i := range r.IntN(4) {
			c.NeverBlock = append(c.NeverBlock, netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(1 + i), byte(r.Uint32()), byte(r.Uint32()), byte(r.Uint32())}), 8+r.IntN(25)).Masked())
		}
		reread(t, c)
		if t.Failed() {
			t.Fatalf("of\n%s", printed(t, c))
		}
	}
}

// TestNoSecretIsShown puts one word as every secret into every place, accepted and
// refused, and looks for it in all that is said.
func TestNoSecretIsShown(t *testing.T) {
	for _, value := range []string{
		"http://me:geheim@192.0.2.1:3128",
		"http://geheim@192.0.2.1:3128",
		"https://me:geheim@logs.example.net/x",
		"https://logs.example.net/x?id=1&apikey=geheim",
		"https://logs.example.net/x?id=1&Token=geheim&b=2",
		"http://me:ge/geheim@192.0.2.1:3128",
		"http://me:ge?x=geheim@192.0.2.1:3128",
		"http://me:a@geheim@192.0.2.1:3128",
		"http://me:geheim%zz@192.0.2.1:3128",
		"http://me:geheim @192.0.2.1:3128",
		"http://me:geheim&x@192.0.2.1:3128",
		"http://me:$(geheim)@192.0.2.1:3128",
		"http://me:${geheim:-x}@192.0.2.1:3128",
		"http://me:x>geheim@192.0.2.1:3128",
		"http://me:x|geheim@192.0.2.1:3128",
		"http://me:`geheim`@192.0.2.1:3128",
		"http://me:x(geheim@192.0.2.1:3128",
		"http://me:x<<geheim@192.0.2.1:3128",
		"ftp://me:geheim@192.0.2.1:3128",
		"me:geheim@192.0.2.1:3128",
		"http://me:geheim@192.0.2.1:999999",
		"http://me:geheim@",
		"http://me:geheim@/#",
	} {
		for _, key := range []string{"PROXY", "url", "AUTH_URL"} {
			for _, form := range []string{"%='@'\n", "%=\"@\"\n", "%=@\n", "export %=@\n"} {
				text := strings.NewReplacer("%", key, "@", value).Replace(form)
				for _, more := range []string{"", "ALLOW_HTTP=yes\n"} {
					c, warnings, err := Parse("t.conf", strings.NewReader(complete(text+more)))
					errs, warns := said(warnings, err)
					all := strings.Join(append(errs, warns...), "\n")
					if c != nil {
						all += printed(t, c)
					}
					if strings.Contains(all, "geheim") {
						t.Errorf("%q shows the secret:\n%s", text+more, all)
					}
				}
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, tt := range cases {
		f.Add(complete(tt.text))
	}
	f.Add(Example())
	f.Fuzz(func(t *testing.T, text string) {
		c, warnings, err := Parse("t.conf", strings.NewReader(text))
		errs, warns := said(warnings, err)
		if len(errs) > maxProblems+1 || len(warns) > maxProblems+1 {
			t.Fatalf("%d errors, %d warnings", len(errs), len(warns))
		}
		for _, line := range append(errs, warns...) {
			if !strings.HasPrefix(line, "t.conf:") || strings.ContainsAny(line, "\n\r\x00") || len(line) > 1000 {
				t.Errorf("not one line about the file: %q", line)
			}
		}
		if (c == nil) != (err != nil) {
			t.Fatalf("Config %v with error %v", c, err)
		}
		if c == nil {
			return
		}
		checkWholeFile(t, text)
		reread(t, c)
	})
}
