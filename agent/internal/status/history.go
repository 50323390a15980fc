package status

import (
	"bytes"
	"cmp"
	"hash/maphash"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"
)

// How finely and how far back a [History] knows hits.
const (
	spanSlot  = 10 * time.Minute // of the last hour
	spanHour  = time.Hour
	fineSlots = 7  // the last hour, and the slot that is being filled
	dayHours  = 25 // the last day, and the hour that is being filled
	// HistoryHours is how many hours have a count, the one that is being filled
	// included.
	HistoryHours = 48
)

// How many keys are kept in each span: whatever has more than such a part of a span's
// hits is among them.
const (
	keptAddresses = 128
	keptPorts     = 64
	keptLists     = 32
)

// A History knows who hit most in the last hour and day, and how many hits each hour had.
// Its memory (about 300 KB) does not grow, and nothing is allocated for a hit. It is safe
// for concurrent use.
type History struct {
	now  func() time.Time
	seed maphash.Seed

	mu sync.Mutex
	// newest is the slot that the last hit fell into: the usual case is that the
	// next one does, too.
	newest int64
	fine   [fineSlots]span // the slot n is at n % fineSlots
	hours  [dayHours]span  // likewise; it has the hits of slots that have left fine
	counts [HistoryHours]hourCount
	names  map[string]uint16 // of lists; the numbers are their index in lists
	lists  []string
}

// A span counts the hits of a slot or an hour. Its number is the time since 1970 in units
// of its length.
type span struct {
	number    int64
	hits      uint64
	addresses *frequent[[16]byte]
	ports     *frequent[uint32] // protocol << 16 | port
	lists     *frequent[uint16]
}

type hourCount struct {
	number int64
	hits   int64
}

// maxLists bounds the names of lists that are told apart; more count as otherLists.
const (
	maxLists   = 1024
	otherLists = "(other lists)"
)

// NewHistory returns an empty History. now is the wall clock, nil for time.Now.
func NewHistory(now func() time.Time) *History {
	if now == nil {
		now = time.Now
	}
	h := &History{now: now, seed: maphash.MakeSeed(), names: make(map[string]uint16), lists: []string{otherLists}}
	for i := range h.fine {
		h.fine[i] = h.newSpan()
	}
	for i := range h.hours {
		h.hours[i] = h.newSpan()
	}
	return h
}

func (h *History) newSpan() span {
	return span{
		addresses: newFrequent[[16]byte](keptAddresses, h.seed),
		ports:     newFrequent[uint32](keptPorts, h.seed),
		lists:     newFrequent[uint16](keptLists, h.seed),
	}
}

func (s *span) reset(number int64) {
	s.number, s.hits = number, 0
	s.addresses.reset()
	s.ports.reset()
	s.lists.reset()
}

func (s *span) take(o *span) {
	s.hits += o.hits
	s.addresses.take(o.addresses)
	s.ports.take(o.ports)
	s.lists.take(o.lists)
}

// Hit counts a packet: its listed address, its protocol (6 for TCP; 0 when not known) and
// the port at this host's end or at the listed address's, as the caller has it, the list
// that has the address, and when it was logged. An invalid address, and a
// protocol of 0, are not counted as such; the hit is. Hits may come late, as when files
// are read, but what is older than the History reaches back is ignored; one from the
// future counts as of now.
func (h *History) Hit(addr netip.Addr, proto uint8, port uint16, list string, at time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	slot := number(at, spanSlot)
	if slot != h.newest {
		slot = h.settle(slot)
	}
	const slotsPerHour = int64(spanHour / spanSlot)
	hour := floorDiv(slot, slotsPerHour)
	c := &h.counts[floorMod(hour, HistoryHours)]
	switch {
	case c.number == hour && c.hits > 0:
		c.hits++
	case c.number < hour || c.hits == 0:
		*c = hourCount{hour, 1}
	}
	var s *span
	if s = &h.fine[floorMod(slot, fineSlots)]; s.number != slot {
		if s = &h.hours[floorMod(hour, dayHours)]; s.number != hour {
			return // too old
		}
	}
	s.hits++
	if addr.IsValid() {
		s.addresses.add(addr.As16())
	}
	if proto != 0 {
		s.ports.add(uint32(proto)<<16 | uint32(port))
	}
	s.lists.add(h.list(list))
}

// list returns the number of a list. A new one allocates, once.
func (h *History) list(name string) uint16 {
	n, ok := h.names[name]
	if !ok && len(h.lists) < maxLists {
		n = uint16(len(h.lists))
		h.names[name] = n
		h.lists = append(h.lists, name)
	}
	return n
}

// settle makes the spans those of now, and returns the slot that a hit is to count in:
// its own, or the present one for a hit of the future.
func (h *History) settle(slot int64) int64 {
	now := number(h.now(), spanSlot)
	slot = min(slot, now)
	if h.newest > now+1 {
		// The clock was set back. What was counted in what is the future now
		// cannot be told from what will be.
		for i := range h.fine {
			h.fine[i].reset(0)
		}
		for i := range h.hours {
			h.hours[i].reset(0)
		}
		h.counts = [HistoryHours]hourCount{}
		h.newest = 0
	}
	if now > h.newest {
		h.turn(now)
	}
	return slot
}

// turn makes now the newest slot. Those that are as old as the ring is long go into their
// hours.
func (h *History) turn(now int64) {
	const slotsPerHour = int64(spanHour / spanSlot)
	hour := floorDiv(now, slotsPerHour)
	for n := hour - dayHours + 1; n <= hour; n++ {
		if s := &h.hours[floorMod(n, dayHours)]; s.number != n {
			s.reset(n)
		}
	}
	for n := now - fineSlots + 1; n <= now; n++ {
		s := &h.fine[floorMod(n, fineSlots)]
		if s.number == n {
			continue
		}
		old := floorDiv(s.number, slotsPerHour)
		if in := &h.hours[floorMod(old, dayHours)]; s.hits > 0 && in.number == old {
			in.take(s)
		}
		s.reset(n)
	}
	h.newest = now
}

// number returns which span a time falls into.
func number(t time.Time, span time.Duration) int64 {
	return floorDiv(t.Unix(), int64(span/time.Second))
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

func floorMod(a, b int64) int64 { return a - b*floorDiv(a, b) }

// Report fills in Hour, Day and Hourly of what is told of hits, with n of each kind.
func (h *History) Report(n int, hits *Hits) {
	fine, hours, counts, lists, now := h.copy()
	hits.Hour = top(fine, lists, n)
	hits.Hour.From = time.Unix((now-fineSlots+1)*int64(spanSlot/time.Second), 0).UTC()
	hits.Day = top(append(fine, hours...), lists, n)

	hour := floorDiv(now*int64(spanSlot/time.Second), int64(spanHour/time.Second))
	hits.Day.From = time.Unix((hour-dayHours+1)*int64(spanHour/time.Second), 0).UTC()
	first := hour - HistoryHours + 1
	hits.Hourly = Hourly{
		From:   time.Unix(first*int64(spanHour/time.Second), 0).UTC(),
		Counts: make([]int64, HistoryHours),
	}
	for _, c := range counts {
		if i := c.number - first; i >= 0 && i < HistoryHours {
			hits.Hourly.Counts[i] = c.hits
		}
	}
}

// A spanCopy is what a span has counted.
type spanCopy struct {
	hits                               uint64
	addresses                          []counter[[16]byte]
	ports                              []counter[uint32]
	lists                              []counter[uint16]
	addressFloor, portFloor, listFloor uint64
}

func (s *span) copy() spanCopy {
	return spanCopy{
		s.hits,
		slices.Clone(s.addresses.entries[:s.addresses.n]),
		slices.Clone(s.ports.entries[:s.ports.n]),
		slices.Clone(s.lists.entries[:s.lists.n]),
		s.addresses.floor, s.ports.floor, s.lists.floor,
	}
}

// copy takes what is counted, so that it can be summed up while hits go on.
func (h *History) copy() (fine, hours []spanCopy, counts [HistoryHours]hourCount, lists []string, now int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.settle(h.newest)
	for i := range h.fine {
		if h.fine[i].hits > 0 {
			fine = append(fine, h.fine[i].copy())
		}
	}
	for i := range h.hours {
		if h.hours[i].hits > 0 {
			hours = append(hours, h.hours[i].copy())
		}
	}
	return fine, hours, h.counts, slices.Clone(h.lists), h.newest
}

func top(spans []spanCopy, lists []string, n int) Top {
	var t Top
	addresses, ports, names := sum[[16]byte]{}, sum[uint32]{}, sum[uint16]{}
	for i := range spans {
		s := &spans[i]
		t.Hits += int64(s.hits)
		addresses.add(s.addresses, s.addressFloor)
		ports.add(s.ports, s.portFloor)
		names.add(s.lists, s.listFloor)
	}
	t.Addresses = addresses.top(n, func(a, b [16]byte) int { return bytes.Compare(a[:], b[:]) },
		func(k [16]byte) string { return netip.AddrFrom16(k).Unmap().String() })
	t.Ports = ports.top(n, cmp.Compare[uint32], portName)
	t.Lists = names.top(n, cmp.Compare[uint16], func(k uint16) string { return lists[k] })
	return t
}

// A sum adds up the counts of several spans, of keys of any number.
type sum[K comparable] struct {
	bounds map[K]bounds
	floor  uint64
}

// bounds are how often a key came: least times at least; most times at most, but for the
// floors of those spans that do not have it.
type bounds struct{ least, most, floors uint64 }

func (s *sum[K]) add(entries []counter[K], floor uint64) {
	if s.bounds == nil {
		s.bounds = make(map[K]bounds)
	}
	for _, e := range entries {
		b := s.bounds[e.key]
		b.least += e.count - e.slack
		b.most += e.count
		b.floors += floor
		s.bounds[e.key] = b
	}
	s.floor += floor
}

// top returns the n most frequent keys. compare is for those that are as frequent.
func (s *sum[K]) top(n int, compare func(a, b K) int, name func(K) string) []Counted {
	type keyed struct {
		key         K
		least, most uint64
	}
	all := make([]keyed, 0, len(s.bounds))
	for k, b := range s.bounds {
		all = append(all, keyed{k, b.least, b.most + s.floor - b.floors})
	}
	slices.SortFunc(all, func(a, b keyed) int {
		return cmp.Or(cmp.Compare(b.least, a.least), cmp.Compare(b.most, a.most), compare(a.key, b.key))
	})
	var names []Counted
	for _, k := range all[:min(n, len(all))] {
		names = append(names, Counted{Key: name(k.key), Hits: int64(k.least), Slack: int64(k.most - k.least)})
	}
	return names
}

// Protocols as owners know them; those with ports first (IANA, protocol numbers).
var protocols = map[uint8]string{
	6: "tcp", 17: "udp", 132: "sctp", 136: "udplite",
	1: "icmp", 2: "igmp", 4: "ipip", 41: "ipv6", 47: "gre", 50: "esp", 51: "ah", 58: "icmp6", 89: "ospf", 103: "pim", 112: "carp",
}

func portName(k uint32) string {
	proto, port := uint8(k>>16), uint16(k)
	name := protocols[proto]
	if name == "" {
		name = "proto " + strconv.Itoa(int(proto))
	}
	switch proto {
	case 6, 17, 132, 136:
		return strconv.Itoa(int(port)) + "/" + name
	}
	if port != 0 {
		return strconv.Itoa(int(port)) + "/" + name
	}
	return name
}
