//go:build unix

package report

import (
	"bytes"
	"compress/gzip"
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"example.org/threatstopd/capture/capturetest"
)

// What lies under the watermark's names and is none of ours is neither followed nor
// waited for, and in the end the watermark is there.
func TestStrangeWatermark(t *testing.T) {
	for _, name := range []string{watermarkFile, watermarkFile + ".new"} {
		for what, put := range map[string]func(path, outside string) error{
			"a symbolic link":    func(path, outside string) error { return os.Symlink(outside, path) },
			"a FIFO":             func(path, _ string) error { return syscall.Mkfifo(path, 0o600) },
			"a second name":      func(path, outside string) error { return os.Link(outside, path) },
			"an empty directory": func(path, _ string) error { return os.Mkdir(path, 0o700) },
			"a gigabyte of nothing": func(path, _ string) error {
				return errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, 1<<30))
			},
			"a directory": func(path, _ string) error {
				return errors.Join(os.Mkdir(path, 0o700), os.WriteFile(filepath.Join(path, "x"), nil, 0o600))
			},
		} {
			t.Run(name+" is "+what, func(t *testing.T) {
				base := t.TempDir()
				outside, dir := filepath.Join(base, "outside"), filepath.Join(base, "spool")
				if err := errors.Join(os.WriteFile(outside, []byte("mine"), 0o600), os.Mkdir(dir, 0o700)); err != nil {
					t.Fatal(err)
				}
				if err := put(filepath.Join(dir, name), outside); err != nil {
					t.Skip(err)
				}
				done := make(chan struct{})
				go func() {
					defer close(done)
					d := spoolDir(dir)
					if _, err := d.readWatermark(); err == nil {
						t.Error("read")
					}
					w := watermark{Gen: 7, Done: timeMark(epoch)}
					err := d.writeWatermark(&w)
					if got, e := d.readWatermark(); what != "a directory" && !(name == watermarkFile && what == "an empty directory") && (err != nil || e != nil || got.Gen != 7) {
						t.Errorf("written: %v, read: %v, %+v", err, e, got)
					}
				}()
				select {
				case <-done:
				case <-time.After(time.Minute):
					t.Fatal("it waits")
				}
				if got, _ := os.ReadFile(outside); string(got) != "mine" {
					t.Errorf("the file outside has become %q", got)
				}
			})
		}
	}
}

// A log server that takes a byte now and then and never answers: each attempt ends by
// its deadline, hits go on being spooled, and all of them are delivered when it has
// become a proper one.
func TestSlowlorisCollector(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for b := make([]byte, 1); ; time.Sleep(10 * time.Millisecond) {
					if _, err := c.Read(b); err != nil {
						return
					}
				}
			}()
		}
	}()
	slow, err := NewUploader(Config{URL: "http://" + l.Addr().String(), DeviceID: "tdid_abcd1234",
		timeouts: timeouts{Response: 100 * time.Millisecond, Total: 300 * time.Millisecond}})
	if err != nil {
		t.Fatal(err)
	}
	defer slow.http.CloseIdleConnections()
	col := collector(t)
	sending := &switched{}
	sending.to(slow)
	g := run(t, col, capturetest.NewInterface(""), tempSpool(t), func(o *Options) { o.BatchLines, o.Sender = 40, sending })
	g.log(0, 300)
	g.until("failures", func(s Stats) bool { return s.Failures >= 2 && s.Live.Hits == 300 })
	g.until("all on disk", func(s Stats) bool { return s.InMemory == 20 })
	if s := g.Stats(); s.Spool.Lines != 280 || s.Lost.Total() != 0 || s.Delivered.Lines != 0 {
		t.Errorf("while it is slow: %+v", s)
	}
	sending.to(sender(t, col, patience))
	g.until("recovered", func(s Stats) bool { return s.Spool.Batches == 0 })
	g.stop()
	delivered(t, col.Receipts(), hitLines(0, 300))
	balanced(t, g.Stats())
}

// Among pflogd's files lie others that mean no good: bombs, garbage, links, FIFOs. What
// was logged while the agent was down is reported all the same, and little memory is
// taken.
func TestCatchUpAmongHostileFiles(t *testing.T) {
	h := newHost(t, 0)
	g := h.up(nil, nil)
	h.log(0, 50)
	g.until("live", func(s Stats) bool { return s.Live.Hits == 50 })
	// This one pflogd has not seen, so that it is looked for in all of its files.
	h.iface.Log(hit(50))
	h.want = append(h.want, line(hit(50)))
	g.until("live", func(s Stats) bool { return s.Live.Hits == 51 })
	g.stop()
	h.log(51, 100)
	if err := h.pflogd.flush(); err != nil {
		t.Fatal(err)
	}
	head, err := os.ReadFile(h.pflogd.path)
	if err != nil {
		t.Fatal(err)
	}
	const fileHeader = 24
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	// A million records of no packet, long ago.
	for _, b := range [][]byte{head[:fileHeader], make([]byte, 16<<20)} {
		if _, err := z.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	giant := append(bytes.Clone(head[:fileHeader]), bytes.Repeat([]byte{0xff}, 64)...)
	path, outside := h.pflogd.path, filepath.Join(t.TempDir(), "outside")
	if err := errors.Join(
		os.WriteFile(outside, head, 0o600),
		os.WriteFile(path+".0.gz", bomb.Bytes(), 0o600),
		os.WriteFile(path+".1.gz", []byte("\x1f\x8b\x08 no gzip"), 0o600),
		os.WriteFile(path+".2", giant, 0o600),
		os.WriteFile(path+".3", bytes.Repeat([]byte("text\n"), 1000), 0o600),
		syscall.Mkfifo(path+".4", 0o600),
		os.Symlink(outside, path+".5"),
		os.Mkdir(path+".6", 0o700),
	); err != nil {
		t.Skip(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	g = h.up(&rig{quiet: true}, func(o *Options) { o.Now = func() time.Time { return hit(1000).Time } })
	g.caughtUp()
	g.stop()
	runtime.ReadMemStats(&after)
	h.check()
	if n := after.TotalAlloc - before.TotalAlloc; n > 64<<20 {
		t.Errorf("%d MiB allocated", n>>20)
	}
	if n := g.events.count("passed over"); n < 2 {
		t.Errorf("%d files were reported:\n%s", n, g.events)
	}
}
