package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"example.org/threatstopd/agent/internal/cli"
	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/agent/internal/privsep/privseptest"
	"example.org/threatstopd/agent/reporttest"
	"example.org/threatstopd/capture"
	"example.org/threatstopd/capture/capturetest"
	"example.org/threatstopd/dnsfetch"
	"example.org/threatstopd/dnsfetch/dnstest"
	"example.org/threatstopd/pfioctl"
	"example.org/threatstopd/pfioctl/pfsim"
)

const (
	blockList  = "basic.demo.threatstop.local"
	allowList  = "allow.demo.threatstop.local"
	blockTable = "ThreatSTOP-Block"
	allowTable = "ThreatSTOP-Allow"
)

// stage is the simulated firewall with its servers.
type stage struct {
	out    io.Writer
	server *dnstest.Server
	kernel *pfsim.Kernel
	own    netip.Prefix // the firewall's address on em0
	dir    string
	conf   string
	block  []dnstest.Entry
	allow  []dnstest.Entry

	pflog     *capturetest.Interface
	collector *reporttest.Collector
	shown     int    // receipts of the collector that were shown
	page      string // the address of the status page; "" when it is not wanted
	logged    int    // packets
	synced    bool   // one whole output of --sync-now was shown
}

// show runs all steps and returns the first error or failed check.
func show(out io.Writer, blockFile, allowFile string, page bool) (err error) {
	s := &stage{out: &oneAtATime{w: out}, own: netip.MustParsePrefix("100.64.0.2/24")}
	if page {
		if s.page, err = freeAddress(); err != nil {
			return err
		}
	}
	if s.block, s.allow, err = lists(blockFile, allowFile); err != nil {
		return err
	}
	if s.server, err = dnstest.Start(dnstest.Options{}); err != nil {
		return err
	}
	defer s.server.Close()
	if s.dir, err = os.MkdirTemp("", "threatstop-demo"); err != nil {
		return err
	}
	defer os.RemoveAll(s.dir)
	s.kernel = pfsim.New(pfsim.Options{MaxEntries: 2 * (len(s.block) + len(s.allow) + 50000)})
	s.pflog = capturetest.NewInterface("")
	if s.collector, err = reporttest.Start(reporttest.Options{}); err != nil {
		return err
	}
	defer s.collector.Close()
	for _, step := range []func() error{s.setUp, s.firstRun, s.look, s.why, s.secondRun, s.change, s.ownAddress, s.failure, s.hits} {
		if err := step(); err != nil {
			return err
		}
	}
	batches := len(s.collector.Receipts())
	s.title(`That was the demo, and every step was checked:
   pf blocked what the lists name, and nothing else: not the firewall itself;
   a server that failed changed nothing;
   the log server has the hits, in %d uploads.
   Now try a mode yourself: build/demo -- --help`, batches)
	return nil
}

// oneAtATime is a writer for several goroutines, which write whole lines.
type oneAtATime struct {
	mu sync.Mutex
	w  io.Writer
}

func (o *oneAtATime) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.w.Write(p)
}

func (s *stage) title(format string, args ...any) {
	fmt.Fprintf(s.out, "\n== "+format+"\n", args...)
}

// setUp loads a pf.conf as the vendor documents it, with empty tables, and writes threatstop.conf.
func (s *stage) setUp() error {
	s.title("A firewall whose pf.conf has the two tables and blocks one of them,\n   a policy server with %d blocked and %d allowed entries, and threatstop.conf:", len(s.block), len(s.allow))
	s.kernel.SetRunning(true)
	if err := s.kernel.LoadRules(pfConf()); err != nil {
		return err
	}
	logs, err := s.logServer()
	if err != nil {
		return err
	}
	s.conf = filepath.Join(s.dir, "threatstop.conf")
	text := fmt.Sprintf(`device_id=tdid_demo0001
DNS_SERVERS="%s"
BLOCK_LISTS="%s"
ALLOW_LISTS="%s"
OUT_DIR=%s
%s`, s.server.Addr(), blockList, allowList, s.dir, logs)
	// Networks this wide are not for a firewall to block; who brings a list
	// that has them wants to see them.
	if v4, v6 := widest(s.block, false), widest(s.block, true); v4 < 8 || v6 < 16 {
		text += fmt.Sprintf("MIN_PREFIX_V4=%d\nMIN_PREFIX_V6=%d\n", max(1, min(v4, 8)), max(1, min(v6, 16)))
	}
	if s.page != "" {
		text += "STATUS_PAGE=" + s.page + "\n"
	}
	fmt.Fprint(s.out, indent(text))
	if err := os.WriteFile(s.conf, []byte(text), 0o600); err != nil {
		return err
	}
	return s.serve(s.block)
}

// pfConf is the README's pf.conf as pfctl would load it at boot, while the table files are empty.
func pfConf() pfsim.Ruleset {
	bad := pfsim.Peer{Table: blockTable}
	return pfsim.Ruleset{
		Tables: []pfsim.TableLine{
			{Table: pfioctl.Table{Name: blockTable}, Flags: pfioctl.TablePersist, File: strings.NewReader("")},
			{Table: pfioctl.Table{Name: allowTable}, Flags: pfioctl.TablePersist, File: strings.NewReader("")},
		},
		Rules: []pfsim.Rule{
			{Action: pfioctl.ActionBlock, Dir: pfioctl.DirIn, Log: true, Quick: true, From: bad},
			{Action: pfioctl.ActionBlock, Dir: pfioctl.DirOut, Log: true, Quick: true, To: bad},
			{Action: pfioctl.ActionPass},
		},
	}
}

func (s *stage) serve(block []dnstest.Entry) error {
	lists := []dnstest.List{{Name: blockList, Entries: block}}
	if len(s.allow) > 0 {
		lists = append(lists, dnstest.List{Name: allowList, Entries: s.allow, Layout: dnsfetch.LayoutAPL})
	} else {
		lists = append(lists, dnstest.List{Name: allowList, Layout: dnsfetch.LayoutAPL})
	}
	return s.server.Set(lists...)
}

// run shows the command, runs threatstopd with the stage's configuration, and
// checks the exit code. It returns what was printed.
func (s *stage) run(want int, args ...string) (string, error) {
	fmt.Fprintf(s.out, "\n$ threatstopd %s\n", strings.Join(args, " "))
	return s.quietly(want, args...)
}

// quietly is run, but shows only what failed.
func (s *stage) quietly(want int, args ...string) (string, error) {
	var both bytes.Buffer
	env := s.env()
	env.Stdout, env.Stderr = &both, &both
	if code := cli.Run(context.Background(), append(args, "-f", s.conf), env); code != want {
		fmt.Fprint(s.out, indent(both.String()))
		return "", fmt.Errorf("threatstopd %s: exit code %d, expected %d", strings.Join(args, " "), code, want)
	}
	return both.String(), nil
}

// env is the system that threatstopd sees.
func (s *stage) env() cli.Env {
	env := cli.System()
	env.Terminal = false
	env.OpenPF = s.open
	env.Socket, env.StatusSocket, env.CrashFile = filepath.Join(s.dir, "sock"), "", ""
	env.Host = func() (policy.Facts, error) {
		return policy.Facts{Interfaces: []policy.Interface{{Name: "em0", Addresses: []netip.Prefix{s.own}}}}, nil
	}
	// The roles run in this process, unconfined, so that the demo can show what they do.
	env.Confine = nil
	env.OpenPflog = func(o capture.Options) (capture.Source, error) {
		r, err := s.pflog.Open(o)
		if err != nil {
			return nil, err
		}
		return r, nil
	}
	env.FlushPflogd = func() error { return nil } // a pflogd that has nothing to write
	env.Roles = privseptest.InProcess(cli.RoleBodies(env))
	return env
}

func (s *stage) open() (*pfioctl.PF, error) {
	return s.kernel.OpenPF(), nil
}

// sync runs --sync-now, shows its output, and expects the phrases in it.
func (s *stage) sync(want int, phrases ...string) error {
	began := time.Now()
	text, err := s.run(want, "--sync-now")
	if err != nil {
		return err
	}
	shown := text
	if s.synced {
		shown = news(text)
	}
	s.synced = true
	fmt.Fprint(s.out, indent(shown))
	fmt.Fprintf(s.out, "   (%v)\n", time.Since(began).Round(time.Millisecond/10))
	for _, p := range phrases {
		if !strings.Contains(text, p) {
			return fmt.Errorf("--sync-now did not say %q", p)
		}
	}
	return nil
}

// news returns the lines of a run that another run does not print as well.
func news(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		same := false
		for _, begin := range []string{"Starting ", "Using ", "Processing ", "Completed ", "Adding ", "Finished ", "Run Length"} {
			same = same || strings.HasPrefix(line, begin)
		}
		if !same {
			b.WriteString(line)
		}
	}
	return b.String()
}

func (s *stage) firstRun() error {
	s.title("The first run fetches the lists over DNS/TCP and puts them into pf:")
	return s.sync(0, "Table "+blockTable+": ", " added, 0 deleted, 0 unchanged")
}

// look shows the table and the file, and checks that they agree.
func (s *stage) look() error {
	s.title("What pf holds now:")
	text, err := s.run(0, "--dump-table", "block")
	if err != nil {
		return err
	}
	fmt.Fprint(s.out, indent(head(text, 5)))
	n := strings.Count(text, "\n")
	file, err := os.ReadFile(filepath.Join(s.dir, blockTable+".pftable"))
	if err != nil {
		return err
	}
	s.title("%d entries. And the file that pf.conf loads at boot:", n)
	fmt.Fprint(s.out, indent(head(string(file), 8)))
	entries := 0
	for line := range strings.Lines(string(file)) {
		if line[0] != '#' {
			entries++
		}
	}
	if entries != n {
		return fmt.Errorf("the file has %d entries, the table %d", entries, n)
	}
	return s.verdicts()
}

// why shows which list has an address.
func (s *stage) why() error {
	bad, found := s.victim()
	if !found {
		return errors.New("the policy blocks no address")
	}
	s.title("Why an address is blocked:")
	text, err := s.run(0, "--check", bad.String())
	if err != nil {
		return err
	}
	fmt.Fprint(s.out, indent(text))
	if !strings.Contains(text, blockList) {
		return errors.New("--check did not name the list")
	}
	return nil
}

// verdicts asks the simulated kernel what it does with two packets.
func (s *stage) verdicts() error {
	bad, found := s.victim()
	if !found {
		return errors.New("the policy blocks no address")
	}
	stranger, err := s.stranger()
	if err != nil {
		return err
	}
	s.title("What pf does with packets:")
	for _, p := range []struct {
		from string
		addr netip.Addr
		want pfioctl.Action
	}{{"a listed address", bad, pfioctl.ActionBlock}, {"an address that is not listed", stranger, pfioctl.ActionPass}} {
		v := s.kernel.Verdict(pfsim.Packet{Dir: pfioctl.DirIn, Iface: "em0", Src: p.addr, Dst: s.own.Addr(), Proto: 6, SrcPort: 40000, DstPort: 22, Bytes: 60})
		fmt.Fprintf(s.out, "   from %s, %s: %s\n", p.from, p.addr, word(v.Action))
		if v.Action != p.want {
			return fmt.Errorf("the packet from %s (%s) got %s, expected %s", p.from, p.addr, word(v.Action), word(p.want))
		}
	}
	return nil
}

func word(a pfioctl.Action) string {
	if a == pfioctl.ActionBlock {
		return "block"
	}
	return "pass"
}

// victim is an address that the table blocks, a listed host if there is one.
func (s *stage) victim() (victim netip.Addr, found bool) {
	err := s.each(func(a pfioctl.Addr) bool {
		if a.Not || found && !a.Prefix.IsSingleIP() {
			return true
		}
		victim, found = a.Prefix.Addr(), true
		return !a.Prefix.IsSingleIP()
	})
	return victim, found && err == nil
}

func (s *stage) secondRun() error {
	s.title("The second run finds nothing to do:")
	return s.sync(0, "Table "+blockTable+": unchanged")
}

func (s *stage) change() error {
	gone, err := s.enforced(3)
	if err != nil {
		return err
	}
	came := made(3, 0xC633640A) // 198.51.100.10
	s.title("The policy changes: %d entries leave it, and up to %d come:", len(gone), len(came))
	s.block = slices.DeleteFunc(slices.Clone(s.block), func(e dnstest.Entry) bool { return slices.Contains(gone, e) })
	s.block = append(s.block, came...)
	if err := s.serve(s.block); err != nil {
		return err
	}
	if err := s.sync(0, "Reloading pf...done"); err != nil {
		return err
	}
	var still []string
	err = s.each(func(a pfioctl.Addr) bool {
		if slices.Contains(gone, dnstest.Entry(a)) {
			still = append(still, a.String())
		}
		return true
	})
	if err == nil && len(still) > 0 {
		err = fmt.Errorf("the table still has %s", strings.Join(still, ", "))
	}
	return err
}

// enforced returns n of the list's entries that the table has.
func (s *stage) enforced(n int) ([]dnstest.Entry, error) {
	listed := make(map[dnstest.Entry]bool, len(s.block))
	for _, e := range s.block {
		listed[e] = true
	}
	var found []dnstest.Entry
	err := s.each(func(a pfioctl.Addr) bool {
		if e := dnstest.Entry(a); !e.Not && listed[e] {
			found = append(found, e)
		}
		return len(found) < n
	})
	if err == nil && len(found) < n {
		err = fmt.Errorf("a demo needs %d entries in the table, and there are %d", n, len(found))
	}
	return found, err
}

// each calls f with the block table's entries until it returns false.
func (s *stage) each(f func(pfioctl.Addr) bool) error {
	pf, err := s.open()
	if err != nil {
		return err
	}
	defer pf.Close()
	addrs, err := pf.Get(pfioctl.Table{Name: blockTable})
	if err != nil {
		return err
	}
	for _, a := range addrs {
		if !f(a) {
			break
		}
	}
	return nil
}

func (s *stage) ownAddress() error {
	own := netip.PrefixFrom(s.own.Addr(), 32)
	s.title("The list now has the firewall's own address, %s, alone and in a network:", s.own.Addr())
	s.block = append(s.block[:len(s.block):len(s.block)],
		dnstest.Entry{Prefix: own}, dnstest.Entry{Prefix: netip.MustParsePrefix("100.64.0.0/10")})
	if err := s.serve(s.block); err != nil {
		return err
	}
	if err := s.sync(0, "Excepted "+s.own.Addr().String()); err != nil {
		return err
	}
	stranger, err := s.stranger()
	if err != nil {
		return err
	}
	v := s.kernel.Verdict(pfsim.Packet{Dir: pfioctl.DirOut, Iface: "em0", Src: s.own.Addr(), Dst: stranger, Proto: 17, SrcPort: 53, DstPort: 53, Bytes: 60})
	fmt.Fprintf(s.out, "   from the firewall itself to an address that is not listed: %s\n", word(v.Action))
	if v.Action != pfioctl.ActionPass {
		return errors.New("the firewall's own packets are blocked")
	}
	return nil
}

func (s *stage) failure() error {
	s.title("A server that cuts its answers short changes nothing:")
	before, err := s.quietly(0, "--dump-table", "block")
	if err != nil {
		return err
	}
	fault := s.server.Fail(dnstest.On{List: blockList, Part: 1}, dnstest.CutRecords{Keep: 0})
	defer fault.Heal()
	if err := s.sync(1, "the policy in force stays"); err != nil {
		return err
	}
	after, err := s.quietly(0, "--dump-table", "block")
	if err != nil {
		return err
	}
	if after != before {
		return errors.New("the table changed although the server failed")
	}
	fmt.Fprintf(s.out, "   the table still has its %d entries\n", strings.Count(after, "\n"))
	return nil
}

// lists reads the files, or returns a made-up policy.
func lists(blockFile, allowFile string) (block, allow []dnstest.Entry, err error) {
	if block, err = list(blockFile); err != nil {
		return nil, nil, err
	}
	if allow, err = list(allowFile); err != nil {
		return nil, nil, err
	}
	if blockFile != "" {
		if len(block) <= 3 {
			return nil, nil, fmt.Errorf("%s: a demo needs 4 entries, and there are %d", blockFile, len(block))
		}
		return block, allow, nil
	}
	block = made(256, 0xC0000200)                     // 192.0.2.0/24
	block = append(block, made(25544, 0xC6120000)...) // 198.18.0.0/15, RFC 2544
	r := rand.New(rand.NewPCG(1, 2))
	for range 624 {
		var a [16]byte
		binary.BigEndian.PutUint32(a[:], 0x20010db8)
		binary.BigEndian.PutUint32(a[4:], r.Uint32())
		block = append(block, dnstest.Entry{Prefix: netip.PrefixFrom(netip.AddrFrom16(a), 64).Masked()})
	}
	if allowFile == "" {
		allow = made(3, 0xCB007101) // 203.0.113.1
	}
	return block, allow, nil
}

// list reads one file or several, their names separated by spaces.
func list(names string) ([]dnstest.Entry, error) {
	var all []dnstest.Entry
	for _, name := range strings.Fields(names) {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		entries, err := dnstest.ReadPrefixes(f, name)
		f.Close()
		if err != nil {
			return nil, err
		}
		all = append(all, entries...)
	}
	return all, nil
}

// made returns n consecutive hosts that begin with an address.
func made(n int, from uint32) []dnstest.Entry {
	all := make([]dnstest.Entry, n)
	for i := range all {
		var a [4]byte
		binary.BigEndian.PutUint32(a[:], from+uint32(i))
		all[i].Prefix = netip.PrefixFrom(netip.AddrFrom4(a), 32)
	}
	return all
}

// widest is the shortest prefix length of a family.
func widest(entries []dnstest.Entry, v6 bool) int {
	bits := 128
	for _, e := range entries {
		if e.Prefix.Addr().Is6() == v6 {
			bits = min(bits, e.Prefix.Bits())
		}
	}
	return bits
}

func indent(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString("   " + line)
	}
	return b.String()
}

// head is the first n lines of text.
func head(text string, n int) string {
	lines := strings.SplitAfterN(text, "\n", n+1)
	if len(lines) > n {
		return strings.Join(lines[:n], "") + "...\n"
	}
	return text
}
