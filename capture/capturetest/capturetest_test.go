package capturetest_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"

	"example.org/threatstopd/capture"
	"example.org/threatstopd/capture/capturetest"
)

var (
	bad4, own4 = netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("192.0.2.1")
	bad6, own6 = netip.MustParseAddr("2001:db8::bad"), netip.MustParseAddr("2001:db8::1")
)

// TestPacketLines describes packets and has them printed.
func TestPacketLines(t *testing.T) {
	tests := []struct {
		p    capturetest.Packet
		want string
	}{
		{capturetest.Packet{Action: capture.ActionBlock, Iface: "em0", Rule: 3, Src: bad4, Dst: own4, Proto: capturetest.TCP, SrcPort: 40000, DstPort: 22, Seq: 9,
			Options: []byte{2, 4, 5, 0xb4}, DontFragment: true},
			"rule 3/(match) block in on em0: 198.51.100.7.40000 > 192.0.2.1.22: S 9:9(0) win 16384 <mss 1460> (DF)"},
		{capturetest.Packet{Action: capture.ActionBlock, Dir: capture.Out, Iface: "pppoe0", Rule: 3, Ruleset: "threatstop", SubRule: 1,
			Src: own4, Dst: bad4, Proto: capturetest.UDP, SrcPort: 5, DstPort: 9999, Payload: make([]byte, 7), TOS: 0x10, TTL: 1},
			"rule 3.threatstop.1/(match) block out on pppoe0: 192.0.2.1.5 > 198.51.100.7.9999: udp 7 [tos 0x10] [ttl 1]"},
		{capturetest.Packet{Iface: "em0", Rule: capture.NoRule, Src: bad4, Dst: own4, Proto: capturetest.ICMP},
			"rule def/(match) pass in on em0: 198.51.100.7 > 192.0.2.1: icmp: echo request"},
		{capturetest.Packet{Action: capture.ActionMatch, Reason: 7, Iface: "vlan100", Src: bad6, Dst: own6, Proto: capturetest.ICMPv6},
			"rule 0/(congestion) match in on vlan100: 2001:db8::bad > 2001:db8::1: icmp6: echo request"},
		{capturetest.Packet{Action: capture.ActionBlock, Iface: "em0", Src: bad6, Dst: own6, Proto: capturetest.TCP, SrcPort: 1, DstPort: 2, Flags: capturetest.ACK, Ack: 77, Window: 1, Payload: []byte("x")},
			"rule 0/(match) block in on em0: 2001:db8::bad.1 > 2001:db8::1.2: . 0:1(1) ack 77 win 1"},
		{capturetest.Packet{Action: capture.ActionBlock, Iface: "an-interface-of-more-bytes", Ruleset: "an-anchor-of-more-bytes", Src: bad4, Dst: own4, Proto: 132, Payload: []byte("1234")},
			"rule 0.an-anchor-of-mo.0/(match) block in on an-interface-of: 198.51.100.7 > 192.0.2.1: ip-proto-132 4"},
		{capturetest.Packet{Action: capture.ActionBlock, Iface: "em0", Raw: []byte{0x45, 0}}, "unknown-af 0"},
	}
	for _, tt := range tests {
		data := tt.p.AppendRecord(nil)
		var p capture.Packet
		err := p.Decode(data, gopacket.CaptureInfo{CaptureLength: len(data), Length: len(data)})
		if got := string(p.AppendLine(nil, time.UTC)); !strings.HasSuffix(got, tt.want) {
			t.Errorf("%v\n got %s\nwant %s", err, got, tt.want)
		}
	}
}

// TestChecksums has gopacket, which counts them too, serialise what it decoded.
func TestChecksums(t *testing.T) {
	for _, p := range []capturetest.Packet{
		{Src: bad4, Dst: own4, Proto: capturetest.TCP, SrcPort: 40000, DstPort: 22, Seq: 9, Options: []byte{2, 4, 5, 0xb4}, Payload: []byte("odd")},
		{Src: bad4, Dst: own4, Proto: capturetest.UDP, SrcPort: 4, DstPort: 2, Payload: []byte("even")},
		{Src: bad4, Dst: own4, Proto: capturetest.ICMP, Type: 3, Code: 1, Payload: []byte("odd")},
		{Src: bad6, Dst: own6, Proto: capturetest.TCP, SrcPort: 40000, DstPort: 22, Flags: capturetest.FIN | capturetest.ACK},
		{Src: bad6, Dst: own6, Proto: capturetest.UDP, SrcPort: 4, DstPort: 2, Payload: []byte("odd")},
	} {
		ip := p.AppendIP(nil)
		first := layers.LayerTypeIPv4
		if p.Src.Is6() {
			first = layers.LayerTypeIPv6
		}
		g := gopacket.NewPacket(ip, first, gopacket.Default)
		if g.ErrorLayer() != nil {
			t.Fatal(g.ErrorLayer().Error())
		}
		var parts []gopacket.SerializableLayer
		for _, l := range g.Layers() {
			switch l := l.(type) {
			case *layers.TCP:
				l.SetNetworkLayerForChecksum(g.NetworkLayer())
			case *layers.UDP:
				l.SetNetworkLayerForChecksum(g.NetworkLayer())
			}
			s, ok := l.(gopacket.SerializableLayer)
			if !ok {
				t.Fatalf("%v does not serialise", l.LayerType())
			}
			parts = append(parts, s)
		}
		buf := gopacket.NewSerializeBuffer()
		if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{ComputeChecksums: true, FixLengths: true}, parts...); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(buf.Bytes(), ip) {
			t.Errorf("protocol %d:\n got %x\nwant %x", p.Proto, ip, buf.Bytes())
		}
	}
}

// TestPcapWriter has another reader read the file.
func TestPcapWriter(t *testing.T) {
	for _, order := range []binary.ByteOrder{nil, binary.LittleEndian, binary.BigEndian} {
		var file bytes.Buffer
		w, err := capturetest.NewPcapWriter(&file, 0, order)
		if err != nil {
			t.Fatal(err)
		}
		at := time.Unix(1700000000, 5000)
		p := capturetest.Packet{Time: at, Src: bad4, Dst: own4, Proto: capturetest.UDP, Payload: make([]byte, 500)}
		if err := w.Write(&p); err != nil {
			t.Fatal(err)
		}
		r, err := pcapgo.NewReader(&file)
		if err != nil {
			t.Fatal(err)
		}
		data, ci, err := r.ReadPacketData()
		if err != nil || len(data) != 160 || ci.Length != 100+20+8+500 || !ci.Timestamp.Equal(at) || r.LinkType() != capture.LinkType || r.Snaplen() != 160 {
			t.Errorf("%v: %d bytes, %+v, link type %d, snaplen %d, %v", order, len(data), ci, r.LinkType(), r.Snaplen(), err)
		}
	}
}

func newPacket() *capturetest.Packet {
	return &capturetest.Packet{Action: capture.ActionBlock, Iface: "em0", Src: bad4, Dst: own4, Proto: capturetest.UDP, SrcPort: 1, DstPort: 2}
}

// read reads n packets.
func read(t *testing.T, r *capturetest.Reader, n int) (ps []capture.Packet) {
	t.Helper()
	for range n {
		data, ci, err := r.ZeroCopyReadPacketData()
		if err != nil {
			t.Fatalf("after %d packets: %v", len(ps), err)
		}
		var p capture.Packet
		if err := p.Decode(data, ci); err != nil {
			t.Fatal(err)
		}
		ps = append(ps, p)
	}
	return ps
}

func TestInterface(t *testing.T) {
	iface := capturetest.NewInterface("pflog1")
	open := func(f capture.Filter) *capturetest.Reader {
		t.Helper()
		r, err := iface.Open(capture.Options{Filter: f})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	blocked, all := open(capture.FilterBlock), open(capture.FilterAll)
	iface.Log(newPacket())
	passed := newPacket()
	passed.Action = capture.ActionPass
	iface.Log(passed)
	read(t, blocked, 1)
	read(t, all, 2)
	for _, src := range []*capturetest.Reader{blocked, all} {
		if s, err := src.Stats(); err != nil || s.Received != 2 || s.Dropped != 0 || src.Buffered() {
			t.Errorf("%+v, %v", s, err)
		}
	}

	iface.Destroy()
	for _, src := range []*capturetest.Reader{blocked, all} {
		if _, _, err := src.ZeroCopyReadPacketData(); !errors.Is(err, capture.ErrInterfaceGone) || !strings.Contains(err.Error(), "pflog1") {
			t.Errorf("destroyed: %v", err)
		}
	}
	if _, err := iface.Open(capture.Options{}); !errors.Is(err, capture.ErrInterfaceGone) {
		t.Errorf("open without interface: %v", err)
	}
	iface.Create()
	again := open(capture.FilterBlock)
	iface.Log(newPacket())
	read(t, again, 1)
	if _, err := blocked.Stats(); !errors.Is(err, capture.ErrInterfaceGone) {
		t.Errorf("the old reader: %v", err)
	}
	time.AfterFunc(10*time.Millisecond, func() { again.Close(); again.Close() })
	if _, _, err := again.ZeroCopyReadPacketData(); err != io.EOF {
		t.Errorf("closed: %v", err)
	}
	iface.Log(newPacket())
}

// TestDrops fills both buffers: what comes then is dropped and counted, and what was
// kept comes out in order.
func TestDrops(t *testing.T) {
	iface := capturetest.NewInterface("")
	const perBuffer, size = 10, 10 * (28 + 128)
	iface.BufferSize = size
	r, err := iface.Open(capture.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		p := newPacket()
		p.SrcPort = uint16(i)
		iface.Log(p)
	}
	if s, _ := r.Stats(); s.Received != 50 || s.Dropped != 50-2*perBuffer {
		t.Errorf("%+v", s)
	}
	for i, p := range read(t, r, 2*perBuffer) {
		if int(p.SrcPort) != i {
			t.Errorf("packet %d, want %d", p.SrcPort, i)
		}
	}
	// One longer than a buffer is cut to it.
	long := newPacket()
	long.Payload = make([]byte, 4000)
	iface.Log(long)
	if p := read(t, r, 1)[0]; len(p.Data) != size-28 || p.Length != 4128 {
		t.Errorf("long packet: %d of %d bytes", len(p.Data), p.Length)
	}
}

// TestConcurrent logs from several goroutines while one reads: each packet is read or
// counted as dropped.
func TestConcurrent(t *testing.T) {
	iface := capturetest.NewInterface("")
	iface.BufferSize = 32 << 10
	r, err := iface.Open(capture.Options{})
	if err != nil {
		t.Fatal(err)
	}
	const writers, each, last = 4, 5000, 9
	got := make(chan uint64)
	go func() {
		for n := uint64(0); ; n++ {
			data, ci, err := r.ZeroCopyReadPacketData()
			var p capture.Packet
			if err != nil || p.Decode(data, ci) != nil || p.SrcPort == last {
				got <- n
				return
			}
		}
	}()
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for range each {
				iface.Log(newPacket())
			}
		})
	}
	wg.Wait()
	s, err := r.Stats()
	if err != nil || s.Received != writers*each {
		t.Errorf("%+v, %v", s, err)
	}
	for {
		// The last one must not be dropped.
		end, before := newPacket(), s.Dropped
		end.SrcPort = last
		iface.Log(end)
		if s, _ = r.Stats(); s.Dropped == before {
			break
		}
	}
	if n := <-got; n+1+s.Dropped != s.Received {
		t.Errorf("%d read + %d dropped, %d received", n, s.Dropped, s.Received)
	}
}
