package pfioctl

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"unsafe"
)

// RuleRequestSize returns the size of struct pfioc_rule, the argument of
// DIOCGETRULES and DIOCGETRULE, or 0 if it is not known.
func (l Layout) RuleRequestSize() int { return l.rule.ioc }

// DecodeRule reads the rule of a struct pfioc_rule, as DIOCGETRULE returns it.
// Its Called stays nil.
func (l Layout) DecodeRule(b []byte) (Rule, error) {
	if err := l.checkRule(b); err != nil {
		return Rule{}, err
	}
	r := l.decodeRule(b[l.rule.rule:])
	r.Anchor = cstring(b[unsafe.Offsetof(PfiocRuleHead{}.Anchor):][:AnchorPathSize])
	r.Call = cstring(b[unsafe.Offsetof(PfiocRuleHead{}.AnchorCall):][:AnchorPathSize])
	return r, nil
}

// EncodeRule is the opposite of DecodeRule, for whoever implements a [Device]:
// it writes r and its Call into a struct pfioc_rule, and leaves the ticket and
// the anchor there alone. Names that are too long are cut.
func (l Layout) EncodeRule(b []byte, r *Rule) error {
	if err := l.checkRule(b); err != nil {
		return err
	}
	call := b[unsafe.Offsetof(PfiocRuleHead{}.AnchorCall):][:AnchorPathSize]
	putString(call, r.Call)
	l.ByteOrder().PutUint32(b[unsafe.Offsetof(PfiocRuleHead{}.Nr):], uint32(r.Nr))
	l.encodeRule(b[l.rule.rule:], r)
	return nil
}

func (l *Layout) checkRule(b []byte) error {
	if l.rule.ioc == 0 {
		return fmt.Errorf("openbsd %s: %w", l.release, ErrUnknownRelease)
	}
	if len(b) < l.rule.ioc {
		return fmt.Errorf("struct pfioc_rule: %d bytes, %d are needed", len(b), l.rule.ioc)
	}
	return nil
}

// putString fills b with s, NULs and at least one of them.
func putString(b []byte, s string) {
	clear(b[copy(b[:len(b)-1], s):])
}

const (
	ifNameSize    = 16 // IFNAMSIZ
	tagNameSize   = 64 // PF_TAG_NAME_SIZE
	ruleLabelSize = 64 // PF_RULE_LABEL_SIZE
	prioZero      = 0xff
)

// decodeRule reads struct pf_rule.
func (l *Layout) decodeRule(b []byte) Rule {
	o, order := &l.rule, l.ByteOrder()
	u32 := func(at int) uint32 { return order.Uint32(b[at:]) }
	u64 := func(at int) uint64 { return order.Uint64(b[at:]) }
	text := func(at, n int) string { return cstring(b[at:][:n]) }
	af := b[o.af]
	r := Rule{
		Nr:          int(int32(u32(o.nr))),
		Action:      Action(b[o.action]),
		Dir:         Direction(b[o.direction]),
		Quick:       b[o.quick] != 0,
		Flags:       RuleFlags(u32(o.flag)),
		Log:         LogFlags(b[o.log]),
		LogIf:       int(b[o.logif]),
		Iface:       text(o.ifname, ifNameSize),
		IfaceNot:    b[o.ifnot] != 0,
		RDomain:     int(int32(u32(o.onrdomain))),
		Received:    text(o.rcvIfname, ifNameSize),
		ReceivedNot: b[o.rcvIfnot] != 0,
		AF:          af,
		Proto:       b[o.proto],
		Src:         l.decodeRuleAddr(b, &o.src, af),
		Dst:         l.decodeRuleAddr(b, &o.dst, af),
		TCPFlags:    b[o.tcpFlags],
		TCPFlagSet:  b[o.tcpFlagset],
		User:        Range{Op(b[o.uid+8]), u32(o.uid), u32(o.uid + 4)},
		Group:       Range{Op(b[o.gid+8]), u32(o.gid), u32(o.gid + 4)},
		TOS:         b[o.tos],
		Prio:        -1,
		OS:          u32(o.osfp),
		Tag:         text(o.matchTagname, tagNameSize),
		TagNot:      b[o.matchTagNot] != 0,
		Probability: u32(o.prob),
		RateLimit:   u32(o.pktrate),
		RateSeconds: u32(o.pktrate + 4),
		AllowOpts:   b[o.allowOpts] != 0,
		KeepState:   b[o.keepState] != 0,
		RouteTo:     b[o.rt],
		Label:       text(o.label, ruleLabelSize),
		Evaluations: u64(o.evaluations),
	}
	for i := range 2 {
		r.Packets[i] = u64(o.packets + 8*i)
		r.Bytes[i] = u64(o.bytes + 8*i)
	}
	if o.statelim != 0 {
		limiter := func(at int) Limiter { return Limiter{ID: b[at], Block: u32(at+4) != 0} }
		r.StateLimiter, r.SourceLimiter = limiter(o.statelim), limiter(o.sourcelim)
	}
	// Kept plus one, as 0 is any.
	if o.icmpSize == 1 {
		r.ICMPType, r.ICMPCode = int(b[o.typ])-1, int(b[o.code])-1
	} else {
		r.ICMPType, r.ICMPCode = int(order.Uint16(b[o.typ:]))-1, int(order.Uint16(b[o.code:]))-1
	}
	// 0 is any, so that prio 0 has a number of its own (PF_PRIO_ZERO).
	switch n := b[o.prio]; n {
	case 0:
	case prioZero:
		r.Prio = 0
	default:
		r.Prio = int(n)
	}
	return r
}

func (l *Layout) decodeRuleAddr(b []byte, o *ruleAddrLayout, af uint8) RuleAddr {
	a := RuleAddr{
		Type: AddrType(b[o.typ]),
		Not:  b[o.neg] != 0,
		Port: Range{
			Op: Op(b[o.portOp]),
			A:  uint32(binary.BigEndian.Uint16(b[o.port:])),
			B:  uint32(binary.BigEndian.Uint16(b[o.port+2:])),
		},
	}
	switch a.Type {
	case AddrMask, AddrRange:
		addr, mask := [16]byte(b[o.addr:]), [16]byte(b[o.addr+16:])
		a.Addr, a.Mask = netip.AddrFrom16(addr), netip.AddrFrom16(mask)
		if af == AFInet {
			a.Addr, a.Mask = netip.AddrFrom4([4]byte(addr[:])), netip.AddrFrom4([4]byte(mask[:]))
		}
		// Only the family's part of a mask is looked at (pfvar.h: PF_AZERO).
		if a.Type == AddrMask && a.Mask.IsUnspecified() {
			a.Addr, a.Mask = netip.Addr{}, netip.Addr{}
		}
	case AddrDynamic:
		a.Name = cstring(b[o.addr:][:ifNameSize])
		a.Dyn = b[o.iflags]
		a.Count = int(int32(l.ByteOrder().Uint32(b[o.count:])))
	case AddrTable:
		a.Name = cstring(b[o.addr:][:TableNameSize])
		a.Count = int(int32(l.ByteOrder().Uint32(b[o.count:])))
	case AddrRouteLabel:
		a.Name = cstring(b[o.addr:][:32]) // RTLABEL_LEN
	}
	return a
}

// encodeRule writes struct pf_rule.
func (l *Layout) encodeRule(b []byte, r *Rule) {
	o, order := &l.rule, l.ByteOrder()
	clear(b[:o.size])
	flag := func(at int, v bool) {
		if v {
			b[at] = 1
		}
	}
	l.encodeRuleAddr(b, &o.src, &r.Src)
	l.encodeRuleAddr(b, &o.dst, &r.Dst)
	putString(b[o.label:][:ruleLabelSize], r.Label)
	putString(b[o.ifname:][:ifNameSize], r.Iface)
	putString(b[o.rcvIfname:][:ifNameSize], r.Received)
	putString(b[o.matchTagname:][:tagNameSize], r.Tag)
	for at, v := range map[int]uint32{
		o.nr: uint32(r.Nr), o.flag: uint32(r.Flags), o.onrdomain: uint32(r.RDomain),
		o.uid: r.User.A, o.uid + 4: r.User.B, o.gid: r.Group.A, o.gid + 4: r.Group.B,
		o.osfp: r.OS, o.prob: r.Probability, o.pktrate: r.RateLimit, o.pktrate + 4: r.RateSeconds,
	} {
		order.PutUint32(b[at:], v)
	}
	order.PutUint64(b[o.evaluations:], r.Evaluations)
	for i := range 2 {
		order.PutUint64(b[o.packets+8*i:], r.Packets[i])
		order.PutUint64(b[o.bytes+8*i:], r.Bytes[i])
	}
	for at, v := range map[int]uint8{
		o.action: uint8(r.Action), o.direction: uint8(r.Dir), o.log: uint8(r.Log), o.logif: uint8(r.LogIf),
		o.af: r.AF, o.proto: r.Proto, o.tcpFlags: r.TCPFlags, o.tcpFlagset: r.TCPFlagSet,
		o.uid + 8: uint8(r.User.Op), o.gid + 8: uint8(r.Group.Op), o.tos: r.TOS, o.rt: r.RouteTo,
	} {
		b[at] = v
	}
	flag(o.quick, r.Quick)
	flag(o.ifnot, r.IfaceNot)
	flag(o.rcvIfnot, r.ReceivedNot)
	flag(o.matchTagNot, r.TagNot)
	flag(o.allowOpts, r.AllowOpts)
	flag(o.keepState, r.KeepState)
	if o.icmpSize == 1 {
		b[o.typ], b[o.code] = uint8(r.ICMPType+1), uint8(r.ICMPCode+1)
	} else {
		order.PutUint16(b[o.typ:], uint16(r.ICMPType+1))
		order.PutUint16(b[o.code:], uint16(r.ICMPCode+1))
	}
	if o.statelim != 0 {
		for at, v := range map[int]Limiter{o.statelim: r.StateLimiter, o.sourcelim: r.SourceLimiter} {
			b[at] = v.ID
			if v.Block {
				order.PutUint32(b[at+4:], 1) // PF_LIMITER_BLOCK
			}
		}
	}
	switch {
	case r.Prio == 0:
		b[o.prio] = prioZero
	case r.Prio > 0:
		b[o.prio] = uint8(r.Prio)
	}
}

func (l *Layout) encodeRuleAddr(b []byte, o *ruleAddrLayout, a *RuleAddr) {
	b[o.typ] = uint8(a.Type)
	if a.Not {
		b[o.neg] = 1
	}
	b[o.portOp] = uint8(a.Port.Op)
	binary.BigEndian.PutUint16(b[o.port:], uint16(a.Port.A))
	binary.BigEndian.PutUint16(b[o.port+2:], uint16(a.Port.B))
	switch a.Type {
	case AddrMask, AddrRange:
		copy(b[o.addr:][:16], a.Addr.AsSlice())
		copy(b[o.addr+16:][:16], a.Mask.AsSlice())
	case AddrDynamic:
		putString(b[o.addr:][:ifNameSize], a.Name)
		b[o.iflags] = a.Dyn
		l.ByteOrder().PutUint32(b[o.count:], uint32(a.Count))
	case AddrTable:
		putString(b[o.addr:][:TableNameSize], a.Name)
		l.ByteOrder().PutUint32(b[o.count:], uint32(a.Count))
	case AddrRouteLabel:
		putString(b[o.addr:][:32], a.Name)
	}
}
