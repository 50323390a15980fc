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
	all    set                                      // the classes that packets can have
	usual  set                                      // those of ordinary packets; the others concern a few, not everybody on a list
	line   []interval                               // the classes of an axis of ordered values
	table  bool                                     // the axis asks whether an address is in a table
	phrase func(set) string                         // describes packets that have one of some classes
	asks   func(*pfioctl.Rule) func(class int) bool // whether a rule matches a class; nil: it does not ask
}

// The axes of every space, in the order in which packets are described. Axes with the classes no and yes come
// behind them.
const (
	axFamily = iota
	axProto
	axICMP
	axSrcPort
	axDstPort
	axListed4 // the listed address
	axListed6
	axPeer4 // the other one
	axPeer6
	axIface
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

var protoNames = map[uint8]string{0: "other protocols", protoICMP: "icmp", 2: "igmp", protoTCP: "tcp", protoUDP: "udp", 47: "gre",
	50: "esp", 51: "ah", protoICMP6: "icmp6", 89: "ospf", 112: "carp", 132: "sctp", 240: "pfsync"}

// noSocket is the user and group of packets that no local socket sends or receives, such as all that are
// forwarded (UID_MAX, GID_MAX).
const noSocket = math.MaxUint32

// rangeAxes are those of numbers. usual is that of ordinary packets, -1: every one.
var rangeAxes = []struct {
	ax     int
	top    uint32
	usual  int64
	prefix string
	value  func(*pfioctl.Rule) pfioctl.Range
}{
	{axSrcPort, math.MaxUint16, -1, "from port ", func(r *pfioctl.Rule) pfioctl.Range { return r.Src.Port }},
	{axDstPort, math.MaxUint16, -1, "to port ", func(r *pfioctl.Rule) pfioctl.Range { return r.Dst.Port }},
	{axUser, noSocket, noSocket, "of user ", func(r *pfioctl.Rule) pfioctl.Range { return r.User }},
	{axGroup, noSocket, noSocket, "of group ", func(r *pfioctl.Rule) pfioctl.Range { return r.Group }},
	{axRDomain, math.MaxUint8, 0, "in rdomain ", func(r *pfioctl.Rule) pfioctl.Range {
		return equal(r.RDomain, r.IfaceNot && r.Iface == "")
	}},
	{axTOS, math.MaxUint8, 0, "with tos ", func(r *pfioctl.Rule) pfioctl.Range { return equal(cmp.Or(int(r.TOS), -1), false) }},
	{axPrio, 7, 3, "with prio ", func(r *pfioctl.Rule) pfioctl.Range { return equal(r.Prio, false) }},
}

// equal returns the condition of a rule that compares with n, or asks nothing if n is negative.
func equal(n int, not bool) pfioctl.Range {
	switch {
	case n < 0:
		return pfioctl.Range{}
	case not:
		return pfioctl.Range{Op: "!=", A: uint32(n)}
	}
	return pfioctl.Range{Op: "=", A: uint32(n)}
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

// side returns the side of a rule that the listed address is on, or the other.
func (f flow) side(r *pfioctl.Rule, listed bool) *pfioctl.RuleAddr {
	if f.src == listed {
		return &r.Src
	}
	return &r.Dst
}

// A protoClass is a protocol, 0 for all that no rule names. TCP has a class for every combination of flags.
type protoClass struct{ proto, flags uint8 }

// opens reports whether a TCP packet of the class opens a connection.
func (p protoClass) opens() bool { return p == protoClass{protoTCP, tcpSYN} }

// A space has all packets of a flow, in boxes as fine as the rules distinguish them.
type space struct {
	o           *Options
	flow        flow
	rules       []*pfioctl.Rule // all that a packet can meet
	axes        []axis
	yes         map[string]int // index of the axes with no and yes
	ifaces      []Interface
	protos      []protoClass
	common      set // of protos: all but TCP packets that do not open a connection
	conditions  map[*pfioctl.Rule]*condition
	quickAnchor bool // a rule calls an anchor with quick

	steps  int // of the evaluation
	leaves []leaf
	cut    bool // a limit was reached: leaves do not have all packets
}

// newSpace makes the space of a flow from all rules that a packet can meet.
func newSpace(rules []*pfioctl.Rule, o *Options, f flow) *space {
	s := &space{o: o, flow: f, rules: rules, axes: make([]axis, axes), yes: make(map[string]int),
		conditions: make(map[*pfioctl.Rule]*condition)}
	s.quickAnchor = slices.ContainsFunc(rules, func(r *pfioctl.Rule) bool { return r.Call != "" && r.Quick })
	s.interfaceAxes()
	s.protoAxis()
	s.addressAxes()
	s.valueAxes()
	s.rangeAxes()
	for _, r := range rules {
		s.conditions[r] = s.compile(r)
	}
	return s
}

// define makes an axis of n classes.
func (s *space) define(ax, n int, phrase func(set) string, asks func(*pfioctl.Rule) func(class int) bool) *axis {
	s.axes[ax] = axis{all: full(n), usual: full(n), phrase: phrase, asks: asks}
	return &s.axes[ax]
}

// listing returns a function that lists the names of the classes in a set, each once.
func listing(prefix string, names []string) func(set) string {
	return func(x set) string {
		var in []string
		for i, n := range names {
			if x[i] {
				in = append(in, n)
			}
		}
		return prefix + strings.Join(slices.Compact(in), ", ")
	}
}

// whole returns the box of all packets.
func (s *space) whole() (b box) {
	for _, a := range s.axes {
		b = append(b, a.all)
	}
	return b
}

// interfaceAxes makes the axes of the interface a packet is on and of the one it came in by, which for an
// incoming packet is the same.
func (s *space) interfaceAxes() {
	for _, i := range s.o.Interfaces {
		if !i.Loopback && !s.o.skips(i) {
			s.ifaces = append(s.ifaces, i)
		}
	}
	var names []string
	for _, i := range s.ifaces {
		names = append(names, i.Name)
	}
	is := func(name string, not bool, class int) bool {
		return name == "" || (class < len(s.ifaces) && s.ifaces[class].is(name)) != not
	}
	on := listing("on ", names)
	s.define(axIface, len(names), func(x set) string {
		switch last := len(names) - 1; {
		case !s.o.guessed || !x[last]:
			return on(x)
		case x.whole():
			return "on every interface"
		}
		return "on every interface other than " + strings.TrimPrefix(on(full(len(x)).without(x)), "on ")
	}, func(r *pfioctl.Rule) func(int) bool {
		return func(class int) bool {
			return is(r.Iface, r.IfaceNot, class) && (s.flow.dir == pfioctl.DirOut || is(r.Received, r.ReceivedNot, class))
		}
	})
	received := append(names, "the firewall itself")
	s.define(axReceived, len(received), listing("received on ", received), func(r *pfioctl.Rule) func(int) bool {
		return func(class int) bool { return s.flow.dir == pfioctl.DirIn || is(r.Received, r.ReceivedNot, class) }
	})
}

// protoAxis makes the axis of protocols and TCP flags. A rule that asks for flags and names no protocol looks
// at them in TCP only. Of the classes of TCP, that of the packet that opens a connection comes first.
func (s *space) protoAxis() {
	protos := []uint8{protoICMP, protoTCP, protoUDP, protoICMP6}
	for _, r := range s.rules {
		if r.Proto != 0 {
			protos = append(protos, r.Proto)
		}
	}
	slices.Sort(protos)
	for _, p := range slices.Compact(protos) {
		s.protos = append(s.protos, protoClass{p, tcpSYN})
		for flags := 0; p == protoTCP && flags < 256; flags++ {
			if flags != tcpSYN {
				s.protos = append(s.protos, protoClass{p, uint8(flags)})
			}
		}
	}
	s.protos = append(s.protos, protoClass{})
	const other = "tcp other than what opens a connection"
	var names []string
	for _, p := range s.protos {
		name := cmp.Or(protoNames[p.proto], "protocol "+strconv.Itoa(int(p.proto)))
		if p.proto == protoTCP && !p.opens() {
			name = other
		}
		names = append(names, name)
	}
	list, n := listing("", names), len(names)
	s.common = where(n, func(i int) bool { return names[i] != other })
	s.define(axProto, n, func(x set) string {
		return strings.Replace(list(x), "tcp, "+other, "tcp", 1)
	}, func(r *pfioctl.Rule) func(int) bool {
		return func(class int) bool {
			p := s.protos[class]
			return (r.Proto == 0 || p.proto == r.Proto) && (p.proto != protoTCP || p.flags&r.TCPFlagSet == r.TCPFlags)
		}
	}).usual = where(n, func(i int) bool { return s.protos[i].proto == protoUDP || s.protos[i].opens() })
}

// valueAxes makes the axes of tags and ICMP types: the values that rules name, and the others. An ICMP type that
// a rule names with a code is also a class without it.
func (s *space) valueAxes() {
	for _, a := range []struct {
		ax             int
		prefix, others string
		code           string                                   // separates the code from the type
		value          func(*pfioctl.Rule) (v string, not bool) // "": the rule does not ask
	}{
		{axICMP, "of icmp type ", "another", " code ", func(r *pfioctl.Rule) (string, bool) {
			switch {
			case r.ICMPType < 0:
				return "", false
			case r.ICMPCode < 0:
				return strconv.Itoa(r.ICMPType), false
			}
			return fmt.Sprintf("%d code %d", r.ICMPType, r.ICMPCode), false
		}},
		{axTag, "", "untagged", "\x00", func(r *pfioctl.Rule) (string, bool) {
			if r.Tag == "" {
				return "", false
			}
			return "tagged " + r.Tag, r.TagNot
		}},
	} {
		names := []string{a.others}
		for _, r := range s.rules {
			if v, _ := a.value(r); v != "" {
				kind, _, _ := strings.Cut(v, a.code)
				names = append(names, kind, v)
			}
		}
		slices.SortFunc(names[1:], func(a, b string) int { return cmp.Or(len(a)-len(b), strings.Compare(a, b)) })
		names = slices.Compact(names)
		s.define(a.ax, len(names), listing(a.prefix, names), func(r *pfioctl.Rule) func(int) bool {
			v, not := a.value(r)
			if v == "" {
				return nil
			}
			return func(class int) bool {
				return (class > 0 && (names[class] == v || strings.HasPrefix(names[class], v+a.code))) != not
			}
		}).usual = only(len(names), 0)
	}
}

// rangeAxes makes the axes of numbers. Packets without a socket match only = and != (pf.c: pf_match_uid,
// pf_match_gid).
func (s *space) rangeAxes() {
	for _, a := range rangeAxes {
		var at []interval
		for _, r := range s.rules {
			if v := a.value(r); v.Op != "" {
				at = append(at, interval{number(v.A), number(v.A)}, interval{number(v.B), number(v.B)})
			}
		}
		if a.usual >= 0 {
			at = append(at, interval{number(uint32(a.usual)), number(uint32(a.usual))})
		}
		line := cut(interval{number(0), number(a.top)}, at)
		first := func(class int) uint32 { return value(line[class].first) }
		ax := s.define(a.ax, len(line), func(x set) string {
			return a.prefix + runs(line, x, len(line), interval.numbers)
		}, func(r *pfioctl.Rule) func(int) bool {
			v := a.value(r)
			if v.Op == "" {
				return nil
			}
			return func(class int) bool {
				return v.Contains(first(class)) && (first(class) != noSocket || v.Op == "=" || v.Op == "!=")
			}
		})
		ax.line = line
		if a.usual >= 0 {
			ax.usual = where(len(line), func(class int) bool { return first(class) == uint32(a.usual) })
		}
	}
}

// addressAxes makes the axes of the family and of the two addresses in each family. What the policy never
// blocks is no value of the listed address. Usual are the addresses that no rule names.
func (s *space) addressAxes() {
	var never []interval
	for _, p := range s.o.Never {
		never = append(never, prefixInterval(p))
	}
	s.define(axFamily, 2, listing("", []string{"IPv4", "IPv6"}), func(r *pfioctl.Rule) func(int) bool {
		src, fromSome := addrInterval(&r.Src)
		dst, toSome := addrInterval(&r.Dst)
		return func(class int) bool {
			v6 := class == 1
			return (r.AF == 0 || (r.AF != pfioctl.AFInet) == v6) && (!fromSome || src.first.Is6() == v6) && (!toSome || dst.first.Is6() == v6)
		}
	})
	for family, zero := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		s.addressAxis(axListed4+family, zero, true, s.flow.word(true)+" listed addresses in ", never)
		s.addressAxis(axPeer4+family, zero, false, s.flow.word(false)+" ", nil)
	}
}

func (s *space) addressAxis(ax int, zero netip.Addr, listed bool, prefix string, never []interval) {
	var named []interval
	for _, r := range s.rules {
		if i, ok := addrInterval(s.flow.side(r, listed)); ok {
			named = append(named, i)
		}
	}
	line := cut(prefixInterval(netip.PrefixFrom(zero, 0)), slices.Concat(named, never))
	in := func(all []interval) set {
		return where(len(line), func(class int) bool { return slices.ContainsFunc(all, line[class].inside) })
	}
	a := s.define(ax, len(line), func(x set) string {
		const most = 4
		return prefix + runs(line, x, most, interval.addresses)
	}, func(r *pfioctl.Rule) func(int) bool {
		side := s.flow.side(r, listed)
		i, ok := addrInterval(side)
		if !ok || i.first.BitLen() != zero.BitLen() {
			return nil
		}
		return func(class int) bool { return line[class].inside(i) != side.Not }
	})
	a.line, a.all = line, a.all.without(in(never))
	a.usual = a.all.without(in(named))
}

// irrelevant reports whether an axis says nothing about a box: an address of the family that it has not.
func (s *space) irrelevant(ax int, b box) bool {
	return !b[axFamily][0] && (ax == axListed4 || ax == axPeer4) || !b[axFamily][1] && (ax == axListed6 || ax == axPeer6)
}

// special returns an axis on which no packet of a box is an ordinary one, nil if there is none.
func (s *space) special(b box) *axis {
	for i := range s.axes {
		if !s.irrelevant(i, b) && !b[i].meets(s.axes[i].usual) {
			return &s.axes[i]
		}
	}
	return nil
}

// rare reports whether a box has only packets that hardly come: TCP without a connection.
func (s *space) rare(b box) bool { return !b[axProto].meets(s.common) }

// restricted returns the phrases of the axes on which a box does not have all classes, "" for none.
func (s *space) restricted(b box) string {
	whole := s.whole()
	whole[axProto] = s.common
	var words []string
	for i := range s.axes {
		if !whole[i].within(b[i]) && !s.irrelevant(i, b) {
			words = append(words, s.axes[i].phrase(b[i]))
		}
	}
	const most = 6
	if len(words) > most {
		words = append(words[:most], "…")
	}
	return strings.Join(words, " ")
}
