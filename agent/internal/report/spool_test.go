package report

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"example.org/threatstopd/agent/internal/status"
	"example.org/threatstopd/capture"
	"example.org/threatstopd/capture/capturetest"
)

// judge is a log server that answers each batch by its text.
type judge struct {
	mu     sync.Mutex
	answer func(text string) int // a status; 0: no answer
	taken  []string              // texts that were answered with 2xx
	ids    []ID                  // of all attempts
	byID   map[ID]string
}

func (j *judge) Send(_ context.Context, id ID, text []byte) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.ids = append(j.ids, id)
	if was, ok := j.byID[id]; ok && was != string(text) {
		return errors.New("one id for two texts")
	}
	if j.byID == nil {
		j.byID = make(map[ID]string)
	}
	j.byID[id] = string(text)
	switch status := j.answer(string(text)); status {
	case 200:
		j.taken = append(j.taken, string(text))
		return nil
	case 0:
		return errors.New("no route to host")
	default:
		return &UploadError{Server: "https://logs.test/", Status: status}
	}
}

func (j *judge) set(answer func(string) int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.answer = answer
}

func always(status int) func(string) int { return func(string) int { return status } }

// lines returns those that were taken, sorted.
func (j *judge) lines() (all []string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, t := range j.taken {
		all = append(all, strings.Split(strings.TrimSuffix(t, "\n"), "\n")...)
	}
	slices.Sort(all)
	return all
}

// spooled has a reporter without network, with batches of one line each.
func spooled(t *testing.T, dir string, j *judge, change func(*Options)) *rig {
	t.Helper()
	return run(t, collector(t), capturetest.NewInterface(""), dir, func(o *Options) {
		o.Sender, o.BatchLines = j, 1
		if change != nil {
			change(o)
		}
	})
}

// each logs hits one by one, as the disk takes them.
func (g *rig) each(from, to int) {
	g.t.Helper()
	for n := from; n < to; n++ {
		g.burst(n, n+1)
		g.until("on disk", func(s Stats) bool { return s.Live.Hits == g.logged.Load() && s.InMemory == 0 })
	}
}

// Each answer of the server has its own consequence for the batch and for those behind it.
func TestAnswers(t *testing.T) {
	for _, tt := range []struct {
		status  int
		content bool
	}{
		{400, true}, {413, true}, {415, true}, {422, true},
		{401, false}, {403, false}, {404, false}, {405, false}, {407, false}, {408, false}, {421, false}, {425, false},
		{429, false}, {451, false}, {500, false}, {503, false}, {302, false}, {0, false},
	} {
		t.Run(fmt.Sprint(tt.status), func(t *testing.T) {
			dir := tempSpool(t)
			j := &judge{answer: always(tt.status)}
			g := spooled(t, dir, j, nil)
			g.each(0, 3)
			if tt.content {
				g.until("set aside", func(s Stats) bool { return s.Aside.Lines == 3 })
				equal(t, "failures", g.Stats().Failures, 0)
				equal(t, "set aside", textIn(t, g.refused), hitLines(0, 3))
			} else {
				// More than a few: the service may not know a new device for long.
				g.until("failures", func(s Stats) bool { return s.Failures > 10 })
				equal(t, "set aside", g.Stats().Aside.Lines, 0)
				equal(t, "waiting", g.Stats().Spool.Lines, 3)
			}
			balanced(t, g.Stats())
			// The status says what the server answered, and what to do where that does not pass by itself.
			var hits status.Hits
			var uploads status.Uploads
			g.Describe(&hits, &uploads)
			if tt.content {
				equal(t, "refused with", uploads.AsideError, strconv.Itoa(tt.status))
			}
			equal(t, "has advice", uploads.Advice != "", slices.Contains([]int{401, 403, 404, 405, 407, 421, 451}, tt.status))
			j.set(always(200))
			g.until("delivered", func(s Stats) bool { return tt.content || s.Delivered.Lines == 3 })
			g.RetryRefused()
			g.until("delivered", func(s Stats) bool { return s.Delivered.Lines == 3 && s.Aside.Lines == 0 })
			g.stop()
			equal(t, "taken", j.lines(), hitLines(0, 3))
			balanced(t, g.Stats())
			equal(t, "lost", g.Stats().Lost.Total(), 0)
			equal(t, "left", append(textIn(t, g.dir), textIn(t, g.refused)...), []string{})
		})
	}
}

// Where the server takes the next batch but never the oldest, that one is set aside.
func TestOldestIsPassedOver(t *testing.T) {
	bad := line(hit(0))
	j := &judge{answer: func(s string) int {
		if strings.Contains(s, bad) {
			return 403
		}
		return 200
	}}
	g := spooled(t, tempSpool(t), j, nil)
	g.each(0, 5)
	g.until("settled", func(s Stats) bool { return s.Delivered.Lines == 4 && s.Aside.Lines == 1 })
	g.stop()
	equal(t, "taken", j.lines(), hitLines(1, 5))
	equal(t, "set aside", textIn(t, g.refused), []string{bad})
	if n := slices.IndexFunc(j.ids, func(id ID) bool { return id != j.ids[0] }); n < maxRejected {
		t.Errorf("the oldest was tried %d times", n)
	}
	balanced(t, g.Stats())
}

// A batch that is too large is halved until it fits, under ids that are always the same; a
// line that is too large by itself is set aside.
func TestTooLarge(t *testing.T) {
	for _, disk := range []bool{true, false} {
		t.Run(fmt.Sprintf("disk=%v", disk), func(t *testing.T) {
			dir := tempSpool(t)
			giant := line(hit(5))
			j := &judge{answer: func(s string) int {
				if strings.Count(s, "\n") > 2 || strings.Contains(s, giant) {
					return 413
				}
				return 200
			}}
			g := spooled(t, dir, j, func(o *Options) { o.BatchLines = 9 })
			if !disk {
				os.RemoveAll(dir)
			}
			g.log(0, 9)
			g.until("settled", func(s Stats) bool { return s.Delivered.Lines+s.Aside.Lines+s.Lost.Refused == 9 })
			g.stop()
			want := slices.Concat(hitLines(0, 5), hitLines(6, 9))
			equal(t, "taken", j.lines(), want)
			if disk {
				equal(t, "set aside", textIn(t, g.refused), []string{giant})
			} else {
				equal(t, "lost or set aside", g.Stats().Lost.Refused+g.Stats().Aside.Lines, 1)
			}
			balanced(t, g.Stats())
			equal(t, "in memory", g.Stats().InMemory, 0)
		})
	}
	id := ID{1}
	if first, again := id.half(0), id.half(0); first == id.half(1) || first != again || first == id {
		t.Error("ids of halves")
	}
}

// What the server refused is sent again once a day, until it is too old.
func TestRefusedIsRetried(t *testing.T) {
	dir := tempSpool(t)
	synctest.Test(t, func(t *testing.T) {
		iface := capturetest.NewInterface("")
		src, _ := iface.Open(capture.Options{})
		j := &judge{answer: always(400)}
		r, err := New(Options{Config: Config{SpoolDir: dir, SpoolAge: 100 * time.Hour}, Source: src, Sender: j})
		if err != nil {
			t.Fatal(err)
		}
		r.SetPolicy(index(t), nil)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		iface.Log(hit(1))
		time.Sleep(99 * time.Hour)
		synctest.Wait()
		if n := len(j.ids); n < 4 || n > 6 {
			t.Errorf("%d attempts in four days", n)
		}
		time.Sleep(3 * time.Hour)
		synctest.Wait()
		equal(t, "too old", r.Stats().Lost.SpoolAge, 1)
		equal(t, "set aside", r.Stats().Aside.Lines, 0)
		cancel()
		<-done
	})
}

// The spool never takes more than its share of bytes and files; the oldest are dropped.
func TestSpoolIsBounded(t *testing.T) {
	dir := tempSpool(t)
	j := &judge{answer: always(0)}
	g := spooled(t, dir, j, func(o *Options) { o.SpoolMax = minSpoolMax; o.RetryMin, o.RetryMax = time.Hour, time.Hour })
	g.each(0, 1000)
	g.until("full", func(s Stats) bool { return s.Lost.SpoolFull > 0 && s.InMemory == 0 })
	s := g.Stats()
	if s.Spool.Bytes > minSpoolMax*7/8 {
		t.Errorf("%d bytes", s.Spool.Bytes)
	}
	left := int(s.Spool.Lines)
	got := textIn(t, g.dir)
	// The first is on its way, for all that is known.
	if want := hitLines(1000-left+1, 1000); !slices.Equal(got[len(got)-left+1:], want) && !slices.Equal(got, hitLines(1000-left, 1000)) {
		t.Errorf("%d left, not the newest", left)
	}
	j.set(always(400))
	g.Flush(t.Context())
	g.until("set aside", func(s Stats) bool { return s.Spool.Lines == 0 })
	if s := g.Stats(); s.Aside.Bytes > minSpoolMax/8 || s.Lost.Refused == 0 {
		t.Errorf("set aside: %d bytes, lost %d", s.Aside.Bytes, s.Lost.Refused)
	}
	g.stop()
	balanced(t, g.Stats())
}

// Files are the service user's alone, readable as text, and carry what is needed to go on.
func TestBatchFile(t *testing.T) {
	dir := tempSpool(t)
	g := spooled(t, dir, &judge{answer: always(0)}, func(o *Options) { o.BatchLines = 3 })
	g.log(0, 3)
	g.until("on disk", func(s Stats) bool { return s.Spool.Lines == 3 })
	g.stop()
	names, _ := filepath.Glob(filepath.Join(dir, "*"+batchSuffix))
	if len(names) != 1 {
		t.Fatal(names)
	}
	text, err := os.ReadFile(names[0])
	if err != nil {
		t.Fatal(err)
	}
	first, rest, _ := strings.Cut(string(text), "\n")
	if !strings.HasPrefix(first, headerMark) || rest != strings.Join(hitLines(0, 3), "\n")+"\n" {
		t.Errorf("%s", text)
	}
	filepath.Walk(dir, func(path string, fi os.FileInfo, err error) error {
		want := os.FileMode(0o600)
		if fi.IsDir() {
			want = 0o700
		}
		if fi.Mode().Perm() != want {
			t.Errorf("%s has mode %04o", path, fi.Mode().Perm())
		}
		return err
	})
}

// Damage costs the batch that it hits, which is counted, and none other.
func TestDamage(t *testing.T) {
	for name, damage := range map[string]func(b []byte) []byte{
		"cut in the text":     func(b []byte) []byte { return b[:len(b)-10] },
		"cut in the header":   func(b []byte) []byte { return b[:30] },
		"empty":               func(b []byte) []byte { return nil },
		"a bit of the text":   func(b []byte) []byte { b[len(b)-5] ^= 1; return b },
		"more behind it":      func(b []byte) []byte { return append(b, "more\n"...) },
		"something else":      func(b []byte) []byte { return []byte("hello\n") },
		"zeros":               func(b []byte) []byte { clear(b); return b },
		"a header of its own": func(b []byte) []byte { return []byte(headerMark + `{"lines":-1,"bytes":99999999999}` + "\n") },
	} {
		t.Run(name, func(t *testing.T) {
			dir := tempSpool(t)
			j := &judge{answer: always(0)}
			g := spooled(t, dir, j, nil)
			g.each(0, 3)
			g.until("on disk", func(s Stats) bool { return s.Spool.Lines == 3 })
			g.stop()
			names, _ := filepath.Glob(filepath.Join(dir, "*"+batchSuffix))
			b, _ := os.ReadFile(names[1])
			os.WriteFile(names[1], damage(b), 0o600)
			j.set(always(200))
			var troubles sync.Map
			g = spooled(t, dir, j, func(o *Options) { o.Trouble = func(k, s string) { troubles.Store(k, s) } })
			g.until("delivered", func(s Stats) bool { return s.Delivered.Lines == 2 && s.Spool.Lines == 0 })
			g.stop()
			_, reported := troubles.Load(TroubleFiles)
			if lost := g.Stats().Lost.SpoolDamage; lost != 1 && !reported {
				t.Errorf("lost %d, and nothing is reported", lost)
			}
			equal(t, "taken", len(j.lines()), 2)
		})
	}
}

// What others put into the directory is neither followed nor waited for; it is reported, and
// reporting continues.
func TestStrangeFiles(t *testing.T) {
	name := (&batch{id: ID{9}, created: epoch}).fileName()
	for what, put := range map[string]func(path, outside string) error{
		"a symbolic link":   func(path, outside string) error { return os.Symlink(outside, path) },
		"a link to nothing": func(path, outside string) error { return os.Symlink(outside+"x", path) },
		"a FIFO":            func(path, _ string) error { return syscall.Mkfifo(path, 0o600) },
		"a directory":       func(path, _ string) error { return os.MkdirAll(filepath.Join(path, "x"), 0o700) },
		"another's file": func(path, _ string) error {
			return errors.Join(os.WriteFile(path, nil, 0o600), os.Chown(path, 12345, 12345))
		},
		"a gigabyte of nothing": func(path, _ string) error {
			return errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, 1<<30))
		},
		"a file without meaning": func(path, _ string) error { return os.WriteFile(path, []byte("x"), 0o600) },
	} {
		for _, name := range []string{name, "core", refusedDir, watermarkFile, countersFile, "spool-0000000000000001.seg", name + tempSuffix} {
			t.Run(what+" as "+name, func(t *testing.T) {
				dir := tempSpool(t)
				outside := filepath.Join(filepath.Dir(dir), "outside")
				if err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(outside, []byte("mine"), 0o600), put(filepath.Join(dir, name), outside)); err != nil {
					t.Skip(err)
				}
				var mu sync.Mutex
				troubles := ""
				j := &judge{answer: always(200)}
				g := spooled(t, dir, j, func(o *Options) {
					o.Trouble = func(k, s string) {
						mu.Lock()
						defer mu.Unlock()
						troubles += s
					}
				})
				g.each(0, 3)
				g.until("seen", func(s Stats) bool { return s.Live.Hits == 3 })
				g.flush()
				j.set(always(400))
				g.each(3, 4)
				g.until("seen", func(s Stats) bool { return s.Live.Hits == 4 })
				g.Flush(t.Context())
				g.until("settled", func(s Stats) bool { return s.InMemory+s.Spool.Lines == 0 })
				g.stop()
				equal(t, "taken", j.lines(), hitLines(0, 3))
				balanced(t, g.Stats())
				if b, _ := os.ReadFile(outside); string(b) != "mine" {
					t.Errorf("the file outside has become %q", b)
				}
				known := name == watermarkFile || name == countersFile || strings.HasSuffix(name, tempSuffix) || name == refusedDir && what == "a directory" ||
					strings.HasSuffix(name, ".seg") && what == "a file without meaning"
				if mu.Lock(); troubles == "" && !known {
					t.Error("nothing is reported")
				}
				mu.Unlock()
			})
		}
	}
}

// A real disk that is really full: hits stay in memory and go to the server from there.
func TestFullDisk(t *testing.T) {
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		t.Skip("needs root on Linux, to mount a small file system")
	}
	mount := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=256k,mode=0700", "none", mount).CombinedOutput(); err != nil {
		t.Skipf("mount: %v: %s", err, out)
	}
	t.Cleanup(func() { exec.Command("umount", mount).Run() })
	dir := filepath.Join(mount, "spool")
	j := &judge{answer: always(0)}
	var mu sync.Mutex
	troubles := map[string]string{}
	g := spooled(t, dir, j, func(o *Options) {
		o.Trouble = func(k, s string) { mu.Lock(); defer mu.Unlock(); troubles[k] = s }
	})
	// Another program fills the disk.
	junk := filepath.Join(mount, "junk")
	f, _ := os.Create(junk)
	io.Copy(f, bytes.NewReader(make([]byte, 1<<20)))
	f.Close()
	g.burst(0, 20)
	g.until("memory full", func(s Stats) bool { return s.SpoolError != "" && s.Lost.Memory > 0 })
	mu.Lock()
	if s := troubles[TroubleSpool]; !strings.Contains(s, "no space left on device") || !strings.Contains(s, dir) {
		t.Errorf("trouble %q", s)
	}
	mu.Unlock()
	j.set(always(200))
	g.until("delivered from memory", func(s Stats) bool { return s.InMemory == 0 })
	os.Remove(junk)
	j.set(always(0))
	g.burst(20, 22)
	g.until("on disk", func(s Stats) bool { return s.Spool.Lines == 2 })
	mu.Lock()
	equal(t, "trouble", troubles[TroubleSpool], "")
	mu.Unlock()
	j.set(always(200))
	g.flush()
	g.stop()
	balanced(t, g.Stats())
	equal(t, "lost but for memory", g.Stats().Lost.Total()-g.Stats().Lost.Memory, 0)
}

// What version 1 spooled is sent, but for what it had delivered.
func TestVersion1(t *testing.T) {
	dir := tempSpool(t)
	if err := os.CopyFS(dir, os.DirFS("testdata/version1")); err != nil {
		t.Fatal(err)
	}
	filepath.Walk(dir, func(path string, fi os.FileInfo, _ error) error {
		return os.Chmod(path, map[bool]os.FileMode{true: 0o700, false: 0o600}[fi.IsDir()])
	})
	j := &judge{answer: always(0)}
	r, err := New(Options{Config: Config{SpoolDir: dir}, Source: newTorrent(1, 0, 0), Sender: j})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "waiting", textIn(t, r.dir), "[batch 1 batch 1 batch 1 batch 2 batch 2 batch 2 batch 3 batch 3 batch 3]")
	equal(t, "refused", textIn(t, r.refused), "[refused]")
	equal(t, "ids", r.queue[0].id, ID{2})
	if left, _ := filepath.Glob(filepath.Join(dir, "*.seg")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func FuzzVersion1(f *testing.F) {
	b, _ := os.ReadFile("testdata/version1/spool-0000000000000001.seg")
	f.Add(b)
	f.Add(b[3:])
	f.Fuzz(func(t *testing.T, b []byte) {
		for x := range legacyRecords(b) {
			if len(x.batch.text) > len(b) {
				t.Fatal("more than there is")
			}
		}
	})
}

// FuzzBatchFile puts foreign bytes in the place of a batch: what is taken is what the header says.
func FuzzBatchFile(f *testing.F) {
	h, _ := json.Marshal(header{Lines: 1, Bytes: 2, CRC: 1})
	f.Add([]byte(headerMark + string(h) + "\nx\n"))
	name := (&batch{id: ID{1}, created: epoch}).fileName()
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := spoolDir(t.TempDir())
		os.WriteFile(filepath.Join(string(dir), name), b, 0o600)
		batches, _, strange, err := dir.load("")
		if err != nil || len(batches)+len(strange) != 1 {
			t.Fatal(batches, strange, err)
		}
		for _, x := range batches {
			if text, _, err := readText(filepath.Join(string(dir), x.name)); err == nil && !bytes.HasSuffix(b, text) {
				t.Fatal("another text")
			}
		}
	})
}

// Counters and history outlive the process, and say since when they count.
func TestCountersSurvive(t *testing.T) {
	dir := tempSpool(t)
	j := &judge{answer: always(200)}
	now := epoch.Add(time.Minute)
	clock := func(o *Options) { o.Now = func() time.Time { return now } }
	g := spooled(t, dir, j, clock)
	g.each(0, 5)
	g.until("seen", func(s Stats) bool { return s.Live.Hits == 5 })
	g.flush()
	g.stop()
	j.set(always(0)) // what comes now is not delivered
	now = now.Add(time.Hour)
	g = spooled(t, dir, j, clock)
	g.iface.Log(hit(6))
	g.until("seen", func(s Stats) bool { return s.Live.Seen == 1 })
	var h status.Hits
	var u status.Uploads
	g.Describe(&h, &u)
	equal(t, "matched", h.Matched, 6)
	equal(t, "of list one", h.Lists[0], status.ListHits{List: "one", Hits: 6})
	equal(t, "hour before", h.Hourly.Counts[status.HistoryHours-2], 6)
	equal(t, "day", h.Day.Addresses, []status.Counted{{Key: "198.51.100.7", Hits: 6}})
	equal(t, "delivered", u.Delivered.Lines, 5)
	g.stop()
	os.WriteFile(filepath.Join(dir, countersFile), []byte(`{"history":{"slots":7}}`), 0o600)
	g = spooled(t, dir, j, clock)
	equal(t, "begins again", g.events.count("counters not readable: counting from now on"), 1)
	g.stop()
}
