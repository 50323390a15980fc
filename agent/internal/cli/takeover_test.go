package cli

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/agent/internal/privsep"
	"example.org/threatstopd/dnsfetch"
	"example.org/threatstopd/dnsfetch/dnstest"
	"example.org/threatstopd/pfioctl"
	"example.org/threatstopd/pfioctl/pfsim"
)

// Messages of the role that fetches, as package fetch has them.
const (
	fetchSetup  = privsep.FirstKind
	fetchFetch  = privsep.FirstKind + 1
	fetchLookup = privsep.FirstKind + 2

	fetchHeader    = privsep.FirstKind + 17
	fetchChunk     = privsep.FirstKind + 18
	fetchAddresses = privsep.FirstKind + 20
)

// taken is a role that fetches for somebody else.
type taken struct {
	*privsep.Worker
	conn   net.Conn
	server string
	name   string
}

// takeover is the life of a role that does do for each list that main asks for. Names it looks
// up as it likes.
func takeover(do func(*taken) error) privsep.Body {
	return func(conn net.Conn, _ []*os.File) error {
		const most = 1 << 20
		a := &taken{Worker: privsep.NewWorker(conn, privsep.Limits{fetchSetup: most, fetchFetch: most, fetchLookup: most, fetchLookup + 1: most}), conn: conn}
		var setup struct {
			Options     dnsfetch.Options
			Confinement privsep.Confinement
		}
		if err := a.Setup(fetchSetup, &setup); err != nil {
			return err
		}
		a.server = setup.Options.Servers[0]
		if err := a.Ready(); err != nil {
			return err
		}
		return a.Run(context.Background(), func(kind byte, payload []byte) error {
			switch kind {
			case fetchFetch:
				var ask struct {
					Name                 string
					AllowEmpty, Progress bool
				}
				if err := privsep.Unmarshal(payload, &ask); err != nil {
					return err
				}
				a.name = ask.Name
				return do(a)
			case fetchLookup:
				// All that it sends is kept out of the block table, and that is all.
				return a.SendJSON(fetchAddresses, []any{map[string]any{"Addresses": []string{"8.8.8.8"}}})
			}
			return nil
		})
	}
}

// begin begins a list of n entries.
func (a *taken) begin(n int) error {
	return a.SendJSON(fetchHeader, map[string]any{
		"Name": a.name, "Server": a.server, "Layout": dnsfetch.LayoutAPL, "Parts": 1, "Entries": n,
	})
}

// chunk is a chunk of IPv4 networks.
func chunk(entries ...netip.Prefix) []byte {
	var b []byte
	for _, p := range entries {
		addr := p.Addr().As4()
		b = append(b, addr[:]...)
		b = append(b, make([]byte, 12)...)
		b = append(b, byte(p.Bits()), 0)
	}
	return b
}

// list sends a list that is right in form.
func (a *taken) list(entries ...netip.Prefix) error {
	if err := a.begin(len(entries)); err != nil {
		return err
	}
	for part := range slices.Chunk(entries, 14_000) {
		if err := a.Send(fetchChunk, chunk(part...)); err != nil {
			return err
		}
	}
	return nil
}

// honest sends the allow list as it is, so that the block list is what an attack is about.
func (a *taken) honest() bool {
	return a.name == allowList && a.list(netip.MustParsePrefix("192.0.2.7/32")) == nil
}

// everything is the whole of IPv4 in networks that are not too wide.
func everything(bits int) []netip.Prefix {
	var all []netip.Prefix
	for i := range 1 << bits {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], uint32(i)<<(32-bits))
		all = append(all, netip.PrefixFrom(netip.AddrFrom4(b), bits))
	}
	return all
}

// attacks are what somebody does who has taken over the role that fetches.
var attacks = map[string]struct {
	do   func(*taken) error
	says []string
	sets bool // what it sends is a policy, within the bounds of any
}{
	"sends 10 million entries": {do: func(a *taken) error {
		a.begin(10_000_000)
		full := bytes.Repeat(chunk(netip.MustParsePrefix("10.9.8.7/32")), 14_000)
		for range 10_000_000/14_000 + 1 {
			if err := a.Send(fetchChunk, full); err != nil {
				return nil
			}
		}
		return nil
	}, says: []string{"fetch process: misbehaved, killed: ", "list of 10000000 entries where the limit is"}},
	"sends more than it says": {do: func(a *taken) error {
		a.begin(10)
		return a.Send(fetchChunk, bytes.Repeat(chunk(netip.MustParsePrefix("10.9.8.7/32")), 11))
	}, says: []string{"fetch process: misbehaved, killed: ", "more entries than announced"}},
	"sends host bits": {do: func(a *taken) error {
		return a.list(netip.MustParsePrefix("10.0.0.1/8"))
	}, says: []string{"fetch process: misbehaved, killed: ", "is not a network"}},
	"sends another list": {do: func(a *taken) error {
		a.name = blockList // main asks for the allow list first
		return a.begin(1)
	}, says: []string{"fetch process: misbehaved, killed: ", "list " + blockList + " where " + allowList + " was asked for"}},
	"sends a list twice": {do: func(a *taken) error {
		if a.honest() {
			return a.begin(1)
		}
		return nil
	}, says: []string{"fetch process: misbehaved, killed: ", "killed: list "}},
	"sends garbage": {do: func(a *taken) error { _, err := a.conn.Write(make([]byte, 100)); return err },
		says: []string{"fetch process: misbehaved, killed: ", "unknown kind 0"}},
	"sends giant strings": {do: func(a *taken) error { return a.Send(fetchHeader, make([]byte, 1<<20)) },
		says: []string{"fetch process: misbehaved, killed: ", "are taken"}},
	"answers what nobody asked": {do: func(a *taken) error {
		return a.SendJSON(fetchAddresses, []any{map[string]any{"Addresses": []string{"8.8.8.8"}}})
	}, says: []string{"fetch process: misbehaved, killed: ", "addresses without a request"}},
	"dies": {do: func(*taken) error { return errors.New("had enough") }, says: []string{"fetch process: had enough"}},

	"sends 0.0.0.0/0": {do: func(a *taken) error {
		if a.honest() {
			return nil
		}
		return a.list(netip.MustParsePrefix("0.0.0.0/0"))
	}, says: []string{"entry 0.0.0.0/0 dropped", "held back"}},
	"sends one entry": {do: func(a *taken) error {
		if a.honest() {
			return nil
		}
		return a.list(netip.MustParsePrefix("203.0.113.1/32"))
	}, says: []string{"held back"}},
	"sends the owner's address": {do: func(a *taken) error {
		if a.honest() {
			return nil
		}
		return a.list(append(everything(10)[:600], netip.MustParsePrefix("198.18.0.1/32"))...)
	}, says: []string{"Excepted 198.18.0.1"}, sets: true},
	"sends the whole of IPv4": {do: func(a *taken) error {
		if a.honest() {
			return nil
		}
		return a.list(everything(10)...)
	}, says: []string{"Excepted 198.18.0.1"}, sets: true},
}

// An attacker who takes over the role that fetches changes nothing in pf but what any policy could, and
// never blocks the owner.
func TestTakenOverFetch(t *testing.T) {
	for name, attack := range attacks {
		t.Run(name, func(t *testing.T) {
			fw := newFirewall(t, pfsim.Options{})
			fw.conf["url"] = "https://logs.example.net/upload"
			fw.serve(blockList, hosts(500, "10.9.%d.%d")...)
			fw.sync(0)
			before, file := fw.table(blockTable), fw.file("ThreatSTOP-Block")
			fw.attack = "attack " + name
			want := 1
			if attack.sets {
				want = 0
			}
			expect(t, fw.sync(want), attack.says...)
			if got := fw.table(blockTable); !attack.sets && !slices.Equal(got, before) {
				t.Errorf("the block table has %d entries, had %d", len(got), len(before))
			}
			// That a policy is held back is noted in the file.
			if got := fw.file("ThreatSTOP-Block"); !attack.sets && withoutNotes(got) != withoutNotes(file) {
				t.Errorf("the file was written:\n%.500s", got)
			}
			for _, own := range []string{"198.18.0.1", "127.0.0.1"} {
				v := fw.kernel.Verdict(pfsim.Packet{Dir: pfioctl.DirIn, Iface: "em0", Src: netip.MustParseAddr(own), Dst: netip.MustParseAddr("198.18.0.9"), Proto: 6, Bytes: 60})
				if v.Action != pfioctl.ActionPass {
					t.Errorf("%s is blocked: %+v", own, v)
				}
			}
			fw.attack = ""
			fw.sync(0, "--force")
			if got := fw.table(blockTable); !slices.Equal(got, before) {
				t.Errorf("the next run leaves %d entries, not %d", len(got), len(before))
			}
		})
	}
}

// withoutNotes leaves out of a persist file what does not go to pf.
func withoutNotes(file string) string {
	var b strings.Builder
	for line := range strings.Lines(file) {
		if !strings.HasPrefix(line, "#") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// confiner notes what a command gives up.
type confiner struct {
	t     *testing.T
	calls []string
}

func (c *confiner) Confine(command string, x privsep.Confinement) error {
	c.calls = append(c.calls, command)
	steps, err := privsep.Plan(command, x)
	if err != nil {
		c.t.Error(err)
	}
	for _, s := range steps {
		if strings.HasPrefix(s, "pledge") {
			c.calls = append(c.calls, s)
		}
	}
	return err
}

// The command confines itself, once, and then asks pf for nothing that its promise does not allow.
func TestSyncNowIsConfined(t *testing.T) {
	fw := newFirewall(t, pfsim.Options{})
	c := &confiner{t: t}
	fw.confine = c
	expect(t, fw.sync(0), "Table ThreatSTOP-Block: 5 added")
	if want := []string{"--sync-now", "pledge stdio rpath wpath cpath pf proc"}; !slices.Equal(c.calls, want) {
		t.Errorf("confined %q, want %q", c.calls, want)
	}
	fw.confine = refusal{}
	fw.serve(blockList, "203.0.113.1")
	expect(t, fw.sync(1), "confine --sync-now: no")
	if got := fw.table(blockTable); len(got) != 5 {
		t.Errorf("block table %v", got)
	}
}

type refusal struct{}

func (refusal) Confine(string, privsep.Confinement) error {
	return errors.New("confine --sync-now: no")
}

// BenchmarkSyncNow is a whole run but for the start of this process: the start of the other, the
// list, pf (simulated), the file.
func BenchmarkSyncNow(b *testing.B) {
	for _, n := range []int{26_424, 120_430} {
		b.Run(fmt.Sprintf("entries=%d", n), func(b *testing.B) {
			server, err := dnstest.Start(dnstest.Options{})
			if err != nil {
				b.Fatal(err)
			}
			defer server.Close()
			list := make([]dnstest.Entry, n)
			for i := range list {
				list[i].Prefix = netip.PrefixFrom(netip.AddrFrom4([4]byte{20, byte(i >> 16), byte(i >> 8), byte(i)}), 32)
			}
			if err := server.Set(dnstest.List{Name: blockList, Entries: list, Layout: dnsfetch.LayoutParts}); err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				b.StopTimer()
				dir := b.TempDir()
				conf := dir + "/threatstop.conf"
				text := fmt.Sprintf("device_id='x'\nDNS_SERVERS='%s'\nBLOCK_LISTS='%s'\nALLOW_LISTS=''\nOUT_DIR='%s'\nurl='https://203.0.113.99/upload'\n", server.Addr(), blockList, dir)
				if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
					b.Fatal(err)
				}
				kernel := pfsim.New(pfsim.Options{})
				kernel.SetRunning(true)
				var out bytes.Buffer
				env := Env{
					Stdin: strings.NewReader(""), Stdout: &out, Stderr: &out, Lookup: noHost, Roles: roles(), Now: time.Now, Local: time.UTC,
					OpenPF: func() (*pfioctl.PF, error) { return kernel.OpenPF(), nil },
					Host:   func() (policy.Facts, error) { return policy.Facts{}, nil },
				}
				b.StartTimer()
				if code := Run(context.Background(), []string{"--sync-now", "-f", conf}, env); code != 0 {
					b.Fatal(out.String())
				}
			}
		})
	}
}
