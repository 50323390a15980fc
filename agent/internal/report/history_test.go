package report

import (
	"encoding/json"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"example.org/threatstopd/agent/internal/status"
)

func addr(i int) netip.Addr { return netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}) }

func reported(h *history, now time.Time) (hits status.Hits) {
	h.report(now, 1000, &hits)
	return hits
}

// A counter is right within its bounds, and keeps what is frequent.
func TestCounter(t *testing.T) {
	for name, next := range map[string]func(r *rand.Rand) int{
		"few keys":            func(r *rand.Rand) int { return r.IntN(10) },
		"all different":       func(r *rand.Rand) int { return r.Int() },
		"one in four is of 0": func(r *rand.Rand) int { return r.IntN(4) * r.IntN(1<<30) },
		"a long tail":         func(r *rand.Rand) int { return int(r.ExpFloat64() * 30) },
	} {
		t.Run(name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(1, 2))
			const n = 20_000
			var c counter
			truth := map[string]int64{}
			for range n {
				k := strconv.Itoa(next(r))
				truth[k]++
				c.add(k)
			}
			if len(c.Counts) > keptKeys || c.Missed > n/keptKeys {
				t.Errorf("%d keys, %d missed", len(c.Counts), c.Missed)
			}
			for k, want := range truth {
				if got := c.Counts[k]; got > want || got+c.Missed < want {
					t.Errorf("key %s: %d to %d, came %d times", k, got, got+c.Missed, want)
				}
			}
		})
	}
}

// Hits count in the hour and the slot that they fall into, however late they come, and no
// longer than the history goes back.
func TestHistory(t *testing.T) {
	noon := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	now := noon
	h := new(history)
	h.init()
	for i := range 200 { // 50 hours, four times an hour
		now = noon.Add(time.Duration(i) * 15 * time.Minute)
		h.hit(addr(i%3), 6, 22, "one", now, now)
	}
	x := reported(h, now)
	if x.Hour.Hits != 5 || x.Day.Hits != 100 || x.Lists[0] != (status.ListHits{List: "one", Hits: 200}) {
		t.Errorf("hour %d, day %d, lists %v", x.Hour.Hits, x.Day.Hits, x.Lists)
	}
	for i, c := range x.Hourly.Counts {
		if c != 4 {
			t.Errorf("hour %d: %d hits", i, c)
		}
	}
	if d := x.Daily.Counts; len(d) != status.HistoryDays || d[status.HistoryDays-1] != 4*13+4 || d[status.HistoryDays-2] != 96 || d[status.HistoryDays-3] != 48 {
		t.Errorf("days %v", d)
	}
	if p := x.Day.Ports; len(p) != 1 || p[0] != (status.Counted{Key: "22/tcp", Hits: 100}) || len(x.Day.Addresses) != 3 {
		t.Errorf("%+v", x.Day)
	}
	h.hit(addr(1), 1, 0, "two", now.Add(-30*time.Hour), now) // late
	h.hit(addr(1), 1, 0, "two", now.Add(-60*time.Hour), now) // too late
	h.hit(addr(1), 1, 0, "two", now.Add(time.Hour), now)     // from the future
	if x = reported(h, now); x.Hour.Hits != 6 || x.Day.Hits != 101 || x.Hourly.Counts[status.HistoryHours-31] != 5 || x.Lists[1].Hits != 3 {
		t.Errorf("%+v", x)
	}
	// What is saved is what is restored.
	again := new(history)
	saved, err := json.Marshal(h)
	if err == nil {
		err = json.Unmarshal(saved, again)
	}
	if err != nil {
		t.Fatal(err)
	}
	a, _ := json.Marshal(reported(h, now))
	b, _ := json.Marshal(reported(again, now))
	equal(t, "restored", string(b), string(a))
	// The clock is set back: what was counted in the future goes, and counting continues.
	now = now.Add(-10 * time.Hour)
	before := reported(h, now).Hour.Hits
	h.hit(addr(1), 17, 53, "one", now, now)
	if got := reported(h, now).Hour.Hits; got != before+1 {
		t.Errorf("%d hits after %d", got, before)
	}
}

// A flood of different addresses takes bounded memory.
func TestHistoryIsBounded(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	h := new(history)
	h.init()
	for i := range 100_000 {
		h.hit(netip.AddrFrom4([4]byte{byte(i >> 16), byte(i >> 8), byte(i), 1}), uint8(i), uint16(i), "one", now, now)
	}
	if b, _ := json.Marshal(h); len(b) > 64<<10 {
		t.Errorf("%d bytes are saved", len(b))
	}
}
