package daemon_test

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
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
			// Other hands in the table are put right within a minute, whatever else fails.
			pf := pfioctl.New(r.kernel.Open(true), r.kernel.Layout())
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
