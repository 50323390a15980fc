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
	state historyState
}

// historyState is what is saved. Spans are keyed by their number: the time since 1970 in units
// of their length.
type historyState struct {
	Lists  map[string]int64 `json:"lists"`
	Slots  map[int64]*span  `json:"slots"`
	Hours  map[int64]*span  `json:"hours"`
	Hourly map[int64]int64  `json:"hourly"`
	Daily  map[int64]int64  `json:"daily"`
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
	h.state.make()
	return h
}

func (s *historyState) make() {
	for _, m := range []*map[int64]*span{&s.Slots, &s.Hours} {
		if *m == nil {
			*m = make(map[int64]*span)
		}
	}
	if s.Lists == nil {
		s.Lists = make(map[string]int64)
	}
	if s.Hourly == nil {
		s.Hourly = make(map[int64]int64)
	}
	if s.Daily == nil {
		s.Daily = make(map[int64]int64)
	}
}

// save returns a copy in JSON.
func (h *history) save() json.RawMessage {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.forget()
	b, err := json.Marshal(h.state)
	if err != nil {
		return nil
	}
	return b
}

// restore takes up what save returned. The error is that of a file that another has written.
func (h *history) restore(b json.RawMessage) error {
	var s historyState
	if len(b) > 0 {
		if err := json.Unmarshal(b, &s); err != nil {
			return err
		}
	}
	if len(s.Lists) > maxLists+1 || len(s.Slots) > slots+1 || len(s.Hours) > hours+1 || len(s.Hourly) > historyHours+1 ||
		len(s.Daily) > historyDays+1 {
		return fmt.Errorf("more than %d lists, %d hours or %d days", maxLists, historyHours, historyDays)
	}
	for _, x := range slices.Concat(slices.Collect(maps.Values(s.Slots)), slices.Collect(maps.Values(s.Hours))) {
		if x == nil || len(x.Addresses.Counts) > keptAddresses || len(x.Ports.Counts) > keptPorts || len(x.Lists.Counts) > keptLists {
			return fmt.Errorf("a span with more than %d addresses", keptAddresses)
		}
	}
	s.make()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.state = s
	return nil
}

// know gives each of these lists a count.
func (h *history) know(lists []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, l := range append(lists[:len(lists):len(lists)], noList) {
		h.state.Lists[h.list(l)] += 0
	}
}

func (h *history) list(name string) string {
	if _, ok := h.state.Lists[name]; !ok && len(h.state.Lists) >= maxLists {
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
	h.state.Lists[list]++
	now := h.now()
	if at.After(now) {
		at = now
	}
	slot, hour := number(at, slotLength), number(at, time.Hour)
	thisHour := number(now, time.Hour)
	if hour > thisHour-historyHours {
		h.state.Hourly[hour]++
	}
	if n := number(at, day); n > number(now, day)-historyDays {
		h.state.Daily[n]++
	}
	for _, x := range []struct {
		spans     map[int64]*span
		n, newest int64
		kept      int64
	}{{h.state.Slots, slot, number(now, slotLength), slots}, {h.state.Hours, hour, thisHour, hours}} {
		if x.n <= x.newest-x.kept {
			continue // too old
		}
		s := x.spans[x.n]
		if s == nil {
			s = new(span)
			x.spans[x.n] = s
			h.forget()
		}
		s.Hits++
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
	now := h.now()
	slot, hour := number(now, slotLength), number(now, time.Hour)
	outside := func(newest, kept int64) func(int64, *span) bool {
		return func(n int64, _ *span) bool { return n > newest || n <= newest-kept }
	}
	maps.DeleteFunc(h.state.Slots, outside(slot, slots))
	maps.DeleteFunc(h.state.Hours, outside(hour, hours))
	maps.DeleteFunc(h.state.Hourly, func(n, _ int64) bool { return n > hour || n <= hour-historyHours })
	today := number(now, day)
	maps.DeleteFunc(h.state.Daily, func(n, _ int64) bool { return n > today || n <= today-historyDays })
}

// number returns which span of a length a time falls into.
func number(t time.Time, length time.Duration) int64 {
	return t.Unix() / int64(length/time.Second)
}

func start(n int64, length time.Duration) time.Time {
	return time.Unix(n*int64(length/time.Second), 0).UTC()
}

// report fills in the lists, Hourly and Daily, and Hour and Day with n keys of each kind.
func (h *history) report(n int, hits *status.Hits) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.forget()
	for _, name := range slices.Sorted(maps.Keys(h.state.Lists)) {
		if c := h.state.Lists[name]; c > 0 || name != noList {
			hits.Lists = append(hits.Lists, status.ListHits{List: name, Hits: c})
		}
	}
	now := h.now()
	slot, hour := number(now, slotLength), number(now, time.Hour)
	hits.Hour, hits.Day = top(h.state.Slots, n), top(h.state.Hours, n)
	hits.Hour.From, hits.Day.From = start(slot-slots+1, slotLength), start(hour-hours+1, time.Hour)
	hits.Hourly = series(h.state.Hourly, hour, historyHours, time.Hour)
	hits.Daily = series(h.state.Daily, number(now, day), historyDays, day)
}

// series returns the counts of the n spans up to the newest.
func series(counts map[int64]int64, newest int64, n int, length time.Duration) status.Series {
	first := newest - int64(n) + 1
	s := status.Series{From: start(first, length), Counts: make([]int64, n)}
	for i := range s.Counts {
		s.Counts[i] = counts[first+int64(i)]
	}
	return s
}

func top(spans map[int64]*span, n int) (t status.Top) {
	var addresses []counter[netip.Addr]
	var ports []counter[uint32]
	var lists []counter[string]
	for _, s := range spans {
		t.Hits += s.Hits
		addresses, ports, lists = append(addresses, s.Addresses), append(ports, s.Ports), append(lists, s.Lists)
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
	if port != 0 || proto == 6 || proto == 17 || proto == 132 || proto == 136 {
		return strconv.Itoa(int(port)) + "/" + name
	}
	return name
}
