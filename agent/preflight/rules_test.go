package preflight

import (
	"compress/gzip"
	"encoding/hex"
	"encoding/json"
	"os"
	"path"
	"strings"
	"testing"
	"unsafe"

	"example.org/threatstopd/pfioctl"
)

// recorded is a ruleset as it was loaded on OpenBSD 7.8/amd64.
type recorded struct {
	Name, Conf, Also string
	Anchors          []struct {
		Anchor string
		Rules  []struct{ Call, Raw string }
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

// ruleset decodes the rules and follows the anchors.
func (rec *recorded) ruleset(t testing.TB) *pfioctl.Ruleset {
	t.Helper()
	l, err := pfioctl.LayoutFor("7.8", "amd64")
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]*pfioctl.Ruleset)
	for _, a := range rec.Anchors {
		rs := &pfioctl.Ruleset{Anchor: a.Anchor}
		for _, r := range a.Rules {
			raw, err := hex.DecodeString(r.Raw)
			if err != nil {
				t.Fatal(err)
			}
			b := make([]byte, l.RuleRequestSize())
			copy(b[unsafe.Offsetof(pfioctl.PfiocRuleHead{}.Anchor):], a.Anchor)
			copy(b[unsafe.Offsetof(pfioctl.PfiocRuleHead{}.AnchorCall):], r.Call)
			copy(b[len(b)-len(raw):], raw)
			rule, err := l.DecodeRule(b)
			if err != nil {
				t.Fatal(err)
			}
			rs.Rules = append(rs.Rules, rule)
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
func (rec *recorded) options() RulesOptions {
	o := RulesOptions{Block: block, Allow: allow, AllowCarved: true, Report: true}
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
	"inner-interface":          {"warn come in from; on pair0: what is forwarded is blocked, the firewall itself is not", "warn go out to; on pair0: what is forwarded is blocked"},
	"lean":                     {"ok come in from", "ok go out to"},
	"log-all-user":             {"ok come in from", "ok go out to"},
	"log-pflog1":               {"FAIL come in from; logged to pflog1, and hits are read from pflog0", "FAIL go out to; logged to pflog1"},
	"match-only":               {"FAIL come in from; rule @0 `match in log from <ThreatSTOP-Block> to any` decides nothing", "FAIL go out to; not blocked"},
	"nat-and-rdr":              {"ok come in from", "ok go out to"},
	"negated-table":            {"warn rule @0; blocks what is not in table", "FAIL come in from; not blocked: rule @1 `pass all", "warn go out to; the firewall itself is not protected"},
	"nested-anchor":            {"ok come in from; @0 in anchor a/b", "ok go out to; @1 in anchor a/b"},
	"no-log":                   {"FAIL come in from; blocked, but not logged: rule @0", "FAIL go out to; blocked, but not logged: rule @1"},
	"non-quick-last":           {"ok come in from", "ok go out to"},
	"non-quick-then-pass":      {"FAIL come in from; not blocked: rule @0; is not quick, and @2 `pass all", "FAIL go out to; rule @1; is not quick, and @2"},
	"not-interface":            {"warn come in from; pass, if on vio0", "warn go out to; pass, if on vio0"},
	"one-interface":            {"warn come in from; every interface other than vio0", "warn go out to; every interface other than vio0"},
	"skip":                     {"ok come in from", "ok go out to", "warn pf looks at no packet on pair0 (set skip)"},
	"vendor":                   {"ok come in from", "ok go out to", "note rule @0; opens every port to the addresses of the allow lists", "note rule @1"},
	"wildcard-anchor":          {"ok come in from; @0 in anchor threatstop/in", "ok go out to; @0 in anchor threatstop/out"},
}

func TestRecordedRulesets(t *testing.T) {
	for _, rec := range readRecorded(t) {
		t.Run(rec.Name, func(t *testing.T) {
			got := Rules(rec.ruleset(t), rec.options())
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
		ok = got[i].Level.String() == level && (got[i].Level == OK) == (got[i].Do == nil)
		for _, p := range strings.Split(phrases, "; ") {
			ok = ok && strings.Contains(got[i].Text, p)
		}
	}
	if !ok {
		t.Errorf("%s\nfound:\n%swant:\n%s", conf, write(got), strings.Join(want, "\n"))
	}
}
