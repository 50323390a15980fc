package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"example.org/threatstopd/agent/internal/report"
)

// TestBatches: what is delivered is printed and saved, and the first requests
// fail when that is asked for.
func TestBatches(t *testing.T) {
	dir := t.TempDir()
	ca, lines := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "lines")
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	r, w := io.Pipe()
	var stderr bytes.Buffer
	code := make(chan int, 1)
	go func() {
		code <- run(ctx, []string{"--ca", ca, "--lines", lines, "--fail", "1"}, w, &stderr)
		w.Close()
	}()
	out := bufio.NewReader(r)
	line := func() string {
		s, err := out.ReadString('\n')
		if err != nil {
			t.Fatalf("%v: %s", err, &stderr)
		}
		return strings.TrimSuffix(s, "\n")
	}
	url, ok := strings.CutPrefix(line(), "listening on ")
	if !ok {
		t.Fatalf("listens on %q", url)
	}
	client, err := report.NewUploader(report.UploadOptions{URL: url, DeviceID: "tdid_test", CAFile: ca})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	batches := []string{"one\ntwo\n", "three\n"}
	id := func(n int) report.ID { return report.ID{15: byte(n + 1)} }
	var failed *report.UploadError
	if err := client.Send(ctx, id(0), []byte(batches[0])); !errors.As(err, &failed) || !strings.Contains(err.Error(), "503") {
		t.Errorf("the request that is to fail: %v", err)
	}
	for i, want := range []string{"batch " + id(0).String() + " of tdid_test: 2 lines", "batch " + id(1).String() + " of tdid_test: 1 lines"} {
		if err := client.Send(ctx, id(i), []byte(batches[i])); err != nil {
			t.Fatal(err)
		}
		if got := line(); got != want {
			t.Errorf("printed %q, want %q", got, want)
		}
	}
	if b, err := os.ReadFile(lines); err != nil || string(b) != "one\ntwo\nthree\n" {
		t.Errorf("wrote %q, %v", b, err)
	}
	stop()
	if c := <-code; c != exitOK {
		t.Errorf("exit code %d: %s", c, &stderr)
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
		{"help", []string{"--help"}, exitOK, "usage: collector"},
		{"an argument", []string{"x"}, exitUsage, `unexpected argument "x"`},
		{"an unknown flag", []string{"--x"}, exitUsage, "unknown flag: --x"},
		{"fewer than no failures", []string{"--fail", "-1"}, exitUsage, "cannot be negative"},
		{"a directory for the lines", []string{"--lines", dir}, exitFailed, dir},
		{"a directory for the certificate", []string{"--ca", dir}, exitFailed, dir},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			code := run(context.Background(), tt.args, &stdout, &stderr)
			if code != tt.code || !strings.Contains(stderr.String(), tt.want) || stdout.Len() > 0 {
				t.Errorf("exit code %d, %q and %q, want %d and %q", code, &stdout, &stderr, tt.code, tt.want)
			}
		})
	}
}
