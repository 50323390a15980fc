package frame

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"
)

// The format is what other versions will have to recognise.
func TestBytes(t *testing.T) {
	for _, tt := range []struct {
		kind    byte
		payload string
		want    string
	}{
		{1, "", "5453010100000000"},
		{0, "a", "545301000000000161"},
		{255, "hello", "545301ff0000000568656c6c6f"},
	} {
		if got := hex.EncodeToString(Append(nil, tt.kind, []byte(tt.payload))); got != tt.want {
			t.Errorf("kind %d, %q: %s, want %s", tt.kind, tt.payload, got, tt.want)
		}
	}
	if got := Append([]byte("x"), 1, nil); string(got[:3]) != "xTS" {
		t.Errorf("Append does not append: %q", got)
	}
}

func TestFramesArrive(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var stream bytes.Buffer
	var sent [][]byte
	for i := range 200 {
		payload := make([]byte, r.IntN(1<<(i%17)+1))
		for j := range payload {
			payload[j] = byte(r.Uint32())
		}
		sent = append(sent, payload)
		if err := Write(&stream, byte(i%3), payload); err != nil {
			t.Fatal(err)
		}
	}
	for name, in := range map[string]io.Reader{
		"whole":        bytes.NewReader(stream.Bytes()),
		"in halves":    iotest.HalfReader(bytes.NewReader(stream.Bytes())),
		"with the EOF": iotest.DataErrReader(bytes.NewReader(stream.Bytes())),
	} {
		t.Run(name, func(t *testing.T) {
			fr := NewReader(in, Limits{0: 1 << 20, 1: 1 << 20, 2: 1 << 20})
			for i, want := range sent {
				kind, payload, err := fr.Next()
				if err != nil || kind != byte(i%3) || !bytes.Equal(payload, want) {
					t.Fatalf("frame %d: kind %d, %d bytes, %v", i, kind, len(payload), err)
				}
			}
			if _, _, err := fr.Next(); err != io.EOF {
				t.Errorf("at the end: %v", err)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	limits := Limits{1: 0, 2: 10}
	for _, tt := range []struct {
		name, in string
		want     error
		text     string
	}{
		{"OK nothing", "", io.EOF, "EOF"},
		{"bad half a header", "TS\x01", io.ErrUnexpectedEOF, "unexpected EOF"},
		{"bad half a payload", "TS\x01\x02\x00\x00\x00\x05abc", io.ErrUnexpectedEOF, "unexpected EOF"},
		{"bad no payload", "TS\x01\x02\x00\x00\x00\x05", io.ErrUnexpectedEOF, "unexpected EOF"},
		{"bad another protocol", "GET / HTTP/1.0\r\n\r\n", ErrNotFrame, "not a frame: begins with 4745"},
		{"bad zeros", strings.Repeat("\x00", 20), ErrNotFrame, "not a frame: begins with 0000"},
		{"bad version", "TS\x02\x01\x00\x00\x00\x00", ErrVersion, "frame of another version: 2, not 1"},
		{"bad kind", "TS\x01\x03\x00\x00\x00\x00", ErrKind, "frame of an unknown kind: 3"},
		{"bad length", "TS\x01\x02\x00\x00\x00\x0babcdefghijk", ErrTooLong, "frame too long: 11 bytes of kind 2, at most 10 are taken"},
		{"bad any payload", "TS\x01\x01\x00\x00\x00\x01a", ErrTooLong, "frame too long: 1 bytes of kind 1, at most 0 are taken"},
		{"bad largest length", "TS\x01\x02\xff\xff\xff\xff", ErrTooLong, "frame too long: 4294967295 bytes of kind 2, at most 10 are taken"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := NewReader(strings.NewReader(tt.in), limits).Next()
			if !errors.Is(err, tt.want) || err.Error() != tt.text {
				t.Errorf("%v, want %q", err, tt.text)
			}
		})
	}
}

// A length that is announced and not sent costs no memory to speak of.
func TestAnnouncedLengthIsNotAllocated(t *testing.T) {
	r := NewReader(strings.NewReader("TS\x01\x01\x40\x00\x00\x00some"), Limits{1: 1 << 30})
	if _, _, err := r.Next(); err != io.ErrUnexpectedEOF {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(1, func() {
		r := NewReader(strings.NewReader("TS\x01\x01\x40\x00\x00\x00some"), Limits{1: 1 << 30})
		r.Next()
	}); n > 20 {
		t.Errorf("%v allocations", n)
	}
	if cap(r.buf) > chunk {
		t.Errorf("a buffer of %d bytes for 4 that came", cap(r.buf))
	}
}

func TestReaderStopsAtTheFrame(t *testing.T) {
	in := strings.NewReader(string(Append(nil, 1, []byte("abc"))) + "rest")
	if _, p, err := NewReader(in, Limits{1: 3}).Next(); err != nil || string(p) != "abc" {
		t.Fatal(string(p), err)
	}
	if rest, _ := io.ReadAll(in); string(rest) != "rest" {
		t.Errorf("left %q", rest)
	}
}

type failing struct{ calls int }

func (f *failing) Write([]byte) (int, error) { f.calls++; return 0, io.ErrClosedPipe }

func TestWriteIsOneCall(t *testing.T) {
	w := &failing{}
	if err := Write(w, 1, []byte("abc")); err != io.ErrClosedPipe || w.calls != 1 {
		t.Errorf("%v after %d calls", err, w.calls)
	}
}

// Whatever comes: no panic, no memory beyond what came, and frames that are taken are
// written to the same bytes.
func FuzzReader(f *testing.F) {
	f.Add([]byte{})
	f.Add(Append(nil, 1, nil))
	f.Add(Append(Append(nil, 2, []byte("hello")), 1, nil))
	f.Add([]byte("TS\x01\x02\xff\xff\xff\xff"))
	f.Add([]byte("TS\x01\x02\x00\x0f\xff\xffabc"))
	f.Fuzz(func(t *testing.T, in []byte) {
		limits := Limits{1: 0, 2: 1 << 20}
		r := NewReader(bytes.NewReader(in), limits)
		var again []byte
		for {
			kind, payload, err := r.Next()
			if err != nil {
				if payload != nil {
					t.Error("a payload with an error")
				}
				break
			}
			most, ok := limits[kind]
			if !ok || len(payload) > most {
				t.Fatalf("kind %d with %d bytes", kind, len(payload))
			}
			again = Append(again, kind, payload)
		}
		if !bytes.HasPrefix(in, again) {
			t.Errorf("%x is not what was read of %x", again, in)
		}
		if cap(r.buf) > 2*len(in)+chunk {
			t.Errorf("%d bytes of buffer for %d of input", cap(r.buf), len(in))
		}
	})
}
