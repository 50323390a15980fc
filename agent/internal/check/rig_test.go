package check

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"example.org/threatstopd/agent/internal/config"
	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/agent/internal/rules"
	"example.org/threatstopd/agent/reporttest"
	"example.org/threatstopd/capture"
	"example.org/threatstopd/capture/capturetest"
	"example.org/threatstopd/dnsfetch"
	"example.org/threatstopd/dnsfetch/dnstest"
	"example.org/threatstopd/pfioctl"
	"example.org/threatstopd/pfioctl/pfsim"
)

const (
	blockList = "basic.test.threatstop.local"
	allowList = "allow.test.threatstop.local"
)

var badHost = netip.MustParseAddr("192.0.2.66")

// rig is a firewall on which everything is well, until a test says otherwise.
type rig struct {
	t         *testing.T
	kernel    *pfsim.Kernel
	dns       *dnstest.Server
	collector *reporttest.Collector
	auth      *httptest.Server
	authPage  atomic.Value // string
	pflog     *capturetest.Interface
	dir       string
	conf      map[string]string
	warnings  []config.Problem
	o         Options
	skew      time.Duration
	files     []*capturetest.Packet // what pflogd has written
	// dialBad makes the connection to the indicator; nil asks the kernel.
	dialBad func(ctx context.Context) (net.Conn, error)

	confining  func() error // what happens when the process is to be confined; nil: nothing
	unconfined bool         // it does not come to that
}

// guarded is a kernel that is asked in time.
type guarded struct {
	pfioctl.Device
	before func(what string)
}

func (g guarded) Ioctl(req uint, arg unsafe.Pointer) error {
	g.before("a request to pf")
	return g.Device.Ioctl(req, arg)
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir(), pflog: capturetest.NewInterface("pflog0")}
	var err error
	if r.dns, err = dnstest.Start(dnstest.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.dns.Close() })
	if r.collector, err = reporttest.Start(reporttest.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.collector.Close)
	r.authPage.Store("<html>Your IP address: <b>198.51.100.1</b><p>Address is in the list of authorized hosts</html>")
	r.auth = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		page := r.authPage.Load().(string)
		if page == "" {
			w.WriteHeader(http.StatusInternalServerError)
		}
		fmt.Fprint(w, page)
	}))
	t.Cleanup(r.auth.Close)

	r.kernel = pfsim.New(pfsim.Options{Now: r.now})
	r.kernel.SetRunning(true)
	r.rules(blockRules()...)
	r.serve(blockList, "192.0.2.66", "203.0.113.0/24", "2001:db8::/32", "198.18.0.0/15")
	r.serve(allowList, "203.0.113.7")
	r.table("192.0.2.66 203.0.113.0/24 !203.0.113.7 2001:db8::/32 198.18.0.0/15 !198.18.0.1")

	ca := filepath.Join(r.dir, "ca.pem")
	if err := r.collector.WriteCA(ca); err != nil {
		t.Fatal(err)
	}
	spool := filepath.Join(r.dir, "spool")
	if err := os.Mkdir(spool, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(r.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	r.conf = map[string]string{
		"device_id": "tdid_test0001", "DNS_SERVERS": r.dns.Addr(), "BLOCK_LISTS": blockList, "ALLOW_LISTS": allowList,
		"OUT_DIR": r.dir, "url": r.collector.URL(), "CA_FILE": ca, "SPOOL_DIR": spool, "AUTH_URL": r.auth.URL, "DNS_TIMEOUT": "20s",
	}
	for _, f := range []string{"ThreatSTOP-Block.pftable", "ThreatSTOP-Allow.pftable"} {
		r.write(f, "")
	}
	r.write("pf.conf", fmt.Sprintf("table <%s> persist file \"%s/ThreatSTOP-Block.pftable\"\ntable <%s> persist file \"%s/ThreatSTOP-Allow.pftable\"\n", block.Name, r.dir, allow.Name, r.dir))
	// What takes privileges, or a file, must not be asked for any more when the process
	// has been confined.
	var confined atomic.Bool
	before := func(what string) {
		if confined.Load() {
			t.Errorf("%s: asked for after confinement", what)
		}
	}
	t.Cleanup(func() {
		if !confined.Load() && !r.unconfined {
			t.Error("was not confined")
		}
	})
	r.o = Options{
		File: "threatstop.conf", PfConf: filepath.Join(r.dir, "pf.conf"), Indicators: []string{badHost.String()},
		Confine: func(asUser func()) error {
			if r.confining != nil {
				if err := r.confining(); err != nil {
					return err
				}
			}
			if asUser != nil {
				asUser()
			}
			confined.Store(true)
			return nil
		},
		Root: true,
		OpenPF: func() (*pfioctl.PF, error) {
			before("pf")
			return pfioctl.New(guarded{r.kernel.Open(true), before}, r.kernel.Release())
		},
		Interfaces: func() ([]rules.Interface, error) {
			before("interfaces")
			return []rules.Interface{{Name: "lo0", Groups: []string{"lo"}, Loopback: true, Up: true}, {Name: "enc0"}, {Name: "em0", Groups: []string{"egress"}, Up: true}, {Name: "em1", Up: true}, {Name: "pflog0", Groups: []string{"pflog"}, Up: true}}, nil
		},
		Host: func() (policy.Facts, error) {
			before("own addresses")
			return policy.Facts{Interfaces: []policy.Interface{{Name: "em0", Addresses: []netip.Prefix{netip.MustParsePrefix("198.18.0.1/24")}}}}, nil
		},
		Lookup: func(_ context.Context, name string) ([]netip.Addr, error) {
			return nil, fmt.Errorf("lookup %s: no such host", name)
		},
		Dial:        r.dial,
		UID:         os.Getuid(),
		OpenPflog:   func(o capture.Options) (capture.Source, error) { before("pflog"); return r.pflog.Open(o) },
		FlushPflogd: func() error { before("pflogd"); return nil },
		Logs:        func() ([]*os.File, error) { before("pflogd's files"); return r.logs() },
		Now:         r.now,
		Local:       time.UTC,
	}
	return r
}

func (r *rig) now() time.Time { return time.Now().Add(r.skew) }

func blockRules() []pfsim.Rule {
	bad := pfsim.Peer{Table: block.Name}
	return []pfsim.Rule{
		{Action: pfioctl.ActionBlock, Dir: pfioctl.DirIn, Log: true, Quick: true, From: bad},
		{Action: pfioctl.ActionBlock, Dir: pfioctl.DirOut, Log: true, Quick: true, To: bad},
		{Action: pfioctl.ActionPass},
	}
}

func (r *rig) rules(rules ...pfsim.Rule) {
	r.t.Helper()
	r.load(pfsim.Ruleset{Rules: rules, Tables: []pfsim.TableLine{{Table: block, Flags: pfioctl.TablePersist | pfioctl.TableCounters}, {Table: allow, Flags: pfioctl.TablePersist}}})
}

func (r *rig) load(rs pfsim.Ruleset) {
	r.t.Helper()
	if err := r.kernel.LoadRules(rs); err != nil {
		r.t.Fatal(err)
	}
}

// table fills the block table.
func (r *rig) table(entries string) {
	r.t.Helper()
	if err := r.kernel.LoadFile(block, pfioctl.TablePersist|pfioctl.TableCounters, strings.NewReader(entries)); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) serve(name string, list ...string) {
	r.t.Helper()
	entries, err := dnstest.ReadPrefixes(strings.NewReader(strings.Join(list, "\n")), "test")
	if err != nil {
		r.t.Fatal(err)
	}
	if err := r.dns.Set(dnstest.List{Name: name, Entries: entries, Layout: dnsfetch.LayoutAPL}); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) path(name string) string { return filepath.Join(r.dir, name) }

func (r *rig) write(name, text string) {
	r.t.Helper()
	if err := os.WriteFile(r.path(name), []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) chmod(name string, mode fs.FileMode) {
	r.t.Helper()
	if err := os.Chmod(r.path(name), mode); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) remove(name string) {
	r.t.Helper()
	if err := os.Remove(r.path(name)); err != nil {
		r.t.Fatal(err)
	}
}

// dial is the machine's way out: what goes to the indicator meets pf first.
func (r *rig) dial(ctx context.Context, network, address string) (net.Conn, error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil || to.Addr() != badHost {
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}
	if r.dialBad != nil {
		return r.dialBad(ctx)
	}
	if !r.send() {
		a, b := net.Pipe()
		b.Close()
		return a, nil
	}
	return nil, &net.OpError{Op: "dial", Net: network, Err: os.NewSyscallError("connect", syscall.EACCES)}
}

// send has a packet to the indicator meet pf, and pf log it, and reports whether
// it was blocked.
func (r *rig) send() bool {
	own := netip.MustParseAddr("198.18.0.1")
	v := r.kernel.Verdict(pfsim.Packet{Dir: pfioctl.DirOut, Iface: "em0", Src: own, Dst: badHost, Proto: 6, SrcPort: 30000, DstPort: indicatorPort, Bytes: 64})
	for _, l := range v.Logs {
		if l.If == 0 {
			r.pflog.Log(&capturetest.Packet{Action: capture.Action(l.Action), Dir: capture.Out, Iface: "em0", Rule: l.RuleNr, SubRule: l.SubRuleNr,
				Src: own, Dst: badHost, Proto: capturetest.TCP, SrcPort: 30000, DstPort: indicatorPort})
		}
	}
	return v.Action == pfioctl.ActionBlock
}

// logs are pflogd's files.
func (r *rig) logs() ([]*os.File, error) {
	if r.files == nil {
		return nil, nil
	}
	var b bytes.Buffer
	w, err := capturetest.NewPcapWriter(&b, 0, nil)
	if err != nil {
		return nil, err
	}
	for _, p := range r.files {
		if err := w.Write(p); err != nil {
			return nil, err
		}
	}
	if err := os.WriteFile(r.path("pflog"), b.Bytes(), 0o600); err != nil {
		return nil, err
	}
	f, err := os.Open(r.path("pflog"))
	if err == nil {
		_, err = f.Seek(24, io.SeekStart) // as left behind by a look at the header
	}
	return []*os.File{f}, err
}

// options finishes the options from the configuration.
func (r *rig) options() Options {
	r.t.Helper()
	var text strings.Builder
	for key, value := range r.conf {
		fmt.Fprintf(&text, "%s='%s'\n", key, value)
	}
	cfg, warnings, err := config.Parse("threatstop.conf", strings.NewReader(text.String()))
	if err != nil {
		r.t.Fatal(err)
	}
	r.o.Config, r.o.Warnings = cfg, append(warnings, r.warnings...)
	r.o.Sources.Block, r.o.Sources.Allow, r.o.Sources.NeverBlock = cfg.BlockLists, cfg.AllowLists, cfg.NeverBlock
	r.o.Fetch.Servers, r.o.Fetch.Timeout, r.o.Fetch.Resolver = cfg.DNSServers, cfg.DNSTimeout, noNames
	return r.o
}

// noNames is a resolver that knows no name.
func noNames(_ context.Context, name string) ([]netip.Addr, error) {
	return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
}

// test runs the test and returns the failures and what was written.
func (r *rig) test() (int, string) {
	r.t.Helper()
	var out bytes.Buffer
	n := Test(r.t.Context(), r.options(), &out)
	return n, out.String()
}

var errDenied = fmt.Errorf("open /dev/pf: %w", fs.ErrPermission)

// proxy forwards connections, or asks for a password.
func proxy(t *testing.T, password bool) *httptest.Server {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if password && q.Header.Get("Proxy-Authorization") == "" {
			w.WriteHeader(http.StatusProxyAuthRequired)
			return
		}
		to, err := net.Dial("tcp", q.Host)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		from, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			to.Close()
			return
		}
		fmt.Fprint(from, "HTTP/1.1 200 OK\r\n\r\n")
		go func() {
			copyConn(to, from)
			to.Close()
		}()
		copyConn(from, to)
		from.Close()
	}))
	t.Cleanup(s.Close)
	return s
}

func copyConn(to, from net.Conn) {
	b := make([]byte, 4096)
	for {
		n, err := from.Read(b)
		if n > 0 {
			if _, err := to.Write(b[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

var errNoPflogd = errors.New("pflogd: not running")

var (
	block = pfioctl.Table{Name: "ThreatSTOP-Block"}
	allow = pfioctl.Table{Name: "ThreatSTOP-Allow"}
)
