package daemon_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"example.org/threatstopd/agent/internal/report"
	"example.org/threatstopd/agent/internal/status"
)

// What is wrong with reporting and lasts until the owner has cured it needs the owner at once, and no more
// after a reload.
func TestReportingNeedsTheOwner(t *testing.T) {
	const badCA = "no uploads, hits stay in the spool: CA_FILE "
	text := func(s string, mode os.FileMode) func(string) error {
		return func(path string) error {
			if err := os.WriteFile(path, []byte(s), 0o600); err != nil {
				return err
			}
			return os.Chmod(path, mode)
		}
	}
	dir := func(path string) error { return os.Mkdir(path, 0o700) }
	// Little-endian, version 2.4, snapshots of 64 KiB, link type 1.
	ethernet := "\xd4\xc3\xb2\xa1\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x01\x00\x00\x00"
	for _, tt := range []struct {
		name  string
		file  string // in the directory of the site
		spoil func(path string) error
		want  string // how the need begins; "" for none
	}{
		{"CA_FILE missing", "ca.pem", os.Remove, badCA},
		{"CA_FILE empty", "ca.pem", text("", 0o600), badCA},
		{"CA_FILE junk", "ca.pem", text("junk", 0o600), badCA},
		{"CA_FILE a directory", "ca.pem", dir, badCA},
		{"CA_FILE that others can write", "ca.pem", text("junk", 0o666), badCA},
		{"pflog a dangling link", "pflog", func(path string) error { return os.Symlink(path+"x", path) }, "pflogd's file"},
		{"pflog a directory", "pflog", dir, "pflogd's file"},
		{"pflog a FIFO", "pflog", func(path string) error { return syscall.Mkfifo(path, 0o600) }, "pflogd's file"},
		{"pflog a link in a directory that others can write", "pflog", func(path string) error {
			if err := os.Chmod(filepath.Dir(path), 0o770); err != nil {
				return err
			}
			return os.Symlink(filepath.Join(filepath.Dir(path), "carry"), path)
		}, "pflogd's file"},
		{"pflog a text", "pflog", text("this is no capture, but some text", 0o600), "pflogd's file"},
		{"pflog a capture of another kind", "pflog", text(ethernet, 0o600), "pflogd's file"},
		{"strange file in the spool", "spool/core", text("", 0o600), "spool directory"},
		{"OK: no pflog", "pflog", func(string) error { return nil }, ""},
		{"OK: pflog empty", "pflog", text("", 0o600), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSite(t)
			r := &running{site: s}
			r.serve(300, 0)
			path := filepath.Join(s.dir, tt.file)
			synctest.Test(t, func(t *testing.T) {
				s.t = t
				s.boot()
				s.sender = func(c report.Config) (report.Sender, error) {
					if _, err := report.Roots(c.CAFile); err != nil {
						return nil, err
					}
					return s.logs, nil
				}
				s.config = func(c *report.Config) {
					if c.LogFile = filepath.Join(s.dir, "pflog"); tt.file == "ca.pem" {
						c.CAFile = path
					}
				}
				must := func(err error) {
					t.Helper()
					if err != nil {
						t.Fatal(err)
					}
				}
				must(os.MkdirAll(filepath.Join(s.dir, "spool"), 0o700))
				must(os.WriteFile(filepath.Join(s.dir, "carry"), nil, 0o600))
				if tt.name == "CA_FILE missing" {
					must(os.WriteFile(path, nil, 0o600))
				}
				must(tt.spoil(path))
				needs := func(what string, want string) {
					t.Helper()
					time.Sleep(time.Minute)
					st := r.daemon.Status()
					all := status.NeedsOwner(&st)
					found := slices.ContainsFunc(all, func(need string) bool { return strings.HasPrefix(need, want) })
					if want == "" && len(all) > 0 || !found && want != "" {
						t.Errorf("%s: needs %q, want %q", what, all, want)
					} else if len(all) > 0 {
						t.Log(all[0])
					}
				}
				r.start()
				defer func() { r.stop() }()
				needs("at first", tt.want)
				os.RemoveAll(path)
				os.Chmod(s.dir, 0o700)
				s.config = func(c *report.Config) { c.LogFile = filepath.Join(s.dir, "pflog") }
				s.signals <- syscall.SIGHUP
				needs("cured, and reloaded", "")
			})
		})
	}
}
