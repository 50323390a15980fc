package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/agent/internal/privsep"
	"example.org/threatstopd/agent/internal/privsep/privseptest"
	"example.org/threatstopd/agent/reporttest"
	"example.org/threatstopd/capture"
	"example.org/threatstopd/capture/capturetest"
	"example.org/threatstopd/dnsfetch/dnstest"
	"example.org/threatstopd/pfioctl"
	"example.org/threatstopd/pfioctl/pfsim"
)

// daemonHost is a firewall with the daemon on it, its pflog interface, and a log
// server.
type daemonHost struct {
	*firewall
	pflog     *capturetest.Interface
	collector *reporttest.Collector
	log       *lockedBuffer
	signals   chan os.Signal
	roles     privsep.Starter                       // nil: in this process
	wrap      func(privsep.Starter) privsep.Starter // those that are used; nil: as they are
	host      func() (policy.Facts, error)          // of the daemon; nil: its facts never change
	reexec    func(*os.File) error
	stop      func() int // ends the daemon and returns its exit code
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func newDaemonHost(t *testing.T) *daemonHost {
	t.Helper()
	fw := newFirewall(t, pfsim.Options{Now: time.Now})
	collector, err := reporttest.Start(reporttest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(collector.Close)
	ca := filepath.Join(fw.dir, "ca.pem")
	if err := collector.WriteCA(ca); err != nil {
		t.Fatal(err)
	}
	spool := filepath.Join(fw.dir, "spool")
	if err := os.Mkdir(spool, 0o700); err != nil {
		t.Fatal(err)
	}
	// The path of a socket is short, that of a test's directory may not be.
	sockets, err := os.MkdirTemp("", "ts")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(sockets) })
	fw.socket = filepath.Join(sockets, "s")
	fw.conf["url"] = collector.URL()
	fw.conf["CA_FILE"] = ca
	fw.conf["SPOOL_DIR"] = spool
	fw.conf["PFLOG_IF"] = "pflog0"
	fw.conf["pflog"] = filepath.Join(fw.dir, "pflog")
	return &daemonHost{firewall: fw, pflog: capturetest.NewInterface(""), collector: collector, log: &lockedBuffer{}}
}

// start starts the daemon, and waits until it has enforced a first policy and
// reads packets.
func (h *daemonHost) start() {
	h.t.Helper()
	conf := h.writeConf()
	env := h.env()
	env.Stderr = h.log
	env.Now = time.Now
	h.signals = make(chan os.Signal)
	env.Signals = h.signals
	env.OpenPflog = func(o capture.Options) (capture.Source, error) {
		r, err := h.pflog.Open(o)
		if err != nil {
			return nil, err
		}
		return r, nil
	}
	env.FlushPflogd = func() error { return errors.New("no pflogd here") }
	if env.Roles = h.roles; h.roles == nil {
		env.Roles = privseptest.InProcess(RoleBodies(env))
	}
	if h.wrap != nil {
		env.Roles = h.wrap(env.Roles)
	}
	if h.host != nil {
		env.Host = h.host
	}
	env.Confine = unconfined{}
	env.Reexec = h.reexec
	ctx, cancel := context.WithCancel(context.Background())
	code := make(chan int, 1)
	go func() { code <- Run(ctx, []string{"-d", "-v", "-f", conf}, env) }()
	stopped := -1
	h.stop = func() int {
		cancel()
		if stopped < 0 {
			select {
			case stopped = <-code:
			case <-time.After(time.Minute):
				h.t.Fatal("the daemon does not stop")
			}
		}
		return stopped
	}
	h.t.Cleanup(func() {
		h.stop()
		if h.t.Failed() {
			h.t.Logf("the daemon said:\n%s", h.log)
		}
	})
}

// unconfined lets a process keep what it has, but for the requests of pf that its promise
// does not allow: those the daemon leaves out by itself.
type unconfined struct{}

func (unconfined) Confine(string, privsep.Confinement) error { return nil }

// until waits for something to become true.
func (h *daemonHost) until(what string, ok func() bool) {
	h.t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			h.t.Fatalf("not %s; the daemon said:\n%s", what, h.log)
		}
	}
}

func (h *daemonHost) says(phrase string) func() bool {
	return func() bool { return strings.Contains(h.log.String(), phrase) }
}

// reads waits until the daemon reads packets and has a policy to match them with.
func (h *daemonHost) reads() {
	h.t.Helper()
	h.until("read", h.says("catch"))
	h.until("matched", h.says("policy taken"))
}

// packet sends a packet through pf, which logs it where the ruleset says so.
func (h *daemonHost) packet(dir pfioctl.Direction, src, dst string) pfsim.Verdict {
	h.t.Helper()
	p := pfsim.Packet{Dir: dir, Iface: "em0", Src: netip.MustParseAddr(src), Dst: netip.MustParseAddr(dst), Proto: capturetest.TCP, SrcPort: 40000, DstPort: 22, Bytes: 60}
	v := h.kernel.Verdict(p)
	for _, l := range v.Logs {
		h.pflog.Log(&capturetest.Packet{
			Action: capture.Action(l.Action), Dir: capture.Direction(dir), Iface: "em0", Rule: l.RuleNr, SubRule: l.SubRuleNr, Ruleset: l.Ruleset,
			Src: p.Src, Dst: p.Dst, Proto: p.Proto, SrcPort: p.SrcPort, DstPort: p.DstPort,
		})
	}
	return v
}

// seen waits until the daemon has read n packets.
func (h *daemonHost) seen(n int) {
	h.t.Helper()
	h.until(fmt.Sprintf("%d packets read", n), func() bool {
		h.signals <- syscall.SIGUSR1
		time.Sleep(20 * time.Millisecond)
		return strings.Contains(h.log.String(), fmt.Sprintf(" seen=%d ", n))
	})
}

func TestDaemon(t *testing.T) {
	h := newDaemonHost(t)
	h.start()
	h.until("enforced", h.says("policy enforced"))
	h.reads()
	if got := h.table(blockTable); !slices.Contains(got, "10.0.0.1") {
		t.Fatalf("block table %v", got)
	}

	// A second one is refused.
	if code, _, stderr := h.run("-d"); code != 1 || !strings.Contains(stderr, h.socket) {
		t.Errorf("a second one: %d, %q", code, stderr)
	}

	// What is blocked is reported; what is not, is not.
	for _, p := range []struct{ src, dst string }{{"10.0.0.1", "198.18.0.1"}, {"8.8.8.8", "198.18.0.1"}, {"192.0.2.7", "198.18.0.1"}} {
		h.packet(pfioctl.DirIn, p.src, p.dst)
	}
	h.packet(pfioctl.DirOut, "198.18.0.1", "192.0.2.200")

	h.seen(2)

	// The log server is down when the daemon stops: the hits wait in the
	// spool, and the next daemon delivers them.
	if err := h.collector.Fail(reporttest.Failure{Fault: reporttest.Refuse}); err != nil {
		t.Fatal(err)
	}
	if code := h.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if n := len(h.table(blockTable)); n != 5 {
		t.Errorf("the table has %d entries when the daemon has stopped", n)
	}
	if err := h.collector.Fail(reporttest.Failure{}); err != nil {
		t.Fatal(err)
	}
	h.start()
	h.until("delivered", func() bool { return len(h.collector.Receipts()) > 0 })
	lines := h.collector.Receipts()[0].Lines()
	if len(lines) != 2 || !strings.Contains(lines[0], "block in on em0: 10.0.0.1.40000 > 198.18.0.1.22: S") || !strings.Contains(lines[1], "block out on em0: 198.18.0.1.40000 > 192.0.2.200.22: S") {
		t.Errorf("reported %q", lines)
	}
	h.until("reported", h.says("Log file uploaded successfully for tdid_test0001"))
	if code := h.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// A configuration is read again at SIGHUP: a good one begins a new life, a bad
// one changes nothing.
func TestDaemonReload(t *testing.T) {
	h := newDaemonHost(t)
	h.start()
	h.until("enforced", h.says("policy enforced"))
	h.conf["POLL_INTERVAL"] = "1s"
	h.writeConf()
	h.signals <- syscall.SIGHUP
	h.until("refused", h.says("invalid configuration, keeping the current one"))
	h.conf["POLL_INTERVAL"] = "1h"
	h.conf["NEVER_BLOCK"] = "10.0.0.1"
	h.writeConf()
	h.signals <- syscall.SIGHUP
	h.until("read again", h.says("configuration read again"))
	h.until("enforced", func() bool { return !slices.Contains(h.table(blockTable), "10.0.0.1") })
	h.signals <- syscall.SIGUSR1
	h.until("reported", h.says("status"))
	if code := h.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// The interface goes away and comes back.
func TestDaemonPflogGone(t *testing.T) {
	h := newDaemonHost(t)
	h.start()
	h.until("enforced", h.says("policy enforced"))
	h.reads()
	h.pflog.Destroy()
	h.until("reported", h.says("hits are not read"))
	h.pflog.Create()
	h.until("over", h.says("resolved: hits are not read"))
	h.packet(pfioctl.DirIn, "10.0.0.1", "198.18.0.1")
	h.seen(1)
	h.stop()
	h.until("delivered", func() bool { return len(h.collector.Receipts()) > 0 })
}

// Without a network at boot packets are matched against what pf.conf loaded,
// and the daemon goes on trying.
func TestDaemonWithoutNetwork(t *testing.T) {
	h := newDaemonHost(t)
	h.sync(0)
	h.server.Down()
	h.start()
	h.until("reported", h.says("cannot connect"))
	h.reads()
	h.packet(pfioctl.DirIn, "10.0.0.1", "198.18.0.1")
	h.seen(1)
	h.stop()
	if n := len(h.table(blockTable)); n != 5 {
		t.Errorf("%d entries", n)
	}
	if r := h.collector.Receipts(); len(r) != 1 || len(r[0].Lines()) != 1 {
		t.Errorf("reported %v", r)
	}
}

// One list that fails does not hold up the others.
func TestDaemonOneListFails(t *testing.T) {
	h := newDaemonHost(t)
	h.conf["BLOCK_LISTS"] = blockList + " " + moreList
	h.serve(moreList, "203.0.113.1")
	h.start()
	h.until("enforced", h.says("policy enforced"))
	h.server.Fail(dnstest.On{List: moreList}, dnstest.Refused)
	h.serve(blockList, "10.0.0.9")
	h.signals <- syscall.SIGHUP // a new life fetches at once
	h.until("reported", h.says("may not be registered yet"))
}

// --sync-now asks the daemon, which also delivers the hits that wait.
func TestDaemonSyncNow(t *testing.T) {
	h := newDaemonHost(t)
	h.start()
	h.until("enforced", h.says("policy enforced"))
	h.reads()
	h.packet(pfioctl.DirIn, "10.0.0.1", "198.18.0.1")
	h.seen(1)
	h.serve(blockList, "10.0.0.1", "10.0.0.77")
	expect(t, h.sync(0), "Starting ThreatSTOP", "Using DNS Server "+h.server.Addr(), "Table ThreatSTOP-Block: 1 added, 4 deleted, 1 unchanged: 2 entries", "Finished ThreatSTOP update")
	if got := h.table(blockTable); !slices.Equal(got, []string{"10.0.0.1", "10.0.0.77"}) {
		t.Errorf("block table %v", got)
	}
	if r := h.collector.Receipts(); len(r) != 1 {
		t.Errorf("%d batches delivered", len(r))
	}
	// Details are for -v, as without a daemon; -q leaves only what is wrong.
	for _, c := range []struct {
		args             []string
		details, nothing bool
	}{{nil, false, false}, {[]string{"-v"}, true, false}, {[]string{"-q"}, false, true}} {
		_, stdout, stderr := h.run(append([]string{"--sync-now"}, c.args...)...)
		if got := strings.Contains(stdout, "\n  "); got != c.details || (stdout == "") != c.nothing || stderr != "" {
			t.Errorf("--sync-now %v prints:\n%s%s", c.args, stdout, stderr)
		}
	}
	h.server.Down()
	expect(t, h.sync(1), "cannot connect", "block list "+blockList+": the earlier copy stays in use, 2 entries")
	h.stop()
	if _, err := os.Stat(h.socket); !os.IsNotExist(err) {
		t.Errorf("the socket is left behind: %v", err)
	}
}
