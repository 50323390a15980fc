package report

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/agent/internal/privsep"
	"example.org/threatstopd/agent/internal/status"
	"example.org/threatstopd/capture"
)

// A status is main's part and the role's.
func TestStatus(t *testing.T) {
	g := newRoleRig(t)
	g.start(set(t, "in force", "10.0.0.0/8"))
	g.troubled(TroubleCapture, "")
	s := g.status()
	if s.Version != "main's" || !s.Enforced || s.Poll.Interval.Duration() != time.Hour {
		t.Errorf("main's part: %+v", s)
	}
	if s.Hits.Mode != "hits" || s.Hits.Interface != "pflog0" || s.Uploads.Server != "logs.test" || s.Uploads.SpoolDir != filepath.Join(g.dir, "spool") {
		t.Errorf("the role's part: %+v %+v", s.Hits, s.Uploads)
	}
	g.until("capturing", func() bool { return g.status().Hits.Capturing })
	g.packet("10.1.2.3")
	g.packet("11.1.2.3")
	g.until("seen", func() bool { return g.status().Hits.Seen == 2 })
	s = g.status()
	if s.Hits.Matched != 1 || len(s.Hits.Lists) == 0 || s.Hits.Lists[0] != (status.ListHits{List: "in force", Hits: 1}) {
		t.Errorf("hits: %+v", s.Hits)
	}
	if a := s.Hits.Hour.Addresses; len(a) != 1 || a[0].Key != "10.1.2.3" {
		t.Errorf("history: %+v", s.Hits.Hour)
	}
	g.client.LogStatus()
	g.until("reported", func() bool { return g.said("status of reporting") == 1 })
	g.stop()
	if g.logs.count() != 1 {
		t.Errorf("delivered: %q", g.logs.lines)
	}
}

// The newest status that main has sent is served, before and after a restart of the role, and
// a client that had main sync sees what that did.
func TestStatusIsPushed(t *testing.T) {
	g := newRoleRig(t)
	g.options.Sync = func(context.Context, bool, func(string, bool)) int {
		g.client.Status(status.Status{Version: "synced", Enforced: true, Now: time.Now()})
		return 0
	}
	g.start(nil)
	for _, version := range []string{"a", "b"} {
		g.client.Status(status.Status{Version: version, Now: time.Now()})
		g.until("served", func() bool { return g.status().Version == version })
	}
	if _, err := g.dial().Sync(context.Background(), false, nil); err != nil {
		t.Fatal(err)
	}
	if s := g.status(); s.Version != "synced" || !s.Enforced || s.Reported.IsZero() || s.Hits.Mode != "hits" {
		t.Errorf("%+v", s)
	}
	g.client.keeper.Restart()
	g.isUp(2)
	if s := g.status(); s.Version != "synced" || !s.Enforced {
		t.Errorf("after a restart: %+v", s)
	}
}

// A sync is asked of main; what it says and its exit code come back, and the hits that
// wait are delivered.
func TestSync(t *testing.T) {
	g := newRoleRig(t)
	g.start(set(t, "test", "10.0.0.0/8"))
	g.until("capturing", func() bool { return g.status().Hits.Capturing })
	g.packet("10.0.0.1")
	g.until("seen", func() bool { return g.status().Hits.Seen == 1 })
	for _, force := range []bool{false, true} {
		var said []string
		exit, err := g.dial().Sync(context.Background(), force, func(line string, warn bool) { said = append(said, fmt.Sprint(line, warn)) })
		if err != nil || exit != 1 || !slices.Equal(said, []string{"fetchedfalse", "held backtrue"}) {
			t.Errorf("exit code %d, %q, %v", exit, said, err)
		}
		if g.logs.count() != 1 {
			t.Errorf("%d lines delivered", g.logs.count())
		}
	}
	if !slices.Equal(g.syncs, []bool{false, true}) {
		t.Errorf("asked for %v", g.syncs)
	}
}

// A reload during a sync waits for its result; a sync that is cut short says what to do.
func TestSyncDuringASetUp(t *testing.T) {
	for _, stop := range []bool{false, true} {
		t.Run(fmt.Sprintf("stop=%v", stop), func(t *testing.T) {
			g := newRoleRig(t)
			begun, goOn := make(chan bool), make(chan bool)
			g.options.Sync = func(_ context.Context, _ bool, say func(string, bool)) int {
				close(begun)
				<-goOn
				say("fetched", false)
				return 3
			}
			g.start(set(t, "test", "10.0.0.0/8"))
			g.until("capturing", func() bool { return g.status().Hits.Capturing })
			var said []string
			ended := make(chan error, 1)
			exit := 0
			c := g.dial()
			go func() {
				var err error
				exit, err = c.Sync(context.Background(), false, func(line string, _ bool) { said = append(said, line) })
				ended <- err
			}()
			<-begun
			want, code := []string{"fetched"}, 3
			if stop {
				want, code = []string{errCutShort.Error()}, 1
				go g.stop()
			} else {
				other := g.options.Config
				other.CAFile = "/ca.pem"
				g.client.SetUp(other)
				time.Sleep(100 * time.Millisecond)
				close(goOn)
			}
			if err := <-ended; err != nil || exit != code || !slices.Equal(said, want) {
				t.Errorf("exit code %d, %q, %v", exit, said, err)
			}
			if stop {
				close(goOn)
			} else {
				g.isUp(2)
			}
		})
	}
}

// Without an interface the sockets are served, and the role is started anew until there
// is one. When it goes away what was seen is delivered.
func TestInterfaceComesAndGoes(t *testing.T) {
	g := newRoleRig(t)
	g.pflog.Destroy()
	g.start(set(t, "test", "10.0.0.0/8"))
	g.troubled(TroubleCapture, "hits are not read: pflog interface gone")
	if s := g.status(); s.Hits.Capturing || !strings.Contains(s.Hits.Error, "pflog interface gone") || !s.Enforced {
		t.Errorf("%+v", s.Hits)
	}
	g.pflog.Create()
	g.troubled(TroubleCapture, "")
	g.hit("10.0.0.1")
	g.pflog.Destroy()
	g.troubled(TroubleCapture, "hits are not read: capture: pflog interface gone")
	g.until("delivered", func() bool { return g.logs.count() > 0 })
	g.pflog.Create()
	g.troubled(TroubleCapture, "")
	g.hit("10.0.0.1")
	if len(g.down) > 0 {
		t.Errorf("died: %q", g.down)
	}
}

// With UPLOAD=no the role serves the sockets.
func TestNoReporting(t *testing.T) {
	g := newRoleRig(t)
	g.env.OpenPflog = func(capture.Options) (capture.Source, error) {
		t.Error("pflog was opened")
		return nil, errGone
	}
	g.options.Config = Config{Mode: "no", Interface: "pflog0"}
	g.start(set(t, "test", "10.0.0.0/8"))
	if s := g.status(); s.Hits.Mode != "no" || s.Hits.Capturing || s.Hits.Error != "" || !s.Enforced {
		t.Errorf("%+v", s.Hits)
	}
	g.client.LogStatus()
	g.stop()
	maps.DeleteFunc(g.trouble, func(_, text string) bool { return text == "" })
	if len(g.trouble) > 0 || len(g.down) > 0 || g.said("status of reporting") > 0 {
		t.Errorf("%q %q", g.trouble, g.down)
	}
}

// What is wrong with the spool directory is reported until it is resolved.
func TestSpoolRefused(t *testing.T) {
	g := newRoleRig(t)
	spool := filepath.Join(g.dir, "spool")
	if err := os.Chmod(spool, 0o755); err != nil {
		t.Fatal(err)
	}
	g.start(nil)
	g.troubled(TroubleCapture, "hits are not read: spool directory "+spool+": mode 0755 lets others in")
	if err := os.Chmod(spool, 0o700); err != nil {
		t.Fatal(err)
	}
	g.troubled(TroubleCapture, "")
}

// A spool directory that is missing is made for the service user.
func TestMakesTheSpool(t *testing.T) {
	g := newRoleRig(t)
	spool := g.options.Config.SpoolDir
	if err := os.Remove(spool); err != nil {
		t.Fatal(err)
	}
	const uid, gid = 12345, 54321
	g.options.Config.Confinement = privsep.Confinement{UID: uid, GID: gid}
	g.start(nil)
	g.until("capturing", func() bool { return g.status().Hits.Capturing })
	st, err := os.Stat(spool)
	if err != nil || st.Mode().Perm() != 0o700 {
		t.Fatalf("%v, %v", st, err)
	}
	if owner, ok := st.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 && (owner.Uid != uid || owner.Gid != gid) {
		t.Errorf("it belongs to %d:%d", owner.Uid, owner.Gid)
	}
}

// A spool from the time when there was no service user, and root did that work, becomes
// that user's, with the hits that wait in it.
func TestTakesOverTheSpoolOfRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root gives files away")
	}
	const uid, gid = 12345, 54321
	owner := func(path string) (uint32, uint32) {
		t.Helper()
		fi, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		st := fi.Sys().(*syscall.Stat_t)
		return st.Uid, st.Gid
	}
	for _, c := range []struct {
		name    string
		mode    os.FileMode
		of      int
		becomes uint32
	}{
		{"root's alone", 0o700, 0, uid},
		{"others can look into it", 0o755, 0, 0},
		{"somebody else's", 0o700, 777, 777},
	} {
		dir := filepath.Join(t.TempDir(), "spool")
		waits, twice, link := filepath.Join(dir, "waits"), filepath.Join(dir, "twice"), filepath.Join(dir, "link")
		outside := filepath.Join(t.TempDir(), "outside")
		for _, err := range []error{
			os.Mkdir(dir, 0o700), os.WriteFile(waits, nil, 0o600), os.WriteFile(twice, nil, 0o600), os.WriteFile(outside, nil, 0o600),
			os.Link(twice, filepath.Join(filepath.Dir(dir), "second")), os.Symlink(outside, link), os.Chmod(dir, c.mode), os.Chown(dir, c.of, 0),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := Give(dir, uid, gid); err != nil {
			t.Error(err)
		}
		if u, _ := owner(dir); u != c.becomes {
			t.Errorf("%s: the directory belongs to %d", c.name, u)
		}
		want := uint32(0)
		if c.becomes == uid {
			want = uid
		}
		if u, g := owner(waits); u != want || want != 0 && g != gid {
			t.Errorf("%s: a file in it belongs to %d:%d", c.name, u, g)
		}
		for _, path := range []string{twice, link, outside} {
			if u, _ := owner(path); u != 0 {
				t.Errorf("%s: %s belongs to %d", c.name, path, u)
			}
		}
	}
}

// The role opens all that needs root before it gives that up, in the order in which no
// packet is missed.
func TestOpensBeforeItIsConfined(t *testing.T) {
	g := newRoleRig(t)
	r := new(recording)
	open := g.env.OpenPflog
	g.env.OpenPflog = func(o capture.Options) (capture.Source, error) {
		r.note("pflog " + o.Interface)
		return open(o)
	}
	g.env.FlushPflogd = func() error {
		r.note("flush")
		return errGone
	}
	g.env.Confine = r
	g.options.Config.Interface = "pflog3"
	g.options.Config.LogFile = filepath.Join(g.dir, "no", "pflog")
	g.options.Config.Confinement = privsep.Confinement{UID: 7, Paths: map[string]string{"SPOOL_DIR": "/spool"}}
	g.start(set(t, "test", "10.0.0.0/8"))
	// That pflogd's files cannot be opened keeps nobody from reading.
	g.hit("10.0.0.1")
	if want := []string{"pflog pflog3", "flush", "confine report 7 /spool"}; !slices.Equal(r.steps, want) {
		t.Errorf("did %q, want %q", r.steps, want)
	}
	if g.said("pflogd not asked to write out") != 1 {
		t.Error("it is not reported that pflogd was not asked")
	}
}

// A role that cannot be confined does not work.
func TestNotConfined(t *testing.T) {
	g := newRoleRig(t)
	g.env.Confine = &recording{err: errors.New("unveil: not permitted")}
	g.start(nil)
	g.until("down", func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return len(g.down) > 0 && g.down[0] == "unveil: not permitted"
	})
	if g.up > 0 {
		t.Error("it was ready")
	}
}

// A setup that is the same starts nothing anew; another does, and one with certificates
// always, since they may be others now.
func TestSetUp(t *testing.T) {
	g := newRoleRig(t)
	g.start(nil)
	g.isUp(1)
	same := g.options.Config
	g.client.SetUp(same)
	other := same
	other.Interface = "pflog9"
	g.client.SetUp(other)
	g.isUp(2)
	if s := g.status(); s.Hits.Interface != "pflog9" {
		t.Errorf("%+v", s.Hits)
	}
	other.CAFile = "/ca.pem"
	g.client.SetUp(other)
	g.isUp(3)
	g.client.SetUp(other)
	g.isUp(4)
	if len(g.down) > 0 {
		t.Errorf("died: %q", g.down)
	}
}

// Of policies that come faster than they are taken the newest counts.
func TestNewestPolicyWins(t *testing.T) {
	g := newRoleRig(t)
	g.start(nil)
	g.until("capturing", func() bool { return g.status().Hits.Capturing })
	for i := range 50 {
		g.client.Policy(set(t, "test", fmt.Sprintf("10.0.%d.0/24", i), "10.9.9.9/32"), nil)
	}
	g.hit("10.0.49.1")
	g.packet("10.0.48.1")
	g.hit("10.9.9.9")
	if n := g.status().Hits.Lists[0].Hits; int64(n) != g.status().Hits.Matched {
		t.Errorf("%d hits of %d", n, g.status().Hits.Matched)
	}
	g.client.conn.Close() // it dies, and has the policy again when it is back
	g.isUp(2)
	g.hit("10.0.49.1")
	g.client.Policy(set(t, "another", "10.0.49.0/24", "10.9.9.9/32"), nil)
	g.until("in force", func() bool {
		g.packet("10.9.9.9")
		return slices.ContainsFunc(g.status().Hits.Lists, func(l status.ListHits) bool { return l.List == "another" && l.Hits > 0 })
	})
}

// What main would never say ends the role.
func TestRoleRefuses(t *testing.T) {
	s := set(t, "test", "10.0.0.0/8")
	head := newHead(s, nil)
	wrong := head
	wrong.Sum = [32]byte{}
	more := head
	more.V4 = 2
	huge := head
	huge.V4 = 1 << 30
	var chunk []byte
	for c := range s.Chunks(chunkSize) {
		chunk = slices.Clone(c)
	}
	type message struct {
		kind byte
		v    any // bytes as they are, else as JSON
	}
	for name, tc := range map[string]struct {
		messages []message
		want     string
	}{
		"chunk of nothing":  {[]message{{kindChunk, chunk}}, "a chunk of none"},
		"commit of nothing": {[]message{{kindCommit, []byte{}}}, "commit of none"},
		"another sum":       {[]message{{kindBegin, wrong}, {kindChunk, chunk}, {kindCommit, []byte{}}}, "checksum of the set"},
		"too little":        {[]message{{kindBegin, more}, {kindChunk, chunk}, {kindCommit, []byte{}}}, "2 and 0 were announced"},
		"too much":          {[]message{{kindBegin, head}, {kindChunk, chunk}, {kindChunk, chunk}}, "more than the 1"},
		"too many":          {[]message{{kindBegin, huge}}, "too many"},
		"committed twice":   {[]message{{kindBegin, head}, {kindChunk, chunk}, {kindCommit, []byte{}}, {kindCommit, []byte{}}}, "commit of none"},
		"no status":         {[]message{{kindStatus, []byte("{}")}}, "status of format 0"},
		"no exit code":      {[]message{{kindDone, []byte{}}}, "no exit code"},
		"unknown":           {[]message{{99, []byte{}}}, "unknown kind"},
	} {
		t.Run(name, func(t *testing.T) {
			g := newRoleRig(t)
			ours, theirs := net.Pipe()
			ended := make(chan error, 1)
			go func() { ended <- Body(g.env)(theirs, nil); theirs.Close() }()
			c := privsep.NewConn(ours, privsep.Limits{1: 16384, 4: 0, kindTrouble: 16 * maxWhy, kindAskSync: 0})
			go func() {
				for {
					if _, _, err := c.Next(); err != nil {
						return
					}
				}
			}()
			if err := c.SendJSON(kindSetup, g.options.Config); err != nil {
				t.Fatal(err)
			}
			for _, m := range tc.messages {
				if b, ok := m.v.([]byte); ok {
					c.Send(m.kind, b)
				} else {
					c.SendJSON(m.kind, m.v)
				}
			}
			select {
			case err := <-ended:
				if err == nil || !strings.Contains(err.Error(), tc.want) {
					t.Errorf("ended with %v, want %q", err, tc.want)
				}
			case <-time.After(roleDeadline):
				t.Error("it goes on")
			}
		})
	}
}

// A role takes its setup whole, or not at all.
func TestSetupRefused(t *testing.T) {
	for name, tc := range map[string]struct{ setup, want string }{
		"unknown field":      {`{"Mode":"hits","Root":true}`, "unknown field"},
		"listener announced": {`{"Listeners":[true]}`, "more listeners announced than inherited"},
		"no object":          {`"hits"`, "setup"},
	} {
		t.Run(name, func(t *testing.T) {
			g := newRoleRig(t)
			ours, theirs := net.Pipe()
			defer ours.Close()
			ended := make(chan error, 1)
			go func() { ended <- Body(g.env)(theirs, nil); theirs.Close() }()
			go func() {
				b := make([]byte, 1024)
				for {
					if _, err := ours.Read(b); err != nil {
						return
					}
				}
			}()
			if err := privsep.NewConn(ours, nil).Send(kindSetup, []byte(tc.setup)); err != nil {
				t.Fatal(err)
			}
			if err := <-ended; err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("ended with %v, want %q", err, tc.want)
			}
		})
	}
}

// BenchmarkPolicy is a policy of a million entries on its way from main to being in force
// in a role that is a process of its own.
func BenchmarkPolicy(b *testing.B) {
	const entries = 1_000_000
	sets := make([]*policy.Set, 2)
	for n := range sets {
		var all policy.Prefixes
		for i := range uint32(entries) {
			var a [4]byte
			binary.BigEndian.PutUint32(a[:], 1<<28+i*2654435761>>3+uint32(n))
			all = append(all, netip.PrefixFrom(netip.AddrFrom4(a), 32))
		}
		p, err := policy.Build([]policy.List{{Name: "test", Entries: all}}, nil, policy.Options{})
		if err != nil {
			b.Fatal(err)
		}
		sets[n] = p.Block
	}
	g := newRoleRig(b)
	g.options.Starter = privsep.Exec()
	g.options.Config.Confinement.Paths = map[string]string{"SPOOL_DIR": g.options.Config.SpoolDir, "CA_FILE": ""}
	g.start(nil)
	g.isUp(1)
	taken := func(n int) { g.until("taken", func() bool { return g.said("policy taken") >= n }) }
	n := 0
	for b.Loop() {
		g.client.Policy(sets[n%2], nil)
		n++
		taken(n)
	}
	b.ReportMetric(float64(sets[0].Len()), "entries")
}

// A configuration that uploads cannot work with does not keep hits from being read and spooled.
func TestUploadsUnusable(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, tt := range []struct {
		name    string
		options Config
		want    string
	}{
		{"CA_FILE missing", Config{CAFile: filepath.Join(dir, "none")}, "no such file"},
		{"CA_FILE empty", Config{CAFile: file("empty", "", 0o600)}, "no PEM certificate"},
		{"CA_FILE without a certificate", Config{CAFile: file("garbage", "garbage", 0o600)}, "no PEM certificate"},
		{"CA_FILE that others can write", Config{CAFile: file("open", "", 0o666)}, "mode 0666"},
		{"no PROXY", Config{Proxy: "http://proxy.test:x y"}, "PROXY: is no URL"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newRoleRig(t)
			g.env.NewSender = nil
			g.options.Config.CAFile, g.options.Config.Proxy = tt.options.CAFile, tt.options.Proxy
			g.start(set(t, "test", "10.0.0.0/8"))
			g.troubled(TroubleUploads, tt.want)
			g.troubled(TroubleUploads, "rcctl reload threatstopd")
			g.until("capturing", func() bool { return g.status().Hits.Capturing })
			g.hit("10.0.0.1")
			c, err := status.Dial(context.Background(), g.socket)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.Sync(context.Background(), false, func(string, bool) {}); err != nil {
				t.Error(err)
			}
			if s := g.status(); s.Uploads.Spool.Lines == 0 || !strings.Contains(s.Uploads.Error, tt.want) {
				t.Errorf("uploads: %+v", s.Uploads)
			}
			if len(g.down) > 0 {
				t.Errorf("the role died: %q", g.down)
			}
		})
	}
}

// What is wrong with the spool reaches main; a reload has sent again what the server refused.
func TestTroublesAndRetry(t *testing.T) {
	g := newRoleRig(t)
	if err := os.WriteFile(filepath.Join(g.options.Config.SpoolDir, "core"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	g.start(set(t, "test", "10.0.0.0/8"))
	g.troubled(TroubleFiles, "core")
	g.logs.answer(&UploadError{Status: 400})
	g.hit("10.0.0.1")
	sync := func() {
		t.Helper()
		c, err := status.Dial(context.Background(), g.socket)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Sync(context.Background(), false, func(string, bool) {}); err != nil {
			t.Error(err)
		}
	}
	sync()
	g.until("refused", func() bool { return g.status().Uploads.Aside.Lines > 0 })
	g.logs.answer(nil)
	g.client.SetUp(g.options.Config)
	g.until("sent again", func() bool { return g.logs.count() > 0 && g.status().Uploads.Aside.Lines == 0 })
	if len(g.down) > 0 {
		t.Errorf("died: %q", g.down)
	}
}
