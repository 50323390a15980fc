package pfioctl

import (
	"encoding/binary"
	"net/netip"

	"example.org/threatstopd/pfioctl/internal/abi"
)

// decodeRule reads struct pf_rule.
func decodeRule(l *abi.Layout, b []byte) Rule {
	o, order := &l.Rule, l.Order()
	u32 := func(at int) uint32 { return order.Uint32(b[at:]) }
	u64 := func(at int) uint64 { return order.Uint64(b[at:]) }
	text := func(at, n int) string { return abi.CString(b[at:][:n]) }
	op := func(at int) string { return opName(b[at]) }
	af, flags := b[o.AF], u32(o.Flag)
	r := Rule{
		Nr:          int(int32(u32(o.Nr))),
		Action:      Action(b[o.Action]),
		Dir:         Direction(b[o.Direction]),
		Quick:       b[o.Quick] != 0,
		Log:         LogFlags(b[o.Log]),
		LogIf:       int(b[o.LogIf]),
		Iface:       text(o.Ifname, abi.IfNameSize),
		IfaceNot:    b[o.IfNot] != 0,
		RDomain:     int(int32(u32(o.OnRDomain))),
		Received:    text(o.RcvIfname, abi.IfNameSize),
		ReceivedNot: b[o.RcvIfNot] != 0,
		AF:          af,
		Proto:       b[o.Proto],
		Src:         decodeRuleAddr(l, b, &o.Src, af),
		Dst:         decodeRuleAddr(l, b, &o.Dst, af),
		TCPFlags:    b[o.TCPFlags],
		TCPFlagSet:  b[o.TCPFlagset],
		User:        Range{op(o.UID + 8), u32(o.UID), u32(o.UID + 4)},
		Group:       Range{op(o.GID + 8), u32(o.GID), u32(o.GID + 4)},
		TOS:         b[o.TOS],
		Prio:        -1,
		OS:          u32(o.OSFP),
		Tag:         text(o.MatchTagname, abi.TagNameSize),
		TagNot:      b[o.MatchTagNot] != 0,
		Probability: u32(o.Prob),
		RateLimit:   u32(o.Pktrate),
		RateSeconds: u32(o.Pktrate + 4),
		Fragment:    flags&abi.RuleFragment != 0,
		Once:        flags&abi.RuleOnce != 0,
		Expired:     flags&abi.RuleExpired != 0,
		AllowOpts:   b[o.AllowOpts] != 0,
		KeepState:   b[o.KeepState] != 0,
		RouteTo:     b[o.RT],
		Label:       text(o.Label, abi.RuleLabelSize),
		Evaluations: u64(o.Evaluations),
	}
	for _, f := range abi.RuleReturns {
		if flags&f.Flag != 0 {
			r.Return = f.Name
			break
		}
	}
	for i := range 2 {
		r.Packets[i] = u64(o.Packets + 8*i)
		r.Bytes[i] = u64(o.Bytes + 8*i)
	}
	if o.StateLim != 0 {
		limiter := func(at int) Limiter { return Limiter{ID: b[at], Block: u32(at+4) != 0} }
		r.StateLimiter, r.SourceLimiter = limiter(o.StateLim), limiter(o.SourceLim)
	}
	// Kept plus one, as 0 is any.
	if o.ICMPSize == 1 {
		r.ICMPType, r.ICMPCode = int(b[o.Type])-1, int(b[o.Code])-1
	} else {
		r.ICMPType, r.ICMPCode = int(order.Uint16(b[o.Type:]))-1, int(order.Uint16(b[o.Code:]))-1
	}
	// 0 is any, so that prio 0 has a number of its own (PF_PRIO_ZERO).
	switch n := b[o.Prio]; n {
	case 0:
	case abi.PrioZero:
		r.Prio = 0
	default:
		r.Prio = int(n)
	}
	return r
}

// opName returns the name of a PF_OP_*; "?" for none, which contains nothing.
func opName(op uint8) string {
	if int(op) < len(abi.Ops) {
		return abi.Ops[op]
	}
	return "?"
}

func decodeRuleAddr(l *abi.Layout, b []byte, o *abi.RuleAddrLayout, af uint8) RuleAddr {
	a := RuleAddr{
		Type: AddrType(b[o.Type]),
		Not:  b[o.Neg] != 0,
		Port: Range{
			Op: opName(b[o.PortOp]),
			A:  uint32(binary.BigEndian.Uint16(b[o.Port:])),
			B:  uint32(binary.BigEndian.Uint16(b[o.Port+2:])),
		},
	}
	switch a.Type {
	case AddrMask, AddrRange:
		addr, mask := [16]byte(b[o.Addr:]), [16]byte(b[o.Addr+16:])
		a.Addr, a.Mask = netip.AddrFrom16(addr), netip.AddrFrom16(mask)
		if af == abi.AFInet {
			a.Addr, a.Mask = netip.AddrFrom4([4]byte(addr[:])), netip.AddrFrom4([4]byte(mask[:]))
		}
		// Only the family's part of a mask is looked at (pfvar.h: PF_AZERO).
		if a.Type == AddrMask && a.Mask.IsUnspecified() {
			a.Addr, a.Mask = netip.Addr{}, netip.Addr{}
		}
	case AddrDynamic:
		a.Name = abi.CString(b[o.Addr:][:abi.IfNameSize])
		for i, name := range abi.DynFlags {
			if b[o.Iflags]&(1<<i) != 0 {
				a.Dyn += name
			}
		}
		a.Count = int(int32(l.Order().Uint32(b[o.Count:])))
	case AddrTable:
		a.Name = abi.CString(b[o.Addr:][:abi.TableNameSize])
		a.Count = int(int32(l.Order().Uint32(b[o.Count:])))
	case AddrRouteLabel:
		a.Name = abi.CString(b[o.Addr:][:abi.RTLabelSize])
	}
	return a
}
