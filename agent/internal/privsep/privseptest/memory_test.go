package privseptest

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// Both ends of the connection in memory are as those of a socket.
func TestMemoryPipe(t *testing.T) {
	t.Run("bytes arrive", func(t *testing.T) {
		a, b := Pipe()
		r := rand.New(rand.NewPCG(1, 2))
		sent := make([]byte, 5<<20)
		for i := range sent {
			sent[i] = byte(r.Uint32())
		}
		go func() {
			for rest := sent; len(rest) > 0; {
				n := min(1+r.IntN(3*Buffer/2), len(rest))
				if m, err := a.Write(rest[:n]); m != n || err != nil {
					t.Errorf("%d of %d written: %v", m, n, err)
				}
				rest = rest[n:]
			}
			a.Close()
		}()
		var got []byte
		for p := make([]byte, 100_000); ; {
			n, err := b.Read(p[:1+len(got)%len(p)])
			got = append(got, p[:n]...)
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			half := b.(*memoryConn).in
			half.mu.Lock()
			if cap(half.buf) > 8*Buffer {
				t.Errorf("a buffer of %d bytes", cap(half.buf))
			}
			half.mu.Unlock()
		}
		if !bytes.Equal(got, sent) {
			t.Errorf("%d bytes arrived of %d, or others", len(got), len(sent))
		}
	})
	for _, tt := range []struct {
		name string
		do   func(a, b net.Conn) error
		want error
	}{
		{"read what is there after the other end is closed", func(a, b net.Conn) error {
			a.Write([]byte("x"))
			a.Close()
			if n, err := b.Read(make([]byte, 2)); n != 1 || err != nil {
				return errors.New("lost")
			}
			_, err := b.Read(make([]byte, 2))
			return err
		}, io.EOF},
		{"read of a closed end", func(a, b net.Conn) error { a.Close(); _, err := a.Read(make([]byte, 1)); return err }, io.ErrClosedPipe},
		{"write to a closed end", func(a, b net.Conn) error { b.Close(); _, err := a.Write([]byte("x")); return err }, io.ErrClosedPipe},
		{"write of a closed end", func(a, b net.Conn) error { a.Close(); _, err := a.Write([]byte("x")); return err }, io.ErrClosedPipe},
		{"close while a read waits", func(a, b net.Conn) error {
			time.AfterFunc(time.Second, func() { a.Close() })
			_, err := a.Read(make([]byte, 1))
			return err
		}, io.ErrClosedPipe},
		{"close while a write waits", func(a, b net.Conn) error {
			time.AfterFunc(time.Second, func() { b.Close() })
			n, err := a.Write(make([]byte, Buffer+1))
			if n != Buffer {
				return errors.New("not what there is room for")
			}
			return err
		}, io.ErrClosedPipe},
		{"read until a deadline", func(a, b net.Conn) error {
			a.SetDeadline(time.Now().Add(time.Hour))
			_, err := a.Read(make([]byte, 1))
			return err
		}, os.ErrDeadlineExceeded},
		{"write until a deadline", func(a, b net.Conn) error {
			a.SetDeadline(time.Now().Add(time.Hour))
			_, err := a.Write(make([]byte, Buffer+1))
			return err
		}, os.ErrDeadlineExceeded},
		{"deadline that is past", func(a, b net.Conn) error {
			b.Write([]byte("x"))
			a.SetReadDeadline(time.Unix(1, 0))
			_, err := a.Read(make([]byte, 1))
			return err
		}, os.ErrDeadlineExceeded},
		{"deadline that is taken back", func(a, b net.Conn) error {
			a.SetReadDeadline(time.Now().Add(time.Minute))
			a.SetReadDeadline(time.Time{})
			time.AfterFunc(time.Hour, func() { b.Write([]byte("x")) })
			_, err := a.Read(make([]byte, 1))
			return err
		}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := Pipe()
				if err := tt.do(a, b); err != tt.want {
					t.Errorf("%v, want %v", err, tt.want)
				}
			})
		})
	}
}
