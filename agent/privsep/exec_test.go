package privsep

import (
	"context"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"example.org/threatstopd/agent/frame"
)

func TestMain(m *testing.M) {
	Serve(map[string]Body{"echo": echo})
	os.Exit(m.Run())
}

func TestExecFirst(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	up := make(chan bool, 10)
	got := make(chan string, 10)
	k := Keep(ctx, Exec(), Job{
		Role: "echo", Takes: frame.Limits{17: 1 << 20}, Log: zerolog.New(zerolog.NewTestWriter(t)),
		Begin:  func(c *Conn) error { return c.SendJSON(16, map[string]string{"Greeting": "hi\nthere"}) },
		Handle: func(c *Conn, kind byte, p []byte) error { got <- string(p); return nil },
		Up:     func() { up <- true },
		Down:   func(s string) { t.Log("down:", s) },
	})
	start := time.Now()
	<-up
	t.Log(time.Since(start))
	k.Send(17, []byte("abc"))
	t.Log(<-got)
	k.Send(17, []byte("die"))
	<-up
	k.Restart()
	<-up
	cancel()
	k.Wait()
	_ = syscall.SIGABRT
}
