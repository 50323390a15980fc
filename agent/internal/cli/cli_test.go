package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"example.org/threatstopd/agent/internal/apply"
	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/agent/internal/privsep"
	"example.org/threatstopd/dnsfetch"
	"example.org/threatstopd/dnsfetch/dnstest"
	"example.org/threatstopd/pfioctl"
	"example.org/threatstopd/pfioctl/pfsim"
)

const (
	blockList = "basic.test.threatstop.local"
	moreList  = "more.test.threatstop.local"
	allowList = "allow.test.threatstop.local"
)

var (
	blockTable = pfioctl.Table{Name: "ThreatSTOP-Block"}
	allowTable = pfioctl.Table{Name: "ThreatSTOP-Allow"}
)

// firewall is a machine to run threatstopd on: a simulated kernel, a real
// policy server, real files, a clock to turn.
type firewall struct {
	t      *testing.T
	kernel *pfsim.Kernel
	server *dnstest.Server
	dir    string
	now    time.Time
	facts  policy.Facts
	conf   map[string]string

	socket, statusSocket string // of the daemon, when there is one

	attack  string           // what takes the place of the role that fetches
	confine privsep.Confiner // of the command
}

func newFirewall(t *testing.T, o pfsim.Options) *firewall {
	t.Helper()
	server, err := dnstest.Start(dnstest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	fw := &firewall{
		t:      t,
		server: server,
		dir:    t.TempDir(),
		now:    time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC),
		facts:  policy.Facts{Interfaces: []policy.Interface{{Name: "em0", Addresses: []netip.Prefix{netip.MustParsePrefix("198.18.0.1/24")}}}},
	}
	if o.Now == nil {
		o.Now = func() time.Time { return fw.now }
	}
	fw.kernel = pfsim.New(o)
	fw.kernel.SetRunning(true)
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	fw.conf = map[string]string{
		"USER":        me.Username,
		"device_id":   "tdid_test0001",
		"DNS_SERVERS": server.Addr(),
		"BLOCK_LISTS": blockList,
		"ALLOW_LISTS": allowList,
		"OUT_DIR":     fw.dir,
		"url":         "https://203.0.113.99/upload",
		"DNS_TIMEOUT": "20s",
	}
	fw.rules()
	fw.serve(blockList, "10.0.0.1", "10.0.0.2", "192.0.2.0/24", "2001:db8::/32")
	fw.serve(allowList, "192.0.2.7")
	return fw
}

// rules loads a pf.conf that blocks what the block table has.
func (fw *firewall) rules() {
	fw.t.Helper()
	if err := fw.kernel.LoadRules(pfsim.Ruleset{
		Tables: []pfsim.TableLine{{Table: blockTable, Flags: pfioctl.TablePersist}, {Table: allowTable, Flags: pfioctl.TablePersist}},
		Rules:  blockRules(blockTable.Name),
	}); err != nil {
		fw.t.Fatal(err)
	}
}

func blockRules(table string) []pfsim.Rule {
	bad := pfsim.Peer{Table: table}
	return []pfsim.Rule{
		{Action: pfioctl.ActionBlock, Dir: pfioctl.DirIn, Log: true, Quick: true, From: bad},
		{Action: pfioctl.ActionBlock, Dir: pfioctl.DirOut, Log: true, Quick: true, To: bad},
		{Action: pfioctl.ActionPass},
	}
}

func (fw *firewall) pf() *pfioctl.PF {
	return fw.kernel.OpenPF()
}

func entries(t *testing.T, list ...string) []dnstest.Entry {
	t.Helper()
	all, err := dnstest.ReadPrefixes(strings.NewReader(strings.Join(list, "\n")), "test")
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func (fw *firewall) serve(name string, list ...string) {
	fw.t.Helper()
	if err := fw.server.Set(dnstest.List{Name: name, Entries: entries(fw.t, list...), Layout: dnsfetch.LayoutAPL}); err != nil {
		fw.t.Fatal(err)
	}
}

// hosts makes n listed hosts.
func hosts(n int, format string) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf(format, i/250, i%250)
	}
	return all
}

// writeConf writes threatstop.conf and returns its name.
func (fw *firewall) writeConf() string {
	fw.t.Helper()
	conf := filepath.Join(fw.dir, "threatstop.conf")
	var text strings.Builder
	for _, key := range slices.Sorted(maps.Keys(fw.conf)) {
		fmt.Fprintf(&text, "%s='%s'\n", key, fw.conf[key])
	}
	// A daemon that reads it at this moment must not find half of it.
	if old, err := os.ReadFile(conf); err != nil || string(old) != text.String() {
		next := conf + "~"
		if err := errors.Join(os.WriteFile(next, []byte(text.String()), 0o600), os.Rename(next, conf)); err != nil {
			fw.t.Fatal(err)
		}
	}
	return conf
}

func (fw *firewall) env() Env {
	return Env{
		Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: io.Discard,
		OpenPF:  func() (*pfioctl.PF, error) { return fw.pf(), nil },
		Host:    func() (policy.Facts, error) { return fw.facts, nil },
		Lookup:  noHost,
		Roles:   &renamed{roles(), fw.attack},
		Confine: fw.confine,
		Now:     func() time.Time { return fw.now },
		Local:   time.UTC,
		Socket:  fw.socket,

		StatusSocket: fw.statusSocket,
	}
}

// noHost is a resolver that knows nobody.
func noHost(context.Context, string) ([]netip.Addr, error) { return nil, errors.New("no such host") }

// renamed starts another role in the place of the one that fetches, when it has a name.
type renamed struct {
	privsep.Starter
	fetch string
}

func (r *renamed) Start(role string, files []*os.File) (privsep.Child, error) {
	if role == "fetch" && r.fetch != "" {
		role = r.fetch
	}
	return r.Starter.Start(role, files)
}

// roles starts this program again: see TestMain.
var roles = sync.OnceValue(privsep.Exec)

// run runs threatstopd and returns its exit code and what it printed.
func (fw *firewall) run(args ...string) (code int, stdout, stderr string) {
	fw.t.Helper()
	conf := fw.writeConf()
	var out, errs bytes.Buffer
	env := fw.env()
	env.Stdout, env.Stderr = &out, &errs
	code = Run(context.Background(), append(args, "-f", conf), env)
	return code, out.String(), errs.String()
}

// sync runs --sync-now, expects the exit code, and returns all that was said.
func (fw *firewall) sync(want int, args ...string) string {
	fw.t.Helper()
	code, stdout, stderr := fw.run(append([]string{"--sync-now"}, args...)...)
	if code != want {
		fw.t.Fatalf("exit code %d, want %d\n%s%s", code, want, stdout, stderr)
	}
	return stdout + stderr
}

func (fw *firewall) table(t pfioctl.Table) []string {
	fw.t.Helper()
	addrs, err := fw.pf().Get(t)
	if err != nil {
		fw.t.Fatal(err)
	}
	var all []string
	for _, a := range addrs {
		all = append(all, a.String())
	}
	return all
}

func (fw *firewall) file(name string) string {
	fw.t.Helper()
	b, err := os.ReadFile(filepath.Join(fw.dir, name+".pftable"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		fw.t.Fatal(err)
	}
	return string(b)
}

func expect(t *testing.T, text string, phrases ...string) {
	t.Helper()
	for _, p := range phrases {
		if !strings.Contains(text, p) {
			t.Errorf("does not say %q:\n%s", p, text)
		}
	}
}

func TestSyncNow(t *testing.T) {
	fw := newFirewall(t, pfsim.Options{})
	code, stdout, stderr := fw.run("--sync-now")
	if code != 0 || stderr != "" {
		t.Fatalf("exit code %d, stderr %q", code, stderr)
	}
	version, _, _ := strings.Cut(Version(), " ")
	want := fmt.Sprintf(`Starting ThreatSTOP threatstopd %s update on Sun Mar  1 12:00:00 UTC 2026
Using DNS Server %s
Processing allow list %s
Processing block list %s
Completed getting all the lists
Adding 1 allowed address
Adding 4 blocked addresses, 1 exception
Reloading pf...done
Table ThreatSTOP-Allow: 1 added, 0 deleted, 0 unchanged: 1 entry
Table ThreatSTOP-Block: 5 added, 0 deleted, 0 unchanged: 5 entries
Finished ThreatSTOP update at Sun Mar  1 12:00:00 UTC 2026
Run Length: 0 hour(s) 0 minute(s) 0 second(s)
`, version, fw.server.Addr(), allowList, blockList)
	if stdout != want {
		t.Errorf("said:\n%s\nwant:\n%s", stdout, want)
	}
	block := []string{"10.0.0.1", "10.0.0.2", "192.0.2.0/24", "!192.0.2.7", "2001:db8::/32"}
	if got := fw.table(blockTable); !slices.Equal(got, block) {
		t.Errorf("block table %v, want %v", got, block)
	}
	if got := fw.table(allowTable); !slices.Equal(got, []string{"192.0.2.7"}) {
		t.Errorf("allow table %v", got)
	}
	file := fmt.Sprintf(`# pf table ThreatSTOP-Block, written by threatstopd: changes made here are lost
# 2026-03-01T12:00:00Z
# from %s
# 4 blocked addresses, 1 exception
%s
`, fw.server.Addr(), strings.Join(block, "\n"))
	if got := fw.file("ThreatSTOP-Block"); got != file {
		t.Errorf("persist file:\n%s\nwant:\n%s", got, file)
	}

	fw.now = fw.now.Add(time.Hour)
	expect(t, fw.sync(0), "Table ThreatSTOP-Block: unchanged, 5 entries", "Table ThreatSTOP-Allow: unchanged, 1 entry")
	if got := fw.file("ThreatSTOP-Block"); got != file {
		t.Errorf("an unchanged policy wrote the file again:\n%s", got)
	}

	fw.serve(blockList, "10.0.0.1", "10.0.0.3", "192.0.2.0/24", "2001:db8::/32")
	expect(t, fw.sync(0, "-v"), "Table ThreatSTOP-Block: 1 added, 1 deleted, 4 unchanged: 5 entries", "4 entries in 1 part (APL)", "persist file written")
}

// If anything goes wrong on the way from the server, pf and the files stay as
// they were, and the exit code says so.
func TestSyncNowKeepsWhatIsInForce(t *testing.T) {
	for name, tc := range map[string]struct {
		spoil func(*firewall)
		want  []string
	}{
		"server down":           {func(fw *firewall) { fw.server.Down() }, []string{"cannot connect"}},
		"device not registered": {func(fw *firewall) { fw.server.Fail(dnstest.On{}, dnstest.Refused) }, []string{"this device's public address may not be registered yet; new devices take up to an hour"}},
		"list gone":             {func(fw *firewall) { fw.server.Remove(blockList) }, []string{blockList}},
		"no records":            {func(fw *firewall) { fw.server.Fail(dnstest.On{List: blockList}, dnstest.NoRecords{}) }, []string{blockList}},
		"cut short":             {func(fw *firewall) { fw.server.Fail(dnstest.On{List: blockList}, dnstest.CutBytes{Bytes: 1}) }, []string{blockList}},
		"allow list fails":      {func(fw *firewall) { fw.server.Fail(dnstest.On{List: allowList}, dnstest.ServFail) }, []string{allowList, "1 of 2 lists could not be fetched: the policy in force stays"}},
		"block list is empty": {func(fw *firewall) {
			fw.serve(blockList, "1.2.3.4")
			fw.server.Fail(dnstest.On{List: blockList}, dnstest.RawAPL{})
		}, []string{blockList, "empty"}},
		"all of it is allowed": {func(fw *firewall) { fw.serve(allowList, "203.0.113.0/24") },
			[]string{"held back", "empty"}},
		"all of it is too wide": {func(fw *firewall) { fw.serve(blockList, "0.0.0.0/0", "::/0", "10.0.0.0/7") },
			[]string{"held back", "empty", "entry 0.0.0.0/0 dropped"}},
	} {
		t.Run(name, func(t *testing.T) {
			fw := newFirewall(t, pfsim.Options{})
			fw.sync(0)
			block, allow := fw.table(blockTable), fw.table(allowTable)
			file := fw.file("ThreatSTOP-Block")
			fw.serve(blockList, "203.0.113.0/24")
			tc.spoil(fw)
			expect(t, fw.sync(1), tc.want...)
			if got := fw.table(blockTable); !slices.Equal(got, block) {
				t.Errorf("block table %v, was %v", got, block)
			}
			if got := fw.table(allowTable); name != "all of it is allowed" && !slices.Equal(got, allow) {
				t.Errorf("allow table %v, was %v", got, allow)
			}
			if got := fw.file("ThreatSTOP-Block"); got != file {
				t.Errorf("persist file:\n%s\nwas:\n%s", got, file)
			}
		})
	}
}

// A table that loses too much waits a day, and does not if the owner insists.
func TestSyncNowShrinks(t *testing.T) {
	t.Run("by more than half", func(t *testing.T) {
		fw := newFirewall(t, pfsim.Options{})
		fw.serve(blockList, hosts(1000, "10.9.%d.%d")...)
		fw.sync(0)
		fw.serve(blockList, hosts(400, "10.9.%d.%d")...)
		expect(t, fw.sync(1), "held back", "--force", "until 2026-03-02 12:00")
		fw.now = fw.now.Add(23 * time.Hour)
		expect(t, fw.sync(1), "held back", "until 2026-03-02 12:00")
		if n := len(fw.table(blockTable)); n != 1000 {
			t.Fatalf("%d entries before the time is over", n)
		}
		fw.now = fw.now.Add(2 * time.Hour)
		fw.sync(0)
		if n := len(fw.table(blockTable)); n != 400 {
			t.Errorf("%d entries when the time is over", n)
		}
		if strings.Contains(fw.file("ThreatSTOP-Block"), "held back") {
			t.Error("the file still notes what was held back")
		}
	})
	t.Run("and grows again", func(t *testing.T) {
		fw := newFirewall(t, pfsim.Options{})
		fw.serve(blockList, hosts(1000, "10.9.%d.%d")...)
		fw.sync(0)
		fw.serve(blockList, hosts(400, "10.9.%d.%d")...)
		fw.sync(1)
		fw.serve(blockList, hosts(1000, "10.9.%d.%d")...)
		fw.now = fw.now.Add(time.Hour)
		fw.sync(0)
		fw.serve(blockList, hosts(400, "10.9.%d.%d")...)
		fw.now = fw.now.Add(24 * time.Hour)
		expect(t, fw.sync(1), "held back") // the wait begins anew
	})
	t.Run("and the owner insists", func(t *testing.T) {
		fw := newFirewall(t, pfsim.Options{})
		fw.serve(blockList, hosts(1000, "10.9.%d.%d")...)
		fw.sync(0)
		fw.serve(blockList, hosts(400, "10.9.%d.%d")...)
		fw.sync(0, "--force")
		if n := len(fw.table(blockTable)); n != 400 {
			t.Errorf("%d entries", n)
		}
	})
	t.Run("to less than a tenth", func(t *testing.T) {
		fw := newFirewall(t, pfsim.Options{})
		fw.serve(blockList, hosts(1000, "10.9.%d.%d")...)
		fw.sync(0)
		fw.serve(blockList, hosts(50, "10.9.%d.%d")...)
		fw.sync(1)
		fw.now = fw.now.Add(100 * time.Hour)
		fw.sync(1)
		fw.sync(0, "--force")
		if n := len(fw.table(blockTable)); n != 50 {
			t.Errorf("%d entries", n)
		}
	})
	t.Run("the allow table, which holds the block table too", func(t *testing.T) {
		fw := newFirewall(t, pfsim.Options{})
		fw.serve(blockList, "10.9.0.0/16")
		fw.serve(allowList, hosts(200, "10.9.%d.%d")...)
		fw.sync(0)
		fw.serve(allowList, "10.9.0.1")
		before := fw.table(blockTable)
		expect(t, fw.sync(1), "pf table ThreatSTOP-Allow: held back", "pf table ThreatSTOP-Block: held back: it was made with the allow lists that are held back")
		if !slices.Equal(fw.table(blockTable), before) {
			t.Error("the block table lost its holes")
		}
	})
}

func TestSyncNowExceptsTheHost(t *testing.T) {
	fw := newFirewall(t, pfsim.Options{})
	fw.conf["NEVER_BLOCK"] = "10.0.0.2 172.16.0.0/12"
	fw.facts.Gateways = []netip.Addr{netip.MustParseAddr("192.0.2.1")}
	fw.serve(blockList, "10.0.0.1", "10.0.0.2", "192.0.2.0/24", "198.18.0.1", "198.18.0.0/16", "203.0.113.99")
	expect(t, fw.sync(0), "Excepted 198.18.0.1 (own address of em0): listed as", "Excepted 192.0.2.1 (gateway)", "Excepted 10.0.0.2", "Excepted 203.0.113.99 (log server")
	want := []string{"10.0.0.1", "192.0.2.0/24", "!192.0.2.1", "!192.0.2.7", "198.18.0.0/16", "!198.18.0.1"}
	if got := fw.table(blockTable); !slices.Equal(got, want) {
		t.Errorf("block table %v\nwant %v", got, want)
	}
	v := fw.kernel.Verdict(pfsim.Packet{Dir: pfioctl.DirIn, Iface: "em0", Src: netip.MustParseAddr("198.18.0.1"), Dst: netip.MustParseAddr("198.18.0.9"), Proto: 6, Bytes: 60})
	if v.Action != pfioctl.ActionPass {
		t.Errorf("own packets are blocked: %+v", v)
	}
}

// With -v, --sync-now names all dropped entries and exceptions, without it ten of each.
func TestSyncNowNamesAllExceptions(t *testing.T) {
	fw := newFirewall(t, pfsim.Options{})
	excepted := hosts(25, "10.1.%d.%d")
	list := append([]string{"192.0.2.1"}, excepted...)
	for i := range 25 {
		list = append(list, fmt.Sprintf("%d.0.0.0/7", 20+2*i))
	}
	fw.conf["NEVER_BLOCK"] = strings.Join(excepted, " ")
	fw.serve(blockList, list...)
	for _, tt := range []struct {
		args  []string
		named int
	}{{nil, 10}, {[]string{"-v"}, 25}} {
		text := fw.sync(0, tt.args...)
		expect(t, text, "Excepted: 25 networks in all", "warning: 25 entries dropped in all")
		if x, d := strings.Count(text, "(NEVER_BLOCK)"), strings.Count(text, " dropped: wider than"); x != tt.named || d != tt.named {
			t.Errorf("%v: %d exceptions and %d dropped entries are named, want %d of each:\n%s", tt.args, x, d, tt.named, text)
		}
	}
}

// A name that cannot be looked up is reported, and does not prevent enforcement.
func TestSyncNowWithoutResolver(t *testing.T) {
	fw := newFirewall(t, pfsim.Options{})
	fw.conf["url"] = "https://logs.example.net/upload"
	expect(t, fw.sync(0), "warning: log server logs.example.net: no such host: its address is not kept out of the block table in this run")
}

func TestSyncNowNotEnforced(t *testing.T) {
	fw := newFirewall(t, pfsim.Options{})
	fw.kernel.SetRunning(false)
	expect(t, fw.sync(0), "NOT ENFORCED: pf is disabled")
	fw.kernel.SetRunning(true)
	if err := fw.kernel.LoadRules(pfsim.Ruleset{}); err != nil {
		t.Fatal(err)
	}
	expect(t, fw.sync(0), "NOT ENFORCED: no loaded rule refers to table <ThreatSTOP-Block>", "block drop log quick from <ThreatSTOP-Block>")
}

func TestSyncNowCreatesTables(t *testing.T) {
	fw := newFirewall(t, pfsim.Options{})
	fw.conf["BLOCK_TABLE"], fw.conf["BLOCK_FILE"] = "mine", filepath.Join(fw.dir, "mine")
	expect(t, fw.sync(0), "pf table mine was not defined, and was made", "NOT ENFORCED")
	if n := len(fw.table(pfioctl.Table{Name: "mine"})); n != 5 {
		t.Errorf("%d entries", n)
	}
}

func TestSyncNowWithoutAllowLists(t *testing.T) {
	fw := newFirewall(t, pfsim.Options{})
	fw.sync(0)
	fw.conf["ALLOW_LISTS"] = ""
	fw.sync(0)
	if got := fw.table(allowTable); len(got) != 0 {
		t.Errorf("what a list allowed that is no more: %v", got)
	}
	// What the owner has in it is the owner's.
	if err := os.Remove(filepath.Join(fw.dir, "ThreatSTOP-Allow.pftable")); err != nil {
		t.Fatal(err)
	}
	if _, err := fw.pf().Add(allowTable, pfioctl.Addr{Prefix: netip.MustParsePrefix("203.0.113.5/32")}); err != nil {
		t.Fatal(err)
	}
	fw.sync(0)
	if got := fw.table(allowTable); !slices.Equal(got, []string{"203.0.113.5"}) {
		t.Errorf("the owner's allow table: %v", got)
	}
	if got := fw.table(blockTable); slices.Contains(got, "!192.0.2.7") {
		t.Errorf("block table %v", got)
	}
}

func TestSyncNowOnlyFiles(t *testing.T) {
	fw := newFirewall(t, pfsim.Options{})
	fw.conf["RELOAD_PF"] = "no"
	expect(t, fw.sync(0), "pf would take it (5 added, 0 deleted, 0 unchanged); not loaded (RELOAD_PF=no), the file has it now")
	if got := fw.table(blockTable); len(got) != 0 {
		t.Errorf("the table was set: %v", got)
	}
	expect(t, fw.file("ThreatSTOP-Block"), "\n192.0.2.0/24\n!192.0.2.7\n")
}

func TestSyncNowSeveralListsAndAggregate(t *testing.T) {
	fw := newFirewall(t, pfsim.Options{})
	fw.conf["BLOCK_LISTS"] = blockList + " " + moreList
	fw.conf["AGGREGATE"] = "yes"
	fw.serve(blockList, "10.0.0.0/25", "10.0.0.5")
	fw.serve(moreList, "10.0.0.128/25")
	fw.sync(0)
	if got := fw.table(blockTable); !slices.Equal(got, []string{"10.0.0.0/24"}) {
		t.Errorf("block table %v", got)
	}
}

func TestSyncNowLimit(t *testing.T) {
	fw := newFirewall(t, pfsim.Options{MaxEntries: 100})
	fw.serve(blockList, hosts(60, "10.9.%d.%d")...)
	expect(t, fw.sync(0), "warning: pf.conf cannot be loaded again (used 61 + files 61 > limit 100): put `set limit table-entries 10000` into /etc/pf.conf, above its table lines")
	fw.serve(blockList, hosts(60, "10.8.%d.%d")...)
	expect(t, fw.sync(0), "in two steps for want of room")
	fw.serve(blockList, hosts(100, "10.8.%d.%d")...)
	expect(t, fw.sync(1), "limit 100", "set limit table-entries")
	if n := len(fw.table(blockTable)); n != 60 {
		t.Errorf("%d entries", n)
	}
}

func TestSyncNowOneAtATime(t *testing.T) {
	fw := newFirewall(t, pfsim.Options{})
	unlock, err := apply.Lock(fw.dir)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, fw.sync(1), "another threatstopd is at work there")
	unlock()
	fw.sync(0)
}

func TestUsage(t *testing.T) {
	fw := newFirewall(t, pfsim.Options{})
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"bad: -d with a mode":      {[]string{"-d", "--sync-now"}, "-d goes with no mode"},
		"bad: two things":          {[]string{"--sync-now", "--dump-table"}, "only one mode may be given, not --sync-now and --dump-table"},
		"bad: unknown flag":        {[]string{"--frobnicate"}, "frobnicate"},
		"bad: argument":            {[]string{"--sync-now", "now"}, `unexpected argument "now"`},
		"bad: two tables":          {[]string{"--dump-table", "a", "b"}, `unexpected argument "b"`},
		"bad: force without sync":  {[]string{"-n", "--force"}, "--force goes with --sync-now"},
		"bad: json without dump":   {[]string{"--sync-now", "--json"}, "--json goes with --check, --dump-table"},
		"bad: check nothing":       {[]string{"--check"}, "--check needs an address"},
		"bad: a word for a mode":   {[]string{"status"}, `unexpected argument "status": did you mean --status?`},
		"bad: a mode with a value": {[]string{"--status=false"}, "it takes no value"},
		"bad: quiet and verbose":   {[]string{"--sync-now", "-qv"}, "-q and -v exclude each other"},
	} {
		code, stdout, stderr := fw.run(tc.args...)
		if code != 2 || stdout != "" || !strings.HasPrefix(stderr, "threatstopd: ") || !strings.Contains(stderr, tc.want) || !strings.Contains(stderr, "usage: ") {
			t.Errorf("%s: exit code %d, %q, %q", name, code, stdout, stderr)
		}
	}
	code, stdout, stderr := fw.run("--help")
	if code != 0 || stderr != "" || !strings.Contains(stdout, "exit status:") {
		t.Errorf("--help: %d %q %q", code, stdout, stderr)
	}
	code, stdout, _ = fw.run("--version")
	if code != 0 || !strings.HasPrefix(stdout, "threatstopd ") || strings.Count(stdout, "\n") != 1 {
		t.Errorf("--version: %d %q", code, stdout)
	}
}

func TestBadConfiguration(t *testing.T) {
	fw := newFirewall(t, pfsim.Options{})
	fw.conf["POLL_INTERVAL"] = "1s"
	for _, args := range [][]string{{"--sync-now"}, {"-n"}, {"--dump-table"}} {
		code, _, stderr := fw.run(args...)
		if code != 2 || !strings.Contains(stderr, "POLL_INTERVAL") || !strings.Contains(stderr, filepath.Join(fw.dir, "threatstop.conf")+":") {
			t.Errorf("%v: exit code %d, %q", args, code, stderr)
		}
	}
}

func TestCheckConfiguration(t *testing.T) {
	fw := newFirewall(t, pfsim.Options{})
	fw.conf["USER"] = "nobody"
	fw.conf["PROXY"] = "http://user:geheim@192.0.2.3:3128"
	code, stdout, stderr := fw.run("-n")
	if code != 0 || stderr != "" {
		t.Fatalf("exit code %d, %q", code, stderr)
	}
	expect(t, stdout, "device_id=tdid_test0001\n", "POLL_INTERVAL=1h\n", "192.0.2.3")
	if strings.Contains(stdout, "geheim") {
		t.Errorf("prints a password:\n%s", stdout)
	}
}

// The tables whose text pfctl's session recorded.
func recorded(t *testing.T, command string) string {
	t.Helper()
	b, err := os.ReadFile("testdata/pfctl.txt")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(b), "# "+command+"\n")
	if !ok {
		t.Fatalf("no %q was recorded", command)
	}
	text, _, _ := strings.Cut(rest, "# exit")
	return text
}

func TestDumpTableIsPfctls(t *testing.T) {
	at := time.Date(2026, 11, 22, 9, 16, 54, 0, time.UTC)
	fw := newFirewall(t, pfsim.Options{Now: func() time.Time { return at }})
	for name, flags := range map[string]pfioctl.TableFlags{"plain": 0, "counted": pfioctl.TableCounters} {
		table := pfioctl.Table{Name: name}
		if _, err := fw.pf().AddTables(flags, table); err != nil {
			t.Fatal(err)
		}
		var all []string
		for line := range strings.Lines(recorded(t, "pfctl -t "+name+" -T show")) {
			all = append(all, strings.TrimSpace(line))
		}
		list := entries(t, all...)
		if _, err := fw.pf().Set(table, len(list), func(yield func(netip.Prefix, bool) bool) {
			for _, e := range list {
				yield(e.Prefix, e.Not)
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
	// One packet in and two out, as when the session was recorded.
	if err := fw.kernel.LoadRules(pfsim.Ruleset{Rules: blockRules("counted")}); err != nil {
		t.Fatal(err)
	}
	own, bad := netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("10.9.0.2")
	fw.kernel.Verdict(pfsim.Packet{Dir: pfioctl.DirIn, Iface: "pair0", Src: bad, Dst: own, Proto: 1, Bytes: 84})
	for range 2 {
		fw.kernel.Verdict(pfsim.Packet{Dir: pfioctl.DirOut, Iface: "pair0", Src: own, Dst: bad, Proto: 1, Bytes: 84})
	}
	for _, name := range []string{"plain", "counted"} {
		for flag, command := range map[string]string{"": "-T show", "-v": "-vT show"} {
			args := []string{"--dump-table", name}
			if flag != "" {
				args = append(args, flag)
			}
			code, stdout, stderr := fw.run(args...)
			want := recorded(t, "pfctl -t "+name+" "+command)
			want = strings.TrimSuffix(want, "\n")
			if code != 0 || stderr != "" || strings.TrimSuffix(stdout, "\n") != strings.TrimSuffix(want, "\n") {
				t.Errorf("%v: exit code %d, %q, prints\n%s\npfctl prints\n%s", args, code, stderr, stdout, want)
			}
		}
	}
}

func TestDumpTable(t *testing.T) {
	fw := newFirewall(t, pfsim.Options{})
	fw.sync(0)
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"block":   {nil, "   10.0.0.1\n   10.0.0.2\n   192.0.2.0/24\n  !192.0.2.7\n   2001:db8::/32\n"},
		"block 2": {[]string{"block"}, "   10.0.0.1\n   10.0.0.2\n   192.0.2.0/24\n  !192.0.2.7\n   2001:db8::/32\n"},
		"allow":   {[]string{"allow"}, "   192.0.2.7\n"},
		"by name": {[]string{"ThreatSTOP-Allow"}, "   192.0.2.7\n"},
	} {
		code, stdout, stderr := fw.run(append([]string{"--dump-table"}, tc.args...)...)
		if code != 0 || stdout != tc.want || stderr != "" {
			t.Errorf("%s: exit code %d, %q, %q", name, code, stdout, stderr)
		}
	}
	code, _, stderr := fw.run("--dump-table", "nosuch")
	if code != 1 || !strings.HasPrefix(stderr, "threatstopd: pf table nosuch: ") || strings.Count(stderr, "\n") != 1 {
		t.Errorf("no such table: exit code %d, %q", code, stderr)
	}
}

func TestDumpTableWithoutPF(t *testing.T) {
	var stderr bytes.Buffer
	env := System()
	env.Stdout, env.Stderr = &stderr, &stderr
	env.OpenPF = func() (*pfioctl.PF, error) { return nil, fmt.Errorf("open /dev/pf: %w", errors.ErrUnsupported) }
	conf := newFirewall(t, pfsim.Options{}).writeConf() // not the host's own
	if code := Run(context.Background(), []string{"--dump-table", "x", "-f", conf}, env); code != 1 {
		t.Errorf("exit code %d", code)
	}
	expect(t, stderr.String(), "/dev/pf", "make demo")
}

// A file of the owner's is not overwritten because BLOCK_FILE names it.
func TestSyncNowKeepsTheOwnersFiles(t *testing.T) {
	fw := newFirewall(t, pfsim.Options{})
	path := filepath.Join(fw.dir, "pf.conf")
	if err := os.WriteFile(path, []byte("block all\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	fw.conf["BLOCK_FILE"] = path
	expect(t, fw.sync(2), `line 1: "block" is not an address: this is not a table file`)
	if got, err := os.ReadFile(path); err != nil || string(got) != "block all\n" {
		t.Errorf("the file is now %q, %v", got, err)
	}
}
