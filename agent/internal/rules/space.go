package rules

import (
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"example.org/threatstopd/pfioctl"
)

// An axis is one property of packets that rules ask for, in classes that no loaded rule distinguishes.
type axis struct {
	n int // of classes
	// usual has the classes of ordinary packets; nil: all. What only other packets can do concerns a few, not
	// everybody on a list.
	usual  set
	fixed  set              // the classes that are possible; nil: all
	phrase func(set) string // describes packets that have one of some of the classes
	line   []interval       // the classes of an axis of ordered values
	table  bool             // the axis asks whether an address is in a table
}

// The axes of every space. Axes with the classes no and yes come behind them.
const (
	axIface = iota
	axFamily
	axProto
	axSrcPort
	axDstPort
	axListed4 // the listed address
	axListed6
	axPeer4 // the other one
	axPeer6
	axICMP
	axUser
	axGroup
	axTag
	axReceived
	axRDomain
	axTOS
	axPrio
	axes
)

// Protocols that have a meaning here.
const (
	protoICMP  = 1
	protoTCP   = 6
	protoUDP   = 17
	protoICMP6 = 58

	tcpSYN = 0x02
)

// noSocket is the user and group of packets that no local socket sends or receives, such as all that are
// forwarded (UID_MAX, GID_MAX).
const noSocket = math.MaxUint32

// A class is a value that rules compare for equality, or all that no rule names.
type class struct {
	n    int
	code int    // of an ICMP type; -1: any
	name string // if it is not the number
}

// others is the class of all values that no rule names: first or last in what is printed.
var others, last = class{-1, -1, "another"}, class{math.MaxInt, -1, "another"}

// valueAxes are those of what rules compare for equality. The routing domain 0 is what nearly everything is in.
// value returns false where a rule does not ask.
var valueAxes = []struct {
	ax            int
	prefix        string
	others, usual class
	value         func(*pfioctl.Rule) (v class, ok bool)
}{
	{axICMP, "of icmp type ", others, others, func(r *pfioctl.Rule) (class, bool) { return class{r.ICMPType, r.ICMPCode, ""}, r.ICMPType >= 0 }},
	{axTag, "", class{-1, -1, "untagged"}, class{-1, -1, "untagged"}, func(r *pfioctl.Rule) (class, bool) { return class{0, -1, "tagged " + r.Tag}, r.Tag != "" }},
	{axRDomain, "in rdomain ", last, class{0, -1, ""}, func(r *pfioctl.Rule) (class, bool) { return class{r.RDomain, -1, ""}, r.RDomain >= 0 }},
	{axTOS, "with tos ", last, last, func(r *pfioctl.Rule) (class, bool) { return class{int(r.TOS), -1, ""}, r.TOS != 0 }},
	{axPrio, "with prio ", last, last, func(r *pfioctl.Rule) (class, bool) { return class{r.Prio, -1, ""}, r.Prio >= 0 }},
}

// within reports whether a rule for v matches the class: one for an ICMP type without a code matches all codes.
func (c class) within(v class) bool { return c == v || v.code < 0 && c.n == v.n && c.name == v.name }

// String returns the words for a class.
func (c class) String() string {
	switch {
	case c.name != "":
		return c.name
	case c.code >= 0:
		return fmt.Sprintf("%d code %d", c.n, c.code)
	}
	return strconv.Itoa(c.n)
}

// rangeAxes are those of what rules compare with a range.
var rangeAxes = []struct {
	ax     int
	top    uint32
	prefix string
	value  func(*pfioctl.Rule) pfioctl.Range
}{
	{axSrcPort, math.MaxUint16, "from port ", func(r *pfioctl.Rule) pfioctl.Range { return r.Src.Port }},
	{axDstPort, math.MaxUint16, "to port ", func(r *pfioctl.Rule) pfioctl.Range { return r.Dst.Port }},
	{axUser, noSocket, "user ", func(r *pfioctl.Rule) pfioctl.Range { return r.User }},
	{axGroup, noSocket, "group ", func(r *pfioctl.Rule) pfioctl.Range { return r.Group }},
}

// A flow is which way the packets of a listed address go. The other address is not listed.
type flow struct {
	dir pfioctl.Direction
	src bool // the listed address is the source
}

// word returns "from" for a source address and "to" for a destination.
func (f flow) word(listed bool) string {
	if f.src == listed {
		return "from"
	}
	return "to"
}

// A protoClass is a protocol; TCP has several classes, by the flags that rules ask for.
type protoClass struct {
	proto uint8
	flags uint8 // one combination of the class
	other bool  // all protocols that no rule names
}

// opens reports whether a TCP packet of the class opens a connection.
func (p protoClass) opens() bool { return p.proto == protoTCP && p.flags == tcpSYN }

// A space has all packets of a flow, in boxes as fine as the rules distinguish them.
type space struct {
	o          *Options
	flow       flow
	axes       []axis
	yes        map[string]int // index of the axes with no and yes
	ifaces     []Interface
	protos     []protoClass
	common     set           // of protos: all but TCP packets that do not open a connection
	classes    [axes][]class // of valueAxes, sorted
	conditions map[*pfioctl.Rule]*condition

	quickAnchor bool // a rule calls an anchor with quick
}

// newSpace makes the space of a flow from all rules that a packet can meet.
func newSpace(rs *pfioctl.Ruleset, o *Options, f flow) *space {
	s := &space{o: o, flow: f, axes: make([]axis, axes), yes: make(map[string]int), conditions: make(map[*pfioctl.Rule]*condition)}
	var rules []*pfioctl.Rule
	eachRule(rs, func(r *pfioctl.Rule) {
		rules = append(rules, r)
		s.quickAnchor = s.quickAnchor || r.Call != "" && r.Quick
	})
	s.axes[axFamily] = enum("", []string{"IPv4", "IPv6"}, -1)
	s.interfaceAxes(rules)
	s.protoAxis(rules)
	s.addressAxes(rules)
	s.valueAxes(rules)
	for _, a := range rangeAxes {
		var ranges []pfioctl.Range
		for _, r := range rules {
			if v := a.value(r); v.Op != "" {
				ranges = append(ranges, v)
			}
		}
		s.axes[a.ax] = rangeAxis(a.prefix, a.top, ranges)
	}
	for _, r := range rules {
		s.conditions[r] = s.compile(r)
	}
	return s
}

// enum returns an axis of classes with names, of which one is the usual, or all if it is negative.
func enum(prefix string, names []string, usual int) axis {
	a := axis{n: len(names), phrase: func(x set) string { return prefix + some(names, x) }}
	if usual >= 0 {
		a.usual = only(a.n, usual)
	}
	return a
}

// rangeAxis returns an axis of numbers. Those of sockets have a last class for packets without one.
func rangeAxis(prefix string, top uint32, ranges []pfioctl.Range) axis {
	if top != noSocket {
		line := cutNumbers(top, ranges)
		return axis{n: len(line), line: line, phrase: func(x set) string {
			return prefix + runs(line, x, len(line), interval.numbers)
		}}
	}
	line := cutNumbers(top, append(ranges, pfioctl.Range{A: noSocket, B: noSocket}))
	n := len(line)
	return axis{n: n, line: line, usual: only(n, n-1), phrase: func(x set) string {
		var parts []string
		if own := x.and(except(n, n-1)); !own.empty() {
			parts = append(parts, "of "+prefix+runs(line, own, n, interval.numbers))
		}
		if x.has(n - 1) {
			parts = append(parts, "of no local "+strings.TrimSpace(prefix))
		}
		return strings.Join(parts, " or ")
	}}
}

// some lists the names of the classes in a set.
func some(names []string, x set) string {
	var in []string
	for i, n := range names {
		if x.has(i) {
			in = append(in, n)
		}
	}
	return strings.Join(in, ", ")
}

// whole returns the box of all packets.
func (s *space) whole() box {
	b := make(box, len(s.axes))
	for i, a := range s.axes {
		if b[i] = a.fixed; b[i] == nil {
			b[i] = fullSet(a.n)
		}
	}
	return b
}

// interfaceAxes makes the axes of the interface a packet is on and of the one it came in by: the interfaces
// of the machine if they are known, else one for each that a rule names and one for the others.
func (s *space) interfaceAxes(rules []*pfioctl.Rule) {
	for _, i := range s.o.Interfaces {
		if !i.Loopback && !s.o.skips(i) {
			s.ifaces = append(s.ifaces, i)
		}
	}
	if len(s.o.Interfaces) == 0 {
		seen := map[string]bool{"": true, "any": true}
		for _, r := range rules {
			for _, name := range []string{r.Iface, r.Received} {
				i := Interface{Name: name, Groups: []string{driver(name)}}
				if driver(name) == name {
					i.Name = "those of group " + name
				}
				if !seen[name] && driver(name) != "lo" && !s.o.skips(i) {
					s.ifaces = append(s.ifaces, i)
				}
				seen[name] = true
			}
		}
		s.ifaces = append(s.ifaces, Interface{Name: "other interfaces"})
	}
	var names []string
	for _, i := range s.ifaces {
		names = append(names, i.Name)
	}
	s.axes[axIface] = axis{n: len(names), phrase: func(x set) string {
		last := len(names) - 1
		if len(s.o.Interfaces) > 0 || !x.has(last) {
			return "on " + some(names, x)
		}
		if out := some(names, fullSet(len(names)).without(x)); out != "" {
			return "on every interface other than " + out
		}
		return "on every interface"
	}}
	s.axes[axReceived] = enum("received on ", append(names, "the firewall itself"), -1)
}

// protoAxis makes the axis of protocols and TCP flags. A rule that asks for flags and names no protocol looks
// at them in TCP only. Of the classes of TCP, that of the packet that opens a connection comes first.
func (s *space) protoAxis(rules []*pfioctl.Rule) {
	protos := []uint8{protoICMP, protoTCP, protoUDP, protoICMP6}
	var asks []*pfioctl.Rule
	for _, r := range rules {
		if r.Proto != 0 {
			protos = append(protos, r.Proto)
		}
		if r.TCPFlagSet != 0 && !slices.ContainsFunc(asks, func(a *pfioctl.Rule) bool {
			return a.TCPFlags == r.TCPFlags && a.TCPFlagSet == r.TCPFlagSet
		}) {
			asks = append(asks, r)
		}
	}
	slices.Sort(protos)
	for _, p := range slices.Compact(protos) {
		if p != protoTCP {
			s.protos = append(s.protos, protoClass{proto: p})
			continue
		}
		seen := make(map[string]bool)
		for n := range 256 {
			flags := uint8(n) ^ tcpSYN // SYN comes first
			answers := ""
			for _, a := range asks {
				answers += fmt.Sprint(flags&a.TCPFlagSet == a.TCPFlags)
			}
			if !seen[answers] {
				seen[answers] = true
				s.protos = append(s.protos, protoClass{proto: p, flags: flags})
			}
		}
	}
	s.protos = append(s.protos, protoClass{other: true})
	n := len(s.protos)
	s.common = where(n, func(i int) bool { return s.protos[i].proto != protoTCP || s.protos[i].opens() })
	usual := where(n, func(i int) bool { return s.protos[i].proto == protoUDP || s.protos[i].opens() })
	s.axes[axProto] = axis{n: n, usual: usual, phrase: s.nameProtos}
}

func (s *space) nameProtos(x set) string {
	var names []string
	for i, p := range s.protos {
		switch {
		case !x.has(i):
		case p.other:
			names = append(names, "other protocols")
		case p.proto != protoTCP || p.opens():
			names = append(names, protoName(p.proto))
		case len(names) == 0 || !strings.HasPrefix(names[len(names)-1], "tcp"):
			names = append(names, "tcp other than what opens a connection")
		}
	}
	return strings.Join(names, ", ")
}

func protoName(p uint8) string {
	names := map[uint8]string{protoICMP: "icmp", 2: "igmp", protoTCP: "tcp", protoUDP: "udp", 47: "gre", 50: "esp", 51: "ah",
		protoICMP6: "icmp6", 89: "ospf", 112: "carp", 132: "sctp", 240: "pfsync"}
	if name := names[p]; name != "" {
		return name
	}
	return "protocol " + strconv.Itoa(int(p))
}

// valueAxes makes the axes of what rules compare for equality. An ICMP type that a rule names with a code is also
// a class without it.
func (s *space) valueAxes(rules []*pfioctl.Rule) {
	for _, a := range valueAxes {
		all := []class{a.others, a.usual}
		for _, r := range rules {
			if c, ok := a.value(r); ok {
				all = append(all, c, class{c.n, -1, c.name})
			}
		}
		slices.SortFunc(all, func(a, b class) int {
			return cmp.Or(cmp.Compare(a.n, b.n), cmp.Compare(a.code, b.code), strings.Compare(a.name, b.name))
		})
		all = slices.Compact(all)
		var names []string
		for _, c := range all {
			names = append(names, c.String())
		}
		s.classes[a.ax], s.axes[a.ax] = all, enum(a.prefix, names, slices.Index(all, a.usual))
	}
}

// addressAxes makes the axes of the two addresses in each family. What the policy never blocks is no value
// of the listed address.
func (s *space) addressAxes(rules []*pfioctl.Rule) {
	var never, listed, peer []interval
	for _, p := range s.o.Never {
		never = append(never, prefixInterval(p))
	}
	for _, r := range rules {
		if i, ok := addrInterval(s.listed(r)); ok {
			listed = append(listed, i)
		}
		if i, ok := addrInterval(s.peer(r)); ok {
			peer = append(peer, i)
		}
	}
	for family, zero := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		whole := prefixInterval(netip.PrefixFrom(zero, 0))
		s.axes[axListed4+family] = addressAxis(s.flow.word(true)+" listed addresses in ", whole, listed, never)
		s.axes[axPeer4+family] = addressAxis(s.flow.word(false)+" ", whole, peer, nil)
	}
}

// addressAxis returns an axis of addresses: usual are those that no rule names.
func addressAxis(prefix string, whole interval, rules, never []interval) axis {
	line := cut(whole, slices.Concat(rules, never))
	fixed := where(len(line), func(i int) bool { return !slices.ContainsFunc(never, line[i].inside) })
	named := where(len(line), func(i int) bool { return slices.ContainsFunc(rules, line[i].inside) })
	return axis{n: len(line), line: line, fixed: fixed, usual: fixed.without(named), phrase: func(x set) string {
		const most = 4
		return prefix + runs(line, x, most, interval.addresses)
	}}
}

// listed returns the side of a rule that the listed address is on.
func (s *space) listed(r *pfioctl.Rule) *pfioctl.RuleAddr {
	if s.flow.src {
		return &r.Src
	}
	return &r.Dst
}

// peer returns the other side.
func (s *space) peer(r *pfioctl.Rule) *pfioctl.RuleAddr {
	if s.flow.src {
		return &r.Dst
	}
	return &r.Src
}

// irrelevant reports whether an axis says nothing about a box: an address of the family that it has not.
func (s *space) irrelevant(ax int, b box) bool {
	switch ax {
	case axListed4, axPeer4:
		return !b[axFamily].has(0)
	case axListed6, axPeer6:
		return !b[axFamily].has(1)
	}
	return false
}

// special returns an axis on which no packet of a box is an ordinary one.
func (s *space) special(b box) (ax int, ok bool) {
	for i, a := range s.axes {
		if a.usual != nil && !s.irrelevant(i, b) && !b[i].meets(a.usual) {
			return i, true
		}
	}
	return 0, false
}

// restricted returns the phrases of the axes on which a box does not have all classes.
func (s *space) restricted(b box) []string {
	order := []int{axFamily, axProto, axICMP, axSrcPort, axDstPort, axListed4, axListed6, axPeer4, axPeer6, axIface}
	for i := range s.axes {
		if !slices.Contains(order, i) {
			order = append(order, i)
		}
	}
	whole := s.whole()
	whole[axProto] = s.common
	var words []string
	for _, i := range order {
		if !whole[i].within(b[i]) && !s.irrelevant(i, b) {
			words = append(words, s.axes[i].phrase(b[i]))
		}
	}
	const most = 6
	if len(words) > most {
		words = append(words[:most], "…")
	}
	return words
}
