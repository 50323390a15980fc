package cli

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.org/threatstopd/dnsfetch"
	"example.org/threatstopd/dnsfetch/dnstest"
	"example.org/threatstopd/pfioctl/pfsim"
)

// terminal shows what a terminal would: a carriage return goes back to the
// beginning of the line, and what comes then covers what is there.
type terminal struct {
	lines  []string // that are done
	line   []byte
	column int
	drawn  int // lines that were drawn and not finished
}

func (v *terminal) Write(p []byte) (int, error) {
	if bytes.HasPrefix(p, []byte("\r")) && len(bytes.TrimSpace(p)) > 0 {
		v.drawn++
	}
	for _, c := range p {
		switch c {
		case '\r':
			v.column = 0
		case '\n':
			v.lines = append(v.lines, strings.TrimRight(string(v.line), " "))
			v.line, v.column = nil, 0
		default:
			if v.column == len(v.line) {
				v.line = append(v.line, 0)
			}
			v.line[v.column] = c
			v.column++
		}
	}
	return len(p), nil
}

// On a terminal a long list shows how far it has come, and leaves nothing of
// that behind; a list with a long name does not wrap.
func TestSyncNowOnATerminal(t *testing.T) {
	fw := newFirewall(t, pfsim.Options{})
	long := strings.Repeat("a-list-with-a-long-name.", 4) + blockList
	fw.conf["BLOCK_LISTS"] = long
	if err := fw.server.Set(dnstest.List{Name: long, Entries: entries(t, hosts(3000, "10.9.%d.%d")...), Layout: dnsfetch.LayoutParts, PartSize: 10}); err != nil {
		t.Fatal(err)
	}
	conf := fw.writeConf()
	screen := &terminal{}
	env := fw.env()
	env.Stdout, env.Stderr, env.Terminal = screen, screen, true
	if code := Run(context.Background(), []string{"--sync-now", "-f", conf}, env); code != 0 {
		t.Fatalf("exit code %d:\n%s", code, strings.Join(screen.lines, "\n"))
	}
	if screen.drawn == 0 {
		t.Error("nothing was drawn")
	}
	if len(bytes.TrimSpace(screen.line)) > 0 {
		t.Errorf("left on the screen: %q", screen.line)
	}
	var plain bytes.Buffer
	env = fw.env()
	env.Stdout, env.Stderr = &plain, &plain
	fw.kernel = pfsim.New(pfsim.Options{})
	fw.kernel.SetRunning(true)
	fw.rules()
	if code := Run(context.Background(), []string{"--sync-now", "-f", conf}, env); code != 0 {
		t.Fatalf("exit code %d:\n%s", code, &plain)
	}
	if got := strings.Join(screen.lines, "\n") + "\n"; got != plain.String() {
		t.Errorf("on the terminal:\n%s\nelsewhere:\n%s", got, &plain)
	}
}

func TestScreen(t *testing.T) {
	var out bytes.Buffer
	s := &screen{env: Env{Stdout: &out, Stderr: &out, Terminal: true}}
	s.draw(strings.Repeat("x", 200))
	s.draw("too soon")
	s.last = time.Now().Add(-time.Second)
	s.draw("part 2")
	s.say("done")
	want := "\r" + strings.Repeat("x", 79) + "\rpart 2" + strings.Repeat(" ", 73) + "\r" + strings.Repeat(" ", 6) + "\rdone\n"
	if out.String() != want {
		t.Errorf("%q\nwant %q", out.String(), want)
	}
}

// Work that takes longer than a second is shown on a terminal, and leaves nothing there.
func TestLongWorkIsShown(t *testing.T) {
	for _, c := range []struct {
		name     string
		terminal bool
		takes    time.Duration
		want     string
	}{
		{"short", true, 999 * time.Millisecond, ""},
		{"long", true, 2500 * time.Millisecond, "\r2 lines printed\r2 lines printed\r               \r"},
		{"piped", false, 2500 * time.Millisecond, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var out, errs bytes.Buffer
				env := Env{Stdout: &out, Stderr: &errs, Terminal: c.terminal}
				err := env.printing(func(to io.Writer) error {
					io.WriteString(to, "one\ntwo\n")
					time.Sleep(c.takes)
					return nil
				})
				if err != nil || out.String() != "one\ntwo\n" || errs.String() != c.want {
					t.Errorf("%v: %q, %q, want %q", err, &out, &errs, c.want)
				}
			})
		})
	}
}
