package dnstest

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"example.org/threatstopd/dnsfetch"
)

// A zone file says what the server says: each name's records, read back by
// miekg/dns' zone parser, are those of the server's answers.
func TestZoneSaysWhatTheServerSays(t *testing.T) {
	lists := []List{
		{Name: "block.org1.Example", Entries: random(5000, 11, false), ItemsPerRecord: 64, TTL: 60},
		{Name: "odd.example", Entries: random(10, 12, false), PartSize: 3, PartLabel: func(n int) string { return fmt.Sprintf(`a "b(;%d`, n) }},
		{Name: "flat.example", Layout: dnsfetch.LayoutAPL, Entries: random(2000, 13, false), ItemsPerRecord: 20},
		{Name: "none.example", Layout: dnsfetch.LayoutAPL},
		{Name: "basic.example", Layout: dnsfetch.LayoutAddresses, Entries: random(300, 14, true), PartSize: 100,
			Siblings: []string{"basic1", "basic2"}},
	}
	var zone bytes.Buffer
	if err := WriteZone(&zone, "example", 7, lists...); err != nil {
		t.Fatal(err)
	}
	s := start(t, Options{})
	set(t, s, lists...)
	sets := make(map[dns.RR_Header][]string)
	zp := dns.NewZoneParser(&zone, "", "zone")
	var first dns.RR
	for rr, ok := zp.Next(); ok; rr, ok = zp.Next() {
		if first == nil {
			first = rr
		}
		h := *rr.Header()
		h.Rdlength = 0
		sets[h] = append(sets[h], rr.String())
	}
	if err := zp.Err(); err != nil {
		t.Fatal(err)
	}
	if soa, ok := first.(*dns.SOA); !ok || soa.Hdr.Name != "example." || soa.Serial != 7 {
		t.Errorf("begins with %v", first)
	}
	records := 0
	for h, want := range sets {
		if h.Rrtype == dns.TypeSOA || h.Rrtype == dns.TypeNS || h.Name == "ns.example." {
			continue
		}
		var got []string
		for _, rr := range ask(t, s, h.Name, h.Rrtype).Answer {
			got = append(got, rr.String())
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s %s: the server says\n%v\nand the zone\n%v", h.Name, dns.TypeToString[h.Rrtype], got, want)
		}
		records += len(got)
	}
	// 6 PTR and 5 times 15 and a few more APL, 4 and 4, 100, 1, 300.
	if want := 6 + 5*15 + 8 + 4 + 4 + 100 + 1 + 300; records != want {
		t.Errorf("%d records, want %d", records, want)
	}
	if ttl := ask(t, s, "block.org1.example", dns.TypePTR).Answer[0].Header().Ttl; ttl != 60 {
		t.Errorf("TTL %d", ttl)
	}
}

func TestWriteZoneRefuses(t *testing.T) {
	for _, tt := range []struct{ zone, list, want string }{
		{"example", "block.example.org", "is not below the zone"},
		{"example", "ns.example", "ns.example belongs to"},
		{"example", "example", "is not below the zone"},
		{strings.Repeat("a", 64), "block.example", "zone"},
	} {
		var out bytes.Buffer
		err := WriteZone(&out, tt.zone, 1, List{Name: tt.list})
		if err == nil || !strings.Contains(err.Error(), tt.want) || out.Len() > 0 {
			t.Errorf("%s in %s: %v, %d bytes written", tt.list, tt.zone, err, out.Len())
		}
	}
}

func TestRootZone(t *testing.T) {
	var out bytes.Buffer
	if err := WriteZone(&out, ".", 1, List{Name: "block", Layout: dnsfetch.LayoutAPL, Entries: entries(t, "192.0.2.0/24", "!2001:db8::1")}); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "\nblock.\t7200\tIN\tAPL\t1:192.0.2.0/24 !2:2001:db8::1/128\n") || !strings.HasPrefix(out.String(), ".\t7200\tIN\tSOA\tns. ") {
		t.Error(out.String())
	}
}

func TestWriteZonePassesWriteErrors(t *testing.T) {
	if err := WriteZone(full{}, "example", 1, List{Name: "block.example"}); err == nil {
		t.Error("written to a full disk")
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, fmt.Errorf("no space left on device") }
