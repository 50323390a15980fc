package host

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestRead(t *testing.T) {
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	text := "# of the provider\nlookup file bind\nnameserver 192.0.2.53\nnameserver [192.0.2.54]:5353\nnameserver 2001:db8::53\nnameserver fe80::1%em0\nnameserver 192.0.2.53\n"
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := Read([]string{conf})
	if err != nil {
		t.Fatal(err)
	}
	// Every machine has a loopback address.
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
	f, err := Read([]string{filepath.Join(t.TempDir(), "none")})
	if err != nil || len(f.Resolvers) != 0 || len(f.Interfaces) == 0 {
		t.Errorf("%+v, %v", f, err)
	}
	if _, err := Read([]string{t.TempDir()}); err == nil {
		t.Error("a directory was taken for resolv.conf")
	}
}

// Which addresses a file names as resolvers, and what it includes.
func TestResolverFiles(t *testing.T) {
	for name, tc := range map[string]struct{ file, text, want, includes string }{
		"resolvd's comment while unwind runs": {"resolv.conf", "nameserver 127.0.0.1 # resolvd: unwind\n#nameserver 192.0.2.53 # resolvd: em0\nlookup file bind\n", "127.0.0.1 192.0.2.53", ""},
		"other comments":                      {"resolv.conf", "# nameserver 192.0.2.1\n#nameserver 192.0.2.2\n#nameserver 192.0.2.3 # old\n; nameserver 192.0.2.4\n", "", ""},
		"a forwarder of unwind":               {"unwind.conf", "forwarder 192.0.2.53 port 853 authentication name \"x.example\" DoT\npreference { DoT forwarder }\n", "192.0.2.53", ""},
		"forwarders of unwind with macros":    {"unwind.conf", "fwd=\"192.0.2.1\"\n# forwarder 192.0.2.7\nforwarder {\n $fwd\n 2001:db8::53 port 53\n}\ninclude \"/etc/more\"\nblock list \"/etc/192.0.2.8\"\n", "192.0.2.1 2001:db8::53", "/etc/more"},
		"forwarders of unbound": {"unbound.conf", "server:\n\tinterface: 192.0.2.99\n\tinclude: \"/var/unbound/etc/a.conf\"\nforward-zone:\n\tname: \".\" # use\n\tforward-addr: 192.0.2.53@853#dns.example # one\n#\tforward-addr: 192.0.2.7\nstub-zone:\n\tname: \"example\"\n\tstub-addr: 192.0.2.54\n\tforward-addr: \"2001:db8::53\"\n",
			"192.0.2.53 192.0.2.54 2001:db8::53", "/var/unbound/etc/a.conf"},
	} {
		t.Run(name, func(t *testing.T) {
			got, includes := parseResolvers("/etc/"+tc.file, tc.text)
			var words []string
			for _, a := range got {
				words = append(words, a.String())
			}
			if strings.Join(words, " ") != tc.want || strings.Join(includes, " ") != tc.includes {
				t.Errorf("%v, includes %v", got, includes)
			}
		})
	}
}

// A DHCP server that names very many resolvers opens the first only, and --test can say so.
func TestResolversAreBounded(t *testing.T) {
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	var text strings.Builder
	for i := range 200 {
		fmt.Fprintf(&text, "nameserver 198.51.100.%d # resolvd: em0\n", i)
	}
	if err := os.WriteFile(conf, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	got, unseen, err := Resolvers([]string{conf})
	if len(got) != maxResolvers || err != nil {
		t.Errorf("%d, %v", len(got), err)
	}
	if len(unseen) != 1 || !strings.Contains(unseen[0], "names 200 resolvers") {
		t.Error(unseen)
	}
}
