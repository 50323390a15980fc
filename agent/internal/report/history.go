package report

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"example.org/threatstopd/agent/internal/status"
)

// How far back the history goes: the hits of each of the last 48 hours and 30 days; the most frequent
// addresses, ports and lists of the last hour, in slots of ten minutes, and of the last day,
// in hours. Both include the slot that is being filled.
const (
	slotLength   = 10 * time.Minute
	slots        = 7
	hours        = 25
	historyHours = status.HistoryHours
	historyDays  = status.HistoryDays
	day          = 24 * time.Hour
)

// How many keys a span keeps: all keys with more than such a part of its hits are among them.
const (
	keptAddresses = 128
	keptPorts     = 64
	keptLists     = 32
	// maxLists bounds the lists that have a count of their own; hits of more are in "(other lists)".
	maxLists   = 1024
	otherLists = "(other lists)"
)

// A history knows who hit most in the last hour and day, how many hits each hour had, and how
// many each list ever had. Its memory is bounded. It is safe for concurrent use.
type history struct {
	now func() time.Time

	mu    sync.Mutex
	spans spans
}

// spans are what is saved: by list, and by slot, hour and day, which are numbered from 1970.
type spans struct {
	Lists map[string]int64 `json:"lists"`
	Slots map[int64]*span  `json:"slots"`
	Hours map[int64]*span  `json:"hours"`
	Days  map[int64]*span  `json:"days"`
}

// A series is one of the maps of spans, and of which it keeps so many, but only of the newest
// more than the number of hits.
type series struct {
	spans          map[int64]*span
	length         time.Duration
	kept, detailed int64
}

func (s *spans) series() [3]series {
	return [3]series{{s.Slots, slotLength, slots, slots}, {s.Hours, time.Hour, historyHours, hours}, {s.Days, day, historyDays, 0}}
}

// A span counts the hits of a slot or an hour.
type span struct {
	Hits      int64               `json:"hits"`
	Addresses counter[netip.Addr] `json:"addresses"`
	Ports     counter[uint32]     `json:"ports"` // protocol << 16 | port
	Lists     counter[string]     `json:"lists"`
}

// A counter counts the most frequent keys of a stream in bounded memory (Misra and Gries,
// Finding Repeated Elements): a key came Counts[key] times at least, and at most Missed times
// more; so did one that is not kept.
type counter[K comparable] struct {
	Counts map[K]int64 `json:"counts"`
	Missed int64       `json:"missed"`
}

// add counts a key, of which it keeps so many.
func (c *counter[K]) add(key K, kept int) {
	if c.Counts == nil {
		c.Counts = make(map[K]int64)
	}
	if _, ok := c.Counts[key]; ok || len(c.Counts) < kept {
		c.Counts[key]++
		return
	}
	// Each hit is taken off again at most once, so this takes constant time on average.
	c.Missed++
	for k, n := range c.Counts {
		if n == 1 {
			delete(c.Counts, k)
		} else {
			c.Counts[k] = n - 1
		}
	}
}

func newHistory(now func() time.Time) *history {
	h := &history{now: now}
	_ = h.restore(spans{})
	return h
}

// save returns what restore takes: it shares nothing with h.
func (h *history) save() (s spans) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.forget()
	b, _ := json.Marshal(h.spans) // maps of numbers and texts: no error
	_ = json.Unmarshal(b, &s)
	return s
}

// restore takes up what save returned. The error is that of a file that another has written.
func (h *history) restore(s spans) error {
	for _, m := range []*map[int64]*span{&s.Slots, &s.Hours, &s.Days} {
		if *m == nil {
			*m = make(map[int64]*span)
		}
	}
	if s.Lists == nil {
		s.Lists = make(map[string]int64)
	}
	if len(s.Lists) > maxLists+1 {
		return fmt.Errorf("more than %d lists", maxLists)
	}
	for _, x := range s.series() {
		if int64(len(x.spans)) > x.kept+1 {
			return fmt.Errorf("more than %d spans of %v", x.kept, x.length)
		}
		for _, y := range x.spans {
			if y == nil || len(y.Addresses.Counts) > keptAddresses || len(y.Ports.Counts) > keptPorts || len(y.Lists.Counts) > keptLists {
				return fmt.Errorf("a span with more than %d addresses", keptAddresses)
			}
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.spans = s
	return nil
}

// know gives each of these lists a count.
func (h *history) know(lists []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, l := range append(lists[:len(lists):len(lists)], noList) {
		h.spans.Lists[h.list(l)] += 0
	}
}

func (h *history) list(name string) string {
	if _, ok := h.spans.Lists[name]; !ok && len(h.spans.Lists) >= maxLists {
		return otherLists
	}
	return name
}

// hit counts a packet: its listed address, its protocol and destination port, the list that
// has the address, and when it was logged. An invalid address and a protocol of 0 are not
// counted as such. Hits may come late, as when files are read: what is older than the history
// goes back counts for its list only; one from the future counts as of now.
func (h *history) hit(addr netip.Addr, proto uint8, port uint16, list string, at time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	list = h.list(list)
	h.spans.Lists[list]++
	now := h.now()
	if at.After(now) {
		at = now
	}
	for _, x := range h.spans.series() {
		n, newest := number(at, x.length), number(now, x.length)
		if n <= newest-x.kept {
			continue // too old
		}
		s := x.spans[n]
		if s == nil {
			s = new(span)
			x.spans[n] = s
			h.forget()
		}
		s.Hits++
		if n <= newest-x.detailed {
			continue
		}
		if addr.IsValid() {
			s.Addresses.add(addr.Unmap().WithZone(""), keptAddresses)
		}
		if proto != 0 {
			s.Ports.add(uint32(proto)<<16|uint32(port), keptPorts)
		}
		s.Lists.add(list, keptLists)
	}
}

// forget drops what is too old, and what is in the future because the clock was set back: it
// cannot be distinguished from what will be. mu is held.
func (h *history) forget() {
	for _, x := range h.spans.series() {
		newest := number(h.now(), x.length)
		maps.DeleteFunc(x.spans, func(n int64, s *span) bool {
			if n <= newest-x.detailed {
				*s = span{Hits: s.Hits}
			}
			return n > newest || n <= newest-x.kept
		})
	}
}

// number returns which span of a length a time falls into.
func number(t time.Time, length time.Duration) int64 {
	return t.Unix() / int64(length/time.Second)
}

// report fills in the lists, and Hourly and Daily, and Hour and Day with n keys of each kind.
func (h *history) report(n int, hits *status.Hits) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.forget()
	for _, name := range slices.Sorted(maps.Keys(h.spans.Lists)) {
		if c := h.spans.Lists[name]; c > 0 || name != noList {
			hits.Lists = append(hits.Lists, status.ListHits{List: name, Hits: c})
		}
	}
	all := h.spans.series()
	hits.Hour, hits.Day = all[0].top(h.now(), n), all[1].top(h.now(), n)
	hits.Hourly, hits.Daily = all[1].counts(h.now()), all[2].counts(h.now())
}

// from returns when the oldest of the newest n spans begins, and its number.
func (x series) from(now time.Time, n int64) (time.Time, int64) {
	first := number(now, x.length) - n + 1
	return time.Unix(first*int64(x.length/time.Second), 0).UTC(), first
}

// counts returns the hits of each span.
func (x series) counts(now time.Time) status.Series {
	from, first := x.from(now, x.kept)
	s := status.Series{From: from, Counts: make([]int64, x.kept)}
	for n, c := range x.spans {
		s.Counts[n-first] = c.Hits
	}
	return s
}

// top returns the n most frequent keys of each kind in the detailed spans.
func (x series) top(now time.Time, n int) (t status.Top) {
	from, first := x.from(now, x.detailed)
	t.From = from
	var addresses []counter[netip.Addr]
	var ports []counter[uint32]
	var lists []counter[string]
	for n, s := range x.spans {
		if n >= first {
			t.Hits += s.Hits
			addresses, ports, lists = append(addresses, s.Addresses), append(ports, s.Ports), append(lists, s.Lists)
		}
	}
	t.Addresses = frequent(addresses, n, netip.Addr.Compare, netip.Addr.String)
	t.Ports = frequent(ports, n, cmp.Compare[uint32], portName)
	t.Lists = frequent(lists, n, cmp.Compare[string], func(s string) string { return s })
	return t
}

// frequent returns the n most frequent keys of several counters. compare decides between those
// that are as frequent.
func frequent[K comparable](counters []counter[K], n int, compare func(a, b K) int, name func(K) string) []status.Counted {
	sum := make(map[K]int64)
	var missed int64
	for _, c := range counters {
		for k, n := range c.Counts {
			sum[k] += n
		}
		missed += c.Missed
	}
	keys := slices.SortedFunc(maps.Keys(sum), func(a, b K) int { return cmp.Or(cmp.Compare(sum[b], sum[a]), compare(a, b)) })
	var named []status.Counted
	for _, k := range keys[:min(n, len(keys))] {
		named = append(named, status.Counted{Key: name(k), Hits: sum[k], Slack: missed})
	}
	return named
}

// protocols are the names of protocols (IANA, protocol numbers); the first four have ports.
var protocols = map[uint8]string{
	6: "tcp", 17: "udp", 132: "sctp", 136: "udplite",
	1: "icmp", 2: "igmp", 4: "ipip", 41: "ipv6", 47: "gre", 50: "esp", 51: "ah", 58: "icmp6", 89: "ospf", 103: "pim", 112: "carp",
}

// portName returns "22/tcp", "icmp" or "proto 99".
func portName(k uint32) string {
	proto, port := uint8(k>>16), uint16(k)
	name := protocols[proto]
	if name == "" {
		name = "proto " + strconv.Itoa(int(proto))
	}
	if port != 0 || slices.Contains([]uint8{6, 17, 132, 136}, proto) {
		return strconv.Itoa(int(port)) + "/" + name
	}
	return name
}
