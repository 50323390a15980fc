package privsep

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// bodies are the roles of the tests: honest ones, and what an attacker would run.
var bodies = map[string]Body{
	"echo": echo,
	"idle": atWork(func(w *Worker, _ []*os.File) error { return idle(w) }),
	"greets": atWork(func(w *Worker, _ []*os.File) error {
		if err := w.Send(17, []byte("hello")); err != nil {
			return err
		}
		return idle(w)
	}),
	// How a process ends.
	"fails":     func(net.Conn, []*os.File) error { return errors.New("pflog0: no such\ninterface\x1b[31m") },
	"exits 0":   atWork(func(*Worker, []*os.File) error { return nil }),
	"exits 3":   atWork(func(*Worker, []*os.File) error { os.Exit(3); return nil }),
	"panics":    atWork(func(*Worker, []*os.File) error { panic("slice bounds out of\nrange") }),
	"kill -9":   atWork(func(*Worker, []*os.File) error { syscall.Kill(os.Getpid(), syscall.SIGKILL); select {} }),
	"aborts":    atWork(func(*Worker, []*os.File) error { return shell("ulimit -c 0; kill -ABRT $$") }),
	"segfaults": atWork(func(*Worker, []*os.File) error { return shell("ulimit -c 0; kill -SEGV $$") }),
	"says much": atWork(func(w *Worker, _ []*os.File) error {
		line := []byte(strings.Repeat("x", 99) + "\n")
		for range 10 << 20 / len(line) {
			if _, err := os.Stderr.Write(line); err != nil {
				return err
			}
		}
		return idle(w)
	}),
	"says some and dies": atWork(func(*Worker, []*os.File) error {
		fmt.Fprint(os.Stderr, "\n\x1b[2Jfirst\nJan  1 00:00:00 host sshd: forged\n", strings.Repeat("between\n", 10000), "last\tone\n\n")
		os.Exit(4)
		return nil
	}),
	"stays": atWork(func(w *Worker, _ []*os.File) error { time.Sleep(time.Hour); return nil }),
	"ends slowly": atWork(func(w *Worker, _ []*os.File) error {
		err := idle(w)
		time.Sleep(300 * time.Millisecond)
		w.Send(18, []byte("the last"))
		return err
	}),
	"hangs up": atWork(func(w *Worker, _ []*os.File) error { w.conn.Close(); time.Sleep(time.Hour); return nil }),
	"fills memory": atWork(func(w *Worker, _ []*os.File) error {
		if err := System().Confine("fetch", Confinement{Memory: Memory(0)}); err != nil {
			return err
		}
		var bound unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_DATA, &bound); err != nil || bound.Cur > Memory(0) {
			return errors.New(notBounded)
		}
		debug.SetGCPercent(-1)
		var all [][]byte
		for range 64 {
			b := make([]byte, 64<<20)
			for i := 0; i < len(b); i += 4096 {
				b[i] = 1
			}
			all = append(all, b)
		}
		return fmt.Errorf("took %d pieces of 64 MB", len(all))
	}),
	// What main does not take.
	"unknown kind":        sends(message(99, nil)),
	"kind of main's":      sends(message(kindEnd, nil)),
	"too long":            sends(message(17, make([]byte, 101))),
	"4 GB announced":      sends([]byte("\xff\xff\xff\xff\x12")),
	"not a message":       sends([]byte("GET / HTTP/1.0\r\n\r\n")),
	"ready twice":         sends(message(kindReady, nil)),
	"pong without a ping": sends(message(kindPong, nil)),
	"half a message": atWork(func(w *Worker, _ []*os.File) error {
		w.conn.Write([]byte("\x00\x00\x00\x09\x11abc"))
		return nil
	}),
	"half a message, stays": atWork(func(w *Worker, _ []*os.File) error {
		w.conn.Write([]byte("\x00\x00\x00\x09\x11abc"))
		time.Sleep(time.Hour)
		return nil
	}),
	"unknown field":       sends(message(18, []byte(`{"Name":"x","Root":true}`))),
	"two values":          sends(message(18, []byte(`{"Name":"x"}{}`))),
	"refused message":     sends(message(18, []byte("refuse me"))),
	"log: no JSON":        sends(message(kindLog, []byte("Jan  1 host sshd: accepted"))),
	"log: an array":       sends(message(kindLog, []byte(`["message"]`))),
	"log: a time":         sends(message(kindLog, []byte(`{"level":"info","time":"1999","message":"x"}`))),
	"log: another role":   sends(message(kindLog, []byte(`{"level":"info","role":"main","message":"x"}`))),
	"log: a forged field": sends(message(kindLog, []byte(`{"level":"info","a b=c\n":1,"message":"x"}`))),
	"log: a level":        sends(message(kindLog, []byte(`{"level":"emerg","message":"x"}`))),
	"log: two events":     sends(message(kindLog, []byte("{}\n{}"))),
	"log: too long":       sends(message(kindLog, []byte(`{"message":"`+strings.Repeat("x", maxLog)+`"}`))),
	"log: 50 fields":      sends(message(kindLog, manyFields())),
	"log: a list":         sends(message(kindLog, []byte(`{"a":[1]}`))),
	"log: nested":         sends(message(kindLog, []byte(`{"a":`+strings.Repeat("[", maxLog-100)))),
	"flood": atWork(func(w *Worker, _ []*os.File) error {
		for {
			if err := w.Send(17, nil); err != nil {
				return err
			}
		}
	}),
	"does not read": atWork(func(w *Worker, _ []*os.File) error { time.Sleep(time.Hour); return nil }),
	"does not pong": atWork(func(w *Worker, _ []*os.File) error {
		for {
			if _, _, err := w.Next(); err != nil {
				return nil
			}
		}
	}),
	"never ready": func(conn net.Conn, _ []*os.File) error { return idle(NewWorker(conn, nil)) },
	"waits for its setup": func(conn net.Conn, _ []*os.File) error {
		var into struct{}
		return NewWorker(conn, Limits{16: 100}).Setup(16, &into)
	},
	"logs": atWork(func(w *Worker, _ []*os.File) error {
		l := w.Log()
		l.Debug().Int("n", -5).Msg("debug")
		l.Info().Str("text", "a\nJan  1 00:00:00 host sshd[1]: accepted\r\x1b[2J\u202e\x00\"\\").Msg("two\nlines\x9b")
		l.Warn().Bool("ok", true).Float64("f", 1.5).Interface("m", nil).Msg("warn")
		l.Error().Err(errors.New("bad \xff bytes")).Msg("error")
		l.WithLevel(5).Msg("panic") // zerolog.PanicLevel
		l.Log().Msg("no level")
		l.Info().Str("long", strings.Repeat("y", 20000)).Msg("long")
		w.Send(17, []byte("done"))
		return idle(w)
	}),
	"logs too much": atWork(func(w *Worker, _ []*os.File) error {
		l := w.Log()
		for i := range 1000 {
			l.Info().Int("i", i).Msg("again")
		}
		w.Send(17, []byte("done"))
		return idle(w)
	}),
	"bulk": atWork(func(w *Worker, _ []*os.File) error {
		chunk := make([]byte, 256<<10)
		return w.Run(context.Background(), func(kind byte, payload []byte) error {
			switch string(payload) {
			case "send":
				for range 32 {
					if err := w.Send(18, chunk); err != nil {
						return err
					}
				}
			case "count":
				return w.Send(17, []byte("done"))
			}
			return nil
		})
	}),
	"surroundings": atWork(func(w *Worker, files []*os.File) error {
		var s surroundings
		s.Args, s.Env, s.UID = os.Args, os.Environ(), os.Getuid()
		s.Dir, _ = os.Getwd()
		null, err := os.Stat(os.DevNull)
		if err != nil {
			return err
		}
		for _, f := range []*os.File{os.Stdin, os.Stdout, os.Stderr} {
			st, err := f.Stat()
			s.Null = append(s.Null, err == nil && os.SameFile(st, null))
		}
		s.Pipe = isPipe(os.Stderr)
		for _, f := range files {
			b, err := io.ReadAll(f)
			if err != nil {
				return err
			}
			s.Files = append(s.Files, string(b))
		}
		if err := w.SendJSON(18, s); err != nil {
			return err
		}
		return idle(w)
	}),
	"signals": atWork(func(w *Worker, _ []*os.File) error {
		for _, s := range []syscall.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGPIPE} {
			syscall.Kill(os.Getpid(), s)
		}
		time.Sleep(100 * time.Millisecond)
		w.Send(17, []byte("alive"))
		return idle(w)
	}),
}

const notBounded = "the memory of this process cannot be bounded"

type surroundings struct {
	Args, Env []string
	Dir       string
	UID       int
	Null      []bool
	Pipe      bool
	Files     []string
}

func isPipe(f *os.File) bool {
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeNamedPipe != 0
}

func tellDescriptors(inherited []int) Body {
	return atWork(func(w *Worker, files []*os.File) error {
		b, _ := json.Marshal(inherited)
		if err := w.Send(18, b); err != nil {
			return err
		}
		return idle(w)
	})
}

// idle runs without doing anything, until main ends it.
func idle(w *Worker) error {
	return w.Run(context.Background(), func(byte, []byte) error { return nil })
}

// atWork is a role that says that it is ready, and then lives so.
func atWork(life func(*Worker, []*os.File) error) Body {
	return func(conn net.Conn, files []*os.File) error {
		w := NewWorker(conn, Limits{16: 100, 17: 1 << 20})
		if err := w.Ready(); err != nil {
			return err
		}
		return life(w, files)
	}
}

// sends is a role that sends these bytes when it is asked to, and lives on as if nothing
// were.
func sends(bytes []byte) Body {
	return atWork(func(w *Worker, _ []*os.File) error {
		w.conn.Write(bytes)
		return idle(w)
	})
}

// shell makes this process a shell that runs a command.
func shell(command string) error {
	return syscall.Exec("/bin/sh", []string{"sh", "-c", command}, nil)
}

// message returns a message as it crosses a connection.
func message(kind byte, payload []byte) []byte {
	return append(append(binary.BigEndian.AppendUint32(nil, uint32(len(payload))), kind), payload...)
}

func manyFields() []byte {
	var b strings.Builder
	b.WriteString("{")
	for i := range 50 {
		fmt.Fprintf(&b, `"f%d":%d,`, i, i)
	}
	return []byte(b.String() + `"message":"x"}`)
}

// echo answers each message with the same; it greets in the log as its setup says.
func echo(conn net.Conn, _ []*os.File) error {
	w := NewWorker(conn, Limits{16: 100, 17: 1 << 20})
	var setup struct{ Greeting string }
	if err := w.Setup(16, &setup); err != nil {
		return err
	}
	l := w.Log()
	l.Info().Msg(setup.Greeting)
	if err := w.Ready(); err != nil {
		return err
	}
	return w.Run(context.Background(), func(kind byte, payload []byte) error {
		if string(payload) == "die" {
			return errors.New("dies on request")
		}
		return w.Send(kind, payload)
	})
}
