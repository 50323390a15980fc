package main

import (
	"bytes"
	"errors"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"example.org/threatstopd/pfioctl"
	"example.org/threatstopd/pfioctl/pfsim"
)

func TestConst(t *testing.T) {
	k := pfsim.New(pfsim.Options{})
	open := func() (*pfioctl.PF, error) { return k.OpenPF(), nil }
	var stderr bytes.Buffer
	if code := run([]string{"blocked"}, open, &stderr); code != exitOK {
		t.Fatalf("exit code %d: %s", code, &stderr)
	}
	pf := k.OpenPF()
	table := pfioctl.Table{Name: "blocked"}
	if _, err := pf.Add(table, pfioctl.Addr{Prefix: netip.MustParsePrefix("192.0.2.1/32")}); !errors.Is(err, syscall.EPERM) {
		t.Errorf("an address added: %v", err)
	}
	if code := run([]string{"blocked"}, open, &stderr); code != exitFailed || !strings.Contains(stderr.String(), "table blocked: is there already") {
		t.Errorf("made again: exit code %d: %s", code, &stderr)
	}
	if n, err := pf.DelTables(table); n != 1 || err != nil {
		t.Errorf("deleted %d, %v", n, err)
	}
}

func TestRefusals(t *testing.T) {
	closed := func() (*pfioctl.PF, error) { return nil, errors.New("no pf here") }
	for _, tt := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"no name", nil, exitUsage, "usage: consttable name"},
		{"two names", []string{"a", "b"}, exitUsage, "usage: consttable name"},
		{"a flag", []string{"-h"}, exitUsage, "usage: consttable name"},
		{"no pf", []string{"a"}, exitFailed, "consttable: no pf here"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var stderr bytes.Buffer
			if code := run(tt.args, closed, &stderr); code != tt.code || !strings.Contains(stderr.String(), tt.want) {
				t.Errorf("exit code %d and %q, want %d and %q", code, &stderr, tt.code, tt.want)
			}
		})
	}
}
