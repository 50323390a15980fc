package pfioctl

import (
	"errors"
	"fmt"
	"math/bits"
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
	LogUser    LogFlags = 0x04 // with the user of the local socket
	LogMatches LogFlags = 0x10 // on every rule that matches later
)

// RuleFlags are a rule's flags (PFRULE_*).
type RuleFlags uint32

const (
	RuleReturnRST  RuleFlags = 0x0001     // block return-rst
	RuleFragment   RuleFlags = 0x0002     // matches fragments only
	RuleReturnICMP RuleFlags = 0x0004     // block return-icmp
	RuleReturn     RuleFlags = 0x0008     // block return
	RuleOnce       RuleFlags = 0x00100000 // goes with its first match
	RuleAFTo       RuleFlags = 0x00200000 // translates to another family
	RuleExpired    RuleFlags = 0x00400000 // a once rule that had its match: matches nothing
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

// Flags of an address that follows an interface (PFI_AFLAG_*).
const (
	DynNetwork   = 0x01 // :network
	DynBroadcast = 0x02 // :broadcast
	DynPeer      = 0x04 // :peer
	DynNoAlias   = 0x08 // :0
)

// Op compares a number with a rule's one or two (PF_OP_*).
type Op uint8

const (
	OpNone         Op = 0 // any
	OpInside       Op = 1 // A < n < B      "A >< B"
	OpEqual        Op = 2
	OpNotEqual     Op = 3
	OpLess         Op = 4
	OpLessEqual    Op = 5
	OpGreater      Op = 6
	OpGreaterEqual Op = 7
	OpOutside      Op = 8 // n < A or n > B "A <> B"
	OpRange        Op = 9 // A <= n <= B    "A:B"
)

// Range is a condition on a port, user or group.
type Range struct {
	Op   Op
	A, B uint32
}

// Contains reports whether n fulfils the condition (pf.c: pf_match).
func (r Range) Contains(n uint32) bool {
	switch r.Op {
	case OpNone:
		return true
	case OpInside:
		return n > r.A && n < r.B
	case OpEqual:
		return n == r.A
	case OpNotEqual:
		return n != r.A
	case OpLess:
		return n < r.A
	case OpLessEqual:
		return n <= r.A
	case OpGreater:
		return n > r.A
	case OpGreaterEqual:
		return n >= r.A
	case OpOutside:
		return n < r.A || n > r.B
	case OpRange:
		return n >= r.A && n <= r.B
	}
	return false
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
	// Dyn are the flags of an AddrDynamic.
	Dyn uint8

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
	if a.Type != AddrMask || !a.Mask.IsValid() {
		return netip.Prefix{}, false
	}
	m := a.Mask.AsSlice()
	n := 0
	for i, b := range m {
		ones := bits.LeadingZeros8(^b)
		n += ones
		if ones < 8 {
			for _, rest := range append([]byte{b << ones}, m[i+1:]...) {
				if rest != 0 {
					return netip.Prefix{}, false
				}
			}
			break
		}
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
	Dir    Direction
	Quick  bool // the last to be looked at, when it matches
	Flags  RuleFlags

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
	const op = "read rules"
	if p.l.Rule.Size == 0 {
		return nil, fail(op, Table{}, 0, p.unknown())
	}
	for range attempts {
		rs, err := (&ruleReader{p: p, rulesets: make(map[string]*Ruleset)}).read("", nil)
		if err == nil {
			return rs, nil
		}
		if !errors.Is(err, errChanged) {
			return nil, fail(op, Table{}, 0, err)
		}
	}
	return nil, fail(op, Table{}, 0, errChanging)
}

type ruleReader struct {
	p        *PF
	rulesets map[string]*Ruleset // what was read already; an anchor may be called often
}

// read returns the ruleset of an anchor. The path holds those it was called
// from.
func (r *ruleReader) read(anchor string, path []string) (*Ruleset, error) {
	if rs := r.rulesets[anchor]; rs != nil {
		return rs, nil
	}
	rs, err := r.p.ruleset(anchor)
	if err != nil {
		if anchor != "" {
			return nil, fmt.Errorf("anchor %s: %w", anchor, err)
		}
		return nil, err
	}
	r.rulesets[anchor] = rs
	path = append(path, anchor)
	for i := range rs.Rules {
		rule := &rs.Rules[i]
		if rule.Call == "" {
			continue
		}
		called, err := r.p.resolve(anchor, rule.Call)
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
	path, relative := strings.CutPrefix(call, "/")
	if relative = !relative; relative {
		for strings.HasPrefix(path, "../") {
			path = path[3:]
			anchor = anchor[:max(strings.LastIndexByte(anchor, '/'), 0)]
		}
		// "../*" comes back from the kernel as "..//*".
		path = join(anchor, strings.TrimLeft(path, "/"))
	}
	path = strings.TrimLeft(path, "/")
	if path == "*" || strings.HasSuffix(path, "/*") {
		return p.children(strings.TrimSuffix(strings.TrimSuffix(path, "*"), "/"))
	}
	return []string{path}, nil
}

func join(anchor, name string) string {
	if anchor == "" || name == "" {
		return anchor + name
	}
	return anchor + "/" + name
}

// children returns the anchors below an anchor, in the order in which a
// wildcard evaluates them, which is that of their names.
func (p *PF) children(anchor string) ([]string, error) {
	io := &abi.PfiocRuleset{}
	copy(io.Path[:abi.AnchorPathSize-1], anchor)
	if err := p.ioctl(p.l.Req.GetRulesets, unsafe.Pointer(io)); err != nil {
		if errors.Is(err, syscall.EINVAL) {
			// It had its rules taken away, and itself with them.
			return nil, errChanged
		}
		return nil, fmt.Errorf("anchors below %q: %w", anchor, err)
	}
	var out []string
	for nr := range min(io.Nr, maxRules) {
		io := &abi.PfiocRuleset{Nr: nr}
		copy(io.Path[:abi.AnchorPathSize-1], anchor)
		err := p.ioctl(p.l.Req.GetRuleset, unsafe.Pointer(io))
		switch {
		case errors.Is(err, syscall.EBUSY), errors.Is(err, syscall.EINVAL):
			return nil, errChanged // there are fewer now
		case err != nil:
			return nil, fmt.Errorf("anchor %d below %q: %w", nr, anchor, err)
		}
		// The kernel's own has tables and never a rule.
		if name := abi.CString(io.Name[:]); anchor != "" || name != abi.ReservedAnchor {
			out = append(out, join(anchor, name))
		}
	}
	return out, nil
}

// SkippedInterfaces returns the interfaces, and groups of them, whose packets pf
// passes without a look at any rule (`set skip on`), sorted. For a release that
// is not known the error wraps [ErrUnknownRelease].
func (p *PF) SkippedInterfaces() ([]string, error) {
	const op = "list interfaces"
	o := p.l.Iface
	if o.Size == 0 {
		return nil, fail(op, Table{}, 0, p.unknown())
	}
	a := array{esize: o.Size}
	defer a.close()
	for n := 64; n <= maxRules; n *= 2 {
		// Never with no room at all: the kernel then copies one struct out.
		if err := a.grow(n); err != nil {
			return nil, fail(op, Table{}, 0, err)
		}
		io := &abi.PfiocIface{Buffer: a.pointer(), Esize: int32(o.Size), Size: int32(a.room)}
		if err := p.ioctl(p.l.Req.GetIfaces, unsafe.Pointer(io)); err != nil {
			return nil, fail(op, Table{}, 0, err)
		}
		// Where the answer is as long as the room its last struct was not
		// filled in, and there may be more (pf_if.c: pfi_get_ifaces).
		if int(io.Size) >= a.room {
			continue
		}
		var names []string
		for i := range int(io.Size) {
			b := a.at(i)
			if p.l.Order().Uint32(b[o.Flags:])&abi.IfaceSkip != 0 {
				names = append(names, abi.CString(b[o.Name:][:abi.IfNameSize]))
			}
		}
		slices.Sort(names)
		return names, nil
	}
	return nil, fail(op, Table{}, 0, errChanging)
}

// ruleset reads the rules of one anchor.
func (p *PF) ruleset(anchor string) (*Ruleset, error) {
	b := make([]byte, p.l.Rule.Ioc)
	head := (*abi.PfiocRuleHead)(unsafe.Pointer(&b[0]))
	begin := func(ticket, nr uint32) {
		clear(b)
		copy(head.Anchor[:abi.AnchorPathSize-1], anchor)
		head.Ticket, head.Nr = ticket, nr
	}
	begin(0, 0)
	if err := p.ioctl(p.l.Req.GetRules, unsafe.Pointer(head)); err != nil {
		if anchor != "" && (errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOENT)) {
			return nil, errChanged // it is gone; its caller will be, too
		}
		return nil, err
	}
	ticket, n := head.Ticket, head.Nr
	// Since 7.4 the ticket is a transaction of this descriptor, of which there
	// may be few.
	defer p.endRules(ticket)
	if n > maxRules {
		return nil, fmt.Errorf("%d rules: more than any ruleset has", n)
	}
	rs := &Ruleset{Anchor: anchor, Rules: make([]Rule, 0, n)}
	for nr := range n {
		begin(ticket, nr)
		err := p.ioctl(p.l.Req.GetRule, unsafe.Pointer(head))
		switch {
		case errors.Is(err, syscall.EBUSY), errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ENXIO):
			// Replaced: another ticket now, or no rule of this number.
			return nil, errChanged
		case err != nil:
			return nil, fmt.Errorf("rule %d: %w", nr, err)
		}
		rule := decodeRule(p.l, b[p.l.Rule.Rule:])
		rule.Anchor, rule.Call = anchor, abi.CString(head.AnchorCall[:])
		rs.Rules = append(rs.Rules, rule)
	}
	return rs, nil
}

// endRules gives a ticket back. It cannot fail in a way that matters: closing
// the descriptor does it too.
func (p *PF) endRules(ticket uint32) {
	if p.l.Req.XEnd != 0 {
		p.ioctl(p.l.Req.XEnd, unsafe.Pointer(&ticket))
	}
}
