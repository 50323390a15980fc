// Package abi is how OpenBSD's kernel and a program talk about pf: the structs
// and numbers of net/pfvar.h, for each release and architecture. Package pfioctl
// makes requests with it, and pfsim answers them.
//
// Structs whose Go layout is the kernel's on every architecture are declared
// here. What has 64-bit members, or differs between releases, is read by offset:
// see [Layout].
package abi

import (
	"math/bits"
	"unsafe"
)

// Sizes of names in pf's requests (net/pfvar.h).
const (
	TableNameSize  = 32   // PF_TABLE_NAME_SIZE: a name has at most 31 bytes, then NUL
	AnchorPathSize = 1024 // PATH_MAX: a path has at most 1023 bytes, then NUL
)

// Sizes of other names.
const (
	IfNameSize    = 16 // IFNAMSIZ
	TagNameSize   = 64 // PF_TAG_NAME_SIZE
	RuleLabelSize = 64 // PF_RULE_LABEL_SIZE
	RTLabelSize   = 32 // RTLABEL_LEN
)

// PrioZero is the prio of a rule that asks for 0, which stands for any (PF_PRIO_ZERO).
const PrioZero = 0xff

// ReservedAnchor is the anchor in which the kernel keeps its own tables (the
// addresses of interfaces named in rules). Its tables can be read and count
// against the limits; every request that writes refuses it with EINVAL
// (pf_table.c: pfr_fix_anchor and its callers, PF_RESERVED_ANCHOR).
const ReservedAnchor = "_pf"

// Address families as OpenBSD numbers them. They are written out because
// AF_INET6 differs between systems, and requests are built on all of them.
const (
	AFInet  = 2
	AFInet6 = 24
)

// TableFlags are a table's flags (PFR_TFLAG_*). The first group is for the
// user to choose; the second is the kernel's and never sent.
type TableFlags uint32

const (
	TablePersist  TableFlags = 0x01 // stays when no rule refers to it
	TableConst    TableFlags = 0x02 // its addresses cannot be changed
	TableCounters TableFlags = 0x40 // each address has counters

	TableActive     TableFlags = 0x04 // exists for rules and requests
	TableInactive   TableFlags = 0x08 // being defined by a transaction
	TableReferenced TableFlags = 0x10 // a rule names it
	TableRefdAnchor TableFlags = 0x20 // a table of an anchor has it as its root

	// TableUserFlags are those that AddTables accepts (PFR_TFLAG_USRMASK).
	TableUserFlags = TablePersist | TableConst | TableCounters
)

// RequestFlags are the flags of a request (PFR_FLAG_*). The kernel answers
// EINVAL to one that the request does not take.
type RequestFlags int32

const (
	FlagDummy    RequestFlags = 0x02 // compute the answer, change nothing
	FlagFeedback RequestFlags = 0x04 // answer for each element
	FlagClrStats RequestFlags = 0x08 // clear counters after reading them
	FlagAddrsToo RequestFlags = 0x10 // also those of the table's addresses
	FlagReplace  RequestFlags = 0x20 // a test returns the entry that decided
	FlagAllRsets RequestFlags = 0x40 // the tables of every anchor
)

// Feedback is the kernel's answer about one element of a request (PFR_FB_*).
type Feedback uint8

const (
	FeedbackNone      Feedback = 0 // nothing to do: already so
	FeedbackMatch     Feedback = 1 // test: the address is in the table
	FeedbackAdded     Feedback = 2
	FeedbackDeleted   Feedback = 3
	FeedbackChanged   Feedback = 4 // its negation was flipped
	FeedbackCleared   Feedback = 5 // its counters were
	FeedbackDuplicate Feedback = 6 // the same prefix stands elsewhere in the request
	FeedbackNotMatch  Feedback = 7 // test: a negated entry decided
	FeedbackConflict  Feedback = 8 // the table has it with the other negation
	FeedbackNoCount   Feedback = 9 // the entry has no counters
)

// The structs that follow are the kernel's (net/pfvar.h), kept to those whose
// Go layout is the kernel's on every architecture: none has a 64-bit member,
// which Go aligns to 4 on openbsd/arm and the kernel to 8.

// PfrAddr is struct pfr_addr, one entry of a table.
type PfrAddr struct {
	Addr   [16]byte // network order; IPv4 in the first four, the others zero
	Ifname [16]byte // not looked at for Type 0
	States uint32
	Weight uint16
	AF     uint8 // AFInet or AFInet6
	Net    uint8 // prefix length
	Not    uint8 // 1: negated
	Fback  Feedback
	Type   uint8 // PFRKE_PLAIN, 0; others belong to route-to pools
	_      [9]byte
}

// PfrTable is struct pfr_table. In a request every byte of Anchor and Name
// after the first NUL must be zero.
type PfrTable struct {
	Anchor [AnchorPathSize]byte
	Name   [TableNameSize]byte
	Flags  TableFlags
	Fback  Feedback
	_      [3]byte
}

// PfiocTable is struct pfioc_table, the argument of every table request.
// Buffer is a pointer so that what it points to stays alive and in place
// while a request made of Go memory runs.
type PfiocTable struct {
	Table   PfrTable
	Buffer  unsafe.Pointer
	Esize   int32 // size of one element of Buffer, checked: ENODEV
	Size    int32 // elements in Buffer
	Size2   int32 // pfrio_naddr, pfrio_setflag
	Nadd    int32 // pfrio_nzero, pfrio_nmatch, pfrio_clrflag
	Ndel    int32
	Nchange int32
	Flags   RequestFlags
	Ticket  uint32
}

// PfiocLimit is struct pfioc_limit.
type PfiocLimit struct {
	Index Limit
	Limit uint32
}

// PfiocRuleset is struct pfioc_ruleset.
type PfiocRuleset struct {
	Nr   uint32
	Path [AnchorPathSize]byte
	Name [64]byte // PF_ANCHOR_NAME_SIZE
}

// PfiocTrans is struct pfioc_trans.
type PfiocTrans struct {
	Size  int32
	Esize int32
	Array unsafe.Pointer // *PfiocTransE
}

// PfiocTransE is struct pfioc_trans_e, an element of PfiocTrans.Array.
type PfiocTransE struct {
	Type   int32 // PF_TRANS_RULESET, 0, or PF_TRANS_TABLE, 1
	Anchor [AnchorPathSize]byte
	Ticket uint32
}

// PfiocRuleHead is what struct pfioc_rule begins with; the rule follows at
// [RuleLayout].Rule.
type PfiocRuleHead struct {
	Action     uint32 // 0: read only
	Ticket     uint32
	Nr         uint32
	Anchor     [AnchorPathSize]byte
	AnchorCall [AnchorPathSize]byte
}

// PfiocIface is struct pfioc_iface.
type PfiocIface struct {
	Name   [16]byte // filter: an interface or group, all if empty
	Buffer unsafe.Pointer
	Esize  int32
	Size   int32
	Nzero  int32
	Flags  int32
}

// PfiocStates is struct pfioc_states. With Len zero the kernel answers how many
// bytes it takes now; else it fills Buffer, to as many whole structs as fit, and
// answers how many bytes those are.
type PfiocStates struct {
	Len    uintptr
	Buffer unsafe.Pointer
}

// IfaceSkip is the flag in struct pfi_kif of an interface that pf leaves alone
// (PFI_IFLAG_SKIP).
const IfaceSkip = 0x0100

// Limit names one of pf's hard limits (PF_LIMIT_*).
type Limit int32

const (
	LimitStates       Limit = 0
	LimitSrcNodes     Limit = 1
	LimitFrags        Limit = 2
	LimitTables       Limit = 3
	LimitTableEntries Limit = 4
	LimitPktDelay     Limit = 5
	LimitAnchors      Limit = 6
)

// LimitNames are the names in pf.conf, by number.
var LimitNames = [...]string{
	"states", "src-nodes", "frags", "tables", "table-entries", "pktdelay-pkts", "anchors",
}

// String returns the limit's name in pf.conf, as in "set limit table-entries".
func (l Limit) String() string {
	if l >= 0 && int(l) < len(LimitNames) {
		return LimitNames[l]
	}
	return "unknown"
}

// Parts of a request number (sys/ioccom.h).
const (
	iocVoid = 0x20000000
	iocOut  = 0x40000000
	iocIn   = 0x80000000
	iocMask = 0x1fff // IOCPARM_MASK
)

// ioNone is _IO('D', nr), ioBoth is _IOWR('D', nr, size bytes): pf has no
// request that goes one way only.
func ioNone(nr uint) uint { return iocVoid | 'D'<<8 | nr }

func ioBoth(nr, size uint) uint { return iocIn | iocOut | (size&iocMask)<<16 | 'D'<<8 | nr }

// HostPointer is this machine's pointer size in bytes.
const HostPointer = bits.UintSize / 8

// esizes of the arrays in requests; the kernel answers ENODEV to any other.
const (
	SizeofPfrAddr  = 52
	SizeofPfrTable = 1064
)

// The build fails where Go lays a struct out in another way than the kernel;
// the tests look at every field on every architecture.
var (
	_ [SizeofPfrAddr]byte                     = [unsafe.Sizeof(PfrAddr{})]byte{}
	_ [SizeofPfrTable]byte                    = [unsafe.Sizeof(PfrTable{})]byte{}
	_ [SizeofPfrTable + HostPointer + 32]byte = [unsafe.Sizeof(PfiocTable{})]byte{}
	_ [8]byte                                 = [unsafe.Sizeof(PfiocLimit{})]byte{}
	_ [1092]byte                              = [unsafe.Sizeof(PfiocRuleset{})]byte{}
	_ [12 + 2*AnchorPathSize]byte             = [unsafe.Sizeof(PfiocRuleHead{})]byte{}
	_ [8 + HostPointer]byte                   = [unsafe.Sizeof(PfiocTrans{})]byte{}
	_ [32 + HostPointer]byte                  = [unsafe.Sizeof(PfiocIface{})]byte{}
	_ [1032]byte                              = [unsafe.Sizeof(PfiocTransE{})]byte{}
	_ [2 * HostPointer]byte                   = [unsafe.Sizeof(PfiocStates{})]byte{}
)
