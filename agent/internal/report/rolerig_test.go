package report

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/agent/internal/privsep"
	"example.org/threatstopd/agent/internal/privsep/privseptest"
	"example.org/threatstopd/agent/internal/status"
	"example.org/threatstopd/capture"
	"example.org/threatstopd/capture/capturetest"
)

// logServer takes lines.
type logServer struct {
	mu    sync.Mutex
	err   error
	lines []string
}

// answer is what each batch is answered from now on.
func (l *logServer) answer(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = err
}

func (l *logServer) Send(_ context.Context, _ ID, text []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return l.err
	}
	l.lines = append(l.lines, strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")...)
	return nil
}

func (l *logServer) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.lines)
}

// roleRig is main, with the role in this process, and what both see of the host.
type roleRig struct {
	t       testing.TB
	pflog   *capturetest.Interface
	logs    *logServer
	dir     string
	socket  string
	env     Env
	options ClientOptions
	client  *Client
	stop    func()

	mu      sync.Mutex
	log     bytes.Buffer
	trouble map[string]string
	down    []string
	up      int
	syncs   []bool // forced or not
}

func (g *roleRig) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.log.Write(p)
}

func (g *roleRig) said(text string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return strings.Count(g.log.String(), text)
}

func newRoleRig(t testing.TB) *roleRig {
	t.Helper()
	g := &roleRig{t: t, pflog: capturetest.NewInterface(""), logs: new(logServer), dir: t.TempDir(), trouble: make(map[string]string)}
	if err := os.Mkdir(filepath.Join(g.dir, "spool"), 0o700); err != nil {
		t.Fatal(err)
	}
	// The path of a socket is short, that of a test's directory may not be.
	sockets, err := os.MkdirTemp("", "ts")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(sockets) })
	g.socket = filepath.Join(sockets, "s")
	g.env = Env{
		OpenPflog: func(o capture.Options) (capture.Source, error) {
			r, err := g.pflog.Open(o)
			if err != nil {
				return nil, err
			}
			return r, nil
		},
		NewSender: func(Config) (Sender, error) { return g.logs, nil },
		Location:  time.UTC,
	}
	g.options = ClientOptions{
		Config: Config{
			Mode: "hits", Interface: "pflog0", URL: "https://logs.test/", DeviceID: "tdid_test",
			SpoolDir: filepath.Join(g.dir, "spool"), NoLogs: "no pflogd here",
		},
		Sync: func(_ context.Context, force bool, say func(string, bool)) int {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.syncs = append(g.syncs, force)
			say("fetched", false)
			say("held back", true)
			return 1
		},
		Down: func(reason string) {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.down = append(g.down, reason)
		},
		Up: func() {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.up++
		},
		Trouble: func(key, text string) {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.trouble[key] = text
		},
		Log: zerolog.New(g),
	}
	return g
}

// start starts the role with a policy in force, nil for none.
func (g *roleRig) start(set *policy.Set) {
	g.t.Helper()
	var err error
	if g.options.Listeners.Full, err = status.Listen(g.socket, ""); err != nil {
		g.t.Fatal(err)
	}
	if g.options.Starter == nil {
		g.options.Starter = privseptest.InProcess(map[string]privsep.Body{"report": Body(g.env)})
	}
	ctx, cancel := context.WithCancel(context.Background())
	g.client = Start(ctx, g.options, set, []netip.Addr{netip.MustParseAddr("198.18.0.1")})
	g.client.Status(status.Status{Version: "main's", Enforced: true, Now: time.Now(), Poll: status.Poll{Interval: status.InSeconds(time.Hour)}})
	stop := sync.OnceFunc(func() {
		cancel()
		g.client.Wait()
		g.options.Listeners.Close()
	})
	g.stop = stop
	g.t.Cleanup(func() {
		stop()
		if g.t.Failed() {
			g.t.Logf("log:\n%s\ndown: %q\ntroubles: %q", g.log.String(), g.down, g.trouble)
		}
	})
}

const roleDeadline = time.Minute

func (g *roleRig) until(what string, ok func() bool) {
	g.t.Helper()
	for end := time.Now().Add(roleDeadline); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			g.t.Fatalf("not %s", what)
		}
	}
}

// troubled waits until a trouble is reported, "" until it is over.
func (g *roleRig) troubled(key, text string) {
	g.t.Helper()
	g.until(fmt.Sprintf("troubled by %q", text), func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return text == "" && g.trouble[key] == "" || text != "" && strings.Contains(g.trouble[key], text)
	})
}

func (g *roleRig) isUp(n int) {
	g.t.Helper()
	g.until(fmt.Sprintf("up %d times", n), func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return g.up >= n
	})
}

func (g *roleRig) dial() *status.Client {
	g.t.Helper()
	c, err := status.Dial(context.Background(), g.socket)
	if err != nil {
		g.t.Fatal(err)
	}
	return c
}

// status returns the status, when main's part has come.
func (g *roleRig) status() (s *status.Status) {
	g.t.Helper()
	g.until("reported", func() bool {
		var err error
		if s, err = g.dial().Status(context.Background()); err != nil {
			g.t.Fatal(err)
		}
		return s.NotKnown == ""
	})
	return s
}

// packet logs a blocked packet.
func (g *roleRig) packet(from string) {
	g.pflog.Log(&capturetest.Packet{
		Action: capture.ActionBlock, Dir: capture.In, Iface: "em0", Src: netip.MustParseAddr(from), Dst: netip.MustParseAddr("198.18.0.1"),
		Proto: capturetest.TCP, SrcPort: 40000, DstPort: 22,
	})
}

// hit logs packets until one is seen as a hit: the policy is in force in the role.
func (g *roleRig) hit(from string) {
	g.t.Helper()
	before := g.status().Hits.Matched
	g.until("a hit "+from, func() bool {
		g.packet(from)
		return g.status().Hits.Matched > before
	})
}

func set(t testing.TB, list string, entries ...string) *policy.Set {
	t.Helper()
	var all policy.Prefixes
	for _, s := range entries {
		all = append(all, netip.MustParsePrefix(s))
	}
	p, err := policy.Build([]policy.List{{Name: list, Entries: all}}, nil, policy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return p.Block
}

// recording is a Confiner that notes when it was called.
type recording struct {
	mu    sync.Mutex
	steps []string
	err   error
}

func (r *recording) note(step string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.steps = append(r.steps, step)
}

func (r *recording) Confine(role string, c privsep.Confinement) error {
	r.note(fmt.Sprintf("confine %s %d %s", role, c.UID, c.Paths["SPOOL_DIR"]))
	return r.err
}

var errGone = errors.New("it is gone")
