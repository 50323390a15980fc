package policy_test

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"example.org/threatstopd/agent/internal/policy"
)

func prefixes(s string) (ps []netip.Prefix) {
	for f := range strings.FieldsSeq(s) {
		ps = append(ps, netip.MustParsePrefix(f))
	}
	return ps
}

func addrs(s string) (as []netip.Addr) {
	for f := range strings.FieldsSeq(s) {
		as = append(as, netip.MustParseAddr(f))
	}
	return as
}

func TestExceptions(t *testing.T) {
	for _, c := range []struct {
		name  string
		facts policy.Facts
		want  []string // without the defaults
	}{
		{name: "nothing known"},
		{
			name:  "a public address: the host, not its network",
			facts: policy.Facts{Interfaces: []policy.Interface{{Name: "em0", Addresses: prefixes("203.0.113.7/24 2001:db8:1::7/64")}}},
			want:  []string{"203.0.113.7/32 own address of em0", "2001:db8:1::7/128 own address of em0"},
		},
		{
			name: "private and link-local networks",
			facts: policy.Facts{Interfaces: []policy.Interface{
				{Name: "em1", Addresses: prefixes("10.0.0.1/16 172.31.255.1/24 192.168.1.1/24 169.254.3.4/16 fd00:1::1/64")},
			}},
			want: []string{
				"10.0.0.1/32 own address of em1", "172.31.255.1/32 own address of em1", "192.168.1.1/32 own address of em1",
				"169.254.3.4/32 own address of em1", "fd00:1::1/128 own address of em1",
				"10.0.0.0/16 network of em1", "172.31.255.0/24 network of em1", "192.168.1.0/24 network of em1",
				"169.254.0.0/16 network of em1", "fd00:1::/64 network of em1",
			},
		},
		{
			name: "a network that is more than private is not private",
			facts: policy.Facts{Interfaces: []policy.Interface{
				{Name: "em0", Addresses: prefixes("10.0.0.1/7 172.32.0.1/12 192.168.0.1/15 100.64.0.1/10 10.9.9.9/0")},
			}},
			want: []string{
				"10.0.0.1/32 own address of em0", "172.32.0.1/32 own address of em0", "192.168.0.1/32 own address of em0",
				"100.64.0.1/32 own address of em0", "10.9.9.9/32 own address of em0",
			},
		},
		{
			name: "link-local addresses keep no zone; their network is one that is always excepted",
			facts: policy.Facts{
				Interfaces: []policy.Interface{{Name: "em0", Addresses: prefixes("fe80::1/64")}},
				Gateways:   addrs("fe80::2%em0"),
			},
			want: []string{"fe80::1/128 own address of em0", "fe80::2/128 gateway", "fe80::/64 network of em0"},
		},
		{
			name: "a point-to-point link: two hosts",
			facts: policy.Facts{
				Interfaces: []policy.Interface{{Name: "pppoe0", Addresses: prefixes("198.51.100.9/32")}},
				Gateways:   addrs("198.51.100.1"),
			},
			want: []string{"198.51.100.9/32 own address of pppoe0", "198.51.100.1/32 gateway"},
		},
		{
			name: "one address for several reasons",
			facts: policy.Facts{
				Interfaces: []policy.Interface{{Name: "em0", Addresses: prefixes("192.0.2.1/24")}, {Name: "carp0", Addresses: prefixes("192.0.2.1/24 192.0.2.1/24")}},
				Gateways:   addrs("192.0.2.254"),
				Resolvers:  addrs("192.0.2.254 ::ffff:192.0.2.53"),
				Servers:    []policy.Server{{Role: "policy server", Addr: netip.MustParseAddr("192.0.2.53")}, {Role: "proxy", Addr: netip.MustParseAddr("192.0.2.80")}},
				NeverBlock: prefixes("192.0.2.80/32 198.51.100.1/24"),
			},
			want: []string{
				"192.0.2.1/32 own address of em0, own address of carp0", "192.0.2.254/32 gateway, resolver",
				"192.0.2.53/32 resolver, policy server", "192.0.2.80/32 proxy, NEVER_BLOCK", "198.51.100.0/24 NEVER_BLOCK",
			},
		},
		{
			name: "what is no address is passed over",
			facts: policy.Facts{
				Interfaces: []policy.Interface{{Name: "em0", Addresses: []netip.Prefix{{}, netip.MustParsePrefix("0.0.0.0/8"), netip.PrefixFrom(netip.MustParseAddr("192.0.2.1"), 40)}}},
				Gateways:   []netip.Addr{{}, netip.IPv6Unspecified()},
				NeverBlock: []netip.Prefix{{}},
			},
			want: []string{"192.0.2.1/32 own address of em0"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			for _, x := range policy.Exceptions(c.facts) {
				got = append(got, x.Prefix.String()+" "+x.Why)
			}
			want := c.want
			for _, x := range policy.DefaultExceptions() {
				want = append(want, x.Prefix.String()+" "+x.Why)
			}
			if !slices.Equal(got, want) {
				t.Errorf("\n got %s\nwant %s", strings.Join(got, "\n     "), strings.Join(want, "\n     "))
			}
		})
	}
}

// These can never get into the table.
func TestDefaultExceptions(t *testing.T) {
	b := newBuilder(policy.Options{})
	id := b.List("all", policy.Block)
	for _, p := range prefixes("0.0.0.0/0 ::/0 127.0.0.1/32 ff02::1/128") {
		b.Add(id, p, false)
	}
	for _, x := range policy.DefaultExceptions() {
		b.Except(x.Prefix, x.Why)
	}
	p, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	x := p.Block
	for _, a := range addrs("127.0.0.1 127.255.255.255 ::1 224.0.0.1 239.255.255.255 255.255.255.255 0.0.0.0 0.255.255.255 :: fe80::1 febf::1 ff02::1 ::ffff:127.0.0.1") {
		if _, e, ok := x.Lookup(a); ok {
			t.Errorf("%v is blocked by %v", a, e)
		}
	}
	for _, a := range addrs("1.0.0.0 126.255.255.255 128.0.0.0 223.255.255.255 240.0.0.1 255.255.255.254 ::2 fec0::1 feff::1 169.254.1.1") {
		if _, _, ok := x.Lookup(a); !ok {
			t.Errorf("%v is not blocked", a)
		}
	}
}

func TestGuard(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	usual := policy.Guard{MaxShrink: policy.DefaultMaxShrink, Hold: policy.DefaultHold}
	for _, c := range []struct {
		name          string
		guard         policy.Guard
		inForce, next int
		since         time.Time
		force         bool
		want          policy.Verdict
		wantSince     time.Time
		wantUntil     time.Time
		why           string
	}{
		{name: "the first table", guard: usual, next: 26424},
		{name: "it grows", guard: usual, inForce: 26424, next: 26425},
		{name: "it stays", guard: usual, inForce: 26424, next: 26424},
		{name: "exactly half is not beyond half", guard: usual, inForce: 1000, next: 500},
		{
			name: "one more", guard: usual, inForce: 1000, next: 499,
			want: policy.Hold, wantSince: now, wantUntil: now.Add(24 * time.Hour),
			why: "499 entries instead of 1000 in force, 50.1% fewer (limit 50%): held since 2026-03-01 12:00, until 2026-03-02 12:00 or --force",
		},
		{
			name: "still so", guard: usual, inForce: 1000, next: 499, since: ago(24*time.Hour - time.Second),
			want: policy.Hold, wantSince: ago(24*time.Hour - time.Second), wantUntil: now.Add(time.Second),
			why: "held since 2026-02-28 12:00, until 2026-03-01 12:00",
		},
		{
			name: "for long enough", guard: usual, inForce: 1000, next: 499, since: ago(24 * time.Hour),
			want: policy.Waited, wantSince: ago(24 * time.Hour),
			why: "enforced, as it has been like this since 2026-02-28 12:00",
		},
		{name: "no longer so", guard: usual, inForce: 1000, next: 900, since: ago(23 * time.Hour)},
		{
			name: "forced", guard: usual, inForce: 1000, next: 499, since: ago(time.Hour), force: true,
			want: policy.Forced, wantSince: ago(time.Hour), why: "50.1% fewer (limit 50%): forced",
		},
		{name: "force where none is needed", guard: usual, inForce: 1000, next: 999, force: true},
		{
			name: "the clock was set back", guard: usual, inForce: 1000, next: 499, since: now.Add(time.Hour),
			want: policy.Hold, wantSince: now, wantUntil: now.Add(24 * time.Hour),
		},
		{name: "a tenth waits like others", guard: usual, inForce: 1000, next: 100, since: ago(48 * time.Hour), want: policy.Waited, wantSince: ago(48 * time.Hour)},
		{
			name: "less than a tenth does not pass with time", guard: usual, inForce: 1000, next: 99, since: ago(48 * time.Hour),
			want: policy.HoldForForce, wantSince: ago(48 * time.Hour), why: "less than a tenth is left; only --force enforces it",
		},
		{name: "but with force", guard: usual, inForce: 1000, next: 99, force: true, want: policy.Forced, wantSince: now},
		{name: "small tables may shrink", guard: usual, inForce: 99, next: 1},
		{name: "from 100 on they may not", guard: usual, inForce: 100, next: 49, want: policy.Hold, wantSince: now, wantUntil: now.Add(24 * time.Hour)},
		{name: "empty", guard: usual, inForce: 10, next: 0, want: policy.RefuseEmpty, why: "the new table is empty, 10 entries in force stay"},
		{name: "empty and forced", guard: usual, inForce: 1000, next: 0, force: true, want: policy.RefuseEmpty},
		{name: "empty the first time", guard: usual, want: policy.RefuseEmpty},
		{
			name: "empty keeps the time of a table that was held", guard: usual, inForce: 1000, next: 0, since: ago(time.Hour),
			want: policy.RefuseEmpty, wantSince: ago(time.Hour),
		},
		{name: "a small allow list may become empty", guard: policy.Guard{MaxShrink: 0.5, Hold: time.Hour, MayBeEmpty: true}, inForce: 3, next: 0},
		{
			name: "a large one not at once", guard: policy.Guard{MaxShrink: 0.5, Hold: time.Hour, MayBeEmpty: true}, inForce: 100, next: 0,
			want: policy.HoldForForce, wantSince: now,
		},
		{name: "no loss allowed", guard: policy.Guard{Hold: time.Hour}, inForce: 1000, next: 999, want: policy.Hold, wantSince: now, wantUntil: now.Add(time.Hour)},
		{name: "any loss allowed", guard: policy.Guard{MaxShrink: 1, Hold: time.Hour}, inForce: 1000, next: 100},
		{name: "nearly any", guard: policy.Guard{MaxShrink: 1, Hold: time.Hour}, inForce: 1000, next: 99, want: policy.HoldForForce, wantSince: now},
		{name: "no wait", guard: policy.Guard{MaxShrink: 0.5}, inForce: 1000, next: 499, want: policy.Waited, wantSince: now},
		{name: "29% of 100 is 29", guard: policy.Guard{MaxShrink: 0.29, Hold: time.Hour}, inForce: 100, next: 71},
		{name: "not a number allows no loss", guard: policy.Guard{MaxShrink: math.NaN(), Hold: time.Hour}, inForce: 100, next: 99, want: policy.Hold, wantSince: now, wantUntil: now.Add(time.Hour)},
		{name: "as large as can be", guard: usual, inForce: math.MaxInt32, next: math.MaxInt32 / 3, want: policy.Hold, wantSince: now, wantUntil: now.Add(24 * time.Hour)},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := c.guard.Check(c.inForce, c.next, c.since, now, c.force)
			if d.Verdict != c.want || !d.Since.Equal(c.wantSince) || !d.Until.Equal(c.wantUntil) {
				t.Errorf("got %v since %v until %v, want %v, %v, %v", d.Verdict, d.Since, d.Until, c.want, c.wantSince, c.wantUntil)
			}
			if !strings.Contains(d.Why, c.why) || (d.Why == "") != (d.Verdict == policy.Accept) || strings.Contains(d.Why, "\n") {
				t.Errorf("why: %q, want %q", d.Why, c.why)
			}
			if want := c.want <= policy.Forced; d.Allowed() != want {
				t.Errorf("allowed %v, want %v", d.Allowed(), want)
			}
		})
	}
}

// A table that shrinks is held, poll after poll, until a day has passed, and
// begins anew when it recovers in between.
func TestGuardOverTime(t *testing.T) {
	g := policy.Guard{MaxShrink: 0.5, Hold: 24 * time.Hour}
	now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	var since time.Time
	var allowed []int
	for hour := range 60 {
		next := 400
		if hour == 20 {
			next = 800
		}
		d := g.Check(1000, next, since, now, false)
		since = d.Since
		if d.Allowed() {
			allowed = append(allowed, hour)
			if next == 400 {
				break
			}
		}
		now = now.Add(time.Hour)
	}
	if want := []int{20, 45}; !slices.Equal(allowed, want) {
		t.Errorf("allowed in hours %v, want %v", allowed, want)
	}
}

func TestReport(t *testing.T) {
	b := newBuilder(policy.Options{MinPrefixV4: 8, MinPrefixV6: 16})
	b1, b2, a1 := b.List("one", policy.Block), b.List("two", policy.Block), b.List("friends", policy.Allow)
	for _, e := range []struct {
		id policy.ListID
		p  string
	}{
		{b1, "203.0.113.7/32"}, // own
		{b1, "203.0.113.0/24"},
		{b2, "203.0.113.0/24"}, // shared
		{b2, "203.0.113.7/32"}, // own too
		{b1, "192.0.2.1/32"},
		{b1, "192.0.2.1/32"},    // duplicate
		{b1, "198.51.100.9/32"}, // allowed
		{b1, "198.18.0.0/24"},   // an exception and an allow list have half each
		{b1, "10.0.0.0/7"},      // too wide
		{b1, "10.0.0.1/8"},      // host bits
		{b1, "2001::/15"},       // too wide
		{b1, "::ffff:10.0.0.0/103"},
		{b2, "::ffff:192.0.2.9/128"},
		{a1, "128.0.0.0/3"}, // wide, but it allows
		{a1, "198.51.100.0/24"},
		{a1, "198.18.0.0/25"},
	} {
		b.Add(e.id, netip.MustParsePrefix(e.p), false)
	}
	b.Add(b2, netip.MustParsePrefix("192.0.2.1/32"), true)
	b.Add(b1, netip.Prefix{}, false)
	b.Except(netip.MustParsePrefix("203.0.113.7/32"), "own address of em0")
	b.Except(netip.MustParsePrefix("203.0.113.7/32"), "said again")
	b.Except(netip.MustParsePrefix("198.18.0.128/25"), "NEVER_BLOCK")
	b.Except(netip.MustParsePrefix("127.0.0.0/8"), "loopback")
	p, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := show(p.Block), "192.0.2.1=one 192.0.2.9=two 203.0.113.0/24=one !203.0.113.7"; got != want {
		t.Errorf("block table\n got %s\nwant %s", got, want)
	}
	r := p.Report
	got := fmt.Sprintf("%+v", r.Lists)
	want := fmt.Sprintf("%+v", []policy.ListReport{
		{Name: "one", Kind: policy.Block, Entries: 6, Enforced: 2, Excepted: 1, Allowed: 1, Dropped: 5},
		{Name: "two", Kind: policy.Block, Entries: 4, Enforced: 1},
		{Name: "friends", Kind: policy.Allow, Entries: 3, Enforced: 3},
	})
	if got != want {
		t.Errorf("lists\n got %s\nwant %s", got, want)
	}
	got = ""
	for _, x := range r.Excepted {
		got += fmt.Sprintf("%v %s: inside %d, around %d:", x.Prefix, x.Why, x.Inside, x.Around)
		for _, e := range x.Entries {
			got += fmt.Sprintf(" %d %v", e.List, e.Prefix())
		}
		got += "; "
	}
	want = "198.18.0.128/25 NEVER_BLOCK: inside 0, around 1: 0 198.18.0.0/24; " +
		"203.0.113.7/32 own address of em0: inside 2, around 2: 0 203.0.113.0/24 1 203.0.113.0/24 0 203.0.113.7/32 1 203.0.113.7/32; "
	if got != want {
		t.Errorf("excepted\n got %s\nwant %s", got, want)
	}
	var dropped []string
	for _, d := range r.Dropped {
		dropped = append(dropped, fmt.Sprintf("%d %v %s", d.List, d.Prefix, d.Why))
	}
	want = "0 invalid Prefix invalid; 0 10.0.0.0/7 wider than /8; 0 10.0.0.1/8 bits set behind /8; " +
		"0 ::ffff:10.0.0.0/103 wider than /8; 0 2001::/15 wider than /16"
	if got := strings.Join(dropped, "; "); got != want || r.DroppedCount != 5 {
		t.Errorf("%d dropped\n got %s\nwant %s", r.DroppedCount, got, want)
	}
}

// However much is dropped or excepted, the report stays small and its counts
// right.
func TestReportIsBounded(t *testing.T) {
	b := newBuilder(policy.Options{MinPrefixV4: 8})
	id := b.List("one", policy.Block)
	for i := range 12_000 {
		b.Add(id, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 32), false)
		b.Add(id, netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(i)}), 7), false)
	}
	b.Except(netip.MustParsePrefix("10.0.0.0/8"), "network of em0")
	p, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	r := p.Report
	if p.Block.Len() != 0 || r.DroppedCount != 12_000 || len(r.Dropped) != policy.MaxNamed ||
		len(r.Excepted) != 1 || r.Excepted[0].Inside != 12_000 || len(r.Excepted[0].Entries) != policy.MaxNamed {
		t.Errorf("table of %d entries, %d dropped, %d named, excepted %+v", p.Block.Len(), r.DroppedCount, len(r.Dropped), r.Excepted)
	}
}

func TestBuildErrors(t *testing.T) {
	host := netip.MustParsePrefix("192.0.2.1/32")
	for _, c := range []struct {
		name string
		opt  policy.Options
		do   func(b *builder)
		want string
		many bool
	}{
		{
			name: "too many entries", opt: policy.Options{MaxEntries: 2}, many: true,
			do: func(b *builder) {
				id := b.List("one", policy.Block)
				for _, p := range prefixes("192.0.2.1/32 192.0.2.9/32 192.0.2.5/32") {
					b.Add(id, p, false)
				}
			},
			want: "policy: block table: too many entries: 3, the limit is 2",
		},
		{
			name: "too many in the allow table", opt: policy.Options{MaxEntries: 1}, many: true,
			do: func(b *builder) {
				b.Add(b.List("friends", policy.Allow), host, false)
				b.Add(b.List("friends", policy.Allow), netip.MustParsePrefix("2001:db8::/32"), false)
			},
			want: "policy: allow table: too many entries: 2, the limit is 1",
		},
		{
			name: "too many lists", many: true,
			do: func(b *builder) {
				for i := range policy.MaxLists + 1 {
					b.List(fmt.Sprint(i), policy.Block)
				}
			},
			want: "policy: 255 lists: too many, a policy has 254 at most",
		},
		{
			name: "an exception that would get lost",
			do:   func(b *builder) { b.Except(netip.Prefix{}, "NEVER_BLOCK") },
			want: "policy: exception invalid Prefix (NEVER_BLOCK): not a valid prefix",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBuilder(c.opt)
			c.do(b)
			p, err := b.Build()
			if err == nil || err.Error() != c.want || p != nil {
				t.Fatalf("got %v, want %s", err, c.want)
			}
			if errors.Is(err, policy.ErrTooMany) != c.many {
				t.Errorf("is ErrTooMany: %v, want %v", !c.many, c.many)
			}
		})
	}
}
