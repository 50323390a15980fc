package host

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestRead(t *testing.T) {
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	text := "# of the provider\nlookup file bind\nnameserver 192.0.2.53\nnameserver [192.0.2.54]:5353\nnameserver 2001:db8::53\nnameserver fe80::1%em0\nnameserver 192.0.2.53\n"
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := Read(conf)
	if err != nil {
		t.Fatal(err)
	}
	// Whatever the machine, it has a loopback address.
	loopback := false
	for _, i := range f.Interfaces {
		if i.Name == "" {
			t.Errorf("an interface without a name: %v", i)
		}
		for _, p := range i.Addresses {
			if !p.IsValid() {
				t.Errorf("%s: invalid address %v", i.Name, p)
			}
			loopback = loopback || p.Addr().IsLoopback() && p.Bits() >= 8
		}
	}
	if !loopback {
		t.Errorf("no loopback address among %v", f.Interfaces)
	}
	var want []netip.Addr
	for _, s := range []string{"192.0.2.53", "192.0.2.54", "2001:db8::53", "fe80::1"} {
		want = append(want, netip.MustParseAddr(s))
	}
	if !slices.Equal(f.Resolvers, want) {
		t.Errorf("resolvers %v, want %v", f.Resolvers, want)
	}
	if slices.ContainsFunc(f.Gateways, func(a netip.Addr) bool { return !a.IsValid() }) {
		t.Errorf("gateways %v", f.Gateways)
	}
}

func TestReadWithoutResolvConf(t *testing.T) {
	f, err := Read(filepath.Join(t.TempDir(), "none"))
	if err != nil || len(f.Resolvers) != 0 || len(f.Interfaces) == 0 {
		t.Errorf("%+v, %v", f, err)
	}
	if _, err := Read(t.TempDir()); err == nil {
		t.Error("a directory was taken for resolv.conf")
	}
}
