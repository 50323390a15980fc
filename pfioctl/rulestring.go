package pfioctl

import (
	"fmt"
	"net/netip"
	"strings"

	"example.org/threatstopd/pfioctl/internal/abi"
)

// String returns the rule as `pfctl -sr` shows it, as far as a Rule goes: what
// concerns states, translation, queues and labels is left out. Protocols and
// ICMP types other than the common ones, and users, are numbers.
func (r *Rule) String() string {
	var b strings.Builder
	b.WriteString(r.verb())
	switch r.Dir {
	case DirIn:
		b.WriteString(" in")
	case DirOut:
		b.WriteString(" out")
	}
	if r.Log != 0 {
		b.WriteString(" log" + r.logOptions())
	}
	if r.Quick {
		b.WriteString(" quick")
	}
	if r.Iface != "" {
		b.WriteString(" on " + not(r.IfaceNot) + r.Iface)
	}
	if r.RDomain >= 0 {
		fmt.Fprintf(&b, " on %srdomain %d", not(r.IfaceNot), r.RDomain)
	}
	switch r.AF {
	case 0:
	case abi.AFInet:
		b.WriteString(" inet")
	default:
		b.WriteString(" inet6")
	}
	if r.Proto != 0 {
		b.WriteString(" proto " + protoName(r.Proto))
	}
	if r.Src.all() && r.Dst.all() && r.OS == 0 {
		b.WriteString(" all")
	} else {
		b.WriteString(" from " + r.Src.String())
		if r.OS != 0 {
			fmt.Fprintf(&b, " os %#x", r.OS)
		}
		b.WriteString(" to " + r.Dst.String())
	}
	if r.Received != "" {
		b.WriteString(" received-on " + not(r.ReceivedNot) + r.Received)
	}
	if r.User.Op != OpNone {
		b.WriteString(" user " + r.User.String())
	}
	if r.Group.Op != OpNone {
		b.WriteString(" group " + r.Group.String())
	}
	if r.TCPFlags != 0 || r.TCPFlagSet != 0 {
		b.WriteString(" flags " + tcpFlags(r.TCPFlags) + "/" + tcpFlags(r.TCPFlagSet))
	} else if r.Action != ActionBlock && (r.Proto == 0 || r.Proto == 6) &&
		r.Flags&RuleFragment == 0 && r.Call == "" && r.KeepState {
		b.WriteString(" flags any")
	}
	if r.ICMPType >= 0 {
		name := "icmp-type"
		if r.AF == abi.AFInet6 {
			name = "icmp6-type"
		}
		fmt.Fprintf(&b, " %s %d", name, r.ICMPType)
		if r.ICMPCode >= 0 {
			fmt.Fprintf(&b, " code %d", r.ICMPCode)
		}
	}
	if r.TOS != 0 {
		fmt.Fprintf(&b, " tos %#02x", r.TOS)
	}
	if r.Prio >= 0 {
		fmt.Fprintf(&b, " prio %d", r.Prio)
	}
	if r.RateLimit != 0 {
		fmt.Fprintf(&b, " max-pkt-rate %d/%d", r.RateLimit, r.RateSeconds)
	}
	for _, l := range []struct {
		kind string
		Limiter
	}{{"state", r.StateLimiter}, {"source", r.SourceLimiter}} {
		if l.ID == 0 {
			continue
		}
		// pf.conf and pfctl have a name in the place of the number.
		fmt.Fprintf(&b, " %s limiter %d", l.kind, l.ID)
		if !l.Block {
			b.WriteString(" (no-match)")
		}
	}
	if r.Flags&RuleOnce != 0 {
		b.WriteString(" once")
	}
	if r.Flags&RuleFragment != 0 {
		b.WriteString(" fragment")
	}
	if r.AllowOpts {
		b.WriteString(" allow-opts")
	}
	if r.Probability != 0 {
		fmt.Fprintf(&b, " probability %.4g%%", float64(r.Probability)/(1<<32-1)*100)
	}
	if r.Tag != "" {
		b.WriteString(" ")
		b.WriteString(not(r.TagNot))
		b.WriteString("tagged " + r.Tag)
	}
	return b.String()
}

func (r *Rule) verb() string {
	if r.Call != "" {
		// One that pfctl named itself is written without its name.
		if last := r.Call[strings.LastIndexByte(r.Call, '/')+1:]; strings.HasPrefix(last, "_") {
			return "anchor"
		}
		return `anchor "` + r.Call + `"`
	}
	switch r.Action {
	case ActionPass:
		return "pass"
	case ActionMatch:
		return "match"
	case ActionBlock:
		switch {
		case r.Flags&RuleReturn != 0:
			return "block return"
		case r.Flags&RuleReturnRST != 0:
			return "block return-rst"
		case r.Flags&RuleReturnICMP != 0:
			return "block return-icmp"
		}
		return "block drop"
	}
	return fmt.Sprintf("action(%d)", r.Action)
}

func (r *Rule) logOptions() string {
	var opts []string
	if r.Log&LogAll != 0 {
		opts = append(opts, "all")
	}
	if r.Log&LogMatches != 0 {
		opts = append(opts, "matches")
	}
	if r.Log&LogUser != 0 {
		opts = append(opts, "user")
	}
	if r.LogIf != 0 {
		opts = append(opts, fmt.Sprintf("to pflog%d", r.LogIf))
	}
	if opts == nil {
		return ""
	}
	return " (" + strings.Join(opts, ", ") + ")"
}

func not(b bool) string {
	if b {
		return "! "
	}
	return ""
}

// all reports whether address and port match everything.
func (a RuleAddr) all() bool { return a.Any() && a.Port.Op == OpNone }

// String returns the address and port as pf.conf writes them.
func (a RuleAddr) String() string {
	s := not(a.Not) + a.host()
	if a.Port.Op != OpNone {
		s += " port " + a.Port.String()
	}
	return s
}

func (a RuleAddr) host() string {
	switch a.Type {
	case AddrMask:
		if a.Any() || !a.Mask.IsValid() {
			return "any"
		}
		if p, ok := a.Prefix(); ok {
			return Addr{Prefix: p}.String()
		}
		return a.Addr.String() + " mask " + a.Mask.String()
	case AddrNoRoute:
		return "no-route"
	case AddrURPFFailed:
		return "urpf-failed"
	case AddrTable:
		return "<" + a.Name + ">"
	case AddrRouteLabel:
		return `route "` + a.Name + `"`
	case AddrRange:
		if a.Addr == (netip.Addr{}) {
			return "any"
		}
		return a.Addr.String() + " - " + a.Mask.String()
	case AddrDynamic:
		s := "(" + a.Name
		for _, f := range []struct {
			flag uint8
			name string
		}{{DynNetwork, ":network"}, {DynBroadcast, ":broadcast"}, {DynPeer, ":peer"}, {DynNoAlias, ":0"}} {
			if a.Dyn&f.flag != 0 {
				s += f.name
			}
		}
		return s + ")"
	}
	return "?"
}

// String returns the condition as pf.conf writes it, "= 22" or "6000:6010", and
// "any" for none.
func (r Range) String() string {
	switch r.Op {
	case OpInside:
		return fmt.Sprintf("%d >< %d", r.A, r.B)
	case OpOutside:
		return fmt.Sprintf("%d <> %d", r.A, r.B)
	case OpRange:
		return fmt.Sprintf("%d:%d", r.A, r.B)
	case OpEqual:
		return fmt.Sprintf("= %d", r.A)
	case OpNotEqual:
		return fmt.Sprintf("!= %d", r.A)
	case OpLess:
		return fmt.Sprintf("< %d", r.A)
	case OpLessEqual:
		return fmt.Sprintf("<= %d", r.A)
	case OpGreater:
		return fmt.Sprintf("> %d", r.A)
	case OpGreaterEqual:
		return fmt.Sprintf(">= %d", r.A)
	}
	return "any"
}

// protoName names the protocols that pf.conf is usually written with.
func protoName(p uint8) string {
	switch p {
	case 1:
		return "icmp"
	case 2:
		return "igmp"
	case 6:
		return "tcp"
	case 17:
		return "udp"
	case 41:
		return "ipv6"
	case 47:
		return "gre"
	case 50:
		return "esp"
	case 51:
		return "ah"
	case 58:
		return "ipv6-icmp"
	case 112:
		return "carp"
	}
	return fmt.Sprint(p)
}

func tcpFlags(f uint8) string {
	var b []byte
	for i, c := range []byte("FSRPAUEW") {
		if f&(1<<i) != 0 {
			b = append(b, c)
		}
	}
	return string(b)
}
