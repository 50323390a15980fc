package states

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/agent/internal/privsep"
	"example.org/threatstopd/agent/internal/privsep/privseptest"
	"example.org/threatstopd/pfioctl"
	"example.org/threatstopd/pfioctl/pfsim"
)

// taken is a role in which an attacker's code runs: it is ready, and does what the
// attacker wants when a request has come.
func taken(attack func(w *privsep.Worker, id uint64) error) privsep.Body {
	return func(conn net.Conn, _ []*os.File) error {
		w := privsep.NewWorker(conn, fromMain)
		var s Setup
		if err := w.Setup(kindSetup, &s); err != nil {
			return nil
		}
		if err := w.Ready(); err != nil {
			return nil
		}
		var q request
		return w.Run(context.Background(), func(kind byte, payload []byte) error {
			switch kind {
			case kindRequest:
				return json.Unmarshal(payload, &q)
			case kindGo:
				return attack(w, q.ID)
			}
			return nil
		})
	}
}

func says(answer string) func(*privsep.Worker, uint64) error {
	return func(w *privsep.Worker, id uint64) error {
		if strings.Contains(answer, "%d") {
			answer = fmt.Sprintf(answer, id)
		}
		return w.Send(kindAnswer, []byte(answer))
	}
}

// Whatever a role that was taken over says, main believes nothing that cannot be, does
// not wait for ever, and goes on.
func TestTakenOver(t *testing.T) {
	for _, tt := range []struct {
		name   string
		attack func(w *privsep.Worker, id uint64) error
		want   string // of the error, and of the report
	}{
		{"more killed than looked at", says(`{"ID":%d,"Done":{"Considered":1,"Killed":2,"Left":0},"Error":""}`), "misbehaved, killed: impossible answer: 1 states considered, 2 killed, 0 left"},
		{"fewer than none", says(`{"ID":%d,"Done":{"Considered":5,"Killed":-1,"Left":0},"Error":""}`), "misbehaved, killed: impossible answer: 5 states considered, -1 killed, 0 left"},
		{"more than there can be", says(`{"ID":%d,"Done":{"Considered":2000000000,"Killed":0,"Left":2000000000},"Error":""}`), "misbehaved, killed: impossible answer: 2000000000 states considered, 0 killed, 2000000000 left"},
		{"more than a number holds", says(`{"ID":%d,"Done":{"Considered":99999999999999999999},"Error":""}`), "misbehaved, killed: answer: json: "},
		{"to another request", says(`{"ID":77}`), "misbehaved, killed: answer to request 77, not 1"},
		{"no answer", says(`[]`), "misbehaved, killed: answer: json: "},
		{"more than an answer", says(`{"ID":%d} {}`), "misbehaved, killed: answer: json: something follows the value"},
		{"a field too many", says(`{"ID":%d,"Block":"192.0.2.1"}`), `misbehaved, killed: answer: json: unknown field "Block"`},
		{"twice", func(w *privsep.Worker, id uint64) error {
			return errOf(says(`{"ID":77}`)(w, id), says(`{"ID":%d}`)(w, id))
		}, "misbehaved, killed: answer to request 77"},
		{"a long message", func(w *privsep.Worker, _ uint64) error { return w.Send(kindAnswer, make([]byte, maxAnswer+1)) }, "misbehaved, killed: message refused: 6401 bytes of kind 20"},
		{"another message", func(w *privsep.Worker, _ uint64) error { return w.Send(kindRequest, nil) }, "misbehaved, killed: message refused: unknown kind 17"},
		{"death", func(*privsep.Worker, uint64) error { return fmt.Errorf("forged\nline") }, `forged\x0aline`},
		{"silence", func(*privsep.Worker, uint64) error { return nil }, "no answer within 16s"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, taken(tt.attack))
				b.up()
				res, err := b.KillStates(set(t), set(t, "10.0.0.0/8"), nil, time.Now().Add(time.Second))
				if err == nil || !strings.HasPrefix(err.Error(), "states process: "+tt.want) || res != (Killed{}) {
					t.Errorf("%v, %v", res, err)
				}
				// There is another one soon.
				time.Sleep(2 * time.Second)
				b.up()
			})
		})
	}
}

func errOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// What it says in an error is one line.
func TestErrorOfAStranger(t *testing.T) {
	b := newBench(t, taken(says(`{"ID":%d,"Error":"no\nsuch\u001b[2J\u202e thing"}`)))
	b.up()
	_, err := b.KillStates(set(t), set(t, "10.0.0.0/8"), nil, time.Now().Add(time.Minute))
	if err == nil || err.Error() != `no\x0asuch\x1b[2J\u202e thing` {
		t.Errorf("%v", err)
	}
}

// An answer to nothing.
func TestAnswerUnasked(t *testing.T) {
	b := newBench(t, func(conn net.Conn, _ []*os.File) error {
		w := privsep.NewWorker(conn, fromMain)
		if err := w.SendJSON(kindAnswer, answer{}); err != nil {
			return nil
		}
		return w.Run(context.Background(), func(byte, []byte) error { return nil })
	})
	b.until("reported", func() bool { return len(b.reported()) > 0 })
	expect(t, b.reported(), "misbehaved, killed: answer without a request")
}

// Requests that main does not make are not carried out: the role ends.
func TestRequests(t *testing.T) {
	var chunks [][]byte
	cut, err := policy.Difference(set(t, "10.0.0.0/8"), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for c := range cut.Chunks(chunkSize) {
		chunks = append(chunks, append([]byte(nil), c...))
	}
	begin := func(q request) []byte {
		b, err := json.Marshal(q)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	type frame struct {
		kind    byte
		payload []byte
	}
	chunk, good := frame{kindRanges, chunks[0]}, frame{kindRequest, begin(request{ID: 1, V4: 1, Sum: cut.Sum(), Wait: time.Second})}
	for _, tt := range []struct {
		name string
		send []frame
		want string
	}{
		{"addresses of nothing", []frame{chunk}, "message of kind 18 without a request"},
		{"nothing to carry out", []frame{{kind: kindGo}}, "message of kind 19 without a request"},
		{"no addresses", []frame{{kindRequest, begin(request{Wait: 1})}}, "request of 0 networks in 1ns"},
		{"too many", []frame{{kindRequest, begin(request{V4: maxEntries + 1})}}, "policy: set with 4194305 and 0 entries: too many, the limit is 4194304"},
		{"too long", []frame{{kindRequest, begin(request{V4: 1, Wait: time.Hour})}}, "request of 1 networks in 1h0m0s"},
		{"more than announced", []frame{good, chunk, chunk}, "policy: chunk has more than the 1 IPv4 entries announced"},
		{"fewer than announced", []frame{good, {kind: kindGo}}, "policy: set has 0 and 0 entries, 1 and 0 were announced"},
		{"own address", []frame{{kindRequest, begin(request{V4: 1, Sum: cut.Sum(), Wait: 1, Own: []netip.Addr{netip.MustParseAddr("10.2.3.4")}})}, chunk, {kind: kindGo}}, "request for 10.2.3.4, an address of this host"},
		{"twice", []frame{good, chunk, {kind: kindGo}, {kind: kindGo}}, "message of kind 19 without a request"},
		{"not one", []frame{{kindRequest, []byte("7")}}, "request: json: "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k := pfsim.New(pfsim.Options{})
			manyStates(k, 10)
			var got error
			done := make(chan struct{})
			body := Body(Env{OpenPF: func() (*pfioctl.PF, error) { return k.OpenPF(), nil }})
			child, err := privseptest.InProcess(map[string]privsep.Body{Name: func(conn net.Conn, files []*os.File) error {
				defer close(done)
				got = body(conn, files)
				return got
			}}).Start(Name, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer child.Kill()
			conn := privsep.NewConn(child.Conn(), nil)
			if err := conn.SendJSON(kindSetup, Setup{}); err != nil {
				t.Fatal(err)
			}
			for _, f := range tt.send {
				if err := conn.Send(f.kind, f.payload); err != nil {
					t.Fatal(err)
				}
			}
			<-done
			if got == nil || !strings.HasPrefix(got.Error(), tt.want) {
				t.Errorf("%v, want %s", got, tt.want)
			}
			if n := len(k.States()); n != 10 && tt.name != "twice" {
				t.Errorf("%d states left", n)
			}
		})
	}
}

// No answer of main's checking is one that cannot be.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte(`{"ID":1,"Done":{"Considered":3,"Killed":1,"Left":2},"Error":"x"}`))
	f.Add([]byte(`{"ID":1,"Error":"\u202e\n"}`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		results := make(chan result, 1)
		c := &Client{last: 1, result: results}
		if err := c.handle(nil, kindAnswer, payload); err != nil {
			if len(results) > 0 {
				t.Fatalf("answered with %v", err)
			}
			return
		}
		r := <-results
		d := r.done
		if d.Killed < 0 || d.Killed > d.Considered || d.Left < 0 || d.Considered+d.Left > maxStates {
			t.Errorf("%+v", d)
		}
		if r.err != nil && (len(r.err.Error()) > maxText+len("…") || strings.ContainsAny(r.err.Error(), "\n\r\x1b\u202e")) {
			t.Errorf("%q", r.err)
		}
		if c.handle(nil, kindAnswer, payload) == nil {
			t.Error("two answers to one request")
		}
	})
}
