package capture_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"example.org/threatstopd/capture"
	"example.org/threatstopd/capture/capturetest"
)

// The package says these numbers without linking gopacket/layers.
func TestLayerNumbers(t *testing.T) {
	l := capture.PflogLayer{Header: capture.Header{AF: capture.AFInet}}
	if l.NextLayerType() != layers.LayerTypeIPv4 {
		t.Errorf("IPv4: %d, want %d", l.NextLayerType(), layers.LayerTypeIPv4)
	}
	l.AF = capture.AFInet6
	if l.NextLayerType() != layers.LayerTypeIPv6 {
		t.Errorf("IPv6: %d, want %d", l.NextLayerType(), layers.LayerTypeIPv6)
	}
	l.IPv6 = gopacket.LayerTypePayload
	if l.NextLayerType() != gopacket.LayerTypePayload {
		t.Errorf("the caller's own: %v", l.NextLayerType())
	}
	l.AF = 7
	if l.NextLayerType() != gopacket.LayerTypePayload {
		t.Errorf("unknown family: %v", l.NextLayerType())
	}
}

func TestGopacketPacket(t *testing.T) {
	f, err := capture.NewFileReader(bytes.NewReader(pcapOf(t, nil, packets()...)))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for p := range gopacket.NewPacketSource(f, capture.LayerTypePflog).Packets() {
		want := packets()[n]
		n++
		l, ok := p.Layer(capture.LayerTypePflog).(*capture.PflogLayer)
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

func TestGopacketParser(t *testing.T) {
	var (
		pflog   capture.PflogLayer
		v4      layers.IPv4
		v6      layers.IPv6
		tcp     layers.TCP
		decoded []gopacket.LayerType
	)
	parser := gopacket.NewDecodingLayerParser(capture.LayerTypePflog, &pflog, &v4, &v6, &tcp)
	parser.IgnoreUnsupported = true
	for i, p := range packets() {
		if err := parser.DecodeLayers(p.AppendRecord(nil), &decoded); err != nil || len(decoded) < 2 || decoded[0] != capture.LayerTypePflog {
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

func TestPacketData(t *testing.T) {
	iface := capturetest.NewInterface("")
	src, err := iface.Open(capture.Options{Filter: capture.FilterAll, ReadTimeout: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	d := capture.NewPacketData(src)
	go func() {
		// Let a tick or two pass first.
		time.Sleep(30 * time.Millisecond)
		for _, p := range packets() {
			iface.Log(&p)
		}
	}()
	var kept [][]byte
	for i, p := range packets() {
		data, ci, err := d.ReadPacketData()
		if err != nil {
			t.Fatal(err)
		}
		kept = append(kept, data)
		if !bytes.Equal(data, p.AppendRecord(nil)) || ci.Length != len(data) || !ci.Timestamp.Equal(p.Time) {
			t.Errorf("packet %d: %+v %x", i, ci, data)
		}
	}
	if p := packets()[0]; !bytes.Equal(kept[0], p.AppendRecord(nil)) {
		t.Error("the first packet's data changed: it was not the caller's own")
	}
	src.Close()
	if _, _, err := d.ZeroCopyReadPacketData(); err != io.EOF {
		t.Errorf("after Close: %v", err)
	}

	gone, err := iface.Open(capture.Options{})
	if err != nil {
		t.Fatal(err)
	}
	iface.Destroy()
	if _, _, err := capture.NewPacketData(gone).ReadPacketData(); !errors.Is(err, capture.ErrInterfaceGone) {
		t.Errorf("interface gone: %v", err)
	}
}

// badSource gives one read that does not parse, then a good one.
type badSource struct{ reads [][]byte }

func (s *badSource) Read() (*capture.Batch, error) {
	if len(s.reads) == 0 {
		return nil, capture.ErrClosed
	}
	b := new(capture.Batch)
	b.Reset(s.reads[0])
	s.reads = s.reads[1:]
	return b, nil
}
func (*badSource) Stats() (capture.Stats, error) { return capture.Stats{}, nil }
func (*badSource) Close() error                  { return nil }

func TestPacketDataBadRead(t *testing.T) {
	good, data := batchOf(capturetest.BPFHeaderLen, packets()[:1])
	d := capture.NewPacketData(&badSource{[][]byte{make([]byte, 40), good}})
	if _, _, err := d.ReadPacketData(); !errors.Is(err, capture.ErrBatch) {
		t.Errorf("bad read: %v", err)
	}
	if got, _, err := d.ReadPacketData(); err != nil || !bytes.Equal(got, data[0]) {
		t.Errorf("the next: %v", err)
	}
	if _, _, err := d.ReadPacketData(); err != io.EOF {
		t.Errorf("the end: %v", err)
	}
}

// TestDependencies: whoever links this package does not get gopacket/layers (7 MB, and
// a table built at each start).
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

// Other programs can read pflog with gopacket; they link its layers themselves.
func ExamplePflogLayer() {
	logged := capturetest.Packet{
		Action: capture.ActionBlock, Iface: "em0", Ruleset: "threatstop", Rule: 3,
		Src: netip.MustParseAddr("198.51.100.7"), Dst: netip.MustParseAddr("192.0.2.1"),
		Proto: capturetest.TCP, SrcPort: 40000, DstPort: 22,
	}
	p := gopacket.NewPacket(logged.AppendRecord(nil), capture.LayerTypePflog, gopacket.Default)
	pflog := p.Layer(capture.LayerTypePflog).(*capture.PflogLayer)
	ip := p.Layer(layers.LayerTypeIPv4).(*layers.IPv4)
	fmt.Println(pflog.Action, pflog.Dir, pflog.Ifname.String(), ip.SrcIP)
	// Output: block in em0 198.51.100.7
}

func ExamplePrinter() {
	logged := capturetest.Packet{
		Time: time.Unix(1700000000, 127887000), Action: capture.ActionBlock, Iface: "em0", Ruleset: "threatstop", Rule: 3,
		Src: netip.MustParseAddr("198.51.100.7"), Dst: netip.MustParseAddr("192.0.2.1"),
		Proto: capturetest.TCP, SrcPort: 40000, DstPort: 22, Seq: 1234567890, DontFragment: true,
	}
	data := logged.AppendRecord(nil)
	var p capture.Packet
	if err := p.Decode(capture.Record{Time: logged.Time, Data: data, Length: len(data)}); err != nil {
		fmt.Println(err)
		return
	}
	pr := capture.Printer{Location: time.UTC}
	fmt.Printf("%s\n", pr.AppendLine(nil, &p))
	// Output: 22:13:20.127887 rule 3.threatstop.0/(match) block in on em0: 198.51.100.7.40000 > 192.0.2.1.22: S 1234567890:1234567890(0) win 16384 (DF)
}
