package daemon

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/rs/zerolog"

	"example.org/threatstopd/agent/internal/apply"
	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/agent/internal/report"
)

// Which policy a new one is compared with, poll by poll.
func TestWhatWasInForceBefore(t *testing.T) {
	set := func(s string) *policy.Set {
		p, err := policy.Build([]policy.List{{Name: "test", Entries: policy.Prefixes{netip.MustParsePrefix(s)}}}, nil, policy.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return p.Block
	}
	d := New(Options{Log: zerolog.Nop()})
	d.setup, d.report = new(Setup), new(report.Client)
	// What the kernel had at the start is matched against, and is no policy.
	d.match.set = set("10.9.0.0/16")
	for _, poll := range []struct {
		name  string
		set   string
		steps int
		load  bool
		err   error
		want  string // an address of the policy before; none: nothing is to be killed
	}{
		{"first", "10.1.0.0/16", 1, true, nil, ""},
		{"unchanged", "10.1.0.0/16", 0, true, nil, ""},
		{"changed", "10.2.0.0/16", 1, true, nil, "10.1.0.1"},
		{"pf refuses", "10.3.0.0/16", 0, true, errors.New("refused"), ""},
		{"set in two steps", "10.3.0.0/16", 2, true, nil, "10.2.0.1"},
		{"set, and the file is not", "10.4.0.0/16", 1, true, errors.New("disk full"), "10.3.0.1"},
		{"the file too", "10.4.0.0/16", 0, true, nil, ""},
		{"unchanged", "10.4.0.0/16", 0, true, nil, ""},
		{"only the file is written", "10.5.0.0/16", 0, false, nil, ""},
	} {
		x := apply.Table{Kind: policy.Block, Set: set(poll.set), Load: poll.load, Err: poll.err,
			Result: apply.Result{Steps: poll.steps}}
		if poll.steps > 0 || poll.err == nil { // pf has it
			x.InForce, x.Holds = x.Set.Len(), poll.load
		}
		d.tookTable(x)
		before := d.matchTables(&apply.Outcome{Tables: []apply.Table{x}})
		if before == nil {
			if poll.want != "" {
				t.Errorf("%s: nothing was in force before", poll.name)
			}
			continue
		}
		if poll.want == "" {
			t.Errorf("%s: something was in force before", poll.name)
		} else if _, _, ok := before.Lookup(netip.MustParseAddr(poll.want)); !ok {
			t.Errorf("%s: %s was not in force before", poll.name, poll.want)
		}
	}
}
