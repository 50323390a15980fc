package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
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
	"example.org/threatstopd/agent/internal/status"
	"example.org/threatstopd/agent/reporttest"
	"example.org/threatstopd/capture"
	"example.org/threatstopd/capture/capturetest"
	"example.org/threatstopd/dnsfetch/dnstest"
	"example.org/threatstopd/pfioctl"
	"example.org/threatstopd/pfioctl/pfsim"
)

// noticed is how long after a fault began or ended the status must show it.
const noticed = 70 * time.Second

// mortal starts roles that can be killed.
type mortal struct {
	privsep.Starter
	mu       sync.Mutex
	children map[string]privsep.Child
}

func (m *mortal) Start(role string, files []*os.File) (privsep.Child, error) {
	c, err := m.Starter.Start(role, files)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.children[role] = c
	return c, err
}

func (m *mortal) kill(role string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.children[role].Kill()
}

// troubled is a daemon among faults, and what an independent probe knows of it.
type troubled struct {
	*daemonHost
	roles  *mortal
	pflogd *capturetest.PcapWriter

	mu    sync.Mutex
	facts policy.Facts
	last  status.Status // the latest; what the probe compares with its model
	code  int           // exit code of --status
	// mayPass is until when the blocked address may pass: pf was disabled, or others emptied the table.
	mayPass time.Time
	logged  int // hits
}

// probe sends a packet of the address that is always listed, one of the firewall's own, and asks for the status.
func (d *troubled) probe() {
	d.mu.Lock()
	d.logged++
	n := d.logged
	free := time.Now().Before(d.mayPass)
	d.mu.Unlock()
	if got := d.send("192.0.2.66", n); got == pfioctl.ActionPass {
		d.mu.Lock()
		d.logged--
		d.mu.Unlock()
		if !free {
			d.t.Errorf("%v: a listed address passes", time.Now().Format(time.TimeOnly))
		}
	}
	if got := d.send("198.18.0.1", 0); got != pfioctl.ActionPass {
		d.t.Errorf("%v: the firewall's own address is blocked", time.Now().Format(time.TimeOnly))
	}
	var out, errs bytes.Buffer
	env := d.env()
	env.Stdout, env.Stderr = &out, &errs
	code := Run(context.Background(), []string{"--status", "--json"}, env)
	var st status.Status
	if err := json.Unmarshal(out.Bytes(), &st); err != nil {
		return // between two processes of the role that answers
	}
	d.mu.Lock()
	d.last, d.code = st, code
	d.mu.Unlock()
}

// send sends a packet from an address, with a source port and sequence number that name it.
func (d *troubled) send(src string, n int) pfioctl.Action {
	p := pfsim.Packet{Dir: pfioctl.DirIn, Iface: "em0", Src: netip.MustParseAddr(src), Dst: netip.MustParseAddr("198.18.0.1"),
		Proto: capturetest.TCP, SrcPort: uint16(1024 + n%60000), DstPort: 22, Bytes: 60}
	v := d.kernel.Verdict(p)
	for _, l := range v.Logs {
		packet := &capturetest.Packet{Time: time.Now(), Action: capture.Action(l.Action), Dir: capture.In, Iface: "em0", Rule: l.RuleNr,
			Src: p.Src, Dst: p.Dst, Proto: p.Proto, SrcPort: p.SrcPort, DstPort: p.DstPort, Seq: uint32(n)}
		d.mu.Lock()
		if err := d.pflogd.Write(packet); err != nil {
			d.t.Error(err)
		}
		d.pflog.Log(packet)
		d.mu.Unlock()
	}
	return v.Action
}

// fault is one that can happen, and how the status shows it.
type fault struct {
	name       string
	begin, end func()
	// shown and gone return what the status lacks of the model while the fault lasts, and afterwards.
	shown, gone func(*status.Status) string
}

// live lets faults of one part happen until ctx ends, one after the other, each for a while.
func (d *troubled) live(ctx context.Context, r *rand.Rand, faults []fault, count *int) {
	pause := func(most time.Duration) {
		select {
		case <-time.After(time.Duration(r.Int64N(int64(most)))):
		case <-ctx.Done():
		}
	}
	agree := func(f fault, when string, differs func(*status.Status) string) {
		began := time.Now()
		for text := ""; ; time.Sleep(time.Second) {
			d.mu.Lock()
			st := d.last
			d.mu.Unlock()
			if st.Now.After(began) {
				if text = differs(&st); text == "" {
					break
				}
			}
			if time.Since(began) > noticed {
				b, _ := json.Marshal(st)
				d.t.Errorf("%s %s, since %s: %s\n%s", f.name, when, began.Format(time.TimeOnly), text, b)
				break
			}
		}
		d.t.Logf("%s %s %s: agreed after %v", time.Now().Format(time.TimeOnly), f.name, when, time.Since(began).Round(time.Second))
	}
	for ctx.Err() == nil {
		f := faults[r.IntN(len(faults))]
		f.begin()
		agree(f, "begun", f.shown)
		pause(30 * time.Second)
		f.end()
		agree(f, "ended", f.gone)
		*count++
		pause(30 * time.Second)
	}
}

// nothing is the model of what the status does not show.
func nothing(*status.Status) string { return "" }

// must returns what is lacking, empty if ok.
func must(ok bool, lacking string) string {
	if ok {
		return ""
	}
	return lacking
}

// A daemon among random faults of the policy servers, the configuration, the roles, pf, the host's addresses and
// the log server: an address that is always listed is always blocked, the firewall's own never; no hit is lost
// that was not counted; and the status agrees with the probe's own model soon after each fault.
//
// It runs for as long as THREATSTOPD_FAULTS says ("60m"), with real intervals: without it, it is skipped.
func TestFaultsForAnHour(t *testing.T) {
	length, err := time.ParseDuration(os.Getenv("THREATSTOPD_FAULTS"))
	if err != nil {
		t.Skip("THREATSTOPD_FAULTS does not say for how long")
	}
	h := newDaemonHost(t)
	h.conf["POLL_INTERVAL"], h.conf["UPLOAD_INTERVAL"], h.conf["SPOOL_MAX"] = "1m", "5s", "1M"
	h.conf["UPLOAD_BATCH_BYTES"] = "128K"
	h.conf["BLOCK_LISTS"] = blockList + " " + moreList
	h.serve(blockList, "192.0.2.0/24", "198.18.0.0/24", "10.0.0.1")
	h.serve(moreList, "203.0.113.0/24")
	d := &troubled{daemonHost: h, facts: h.facts}
	file, err := os.Create(h.conf["pflog"])
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if d.pflogd, err = capturetest.NewPcapWriter(file, 0, nil); err != nil {
		t.Fatal(err)
	}
	h.host = func() (policy.Facts, error) {
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.facts, nil
	}
	h.wrap = func(s privsep.Starter) privsep.Starter {
		d.roles = &mortal{Starter: s, children: make(map[string]privsep.Child)}
		return d.roles
	}
	h.start()
	h.until("enforced", h.says("policy enforced"))
	h.reads()

	ctx, cancel := context.WithTimeout(context.Background(), length)
	defer cancel()
	var probes, actors sync.WaitGroup
	ended := make(chan struct{})
	probes.Go(func() {
		for {
			select {
			case <-ended:
				return
			case <-time.After(time.Second):
				d.probe()
			}
		}
	})
	r := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	var counts [3]int
	for i, faults := range [][]fault{d.network(), d.firewall(), d.logServer()} {
		own := rand.New(rand.NewPCG(r.Uint64(), r.Uint64()))
		actors.Go(func() { d.live(ctx, own, faults, &counts[i]) })
	}
	actors.Wait()
	close(ended)
	probes.Wait()
	d.delivered()
	t.Logf("%v: faults of the network %d, of the firewall %d, of the log server %d; %d hits", length, counts[0], counts[1], counts[2], d.logged)
}

// delivered waits until everything is delivered, and counts.
func (d *troubled) delivered() {
	d.t.Helper()
	seen := func() map[string]bool {
		all := make(map[string]bool)
		for _, r := range d.collector.Receipts() {
			for _, line := range r.Lines() {
				_, rest, _ := strings.Cut(line, ": S ")
				number, _, _ := strings.Cut(rest, "(")
				number, _, _ = strings.Cut(number, ":")
				all[number] = true
			}
		}
		return all
	}
	var lost int64
	for began := time.Now(); ; time.Sleep(time.Second) {
		d.probe()
		d.mu.Lock()
		lost = 0
		for _, x := range d.last.Hits.Drops {
			lost += x.Count
		}
		waits := d.last.Uploads.Spool.Lines + d.last.Uploads.InMemory + d.last.Uploads.Aside.Lines
		logged := d.logged
		d.mu.Unlock()
		if n := len(seen()); n+int(lost)+int(waits) >= logged || time.Since(began) > 3*time.Minute {
			if n+int(lost)+int(waits) < logged {
				d.t.Errorf("%d hits were logged, %d delivered, %d are counted as lost, %d wait", logged, n, lost, waits)
			}
			d.t.Logf("%d hits logged, %d delivered, %d counted as lost, %d wait", logged, n, lost, waits)
			return
		}
	}
}

// lists returns the errors of the lists.
func lists(st *status.Status) string {
	var all []string
	for _, l := range st.Lists {
		if l.Error != "" {
			all = append(all, l.Name+": "+l.Error)
		}
	}
	return strings.Join(all, "; ")
}

func listsWell(st *status.Status) string {
	if text := lists(st); text != "" {
		return "still in the status: " + text
	}
	return ""
}

// network are faults of the policy servers, the configuration and the roles.
func (d *troubled) network() []fault {
	failing := func(st *status.Status) string { return must(lists(st) != "", "no list has an error") }
	mentions := func(text string) func(*status.Status) string {
		return func(st *status.Status) string {
			return must(slices.ContainsFunc(st.Troubles, func(x status.Trouble) bool { return strings.Contains(x.Text, text) }), "no trouble mentions "+text)
		}
	}
	without := func(text string) func(*status.Status) string {
		return func(st *status.Status) string {
			return must(mentions(text)(st) != "", "a trouble still mentions "+text)
		}
	}
	spoil := func(name string, on dnstest.On, f dnstest.Fault, shown func(*status.Status) string) fault {
		return fault{name, func() { d.server.Fail(on, f) }, d.server.Heal, shown, listsWell}
	}
	reload := func(key, value string) func() {
		return func() {
			if d.conf[key] = value; value == "" {
				delete(d.conf, key)
			}
			d.writeConf()
			d.signals <- syscall.SIGHUP
		}
	}
	// A third death in ten minutes needs the owner, and the role's other faults would be hidden by it.
	var killed time.Time
	kill := func(role string) func() {
		return func() {
			if time.Since(killed) > 5*time.Minute {
				d.roles.kill(role)
				killed = time.Now()
			}
		}
	}
	return []fault{
		{"policy server down", d.server.Down, func() {
			if err := d.server.Up(); err != nil {
				d.t.Error(err)
			}
		}, failing, listsWell},
		spoil("policy server failing", dnstest.On{}, dnstest.ServFail, failing),
		spoil("one list refused", dnstest.On{List: moreList}, dnstest.Refused, failing),
		spoil("policy server slow", dnstest.On{}, dnstest.Delay{For: time.Second}, nothing),
		spoil("answers cut", dnstest.On{List: moreList}, dnstest.CutMessage{After: 20}, failing),
		{"a list that does not exist", func() { d.server.Remove(moreList) }, func() { d.serve(moreList, "203.0.113.0/24") }, failing, listsWell},
		{"a list that changes", func() { d.serve(moreList, "203.0.113.0/24", "10.9.9.9") }, func() { d.serve(moreList, "203.0.113.0/24") }, nothing, nothing},
		{"a bad configuration", reload("POLL_INTERVAL", "1s"), reload("POLL_INTERVAL", "1m"), mentions("POLL_INTERVAL"), without("POLL_INTERVAL")},
		{"another configuration", reload("NEVER_BLOCK", "10.0.0.1"), reload("NEVER_BLOCK", ""), nothing, nothing},
		{"report killed", kill("report"), func() {}, nothing, without("report: ")},
		{"fetch killed", kill("fetch"), func() {}, nothing, without("fetch: ")},
	}
}

// firewall are faults of pf, and what changes about the host.
func (d *troubled) firewall() []fault {
	enforced := func(st *status.Status) string { return must(st.Enforced, "not enforced: "+st.NotEnforced) }
	not := func(text string) func(*status.Status) string {
		return func(st *status.Status) string {
			return must(!st.Enforced && strings.Contains(st.NotEnforced, text), "enforced, or the reason is not "+text+": "+st.NotEnforced)
		}
	}
	pass := func(d *troubled, until time.Duration) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.mayPass = time.Now().Add(until)
	}
	load := func(rules []pfsim.Rule) {
		open := func(table string) *os.File {
			f, err := os.Open(filepath.Join(d.dir, table+".pftable"))
			if err != nil {
				d.t.Fatal(err)
			}
			return f
		}
		block, allow := open(blockTable.Name), open(allowTable.Name)
		defer block.Close()
		defer allow.Close()
		if err := d.kernel.LoadRules(pfsim.Ruleset{Tables: []pfsim.TableLine{
			{Table: blockTable, Flags: pfioctl.TablePersist, File: block}, {Table: allowTable, Flags: pfioctl.TablePersist, File: allow},
		}, Rules: rules}); err != nil {
			d.t.Error(err)
		}
	}
	change := func(f func(*policy.Facts)) {
		d.mu.Lock()
		defer d.mu.Unlock()
		f(&d.facts)
	}
	verdict := func(a string, want pfioctl.Action) func(*status.Status) string {
		return func(*status.Status) string {
			got := d.kernel.Verdict(pfsim.Packet{Dir: pfioctl.DirIn, Iface: "em0", Src: netip.MustParseAddr(a), Dst: netip.MustParseAddr("198.18.0.1"), Proto: capturetest.UDP, Bytes: 60}).Action
			return must(got == want, fmt.Sprintf("%s has the verdict %d", a, got))
		}
	}
	return []fault{
		{"pf disabled", func() { pass(d, time.Hour); d.kernel.SetRunning(false) }, func() { d.kernel.SetRunning(true); pass(d, time.Second) }, not("pf is disabled"), enforced},
		{"no rule refers to the table", func() { pass(d, time.Hour); load([]pfsim.Rule{{Action: pfioctl.ActionPass}}) },
			func() { load(blockRules(blockTable.Name)); pass(d, time.Second) }, not("rule"), enforced},
		{"pf.conf loaded again", func() { load(blockRules(blockTable.Name)) }, func() {}, enforced, enforced},
		{"the table emptied", func() {
			pass(d, noticed)
			if _, err := d.pf().Clear(blockTable); err != nil {
				d.t.Error(err)
			}
		}, func() {}, verdict("192.0.2.66", pfioctl.ActionBlock), enforced},
		{"another own address", func() {
			change(func(f *policy.Facts) {
				f.Interfaces = []policy.Interface{{Name: "em0", Addresses: []netip.Prefix{netip.MustParsePrefix("198.18.0.1/24"), netip.MustParsePrefix("192.0.2.201/32")}}}
			})
		}, func() {
			change(func(f *policy.Facts) { f.Interfaces = d.daemonHost.facts.Interfaces })
		}, verdict("192.0.2.201", pfioctl.ActionPass), verdict("192.0.2.201", pfioctl.ActionBlock)},
		{"another resolver", func() {
			change(func(f *policy.Facts) { f.Resolvers = []netip.Addr{netip.MustParseAddr("192.0.2.200")} })
		}, func() {
			change(func(f *policy.Facts) { f.Resolvers = nil })
		}, verdict("192.0.2.200", pfioctl.ActionPass), verdict("192.0.2.200", pfioctl.ActionBlock)},
	}
}

// logServer are faults of the log server, one of which fills the spool.
func (d *troubled) logServer() []fault {
	failing := func(st *status.Status) string {
		return must(st.Uploads.Error != "" || st.Uploads.Aside.Batches > 0, "uploads have no error")
	}
	well := func(st *status.Status) string {
		waits := st.Uploads.Next.After(st.Now) && st.Uploads.Error != "" // for its next attempt
		return must(waits || st.Uploads.Error == "", "uploads fail: "+st.Uploads.Error)
	}
	set := func(f reporttest.Failure) func() {
		return func() {
			if err := d.collector.Fail(f); err != nil {
				d.t.Error(err)
			}
		}
	}
	heal := set(reporttest.Failure{})
	faults := []fault{
		{"log server down", set(reporttest.Failure{Fault: reporttest.Refuse}), heal, failing, well},
		{"log server hangs", set(reporttest.Failure{Fault: reporttest.Reset}), heal, failing, well},
		{"spool full", func() {
			set(reporttest.Failure{Fault: reporttest.Refuse})()
			for range 15000 {
				d.mu.Lock()
				d.logged++
				n := d.logged
				d.mu.Unlock()
				if d.send("192.0.2.66", n) == pfioctl.ActionPass { // pf is off just now
					d.mu.Lock()
					d.logged--
					d.mu.Unlock()
				}
				if n%100 == 0 {
					time.Sleep(10 * time.Millisecond)
				}
			}
		}, heal, failing, well},
	}
	for _, code := range []int{400, 401, 403, 404, 405, 422, 429, 500, 503} {
		faults = append(faults, fault{fmt.Sprintf("log server answers %d", code), set(reporttest.Failure{Fault: reporttest.Status, Status: code}), heal, failing, well})
	}
	return faults
}
