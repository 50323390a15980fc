package daemon_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"example.org/threatstopd/agent/internal/apply"
	"example.org/threatstopd/agent/internal/daemon"
	"example.org/threatstopd/agent/internal/fetch"
	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/agent/internal/privsep"
	"example.org/threatstopd/agent/internal/privsep/privseptest"
	"example.org/threatstopd/agent/internal/report"
	"example.org/threatstopd/agent/internal/sources"
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

var (
	blockTable = pfioctl.Table{Name: "ThreatSTOP-Block"}
	allowTable = pfioctl.Table{Name: "ThreatSTOP-Allow"}

	always  = netip.MustParseAddr("192.0.2.66")    // listed in every policy
	own     = netip.MustParseAddr("198.18.0.1")    // the firewall's, and listed too
	nowhere = netip.MustParseAddr("203.0.113.250") // in no policy
)

// logServer is a log server in the process: it fails a set number of times,
// and keeps what it took by the id of the batch.
type logServer struct {
	mu       sync.Mutex
	failures int // one in so many attempts is good; 0: all are
	attempts int
	batches  map[string]int // lines
}

func (l *logServer) Send(_ context.Context, id report.ID, text []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.attempts++
	if l.failures > 0 && rand.IntN(l.failures) != 0 {
		return &report.UploadError{Err: errors.New("log server: away")}
	}
	l.batches[id.String()] = bytes.Count(text, []byte("\n"))
	return nil
}

func (l *logServer) lines() (batches, lines int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range l.batches {
		lines += n
	}
	return len(l.batches), lines
}

// site is a firewall with everything around it.
type site struct {
	t       *testing.T
	server  *dnstest.Server
	kernel  *pfsim.Kernel
	pflog   *capturetest.Interface
	logs    *logServer
	dir     string
	log     bytes.Buffer
	logMu   sync.Mutex
	signals chan os.Signal
	poll    time.Duration
	upload  time.Duration
	badConf bool

	fixed     string      // what takes another process to change
	carry     *os.File    // what crosses to that
	hanging   atomic.Bool // the role that fetches answers nothing but pings
	factsMu   sync.Mutex
	resolvers []netip.Addr
	hits      int // logged while somebody read
	roles     *mortal
	body      privsep.Body // runs in the role that reports, unless nil
	sender    func(report.Config) (report.Sender, error)
	config    func(*report.Config) // changes the configuration, unless nil
}

func (s *site) Write(p []byte) (int, error) {
	s.logMu.Lock()
	defer s.logMu.Unlock()
	return s.log.Write(p)
}

func (s *site) said(phrase string) int {
	s.logMu.Lock()
	defer s.logMu.Unlock()
	return strings.Count(s.log.String(), phrase)
}

// newSite starts the policy server, which must be outside of a bubble: it waits
// on real sockets.
func newSite(t *testing.T) *site {
	server, err := dnstest.Start(dnstest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	logs := &logServer{batches: make(map[string]int)}
	return &site{
		t: t, server: server, dir: t.TempDir(), logs: logs,
		poll: time.Hour, upload: 15 * time.Minute,
		sender: func(report.Config) (report.Sender, error) { return logs, nil },
	}
}

// boot makes the parts that live by the clock of the test.
func (s *site) boot() {
	s.kernel = pfsim.New(pfsim.Options{Now: time.Now, MaxEntries: 100000})
	s.kernel.SetRunning(true)
	s.pflog = capturetest.NewInterface("")
	s.signals = make(chan os.Signal)
	s.loadPF()
	if err := os.MkdirAll(filepath.Join(s.dir, "spool"), 0o700); err != nil {
		s.t.Fatal(err)
	}
}

// loadPF is pfctl -f /etc/pf.conf.
func (s *site) loadPF() { s.loadRules() }

// loadOther is that of another pf.conf, with one more rule.
func (s *site) loadOther() {
	s.loadRules(pfsim.Rule{Action: pfioctl.ActionPass, Dir: pfioctl.DirIn, Iface: "em7"})
}

func (s *site) loadRules(more ...pfsim.Rule) {
	open := func(name string) *os.File {
		f, err := os.OpenFile(filepath.Join(s.dir, name), os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			s.t.Fatal(err)
		}
		return f
	}
	block, allow := open("block"), open("allow")
	defer block.Close()
	defer allow.Close()
	bad := pfsim.Peer{Table: blockTable.Name}
	if err := s.kernel.LoadRules(pfsim.Ruleset{
		Tables: []pfsim.TableLine{
			{Table: blockTable, Flags: pfioctl.TablePersist, File: block},
			{Table: allowTable, Flags: pfioctl.TablePersist, File: allow},
		},
		Rules: append([]pfsim.Rule{
			{Action: pfioctl.ActionBlock, Dir: pfioctl.DirIn, Log: true, Quick: true, From: bad},
			{Action: pfioctl.ActionBlock, Dir: pfioctl.DirOut, Log: true, Quick: true, To: bad},
			{Action: pfioctl.ActionPass},
		}, more...),
	}); err != nil {
		s.t.Fatal(err)
	}
}

// serve puts a policy of n entries, a few of them new each time, on the server.
func (s *site) serve(n, generation int) {
	block := []dnstest.Entry{{Prefix: netip.PrefixFrom(always, 32)}, {Prefix: netip.PrefixFrom(own, 24).Masked()}}
	for i := range n {
		x := i + generation*7
		block = append(block, dnstest.Entry{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{20, byte(x >> 16), byte(x >> 8), byte(x)}), 32)})
	}
	allow := []dnstest.Entry{{Prefix: netip.MustParsePrefix("20.0.0.9/32")}}
	if err := s.server.Set(
		dnstest.List{Name: blockList, Entries: block},
		dnstest.List{Name: allowList, Entries: allow, Layout: dnsfetch.LayoutAPL},
	); err != nil {
		s.t.Error(err)
	}
}

func (s *site) load() (*daemon.Setup, error) {
	if s.badConf {
		return nil, errors.New("threatstop.conf:3: POLL_INTERVAL: bad")
	}
	target := func(t pfioctl.Table, file string) apply.Target {
		return apply.Target{Table: t, File: filepath.Join(s.dir, file), Load: true}
	}
	setup := &daemon.Setup{
		Sources: sources.Options{Block: []string{blockList}, Allow: []string{allowList}},
		Apply: apply.Options{
			Guard: policy.Guard{MaxShrink: policy.DefaultMaxShrink, Hold: policy.DefaultHold},
			Block: target(blockTable, "block"), Allow: target(allowTable, "allow"),
		},
		Fetch:        dnsfetch.Options{Servers: []string{s.server.Addr()}, Timeout: 20 * time.Second},
		PollInterval: s.poll,
		FullCheck:    15 * time.Minute,
		StaleAfter:   3 * s.poll,
		Report: report.Config{
			DeviceID: "tdid_test", Interval: s.upload, SpoolDir: filepath.Join(s.dir, "spool"), NoLogs: "no pflogd here",
			RetryMin: 10 * time.Second, RetryMax: time.Minute, Mode: "hits", Interface: "pflog0", URL: "https://logs.test/",
		},
		LockDir: s.dir,
		Fixed:   s.fixed,
	}
	if s.config != nil {
		s.config(&setup.Report)
	}
	return setup, nil
}

// host is what the firewall knows of itself.
func (s *site) host() (policy.Facts, error) {
	s.factsMu.Lock()
	defer s.factsMu.Unlock()
	return policy.Facts{
		Interfaces: []policy.Interface{{Name: "em0", Addresses: []netip.Prefix{netip.PrefixFrom(own, 24)}}},
		Resolvers:  s.resolvers,
	}, nil
}

// bodies are the roles, on this site.
func (s *site) bodies() map[string]privsep.Body {
	return map[string]privsep.Body{
		"fetch": func(conn net.Conn, files []*os.File) error {
			if s.hanging.Load() {
				if privsep.NewConn(conn, nil).Send(sayReady, nil) == nil {
					pong(conn)
				}
				return nil
			}
			return fetch.Body(nil, nil)(conn, files)
		},
		"report": report.Body(report.Env{
			OpenPflog: func(o capture.Options) (capture.Source, error) {
				r, err := s.pflog.Open(o)
				if err != nil {
					return nil, err
				}
				return r, nil
			},
			NewSender: s.sender,
			Location:  time.UTC,
		}),
	}
}

// mortal starts roles, and remembers them: they can be killed.
type mortal struct {
	privsep.Starter
	mu       sync.Mutex
	children map[string]privsep.Child
	refused  error // why no process can be started now
}

func (m *mortal) Start(role string, files []*os.File) (privsep.Child, error) {
	m.mu.Lock()
	refused := m.refused
	m.mu.Unlock()
	if refused != nil {
		return nil, refused
	}
	c, err := m.Starter.Start(role, files)
	if err == nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.children == nil {
			m.children = make(map[string]privsep.Child)
		}
		m.children[role] = c
	}
	return c, err
}

// refuse keeps processes from being started, until it is called with nil.
func (m *mortal) refuse(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refused = err
}

func (m *mortal) kill(role string) {
	m.mu.Lock()
	c := m.children[role]
	m.mu.Unlock()
	c.Kill()
}

// run runs the daemon until the function it returns is called.
func (s *site) run() (stop func()) { return s.runWith(s.load) }

func (s *site) runWith(load func() (*daemon.Setup, error)) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	d := s.daemon(load)
	go func() { ended <- d.Run(ctx) }()
	return func() {
		cancel()
		if err := <-ended; err != nil {
			s.t.Errorf("the daemon ended with %v", err)
		}
	}
}

// daemon is one that has not begun to run.
func (s *site) daemon(load func() (*daemon.Setup, error)) *daemon.Daemon {
	bodies := s.bodies()
	if s.body != nil {
		bodies["report"] = s.body
	}
	s.roles = &mortal{Starter: privseptest.InProcess(bodies)}
	return daemon.New(daemon.Options{
		Load: load, PF: s.kernel.OpenPF(), Host: s.host, Signals: s.signals,
		Log: zerolog.New(s), Version: "test", Roles: s.roles, Confine: unconfined{}, Carry: s.carry,
	})
}

// unconfined lets a process keep what it has, but for what pf's promise does not allow:
// that the daemon leaves out by itself.
type unconfined struct{}

func (unconfined) Confine(string, privsep.Confinement) error { return nil }

// packet sends a packet from an address to the firewall, and has it logged
// where pf's rules say so.
func (s *site) packet(from netip.Addr) pfsim.Verdict {
	p := pfsim.Packet{Dir: pfioctl.DirIn, Iface: "em0", Src: from, Dst: own, Proto: capturetest.TCP, SrcPort: 40000, DstPort: 22, Bytes: 60}
	v := s.kernel.Verdict(p)
	for _, l := range v.Logs {
		s.pflog.Log(&capturetest.Packet{Action: capture.Action(l.Action), Dir: capture.In, Iface: "em0", Rule: l.RuleNr,
			Src: p.Src, Dst: p.Dst, Proto: p.Proto, SrcPort: p.SrcPort, DstPort: p.DstPort})
	}
	return v
}

// verdict is what pf would do, without a trace.
func (s *site) verdict(from netip.Addr) pfioctl.Action {
	return s.kernel.Verdict(pfsim.Packet{Dir: pfioctl.DirIn, Iface: "em0", Src: from, Dst: own, Proto: capturetest.UDP, Bytes: 60}).Action
}

// probe asks every second, of three addresses whose verdict never changes.
func (s *site) probe() {
	for a, want := range map[netip.Addr]pfioctl.Action{always: pfioctl.ActionBlock, own: pfioctl.ActionPass, nowhere: pfioctl.ActionPass} {
		if got := s.verdict(a); got != want {
			s.t.Fatalf("%v: pf gives %s the verdict %d, not %d; the daemon said:\n%s", time.Now(), a, got, want, s.log.String())
		}
	}
}

// clean expects that what other hands added is gone.
func (s *site) clean(a netip.Addr) {
	s.t.Helper()
	pf := s.kernel.OpenPF()
	if results, err := pf.Test(blockTable, a); err != nil || results[0].Match {
		s.t.Errorf("what other hands added is still there: %v, %v", results, err)
	}
}

// A day of polls, uploads, faults, reloads of pf.conf, other hands in the
// tables and new configurations: once the policy is loaded, an address that is
// always listed is always blocked, the firewall's own never, and every hit is
// delivered.
func TestDay(t *testing.T) {
	s := newSite(t)
	s.serve(2000, 0)
	synctest.Test(t, func(t *testing.T) {
		s.t = t
		s.boot()
		stop := s.run()
		time.Sleep(5 * time.Second)
		if s.said("policy enforced") != 1 {
			t.Fatalf("no policy after five seconds:\n%s", s.log.String())
		}
		goroutines := runtime.NumGoroutine()
		r := rand.New(rand.NewPCG(1, 2))
		var faults []*dnstest.Injection
		deaths, kills, reloads, hups, touched := 0, 0, 0, 0, 0
		gone := false
		killed := -1000 // when a role was last killed
		for second := range 24 * 3600 {
			time.Sleep(time.Second)
			s.probe()
			switch {
			case second%600 == 300 && !gone && second-killed > 90:
				s.packet(always)
				s.hits++
			case r.IntN(3600) == 0: // about as often as there are hours
				s.roles.kill([]string{"report", "fetch"}[kills%2])
				killed = second
				kills++
			case second%7200 == 3000: // the interface goes away, for a minute
				s.pflog.Destroy()
				gone = true
				deaths++
			case second%7200 == 3060:
				s.pflog.Create()
			case second%7200 == 3200:
				gone = false
			case second%16000 == 9000:
				s.loadPF()
				reloads++
			case second%11000 == 5000: // other hands
				pf := s.kernel.OpenPF()
				if _, err := pf.Delete(blockTable, pfioctl.Addr{Prefix: netip.MustParsePrefix("20.0.20.5/32")}); err != nil {
					t.Error(err)
				}
				if _, err := pf.Add(blockTable, pfioctl.Addr{Prefix: netip.MustParsePrefix("203.0.113.77/32")}); err != nil {
					t.Error(err)
				}
				touched++
			case second%11000 == 5900:
				s.clean(netip.MustParseAddr("203.0.113.77"))
			case second%20000 == 15000: // a good configuration, or a bad one
				s.badConf = hups == 1
				s.signals <- syscall.SIGHUP
				hups++
			case second%4000 == 1000:
				s.serve(1900+r.IntN(200), second/4000)
			case second%5000 == 2500:
				all := []dnstest.Fault{dnstest.Refused, dnstest.ServFail, dnstest.NoRecords{}, dnstest.CutRecords{Keep: 0}, dnstest.CloseAfter{}, dnstest.WrongID{}, dnstest.Truncated{}}
				faults = append(faults, s.server.Fail(dnstest.On{}, all[r.IntN(len(all))]))
			case second%5000 == 4500:
				s.server.Heal()
			case second%9000 == 4000:
				s.logs.mu.Lock()
				s.logs.failures = []int{0, 3, 10}[r.IntN(3)]
				s.logs.mu.Unlock()
			}
		}
		s.badConf = false
		s.logs.mu.Lock()
		s.logs.failures = 0
		s.logs.mu.Unlock()
		time.Sleep(20 * time.Minute)
		if n := runtime.NumGoroutine(); n > goroutines+2 {
			t.Errorf("%d goroutines, %d in the morning", n, goroutines)
		}
		stop()
		fired := 0
		for _, f := range faults {
			fired += f.Fired()
		}
		batches, lines := s.logs.lines()
		polls := s.said("took")
		t.Logf("%d polls, %d answers spoiled, %d batches with %d lines in %d attempts, %d interface deaths, %d role deaths, %d reloads, %d configurations, %d times mended",
			polls, fired, batches, lines, s.logs.attempts, deaths, kills, reloads, hups, s.said("drift mended"))
		if polls < 24 || batches < 80 || deaths < 10 || kills < 10 || reloads < 5 || hups < 3 || fired == 0 {
			t.Errorf("the day was too short; the daemon said:\n%s", s.log.String())
		}
		if lines != s.hits {
			t.Errorf("%d hits were delivered, %d logged", lines, s.hits)
		}
		// A poll that comes in between puts it right, too, and reports no drift.
		if s.said("drift mended") < touched-3 {
			t.Errorf("other hands were in the table %d times, mended %d times", touched, s.said("drift mended"))
		}
		if s.said("invalid configuration") != 1 {
			t.Errorf("bad configurations refused: %d", s.said("invalid configuration"))
		}
	})
}
