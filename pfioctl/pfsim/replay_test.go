package pfsim

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestTranscripts replays what OpenBSD's own table code answered. The
// transcripts in testdata are looked at by TestTranscriptsAreWhole; others may
// be named with PFSIM_TRANSCRIPTS, a directory of *.jsonl and *.jsonl.gz.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/transcripts/*.jsonl.gz")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts in testdata: %v", err)
	}
	if dir := os.Getenv("PFSIM_TRANSCRIPTS"); dir != "" {
		n := len(files)
		for _, pattern := range []string{"*.jsonl", "*.jsonl.gz"} {
			more, err := filepath.Glob(filepath.Join(dir, pattern))
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, more...)
		}
		if len(files) == n {
			t.Errorf("PFSIM_TRANSCRIPTS=%s: no *.jsonl or *.jsonl.gz there", dir)
		}
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) { replayFile(t, file) })
	}
}

func replayFile(t *testing.T, file string) {
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var r io.Reader = f
	if strings.HasSuffix(file, ".gz") {
		if r, err = gzip.NewReader(f); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
	}
	const enough = 10 // mismatches to show of a file
	var (
		k     *Kernel
		in    = bufio.NewReaderSize(r, 1<<16)
		bad   int
		lines int
	)
	for n := 1; ; n++ {
		text, err := in.ReadBytes('\n')
		if err != nil && err != io.EOF {
			t.Fatalf("%s:%d: %v", file, n, err)
		}
		if text = bytes.TrimSpace(text); len(text) > 0 {
			lines++
			var l line
			if err := json.Unmarshal(text, &l); err != nil {
				t.Fatalf("%s:%d: %v", file, n, err)
			}
			if l.Req.Op == "RESET" {
				k = New(Options{})
			} else if k == nil {
				t.Fatalf("%s:%d: no RESET before the first request", file, n)
			} else if diff := mismatch(t, k, &l); diff != "" {
				var raw struct {
					Req json.RawMessage `json:"req"`
				}
				json.Unmarshal(text, &raw)
				t.Errorf("%s:%d: %s id %d: answered otherwise (- the kernel, + pfsim)\nrequest %s\n%s", file, n, l.Req.Op, l.Req.ID, raw.Req, diff)
				if bad++; bad == enough {
					t.Fatalf("%s: %d mismatches, the rest is not replayed", file, bad)
				}
			}
		}
		if err == io.EOF {
			break
		}
	}
	if lines == 0 {
		t.Errorf("%s: empty", file)
	}
}

// mismatch replays one line and returns how the answers differ.
func mismatch(t *testing.T, k *Kernel, l *line) string {
	t.Helper()
	return difference(t, l, replay(t, k, &l.Req))
}

// difference returns how an answer differs from that of the transcript.
func difference(t *testing.T, l *line, got answer) string {
	t.Helper()
	want := l.Ans
	// What a transcript leaves out is not compared.
	if want.Table == nil {
		got.Table = nil
	}
	if want.Addrs == nil {
		got.Addrs = nil
	}
	for i := range want.Trans {
		want.Trans[i].Type = ""
	}
	if l.Req.Op == "DIOCRADDADDRS" {
		for i := range want.Addrs {
			want.Addrs[i].Weight = 0
		}
	}
	// Arrays of tables are compared as what they say.
	var a, b any
	if len(want.Tables) > 0 {
		a = tablesOf(t, want.Tables)
	}
	if len(got.Tables) > 0 {
		b = tablesOf(t, got.Tables)
	}
	want.Tables, got.Tables = nil, nil
	return cmp.Diff(want, got) + cmp.Diff(a, b)
}

func tablesOf(t *testing.T, raw json.RawMessage) any {
	t.Helper()
	var n int
	if json.Unmarshal(raw, &n) == nil {
		return n
	}
	var list []tableAnswer
	if err := json.Unmarshal(raw, &list); err != nil {
		t.Fatal(err)
	}
	return list
}

// TestTranscriptsAreWhole holds the transcripts against their checksums, so
// that none is lost or touched up.
func TestTranscriptsAreWhole(t *testing.T) {
	sums, err := os.ReadFile("testdata/transcripts/SHA256")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	for l := range strings.Lines(string(sums)) {
		sum, name, ok := strings.Cut(strings.TrimSpace(l), "  ")
		if !ok {
			t.Fatalf("SHA256: not a sum and a name: %q", l)
		}
		want[name] = sum
	}
	got := map[string]string{}
	files, err := filepath.Glob("testdata/transcripts/*.jsonl.gz")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(b)
		got[filepath.Base(file)] = hex.EncodeToString(sum[:])
	}
	if len(want) < 14 {
		t.Errorf("SHA256 names %d transcripts, want at least 14", len(want))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("transcripts and their sums (- sums, + files):\n%s", diff)
	}
}
