package capture

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket"
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

// openGolden opens a pcap file in testdata.
func openGolden(t testing.TB, name string) *FileReader {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	f, err := NewFileReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// A record is a packet as a source returns it, with data of its own.
type record struct {
	data []byte
	ci   gopacket.CaptureInfo
}

// recordOf returns a record of these bytes, logged at the start of 1970.
func recordOf(data []byte) record {
	return record{data, gopacket.CaptureInfo{Timestamp: time.Unix(0, 0), CaptureLength: len(data), Length: len(data)}}
}

// printed returns the record's line.
func (r record) printed() string {
	var p Packet
	_ = p.Decode(r.data, r.ci)
	return string(p.AppendLine(nil, time.UTC))
}

// readAll reads src to its end, whose error it returns.
func readAll(src gopacket.ZeroCopyPacketDataSource) (all []record, err error) {
	for {
		data, ci, err := src.ZeroCopyReadPacketData()
		if err != nil {
			return all, err
		}
		all = append(all, record{bytes.Clone(data), ci})
	}
}

// goldenRecords returns all records of a pcap file in testdata.
func goldenRecords(t testing.TB, name string) []record {
	t.Helper()
	all, err := readAll(openGolden(t, name))
	if err != io.EOF {
		t.Fatal(err)
	}
	return all
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

// TestPrintGolden prints what tcpdump printed, byte for byte. No conversation comes twice
// in these files, so -S makes no difference.
func TestPrintGolden(t *testing.T) {
	for pcap, text := range map[string]string{"common-1.pcap.gz": "common-1.txt.gz", "burst.pcap.gz": "burst.txt.gz", "pflogd.pcap": "pflogd.txt"} {
		t.Run(pcap, func(t *testing.T) {
			want := golden(t, text)
			var got bytes.Buffer
			n, err := Print(&got, openGolden(t, pcap), time.UTC)
			if lines := bytes.Count(want, []byte("\n")); n != lines || err != nil {
				t.Errorf("%d lines, %v, want %d", n, err, lines)
			}
			diffLines(t, got.String(), string(want))
		})
	}
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

// TestWildGolden compares the lines of odd packets with tcpdump's. They are equal to the
// end of the (first) line, except for what tcpdump decodes by the UDP port and for the
// protocols that are printed by number: those are equal up to the addresses.
func TestWildGolden(t *testing.T) {
	records, want := goldenRecords(t, "wild-1.pcap.gz"), goldenLines(t, "wild-1.txt.gz")
	if len(records) != len(want) {
		t.Fatalf("%d records, %d lines", len(records), len(want))
	}
	var (
		p       Packet
		equal   = map[uint8]int{}
		further = map[uint8]int{}
		byPort  = regexp.MustCompile(`: (truncated-udp - \d+ bytes missing!)?udp \d+( \(DF\)| \[.*\])*$`)
		byProto = regexp.MustCompile(`ip-proto-\d+ \d+( \(DF\)| \[.*\])*$`)
		pair    = regexp.MustCompile(`\S+ > [^ :]+[:0-9a-f]*`)
	)
	for i, rec := range records {
		_ = p.Decode(rec.data, rec.ci)
		got := string(p.AppendLine(nil, time.UTC))
		if got == want[i] {
			equal[p.Proto]++
			continue
		}
		further[p.Proto]++
		head := byPort.FindStringIndex(got)
		if p.Proto != protoUDP || !decodedPorts[p.SrcPort] && !decodedPorts[p.DstPort] {
			head = byProto.FindStringIndex(got)
		}
		if head == nil {
			t.Errorf("\n got %s\nwant %s", got, want[i])
			continue
		}
		// CARP's lines have no addresses, and IPComp's name stands before them.
		same := strings.HasPrefix(want[i], got[:head[0]])
		if p.Proto == 112 || p.Proto == 108 {
			rule, _, _ := strings.Cut(got, pair.FindString(got))
			same = strings.HasPrefix(want[i], rule) && (p.Proto == 112 || strings.Contains(want[i], p.Src.String()+" > "+p.Dst.String()))
		}
		if !same {
			t.Errorf("\n got %s\nwant %s", got, want[i])
		}
	}
	t.Logf("equal to the end, by protocol: %v; up to the addresses: %v", equal, further)
	for proto, least := range map[uint8]int{protoTCP: 300, protoUDP: 300, protoICMP: 190, protoICMPv6: 100, protoIGMP: 13, protoIPv4: 7, protoIPv6: 6,
		protoGRE: 17, protoESP: 17, protoAH: 16, protoNone: 9} {
		if equal[proto] < least || proto != protoUDP && further[proto] > 0 {
			t.Errorf("protocol %d: %d equal to the end, want %d; %d different", proto, equal[proto], least, further[proto])
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

// TestReadsGolden cuts what read(2) returned on a real pflog0 and gets the packets that
// tcpdump, beside it, saw.
func TestReadsGolden(t *testing.T) {
	want := goldenRecords(t, "burst.pcap.gz")
	var got []record
	for i, read := range nativeReads(t, golden(t, "reads-burst.bin.gz")) {
		for len(read) > 0 {
			var r record
			var ok bool
			if r.data, r.ci, read, ok = cutBPF(read); !ok {
				t.Fatalf("read %d: not a record", i)
			}
			got = append(got, r)
		}
	}
	if len(got) != len(want) {
		t.Fatalf("%d records, want %d", len(got), len(want))
	}
	for i := range got {
		g, w := got[i], want[i]
		if !g.ci.Timestamp.Equal(w.ci.Timestamp) || g.ci.Length != w.ci.Length || !bytes.Equal(g.data, w.data) {
			t.Errorf("record %d:\n got %+v %x\nwant %+v %x", i, g.ci, g.data, w.ci, w.data)
		}
	}
}

// TestShortReadsGolden reads a few reads of a real kernel.
func TestShortReadsGolden(t *testing.T) {
	records := 0
	for _, read := range nativeReads(t, golden(t, "reads.bin")) {
		for len(read) > 0 {
			data, ci, rest, ok := cutBPF(read)
			if !ok {
				t.Fatal("not a record")
			}
			read = rest
			records++
			var p Packet
			if err := p.Decode(data, ci); err != nil {
				t.Errorf("record %d: %v", records, err)
			}
			if h := &p.Header; h.Action != ActionBlock || h.Reason != 0 && h.Reason.String() != "ip-option" {
				t.Errorf("record %d: %+v", records, p)
			}
		}
	}
	if records == 0 {
		t.Error("no records")
	}
}
