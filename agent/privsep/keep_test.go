package privsep

import (
	"context"
	"errors"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"example.org/threatstopd/agent/frame"
)

func echo(conn net.Conn, _ []*os.File) error {
	w := NewWorker(conn, frame.Limits{16: 100, 17: 1 << 20})
	var setup struct{ Greeting string }
	if err := w.Setup(16, &setup); err != nil {
		return err
	}
	l := w.Log()
	l.Info().Str("greeting", setup.Greeting).Msg("hello")
	if err := w.Ready(); err != nil {
		return err
	}
	return w.Run(context.Background(), func(kind byte, payload []byte) error {
		if string(payload) == "die" {
			return errors.New("told to die")
		}
		return w.Send(kind, payload)
	})
}

func TestFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		up := make(chan bool, 10)
		got := make(chan string, 10)
		k := Keep(ctx, InProcess(map[string]Body{"echo": echo}), Job{
			Role: "echo", Takes: frame.Limits{17: 1 << 20}, Log: zerolog.New(zerolog.NewTestWriter(t)),
			Begin:  func(c *Conn) error { return c.SendJSON(16, map[string]string{"Greeting": "hi\nthere"}) },
			Handle: func(c *Conn, kind byte, p []byte) error { got <- string(p); return nil },
			Up:     func() { up <- true },
			Down:   func(s string) { t.Log("down:", s) },
		})
		<-up
		k.Send(17, []byte("abc"))
		t.Log(<-got)
		time.Sleep(5 * time.Minute)
		k.Send(17, []byte("die"))
		<-up
		k.Restart()
		<-up
		cancel()
		k.Wait()
	})
}
