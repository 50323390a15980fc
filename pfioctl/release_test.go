package pfioctl_test

import (
	"errors"
	"strings"
	"testing"
	"unsafe"

	"example.org/threatstopd/pfioctl"
	"example.org/threatstopd/pfioctl/pfsim"
)

// filtered loads a ruleset with tables and anchors.
func filtered(t *testing.T, k *pfsim.Kernel) {
	t.Helper()
	block := pfsim.Rule{Action: pfioctl.ActionBlock, Dir: pfioctl.DirIn, Quick: true, Log: true, From: pfsim.Peer{Table: "bad"}}
	err := k.LoadRules(pfsim.Ruleset{
		Rules:   []pfsim.Rule{block, {Anchor: "a/*"}, {Iface: "em0", AF: pfioctl.AFInet, Proto: 6}},
		Anchors: map[string][]pfsim.Rule{"a/b": {block, {From: pfsim.Peer{Table: "own"}}}},
		Tables: []pfsim.TableLine{
			{Table: pfioctl.Table{Name: "bad"}, Flags: pfioctl.TablePersist, File: strings.NewReader("10/8 10.1/16")},
			{Table: pfioctl.Table{Anchor: "a/b", Name: "own"}, Flags: pfioctl.TablePersist, File: strings.NewReader("192.0.2.1")},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A release that is not known is used with the structs of 8.0 if all answers agree with
// them; otherwise status, rules and states are not known, and never wrong.
func TestUnknownRelease(t *testing.T) {
	const assumed = "OpenBSD 8.1 is newer than this program: assuming the structures of 8.0"
	const unknown = "OpenBSD 8.1 is newer than this program: pf's status and rules cannot be read ("
	for _, tt := range []struct {
		name    string
		release string
		structs pfsim.Structs
		running bool
		rules   bool
		notice  string
	}{
		{"known", "8.0", pfsim.SameStructs, true, true, ""},
		{"the same", "8.1", pfsim.SameStructs, true, true, assumed},
		{"the same, without rules to compare", "8.1", pfsim.SameStructs, true, false, unknown},
		{"the same, disabled", "8.1", pfsim.SameStructs, false, true, assumed},
		{"longer", "8.1", pfsim.GrownStructs, true, true, unknown},
		{"longer, without rules", "8.1", pfsim.GrownStructs, true, false, unknown},
		{"status moved", "8.1", pfsim.MovedStatus, true, true, unknown},
		{"status moved, disabled", "8.1", pfsim.MovedStatus, false, true, unknown},
		{"rule moved", "8.1", pfsim.MovedRule, true, true, unknown},
		{"rule reordered", "8.1", pfsim.ReorderedRule, true, true, unknown},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k := pfsim.New(pfsim.Options{Release: tt.release, Structs: tt.structs})
			k.SetRunning(tt.running)
			if tt.rules {
				filtered(t, k)
			}
			pf := k.OpenPF()
			if got := pf.Notice(); got != tt.notice && (tt.notice != unknown || !strings.HasPrefix(got, unknown)) {
				t.Errorf("notice %q, want %q", got, tt.notice)
			}
			if n := k.OpenTransactions(); n != 0 {
				t.Errorf("%d transactions left open", n)
			}
			// Tables work in any case.
			table := pfioctl.Table{Name: "more"}
			if _, err := pf.AddTables(0, table); err != nil {
				t.Fatal(err)
			}
			if d, err := pf.Set(table, 1, seq(entries("192.0.2.9/32"))); err != nil || d.Added != 1 {
				t.Errorf("set: %+v, %v", d, err)
			}
			if got, err := pf.Get(table); err != nil || len(got) != 1 {
				t.Errorf("get: %v, %v", got, err)
			}
			status, err := pf.Status()
			_, rulesErr := pf.Rules()
			_, ifacesErr := pf.SkippedInterfaces()
			statesErr := pf.EachState(func(pfioctl.State, int) bool { return true })
			for what, err := range map[string]error{"status": err, "rules": rulesErr, "interfaces": ifacesErr, "states": statesErr} {
				if want := tt.notice == unknown; errors.Is(err, pfioctl.ErrUnknownRelease) != want || err != nil && !want {
					t.Errorf("%s: %v", what, err)
				}
			}
			if tt.notice != unknown && status.Running != tt.running {
				t.Errorf("running %v, want %v", status.Running, tt.running)
			}
			pf.Pledged()
			if _, err := pf.Status(); errors.Is(err, pfioctl.ErrPledged) {
				t.Errorf("status under pledge: %v", err)
			}
		})
	}
}

// Tables that change while the answers are compared are no reason to doubt them.
func TestUnknownReleaseWhileTablesChange(t *testing.T) {
	k := pfsim.New(pfsim.Options{Release: "8.1"})
	filtered(t, k)
	d := &changing{Device: k.Open(true), k: k, pf: k.OpenPF()}
	pf, err := pfioctl.New(d, "8.1")
	if err != nil {
		t.Fatal(err)
	}
	if want := "OpenBSD 8.1 is newer than this program: assuming the structures of 8.0"; pf.Notice() != want {
		t.Errorf("notice %q, want %q", pf.Notice(), want)
	}
}

// changing empties the block table once, when rules are read.
type changing struct {
	pfioctl.Device
	k    *pfsim.Kernel
	pf   *pfioctl.PF
	done bool
}

func (d *changing) Ioctl(req uint, arg unsafe.Pointer) error {
	err := d.Device.Ioctl(req, arg)
	if name, _ := d.k.RequestName(req, nil); name == "DIOCGETRULES" && !d.done {
		d.done = true
		if _, err := d.pf.Set(pfioctl.Table{Name: "bad"}, 1, seq(entries("192.0.2.9/32"))); err != nil {
			return err
		}
	}
	return err
}
