package privsep

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/rs/zerolog"
)

func TestClean(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"", ""},
		{"plain text, Ünïcödé 日本", "plain text, Ünïcödé 日本"},
		{"a\nb\r\tc\x00\x7f", `a\x0ab\x0d\x09c\x00\x7f`},
		{"\x1b]0;title\a", `\x1b]0;title\x07`},
		{"\u202egnp.exe\u2066\u200b\ufeff", `\u202egnp.exe\u2066\u200b\ufeff`},
		{"\u0085\u2028\u2029", `\u0085\u2028\u2029`},
		{"bad \xff\xc3", `bad \xff\xc3`},
		{"1234567890123456789012345678901234567890", "12345678901234567890123456789012…"},
		{"日本日本日本日本日本日本", "日本日本日本日本日本…"},
		{strings.Repeat("\n", 10), `\x0a\x0a\x0a\x0a\x0a\x0a\x0a\x0a…`},
	} {
		if got := Clean(tt.text, 32); got != tt.want {
			t.Errorf("%q: %q, want %q", tt.text, got, tt.want)
		}
	}
}

// stream is a connection of which one side is given and the other is thrown away.
type stream struct {
	net.Conn // nil: what is not asked for
	io.Reader
}

func (s stream) Read(p []byte) (int, error)       { return s.Reader.Read(p) }
func (stream) Write(p []byte) (int, error)        { return len(p), nil }
func (stream) Close() error                       { return nil }
func (stream) SetReadDeadline(t time.Time) error  { return nil }
func (stream) SetWriteDeadline(t time.Time) error { return nil }

// Whatever a role sends: main does not panic, hands on nothing that it does not take, and
// logs nothing but events of its own making, each one line and logged as the role's.
func FuzzFromRole(f *testing.F) {
	f.Add([]byte{})
	f.Add(message(kindReady, nil))
	f.Add(append(message(kindReady, nil), message(kindReady, nil)...))
	f.Add(append(message(kindPong, nil), message(kindPong, nil)...))
	f.Add(message(kindLog, []byte(`{"level":"warn","n":-1.5e3,"ok":true,"list":["a\n",null,{"k\u202e":"\u0000"}],"message":"a\"\\\n"}`)))
	f.Add(message(kindLog, []byte(`{"level":"info","role":"main"}`)))
	f.Add(message(kindLog, []byte("{}\n{}")))
	f.Add(append(message(17, []byte("message")), message(18, nil)...))
	f.Fuzz(func(t *testing.T, in []byte) {
		var log logLines
		takes := Limits{17: 10}
		job := Job{Role: "role", Takes: takes, Log: zerolog.New(&log), Handle: func(_ *Conn, kind byte, payload []byte) error {
			if kind != 17 || len(payload) > 10 {
				t.Errorf("kind %d with %d bytes is handed on", kind, len(payload))
			}
			if string(payload) == "refuse" {
				return errors.New("refused\n")
			}
			return nil
		}}
		l := &life{Keeper: &Keeper{job: job, ctx: context.Background()}, ready: make(chan struct{})}
		l.pinged.Store(true)
		l.conn = NewConn(stream{Reader: bytes.NewReader(in)}, withOwn(takes, fromRole))
		l.read()
		l.reportDropped()
		text := log.String()
		for line := range strings.Lines(text) {
			d := json.NewDecoder(strings.NewReader(line))
			d.UseNumber()
			var e map[string]any
			if err := d.Decode(&e); err != nil || e["role"] != "role" || e["level"] == nil || strings.Count(line, `"role":"role"`) < 1 {
				t.Fatalf("log line %q: %v", line, err)
			}
		}
		if strings.ContainsFunc(text, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) && r != unicode.ReplacementChar }) {
			t.Errorf("logged %q", text)
		}
		if n := strings.Count(text, "\n"); n > 0 && len(text) > 10*n*maxLog {
			t.Errorf("%d bytes in %d lines", len(text), n)
		}
	})
}

// Whatever main sends (for a role does not trust it either, beyond what it has to): no
// panic, and nothing handed on that is not taken.
func FuzzFromMain(f *testing.F) {
	setup := message(16, []byte(`{"Name":"x","N":[1,2]}`))
	f.Add([]byte{})
	f.Add(setup)
	f.Add(append(setup, message(kindEnd, nil)...))
	f.Add(append(append(setup, message(kindPing, nil)...), message(17, []byte("x"))...))
	f.Add(append(message(kindPing, nil), message(16, []byte(`{"Other":1}`))...))
	f.Fuzz(func(t *testing.T, in []byte) {
		w := NewWorker(stream{Reader: bytes.NewReader(in)}, Limits{16: 50, 17: 10})
		var into struct {
			Name string
			N    []int
		}
		if err := w.Setup(16, &into); err != nil {
			return
		}
		w.Run(context.Background(), func(kind byte, payload []byte) error {
			if kind != 16 && kind != 17 || kind == 17 && len(payload) > 10 {
				t.Errorf("kind %d with %d bytes is handed on", kind, len(payload))
			}
			return nil
		})
	})
}
