package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/agent/internal/privsep"
	"example.org/threatstopd/capture/capturetest"
	"example.org/threatstopd/pfioctl"
	"example.org/threatstopd/pfioctl/pfsim"
)

// What a system without pledge(2) and unveil(2) lets happen is looked at from outside
// here: strace(1) sees what each process does, and the process says, by asking for files
// that cannot be, what it is confined to from now on. What it does then that it would
// die of on OpenBSD, or would not be given, is an error.

// marker begins the names of these files.
const marker = "/threatstopd-confined/"

// marking confines, and marks in the list of system calls what it confined to.
type marking struct{ privsep.Confiner }

func (m marking) Confine(role string, c privsep.Confinement) error {
	if err := m.Confiner.Confine(role, c); err != nil {
		return err
	}
	if runtime.GOOS != "linux" {
		return nil // where the confinement is real, it would be the end
	}
	plan, err := privsep.Plan(role, c)
	for _, step := range append(plan, "done "+role) {
		unix.Access(marker+step, unix.F_OK)
	}
	return err
}

// strictEnv names, for a process that this test starts, the daemon's socket: it is the
// program then, on a simulated kernel, with roles that are processes.
const strictEnv = "THREATSTOPD_STRICT_SOCKET"

// strictReads has such a process read the file that it names with all that it prints,
// which it may not.
const strictReads = "THREATSTOPD_STRICT_READS"

type reads struct{ io.Writer }

func (r reads) Write(p []byte) (int, error) {
	os.ReadFile(os.Getenv(strictReads))
	return r.Writer.Write(p)
}

// simulated opens a kernel of this process's own.
func simulated() (*pfioctl.PF, error) {
	kernel := pfsim.New(pfsim.Options{Now: time.Now})
	return kernel.OpenPF(), nil
}

// strictMain is such a process's life.
func strictMain(env Env) {
	kernel := pfsim.New(pfsim.Options{Now: time.Now})
	kernel.SetRunning(true)
	if err := kernel.LoadRules(pfsim.Ruleset{
		Tables: []pfsim.TableLine{{Table: blockTable, Flags: pfioctl.TablePersist}, {Table: allowTable, Flags: pfioctl.TablePersist}},
		Rules:  blockRules(blockTable.Name),
	}); err != nil {
		panic(err)
	}
	if err := kernel.LoadFile(blockTable, pfioctl.TablePersist, strings.NewReader("10.0.0.1\n")); err != nil {
		panic(err)
	}
	env.OpenPF = func() (*pfioctl.PF, error) { return kernel.OpenPF(), nil }
	env.Host = func() (policy.Facts, error) {
		return policy.Facts{Interfaces: []policy.Interface{{Name: "em0", Addresses: []netip.Prefix{netip.MustParsePrefix("198.18.0.1/24")}}}}, nil
	}
	env.Socket, env.StatusSocket = os.Getenv(strictEnv), ""
	env.CrashFile = env.Socket + ".crash"
	env.Roles = privsep.Exec()
	if os.Getenv(strictReads) != "" {
		env.Stdout = reads{env.Stdout}
	}
	os.Exit(Run(context.Background(), os.Args[1:], env))
}

// traced is a command under strace.
type traced struct {
	*exec.Cmd
	out  lockedBuffer
	log  string
	done chan struct{} // closed when strace has ended
	err  error
}

// trace starts threatstopd under strace. The test t, which may be a subtest, is skipped where there is none.
func (h *daemonHost) trace(t *testing.T, args ...string) *traced {
	t.Helper()
	path, err := exec.LookPath("strace")
	if err != nil || runtime.GOOS != "linux" {
		t.Skip("no strace(1)")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	x := &traced{log: filepath.Join(t.TempDir(), "trace"), done: make(chan struct{})}
	const calls = "%file,socket,connect,bind,listen,accept,accept4,ioctl,execve,setsockopt,clone,clone3,fork,vfork,kill"
	x.Cmd = exec.Command(path, append([]string{"-f", "-y", "--seccomp-bpf", "-s", "400", "-o", x.log, "-e", "trace=" + calls, "--", self}, args...)...)
	x.Dir = h.dir
	// Go's signals to its own threads, a hundred a second, would each stop strace.
	x.Env = append(os.Environ(), strictEnv+"="+h.socket, "GODEBUG=asyncpreemptoff=1", "GORACE=atexit_sleep_ms=0")
	x.Stdout, x.Stderr = &x.out, &x.out
	x.SysProcAttr, x.WaitDelay = &syscall.SysProcAttr{Setpgid: true}, time.Second
	if err := x.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(x.done)
		x.err = x.Wait()
	}()
	t.Cleanup(x.kill)
	return x
}

// kill ends strace and what it traces, if that has not ended.
func (x *traced) kill() {
	select {
	case <-x.done:
	default:
		syscall.Kill(-x.Process.Pid, syscall.SIGKILL)
		<-x.done
	}
}

// end waits for the end, and returns what the processes did.
func (x *traced) end(t *testing.T) *strict {
	t.Helper()
	select {
	case <-x.done:
	case <-time.After(time.Minute):
		x.kill()
		t.Errorf("does not end; said:\n%s", x.out.String())
	}
	text, err := os.ReadFile(x.log)
	if err != nil || !bytes.Contains(text, []byte("execve(")) {
		t.Skipf("strace cannot trace here: %v, %s", x.err, x.out.String())
	}
	return judge(t, string(text))
}

// strict is what was found.
type strict struct {
	clones map[int]clone
	procs  map[int]*proc // by thread
	all    []*proc
	wrong  []string
}

type clone struct {
	by     int
	thread bool
}

// proc is one process.
type proc struct {
	name     string
	pid      int
	confined bool
	promises []string // nil: not pledged
	sees     map[string]string
	calls    int // after confinement
}

var (
	threadLine = regexp.MustCompile(`^(\d+) +(.*)$`)
	resumed    = regexp.MustCompile(`^<\.\.\. \w+ resumed>(.*)$`)
	call       = regexp.MustCompile(`^(\w+)\((.*)\) += (-?\d+|\?)`)
	quoted     = regexp.MustCompile(`"((?:[^"\\]|\\.)*)"`)
	directory  = regexp.MustCompile(`^(?:AT_FDCWD|\d+)<([^>]*)>$`)
)

// judge reads the list of system calls.
func judge(t *testing.T, text string) *strict {
	t.Helper()
	s := &strict{clones: make(map[int]clone), procs: make(map[int]*proc)}
	type event struct {
		tid        int
		name, args string
		result     int
	}
	var events []event
	pending := make(map[int]string)
	for _, line := range strings.Split(text, "\n") {
		m := threadLine.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		tid, _ := strconv.Atoi(m[1])
		rest := m[2]
		if before, ok := strings.CutSuffix(rest, " <unfinished ...>"); ok {
			pending[tid] = before
			continue
		}
		if r := resumed.FindStringSubmatch(rest); r != nil {
			rest = pending[tid] + r[1]
			delete(pending, tid)
		}
		c := call.FindStringSubmatch(rest)
		if c == nil {
			continue // an end, a signal
		}
		e := event{tid: tid, name: c[1], args: c[2]}
		e.result, _ = strconv.Atoi(c[3])
		switch e.name {
		case "clone", "clone3", "fork", "vfork":
			if e.result > 0 {
				s.clones[e.result] = clone{tid, strings.Contains(e.args, "CLONE_THREAD")}
			}
		}
		events = append(events, e)
	}
	for _, e := range events {
		p := s.proc(e.tid)
		if m := quoted.FindStringSubmatch(e.args); m != nil && strings.HasPrefix(m[1], marker) {
			p.mark(strings.TrimPrefix(m[1], marker))
			continue
		}
		if p.confined {
			p.calls++
			if why := p.allows(e.name, e.args); why != "" {
				s.wrong = append(s.wrong, fmt.Sprintf("%s: %s(%s) = %d: %s", p.name, e.name, e.args, e.result, why))
			}
		}
		if e.name == "execve" && e.result == 0 {
			// Nothing of a confinement is left then.
			*p = proc{name: p.name, pid: p.pid}
			if _, argv, ok := strings.Cut(e.args, `", [`); ok {
				if m := quoted.FindStringSubmatch(argv); m != nil {
					p.name = m[1]
				}
			}
		}
	}
	return s
}

// proc returns the process that a thread belongs to.
func (s *strict) proc(tid int) *proc {
	if p := s.procs[tid]; p != nil {
		return p
	}
	p := &proc{pid: tid}
	if c, ok := s.clones[tid]; ok {
		by := s.proc(c.by)
		if c.thread {
			s.procs[tid] = by
			return by
		}
		*p = *by
		p.pid, p.calls = tid, 0
	}
	s.procs[tid] = p
	s.all = append(s.all, p)
	return p
}

// mark takes a step of the confinement.
func (p *proc) mark(step string) {
	what, arg, _ := strings.Cut(step, " ")
	switch what {
	case "pledge":
		p.promises = strings.Fields(arg)
	case "unveil":
		if p.sees == nil {
			p.sees = make(map[string]string)
		}
		if i := strings.LastIndexByte(arg, ' '); i > 0 && arg != "no more" && arg != "/ nothing" {
			p.sees[arg[:i]] = arg[i+1:]
		}
	case "done":
		p.confined = true
		p.name = arg
	}
}

// promised says what is missing among the promises, "" for nothing.
func (p *proc) promised(any ...string) string {
	if p.promises == nil {
		return ""
	}
	for _, one := range any {
		if slices.Contains(p.promises, one) {
			return ""
		}
	}
	return "not promised: " + strings.Join(any, " or ")
}

// visible says whether a path may be used like this, "" if so. No permission: it is
// enough to see it.
func (p *proc) visible(path, permissions string) string {
	if p.sees == nil {
		return "" // unveil(2) was not called
	}
	path = filepath.Clean(path)
	best, has := -1, ""
	for at, x := range p.sees {
		if (path == at || strings.HasPrefix(path, strings.TrimSuffix(at, "/")+"/")) && len(at) > best {
			best, has = len(at), x
		}
	}
	if best < 0 {
		return "not unveiled: " + path
	}
	for _, x := range permissions {
		if !strings.ContainsRune(has, x) {
			return fmt.Sprintf("unveiled as %q, not for %q: %s", has, permissions, path)
		}
	}
	return ""
}

func first(problems ...string) string {
	for _, p := range problems {
		if p != "" {
			return p
		}
	}
	return ""
}

// socketOptions are those that Go's net package sets, and that confined processes therefore use. OpenBSD's
// pledge(2) allows each of them with the promise that the socket itself needs ("inet" or "unix"), and
// from 8.0 on it also compares the level with the socket's family: IPPROTO_IPV6 is used on IPv6 sockets
// alone. Options of Linux alone are marked: Go has no such options on OpenBSD.
var socketOptions = []struct{ level, name, family string }{
	{"SOL_SOCKET", "SO_REUSEADDR", ""}, // listeners
	{"SOL_SOCKET", "SO_BROADCAST", ""}, // UDP, unix datagrams
	{"SOL_SOCKET", "SO_KEEPALIVE", ""},
	{"SOL_SOCKET", "SO_SNDBUF", ""}, // socketpairs of privsep
	{"SOL_SOCKET", "SO_RCVBUF", ""},
	{"SOL_TCP", "TCP_NODELAY", ""},
	{"SOL_IPV6", "IPV6_V6ONLY", "TCPv6"},
	{"SOL_IPV6", "IPV6_V6ONLY", "UDPv6"},
	{"SOL_TCP", "TCP_KEEPIDLE", ""},  // Linux
	{"SOL_TCP", "TCP_KEEPINTVL", ""}, // Linux
	{"SOL_TCP", "TCP_KEEPCNT", ""},   // Linux
}

// allows says why a call is not allowed, "" if it is.
func (p *proc) allows(name, args string) string {
	paths := pathsOf(args)
	each := func(permissions string) string {
		for _, path := range paths {
			if why := p.visible(path, permissions); why != "" {
				return why
			}
		}
		return ""
	}
	switch name {
	case "open", "openat", "openat2", "creat":
		read, write := !strings.Contains(args, "O_WRONLY"), strings.Contains(args, "O_WRONLY") || strings.Contains(args, "O_RDWR")
		why := ""
		if read {
			why = first(p.promised("rpath"), each("r"))
		}
		if write {
			why = first(why, p.promised("wpath"), each("w"))
		}
		if strings.Contains(args, "O_CREAT") {
			why = first(why, p.promised("cpath"), each("c"))
		}
		return why
	case "stat", "lstat", "newfstatat", "fstatat64", "statx", "access", "faccessat", "faccessat2", "readlink", "readlinkat", "statfs", "chdir":
		if len(paths) == 0 {
			return "" // of a descriptor
		}
		return first(p.promised("rpath"), each(""))
	case "getcwd":
		return ""
	case "unlink", "unlinkat", "rename", "renameat", "renameat2", "mkdir", "mkdirat", "rmdir", "symlink", "symlinkat", "link", "linkat":
		return first(p.promised("cpath"), each("c"))
	case "socket":
		switch {
		case strings.HasPrefix(args, "AF_INET"):
			return p.promised("inet")
		case strings.HasPrefix(args, "AF_UNIX"):
			return p.promised("unix")
		case strings.HasPrefix(args, "AF_NETLINK"): // as sysctl(2) of the routing table
			return p.promised("route")
		}
	case "setsockopt":
		for _, o := range socketOptions {
			if strings.Contains(args, ", "+o.level+", "+o.name+", ") && (o.family == "" || strings.Contains(args, "<"+o.family)) {
				return ""
			}
		}
		return "not a known socket option"
	case "connect", "bind", "listen", "accept", "accept4":
		switch {
		case strings.Contains(args, "sun_path=") && name == "connect":
			return first(p.promised("unix"), each("w"))
		case strings.Contains(args, "sun_path=") && name == "bind":
			return first(p.promised("unix"), each("c"))
		case strings.Contains(args, "AF_NETLINK"):
			return p.promised("route")
		}
		return p.promised("inet", "unix")
	case "ioctl":
		if strings.Contains(args, "TCGETS") { // isatty(3)
			return ""
		}
	case "execve":
		return first(p.promised("exec"), p.visible(paths[0], "x"))
	case "clone", "clone3", "fork", "vfork":
		if strings.Contains(args, "CLONE_THREAD") {
			return ""
		}
		return p.promised("proc")
	case "kill":
		if strings.HasPrefix(args, strconv.Itoa(p.pid)+",") {
			return ""
		}
		return p.promised("proc")
	}
	return "in no promise"
}

// pathsOf are the paths in the arguments of a call, made absolute where the directory is
// reported.
func pathsOf(args string) []string {
	var all []string
	dir := ""
	if name, _, ok := strings.Cut(args, `["`); ok && strings.HasPrefix(args, `"`) {
		args = name // of execve: the path, without the arguments
	}
	for _, arg := range strings.Split(args, ", ") {
		if m := directory.FindStringSubmatch(arg); m != nil {
			dir = m[1]
			continue
		}
		m := quoted.FindStringSubmatch(arg)
		if m == nil || m[1] == "" {
			continue
		}
		path := m[1]
		if !filepath.IsAbs(path) {
			path = filepath.Join(dir, path)
		}
		all = append(all, path)
	}
	return all
}

// verify fails the test where there is something wrong, or where one of the roles was not
// seen confined.
func (s *strict) verify(t *testing.T, roles ...string) {
	t.Helper()
	for _, w := range s.wrong {
		t.Error(w)
	}
	for _, role := range roles {
		if !slices.ContainsFunc(s.all, func(p *proc) bool { return p.confined && p.name == role }) {
			t.Errorf("no process was confined as %s", role)
		}
	}
}

// The judge finds what is to be found.
func TestStrictJudge(t *testing.T) {
	const confined = `7 execve("/x/threatstopd", ["/x/threatstopd"], 0x1) = 0
7 openat(AT_FDCWD</>, "/etc/master.passwd", O_RDONLY) = 3</etc/master.passwd>
7 access("/threatstopd-confined/pledge stdio rpath inet", F_OK) = -1 ENOENT
7 access("/threatstopd-confined/unveil /etc/hosts r", F_OK) = -1 ENOENT
7 access("/threatstopd-confined/unveil /spool rwc", F_OK) = -1 ENOENT
7 access("/threatstopd-confined/unveil no more", F_OK) = -1 ENOENT
7 access("/threatstopd-confined/done fetch", F_OK) = -1 ENOENT
`
	for name, tt := range map[string]struct{ calls, want string }{
		"what it may":           {`7 openat(AT_FDCWD</>, "/etc/hosts", O_RDONLY|O_CLOEXEC) = 3</etc/hosts>`, ""},
		"relative":              {`7 openat(AT_FDCWD</etc>, "hosts", O_RDONLY|O_CLOEXEC) = 3</etc/hosts>`, ""},
		"another file":          {`7 openat(AT_FDCWD</>, "/etc/passwd", O_RDONLY|O_CLOEXEC) = 3</etc/passwd>`, "not unveiled: /etc/passwd"},
		"a name that is longer": {`7 openat(AT_FDCWD</>, "/etc/hosts.equiv", O_RDONLY) = 3</etc/hosts.equiv>`, "not unveiled: /etc/hosts.equiv"},
		"through a directory":   {`7 openat(5</spool>, "../etc/passwd", O_RDONLY) = 3</etc/passwd>`, "not unveiled: /etc/passwd"},
		"writing":               {`7 openat(AT_FDCWD</>, "/spool/x", O_WRONLY) = 3</spool/x>`, "not promised: wpath"},
		"removing":              {`7 unlinkat(AT_FDCWD</>, "/spool/x", 0) = 0`, "not promised: cpath"},
		"inet":                  {`7 socket(AF_INET6, SOCK_STREAM|SOCK_CLOEXEC, IPPROTO_IP) = 3<TCPv6:[1]>`, ""},
		"unix":                  {`7 socket(AF_UNIX, SOCK_STREAM, 0) = 3<UNIX-STREAM:[1]>`, "not promised: unix"},
		"raw":                   {`7 socket(AF_PACKET, SOCK_RAW, 0) = 3<PACKET:[1]>`, "in no promise"},
		"ioctl":                 {`7 ioctl(3</dev/x>, _IOC(_IOC_READ, 0x44, 1, 1), 0x1) = 0`, "in no promise"},
		"a socket option":       {`7 setsockopt(3<TCP:[1]>, SOL_TCP, TCP_NODELAY, [1], 4) = 0`, ""},
		"of IPv6 on IPv4":       {`7 setsockopt(3<TCP:[1]>, SOL_IPV6, IPV6_V6ONLY, [1], 4) = 0`, "not a known socket option"},
		"another option":        {`7 setsockopt(3<TCP:[1]>, SOL_IP, IP_TOS, [1], 4) = 0`, "not a known socket option"},
		"a terminal?":           {`7 ioctl(1</dev/null>, TCGETS, 0x1) = -1 ENOTTY`, ""},
		"a thread":              {`7 clone(child_stack=0x1, flags=CLONE_VM|CLONE_THREAD) = 8`, ""},
		"of a thread": {`7 clone(child_stack=0x1, flags=CLONE_VM|CLONE_THREAD <unfinished ...>
8 openat(AT_FDCWD</>, "/etc/passwd", O_RDONLY <unfinished ...>
7 <... clone resumed>) = 8
8 <... openat resumed>) = 3</etc/passwd>`, "not unveiled: /etc/passwd"},
		"a process":      {`7 clone(child_stack=NULL, flags=CLONE_VM|CLONE_VFORK|SIGCHLD) = 8`, "not promised: proc"},
		"another's exec": {`7 execve("/bin/sh", ["sh"], 0x1) = -1 EACCES`, "not promised: exec"},
		"a signal":       {`7 kill(1, SIGTERM) = 0`, "not promised: proc"},
		"something else": {`7 chmod("/spool/x", 0777) = 0`, "in no promise"},
	} {
		t.Run(name, func(t *testing.T) {
			s := judge(t, confined+tt.calls+"\n")
			switch {
			case tt.want == "" && len(s.wrong) > 0, len(s.wrong) > 1:
				t.Errorf("found %q", s.wrong)
			case tt.want != "" && (len(s.wrong) == 0 || !strings.HasSuffix(s.wrong[0], ": "+tt.want)):
				t.Errorf("found %q, want %s", s.wrong, tt.want)
			}
		})
	}
	// After exec another program begins, unconfined.
	if s := judge(t, confined+"7 execve(\"/x/threatstopd\", [\"threatstopd: report\"], 0x1) = 0\n7 open(\"/etc/passwd\", O_RDONLY) = 3\n"); len(s.wrong) != 1 || s.all[0].name != "threatstopd: report" {
		t.Errorf("%q, %+v", s.wrong, s.all[0])
	}
}

// The daemon and its processes for a whole life: start, sync, configuration read again,
// hits, uploads, status, a role that dies, end.
func TestStrictDaemon(t *testing.T) {
	h := newDaemonHost(t)
	t.Chdir(h.dir)
	f, err := os.Create(filepath.Join(h.dir, "pflog"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w, err := capturetest.NewPcapWriter(f, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	pflogd := logs{w}
	h.conf["KILL_STATES"] = "yes"
	x := h.trace(t, "-d", "-v", "-f", h.writeConf())
	h.log = &x.out
	daemon := x.daemon(t, h)
	h.until("read", h.says("catch"))
	pflogd.log(t, "10.0.0.1")
	h.serve(blockList, "10.0.0.1", "10.0.0.77")
	expect(t, h.sync(0), "Table ThreatSTOP-Block: 1 added")
	h.until("delivered", func() bool { return len(h.collector.Receipts()) > 0 })
	h.until("killed", h.says("states killed"))

	h.conf["NEVER_BLOCK"] = "10.0.0.77"
	h.writeConf()
	signal := func(s syscall.Signal) {
		t.Helper()
		if err := syscall.Kill(daemon, s); err != nil {
			t.Fatal(err)
		}
	}
	signal(syscall.SIGHUP)
	h.until("read again", h.says("configuration read again"))
	h.until("enforced", func() bool { return strings.Count(h.log.String(), "policy enforced") >= 3 })
	signal(syscall.SIGUSR1)
	h.until("reported", h.says("status"))
	if _, stdout, stderr := h.run("--status"); !strings.Contains(stdout, "ThreatSTOP-Block") {
		t.Errorf("status %s%s", stdout, stderr)
	}
	pflogd.log(t, "10.0.0.1")
	h.until("read", func() bool {
		signal(syscall.SIGUSR1)
		time.Sleep(20 * time.Millisecond)
		return strings.Contains(h.log.String(), " seen=")
	})
	signal(syscall.SIGTERM)
	s := x.end(t)
	s.verify(t, "main", "fetch", "report", "states")
	if t.Failed() {
		t.Logf("the daemon said:\n%s", x.out.String())
	}
	if len(h.collector.Receipts()) != 2 {
		t.Errorf("%d batches delivered", len(h.collector.Receipts()))
	}
}

// daemon waits until the daemon has enforced a policy, and returns its process: strace's
// child.
func (x *traced) daemon(t *testing.T, h *daemonHost) int {
	t.Helper()
	h.until("enforced", func() bool {
		select {
		case <-x.done:
			x.end(t).verify(t)
			t.Fatalf("ended: %s", x.out.String())
		default:
		}
		return strings.Contains(x.out.String(), "policy enforced")
	})
	text, err := os.ReadFile(x.log)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.Fields(string(text))[0])
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// The commands, each of which prints something that needs all of it.
func TestStrictCommands(t *testing.T) {
	h := newDaemonHost(t)
	var file bytes.Buffer
	w, err := capturetest.NewPcapWriter(&file, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	logs{w}.log(t, "10.0.0.1")
	if err := os.WriteFile(filepath.Join(h.dir, "pflog"), file.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	// The daemon that --status asks is this test's.
	h.start()
	h.until("enforced", h.says("policy enforced"))
	conf := h.writeConf()
	for _, tt := range []struct {
		role, want string
		args       []string
	}{
		{"--help, --version", "threatstopd ", []string{"--version"}},
		{"--help, --version", "usage: ", []string{"--help"}},
		{"-n", "DNS_SERVERS", []string{"-n", "-f", conf}},
		{"--dump-table", "10.0.0.1", []string{"--dump-table", "-f", conf}},
		{"--dump-table", "10.0.0.1", []string{"--dump-table", "-v", "ThreatSTOP-Block"}},
		{"--read", "10.0.0.1.40000", []string{"--read", filepath.Join(h.dir, "pflog")}},
		{"--status", "ThreatSTOP-Block", []string{"--status"}},
		{"--check", "10.0.0.1 is blocked", []string{"--check", "10.0.0.1", "-f", conf}},
		{"--test", "log server", []string{"--test", "-f", conf, "10.0.0.1"}},
	} {
		t.Run(strings.Join(tt.args[:1], " "), func(t *testing.T) {
			x := h.trace(t, tt.args...)
			s := x.end(t)
			s.verify(t, tt.role)
			if !strings.Contains(x.out.String(), tt.want) {
				t.Errorf("said:\n%s", x.out.String())
			}
			if len(s.all) != 1 {
				t.Errorf("%d processes", len(s.all))
			}
		})
	}
}

// Without a daemon --sync-now does it, with a process that fetches.
func TestStrictSync(t *testing.T) {
	h := newDaemonHost(t)
	x := h.trace(t, "--sync-now", "-f", h.writeConf())
	x.end(t).verify(t, "--sync-now", "fetch")
	if !strings.Contains(x.out.String(), "Table ThreatSTOP-Block: ") {
		t.Errorf("said:\n%s", x.out.String())
	}
}

// What must not be is seen.
func TestStrictFinds(t *testing.T) {
	h := newDaemonHost(t)
	t.Setenv(strictReads, "/etc/hosts")
	s := h.trace(t, "--version").end(t)
	if len(s.wrong) != 1 || !strings.Contains(s.wrong[0], `"/etc/hosts"`) || !strings.HasSuffix(s.wrong[0], ": not promised: rpath") {
		t.Errorf("found %q", s.wrong)
	}
}
