package dnstest

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/miekg/dns"

	"example.org/threatstopd/dnsfetch"
)

// Entry is a prefix of a list, or, with Not, one that the list negates. It is
// served as it is given, which need not be the form that dnsfetch gives it.
type Entry struct {
	Prefix netip.Prefix
	Not    bool
}

// String returns e as [dnsfetch.Entry] writes it.
func (e Entry) String() string {
	if e.Not {
		return "!" + e.Prefix.String()
	}
	return e.Prefix.String()
}

// Defaults of a List's fields, and the limits that the 65,535 bytes of a
// message set: an A record takes 16 of them, an AAAA record 28.
const (
	DefaultPartSize = 900
	DefaultTTL      = 7200 // seconds

	defaultAddrs4 = 4000
	defaultAddrs6 = 2300
)

// List is a list of prefixes and the way to serve it. Its entries are served
// in their order, duplicates and all.
type List struct {
	// Name is the list's domain name, with or without its final dot.
	Name string
	// Layout is how the list stands in the DNS; the zero value is LayoutParts.
	Layout dnsfetch.Layout
	// Entries may be of both families. Host bits must be zero; HostBits is a
	// fault. With layout Addr, only single addresses and no negated ones.
	Entries []Entry
	// PartSize is the number of entries in a part (LayoutParts; 0 is 900), or
	// the number of addresses of a family at a name (LayoutAddresses; 0 is 4000
	// IPv4 and 2300 IPv6 ones). LayoutAPL has one part.
	PartSize int
	// ItemsPerRecord is the most items in one APL record; what is over goes to
	// further records of the same name. 0 puts all of a part in one record.
	ItemsPerRecord int
	// PartLabel gives the label of part n, from 1, that stands in front of the
	// list's name; nil is "001-netb", "002-netb", …
	PartLabel func(n int) string
	// Siblings are the names that continue a list of LayoutAddresses. One without
	// a dot is a label that takes the place of the first label of Name.
	// Siblings that are not needed are not served.
	Siblings []string
	// TTL is in seconds; 0 is 7200.
	TTL uint32
}

// node is a name that exists: what it answers, and which list it is for.
type node struct {
	name string // canonical
	list string // canonical name of the list, "" for the zone's own
	part int    // from 1; 0 for the name of a list in parts
	sets map[uint16]*rrset
}

// nodes lays the list out: every name that it needs, by key.
func (l *List) nodes() (map[string]*node, error) {
	if l.Name == "" {
		return nil, errors.New("list without a name")
	}
	name, err := wireName(l.Name)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", l.Name, err)
	}
	ttl := l.TTL
	if ttl == 0 {
		ttl = DefaultTTL
	}
	if l.PartSize < 0 || l.ItemsPerRecord < 0 {
		return nil, fmt.Errorf("list %s: negative part size or items per record", l.Name)
	}
	for i, e := range l.Entries {
		switch {
		case !e.Prefix.IsValid():
			return nil, fmt.Errorf("list %s: entry %d: no prefix", l.Name, i+1)
		case e.Prefix != e.Prefix.Masked():
			return nil, fmt.Errorf("list %s: entry %d: %s has host bits set; %s is meant", l.Name, i+1, e.Prefix, e.Prefix.Masked())
		case l.Layout == dnsfetch.LayoutAddresses && (e.Not || !e.Prefix.IsSingleIP()):
			return nil, fmt.Errorf("list %s: entry %d: %s cannot be an address record; use APL records", l.Name, i+1, entryString(e))
		}
	}
	out := make(map[string]*node)
	add := func(wire []byte, part int, sets map[uint16]*rrset) error {
		n := &node{list: canonical(l.Name), part: part, sets: sets}
		n.name, _, err = dns.UnpackDomainName(wire, 0)
		if err != nil {
			return err
		}
		n.name = canonical(n.name)
		k := key(wire)
		if out[k] != nil {
			return fmt.Errorf("list %s: %s: named twice", l.Name, n.name)
		}
		for typ, set := range sets {
			if size := set.messageLen(len(wire)); size > maxMessage {
				return fmt.Errorf("list %s: %s %s: an answer of %d bytes does not fit in the %d of a message; %s",
					l.Name, n.name, dns.TypeToString[typ], size, maxMessage, l.advice(typ, set, maxMessage-size+len(set.body)))
			}
		}
		out[k] = n
		return nil
	}
	switch l.Layout {
	case 0, dnsfetch.LayoutParts:
		return out, l.layPTR(name, ttl, add)
	case dnsfetch.LayoutAPL:
		return out, add(name, 1, map[uint16]*rrset{dns.TypeAPL: packAPL(l.Entries, l.ItemsPerRecord, ttl)})
	case dnsfetch.LayoutAddresses:
		return out, l.layAddr(name, ttl, add)
	}
	return nil, fmt.Errorf("list %s: unknown layout %d", l.Name, l.Layout)
}

// advice says what to do about records of a type that are longer than the room
// that a message has for them.
func (l *List) advice(typ uint16, set *rrset, room int) string {
	switch {
	case typ == dns.TypePTR:
		parts := max(1, room*set.records/len(set.body))
		return fmt.Sprintf("use parts of %d entries or more", (len(l.Entries)+parts-1)/parts)
	case l.Layout == dnsfetch.LayoutAPL:
		return "cut the list in parts"
	}
	return "use smaller parts"
}

type addNode func(wire []byte, part int, sets map[uint16]*rrset) error

func (l *List) layPTR(name []byte, ttl uint32, add addNode) error {
	parts := l.parts()
	labels := make([]string, len(parts))
	for i := range parts {
		label, err := l.partLabel(i + 1)
		if err != nil {
			return err
		}
		labels[i] = label
	}
	if err := add(name, 0, map[uint16]*rrset{dns.TypePTR: packPTR(labels, ttl)}); err != nil {
		return err
	}
	for i, part := range parts {
		wire := append([]byte{byte(len(labels[i]))}, labels[i]...)
		wire = append(wire, name...)
		if len(wire) > 255 {
			return fmt.Errorf("list %s: part %s: a name of %d bytes is over the 255 of RFC 1035", l.Name, labels[i], len(wire))
		}
		sets := map[uint16]*rrset{dns.TypeAPL: packAPL(part, l.ItemsPerRecord, ttl)}
		if err := add(wire, i+1, sets); err != nil {
			return err
		}
	}
	return nil
}

// parts cuts the entries; there is always one part, be it empty.
func (l *List) parts() [][]Entry {
	size := l.PartSize
	if size == 0 {
		size = DefaultPartSize
	}
	var parts [][]Entry
	for rest := l.Entries; ; {
		n := min(size, len(rest))
		parts = append(parts, rest[:n])
		if rest = rest[n:]; len(rest) == 0 {
			return parts
		}
	}
}

func (l *List) partLabel(n int) (string, error) {
	label := fmt.Sprintf("%03d-netb", n)
	if l.PartLabel != nil {
		label = l.PartLabel(n)
	}
	if label == "" || len(label) > 63 || strings.ContainsAny(label, `.\`) {
		return "", fmt.Errorf("list %s: part %d: %q is not one label of 1 to 63 bytes", l.Name, n, label)
	}
	return label, nil
}

// hosts is the address records of one name.
type hosts struct {
	name   string
	v4, v6 []netip.Addr
}

// addrNames spreads the list's addresses over its name and siblings.
func (l *List) addrNames() ([]hosts, error) {
	max4, max6 := l.PartSize, l.PartSize
	if l.PartSize == 0 {
		max4, max6 = defaultAddrs4, defaultAddrs6
	}
	var v4, v6 []netip.Addr
	for _, e := range l.Entries {
		if a := e.Prefix.Addr(); a.Is4() {
			v4 = append(v4, a)
		} else {
			v6 = append(v6, a)
		}
	}
	var out []hosts
	for i := 0; ; i++ {
		h := hosts{name: l.Name}
		if i > 0 {
			if i > len(l.Siblings) {
				return nil, fmt.Errorf("list %s: %d addresses do not fit at the name and %d siblings; name more siblings",
					l.Name, len(l.Entries), len(l.Siblings))
			}
			h.name = siblingName(l.Name, l.Siblings[i-1])
		}
		n4, n6 := min(max4, len(v4)), min(max6, len(v6))
		h.v4, v4 = v4[:n4], v4[n4:]
		h.v6, v6 = v6[:n6], v6[n6:]
		out = append(out, h)
		if len(v4) == 0 && len(v6) == 0 {
			return out, nil
		}
	}
}

// siblingName returns the name beside a list's that a sibling stands for.
func siblingName(list, sibling string) string {
	if strings.Contains(sibling, ".") {
		return sibling
	}
	list = dns.Fqdn(list)
	next, end := dns.NextLabel(list, 0)
	if end {
		return sibling + "."
	}
	return sibling + "." + list[next:]
}

func (l *List) layAddr(name []byte, ttl uint32, add addNode) error {
	all, err := l.addrNames()
	if err != nil {
		return err
	}
	for i, h := range all {
		wire, err := wireName(h.name)
		if err != nil {
			return fmt.Errorf("list %s: sibling %w", l.Name, err)
		}
		sets := make(map[uint16]*rrset)
		if len(h.v4) > 0 {
			sets[dns.TypeA] = packAddrs(dns.TypeA, h.v4, ttl)
		}
		if len(h.v6) > 0 {
			sets[dns.TypeAAAA] = packAddrs(dns.TypeAAAA, h.v6, ttl)
		}
		if err := add(wire, i+1, sets); err != nil {
			return err
		}
	}
	return nil
}

// Fill returns entries, IPv4 and all different, that as APL records at name of
// itemsPerRecord items each, 0 for one record, make an answer of exactly size
// bytes: up to 65535, the longest there is. The question is counted, EDNS is
// not. Sizes that no records add up to are an error.
func Fill(name string, size, itemsPerRecord int) ([]Entry, error) {
	wire, err := wireName(name)
	if err != nil {
		return nil, err
	}
	per := itemsPerRecord
	if per <= 0 {
		per = maxMessage
	}
	room := size - headerLen - len(wire) - 4
	full := recordFixed + 8*per
	records := max(1, (room+full-1)/full)
	// Items take 5 to 8 bytes, by the length of their prefix, and none of the
	// records may be without any, unless it is the only one.
	bytes := room - recordFixed*records
	items := (bytes + 7) / 8
	if records > 1 {
		items = max(items, per*(records-1)+1)
	}
	if size > maxMessage || bytes < 5*items || items < 0 {
		return nil, fmt.Errorf("no APL records at %s make an answer of %d bytes", name, size)
	}
	out := make([]Entry, items)
	var used [9]int
	for i, short := 0, 8*items-bytes; i < items; i++ {
		n := 8 - min(3, short)
		short -= 8 - n
		u := used[n]
		used[n]++
		lo, hi := byte(u%200+1), byte(u/200)
		a := [...][4]byte{5: {240 + lo}, 6: {240, lo}, 7: {250, 0, lo}, 8: {198, 18, hi, lo}}[n]
		out[i].Prefix = netip.PrefixFrom(netip.AddrFrom4(a), 8*(n-aplHeader))
	}
	return out, nil
}
