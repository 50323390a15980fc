package abi

// RuleLayout is where struct pf_rule keeps what decides which packets a
// rule matches and what becomes of them, and where struct pfioc_rule keeps the
// rule. The struct changed in 7.3, where the ICMP type and code became 16 bits
// wide and the members that only the kernel uses left it, and in 7.9, which added the
// limiters.
type RuleLayout struct {
	Ioc  int // size of struct pfioc_rule
	Rule int // offset of the rule in it
	Size int // of struct pf_rule

	Src, Dst                                 RuleAddrLayout
	Label, Ifname, RcvIfname, MatchTagname   int
	Pktrate, Evaluations, Packets, Bytes     int
	OSFP, OnRDomain                          int
	Nr, Prob, UID, GID, Flag                 int
	Action, Direction, Log, LogIf            int
	Quick, IfNot, MatchTagNot, KeepState     int
	AF, Proto, Type, Code, ICMPSize          int
	TCPFlags, TCPFlagset, AllowOpts, RT, TOS int
	anchorRelative, anchorWildcard           int
	Prio, naf, RcvIfNot                      int
	StateLim, SourceLim                      int // each an id, and at 4 an int32; 0 before 7.9
}

// RuleAddrLayout is where struct pf_rule_addr keeps its members, from the start
// of the rule.
type RuleAddrLayout struct {
	Addr   int // struct pf_addr_wrap; addresses, names at its start
	Count  int // int32, entries of the table or dynamic addresses
	Type   int
	Iflags int
	Port   int // uint16[2], network order
	Neg    int
	PortOp int
}

// ruleLayoutOf walks the struct as a C compiler does: its members in order,
// each at a multiple of its alignment. The tests hold the result against the
// offsets measured on the headers of every release for every architecture.
func ruleLayoutOf(num int, a Arch) (l RuleLayout) {
	ptr := a.Pointer

	// struct pf_addr_wrap ends with a pointer or count, type and iflags;
	// struct pf_rule_addr adds port[2], neg, port_op and weight.
	wrap := up(32+ptr+2, ptr)
	ruleAddr := up(wrap+4+2+2, ptr)
	addr := func(at int) RuleAddrLayout {
		return RuleAddrLayout{
			Addr: at, Count: at + 32, Type: at + 32 + ptr, Iflags: at + 33 + ptr,
			Port: at + wrap, Neg: at + wrap + 4, PortOp: at + wrap + 5,
		}
	}
	l.Src = addr(0)
	l.Dst = addr(ruleAddr)

	l.Label = 2*ruleAddr + 9*ptr // behind skip[PF_SKIP_COUNT]
	l.Ifname = l.Label + 64
	l.RcvIfname = l.Ifname + 16
	// qname, pqname, tagname
	l.MatchTagname = l.RcvIfname + 16 + 3*64
	// match_tagname, overload_tblname, entries
	pools := up(l.MatchTagname+64+32+2*ptr, a.Align64)
	// struct pf_pool: addr, key, counter, ifname, kif, tblidx; states;
	// curweight, weight, proxy_port[2], port_op, opts
	pool := up(up(wrap+3*16+ptr+4, a.Align64)+8+4+2+4+2, a.Align64)
	l.Pktrate = pools + 3*pool // nat, rdr, route
	l.Evaluations = up(l.Pktrate+16, a.Align64)
	l.Packets = l.Evaluations + 8
	l.Bytes = l.Packets + 16
	l.OSFP = l.Bytes + 16 + 4*ptr // behind kif, rcv_kif, anchor, overload_tbl
	l.OnRDomain = l.OSFP + 8      // behind rtableid
	l.Nr = l.OnRDomain + 4 + 4*(pfTimeouts+12)
	l.Prob = l.Nr + 4
	// cuid, cpid; return_icmp, return_icmp6, max_mss, tag, match_tag,
	// scrub_flags, delay, and two bytes up to the next
	l.UID = l.Prob + 4 + 8 + 16
	l.GID = l.UID + 12
	l.Flag = l.GID + 12
	for i, member := range []*int{&l.Action, &l.Direction, &l.Log, &l.LogIf, &l.Quick, &l.IfNot,
		&l.MatchTagNot, &l.KeepState, &l.AF, &l.Proto, &l.Type} { // a byte each
		*member = l.Flag + 4 + i
	}
	l.ICMPSize = 2
	if num < 73 {
		l.ICMPSize = 1
	}
	l.Code = l.Type + l.ICMPSize
	l.TCPFlags = l.Code + l.ICMPSize
	l.TCPFlagset = l.TCPFlags + 1
	l.AllowOpts = l.TCPFlags + 3 // behind min_ttl
	l.RT = l.TCPFlags + 4
	l.TOS = l.RT + 2 // behind return_ttl
	l.anchorRelative = l.RT + 4
	l.anchorWildcard = l.RT + 5
	l.Prio = l.RT + 7 // behind flush
	l.naf = l.RT + 10 // behind set_prio[2]
	l.RcvIfNot = l.RT + 11

	end := up(l.RcvIfNot+1, 4)
	if num >= 79 {
		l.StateLim, l.SourceLim = end, end+8
		end += 16
	}
	end += 20 // divert, aligned as an address is: address, port, type
	if num < 73 {
		// Three pointers of the kernel's own came behind it.
		end = up(end, ptr) + 3*ptr
	}
	l.Size = up(up(end, a.Align64)+8, a.Align64) // exptime
	l.Rule = up(12+2*AnchorPathSize, a.Align64)
	l.Ioc = l.Rule + l.Size
	return l
}

// pfTimeouts is PFTM_MAX.
const pfTimeouts = 20

// Flags of a rule (PFRULE_*), as far as pf.conf shows them.
const (
	RuleFragment = 0x0002     // matches fragments only
	RuleOnce     = 0x00100000 // goes with its first match
	RuleExpired  = 0x00400000 // a once rule that had its match: matches nothing
)

// RuleReturns are the flags of a rule that answers what it blocks; the first that is set
// counts.
var RuleReturns = [...]struct {
	Flag uint32
	Name string
}{{0x0008, "return"}, {0x0001, "return-rst"}, {0x0004, "return-icmp"}}

// Ops are the comparisons of a rule with one number or two, as pf.conf writes them, by
// number (PF_OP_*).
var Ops = [...]string{"", "><", "=", "!=", "<", "<=", ">", ">=", "<>", ":"}

// DynFlags are the flags of an address that follows an interface, as pf.conf writes
// them, from the lowest bit on (PFI_AFLAG_*).
var DynFlags = [...]string{":network", ":broadcast", ":peer", ":0"}
