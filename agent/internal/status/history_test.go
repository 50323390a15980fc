package status

import (
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// bounded checks a frequent against what really came.
func bounded(t *testing.T, f *frequent[int], truth map[int]uint64) {
	t.Helper()
	for key, n := range truth {
		e := f.find(key)
		if e < 0 {
			if n > f.floor {
				t.Fatalf("key %d came %d times and is not kept: floor %d", key, n, f.floor)
			}
			continue
		}
		c := f.entries[e]
		if n > c.count || n < c.count-c.slack {
			t.Fatalf("key %d came %d times: count %d, slack %d", key, n, c.count, c.slack)
		}
	}
	seen := make(map[int]bool)
	for i, c := range f.entries[:f.n] {
		if seen[c.key] || f.find(c.key) != i || c.count < 1 {
			t.Fatalf("entry %d, key %d: found at %d, twice %v, count %d", i, c.key, f.find(c.key), seen[c.key], c.count)
		}
		seen[c.key] = true
	}
	used := 0
	for _, e := range f.index {
		if e != 0 {
			used++
		}
	}
	if used != f.n {
		t.Fatalf("%d places of the index are used, for %d entries", used, f.n)
	}
}

// streams make keys: few and even, many and even, few often and many rarely.
var streams = map[string]func(r *rand.Rand) int{
	"few":    func(r *rand.Rand) int { return r.IntN(10) },
	"many":   func(r *rand.Rand) int { return r.IntN(100000) },
	"skewed": func(r *rand.Rand) int { return int(1 / (r.Float64() + 1e-6)) },
	"attack": func(r *rand.Rand) int {
		if r.IntN(10) == 0 {
			return -1 - r.IntN(3)
		}
		return r.Int()
	},
}

func TestFrequent(t *testing.T) {
	for name, key := range streams {
		for _, keep := range []int{1, 2, 16, 64} {
			t.Run(fmt.Sprintf("%s/%d", name, keep), func(t *testing.T) {
				r := rand.New(rand.NewPCG(uint64(keep), 7))
				f := newFrequent[int](keep, maphash.MakeSeed())
				truth := make(map[int]uint64)
				const hits = 20000
				for i := range hits {
					k := key(r)
					f.add(k)
					truth[k]++
					if i%4999 == 0 {
						bounded(t, f, truth)
					}
				}
				bounded(t, f, truth)
				for k, n := range truth {
					if n > hits/uint64(keep) && f.find(k) < 0 {
						t.Errorf("key %d is missing: %d of %d hits", k, n, hits)
					}
				}
				f.reset()
				bounded(t, f, map[int]uint64{})
				if f.n != 0 || f.floor != 0 {
					t.Error("not empty after reset")
				}
			})
		}
	}
}

// What several have counted comes to the same as if one had, within its bounds.
func TestFrequentTake(t *testing.T) {
	for name, key := range streams {
		t.Run(name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(3, 4))
			seed := maphash.MakeSeed()
			all := newFrequent[int](32, seed)
			part := newFrequent[int](32, seed)
			truth := make(map[int]uint64)
			hits := uint64(0)
			for round := range 30 {
				part.reset()
				for range r.IntN(3000) {
					k := key(r)
					part.add(k)
					truth[k]++
					hits++
				}
				all.take(part)
				bounded(t, all, truth)
				if round%3 == 0 { // late ones
					k := key(r)
					all.add(k)
					truth[k]++
					hits++
					bounded(t, all, truth)
				}
			}
			for k, n := range truth {
				// Merging keeps the bound (Mergeable Summaries, theorem 2).
				if n > hits/32 && all.find(k) < 0 {
					t.Errorf("key %d is missing: %d of %d hits", k, n, hits)
				}
			}
		})
	}
}

// Many that came once must not push out, on merging, those that came often.
func TestFrequentTakeKeepsTheFrequent(t *testing.T) {
	seed := maphash.MakeSeed()
	f, o := newFrequent[int](8, seed), newFrequent[int](8, seed)
	for range 100 {
		for k := range 8 {
			f.add(k)
		}
	}
	for k := range 8 {
		o.add(100 + k)
	}
	f.take(o)
	for k := range 8 {
		if f.find(k) < 0 {
			t.Errorf("key %d, which came 100 times, is not kept", k)
		}
	}
}

// A flood of addresses that come once each is what makes rarest work; it must not look
// at all of the entries each time.
func BenchmarkFrequent(b *testing.B) {
	for name, key := range streams {
		b.Run(name, func(b *testing.B) {
			r := rand.New(rand.NewPCG(3, 4))
			keys := make([]int, 1<<16)
			for i := range keys {
				keys[i] = key(r)
			}
			f := newFrequent[int](keptAddresses, maphash.MakeSeed())
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				f.add(keys[i%len(keys)])
			}
		})
	}
}

// clock is a wall clock to turn.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
	return c.t
}

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func addr(i int) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], 0xc6120000+uint32(i))
	return netip.AddrFrom4(b)
}

func report(h *History, n int) Hits {
	var hits Hits
	h.Report(n, &hits)
	return hits
}

func TestHistory(t *testing.T) {
	c := &clock{t: noon.Add(35 * time.Minute)}
	h := NewHistory(c.now)
	v6 := netip.MustParseAddr("2001:db8::7")
	for range 5 {
		h.Hit(v6, 6, 22, "basic", c.now())
	}
	h.Hit(netip.MustParseAddr("::ffff:198.18.0.1"), 17, 53, "basic", c.now())
	h.Hit(addr(1), 17, 53, "other", c.now())
	h.Hit(addr(2), 1, 0, "other", c.now().Add(-59*time.Minute))
	h.Hit(addr(3), 47, 0, "other", c.now().Add(-3*time.Hour))
	h.Hit(addr(3), 200, 0, "other", c.now().Add(-47*time.Hour))  // too old for the day
	h.Hit(addr(3), 200, 0, "other", c.now().Add(-72*time.Hour))  // and for any
	h.Hit(addr(4), 200, 0, "other", c.now().Add(100*time.Hour))  // of the future
	h.Hit(netip.Addr{}, 0, 0, "other", c.now().Add(time.Second)) // of which little is known

	want := Hits{
		Hour: Top{
			From: noon.Add(-30 * time.Minute), Hits: 10,
			Addresses: []Counted{{Key: "2001:db8::7", Hits: 5}, {Key: "198.18.0.1", Hits: 2}, {Key: "198.18.0.2", Hits: 1}},
			Ports:     []Counted{{Key: "22/tcp", Hits: 5}, {Key: "53/udp", Hits: 2}, {Key: "icmp", Hits: 1}},
			Lists:     []Counted{{Key: "basic", Hits: 6}, {Key: "other", Hits: 4}},
		},
		Day: Top{
			From: noon.Add(-24 * time.Hour), Hits: 11,
			Addresses: []Counted{{Key: "2001:db8::7", Hits: 5}, {Key: "198.18.0.1", Hits: 2}, {Key: "198.18.0.2", Hits: 1}},
			Ports:     []Counted{{Key: "22/tcp", Hits: 5}, {Key: "53/udp", Hits: 2}, {Key: "icmp", Hits: 1}},
			Lists:     []Counted{{Key: "basic", Hits: 6}, {Key: "other", Hits: 5}},
		},
		Hourly: Hourly{From: noon.Add(-47 * time.Hour), Counts: make([]int64, 48)},
	}
	want.Hourly.Counts[47] = 9 // from 12:00
	want.Hourly.Counts[46] = 1
	want.Hourly.Counts[44] = 1
	want.Hourly.Counts[0] = 1
	if diff := cmp.Diff(want, report(h, 3)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}

	// As time goes by hits leave the hour, then the day, then the history.
	for _, step := range []struct {
		wait              time.Duration
		hour, day, hourly int64
	}{
		{0, 10, 11, 12},
		{10 * time.Minute, 9, 11, 12},
		{time.Hour, 0, 11, 11},
		{20 * time.Hour, 0, 11, 11},
		{2 * time.Hour, 0, 10, 11},
		{2 * time.Hour, 0, 0, 11},
		{22 * time.Hour, 0, 0, 9},
		{time.Hour, 0, 0, 0},
		{10000 * time.Hour, 0, 0, 0},
	} {
		c.add(step.wait)
		got := report(h, 3)
		sum := int64(0)
		for _, n := range got.Hourly.Counts {
			sum += n
		}
		if got.Hour.Hits != step.hour || got.Day.Hits != step.day || sum != step.hourly {
			t.Errorf("%v: %d, %d, %d hits in the hour, the day, 48 hours; want %d, %d, %d",
				c.now(), got.Hour.Hits, got.Day.Hits, sum, step.hour, step.day, step.hourly)
		}
	}
}

// Against books that forget nothing: random hits over days, at the present time and late.
func TestHistoryAgainstBruteForce(t *testing.T) {
	type hit struct {
		at   time.Time
		key  int
		list string
	}
	r := rand.New(rand.NewPCG(5, 6))
	c := &clock{t: noon}
	h := NewHistory(c.now)
	var all []hit
	for range 30000 {
		now := c.add(time.Duration(r.IntN(12)) * time.Second)
		if r.IntN(5000) == 0 {
			now = c.add(time.Duration(r.IntN(5*3600)) * time.Second)
		}
		x := hit{now, r.IntN(20), fmt.Sprint("list", r.IntN(3))}
		if r.IntN(20) == 0 {
			x.at = x.at.Add(-time.Duration(r.IntN(20*3600)) * time.Second)
		}
		all = append(all, x)
		h.Hit(addr(x.key), 6, uint16(x.key), x.list, x.at)
		if r.IntN(1000) > 0 {
			continue
		}
		got := report(h, 100)
		check := func(name string, top Top) {
			t.Helper()
			addresses, lists, n := make(map[string]int64), make(map[string]int64), int64(0)
			for _, x := range all {
				if !x.at.Before(top.From) {
					addresses[addr(x.key).String()]++
					lists[x.list]++
					n++
				}
			}
			if top.Hits != n {
				t.Fatalf("%s: %d hits, want %d", name, top.Hits, n)
			}
			for _, of := range []struct {
				got  []Counted
				want map[string]int64
			}{{top.Addresses, addresses}, {top.Lists, lists}} {
				if len(of.got) != len(of.want) {
					t.Fatalf("%s: %d keys, want %d", name, len(of.got), len(of.want))
				}
				for _, k := range of.got {
					if k.Hits != of.want[k.Key] || k.Slack != 0 {
						t.Fatalf("%s: %s came %d times (+%d), want %d", name, k.Key, k.Hits, k.Slack, of.want[k.Key])
					}
				}
			}
			if !slices.IsSortedFunc(top.Addresses, func(a, b Counted) int { return int(b.Hits - a.Hits) }) {
				t.Fatalf("%s: not the most frequent first", name)
			}
		}
		check("hour", got.Hour)
		check("day", got.Day)
		want := make([]int64, HistoryHours)
		for _, x := range all {
			if i := int(x.at.Sub(got.Hourly.From) / time.Hour); i >= 0 && !x.at.Before(got.Hourly.From) {
				want[i]++
			}
		}
		if !slices.Equal(got.Hourly.Counts, want) {
			t.Fatalf("hourly %v, want %v", got.Hourly.Counts, want)
		}
	}
}

// Under a flood of addresses that come once, those that come again and again stand out,
// and the bounds hold over all the spans.
func TestHistoryUnderFlood(t *testing.T) {
	c := &clock{t: noon}
	h := NewHistory(c.now)
	truth := make(map[string]int64)
	for i := range 60000 {
		a := addr(1000 + i)
		if i%20 == 0 {
			a = addr(i / 20 % 3)
		}
		truth[a.String()]++
		h.Hit(a, 6, uint16(i), "basic", c.add(time.Second))
	}
	got := report(h, 10)
	if len(got.Day.Addresses) != 10 {
		t.Fatalf("%d addresses", len(got.Day.Addresses))
	}
	for i, k := range got.Day.Addresses {
		if n := truth[k.Key]; n < k.Hits || n > k.Hits+k.Slack {
			t.Errorf("%s came %d times, not %d to %d", k.Key, n, k.Hits, k.Hits+k.Slack)
		}
		if i < 3 && truth[k.Key] != 1000 {
			t.Errorf("%s is among the first three, and came %d times", k.Key, truth[k.Key])
		}
	}
}

// A clock that is set does no harm: what was counted in a time that has not come yet is
// forgotten, and hits count again at once.
func TestHistoryClockSet(t *testing.T) {
	c := &clock{t: noon}
	h := NewHistory(c.now)
	h.Hit(addr(1), 6, 1, "l", c.now())
	c.add(5 * 365 * 24 * time.Hour)
	h.Hit(addr(2), 6, 1, "l", c.now())
	if got := report(h, 5); got.Hour.Hits != 1 || got.Day.Hits != 1 || got.Day.Addresses[0].Key != "198.18.0.2" {
		t.Errorf("after it was set forwards: %+v", got.Day)
	}
	c.add(-5 * 365 * 24 * time.Hour)
	if got := report(h, 5); got.Day.Hits != 0 || got.Hourly.Counts[47] != 0 {
		t.Errorf("after it was set back: %+v", got)
	}
	h.Hit(addr(3), 6, 1, "l", c.now())
	if got := report(h, 5); got.Hour.Hits != 1 || got.Day.Addresses[0].Key != "198.18.0.3" || got.Hourly.Counts[47] != 1 {
		t.Errorf("after it was set back: %+v", got)
	}
	// A step of seconds, over the border of a slot, is not worth that.
	c.add(-2 * time.Second)
	h.Hit(addr(3), 6, 1, "l", c.now())
	if got := report(h, 5); got.Hour.Hits != 2 {
		t.Errorf("after a step back: %+v", got.Hour)
	}
}

func TestHistoryOfManyLists(t *testing.T) {
	c := &clock{t: noon}
	h := NewHistory(c.now)
	for i := range 3 * maxLists {
		h.Hit(addr(1), 6, 1, fmt.Sprint("list", i), c.now())
	}
	if len(h.lists) != maxLists || len(h.names) != maxLists-1 {
		t.Errorf("%d names of lists", len(h.lists))
	}
	if top := report(h, 1).Hour.Lists[0]; top.Key != otherLists {
		t.Errorf("most hits are of %+v", top)
	}
}

func TestHistoryDoesNotAllocate(t *testing.T) {
	c := &clock{t: noon}
	h := NewHistory(c.now)
	h.Hit(addr(0), 6, 1, "l", c.now())
	i := 0
	if n := testing.AllocsPerRun(20000, func() {
		i++
		h.Hit(addr(i%1000), 6, uint16(i), "l", c.add(time.Second))
	}); n != 0 {
		t.Errorf("%v allocations for a hit", n)
	}
}

func TestHistoryIsSmall(t *testing.T) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	h := NewHistory(nil)
	runtime.ReadMemStats(&after)
	runtime.KeepAlive(h)
	if n := after.TotalAlloc - before.TotalAlloc; n > 512<<10 {
		t.Errorf("%d bytes", n)
	} else {
		t.Logf("%d bytes", n)
	}
}

func TestHistoryConcurrently(t *testing.T) {
	h := NewHistory(nil)
	var wg sync.WaitGroup
	for g := range 3 {
		wg.Go(func() {
			for i := range 2000 {
				h.Hit(addr(i), 6, uint16(g), "l", time.Now())
			}
		})
	}
	wg.Go(func() {
		for range 20 {
			report(h, 5)
		}
	})
	wg.Wait()
	if got := report(h, 5); got.Day.Hits != 6000 {
		t.Errorf("%d hits", got.Day.Hits)
	}
}

func BenchmarkHistory(b *testing.B) {
	for _, tt := range []struct {
		name      string
		addresses int
	}{{"again and again", 50}, {"flood", 1 << 20}} {
		b.Run(tt.name, func(b *testing.B) {
			h := NewHistory(nil)
			now := time.Now()
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				h.Hit(addr(i%tt.addresses), 6, uint16(i), "basic.example.net", now)
			}
		})
	}
	b.Run("report", func(b *testing.B) {
		c := &clock{t: noon}
		h := NewHistory(c.now)
		for i := range 200000 {
			h.Hit(addr(i), 6, uint16(i), "basic.example.net", c.add(time.Second/2))
		}
		b.ReportAllocs()
		for b.Loop() {
			report(h, 10)
		}
	})
}

func TestPortName(t *testing.T) {
	for _, tt := range []struct {
		proto uint8
		port  uint16
		want  string
	}{
		{6, 22, "22/tcp"}, {17, 0, "0/udp"}, {1, 0, "icmp"}, {58, 0, "icmp6"}, {253, 0, "proto 253"}, {253, 7, "7/proto 253"},
	} {
		if got := portName(uint32(tt.proto)<<16 | uint32(tt.port)); got != tt.want {
			t.Errorf("%d, %d: %q, want %q", tt.proto, tt.port, got, tt.want)
		}
	}
}
