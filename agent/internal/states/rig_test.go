package states

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/rs/zerolog"

	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/agent/internal/privsep"
	"example.org/threatstopd/agent/internal/privsep/privseptest"
	"example.org/threatstopd/pfioctl"
	"example.org/threatstopd/pfioctl/pfsim"
)

// This program is the role when a test starts it as one: with a kernel of its own, in
// which the hosts 10.0.0.0 to 10.0.3.231 are connected.
func TestMain(m *testing.M) {
	privsep.Serve(map[string]privsep.Body{
		Name: Body(Env{OpenPF: func() (*pfioctl.PF, error) {
			k := pfsim.New(pfsim.Options{})
			manyStates(k, 1000)
			return k.OpenPF(), nil
		}}),
	})
	os.Exit(m.Run())
}

func set(t testing.TB, entries ...string) *policy.Set {
	t.Helper()
	var all policy.Prefixes
	for _, s := range entries {
		all = append(all, netip.MustParsePrefix(s))
	}
	p, err := policy.Build([]policy.List{{Name: "test", Entries: all}}, nil, policy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return p.Block
}

// manyStates puts states of n different addresses of 10/8 into the table.
func manyStates(k *pfsim.Kernel, n int) {
	me := netip.MustParseAddrPort("198.51.100.1:22")
	for i := range n {
		var a [4]byte
		binary.BigEndian.PutUint32(a[:], 10<<24+uint32(i))
		k.AddState(pfsim.State{Dir: pfioctl.DirIn, Proto: 6, Wire: pfsim.Key{netip.AddrPortFrom(netip.AddrFrom4(a), 1024), me}})
	}
}

// device lets a test act before a request.
type device struct {
	pfioctl.Device
	before func(req uint) error
}

func (d *device) Ioctl(req uint, arg unsafe.Pointer) error {
	if d.before != nil {
		if err := d.before(req); err != nil {
			return err
		}
	}
	return d.Device.Ioctl(req, arg)
}

// bench is a simulated kernel, and a Client of the role that works on it.
type bench struct {
	t      testing.TB
	kernel *pfsim.Kernel
	device *device
	order  order
	*Client

	mu      sync.Mutex
	trouble []string // as reported, "" for its end
	log     strings.Builder
}

// order records what the role does with the system, and when it confines itself.
type order struct {
	mu   sync.Mutex
	done []string
}

func (o *order) did(what string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.done = append(o.done, what)
}

func (o *order) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.Join(o.done, ", ")
}

type confiner struct {
	*order
	err error
}

func (c confiner) Confine(role string, _ privsep.Confinement) error {
	c.did("confined as " + role)
	return c.err
}

// newBench starts the role in this process; body is instead of its own.
func newBench(t testing.TB, body privsep.Body) *bench {
	t.Helper()
	b := &bench{t: t, kernel: pfsim.New(pfsim.Options{})}
	b.device = &device{Device: b.kernel.Open(true)}
	if body == nil {
		body = Body(Env{
			OpenPF: func() (*pfioctl.PF, error) {
				b.order.did("pf opened")
				return pfioctl.New(b.device, b.kernel.Release())
			},
			Confine: confiner{order: &b.order},
		})
	}
	b.start(privseptest.InProcess(map[string]privsep.Body{Name: body}))
	return b
}

func (b *bench) start(s privsep.Starter) {
	ctx, end := context.WithCancel(context.Background())
	b.Client = Start(ctx, Options{
		Starter: s,
		Down:    b.reports,
		Up:      func() { b.reports("") },
		Log:     zerolog.New(b),
	})
	b.t.Cleanup(func() { end(); b.Wait() })
}

// reports records a trouble of the process, "" if it is at work.
func (b *bench) reports(text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.trouble = append(b.trouble, text)
}

func (b *bench) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.log.Write(p)
}

// reported returns the troubles of the process so far.
func (b *bench) reported() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string(nil), b.trouble...)
}

// until waits for something that takes its time.
func (b *bench) until(what string, ok func() bool) {
	b.t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			b.t.Fatalf("not %s; reported %q, log %s", what, b.reported(), b.log.String())
		}
	}
}

// up waits until the role is at work.
func (b *bench) up() {
	b.t.Helper()
	b.until("at work", func() bool {
		reported := b.reported()
		return len(reported) > 0 && reported[len(reported)-1] == ""
	})
}

// left are the IDs of the states that there are.
func (b *bench) left() (ids []uint64) {
	for _, s := range b.kernel.States() {
		ids = append(ids, s.ID)
	}
	return ids
}

func (k Killed) String() string {
	return fmt.Sprintf("considered=%d killed=%d left=%d", k.Considered, k.Killed, k.Left)
}
