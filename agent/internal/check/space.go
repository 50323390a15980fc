package check

import (
	"cmp"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/pfioctl"
)

// A set is a subset of the values of an axis, one bit each.
type set []uint64

func newSet(n int) set { return make(set, (n+63)/64) }

func fullSet(n int) set {
	s := newSet(n)
	for i := range n {
		s.add(i)
	}
	return s
}

func (s set) add(i int)      { s[i/64] |= 1 << (i % 64) }
func (s set) has(i int) bool { return s[i/64]>>(i%64)&1 != 0 }

func (s set) empty() bool {
	for _, w := range s {
		if w != 0 {
			return false
		}
	}
	return true
}

func (s set) count() (n int) {
	for _, w := range s {
		n += bits.OnesCount64(w)
	}
	return n
}

// zip combines two sets into a new one.
func zip(a, b set, f func(x, y uint64) uint64) set {
	out := make(set, len(a))
	for i := range a {
		out[i] = f(a[i], b[i])
	}
	return out
}

func (s set) and(t set) set   { return zip(s, t, func(x, y uint64) uint64 { return x & y }) }
func (s set) or(t set) set    { return zip(s, t, func(x, y uint64) uint64 { return x | y }) }
func (s set) minus(t set) set { return zip(s, t, func(x, y uint64) uint64 { return x &^ y }) }
func (s set) meets(t set) bool {
	for i := range s {
		if s[i]&t[i] != 0 {
			return true
		}
	}
	return false
}

// An axis is one property of packets that rules ask for. Its values are classes
// of what no loaded rule tells apart.
type axis struct {
	name string
	n    int
	// usual has the values of ordinary packets. What only packets with other
	// values can do is a matter of a few, not of everybody on a list. Nil: all.
	usual set
	// phrase describes packets that have one of some of the values.
	phrase func(set) string
	// fixed has what is known from the start; nil is nothing.
	fixed set
	table bool // the question whether an address is in a table
}

// Axes that every space has. Those behind them are yes or no: a table, a
// chance, an address that only the kernel can tell.
const (
	axIface = iota
	axFamily
	axProto
	axSrcPort
	axDstPort
	axBad4 // the listed address
	axBad6
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

// A flow is which way packets of a listed address go. The other address is on no
// list.
type flow struct {
	dir pfioctl.Direction
	src bool // the listed address is the source
}

// A box is a set of packets: those that have on each axis one of the values.
type box []set

// split cuts a box along a condition: the part that fulfils it, nil if there is
// none, and the rest, in parts that have nothing in common.
func (b box) split(c *condition) (in box, rest []box) {
	if !b.meets(c) {
		return nil, nil
	}
	in = b
	for i, ax := range c.axes {
		out := in[ax].minus(c.sets[i])
		if out.empty() {
			continue
		}
		piece := slices.Clone(in)
		piece[ax] = out
		rest = append(rest, piece)
		in = slices.Clone(in)
		in[ax] = in[ax].and(c.sets[i])
	}
	return in, rest
}

// meets reports whether a condition holds for some packets of the box.
func (b box) meets(c *condition) bool {
	for i, ax := range c.axes {
		if !b[ax].meets(c.sets[i]) {
			return false
		}
	}
	return !c.never
}

// inside reports whether a condition holds for all packets of the box.
func (b box) inside(c *condition) bool {
	for i, ax := range c.axes {
		if !b[ax].minus(c.sets[i]).empty() {
			return false
		}
	}
	return !c.never
}

// A condition is which packets a rule matches.
type condition struct {
	never bool
	axes  []int
	sets  []set
}

func (c *condition) on(ax int, s set) {
	if i := slices.Index(c.axes, ax); i >= 0 {
		c.sets[i] = c.sets[i].and(s)
		return
	}
	c.axes = append(c.axes, ax)
	c.sets = append(c.sets, s)
}

// A space has all packets of a flow, told apart as far as the rules do.
type space struct {
	o    *RulesOptions
	flow flow
	axes []axis
	yes  map[string]int // index of the yes-or-no axes by key

	ifaces      []Interface
	protos      []protoClass
	common      set // all of protos but packets of TCP that belong to no connection
	src, dst    []interval
	bad4, bad6  []addrInterval
	peer4       []addrInterval
	peer6       []addrInterval
	icmp        [][2]int
	users       []interval
	groups      []interval
	tags        []string
	rdomains    []int
	tos         []int
	prios       []int
	conditions  map[*pfioctl.Rule]*condition
	unnamedIfs  bool // the interfaces are those that the rules mention
	quickAnchor bool
}

// An interval has all numbers from one on to the next interval.
type interval struct{ first, last uint32 }

type addrInterval struct{ first, last netip.Addr }

// noUser stands for no local socket (UID_MAX, GID_MAX).
const noUser = 1<<32 - 1

// newSpace makes the space of a flow from all rules that a packet can meet.
func newSpace(rs *pfioctl.Ruleset, o *RulesOptions, f flow) *space {
	s := &space{o: o, flow: f, yes: make(map[string]int), conditions: make(map[*pfioctl.Rule]*condition)}
	var rules []*pfioctl.Rule
	eachRule(rs, func(r *pfioctl.Rule) {
		rules = append(rules, r)
		s.quickAnchor = s.quickAnchor || r.Call != "" && r.Quick
	})
	s.axes = make([]axis, axes)
	s.interfaces(rules)
	s.protocols(rules)
	s.numbers(rules)
	s.ports(rules)
	s.addresses(rules)
	s.icmpTypes(rules)
	s.sockets(rules)
	for _, r := range rules {
		s.conditions[r] = s.compile(r)
	}
	return s
}

// whole returns the box of all packets.
func (s *space) whole() box {
	b := make(box, len(s.axes))
	for i, a := range s.axes {
		b[i] = fullSet(a.n)
		if a.fixed != nil {
			b[i] = a.fixed
		}
	}
	return b
}

// eachRule calls f for every rule that is reached from rs, each once.
func eachRule(rs *pfioctl.Ruleset, f func(*pfioctl.Rule)) {
	seen := make(map[*pfioctl.Ruleset]bool)
	var walk func(rs *pfioctl.Ruleset)
	walk = func(rs *pfioctl.Ruleset) {
		if seen[rs] {
			return
		}
		seen[rs] = true
		for i := range rs.Rules {
			f(&rs.Rules[i])
			for _, c := range rs.Rules[i].Called {
				walk(c)
			}
		}
	}
	walk(rs)
}

// interfaces makes the axis of interfaces: those of the machine where they are
// known, else one for each that a rule names and one for the others.
func (s *space) interfaces(rules []*pfioctl.Rule) {
	if len(s.o.Interfaces) > 0 {
		for _, i := range s.o.Interfaces {
			if !i.Loopback && !s.o.skips(i) {
				s.ifaces = append(s.ifaces, i)
			}
		}
	} else {
		s.unnamedIfs = true
		seen := make(map[string]bool)
		for _, r := range rules {
			for _, name := range []string{r.Iface, r.Received} {
				if name == "" || name == "any" || seen[name] || isLoopback(name) {
					continue
				}
				seen[name] = true
				i := Interface{Name: name}
				if isGroup(name) {
					i = Interface{Name: "those of group " + name, Groups: []string{name}}
				} else {
					i.Groups = []string{driver(name)}
				}
				if !s.o.skips(i) {
					s.ifaces = append(s.ifaces, i)
				}
			}
		}
		s.ifaces = append(s.ifaces, Interface{Name: "other interfaces"})
	}
	names := make([]string, len(s.ifaces))
	for i := range s.ifaces {
		names[i] = s.ifaces[i].Name
	}
	s.axes[axIface] = axis{name: "interface", n: len(names), phrase: func(x set) string { return "on " + s.nameIfaces(x) }}
	received := append(names, "the firewall itself")
	s.axes[axReceived] = axis{name: "received", n: len(received), phrase: func(x set) string { return "received on " + some(received, x) }}
}

// nameIfaces names interfaces, or those that are left out where that is shorter.
func (s *space) nameIfaces(x set) string {
	var in, out []string
	for i, f := range s.ifaces {
		if x.has(i) {
			in = append(in, f.Name)
		} else {
			out = append(out, f.Name)
		}
	}
	if s.unnamedIfs && x.has(len(s.ifaces)-1) {
		if len(out) == 0 {
			return "every interface"
		}
		return "every interface other than " + strings.Join(out, ", ")
	}
	return strings.Join(in, ", ")
}

// some lists the names that are in a set.
func some(names []string, x set) string {
	var in []string
	for i, n := range names {
		if x.has(i) {
			in = append(in, n)
		}
	}
	return strings.Join(in, ", ")
}

// distinct returns each number once, ascending.
func distinct[T cmp.Ordered](all []T) []T {
	slices.Sort(all)
	return slices.Compact(all)
}

// one returns the set of one value.
func one(n, i int) set {
	s := newSet(n)
	s.add(i)
	return s
}

// numbers makes the axes of what rules compare for equality.
func (s *space) numbers(rules []*pfioctl.Rule) {
	s.axes[axFamily] = axis{name: "family", n: 2, phrase: func(x set) string { return some([]string{"IPv4", "IPv6"}, x) }}

	for _, r := range rules {
		if r.Tag != "" {
			s.tags = append(s.tags, r.Tag)
		}
		if r.RDomain >= 0 {
			s.rdomains = append(s.rdomains, r.RDomain)
		}
		if r.TOS != 0 {
			s.tos = append(s.tos, int(r.TOS))
		}
		if r.Prio >= 0 {
			s.prios = append(s.prios, r.Prio)
		}
	}
	s.tags = distinct(s.tags)
	tags := []string{"untagged"}
	for _, t := range s.tags {
		tags = append(tags, "tagged "+t)
	}
	s.axes[axTag] = axis{name: "tag", n: len(tags), usual: one(len(tags), 0), phrase: func(x set) string { return some(tags, x) }}

	// The routing domain that nearly everything is in is 0.
	s.rdomains = distinct(append(s.rdomains, 0))
	s.axes[axRDomain] = equality("rdomain", "in rdomain", s.rdomains, 0)
	s.tos = distinct(s.tos)
	s.axes[axTOS] = equality("tos", "with tos", s.tos, len(s.tos))
	s.prios = distinct(s.prios)
	s.axes[axPrio] = equality("prio", "with prio", s.prios, len(s.prios))
}

// equality is an axis of numbers and, behind them, all others.
func equality(name, phrase string, values []int, usual int) axis {
	var words []string
	for _, v := range values {
		words = append(words, strconv.Itoa(v))
	}
	words = append(words, "another")
	return axis{name: name, n: len(words), usual: one(len(words), usual), phrase: func(x set) string { return phrase + " " + some(words, x) }}
}

// equals is the condition that a number of an equality axis be v.
func equals(values []int, v int, not bool) set {
	x := newSet(len(values) + 1)
	for i := range len(values) + 1 {
		if (i < len(values) && values[i] == v) != not {
			x.add(i)
		}
	}
	return x
}

// cut cuts the numbers up to top where one of the conditions begins or ceases to
// hold.
func cut(ranges []pfioctl.Range, top uint32) []interval {
	starts := []uint32{0}
	for _, r := range ranges {
		for _, n := range []uint32{r.A, r.B} {
			if n <= top {
				starts = append(starts, n)
			}
			if n < top {
				starts = append(starts, n+1)
			}
		}
	}
	starts = distinct(starts)
	all := make([]interval, len(starts))
	for i, first := range starts {
		all[i] = interval{first, top}
		if i+1 < len(starts) {
			all[i].last = starts[i+1] - 1
		}
	}
	return all
}

func (i interval) String() string {
	if i.first == i.last {
		return strconv.FormatUint(uint64(i.first), 10)
	}
	return fmt.Sprintf("%d:%d", i.first, i.last)
}

// merge writes intervals, neighbours as one.
func merge(all []interval, x set) string {
	var out []string
	for i := 0; i < len(all); i++ {
		if !x.has(i) {
			continue
		}
		run := all[i]
		for i+1 < len(all) && x.has(i+1) {
			i++
			run.last = all[i].last
		}
		out = append(out, run.String())
	}
	return strings.Join(out, ", ")
}

func (s *space) ports(rules []*pfioctl.Rule) {
	var src, dst []pfioctl.Range
	for _, r := range rules {
		if r.Src.Port.Op != pfioctl.OpNone {
			src = append(src, r.Src.Port)
		}
		if r.Dst.Port.Op != pfioctl.OpNone {
			dst = append(dst, r.Dst.Port)
		}
	}
	s.src, s.dst = cut(src, 65535), cut(dst, 65535)
	s.axes[axSrcPort] = axis{name: "source port", n: len(s.src), phrase: func(x set) string { return "from port " + merge(s.src, x) }}
	s.axes[axDstPort] = axis{name: "port", n: len(s.dst), phrase: func(x set) string { return "to port " + merge(s.dst, x) }}
}

// within is the condition that a number lie in a range.
func within(all []interval, r pfioctl.Range) set {
	x := newSet(len(all))
	for i, v := range all {
		if r.Contains(v.first) {
			x.add(i)
		}
	}
	return x
}

// addresses makes the axes of the addresses themselves. What the policy never
// blocks is no value of the listed one.
func (s *space) addresses(rules []*pfioctl.Rule) {
	var bad, peer []addrInterval
	never := make([]addrInterval, 0, 16)
	for _, x := range policy.DefaultExceptions() {
		never = append(never, prefixInterval(x.Prefix))
	}
	for _, r := range rules {
		for _, side := range []struct {
			a   *pfioctl.RuleAddr
			bad bool
		}{{&r.Src, s.flow.src}, {&r.Dst, !s.flow.src}} {
			if i, ok := addrRange(side.a); ok {
				if side.bad {
					bad = append(bad, i)
				} else {
					peer = append(peer, i)
				}
			}
		}
	}
	who, other := "from", "to"
	if !s.flow.src {
		who, other = "to", "from"
	}
	for _, f := range []struct {
		ax     int
		to     *[]addrInterval
		bits   int
		rules  []addrInterval
		never  []addrInterval
		phrase string
	}{
		{axBad4, &s.bad4, 32, bad, never, who + " listed addresses in "},
		{axBad6, &s.bad6, 128, bad, never, who + " listed addresses in "},
		{axPeer4, &s.peer4, 32, peer, nil, other + " "},
		{axPeer6, &s.peer6, 128, peer, nil, other + " "},
	} {
		all := cutAddrs(append(slices.Clone(f.rules), f.never...), f.bits)
		*f.to = all
		a := axis{name: "address", n: len(all), usual: newSet(len(all)), fixed: newSet(len(all)), phrase: func(x set) string { return f.phrase + mergeAddrs(all, x) }}
		for i, v := range all {
			if !slices.ContainsFunc(f.never, v.inside) {
				a.fixed.add(i)
				if !slices.ContainsFunc(f.rules, v.inside) {
					a.usual.add(i)
				}
			}
		}
		s.axes[f.ax] = a
	}
}

// addrRange returns the addresses of a rule that names some, as from the first to
// the last.
func addrRange(a *pfioctl.RuleAddr) (addrInterval, bool) {
	switch a.Type {
	case pfioctl.AddrMask:
		if p, ok := a.Prefix(); ok && p.IsValid() {
			return prefixInterval(p), true
		}
	case pfioctl.AddrRange:
		if a.Addr.IsValid() && a.Mask.IsValid() && a.Addr.BitLen() == a.Mask.BitLen() && a.Addr.Compare(a.Mask) <= 0 {
			return addrInterval{a.Addr, a.Mask}, true
		}
	}
	return addrInterval{}, false
}

func prefixInterval(p netip.Prefix) addrInterval {
	p = p.Masked()
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < 8*len(b); i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	last, _ := netip.AddrFromSlice(b)
	return addrInterval{p.Addr(), last}
}

func (i addrInterval) inside(o addrInterval) bool {
	return i.first.BitLen() == o.first.BitLen() && o.first.Compare(i.first) <= 0 && i.last.Compare(o.last) <= 0
}

func cutAddrs(all []addrInterval, bits int) []addrInterval {
	zero, _ := netip.AddrFromSlice(make([]byte, bits/8))
	whole := prefixInterval(netip.PrefixFrom(zero, 0))
	starts := []netip.Addr{zero}
	for _, i := range all {
		if i.first.BitLen() != bits {
			continue
		}
		starts = append(starts, i.first)
		if next := i.last.Next(); next.IsValid() {
			starts = append(starts, next)
		}
	}
	slices.SortFunc(starts, netip.Addr.Compare)
	starts = slices.Compact(starts)
	out := make([]addrInterval, len(starts))
	for i, first := range starts {
		out[i] = addrInterval{first, whole.last}
		if i+1 < len(starts) {
			out[i].last = starts[i+1].Prev()
		}
	}
	return out
}

// mergeAddrs writes intervals of addresses, neighbours as one, at most a few.
func mergeAddrs(all []addrInterval, x set) string {
	const most = 4
	var out []string
	for i := 0; i < len(all); i++ {
		if !x.has(i) {
			continue
		}
		run := all[i]
		for i+1 < len(all) && x.has(i+1) {
			i++
			run.last = all[i].last
		}
		out = append(out, run.String())
	}
	if len(out) > most {
		out = append(out[:most], "…")
	}
	return strings.Join(out, ", ")
}

func (i addrInterval) String() string {
	if i.first == i.last {
		return i.first.String()
	}
	for n := range i.first.BitLen() {
		if p := netip.PrefixFrom(i.first, n); p.Masked().Addr() == i.first && prefixInterval(p) == i {
			return p.String()
		}
	}
	return i.first.String() + "-" + i.last.String()
}

// A protoClass is a protocol; TCP has several, by the flags that rules ask for.
type protoClass struct {
	proto uint8
	flags uint8 // one combination of the class
	other bool  // all protocols that no rule names
}

// protocols makes the axis of protocols and TCP's flags: a rule that asks for
// flags and names no protocol looks at them in TCP only. Of the classes of TCP
// the first is that of the packet that opens a connection.
func (s *space) protocols(rules []*pfioctl.Rule) {
	type test struct{ flags, of uint8 }
	var tests []test
	protos := []uint8{protoICMP, protoTCP, protoUDP, protoICMP6}
	for _, r := range rules {
		if r.Proto != 0 {
			protos = append(protos, r.Proto)
		}
		if t := (test{r.TCPFlags, r.TCPFlagSet}); t.of != 0 && !slices.Contains(tests, t) {
			tests = append(tests, t)
		}
	}
	for _, p := range distinct(protos) {
		if p != protoTCP {
			s.protos = append(s.protos, protoClass{proto: p})
			continue
		}
		seen := make(map[string]bool)
		for n := range 256 {
			f := uint8(n) ^ tcpSYN // SYN comes first
			var key strings.Builder
			for _, t := range tests {
				fmt.Fprint(&key, f&t.of == t.flags)
			}
			if !seen[key.String()] {
				seen[key.String()] = true
				s.protos = append(s.protos, protoClass{proto: p, flags: f})
			}
		}
	}
	s.protos = append(s.protos, protoClass{other: true})
	n := len(s.protos)
	usual := newSet(n)
	s.common = newSet(n)
	for i, p := range s.protos {
		if p.proto != protoTCP || p.flags == tcpSYN {
			s.common.add(i)
		}
		if p.proto == protoUDP || p.proto == protoTCP && p.flags == tcpSYN {
			usual.add(i)
		}
	}
	s.axes[axProto] = axis{name: "protocol", n: n, usual: usual, phrase: s.nameProtos}
}

func (s *space) nameProtos(x set) string {
	var names []string
	for i, p := range s.protos {
		switch {
		case !x.has(i):
		case p.other:
			names = append(names, "other protocols")
		case p.proto == protoTCP && p.flags != tcpSYN:
			if len(names) == 0 || !strings.HasPrefix(names[len(names)-1], "tcp") {
				names = append(names, "tcp other than what opens a connection")
			}
		default:
			names = append(names, protoName(p.proto))
		}
	}
	return strings.Join(names, ", ")
}

// protocol is the condition that a rule has on the protocol and TCP's flags.
func (s *space) protocol(r *pfioctl.Rule) set {
	x := newSet(len(s.protos))
	for i, p := range s.protos {
		if r.Proto != 0 && (p.other || p.proto != r.Proto) {
			continue
		}
		if p.proto == protoTCP && p.flags&r.TCPFlagSet != r.TCPFlags {
			continue
		}
		x.add(i)
	}
	return x
}

func (s *space) icmpTypes(rules []*pfioctl.Rule) {
	for _, r := range rules {
		if r.ICMPType >= 0 {
			s.icmp = append(s.icmp, [2]int{r.ICMPType, -1})
			if r.ICMPCode >= 0 {
				s.icmp = append(s.icmp, [2]int{r.ICMPType, r.ICMPCode})
			}
		}
	}
	s.icmp = append(s.icmp, [2]int{-1, -1})
	slices.SortFunc(s.icmp, func(a, b [2]int) int { return slices.Compare(a[:], b[:]) })
	s.icmp = slices.Compact(s.icmp)
	names := make([]string, len(s.icmp))
	for i, t := range s.icmp {
		switch {
		case t[0] < 0:
			names[i] = "another"
		case t[1] < 0:
			names[i] = strconv.Itoa(t[0])
		default:
			names[i] = fmt.Sprintf("%d code %d", t[0], t[1])
		}
	}
	s.axes[axICMP] = axis{name: "icmp", n: len(names), usual: one(len(names), 0), phrase: func(x set) string { return "of icmp type " + some(names, x) }}
}

// sockets makes the axes of users and groups. The last value is that of packets
// that no local socket sends or gets, such as all that are forwarded.
func (s *space) sockets(rules []*pfioctl.Rule) {
	var users, groups []pfioctl.Range
	for _, r := range rules {
		if r.User.Op != pfioctl.OpNone {
			users = append(users, r.User)
		}
		if r.Group.Op != pfioctl.OpNone {
			groups = append(groups, r.Group)
		}
	}
	s.users, s.groups = cut(users, noUser-1), cut(groups, noUser-1)
	for _, a := range []struct {
		ax   int
		name string
		all  []interval
	}{{axUser, "user", s.users}, {axGroup, "group", s.groups}} {
		n := len(a.all) + 1
		s.axes[a.ax] = axis{name: a.name, n: n, usual: one(n, n-1), phrase: func(x set) string {
			var parts []string
			if own := x.and(fullSet(n).minus(one(n, n-1))); !own.empty() {
				parts = append(parts, "of "+a.name+" "+merge(a.all, own))
			}
			if x.has(n - 1) {
				parts = append(parts, "of no local "+a.name)
			}
			return strings.Join(parts, " or ")
		}}
	}
}

// socket is pf.c: pf_match_uid, pf_match_gid.
func socket(all []interval, r pfioctl.Range) set {
	x := newSet(len(all) + 1)
	for i, v := range all {
		if r.Contains(v.first) {
			x.add(i)
		}
	}
	if (r.Op == pfioctl.OpEqual || r.Op == pfioctl.OpNotEqual) && r.Contains(noUser) {
		x.add(len(all))
	}
	return x
}

// question is a yes-or-no axis: the condition that its answer be yes. The usual
// answer is no.
func (s *space) question(c *condition, key, yes, no string, want bool) {
	ax, ok := s.yes[key]
	if !ok {
		ax = len(s.axes)
		s.yes[key] = ax
		s.axes = append(s.axes, axis{name: key, n: 2, usual: one(2, 0), phrase: func(x set) string {
			if x.has(1) {
				return yes
			}
			return no
		}})
	}
	if want {
		c.on(ax, one(2, 1))
	} else {
		c.on(ax, one(2, 0))
	}
}

// chance is a question whose answers are both usual.
func (s *space) chance(c *condition, key, yes, no string) {
	s.question(c, key, yes, no, true)
	s.axes[s.yes[key]].usual = nil
}

// compile makes the condition of a rule (pf.c: pf_match_rule).
func (s *space) compile(r *pfioctl.Rule) *condition {
	c := &condition{}
	switch {
	case r.Flags&pfioctl.RuleExpired != 0,
		r.Dir != pfioctl.DirBoth && r.Dir != s.flow.dir,
		// Fragments are put together before they meet rules.
		r.Flags&pfioctl.RuleFragment != 0:
		return &condition{never: true}
	}
	if r.Iface != "" {
		x := newSet(len(s.ifaces))
		for i, f := range s.ifaces {
			if f.is(r.Iface) != r.IfaceNot {
				x.add(i)
			}
		}
		c.on(axIface, x)
	}
	if r.RDomain >= 0 {
		c.on(axRDomain, equals(s.rdomains, r.RDomain, r.IfaceNot && r.Iface == ""))
	}
	if r.Received != "" {
		s.received(c, r)
	}
	switch r.AF {
	case 0:
	case pfioctl.AFInet:
		c.on(axFamily, one(2, 0))
	default:
		c.on(axFamily, one(2, 1))
	}
	if r.Proto != 0 || r.TCPFlagSet != 0 {
		c.on(axProto, s.protocol(r))
	}
	s.address(c, r, &r.Src, s.flow.src)
	s.address(c, r, &r.Dst, !s.flow.src)
	if r.Src.Port.Op != pfioctl.OpNone {
		c.on(axSrcPort, within(s.src, r.Src.Port))
	}
	if r.Dst.Port.Op != pfioctl.OpNone {
		c.on(axDstPort, within(s.dst, r.Dst.Port))
	}
	s.details(c, r)
	s.chances(c, r)
	if slices.ContainsFunc(c.sets, set.empty) {
		c.never = true
	}
	return c
}

// received adds the condition on the interface that a packet came in by, which
// for one that comes in just now is the one it is on.
func (s *space) received(c *condition, r *pfioctl.Rule) {
	n := len(s.ifaces)
	x := newSet(n + 1)
	for i, f := range s.ifaces {
		if f.is(r.Received) != r.ReceivedNot {
			x.add(i)
		}
	}
	if s.flow.dir == pfioctl.DirIn {
		on := newSet(n)
		for i := range n {
			if x.has(i) {
				on.add(i)
			}
		}
		c.on(axIface, on)
		return
	}
	if r.ReceivedNot {
		x.add(n)
	}
	c.on(axReceived, x)
}

// details adds what else is in a packet, or known of it.
func (s *space) details(c *condition, r *pfioctl.Rule) {
	if r.ICMPType >= 0 {
		x := newSet(len(s.icmp))
		for i, t := range s.icmp {
			if t[0] == r.ICMPType && (r.ICMPCode < 0 || t[1] == r.ICMPCode) {
				x.add(i)
			}
		}
		c.on(axICMP, x)
	}
	if r.User.Op != pfioctl.OpNone {
		c.on(axUser, socket(s.users, r.User))
	}
	if r.Group.Op != pfioctl.OpNone {
		c.on(axGroup, socket(s.groups, r.Group))
	}
	if r.Tag != "" {
		n := len(s.tags) + 1
		x := one(n, 1+slices.Index(s.tags, r.Tag))
		if r.TagNot {
			x = fullSet(n).minus(x)
		}
		c.on(axTag, x)
	}
	if r.TOS != 0 {
		c.on(axTOS, equals(s.tos, int(r.TOS), false))
	}
	if r.Prio >= 0 {
		c.on(axPrio, equals(s.prios, r.Prio, false))
	}
	if r.OS != 0 {
		name := fmt.Sprintf("os %#x", r.OS)
		s.question(c, name, "of an operating system that a rule names", "of other operating systems than a rule names", true)
	}
}

// chances adds what makes a rule match at some times and not at others.
func (s *space) chances(c *condition, r *pfioctl.Rule) {
	key := ruleName(r)
	if r.Probability != 0 {
		s.chance(c, "probability "+key, "that probability lets through", "that probability spares")
	}
	if r.RateLimit != 0 {
		s.chance(c, "rate "+key, "up to a rate", "beyond a rate")
	}
	if r.StateLimiter.ID != 0 || r.SourceLimiter.ID != 0 {
		// A rule whose limiter does not exist, or is full and says no-match, is
		// skipped. That it has room is the usual case.
		s.chance(c, "limiter "+key, "within a limiter", "beyond a limiter, or if it does not exist")
		s.axes[s.yes["limiter "+key]].usual = one(2, 1)
	}
	if r.Flags&pfioctl.RuleOnce != 0 {
		s.chance(c, "once "+key, "the first time", "after the first time")
	}
}

// address adds the condition on one side of a rule (pfvar.h: PF_MISMATCHAW).
func (s *space) address(c *condition, r *pfioctl.Rule, a *pfioctl.RuleAddr, bad bool) {
	who := "peer"
	if bad {
		who = "listed"
	}
	word := map[bool]string{true: "from", false: "to"}[bad == s.flow.src]
	switch a.Type {
	case pfioctl.AddrMask, pfioctl.AddrRange:
		if a.Type == pfioctl.AddrMask && !a.Mask.IsValid() {
			return // any, whatever the negation
		}
		i, ok := addrRange(a)
		if !ok {
			key := fmt.Sprintf("%s %s", who, a.String())
			s.question(c, key, fmt.Sprintf("%s %s", word, plain(a)), fmt.Sprintf("not %s %s", word, plain(a)), !a.Not)
			return
		}
		if i.first == i.last || a.Type == pfioctl.AddrRange || !isWhole(i) {
			s.interval(c, i, a.Not, bad)
		}
	case pfioctl.AddrTable:
		s.table(c, r, a, bad, who, word)
	case pfioctl.AddrDynamic:
		if bad && a.Dyn&pfioctl.DynNetwork == 0 {
			// The addresses of this host are never listed.
			c.never = c.never || !a.Not
			return
		}
		s.question(c, who+" "+plain(a), word+" "+plain(a), "not "+word+" "+plain(a), !a.Not)
	case pfioctl.AddrNone:
		c.never = true
	default:
		// What the routing table says; for no-route there is no negation.
		s.question(c, who+" "+plain(a), word+" "+plain(a), "not "+word+" "+plain(a), !a.Not)
	}
}

func isWhole(i addrInterval) bool {
	return i.inside(prefixInterval(netip.PrefixFrom(i.first, 0))) && prefixInterval(netip.PrefixFrom(i.first, 0)).inside(i)
}

// plain writes an address without negation and port.
func plain(a *pfioctl.RuleAddr) string {
	b := *a
	b.Not, b.Port = false, pfioctl.Range{}
	return b.String()
}

func (s *space) interval(c *condition, i addrInterval, not, bad bool) {
	all, ax, family := s.peer6, axPeer6, 1
	switch {
	case i.first.Is4() && bad:
		all, ax, family = s.bad4, axBad4, 0
	case i.first.Is4():
		all, ax, family = s.peer4, axPeer4, 0
	case bad:
		all, ax = s.bad6, axBad6
	}
	x := newSet(len(all))
	for n, v := range all {
		if v.inside(i) != not {
			x.add(n)
		}
	}
	c.on(axFamily, one(2, family))
	c.on(ax, x)
}

// table adds the condition that an address be in a table.
func (s *space) table(c *condition, r *pfioctl.Rule, a *pfioctl.RuleAddr, bad bool, who, word string) {
	t, active := s.o.tableOf(r, a)
	in := false // known to be in, or known to be out
	switch {
	case !active:
	case t == s.o.Block:
		in = bad
	case t == s.o.Allow && s.o.AllowCarved && bad:
		// What allow lists have is carved out of the block table.
	default:
		empty := ""
		if a.Count == 0 {
			empty = " (empty now)"
		}
		key := fmt.Sprintf("%s <%s>", who, t)
		s.question(c, key, fmt.Sprintf("%s addresses in table <%s> too%s", word, t, empty), fmt.Sprintf("%s addresses not in table <%s>", word, t), !a.Not)
		s.axes[s.yes[key]].table = true
		return
	}
	c.never = c.never || in == a.Not
}

// ruleName is how `pfctl -vvsr` numbers a rule.
func ruleName(r *pfioctl.Rule) string {
	if r.Anchor != "" {
		return fmt.Sprintf("@%d in anchor %s", r.Nr, r.Anchor)
	}
	return fmt.Sprintf("@%d", r.Nr)
}

const (
	protoICMP  = 1
	protoTCP   = 6
	protoUDP   = 17
	protoICMP6 = 58

	tcpSYN = 0x02
)

func protoName(p uint8) string {
	for _, n := range []struct {
		p    uint8
		name string
	}{{protoICMP, "icmp"}, {2, "igmp"}, {protoTCP, "tcp"}, {protoUDP, "udp"}, {47, "gre"}, {50, "esp"}, {51, "ah"},
		{protoICMP6, "icmp6"}, {89, "ospf"}, {112, "carp"}, {132, "sctp"}, {240, "pfsync"}} {
		if n.p == p {
			return n.name
		}
	}
	return "protocol " + strconv.Itoa(int(p))
}
