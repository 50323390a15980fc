package check

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"
)

// Neither reads anything of strangers when the process cannot be confined.
func TestNotConfined(t *testing.T) {
	r := newRig(t)
	r.unconfined = true
	r.confining = func() error { return errors.New("confine --test: pledge: not today") }
	n, out := r.test()
	if n != 1 || !strings.Contains(out, "FAIL  not all was looked at: confine --test: pledge: not today\n") {
		t.Errorf("%d failures:\n%s", n, out)
	}
	if strings.Contains(out, "policy server") || strings.Contains(out, "log server") {
		t.Errorf("others were asked:\n%s", out)
	}
	var b bytes.Buffer
	answer, err := Check(t.Context(), []netip.Prefix{prefix("192.0.2.66")}, r.options(), &b)
	if answer != CannotTell || err == nil || strings.Contains(b.String(), blockList) {
		t.Errorf("%v, %v:\n%s", answer, err, &b)
	}
}

// Whether the service user can write the spool is tried, not guessed from modes.
func TestSpoolIsTried(t *testing.T) {
	r := newRig(t)
	_, out := r.test()
	if !strings.Contains(out, r.path("spool")+": _threatstop can write there\n") {
		t.Errorf("not tried:\n%s", out)
	}
	if left, err := os.ReadDir(r.path("spool")); err != nil || len(left) > 0 {
		t.Errorf("left there: %v, %v", left, err)
	}

	r = newRig(t)
	// The modes look well; it is not to be written all the same.
	r.confining = func() error { return os.Remove(r.path("spool")) }
	n, out := r.test()
	if n != 1 || !strings.Contains(out, "FAIL  spool directory "+r.path("spool")+": _threatstop cannot write there: no such file or directory\n      chown -R ") {
		t.Errorf("%d failures:\n%s", n, out)
	}
}
