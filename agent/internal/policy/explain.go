package policy

import "net/netip"

// Explanation is what lists and exceptions mean for one address.
type Explanation struct {
	Blocked bool
	Lists   []Answer    // of each list, in order
	Except  []Exception // the exceptions that cover the address
}

// Answer is what one list means for an address.
type Answer struct {
	Name  string
	Kind  Kind
	On    bool         // the list has the address
	Entry netip.Prefix // the entry that decides; the zero Prefix when none does
	// Dropped has the entries that cover the address and were refused.
	Dropped []Dropped
}

// Explain returns what a policy built from the same inputs means for an address, and why, without building
// it. An IPv4-mapped IPv6 address is taken as IPv4, a zone is ignored.
func Explain(a netip.Addr, lists []List, exceptions []Exception, o Options) Explanation {
	a = a.Unmap().WithZone("")
	var x Explanation
	listed, allowed := false, false
	for i, l := range lists {
		answer := Answer{Name: l.Name, Kind: l.Kind}
		for p, not := range l.Entries.All() {
			c := canonical(p)
			if !c.Contains(a) {
				continue
			}
			if _, why := o.accept(p, not, l.Kind); why != "" {
				answer.Dropped = append(answer.Dropped, Dropped{ListID(i), p, not, why})
			} else if c.Bits() > answer.Entry.Bits() || c == answer.Entry && not {
				answer.On, answer.Entry = !not, c
			}
		}
		listed = listed || answer.On && l.Kind == Block
		allowed = allowed || answer.On && l.Kind == Allow
		x.Lists = append(x.Lists, answer)
	}
	for _, e := range exceptions {
		if c := canonical(e.Prefix); c.Contains(a) {
			x.Except = append(x.Except, Exception{c, e.Why})
		}
	}
	x.Blocked = listed && !allowed && len(x.Except) == 0
	return x
}
