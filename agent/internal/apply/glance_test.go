package apply

import (
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.org/threatstopd/pfioctl"
	"example.org/threatstopd/pfioctl/pfsim"
)

// Whether pf enforces the policy is known on every release that is known, and on a later
// one if its structs are those of 8.0; else the counters of the table show that it does, and
// nothing shows that it does not.
func TestGlanceByRelease(t *testing.T) {
	for _, k := range []struct {
		release string
		structs pfsim.Structs
		known   bool
	}{
		{"7.2", 0, true}, {"7.8", 0, true}, {"7.9", 0, true}, {"8.0", 0, true},
		{"8.1", pfsim.SameStructs, true},
		{"8.1", pfsim.GrownStructs, false}, {"8.1", pfsim.MovedStatus, false}, {"8.1", pfsim.MovedRule, false},
	} {
		for _, tt := range []struct {
			name           string
			running, rules bool
			packets        bool
			enforced, not  bool // as it is; where the status is not known, as below
			unknownEnf     bool
			unknownNot     bool
		}{
			{"enabled, with packets", true, true, true, true, false, true, false},
			{"enabled, without packets", true, true, false, true, false, false, false},
			{"disabled", false, true, true, false, true, false, false},
			{"without rules", true, false, true, false, true, false, true},
		} {
			name := k.release + []string{"", " grown", " status moved", " rule moved"}[k.structs] + ", " + tt.name
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b := newBench(t, pfsim.Options{Release: k.release, Structs: k.structs})
					b.kernel.SetRunning(true)
					rules := []pfsim.Rule{{}}
					if tt.rules {
						rules = append(rules, pfsim.Rule{Action: pfioctl.ActionBlock, From: pfsim.Peer{Table: block.Name}})
					}
					err := b.kernel.LoadRules(pfsim.Ruleset{Rules: rules, Tables: []pfsim.TableLine{{Table: block, Flags: pfioctl.TablePersist, File: strings.NewReader("192.0.2.1")}}})
					if err != nil {
						t.Fatal(err)
					}
					e := New(b.kernel.OpenPF())
					b.kernel.SetRunning(tt.running)
					var g Glance
					for range 3 {
						if tt.packets {
							b.kernel.Verdict(pfsim.Packet{Src: netip.MustParseAddr("10.0.0.1"), Dst: netip.MustParseAddr("10.0.0.2"), Dir: pfioctl.DirIn, Iface: "em0"})
						}
						if g, err = e.Glance(block, pfioctl.Table{Name: "none"}); err != nil {
							t.Fatal(err)
						}
						time.Sleep(time.Minute)
					}
					enforced, not := tt.enforced, tt.not
					if !k.known {
						enforced, not = tt.unknownEnf, tt.unknownNot
					}
					if g.Enforced() != enforced || (g.NotEnforced() != "") != not || (g.Unsure() != "") != (!enforced && !not) {
						t.Errorf("enforced %v, not enforced %q, unsure %q", g.Enforced(), g.NotEnforced(), g.Unsure())
					}
					if (g.Notice != "") != (k.release == "8.1") {
						t.Errorf("notice %q", g.Notice)
					}
					// Counters that stand still do not prove for long that pf is enabled.
					time.Sleep(2 * time.Minute)
					if g, err = e.Glance(block, pfioctl.Table{Name: "none"}); err != nil || !k.known && g.Enforced() {
						t.Errorf("later: %+v, %v", g, err)
					}
				})
			})
		}
	}
}
