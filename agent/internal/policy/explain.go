package policy

import "net/netip"

// Explanation is what lists and exceptions mean for one network.
type Explanation struct {
	Blocked bool        // the network is blocked, but for what is said of parts of it
	Lists   []Answer    // of each list, in order
	Except  []Exception // the exceptions that cover the network, and those inside
}

// Answer is what one list means for a network.
type Answer struct {
	Name   string
	Kind   Kind
	On     bool         // the list has the network
	Entry  netip.Prefix // the entry that decides; the zero Prefix when none does
	Inside int          // entries for a part of the network
	// Dropped has the entries that cover the network and were refused.
	Dropped []Dropped
}

// Explain returns what a policy built from the same inputs means for an address or a network, and why,
// without building it. An IPv4-mapped IPv6 prefix is taken as IPv4.
func Explain(n netip.Prefix, lists []List, exceptions []Exception, o Options) Explanation {
	n = canonical(n)
	covers := func(c netip.Prefix) bool { return c.Bits() <= n.Bits() && c.Contains(n.Addr()) }
	var x Explanation
	listed, allowed, excepted := false, false, false
	for i, l := range lists {
		answer := Answer{Name: l.Name, Kind: l.Kind}
		for p, not := range l.Entries.All() {
			c := canonical(p)
			if !n.Overlaps(c) {
				continue
			}
			if _, why := o.accept(p, not, l.Kind); why != "" {
				if covers(c) {
					answer.Dropped = append(answer.Dropped, Dropped{ListID(i), p, not, why})
				}
			} else if !covers(c) {
				answer.Inside++
			} else if c.Bits() > answer.Entry.Bits() || c == answer.Entry && not {
				answer.On, answer.Entry = !not, c
			}
		}
		listed = listed || answer.On && l.Kind == Block
		allowed = allowed || answer.On && l.Kind == Allow
		x.Lists = append(x.Lists, answer)
	}
	for _, e := range exceptions {
		if c := canonical(e.Prefix); n.Overlaps(c) {
			x.Except = append(x.Except, Exception{c, e.Why})
			excepted = excepted || covers(c)
		}
	}
	x.Blocked = listed && !allowed && !excepted
	return x
}
