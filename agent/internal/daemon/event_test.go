package daemon_test

import (
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"example.org/threatstopd/dnsfetch/dnstest"
)

// A reload while no policy server answers keeps the tables and everything that is
// known of them.
func TestReloadWhileServersAreDown(t *testing.T) {
	s := newSite(t)
	s.serve(200, 0)
	synctest.Test(t, func(t *testing.T) {
		s.t = t
		s.boot()
		stop := s.run()
		defer stop()
		time.Sleep(10 * time.Second)
		s.probe()
		s.server.Fail(dnstest.On{}, dnstest.Refused)
		s.signals <- syscall.SIGHUP
		for range 20 * 60 {
			time.Sleep(time.Second)
			s.probe()
		}
		if s.said("policy not updated") == 0 {
			t.Errorf("no poll failed:\n%s", s.log.String())
		}
		if strings.Contains(s.log.String(), "panic") {
			t.Errorf("panic:\n%s", s.log.String())
		}
	})
}
