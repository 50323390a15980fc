package status

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var update = flag.Bool("update", false, "write testdata")

// golden compares with a file of testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

func text(t *testing.T, s *Status, verbose bool) string {
	t.Helper()
	var b bytes.Buffer
	if err := s.WriteText(&b, time.UTC, verbose); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// fitsConsole checks that a text is printable ASCII and, but for its first line, for 80 columns.
func fitsConsole(t *testing.T, text string) {
	t.Helper()
	for i, line := range strings.SplitAfter(text, "\n") {
		line, ended := strings.CutSuffix(line, "\n")
		if !ended && line != "" || len(line) > 80 && i > 0 || strings.TrimRight(line, " ") != line {
			t.Errorf("unended, too wide, or with blanks at its end: %q", line)
		}
		for _, c := range []byte(line) {
			if c < ' ' || c > '~' {
				t.Errorf("%#x in %q", c, line)
			}
		}
	}
}

func TestText(t *testing.T) {
	for _, x := range states {
		t.Run(x.name, func(t *testing.T) {
			s := x.status()
			got := text(t, s, false)
			golden(t, x.name+".txt", got)
			fitsConsole(t, got)
			first, _, _ := strings.Cut(got, "\n")
			switch {
			case len(x.needs) == 0:
				if !strings.HasPrefix(first, "Enforced") && (s.Unsure == "" || !strings.HasPrefix(first, "Not known whether")) {
					t.Errorf("first line %q", first)
				}
			case !strings.Contains(first, ascii(x.needs[0][strings.Index(x.needs[0], ":")+1:])) || strings.HasPrefix(first, "Enforced"):
				t.Errorf("first line %q does not have %q", first, x.needs[0])
			}
			fitsConsole(t, text(t, s, true))
		})
	}
}

func TestTextVerbose(t *testing.T) {
	s := states[0].status()
	for i := range 10 {
		s.Hits.Hour.Addresses = append(s.Hits.Hour.Addresses, Counted{Key: addr(i).String(), Hits: 1})
	}
	s.Tables[0].Dropped = make([]Dropped, 15)
	s.Tables[0].DroppedCount = 17
	short, long := text(t, s, false), text(t, s, true)
	for _, tt := range []struct {
		in, want string
		text     string
	}{
		{"short", "and 7 more dropped", short},
		{"long", "and 2 more dropped", long},
		{"long", "198.18.0.9 (1)", long},
	} {
		if !strings.Contains(tt.text, tt.want) {
			t.Errorf("%s does not have %q:\n%s", tt.in, tt.want, tt.text)
		}
	}
	if strings.Contains(short, "198.18.0.9") {
		t.Error("the tenth address is shown unasked")
	}
}

// With -v and as JSON all of 25 exceptions and 25 dropped entries are named, in order; otherwise ten of each.
func TestNamesAllExceptions(t *testing.T) {
	s := healthy()
	x := &s.Tables[0]
	x.Excepted, x.Dropped = nil, nil
	for i := range 25 {
		x.Excepted = append(x.Excepted, Excepted{netip.PrefixFrom(addr(i), 32), "gateway", 1, 0, []string{"basic"}})
		x.Dropped = append(x.Dropped, Dropped{fmt.Sprintf("%d.0.0.0/7", 10+2*i), "basic", "wider than /8"})
	}
	x.ExceptedCount, x.DroppedCount = 25, 25
	b, err := Encode(*s)
	if err != nil {
		t.Fatal(err)
	}
	if s, err = Decode(b); err != nil {
		t.Fatal(err)
	}
	short, long := text(t, s, false), text(t, s, true)
	var doc bytes.Buffer
	if err := s.WriteJSON(&doc); err != nil {
		t.Fatal(err)
	}
	at := map[string]int{}
	inOrder := func(in, text, phrase string, want bool) {
		i := strings.Index(text, phrase)
		if (i >= 0) != want || want && i < at[in] {
			t.Errorf("%s: %q at %d, after one at %d:\n%s", in, phrase, i, at[in], text)
		}
		at[in] = max(at[in], i)
	}
	for i, e := range x.Excepted {
		inOrder("short", short, fmt.Sprintf("excepted %v (", e.Prefix.Addr()), i < 10)
		inOrder("long", long, fmt.Sprintf("excepted %v (", e.Prefix.Addr()), true)
		inOrder("JSON", doc.String(), fmt.Sprintf(`"prefix": "%v"`, e.Prefix), true)
	}
	for i, d := range x.Dropped {
		inOrder("short", short, "dropped "+d.Entry+" of", i < 10)
		inOrder("long", long, "dropped "+d.Entry+" of", true)
		inOrder("JSON", doc.String(), fmt.Sprintf(`"entry": %q`, d.Entry), true)
	}
	for _, more := range []string{"and 15 more exceptions", "and 15 more dropped entries"} {
		if !strings.Contains(short, more) || strings.Contains(long, more) {
			t.Errorf("%q: not in the short text, or in the long one:\n%s\n%s", more, short, long)
		}
	}
}

// fill puts anything into a value, as a daemon of another version, or one that has been
// taken over, might.
func fill(r *rand.Rand, v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		const letters = "ab \n\x1b\t%é,/:"
		var b strings.Builder
		for range r.IntN(1 << r.IntN(9)) {
			b.WriteByte(letters[r.IntN(len(letters))])
		}
		v.SetString(b.String())
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(r.Uint64()) >> r.IntN(64) >> (64 - v.Type().Bits()))
	case reflect.Float64:
		v.SetFloat(float64(InSeconds(time.Duration(r.Uint64()) >> r.IntN(64))))
	case reflect.Bool:
		v.SetBool(r.IntN(2) == 0)
	case reflect.Pointer:
		if r.IntN(2) == 0 {
			v.Set(reflect.New(v.Type().Elem()))
			fill(r, v.Elem())
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), r.IntN(8), 10))
		for i := range v.Len() {
			fill(r, v.Index(i))
		}
	case reflect.Struct:
		switch v.Addr().Interface().(type) {
		case *time.Time:
			v.Set(reflect.ValueOf(at.Add(time.Duration(r.Uint64()) >> r.IntN(64))))
		case *netip.Prefix:
			v.Set(reflect.ValueOf(netip.PrefixFrom(addr(r.IntN(1000)), r.IntN(33))))
		default:
			for i := range v.NumField() {
				fill(r, v.Field(i))
			}
		}
	default:
		panic("a field of " + v.Type().String())
	}
}

// Whatever a status has in it fits the console, and the metrics stay what they are.
func TestTextOfAnything(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	for range 100 {
		var s Status
		fill(r, reflect.ValueOf(&s).Elem())
		for _, verbose := range []bool{false, true} {
			fitsConsole(t, text(t, &s, verbose))
		}
		var b bytes.Buffer
		if err := s.WriteMetrics(&b); err != nil {
			t.Fatal(err)
		}
		parseMetrics(t, b.String())
		if t.Failed() {
			return
		}
	}
}

// Times are shown in the zone that is asked for; all in one format.
func TestTextZone(t *testing.T) {
	var b bytes.Buffer
	if err := states[0].status().WriteText(&b, time.FixedZone("", 13*3600), false); err != nil {
		t.Fatal(err)
	}
	if got := b.String(); !strings.Contains(got, "next in 41m (2026-03-05 02:00)") || !strings.Contains(got, "2026-03-03 02:00") {
		t.Errorf("not the time in Auckland:\n%s", got)
	}
}

func TestWriteErrors(t *testing.T) {
	broken := errors.New("broken pipe")
	for _, err := range []error{healthy().WriteText(failing{broken}, time.UTC, false), healthy().WriteJSON(failing{broken}), healthy().WriteMetrics(failing{broken})} {
		if !errors.Is(err, broken) {
			t.Errorf("error of the writer: %v", err)
		}
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

func TestNeedsOwner(t *testing.T) {
	for _, x := range states {
		t.Run(x.name, func(t *testing.T) {
			if diff := cmp.Diff(x.needs, NeedsOwner(x.status())); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	for _, x := range []state{
		{"OK a list that just failed", func(s *Status) { s.Lists[0].Error, s.Lists[0].Kept, s.Lists[0].Failures = "timeout", true, 1 }, nil},
		{"OK a list as old as it may be", func(s *Status) { s.Lists[0].Fetched = at.Add(-3 * time.Hour) }, nil},
		{"bad a list a second older", func(s *Status) { s.Lists[0].Fetched = at.Add(-3*time.Hour - time.Second) },
			[]string{"block list basic.threatstop.local: stale, last fetched 3h ago (limit 3h)"}},
		{"OK lists are never stale", func(s *Status) { s.Lists[0].Fetched = at.Add(-300 * time.Hour); s.Poll.StaleAfter = 0 }, nil},
		{"OK not fetched yet", func(s *Status) { s.Lists[0].Fetched = time.Time{}; s.Started = at.Add(-time.Hour) }, nil},
		{"bad not fetched for too long", func(s *Status) { s.Lists[1].Fetched = time.Time{}; s.Started = at.Add(-4 * time.Hour) },
			[]string{"allow list mine.threatstop.local: stale, never fetched (limit 3h)"}},
		{"bad one cause, one item", func(s *Status) {
			for i := range s.Lists {
				s.Lists[i].Fetched, s.Lists[i].Error = time.Time{}, "dns list "+s.Lists[i].Name+": server a:53: timeout"
			}
			s.Started = at.Add(-4 * time.Hour)
			s.Troubles = []Trouble{{Text: s.Lists[0].Error}}
		}, []string{"block list basic.threatstop.local, allow list mine.threatstop.local: stale, never fetched (limit 3h): server a:53: timeout"}},
		{"bad a list that does not exist", func(s *Status) { s.Lists[0].Absent, s.Lists[0].Error = true, "NXDOMAIN" },
			[]string{"block list basic.threatstop.local: NXDOMAIN"}},
		{"bad held without end", func(s *Status) { s.Tables[1].Held = &Held{Why: "3 entries instead of 300"} },
			[]string{"pf table ThreatSTOP-Allow: held back: 3 entries instead of 300"}},
		{"OK a table that is held has other entries", func(s *Status) { s.Tables[0].Policy = 7 * s.Tables[0].Kernel; s.Tables[0].Loaded = false }, nil},
		{"bad a table that is gone", func(s *Status) { s.Tables[0].Kernel = -1 }, []string{"pf table ThreatSTOP-Block: pf has no such table"}},
		{"OK exceptions and dropped entries", func(s *Status) { s.Tables[0].ExceptedCount = 1000; s.Tables[0].DroppedCount = 1000 }, nil},
		{"OK drift that was mended", func(s *Status) { s.Tables[0].Drift.Mended = 10 }, nil},
		{"OK the last room", func(s *Status) { s.PF.Limit = s.PF.Used + s.PF.Reload }, nil},
		{"bad no room", func(s *Status) { s.PF.Limit = s.PF.Used + s.PF.Reload - 1 },
			[]string{"pf.conf cannot be loaded again (used 26430 + files 26427 > limit 52856): raise `set limit table-entries` in it, above the table lines"}},
		{"OK a limit that is not known", func(s *Status) { s.PF.Limit = 0 }, nil},
		{"OK the capture begins", func(s *Status) { s.Hits.Capturing = false }, nil},
		{"OK nothing is captured", func(s *Status) { s.Hits.Mode, s.Hits.Capturing, s.Hits.Error = "no", false, "x" }, nil},
		{"OK lost long ago", func(s *Status) { s.Hits.Drops = []Drop{{DropMemory, 1, at.Add(-24 * time.Hour)}} }, nil},
		{"OK lost nobody knows when", func(s *Status) { s.Hits.Drops = []Drop{{DropMemory, 1, time.Time{}}} }, nil},
		{"bad lost yesterday", func(s *Status) { s.Hits.Drops = []Drop{{DropMemory, 1, at.Add(time.Second - 24*time.Hour)}} },
			[]string{"1 hit lost: no room in memory, last 23h ago"}},
		{"OK dropped by the kernel", func(s *Status) {
			s.Hits.Drops = []Drop{{DropKernel, 1, at}, {DropNoPolicy, 1, at}, {DropUndecoded, 1, at}}
		}, nil},
		{"OK uploads fail since this morning", func(s *Status) { s.Uploads.Error, s.Uploads.FailingSince = "x", at.Add(-5*time.Hour) }, nil},
		{"bad uploads fail since yesterday", func(s *Status) { s.Uploads.Error, s.Uploads.FailingSince = "x", at.Add(-24*time.Hour) },
			[]string{"uploads have failed for 1d: x"}},
		{"bad uploads fail until the owner does something", func(s *Status) {
			s.Uploads.Error, s.Uploads.Advice, s.Uploads.FailingSince = "403", "register the device", at.Add(-time.Hour)
		}, []string{"uploads have failed for 1h: 403: register the device"}},
		{"bad the spool cannot be written", func(s *Status) { s.Uploads.SpoolError = "no space left on device" }, []string{"hits stay in memory: no space left on device"}},
		{"OK a spool of three quarters", func(s *Status) { s.Uploads.DiskUsed = 48 << 20 }, nil},
		{"bad a spool of more", func(s *Status) { s.Uploads.DiskUsed = 48<<20 + 1 },
			[]string{"the spool is filling up: 48M of 64M (SPOOL_MAX) in /var/spool/threatstop"}},
		{"bad one refused batch", func(s *Status) { s.Uploads.Aside = Volume{1, 1, 99} },
			[]string{"1 batch refused by the log server: 1 line set aside in /var/spool/threatstop/refused"}},
		{"OK a trouble that the figures show is one item", func(s *Status) {
			s.Tables[0].Held = &Held{Why: "3 entries instead of 300", Forcible: true}
			s.Troubles = []Trouble{{Text: "held back: 3 entries instead of 300", NeedsOwner: true}}
		}, []string{"pf table ThreatSTOP-Block: held back: 3 entries instead of 300; `threatstopd --sync-now --force` enforces it now"}},
		{"OK a trouble that passes", func(s *Status) { s.Troubles = []Trouble{{Text: "x"}} }, nil},
	} {
		t.Run(x.name, func(t *testing.T) {
			if diff := cmp.Diff(x.needs, NeedsOwner(x.status())); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestJSON(t *testing.T) {
	for _, name := range []string{"healthy", "everything", "empty"} {
		for _, x := range states {
			if x.name != name {
				continue
			}
			t.Run(name, func(t *testing.T) {
				s := x.status()
				var b bytes.Buffer
				if err := s.WriteJSON(&b); err != nil {
					t.Fatal(err)
				}
				golden(t, name+".json", b.String())
				// A program reads what the daemon meant.
				var again struct {
					NeedsOwner []string `json:"needs_owner"`
					Status
				}
				d := json.NewDecoder(&b)
				d.DisallowUnknownFields()
				if err := d.Decode(&again); err != nil {
					t.Fatal(err)
				}
				s.Format = Format
				if diff := cmp.Diff(*s, again.Status, prefixes, cmpopts.EquateEmpty()); diff != "" {
					t.Errorf("read again (-want +got):\n%s", diff)
				}
				if len(again.NeedsOwner) != len(x.needs) || again.NeedsOwner == nil {
					t.Errorf("needs_owner %q", again.NeedsOwner)
				}
			})
		}
	}
}

func TestSeconds(t *testing.T) {
	for _, tt := range []struct {
		d    time.Duration
		want string
	}{
		{0, "0"}, {time.Second, "1"}, {1500 * time.Millisecond, "1.5"}, {time.Microsecond, "0"}, {90 * time.Minute, "5400"}, {-time.Second, "-1"},
	} {
		b, err := json.Marshal(InSeconds(tt.d))
		if err != nil || string(b) != tt.want {
			t.Errorf("%v: %s, %v", tt.d, b, err)
		}
		var again Seconds
		if err := json.Unmarshal(b, &again); err != nil || again.Duration() != tt.d.Round(time.Millisecond) {
			t.Errorf("%v: read again as %v, %v", tt.d, again.Duration(), err)
		}
	}
	if err := json.Unmarshal([]byte(`"1s"`), new(Seconds)); err == nil {
		t.Error("a string is taken")
	}
}

func TestWords(t *testing.T) {
	for _, tt := range []struct {
		d    time.Duration
		want string
	}{
		{-time.Hour, "0s"}, {0, "0s"}, {59 * time.Second, "59s"}, {time.Minute, "1m"}, {time.Hour - 1, "59m"}, {time.Hour, "1h"},
		{time.Hour + 59*time.Second, "1h"}, {139 * time.Minute, "2h19m"}, {3 * time.Hour, "3h"}, {23*time.Hour + 59*time.Minute, "23h"},
		{24 * time.Hour, "1d"}, {50 * time.Hour, "2d2h"}, {1000 * time.Hour, "41d"},
	} {
		if got := age(tt.d); got != tt.want {
			t.Errorf("age of %v: %q, want %q", tt.d, got, tt.want)
		}
	}
	for _, tt := range []struct {
		n    int64
		want string
	}{{0, "0B"}, {10239, "10239B"}, {10240, "10K"}, {10<<20 - 1, "10239K"}, {64 << 20, "64M"}, {20 << 30, "20G"}} {
		if got := size(tt.n); got != tt.want {
			t.Errorf("%d bytes: %q, want %q", tt.n, got, tt.want)
		}
	}
	for _, tt := range []struct {
		counts []int64
		want   string
	}{
		{nil, ""}, {[]int64{0, 0}, "  "}, {[]int64{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, " .:-=+*#%@"}, {[]int64{1, 1 << 60}, ".@"}, {[]int64{5}, "@"}, {[]int64{-5, 1}, " @"},
	} {
		if got := bar(tt.counts); got != tt.want {
			t.Errorf("bar of %v: %q, want %q", tt.counts, got, tt.want)
		}
	}
}

func addr(i int) netip.Addr { return netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}) }

// ascii returns what is shown of a text.
func ascii(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case r < ' ' || r > '~':
			return '?'
		}
		return r
	}, s)
}
