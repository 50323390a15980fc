package pfsim

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"example.org/threatstopd/pfioctl"
	"example.org/threatstopd/pfioctl/internal/abi"
)

const (
	block = pfioctl.ActionBlock
	pass  = pfioctl.ActionPass
	match = pfioctl.ActionMatch
	in    = pfioctl.DirIn
	out   = pfioctl.DirOut
)

// session returns what pfctl printed for a command on a running kernel.
func session(t *testing.T, command string) string {
	t.Helper()
	b, err := os.ReadFile("testdata/pfctl-session.txt")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut("\n"+string(b), "\n# "+command+"\n")
	if !ok {
		t.Fatalf("no %q in the session", command)
	}
	text, _, _ := strings.Cut(rest, "# exit ")
	return text
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func load(t *testing.T, k *Kernel, rs Ruleset) {
	t.Helper()
	if err := k.LoadRules(rs); err != nil {
		t.Fatal(err)
	}
}

func packet(src, dst string, dir pfioctl.Direction) Packet {
	return Packet{Src: addr(src), Dst: addr(dst), Dir: dir, Iface: "pair0", Bytes: 84}
}

// TestSession plays what was done on a running kernel and compares what pfctl
// printed there.
func TestSession(t *testing.T) {
	const cleared = "Sun Nov 22 09:16:54 2026"
	at, err := time.ParseInLocation(time.ANSIC, cleared, time.Local)
	if err != nil {
		t.Fatal(err)
	}
	k := New(Options{Now: func() time.Time { return at }})
	k.SetRunning(true)
	persist := pfioctl.TablePersist
	load(t, k, Ruleset{
		Tables: []TableLine{
			{pfioctl.Table{Name: "plain"}, persist, strings.NewReader("203.0.113.0/24 ::1 10.1.2.3 !10.1/16 10/8\n" +
				"2001:db8:1::5 !2001:db8:1::/48 2001:db8::/32 192.0.2.1 0/0 # all of it\n")},
			{pfioctl.Table{Name: "counted"}, persist | pfioctl.TableCounters, strings.NewReader("10.9.0.2\n198.51.100.0/24\n!198.51.100.7\n2001:db8:9::2\n")},
		},
		Rules: []Rule{
			{Anchor: "threatstop"},
			{Action: block, Dir: in, Log: true, Quick: true, Iface: "pair0", From: Peer{Table: "counted"}},
			{Action: block, Dir: out, Log: true, Quick: true, Iface: "pair0", To: Peer{Table: "counted"}},
			{},
		},
	})
	for range 2 {
		k.Verdict(packet("10.9.0.1", "10.9.0.2", out))
	}
	k.Verdict(packet("10.9.0.2", "10.9.0.1", in))
	other := packet("10.8.0.2", "10.8.0.1", in)
	other.Iface = "vio0"
	k.Verdict(other)

	for _, c := range []struct {
		table   string
		verbose bool
		command string
	}{
		{"plain", false, "pfctl -t plain -T show"},
		{"plain", true, "pfctl -t plain -vT show"},
		{"counted", false, "pfctl -t counted -T show"},
		{"counted", true, "pfctl -t counted -vT show"},
	} {
		var got bytes.Buffer
		if err := k.WriteShow(&got, pfioctl.Table{Name: c.table}, c.verbose); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(session(t, c.command), got.String()); diff != "" {
			t.Errorf("%s (- pfctl, + pfsim):\n%s", c.command, diff)
		}
	}
	if err := k.WriteShow(&bytes.Buffer{}, pfioctl.Table{Name: "nosuch"}, false); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("a table that is not there: %v, want ESRCH", err)
	}

	// The counters of the table and the rules: pfctl -vvsT and -vvsr there.
	pf := newPF(t, k.Open(false), k)
	rules, err := pf.Rules()
	if err != nil {
		t.Fatal(err)
	}
	type counts struct {
		Evaluations, Packets, Bytes uint64
	}
	var got []counts
	for _, r := range rules.Rules {
		got = append(got, counts{r.Evaluations, r.Packets[0] + r.Packets[1], r.Bytes[0] + r.Bytes[1]})
	}
	want := []counts{{4, 0, 0}, {4, 1, 84}, {2, 2, 168}, {1, 1, 84}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("counters of the rules (- pfctl, + pfsim):\n%s", diff)
	}
	k.mu.Lock()
	kt := k.findTable("", "counted")
	if kt.match != 3 || kt.nomatch != 0 || kt.refs[refRule] != 2 ||
		kt.packets != [2][4]uint64{{1}, {2}} || kt.bytes != [2][4]uint64{{84}, {168}} {
		t.Errorf("counters of the table: %d %d, %d references, %v %v", kt.match, kt.nomatch, kt.refs[refRule], kt.packets, kt.bytes)
	}
	k.mu.Unlock()
}

func TestVerdict(t *testing.T) {
	tables := func() []TableLine {
		return []TableLine{
			{pfioctl.Table{Name: "bad"}, pfioctl.TablePersist, strings.NewReader("10/8 !10.1/16 10.1.2.3 2001:db8::/32 !2001:db8::1")},
			{pfioctl.Table{Name: "good"}, pfioctl.TablePersist, strings.NewReader("10.7.7.7")},
			{pfioctl.Table{Name: "empty"}, pfioctl.TablePersist, nil},
			{pfioctl.Table{Anchor: "ts", Name: "bad"}, pfioctl.TablePersist, strings.NewReader("192.0.2.1")},
		}
	}
	bad := Peer{Table: "bad"}
	both := []Rule{
		{Action: block, Dir: in, Quick: true, Log: true, From: bad},
		{Action: block, Dir: out, Quick: true, Log: true, To: bad},
		{},
	}
	tcp := func(p Packet, port uint16) Packet {
		p.Proto, p.DstPort = protoTCP, port
		return p
	}
	on := func(p Packet, iface string, groups ...string) Packet {
		p.Iface, p.Groups = iface, groups
		return p
	}
	type want struct {
		action pfioctl.Action
		rule   int
		log    bool
	}
	none := want{pass, -1, false}
	for _, c := range []struct {
		name  string
		rules []Rule
		p     Packet
		want  want
	}{
		{"no rule at all", nil, packet("10.0.0.1", "192.0.2.1", in), none},
		{"in, listed", both, packet("10.0.0.1", "192.0.2.1", in), want{block, 0, true}},
		{"in, a hole in the network", both, packet("10.1.0.1", "192.0.2.1", in), want{pass, 2, false}},
		{"in, a host in the hole", both, packet("10.1.2.3", "192.0.2.1", in), want{block, 0, true}},
		{"out, listed", both, packet("192.0.2.1", "10.0.0.1", out), want{block, 1, true}},
		{"out, the listed one as source", both, packet("10.0.0.1", "192.0.2.1", out), want{pass, 2, false}},
		{"IPv6, listed", both, packet("2001:db8::2", "2001:db9::1", in), want{block, 0, true}},
		{"IPv6, negated", both, packet("2001:db8::1", "2001:db9::1", in), want{pass, 2, false}},
		{"IPv4 in IPv6 is IPv4", both, packet("::ffff:10.0.0.1", "::ffff:192.0.2.1", in), want{block, 0, true}},
		{"without quick the last rule decides", []Rule{{Action: block, From: bad}, {}}, packet("10.0.0.1", "192.0.2.1", in), want{pass, 1, false}},
		{"an earlier pass quick", []Rule{{Quick: true, From: Peer{Table: "good"}}, {Action: block, Quick: true, From: bad}}, packet("10.7.7.7", "192.0.2.1", in), want{pass, 0, false}},
		{"from a negated table", []Rule{{Action: block, From: Peer{Table: "bad", Not: true}}}, packet("192.0.2.9", "192.0.2.1", in), want{block, 0, false}},
		{"from a negated table, listed", []Rule{{Action: block, From: Peer{Table: "bad", Not: true}}}, packet("10.0.0.1", "192.0.2.1", in), none},
		{"an empty table", []Rule{{Action: block, From: Peer{Table: "empty"}}}, packet("10.0.0.1", "192.0.2.1", in), none},
		{"a table that only the rule names", []Rule{{Action: block, From: Peer{Table: "nobody"}}}, packet("10.0.0.1", "192.0.2.1", in), none},
		{"from a prefix", []Rule{{Action: block, From: Peer{Prefix: netip.MustParsePrefix("10.0.0.0/8")}}}, packet("10.0.0.1", "192.0.2.1", in), want{block, 0, false}},
		{"not from a prefix", []Rule{{Action: block, From: Peer{Prefix: netip.MustParsePrefix("10.0.0.0/8"), Not: true}}}, packet("10.0.0.1", "192.0.2.1", in), none},
		{"another interface", []Rule{{Action: block, Iface: "em0"}}, packet("10.0.0.1", "192.0.2.1", in), none},
		{"the interface", []Rule{{Action: block, Iface: "em0"}}, on(packet("10.0.0.1", "192.0.2.1", in), "em0"), want{block, 0, false}},
		{"the group of the driver", []Rule{{Action: block, Iface: "em"}}, on(packet("10.0.0.1", "192.0.2.1", in), "em0"), want{block, 0, false}},
		{"a group", []Rule{{Action: block, Iface: "egress"}}, on(packet("10.0.0.1", "192.0.2.1", in), "em0", "egress"), want{block, 0, false}},
		{"not on the interface", []Rule{{Action: block, Iface: "em0", IfaceNot: true}}, on(packet("10.0.0.1", "192.0.2.1", in), "em0"), none},
		{"not on another", []Rule{{Action: block, Iface: "em1", IfaceNot: true}}, on(packet("10.0.0.1", "192.0.2.1", in), "em0"), want{block, 0, false}},
		{"the other family", []Rule{{Action: block, AF: abi.AFInet6}}, packet("10.0.0.1", "192.0.2.1", in), none},
		{"the protocol", []Rule{{Action: block, Proto: protoTCP}}, tcp(packet("10.0.0.1", "192.0.2.1", in), 22), want{block, 0, false}},
		{"another protocol", []Rule{{Action: block, Proto: protoUDP}}, tcp(packet("10.0.0.1", "192.0.2.1", in), 22), none},
		{"the port", []Rule{{Action: block, Proto: protoTCP, To: Peer{Port: pfioctl.Range{Op: "=", A: 22}}}}, tcp(packet("10.0.0.1", "192.0.2.1", in), 22), want{block, 0, false}},
		{"another port", []Rule{{Action: block, Proto: protoTCP, To: Peer{Port: pfioctl.Range{Op: "=", A: 22}}}}, tcp(packet("10.0.0.1", "192.0.2.1", in), 23), none},
		{"match decides nothing", []Rule{{Action: match, Log: true, From: bad}}, packet("10.0.0.1", "192.0.2.1", in), none},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := New(Options{})
			k.SetRunning(true)
			load(t, k, Ruleset{Rules: c.rules, Tables: tables()})
			v := k.Verdict(c.p)
			if got := (want{v.Action, v.Rule, v.Log}); got != c.want {
				t.Errorf("%v, want %v", got, c.want)
			}
			load(t, k, Ruleset{Rules: c.rules, Tables: tables(), Skip: []string{c.p.Iface}})
			if v := k.Verdict(c.p); v.Rule != -1 || v.Action != pass {
				t.Errorf("on a skipped interface: %+v", v)
			}
			load(t, k, Ruleset{Rules: c.rules, Tables: tables()})
			k.SetRunning(false)
			if v := k.Verdict(c.p); v.Rule != -1 || v.Action != pass {
				t.Errorf("with pf disabled: %+v", v)
			}
		})
	}
}

func TestAnchors(t *testing.T) {
	bad := Peer{Table: "bad"}
	blocks := []Rule{{Action: block, Dir: in, Quick: true, Log: true, LogIf: 1, From: bad}}
	for _, c := range []struct {
		name    string
		rules   []Rule
		anchors map[string][]Rule
		want    Verdict
		entry   LogEntry
	}{
		{"called", []Rule{{Action: match}, {Anchor: "ts"}, {}}, map[string][]Rule{"ts": blocks},
			Verdict{Action: block, Rule: 0, Anchor: "ts", Log: true, LogIf: 1},
			LogEntry{1, block, 1, 0, "ts"}},
		{"in an anchor", []Rule{{Anchor: "a"}, {}}, map[string][]Rule{"a": {{Anchor: "b"}}, "a/b": blocks},
			Verdict{Action: block, Rule: 0, Anchor: "a/b", Log: true, LogIf: 1},
			LogEntry{1, block, 0, 0, "b"}},
		{"by a path from the root", []Rule{{Anchor: "a"}, {}}, map[string][]Rule{"a": {{Action: match}, {Anchor: "/x/y"}}, "x/y": blocks},
			Verdict{Action: block, Rule: 0, Anchor: "x/y", Log: true, LogIf: 1},
			LogEntry{1, block, 1, 0, "y"}},
		{"from a neighbour", []Rule{{Anchor: "a"}, {}}, map[string][]Rule{"a": {{Anchor: "../n"}}, "n": blocks},
			Verdict{Action: block, Rule: 0, Anchor: "n", Log: true, LogIf: 1},
			LogEntry{1, block, 0, 0, "n"}},
		{"all children", []Rule{{Anchor: "ts/*"}, {}}, map[string][]Rule{"ts/one": {{}}, "ts/two-with-a-long-name": blocks},
			Verdict{Action: block, Rule: 0, Anchor: "ts/two-with-a-long-name", Log: true, LogIf: 1},
			LogEntry{1, block, 0, 0, "two-with-a-long"}},
		{"on another interface", []Rule{{Anchor: "ts", Iface: "em9"}, {}}, map[string][]Rule{"ts": blocks},
			Verdict{Action: pass, Rule: 1}, LogEntry{}},
		{"what follows decides", []Rule{{Anchor: "ts"}, {}}, map[string][]Rule{"ts": {{Action: block, From: bad}}},
			Verdict{Action: pass, Rule: 1}, LogEntry{}},
		{"a quick anchor ends with any match", []Rule{{Anchor: "ts", Quick: true}, {}}, map[string][]Rule{"ts": {{Action: block, From: bad}}},
			Verdict{Action: block, Rule: 0, Anchor: "ts"}, LogEntry{}},
		{"a quick anchor without a match", []Rule{{Anchor: "ts", Quick: true}, {}}, map[string][]Rule{"ts": {{Action: block, To: bad}}},
			Verdict{Action: pass, Rule: 1}, LogEntry{}},
		{"that calls itself", []Rule{{Anchor: "a"}, {}}, map[string][]Rule{"a": {{Anchor: "/a"}}},
			Verdict{Action: pass, Rule: -1}, LogEntry{}},
		{"a match that logs, before", []Rule{{Action: match, Log: true}, {Anchor: "ts"}}, map[string][]Rule{"ts": {{Action: block, From: bad}}},
			Verdict{Action: block, Rule: 0, Anchor: "ts"}, LogEntry{0, match, 0, noRule, ""}},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := New(Options{})
			k.SetRunning(true)
			load(t, k, Ruleset{Rules: c.rules, Anchors: c.anchors, Tables: []TableLine{
				{pfioctl.Table{Name: "bad"}, pfioctl.TablePersist, strings.NewReader("10/8")},
			}})
			got := k.Verdict(packet("10.0.0.1", "192.0.2.1", in))
			want := c.want
			if c.entry != (LogEntry{}) {
				want.Logs = []LogEntry{c.entry}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("- want, + got:\n%s", diff)
			}
			checkKernel(t, k)
			// All goes when nothing refers to it any more.
			empty := map[string][]Rule{}
			for path := range c.anchors {
				empty[path] = nil
			}
			load(t, k, Ruleset{Anchors: empty})
			checkKernel(t, k)
			if len(k.anchors) != 0 || len(k.tables) != 1 {
				t.Errorf("after an empty ruleset: %d anchors and %d tables", len(k.anchors), len(k.tables))
			}
		})
	}
}

// TestAnchorTableHidesRoot is the rule by which a table of an anchor, even an
// empty one, stands before that of the main ruleset.
func TestAnchorTableHidesRoot(t *testing.T) {
	k := New(Options{})
	k.SetRunning(true)
	load(t, k, Ruleset{
		Rules:   []Rule{{Anchor: "ts"}},
		Anchors: map[string][]Rule{"ts": {{Action: block, Quick: true, From: Peer{Table: "bad"}}}},
		Tables:  []TableLine{{pfioctl.Table{Name: "bad"}, pfioctl.TablePersist, strings.NewReader("10/8")}},
	})
	p := packet("10.0.0.1", "192.0.2.1", in)
	if v := k.Verdict(p); v.Action != block {
		t.Fatalf("with the root's table: %+v", v)
	}
	flags := func(anchor string) pfioctl.TableFlags { return k.findTable(anchor, "bad").flags }
	if f := flags("ts"); f != flagReferenced {
		t.Errorf("the anchor's table has flags %#x, want REFERENCED", f)
	}
	if f := flags(""); f != flagPersist|flagActive|flagRefdAnchor {
		t.Errorf("the root's table has flags %#x, want PERSIST ACTIVE REFDANCHOR", f)
	}
	pf := k.OpenPF()
	in := pfioctl.Table{Anchor: "ts", Name: "bad"}
	if _, err := pf.AddTables(pfioctl.TablePersist, in); err != nil {
		t.Fatal(err)
	}
	if v := k.Verdict(p); v.Action != pass || v.Rule != -1 {
		t.Errorf("with an empty table in the anchor: %+v", v)
	}
	if _, err := pf.DelTables(in); err != nil {
		t.Fatal(err)
	}
	if v := k.Verdict(p); v.Action != block {
		t.Errorf("with the root's table again: %+v", v)
	}
}

// TestRulesAreRead reads rules back by DIOCGETRULES on every release.
func TestRulesAreRead(t *testing.T) {
	rules := []Rule{
		{Action: block, Dir: in, Quick: true, Log: true, Iface: "em0", From: Peer{Table: "bad"}, Label: "ts"},
		{Action: block, Dir: out, IfaceNot: true, Iface: "lo0", AF: abi.AFInet, Log: true, LogIf: 3, To: Peer{Table: "bad", Not: true}},
		{Proto: protoTCP, From: Peer{Prefix: netip.MustParsePrefix("10.1.0.0/16"), Not: true}, To: Peer{Port: pfioctl.Range{Op: ":", A: 1, B: 1023}}, AF: abi.AFInet},
		{Anchor: "ts"},
		{Action: match, Dir: in},
		{Action: block, StateLimiter: pfioctl.Limiter{ID: 1}, SourceLimiter: pfioctl.Limiter{ID: 255, Block: true}},
	}
	for _, release := range []string{"6.9", "7.0", "7.1", "7.2", "7.3", "7.4", "7.5", "7.6", "7.7", "7.8", "7.9", "8.0"} {
		t.Run(release, func(t *testing.T) {
			k := New(Options{Release: release})
			load(t, k, Ruleset{
				Rules:   rules,
				Anchors: map[string][]Rule{"ts": {{Anchor: "in/*"}}, "ts/in/b": {{Action: block}}, "ts/in/a": {{}}},
				Tables:  []TableLine{{pfioctl.Table{Name: "bad"}, pfioctl.TablePersist, strings.NewReader("10/8 10.1/16")}},
			})
			d := k.Open(false)
			pf := newPF(t, d, k)
			got, err := pf.Rules()
			if err != nil {
				t.Fatal(err)
			}
			if len(got.Rules) != len(rules) {
				t.Fatalf("%d rules, want %d", len(got.Rules), len(rules))
			}
			r := got.Rules
			if r[0].Action != block || r[0].Dir != in || !r[0].Quick || r[0].Log != pfioctl.LogFirst || r[0].Iface != "em0" || r[0].Label != "ts" ||
				r[0].Src.Type != pfioctl.AddrTable || r[0].Src.Name != "bad" || r[0].Src.Count != 2 || !r[0].Dst.Any() {
				t.Errorf("rule 0: %+v", r[0])
			}
			if !r[1].IfaceNot || r[1].LogIf != 3 || r[1].AF != abi.AFInet || !r[1].Dst.Not || r[1].Dst.Name != "bad" {
				t.Errorf("rule 1: %+v", r[1])
			}
			if p, ok := r[2].Src.Prefix(); !ok || p != rules[2].From.Prefix || !r[2].Src.Not || r[2].Dst.Port != rules[2].To.Port || !r[2].KeepState {
				t.Errorf("rule 2: %+v", r[2])
			}
			var none pfioctl.Limiter
			if limited := r[5].StateLimiter == rules[5].StateLimiter && r[5].SourceLimiter == rules[5].SourceLimiter; limited != (release >= "7.9") || r[0].StateLimiter != none {
				t.Errorf("rule 5: %+v", r[5])
			}
			if r[3].Call != "ts" || len(r[3].Called) != 1 || r[3].Called[0].Rules[0].Call != "in/*" {
				t.Fatalf("rule 3: %+v", r[3])
			}
			var names []string
			for _, rs := range r[3].Called[0].Rules[0].Called {
				names = append(names, rs.Anchor)
			}
			if !slices.Equal(names, []string{"ts/in/a", "ts/in/b"}) {
				t.Errorf("the wildcard calls %q", names)
			}
			if len(k.trans.open) != 0 {
				t.Errorf("%d transactions left open", len(k.trans.open))
			}
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestChecksumFollowsTheRules(t *testing.T) {
	k := New(Options{})
	pf := newPF(t, k.Open(false), k)
	sum := func() [16]byte {
		s, err := pf.Status()
		if err != nil {
			t.Fatal(err)
		}
		return s.Checksum
	}
	one := Ruleset{Rules: []Rule{{Action: block, From: Peer{Table: "bad"}}}}
	two := Ruleset{Rules: []Rule{{Action: block, To: Peer{Table: "bad"}}}}
	atBoot := sum()
	load(t, k, one)
	first := sum()
	if first == atBoot {
		t.Error("loading rules did not change the checksum")
	}
	load(t, k, one)
	if sum() != first {
		t.Error("loading the same rules again changed the checksum")
	}
	load(t, k, two)
	if sum() == first {
		t.Error("loading other rules did not change the checksum")
	}
}

// TestTablesLiveWithRules is the life of a table that rules name.
func TestTablesLiveWithRules(t *testing.T) {
	k := New(Options{})
	named := Ruleset{Rules: []Rule{{From: Peer{Table: "t"}}, {To: Peer{Table: "t"}}}}
	load(t, k, named)
	kt := k.findTable("", "t")
	if kt == nil || kt.flags != flagReferenced || kt.refs[refRule] != 2 {
		t.Fatalf("a table that rules name: %+v", kt)
	}
	load(t, k, Ruleset{})
	if k.findTable("", "t") != nil {
		t.Error("it outlived the rules")
	}
	load(t, k, named)
	pf := k.OpenPF()
	if _, err := addTables(k, 0, "t"); err != nil {
		t.Fatal(err)
	}
	if _, err := pf.Add(pfioctl.Table{Name: "t"}, pfioctl.Addr{Prefix: netip.MustParsePrefix("10.0.0.0/8")}); err != nil {
		t.Fatal(err)
	}
	load(t, k, named)
	if kt := k.findTable("", "t"); kt == nil || kt.cnt() != 1 {
		t.Error("its addresses did not outlive a load of the same rules")
	}
	load(t, k, Ruleset{})
	if k.findTable("", "t") != nil || k.entries != 0 {
		t.Error("without PERSIST it outlived the rules")
	}
	checkKernel(t, k)
}
