package pfloglayer_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"example.org/threatstopd/capture"
	"example.org/threatstopd/capture/capturetest"
	"example.org/threatstopd/capture/pfloglayer"
)

// packets are one for each case of NextLayerType.
func packets() []capturetest.Packet {
	src4, dst4 := netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("192.0.2.1")
	src6, dst6 := netip.MustParseAddr("2001:db8::bad"), netip.MustParseAddr("2001:db8::1")
	at := time.Unix(1700000000, 123456000)
	return []capturetest.Packet{
		{Time: at, Action: capture.ActionBlock, Iface: "em0", Rule: 3, Src: src4, Dst: dst4, Proto: capturetest.TCP, SrcPort: 40000, DstPort: 22},
		{Time: at, Action: capture.ActionPass, Iface: "em1", Src: src6, Dst: dst6, Proto: capturetest.UDP, SrcPort: 5, DstPort: 9999, Payload: []byte{1, 2}},
	}
}

func TestPacketSource(t *testing.T) {
	var file bytes.Buffer
	w, err := capturetest.NewPcapWriter(&file, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range packets() {
		if err := w.Write(&p); err != nil {
			t.Fatal(err)
		}
	}
	f, err := capture.NewFileReader(&file)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for p := range gopacket.NewPacketSource(pfloglayer.Copier{ZeroCopyPacketDataSource: f}, pfloglayer.LayerType).Packets() {
		want := packets()[n]
		n++
		l, ok := p.Layer(pfloglayer.LayerType).(*pfloglayer.Layer)
		if !ok {
			t.Fatalf("packet %d: no pflog layer: %v", n, p.ErrorLayer())
		}
		if l.Action != want.Action || l.Ifname.String() != want.Iface || len(l.LayerContents()) != capture.HeaderLen {
			t.Errorf("packet %d: %+v", n, l.Header)
		}
		src, ok := netip.AddrFromSlice(p.NetworkLayer().NetworkFlow().Src().Raw())
		if !ok || src != want.Src {
			t.Errorf("packet %d: from %v, want %v", n, src, want.Src)
		}
		if want.Proto == capturetest.TCP {
			tcp, ok := p.Layer(layers.LayerTypeTCP).(*layers.TCP)
			if !ok || uint16(tcp.DstPort) != want.DstPort || !tcp.SYN {
				t.Errorf("packet %d: %v", n, p)
			}
		}
		if ci := p.Metadata().CaptureInfo; !ci.Timestamp.Equal(want.Time) || ci.CaptureLength != len(p.Data()) {
			t.Errorf("packet %d: %+v", n, ci)
		}
	}
	if n != len(packets()) {
		t.Errorf("%d packets", n)
	}
}

func TestParser(t *testing.T) {
	var (
		pflog   pfloglayer.Layer
		v4      layers.IPv4
		v6      layers.IPv6
		tcp     layers.TCP
		decoded []gopacket.LayerType
	)
	parser := gopacket.NewDecodingLayerParser(pfloglayer.LayerType, &pflog, &v4, &v6, &tcp)
	parser.IgnoreUnsupported = true
	for i, p := range packets() {
		if err := parser.DecodeLayers(p.AppendRecord(nil), &decoded); err != nil || len(decoded) < 2 || decoded[0] != pfloglayer.LayerType {
			t.Errorf("packet %d: %v %v", i, decoded, err)
		}
	}
	p := packets()[0]
	rec := p.AppendRecord(nil)
	for _, n := range []int{0, 99} {
		if err := parser.DecodeLayers(rec[:n], &decoded); !errors.Is(err, capture.ErrShort) || !parser.Truncated {
			t.Errorf("%d bytes: %v, truncated %v", n, err, parser.Truncated)
		}
	}
	rec[0] = 10
	if err := parser.DecodeLayers(rec, &decoded); !errors.Is(err, capture.ErrHeaderLen) {
		t.Error(err)
	}
}

// Programs that use gopacket can decode pflog with it.
func ExampleLayer() {
	logged := capturetest.Packet{
		Action: capture.ActionBlock, Iface: "em0", Ruleset: "threatstop", Rule: 3,
		Src: netip.MustParseAddr("198.51.100.7"), Dst: netip.MustParseAddr("192.0.2.1"),
		Proto: capturetest.TCP, SrcPort: 40000, DstPort: 22,
	}
	p := gopacket.NewPacket(logged.AppendRecord(nil), pfloglayer.LayerType, gopacket.Default)
	pflog := p.Layer(pfloglayer.LayerType).(*pfloglayer.Layer)
	ip := p.Layer(layers.LayerTypeIPv4).(*layers.IPv4)
	fmt.Println(pflog.Action, pflog.Dir, pflog.Ifname.String(), ip.SrcIP)
	// Output: block in em0 198.51.100.7
}
