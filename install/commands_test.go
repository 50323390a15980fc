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
	r, err := Exec{}.Run(ctx, Command{Args: []string{"/bin/sh", "-c", "cat; pwd; echo $LC_ALL; echo no >&2; exit 3"}, Stdin: "in\n"})
	if err != nil {
		t.Fatal(err)
	}
	if want := (Result{Stdout: "in\n/\nC\n", Stderr: "no\n", Code: 3}); r != want {
		t.Errorf("got %+v, want %+v", r, want)
	}
	if _, err := (Exec{}).Run(ctx, Command{Args: []string{filepath.Join(t.TempDir(), "none"), "-x"}}); !errors.Is(err, os.ErrNotExist) || !strings.HasPrefix(err.Error(), "none -x: ") {
		t.Errorf("no such program: %v", err)
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := (Exec{}).Run(ended, Command{Args: []string{"/bin/sh", "-c", "true"}}); !errors.Is(err, context.Canceled) {
		t.Errorf("after the end: %v", err)
	}
}

func TestTreeRefuses(t *testing.T) {
	b := newBox(t, freshTree())
	tree := Tree{Root: b.root}
	for _, c := range []struct {
		name string
		args []string
		code int
	}{
		{"a service that is not there", []string{rcctl, "enable", "nosuch"}, 2},
		{"a service that cannot run", []string{rcctl, "check", "pflogd"}, 1},
		{"a user of no group", addUser("_x", 301).Args, 1},
	} {
		r, err := tree.Run(context.Background(), Command{Args: c.args})
		if err != nil || r.Code != c.code {
			t.Errorf("%s: %+v, %v", c.name, r, err)
		}
	}
	if _, err := tree.Run(context.Background(), Command{Args: []string{"/sbin/reboot"}}); err == nil {
		t.Error("anything is run in a tree")
	}
}
