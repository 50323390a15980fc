package daemon_test

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"example.org/threatstopd/agent/internal/daemon"
	"example.org/threatstopd/agent/internal/report"
	"example.org/threatstopd/agent/reporttest"
	"example.org/threatstopd/dnsfetch/dnstest"
)

// nextDescriptor is the lowest free descriptor: it grows when descriptors leak.
func nextDescriptor(t *testing.T) uintptr {
	t.Helper()
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return f.Fd()
}

// The daemon over real sockets with intervals of a fraction of a second and
// faults all the time: three seconds, or what THREATSTOPD_SOAK says ("1m").
func TestSoak(t *testing.T) {
	length := 3 * time.Second
	if text := os.Getenv("THREATSTOPD_SOAK"); text != "" {
		var err error
		if length, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	s := newSite(t)
	s.poll, s.upload = 100*time.Millisecond, 150*time.Millisecond
	s.boot()
	s.serve(2000, 0)
	collector, err := reporttest.Start(reporttest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer collector.Close()
	ca := filepath.Join(s.dir, "ca.pem")
	if err := collector.WriteCA(ca); err != nil {
		t.Fatal(err)
	}
	s.sender = func(report.Config) (report.Sender, error) {
		return report.NewUploader(report.Config{URL: collector.URL(), DeviceID: "tdid_test", CAFile: ca})
	}
	setup := func() (*daemon.Setup, error) {
		x, err := s.load()
		if err == nil {
			x.Report.RetryMin, x.Report.RetryMax = 50*time.Millisecond, 200*time.Millisecond
		}
		return x, err
	}
	stop := s.runWith(setup)
	wait(t, "a policy", func() bool { return s.said("policy enforced") > 0 })

	// However slow the host is: as many polls and turns as are compared below.
	begin := time.Now()
	var goroutines int
	var descriptors uintptr
	var heap uint64
	for n := 0; time.Since(begin) < length || n < 300 || s.said("took") < 5; n++ {
		if time.Since(begin) > length+5*time.Minute {
			t.Fatalf("only %d turns and %d polls", n, s.said("took"))
		}
		time.Sleep(5 * time.Millisecond)
		s.probe()
		switch {
		case n == 100: // warm by now
			goroutines, descriptors, heap = runtime.NumGoroutine(), nextDescriptor(t), heapInUse()
		case n%3 == 0:
			s.packet(always)
			s.hits++
		case n%50 == 20:
			s.serve(1900+rand.IntN(200), n)
		case n%70 == 30:
			s.server.Fail(dnstest.On{Nth: 3}, dnstest.CutMessage{After: 20})
			if err := collector.Fail(reporttest.Failure{Fault: reporttest.Status, Status: 503, Times: 2}); err != nil {
				t.Error(err)
			}
		case n%70 == 60:
			s.server.Heal()
		case n%110 == 100:
			s.loadPF()
		case n%130 == 120:
			s.signals <- syscall.SIGHUP
		}
	}
	s.server.Heal()
	delivered := func() int {
		seen := make(map[string]bool)
		lines := 0
		for _, r := range collector.Receipts() {
			if !seen[r.Batch] {
				seen[r.Batch] = true
				lines += len(r.Lines())
			}
		}
		return lines
	}
	wait(t, "delivery of what is left", func() bool { return delivered() >= s.hits*9/10 })
	if n := runtime.NumGoroutine(); n > goroutines+10 {
		t.Errorf("%d goroutines, %d at the beginning", n, goroutines)
	}
	if n := nextDescriptor(t); n > descriptors+10 {
		t.Errorf("descriptor %d is free, %d at the beginning", n, descriptors)
	}
	if n := heapInUse(); n > 2*heap+8<<20 {
		t.Errorf("%d bytes of heap, %d at the beginning", n, heap)
	}
	stop()
	t.Logf("%v: %d polls, %d hits of which %d delivered in %d batches, %d configurations", length, s.said("took"), s.hits, delivered(), len(collector.Receipts()), s.said("configuration read again"))
}

func heapInUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse
}

// wait waits up to three minutes, since the host may be slow.
func wait(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(3 * time.Minute); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no %s", what)
		}
	}
}
