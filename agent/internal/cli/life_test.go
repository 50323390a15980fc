package cli_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"example.org/threatstopd/agent/internal/cli"
	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/agent/internal/privsep/privseptest"
	"example.org/threatstopd/agent/reporttest"
	"example.org/threatstopd/capture"
	"example.org/threatstopd/capture/capturetest"
	"example.org/threatstopd/dnsfetch"
	"example.org/threatstopd/dnsfetch/dnstest"
	"example.org/threatstopd/install"
	"example.org/threatstopd/pfioctl"
	"example.org/threatstopd/pfioctl/pfsim"
)

const blockList = "basic.life.threatstop.local"

var (
	blockTable = pfioctl.Table{Name: "ThreatSTOP-Block"}
	allowTable = pfioctl.Table{Name: "ThreatSTOP-Allow"}
	own        = netip.MustParseAddr("198.51.100.2")
)

// vendorHost lays out a host on which the vendor's scripts run.
func vendorHost(t *testing.T) (root string) {
	t.Helper()
	root = t.TempDir()
	const newsyslog = "/var/log/pflog\t\t\t\t600  %s     ZB \"pkill -HUP -u root -U root -t - -x pflogd\"\n"
	const crontab = "0\t*\t*\t*\t*\t/usr/bin/newsyslog\n"
	for name, text := range map[string]string{
		"/etc/passwd":                        "root:*:0:0:Charlie &:/root:/bin/ksh\n",
		"/etc/master.passwd":                 "root:x:0:0:daemon:0:0:Charlie &:/root:/bin/ksh\n",
		"/etc/group":                         "wheel:*:0:root\n",
		"/etc/newsyslog.conf":                fmt.Sprintf(newsyslog, "10     *   1"),
		"/etc/newsyslog.conf.pre-threatstop": fmt.Sprintf(newsyslog, "3     250   *"),
		"/etc/pf.conf": "table <ThreatSTOP-Block> persist file \"/var/db/ThreatSTOP-Block.pftable\"\n" +
			"block drop in log quick from <ThreatSTOP-Block>\n",
		"/etc/rc.d/pflogd":                 "#!/bin/ksh\n",
		"/root/crontab.pre-threatstop":     crontab,
		"/usr/local/etc/threatstop.conf":   "device_id=tdid_abcd1234\nDNS_SERVERS=192.0.2.53\nBLOCK_LISTS=basic.threatstop.local\nurl=https://logs.threatstop.com/\n",
		"/usr/local/man/man8/login_fbtab":  "",
		"/usr/local/sbin/threatstop-pf.sh": "#!/bin/sh\n",
		"/usr/local/sbin/sendlog.sh":       "#!/bin/sh\n",
		"/var/cron/tabs/root": crontab + "22 * * * * /usr/local/sbin/threatstop-pf.sh\n" +
			"*/15 * * * * /usr/local/sbin/sendlog.sh\n",
		"/var/db/services.db":     "",
		"/var/log/messages":       "",
		"/var/spool/lock/console": "",
	} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// snapshot returns mode and content of everything below root.
func snapshot(t *testing.T, root string) map[string]string {
	t.Helper()
	all := make(map[string]string)
	err := fs.WalkDir(os.DirFS(root), ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := e.Info()
		if err != nil {
			return err
		}
		var text []byte
		if fi.Mode().IsRegular() {
			text, err = os.ReadFile(filepath.Join(root, path))
		}
		all["/"+path] = fmt.Sprintf("%v %s", fi.Mode(), text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// firewall is a host with everything around it.
type firewall struct {
	t         *testing.T
	root      string
	kernel    *pfsim.Kernel
	server    *dnstest.Server
	collector *reporttest.Collector
	pflog     *capturetest.Interface
	conf      string
	sockets   string

	mu      sync.Mutex
	log     bytes.Buffer
	signals chan os.Signal
	stop    func()
}

func (f *firewall) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.log.Write(p)
}

func (f *firewall) path(name string) string { return filepath.Join(f.root, name) }

func (f *firewall) env(out io.Writer) cli.Env {
	env := cli.Env{
		Stdin: strings.NewReader(""), Stdout: out, Stderr: out,
		OpenPF: func() (*pfioctl.PF, error) { return f.kernel.OpenPF(), nil },
		Host: func() (policy.Facts, error) {
			return policy.Facts{Interfaces: []policy.Interface{{Name: "em0", Addresses: []netip.Prefix{netip.PrefixFrom(own, 24)}}}}, nil
		},
		Lookup: func(context.Context, string) ([]netip.Addr, error) { return nil, errors.New("no such host") },
		OpenPflog: func(o capture.Options) (capture.Source, error) {
			r, err := f.pflog.Open(o)
			if err != nil {
				return nil, err
			}
			return r, nil
		},
		FlushPflogd: func() error { return nil },
		Signals:     f.signals,
		Socket:      filepath.Join(f.sockets, "s"),
		Now:         time.Now,
		Local:       time.UTC,
	}
	env.Roles = privseptest.InProcess(cli.RoleBodies(env))
	return env
}

// run runs a command and expects an exit code.
func (f *firewall) run(want int, args ...string) string {
	f.t.Helper()
	var out bytes.Buffer
	if code := cli.Run(context.Background(), append(args, "-f", f.conf), f.env(&out)); code != want {
		f.t.Fatalf("threatstopd %s: exit code %d, want %d:\n%s", strings.Join(args, " "), code, want, out.String())
	}
	return out.String()
}

// start is rcctl start threatstopd.
func (f *firewall) start() {
	f.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	f.signals = make(chan os.Signal)
	f.mu.Lock()
	f.log.Reset()
	f.mu.Unlock()
	code := make(chan int, 1)
	go func() { code <- cli.Run(ctx, []string{"-d", "-f", f.conf}, f.env(f)) }()
	var once sync.Once
	f.stop = func() {
		once.Do(func() {
			cancel()
			if c := <-code; c != 0 {
				f.t.Errorf("the daemon ended with exit code %d:\n%s", c, f.said())
			}
		})
	}
	f.t.Cleanup(f.stop)
	f.until("reads packets", func() bool { return strings.Contains(f.status(), " seen=") })
}

func (f *firewall) said() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.log.String()
}

// status has the daemon log its status, and returns all it has logged.
func (f *firewall) status() string {
	f.signals <- syscall.SIGUSR1
	time.Sleep(20 * time.Millisecond)
	return f.said()
}

func (f *firewall) until(what string, ok func() bool) {
	f.t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			f.t.Fatalf("the daemon never %s; it said:\n%s", what, f.said())
		}
	}
}

func (f *firewall) says(phrase string) func() bool {
	return func() bool { return strings.Contains(f.said(), phrase) }
}

func (f *firewall) serve(list ...string) {
	f.t.Helper()
	entries, err := dnstest.ReadPrefixes(strings.NewReader(strings.Join(list, "\n")), "life")
	if err != nil {
		f.t.Fatal(err)
	}
	if err := f.server.Set(dnstest.List{Name: blockList, Entries: entries, Layout: dnsfetch.LayoutAPL}); err != nil {
		f.t.Fatal(err)
	}
}

// loadPF is pfctl -f /etc/pf.conf, with the files that pf.conf names.
func (f *firewall) loadPF() {
	f.t.Helper()
	open := func(t pfioctl.Table) *os.File {
		file, err := os.Open(f.path("/var/db/" + t.Name + ".pftable"))
		if err != nil {
			f.t.Fatalf("pf.conf does not load: %v", err)
		}
		f.t.Cleanup(func() { file.Close() })
		return file
	}
	bad := pfsim.Peer{Table: blockTable.Name}
	if err := f.kernel.LoadRules(pfsim.Ruleset{
		Tables: []pfsim.TableLine{
			{Table: blockTable, Flags: pfioctl.TablePersist, File: open(blockTable)},
			{Table: allowTable, Flags: pfioctl.TablePersist, File: open(allowTable)},
		},
		Rules: []pfsim.Rule{
			{Action: pfioctl.ActionBlock, Dir: pfioctl.DirIn, Log: true, Quick: true, From: bad},
			{Action: pfioctl.ActionBlock, Dir: pfioctl.DirOut, Log: true, Quick: true, To: bad},
			{Action: pfioctl.ActionPass},
		},
	}); err != nil {
		f.t.Fatalf("pf.conf does not load: %v", err)
	}
}

func (f *firewall) table() []string {
	f.t.Helper()
	pf := f.kernel.OpenPF()
	defer pf.Close()
	addrs, err := pf.Get(blockTable)
	if err != nil {
		f.t.Fatal(err)
	}
	var all []string
	for _, a := range addrs {
		all = append(all, a.String())
	}
	return all
}

func (f *firewall) holds(want ...string) {
	f.t.Helper()
	if got := f.table(); !slices.Equal(got, want) {
		f.t.Errorf("the table holds %v, want %v", got, want)
	}
}

// record is what pf logs of a blocked packet from an address.
func record(from string, at time.Time) *capturetest.Packet {
	return &capturetest.Packet{Time: at, Action: capture.ActionBlock, Dir: capture.In, Iface: "em0",
		Src: netip.MustParseAddr(from), Dst: own, Proto: capturetest.TCP, SrcPort: 40000, DstPort: 22}
}

// pflogd writes packets into its file, compressed as newsyslog leaves it if the
// name says so.
func (f *firewall) pflogd(name string, packets ...*capturetest.Packet) {
	f.t.Helper()
	var b bytes.Buffer
	w, err := capturetest.NewPcapWriter(&b, 0, nil)
	if err != nil {
		f.t.Fatal(err)
	}
	for _, p := range packets {
		if err := w.Write(p); err != nil {
			f.t.Fatal(err)
		}
	}
	data := b.Bytes()
	if strings.HasSuffix(name, ".gz") {
		var z bytes.Buffer
		gz := gzip.NewWriter(&z)
		gz.Write(data)
		if err := gz.Close(); err != nil {
			f.t.Fatal(err)
		}
		data = z.Bytes()
	}
	if err := os.WriteFile(f.path("/var/log/"+name), data, 0o600); err != nil {
		f.t.Fatal(err)
	}
}

// reported counts the lines that the log server has about an address.
func (f *firewall) reported(address string) int {
	n := 0
	for _, r := range f.collector.Receipts() {
		n += strings.Count(r.Text, " "+address+".")
	}
	return n
}

// The whole life of threatstopd on a host: it takes over from the vendor's
// scripts, enforces policies through everything that happens to a firewall,
// reports what it blocked, and leaves the host as it was.
func TestWholeLife(t *testing.T) {
	root := vendorHost(t)
	before := snapshot(t, root)
	var said bytes.Buffer
	o := install.Options{
		Root: root, Yes: true, In: strings.NewReader(""), Out: &said,
		Commands: install.Tree(root),
		Program:  func() ([]byte, error) { return []byte("the program"), nil },
		Conf:     cli.InstallConf(),
		Chown:    func(string, int, int) error { return nil },
	}
	if err := install.Install(context.Background(), o); err != nil {
		t.Fatalf("install: %v\n%s", err, &said)
	}

	sockets, err := os.MkdirTemp("", "ts")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(sockets)
	f := &firewall{t: t, root: root, sockets: sockets, pflog: capturetest.NewInterface(""), kernel: pfsim.New(pfsim.Options{Now: time.Now})}
	f.kernel.SetRunning(true)
	if f.server, err = dnstest.Start(dnstest.Options{}); err != nil {
		t.Fatal(err)
	}
	defer f.server.Close()
	if f.collector, err = reporttest.Start(reporttest.Options{}); err != nil {
		t.Fatal(err)
	}
	defer f.collector.Close()

	// The owner fills the configuration in. The installed one stays for the
	// comparison at the end.
	f.conf = filepath.Join(sockets, "threatstop.conf")
	ca := filepath.Join(sockets, "ca.pem")
	if err := f.collector.WriteCA(ca); err != nil {
		t.Fatal(err)
	}
	spool := filepath.Join(sockets, "spool")
	if err := os.Mkdir(spool, 0o700); err != nil {
		t.Fatal(err)
	}
	configure := func(more string) {
		t.Helper()
		text := fmt.Sprintf("device_id=tdid_life0001\nDNS_SERVERS=%s\nDNS_TIMEOUT=30s\nBLOCK_LISTS=%s\nOUT_DIR=%s\nurl=%s\nCA_FILE=%s\nSPOOL_DIR=%s\npflog=%s\n%s",
			f.server.Addr(), blockList, f.path("/var/db"), f.collector.URL(), ca, spool, f.path("/var/log/pflog"), more)
		if err := os.WriteFile(f.conf, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	configure("")
	f.run(0, "-n")

	// The first boot: pf.conf loads the files that are there, and the daemon
	// brings the policy.
	f.loadPF()
	f.serve("192.0.2.1", "192.0.2.2")
	f.start()
	f.until("enforces the policy", f.says("policy enforced"))
	f.holds("192.0.2.1", "192.0.2.2")

	// The policy changes.
	f.serve("192.0.2.1", "192.0.2.3")
	f.run(0, "--sync-now")
	f.holds("192.0.2.1", "192.0.2.3")

	// The server fails, in ways that must change nothing.
	for _, fault := range []dnstest.Fault{dnstest.Refused, dnstest.NoRecords{}, dnstest.CutBytes{Bytes: 3}, dnstest.WrongID{}} {
		f.serve("203.0.113.9")
		broken := f.server.Fail(dnstest.On{}, fault)
		f.run(1, "--sync-now")
		f.holds("192.0.2.1", "192.0.2.3")
		broken.Heal()
	}
	f.serve("192.0.2.1", "192.0.2.3")
	f.run(0, "--sync-now")

	// pf.conf is loaded again: the tables come from the files.
	f.loadPF()
	f.holds("192.0.2.1", "192.0.2.3")

	// Another hand in the table is mended.
	pf := f.kernel.OpenPF()
	if _, err := pf.Clear(blockTable); err != nil {
		t.Fatal(err)
	}
	f.run(0, "--sync-now")
	f.holds("192.0.2.1", "192.0.2.3")

	// pf is disabled: everything says so.
	f.kernel.SetRunning(false)
	if text := f.run(0, "--sync-now"); !strings.Contains(text, "NOT ENFORCED: pf is disabled") {
		t.Errorf("pf is disabled, and --sync-now says\n%s", text)
	}
	if text := f.run(1, "--status"); !strings.HasPrefix(text, "NOT ENFORCED") {
		t.Errorf("pf is disabled, and --status begins\n%s", text)
	}
	f.kernel.SetRunning(true)
	f.run(0, "--sync-now")
	f.run(0, "--status")

	// A bad configuration is refused, a good one taken.
	configure("POLL_INTERVAL=never\n")
	f.signals <- syscall.SIGHUP
	f.until("refuses the configuration", f.says("invalid configuration, keeping the current one"))
	f.holds("192.0.2.1", "192.0.2.3")
	configure("NEVER_BLOCK=192.0.2.3\n")
	f.signals <- syscall.SIGHUP
	f.until("takes the configuration", func() bool { return slices.Equal(f.table(), []string{"192.0.2.1"}) })
	configure("")
	f.signals <- syscall.SIGHUP
	f.until("takes the first one again", func() bool { return len(f.table()) == 2 })
	f.until("reads packets", func() bool { return strings.Contains(f.status(), " seen=") })

	// What is blocked is reported. The process that reports is another one for each configuration: a packet
	// that comes between two is in pflogd's file alone, and so a packet comes each second.
	logged, hit := time.Time{}, regexp.MustCompile(` hits=[1-9]`)
	f.until("reports the packet", func() bool {
		if time.Since(logged) > time.Second {
			logged = time.Now()
			f.pflog.Log(record("192.0.2.1", logged))
		}
		return hit.MatchString(f.status()) || f.reported("192.0.2.1") > 0
	})
	f.run(0, "--sync-now")
	if f.reported("192.0.2.1") == 0 {
		t.Error("192.0.2.1 was not reported")
	}

	// While the daemon is stopped pflogd goes on, and newsyslog rotates its
	// file; the next daemon catches up, once.
	f.stop()
	f.holds("192.0.2.1", "192.0.2.3")
	down := time.Now()
	f.pflogd("pflog.0.gz", record("192.0.2.3", down.Add(10*time.Millisecond)), record("8.8.8.8", down.Add(11*time.Millisecond)))
	f.pflogd("pflog", record("192.0.2.3", down.Add(20*time.Millisecond)))
	time.Sleep(100 * time.Millisecond)
	f.start()
	f.until("catches up", func() bool { return f.reported("192.0.2.3") > 0 || strings.Contains(f.said(), "caught up") })
	f.run(0, "--sync-now")
	if n := f.reported("192.0.2.3"); n != 2 {
		t.Errorf("while the daemon was down 192.0.2.3 was logged twice, and reported %d times; it said:\n%s", n, f.said())
	}
	if n := f.reported("8.8.8.8"); n != 0 {
		t.Errorf("8.8.8.8 is no hit, and was reported %d times", n)
	}
	f.stop()

	// It goes, and the host is as it was, but for what the daemon and pflogd
	// wrote into their files.
	for _, name := range []string{"pflog", "pflog.0.gz"} {
		os.Remove(f.path("/var/log/" + name))
	}
	if err := install.Uninstall(context.Background(), o); err != nil {
		t.Fatalf("uninstall: %v\n%s", err, &said)
	}
	after := snapshot(t, root)
	maps.DeleteFunc(after, func(name, _ string) bool { return strings.HasPrefix(name, "/var/db/ThreatSTOP-") })
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("after --uninstall (-before +after):\n%s", diff)
	}
}
