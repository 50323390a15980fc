package report

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"example.org/threatstopd/agent/internal/privsep"
	"example.org/threatstopd/agent/reporttest"
	"example.org/threatstopd/capture"
	"example.org/threatstopd/capture/capturetest"
)

// childEnv makes the test binary a reporter that another test kills.
const childEnv = "THREATSTOPD_REPORT_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		if err := child(); err != nil {
			fmt.Fprintln(os.Stderr, "child:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	// This program is the role, too, when a test starts it as one.
	quiet := capturetest.NewInterface("")
	privsep.Serve(map[string]privsep.Body{"report": Body(Env{
		OpenPflog: func(o capture.Options) (capture.Source, error) { return quiet.Open(o) },
		NewSender: func(Config) (Sender, error) { return new(logServer), nil },
		Confine:   privsep.System(),
	})})
	os.Exit(m.Run())
}

// child reports what its standard input says was logged: frames of a time, a length and
// a record. It ends with its input. An empty frame is the answer to the line "flush" on
// its standard output.
func child() error {
	arg := strings.Split(os.Getenv(childEnv), "\n")
	url, ca, dir, logs := arg[0], arg[1], arg[2], arg[3]
	response, err := time.ParseDuration(arg[4])
	if err != nil {
		return err
	}
	up, err := NewUploader(Config{URL: url, DeviceID: "tdid_abcd1234", CAFile: ca,
		timeouts: timeouts{Response: response}})
	if err != nil {
		return err
	}
	iface := capturetest.NewInterface("")
	src, err := iface.Open(capture.Options{})
	if err != nil {
		return err
	}
	flushed := make(chan struct{}, 1)
	r, err := New(Options{
		// Batches are small because they are frequent; there is room in memory for
		// everything that comes while the disk is slow.
		Config: Config{SpoolDir: dir, DeviceID: "tdid_abcd1234", Interval: 10 * time.Millisecond,
			RetryMin: time.Millisecond, RetryMax: 20 * time.Millisecond}, StopTimeout: patience,
		Source: src, Sender: up, Location: time.UTC,
		Logs: func() ([]*os.File, error) {
			fmt.Println("flush")
			<-flushed
			return OpenLogs(logs)
		},
		Log: zerolog.New(os.Stderr).Level(zerolog.WarnLevel),
	})
	if err != nil {
		return err
	}
	x, err := newIndex()
	if err != nil {
		return err
	}
	r.SetPolicy(x, []netip.Addr{own})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		defer cancel()
		in := bufio.NewReader(os.Stdin)
		var head [12]byte
		for {
			if _, err := io.ReadFull(in, head[:]); err != nil {
				return
			}
			data := make([]byte, binary.LittleEndian.Uint32(head[8:]))
			if _, err := io.ReadFull(in, data); err != nil {
				return
			}
			if len(data) == 0 {
				flushed <- struct{}{}
				continue
			}
			iface.LogRecord(time.UnixMicro(int64(binary.LittleEndian.Uint64(head[:]))), data)
		}
	}()
	go func() {
		// From here on it is known that there was a first start.
		for ctx.Err() == nil {
			if _, err := spoolDir(dir).readWatermark(); err == nil {
				fmt.Println("up")
				return
			}
			time.Sleep(time.Millisecond)
		}
	}()
	return r.Run(ctx)
}

// A victim is a child from outside.
type victim struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	up    chan struct{}
	done  chan error
	frame chan []byte
	mu    sync.Mutex // of ended
	ended bool
}

func (h *host) startChild(ca string, response time.Duration) *victim {
	h.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		h.t.Fatal(err)
	}
	v := &victim{cmd: exec.Command(exe, "-test.run=^$"), up: make(chan struct{}), done: make(chan error, 1), frame: make(chan []byte, 1<<16)}
	v.cmd.Env = append(os.Environ(), childEnv+"="+strings.Join([]string{h.col.URL(), ca, h.dir, h.pflogd.path, response.String()}, "\n"))
	var stderr events
	v.cmd.Stderr = &stderr
	if v.in, err = v.cmd.StdinPipe(); err != nil {
		h.t.Fatal(err)
	}
	out, err := v.cmd.StdoutPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	if err := v.cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	go func() {
		for b := range v.frame {
			v.in.Write(b) // it may be dead
		}
		v.in.Close()
	}()
	go func() {
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			switch lines.Text() {
			case "up":
				close(v.up)
			case "flush":
				h.pflogd.flush()
				// Behind all that was logged until now.
				v.send(0, nil)
			}
		}
		err := v.cmd.Wait()
		if err != nil && !strings.Contains(err.Error(), "killed") {
			err = fmt.Errorf("%w\n%s", err, &stderr)
		}
		v.done <- err
	}()
	return v
}

func (v *victim) send(usec int64, data []byte) {
	b := binary.LittleEndian.AppendUint64(nil, uint64(usec))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(data)))
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.ended {
		v.frame <- append(b, data...)
	}
}

// end closes the child's input.
func (v *victim) end() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.ended = true
	close(v.frame)
}

// A reporter is killed again and again while hits are logged and the collector fails in
// this way and that. In the end all that pflogd wrote has arrived, and what arrived twice
// is a batch that came again with its id.
func TestKilled(t *testing.T) {
	rounds := 12
	if testing.Short() {
		rounds = 4
	}
	down := []reporttest.Failure{
		{}, {}, {},
		{Fault: reporttest.Refuse},
		{Fault: reporttest.Reset},
		{Fault: reporttest.Status, Status: 500},
		{Fault: reporttest.Status, Status: 429, RetryAfter: "0"},
	}
	slow := []reporttest.Failure{
		{}, {},
		{Fault: reporttest.Hang},
		{Fault: reporttest.Late, Delay: 20 * time.Millisecond},
		{Fault: reporttest.Late, Delay: time.Minute},
	}
	t.Run("the collector is well or down", func(t *testing.T) {
		// A kill between a batch's arrival and its being noted costs one
		// repetition, and nothing else does.
		if repeated := killed(t, rounds, down, patience); repeated > rounds {
			t.Errorf("%d batches came twice in %d kills", repeated, rounds)
		}
	})
	t.Run("the collector hangs or is late", func(t *testing.T) {
		// Longer than a collector that is well takes on a slow host.
		killed(t, rounds, slow, 5*time.Second)
	})
}

func killed(t *testing.T, rounds int, faults []reporttest.Failure, response time.Duration) (repeated int) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	h := newHost(t, 0)
	ca := t.TempDir() + "/ca.pem"
	if err := h.col.WriteCA(ca); err != nil {
		t.Fatal(err)
	}
	n := 0
	log := func(v *victim, hits int) {
		for range hits {
			for _, p := range []*capturetest.Packet{hit(n), miss(n)} {
				p.Time = time.Now().Truncate(time.Microsecond)
				h.pflogd.log(p)
				if v != nil {
					v.send(p.Time.UnixMicro(), p.AppendRecord(nil))
				}
				if p.Src == blocked {
					h.want = append(h.want, line(p))
				}
			}
			n++
		}
	}
	rotations := 0
	for round := range rounds {
		if err := h.col.Fail(faults[rng.IntN(len(faults))]); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		v := h.startChild(ca, response)
		select {
		case <-v.up:
		case err := <-v.done:
			t.Fatalf("round %d: %v", round, err)
		}
		// As much is to happen before the kill on a host that takes longer
		// over everything.
		window := min(max(60*time.Millisecond, time.Since(began)), 3*time.Second)
		end := time.Now().Add(time.Duration(rng.Int64N(int64(window))))
		for {
			log(v, 1+rng.IntN(30))
			if time.Now().After(end) {
				break
			}
			if rotations < 6 && rng.IntN(20) == 0 {
				h.rotate(rng.IntN(2) == 0)
				rotations++
			}
			time.Sleep(time.Duration(rng.IntN(5)) * time.Millisecond)
		}
		if err := v.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		v.end()
		if err := <-v.done; err == nil || !strings.Contains(err.Error(), "killed") {
			t.Fatalf("round %d ended with %v", round, err)
		}
		// Logged while nobody listens but pflogd.
		log(nil, rng.IntN(200))
	}
	if err := h.col.Fail(reporttest.Failure{}); err != nil {
		t.Fatal(err)
	}
	v := h.startChild(ca, response)
	log(v, 10)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err := h.col.Wait(ctx, func(receipts []reporttest.Receipt) bool {
		seen := map[string]struct{}{}
		for _, r := range receipts {
			for _, l := range r.Lines() {
				seen[l] = struct{}{}
			}
		}
		return len(seen) >= len(h.want)
	})
	if err != nil {
		t.Error("not all arrived:", err)
	}
	v.end()
	if err := <-v.done; err != nil {
		t.Error("the last one:", err)
	}
	repeated = delivered(t, h.col.Receipts(), h.want)
	t.Logf("%d lines in %d batches, %d of them repeated; %d kills, %d rotations", len(h.want), len(h.col.Receipts()), repeated, rounds, rotations)
	return repeated
}
