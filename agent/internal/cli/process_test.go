package cli

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/gopacket"

	"example.org/threatstopd/agent/internal/privsep"
	"example.org/threatstopd/agent/reporttest"
	"example.org/threatstopd/capture"
	"example.org/threatstopd/capture/capturetest"
)

// This test binary is also the program that tests start as roles: they are real
// processes then. What pf logs they read from a file in the directory that they were
// started in, as pflogd writes it.
func TestMain(m *testing.M) {
	dir, err := os.Getwd()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	env := System()
	env.Local = time.UTC
	env.Lookup = noHost
	env.OpenPflog = func(capture.Options) (capture.Source, error) { return openTail(filepath.Join(dir, "pflog")) }
	env.FlushPflogd = func() error { return nil }
	env.OpenPF, env.Confine = simulated, marking{env.Confine}
	bodies := RoleBodies(env)
	for name, a := range attacks {
		bodies["attack "+name] = takeover(a.do)
	}
	privsep.Serve(bodies)
	if os.Getenv(strictEnv) != "" {
		strictMain(env)
	}
	os.Exit(m.Run())
}

// tail is a pflog interface that is read from the file that pflogd writes: all that is
// appended to it from now on.
type tail struct {
	f      *os.File
	closed atomic.Bool
}

func openTail(name string) (capture.Source, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", capture.ErrInterfaceGone, err)
	}
	_, err = f.Seek(0, io.SeekEnd)
	return &tail{f: f}, err
}

func (t *tail) ZeroCopyReadPacketData() (data []byte, ci gopacket.CaptureInfo, err error) {
	for !t.closed.Load() {
		var header [16]byte
		at, err := t.f.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, ci, err
		}
		if n, _ := t.f.ReadAt(header[:], at); n == len(header) {
			data := make([]byte, binary.NativeEndian.Uint32(header[8:]))
			if n, _ := t.f.ReadAt(data, at+16); n == len(data) {
				ci.Timestamp = time.Unix(int64(binary.NativeEndian.Uint32(header[:])), 1000*int64(binary.NativeEndian.Uint32(header[4:])))
				ci.CaptureLength, ci.Length = len(data), len(data)
				_, err := t.f.Seek(at+16+int64(len(data)), io.SeekStart)
				return data, ci, err
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil, ci, io.EOF
}

func (t *tail) Stats() (capture.Stats, error) { return capture.Stats{}, nil }

func (t *tail) Close() error {
	t.closed.Store(true)
	return nil
}

// processes starts roles as processes, and remembers them.
type processes struct {
	privsep.Starter
	mu       sync.Mutex
	children map[string]privsep.Child
}

func (p *processes) Start(role string, files []*os.File) (privsep.Child, error) {
	c, err := p.Starter.Start(role, files)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.children[role] = c
	return c, err
}

func (p *processes) kill(role string) {
	p.mu.Lock()
	c := p.children[role]
	p.mu.Unlock()
	c.Kill()
}

// logs is pflogd: it appends packets to its file.
type logs struct{ *capturetest.PcapWriter }

func (l logs) log(t *testing.T, from string) {
	t.Helper()
	if err := l.Write(&capturetest.Packet{
		Time: time.Now(), Action: capture.ActionBlock, Dir: capture.In, Iface: "em0",
		Src: netip.MustParseAddr(from), Dst: netip.MustParseAddr("198.18.0.1"), Proto: capturetest.TCP, SrcPort: 40000, DstPort: 22,
	}); err != nil {
		t.Fatal(err)
	}
}

// The daemon's life with its roles as processes: they die, and are started again; what
// was logged meanwhile is caught up with.
func TestDaemonProcesses(t *testing.T) {
	h := newDaemonHost(t)
	t.Chdir(h.dir)
	f, err := os.Create(filepath.Join(h.dir, "pflog"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w, err := capturetest.NewPcapWriter(f, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	pflogd := logs{w}
	roles := &processes{Starter: privsep.Exec(), children: make(map[string]privsep.Child)}
	h.roles = roles
	h.start()
	h.until("enforced", h.says("policy enforced"))
	h.reads()
	if got := h.table(blockTable); !slices.Contains(got, "10.0.0.1") {
		t.Fatalf("block table %v", got)
	}
	pflogd.log(t, "10.0.0.1")
	pflogd.log(t, "8.8.8.8")
	h.seen(2)
	expect(t, h.sync(0), "Table ThreatSTOP-Block: unchanged")
	if got := hits(h.collector.Receipts()); got != "10.0.0.1" {
		t.Errorf("reported %s", got)
	}

	// A role that dies is started again, and what was logged meanwhile is not lost.
	taken := strings.Count(h.log.String(), "policy taken")
	roles.kill("report")
	pflogd.log(t, "10.0.0.2")
	h.until("reported", h.says("report process: killed"))
	h.until("over", h.says("resolved: report process: killed"))
	// A packet that is read live ends what there is to catch up with; without one that
	// takes seconds to be known.
	h.until("matched", func() bool { return strings.Count(h.log.String(), "policy taken") > taken })
	pflogd.log(t, "192.0.2.1")
	h.until("caught up", h.says("caught up with what was logged"))
	h.until("read", func() bool {
		h.signals <- syscall.SIGUSR1
		time.Sleep(20 * time.Millisecond)
		// Those before the kill may be counted, or not.
		return strings.Contains(h.log.String(), " hits=2 ") || strings.Contains(h.log.String(), " hits=3 ")
	})
	roles.kill("fetch")
	h.until("reported", h.says("fetch process: killed"))
	h.until("over", h.says("resolved: fetch process: killed"))
	h.serve(blockList, "10.0.0.1", "10.0.0.77")
	expect(t, h.sync(0), "Table ThreatSTOP-Block: 1 added, 4 deleted")
	if got := hits(h.collector.Receipts()); got != "10.0.0.1 10.0.0.2 192.0.2.1" {
		t.Errorf("reported %s", got)
	}

	// A status comes from two processes.
	_, stdout, stderr := h.run("--status")
	expect(t, stdout+stderr, "ThreatSTOP-Block", "pflog0")
	if code := h.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if n := len(h.table(blockTable)); n != 2 {
		t.Errorf("the table has %d entries when the daemon has stopped", n)
	}
	for role, c := range roles.children {
		if err := c.Wait(); err != nil {
			t.Errorf("the %s process ended with %v", role, err)
		}
	}
}

// hits lists the sources of the packets that were reported.
func hits(all []reporttest.Receipt) string {
	var from []string
	for _, r := range all {
		for _, line := range r.Lines() {
			_, rest, _ := strings.Cut(line, " on em0: ")
			src, _, _ := strings.Cut(rest, " > ")
			from = append(from, strings.TrimSuffix(src, ".40000"))
		}
	}
	slices.Sort(from)
	return strings.Join(from, " ")
}

// How the main process ended is logged by the next start, unless it ended cleanly.
func TestMainIsKilled(t *testing.T) {
	h := newDaemonHost(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	conf := h.writeConf()
	// run starts the daemon, ends it by a signal, and returns what it logged.
	run := func(end syscall.Signal) string {
		var out lockedBuffer
		h.log = &out
		cmd := exec.Command(self, "-d", "-f", conf)
		cmd.Env = append(os.Environ(), strictEnv+"="+h.socket, "GORACE=atexit_sleep_ms=0")
		cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &out, &out, time.Second
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer cmd.Wait()
		defer cmd.Process.Kill()
		h.until("enforced", func() bool { return strings.Contains(out.String(), "policy enforced") })
		cmd.Process.Signal(end)
		cmd.Wait()
		return out.String()
	}
	const killed = "did not end cleanly before this start reason=\"no report: SIGKILL"
	for i, tt := range []struct {
		end   syscall.Signal
		found bool // of the start before
	}{{syscall.SIGKILL, false}, {syscall.SIGTERM, true}, {syscall.SIGTERM, false}} {
		if out := run(tt.end); strings.Contains(out, killed) != tt.found {
			t.Errorf("start %d: %s", i, out)
		}
	}
}
