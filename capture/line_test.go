package capture

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"
)

// unhex reads hex digits; spaces are for the reader.
func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// logged puts a pflog header "rule 1/(match) block in on em0" before a packet.
func logged(ip []byte) Record {
	d := make([]byte, HeaderLen, HeaderLen+len(ip))
	d[0], d[2] = HeaderLen, byte(ActionBlock)
	d[1] = AFInet
	if len(ip) > 0 && ip[0]>>4 == 6 {
		d[1] = AFInet6
	}
	copy(d[offIfname:], "em0")
	d[offRuleNr+3] = 1
	d[offDir] = byte(In)
	d = append(d, ip...)
	return Record{Time: time.Unix(0, 0), Data: d, Length: len(d)}
}

const loggedPrefix = "00:00:00.000000 rule 1/(match) block in on em0: "

// ip4 and ip6 put an IP header before a payload: 10.0.0.1 > 10.0.0.2, ::1 > ::2.
func ip4(proto byte, payload []byte) []byte {
	h := []byte{0x45, 0, 0, 0, 0, 7, 0, 0, 64, proto, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2}
	binary.BigEndian.PutUint16(h[2:], uint16(20+len(payload)))
	return append(h, payload...)
}

func ip6(next byte, payload []byte) []byte {
	h := make([]byte, 40)
	h[0], h[6], h[7], h[23], h[39] = 0x60, next, 64, 1, 2
	binary.BigEndian.PutUint16(h[4:], uint16(len(payload)))
	return append(h, payload...)
}

func printed(pr *Printer, r Record) string {
	var p Packet
	_ = p.Decode(r)
	return string(pr.AppendLine(nil, &p))
}

// TestLineProtocols covers what the recordings have too little or nothing of. The
// expectations are by the rules of the printer named in each, read by hand.
func TestLineProtocols(t *testing.T) {
	tests := []struct {
		name    string
		v6      bool
		proto   byte
		payload string // hex
		want    string
	}{
		// print-ip.c: igmp_print
		{"igmp query", false, 2, "11 00 0000 00000000", "10.0.0.1 > 10.0.0.2: igmp query"},
		{"igmp query of a group", false, 2, "11 00 0000 e0000105 0000", "10.0.0.1 > 10.0.0.2: igmp query [gaddr 224.0.1.5] [len 10]"},
		{"igmp report", false, 2, "12 00 0000 e0000105", "10.0.0.1 > 10.0.0.2: igmp report 224.0.1.5"},
		{"igmp v2 report", false, 2, "16 00 0000 e0000105", "10.0.0.1 > 10.0.0.2: igmp nreport 224.0.1.5"},
		{"igmp leave", false, 2, "17 00 0000 e0000105", "10.0.0.1 > 10.0.0.2: igmp leave 224.0.1.5"},
		{"igmp v3 report", false, 2, "22 00 0000 00000001", "10.0.0.1 > 10.0.0.2: igmp-2 [v2]"},
		{"igmp pim", false, 2, "14 03 0000 00000000", "10.0.0.1 > 10.0.0.2: igmp pim Join/Prune"},
		{"igmp pim unknown", false, 2, "14 63 0000 00000000", "10.0.0.1 > 10.0.0.2: igmp pim [type 99]"},
		{"dvmrp probe", false, 2, "13 01 0000 00000000", "10.0.0.1 > 10.0.0.2: igmp dvmrp Probe"},
		{"dvmrp prune", false, 2, "13 07 0000 00000000 0a000003 e0000105 00000e10",
			"10.0.0.1 > 10.0.0.2: igmp dvmrp Prune src 10.0.0.3 grp 224.0.1.5 timer 3600"},
		{"dvmrp graft cut", false, 2, "13 08 0000 00000000 0a000003", "10.0.0.1 > 10.0.0.2: igmp dvmrp Graft [|]"},
		{"dvmrp neighbors", false, 2, "13 06 0000 00000b03 0a000003 01 20 41 01 0a000004",
			"10.0.0.1 > 10.0.0.2: igmp dvmrp Neighbors2 (v 3.11): [10.0.0.3 -> 10.0.0.4 (1/32/tunnel/querier)]"},
		{"dvmrp old neighbors", false, 2, "13 04 0000 00000000 0a000003 01 20 01 0a000004 00",
			"10.0.0.1 > 10.0.0.2: igmp dvmrp Neighbors(old) [10.0.0.3 -> 10.0.0.4, (1/32)] [|]"},
		{"mtrace", false, 2, "1f 00 0000 00000000 0a000003 0a000004 e0000105 01020308",
			"10.0.0.1 > 10.0.0.2: mtrace 197121: 10.0.0.3 to 10.0.0.4 reply-to 224.0.1.5 with-ttl 8"},
		// print-ospf.c
		{"ospf hello", false, 89, "02 01 002c 0a000009 00000000 0000 0000 0000000000000000 ffffff00 000a 02 01 00000028 0a000003 00000000",
			"10.0.0.1 > 10.0.0.2: OSPFv2-hello  44: rtrid 10.0.0.9 backbone dr 10.0.0.3"},
		{"ospf description", false, 89, "02 02 0020 0a000009 00000001 0000 0000 0000000000000000 05dc 07 07 000000ff",
			"10.0.0.1 > 10.0.0.2: OSPFv2-dd  32: rtrid 10.0.0.9 area 0.0.0.1 T/E/MC I/M/MS mtu 1500 S FF"},
		{"ospf hello cut", false, 89, "02 01 0018 0a000009 00000000 0000 0000 0000000000000000",
			"10.0.0.1 > 10.0.0.2: OSPFv2-hello  24: rtrid 10.0.0.9 backbone [|ospf]"},
		{"ospf with MD5 trailer", false, 89, "02 04 0018 0a000009 00000000 0000 0002 0000000000000000 00112233445566778899aabbccddeeff",
			"10.0.0.1 > 10.0.0.2: OSPFv2-ls_upd  24: rtrid 10.0.0.9 backbone"},
		{"ospf longer than it says", false, 89, "02 05 0014 0a000009 00000000 0000 0000 0000000000000000",
			"10.0.0.1 > 10.0.0.2: OSPFv2-ls_ack  20[24]: rtrid 10.0.0.9 backbone"},
		{"ospf version 3 in IPv4", false, 89, "03 03 0018 0a000009 00000000 0000 0000 0000000000000000",
			"10.0.0.1 > 10.0.0.2: OSPFv3-ls_req  24: rtrid 10.0.0.9 backbone ospf [version 3]"},
		// print-ospf6.c
		{"ospf6 hello", true, 89, "03 01 0024 0a000009 00000000 0000 05 00 00000003 01000013 000a 0028 0a000003 0a000004",
			"::1 > ::2:  OSPFv3-hello 36: rtrid 10.0.0.9 backbone instance 5 dr 10.0.0.3 bdr 10.0.0.4"},
		{"ospf6 description", true, 89, "03 02 001c 0a000009 00000001 0000 00 00 00000013 05dc 00 02 000000ff",
			"::1 > ::2:  OSPFv3-dd 28: rtrid 10.0.0.9 area 0.0.0.1 V6/E/R M mtu 1500 S FF"},
		// print-gre.c
		{"gre with an IP packet", false, 47, "0000 0800 4500 001c 0007 0000 4011 0000 0a000003 0a000004 0007 0008 0008 0000",
			"10.0.0.1 > 10.0.0.2: gre 10.0.0.3.7 > 10.0.0.4.8: udp 0"},
		{"gre with key and sequence", false, 47, "3000 0000 00000a05 00000007", "10.0.0.1 > 10.0.0.2: gre key=2565|10+05 seq 7 keep-alive"},
		{"gre with routing", false, 47, "4000 1234 0000 0008 0800 04 08 0a000003 0a000004 fffe 00 02 00ff 0001 00 01 00 0000 00 00",
			"10.0.0.1 > 10.0.0.2: gre off 0x8 (rtaf=ip 10.0.0.3 *10.0.0.4) (rtaf=asn *ff) (rtaf=0x1) unknown-proto-1234"},
		{"gre with bad routing", false, 47, "4000 1234 0000 0000 0800 03 08 0000000000000000 0800 00 05 0000000000 fffe 04 02 0000 0000 00 00",
			"10.0.0.1 > 10.0.0.2: gre off 0x0 (rtaf=ip badoffset=3) (rtaf=ip badlength=5) (rtaf=asn badoff/len=4/2) unknown-proto-1234"},
		{"gre wccp", false, 47, "0000 883e c0 01 02 03", "10.0.0.1 > 10.0.0.2: gre wccp D:1 A:1 SId:1 Alt:2 Pri:3: [|ip]"},
		{"gre mpls", false, 47, "0000 8847 000101ff 4500 001c 0007 0000 4011 0000 0a000003 0a000004 0007 0008 0008 0000",
			"10.0.0.1 > 10.0.0.2: gre MPLS(label 16, exp 0, ttl 255) 10.0.0.3.7 > 10.0.0.4.8: udp 0"},
		{"gre mpls cut", false, 47, "0000 8847 000100ff", "10.0.0.1 > 10.0.0.2: gre MPLS(label 16, exp 0, ttl 255) [|mpls]"},
		{"pptp", false, 47, "3081 880b 0004 0009 00000001 00000002 ff03c021", "10.0.0.1 > 10.0.0.2: pptp callid 9 seq 1 ack 2: "},
		{"pptp ack alone", false, 47, "2081 880b 0000 0009 00000002", "10.0.0.1 > 10.0.0.2: pptp callid 9 ack 2"},
		{"pptp flags", false, 47, "0001 880b", "10.0.0.1 > 10.0.0.2: pptp kpunset!"},
		{"pptp cut", false, 47, "3001 880b 0004 0009 0000", "10.0.0.1 > 10.0.0.2: pptp callid 9[|pptp]"},
		{"eoip keepalive", false, 47, "2001 6400 0000 0700", "10.0.0.1 > 10.0.0.2: eoip 7: keepalive"},
		{"gre in IPv6", true, 47, "0000 0000", "::1 > ::2: gre keep-alive"},
		// print-carp.c
		{"carp", false, 112, "21 01 64 07 05 01 0000", "CARPv2-advertise 8: [ttl=64!] vhid=1 advbase=1 advskew=100 demote=5"},
		{"carp cut", false, 112, "21 01 64", "CARPv2-advertise 3: [ttl=64!] [|carp]"},
		// A walk on by the length of the header before: print-ip6.c.
		{"carp in IPv6", true, 112, "21 01 64 07 05 01 0000", "::1 > ::2: CARPv2-advertise 8: [ttl=64!] vhid=1 advbase=1 advskew=100 demote=5"},
		// print-igrp.c
		{"igrp", false, 9, "11 05 0001 0001 0001 0001 0000 0a0001 000064 000064 05dc ff 01 00 0a0002 000001 000000 05dc ff 01 02 c0a801 ffffff ffffff 05dc ff 01 03",
			"10.0.0.1 > 10.0.0.2: igrp:  update V1 edit=5 AS=1 (1/1/1) *.10.0.1 d=1000 b=100000 r=255 l=1 M=200 mtu=1500 in 0 hops" +
				" 10.0.2.0 d=10 b=0 r=255 l=1 M=1 mtu=1500 in 2 hops X192.168.1.0 d=167772150 b=0 r=255 l=1 M=16777215 mtu=1500 in 3 hops"},
		{"igrp extra", false, 9, "12 05 0001 0000 0000 0000 0000 0a0001 000064 000064 05dc ff 01 00",
			"10.0.0.1 > 10.0.0.2: igrp:  request V1 edit=5 AS=1 (0/0/0)[extra bytes 14]"},
		{"igrp cut", false, 9, "13 05", "10.0.0.1 > 10.0.0.2: igrp: [|igrp]"},
		// Others of print-ip.c
		{"sun nd", false, 77, "0000", "10.0.0.1 > 10.0.0.2: nd 2"},
		{"etherip", false, 97, "3000 ffffffffffff", "10.0.0.1 > 10.0.0.2: etherip 3 len 8: "},
		{"etherip unknown", false, 97, "1000", "10.0.0.1 > 10.0.0.2: etherip unknown len 2"},
		{"mobile", false, 55, "0400 fbfe 00000000 ", "[]  (bad checksum 64510) (mobile encap)"},
		{"mobile with source", false, 55, "0480 fb7f 00000000 00000000", "[S]  (mobile encap)"},
		{"pfsync", false, 240, "06 00 0014 00000000000000000000000000000000", "10.0.0.1: PFSYNCv6 len 20"},
		{"pfsync cut", false, 240, "06 00 0014", "10.0.0.1: [|pfsync]"},
		// print-ip6.c
		{"pim in IPv6", true, 103, "2003", "::1 > ::2: PIM Join/Prune"},
		{"IPv4 in IPv6", true, 4, "4500 0014 0007 0000 40fd 0000 0a000003 0a000004", "10.0.0.3 > 10.0.0.4: ip-proto-253 0 (encap)"},
		{"IPv6 in IPv6", true, 41, "60000000 0000 3b 40 00000000000000000000000000000003 00000000000000000000000000000004",
			"::3 > ::4: no next header (encap)"},
		{"hop-by-hop cut", true, 0, "3a", "::1 > ::2: [|HBH]"},
		{"fragment header cut", true, 44, "3a 00 0001", "::1 > ::2: [|frag]"},
		{"first fragment", true, 44, "3a 00 0001 00000009 8000 0000 0000 0000", "::1 > ::2: frag (0x00000009:8@0+) icmp6: echo request"},
		{"type 0 routing header", true, 43, "3b 02 00 01 00000000 20010db8000000000000000000000005",
			"::1 > ::2: srcrt (len=2, type=0, segleft=1, [0]2001:db8::5)no next header"},
		{"type 0 routing header, odd", true, 43, "3b 01 00 01 00000001 0000000000000000", "::1 > ::2: srcrt (len=1, type=0, segleft=1, rsv=0x1, [|srcrt]"},
		{"type 0 routing header, cut", true, 43, "3b 02 00 01 00000000 20010db800000000", "::1 > ::2: srcrt (len=2, type=0, segleft=1, [|srcrt]"},
		{"routing header cut", true, 43, "3b 02", "::1 > ::2: , [|srcrt]"},
		{"udp behind options has addresses twice", true, 60, "11 00 01 04 00000000 0007 0008 0008 0000", "::1 > ::2: DSTOPT ::1.7 > ::2.8: udp 0"},
		// print-icmp6.c
		{"mld query", true, 58, "82 00 0000 2710 0000 ff020000000000000000000000000001",
			"::1 > ::2: icmp6: multicast listener query max resp delay: 10000 addr: ff02::1"},
		{"mld v2 query", true, 58, "82 00 0000 2710 0000 ff020000000000000000000000000001 02 7d 0000",
			"::1 > ::2: icmp6: multicast listener query v2  [gaddr ff02::1]"},
		{"mld v2 query of too many", true, 58, "82 00 0000 2710 0000 ff020000000000000000000000000001 02 7d 0001",
			"::1 > ::2: icmp6: multicast listener query v2  [gaddr ff02::1 [invalid number of sources]]"},
		{"mld v2 query of one", true, 58, "82 00 0000 2710 0000 ff020000000000000000000000000001 02 7d 0001 00000000000000000000000000000009",
			"::1 > ::2: icmp6: multicast listener query v2  [gaddr ff02::1, 1 source(s)]"},
		{"mld query of another size", true, 58, "82 00 0000", "::1 > ::2: icmp6: multicast listener query unknown-version (len 4) "},
		{"mld report", true, 58, "83 00 0000 0000 0000 ff020000000000000000000000000005",
			"::1 > ::2: icmp6: multicast listener report max resp delay: 0 addr: ff02::5"},
		{"mld v2 report", true, 58, "8f 00 0000 0000 0002", "::1 > ::2: multicast listener report v2, 2 group record(s)"},
		{"mld v2 report short", true, 58, "8f 00 0000", "::1 > ::2: multicast listener report v2 [invalid len 4]"},
		{"neighbor solicitation", true, 58, "87 00 0000 00000000 20010db8000000000000000000000005", "::1 > ::2: icmp6: neighbor sol: who has 2001:db8::5"},
		{"neighbor advertisement", true, 58, "88 00 0000 00000000 20010db8000000000000000000000005", "::1 > ::2: icmp6: neighbor adv: tgt is 2001:db8::5"},
		{"neighbor advertisement cut", true, 58, "88 00 0000 00000000 20010db8", "::1 > ::2: [|icmp6]"},
		{"redirect", true, 58, "89 00 0000 00000000 20010db8000000000000000000000005 20010db8000000000000000000000006",
			"::1 > ::2: icmp6: redirect 2001:db8::6 to 2001:db8::5"},
		{"router renumbering", true, 58, "8a 01 0000", "::1 > ::2: icmp6: router renum result"},
		{"who are you", true, 58, "8b 00 0000 00000000 00000000", "::1 > ::2: icmp6: who-are-you request"},
		{"FQDN query", true, 58, "8b 00 0000 00000000", "::1 > ::2: icmp6: FQDN request"},
		{"FQDN reply", true, 58, "8c 00 0000 00000000 0000000000000000 00000000 03 61620a", `::1 > ::2: icmp6: FQDN reply("ab\012")`},
		{"who-are-you reply", true, 58, "8c 00 0000 61616161 61616161 61616161 61616161 61616161 61616161", `::1 > ::2: icmp6: who-are-you reply("aaaaaaaaaaaaaaaa")`},
		{"unreachable port", true, 58, "01 04 0000 00000000 60000000 0008 11 40 00000000000000000000000000000003 00000000000000000000000000000004 0007 0008",
			"::1 > ::2: icmp6: ::4 udp port 8 unreachable"},
		{"unreachable port cut", true, 58, "01 04 0000 00000000 60000000 0008 11 40 00000000000000000000000000000003 00000000000000000000000000000004 0007",
			"::1 > ::2: [|icmp6]"},
		{"beyond scope", true, 58, "01 02 0000 00000000 60000000 0008 11 40 00000000000000000000000000000003 00000000000000000000000000000004",
			"::1 > ::2: icmp6: ::4 beyond scope of source address ::3"},
		// print-icmp.c
		{"unreachable port of TCP", false, 1, "03 03 0000 00000000 4500 001c 0007 0000 4006 0000 0a000003 0a000004 0007 0050",
			"10.0.0.1 > 10.0.0.2: icmp: 10.0.0.4 tcp port 80 unreachable"},
		{"unreachable port of something", false, 1, "03 03 0000 00000000 4500 001c 0007 0000 4084 0000 0a000003 0a000004 0007 0050",
			"10.0.0.1 > 10.0.0.2: icmp: 10.0.0.4 protocol 132 port 80 unreachable"},
		{"unreachable port behind options", false, 1, "03 03 0000 00000000 4600 001c 0007 0000 4011 0000 0a000003 0a000004 01010101 0007 0050",
			"10.0.0.1 > 10.0.0.2: icmp: 10.0.0.4 udp port 80 unreachable"},
		{"unreachable protocol", false, 1, "03 02 0000 00000000 4500 001c 0007 0000 4084 0000 0a000003 0a000004",
			"10.0.0.1 > 10.0.0.2: icmp: 10.0.0.4 protocol 132 unreachable"},
		{"need to fragment", false, 1, "03 04 0000 0000 05dc 4500 001c 0007 0000 4084 0000 0a000003 0a000004",
			"10.0.0.1 > 10.0.0.2: icmp: 10.0.0.4 unreachable - need to frag (mtu 1500)"},
		{"need to fragment, old", false, 1, "03 04 0000 00000000 4500 001c 0007 0000 4084 0000 0a000003 0a000004",
			"10.0.0.1 > 10.0.0.2: icmp: 10.0.0.4 unreachable - need to frag"},
		{"administratively", false, 1, "03 0d 0000 00000000 4500 001c 0007 0000 4084 0000 0a000003 0a000004",
			"10.0.0.1 > 10.0.0.2: icmp: host 10.0.0.4 unreachable - admin prohibited filter"},
		{"unreachable, unknown code", false, 1, "03 10 0000 00000000 4500 001c 0007 0000 4084 0000 0a000003 0a000004",
			"10.0.0.1 > 10.0.0.2: icmp: #16 10.0.0.4 unreachable"},
		{"redirect to host", false, 1, "05 01 0000 0a0000fe 4500 001c 0007 0000 4084 0000 0a000003 0a000004",
			"10.0.0.1 > 10.0.0.2: icmp: redirect 10.0.0.4 to host 10.0.0.254"},
		{"redirect for TOS", false, 1, "05 03 0000 0a0000fe 4500 001c 0007 0000 4084 0000 0a000003 0a000004",
			"10.0.0.1 > 10.0.0.2: icmp: redirect-tos 10.0.0.4 to net 10.0.0.254"},
		{"redirect, unknown code", false, 1, "05 09 0000 0a0000fe 4500 001c 0007 0000 4084 0000 0a000003 0a000004",
			"10.0.0.1 > 10.0.0.2: icmp: redirect-#9 10.0.0.4 to net 10.0.0.254"},
		{"router advertisement", false, 1, "09 00 0000 02 02 0708 0a000003 00000001 0a000004 00000002",
			"10.0.0.1 > 10.0.0.2: icmp: router advertisement lifetime 30:00 2: {10.0.0.3 1} {10.0.0.3 1}"},
		{"router advertisement for hours", false, 1, "09 00 0000 01 03 1c21", "10.0.0.1 > 10.0.0.2: icmp: router advertisement lifetime 2:00:01 1: [size 3]"},
		{"router advertisement cut", false, 1, "09 00 0000 02 02 0708 0a000003", "10.0.0.1 > 10.0.0.2: [|icmp]"},
		{"option absent", false, 1, "0c 01 0000", "10.0.0.1 > 10.0.0.2: icmp: requested option absent"},
		{"bad length", false, 1, "0c 02 0000 07000000", "10.0.0.1 > 10.0.0.2: icmp: bad length 7"},
		{"parameter problem", false, 1, "0c 00 0000 07000000", "10.0.0.1 > 10.0.0.2: icmp: parameter problem - octet 7"},
		{"reassembly time", false, 1, "0b 01 0000 00000000 4500 001c 0007 0000 4084 0000 0a000003 0a000004",
			"10.0.0.1 > 10.0.0.2: icmp: ip reassembly time exceeded"},
		// print-wg.c
		{"wireguard initiation", false, 17, "0007 ca6c 009c 0000 01000000 44332211" + strings.Repeat("00", 140),
			"10.0.0.1.7 > 10.0.0.2.51820: [wg] initiation from 0x11223344"},
		{"wireguard data", false, 17, "0007 ca6c 0038 0000 04000000 44332211 0500000000000000" + strings.Repeat("00", 32),
			"10.0.0.1.7 > 10.0.0.2.51820: [wg] data length 16 to 0x11223344 nonce 5"},
		{"wireguard keepalive", false, 17, "0007 ca6c 0028 0000 04000000 44332211 ffffffffffffffff" + strings.Repeat("00", 16),
			"10.0.0.1.7 > 10.0.0.2.51820: [wg] keepalive to 0x11223344 nonce 18446744073709551615"},
		{"wireguard of another size", false, 17, "0007 ca6c 0014 0000 01000000 44332211 00000000", "10.0.0.1.7 > 10.0.0.2.51820: udp 12"},
		// print-udp.c
		{"udp that claims too much", false, 17, "0007 0008 00ff 0000 61", "10.0.0.1.7 > 10.0.0.2.8:  truncated-udp - 246 bytes missing!udp 1"},
		{"udp too short", false, 17, "0007 0008 0008", "10.0.0.1 > 10.0.0.2: [|udp]"},
		// print-tcp.c
		{"tcp too short", false, 6, "0007 0008", "truncated-tcp 4"},
		{"tcp bad header length", false, 6, "0007 0008 00000001 00000002 f010 4000 0000 0000", "10.0.0.1.7 > 10.0.0.2.8: . [bad hdr length]"},
		{"tcp all flags", false, 6, "0007 0008 00000001 00000002 50ff 4000 0000 0009", "10.0.0.1.7 > 10.0.0.2.8: SFRPWE 1:1(0) ack 2 win 16384 urg 9"},
		{"tcp options", false, 6, "0007 0008 00000001 00000002 c002 4000 0000 0000 0204 05b4 01 0303 07 0402 0606 00000009 0b06 00000008 130400ff 00 00",
			"10.0.0.1.7 > 10.0.0.2.8: S 1:1(0) win 16384 <mss 1460,nop,wscale 7,sackOK,echo 9,cc 8,tcpmd5:00ff,eol>"},
		{"tcp option lengths that lie", false, 6, "0007 0008 00000001 00000002 8002 4000 0000 0000 0205 05b4 00 0403 00 01 0101 01",
			"10.0.0.1.7 > 10.0.0.2.8: S 1:1(0) win 16384 <mss 1460[len 5],eol>"},
		{"tcp option too long", false, 6, "0007 0008 00000001 00000002 6002 4000 0000 0000 0209 05b4", "10.0.0.1.7 > 10.0.0.2.8: S 1:1(0) win 16384 <[bad opt]>"},
		{"tcp option cut by the header", false, 6, "0007 0008 00000001 00000002 6002 4000 0000 0000 01 0802 00", "10.0.0.1.7 > 10.0.0.2.8: S 1:1(0) win 16384 <nop,timestamp[bad opt]>"},
		{"tcp unknown option", false, 6, "0007 0008 00000001 00000002 6002 4000 0000 0000 fd04 abcd", "10.0.0.1.7 > 10.0.0.2.8: S 1:1(0) win 16384 <opt-253:abcd>"},
		{"tcp sack", false, 6, "0007 0008 00000001 00000002 8010 4000 0000 0000 0101 050a 00000005 00000009",
			"10.0.0.1.7 > 10.0.0.2.8: . ack 2 win 16384 <nop,nop,sack 1 {5:9} >"},
		{"tcp sack without ack", false, 6, "0007 0008 00000001 00000002 8000 4000 0000 0000 0101 050a 00000005 00000009",
			"10.0.0.1.7 > 10.0.0.2.8: . win 16384 <nop,nop,malformed sack [len 8] >"},
	}
	pr := Printer{Location: time.UTC}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := ip4(tt.proto, unhex(t, tt.payload))
			if tt.v6 {
				b = ip6(tt.proto, unhex(t, tt.payload))
			}
			if got := printed(&pr, logged(b)); got != loggedPrefix+tt.want {
				t.Errorf("\n got %s\nwant %s", strings.TrimPrefix(got, loggedPrefix), tt.want)
			}
		})
	}
}

func TestLineIPHeader(t *testing.T) {
	base := ip4(253, []byte{1, 2})
	six := ip6(59, nil)
	edit := func(b []byte, f func(b []byte)) []byte {
		b = append([]byte(nil), b...)
		f(b)
		return b
	}
	const pair = "10.0.0.1 > 10.0.0.2:"
	tests := []struct {
		name string
		ip   []byte
		want string
	}{
		{"plain", base, pair + " ip-proto-253 2"},
		{"don't fragment, tos, ttl", edit(base, func(b []byte) { b[6], b[1], b[8] = 0x40, 0x13, 1 }), pair + " ip-proto-253 2 (DF) [tos 0x13 (EC)] [ttl 1]"},
		{"tos without congestion bits", edit(base, func(b []byte) { b[1] = 0x10 }), pair + " ip-proto-253 2 [tos 0x10]"},
		{"first fragment", edit(base, func(b []byte) { b[6] = 0x20 }), pair + " ip-proto-253 2 (frag 7:2@0+)"},
		{"last fragment", edit(base, func(b []byte) { b[7] = 185 }), pair + " (frag 7:2@1480)"},
		{"reserved bit", edit(base, func(b []byte) { b[6] = 0x80 }), pair + " ip-proto-253 2"},
		{"bad header length", edit(base, func(b []byte) { b[0] = 0x44 }), "bad-hlen 16"},
		{"header longer than packet", edit(base, func(b []byte) { b[0] = 0x46 }), "bad-hlen 24"},
		{"claims more", edit(base, func(b []byte) { b[3] = 99 }), "truncated-ip - 77 bytes missing!" + pair + " ip-proto-253 2"},
		{"options", append([]byte{0x46, 0, 0, 24, 0, 7, 0, 0, 64, 253, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2}, 1, 1, 1, 1), pair + " ip-proto-253 0"},
		{"cut", base[:19], "[|ip]"},
		{"nothing", nil, "[|ip]"},
		{"IPv6 class, label, hop limit", edit(six, func(b []byte) { b[0], b[1], b[3], b[7] = 0x6f, 0xf1, 5, 0 }),
			"::1 > ::2: no next header [class 0xff] [flowlabel 0x10005] [hlim 0]"},
		{"IPv6 claims more", edit(six, func(b []byte) { b[5] = 9 }), "truncated-ip6 - 9 bytes missing!::1 > ::2: no next header"},
		{"IPv6 cut", six[:39], "[|ip6]"},
	}
	pr := Printer{Location: time.UTC}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := printed(&pr, logged(tt.ip)); got != loggedPrefix+tt.want {
				t.Errorf("\n got %s\nwant %s", strings.TrimPrefix(got, loggedPrefix), tt.want)
			}
		})
	}
	// The length that was on the wire counts, not what was captured.
	r := logged(ip6(59, nil))
	r.Length = HeaderLen + 30
	if got := printed(&pr, r); got != loggedPrefix+"truncated-ip6 30" {
		t.Error(got)
	}
}

func TestLinePflogHeader(t *testing.T) {
	edit := func(f func(d []byte)) Record {
		r := logged(ip4(253, nil))
		f(r.Data)
		return r
	}
	const rest = ": 10.0.0.1 > 10.0.0.2: ip-proto-253 0"
	tests := []struct {
		name string
		rec  Record
		want string
	}{
		{"default rule", edit(func(d []byte) { copy(d[offRuleNr:], "\xff\xff\xff\xff") }), "rule def/(match) block in on em0" + rest},
		{"default rule in no anchor, whatever it says", edit(func(d []byte) { copy(d[offRuleNr:], "\xff\xff\xff\xff"); d[offRuleset] = 'x' }),
			"rule def/(match) block in on em0" + rest},
		{"anchor", edit(func(d []byte) { copy(d[offRuleset:], "threatstop"); d[offSubRuleNr+3] = 9 }), "rule 1.threatstop.9/(match) block in on em0" + rest},
		{"anchor's default", edit(func(d []byte) { copy(d[offRuleset:], "a"); copy(d[offSubRuleNr:], "\xff\xff\xff\xff") }),
			"rule 1.a.def/(match) block in on em0" + rest},
		{"unknown reason", edit(func(d []byte) { d[offReason] = 200 }), "rule 1/(unkn 200) block in on em0" + rest},
		{"action without a word", edit(func(d []byte) { d[offAction] = 11 }), "rule 1/(match)  in on em0" + rest},
		{"out", edit(func(d []byte) { d[offDir] = 2 }), "rule 1/(match) block out on em0" + rest},
		{"forward is in", edit(func(d []byte) { d[offDir] = 3 }), "rule 1/(match) block in on em0" + rest},
		{"unknown family", edit(func(d []byte) { d[offAF] = 7 }), "rule 1/(match) block in on em0: unknown-af 7"},
		{"a name that would break the line", edit(func(d []byte) { copy(d[offIfname:], "e\nm\x80\x1b") }), "rule 1/(match) block in on e?m??" + rest},
		{"a name without end runs on", edit(func(d []byte) { copy(d[offIfname:], "sixteen-bytes-xxname") }), "rule 1.name.0/(match) block in on sixteen-bytes-xxname" + rest},
		{"length too small", edit(func(d []byte) { d[0] = 44 }), "[pflog: invalid header length!]"},
		{"cut", Record{Time: time.Unix(0, 0), Data: logged(nil).Data[:99]}, "[|pflog]"},
		{"empty", Record{Time: time.Unix(0, 0)}, "[|pflog]"},
	}
	pr := Printer{Location: time.UTC}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := printed(&pr, tt.rec); got != "00:00:00.000000 "+tt.want {
				t.Errorf("\n got %s\nwant %s", got, tt.want)
			}
		})
	}
}

// TestAddresses holds the address printers against the standard library's, which
// differs from inet_ntop(3) only for addresses of IPv4 bits alone.
func TestAddresses(t *testing.T) {
	rng := newRand(1)
	for range 20000 {
		var a [16]byte
		for i := range a {
			a[i] = byte(rng())
		}
		// Make zero words likely.
		for i := range 8 {
			if rng()%2 == 0 {
				a[2*i], a[2*i+1] = 0, 0
			}
		}
		addr := netip.AddrFrom16(a)
		want := addr.String()
		if addr.Is4In6() {
			want = "::ffff:" + addr.Unmap().String()
		} else if [12]byte(a[:12]) == [12]byte{} && (a[12] != 0 || a[13] != 0) {
			want = "::" + net.IP(a[12:]).String()
		}
		var l line
		if l.addr6(a[:], 0); string(l.b) != want {
			t.Fatalf("%x: %s, want %s", a, l.b, want)
		}
		four := netip.AddrFrom4([4]byte(a[:4]))
		l.b = l.b[:0]
		if l.addr4(a[:], 0); string(l.b) != four.String() {
			t.Fatalf("%x: %s, want %s", a[:4], l.b, four)
		}
	}
	for a, want := range map[string]string{
		"::": "::", "::1": "::1", "::1.2.3.4": "::1.2.3.4", "::ffff:1.2.3.4": "::ffff:1.2.3.4", "1::": "1::",
		"2001:db8:0:1:1:1:1:1": "2001:db8:0:1:1:1:1:1", "1:0:0:2:0:0:3:4": "1::2:0:0:3:4", "::fffe:1.2.3.4": "::fffe:102:304", "64:ff9b::1.2.3.4": "64:ff9b::102:304",
	} {
		b := netip.MustParseAddr(a).As16()
		var l line
		if l.addr6(b[:], 0); string(l.b) != want {
			t.Errorf("%s: %s, want %s", a, l.b, want)
		}
	}
}

func TestNumbers(t *testing.T) {
	rng := newRand(2)
	for i := range 50000 {
		v := uint32(rng()) >> (i % 32)
		w := rng() >> (i % 64)
		var l line
		l.uint(v)
		l.byte(' ')
		l.uint64(w)
		l.byte(' ')
		l.int(v)
		l.byte(' ')
		l.hex(v, 0)
		l.byte(' ')
		l.hex(v, 8)
		l.byte(' ')
		l.hexDigits(v, 4, upperHex)
		if want := fmt.Sprintf("%d %d %d %x %08x %04X", v, w, int32(v), v, v, v); string(l.b) != want {
			t.Fatalf("%s, want %s", l.b, want)
		}
	}
}

// newRand is a small generator (xorshift64*) with the same numbers everywhere.
func newRand(seed uint64) func() uint64 {
	return func() uint64 {
		seed ^= seed >> 12
		seed ^= seed << 25
		seed ^= seed >> 27
		return seed * 0x2545f4914f6cdd1d
	}
}

// TestClock: the times are those of the zone at the packet's time, in summer and in
// winter.
func TestClock(t *testing.T) {
	zone := time.FixedZone("", -(3*3600 + 30*60))
	paris, err := time.LoadLocation("Europe/Paris")
	if err != nil {
		paris = nil // no zone files here
	}
	pr := Printer{Location: time.UTC}
	for _, tt := range []struct {
		loc  *time.Location
		at   string
		want string
	}{
		{time.UTC, "2023-11-14T22:13:20.127887Z", "22:13:20.127887"},
		{time.UTC, "2023-11-14T22:13:20.000001Z", "22:13:20.000001"},
		{zone, "2023-11-14T22:13:20.5Z", "18:43:20.500000"},
		{time.UTC, "2023-11-14T22:13:20.999999999Z", "22:13:20.999999"},
		{time.UTC, "2023-11-14T22:13:59.000001Z", "22:13:59.000001"},
		{time.UTC, "2023-11-14T22:14:00Z", "22:14:00.000000"},
		{time.UTC, "2023-11-14T22:13:59.5Z", "22:13:59.500000"}, // back again
		{time.UTC, "2023-11-14T22:12:59Z", "22:12:59.000000"},
		{time.FixedZone("", 30), "2023-11-14T22:12:59Z", "22:13:29.000000"},
		{time.UTC, "1970-01-01T00:00:07Z", "00:00:07.000000"},
		{paris, "2024-07-14T22:13:20Z", "00:13:20.000000"},
		{paris, "2024-01-14T22:13:20Z", "23:13:20.000000"},
	} {
		if tt.loc == nil {
			continue
		}
		at, err := time.Parse(time.RFC3339Nano, tt.at)
		if err != nil {
			t.Fatal(err)
		}
		pr.Location = tt.loc
		if got := printed(&pr, Record{Time: at}); got != tt.want+" [|pflog]" {
			t.Errorf("%s: %s, want %s", tt.at, got, tt.want)
		}
	}
	var local Printer
	at := time.Unix(1700000000, 0)
	if got, want := printed(&local, Record{Time: at}), at.Local().Format("15:04:05.000000"); got != want+" [|pflog]" {
		t.Errorf("local: %s, want %s", got, want)
	}
}

// segment is a TCP segment between 10.0.0.1 and 10.0.0.2, or back.
func segment(back bool, sport, dport uint16, flags byte, seq, ack uint32, options ...byte) Record {
	b := make([]byte, 20, 20+len(options))
	binary.BigEndian.PutUint16(b, sport)
	binary.BigEndian.PutUint16(b[2:], dport)
	binary.BigEndian.PutUint32(b[4:], seq)
	binary.BigEndian.PutUint32(b[8:], ack)
	b[12] = byte(5+len(options)/4) << 4
	b[13] = flags
	ip := ip4(protoTCP, append(b, options...))
	if back {
		copy(ip[12:], []byte{10, 0, 0, 2, 10, 0, 0, 1})
	}
	return logged(ip)
}

func TestRelativeNumbers(t *testing.T) {
	steps := []struct {
		name string
		rec  Record
		rel  string // after the ports
		abs  string
	}{
		{"SYN alone is not remembered", segment(false, 40000, 80, tcpSYN, 1000, 0), "S 1000:1000(0) win 0", "S 1000:1000(0) win 0"},
		{"SYN and ACK begin", segment(true, 80, 40000, tcpSYN|tcpACK, 5000, 1001), "S 5000:5000(0) ack 1001 win 0", "S 5000:5000(0) ack 1001 win 0"},
		{"then numbers are relative", segment(false, 40000, 80, tcpACK, 1001, 5001), ". ack 1 win 0", ". ack 5001 win 0"},
		{"in both directions", segment(true, 80, 40000, tcpFIN|tcpACK, 5001, 1001), "F 1:1(0) ack 1 win 0", "F 5001:5001(0) ack 1001 win 0"},
		{"SACK too", segment(false, 40000, 80, tcpACK, 1001, 5001, 1, 1, 5, 10, 0, 0, 0x13, 0x92, 0, 0, 0x13, 0x9c),
			". ack 1 win 0 <nop,nop,sack 1 {10:20} >", ". ack 5001 win 0 <nop,nop,sack 1 {5010:5020} >"},
		{"SACK below the first number wraps in 64 bits", segment(false, 40000, 80, tcpACK, 1001, 5001, 1, 1, 5, 10, 0, 0, 0x13, 0x87, 0, 0, 0x13, 0x88),
			". ack 1 win 0 <nop,nop,sack 1 {18446744073709551615:0} >", ". ack 5001 win 0 <nop,nop,sack 1 {4999:5000} >"},
		{"without ACK nothing is", segment(false, 40000, 80, tcpRST, 1001, 0), "R 1001:1001(0) win 0", "R 1001:1001(0) win 0"},
		{"another conversation is its own", segment(false, 40001, 80, tcpRST|tcpACK, 7, 8), "R 7:7(0) ack 8 win 0", "R 7:7(0) ack 8 win 0"},
		{"a new SYN begins anew", segment(true, 80, 40000, tcpSYN|tcpACK, 9000, 3001), "S 9000:9000(0) ack 3001 win 0", "S 9000:9000(0) ack 3001 win 0"},
		{"and counts from there", segment(false, 40000, 80, tcpACK, 3001, 9001), ". ack 1 win 0", ". ack 9001 win 0"},
		{"equal ports are ordered by address", segment(false, 179, 179, tcpACK|tcpPSH, 50, 60), "P ack 60 win 0", "P ack 60 win 0"},
		{"and found from the other end", segment(true, 179, 179, tcpACK|tcpPSH, 60, 51), "P ack 1 win 0", "P ack 51 win 0"},
	}
	relative, absolute := Printer{Location: time.UTC, Relative: true}, Printer{Location: time.UTC}
	for _, s := range steps {
		for _, c := range []struct {
			pr   *Printer
			want string
		}{{&relative, s.rel}, {&absolute, s.abs}} {
			got := printed(c.pr, s.rec)
			if _, got, _ = strings.Cut(strings.TrimPrefix(got, loggedPrefix), ": "); got != c.want {
				t.Errorf("%s (relative %v):\n got %s\nwant %s", s.name, c.pr.Relative, got, c.want)
			}
		}
	}
}

// TestConversationsBounded: however many conversations there are, the table keeps its
// size, those in use stay, and one forgotten begins anew.
func TestConversationsBounded(t *testing.T) {
	pr := Printer{Location: time.UTC, Relative: true}
	old := segment(false, 1, 2, tcpACK|tcpFIN, 100, 200)
	busy := segment(false, 3, 4, tcpACK|tcpFIN, 100, 200)
	var p Packet
	var buf []byte
	line := func(r Record) string {
		_ = p.Decode(r)
		buf = pr.AppendLine(buf[:0], &p)
		_, s, _ := strings.Cut(strings.TrimPrefix(string(buf), loggedPrefix), ": ")
		return s
	}
	line(old)
	line(busy)
	n := convSets * convWays * 3
	rec := segment(false, 5, 6, tcpACK, 1, 1)
	if got := testing.AllocsPerRun(n, func() {
		// Another source address each time.
		binary.BigEndian.PutUint32(rec.Data[HeaderLen+12:], binary.BigEndian.Uint32(rec.Data[HeaderLen+12:])+1)
		_ = p.Decode(rec)
		buf = pr.AppendLine(buf[:0], &p)
		_ = p.Decode(busy)
		buf = pr.AppendLine(buf[:0], &p)
	}); got != 0 {
		t.Errorf("%v allocations a packet", got)
	}
	if got := line(busy); got != "F 0:0(0) ack 1 win 0" {
		t.Errorf("conversation in use: %s", got)
	}
	if got := line(old); got != "F 100:100(0) ack 200 win 0" {
		t.Errorf("conversation long unused: %s", got)
	}
	// The order of use is counted in 32 bits.
	pr.conv.tick = 1<<32 - 2
	line(old)
	line(busy)
	if got := line(busy); got != "F 0:0(0) ack 1 win 0" {
		t.Errorf("after the count began anew: %s", got)
	}
}

// TestLineBounded: nesting and repetition made to grow the line do not.
func TestLineBounded(t *testing.T) {
	nested := ip4(253, nil)
	for len(nested) < 60000 {
		nested = ip4(protoIPv4, nested)
	}
	carp := ip6(protoHopOpts, append([]byte{protoCARP, 0, 1, 4, 0, 0, 0, 0}, []byte(strings.Repeat("\x21\x01\x64\x07\x05\x01\x00\x00", 7000))...))
	labels := append([]byte{0, 0, 0x88, 0x47}, make([]byte, 50000)...)
	routes := append([]byte{0x40, 0, 0, 0, 0, 0, 0, 0}, []byte(strings.Repeat("\x08\x00\x00\x04\x0a\x00\x00\x01", 6000))...)
	neighbors := append([]byte{0x13, 6, 0, 0, 0, 0, 0, 0}, []byte(strings.Repeat("\x0a\x00\x00\x01\x01\x01\x7f\x01\x0a\x00\x00\x02", 4000))...)
	igrp := append([]byte{0x11, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0}, make([]byte, 14*4000)...)
	fqdn := append([]byte{140, 1, 0, 0, 0, 0, 0, 0}, make([]byte, 50000)...)
	pr := Printer{Location: time.UTC}
	for name, ip := range map[string][]byte{
		"IP in IP": nested, "CARP in IPv6": carp, "MPLS labels": ip4(protoGRE, labels), "GRE routes": ip4(protoGRE, routes),
		"DVMRP neighbors": ip4(protoIGMP, neighbors), "IGRP routes": ip4(protoIGRP, igrp), "FQDN": ip6(protoICMPv6, fqdn),
	} {
		t.Run(name, func(t *testing.T) {
			got := printed(&pr, logged(ip))
			if len(got) > maxLine {
				t.Errorf("%d bytes", len(got))
			}
			if name != "IP in IP" && len(got) < maxLine {
				t.Errorf("only %d bytes: the bound was not reached", len(got))
			}
		})
	}
}

// TestLineEveryTruncation prints each recorded packet cut at every byte: always one
// printable line, whose beginning is the whole packet's as far as it goes.
func TestLineEveryTruncation(t *testing.T) {
	records := goldenRecords(t, "wild-1.pcap.gz")
	pr := Printer{Location: time.UTC}
	var p Packet
	var buf []byte
	for i, r := range records[:200] {
		for n := range len(r.Data) + 1 {
			cut := r
			cut.Data = r.Data[:n:n]
			_ = p.Decode(cut)
			buf = pr.AppendLine(buf[:0], &p)
			checkLine(t, buf)
			if n >= HeaderLen+40 && p.Src.IsValid() && len(buf) < 40 {
				t.Errorf("record %d cut at %d: %s", i, n, buf)
			}
		}
	}
}

func checkLine(t testing.TB, line []byte) {
	t.Helper()
	if len(line) > maxLine || !lineStart.Match(line) {
		t.Fatalf("line %q", line)
	}
	for _, c := range line {
		if c < ' ' || c > '~' {
			t.Fatalf("line %q", line)
		}
	}
}

// TestNumbersInPlace: what writes numbers in place writes them as strconv does, and
// nothing behind them that is not its room.
func TestNumbersInPlace(t *testing.T) {
	buf := make([]byte, 0, 64)
	for v := range 1 << 16 {
		if got := appendUint16(append(buf, "x"...), uint16(v)); string(got) != "x"+strconv.Itoa(v) {
			t.Fatalf("%d: %q", v, got)
		}
	}
	rng := newRand(3)
	for i := range 200000 {
		v := uint32(rng()) >> (i % 32)
		for _, v := range []uint32{v, v + 1, v - 1, 1e8 * (v % 43), 1e8*(v%43) - 1} {
			if got := appendUint(buf, v); string(got) != strconv.FormatUint(uint64(v), 10) {
				t.Fatalf("%d: %q", v, got)
			}
		}
	}
}

// TestNames: a name ends at its NUL or at the end of what there is, and what cannot be
// printed is a question mark, wherever it stands.
func TestNames(t *testing.T) {
	slow := func(s []byte) string {
		s, _, _ = bytes.Cut(s, []byte{0})
		s = bytes.Clone(s)
		for i, c := range s {
			if c < ' ' || c > '~' {
				s[i] = '?'
			}
		}
		return string(s)
	}
	rng := newRand(5)
	odd := []byte{0, 1, 0x1f, ' ', '!', '~', 0x7f, 0x80, 0x81, 0xa0, 0xff}
	for range 200000 {
		s := bytes.Repeat([]byte{'a'}, int(rng()%20))
		for range rng() % 4 {
			if len(s) > 0 {
				s[rng()%uint64(len(s))] = odd[rng()%uint64(len(odd))]
			}
		}
		if got := appendCString([]byte("x"), s); string(got) != "x"+slow(s) {
			t.Fatalf("%q: %q, not %q", s, got, slow(s))
		}
	}
}

// TestRuleRemembered: what is remembered of headers is printed for the same header
// only, whatever byte of it is another, names that nothing ends included.
func TestRuleRemembered(t *testing.T) {
	used := Printer{Location: time.UTC}
	rng := newRand(9)
	var p Packet
	line := func(pr *Printer, d []byte) string {
		p.Record = Record{Time: time.Unix(0, 0), Data: d, Length: len(d)}
		return string(pr.AppendLine(nil, &p))
	}
	base := logged(ip4(protoUDP, []byte{0, 1, 0, 2, 0, 8, 0, 0})).Data
	hits := 0
	for range 200 {
		d := bytes.Clone(base)
		switch rng() % 4 {
		case 0:
			copy(d[offRuleset:], "an anchor's name that is long"[:rng()%17])
		case 1:
			copy(d[offIfname:], "interface0123456789"[:rng()%17])
		case 2:
			copy(d[offRuleset:], "a name that goes on and on over numbers"[:24])
		}
		for n := rng() % 3; n > 0; n-- {
			d[offAction+int(rng()%uint64(HeaderLen-offAction))] = byte(rng() % 3)
		}
		for range 3 {
			if got, want := line(&used, d), line(&Printer{Location: time.UTC}, d); got != want {
				t.Fatalf("%q, not %q", got, want)
			}
		}
		for i := range used.rules {
			if used.rules[i].n > 0 {
				hits++
			}
		}
		// One byte more is another, its hash the same or not.
		for i := offAction; i < HeaderLen; i++ {
			d[i] ^= 1
			if got, want := line(&used, d), line(&Printer{Location: time.UTC}, d); got != want {
				t.Fatalf("byte %d: %q, not %q", i, got, want)
			}
			d[i] ^= 1
			if i%8 == 0 {
				line(&used, d)
				line(&used, d)
			}
		}
	}
	if hits == 0 {
		t.Error("nothing was remembered")
	}
}
