package sources_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"time"

	"example.org/threatstopd/agent/internal/apply"
	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/dnsfetch"
	"example.org/threatstopd/dnsfetch/dnstest"
	"example.org/threatstopd/pfioctl"
	"example.org/threatstopd/pfioctl/pfsim"
)

// Policies larger than anyone has, and many polls. With THREATSTOPD_SCALE=1 in
// the environment the tests here go to a million entries in one list and four
// million in two, and poll a thousand times, which takes about a minute:
//
//	THREATSTOPD_SCALE=1 go test -v -run Scale ./agent/update
//
// What a whole process takes is seen from outside, with a file of as many
// prefixes:
//
//	go build -o build/ ./agent/demo ./dnsfetch/dnstest/policyserver
//	build/policyserver --list block.example=prefixes &     # says its address
//	/usr/bin/time -v build/demo -- -f threatstop.conf --sync-now
//
// where threatstop.conf has that address as DNS_SERVERS, block.example as
// BLOCK_LISTS, an OUT_DIR, a device_id, and UPLOAD=no.
func scale() bool { return os.Getenv("THREATSTOPD_SCALE") != "" }

// stage is what a policy goes through, and what an agent holds of it.
type stage struct {
	t        *testing.T
	kernel   *pfsim.Kernel
	pf       *pfioctl.PF
	target   apply.Target
	client   *dnsfetch.Client
	lists    []*dnsfetch.List
	policy   *policy.Policy
	index    *policy.Set
	enforced apply.Result
}

func newStage(t *testing.T, server string, most int) *stage {
	t.Helper()
	client, err := dnsfetch.New(dnsfetch.Options{Servers: []string{server}, Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	k := pfsim.New(pfsim.Options{MaxEntries: most})
	s := &stage{
		t: t, kernel: k, pf: k.OpenPF(), client: client,
		target: apply.Target{Table: benchTable, File: filepath.Join(t.TempDir(), "table"), Load: true},
	}
	t.Cleanup(func() {
		s.pf.Close()
	})
	return s
}

// update is a poll: what was held is replaced.
func (s *stage) update(names ...string) {
	s.t.Helper()
	var all []policy.List
	lists := make([]*dnsfetch.List, len(names))
	for i, name := range names {
		var err error
		if lists[i], err = s.client.Fetch(s.t.Context(), dnsfetch.Request{Name: name}); err != nil {
			s.t.Fatal(err)
		}
		all = append(all, policy.List{Name: name, Entries: lists[i]})
	}
	p, err := policy.Build(all, policy.Exceptions(policy.Facts{}), policy.Options{MinPrefixV4: 8, MinPrefixV6: 16})
	if err != nil {
		s.t.Fatal(err)
	}
	res, err := apply.New(s.pf).Apply(s.target, p.Block, apply.Header{Table: benchTable.Name})
	if err != nil {
		s.t.Fatal(err)
	}
	s.lists, s.policy, s.index, s.enforced = lists, p, p.Block, res
}

// holds checks the table against the entries that were published, which are
// sorted for it.
func (s *stage) holds(want []netip.Prefix) {
	s.t.Helper()
	slices.SortFunc(want, func(a, b netip.Prefix) int {
		if c := a.Addr().Compare(b.Addr()); c != 0 {
			return c
		}
		return b.Bits() - a.Bits()
	})
	got, err := s.pf.Get(benchTable)
	if err != nil {
		s.t.Fatal(err)
	}
	if len(got) != len(want) {
		s.t.Fatalf("the table holds %d entries, want %d", len(got), len(want))
	}
	for i, p := range want {
		if e := got[i]; e.Prefix != p || e.Not {
			s.t.Fatalf("entry %d of the table is %v, want %v", i, e, p)
		}
	}
}

// heap is what is in use once the garbage is gone.
func heap() int64 {
	var m runtime.MemStats
	// What the first leaves to finalizers and pools the second collects.
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func published(es []dnstest.Entry) []netip.Prefix {
	out := make([]netip.Prefix, len(es))
	for i, e := range es {
		out[i] = e.Prefix
	}
	return out
}

// Ten times the entries take ten times the memory, not more: what is allocated
// on the way, the most that the heap needs at a time, and what is held
// afterwards. (The arguments of ioctl are outside of the heap: 52 bytes an
// entry while it lasts.)
func TestScaleGrowth(t *testing.T) {
	sizes := []int{10_000, 100_000}
	if scale() {
		sizes = append(sizes, 1_000_000)
	}
	// Bytes an entry: the list 8 and 18, the set 7 and 19, the index 4 or 8
	// and 26, the simulated table 8 and 24; and half a megabyte for any
	// index, some buffers, and what the test itself has in memory.
	const held, fixed = 40, 2 << 20
	var allocated, peak []int64
	for _, n := range sizes {
		s := newStage(t, serve(t, n), 3*n)
		before := heap()
		var m0, m1 runtime.MemStats
		runtime.ReadMemStats(&m0)
		began := time.Now()
		s.update(benchList)
		took := time.Since(began)
		runtime.ReadMemStats(&m1)
		if s.enforced.InForce != n {
			t.Fatalf("%d in force, want %d", s.enforced.InForce, n)
		}
		after := heap()
		allocated = append(allocated, int64(m1.TotalAlloc-m0.TotalAlloc))
		// What the tests before have left to the heap is used first, and sizes ascend.
		peak = append(peak, int64(m1.HeapSys-m0.HeapSys))
		each := float64(after-before-fixed) / float64(n)
		if each > held {
			t.Errorf("%d entries: %.1f bytes an entry are held, want %d at most", n, each, held)
		}
		t.Logf("%d entries: %v; allocated %d, the heap grew by %d, held %d; of that pfsim %d", n, took, allocated[len(allocated)-1], peak[len(peak)-1], after-before, s.kernel.HeapBytes())
		runtime.KeepAlive(s)
	}
	for i := 1; i < len(sizes); i++ {
		factor := int64(sizes[i] / sizes[i-1])
		if allocated[i] > factor*allocated[i-1]*5/4 {
			t.Errorf("%d entries allocate %d bytes, %d allocate %d: worse than linear", sizes[i], allocated[i], sizes[i-1], allocated[i-1])
		}
		// 24 bytes of each entry are enough for what the builder takes while
		// it sorts, and the collector lets the heap double.
		if most := 2*(held+24)*int64(sizes[i]) + 16<<20; peak[i] > most {
			t.Errorf("%d entries: the heap grew by %d bytes, want %d at most", sizes[i], peak[i], most)
		}
	}
}

// A million entries in one list, four million in two, each in its place in the
// table and in the file.
func TestScaleLarge(t *testing.T) {
	if !scale() {
		t.Skip("set THREATSTOPD_SCALE=1 for a test of half a minute")
	}
	for _, c := range []struct {
		name string
		each int // entries in each list
		of   int // lists
	}{{"1M", 1_000_000, 1}, {"2x2M", 2_000_000, 2}} {
		t.Run(c.name, func(t *testing.T) {
			server, err := dnstest.Start(dnstest.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer server.Close()
			var names []string
			var lists []dnstest.List
			var want []netip.Prefix
			for i := range c.of {
				es := entries(c.each, i*c.each)
				names = append(names, "block"+strconv.Itoa(i)+"."+benchList)
				lists = append(lists, dnstest.List{Name: names[i], Entries: es})
				want = append(want, published(es)...)
			}
			if err := server.Set(lists...); err != nil {
				t.Fatal(err)
			}
			s := newStage(t, server.Addr(), 3*len(want))
			began := time.Now()
			s.update(names...)
			t.Logf("%d entries in %v, the server's part included", len(want), time.Since(began))
			s.holds(want)
			if res := s.enforced; res.Delta.Added != len(want) || !res.FileWritten {
				t.Errorf("%+v", res)
			}
			// The file says the same: asked again, nothing is to be done.
			s.update(names...)
			if res := s.enforced; !res.Delta.Zero() || res.FileWritten {
				t.Errorf("once more: %+v", res)
			}
		})
	}
}

// One entry in a hundred is another one at each poll. The table is right each
// time, only what changed is changed, and what is held does not grow.
func TestScaleChurn(t *testing.T) {
	n, polls := 1000, 100
	if scale() {
		n, polls = 20_000, 1000
	}
	server, err := dnstest.Start(dnstest.Options{KeepQueries: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	s := newStage(t, server.Addr(), 3*n)
	var settled int64
	for poll := range polls {
		es := entries(n, poll*n/100)
		if err := server.Set(dnstest.List{Name: benchList, Entries: es}); err != nil {
			t.Fatal(err)
		}
		s.update(benchList)
		want := pfioctl.Delta{Added: n / 100, Deleted: n / 100}
		if poll == 0 {
			want = pfioctl.Delta{Added: n}
		}
		if s.enforced.Delta != want || !s.enforced.FileWritten {
			t.Fatalf("poll %d: %+v, want %+v", poll, s.enforced, want)
		}
		s.holds(published(es))
		if poll == 20 {
			settled = heap()
		}
	}
	// A sixteenth and a little, for entries are not of the same kinds at all
	// times and some buffers are in use at one moment and not at another.
	end := heap()
	if end > settled+settled/16+64<<10 {
		t.Errorf("%d bytes held after poll 20, %d after poll %d", settled, end, polls)
	}
	t.Logf("%d entries, %d polls: %d bytes held after poll 20, %d at the end", n, polls, settled, end)
	runtime.KeepAlive(s)
}
