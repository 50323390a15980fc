package privsep

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// everyPath has something for every key of the table.
func everyPath() map[string]string {
	all := make(map[string]string)
	for _, r := range Roles {
		for _, p := range r.Unveil {
			if p.Key != "" {
				all[p.Key] = "/path/" + strings.ReplaceAll(p.Key, " ", "-")
			}
		}
	}
	return all
}

func TestPlan(t *testing.T) {
	here := map[string]string{
		PathConfig: "/etc/threatstop.conf", PathConfigDir: "/etc", PathProgram: "/usr/local/sbin/threatstopd", PathSocket: "/var/run/s", PathStatusSocket: "",
		"BLOCK_FILE": "/var/db/b", "ALLOW_FILE": "/var/db/a", "SPOOL_DIR": "/var/spool/t", "CA_FILE": "",
	}
	for _, tt := range []struct {
		name, role string
		c          Confinement
		want       []string
	}{
		{"main is root and stays it", "main", Confinement{UID: 77, GID: 78}, []string{
			"unveil /etc/threatstop.conf r", "unveil /etc r", "unveil /etc/resolv.conf r", "unveil /etc/unwind.conf r",
			"unveil /var/unbound/etc/unbound.conf r", "unveil /dev/log rw", "unveil /var/run/s c",
			"unveil /var/db/b rwc", "unveil /var/db/b.new rwc", "unveil /var/db/a rwc", "unveil /var/db/a.new rwc",
			"unveil /usr/local/sbin/threatstopd x", "unveil /usr/libexec/ld.so r", "unveil no more",
			"pledge stdio rpath wpath cpath pf unix route proc exec"}},
		{"servers by address", "fetch", Confinement{UID: 77, GID: 78, Memory: 1 << 30}, []string{
			"rlimit data 1073741824", "become 77:78", "unveil / nothing", "unveil no more", "pledge stdio inet"}},
		{"servers by name", "fetch", Confinement{Names: true}, []string{
			"unveil /etc/resolv.conf r", "unveil /etc/hosts r", "unveil no more", "pledge stdio inet rpath"}},
		{"reporting", "report", Confinement{Names: true, UID: 77, GID: 77}, []string{
			"become 77:77", "unveil /var/spool/t rwc", "unveil /etc/resolv.conf r", "unveil /etc/hosts r", "unveil no more",
			"pledge stdio inet unix rpath wpath cpath bpf"}},
		{"no promise fits", "states", Confinement{UID: 77, GID: 77}, []string{"rlimit nproc 0", "become 77:77", "unveil / nothing", "unveil no more"}},
		{"one-shot", "--read", Confinement{UID: 77, GID: 77}, []string{"unveil / nothing", "unveil no more", "pledge stdio"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.c.Paths = here
			got, err := Plan(tt.role, tt.c)
			if err != nil {
				t.Fatal(err)
			}
			want := append([]string{"rlimit core 0", "load the time zone"}, tt.want...)
			if !slices.Equal(got, want) {
				t.Errorf("got:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		})
	}
	for _, tt := range []struct {
		role  string
		paths map[string]string
		want  string
	}{
		{"init", nil, "confine init: no such role"},
		{"report", map[string]string{"CA_FILE": ""}, "confine report: path of SPOOL_DIR missing"},
		{"report", map[string]string{"CA_FILE": "", "SPOOL_DIR": "spool"}, "confine report: SPOOL_DIR: spool is not absolute"},
	} {
		if err := System().Confine(tt.role, Confinement{Paths: tt.paths}); err == nil || err.Error() != tt.want {
			t.Errorf("%s: %v, want %s", tt.role, err, tt.want)
		}
	}
}

// What the table says holds together.
func TestRoles(t *testing.T) {
	known := strings.Fields("stdio rpath wpath cpath pf unix route proc exec inet bpf")
	names := make(map[string]bool)
	for _, r := range Roles {
		if names[r.Name] {
			t.Errorf("%s twice", r.Name)
		}
		names[r.Name] = true
		if (r.Promises == "") == (r.Unpledged == "") {
			t.Errorf("%s: pledged and not, or neither", r.Name)
		}
		if !slices.Contains([]string{"root", "USER", "the caller"}, r.User) {
			t.Errorf("%s works as %s", r.Name, r.User)
		}
		if r.Can == "" {
			t.Errorf("%s: what can an attacker do?", r.Name)
		}
		for _, withNames := range []bool{false, true} {
			promises := strings.Fields(promised(r, withNames))
			for _, p := range promises {
				if !slices.Contains(known, p) {
					t.Errorf("%s promises %s", r.Name, p)
				}
			}
			seen, err := visible(r, Confinement{Paths: everyPath(), Names: withNames})
			if err != nil {
				t.Fatal(err)
			}
			if r.Promises == "" {
				continue
			}
			needs := map[rune]string{'r': "rpath", 'w': "wpath", 'c': "cpath", 'x': "exec"}
			for _, p := range seen {
				for _, permission := range p.Permissions {
					if p.Literal != "/dev/log" && !slices.Contains(promises, needs[permission]) {
						t.Errorf("%s sees %s for %c without the promise %s", r.Name, p.Literal, permission, needs[permission])
					}
				}
			}
			if slices.Contains(promises, "exec") {
				for _, needed := range []string{everyPath()[PathProgram] + " x", "/usr/libexec/ld.so r"} {
					if !slices.ContainsFunc(seen, func(p Path) bool { return p.Literal+" "+p.Permissions == needed }) {
						t.Errorf("%s executes, but does not see %s", r.Name, needed)
					}
				}
				if !slices.Contains(promises, "proc") || !slices.Contains(promises, "rpath") {
					t.Errorf("%s cannot execute with %v", r.Name, promises)
				}
			}
		}
	}
	for _, name := range []string{"main", "fetch", "report", "states", "--sync-now", "--dump-table", "--read", "--status", "-n", "--test", "--check"} {
		if !names[name] {
			t.Errorf("%s is not in the table", name)
		}
	}
}

func TestMemory(t *testing.T) {
	for entries, want := range map[int]uint64{-1: 256 << 20, 0: 256 << 20, 1_000_000: 256<<20 + 128_000_000, 20_000_000: 256<<20 + 2_560_000_000} {
		if got := Memory(entries); got != want {
			t.Errorf("%d entries: %d, want %d", entries, got, want)
		}
	}
}

// attempt is what a process tries when it is confined; nil: it succeeded.
type attempt struct {
	Role, Try   string
	Confinement Confinement
	Target      string // a host, a path
}

var attempts = map[string]func(target string) error{
	"read master.passwd": func(string) error { _, err := os.ReadFile("/etc/master.passwd"); return err },
	"read":               func(path string) error { _, err := os.ReadFile(path); return err },
	"write":              func(path string) error { return os.WriteFile(path, []byte("x"), 0o600) },
	"write and rename": func(path string) error {
		if err := os.WriteFile(path+tempSuffix, []byte("x"), 0o600); err != nil {
			return err
		}
		return os.Rename(path+tempSuffix, path)
	},
	"write elsewhere": func(string) error {
		path := filepath.Join("/tmp", fmt.Sprintf("threatstopd-test-%d", os.Getpid()))
		defer os.Remove(path)
		return os.WriteFile(path, nil, 0o600)
	},
	"remove": func(path string) error { return os.Remove(path) },
	"open pf": func(string) error {
		fd, err := syscall.Open("/dev/pf", syscall.O_RDWR, 0)
		if err == nil {
			syscall.Close(fd)
		}
		return err
	},
	"connect": func(addr string) error {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
		}
		return err
	},
	"connect to syslogd": func(string) error {
		c, err := net.Dial("unixgram", "/dev/log")
		if err == nil {
			c.Close()
		}
		return err
	},
	"listen": func(string) error {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err == nil {
			l.Close()
		}
		return err
	},
	"execute a shell": func(string) error {
		pid, err := syscall.ForkExec("/bin/sh", []string{"sh", "-c", "exit 0"}, nil)
		if err == nil {
			syscall.Wait4(pid, nil, 0, nil)
		}
		return err
	},
	"become a shell": func(string) error { return syscall.Exec("/bin/sh", []string{"sh", "-c", "exit 77"}, nil) },
	"start a role": func(program string) error {
		null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		c, err := (&execute{path: program, null: null}).Start("exits 0", nil)
		if err != nil {
			return err
		}
		defer c.Conn().Close()
		return c.Wait()
	},
	"kill another": func(string) error { return syscall.Kill(os.Getppid(), 0) },
	"be root":      func(string) error { return syscall.Setuid(0) },
	"more memory": func(string) error {
		return syscall.Setrlimit(syscall.RLIMIT_DATA, &syscall.Rlimit{Cur: 1 << 40, Max: 1 << 40})
	},
	"see more": func(string) error {
		if runtime.GOOS != "openbsd" {
			return errors.ErrUnsupported
		}
		return unveil("/", "r")
	},
	"nothing": func(string) error { return nil },
}

const kindAttempt = 16

func init() {
	bodies["confined"] = func(conn net.Conn, _ []*os.File) error {
		w := NewWorker(conn, Limits{kindAttempt: 64 << 10})
		var a attempt
		if err := w.Setup(kindAttempt, &a); err != nil {
			return err
		}
		if err := System().Confine(a.Role, a.Confinement); err != nil {
			return err
		}
		if err := w.Ready(); err != nil {
			return err
		}
		if err := w.Send(18, []byte(isConfined)); err != nil {
			return err
		}
		result := "done"
		if err := attempts[a.Try](a.Target); err != nil {
			result = "refused: " + err.Error()
		}
		if err := w.Send(18, []byte(result)); err != nil {
			return err
		}
		return nil
	}
}

// isConfined is sent before the attempt.
const isConfined = "confined"

// try has a process of a role, confined, try something, and returns what became of it:
// "done", "refused: …", or how the process ended.
func try(t *testing.T, a attempt) string {
	t.Helper()
	k := keep(t, Exec(), Job{Role: "confined", Once: true, Begin: func(c *Conn) error { return c.SendJSON(kindAttempt, a) }})
	// Its death may be known before that it was ready, but not before what it sent.
	result := "not confined: " + <-k.down
	for len(k.got) > 0 {
		switch got := strings.TrimPrefix(<-k.got, "18 "); got {
		case isConfined:
			result = strings.TrimPrefix(result, "not confined: ")
		default:
			result = got
		}
	}
	return result
}

// On OpenBSD, roles under their real confinement try what they may not, and die or are
// refused; and what they may, and succeed.
func TestConfined(t *testing.T) {
	if runtime.GOOS != "openbsd" {
		// What would be done is in TestPlan; that the attempts are real is shown here.
		t.Run("unconfined", func(t *testing.T) {
			dir := t.TempDir()
			for _, a := range []attempt{
				{Role: "fetch", Try: "nothing"},
				{Role: "fetch", Try: "execute a shell"},
				{Role: "fetch", Try: "listen"},
				{Role: "fetch", Try: "write and rename", Target: filepath.Join(dir, "x")},
				{Role: "fetch", Try: "start a role", Target: Program(Exec())},
			} {
				if got := try(t, a); got != "done" {
					t.Errorf("%s tries: %s: %s", a.Role, a.Try, got)
				}
			}
		})
		t.Skip("only OpenBSD has pledge(2) and unveil(2)")
	}
	if os.Getenv("THREATSTOP_INTEGRATION") != "1" {
		t.Skip("THREATSTOP_INTEGRATION=1 is not set")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	here := l.Addr().String()
	dir, err := os.MkdirTemp("", "threatstopd-test-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	spool := filepath.Join(dir, "spool")
	if err := os.Mkdir(spool, 0o700); err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(dir, "threatstop.conf")
	if err := os.WriteFile(conf, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c := Confinement{Names: true, Memory: Memory(1000), Paths: map[string]string{
		PathConfig: conf, PathConfigDir: dir, PathProgram: Program(Exec()), PathSocket: filepath.Join(dir, "s"), PathStatusSocket: "",
		"BLOCK_FILE": filepath.Join(dir, "block"), "ALLOW_FILE": filepath.Join(dir, "allow"), "SPOOL_DIR": spool, "CA_FILE": "",
	}}
	if os.Getuid() == 0 {
		u, err := user.Lookup("nobody")
		if err != nil {
			t.Fatal(err)
		}
		c.UID, _ = strconv.Atoi(u.Uid)
		c.GID, _ = strconv.Atoi(u.Gid)
		if err := os.Chmod(dir, 0o711); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(spool, c.UID, c.GID); err != nil {
			t.Fatal(err)
		}
	}
	addresses := c
	addresses.Names = false
	table := c.Paths["BLOCK_FILE"]
	for _, tt := range []struct {
		role  string
		c     Confinement
		tries []string // refused, or death
		may   []string // "attempt target"
	}{
		{"main", c,
			[]string{"read master.passwd", "open pf", "write elsewhere", "connect " + here, "listen", "execute a shell", "become a shell", "see more", "write " + conf},
			[]string{"nothing", "read " + conf, "read /etc/resolv.conf", "write and rename " + table, "connect to syslogd", "kill another", "start a role " + Program(Exec())}},
		{"fetch", addresses,
			[]string{"read master.passwd", "read /etc/resolv.conf", "open pf", "write elsewhere", "connect to syslogd", "execute a shell", "become a shell", "kill another", "be root", "more memory", "see more", "read " + conf},
			[]string{"nothing", "connect " + here}},
		{"fetch", c,
			[]string{"read master.passwd", "open pf", "write elsewhere", "connect to syslogd", "execute a shell", "become a shell", "kill another", "be root", "more memory", "see more", "write and rename " + table},
			[]string{"connect " + here, "read /etc/resolv.conf", "read /etc/hosts"}},
		{"report", c,
			[]string{"read master.passwd", "open pf", "write elsewhere", "execute a shell", "become a shell", "kill another", "be root", "more memory", "see more", "read " + conf, "write and rename " + table, "connect to syslogd"},
			[]string{"connect " + here, "write and rename " + filepath.Join(spool, "x"), "read /etc/resolv.conf"}},
		{"states", c,
			[]string{"read master.passwd", "read /etc/resolv.conf", "open pf", "write elsewhere", "execute a shell", "become a shell", "be root", "see more", "connect to syslogd"},
			[]string{"nothing"}},
		{"--read", c,
			[]string{"read master.passwd", "open pf", "write elsewhere", "connect " + here, "execute a shell", "kill another", "see more"},
			[]string{"nothing"}},
	} {
		for _, what := range append(slices.Clone(tt.tries), tt.may...) {
			allowed := slices.Contains(tt.may, what)
			a := attempt{Role: tt.role, Confinement: tt.c}
			for name := range attempts {
				if target, ok := strings.CutPrefix(what, name); ok && (target == "" || target[0] == ' ') && len(name) > len(a.Try) {
					a.Try, a.Target = name, strings.TrimPrefix(target, " ")
				}
			}
			if a.Try == "" {
				t.Fatalf("no attempt %q", what)
			}
			if a.Try == "be root" && os.Getuid() != 0 && tt.role == "states" {
				continue // the same without being confined
			}
			t.Run(tt.role+"/"+what, func(t *testing.T) {
				got := try(t, a)
				t.Log(got)
				switch {
				case strings.HasPrefix(got, "not confined"):
					t.Error(got)
				case allowed && got != "done":
					t.Errorf("what it may: %s", got)
				case !allowed && !strings.HasPrefix(got, "refused: ") && !strings.HasPrefix(got, "SIGABRT"):
					t.Errorf("what it may not: %s", got)
				}
			})
		}
	}
}
