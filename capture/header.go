package capture

import (
	"errors"
	"fmt"
	"strings"
)

// LinkType is the DLT number of captures with a pflog header (DLT_PFLOG).
const LinkType = 117

// HeaderLen is the length of the pflog header in all releases since 4.9: struct
// pfloghdr of net/if_pflog.h.
const HeaderLen = 100

// minHeaderLen is the shortest header that tcpdump accepts: what 3.4's header
// had up to its ifname, ruleset and rule numbers (print-pflog.c).
const minHeaderLen = 45

// NoRule is RuleNr for pf's built-in default rule, and SubRuleNr when the rule is not
// inside an anchor.
const NoRule = 0xffffffff

// Address families as OpenBSD numbers them.
const (
	AFInet  = 2
	AFInet6 = 24
)

// Action is what pf did with the packet (PF_PASS, PF_DROP, … of net/pfvar.h).
type Action uint8

// Actions that pf logs today; the others are of older releases.
const (
	ActionPass  Action = 0
	ActionBlock Action = 1
	ActionMatch Action = 12
)

// actionNames are tcpdump's words (print-pflog.c). It prints nothing for an action that
// has none.
var actionNames = [...]string{
	0: "pass", 1: "block", 2: "scrub",
	4: "nat", 5: "nat", 6: "binat", 7: "binat", 8: "rdr", 9: "rdr",
	12: "match",
}

// String returns tcpdump's word for the action, "" for one that has none.
func (a Action) String() string {
	if int(a) < len(actionNames) {
		return actionNames[a]
	}
	return ""
}

// Direction is which way the packet went through the interface.
type Direction uint8

// Directions (PF_IN, PF_OUT).
const (
	In  Direction = 1
	Out Direction = 2
)

// String returns "out" for Out and "in" for everything else, as tcpdump does.
func (d Direction) String() string {
	if d == Out {
		return "out"
	}
	return "in"
}

// Reason is why pf did it (PFRES_MATCH, …). 0 is the usual one: a rule matched.
type Reason uint8

// reasonNames is PFRES_NAMES of net/pfvar.h without the entry behind PFRES_MAX, which
// tcpdump does not reach.
var reasonNames = [...]string{
	"match", "bad-offset", "fragment", "short", "normalize", "memory",
	"bad-timestamp", "congestion", "ip-option", "proto-cksum",
	"state-mismatch", "state-insert", "state-limit", "src-limit",
	"synproxy", "translate", "no-route",
}

// String returns the reason's name, or "unkn N" as tcpdump writes it.
func (r Reason) String() string {
	if int(r) < len(reasonNames) {
		return reasonNames[r]
	}
	return fmt.Sprintf("unkn %d", uint8(r))
}

// Name is one of the header's fixed-size strings, ended by a NUL or by its size. Its
// bytes are untrusted when they come from a file.
type Name [16]byte

// String returns the bytes before the NUL.
func (n *Name) String() string {
	name, _, _ := strings.Cut(string(n[:]), "\x00")
	return name
}

// A Header is what package capture reads of a pflog header (struct pfloghdr,
// sys/net/if_pflog.h).
type Header struct {
	// AF is the address family of the packet: AFInet or AFInet6.
	AF     uint8
	Action Action
	Reason Reason
	// Ifname is the interface that the packet was seen on.
	Ifname Name
	// Ruleset is the last component of the anchor's path, cut to 15 bytes; empty
	// when the rule is in the main ruleset.
	Ruleset Name
	// RuleNr is the rule of the main ruleset: the one that decided or the one that
	// called the anchor. NoRule is the default rule.
	RuleNr uint32
	// SubRuleNr is the rule inside the anchor, NoRule outside one.
	SubRuleNr uint32
	Dir       Direction
}

// Offsets in struct pfloghdr.
const (
	offLength    = 0
	offAF        = 1
	offAction    = 2
	offReason    = 3
	offIfname    = 4
	offRuleset   = 20
	offRuleNr    = 36
	offSubRuleNr = 40
	offDir       = 60
)

// Errors of [Packet.Decode] and [Header.Decode].
var (
	// ErrShort reports a capture that ends inside the pflog header.
	ErrShort = errors.New("pflog header cut short")
	// ErrHeaderLen reports a header that claims a length below 45 bytes.
	ErrHeaderLen = errors.New("invalid pflog header length")
	// ErrPacket reports a packet that is neither IPv4 nor IPv6, or not of the version
	// that the pflog header names, or cut inside its IP header.
	ErrPacket = errors.New("no whole IP header")
)

// Decode reads the pflog header at the beginning of data and returns its length, rounded
// up to a multiple of 4. The error is ErrShort or ErrHeaderLen. Whatever length the
// header claims, its fields are read where today's header has them, as tcpdump does;
// those that were not captured are zero.
func (h *Header) Decode(data []byte) (int, error) {
	*h = Header{}
	if len(data) < 1 {
		return 0, ErrShort
	}
	if data[offLength] < minHeaderLen {
		return 0, ErrHeaderLen
	}
	// tcpdump rounds in eight bits: 253 and more wrap to nothing skipped, and the
	// packet is taken to begin with the header (print-pflog.c).
	n := int(data[offLength]+3) &^ 3
	if len(data) < n {
		return 0, ErrShort
	}
	if len(data) < HeaderLen {
		var padded [HeaderLen]byte
		copy(padded[:], data)
		data = padded[:]
	}
	*h = Header{
		AF: data[offAF], Action: Action(data[offAction]), Reason: Reason(data[offReason]),
		Ifname: Name(data[offIfname:]), Ruleset: Name(data[offRuleset:]),
		RuleNr: u32(data, offRuleNr), SubRuleNr: u32(data, offSubRuleNr), Dir: Direction(data[offDir]),
	}
	return n, nil
}
