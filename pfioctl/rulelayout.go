package pfioctl

// ruleLayout tells where struct pf_rule keeps what decides which packets a
// rule matches and what becomes of them, and where struct pfioc_rule keeps the
// rule. The struct changed in 7.3, where the ICMP type and code became 16 bits
// wide and the members that only the kernel uses left it, and in 7.9, which added the
// limiters.
type ruleLayout struct {
	ioc  int // size of struct pfioc_rule
	rule int // offset of the rule in it
	size int // of struct pf_rule

	src, dst                                 ruleAddrLayout
	label, ifname, rcvIfname, matchTagname   int
	pktrate, evaluations, packets, bytes     int
	osfp, onrdomain                          int
	nr, prob, uid, gid, flag                 int
	action, direction, log, logif            int
	quick, ifnot, matchTagNot, keepState     int
	af, proto, typ, code, icmpSize           int
	tcpFlags, tcpFlagset, allowOpts, rt, tos int
	anchorRelative, anchorWildcard           int
	prio, naf, rcvIfnot                      int
	statelim, sourcelim                      int // each an id, and at 4 an int32; 0 before 7.9
}

// ruleAddrLayout is the same of struct pf_rule_addr, from the rule's start.
type ruleAddrLayout struct {
	addr   int // struct pf_addr_wrap; addresses, names at its start
	count  int // int32, entries of the table or dynamic addresses
	typ    int
	iflags int
	port   int // uint16[2], network order
	neg    int
	portOp int
}

// ruleLayoutOf walks the struct as a C compiler does: its members in order,
// each at a multiple of its alignment. The tests hold the result against the
// offsets measured on the headers of every release for every architecture.
func ruleLayoutOf(num int, a arch) (l ruleLayout) {
	up := func(n, align int) int { return (n + align - 1) &^ (align - 1) }
	ptr := a.pointer

	// struct pf_addr_wrap ends with a pointer or count, type and iflags;
	// struct pf_rule_addr adds port[2], neg, port_op and weight.
	wrap := up(32+ptr+2, ptr)
	ruleAddr := up(wrap+4+2+2, ptr)
	addr := func(at int) ruleAddrLayout {
		return ruleAddrLayout{
			addr: at, count: at + 32, typ: at + 32 + ptr, iflags: at + 33 + ptr,
			port: at + wrap, neg: at + wrap + 4, portOp: at + wrap + 5,
		}
	}
	l.src = addr(0)
	l.dst = addr(ruleAddr)

	l.label = 2*ruleAddr + 9*ptr // behind skip[PF_SKIP_COUNT]
	l.ifname = l.label + 64
	l.rcvIfname = l.ifname + 16
	// qname, pqname, tagname
	l.matchTagname = l.rcvIfname + 16 + 3*64
	// match_tagname, overload_tblname, entries
	pools := up(l.matchTagname+64+32+2*ptr, a.align64)
	// struct pf_pool: addr, key, counter, ifname, kif, tblidx; states;
	// curweight, weight, proxy_port[2], port_op, opts
	pool := up(up(wrap+3*16+ptr+4, a.align64)+8+4+2+4+2, a.align64)
	l.pktrate = pools + 3*pool // nat, rdr, route
	l.evaluations = up(l.pktrate+16, a.align64)
	l.packets = l.evaluations + 8
	l.bytes = l.packets + 16
	l.osfp = l.bytes + 16 + 4*ptr // behind kif, rcv_kif, anchor, overload_tbl
	l.onrdomain = l.osfp + 8      // behind rtableid
	l.nr = l.onrdomain + 4 + 4*(pfTimeouts+12)
	l.prob = l.nr + 4
	// cuid, cpid; return_icmp, return_icmp6, max_mss, tag, match_tag,
	// scrub_flags, delay, and two bytes up to the next
	l.uid = l.prob + 4 + 8 + 16
	l.gid = l.uid + 12
	l.flag = l.gid + 12
	l.action = l.flag + 4
	l.direction = l.action + 1
	l.log = l.action + 2
	l.logif = l.action + 3
	l.quick = l.action + 4
	l.ifnot = l.action + 5
	l.matchTagNot = l.action + 6
	l.keepState = l.action + 7
	l.af = l.action + 8
	l.proto = l.action + 9
	l.typ = l.action + 10
	l.icmpSize = 2
	if num < 73 {
		l.icmpSize = 1
	}
	l.code = l.typ + l.icmpSize
	l.tcpFlags = l.code + l.icmpSize
	l.tcpFlagset = l.tcpFlags + 1
	l.allowOpts = l.tcpFlags + 3 // behind min_ttl
	l.rt = l.tcpFlags + 4
	l.tos = l.rt + 2 // behind return_ttl
	l.anchorRelative = l.rt + 4
	l.anchorWildcard = l.rt + 5
	l.prio = l.rt + 7 // behind flush
	l.naf = l.rt + 10 // behind set_prio[2]
	l.rcvIfnot = l.rt + 11

	end := up(l.rcvIfnot+1, 4)
	if num >= 79 {
		l.statelim, l.sourcelim = end, end+8
		end += 16
	}
	end += 20 // divert, aligned as an address is: address, port, type
	if num < 73 {
		// Three pointers of the kernel's own came behind it.
		end = up(end, ptr) + 3*ptr
	}
	l.size = up(up(end, a.align64)+8, a.align64) // exptime
	l.rule = up(12+2*AnchorPathSize, a.align64)
	l.ioc = l.rule + l.size
	return l
}

// pfTimeouts is PFTM_MAX.
const pfTimeouts = 20
