package pfioctl

import (
	"net/netip"
	"testing"
)

// Entries are written as pfctl writes them, in persist files and dumps.
func TestAddrString(t *testing.T) {
	for in, want := range map[string]string{
		"10.1.2.3/32":         "10.1.2.3",
		"10.0.0.0/8":          "10.0.0.0/8",
		"0.0.0.0/0":           "0.0.0.0/0",
		"::1/128":             "::1",
		"::/0":                "::/0",
		"::ffff/128":          "::ffff",
		"::1:0/128":           "::0.1.0.0",
		"::c000:201/128":      "::192.0.2.1",
		"::c000:200/120":      "::192.0.2.0/120",
		"::ffff:c000:201/128": "::ffff:192.0.2.1",
		"2001:db8::/32":       "2001:db8::/32",
		"2001:db8:0:1::/64":   "2001:db8:0:1::/64",
	} {
		a := Addr{Prefix: netip.MustParsePrefix(in)}
		if got := a.String(); got != want {
			t.Errorf("%s is written %s, want %s", in, got, want)
		}
		a.Not = true
		if got := a.String(); got != "!"+want {
			t.Errorf("!%s is written %s, want !%s", in, got, want)
		}
	}
}
