package install

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestExec(t *testing.T) {
	ctx := context.Background()
	out, err := Exec(ctx, "in\n", "/bin/sh", "-c", "cat; pwd; echo $LC_ALL; echo no >&2; exit 3")
	if out != "in\n/\nC\n" || !errors.Is(err, errStatus) || !strings.HasSuffix(err.Error(), ": exit status 3: no") {
		t.Errorf("%q, %v", out, err)
	}
	if _, err := Exec(ctx, "", filepath.Join(t.TempDir(), "none"), "-x"); !errors.Is(err, os.ErrNotExist) || !strings.HasPrefix(err.Error(), "none -x: ") {
		t.Errorf("no such program: %v", err)
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := Exec(ended, "", "/bin/sh", "-c", "true"); !errors.Is(err, context.Canceled) {
		t.Errorf("after the end: %v", err)
	}
}

func TestTreeRefuses(t *testing.T) {
	b := newBox(t, freshTree())
	for _, c := range []struct {
		name string
		args []string
		want string
	}{
		{"a service that is not there", []string{rcctl, "enable", "nosuch"}, "exit status 2"},
		{"a service that cannot run", []string{rcctl, "check", "pflogd"}, "exit status 1"},
		{"a user of no group", addUser("_x", 301), "exit status 1"},
		{"another command", []string{"/sbin/reboot", "now"}, "reboot now: not known"},
	} {
		if _, err := Tree(b.root)(context.Background(), "", c.args...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", c.name, err, c.want)
		}
	}
}
