package capture

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
	"testing"
	"time"
)

// golden returns the bytes of a file in testdata, decompressed.
func golden(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	if strings.HasSuffix(name, ".gz") {
		z, err := gzip.NewReader(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		if b, err = io.ReadAll(z); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

// openGolden opens a pcap file in testdata as the package's users do.
func openGolden(t testing.TB, name string) *FileReader {
	t.Helper()
	f, err := OpenFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// goldenRecords returns all records of a pcap file in testdata, with data of their own.
func goldenRecords(t testing.TB, name string) []Record {
	t.Helper()
	f := openGolden(t, name)
	var all []Record
	for {
		var r Record
		err := f.Next(&r)
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		r.Data = bytes.Clone(r.Data)
		all = append(all, r)
	}
}

var lineStart = regexp.MustCompile(`^\d\d:\d\d:\d\d\.\d{6} `)

// goldenLines returns the first line that tcpdump printed for each packet.
func goldenLines(t testing.TB, name string) []string {
	t.Helper()
	var lines []string
	for _, s := range strings.Split(string(golden(t, name)), "\n") {
		if lineStart.MatchString(s) {
			lines = append(lines, s)
		}
	}
	return lines
}

func TestPrintGolden(t *testing.T) {
	for _, name := range []string{"common-1", "burst"} {
		t.Run(name, func(t *testing.T) {
			want := golden(t, name+".txt.gz")
			var got bytes.Buffer
			n, err := Print(&got, openGolden(t, name+".pcap.gz"), &Printer{Location: time.UTC, Relative: true})
			if err != nil {
				t.Fatal(err)
			}
			if lines := bytes.Count(want, []byte("\n")); n != lines {
				t.Errorf("%d lines, want %d", n, lines)
			}
			diffLines(t, got.String(), string(want))
		})
	}
	t.Run("pflogd", func(t *testing.T) {
		var got bytes.Buffer
		if _, err := Print(&got, openGolden(t, "pflogd.pcap"), &Printer{Location: time.UTC, Relative: true}); err != nil {
			t.Fatal(err)
		}
		diffLines(t, got.String(), string(golden(t, "pflogd.txt")))
	})
}

func diffLines(t *testing.T, got, want string) {
	t.Helper()
	if got == want {
		return
	}
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := 0; i < max(len(g), len(w)); i++ {
		var a, b string
		if i < len(g) {
			a = g[i]
		}
		if i < len(w) {
			b = w[i]
		}
		if a != b {
			t.Errorf("line %d:\n got %q\nwant %q", i+1, a, b)
			if i > 20 {
				break
			}
		}
	}
}

// decodedPorts are the UDP ports of the recording whose protocols tcpdump decodes
// further than this package does.
var decodedPorts = map[uint16]bool{
	53: true, 67: true, 69: true, 123: true, 161: true, 500: true, 520: true,
	1812: true, 4500: true, 5353: true,
}

// class names a packet by what it takes to print it to the end.
func class(p *Packet, line string) string {
	switch {
	case strings.HasSuffix(line, "[|pflog]"), strings.HasSuffix(line, "header length!]"):
		return "pflog header"
	case strings.Contains(line, "unknown-af"), strings.Contains(line, "bad-ip"), strings.Contains(line, "bad-hlen"),
		strings.HasSuffix(line, "[|ip]"), strings.HasSuffix(line, "[|ip6]"):
		return "bad IP header"
	case p.Fragment || strings.Contains(line, "(frag ") || strings.Contains(line, ": frag ("):
		return "fragment"
	case p.Proto == protoUDP && p.Ports && (decodedPorts[p.SrcPort] || decodedPorts[p.DstPort]):
		return "UDP decoded further"
	case p.Proto == protoUDP:
		return "UDP"
	case p.Proto == protoTCP:
		return "TCP"
	case p.Proto == protoICMP && p.Src.Is4():
		return "ICMP"
	case p.Proto == protoICMPv6 && !p.Src.Is4():
		return "ICMPv6"
	case strings.Contains(line, "ip-proto-"):
		return "unknown protocol"
	}
	return fmt.Sprintf("protocol %d", p.Proto)
}

// TestWildGolden holds the lines of odd packets against tcpdump's: all classes are
// equal to the end of the (first) line, but for what tcpdump decodes inside UDP by the
// port, which is equal up to the ports and then as for any other port.
func TestWildGolden(t *testing.T) {
	records := goldenRecords(t, "wild-1.pcap.gz")
	want := goldenLines(t, "wild-1.txt.gz")
	if len(records) != len(want) {
		t.Fatalf("%d records, %d lines", len(records), len(want))
	}
	var (
		p     Packet
		pr    = Printer{Location: time.UTC, Relative: true}
		total = map[string]int{}
		equal = map[string]int{}
		plain = regexp.MustCompile(`: (truncated-udp - \d+ bytes missing!)?udp \d+( \(DF\)| \[.*\])*$`)
	)
	for i, rec := range records {
		_ = p.Decode(rec)
		got := string(pr.AppendLine(nil, &p))
		c := class(&p, want[i])
		total[c]++
		switch {
		case got == want[i]:
			equal[c]++
		case c != "UDP decoded further":
			t.Errorf("%s:\n got %s\nwant %s", c, got, want[i])
		default:
			head := plain.FindStringIndex(got)
			if head == nil || !strings.HasPrefix(want[i], got[:head[0]+1]) {
				t.Errorf("%s:\n got %s\nwant %s", c, got, want[i])
			}
		}
	}
	var names []string
	for c := range total {
		names = append(names, c)
	}
	sort.Strings(names)
	for _, c := range names {
		t.Logf("%-20s %4d of %4d equal to the end", c, equal[c], total[c])
	}
	for _, c := range []string{"TCP", "UDP", "ICMP", "ICMPv6", "fragment", "unknown protocol"} {
		if total[c] < 20 {
			t.Errorf("only %d packets of class %s: is it still told apart?", total[c], c)
		}
	}
}

// nativeReads splits a recording of bpf reads (a little-endian length before each)
// and gives their headers, recorded on a little-endian host, this host's byte order.
func nativeReads(t testing.TB, b []byte) [][]byte {
	t.Helper()
	var reads [][]byte
	for len(b) > 0 {
		n := binary.LittleEndian.Uint32(b)
		buf := bytes.Clone(b[4 : 4+n])
		b = b[4+n:]
		for off := 0; off < len(buf); {
			h := buf[off:]
			caplen, hdrlen := binary.LittleEndian.Uint32(h[8:]), binary.LittleEndian.Uint16(h[16:])
			for i := 0; i < 16; i += 4 {
				binary.NativeEndian.PutUint32(h[i:], binary.LittleEndian.Uint32(h[i:]))
			}
			binary.NativeEndian.PutUint16(h[16:], hdrlen)
			off += (int(hdrlen) + int(caplen) + 3) &^ 3
		}
		reads = append(reads, buf)
	}
	return reads
}

// TestReadsGolden walks what read(2) returned on a real pflog0 and gets the very
// packets that tcpdump, beside it, saw and printed.
func TestReadsGolden(t *testing.T) {
	want := goldenRecords(t, "burst.pcap.gz")
	var got []Record
	var text bytes.Buffer
	var p Packet
	pr := Printer{Location: time.UTC, Relative: true}
	for i, buf := range nativeReads(t, golden(t, "reads-burst.bin.gz")) {
		var b Batch
		b.Reset(buf)
		var r Record
		for b.Next(&r) {
			got = append(got, r)
			if err := p.Decode(r); err != nil {
				t.Errorf("record %d: %v", len(got), err)
			}
			text.Write(append(pr.AppendLine(nil, &p), '\n'))
		}
		if err := b.Err(); err != nil {
			t.Errorf("read %d: %v", i, err)
		}
	}
	if len(got) != len(want) {
		t.Fatalf("%d records, want %d", len(got), len(want))
	}
	for i := range got {
		if !got[i].Time.Equal(want[i].Time) || got[i].Length != want[i].Length || !bytes.Equal(got[i].Data, want[i].Data) {
			t.Errorf("record %d:\n got %v %d %x\nwant %v %d %x", i,
				got[i].Time, got[i].Length, got[i].Data, want[i].Time, want[i].Length, want[i].Data)
		}
	}
	diffLines(t, text.String(), string(golden(t, "burst.txt.gz")))
}

// TestShortReadsGolden is the other recording: reads that timed out empty, and
// the header's host-order ids of a real kernel.
func TestShortReadsGolden(t *testing.T) {
	empty, records := 0, 0
	for _, buf := range nativeReads(t, golden(t, "reads.bin")) {
		var b Batch
		b.Reset(buf)
		if b.Empty() {
			empty++
		}
		var r Record
		for b.Next(&r) {
			records++
			r.swapped = binary.NativeEndian.Uint16([]byte{0, 1}) == 1
			var p Packet
			if err := p.Decode(r); err != nil {
				t.Errorf("record %d: %v", records, err)
			}
			h := &p.Header
			if h.Len != HeaderLen || h.UID != NoUID || h.PID != NoPID || h.RuleUID != 0 || h.RulePID == 0 || h.RulePID >= NoPID {
				t.Errorf("record %d: len %d uid %d pid %d rule uid %d pid %d", records, h.Len, h.UID, h.PID, h.RuleUID, h.RulePID)
			}
			if h.Action != ActionBlock || h.Reason != 0 && h.Reason.String() != "ip-option" {
				t.Errorf("record %d: %v %v", records, h.Action, h.Reason)
			}
			if h.Src() != p.Src || h.Dst() != p.Dst || h.Rewritten {
				t.Errorf("record %d: header has %v > %v, packet %v > %v", records, h.Src(), h.Dst(), p.Src, p.Dst)
			}
			if p.Ports && (h.SrcPort != p.SrcPort || h.DstPort != p.DstPort) {
				t.Errorf("record %d: header has ports %d > %d, packet %d > %d", records, h.SrcPort, h.DstPort, p.SrcPort, p.DstPort)
			}
		}
		if err := b.Err(); err != nil {
			t.Error(err)
		}
	}
	if records == 0 {
		t.Error("no records")
	}
	t.Logf("%d records, %d empty reads", records, empty)
}
