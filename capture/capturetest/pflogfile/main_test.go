package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"example.org/threatstopd/capture"
)

func TestFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "pflog")
	var stderr bytes.Buffer
	before := time.Now()
	if code := run([]string{"--age", "1m", "--iface", "pair7", name, "198.51.100.1", "2001:db8::1"}, &stderr); code != exitOK {
		t.Fatalf("exit code %d: %s", code, &stderr)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := capture.NewFileReader(f)
	if err != nil {
		t.Fatal(err)
	}
	var (
		p     capture.Packet
		from  []string
		times []time.Time
	)
	for {
		data, ci, err := r.ZeroCopyReadPacketData()
		if err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if err := p.Decode(data, ci); err != nil {
			t.Fatal(err)
		}
		if p.Header.Action != capture.ActionBlock || p.Header.Dir != capture.In {
			t.Errorf("packet %d: %+v", len(from), p.Header)
		}
		from, times = append(from, p.Src.String()), append(times, p.Time)
	}
	if want := []string{"198.51.100.1", "2001:db8::1"}; !slices.Equal(from, want) {
		t.Fatalf("from %v, want %v", from, want)
	}
	if d := times[1].Sub(times[0]); d != time.Second {
		t.Errorf("%v apart", d)
	}
	// The file has microseconds.
	if age := before.Sub(times[1]); age > time.Minute || time.Since(times[1]) < time.Minute {
		t.Errorf("%v old", age)
	}
}

func TestRefusals(t *testing.T) {
	dir := t.TempDir()
	for _, tt := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"help", []string{"--help"}, exitOK, "usage: pflogfile"},
		{"no addresses", []string{"x"}, exitUsage, "wants a file and addresses"},
		{"no address", []string{"x", "192.0.2.1", "home"}, exitUsage, `"home"`},
		{"a directory", []string{dir, "192.0.2.1"}, exitFailed, dir},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var stderr bytes.Buffer
			if code := run(tt.args, &stderr); code != tt.code || !strings.Contains(stderr.String(), tt.want) {
				t.Errorf("exit code %d and %q, want %d and %q", code, &stderr, tt.code, tt.want)
			}
		})
	}
}
