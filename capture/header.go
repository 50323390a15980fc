package capture

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// LinkType is the DLT number of captures with a pflog header (DLT_PFLOG).
const LinkType = 117

// HeaderLen is the length of the pflog header in all releases since 4.9: struct
// pfloghdr of net/if_pflog.h.
const HeaderLen = 100

// minHeaderLen is the shortest header that tcpdump takes: what 3.4's header
// had up to its ifname, ruleset and rule numbers (print-pflog.c).
const minHeaderLen = 45

// NoUID and NoPID are UID and PID when pf did not look the socket up: it does that only
// for rules with "log (user)".
const (
	NoUID = 0xffffffff
	NoPID = 100000
)

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

// A Header is a pflog header (struct pfloghdr, sys/net/if_pflog.h).
type Header struct {
	// Len is the length that the header claims. The packet begins at that, rounded
	// up to a multiple of 4.
	Len uint8
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
	// UID and PID are the owner of the packet's socket, NoUID and NoPID when not
	// looked up; RuleUID and RulePID loaded the rule.
	UID, PID         uint32
	RuleUID, RulePID uint32
	Dir              Direction
	// Rewritten is set when translation changed the packet. Src, Dst, SrcPort and
	// DstPort then are those of its other side; otherwise they are the packet's own.
	// The addresses are invalid when the header names neither family. The ports of
	// ICMP are id and type.
	Rewritten        bool
	Src, Dst         netip.Addr
	SrcPort, DstPort uint16
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
	offUID       = 44
	offPID       = 48
	offRuleUID   = 52
	offRulePID   = 56
	offDir       = 60
	offRewritten = 61
	offNAF       = 62
	offSaddr     = 64
	offDaddr     = 80
	offSport     = 96
	offDport     = 98
)

// Errors that [Packet.Decode] and [Header.Decode] wrap.
var (
	// ErrShort reports a capture that ends inside the pflog header.
	ErrShort = errors.New("pflog header cut short")
	// ErrHeaderLen reports a header that claims a length below 45 bytes.
	ErrHeaderLen = errors.New("invalid pflog header length")
	// ErrFamily reports a packet that is neither IPv4 nor IPv6.
	ErrFamily = errors.New("unknown address family")
)

// Decode reads the pflog header at the beginning of data, in the byte order of this
// host, and returns its length, rounded up to a multiple of 4. The error is ErrShort or
// ErrHeaderLen. Whatever length the header claims, its fields are read where today's
// header has them, as tcpdump does; those that were not captured are zero.
func (h *Header) Decode(data []byte) (int, error) {
	*h = Header{}
	if len(data) < 1 {
		return 0, ErrShort
	}
	h.Len = data[offLength]
	if h.Len < minHeaderLen {
		return 0, ErrHeaderLen
	}
	// tcpdump rounds in eight bits: 253 and more wrap to nothing skipped, and the
	// packet is taken to begin with the header (print-pflog.c).
	n := int(h.Len+3) &^ 3
	if len(data) < n {
		return 0, ErrShort
	}
	if len(data) < HeaderLen {
		var padded [HeaderLen]byte
		copy(padded[:], data)
		data = padded[:]
	}
	h.fill((*[HeaderLen]byte)(data))
	return n, nil
}

func (h *Header) fill(b *[HeaderLen]byte) {
	h.AF = b[offAF]
	h.Action = Action(b[offAction])
	h.Reason = Reason(b[offReason])
	h.Ifname = Name(b[offIfname:])
	h.Ruleset = Name(b[offRuleset:])
	h.RuleNr = binary.BigEndian.Uint32(b[offRuleNr:])
	h.SubRuleNr = binary.BigEndian.Uint32(b[offSubRuleNr:])
	h.UID = binary.NativeEndian.Uint32(b[offUID:])
	h.PID = binary.NativeEndian.Uint32(b[offPID:])
	h.RuleUID = binary.NativeEndian.Uint32(b[offRuleUID:])
	h.RulePID = binary.NativeEndian.Uint32(b[offRulePID:])
	h.Dir = Direction(b[offDir])
	h.Rewritten = b[offRewritten] != 0
	switch b[offNAF] {
	case AFInet:
		h.Src = netip.AddrFrom4([4]byte(b[offSaddr:]))
		h.Dst = netip.AddrFrom4([4]byte(b[offDaddr:]))
	case AFInet6:
		h.Src = netip.AddrFrom16([16]byte(b[offSaddr:]))
		h.Dst = netip.AddrFrom16([16]byte(b[offDaddr:]))
	}
	h.SrcPort = binary.BigEndian.Uint16(b[offSport:])
	h.DstPort = binary.BigEndian.Uint16(b[offDport:])
}
