package rules

import (
	"compress/gzip"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path"
	"strings"
	"testing"

	"example.org/threatstopd/pfioctl"
)

// recorded is a ruleset as it was loaded on OpenBSD 7.8/amd64.
type recorded struct {
	Name, Conf, Also string
	Anchors          []struct {
		Anchor string
		Rules  []struct{ Rule pfioctl.Rule }
	}
	Tables []string // flags and name of the main ruleset's, as pfctl -vsT shows them
	Skip   bool     // pair0 is skipped
}

func readRecorded(t testing.TB) []recorded {
	t.Helper()
	f, err := os.Open("testdata/rulesets.json.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Rulesets []recorded }
	if err := json.NewDecoder(z).Decode(&file); err != nil {
		t.Fatal(err)
	}
	return file.Rulesets
}

// ruleset returns the rules, with the anchors that they call.
func (rec *recorded) ruleset(t testing.TB) *pfioctl.Ruleset {
	t.Helper()
	all := make(map[string]*pfioctl.Ruleset)
	for _, a := range rec.Anchors {
		rs := &pfioctl.Ruleset{Anchor: a.Anchor}
		for _, r := range a.Rules {
			rs.Rules = append(rs.Rules, r.Rule)
		}
		all[a.Anchor] = rs
	}
	for _, a := range rec.Anchors {
		rs := all[a.Anchor]
		for i := range rs.Rules {
			call := rs.Rules[i].Call
			if call == "" {
				continue
			}
			to := path.Join("/", a.Anchor, call)[1:]
			if dir, ok := strings.CutSuffix(to, "*"); ok {
				for _, b := range rec.Anchors { // sorted, as a wildcard goes
					if rest, ok := strings.CutPrefix(b.Anchor, dir); ok && !strings.Contains(rest, "/") {
						rs.Rules[i].Called = append(rs.Rules[i].Called, all[b.Anchor])
					}
				}
			} else {
				rs.Rules[i].Called = []*pfioctl.Ruleset{all[to]}
			}
		}
	}
	return all[""]
}

// options are those of a machine with the recorded tables.
func (rec *recorded) options() Options {
	o := Options{Block: block, Allow: allow, AllowCarved: true, Never: never, Report: true}
	for _, line := range rec.Tables {
		flags, name, _ := strings.Cut(line, "\t")
		st := pfioctl.TableStats{Table: pfioctl.Table{Name: name}}
		if flags[2] == 'a' {
			st.Flags |= pfioctl.TableActive
		}
		o.Tables = append(o.Tables, st)
	}
	if strings.Contains(rec.Also, "in anchor threatstop: table") {
		o.Tables = append(o.Tables, pfioctl.TableStats{Table: pfioctl.Table{Anchor: "threatstop", Name: block.Name}, Flags: pfioctl.TableActive})
	}
	if rec.Skip {
		o.Skipped = []string{"pair0"}
	}
	return o
}

// never is what every policy excepts.
var never = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("224.0.0.0/4"), netip.MustParsePrefix("::1/128"),
	netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("ff00::/8"), netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("255.255.255.255/32")}

var (
	block = pfioctl.Table{Name: "ThreatSTOP-Block"}
	allow = pfioctl.Table{Name: "ThreatSTOP-Allow"}
)

func write(f []Finding) string {
	var b strings.Builder
	for _, x := range f {
		b.WriteString(x.Level.String() + "\t" + x.Text + "\n")
		for _, d := range x.Do {
			b.WriteString("\t\t" + d + "\n")
		}
	}
	return b.String()
}

// expected is what each recorded pf.conf amounts to, as one reads it: for both
// directions the level and what the text must have.
var expected = map[string][]string{
	"anchor-local-table":       {"FAIL anchor threatstop has a table <ThreatSTOP-Block> of its own, which hides"},
	"anchor-on-interface":      {"warn come in from; every interface other than vio0", "FAIL go out to; not blocked: rule @1 `pass all"},
	"anchor":                   {"ok come in from; @0 in anchor threatstop", "ok go out to; @1 in anchor threatstop"},
	"block-return":             {"ok come in from", "ok go out to"},
	"both-directions-one-rule": {"ok come in from", "ok go out to"},
	"default-block":            {"ok come in from; @0 `block drop log all`", "FAIL go out to; not blocked; @1 `pass out quick all flags S/SA` comes after it"},
	"default-pf.conf-like":     {"FAIL no rule blocks what is in table <ThreatSTOP-Block>"},
	"earlier-pass-quick-all":   {"FAIL come in from; not blocked: rule @0 `pass quick all", "FAIL go out to; not blocked: rule @0 `pass quick all"},
	"earlier-pass-quick":       {"FAIL come in from; pass, if tcp to port 22: rule @0", "ok go out to"},
	"egress-group":             {"warn come in from; every interface other than those of group egress", "warn go out to; every interface other than those of group egress"},
	"empty":                    {"FAIL no rule blocks what is in table <ThreatSTOP-Block>"},
	"in-only":                  {"ok come in from", "FAIL go out to; not blocked: rule @1 `pass all"},
	"inet-only":                {"FAIL come in from; pass, if IPv6: rule @2", "FAIL go out to; pass, if IPv6: rule @2"},
	"inet-tcp-port":            {"FAIL come in from; blocked only if IPv4 tcp to port 22, 80; the others pass: rule @3", "ok go out to"},
	"inner-interface":          {"warn come in from; where they go out again, on pair0: only the firewall itself is open", "warn go out to; where they come in, on pair0"},
	"lean":                     {"ok come in from", "ok go out to"},
	"log-all-user":             {"ok come in from", "ok go out to"},
	"log-pflog1":               {"FAIL come in from; logged to pflog1, and hits are read from pflog0", "FAIL go out to; logged to pflog1"},
	"match-only":               {"FAIL come in from; rule @0 `match in log from <ThreatSTOP-Block> to any` decides nothing", "FAIL go out to; not blocked"},
	"nat-and-rdr":              {"ok come in from", "ok go out to"},
	"negated-table":            {"warn rule @0; blocks what is not in table", "FAIL come in from; not blocked: rule @1 `pass all", "warn go out to; where they come in, on every interface: only the firewall itself is open"},
	"nested-anchor":            {"ok come in from; @0 in anchor a/b", "ok go out to; @1 in anchor a/b"},
	"no-log":                   {"FAIL come in from; blocked, but not logged: rule @0", "FAIL go out to; blocked, but not logged: rule @1"},
	"non-quick-last":           {"ok come in from", "ok go out to"},
	"non-quick-then-pass":      {"FAIL come in from; not blocked: rule @0; is not quick, and @2 `pass all", "FAIL go out to; rule @1; is not quick, and @2"},
	"not-interface":            {"warn come in from; pass, if on vio0", "warn go out to; pass, if on vio0"},
	"one-interface":            {"warn come in from; every interface other than vio0", "warn go out to; every interface other than vio0"},
	"skip":                     {"ok come in from", "ok go out to", "warn pf ignores all packets on pair0 (set skip)"},
	"vendor":                   {"ok come in from", "ok go out to", "note addresses in table <ThreatSTOP-Allow> have every port open, even if; @0; @1"},
	"wildcard-anchor":          {"ok come in from; @0 in anchor threatstop/in", "ok go out to; @0 in anchor threatstop/out"},
}

func TestRecordedRulesets(t *testing.T) {
	for _, rec := range readRecorded(t) {
		t.Run(rec.Name, func(t *testing.T) {
			got := Judge(rec.ruleset(t), rec.options())
			compare(t, rec.Conf, got, expected[rec.Name])
		})
	}
}

// compare holds findings against "level phrase; phrase", one for each.
func compare(t *testing.T, conf string, got []Finding, want []string) {
	t.Helper()
	ok := len(got) == len(want)
	for i := 0; ok && i < len(got); i++ {
		level, phrases, _ := strings.Cut(want[i], " ")
		ok = got[i].Level.String() == level && (got[i].Level != OK || got[i].Do == nil) && (got[i].Level < Warn || got[i].Do != nil)
		for _, p := range strings.Split(phrases, "; ") {
			ok = ok && strings.Contains(got[i].Text, p)
		}
	}
	if !ok {
		t.Errorf("%s\nfound:\n%swant:\n%s", conf, write(got), strings.Join(want, "\n"))
	}
}

// The two rules that everything else is measured by.
const lean = "block in log quick from <Block>\nblock out log quick to <Block>\n"

var both = []string{"ok come in from", "ok go out to"}

func TestRules(t *testing.T) {
	active := func(anchor, name string) pfioctl.TableStats {
		return pfioctl.TableStats{Table: pfioctl.Table{Anchor: anchor, Name: name}, Flags: pfioctl.TableActive}
	}
	tables := []pfioctl.TableStats{active("", block.Name), active("", allow.Name), active("", "friends"), active("", "nobody")}
	router := []Interface{{Name: "lo0", Groups: []string{"lo"}, Loopback: true}, {Name: "em0", Groups: []string{"egress"}}, {Name: "em1"}}
	for name, tc := range map[string]struct {
		rules anchors
		with  func(*Options)
		want  []string
	}{
		"lean":                               {anchors{"": lean + "pass"}, nil, both},
		"a pass of loopback comes first":     {anchors{"": "pass quick on lo0\n" + lean}, nil, both},
		"a pass of the group lo comes first": {anchors{"": "pass quick on lo\n" + lean}, nil, both},
		"on any":                             {anchors{"": "block in log quick on any from <Block>\nblock out log quick on any to <Block>"}, nil, both},
		"on all but loopback":                {anchors{"": "block in log quick on ! lo0 from <Block>\nblock out log quick on ! lo0 to <Block>"}, nil, both},
		"both families apart":                {anchors{"": "block in log quick inet from <Block>\nblock in log quick inet6 from <Block>\nblock out log quick inet6 to <Block>\nblock out log quick inet to <Block>"}, nil, both},
		"ports apart that are all ports, and the rest": {anchors{"": "block in log quick proto tcp from <Block> to any port <1024\nblock in log quick proto tcp from <Block> to any port >=1024\nblock in log quick proto udp from <Block>\nblock in log from <Block>\nblock out log to <Block>"}, nil, both},
		"only tcp and udp": {anchors{"": "block in log quick proto tcp from <Block>\nblock in log quick proto udp from <Block>\nblock out log quick to <Block>"}, nil,
			[]string{"warn come in from; if icmp, icmp6, other protocols: no rule matches", "ok go out to"}},
		"tcp only when it opens a connection": {anchors{"": "block in log quick proto tcp from <Block> flags S/SA\nblock in log quick proto udp from <Block>\nblock in log quick proto icmp from <Block>\nblock in log quick proto icmp6 from <Block>\nblock out log quick to <Block>"}, nil,
			[]string{"warn come in from; other protocols", "ok go out to"}},
		"from without direction": {anchors{"": "block log quick from <Block>\npass"}, nil,
			[]string{"ok come in from", "FAIL go out to; not blocked: rule @1"}},
		"to without direction": {anchors{"": "block log quick to <Block>\npass"}, nil,
			[]string{"FAIL come in from; not blocked: rule @1", "ok go out to"}},
		"directions crossed, as on an inner interface": {anchors{"": "block out log quick from <Block>\nblock in log quick to <Block>\npass"}, nil,
			[]string{"warn come in from; where they go out again, on every interface", "warn go out to; where they come in, on every interface"}},
		"in both ways, in only": {anchors{"": "block in log quick from <Block>\nblock in log quick to <Block>\npass"}, nil,
			[]string{"ok come in from", "warn go out to; where they come in, on every interface"}},
		"a pass of ports comes first": {anchors{"": "pass in quick proto tcp to any port 80:443\npass in quick proto udp to any port 53\n" + lean}, nil,
			[]string{"FAIL come in from; if tcp to port 80:443: rule @0; is quick, and comes first", "FAIL come in from; if udp to port 53: rule @1", "ok go out to"}},
		"a pass of a source port comes first": {anchors{"": "pass in quick proto udp from any port 53\n" + lean}, nil,
			[]string{"FAIL come in from; if udp from port 53", "ok go out to"}},
		"a pass of one family comes first": {anchors{"": "pass quick inet6\n" + lean}, nil,
			[]string{"FAIL come in from; if IPv6", "FAIL go out to; if IPv6"}},
		"a pass of private networks comes first": {anchors{"": "pass in quick from 10.0.0.0/8\npass out quick to 10.0.0.0/8\n" + lean}, nil,
			[]string{"warn come in from; if IPv4 from listed addresses in 10.0.0.0/8", "warn go out to; if IPv4 to listed addresses in 10.0.0.0/8"}},
		"a pass of a range comes first": {anchors{"": "pass in quick inet from 192.0.2.1-192.0.2.7\n" + lean}, nil,
			[]string{"warn come in from; listed addresses in 192.0.2.1-192.0.2.7", "ok go out to"}},
		"a pass of link-local addresses comes first": {anchors{"": "pass in quick inet6 from fe80::/10\npass out quick to ff00::/8\npass out quick to 224.0.0.0/4\n" + lean}, nil, both},
		"a pass to one server comes first": {anchors{"": "pass in quick proto tcp to 203.0.113.5 port 443\n" + lean}, nil,
			[]string{"warn come in from; if IPv4 tcp to port 443 to 203.0.113.5", "ok go out to"}},
		"blocks only for one server": {anchors{"": "block in log quick from <Block> to 203.0.113.5\nblock out log quick to <Block>\npass"}, nil,
			[]string{"FAIL come in from; blocked only if IPv4 to 203.0.113.5; the others pass: rule @2", "ok go out to"}},
		"a pass for another table comes first": {anchors{"": "pass in quick from <friends@3>\npass out quick to <friends@3>\n" + lean}, nil,
			[]string{"warn come in from; if from addresses in table <friends> too", "warn go out to; if to addresses in table <friends> too"}},
		"a pass for an empty table comes first": {anchors{"": "pass in quick from <nobody@0>\n" + lean}, nil,
			[]string{"note come in from; in table <nobody> too (empty now)", "ok come in from", "ok go out to"}},
		"a table that is not there": {anchors{"": "pass in quick from <ghost@-1>\n" + lean}, nil, both},
		"all that is not in a table that is not there": {anchors{"": "pass in quick from ! <ghost@-1>\n" + lean}, nil,
			[]string{"FAIL come in from; not blocked: rule @0", "ok go out to"}},
		"pass of what is not blocked":                     {anchors{"": "pass in quick from ! <Block>\npass out quick to ! <Block>\n" + lean}, nil, both},
		"pass to what is not blocked, in both directions": {anchors{"": "block log\npass quick from ! <Block> to ! <Block>"}, nil, both},
		"own addresses are never listed":                  {anchors{"": "pass in quick from (em0)\n" + lean}, nil, both},
		"a pass to an interface's addresses comes first": {anchors{"": "pass in quick proto tcp to (em0) port 22\n" + lean}, nil,
			[]string{"warn come in from; tcp to port 22 to (em0)", "ok go out to"}},
		"quick in front of a later pass": {anchors{"": "block in log quick from <Block>\nblock out log to <Block>\npass in\nblock out quick proto carp"}, nil,
			[]string{"ok come in from", "note go out to; if carp, are blocked, but not logged", "ok go out to"}},
		"overruled for some": {anchors{"": "block log from <Block>\nblock log to <Block>\npass out proto tcp to any port 443"}, nil,
			[]string{"ok come in from", "warn go out to; if tcp to port 443: rule @1; is not quick, and @2; comes after it; where they come in"}},
		"overruled, and blocked again": {anchors{"": "pass\nblock log from <Block>\npass in proto tcp to any port 22\nblock in log quick proto tcp from <Block> to any port 22\nblock log to <Block>"}, nil, both},
		"log by a match rule":          {anchors{"": "match log (matches) from <Block>\nmatch log (matches) to <Block>\nblock in quick from <Block>\nblock out quick to <Block>"}, nil, both},
		"log by a match rule elsewhere": {anchors{"": "match log (matches,pflog2) all\nblock in quick from <Block>\nblock out log quick to <Block>"}, nil,
			[]string{"FAIL come in from; not logged", "ok go out to"}},
		"log by a match rule that comes too late": {anchors{"": "block in quick from <Block>\nblock out log quick to <Block>\nmatch log (matches) all"}, nil,
			[]string{"FAIL come in from; not logged", "ok go out to"}},
		"a match rule with quick ends it": {anchors{"": "match in quick proto tcp to any port 25\n" + lean}, nil,
			[]string{"FAIL come in from; tcp to port 25: no rule matches", "ok go out to"}},
		"half of it logged": {anchors{"": "block in log quick inet from <Block>\nblock in quick inet6 from <Block>\nblock out log quick to <Block>"}, nil,
			[]string{"FAIL come in from; if IPv6, are blocked, but not logged: rule @1", "ok go out to"}},
		"no log, and nothing reported": {anchors{"": "block in quick from <Block>\nblock out quick to <Block>"}, func(o *Options) { o.Report = false }, both},
		"log where hits are read":      {anchors{"": "block in log (pflog1) quick from <Block>\nblock out log (pflog1,all) quick to <Block>"}, func(o *Options) { o.PflogIf = 1 }, both},
		"log not where hits are read": {anchors{"": lean}, func(o *Options) { o.PflogIf = 1 },
			[]string{"FAIL come in from; logged to pflog0, and hits are read from pflog1", "FAIL go out to"}},
		"an own block without log": {anchors{"": "block quick from 10.0.0.0/8\n" + lean}, nil,
			[]string{"note come in from; if IPv4 from listed addresses in 10.0.0.0/8, are blocked, but not logged", "ok come in from; logged: @1", "note go out to; if IPv4 from 10.0.0.0/8", "ok go out to"}},
		"default block without log": {anchors{"": "block\npass in quick from ! <Block>\npass out quick to ! <Block>"}, nil,
			[]string{"FAIL come in from; not logged: rule @0 `block drop all`", "FAIL go out to; not logged: rule @0"}},
		"of one user": {anchors{"": "block in log quick from <Block>\nblock out log quick proto tcp to <Block> user 1000\npass"}, nil,
			[]string{"ok come in from", "FAIL go out to; only if tcp of user 1000; the others pass"}},
		"a pass of one user comes first": {anchors{"": "pass out quick proto tcp user 77\n" + lean}, nil,
			[]string{"ok come in from", "warn go out to; if tcp of user 77"}},
		"a pass of every user but one": {anchors{"": "pass out quick proto tcp user !=77\n" + lean}, nil,
			[]string{"ok come in from", "FAIL go out to; tcp"}},
		"what is tagged": {anchors{"": "block in log quick from <Block> tagged BAD\nblock out log quick to <Block>\npass"}, nil,
			[]string{"FAIL come in from; if untagged", "ok go out to"}},
		"a pass of what is tagged": {anchors{"": "pass quick tagged GOOD\n" + lean}, nil,
			[]string{"warn come in from; tagged GOOD", "warn go out to; tagged GOOD"}},
		"tagged and not tagged": {anchors{"": "block in log quick from <Block> tagged BAD\nblock in log quick from <Block> tagged ! BAD\nblock out log quick to <Block>"}, nil, both},
		"by chance": {anchors{"": "block in log quick from <Block> probability 50\nblock out log quick to <Block>\npass"}, nil,
			[]string{"FAIL come in from; that probability spares", "ok go out to"}},
		"up to a rate": {anchors{"": "block in log quick from <Block> max-pkt-rate 100\nblock out log quick to <Block>\npass"}, nil,
			[]string{"FAIL come in from; beyond a rate", "ok go out to"}},
		"within a limiter": {anchors{"": "block in log quick from <Block> state-limiter 1\nblock out log quick to <Block> source-limiter 2\npass"}, nil,
			[]string{"warn come in from; beyond a limiter", "warn go out to; beyond a limiter"}},
		"a pass within a limiter": {anchors{"": "pass in quick state-limiter 1\n" + lean}, nil,
			[]string{"FAIL come in from; within a limiter", "ok go out to"}},
		"a limiter that is not reached": {anchors{"": "block in log quick from <Block> state-limiter 1\n" + lean}, nil, both},
		"once": {anchors{"": "block in log quick from <Block> once\nblock out log quick to <Block>\npass"}, nil,
			[]string{"FAIL come in from; after the first time", "ok go out to"}},
		"expired": {anchors{"": "pass quick expired\n" + lean}, nil, both},
		"fragments only": {anchors{"": "block in log quick from <Block> fragment\nblock out log quick to <Block>\npass quick fragment"}, nil,
			[]string{"FAIL come in from; not blocked", "ok go out to"}},
		"a system": {anchors{"": "block in log quick proto tcp from <Block> os 12345\nblock out log quick to <Block>\npass"}, nil,
			[]string{"FAIL come in from; only if tcp of an operating system that a rule names", "ok go out to"}},
		"one icmp type": {anchors{"": "pass in quick proto icmp icmp-type 8 code 0\n" + lean}, nil,
			[]string{"warn come in from; icmp of icmp type 8 code 0", "ok go out to"}},
		"tos and prio": {anchors{"": "pass in quick tos 16\npass in quick prio 6\n" + lean}, nil,
			[]string{"warn come in from; with tos 16", "warn come in from; with prio 6", "ok go out to"}},
		"a routing domain": {anchors{"": "block in log quick on rdomain 0 from <Block>\nblock out log quick on rdomain 0 to <Block>\npass"}, nil,
			[]string{"warn come in from; in rdomain 1:255", "warn go out to; in rdomain 1:255"}},
		"another routing domain": {anchors{"": "block in log quick on rdomain 1 from <Block>\nblock out log quick on ! rdomain 1 to <Block>\npass"}, nil,
			[]string{"FAIL come in from; if in rdomain 0, 2:255", "warn go out to; in rdomain 1"}},
		"received on the interface it is on": {anchors{"": "block in log quick from <Block> received-on em0\nblock out log quick to <Block>\npass"}, func(o *Options) { o.Interfaces = router },
			[]string{"warn come in from; on em1: rule @2", "ok go out to"}},
		"received elsewhere": {anchors{"": "block in log quick from <Block>\nblock out log quick to <Block> received-on em1\npass"}, func(o *Options) { o.Interfaces = router },
			[]string{"ok come in from", "FAIL go out to; if received on em0, the firewall itself"}},
		"no way back": {anchors{"": "block in quick from urpf-failed\nblock in quick from no-route\n" + lean}, nil,
			[]string{"note come in from; not logged", "note come in from; not logged", "ok come in from", "ok go out to"}},

		"the outer interface": {anchors{"": "block in log quick on em0 from <Block>\nblock out log quick on em0 to <Block>\npass"}, func(o *Options) { o.Interfaces = router },
			[]string{"warn come in from; if on em1: rule @2", "warn go out to; if on em1"}},
		"the outer interface by its group": {anchors{"": "block in log quick on egress from <Block>\nblock out log quick on egress to <Block>\npass"}, func(o *Options) { o.Interfaces = router },
			[]string{"warn come in from; if on em1: rule @2", "warn go out to; if on em1"}},
		"all but the outer interface": {anchors{"": "block in log quick on ! egress from <Block>\nblock out log quick on ! egress to <Block>\npass"}, func(o *Options) { o.Interfaces = router },
			[]string{"FAIL come in from; if on em0: rule @2", "FAIL go out to; if on em0"}},
		"each interface by itself": {anchors{"": "block in log quick on em0 from <Block>\nblock in log quick on em1 from <Block>\nblock out log quick on em to <Block>\npass"}, func(o *Options) { o.Interfaces = router }, both},
		"an interface that is not there": {anchors{"": "block in log quick on tun0 from <Block>\nblock out log quick on em to <Block>\npass"}, func(o *Options) { o.Interfaces = router },
			[]string{"FAIL come in from; not blocked: rule @2", "ok go out to"}},
		"inner interfaces": {anchors{"": "block in log quick on em1 to <Block>\nblock out log quick on em1 from <Block>\npass"}, func(o *Options) { o.Interfaces = router },
			[]string{"warn come in from; go out again, on em1", "warn go out to; come in, on em1"}},
		"the outer one skipped": {anchors{"": lean}, func(o *Options) { o.Interfaces, o.Skipped = router, []string{"lo", "egress"} },
			[]string{"ok come in from", "ok go out to", "FAIL pf ignores all packets on em0 (set skip)"}},
		"an inner one skipped": {anchors{"": lean}, func(o *Options) { o.Interfaces, o.Skipped = router, []string{"lo0", "em1"} },
			[]string{"ok come in from", "ok go out to", "warn pf ignores all packets on em1 (set skip)"}},
		"all skipped": {anchors{"": lean}, func(o *Options) { o.Interfaces, o.Skipped = router, []string{"lo", "em"} },
			[]string{"FAIL pf ignores all packets on em0, em1 (set skip)"}},
		"loopback skipped": {anchors{"": lean}, func(o *Options) { o.Skipped = []string{"lo", "lo0"} }, both},

		"in an anchor, nested and called by a relative name": {anchors{"": "anchor \"a\"\npass", "a": "anchor \"b\"", "a/b": lean}, nil, both},
		"in an anchor called absolutely":                     {anchors{"": "anchor \"a\"\npass", "a": "anchor \"/b\"", "b": lean}, nil, both},
		"an anchor for one protocol": {anchors{"": "anchor \"a\" proto tcp\npass", "a": lean}, nil,
			[]string{"FAIL come in from; if icmp, udp, icmp6, other protocols: rule @1", "FAIL go out to; if icmp, udp"}},
		"an anchor with quick": {anchors{"": "anchor \"a\" quick\npass quick", "a": "block in log from <Block>\nblock out log to <Block>"}, nil, both},
		"an anchor without quick": {anchors{"": "anchor \"a\"\npass quick", "a": "block in log from <Block>\nblock out log to <Block>"}, nil,
			[]string{"FAIL come in from; rule @0 in anchor a; is not quick, and @1", "FAIL go out to; @1 in anchor a"}},
		"an anchor with quick around another": {anchors{"": "anchor \"a\" quick\npass quick", "a": "anchor \"b\"", "a/b": "block in log from <Block>\nblock out log to <Block>"}, nil,
			[]string{"FAIL come in from; rule @0 in anchor a/b; is not quick", "FAIL go out to"}},
		"a wildcard with quick does not end it": {anchors{"": "anchor \"a/*\" quick\npass quick", "a/x": "block log from <Block>\nblock log to <Block>"}, nil,
			[]string{"FAIL come in from; @0 in anchor a/x", "FAIL go out to; @1 in anchor a/x"}},
		"a wildcard, the second quick": {anchors{"": "anchor \"a/*\"\npass", "a/x": "pass", "a/y": lean}, nil, both},
		"a wildcard, the first lets pass": {anchors{"": "anchor \"a/*\"\npass", "a/x": "pass out quick", "a/y": lean}, nil,
			[]string{"ok come in from", "FAIL go out to; not blocked: rule @0 in anchor a/x"}},
		"an empty anchor": {anchors{"": "anchor \"a\"\nanchor \"b/*\"\n" + lean, "a": ""}, nil, both},
		"an anchor lets pass first": {anchors{"": "anchor \"a\"\n" + lean, "a": "pass in quick proto tcp to any port 22"}, nil,
			[]string{"FAIL come in from; tcp to port 22: rule @0 in anchor a", "ok go out to"}},
		"a table of the anchor, another of the main ruleset": {anchors{"": "anchor \"a\"\n" + lean, "a": "pass in quick from <friends>"}, func(o *Options) { o.Tables = append(o.Tables, active("a", "friends")) },
			[]string{"warn come in from; in table <friends in anchor a> too", "ok go out to"}},
		"hidden in one anchor, not in the other": {anchors{"": "anchor \"a\"\nanchor \"b\"\npass", "a": lean, "b": lean}, func(o *Options) { o.Tables = append(o.Tables, active("a", block.Name)) },
			[]string{"FAIL anchor a has a table", "ok come in from; @0 in anchor b", "ok go out to"}},
		"hidden by a table above is not hidden": {anchors{"": "anchor \"a\"\npass", "a": "anchor \"b\"", "a/b": lean}, func(o *Options) { o.Tables = append(o.Tables, active("a", block.Name)) }, both},
		"an anchor that nobody calls": {anchors{"": "pass", "a": lean}, func(o *Options) {
			o.Tables = append(o.Tables, pfioctl.TableStats{Table: pfioctl.Table{Anchor: "a", Name: block.Name}, Flags: pfioctl.TableReferenced})
		}, []string{"FAIL rules for table <ThreatSTOP-Block> are in anchor a, which no rule calls"}},
		"no table": {anchors{"": "pass"}, func(o *Options) { o.Tables = o.Tables[1:] }, []string{"FAIL no rule blocks; the table does not exist"}},

		"an allow table that is the owner's": {anchors{"": "pass in quick from <Allow>\n" + lean}, func(o *Options) { o.AllowCarved = false },
			[]string{"warn come in from; in table <ThreatSTOP-Allow> too", "ok go out to", "note every port open; @0; "}},
		"the vendor's rules without allow lists": {anchors{"": "pass in quick from <Allow@0>\npass out quick to <Allow@0>\n" + lean}, func(o *Options) { o.AllowCarved = false },
			[]string{"ok come in from", "ok go out to", "note every port open; @0; @1"}},
		"a narrow pass of the allow table": {anchors{"": "pass in proto tcp from <Allow> to any port 443\n" + lean}, nil,
			[]string{"ok come in from", "ok go out to", "note have what they pass open, unless a later rule blocks them: @0"}},
	} {
		t.Run(name, func(t *testing.T) {
			o := Options{Block: block, Allow: allow, AllowCarved: true, Never: never, Report: true, Tables: tables}
			if tc.with != nil {
				o.Tables = append([]pfioctl.TableStats(nil), tables...)
				tc.with(&o)
			}
			compare(t, tc.rules[""], Judge(tc.rules.load(t), o), tc.want)
		})
	}
}

// Rulesets with more kinds of packets than can be looked at one by one.
func TestRulesOfManyKinds(t *testing.T) {
	var mixed, denied strings.Builder
	for i := range 40 {
		fmt.Fprintf(&mixed, "block in log from <b%d@3>\npass in from <a%d@3> to <c%d@3>\n", i, i, i)
	}
	denied.WriteString("block log\n")
	for i := range 400 {
		fmt.Fprintf(&denied, "pass in on em%d proto tcp from any to 10.0.%d.%d port %d\n", i%4, i/250, i%250, 20+i%37)
	}
	judge := func(rules string) []Finding {
		return Judge(anchors{"": rules}.load(t), Options{Block: block, Allow: allow, AllowCarved: true, Never: never, Report: true})
	}
	compare(t, "alternating, and blocked at the end", judge(mixed.String()+lean), both)
	compare(t, "all denied but for servers, and blocked", judge(denied.String()+lean), both)

	got := judge(denied.String() + "pass in from ! <Block>\npass out\n")
	last := got[len(got)-1]
	if len(got) != 4 || got[2].Level != Warn || !strings.Contains(got[2].Text, "and 393 more") ||
		last.Level != Fail || !strings.Contains(last.Text, "@402 `pass out all flags S/SA` comes after it") {
		t.Errorf("all denied but for servers:\n%s", write(got))
	}
	// A rule's number is not named where no rule passes packets.
	got = judge("pass in proto tcp to any port 1\npass in proto tcp to any port 2\npass in proto tcp to any port 3\nblock log quick to <Block>")
	if len(got) != 4 || !strings.Contains(got[2].Text, "@2 `pass in proto tcp from any to any port = 3 flags S/SA`; the same holds for what no rule matches") {
		t.Errorf("three rules, and none:\n%s", write(got))
	}
	// If there is too much, the result has what was seen, and that it is incomplete.
	got = judge(mixed.String() + "block in log from <Block> to <d@3>\nblock out log quick to <Block>")
	if got[0].Level != Skip || !strings.Contains(got[0].Text, "too many kinds") || got[len(got)-1].Level != OK || len(got) < 3 {
		t.Errorf("alternating, and never ending:\n%s", write(got))
	}
}
