package privsep

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// A test binary is executed again for each role, as threatstopd is: TestMain is its
// main().
func TestMain(m *testing.M) {
	// Before anything else opens a descriptor: what was inherited.
	inherited := openDescriptors(true)
	bodies["descriptors"] = tellDescriptors(inherited)
	orphanCheck, orphanWait = 100*time.Millisecond, 100*time.Millisecond
	Serve(bodies)
	if os.Getenv("PRIVSEP_TEST_MAIN") != "" {
		mainThatIsKilled()
	}
	if path := os.Getenv("PRIVSEP_TEST_CRASH"); path != "" {
		crashMain(path, os.Getenv("PRIVSEP_TEST_HOW"))
	}
	os.Exit(m.Run())
}

// openDescriptors lists the open ones below 256, all of them or those that a program
// executed from here would have.
func openDescriptors(inheritable bool) []int {
	var open []int
	for fd := range 256 {
		var st unix.Stat_t
		if unix.Fstat(fd, &st) != nil {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); inheritable && (err != nil || flags&unix.FD_CLOEXEC != 0) {
			continue
		}
		open = append(open, fd)
	}
	return open
}

// mainThatIsKilled is a main() of its own: it keeps a role whose descriptor 4 is its own
// descriptor 3, says when the role is ready, and waits to be killed.
func mainThatIsKilled() {
	role := os.Getenv("PRIVSEP_TEST_MAIN")
	held := os.NewFile(3, "held")
	signal.Ignore(syscall.SIGTERM)
	Keep(context.Background(), Exec(), Job{
		Role:  role,
		Files: func() ([]*os.File, error) { return []*os.File{held}, nil },
		Takes: Limits{17: 1 << 10},
		Up:    func() { fmt.Println("up") },
		Down:  func(reason string) { fmt.Println("down", reason) },
	})
	select {}
}

// logLines is a log as main has it: JSON lines.
type logLines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logLines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// events returns the lines as they are, each having to be one JSON object of main's
// making.
func (l *logLines) events(t *testing.T) []map[string]any {
	t.Helper()
	var all []map[string]any
	s := bufio.NewScanner(strings.NewReader(l.String()))
	for s.Scan() {
		var e map[string]any
		if err := json.Unmarshal(s.Bytes(), &e); err != nil {
			t.Fatalf("log line %q: %v", s.Text(), err)
		}
		all = append(all, e)
	}
	return all
}

// kept is a role under Keep, and what became of it.
type kept struct {
	*Keeper
	log  *logLines
	up   chan struct{}
	down chan string
	got  chan string // messages: "kind payload"
	stop context.CancelFunc
}

// keep keeps a role; what j leaves open it fills in.
func keep(t testing.TB, s Starter, j Job) *kept {
	ctx, stop := context.WithCancel(context.Background())
	k := &kept{log: &logLines{}, up: make(chan struct{}, 1000), down: make(chan string, 1000), got: make(chan string, 1000), stop: stop}
	if j.Takes == nil {
		j.Takes = Limits{17: 100, 18: 1 << 20}
	}
	if j.Handle == nil {
		j.Handle = func(_ *Conn, kind byte, payload []byte) error {
			k.got <- fmt.Sprintf("%d %s", kind, payload)
			return nil
		}
	}
	j.Log = zerolog.New(k.log)
	j.Up = func() { k.up <- struct{}{} }
	j.Down = func(reason string) { k.down <- reason }
	k.Keeper = Keep(ctx, s, j)
	t.Cleanup(func() {
		stop()
		k.Wait()
	})
	return k
}

// isUp waits until the role is ready, isDown until it is not: why.
func (k *kept) isUp(t testing.TB) {
	t.Helper()
	select {
	case <-k.up:
	case reason := <-k.down:
		t.Fatalf("down: %s", reason)
	}
}

func (k *kept) isDown(t testing.TB) string {
	t.Helper()
	return <-k.down
}
