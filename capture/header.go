package capture

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
)

// LinkType is the DLT number of captures with a pflog header (DLT_PFLOG).
const LinkType = 117

// HeaderLen is the length of the pflog header in all releases since 4.9: struct
// pfloghdr of net/if_pflog.h.
const HeaderLen = 100

// minHeaderLen is the shortest header that tcpdump takes: what 3.4's header
// had up to its ifname, ruleset and rule numbers (print-pflog.c).
const minHeaderLen = 45

// NoUID and NoPID stand in UID and PID when pf did not look the socket up: that
// is done only for rules with "log (user)".
const (
	NoUID = 0xffffffff
	NoPID = 100000
)

// NoRule stands in RuleNr for pf's built-in default rule, and in SubRuleNr when the
// rule is not inside an anchor.
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

// actionNames holds tcpdump's words (print-pflog.c); an action without one is
// printed as nothing.
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

// Reason is why pf did it (PFRES_MATCH, …); 0 is the normal one, a rule matched.
type Reason uint8

// reasonNames is PFRES_NAMES of net/pfvar.h without the entry behind PFRES_MAX,
// which tcpdump does not reach: 17 reasons are known.
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

// Name is one of the header's fixed-size strings, ended by a NUL or by its size.
type Name [16]byte

// Bytes returns the bytes before the NUL; they are n's own.
func (n *Name) Bytes() []byte {
	for i, c := range n {
		if c == 0 {
			return n[:i]
		}
	}
	return n[:]
}

// String returns the bytes before the NUL as they are.
func (n *Name) String() string { return string(n.Bytes()) }

// A Header is a pflog header (struct pfloghdr, sys/net/if_pflog.h).
type Header struct {
	// Len is the length the header claims. The packet begins at that,
	// rounded up to a multiple of 4.
	Len uint8
	// AF is the address family of the packet: AFInet or AFInet6.
	AF     uint8
	Action Action
	Reason Reason
	// Ifname is the interface the packet was seen on.
	Ifname Name
	// Ruleset is the last component of the anchor's path, cut to 15 bytes;
	// empty when the rule is in the main ruleset.
	Ruleset Name
	// RuleNr is the rule of the main ruleset: the one that decided or the
	// one that called the anchor. NoRule is the default rule.
	RuleNr uint32
	// SubRuleNr is the rule inside the anchor, NoRule outside one.
	SubRuleNr uint32
	// UID and PID are the owner of the packet's socket, NoUID and NoPID
	// when not looked up; RuleUID and RulePID who loaded the rule.
	UID, PID         uint32
	RuleUID, RulePID uint32
	Dir              Direction
	// Rewritten says that translation changed what follows: Src, Dst,
	// SrcPort and DstPort then differ from the packet's own.
	Rewritten bool
	// NAF is the family of Src and Dst.
	NAF uint8
	// SrcAddr and DstAddr are the addresses on the other side of a
	// translation, the packet's own when there is none: four bytes and
	// zeroes when NAF is AFInet. See Src and Dst.
	SrcAddr, DstAddr [16]byte
	// SrcPort and DstPort go with them; id and type for ICMP.
	SrcPort, DstPort uint16
}

// Src returns SrcAddr as an address, the invalid one when NAF is neither family.
func (h *Header) Src() netip.Addr { return familyAddr(h.NAF, &h.SrcAddr) }

// Dst returns DstAddr as an address, the invalid one when NAF is neither family.
func (h *Header) Dst() netip.Addr { return familyAddr(h.NAF, &h.DstAddr) }

func familyAddr(af uint8, a *[16]byte) netip.Addr {
	switch af {
	case AFInet:
		return netip.AddrFrom4([4]byte(a[:4]))
	case AFInet6:
		return netip.AddrFrom16(*a)
	}
	return netip.Addr{}
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
	// ErrShort says that the capture ends inside the pflog header.
	ErrShort = errors.New("pflog header cut short")
	// ErrHeaderLen says that the header claims a length below 45 bytes.
	ErrHeaderLen = errors.New("invalid pflog header length")
	// ErrFamily says that the packet is neither IPv4 nor IPv6.
	ErrFamily = errors.New("unknown address family")
)

// Decode reads the pflog header at the beginning of data, in the byte order of
// this host, and returns how many bytes it takes: its length rounded up to a
// multiple of 4. The error is ErrShort or ErrHeaderLen. A header that claims fewer
// than HeaderLen bytes is read as far as it goes; what it lacks is zero, UID NoUID,
// PID NoPID.
func (h *Header) Decode(data []byte) (int, error) {
	return h.decode(data, false)
}

func (h *Header) decode(data []byte, swapped bool) (int, error) {
	if len(data) < 1 {
		*h = Header{}
		return 0, ErrShort
	}
	if data[offLength] < minHeaderLen {
		*h = Header{Len: data[offLength]}
		return 0, ErrHeaderLen
	}
	// tcpdump rounds in eight bits: 253 and more wrap to nothing skipped,
	// and the packet is taken to begin with the header (print-pflog.c).
	n := int(data[offLength]+3) &^ 3
	if len(data) < n {
		*h = Header{Len: data[offLength]}
		return 0, ErrShort
	}
	if have := min(int(data[offLength]), len(data)); have < HeaderLen {
		var padded [HeaderLen]byte
		copy(padded[:], data[:have])
		h.fill(&padded, swapped)
		if have < offUID+4 {
			h.UID = NoUID
		}
		if have < offPID+4 {
			h.PID = NoPID
		}
		return n, nil
	}
	h.fill((*[HeaderLen]byte)(data), swapped)
	return n, nil
}

func (h *Header) fill(b *[HeaderLen]byte, swapped bool) {
	h.Len = b[offLength]
	h.AF = b[offAF]
	h.Action = Action(b[offAction])
	h.Reason = Reason(b[offReason])
	h.Ifname = Name(b[offIfname:])
	h.Ruleset = Name(b[offRuleset:])
	h.RuleNr = binary.BigEndian.Uint32(b[offRuleNr:])
	h.SubRuleNr = binary.BigEndian.Uint32(b[offSubRuleNr:])
	h.UID = hostOrder(b[offUID:], swapped)
	h.PID = hostOrder(b[offPID:], swapped)
	h.RuleUID = hostOrder(b[offRuleUID:], swapped)
	h.RulePID = hostOrder(b[offRulePID:], swapped)
	h.Dir = Direction(b[offDir])
	h.Rewritten = b[offRewritten] != 0
	h.NAF = b[offNAF]
	h.SrcAddr = [16]byte(b[offSaddr:])
	h.DstAddr = [16]byte(b[offDaddr:])
	h.SrcPort = binary.BigEndian.Uint16(b[offSport:])
	h.DstPort = binary.BigEndian.Uint16(b[offDport:])
}

// hostOrder reads one of the fields that pf leaves in the order of its host.
func hostOrder(b []byte, swapped bool) uint32 {
	v := binary.NativeEndian.Uint32(b)
	if swapped {
		return bits.ReverseBytes32(v)
	}
	return v
}
