package apply

import (
	"errors"
	"iter"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/pfioctl"
	"example.org/threatstopd/pfioctl/pfsim"
)

func hosts(from, n int) *policy.Prefixes {
	var ps policy.Prefixes
	for i := range n {
		ps = append(ps, netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(from + i)}), 32))
	}
	return &ps
}

func TestRunAbsentList(t *testing.T) {
	gone := errors.New("no such list")
	for _, c := range []struct {
		name    string
		kind    policy.Kind
		copy    policy.Entries
		after   time.Duration // between the run that finds it absent first and this one
		force   bool
		block   int // entries of the block table
		allow   int
		held    bool // noted in the file
		missing bool
	}{
		{name: "a block list without a copy", kind: policy.Block, block: 90},
		{name: "a block list keeps its copy", kind: policy.Block, copy: hosts(200, 10), after: time.Hour, block: 100, held: true},
		{name: "but not for ever", kind: policy.Block, copy: hosts(200, 10), after: 25 * time.Hour, block: 90},
		{name: "nor when the owner insists", kind: policy.Block, copy: hosts(200, 10), force: true, block: 90},
		{name: "an allow list never seen holds the policy", kind: policy.Allow, missing: true},
		{name: "an allow list keeps its copy", kind: policy.Allow, copy: hosts(200, 10), after: time.Hour, block: 90, allow: 10, held: true},
		{name: "an allow list that is gone", kind: policy.Allow, copy: hosts(200, 10), after: 25 * time.Hour, block: 90},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, pfsim.Options{})
			now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
			o := &Options{
				Guard: policy.Guard{MaxShrink: 0.5, Hold: 24 * time.Hour}, Now: func() time.Time { return now },
				Block: b.target, Allow: Target{Table: pfioctl.Table{Name: "allow"}, File: filepath.Join(t.TempDir(), "allow"), Load: true},
			}
			lists := []List{
				{List: policy.List{Name: "there", Kind: policy.Block, Entries: hosts(0, 90)}},
				{List: policy.List{Name: "gone", Kind: c.kind, Entries: c.copy}, Err: gone, Absent: true},
			}
			b.Run(o, lists, policy.Facts{}, false, nil)
			now = now.Add(c.after)
			out := b.Run(o, lists, policy.Facts{}, c.force, nil)
			if c.missing {
				if out.Err == nil || out.Policy != nil {
					t.Errorf("the run made %+v, %v", out.Policy, out.Err)
				}
				return
			}
			if out.Err != nil || out.OK() {
				t.Errorf("%v; all is well: %v", out.Err, out.OK())
			}
			if n, m := out.Policy.Block.Len(), out.Policy.Allow.Len(); n != c.block || m != c.allow {
				t.Errorf("%d entries to block, %d to allow, want %d, %d", n, m, c.block, c.allow)
			}
			if held, err := heldIn(o.Target(c.kind).File); err != nil || held.IsZero() == c.held {
				t.Errorf("held since %v, %v", held, err)
			}
			if x := out.Lists[1].Entries; c.copy != nil && (x.Len() > 0) != c.held {
				t.Errorf("the copy has %d entries", x.Len())
			}
		})
	}
}

// A policy that pf refuses is not in force, even if what is has as many entries; and only a policy that is
// there stays.
func TestRunRefused(t *testing.T) {
	k := pfsim.New(pfsim.Options{MaxEntries: 100})
	e := New(k.OpenPF())
	o := &Options{Block: Target{Table: block, File: filepath.Join(t.TempDir(), "block"), Load: true}}
	run := func(lists ...List) *Outcome { return e.Run(o, lists, policy.Facts{}, false, nil) }
	list := func(p *policy.Prefixes) List {
		return List{List: policy.List{Name: "a", Kind: policy.Block, Entries: p}}
	}
	lost := List{List: policy.List{Name: "a", Kind: policy.Block}, Err: errors.New("server failure")}
	if err := run(lost).Err; err == nil || err.Error() != "1 of 1 lists could not be fetched" {
		t.Errorf("without a policy: %v", err)
	}
	if out := run(list(hosts(0, 60))); !out.Enforced() {
		t.Fatal(out.Tables)
	}
	if err := run(lost).Err; err == nil || err.Error() != "1 of 1 lists could not be fetched: the policy in force stays" {
		t.Errorf("with a policy: %v", err)
	}
	k.SetLimit(pfioctl.LimitTableEntries, 10)
	out := run(list(hosts(100, 60)))
	if b := out.Tables[0]; out.Enforced() || !errors.Is(b.Err, syscall.ENOMEM) || b.InPF() || b.InForce != 60 {
		t.Errorf("in pf: %v, %d entries, %v", b.InPF(), b.InForce, b.Err)
	}
}

// What pf says of every address is what the lists and exceptions mean.
func TestRunVerdicts(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 11))
	const n = 256
	random := func() netip.Prefix {
		a := netip.AddrFrom4([4]byte{192, 0, 2, byte(r.IntN(n))})
		return netip.PrefixFrom(a, 24+r.IntN(9)).Masked()
	}
	var all []netip.Addr
	for i := range n {
		all = append(all, netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}))
	}
	for round := range 60 {
		b := newBench(t, pfsim.Options{})
		o := policy.Options{Aggregate: round%2 == 0}
		var lists []policy.List
		for i := range 4 {
			var es signed
			for range r.IntN(20) {
				es = append(es, pfioctl.Addr{Prefix: random(), Not: r.IntN(4) == 0})
			}
			lists = append(lists, policy.List{Name: string(rune('a' + i)), Kind: policy.Kind(i / 2), Entries: es})
		}
		except := []policy.Exception{{Prefix: random(), Why: "test"}}
		p, err := policy.Build(lists, except, o)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Apply(b.target, p.Block, head); err != nil {
			t.Fatal(err)
		}
		got, err := b.pf.Test(b.target.Table, all...)
		if err != nil {
			t.Fatal(err)
		}
		for i, a := range all {
			if want := policy.Explain(netip.PrefixFrom(a, a.BitLen()), lists, except, o).Blocked; got[i].Match != want {
				t.Fatalf("%v: pf says %v (by %v), want %v", a, got[i].Match, got[i].Entry, want)
			}
		}
	}
}

// signed are entries as pf has them.
type signed []pfioctl.Addr

func (s signed) Len() int { return len(s) }

func (s signed) All() iter.Seq2[netip.Prefix, bool] {
	return func(yield func(netip.Prefix, bool) bool) {
		for _, a := range s {
			if !yield(a.Prefix, a.Not) {
				return
			}
		}
	}
}
