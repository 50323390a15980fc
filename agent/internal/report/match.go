package report

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/capture"
)

// A matcher is a policy in force, ready to be asked about packets.
type matcher struct {
	index *policy.Index
	own   map[netip.Addr]struct{}
	hits  []*atomic.Int64 // by ListID
	other *atomic.Int64   // hits of an entry that no list named
	since time.Time

	names []string  // by ListID
	tell  func(Hit) // nil: nobody wants to know
}

// A Hit is a packet with a listed address, for whoever keeps figures of them.
type Hit struct {
	Far   netip.Addr // the listed address
	Proto uint8
	Port  uint16 // the destination's, 0 where the protocol has none
	List  string // that has the address
	Time  time.Time
}

// listed asks about one address. Own addresses are asked about only when they are
// listed, which is rare, so that the others need no second look-up.
func (m *matcher) listed(a netip.Addr, p *capture.Packet) bool {
	list, _, ok := m.index.Lookup(a)
	if !ok {
		return false
	}
	if _, own := m.own[a.Unmap()]; own {
		return false
	}
	name := noList
	if int(list) < len(m.hits) {
		m.hits[list].Add(1)
		name = m.names[list]
	} else {
		m.other.Add(1)
	}
	if m.tell != nil {
		m.tell(Hit{Far: a, Proto: p.Proto, Port: p.DstPort, List: name, Time: p.Time})
	}
	return true
}

// match reports whether a packet is a hit, and counts it for the list of each of its
// addresses that is listed.
func (m *matcher) match(p *capture.Packet) bool {
	src := m.listed(p.Src, p)
	dst := p.Dst != p.Src && m.listed(p.Dst, p)
	return src || dst
}

// hitCounters are the counters of lists, which outlive the policies that have them.
type hitCounters struct {
	mu    sync.Mutex
	names []string
	count map[string]*atomic.Int64
}

func (h *hitCounters) of(name string) *atomic.Int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.count[name]
	if c == nil {
		if h.count == nil {
			h.count = make(map[string]*atomic.Int64)
		}
		c = new(atomic.Int64)
		h.count[name] = c
		h.names = append(h.names, name)
	}
	return c
}

func (h *hitCounters) snapshot() []ListHits {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := make([]ListHits, 0, len(h.names))
	for _, n := range h.names {
		all = append(all, ListHits{n, h.count[n].Load()})
	}
	return all
}

// SetPolicy puts a policy in force: packets are matched against index from now on,
// without a pause, but for the addresses in own, which are this host's and never the
// far end of a packet. A nil index matches nothing. Both are kept and must not change.
//
// Until the first call there is nothing to match against: packets are then counted
// as Stats.NoPolicy, and pflogd's files, where there are any, are read for them
// later.
func (r *Reporter) SetPolicy(index *policy.Index, own []netip.Addr) {
	if index == nil {
		index = policy.NewIndex(nil)
	}
	m := &matcher{index: index, own: make(map[netip.Addr]struct{}, len(own)), since: r.o.Now(), names: index.Lists(), tell: r.o.Hit}
	for _, a := range own {
		m.own[a.Unmap().WithZone("")] = struct{}{}
	}
	for _, name := range m.names {
		m.hits = append(m.hits, r.hits.of(name))
	}
	m.other = r.hits.of(noList)
	if r.matcher.Swap(m) == nil {
		close(r.havePolicy)
	}
}

// noList is what hits count for whose entry belongs to no list.
const noList = "(none)"
