package pfsim

import (
	"compress/gzip"
	"encoding/json"
	"os"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"example.org/threatstopd/pfioctl"
)

// TestRulesAsLoaded loads rulesets that were loaded on a running 7.8/amd64 and
// compares what DIOCGETRULE says of them with what it said there.
func TestRulesAsLoaded(t *testing.T) {
	f, err := os.Open("../testdata/rulesets.json.gz")
	if os.IsNotExist(err) {
		t.Skip("the test data of the package above is not on this host")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	var recorded struct {
		Rulesets []struct {
			Name    string
			Anchors []struct {
				Anchor string
				Rules  []struct{ Rule pfioctl.Rule }
			}
		}
	}
	if err := json.NewDecoder(z).Decode(&recorded); err != nil {
		t.Fatal(err)
	}

	bad, good := Peer{Table: "ThreatSTOP-Block"}, Peer{Table: "ThreatSTOP-Allow"}
	lean := []Rule{
		{Action: block, Dir: in, Log: true, Quick: true, From: bad},
		{Action: block, Dir: out, Log: true, Quick: true, To: bad},
		{},
	}
	with := func(change func(r *Rule)) Ruleset {
		rules := slices.Clone(lean)
		change(&rules[0])
		change(&rules[1])
		return Ruleset{Rules: rules}
	}
	ours := map[string]Ruleset{
		"lean":          {Rules: lean},
		"in-only":       {Rules: []Rule{lean[0], {}}},
		"vendor":        {Rules: append([]Rule{{Dir: in, Quick: true, From: good}, {Dir: out, Quick: true, To: good}}, lean...)},
		"inet-only":     with(func(r *Rule) { r.AF = afInet }),
		"no-log":        with(func(r *Rule) { r.Log = false }),
		"log-pflog1":    with(func(r *Rule) { r.LogIf = 1 }),
		"one-interface": with(func(r *Rule) { r.Iface = "vio0" }),
		"not-interface": with(func(r *Rule) { r.Iface, r.IfaceNot = "vio0", true }),
		"negated-table": {Rules: []Rule{{Action: block, Dir: in, Log: true, Quick: true, From: Peer{Table: bad.Table, Not: true}}, {}}},
		"match-only":    {Rules: []Rule{{Action: match, Dir: in, Log: true, From: bad}, {}}},
		"anchor":        {Rules: []Rule{{Anchor: "threatstop"}, {}}, Anchors: map[string][]Rule{"threatstop": lean[:2]}},
		"nested-anchor": {Rules: []Rule{{Anchor: "a"}, {}}, Anchors: map[string][]Rule{"a": {{Anchor: "b"}}, "a/b": lean[:2]}},
		"wildcard-anchor": {Rules: []Rule{{Anchor: "threatstop/*"}, {}}, Anchors: map[string][]Rule{
			"threatstop/in": lean[:1], "threatstop/out": lean[1:2]}},
	}
	equal := cmp.Comparer(func(a, b interface{ String() string }) bool { return a.String() == b.String() })
	compared := 0
	for _, rs := range recorded.Rulesets {
		mine, ok := ours[rs.Name]
		if !ok {
			continue
		}
		compared++
		k := New(Options{})
		mine.Tables = []TableLine{
			{pfioctl.Table{Name: bad.Table}, flagPersist, nil},
			{pfioctl.Table{Name: good.Table}, flagPersist, nil},
		}
		load(t, k, mine)
		all, err := k.OpenPF().Rules()
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]*pfioctl.Ruleset{}
		collect(got, all)
		for _, a := range rs.Anchors {
			mine := got[a.Anchor]
			if mine == nil || len(mine.Rules) != len(a.Rules) {
				t.Errorf("%s, anchor %q: %v, want %d rules", rs.Name, a.Anchor, mine, len(a.Rules))
				continue
			}
			for nr, r := range a.Rules {
				want, got := r.Rule, mine.Rules[nr]
				got.Called = nil
				want.Evaluations, want.Packets, want.Bytes = 0, [2]uint64{}, [2]uint64{} // there were packets
				if diff := cmp.Diff(want, got, equal); diff != "" {
					t.Errorf("%s, anchor %q, rule %d (- as loaded there, + here):\n%s", rs.Name, a.Anchor, nr, diff)
				}
			}
		}
	}
	if compared != len(ours) {
		t.Errorf("%d rulesets compared, want %d", compared, len(ours))
	}
}

// collect puts a ruleset and those that it calls into all.
func collect(all map[string]*pfioctl.Ruleset, rs *pfioctl.Ruleset) {
	all[rs.Anchor] = rs
	for _, r := range rs.Rules {
		for _, called := range r.Called {
			collect(all, called)
		}
	}
}
