package capture

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket"
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
func logged(ip []byte) record {
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
	return recordOf(d)
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
		{"igmp pim", false, 2, "14 03 0000 00000000", "10.0.0.1 > 10.0.0.2: igmp pim"},
		{"dvmrp probe", false, 2, "13 01 0000 00000000", "10.0.0.1 > 10.0.0.2: igmp dvmrp"},
		{"mtrace", false, 2, "1f 00 0000 00000000 0a000003 0a000004 e0000105 01020308",
			"10.0.0.1 > 10.0.0.2: mtrace"},
		// print-gre.c
		{"gre with an IP packet", false, 47, "0000 0800 4500 001c 0007 0000 4011 0000 0a000003 0a000004 0007 0008 0008 0000",
			"10.0.0.1 > 10.0.0.2: gre 10.0.0.3.7 > 10.0.0.4.8: udp 0"},
		{"gre with key and sequence", false, 47, "3000 0000 00000a05 00000007", "10.0.0.1 > 10.0.0.2: gre key=2565|10+05 seq 7 keep-alive"},
		{"pptp", false, 47, "3081 880b 0004 0009 00000001 00000002 ff03c021", "10.0.0.1 > 10.0.0.2: pptp callid 9 seq 1 ack 2: "},
		{"pptp ack alone", false, 47, "2081 880b 0000 0009 00000002", "10.0.0.1 > 10.0.0.2: pptp callid 9 ack 2"},
		{"pptp cut", false, 47, "3001 880b 0004 0009 0000", "10.0.0.1 > 10.0.0.2: pptp callid 9[|pptp]"},
		{"gre with routing, which is skipped", false, 47, "4000 0800 0000 0008 0800 04 08 0a000003 0a000004 0000 00 00 4500 0014 0007 0000 40fd 0000 0a000003 0a000004",
			"10.0.0.1 > 10.0.0.2: gre off 0x8 10.0.0.3 > 10.0.0.4: ip-proto-253 0"},
		{"gre with routing, cut", false, 47, "4000 0800 0000 0008 0800 04 08 0a000003", "10.0.0.1 > 10.0.0.2: gre off 0x8[|gre]"},
		{"gre with an IPv6 packet", false, 47, "0000 86dd 60000000 0000 3b 40 00000000000000000000000000000003 00000000000000000000000000000004",
			"10.0.0.1 > 10.0.0.2: gre ::3 > ::4: no next header"},
		{"gre with something else", false, 47, "0000 8847 000101ff", "10.0.0.1 > 10.0.0.2: gre unknown-proto-8847"},
		{"gre version 1 with something else", false, 47, "2001 6400 0000 0700", "10.0.0.1 > 10.0.0.2: unknown-gre1-proto-6400"},
		{"gre in IPv6", true, 47, "0000 0000", "::1 > ::2: gre keep-alive"},
		{"carp", false, 112, "21 01 64 07 05 01 0000", "10.0.0.1 > 10.0.0.2: ip-proto-112 8"},
		{"carp in IPv6", true, 112, "21 01 64 07 05 01 0000", "::1 > ::2: ip-proto-112 8"},
		// Others of print-ip.c
		{"sun nd", false, 77, "0000", "10.0.0.1 > 10.0.0.2: ip-proto-77 2"},
		// print-ip6.c
		{"pim in IPv6", true, 103, "2003", "::1 > ::2: ip-proto-103 2"},
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
		{"wireguard is not decoded", false, 17, "0007 ca6c 0038 0000 04000000 44332211 0500000000000000" + strings.Repeat("00", 32),
			"10.0.0.1.7 > 10.0.0.2.51820: udp 48"},
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
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := ip4(tt.proto, unhex(t, tt.payload))
			if tt.v6 {
				b = ip6(tt.proto, unhex(t, tt.payload))
			}
			if got := logged(b).printed(); got != loggedPrefix+tt.want {
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
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := logged(tt.ip).printed(); got != loggedPrefix+tt.want {
				t.Errorf("\n got %s\nwant %s", strings.TrimPrefix(got, loggedPrefix), tt.want)
			}
		})
	}
}

func TestLinePflogHeader(t *testing.T) {
	edit := func(f func(d []byte)) record {
		r := logged(ip4(253, nil))
		f(r.data)
		return r
	}
	const rest = ": 10.0.0.1 > 10.0.0.2: ip-proto-253 0"
	tests := []struct {
		name string
		rec  record
		want string
	}{
		{"default rule", edit(func(d []byte) { copy(d[offRuleNr:], "\xff\xff\xff\xff") }), "rule def/(match) block in on em0" + rest},
		{"default rule in no anchor, with any name", edit(func(d []byte) { copy(d[offRuleNr:], "\xff\xff\xff\xff"); d[offRuleset] = 'x' }),
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
		{"a name without end", edit(func(d []byte) { copy(d[offIfname:], "sixteen-bytes-xx") }), "rule 1/(match) block in on sixteen-bytes-xx" + rest},
		{"length too small", edit(func(d []byte) { d[0] = 44 }), "[pflog: invalid header length!]"},
		{"cut", recordOf(logged(nil).data[:99]), "[|pflog]"},
		{"empty", recordOf(nil), "[|pflog]"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.rec.printed(); got != "00:00:00.000000 "+tt.want {
				t.Errorf("\n got %s\nwant %s", got, tt.want)
			}
		})
	}
}

// TestAddresses has the addresses for which inet_ntop(3) and net/netip could differ.
func TestAddresses(t *testing.T) {
	for _, want := range []string{
		"::", "::1", "::1.2.3.4", "::ffff:1.2.3.4", "1::", "2001:db8:0:1:1:1:1:1", "1::2:0:0:3:4", "::fffe:102:304", "64:ff9b::102:304",
		"::1:2:3", "::0.2.0.3", "0.0.0.0", "255.255.255.255",
	} {
		a, err := netip.ParseAddr(want)
		if err != nil {
			t.Fatal(err)
		}
		if got := string(appendAddr(nil, a)); got != want {
			t.Errorf("%s, want %s", got, want)
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
		var p Packet
		_ = p.Decode(nil, gopacket.CaptureInfo{Timestamp: at})
		if got := string(p.AppendLine(nil, tt.loc)); got != tt.want+" [|pflog]" {
			t.Errorf("%s: %s, want %s", tt.at, got, tt.want)
		}
		if got, want := string(p.AppendLine(nil, nil)), at.Local().Format("15:04:05.000000"); got != want+" [|pflog]" {
			t.Errorf("%s, local: %s, want %s", tt.at, got, want)
		}
	}
}

// TestLineBounded: nesting and repetition made to grow the line do not.
func TestLineBounded(t *testing.T) {
	nested := ip4(253, nil)
	for len(nested) < 60000 {
		nested = ip4(protoIPv4, nested)
	}
	routes := []byte{protoNone, 254, 0, 1, 0, 0, 0, 0}
	routes = append(routes, bytes.Repeat([]byte("\x20\x01\x0d\xb8"), 127*4)...)
	options := bytes.Repeat([]byte{protoDstOpts, 0, 1, 4, 0, 0, 0, 0}, 7000)
	for name, ip := range map[string][]byte{
		"IP in IP": nested, "IPv6 routes": ip6(protoRouting, routes), "IPv6 options": ip6(protoDstOpts, options),
	} {
		t.Run(name, func(t *testing.T) {
			got := logged(ip).printed()
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
	var p Packet
	var buf []byte
	for i, r := range records[:200] {
		for n := range len(r.data) + 1 {
			_ = p.Decode(r.data[:n:n], r.ci)
			buf = p.AppendLine(buf[:0], time.UTC)
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
