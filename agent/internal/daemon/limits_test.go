package daemon_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"example.org/threatstopd/agent/internal/daemon"
	"example.org/threatstopd/pfioctl"
)

// A confined main process cannot ask pf for its limits. When pf.conf is loaded anew after
// there was too little room, the program is executed again, which reads them; and not
// for any other pf.conf.
func TestLimitsReadAgain(t *testing.T) {
	s := newSite(t)
	s.serve(2000, 0)
	synctest.Test(t, func(t *testing.T) {
		s.t = t
		s.boot()
		s.kernel.SetLimit(pfioctl.LimitTableEntries, 3000)
		ended := make(chan error, 1)
		run := func() (cancel func()) {
			ctx, cancel := context.WithCancel(context.Background())
			d := s.daemon(s.load)
			go func() { ended <- d.Run(ctx) }()
			time.Sleep(10 * time.Second)
			return cancel
		}
		cancel := run()
		if s.said("pf.conf cannot be loaded again") == 0 {
			t.Fatalf("there was room:\n%s", s.log.String())
		}
		time.Sleep(3 * time.Minute)
		s.kernel.SetLimit(pfioctl.LimitTableEntries, 30000)
		s.loadOther()
		time.Sleep(2 * time.Minute)
		select {
		case err := <-ended:
			if !errors.Is(err, daemon.ErrAgain) {
				t.Errorf("ended with %v", err)
			}
		default:
			t.Errorf("it goes on with the limit that it read:\n%s", s.log.String())
		}
		cancel()
		cancel = run()
		s.loadPF()
		time.Sleep(3 * time.Minute)
		select {
		case err := <-ended:
			t.Errorf("ended with %v", err)
		default:
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if n := s.said("pf.conf cannot be loaded again"); n > 1 {
			t.Errorf("reported %d times that there is no room:\n%s", n, s.log.String())
		}
	})
}
