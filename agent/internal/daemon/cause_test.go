package daemon_test

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.org/threatstopd/agent/internal/daemon"
	"example.org/threatstopd/agent/internal/status"
	"example.org/threatstopd/dnsfetch"
	"example.org/threatstopd/dnsfetch/dnstest"
	"example.org/threatstopd/pfioctl"
)

const otherList = "other.test.threatstop.local"

// firstStart starts a daemon on a site without a policy in force, and calls f ten seconds later. change
// changes what it is set up with.
func firstStart(t *testing.T, change func(s *site, x *daemon.Setup), f func(r *running)) {
	s := newSite(t)
	r := &running{site: s}
	r.serve(300, 0)
	synctest.Test(t, func(t *testing.T) {
		s.t = t
		r.boot()
		ctx, cancel := context.WithCancel(context.Background())
		r.cancel, r.ended = cancel, make(chan error, 1)
		r.daemon = s.daemon(func() (*daemon.Setup, error) {
			x, err := s.load()
			change(s, x)
			return x, err
		})
		go func() { r.ended <- r.daemon.Run(ctx) }()
		defer r.stop()
		time.Sleep(10 * time.Second)
		f(r)
	})
}

// needs expects what the owner has to do.
func (r *running) needs(want ...string) {
	r.t.Helper()
	s := r.daemon.Status()
	got := status.NeedsOwner(&s)
	ok := len(got) == len(want)
	for i := range min(len(got), len(want)) {
		ok = ok && strings.Contains(got[i], want[i])
	}
	if !ok {
		r.t.Errorf("the owner needs to know:\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

// A block list that is absent or empty is reported, and the others are enforced.
func TestAbsentListBesideOthers(t *testing.T) {
	for name, entries := range map[string][]dnstest.Entry{"absent": nil, "empty": {}} {
		t.Run(name, func(t *testing.T) {
			firstStart(t, func(s *site, x *daemon.Setup) {
				x.Sources.Block = append(x.Sources.Block, otherList)
				if entries != nil {
					if err := s.server.Set(dnstest.List{Name: otherList, Layout: dnsfetch.LayoutAPL}); err != nil {
						t.Fatal(err)
					}
				}
			}, func(r *running) {
				r.probe()
				s := r.daemon.Status()
				if !r.inForce() || !s.Enforced || s.Poll.LastGood.IsZero() {
					t.Errorf("enforced %v, last good poll %v:\n%s", s.Enforced, s.Poll.LastGood, r.log.String())
				}
				r.needs("block list " + otherList + ": server ")
				if text, exit := r.sync(false); exit != 1 || !strings.Contains(text, otherList) {
					t.Errorf("--sync-now: exit status %d:\n%s", exit, text)
				}
			})
		})
	}
}

// The first line of the status has the cause where the block table is empty.
func TestWhyEmpty(t *testing.T) {
	plain := func(*site, *daemon.Setup) {}
	t.Run("a list fails", func(t *testing.T) {
		firstStart(t, func(s *site, _ *daemon.Setup) { s.server.Fail(dnstest.On{List: blockList}, dnstest.ServFail) }, func(r *running) {
			r.needs("not enforced: the block table is empty: block list " + blockList + ": server ")
			if r.said("stays") > 0 {
				t.Errorf("a policy is said to be in force:\n%s", r.log.String())
			}
		})
	})
	t.Run("all lists are empty", func(t *testing.T) {
		firstStart(t, func(s *site, x *daemon.Setup) {
			x.Sources.Block = []string{otherList}
			if err := s.server.Set(dnstest.List{Name: otherList, Layout: dnsfetch.LayoutAPL}); err != nil {
				t.Fatal(err)
			}
		}, func(r *running) {
			r.needs("not enforced: the block table is empty: block list "+otherList+": server ", "held back: the new table is empty")
		})
	})
	t.Run("a source address of another host", func(t *testing.T) {
		firstStart(t, func(_ *site, x *daemon.Setup) { x.Fetch.Source = netip.MustParseAddr("192.0.2.99") }, func(r *running) {
			r.needs("not enforced: the block table is empty: SOURCE_ADDRESS 192.0.2.99 is no address of this host: change or remove it")
			if s := r.daemon.Status(); len(s.Troubles) != 1 || r.said("DNS_SERVERS")+r.said("stays") > 0 {
				t.Errorf("%+v\n%s", s.Troubles, r.log.String())
			}
		})
	})
	t.Run("emptied after a good policy", func(t *testing.T) {
		firstStart(t, plain, func(r *running) {
			pf := r.kernel.OpenPF()
			empty := func() {
				if _, err := pf.Clear(blockTable); err != nil {
					t.Fatal(err)
				}
				time.Sleep(61 * time.Second)
			}
			empty()
			if s := r.daemon.Status(); !s.Enforced {
				t.Errorf("repaired, and the status says %q", s.NotEnforced)
			}
			r.kernel.SetLimit(pfioctl.LimitTableEntries, 10)
			empty()
			s := r.daemon.Status()
			cause, _, _ := strings.Cut(s.NotEnforced, " (")
			if want := "the block table is empty: pf table ThreatSTOP-Block: "; !strings.HasPrefix(cause, want) || !strings.HasSuffix(cause, "cannot allocate memory") {
				t.Errorf("the status says %q", s.NotEnforced)
			}
			if needs := status.NeedsOwner(&s); strings.Count(strings.Join(needs, "\n"), "cannot allocate memory") > 1 {
				t.Errorf("the cause is not named once:\n%s", strings.Join(needs, "\n"))
			}
			r.offer()
			r.sync(false)
			if r.said("policy not applied") != 1 || r.said("policy held")+r.said(`"blocked":-1`) > 0 {
				t.Errorf("the log has\n%s", r.log.String())
			}
			if s := r.daemon.Status(); !strings.Contains(s.NotEnforced, "cannot allocate memory") {
				t.Errorf("the status says %q", s.NotEnforced)
			}
		})
	})
}

// A table file of an earlier process is shown before the first good poll.
func TestFileFromBefore(t *testing.T) {
	firstStart(t, func(s *site, _ *daemon.Setup) {
		if err := os.WriteFile(filepath.Join(s.dir, "block"), []byte("192.0.2.66\n192.0.2.67\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		s.server.Fail(dnstest.On{}, dnstest.ServFail)
	}, func(r *running) {
		s := r.daemon.Status()
		if b := s.Tables[0]; b.FileEntries != 2 || b.FileWritten.IsZero() {
			t.Errorf("%+v", b)
		}
	})
}
