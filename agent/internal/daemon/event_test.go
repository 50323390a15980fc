package daemon_test

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"example.org/threatstopd/agent/internal/daemon"
	"example.org/threatstopd/dnsfetch/dnstest"
	"example.org/threatstopd/pfioctl"
)

// running is a daemon on a site: what an event does to it.
type running struct {
	*site
	daemon     *daemon.Daemon
	cancel     context.CancelFunc
	ended      chan error
	generation int // of the policy that the server has
}

func (r *running) start() {
	ctx, cancel := context.WithCancel(context.Background())
	r.daemon, r.cancel, r.ended = r.site.daemon(r.load), cancel, make(chan error, 1)
	go func(d *daemon.Daemon) { r.ended <- d.Run(ctx) }(r.daemon)
}

// stop ends the daemon, which must not take longer than rc.d waits.
func (r *running) stop() {
	r.cancel()
	select {
	case err := <-r.ended:
		if err != nil {
			r.t.Errorf("the daemon ended with %v", err)
		}
	case <-time.After(8 * time.Second):
		r.t.Errorf("the daemon is still there 8 s after it was stopped")
		<-r.ended
	}
}

// wait lets time pass, and asks for the fixed verdicts each second.
func (r *running) wait(d time.Duration) {
	for range int(d / time.Second) {
		time.Sleep(time.Second)
		r.probe()
	}
}

// offer puts another policy on the server.
func (r *running) offer() {
	r.generation++
	r.serve(300, r.generation)
}

// newest is an address that only the policy on the server has.
func (r *running) newest() netip.Addr {
	x := 299 + 7*r.generation
	return netip.AddrFrom4([4]byte{20, byte(x >> 16), byte(x >> 8), byte(x)})
}

// inForce reports whether pf has the policy that is on the server.
func (r *running) inForce() bool { return r.verdict(r.newest()) == pfioctl.ActionBlock }

// sync asks for a poll, and returns what was printed, with the exit status.
func (r *running) sync(force bool) (string, int) {
	var b strings.Builder
	exit := r.daemon.Sync(context.Background(), force, func(line string, _ bool) { b.WriteString(line + "\n") })
	return b.String(), exit
}

// Everything that the loop waits for, with everything that goes wrong meanwhile: what
// is in force stays, the log says why, and when the fault is gone the newest policy
// comes into force by itself.
func TestEventsAndFaults(t *testing.T) {
	type fault struct {
		name       string
		begin, end func(r *running)
	}
	busy := func(name string) string { return filepath.Join(name+".new", "x") }
	faults := []fault{
		{"servers down", func(r *running) { r.server.Fail(dnstest.On{}, dnstest.Refused) }, func(r *running) { r.server.Heal() }},
		{"one list failing", func(r *running) { r.server.Fail(dnstest.On{List: blockList}, dnstest.ServFail) }, func(r *running) { r.server.Heal() }},
		{"pf refusing", func(r *running) { r.kernel.SetLimit(pfioctl.LimitTableEntries, 10) }, func(r *running) { r.kernel.SetLimit(pfioctl.LimitTableEntries, 100_000) }},
		{"disk full", func(r *running) {
			// Nothing can be written beside a table file.
			for _, f := range []string{"block", "allow"} {
				if err := os.MkdirAll(filepath.Join(r.dir, busy(f)), 0o700); err != nil {
					r.t.Fatal(err)
				}
			}
		}, func(r *running) {
			for _, f := range []string{"block", "allow"} {
				os.RemoveAll(filepath.Join(r.dir, f+".new"))
			}
		}},
		{"role dead", func(r *running) {
			r.roles.refuse(errors.New("no more processes"))
			r.roles.kill("fetch")
			r.roles.kill("report")
		}, func(r *running) { r.roles.refuse(nil) }},
		{"bad configuration", func(r *running) { r.badConf = true }, func(r *running) { r.badConf = false }},
	}
	events := []struct {
		name string
		do   func(r *running, fault string)
		// logged is what the log says of each fault, in the order of faults; "" where the
		// fault does not matter to the event.
		logged [6]string
		// new says for which faults the newest policy comes into force all the same.
		new [6]bool
	}{
		{"poll", func(r *running, _ string) { r.offer(); r.wait(65 * time.Minute) },
			[6]string{"query refused", "server failure", "cannot allocate memory", "block.new", "fetch process", ""},
			[6]bool{3: true, 5: true}},
		{"sync request", func(r *running, fault string) {
			r.offer()
			text, exit := r.sync(false)
			if want := fault == "bad configuration"; (exit == 0) != want {
				r.t.Errorf("--sync-now: exit status %d:\n%s", exit, text)
			}
			r.wait(time.Minute)
		},
			[6]string{"query refused", "server failure", "cannot allocate memory", "block.new", "fetch process", ""},
			[6]bool{3: true, 5: true}},
		{"reload", func(r *running, _ string) {
			r.offer()
			r.signals <- syscall.SIGHUP
			r.wait(2 * time.Minute)
		},
			[6]string{"query refused", "server failure", "cannot allocate memory", "block.new", "fetch process", "invalid configuration"},
			[6]bool{3: true}},
		{"watch", func(r *running, fault string) {
			// Changes by others are repaired within a minute, even if something else fails.
			pf := r.kernel.OpenPF()
			if _, err := pf.Delete(blockTable, pfioctl.Addr{Prefix: netip.MustParsePrefix("20.0.0.5/32")}); err != nil {
				r.t.Error(err)
			}
			r.wait(70 * time.Second)
			if got := r.verdict(netip.MustParseAddr("20.0.0.5")) == pfioctl.ActionBlock; got != (fault != "pf refusing") {
				r.t.Errorf("other hands in the table were put right: %v", got)
			}
		},
			[6]string{2: "cannot allocate memory"}, [6]bool{}},
		{"stop and start", func(r *running, fault string) {
			r.stop()
			r.start()
			if fault == "bad configuration" {
				if err := <-r.ended; err == nil || !strings.Contains(err.Error(), "POLL_INTERVAL") {
					r.t.Errorf("the daemon ended with %v", err)
				}
				r.badConf = false
				r.start()
			}
			r.wait(time.Minute)
		},
			[6]string{"query refused", "server failure", "", "", "", ""}, [6]bool{}},
	}
	for _, e := range events {
		for i, f := range faults {
			t.Run(e.name+"/"+f.name, func(t *testing.T) {
				s := newSite(t)
				r := &running{site: s}
				r.serve(300, 0)
				synctest.Test(t, func(t *testing.T) {
					s.t = t
					r.boot()
					r.start()
					defer func() { r.stop() }()
					time.Sleep(10 * time.Second)
					r.probe()
					if !r.inForce() {
						t.Fatalf("no policy in force:\n%s", s.log.String())
					}
					s.logMu.Lock()
					s.log.Reset()
					s.logMu.Unlock()
					f.begin(r)
					e.do(r, f.name)
					if want := e.logged[i]; want != "" && s.said(want) == 0 {
						t.Errorf("the log does not have %q:\n%s", want, s.log.String())
					}
					if got := r.inForce(); r.generation > 0 && got != e.new[i] {
						t.Errorf("the new policy is in force: %v, want %v:\n%s", got, e.new[i], s.log.String())
					}
					f.end(r)
					r.offer()
					r.wait(70 * time.Minute)
					if !r.inForce() {
						t.Errorf("the newest policy is not in force an hour after the fault was gone:\n%s", s.log.String())
					}
				})
			})
		}
	}
}

// begin starts a daemon on a site with a policy of 300 entries in force, and calls f in the bubble.
func begin(t *testing.T, f func(r *running)) {
	s := newSite(t)
	r := &running{site: s}
	r.serve(300, 0)
	synctest.Test(t, func(t *testing.T) {
		s.t = t
		r.boot()
		r.start()
		defer func() { r.stop() }()
		time.Sleep(10 * time.Second)
		if !r.inForce() {
			t.Fatalf("no policy in force:\n%s", s.log.String())
		}
		f(r)
	})
}

// hang makes every list from now on take for ever, or no longer.
func (r *running) hang(on bool) {
	r.hanging.Store(on)
	r.roles.kill("fetch")
	time.Sleep(3 * time.Second) // until the next process is there
}

// While a fetch hangs, pf is looked at, and other hands in the table are put right.
func TestWatchDuringAFetch(t *testing.T) {
	begin(t, func(r *running) {
		r.hang(true)
		r.signals <- syscall.SIGHUP
		r.wait(5 * time.Minute)
		r.kernel.SetRunning(false)
		pf := r.kernel.OpenPF()
		if _, err := pf.Clear(blockTable); err != nil {
			r.t.Fatal(err)
		}
		time.Sleep(65 * time.Second)
		if r.said("NOT ENFORCED")+r.said("pf is disabled") == 0 {
			r.t.Errorf("nobody noticed that pf is disabled:\n%s", r.log.String())
		}
		r.kernel.SetRunning(true)
		r.probe()
	})
}

// Syncs that come during a poll are answered together by the next one, forced if one of them is.
func TestSyncsDuringAPoll(t *testing.T) {
	begin(t, func(r *running) {
		r.serve(20, 0) // too small to be believed
		r.hang(true)
		polls := r.said("took")
		answers := make(chan int, 4)
		ask := func(force bool) { _, exit := r.sync(force); answers <- exit }
		go ask(false)
		time.Sleep(time.Second)
		for range 2 {
			go ask(false)
		}
		go ask(true)
		time.Sleep(time.Second)
		r.hang(false)
		var exits []int
		for range 4 {
			exits = append(exits, <-answers)
		}
		if want := []int{1, 0, 0, 0}; !slices.Equal(exits, want) {
			r.t.Errorf("exit statuses %v, want %v", exits, want)
		}
		if n := r.said("took") - polls; n != 2 {
			r.t.Errorf("%d polls for four syncs, want 2:\n%s", n, r.log.String())
		}
	})
}

// A daemon that is stopped during a fetch does not wait for it, and answers those who wait.
func TestStopDuringAFetch(t *testing.T) {
	begin(t, func(r *running) {
		r.hang(true)
		answer := make(chan string, 1)
		go func() {
			text, exit := r.sync(false)
			if exit != 1 {
				r.t.Errorf("exit status %d", exit)
			}
			answer <- text
		}()
		r.wait(5 * time.Second)
		began := time.Now()
		r.stop()
		text := <-answer
		if took := time.Since(began); took > 8*time.Second {
			r.t.Errorf("stopped after %v", took)
		}
		if !strings.Contains(text, "threatstopd is stopping") || strings.Contains(text, "context canceled") {
			r.t.Errorf("the client printed:\n%s", text)
		}
		r.start()
	})
}

// A resolver that comes with a new lease is not blocked until the next poll.
func TestNewLease(t *testing.T) {
	begin(t, func(r *running) {
		listed := netip.MustParseAddr("20.0.0.77")
		if r.verdict(listed) != pfioctl.ActionBlock {
			r.t.Fatal("20.0.0.77 is not listed")
		}
		r.factsMu.Lock()
		r.resolvers = []netip.Addr{listed}
		r.factsMu.Unlock()
		r.wait(61 * time.Second)
		if r.verdict(listed) != pfioctl.ActionPass {
			r.t.Errorf("the new resolver is blocked:\n%s", r.log.String())
		}
	})
}

// A configuration that needs another process finds there what this one knew, also while no policy server
// answers.
func TestAnotherProcess(t *testing.T) {
	begin(t, func(r *running) {
		var err error
		if r.carry, err = daemon.OpenCarry(r.dir); err != nil {
			r.t.Fatal(err)
		}
		defer r.carry.Close()
		r.stop()
		r.start()
		r.wait(10 * time.Second)
		r.server.Fail(dnstest.On{}, dnstest.Refused)
		r.wait(2 * time.Hour) // long enough for a retry to be an hour away
		since := r.daemon.Status().Started
		r.fixed = "another user"
		r.signals <- syscall.SIGHUP
		if err := <-r.ended; err != daemon.ErrAgain {
			r.t.Fatalf("the daemon ended with %v", err)
		}
		r.start()
		r.factsMu.Lock()
		r.resolvers = []netip.Addr{netip.MustParseAddr("20.0.0.77")}
		r.factsMu.Unlock()
		r.wait(3 * time.Minute)
		if r.said("policy enforced with earlier copies of lists that failed") == 0 {
			r.t.Errorf("the lists are forgotten:\n%s", r.log.String())
		}
		if r.verdict(netip.MustParseAddr("20.0.0.77")) != pfioctl.ActionPass || r.verdict(netip.MustParseAddr("20.0.0.78")) != pfioctl.ActionBlock {
			r.t.Error("no policy was made of the lists that crossed")
		}
		if got := r.daemon.Status().Started; !got.Equal(since) {
			r.t.Errorf("running since %v, before %v", got, since)
		}
	})
}

// The status has since when each process works, and how often it was started again.
func TestProcesses(t *testing.T) {
	begin(t, func(r *running) {
		r.wait(10 * time.Second)
		r.roles.kill("fetch")
		r.wait(time.Minute)
		restarts := make(map[string]int)
		for _, p := range r.daemon.Status().Processes {
			if p.Started.IsZero() {
				r.t.Errorf("%s is down", p.Name)
			}
			restarts[p.Name] = p.Restarts
		}
		if want := map[string]int{"main": 0, "fetch": 1, "report": 0}; !maps.Equal(restarts, want) {
			r.t.Errorf("restarts %v, want %v", restarts, want)
		}
	})
}
