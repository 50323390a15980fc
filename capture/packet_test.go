package capture_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket"

	"example.org/threatstopd/capture"
	"example.org/threatstopd/capture/capturetest"
)

// packets are a few of different lengths, so that padding differs.
func packets() []capturetest.Packet {
	src4, dst4 := netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("192.0.2.1")
	src6, dst6 := netip.MustParseAddr("2001:db8::bad"), netip.MustParseAddr("2001:db8::1")
	at := time.Unix(1700000000, 123456000)
	return []capturetest.Packet{
		{Time: at, Action: capture.ActionBlock, Iface: "em0", Rule: 3, Src: src4, Dst: dst4, Proto: capturetest.TCP, SrcPort: 40000, DstPort: 22},
		{Time: at, Action: capture.ActionBlock, Iface: "em0", Rule: capture.NoRule, Src: src4, Dst: dst4, Proto: capturetest.UDP, SrcPort: 5, DstPort: 9999, Payload: []byte{1}},
		{Time: at, Action: capture.ActionPass, Iface: "em0", Src: src6, Dst: dst6, Proto: capturetest.UDP, SrcPort: 5, DstPort: 9999, Payload: []byte{1, 2}},
		{Time: at, Action: capture.ActionMatch, Iface: "vlan100", Dir: capture.Out, Src: src6, Dst: dst6, Proto: capturetest.ICMPv6, Payload: []byte{1, 2, 3}},
		{Time: at, Action: capture.ActionBlock, Iface: "em0", Rule: 2, Ruleset: "threatstop", SubRule: 1, Src: src4, Dst: dst4, Proto: capturetest.ICMP},
	}
}

// infoOf returns the gopacket.CaptureInfo of a packet that was captured whole.
func infoOf(p *capturetest.Packet, data []byte) gopacket.CaptureInfo {
	return gopacket.CaptureInfo{Timestamp: p.Time, CaptureLength: len(data), Length: len(data)}
}

func TestDecode(t *testing.T) {
	at := time.Unix(1700000000, 0)
	p := capturetest.Packet{
		Time: at, Action: capture.ActionBlock, Reason: 5, Dir: capture.Out, Iface: "pppoe0",
		Rule: 7, Ruleset: "threatstop", SubRule: 2,
		Src: netip.MustParseAddr("203.0.113.9"), Dst: netip.MustParseAddr("192.0.2.200"),
		Proto: capturetest.TCP, SrcPort: 65535, DstPort: 443,
	}
	data := p.AppendRecord(nil)
	var got capture.Packet
	if err := got.Decode(data, infoOf(&p, data)); err != nil {
		t.Fatal(err)
	}
	h := &got.Header
	if h.AF != capture.AFInet || h.Action != capture.ActionBlock || h.Reason.String() != "memory" ||
		h.Ifname.String() != "pppoe0" || h.Ruleset.String() != "threatstop" || h.RuleNr != 7 || h.SubRuleNr != 2 ||
		h.Dir != capture.Out {
		t.Errorf("header %+v", h)
	}
	if got.Src != p.Src || got.Dst != p.Dst || got.Proto != capturetest.TCP || !got.Ports || got.SrcPort != 65535 ||
		got.DstPort != 443 || got.Fragment || len(got.IP()) != 40 {
		t.Errorf("packet %+v", got)
	}
	if !got.Time.Equal(at) || got.Length != 140 {
		t.Errorf("time %v, length %d", got.Time, got.Length)
	}
}

// TestDecodeOutcomes decodes one packet into the place of the one before: nothing of
// that may be left.
func TestDecodeOutcomes(t *testing.T) {
	full := packets()[0]
	four := full.AppendRecord(nil)
	six := packets()[2]
	sixRec := six.AppendRecord(nil)
	edit := func(rec []byte, f func(b []byte)) []byte {
		b := bytes.Clone(rec)
		f(b)
		return b
	}
	exthdr := func(proto byte, hdr ...byte) []byte {
		return edit(append(append(bytes.Clone(sixRec[:140]), hdr...), 0, 7, 0, 8, 0, 9, 0, 0), func(b []byte) { b[106] = proto })
	}
	tests := []struct {
		name     string
		data     []byte
		err      error
		src      string
		proto    uint8
		ports    bool
		fragment bool
	}{
		{"OK IPv4 TCP", four, nil, "198.51.100.7", 6, true, false},
		{"OK IPv6 UDP", sixRec, nil, "2001:db8::bad", 17, true, false},
		{"bad empty record", nil, capture.ErrShort, "invalid IP", 0, false, false},
		{"bad header cut", four[:99], capture.ErrShort, "invalid IP", 0, false, false},
		{"bad header length 44", edit(four, func(b []byte) { b[0] = 44 }), capture.ErrHeaderLen, "invalid IP", 0, false, false},
		{"bad family", edit(four, func(b []byte) { b[1] = 7 }), capture.ErrPacket, "invalid IP", 0, false, false},
		{"bad IPv4 header cut", four[:119], capture.ErrPacket, "invalid IP", 0, false, false},
		{"bad IPv4 version", edit(four, func(b []byte) { b[100] = 0x65 }), capture.ErrPacket, "invalid IP", 0, false, false},
		{"bad IPv6 header cut", sixRec[:139], capture.ErrPacket, "invalid IP", 0, false, false},
		{"bad IPv6 version", edit(sixRec, func(b []byte) { b[100] = 0x45 }), capture.ErrPacket, "invalid IP", 0, false, false},
		{"OK ports cut", four[:123], nil, "198.51.100.7", 6, false, false},
		{"OK ports just there", four[:124], nil, "198.51.100.7", 6, true, false},
		{"OK IPv4 options behind the capture", edit(four[:125], func(b []byte) { b[100] = 0x4f }), nil, "198.51.100.7", 6, false, false},
		{"OK IPv4 header length too small", edit(four, func(b []byte) { b[100] = 0x44 }), nil, "198.51.100.7", 6, false, false},
		{"OK IPv4 later fragment", edit(four, func(b []byte) { b[107] = 1 }), nil, "198.51.100.7", 6, false, true},
		{"OK IPv4 first fragment", edit(four, func(b []byte) { b[106] = 0x20 }), nil, "198.51.100.7", 6, true, false},
		{"OK hop-by-hop", exthdr(0, 17, 0, 1, 4, 0, 0, 0, 0), nil, "2001:db8::bad", 17, true, false},
		{"OK destination options", exthdr(60, 17, 0, 1, 4, 0, 0, 0, 0), nil, "2001:db8::bad", 17, true, false},
		{"OK routing", exthdr(43, 17, 0, 4, 0, 0, 0, 0, 0), nil, "2001:db8::bad", 17, true, false},
		{"OK first fragment", exthdr(44, 17, 0, 0, 1, 0, 0, 0, 0), nil, "2001:db8::bad", 17, true, false},
		{"OK later fragment", exthdr(44, 17, 0, 0, 8, 0, 0, 0, 0), nil, "2001:db8::bad", 17, false, true},
		{"OK authentication header", exthdr(51, 17, 0, 0, 0, 0, 0, 0, 0), nil, "2001:db8::bad", 17, true, false},
		{"OK two extension headers", exthdr(0, 60, 0, 1, 4, 0, 0, 0, 0, 17, 0, 1, 4, 0, 0, 0, 0), nil, "2001:db8::bad", 17, true, false},
		{"OK extension header beyond the capture", exthdr(0, 17, 255, 1, 4, 0, 0, 0, 0), nil, "2001:db8::bad", 17, false, false},
		{"OK extension header cut", exthdr(0)[:141], nil, "2001:db8::bad", 0, false, false},
	}
	var p capture.Packet
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			// Leave everything set from another packet.
			if err := p.Decode(four, infoOf(&full, four)); err != nil {
				t.Fatal(err)
			}
			err := p.Decode(tt.data, infoOf(&full, tt.data))
			if !errors.Is(err, tt.err) || (err == nil) != (tt.err == nil) {
				t.Errorf("error %v, want %v", err, tt.err)
			}
			if p.Src.String() != tt.src || p.Proto != tt.proto || p.Ports != tt.ports || p.Fragment != tt.fragment {
				t.Errorf("src %v proto %d ports %v fragment %v", p.Src, p.Proto, p.Ports, p.Fragment)
			}
			if !p.Ports && (p.SrcPort != 0 || p.DstPort != 0) {
				t.Errorf("ports %d %d left over", p.SrcPort, p.DstPort)
			}
		})
	}
}

// TestShortHeader: a header that claims less than today's is read where today's has its
// fields, as far as it was captured.
func TestShortHeader(t *testing.T) {
	p := packets()[0]
	p.Ruleset, p.SubRule = "threatstop", 6
	rec := p.AppendRecord(nil)
	for _, tt := range []struct {
		n, captured, skip int
		sub               uint32
		dir               capture.Direction
	}{
		{45, 140, 48, 6, capture.In},
		{45, 48, 48, 6, 0},
		{61, 64, 64, 6, capture.In},
		{100, 100, 100, 6, capture.In},
		{253, 140, 0, 6, capture.In}, // tcpdump rounds in a byte
	} {
		b := bytes.Clone(rec)[:tt.captured]
		b[0] = byte(tt.n)
		var h capture.Header
		skip, err := h.Decode(b)
		if err != nil || skip != tt.skip || h.SubRuleNr != tt.sub || h.Dir != tt.dir || h.RuleNr != 3 {
			t.Errorf("length %d, %d captured: skip %d, %+v, %v", tt.n, tt.captured, skip, h, err)
		}
	}
}

func TestNames(t *testing.T) {
	var n capture.Name
	copy(n[:], "sixteen-bytes-xx")
	if n.String() != "sixteen-bytes-xx" {
		t.Errorf("%q", n)
	}
	n[3] = 0
	if n.String() != "six" {
		t.Errorf("%q", n)
	}
	for a, want := range map[capture.Action]string{0: "pass", 1: "block", 2: "scrub", 3: "", 5: "nat", 7: "binat", 9: "rdr", 10: "", 12: "match", 13: "", 255: ""} {
		if a.String() != want {
			t.Errorf("action %d: %q, want %q", a, a, want)
		}
	}
	if s := capture.Reason(17).String(); s != "unkn 17" {
		t.Errorf("reason 17: %q", s)
	}
}

func ExamplePacket_AppendLine() {
	logged := capturetest.Packet{
		Time: time.Unix(1700000000, 127887000), Action: capture.ActionBlock, Iface: "em0", Ruleset: "threatstop", Rule: 3,
		Src: netip.MustParseAddr("198.51.100.7"), Dst: netip.MustParseAddr("192.0.2.1"),
		Proto: capturetest.TCP, SrcPort: 40000, DstPort: 22, Seq: 1234567890, DontFragment: true,
	}
	data := logged.AppendRecord(nil)
	var p capture.Packet
	if err := p.Decode(data, infoOf(&logged, data)); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s\n", p.AppendLine(nil, time.UTC))
	// Output: 22:13:20.127887 rule 3.threatstop.0/(match) block in on em0: 198.51.100.7.40000 > 192.0.2.1.22: S 1234567890:1234567890(0) win 16384 (DF)
}

// TestDependencies: capture links neither gopacket/layers (7 MB, and a table built at each
// start) nor another package of this module.
func TestDependencies(t *testing.T) {
	goTool, err := exec.LookPath("go")
	if err != nil {
		t.Skip("no go command here")
	}
	cmd := exec.Command(goTool, "list", "-deps", "example.org/threatstopd/capture")
	cmd.Env = append(os.Environ(), "GOPROXY=off", "GOTOOLCHAIN=local") // nothing is fetched for this
	out, err := cmd.Output()
	if err != nil {
		t.Skipf("go list: %v", err)
	}
	for _, p := range strings.Fields(string(out)) {
		if strings.HasPrefix(p, "github.com/google/gopacket/") || strings.Contains(p, "threatstopd/") && p != "example.org/threatstopd/capture" {
			t.Errorf("depends on %s", p)
		}
	}
}
