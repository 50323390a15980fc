package pfioctl_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"example.org/threatstopd/pfioctl"
	"example.org/threatstopd/pfioctl/pfsim"
)

var releases = []string{"6.9", "7.0", "7.1", "7.2", "7.3", "7.4", "7.5", "7.6", "7.7", "7.8", "7.9", "8.0"}

var bad = pfioctl.Table{Name: "bad"}

// simulated returns a kernel with the table bad, and pf on it.
func simulated(t testing.TB, o pfsim.Options) (*pfsim.Kernel, *pfioctl.PF) {
	t.Helper()
	k := pfsim.New(o)
	pf := k.OpenPF()
	if _, err := pf.AddTables(pfioctl.TableCounters, bad); err != nil {
		t.Fatal(err)
	}
	return k, pf
}

func contents(t testing.TB, pf *pfioctl.PF, table pfioctl.Table) []pfioctl.Addr {
	t.Helper()
	a, err := pf.Get(table)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// seq is what Set takes.
func seq(all []pfioctl.Addr) iter.Seq2[netip.Prefix, bool] {
	return func(yield func(netip.Prefix, bool) bool) {
		for _, e := range all {
			if !yield(e.Prefix, e.Not) {
				return
			}
		}
	}
}

// inOrder sorts entries as the kernel lists them.
func inOrder(in []pfioctl.Addr) []pfioctl.Addr {
	out := slices.Clone(in)
	slices.SortFunc(out, func(a, b pfioctl.Addr) int {
		if c := a.Prefix.Addr().Compare(b.Prefix.Addr()); c != 0 {
			return c
		}
		return b.Prefix.Bits() - a.Prefix.Bits()
	})
	return out
}

// random makes n different entries of both families that nest a lot.
func random(r *rand.Rand, n int) []pfioctl.Addr {
	seen := make(map[netip.Prefix]bool)
	var out []pfioctl.Addr
	for len(out) < n {
		var b [16]byte
		binary.BigEndian.PutUint64(b[:], r.Uint64()&0x0f0f0f0f<<32|0x2001<<48)
		ip := netip.AddrFrom16(b)
		if r.IntN(2) == 0 {
			ip = netip.AddrFrom4([4]byte{10, b[1], byte(r.IntN(16)), byte(r.IntN(4))})
		}
		p, err := ip.Prefix(r.IntN(ip.BitLen() + 1))
		if err != nil || seen[p] {
			continue
		}
		seen[p] = true
		out = append(out, pfioctl.Addr{Prefix: p, Not: r.IntN(3) == 0})
	}
	return out
}

// Whatever a table held, after a change it holds what was asked for, and the
// kernel's numbers are the difference.
func TestTableFollowsRequests(t *testing.T) {
	for _, release := range releases {
		t.Run(release, func(t *testing.T) {
			r := rand.New(rand.NewPCG(7, 8))
			k, pf := simulated(t, pfsim.Options{Release: release})
			want := map[netip.Prefix]bool{}
			for range 60 {
				part := random(r, r.IntN(60))
				switch r.IntN(4) {
				case 0, 1:
					var d pfioctl.Delta
					next := map[netip.Prefix]bool{}
					for _, e := range part {
						not, ok := want[e.Prefix]
						if !ok {
							d.Added++
						} else if not != e.Not {
							d.Changed++
						}
						next[e.Prefix] = e.Not
					}
					for p := range want {
						if _, ok := next[p]; !ok {
							d.Deleted++
						}
					}
					got, err := pf.Set(bad, r.IntN(100), seq(part))
					if err != nil || got != d {
						t.Fatalf("set: %+v, %v, want %+v", got, err, d)
					}
					want = next
				case 2:
					n, conflicts := 0, 0
					for _, e := range part {
						if not, ok := want[e.Prefix]; !ok {
							n++
							want[e.Prefix] = e.Not
						} else if not != e.Not {
							conflicts++
						}
					}
					got, err := pf.Add(bad, part...)
					if got != n || errors.Is(err, pfioctl.ErrConflict) != (conflicts > 0) || conflicts == 0 && err != nil {
						t.Fatalf("add: %d, %v, want %d and %d conflicts", got, err, n, conflicts)
					}
				case 3:
					n, conflicts := 0, 0
					for p, not := range want {
						if r.IntN(2) == 0 {
							part = append(part, pfioctl.Addr{Prefix: p, Not: not})
						}
					}
					seen := map[netip.Prefix]bool{}
					part = slices.DeleteFunc(part, func(e pfioctl.Addr) bool {
						again := seen[e.Prefix]
						seen[e.Prefix] = true
						return again
					})
					for _, e := range part {
						if not, ok := want[e.Prefix]; ok && not == e.Not {
							n++
							delete(want, e.Prefix)
						} else if ok {
							conflicts++
						}
					}
					got, err := pf.Delete(bad, part...)
					if got != n || errors.Is(err, pfioctl.ErrConflict) != (conflicts > 0) || conflicts == 0 && err != nil {
						t.Fatalf("delete: %d, %v, want %d and %d conflicts", got, err, n, conflicts)
					}
				}
				var entries []pfioctl.Addr
				for p, not := range want {
					entries = append(entries, pfioctl.Addr{Prefix: p, Not: not})
				}
				entries = inOrder(entries)
				if got := contents(t, pf, bad); !slices.Equal(got, entries) {
					t.Fatalf("table %v\nwant  %v", got, entries)
				}
				confined := k.OpenPF()
				confined.Pledged()
				if got, err := confined.Get(bad); err != nil || !slices.Equal(got, entries) {
					t.Fatalf("under pledge %v, %v\nwant %v", got, err, entries)
				}
				if n, _, err := pf.Used(); n != len(entries) || err != nil {
					t.Fatalf("%d entries in use, %v, want %d", n, err, len(entries))
				}
			}
			if n, err := pf.Clear(bad); n != len(want) || err != nil {
				t.Fatalf("clear: %d, %v, want %d", n, err, len(want))
			}
		})
	}
}

func TestLimitOnTheKernel(t *testing.T) {
	for _, release := range releases {
		t.Run(release, func(t *testing.T) {
			k, pf := simulated(t, pfsim.Options{Release: release, MaxEntries: 10})
			hosts := func(from, n int) (all []pfioctl.Addr) {
				for i := range n {
					all = append(all, pfioctl.Addr{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(from + i)}), 32)})
				}
				return all
			}
			if _, err := pf.Set(bad, 6, seq(hosts(0, 6))); err != nil {
				t.Fatal(err)
			}
			// Old and new stand side by side for a moment.
			_, err := pf.Set(bad, 6, seq(hosts(100, 6)))
			var e *pfioctl.Error
			if !errors.As(err, &e) || !errors.Is(err, syscall.ENOMEM) || e.Used != 6 || e.Count != 6 || e.Limit != 10 {
				t.Fatalf("set beyond the limit: %v", err)
			}
			if !strings.HasSuffix(err.Error(), "(used 6 + new 6 > limit 10)") {
				t.Errorf("error %v", err)
			}
			if n, err := pf.Add(bad, hosts(200, 4)...); !errors.Is(err, pfioctl.ErrLimit) || n != 0 {
				t.Fatalf("add at the limit: %d, %v", n, err)
			}
			// The kernel still answers, and the table is as it was.
			if got := contents(t, pf, bad); !slices.Equal(got, hosts(0, 6)) {
				t.Errorf("table %v", got)
			}
			if n, err := pf.Add(bad, hosts(200, 3)...); n != 3 || err != nil {
				t.Errorf("add below the limit: %d, %v", n, err)
			}
			k.SetLimit(pfioctl.LimitTableEntries, 11)
			if n, err := pf.Limit(pfioctl.LimitTableEntries); n != 11 || err != nil {
				t.Errorf("limit %d, %v", n, err)
			}
		})
	}
}

func TestTablesOnTheKernel(t *testing.T) {
	k, pf := simulated(t, pfsim.Options{})
	inner := pfioctl.Table{Anchor: "a/b", Name: "bad"}
	if n, err := pf.AddTables(0, inner, pfioctl.Table{Name: "more"}, bad); n != 2 || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	if _, err := pf.Set(inner, 0, seq(entries("::/0"))); err != nil {
		t.Fatal(err)
	}
	all, err := pf.AllTables()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range all {
		got = append(got, fmt.Sprintf("%v %#x %d", s.Table, s.Flags, s.Addresses))
	}
	if want := []string{"bad 0x65 0", "bad in anchor a/b 0x5 1", "more 0x5 0"}; !slices.Equal(got, want) {
		t.Errorf("tables %q, want %q", got, want)
	}
	if s, err := pf.Tables("a/b"); err != nil || len(s) != 1 || s[0].Table != inner {
		t.Errorf("tables of the anchor: %+v, %v", s, err)
	}
	if _, err := pf.Tables("none"); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("tables of no anchor: %v", err)
	}
	if n, err := pf.DelTables(bad, inner, pfioctl.Table{Name: "none"}); n != 2 || err != nil {
		t.Errorf("deleted %d, %v", n, err)
	}
	if _, err := pf.Get(bad); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("deleted table: %v", err)
	}
	// Names with any bytes go there and come back.
	odd := pfioctl.Table{Anchor: "an anchor/" + strings.Repeat("x", 63), Name: "\xff /" + strings.Repeat("y", 28)}
	if n, err := pf.AddTables(0, odd); n != 1 || err != nil {
		t.Errorf("odd name: %d, %v", n, err)
	}
	if s, err := pf.Tables(odd.Anchor); err != nil || len(s) != 1 || s[0].Table != odd {
		t.Errorf("odd name: %+v, %v", s, err)
	}
	// The kernel calls it success when it could not make the anchor.
	if _, err := pf.AddTables(0, pfioctl.Table{Anchor: strings.Repeat("x", 64), Name: "t"}); err == nil {
		t.Error("table in an anchor that cannot be")
	}
	k.SetSecurelevel(2)
	if _, err := pf.AddTables(0, bad); !errors.Is(err, syscall.EPERM) {
		t.Errorf("at securelevel 2: %v", err)
	}
	if _, err := pf.Clear(odd); err != nil {
		t.Errorf("at securelevel 2: %v", err)
	}
}

func TestReadOnlyDescriptor(t *testing.T) {
	k, pf := simulated(t, pfsim.Options{})
	if _, err := pf.Set(bad, 0, seq(entries("10.0.0.0/8"))); err != nil {
		t.Fatal(err)
	}
	ro, err := pfioctl.New(k.Open(false), k.Release())
	if err != nil {
		t.Fatal(err)
	}
	if got := contents(t, ro, bad); len(got) != 1 {
		t.Errorf("get: %v", got)
	}
	if _, err := ro.Status(); err != nil {
		t.Error(err)
	}
	if _, err := ro.Limit(pfioctl.LimitTables); err != nil {
		t.Error(err)
	}
	a, err := pfioctl.NewAddrs(1)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if err := a.Append(netip.MustParsePrefix("10.0.0.0/8"), false); err != nil {
		t.Fatal(err)
	}
	if d, err := ro.Compare(bad, a); err != nil || !d.Zero() {
		t.Errorf("comparison: %+v, %v", d, err)
	}
	_, err = ro.Clear(bad)
	var e *pfioctl.Error
	if !errors.As(err, &e) || !errors.Is(err, syscall.EACCES) || !strings.Contains(e.Advice(), "open it for writing") {
		t.Errorf("clear: %v", err)
	}
}

func TestCountersOnTheKernel(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	k, pf := simulated(t, pfsim.Options{Now: func() time.Time { return now }})
	if _, err := pf.Set(bad, 0, seq(entries("198.51.100.0/24", "!198.51.100.7/32", "2001:db8::/32"))); err != nil {
		t.Fatal(err)
	}
	err := k.LoadRules(pfsim.Ruleset{
		Tables: []pfsim.TableLine{{Table: bad, Flags: pfioctl.TablePersist | pfioctl.TableCounters}},
		Rules:  []pfsim.Rule{{Action: pfioctl.ActionBlock, Dir: pfioctl.DirIn, From: pfsim.Peer{Table: "bad"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	k.SetRunning(true)
	now = now.Add(time.Hour)
	for range 3 {
		k.Verdict(pfsim.Packet{Src: netip.MustParseAddr("198.51.100.1"), Dst: netip.MustParseAddr("192.0.2.1"), Dir: pfioctl.DirIn, Bytes: 84})
	}
	l, err := pf.AddrStats(bad)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := slices.Collect(l.All())
	want := []pfioctl.AddrStats{
		{Addr: entries("198.51.100.0/24")[0], Counted: true, Cleared: now.Add(-time.Hour)},
		{Addr: entries("!198.51.100.7/32")[0], Cleared: now.Add(-time.Hour)},
		{Addr: entries("2001:db8::/32")[0], Cleared: now.Add(-time.Hour)},
	}
	want[0].Packets[0][0], want[0].Bytes[0][0] = 3, 252
	if !slices.Equal(s, want) {
		t.Errorf("got  %+v\nwant %+v", s, want)
	}
	tables, err := pf.Tables("")
	if err != nil || len(tables) != 1 || tables[0].Match != 3 || tables[0].Packets[0][0] != 3 || tables[0].Rules != 1 {
		t.Errorf("table %+v, %v", tables, err)
	}
}

func TestStatusOnTheKernel(t *testing.T) {
	for _, release := range releases {
		k := pfsim.New(pfsim.Options{Release: release})
		pf := k.OpenPF()
		before, err := pf.Status()
		if err != nil || before.Running {
			t.Errorf("%s: %+v, %v", release, before, err)
		}
		k.SetRunning(true)
		if err := k.LoadRules(pfsim.Ruleset{Rules: []pfsim.Rule{{Action: pfioctl.ActionBlock}}}); err != nil {
			t.Fatal(err)
		}
		after, err := pf.Status()
		if err != nil || !after.Running || after.Checksum == before.Checksum {
			t.Errorf("%s: running, with rules: %+v, %v", release, after, err)
		}
	}
}

// Requests of several goroutines do not get into each other's way.
func TestSeveralAtOnce(t *testing.T) {
	_, pf := simulated(t, pfsim.Options{})
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			own := pfioctl.Table{Name: fmt.Sprint("t", g)}
			if _, err := pf.AddTables(0, own); err != nil {
				t.Error(err)
			}
			want := inOrder(random(rand.New(rand.NewPCG(uint64(g), 1)), 50))
			for range 20 {
				if _, err := pf.Set(own, 50, seq(want)); err != nil {
					t.Error(err)
				}
				a, err := pf.Get(own)
				if err != nil {
					t.Error(err)
					return
				}
				if !slices.Equal(a, want) {
					t.Error("table of another goroutine")
				}
				if _, err := pf.Limit(pfioctl.LimitTables); err != nil {
					t.Error(err)
				}
			}
		}()
	}
	wg.Wait()
}

// A list of the kernel's is decoded entry by entry: reading it takes no memory of the heap.
func TestListIsDecodedAsItIsRead(t *testing.T) {
	_, pf := simulated(t, pfsim.Options{})
	want := inOrder(random(rand.New(rand.NewPCG(1, 1)), 5000))
	if _, err := pf.Set(bad, len(want), seq(want)); err != nil {
		t.Fatal(err)
	}
	l, err := pf.AddrStats(bad)
	if err != nil || l.Len() != len(want) {
		t.Fatalf("%d entries: %v", l.Len(), err)
	}
	read := func() {
		i := 0
		for s := range l.All() {
			if s.Addr != want[i] {
				t.Fatalf("entry %d is %v, want %v", i, s.Addr, want[i])
			}
			i++
		}
	}
	if n := testing.AllocsPerRun(3, read); n > 10 {
		t.Errorf("%v allocations for %d entries", n, len(want))
	}
	for range l.All() {
		l.Close() // ends the sequence
	}
	if l.Len() != 0 || l.Close() != nil {
		t.Error("closed list has entries")
	}
}
