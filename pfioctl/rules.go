package pfioctl

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"unsafe"

	"example.org/threatstopd/pfioctl/internal/abi"
)

// Action is what a rule does with a packet (PF_PASS and so on). Rules that are
// loaded pass, block or match.
type Action uint8

const (
	ActionPass  Action = 0
	ActionBlock Action = 1
	ActionMatch Action = 12
)

// Direction is which way a packet goes (PF_IN, PF_OUT); 0 is both.
type Direction uint8

const (
	DirBoth Direction = 0
	DirIn   Direction = 1
	DirOut  Direction = 2
)

// Address families as OpenBSD numbers them.
const (
	AFInet  = abi.AFInet
	AFInet6 = abi.AFInet6
)

// LogFlags are what a rule logs (PF_LOG_*).
type LogFlags uint8

const (
	LogFirst   LogFlags = 0x01 // the packet that makes a state, or that is blocked
	LogAll     LogFlags = 0x02 // every packet of the state
	logUser    LogFlags = 0x04 // with the user of the local socket
	LogMatches LogFlags = 0x10 // on every rule that matches later
)

// AddrType is the kind of address that a rule has (PF_ADDR_*).
type AddrType uint8

const (
	AddrMask       AddrType = 0 // Addr and Mask; a Mask of zero is any
	AddrNoRoute    AddrType = 1 // no-route: no route leads there
	AddrDynamic    AddrType = 2 // (Name): the addresses of an interface or group
	AddrTable      AddrType = 3 // <Name>
	AddrRouteLabel AddrType = 4 // route "Name"
	AddrURPFFailed AddrType = 5 // urpf-failed: the route back is by another interface
	AddrRange      AddrType = 6 // from Addr to Mask, both included
	AddrNone       AddrType = 7
)

// Range is a condition on a port, user or group.
type Range struct {
	// Op is how pf.conf writes it: "=", "!=", "<", "<=", ">" and ">=" compare with A,
	// "><" is between A and B, "<>" outside of A to B, ":" from A to B. Empty is any.
	Op   string
	A, B uint32
}

var contains = map[string]func(n, a, b uint32) bool{
	"":   func(n, a, b uint32) bool { return true },
	"=":  func(n, a, b uint32) bool { return n == a },
	"!=": func(n, a, b uint32) bool { return n != a },
	"<":  func(n, a, b uint32) bool { return n < a },
	"<=": func(n, a, b uint32) bool { return n <= a },
	">":  func(n, a, b uint32) bool { return n > a },
	">=": func(n, a, b uint32) bool { return n >= a },
	"><": func(n, a, b uint32) bool { return n > a && n < b },
	"<>": func(n, a, b uint32) bool { return n < a || n > b },
	":":  func(n, a, b uint32) bool { return n >= a && n <= b },
}

// Contains reports whether n fulfils the condition (pf.c: pf_match).
func (r Range) Contains(n uint32) bool {
	f := contains[r.Op]
	return f != nil && f(n, r.A, r.B)
}

// RuleAddr is one side of a rule: the address and the port it matches.
type RuleAddr struct {
	Type AddrType
	Not  bool // matches what the rest does not

	// Name is the table, interface, group or route label, without its
	// decoration.
	Name string
	// Count is how many addresses the table or the interface has, -1 for a table
	// that is not active. The table is the one the kernel looks at: the
	// anchor's if that is active, else the main ruleset's of that name.
	Count int
	// Dyn is how an AddrDynamic selects addresses of the interface, as pf.conf writes
	// it: any of ":network", ":broadcast", ":peer" and ":0", in this order.
	Dyn string

	// Addr and Mask are those of AddrMask and AddrRange, in the family of the
	// rule; both are the zero netip.Addr for any, and for the other types.
	Addr, Mask netip.Addr

	Port Range
}

// Any reports whether the address, its port aside, matches everything.
func (a RuleAddr) Any() bool {
	return a.Type == AddrMask && !a.Not && !a.Mask.IsValid()
}

// Prefix returns what an AddrMask with a contiguous mask stands for. It is
// false for any, for the other types, and for a mask with holes.
func (a RuleAddr) Prefix() (netip.Prefix, bool) {
	m, n := a.Mask.AsSlice(), 0
	for n < 8*len(m) && m[n/8]&(0x80>>(n%8)) != 0 {
		n++
	}
	holes := netip.PrefixFrom(a.Mask, n).Masked().Addr() != a.Mask
	if a.Type != AddrMask || m == nil || holes {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(a.Addr, n), true
}

// Limiter is a limit on the states that a rule makes, in all or for each
// source address (pf.conf(5): state limiter, source limiter).
type Limiter struct {
	ID uint8 // its number, 0 for none
	// Block says what a full limiter does: block the packet or, if false, let the
	// rule not match. A rule whose limiter does not exist does not match either way.
	Block bool
}

// Rule is a loaded rule: all that decides which packets it matches, and what
// then becomes of them as far as blocking and logging go. What it does to states
// and addresses is left out.
type Rule struct {
	Anchor string // path of the ruleset it stands in, "" for the main one
	Nr     int    // its number there, from 0

	Action Action
	Return string // how a block answers: "return", "return-rst", "return-icmp"; "" for not at all
	Dir    Direction
	Quick  bool // the last to be looked at, when it matches

	Log   LogFlags // 0: does not log
	LogIf int      // to pflogN

	Iface       string // interface or group, "" for any
	IfaceNot    bool   // not on Iface, or not in RDomain
	RDomain     int    // routing domain, -1 for any
	Received    string // interface or group the packet came in by, "" for any
	ReceivedNot bool

	AF       uint8 // AFInet, AFInet6, or 0 for both
	Proto    uint8 // 0 for any
	Src, Dst RuleAddr
	Fragment bool // matches fragments only

	TCPFlags    uint8 // of the flags in TCPFlagSet those in TCPFlags are set
	TCPFlagSet  uint8
	ICMPType    int // -1 for any
	ICMPCode    int // -1 for any
	User, Group Range
	TOS         uint8  // 0 for any
	Prio        int    // -1 for any
	OS          uint32 // fingerprint, 0 for any
	Tag         string // carried by the packet, "" for any
	TagNot      bool
	// Probability is the chance that the rule is looked at, of 2^32-1; 0 is
	// always.
	Probability uint32
	// RateLimit packets may match in RateSeconds; 0 is without limit.
	RateLimit, RateSeconds uint32
	// StateLimiter and SourceLimiter bound how many states the rule makes (7.9
	// and later). The kernel looks at them when all else matches.
	StateLimiter, SourceLimiter Limiter
	Once                        bool  // is removed with its first match
	Expired                     bool  // a once rule that had its match: matches nothing
	AllowOpts                   bool  // passes packets with IP options
	KeepState                   bool  // makes a state, whose packets see no rules
	RouteTo                     uint8 // PF_ROUTETO and so on, 0 for none
	Label                       string

	// Call is the anchor that the rule calls, as it was loaded: relative to
	// Anchor or, from "/" on, to the main ruleset; "" for a rule that is none.
	Call string
	// Called are the rulesets that the call evaluates, in order: one, or with
	// a wildcard those of all children of the anchor. A ruleset that calls
	// itself is not followed a second time.
	Called []*Ruleset

	Evaluations    uint64
	Packets, Bytes [2]uint64 // by direction
}

// Ruleset is the rules of the main ruleset or of an anchor, in order.
type Ruleset struct {
	Anchor string
	Rules  []Rule
}

// maxRules bounds what one ruleset is believed to hold.
const maxRules = 1 << 20

// errChanged says that a ruleset was replaced while it was read.
var errChanged = errors.New("rules changed")

// Rules reads the loaded rules, with all anchors that they call, and changes
// nothing: no counter is cleared. The rules of one anchor are of one moment; if
// they are replaced while they are read, all is read again. For a release that
// is not known the error wraps [ErrUnknownRelease].
func (p *PF) Rules() (*Ruleset, error) {
	err := errChanged
	for n := 0; n < attempts && errors.Is(err, errChanged); n++ {
		var rs *Ruleset
		if rs, err = (&ruleReader{p, make(map[string]*Ruleset)}).read("", nil); err == nil {
			return rs, nil
		}
	}
	if errors.Is(err, errChanged) {
		err = errChanging
	}
	return nil, fail("read rules", Table{}, 0, err)
}

type ruleReader struct {
	*PF
	rulesets map[string]*Ruleset // what was read already; an anchor may be called often
}

// read returns the ruleset of an anchor. The path holds those it was called
// from.
func (r *ruleReader) read(anchor string, path []string) (*Ruleset, error) {
	if rs := r.rulesets[anchor]; rs != nil {
		return rs, nil
	}
	rs, err := r.ruleset(anchor)
	if err != nil && anchor != "" {
		err = fmt.Errorf("anchor %s: %w", anchor, err)
	}
	if err != nil {
		return nil, err
	}
	r.rulesets[anchor] = rs
	path = append(path, anchor)
	for i := range rs.Rules {
		rule := &rs.Rules[i]
		if rule.Call == "" {
			continue
		}
		called, err := r.resolve(anchor, rule.Call)
		if err != nil {
			return nil, err
		}
		for _, a := range called {
			if slices.Contains(path, a) {
				continue
			}
			sub, err := r.read(a, path)
			if err != nil {
				return nil, err
			}
			rule.Called = append(rule.Called, sub)
		}
	}
	return rs, nil
}

// resolve returns the anchors that a call evaluates, from the ruleset of anchor
// (pf_ruleset.c: pf_anchor_setup, the other way round).
func (p *PF) resolve(anchor, call string) ([]string, error) {
	path, absolute := strings.CutPrefix(call, "/")
	if !absolute {
		for strings.HasPrefix(path, "../") {
			path = path[3:]
			anchor = anchor[:max(strings.LastIndexByte(anchor, '/'), 0)]
		}
		// "../*" comes back from the kernel as "..//*".
		path = anchor + "/" + strings.TrimLeft(path, "/")
	}
	path = strings.Trim(path, "/")
	if path == "*" || strings.HasSuffix(path, "/*") {
		return p.children(strings.TrimSuffix(strings.TrimSuffix(path, "*"), "/"))
	}
	return []string{path}, nil
}

// children returns the anchors below an anchor, in the order in which a
// wildcard evaluates them, which is that of their names.
func (p *PF) children(anchor string) (out []string, err error) {
	ask := func(req uint, nr uint32) (*abi.PfiocRuleset, error) {
		io := &abi.PfiocRuleset{Nr: nr}
		copy(io.Path[:abi.AnchorPathSize-1], anchor)
		err := p.ioctl(req, unsafe.Pointer(io))
		switch {
		case errors.Is(err, syscall.EINVAL), errors.Is(err, syscall.EBUSY):
			err = errChanged // it lost its rules, and itself with them; or it has fewer children now
		case err != nil:
			err = fmt.Errorf("anchors below %q: %w", anchor, err)
		}
		return io, err
	}
	all, err := ask(p.l.Req.GetRulesets, 0)
	if err != nil {
		return nil, err
	}
	for nr := range min(all.Nr, maxRules) {
		io, err := ask(p.l.Req.GetRuleset, nr)
		if err != nil {
			return nil, err
		}
		switch name := abi.CString(io.Name[:]); {
		case anchor != "":
			out = append(out, anchor+"/"+name)
		case name != abi.ReservedAnchor: // it has tables and never a rule
			out = append(out, name)
		}
	}
	return out, nil
}

// ruleset reads the rules of one anchor.
func (p *PF) ruleset(anchor string) (*Ruleset, error) {
	if p.l.Rule.Size == 0 {
		return nil, p.unknown()
	}
	b := make([]byte, p.l.Rule.Ioc)
	head := (*abi.PfiocRuleHead)(unsafe.Pointer(&b[0]))
	ask := func(req uint, ticket, nr uint32) error {
		clear(b)
		copy(head.Anchor[:abi.AnchorPathSize-1], anchor)
		head.Ticket, head.Nr = ticket, nr
		return p.ioctl(req, unsafe.Pointer(head))
	}
	if err := ask(p.l.Req.GetRules, 0, 0); err != nil {
		if anchor != "" && (errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOENT)) {
			return nil, errChanged // it is gone; its caller will be, too
		}
		return nil, err
	}
	ticket, n := head.Ticket, head.Nr
	if p.l.Req.XEnd != 0 {
		// Since 7.4 the ticket is a transaction of this descriptor, of which there may be
		// few. Ending it cannot fail in a way that matters: closing the descriptor does it too.
		defer func() { p.ioctl(p.l.Req.XEnd, unsafe.Pointer(&ticket)) }()
	}
	if n > maxRules {
		return nil, fmt.Errorf("%d rules: more than any ruleset has", n)
	}
	rs := &Ruleset{Anchor: anchor, Rules: make([]Rule, n)}
	for nr := range rs.Rules {
		err := ask(p.l.Req.GetRule, ticket, uint32(nr))
		switch {
		case errors.Is(err, syscall.EBUSY), errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ENXIO):
			// Replaced: another ticket now, or no rule of this number.
			return nil, errChanged
		case err != nil:
			return nil, fmt.Errorf("rule %d: %w", nr, err)
		}
		rs.Rules[nr] = decodeRule(p.l, b[p.l.Rule.Rule:])
		rs.Rules[nr].Anchor, rs.Rules[nr].Call = anchor, abi.CString(head.AnchorCall[:])
	}
	return rs, nil
}

// SkippedInterfaces returns the interfaces, and groups of them, whose packets pf
// passes without a look at any rule (`set skip on`), sorted. For a release that
// is not known the error wraps [ErrUnknownRelease].
func (p *PF) SkippedInterfaces() ([]string, error) {
	o := &p.l.Iface
	a := array{esize: max(o.Size, 1)}
	defer a.close()
	// Never with no room at all: the kernel then copies one struct out.
	err := a.fill(64, func() (int, error) {
		io := &abi.PfiocIface{Buffer: a.pointer(), Esize: int32(o.Size), Size: int32(a.room)}
		err := p.ioctl(p.l.Req.GetIfaces, unsafe.Pointer(io))
		if int(io.Size) >= a.room {
			// The last struct was not filled in, and there may be more (pf_if.c: pfi_get_ifaces).
			return 2 * a.room, err
		}
		return int(io.Size), err
	})
	if err != nil {
		return nil, fail("list interfaces", Table{}, 0, err)
	}
	var names []string
	for i := range a.n {
		if b := a.at(i); p.l.Order().Uint32(b[o.Flags:])&abi.IfaceSkip != 0 {
			names = append(names, abi.CString(b[o.Name:][:abi.IfNameSize]))
		}
	}
	slices.Sort(names)
	return names, nil
}
