package check

import (
	"strings"
	"testing"

	"example.org/threatstopd/agent/internal/rules"
	"example.org/threatstopd/pfioctl"
)

func TestJudgePfConf(t *testing.T) {
	tables := []definition{{block, "/var/db/block", true}, {allow, "/var/db/allow", false}}
	good := "table <ThreatSTOP-Block> persist file \"/var/db/block\"\n"
	for name, tc := range map[string]struct {
		text string
		want []string
	}{
		"as advised":                      {good + "table <ThreatSTOP-Allow> persist file \"/var/db/allow\"\n", []string{"ok pf.conf:1: table <ThreatSTOP-Block>; loaded from /var/db/block", "ok pf.conf:2: table <ThreatSTOP-Allow>"}},
		"the block table alone":           {good, []string{"ok pf.conf:1"}},
		"nothing":                         {"pass\n", []string{"FAIL does not define table <ThreatSTOP-Block>"}},
		"in a comment":                    {"# " + good, []string{"FAIL does not define"}},
		"in a comment that goes on":       {"# \\\n" + good, []string{"FAIL does not define"}},
		"behind another statement's list": {"table <x> {\n 10.0.0.1, # one\n 10.0.0.2\n}\n" + good, []string{"ok pf.conf:5"}},
		"over several lines":              {"table \\\n <ThreatSTOP-Block> \\\n persist file '/var/db/block'", []string{"ok pf.conf:1"}},
		"without blanks":                  {"table<ThreatSTOP-Block>persist file\"/var/db/block\"", []string{"ok pf.conf:1"}},
		"in an inline anchor only":        {"anchor x {\n" + good + "}\n", []string{"FAIL does not define"}},
		"in an include":                   {"include \"/etc/pf.tables\"\n", []string{"skip line 1 includes"}},
		"its name by a macro":             {"t = \"ThreatSTOP-Block\"\ntable <$t> persist\n", []string{"skip a macro names a table in line 2"}},
		"by a macro":                      {"f = \"/var/db/block\"\ntable <ThreatSTOP-Block> persist file $f\n", []string{"skip table <ThreatSTOP-Block>: not known what it is loaded from: a macro"}},
		"no file":                         {"table <ThreatSTOP-Block> persist\n", []string{"warn pf.conf:1; empty from a boot"}},
		"another file":                    {"table <ThreatSTOP-Block> persist file \"/etc/block\"\n", []string{"FAIL loaded from /etc/block, the policy is written to /var/db/block"}},
		"two files":                       {"table <ThreatSTOP-Block> persist file \"/var/db/block\" file \"/etc/mine\"\n", []string{"FAIL loaded from /var/db/block, /etc/mine"}},
		"const":                           {"table <ThreatSTOP-Block> persist const file \"/var/db/block\"\n", []string{"FAIL const"}},
		"not persist":                     {"table <ThreatSTOP-Block> file \"/var/db/block\"\n", []string{"warn not persist"}},
		"persist in the list only":        {"table <ThreatSTOP-Block> file \"/var/db/block\" { persist }\n", []string{"warn not persist"}},
		"limit above":                     {"set limit table-entries 400000\n" + good, []string{"ok pf.conf:2"}},
		"limit below":                     {good + "set limit table-entries 400000\n", []string{"ok pf.conf:1", "FAIL pf.conf:2: `set limit table-entries`; below"}},
		"limit in a list below":           {good + "set limit { states 20000,\n table-entries 400000 }\n", []string{"ok pf.conf:1", "FAIL pf.conf:2"}},
		"another limit below":             {good + "set limit states 20000\n", []string{"ok pf.conf:1"}},
		"a quote not closed":              {"x = \"abc\n" + good, []string{"skip not closed"}},
		"a brace not closed":              {"table <x> {\n" + good, []string{"skip not closed"}},
	} {
		t.Run(name, func(t *testing.T) {
			compare(t, tc.text, judgePfConf("pf.conf", tc.text, tables), tc.want)
		})
	}
}

// For any text, every line that is reported exists, and a table line put
// in front is found.
func FuzzScanPfConf(f *testing.F) {
	for _, s := range []string{
		"table <a> persist file \"/x\"\nset limit table-entries 5\n", "anchor \"x\" {\n table <b> { 10/8 }\n}\n",
		"# c \\\n d\npass in on $ext_if from { 1, 2 } # x\n", "include '/etc/y'", "table <c> \\\n const {\n\n}", "\"", "{", "}}}\ntable <t> x",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		lines := strings.Count(text, "\n") + 1
		all, _ := scanPfConf(text)
		for _, s := range all {
			if s.line < 1 || s.line > lines || len(s.words) == 0 {
				t.Fatalf("%+v of %d lines", s, lines)
			}
		}
		d := definition{table: pfioctl.Table{Name: "front"}, file: "/var/db/front"}
		with, _ := scanPfConf(d.line() + "\n" + text)
		if level, what := d.judge(with[0]); len(with) != len(all)+1 || with[0].line != 1 || level != rules.OK {
			t.Fatalf("%+v without, %+v with a line in front: %s", all, with, what)
		}
	})
}

// compare holds findings against "level phrase; phrase", one for each.
func compare(t *testing.T, conf string, got []rules.Finding, want []string) {
	t.Helper()
	ok := len(got) == len(want)
	for i := 0; ok && i < len(got); i++ {
		level, phrases, _ := strings.Cut(want[i], " ")
		ok = got[i].Level.String() == level
		for _, p := range strings.Split(phrases, "; ") {
			ok = ok && strings.Contains(got[i].Text, p)
		}
	}
	if !ok {
		t.Errorf("%s\nfound:\n%v\nwant:\n%s", conf, got, strings.Join(want, "\n"))
	}
}
