package capture

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"time"
)

// quoted4 and quoted6 are headers as ICMP errors quote them, to 10.0.0.4 and ::4, of
// UDP to port 80.
const (
	quoted4 = "4500 001c 0007 0000 4011 0000 0a000003 0a000004 0007 0050"
	quoted6 = "60000000 0008 11 40 00000000000000000000000000000003 00000000000000000000000000000004 0007 0050"
)

// cutLine prints the packet ip of which only n bytes were captured and strips
// what logged put in front.
func cutLine(t testing.TB, ip []byte, n int) string {
	t.Helper()
	r := logged(ip)
	r.data = r.data[: HeaderLen+n : HeaderLen+n]
	s, ok := strings.CutPrefix(r.printed(), loggedPrefix)
	if !ok {
		t.Fatalf("cut at %d: %s", n, s)
	}
	return s
}

// TestLineICMPCodes has every code of the types that distinguish codes, and where
// each type wants bytes that may not have been captured: one fewer gives
// "[|icmp]" and nothing else (print-icmp.c).
func TestLineICMPCodes(t *testing.T) {
	tests := []struct {
		typ  byte
		rest string // behind type, code and checksum
		need int    // bytes of the message
		want map[byte]string
	}{
		{0, "", 2, map[byte]string{0: "echo reply", 9: "echo reply"}},
		{1, "", 2, map[byte]string{0: "type-#1"}},
		{2, "", 2, map[byte]string{3: "type-#2"}},
		{3, "00000000" + quoted4, 28, map[byte]string{
			0: "net 10.0.0.4 unreachable", 1: "host 10.0.0.4 unreachable", 2: "10.0.0.4 protocol 17 unreachable",
			4: "10.0.0.4 unreachable - need to frag", 5: "10.0.0.4 unreachable - source route failed",
			6: "net 10.0.0.4 unreachable - unknown", 7: "host 10.0.0.4 unreachable - unknown",
			8: "10.0.0.4 unreachable - source host isolated", 9: "net 10.0.0.4 unreachable - admin prohibited",
			10: "host 10.0.0.4 unreachable - admin prohibited", 11: "net 10.0.0.4 unreachable - tos prohibited",
			12: "host 10.0.0.4 unreachable - tos prohibited", 13: "host 10.0.0.4 unreachable - admin prohibited filter",
			14: "host 10.0.0.4 unreachable - host precedence violation", 15: "host 10.0.0.4 unreachable - precedence cutoff",
			16: "#16 10.0.0.4 unreachable", 255: "#255 10.0.0.4 unreachable",
		}},
		{3, "00000000" + quoted4, 32, map[byte]string{3: "10.0.0.4 udp port 80 unreachable"}},
		// A quoted header that is too short to be one is believed.
		{3, "00000000 43" + quoted4[2:], 28, map[byte]string{3: "10.0.0.4 udp port 3 unreachable"}},
		{3, "00000240" + quoted4, 28, map[byte]string{4: "10.0.0.4 unreachable - need to frag (mtu 576)"}},
		{4, "", 2, map[byte]string{0: "source quench"}},
		{5, "0a0000fe" + quoted4, 28, map[byte]string{
			0: "redirect 10.0.0.4 to net 10.0.0.254", 1: "redirect 10.0.0.4 to host 10.0.0.254",
			2: "redirect-tos 10.0.0.4 to net 10.0.0.254", 3: "redirect-tos 10.0.0.4 to net 10.0.0.254",
			4: "redirect-#4 10.0.0.4 to net 10.0.0.254",
		}},
		{6, "", 2, map[byte]string{0: "type-#6"}},
		{7, "", 2, map[byte]string{0: "type-#7"}},
		{8, "", 2, map[byte]string{0: "echo request", 1: "echo request"}},
		{9, "0003003b", 8, map[byte]string{0: "router advertisement lifetime 59 0: [size 3]"}},
		{9, "0002003c", 8, map[byte]string{16: "router advertisement lifetime 1:00 0:"}},
		{9, "00020e0f", 8, map[byte]string{0: "router advertisement lifetime 59:59 0:"}},
		{9, "00020e10", 8, map[byte]string{0: "router advertisement lifetime 1:00:00 0:"}},
		{9, "0202ffff 0a000003 ffffffff", 16, map[byte]string{0: "router advertisement lifetime 18:12:15 2: {10.0.0.3 4294967295} {10.0.0.3 4294967295}"}},
		{10, "", 2, map[byte]string{0: "router solicitation"}},
		{11, "00000000" + quoted4, 28, map[byte]string{0: "time exceeded in-transit", 1: "ip reassembly time exceeded", 2: "time exceeded-#2"}},
		{12, "", 2, map[byte]string{1: "requested option absent"}},
		{12, "ff", 5, map[byte]string{0: "parameter problem - octet 255", 3: "parameter problem - octet 255"}},
		{13, "", 2, map[byte]string{0: "time stamp request"}},
		{14, "", 2, map[byte]string{0: "time stamp reply"}},
		{15, "", 2, map[byte]string{0: "information request"}},
		{16, "", 2, map[byte]string{0: "information reply"}},
		{17, "", 2, map[byte]string{0: "address mask request"}},
		{18, "00000000 0000ff00", 12, map[byte]string{0: "address mask is 0x0000ff00"}},
		{19, "", 2, map[byte]string{0: "type-#19"}},
		{255, "", 2, map[byte]string{0: "type-#255"}},
	}
	for _, tt := range tests {
		for code, want := range tt.want {
			ip := ip4(protoICMP, append([]byte{tt.typ, code, 0, 0}, unhex(t, tt.rest)...))
			const pair = "10.0.0.1 > 10.0.0.2: "
			for n, want := range map[int]string{len(ip) - 20: "icmp: " + want, tt.need: "icmp: " + want, tt.need - 1: "[|icmp]", 0: "[|icmp]"} {
				if got := cutLine(t, ip, 20+n); got != pair+want {
					t.Errorf("type %d code %d, %d bytes:\n got %s\nwant %s", tt.typ, code, n, got, pair+want)
				}
			}
		}
	}
}

// TestLineICMP6Codes is the same for print-icmp6.c, where what a message claims to
// be long counts for the multicast ones.
func TestLineICMP6Codes(t *testing.T) {
	const target = "20010db8000000000000000000000005"
	tests := []struct {
		typ  byte
		rest string
		need int
		want map[byte]string
	}{
		{0, "", 2, map[byte]string{0: "icmp6: type-#0"}},
		{1, "00000000" + quoted6, 48, map[byte]string{
			0: "icmp6: ::4 unreachable route", 1: "icmp6: ::4 unreachable prohibited",
			2: "icmp6: ::4 beyond scope of source address ::3", 3: "icmp6: ::4 unreachable address",
			5: "icmp6: ::4 unreachable code-#5", 255: "icmp6: ::4 unreachable code-#255",
		}},
		{1, "00000000" + quoted6, 52, map[byte]string{4: "icmp6: ::4 udp port 80 unreachable"}},
		{1, "00000000" + strings.Replace(quoted6, "0008 11 40", "0008 06 40", 1), 52, map[byte]string{4: "icmp6: ::4 tcp port 80 unreachable"}},
		{1, "00000000" + strings.Replace(quoted6, "0008 11 40", "0008 84 40", 1), 52, map[byte]string{4: "icmp6: ::4 protocol 132 port 80 unreachable"}},
		{2, "fffffffe", 8, map[byte]string{0: "icmp6: too big 4294967294", 7: "icmp6: too big 4294967294"}},
		{3, "00000000" + quoted6, 48, map[byte]string{0: "icmp6: time exceeded in-transit for ::4", 1: "icmp6: ip6 reassembly time exceeded", 2: "icmp6: time exceeded code-#2"}},
		{4, "00000028" + quoted6, 48, map[byte]string{
			0: "icmp6: parameter problem erroneous - octet 40", 1: "icmp6: parameter problem next header - octet 40",
			2: "icmp6: parameter problem option - octet 40", 3: "icmp6: parameter problem code-#3",
		}},
		{128, "", 2, map[byte]string{0: "icmp6: echo request"}},
		{129, "", 2, map[byte]string{1: "icmp6: echo reply"}},
		{131, "", 2, map[byte]string{0: "icmp6: multicast listener report "}},
		{132, "", 2, map[byte]string{0: "icmp6: multicast listener done "}},
		{133, "00000000 0101 000000000000", 2, map[byte]string{0: "icmp6: router solicitation "}},
		{134, "40080708 00000000 00000000 0101 000000000000", 2, map[byte]string{0: "icmp6: router advertisement"}},
		{135, "00000000" + target + "0101 000000000000", 24, map[byte]string{0: "icmp6: neighbor sol: who has 2001:db8::5"}},
		{136, "e0000000" + target + "0201 000000000000", 24, map[byte]string{0: "icmp6: neighbor adv: tgt is 2001:db8::5"}},
		{137, "00000000" + target + "20010db8000000000000000000000006", 40, map[byte]string{0: "icmp6: redirect 2001:db8::6 to 2001:db8::5"}},
		{138, "", 2, map[byte]string{0: "icmp6: router renum command", 1: "icmp6: router renum result", 255: "icmp6: router renum code-#255"}},
		{143, "0000 0102", 8, map[byte]string{0: "multicast listener report v2, 258 group record(s)"}},
		{144, "", 2, map[byte]string{0: "icmp6: type-#144"}},
	}
	for _, tt := range tests {
		for code, want := range tt.want {
			ip := ip6(protoICMPv6, append([]byte{tt.typ, code, 0, 0}, unhex(t, tt.rest)...))
			const pair = "::1 > ::2: "
			short := "[|icmp6]"
			if tt.typ == 143 {
				short = "multicast listener report v2[|icmp6]"
			}
			for n, want := range map[int]string{len(ip) - 40: want, tt.need: want, tt.need - 1: short, 0: "[|icmp6]"} {
				if got := cutLine(t, ip, 40+n); got != pair+want {
					t.Errorf("type %d code %d, %d bytes:\n got %s\nwant %s", tt.typ, code, n, got, pair+want)
				}
			}
		}
	}
	// A query of either version, cut.
	v1 := ip6(protoICMPv6, unhex(t, "82000000 00010000 ff020000000000000000000000000001"))
	v2 := ip6(protoICMPv6, unhex(t, "82000000 00010000 ff020000000000000000000000000001 027d0000"))
	for _, c := range []struct {
		ip   []byte
		n    int
		want string
	}{
		{v1, 23, "icmp6: multicast listener query "},
		{v1, 24, "icmp6: multicast listener query max resp delay: 1 addr: ff02::1"},
		{v2, 23, "icmp6: multicast listener query v2 [|icmp6]"},
		{v2, 27, "icmp6: multicast listener query v2  [gaddr ff02::1[|icmp6]"},
		{v2, 28, "icmp6: multicast listener query v2  [gaddr ff02::1]"},
	} {
		if got := cutLine(t, c.ip, 40+c.n); got != "::1 > ::2: "+c.want {
			t.Errorf("%d bytes:\n got %s\nwant %s", c.n, got, c.want)
		}
	}
}

// TestLineCut cuts TCP and UDP at every byte of their headers, and says what was
// printed by then (print-tcp.c, print-udp.c).
func TestLineCut(t *testing.T) {
	tcp := unhex(t, "c350 0050 00000001 00000002 b012 4000 0000 0000 0204 05b4 0101 080a 00000003 00000004 0402 01 00")
	binary.BigEndian.PutUint16(tcp[12:], 0xb012)
	udp := unhex(t, "c350 270f 000c 0000 ffffffff")
	const (
		none4, none6 = "10.0.0.1 > 10.0.0.2: ", "::1 > ::2: "
		tcp4, tcp6   = "10.0.0.1.50000 > 10.0.0.2.80: ", "::1.50000 > ::2.80: "
		udp4, udp6   = "10.0.0.1.50000 > 10.0.0.2.9999: ", "::1.50000 > ::2.9999: "
		head         = "S 1:1(0) ack 2 win 16384 <"
	)
	tests := []struct {
		from, to int // bytes of the header that were captured
		tcp      string
	}{
		{4, 7, "[|tcp]"},
		{8, 11, "1 [|tcp]"},
		{12, 19, "[|tcp]"},
		{20, 21, head + "[|tcp]>"},
		{22, 23, head + "mss[|tcp]>"},
		{24, 24, head + "mss 1460,[|tcp]>"},
		{25, 25, head + "mss 1460,nop,[|tcp]>"},
		{26, 27, head + "mss 1460,nop,nop,[|tcp]>"},
		{28, 31, head + "mss 1460,nop,nop,timestamp[|tcp]>"},
		{32, 35, head + "mss 1460,nop,nop,timestamp 3[|tcp]>"},
		{36, 37, head + "mss 1460,nop,nop,timestamp 3 4,[|tcp]>"},
		{38, 38, head + "mss 1460,nop,nop,timestamp 3 4,sackOK,[|tcp]>"},
		{39, 39, head + "mss 1460,nop,nop,timestamp 3 4,sackOK,nop,[|tcp]>"},
	}
	// Eleven words of header say more options than there are.
	tcp[12] = 10 << 4
	tests = append(tests, struct {
		from, to int
		tcp      string
	}{40, 40, head + "mss 1460,nop,nop,timestamp 3 4,sackOK,nop,eol>"})
	check := func(ip []byte, n int, want string) {
		t.Helper()
		if got := cutLine(t, ip, n); got != want {
			t.Errorf("cut at %d:\n got %s\nwant %s", n, got, want)
		}
	}
	four, six := ip4(protoTCP, tcp), ip6(protoTCP, tcp)
	for n := range 4 {
		check(four, 20+n, none4+"[|tcp]")
		check(six, 40+n, none6+"[|tcp]")
	}
	for _, tt := range tests {
		for n := tt.from; n <= tt.to; n++ {
			check(four, 20+n, tcp4+tt.tcp)
			check(six, 40+n, tcp6+tt.tcp)
			check(ip6(protoHopOpts, append([]byte{protoTCP, 0, 1, 4, 0, 0, 0, 0}, tcp...)), 48+n, none6+"HBH 50000 > 80: "+tt.tcp)
		}
	}
	four, six = ip4(protoUDP, udp), ip6(protoUDP, udp)
	for n := range len(udp) + 1 {
		if n < 8 {
			check(four, 20+n, none4+"[|udp]")
			check(six, 40+n, none6+"[|udp]")
			continue
		}
		check(four, 20+n, udp4+"udp 4")
		check(six, 40+n, udp6+"udp 4")
	}
	for n := range 20 {
		check(four, n, "[|ip]")
	}
	for n := range 40 {
		check(six, n, "[|ip6]")
	}
	// IP options that were not captured are missed only by what looks behind them.
	options := append([]byte{0x47, 0, 0, 36, 0, 7, 0x40, 0, 64, protoUDP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2}, 1, 1, 1, 1, 1, 1, 1, 1)
	options = append(options, udp[:8]...)
	for n := 20; n < 28; n++ {
		check(options, n, "[|ip]")
	}
	check(options, 28, none4+"[|udp] (DF)")
	later := bytes.Clone(options)
	later[7] = 1
	check(later, 20, "10.0.0.1 > 10.0.0.2: (frag 7:8@8) (DF)")
}

// TestLineLengths has headers that disagree about how long the packet is. tcpdump
// computes in unsigned 32 bits and prints some of that as signed.
func TestLineLengths(t *testing.T) {
	edit := func(b []byte, f func(b []byte)) []byte { f(b); return b }
	udp := unhex(t, "0007 270f 000c 0000 ffffffff")
	tcp := unhex(t, "0007 0050 00000001 00000000 5004 4000 0000 0000")
	tests := []struct {
		name string
		ip   []byte
		want string
	}{
		{"IPv4 claims less than UDP needs", edit(ip4(protoUDP, udp), func(b []byte) { b[3] = 27 }), "10.0.0.1 > 10.0.0.2: truncated-udp 7"},
		{"IPv4 claims less than UDP claims", edit(ip4(protoUDP, udp), func(b []byte) { b[3] = 28 }), "10.0.0.1.7 > 10.0.0.2.9999:  truncated-udp - 4 bytes missing!udp 0"},
		{"IPv4 claims no payload", edit(ip4(protoTCP, tcp), func(b []byte) { b[3] = 20 }), "truncated-tcp 0"},
		{"IPv4 claims less than a header", edit(ip4(protoTCP, tcp), func(b []byte) { b[3] = 19 }), "bad-hlen 20"},
		{"IPv4 claims more", edit(ip4(protoTCP, tcp), func(b []byte) { b[2], b[3] = 0xff, 0xff }),
			"truncated-ip - 65495 bytes missing!10.0.0.1.7 > 10.0.0.2.80: R 1:1(0) win 16384"},
		{"ESP too short", edit(ip4(protoESP, udp), func(b []byte) { b[3] = 27 }), "10.0.0.1 > 10.0.0.2: [|esp]"},
		{"AH too short", edit(ip4(protoAH, udp), func(b []byte) { b[3] = 31 }), "ah 10.0.0.1 > 10.0.0.2[|ah]"},
		{"AH", ip4(protoAH, udp), "ah 10.0.0.1 > 10.0.0.2 spi 0x000c0000 seq 4294967295 len 12"},
		{"IPv6 claims less than UDP needs", edit(ip6(protoUDP, udp), func(b []byte) { b[5] = 7 }), "::1 > ::2: truncated-udp 7"},
		{"IPv6 claims less than the options take", edit(ip6(protoHopOpts, append([]byte{protoUDP, 0, 1, 4, 0, 0, 0, 0}, udp...)), func(b []byte) { b[5] = 0 }),
			"::1 > ::2: HBH ::1.7 > ::2.9999: udp 4294967280"},
		{"and what TCP makes of it", edit(ip6(protoHopOpts, append([]byte{protoTCP, 0, 1, 4, 0, 0, 0, 0}, tcp...)), func(b []byte) { b[5] = 0 }),
			"::1 > ::2: HBH 7 > 80: R 1:4294967269(4294967268) win 16384"},
		{"and ESP", edit(ip6(protoDstOpts, append([]byte{protoESP, 0, 1, 4, 0, 0, 0, 0}, udp...)), func(b []byte) { b[5] = 0 }),
			"::1 > ::2: DSTOPT esp spi 0x0007270f seq 786432 len -8"},
		{"and a fragment", edit(ip6(protoFragment, append([]byte{protoUDP, 0, 0, 9, 0, 0, 0, 1}, udp...)), func(b []byte) { b[5] = 0 }),
			"::1 > ::2: frag (0x00000001:-8@8+)"},
		{"IPv6 unknown protocol is the first header's", ip6(protoHopOpts, []byte{253, 0, 1, 4, 0, 0, 0, 0}), "::1 > ::2: HBH ip-proto-0 8"},
		{"IPv6 AH", ip6(protoAH, udp), "ah ::1 > ::2 spi 0x000c0000 seq 4294967295 len 12"},
		{"IPv6 AH behind options says no addresses twice", ip6(protoDstOpts, append([]byte{protoAH, 0, 1, 4, 0, 0, 0, 0}, udp...)),
			"::1 > ::2: DSTOPT ah ::1 > ::2 spi 0x000c0000 seq 4294967295 len 12"},
		{"IPv6 truncated inside IPv4", ip4(protoIPv6, ip6(protoNone, nil)[:39]), "[|ip6] (encap)"},
		{"IPv4 claims less than an IPv6 header inside", edit(ip4(protoIPv6, ip6(protoNone, nil)), func(b []byte) { b[3] = 50 }), "truncated-ip6 30 (encap)"},
		{"IPv4 of another version inside IPv4", edit(ip4(protoIPv4, ip4(253, nil)), func(b []byte) { b[20] = 0x65 }), "bad-ip-version 6 (encap)"},
		{"IPv6 of another version inside IPv6", edit(ip6(protoIPv6, ip6(protoNone, nil)), func(b []byte) { b[40] = 0x45 }), "bad-ip6-version 4 (encap)"},
		{"the outer header of a tunnel says nothing", edit(ip4(protoIPv4, ip4(253, nil)), func(b []byte) { b[1], b[6], b[8] = 3, 0x40, 0 }),
			"10.0.0.1 > 10.0.0.2: ip-proto-253 0 (encap)"},
		{"the outer IPv6 header does", edit(ip6(protoIPv4, ip4(253, nil)), func(b []byte) { b[1], b[7] = 0x10, 1 }),
			"10.0.0.1 > 10.0.0.2: ip-proto-253 0 (encap) [class 0x1] [hlim 1]"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := cutLine(t, tt.ip, len(tt.ip)); got != tt.want {
				t.Errorf("\n got %s\nwant %s", got, tt.want)
			}
		})
	}
}

// TestLineHeaderLengths: a header of any length from 45 bytes on is skipped by that
// rounded up to four, in eight bits; its fields are where today's are.
func TestLineHeaderLengths(t *testing.T) {
	ip := ip4(253, []byte{1, 2})
	const rest = ": 10.0.0.1 > 10.0.0.2: ip-proto-253 2"
	for n := range 256 {
		skip := (n + 3) &^ 3
		r := logged(nil)
		head := append(r.data, make([]byte, 256)...)[:max(skip, 4)]
		head[offLength] = byte(n)
		r = recordOf(append(head, ip...))
		// Direction and interface are there or lie in the packet: below 61
		// bytes the direction is the packet's byte at 60.
		dir := "in"
		if len(r.data) > offDir && r.data[offDir] == 2 {
			dir = "out"
		}
		want := "00:00:00.000000 rule 1/(match) block " + dir + " on em0" + rest
		switch {
		case n < 45:
			want = "00:00:00.000000 [pflog: invalid header length!]"
		case n > 252:
			// Nothing is skipped: the header is the packet.
			want = fmt.Sprintf("00:00:00.000000 rule 1/(match) block in on em0: bad-ip-version %d", n>>4)
		}
		if got := r.printed(); got != want {
			t.Errorf("header of %d bytes:\n got %s\nwant %s", n, got, want)
		}
		if n >= 45 && n <= 252 {
			r.data = r.data[:skip-1]
			if got := r.printed(); got != "00:00:00.000000 [|pflog]" {
				t.Errorf("header of %d bytes, one fewer captured: %s", n, got)
			}
		}
	}
}

// TestLineWords has each action, reason and direction.
func TestLineWords(t *testing.T) {
	actions := map[byte]string{0: "pass", 1: "block", 2: "scrub", 4: "nat", 5: "nat", 6: "binat", 7: "binat", 8: "rdr", 9: "rdr", 12: "match"}
	reasons := []string{"match", "bad-offset", "fragment", "short", "normalize", "memory", "bad-timestamp", "congestion", "ip-option",
		"proto-cksum", "state-mismatch", "state-insert", "state-limit", "src-limit", "synproxy", "translate", "no-route"}
	for i := range 256 {
		r := logged(nil)
		r.data[offAction], r.data[offReason], r.data[offDir] = byte(i), byte(i), byte(i)
		binary.BigEndian.PutUint32(r.data[offRuleNr:], 0xfffffffe)
		reason, dir := fmt.Sprintf("unkn %d", i), "in"
		if i < len(reasons) {
			reason = reasons[i]
		}
		if i == 2 {
			dir = "out"
		}
		want := "00:00:00.000000 rule 4294967294/(" + reason + ") " + actions[byte(i)] + " " + dir + " on em0: [|ip]"
		if got := r.printed(); got != want {
			t.Errorf("%d:\n got %s\nwant %s", i, got, want)
		}
	}
}

// TestLineMutated changes recorded packets at random, in bytes, in length and in what
// they claim: each still has one printable line.
func TestLineMutated(t *testing.T) {
	records := goldenRecords(t, "wild-1.pcap.gz")
	rng := newRand(20)
	var p Packet
	buf := make([]byte, 0, 1<<16)
	for range 30000 {
		r := records[rng()%uint64(len(records))]
		data := bytes.Clone(r.data)
		for range rng() % 6 {
			if len(data) == 0 {
				break
			}
			at := rng() % uint64(len(data))
			if rng()%4 != 0 { // mostly behind the pflog header
				at = min(HeaderLen+rng()%80, uint64(len(data)-1))
			}
			switch rng() % 3 {
			case 0:
				data[at] = byte(rng())
			case 1:
				data[at] ^= 1 << (rng() % 8)
			case 2:
				data[at] = [...]byte{0, 1, 0x7f, 0xff}[rng()%4]
			}
		}
		if rng()%3 == 0 {
			data = data[:rng()%uint64(len(data)+1)]
		}
		if rng()%8 == 0 {
			r.ci.Length = int(uint32(rng()) >> (1 + rng()%31))
		}
		_ = p.Decode(data[:len(data):len(data)], r.ci)
		buf = p.AppendLine(buf[:0], time.UTC)
		checkLine(t, buf)
	}
	if cap(buf) != 1<<16 {
		t.Error("a line outgrew its buffer")
	}
}
