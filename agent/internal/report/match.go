package report

import (
	"net/netip"
	"time"

	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/capture"
)

// A matcher is a policy in force, ready to match packets.
type matcher struct {
	set     *policy.Set
	own     map[netip.Addr]struct{}
	names   []string // by ListID
	since   time.Time
	history *history
}

// noList is what hits count for whose entry belongs to no list.
const noList = "(none)"

// listed looks one address up. Own addresses are looked for only when they are listed, which
// is rare, so that the others need no second look-up.
func (m *matcher) listed(a netip.Addr, p *capture.Packet) bool {
	list, _, ok := m.set.Lookup(a)
	if !ok {
		return false
	}
	if _, own := m.own[a.Unmap()]; own {
		return false
	}
	name := noList
	if int(list) < len(m.names) {
		name = m.names[list]
	}
	m.history.hit(a, p.Proto, p.DstPort, name, p.Time)
	return true
}

// match reports whether a packet is a hit, and counts it for the list of each of its
// addresses that is listed.
func (m *matcher) match(p *capture.Packet) bool {
	src := m.listed(p.Src, p)
	dst := p.Dst != p.Src && m.listed(p.Dst, p)
	return src || dst
}

// SetPolicy puts a policy in force: packets are matched against set from now on, without a
// pause, but for the addresses in own, which are this host's and never the far end of a
// packet. A nil set matches nothing. Both are kept and must not change.
//
// Until the first call there is nothing to match against: packets are then counted as
// Stats.NoPolicy, and pflogd's files, where there are any, are read for them later.
func (r *Reporter) SetPolicy(set *policy.Set, own []netip.Addr) {
	m := &matcher{set: set, own: make(map[netip.Addr]struct{}, len(own)), names: set.Lists(), since: r.o.Now(), history: r.history}
	for _, a := range own {
		m.own[a.Unmap().WithZone("")] = struct{}{}
	}
	r.history.know(m.names)
	if r.matcher.Swap(m) == nil {
		close(r.havePolicy)
	}
}
