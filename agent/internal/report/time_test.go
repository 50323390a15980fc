package report

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.org/threatstopd/capture"
	"example.org/threatstopd/capture/capturetest"
)

// A scripted sender answers each attempt with the next error, and then with the last
// one for ever.
type scripted struct {
	mu      sync.Mutex
	answers []error
	at      []time.Duration
	ids     []string
	lines   int
	began   time.Time
}

func (s *scripted) Send(ctx context.Context, id ID, text []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at = append(s.at, time.Since(s.began))
	s.ids = append(s.ids, id.String())
	err := s.answers[0]
	if len(s.answers) > 1 {
		s.answers = s.answers[1:]
	}
	if err == nil {
		s.lines += strings.Count(string(text), "\n")
	}
	return err
}

// attempts returns when attempts came, batches what was in them.
func (s *scripted) attempts() []time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.at)
}

func (s *scripted) batches() (ids []string, lines int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.ids), s.lines
}

// bubble runs f with a reporter on a clock that jumps from event to event.
func bubble(t *testing.T, change func(*Options), answers []error, f func(t *testing.T, r *Reporter, iface *capturetest.Interface, s *scripted)) {
	dir := tempSpool(t)
	synctest.Test(t, func(t *testing.T) {
		iface := capturetest.NewInterface("")
		src, err := iface.Open(capture.Options{})
		if err != nil {
			t.Fatal(err)
		}
		s := &scripted{answers: answers, began: time.Now()}
		o := Options{Config: Config{SpoolDir: dir, DeviceID: "tdid_x"}, Source: src, Sender: s}
		if change != nil {
			change(&o)
		}
		r, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		r.SetPolicy(index(t), []netip.Addr{own})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		f(t, r, iface, s)
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		balanced(t, r.Stats())
	})
}

func TestInterval(t *testing.T) {
	bubble(t, nil, []error{nil}, func(t *testing.T, r *Reporter, iface *capturetest.Interface, s *scripted) {
		for range 4 {
			for n := range 3 {
				iface.Log(hit(n))
			}
			time.Sleep(16 * time.Minute)
		}
		synctest.Wait()
		equal(t, "attempts", s.attempts(), []time.Duration{15 * time.Minute, 30 * time.Minute, 45 * time.Minute, 60 * time.Minute})
		_, lines := s.batches()
		equal(t, "lines", lines, 12)
	})
}

// Nothing is sent when there is nothing to send.
func TestIdle(t *testing.T) {
	bubble(t, nil, []error{nil}, func(t *testing.T, r *Reporter, iface *capturetest.Interface, s *scripted) {
		for n := range 100 {
			iface.Log(miss(n))
			time.Sleep(time.Minute)
		}
		synctest.Wait()
		equal(t, "attempts", len(s.attempts()), 0)
		// But the watermark has moved.
		w, err := r.dir.readWatermark()
		if err != nil || w.Done.time().Before(miss(80).Time) {
			t.Errorf("watermark %v, %v", w.Done.time(), err)
		}
	})
}

func TestBackoff(t *testing.T) {
	down := errors.New("no route to host")
	bubble(t, func(o *Options) { o.RetryMin, o.RetryMax = 10*time.Second, 2*time.Minute }, []error{down}, func(t *testing.T, r *Reporter, iface *capturetest.Interface, s *scripted) {
		iface.Log(hit(1))
		time.Sleep(15*time.Minute + time.Hour)
		synctest.Wait()
		at := s.attempts()
		want := []time.Duration{10, 20, 40, 80, 120, 120, 120, 120, 120, 120}
		if len(at) < len(want)+1 {
			t.Fatalf("attempts at %v", at)
		}
		jitter := false
		for i, w := range want {
			w *= time.Second
			got := at[i+1] - at[i]
			if got < w/2 || got > w {
				t.Errorf("pause %d: %v, want between %v and %v", i, got, w/2, w)
			}
			jitter = jitter || got != w
		}
		if !jitter {
			t.Error("pauses are not random")
		}
		ids, _ := s.batches()
		for _, id := range ids {
			if id != ids[0] {
				t.Fatal("the id changed")
			}
		}
		st := r.Stats()
		if !st.Next.After(time.Now()) || st.Error != "no route to host" || st.Failures != int64(len(at)) {
			t.Errorf("%+v", st)
		}
		// Well again: the next failure begins with a short pause.
		s.mu.Lock()
		s.answers, s.at = []error{nil, down}, nil
		s.mu.Unlock()
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		equal(t, "delivered", r.Stats().Delivered.Lines, 1)
		iface.Log(hit(2))
		time.Sleep(15*time.Minute + 20*time.Second)
		synctest.Wait()
		s.mu.Lock()
		defer s.mu.Unlock()
		if n := len(s.at); n < 3 || s.at[2]-s.at[1] > 10*time.Second {
			t.Errorf("attempts at %v", s.at)
		}
		s.answers = []error{nil}
	})
}

func TestRetryAfterIsKept(t *testing.T) {
	wait := &UploadError{Status: 429, RetryAfter: 10 * time.Minute}
	bubble(t, nil, []error{wait, nil}, func(t *testing.T, r *Reporter, iface *capturetest.Interface, s *scripted) {
		iface.Log(hit(1))
		time.Sleep(24*time.Minute + 50*time.Second)
		synctest.Wait()
		equal(t, "attempts", s.attempts(), []time.Duration{15 * time.Minute})
		time.Sleep(20 * time.Second)
		synctest.Wait()
		equal(t, "attempts", s.attempts(), []time.Duration{15 * time.Minute, 25 * time.Minute})
	})
}

// Batches go in order: what comes later waits behind what cannot be delivered.
func TestOrder(t *testing.T) {
	down := errors.New("down")
	bubble(t, nil, []error{down, down, down, nil}, func(t *testing.T, r *Reporter, iface *capturetest.Interface, s *scripted) {
		for n := range 5 {
			iface.Log(hit(n))
			time.Sleep(15 * time.Minute)
		}
		synctest.Wait()
		ids, lines := s.batches()
		equal(t, "the first id", ids[1] == ids[0] && ids[2] == ids[0] && ids[3] == ids[0], true)
		equal(t, "lines", lines, 5)
	})
}

// A batch that is too old when its turn comes is dropped and counted.
func TestSpoolAge(t *testing.T) {
	down := errors.New("down")
	bubble(t, func(o *Options) { o.SpoolAge = 24 * time.Hour }, []error{down}, func(t *testing.T, r *Reporter, iface *capturetest.Interface, s *scripted) {
		iface.Log(hit(1))
		time.Sleep(20 * time.Hour)
		iface.Log(hit(2))
		time.Sleep(10 * time.Hour)
		synctest.Wait()
		st := r.Stats()
		equal(t, "lost", st.Lost.SpoolAge, 1)
		equal(t, "waiting", st.Spool.Lines, 1)
	})
}
