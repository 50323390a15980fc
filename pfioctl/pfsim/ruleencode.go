package pfsim

import (
	"encoding/binary"
	"slices"
	"strings"

	"example.org/threatstopd/pfioctl"
	"example.org/threatstopd/pfioctl/internal/abi"
)

// EncodeRule writes the struct pf_rule of a layout to b, which must have its size.
// Names that are too long are cut.
func EncodeRule(l *abi.Layout, b []byte, r *pfioctl.Rule) {
	o, order := &l.Rule, l.Order()
	clear(b[:o.Size])
	flag := func(at int, v bool) {
		if v {
			b[at] = 1
		}
	}
	encodeRuleAddr(l, b, &o.Src, &r.Src)
	encodeRuleAddr(l, b, &o.Dst, &r.Dst)
	putString(b[o.Label:][:abi.RuleLabelSize], r.Label)
	putString(b[o.Ifname:][:abi.IfNameSize], r.Iface)
	putString(b[o.RcvIfname:][:abi.IfNameSize], r.Received)
	putString(b[o.MatchTagname:][:abi.TagNameSize], r.Tag)
	for at, v := range map[int]uint32{
		o.Nr: uint32(r.Nr), o.OnRDomain: uint32(r.RDomain),
		o.UID: r.User.A, o.UID + 4: r.User.B, o.GID: r.Group.A, o.GID + 4: r.Group.B,
		o.OSFP: r.OS, o.Prob: r.Probability, o.Pktrate: r.RateLimit, o.Pktrate + 4: r.RateSeconds,
	} {
		order.PutUint32(b[at:], v)
	}
	order.PutUint64(b[o.Evaluations:], r.Evaluations)
	for i := range 2 {
		order.PutUint64(b[o.Packets+8*i:], r.Packets[i])
		order.PutUint64(b[o.Bytes+8*i:], r.Bytes[i])
	}
	for at, v := range map[int]uint8{
		o.Action: uint8(r.Action), o.Direction: uint8(r.Dir), o.Log: uint8(r.Log), o.LogIf: uint8(r.LogIf),
		o.AF: r.AF, o.Proto: r.Proto, o.TCPFlags: r.TCPFlags, o.TCPFlagset: r.TCPFlagSet,
		o.UID + 8: opNumber(r.User.Op), o.GID + 8: opNumber(r.Group.Op), o.TOS: r.TOS, o.RT: r.RouteTo,
	} {
		b[at] = v
	}
	order.PutUint32(b[o.Flag:], ruleFlags(r))
	flag(o.Quick, r.Quick)
	flag(o.IfNot, r.IfaceNot)
	flag(o.RcvIfNot, r.ReceivedNot)
	flag(o.MatchTagNot, r.TagNot)
	flag(o.AllowOpts, r.AllowOpts)
	flag(o.KeepState, r.KeepState)
	if o.ICMPSize == 1 {
		b[o.Type], b[o.Code] = uint8(r.ICMPType+1), uint8(r.ICMPCode+1)
	} else {
		order.PutUint16(b[o.Type:], uint16(r.ICMPType+1))
		order.PutUint16(b[o.Code:], uint16(r.ICMPCode+1))
	}
	if o.StateLim != 0 {
		for at, v := range map[int]pfioctl.Limiter{o.StateLim: r.StateLimiter, o.SourceLim: r.SourceLimiter} {
			b[at] = v.ID
			if v.Block {
				order.PutUint32(b[at+4:], 1) // PF_LIMITER_BLOCK
			}
		}
	}
	switch {
	case r.Prio == 0:
		b[o.Prio] = abi.PrioZero
	case r.Prio > 0:
		b[o.Prio] = uint8(r.Prio)
	}
}

// ruleFlags returns the PFRULE_* of a rule.
func ruleFlags(r *pfioctl.Rule) (flags uint32) {
	for flag, is := range map[uint32]bool{abi.RuleFragment: r.Fragment, abi.RuleOnce: r.Once, abi.RuleExpired: r.Expired} {
		if is {
			flags |= flag
		}
	}
	for _, f := range abi.RuleReturns {
		if f.Name == r.Return {
			flags |= f.Flag
		}
	}
	return flags
}

// opNumber returns the PF_OP_* of an operator, 255 for none.
func opNumber(op string) uint8 { return uint8(slices.Index(abi.Ops[:], op)) }

func encodeRuleAddr(l *abi.Layout, b []byte, o *abi.RuleAddrLayout, a *pfioctl.RuleAddr) {
	b[o.Type] = uint8(a.Type)
	if a.Not {
		b[o.Neg] = 1
	}
	b[o.PortOp] = opNumber(a.Port.Op)
	binary.BigEndian.PutUint16(b[o.Port:], uint16(a.Port.A))
	binary.BigEndian.PutUint16(b[o.Port+2:], uint16(a.Port.B))
	switch a.Type {
	case pfioctl.AddrMask, pfioctl.AddrRange:
		copy(b[o.Addr:][:16], a.Addr.AsSlice())
		copy(b[o.Addr+16:][:16], a.Mask.AsSlice())
	case pfioctl.AddrDynamic:
		putString(b[o.Addr:][:abi.IfNameSize], a.Name)
		for i, name := range abi.DynFlags {
			if strings.Contains(a.Dyn, name) {
				b[o.Iflags] |= 1 << i
			}
		}
		l.Order().PutUint32(b[o.Count:], uint32(a.Count))
	case pfioctl.AddrTable:
		putString(b[o.Addr:][:abi.TableNameSize], a.Name)
		l.Order().PutUint32(b[o.Count:], uint32(a.Count))
	case pfioctl.AddrRouteLabel:
		putString(b[o.Addr:][:abi.RTLabelSize], a.Name)
	}
}

// putString fills b with s, NULs and at least one of them.
func putString(b []byte, s string) {
	clear(b[copy(b[:len(b)-1], s):])
}
