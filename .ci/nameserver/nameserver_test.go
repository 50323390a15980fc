package nameserver

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestServersThatDoNotStart(t *testing.T) {
	script := func(text string) string {
		path := filepath.Join(t.TempDir(), "server")
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	plain := func(context.Context, *Server, string, string, int) (map[string]string, []string) { return nil, nil }
	s := &Server{Name: "x", configure: plain, Program: Program{path: script("echo no such zone >&2; exit 3")}}
	if _, err := s.Start(context.Background(), t.TempDir(), "policy.example", time.Minute); err == nil || err.Error() != "x: ended: no such zone" {
		t.Errorf("got %v", err)
	}
	s.path = script("echo busy; exec sleep 60")
	if _, err := s.Start(context.Background(), t.TempDir(), "policy.example", 200*time.Millisecond); !errors.Is(err, ErrNotReady) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(100*time.Millisecond, cancel)
	if _, err := s.Start(ctx, t.TempDir(), "policy.example", time.Minute); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	s.path = filepath.Join(t.TempDir(), "none")
	if _, err := s.Start(context.Background(), t.TempDir(), "policy.example", time.Minute); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestRelease(t *testing.T) {
	for said, want := range map[string]string{
		"BIND 9.18.49-1~deb12u3-Debian (Extended Support Version) <id:>":                    "9.18.49-1~deb12u3-Debian",
		"Nov 22 10:05:41 PowerDNS Authoritative Server 4.7.3 (C) 2001-2022 PowerDNS.COM BV": "4.7.3",
		"NSD version 4.6.1\nWritten by NLnet Labs.":                                         "4.6.1",
		"knotd (Knot DNS), version 3.2.6":                                                   "3.2.6",
		"":                                                                                  "unknown",
	} {
		if got := version(said); got != want {
			t.Errorf("%q is version %q, not %q", said, got, want)
		}
	}
}

func TestChoose(t *testing.T) {
	got, err := Choose("nsd", "bind9")
	if err != nil || len(got) != 2 || got[0].Name != "nsd" || got[1].Name != "bind9" {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := Choose("bind"); err == nil || err.Error() != `server "bind": not one of bind9, pdns, nsd, knot` {
		t.Error(err)
	}
}

func TestMissingProgramsAreNamed(t *testing.T) {
	missing := []*Program{{Binary: "no-such-binary-here", Packages: []string{"a", "b"}}, {Binary: "sh", Packages: []string{"c"}}}
	err := Provide(context.Background(), "test", missing, false)
	if err == nil || err.Error() != "missing: install a b" {
		t.Errorf("got %v", err)
	}
	if missing[1].Path() == "" {
		t.Error("sh was not found")
	}
}
