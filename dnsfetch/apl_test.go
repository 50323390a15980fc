package dnsfetch

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// encodeAPL appends e to the rdata of an APL record in the one form that RFC 3123 §4.1 and §4.2 leave to
// senders: bits beyond the prefix cleared, trailing zero octets left out.
func encodeAPL(rdata []byte, e Entry) []byte {
	family, size := aplIPv4, 4
	if e.V6 {
		family, size = aplIPv6, 16
	}
	afd := e.Addr[:size]
	for len(afd) > 0 && afd[len(afd)-1] == 0 {
		afd = afd[:len(afd)-1]
	}
	length := byte(len(afd))
	if e.Not {
		length |= 0x80
	}
	rdata = binary.BigEndian.AppendUint16(rdata, uint16(family))
	rdata = append(rdata, e.Bits, length)
	return append(rdata, afd...)
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestAPLDecode(t *testing.T) {
	for _, tt := range []struct{ name, rdata, want string }{
		{"nothing", "", ""},
		{"a network", "0001 18 03 c00002", "192.0.2.0/24"},
		{"a host", "0001 20 04 c0000201", "192.0.2.1/32"},
		{"trailing zeros stripped", "0001 20 01 0a", "10.0.0.0/32"},
		{"trailing zero left", "0001 18 04 c0000200", "192.0.2.0/24"},
		{"all zeros left", "0001 00 04 00000000", "0.0.0.0/0"},
		{"everything", "0001 00 00", "0.0.0.0/0"},
		{"host bits set", "0001 10 04 0a01ffff", "10.1.0.0/16"},
		{"host bits within an octet", "0001 09 02 0aff", "10.128.0.0/9"},
		{"host bits in /0", "0001 00 04 ffffffff", "0.0.0.0/0"},
		{"host bits in /31", "0001 1f 04 0a000001", "10.0.0.0/31"},
		{"negated", "0001 10 82 0a01", "!10.1.0.0/16"},
		{"negated everything", "0001 00 80", "!0.0.0.0/0"},
		{"IPv6", "0002 20 04 20010db8", "2001:db8::/32"},
		{"IPv6 host", "0002 80 10 20010db8000000000000000000000001", "2001:db8::1/128"},
		{"IPv6 host bits", "0002 21 06 20010db8ffff", "2001:db8:8000::/33"},
		{"IPv6 host bits far behind", "0002 20 10 20010db8000000000000000000000001", "2001:db8::/32"},
		{"IPv6 in /127", "0002 7f 10 20010db8000000000000000000000003", "2001:db8::2/127"},
		{"IPv6 everything", "0002 00 10 ffffffffffffffffffffffffffffffff", "::/0"},
		{"IPv6 trailing zeros left", "0002 20 06 20010db80000", "2001:db8::/32"},
		{"IPv4-mapped is IPv4", "0002 78 0f 00000000000000000000ffff0a0102", "10.1.2.0/24"},
		{"IPv4-mapped host, negated", "0002 80 90 00000000000000000000ffffc000024d", "!192.0.2.77/32"},
		{"all of IPv4-mapped is all of IPv4", "0002 60 0c 00000000000000000000ffff", "0.0.0.0/0"},
		{"wider than IPv4-mapped is IPv6", "0002 5f 0c 00000000000000000000ffff", "::fffe:0:0/95"},
		{"mixed", "0001 18 03 c00002 0002 20 84 20010db8 0001 20 84 c0000201", "192.0.2.0/24 !2001:db8::/32 !192.0.2.1/32"},
		{"the same twice", "0001 08 01 0a 0001 08 01 0a", "10.0.0.0/8 10.0.0.0/8"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := appendAPL(nil, unhex(t, tt.rdata))
			if err != nil {
				t.Fatal(err)
			}
			var s []string
			for _, e := range got {
				s = append(s, e.String())
				if p := e.Prefix(); p != p.Masked() || !p.IsValid() || !e.Valid() || e != MakeEntry(p, e.Not) {
					t.Errorf("%v is not in its one form", e)
				}
			}
			if s := strings.Join(s, " "); s != tt.want {
				t.Errorf("got %q, want %q", s, tt.want)
			}
		})
	}
}

func TestAPLDecodeRefuses(t *testing.T) {
	for _, tt := range []struct{ name, rdata, want string }{
		{"header cut", "0001 18", "item 1: 3 bytes"},
		{"address cut", "0001 18 03 c000", "item 1: address family 1, prefix length 24, 3 octets of address, 2 left"},
		{"second item cut", "0001 18 03 c00002 00", "item 2: 1 bytes"},
		{"IPv4 with 5 octets", "0001 20 05 c000020100", "family 1, prefix length 32, 5 octets"},
		{"IPv4 with /33", "0001 21 04 c0000201", "family 1, prefix length 33"},
		{"IPv6 with 17 octets", "0002 80 11 20010db800000000000000000000000100", "family 2, prefix length 128, 17 octets"},
		{"IPv6 with /129", "0002 81 01 20", "prefix length 129"},
		{"family 0", "0000 08 01 0a", "address family 0"},
		{"family 3", "0001 08 01 0a 0003 08 01 0a", "item 2: address family 3"},
		{"family 257", "0101 08 01 0a", "address family 257"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := appendAPL(nil, unhex(t, tt.rdata))
			if !errors.Is(err, ErrAnswer) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, error %v; want ErrAnswer with %q", got, err, tt.want)
			}
		})
	}
}

// Entries that no list has are not valid.
func TestValid(t *testing.T) {
	for name, e := range map[string]Entry{
		"host bits":       {Addr: [16]byte{10, 0, 0, 1}, Bits: 8},
		"host bits in /0": {Addr: [16]byte{15: 1}, V6: true},
		"behind IPv4":     {Addr: [16]byte{10, 15: 1}, Bits: 32},
		"IPv4 /33":        {Addr: [16]byte{10}, Bits: 33},
		"IPv6 /129":       {Addr: [16]byte{0x20}, Bits: 129, V6: true},
		"IPv4-mapped":     {Addr: [16]byte{10: 0xff, 11: 0xff, 12: 10}, Bits: 104, V6: true},
	} {
		if e.Valid() {
			t.Errorf("%s: %v is valid", name, e)
		}
	}
}

// FuzzAPL checks that what is decoded is masked and valid and lies in the input, and that
// encoding it and decoding that gives the same.
func FuzzAPL(f *testing.F) {
	for _, s := range []string{
		"", "0001 18 03 c00002", "0001 10 04 0a01ffff", "0002 21 06 20010db8ffff 0001 00 80", "0003 08 01 0a",
		"0001 18 04 c0000200 0001 20 84 c0000201",
	} {
		f.Add(unhex(f, s))
	}
	f.Fuzz(func(t *testing.T, rdata []byte) {
		got, err := appendAPL(nil, rdata)
		if err != nil {
			if !errors.Is(err, ErrAnswer) {
				t.Fatalf("unnamed error %v", err)
			}
			return
		}
		checkItems(t, rdata, got)
		var again []byte
		for _, e := range got {
			again = encodeAPL(again, e)
		}
		if len(again) > len(rdata) {
			t.Errorf("strict form %x is longer than %x", again, rdata)
		}
		back, err := appendAPL(nil, again)
		if err != nil || !slices.Equal(back, got) {
			t.Errorf("%x decodes to %v, that encodes to %x, which decodes to %v, error %v", rdata, got, again, back, err)
		}
	})
}

// checkItems decodes rdata another way, item by item, and compares.
func checkItems(t *testing.T, rdata []byte, got []Entry) {
	t.Helper()
	var want []Entry
	for len(rdata) > 0 {
		n := int(rdata[3] & 0x7f)
		size := 4
		if rdata[1] == aplIPv6 {
			size = 16
		}
		addr, _ := netip.AddrFromSlice(append(slices.Clone(rdata[4:4+n]), make([]byte, size-n)...))
		p, _ := addr.Prefix(int(rdata[2]))
		if addr.Is4In6() && rdata[2] >= 96 {
			p, _ = addr.Unmap().Prefix(int(rdata[2]) - 96)
		}
		want = append(want, MakeEntry(p, rdata[3] > 0x7f))
		if e := want[len(want)-1]; e.Prefix() != p {
			t.Errorf("%v as an entry is %v", p, e)
		}
		rdata = rdata[4+n:]
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// BenchmarkAPL decodes a record as full as those of a part.
func BenchmarkAPL(b *testing.B) {
	const items = 900
	var v4, v6 []byte
	for i := range items {
		a := netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), byte(i * 7)})
		v4 = encodeAPL(v4, MakeEntry(netip.PrefixFrom(a, 24+i%9), false))
		a = netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 15: byte(i * 7), 14: byte(i)})
		v6 = encodeAPL(v6, MakeEntry(netip.PrefixFrom(a, 120+i%9), false))
	}
	for _, c := range []struct {
		name  string
		rdata []byte
	}{{"v4/900", v4}, {"v6/900", v6}} {
		b.Run(c.name, func(b *testing.B) {
			b.SetBytes(int64(len(c.rdata)))
			b.ReportAllocs()
			var got []Entry
			for b.Loop() {
				var err error
				if got, err = appendAPL(got[:0], c.rdata); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(items*float64(b.N)/b.Elapsed().Seconds(), "entries/s")
		})
	}
}
