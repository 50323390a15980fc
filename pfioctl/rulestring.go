package pfioctl

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// String returns the rule as `pfctl -sr` shows it, as far as a Rule goes: what
// concerns states, translation, queues and labels is left out. Protocols and
// ICMP types other than the common ones, and users, are numbers.
func (r *Rule) String() string {
	words := []string{r.verb()}
	add := func(is bool, format string, args ...any) {
		if is {
			words = append(words, fmt.Sprintf(format, args...))
		}
	}
	add(r.Dir == DirIn, "in")
	add(r.Dir == DirOut, "out")
	add(r.Log != 0, "log%s", r.logOptions())
	add(r.Quick, "quick")
	add(r.Iface != "", "on %s%s", not(r.IfaceNot), r.Iface)
	add(r.RDomain >= 0, "on %srdomain %d", not(r.IfaceNot), r.RDomain)
	v6 := r.AF != 0 && r.AF != AFInet
	add(r.AF == AFInet, "inet")
	add(v6, "inet6")
	add(r.Proto != 0, "proto %s", protoName(r.Proto))
	if r.Src.all() && r.Dst.all() && r.OS == 0 {
		add(true, "all")
	} else {
		add(true, "from %v", r.Src)
		add(r.OS != 0, "os %#x", r.OS)
		add(true, "to %v", r.Dst)
	}
	add(r.Received != "", "received-on %s%s", not(r.ReceivedNot), r.Received)
	add(r.User.Op != "", "user %v", r.User)
	add(r.Group.Op != "", "group %v", r.Group)
	flags := r.TCPFlags != 0 || r.TCPFlagSet != 0
	add(flags, "flags %s/%s", tcpFlags(r.TCPFlags), tcpFlags(r.TCPFlagSet))
	add(!flags && r.Action != ActionBlock && (r.Proto == 0 || r.Proto == 6) && !r.Fragment && r.Call == "" && r.KeepState, "flags any")
	add(r.ICMPType >= 0, "%s %d", map[bool]string{false: "icmp-type", true: "icmp6-type"}[v6], r.ICMPType)
	add(r.ICMPType >= 0 && r.ICMPCode >= 0, "code %d", r.ICMPCode)
	add(r.TOS != 0, "tos %#02x", r.TOS)
	add(r.Prio >= 0, "prio %d", r.Prio)
	add(r.RateLimit != 0, "max-pkt-rate %d/%d", r.RateLimit, r.RateSeconds)
	add(r.StateLimiter.ID != 0, "state %v", r.StateLimiter)
	add(r.SourceLimiter.ID != 0, "source %v", r.SourceLimiter)
	add(r.Once, "once")
	add(r.Fragment, "fragment")
	add(r.AllowOpts, "allow-opts")
	add(r.Probability != 0, "probability %.4g%%", float64(r.Probability)/(1<<32-1)*100)
	add(r.Tag != "", "%stagged %s", not(r.TagNot), r.Tag)
	return strings.Join(words, " ")
}

func (r *Rule) verb() string {
	switch {
	case r.Call != "":
		// One that pfctl named itself is written without its name.
		if last := r.Call[strings.LastIndexByte(r.Call, '/')+1:]; strings.HasPrefix(last, "_") {
			return "anchor"
		}
		return `anchor "` + r.Call + `"`
	case r.Action == ActionPass:
		return "pass"
	case r.Action == ActionMatch:
		return "match"
	case r.Action == ActionBlock && r.Return != "":
		return "block " + r.Return
	case r.Action == ActionBlock:
		return "block drop"
	}
	return fmt.Sprintf("action(%d)", r.Action)
}

func (r *Rule) logOptions() string {
	var opts []string
	for bit, name := range map[LogFlags]string{LogAll: "all", LogMatches: "matches", logUser: "user"} {
		if r.Log&bit != 0 {
			opts = append(opts, name)
		}
	}
	slices.Sort(opts)
	if r.LogIf != 0 {
		opts = append(opts, "to pflog"+strconv.Itoa(r.LogIf))
	}
	if opts == nil {
		return ""
	}
	return " (" + strings.Join(opts, ", ") + ")"
}

// String returns the limiter with its number; pf.conf and pfctl have a name there.
func (l Limiter) String() string {
	s := "limiter " + strconv.Itoa(int(l.ID))
	if !l.Block {
		s += " (no-match)"
	}
	return s
}

func not(b bool) string {
	if b {
		return "! "
	}
	return ""
}

// all reports whether address and port match everything.
func (a RuleAddr) all() bool { return a.Any() && a.Port.Op == "" }

// String returns the address and port as pf.conf writes them.
func (a RuleAddr) String() string {
	s := not(a.Not) + a.host()
	if a.Port.Op != "" {
		s += " port " + a.Port.String()
	}
	return s
}

func (a RuleAddr) host() string {
	switch a.Type {
	case AddrMask:
		if !a.Mask.IsValid() {
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
		if !a.Addr.IsValid() {
			return "any"
		}
		return a.Addr.String() + " - " + a.Mask.String()
	case AddrDynamic:
		return "(" + a.Name + a.Dyn + ")"
	}
	return "?"
}

// String returns the condition as pf.conf writes it, "= 22" or "6000:6010", and
// "any" for none.
func (r Range) String() string {
	switch r.Op {
	case "":
		return "any"
	case "><", "<>":
		return fmt.Sprintf("%d %s %d", r.A, r.Op, r.B)
	case ":":
		return fmt.Sprintf("%d:%d", r.A, r.B)
	}
	return fmt.Sprintf("%s %d", r.Op, r.A)
}

// protoName names the protocols that pf.conf is usually written with.
func protoName(p uint8) string {
	names := map[uint8]string{1: "icmp", 2: "igmp", 6: "tcp", 17: "udp", 41: "ipv6", 47: "gre", 50: "esp", 51: "ah", 58: "ipv6-icmp", 112: "carp"}
	if name, ok := names[p]; ok {
		return name
	}
	return strconv.Itoa(int(p))
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
