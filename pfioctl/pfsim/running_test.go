package pfsim

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"example.org/threatstopd/pfioctl"
	"example.org/threatstopd/pfioctl/internal/abi"
)

// integration skips a test that works on the running kernel, unless it was
// asked for: THREATSTOP_INTEGRATION=1 says that it may be done here.
func integration(t *testing.T) (pfioctl.Device, *abi.Layout) {
	t.Helper()
	if os.Getenv("THREATSTOP_INTEGRATION") != "1" {
		t.Skip("THREATSTOP_INTEGRATION=1 is not set")
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	pf, err := pfioctl.Open()
	if err != nil {
		t.Skip(err)
	}
	defer pf.Close()
	layout, err := abi.Host(pf.Release())
	if err != nil {
		t.Fatal(err)
	}
	d, err := pfioctl.OpenDevice()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d, layout
}

// TestRunningKernel asks the harmless part of the transcripts of the kernel that
// runs, which pfsim is held against in TestTranscripts. Nothing but tables of
// our own is touched, and no rule and no packet sees them.
func TestRunningKernel(t *testing.T) {
	d, layout := integration(t)
	if r := layout.Release; r == "6.9" || strings.HasPrefix(r, "7.") && r < "7.4" {
		t.Skipf("OpenBSD %s counts tables otherwise than the releases since 7.4 that the transcripts are of", r)
	}
	for _, s := range harmlessEpisodes(t) {
		if len(s.lines) > 0 {
			t.Run(s.name, func(t *testing.T) { runEpisode(t, d, layout, s) })
		}
	}
}

// TestRunningKernelIsLeft removes what a run that was interrupted has left.
func TestRunningKernelIsLeft(t *testing.T) {
	d, layout := integration(t)
	removeOwnTables(t, pfOn(t, d, layout.Release))
}

// TestHarmlessEpisodes does on pfsim what TestRunningKernel does on a kernel, on
// a host with tables of the names that the transcripts have, and looks whether
// it is left as it was.
func TestHarmlessEpisodes(t *testing.T) {
	for _, release := range []string{"7.4", "7.8"} {
		t.Run(release, func(t *testing.T) {
			k := New(Options{Release: release, MaxEntries: 20000, MaxTables: 100})
			d := k.Open(true)
			defer d.Close()
			pf := newPF(t, d, k)
			host := []pfioctl.Table{{Name: "bl"}, {Name: "allow"}, {Name: "bruteforce"}, {Name: "x", Anchor: "a/b"}, {Name: testPrefix + "bl", Anchor: "fw"}}
			if _, err := pf.AddTables(pfioctl.TablePersist, host...); err != nil {
				t.Fatal(err)
			}
			for _, table := range host {
				if _, err := pf.Add(table, prefixEntry("192.0.2.0/24"), prefixEntry("2001:db8::/32")); err != nil {
					t.Fatal(err)
				}
			}
			before := everything(t, k, pf)
			ran := 0
			for _, s := range harmlessEpisodes(t) {
				if len(s.lines) == 0 {
					continue
				}
				if !t.Run(s.name, func(t *testing.T) {
					runEpisode(t, d, k.layout, s)
					ran++
				}) {
					return
				}
				if after := everything(t, k, pf); after != before {
					t.Fatalf("%s: the host was\n%s\nand is\n%s", s.name, before, after)
				}
			}
			if ran < 150 {
				t.Errorf("%d episodes ran to their end", ran)
			}
		})
	}
}

// TestHarmlessWhereCrowded: on a host with little room nothing is asked that
// would wait for ever.
func TestHarmlessWhereCrowded(t *testing.T) {
	for _, o := range []Options{{MaxEntries: 60, MaxTables: 100}, {MaxEntries: 1, MaxTables: 100}, {MaxEntries: 20000, MaxTables: 3}} {
		k := New(o)
		d := k.Open(true)
		defer d.Close()
		skipped := 0
		for _, s := range harmlessEpisodes(t) {
			t.Run(s.name, func(t *testing.T) {
				defer func() {
					if t.Skipped() {
						skipped++
					}
				}()
				runEpisode(t, d, k.layout, s)
			})
		}
		if skipped < 5 {
			t.Errorf("%+v: %d episodes skipped", o, skipped)
		}
		if left := ownTables(t, newPF(t, d, k)); left != nil {
			t.Errorf("%+v: %v", o, left)
		}
	}
}

// everything is all that a host would find changed.
func everything(t *testing.T, k *Kernel, pf *pfioctl.PF) string {
	t.Helper()
	var b strings.Builder
	all, err := pf.AllTables()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		fmt.Fprintf(&b, "%s %#x: %d addresses, %d rules, %d anchors, cleared %s\n", s.Table, s.Flags, s.Addresses, s.Rules, s.Anchors, s.Cleared)
		if s.Active() {
			if err := k.WriteShow(&b, s.Table, true); err != nil {
				t.Fatal(err)
			}
		}
	}
	fmt.Fprintln(&b, slices.Sorted(maps.Keys(k.anchors)), k.inUse, k.limit, k.status)
	return b.String()
}

func prefixEntry(text string) pfioctl.Addr { return pfioctl.Addr{Prefix: prefixOf(text)} }
