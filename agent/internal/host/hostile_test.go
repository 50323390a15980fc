package host

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A resolv.conf that is none is an error, or has no resolvers; it is not waited for, and
// does not fill the memory.
func TestStrangeResolvConf(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x")
	for name, put := range map[string]func() error{
		"a FIFO":           func() error { return syscall.Mkfifo(path, 0o600) },
		"/dev/zero":        func() error { return os.Symlink("/dev/zero", path) },
		"a gigabyte":       func() error { return errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, 1<<30)) },
		"a directory":      func() error { return os.Mkdir(path, 0o700) },
		"one line, no end": func() error { return os.WriteFile(path, []byte("nameserver "+strings.Repeat("1", 1<<19)), 0o600) },
		"numbers too large": func() error {
			return os.WriteFile(path, []byte("options ndots:99999999999999999999 timeout:-1 attempts:x\n"), 0o600)
		},
		"options of nothing": func() error {
			return os.WriteFile(path, []byte("options\nnameserver\nsearch\ndomain\noptions ndots:\n"), 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			if err := put(); err != nil {
				t.Skip(err)
			}
			defer os.Remove(path)
			done := make(chan struct{})
			go func() {
				defer close(done)
				if a, _, err := Resolvers([]string{path}); len(a) > 0 || err != nil && strings.Contains(err.Error(), "\n") {
					t.Errorf("%v, %v", a, err)
				}
			}()
			select {
			case <-done:
			case <-time.After(time.Minute):
				t.Fatal("it waits")
			}
		})
	}
}

// FuzzResolvConf: what comes of a resolv.conf are addresses, each once, that stand in it
// behind a nameserver; and none of those that do is left out.
func FuzzResolvConf(f *testing.F) {
	for _, s := range []string{"nameserver 192.0.2.1\n", "nameserver [2001:db8::1]:53\nnameserver ::ffff:192.0.2.1\n", "options ndots:3 timeout:1\nsearch a b\n",
		"nameserver fe80::1%em0 # x\n#nameserver 192.0.2.9\n", "lookup file bind\nfamily inet4\n\tnameserver\t192.0.2.1", "options ndots:\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		got, _ := parseResolvers("resolv.conf", string(text))
		got = unique(got)
		want := map[netip.Addr]bool{}
		for line := range strings.Lines(string(text)) {
			words := strings.Fields(line)
			if len(words) < 2 || words[0] != "nameserver" {
				continue
			}
			a, err := netip.ParseAddr(words[1])
			if err != nil {
				if ap, err := netip.ParseAddrPort(words[1]); err == nil {
					a = ap.Addr()
				}
			}
			if a.IsValid() {
				want[a.WithZone("").Unmap()] = true
			}
		}
		for i, a := range got {
			if !a.IsValid() || a.Zone() != "" || a.Is4In6() || i > 0 && !got[i-1].Less(a) {
				t.Fatalf("%v in %v", a, got)
			}
			if !strings.Contains(string(text), "nameserver") {
				t.Fatalf("%v out of nothing", a)
			}
		}
		for a := range want {
			if !slices.Contains(got, a) {
				t.Fatalf("%v is not in %v", a, got)
			}
		}
	})
}
