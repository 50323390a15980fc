package sources

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.org/threatstopd/agent/internal/apply"
	"example.org/threatstopd/agent/internal/fetch"
	"example.org/threatstopd/agent/internal/policy"
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

// rig is a one-shot run between a policy server and a simulated kernel.
type rig struct {
	t      *testing.T
	server *dnstest.Server
	kernel *pfsim.Kernel
	o      Options
	apply  apply.Options
	host   func() (policy.Facts, error)
	lookup func(context.Context, string) ([]netip.Addr, error)
	now    time.Time
	fetch  dnsfetch.Options
}

func newRig(t *testing.T) *rig {
	t.Helper()
	server, err := dnstest.Start(dnstest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	dir := t.TempDir()
	r := &rig{t: t, server: server, now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	r.kernel = pfsim.New(pfsim.Options{MaxEntries: 5000, Now: func() time.Time { return r.now }})
	r.fetch = dnsfetch.Options{Servers: []string{server.Addr()}, Timeout: 20 * time.Second}
	r.o = Options{Block: []string{blockList}, Allow: []string{allowList}}
	r.apply = apply.Options{
		Guard: policy.Guard{MaxShrink: 0.5, Hold: 24 * time.Hour},
		Block: apply.Target{Table: pfioctl.Table{Name: "block"}, File: filepath.Join(dir, "block"), Load: true},
		Allow: apply.Target{Table: pfioctl.Table{Name: "allow"}, File: filepath.Join(dir, "allow"), Load: true},
		Now:   func() time.Time { return r.now },
	}
	r.host = func() (policy.Facts, error) { return policy.Facts{}, nil }
	r.lookup = func(context.Context, string) ([]netip.Addr, error) {
		return nil, &net.DNSError{Err: "no such host", Name: "x", Server: "192.0.2.53:53"}
	}
	r.serve(blockList, "10.0.0.1", "10.0.0.2", "192.0.2.0/24")
	r.serve(allowList, "192.0.2.7")
	return r
}

func (r *rig) serve(name string, list ...string) {
	r.t.Helper()
	entries, err := dnstest.ReadPrefixes(strings.NewReader(strings.Join(list, "\n")), "test")
	if err == nil {
		err = r.server.Set(dnstest.List{Name: name, Entries: entries, Layout: dnsfetch.LayoutAPL})
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

// fetcher fetches lists in this process, and looks up names as the rig says.
type fetcher struct {
	*dnsfetch.Client
	r *rig
}

func (f fetcher) Lookup(ctx context.Context, names []string) []Name {
	return fetch.LookUp(ctx, names, f.r.lookup)
}

func (r *rig) fetcher() fetcher {
	r.t.Helper()
	c, err := dnsfetch.New(r.fetch)
	if err != nil {
		r.t.Fatal(err)
	}
	return fetcher{c, r}
}

// run is one run as --sync-now does it, and everything that is printed.
func (r *rig) run(force bool) (*apply.Outcome, string) {
	r.t.Helper()
	return r.runWith(New(r.o), force)
}

// runWith is a run of a process that has copies of lists.
func (r *rig) runWith(s *Sources, force bool) (*apply.Outcome, string) {
	r.t.Helper()
	var text strings.Builder
	line := func(s string) { fmt.Fprintln(&text, s) }
	n := &apply.Narrator{Say: line, Warn: line, Local: time.UTC, Version: "test"}
	pf := r.kernel.OpenPF()
	defer pf.Close()
	n.Begin(r.now)
	s.Fetch(r.t.Context(), r.fetcher(), Narrate(n))
	out := s.Enforce(apply.New(pf), &r.apply, r.host, force, n.Setting)
	n.End(out)
	return out, text.String()
}

// table is what the kernel has, "" when there is no such table.
func (r *rig) table(t apply.Target) string {
	r.t.Helper()
	pf := r.kernel.OpenPF()
	defer pf.Close()
	addrs, err := pf.Get(t.Table)
	if err != nil {
		return ""
	}
	var all []string
	for _, a := range addrs {
		all = append(all, a.String())
	}
	return strings.Join(all, " ")
}

func hosts(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf("10.9.%d.%d", i/250, i%250)
	}
	return all
}

func expect(t *testing.T, text string, phrases ...string) {
	t.Helper()
	for _, p := range phrases {
		if !strings.Contains(text, p) {
			t.Errorf("does not say %q:\n%s", p, text)
		}
	}
}

// A fetch that ends early reports nothing of what it did not wait for.
func TestInterruptedFetch(t *testing.T) {
	r := newRig(t)
	ctx, interrupt := context.WithCancel(t.Context())
	interrupt()
	New(r.o).Plan(false).Run(ctx, r.fetcher(), Progress{Done: func(x Result) { t.Errorf("reported: %+v", x) }})
}

// Names are looked up at once: one that takes its time holds up none.
func TestLookupsAtOnce(t *testing.T) {
	r := newRig(t)
	asked, seen := make(chan string), make(chan bool)
	for i := range 5 {
		r.o.Reach = append(r.o.Reach, Reach{"policy server", fmt.Sprintf("ns%d.example.net", i)})
	}
	r.o.Reach = append(r.o.Reach, Reach{"proxy", "10.0.0.1"}, Reach{"log server", "nosuch.example.net"})
	r.lookup = func(ctx context.Context, name string) ([]netip.Addr, error) {
		if strings.HasPrefix(name, "nosuch") {
			return nil, &net.DNSError{Err: "no such host", Name: name, Server: "192.0.2.53:53"}
		}
		asked <- name
		<-seen // until all of them have asked
		return []netip.Addr{netip.MustParseAddr("10.0.0.2")}, nil
	}
	go func() {
		for range 5 {
			<-asked
		}
		close(seen)
	}()
	_, text := r.run(false)
	expect(t, text,
		"Excepted 10.0.0.1 (proxy): listed as 10.0.0.1 in "+blockList,
		"Excepted 10.0.0.2 (policy server ns0.example.net, policy server ns1.example.net, ",
		"warning: log server nosuch.example.net: no such host: its address is not kept out of the block table in this run\n")
	if got := r.table(r.apply.Block); got != "192.0.2.0/24 !192.0.2.7" {
		t.Errorf("block table %s", got)
	}
}

// When no server can be connected to, each further list would wait for each of
// them in vain.
func TestUnreachable(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := closed.Addr().String()
	closed.Close()
	silent, err := net.Listen("tcp", "127.0.0.1:0") // connects, and never answers
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	for name, tc := range map[string]struct {
		servers []string
		asked   int
	}{
		"one server":              {[]string{nobody}, 1},
		"two servers":             {[]string{nobody, "192.0.2.1.invalid:53"}, 1},
		"one that does not speak": {[]string{nobody, silent.Addr().String()}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.o.Block = append(r.o.Block, moreList)
			r.fetch.Servers = tc.servers
			if tc.asked > 1 { // one is waited for, each time
				r.fetch.Timeout = 500 * time.Millisecond
			}
			r.fetch.Resolver = func(context.Context, string) ([]netip.Addr, error) { return nil, errors.New("no such host") }
			asked := 0
			src := New(r.o)
			src.Fetch(t.Context(), r.fetcher(), Progress{Begin: func(policy.Kind, string) { asked++ }})
			pf := r.kernel.OpenPF()
			defer pf.Close()
			out := src.Enforce(apply.New(pf), &r.apply, r.host, false, nil)
			if asked != tc.asked {
				t.Errorf("%d lists were asked for, want %d", asked, tc.asked)
			}
			if out.OK() || len(out.Lists) != 3 || !strings.Contains(apply.Explain(out.Err), "3 of 3 lists could not be fetched") || strings.Contains(out.Err.Error(), "stays") {
				t.Errorf("%+v, %v", out.Lists, out.Err)
			}
			if advised := strings.Contains(apply.Explain(out.Err), "check DNS_SERVERS in threatstop.conf"); advised != (tc.asked == 1) {
				t.Errorf("said: %s", apply.Explain(out.Err))
			}
			for _, l := range out.Lists {
				if l.Err == nil {
					t.Errorf("list %s: no error", l.Name)
				}
			}
		})
	}
}

// With RELOAD_PF=no the files are what the guard compares with. When the one
// of allowed addresses cannot be read, nobody knows whether those shrank, and
// the block table keeps its holes.
func TestAllowTableCannotBeChecked(t *testing.T) {
	r := newRig(t)
	r.apply.Allow.Load, r.apply.Block.Load = false, false
	r.serve(blockList, "10.9.0.0/16")
	r.serve(allowList, hosts(200)...)
	if out, text := r.run(false); !out.OK() {
		t.Fatal(text)
	}
	before, err := os.ReadFile(r.apply.Block.File)
	if err != nil {
		t.Fatal(err)
	}
	r.serve(allowList, "10.9.0.1")
	if err := os.Remove(r.apply.Allow.File); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(r.apply.Allow.File, 0o700); err != nil {
		t.Fatal(err)
	}
	out, text := r.run(false)
	if out.OK() {
		t.Errorf("all is well:\n%s", text)
	}
	expect(t, text, "is not a regular file", "pf table block: not set: it was made with the allow lists")
	if after, err := os.ReadFile(r.apply.Block.File); err != nil || string(after) != string(before) {
		t.Errorf("the block table's file changed: %v", err)
	}
}

// A persist file that cannot be written is no reason not to enforce; the next
// run that can write it does.
func TestFileFailsTableIsSet(t *testing.T) {
	r := newRig(t)
	for _, target := range []apply.Target{r.apply.Block, r.apply.Allow} {
		if err := os.Mkdir(target.File, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	out, text := r.run(false)
	if out.OK() {
		t.Error("all is well")
	}
	expect(t, text, "Table allow: 1 added, 0 deleted, 0 unchanged: 1 entry\n", "Table block: 4 added, ", "persist file "+r.apply.Block.File+": is not a regular file", "pf has the policy, but at a reboot")
	if got := r.table(r.apply.Block); got != "10.0.0.1 10.0.0.2 192.0.2.0/24 !192.0.2.7" {
		t.Errorf("block table %s", got)
	}
	for _, target := range []apply.Target{r.apply.Block, r.apply.Allow} {
		if err := os.Remove(target.File); err != nil {
			t.Fatal(err)
		}
	}
	if out, text = r.run(false); !out.OK() {
		t.Fatal(text)
	}
	expect(t, text, "Table block: unchanged, 4 entries")
	if n, err := apply.FileEntries(r.apply.Block.File); n != 4 || err != nil {
		t.Errorf("%d entries in the file, %v", n, err)
	}
}

// The wait of a policy that is held back ends, also when the file that notes
// its beginning was not there.
func TestHeldWithoutFile(t *testing.T) {
	r := newRig(t)
	r.serve(blockList, hosts(1000)...)
	if out, text := r.run(false); !out.OK() {
		t.Fatal(text)
	}
	if err := os.Remove(r.apply.Block.File); err != nil {
		t.Fatal(err)
	}
	r.serve(blockList, hosts(400)...)
	_, text := r.run(false)
	expect(t, text, "held back", "until 2026-03-02 12:00 or --force")
	if n, err := apply.FileEntries(r.apply.Block.File); n != 1000 || err != nil {
		t.Errorf("%d entries in the file, %v: want what is in force", n, err)
	}
	// Times are shown in the zone of the clock, not in that of the file.
	r.now = r.now.Add(20 * time.Hour).In(time.FixedZone("EST", -5*3600))
	_, text = r.run(false)
	expect(t, text, "until 2026-03-02 07:00 or --force")
	r.now = r.now.Add(5 * time.Hour)
	out, text := r.run(false)
	if !out.OK() {
		t.Error(text)
	}
	expect(t, text, "Table block: 400 entries instead of 1000 in force", "enforced, as it has been like this since 2026-03-01 07:00")
}

// What RELOAD_PF=no leaves to the owner's pfctl is counted as well.
func TestReloadAdviceCountsFiles(t *testing.T) {
	r := newRig(t)
	r.apply.Allow.Load, r.apply.Block.Load = false, false
	r.serve(blockList, hosts(1000)...)
	r.kernel = pfsim.New(pfsim.Options{MaxEntries: 1200})
	pf := r.kernel.OpenPF()
	defer pf.Close()
	other := pfioctl.Table{Name: "other"}
	if _, err := pf.AddTables(pfioctl.TablePersist, other); err != nil {
		t.Fatal(err)
	}
	var own []pfioctl.Addr
	for i := range 199 {
		own = append(own, pfioctl.Addr{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 8, 0, byte(i)}), 32)})
	}
	if _, err := pf.Add(other, own...); err != nil {
		t.Fatal(err)
	}
	_, text := r.run(false)
	expect(t, text, "not loaded (RELOAD_PF=no), the file has it now")
	if strings.Contains(text, "cannot be loaded again") {
		t.Errorf("199 + 1001 do fit into 1200:\n%s", text)
	}
	if _, err := pf.Add(other, pfioctl.Addr{Prefix: netip.MustParsePrefix("10.8.1.0/24")}); err != nil {
		t.Fatal(err)
	}
	out, text := r.run(false)
	if len(out.Warnings) == 0 {
		t.Errorf("200 + 1001 do not fit into 1200, and nobody says so:\n%s", text)
	}
}

func TestTooManyEntriesNamesTheKey(t *testing.T) {
	r := newRig(t)
	r.apply.Policy.MaxEntries = 3
	_, text := r.run(false)
	expect(t, text, "too many entries: 4, the limit is 3: MAX_ENTRIES in threatstop.conf allows more")
}

// What most runs find is what the run before found: the policy is then the same
// one, not another of the same entries, and pf is still asked whether it holds.
func TestSamePolicyIsNotMadeAgain(t *testing.T) {
	r := newRig(t)
	own := netip.MustParsePrefix("172.16.0.1/24")
	r.host = func() (policy.Facts, error) {
		return policy.Facts{Interfaces: []policy.Interface{{Name: "em0", Addresses: []netip.Prefix{own}}}}, nil
	}
	pf := r.kernel.OpenPF()
	defer pf.Close()
	e, src, f := apply.New(pf), New(r.o), r.fetcher()
	run := func() *policy.Policy {
		t.Helper()
		src.Fetch(t.Context(), f, Progress{})
		out := src.Enforce(e, &r.apply, r.host, false, nil)
		if !out.OK() {
			t.Fatal(out.Err)
		}
		return out.Policy
	}
	block := func(want string) {
		t.Helper()
		if got := r.table(r.apply.Block); got != want {
			t.Errorf("the block table has %s", got)
		}
	}
	first := run()
	block("10.0.0.1 10.0.0.2 192.0.2.0/24 !192.0.2.7")
	if run() != first {
		t.Error("the same lists made another policy")
	}
	if _, err := pf.Delete(r.apply.Block.Table, pfioctl.Addr{Prefix: netip.MustParsePrefix("10.0.0.2/32")}); err != nil {
		t.Fatal(err)
	}
	if run() != first {
		t.Error("the same lists made another policy")
	}
	block("10.0.0.1 10.0.0.2 192.0.2.0/24 !192.0.2.7")

	r.serve(blockList, "10.0.0.1", "10.0.0.3", "192.0.2.0/24")
	second := run()
	if second == first {
		t.Error("another list made the same policy")
	}
	block("10.0.0.1 10.0.0.3 192.0.2.0/24 !192.0.2.7")
	r.serve(allowList, "192.0.2.8")
	third := run()
	if third == second {
		t.Error("another allow list made the same policy")
	}
	block("10.0.0.1 10.0.0.3 192.0.2.0/24 !192.0.2.8")
	own = netip.MustParsePrefix("10.0.0.3/24")
	if run() == third {
		t.Error("another own address made the same policy")
	}
	block("192.0.2.0/24 !192.0.2.8") // without its own private network
}

// A block list that does not exist or is empty is reported, and is no reason to enforce nothing.
func TestAbsentLists(t *testing.T) {
	for name, tt := range map[string]struct {
		gone func(r *rig)
		say  string
	}{
		"absent": {func(r *rig) { r.server.Remove(moreList) }, "no such name"},
		"empty":  {func(r *rig) { r.serve(moreList) }, "the list is empty"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.o.Block = append(r.o.Block, moreList)
			tt.gone(r)
			src := New(r.o)
			out, text := r.runWith(src, false)
			if out.OK() || !out.Enforced() {
				t.Errorf("%v:\n%s", out.Err, text)
			}
			expect(t, text, "list "+moreList+": ", tt.say, "Table block: 4 added")
			if src.Failed() {
				t.Error("it is tried again soon")
			}

			// It appears, and is retired: its copy stays for SHRINK_HOLD, also in the eyes of the table file.
			r.serve(moreList, "10.7.0.1")
			if out, text = r.runWith(src, false); !out.OK() {
				t.Fatal(text)
			}
			tt.gone(r)
			for range 2 {
				r.runWith(src, false)
				if got := r.table(r.apply.Block); !strings.Contains(got, "10.7.0.1") {
					t.Errorf("the copy of a retired list is gone at once: %s", got)
				}
				r.now = r.now.Add(20 * time.Hour)
			}
			r.runWith(src, false)
			if got := r.table(r.apply.Block); strings.Contains(got, "10.7.0.1") || !strings.Contains(got, "10.0.0.1") {
				t.Errorf("a day later the table has %s", got)
			}
		})
	}
}

// When all block lists are empty or absent, nothing is enforced.
func TestNoBlockListWithEntries(t *testing.T) {
	r := newRig(t)
	r.o.Block = append(r.o.Block, moreList)
	if out, text := r.run(false); out.OK() || !out.Enforced() {
		t.Fatal(text)
	}
	r.serve(blockList)
	out, text := r.run(true)
	if out.Enforced() {
		t.Error(text)
	}
	expect(t, text, "the list is empty", "no such name", "held back: the new table is empty, 4 entries in force stay")
	if got := r.table(r.apply.Block); !strings.Contains(got, "10.0.0.1") {
		t.Errorf("the table has %s", got)
	}
}

// A source address that is not one of this host is one cause, and no server's fault.
func TestForeignSourceAddress(t *testing.T) {
	r := newRig(t)
	cause := fetch.SourceError{Addr: netip.MustParseAddr("192.0.2.99")}
	asked := 0
	src := New(r.o)
	src.Fetch(t.Context(), failing{cause}, Progress{Begin: func(policy.Kind, string) { asked++ }})
	pf := r.kernel.OpenPF()
	defer pf.Close()
	out := src.Enforce(apply.New(pf), &r.apply, r.host, false, nil)
	want := "SOURCE_ADDRESS 192.0.2.99 is no address of this host: change or remove it: 2 of 2 lists could not be fetched"
	if asked != 1 || apply.Explain(out.Err) != want {
		t.Errorf("%d lists asked for: %s\nwant %s", asked, apply.Explain(out.Err), want)
	}
	for _, l := range out.Lists {
		if l.Err != cause {
			t.Errorf("list %s: %v", l.Name, l.Err)
		}
	}
}

// failing fetches nothing.
type failing struct{ err error }

func (f failing) Fetch(context.Context, dnsfetch.Request) (*dnsfetch.List, error) { return nil, f.err }
func (f failing) Lookup(context.Context, []string) []Name                         { return nil }

// What it means that an allow list is not there.
func TestAbsentAllowList(t *testing.T) {
	r := newRig(t)
	r.o.Allow = []string{"typo.test.threatstop.local"}
	out, text := r.run(false)
	if out.Err == nil {
		t.Error("an allow list that never existed is taken for an empty one")
	}
	expect(t, text, "no such name", "1 of 2 lists could not be fetched\n")
	if got := r.table(r.apply.Block); got != "" {
		t.Errorf("the block table was set to %s", got)
	}
}

// What another process loads is what this one saved.
func TestSaveLoad(t *testing.T) {
	r := newRig(t)
	r.o.Block = append(r.o.Block, moreList) // which does not exist
	src := New(r.o)
	r.runWith(src, false)
	src.Take(Result{Name: "logs.example.net", Host: &Name{Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.99")}}}, r.now)
	var b bytes.Buffer
	if err := src.Save(&b); err != nil {
		t.Fatal(err)
	}
	whole := b.Bytes()
	other := New(r.o)
	if err := other.Load(bytes.NewReader(whole)); err != nil {
		t.Fatal(err)
	}
	want, err := policy.Build(src.Inputs(), policy.Exceptions(policy.Facts{}), policy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := policy.Build(other.Inputs(), policy.Exceptions(policy.Facts{}), policy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got.Block.Len() != want.Block.Len() || got.Allow.Len() != want.Allow.Len() || got.Block.Len() != 4 {
		t.Errorf("%d entries to block, %d to allow; want %d, %d", got.Block.Len(), got.Allow.Len(), want.Block.Len(), want.Allow.Len())
	}
	if a := other.names["logs.example.net"].Addrs; len(a) != 1 {
		t.Errorf("addresses %v", a)
	}
	if l := other.Lists()[1]; l.Server != r.server.Addr() || l.Fetched.IsZero() {
		t.Errorf("%+v", l)
	}
	for n := range whole {
		cut := New(r.o)
		if cut.Load(bytes.NewReader(whole[:n])) != nil {
			continue
		}
		for i, l := range cut.Lists() {
			if l.List != nil && l.Len() != src.Lists()[i].Len() {
				t.Errorf("cut at %d of %d: list %s has %d entries", n, len(whole), l.Name, l.Len())
			}
		}
	}
}
