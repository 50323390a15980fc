package privsep

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// starters are the two ways to start a role; what is said of the one holds for the other.
func starters() map[string]Starter {
	return map[string]Starter{"process": Exec(), "goroutine": InProcess(bodies)}
}

func greet(text string) func(*Conn) error {
	return func(c *Conn) error { return c.SendJSON(16, map[string]string{"Greeting": text}) }
}

func TestRoleLives(t *testing.T) {
	for name, s := range starters() {
		t.Run(name, func(t *testing.T) {
			k := keep(t, s, Job{Role: "echo", Begin: greet("hello")})
			if err := k.Conn().Send(17, nil); err != ErrDown && err != nil {
				t.Errorf("before it is ready: %v", err)
			}
			k.isUp(t)
			for _, text := range []string{"one", "", strings.Repeat("x", 100)} {
				if err := k.Conn().Send(17, []byte(text)); err != nil {
					t.Fatal(err)
				}
				if got := <-k.got; got != "17 "+text {
					t.Errorf("%q came back as %q", text, got)
				}
			}
			// It dies, and comes back by itself.
			if err := k.Conn().Send(17, []byte("die")); err != nil {
				t.Fatal(err)
			}
			if reason := k.isDown(t); reason != "dies on request" {
				t.Errorf("down: %q", reason)
			}
			k.isUp(t)
			k.Restart()
			k.isUp(t)
			k.stop()
			k.Wait()
			if err := k.Conn().SendJSON(17, "x"); err != ErrDown {
				t.Errorf("after its end: %v", err)
			}
			if len(k.down) > 0 {
				t.Errorf("an orderly end is reported as %q", <-k.down)
			}
			if got := len(k.log.events(t)); got != 3 {
				t.Errorf("%d log events of 3 lives:\n%s", got, k.log)
			}
		})
	}
}

func refuse(_ *Conn, kind byte, payload []byte) error {
	var into struct{ Name string }
	if string(payload) == "refuse me" {
		return errors.New("entry 0.0.0.0/0 refused")
	}
	if kind == 18 {
		return Unmarshal(payload, &into)
	}
	return nil
}

// A role that sends anything it should not is killed, and the reason is reported.
func TestMisbehaviour(t *testing.T) {
	for _, tt := range []struct{ role, reason string }{
		{"unknown kind", "misbehaved, killed: message refused: unknown kind 99"},
		{"kind of main's", "misbehaved, killed: message refused: unknown kind 5"},
		{"too long", "misbehaved, killed: message refused: 101 bytes of kind 17, at most 100 are taken"},
		{"4 GB announced", "misbehaved, killed: message refused: 4294967295 bytes of kind 18, at most 1048576 are taken"},
		{"not a message", "misbehaved, killed: message refused: unknown kind 47"},
		{"ready twice", "misbehaved, killed: ready twice"},
		{"pong without a ping", "misbehaved, killed: pong without a ping"},
		{"half a message", "ended by itself"},
		{"unknown field", `misbehaved, killed: json: unknown field "Root"`},
		{"two values", "misbehaved, killed: json: something follows the value"},
		{"refused message", "misbehaved, killed: entry 0.0.0.0/0 refused"},
		{"flood", "misbehaved, killed: flood: more than 2000 messages a second"},
		{"log: no JSON", "misbehaved, killed: log event: invalid character"},
		{"log: an array", "misbehaved, killed: log event: json: cannot unmarshal array"},
		{"log: a time", `misbehaved, killed: log event: field "time"`},
		{"log: another role", `misbehaved, killed: log event: field "role"`},
		{"log: a forged field", `misbehaved, killed: log event: field "a b=c\\x0a"`},
		{"log: a level", `misbehaved, killed: log event: Unknown Level String: 'emerg'`},
		{"log: two events", "misbehaved, killed: log event: something follows the object"},
		{"log: too long", "misbehaved, killed: message refused: 16398 bytes of kind 1, at most 16384 are taken"},
		{"log: 50 fields", "misbehaved, killed: log event: 51 fields, at most 40 are taken"},
		{"log: a list", `misbehaved, killed: log event: field "a" is nested`},
		{"log: nested", "misbehaved, killed: log event: "},
		{"fails", `pflog0: no such\x0ainterface\x1b[31m`},
		{"exits 0", "ended by itself"},
		{"nobody", `no role "nobody"`},
	} {
		for name, s := range starters() {
			t.Run(tt.role+"/"+name, func(t *testing.T) {
				k := keep(t, s, Job{Role: tt.role, Handle: refuse, Once: true})
				if got := k.isDown(t); !strings.HasPrefix(strings.TrimPrefix(got, "cannot be started: "), tt.reason) {
					t.Errorf("%q, want %q", got, tt.reason)
				}
				k.Wait()
				if log := k.log.String(); log != "" {
					t.Errorf("logged: %s", log)
				}
			})
		}
	}
}

// What only time shows, in a bubble whose hours take no time.
func TestSilence(t *testing.T) {
	for _, tt := range []struct {
		role, reason string
		after        time.Duration
	}{
		{"does not pong", "misbehaved, killed: silent: no answer within 1m0s", 90 * time.Second},
		{"does not read", "misbehaved, killed: silent: no answer within 1m0s", 90 * time.Second},
		{"half a message, stays", "misbehaved, killed: silent: no answer within 1m0s", 90 * time.Second},
		{"never ready", "misbehaved, killed: not ready within 2m0s", 2 * time.Minute},
		{"hangs up", "closed its connection and stayed, killed", endWait},
	} {
		t.Run(tt.role, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				k := keep(t, InProcess(bodies), Job{Role: tt.role, Once: true})
				if got := k.isDown(t); got != tt.reason {
					t.Errorf("%q, want %q", got, tt.reason)
				}
				if d := time.Since(start); d != tt.after {
					t.Errorf("after %v, want %v", d, tt.after)
				}
				k.Wait()
				abandoned()
			})
		})
	}
}

// abandoned lets the goroutines of roles that were killed end: nothing else can make them.
func abandoned() { time.Sleep(2 * time.Hour) }

// A role that answers is left alone, for days.
func TestQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := keep(t, InProcess(bodies), Job{Role: "idle"})
		k.isUp(t)
		time.Sleep(72 * time.Hour)
		if len(k.down) > 0 {
			t.Errorf("down: %s", <-k.down)
		}
	})
}

// A role is not silent because main does not read.
func TestBusyMain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var handled atomic.Int32
		k := keep(t, InProcess(bodies), Job{Role: "greets", Handle: func(*Conn, byte, []byte) error {
			time.Sleep(10 * time.Minute)
			handled.Add(1)
			return nil
		}})
		k.isUp(t)
		time.Sleep(time.Hour)
		if n := handled.Load(); n != 1 || len(k.down) > 0 {
			t.Errorf("%d messages, died %d times", n, len(k.down))
		}
	})
}

// Nothing is read from a role before main allows it; the role is started meanwhile.
func TestHold(t *testing.T) {
	for name, s := range starters() {
		t.Run(name, func(t *testing.T) {
			hold := make(chan struct{})
			k := keep(t, s, Job{Role: "greets", Hold: hold})
			select {
			case <-k.up:
				t.Error("read before its time")
			case <-time.After(100 * time.Millisecond):
			}
			close(hold)
			k.isUp(t)
			if got := <-k.got; got != "17 hello" {
				t.Error(got)
			}
		})
	}
	t.Run("until the end", func(t *testing.T) {
		k := keep(t, Exec(), Job{Role: "greets", Hold: make(chan struct{})})
		k.stop()
		k.Wait()
	})
	t.Run("cannot be started", func(t *testing.T) {
		k := keep(t, InProcess(bodies), Job{Role: "nobody", Once: true})
		k.isDown(t)
	})
}

func TestKillWithReason(t *testing.T) {
	for name, s := range starters() {
		t.Run(name, func(t *testing.T) {
			k := keep(t, s, Job{Role: "stays"})
			for range 2 {
				k.isUp(t)
				k.Kill("no answer")
				if got := k.isDown(t); got != "no answer: killed" {
					t.Errorf("down: %q", got)
				}
			}
		})
	}
}

// A role that does not read what it is sent: Send does not wait for ever, and the role
// does not stay.
func TestNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := keep(t, InProcess(bodies), Job{Role: "does not read", Once: true})
		k.isUp(t)
		start := time.Now()
		var err error
		for range 10 {
			if err = k.Conn().Send(16, make([]byte, 64<<10)); err != nil {
				break
			}
		}
		if err != ErrNotRead || time.Since(start) != sendWait {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		if got := k.isDown(t); got != "misbehaved, killed: does not read what it is sent" {
			t.Errorf("down: %s", got)
		}
		abandoned()
	})
	synctest.Test(t, func(t *testing.T) {
		k := keep(t, InProcess(bodies), Job{Role: "does not read", Once: true, Begin: func(c *Conn) error {
			return c.Send(16, make([]byte, PipeBuffer+1))
		}})
		if got := k.isDown(t); got != "misbehaved, killed: does not read what it is sent" {
			t.Errorf("down: %s", got)
		}
		abandoned()
	})
}

// A role that dies again and again is started ever more seldom; one that had worked for a
// while, soon.
func TestPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := keep(t, InProcess(bodies), Job{Role: "fails"})
		var starts []time.Duration
		last := time.Now()
		for range 9 {
			k.isDown(t)
			starts = append(starts, time.Since(last))
			last = time.Now()
		}
		want := []time.Duration{0, 1, 2, 4, 8, 16, 32, 60, 60}
		for i := range want {
			want[i] *= time.Second
		}
		if !slices.Equal(starts, want) {
			t.Errorf("%v, want %v", starts, want)
		}
		// Restart does not wait.
		time.Sleep(10 * time.Second)
		k.Restart()
		k.isDown(t)
		if d := time.Since(last); d != 10*time.Second {
			t.Errorf("after a Restart: %v", d)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		k := keep(t, InProcess(bodies), Job{Role: "echo", Begin: greet("")})
		for range 3 {
			k.isUp(t)
			time.Sleep(time.Minute)
			k.Conn().Send(17, []byte("die"))
			k.isDown(t)
			start := time.Now()
			k.isUp(t)
			if d := time.Since(start); d != time.Second {
				t.Errorf("started again after %v", d)
			}
			k.Restart()
		}
	})
}

// One new process is enough for all who wanted one before it was started.
func TestRestartsAreOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := 0
		k := keep(t, InProcess(bodies), Job{Role: "ends slowly", Begin: func(*Conn) error { begun++; return nil }})
		k.isUp(t)
		k.Restart()
		for range 3 {
			time.Sleep(50 * time.Millisecond) // it takes 300 ms to end
			k.Restart()
		}
		k.isUp(t)
		time.Sleep(time.Minute)
		if begun != 2 {
			t.Errorf("%d processes", begun)
		}
	})
}

func TestOrderlyEnd(t *testing.T) {
	for name, s := range starters() {
		t.Run(name, func(t *testing.T) {
			k := keep(t, s, Job{Role: "ends slowly"})
			k.isUp(t)
			k.stop()
			k.Wait()
			select {
			case got := <-k.got:
				if got != "18 the last" {
					t.Errorf("got %q", got)
				}
			default:
				t.Error("what a role sends while it ends is lost")
			}
			if log := k.log.String(); log != "" {
				t.Errorf("logged: %s", log)
			}
		})
	}
	t.Run("before it has its setup", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			k := keep(t, InProcess(bodies), Job{Role: "waits for its setup"})
			synctest.Wait()
			k.stop()
			start := time.Now()
			k.Wait()
			if d := time.Since(start); d != 0 || k.log.String() != "" {
				t.Errorf("after %v, logged %q", d, k.log)
			}
		})
	})
	t.Run("of one that does not", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			k := keep(t, InProcess(bodies), Job{Role: "stays"})
			k.isUp(t)
			start := time.Now()
			k.stop()
			k.Wait()
			if d := time.Since(start); d != endWait {
				t.Errorf("killed after %v", d)
			}
			e := k.log.events(t)
			if len(e) != 1 || e[0]["reason"] != "did not end within 7s, killed" || e[0]["role"] != "stays" || e[0]["level"] != "warn" {
				t.Errorf("logged %v", e)
			}
			abandoned()
		})
	})
}

func TestCannotBegin(t *testing.T) {
	for _, tt := range []struct {
		name, reason string
		job          Job
	}{
		{"no files", "cannot be started: pf: too many open files", Job{Role: "idle", Files: func() ([]*os.File, error) { return nil, errors.New("pf: too many open files") }}},
		{"no setup", "setup: no policy", Job{Role: "idle", Begin: func(*Conn) error { return errors.New("no policy") }}},
		{"setup refused", `setup: json: unknown field "Colour"`, Job{Role: "echo", Begin: func(c *Conn) error { return c.SendJSON(16, map[string]string{"Colour": "red"}) }}},
		{"setup of another kind", "setup: message of kind 17, not 16", Job{Role: "echo", Begin: func(c *Conn) error { return c.Send(17, nil) }}},
		{"setup too long", "setup: message refused: 101 bytes of kind 16, at most 100 are taken", Job{Role: "echo", Begin: func(c *Conn) error { return c.Send(16, make([]byte, 101)) }}},
	} {
		for name, s := range starters() {
			t.Run(tt.name+"/"+name, func(t *testing.T) {
				tt.job.Once = true
				k := keep(t, s, tt.job)
				if got := k.isDown(t); got != tt.reason {
					t.Errorf("%q, want %q", got, tt.reason)
				}
			})
		}
	}
}

// What a role logs is always logged as that of a role.
func TestLog(t *testing.T) {
	for name, s := range starters() {
		t.Run(name, func(t *testing.T) {
			k := keep(t, s, Job{Role: "logs"})
			k.isUp(t)
			if got := <-k.got; got != "17 done" {
				t.Fatal(got)
			}
			k.stop()
			k.Wait()
			want := `{"level":"debug","role":"logs","n":-5,"message":"debug"}
{"level":"info","role":"logs","text":"a\\x0aJan  1 00:00:00 host sshd[1]: accepted\\x0d\\x1b[2J\\u202e\\x00\"\\","message":"two\\x0alines�"}
{"level":"warn","role":"logs","f":1.5,"m":null,"ok":true,"message":"warn"}
{"level":"error","role":"logs","error":"bad � bytes","message":"error"}
{"level":"error","role":"logs","message":"panic"}
{"level":"info","role":"logs","message":"no level"}
{"level":"info","role":"logs","bytes":20043,"message":"log event left out: too long"}
`
			if got := k.log.String(); got != want {
				t.Errorf("logged:\n%swant:\n%s", got, want)
			}
		})
	}
}

func TestLogsTooMuch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := keep(t, InProcess(bodies), Job{Role: "logs too much"})
		k.isUp(t)
		<-k.got
		k.stop()
		k.Wait()
		all := k.log.events(t)
		if len(all) != logBurst+1 {
			t.Fatalf("%d events", len(all))
		}
		last := all[len(all)-1]
		if last["events"] != float64(1000-logBurst) || last["role"] != "logs too much" || last["level"] != "warn" {
			t.Errorf("last: %v", last)
		}
	})
}

// Two hundred deaths and restarts leave nothing behind.
func TestNothingLeaks(t *testing.T) {
	for name, s := range starters() {
		t.Run(name, func(t *testing.T) {
			n := 200
			if testing.Short() {
				n = 50 // a process under the race detector begins slowly
			}
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			defer w.Close()
			k := keep(t, s, Job{Role: "idle", Files: func() ([]*os.File, error) {
				d, err := duplicate(r)
				return []*os.File{d}, err
			}})
			k.isUp(t)
			fds, before := openDescriptors(false), goroutines()
			for range n {
				k.Restart()
				k.isUp(t)
			}
			if name == "process" {
				// Of the goroutine's the files are closed by the collector.
				if now := openDescriptors(false); len(now) > len(fds) {
					t.Errorf("descriptors %v, before %v", now, fds)
				}
			}
			for range 100 { // those that are about to end
				if goroutines() <= before {
					break
				}
				time.Sleep(20 * time.Millisecond)
			}
			if now := goroutines(); now > before {
				t.Errorf("%d goroutines, before %d", now, before)
			}
			if len(k.down) > 0 {
				t.Errorf("down: %s", <-k.down)
			}
		})
	}
}

// Sending from many goroutines, while the role comes and goes, neither mixes frames nor
// blocks.
func TestSendWhileItComesAndGoes(t *testing.T) {
	k := keep(t, Exec(), Job{Role: "echo", Begin: greet("x")})
	k.isUp(t)
	stop := make(chan struct{})
	ended := make(chan bool)
	sent := make(chan bool, 1)
	for g := range 4 {
		go func() {
			for {
				select {
				case <-stop:
					ended <- true
					return
				case <-time.After(time.Millisecond):
				}
				if k.Conn().Send(17, fmt.Appendf(nil, "%d", g)) == nil {
					select {
					case sent <- true:
					default:
					}
				}
			}
		}()
	}
	go func() {
		for range k.got {
		}
	}()
	for range 20 {
		time.Sleep(5 * time.Millisecond)
		k.Restart()
		k.isUp(t)
	}
	<-sent // however slow the host is
	close(stop)
	for range 4 {
		<-ended
	}
	if len(k.down) > 0 {
		t.Errorf("down: %s", <-k.down)
	}
	k.stop()
	k.Wait()
	close(k.got)
}

func TestProtocolKinds(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a protocol may use the kinds of this package")
		}
	}()
	withOwn(Limits{FirstKind - 1: 1}, nil)
}
